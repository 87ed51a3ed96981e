//! State: sessions, the hub, outboxes, timers and counters. Never waits, spawns, locks, logs or
//! reads a clock: `now` is an argument.

pub mod metrics;

//! State: sessions, the hub, outboxes, timers and counters. Never waits, spawns, locks, logs or
//! reads a clock: `now` is an argument.

pub mod access;
pub mod account;
pub mod bearer;
pub mod browse;
pub mod bucket;
pub mod dedupe;
pub mod farewell;
pub mod history;
pub mod hub;
pub mod identity;
pub mod keyed;
pub mod latest;
pub mod metrics;
pub mod notice;
pub mod outbox;
pub mod pace;
pub mod policy;
pub mod prefix;
pub mod presence;
pub mod run;
pub mod session;
pub mod signals;
pub mod ticket;
pub mod token;
pub mod wheel;

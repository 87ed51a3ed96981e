//! Black-box tests: the real program, somebody else's client, one file for each behaviour.

mod access;
mod admin;
mod auth;
mod bad_tokens;
mod basics;
mod batch;
mod beside;
mod browser;
mod cli;
mod clock;
mod counts;
mod crash;
mod deflate;
mod drain;
mod durable;
mod fickle;
mod formats;
mod full_disk;
mod guesses;
mod handshake;
mod harness;
mod history;
mod hostile;
mod http;
mod kid;
mod large;
mod lifecycle;
mod limits;
mod listen;
mod memory;
mod mended;
mod outside;
mod overloaded;
mod pattern_rate;
mod pattern_snapshot;
mod patterns;
mod presence;
mod protocol;
mod proxies;
mod rate;
mod raw;
mod reload;
mod reload_auth;
mod reload_load;
mod resume;
mod secrets;
mod signals;
mod slow;
mod slow_bad;
mod slow_tokens;
mod smuggling;
mod spoken;
mod stalls;
mod starting;
mod threats;
mod tls;
#[path = "../support/tokens.rs"]
mod tokens;
mod unix;
mod was;
mod way;
#[path = "../support/window.rs"]
mod window;

#[path = "../../benches/shared/snapshot.rs"]
mod snapshot;

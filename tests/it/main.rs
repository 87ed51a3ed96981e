//! Black-box tests: the real program, somebody else's client, one file for each behaviour.

mod access;
mod auth;
mod basics;
mod batch;
mod browser;
mod cli;
mod deflate;
mod fickle;
mod formats;
mod handshake;
mod harness;
mod history;
mod http;
mod large;
mod lifecycle;
mod listen;
mod memory;
mod mended;
mod outside;
mod pattern_rate;
mod patterns;
mod presence;
mod protocol;
mod rate;
mod raw;
mod slow;
mod slow_bad;
mod spoken;
mod stalls;
mod threats;
#[path = "../support/tokens.rs"]
mod tokens;
mod was;
#[path = "../support/window.rs"]
mod window;

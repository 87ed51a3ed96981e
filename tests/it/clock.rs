//! The wall clock is set by an hour, forward and back, under a running gateway. Only the process
//! sees it: a library of a few lines stands before the C library's (tests/support/clock.c).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Gateway, scratch};
use crate::outside::skip;
use crate::raw::{Answer, Raw, handshake_request};
use crate::shim::shim;
use crate::tokens::{hs256, made, unix_s};

const HOUR: i64 = 3_600;

/// A wall clock that can be set.
struct Wall {
    file: File,
    path: PathBuf,
    shim: PathBuf,
}

impl Wall {
    /// `None` where there is no [`shim`].
    fn build() -> Option<Self> {
        let (path, shim) = (scratch(".offset"), shim("clock.c")?);
        fs::write(&path, 0_i64.to_ne_bytes()).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        Some(Self { file, path, shim })
    }

    /// Sets the gateway's clock to so many seconds before or behind this test's.
    fn set(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// A gateway that goes by it.
    fn gateway(&self, toml: &str) -> Gateway {
        let preload = format!(
            "export LD_PRELOAD='{}' CLOCK_OFFSET='{}'",
            self.shim.display(),
            self.path.display()
        );
        Gateway::under(&preload, toml)
    }
}

fn toml() -> String {
    let secret = scratch(".key");
    fs::write(&secret, made()["secret"].as_str().unwrap()).unwrap();
    format!(
        "[auth]\nhmac_secret_file = {secret:?}\n[http]\nping = \"20s\"\n\
         [defaults]\nhistory = 100\n"
    )
}

/// A token that ends in so many seconds by the machine's clock.
fn token(user: &str, seconds: i64) -> String {
    let ends = i64::try_from(unix_s()).unwrap() + seconds;
    hs256(&json!({"sub": user, "exp": ends}))
}

fn try_token(gateway: &Gateway, token: &str) -> Answer {
    let mut raw = Raw::open(gateway.addr);
    let request = handshake_request(gateway.addr, &[]);
    raw.send(request.replacen("/ws", &format!("/ws?token={token}"), 1).as_bytes());
    raw.answer()
}

/// Goal: nobody is sent away, and no token is taken behind its end. Method: steps of an hour, which
/// the times of events show; clients whose tokens end in between; tokens that end on either side.
#[test]
fn a_wall_clock_that_is_set_by_an_hour_sends_nobody_away_and_revives_no_token() {
    let Some(wall) = Wall::build() else {
        skip("no C compiler, or no C library to stand before");
        return;
    };
    let gateway = wall.gateway(&toml());
    let mut clients: Vec<_> = (0..20)
        .map(|n| {
            let token = token(&format!("u{n}"), if n % 2 == 0 { HOUR / 2 } else { 3 * HOUR });
            Client::connect_with(gateway.addr, &format!("?token={token}"), None)
        })
        .collect();
    for client in &mut clients {
        client.subscribe("room:1");
    }
    for offset in [HOUR, 0, -HOUR, 0] {
        wall.set(offset);
        let answer = gateway.post("/api/v1/publish", r#"{"channel":"room:2","data":1}"#);
        assert_eq!(answer.status, 200, "{}", answer.head);
        let history = gateway.get("/api/v1/channels/room:2/history").json();
        let ts = history["events"].as_array().unwrap().last().unwrap()["ts"].as_i64().unwrap();
        let shown = ts / 1_000 - i64::try_from(unix_s()).unwrap();
        assert!((shown - offset).abs() < 60, "the clock was set: {offset}, {shown}");

        // By the clock that is ahead one has ended; behind its end by the machine's none is good.
        let soon = try_token(&gateway, &token("a", HOUR / 2)).status;
        assert_eq!(soon, if offset == HOUR { 401 } else { 101 }, "{offset}");
        assert_eq!(try_token(&gateway, &token("b", 3 * HOUR)).status, 101, "{offset}");
        let ended = try_token(&gateway, &token("c", -HOUR / 2));
        assert_eq!(ended.error(401), "token_expired", "{offset}");
        // Some ticks of the gateway, in which it looks at everybody's time.
        std::thread::sleep(Duration::from_millis(500));
        for client in &mut clients {
            client.expect_nothing();
        }
    }
    let lost = gateway.metric("weir_connections_closed_total{code=\"40");
    assert!(lost < 0.5, "{lost} were sent away");
}

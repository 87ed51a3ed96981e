//! What others notice of an attack: health checks and events of a bystander, timed beside those of
//! a gateway on the same machine that nobody attacks. So a machine that does other things as well
//! fails nothing, and what the attack costs the others does.

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Gateway, now};

/// So many answers make a percentile: two may be as slow as the machine likes.
const SAMPLES_MIN: usize = 200;

/// Times of one thing, on the gateway that is attacked and on the one that is not.
#[derive(Default)]
struct Times {
    here: Vec<Duration>,
    there: Vec<Duration>,
}

impl Times {
    fn take(&mut self, here: impl FnOnce(), there: impl FnOnce()) {
        let begun = now();
        here();
        let between = now();
        there();
        self.here.push(between - begun);
        self.there.push(between.elapsed());
    }

    /// Fails where 99 of 100 took longer than they may.
    fn check(mut self, what: &str, limit: Duration) {
        let p99 = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[(times.len() - 1) * 99 / 100]
        };
        let (here, there) = (p99(&mut self.here), p99(&mut self.there));
        let count = self.here.len();
        eprintln!("{what}: p99 of {count} is {here:?}, and {there:?} where nobody attacks");
        assert!(here < limit + there, "{what}: p99 of {count} is {here:?}, beside {there:?}");
    }
}

/// Attacks a gateway, and asks meanwhile whether it is well: 99 of 100 health checks and events
/// take less than `limit` more than on a gateway that is left alone. What the attack gives.
pub(crate) fn unharmed<T: Send>(
    gateway: &Gateway,
    limit: Duration,
    attack: impl FnOnce() -> T + Send,
) -> T {
    let alone = Gateway::start();
    let mut clients = [gateway, &alone].map(|gateway| {
        let mut client = Client::connect(gateway);
        client.subscribe("beside:1");
        client
    });
    let (mut health, mut events) = (Times::default(), Times::default());
    let found = std::thread::scope(|scope| {
        let attack = scope.spawn(attack);
        while !is_over(&attack) || events.here.len() < SAMPLES_MIN {
            let healthy = |gateway: &Gateway| assert_eq!(gateway.get("/healthz").status, 200);
            health.take(|| healthy(gateway), || healthy(&alone));
            let [here, there] = &mut clients;
            events.take(|| round_trip(here), || round_trip(there));
        }
        attack.join()
    });
    let found = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    health.check("health checks", limit);
    events.check("events", limit);
    found
}

fn is_over<T>(attack: &ScopedJoinHandle<'_, T>) -> bool {
    attack.is_finished()
}

/// An event of a client to itself.
fn round_trip(client: &mut Client) {
    client.send(&json!({"type": "publish", "channel": "beside:1", "data": 1}));
    client.expect("event");
}

//! What others notice of an attack: health checks and events of a bystander, timed beside those of
//! a gateway on the same machine that nobody attacks. So a machine that does other things as well
//! fails nothing, and what the attack costs the others does.

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Gateway, now};

/// So many answers make a percentile: two may be as slow as the machine likes.
const SAMPLES_MIN: usize = 200;

/// What no answer may take, in limits of the percentile: one follows the other, so that a pause of
/// any length is one sample.
const LONGEST: u32 = 4;

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

    /// Fails where 99 of 100 took longer than they may, or one took four times as long.
    fn check(mut self, what: &str, limit: Duration) {
        let p99_and_longest = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            (times[(times.len() - 1) * 99 / 100], times[times.len() - 1])
        };
        let (here, longest_here) = p99_and_longest(&mut self.here);
        let (there, longest_there) = p99_and_longest(&mut self.there);
        let count = self.here.len();
        eprintln!(
            "{what}: p99 of {count} is {here:?}, the longest {longest_here:?}; {there:?} and \
             {longest_there:?} where nobody attacks"
        );
        assert!(here < limit + there, "{what}: p99 of {count} is {here:?}, beside {there:?}");
        assert!(
            longest_here < limit * LONGEST + longest_there,
            "{what}: the longest of {count} is {longest_here:?}, beside {longest_there:?}"
        );
    }
}

/// Attacks a gateway, and asks meanwhile whether it is well: 99 of 100 health checks and events
/// take less than `limit` more than on a gateway that is left alone, and each less than four times
/// that. What the attack gives.
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

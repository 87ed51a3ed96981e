//! A simulation of the pure core from a seed: shards over one store, connections that come, go,
//! stall and publish, and a model that says what each of them has a right to read.
//!
//! `WEIR_SIM_SEEDS` is how many seeds are run, 1,000 if it is not set; `WEIR_SIM_FROM` is the first of
//! them, 0 if it is not set: ten thousand others tell more than the same again. `WEIR_SIM_SEED` runs
//! one alone.
//! After a change to `core`, ten thousand: `WEIR_SIM_SEEDS=10000 cargo test --release --test sim`.

mod client;
mod connection;
mod ends;
mod finish;
mod last;
mod memory;
mod model;
mod net;
mod pattern;
mod shown;
mod spoken;
mod sub;
mod tally;
#[path = "../support/window.rs"]
mod window;
mod world;

use world::World;

/// Operations of one seed.
const STEPS: usize = 250;

/// Seeds of one run.
const SEEDS: u64 = 1_000;

/// Says how to run a seed again when it fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} fails; replay: WEIR_SIM_SEED={seed} cargo test --test sim");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Goal: whatever happens in whatever order, each client reads what it subscribed to, in order,
/// once, and is told of what it missed.
#[test]
fn nothing_is_lost_in_silence() {
    let seeds = match number("WEIR_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("WEIR_SIM_FROM").unwrap_or(0);
            first..first.saturating_add(number("WEIR_SIM_SEEDS").unwrap_or(SEEDS))
        }
    };
    let mut total = tally::Tally::default();
    let many = seeds.end - seeds.start > 99;
    for seed in seeds {
        let replay = Replay(seed);
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        total.add(world.finish());
        drop(replay);
    }
    println!("{total:?}");
    // A simulation in which nothing happens proves nothing.
    assert!(!many || total.complete(), "something never happened: {total:?}");
}

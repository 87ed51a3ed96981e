//! A program with a gateway inside: it serves WebSocket clients and publishes by itself.
//!
//! Run it with `cargo run --example embed`, and watch with `weir sub clock:ticks`.

#![expect(clippy::print_stdout, reason = "a program speaks to its user")]

use std::error::Error;
use std::time::Duration;

use weir::{ChannelName, Config, Gateway, Handle};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config { shards: 2, ..Config::default() };
    let gateway = Gateway::builder().config(config).build()?;
    for address in gateway.local_addrs() {
        println!("open http://{address}/");
    }

    let ticking = tick(gateway.handle());
    let stop = async {
        tokio::select! {
            result = tokio::signal::ctrl_c() => result.map_err(Into::into),
            result = ticking => result,
        }
    };
    let mut ended = Ok(());
    gateway.run_until(async { ended = stop.await }).await?;
    ended
}

/// Publishes a number every second. Fails only with the gateway.
async fn tick(handle: Handle) -> Result<(), Box<dyn Error>> {
    let channel: ChannelName = "clock:ticks".parse()?;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for count in 0_u64.. {
        seconds.tick().await;
        let data = format!("{{\"count\":{count}}}");
        handle.publish(&channel, Some("ticks"), data.into_bytes()).await?;
    }
    Ok(())
}

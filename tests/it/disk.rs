//! A disk that hangs, and what is told before it has answered. A library of a few lines stands before
//! the C library's and holds the gateway's syncs and reads (tests/support/disk.c).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::durable::{offset, settings};
use crate::harness::{Client, Gateway, scratch, wait_for};
use crate::outside::skip;
use crate::shim::shim;

/// What a disk does not do.
const SYNCS: i64 = 1;
const READS: i64 = 2;

/// A disk that can be held.
struct Disk {
    control: File,
    control_path: PathBuf,
    shim: PathBuf,
    file: PathBuf,
}

impl Disk {
    /// `None` where it cannot be made.
    fn build() -> Option<Self> {
        let Some(shim) = shim("disk.c") else {
            skip("no C compiler, or no C library to stand before");
            return None;
        };
        let control_path = scratch(".control");
        fs::write(&control_path, [0; 24]).unwrap();
        let control = OpenOptions::new().read(true).write(true).open(&control_path).unwrap();
        Some(Self { control, control_path, shim, file: scratch(".db") })
    }

    fn gateway(&self) -> Gateway {
        let preload = format!(
            "export LD_PRELOAD='{}' DISK_CONTROL='{}'",
            self.shim.display(),
            self.control_path.display()
        );
        Gateway::under(&preload, &settings(&self.file, ""))
    }

    /// From here on that does not return; nothing is held where it is 0.
    fn hold(&self, what: i64) {
        self.control.write_all_at(&what.to_ne_bytes(), 0).unwrap();
    }

    fn number(&self, place: u64) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 8 * place).unwrap();
        i64::from_ne_bytes(bytes)
    }

    /// How often something was synced.
    fn synced(&self) -> i64 {
        self.number(1)
    }

    fn until_held(&self) {
        wait_for("the disk to hang", || (self.number(2) > 0).then_some(()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.file.clone().into_os_string();
            name.push(suffix);
            fs::remove_file(name).ok();
        }
    }
}

fn publish(id: u64) -> Value {
    json!({"type": "publish", "channel": "log:1", "data": id, "id": id})
}

fn is_unavailable(answer: &Value) {
    assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("unavailable")));
    assert!(answer["retry_after_ms"].is_u64(), "{answer}");
}

/// Goal: the program commits with `synchronous = FULL`. Method: nobody hears of an event while the sync
/// of its commit has not returned, and each commit has one.
#[test]
fn nobody_hears_of_an_event_before_the_disk_has_it() {
    let Some(disk) = Disk::build() else { return };
    let gateway = disk.gateway();
    let (mut publisher, mut reader) = (Client::connect(&gateway), Client::connect(&gateway));
    reader.subscribe("log:1");
    let before = disk.synced();
    for n in 1..=20 {
        assert_eq!(offset(&publisher.ask(publish(n))), n);
        assert_eq!(offset(&reader.expect("event")), n);
    }
    assert!(disk.synced() - before >= 20, "{}", disk.synced() - before);
    disk.hold(SYNCS);
    publisher.send(&publish(21));
    disk.until_held();
    publisher.expect_nothing();
    reader.expect_nothing();
    assert_eq!(offset(&gateway.get("/api/v1/channels/log:1/history").json()), 20);
    disk.hold(0);
    assert_eq!(offset(&publisher.expect("published")), 21);
    assert_eq!(offset(&reader.expect("event")), 21);
}

/// Goal: a disk that hangs is a fault: whoever publishes or subscribes hears it and waits for nothing,
/// load balancers and operators see it, other channels go on. It is over when the disk answers.
#[test]
fn a_disk_that_hangs_is_a_fault_until_it_answers() {
    let Some(disk) = Disk::build() else { return };
    let gateway = disk.gateway();
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&gateway)).collect();
    let [first, second, third, plain] = &mut clients[..] else { unreachable!() };
    assert_eq!(offset(&first.ask(publish(1))), 1);
    disk.hold(SYNCS);
    // In the disk's hands, with a command behind it; behind that, in the queue; and for a channel.
    first.send(&publish(2));
    disk.until_held();
    first.send(&json!({"type": "history", "channel": "log:1", "id": 3}));
    second.send(&publish(4));
    third.send(&json!({"type": "subscribe", "channel": "log:2", "id": 5}));
    wait_for("the fault to be seen", || (gateway.get("/readyz").status == 503).then_some(()));
    is_unavailable(&second.expect("error"));
    is_unavailable(&third.expect("error"));
    assert!(gateway.metric("weir_store_up") < 0.5);
    let stats = gateway.get("/api/v1/stats").json();
    let fault = "the disk of store.path has not answered for 5 s";
    assert_eq!((&stats["store"]["fault"], &stats["store"]["up"]), (&json!(fault), &json!(false)));
    assert_eq!(gateway.log().matches(fault).count(), 1);
    is_unavailable(&second.ask(publish(6)));
    is_unavailable(&third.ask(json!({"type": "history", "channel": "log:2"})));
    assert_eq!(gateway.post("/api/v1/publish", r#"{"channel":"log:1","data":7}"#).status, 503);
    assert_eq!(gateway.get("/api/v1/channels/log:3/history").status, 503);
    assert_eq!(offset(&plain.publish("plain", &json!(1))), 1, "others go on");
    // What waits behind its client's own events does not wait for ever.
    let late = first.expect("error");
    assert_eq!(late["id"], 3);
    is_unavailable(&late);
    disk.hold(0);
    assert_eq!(offset(&first.expect("published")), 2, "it was on its way");
    wait_for("the node to be ready", || (gateway.get("/readyz").status == 200).then_some(()));
    assert!(gateway.metric("weir_store_up") > 0.5);
    assert_eq!(offset(&second.ask(publish(8))), 3, "what was refused has no place");
    assert_eq!(third.subscribe("log:2")["offset"], 0);
    assert_eq!(gateway.log().matches("answers again").count(), 1);
}

/// Goal: whoever waits for a channel that is being read hears in time that it does not come, and is
/// read again.
#[test]
fn whoever_waits_for_a_channel_is_answered_in_time() {
    let Some(disk) = Disk::build() else { return };
    let mut gateway = disk.gateway();
    let large = json!({"type": "publish", "channel": "log:1", "data": "x".repeat(60_000)});
    let mut client = Client::connect(&gateway);
    for n in 1..=20 {
        assert_eq!(offset(&client.ask(large.clone())), n);
    }
    gateway.signal(rustix::process::Signal::TERM);
    gateway.ended();
    let gateway = disk.gateway();
    let mut client = Client::connect(&gateway);
    disk.hold(READS);
    client.send(&json!({"type": "subscribe", "channel": "log:1", "id": 1}));
    disk.until_held();
    let late = client.expect("error");
    assert_eq!(late["id"], 1);
    is_unavailable(&late);
    assert_eq!(gateway.get("/readyz").status, 503, "it is a fault by then");
    client.expect_nothing();
    disk.hold(0);
    wait_for("the node to be ready", || (gateway.get("/readyz").status == 200).then_some(()));
    assert_eq!(offset(&client.subscribe("log:1")), 20);
}

//! A disk without room: durable channels are unavailable, the others go on, nothing that was told is
//! lost, and with room it comes back by itself.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};

use crate::durable::{offset, settings};
use crate::harness::{Client, Gateway, now, scratch, wait_for};
use crate::outside::skip;

/// An event of 50 kB, and the answer to it.
fn publish_large(client: &mut Client, number: u64) -> Value {
    let data = json!([number, "x".repeat(50_000)]);
    client.ask(json!({"type": "publish", "channel": "log:1", "data": data}))
}

/// Publishes such events until one is refused: how many were taken.
fn fill(gateway: &Gateway, client: &mut Client) -> u64 {
    let mut taken = 0;
    loop {
        let answer = publish_large(client, taken + 1);
        if answer["type"] != "published" {
            assert_eq!(answer["code"], "unavailable", "{answer}");
            assert!(answer["retry_after_ms"].is_u64(), "{answer}");
            break;
        }
        taken += 1;
        assert_eq!(offset(&answer), taken);
        assert!(taken < 1_000, "there is no limit");
    }
    assert!(taken > 10, "{taken}");
    assert_eq!(gateway.get("/readyz").status, 503);
    assert!(gateway.metric("weir_store_up") < 0.5);
    assert_eq!(offset(&client.publish("plain", &json!(1))), 1, "others go on");
    let over_http = gateway.post("/api/v1/publish", r#"{"channel":"log:2","data":3}"#);
    assert_eq!(over_http.status, 503, "{}", over_http.text());
    taken
}

/// While there is no room it does not come back, however often it looks: what has failed has made the
/// log longer, so that there is room for a little.
fn stays_away(gateway: &Gateway, client: &mut Client, taken: u64) {
    // It looks about four times by then; where the machine is slow, less often.
    const LONG: Duration = Duration::from_secs(2);
    let until = now() + LONG;
    wait_for("it to have looked some times", || {
        assert_eq!(gateway.get("/readyz").status, 503);
        assert!(gateway.metric("weir_store_up") < 0.5);
        let answer = publish_large(client, taken + 1);
        assert_eq!(answer["code"], "unavailable", "{answer}");
        (now() > until).then_some(())
    });
}

/// Goes on when there is room, behind what was taken.
fn goes_on(gateway: &Gateway, client: &mut Client, taken: u64) {
    wait_for("the node to be ready", || (gateway.get("/readyz").status == 200).then_some(()));
    assert!(gateway.metric("weir_store_up") > 0.5);
    let answer = publish_large(client, taken + 1);
    assert_eq!(offset(&answer), taken + 1, "there is room for it");
}

/// Everything that was told is there, and nothing else.
fn is_whole(gateway: &Gateway, upto: u64) {
    let mut client = Client::connect(gateway);
    let mut after = 0;
    let head = client.ask(json!({"type": "history", "channel": "log:1", "limit": 0}));
    assert_eq!(offset(&head), upto);
    while after < upto {
        let since = json!({"epoch": head["epoch"], "offset": after});
        let page = client.ask(json!({"type": "history", "channel": "log:1", "since": since}));
        let events = page["events"].as_array().unwrap();
        assert!(!events.is_empty(), "after {after}");
        for event in events {
            after += 1;
            assert_eq!((offset(event), &event["data"][0]), (after, &json!(after)));
        }
    }
}

/// Goal: the same everywhere, also where nobody may mount anything. Stands in for a full disk: a limit
/// of the size of files, which the system answers with an error on write as well.
#[test]
fn a_file_that_cannot_grow_is_unavailable_until_it_can() {
    let file = scratch(".db");
    let settings = settings(&file, "");
    let mut gateway = Gateway::under("trap '' XFSZ && ulimit -S -f 4096", &settings);
    let mut client = Client::connect(&gateway);
    let taken = fill(&gateway, &mut client);
    stays_away(&gateway, &mut client, taken);
    let none = Rlimit { current: None, maximum: None };
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    prlimit(pid, Resource::Fsize, none).unwrap();
    goes_on(&gateway, &mut client, taken);
    gateway.signal(Signal::KILL);
    gateway.ended();
    let gateway = Gateway::configured(&settings);
    is_whole(&gateway, taken + 1);
    drop(gateway);
    std::fs::remove_file(file).unwrap();
}

/// A file system of 8 MiB, of which 6 are in use. Seen by the processes that [`Small::enter`] begins.
struct Small {
    folder: PathBuf,
    holder: Child,
    /// It ends when that is closed.
    _stdin: ChildStdin,
    enter: &'static [&'static str],
}

impl Small {
    /// One, or why there is none.
    fn mount() -> Result<Self, String> {
        const SCRIPT: &str = "mount -t tmpfs -o size=8m weir \"$0\" && \
            head -c 6291456 /dev/zero >\"$0/ballast\" && echo ready && exec cat";
        const ROOT: (&str, &[&str]) = ("-m", &["-m"]);
        const ANYBODY: (&str, &[&str]) = ("-Urm", &["-U", "-m", "--preserve-credentials"]);
        let ways =
            if rustix::process::geteuid().is_root() { &[ROOT, ANYBODY][..] } else { &[ANYBODY] };
        let folder = scratch(".small");
        std::fs::create_dir(&folder).unwrap();
        let mut reasons = String::new();
        for (unshare, enter) in ways {
            let mut command = Command::new("unshare");
            command.args([unshare, "sh", "-c", SCRIPT]).arg(&folder);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut holder = match command.spawn() {
                Ok(holder) => holder,
                Err(error) => return Err(format!("unshare: {error}")),
            };
            let mut line = String::new();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line == "ready\n" {
                let stdin = holder.stdin.take().unwrap();
                return Ok(Self { folder, holder, _stdin: stdin, enter });
            }
            let output = holder.wait_with_output().unwrap();
            reasons += &String::from_utf8_lossy(&output.stderr);
        }
        std::fs::remove_dir(&folder).unwrap();
        Err(reasons)
    }

    /// Words before a command that is to see it.
    fn enter(&self) -> String {
        format!("nsenter {} -t {} --", self.enter.join(" "), self.holder.id())
    }

    fn start(&self, file: &Path) -> Gateway {
        Gateway::under(&format!("set -- {} \"$@\"", self.enter()), &settings(file, ""))
    }

    fn make_room(&self) {
        let remove = format!("{} rm \"$0/ballast\"", self.enter());
        let done = Command::new("sh").args(["-c", &remove]).arg(&self.folder).status().unwrap();
        assert!(done.success(), "{remove}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
        std::fs::remove_dir(&self.folder).ok();
    }
}

/// Goal: a real file system that is full.
#[test]
fn a_full_disk_is_unavailable_until_there_is_room() {
    let small = match Small::mount() {
        Ok(small) => small,
        Err(reason) => {
            skip(&format!("no file system of its own may be mounted here: {reason}"));
            return;
        }
    };
    let file = small.folder.join("weir.db");
    let mut gateway = small.start(&file);
    let mut client = Client::connect(&gateway);
    let taken = fill(&gateway, &mut client);
    stays_away(&gateway, &mut client, taken);
    assert!(!file.exists(), "it is on the small one");
    small.make_room();
    goes_on(&gateway, &mut client, taken);
    gateway.signal(Signal::KILL);
    gateway.ended();
    let gateway = small.start(&file);
    is_whole(&gateway, taken + 1);
}

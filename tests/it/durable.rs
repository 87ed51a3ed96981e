//! Durable channels: what was told survives a restart, a crash, and a disk that is away for a while.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, WEIR, finished, scratch, wait_for, weir};
use crate::raw::http;

/// A configuration whose durable channels are in this file.
pub(crate) fn settings(path: &Path, more: &str) -> String {
    let path = path.display();
    format!(
        "shards = 2\ndrain = \"0s\"\n[store]\nkind = \"sqlite\"\npath = \"{path}\"\n\
         [limits]\nmessage_bytes = \"4MiB\"\nqueue_bytes = \"8MiB\"\n\
         [defaults]\nrecovery_max_events = 100000\n\
         [[namespace]]\nname = \"log\"\ndurable = true\nhistory = 1000000\n\
         [[namespace]]\nname = \"dash\"\ndurable = true\nkeyed = true\npatterns = true\n{more}"
    )
}

/// A gateway on a file, which lives through several of them.
pub(crate) struct Durable {
    file: PathBuf,
    /// Settings of its own.
    more: String,
    gateway: Option<Gateway>,
}

impl Durable {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// One with more settings.
    pub(crate) fn with(more: &str) -> Self {
        let mut durable = Self { file: scratch(".db"), more: more.to_owned(), gateway: None };
        durable.again();
        durable
    }

    pub(crate) fn again(&mut self) {
        self.gateway = Some(Gateway::configured(&settings(&self.file, &self.more)));
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    /// Ends it as an operator does, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.again();
    }

    fn end(&mut self) {
        let mut gateway = self.gateway.take().unwrap();
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.ended().code(), Some(0));
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        let mut gateway = self.gateway.take().unwrap();
        gateway.signal(Signal::KILL);
        gateway.ended();
    }
}

/// The file may be large.
impl Drop for Durable {
    fn drop(&mut self) {
        self.gateway = None;
        for suffix in ["", "-wal", "-shm"] {
            let mut name = self.file.clone().into_os_string();
            name.push(suffix);
            std::fs::remove_file(name).ok();
        }
    }
}

pub(crate) fn offset(message: &Value) -> u64 {
    message["offset"].as_u64().unwrap()
}

pub(crate) fn epoch(message: &Value) -> String {
    message["epoch"].as_str().unwrap().to_owned()
}

/// Goal: a restart keeps a channel's epoch, offsets, history, latest values and ids, and whoever
/// comes back recovers across it.
#[test]
fn a_restart_keeps_what_was_told() {
    let mut durable = Durable::start();
    let mut client = Client::connect(durable.gateway());
    let first = client.publish("log:1", &json!({"n": 1}));
    assert_eq!(offset(&first), 1);
    let retry = json!({"type": "publish", "channel": "log:1", "data": 2, "message_id": "m"});
    assert_eq!(offset(&client.ask(retry.clone())), 2);
    for (key, data) in [("a", json!(1)), ("b", json!(2)), ("a", json!(3)), ("b", Value::Null)] {
        client.ask(json!({"type": "publish", "channel": "dash:1", "key": key, "data": data}));
    }
    durable.restart();
    let mut client = Client::connect(durable.gateway());
    let since = json!({"epoch": epoch(&first), "offset": 0});
    let begun = client.ask(json!({"type": "subscribe", "channel": "log:1", "since": since}));
    assert_eq!((&begun["recovered"], &begun["epoch"]), (&json!(true), &first["epoch"]));
    let (one, two) = (client.expect("event"), client.expect("event"));
    assert_eq!((&one["data"], &two["data"]), (&json!({"n": 1}), &json!(2)));
    assert!(one["from"]["client"].is_string(), "{one}");
    let again = client.ask(retry);
    assert_eq!((offset(&again), &again["duplicate"]), (2, &json!(true)));
    let live = json!({"type": "publish", "channel": "log:1", "data": 3, "id": 99});
    client.send(&live);
    let mut next = [client.next(), client.next()];
    next.sort_by_key(|message| message["type"].as_str().unwrap().to_owned());
    assert_eq!((offset(&next[0]), offset(&next[1])), (3, 3), "it goes on: {next:?}");
    let mut viewer = Client::connect(durable.gateway());
    viewer.subscribe("dash:1");
    let shown = viewer.expect("event");
    assert_eq!((&shown["data"], &shown["snapshot"]), (&json!(3), &json!(true)));
    viewer.expect_nothing();
    let history = viewer.ask(json!({"type": "history", "channel": "log:1"}));
    assert_eq!(history["events"].as_array().unwrap().len(), 3);
}

/// Goal: the same over HTTP: publishing, by line, reading what is not in memory yet.
#[test]
fn http_waits_for_the_disk_and_reads_what_is_there() {
    let mut durable = Durable::start();
    let body = r#"{"channel":"log:1","data":1}"#;
    let answer = durable.gateway().post("/api/v1/publish", body);
    assert_eq!(offset(&serde_json::from_str(&answer.text()).unwrap()), 1);
    let lines: String = (0..3_000)
        .map(|n| match n {
            7 => "{\n".to_owned(),
            _ => format!("{{\"channel\":\"log:{}\",\"key\":\"k\",\"data\":{n}}}\n", n % 2),
        })
        .collect();
    let headers = [("Content-Type", "application/x-ndjson")];
    let addr = durable.gateway().addr;
    let answer = http(addr, "POST", "/api/v1/publish", &headers, lines.as_bytes()).text();
    assert!(answer.contains("\"accepted\":2999") && answer.contains("\"line\":8"), "{answer}");
    assert!(durable.gateway().metric("weir_store_seconds_count") < 1_000.0, "they went together");
    durable.restart();
    let get = |path: &str| -> Value {
        serde_json::from_str(&durable.gateway().get(path).text()).unwrap()
    };
    let history = get("/api/v1/channels/log:1/history?limit=1000");
    let events = history["events"].as_array().unwrap();
    assert_eq!((offset(&history), events.len()), (1_500, 1_000));
    assert_eq!(events[999]["data"], 2_999, "in their order");
    assert_eq!(offset(&get("/api/v1/channels/dash:9/snapshot")), 0, "nobody has published there");
}

/// Goal: a pattern begins with the newest events of its durable channels, of those too that are on disk
/// alone, as all are after a restart; and so does a snapshot over HTTP.
#[test]
fn a_pattern_shows_what_is_on_disk() {
    let mut durable = Durable::start();
    let shown = |durable: &Durable| {
        let mut viewer = Client::connect(durable.gateway());
        viewer.ask(json!({"type": "subscribe", "channel": "dash:*"}));
        viewer.send(&json!({"type": "publish", "channel": "dash:end", "data": 0}));
        // Live events come behind what is shown, and this one has no key.
        let mut shown = BTreeSet::new();
        loop {
            let message = viewer.next();
            match (message["type"].as_str(), message["channel"].as_str()) {
                (Some("event"), Some("dash:end")) => return shown,
                (Some("event"), Some(channel)) => {
                    assert_eq!(message["snapshot"], true, "{message}");
                    shown.insert((channel.to_owned(), offset(&message)));
                }
                other => panic!("{other:?}: {message}"),
            }
        }
    };
    let mut client = Client::connect(durable.gateway());
    for (channel, key) in [("dash:1", "a"), ("dash:1", "b"), ("dash:1", "a"), ("dash:2", "a")] {
        client.ask(json!({"type": "publish", "channel": channel, "key": key, "data": 1}));
    }
    let one = [("dash:1".to_owned(), 2), ("dash:1".to_owned(), 3)];
    let both: BTreeSet<_> = one.iter().cloned().chain([("dash:2".to_owned(), 1)]).collect();
    assert_eq!(shown(&durable), both);
    durable.restart();
    assert_eq!(shown(&durable), both, "nobody has asked for them before");
    assert_eq!(shown(&durable), both);
    durable.restart();
    let page = durable.gateway().get("/api/v1/channels/dash:1/snapshot?limit=1").text();
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((offset(&page), &page["more"]), (3, &json!(true)), "{page}");
    assert_eq!(offset(&page["events"][0]), 2, "{page}");
    assert_eq!(shown(&durable), both, "with one of them in memory");
}

/// Goal: a client that pipelines gets its answers in the order of its publishes, its own commands see
/// what it published before, and patterns see durable channels as any other.
#[test]
fn a_pipeline_keeps_its_order() {
    const EVENTS: u64 = 3_000;
    let durable = Durable::start();
    let mut watcher = Client::connect(durable.gateway());
    watcher.subscribe("dash:*");
    let mut client = Client::connect(durable.gateway());
    for n in 1..=EVENTS {
        client.send(&json!({"type": "publish", "channel": "log:1", "data": n, "id": n}));
    }
    client.send(&json!({"type": "history", "channel": "log:1", "limit": 1, "id": EVENTS + 1}));
    client.send(&json!({"type": "subscribe", "channel": "log:1", "id": EVENTS + 2}));
    for n in 1..=EVENTS {
        let answer = client.expect("published");
        assert_eq!((&answer["id"], offset(&answer)), (&json!(n), n));
    }
    let history = client.expect("history");
    assert_eq!((offset(&history), &history["events"][0]["data"]), (EVENTS, &json!(EVENTS)));
    assert_eq!(offset(&client.expect("subscribed")), EVENTS);
    client.publish("dash:x", &json!(1));
    let event = watcher.expect("event");
    assert_eq!((&event["channel"], offset(&event)), (&json!("dash:x"), 1));
    // What waits behind a command in one frame waits with it.
    let batch = "{\"type\":\"publish\",\"channel\":\"log:2\",\"data\":1,\"id\":1}\n\
                 {\"type\":\"subscribe\",\"channel\":\"log:2\",\"id\":2}\n\
                 {\"type\":\"unsubscribe\",\"channel\":\"log:2\",\"id\":3}";
    client.send_text(batch);
    assert_eq!(offset(&client.expect("published")), 1);
    assert_eq!(offset(&client.expect("subscribed")), 1);
    client.expect("unsubscribed");
    client.expect_nothing();
}

/// Goal: large messages take the same way, and what stands behind them in their frame waits as well,
/// also for a channel that is not in memory.
#[test]
fn large_messages_wait_for_the_disk_too() {
    let mut durable = Durable::start();
    let mut client = Client::connect(durable.gateway());
    let (text, pad) = ("x".repeat(400_000), " ".repeat(300_000));
    let commands = format!(
        "{{\"type\":\"subscribe\",{pad}\"channel\":\"log:1\",\"id\":2}}\n\
         {{\"type\":\"history\",\"channel\":\"log:1\",\"limit\":0,\"id\":3}}\n\
         {{\"type\":\"ping\",\"id\":4}}"
    );
    let publish =
        format!("{{\"type\":\"publish\",\"channel\":\"log:1\",\"id\":1,\"data\":\"{text}\"}}\n");
    client.send_text(&format!("{publish}{commands}"));
    assert_eq!(offset(&client.expect("published")), 1);
    for _ in 0..2 {
        assert_eq!(offset(&client.expect("subscribed")), 1);
        assert_eq!(offset(&client.expect("history")), 1);
        assert_eq!(client.expect("pong")["id"], 4);
        durable.restart();
        client = Client::connect(durable.gateway());
        client.send_text(&commands);
    }
    let mut reader = Client::connect(durable.gateway());
    let history = reader.ask(json!({"type": "history", "channel": "log:1"}));
    assert_eq!(history["events"][0]["data"], text);
}

/// Goal: an event is nowhere before it is on disk: while the file cannot be written nobody is told of
/// any, the node says so, other channels go on, and it comes back by itself.
#[test]
fn a_locked_file_is_unavailable_until_it_is_not() {
    let durable = Durable::start();
    let gateway = durable.gateway();
    let mut reader = Client::connect(gateway);
    reader.subscribe("log:1");
    let mut client = Client::connect(gateway);
    assert_eq!(gateway.get("/readyz").status, 200);
    assert_eq!(offset(&client.publish("log:1", &json!(1))), 1);
    let holder = Connection::open(&durable.file).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let publish = json!({"type": "publish", "channel": "log:1", "data": 2});
    let refused = client.ask(publish.clone());
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("unavailable")));
    assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    let over_http = gateway.post("/api/v1/publish", r#"{"channel":"log:1","data":3}"#);
    assert_eq!(over_http.status, 503);
    assert!(over_http.text().contains("unavailable"), "{}", over_http.text());
    assert_eq!(gateway.get("/readyz").status, 503);
    assert_eq!(gateway.get("/healthz").status, 200);
    assert!(gateway.metric("weir_store_up") < 0.5);
    assert_eq!(offset(&client.publish("plain", &json!(1))), 1, "others go on");
    holder.execute_batch("COMMIT").unwrap();
    wait_for("the node to be ready", || (gateway.get("/readyz").status == 200).then_some(()));
    assert!(gateway.metric("weir_store_up") > 0.5);
    assert_eq!(offset(&client.ask(publish)), 2, "no offset was used up");
    assert_eq!(reader.expect("event")["data"], 1);
    assert_eq!(reader.expect("event")["data"], 2);
    reader.expect_nothing();
}

/// Goal: a channel whose rows cannot be read costs itself alone: not its neighbours in a body of lines,
/// not the node's readiness, and not a line in the log for each event. It comes back by itself.
#[test]
fn a_channel_that_cannot_be_read_costs_itself_alone() {
    let mut durable = Durable::start();
    let mut client = Client::connect(durable.gateway());
    client.publish("log:bad", &json!(1));
    client.publish("log:good", &json!(1));
    durable.end();
    let file = Connection::open(&durable.file).unwrap();
    let set_epoch = |text: &str| {
        let text = format!("UPDATE channels SET epoch = {text} WHERE name = 'log:bad'");
        assert_eq!(file.execute(&text, []).unwrap(), 1);
    };
    set_epoch("'!' || epoch");
    durable.again();
    let gateway = durable.gateway();
    let mut client = Client::connect(gateway);
    for _ in 0..50 {
        for kind in ["publish", "subscribe", "history"] {
            let refused = client.ask(json!({"type": kind, "channel": "log:bad", "data": 2}));
            assert_eq!(refused["code"], "unavailable", "{refused}");
            assert!(refused["message"].as_str().unwrap().contains("this channel"), "{refused}");
            assert!(refused["retry_after_ms"].is_u64(), "{refused}");
        }
    }
    let line = |channel: &str| format!("{{\"channel\":\"log:{channel}\",\"data\":2}}\n");
    let body = ["good", "bad", "good"].map(line).concat();
    let headers = [("Content-Type", "application/x-ndjson")];
    let answer = http(gateway.addr, "POST", "/api/v1/publish", &headers, body.as_bytes()).json();
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["line"]), (&json!(2), &json!(2)));
    assert_eq!(answer["rejected"][0]["code"], "unavailable", "{answer}");
    assert_eq!(gateway.get("/readyz").status, 200);
    assert!((gateway.metric("weir_store_faulty_channels") - 1.0).abs() < 0.1);
    assert_eq!(gateway.get("/api/v1/stats").json()["store"]["faulty_channels"], 1);
    let lines = || gateway.log().matches("a channel cannot be read from store.path").count();
    assert_eq!(lines(), 1, "{}", gateway.log());
    set_epoch("substr(epoch, 2)");
    let next = wait_for("the channel to be read", || {
        let answer = client.ask(json!({"type": "publish", "channel": "log:bad", "data": 2}));
        (answer["type"] == "published").then_some(answer)
    });
    assert_eq!((offset(&next), lines()), (2, 1), "it goes on");
    wait_for("it to be counted no more", || {
        (gateway.metric("weir_store_faulty_channels") < 0.5).then_some(())
    });
}

/// Goal: what cannot be kept is said at the start, in a sentence, with 1.
#[test]
fn a_start_that_cannot_be_is_a_sentence() {
    let refused = |toml: &str| -> String {
        let path = scratch(".toml");
        std::fs::write(&path, toml).unwrap();
        let config = path.to_str().unwrap();
        let output = finished(&mut weir(&["serve", "--listen", "127.0.0.1:0", "--config", config]));
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused("[[namespace]]\nname = \"a\"\ndurable = true\n");
    assert!(text.contains(":3: namespace.durable: is true, and the memory store"), "{text}");
    let text = refused("[defaults]\ndurable = true\n");
    assert!(text.contains(":2: defaults.durable: is true, and the memory store"), "{text}");
    let text = refused("[store]\nkind = \"oracle\"\n");
    assert!(text.contains("store.kind"), "{text}");
    let durable = Durable::start();
    let text = refused(&settings(&durable.file, ""));
    assert!(text.contains("another gateway uses this file"), "{text}");
    let file = scratch(".db");
    std::fs::write(&file, "not a database").unwrap();
    let text = refused(&settings(&file, ""));
    assert!(text.contains("this is no SQLite database"), "{text}");
    assert_eq!(std::fs::read(&file).unwrap(), b"not a database");
    let text = refused(&settings(Path::new("/nowhere/weir.db"), ""));
    assert!(text.contains("store.path /nowhere/weir.db: its folder does not exist"), "{text}");
}

/// Goal: a file that may not be written is refused; also to one who may write everything.
#[test]
fn a_file_that_may_only_be_read_is_a_sentence() {
    let (file, config) = (scratch(".db"), scratch(".toml"));
    Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 1").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::write(&config, settings(&file, "")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()];
    let output = if rustix::process::geteuid().is_root() {
        // Without the right to pass by the permissions of files.
        let without = ["--bounding-set=-dac_override", "--inh-caps=-dac_override", WEIR];
        finished(Command::new("setpriv").args(without).args(serve))
    } else {
        finished(&mut weir(&serve))
    };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the file cannot be written: Permission denied"), "{text}");
}

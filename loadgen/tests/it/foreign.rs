//! Servers that are not Weir, driven by templates: one that sends everything to everybody, one with
//! a hello, numbered answers and pings, and ones that do not answer as expected.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::relay::{Said, accept, send};
use crate::{Ran, run};

type Streams = HashMap<usize, TcpStream>;

/// Starts a server whose `speak` answers each text of client `id`; clients are in `streams`.
fn start(mut speak: impl FnMut(&mut Streams, usize, &str) + Send + 'static) -> String {
    let (url, heard) = accept();
    std::thread::spawn(move || {
        let mut streams = HashMap::new();
        while let Ok(said) = heard.recv() {
            match said {
                Said::Joined(id, stream) => drop(streams.insert(id, stream)),
                Said::Text(id, text) => speak(&mut streams, id, &text),
            }
        }
    });
    url
}

fn fanout(url: &str, extra: &[&str]) -> Ran {
    let short = [
        "fanout",
        "--verify",
        "-c",
        "5",
        "--rate",
        "200",
        "--warmup",
        "0.1",
        "--duration",
        "0.5",
        "--drain",
        "3",
        "--timeout",
        "2",
        "--late-max",
        "2000",
    ];
    run(&[short.as_slice(), extra, &[url]].concat())
}

/// Sends every text to everybody, but not the one that holds `but`.
fn broadcast(but: &'static str) -> String {
    start(move |streams, _, text| {
        if !text.contains(but) {
            let ids: Vec<usize> = streams.keys().copied().collect();
            for id in ids {
                send(streams, id, text);
            }
        }
    })
}

#[test]
fn a_broadcast_server_is_driven_and_verified() {
    let ran = fanout(&broadcast("no such text"), &["--publish-frame", "{payload}"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    assert!(ran.text.contains("latency"), "{}", ran.text);
    let own = r#"{"chat":{"ts":{ts},"seq":{seq}}}"#;
    let ran = fanout(&broadcast("no such text"), &["--publish-frame", own]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    let ran = fanout(&broadcast(r#""seq":5,"#), &["--publish-frame", "{payload}"]);
    assert_eq!(ran.code, 1, "{}", ran.text);
    assert!(ran.text.contains("offsets 5 to 5 neither came nor were told"), "{}", ran.text);
}

/// Sends every text to everybody, in two fragments.
fn fragments() -> String {
    start(|streams, _, text| {
        let (first, last) = text.split_at(text.len() / 2);
        let len = |part: &str| u8::try_from(part.len()).expect("short");
        let parts = [&[0x01, len(first)], first.as_bytes(), &[0x80, len(last)], last.as_bytes()];
        for stream in streams.values_mut() {
            // A client that has left is not told.
            stream.write_all(&parts.concat()).ok();
        }
    })
}

#[test]
fn messages_in_fragments_are_read() {
    let ran = fanout(&fragments(), &["--publish-frame", "{payload}"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
}

/// Sends every text to everybody, in two fragments with a ping between them, and the second one
/// only when the ping is answered.
fn interrupted() -> String {
    let mut waiting: HashMap<usize, VecDeque<String>> = HashMap::new();
    let len = |part: &str| u8::try_from(part.len()).expect("short");
    start(move |streams, id, text| {
        if text == "mid" {
            let whole = waiting.get_mut(&id).and_then(VecDeque::pop_front).expect("a ping");
            let last = &whole[whole.len() / 2..];
            let part = [&[0x80, len(last)], last.as_bytes()].concat();
            streams.get_mut(&id).map(|stream| stream.write_all(&part).ok());
        } else {
            for id in streams.keys() {
                waiting.entry(*id).or_default().push_back(text.to_owned());
            }
        }
        for (to, stream) in streams {
            let Some(texts) = waiting.get(to) else { continue };
            // The next one, once the one before it is whole.
            let is_next = if text == "mid" { *to == id } else { texts.len() == 1 };
            if let Some(next) = texts.front().filter(|_| is_next) {
                let first = &next[..next.len() / 2];
                let parts = [&[0x01, len(first)], first.as_bytes(), b"\x89\x03mid"].concat();
                stream.write_all(&parts).ok();
            }
        }
    })
}

#[test]
fn a_ping_between_fragments_is_answered_before_the_message_is_whole() {
    let ran = fanout(&interrupted(), &["--publish-frame", "{payload}"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
}

#[test]
fn a_payload_has_the_size_that_was_asked_for() {
    let url = start(|streams, _, text| {
        let (bytes, payload) = text.split_once(' ').expect("two parts");
        let right = bytes == "72" && payload.len() == 72;
        let ids: Vec<usize> = streams.keys().copied().collect();
        ids.into_iter().filter(|_| right).for_each(|id| send(streams, id, payload));
    });
    let ran = fanout(&url, &["--publish-frame", "{bytes} {payload}", "--size", "72"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
}

#[test]
fn slow_clients_of_another_server_are_driven() {
    let url = broadcast("no such text");
    let short = ["-c", "5", "--share", "0.2", "--warmup", "0.1", "--duration", "0.5"];
    let more = ["--rate", "200", "--size", "2000", "--drain", "3", "--late-max", "2000"];
    let last = ["--verify", "--publish-frame", "{payload}", &url];
    let ran = run(&[["slow"].as_slice(), &short, &more, &last].concat());
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("1 connections that stall"), "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
}

/// The number behind `"id":`.
fn id_of(text: &str) -> &str {
    let rest = text.split(r#""id":"#).nth(1).expect("an id");
    rest.split(|c: char| !c.is_ascii_digit()).next().expect("digits")
}

/// Speaks like Centrifugo's JSON protocol: commands with ids, events as pushes, pings that are
/// empty objects and must be answered: it sends those into `pongs`.
fn centrifugo(pongs: Sender<usize>) -> String {
    let mut channels: HashMap<String, Vec<usize>> = HashMap::new();
    start(move |streams, from, text| {
        if text == "{}" {
            pongs.send(from).ok();
            return;
        }
        let channel = text.split(r#""channel":""#).nth(1).and_then(|rest| rest.split('"').next());
        let channel = channel.unwrap_or_default().to_owned();
        if text.contains(r#""connect":"#) {
            send(streams, from, r#"{"id":1,"connect":{"client":"c"}}"#);
            send(streams, from, "{}");
        } else if text.contains(r#""subscribe":"#) {
            channels.entry(channel).or_default().push(from);
            send(streams, from, &format!(r#"{{"id":{},"subscribe":{{}}}}"#, id_of(text)));
        } else {
            let data = text.split(r#""data":"#).nth(1).expect("data").strip_suffix("}}");
            let data = data.expect("an end");
            let event = format!(r#"{{"push":{{"channel":"{channel}","pub":{{"data":{data}}}}}}}"#);
            for id in channels.get(&channel).into_iter().flatten() {
                send(streams, *id, &event);
            }
            let answer = format!(r#"{{"id":{},"publish":{{}}}}"#, id_of(text));
            send(streams, from, &answer);
        }
    })
}

const CENTRIFUGO: [&str; 12] = [
    "--hello-frame",
    r#"{"id":{id},"connect":{}}"#,
    "--subscribe-frame",
    r#"{"id":{id},"subscribe":{"channel":"{channel}"}}"#,
    "--expect",
    r#"{"id":{id},"subscribe""#,
    "--publish-frame",
    r#"{"id":{id},"publish":{"channel":"{channel}","data":{payload}}}"#,
    "--ping-text",
    "{}",
    "--pong-frame",
    "{}",
];

#[test]
fn commands_with_ids_and_pings_are_driven() {
    let extra = [CENTRIFUGO.as_slice(), &["--channels", "3", "--per-connection", "2"]].concat();
    let (pongs, answered) = channel();
    let ran = fanout(&centrifugo(pongs.clone()), &extra);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
    let mut all = BTreeSet::new();
    while all.len() < 5 {
        all.insert(answered.recv_timeout(Duration::from_secs(20)).expect("five answer their ping"));
    }
    let ran = run(&[
        "connect",
        "-c",
        "5",
        "--hello-frame",
        r#"{"id":1,"connect":{}}"#,
        "--expect",
        r#""connect""#,
        &centrifugo(pongs),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("5 ready of 5"), "{}", ran.text);
}

#[test]
fn publishes_that_another_server_acknowledges_are_an_echo() {
    let mut greeted = HashSet::new();
    let url = start(move |streams, from, text| {
        if text.contains(r#""connect":"#) {
            greeted.insert(from);
            send(streams, from, r#"{"id":0,"connect":{}}"#);
        } else if greeted.contains(&from) {
            send(streams, from, &format!(r#"{{"id":{},"publish":{{}}}}"#, id_of(text)));
        }
    });
    let hello = ["--hello-frame", r#"{"id":0,"connect":{}}"#, "--expect", r#""connect""#];
    let request = r#"{"id":{seq},"publish":{"channel":"a","data":{payload}}}"#;
    let echo = ["echo", "-c", "3", "--warmup", "0.1", "--duration", "0.3", "--late-max", "2000"];
    let frames = ["--request-frame", request, "--answer-mark", r#"{"id":"#, &url];
    let ran = run(&[echo.as_slice(), &hello, &frames].concat());
    assert_eq!(ran.code, 0, "{}", ran.text);
    // Without the hello nobody is let in.
    let ran = run(&[echo.as_slice(), &frames].concat());
    assert_eq!(ran.code, 2, "{}", ran.text);
}

#[test]
fn what_is_not_as_expected_is_shown() {
    let url = start(|streams, from, _| send(streams, from, "-ERR 'no'"));
    let extra = ["--subscribe-frame", "SUB", "--expect", "+OK", "--publish-frame", "{payload}"];
    let ran = fanout(&url, &extra);
    assert_eq!(ran.code, 3, "{}", ran.text);
    assert!(ran.text.contains(r#"it said last: "-ERR 'no'""#), "{}", ran.text);
    for extra in [["--publish-frame", "x"], ["--subscribe-frame", "x"], ["--ping-text", "x"]] {
        assert_eq!(fanout("ws://127.0.0.1:1/", &extra).code, 64, "{extra:?}");
    }
}

#[test]
fn keys_are_published_and_change_nothing() {
    let url = crate::relay::start(crate::relay::Sin::None);
    let ran = fanout(&url, &["--keys", "3", "--channels", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.text);
    assert!(ran.text.contains("0 violations"), "{}", ran.text);
}

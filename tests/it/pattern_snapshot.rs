//! Patterns of keyed channels: the newest event of each key comes first, and then every event, each
//! once and none missing, also while others publish.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, PATIENCE, now};

const KEYED: &str = "shards = 2\n[limits]\nqueue_events = 100000\nqueue_bytes = \"64MiB\"\n\
    [[namespace]]\nname = \"dash\"\nkeyed = true\npatterns = true\n\
    [[namespace]]\nname = \"plain\"\npatterns = true\n";

fn offset(message: &Value) -> u64 {
    message["offset"].as_u64().unwrap()
}

fn put(channel: &str, key: &str, data: &Value) -> Value {
    json!({"type": "publish", "channel": channel, "key": key, "data": data})
}

#[test]
fn every_channel_shows_its_newest_and_then_goes_on() {
    let gateway = Gateway::configured(KEYED);
    let mut publisher = Client::connect(&gateway);
    for (channel, key) in [("dash:1", "a"), ("dash:1", "b"), ("dash:1", "a"), ("dash:eu/2", "a")] {
        publisher.ask(put(channel, key, &json!(channel)));
    }
    publisher.ask(put("plain:1", "a", &json!(1)));
    let mut client = Client::connect(&gateway);
    client.subscribe("dash:*");
    let mut shown: Vec<_> = (0..3).map(|_| client.expect("event")).collect();
    shown.sort_by_key(|event| (event["channel"].to_string(), offset(event)));
    let at = |event: &Value| (event["channel"].as_str().unwrap().to_owned(), offset(event));
    let wanted = [("dash:1", 2), ("dash:1", 3), ("dash:eu/2", 1)];
    assert_eq!(shown.iter().map(at).collect::<Vec<_>>(), wanted.map(|(c, at)| (c.into(), at)));
    assert!(
        shown.iter().all(|event| event["snapshot"] == true && event["data"] == event["channel"])
    );
    publisher.ask(put("dash:eu/2", "a", &json!(5)));
    let live = client.expect("event");
    assert!(live["snapshot"].is_null() && offset(&live) == 2, "{live}");
    // What is there already is not shown again, nor what nobody asked for.
    client.subscribe("dash:eu/*");
    client.subscribe("dash:1");
    client.subscribe("dash:*");
    client.expect_nothing();
    let mut other = Client::connect(&gateway);
    other.subscribe("plain:*");
    other.ask(json!({"type": "subscribe", "channel": "dash:*", "snapshot": false}));
    other.expect_nothing();
    let mut third = Client::connect(&gateway);
    third.ask(json!({"type": "subscribe", "channel": "dash:1", "snapshot": false}));
    third.subscribe("dash:*");
    assert_eq!(at(&third.expect("event")), ("dash:eu/2".to_owned(), 2));
    third.expect_nothing();
}

/// Goal: publishers at full speed on many channels, and clients that come meanwhile: of each key
/// the client knows the newest in the end, offsets grow, and from the first live event of a channel
/// on there is no hole.
#[test]
fn nothing_is_missing_and_nothing_twice_beside_racing_publishers() {
    const CHANNELS: u64 = 12;
    const KEYS: u64 = 5;
    const PUBLISHERS: u64 = 2;
    let gateway = Gateway::configured(KEYED);
    let mut first = Client::connect(&gateway);
    for n in 0..CHANNELS * KEYS {
        first.ask(put(&format!("dash:{}", n % CHANNELS), &format!("k{}", n / CHANNELS), &json!(0)));
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for own in 0..PUBLISHERS {
            let (gateway, over) = (&gateway, &over);
            scope.spawn(move || {
                let mut publisher = Client::connect(gateway);
                let deadline = now() + 4 * PATIENCE;
                let mut rng = fastrand::Rng::with_seed(own);
                while !over.load(Ordering::SeqCst) && now() < deadline {
                    // Bursts, so that there is mail whenever somebody comes.
                    let lines = (0..10).map(|_| {
                        let (channel, key) = (rng.u64(0..CHANNELS), rng.u64(0..KEYS));
                        put(&format!("dash:{channel}"), &format!("k{key}"), &json!(1)).to_string()
                    });
                    publisher.send_text(&lines.collect::<Vec<_>>().join("\n"));
                    publisher.ask(json!({"type": "ping"}));
                }
            });
        }
        let mut clients = Vec::new();
        for visit in 0..6 {
            let mut client = Client::connect(&gateway);
            client.subscribe("dash:*");
            let mut seen = Seen::default();
            // Until each channel was live.
            while seen.live.len() < usize::try_from(CHANNELS).unwrap() {
                seen.read(visit, &client.expect("event"));
            }
            clients.push((visit, client, seen));
        }
        over.store(true, Ordering::SeqCst);
        for (visit, mut client, mut seen) in clients {
            let mut last = Client::connect(&gateway);
            for channel in 0..CHANNELS {
                last.ask(put(&format!("dash:{channel}"), "end", &json!(visit)));
            }
            while seen.ends < CHANNELS {
                let event = client.expect("event");
                seen.ends += u64::from(event["key"] == "end" && event["data"] == visit);
                seen.read(visit, &event);
            }
            for channel in 0..CHANNELS {
                let name = format!("dash:{channel}");
                let answer = gateway.get(&format!("/api/v1/channels/{name}/snapshot"));
                let answer: Value = serde_json::from_str(&answer.text()).unwrap();
                for event in answer["events"].as_array().unwrap() {
                    let known = seen.newest.get(&(name.clone(), event["key"].to_string()));
                    // Others may have published since.
                    let ended = event["key"] == "end" || known == Some(&offset(event));
                    assert!(ended, "{visit} {name}: {known:?}, and not {event}");
                }
            }
        }
    });
}

/// What a client has read.
#[derive(Default)]
struct Seen {
    /// The last offset of each channel, and whether it was live.
    last: BTreeMap<String, u64>,
    live: BTreeMap<String, u64>,
    newest: BTreeMap<(String, String), u64>,
    ends: u64,
}

impl Seen {
    fn read(&mut self, visit: u64, event: &Value) {
        let channel = event["channel"].as_str().unwrap().to_owned();
        let at = offset(event);
        let before = self.last.insert(channel.clone(), at);
        assert!(before < Some(at), "{visit}: {event} after {before:?}");
        self.newest.insert((channel.clone(), event["key"].to_string()), at);
        if event["snapshot"] == true {
            assert!(!self.live.contains_key(&channel), "{visit}: it is live already: {event}");
        } else {
            let before = self.live.insert(channel, at);
            assert!(before.is_none_or(|before| before + 1 == at), "{visit}: a hole before {event}");
        }
    }
}

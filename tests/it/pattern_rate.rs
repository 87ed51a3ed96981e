//! `max_rate` with a pattern: every channel under it is brought up to date so often, each by itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Gateway, now};
use crate::raw::Raw;

/// On one shard, what one subscriber has was fanned out to the other.
const OPEN: &str = "shards = 1\n[[namespace]]\nname = \"t\"\npatterns = true\nslow_choice = true\n";

fn subscribe(client: &mut Client, pattern: &str, max_rate: &Value) -> Value {
    let answer = client.ask(json!({"type": "subscribe", "channel": pattern, "max_rate": max_rate}));
    assert_eq!(answer["type"], "subscribed", "{answer}");
    answer
}

fn expect(client: &mut Client, events: &[(&str, u64)]) {
    for (channel, offset) in events {
        let event = client.expect("event");
        assert_eq!((&event["channel"], &event["offset"]), (&json!(channel), &json!(offset)));
        assert_eq!(event["data"], *offset, "with its own data");
    }
}

/// Publishes, and has everything fanned out before it returns.
struct Feed {
    publisher: Client,
    fence: Client,
    sent: [u64; 3],
}

impl Feed {
    fn new(gateway: &Gateway) -> Self {
        let (publisher, mut fence) = (Client::connect(gateway), Client::connect(gateway));
        fence.subscribe("t:*");
        Self { publisher, fence, sent: [0; 3] }
    }

    /// The next events of the channels `t:0` to `t:2`, whose data are their offsets.
    fn publish(&mut self, channels: &[usize]) {
        for channel in channels {
            self.sent[*channel] += 1;
            let data = json!(self.sent[*channel]);
            self.publisher.publish(&format!("t:{channel}"), &data);
            assert_eq!(self.fence.expect("event")["data"], data, "nobody else feels it");
        }
    }
}

/// Goal: the first event of each channel comes at once and the next are held back, each channel by
/// itself; another rate brings what was held back, and holds from then on. The interval is never
/// over here.
#[test]
fn each_channel_is_held_back_by_itself_until_the_rate_changes() {
    let gateway = Gateway::configured(OPEN);
    let mut feed = Feed::new(&gateway);
    let mut client = Client::connect(&gateway);
    subscribe(&mut client, "t:*", &json!(0.1));
    feed.publish(&[0, 0, 1, 0, 1]);
    expect(&mut client, &[("t:0", 1), ("t:1", 1)]);
    client.expect_nothing();
    let updated = subscribe(&mut client, "t:*", &Value::Null);
    assert_eq!((&updated["updated"], &updated["pattern"]), (&json!(true), &json!(true)));
    expect(&mut client, &[("t:0", 3), ("t:1", 2)]);
    feed.publish(&[0, 0, 2]);
    expect(&mut client, &[("t:0", 4), ("t:0", 5), ("t:2", 1)]);
    subscribe(&mut client, "t:*", &json!(0.1));
    feed.publish(&[0, 0]);
    expect(&mut client, &[("t:0", 6)]);
    client.expect_nothing();
    assert_eq!(
        client.ask(json!({"type": "unsubscribe", "channel": "t:*"}))["type"],
        "unsubscribed"
    );
    client.expect_nothing();
    feed.publish(&[0]);
    client.expect_nothing();
}

/// Goal: at 50 Hz each channel comes so often and no more, its last event always, and what was left
/// out is counted.
#[test]
fn each_channel_is_brought_up_to_date_no_more_often_than_it_asks() {
    const HZ: f64 = 50.0;
    let gateway = Gateway::configured(OPEN);
    let mut feed = Feed::new(&gateway);
    let mut client = Client::connect(&gateway);
    subscribe(&mut client, "t:*", &json!(HZ));
    let started = now();
    while now() < started + Duration::from_millis(500) {
        feed.publish(&[0, 1]);
    }
    let (seconds, mut last, mut count) = ((now() - started).as_secs_f64(), [0; 3], [0.0; 3]);
    while last != feed.sent {
        let event = client.expect("event");
        let at = usize::from(event["channel"] == "t:1");
        assert!(event["offset"].as_u64().unwrap() > last[at], "{event}");
        last[at] = event["offset"].as_u64().unwrap();
        count[at] += 1.0;
    }
    // The first comes at once, so there is one more than intervals; the last may have begun.
    assert!(count.iter().all(|count| *count <= HZ * seconds + 2.0), "{count:?} in {seconds} s");
    let conflated = gateway.metric("weir_events_conflated_total");
    let sent = f64::from(u32::try_from(feed.sent.iter().sum::<u64>()).unwrap());
    let spared = sent - count.iter().sum::<f64>();
    assert!((conflated - spared).abs() < 0.5, "{conflated} of {spared} are counted");
}

/// Goal: the name holds before the pattern and the longer pattern before the shorter, and what was
/// held back comes before each change.
#[test]
fn the_name_and_the_longer_pattern_decide_how_often() {
    let gateway = Gateway::configured(OPEN);
    let mut publisher = Client::connect(&gateway);
    let mut fence = Client::connect(&gateway);
    fence.subscribe("t:*");
    let mut feed = |offset: u64| {
        publisher.publish("t:eu/1", &json!(offset));
        assert_eq!(fence.expect("event")["offset"], offset);
    };
    let mut client = Client::connect(&gateway);
    subscribe(&mut client, "t:*", &json!(0.1));
    (1..=3).for_each(&mut feed);
    expect(&mut client, &[("t:eu/1", 1)]);
    client.expect_nothing();
    client.subscribe("t:eu/*");
    (4..=5).for_each(&mut feed);
    expect(&mut client, &[("t:eu/1", 3), ("t:eu/1", 4), ("t:eu/1", 5)]);
    subscribe(&mut client, "t:eu/1", &json!(0.1));
    (6..=8).for_each(&mut feed);
    expect(&mut client, &[("t:eu/1", 6)]);
    client.expect_nothing();
    client.ask(json!({"type": "unsubscribe", "channel": "t:eu/*"}));
    client.expect_nothing();
    client.ask(json!({"type": "unsubscribe", "channel": "t:eu/1"}));
    expect(&mut client, &[("t:eu/1", 8)]);
    client.ask(json!({"type": "subscribe", "channel": "t:eu/1"}));
    feed(9);
    expect(&mut client, &[("t:eu/1", 9)]);
}

/// Goal: a client of the binary protocol, in which an event names its channel by an alias alone,
/// gets the events of a pattern as JSON text, also at a flush.
#[test]
fn a_binary_client_gets_text_at_a_flush() {
    let gateway = Gateway::configured(OPEN);
    let mut feed = Feed::new(&gateway);
    let (mut raw, _) = Raw::offering(&gateway, &[("Sec-WebSocket-Protocol", "weir.v1.bin")]);
    let answer = raw.ask(r#"{"type":"subscribe","channel":"t:*","max_rate":50}"#);
    assert_eq!(answer["type"], "subscribed");
    feed.publish(&[0, 0, 0, 1]);
    let mut last = [0; 2];
    while last != [3, 1] {
        let event = raw.json();
        assert_eq!(event["type"], "event");
        let at = usize::from(event["channel"] == "t:1");
        assert!(event["offset"].as_u64().unwrap() > last[at], "{event}");
        last[at] = event["offset"].as_u64().unwrap();
    }
}

/// Goal: what a pattern's rate holds back comes before the notice of a shutdown, and with any other
/// end it counts as dropped.
#[test]
fn what_is_held_back_comes_before_a_shutdown_and_is_dropped_by_a_close() {
    for shutdown in [true, false] {
        let gateway = Gateway::configured(&format!("drain = \"100ms\"\n{OPEN}"));
        let mut feed = Feed::new(&gateway);
        let mut client = Client::connect(&gateway);
        subscribe(&mut client, "t:*", &json!(0.1));
        feed.publish(&[0, 1, 0, 0, 1]);
        expect(&mut client, &[("t:0", 1), ("t:1", 1)]);
        if shutdown {
            gateway.signal(rustix::process::Signal::TERM);
            expect(&mut client, &[("t:0", 3), ("t:1", 2)]);
            assert_eq!(client.ended().code, Some(4001));
        } else {
            let body = json!({"client": client.id}).to_string();
            assert_eq!(gateway.post("/api/v1/disconnect", &body).status, 200);
            assert_eq!(client.ended().code, Some(4503));
            let closed = gateway.metric("weir_events_dropped_total{policy=\"closed\"");
            assert!((closed - 2.0).abs() < 0.5, "{closed}: the newest of each channel");
        }
    }
}

/// Goal: what is held back meets the policy that it was held back under, and the close comes behind
/// the answer.
#[test]
fn a_change_of_rate_can_end_a_connection_that_asked_for_it() {
    let limits = "[limits]\nqueue_bytes = 65536\nmessage_bytes = 65536\n";
    let gateway = Gateway::configured(&format!("{OPEN}{limits}"));
    let mut publisher = Client::connect(&gateway);
    publisher.subscribe("t:fence");
    let mut client = Client::connect(&gateway);
    let strict = json!(
        {"type": "subscribe", "channel": "t:*", "max_rate": 0.1, "slow": "disconnect"}
    );
    assert_eq!(client.ask(strict)["type"], "subscribed");
    for data in [json!("first"), json!("y".repeat(65_430))] {
        publisher.publish("t:1", &data);
    }
    publisher.publish("t:fence", &json!(0));
    publisher.expect("event");
    client.send(&json!({"type": "subscribe", "channel": "t:*", "slow": "drop_oldest", "id": 7}));
    let ended = client.ended();
    assert_eq!(ended.code, Some(4000));
    let kinds: Vec<_> = ended.messages.iter().map(|message| &message["type"]).collect();
    assert_eq!(kinds.last().unwrap().as_str(), Some("disconnect"));
    assert!(kinds.contains(&&json!("subscribed")), "{kinds:?}");
}

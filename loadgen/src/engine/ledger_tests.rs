//! What a thread's books say about texts that a server may send.

use super::*;
use crate::verdict::Kind;

pub(crate) fn wanted(verify: bool) -> Wanted {
    Wanted {
        target: "ws://127.0.0.1:1/ws?batch=1".parse().expect("valid"),
        connections: 2,
        threads: 1,
        private_tables: false,
        sources: 0,
        connect_rate: 0.0,
        inflight: 1,
        timeout_ns: 1,
        channels: 3,
        subscriptions: 2,
        prefix: "load:".into(),
        verify,
        sample: 1,
        until_last: false,
        max_rate: 0.0,
        foreign: None,
        conduct: crate::engine::conduct::Conduct::Steady,
    }
}

fn ledger(verify: bool) -> Ledger {
    Ledger::new(Arc::new(wanted(verify)), 2)
}

fn say(ledger: &mut Ledger, connection: u32, text: &str) -> Vec<Meaning> {
    let from = Arrival {
        at: connection as usize,
        connection,
        slow: false,
        now: 5_000_000,
        phase: Phase::Drain,
        measured: Span { from: 9, until: 10 },
    };
    let mut meanings = Vec::new();
    ledger.text(text.as_bytes(), from, &mut |meaning| meanings.push(meaning));
    meanings
}

fn event(channel: u32, offset: u64) -> String {
    format!(r#"{{"type":"event","channel":"load:{channel}","offset":{offset},"data":{{"ts":9}}}}"#)
}

fn subscribe(ledger: &mut Ledger, connection: u32, channel: u32) -> Vec<Meaning> {
    let text = format!(r#"{{"type":"subscribed","id":1,"channel":"load:{channel}","offset":10}}"#);
    say(ledger, connection, &text)
}

#[test]
fn lines_of_a_batch_are_messages_and_count() {
    let mut ledger = ledger(true);
    assert_eq!(subscribe(&mut ledger, 0, 0), [Meaning::Subscribed { id: 1 }]);
    let batch = format!("{}\n\n{}\n{}", event(0, 11), event(0, 12), event(0, 13));
    assert_eq!(say(&mut ledger, 0, &batch).len(), 3);
    assert_eq!((ledger.all.delivered, ledger.verdict.violations), (3, 0));
    assert_eq!(ledger.bases, [Some(10), None, None]);
    assert!(ledger.latency.summary().is_some_and(|summary| summary.samples == 3));
}

#[test]
fn latency_is_of_what_was_due_while_it_was_measured() {
    let mut ledger = ledger(false);
    subscribe(&mut ledger, 0, 0);
    for (due, samples) in [(8, 0), (9, 1), (10, 1)] {
        let text = r#"{"type":"event","channel":"load:0","offset":11,"data":{"ts":DUE}}"#;
        say(&mut ledger, 0, &text.replace("DUE", &due.to_string()));
        assert_eq!(ledger.latency.count(), samples, "due at {due}, received in the drain");
    }
}

#[test]
fn each_connection_and_channel_has_its_own_order() {
    let mut ledger = ledger(true);
    for (connection, channel) in [(0, 0), (0, 1), (1, 1), (1, 2)] {
        assert_eq!(subscribe(&mut ledger, connection, channel), [Meaning::Subscribed { id: 1 }]);
        say(&mut ledger, connection, &event(channel, 11));
    }
    assert_eq!(ledger.verdict.violations, 0);
    say(&mut ledger, 1, &event(2, 13));
    let lagged = r#"{"type":"lagged","channel":"load:1","dropped":2,"from":12,"to":13}"#;
    say(&mut ledger, 1, lagged);
    assert_eq!(ledger.all.told, 2);
    ledger.finish(&[11, 13, 13], |at| u32::try_from(at).expect("small"));
    let found: Vec<_> = ledger
        .verdict
        .listed
        .iter()
        .map(|broken| (broken.connection, broken.channel, broken.kind, broken.from, broken.to))
        .collect();
    assert_eq!(found, [(1, 2, Kind::Skipped, 12, 12), (0, 1, Kind::Skipped, 12, 13)]);
}

#[test]
fn what_lagged_says_must_add_up() {
    let mut ledger = ledger(true);
    subscribe(&mut ledger, 0, 0);
    for (dropped, violations) in [(2, 0), (1, 1), (3, 2)] {
        let from = ledger.all.told + 11;
        let to = from + 1;
        let lagged = format!(
            r#"{{"type":"lagged","channel":"load:0","dropped":{dropped},"from":{from},"to":{to}}}"#
        );
        say(&mut ledger, 0, &lagged);
        assert_eq!(ledger.verdict.violations, violations, "{dropped} of 2");
    }
    assert_eq!(ledger.verdict.listed[0].kind, Kind::Miscounted);
}

#[test]
fn hostile_numbers_are_violations_and_no_panic() {
    let numbers = [0, 1, 12, u64::MAX - 1, u64::MAX];
    for (from, to) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (*a, *b))) {
        let mut ledger = ledger(true);
        let subscribed =
            format!(r#"{{"type":"subscribed","id":{to},"channel":"load:0","offset":{from}}}"#);
        let lagged = format!(
            r#"{{"type":"lagged","channel":"load:0","dropped":{to},"from":{from},"to":{to}}}"#
        );
        for text in [&subscribed, &lagged, &event(0, to), &lagged, &subscribed, &event(0, from)] {
            say(&mut ledger, 0, text);
        }
        ledger.finish(&[from, to, 0], |at| u32::try_from(at).expect("small"));
    }
}

#[test]
fn what_the_server_has_ended_owes_nothing() {
    for text in [
        r#"{"type":"unsubscribed","channel":"load:0","reason":"closed"}"#,
        r#"{"type":"disconnect","code":4001,"reason":"down"}"#,
    ] {
        let mut ledger = ledger(true);
        subscribe(&mut ledger, 0, 0);
        assert!(matches!(say(&mut ledger, 0, text)[..], [Meaning::Wrong(_)]), "{text}");
        ledger.finish(&[99, 0, 0], |at| u32::try_from(at).expect("small"));
        assert_eq!(ledger.verdict.violations, 0, "{text}");
    }
}

#[test]
fn with_a_rate_events_may_be_left_out_but_not_the_last() {
    let throttled = Wanted { max_rate: 1.0, ..wanted(true) };
    let mut ledger = Ledger::new(Arc::new(throttled), 2);
    subscribe(&mut ledger, 0, 0);
    for offset in [11, 15] {
        say(&mut ledger, 0, &event(0, offset));
    }
    let lagged = r#"{"type":"lagged","channel":"load:0","dropped":2,"from":20,"to":30}"#;
    say(&mut ledger, 0, lagged);
    ledger.finish(&[30, 0, 0], |at| u32::try_from(at).expect("small"));
    assert_eq!(ledger.verdict.violations, 0);
    let lagged = r#"{"type":"lagged","channel":"load:0","dropped":3,"from":31,"to":32}"#;
    say(&mut ledger, 0, lagged);
    say(&mut ledger, 0, &event(0, 32));
    ledger.finish(&[33, 0, 0], |at| u32::try_from(at).expect("small"));
    assert_eq!(ledger.verdict.violations, 3, "{:?}", ledger.verdict.listed);
}

#[test]
fn a_channel_that_was_not_asked_for_is_a_violation() {
    let mut ledger = ledger(true);
    for name in [2, 7] {
        say(&mut ledger, 0, &event(name, 1));
    }
    say(&mut ledger, 0, r#"{"type":"event","channel":"other:1","offset":1,"data":1}"#);
    assert_eq!(ledger.verdict.violations, 3);
}

#[test]
fn refusals_and_nonsense_are_faults() {
    let mut ledger = ledger(false);
    let refused = r#"{"type":"error","id":1,"code":"forbidden","message":"no"}"#;
    assert_eq!(say(&mut ledger, 0, refused), [Meaning::Wrong(Fault::Denied("error: no".into()))]);
    assert_eq!(say(&mut ledger, 0, "boo"), [Meaning::Wrong(Fault::NotJson("boo".into()))]);
    assert_eq!(say(&mut ledger, 0, r#"{"type":"welcome"}"#), [Meaning::Counted]);
}

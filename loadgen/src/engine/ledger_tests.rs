//! What a thread's books say about texts that a server may send.

use super::*;
use crate::engine::conduct::Cut;
use crate::engine::wanted::Subscribing;
use crate::verdict::Kind;
use crate::wire::command::Wishes;

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
        subscribing: subscribing(verify),
    }
}

pub(crate) fn subscribing(verify: bool) -> Subscribing {
    Subscribing {
        channels: 3,
        subscriptions: 2,
        prefix: "load:".into(),
        verify,
        sample: 1,
        until_last: false,
        wishes: Wishes::default(),
        pattern: false,
        keys: 0,
        foreign: None,
        conduct: Conduct::Steady,
    }
}

/// The same, with other subscriptions.
pub(crate) fn with(subscribing: Subscribing) -> Arc<Wanted> {
    Arc::new(Wanted { subscribing, ..wanted(false) })
}

pub(in crate::engine) fn ledger(verify: bool) -> Ledger {
    Ledger::new(Arc::new(wanted(verify)), 2)
}

/// Books of connections that are cut, with so many events made.
fn cut(verify: bool) -> Ledger {
    let cut = Cut { rate: 1.0, away_ns: 0, retry_ns: 0, expects_recovered: false, share: 1.0 };
    let conduct = Conduct::Cut(cut);
    Ledger::new(with(Subscribing { conduct, ..subscribing(verify) }), 2)
}

pub(in crate::engine) fn say(ledger: &mut Ledger, connection: u32, text: &str) -> Vec<Meaning> {
    hear(ledger, connection, text, (Phase::Drain, u64::MAX))
}

pub(in crate::engine) fn hear(
    ledger: &mut Ledger,
    connection: u32,
    text: &str,
    (phase, made): (Phase, u64),
) -> Vec<Meaning> {
    let from = Arrival { made, ..arrival(connection, phase) };
    let mut meanings = Vec::new();
    ledger.text(text.as_bytes(), from, &mut |meaning| meanings.push(meaning));
    ledger.record();
    meanings
}

/// From one that is not slow, and measured at the moment 9.
pub(in crate::engine) fn arrival(connection: u32, phase: Phase) -> Arrival {
    Arrival {
        at: connection as usize,
        connection,
        slow: false,
        apart: false,
        now: 5_000_000,
        phase,
        measured: Span { from: 9, until: 10 },
        made: u64::MAX,
    }
}

/// The end, where these were the last offsets of the channels.
pub(in crate::engine) fn finish(ledger: &mut Ledger, last: &[Option<u64>]) {
    ledger.finish(last, |at| u32::try_from(at).expect("small"));
}

pub(in crate::engine) fn lagged(channel: u32, dropped: u64, (from, to): (u64, u64)) -> String {
    let range = format!(r#""dropped":{dropped},"from":{from},"to":{to}"#);
    format!(r#"{{"type":"lagged","channel":"load:{channel}",{range}}}"#)
}

pub(in crate::engine) fn event(channel: u32, offset: u64) -> String {
    format!(r#"{{"type":"event","channel":"load:{channel}","offset":{offset},"data":{{"ts":9}}}}"#)
}

pub(in crate::engine) fn subscribe(
    ledger: &mut Ledger,
    connection: u32,
    channel: u32,
) -> Vec<Meaning> {
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
    assert_eq!((ledger.bases[0].low, ledger.bases[1].epoch), (10, 0));
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
    say(&mut ledger, 1, &lagged(1, 2, (12, 13)));
    assert_eq!(ledger.all.told, 2);
    finish(&mut ledger, &[11, 13, 13].map(Some));
    let found: Vec<_> = ledger
        .verdict
        .listed
        .iter()
        .map(|broken| (broken.connection, broken.channel, broken.kind, broken.from, broken.to))
        .collect();
    let skipped =
        |connection, channel, to| (Some(connection), Some(channel), Kind::Skipped, 12, to);
    assert_eq!(found, [skipped(1, 2, 12), skipped(0, 1, 13)]);
}

#[test]
fn what_lagged_says_must_add_up() {
    let mut ledger = ledger(true);
    subscribe(&mut ledger, 0, 0);
    for (dropped, violations) in [(2, 0), (1, 1), (3, 2)] {
        let from = ledger.all.told + 11;
        let to = from + 1;
        say(&mut ledger, 0, &lagged(0, dropped, (from, to)));
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
        let lagged = lagged(0, to, (from, to));
        for text in [&subscribed, &lagged, &event(0, to), &lagged, &subscribed, &event(0, from)] {
            say(&mut ledger, 0, text);
        }
        finish(&mut ledger, &[from, to, 0].map(Some));
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
        finish(&mut ledger, &[99, 0, 0].map(Some));
        assert_eq!(ledger.verdict.violations, 0, "{text}");
    }
}

#[test]
fn with_a_rate_events_may_be_left_out_but_not_the_last() {
    let throttled =
        Subscribing { wishes: Wishes { max_rate: 1.0, slow: None }, ..subscribing(true) };
    let mut ledger = Ledger::new(with(throttled), 2);
    subscribe(&mut ledger, 0, 0);
    for offset in [11, 15] {
        say(&mut ledger, 0, &event(0, offset));
    }
    say(&mut ledger, 0, &lagged(0, 2, (20, 30)));
    finish(&mut ledger, &[Some(30), None, None]);
    assert_eq!(ledger.verdict.violations, 0);
    say(&mut ledger, 0, &lagged(0, 3, (31, 32)));
    say(&mut ledger, 0, &event(0, 32));
    finish(&mut ledger, &[Some(33), None, None]);
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

/// `subscribed` on channel 0, with what stands behind `channel`.
fn subscribed(ledger: &mut Ledger, rest: &str) {
    say(ledger, 0, &format!(r#"{{"type":"subscribed","id":1,"channel":"load:0",{rest}}}"#));
}

pub(in crate::engine) fn kinds(ledger: &Ledger) -> Vec<Kind> {
    ledger.verdict.listed.iter().map(|broken| broken.kind).collect()
}

#[test]
fn since_names_the_last_event_also_without_verify() {
    for verify in [false, true] {
        let mut ledger = cut(verify);
        subscribed(&mut ledger, r#""epoch":"a","offset":10"#);
        say(&mut ledger, 0, &event(0, 11));
        say(&mut ledger, 0, &event(0, 12));
        ledger.ended(0);
        assert_eq!(ledger.since(0, 0), Some(("a", 12)), "verify {verify}");
        subscribed(&mut ledger, r#""epoch":"a","offset":13,"recovered":true"#);
        say(&mut ledger, 0, &event(0, 13));
        assert_eq!((ledger.all.delivered, ledger.since(0, 0)), (3, Some(("a", 13))));
        assert_eq!((ledger.recovered, ledger.owed), ((1, 0), 1), "one was missed");
        assert_eq!(ledger.since(0, 1), None, "it never stood");
    }
}

#[test]
fn what_an_answer_to_since_must_say() {
    for (answer, found) in [
        (r#""epoch":"a","offset":12,"recovered":true"#, None),
        (r#""epoch":"a","offset":12,"recovered":false"#, None),
        (r#""epoch":"a","offset":12"#, Some(Kind::SinceIgnored)),
        (r#""epoch":"b","offset":12,"recovered":true"#, Some(Kind::Recovered)),
        (r#""epoch":"a","offset":9,"recovered":true"#, Some(Kind::RolledBack)),
        (r#""epoch":"a","offset":9,"recovered":false"#, Some(Kind::RolledBack)),
        (r#""epoch":"b","offset":9,"recovered":false"#, None),
    ] {
        let mut ledger = cut(true);
        subscribed(&mut ledger, r#""epoch":"a","offset":10"#);
        say(&mut ledger, 0, &event(0, 11));
        ledger.ended(0);
        assert_eq!(ledger.since(0, 0), Some(("a", 11)));
        subscribed(&mut ledger, answer);
        assert_eq!(kinds(&ledger), Vec::from_iter(found), "{answer}");
    }
}

#[test]
fn who_recovers_has_caught_up_with_the_last_event_that_was_missed() {
    let mut ledger = cut(false);
    subscribed(&mut ledger, r#""epoch":"a","offset":10"#);
    assert!(ledger.caught_up(0), "nothing was missed");
    ledger.ended(0);
    ledger.since(0, 0);
    subscribed(&mut ledger, r#""epoch":"a","offset":12,"recovered":true"#);
    for (offset, has_all) in [(11, false), (12, true), (13, true)] {
        say(&mut ledger, 0, &event(0, offset));
        assert_eq!((ledger.caught_up(0), ledger.caught_up(1)), (has_all, true), "{offset}");
    }
    ledger.ended(0);
    ledger.since(0, 0);
    subscribed(&mut ledger, r#""epoch":"a","offset":99,"recovered":true"#);
    assert!(!ledger.caught_up(0));
    ledger.ended(0);
    assert!(ledger.caught_up(0), "it begins anew");
}

#[test]
fn an_epoch_of_every_channel_is_told_apart() {
    let mut ledger = cut(true);
    for nth in 0..20_000 {
        subscribed(&mut ledger, &format!(r#""epoch":"e{nth}","offset":0"#));
    }
    assert_eq!(ledger.since(0, 0), Some(("e19999", 0)));
    subscribed(&mut ledger, r#""epoch":"e19998","offset":0,"recovered":true"#);
    assert_eq!(kinds(&ledger), [Kind::Recovered], "two that are not the same");
}

#[test]
fn what_a_rollback_repeats_is_told_twice() {
    let mut ledger = ledger(true);
    subscribed(&mut ledger, r#""epoch":"a","offset":0"#);
    for offset in 1..=4 {
        say(&mut ledger, 0, &event(0, offset));
    }
    subscribed(&mut ledger, r#""epoch":"a","offset":2"#);
    say(&mut ledger, 0, &event(0, 3));
    say(&mut ledger, 0, &event(0, 5));
    assert_eq!(kinds(&ledger), [Kind::RolledBack, Kind::Again]);
}

#[test]
fn an_offset_that_is_ahead_of_the_publisher_hides_no_loss() {
    let mut ledger = ledger(true);
    let subscribed = |offset| {
        let rest = format!(r#""channel":"load:0","epoch":"a","offset":{offset}"#);
        format!(r#"{{"type":"subscribed","id":1,{rest}}}"#)
    };
    hear(&mut ledger, 0, &subscribed(10), (Phase::Open, 0));
    // Three channels in turn: the first has had two of four events.
    hear(&mut ledger, 0, &subscribed(12), (Phase::Measure, 4));
    assert_eq!(kinds(&ledger), [Kind::Skipped], "as far as it was published");
    hear(&mut ledger, 0, &subscribed(15), (Phase::Measure, 4));
    assert_eq!(kinds(&ledger), [Kind::Skipped, Kind::Ahead]);
    ledger.finish(&[Some(13), None, None], |_| 0);
    let last = ledger.verdict.listed.last().expect("the hidden one");
    assert_eq!((last.kind, last.from, last.to), (Kind::Skipped, 13, 13));
}

#[test]
fn a_new_epoch_leaves_the_end_open() {
    let mut ledger = ledger(true);
    subscribed(&mut ledger, r#""epoch":"a","offset":10"#);
    say(&mut ledger, 0, &event(0, 11));
    let renewed =
        r#"{"type":"subscribed","channel":"load:0","epoch":"b","offset":0,"recovered":false}"#;
    assert_eq!(say(&mut ledger, 0, renewed), [Meaning::Counted], "no answer to anything");
    say(&mut ledger, 0, &event(0, 1));
    assert!(ledger.bases[0].renewed);
    ledger.finish(&[None, None, None], |_| 0);
    assert_eq!(kinds(&ledger), []);
}

#[test]
fn a_snapshot_is_no_delivery_and_comes_once_for_each_key() {
    let shown = |key: &str, offset: u64| {
        let rest = format!(r#""offset":{offset},"key":"{key}","snapshot":true,"data":{{"ts":9}}"#);
        format!(r#"{{"type":"event","channel":"load:0",{rest}}}"#)
    };
    for verify in [false, true] {
        let mut ledger = ledger(verify);
        subscribe(&mut ledger, 0, 0);
        if verify {
            say(&mut ledger, 0, &shown("a", 9));
            say(&mut ledger, 0, &shown("b", 10));
        }
        say(
            &mut ledger,
            0,
            r#"{"type":"lagged","channel":"load:0","dropped":1,"from":11,"to":11}"#,
        );
        say(&mut ledger, 0, &shown("a", 11));
        assert_eq!((ledger.all.delivered, ledger.latency.count()), (0, 0), "verify {verify}");
        assert_eq!(kinds(&ledger), [], "once for the subscribe, once for the loss");
        say(&mut ledger, 0, &shown("a", 11));
        say(&mut ledger, 0, &shown("c", 12));
        say(&mut ledger, 1, &shown("a", 1));
        let broken = [Kind::SnapshotAgain, Kind::SnapshotAhead, Kind::NotSubscribed];
        assert_eq!(kinds(&ledger), if verify { broken.as_slice() } else { &[] });
    }
}

#[test]
fn a_loss_that_is_not_written_out_is_named_so() {
    for rest in [
        r#""dropped":1,"to":11"#,
        r#""from":11,"to":11"#,
        r#""dropped":1,"from":11"#,
        r#""dropped":2,"from":12,"to":11"#,
        r#""dropped":12,"from":0,"to":11"#,
    ] {
        let mut ledger = ledger(true);
        subscribe(&mut ledger, 0, 0);
        let lagged = format!(r#"{{"type":"lagged","channel":"load:0",{rest}}}"#);
        let meanings = say(&mut ledger, 0, &lagged);
        assert!(matches!(meanings[..], [Meaning::Wrong(Fault::Unreadable(_))]), "{rest}");
        assert_eq!(kinds(&ledger), [Kind::Malformed], "{rest}");
        assert_eq!(ledger.all.told, 0, "{rest}");
    }
}

#[test]
fn an_event_in_another_order_does_not_vanish() {
    let text = r#"{"type":"event","offset":11,"channel":"load:0","data":{"ts":9}}"#;
    let meanings = say(&mut ledger(false), 0, text);
    assert!(matches!(meanings[..], [Meaning::Wrong(Fault::Unreadable(_))]), "{meanings:?}");
}

#[test]
fn every_connection_is_sampled_whatever_their_number() {
    let mut ledger = Ledger::new(with(Subscribing { sample: 17, ..subscribing(false) }), 2);
    let mut sampled = [0; 34];
    for nth in 0..34 * 600 {
        let before = ledger.latency.count();
        say(&mut ledger, 0, &event(0, 1));
        sampled[nth % 34] += ledger.latency.count() - before;
    }
    assert!(sampled.iter().all(|count| *count > 5), "{sampled:?}");
    assert!((1_000..1_400).contains(&ledger.latency.count()), "one in 17");
}

#[test]
fn without_verify_what_is_shown_to_who_comes_back_is_no_delivery() {
    let mut ledger = ledger(false);
    subscribe(&mut ledger, 0, 0);
    let shown = r#"{"type":"event","channel":"load:0","offset":9,"key":"k","snapshot":true,"data":{"ts":9}}"#;
    say(&mut ledger, 0, shown);
    say(&mut ledger, 0, &event(0, 11));
    assert_eq!((ledger.all.shown, ledger.all.delivered, ledger.latency.count()), (1, 1, 1));
}

#[test]
fn an_answer_to_since_that_does_not_say_so_has_recovered_nothing() {
    let mut ledger = cut(false);
    subscribe(&mut ledger, 0, 0);
    assert_eq!(ledger.recovered, (0, 0), "nothing was asked");
    ledger.ended(0);
    assert!(ledger.since(0, 0).is_some());
    subscribe(&mut ledger, 0, 0);
    assert_eq!(ledger.recovered, (0, 1));
}

//! What a thread's books say about losses under `latest`, and about patterns.

use super::*;
use crate::engine::ledger::tests::{
    arrival, event, finish, hear, kinds, lagged, say, subscribe, subscribing, with,
};
use crate::engine::wanted::Subscribing;
use crate::wire::command::{Policy, Wishes};

/// Books of connections that ask for `latest`, with so many keys.
fn latest(keys: u64) -> Ledger {
    let wishes = Wishes { max_rate: 0.0, slow: Some(Policy::Latest) };
    Ledger::new(with(Subscribing { wishes, keys, ..subscribing(true) }), 2)
}

fn lost(ledger: &mut Ledger, from: u64, to: u64) {
    say(ledger, 0, &lagged(0, to - from + 1, (from, to)));
}

fn shown(ledger: &mut Ledger, key: &str, offset: u64) {
    let rest = format!(r#""offset":{offset}{key},"snapshot":true,"data":{{"ts":9}}"#);
    say(ledger, 0, &format!(r#"{{"type":"event","channel":"load:0",{rest}}}"#));
}

#[test]
fn under_latest_a_loss_must_be_shown_before_anything_follows() {
    let mut ledger = latest(0);
    subscribe(&mut ledger, 0, 0);
    lost(&mut ledger, 11, 15);
    assert_eq!(ledger.unshown(), 1);
    shown(&mut ledger, "", 15);
    say(&mut ledger, 0, &event(0, 16));
    assert_eq!((kinds(&ledger), ledger.unshown(), ledger.all.shown), (vec![], 0, 1));
    lost(&mut ledger, 17, 18);
    say(&mut ledger, 0, &event(0, 19));
    shown(&mut ledger, "", 18);
    assert_eq!(kinds(&ledger), [Kind::SnapshotLate]);
    lost(&mut ledger, 20, 21);
    finish(&mut ledger, &[Some(21), None, None]);
    let last = ledger.verdict.listed.last().expect("the second");
    assert_eq!((last.kind, last.from, last.to), (Kind::NotShown, 21, 21));
    assert_eq!(ledger.verdict.violations, 2);
}

#[test]
fn under_latest_each_key_that_was_missed_is_shown_with_its_newest_event() {
    let mut ledger = latest(2);
    subscribe(&mut ledger, 0, 0);
    lost(&mut ledger, 11, 14);
    shown(&mut ledger, r#","key":"k0""#, 11);
    shown(&mut ledger, r#","key":"k1""#, 14);
    assert_eq!(kinds(&ledger), [Kind::SnapshotStale]);
    finish(&mut ledger, &[Some(14), None, None]);
    assert_eq!(kinds(&ledger), [Kind::SnapshotStale, Kind::NotShown]);
}

#[test]
fn what_a_slow_connection_sees_is_as_old_as_when_it_was_due() {
    let mut ledger = latest(0);
    subscribe(&mut ledger, 0, 0);
    let from = |slow, phase| Arrival { slow, apart: slow, ..arrival(0, phase) };
    let shown =
        r#"{"type":"event","channel":"load:0","offset":12,"snapshot":true,"data":{"ts":9}}"#;
    let texts = [event(0, 11), lagged(0, 1, (12, 12)), shown.to_owned()];
    for (slow, phase, seen) in [(true, Phase::Drain, 0), (true, Phase::Measure, 2)] {
        let mut ledger = latest(0);
        subscribe(&mut ledger, 0, 0);
        for text in &texts {
            ledger.text(text.as_bytes(), from(slow, phase), &mut |_| {});
        }
        assert_eq!((ledger.ages.count(), kinds(&ledger)), (seen, vec![]), "{phase:?}");
    }
    for text in &texts {
        ledger.text(text.as_bytes(), from(false, Phase::Measure), &mut |_| {});
    }
    ledger.record();
    assert_eq!((ledger.ages.count(), ledger.latency.count()), (0, 1), "who is not slow");
}

#[test]
fn what_ends_before_it_is_shown_owes_nothing() {
    let mut ledger = latest(0);
    subscribe(&mut ledger, 0, 0);
    lost(&mut ledger, 11, 15);
    ledger.ended(0);
    finish(&mut ledger, &[Some(15), None, None]);
    assert_eq!((kinds(&ledger), ledger.unshown()), (vec![], 0));
    // Another policy owes no snapshot at all.
    let mut plain = crate::engine::ledger::tests::ledger(true);
    subscribe(&mut plain, 0, 0);
    lost(&mut plain, 11, 15);
    finish(&mut plain, &[Some(15), None, None]);
    assert_eq!(kinds(&plain), []);
}

/// Books of connections that have all three channels by one pattern.
fn patterns() -> Ledger {
    Ledger::new(with(Subscribing { pattern: true, subscriptions: 3, ..subscribing(true) }), 2)
}

const PATTERN: &str = r#"{"type":"subscribed","id":1,"channel":"load:*","pattern":true}"#;

#[test]
fn a_pattern_has_an_account_with_each_connection_and_channel() {
    let mut ledger = patterns();
    for connection in [0, 1] {
        let answer = hear(&mut ledger, connection, PATTERN, (Phase::Open, u64::MAX));
        assert_eq!(answer, [Meaning::Subscribed { id: 1 }]);
        for channel in 0..3 {
            say(&mut ledger, connection, &event(channel, 1));
        }
    }
    assert_eq!(kinds(&ledger), []);
    say(&mut ledger, 1, &event(2, 3));
    finish(&mut ledger, &[1, 1, 3].map(Some));
    let found: Vec<_> = ledger
        .verdict
        .listed
        .iter()
        .map(|broken| (broken.connection, broken.channel, broken.kind, broken.from, broken.to))
        .collect();
    let skipped = |connection, from, to| (Some(connection), Some(2), Kind::Skipped, from, to);
    assert_eq!(found, [skipped(1, 2, 2), skipped(0, 2, 3)]);
}

#[test]
fn a_pattern_that_comes_later_owes_what_is_published_behind_it() {
    let mut ledger = patterns();
    // Four events over three channels: two on the first.
    hear(&mut ledger, 0, PATTERN, (Phase::Measure, 4));
    say(&mut ledger, 0, &event(0, 2));
    say(&mut ledger, 0, &event(1, 3));
    assert_eq!(kinds(&ledger), [Kind::Skipped], "the second has had one, and owes the next");
    ledger.leaving(0, 0);
    let ended = r#"{"type":"unsubscribed","id":2,"channel":"load:*"}"#;
    assert_eq!(say(&mut ledger, 0, ended), [Meaning::Unsubscribed { id: 2 }]);
    assert_eq!(ledger.stands(0, 0), Stands::Off);
    say(&mut ledger, 0, &event(2, 9));
    assert_eq!(kinds(&ledger), [Kind::Skipped, Kind::NotSubscribed]);
    assert_eq!(ledger.since(0, 0), None, "a pattern has no place");
}

#[test]
fn a_pattern_that_comes_later_may_begin_with_what_is_kept() {
    let mut ledger = patterns();
    // Four events over three channels: two on the first.
    hear(&mut ledger, 0, PATTERN, (Phase::Measure, 4));
    shown(&mut ledger, r#","key":"a""#, 1);
    shown(&mut ledger, r#","key":"b""#, 2);
    say(&mut ledger, 0, &event(0, 3));
    assert_eq!(kinds(&ledger), []);
    assert_eq!((ledger.all.shown, ledger.all.delivered), (2, 1));
    shown(&mut ledger, r#","key":"a""#, 1);
    assert_eq!(kinds(&ledger), [Kind::SnapshotAgain]);
    let mut early = patterns();
    hear(&mut early, 0, PATTERN, (Phase::Open, u64::MAX));
    say(&mut early, 0, &event(0, 1));
    shown(&mut early, r#","key":"a""#, 1);
    assert_eq!(kinds(&early), [Kind::SnapshotUnasked], "nothing was there to be kept");
}

#[test]
fn another_pattern_than_was_asked_for_is_a_fault() {
    let by_name = crate::engine::ledger::tests::ledger(true);
    let (mut by_pattern, mut by_name) = (patterns(), by_name);
    for (ledger, text) in
        [(&mut by_pattern, PATTERN.replace("load", "other")), (&mut by_name, PATTERN.to_owned())]
    {
        assert_eq!(say(ledger, 0, &text), [Meaning::Wrong(Fault::OtherChannel)]);
    }
}

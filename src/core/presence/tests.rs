//! Tests of presence: who is told what, how often, and that it comes to the truth.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const LINGER_MS: u64 = 2_000;

fn members(members_max: usize) -> Members {
    Members::new(PresenceRule { linger_ms: LINGER_MS, members_max })
}

fn user(name: &str) -> Option<Arc<Identity>> {
    Some(Arc::new(Identity { user: name.into(), info: None }))
}

/// What a tick tells, in short.
fn told(members: &mut Members, now_ms: u64) -> String {
    match members.tick(now_ms) {
        None => String::new(),
        Some(Told::Changes(changes)) => {
            let text = |change: &Change| match change {
                Change::Join(shown, _) => format!("+{}", shown.client.0),
                Change::Leave(shown) => format!("-{}", shown.client.0),
            };
            changes.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        Some(Told::Counts { clients, users, listed }) => {
            format!("{clients}/{users}{}", if listed { " listed" } else { "" })
        }
    }
}

/// The connections under which members are known.
fn known(members: &Members) -> BTreeSet<u64> {
    members.roster().members.iter().map(|shown| shown.client.0).collect()
}

#[test]
fn a_member_is_announced_once_and_leaves_when_it_has_lingered() {
    let mut members = members(10);
    members.enter(ClientId(1), None, 77);
    members.enter(ClientId(1), None, 78);
    assert_eq!(members.wake_at(), Some(0));
    let Some(Told::Changes(changes)) = members.tick(1_000) else { panic!("it joins") };
    let shown = Arc::new(Shown { client: ClientId(1), identity: None, since_ms: 77 });
    assert_eq!(changes, [Change::Join(shown, ClientId(1))]);
    assert_eq!(members.wake_at(), None, "nothing more to tell");
    members.leave(ClientId(1), Parting::Lost, 5_000);
    members.leave(ClientId(1), Parting::Lost, 6_000);
    assert_eq!((members.wake_at(), members.roster().clients), (Some(7_000), 1));
    assert_eq!(told(&mut members, 6_999), "");
    assert_eq!(told(&mut members, 7_000), "-1");
    assert_eq!((members.wake_at(), members.is_empty()), (None, true));
    members.leave(ClientId(1), Parting::Asked, 8_000);
    assert_eq!((members.wake_at(), members.roster()), (None, Roster::default()));
}

#[test]
fn who_says_so_leaves_at_once_and_who_comes_back_is_not_noticed() {
    let mut members = members(10);
    for client in [1, 2] {
        members.enter(ClientId(client), user("u"), 10);
    }
    members.enter(ClientId(3), None, 10);
    assert_eq!(told(&mut members, 0), "+1 +2 +3");
    members.leave(ClientId(2), Parting::Asked, 1_000);
    assert_eq!(told(&mut members, 1_000), "-2");
    members.leave(ClientId(1), Parting::Lost, 2_000);
    members.leave(ClientId(3), Parting::Lost, 2_000);
    // The user takes its place, under another connection and with other info; the anonymous are
    // never the same.
    let info = Some(b"[1]".as_slice().into());
    let other = Some(Arc::new(Identity { user: "u".into(), info }));
    members.enter(ClientId(4), other.clone(), 20);
    members.enter(ClientId(5), None, 20);
    assert_eq!(told(&mut members, 2_500), "+5");
    let roster = members.roster();
    assert_eq!((roster.clients, roster.users), (3, 1));
    let shown = roster.members.iter().find(|shown| shown.identity.is_some());
    let as_before = Shown { client: ClientId(1), identity: other, since_ms: 10 };
    assert_eq!(shown.map(|shown| &**shown), Some(&as_before), "it was there all the time");
    assert_eq!(told(&mut members, 4_000), "-3");
    // Under the name that the others know.
    members.leave(ClientId(4), Parting::Asked, 5_000);
    assert_eq!(told(&mut members, 5_000), "-1");
    assert_eq!(known(&members), BTreeSet::from([5]));
}

#[test]
fn two_of_a_user_that_ended_are_replaced_one_by_one() {
    let mut members = members(10);
    for client in [1, 2] {
        members.enter(ClientId(client), user("u"), 10);
    }
    assert_eq!(told(&mut members, 0), "+1 +2");
    members.leave(ClientId(1), Parting::Lost, 1_000);
    members.leave(ClientId(2), Parting::Lost, 1_500);
    for client in [3, 4, 5] {
        members.enter(ClientId(client), user("u"), 20);
    }
    assert_eq!(told(&mut members, 1_600), "+5");
    assert_eq!(told(&mut members, 9_000), "", "what was to leave was replaced");
    assert_eq!((known(&members), members.roster().users), (BTreeSet::from([1, 2, 5]), 1));
}

/// A client that subscribes and unsubscribes a thousand times a second.
#[test]
fn who_comes_and_goes_costs_the_others_one_message_a_tick() {
    let mut members = members(1_000);
    for client in 0..1_000 {
        members.enter(ClientId(client), None, 0);
    }
    members.tick(0);
    let mut messages = Vec::new();
    for ms in 1..=1_000 {
        if ms % 2 == 0 {
            members.enter(ClientId(7), None, ms);
        } else {
            members.leave(ClientId(7), Parting::Asked, ms);
        }
        // Seven shards look at the room, one after the other.
        if ms % 15 == 0 {
            messages.push(told(&mut members, ms));
        }
    }
    messages.retain(|text| !text.is_empty());
    assert!((5..=11).contains(&messages.len()), "{messages:?}");
    assert!(messages.iter().all(|text| text == "-7" || text == "+7"), "{messages:?}");
    assert!(messages.windows(2).all(|two| two[0] != two[1]), "{messages:?}");
}

#[test]
fn beyond_the_bound_counts_are_told_once_a_second_and_the_last_state_always() {
    let mut members = members(10);
    let enter = |members: &mut Members, client| members.enter(ClientId(client), user("u"), 0);
    (0..10).for_each(|client| enter(&mut members, client));
    assert_eq!(told(&mut members, 0).split(' ').count(), 10);
    enter(&mut members, 10);
    assert_eq!(told(&mut members, 100), "11/1");
    assert!(members.roster().members.is_empty());
    enter(&mut members, 11);
    assert_eq!(told(&mut members, 200), "");
    members.leave(ClientId(11), Parting::Asked, 300);
    assert_eq!((told(&mut members, 1_099), members.wake_at()), (String::new(), Some(1_100)));
    // One has come and gone, which is told all the same: somebody may have heard of twelve.
    assert_eq!((told(&mut members, 1_100).as_str(), members.wake_at()), ("11/1", None));
    // At the bound is not below it.
    members.leave(ClientId(10), Parting::Asked, 5_000);
    assert_eq!((told(&mut members, 5_000).as_str(), members.wake_at()), ("10/1", None));
    members.leave(ClientId(9), Parting::Asked, 5_200);
    assert_eq!(told(&mut members, 5_300), "");
    assert_eq!(told(&mut members, 6_000), "9/1 listed");
    enter(&mut members, 12);
    assert_eq!(told(&mut members, 6_100), "+12");
    // Up again within the second: what is told waits, and joins are not told meanwhile.
    enter(&mut members, 13);
    assert_eq!(told(&mut members, 6_200), "");
    assert_eq!(told(&mut members, 7_000), "11/1");
}

/// Ten thousand come within a second, and go within another.
#[test]
fn a_crowd_that_comes_and_goes_is_told_in_counts() {
    const CROWD: u64 = 10_000;
    let mut members = members(1_000);
    let (mut messages, mut counts) = (0, 0);
    let mut tick = |members: &mut Members, now_ms| match members.tick(now_ms) {
        None => {}
        Some(Told::Changes(changes)) => messages += changes.len() * members.roster().clients,
        Some(Told::Counts { clients, .. }) => counts += clients,
    };
    for client in 0..CROWD {
        members.enter(ClientId(client), None, 0);
        if client % 1_000 == 999 {
            tick(&mut members, client / 10);
        }
    }
    tick(&mut members, 1_200);
    assert_eq!((members.roster().clients, members.wake_at()), (10_000, None));
    for client in 0..CROWD {
        members.leave(ClientId(client), Parting::Lost, 2_000 + client / 10);
        if client % 1_000 == 999 {
            tick(&mut members, 2_000 + client / 10);
        }
    }
    while let Some(wake_ms) = members.wake_at() {
        tick(&mut members, wake_ms.max(3_000));
    }
    assert!(members.is_empty());
    // The first thousand are listed to each other; after that everybody hears of it once a second.
    assert_eq!(messages, 1_000 * 1_000);
    assert!(counts <= 4 * 10_000, "{counts}");
}

/// Few members, and a thousand changes a second.
#[test]
fn where_too_many_come_and_go_they_are_counted_until_it_is_calm() {
    let mut members = members(150);
    let mut seen = Vec::new();
    for tick in 0..50_u64 {
        for client in 0..100 {
            match tick {
                0..20 if tick % 2 == 0 => members.enter(ClientId(client), None, 0),
                0..20 => members.leave(ClientId(client), Parting::Asked, tick * 100),
                _ => {}
            }
        }
        seen.push(told(&mut members, tick * 100));
    }
    let listed = seen.iter().filter(|text| text.contains(['+', '-'])).count();
    let counts: Vec<_> = seen.iter().filter(|text| text.contains('/')).cloned().collect();
    assert_eq!(listed, 3, "of a hundred each");
    assert_eq!(counts.first().map(String::as_str), Some("0/0"));
    assert_eq!(counts.last().map(String::as_str), Some("0/0 listed"));
    assert!(counts.len() <= 5, "{counts:?}");
    assert_eq!(members.wake_at(), None);
}

#[test]
fn when_the_node_goes_nobody_is_told() {
    let mut members = members(10);
    for client in 0..4 {
        members.enter(ClientId(client), user("u"), 0);
    }
    members.tick(0);
    members.enter(ClientId(4), None, 0);
    members.leave(ClientId(4), Parting::Drained, 10);
    members.leave(ClientId(0), Parting::Drained, 10);
    assert_eq!((members.wake_at(), told(&mut members, 1_000)), (None, String::new()));
    assert_eq!(known(&members), BTreeSet::from([1, 2, 3]));
}

#[test]
fn of_those_who_linger_there_is_a_bound() {
    let mut members = members(10);
    for client in 0..=LINGERING_MAX as u64 {
        members.enter(ClientId(client), None, 0);
        members.leave(ClientId(client), Parting::Lost, 5);
    }
    assert_eq!((members.roster().clients, members.lingering.len()), (LINGERING_MAX, LINGERING_MAX));
}

/// Who is there, told in ten lines: connection, name under which it is known, user, and until when.
#[derive(Debug, Default)]
struct Model(Vec<(u64, u64, Option<u8>, Option<u64>)>);

impl Model {
    fn enter(&mut self, client: u64, user: Option<u8>) {
        let ended =
            |one: &&mut (u64, u64, Option<u8>, Option<u64>)| one.2 == user && one.3.is_some();
        let gone = self.0.iter_mut().filter(ended).min_by_key(|one| one.3);
        match gone.filter(|_| user.is_some()) {
            Some(one) => (one.0, one.3) = (client, None),
            None => self.0.push((client, client, user, None)),
        }
    }

    fn leave(&mut self, client: u64, lost_ms: Option<u64>) {
        match lost_ms {
            Some(now_ms) => {
                // Who is lost first is first in the list.
                let (lost, mut rest): (Vec<_>, Vec<_>) =
                    self.0.iter().partition(|one| one.0 == client && one.3.is_none());
                let until_ms = Some(now_ms + LINGER_MS);
                rest.extend(
                    lost.into_iter().map(|(at, known, user, _)| (at, known, user, until_ms)),
                );
                self.0 = rest;
            }
            None => self.0.retain(|one| one.0 != client || one.3.is_some()),
        }
    }

    fn expire(&mut self, now_ms: u64) {
        self.0.retain(|one| one.3.is_none_or(|until_ms| until_ms > now_ms));
    }
}

/// What a subscriber holds for true, who asks for the list when it is told that it may.
#[derive(Debug)]
struct Subscriber {
    list: Option<BTreeSet<u64>>,
    counts: (usize, usize),
    counted_ms: u64,
}

impl Subscriber {
    fn hear(&mut self, members: &Members, told: Told, now_ms: u64) {
        match told {
            Told::Changes(changes) => {
                let list = self.list.as_mut().expect("joins are told to those who have a list");
                for change in changes {
                    match change {
                        Change::Join(shown, _) => assert!(list.insert(shown.client.0), "once"),
                        Change::Leave(shown) => assert!(list.remove(&shown.client.0), "who joined"),
                    }
                }
            }
            Told::Counts { clients, users, listed } => {
                assert!(self.counted_ms == 0 || now_ms - self.counted_ms >= COUNTS_MS);
                self.counted_ms = now_ms;
                self.counts = (clients, users);
                self.list = listed.then(|| known(members));
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Enter(Option<u8>),
    Leave(usize),
    Lose(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::option::of(0_u8..3).prop_map(Step::Enter),
        2 => (0_usize..20).prop_map(Step::Leave),
        3 => (0_usize..20).prop_map(Step::Lose),
        3 => (0_u64..1_500).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn what_a_subscriber_is_told_comes_to_the_truth(
        steps in proptest::collection::vec(step(), 1..200),
        members_max in 0_usize..12,
    ) {
        let (mut members, mut model) = (members(members_max), Model::default());
        let counts = (0, 0);
        let mut subscriber = Subscriber { list: Some(BTreeSet::new()), counts, counted_ms: 0 };
        let (mut now_ms, mut next) = (1_000, 0);
        let mut open: Vec<u64> = Vec::new();
        for step in steps.into_iter().chain([Step::Pass(10_000)]) {
            match step {
                Step::Enter(name) => {
                    next += 1;
                    open.push(next);
                    let identity = name.and_then(|name| user(&name.to_string()));
                    members.enter(ClientId(next), identity, now_ms);
                    model.enter(next, name);
                }
                Step::Leave(_) | Step::Lose(_) if open.is_empty() => {}
                Step::Leave(at) => {
                    let client = open.remove(at % open.len());
                    members.leave(ClientId(client), Parting::Asked, now_ms);
                    model.leave(client, None);
                }
                Step::Lose(at) => {
                    let client = open.remove(at % open.len());
                    members.leave(ClientId(client), Parting::Lost, now_ms);
                    model.leave(client, Some(now_ms));
                }
                Step::Pass(ms) => {
                    // As a shard does: when it was told to, and ten times a second.
                    for tick_ms in (now_ms..now_ms + ms).filter(|ms| ms % 100 == 0) {
                        model.expire(tick_ms);
                        if members.wake_at().is_some_and(|wake_ms| wake_ms <= tick_ms)
                            && let Some(told) = members.tick(tick_ms)
                        {
                            subscriber.hear(&members, told, tick_ms);
                        }
                    }
                    now_ms += ms;
                }
            }
        }
        let truth: BTreeSet<u64> = model.0.iter().map(|one| one.1).collect();
        let users: BTreeSet<u8> = model.0.iter().filter_map(|one| one.2).collect();
        let roster = members.roster();
        prop_assert_eq!((roster.clients, roster.users), (truth.len(), users.len()));
        if truth.len() <= members_max {
            prop_assert_eq!(&known(&members), &truth);
        }
        match subscriber.list {
            Some(list) => prop_assert_eq!(list, truth),
            None => prop_assert_eq!(subscriber.counts, (truth.len(), users.len())),
        }
        prop_assert_eq!(members.wake_at(), None, "nothing is owed");
    }
}

//! Places and counts: one by one, and a million on many threads.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;

const SECOND: u64 = 1_000_000_000;

fn limits(options: LimitOptions) -> Limits {
    Limits::new(&options)
}

fn ip(text: &str) -> Net {
    text.parse::<IpAddr>().unwrap().into()
}

/// Nothing is left of anybody.
fn assert_nobody(limits: &Limits) {
    let crowds = [limits.nets(), limits.users()].map(|crowd| (crowd.all, crowd.distinct));
    assert_eq!((limits.open(), limits.strangers(), crowds), (0, 0, [(0, 0); 2]));
    let strangers = &limits.counts.strangers_of;
    assert_eq!((strangers.all(), strangers.distinct()), (0, 0));
}

#[test]
fn whoever_has_one_address_of_a_network_of_ipv6_has_all_of_them() {
    assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
    assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
    assert_ne!(ip("10.0.0.1"), ip("10.0.0.2"));
    assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    assert_ne!(ip("::10.0.0.1"), ip("10.0.0.1"));
}

#[test]
fn a_place_is_one_word_and_counts_as_what_it_is() {
    const { assert!(size_of::<Option<Place>>() == size_of::<usize>()) }
    let limits = limits(LimitOptions {
        connections: 3,
        connections_per_ip: 2,
        connections_per_user: 1,
        ..LimitOptions::default()
    });
    let net = limits.count_net(ip("10.0.0.1")).unwrap().unwrap();
    let mut one = limits.admit().unwrap();
    one.count_net(Arc::clone(&net));
    // The count is that of the socket, however many hold on to it.
    drop(net);
    assert_eq!(limits.nets(), Crowd { all: 1, distinct: 1, max: 2 });
    assert!(one.count_user(&limits, "u1"));
    let mut other = limits.admit().unwrap();
    assert!(!other.count_user(&limits, "u1") && other.count_user(&limits, "u2"));
    let third = limits.admit();
    assert!(third.is_some() && limits.admit().is_none());
    drop(one);
    assert!(other.count_user(&limits, "u1"), "who is another counts as the other");
    assert_eq!((limits.users().all, limits.nets().all, limits.open()), (1, 0, 2));
    drop((other, third));
    assert_nobody(&limits);
}

#[test]
fn a_quarter_of_all_places_is_for_those_who_have_yet_to_say_who_they_are() {
    let limits = limits(LimitOptions { connections: 8, ..LimitOptions::default() });
    let mut places: Vec<_> = (0..3).map(|_| limits.admit().unwrap()).collect();
    let each = [None, Some(ip("10.0.0.1")), Some(ip("10.0.0.2"))];
    let counted: Vec<_> = places
        .iter_mut()
        .zip(each)
        .map(|(place, net)| place.count_stranger(&limits, net))
        .collect();
    assert_eq!((counted, limits.strangers()), (vec![true, true, false], 2));
    assert!(places[0].count_user(&limits, "u1"));
    assert_eq!(limits.strangers(), 1);
    assert!(places[2].count_stranger(&limits, each[2]));
    drop(places);
    assert_nobody(&limits);
}

#[test]
fn one_address_has_half_of_that_quarter() {
    let limits = limits(LimitOptions { connections: 64, ..LimitOptions::default() });
    let many = |net: &str| -> Vec<Place> {
        let one = || {
            let mut place = limits.admit()?;
            place.count_stranger(&limits, Some(ip(net))).then_some(place)
        };
        std::iter::from_fn(one).collect()
    };
    let mut first = many("10.0.0.1");
    let (second, third) = (many("10.0.0.2"), many("10.0.0.3"));
    assert_eq!([first.len(), second.len(), third.len()], [8, 4, 2]);
    // Who has said who it is counts no more, nor who was there before.
    for place in &mut first {
        place.forgive();
    }
    assert_eq!(limits.strangers(), 6);
    first[0].become_stranger();
    assert_eq!((limits.strangers(), limits.counts.strangers_of.all()), (7, 6));
    assert_eq!(many("10.0.0.1").len(), 5);
    drop((first, second, third));
    assert_nobody(&limits);
}

#[test]
fn what_is_set_may_be_replaced_at_any_time() {
    let limits = limits(LimitOptions { connections: 10, ..LimitOptions::default() });
    let address = ip("10.0.0.1");
    let before = limits.count_net(address).unwrap();
    assert!(before.is_none(), "nothing is counted that nobody limits");
    limits.set(&LimitOptions { connections: 20, connections_per_ip: 2, ..LimitOptions::default() });
    let counted = [limits.count_net(address), limits.count_net(address)];
    assert_eq!(limits.count_net(address).err(), Some(Limited::ConnectionsPerIp));
    limits.set(&LimitOptions { connections: 1, connections_per_ip: 1, ..LimitOptions::default() });
    assert!(limits.count_net(address).is_err());
    limits.set(&LimitOptions::default());
    assert!(limits.count_net(address).unwrap().is_none());
    drop(counted);
    assert_nobody(&limits);

    limits.bound(5);
    assert_eq!(limits.connections_max(), 5);
    limits.set(&LimitOptions { connections: 9, ..LimitOptions::default() });
    assert_eq!(limits.connections_max(), 5, "descriptors do not come by a setting");
    limits.set(&LimitOptions { connections: 3, ..LimitOptions::default() });
    assert_eq!(limits.connections_max(), 3);
}

#[test]
fn who_comes_or_asks_too_often_is_told_when_it_may_again() {
    let limits = limits(LimitOptions {
        connects_per_second_per_ip: 5,
        http_requests_per_second: 1,
        ..LimitOptions::default()
    });
    let address = ip("10.0.0.1");
    for _ in 0..10 {
        limits.connect(address, SECOND).unwrap();
    }
    assert_eq!(limits.connect(address, SECOND), Err(Duration::from_millis(200)));
    assert_eq!(limits.connect(ip("10.0.0.2"), SECOND), Ok(()));
    let all = [Requester::Key(1), Requester::Key(2), Requester::Net(None)];
    for who in all.into_iter().chain([Requester::Net(Some(address))]) {
        assert_eq!([limits.request(who, SECOND), limits.request(who, SECOND)], [Ok(()), Ok(())]);
        assert_eq!(limits.request(who, SECOND), Err(Duration::from_secs(1)), "{who:?}");
    }
    limits.set(&LimitOptions::default());
    assert_eq!(limits.connect(address, SECOND), Ok(()));
}

#[test]
fn who_fails_too_often_is_not_looked_at() {
    let limits =
        limits(LimitOptions { auth_failures_per_second_per_ip: 2, ..LimitOptions::default() });
    let (one, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
    for _ in 0..4 {
        assert_eq!([limits.may_fail(one, SECOND), limits.fail(one, SECOND)], [Ok(()), Ok(())]);
    }
    let wait = Err(Duration::from_millis(500));
    assert_eq!([limits.may_fail(one, SECOND), limits.fail(one, SECOND)], [wait, wait]);
    assert_eq!(limits.may_fail(other, SECOND), Ok(()));
    assert_eq!(limits.may_fail(one, SECOND + SECOND / 2), Ok(()));
    limits.set(&LimitOptions::default());
    assert_eq!([limits.may_fail(one, SECOND), limits.fail(one, SECOND)], [Ok(()), Ok(())]);
}

/// Two hundred are let in together, each second again, and all of them are bad.
#[test]
fn what_failed_together_is_paid_for_together() {
    let limits =
        limits(LimitOptions { auth_failures_per_second_per_ip: 1, ..LimitOptions::default() });
    let (one, other) = (ip("10.0.0.1"), ip("10.0.0.2"));
    let mut looked_at = Vec::new();
    for second in 0..60 {
        let now_ns = (100 + second) * SECOND;
        let let_in = (0..200).filter(|_| limits.may_fail(one, now_ns).is_ok()).count();
        let in_time = (0..let_in).filter(|_| limits.fail_late(one, now_ns).is_ok()).count();
        assert!(in_time <= 2, "{in_time}");
        // What costs little to check does not make it longer.
        for _ in 0..200 {
            assert!(limits.fail(one, now_ns).is_err());
        }
        assert_eq!(limits.may_fail(other, now_ns), Ok(()));
        looked_at.push(let_in);
    }
    let times = looked_at.iter().filter(|let_in| **let_in > 0).count();
    assert_eq!((looked_at[0], looked_at[1], times), (200, 0, 6), "{looked_at:?}");
}

/// A million connections of a thousand addresses and users on eight threads, which end in every way
/// that there is: as they should, refused half way, with a panic, and on another thread.
#[test]
fn a_million_connects_and_disconnects_leave_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 125_000;
    let limits = limits(LimitOptions {
        connections: 300,
        connections_per_ip: 4,
        connections_per_user: 3,
        ..LimitOptions::default()
    });
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (limits, refused) = (&limits, &refused);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut open = Vec::new();
                for _ in 0..EACH {
                    let (address, user) = (random.u32(..1_000), random.u32(..1_000).to_string());
                    let connect = || {
                        let net = limits.count_net(Net::V4(address)).ok()?.unwrap();
                        let mut place = limits.admit()?;
                        place.count_net(net);
                        let stranger = address.is_multiple_of(3);
                        if stranger && !place.count_stranger(limits, Some(Net::V4(address % 7))) {
                            return None;
                        }
                        if address.is_multiple_of(101) {
                            // As a panic does, without its message.
                            resume_unwind(Box::new("in the middle of a handshake"));
                        }
                        place.count_user(limits, &user).then_some(place)
                    };
                    match catch_unwind(AssertUnwindSafe(connect)) {
                        Ok(Some(place)) => open.push(place),
                        Ok(None) | Err(_) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    assert!(limits.open() <= 300);
                    match random.u8(..8) {
                        0 => open.clear(),
                        1 => std::thread::scope(|other| {
                            let place = open.pop();
                            if random.u8(..64) == 0 {
                                other.spawn(move || drop(place));
                            }
                        }),
                        _ => {}
                    }
                    if open.len() > 60 {
                        let nth = random.usize(..open.len());
                        open.swap_remove(nth);
                    }
                }
            });
        }
    });
    let refused = refused.into_inner();
    assert!((1_000..900_000).contains(&refused), "some were refused, and not all: {refused}");
    assert_nobody(&limits);
}

//! Settings that change while queues have events.

use super::*;
use crate::core::hub::reset::Made;
use crate::proto::format::Compression;
use crate::proto::rate::Rate;

const SMALL: OutboxLimit = OutboxLimit { bytes: 1 << 20, events: 4 };

/// Everything that was queued, or is told of, and nothing twice.
#[test]
fn what_a_queue_has_beyond_a_smaller_bound_goes_by_its_policy() {
    for policy in [Policy::Disconnect, Policy::DropNewest, Policy::DropOldest] {
        let mut hub = Hub::new(LIMIT);
        let id = seat(&mut hub, 1);
        join(&mut hub, id, 1, policy);
        let mut kernel = Kernel::default();
        publish(&mut hub, &events(1, 1..9), &mut kernel);
        hub.reset(SMALL, Compression::default());
        let outcome = publish(&mut hub, &events(1, 9..10), &mut kernel);
        let got = |range: std::ops::Range<u64>| range.map(|offset| Got::Event(1, offset));
        let (dropped, expected): (u64, Vec<Got>) = match policy {
            Policy::DropOldest => {
                (5, [Got::Lagged(1, 1, 5, 5)].into_iter().chain(got(6..10)).collect())
            }
            Policy::DropNewest => (1, got(1..9).chain([Got::Lagged(1, 9, 9, 1)]).collect()),
            Policy::Disconnect | Policy::Latest => (1, got(1..9).collect()),
        };
        assert_eq!(outcome.dropped[policy as usize], dropped, "{policy:?}");
        assert_eq!(outcome.overflowed.len(), usize::from(policy == Policy::Disconnect));
        assert_eq!(received(&mut hub, id), expected, "{policy:?}");
        if policy == Policy::Disconnect {
            continue;
        }
        // A larger one has room for more at once.
        hub.reset(LIMIT, Compression::default());
        let outcome = publish(&mut hub, &events(1, 10..18), &mut kernel);
        assert_eq!(outcome.dropped, [0; 4], "{policy:?}");
        assert_eq!(received(&mut hub, id), got(10..18).collect::<Vec<_>>(), "{policy:?}");
    }
}

#[test]
fn a_subscription_says_how_it_was_made() {
    let mut hub = Hub::new(LIMIT);
    let id = seat(&mut hub, 1);
    let rate = Rate::new(5.0);
    assert_eq!((hub.made(id, Alias(1)), hub.pattern_made(id, "a:")), (None, None));
    for (policy, max_rate) in [(Policy::Latest, None), (Policy::DropNewest, rate)] {
        let join = Join { max_rate, ..after(policy, 0) };
        let made = Some(Made { policy, max_rate });
        let mut kernel = Kernel::default();
        if hub.made(id, Alias(1)).is_none() {
            hub.subscribe(id, (&channel(1), Alias(1)), join);
        } else {
            hub.update((id, Alias(1)), join, &mut kernel, 0);
        }
        hub.subscribe_pattern((id, "a:"), join, &mut kernel, 0);
        assert_eq!(hub.made(id, Alias(1)), made);
        assert_eq!(hub.pattern_made(id, "a:"), made);
    }
    assert!(rate.is_some());
}

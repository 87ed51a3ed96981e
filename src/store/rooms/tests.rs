//! Tests of rooms: which shards are told, when who looks, and when nothing is left.

use std::sync::Arc;

use super::*;
use crate::core::policy::PresenceRule;
use crate::core::signals::Told as News;
use crate::core::signals::tests::signal_on;

/// What shards were told, with the notices as they would stand on the wire; and how often.
#[derive(Default)]
struct Heard(Mutex<Vec<(u16, String)>>, Mutex<u64>);

impl Tell for Heard {
    fn tell(&self, shard: ShardId, notice: Arc<Notice>) -> bool {
        let text = match &*notice {
            Notice::Presence(frames) => frames.of(ClientId(u64::MAX)).concat(),
            Notice::Signal(told) => told.signal.frame().to_vec(),
        };
        *self.1.lock() += 1;
        self.0.lock().push((shard.0, String::from_utf8_lossy(&text).into_owned()));
        false
    }

    fn told(&self, _: ShardId) -> u64 {
        *self.1.lock()
    }
}

impl Heard {
    /// Which shards were told of what kinds, since the last call.
    fn take(&self) -> Vec<(u16, Vec<&'static str>)> {
        let told = std::mem::take(&mut *self.0.lock());
        let kinds = |text: &str| {
            let mut kinds: Vec<_> = ["\"join\"", "\"leave\"", "\"presence\"", "\"signal\""]
                .into_iter()
                .flat_map(|kind| text.matches(kind).map(move |_| kind.trim_matches('"')))
                .collect();
            kinds.sort_unstable();
            kinds
        };
        told.iter().map(|(shard, text)| (*shard, kinds(text))).collect()
    }
}

const RULE: RoomRule = RoomRule {
    presence: Some(PresenceRule { linger_ms: 2_000, members_max: 100 }),
    signals: false,
};

fn at(ms: u64) -> Now {
    Now { node_ns: ms * 1_000_000, unix_ms: 1_700_000_000_000 + ms }
}

fn enter(rooms: &Rooms, client: u64, shard: u16, ms: u64) -> Option<u64> {
    let name = ChannelName::from_checked("room:1");
    let visitor = Visitor { client: ClientId(client), identity: None, shard: ShardId(shard) };
    rooms.enter((&name, Alias(7)), RULE, visitor, at(ms)).due.map(|due| due.0)
}

fn leave(rooms: &Rooms, client: u64, shard: u16, last: bool, ms: u64) -> Option<u64> {
    let who = (ClientId(client), ShardId(shard));
    rooms.leave("room:1", who, (Parting::Lost, last), at(ms)).map(|due| due.0)
}

fn tick(rooms: &Rooms, due_ms: u64, shard: u16, ms: u64) -> Option<u64> {
    rooms.tick("room:1", (due_ms, ShardId(shard)), at(ms)).map(|due| due.0)
}

#[test]
fn the_shards_that_have_the_channel_are_told_and_one_of_them_looks() {
    let heard = Arc::new(Heard::default());
    let rooms = Rooms::new(Arc::clone(&heard) as _);
    assert_eq!(enter(&rooms, 1, 0, 10), Some(0));
    assert_eq!(enter(&rooms, 2, 3, 20), None, "the other looks already");
    assert_eq!(tick(&rooms, 0, 3, 100), None, "that was not asked of this one");
    assert_eq!(tick(&rooms, 0, 0, 100), None);
    assert_eq!(heard.take(), [(0, vec!["join", "join"]), (3, vec!["join", "join"])]);
    assert_eq!(leave(&rooms, 1, 0, true, 1_000), Some(3_000));
    assert_eq!(leave(&rooms, 1, 0, true, 1_500), None, "once is enough");
    assert_eq!(rooms.presence("room:1").clients, 2);
    // News are sooner than what lingers: this shard looks first, and then at what is left.
    assert_eq!(enter(&rooms, 3, 3, 1_600), Some(190));
    assert_eq!(tick(&rooms, 190, 3, 1_700), Some(3_000));
    assert_eq!(heard.take(), [(3, vec!["join"])], "the other has nobody there");
    assert_eq!(tick(&rooms, 3_000, 0, 3_000), None, "it is not the one any more");
    assert_eq!(tick(&rooms, 3_000, 3, 3_000), None);
    assert_eq!(heard.take(), [(3, vec!["leave"])]);
    assert_eq!(rooms.presence("room:1").clients, 2);
    assert_eq!((rooms.len(), rooms.presence("room:2")), (1, Roster::default()));
}

#[test]
fn a_room_is_there_as_long_as_somebody_is_and_lingers() {
    let heard = Arc::new(Heard::default());
    let rooms = Rooms::new(Arc::clone(&heard) as _);
    enter(&rooms, 1, 0, 10);
    assert_eq!(leave(&rooms, 1, 0, true, 1_000), None, "it was to look at once");
    assert_eq!(rooms.presence("room:1").clients, 1);
    assert_eq!(tick(&rooms, 0, 0, 1_100), Some(3_000));
    assert_eq!(tick(&rooms, 3_000, 0, 3_000), None);
    assert_eq!((rooms.len(), heard.take()), (0, vec![]), "there was nobody to tell");
    assert_eq!(tick(&rooms, 3_000, 0, 4_000), None);
    assert_eq!(leave(&rooms, 1, 0, true, 4_000), None, "where there is no room");
}

#[test]
fn of_those_who_linger_in_all_rooms_there_is_a_bound() {
    let rooms = Rooms::new(Arc::new(Heard::default()));
    let lingering = || rooms.lingering.load(Ordering::Relaxed);
    enter(&rooms, 1, 0, 0);
    leave(&rooms, 1, 0, true, 0);
    assert_eq!((lingering(), rooms.len()), (1, 1));
    rooms.lingering.store(LINGERING_MAX, Ordering::Relaxed);
    enter(&rooms, 2, 0, 0);
    leave(&rooms, 2, 0, true, 0);
    assert_eq!(rooms.presence("room:1").clients, 1, "the second has left at once");
    rooms.lingering.store(1, Ordering::Relaxed);
    tick(&rooms, 0, 0, 5_000);
    assert_eq!((lingering(), rooms.len()), (0, 0));
}

#[test]
fn a_signal_is_told_to_the_shards_that_are_there_and_to_whoever_comes() {
    let heard = Arc::new(Heard::default());
    let rooms = Rooms::new(Arc::clone(&heard) as _);
    let name = ChannelName::from_checked("room:1");
    let enter = |client, shard, signals| {
        let visitor = Visitor { client: ClientId(client), identity: None, shard: ShardId(shard) };
        let rule = RoomRule { presence: None, signals };
        rooms.enter((&name, Alias(7)), rule, visitor, at(0))
    };
    let show = |value, begins| {
        let signal = signal_on(&name, (7, ClientId(1), "a"), value);
        rooms.signal(News { signal, begins })
    };
    assert_eq!(show(Some(1), true), Some(None), "nobody is there to be told");
    let entered = enter(1, 0, true);
    assert_eq!((entered.signals.map(|list| list.len()), entered.fence), (Some(0), 0));
    assert_eq!(show(Some(1), true), Some(None));
    assert_eq!(heard.take(), [(0, vec!["signal"])]);
    let entered = enter(2, 3, true);
    let list = entered.signals.unwrap();
    assert!(list.len() == 1 && list[0].entry().ends_with(b"\"data\":1}"));
    assert_eq!(entered.fence, 1, "what was told is in the list");
    assert_eq!(show(Some(2), false), Some(None));
    assert_eq!(heard.take(), [(0, vec!["signal"]), (3, vec!["signal"])]);
    let list = enter(2, 3, true).signals.unwrap();
    assert!(list.len() == 1 && list[0].entry().ends_with(b"\"data\":2}"));
    show(None, false);
    assert_eq!(enter(4, 3, true).signals.unwrap().len(), 0);
    assert!(enter(5, 3, false).signals.is_none(), "where none may be shown");
    for (client, shard) in [(1, 0), (2, 3)] {
        leave(&rooms, client, shard, true, 9);
    }
    assert!(rooms.is_empty());
}

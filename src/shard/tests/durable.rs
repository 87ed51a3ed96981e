//! What a client is owed for durable events, with a log that answers when the test says so.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;

use super::{Client, bytes_of, options};
use crate::core::history::HistoryRule;
use crate::core::metrics::Histogram;
use crate::core::policy::{Keep, Policies, PolicyRule};
use crate::proto::close::CloseReason;
use crate::proto::event::Payload;
use crate::proto::name::{ChannelName, ShardId};
use crate::proto::position::{Epoch, Position};
use crate::proto::ws::frame::Opcode;
use crate::shard::clock::Clock;
use crate::shard::durable::Publishing;
use crate::shard::local::Local;
use crate::shard::mailbox::Mailbox;
use crate::shard::mailbox::tests::event;
use crate::shard::node::PublishError;
use crate::store::{
    Answered, Deliver, Durable, Loading, NewEvent, Now, Published, StoreError, Ticket, Told,
};

/// Takes everything, and answers nothing by itself.
#[derive(Default)]
struct Slow {
    tickets: Mutex<VecDeque<Ticket>>,
    waiters: Mutex<Vec<Told>>,
    /// Prefixes that are to be loaded, and those that are.
    prefixes: Mutex<Vec<(String, Loaded)>>,
    whole: Mutex<Vec<String>>,
    /// How long it has no room, and when somebody began to wait for that.
    full: Mutex<Option<(Clock, Duration)>>,
    asked_ms: Mutex<u64>,
}

type Loaded = oneshot::Sender<Result<(), StoreError>>;

impl Durable for Slow {
    fn publish(&self, _: NewEvent<'static>, _: Now, told: Told) -> Result<bool, StoreError> {
        match told {
            Told::Connection(ticket) => self.tickets.lock().push_back(ticket),
            waiter @ Told::Waiter(_) => self.waiters.lock().push(waiter),
        }
        Ok(false)
    }

    fn load(&self, _: &str, _: Keep) -> Result<Loading, StoreError> {
        Err(StoreError::Away)
    }

    fn load_prefix(&self, prefix: &str) -> Result<Loading, StoreError> {
        let (done, loading) = oneshot::channel();
        self.prefixes.lock().push((prefix.to_owned(), done));
        Ok(loading)
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.whole.lock().iter().any(|one| one == prefix)
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let Some((clock, full)) = *self.full.lock() else {
            return Box::pin(std::future::ready(()));
        };
        *self.asked_ms.lock() = clock.node_ms();
        Box::pin(tokio::time::sleep(full))
    }

    fn fault(&self) -> Option<String> {
        None
    }

    fn watch(&self, _: Now) {}

    fn faulty(&self) -> u64 {
        0
    }

    fn seconds(&self) -> Histogram {
        Histogram::default()
    }

    fn waiting(&self) -> u64 {
        self.tickets.lock().len() as u64
    }

    fn close(&self) {}
}

impl Slow {
    /// Answers the first `count` of what it has.
    fn answer(&self, local: &Local, count: usize, crowded: Option<ShardId>) {
        let tickets: Vec<Ticket> = self.tickets.lock().drain(..count).collect();
        let answers = tickets.into_iter().map(|ticket| {
            let position = Position { epoch: Epoch::from_seed(1), offset: ticket.id.unwrap() };
            let published = Published { position, duplicate: false, crowded };
            Answered { ticket, result: Ok((ChannelName::from_checked("log:1"), published)) }
        });
        local.0.answered(answers.collect());
    }
}

fn on_a_durable_shard<F: Future<Output = ()>>(test: impl FnOnce(Local, Arc<Slow>) -> F) {
    let log = Arc::<Slow>::default();
    let of = Arc::<Slow>::clone(&log);
    let node = || {
        let history = HistoryRule { size: 10, ttl_ms: 1_000_000 };
        let keep = Keep { durable: true, keys: 4, history };
        let rule = PolicyRule { keep, patterns: true, ..PolicyRule::default() };
        let policies = Policies::new(PolicyRule::default(), [("log".to_owned(), rule)]);
        let publish_timeout = Duration::from_millis(100);
        let options = super::NodeOptions { policies, publish_timeout, ..options() };
        let node = super::bare_node(1, options);
        Arc::new(node.with_log(of))
    };
    super::on_a_shard_of(node, |local| test(local, log));
}

fn publish(n: u64) -> Vec<u8> {
    let text = format!(r#"{{"type":"publish","channel":"log:1","data":1,"id":{n}}}"#);
    bytes_of(Opcode::Text, text.as_bytes())
}

/// Lets the connections do what they can.
async fn turns() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

async fn until_waiting(log: &Slow, count: u64) {
    while log.waiting() < count {
        tokio::task::yield_now().await;
    }
    turns().await;
    assert_eq!(log.waiting(), count);
}

#[test]
fn a_client_is_not_read_while_it_is_owed_too_many_answers() {
    on_a_durable_shard(async |local, log| {
        let mut client = Client::connect(&local).await;
        let all: Vec<u8> = (1..=400).flat_map(publish).collect();
        client.0.write_all(&all).await.unwrap();
        until_waiting(&log, 256).await;
        log.answer(&local, 127, None);
        until_waiting(&log, 129).await;
        log.answer(&local, 1, None);
        until_waiting(&log, 256).await;
        let id = local.0.hub.borrow().seat_ids()[0];
        assert_eq!(local.0.hub.borrow_mut().next_dirty(), Some(id), "the round writes it");
        local.0.flush(id);
        for n in 1..=128 {
            let (_, answer) = client.frame().await.unwrap();
            let wanted = format!(r#"{{"type":"published","id":{n},"#);
            assert!(answer.starts_with(wanted.as_bytes()), "{}", String::from_utf8_lossy(&answer));
        }
        // A command about the channel waits for all of them, and is carried out then.
        log.answer(&local, 256, None);
        until_waiting(&log, 16).await;
        let subscribe = br#"{"type":"subscribe","channel":"log:1","id":999}"#;
        client.send(Opcode::Text, subscribe).await;
        turns().await;
        log.answer(&local, 16, None);
        turns().await;
        local.0.flush(id);
        for _ in 129..=400 {
            client.frame().await.unwrap();
        }
        let (_, refused) = client.frame().await.unwrap();
        let wanted = br#"{"type":"error","id":999,"code":"unavailable""#;
        assert!(refused.starts_with(wanted), "{}", String::from_utf8_lossy(&refused));
    });
}

#[test]
fn a_mailbox_that_a_durable_event_has_filled_holds_its_publisher_back() {
    on_a_durable_shard(async |local, log| {
        let mut client = Client::connect(&local).await;
        client.0.write_all(&publish(1)).await.unwrap();
        until_waiting(&log, 1).await;
        let mailboxes = local.0.node.mailboxes();
        while !mailboxes.deliver(ShardId(0), event(1)) {}
        log.answer(&local, 1, Some(ShardId(0)));
        client.0.write_all(&publish(2)).await.unwrap();
        until_waiting(&log, 0).await;
        let mailbox: &Mailbox = &mailboxes.all()[0];
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        mailbox.settle(mail.len(), 0);
        until_waiting(&log, 1).await;
    });
}

#[test]
fn an_answer_finds_nobody_where_its_client_has_gone() {
    on_a_durable_shard(async |local, log| {
        let mut client = Client::connect(&local).await;
        client.0.write_all(&publish(1)).await.unwrap();
        until_waiting(&log, 1).await;
        let id = local.0.hub.borrow().seat_ids()[0];
        local.0.begin_close(id, CloseReason::Disconnected);
        log.answer(&local, 1, None);
        local.0.flush(id);
        let (_, last) = client.frame().await.unwrap();
        assert!(last.starts_with(br#"{"type":"disconnect""#));
        assert_eq!(client.frame().await.unwrap().0, 0x88, "and nothing behind the close");
        assert!(client.frame().await.is_err());
        // The seat has somebody else by then.
        drop(client);
        while local.0.socket(id).is_some() {
            turns().await;
        }
        let mut next = Client::connect(&local).await;
        let ticket = Ticket { seat: id, ..ticket_of_somebody() };
        log.tickets.lock().push_back(ticket);
        log.answer(&local, 1, None);
        next.settle().await;
    });
}

/// Goal: while a disk hangs, whoever waits for it sees that the node lives, and is not given up for
/// what nobody reads.
#[test]
fn who_waits_for_the_disk_is_pinged_and_not_judged() {
    on_a_durable_shard(async |local, log| {
        let shard = &local.0;
        let mut client = Client::connect(&local).await;
        client.0.write_all(&publish(1)).await.unwrap();
        until_waiting(&log, 1).await;
        client.send(Opcode::Text, br#"{"type":"subscribe","channel":"log:1"}"#).await;
        let id = shard.hub.borrow().seat_ids()[0];
        while !shard.hub.borrow_mut().seat(id).unwrap().session.is_held() {
            turns().await;
        }
        let (begun_ms, mut due) = (shard.node.clock().node_ms(), Vec::new());
        // An hour. The wheel goes by slots: a moment later it has come.
        for beat in 1..=144 {
            shard.expire(begun_ms + beat * 26_000, &mut due);
            assert_eq!(client.frame().await.unwrap(), (0x89, Vec::new()), "{beat}");
        }
        assert!(shard.socket(id).unwrap().ending.get().is_none());
    });
}

/// Goal: a command that waits counts with all that it has.
#[test]
fn what_waits_for_the_disk_is_counted() {
    on_a_durable_shard(async |local, log| {
        let shard = &local.0;
        let mut client = Client::connect(&local).await;
        client.0.write_all(&publish(1)).await.unwrap();
        until_waiting(&log, 1).await;
        let id = shard.hub.borrow().seat_ids()[0];
        let memory = || shard.hub.borrow().share_bytes(id);
        let before = memory();
        let epoch = "e".repeat(30_000);
        let text = format!(
            r#"{{"type":"history","channel":"log:1","since":{{"epoch":"{epoch}","offset":1}},"id":2}}"#
        );
        client.send(Opcode::Text, text.as_bytes()).await;
        while !shard.hub.borrow_mut().seat(id).unwrap().session.is_held() {
            turns().await;
        }
        let held = memory() - before;
        assert!((30_000..31_000).contains(&held), "{held}");
        log.answer(&local, 1, None);
        turns().await;
        assert!(memory() < before + 1_000, "it is carried out");
    });
}

/// Goal: a pattern is shown durable channels when all of them are there, and its client waits until
/// then; whoever asks for none of that does not.
#[test]
fn a_pattern_waits_until_its_channels_are_in_memory() {
    on_a_durable_shard(async |local, log| {
        let mut client = Client::connect(&local).await;
        let subscribe = |id: u32, more: &str| {
            format!(r#"{{"type":"subscribe","channel":"log:*","id":{id}{more}}}"#)
        };
        let answer = |id: u32| {
            format!(r#"{{"type":"subscribed","id":{id},"channel":"log:*","pattern":true"#)
        };
        client.send(Opcode::Text, subscribe(1, "").as_bytes()).await;
        turns().await;
        let mut waiting = std::mem::take(&mut *log.prefixes.lock());
        let (prefix, done) = waiting.pop().unwrap();
        assert_eq!((prefix.as_str(), waiting.len()), ("log:", 0));
        assert!(!local.0.hub.borrow().is_on_prefix("log:"), "it has not begun");
        log.whole.lock().push(prefix);
        done.send(Ok(())).unwrap();
        let (_, told) = client.frame().await.unwrap();
        assert!(told.starts_with(answer(1).as_bytes()), "{}", String::from_utf8_lossy(&told));
        log.whole.lock().clear();
        let mut other = Client::connect(&local).await;
        other.send(Opcode::Text, subscribe(2, r#","snapshot":false"#).as_bytes()).await;
        let (_, told) = other.frame().await.unwrap();
        assert!(told.starts_with(answer(2).as_bytes()), "{}", String::from_utf8_lossy(&told));
        // Where they cannot be read the subscription is refused, and may be tried again.
        let mut third = Client::connect(&local).await;
        third.send(Opcode::Text, subscribe(3, "").as_bytes()).await;
        turns().await;
        let (_, done) = log.prefixes.lock().pop().unwrap();
        done.send(Err(StoreError::Away)).unwrap();
        let (_, told) = third.frame().await.unwrap();
        let wanted = br#"{"type":"error","id":3,"code":"unavailable""#;
        assert!(told.starts_with(wanted), "{}", String::from_utf8_lossy(&told));
        assert!(local.0.hub.borrow().is_on_prefix("log:"), "the others have it");
    });
}

/// Many events of one caller wait for the disk as long as one does.
#[test]
fn whoever_waits_for_many_events_waits_no_longer_than_for_one() {
    on_a_durable_shard(async |local, log| {
        let node = &local.0.node;
        let mut all = Vec::new();
        for _ in 0..50 {
            let event = NewEvent::new("log:1".into(), Payload::Json(b"1"[..].into()));
            all.push(node.submit(event).await.unwrap());
        }
        let begun_ms = node.clock().node_ms();
        for publishing in all {
            assert_eq!(publishing.done().await.unwrap_err(), PublishError::Overloaded);
        }
        let took_ms = node.clock().node_ms() - begun_ms;
        assert!(took_ms < 25 * 100, "{took_ms}");
        assert_eq!(log.waiters.lock().len(), 50);
    });
}

/// The time in which there was no room counts: both waits together take no longer than one may.
#[test]
fn whoever_waits_for_room_waits_less_for_the_disk() {
    on_a_durable_shard(async |local, log| {
        let node = &local.0.node;
        *log.full.lock() = Some((node.clock(), Duration::from_millis(20)));
        let event = NewEvent::new("log:1".into(), Payload::Json(b"1"[..].into()));
        let publishing = node.submit(event).await.unwrap();
        let asked = node.clock().instant(*log.asked_ms.lock());
        let Publishing::Waits(_, until) = publishing else { panic!("it is not on disk yet") };
        assert!(until <= asked + Duration::from_millis(100), "{:?}", until - asked);
    });
}

fn ticket_of_somebody() -> Ticket {
    let client = crate::proto::name::ClientId(1);
    Ticket { shard: ShardId(0), seat: 0, client, id: Some(1) }
}

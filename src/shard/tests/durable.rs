//! What a client is owed for durable events, with a log that answers when the test says so.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::task::LocalSet;

use super::{Client, PATIENCE, bytes_of, options};
use crate::core::metrics::Histogram;
use crate::core::policy::{Keep, Policies, PolicyRule};
use crate::proto::close::CloseReason;
use crate::proto::event::{Event, Payload};
use crate::proto::name::{Alias, ChannelName, ShardId};
use crate::proto::position::{Epoch, Position};
use crate::proto::ws::frame::Opcode;
use crate::shard::local::Local;
use crate::shard::mailbox::{Mailbox, Mailboxes};
use crate::shard::node::{Node, PublishError};
use crate::store::memory::Memory;
use crate::store::{
    Answered, Deliver, Durable, Loading, NewEvent, Now, Published, StoreError, Ticket, Told,
};

/// Takes everything, and answers nothing by itself.
#[derive(Default)]
struct Slow(Mutex<VecDeque<Ticket>>, Mutex<Vec<Told>>);

impl Durable for Slow {
    fn publish(&self, _: NewEvent<'static>, _: Now, told: Told) -> Result<bool, StoreError> {
        match told {
            Told::Connection(ticket) => self.0.lock().push_back(ticket),
            waiter @ Told::Waiter(_) => self.1.lock().push(waiter),
        }
        Ok(false)
    }

    fn load(&self, _: &str, _: Keep) -> Result<Loading, StoreError> {
        Err(StoreError::Away)
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    fn fault(&self) -> Option<String> {
        None
    }

    fn seconds(&self) -> Histogram {
        Histogram::default()
    }

    fn waiting(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn close(&self) {}
}

impl Slow {
    /// Answers the first `count` of what it has.
    fn answer(&self, local: &Local, count: usize, crowded: Option<ShardId>) {
        let tickets: Vec<Ticket> = self.0.lock().drain(..count).collect();
        let answers = tickets.into_iter().map(|ticket| {
            let position = Position { epoch: Epoch::from_seed(1), offset: ticket.id.unwrap() };
            let published = Published { position, duplicate: false, crowded };
            Answered { ticket, result: Ok((ChannelName::from_checked("log:1"), published)) }
        });
        local.0.answered(answers.collect());
    }
}

fn on_a_durable_shard<F: Future<Output = ()>>(test: impl FnOnce(Local, Arc<Slow>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async {
        let keep = Keep { durable: true, ..Keep::default() };
        let rule = PolicyRule { keep, ..PolicyRule::default() };
        let policies = Policies::new(PolicyRule::default(), [("log".to_owned(), rule)]);
        let mailboxes = Arc::new(Mailboxes::new(1));
        let store = Arc::new(Memory::new(Arc::<Mailboxes>::clone(&mailboxes)));
        let publish_timeout = std::time::Duration::from_millis(100);
        let options = super::NodeOptions { policies, publish_timeout, ..options() };
        let log = Arc::<Slow>::default();
        let node = Node::new(options, store, mailboxes);
        let node = Arc::new(node.with_log(Arc::<Slow>::clone(&log)));
        let local = Local::new(ShardId(0), node);
        tokio::time::timeout(PATIENCE, test(local, log)).await.expect("it takes too long");
    };
    LocalSet::new().block_on(&runtime, limited);
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
        while !mailboxes.deliver(ShardId(0), event()) {}
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
        log.0.lock().push_back(ticket);
        log.answer(&local, 1, None);
        next.settle().await;
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
        assert_eq!(log.1.lock().len(), 50);
    });
}

fn ticket_of_somebody() -> Ticket {
    let client = crate::proto::name::ClientId(1);
    Ticket { shard: ShardId(0), seat: 0, client, id: Some(1) }
}

fn event() -> Arc<Event> {
    Arc::new(Event {
        channel: ChannelName::from_checked("log:1"),
        alias: Alias(1),
        offset: 1,
        ts_ms: 0,
        taken_ns: 0,
        key: None,
        from: None,
        hidden_from: None,
        payload: Payload::Json(b"1"[..].into()),
        json_frame: std::sync::OnceLock::new(),
        frames: crate::proto::encoder::Frames::default(),
    })
}

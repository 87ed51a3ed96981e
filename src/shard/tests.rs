//! A shard on the test's own thread, with real sockets and without HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::local::{Guest, Local};
use super::mailbox::{Mailbox, Mailboxes};
use super::node::{Node, NodeOptions, PublishError};
use crate::core::hub::Join;
use crate::core::metrics::Counter;
use crate::core::outbox::OutboxLimit;
use crate::core::policy::{Policies, Policy, PolicyRule, PresenceRule, RoomRule};
use crate::proto::event::{Author, Payload};
use crate::proto::format::{Compression, Spoken};
use crate::proto::name::{ClientId, ShardId};
use crate::proto::ws::frame::{Opcode, client_frame};
use crate::store::memory::Memory;
use crate::store::{NewEvent, Wish};

mod durable;
mod settings;
mod work;

/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> NodeOptions {
    let rule = PolicyRule { keys_max: 10, ..PolicyRule::default() };
    let presence = Some(PresenceRule { linger_ms: 0, members_max: 10 });
    let room = RoomRule { presence, signals: false };
    NodeOptions {
        node_name: "test".to_owned(),
        limits: super::LimitOptions { connections: 100, ..super::LimitOptions::default() },
        message_bytes: 65_536,
        subscriptions_max: 16,
        outbox: OutboxLimit { bytes: 256 * 1024, events: 1_024 },
        memory_max: 1 << 30,
        ping_interval: Duration::from_secs(25),
        ping_timeout: Duration::from_secs(10),
        drain: Duration::from_secs(10),
        publish_timeout: Duration::from_millis(300),
        slow_disconnect: None,
        policies: Policies::new(rule, [("room".to_owned(), PolicyRule { room, ..rule })]),
        auth: super::AuthOptions::default(),
        compression: Compression::default(),
    }
}

fn bare_node(shards: usize, options: NodeOptions) -> Node {
    let mailboxes = Arc::new(Mailboxes::new(shards));
    let store = Arc::new(Memory::new(Arc::<Mailboxes>::clone(&mailboxes)));
    Node::new(options, store, mailboxes)
}

fn node(shards: usize, options: NodeOptions) -> Arc<Node> {
    Arc::new(bare_node(shards, options))
}

/// Runs a test on a thread with a shard's runtime.
fn on_a_shard<F: Future<Output = ()>>(test: impl FnOnce(Local) -> F) {
    on_a_shard_of(|| node(1, options()), test);
}

/// The same with the shard of another node.
fn on_a_shard_of<F: Future<Output = ()>>(
    node: impl FnOnce() -> Arc<Node>,
    test: impl FnOnce(Local) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async {
        let local = Local::new(ShardId(0), node());
        tokio::time::timeout(PATIENCE, test(local)).await.expect("it takes too long");
    };
    LocalSet::new().block_on(&runtime, limited);
}

/// A client whose handshake is done, and whose welcome is read.
struct Client(TcpStream);

impl Client {
    async fn connect(local: &Local) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        let place = local.node().limits().admit().unwrap();
        local.adopt(
            served,
            Vec::new(),
            Guest { place, spoken: Spoken::default(), was: None, bearer: None },
        );
        let mut client = Self(stream);
        let (first, welcome) = client.frame().await.unwrap();
        assert!(first == 0x81 && welcome.starts_with(br#"{"type":"welcome""#));
        client
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        self.0.write_all(&bytes_of(opcode, payload)).await.unwrap();
    }

    /// Sends a ping and reads its pong: what was sent before has been taken in.
    async fn settle(&mut self) {
        self.send(Opcode::Ping, b"settle").await;
        assert_eq!(self.frame().await.unwrap(), (0x8A, b"settle".to_vec()));
    }

    /// The next short frame of the server: its first byte and its payload.
    async fn frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await?;
        let len = match head[1] {
            126 => usize::from(self.0.read_u16().await?),
            short => usize::from(short),
        };
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload).await?;
        Ok((head[0], payload))
    }
}

fn bytes_of(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client_frame(opcode, payload, [1, 2, 3, 4], &mut bytes);
    bytes
}

/// Reads that end inside a message do not leave anything in the wheel.
#[test]
fn a_connection_has_one_entry_in_the_wheel_however_its_messages_are_cut() {
    on_a_shard(async |local| {
        let shard = &local.0;
        let mut client = Client::connect(&local).await;
        assert_eq!(shard.wheel.borrow().len(), 1);
        let ping = bytes_of(Opcode::Ping, b"cut");
        // Each write ends inside a frame, and begins with the end of the one before.
        let mut cut = [&ping[3..], &ping[..3]].concat();
        client.0.write_all(&ping[..3]).await.unwrap();
        for _ in 0..200 {
            client.0.write_all(&cut).await.unwrap();
            assert_eq!(client.frame().await.unwrap(), (0x8A, b"cut".to_vec()));
        }
        assert_eq!(shard.wheel.borrow().len(), 1);
        // Nor does what fires: an hour of heartbeats.
        cut.truncate(ping.len() - 3);
        client.0.write_all(&cut).await.unwrap();
        client.frame().await.unwrap();
        let mut due = Vec::new();
        for beat in 1..=144 {
            let now_ms = beat * 25_000;
            let id = shard.hub.borrow().seat_ids()[0];
            shard.hub.borrow_mut().seat(id).unwrap().session.heard(now_ms - 1_000);
            shard.expire(now_ms, &mut due);
            assert_eq!(shard.wheel.borrow().len(), 1, "after {beat}");
        }
        client.settle().await;
    });
}

/// A ping between fragments begins no other message.
#[test]
fn pings_do_not_buy_a_message_more_time() {
    on_a_shard(async |local| {
        let shard = &local.0;
        let mut client = Client::connect(&local).await;
        let id = shard.hub.borrow().seat_ids()[0];
        let heartbeat = shard.node.options().heartbeat();
        // Far away, so that a message under way is what is due.
        let far_ms = shard.node.clock().node_ms() + 10_000_000;
        let due = || {
            let mut hub = shard.hub.borrow_mut();
            let session = &mut hub.seat(id).unwrap().session;
            session.heard(far_ms);
            session.wake_at(heartbeat)
        };
        let idle = due();
        let mut fragment = bytes_of(Opcode::Text, br#"{"type":"#);
        fragment[0] &= 0x7F;
        client.0.write_all(&fragment).await.unwrap();
        client.settle().await;
        let first = due();
        assert!(first < idle, "a message is under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.settle().await;
        assert_eq!(due(), first, "the same message is under way");
        client.send(Opcode::Continuation, br#""ping"}"#).await;
        assert_eq!(client.frame().await.unwrap(), (0x81, br#"{"type":"pong"}"#.to_vec()));
        assert_eq!(due(), idle);
        // Another one, behind a whole one in the same bytes.
        client.0.write_all(&fragment).await.unwrap();
        client.settle().await;
        assert!(due() > first, "it has its own time");
    });
}

/// The parser is lent out, so that the next one who needs it panics.
#[test]
fn a_panic_ends_its_connection_with_1011_and_no_other() {
    on_a_shard(async |local| {
        let shard = &local.0;
        let mut bystander = Client::connect(&local).await;
        let mut unlucky = Client::connect(&local).await;
        let subscribe = br#"{"type":"subscribe","channel":"room:1"}"#;
        unlucky.send(Opcode::Text, subscribe).await;
        let (_, subscribed) = unlucky.frame().await.unwrap();
        assert!(subscribed.starts_with(br#"{"type":"subscribed""#));
        let present = || shard.node.rooms().presence("room:1").clients;
        assert_eq!(present(), 1);
        let parser = shard.parser.borrow_mut();
        let give_back = move || drop(parser);
        unlucky.send(Opcode::Text, br#"{"type":"ping"}"#).await;
        let (first, push) = unlucky.frame().await.unwrap();
        assert!(first == 0x81 && push.starts_with(br#"{"type":"disconnect","code":1011"#));
        let (first, close) = unlucky.frame().await.unwrap();
        assert_eq!((first, &close[..2]), (0x88, &1011_u16.to_be_bytes()[..]));
        assert_eq!(present(), 0, "it has left its room");
        give_back();
        bystander.send(Opcode::Text, br#"{"type":"ping"}"#).await;
        assert_eq!(bystander.frame().await.unwrap(), (0x81, br#"{"type":"pong"}"#.to_vec()));
        // What it still sends is read and thrown away.
        unlucky.send(Opcode::Text, br#"{"type":"ping"}"#).await;
        unlucky.0.shutdown().await.unwrap();
        assert!(unlucky.frame().await.is_err(), "nothing follows a close");
        while shard.hub.borrow().connections() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(shard.metrics.snapshot(shard.gauges()).counter(Counter::Panics), 1);
    });
}

/// The hub is lent out, so that whoever needs it panics: here the timer or a turn.
#[test]
fn a_panic_in_a_turn_ends_the_shard_and_keeps_nobody_waiting() {
    let node = node(1, options());
    let shared = Arc::clone(&node);
    let shard = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shard = async {
            let local = Local::new(ShardId(0), shared);
            let hub = local.0.hub.borrow_mut();
            let give_back = move || drop(hub);
            local.run(std::future::pending()).await;
            give_back();
        };
        LocalSet::new().block_on(&runtime, shard);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stats = async { tokio::time::timeout(PATIENCE, node.stats()).await };
    assert_eq!(runtime.block_on(stats).expect("nobody waits for a shard that has gone").len(), 0);
    assert!(shard.join().is_err(), "the thread ends with the panic");
}

/// Three mailboxes that are emptied one after the other, each within the time of one.
#[test]
fn a_publish_waits_once_for_all_mailboxes() {
    let node = node(3, options());
    let now = node.clock().now();
    for shard in 0..3 {
        node.store().subscribe("room:1", ShardId(shard), Wish::default(), now).unwrap();
    }
    let event = || NewEvent::new("room:1".into(), Payload::Opaque(Box::from(&b"x"[..])));
    while !node.mailboxes().all().iter().all(Mailbox::is_crowded) {
        node.store().publish(event(), now).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (waited, refused) = runtime.block_on(async {
        let empty = async {
            for mailbox in node.mailboxes().all() {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let mut mail = Vec::new();
                mailbox.take(&mut mail);
                mailbox.settle(mail.len(), mail.len());
            }
            node.clock().uptime()
        };
        let publish = async {
            let refused = node.publish(event()).await;
            (node.clock().uptime(), refused)
        };
        let (emptied, (refused_at, refused)) = tokio::join!(empty, publish);
        (refused_at < emptied, refused)
    });
    assert_eq!(refused, Err(PublishError::Overloaded));
    assert!(waited, "refused after one `publish_timeout`, before there was room everywhere");
    assert!(runtime.block_on(node.publish(event())).is_ok(), "there is room again");
}

/// Two channels that one turn may hand out together, and one too many.
#[test]
fn a_turn_does_not_hand_out_every_channel_at_once() {
    on_a_shard(async |local| {
        let shard = &local.0;
        let clock = shard.node.clock();
        let mailbox = shard.mailbox().unwrap();
        let author = Arc::new(Author { client: ClientId(1), user: None });
        for channel in ["room:1", "room:2", "room:3"] {
            let joined = shard
                .node
                .store()
                .subscribe(channel, shard.id, Wish::default(), clock.now())
                .unwrap()
                .joined;
            let mut hub = shard.hub.borrow_mut();
            for _ in 0..4_000 {
                let id = hub.open(Arc::clone(&author), 0);
                let join =
                    Join { policy: Policy::DropOldest, position: 0, keys_max: 1, max_rate: None };
                hub.subscribe(id, (&joined.channel, joined.alias), join);
            }
        }
        for channel in ["room:1", "room:2", "room:1", "room:3", "room:1"] {
            let payload = Payload::Opaque(Box::from(&b"x"[..]));
            let channel = channel.into();
            let event = NewEvent::new(channel, payload);
            shard.node.store().publish(event, clock.now()).unwrap();
        }
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        let mut in_hand = mail.into();
        assert_eq!(shard.fan_out(&mut in_hand), (3, 3));
        assert_eq!(shard.fan_out(&mut in_hand), (2, 2));
    });
}

/// The mailbox is one event from its bound; nobody empties it but the test.
#[test]
fn a_batch_stops_at_the_message_that_crowds_a_mailbox() {
    on_a_shard(async |local| {
        let shard = &local.0;
        let now = shard.node.clock().now();
        let mailbox = shard.mailbox().unwrap();
        shard.node.store().subscribe("room:1", shard.id, Wish::default(), now).unwrap();
        for _ in 0..8_191 {
            let payload = Payload::Opaque(Box::from(&b"x"[..]));
            let channel = "room:1".into();
            let event = NewEvent::new(channel, payload);
            shard.node.store().publish(event, now).unwrap();
        }
        let mut client = Client::connect(&local).await;
        let line = |id| format!(r#"{{"type":"publish","id":{id},"channel":"room:1","data":1}}"#);
        let batch = [1, 2, 3].map(line).join("\n");
        let ping = bytes_of(Opcode::Ping, b"after");
        let bytes = [bytes_of(Opcode::Text, batch.as_bytes()), ping].concat();
        client.0.write_all(&bytes).await.unwrap();
        let (_, answer) = client.frame().await.unwrap();
        assert!(answer.starts_with(br#"{"type":"published","id":1,"#));
        assert_eq!(mailbox.depth(), 8_192, "the others wait");
        let mut mail = Vec::new();
        mailbox.take(&mut mail);
        mailbox.settle(mail.len(), mail.iter().map(|event| event.payload.len()).sum());
        for id in 2..=3 {
            let (_, answer) = client.frame().await.unwrap();
            let begins = format!(r#"{{"type":"published","id":{id},"#);
            assert!(answer.starts_with(begins.as_bytes()));
        }
        assert_eq!(client.frame().await.unwrap(), (0x8A, b"after".to_vec()), "in their order");
    });
}

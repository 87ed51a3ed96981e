//! Tests of what a command counts as, before others have their chance: what it makes the shard do, not
//! only what it takes to say.

use std::cell::{Cell, RefCell};

use super::*;
use crate::core::history::HistoryRule;
use crate::core::policy::Keep;
use crate::proto::dialect::json::Parser;
use crate::proto::format::Subprotocol;
use crate::shard::command::Asker;

/// What a message of a client spends of a turn.
fn spent(local: &Local, message: &str) -> usize {
    const ALL: usize = 1 << 40;
    let shard = &local.0;
    let id = shard.hub.borrow().seat_ids()[0];
    let socket = shard.socket(id).unwrap();
    let (author, stranger) = shard.who(id).unwrap();
    let (author, became, budget) = (&author, RefCell::default(), Cell::new(ALL));
    let (socket, now) = (&*socket, shard.node.clock().now());
    let (subprotocol, budget) = (Subprotocol::default(), &budget);
    let asker = Asker { id, socket, author, now, subprotocol, budget, stranger, became };
    let mut parser = Parser::new();
    let request = parser.parse(message.as_bytes()).unwrap();
    let done = shard.execute(&asker, &request);
    assert!(done.is_ok_and(|pause| pause.is_none()), "{message}");
    ALL - budget.get()
}

fn generous() -> NodeOptions {
    let history = HistoryRule { size: 1_000, ttl_ms: 60_000 };
    let keep = Keep { history, keys: 10, ..Keep::default() };
    let rule = PolicyRule { keys_max: 10, keep, patterns: true, ..PolicyRule::default() };
    let policies = Policies::new(rule, []);
    NodeOptions { policies, subscriptions_max: 2_000, ..options() }
}

#[test]
fn a_command_counts_as_what_it_makes_the_shard_do() {
    on_a_shard_of(
        || node(1, generous()),
        async |local| {
            let _client = Client::connect(&local).await;
            assert_eq!(spent(&local, r#"{"type":"ping"}"#), 0, "its bytes were counted before");
            let name = |nth: usize| format!(r#"{{"type":"subscribe","channel":"a:{nth}"}}"#);
            let first = spent(&local, &name(0));
            assert!(first >= 512, "{first}");
            let pattern = |what| format!(r#"{{"type":"{what}","channel":"b:*"}}"#);
            let few = spent(&local, &pattern("subscribe"));
            let few = few + spent(&local, &pattern("unsubscribe"));
            assert_eq!((1..1_000).map(|nth| spent(&local, &name(nth))).max(), Some(first));
            let many = spent(&local, &pattern("subscribe"));
            let many = many + spent(&local, &pattern("unsubscribe"));
            assert!(many > few + 1_000 * 2 * 16, "each is looked at: {many} beside {few}");
            let left = spent(&local, r#"{"type":"unsubscribe","channel":"a:7"}"#);
            assert!(left >= 512, "{left}");
        },
    );
}

/// Where something of the past waits, all that waits is looked at.
#[test]
fn the_end_of_a_subscription_counts_as_what_it_looks_at() {
    on_a_shard_of(
        || node(1, generous()),
        async |local| {
            let (shard, node) = (&local.0, local.node());
            let _client = Client::connect(&local).await;
            let keep = node.options().policies.of("a:b").unwrap().keep;
            let publish = |channel: &'static str, key: Option<&str>| {
                let event = NewEvent::new(channel.into(), Payload::Json(Box::from(&b"1"[..])));
                let event = NewEvent { keep, key: key.map(Box::from), ..event };
                node.store().publish(event, node.clock().now()).unwrap();
                let mut mail = Vec::new();
                shard.mailbox().unwrap().take(&mut mail);
                shard.fan_out(&mut mail.into());
            };
            publish("a:keyed", Some("k"));
            for channel in ["a:live", "a:1", "a:2"] {
                spent(&local, &format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#));
            }
            // Nothing is written meanwhile: this thread has not waited for anything.
            (0..100).for_each(|_| publish("a:live", None));
            let few = spent(&local, r#"{"type":"unsubscribe","channel":"a:1"}"#);
            spent(&local, r#"{"type":"subscribe","channel":"a:keyed"}"#);
            let many = spent(&local, r#"{"type":"unsubscribe","channel":"a:2"}"#);
            assert!(many >= few + 100 * 16, "{many} beside {few}");
        },
    );
}

#[test]
fn an_answer_with_the_past_counts_as_what_it_is_long() {
    on_a_shard_of(
        || node(1, generous()),
        async |local| {
            let _client = Client::connect(&local).await;
            let node = local.node();
            let keep = node.options().policies.of("a:b").unwrap().keep;
            for _ in 0..100 {
                let payload = Payload::Json(vec![b'1'; 1_000].into_boxed_slice());
                let event = NewEvent { keep, ..NewEvent::new("a:b".into(), payload) };
                node.store().publish(event, node.clock().now()).unwrap();
            }
            let history = |limit| {
                let text =
                    format!(r#"{{"type":"history","id":1,"channel":"a:b","limit":{limit}}}"#);
                spent(&local, &text)
            };
            let (one, all) = (history(1), history(100));
            assert!((1_000..2_000).contains(&one) && all == 100 * one, "{one} and {all}");
        },
    );
}

//! Settings that change while those from before are still being applied.

use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Barrier, oneshot};

use super::{Client, bytes_of, node, on_a_shard_of, options};
use crate::core::access::{Grants, Rule};
use crate::core::hub::Join;
use crate::core::metrics::{Counter, Gauges};
use crate::core::policy::{Policies, Policy, PolicyRule};
use crate::core::token::{Key, Verifier};
use crate::proto::ws::frame::Opcode;
use crate::shard::local::Local;
use crate::shard::node::NodeOptions;
use crate::shard::tokens::{Found, NotTaken};
use crate::store::Wish;

/// Clients, and subscriptions of each: together more than a shard looks at in one go.
const CLIENTS: usize = 20;
const CHANNELS: usize = 100;

/// Nobody may subscribe to anything.
fn closed(required: bool) -> NodeOptions {
    let nobody = Grants::new(|_| vec![Rule::Nobody]);
    let policies = Policies::new(PolicyRule::default(), []).guarded(nobody, []);
    let mut options = NodeOptions { policies, subscriptions_max: CHANNELS, ..options() };
    options.auth.required = required;
    options
}

fn subscribe_all(local: &Local) {
    let shard = &local.0;
    let now = shard.node.clock().now();
    for nth in 0..CHANNELS {
        let name = format!("c{nth}");
        let wished = shard.node.store().subscribe(&name, shard.id, Wish::default(), now);
        let joined = wished.unwrap().joined;
        let mut hub = shard.hub.borrow_mut();
        for id in hub.seat_ids() {
            let join =
                Join { policy: Policy::DropOldest, position: 0, keys_max: 1, max_rate: None };
            hub.subscribe(id, (&joined.channel, joined.alias), join);
        }
    }
}

/// The first look ends subscriptions, so that the second one has less to do and is faster. What the
/// second one has settled stays so.
#[test]
fn a_look_that_is_late_does_not_undo_a_newer_one() {
    on_a_shard_of(
        || node(1, NodeOptions { subscriptions_max: CHANNELS, ..options() }),
        async |local| {
            let shard = &local.0;
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                clients.push(Client::connect(&local).await);
            }
            subscribe_all(&local);
            let change = |options: &NodeOptions| {
                let (done, answer) = oneshot::channel();
                shard.change(options, Arc::new(Barrier::new(1)), done);
                answer
            };
            let (first, second) = (change(&closed(true)), change(&closed(false)));
            assert_eq!(first.await.unwrap().revoked, (CLIENTS * CHANNELS) as u64);
            second.await.unwrap();
            let mut hub = shard.hub.borrow_mut();
            let strangers = hub
                .seat_ids()
                .into_iter()
                .filter(|id| hub.seat(*id).is_some_and(|seat| seat.ticket().is_some()));
            assert_eq!(strangers.count(), 0, "nobody has to bring a token");
        },
    );
}

/// A token is being checked while keys change. With its key gone it is not taken, whatever has come
/// of it; where the key is still there, in whichever file, it is.
#[test]
fn a_token_that_was_being_checked_needs_its_key_when_it_is_done() {
    let made: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/support/tokens.json")).unwrap();
    let token = made["good"]["ES384"].as_str().unwrap();
    let with = |name: &str| {
        let keys = Key::pem(made["pem"][name].as_str().unwrap()).unwrap();
        Some(Arc::new(Verifier::new(keys, None, None)))
    };
    let set = Key::set(&made["jwks"].to_string()).unwrap();
    let moved = Some(Arc::new(Verifier::new(set, None, None)));
    for (after, taken) in [(with("rsa"), false), (None, false), (with("p384"), true), (moved, true)]
    {
        let with_key = || {
            let mut options = options();
            options.auth.verifier = with("p384");
            node(1, options)
        };
        on_a_shard_of(with_key, async |local| {
            let shard = &local.0;
            let find = || shard.node.authenticate(token, None, &shard.metrics);
            let Found::Slow(unchecked) = find() else { panic!("it takes long to check") };
            let verifying = local.verify(unchecked).unwrap();
            shard.node.taken.change(after.clone());
            let result = local.verified(verifying.await);
            assert_eq!(result.as_ref().err(), (!taken).then_some(&NotTaken::Invalid));
            let known = matches!(find(), Found::Known(Ok(_)));
            assert_eq!(known, taken, "what is not taken is not remembered");
        });
    }
}

/// What was sent before a reset is read, and nobody knows where it came from: no token is checked
/// that nobody pays for.
#[test]
fn a_token_of_somebody_who_has_gone_is_not_looked_at() {
    let with_key = || {
        let mut options = options();
        options.auth.verifier =
            Some(Arc::new(Verifier::new(vec![Key::secret(&[b'1'; 32]).unwrap()], None, None)));
        node(1, options)
    };
    on_a_shard_of(with_key, async |local| {
        let count = |counter| local.0.metrics.snapshot(Gauges::default()).counter(counter);
        let bad = bytes_of(Opcode::Text, br#"{"type":"auth","token":"a.b.c"}"#);
        let mut stays = Client::connect(&local).await;
        stays.0.write_all(&bad).await.unwrap();
        stays.frame().await.unwrap();
        assert_eq!(count(Counter::AuthMalformed), 1);

        let goes = Client::connect(&local).await;
        // All of it is there before the shard looks.
        assert_eq!(goes.0.try_write(&bad).unwrap(), bad.len());
        SockRef::from(&goes.0).set_linger(Some(Duration::ZERO)).unwrap();
        drop(goes);
        while local.0.hub.borrow().seat_ids().len() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(Counter::CommandsAuth), 2, "it was read");
        assert_eq!(count(Counter::AuthMalformed), 1);
    });
}

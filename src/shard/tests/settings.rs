//! Settings that change while those from before are still being applied.

use std::sync::Arc;

use tokio::sync::{Barrier, oneshot};

use super::{Client, node, on_a_shard_of, options};
use crate::core::access::{Grants, Rule};
use crate::core::hub::Join;
use crate::core::policy::{Policies, Policy, PolicyRule};
use crate::core::token::{Key, Verifier};
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

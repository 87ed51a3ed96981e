//! What it costs to ask whether somebody may, and to find out who somebody is.
//!
//! `rules` checks one rule against a channel, beside the plain way: put the claims into the pattern,
//! cut both at `:`, compare. `tokens` verifies a token of each kind of key, beside finding one that
//! was seen before, which is its SHA-256 and a look into a table.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::Value;
use weir::core::access::{Act, Grants, Rule, Target, Who};
use weir::core::bearer::Bearer;
use weir::core::token::{Cache, Key, Seen, Verifier};

const NOW_S: u64 = 1_780_000_000;

fn made() -> Value {
    serde_json::from_str(include_str!("../tests/support/tokens.json")).unwrap()
}

fn verifier(made: &Value) -> Verifier {
    let mut keys = vec![Key::secret(made["secret"].as_str().unwrap().as_bytes()).unwrap()];
    for name in ["rsa", "p256", "p384", "ed"] {
        keys.extend(Key::pem(made["pem"][name].as_str().unwrap()).unwrap());
    }
    Verifier::new(keys, None, None)
}

/// Somebody with ten claims, of which the rule wants the last.
fn bearer() -> Bearer {
    let claims = (0..9).map(|at| (format!("claim_{at}").into(), "x".into()));
    Bearer {
        claims: claims.chain([("organization_id".into(), "42".into())]).collect(),
        roles: ["viewer".into(), "producer".into()].into(),
        ..Bearer::of("u1")
    }
}

fn plain(pattern: &str, bearer: &Bearer, channel: &str) -> bool {
    let mut text = pattern.to_owned();
    for (name, value) in &bearer.claims {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    let wanted: Vec<&str> = text.split(':').collect();
    let have: Vec<&str> = channel.split(':').collect();
    let open = wanted.last() == Some(&"**");
    let long = if open { have.len() >= wanted.len() } else { have.len() == wanted.len() };
    long && wanted.iter().zip(&have).all(|(a, b)| a.starts_with('*') || a == b)
}

fn rules(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    let bearer = bearer();
    let who = Who::Client(Some(&bearer));
    let pattern = "organization:{organization_id}:*:**";
    let channel = "organization:42:floor-3:sensors:temperature";
    let of = |texts: &[&str]| {
        let rules: Vec<Rule> = texts.iter().map(|text| Rule::parse(text).unwrap()).collect();
        Grants::new(|_| rules.clone())
    };
    let channel_rule = format!("channel:{pattern}");
    let cases = [
        ("anyone", of(&["anyone"])),
        ("user", of(&["user"])),
        ("role", of(&["role:producer"])),
        ("channel", of(&[&channel_rule])),
        ("the last of five", of(&["api", "role:a", "role:b", "channel:news:**", &channel_rule])),
    ];
    for (name, grants) in cases {
        for (kind, target) in [
            ("name", Target::Name(channel)),
            ("prefix", Target::Prefix("organization:42:floor-3:")),
        ] {
            assert!(grants.allow(Act::Subscribe, who, target), "{name}");
            group.bench_function(format!("{name}, a {kind}"), |b| {
                b.iter(|| {
                    black_box(&grants).allow(Act::Subscribe, black_box(who), black_box(target))
                });
            });
        }
    }
    assert!(plain(pattern, &bearer, channel));
    group.bench_function("channel, the plain way", |b| {
        b.iter(|| plain(black_box(pattern), black_box(&bearer), black_box(channel)));
    });
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let mut group = c.benchmark_group("tokens");
    let made = made();
    let verifier = verifier(&made);
    for algorithm in ["HS256", "RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let token = made["good"][algorithm].as_str().unwrap();
        group.bench_function(algorithm, |b| {
            b.iter(|| black_box(&verifier).verify(black_box(token), NOW_S).unwrap());
        });
    }
    let token = made["good"]["RS256"].as_str().unwrap();
    let mut cache = Cache::new(32_768, 64 << 20);
    for at in 0..10_000 {
        cache.keep(Seen::of(&at.to_string()), Arc::new(Bearer::of("u1")));
    }
    cache.keep(Seen::of(token), Arc::new(verifier.verify(token, NOW_S).unwrap()));
    group.bench_function("seen before", |b| {
        b.iter(|| cache.find(Seen::of(black_box(token)), NOW_S).unwrap());
    });
    group.finish();
}

criterion_group!(benches, rules, tokens);
criterion_main!(benches);

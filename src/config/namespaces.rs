//! What the configuration says about channels: the defaults, and what a namespace has otherwise.

use std::collections::HashSet;

use super::check::Check;
use super::key::{Key, Kind};
use super::raw::RawNamespace;
use super::value::Value;
use crate::core::history::HistoryRule;
use crate::core::policy::{Access, Keep, Policies, Policy, PolicyRule, PresenceRule, RoomRule};

/// The most namespaces that may be configured; far fewer than have rules of their own
/// ([`Policies::guarded`]).
const NAMESPACES_MAX: usize = 10_000;

impl Check<'_> {
    /// The rules of all channels.
    pub(super) fn policies(&mut self) -> Policies {
        let (default, everybody) = (self.rule(None), self.grants(None));
        let mut names = HashSet::new();
        let mut rules = Vec::new();
        let mut granted = Vec::new();
        let raw = self.raw;
        if let Some(beyond) = raw.namespaces.get(NAMESPACES_MAX) {
            let count = raw.namespaces.len();
            let problem = format!("is one of {count}, there may be {NAMESPACES_MAX}");
            self.push(beyond.source.clone(), "namespace", problem);
        }
        for namespace in &raw.namespaces {
            let name = self.namespace_name(namespace);
            let rule = self.rule(Some(namespace));
            let grants = self.grants(Some(namespace));
            let Some(name) = name else { continue };
            if names.insert(name.clone()) {
                granted.push((name.clone(), grants));
                rules.push((name, rule));
            } else {
                let problem = format!("{name:?} is configured twice");
                self.push(namespace.source.clone(), "namespace.name", problem);
            }
        }
        let policies = Policies::new(default, rules).guarded(everybody, granted);
        policies.strict(self.flag(Key::StrictNamespaces))
    }

    fn namespace_name(&mut self, namespace: &RawNamespace) -> Option<String> {
        let Some(written) = &namespace.name else {
            let problem = "is missing: every [[namespace]] has a name";
            self.push(namespace.source.clone(), "namespace.name", problem.to_owned());
            return None;
        };
        let Value::Text(name) = self.value_of(written, "namespace.name", Kind::Text)? else {
            return None;
        };
        let fault = match crate::proto::name::check_channel(&name) {
            Err(error) => Some(error.to_string()),
            Ok(()) if name.contains(':') => Some("must end before the ':'".to_owned()),
            Ok(()) => None,
        };
        match fault {
            Some(fault) => {
                let problem = format!("is {name:?}: {fault}");
                self.push(written.source.clone(), "namespace.name", problem);
                None
            }
            None => Some(name),
        }
    }

    /// The rule of a namespace's channels, or of those that have none.
    fn rule(&mut self, namespace: Option<&RawNamespace>) -> PolicyRule {
        let written = match namespace {
            Some(namespace) => namespace.get(Key::DefaultsDurable),
            None => self.raw.get(Key::DefaultsDurable),
        };
        let mut rules = Rules { check: self, namespace };
        let durable = rules.value(Key::DefaultsDurable).flag();
        if let Some(written) = written.filter(|_| durable && !rules.check.is_durable()) {
            let name = if namespace.is_some() { "namespace.durable" } else { "defaults.durable" };
            let problem = "is true, and the memory store keeps nothing on disk: it needs store.kind = \
                 \"sqlite\"";
            rules.check.push(written.source.clone(), name, problem.to_owned());
        }
        let keys_max = rules.value(Key::DefaultsMaxKeys).count();
        let keep = Keep {
            history: HistoryRule {
                size: rules.value(Key::DefaultsHistory).number(),
                ttl_ms: rules.value(Key::DefaultsHistoryTtl).number(),
            },
            keys: if rules.value(Key::DefaultsKeyed).flag() { keys_max } else { 0 },
            durable,
        };
        let presence = PresenceRule {
            linger_ms: rules.value(Key::DefaultsPresenceLinger).number(),
            members_max: rules.value(Key::DefaultsPresenceMaxMembers).count(),
        };
        let room = RoomRule {
            presence: rules.value(Key::DefaultsPresence).flag().then_some(presence),
            signals: rules.value(Key::DefaultsSignals).flag(),
        };
        PolicyRule {
            room,
            keep,
            recovery_max: rules.value(Key::DefaultsRecoveryMaxEvents).number(),
            policy: policy(&rules.value(Key::DefaultsSlow).text()),
            choice: rules.value(Key::DefaultsSlowChoice).flag(),
            keys_max,
            patterns: rules.value(Key::DefaultsPatterns).flag(),
            access: Access::default(),
        }
    }
}

/// The settings of one namespace: its own, or the defaults.
pub(super) struct Rules<'a, 'c, 'r> {
    pub(super) check: &'a mut Check<'c>,
    pub(super) namespace: Option<&'r RawNamespace>,
}

impl Rules<'_, '_, '_> {
    pub(super) fn value(&mut self, key: Key) -> Value {
        let written = self.namespace.and_then(|namespace| namespace.get(key));
        let own = written.and_then(|written| {
            let name = key.in_namespace().unwrap_or_default();
            self.check.value_of(written, &format!("namespace.{name}"), key.row().kind)
        });
        // A fault of the defaults is told once, where they are read for themselves.
        match (own, self.namespace) {
            (Some(value), _) => value,
            (None, None) => self.check.value(key),
            (None, Some(_)) => {
                let written = self.check.raw.get(key);
                let value = written.and_then(|written| written.value.check(key.row().kind).ok());
                value.unwrap_or_else(|| Value::default_of(key))
            }
        }
    }
}

/// The policy of a checked word.
fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or(Policy::DropOldest)
}

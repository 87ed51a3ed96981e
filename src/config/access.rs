//! What the configuration says about who may do what, by namespace.

use super::check::Check;
use super::fault::{Source, unknown};
use super::key::Key;
use super::namespaces::Rules;
use super::raw::RawNamespace;
use super::value::Value;
use crate::core::access::{Act, BadRule, Grants, Rule};

impl Check<'_> {
    /// Who may do what on a namespace's channels, or on those that have none.
    pub(super) fn grants(&mut self, namespace: Option<&RawNamespace>) -> Grants {
        let all = Act::ALL.map(|act| self.rules_of(act, namespace));
        Grants::new(|act| all[act as usize].clone())
    }

    fn rules_of(&mut self, act: Act, namespace: Option<&RawNamespace>) -> Vec<Rule> {
        let key = match act {
            Act::History => Key::DefaultsHistoryFor,
            Act::Presence => Key::DefaultsPresenceFor,
            Act::Publish => Key::DefaultsPublish,
            Act::Signal => Key::DefaultsSignalsFor,
            Act::Subscribe => Key::DefaultsSubscribe,
        };
        let Value::List(texts) = (Rules { check: self, namespace }).value(key) else {
            return Vec::new();
        };
        let mut rules = Vec::with_capacity(texts.len());
        for text in &texts {
            match read(text, act) {
                Ok(rule) => rules.push(rule),
                Err(problem) => self.rule_fault((key, namespace), &problem),
            }
        }
        if rules.contains(&Rule::Nobody) && rules.len() > 1 {
            let problem = "has \"nobody\" beside other rules, of which any one suffices";
            self.rule_fault((key, namespace), problem);
        }
        if self.is_keyless() && !rules.is_empty() && rules.iter().all(needs_token) {
            let problem = "lets in only those with a token, and no token is good without a key: \
                 set auth.hmac_secret_file, auth.public_key_file or auth.jwks_file, or say nobody";
            self.rule_told((key, namespace), problem, Self::doubt);
        }
        rules
    }

    fn rule_fault(&mut self, place: (Key, Option<&RawNamespace>), problem: &str) {
        self.rule_told(place, problem, Self::push);
    }

    /// Has `tell` tell a problem where it was written: of the defaults once, where they are read for
    /// themselves.
    fn rule_told(
        &mut self,
        (key, namespace): (Key, Option<&RawNamespace>),
        problem: &str,
        tell: fn(&mut Self, Source, &str, String),
    ) {
        match namespace.map(|namespace| (namespace.get(key), key.in_namespace())) {
            None => tell(self, self.raw.source(key), key.name(), problem.to_owned()),
            Some((Some(written), Some(name))) => {
                let name = format!("namespace.{name}");
                tell(self, written.source.clone(), &name, problem.to_owned());
            }
            Some(_) => {}
        }
    }
}

/// Whether a rule is for nobody without a token.
fn needs_token(rule: &Rule) -> bool {
    match rule {
        Rule::Role(_) | Rule::Token | Rule::User => true,
        Rule::Channel(template) => template.has_claim(),
        Rule::Anyone | Rule::Api | Rule::Nobody | Rule::Subscribers => false,
    }
}

/// Reads one rule of an act, or says what is wrong with it.
fn read(text: &str, act: Act) -> Result<Rule, String> {
    match Rule::parse(text) {
        Ok(Rule::Subscribers) if matches!(act, Act::Publish | Act::Subscribe) => {
            let others = "history_for, presence_for and signals_for";
            Err(format!("has \"subscribers\", which is for {others}"))
        }
        Ok(rule) => Ok(rule),
        Err(BadRule::Unknown) if text == "app" => {
            Err("has \"app\", and no application is asked in this version".to_owned())
        }
        Err(BadRule::Unknown) => {
            // What follows a `:` says nothing about which word was meant.
            let word = text.split_inclusive(':').next().unwrap_or(text);
            let known = Rule::WORDS.map(|known| known.split_inclusive(':').next().unwrap_or(known));
            let problem = unknown("rule", word, known);
            let words = Rule::WORDS.join(", ");
            Err(format!("has {text:?}, {problem}; rules are {words}"))
        }
        Err(fault @ (BadRule::Pattern(_) | BadRule::Role)) => Err(format!("has {text:?}: {fault}")),
    }
}

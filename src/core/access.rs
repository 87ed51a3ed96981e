//! Who may do what: the rules of a namespace, read once, and asked for each command.

use std::fmt;

use super::bearer::Bearer;

mod template;

pub use template::{BadTemplate, Template};

/// What somebody wants to do on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Read what is kept of its events.
    History,
    /// See who has it.
    Presence,
    /// Publish on it.
    Publish,
    /// Show a signal to it.
    Signal,
    /// Subscribe to it.
    Subscribe,
}

impl Act {
    /// Every act.
    pub const ALL: [Self; 5] =
        [Self::History, Self::Presence, Self::Publish, Self::Signal, Self::Subscribe];

    /// As a sentence begins with it.
    fn phrase(self) -> &'static str {
        match self {
            Self::History => "reading the history of",
            Self::Presence => "seeing who is on",
            Self::Publish => "publishing on",
            Self::Signal => "showing signals on",
            Self::Subscribe => "subscribing to",
        }
    }
}

/// Who wants to.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// A request of the HTTP API.
    Api,
    /// A client, with what its token says; `None` is the anonymous.
    Client(Option<&'a Bearer>),
}

/// On what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The channel of this name.
    Name(&'a str),
    /// Every channel whose name begins so.
    Prefix(&'a str),
}

impl<'a> Target<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Name(text) | Self::Prefix(text) => text,
        }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// One rule: any one of a list suffices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Everybody, and the HTTP API.
    Anyone,
    /// The HTTP API.
    Api,
    /// Clients where the channel fits; those without a token too, where it has no claim.
    Channel(Template),
    /// Nobody.
    Nobody,
    /// Whoever has that role.
    Role(Box<str>),
    /// Whoever may subscribe.
    Subscribers,
    /// Whoever's token names the channel.
    Token,
    /// Whoever has a token.
    User,
}

/// Why a text is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// Its pattern is none.
    #[error("{0}")]
    Pattern(BadTemplate),
    /// A role without a name.
    #[error("a role has a name, as in role:producer")]
    Role,
    /// It begins with no word that is known.
    #[error("no such rule")]
    Unknown,
}

impl Rule {
    /// How rules are written.
    pub const WORDS: [&str; 8] =
        ["anyone", "api", "channel:PATTERN", "nobody", "role:NAME", "subscribers", "token", "user"];

    /// Reads a rule.
    ///
    /// # Errors
    ///
    /// [`BadRule`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadRule> {
        match text {
            "anyone" => Ok(Self::Anyone),
            "api" => Ok(Self::Api),
            "nobody" => Ok(Self::Nobody),
            "subscribers" => Ok(Self::Subscribers),
            "token" => Ok(Self::Token),
            "user" => Ok(Self::User),
            _ => match text.split_once(':') {
                Some(("channel", pattern)) => {
                    Template::parse(pattern).map(Self::Channel).map_err(BadRule::Pattern)
                }
                Some(("role", "")) => Err(BadRule::Role),
                Some(("role", name)) => Ok(Self::Role(name.into())),
                Some(_) | None => Err(BadRule::Unknown),
            },
        }
    }

    fn allows(&self, act: Act, who: Who<'_>, target: Target<'_>) -> bool {
        match (self, who) {
            (Self::Anyone, _) | (Self::Api, Who::Api) => true,
            (Self::Channel(template), Who::Client(bearer)) => template.fits(bearer, target),
            (Self::Role(role), Who::Client(Some(bearer))) => bearer.has_role(role),
            (Self::Token, Who::Client(Some(bearer))) => {
                let named = if act == Act::Publish { &bearer.publish } else { &bearer.channels };
                named.iter().any(|template| template.fits(None, target))
            }
            (Self::User, Who::Client(Some(_))) => true,
            (
                Self::Api
                | Self::Channel(_)
                | Self::Nobody
                | Self::Role(_)
                | Self::Subscribers
                | Self::Token
                | Self::User,
                _,
            ) => false,
        }
    }

    /// What somebody needs for it, as the end of a sentence.
    fn wants(&self) -> Option<String> {
        match self {
            Self::Anyone | Self::Nobody | Self::Subscribers => None,
            Self::Api => Some("the HTTP API".to_owned()),
            Self::Channel(_) => Some("a token that fits the channel".to_owned()),
            Self::Role(role) => Some(format!("role {role}")),
            Self::Token => Some("a token that names the channel".to_owned()),
            Self::User => Some("a token".to_owned()),
        }
    }
}

/// The rules of one namespace, by what somebody wants to do. Without any, nobody may.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants([Box<[Rule]>; Act::ALL.len()]);

impl Grants {
    /// Takes the rules of each act.
    pub fn new(of: impl Fn(Act) -> Vec<Rule>) -> Self {
        let subscribe = of(Act::Subscribe);
        let mut all: [Box<[Rule]>; Act::ALL.len()] = Default::default();
        for (rules, act) in all.iter_mut().zip(Act::ALL) {
            let mut own = of(act);
            if own.contains(&Rule::Subscribers) {
                own.retain(|rule| *rule != Rule::Subscribers);
                own.extend(subscribe.iter().filter(|rule| **rule != Rule::Subscribers).cloned());
            }
            own.dedup();
            *rules = own.into();
        }
        Self(all)
    }

    /// Everybody may do everything.
    pub fn open() -> Self {
        Self::new(|_| vec![Rule::Anyone])
    }

    /// Whether everybody may do that: then nothing else need be asked.
    pub fn is_open(&self, act: Act) -> bool {
        self.of(act).contains(&Rule::Anyone)
    }

    /// Whether `who` may do `act` on `target`: on all of it, where that is a prefix.
    pub fn allow(&self, act: Act, who: Who<'_>, target: Target<'_>) -> bool {
        self.of(act).iter().any(|rule| rule.allows(act, who, target))
    }

    /// What is told to whoever may not: what is needed, and nothing of who has it.
    pub fn refusal(&self, act: Act, target: Target<'_>) -> String {
        let mut wants: Vec<String> = Vec::new();
        for want in self.of(act).iter().filter_map(Rule::wants) {
            if !wants.contains(&want) {
                wants.push(want);
            }
        }
        let phrase = act.phrase();
        match wants.as_slice() {
            [] => format!("{phrase} {target} is allowed to nobody"),
            _ => format!("{phrase} {target} needs {}", wants.join(", or ")),
        }
    }

    fn of(&self, act: Act) -> &[Rule] {
        &self.0[act as usize]
    }
}

#[cfg(test)]
mod tests;

//! What happens to a subscriber whose queue is full, by namespace and by its own choice.

use std::collections::HashMap;

use super::access::{Act, Grants, Target, Who};
use super::history::HistoryRule;

/// What happens at the bound of a subscriber's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The connection is closed with 4000.
    Disconnect,
    /// The new events go, and `lagged` tells which.
    DropNewest,
    /// The oldest queued events of the channel go, and `lagged` tells which.
    DropOldest,
    /// Everything of the channel leaves the queue; when there is room, `lagged` tells what was missed
    /// and the newest event of each key in it follows.
    Latest,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Disconnect, Self::DropNewest, Self::DropOldest, Self::Latest];

    /// The policy of that name on the wire and in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }

    /// Its name on the wire and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropNewest => "drop_newest",
            Self::DropOldest => "drop_oldest",
            Self::Latest => "latest",
        }
    }
}

/// What is kept of a channel's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// How much of its past.
    pub history: HistoryRule,
    /// Keys whose newest event is kept; 0 is none.
    pub keys: usize,
    /// Whether it outlives the process: nothing is told or delivered before it is on disk.
    pub durable: bool,
}

/// What is shown of those who have a channel by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoomRule {
    /// Who they are, where that is shown.
    pub presence: Option<PresenceRule>,
    /// Whether they may show signals to each other.
    pub signals: bool,
}

impl RoomRule {
    /// Whether there is anything to show.
    pub fn is_on(self) -> bool {
        self.presence.is_some() || self.signals
    }
}

/// How presence is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceRule {
    /// How long a connection that ended still counts as there, in milliseconds.
    pub linger_ms: u64,
    /// With more members than this they are only counted.
    pub members_max: usize,
}

/// What a namespace says about its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule {
    /// What is kept of their events.
    pub keep: Keep,
    /// Whoever has missed more events than this recovers none of them.
    pub recovery_max: u64,
    /// The policy of its channels.
    pub policy: Policy,
    /// Whether a client may ask for another one.
    pub choice: bool,
    /// Keys whose newest event is kept for those who lag under [`Policy::Latest`].
    pub keys_max: usize,
    /// Whether clients may subscribe to patterns (`prefix:*`).
    pub patterns: bool,
    /// Who may do what.
    pub access: Access,
    /// What is shown of those who have them.
    pub room: RoomRule,
}

/// Which [`Grants`] of [`Policies`] are meant, and what everybody may do by them: that costs a look
/// at one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    grants: u16,
    /// A bit for each [`Act`].
    open: u8,
}

/// The number of all grants that are beyond what 16 bits can tell apart, and not kept. Whoever is not
/// let in by [`Access::open`] is not let in there.
const UNTOLD: usize = u16::MAX as usize;

impl Access {
    fn of(at: usize, grants: &Grants) -> Self {
        let open = Act::ALL.into_iter().filter(|act| grants.is_open(*act));
        let open = open.fold(0, |bits, act| bits | 1 << act as u8);
        Self { grants: u16::try_from(at).unwrap_or(u16::MAX), open }
    }

    /// Whether everybody may do that.
    pub fn is_open(self, act: Act) -> bool {
        self.open & (1 << act as u8) != 0
    }
}

/// Everybody may do everything.
impl Default for Access {
    fn default() -> Self {
        Self::of(0, &Grants::open())
    }
}

impl Default for PolicyRule {
    /// As the configuration has it where nobody has written anything.
    fn default() -> Self {
        Self {
            keep: Keep::default(),
            recovery_max: 1_000,
            policy: Policy::DropOldest,
            choice: true,
            keys_max: 10_000,
            patterns: false,
            access: Access::default(),
            room: RoomRule::default(),
        }
    }
}

/// Why nobody may subscribe to a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its namespace says so.
    Namespace,
    /// It has no namespace, and reaches into one with rules of its own.
    Several,
    /// Its namespace must be configured and is not.
    Unknown,
}

/// The rules of every namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    default: PolicyRule,
    namespaces: HashMap<String, PolicyRule>,
    strict: bool,
    /// As [`Access`] numbers them. At a number that is not there nobody may do anything.
    grants: Vec<Grants>,
    /// Whether any of them has a room.
    rooms: bool,
}

impl Policies {
    /// `default` for every channel but those of the namespaces named.
    pub fn new(
        default: PolicyRule,
        namespaces: impl IntoIterator<Item = (String, PolicyRule)>,
    ) -> Self {
        let namespaces: HashMap<_, _> = namespaces.into_iter().collect();
        let rooms = default.room.is_on() || namespaces.values().any(|rule| rule.room.is_on());
        Self { default, namespaces, strict: false, grants: vec![Grants::open()], rooms }
    }

    /// With these rules of who may do what, by namespace; the first for all others.
    #[must_use]
    pub fn guarded(
        mut self,
        default: Grants,
        namespaces: impl IntoIterator<Item = (String, Grants)>,
    ) -> Self {
        let access = Access::of(0, &default);
        self.grants = vec![default];
        self.default.access = access;
        for rule in self.namespaces.values_mut() {
            rule.access = access;
        }
        for (name, grants) in namespaces {
            if let Some(rule) = self.namespaces.get_mut(&name) {
                let at = self.grants.len().min(UNTOLD);
                rule.access = Access::of(at, &grants);
                if at < UNTOLD {
                    self.grants.push(grants);
                }
            }
        }
        self
    }

    /// Whether `who` may do `act` on a channel of this `rule`, or on all of a prefix.
    ///
    /// # Errors
    ///
    /// What is told to whoever may not.
    pub fn allow(
        &self,
        rule: &PolicyRule,
        act: Act,
        who: Who<'_>,
        target: Target<'_>,
    ) -> Result<(), String> {
        if rule.access.is_open(act) {
            return Ok(());
        }
        match self.grants.get(usize::from(rule.access.grants)) {
            Some(grants) if grants.allow(act, who, target) => Ok(()),
            Some(grants) => Err(grants.refusal(act, target)),
            None => Err(Grants::default().refusal(act, target)),
        }
    }

    /// With `true`, a channel of a namespace that is not named does not exist.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Leaves it as it was `before` whether channels are durable: events that are on their way to
    /// the disk must not be passed by others. `can` says whether there is a disk at all. Returns
    /// the namespaces that were to change it; an empty name stands for all that have no own rule.
    pub fn keep_durable(&mut self, before: &Self, can: bool) -> Vec<String> {
        let mut kept = Vec::new();
        let mut keep = |name: &str, rule: &mut PolicyRule, was: bool| {
            if rule.keep.durable != was {
                rule.keep.durable = was;
                kept.push(name.to_owned());
            }
        };
        keep("", &mut self.default, can && before.default.keep.durable);
        let default = self.default;
        let gone = before.namespaces.keys().filter(|_| !self.strict);
        let mut names: Vec<&String> = gone.chain(self.namespaces.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let names: Vec<String> = names.into_iter().cloned().collect();
        for name in names {
            // Of a namespace that did not exist there is no channel that could be passed.
            let own = before.namespaces.get(&name).or((!before.strict).then_some(&before.default));
            match (own.map(|rule| can && rule.keep.durable), self.namespaces.get_mut(&name)) {
                (Some(was), Some(rule)) => keep(&name, rule, was),
                (Some(was), None) if was != default.keep.durable => {
                    let mut rule = default;
                    keep(&name, &mut rule, was);
                    self.namespaces.insert(name, rule);
                }
                (None, Some(rule)) if !can => keep(&name, rule, false),
                (Some(_) | None, Some(_) | None) => {}
            }
        }
        kept
    }

    /// Opens a namespace that nobody has configured to patterns.
    pub fn open_patterns(&mut self, namespace: &str) {
        let rule = PolicyRule { patterns: true, ..self.default };
        self.namespaces.entry(namespace.to_owned()).or_insert(rule);
    }

    /// The rule for all channels whose names begin with `prefix`.
    ///
    /// # Errors
    ///
    /// Why nobody may subscribe to all of them at once.
    pub fn of_prefix(&self, prefix: &str) -> Result<PolicyRule, Closed> {
        // Without a `:` it begins the names of namespaces as well.
        if !prefix.contains(':') && self.namespaces.keys().any(|name| name.starts_with(prefix)) {
            return Err(Closed::Several);
        }
        let rule = self.of(prefix).ok_or(Closed::Unknown)?;
        if rule.patterns { Ok(rule) } else { Err(Closed::Namespace) }
    }

    /// What is shown of those who have a channel by name; `None` where nothing is. Costs nothing
    /// where no namespace shows anything.
    pub fn room(&self, channel: &str) -> Option<RoomRule> {
        if !self.rooms {
            return None;
        }
        self.of(channel).map(|rule| rule.room).filter(|room| room.is_on())
    }

    /// The rule for a channel; `None` where its namespace must be configured and is not.
    pub fn of(&self, channel: &str) -> Option<PolicyRule> {
        let Some(namespace) = crate::proto::name::namespace(channel) else {
            return Some(self.default);
        };
        match self.namespaces.get(namespace) {
            Some(rule) => Some(*rule),
            None if self.strict => None,
            None => Some(self.default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::access::Rule;
    use crate::core::bearer::Bearer;

    #[test]
    fn a_strict_node_knows_only_configured_namespaces() {
        let rule = |policy| PolicyRule { policy, ..PolicyRule::default() };
        let open = Policies::new(
            rule(Policy::DropOldest),
            [("logs".to_owned(), rule(Policy::Disconnect))],
        );
        assert_eq!(open.of("logs:a").map(|r| r.policy), Some(Policy::Disconnect));
        assert_eq!(open.of("other:a").map(|r| r.policy), Some(Policy::DropOldest));
        let strict = open.strict(true);
        assert_eq!(strict.of("other:a"), None);
        assert!(strict.of("plain").is_some(), "a name without ':' has the defaults");
    }

    #[test]
    fn a_pattern_is_open_where_all_that_it_has_is() {
        let rule = |patterns| PolicyRule { patterns, ..PolicyRule::default() };
        let rules = [("open".to_owned(), rule(true)), ("eu/1".to_owned(), rule(true))];
        let mut closed = Policies::new(rule(false), rules.clone());
        let open = Policies::new(rule(true), rules).strict(true);
        let cases = [
            ("open:", None, None),
            ("open:a/", None, None),
            ("eu/1:", None, None),
            ("other:", Some(Closed::Namespace), Some(Closed::Unknown)),
            ("us/", Some(Closed::Namespace), None),
            ("eu/", Some(Closed::Several), Some(Closed::Several)),
        ];
        for (prefix, of_closed, of_open) in cases {
            assert_eq!(closed.of_prefix(prefix).err(), of_closed, "{prefix}");
            assert_eq!(open.of_prefix(prefix).err(), of_open, "{prefix}");
        }
        closed.open_patterns("other");
        assert!(closed.of_prefix("other:").is_ok());
    }

    #[test]
    fn each_namespace_has_its_own_rules() {
        let users = || Grants::new(|_| vec![Rule::User]);
        let rule = PolicyRule::default();
        let names = ["a", "b"].map(|name| (name.to_owned(), rule));
        let open = Policies::new(rule, names.clone());
        let policies =
            Policies::new(rule, names).guarded(users(), [("a".to_owned(), Grants::open())]);
        let may = |policies: &Policies, channel: &str, who: Who<'_>| {
            let rule = policies.of(channel).unwrap();
            policies.allow(&rule, Act::Publish, who, Target::Name(channel)).is_ok()
        };
        let known = Bearer::of("u1");
        for channel in ["x", "a:x", "b:x", "c:x"] {
            assert!(may(&open, channel, Who::Client(None)));
            assert_eq!(may(&policies, channel, Who::Client(None)), channel == "a:x", "{channel}");
            assert!(may(&policies, channel, Who::Client(Some(&known))));
        }
    }

    #[test]
    fn namespaces_beyond_what_can_be_told_apart_have_nobody_elses_rules() {
        let names: Vec<_> = (0..=UNTOLD + 1).map(|n| format!("n{n}")).collect();
        let rules = names.iter().map(|name| (name.clone(), PolicyRule::default()));
        // The last that is told apart is open to users, as the first are; those beyond are not.
        let granted = names.iter().map(|name| (name.clone(), Grants::new(|_| vec![Rule::User])));
        let open = Grants::open();
        let policies = Policies::new(PolicyRule::default(), rules).guarded(open, granted);
        let known = Bearer::of("u1");
        let may = |name: &str| {
            let channel = format!("{name}:x");
            let rule = policies.of(&channel).unwrap();
            let target = Target::Name(&channel);
            policies.allow(&rule, Act::Publish, Who::Client(Some(&known)), target).is_ok()
        };
        assert!(may("n0") && may(&format!("n{}", UNTOLD - 2)));
        assert!(!may(&format!("n{UNTOLD}")) && !may(&format!("n{}", UNTOLD + 1)));
    }

    #[test]
    fn whether_channels_are_durable_does_not_change() {
        let rule = |durable| {
            let keep = Keep { durable, ..Keep::default() };
            PolicyRule { keep, recovery_max: u64::from(durable), ..PolicyRule::default() }
        };
        let of = |default, names: &[(&str, bool)]| {
            let named = names.iter().map(|(name, durable)| ((*name).to_owned(), rule(*durable)));
            Policies::new(rule(default), named)
        };
        let durable =
            |policies: &Policies, channel: &str| policies.of(channel).unwrap().keep.durable;
        let before = of(false, &[("log", true), ("gone", true), ("same", true), ("live", false)]);
        let after = || of(false, &[("log", false), ("same", true), ("live", true), ("new", true)]);
        let mut kept = after();
        let names = kept.keep_durable(&before, true);
        assert_eq!(names, ["gone", "live", "log", "new"]);
        for (channel, wanted) in [
            ("log:1", true),
            ("gone:1", true),
            ("same:1", true),
            ("live:1", false),
            ("new:1", false),
        ] {
            assert_eq!(durable(&kept, channel), wanted, "{channel}");
            assert_eq!(kept.of(channel).unwrap().keep.history, HistoryRule::default());
        }
        assert!(!durable(&kept, "other:1"));
        assert_eq!(kept.of("gone:1").unwrap().recovery_max, 0, "all else is as the defaults");
        assert!(kept.keep_durable(&before, true).is_empty(), "it is settled");
        // What does not exist has no events on their way.
        let mut strict = after().strict(true);
        assert_eq!(strict.keep_durable(&before.clone().strict(true), true), ["live", "log"]);
        assert_eq!(strict.of("gone:1"), None);
        assert!(durable(&strict, "new:1"));
        // Without a disk nothing is.
        let mut nowhere = of(true, &[("new", true)]).strict(true);
        let nothing = of(false, &[]).strict(true);
        assert_eq!(nowhere.keep_durable(&nothing, false), ["", "new"]);
        assert!(!durable(&nowhere, "new:1") && !durable(&nowhere, "plain"));
    }

    #[test]
    fn names_survive() {
        for policy in Policy::ALL {
            assert_eq!(Policy::parse(policy.as_str()), Some(policy));
        }
        assert_eq!(Policy::parse("never"), None);
    }
}

//! What happens in a simulation, counted: one in which nothing happens proves nothing.

use weir::core::hub::Outcome;
use weir::core::policy::Policy;
use weir::proto::format::Format;

/// What happened, over all seeds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Events read.
    pub(crate) events: u64,
    /// Newest events of a key read behind a hole, and holes that went on in another.
    pub(crate) shown: u64,
    pub(crate) holes: u64,
    /// Events told as lagged.
    pub(crate) lagged: u64,
    /// Own events not read, as was asked.
    pub(crate) hidden: u64,
    /// Events not read by a throttled subscription, and as the hubs count them.
    pub(crate) spared: u64,
    pub(crate) conflated: u64,
    /// Subscriptions, ends of them, and changes; and the same of patterns.
    pub(crate) subscribed: [u64; 3],
    pub(crate) patterns: [u64; 3],
    /// Events that were to be recovered, newest events shown at the beginning, and those of channels
    /// of a pattern.
    pub(crate) begun: [u64; 3],
    /// What was read or told of channels had by pattern alone.
    pub(crate) by_pattern: u64,
    /// What was read or told of channels had by pattern, and by name with a rate.
    pub(crate) both: u64,
    /// What was read or told of channels had by a pattern with a rate.
    pub(crate) rated: u64,
    /// Newer events than a subscription that were shown at its beginning, for a rate left them out.
    pub(crate) paged: u64,
    /// Connections that read why they were closed: as slow, for their memory, and by a shutdown.
    pub(crate) slow: u64,
    pub(crate) overloaded: u64,
    pub(crate) shut: u64,
    /// Connections begun to be closed: by the policy, by a queue that stayed full, and to save
    /// memory.
    pub(crate) cut: [u64; 3],
    /// Connections that were cut, of which the model knows what they did not get to one event.
    pub(crate) lasts: u64,
    /// Events dropped, by policy.
    pub(crate) dropped: [u64; Policy::ALL.len()],
    /// Channels that began another life.
    pub(crate) reborn: u64,
    /// Frames that were binary or compressed, by [`Format`].
    pub(crate) formats: [u64; Format::ALL.len()],
    /// Text frames of several events: plain ones and compressed ones.
    pub(crate) joined: [u64; 2],
}

impl Tally {
    /// Adds another count to this.
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.lagged += other.lagged;
        self.hidden += other.hidden;
        self.spared += other.spared;
        self.conflated += other.conflated;
        self.shown += other.shown;
        self.holes += other.holes;
        for (sum, more) in self.subscribed.iter_mut().zip(other.subscribed) {
            *sum += more;
        }
        for (sum, more) in self.patterns.iter_mut().zip(other.patterns) {
            *sum += more;
        }
        for (sum, more) in self.begun.iter_mut().zip(other.begun) {
            *sum += more;
        }
        self.by_pattern += other.by_pattern;
        self.both += other.both;
        self.rated += other.rated;
        self.paged += other.paged;
        self.slow += other.slow;
        self.overloaded += other.overloaded;
        self.shut += other.shut;
        self.lasts += other.lasts;
        for (sum, more) in self.cut.iter_mut().zip(other.cut) {
            *sum += more;
        }
        for (sum, more) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += more;
        }
        self.reborn += other.reborn;
        for (sum, more) in self.formats.iter_mut().zip(other.formats) {
            *sum += more;
        }
        for (sum, more) in self.joined.iter_mut().zip(other.joined) {
            *sum += more;
        }
    }

    /// Counts what became of events in a hub.
    pub(crate) fn count(&mut self, outcome: &Outcome) {
        self.conflated += outcome.conflated;
        for (sum, dropped) in self.dropped.iter_mut().zip(outcome.dropped) {
            *sum += dropped;
        }
    }

    /// Whether everything happened.
    pub(crate) fn complete(&self) -> bool {
        let all = [self.events, self.shown, self.holes, self.lagged, self.hidden, self.slow];
        let all = all.into_iter().chain([self.spared, self.conflated, self.reborn, self.shut]);
        let more = self.subscribed.iter().chain(&self.patterns).chain(&self.cut).chain(&self.begun);
        let more = more.chain(&self.dropped).chain(&self.joined);
        let more = more.chain([&self.by_pattern, &self.both, &self.rated, &self.paged]);
        let more = more.chain([&self.overloaded, &self.lasts]);
        let json = Format::Json.index();
        let formats = self.formats.iter().enumerate().filter(|(at, _)| *at != json);
        let more = more.chain(formats.map(|(_, count)| count));
        all.chain(more.copied()).all(|count| count > 0)
    }
}

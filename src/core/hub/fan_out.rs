//! The fan-out: events of a batch are laid into one run for each channel and form, and the runs are
//! handed to its members.

use std::iter::once;
use std::rc::Rc;
use std::sync::Arc;

use super::seat::{Member, Round, Standing, Target};
use super::{BATCHES, Hub, Outcome, Writer};
use crate::core::outbox::Slice;
use crate::core::run::{RUN_BYTES_MAX, Run, RunLimit};
use crate::proto::event::Event;
use crate::proto::format::Format;

impl Hub {
    /// Lays an event into its channel's open run. `false` when that run is full: fan out first,
    /// then come again.
    pub fn load(&mut self, event: &Arc<Event>, now_ns: u64) -> bool {
        let passes = self.patterns.passes(self.loaded) || self.pass();
        let loaded = passes && self.lay(event, now_ns);
        self.loaded += u64::from(loaded);
        if event.hidden_from.is_some() && loaded {
            self.note_own(event);
        }
        loaded
    }

    /// The next event is the first for a subscription to a pattern, which wants a batch of its
    /// own.
    #[cold]
    fn pass(&mut self) -> bool {
        let (patterns, loaded) = (&mut self.patterns, self.loaded);
        if !self.touched.is_empty() {
            return false;
        }
        patterns.batch = loaded;
        patterns.fences.retain(|fence| *fence > loaded);
        self.begin_late();
        true
    }

    #[inline(always)]
    pub(super) fn lay(&mut self, event: &Arc<Event>, now_ns: u64) -> bool {
        let limit = self.run_limit();
        let Some(topic) = self.topics.get_mut(&event.alias) else {
            return self.lay_by_pattern(event, now_ns);
        };
        if let Some(latest) = &topic.latest
            && latest.owed > 0
            && let Some(lost) = latest.evicts(event)
            && self.patterns.hurry((event.alias, event.channel.as_str()), lost)
        {
            return false;
        }
        let books = (&mut self.touched, &mut self.dues, &mut self.patterns);
        if let Some(answer) = topic.load_throttled((event, self.loaded), books, &self.tables) {
            return answer;
        }
        let loaded = match topic.append(&mut self.press, event, limit) {
            Some(loaded) => loaded,
            None => {
                let (touched, forms) =
                    self.patterns.begin((event, self.loaded), topic, &self.tables);
                self.touched.push(touched);
                topic.begin(&mut self.press, event, now_ns, forms);
                true
            }
        };
        // After the run has it: until then nobody else may hold it.
        if let Some(latest) = topic.latest.as_mut().filter(|_| loaded) {
            latest.record(event, self.loaded);
        }
        loaded
    }

    /// A part of the queue, so that no batch alone can overflow one that was empty.
    pub(super) fn run_limit(&self) -> RunLimit {
        let frames = (self.limit.events / BATCHES).max(4).min(self.limit.events.max(1));
        RunLimit { bytes: (self.limit.bytes / 2).min(RUN_BYTES_MAX), frames }
    }

    /// How many members the event's channel has, where [`Hub::load`] would begin its run: what
    /// it adds to the next [`Hub::fan_out`].
    pub fn begins(&mut self, event: &Event) -> usize {
        let topic = self.topics.get(&event.alias);
        if topic.is_some_and(|topic| topic.open.is_some()) {
            return 0;
        }
        topic.map_or(0, |topic| topic.members.len()) + self.patterns.reach(event)
    }

    /// Hands every open run to the members of its channel, and flushes the throttle groups that
    /// are due.
    pub fn fan_out(&mut self, writer: &mut impl Writer, now_ms: u64, outcome: &mut Outcome) {
        let mut touched = std::mem::take(&mut self.touched);
        let account = &self.press.account().clone();
        for touched in touched.drain(..) {
            let alias = touched.alias;
            let Some(topic) = self.topics.get_mut(&alias) else { continue };
            topic.arm(alias, now_ms, &mut self.dues);
            if touched.has_patterns() {
                self.patterns.arm(touched, now_ms);
            }
            let Some(mut run) = topic.open.take() else { continue };
            let mut others = topic.take_others();
            let batches = topic.has_batches();
            for run in once(&mut run).chain(&mut others) {
                self.press.seal(run);
            }
            if !others.is_empty() || run.format() != Format::Json {
                topic.weigh_table();
            }
            topic.head = run.offset(run.len().saturating_sub(1));
            let floor = topic.latest.as_ref().map_or(u64::MAX, |latest| latest.floor());
            let mut members = std::mem::take(&mut topic.members);
            let mut round = Round { writer, now_ms, floor, account, outcome };
            if touched.has_patterns() {
                for run in once(&run).chain(&others) {
                    self.offer_by_pattern(touched, &mut members, run, &mut round);
                }
            }
            if others.is_empty() && !batches {
                self.hand(run, &mut members, &mut round);
            } else {
                self.hand_mixed(run, others, &mut members, &mut round);
            }
            if !self.joined.is_empty() {
                self.end_joined();
            }
            if let Some(topic) = self.topics.get_mut(&alias) {
                topic.members = members;
                if topic.is_spare() {
                    self.topics.remove(&alias);
                }
            }
        }
        self.patterns.end_batch(self.loaded);
        if !self.patterns.late.is_empty() {
            self.begin_late();
        }
        if !self.patterns.waiting.is_empty() {
            self.wake_browsers();
        }
        self.touched = touched;
        if self.tables.bytes() > self.tables_max {
            self.cut_tables(writer, now_ms, outcome);
        }
        self.flush_due(writer, now_ms, (now_ms, outcome));
    }

    /// Hands a run to members of its channel, all of which speak its form.
    fn hand(&mut self, run: Rc<Run>, members: &mut [Member], round: &mut Round<'_, impl Writer>) {
        for member in members {
            self.offer(member, &run, round);
        }
        self.press.issue(run);
    }

    // It is called from several places, and the loop over the members of a channel is no place for
    // a call.
    #[inline(always)]
    pub(super) fn offer(
        &mut self,
        member: &mut Member,
        run: &Rc<Run>,
        round: &mut Round<'_, impl Writer>,
    ) {
        if member.standing != Standing::Live {
            return self.miss(member, run, run.after(member.position), round);
        }
        let Some(seat) = self.seats.get_mut(member.seat as usize) else { return };
        if !seat.dirty {
            seat.dirty = true;
            self.dirty.push_back(member.seat);
        }
        let mut from = run.after(member.position);
        let (full, near, roomy) = (&mut self.full, &mut self.near, &mut self.roomy);
        let mut target = Target { seat, member, full, near, roomy, limit: self.limit };
        for (hidden, client) in run.hidden() {
            if *client == target.seat.author.client && *hidden >= from {
                target.put(Slice { run: Rc::clone(run), from, to: *hidden }, round);
                if target.member.standing != Standing::Live {
                    return self.miss(member, run, *hidden, round);
                }
                from = hidden + 1;
            }
        }
        let slice = Slice { run: Rc::clone(run), from, to: run.len() };
        target.put(slice, round);
    }
}

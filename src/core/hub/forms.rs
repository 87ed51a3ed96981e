//! The forms in which a channel's events are laid out: those that its members speak, each once.

use std::iter::once;
use std::rc::Rc;
use std::sync::Arc;

use super::seat::{Member, Round};
use super::{Hub, Topic, Writer};
use crate::core::run::{Press, Run, RunLimit};
use crate::proto::encoder::Encoder;
use crate::proto::event::Event;
use crate::proto::format::Format;

/// Some of the forms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forms(u8);

const _: () = assert!(Format::ALL.len() <= 8);

impl Forms {
    /// That one alone.
    pub(super) fn one(format: Format) -> Self {
        Self(1 << format.index())
    }

    /// Those that members speak.
    pub(super) fn of(members: &[Member]) -> Self {
        members.iter().map(|member| Self::one(member.format)).fold(Self::default(), Self::and)
    }

    /// These and those.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Keeps the plain JSON of an event where it is wanted and others are made of it as well. The
    /// last holder of an event would not: it makes it for one run.
    pub(super) fn keep(self, event: &Event, encoder: &mut Encoder) {
        let json = Self::one(Format::Json);
        if self != json && self.0 & json.0 != 0 && !event.is_large() {
            event.frame(Format::Json, encoder);
        }
    }

    /// Each of them.
    pub(super) fn each(self) -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(move |format| self.0 & Self::one(*format).0 != 0)
    }
}

/// How many members speak each form but plain JSON, which the others do.
#[derive(Debug, Default)]
pub(super) struct Speakers([u32; Format::ALL.len()]);

impl Speakers {
    /// One who spoke `before` speaks `after`; `None` for who was not there, or is no more.
    pub(super) fn count(&mut self, before: Option<Format>, after: Option<Format>) {
        let place = |format: Option<Format>| format.filter(|it| *it != Format::Json);
        if let Some(count) = place(after).and_then(|format| self.0.get_mut(format.index())) {
            *count += 1;
        }
        if let Some(count) = place(before).and_then(|format| self.0.get_mut(format.index())) {
            *count -= 1;
        }
    }

    /// The forms that are spoken by `members` in all.
    pub(super) fn forms(&self, members: usize) -> Forms {
        let spoken = Format::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0);
        let forms = spoken.map(|(format, _)| Forms::one(format)).fold(Forms::default(), Forms::and);
        let others: u32 = self.0.iter().sum();
        let json = members > others as usize;
        if json { forms.and(Forms::one(Format::Json)) } else { forms }
    }
}

/// What a channel has where not only plain JSON is spoken, one event in a frame.
#[derive(Debug, Default)]
pub(super) struct Mixed {
    speakers: Speakers,
    /// How many members take several events in a frame.
    batches: u32,
    /// The runs being filled by the batch, beside the topic's own: the same events in other forms.
    open: Vec<Rc<Run>>,
}

impl Topic {
    /// A member without a rate comes or goes, or both.
    pub(super) fn count_speaker(&mut self, before: Option<Member>, after: Option<Member>) {
        let plain = |member: Option<Member>| {
            member.is_none_or(|member| member.format == Format::Json && !member.batch)
        };
        if self.mixed.is_none() && plain(before) && plain(after) {
            return;
        }
        debug_assert!(self.open.is_none() || after.is_none(), "who comes waits for a batch's end");
        let format = |member: Option<Member>| member.map(|member| member.format);
        let batch = |member: Option<Member>| u32::from(member.is_some_and(|member| member.batch));
        let mixed = self.mixed.get_or_insert_default();
        mixed.speakers.count(format(before), format(after));
        mixed.batches += batch(after);
        mixed.batches -= batch(before);
        let none = mixed.batches == 0 && mixed.speakers.0.iter().all(|count| *count == 0);
        if mixed.open.is_empty() && none {
            self.mixed = None;
        }
    }

    /// Whether a member without a rate takes several events in a frame.
    pub(super) fn has_batches(&self) -> bool {
        self.mixed.as_ref().is_some_and(|mixed| mixed.batches > 0)
    }

    /// Begins a run in each form that the members speak, and in `more`.
    pub(super) fn begin(
        &mut self,
        press: &mut Press,
        event: &Arc<Event>,
        now_ns: u64,
        more: Forms,
    ) {
        if self.mixed.is_none() && (more == Forms::default() || more == Forms::one(Format::Json)) {
            self.open = Some(press.begin(event, now_ns));
            return;
        }
        let members = self.members.len();
        let spoken = match &self.mixed {
            Some(mixed) => mixed.speakers.forms(members),
            None => Speakers::default().forms(members),
        };
        let forms = spoken.and(more);
        forms.keep(event, press.encoder());
        let mut runs = forms.each().map(|form| press.begin_in(form, event, now_ns));
        self.open = runs.next();
        for run in runs {
            self.mixed.get_or_insert_default().open.push(run);
        }
    }

    /// Appends an event to the runs that are open. All end at the same event.
    pub(super) fn append(
        &mut self,
        press: &mut Press,
        event: &Arc<Event>,
        max: RunLimit,
    ) -> Option<bool> {
        let run = self.open.as_mut()?;
        Some(match &mut self.mixed {
            Some(mixed) if !mixed.open.is_empty() => {
                press.append_to_all(run, &mut mixed.open, event, max)
            }
            Some(_) | None => press.append(run, event, max),
        })
    }

    /// Counts in the table what the batch has made of its events.
    pub(super) fn weigh_table(&mut self) {
        if let Some(latest) = &mut self.latest {
            latest.weigh(self.head);
        }
    }

    /// The runs that are open beside the topic's own.
    pub(super) fn take_others(&mut self) -> Vec<Rc<Run>> {
        let Some(mixed) = &mut self.mixed else { return Vec::new() };
        let others = std::mem::take(&mut mixed.open);
        self.count_speaker(None, None);
        others
    }
}

impl Hub {
    /// Hands a batch to the members of its channel: to each the run in the form that it speaks.
    #[inline(never)]
    pub(super) fn hand_mixed(
        &mut self,
        run: Rc<Run>,
        others: Vec<Rc<Run>>,
        members: &mut [Member],
        round: &mut Round<'_, impl Writer>,
    ) {
        for run in once(run).chain(others) {
            self.hand_form(run, members, round);
        }
    }

    /// Hands around what a flush has laid out.
    pub(super) fn hand_laid(
        &mut self,
        runs: Vec<Rc<Run>>,
        members: &mut [Member],
        round: &mut Round<'_, impl Writer>,
    ) {
        for run in runs {
            self.hand_form(run, members, round);
        }
        self.end_joined();
    }

    /// Hands a run to those members of its channel that speak its form.
    pub(super) fn hand_form(
        &mut self,
        run: Rc<Run>,
        members: &mut [Member],
        round: &mut Round<'_, impl Writer>,
    ) {
        let format = run.format();
        for member in members.iter_mut().filter(|member| member.format == format) {
            if member.batch {
                self.offer_joined(member, &run, round);
            } else {
                self.offer(member, &run, round);
            }
        }
        self.press.issue(run);
    }
}

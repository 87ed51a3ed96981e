//! The fan-out to those who take several events in one text frame.

use std::iter::once;
use std::rc::Rc;

use super::seat::{Member, Round, Standing, Target};
use super::{Hub, Writer};
use crate::core::outbox::Slice;
use crate::core::run::{JOINED_BYTES_MAX, Run};

/// The events `from..to` of a run: in shared frames as far as these lie within, the others alone.
fn slices(run: &Rc<Run>, joined: &Rc<Run>, (from, to): (u32, u32)) -> [Slice; 3] {
    let (first, end) = (joined.frame_from(from).min(to), joined.frame_upto(to));
    let end = end.max(first);
    let slice = |run, from, to| Slice { run: Rc::clone(run), from, to };
    [slice(run, from, first), slice(joined, first, end), slice(run, end, to)]
}

impl Hub {
    /// Hands a run to a member, several events in a frame; but what shares a frame with an event
    /// that is not for it comes in frames of its own.
    #[inline(never)]
    pub(super) fn offer_joined(
        &mut self,
        member: &mut Member,
        run: &Rc<Run>,
        round: &mut Round<'_, impl Writer>,
    ) {
        let mut from = run.after(member.position);
        if member.standing != Standing::Live {
            return self.miss(member, run, from, round);
        }
        let joined = self.joined(run);
        self.mark_dirty(member.seat as usize);
        let Some(seat) = self.seats.get_mut(member.seat as usize) else { return };
        let client = seat.author.client;
        let (full, near, roomy) = (&mut self.full, &mut self.near, &mut self.roomy);
        let mut target = Target { seat, member, full, near, roomy, limit: self.limit };
        let own = run.hidden().iter().filter(|(_, hidden_from)| *hidden_from == client);
        let own = own.map(|(at, _)| *at).filter(|at| *at >= from).collect::<Vec<_>>();
        for to in own.into_iter().chain(once(run.len())) {
            for slice in slices(run, &joined, (from, to)) {
                let next = slice.to;
                target.put(slice, round);
                if target.member.standing != Standing::Live {
                    return self.miss(member, run, next, round);
                }
            }
            from = to + 1;
        }
    }

    /// The run for those who take several events in a frame, made once.
    fn joined(&mut self, run: &Rc<Run>) -> Rc<Run> {
        if let Some((_, joined)) = self.joined.iter().find(|(source, _)| Rc::ptr_eq(source, run)) {
            return Rc::clone(joined);
        }
        let joined = self.press.join(run, JOINED_BYTES_MAX);
        self.joined.push((Rc::clone(run), Rc::clone(&joined)));
        joined
    }

    /// The runs that were joined have been handed to all.
    pub(super) fn end_joined(&mut self) {
        for (run, joined) in self.joined.drain(..) {
            if !Rc::ptr_eq(&run, &joined) {
                self.press.issue(joined);
            }
        }
    }
}

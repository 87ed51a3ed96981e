//! What a flush brings: the newest events of keys laid into runs, and how many were left out.

use std::rc::Rc;

use super::forms::Forms;
use super::seat::{Member, Standing};
use crate::core::latest::Latest;
use crate::core::run::{Press, Run, RunLimit};
use crate::proto::format::Format;

/// What the table has after `after`, in each form that the members speak.
pub(super) fn lay(
    press: &mut Press,
    (latest, after): (&mut Latest, u64),
    members: &[Member],
    now_ms: u64,
    limit: RunLimit,
) -> Vec<Rc<Run>> {
    let now_ns = now_ms.saturating_mul(1_000_000);
    let forms = Forms::of(members);
    latest.newer(after).for_each(|event| forms.keep(event, press.encoder()));
    let each = forms.each();
    let lay = |format| press.lay(latest.newer(after), format, now_ns, limit);
    let runs = each.flat_map(lay).collect();
    if forms != Forms::one(Format::Json) {
        latest.weigh(after);
    }
    runs
}

/// How many events after `after` are not in the runs, over the members that get these. Where one
/// lags, those between two frames lie in its hole.
pub(super) fn conflated(members: &[Member], latest: &Latest, after: u64, runs: &[Rc<Run>]) -> u64 {
    let known = after.max(latest.floor().saturating_sub(1));
    let missing = |member: &Member| {
        let from = known.max(member.position);
        let mut own = runs.iter().filter(|run| run.format() == member.format);
        match member.standing {
            Standing::Live => {
                let kept: u32 = own.map(|run| run.len() - run.after(from)).sum();
                latest.head().saturating_sub(from).saturating_sub(u64::from(kept))
            }
            // With the first frame it begins a hole.
            Standing::Told => {
                let first = own.find(|run| run.after(from) < run.len());
                first.map_or(0, |run| run.offset(run.after(from)) - from - 1)
            }
            Standing::Lagging => 0,
        }
    };
    members.iter().map(missing).sum()
}

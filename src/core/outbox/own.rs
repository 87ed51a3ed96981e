//! What a queue takes of memory for itself, and how old what waits in it is.

use std::rc::Rc;

use super::item::{GAP_BYTES, Item, age_ms};
use super::lag::Lag;
use super::{LANE_KEPT, Outbox};

impl Outbox {
    /// Memory that it takes for itself: its control lane, its places in the data lane beyond those
    /// that it may keep while it is empty, the tally of them, and its share of the frame that it is
    /// writing of what it has missed, and its lane of signals. Runs, gaps, subscriptions that lag and
    /// signals are on the account already.
    pub fn own_bytes(&self) -> usize {
        let places = self.data.capacity();
        let lane = if places > LANE_KEPT { places * size_of::<Item>() } else { 0 };
        let frame = match self.data.front() {
            Some(Item::Frame(frame)) => frame.len() / Rc::strong_count(frame),
            Some(Item::Last(bytes)) => bytes.len(),
            Some(
                Item::Gap(_)
                | Item::Gone
                | Item::Lag(_)
                | Item::Past(_)
                | Item::Recall(_)
                | Item::Slice(_),
            )
            | None => 0,
        };
        let tally = self.known_tally().map_or(0, |tally| tally.footprint());
        self.control.capacity() + lane + tally + frame + self.signals_own_bytes()
    }

    /// Memory that it takes: its own, and its share of the runs that others have too.
    pub fn share_bytes(&self) -> usize {
        let items = self.data.iter().map(|item| match item {
            Item::Gap(gap) => GAP_BYTES + gap.frame.capacity(),
            Item::Lag(_) => size_of::<Lag>(),
            Item::Past(slice) | Item::Slice(slice) => {
                slice.run.footprint() / Rc::strong_count(&slice.run)
            }
            Item::Recall(recall) => recall.share_bytes(),
            Item::Frame(_) | Item::Gone | Item::Last(_) => 0,
        });
        self.own_bytes() + items.sum::<usize>() + self.signals_share_bytes()
    }

    /// The age of the first event that waits, or is missing there, in milliseconds; `None` where
    /// only notices wait, and what is shown to one that lags is not chosen yet.
    pub fn oldest_ms(&self, now_ns: u64) -> Option<u64> {
        let taken_ns = self.data.iter().find_map(|item| match item {
            Item::Frame(frame) => frame.offset.map(|_| frame.taken_ns),
            Item::Gap(gap) => Some(gap.taken_ns),
            Item::Lag(lag) => lag.missed_since(),
            Item::Gone | Item::Last(_) | Item::Past(_) | Item::Recall(_) => None,
            Item::Slice(slice) => Some(slice.run.event_ns(slice.from)),
        });
        taken_ns.map(|taken_ns| age_ms(taken_ns, now_ns))
    }
}

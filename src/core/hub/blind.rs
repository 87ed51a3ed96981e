//! Who has a channel by name, and may not see who else has it: no joins, leaves and counts.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::{Hub, SeatId};
use crate::proto::name::{Alias, ClientId};

/// Those who see nobody. Beside the seats, for there are few of them or none.
#[derive(Debug, Default)]
pub(super) struct Blind(HashSet<(ClientId, Alias), RandomState>);

impl Blind {
    pub(super) fn has(&self, one: (ClientId, Alias)) -> bool {
        !self.0.is_empty() && self.0.contains(&one)
    }

    /// Its subscription has ended.
    pub(super) fn forget(&mut self, one: (ClientId, Alias)) {
        if !self.0.is_empty() {
            self.0.remove(&one);
        }
    }
}

impl Hub {
    /// Whether a connection that has a channel by name is told who else has it. As long as nobody
    /// says otherwise it is.
    pub fn show_presence(&mut self, (id, alias): (SeatId, Alias), shown: bool) {
        let Some(seat) = self.seats.get(id) else { return };
        let one = (seat.author.client, alias);
        if shown {
            self.blind.forget(one);
        } else if seat.subs.has(alias) {
            self.blind.0.insert(one);
        }
    }

    /// How many are not told.
    pub fn blind(&self) -> usize {
        self.blind.0.len()
    }
}

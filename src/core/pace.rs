//! How fast the clients of a shard ask. Beside their seats and not in them: where there is no limit,
//! nobody pays for one.

use super::bucket::{Allowance, Bucket};
use crate::proto::close::CloseReason;

/// Commands too many a minute that are answered; one more closes with 4006.
const REFUSALS_MAX: u8 = 100;

/// The minute in which they are counted, in seconds.
const REFUSALS_WINDOW_S: u64 = 60;

/// One client's pace.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    bucket: Bucket,
    /// When the present minute of refusals began, in seconds of the node's clock.
    since_s: u32,
    refused: u8,
}

/// Where there is a limit, every connection has one.
const _: () = assert!(size_of::<Pace>() == 16);

/// The paces of a shard's clients, by the numbers of their seats.
#[derive(Debug, Default)]
pub struct Paces(Vec<Pace>);

impl Paces {
    /// Another client has the seat. Without an allowance all of them are forgotten.
    pub fn begin(&mut self, seat: usize, allowance: Option<Allowance>) {
        if allowance.is_none() {
            self.0 = Vec::new();
        } else if let Some(pace) = self.0.get_mut(seat) {
            *pace = Pace::default();
        }
    }

    /// A client asks something at `now_ns`.
    ///
    /// # Errors
    ///
    /// In how many milliseconds it may, where it has asked too much.
    pub fn ask(&mut self, seat: usize, allowance: Allowance, now_ns: u64) -> Result<(), u32> {
        if self.0.len() <= seat {
            self.0.resize(seat + 1, Pace::default());
        }
        let Some(pace) = self.0.get_mut(seat) else { return Ok(()) };
        let wait = pace.bucket.take(allowance, now_ns);
        wait.map_err(|wait_ns| u32::try_from(wait_ns.div_ceil(1_000_000)).unwrap_or(u32::MAX))
    }

    /// A client was refused. Says when it was once too often.
    pub fn refuse(&mut self, seat: usize, now_ms: u64) -> Option<CloseReason> {
        let pace = self.0.get_mut(seat)?;
        let now_s = u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX);
        if u64::from(now_s.saturating_sub(pace.since_s)) >= REFUSALS_WINDOW_S {
            pace.since_s = now_s;
            pace.refused = 0;
        }
        pace.refused = pace.refused.saturating_add(1);
        (pace.refused > REFUSALS_MAX).then_some(CloseReason::RateLimited)
    }

    /// Memory of them all, in bytes.
    pub fn footprint(&self) -> usize {
        self.0.capacity() * size_of::<Pace>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_NS: u64 = 3_600_000_000_000;

    #[test]
    fn a_client_has_its_own_pace_and_a_new_one_in_its_seat_too() {
        let mut paces = Paces::default();
        let allowance = Allowance::per_second(1);
        let ask = |paces: &mut Paces, seat| paces.ask(seat, allowance.unwrap(), HOUR_NS);
        assert_eq!((ask(&mut paces, 7), ask(&mut paces, 7)), (Ok(()), Ok(())));
        assert_eq!(ask(&mut paces, 7), Err(1_000));
        assert_eq!(ask(&mut paces, 3), Ok(()));
        paces.begin(7, allowance);
        assert_eq!(ask(&mut paces, 7), Ok(()));
        assert!(paces.footprint() > 0);
        paces.begin(7, None);
        assert_eq!(paces.footprint(), 0, "without a limit there is nothing to keep");
    }

    #[test]
    fn a_hundred_refusals_a_minute_are_answered_and_no_more() {
        let mut paces = Paces::default();
        assert_eq!(paces.refuse(0, 1), None, "nobody has asked");
        let allowance = Allowance::per_second(1).unwrap();
        paces.ask(0, allowance, HOUR_NS).unwrap();
        let start_ms = HOUR_NS / 1_000_000;
        for minute in 0..3 {
            for _ in 0..100 {
                assert_eq!(paces.refuse(0, start_ms + minute * 60_000), None);
            }
        }
        let over = paces.refuse(0, start_ms + 2 * 60_000 + 59_999);
        assert_eq!(over, Some(CloseReason::RateLimited));
    }
}

//! Token buckets: how often something may happen, and who has done it how often. Eight bytes for
//! each who does it.

/// How many seconds of its rate a full bucket holds: whoever has been quiet may do so much at once.
const BURST_S: u64 = 2;

/// How many seconds of its rate may be owed beside: more that was had at once is forgotten, so that
/// nobody is kept out for longer.
const DEBT_S: u64 = 10;

const SECOND_NS: u64 = 1_000_000_000;

/// How often something may happen: so many times a second, and twice that at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// What one takes out of the bucket.
    cost_ns: u64,
}

impl Allowance {
    /// So many times a second; `None` for 0, which is without a limit.
    pub fn per_second(times: u32) -> Option<Self> {
        let cost_ns = SECOND_NS.checked_div(times.into())?;
        Some(Self { cost_ns: cost_ns.max(1) })
    }
}

/// How full somebody's bucket is: the moment at which it is full, by the node's clock. Nothing of
/// the allowance is in it, so that one may take the place of another at any time. A new one is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    full_ns: u64,
}

impl Bucket {
    /// Takes one out at `now_ns`.
    ///
    /// # Errors
    ///
    /// In how many nanoseconds there is one again, where there is none.
    pub fn take(&mut self, allowance: Allowance, now_ns: u64) -> Result<(), u64> {
        let full_ns = self.full_ns.max(now_ns).saturating_add(allowance.cost_ns);
        let latest_ns = now_ns.saturating_add(BURST_S * SECOND_NS);
        if full_ns > latest_ns {
            return Err(full_ns - latest_ns);
        }
        self.full_ns = full_ns;
        Ok(())
    }

    /// As [`Bucket::take`], and it is taken also where there is none: what was let in together before
    /// any of it was counted is paid for, and nothing is left until then.
    ///
    /// # Errors
    ///
    /// As of [`Bucket::take`], as if it were refused.
    pub fn owe(&mut self, allowance: Allowance, now_ns: u64) -> Result<(), u64> {
        let had = self.look(allowance, now_ns);
        let latest_ns = now_ns.saturating_add((BURST_S + DEBT_S) * SECOND_NS);
        let full_ns = self.full_ns.max(now_ns).saturating_add(allowance.cost_ns);
        self.full_ns = full_ns.min(latest_ns);
        had
    }

    /// Whether there is one in it at `now_ns`, which stays there.
    ///
    /// # Errors
    ///
    /// As of [`Bucket::take`].
    pub fn look(mut self, allowance: Allowance, now_ns: u64) -> Result<(), u64> {
        self.take(allowance, now_ns)
    }

    /// Whether it is full at `now_ns`: then it is as good as none.
    pub fn is_full(self, now_ns: u64) -> bool {
        self.full_ns <= now_ns
    }

    /// When it is full; the one with the earliest is the least loss.
    pub fn full_at(self) -> u64 {
        self.full_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(Allowance::per_second(0), None);
    }

    #[test]
    fn twice_the_rate_at_once_and_then_the_rate() {
        let allowance = Allowance::per_second(10).unwrap();
        let (mut bucket, start) = (Bucket::default(), 77 * SECOND_NS);
        for _ in 0..20 {
            assert_eq!(bucket.take(allowance, start), Ok(()));
        }
        assert_eq!(bucket.take(allowance, start), Err(SECOND_NS / 10));
        // Whoever is refused has taken nothing.
        assert_eq!(bucket.take(allowance, start + 1), Err(SECOND_NS / 10 - 1));
        assert_eq!(bucket.take(allowance, start + SECOND_NS / 10), Ok(()));
        assert!(bucket.take(allowance, start + SECOND_NS / 10).is_err());
        assert!(!bucket.is_full(start + 2 * SECOND_NS));
        assert!(bucket.is_full(start + 2 * SECOND_NS + SECOND_NS / 10));
    }

    #[test]
    fn what_is_owed_is_paid_before_there_is_one_again() {
        let allowance = Allowance::per_second(10).unwrap();
        let (mut bucket, start) = (Bucket::default(), 77 * SECOND_NS);
        for nth in 0..50 {
            assert_eq!(bucket.owe(allowance, start).is_ok(), nth < 20, "{nth}");
        }
        // Thirty too many: those, and one more.
        let wait = 31 * SECOND_NS / 10;
        assert_eq!(bucket.take(allowance, start), Err(wait));
        assert!(bucket.look(allowance, start + wait - 1).is_err());
        assert_eq!(bucket.look(allowance, start + wait), Ok(()));
        // However many there were, there is an end.
        for _ in 0..5_000 {
            assert!(bucket.owe(allowance, start).is_err());
        }
        let most = 10 * SECOND_NS + SECOND_NS / 10;
        assert_eq!(bucket.take(allowance, start), Err(most));
        assert_eq!(bucket.take(allowance, start + most), Ok(()));
    }

    proptest! {
        /// Whatever the times: in no span more than the rate and the burst, and whoever waits as
        /// long as it was told gets one.
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            times in 1_u32..5_000,
            waits in prop::collection::vec(0_u64..400_000_000, 1..200),
        ) {
            let allowance = Allowance::per_second(times).unwrap();
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0, 0_u64);
            for wait in waits {
                now += wait;
                while bucket.take(allowance, now).is_ok() {
                    taken += 1;
                }
                let most = u128::from(times) * u128::from(now + 2 * SECOND_NS + 1) / u128::from(SECOND_NS);
                // A cost is cut to whole nanoseconds: some parts in a million more.
                prop_assert!(u128::from(taken) <= most + most / 100_000 + 1, "{taken} {most}");
                let mut later = bucket;
                let short = bucket.take(allowance, now).unwrap_err();
                prop_assert!(later.take(allowance, now + short).is_ok());
            }
        }
    }
}

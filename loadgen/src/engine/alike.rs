//! The cheap way through a read: events whose frames are as long as the one before them and begin
//! with the same bytes, which is to say the same channel. Of each only what differs is looked at;
//! whatever else there is takes the way of [`Ledger::text`].

use crate::engine::ledger::{Arrival, Ledger};
use crate::wire::{frame, marks};

/// What the last event's frame was like.
#[derive(Debug, Default)]
pub(super) struct Alike {
    /// Its header and its text up to the offset; empty where there is nothing to be like.
    head: Vec<u8>,
    /// All of it, in bytes.
    len: usize,
    channel: Option<u32>,
}

impl Ledger {
    /// Takes the events at the front of `input` that are like the last one, and says how many bytes
    /// they were.
    ///
    /// What it books is what [`Ledger::text`] would have booked.
    pub(crate) fn alike(&mut self, input: &[u8], from: Arrival) -> usize {
        let Alike { head, len, channel } = std::mem::take(&mut self.alike);
        let mut used = 0;
        if !head.is_empty() {
            let seat = if self.follows { self.seat(channel, from) } else { None };
            let mut delivered = 0;
            while let Some(frame) = input.get(used..used + len)
                && let Some(rest) = frame.strip_prefix(head.as_slice())
                && self.one(rest, (channel, seat), from)
            {
                used += len;
                delivered += 1;
            }
            self.count(from).delivered += delivered;
        }
        self.alike = Alike { head, len, channel };
        used
    }

    /// Takes one event, of which `rest` is the offset and what follows; false when it must be looked
    /// at more closely, and nothing is booked.
    #[inline]
    fn one(&mut self, rest: &[u8], place: (Option<u32>, Option<usize>), from: Arrival) -> bool {
        if !self.may_show && !self.follows {
            if !rest.first().is_some_and(u8::is_ascii_digit) {
                return false;
            }
            if self.is_sample()
                && let Some(due) = self.due(rest)
            {
                self.arrived(due, None, from);
            }
            return true;
        }
        // With nothing but a time before its data it is no latest value shown again.
        let Some((offset, data)) = marks::plain(rest) else { return false };
        if self.follows {
            self.check(place, (offset, offset), from, |seat| seat.event(offset));
        }
        if self.is_sample()
            && let Some(due) = marks::due_first(data).or_else(|| self.marks.due_in(data))
        {
            self.arrived(due, None, from);
        }
        true
    }

    /// When an event was due; nearly always that stands in the same place.
    fn due(&self, rest: &[u8]) -> Option<u64> {
        let plain = marks::plain(rest).and_then(|(_, data)| marks::due_first(data));
        plain.or_else(|| self.marks.due_behind(rest))
    }

    /// Remembers what a whole frame is like, if it is an event's.
    pub(crate) fn learn(&mut self, frame: &[u8]) {
        let Some((header, text)) = frame::whole_text(frame) else { return };
        let Some(event) = marks::event(text) else { return };
        let head = header + event.offset_at(text);
        self.alike.channel = self.channel(event.channel);
        self.alike.len = frame.len();
        self.alike.head.clear();
        self.alike.head.extend_from_slice(&frame[..head]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::ledger::tests::{subscribing, wanted};
    use crate::engine::shared::Phase;
    use crate::engine::wanted::{Subscribing, Wanted};
    use crate::plan::Span;

    const NOW: u64 = 7_000_000;

    fn ledger(verify: bool, sample: u64) -> Ledger {
        let target = "ws://127.0.0.1:1/ws".parse().expect("valid");
        let subscribing = Subscribing { sample, ..subscribing(verify) };
        Ledger::new(Arc::new(Wanted { target, subscribing, ..wanted(verify) }), 2)
    }

    fn from(connection: u32) -> Arrival {
        Arrival {
            at: connection as usize,
            connection,
            slow: false,
            apart: false,
            now: NOW,
            phase: Phase::Measure,
            measured: Span { from: 0, until: u64::MAX },
            made: u64::MAX,
        }
    }

    /// Takes a read as a receiver does; says how many bytes took the cheap way.
    fn take(ledger: &mut Ledger, input: &[u8], connection: u32, is_cheap: bool) -> usize {
        let (mut used, mut cheap, mut joined) = (0, 0, Vec::new());
        let mut input = input.to_vec();
        loop {
            if is_cheap {
                let skimmed = ledger.alike(&input[used..], from(connection));
                (used, cheap) = (used + skimmed, cheap + skimmed);
            }
            let Some((frame, len)) = frame::next(&mut input[used..], &mut joined).expect("frames")
            else {
                assert_eq!(used, input.len(), "the read ends with a frame");
                ledger.record();
                return cheap;
            };
            ledger.text(frame.payload, from(connection), &mut |_| {});
            if is_cheap {
                ledger.learn(&input[used..used + len]);
            }
            used += len;
        }
    }

    /// Something that a server may say on a channel; mostly the next event.
    fn said(dice: &mut fastrand::Rng, next: &mut [u64; 3]) -> String {
        let channel = dice.usize(..3);
        let offset = next[channel];
        let (mut head, mut data) = (String::new(), format!(r#"{{"ts":{}}}"#, dice.u64(1..NOW)));
        let (mut kind, mut name) = ("event", "load:");
        match dice.u32(..40) {
            0 => return format!(r#"{{"type":"pong","id":{offset}}}"#),
            1 => {
                next[channel] += 3;
                let to = offset + 2;
                return format!(
                    r#"{{"type":"lagged","channel":"load:{channel}","dropped":3,"from":{offset},"to":{to}}}"#
                );
            }
            2 => next[channel] += 1,
            3 => head = r#","snapshot":true"#.into(),
            4 => head = r#","key":"k","snapshot":true"#.into(),
            5 => head = r#","key":"a,\"data\":""#.into(),
            6 => data = r#"{"snapshot":true,"data":1,"ts":9}"#.into(),
            7 => data = "null".into(),
            8 => kind = "events",
            9 => name = "other:",
            10 => return r#"{"type":"event","channel":"load:0","offset":x,"data":1}"#.into(),
            11 => next[channel] = offset.max(2) - 1,
            12 => next[channel] *= 9,
            _ => {}
        }
        let offset = next[channel];
        if !head.contains("snapshot") {
            next[channel] += 1;
        }
        let time = if dice.u32(..9) > 0 { r#","ts":1732153200123"# } else { "" };
        format!(
            r#"{{"type":"{kind}","channel":"{name}{channel}","offset":{offset}{time}{head},"data":{data}}}"#
        )
    }

    #[test]
    fn the_cheap_way_books_what_the_other_one_books() {
        let (mut bytes, mut cheap) = (0, 0);
        for seed in 0..80 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let (verify, sample) = (dice.bool(), [1, 17][dice.usize(..2)]);
            let mut ways = [ledger(verify, sample), ledger(verify, sample)];
            let mut next = [11, 11, 11];
            for way in &mut ways {
                for text in [0, 1, 1, 2].map(|channel| {
                    format!(
                        r#"{{"type":"subscribed","id":1,"channel":"load:{channel}","offset":10}}"#
                    )
                }) {
                    way.text(text.as_bytes(), from(0), &mut |_| {});
                    way.text(text.as_bytes(), from(1), &mut |_| {});
                }
            }
            for _ in 0..30 {
                let mut input = Vec::new();
                let mut text = said(&mut dice, &mut next);
                for _ in 0..dice.usize(..12) {
                    frame::push_server(frame::Opcode::Text, text.as_bytes(), &mut input);
                    text = match dice.u32(..4) {
                        0 => said(&mut dice, &mut next),
                        // The next of the same channel.
                        _ => {
                            let at = (0..3).find(|at| text.contains(&format!(r#"load:{at}""#)));
                            let at = at.unwrap_or(0);
                            next[at] += 1;
                            event(at, next[at] - 1, dice.u64(1..NOW))
                        }
                    };
                }
                let connection = dice.u32(..2);
                let [plain, skims] = &mut ways;
                take(plain, &input, connection, false);
                bytes += input.len();
                cheap += take(skims, &input, connection, true);
                assert_eq!(plain.all, skims.all, "seed {seed}");
                let verdict = |ledger: &Ledger| serde_json::to_string(&ledger.verdict);
                let both = (verdict(plain).expect("JSON"), verdict(skims).expect("JSON"));
                assert_eq!(both.0, both.1, "seed {seed}");
                let latency = |ledger: &Ledger| (ledger.latency.summary(), ledger.may_show);
                assert_eq!(latency(plain), latency(skims), "seed {seed}");
            }
        }
        assert!(cheap * 3 > bytes, "only {cheap} of {bytes} bytes took the cheap way");
    }

    fn event(channel: usize, offset: u64, due: u64) -> String {
        format!(
            r#"{{"type":"event","channel":"load:{channel}","offset":{offset},"ts":1732153200123,"data":{{"ts":{due}}}}}"#
        )
    }

    #[test]
    fn a_cut_event_waits_for_its_rest() {
        let mut ledger = ledger(false, 1);
        let mut input = Vec::new();
        for offset in [11, 12] {
            let text = event(0, offset, 9);
            frame::push_server(frame::Opcode::Text, text.as_bytes(), &mut input);
        }
        assert_eq!(take(&mut ledger, &input, 0, true), input.len() / 2);
        for cut in 0..input.len() {
            let whole = cut / (input.len() / 2) * (input.len() / 2);
            assert_eq!(ledger.alike(&input[..cut], from(0)), whole, "cut at {cut}");
        }
    }
}

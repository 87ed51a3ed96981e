//! Requests that wait for their answers: numbered from 1, each with the time it was due and who asked.

use std::collections::VecDeque;

/// The requests under way. Invariant: `open` counts the entries of `due` that are not 0.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The number of the front entry.
    first: u64,
    /// When each was due, 0 once it is answered; and who asked.
    due: VecDeque<(u64, u32)>,
    open: u64,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { first: 1, due: VecDeque::new(), open: 0 }
    }

    /// The number that the next request gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.due.len() as u64
    }

    /// How many wait.
    pub(crate) fn open(&self) -> u64 {
        self.open
    }

    /// Adds a request that was due at `due`, which is never 0, and numbers it.
    pub(crate) fn push(&mut self, due: u64, asker: u32) -> u64 {
        let number = self.next();
        self.due.push_back((due.max(1), asker));
        self.open += 1;
        number
    }

    /// An answer to `number` came: when was it due? `None` when nothing waits for it.
    pub(crate) fn take(&mut self, number: u64) -> Option<u64> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let due = std::mem::take(&mut self.due.get_mut(at)?.0);
        if due == 0 {
            return None;
        }
        self.open -= 1;
        while self.due.front().is_some_and(|(due, _)| *due == 0) {
            self.due.pop_front();
            self.first += 1;
        }
        Some(due)
    }
}

impl Pending {
    /// An answer to `number` came to `asker`: when was it due? `None` when no such number was ever
    /// given, an error when it was asked by another or is answered already.
    pub(crate) fn answer(&mut self, number: u64, asker: u32) -> Result<Option<u64>, Stranger> {
        if number == 0 || number >= self.next() {
            return Ok(None);
        }
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let waits =
            at.and_then(|at| self.due.get(at)).is_some_and(|(due, by)| *due > 0 && *by == asker);
        if !waits {
            return Err(Stranger);
        }
        Ok(self.take(number))
    }
}

/// An answer that came to another connection than asked, or a second time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stranger;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_requests_in_any_order_and_once() {
        let mut pending = Pending::new();
        let numbers: Vec<u64> = (10..14).map(|due| pending.push(due, 7)).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!((pending.take(2), pending.take(2)), (Some(11), None), "once");
        assert_eq!(pending.open(), 3);
        assert_eq!(pending.take(1), Some(10), "both are gone");
        assert_eq!((pending.take(0), pending.take(1), pending.take(9)), (None, None, None));
        assert_eq!((pending.take(4), pending.take(3)), (Some(13), Some(12)));
        assert_eq!((pending.open(), pending.next()), (0, 5));
    }

    #[test]
    fn an_answer_belongs_to_who_asked_and_comes_once() {
        let mut pending = Pending::new();
        let numbers = [pending.push(10, 1), pending.push(11, 2), pending.push(12, 1)];
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(pending.answer(2, 1), Err(Stranger), "another asked");
        assert_eq!(pending.answer(2, 2), Ok(Some(11)), "it still waits");
        assert_eq!(pending.answer(2, 2), Err(Stranger), "twice");
        assert_eq!(pending.answer(1, 1), Ok(Some(10)));
        assert_eq!(pending.answer(1, 1), Err(Stranger), "twice, and long gone");
        assert_eq!((pending.answer(0, 1), pending.answer(4, 1)), (Ok(None), Ok(None)));
    }
}

//! The account of one shard's queues: what they take of memory, counted where it is taken, and
//! taken off where it is given back. What many queues share is counted once.

use std::cell::Cell;
use std::rc::Rc;

/// The bytes of one shard. All clones are the same account.
#[derive(Debug, Clone, Default)]
pub struct Account(Rc<Cell<usize>>);

impl Account {
    /// What is on it.
    pub fn bytes(&self) -> usize {
        self.0.get()
    }
}

/// Bytes on an account, for as long as there is what takes them.
///
/// Invariant: an account's bytes are the sum of its charges.
#[derive(Debug)]
pub struct Charge {
    account: Account,
    bytes: usize,
}

impl Charge {
    /// Puts `bytes` on `account`.
    pub fn new(account: &Account, bytes: usize) -> Self {
        let mut charge = Self { account: account.clone(), bytes: 0 };
        charge.set(bytes);
        charge
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where they are.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// It is `bytes` from here on.
    pub fn set(&mut self, bytes: usize) {
        let others = self.account.bytes().saturating_sub(self.bytes);
        self.account.0.set(others + bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_the_sum_of_its_charges() {
        let account = Account::default();
        let mut one = Charge::new(&account, 5);
        let two = Charge::new(one.account(), 7);
        assert_eq!(account.bytes(), 12);
        one.set(1);
        assert_eq!((account.bytes(), one.bytes()), (8, 1));
        drop(two);
        assert_eq!(account.bytes(), 1);
        drop(one);
        assert_eq!(account.bytes(), 0);
    }
}

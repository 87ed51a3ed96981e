//! What must also happen where a test panics.

/// Does something when it is dropped: threads that run beside a test would go on without.
pub(crate) struct AtEnd<F: Fn()>(pub(crate) F);

impl<F: Fn()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

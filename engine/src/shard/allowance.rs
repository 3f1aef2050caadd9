//! A number of things that all shards of a process may have together. Touched when one comes or goes, never per entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there may be, and how many there are. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<Account>);

#[derive(Debug)]
struct Account {
    max: usize,
    used: AtomicUsize,
}

impl Allowance {
    /// At most `max` things.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Account { max, used: AtomicUsize::new(0) }))
    }

    /// Takes one, if one is left.
    #[must_use]
    pub fn take(&self) -> bool {
        let one_more = |used: usize| (used < self.0.max).then_some(used + 1);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes one that is there already, allowed or not.
    pub fn take_anyway(&self) {
        self.0.used.fetch_add(1, Ordering::Relaxed);
    }

    /// One is gone.
    pub fn give_back(&self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.0.used.load(Ordering::Relaxed) >= self.0.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clones_share_what_is_allowed() {
        let allowance = Allowance::new(2);
        let other = allowance.clone();
        other.take_anyway();
        assert!(allowance.take() && !other.take() && allowance.is_exhausted());
        other.take_anyway();
        allowance.give_back();
        assert!(other.is_exhausted());
        allowance.give_back();
        assert!(!other.is_exhausted() && other.take());
    }
}

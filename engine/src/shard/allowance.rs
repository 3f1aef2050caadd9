//! What all shards of a process may have together. Touched when something comes or goes, never per entry.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::op::PeerAddress;
use crate::time::Time;

/// A number of things: how many there may be, and how many there are. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<Account>);

#[derive(Debug)]
struct Account {
    max: AtomicUsize,
    used: AtomicUsize,
    pace: Pace,
}

impl Allowance {
    /// At most `max` things.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self::paced(max, 0, 0)
    }

    /// The same; once there are `unpaced` of them, only `per_second` are taken in a second, and after a rest as many at
    /// once. 0 is no pace.
    #[must_use]
    pub fn paced(max: usize, unpaced: usize, per_second: u32) -> Self {
        let pace = Pace { unpaced, gap: AtomicU64::new(gap(per_second)), earned: AtomicU64::new(0) };
        Self(Arc::new(Account { max: AtomicUsize::new(max), used: AtomicUsize::new(0), pace }))
    }

    /// From now on there may be so many; what is there already stays.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// From now on so many are taken in a second; 0 is no pace.
    pub fn set_pace(&self, per_second: u32) {
        self.0.pace.gap.store(gap(per_second), Ordering::Relaxed);
    }

    /// Takes one, if one is left, and if it is not too soon for it.
    #[must_use]
    pub fn take(&self, now: Time) -> bool {
        let Account { max, used, pace } = &*self.0;
        let (before, max) = (used.load(Ordering::Relaxed), max.load(Ordering::Relaxed));
        let one_more = |used: usize| (used < max).then_some(used + 1);
        before < max
            && (before < pace.unpaced || pace.take(now))
            && used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes one that is there already, allowed or not.
    pub fn take_anyway(&self) {
        self.0.used.fetch_add(1, Ordering::Relaxed);
    }

    /// One is gone.
    pub fn give_back(&self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.max.load(Ordering::Relaxed).saturating_sub(self.0.used.load(Ordering::Relaxed))
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.left() == 0
    }
}

/// A bucket that holds what a second earns and is full at the start. It is kept as the time at which all that was taken is
/// earned again: each take moves that on by `gap`, and may not move it past a second from now. Shards read clocks that
/// began within milliseconds of each other; the earlier one has that much less to take.
#[derive(Debug)]
struct Pace {
    /// Of so many things none is paced.
    unpaced: usize,
    /// In nanoseconds; 0: nothing is paced.
    gap: AtomicU64,
    /// In nanoseconds.
    earned: AtomicU64,
}

fn gap(per_second: u32) -> u64 {
    1_000_000_000_u64.checked_div(per_second.into()).unwrap_or(0)
}

impl Pace {
    fn take(&self, now: Time) -> bool {
        let gap = Duration::from_nanos(self.gap.load(Ordering::Relaxed));
        if gap.is_zero() {
            return true;
        }
        let latest = now + Duration::from_secs(1);
        let later = |earned: u64| {
            let earned = Time::new(Duration::from_nanos(earned)).max(now) + gap;
            (earned <= latest).then(|| earned.as_nanos())
        };
        self.earned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }
}

/// Bytes of rejected lines that may still be kept, of all shards. Clones are the same one.
#[derive(Clone, Debug)]
pub struct RejectedRoom(Arc<AtomicU64>);

impl RejectedRoom {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Takes room, if so much is left.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        // Mostly there is none: then all shards read what nobody writes.
        self.0.load(Ordering::Relaxed) >= bytes
            && self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// How many connections one address may have, and how many it has. Clones are the same one.
#[derive(Clone, Debug)]
pub struct PerAddress {
    /// 0: no limit; counted all the same, since there may be one later.
    max: Arc<AtomicUsize>,
    /// Addresses without a connection are not in it.
    open: Arc<Mutex<HashMap<PeerAddress, usize>>>,
}

impl PerAddress {
    /// At most `max` connections of one address; 0 is no limit.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max: Arc::new(AtomicUsize::new(max)), open: Arc::default() }
    }

    /// From now on at most `max` connections of one address; those that are open stay.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Counts one more connection of this address, if it may have one.
    #[must_use]
    pub fn take(&self, address: PeerAddress) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let mut open = self.open.lock().expect("no panic happens under this lock");
        let count = open.entry(address.counted_as()).or_insert(0);
        let allowed = max == 0 || *count < max;
        *count += usize::from(allowed);
        allowed
    }

    /// A connection that was counted has ended.
    pub fn give_back(&self, address: PeerAddress) {
        let mut open = self.open.lock().expect("no panic happens under this lock");
        if let Entry::Occupied(mut count) = open.entry(address.counted_as()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::new(Duration::from_millis(millis))
    }

    #[test]
    fn room_for_rejected_lines_is_taken_whole_or_not() {
        let room = RejectedRoom::new(10);
        let other = room.clone();
        assert!(room.take(7) && !other.take(4) && other.take(3) && !room.take(1));
    }

    #[test]
    fn all_clones_share_what_is_allowed() {
        let allowance = Allowance::new(2);
        let other = allowance.clone();
        other.take_anyway();
        assert!(allowance.take(at(0)) && !other.take(at(0)) && allowance.is_exhausted());
        other.take_anyway();
        allowance.give_back();
        assert!(other.is_exhausted());
        allowance.give_back();
        assert!(!other.is_exhausted() && other.take(at(0)));
    }

    #[test]
    fn a_pace_counts_from_a_number_on() {
        let allowance = Allowance::paced(1000, 10, 5);
        let taken = |now| (0..100).filter(|_| allowance.take(now)).count();
        // Ten for nothing, then what a second earns.
        assert_eq!(taken(at(0)), 15);
        assert_eq!(taken(at(199)), 0);
        assert_eq!(taken(at(200)), 1);
        assert_eq!(taken(at(1000)), 4);
        // A long rest earns no more than a second does.
        assert_eq!(taken(at(60_000)), 5);
        // A clock that is behind takes nothing that was not earned.
        assert_eq!(taken(at(59_000)), 0);
        assert_eq!(taken(at(60_399)), 1);
    }

    #[test]
    fn a_limit_may_change_while_things_are_there() {
        let allowance = Allowance::paced(20, 0, 5);
        assert_eq!((0..100).filter(|_| allowance.take(at(0))).count(), 5);
        allowance.set_pace(0);
        assert_eq!((0..100).filter(|_| allowance.take(at(0))).count(), 15);
        allowance.set_max(10);
        assert!(allowance.is_exhausted());
        (0..11).for_each(|_| allowance.give_back());
        assert_eq!(allowance.left(), 1);
        allowance.set_pace(1);
        assert!(allowance.take(at(3000)));
        let (per_address, address) = (PerAddress::new(0), PeerAddress::v4([192, 0, 2, 1]));
        assert!((0..9).all(|_| per_address.take(address)));
        per_address.set_max(9);
        assert!(!per_address.take(address), "what came without a limit counts too");
        per_address.give_back(address);
        assert!(per_address.take(address));
    }

    #[test]
    fn things_that_were_there_before_leave_only_the_pace() {
        let allowance = Allowance::paced(1000, 10, 5);
        (0..10).for_each(|_| allowance.take_anyway());
        assert_eq!((0..100).filter(|_| allowance.take(at(0))).count(), 5);
    }

    #[test]
    fn the_whole_is_bounded_whatever_the_pace() {
        let allowance = Allowance::paced(12, 10, 500);
        assert_eq!((0..100).filter(|_| allowance.take(at(0))).count(), 12);
        let slow = Allowance::paced(12, 0, u32::MAX);
        assert_eq!((0..100).filter(|_| slow.take(at(0))).count(), 12);
    }

    #[test]
    fn addresses_have_their_own_count_and_leave_nothing_behind() {
        let per_address = PerAddress::new(2);
        let (one, other) = (PeerAddress::v4([192, 0, 2, 1]), PeerAddress::v4([192, 0, 2, 2]));
        assert!(per_address.take(one) && per_address.take(one) && !per_address.take(one));
        assert!(per_address.take(other));
        per_address.give_back(one);
        assert!(per_address.take(one) && !per_address.take(one));
        for address in [one, one, other] {
            per_address.give_back(address);
        }
        assert!(per_address.open.lock().expect("nobody panicked").is_empty());
    }
}

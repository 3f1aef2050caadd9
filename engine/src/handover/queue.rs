//! A bounded queue from one thread to one other, and the doorbell that wakes a sleeping shard.
//!
//! ```text
//! slots   | full | full | free | free |       head: the next to take, moved by the outlet alone
//!           head           tail               tail: the next to fill, moved by the inlet alone
//! ```
//! Each slot is a mutex that is never waited for: the inlet locks only free slots, the outlet only full ones, and `tail`
//! and `head` tell them apart. It is what lets safe code hand a value over, at one uncontended lock a batch.
//!
//! The doorbell must not miss: a shard says that it sleeps, *then* looks at its queues once more; a sender fills a slot,
//! *then* looks whether the shard sleeps. One of the two sees the other (both in one total order, `SeqCst`).
//! `tests/loom.rs` tries every interleaving: it builds this file on loom's types, so there are no tests in it.

use super::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use super::sync::{Arc, Mutex};

#[derive(Debug)]
struct Slots<T> {
    ring: Box<[Mutex<Option<T>>]>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

/// The filling end of a queue.
#[derive(Debug)]
pub struct Inlet<T>(Arc<Slots<T>>);

/// The taking end of a queue.
#[derive(Debug)]
pub struct Outlet<T>(Arc<Slots<T>>);

/// A queue for at most `capacity` values.
#[must_use]
pub fn queue<T>(capacity: usize) -> (Inlet<T>, Outlet<T>) {
    let ring = (0..capacity).map(|_| Mutex::new(None)).collect();
    let slots = Arc::new(Slots { ring, head: AtomicUsize::new(0), tail: AtomicUsize::new(0) });
    (Inlet(Arc::clone(&slots)), Outlet(slots))
}

impl<T> Slots<T> {
    fn slot(&self, count: usize) -> &Mutex<Option<T>> {
        &self.ring[count % self.ring.len()]
    }
}

impl<T> Inlet<T> {
    /// Adds a value at the end.
    ///
    /// # Errors
    /// The queue is full; the value comes back.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let tail = self.0.tail.load(Ordering::Relaxed);
        if tail - self.0.head.load(Ordering::Acquire) == self.0.ring.len() {
            return Err(value);
        }
        *self.0.slot(tail).lock().expect("no panic happens under this lock") = Some(value);
        self.0.tail.store(tail + 1, Ordering::Release);
        Ok(())
    }
}

impl<T> Outlet<T> {
    /// Takes the first value.
    pub fn pop(&mut self) -> Option<T> {
        let head = self.0.head.load(Ordering::Relaxed);
        if head == self.0.tail.load(Ordering::Acquire) {
            return None;
        }
        let value = self.0.slot(head).lock().expect("no panic happens under this lock").take();
        self.0.head.store(head + 1, Ordering::Release);
        value
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.head.load(Ordering::Relaxed) == self.0.tail.load(Ordering::Acquire)
    }
}

/// Says whether a shard sleeps and has to be woken.
#[derive(Debug)]
pub struct Doorbell {
    asleep: AtomicBool,
}

impl Default for Doorbell {
    fn default() -> Self {
        Self { asleep: AtomicBool::new(false) }
    }
}

impl Doorbell {
    /// Called by the shard before it sleeps; it must look at its queues once more after this.
    pub fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the shard when it is awake.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Called by a sender that could not wake the shard: somebody still has to.
    pub fn not_heard(&self) {
        self.asleep.store(true, Ordering::Relaxed);
    }

    /// Called by a sender after it filled a slot: whether it has to wake the shard. Only one sender is told so.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

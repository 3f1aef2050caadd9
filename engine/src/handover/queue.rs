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
//! *then* looks whether the shard sleeps. One of the two sees the other (both in one total order, `SeqCst`). The loom
//! tests below try every interleaving.

#[cfg(engine_loom)]
use loom::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};
#[cfg(not(engine_loom))]
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

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

#[cfg(all(test, not(engine_loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_in_order_and_a_full_queue_says_so() {
        let (mut inlet, mut outlet) = queue(3);
        for round in 0..10 {
            for value in 0..3 {
                assert_eq!(inlet.push(round * 3 + value), Ok(()));
            }
            assert_eq!(inlet.push(99), Err(99));
            for value in 0..3 {
                assert_eq!(outlet.pop(), Some(round * 3 + value));
            }
            assert!(outlet.is_empty() && outlet.pop().is_none());
        }
    }

    #[test]
    fn two_threads_pass_everything_on() {
        let (mut inlet, mut outlet) = queue(4);
        let sender = std::thread::spawn(move || {
            for value in 0..100_000_u32 {
                let mut value = value;
                while let Err(back) = inlet.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..100_000 {
            let value = loop {
                match outlet.pop() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(value, expected);
        }
        sender.join().expect("the sender does not panic");
    }
}

/// `RUSTFLAGS="--cfg engine_loom" cargo test -p engine --lib --release loom`
#[cfg(all(test, engine_loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn every_value_arrives_once_in_order() {
        loom::model(|| {
            let (mut inlet, mut outlet) = queue(2);
            let sender = loom::thread::spawn(move || {
                for value in 0..3 {
                    let mut value = value;
                    while let Err(back) = inlet.push(value) {
                        value = back;
                        loom::thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < 3 {
                match outlet.pop() {
                    Some(value) => {
                        assert_eq!(value, expected);
                        expected += 1;
                    }
                    None => loom::thread::yield_now(),
                }
            }
            sender.join().expect("the sender does not panic");
        });
    }

    /// Two senders, one shard: whatever the interleaving, a message is seen before the shard sleeps or it is woken.
    #[test]
    fn no_message_is_slept_through() {
        loom::model(|| {
            let bell = Arc::new(Doorbell::default());
            let woken = Arc::new(AtomicBool::new(false));
            let mut outlets = Vec::new();
            let senders: Vec<_> = (0..2)
                .map(|value| {
                    let (mut inlet, outlet) = queue(1);
                    outlets.push(outlet);
                    let (bell, woken) = (Arc::clone(&bell), Arc::clone(&woken));
                    loom::thread::spawn(move || {
                        inlet.push(value).expect("it is empty");
                        if bell.must_wake() {
                            woken.store(true, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            bell.fall_asleep();
            let seen = outlets.iter().any(|outlet| !outlet.is_empty());
            for sender in senders {
                sender.join().expect("senders do not panic");
            }
            // The kernel would sleep only if nothing was seen, and end the sleep when woken.
            assert!(seen || woken.load(Ordering::SeqCst), "a message is slept through");
        });
    }
}

//! Waiting for the moment at which an entry is due, to the microsecond.
//!
//! The timers of the runtime are a millisecond coarse, so the last stretch is spun. A spin turn is a no-op through the
//! ring: unlike a mere yield it makes the runtime submit what its tasks have queued and take what has completed, in one
//! system call each.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::clock::RunClock;

/// What is due within this time is spun for: two ticks of the runtime's timers, since it rounds up.
const SPIN_NANOS: u64 = 2_000_000;
/// How long to sleep if nobody waits for anything; a new waiter wakes the pacer.
const IDLE: Duration = Duration::from_secs(1);

/// Wakes the connections of one thread when their next entry is due.
#[derive(Debug)]
pub(super) struct Pacer {
    clock: RunClock,
    waiting: RefCell<BinaryHeap<Waiting>>,
    /// The pacer's own, while it sleeps.
    sleeper: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Waiting {
    due: Reverse<u64>,
    waker: Waker,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl Pacer {
    pub(super) fn new(clock: RunClock) -> Self {
        Self { clock, waiting: RefCell::default(), sleeper: RefCell::default() }
    }

    /// Waits until a moment, in nanoseconds since the start.
    pub(super) async fn until(&self, due: u64) {
        poll_fn(|context| {
            if self.clock.now() >= due {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(Waiting { due: Reverse(due), waker: context.waker().clone() });
            if let Some(sleeper) = self.sleeper.take() {
                sleeper.wake();
            }
            Poll::Pending
        })
        .await;
    }

    /// Wakes who is due, for ever; runs beside the connections.
    pub(super) async fn run(&self) {
        loop {
            let now = self.clock.now();
            let next = self.wake_until(now);
            match next.map(|due| due.saturating_sub(now)) {
                Some(0..=SPIN_NANOS) => drop(tokio_uring::no_op().await),
                Some(left) => self.sleep(Duration::from_nanos(left - SPIN_NANOS)).await,
                None => self.sleep(IDLE).await,
            }
        }
    }

    /// Wakes who is due; returns when the next one will be.
    fn wake_until(&self, now: u64) -> Option<u64> {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.peek().is_some_and(|first| first.due.0 <= now) {
            let first = waiting.pop().expect("just seen");
            first.waker.wake();
        }
        waiting.peek().map(|first| first.due.0)
    }

    /// Sleeps for some time, or until somebody begins to wait.
    async fn sleep(&self, time: Duration) {
        let mut sleep = pin!(tokio::time::sleep(time));
        let mut is_first = true;
        poll_fn(|context| {
            let was_woken = !is_first && self.sleeper.take().is_none();
            is_first = false;
            if was_woken || sleep.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            self.sleeper.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

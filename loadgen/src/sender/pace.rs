//! Waiting for the moment at which an entry is due.
//!
//! | the sending threads | then |
//! | --- | --- |
//! | have a core each, and the others another | the last stretch is spun, and entries go to the microsecond |
//! | share their cores with follower and collector | a thread rests as long as it has worked, so that half of the core is left |
//!
//! A thread that spins never sleeps, so on a shared core it and the others take turns by the scheduler's tick, which is
//! milliseconds. One that rests may go before all others when it wakes, if this user may have it so; and what is due
//! meanwhile goes in one write, which takes hardly longer than one entry does. The timers of the runtime are a millisecond coarse, so the
//! sleeping is done by a timerfd that is read through the ring.
//!
//! A spin turn is a no-op through the ring: unlike a mere yield it makes the runtime submit what its tasks have queued
//! and take what has completed, in one system call each.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio_uring::fs::File;

use crate::clock::RunClock;

/// What is due within this time is spun for, on a core of one's own: what a timer may be late.
const SPIN_NANOS: u64 = 100_000;
/// The shortest and the longest rest on a shared core, half of what the generator may be late without a word.
const REST_NANOS: [u64; 2] = [200_000, 500_000];
/// The longest sleep: then it looks whether the sending is to stop.
const SLEEP_NANOS: u64 = 100_000_000;

/// Wakes the connections of one thread when their next entry is due.
#[derive(Debug)]
pub(super) struct Pacer {
    clock: RunClock,
    /// Nobody else needs this core.
    may_spin: bool,
    timer: OwnedFd,
    /// When somebody was last woken.
    last_woken: Cell<u64>,
    /// When somebody last began to wait.
    last_waited: Cell<u64>,
    is_over: Cell<bool>,
    /// Set by whoever wants the sending to stop: then nobody waits any more.
    stop: Arc<AtomicBool>,
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
    /// A pacer for this thread, within its runtime.
    pub(super) fn new(clock: RunClock, may_spin: bool, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let (waiting, sleeper) = (RefCell::default(), RefCell::default());
        Ok(Self {
            clock,
            may_spin,
            timer,
            last_woken: Cell::new(0),
            last_waited: Cell::new(0),
            is_over: Cell::new(false),
            stop,
            waiting,
            sleeper,
        })
    }

    /// Waits until a moment, in nanoseconds since the start; and for the end of a rest, unless that moment is long past.
    /// Not if the sending is to stop.
    pub(super) async fn until(&self, due: u64) {
        let mut must_rest = !self.may_spin;
        poll_fn(|context| {
            let now = self.clock.now();
            if now >= due && !must_rest || now > due + REST_NANOS[1] || self.stop.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            must_rest = false;
            self.last_waited.set(now);
            self.waiting.borrow_mut().push(Waiting { due: Reverse(due), waker: context.waker().clone() });
            self.end_sleep();
            Poll::Pending
        })
        .await;
    }

    /// Wakes who is due, until the end; runs beside the connections.
    pub(super) async fn run(&self) {
        while !self.is_over.get() {
            let now = self.clock.now();
            if self.stop.load(Ordering::Relaxed) {
                self.waiting.borrow_mut().drain().for_each(|waiting| waiting.waker.wake());
            }
            let rested_at = if self.may_spin { 0 } else { self.rested_at() };
            if now < rested_at {
                self.sleep_until(rested_at).await;
                continue;
            }
            let next = self.wake_until(now).unwrap_or(u64::MAX).min(now + SLEEP_NANOS);
            if !self.may_spin {
                self.sleep_until(next).await;
            } else if next <= now + SPIN_NANOS {
                drop(tokio_uring::no_op().await);
            } else {
                self.sleep_until(next - SPIN_NANOS).await;
            }
        }
    }

    /// When this thread has rested as long as it took from waking somebody until the last one waited again.
    fn rested_at(&self) -> u64 {
        let worked = self.last_waited.get().saturating_sub(self.last_woken.get());
        self.last_waited.get() + worked.clamp(REST_NANOS[0], REST_NANOS[1])
    }

    /// Wakes who is due; returns when the next one will be.
    fn wake_until(&self, now: u64) -> Option<u64> {
        let mut waiting = self.waiting.borrow_mut();
        while waiting.peek().is_some_and(|first| first.due.0 <= now) {
            let first = waiting.pop().expect("just seen");
            first.waker.wake();
            self.last_woken.set(now);
        }
        waiting.peek().map(|first| first.due.0)
    }

    /// Ends each sleep in time, until the end; runs beside the pacer.
    pub(super) async fn run_timer(&self) -> io::Result<()> {
        let timer = File::from_std(self.timer.try_clone()?.into());
        let mut expirations = Vec::with_capacity(8);
        while !self.is_over.get() {
            let result;
            (result, expirations) = timer.read_at(expirations, 0).await;
            result?;
            self.end_sleep();
        }
        Ok(())
    }

    /// Ends both.
    pub(super) fn end(&self) {
        self.is_over.set(true);
        self.set_timer(Duration::from_nanos(1));
    }

    fn set_timer(&self, time: Duration) {
        let possible = "a timer that is open takes any time";
        let it_value = Timespec::try_from(time).expect(possible);
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).expect(possible);
    }

    fn end_sleep(&self) {
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }

    /// Sleeps until a moment, or until somebody begins to wait. To wake for nothing does no harm.
    async fn sleep_until(&self, at: u64) {
        self.set_timer(Duration::from_nanos(at.saturating_sub(self.clock.now()).max(1)));
        let mut is_asleep = false;
        poll_fn(|context| {
            if is_asleep && self.sleeper.borrow().is_none() {
                return Poll::Ready(());
            }
            is_asleep = true;
            self.sleeper.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

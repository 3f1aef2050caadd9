//! Messages to a shard from other threads: a queue, and an eventfd that wakes the shard's ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::EventfdFlags;

use crate::route::LogId;
use crate::shard::{Command, Sync};

/// A message to a shard.
#[derive(Debug)]
pub(super) enum Mail {
    /// From the control side.
    Command(Command),
    /// From the file thread: a segment is open, or not.
    Opened { log: LogId, result: io::Result<OwnedFd> },
    /// From the file thread: the journal's file is open, or not.
    JournalOpened(io::Result<OwnedFd>),
    /// From the sync thread.
    Synced { sync: Sync, result: io::Result<()> },
}

/// A shard's mailbox; clones are the same one.
#[derive(Debug, Clone)]
pub struct Mailbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mail: Mutex<Vec<Mail>>,
    wake: OwnedFd,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// Those of eventfd.
    pub fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { mail: Mutex::new(Vec::new()), wake }) })
    }

    /// Tells the shard.
    pub fn send(&self, command: Command) {
        self.post(Mail::Command(command));
    }

    pub(super) fn post(&self, mail: Mail) {
        self.inner.mail.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        // Fails only when the counter is full, and then the shard is awake anyway.
        let _written = rustix::io::write(&self.inner.wake, &1_u64.to_le_bytes());
    }

    /// Takes all messages, in order.
    pub(super) fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.inner.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Readable when there is mail.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.inner.wake.as_fd()
    }
}

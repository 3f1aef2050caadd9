//! The thread that syncs for all shards, one request after the other: a sync can take seconds, and nothing else may wait
//! behind it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use super::mailbox::{Mail, Mailbox};
use crate::shard::Sync;
use crate::sys::DataDir;
use crate::sys::file::Dir;

/// A shard's way to the thread, which ends with the last of them.
#[derive(Debug)]
pub struct SyncThread {
    requests: Sender<Request>,
    /// The shard's own: the kernel tells of a page that was lost once by each descriptor that was open then, and every
    /// shard has to hear of it.
    root: Arc<Dir>,
}

/// What a shard asks for, with the files that it names; they stay open until it is answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) sync: Sync,
    /// In the order of `sync.segments`.
    pub(super) segments: Vec<Arc<OwnedFd>>,
    pub(super) journal: Arc<OwnedFd>,
    pub(super) mailbox: Mailbox,
    /// The data directory.
    pub(super) root: Arc<Dir>,
}

impl SyncThread {
    /// Starts the thread, for so many shards.
    ///
    /// # Errors
    /// The system refuses a thread, or a descriptor.
    pub fn start(data: &DataDir, shards: usize) -> io::Result<Vec<Self>> {
        let (requests, inbox) = channel::<Request>();
        let work = move || {
            for mut request in inbox {
                let result = request.execute();
                let Request { sync, segments, journal, mailbox, .. } = request;
                // Before the shard hears of it: what it closes then is closed.
                drop((segments, journal));
                mailbox.post(Mail::Synced { sync, result });
            }
        };
        std::thread::Builder::new().name("sync".into()).spawn(work)?;
        let shard = |_| Ok(Self { requests: requests.clone(), root: Arc::new(data.root().dir(".")?) });
        (0..shards).map(shard).collect()
    }

    pub(super) fn root(&self) -> Arc<Dir> {
        Arc::clone(&self.root)
    }

    pub(super) fn request(&self, request: Request) {
        self.requests.send(request).expect("the sync thread ends only after its senders");
    }
}

impl Request {
    fn execute(&mut self) -> io::Result<()> {
        self.sync.failed.clear();
        self.sync.journal_failed = false;
        if self.sync.whole {
            return self.root.sync_file_system();
        }
        let mut result = Ok(());
        for ((log, _), file) in self.sync.segments.iter().zip(&self.segments) {
            if let Err(error) = rustix::fs::fdatasync(file) {
                self.sync.failed.push(*log);
                result = result.and_then(|()| Err(error.into()));
            }
        }
        if let Err(error) = rustix::fs::fdatasync(&self.journal) {
            self.sync.journal_failed = true;
            result = result.and_then(|()| Err(error.into()));
        }
        result
    }
}

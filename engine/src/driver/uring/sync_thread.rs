//! The thread that syncs for all shards, one request after the other: a sync can take seconds, and nothing else may wait
//! behind it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use super::mailbox::{Mail, Mailbox};
use crate::shard::Sync;
use crate::sys::DataDir;

/// A shard's way to the thread, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct SyncThread(Sender<Request>);

/// What a shard asks for, with the files that it names; they stay open until it is answered.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) sync: Sync,
    /// In the order of `sync.segments`.
    pub(super) segments: Vec<Arc<OwnedFd>>,
    pub(super) journal: Arc<OwnedFd>,
    pub(super) mailbox: Mailbox,
}

impl SyncThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(data: Arc<DataDir>) -> io::Result<Self> {
        let (requests, inbox) = channel::<Request>();
        let work = move || {
            for mut request in inbox {
                let result = request.execute(&data);
                let Request { sync, segments, journal, mailbox } = request;
                // Before the shard hears of it: what it closes then is closed.
                drop((segments, journal));
                mailbox.post(Mail::Synced { sync, result });
            }
        };
        std::thread::Builder::new().name("sync".into()).spawn(work)?;
        Ok(Self(requests))
    }

    pub(super) fn request(&self, request: Request) {
        self.0.send(request).expect("the sync thread ends only after its senders");
    }
}

impl Request {
    fn execute(&mut self, data: &DataDir) -> io::Result<()> {
        self.sync.failed.clear();
        self.sync.journal_failed = false;
        if self.sync.whole {
            return data.root().sync_file_system();
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

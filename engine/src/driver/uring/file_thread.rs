//! The shard's file thread: creates and opens segments with plain system calls, one whole operation after the other.
//!
//! In the ring each of the four or five calls would be a hop to a kernel worker of its own, in line behind data.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::mailbox::{Mail, Mailbox};
use crate::route::LogId;
use crate::segment::{Offset, Position};
use crate::shard::JournalId;
use crate::sys::DataDir;
use crate::wire::Token;

/// What the file thread is to do.
#[derive(Debug)]
pub(super) enum FileRequest {
    Create { log: LogId, token: Token, base: Offset, replaces: bool },
    Open { log: LogId, token: Token, base: Offset, length: Position },
    Cut { token: Token, base: Offset, length: Position },
    CreateJournal(JournalId),
    RemoveJournals(JournalId),
    OpenJournal { journal: JournalId, length: Position },
}

/// Ends when it is dropped, after all that it was asked.
#[derive(Debug)]
pub(super) struct FileThread {
    requests: Option<Sender<FileRequest>>,
    thread: Option<JoinHandle<()>>,
}

impl FileThread {
    pub(super) fn start(data: Arc<DataDir>, mailbox: Mailbox) -> io::Result<Self> {
        let (requests, inbox) = channel();
        let work = move || {
            for request in inbox {
                if let Some(mail) = execute(&data, &request) {
                    mailbox.post(mail);
                }
            }
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn(work)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    pub(super) fn request(&self, request: FileRequest) {
        let requests = self.requests.as_ref().expect("the sender lives until drop");
        requests.send(request).expect("the file thread ends only after its sender");
    }
}

impl Drop for FileThread {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process already, or is a test's own failure.
            let _ended = thread.join();
        }
    }
}

fn execute(data: &DataDir, request: &FileRequest) -> Option<Mail> {
    Some(match *request {
        FileRequest::Create { log, token, base, replaces } => {
            let made = if replaces { data.quarantine_segment(token, base) } else { Ok(()) };
            Mail::Opened { log, result: made.and_then(|()| data.create_segment(token, base)) }
        }
        FileRequest::Open { log, token, base, length } => {
            Mail::Opened { log, result: data.open_segment(token, base, length.0) }
        }
        FileRequest::Cut { token, base, length } => {
            // Where this fails both segments hold the same bytes, and recovery cuts.
            let _cut = data.cut_segment(token, base, length.0);
            return None;
        }
        FileRequest::CreateJournal(journal) => Mail::JournalOpened(data.create_journal(journal)),
        FileRequest::RemoveJournals(journal) => {
            // What stays is removed with the next one, or at the next start.
            let _removed = data.remove_journals(journal);
            return None;
        }
        FileRequest::OpenJournal { journal, length } => Mail::JournalOpened(data.open_journal(journal, length.0)),
    })
}

//! The shard's file thread: creates and opens segments with plain system calls, one whole operation after the other, and
//! writes what the shard notes for the indexes of its segments.
//!
//! In the ring each of the four or five calls would be a hop to a kernel worker of its own, in line behind data.
//! It is woken for segments; for indexes it looks into their queue from time to time, so that they cost the shard no
//! system call, and a busy segment's index one write for many blocks.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::mailbox::{Mail, Mailbox};
use crate::handover::Outlet;
use crate::limits::{INDEX_FLUSH, INDEX_GAP_BYTES_MAX};
use crate::route::LogId;
use crate::segment::index::Record;
use crate::segment::journal::{RunId, SegmentNumber};
use crate::segment::{IndexBlock, LogName, Offset, Position};
use crate::shard::{JournalId, KeeperMail};
use crate::sys::file::Dir;
use crate::sys::{DataDir, index_file};

/// What the file thread is to do.
#[derive(Debug)]
pub(super) enum FileRequest {
    Create { log: LogId, name: LogName, base: Offset, replaces: Option<SegmentNumber> },
    Open { log: LogId, name: LogName, base: Offset, length: Position, indexed: bool },
    Cut { name: LogName, base: Offset, length: Position },
    CreateJournal(JournalId),
    RemoveJournals(JournalId),
    OpenJournal { journal: JournalId, length: Position },
}

/// What the file thread works with.
#[derive(Debug)]
pub struct Files {
    /// Where segments are made.
    pub data: Arc<DataDir>,
    /// The run of the engine.
    pub run: RunId,
    /// Told of every log that has a new segment behind another one.
    pub keeper: Sender<KeeperMail>,
}

/// A block for the index of a segment.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) name: LogName,
    pub(super) block: IndexBlock,
}

/// Ends when it is dropped, after all that it was asked.
#[derive(Debug)]
pub(super) struct FileThread {
    requests: Option<Sender<FileRequest>>,
    thread: Option<JoinHandle<()>>,
}

impl FileThread {
    /// `start` is when the shard's time began.
    pub(super) fn start(files: Files, mailbox: Mailbox, blocks: Outlet<Noted>, start: Instant) -> io::Result<Self> {
        let (requests, inbox) = channel();
        let work = move || serve(&inbox, &mailbox, Indexer { files, blocks, start });
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

#[expect(clippy::disallowed_methods, reason = "when to look for blocks is no business of the core")]
fn serve(inbox: &Receiver<FileRequest>, mailbox: &Mailbox, mut indexer: Indexer) {
    let mut flushed = Instant::now();
    loop {
        let request = inbox.recv_timeout(INDEX_FLUSH.saturating_sub(flushed.elapsed()));
        if let Ok(request) = &request {
            if matches!(request, FileRequest::Create { replaces: Some(_), .. }) {
                // Blocks of the segment that gives its name away.
                indexer.flush();
            }
            if let Some(mail) = execute(&indexer.files, request) {
                mailbox.post(mail);
            }
            indexer.follow(request);
        }
        if request.is_err() || flushed.elapsed() >= INDEX_FLUSH {
            indexer.flush();
            flushed = Instant::now();
        }
        if request.err() == Some(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn execute(files: &Files, request: &FileRequest) -> Option<Mail> {
    let data = &files.data;
    Some(match *request {
        FileRequest::Create { log, name, base, replaces } => {
            let made = replaces.map_or(Ok(()), |number| data.give_up_segment(name, base, (files.run, number)));
            Mail::Opened { log, result: made.and_then(|()| data.create_segment(name, base)) }
        }
        FileRequest::Open { log, name, base, length, .. } => {
            Mail::Opened { log, result: data.open_segment(name, base, length.0) }
        }
        FileRequest::Cut { name, base, length } => {
            // Where this fails both segments hold the same bytes, and recovery cuts.
            let _cut = data.cut_segment(name, base, length.0);
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

/// Takes blocks to their indexes.
#[derive(Debug)]
struct Indexer {
    files: Files,
    blocks: Outlet<Noted>,
    start: Instant,
}

impl Indexer {
    /// What the index has to do with a segment that was made or opened: the one before it is sealed and noted whole, and
    /// what an engine before this one had in its open block is made up for.
    fn follow(&mut self, request: &FileRequest) {
        match *request {
            FileRequest::Create { name, base, .. } if base != Offset::START => {
                self.flush();
                // Rejected lines stay as they are.
                let LogName::Token(token) = name else { return };
                // Nobody listens any more if the engine ends. One that could not be made may be told of as well.
                let _told = self.files.keeper.send(KeeperMail::Rolled(token));
            }
            FileRequest::Open { name, base, length, indexed: true, .. } => {
                self.flush();
                let dir = self.files.data.log_dir(name, Dir::dir);
                // See below.
                let _completed = dir.and_then(|dir| index_file::complete(&dir, base, length.0, INDEX_GAP_BYTES_MAX));
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        let mut noted: Vec<Noted> = std::iter::from_fn(|| self.blocks.pop()).collect();
        if noted.is_empty() {
            return;
        }
        // Those of one segment stay in their order.
        noted.sort_by_key(|noted| (noted.name, noted.block.base));
        let start = SystemTime::now().checked_sub(self.start.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for of_one in noted.chunk_by(|a, b| (a.name, a.block.base) == (b.name, b.block.base)) {
            let blocks: Vec<_> = of_one.iter().map(|noted| (noted.block.start, record(&noted.block, start))).collect();
            let dir = self.files.data.log_dir(of_one[0].name, Dir::dir);
            // An index is a hint. What it lacks now, for want of room perhaps, is made up for later.
            let _appended = dir.and_then(|dir| index_file::append(&dir, of_one[0].block.base, &blocks));
        }
    }
}

/// The block as it is stored, if the shard's time began so long after 1970.
fn record(block: &IndexBlock, start: Duration) -> Record {
    let IndexBlock { end, lines, crc32c, since, .. } = *block;
    let time = start + Duration::from_nanos(since.as_nanos());
    Record { time: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), approximate: false, end, lines, crc32c }
}

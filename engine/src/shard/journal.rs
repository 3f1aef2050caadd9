//! What a shard records of its writes: batches that are complete, segments that were made.
//!
//! ```text
//!  write complete ─► record ─► gathering ─┐ one write in flight, at the end of the file; records gather meanwhile
//!                                         ▼
//!  DATA/_journal/<shard>-<generation>  ◄──┘     full, or 30 s of writing ─► the next generation:
//!                                               header ─► table of all logs ─► sync ─► checkpoint ─► older ones go
//! ```
//! A journal that cannot be written is like any storage that refuses: records are kept, nothing more is started once
//! [`JOURNAL_GATHER_BYTES`] of them wait, reading stops, and the write is tried again.
//!
//! Invariants: `sequence` is that of the next record; every record below `written` is in a file; records reach the file
//! in sequence, so a header is the first of its file.

use std::collections::VecDeque;
use std::io;

use super::logs::{Logs, Segment, is_for_good};
use super::op::{JournalId, Notice, Op};
use crate::buf::{BufferPool, WriteBuf};
use crate::handover::ShardId;
use crate::limits::{CHECKPOINT_BYTES, CHECKPOINT_TIME, JOURNAL_BYTES_MAX, JOURNAL_GATHER_BYTES, STORAGE_RETRY};
use crate::route::LogId;
use crate::segment::journal::{BootId, Header, JournalEntry, Proof, RECORD_BYTES, Record, RunId, SegmentNumber};
use crate::segment::{FileId, Position};
use crate::time::Time;

/// The file that a shard's journal goes on in: recovery has begun it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalStart {
    /// The run of the engine.
    pub run: u32,
    /// The generation that recovery has begun.
    pub generation: u64,
    /// Sequence of the next record.
    pub sequence: u64,
    /// Bytes of the file.
    pub length: Position,
    /// The operating system's start.
    pub boot: BootId,
    /// Unix time of the driver's start, in microseconds.
    pub epoch_micros: u64,
}

impl JournalStart {
    /// Where the journal of a shard begins that has no log yet, with a header and a checkpoint: for a simulation.
    #[must_use]
    pub fn first() -> Self {
        let (length, boot) = (Position(2 * RECORD_BYTES as u64), BootId::default());
        Self { run: 1, generation: 1, sequence: 2, length, boot, epoch_micros: 0 }
    }

    /// The run of the engine.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        RunId { run: self.run, epoch_micros: self.epoch_micros }
    }

    /// The header of the shard's file.
    #[must_use]
    pub fn header(&self, shard: ShardId) -> Header {
        let Self { generation, boot, epoch_micros, .. } = *self;
        Header { shard: shard.0, generation, boot, epoch_micros }
    }
}

/// How far the change to the next generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The file is good.
    None,
    /// The next one is being made, or waits to be.
    Making,
    /// It is there: the next record goes to it.
    Made(FileId),
    /// Its header gathers; it is written to once the write in flight to the file before is complete.
    Waiting(FileId),
    /// The table is written, up to this log.
    Table(usize),
    /// The table is complete; a sync is under way or to come, and then the checkpoint.
    Syncing,
}

/// A shard's end of its journal.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about the file at hand")]
pub(super) struct Journal {
    shard: ShardId,
    run: u32,
    generation: u64,
    /// The last one that has a checkpoint.
    checkpointed: u64,
    boot: BootId,
    epoch_micros: u64,
    file: Option<FileId>,
    /// Bytes of the file.
    length: Position,
    opening: bool,
    sequence: u64,
    /// Records below this are in files.
    written: u64,
    numbers: u32,
    gathering: Option<WriteBuf>,
    /// What a write that failed has not written.
    unwritten: Option<WriteBuf>,
    writing: bool,
    failed_at: Option<Time>,
    change: Change,
    /// The file before may not be on the disk: syncing the one at hand is not enough.
    left_a_file: bool,
    /// A write or a sync has failed: the file cannot be relied on, and none that could has followed.
    broken: bool,
    stays: bool,
    /// Bytes of segments that records tell of since the last change.
    recorded_bytes: u64,
    changed_at: Time,
}

impl Journal {
    pub(super) fn new(shard: ShardId, start: JournalStart) -> Self {
        let JournalStart { run, generation, sequence, length, boot, epoch_micros } = start;
        Self {
            shard,
            run,
            generation,
            checkpointed: generation,
            boot,
            epoch_micros,
            file: None,
            length,
            opening: false,
            sequence,
            written: sequence,
            numbers: 0,
            gathering: None,
            unwritten: None,
            writing: false,
            failed_at: None,
            change: Change::None,
            left_a_file: false,
            broken: false,
            stays: false,
            recorded_bytes: 0,
            changed_at: Time::default(),
        }
    }

    /// A number for the next segment.
    pub(super) fn number(&mut self) -> SegmentNumber {
        let number = SegmentNumber(self.numbers);
        self.numbers = self.numbers.checked_add(1).expect("a run makes fewer than 2^32 segments");
        number
    }

    /// Adds a record; it is written with the others of the turn.
    pub(super) fn add(&mut self, entry: JournalEntry, pool: &mut BufferPool) {
        if let JournalEntry::Batch { batch, .. } = &entry {
            self.recorded_bytes += u64::from(batch.length);
        }
        let record = Record { run: self.run, sequence: self.sequence, entry };
        self.sequence += 1;
        self.gathering = Some(pool.append(self.gathering.take(), &record.encode()));
    }

    /// Whether so many records wait that nothing should be begun which adds more.
    pub(super) fn is_behind(&self) -> bool {
        self.gathering.as_ref().is_some_and(|buf| buf.content().len() >= JOURNAL_GATHER_BYTES)
    }

    /// Whether the journal cannot be written now.
    pub(super) fn is_refused(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Whether records wait that could not be written since then.
    pub(super) fn has_failed_since(&self, since: Time) -> bool {
        self.failed_at.is_some_and(|at| at >= since) && self.waiting_bytes() > 0
    }

    /// Bytes of records that are not in a file and not on their way.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let waiting = [&self.unwritten, &self.gathering].into_iter().flatten();
        waiting.map(|buf| buf.rest().len() as u64).sum()
    }

    /// Whether every record is in its file.
    pub(super) fn is_written(&self) -> bool {
        self.written == self.sequence
    }

    /// Sequence of the next record: those below exist.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records below this are in files.
    pub(super) fn written_below(&self) -> u64 {
        self.written
    }

    /// The file that is written to, if it is open.
    pub(super) fn file(&self) -> Option<FileId> {
        self.file
    }

    /// Whether the next sync has to bring the file before to the disk too.
    pub(super) fn take_left_a_file(&mut self) -> bool {
        std::mem::take(&mut self.left_a_file)
    }

    /// When [`Journal::start`] has something to do without any completion before.
    pub(super) fn timeout(&self) -> Option<Time> {
        let idle = !self.writing && !self.opening;
        self.failed_at.filter(|_| idle).map(|at| at + STORAGE_RETRY)
    }

    /// Writes what has gathered, if nothing is in flight; changes to the next generation where that is due.
    pub(super) fn start(&mut self, now: Time, pool: &mut BufferPool, ops: &mut VecDeque<Op>) {
        if self.writing || self.opening || self.timeout().is_some_and(|at| now < at) {
            return;
        }
        let Some(file) = self.file else {
            self.opening = true;
            return ops.push_back(Op::OpenJournal { journal: self.id(), length: self.length });
        };
        let grown = self.length.0 >= JOURNAL_BYTES_MAX || self.recorded_bytes >= CHECKPOINT_BYTES;
        let old = self.recorded_bytes > 0 && now.since(self.changed_at) >= CHECKPOINT_TIME;
        if self.change == Change::None && !self.stays && (grown || old) {
            self.change = Change::Making;
        }
        if self.change == Change::Making {
            self.opening = true;
            return ops.push_back(Op::CreateJournal(JournalId { shard: self.shard, generation: self.generation + 1 }));
        }
        if let Some(buf) = self.unwritten.take().or_else(|| self.gathering.take()) {
            self.writing = true;
            ops.push_back(Op::WriteJournal { file, position: self.length, buf });
        }
        if let Change::Made(next) = self.change
            && self.gathering.is_none()
        {
            self.generation += 1;
            (self.recorded_bytes, self.changed_at) = (0, now);
            let Self { generation, boot, epoch_micros, .. } = *self;
            self.add(JournalEntry::Header(Header { shard: self.shard.0, generation, boot, epoch_micros }), pool);
            self.change = Change::Waiting(next);
            self.enter(ops);
        }
    }

    /// The file before is complete: records go to the next one.
    fn enter(&mut self, ops: &mut VecDeque<Op>) {
        if let Change::Waiting(next) = self.change
            && !self.writing
            && self.unwritten.is_none()
        {
            if let Some(file) = self.file.replace(next) {
                ops.push_back(Op::CloseSegment(file));
            }
            self.length = Position::START;
            self.change = Change::Table(0);
            self.left_a_file = true;
        }
    }

    /// The end is near: no other file is begun for its size or age.
    pub(super) fn stay(&mut self) {
        self.stays = true;
        if self.change == Change::Making && !self.opening {
            self.change = Change::None;
            // What has failed may have been to make it, and nobody asks for it again.
            self.failed_at = None;
        }
    }

    /// Whether records may be missing, or the disk may have lost what they tell of.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether no change to another file is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.change == Change::None
    }

    /// Whether records still go to a file that another one is about to follow.
    pub(super) fn is_being_left(&self) -> bool {
        matches!(self.change, Change::Making | Change::Made(_) | Change::Waiting(_))
    }

    /// The next log of the table that is being written.
    pub(super) fn table_at(&self) -> Option<usize> {
        match self.change {
            Change::Table(log) if !self.is_behind() => Some(log),
            _ => None,
        }
    }

    /// The table is written up to this log; with none, it is complete.
    pub(super) fn table_reached(&mut self, log: Option<usize>) {
        self.change = log.map_or(Change::Syncing, Change::Table);
    }

    /// All that the table tells of is on the disk. Of older files those stay that begin with the last checkpoint: the
    /// record of the new one is only gathering.
    pub(super) fn checkpointed(&mut self, pool: &mut BufferPool, ops: &mut VecDeque<Op>) {
        // The file may have lost a record meanwhile, and with it all that follow: another is on its way.
        if self.change != Change::Syncing {
            return;
        }
        self.add(JournalEntry::Checkpoint, pool);
        self.change = Change::None;
        self.broken = false;
        let generation = std::mem::replace(&mut self.checkpointed, self.generation);
        ops.push_back(Op::RemoveJournals(JournalId { shard: self.shard, generation }));
    }

    /// The file, or its table, cannot be relied on: another begins.
    pub(super) fn renew(&mut self) {
        self.broken = true;
        if matches!(self.change, Change::None | Change::Table(_) | Change::Syncing) {
            self.change = Change::Making;
        }
    }

    fn id(&self) -> JournalId {
        JournalId { shard: self.shard, generation: self.generation }
    }

    /// The driver opened or made the file, or could not.
    pub(super) fn opened(&mut self, result: io::Result<FileId>, now: Time) -> Option<Notice> {
        self.opening = false;
        match result {
            Ok(file) if self.file.is_none() => self.file = Some(file),
            Ok(file) => self.change = Change::Made(file),
            Err(error) => return self.refused(error, now),
        }
        self.accepted_again()
    }

    /// The driver wrote, or could not.
    pub(super) fn written(
        &mut self,
        mut buf: WriteBuf,
        result: io::Result<usize>,
        now: Time,
        pool: &mut BufferPool,
        ops: &mut VecDeque<Op>,
    ) -> Option<Notice> {
        self.writing = false;
        let count = match result {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.unwritten = Some(buf);
                return None;
            }
            // Nothing more can be written to this file: another begins, whose table says what these records said.
            Err(error) if is_for_good(&error) => {
                self.written += (buf.content().len() / RECORD_BYTES) as u64;
                pool.give(buf);
                self.renew();
                self.enter(ops);
                return self.refused(error, now);
            }
            result => {
                self.unwritten = Some(buf);
                return self.refused(result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()), now);
            }
        };
        buf.advance(count);
        self.length = Position(self.length.0 + count as u64);
        if buf.rest().is_empty() {
            self.written += (buf.content().len() / RECORD_BYTES) as u64;
            pool.give(buf);
            self.enter(ops);
        } else {
            self.unwritten = Some(buf);
        }
        self.accepted_again()
    }

    #[cold]
    fn refused(&mut self, error: io::Error, now: Time) -> Option<Notice> {
        self.failed_at.replace(now).is_none().then_some(Notice::StorageRefused(error))
    }

    fn accepted_again(&mut self) -> Option<Notice> {
        self.failed_at.take().map(|_| Notice::StorageResumed)
    }
}

impl Logs {
    /// A segment was made: it has a number from now on.
    pub(super) fn record_made(&mut self, id: LogId) {
        let log = &mut self.all[id.0 as usize];
        let base = log.appender.base();
        log.segment = Segment { base, ..Segment::default() };
        let Some(token) = log.appender.name().token() else { return };
        let number = self.journal.number();
        log.segment.number = number;
        self.durability.needs_whole();
        self.journal.add(JournalEntry::Open { number, token, base }, &mut self.pool);
    }

    /// Writes the records of the turn, and the table of a new journal as far as there is room for it.
    pub(super) fn record(&mut self, now: Time, ops: &mut VecDeque<Op>) {
        self.journal.start(now, &mut self.pool, ops);
        if self.journal.table_at() == Some(0) {
            self.record_removals_again();
        }
        while let Some(index) = self.journal.table_at() {
            let Some(log) = self.all.get(index) else {
                self.journal.table_reached(None);
                self.durability.needs_checkpoint();
                break;
            };
            // One without a segment yet has its own record later.
            let token = log.appender.name().token();
            if let Some(token) = token.filter(|_| log.has_segment()) {
                let Segment { number, base, synced, poisoned } = log.segment;
                let (length, proof) = (log.recorded(), log.proof());
                // Of one that is given up only what was synced is on the disk.
                let (on_disk, proof) = if poisoned { (synced, Proof::default()) } else { (length, proof) };
                self.journal.add(JournalEntry::Active { number, token, base, length: on_disk, proof }, &mut self.pool);
                if poisoned {
                    self.journal.add(JournalEntry::Poison { number, synced, length }, &mut self.pool);
                }
            }
            let id = LogId(u32::try_from(index).expect("tokens_max fits a u32"));
            if let (Some(&from), Some(token)) = (self.durability.doubts.get(&id), token) {
                self.journal.add(JournalEntry::Doubt { token, from }, &mut self.pool);
            }
            self.journal.table_reached(Some(index + 1));
        }
        self.sync(now, ops);
        // What the table and the sync have added, and the header of a new file.
        self.journal.start(now, &mut self.pool, ops);
    }

    /// The file of the log's segment of this number, if it is open.
    pub(super) fn open_file(&self, id: LogId, number: SegmentNumber) -> Option<FileId> {
        let log = &self.all[id.0 as usize];
        log.appender.file().filter(|_| log.segment.number == number && log.appender.base() == log.segment.base)
    }

    /// The driver wrote the journal, or could not.
    pub(super) fn journal_written(
        &mut self,
        buf: WriteBuf,
        result: io::Result<usize>,
        now: Time,
        ops: &mut VecDeque<Op>,
    ) -> Option<Notice> {
        let notice = self.journal.written(buf, result, now, &mut self.pool, ops);
        if self.journal.is_being_left() {
            self.durability.forget_removals();
        }
        notice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With nothing to try again there is no time of the next try: no turn would do anything about it.
    #[test]
    fn a_file_that_is_not_wanted_any_more_is_not_waited_for() {
        let (mut journal, mut pool, mut ops) =
            (Journal::new(ShardId(0), JournalStart::first()), BufferPool::new(1 << 20), VecDeque::new());
        let now = Time::default();
        journal.start(now, &mut pool, &mut ops);
        journal.opened(Ok(FileId(0)), now);
        journal.renew();
        journal.start(now, &mut pool, &mut ops);
        assert!(matches!(ops.back(), Some(Op::CreateJournal(_))), "{ops:?}");
        journal.opened(Err(io::ErrorKind::StorageFull.into()), now);
        assert_eq!((journal.timeout(), journal.is_refused()), (Some(now + STORAGE_RETRY), true));
        journal.stay();
        assert_eq!((journal.timeout(), journal.is_refused(), journal.is_settled()), (None, false, true));
    }
}

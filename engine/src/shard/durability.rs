//! From written to durable: barriers, and what follows when the disk has lost something.
//!
//! ```text
//!  written ─► dirty ─┐ due: an interval after the barrier before, a commit group, a checkpoint, the end
//!                    ▼
//!  barrier: covers all that is recorded now ─► the journal is written that far ─► Op::Sync ─► Synced
//!                                                   │ all is well                             │ something failed
//!                                                   ▼                                         ▼
//!              `Synced` record, retained memory goes back                 poisoned: the log goes on in a new segment
//! ```
//! Writing goes on meanwhile. Up to [`SYNCED_ONE_BY_ONE_MAX`] segments are synced one by one; more, or one that was made
//! or closed since, by one sync of the file system.
//!
//! A sync that failed is never repeated as a proof: the kernel tells of lost pages once, and then holds them for clean.
//! If the file system's failed, each segment is asked, and those that fail have lost something; if none does, it may be
//! any of them.
//!
//! **Poisoned segments** are never written again. Where every batch is synced (`--sync batch`) what this run has written
//! and not yet synced is still in memory: it goes into a new segment, which begins where that begins. Else the new one
//! begins where the poisoned one ends. The operator is told of a range that is not synced and in no memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use super::logs::{Logs, Segment};
use super::op::{Notice, Op, Removal, Sync};
use crate::limits::{BATCH_SYNC_GAP, STORAGE_RETRY, SYNCED_ONE_BY_ONE_MAX};
use crate::metrics::Histogram;
use crate::route::LogId;
use crate::segment::journal::{JournalEntry, SegmentNumber};
use crate::segment::{Offset, Position};
use crate::time::Time;

/// Of a removal whose record goes to the next file of the journal: the one at hand is being left.
const UNRECORDED: u64 = u64::MAX;

/// When what was written is brought to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncLevel {
    /// When the kernel likes, and for checkpoints.
    None,
    /// So often.
    Interval(Duration),
    /// At once, in groups, and kept in memory until then.
    Batch,
}

impl SyncLevel {
    /// How long after a barrier the next one begins, if something was written.
    fn gap(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Interval(gap) => Some(gap),
            Self::Batch => Some(BATCH_SYNC_GAP),
        }
    }
}

/// A segment of which a barrier covers something.
#[derive(Clone, Copy, Debug)]
struct Covered {
    log: LogId,
    number: SegmentNumber,
    base: Offset,
    synced: Position,
    end: Position,
    /// Its log has gone on in another one.
    closed: bool,
}

/// A poisoned segment whose end is also in the next one.
#[derive(Clone, Copy, Debug)]
struct Cut {
    log: LogId,
    base: Offset,
    /// So much of it stays …
    length: Position,
    /// … once the next segment is on the disk so far.
    until: Position,
}

/// How far a barrier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barrier {
    None,
    /// Records below this have to be in the journal first.
    Waiting {
        below: u64,
    },
    /// A sync is under way.
    Syncing {
        below: u64,
    },
    /// The file system's sync failed: each segment is asked.
    Asking {
        below: u64,
    },
}

/// How the end of the shard is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// A last barrier is due.
    Wanted,
    /// All is synced: the clean stop is to be written, and then synced itself.
    Stopping,
    /// Done. Where only the clean stop is not on the disk, the next start looks closer.
    Over,
    /// Over, without a clean stop: a sync or the journal has failed, and what was written since the last sync may be lost.
    Failed,
}

/// What a shard knows of what is on the disk.
#[derive(Debug)]
pub(super) struct Durability {
    level: SyncLevel,
    /// Logs that were written since the last barrier began, each once.
    dirty: Vec<LogId>,
    /// Segments that logs have left since, with bytes that are not synced.
    left: Vec<Covered>,
    /// A segment was made, or closed with bytes that are not synced: only the file system as a whole covers it.
    whole: bool,
    barrier: Barrier,
    covered: Vec<Covered>,
    /// The request, while nobody needs it.
    sync: Option<Sync>,
    began: Time,
    next_at: Time,
    checkpoint_due: bool,
    checkpoint_covered: bool,
    /// After a failure nothing is tried before.
    hold_until: Time,
    cuts: Vec<Cut>,
    /// Files that go once the record of that, which has this sequence, is on the disk; in sequence, and at the end those
    /// that are [`UNRECORDED`].
    removals: VecDeque<(u64, Removal)>,
    /// Logs of which a poisoned segment may have lost what follows an offset: the lowest of each.
    pub(super) doubts: BTreeMap<LogId, Offset>,
    ending: Ending,
    pub(super) sync_seconds: Histogram,
    pub(super) poisoned: u64,
}

impl Durability {
    pub(super) fn new(level: SyncLevel) -> Self {
        Self {
            level,
            dirty: Vec::new(),
            left: Vec::new(),
            // What an earlier run wrote may be in memory alone.
            whole: true,
            barrier: Barrier::None,
            covered: Vec::new(),
            sync: Some(Sync::default()),
            began: Time::default(),
            next_at: Time::default(),
            checkpoint_due: false,
            checkpoint_covered: false,
            hold_until: Time::default(),
            cuts: Vec::new(),
            removals: VecDeque::new(),
            doubts: BTreeMap::new(),
            ending: Ending::No,
            sync_seconds: Histogram::default(),
            poisoned: 0,
        }
    }

    /// Whether the end came without a sync that tells of everything.
    pub(super) fn has_failed(&self) -> bool {
        self.ending == Ending::Failed
    }

    /// Whether memory is kept until it is synced.
    pub(super) fn retains(&self) -> bool {
        self.level == SyncLevel::Batch
    }

    /// A segment was made, or closed before it was synced.
    pub(super) fn needs_whole(&mut self) {
        self.whole = true;
    }

    pub(super) fn add_dirty(&mut self, log: LogId) {
        self.dirty.push(log);
    }

    /// The journal at hand cannot be relied on: what waits is recorded again in the next file.
    pub(super) fn forget_removals(&mut self) {
        self.removals.iter_mut().for_each(|(sequence, _)| *sequence = UNRECORDED);
    }

    /// The table of a new journal is complete: a checkpoint follows the next barrier.
    pub(super) fn needs_checkpoint(&mut self) {
        self.checkpoint_due = true;
        // A barrier that is under way covers less than this table tells of.
        self.checkpoint_covered = false;
    }

    fn has_news(&self) -> bool {
        !self.dirty.is_empty() || self.whole
    }

    /// Whether somebody waits for a barrier, whatever the time.
    fn is_wanted(&self) -> bool {
        let removes = self.removals.front().is_some_and(|(sequence, _)| *sequence != UNRECORDED);
        self.checkpoint_due || removes || self.ending == Ending::Wanted
    }

    fn is_due(&self, now: Time) -> bool {
        let by_time = self.level.gap().is_some() && now >= self.next_at && self.has_news();
        self.barrier == Barrier::None && self.sync.is_some() && now >= self.hold_until && (by_time || self.is_wanted())
    }

    /// When a barrier begins without any completion before.
    pub(super) fn timeout(&self) -> Option<Time> {
        let idle = self.barrier == Barrier::None && self.sync.is_some();
        let by_time = (self.level.gap().is_some() && self.has_news()).then_some(self.next_at);
        let at_once = self.is_wanted().then_some(self.hold_until);
        let at = by_time.into_iter().chain(at_once).min();
        at.filter(|_| idle).map(|at| at.max(self.hold_until))
    }
}

impl Logs {
    /// Begins a barrier if one is due, and its sync once the journal is written so far.
    pub(super) fn sync(&mut self, now: Time, ops: &mut VecDeque<Op>) {
        if self.durability.is_due(now) {
            self.begin_barrier(now);
        }
        let Barrier::Waiting { below } = self.durability.barrier else { return };
        let (Some(journal), true) = (self.journal.file(), self.journal.written_below() >= below) else { return };
        let Some(mut sync) = self.durability.sync.take() else { return };
        self.name_open(&mut sync);
        // Some may have been closed while the journal was written.
        let closed = sync.segments.len() < self.durability.covered.len();
        self.durability.whole |= self.journal.take_left_a_file();
        let whole = closed || self.durability.checkpoint_covered || std::mem::take(&mut self.durability.whole);
        sync.whole = whole || sync.segments.len() > SYNCED_ONE_BY_ONE_MAX;
        sync.journal = journal;
        self.durability.began = now;
        self.durability.barrier = Barrier::Syncing { below };
        ops.push_back(Op::Sync(sync));
    }

    /// Those of the covered segments that are open are synced by name.
    fn name_open(&self, sync: &mut Sync) {
        let open = |covered: &Covered| self.open_file(covered.log, covered.number).map(|file| (covered.log, file));
        sync.segments.clear();
        sync.segments.extend(self.durability.covered.iter().filter_map(open));
    }

    fn begin_barrier(&mut self, now: Time) {
        self.durability.covered.clear();
        self.cover();
        let durability = &mut self.durability;
        durability.checkpoint_covered = std::mem::take(&mut durability.checkpoint_due);
        durability.next_at = now;
        durability.barrier = Barrier::Waiting { below: self.journal.sequence() };
    }

    /// The barrier covers all that is recorded now.
    fn cover(&mut self) {
        let durability = &mut self.durability;
        durability.covered.append(&mut durability.left);
        while let Some(id) = durability.dirty.pop() {
            let log = &mut self.all[id.0 as usize];
            log.dirty = false;
            if log.segment.poisoned {
                continue;
            }
            let (segment, end) = (log.segment, log.recorded());
            durability.covered.push(Covered {
                log: id,
                number: segment.number,
                base: segment.base,
                synced: segment.synced,
                end,
                closed: false,
            });
        }
    }

    /// Segments of which no whole batch is covered, but bytes of one that was begun: they may be among those that are lost.
    #[cold]
    fn cover_begun(&mut self) {
        let covered: BTreeSet<SegmentNumber> = self.durability.covered.iter().map(|segment| segment.number).collect();
        for (index, log) in self.all.iter().enumerate() {
            let Segment { number, base, synced, poisoned } = log.segment;
            let is_current = log.is_journaled() && log.appender.base() == base && log.has_segment();
            if is_current && !poisoned && log.appender.has_begun_a_batch() && !covered.contains(&number) {
                let id = LogId(u32::try_from(index).expect("tokens_max fits a u32"));
                let end = log.recorded();
                self.durability.covered.push(Covered { log: id, number, base, synced, end, closed: false });
            }
        }
    }

    /// The answer to [`Op::Sync`].
    pub(super) fn synced(
        &mut self,
        sync: Sync,
        result: io::Result<()>,
        now: Time,
        ops: &mut VecDeque<Op>,
        notices: &mut VecDeque<Notice>,
    ) {
        self.durability.sync_seconds.observe(now.since(self.durability.began));
        let barrier = std::mem::replace(&mut self.durability.barrier, Barrier::None);
        match (barrier, result) {
            (Barrier::None, result) => {
                // The clean stop itself. If that failed, the next start looks closer.
                notices.extend(result.err().map(Notice::SyncFailed));
                self.durability.ending = Ending::Over;
            }
            (Barrier::Syncing { below }, Ok(())) => self.advance(below, ops, notices),
            (Barrier::Syncing { below }, Err(error)) if sync.whole => {
                notices.push_back(Notice::SyncFailed(error));
                self.durability.barrier = Barrier::Asking { below };
                // The file system does not tell of the same loss twice: what was written since is asked too.
                self.cover();
                self.cover_begun();
                // The journal may have gone on in another file meanwhile.
                let journal = self.journal.file().unwrap_or(sync.journal);
                let mut sync = Sync { whole: false, journal, ..sync };
                self.name_open(&mut sync);
                return ops.push_back(Op::Sync(sync));
            }
            (Barrier::Waiting { below } | Barrier::Syncing { below } | Barrier::Asking { below }, result) => {
                notices.extend(result.err().map(Notice::SyncFailed));
                let asked = matches!(barrier, Barrier::Asking { .. });
                self.poison_failed(&sync, asked, ops, notices);
                self.after_failure(&sync, asked, below, notices);
                self.durability.hold_until = now + STORAGE_RETRY;
            }
        }
        self.durability.sync = Some(sync);
        self.durability.next_at = now + self.durability.level.gap().unwrap_or_default();
    }

    /// All that the barrier covers is on the disk.
    fn advance(&mut self, below: u64, ops: &mut VecDeque<Op>, notices: &mut VecDeque<Notice>) {
        let mut covered = std::mem::take(&mut self.durability.covered);
        for segment in covered.drain(..) {
            self.segment_synced(&segment, ops);
        }
        self.durability.covered = covered;
        // What a file tells of that failed may be lost: the next one tells of nothing before its checkpoint is on the disk.
        let is_relied_on = !self.journal.is_broken();
        if is_relied_on {
            self.journal.add(JournalEntry::Synced { through: below - 1 }, &mut self.pool);
        }
        self.allow_removals(below, notices);
        if std::mem::take(&mut self.durability.checkpoint_covered) {
            self.journal.checkpointed(&mut self.pool, ops);
        }
        if !is_relied_on && !self.journal.is_broken() {
            self.durability.needs_whole();
        }
        if self.durability.ending == Ending::Wanted && !self.durability.has_news() {
            if self.journal.is_broken() {
                self.durability.ending = Ending::Failed;
                return;
            }
            self.durability.ending = Ending::Stopping;
            self.journal.add(JournalEntry::CleanStop, &mut self.pool);
        }
    }

    /// The segment is on the disk so far.
    fn segment_synced(&mut self, covered: &Covered, ops: &mut VecDeque<Op>) {
        let log = &mut self.all[covered.log.0 as usize];
        if log.segment.number == covered.number {
            log.segment.synced = covered.end;
        }
        self.retained_bytes -= log.appender.release(covered.base, covered.end, &mut self.pool);
        let name = log.appender.name();
        self.durability.cuts.retain(|cut| {
            let is_safe = cut.log == covered.log && cut.base != covered.base && covered.end >= cut.until;
            if is_safe {
                ops.push_back(Op::CutSegment { name, base: cut.base, length: cut.length });
            }
            !is_safe
        });
    }

    /// Those that failed are given up; of those that could not be asked nobody knows; if none failed, it may be any.
    fn poison_failed(&mut self, sync: &Sync, asked: bool, ops: &mut VecDeque<Op>, notices: &mut VecDeque<Notice>) {
        let mut covered = std::mem::take(&mut self.durability.covered);
        let mut given_up = BTreeSet::new();
        for segment in covered.drain(..) {
            let was_asked = !segment.closed && sync.segments.iter().any(|(log, _)| *log == segment.log);
            let none_failed = sync.failed.is_empty() && asked;
            if !was_asked || none_failed || sync.failed.contains(&segment.log) {
                if given_up.insert(segment.number) {
                    notices.extend(self.poison(segment));
                }
            } else if asked {
                // Its bytes are good. Whether its name is on the disk the next barrier tells.
                let log = &mut self.all[segment.log.0 as usize];
                if !std::mem::replace(&mut log.dirty, true) {
                    self.durability.add_dirty(segment.log);
                }
            } else {
                self.segment_synced(&segment, ops);
            }
        }
        self.durability.covered = covered;
    }

    /// Nothing more is written to the segment. None if that is known.
    fn poison(&mut self, covered: Covered) -> Option<Notice> {
        let Covered { log: id, number, base, synced, end, .. } = covered;
        let log = &mut self.all[id.0 as usize];
        let is_newest = log.segment.number == number && log.segment.base == base;
        if is_newest && std::mem::replace(&mut log.segment.poisoned, true) {
            return None;
        }
        let is_current = is_newest && log.appender.base() == base;
        let (name, is_journaled) = (log.appender.name(), log.is_journaled());
        let (from, to) = match (is_current, is_journaled && self.durability.retains()) {
            // What this run has written is in memory.
            (true, true) => (synced, log.appender.retained_from()),
            (true, false) => (synced, log.appender.length()),
            // The log has gone on in another segment: nothing can be put in between.
            (false, _) => (synced, end),
        };
        let length = if is_current { log.appender.length() } else { end };
        if is_current {
            log.appender.poison();
            self.make_due(id);
        } else {
            self.retained_bytes -= log.appender.release(base, end, &mut self.pool);
        }
        self.durability.poisoned += 1;
        let notice = Some(Notice::Poisoned { name, base, from, to });
        let Some(token) = name.token() else { return notice };
        if from < to {
            let offset = Offset(base.0 + from.0);
            let doubt = self.durability.doubts.entry(id).or_insert(offset);
            *doubt = offset.min(*doubt);
            self.journal.add(JournalEntry::Doubt { token, from: *doubt }, &mut self.pool);
        }
        self.journal.add(JournalEntry::Poison { number, synced, length }, &mut self.pool);
        notice
    }

    /// The log goes on in another segment. What is not synced of this one only the file system as a whole covers.
    pub(super) fn leave(&mut self, id: LogId) {
        let log = &self.all[id.0 as usize];
        let (Segment { number, base, synced, .. }, end) = (log.segment, log.recorded());
        if log.is_journaled() && log.has_segment() && !log.segment.poisoned && synced < end {
            self.durability.left.push(Covered { log: id, number, base, synced, end, closed: true });
            self.durability.needs_whole();
        }
    }

    /// A write to the segment failed for good: the log goes on in a new one.
    #[cold]
    pub(super) fn poison_written(&mut self, id: LogId) -> Option<Notice> {
        let log = &self.all[id.0 as usize];
        let Segment { number, base, synced, .. } = log.segment;
        self.poison(Covered { log: id, number, base, synced, end: log.appender.length(), closed: false })
    }

    /// What is known to be on the disk all the same is recorded, if the journal itself is. A table that tells of more
    /// than that begins again, in a new file.
    fn after_failure(&mut self, sync: &Sync, asked: bool, below: u64, notices: &mut VecDeque<Notice>) {
        if asked {
            self.durability.needs_whole();
        } else if !sync.journal_failed {
            self.journal.add(JournalEntry::Synced { through: below - 1 }, &mut self.pool);
            self.allow_removals(below, notices);
        }
        (self.durability.checkpoint_due, self.durability.checkpoint_covered) = (false, false);
        if self.durability.ending == Ending::No {
            self.journal.renew();
            self.durability.forget_removals();
        } else {
            // No clean stop: the next start looks closer.
            self.durability.ending = Ending::Failed;
        }
    }

    /// The control side wants to remove a file: not before the journal tells of it.
    #[cold]
    pub(super) fn record_removal(&mut self, removal: Removal) {
        // At the end there is no further barrier, and nothing follows the clean stop.
        if self.durability.ending != Ending::No {
            return;
        }
        self.durability.removals.push_back((UNRECORDED, removal));
        if !self.journal.is_being_left() {
            self.record_removals(|sequence| sequence == UNRECORDED);
        }
    }

    /// A file of the journal begins. What the one before tells of removals may be lost with it.
    pub(super) fn record_removals_again(&mut self) {
        self.record_removals(|_| true);
    }

    fn record_removals(&mut self, which: impl Fn(u64) -> bool) {
        for (sequence, removal) in self.durability.removals.iter_mut().filter(|(sequence, _)| which(*sequence)) {
            let Removal { token, base, sealed } = *removal;
            let entry = match sealed {
                Some(length) => JournalEntry::Seal { token, base, length },
                None => JournalEntry::Retire { token, base },
            };
            *sequence = self.journal.sequence();
            self.journal.add(entry, &mut self.pool);
        }
    }

    /// Records below this are on the disk.
    fn allow_removals(&mut self, below: u64, notices: &mut VecDeque<Notice>) {
        let removals = &mut self.durability.removals;
        while let Some((_, removal)) = removals.pop_front_if(|(sequence, _)| *sequence < below) {
            notices.push_back(Notice::Recorded(removal));
        }
    }

    /// The log begins a new segment in place of a poisoned one, with what was kept of that: once this is synced, the old
    /// one is cut to where the new one begins.
    pub(super) fn cut_later(&mut self, log: LogId, base: Offset, length: Position, until: Position) {
        self.durability.cuts.push(Cut { log, base, length, until });
    }

    /// At the end, once everything is written: syncs it, and says so in the journal. True when that is over.
    pub(super) fn end_durably(&mut self, ops: &mut VecDeque<Op>) -> bool {
        let idle = self.durability.barrier == Barrier::None && self.durability.sync.is_some();
        match self.durability.ending {
            Ending::No => {
                self.journal.stay();
                // A change that is under way ends with a barrier of its own.
                if self.journal.is_settled() {
                    self.durability.ending = Ending::Wanted;
                }
            }
            Ending::Stopping if idle && self.journal.is_written() => {
                if let (Some(mut sync), Some(journal)) = (self.durability.sync.take(), self.journal.file()) {
                    sync.segments.clear();
                    (sync.whole, sync.journal) = (false, journal);
                    ops.push_back(Op::Sync(sync));
                }
            }
            Ending::Wanted | Ending::Stopping | Ending::Over | Ending::Failed => {}
        }
        let written = self.journal.is_written() || self.journal.is_refused();
        matches!(self.durability.ending, Ending::Over | Ending::Failed) && written
    }
}

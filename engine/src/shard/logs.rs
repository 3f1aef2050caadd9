//! All logs of a shard: who gets memory, who is written when, what happens when storage refuses.
//!
//! ```text
//!  entry ─► appender ─┬─ batch full ───────────────────────────────► ready ─► one operation per log, 64 in all
//!                     ├─ quiet log (no write for a linger) ────────►   ▲
//!                     └─ busy log ─► cooling, until a linger after ────┘
//!                                    its last write began
//! ```
//! A saturated shard has more ready logs than operations: those that wait go on gathering, so batches grow by themselves.
//! When memory is short the largest batches go first, whatever the clock says.
//!
//! Invariants: a log is filed in `largest` exactly while it has something staged, is idle and waits for no open;
//! `cooling` is sorted by time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::allowance::{Allowance, RejectedRoom};
use super::by_class::ByClass;
use super::destination::Destination;
use super::durability::{Durability, SyncLevel};
use super::journal::Journal;
use super::op::{Notice, Op};
use super::outgoing::Outgoing;
use crate::buf::{BufferPool, WriteBuf};
use crate::handover::{RunKind, ShardId};
use crate::limits::{OPENS_IN_FLIGHT_MAX, STORAGE_RETRY, WRITES_IN_FLIGHT_MAX};
use crate::metrics::Histogram;
use crate::route::{KnownTokens, LogId, Route, Router};
use crate::scan;
use crate::segment::journal::{Batch, JournalEntry, Proof, SegmentNumber};
use crate::segment::{AppendOp, Appended, Appender, FileId, LogName, Offset, Position, SegmentLimits, Wrote};
use crate::time::Time;
use crate::wire::{Entry, Reject, Token};

/// The error of a disk that cannot be read or written there.
const EIO: i32 = 5;

/// Room for logs grows by at least so many …
const LOGS_GROWTH: usize = 64;
/// … and by this part of them.
const LOGS_GROWTH_PARTS: usize = 8;

/// The newest segment of a log that recovery found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Offset of its first byte.
    pub base: Offset,
    /// Its length.
    pub length: Position,
    /// So much of it is on the disk.
    pub synced: Position,
    /// Nothing more is appended to it: the next entry begins another.
    pub sealed: bool,
    /// What follows this offset may be lost, although it can still be read.
    pub doubt: Option<Offset>,
    /// How long ago it was made.
    pub age: Duration,
}

/// What the logs of a shard are allowed.
#[derive(Clone, Debug)]
pub struct LogLimits {
    /// A busy log is written at most this often.
    pub linger: Duration,
    /// When a segment rolls.
    pub segment: SegmentLimits,
    /// Logs of all shards.
    pub tokens: Allowance,
    /// Tokens that may name a log; `None`: every token may.
    pub known: Option<Arc<KnownTokens>>,
    /// Where lines that name no log are kept: room for them.
    pub rejected: Option<RejectedRoom>,
    /// Segments open at once.
    pub open_files_max: usize,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks, one for each queue that a log can be in")]
pub(super) struct Log {
    pub(super) appender: Appender,
    pub(super) segment: Segment,
    /// Written since the last barrier began.
    pub(super) dirty: bool,
    /// To be written as soon as it is idle and its turn has come.
    due: bool,
    /// In `ready`, perhaps no longer with a reason.
    queued: bool,
    /// In the queue of logs that wait for one of the few opens, or until they are tried again.
    waits_to_open: bool,
    /// The operator knows that it cannot be opened.
    trouble_told: bool,
    /// Written since the last look for a descriptor to free.
    recent: bool,
    /// Opened, and no write has begun since.
    unused: bool,
    /// Until then its entries linger.
    quiet_from: Time,
    /// When the write in flight was asked for.
    write_began: Time,
}

/// Hosts have many logs that say nothing most of the time: with 27 bytes of the router's, this is what each costs.
const LOG_BYTES_MAX: usize = 256;
const _: () = assert!(size_of::<Log>() <= LOG_BYTES_MAX);

/// The segment of a log that was made last, as the journal knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub(super) number: SegmentNumber,
    pub(super) base: Offset,
    /// So much of it is on the disk.
    pub(super) synced: Position,
    /// It is given up: whatever is synced later says nothing of it.
    pub(super) poisoned: bool,
}

impl Log {
    /// Whether the journal tells of it. Of rejected lines it does not: their text has to do.
    pub(super) fn is_journaled(&self) -> bool {
        self.appender.name().token().is_some()
    }

    /// Whether a segment of it was made.
    pub(super) fn has_segment(&self) -> bool {
        self.appender.base() != self.segment.base || self.appender.has_file()
    }

    /// Length of the segment that was made last, up to the end of its last record. While the next one is being made, the
    /// appender is there already.
    pub(super) fn recorded(&self) -> Position {
        if self.appender.base() == self.segment.base {
            self.appender.recorded()
        } else {
            self.appender.base().in_segment(self.segment.base)
        }
    }

    /// Checksum of the last of these bytes.
    pub(super) fn proof(&self) -> Proof {
        if self.appender.base() == self.segment.base { self.appender.proof() } else { Proof::default() }
    }
}

/// Storage refused an operation: nothing is started but one try at a time.
#[derive(Debug)]
struct Refusal {
    failed_at: Time,
    retry_at: Time,
}

/// The logs of one shard and all that is staged for them.
#[derive(Debug)]
pub(super) struct Logs {
    limits: LogLimits,
    router: Router,
    pub(super) all: Vec<Log>,
    /// The logs of rejected lines, in the order of [`Reject::NO_LOG`].
    rejected: [Option<LogId>; Reject::NO_LOG.len()],
    pub(super) pool: BufferPool,
    pub(super) journal: Journal,
    pub(super) durability: Durability,
    /// Capacity of buffers that are kept until they are synced, in bytes.
    pub(super) retained_bytes: usize,
    ready: VecDeque<LogId>,
    cooling: VecDeque<(Time, LogId)>,
    largest: ByClass,
    to_open: VecDeque<LogId>,
    /// Logs that cannot be opened for a reason of their own, and when each is tried again; in order.
    troubled: VecDeque<(Time, LogId)>,
    open: VecDeque<LogId>,
    writes_in_flight: usize,
    /// Capacity of the buffers of these writes, in bytes: memory that comes back without more to do.
    writing_bytes: usize,
    opens_in_flight: usize,
    refusal: Option<Refusal>,
    /// Bytes appended since the start and not yet written.
    unwritten_bytes: u64,
    measured: Measured,
}

/// What logs count about their files: by operation, never by entry.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) write_seconds: Histogram,
    pub(super) entry_delay_seconds: Histogram,
    pub(super) segments_active: u64,
    pub(super) segments_sealed: u64,
    pub(super) file_cache_misses: u64,
    /// Logs that cannot be opened now for a reason of their own.
    pub(super) logs_refused: u64,
}

impl Logs {
    pub(super) fn new(
        limits: LogLimits,
        router: Router,
        buffer_bytes: usize,
        journal: Journal,
        sync: SyncLevel,
    ) -> Self {
        Self {
            limits,
            router,
            all: Vec::new(),
            rejected: [None; Reject::NO_LOG.len()],
            pool: BufferPool::new(buffer_bytes),
            journal,
            durability: Durability::new(sync),
            retained_bytes: 0,
            ready: VecDeque::new(),
            cooling: VecDeque::new(),
            largest: ByClass::default(),
            to_open: VecDeque::new(),
            troubled: VecDeque::new(),
            open: VecDeque::new(),
            writes_in_flight: 0,
            writing_bytes: 0,
            opens_in_flight: 0,
            refusal: None,
            unwritten_bytes: 0,
            measured: Measured::default(),
        }
    }

    /// A busy log is written at most this often from now on. What lingers is moved with it, so that `cooling` stays sorted.
    pub(super) fn set_linger(&mut self, linger: Duration) {
        let before = std::mem::replace(&mut self.limits.linger, linger);
        let moved = |at: Time| Time::new((at + linger).since(Time::new(before)));
        self.all.iter_mut().for_each(|log| log.quiet_from = moved(log.quiet_from));
        self.cooling.iter_mut().for_each(|(at, _)| *at = moved(*at));
    }

    /// Tokens that may name a log; `None`: every token may.
    #[inline]
    pub(super) fn known(&self) -> Option<&KnownTokens> {
        self.limits.known.as_deref()
    }

    /// From now on only these tokens name logs. What remembers where a token's entries go must forget it. Logs of other
    /// tokens stay, with what is staged for them.
    pub(super) fn know(&mut self, known: Arc<KnownTokens>) {
        self.limits.known = Some(known);
    }

    /// Makes room for so many logs at once.
    pub(super) fn reserve(&mut self, logs: usize) {
        self.all.reserve_exact(logs);
    }

    /// Adds a log that recovery found.
    pub(super) fn resume(&mut self, name: LogName, newest: Resumed) {
        let Resumed { base, length, synced, sealed, doubt, age } = newest;
        let roll_at = Time::new(self.limits.segment.age.saturating_sub(age));
        let mut appender = Appender::resume(name, base, length, roll_at);
        if sealed {
            appender.seal();
        }
        let id = self.push(appender);
        match name {
            LogName::Token(token) => {
                self.limits.tokens.take_anyway();
                self.router.insert(token, id);
                let log = &mut self.all[id.0 as usize];
                // As recovery has counted them in the journal that it began.
                log.segment = Segment { number: self.journal.number(), base, synced, poisoned: false };
                if synced < length {
                    log.dirty = true;
                    self.durability.add_dirty(id);
                }
                self.durability.doubts.extend(doubt.map(|from| (id, from)));
            }
            LogName::Rejected(reason) => {
                *self.rejected_slot(reason) = Some(id);
                self.all[id.0 as usize].segment = Segment { base, synced, ..Segment::default() };
            }
        }
        self.measured.segments_active += 1;
    }

    fn push(&mut self, appender: Appender) -> LogId {
        let id = LogId(u32::try_from(self.all.len()).expect("tokens_max fits a u32"));
        if self.all.len() == self.all.capacity() {
            // Twice as many would be a lot of memory for logs that never come.
            self.all.reserve_exact(LOGS_GROWTH.max(self.all.len() / LOGS_GROWTH_PARTS));
        }
        self.all.push(Log {
            appender,
            segment: Segment::default(),
            dirty: false,
            due: false,
            queued: false,
            waits_to_open: false,
            trouble_told: false,
            recent: false,
            unused: false,
            quiet_from: Time::default(),
            write_began: Time::default(),
        });
        id
    }

    fn rejected_slot(&mut self, reason: Reject) -> &mut Option<LogId> {
        let index = Reject::NO_LOG.iter().position(|kept| *kept == reason);
        &mut self.rejected[index.expect("only lines that name no log are kept")]
    }

    /// The log of the lines that were rejected for this reason, which this shard owns.
    #[cold]
    pub(super) fn rejected_log(&mut self, reason: Reject) -> LogId {
        if let Some(log) = *self.rejected_slot(reason) {
            return log;
        }
        let log = self.push(Appender::new(LogName::Rejected(reason)));
        *self.rejected_slot(reason).insert(log)
    }

    /// Keeps a line that was rejected, or a piece of one, if such lines are kept and there is room: then `true`.
    #[cold]
    pub(super) fn keep(&mut self, reason: Reject, line: Entry<'_>, outgoing: &mut Outgoing, now: Time) -> bool {
        let fits = |room: &RejectedRoom| room.take(line.len() as u64 + 1);
        if !self.limits.rejected.as_ref().is_some_and(fits) {
            return false;
        }
        if let Some(owner) = self.rejected_owner() {
            outgoing.add(owner, Token::from_bytes([0; 16]), RunKind::rejected(reason), line, &mut self.pool);
        } else {
            let log = self.rejected_log(reason);
            self.append(log, line, now);
        }
        true
    }

    fn rejected_owner(&self) -> Option<ShardId> {
        self.router.foreign_owner(LogName::Rejected(Reject::NoToken))
    }

    /// Whether lines that are rejected here may have to go to another shard.
    pub(super) fn hands_on_rejected(&self) -> bool {
        self.limits.rejected.is_some() && self.rejected_owner().is_some()
    }

    /// Where the token's entries go; to a new log, if this sender makes logs and there may be one more.
    #[inline]
    pub(super) fn route(&mut self, token: Token, makes_logs: bool, now: Time) -> Result<Destination, Reject> {
        match self.router.route(token) {
            Route::Mine(log) => Ok(Destination::log(log)),
            Route::Foreign(shard) => Ok(Destination::shard(shard)),
            Route::New if makes_logs => self.create(token, now).map(Destination::log).ok_or(Reject::TooManyTokens),
            Route::New => Err(Reject::UnknownToken),
        }
    }

    /// The token's log, if this shard has it already.
    pub(super) fn find(&self, token: Token) -> Option<LogId> {
        match self.router.route(token) {
            Route::Mine(log) => Some(log),
            Route::Foreign(_) | Route::New => None,
        }
    }

    #[cold]
    #[inline(never)]
    fn create(&mut self, token: Token, now: Time) -> Option<LogId> {
        self.limits.tokens.take(now).then(|| {
            let log = self.push(Appender::new(token));
            self.router.insert(token, log);
            log
        })
    }

    /// Every segment that has entries ends with the next one.
    pub(super) fn roll_all(&mut self) {
        self.all.iter_mut().for_each(|log| log.appender.roll_next());
    }

    /// An entry of so many bytes is about to be staged.
    #[inline]
    pub(super) fn expect(&mut self, id: LogId, bytes: usize) {
        self.all[id.0 as usize].appender.expect(bytes);
    }

    /// Stages an entry.
    #[inline]
    pub(super) fn append(&mut self, id: LogId, entry: Entry<'_>, now: Time) {
        self.append_lines(id, entry, 1, now);
    }

    #[inline]
    fn append_lines(&mut self, id: LogId, entry: Entry<'_>, lines: u32, now: Time) {
        self.unwritten_bytes += entry.len() as u64 + 1;
        let appender = &mut self.all[id.0 as usize].appender;
        if appender.append(entry, lines, self.limits.segment, &mut self.pool, now) != Appended::Gathering {
            self.changed(id, now);
        }
    }

    /// Stages entries that another shard received, an LF after each; `lines` is how many they are.
    pub(super) fn append_run(&mut self, id: LogId, mut bytes: &[u8], lines: u32, now: Time) {
        let fits = self.all[id.0 as usize].appender.fits(bytes.len(), self.limits.segment);
        while let Some(entries) = bytes.strip_suffix(b"\n") {
            // Where a segment may end, it ends at an entry: they go one by one.
            let end = if fits { None } else { scan::find_lf(entries) };
            let (entry, rest) = end.map_or((entries, &[][..]), |end| (&entries[..end], &bytes[end + 1..]));
            self.append_lines(id, entry.into(), if fits { lines } else { 1 }, now);
            bytes = rest;
        }
    }

    /// A log's batch begins, grows or is full.
    #[cold]
    #[inline(never)]
    fn changed(&mut self, id: LogId, now: Time) {
        self.file_by_size(id);
        let log = &self.all[id.0 as usize];
        if log.appender.has_full() || now >= log.quiet_from {
            self.make_due(id);
        }
    }

    fn file_by_size(&mut self, id: LogId) {
        let log = &self.all[id.0 as usize];
        let idle = !log.appender.is_busy() && !log.waits_to_open;
        self.largest.set(id.0, log.appender.staged_class().filter(|_| idle));
    }

    pub(super) fn make_due(&mut self, id: LogId) {
        let log = &mut self.all[id.0 as usize];
        log.due = true;
        if !log.queued && !log.appender.is_busy() && !log.waits_to_open {
            log.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Starts what is due. While more than `memory_max` bytes are in use and not being written, the largest batches go
    /// first and without linger.
    pub(super) fn start(&mut self, now: Time, memory_max: usize, ops: &mut VecDeque<Op>) {
        self.end_lingers(now);
        if self.journal.is_behind() {
            return;
        }
        if let Some(refusal) = &mut self.refusal {
            if now < refusal.retry_at || self.writes_in_flight + self.opens_in_flight > 0 {
                return;
            }
            refusal.retry_at = now + STORAGE_RETRY;
            while !self.start_next(now, memory_max, ops).is_none_or(|started| started) {}
            return;
        }
        while let Some(&(at, id)) = self.troubled.front()
            && at <= now
        {
            self.troubled.pop_front();
            self.to_open.push_back(id);
        }
        // Each once: those that still find no descriptor are back in the queue.
        for _ in 0..self.to_open.len() {
            if self.opens_in_flight >= OPENS_IN_FLIGHT_MAX || !self.has_a_descriptor(ops) {
                break;
            }
            let Some(id) = self.to_open.pop_front() else { break };
            self.all[id.0 as usize].waits_to_open = false;
            self.start_log(id, now, ops);
        }
        while self.writes_in_flight < WRITES_IN_FLIGHT_MAX && self.start_next(now, memory_max, ops).is_some() {}
    }

    /// Logs whose linger is over and that have something staged become due.
    fn end_lingers(&mut self, now: Time) {
        while let Some(&(at, id)) = self.cooling.front()
            && at <= now
        {
            self.cooling.pop_front();
            let log = &self.all[id.0 as usize];
            // A later write has its own place in the queue.
            if log.quiet_from == at && log.appender.has_staged() {
                self.make_due(id);
            }
        }
    }

    /// Takes the next log in turn; `None` if nobody waits, else whether an operation started.
    fn start_next(&mut self, now: Time, memory_max: usize, ops: &mut VecDeque<Op>) -> Option<bool> {
        let pressed = self.pool.used() - self.writing_bytes - self.retained_bytes >= memory_max;
        if pressed && let Some(id) = self.largest.largest() {
            return Some(self.start_log(LogId(id), now, ops));
        }
        let id = self.ready.pop_front()?;
        let log = &mut self.all[id.0 as usize];
        log.queued = false;
        Some(log.due && self.start_log(id, now, ops))
    }

    fn start_log(&mut self, id: LogId, now: Time, ops: &mut VecDeque<Op>) -> bool {
        let log = &mut self.all[id.0 as usize];
        if log.waits_to_open || log.appender.is_busy() || !log.appender.has_staged() {
            return false;
        }
        if log.appender.needs_file() {
            let is_open = log.appender.is_open();
            if self.opens_in_flight >= OPENS_IN_FLIGHT_MAX || !(is_open || self.has_a_descriptor(ops)) {
                self.all[id.0 as usize].waits_to_open = true;
                self.to_open.push_back(id);
                self.largest.set(id.0, None);
                return false;
            }
        }
        let log = &mut self.all[id.0 as usize];
        log.due = false;
        log.recent = true;
        let poisoned = log.appender.is_poisoned();
        let Some(op) = log.appender.start() else { return false };
        if poisoned {
            self.replaced(id);
        }
        let log = &mut self.all[id.0 as usize];
        if matches!(op, AppendOp::Write { .. }) {
            log.unused = false;
            log.quiet_from = now + self.limits.linger;
            self.cooling.push_back((log.quiet_from, id));
        }
        self.largest.set(id.0, None);
        self.issue(id, op, now, ops);
        true
    }

    fn issue(&mut self, log: LogId, op: AppendOp, now: Time, ops: &mut VecDeque<Op>) {
        let name = self.all[log.0 as usize].appender.name();
        let op = match op {
            AppendOp::Write { file, position, buf } => {
                self.writes_in_flight += 1;
                self.all[log.0 as usize].write_began = now;
                self.writing_bytes += buf.capacity();
                Op::Write { log, file, position, buf }
            }
            AppendOp::Open { base, length, indexed } => {
                self.opens_in_flight += 1;
                Op::OpenSegment { log, name, base, length, indexed }
            }
            AppendOp::Create { base, close, replaces, sealed } => {
                self.opens_in_flight += 1;
                ops.extend(sealed.map(|block| Op::Index { name, block }));
                self.leave(log);
                if let Some(file) = close {
                    self.open.retain(|&open| open != log);
                    self.close(log, file, ops);
                }
                let replaces = replaces.then_some(self.all[log.0 as usize].segment.number);
                Op::CreateSegment { log, name, base, replaces }
            }
        };
        ops.push_back(op);
    }

    fn close(&mut self, id: LogId, file: FileId, ops: &mut VecDeque<Op>) {
        let log = &self.all[id.0 as usize];
        if log.is_journaled() && log.segment.synced < log.recorded() {
            self.durability.needs_whole();
        }
        ops.push_back(Op::CloseSegment(file));
    }

    /// Whether one more segment may be opened. If as many are open as may be, closes the one that was not written for
    /// longest; none that was opened for a write which has yet to begin.
    fn has_a_descriptor(&mut self, ops: &mut VecDeque<Op>) -> bool {
        if self.open.len() + self.opens_in_flight < self.limits.open_files_max {
            return true;
        }
        // Twice round: the first may find every log recently written.
        for _ in 0..2 * self.open.len() {
            let Some(id) = self.open.pop_front() else { break };
            let log = &mut self.all[id.0 as usize];
            if !std::mem::take(&mut log.recent)
                && !log.unused
                && let Some(file) = log.appender.close()
            {
                self.close(id, file, ops);
                return true;
            }
            self.open.push_back(id);
        }
        false
    }

    /// The driver opened a segment, or could not.
    pub(super) fn opened(&mut self, id: LogId, result: io::Result<FileId>, now: Time) -> Option<Notice> {
        self.opens_in_flight -= 1;
        let appender = &mut self.all[id.0 as usize].appender;
        let notice = match result {
            Ok(file) => {
                self.measured.opened(appender);
                let is_new = appender.is_creating();
                appender.opened(file);
                self.all[id.0 as usize].unused = true;
                self.open.push_back(id);
                if is_new {
                    self.record_made(id);
                }
                self.accepted_again()
            }
            Err(error) if is_the_logs_own(&error) => {
                appender.open_failed();
                return self.troubled(id, error, now);
            }
            Err(error) => {
                appender.open_failed();
                self.refused(error, now)
            }
        };
        let told = std::mem::take(&mut self.all[id.0 as usize].trouble_told);
        self.measured.logs_refused -= u64::from(told);
        self.requeue_first(id);
        notice
    }

    /// Only this log waits; the others go on.
    #[cold]
    fn troubled(&mut self, id: LogId, error: io::Error, now: Time) -> Option<Notice> {
        let log = &mut self.all[id.0 as usize];
        log.waits_to_open = true;
        self.troubled.push_back((now + STORAGE_RETRY, id));
        let told = std::mem::replace(&mut log.trouble_told, true);
        self.measured.logs_refused += u64::from(!told);
        (!told).then_some(Notice::LogRefused { name: log.appender.name(), error })
    }

    /// The driver wrote, or could not. A write that is not complete goes on at once.
    pub(super) fn written(
        &mut self,
        id: LogId,
        buf: WriteBuf,
        result: io::Result<usize>,
        now: Time,
        ops: &mut VecDeque<Op>,
    ) -> Option<Notice> {
        self.writes_in_flight -= 1;
        self.writing_bytes -= buf.capacity();
        let log = &mut self.all[id.0 as usize];
        self.measured.write_seconds.observe(now.since(log.write_began));
        let appender = &mut log.appender;
        let count = match result {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => {
                let error = result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                appender.write_failed(buf);
                // A new segment is tried first: where that fails too, reading stops.
                let is_second = appender.replaces() && appender.recorded() == Position::START;
                let gives_up = is_for_good(&error) && !is_second;
                let notice = if gives_up { self.poison_written(id) } else { self.refused(error, now) };
                self.requeue_first(id);
                return notice;
            }
        };
        self.unwritten_bytes -= count as u64;
        let since = buf.since();
        let is_journaled = appender.name().token().is_some();
        let retains = is_journaled && self.durability.retains();
        let capacity = buf.capacity();
        match appender.wrote(buf, count, retains, &mut self.pool) {
            Wrote::Rest(rest) => self.issue(id, rest, now, ops),
            Wrote::Whole { batch, closed } => {
                let (name, end) = (appender.name(), appender.length());
                ops.extend(closed.into_iter().flatten().map(|block| Op::Index { name, block }));
                self.retained_bytes += if retains { capacity } else { 0 };
                if is_journaled {
                    let batch = Batch::ending(end, &batch);
                    self.journal.add(JournalEntry::Batch { number: log.segment.number, batch }, &mut self.pool);
                    if !std::mem::replace(&mut log.dirty, true) {
                        self.durability.add_dirty(id);
                    }
                }
                self.measured.entry_delay_seconds.observe(now.since(since));
                self.requeue(id);
            }
        }
        // An interrupted write says nothing about the storage.
        if count > 0 { self.accepted_again() } else { None }
    }

    /// A poisoned segment has its successor. What was kept in memory of it is staged again.
    #[cold]
    fn replaced(&mut self, id: LogId) {
        let log = &self.all[id.0 as usize];
        let base = log.segment.base;
        let Some(again) = log.appender.restaged() else { return };
        let length = log.appender.base().in_segment(base);
        self.retained_bytes -= again.capacity;
        self.unwritten_bytes += again.bytes;
        if again.bytes > 0 && length > Position::START {
            self.cut_later(id, base, length, Position(again.bytes));
        }
    }

    /// A log is idle again: back to where it belongs.
    fn requeue(&mut self, id: LogId) {
        self.file_by_size(id);
        let log = &self.all[id.0 as usize];
        if log.appender.has_full() || (log.due && log.appender.has_staged()) {
            self.make_due(id);
        }
    }

    /// The same for a log in the middle of its turn.
    fn requeue_first(&mut self, id: LogId) {
        self.file_by_size(id);
        let log = &mut self.all[id.0 as usize];
        log.due = true;
        if !std::mem::replace(&mut log.queued, true) {
            self.ready.push_front(id);
        }
    }

    #[cold]
    fn refused(&mut self, error: io::Error, now: Time) -> Option<Notice> {
        let first = self.refusal.is_none();
        self.refusal = Some(Refusal { failed_at: now, retry_at: now + STORAGE_RETRY });
        first.then_some(Notice::StorageRefused(error))
    }

    fn accepted_again(&mut self) -> Option<Notice> {
        self.refusal.take().map(|_| Notice::StorageResumed)
    }

    /// Whether storage refuses and waits for its next try.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some() || self.journal.is_refused()
    }

    /// Whether storage has refused since `since`, or only logs are left that cannot be opened.
    pub(super) fn is_hopeless(&self, since: Time) -> bool {
        let refused = self.refusal.as_ref().is_some_and(|refusal| refusal.failed_at >= since)
            || self.journal.has_failed_since(since);
        let staged = |id: &LogId| self.all[id.0 as usize].appender.staged_bytes();
        let troubled: u64 = self.troubled.iter().map(|(_, id)| staged(id)).sum();
        refused || (troubled > 0 && troubled == self.unwritten_bytes)
    }

    /// Bytes of entries that are not in their files yet.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.unwritten_bytes
    }

    /// What was counted about files.
    pub(super) fn measured(&self) -> &Measured {
        &self.measured
    }

    /// Logs of tokens.
    pub(super) fn count(&self) -> usize {
        self.all.len() - self.rejected.iter().flatten().count()
    }

    /// Segments that are open now.
    pub(super) fn open_files(&self) -> usize {
        self.open.len()
    }

    /// When [`Logs::start`] has something to do without any completion before.
    pub(super) fn timeout(&self) -> Option<Time> {
        let own = match &self.refusal {
            Some(_) if self.writes_in_flight + self.opens_in_flight > 0 => None,
            Some(refusal) => Some(refusal.retry_at),
            None => {
                let first = |queue: &VecDeque<(Time, LogId)>| queue.front().map(|&(at, _)| at);
                first(&self.cooling).into_iter().chain(first(&self.troubled)).min()
            }
        };
        // While the journal is behind nothing is started: its own answer comes first.
        let own = own.filter(|_| !self.journal.is_behind());
        own.into_iter().chain(self.journal.timeout()).chain(self.durability.timeout()).min()
    }
}

impl Measured {
    /// A segment was opened or created.
    fn opened(&mut self, appender: &Appender) {
        match (appender.is_creating(), appender.has_rolled()) {
            (true, _) if appender.replaces() => {}
            (true, false) => self.segments_active += 1,
            (true, true) => self.segments_sealed += 1,
            (false, _) => self.file_cache_misses += 1,
        }
    }
}

/// Whether a write will not succeed on this segment: unlike a full disk, which will have room again.
pub(super) fn is_for_good(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem || error.raw_os_error() == Some(EIO)
}

/// Whether an open failed for what is on disk of this one log, while others may well succeed.
fn is_the_logs_own(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), AlreadyExists | InvalidData | IsADirectory | NotADirectory | NotFound | PermissionDenied)
}

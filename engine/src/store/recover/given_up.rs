//! Segments that were given up, when the process died before all that it kept of them was written again.
//!
//! ```text
//!  nothing was synced    _quarantine/<token>-<base>-0-run7-…-3  ├── one ──┼── two ──┼── three ──┤
//!                        <base>.log                             ├── one ──┤ · · · · · · · · · · ·   has the name now
//!
//!  some was              <base>.log           ├─ synced ─┼── one ──┼── two ──┤
//!                        <base + synced>.log             ├── one ──┤ · · · · ·               joins there
//! ```
//! The page cache still holds what the process has written, whatever the disk has lost: the newest segment is completed from
//! it. It was given up as well, perhaps: then all those before it are asked too.
//!
//! Invariants: a segment only grows, by whole lines, and by what follows in a file that begins with all it holds. Such a file
//! counts as far as its records vouch for it, and behind the last one up to a hole: what the disk has lost the page cache may
//! have lost since. What is in quarantine stays there, and counts only if it was moved by a run that journals of this start
//! of the operating system tell of: an offset of a log stands for the same byte as long as a run lasts. A file that cannot
//! be read is none. An alarm says where the journal tells of more than could be found.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::super::{LogFiles, file_error};
use super::history::{Known, ends_at};
use super::inspect::packed_len;
use super::quarantine::Moved;
use super::{Log, Recovery, content, damage, quarantine};
use crate::error::RecoverError;
use crate::segment::journal::Batch;
use crate::segment::{CURRENT, LogName, Offset, Position, segment_name};
use crate::sys::file::Access;

/// The log's newest segment, in which those that were given up go on.
struct Successor {
    base: Offset,
    path: PathBuf,
    len: u64,
    /// None: it is still to be made.
    file: Option<File>,
    /// Up to here some file holds the log as records tell, be it in mid line.
    reached: u64,
}

impl Recovery<'_> {
    /// Completes the newest segment. Says whether it had to be made.
    pub(super) fn write_again(&mut self, log: &Log, files: &LogFiles) -> Result<bool, RecoverError> {
        let copies = self.copies(log.name);
        let Some(base) = self.goes_on_at(log, files, &copies)? else { return Ok(false) };
        let is_earlier = |(earlier, known): &(Offset, &Known)| {
            *earlier < base && self.is_given_up(known) && files.is_plain(*earlier) && !files.is_packed(*earlier)
        };
        let earlier: Vec<(Offset, Known)> =
            self.history.log(log.name).filter(is_earlier).map(|(base, known)| (base, known.clone())).collect();
        let known = self.history.segment(log.name, base).filter(|known| self.is_cached(known));
        let is_there = files.is_plain(base);
        if copies.is_empty() && earlier.is_empty() && known.is_none_or(|known| known.again.is_empty()) && is_there {
            return Ok(false);
        }
        let mut next = Successor::open(log, base, is_there)?;
        // The file that has the name now is not the one that records tell of.
        let is_another =
            known.is_some_and(|known| copies.iter().any(|copy| copy.base == base && known.number == Some(copy.which)));
        if known.is_some_and(|known| is_there && !is_another && next.len < known.end().0) {
            // Somebody has made it shorter, and `newest` says that.
            return Ok(false);
        }
        let told = self.told_up_to(log, files);
        for copy in copies {
            if copy.base <= base && copy.base.0 + copy.len > next.end().max(next.reached) {
                let held = self.history.segment(log.name, copy.base).filter(|known| self.is_cached(known));
                let held = held.map(|known| known.held().to_vec()).unwrap_or_default();
                let file = self.quarantine.open(&copy);
                self.complete(log, (copy.base, file), &held, &mut next)?;
            }
        }
        for (base, known) in earlier {
            let file = log.dir.file(&segment_name(base), Access::Read);
            self.complete(log, (base, file), &known.tail, &mut next)?;
        }
        if told > next.end().max(next.reached) {
            let expected = format!("{} bytes, as the journal tells", told - base.0);
            self.alarm(log, base, expected, format!("{}, and no whole copy of the rest", next.len));
        }
        if is_another {
            self.history.begins_anew(log.name, base);
        }
        Ok(next.file.is_some() && !is_there)
    }

    /// What runs have moved that count, those first that reach furthest: mostly the others add nothing to them.
    fn copies(&self, log: LogName) -> Vec<Moved> {
        if !self.has_whole_memory() {
            return Vec::new();
        }
        let mut copies = self.quarantine.moved(log);
        copies.retain(|copy| self.history.has_run(copy.which.0, self.circumstances.boot));
        copies.sort_by_key(|copy| Reverse(copy.base.0 + copy.len));
        copies
    }

    /// The base of the newest segment: of those there are, and those that have moved and would join them. None if it is
    /// compressed.
    fn goes_on_at(&self, log: &Log, files: &LogFiles, copies: &[Moved]) -> Result<Option<Offset>, RecoverError> {
        let last = files.bases.last().copied();
        let bases = copies.iter().map(|copy| copy.base).chain(self.told(log.name));
        let mut later: Vec<Offset> = bases.filter(|base| Some(*base) > last).collect();
        if let Some(last) = last.filter(|_| !later.is_empty()) {
            let len = if files.is_plain(last) {
                let stat = log.dir.stat(&segment_name(last));
                stat.map_err(file_error(&log.path.join(segment_name(last)), "inspected"))?.map_or(0, |stat| stat.len)
            } else {
                packed_len(log, last)?
            };
            later.retain(|base| base.0 - last.0 <= len);
        }
        let as_text = last.filter(|last| !files.is_packed(*last));
        Ok(later.into_iter().max().or(as_text))
    }

    /// The newest segment that records tell of, if it may have moved: nothing of it was synced. If its file is gone as well,
    /// an alarm follows.
    fn told(&self, log: LogName) -> Option<Offset> {
        let told = self.history.log(log).next_back().filter(|(base, known)| {
            let is_new = known.synced == Position::START && !known.held().is_empty();
            is_new && self.is_cached(known) && !self.history.is_retired(log, *base)
        });
        told.map(|(base, _)| base)
    }

    /// The offset up to which the journal tells of bytes that memory should hold, be it in segments that were given up. One that
    /// was not, and reaches as far, holds them itself.
    fn told_up_to(&self, log: &Log, files: &LogFiles) -> u64 {
        let is_left = |(base, known): &(Offset, &Known)| {
            self.is_cached(known) && !self.history.is_retired(log.name, *base) && !files.is_packed(*base)
        };
        let end = |(base, known): (Offset, &Known)| {
            let own = if known.poisoned { known.end() } else { Position::START };
            let end = ends_at(known.held()).max(own).0;
            let stat = log.dir.stat(&segment_name(base)).ok().flatten();
            let has_all = !known.poisoned && stat.is_some_and(|stat| stat.len >= end);
            if has_all { 0 } else { base.0 + end }
        };
        self.history.log(log.name).filter(is_left).map(end).max().unwrap_or_default()
    }

    /// Appends the whole lines that follow in a file whose first byte has the offset `base`, if it begins with all that the
    /// newest segment holds so far.
    fn complete(
        &mut self,
        log: &Log,
        (base, file): (Offset, io::Result<File>),
        batches: &[Batch],
        next: &mut Successor,
    ) -> Result<(), RecoverError> {
        let Ok(file) = file else { return Ok(()) };
        let start = next.base.0 - base.0;
        let Ok(Some((limit, end))) = self.more(&file, start, batches, next) else { return Ok(()) };
        next.reached = next.reached.max(base.0 + limit);
        let lacking = next.len..end.saturating_sub(start);
        if !lacking.is_empty() {
            next.len = lacking.end;
            let copied = quarantine::copy(&file, start, next.make(log)?, lacking, &mut self.chunk);
            copied.map_err(file_error(&next.path, "completed"))?;
        }
        Ok(())
    }

    /// How much of a file counts, and where its whole lines end; none if it does not go on where the newest segment ends.
    fn more(&mut self, file: &File, start: u64, batches: &[Batch], next: &Successor) -> io::Result<Option<(u64, u64)>> {
        let len = file.metadata()?.len();
        if len <= start + next.len {
            return Ok(None);
        }
        let limit = self.vouched(file, start..len, batches)?;
        if limit <= start + next.len {
            return Ok(None);
        }
        if let Some(own) = &next.file
            && !quarantine::same_bytes(file, start, own, next.len, &mut self.chunk)?
        {
            return Ok(None);
        }
        Ok(Some((limit, content::lines_end(file, limit, &mut self.chunk)?)))
    }

    /// Where the bytes end that are as records tell, or have none and no hole either.
    fn vouched(&mut self, file: &File, range: Range<u64>, batches: &[Batch]) -> io::Result<u64> {
        let mut at = range.start;
        for batch in batches {
            let (start, end) = (batch.position.0, batch.end().0);
            if end <= at {
                continue;
            }
            if start > at {
                let hole = content::first_unknown_hole(file, at..start.min(range.end), &mut self.chunk)?;
                if hole < start {
                    return Ok(hole);
                }
                at = start;
            }
            if end > range.end || content::crc_of(file, start..end, &mut self.chunk)? != batch.crc {
                return Ok(at);
            }
            at = end;
        }
        content::first_unknown_hole(file, at..range.end, &mut self.chunk)
    }

    /// Whether a sync or a write of a segment failed, and memory holds what that has not brought to the disk.
    pub(super) fn is_given_up(&self, known: &Known) -> bool {
        known.poisoned && self.is_cached(known)
    }

    // What a segment leaves behind that has moved, and is not made again yet.

    /// A log whose newest segment is compressed, for the next one has moved: an empty one takes its place. False if no record
    /// tells of that, or some of it was synced.
    pub(super) fn follow_packed(&self, log: &Log, files: &LogFiles) -> Result<bool, RecoverError> {
        let Some(last) = files.bases.last().copied().filter(|last| !files.is_plain(*last)) else { return Ok(false) };
        let Some(next) = Position(packed_len(log, last)?).in_log(last) else { return Ok(false) };
        let known = self.history.segment(log.name, next).filter(|_| !self.history.is_retired(log.name, next));
        let is_unsynced = known.is_some_and(|known| known.synced == Position::START);
        if is_unsynced {
            let made = self.data.create_segment(log.name, next);
            made.map_err(file_error(&log.path.join(segment_name(next)), "made"))?;
        }
        Ok(is_unsynced)
    }

    /// A log without any segment. If there is `current` its bytes have another name, in quarantine for example, or nothing
    /// of them was synced.
    pub(super) fn no_segment(&self, log: &Log) -> Result<(), RecoverError> {
        let path = log.path.join(CURRENT);
        let Some(current) = log.dir.stat(CURRENT).map_err(file_error(&path, "inspected"))? else { return Ok(()) };
        if current.has_other_names || current.len == 0 {
            log.dir.unlink(CURRENT).map_err(file_error(&path, "removed"))?;
            return Ok(());
        }
        // Made, and then no room for its first segment; or its segments were taken away.
        let told = self.history.log(log.name).next().is_some();
        if told { Ok(()) } else { Err(damage(&log.path, "a segment", "none, only current")) }
    }
}

impl Successor {
    fn open(log: &Log, base: Offset, is_there: bool) -> Result<Self, RecoverError> {
        let path = log.path.join(segment_name(base));
        let mut successor = Self { base, path, len: 0, file: None, reached: 0 };
        if is_there {
            let file = successor.make(log)?;
            let len = file.metadata().map(|meta| meta.len());
            successor.len = len.map_err(file_error(&successor.path, "inspected"))?;
        }
        Ok(successor)
    }

    fn end(&self) -> u64 {
        self.base.0 + self.len
    }

    fn make(&mut self, log: &Log) -> Result<&File, RecoverError> {
        let file = if let Some(file) = self.file.take() {
            file
        } else {
            let file = log.dir.file_or_new(&segment_name(self.base), Access::ReadWrite);
            file.map_err(file_error(&self.path, "opened"))?
        };
        Ok(self.file.insert(file))
    }
}

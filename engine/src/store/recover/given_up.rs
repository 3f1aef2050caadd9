//! Segments that were given up, when the process died before all that it kept of them was written again.
//!
//! ```text
//!  nothing was synced    _quarantine/<token>-<base>-0-run7-3  ├── one ──┼── two ──┼── three ──┤
//!                        <base>.log                           ├── one ──┤ · · · · · · · · · · ·   has the name now
//!
//!  some was              <base>.log           ├─ synced ─┼── one ──┼── two ──┤
//!                        <base + synced>.log             ├── one ──┤ · · · · ·               joins there
//! ```
//! The page cache still holds what the process has written, whatever the disk has lost: the newest segment is completed from
//! it. It was given up as well, perhaps: then all those before it are asked too.
//!
//! Invariants: a segment only grows, and by what follows in one that begins with all it holds. What is in quarantine stays
//! there, and counts only if the last run has moved it, as far as its records do not tell otherwise: an offset of a log
//! stands for the same byte as long as a run lasts.

use std::fs::File;
use std::path::PathBuf;

use super::super::{LogFiles, file_error};
use super::history::{Known, ends_at};
use super::quarantine::GivenUp;
use super::{Log, Recovery, Segment, content, quarantine};
use crate::error::RecoverError;
use crate::segment::{LogName, Offset, Position, segment_name};
use crate::sys::file::Access;

/// The log's newest segment, in which those that were given up go on.
struct Successor {
    base: Offset,
    path: PathBuf,
    len: u64,
    /// None: it is still to be made.
    file: Option<File>,
}

impl Recovery<'_> {
    /// Completes the newest segment. Says whether it had to be made.
    pub(super) fn write_again(&mut self, log: &Log, files: &LogFiles) -> Result<bool, RecoverError> {
        let moved = match self.history.run {
            Some(run) if self.has_whole_memory() => self.quarantine.given_up(log.name, run)?,
            _ => Vec::new(),
        };
        let newest = files.bases.last().copied().max(moved.last().map(|moved| moved.base)).max(self.told(log.name));
        let Some(base) = newest.filter(|newest| !files.is_packed(*newest)) else { return Ok(false) };
        let is_earlier = |(earlier, known): &(Offset, &Known)| {
            *earlier < base && self.is_given_up(known) && files.is_plain(*earlier) && !files.is_packed(*earlier)
        };
        let earlier: Vec<Offset> = self.history.log(log.name).filter(is_earlier).map(|(base, _)| base).collect();
        let known = self.history.segment(log.name, base).filter(|known| self.is_cached(known));
        let is_there = files.is_plain(base);
        if moved.is_empty() && earlier.is_empty() && known.is_none_or(|known| known.again.is_empty()) && is_there {
            return Ok(false);
        }
        let known = known.cloned().unwrap_or_default();
        let mut next = Successor::open(log, base, is_there)?;
        self.take_back(log, &known, &moved, &mut next)?;
        for base in earlier {
            let file = Self::open(log, base)?;
            let len = file.metadata().map_err(file_error(&log.path.join(segment_name(base)), "inspected"))?.len();
            self.complete(log, (base, &file, len), &mut next)?;
        }
        Ok(next.file.is_some() && !is_there)
    }

    /// The newest segment that records tell of, if it may have moved: nothing of it was synced.
    fn told(&self, log: LogName) -> Option<Offset> {
        let told = self.history.log(log).next_back().filter(|(base, known)| {
            let is_new = known.synced == Position::START && !known.held().is_empty();
            is_new && self.is_cached(known) && !self.history.is_retired(log, *base)
        });
        told.map(|(base, _)| base)
    }

    /// Completes a segment from those that have moved to quarantine.
    fn take_back(
        &mut self,
        log: &Log,
        known: &Known,
        moved: &[GivenUp],
        next: &mut Successor,
    ) -> Result<(), RecoverError> {
        let mut has_all = false;
        for moved in moved {
            let (limit, is_whole) = self.vouched(log.name, moved)?;
            let is_in_it = self.complete(log, (moved.base, &moved.file, limit), next)?;
            has_all |= is_in_it && is_whole && moved.base == next.base;
        }
        let is_told = |moved: &GivenUp| moved.base == next.base && Some(moved.number) == known.number;
        let is_another = moved.iter().any(is_told);
        if is_another {
            self.history.begins_anew(log.name, next.base);
        }
        let end = ends_at(known.held()).0;
        // Of what records tell of this very one, `newest` says it.
        if !has_all && next.len < end && (is_another || next.file.is_none() || next.len >= known.end().0) {
            let expected = format!("{end} bytes, as the journal tells");
            self.alarm(log, next.base, expected, format!("{}, and no whole copy in quarantine", next.len));
        }
        Ok(())
    }

    /// How much of a segment in quarantine is as records tell, and whether that is all of it.
    fn vouched(&mut self, log: LogName, moved: &GivenUp) -> Result<(u64, bool), RecoverError> {
        let known = self.history.segment(log, moved.base).filter(|known| self.is_cached(known));
        let (held, chunk) = (known.map(Known::held).unwrap_or_default(), &mut self.chunk);
        let vouched = moved.file.metadata().and_then(|meta| {
            let len = meta.len();
            for batch in held {
                let range = batch.position.0..batch.end().0;
                if range.end > len || content::crc_of(&moved.file, range, chunk)? != batch.crc {
                    let good = content::follow(&moved.file, len, Position::START, held, chunk)?;
                    return Ok((good.end, false));
                }
            }
            Ok((len, true))
        });
        Ok(vouched.map_err(file_error(&moved.path, "read"))?)
    }

    /// Appends the whole lines that follow in the first `limit` bytes of a file, of which the first has the offset `base`.
    /// False if the file does not hold all of the segment.
    fn complete(
        &mut self,
        log: &Log,
        (base, file, limit): (Offset, &File, u64),
        next: &mut Successor,
    ) -> Result<bool, RecoverError> {
        let start = next.base.0 - base.0;
        if limit < start + next.len {
            return Ok(false);
        }
        if let Some(own) = &next.file {
            let same = quarantine::same_bytes(file, start, own, next.len, &mut self.chunk);
            if !same.map_err(file_error(&next.path, "compared"))? {
                return Ok(false);
            }
        }
        let end = self.lines_end(log, base, file, limit)?.saturating_sub(start);
        if end > next.len {
            let lacking = next.len..end;
            let copied = quarantine::copy(file, start, next.make(log)?, lacking, &mut self.chunk);
            copied.map_err(file_error(&next.path, "completed"))?;
            next.len = end;
        }
        Ok(true)
    }

    /// Whether a sync or a write of a segment failed, and memory holds what that has not brought to the disk.
    fn is_given_up(&self, known: &Known) -> bool {
        known.poisoned && self.is_cached(known)
    }

    /// What a log's newest segment holds behind this offset is in memory alone, and no sync will tell: one has failed.
    pub(super) fn given_up(&self, log: &Log, segment: Segment, len: u64) -> Option<Offset> {
        let known = self.history.segment(log.name, segment.base).filter(|known| self.is_given_up(known))?;
        (known.synced.0 < len).then(|| Offset(segment.base.0 + known.synced.0))
    }
}

impl Successor {
    fn open(log: &Log, base: Offset, is_there: bool) -> Result<Self, RecoverError> {
        let path = log.path.join(segment_name(base));
        let mut successor = Self { base, path, len: 0, file: None };
        if is_there {
            let file = successor.make(log)?;
            let len = file.metadata().map(|meta| meta.len());
            successor.len = len.map_err(file_error(&successor.path, "inspected"))?;
        }
        Ok(successor)
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

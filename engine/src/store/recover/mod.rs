//! Makes the data directory ready for an engine: after the lock, before listening.
//!
//! ```text
//! for each log:   00000000000000000000.log ─ base + size ─► 00000000000000000100.log     joins, or it is damage
//!                                                                 │ written since the machine started: an unfinished
//!                                                                 │ line goes
//!                                                                 │ before: what neither journal nor text vouch for
//!                                                                 ▼
//!                          rest ─► _quarantine/<token>-<base>-<position>
//!
//! when all logs were seen:  sync all copies ─► cut the segments ─► sync them ─► move those behind a cut one
//! ```
//! While the machine has not been started anew the page cache is whole, and what the process had written is there: only
//! the last line may be unfinished. After a power cut records and bytes may both be missing, each without the other.
//!
//! Invariants: nothing is ever deleted, and no byte is cut before its copy is on the disk; damage anywhere means that
//! no segment is cut; every step can be repeated, so a crash or a full disk in the middle only means to start again.
//! Sealed segments are not opened unless they were written shortly before a power cut, and syncs are shared, so that a
//! log costs a few system calls.

mod content;
mod given_up;
mod history;
mod inspect;
mod quarantine;
mod read_ahead;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::journals::Journals;
use super::{CHUNK_BYTES, LogFiles, file_error, log_token};
use crate::error::{Damage, RecoverError};
use crate::limits::READ_AHEAD_LOGS;
use crate::segment::journal::{Batch, BootId, Proof};
use crate::segment::{
    CURRENT, CURRENT_NEW, LogName, Offset, Position, REJECTED, index_name, is_reserved, packed_name, segment_name,
};
use crate::sys::data_dir::point_current;
use crate::sys::file::{Access, Dir, DirEntry, Kind};
use crate::sys::{DataDir, index_file};
use crate::wire::{Reject, Token};

pub(super) use history::History;
use history::Known;
use quarantine::Quarantine;
use read_ahead::read_ahead;

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every log that has a segment, by token.
    pub logs: Vec<RecoveredLog>,
    /// The same of rejected lines that were kept: no journal tells of them.
    pub rejected: Vec<RecoveredLog>,
    /// Bytes of all their segments, after the cuts.
    pub rejected_bytes: u64,
    /// Segments of all logs.
    pub segments: u64,
    /// Those of them that are compressed.
    pub packed: u64,
    /// Bytes of all segments, after the cuts.
    pub bytes: u64,
    /// When the newest of them was written.
    pub newest_write: Option<SystemTime>,
    /// Files that were copied or moved to quarantine.
    pub quarantined_files: u64,
    /// Bytes of them.
    pub quarantined_bytes: u64,
    /// Bytes of whole lines that no record tells of; they stay.
    pub unindexed_bytes: u64,
    /// Newest segments that no journal tells of: taken as they are.
    pub unverified: u64,
    /// Logs whose `current` was missing or led to an older segment.
    pub relinked: u64,
    /// Names in the data directory and in logs that are none of ours; left alone.
    pub unknown: u64,
    /// Journals of which not everything could be read that was once written.
    pub damaged_journals: u64,
    /// What should not have happened.
    pub alarms: Vec<Damage>,
}

/// Where a log goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The log.
    pub name: LogName,
    /// Its newest segment: whole lines only.
    pub newest: RecoveredSegment,
    /// Older ones that may be in memory alone.
    pub earlier: Vec<RecoveredSegment>,
    /// A segment was poisoned and may have lost what follows this offset, although memory still holds it.
    pub doubt: Option<Offset>,
    /// How long ago the newest segment was made, by the host's clock; zero if nobody says.
    pub age: Duration,
    /// Segments before that one.
    pub sealed: u64,
}

/// A segment as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSegment {
    /// Offset of its first byte.
    pub base: Offset,
    /// Its length.
    pub length: Position,
    /// So much of it is on the disk.
    pub durable: Position,
    /// Checksum of the last bytes of that, if it is known.
    pub proof: Proof,
    /// What is behind that.
    pub tail: Vec<Batch>,
    /// So much of it was told to be on the disk.
    pub synced: Position,
    /// Nothing more is appended to it: the log goes on in a new one.
    pub sealed: bool,
}

impl RecoveredSegment {
    /// One that is on the disk.
    fn durable(base: Offset, length: Position, sealed: bool) -> Self {
        let proof = Proof::default();
        Self { base, length, durable: length, proof, tail: Vec::new(), synced: length, sealed }
    }
}

/// What recovery goes by.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The operating system's start.
    pub boot: BootId,
    /// Whether to go on although synced data are missing.
    pub accept_loss: bool,
}

/// Checks every log's chain of segments, moves what nobody vouches for to quarantine, and points `current` to the
/// newest segment. Needs the lock.
///
/// # Errors
/// Damage when segments do not join, synced ones are missing, or something else stands where a log should be; the
/// system's refusals otherwise.
pub fn recover(data: &DataDir, journals: &Journals, circumstances: Circumstances) -> Result<Recovered, RecoverError> {
    recover_unless(data, journals, circumstances, &mut || false)
}

/// The same, and before each log `stopped` may end it: as after a kill there, the next recovery does all of it.
///
/// # Errors
/// As [`recover`]; [`RecoverError::Stopped`].
pub fn recover_unless(
    data: &DataDir,
    journals: &Journals,
    circumstances: Circumstances,
    stopped: &mut dyn FnMut() -> bool,
) -> Result<Recovered, RecoverError> {
    let mut recovery = Recovery {
        data,
        history: History::of(&journals.files),
        circumstances,
        found: Recovered { damaged_journals: journals.damaged(circumstances.boot), ..Recovered::default() },
        chunk: vec![0; CHUNK_BYTES],
        quarantine: Quarantine::new(data),
    };
    let mut entries = data.root().entries().map_err(file_error(data.path(), "listed"))?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for entries in entries.chunks(READ_AHEAD_LOGS) {
        if !recovery.has_whole_memory() {
            read_ahead(data.root(), entries, stopped);
        }
        for entry in entries {
            if stopped() {
                return Err(RecoverError::Stopped);
            }
            recovery.name(entry)?;
        }
    }
    recovery.missing_logs()?;
    recovery.quarantine.execute()?;
    let Recovery { mut found, quarantine, .. } = recovery;
    (found.quarantined_files, found.quarantined_bytes) = (quarantine.files, quarantine.bytes);
    Ok(found)
}

struct Recovery<'a> {
    data: &'a DataDir,
    history: History,
    circumstances: Circumstances,
    found: Recovered,
    chunk: Vec<u8>,
    quarantine: Quarantine<'a>,
}

/// The log at hand.
struct Log {
    name: LogName,
    dir: Dir,
    path: PathBuf,
}

/// A segment as it lies there.
#[derive(Clone, Copy)]
struct Segment {
    base: Offset,
    len: u64,
    inode: u64,
    /// It is there compressed, whole and synced: what became of its text does not matter.
    is_packed: bool,
}

impl Segment {
    fn end(&self) -> u64 {
        self.base.0 + self.len
    }
}

/// How much of a segment stays.
struct Kept {
    len: u64,
    /// More than a partial last line went, or should be there.
    sealed: bool,
}

impl Recovery<'_> {
    fn name(&mut self, entry: &DirEntry) -> Result<(), RecoverError> {
        if entry.name == REJECTED {
            return self.rejected();
        }
        if is_reserved(&entry.name) {
            return Ok(());
        }
        let Some(token) = log_token(&entry.name) else {
            self.found.unknown += 1;
            return Ok(());
        };
        let path = self.data.path().join(&entry.name);
        if entry.kind != Kind::Dir {
            // The first line of this log would fail on it.
            return Err(damage(&path, "a directory", "a file or a symbolic link"));
        }
        let dir = self.data.root().dir(&entry.name).map_err(file_error(&path, "opened"))?;
        self.log(&Log { name: token.into(), dir, path })
    }

    /// Lines that were rejected and kept: for each reason what a log is.
    fn rejected(&mut self) -> Result<(), RecoverError> {
        let before = self.found.bytes;
        for reason in Reject::NO_LOG {
            let name = LogName::Rejected(reason);
            let path = self.data.path().join(name.to_string());
            match self.data.log_dir(name, Dir::dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                dir => self.log(&Log { name, dir: dir.map_err(file_error(&path, "opened"))?, path })?,
            }
        }
        self.found.rejected_bytes = self.found.bytes - before;
        Ok(())
    }

    fn log(&mut self, log: &Log) -> Result<(), RecoverError> {
        let mut files = LogFiles::list(&log.dir).map_err(file_error(&log.path, "listed"))?;
        if self.write_again(log, &files)? || self.follow_packed(log, &files)? {
            files = LogFiles::list(&log.dir).map_err(file_error(&log.path, "listed"))?;
        }
        self.found.unknown += files.unknown;
        self.missing_segments(log, &files.bases)?;
        let Some(&last) = files.bases.last() else { return self.no_segment(log) };
        if !files.is_plain(last) {
            // Only what is sealed is compressed: the next one is gone, and with it where the log goes on.
            return Err(damage(&log.path, "the newest segment as text", format!("only {}", packed_name(last))));
        }
        let mut segments = Vec::new();
        for (index, &base) in files.bases.iter().enumerate() {
            segments.push(self.inspect(log, &files, base, files.bases.get(index + 1).copied())?);
        }
        self.mend_indexes(log, &segments)?;
        let left_behind: Vec<Segment> = segments.drain(..self.left_behind(log.name, &segments)).collect();
        for segment in left_behind {
            self.quarantine.move_later(log.name, segment.base, segment.len);
        }
        if self.lost_its_beginning(log.name, &segments) {
            self.move_away(log, &segments)?;
            log.dir.unlink(CURRENT).map_err(file_error(&log.path.join(CURRENT), "removed"))?;
            return Ok(());
        }
        let mut earlier = Vec::new();
        let mut newest = None;
        for (index, &segment) in segments.iter().enumerate() {
            let later = &segments[index + 1..];
            if later.is_empty() {
                newest = Some((segment, None));
                break;
            }
            let kept = self.older(log, segment, later)?;
            if segment.base.0 + kept.len != later[0].base.0 {
                // The log ends here: what was written later than the bytes that are missing is no part of it, or is here too.
                self.move_away(log, later)?;
                newest = Some((segment, Some(kept)));
                break;
            }
            self.count(kept.len);
            earlier.extend(self.earlier(log, segment, kept.len)?);
        }
        let (segment, kept) = newest.expect("there is one, and the last has no next");
        let kept = match kept {
            Some(kept) => kept,
            None => self.newest(log, segment)?,
        };
        self.count(kept.len);
        self.mend_current(log, &files, segment)?;
        let newest = self.resume(log, segment, &kept)?;
        let here = self.history.boot == Some(self.circumstances.boot);
        let doubt = self.history.doubt(log.name).filter(|_| here);
        let doubt = doubt.into_iter().chain(self.in_doubt_from(log, segment, kept.len)).min();
        let name = segment_name(segment.base);
        let born = log.dir.born(&name).map_err(file_error(&log.path.join(&name), "inspected"))?;
        let age = born.and_then(|born| born.elapsed().ok()).unwrap_or_default();
        let found = match log.name {
            LogName::Token(_) => &mut self.found.logs,
            LogName::Rejected(_) => &mut self.found.rejected,
        };
        let sealed = segments.iter().take_while(|earlier| earlier.base < segment.base).count() as u64;
        found.push(RecoveredLog { name: log.name, newest, earlier, doubt, age, sealed });
        Ok(())
    }

    /// What a log's newest segment holds behind this offset is in memory alone, and no sync will tell: one has failed.
    fn in_doubt_from(&self, log: &Log, segment: Segment, len: u64) -> Option<Offset> {
        let known = self.history.segment(log.name, segment.base).filter(|known| self.is_given_up(known))?;
        (known.synced.0 < len).then(|| Offset(segment.base.0 + known.synced.0))
    }

    /// How many of the first segments were deleted, but a power cut has brought them back without what followed.
    fn left_behind(&self, name: LogName, segments: &[Segment]) -> usize {
        let gap = |pair: &[Segment]| self.history.is_retired(name, pair[0].base) && pair[0].end() < pair[1].base.0;
        segments.windows(2).rposition(gap).map_or(0, |last| last + 1)
    }

    fn count(&mut self, len: u64) {
        self.found.segments += 1;
        self.found.bytes += len;
    }

    /// Whether the page cache still holds what was written to it.
    fn is_cached(&self, known: &Known) -> bool {
        known.boot == self.circumstances.boot && known.boot != BootId::default()
    }

    // What the journals tell of and is not there.

    fn missing_logs(&mut self) -> Result<(), RecoverError> {
        let tokens: Vec<Token> = self.history.tokens().collect();
        let seen: std::collections::BTreeSet<Token> =
            self.found.logs.iter().filter_map(|log| log.name.token()).collect();
        for token in tokens.into_iter().filter(|token| !seen.contains(token)) {
            let path = self.data.path().join(token.to_string());
            if self.data.root().stat(&token.to_string()).map_err(file_error(&path, "inspected"))?.is_none() {
                self.missing(token.into(), &path, &[])?;
            }
        }
        Ok(())
    }

    fn missing_segments(&mut self, log: &Log, bases: &[Offset]) -> Result<(), RecoverError> {
        self.missing(log.name, &log.path, bases)
    }

    fn missing(&mut self, name: LogName, path: &Path, bases: &[Offset]) -> Result<(), RecoverError> {
        let is_missing = |(base, known): &(Offset, &Known)| {
            !self.history.is_retired(name, *base)
                && known.synced > Position::START
                && bases.binary_search(base).is_err()
        };
        let missing: Vec<(Offset, Position)> =
            self.history.log(name).filter(is_missing).map(|(base, known)| (base, known.synced)).collect();
        for (base, synced) in missing {
            let path = path.join(segment_name(base));
            let problem = Damage {
                path,
                expected: format!("a segment of at least {} bytes, which were synced", synced.0),
                found: "nothing".into(),
            };
            // What is between others cannot be done without: they would not join.
            if bases.first().is_some_and(|first| *first < base) && bases.last().is_some_and(|last| base < *last) {
                return Err(RecoverError::Damage(problem));
            }
            self.lost(problem)?;
        }
        Ok(())
    }

    /// Synced data are missing: for the operator to decide.
    fn lost(&mut self, damage: Damage) -> Result<(), RecoverError> {
        if !self.circumstances.accept_loss {
            return Err(RecoverError::Lost(damage));
        }
        self.found.alarms.push(damage);
        Ok(())
    }

    fn alarm(&mut self, log: &Log, base: Offset, expected: String, found: String) {
        self.found.alarms.push(Damage { path: log.path.join(segment_name(base)), expected, found });
    }

    // Segments that have a successor.

    /// One whose bytes a power cut may have taken is looked at; of all others the length says enough.
    fn older(&mut self, log: &Log, segment: Segment, later: &[Segment]) -> Result<Kept, RecoverError> {
        let next = later[0];
        if segment.is_packed && segment.end() == next.base.0 {
            return Ok(Kept { len: segment.len, sealed: false });
        }
        let known = self.history.segment(log.name, segment.base).cloned();
        let known = known.filter(|_| !segment.is_packed);
        let is_new = !segment.is_packed && known.is_none() && self.is_unrecorded(log.name, segment.base);
        let known = known.or_else(|| is_new.then(Known::default));
        let (end, name) = (segment.end(), segment_name(segment.base));
        if end > next.base.0 && self.is_repeated(log, segment, later)? {
            let len = next.base.0 - segment.base.0;
            self.cut(log, segment, len)?;
            return Ok(Kept { len, sealed: true });
        }
        // A poisoned segment and its successor, and the record of that was not written any more: so the successor was never
        // synced.
        let overlaps = end > next.base.0
            && known.as_ref().is_some_and(|known| !known.poisoned)
            && later.iter().all(|later| self.is_uncertain(log.name, later));
        if end == next.base.0 && !segment.is_packed && known.is_none() && self.is_text_alone(log.name, later) {
            return self.unknown(log, segment);
        }
        // Its records may be lost as well as its bytes.
        let is_open = |known: &Known| known.durable.0 < segment.len && !known.covered;
        let uncertain = known.as_ref().is_some_and(|known| (is_new || is_open(known)) && !self.is_cached(known));
        if let Some(known) = known.as_ref().filter(|known| uncertain && !known.poisoned) {
            let kept = self.vouch(log, segment, known)?;
            if segment.base.0 + kept.len == next.base.0 {
                return Ok(kept);
            }
            if segment.base.0 + kept.len < next.base.0 {
                let later = self.history.segment(log.name, next.base);
                if later.is_some_and(|later| later.synced > Position::START) {
                    let expected = format!("{} bytes up to {}", next.base.0 - segment.base.0, segment_name(next.base));
                    let found = format!("{} that can be vouched for", kept.len);
                    self.alarm(log, segment.base, expected, found);
                }
                return Ok(kept);
            }
            if overlaps {
                return Ok(Kept { sealed: true, ..kept });
            }
        }
        if overlaps {
            let file = Self::open(log, segment.base)?;
            let len = self.lines_end(log, segment.base, &file, segment.len)?;
            self.cut(log, segment, len)?;
            return Ok(Kept { len, sealed: true });
        }
        if end > next.base.0 && known.as_ref().is_some_and(|known| known.poisoned) {
            // Its end was written again to the next one, and was not cut yet.
            let len = next.base.0 - segment.base.0;
            self.cut(log, segment, len)?;
            return Ok(Kept { len, sealed: true });
        }
        // Those behind a gap were made after the last record that the disk got.
        let missing = self.lost_power() && later.iter().all(|later| self.is_uncertain(log.name, later));
        if end == next.base.0 {
            return Ok(Kept { len: segment.len, sealed: false });
        }
        if end < next.base.0 && missing && !segment.is_packed {
            return self.vouch(log, segment, &known.unwrap_or_default());
        }
        let expected = format!("{} after {name} of {} bytes", segment_name(Offset(end)), segment.len);
        let problem = Damage { path: log.path.clone(), expected, found: segment_name(next.base) };
        Err(RecoverError::Damage(problem))
    }

    /// No journal tells of it: it ends where it has a hole.
    fn unknown(&mut self, log: &Log, segment: Segment) -> Result<Kept, RecoverError> {
        let file = Self::open(log, segment.base)?;
        let limit = self.first_hole(log, segment, &file)?;
        if limit == segment.len {
            return Ok(Kept { len: limit, sealed: false });
        }
        let expected = format!("{} bytes up to {}", segment.len, segment_name(Offset(segment.end())));
        self.alarm(log, segment.base, expected, format!("NULs at {limit} that no index vouches for"));
        let len = self.lines_end(log, segment.base, &file, limit)?;
        self.cut(log, segment, len)?;
        Ok(Kept { len, sealed: len > 0 })
    }

    /// Whether a segment may have lost its records with a journal, and those behind it too: a checkpoint that tells of one of
    /// them says that all before it is on the disk.
    fn is_text_alone(&self, name: LogName, later: &[Segment]) -> bool {
        let is_named = |later: &Segment| self.history.segment(name, later.base).is_some_and(|known| known.named);
        let may_lack = !self.has_whole_memory() && !self.has_all_journals();
        name.token().is_some() && may_lack && !later.iter().any(is_named)
    }

    /// Whether there are journals, and each could be read as far as it was written.
    fn has_all_journals(&self) -> bool {
        self.history.boot.is_some() && self.found.damaged_journals == 0
    }

    /// Whether the segments behind it hold all that this one does from there on.
    fn is_repeated(&mut self, log: &Log, segment: Segment, later: &[Segment]) -> Result<bool, RecoverError> {
        if segment.is_packed {
            return Ok(false);
        }
        let file = Self::open(log, segment.base)?;
        for (index, next) in later.iter().enumerate().take_while(|(_, next)| next.base.0 < segment.end()) {
            let after = later.get(index + 1).map_or(u64::MAX, |after| after.base.0);
            let end = after.min(segment.end());
            let overlap = end - next.base.0;
            if next.len < overlap || next.is_packed {
                return Ok(false);
            }
            let (start, copy) = (next.base.0 - segment.base.0, Self::open(log, next.base)?);
            let same = quarantine::same_bytes(&file, start, &copy, overlap, &mut self.chunk);
            if !same.map_err(file_error(&log.path.join(segment_name(next.base)), "read"))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Indexes are never synced: a power cut leaves holes in them.
    fn mend_indexes(&self, log: &Log, segments: &[Segment]) -> Result<(), RecoverError> {
        if !self.lost_power() && self.found.damaged_journals == 0 {
            return Ok(());
        }
        for segment in segments {
            let path = log.path.join(index_name(segment.base));
            index_file::mend(&log.dir, segment.base).map_err(file_error(&path, "mended"))?;
        }
        Ok(())
    }

    /// What may be in memory alone stays known.
    fn earlier(&mut self, log: &Log, segment: Segment, len: u64) -> Result<Option<RecoveredSegment>, RecoverError> {
        let Some(known) = self.history.segment(log.name, segment.base).cloned() else { return Ok(None) };
        if segment.is_packed || known.synced.0 >= len || !self.is_cached(&known) {
            return Ok(None);
        }
        self.continued(log, segment, len, &known, true).map(Some)
    }

    /// Whether the machine runs on since the last record: memory still holds all that was written.
    fn has_whole_memory(&self) -> bool {
        self.history.boot.is_some() && !self.lost_power()
    }

    /// Whether it was started anew.
    fn lost_power(&self) -> bool {
        self.history.boot.is_some_and(|boot| boot != self.circumstances.boot || boot == BootId::default())
    }

    /// Whether a segment that no journal tells of was made after the last record that the disk got.
    fn is_unrecorded(&self, name: LogName, base: Offset) -> bool {
        let is_later = self.history.log(name).next().is_none_or(|(known, _)| known < base);
        name.token().is_some() && is_later && self.lost_power() && self.found.damaged_journals == 0
    }

    /// Whether nothing of the segment was told to be on the disk.
    fn is_uncertain(&self, name: LogName, segment: &Segment) -> bool {
        let known = self.history.segment(name, segment.base);
        !segment.is_packed && known.is_none_or(Known::is_uncertain)
    }

    /// Whether a power cut took the log's first segment, whose name was not on the disk yet. Of a log that is older than the
    /// last checkpoint at least one segment is known.
    fn lost_its_beginning(&self, name: LogName, segments: &[Segment]) -> bool {
        if name.token().is_none() {
            return false;
        }
        let first = segments[0].base;
        let is_lost = |(base, known): (Offset, &Known)| {
            !self.history.is_retired(name, base) && known.is_uncertain() && !self.is_cached(known)
        };
        let told = |(base, known): (Offset, &Known)| {
            base < first && base.0 + known.end().0 >= first.0 && is_lost((base, known))
        };
        let is_new = self.lost_power() && self.found.damaged_journals == 0 && first > Offset::START;
        let uncertain = segments.iter().all(|segment| self.is_uncertain(name, segment));
        self.history.log(name).any(told) || (is_new && uncertain && self.history.log(name).all(is_lost))
    }

    /// What is left of the log behind a gap goes to quarantine as it is.
    fn move_away(&mut self, log: &Log, segments: &[Segment]) -> Result<(), RecoverError> {
        for segment in segments {
            if self.history.segment(log.name, segment.base).is_some_and(|known| known.synced > Position::START) {
                let problem = Damage {
                    path: log.path.join(segment_name(segment.base)),
                    expected: "the bytes of its log before it".into(),
                    found: "a gap".into(),
                };
                self.lost(problem)?;
            }
            self.quarantine.move_later(log.name, segment.base, segment.len);
        }
        Ok(())
    }

    // The newest segment.

    fn newest(&mut self, log: &Log, segment: Segment) -> Result<Kept, RecoverError> {
        let Some(known) = self.history.segment(log.name, segment.base).cloned() else {
            return self.adopt(log, segment);
        };
        if !self.is_cached(&known) {
            let mut kept = self.vouch(log, segment, &known)?;
            kept.sealed |= known.sealed || known.poisoned;
            return Ok(kept);
        }
        // Records may tell of an unfinished line, which a recovery that was broken off has cut.
        let told = known.end().0;
        if segment.len < told && !self.quarantine.has_cut(log.name, segment.base, segment.len..told) {
            let expected = format!("{} bytes, as the journal tells", known.end().0);
            self.alarm(log, segment.base, expected, format!("{} bytes: changed by another process", segment.len));
        }
        let file = Self::open(log, segment.base)?;
        let len = self.lines_end(log, segment.base, &file, segment.len)?;
        self.found.unindexed_bytes += len.saturating_sub(known.end().0);
        self.cut(log, segment, len)?;
        Ok(Kept { len, sealed: known.sealed || known.poisoned })
    }

    /// No journal tells of it: all whole lines stay that the disk seems to have got.
    fn adopt(&mut self, log: &Log, segment: Segment) -> Result<Kept, RecoverError> {
        self.found.unverified += u64::from(log.name.token().is_some());
        if self.is_unrecorded(log.name, segment.base) {
            return self.vouch(log, segment, &Known::default());
        }
        let file = Self::open(log, segment.base)?;
        let limit = if self.has_whole_memory() { segment.len } else { self.first_hole(log, segment, &file)? };
        let len = self.lines_end(log, segment.base, &file, limit)?;
        self.cut(log, segment, len)?;
        Ok(Kept { len, sealed: limit < segment.len && len > 0 })
    }

    /// Where the text of a segment that no journal tells of stops to look whole.
    fn first_hole(&mut self, log: &Log, segment: Segment, file: &File) -> Result<u64, RecoverError> {
        let path = log.path.join(index_name(segment.base));
        let index = index_file::read(&log.dir, segment.base).map_err(file_error(&path, "read"))?.unwrap_or_default();
        let hole = content::first_hole(file, segment.len, &index, &mut self.chunk);
        Ok(hole.map_err(file_error(&log.path.join(segment_name(segment.base)), "read"))?)
    }

    /// After a power cut: what checksums vouch for, and whole lines behind that.
    fn vouch(&mut self, log: &Log, segment: Segment, known: &Known) -> Result<Kept, RecoverError> {
        let path = log.path.join(segment_name(segment.base));
        let file = Self::open(log, segment.base)?;
        let vouched = content::follow(&file, segment.len, known.durable, &known.tail, &mut self.chunk);
        let vouched = vouched.map_err(file_error(&path, "read"))?;
        let limit = content::first_nul_run(&file, vouched.end..segment.len, 1, &mut self.chunk);
        let limit = limit.map_err(file_error(&path, "read"))?;
        let len = self.lines_end(log, segment.base, &file, limit)?;
        self.found.unindexed_bytes += len.saturating_sub(vouched.end);
        let shorter = segment.len < known.durable.0;
        let wrong = !shorter && self.is_wrong(log, segment, &file, known)?;
        // Where a record is missing the text has to do; where there is one, the bytes are not what they were.
        let is_bad = known.tail.iter().any(|batch| (batch.position.0..batch.end().0).contains(&vouched.end));
        if shorter || (vouched.end < known.synced.0 && (is_bad || len < known.synced.0)) {
            let expected = format!("{} bytes, which were synced", known.synced.0);
            self.alarm(log, segment.base, expected, format!("{} that can be vouched for", vouched.end));
        }
        self.cut(log, segment, len)?;
        for island in vouched.islands.iter().filter(|island| island.start >= len) {
            let kept = self.quarantine.keep_island(&file, (log.name, segment.base), island.clone(), &mut self.chunk);
            kept.map_err(file_error(&path, "copied"))?;
        }
        Ok(Kept { len, sealed: (limit < segment.len || shorter || wrong) && len > 0 })
    }

    /// Whether the last bytes that were on the disk at the checkpoint are others now. Only of a segment that was written
    /// since: what the disk did to others is for `verify` to find.
    fn is_wrong(&mut self, log: &Log, segment: Segment, file: &File, known: &Known) -> Result<bool, RecoverError> {
        let start = known.durable.0.saturating_sub(u64::from(known.proof.length));
        if known.tail.is_empty() || start == known.durable.0 {
            return Ok(false);
        }
        let path = log.path.join(segment_name(segment.base));
        let crc = content::crc_of(file, start..known.durable.0, &mut self.chunk).map_err(file_error(&path, "read"))?;
        let wrong = crc != known.proof.crc;
        if wrong {
            let expected = format!("bytes {start} to {} as they were synced", known.durable.0);
            self.alarm(log, segment.base, expected, "others, by their checksum".into());
        }
        Ok(wrong)
    }

    fn open(log: &Log, base: Offset) -> Result<File, RecoverError> {
        let name = segment_name(base);
        Ok(log.dir.file(&name, Access::Read).map_err(file_error(&log.path.join(&name), "opened"))?)
    }

    fn lines_end(&mut self, log: &Log, base: Offset, file: &File, limit: u64) -> Result<u64, RecoverError> {
        let end = content::lines_end(file, limit, &mut self.chunk);
        Ok(end.map_err(file_error(&log.path.join(segment_name(base)), "read"))?)
    }

    /// What is behind `len` goes to quarantine.
    fn cut(&mut self, log: &Log, segment: Segment, len: u64) -> Result<(), RecoverError> {
        if len == segment.len {
            return Ok(());
        }
        let file = Self::open(log, segment.base)?;
        self.quarantine.cut_later(&file, (log.name, segment.base), len..segment.len, &mut self.chunk)
    }

    /// How the journal goes on with the newest segment.
    fn resume(&mut self, log: &Log, segment: Segment, kept: &Kept) -> Result<RecoveredSegment, RecoverError> {
        let known = self.history.segment(log.name, segment.base).cloned();
        // Made just before the process died: nothing says that it is on the disk.
        let known = known.or_else(|| Some(Known { boot: self.history.boot?, ..Known::default() }));
        let proof = known.as_ref().map(|known| known.proof_at(kept.len)).unwrap_or_default();
        let cached = known.filter(|known| log.name.token().is_some() && self.is_cached(known));
        if let Some(known) = cached {
            return self.continued(log, segment, kept.len, &known, kept.sealed);
        }
        let durable = RecoveredSegment::durable(segment.base, Position(kept.len), kept.sealed);
        Ok(RecoveredSegment { proof, ..durable })
    }

    /// What is known of a segment that may be in memory alone, with records of all that it holds.
    fn continued(
        &mut self,
        log: &Log,
        segment: Segment,
        len: u64,
        known: &Known,
        sealed: bool,
    ) -> Result<RecoveredSegment, RecoverError> {
        let durable = known.durable.0.min(len);
        let mut tail: Vec<Batch> = known.tail.iter().take_while(|batch| batch.end().0 <= len).copied().collect();
        let recorded = tail.last().map_or(durable, |batch| batch.end().0);
        if recorded < len {
            let file = Self::open(log, segment.base)?;
            let more = content::record(&file, recorded..len, &mut self.chunk);
            tail.extend(more.map_err(file_error(&log.path.join(segment_name(segment.base)), "read"))?);
        }
        let synced = Position(known.synced.0.min(len));
        let proof = if durable == known.durable.0 { known.proof } else { Proof::default() };
        Ok(RecoveredSegment {
            base: segment.base,
            length: Position(len),
            durable: Position(durable),
            proof,
            tail,
            synced,
            sealed,
        })
    }

    /// A crash between making a segment and renaming `current` leaves it behind.
    fn mend_current(&mut self, log: &Log, files: &LogFiles, newest: Segment) -> Result<(), RecoverError> {
        let path = log.path.join(CURRENT);
        let current = log.dir.stat(CURRENT).map_err(file_error(&path, "inspected"))?;
        if current.is_none_or(|current| current.inode != newest.inode) {
            point_current(&log.dir, &segment_name(newest.base)).map_err(file_error(&path, "linked"))?;
            self.found.relinked += 1;
        }
        if files.current_new {
            log.dir.unlink(CURRENT_NEW).map_err(file_error(&log.path.join(CURRENT_NEW), "removed"))?;
        }
        Ok(())
    }
}

fn damage(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> RecoverError {
    RecoverError::Damage(Damage { path: path.to_owned(), expected: expected.into(), found: found.into() })
}

#[cfg(test)]
mod tests;

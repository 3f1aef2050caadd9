//! What recovery takes out of segments, and in which order: all copies first, on the disk, then the cuts.
//!
//! A copy has the name of what it was: log, base, position. One of an earlier try is used again or completed; a file with
//! other bytes stays, and the copy gets a number. What runs have moved here before is only read, one file at a time.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::super::{chunk_of, file_error};
use crate::error::RecoverError;
use crate::limits::SYNCED_ONE_BY_ONE_MAX;
use crate::segment::journal::{RunId, SegmentNumber};
use crate::segment::{
    Form, LogName, Offset, Position, QUARANTINE, counted_name, parse_given_up_name, quarantine_name, segment_name,
};
use crate::sys::DataDir;
use crate::sys::file::{Access, Dir};

/// A segment that a run gave up before any of it was synced, and moved.
pub(super) struct Moved {
    pub(super) base: Offset,
    pub(super) which: (RunId, SegmentNumber),
    pub(super) len: u64,
    name: String,
}

/// What was there before.
struct Earlier {
    dir: Dir,
    names: BTreeSet<String>,
}

/// The quarantine of one recovery.
pub(super) struct Quarantine<'a> {
    data: &'a DataDir,
    /// Opened with the first copy.
    dir: Option<Dir>,
    cuts: Vec<(LogName, Offset, u64)>,
    /// Once it was asked for; nothing where that cannot be listed.
    earlier: OnceCell<Option<Earlier>>,
    /// Of what form; all of it if none is given.
    moves: Vec<(LogName, Offset, Option<Form>)>,
    /// Copied or moved.
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl<'a> Quarantine<'a> {
    pub(super) fn new(data: &'a DataDir) -> Self {
        Self { data, dir: None, earlier: OnceCell::new(), cuts: Vec::new(), moves: Vec::new(), files: 0, bytes: 0 }
    }

    /// Segments of a log that runs have moved here. What cannot be listed or inspected is as good as none: where bytes are
    /// lacking recovery says so.
    pub(super) fn moved(&self, log: LogName) -> Vec<Moved> {
        let Some(Earlier { dir, names }) = self.earlier() else { return Vec::new() };
        // All names of the log, and few others.
        let [first, last] = [Offset::START, Offset(u64::MAX)].map(|base| quarantine_name(log, base, Position::START));
        let moved = names.range(first..=last + "~").filter_map(|name| {
            let (base, which) = parse_given_up_name(name, log)?;
            Some(Moved { base, which, len: dir.stat(name).ok()??.len, name: name.clone() })
        });
        moved.collect()
    }

    pub(super) fn open(&self, moved: &Moved) -> io::Result<File> {
        let earlier = self.earlier().ok_or(io::ErrorKind::NotFound)?;
        earlier.dir.file(&moved.name, Access::Read)
    }

    /// Whether a recovery before this one has cut these bytes off a segment, or more.
    pub(super) fn has_cut(&self, log: LogName, base: Offset, range: Range<u64>) -> bool {
        let copy = quarantine_name(log, base, Position(range.start));
        let stat = self.earlier().and_then(|Earlier { dir, .. }| dir.stat(&copy).ok()?);
        stat.is_some_and(|stat| stat.len >= range.end - range.start)
    }

    fn earlier(&self) -> Option<&Earlier> {
        let list = || {
            let dir = self.data.root().dir(QUARANTINE).ok()?;
            let names = dir.entries().ok()?.into_iter().map(|entry| entry.name).collect();
            Some(Earlier { dir, names })
        };
        self.earlier.get_or_init(list).as_ref()
    }

    /// Copies the end of a segment, which is cut off once all copies are on the disk.
    pub(super) fn cut_later(
        &mut self,
        file: &File,
        (log, base): (LogName, Offset),
        range: Range<u64>,
        chunk: &mut [u8],
    ) -> Result<(), RecoverError> {
        let name = quarantine_name(log, base, Position(range.start));
        self.cuts.push((log, base, range.start));
        let path = self.data.path().join(QUARANTINE).join(&name);
        Ok(self.keep(file, range, &name, chunk).map_err(file_error(&path, "filled"))?)
    }

    /// Copies batches that are good and lie behind bytes that are not.
    pub(super) fn keep_island(
        &mut self,
        file: &File,
        (log, base): (LogName, Offset),
        range: Range<u64>,
        chunk: &mut [u8],
    ) -> io::Result<()> {
        let name = quarantine_name(log, base, Position(range.start)) + "-recovered";
        self.keep(file, range, &name, chunk)
    }

    /// Moves a whole segment, once all copies are on the disk.
    pub(super) fn move_later(&mut self, log: LogName, base: Offset, len: u64) {
        self.moves.push((log, base, None));
        self.files += 1;
        self.bytes += len;
    }

    /// The same for one form of a segment that is there in both.
    pub(super) fn move_form_later(&mut self, log: LogName, base: Offset, form: Form, len: u64) {
        self.moves.push((log, base, Some(form)));
        self.files += 1;
        self.bytes += len;
    }

    /// Copies, and syncs the first ones.
    fn keep(&mut self, file: &File, range: Range<u64>, name: &str, chunk: &mut [u8]) -> io::Result<()> {
        self.bytes += range.end - range.start;
        let copy = self.copy(file, range, name, chunk)?;
        self.files += 1;
        if self.files <= SYNCED_ONE_BY_ONE_MAX as u64 { copy.sync_all() } else { Ok(()) }
    }

    /// Brings the copies to the disk, then cuts and moves.
    pub(super) fn execute(&self) -> Result<(), RecoverError> {
        let (path, root) = (self.data.path(), self.data.root());
        let one_by_one = self.files <= SYNCED_ONE_BY_ONE_MAX as u64;
        if let Some(dir) = &self.dir {
            let synced = if one_by_one { dir.sync().and_then(|()| root.sync()) } else { root.sync_file_system() };
            synced.map_err(file_error(&path.join(QUARANTINE), "synced"))?;
        }
        // From the newest on: whenever this is interrupted, what is left joins up to where it was cut.
        for &(log, base, form) in self.moves.iter().rev() {
            let moved = match form {
                Some(form) => self.data.quarantine_form(log, base, form),
                None => self.data.quarantine_segment(log, base),
            };
            let name = form.unwrap_or(Form::Text).name(base);
            moved.map_err(file_error(&path.join(log.to_string()).join(name), "moved"))?;
        }
        for &(log, base, len) in &self.cuts {
            let segment = segment_name(base);
            let file = self.data.log_dir(log, Dir::dir).and_then(|dir| dir.file(&segment, Access::Write));
            let cut = file.and_then(|file| {
                file.set_len(len)?;
                if one_by_one { file.sync_all() } else { Ok(()) }
            });
            cut.map_err(file_error(&path.join(log.to_string()).join(segment), "cut"))?;
        }
        if !one_by_one {
            root.sync_file_system().map_err(file_error(path, "synced"))?;
        }
        Ok(())
    }

    fn copy(&mut self, source: &File, range: Range<u64>, name: &str, chunk: &mut [u8]) -> io::Result<File> {
        let len = range.end - range.start;
        let mut number = 1_u64;
        loop {
            let name = counted_name(name, number);
            let file = self.dir()?.file_or_new(&name, Access::ReadWrite)?;
            let kept = file.metadata()?.len();
            if kept <= len && same_bytes(source, range.start, &file, kept, chunk)? {
                copy(source, range.start, &file, kept..len, chunk)?;
                return Ok(file);
            }
            number += 1;
        }
    }

    fn dir(&mut self) -> io::Result<&Dir> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => self.data.root().dir_or_new(QUARANTINE)?,
        };
        Ok(self.dir.insert(dir))
    }
}

/// Whether the copy's first `len` bytes are the source's from `start` on.
pub(super) fn same_bytes(source: &File, start: u64, copy: &File, len: u64, chunk: &mut [u8]) -> io::Result<bool> {
    let mut other = vec![0; chunk.len()];
    let mut at = 0;
    while at < len {
        let part = chunk_of(chunk, len - at);
        let other = chunk_of(&mut other, len - at);
        source.read_exact_at(part, start + at)?;
        copy.read_exact_at(other, at)?;
        if part != other {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

/// Copies what the range is of the copy, whose first byte is the source's at `start`.
pub(super) fn copy(source: &File, start: u64, copy: &File, range: Range<u64>, chunk: &mut [u8]) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let part = chunk_of(chunk, range.end - at);
        source.read_exact_at(part, start + at)?;
        copy.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

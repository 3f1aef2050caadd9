//! `engine ls`: one line for each log.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use super::journals;
use super::look_up::stat;
use super::reader::{finish, open};
use super::segment_file::SegmentFile;
use super::{CHUNK_BYTES, LogFiles, chunk_of, file_error, log_token};
use crate::error::ReadError;
use crate::limits::INDEX_GAP_BYTES_MAX;
use crate::segment::index::count_lines;
use crate::segment::{Offset, Position, segment_name};
use crate::sys::DataDir;
use crate::sys::file::{Dir, Kind};
use crate::sys::index_file;
use crate::wire::{Token, TokenList};

/// Shows every log of the data directory, by token, with the names of a list if there is one: a table, or one JSON
/// document. A reader that went away is no error.
///
/// # Errors
/// When the data directory or a log cannot be read, or the output not written.
pub fn ls(data: &Path, names: Option<&TokenList>, json: bool, out: &mut dyn Write) -> Result<(), ReadError> {
    let data = open(data)?;
    let mut logs = Vec::new();
    for entry in data.root().entries().map_err(file_error(data.path(), "listed"))? {
        if let Some(token) = log_token(&entry.name).filter(|_| entry.kind == Kind::Dir) {
            logs.extend(Summary::of(&data, token)?);
        }
    }
    logs.sort_unstable_by_key(|log| log.token);
    let synced = if json { journals::read(&data).map_err(ReadError::File)?.synced_offsets() } else { BTreeMap::new() };
    let written = if json { write_json(&logs, names, &synced, out) } else { write_table(&logs, names, out) };
    finish(written.and_then(|()| out.flush()).map_err(ReadError::Output))
}

/// One line of it.
struct Summary {
    token: Token,
    segments: usize,
    /// As far as indexes say.
    entries: Option<u64>,
    bytes: u64,
    last_write: SystemTime,
    offset_written: Offset,
}

impl Summary {
    /// `None` if the log has no segment yet.
    fn of(data: &DataDir, token: Token) -> Result<Option<Self>, ReadError> {
        let name = token.to_string();
        let path = data.path().join(&name);
        let dir = data.root().dir(&name).map_err(file_error(&path, "opened"))?;
        let bases = LogFiles::list(&dir).map_err(file_error(&path, "listed"))?.bases;
        let mut summary = Self {
            token,
            segments: 0,
            entries: Some(0),
            bytes: 0,
            last_write: SystemTime::UNIX_EPOCH,
            offset_written: Offset::START,
        };
        for (index, &base) in bases.iter().enumerate() {
            let next = bases.get(index + 1).copied();
            summary.add(&dir, base, next).map_err(file_error(&path.join(segment_name(base)), "inspected"))?;
        }
        Ok((summary.segments > 0).then_some(summary))
    }

    /// A segment and, if it is not the newest, where the next one begins.
    fn add(&mut self, dir: &Dir, base: Offset, next: Option<Offset>) -> io::Result<()> {
        let Some(stat) = stat(dir, base)? else { return Ok(()) };
        let len = match (next, dir.stat(&segment_name(base))?) {
            // One that was given up ends in the next one, and is cut there some time.
            (next, Some(text)) => next.map_or(text.len, |next| text.len.min(next.in_segment(base).0)),
            // Compressed: the names say how long it was.
            (Some(next), None) => next.in_segment(base).0,
            (None, None) => SegmentFile::open(dir, base)?.map_or(Ok(0), |file| file.len())?,
        };
        self.segments += 1;
        self.bytes += len;
        self.last_write = self.last_write.max(stat.modified);
        self.offset_written = end_of(base, len);
        if let Some(entries) = self.entries {
            self.entries = entries_of(dir, base, len)?.map(|more| entries + more);
        }
        Ok(())
    }

    /// RFC 3339, UTC, with that many digits of a second.
    fn last_write(&self, digits: usize) -> String {
        // Only a clock that is thousands of years off makes a time that has no such text.
        let time = jiff::Timestamp::try_from(self.last_write).unwrap_or(jiff::Timestamp::MAX);
        format!("{time:.digits$}")
    }
}

/// Lines of a segment's first `len` bytes: by its index, and what that does not know of by looking, if it is little.
fn entries_of(dir: &Dir, base: Offset, len: u64) -> io::Result<Option<u64>> {
    let index = index_file::read(dir, base)?.unwrap_or_default();
    let (mut entries, mut at) = (0, 0);
    for (_, record) in index.blocks(len) {
        (entries, at) = (entries + u64::from(record.lines), record.end.0);
    }
    if len - at > INDEX_GAP_BYTES_MAX {
        return Ok(None);
    }
    let mut chunk = vec![0; chunk_len(len - at)];
    if at < len {
        let Some(mut file) = SegmentFile::open(dir, base)? else { return Ok(Some(entries)) };
        while at < len {
            let part = chunk_of(&mut chunk, len - at);
            file.read_exact_at(part, at)?;
            entries += u64::from(count_lines(part));
            at += part.len() as u64;
        }
    }
    Ok(Some(entries))
}

fn chunk_len(bytes: u64) -> usize {
    usize::try_from(bytes).map_or(CHUNK_BYTES, |bytes| bytes.min(CHUNK_BYTES))
}

fn write_table(logs: &[Summary], names: Option<&TokenList>, out: &mut dyn Write) -> io::Result<()> {
    let name_of = |log: &Summary| names.and_then(|names| names.name_of(log.token)).unwrap_or("-");
    let longest = logs.iter().map(|log| name_of(log).len()).max().unwrap_or(0).max("NAME".len());
    // Where nobody gave a list, there is no such column.
    let cell = |name: &str| names.map_or_else(String::new, |_| format!("  {name:longest$}"));
    let shown = |entries: Option<u64>| entries.map_or_else(|| "-".to_owned(), |entries| entries.to_string());
    let width = |header: &str, cells: &dyn Fn(&Summary) -> String| {
        logs.iter().map(|log| cells(log).len()).fold(header.len(), usize::max)
    };
    let segments = width("SEGMENTS", &|log| log.segments.to_string());
    let entries = width("ENTRIES", &|log| shown(log.entries));
    let bytes = width("BYTES", &|log| log.bytes.to_string());
    let name = cell("NAME");
    let mut table = format!(
        "{:36}{name}  {:>segments$}  {:>entries$}  {:>bytes$}  LAST WRITE\n",
        "TOKEN", "SEGMENTS", "ENTRIES", "BYTES"
    );
    table.extend(logs.iter().map(|log| {
        let (name, count, time) = (cell(name_of(log)), shown(log.entries), log.last_write(0));
        format!("{}{name}  {:>segments$}  {count:>entries$}  {:>bytes$}  {time}\n", log.token, log.segments, log.bytes)
    }));
    out.write_all(table.as_bytes())
}

/// What no journal tells is there and null, as is the name of a log without one.
fn write_json(
    logs: &[Summary],
    names: Option<&TokenList>,
    synced: &BTreeMap<Token, Offset>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let logs: Vec<_> = logs
        .iter()
        .map(|log| {
            json!({
                "token": log.token.to_string(),
                "name": names.and_then(|names| names.name_of(log.token)),
                "segments": log.segments,
                "entries": log.entries,
                "bytes": log.bytes,
                "last_write": log.last_write(3),
                "offset_written": log.offset_written.0,
                "offset_synced": synced.get(&log.token).map(|offset| offset.0),
            })
        })
        .collect();
    out.write_all(format!("{}\n", serde_json::Value::from(logs)).as_bytes())
}

/// The offset after the segment's last byte; what no offset can express is only ever shown.
pub(super) fn end_of(base: Offset, len: u64) -> Offset {
    Position(len).in_log(base).unwrap_or(Offset(u64::MAX))
}

//! Shows logs: `engine ls` and `engine cat`. Needs no running engine, takes no lock, changes nothing.
//!
//! ```text
//! cat:  list ─► sealed segment, whole ─► ... ─► newest segment, up to its last LF ─► list again
//!        ▲                                                                              │ a newer one?
//!        └──────────── the rest of the one that was newest, then on ◄───────────────────┘
//! ```
//! A segment is complete before the next one is made, so one that has a successor does not change any more, and of the
//! newest only whole lines are shown. What an engine writes while `cat` runs is shown as far as `cat` comes across it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;

use super::journals;
use super::show::{Style, whole_chars};
use super::{CHUNK_BYTES, LogFiles, chunk_of, file_error, log_token, whole_lines_end};
use crate::error::{Damage, ReadError};
use crate::segment::{Offset, Position, segment_name};
use crate::sys::DataDir;
use crate::sys::file::{Access, Dir, Kind};
use crate::wire::Token;

/// Shows every log of the data directory, by token: a table, or one JSON document. A reader that went away is no error.
///
/// # Errors
/// When the data directory or a log cannot be read, or the output not written.
pub fn ls(data: &Path, json: bool, out: &mut dyn Write) -> Result<(), ReadError> {
    let data = open(data)?;
    let mut logs = Vec::new();
    for entry in data.root().entries().map_err(file_error(data.path(), "listed"))? {
        if let Some(token) = log_token(&entry.name).filter(|_| entry.kind == Kind::Dir) {
            logs.extend(Summary::of(&data, token)?);
        }
    }
    logs.sort_unstable_by_key(|log| log.token);
    let synced = if json { synced_offsets(&data)? } else { BTreeMap::new() };
    let written = if json { write_json(&logs, &synced, out) } else { write_table(&logs, out) };
    finish(written.and_then(|()| out.flush()).map_err(ReadError::Output))
}

/// Shows the entries of a log in order. A reader that went away is no error. Writes large pieces: an `out` with a
/// buffer of its own gains nothing.
///
/// # Errors
/// When there is no such log, it cannot be read, or the output not written. Damage is told after everything that is
/// there was shown.
pub fn cat(data: &Path, token: Token, style: Style, out: &mut dyn Write) -> Result<(), ReadError> {
    let data = open(data)?;
    let path = data.path().join(token.to_string());
    let no_log = || ReadError::NoLog { token, data: data.path().to_owned() };
    let dir = match data.root().dir(&token.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_log()),
        other => other.map_err(file_error(&path, "opened"))?,
    };
    let mut cat = Cat { dir, path, style, out, chunk: vec![0; CHUNK_BYTES], reached: None, damage: None };
    let shown = cat.segments();
    if matches!(shown, Ok(())) && cat.reached.is_none() {
        return Err(no_log());
    }
    finish(shown.and_then(|()| cat.finish()))
}

fn open(path: &Path) -> Result<DataDir, ReadError> {
    let data = DataDir::open_existing(path).map_err(ReadError::Data)?;
    data.read_meta().map_err(ReadError::Data)?;
    Ok(data)
}

/// Whoever read the output has seen enough.
fn finish(result: Result<(), ReadError>) -> Result<(), ReadError> {
    match result {
        Err(ReadError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// One line of `ls`.
struct Summary {
    token: Token,
    segments: usize,
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
        let files = LogFiles::list(&dir).map_err(file_error(&path, "listed"))?;
        let mut summary =
            Self { token, segments: 0, bytes: 0, last_write: SystemTime::UNIX_EPOCH, offset_written: Offset::START };
        for &base in &files.bases {
            let name = segment_name(base);
            let Some(stat) = dir.stat(&name).map_err(file_error(&path.join(&name), "inspected"))? else { continue };
            summary.segments += 1;
            summary.bytes += stat.len;
            summary.last_write = summary.last_write.max(stat.modified);
            summary.offset_written = end_of(base, stat.len);
        }
        Ok((summary.segments > 0).then_some(summary))
    }

    /// RFC 3339, UTC, with that many digits of a second.
    fn last_write(&self, digits: usize) -> String {
        // Only a clock that is thousands of years off makes a time that has no such text.
        let time = jiff::Timestamp::try_from(self.last_write).unwrap_or(jiff::Timestamp::MAX);
        format!("{time:.digits$}")
    }
}

fn write_table(logs: &[Summary], out: &mut dyn Write) -> io::Result<()> {
    let width = |header: &str, largest: Option<u64>| header.len().max(largest.unwrap_or(0).to_string().len());
    let segments = width("SEGMENTS", logs.iter().map(|log| log.segments as u64).max());
    let bytes = width("BYTES", logs.iter().map(|log| log.bytes).max());
    let mut table = format!("{:36}  {:>segments$}  {:>bytes$}  LAST WRITE\n", "TOKEN", "SEGMENTS", "BYTES");
    table.extend(logs.iter().map(|log| {
        let time = log.last_write(0);
        format!("{}  {:>segments$}  {:>bytes$}  {time}\n", log.token, log.segments, log.bytes)
    }));
    out.write_all(table.as_bytes())
}

/// Up to where every log is on the disk, as far as the journals tell.
fn synced_offsets(data: &DataDir) -> Result<BTreeMap<Token, Offset>, ReadError> {
    match journals::read(data) {
        Ok(journals) => Ok(journals.synced_offsets()),
        Err(error) => Err(ReadError::File(error)),
    }
}

/// Nobody has told names and counts of entries: those keys are there and null; so is what no journal tells.
fn write_json(logs: &[Summary], synced: &BTreeMap<Token, Offset>, out: &mut dyn Write) -> io::Result<()> {
    let logs: Vec<_> = logs
        .iter()
        .map(|log| {
            json!({
                "token": log.token.to_string(),
                "name": null,
                "segments": log.segments,
                "entries": null,
                "bytes": log.bytes,
                "last_write": log.last_write(3),
                "offset_written": log.offset_written.0,
                "offset_synced": synced.get(&log.token).map(|offset| offset.0),
            })
        })
        .collect();
    out.write_all(format!("{}\n", serde_json::Value::from(logs)).as_bytes())
}

/// A log while it is shown.
struct Cat<'a> {
    dir: Dir,
    path: PathBuf,
    style: Style,
    out: &'a mut dyn Write,
    chunk: Vec<u8>,
    /// The last segment that was shown, and up to where.
    reached: Option<(Offset, Position)>,
    /// The first that was come across.
    damage: Option<Damage>,
}

impl Cat<'_> {
    fn segments(&mut self) -> Result<(), ReadError> {
        loop {
            let mut bases = LogFiles::list(&self.dir).map_err(file_error(&self.path, "listed"))?.bases;
            bases.retain(|&base| self.reached.is_none_or(|(reached, _)| base >= reached));
            let newest = bases.last().copied();
            if newest <= self.reached.map(|(base, _)| base) {
                return Ok(());
            }
            for base in bases {
                self.segment(base, Some(base) == newest)?;
            }
        }
    }

    fn segment(&mut self, base: Offset, newest: bool) -> Result<(), ReadError> {
        let name = segment_name(base);
        let path = self.path.join(&name);
        let file = self.dir.file(&name, Access::Read).map_err(file_error(&path, "opened"))?;
        let len = file.metadata().map_err(file_error(&path, "inspected"))?.len();
        let end = if newest { whole_lines_end(&file, len, &mut self.chunk) } else { Ok(len) };
        let end = end.map_err(file_error(&path, "read"))?;
        let start = match self.reached {
            Some((reached, position)) if reached == base => position.0,
            Some((reached, position)) => {
                self.check_joint(end_of(reached, position.0), base);
                0
            }
            None => 0,
        };
        self.show(&file, &path, start, end)?;
        self.reached = Some((base, Position(end.max(start))));
        Ok(())
    }

    fn check_joint(&mut self, expected: Offset, found: Offset) {
        if expected == found || self.damage.is_some() {
            return;
        }
        let (expected, found) = (segment_name(expected), segment_name(found));
        self.damage = Some(Damage { path: self.path.clone(), expected, found });
    }

    fn show(&mut self, file: &File, path: &Path, start: u64, end: u64) -> Result<(), ReadError> {
        let exact = self.style == Style::default();
        let mut at = start;
        while at < end {
            let part = chunk_of(&mut self.chunk, end - at);
            file.read_exact_at(part, at).map_err(file_error(path, "read"))?;
            let last = end - at == part.len() as u64;
            let take = if exact || last { part.len() } else { whole_chars(part) };
            self.style.write(&part[..take], self.out).map_err(ReadError::Output)?;
            at += take as u64;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ReadError> {
        self.out.flush().map_err(ReadError::Output)?;
        self.damage.map_or(Ok(()), |damage| Err(ReadError::Damage(damage)))
    }
}

/// The offset after the segment's last byte; what no offset can express is only ever shown.
fn end_of(base: Offset, len: u64) -> Offset {
    Position(len).in_log(base).unwrap_or(Offset(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::segment::META;
    use std::fs;
    use std::os::unix::fs::symlink;

    const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    const OTHER: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn data() -> (tempfile::TempDir, DataDir) {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::open(&parent.path().join("data")).unwrap();
        (parent, data)
    }

    fn put(data: &DataDir, token: &str, base: u64, text: &[u8]) -> File {
        let file = File::from(data.create_segment(token.parse().unwrap(), Offset(base)).unwrap());
        file.write_all_at(text, 0).unwrap();
        file
    }

    fn cat_styled(data: &DataDir, style: Style) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        cat(data.path(), TOKEN.parse().unwrap(), style, &mut out).map(|()| out)
    }

    fn cat_exact(data: &DataDir) -> Vec<u8> {
        cat_styled(data, Style::default()).unwrap()
    }

    fn ls_text(data: &DataDir, json: bool) -> String {
        let mut out = Vec::new();
        ls(data.path(), json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Fails as a pipe does whose reader went away.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn cat_shows_exact_bytes_across_segments() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\x1b\n\n");
        put(&data, TOKEN, 4, b"\xff\r\n");
        put(&data, OTHER, 0, b"other\n");
        assert_eq!(cat_exact(&data), b"a\x1b\n\n\xff\r\n");
    }

    #[test]
    fn an_unfinished_line_is_not_shown() {
        let (_parent, data) = data();
        let file = put(&data, TOKEN, 0, b"one\ntw");
        assert_eq!(cat_exact(&data), b"one\n");
        file.write_all_at(b"o\n", 6).unwrap();
        assert_eq!(cat_exact(&data), b"one\ntwo\n");
        put(&data, OTHER, 0, b"");
        let mut out = Vec::new();
        cat(data.path(), OTHER.parse().unwrap(), Style::default(), &mut out).unwrap();
        assert_eq!(out, b"");
    }

    #[test]
    fn styles_hold_across_chunks() {
        let (_parent, data) = data();
        let text = format!("{}\u{2028}\u{1b}\n", "x".repeat(CHUNK_BYTES - 1));
        put(&data, TOKEN, 0, text.as_bytes());
        let newlines = text.replace('\u{2028}', "\n");
        let style = Style { newlines: true, escape: false };
        assert!(cat_styled(&data, style).unwrap() == newlines.as_bytes());
        let style = Style { newlines: true, escape: true };
        assert!(cat_styled(&data, style).unwrap() == newlines.replace('\u{1b}', "\\x1b").as_bytes());
        assert!(cat_exact(&data) == text.as_bytes());
    }

    #[test]
    fn a_gap_is_told_after_everything_was_shown() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\n");
        put(&data, TOKEN, 7, b"b\n");
        let mut out = Vec::new();
        let error = cat(data.path(), TOKEN.parse().unwrap(), Style::default(), &mut out).unwrap_err();
        assert_eq!((out.as_slice(), error.exit()), (&b"a\nb\n"[..], Exit::Damage));
        let expected = "expected 00000000000000000002.log, found 00000000000000000007.log";
        assert!(error.to_string().contains(expected), "{error}");
    }

    /// A writer that goes on whenever the reader has shown something: finishes its line, rolls, begins the next line.
    struct Rolling<'a> {
        data: &'a DataDir,
        active: File,
        base: u64,
        rolls_left: usize,
        shown: Vec<u8>,
    }

    impl Write for Rolling<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.shown.extend_from_slice(bytes);
            if self.rolls_left > 0 {
                self.rolls_left -= 1;
                let end = self.active.metadata()?.len();
                self.active.write_all_at(b"ished\n", end)?;
                self.base += end + 6;
                self.active = put(self.data, TOKEN, self.base, b"next\nunfin");
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn cat_keeps_up_with_a_writer_that_rolls() {
        let (_parent, data) = data();
        let active = put(&data, TOKEN, 0, b"first\nunfin");
        let mut out = Rolling { data: &data, active, base: 0, rolls_left: 3, shown: Vec::new() };
        cat(data.path(), TOKEN.parse().unwrap(), Style::default(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out.shown).unwrap(), "first\n".to_owned() + &"unfinished\nnext\n".repeat(3));
        assert_eq!(out.rolls_left, 0);
    }

    #[test]
    fn ls_is_a_table_by_token() {
        let (_parent, data) = data();
        assert_eq!(ls_text(&data, false), format!("{:36}  SEGMENTS  BYTES  LAST WRITE\n", "TOKEN"));
        put(&data, TOKEN, 0, b"a\n");
        put(&data, TOKEN, 2, b"b\nc").set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_764_000_000_250);
        put(&data, OTHER, 0, b"1234567\n").set_modified(old).unwrap();
        fs::create_dir(data.path().join("lost+found")).unwrap();
        symlink(data.path().join(TOKEN), data.path().join(TOKEN.replace('2', "3"))).unwrap();
        let table = ls_text(&data, false);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], format!("{OTHER}         1      8  2025-11-24T16:00:00Z"));
        assert!(lines[2].starts_with(&format!("{TOKEN}         2      5  2")), "{table}");
    }

    #[test]
    fn ls_json_is_one_document() {
        let (_parent, data) = data();
        assert_eq!(ls_text(&data, true), "[]\n");
        put(&data, TOKEN, 0, b"a\n");
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_764_000_000_250);
        put(&data, TOKEN, 2, b"bb\n").set_modified(time).unwrap();
        data.open_segment(TOKEN.parse().unwrap(), Offset(0), 2).map(File::from).unwrap().set_modified(time).unwrap();
        let document: serde_json::Value = serde_json::from_str(&ls_text(&data, true)).unwrap();
        let log = &document[0];
        assert_eq!(log["token"], TOKEN);
        assert_eq!((&log["segments"], &log["bytes"], &log["offset_written"]), (&json!(2), &json!(5), &json!(5)));
        for unknown in ["name", "entries", "offset_synced"] {
            assert_eq!(log.get(unknown), Some(&serde_json::Value::Null), "{unknown}");
        }
        assert_eq!(log["last_write"], "2025-11-24T16:00:00.250Z");
    }

    #[test]
    fn wrong_names_and_directories_are_told_apart() {
        let (parent, data) = data();
        assert_eq!(cat_styled(&data, Style::default()).unwrap_err().exit(), Exit::Usage);
        fs::create_dir(data.path().join(TOKEN)).unwrap();
        let error = cat_styled(&data, Style::default()).unwrap_err();
        assert!(error.to_string().starts_with("2bfbea1e…: no such log in "), "{error}");
        let error = ls(&parent.path().join("missing"), false, &mut Vec::new()).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
        assert!(error.to_string().contains("does not exist; give the engine's data directory with --data"), "{error}");
        fs::write(data.path().join(META), "format=9\n").unwrap();
        assert_eq!(ls(data.path(), false, &mut Vec::new()).unwrap_err().exit(), Exit::Environment);
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\n");
        cat(data.path(), TOKEN.parse().unwrap(), Style::default(), &mut Broken).unwrap();
        ls(data.path(), false, &mut Broken).unwrap();
        ls(data.path(), true, &mut Broken).unwrap();
    }
}

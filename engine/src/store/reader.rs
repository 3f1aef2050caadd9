//! Shows the entries of a log: `engine cat` and `engine tail`. Needs no running engine, takes no lock, changes nothing.
//!
//! ```text
//! cat:  list ─► sealed segment, whole ─► ... ─► newest segment, up to its last LF ─► list again
//!        ▲                                                                              │ a newer one?
//!        └──────────── the rest of the one that was newest, then on ◄───────────────────┘
//! ```
//! A segment is complete before the next one is made, so one that has a successor does not change any more, and of the
//! newest only whole lines are shown. `cat` shows what an engine writes meanwhile as far as it comes across it; `tail -f`
//! goes round for ever. A segment may become a compressed one at any time, or be gone: what was to be shown of it is
//! named then, and the next one that is left goes on.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::list::end_of;
use super::look_up::{Window, end_until, first_since, last_entries};
use super::segment_file::{SegmentFile, is_repeated};
use super::show::{Style, whole_chars};
use super::{CHUNK_BYTES, LogFiles, chunk_of, file_error, last_lf};
use crate::error::{Damage, ReadError, shown};
use crate::limits::TAIL_POLL;
use crate::segment::{Offset, packed_name, segment_name};
use crate::sys::DataDir;
use crate::sys::file::Dir;
use crate::wire::Token;

/// Bytes of a log that were to be shown and were deleted before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The log's directory.
    pub path: PathBuf,
    /// The first of them.
    pub from: Offset,
    /// The byte after the last.
    pub to: Offset,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, from, to } = self;
        let path = shown(path);
        write!(f, "{path}: offsets {} to {} were deleted before they were read; going on after them", from.0, to.0 - 1)
    }
}

/// Where entries go, and who hears of those that are missing.
pub struct Output<'a> {
    /// Gets large pieces: a buffer of its own gains nothing.
    pub out: &'a mut dyn Write,
    /// How they look.
    pub style: Style,
    /// Told at once.
    pub missing: Box<dyn FnMut(&Missing) + 'a>,
}

impl fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("style", &self.style).finish_non_exhaustive()
    }
}

/// Shows the entries of a log in order. A reader that went away is no error.
///
/// # Errors
/// When there is no such log, it cannot be read, or the output not written. Damage is told after everything that is
/// there was shown.
pub fn cat(data: &Path, token: Token, window: Window, output: Output<'_>) -> Result<(), ReadError> {
    let mut reading = Reading::of(data, token, output)?;
    reading.until = window.until;
    let shown = reading.begin_since(window.since).and_then(|()| reading.show_to_end());
    finish(shown.and_then(|()| reading.finish()))
}

/// Shows the last entries of a log and, if it follows, those that come from then on, for ever.
///
/// # Errors
/// As [`cat`].
pub fn tail(data: &Path, token: Token, entries: u64, follow: bool, output: Output<'_>) -> Result<(), ReadError> {
    let mut reading = Reading::of(data, token, output)?;
    let shown = reading.begin_before_end(entries).and_then(|()| reading.show_to_end());
    let followed = shown.and_then(|()| if follow { reading.follow() } else { Ok(()) });
    finish(followed.and_then(|()| reading.finish()))
}

/// The data directory, for a command that reads.
pub(super) fn open(path: &Path) -> Result<DataDir, ReadError> {
    let data = DataDir::open_existing(path).map_err(ReadError::Data)?;
    data.read_meta().map_err(ReadError::Data)?;
    Ok(data)
}

/// A log's directory; an error if there is no such log.
pub(super) fn open_log(data: &DataDir, token: Token) -> Result<(Dir, PathBuf), ReadError> {
    let path = data.path().join(token.to_string());
    match data.root().dir(&token.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_log(data.path(), token)),
        other => Ok((other.map_err(file_error(&path, "opened"))?, path)),
    }
}

fn no_log(data: &Path, token: Token) -> ReadError {
    ReadError::NoLog { token, data: data.to_owned() }
}

/// Whoever read the output has seen enough.
pub(super) fn finish(result: Result<(), ReadError>) -> Result<(), ReadError> {
    match result {
        Err(ReadError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// What to make of a refused step with a segment: one that is compressed may be damaged.
pub(super) fn segment_error(dir: &Path, base: Offset, tried: &'static str) -> impl FnOnce(io::Error) -> ReadError {
    let (packed, plain) = (dir.join(packed_name(base)), dir.join(segment_name(base)));
    move |error| match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            let path = if packed.exists() { packed } else { plain };
            ReadError::Damage(Damage { path, expected: "a whole segment".to_owned(), found: error.to_string() })
        }
        _ => file_error(&plain, tried)(error).into(),
    }
}

/// A log while it is shown.
struct Reading<'a> {
    dir: Dir,
    path: PathBuf,
    output: Output<'a>,
    until: Option<SystemTime>,
    chunk: Vec<u8>,
    /// The last segment that was shown, and up to where.
    reached: Option<(Offset, u64)>,
    /// The newest segment, as long as it is that.
    newest: Option<(Offset, SegmentFile)>,
    /// What comes from here on was not asked for.
    is_over: bool,
    /// The first that was come across.
    damage: Option<Damage>,
}

impl<'a> Reading<'a> {
    fn of(data: &Path, token: Token, output: Output<'a>) -> Result<Self, ReadError> {
        let data = open(data)?;
        let (dir, path) = open_log(&data, token)?;
        let chunk = vec![0; CHUNK_BYTES];
        let reading =
            Self { dir, path, output, until: None, chunk, reached: None, newest: None, is_over: false, damage: None };
        if reading.bases()?.is_empty() { Err(no_log(data.path(), token)) } else { Ok(reading) }
    }

    fn bases(&self) -> Result<Vec<Offset>, ReadError> {
        Ok(LogFiles::list(&self.dir).map_err(file_error(&self.path, "listed"))?.bases)
    }

    fn begin_since(&mut self, since: Option<SystemTime>) -> Result<(), ReadError> {
        let Some(since) = since else { return Ok(()) };
        let found = first_since(&self.dir, &self.bases()?, since, &mut self.chunk);
        self.reached = found.map_err(file_error(&self.path, "searched"))?;
        Ok(())
    }

    /// Goes back from the end, segment by segment, until there are enough.
    fn begin_before_end(&mut self, entries: u64) -> Result<(), ReadError> {
        let (mut left, mut next) = (entries, None);
        for base in self.bases()?.into_iter().rev() {
            let error = || segment_error(&self.path, base, "read");
            // One that is gone was older than all that is left.
            let Some(mut file) = SegmentFile::open(&self.dir, base).map_err(error())? else { break };
            let len = file.len().map_err(error())?;
            // The end of one that was given up is in the next one too.
            let len = next.replace(base).map_or(len, |next: Offset| len.min(next.in_segment(base).0));
            let whole = last_lf(len, &mut self.chunk, |part, at| file.read_exact_at(part, at)).map_err(error())?;
            let (start, lacking) = last_entries(&mut file, whole, left, &mut self.chunk).map_err(error())?;
            (self.reached, left) = (Some((base, start)), lacking);
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Shows all there is, and what comes meanwhile.
    fn show_to_end(&mut self) -> Result<(), ReadError> {
        loop {
            let newest = self.pass()?;
            if self.is_over || self.bases()?.last().copied() <= newest {
                return Ok(());
            }
        }
    }

    /// Until segments do not join.
    fn follow(&mut self) -> Result<(), ReadError> {
        while self.damage.is_none() {
            self.output.out.flush().map_err(ReadError::Output)?;
            std::thread::sleep(TAIL_POLL);
            self.pass()?;
        }
        Ok(())
    }

    /// Shows what there is from where the last pass ended. Says which segment was the newest.
    fn pass(&mut self) -> Result<Option<Offset>, ReadError> {
        let mut bases = self.bases()?;
        bases.retain(|&base| self.reached.is_none_or(|(reached, _)| base >= reached));
        let newest = bases.last().copied();
        for base in bases {
            self.segment(base, Some(base) == newest)?;
            if self.is_over {
                break;
            }
        }
        Ok(newest)
    }

    fn segment(&mut self, base: Offset, newest: bool) -> Result<(), ReadError> {
        let file = match self.newest.take() {
            Some((open, file)) if open == base => Some(file),
            _ => SegmentFile::open(&self.dir, base).map_err(segment_error(&self.path, base, "opened"))?,
        };
        // If it is gone, the next one does not join.
        let Some(mut file) = file else { return Ok(()) };
        let start = match self.reached {
            Some((reached, position)) if reached == base => position,
            Some((reached, position)) => self.joint(reached, position, base)?,
            None => 0,
        };
        let end = self.end(base, &mut file, newest).map_err(segment_error(&self.path, base, "read"))?;
        self.show(base, &mut file, start, end)?;
        self.reached = Some((base, end.max(start)));
        self.newest = newest.then_some((base, file));
        Ok(())
    }

    /// Up to where a segment is shown.
    fn end(&mut self, base: Offset, file: &mut SegmentFile, newest: bool) -> io::Result<u64> {
        let mut end = file.len()?;
        if newest {
            end = last_lf(end, &mut self.chunk, |part, at| file.read_exact_at(part, at))?;
        }
        if let Some(until) = self.until {
            let wanted = end_until(&self.dir, base, file, end, until, &mut self.chunk)?;
            self.is_over = wanted < end;
            end = wanted;
        }
        Ok(end)
    }

    /// From where the next segment is shown. The end of one that was given up is in the next one too, until it is cut: that
    /// was shown already.
    fn joint(&mut self, before: Offset, shown: u64, base: Offset) -> Result<u64, ReadError> {
        let expected = end_of(before, shown);
        if before < base && base < expected && is_repeated(&self.dir, before, base) {
            return Ok(expected.in_segment(base).0);
        }
        self.check_joint(expected, base)?;
        Ok(0)
    }

    /// Where a segment does not begin at the end of the one before it: if that one is gone too, what lies between was
    /// deleted, oldest first, as retention does.
    fn check_joint(&mut self, expected: Offset, found: Offset) -> Result<(), ReadError> {
        if expected == found {
            return Ok(());
        }
        let before = self.reached.map(|(base, _)| base);
        let is_gone = !self.bases()?.iter().any(|&base| Some(base) == before);
        if is_gone && expected < found {
            (self.output.missing)(&Missing { path: self.path.clone(), from: expected, to: found });
        } else if self.damage.is_none() {
            let (expected, found) = (segment_name(expected), segment_name(found));
            self.damage = Some(Damage { path: self.path.clone(), expected, found });
        }
        Ok(())
    }

    fn show(&mut self, base: Offset, file: &mut SegmentFile, start: u64, end: u64) -> Result<(), ReadError> {
        let style = self.output.style;
        let exact = style == Style::default();
        let mut at = start;
        while at < end {
            let part = chunk_of(&mut self.chunk, end - at);
            file.read_exact_at(part, at).map_err(segment_error(&self.path, base, "read"))?;
            let last = end - at == part.len() as u64;
            let take = if exact || last { part.len() } else { whole_chars(part) };
            style.write(&part[..take], self.output.out).map_err(ReadError::Output)?;
            at += take as u64;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ReadError> {
        self.output.out.flush().map_err(ReadError::Output)?;
        self.damage.map_or(Ok(()), |damage| Err(ReadError::Damage(damage)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::segment::META;
    use crate::store::list::ls;
    use crate::store::segment_file::Packer;
    use crate::wire::TokenList;
    use serde_json::json;
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, symlink};

    const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    const OTHER: &str = "00112233-4455-6677-8899-aabbccddeeff";

    fn data() -> (tempfile::TempDir, DataDir) {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::open(&parent.path().join("data")).unwrap();
        (parent, data)
    }

    fn put(data: &DataDir, token: &str, base: u64, text: &[u8]) -> File {
        let file = File::from(data.create_segment(token.parse::<Token>().unwrap(), Offset(base)).unwrap());
        file.write_all_at(text, 0).unwrap();
        file
    }

    fn cat_styled(data: &DataDir, style: Style) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        cat_to(data, TOKEN, style, &mut out).map(|()| out)
    }

    /// Nothing is missing.
    fn cat_to(data: &DataDir, token: &str, style: Style, out: &mut dyn Write) -> Result<(), ReadError> {
        let output = Output { out, style, missing: Box::new(|missing| panic!("{missing}")) };
        cat(data.path(), token.parse().unwrap(), Window::default(), output)
    }

    fn tail_text(data: &DataDir, entries: u64) -> String {
        let mut out = Vec::new();
        let output =
            Output { out: &mut out, style: Style::default(), missing: Box::new(|missing| panic!("{missing}")) };
        tail(data.path(), TOKEN.parse().unwrap(), entries, false, output).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Compresses a segment as an engine does.
    fn pack(data: &DataDir, token: &str, base: u64) {
        let dir = data.path().join(token);
        let text = fs::read(dir.join(segment_name(Offset(base)))).unwrap();
        let mut packer = Packer::new(File::create(dir.join(packed_name(Offset(base)))).unwrap()).unwrap();
        packer.push(&text).unwrap();
        packer.finish().unwrap();
        remove(data, token, base);
    }

    fn remove(data: &DataDir, token: &str, base: u64) {
        fs::remove_file(data.path().join(token).join(segment_name(Offset(base)))).unwrap();
    }

    fn cat_exact(data: &DataDir) -> Vec<u8> {
        cat_styled(data, Style::default()).unwrap()
    }

    fn ls_text(data: &DataDir, json: bool) -> String {
        ls_named(data, None, json)
    }

    fn ls_named(data: &DataDir, names: Option<&TokenList>, json: bool) -> String {
        let mut out = Vec::new();
        ls(data.path(), names, json, &mut out).unwrap();
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
    fn compressed_segments_read_like_others() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\nbb\n");
        put(&data, TOKEN, 5, b"c\n");
        put(&data, TOKEN, 7, b"d\nee\n");
        let plain = (cat_exact(&data), tail_text(&data, 4), ls_text(&data, true));
        for base in [0, 5] {
            let file = data.open_segment(TOKEN.parse::<Token>().unwrap(), Offset(base), if base == 0 { 5 } else { 2 });
            let modified = File::from(file.unwrap()).metadata().unwrap().modified().unwrap();
            pack(&data, TOKEN, base);
            let packed = File::open(data.path().join(TOKEN).join(packed_name(Offset(base)))).unwrap();
            packed.set_modified(modified).unwrap();
        }
        assert_eq!(plain.1, "bb\nc\nd\nee\n");
        assert_eq!((cat_exact(&data), tail_text(&data, 4), ls_text(&data, true)), plain);
        // While both are there, the text is read.
        fs::write(data.path().join(TOKEN).join(segment_name(Offset(5))), b"C\n").unwrap();
        assert_eq!(cat_exact(&data), b"a\nbb\nC\nd\nee\n");
    }

    #[test]
    fn tail_shows_the_last_entries() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\nb\n");
        put(&data, TOKEN, 4, b"c\nd\nunfin");
        let tails = [0, 1, 2, 3, 4, 5, u64::MAX].map(|entries| tail_text(&data, entries));
        assert_eq!(tails, ["", "d\n", "c\nd\n", "b\nc\nd\n", "a\nb\nc\nd\n", "a\nb\nc\nd\n", "a\nb\nc\nd\n"]);
    }

    /// A reader that was overtaken by retention: it says what it missed, once, and goes on.
    struct Overtaken<'a> {
        data: &'a DataDir,
        shown: Vec<u8>,
    }

    impl Write for Overtaken<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.shown.is_empty() {
                remove(self.data, TOKEN, 0);
                remove(self.data, TOKEN, 2);
            }
            self.shown.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_deleted_before_it_was_read_is_named() {
        let (_parent, data) = data();
        for (base, text) in [(0, b"a\n"), (2, b"b\n"), (4, b"c\n"), (6, b"d\n")] {
            put(&data, TOKEN, base, text);
        }
        let mut out = Overtaken { data: &data, shown: Vec::new() };
        let mut told = Vec::new();
        let missing = Box::new(|missing: &Missing| told.push(missing.to_string()));
        let output = Output { out: &mut out, style: Style::default(), missing };
        cat(data.path(), TOKEN.parse().unwrap(), Window::default(), output).unwrap();
        assert_eq!(out.shown, b"a\nc\nd\n");
        let expected = "2bfbea1e…: offsets 2 to 3 were deleted before they were read; going on after them";
        assert!(told.len() == 1 && told[0].ends_with(expected), "{told:?}");
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
        cat_to(&data, OTHER, Style::default(), &mut out).unwrap();
        assert_eq!(out, b"");
    }

    #[test]
    fn names_come_from_a_list() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\n");
        put(&data, OTHER, 0, b"b\n");
        let list = TokenList::parse(format!("{TOKEN} web.shop\n").as_bytes()).unwrap();
        let shown = ls_named(&data, Some(&list), false);
        let cells: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
        assert_eq!(cells[0], ["TOKEN", "NAME", "SEGMENTS", "ENTRIES"]);
        assert_eq!((&cells[1], &cells[2]), (&vec![OTHER, "-", "1", "1"], &vec![TOKEN, "web.shop", "1", "1"]));
        let json: serde_json::Value = serde_json::from_str(&ls_named(&data, Some(&list), true)).unwrap();
        assert_eq!((&json[0]["name"], &json[1]["name"]), (&json!(null), &json!("web.shop")));
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
        let error = cat_to(&data, TOKEN, Style::default(), &mut out).unwrap_err();
        assert_eq!((out.as_slice(), error.exit()), (&b"a\nb\n"[..], Exit::Damage));
        let expected = "expected 00000000000000000002.log, found 00000000000000000007.log";
        assert!(error.to_string().contains(expected), "{error}");
    }

    /// A segment that was given up, and the next one, which has none of its end yet, a part, all, and more.
    #[test]
    fn what_is_in_two_segments_is_shown_once() {
        for copied in [&b""[..], b"b\n", b"b\nc\n", b"b\nc\nd\n"] {
            let (_parent, data) = data();
            put(&data, TOKEN, 0, b"a\nb\nc\n");
            put(&data, TOKEN, 2, copied);
            let text = if copied.len() > 4 { "a\nb\nc\nd\n" } else { "a\nb\nc\n" };
            assert_eq!(cat_exact(&data), text.as_bytes(), "{}", copied.escape_ascii());
        }
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\nb\nc\n");
        put(&data, TOKEN, 2, b"x\n");
        assert_eq!(cat_styled(&data, Style::default()).unwrap_err().exit(), Exit::Damage);
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
        cat_to(&data, TOKEN, Style::default(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out.shown).unwrap(), "first\n".to_owned() + &"unfinished\nnext\n".repeat(3));
        assert_eq!(out.rolls_left, 0);
    }

    #[test]
    fn ls_is_a_table_by_token() {
        let (_parent, data) = data();
        assert_eq!(ls_text(&data, false), format!("{:36}  SEGMENTS  ENTRIES  BYTES  LAST WRITE\n", "TOKEN"));
        put(&data, TOKEN, 0, b"a\n");
        put(&data, TOKEN, 2, b"b\nc").set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let old = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_764_000_000_250);
        put(&data, OTHER, 0, b"1234567\n").set_modified(old).unwrap();
        fs::create_dir(data.path().join("lost+found")).unwrap();
        symlink(data.path().join(TOKEN), data.path().join(TOKEN.replace('2', "3"))).unwrap();
        let table = ls_text(&data, false);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1], format!("{OTHER}         1        1      8  2025-11-24T16:00:00Z"));
        assert!(lines[2].starts_with(&format!("{TOKEN}         2        2      5  2")), "{table}");
    }

    #[test]
    fn ls_json_is_one_document() {
        let (_parent, data) = data();
        assert_eq!(ls_text(&data, true), "[]\n");
        put(&data, TOKEN, 0, b"a\n");
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_764_000_000_250);
        put(&data, TOKEN, 2, b"bb\n").set_modified(time).unwrap();
        data.open_segment(TOKEN.parse::<Token>().unwrap(), Offset(0), 2)
            .map(File::from)
            .unwrap()
            .set_modified(time)
            .unwrap();
        let document: serde_json::Value = serde_json::from_str(&ls_text(&data, true)).unwrap();
        let log = &document[0];
        assert_eq!(log["token"], TOKEN);
        assert_eq!((&log["segments"], &log["bytes"], &log["offset_written"]), (&json!(2), &json!(5), &json!(5)));
        assert_eq!(log["entries"], 2);
        for unknown in ["name", "offset_synced"] {
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
        let error = ls(&parent.path().join("missing"), None, false, &mut Vec::new()).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
        assert!(error.to_string().contains("does not exist; give the engine's data directory with --data"), "{error}");
        fs::write(data.path().join(META), "format=9\n").unwrap();
        assert_eq!(ls(data.path(), None, false, &mut Vec::new()).unwrap_err().exit(), Exit::Environment);
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let (_parent, data) = data();
        put(&data, TOKEN, 0, b"a\n");
        cat_to(&data, TOKEN, Style::default(), &mut Broken).unwrap();
        ls(data.path(), None, false, &mut Broken).unwrap();
        ls(data.path(), None, true, &mut Broken).unwrap();
    }
}

//! The files of one log, read up to a position that is always behind a whole line.
//!
//! ```text
//!  DATA/<token>/<base>.log       segments, base being 20 decimal digits: one is complete as soon as there is a later one
//!  DATA/<token>/<base>.log.zst   the same, compressed: complete in any case, and read only where the text is gone
//!  PATTERN with {token}          one file
//! ```
//!
//! What is behind the last LF is read again the next time: a receiver that was killed in the middle of a line may cut
//! it off when it comes back, and then something else stands there.
//!
//! What a log held before the run is left out: reading begins behind the last whole line of its newest segment.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::payload::SIZE_BYTES_MAX;

/// Bytes of one read: at least two of the longest lines, so that a line always fits.
pub(super) const READ_BYTES: usize = 2 * SIZE_BYTES_MAX;
/// Digits of a segment's base.
const BASE_DIGITS: usize = 20;
/// What a compressed segment's name has more.
const PACKED: &str = ".zst";

/// One log.
#[derive(Debug)]
pub(super) struct Log {
    place: Place,
    /// Index of its token, or `None` if the run does not write to it.
    pub(super) token: Option<usize>,
    file: Option<File>,
    /// Where the next line begins.
    position: u64,
    /// What stands behind the last LF.
    rest_bytes: usize,
}

#[derive(Debug)]
enum Place {
    /// A directory of segments, and the base of the one that is open.
    Segments { directory: PathBuf, base: u64 },
    /// A file.
    Single(PathBuf),
}

/// What reading a log finds.
pub(super) trait Lines {
    /// Lines that were read at once, the last LF included.
    fn lines(&mut self, token: Option<usize>, lines: &[u8]);
    /// What stands behind the last LF of a file that is complete.
    fn torn(&mut self, token: Option<usize>, rest: &[u8]);
}

impl Log {
    pub(super) fn segments(directory: PathBuf, token: Option<usize>) -> Self {
        Self { place: Place::Segments { directory, base: 0 }, token, file: None, position: 0, rest_bytes: 0 }
    }

    pub(super) fn single(path: PathBuf, token: usize) -> Self {
        Self { place: Place::Single(path), token: Some(token), file: None, position: 0, rest_bytes: 0 }
    }

    /// Leaves out all that it holds by now.
    pub(super) fn skip(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if let Place::Segments { directory, base } = &mut self.place {
            let Some(newest) = segments(directory, 0)?.pop() else { return Ok(()) };
            *base = newest;
        }
        if !self.open()? {
            self.leave();
            return Ok(());
        }
        // Open again when there is something to read: of ten thousand logs few may be of the run.
        let Some(file) = self.file.take() else { return Ok(()) };
        let end = file.metadata()?.len();
        let from = end.saturating_sub(buffer.len() as u64);
        let tail = &mut buffer[..(end - from) as usize];
        file.read_exact_at(tail, from)?;
        self.position = memchr::memrchr(b'\n', tail).map_or(from, |last| from + last as u64 + 1);
        Ok(())
    }

    /// Where its files appear.
    pub(super) fn watched(&self) -> &Path {
        match &self.place {
            Place::Segments { directory, .. } => directory,
            Place::Single(path) => path,
        }
    }

    /// Reads all that is new in the open file.
    pub(super) fn read(&mut self, buffer: &mut [u8], lines: &mut impl Lines) -> io::Result<bool> {
        if self.file.is_none() && !self.open()? {
            return self.read_packed(buffer, lines);
        }
        let mut has_news = false;
        while self.read_some(buffer, lines)? {
            has_news = true;
        }
        Ok(has_news)
    }

    /// Reads all that is new, in the open file and in later ones.
    pub(super) fn read_all(&mut self, buffer: &mut [u8], lines: &mut impl Lines) -> io::Result<bool> {
        let Place::Segments { directory, base } = &self.place else { return self.read(buffer, lines) };
        // Listed before reading: a segment with a later one in the list is complete.
        let bases = segments(directory, *base)?;
        let mut has_news = self.read(buffer, lines)?;
        for next in bases {
            if self.base().is_some_and(|base| next > base) {
                self.finish(buffer, lines)?;
                self.move_to(next);
                has_news |= self.read(buffer, lines)?;
            }
        }
        Ok(has_news)
    }

    /// Takes what stands behind the last LF: nothing more will come.
    pub(super) fn finish(&mut self, buffer: &mut [u8], lines: &mut impl Lines) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.rest_bytes > 0) else { return Ok(()) };
        let rest = &mut buffer[..self.rest_bytes];
        file.read_exact_at(rest, self.position)?;
        lines.torn(self.token, rest);
        self.rest_bytes = 0;
        Ok(())
    }

    /// The segment to read.
    fn base(&self) -> Option<u64> {
        match self.place {
            Place::Segments { base, .. } => Some(base),
            Place::Single(_) => None,
        }
    }

    /// Makes another segment the one to read.
    fn move_to(&mut self, next: u64) {
        if let Place::Segments { base, .. } = &mut self.place {
            *base = next;
            (self.file, self.position, self.rest_bytes) = (None, 0, 0);
        }
    }

    /// Has nothing more to do with a segment that is complete: whichever comes next has a higher base.
    fn leave(&mut self) {
        if let Some(base) = self.base() {
            self.move_to(base.saturating_add(1));
        }
    }

    fn open(&mut self) -> io::Result<bool> {
        self.file = match &self.place {
            Place::Segments { directory, base } => open(&directory.join(segment_name(*base)))?,
            Place::Single(path) => open(path)?,
        };
        Ok(self.file.is_some())
    }

    /// Reads a segment that was compressed before it was read to its end, if this is one, from where the text was left.
    fn read_packed(&mut self, buffer: &mut [u8], lines: &mut impl Lines) -> io::Result<bool> {
        let Place::Segments { directory, base } = &self.place else { return Ok(false) };
        let path = directory.join(segment_name(*base) + PACKED);
        let Some(file) = open(&path)? else { return Ok(false) };
        let damaged = |error: io::Error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}{PACKED}: {error}", segment_name(*base)))
        };
        let mut text = zstd::Decoder::new(file)?;
        io::copy(&mut text.by_ref().take(self.position), &mut io::sink()).map_err(damaged)?;
        let mut held = 0;
        loop {
            let count = text.read(&mut buffer[held..]).map_err(damaged)?;
            if count == 0 {
                break;
            }
            held += count;
            let whole = whole_bytes(&buffer[..held], buffer.len());
            lines.lines(self.token, &buffer[..whole]);
            buffer.copy_within(whole..held, 0);
            held -= whole;
        }
        if held > 0 {
            lines.torn(self.token, &buffer[..held]);
        }
        self.leave();
        Ok(true)
    }

    fn read_some(&mut self, buffer: &mut [u8], lines: &mut impl Lines) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let count = file.read_at(buffer, self.position)?;
        let read = &buffer[..count];
        let whole = whole_bytes(read, buffer.len());
        self.position += whole as u64;
        self.rest_bytes = count - whole;
        lines.lines(self.token, &read[..whole]);
        Ok(whole > 0)
    }
}

/// Opens a file; `None` if there is none.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of the whole lines in what was read into a buffer of a length.
fn whole_bytes(read: &[u8], buffer_bytes: usize) -> usize {
    match memchr::memrchr(b'\n', read) {
        Some(last) => last + 1,
        // No line is that long: it is nobody's, and the next LF ends it.
        None if read.len() == buffer_bytes => buffer_bytes,
        None => 0,
    }
}

/// The bases of a directory's segments from a base on, in order, each once.
fn segments(directory: &Path, from: u64) -> io::Result<Vec<u64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(directory)? {
        let base_of = |name: &str| segment_base(name.strip_suffix(PACKED).unwrap_or(name));
        bases.extend(entry?.file_name().to_str().and_then(base_of).filter(|base| *base >= from));
    }
    bases.sort_unstable();
    // While a segment is compressed, both stand there.
    bases.dedup();
    Ok(bases)
}

fn segment_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// The base in the name of a segment that is text; `None` for other names.
pub(super) fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == BASE_DIGITS)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Read {
        lines: String,
        torn: String,
    }

    impl Lines for Read {
        fn lines(&mut self, _: Option<usize>, lines: &[u8]) {
            self.lines.push_str(std::str::from_utf8(lines).unwrap());
        }

        fn torn(&mut self, _: Option<usize>, rest: &[u8]) {
            self.torn.push_str(std::str::from_utf8(rest).unwrap());
        }
    }

    #[test]
    fn lines_are_read_across_reads_and_segments() {
        let data = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(data.path().join(name), text).unwrap();
        let mut log = Log::segments(data.path().to_owned(), Some(0));
        let (mut buffer, mut read) = (vec![0; READ_BYTES], Read::default());
        assert!(!log.read_all(&mut buffer, &mut read).unwrap());
        write("00000000000000000000.log", "one\ntw");
        write("00000000000000000000.idx", "index\n");
        write("current", "one\ntw");
        assert!(log.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "one\n");
        assert!(!log.read_all(&mut buffer, &mut read).unwrap());
        // A receiver that came back has cut the begun line off.
        write("00000000000000000000.log", "one\nTWO\n");
        write("00000000000000000008.log", "three\nfour\nfi");
        assert!(log.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!((read.lines.as_str(), read.torn.as_str()), ("one\nTWO\nthree\nfour\n", ""));
        write("00000000000000000020.log", "six\nse");
        assert!(log.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.torn, "fi");
        log.finish(&mut buffer, &mut read).unwrap();
        assert_eq!((read.lines.as_str(), read.torn.as_str()), ("one\nTWO\nthree\nfour\nsix\n", "fise"));
    }

    #[test]
    fn what_was_there_is_left_out_and_what_rolls_is_not() {
        let data = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(data.path().join(name), text).unwrap();
        let (mut buffer, mut read) = (vec![0; READ_BYTES], Read::default());
        write("00000000000000000000.log", "old\n");
        write("00000000000000000004.log", "old as well\nbeg");
        let mut logs = [(); 2].map(|()| Log::segments(data.path().to_owned(), Some(0)));
        for log in &mut logs {
            log.skip(&mut buffer).unwrap();
        }
        assert!(!logs[0].read_all(&mut buffer, &mut read).unwrap());
        write("00000000000000000004.log", "old as well\nbegun\n");
        assert!(logs[0].read(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "begun\n");
        // A segment that was gone before this one opened it hides none of the later ones.
        fs::remove_file(data.path().join("00000000000000000004.log")).unwrap();
        write("00000000000000000022.log", "new\n");
        for log in &mut logs {
            read.lines.clear();
            assert!(log.read_all(&mut buffer, &mut read).unwrap());
            assert_eq!(read.lines, "new\n");
        }
        let mut empty = Log::segments(data.path().join("none"), Some(0));
        fs::create_dir(data.path().join("none")).unwrap();
        empty.skip(&mut buffer).unwrap();
        fs::write(data.path().join("none/00000000000000000000.log"), "first\n").unwrap();
        read.lines.clear();
        assert!(empty.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "first\n");
        let file = data.path().join("single");
        fs::write(&file, "old\n").unwrap();
        let mut single = Log::single(file.clone(), 0);
        single.skip(&mut buffer).unwrap();
        fs::write(&file, "old\nnew\n").unwrap();
        read.lines.clear();
        assert!(single.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "new\n");
    }

    /// Frames and an empty one that may be skipped, as the seekable format has them.
    fn pack(frames: &[&str]) -> Vec<u8> {
        let mut packed: Vec<u8> =
            frames.iter().flat_map(|text| zstd::encode_all(text.as_bytes(), 0).unwrap()).collect();
        packed.extend([0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        packed
    }

    /// Takes the text's place.
    fn compress(directory: &Path, base: u64, frames: &[&str]) {
        let text = directory.join(segment_name(base));
        fs::write(directory.join(segment_name(base) + PACKED), pack(frames)).unwrap();
        assert!(!text.exists() || fs::remove_file(text).is_ok());
    }

    #[test]
    fn what_was_compressed_meanwhile_is_read_once() {
        let data = tempfile::tempdir().unwrap();
        let write = |base, text: &str| fs::write(data.path().join(segment_name(base)), text).unwrap();
        let (mut buffer, mut read) = (vec![0; READ_BYTES], Read::default());
        write(0, "old\n");
        let [mut open, mut closed] = [(); 2].map(|()| Log::segments(data.path().to_owned(), Some(0)));
        for log in [&mut open, &mut closed] {
            log.skip(&mut buffer).unwrap();
        }
        write(0, "old\none\n");
        assert!(open.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "one\n");
        write(0, "old\none\ntwo\n");
        compress(data.path(), 0, &["old\non", "e\ntwo\n"]);
        // Both are there for a moment.
        write(12, "three\n");
        fs::write(data.path().join("00000000000000000012.log.zst"), pack(&["three\n"])).unwrap();
        compress(data.path(), 18, &["four\nfi", "ve\nsi"]);
        for (log, lines) in [(&mut open, "two\nthree\nfour\nfive\n"), (&mut closed, "one\ntwo\nthree\nfour\nfive\n")] {
            read = Read::default();
            assert!(log.read_all(&mut buffer, &mut read).unwrap());
            assert_eq!((read.lines.as_str(), read.torn.as_str()), (lines, "si"));
            assert!(!log.read_all(&mut buffer, &mut read).unwrap());
            log.finish(&mut buffer, &mut read).unwrap();
            assert_eq!((read.lines.as_str(), read.torn.as_str()), (lines, "si"));
        }
        write(30, "seven\n");
        assert!(closed.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "one\ntwo\nthree\nfour\nfive\nseven\n");
    }

    #[test]
    fn a_log_whose_newest_segment_is_compressed_begins_behind_it() {
        let data = tempfile::tempdir().unwrap();
        let (mut buffer, mut read) = (vec![0; READ_BYTES], Read::default());
        compress(data.path(), 0, &["old\n"]);
        let mut log = Log::segments(data.path().to_owned(), Some(0));
        log.skip(&mut buffer).unwrap();
        assert!(!log.read_all(&mut buffer, &mut read).unwrap());
        fs::write(data.path().join(segment_name(4)), "new\n").unwrap();
        assert!(log.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "new\n");
    }

    #[test]
    fn lines_of_compressed_segments_may_be_as_long_as_any_and_damage_is_an_error() {
        let data = tempfile::tempdir().unwrap();
        let text = format!("{}\n", "x".repeat(SIZE_BYTES_MAX - 1)).repeat(5);
        compress(data.path(), 0, &[&text]);
        let new = || Log::segments(data.path().to_owned(), None);
        let (mut buffer, mut read) = (vec![0; READ_BYTES], Read::default());
        assert!(new().read_all(&mut buffer, &mut read).unwrap());
        assert!(read.lines == text && read.torn.is_empty());
        let mut packed = zstd::encode_all(text.as_bytes(), 0).unwrap();
        packed.truncate(packed.len() / 2);
        fs::write(data.path().join("00000000000000000000.log.zst"), packed).unwrap();
        let error = new().read_all(&mut buffer, &mut read).unwrap_err();
        assert!(error.to_string().starts_with("00000000000000000000.log.zst: "), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_first_segment_may_have_any_base() {
        let data = tempfile::tempdir().unwrap();
        let mut log = Log::segments(data.path().to_owned(), None);
        let (mut buffer, mut read) = (vec![0; READ_BYTES], Read::default());
        fs::write(data.path().join("00000000000000000777.log"), "late\n").unwrap();
        assert!(log.read_all(&mut buffer, &mut read).unwrap());
        assert_eq!(read.lines, "late\n");
    }
}

//! The files of one log, read up to a position that is always behind a whole line.
//!
//! ```text
//!  DATA/<token>/<base>.log   segments, base being 20 decimal digits: one is complete as soon as there is a later one
//!  PATTERN with {token}      one file
//! ```
//!
//! What is behind the last LF is read again the next time: a receiver that was killed in the middle of a line may cut
//! it off when it comes back, and then something else stands there.
//!
//! What a log held before the run is left out: reading begins behind the last whole line of its newest segment.
//!
//! Left out: compressed segments. What a run wrote is read right after it, when none is compressed yet.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::payload::SIZE_BYTES_MAX;

/// Bytes of one read: at least two of the longest lines, so that a line always fits.
pub(super) const READ_BYTES: usize = 2 * SIZE_BYTES_MAX;
/// Digits of a segment's base.
const BASE_DIGITS: usize = 20;

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
            return Ok(false);
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
            if self.move_to(next) {
                self.finish(buffer, lines)?;
                (self.file, self.position) = (None, 0);
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

    /// Makes a segment the one to read; `false` if it is open already.
    fn move_to(&mut self, next: u64) -> bool {
        match &mut self.place {
            Place::Segments { base, .. } if self.file.is_none() || *base != next => {
                *base = next;
                true
            }
            _ => false,
        }
    }

    fn open(&mut self) -> io::Result<bool> {
        let path = match &self.place {
            Place::Segments { directory, base } => directory.join(format!("{base:020}.log")),
            Place::Single(path) => path.clone(),
        };
        match File::open(path) {
            Ok(file) => self.file = Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn read_some(&mut self, buffer: &mut [u8], lines: &mut impl Lines) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let count = file.read_at(buffer, self.position)?;
        let read = &buffer[..count];
        let whole = match memchr::memrchr(b'\n', read) {
            Some(last) => last + 1,
            // No line is that long: it is nobody's, and the next LF ends it.
            None if count == buffer.len() => count,
            None => 0,
        };
        self.position += whole as u64;
        self.rest_bytes = count - whole;
        lines.lines(self.token, &read[..whole]);
        Ok(whole > 0)
    }
}

/// The bases of a directory's segments from a base on, in order.
fn segments(directory: &Path, from: u64) -> io::Result<Vec<u64>> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(directory)? {
        bases.extend(entry?.file_name().to_str().and_then(segment_base).filter(|base| *base >= from));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// The base in a segment's name; `None` for other names.
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

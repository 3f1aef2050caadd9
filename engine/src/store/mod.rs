//! What reads and mends files off the hot path.
//!
//! `recover` makes the data directory ready before an engine listens, `journals` begins what it records; `reader` shows logs while one may be writing.

pub mod journals;
pub mod keep;
pub mod list;
pub mod look_up;
pub mod reader;
pub mod recover;
mod segment_file;
pub mod show;
pub mod verify;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::segment::{
    CURRENT, CURRENT_NEW, Offset, parse_index_name, parse_packed_name, parse_packing_name, parse_segment_name,
};
use crate::sys::file::Dir;
use crate::wire::Token;

/// Bytes of a file that are looked at or copied at a time: large enough that system calls do not count.
const CHUNK_BYTES: usize = 256 * 1024;

/// The names in a log's directory, sorted out.
#[derive(Debug, Default)]
struct LogFiles {
    /// Bases of the segments, ascending, each once.
    bases: Vec<Offset>,
    /// Those of them that are there as text, ascending.
    plain: Vec<Offset>,
    /// Those of them that are there compressed, ascending; of one whose compression is about to be finished both.
    packed: Vec<Offset>,
    /// Compressions that were not finished.
    packing: Vec<Offset>,
    /// Segments, there or not, that have an index.
    indexes: Vec<Offset>,
    current_new: bool,
    /// Names that are none of ours.
    unknown: u64,
}

impl LogFiles {
    fn list(dir: &Dir) -> io::Result<Self> {
        let mut files = Self::default();
        for entry in dir.entries()? {
            match entry.name.as_str() {
                CURRENT => {}
                CURRENT_NEW => files.current_new = true,
                name => files.add(name),
            }
        }
        files.plain.sort_unstable();
        files.packed.sort_unstable();
        files.bases = [&files.plain[..], &files.packed].concat();
        files.bases.sort_unstable();
        files.bases.dedup();
        Ok(files)
    }

    fn is_plain(&self, base: Offset) -> bool {
        self.plain.binary_search(&base).is_ok()
    }

    fn is_packed(&self, base: Offset) -> bool {
        self.packed.binary_search(&base).is_ok()
    }

    fn add(&mut self, name: &str) {
        if let Some(base) = parse_segment_name(name) {
            self.plain.push(base);
        } else if let Some(base) = parse_packed_name(name) {
            self.packed.push(base);
        } else if let Some(base) = parse_packing_name(name) {
            self.packing.push(base);
        } else if let Some(base) = parse_index_name(name) {
            self.indexes.push(base);
        } else {
            self.unknown += 1;
        }
    }
}

/// The token that a name in the data directory stands for: lower case only, as the engine writes it.
fn log_token(name: &str) -> Option<Token> {
    Token::parse(name.as_bytes()).filter(|token| token.to_string() == name)
}

/// Where the whole lines among the first `len` bytes end: after the last LF. The rest may be long.
fn whole_lines_end(file: &File, len: u64, chunk: &mut [u8]) -> io::Result<u64> {
    last_lf(len, chunk, |part, position| file.read_exact_at(part, position))
}

/// The same for bytes that `read` fills in.
fn last_lf(len: u64, chunk: &mut [u8], mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>) -> io::Result<u64> {
    let mut end = len;
    // Nearly every file ends with LF: one byte tells.
    let mut step = 1;
    while end > 0 {
        let part = chunk_of(&mut chunk[..step], end);
        let start = end - part.len() as u64;
        read(part, start)?;
        if let Some(lf) = memchr::memrchr(b'\n', part) {
            return Ok(start + lf as u64 + 1);
        }
        end = start;
        step = chunk.len();
    }
    Ok(0)
}

/// As much of the chunk as `remaining` bytes need.
fn chunk_of(chunk: &mut [u8], remaining: u64) -> &mut [u8] {
    let len = usize::try_from(remaining).map_or(chunk.len(), |remaining| remaining.min(chunk.len()));
    &mut chunk[..len]
}

/// What to make of a refused system call: for `map_err`.
fn file_error(path: &Path, tried: &'static str) -> impl FnOnce(io::Error) -> FileError {
    let path = PathBuf::from(path);
    move |source| FileError { path, tried, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lf_is_found_in_any_chunk() {
        let path = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "\n", "a", "a\n", "a\nb", "\nbcdefghij", "abcdefg\nhi", "abcdefghij"] {
            std::fs::write(path.path(), text).unwrap();
            let whole = text.rfind('\n').map_or(0, |lf| lf as u64 + 1);
            for chunk in 1..=11 {
                let end = whole_lines_end(path.as_file(), text.len() as u64, &mut vec![0; chunk]).unwrap();
                assert_eq!(end, whole, "{text:?} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn only_lower_case_names_are_logs() {
        let name = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
        assert_eq!(log_token(name), name.parse().ok());
        assert_eq!(log_token(&name.to_uppercase()), None);
        assert_eq!(log_token("lost+found"), None);
    }
}

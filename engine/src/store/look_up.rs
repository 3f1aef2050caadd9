//! Where to begin and where to end in a log: by time, and by entries from the end.
//!
//! ```text
//!  segments   |  older  |   since is in here   | …       by the time of their last write, without opening them
//!  blocks               |   |   | ► since      |         by the index of that one, 64 KiB or a minute each
//! ```
//! Entries do not carry times; blocks of an index do. So a look-up is as exact as these are, and errs by giving more:
//! entries of the block that `since` falls into, and of the one that `until` falls into. Times are those of the host's
//! clock when an entry came; where that clock went back, more is given again.

use std::io;
use std::time::{Duration, SystemTime};

use super::last_lf;
use super::segment_file::SegmentFile;
use crate::limits::{INDEX_BLOCK_TIME, INDEX_FLUSH, INDEX_GAP_BYTES_MAX};
use crate::segment::index::Index;
use crate::segment::{Offset, packed_name, segment_name};
use crate::sys::file::{Dir, Stat};
use crate::sys::index_file;

/// Times of last writes come from a clock that lags by some milliseconds.
const SLACK: Duration = Duration::from_secs(1);

/// Which entries of a log to show, by when they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Not those before.
    pub since: Option<SystemTime>,
    /// Not these and those after.
    pub until: Option<SystemTime>,
}

/// The segment and the position that begin with what came at `since`, or with a little before; the newest segment's end
/// if all is older. `None` if there is no segment.
pub(super) fn first_since(
    dir: &Dir,
    bases: &[Offset],
    since: SystemTime,
    chunk: &mut [u8],
) -> io::Result<Option<(Offset, u64)>> {
    let mut place = None;
    for &base in bases {
        // One that is gone by now was the oldest, and its entries with it.
        let Some(found) = stat(dir, base)? else { continue };
        let is_old = found.modified + SLACK < since;
        if is_old && bases.last() != Some(&base) {
            continue;
        }
        let Some(mut file) = SegmentFile::open(dir, base)? else { continue };
        let start = if is_old {
            // What was written since that look is not old.
            found.len
        } else {
            let index = index_file::read(dir, base)?.unwrap_or_default();
            block_since(&index, file.len()?, nanoseconds(since))
        };
        let start = last_lf(start, chunk, |part, position| file.read_exact_at(part, position))?;
        place = Some((base, start));
        if !is_old {
            break;
        }
    }
    Ok(place)
}

/// Where the blocks begin that may hold what came at `since`.
fn block_since(index: &Index, len: u64, since: u64) -> u64 {
    let mut place = (0, 0);
    for (start, record) in index.blocks(len).filter(|(_, record)| !record.approximate) {
        // Where the clock went back, the block before may hold any time.
        if record.time > since || record.time < place.1 {
            break;
        }
        place = (start.0, record.time);
    }
    place.0
}

/// How many of the first `len` bytes of a segment came before `until`, or a little after.
pub(super) fn end_until(
    dir: &Dir,
    base: Offset,
    file: &mut SegmentFile,
    len: u64,
    until: SystemTime,
    chunk: &mut [u8],
) -> io::Result<u64> {
    let until = nanoseconds(until);
    let index = index_file::read(dir, base)?.unwrap_or_default();
    let blocks: Vec<_> = index.blocks(len).collect();
    let covered = blocks.last().map_or(0, |(_, record)| record.end.0);
    let last = blocks.last().map_or(0, |(_, record)| record.time);
    let rest = len - covered;
    // What is in no block yet would fit one, unless the index is far behind.
    let rest_from = if rest > INDEX_GAP_BYTES_MAX {
        last
    } else {
        last.max(nanoseconds(file.modified()? - INDEX_BLOCK_TIME - INDEX_FLUSH - SLACK))
    };
    if rest > 0 && rest_from < until {
        return Ok(len);
    }
    let later = blocks.iter().rev().take_while(|(_, record)| record.time >= until);
    let end = later.last().map_or(covered, |(start, _)| start.0);
    // A block may begin in the middle of a line, whose end came after.
    last_lf(end, chunk, |part, position| file.read_exact_at(part, position))
}

/// Where the last `entries` of the first `len` bytes begin, which end a line; and how many that lacks if all of them are fewer.
pub(super) fn last_entries(file: &mut SegmentFile, len: u64, entries: u64, chunk: &mut [u8]) -> io::Result<(u64, u64)> {
    // The LF before the first of them; the one that ends the last does not count.
    let (mut left, mut end) = (entries, len.saturating_sub(1));
    if entries == 0 || len == 0 {
        return Ok((len, entries));
    }
    while end > 0 {
        let part = super::chunk_of(chunk, end);
        let start = end - part.len() as u64;
        file.read_exact_at(part, start)?;
        for lf in memchr::memrchr_iter(b'\n', part) {
            left -= 1;
            if left == 0 {
                return Ok((start + lf as u64 + 1, 0));
            }
        }
        end = start;
    }
    Ok((0, left - 1))
}

/// What there is of a segment: its text, or what was made of it, which has the time of the text; `None` if it is gone.
pub(super) fn stat(dir: &Dir, base: Offset) -> io::Result<Option<Stat>> {
    match dir.stat(&segment_name(base))? {
        None => dir.stat(&packed_name(base)),
        stat => Ok(stat),
    }
}

/// As indexes count; 1970 for everything before.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Position;
    use crate::segment::index::Record;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Segments of 100 lines of 10 bytes, with blocks of 200 bytes each 100 s, last written 100 s after the last block
    /// began; the newest one has 50 bytes more, in no block.
    fn fixture(segments: u64) -> (tempfile::TempDir, Dir, Vec<Offset>) {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::root(path.path()).unwrap();
        let mut bases = Vec::new();
        for segment in 0..segments {
            let base = Offset(segment * 1000);
            bases.push(base);
            let extra = if segment + 1 == segments { 5 } else { 0 };
            let text: Vec<u8> = (0..100 + extra).flat_map(|line| format!("{line:09}\n").into_bytes()).collect();
            let file = File::create(path.path().join(segment_name(base))).unwrap();
            file.write_all_at(&text, 0).unwrap();
            file.set_modified(at(10_000 + segment * 500 + 500)).unwrap();
            let blocks = (0..5).map(|block| {
                let time = (10_000 + segment * 500 + block * 100) * 1_000_000_000;
                let end = Position((block + 1) * 200);
                (Position(block * 200), Record { time, approximate: false, end, lines: 20, crc32c: 0 })
            });
            index_file::append(&dir, base, &blocks.collect::<Vec<_>>()).unwrap();
        }
        (path, dir, bases)
    }

    #[test]
    fn since_leads_to_the_block_that_it_falls_into() {
        let (path, dir, bases) = fixture(3);
        let since = |seconds| {
            let (base, position) = first_since(&dir, &bases, at(seconds), &mut [0; 64]).unwrap().unwrap();
            (base.0, position)
        };
        assert_eq!(since(0), (0, 0));
        assert_eq!(since(10_099), (0, 0));
        assert_eq!(since(10_100), (0, 200));
        assert_eq!(since(10_450), (0, 800));
        assert_eq!(since(10_502), (1000, 0));
        assert_eq!(since(11_399), (2000, 600));
        assert_eq!(since(11_450), (2000, 800));
        // All is older: what comes next is not.
        assert_eq!(since(20_000), (2000, 1050));
        std::fs::remove_file(path.path().join(segment_name(Offset(0)))).unwrap();
        assert_eq!(since(0), (1000, 0));
        assert_eq!(first_since(&dir, &[], at(0), &mut [0; 64]).unwrap(), None);
    }

    #[test]
    fn until_ends_with_the_block_that_it_falls_into() {
        let (path, dir, bases) = fixture(2);
        let until = |base: Offset, len, seconds| {
            let mut file = SegmentFile::open(&dir, base).unwrap().unwrap();
            end_until(&dir, base, &mut file, len, at(seconds), &mut [0; 64]).unwrap()
        };
        assert_eq!(until(bases[0], 1000, 10_000), 0);
        assert_eq!(until(bases[0], 1000, 10_001), 200);
        assert_eq!(until(bases[0], 1000, 10_100), 200);
        assert_eq!(until(bases[0], 1000, 99_999), 1000);
        // What is in no block came in the last minute before the last write, at 11,000.
        assert_eq!(until(bases[1], 1050, 10_930), 1000);
        assert_eq!(until(bases[1], 1050, 10_950), 1050);
        std::fs::remove_file(path.path().join(crate::segment::index_name(bases[0]))).unwrap();
        assert_eq!(until(bases[0], 1000, 10_450), 1000);
    }

    #[test]
    fn times_that_are_not_known_hide_nothing() {
        let record = |time, approximate, end| Record { time, approximate, end: Position(end), lines: 1, crc32c: 0 };
        let records =
            vec![record(100, false, 10), record(100, true, 20), record(300, false, 30), record(200, false, 40)];
        let index = Index { records, damaged_at: None };
        let since = |time| block_since(&index, 40, time);
        // The second block came between 100 and 300, the clock went back before the last.
        assert_eq!([50, 100, 299, 300, 400].map(since), [0, 0, 0, 20, 20]);
    }

    #[test]
    fn entries_are_counted_from_the_end() {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::root(path.path()).unwrap();
        for (text, entries, found) in [
            ("a\nbb\n\nc\n", 1, (6, 0)),
            ("a\nbb\n\nc\n", 2, (5, 0)),
            ("a\nbb\n\nc\n", 3, (2, 0)),
            ("a\nbb\n\nc\n", 4, (0, 0)),
            ("a\nbb\n\nc\n", 6, (0, 2)),
            ("a\nbb\n\nc\n", 0, (8, 0)),
            ("\n", 1, (0, 0)),
            ("\n", 2, (0, 1)),
            ("", 3, (0, 3)),
        ] {
            std::fs::write(path.path().join(segment_name(Offset(0))), text).unwrap();
            let mut file = SegmentFile::open(&dir, Offset(0)).unwrap().unwrap();
            for chunk in 1..=text.len() + 1 {
                let place = last_entries(&mut file, text.len() as u64, entries, &mut vec![0; chunk]).unwrap();
                assert_eq!(place, found, "{entries} of {text:?} in chunks of {chunk}");
            }
        }
    }
}

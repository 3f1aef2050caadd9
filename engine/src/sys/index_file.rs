//! Index files: read by whoever looks something up, extended by file threads, completed by the control side.
//!
//! ```text
//! <base>.log   |    block    |  block  |   in no block yet   |     append: the next blocks, each where the last one ended
//! <base>.idx   | H |  record | record  |                           a gap before them, or an index that is gone: from the text
//! ```
//! Invariants: one change at a time in the process, and none that waits for the text of a whole segment; a record is written
//! behind the bytes that it describes; records that reach past a block that is appended make room for it. A crash may leave
//! half a record, or an index that is ahead of a segment that was cut: the next change mends it. Nothing here is synced: after
//! a power cut an index may have holes, and recovery takes them away.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::file::{Access, Dir};
use crate::limits::{INDEX_BLOCK_BYTES, INDEX_BYTES_MAX, INDEX_GAP_BYTES_MAX};
use crate::segment::checksum;
use crate::segment::index::{Index, RECORD_BYTES, Record, count_lines, header};
use crate::segment::{Offset, Position, index_name, segment_name};

/// Two threads would each write its own records to one place.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The segment's index; `None` if there is none, or it is longer than any index.
///
/// # Errors
/// Those of open and read.
pub fn read(dir: &Dir, base: Offset) -> io::Result<Option<Index>> {
    let file = match dir.file(&index_name(base), Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(INDEX_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= INDEX_BYTES_MAX).then(|| Index::parse(base, &bytes)))
}

/// Appends blocks, in order: where each begins, and its record. A gap before them is filled from the segment's text if
/// it is small: a large one waits for [`complete`].
///
/// # Errors
/// Those of the system calls; `NotFound` if the segment is gone.
pub fn append(dir: &Dir, base: Offset, blocks: &[(Position, Record)]) -> io::Result<()> {
    let _alone = lock();
    let file = open(dir, base)?;
    if file.metadata()?.len() >= INDEX_BYTES_MAX {
        return Ok(());
    }
    if let Some(end) = tidy_end(&file, blocks)? {
        return file.write_all_at(&encoded(blocks.iter().map(|(_, record)| record)), end);
    }
    let mut change = Change::of(file, base)?;
    for (start, record) in blocks {
        if record.end <= change.index.end() {
            continue;
        }
        change.drop_past(*start);
        let gap = start.0 - change.index.end().0;
        if gap > INDEX_GAP_BYTES_MAX {
            break;
        }
        change.fill(dir, base, start.0)?;
        change.index.records.push(*record);
    }
    change.write()
}

/// Makes the index say something of every byte of a segment of `len` bytes, if it lacks at most `gap_max` of them; says
/// whether it changed anything. Only for a segment that is there as text.
///
/// # Errors
/// Those of the system calls; `NotFound` if the segment is gone.
pub fn complete(dir: &Dir, base: Offset, len: u64, gap_max: u64) -> io::Result<bool> {
    if len == 0 {
        return Ok(false);
    }
    loop {
        let alone = lock();
        let file = open(dir, base)?;
        if last_end(&file)?.is_some_and(|(_, end)| end.0 == len) {
            return Ok(false);
        }
        let mut change = Change::of(file, base)?;
        let is_whole = change.index.end().0 == len && change.is_tidy();
        if is_whole || change.len >= INDEX_BYTES_MAX || len.saturating_sub(change.index.end().0) > gap_max {
            return Ok(false);
        }
        drop(alone);
        // A whole segment takes its time, and nobody who begins the next one waits for that.
        let seen = change.index.clone();
        change.drop_past(Position(len));
        change.fill(dir, base, len)?;
        let _alone = lock();
        if Change::of(open(dir, base)?, base)?.index == seen {
            change.write()?;
            return Ok(true);
        }
    }
}

fn lock() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes away what makes no sense in an index, after a power cut: it was never synced.
///
/// # Errors
/// Those of the system calls.
pub fn mend(dir: &Dir, base: Offset) -> io::Result<()> {
    let Some(damaged_at) = read(dir, base)?.and_then(|index| index.damaged_at) else { return Ok(()) };
    // A record says where its block ends, and so where the next one begins: what is behind is of no use.
    dir.file(&index_name(base), Access::Write)?.set_len(damaged_at as u64)
}

/// Opens the index, and makes it first if it is missing and its segment is not.
fn open(dir: &Dir, base: Offset) -> io::Result<File> {
    match dir.file(&index_name(base), Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.stat(&segment_name(base))?.is_none() {
                return Err(error);
            }
            dir.new_file(&index_name(base), Access::ReadWrite)
        }
        other => other,
    }
}

/// Where the file ends, if the blocks just go on there: what nearly always is so.
fn tidy_end(file: &File, blocks: &[(Position, Record)]) -> io::Result<Option<u64>> {
    let joins = blocks.windows(2).all(|pair| pair[0].1.end == pair[1].0);
    let first = blocks.first().map(|(start, _)| *start).filter(|_| joins);
    Ok(last_end(file)?.filter(|&(_, end)| Some(end) == first).map(|(len, _)| len))
}

/// The file's length, and up to where its last record reaches, if it ends with a whole one.
fn last_end(file: &File) -> io::Result<Option<(u64, Position)>> {
    let len = file.metadata()?.len();
    if len < 2 * RECORD_BYTES as u64 || !len.is_multiple_of(RECORD_BYTES as u64) {
        return Ok(None);
    }
    let mut last = [0; RECORD_BYTES];
    file.read_exact_at(&mut last, len - RECORD_BYTES as u64)?;
    Ok(Record::decode(&last).map(|record| (len, record.end)))
}

fn encoded<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<u8> {
    records.flat_map(Record::encode).collect()
}

/// An index that is looked at as a whole and then written from the first record that differs.
struct Change {
    file: File,
    base: Offset,
    len: u64,
    index: Index,
    /// Records that stay as they are.
    kept: usize,
}

impl Change {
    fn of(file: File, base: Offset) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let len = file.metadata()?.len();
        (&file).take(INDEX_BYTES_MAX).read_to_end(&mut bytes)?;
        let index = Index::parse(base, &bytes);
        let kept = index.records.len();
        Ok(Self { file, base, len, index, kept })
    }

    /// Whether nothing has to be removed.
    fn is_tidy(&self) -> bool {
        self.len == ((1 + self.index.records.len()) * RECORD_BYTES) as u64
    }

    fn drop_past(&mut self, position: Position) {
        let fitting = self.index.records.partition_point(|record| record.end <= position);
        self.index.records.truncate(fitting);
        self.kept = self.kept.min(fitting);
    }

    /// Makes blocks of the text up to there, which ends a line or a block.
    fn fill(&mut self, dir: &Dir, base: Offset, to: u64) -> io::Result<()> {
        if self.index.end().0 == to {
            return Ok(());
        }
        let segment = dir.file(&segment_name(base), Access::Read)?;
        let chunk_bytes = usize::try_from(INDEX_BLOCK_BYTES).expect("a block fits the memory");
        let mut chunk = vec![0; chunk_bytes];
        while self.index.end().0 < to {
            let start = self.index.end().0;
            let part = &mut chunk[..usize::try_from(to - start).map_or(chunk_bytes, |rest| rest.min(chunk_bytes))];
            segment.read_exact_at(part, start)?;
            let lines_end = memchr::memrchr(b'\n', part).map_or(part.len(), |lf| lf + 1);
            let take = if start + part.len() as u64 == to { part.len() } else { lines_end };
            // Text has no times. That of the block before is never too late.
            let time = self.index.records.last().map_or(0, |record| record.time);
            let block = &part[..take];
            self.index.records.push(Record {
                time,
                approximate: true,
                end: Position(start + take as u64),
                lines: count_lines(block),
                crc32c: checksum::crc32c(block),
            });
        }
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        let bytes = encoded(self.index.records[self.kept..].iter());
        let at = ((1 + self.kept) * RECORD_BYTES) as u64;
        if self.kept == 0 {
            self.file.write_all_at(&header(self.base), 0)?;
        }
        self.file.write_all_at(&bytes, at)?;
        let end = at + bytes.len() as u64;
        if self.len > end { self.file.set_len(end) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Offset = Offset(100);

    /// A segment of numbered lines, 10 bytes each.
    fn fixture(lines: u64) -> (tempfile::TempDir, Dir, Vec<u8>) {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::root(path.path()).unwrap();
        let text: Vec<u8> = (0..lines).flat_map(|line| format!("{line:09}\n").into_bytes()).collect();
        std::fs::write(path.path().join(segment_name(BASE)), &text).unwrap();
        (path, dir, text)
    }

    fn block(text: &[u8], start: u64, end: u64) -> (Position, Record) {
        let bytes = &text[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        let (lines, crc32c) = (count_lines(bytes), checksum::crc32c(bytes));
        (Position(start), Record { time: 1000 + start, approximate: false, end: Position(end), lines, crc32c })
    }

    /// Ends of the blocks; that they tile the text and fit it is asserted.
    #[track_caller]
    fn ends(dir: &Dir, text: &[u8]) -> Vec<u64> {
        let index = read(dir, BASE).unwrap().unwrap();
        assert_eq!(index.damaged_at, None);
        for (start, record) in index.blocks(text.len() as u64) {
            let (start, end) = (usize::try_from(start.0).unwrap(), usize::try_from(record.end.0).unwrap());
            assert_eq!(record.crc32c, checksum::crc32c(&text[start..end]));
            assert_eq!(record.lines, count_lines(&text[start..end]));
        }
        index.records.iter().map(|record| record.end.0).collect()
    }

    #[test]
    fn blocks_go_on_where_the_last_one_ended() {
        let (_path, dir, text) = fixture(100);
        assert_eq!(read(&dir, BASE).unwrap(), None);
        append(&dir, BASE, &[block(&text, 0, 300), block(&text, 300, 310)]).unwrap();
        append(&dir, BASE, &[block(&text, 310, 500)]).unwrap();
        assert_eq!(ends(&dir, &text), [300, 310, 500]);
        // Late news changes nothing.
        append(&dir, BASE, &[block(&text, 300, 310)]).unwrap();
        assert_eq!(ends(&dir, &text), [300, 310, 500]);
    }

    #[test]
    fn gaps_are_filled_from_the_text() {
        let (_path, dir, text) = fixture(20_000);
        append(&dir, BASE, &[block(&text, 500, 700)]).unwrap();
        append(&dir, BASE, &[block(&text, 150_000, 150_010)]).unwrap();
        assert_eq!(ends(&dir, &text), [500, 700, 66_230, 131_760, 150_000, 150_010]);
        let records = read(&dir, BASE).unwrap().unwrap().records;
        let times: Vec<_> = records.iter().map(|record| (record.time, record.approximate)).collect();
        assert_eq!(times, [(0, true), (1500, false), (1500, true), (1500, true), (1500, true), (151_000, false)]);
        assert!(complete(&dir, BASE, 200_000, u64::MAX).unwrap());
        assert_eq!(ends(&dir, &text).last(), Some(&200_000));
        assert!(!complete(&dir, BASE, 200_000, u64::MAX).unwrap());
    }

    #[test]
    fn a_large_gap_waits() {
        let (_path, dir, text) = fixture(200_000);
        append(&dir, BASE, &[block(&text, 0, 100)]).unwrap();
        append(&dir, BASE, &[block(&text, 1_900_000, 1_900_010)]).unwrap();
        assert!(!complete(&dir, BASE, 2_000_000, INDEX_GAP_BYTES_MAX).unwrap());
        assert_eq!(ends(&dir, &text), [100]);
    }

    #[test]
    fn an_index_that_is_torn_ahead_or_damaged_is_mended() {
        let (path, dir, text) = fixture(100);
        let file = path.path().join(index_name(BASE));
        let blocks = [block(&text, 0, 300), block(&text, 300, 310), block(&text, 310, 600)];
        for cut in 0..=128 {
            append(&dir, BASE, &blocks).unwrap();
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(cut).unwrap();
            append(&dir, BASE, &[block(&text, 600, 700)]).unwrap();
            assert_eq!(ends(&dir, &text).last(), Some(&700), "cut at {cut}");
            assert!(!complete(&dir, BASE, 700, u64::MAX).unwrap(), "cut at {cut}");
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[usize::try_from(cut).unwrap() % 64] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            assert!(complete(&dir, BASE, 1000, u64::MAX).unwrap());
            assert_eq!(ends(&dir, &text).last(), Some(&1000), "flipped at {cut}");
            // The segment was cut: the index is ahead of it.
            append(&dir, BASE, &[block(&text, 305, 1000)]).unwrap();
            assert!(complete(&dir, BASE, 450, u64::MAX).unwrap());
            assert_eq!(ends(&dir, &text).last(), Some(&450), "ahead at {cut}");
            std::fs::remove_file(&file).unwrap();
        }
    }

    #[test]
    fn a_segment_that_is_gone_gets_no_index() {
        let (path, dir, text) = fixture(10);
        std::fs::remove_file(path.path().join(segment_name(BASE))).unwrap();
        assert_eq!(append(&dir, BASE, &[block(&text, 0, 100)]).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!path.path().join(index_name(BASE)).exists());
    }
}

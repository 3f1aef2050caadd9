//! The sparse index of a segment: which bytes came when, how many lines they are, and their checksum. No I/O.
//!
//! ```text
//! <base>.idx   header | record | record | …          32 bytes each, little-endian
//! header       "engidx" 0 1 | base, 8 bytes | 12 zeros | crc32c of these 28 bytes
//! record       time, 8 bytes: ns since 1970 of the block's first entry | position of its end, 8 | lines, 4
//!              | crc32c of its bytes, 4 | 1 if the time is a lower bound, 4 | crc32c of these 28 bytes
//! ```
//! A block begins where the one before it ends. It closes with the write that takes it to `INDEX_BLOCK_BYTES`, or before
//! the first write whose entries came `INDEX_BLOCK_TIME` after its own first: at the end of a write either way, so that the
//! index costs a write one look at its bytes and an entry nothing.
//!
//! Whoever reads an index takes it for a hint: it may be missing, be behind its segment, ahead of it (after a cut), or end
//! in half a record.

use crate::buf::WriteBuf;
use crate::limits::{INDEX_BLOCK_BYTES, INDEX_BLOCK_TIME};
use crate::segment::journal::Proof;
use crate::segment::{Offset, Position, checksum};
use crate::time::Time;

/// Bytes of the header, and of a record.
pub const RECORD_BYTES: usize = 32;
const CHECKED_BYTES: usize = RECORD_BYTES - 4;
const MAGIC: [u8; 8] = *b"engidx\0\x01";

/// What a finished write has brought to a segment. Looked at once, for whoever keeps account of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Bytes.
    pub len: u64,
    /// LFs.
    pub lines: u32,
    /// When the first entry of it came.
    pub since: Time,
    /// Checksum of the bytes.
    pub crc32c: u32,
}

impl Batch {
    /// Looks at the bytes of a write once, for their checksum. Their lines were counted as they were staged.
    #[must_use]
    pub fn of(buf: &WriteBuf) -> Self {
        let bytes = buf.content();
        debug_assert_eq!(buf.lines(), count_lines(bytes), "whoever stages entries says how many");
        Self { len: bytes.len() as u64, lines: buf.lines(), since: buf.since(), crc32c: checksum::crc32c(bytes) }
    }
}

/// LFs among the bytes.
#[must_use]
pub fn count_lines(bytes: &[u8]) -> u32 {
    u32::try_from(memchr::memchr_iter(b'\n', bytes).count()).expect("whoever asks has less than 4 GiB in memory")
}

/// A block that is complete, in a segment that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexBlock {
    /// The segment.
    pub base: Offset,
    /// The block's first byte.
    pub start: Position,
    /// The byte after its last.
    pub end: Position,
    /// LFs in it.
    pub lines: u32,
    /// Checksum of its bytes.
    pub crc32c: u32,
    /// When its first entry came.
    pub since: Time,
}

/// The block at a segment's end while it grows; empty where nothing was written since the last one closed.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenBlock {
    since: Time,
    len: u32,
    lines: u32,
    crc32c: u32,
}

impl OpenBlock {
    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether entries that came then are to go to the next block.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        !self.is_empty() && now.since(self.since) >= INDEX_BLOCK_TIME
    }

    /// Whether it is large enough.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len as u64 >= INDEX_BLOCK_BYTES
    }

    /// Adds a write.
    pub fn add(&mut self, batch: &Batch, bytes: &[u8]) {
        debug_assert!(!self.is_full(), "a full block closes with the write that filled it");
        let len = u32::try_from(batch.len).expect("write buffers are below 4 GiB");
        *self = if self.is_empty() {
            Self { since: batch.since, len, lines: batch.lines, crc32c: batch.crc32c }
        } else {
            let crc32c = checksum::crc32c_append(self.crc32c, bytes);
            Self { since: self.since, len: self.len + len, lines: self.lines + batch.lines, crc32c }
        };
    }

    /// Bytes of it, and their checksum.
    #[must_use]
    pub const fn proof(&self) -> Proof {
        Proof { length: self.len, crc: self.crc32c }
    }

    /// Closes it, if it has any bytes, at this position of its segment.
    pub fn close(&mut self, base: Offset, end: Position) -> Option<IndexBlock> {
        let Self { since, len, lines, crc32c } = std::mem::take(self);
        let start = Position(end.0 - u64::from(len));
        (len > 0).then_some(IndexBlock { base, start, end, lines, crc32c, since })
    }
}

/// A block as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When its first entry came, in nanoseconds since 1970 by the host's clock of then.
    pub time: u64,
    /// Whether it may have come later: made from the text, which has no times.
    pub approximate: bool,
    /// The byte after its last.
    pub end: Position,
    /// LFs in it.
    pub lines: u32,
    /// Checksum of its bytes.
    pub crc32c: u32,
}

impl Record {
    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.time.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.end.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.lines.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.crc32c.to_le_bytes());
        bytes[24..CHECKED_BYTES].copy_from_slice(&u32::from(self.approximate).to_le_bytes());
        checked(bytes)
    }

    /// Reads what [`Record::encode`] made; `None` for all else.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        (checked(*bytes) == *bytes).then(|| Self {
            time: number(0),
            end: Position(number(8)),
            lines: half(16),
            crc32c: half(20),
            approximate: half(24) != 0,
        })
    }
}

/// What an index begins with.
#[must_use]
pub fn header(base: Offset) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&base.0.to_le_bytes());
    checked(bytes)
}

/// The same bytes with their checksum at the end.
fn checked(mut bytes: [u8; RECORD_BYTES]) -> [u8; RECORD_BYTES] {
    let crc32c = checksum::crc32c(&bytes[..CHECKED_BYTES]);
    bytes[CHECKED_BYTES..].copy_from_slice(&crc32c.to_le_bytes());
    bytes
}

/// What the bytes of an index say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Its records up to the first that makes no sense; their ends ascend.
    pub records: Vec<Record>,
    /// The first byte that makes no sense, if one does. Half a record at the end is no damage: it was being written.
    pub damaged_at: Option<usize>,
}

impl Index {
    /// Reads an index of this segment; whatever the bytes are.
    #[must_use]
    pub fn parse(base: Offset, bytes: &[u8]) -> Self {
        let mut index = Self::default();
        let (chunks, _) = bytes.as_chunks::<RECORD_BYTES>();
        for (number, chunk) in chunks.iter().enumerate() {
            let fits = if number == 0 {
                *chunk == header(base)
            } else {
                Record::decode(chunk)
                    .filter(|record| record.end > index.end())
                    .map(|record| index.records.push(record))
                    .is_some()
            };
            if !fits {
                index.damaged_at = Some(number * RECORD_BYTES);
                break;
            }
        }
        index
    }

    /// Up to where it says something.
    #[must_use]
    pub fn end(&self) -> Position {
        self.records.last().map_or(Position::START, |record| record.end)
    }

    /// Blocks within the first `len` bytes of the segment: where each begins, and its record.
    pub fn blocks(&self, len: u64) -> impl Iterator<Item = (Position, &Record)> {
        let starts = std::iter::once(Position::START).chain(self.records.iter().map(|record| record.end));
        starts.zip(&self.records).take_while(move |(_, record)| record.end.0 <= len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::BufferPool;
    use std::time::Duration;

    fn at(seconds: u64) -> Time {
        Time::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_block_closes_by_size_or_by_time() {
        let mut block = OpenBlock::default();
        assert_eq!(block.close(Offset(7), Position(3)), None);
        let mut pool = BufferPool::new(1 << 20);
        let mut add = |block: &mut OpenBlock, bytes: &[u8], since| {
            let mut buf = pool.append(None, bytes);
            buf.begin(since);
            buf.add_lines(count_lines(bytes));
            block.add(&Batch::of(&buf), bytes);
            pool.give(buf);
        };
        let bytes = [b"a\n".repeat(100), b"\n".to_vec()].concat();
        add(&mut block, &bytes, at(5));
        add(&mut block, b"b\n", at(6));
        assert!(!block.is_full() && !block.is_over(at(64)) && block.is_over(at(65)));
        let closed = block.close(Offset(7), Position(1000)).expect("it has bytes");
        let crc32c = checksum::crc32c(&[&bytes[..], b"b\n"].concat());
        let expected =
            IndexBlock { base: Offset(7), start: Position(797), end: Position(1000), lines: 102, crc32c, since: at(5) };
        assert_eq!(closed, expected);
        assert!(block.is_empty() && !block.is_over(at(1000)));
        add(&mut block, &vec![b'x'; 64 << 10], at(0));
        assert!(block.is_full());
    }

    #[test]
    fn an_index_ends_where_it_makes_no_sense() {
        let record = |end: u64| Record {
            time: end * 3,
            approximate: end.is_multiple_of(2),
            end: Position(end),
            lines: 9,
            crc32c: 0xdead_beef,
        };
        let records = [10, 25, 31].map(record);
        let bytes = [header(Offset(4)), records[0].encode(), records[1].encode(), records[2].encode()].concat();
        assert_eq!(Index::parse(Offset(4), &bytes), Index { records: records.to_vec(), damaged_at: None });
        for cut in 0..bytes.len() {
            let index = Index::parse(Offset(4), &bytes[..cut]);
            assert_eq!((index.records.len(), index.damaged_at), ((cut / 32).saturating_sub(1), None), "cut at {cut}");
        }
        for flipped in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[flipped] ^= 0x40;
            let index = Index::parse(Offset(4), &bytes);
            assert_eq!(index.damaged_at, Some(flipped / 32 * 32), "flipped {flipped}");
        }
        assert_eq!(Index::parse(Offset(5), &bytes).damaged_at, Some(0));
        let index = Index::parse(Offset(4), &bytes);
        let starts: Vec<_> = index.blocks(30).map(|(start, record)| (start.0, record.end.0)).collect();
        assert_eq!(starts, [(0, 10), (10, 25)]);
        let backwards = [header(Offset(4)), records[1].encode(), records[0].encode()].concat();
        assert_eq!(Index::parse(Offset(4), &backwards).damaged_at, Some(64));
    }
}

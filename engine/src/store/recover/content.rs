//! How much of a segment can be vouched for: by checksums as far as records go, by the text behind that.
//!
//! ```text
//!  ├── durable ──┼─ good ─┼─ good ─┼─ bad ─┼─ good ─┤ text without a record ─ NULs …
//!                                  V                                         ▲ a run of NULs: the disk never got these
//!                                  └── whole lines up to here stay ──────────┘
//! ```

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::super::{chunk_of, whole_lines_end};
use crate::segment::index::Index;
use crate::segment::journal::Batch;
use crate::segment::{Position, checksum};

/// Bytes that a disk writes as one: what it has not written begins or ends at a multiple of it, or at the end.
const SECTOR: u64 = 512;
/// Where no journal tells of bytes, fewer NULs in a row are taken for a sender's own.
const UNKNOWN_NULS_MIN: u64 = 512;

/// What checksums say of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vouched {
    /// End of the unbroken chain of good batches.
    pub(super) end: u64,
    /// Good batches behind a bad one, those that touch joined.
    pub(super) islands: Vec<Range<u64>>,
}

/// Follows the batches from `durable` on.
pub(super) fn follow(
    file: &File,
    len: u64,
    durable: Position,
    tail: &[Batch],
    chunk: &mut [u8],
) -> io::Result<Vouched> {
    let mut vouched = Vouched { end: durable.0.min(len), islands: Vec::new() };
    let mut broken = durable.0 > len;
    for batch in tail {
        let (start, end) = (batch.position.0, batch.end().0);
        if end <= vouched.end && !broken {
            continue;
        }
        let good = end <= len && crc_of(file, start..end, chunk)? == batch.crc;
        broken |= !good || start > vouched.end;
        if !broken {
            vouched.end = end;
        } else if good {
            match vouched.islands.last_mut() {
                Some(island) if island.end == start => island.end = end,
                _ => vouched.islands.push(start..end),
            }
        }
    }
    Ok(vouched)
}

/// What there would be records of: the batches that the file holds between these positions.
pub(super) fn record(file: &File, range: Range<u64>, chunk: &mut [u8]) -> io::Result<Vec<Batch>> {
    let mut batches = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let part = chunk_of(chunk, range.end - at);
        file.read_exact_at(part, at)?;
        batches.push(Batch::of(Position(at), part, 0));
        at += part.len() as u64;
    }
    Ok(batches)
}

pub(super) fn crc_of(file: &File, range: Range<u64>, chunk: &mut [u8]) -> io::Result<u32> {
    let (mut at, mut crc) = (range.start, 0);
    while at < range.end {
        let part = chunk_of(chunk, range.end - at);
        file.read_exact_at(part, at)?;
        crc = checksum::crc32c_append(crc, part);
        at += part.len() as u64;
    }
    Ok(crc)
}

/// Where a segment that no journal tells of has the first NULs that the disk may have left and no block of its index
/// vouches for; else its end.
pub(super) fn first_hole(file: &File, len: u64, index: &Index, chunk: &mut [u8]) -> io::Result<u64> {
    let mut at = 0;
    loop {
        let run = first_unknown_hole(file, at..len, chunk)?;
        let block = index.blocks(len).find(|(start, record)| (start.0..record.end.0).contains(&run));
        let Some((start, record)) = block else { return Ok(run) };
        if crc_of(file, start.0..record.end.0, chunk)? != record.crc32c {
            return Ok(run);
        }
        // A sender's own.
        at = record.end.0;
    }
}

/// Where the first NULs are that the disk may have left, of bytes that no record tells of; else the end.
pub(super) fn first_unknown_hole(file: &File, range: Range<u64>, chunk: &mut [u8]) -> io::Result<u64> {
    first_nul_run(file, range, UNKNOWN_NULS_MIN, chunk)
}

/// Where the first run of at least so many NULs begins that reaches to the end of a sector or of the file; else the end.
/// Fewer, or in the middle of a sector, are a sender's own.
pub(super) fn first_nul_run(file: &File, range: Range<u64>, least: u64, chunk: &mut [u8]) -> io::Result<u64> {
    let end = range.end;
    let (mut at, mut run) = (range.start, range.start);
    while at < end {
        let part = chunk_of(chunk, end - at);
        file.read_exact_at(part, at)?;
        for sector in pieces(at, part) {
            let (start, bytes) = sector;
            let nuls = bytes.iter().rev().take_while(|byte| **byte == 0).count() as u64;
            let stop = start + bytes.len() as u64;
            if nuls < bytes.len() as u64 {
                run = stop - nuls;
            }
            let reaches = stop == end || stop.is_multiple_of(SECTOR);
            if reaches && stop - run >= least {
                return Ok(run);
            }
        }
        at += part.len() as u64;
    }
    Ok(end)
}

/// The bytes sector by sector, each with its position.
fn pieces(start: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let sector = usize::try_from(SECTOR).expect("a sector is small");
    let first = usize::try_from(SECTOR - start % SECTOR).expect("a sector is small").min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    let mut at = start;
    [head].into_iter().chain(rest.chunks(sector)).filter(|piece| !piece.is_empty()).map(move |piece| {
        let position = at;
        at += piece.len() as u64;
        (position, piece)
    })
}

/// Where the whole lines before `limit` end.
pub(super) fn lines_end(file: &File, limit: u64, chunk: &mut [u8]) -> io::Result<u64> {
    whole_lines_end(file, limit, chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(bytes, 0).expect("it takes bytes");
        file
    }

    fn batch(bytes: &[u8], range: Range<usize>) -> Batch {
        Batch::of(Position(range.start as u64), &bytes[range], 0)
    }

    #[test]
    fn a_chain_ends_at_the_first_bad_batch_and_islands_are_found() {
        let text = b"one\ntwo\nthree\nfour\nfive\n";
        let tail: Vec<Batch> = [4..8, 8..14, 14..19, 19..24].map(|range| batch(text, range)).into();
        for chunk in 1..9 {
            let follow = |bytes: &[u8]| {
                follow(&file(bytes), bytes.len() as u64, Position(4), &tail, &mut vec![0; chunk]).expect("read")
            };
            assert_eq!(follow(text), Vouched { end: 24, islands: Vec::new() });
            let mut hole = text.to_vec();
            hole[9] = 0;
            let expected = Vouched { end: 8, islands: vec![Range { start: 14, end: 24 }] };
            assert_eq!(follow(&hole), expected);
            assert_eq!(follow(&text[..13]), Vouched { end: 8, islands: Vec::new() });
            assert_eq!(follow(&text[..3]), Vouched { end: 3, islands: Vec::new() });
        }
    }

    #[test]
    fn what_is_written_again_counts_once() {
        let text = b"one\ntwo\n";
        let tail = [batch(text, 0..4), batch(text, 0..4), batch(text, 4..8)];
        let vouched = follow(&file(text), 8, Position(0), &tail, &mut [0; 64]).expect("read");
        assert_eq!(vouched, Vouched { end: 8, islands: Vec::new() });
        let other = Batch::of(Position(0), b"two\n", 0);
        let vouched = follow(&file(text), 8, Position(0), &[other, tail[2]], &mut [0; 64]).expect("read");
        assert_eq!(vouched, Vouched { end: 0, islands: vec![Range { start: 4, end: 8 }] });
    }

    #[test]
    fn a_run_of_nuls_reaches_the_end_of_a_sector_or_of_the_file() {
        let mut bytes = vec![b'x'; 2000];
        bytes[100] = 0;
        bytes[600..700].fill(0);
        let first = |bytes: &[u8], least| {
            let all = [7, 64, 512, 4096].map(|chunk| {
                first_nul_run(&file(bytes), 3..bytes.len() as u64, least, &mut vec![0; chunk]).expect("read")
            });
            assert!(all.iter().all(|at| *at == all[0]), "{all:?}");
            all[0]
        };
        assert_eq!(first(&bytes, 1), 2000, "a sender's own");
        bytes[1020..1024].fill(0);
        assert_eq!((first(&bytes, 1), first(&bytes, 512)), (1020, 2000));
        bytes[1020..1990].fill(0);
        assert_eq!(first(&bytes, 512), 1020);
        bytes[1020..1990].fill(b'x');
        bytes[1999] = 0;
        assert_eq!(first(&bytes, 1), 1999);
    }
}

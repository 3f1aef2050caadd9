//! The commit journal's format: what a shard wrote, in records of 64 bytes. No I/O.
//!
//! ```text
//! DATA/_journal/<shard>-<generation>
//!   Header  Active Active … Checkpoint  Open Batch Batch … Synced  Batch … CleanStop
//!           └ the shard's segments ──┘  └ what it did from then on
//!
//! record    0       4     5        8     12       16         24 … 63
//!           crc32c  kind  nothing  run   segment  sequence   by kind        numbers are little-endian
//! ```
//! Records begin at multiples of their size, so none spans a sector. A file is valid up to its first record that is not
//! whole, is out of sequence, or belongs to another run: what follows is the remains of a write that was not finished.
//!
//! **Numbers.** A segment has a number that is its own among those of one shard and one run of the engine. A run is named
//! by the generation that its shards begin with, and generations only grow: sorted by run, shard and generation, later
//! files know better than earlier ones.
//!
//! **A table counts once it is complete.** The lengths in `Active` records are on the disk only if a `Checkpoint` follows
//! in the same file: a running shard writes its table while it goes on, and the checkpoint after a sync.

use super::{Offset, Position, checksum, index};
use crate::wire::Token;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 64;
/// A [`Proof`] that recovery adds up begins anew with so many bytes: the index covers what is before.
const PROOF_BYTES: u32 = 1 << 20;
/// Version of the records; a file of another one is not read.
pub const JOURNAL_FORMAT: u32 = 1;

/// Bytes of a record that its checksum is of.
const CHECKED: std::ops::Range<usize> = 4..RECORD_BYTES;
const PAYLOAD: usize = 24;

/// Names one start of the operating system: what was in its page cache is gone with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// One run of the engine. Numbers begin anew where the journals are taken away; the time tells such runs apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// Its number.
    pub run: u32,
    /// When it began, in microseconds of Unix time.
    pub epoch_micros: u64,
}

/// A segment's number in the journals of one shard and run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentNumber(pub u32);

/// A record with what it has in common with every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The run of the engine that wrote it.
    pub run: u32,
    /// Counts the records of a shard in a run, from 0.
    pub sequence: u64,
    /// What it says.
    pub entry: JournalEntry,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalEntry {
    /// The first record of every file.
    Header(Header),
    /// A segment was made.
    Open {
        /// From now on it is called so.
        number: SegmentNumber,
        /// Its log.
        token: Token,
        /// Offset of its first byte.
        base: Offset,
    },
    /// Bytes were written, all of them.
    Batch {
        /// The segment.
        number: SegmentNumber,
        /// What was written.
        batch: Batch,
    },
    /// What records up to and with this sequence tell of is on the disk, poisoned segments left out.
    Synced {
        /// The sequence.
        through: u64,
    },
    /// A segment is complete: nothing more is appended to it. Its text may be replaced by a compressed one from now on.
    Seal {
        /// Its log.
        token: Token,
        /// Offset of its first byte.
        base: Offset,
        /// Its length.
        length: Position,
    },
    /// A segment is about to be deleted, because its log is longer or older than it may be.
    Retire {
        /// Its log.
        token: Token,
        /// Offset of its first byte.
        base: Offset,
    },
    /// A sync or a write of the segment failed: nothing more is appended to it.
    Poison {
        /// The segment.
        number: SegmentNumber,
        /// Up to here it is on the disk; what follows may be lost.
        synced: Position,
        /// Its length.
        length: Position,
    },
    /// Of the table: a segment that was poisoned earlier may have lost what follows this offset. Whatever is synced later,
    /// the log as a whole is not known to be on the disk any further.
    Doubt {
        /// The log.
        token: Token,
        /// The offset.
        from: Offset,
    },
    /// Of the table: a segment that is appended to, or the last of a log that has none.
    Active {
        /// From now on it is called so.
        number: SegmentNumber,
        /// Its log.
        token: Token,
        /// Offset of its first byte.
        base: Offset,
        /// Its length.
        length: Position,
        /// Of the bytes before that, those that no block of the index covers.
        proof: Proof,
    },
    /// The table is complete, and every byte that it tells of is on the disk.
    Checkpoint,
    /// The engine ended in order: all that it wrote is on the disk.
    CleanStop,
}

/// Where a journal file belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who writes it.
    pub shard: u16,
    /// Which of the shard's files it is: the number in its name.
    pub generation: u64,
    /// The operating system's start in which it was begun.
    pub boot: BootId,
    /// Unix time in microseconds that the times of batches count from.
    pub epoch_micros: u64,
}

/// Checksum of the bytes that end at some position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// So many bytes.
    pub length: u32,
    /// Their checksum (CRC-32C).
    pub crc: u32,
}

impl Proof {
    /// The same with the bytes of a batch behind them. From 1 MiB on it begins anew.
    #[must_use]
    pub fn followed_by(self, batch: &Batch) -> Self {
        let more = Self { length: batch.length, crc: batch.crc };
        if self.length == 0 || self.length >= PROOF_BYTES {
            return more;
        }
        Self {
            length: self.length.saturating_add(more.length),
            crc: checksum::crc32c_combine(self.crc, more.crc, more.length),
        }
    }
}

/// A piece of a segment that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Where it begins.
    pub position: Position,
    /// Bytes of it.
    pub length: u32,
    /// Lines that end in it.
    pub lines: u32,
    /// When its first byte came, in microseconds of the [`Header`].
    pub time_micros: u64,
    /// Checksum (CRC-32C) of its bytes.
    pub crc: u32,
}

impl Batch {
    /// The batch of these bytes.
    #[must_use]
    pub fn of(position: Position, bytes: &[u8], time_micros: u64) -> Self {
        Self {
            position,
            length: narrow(bytes.len()),
            lines: index::count_lines(bytes),
            time_micros,
            crc: checksum::crc32c(bytes),
        }
    }

    /// A write that was looked at already, and ended here.
    #[must_use]
    pub fn ending(end: Position, batch: &index::Batch) -> Self {
        Self {
            position: Position(end.0 - batch.len),
            length: u32::try_from(batch.len).expect("a batch is below 4 GiB"),
            lines: batch.lines,
            time_micros: batch.since.as_nanos() / 1000,
            crc: batch.crc32c,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.position.0.saturating_add(u64::from(self.length)))
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("a batch is below 4 GiB")
}

/// Kinds by the byte that stands for them; a byte is never used for another kind.
mod kind {
    pub(super) const HEADER: u8 = 1;
    pub(super) const OPEN: u8 = 2;
    pub(super) const BATCH: u8 = 3;
    pub(super) const SYNCED: u8 = 4;
    pub(super) const SEAL: u8 = 5;
    pub(super) const RETIRE: u8 = 6;
    pub(super) const POISON: u8 = 7;
    pub(super) const ACTIVE: u8 = 8;
    pub(super) const CHECKPOINT: u8 = 9;
    pub(super) const CLEAN_STOP: u8 = 10;
    pub(super) const DOUBT: u8 = 11;
}

impl Record {
    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let mut write = Writer { bytes: &mut bytes, at: PAYLOAD };
        let (kind, number) = write.entry(&self.entry);
        bytes[4] = kind;
        bytes[8..12].copy_from_slice(&self.run.to_le_bytes());
        bytes[12..16].copy_from_slice(&number.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        let crc = checksum::crc32c(&bytes[CHECKED]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads what [`Record::encode`] made; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let mut start = Reader { bytes, at: 0 };
        let crc = start.u32();
        if crc != checksum::crc32c(&bytes[CHECKED]) {
            return None;
        }
        start.at = 8;
        let (run, number, sequence) = (start.u32(), SegmentNumber(start.u32()), start.u64());
        let entry = start.entry(bytes[4], number)?;
        let record = Self { run, sequence, entry };
        // What is not used is nothing: there is one form of each record.
        (record.encode() == *bytes).then_some(record)
    }
}

struct Writer<'a> {
    bytes: &'a mut [u8; RECORD_BYTES],
    at: usize,
}

impl Writer<'_> {
    /// Writes what is the entry's own; gives its kind and its segment.
    fn entry(&mut self, entry: &JournalEntry) -> (u8, SegmentNumber) {
        let nobody = SegmentNumber::default();
        match *entry {
            JournalEntry::Header(Header { shard, generation, boot, epoch_micros }) => {
                self.put(&JOURNAL_FORMAT.to_le_bytes()).put(&u32::from(shard).to_le_bytes());
                self.put(&generation.to_le_bytes()).put(&boot.0).put(&epoch_micros.to_le_bytes());
                (kind::HEADER, nobody)
            }
            JournalEntry::Open { number, token, base } => {
                self.segment(token, base);
                (kind::OPEN, number)
            }
            JournalEntry::Batch { number, batch } => {
                self.put(&batch.position.0.to_le_bytes()).put(&batch.length.to_le_bytes());
                self.put(&batch.lines.to_le_bytes()).put(&batch.time_micros.to_le_bytes());
                self.put(&batch.crc.to_le_bytes());
                (kind::BATCH, number)
            }
            JournalEntry::Synced { through } => {
                self.put(&through.to_le_bytes());
                (kind::SYNCED, nobody)
            }
            JournalEntry::Seal { token, base, length } => {
                self.segment(token, base);
                self.put(&length.0.to_le_bytes());
                (kind::SEAL, nobody)
            }
            JournalEntry::Retire { token, base } => {
                self.segment(token, base);
                (kind::RETIRE, nobody)
            }
            JournalEntry::Doubt { token, from } => {
                self.segment(token, from);
                (kind::DOUBT, nobody)
            }
            JournalEntry::Poison { number, synced, length } => {
                self.put(&synced.0.to_le_bytes()).put(&length.0.to_le_bytes());
                (kind::POISON, number)
            }
            JournalEntry::Active { number, token, base, length, proof } => {
                self.segment(token, base);
                self.put(&length.0.to_le_bytes());
                self.put(&proof.length.to_le_bytes()).put(&proof.crc.to_le_bytes());
                (kind::ACTIVE, number)
            }
            JournalEntry::Checkpoint => (kind::CHECKPOINT, nobody),
            JournalEntry::CleanStop => (kind::CLEAN_STOP, nobody),
        }
    }

    fn segment(&mut self, token: Token, base: Offset) {
        self.put(&token.to_bytes()).put(&base.0.to_le_bytes());
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }
}

struct Reader<'a> {
    bytes: &'a [u8; RECORD_BYTES],
    at: usize,
}

impl Reader<'_> {
    fn entry(&mut self, kind: u8, number: SegmentNumber) -> Option<JournalEntry> {
        self.at = PAYLOAD;
        Some(match kind {
            kind::HEADER if self.u32() == JOURNAL_FORMAT => JournalEntry::Header(Header {
                shard: u16::try_from(self.u32()).ok()?,
                generation: self.u64(),
                boot: BootId(self.take()),
                epoch_micros: self.u64(),
            }),
            kind::OPEN => JournalEntry::Open { number, token: self.token(), base: Offset(self.u64()) },
            kind::BATCH => {
                let (position, length) = (Position(self.u64()), self.u32());
                let batch = Batch { position, length, lines: self.u32(), time_micros: self.u64(), crc: self.u32() };
                JournalEntry::Batch { number, batch }
            }
            kind::SYNCED => JournalEntry::Synced { through: self.u64() },
            kind::SEAL => {
                let (token, base) = (self.token(), Offset(self.u64()));
                JournalEntry::Seal { token, base, length: Position(self.u64()) }
            }
            kind::RETIRE => JournalEntry::Retire { token: self.token(), base: Offset(self.u64()) },
            kind::POISON => JournalEntry::Poison { number, synced: Position(self.u64()), length: Position(self.u64()) },
            kind::ACTIVE => {
                let (token, base) = (self.token(), Offset(self.u64()));
                let (length, proof) = (Position(self.u64()), Proof { length: self.u32(), crc: self.u32() });
                JournalEntry::Active { number, token, base, length, proof }
            }
            kind::DOUBT => JournalEntry::Doubt { token: self.token(), from: Offset(self.u64()) },
            kind::CHECKPOINT => JournalEntry::Checkpoint,
            kind::CLEAN_STOP => JournalEntry::CleanStop,
            _ => return None,
        })
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn token(&mut self) -> Token {
        Token::from_bytes(self.take())
    }
}

/// The bytes of a journal file that recovery begins for a shard.
#[derive(Clone, Debug)]
pub struct JournalDraft {
    run: u32,
    /// Sequence of the next record.
    pub sequence: u64,
    /// The records so far.
    pub bytes: Vec<u8>,
}

impl JournalDraft {
    /// The first file of a shard in this run.
    #[must_use]
    pub fn new(run: u32, header: Header) -> Self {
        let mut draft = Self { run, sequence: 0, bytes: Vec::new() };
        draft.add(JournalEntry::Header(header));
        draft
    }

    /// Adds a record.
    pub fn add(&mut self, entry: JournalEntry) {
        self.bytes.extend(Record { run: self.run, sequence: self.sequence, entry }.encode());
        self.sequence += 1;
    }

    /// Bytes of the file.
    #[must_use]
    pub fn length(&self) -> Position {
        Position(self.bytes.len() as u64)
    }
}

/// A journal file as far as it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Where it belongs.
    pub header: Header,
    /// The run that wrote it.
    pub run: u32,
    /// Sequence of the header: the first of the file.
    pub first: u64,
    /// What follows the header, in sequence.
    pub entries: Vec<JournalEntry>,
    /// Whole records of this run follow behind one that is none: more than the remains of an unfinished write.
    pub damaged: bool,
}

impl Journal {
    /// The run that wrote it.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        RunId { run: self.run, epoch_micros: self.header.epoch_micros }
    }

    /// Reads a file's bytes; `None` if they do not begin with a header.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
        let (first, rest) = records.split_first()?;
        let Record { run, sequence: first, entry: JournalEntry::Header(header) } = Record::decode(first)? else {
            return None;
        };
        let mut entries = Vec::with_capacity(rest.len());
        let mut rest = rest.iter();
        for (sequence, bytes) in (first + 1..).zip(rest.by_ref()) {
            match Record::decode(bytes).filter(|record| (record.run, record.sequence) == (run, sequence)) {
                Some(record) if !matches!(record.entry, JournalEntry::Header(_)) => entries.push(record.entry),
                _ => break,
            }
        }
        let reached = first + entries.len() as u64;
        let later = |record: Record| record.run == run && record.sequence > reached;
        let damaged = rest.any(|bytes| Record::decode(bytes).is_some_and(later));
        Some(Self { header, run, first, entries, damaged })
    }

    /// Sequence of the entry with this index.
    #[must_use]
    pub fn sequence(&self, index: usize) -> u64 {
        self.first + 1 + index as u64
    }

    /// Whether the lengths of the table can be relied on.
    #[must_use]
    pub fn has_checkpoint(&self) -> bool {
        self.entries.contains(&JournalEntry::Checkpoint)
    }

    /// Whether the checkpoint itself was told to be on the disk, while the machine runs on.
    #[must_use]
    pub fn has_synced_checkpoint(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| *entry == JournalEntry::Checkpoint)
            && entries.any(|entry| matches!(entry, JournalEntry::Synced { .. }))
    }
}

/// File name of a shard's journal.
#[must_use]
pub fn journal_name(shard: u16, generation: u64) -> String {
    format!("{shard}-{generation}")
}

/// Shard and generation of the journal with this file name; `None` for every other name.
#[must_use]
pub fn parse_journal_name(name: &str) -> Option<(u16, u64)> {
    let (shard, generation) = name.split_once('-')?;
    let (shard, generation) = (shard.parse().ok()?, generation.parse().ok()?);
    (journal_name(shard, generation) == name).then_some((shard, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        "2bfbea1e-10c3-4419-bdad-7e6435882e1f".parse().expect("a token")
    }

    fn header() -> Header {
        Header { shard: 7, generation: 12, boot: BootId([9; 16]), epoch_micros: 1_700_000_000_000_000 }
    }

    fn entries() -> Vec<JournalEntry> {
        let (number, token, base) = (SegmentNumber(5), token(), Offset(1 << 40));
        let batch = Batch::of(Position(77), b"one\ntwo\nthr", 123);
        assert_eq!((batch.length, batch.lines, batch.end()), (11, 2, Position(88)));
        vec![
            JournalEntry::Active { number, token, base, length: Position(77), proof: Proof { length: 7, crc: 8 } },
            JournalEntry::Checkpoint,
            JournalEntry::Open { number, token, base },
            JournalEntry::Batch { number, batch },
            JournalEntry::Synced { through: 9 },
            JournalEntry::Seal { token, base, length: Position(88) },
            JournalEntry::Retire { token, base },
            JournalEntry::Doubt { token, from: base },
            JournalEntry::Poison { number, synced: Position(77), length: Position(88) },
            JournalEntry::CleanStop,
        ]
    }

    fn file(entries: &[JournalEntry]) -> Vec<u8> {
        let all = [JournalEntry::Header(header())].into_iter().chain(entries.iter().copied());
        let encode = |(sequence, entry)| Record { run: 3, sequence, entry }.encode();
        (100..).zip(all).flat_map(encode).collect()
    }

    #[test]
    fn a_file_comes_back() {
        let journal = Journal::parse(&file(&entries())).expect("it has a header");
        let expected = Journal { header: header(), run: 3, first: 100, entries: entries(), damaged: false };
        assert_eq!(journal, expected);
        assert!(journal.has_checkpoint() && journal.sequence(0) == 101);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        for entry in entries() {
            let bytes = Record { run: 3, sequence: 1, entry }.encode();
            for bit in 0..8 * RECORD_BYTES {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&flipped), None, "{entry:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_file_is_valid_up_to_its_first_bad_record() {
        let (entries, whole) = (entries(), file(&entries()));
        for length in 0..whole.len() {
            let journal = Journal::parse(&whole[..length]);
            let records = length / RECORD_BYTES;
            assert_eq!(journal.as_ref().map(|journal| journal.entries.len() + 1).unwrap_or_default(), records);
            assert!(journal.is_none_or(|journal| !journal.damaged && entries.starts_with(&journal.entries)));
        }
        for record in 1..entries.len() {
            for stale in
                [[0; RECORD_BYTES], Record { run: 2, sequence: 100 + record as u64, entry: entries[0] }.encode()]
            {
                let mut bytes = whole.clone();
                bytes[record * RECORD_BYTES..][..RECORD_BYTES].copy_from_slice(&stale);
                let journal = Journal::parse(&bytes).expect("it has a header");
                assert_eq!(journal.entries, entries[..record - 1]);
                assert!(journal.damaged, "good records follow");
            }
        }
        let mut headless = whole;
        headless[7] = 1;
        assert_eq!(Journal::parse(&headless), None);
    }

    #[test]
    fn garbage_is_no_journal() {
        let mut state = 1_u64;
        let mut bytes = file(&entries());
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(state >> 33).expect("31 bits") % bytes.len();
            bytes[at] = state.to_le_bytes()[6];
            if let Some(journal) = Journal::parse(&bytes) {
                assert!(journal.entries.iter().all(|entry| entries().contains(entry)));
            }
        }
        assert_eq!(Journal::parse(&bytes), None);
    }

    #[test]
    fn proofs_add_up() {
        let text = b"one\ntwo\nthree\n";
        let all = [0..4, 4..8, 8..14].map(|part| Batch::of(Position(part.start as u64), &text[part], 0));
        let sum = all.iter().fold(Proof::default(), Proof::followed_by);
        assert_eq!(sum, Proof { length: 14, crc: checksum::crc32c(text) });
        let long = Proof { length: PROOF_BYTES, crc: 1 };
        assert_eq!(long.followed_by(&all[0]), Proof { length: 4, crc: all[0].crc });
    }

    #[test]
    fn names_come_back() {
        assert_eq!(journal_name(0, 17), "0-17");
        assert_eq!(parse_journal_name("255-18446744073709551615"), Some((255, u64::MAX)));
        for name in ["", "-", "0-", "00-1", "1-01", "1-2-3", "+1-2", "65536-1", "reserve"] {
            assert_eq!(parse_journal_name(name), None, "{name}");
        }
    }
}

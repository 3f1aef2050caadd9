//! One log's tail: what is staged, what is being written, and where the next byte goes. No I/O.
//!
//! ```text
//!  segment file:   base … written | in flight | full batches … | filling        staged, in order
//!                                                                ^ entries are copied here
//!  file:   Absent ──Create──► Opening ──► Open ◄──Open── Opening ◄── Closed
//!                                          └───────── close, or roll (Create) ──────►
//! ```
//! Invariants: one operation in flight at most, so a file never has a hole; the bytes of the segment are
//! `written + in flight + staged = assigned` until a roll is staged; a roll begins only when the old segment is whole.

use std::collections::VecDeque;
use std::time::Duration;

use super::index::{Batch as Written, IndexBlock, OpenBlock, count_lines};
use super::journal::Proof;
use super::{LogName, Offset, Position};
use crate::buf::{BufferPool, WriteBuf, class_for};
use crate::limits::{ROLL_GAP, STAGING_BYTES_MAX, STAGING_BYTES_MIN};
use crate::time::Time;
use crate::wire::Entry;

/// A file that the driver opened: an index into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// What a log asks for next. It asks for one thing at a time.
#[derive(Debug)]
pub enum AppendOp {
    /// Create the segment that starts at `base`; `close` is the previous one, if it is open.
    Create {
        /// Offset of the new segment's first byte.
        base: Offset,
        /// The segment that ends here.
        close: Option<FileId>,
        /// A poisoned segment has this name.
        replaces: bool,
        /// The last block of that one's index.
        sealed: Option<IndexBlock>,
    },
    /// Open the existing segment for writing.
    Open {
        /// The segment.
        base: Offset,
        /// Its length; any other length is an error.
        length: Position,
        /// Whether no block has begun that its last bytes belong to: its index should know of all of them.
        indexed: bool,
    },
    /// Write the rest of `buf` at `position`.
    Write {
        /// The open segment.
        file: FileId,
        /// Where the rest of the buffer goes.
        position: Position,
        /// What to write.
        buf: WriteBuf,
    },
}

/// When a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Before it grows past this many bytes.
    pub bytes: u64,
    /// With the first batch that begins this long after its first entry.
    pub age: Duration,
}

/// What an append changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entry joined a batch that was already gathering.
    Gathering,
    /// A new batch begins with it, or its batch got a larger buffer.
    Grown,
    /// A batch is full and waits to be written.
    Full,
}

/// What follows from a write that ended.
#[derive(Debug)]
pub enum Wrote {
    /// It was short: the write that continues at the exact byte.
    Rest(AppendOp),
    /// The buffer is done.
    Whole {
        /// What it brought.
        batch: Written,
        /// Blocks of the index that it closed: the one before it, for its time; its own, for its size.
        closed: [Option<IndexBlock>; 2],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Absent,
    Closed,
    Opening { create: bool },
    Open(FileId),
}

#[derive(Debug)]
struct Batch {
    buf: WriteBuf,
    opens_segment: bool,
}

/// Batches of a poisoned segment that are written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restaged {
    /// Bytes of them.
    pub bytes: u64,
    /// Capacity of their buffers.
    pub capacity: usize,
}

/// What is kept of batches that are in a file.
#[derive(Debug, Default)]
struct Held {
    /// Until they are synced: base of the segment, end there.
    retained: VecDeque<(Offset, Position, WriteBuf)>,
    /// What the last poisoned segment left to be written again.
    restaged: Option<Restaged>,
}

/// The appending end of one log.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about the segment at hand")]
pub struct Appender {
    name: LogName,
    base: Offset,
    written: Position,
    /// End of the last batch that was written whole.
    recorded: Position,
    /// Few logs need it: a cold one is small.
    held: Option<Box<Held>>,
    /// The segment at hand takes nothing more.
    poisoned: bool,
    /// Batches are kept until they are synced.
    retains: bool,
    /// The segment that is being made has the name of a poisoned one.
    replaces: bool,
    assigned: u64,
    file: File,
    writing: bool,
    filling_opens_segment: bool,
    class: u8,
    filling: Option<WriteBuf>,
    full: VecDeque<Batch>,
    /// The segment does not roll before, whatever its size: `tail -F` keeps up.
    roll_from: Time,
    /// It rolls with the first batch that begins then or later, whatever its size.
    roll_at: Time,
    block: OpenBlock,
}

impl Appender {
    /// A log that has no segment yet.
    #[must_use]
    pub fn new(name: impl Into<LogName>) -> Self {
        Self::at(name.into(), Offset::START, Position::START, File::Absent)
    }

    /// A log whose newest segment ends at `length`, and is old at `roll_at`.
    #[must_use]
    pub fn resume(name: LogName, base: Offset, length: Position, roll_at: Time) -> Self {
        Self { roll_at, ..Self::at(name, base, length, File::Closed) }
    }

    fn at(name: LogName, base: Offset, written: Position, file: File) -> Self {
        Self {
            name,
            base,
            written,
            recorded: written,
            held: None,
            poisoned: false,
            retains: false,
            replaces: false,
            assigned: written.0,
            file,
            writing: false,
            filling_opens_segment: false,
            class: 0,
            filling: None,
            full: VecDeque::new(),
            roll_from: Time::default(),
            roll_at: Time::default(),
            block: OpenBlock::default(),
        }
    }

    /// Ends the segment with the next entry, if it has any.
    pub fn roll_next(&mut self) {
        self.roll_at = Time::default();
    }

    /// The log's name.
    #[must_use]
    pub fn name(&self) -> LogName {
        self.name
    }

    /// Offset of the first byte of the segment at hand.
    #[must_use]
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Where the next byte of the segment at hand goes.
    #[must_use]
    pub fn length(&self) -> Position {
        self.written
    }

    /// Where its last batch that was written whole ends.
    #[must_use]
    pub fn recorded(&self) -> Position {
        self.recorded
    }

    /// Checksum of what is written whole and in no block of the index yet.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.block.proof()
    }

    /// Whether bytes of a batch that is not whole are in the segment at hand, or may be.
    #[must_use]
    pub fn has_begun_a_batch(&self) -> bool {
        self.writing || self.written > self.recorded
    }

    /// The segment, if it is open.
    #[must_use]
    pub fn file(&self) -> Option<FileId> {
        match self.file {
            File::Open(file) => Some(file),
            _ => None,
        }
    }

    /// Whether the segment at hand was made; while a later one is being made, the one before it was.
    #[must_use]
    pub fn has_file(&self) -> bool {
        !matches!(self.file, File::Absent | File::Opening { create: true })
    }

    /// Whether entries wait for a write that is not under way.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        self.filling.is_some() || !self.full.is_empty() || self.has_to_write_again()
    }

    fn has_to_write_again(&self) -> bool {
        let last = self.held.as_ref().and_then(|held| held.retained.back());
        self.poisoned && last.is_some_and(|kept| kept.0 == self.base)
    }

    /// Whether a full batch waits.
    #[must_use]
    pub fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Whether an operation is in flight.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.writing || matches!(self.file, File::Opening { .. })
    }

    /// Whether a file of it is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.file, File::Open(_))
    }

    /// Whether the next operation opens or creates a file.
    #[must_use]
    pub fn needs_file(&self) -> bool {
        matches!(self.file, File::Absent | File::Closed) || self.next_opens_segment()
    }

    /// Size class of the largest staged batch, for choosing whom to write first when memory is short.
    #[must_use]
    pub fn staged_class(&self) -> Option<usize> {
        let full = self.full.front().map(|batch| batch.buf.class());
        full.max(self.filling.as_ref().map(WriteBuf::class))
    }

    /// Bytes that are staged and not being written.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        let full = self.full.iter().map(|batch| batch.buf.rest().len());
        let filling = self.filling.as_ref().map_or(0, |buf| buf.rest().len());
        (full.sum::<usize>() + filling) as u64
    }

    /// Whether so many bytes more leave the segment within its size.
    #[must_use]
    pub fn fits(&self, bytes: usize, segment: SegmentLimits) -> bool {
        self.assigned + bytes as u64 <= segment.bytes
    }

    /// An entry of so many bytes is about to be staged: the memory for it may come nearer.
    #[inline]
    pub fn expect(&mut self, bytes: usize) {
        if let Some(buf) = &mut self.filling {
            buf.fetch_room(bytes);
        }
    }

    /// Stages entries, an LF between them, and the LF that ends the last. `lines` is how many they are.
    #[inline]
    pub fn append(
        &mut self,
        entry: Entry<'_>,
        lines: u32,
        segment: SegmentLimits,
        pool: &mut BufferPool,
        now: Time,
    ) -> Appended {
        let needed = entry.len() + 1;
        if let Some(buf) = &mut self.filling
            && buf.room() >= needed
            && self.assigned + needed as u64 <= segment.bytes
        {
            buf.push(entry.head);
            buf.push(entry.tail);
            buf.push(b"\n");
            buf.add_lines(lines);
            self.assigned += needed as u64;
            return Appended::Gathering;
        }
        self.append_slowly(entry, segment, pool, now)
    }

    #[inline(never)]
    fn append_slowly(
        &mut self,
        entry: Entry<'_>,
        segment: SegmentLimits,
        pool: &mut BufferPool,
        now: Time,
    ) -> Appended {
        let class = self.filling.as_ref().map(WriteBuf::class);
        let batches = self.full.len();
        let needed = entry.len() + 1;
        let is_over = self.assigned + needed as u64 > segment.bytes || now >= self.roll_at;
        if self.assigned > 0 && is_over && now >= self.roll_from {
            self.stage_roll(now);
        }
        if self.assigned == 0 {
            self.roll_at = now + segment.age;
        }
        for part in [entry.head, entry.tail, b"\n"] {
            self.stage(part, needed, pool, now);
        }
        self.assigned += needed as u64;
        if self.full.len() > batches {
            Appended::Full
        } else if self.filling.as_ref().map(WriteBuf::class) != class {
            Appended::Grown
        } else {
            Appended::Gathering
        }
    }

    /// Ends the segment here: what is staged from now on goes to the next one.
    fn stage_roll(&mut self, now: Time) {
        self.finish_batch();
        self.filling_opens_segment = true;
        self.assigned = 0;
        self.roll_from = now + ROLL_GAP;
    }

    fn stage(&mut self, mut part: &[u8], needed: usize, pool: &mut BufferPool, now: Time) {
        while !part.is_empty() {
            let class = usize::from(self.class).max(class_for(needed.clamp(STAGING_BYTES_MIN, STAGING_BYTES_MAX)));
            let buf = self.filling.get_or_insert_with(|| {
                let mut buf = pool.take(class);
                buf.begin(now);
                buf
            });
            if buf.room() < part.len() && buf.class() < class_for(STAGING_BYTES_MAX) {
                let class = class_for((2 * buf.capacity()).max(buf.content().len() + needed).min(STAGING_BYTES_MAX));
                pool.grow(buf, class);
            }
            let (fits, later) = part.split_at(part.len().min(buf.room()));
            buf.push(fits);
            buf.add_lines(count_lines(fits));
            part = later;
            if !part.is_empty() {
                self.finish_batch();
            }
        }
    }

    /// The segment at hand takes nothing more: the next entry begins another. For one in which nothing is staged.
    pub fn seal(&mut self) {
        self.filling_opens_segment = true;
        self.assigned = 0;
    }

    fn finish_batch(&mut self) {
        if let Some(buf) = self.filling.take() {
            let opens_segment = std::mem::take(&mut self.filling_opens_segment);
            self.full.push_back(Batch { buf, opens_segment });
        }
    }

    fn next_opens_segment(&self) -> bool {
        self.poisoned || self.full.front().map_or(self.filling_opens_segment, |batch| batch.opens_segment)
    }

    /// The next operation, if there is something to write and nothing in flight.
    pub fn start(&mut self) -> Option<AppendOp> {
        if self.is_busy() || !self.has_staged() {
            return None;
        }
        if let Some(held) = &mut self.held {
            held.restaged = None;
        }
        match self.file {
            File::Open(file) if self.next_opens_segment() => Some(self.start_roll(Some(file))),
            File::Open(file) => Some(self.start_write(file)),
            File::Closed if self.next_opens_segment() => Some(self.start_roll(None)),
            File::Closed => {
                self.file = File::Opening { create: false };
                Some(AppendOp::Open { base: self.base, length: self.written, indexed: self.block.is_empty() })
            }
            File::Absent => {
                self.file = File::Opening { create: true };
                Some(AppendOp::Create { base: self.base, close: None, replaces: self.replaces, sealed: None })
            }
            File::Opening { .. } => None,
        }
    }

    fn start_roll(&mut self, close: Option<FileId>) -> AppendOp {
        self.replaces = false;
        if std::mem::take(&mut self.poisoned) {
            self.leave_poisoned();
        }
        match self.full.front_mut() {
            Some(batch) => batch.opens_segment = false,
            None => self.filling_opens_segment = false,
        }
        let sealed = self.block.close(self.base, self.written);
        self.base = self.written.in_log(self.base).expect("a log of 16 EiB fits no disk");
        self.written = Position::START;
        self.recorded = Position::START;
        self.file = File::Opening { create: true };
        AppendOp::Create { base: self.base, close, replaces: self.replaces, sealed }
    }

    /// What is kept of the segment is written again, in the one that begins where that is not known to be good.
    fn leave_poisoned(&mut self) {
        // The index of what stays is made up for from the text.
        self.block = OpenBlock::default();
        let (mut bytes, mut capacity) = (0, 0);
        if let Some(batch) = self.full.front_mut().filter(|batch| batch.buf.is_begun()) {
            if self.retains {
                bytes += batch.buf.rewind() as u64;
            } else {
                // Its beginning stays where it is.
                batch.buf.drop_done();
            }
        }
        if self.retains {
            self.written = self.recorded;
        }
        let held = self.held.get_or_insert_default();
        while let Some((_, end, mut buf)) = held.retained.pop_back_if(|kept| kept.0 == self.base) {
            buf.rewind();
            bytes += buf.content().len() as u64;
            capacity += buf.capacity();
            self.written = Position(end.0 - buf.content().len() as u64);
            self.full.push_front(Batch { buf, opens_segment: false });
        }
        self.replaces = self.written == Position::START;
        if !self.filling_opens_segment && !self.full.iter().any(|batch| batch.opens_segment) {
            self.assigned = self.staged_bytes();
        }
        self.held.get_or_insert_default().restaged = Some(Restaged { bytes, capacity });
    }

    /// Where that begins in the segment at hand which would be written again if this were given up; its recorded end if
    /// there is nothing. What an earlier run has written is not in memory.
    #[must_use]
    pub fn retained_from(&self) -> Position {
        let mut retained = self.held.iter().flat_map(|held| &held.retained);
        let first = retained.find(|kept| kept.0 == self.base);
        first.map_or(self.recorded, |(_, end, buf)| Position(end.0 - buf.content().len() as u64))
    }

    /// Nothing more is written to the segment at hand: the next operation makes another.
    pub fn poison(&mut self) {
        self.poisoned = true;
    }

    /// Whether the segment that is being made has the name of a poisoned one.
    #[must_use]
    pub fn replaces(&self) -> bool {
        self.replaces
    }

    /// Whether that is still to come.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// What the operation that was just started will write again.
    #[must_use]
    pub fn restaged(&self) -> Option<Restaged> {
        self.held.as_ref()?.restaged
    }

    /// What is kept of this segment, or of one before it, up to `end` is on the disk. Gives the capacity that is free now.
    pub fn release(&mut self, base: Offset, end: Position, pool: &mut BufferPool) -> usize {
        let Some(held) = &mut self.held else { return 0 };
        let mut capacity = 0;
        while let Some((_, _, buf)) = held.retained.pop_front_if(|kept| (kept.0, kept.1) <= (base, end)) {
            capacity += buf.capacity();
            pool.give(buf);
        }
        capacity
    }

    fn start_write(&mut self, file: FileId) -> AppendOp {
        self.writing = true;
        let buf = self.full.pop_front().map(|batch| batch.buf).or_else(|| self.filling.take());
        let buf = buf.expect("start() has seen that something is staged");
        AppendOp::Write { file, position: self.written, buf }
    }

    /// Whether the segment that is being opened is a new one.
    #[must_use]
    pub fn is_creating(&self) -> bool {
        self.file == File::Opening { create: true }
    }

    /// Whether the segment at hand is not the log's first.
    #[must_use]
    pub fn has_rolled(&self) -> bool {
        self.base != Offset::START
    }

    /// The file is open.
    pub fn opened(&mut self, file: FileId) {
        self.file = File::Open(file);
    }

    /// The file could not be opened or created; `start` will ask again.
    pub fn open_failed(&mut self) {
        self.file = if self.is_creating() { File::Absent } else { File::Closed };
    }

    /// Gives up the open file if nothing is in flight, to free a descriptor.
    pub fn close(&mut self) -> Option<FileId> {
        match self.file {
            File::Open(file) if !self.writing => {
                self.file = File::Closed;
                Some(file)
            }
            _ => None,
        }
    }

    /// `count` bytes of the buffer in flight are in the file. With `retains`, a buffer that is done stays until
    /// [`Appender::release`].
    pub fn wrote(&mut self, mut buf: WriteBuf, count: usize, retains: bool, pool: &mut BufferPool) -> Wrote {
        self.retains = retains;
        buf.advance(count);
        self.written = Position(self.written.0 + count as u64);
        if !buf.rest().is_empty() {
            return match self.file {
                File::Open(file) => Wrote::Rest(AppendOp::Write { file, position: self.written, buf }),
                _ => unreachable!("a file is not closed while a write is in flight"),
            };
        }
        let batch = Written::of(&buf);
        let closed = self.index(&batch, buf.content());
        // A large batch announces large ones. Where small ones are written because memory is short, the next begins with
        // less of it, and grows if it may.
        let bytes = buf.content().len();
        let next = if bytes > STAGING_BYTES_MAX / 4 { bytes } else { bytes / 2 };
        let next = next.clamp(STAGING_BYTES_MIN, STAGING_BYTES_MAX);
        self.class = u8::try_from(class_for(next)).expect("there are fewer than 256 size classes");
        self.recorded = self.written;
        if retains {
            self.held.get_or_insert_default().retained.push_back((self.base, self.written, buf));
        } else {
            pool.give(buf);
        }
        self.writing = false;
        Wrote::Whole { batch, closed }
    }

    fn index(&mut self, batch: &Written, bytes: &[u8]) -> [Option<IndexBlock>; 2] {
        let mut closed = [None; 2];
        if self.block.is_over(batch.since) {
            closed[0] = self.block.close(self.base, Position(self.written.0 - batch.len));
        }
        self.block.add(batch, bytes);
        if self.block.is_full() {
            closed[1] = self.block.close(self.base, self.written);
        }
        closed
    }

    /// The write failed: the buffer waits again, in front.
    pub fn write_failed(&mut self, buf: WriteBuf) {
        self.full.push_front(Batch { buf, opens_segment: false });
        self.writing = false;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::wire::Token;

    const SEGMENT: SegmentLimits = SegmentLimits { bytes: 3000, age: Duration::from_hours(1) };

    /// What the segments of a log must hold, entry by entry, however slowly they are written.
    #[derive(Debug)]
    struct Model {
        segments: Vec<Vec<u8>>,
        roll_from: Time,
    }

    impl Model {
        fn append(&mut self, entry: &[u8], now: Time) {
            let last = self.segments.last().expect("there is always one");
            let bytes = (last.len() + entry.len() + 1) as u64;
            if !last.is_empty() && bytes > SEGMENT.bytes && now >= self.roll_from {
                self.segments.push(Vec::new());
                self.roll_from = now + ROLL_GAP;
            }
            let last = self.segments.last_mut().expect("there is always one");
            last.extend(entry);
            last.push(b'\n');
        }
    }

    /// Does one operation at a time, and now and then refuses it.
    #[derive(Default)]
    struct Disk {
        segments: BTreeMap<u64, Vec<u8>>,
        open: Option<u64>,
        in_flight: Option<AppendOp>,
        blocks: Vec<IndexBlock>,
    }

    impl Disk {
        fn finish(&mut self, appender: &mut Appender, pool: &mut BufferPool, random: usize) {
            let refuses = random.is_multiple_of(4);
            if let Some(AppendOp::Create { close, .. }) = &mut self.in_flight {
                // The old segment is closed even if the new one cannot be made.
                assert_eq!(close.take().is_some(), self.open.take().is_some());
            }
            match self.in_flight.take() {
                None => {
                    self.in_flight = appender.start();
                    if let Some(AppendOp::Create { sealed: Some(block), .. }) = self.in_flight {
                        self.blocks.push(block);
                    }
                }
                Some(AppendOp::Create { .. } | AppendOp::Open { .. }) if refuses => appender.open_failed(),
                Some(AppendOp::Create { base, .. }) => {
                    let end = self.segments.last_key_value().map_or(0, |(base, bytes)| base + bytes.len() as u64);
                    assert_eq!(base.0, end);
                    self.segments.insert(base.0, Vec::new());
                    self.open = Some(base.0);
                    appender.opened(FileId(0));
                }
                Some(AppendOp::Open { base, length, .. }) => {
                    assert_eq!(self.segments[&base.0].len() as u64, length.0);
                    self.open = Some(base.0);
                    appender.opened(FileId(0));
                }
                Some(AppendOp::Write { buf, .. }) if refuses => appender.write_failed(buf),
                Some(AppendOp::Write { position, buf, .. }) => {
                    let bytes = self.segments.get_mut(&self.open.expect("it is open")).expect("it exists");
                    assert_eq!(position.0, bytes.len() as u64);
                    let count = 1 + random % buf.rest().len();
                    bytes.extend(&buf.rest()[..count]);
                    match appender.wrote(buf, count, false, pool) {
                        Wrote::Rest(op) => self.in_flight = Some(op),
                        Wrote::Whole { closed, .. } => self.blocks.extend(closed.into_iter().flatten()),
                    }
                }
            }
        }

        /// Blocks tile every segment, but for the end of the last one, and say what is there.
        fn check_blocks(&self, seed: u64) {
            let newest = *self.segments.last_key_value().expect("there is one").0;
            for (&base, bytes) in &self.segments {
                let mut end = 0;
                for block in self.blocks.iter().filter(|block| block.base.0 == base) {
                    assert_eq!(block.start.0, end, "seed {seed}");
                    let bytes = &bytes[usize::try_from(end).expect("small")..];
                    end = block.end.0;
                    let bytes = &bytes[..usize::try_from(end - block.start.0).expect("small")];
                    let (lines, crc32c) =
                        (super::super::index::count_lines(bytes), crate::segment::checksum::crc32c(bytes));
                    assert_eq!((block.lines, block.crc32c), (lines, crc32c), "seed {seed}");
                }
                assert!(end == bytes.len() as u64 || base == newest, "seed {seed}: {end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn an_old_segment_rolls_with_the_next_entry() {
        let mut pool = BufferPool::new(1 << 20);
        let token = Token::from_bytes([7; 16]);
        let mut appender = Appender::resume(token.into(), Offset(0), Position(0), Time::default());
        let mut disk = Disk::default();
        disk.segments.insert(0, Vec::new());
        let at = |seconds| Time::new(Duration::from_secs(seconds));
        let mut append = |appender: &mut Appender, disk: &mut Disk, seconds| {
            appender.append(b"a"[..].into(), 1, SEGMENT, &mut pool, at(seconds));
            while disk.in_flight.is_some() || appender.has_staged() {
                disk.finish(appender, &mut pool, 1);
            }
            disk.segments.len()
        };
        // The age counts from a segment's first entry, and an empty one never rolls.
        assert_eq!(append(&mut appender, &mut disk, 5000), 1);
        assert_eq!(append(&mut appender, &mut disk, 8599), 1);
        assert_eq!(append(&mut appender, &mut disk, 8600), 2);
        assert_eq!(append(&mut appender, &mut disk, 8601), 2);
        appender.roll_next();
        assert_eq!(append(&mut appender, &mut disk, 8602), 3);
        assert_eq!(append(&mut appender, &mut disk, 8603), 3);
        let mut resumed = Appender::resume(token.into(), Offset(0), Position(2), at(9));
        let mut disk = Disk::default();
        disk.segments.insert(0, b"a\n".to_vec());
        assert_eq!(append(&mut resumed, &mut disk, 8), 1);
        assert_eq!(append(&mut resumed, &mut disk, 9), 2);
    }

    #[test]
    fn segments_equal_the_model() {
        for seed in 0..300 {
            let mut state: u64 = seed;
            let mut random = || {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                usize::try_from(state >> 40).expect("24 bits fit")
            };
            let mut pool = BufferPool::new(1 << 20);
            let mut appender = Appender::new(Token::from_bytes([7; 16]));
            let mut model = Model { segments: vec![Vec::new()], roll_from: Time::default() };
            let mut disk = Disk::default();
            let mut now = Time::default();
            let slow = 1 + random() % 30;
            for number in 0..400 {
                let length = if random() % 100 == 0 { random() % (2 * STAGING_BYTES_MAX) } else { random() % 900 };
                let lines = if number % 7 == 0 { 2 } else { 1 };
                let between = if lines == 2 { "\n" } else { " " };
                let entry = format!("{number}{between}{}", "z".repeat(length));
                now = now + Duration::from_millis(u64::try_from(random() % 60).expect("it is small"));
                appender.append(entry.as_bytes().into(), lines, SEGMENT, &mut pool, now);
                model.append(entry.as_bytes(), now);
                if random() % slow == 0 {
                    disk.finish(&mut appender, &mut pool, random());
                }
                if random() % 20 == 0 && appender.close().is_some() {
                    disk.open = None;
                }
            }
            while disk.in_flight.is_some() || appender.has_staged() {
                disk.finish(&mut appender, &mut pool, random());
            }
            disk.check_blocks(seed);
            assert!(disk.segments.into_values().eq(model.segments), "seed {seed}");
            assert_eq!(pool.used(), 0, "seed {seed}");
        }
    }
}

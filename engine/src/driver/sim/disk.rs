//! Files in memory on a disk of limited size, which holds the core to its promises.
//!
//! Asserted at every operation: a log has one in flight; a write begins exactly where its file ends; a segment begins
//! where the one before it ended; a file is neither closed under a write nor used after it was closed; a block of an index
//! begins where the one before it ended, and says what the segment holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::chance::{Chance, Fault};
use crate::buf::WriteBuf;
use crate::handover::ShardId;
use crate::route::LogId;
use crate::segment::checksum;
use crate::segment::{FileId, IndexBlock, LogName, Offset, Position};
use crate::shard::{Completion, Op};
use crate::wire::Token;

const EIO: i32 = 5;

#[derive(Debug)]
pub(super) struct Disk {
    segments: BTreeMap<(LogName, Offset), Vec<u8>>,
    current: BTreeMap<LogName, Offset>,
    /// Up to where segments are indexed.
    indexed: BTreeMap<(LogName, Offset), Position>,
    open: Vec<Option<OpenFile>>,
    /// Logs with an operation in flight, by shard and number.
    busy: BTreeSet<(u16, u32)>,
    used: u64,
    pub(super) capacity: u64,
}

#[derive(Debug)]
struct OpenFile {
    name: LogName,
    base: Offset,
    writing: bool,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            segments: BTreeMap::new(),
            current: BTreeMap::new(),
            indexed: BTreeMap::new(),
            open: Vec::new(),
            busy: BTreeSet::new(),
            used: 0,
            capacity: u64::MAX,
        }
    }

    /// A log's segments in order: base and bytes.
    pub(super) fn segments(&self, name: LogName) -> impl Iterator<Item = (Offset, &[u8])> {
        let all = (name, Offset::START)..=(name, Offset(u64::MAX));
        self.segments.range(all).map(|(&(_, base), bytes)| (base, bytes.as_slice()))
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.current.keys().filter_map(|name| match name {
            LogName::Token(token) => Some(*token),
            LogName::Rejected(_) => None,
        })
    }

    /// The segment that `current` names.
    pub(super) fn current(&self, name: LogName) -> Option<Offset> {
        self.current.get(&name).copied()
    }

    pub(super) fn open_files(&self) -> usize {
        self.open.iter().flatten().count()
    }

    /// Puts a segment on the disk before the shard starts.
    pub(super) fn add(&mut self, name: LogName, base: Offset, bytes: &[u8]) {
        self.used += bytes.len() as u64;
        self.segments.insert((name, base), bytes.to_vec());
        self.indexed.insert((name, base), Position(bytes.len() as u64));
        self.current.insert(name, base);
    }

    /// The order of an operation that takes effect later.
    pub(super) fn begin(&mut self, shard: ShardId, op: &Op) {
        let (Op::CreateSegment { log, .. } | Op::OpenSegment { log, .. } | Op::Write { log, .. }) = op else {
            unreachable!("the disk takes no {op:?}")
        };
        assert!(self.busy.insert((shard.0, log.0)), "{log:?} has two operations in flight");
        if let Op::Write { file, position, buf, .. } = op {
            assert!(!buf.rest().is_empty(), "a write of nothing");
            let length = self.bytes(*file).len() as u64;
            assert_eq!(position.0, length, "a hole or an overwrite in a segment of {log:?}");
            self.file(*file).writing = true;
        }
    }

    pub(super) fn close(&mut self, file: FileId) {
        assert!(!self.file(file).writing, "{file:?} is closed under a write");
        self.open[file.0 as usize] = None;
    }

    /// A block for an index.
    pub(super) fn index(&mut self, name: LogName, block: &IndexBlock) {
        let bytes = &self.segments[&(name, block.base)];
        let end = self.indexed.entry((name, block.base)).or_insert(Position::START);
        assert_eq!(*end, block.start, "a gap or an overlap between blocks of {name:?}");
        *end = block.end;
        let index = |position: Position| usize::try_from(position.0).expect("a simulation writes little");
        let bytes = &bytes[index(block.start)..index(block.end)];
        let found = (crate::segment::index::count_lines(bytes), checksum::crc32c(bytes));
        assert_eq!((block.lines, block.crc32c), found, "a block of {name:?}");
    }

    /// Up to where a segment is indexed.
    pub(super) fn indexed(&self, token: Token, base: Offset) -> Position {
        self.indexed.get(&(token.into(), base)).copied().unwrap_or_default()
    }

    /// An operation takes effect.
    pub(super) fn finish(&mut self, shard: ShardId, op: Op, chance: &mut Chance) -> Completion {
        let (Op::CreateSegment { log, .. } | Op::OpenSegment { log, .. } | Op::Write { log, .. }) = op else {
            unreachable!("the disk takes no {op:?}")
        };
        self.busy.remove(&(shard.0, log.0));
        match op {
            Op::CreateSegment { log, name, base } => {
                Completion::Opened { log, result: self.create(name, base, chance) }
            }
            Op::OpenSegment { log, name, base, length, .. } => {
                Completion::Opened { log, result: self.open_segment(name, base, length, chance) }
            }
            Op::Write { log, file, buf, .. } => self.written(log, file, buf, chance),
            other => unreachable!("the disk takes no {other:?}"),
        }
    }

    fn create(&mut self, name: LogName, base: Offset, chance: &mut Chance) -> io::Result<FileId> {
        let before = self.segments.range((name, Offset::START)..(name, base)).next_back();
        let ends_at = before.map_or(0, |((_, base), bytes)| base.0 + bytes.len() as u64);
        assert_eq!(ends_at, base.0, "a gap or an overlap between segments of {name:?}");
        let full = self.used >= self.capacity && chance.one_in(2);
        let fault = open_fault(full, chance);
        // A create that fails in its last step leaves an empty file behind.
        if fault.is_none() || chance.one_in(2) {
            let bytes = self.segments.entry((name, base)).or_default();
            assert!(bytes.is_empty(), "a segment of {name:?} is created twice");
        }
        if let Some(error) = fault {
            return Err(error);
        }
        self.current.insert(name, base);
        Ok(self.open(name, base))
    }

    fn open_segment(
        &mut self,
        name: LogName,
        base: Offset,
        length: Position,
        chance: &mut Chance,
    ) -> io::Result<FileId> {
        let bytes = self.segments.get(&(name, base)).expect("only what exists is opened");
        assert_eq!(bytes.len() as u64, length.0, "the length of a segment of {name:?}");
        match open_fault(false, chance) {
            Some(error) => Err(error),
            None => Ok(self.open(name, base)),
        }
    }

    fn open(&mut self, name: LogName, base: Offset) -> FileId {
        let twice = self.open.iter().flatten().any(|file| file.name == name);
        assert!(!twice, "two files of {name:?} are open");
        let slot = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if slot == self.open.len() {
            self.open.push(None);
        }
        self.open[slot] = Some(OpenFile { name, base, writing: false });
        FileId(u32::try_from(slot).expect("a simulation opens few files"))
    }

    fn written(&mut self, log: LogId, file: FileId, buf: WriteBuf, chance: &mut Chance) -> Completion {
        self.file(file).writing = false;
        let result = self.write(file, buf.rest(), chance);
        Completion::Written { log, buf, result }
    }

    fn write(&mut self, file: FileId, rest: &[u8], chance: &mut Chance) -> io::Result<usize> {
        if chance.strikes(Fault::WriteInterrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if chance.strikes(Fault::WriteFailed) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let room = usize::try_from(self.capacity.saturating_sub(self.used)).unwrap_or(usize::MAX);
        if room == 0 || chance.strikes(Fault::WriteRefused) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut count = rest.len().min(room);
        if chance.strikes(Fault::ShortWrite) {
            count = 1 + chance.below(count);
        }
        self.bytes(file).extend_from_slice(&rest[..count]);
        self.used += count as u64;
        Ok(count)
    }

    fn file(&mut self, file: FileId) -> &mut OpenFile {
        self.open[file.0 as usize].as_mut().expect("only open files are used")
    }

    fn bytes(&mut self, file: FileId) -> &mut Vec<u8> {
        let OpenFile { name, base, .. } = *self.file(file);
        self.segments.get_mut(&(name, base)).expect("an open file has bytes")
    }
}

fn open_fault(full: bool, chance: &mut Chance) -> Option<io::Error> {
    if chance.strikes(Fault::OpenFailed) {
        return Some(io::Error::from_raw_os_error(EIO));
    }
    (chance.strikes(Fault::OpenRefused) || full).then(|| io::ErrorKind::StorageFull.into())
}

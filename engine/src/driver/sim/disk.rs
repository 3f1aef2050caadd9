//! Files in memory on a disk of limited size, which holds the core to its promises.
//!
//! Asserted at every operation: a log has one in flight; a write begins exactly where its file ends; a segment begins
//! where the one before it ended; a file is neither closed under a write nor used after it was closed; a block of an index
//! begins where the one before it ended, and says what the segment holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::chance::{Chance, Fault};
use super::store::Stored;
use crate::handover::ShardId;
use crate::route::LogId;
use crate::segment::journal::{RunId, SegmentNumber};
use crate::segment::{
    FileId, IndexBlock, JOURNAL, LogName, Offset, Position, QUARANTINE, checksum, counted_name, given_up_name,
    segment_name,
};
use crate::shard::{Completion, JournalId, Op, Sync};
use crate::wire::Token;

const EIO: i32 = 5;

#[derive(Debug)]
pub(super) struct Disk {
    /// The run of the engine.
    run: RunId,
    segments: BTreeMap<(LogName, Offset), Stored>,
    journals: BTreeMap<JournalId, Stored>,
    /// Segments without a name, in the order in which they lost it: as long as that is not on the disk, a power cut may
    /// bring them back.
    unlinked: Vec<(u64, Path, Stored)>,
    unlinks: u64,
    /// Syncs under way, by shard.
    syncs: BTreeMap<u16, Held>,
    /// How often pages were lost, and how many of these times each shard's syncs of the file system have told.
    losses: u64,
    losses_told: BTreeMap<u16, u64>,
    /// Segments that gave their names away, in the order in which they did.
    quarantined: BTreeMap<(LogName, Offset, SegmentNumber, u64), Stored>,
    current: BTreeMap<LogName, Offset>,
    /// Up to where segments are indexed.
    indexed: BTreeMap<(LogName, Offset), Position>,
    open: Vec<Option<OpenFile>>,
    /// Logs and journals with an operation in flight, by shard.
    busy: BTreeSet<(u16, Option<LogId>)>,
    pub(super) used: u64,
    pub(super) capacity: u64,
}

#[derive(Debug)]
struct OpenFile {
    path: Path,
    writing: bool,
}

/// What a sync covers: files with their lengths when it began, and so many of the unlinks.
#[derive(Debug)]
struct Held {
    files: Vec<(Path, usize)>,
    unlinks: u64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Path {
    Segment(LogName, Offset),
    /// The one of this number, and how often that was moved by then, this time included.
    Quarantined(LogName, Offset, SegmentNumber, u64),
    Journal(JournalId),
}

impl Disk {
    pub(super) fn new(run: RunId) -> Self {
        Self {
            run,
            segments: BTreeMap::new(),
            journals: BTreeMap::new(),
            unlinked: Vec::new(),
            unlinks: 0,
            syncs: BTreeMap::new(),
            losses: 0,
            losses_told: BTreeMap::new(),
            quarantined: BTreeMap::new(),
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
        self.segments.range(all).map(|(&(_, base), stored)| (base, stored.bytes.as_slice()))
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.current.keys().filter_map(|name| match name {
            LogName::Token(token) => Some(*token),
            LogName::Rejected(_) => None,
        })
    }

    /// Segments of a log that gave their names away, those of one base in the order in which they did.
    pub(super) fn quarantined(&self, name: LogName) -> impl Iterator<Item = (Offset, &[u8])> {
        let its = self.quarantined.iter().filter(move |(key, _)| key.0 == name);
        its.map(|(&(_, base, ..), stored)| (base, stored.bytes.as_slice()))
    }

    /// The segment that `current` names.
    pub(super) fn current(&self, name: LogName) -> Option<Offset> {
        self.current.get(&name).copied()
    }

    /// Segments that are open.
    pub(super) fn open_files(&self) -> usize {
        self.open.iter().flatten().filter(|file| matches!(file.path, Path::Segment(..))).count()
    }

    /// Puts the journal that recovery would have begun on the disk before its shard starts.
    pub(super) fn add_journal(&mut self, journal: JournalId, bytes: Vec<u8>) {
        self.journals.insert(journal, Stored::durable(bytes));
    }

    /// All journals, by shard and generation.
    pub(super) fn journals(&self) -> impl Iterator<Item = (JournalId, &[u8])> {
        self.journals.iter().map(|(&journal, stored)| (journal, stored.bytes.as_slice()))
    }

    /// Puts a segment on the disk before the shard starts.
    pub(super) fn add(&mut self, name: LogName, base: Offset, bytes: &[u8]) {
        self.used += bytes.len() as u64;
        self.segments.insert((name, base), Stored::durable(bytes.to_vec()));
        self.indexed.insert((name, base), Position(bytes.len() as u64));
        self.current.insert(name, base);
    }

    /// The order of an operation that takes effect later.
    pub(super) fn begin(&mut self, shard: ShardId, op: &Op) {
        if let Op::Sync(sync) = op {
            let unlinks = if sync.whole { self.unlinks } else { 0 };
            let held = Held { files: self.sync_scope(sync), unlinks };
            return assert!(self.syncs.insert(shard.0, held).is_none(), "two syncs of {shard:?} are under way");
        }
        let who = who(op);
        assert!(self.busy.insert((shard.0, who)), "{who:?} has two operations in flight");
        if let Op::Write { file, position, buf, .. } | Op::WriteJournal { file, position, buf } = op {
            assert!(!buf.rest().is_empty(), "a write of nothing");
            let length = self.bytes(*file).len() as u64;
            assert_eq!(position.0, length, "a hole or an overwrite in a file of {who:?}");
            self.file(*file).writing = true;
        }
    }

    pub(super) fn close(&mut self, file: FileId) {
        assert!(!self.file(file).writing, "{file:?} is closed under a write");
        self.open[file.0 as usize] = None;
    }

    /// A block for an index.
    pub(super) fn index(&mut self, name: LogName, block: &IndexBlock) {
        let bytes = &self.segments[&(name, block.base)].bytes;
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
        if let Op::Sync(sync) = op {
            return self.synced(shard, sync, chance);
        }
        self.busy.remove(&(shard.0, who(&op)));
        match op {
            Op::CreateSegment { log, name, base, replaces } => {
                if let Some(number) = replaces {
                    self.quarantine(name, base, number);
                }
                Completion::Opened { log, result: self.create(name, base, chance) }
            }
            Op::OpenSegment { log, name, base, length, .. } => {
                Completion::Opened { log, result: self.open_segment(name, base, length, chance) }
            }
            Op::Write { log, file, buf, .. } => {
                self.file(file).writing = false;
                let result = self.write(file, buf.rest(), chance);
                Completion::Written { log, buf, result }
            }
            Op::OpenJournal { journal, length } => {
                let bytes = self.journals.get(&journal).expect("recovery has made it");
                assert_eq!(bytes.bytes.len() as u64, length.0, "the length of {journal:?}");
                Completion::JournalOpened(self.open_journal(journal, chance))
            }
            Op::CreateJournal(journal) => {
                let before = self.journals.insert(journal, Stored::default());
                assert!(before.is_none_or(|before| before.bytes.is_empty()), "{journal:?} is made twice");
                Completion::JournalOpened(self.open_journal(journal, chance))
            }
            Op::WriteJournal { file, buf, .. } => {
                self.file(file).writing = false;
                let result = self.write_journal(file, buf.rest(), chance);
                Completion::JournalWritten { buf, result }
            }
            other => unreachable!("the disk takes no {other:?}"),
        }
    }

    /// Moves a segment out of the way; a sync that is under way is of this one.
    fn quarantine(&mut self, name: LogName, base: Offset, number: SegmentNumber) {
        let Some(stored) = self.segments.remove(&(name, base)) else { return };
        self.indexed.remove(&(name, base));
        let same = (name, base, number, 0)..=(name, base, number, u64::MAX);
        let count = 1 + self.quarantined.range(same).count() as u64;
        let held = self.syncs.values_mut().flat_map(|held| &mut held.files);
        for (path, _) in held.filter(|(path, _)| *path == Path::Segment(name, base)) {
            *path = Path::Quarantined(name, base, number, count);
        }
        self.quarantined.insert((name, base, number, count), stored);
    }

    fn create(&mut self, name: LogName, base: Offset, chance: &mut Chance) -> io::Result<FileId> {
        let before = self.segments.range((name, Offset::START)..(name, base)).next_back();
        let ends_at = before.map_or(0, |((_, base), stored)| base.0 + stored.bytes.len() as u64);
        // What a poisoned segment holds too much is cut later.
        assert!(
            ends_at == base.0 || (self.losses > 0 && ends_at > base.0),
            "a gap or an overlap between segments of {name:?}"
        );
        let full = self.used >= self.capacity && chance.one_in(2);
        let fault = open_fault(full, chance);
        // A create that fails in its last step leaves an empty file behind.
        if fault.is_none() || chance.one_in(2) {
            let stored = self.segments.entry((name, base)).or_default();
            assert!(stored.bytes.is_empty(), "a segment of {name:?} is created twice");
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
        assert_eq!(bytes.bytes.len() as u64, length.0, "the length of a segment of {name:?}");
        match open_fault(false, chance) {
            Some(error) => Err(error),
            None => Ok(self.open(name, base)),
        }
    }

    fn open_journal(&mut self, journal: JournalId, chance: &mut Chance) -> io::Result<FileId> {
        if chance.strikes(Fault::JournalRefused) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.open_path(Path::Journal(journal)))
    }

    /// Takes room too: what a disk has left after it was full may go to the journal.
    fn write_journal(&mut self, file: FileId, rest: &[u8], chance: &mut Chance) -> io::Result<usize> {
        if chance.strikes(Fault::JournalInterrupted) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if chance.strikes(Fault::JournalFailed) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let room = usize::try_from(self.capacity.saturating_sub(self.used)).unwrap_or(usize::MAX);
        if room == 0 || chance.strikes(Fault::JournalRefused) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let most = rest.len().min(room);
        let count = if chance.strikes(Fault::JournalShort) { 1 + chance.below(most) } else { most };
        self.append(file, &rest[..count]);
        Ok(count)
    }

    fn open(&mut self, name: LogName, base: Offset) -> FileId {
        let is_its = |file: &OpenFile| matches!(file.path, Path::Segment(other, _) if other == name);
        assert!(!self.open.iter().flatten().any(is_its), "two files of {name:?} are open");
        self.open_path(Path::Segment(name, base))
    }

    fn open_path(&mut self, path: Path) -> FileId {
        let slot = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if slot == self.open.len() {
            self.open.push(None);
        }
        self.open[slot] = Some(OpenFile { path, writing: false });
        FileId(u32::try_from(slot).expect("a simulation opens few files"))
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
        self.append(file, &rest[..count]);
        Ok(count)
    }

    fn append(&mut self, file: FileId, bytes: &[u8]) {
        self.bytes(file).extend_from_slice(bytes);
        self.used += bytes.len() as u64;
    }

    fn file(&mut self, file: FileId) -> &mut OpenFile {
        self.open[file.0 as usize].as_mut().expect("only open files are used")
    }

    fn bytes(&mut self, file: FileId) -> &mut Vec<u8> {
        let path = self.file(file).path;
        &mut self.stored(path).expect("an open file has bytes").bytes
    }

    fn stored(&mut self, path: Path) -> Option<&mut Stored> {
        match path {
            Path::Segment(name, base) => self.segments.get_mut(&(name, base)),
            Path::Quarantined(name, base, number, count) => self.quarantined.get_mut(&(name, base, number, count)),
            Path::Journal(journal) => self.journals.get_mut(&journal),
        }
    }

    fn all(&self) -> impl Iterator<Item = (Path, &Stored)> {
        let segments = self.segments.iter().map(|(&(name, base), stored)| (Path::Segment(name, base), stored));
        segments.chain(self.journals.iter().map(|(&journal, stored)| (Path::Journal(journal), stored)))
    }

    // Durability.

    /// What a sync covers, and how long it is now.
    fn sync_scope(&mut self, sync: &Sync) -> Vec<(Path, usize)> {
        if sync.whole {
            return self.all().map(|(path, stored)| (path, stored.bytes.len())).collect();
        }
        let files = sync.segments.iter().map(|(_, file)| *file).chain([sync.journal]);
        let paths: Vec<Path> = files.map(|file| self.file(file).path).collect();
        let length = |path| (path, self.stored(path).map_or(0, |stored| stored.bytes.len()));
        paths.into_iter().map(length).collect()
    }

    fn synced(&mut self, shard: ShardId, mut sync: Sync, chance: &mut Chance) -> Completion {
        let Held { files: held, unlinks } = self.syncs.remove(&shard.0).expect("it was begun");
        (sync.failed, sync.journal_failed) = (Vec::new(), false);
        if chance.strikes(Fault::SyncFailed) {
            self.losses += 1;
            let dirty = |(path, _): &&(Path, usize)| self.is_dirty(*path);
            let dirty: Vec<Path> = held.iter().filter(dirty).map(|(path, _)| *path).collect();
            if !dirty.is_empty() {
                let path = dirty[chance.below(dirty.len())];
                self.stored(path).expect("it is dirty").loses();
            }
        }
        // As every shard has a descriptor of its own, each is told of each loss, once.
        let fails = sync.whole && self.losses_told.insert(shard.0, self.losses).unwrap_or_default() < self.losses;
        let mut result = Ok(());
        if fails {
            result = Err(io::Error::from_raw_os_error(EIO));
        } else if !sync.whole {
            for (index, &(path, _)) in held.iter().enumerate() {
                if self.stored(path).is_some_and(Stored::takes_error) {
                    match sync.segments.get(index) {
                        Some(&(log, _)) => sync.failed.push(log),
                        None => sync.journal_failed = true,
                    }
                    result = Err(io::Error::from_raw_os_error(EIO));
                }
            }
        }
        if !fails {
            self.unlinked.retain(|&(number, ..)| number >= unlinks);
        }
        for &(path, length) in held.iter().filter(|_| !fails) {
            if let Some(stored) = self.stored(path) {
                stored.synced(length, sync.whole);
            }
        }
        Completion::Synced { sync, result }
    }

    fn is_dirty(&self, path: Path) -> bool {
        let stored = match path {
            Path::Segment(name, base) => self.segments.get(&(name, base)),
            Path::Quarantined(name, base, number, count) => self.quarantined.get(&(name, base, number, count)),
            Path::Journal(journal) => self.journals.get(&journal),
        };
        stored.is_some_and(Stored::is_dirty)
    }

    pub(super) fn cut(&mut self, name: LogName, base: Offset, length: Position) {
        if let Some(stored) = self.stored(Path::Segment(name, base)) {
            let length = usize::try_from(length.0).expect("a simulated file is small");
            assert!(stored.bytes.len() >= length, "a cut that makes a segment of {name:?} longer");
            stored.cut(length);
        }
    }

    /// The control side deletes a sealed segment.
    pub(super) fn unlink(&mut self, name: LogName, base: Offset) {
        let stored = self.segments.remove(&(name, base)).expect("only what exists is deleted");
        self.indexed.remove(&(name, base));
        self.unlinked.push((self.unlinks, Path::Segment(name, base), stored));
        self.unlinks += 1;
    }

    pub(super) fn remove_journals(&mut self, oldest: JournalId) {
        self.journals.retain(|journal, _| journal.shard != oldest.shard || *journal >= oldest);
    }

    /// What is left when the process is killed, or, with chance, the power fails: paths below the data directory, and
    /// their bytes.
    pub(super) fn crashed(&self, mut power_cut: Option<Chance>) -> Vec<(String, Vec<u8>)> {
        let back = |chance: &mut Option<Chance>| chance.as_mut().is_some_and(|chance| chance.one_in(2));
        let unlinked = self.unlinked.iter().filter(|_| back(&mut power_cut)).map(|(_, path, stored)| (*path, stored));
        let unlinked: Vec<_> = unlinked.collect();
        let quarantined = self.quarantined.iter();
        let quarantined = quarantined
            .map(|(&(name, base, number, count), stored)| (Path::Quarantined(name, base, number, count), stored));
        let files = self.all().chain(unlinked).chain(quarantined).filter_map(|(path, stored)| {
            let bytes = match &mut power_cut {
                Some(chance) => stored.after_power_cut(chance)?,
                None => stored.bytes.clone(),
            };
            Some((path.name(self.run), bytes))
        });
        files.collect()
    }
}

impl Path {
    fn name(self, run: RunId) -> String {
        match self {
            Self::Segment(name, base) => format!("{name}/{}", segment_name(base)),
            Self::Quarantined(name, base, number, count) => {
                let name = given_up_name(name, base, (run, number));
                format!("{QUARANTINE}/{}", counted_name(&name, count))
            }
            Self::Journal(journal) => format!("{JOURNAL}/{}", journal.name()),
        }
    }
}

/// Who has one operation in flight at a time: a log, or the journal.
fn who(op: &Op) -> Option<LogId> {
    match op {
        Op::CreateSegment { log, .. } | Op::OpenSegment { log, .. } | Op::Write { log, .. } => Some(*log),
        Op::OpenJournal { .. } | Op::CreateJournal(_) | Op::WriteJournal { .. } => None,
        other => unreachable!("the disk takes no {other:?}"),
    }
}

fn open_fault(full: bool, chance: &mut Chance) -> Option<io::Error> {
    if chance.strikes(Fault::OpenFailed) {
        return Some(io::Error::from_raw_os_error(EIO));
    }
    (chance.strikes(Fault::OpenRefused) || full).then(|| io::ErrorKind::StorageFull.into())
}

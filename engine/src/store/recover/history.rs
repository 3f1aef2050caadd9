//! What the journals tell of every segment, read from the oldest file to the newest. No I/O.
//!
//! ```text
//!  segment   ├──── durable: at the last checkpoint ────┼─ batch ─┼─ batch ─┼─ batch ─┤
//!                                                      └── tail, in the order of writing ──┘
//!            ├──────────────── synced: by the last sync that ended well ────┤
//! ```
//! A file that has no checkpoint gives names to segments, and its batches; its lengths may be of bytes that a power cut
//! took, and are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::segment::journal::{Batch, BootId, Journal, JournalEntry, Proof, RunId, SegmentNumber};
use crate::segment::{LogName, Offset, Position};
use crate::wire::Token;

/// What is known of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each told by a record of its own")]
pub(super) struct Known {
    /// So much of it was on the disk at the last checkpoint.
    pub(super) durable: Position,
    /// Checksum of the last bytes of that.
    pub(super) proof: Proof,
    /// What was written behind that.
    pub(super) tail: Vec<Batch>,
    /// So much of it was told to be on the disk.
    pub(super) synced: Position,
    /// A checkpoint tells of it: its name is on the disk, and all of its log before it.
    pub(super) named: bool,
    /// A checkpoint tells of a later one of its log: all of it is on the disk, whatever records of it are missing.
    pub(super) covered: bool,
    /// The operating system's start in which it was written last.
    pub(super) boot: BootId,
    /// Nothing more is appended to it.
    pub(super) sealed: bool,
    /// A sync or a write of it failed.
    pub(super) poisoned: bool,
    /// Sequences of the batches in the tail.
    pub(super) sequences: Vec<u64>,
    /// What a poisoned one held that gave it its name: this one will hold it again.
    pub(super) again: Vec<Batch>,
    /// The run that has told of it last, and its number there.
    pub(super) number: Option<(RunId, SegmentNumber)>,
}

impl Known {
    /// Its length, as far as the journals tell.
    pub(super) fn end(&self) -> Position {
        ends_at(&self.tail).max(self.durable)
    }

    /// What was written to segments of this name of which nothing was synced, as far as the journals tell.
    pub(super) fn held(&self) -> &[Batch] {
        let is_unsynced = self.synced == Position::START && self.durable == Position::START;
        let tail = if is_unsynced { &self.tail[..] } else { &[] };
        if ends_at(tail) >= ends_at(&self.again) { tail } else { &self.again }
    }

    /// Whether nothing says that any of it, or of its log before it, is on the disk.
    pub(super) fn is_uncertain(&self) -> bool {
        self.synced == Position::START && !self.named
    }

    /// Checksum of the last bytes of the first `len`, if records lead up to there.
    pub(super) fn proof_at(&self, len: u64) -> Proof {
        let (mut end, mut proof) = (self.durable, self.proof);
        for batch in self.tail.iter().take_while(|batch| batch.end().0 <= len) {
            // What is written again has a record of its own.
            let joins = batch.position == end;
            proof = if joins { proof.followed_by(batch) } else { Proof::default() };
            end = end.max(batch.end());
        }
        if end.0 == len { proof } else { Proof::default() }
    }

    /// All that was recorded up to this sequence is on the disk.
    fn synced_through(&mut self, sequence: u64) {
        if self.poisoned {
            return;
        }
        let through = self.sequences.partition_point(|batch| *batch <= sequence);
        let end = ends_at(&self.tail[..through]);
        self.synced = self.synced.max(end).max(self.durable);
    }

    /// Nothing more is written to it. So much was on the disk before: whatever became of the records that told of it.
    fn give_up(&mut self, synced: Position) {
        self.poisoned = true;
        self.synced = self.synced.max(synced);
        if synced > self.durable {
            (self.durable, self.proof) = (synced, Proof::default());
            let below = self.tail.iter().take_while(|batch| batch.end() <= synced).count();
            self.tail.drain(..below);
            self.sequences.drain(..below.min(self.sequences.len()));
        }
    }

    /// All of it is on the disk.
    fn clean(&mut self) {
        (self.durable, self.proof) = (self.end(), self.proof_at(self.end().0));
        self.synced = self.synced.max(self.durable);
        self.tail.clear();
        self.sequences.clear();
    }
}

/// Where the batches end.
pub(super) fn ends_at(batches: &[Batch]) -> Position {
    batches.iter().map(Batch::end).max().unwrap_or_default()
}

/// A shard in one run.
type Writer = (u32, u16);

/// What is known of all segments.
#[derive(Debug, Default)]
pub(in crate::store) struct History {
    segments: BTreeMap<(Token, Offset), Known>,
    /// Segments that may have been deleted.
    retired: BTreeSet<(Token, Offset)>,
    doubts: BTreeMap<Token, Offset>,
    /// The operating system's start in which the last file was written.
    pub(super) boot: Option<BootId>,
    /// Runs of the engine, with the operating system's start of each: more than one only where a recovery has not come to
    /// its end.
    runs: Vec<(RunId, BootId)>,
}

impl History {
    /// Reads journals, which are in the order of writing.
    pub(in crate::store) fn of(journals: &[Journal]) -> Self {
        Self::by(journals, Journal::has_checkpoint)
    }

    /// The same while an engine may be running: a checkpoint counts once it is on the disk itself.
    pub(in crate::store) fn told(journals: &[Journal]) -> Self {
        Self::by(journals, Journal::has_synced_checkpoint)
    }

    fn by(journals: &[Journal], is_complete: fn(&Journal) -> bool) -> Self {
        let boot = journals.last().map(|journal| journal.header.boot);
        let mut runs: Vec<_> = journals.iter().map(|journal| (journal.run_id(), journal.header.boot)).collect();
        runs.dedup();
        let mut history = Self { boot, runs, ..Self::default() };
        for files in journals.chunk_by(|a, b| writer(a) == writer(b)) {
            history.writer(files, is_complete);
        }
        history
    }

    /// Whether it was a run of this start of the operating system.
    pub(super) fn has_run(&self, run: RunId, boot: BootId) -> bool {
        self.runs.contains(&(run, boot))
    }

    /// Up to where every log is on the disk: as far as its segments are, one after the other. Of those before the first that is
    /// known, and between two, the records may be lost, unless a checkpoint tells of the later one.
    pub(in crate::store) fn synced_offsets(&self) -> BTreeMap<Token, Offset> {
        let mut offsets: BTreeMap<Token, Offset> = BTreeMap::new();
        let mut reached: HashMap<Token, Option<Offset>> = HashMap::new();
        for (&(token, base), known) in &self.segments {
            let offset = offsets.entry(token).or_default();
            let reached = reached.entry(token).or_insert(Some(Offset::START));
            if !reached.is_some_and(|reached| known.named || base <= reached) {
                *reached = None;
                continue;
            }
            // One that goes by its age may be there still.
            if !self.retired.contains(&(token, base)) {
                *offset = Offset(base.0 + known.synced.0);
            }
            *reached = (known.synced >= known.end()).then(|| Offset(base.0 + known.end().0));
        }
        for (token, offset) in &mut offsets {
            *offset = self.doubts.get(token).map_or(*offset, |doubt| *doubt.min(offset));
        }
        offsets
    }

    /// Whether a power cut may have taken bytes of the segment before this position: they were not told to be on the disk.
    pub(in crate::store) fn may_lack(&self, token: Token, base: Offset, end: Position) -> bool {
        match self.segments.get(&(token, base)) {
            Some(known) => end > known.synced && !known.covered,
            // One that no record tells of is older than the last checkpoint, or newer than the last record.
            None => self.segments.range((token, base)..=(token, Offset(u64::MAX))).next().is_none(),
        }
    }

    /// A poisoned segment may have lost what follows this offset of the log.
    pub(super) fn doubt(&self, log: LogName) -> Option<Offset> {
        self.doubts.get(&log.token()?).copied()
    }

    /// The log's segments, by base.
    pub(super) fn log(&self, log: LogName) -> impl DoubleEndedIterator<Item = (Offset, &Known)> {
        let all = log.token().map(|token| self.segments.range((token, Offset::START)..=(token, Offset(u64::MAX))));
        all.into_iter().flatten().map(|(&(_, base), known)| (base, known))
    }

    /// The segment.
    pub(super) fn segment(&self, log: LogName, base: Offset) -> Option<&Known> {
        self.segments.get(&(log.token()?, base))
    }

    /// The segment is not the one that records tell of: nothing says that any of it is on the disk.
    pub(super) fn begins_anew(&mut self, log: LogName, base: Offset) {
        if let Some(known) = log.token().and_then(|token| self.segments.get_mut(&(token, base))) {
            *known = Known { boot: known.boot, ..Known::default() };
        }
    }

    /// Whether the segment may have been deleted. The oldest goes first: with one all before it, of which the journal may
    /// not tell any more.
    pub(super) fn is_retired(&self, log: LogName, base: Offset) -> bool {
        log.token().is_some_and(|token| {
            let mut later = self.retired.range((token, base)..=(token, Offset(u64::MAX)));
            later.next().is_some()
        })
    }

    /// All logs.
    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        let mut tokens: Vec<Token> = self.segments.keys().map(|(token, _)| *token).collect();
        tokens.dedup();
        tokens.into_iter()
    }

    /// All files of one shard in one run.
    fn writer(&mut self, files: &[Journal], is_complete: fn(&Journal) -> bool) {
        let mut numbers: HashMap<SegmentNumber, (Token, Offset)> = HashMap::new();
        let mut synced = None;
        for file in files {
            let complete = is_complete(file);
            for (index, entry) in file.entries.iter().enumerate() {
                if let JournalEntry::Synced { through } = *entry {
                    synced = Some(through);
                }
                self.entry(&mut numbers, file, complete, index, entry);
            }
        }
        let is_clean = files.last().is_some_and(|file| file.entries.last() == Some(&JournalEntry::CleanStop));
        for segment in numbers.values() {
            let Some(known) = self.segments.get_mut(segment) else { continue };
            if let Some(through) = synced {
                known.synced_through(through);
            }
            if is_clean {
                known.clean();
            }
            // Sequences of another run are others.
            known.sequences.clear();
        }
    }

    fn entry(
        &mut self,
        numbers: &mut HashMap<SegmentNumber, (Token, Offset)>,
        file: &Journal,
        complete: bool,
        index: usize,
        entry: &JournalEntry,
    ) {
        let boot = file.header.boot;
        match *entry {
            JournalEntry::Open { number, token, base } => {
                numbers.insert(number, (token, base));
                let again = self.held((token, base), boot, Position::START);
                self.segments.insert(
                    (token, base),
                    Known { boot, again, number: Some((file.run_id(), number)), ..Known::default() },
                );
            }
            JournalEntry::Active { number, token, base, length, proof } => {
                numbers.insert(number, (token, base));
                self.retired.remove(&(token, base));
                let again = if complete { self.held((token, base), boot, length) } else { Vec::new() };
                let known = self.segments.entry((token, base)).or_default();
                (known.boot, known.number) = (boot, Some((file.run_id(), number)));
                if complete {
                    for (_, earlier) in self.segments.range_mut((token, Offset::START)..(token, base)) {
                        earlier.covered = !earlier.poisoned;
                    }
                    let known = self.segments.entry((token, base)).or_default();
                    let synced = known.synced.max(length);
                    let number = known.number;
                    *known =
                        Known { durable: length, proof, synced, named: true, boot, again, number, ..Known::default() };
                }
            }
            JournalEntry::Batch { number, batch } => {
                if let Some(known) = self.numbered(numbers, number) {
                    known.boot = boot;
                    known.tail.push(batch);
                    known.sequences.push(file.sequence(index));
                }
            }
            JournalEntry::Seal { token, base, .. } => {
                if let Some(known) = self.segments.get_mut(&(token, base)) {
                    known.sealed = true;
                }
            }
            JournalEntry::Poison { number, synced, .. } => {
                if let Some(known) = self.numbered(numbers, number) {
                    known.give_up(synced);
                }
            }
            JournalEntry::Retire { token, base } => {
                self.retired.insert((token, base));
            }
            JournalEntry::Doubt { token, from } => {
                let doubt = self.doubts.entry(token).or_insert(from);
                *doubt = from.min(*doubt);
            }
            JournalEntry::Header(_)
            | JournalEntry::Synced { .. }
            | JournalEntry::Checkpoint
            | JournalEntry::CleanStop => {}
        }
    }

    /// What segments of this name held in this start of the operating system, if it is more than `length` bytes.
    fn held(&self, segment: (Token, Offset), boot: BootId, length: Position) -> Vec<Batch> {
        let known = self.segments.get(&segment).filter(|known| known.boot == boot);
        let held = known.map(Known::held).filter(|held| ends_at(held) > length);
        held.map(<[Batch]>::to_vec).unwrap_or_default()
    }

    /// What a number stands for; nothing yet where the table of its file has not come to it.
    fn numbered(
        &mut self,
        numbers: &HashMap<SegmentNumber, (Token, Offset)>,
        number: SegmentNumber,
    ) -> Option<&mut Known> {
        self.segments.get_mut(numbers.get(&number)?)
    }
}

fn writer(journal: &Journal) -> Writer {
    (journal.run, journal.header.shard)
}

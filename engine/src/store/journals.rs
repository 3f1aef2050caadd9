//! The files of all journals: read before an engine starts, and begun anew for its shards.
//!
//! ```text
//! _journal/  0-7  0-8  1-7        what shards of earlier runs left: `read`
//!            0-9  1-9  2-9        `begin`: a table of each shard's logs, on the disk before an older file goes
//! ```
//! Invariant: whenever the process dies, files are there that tell of every log: those before, or those begun, or both,
//! and both say the same.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileExt;

use super::file_error;
use super::recover::{History, RecoveredLog, RecoveredSegment};
use crate::error::{FileError, RecoverError};
use crate::handover::ShardId;
use crate::route::Ownership;
use crate::segment::journal::{
    Batch, BootId, Header, Journal, JournalDraft, JournalEntry, RECORD_BYTES, SegmentNumber, journal_name,
    parse_journal_name,
};
use crate::segment::{JOURNAL, Offset};
use crate::shard::{JournalId, JournalStart};
use crate::sys::DataDir;
use crate::sys::file::{Access, Dir};
use crate::wire::Token;

/// The journals of a data directory.
#[derive(Debug, Default)]
pub struct Journals {
    /// Every file that has a header, in the order of writing: by run, shard and generation.
    pub files: Vec<Journal>,
    /// Files that bear the name of a journal.
    names: Vec<JournalId>,
    /// Those of shards that have no file with a header.
    pub(super) headless: u64,
    /// Files that have bytes, but no header.
    garbled: Vec<JournalId>,
}

/// Reads all journals.
///
/// # Errors
/// The system's refusals; a damaged journal is none.
pub fn read(data: &DataDir) -> Result<Journals, FileError> {
    let mut journals = Journals::default();
    let path = data.path().join(JOURNAL);
    let dir = match data.root().dir(JOURNAL) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(journals),
        other => other.map_err(file_error(&path, "opened"))?,
    };
    for entry in dir.entries().map_err(file_error(&path, "listed"))? {
        let Some((shard, generation)) = parse_journal_name(&entry.name) else { continue };
        let bytes = match read_whole(&dir, &entry.name) {
            // A running engine has removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(file_error(&path.join(&entry.name), "read"))?,
        };
        journals.names.push(JournalId { shard: ShardId(shard), generation });
        let journal = Journal::parse(&bytes);
        let journal =
            journal.filter(|journal| (journal.header.shard, journal.header.generation) == (shard, generation));
        if journal.is_none() && bytes.len() >= RECORD_BYTES {
            journals.garbled.push(JournalId { shard: ShardId(shard), generation });
        }
        journals.files.extend(journal);
    }
    // The next file of a shard may have been begun and no more; its first is complete before it counts.
    let is_headless = |name: &&JournalId| !journals.files.iter().any(|file| file.header.shard == name.shard.0);
    journals.headless += journals.names.iter().filter(is_headless).count() as u64;
    let order = |journal: &Journal| (journal.run, journal.header.shard, journal.header.generation);
    journals.files.sort_unstable_by_key(order);
    Ok(journals)
}

impl Journals {
    /// Files of which not everything could be read that was once written. A power cut may leave holes in what was not
    /// synced; while the machine runs on there are none.
    #[must_use]
    pub fn damaged(&self, boot: BootId) -> u64 {
        let damaged = self.files.iter().filter(|file| file.damaged && file.header.boot == boot);
        self.headless + damaged.count() as u64
    }

    /// What the records say of the bytes of segments, as far as these are not given up.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let mut checks = Checks::default();
        for files in self.files.chunk_by(|a, b| (a.run, a.header.shard) == (b.run, b.header.shard)) {
            let mut numbers = HashMap::new();
            for entry in files.iter().flat_map(|file| &file.entries) {
                checks.add(&mut numbers, entry);
            }
        }
        checks.0.values_mut().for_each(|checks| checks.sort_unstable_by_key(|check| check.from));
        checks
    }

    /// Whether the machine was started anew while an engine ran, and no engine has recovered since: that would have begun
    /// journals of this start.
    fn wait_for_recovery(&self, boot: BootId) -> bool {
        // A recovery that is not over has begun some of the next run, and has removed none of the last.
        let Some(first) = self.files.first() else { return false };
        let is_other = [first.header.boot, boot].iter().all(|boot| *boot != BootId::default());
        let run = self.files.iter().filter(|file| file.run == first.run).collect::<Vec<_>>();
        let mut ends = run.chunk_by(|a, b| a.header.shard == b.header.shard).filter_map(|files| files.last());
        is_other && first.header.boot != boot && !ends.all(|file| file.entries.last() == Some(&JournalEntry::CleanStop))
    }

    /// What is known of segments that a power cut may have taken parts of, as long as no engine has recovered since.
    pub(super) fn unrecovered(&self, boot: BootId) -> Option<History> {
        self.wait_for_recovery(boot).then(|| History::of(&self.files))
    }

    /// Places in files where a header should be or records follow, and no record is: file names and positions.
    pub fn damages(&self) -> impl Iterator<Item = (String, u64)> {
        let garbled = self.garbled.iter().map(|journal| (journal.name(), 0));
        let holes = self.files.iter().filter(|file| file.damaged).map(|file| {
            let Header { shard, generation, .. } = file.header;
            (journal_name(shard, generation), ((file.entries.len() + 1) * RECORD_BYTES) as u64)
        });
        garbled.chain(holes)
    }

    /// Up to where each log is on the disk; a log that they do not tell of is not there.
    #[must_use]
    pub fn synced_offsets(&self) -> BTreeMap<Token, Offset> {
        History::told(&self.files).synced_offsets()
    }
}

/// What a record says of some bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Position of the first.
    pub from: u64,
    /// Position behind the last.
    pub to: u64,
    /// Their checksum (CRC-32C).
    pub crc: u32,
}

/// What records say of the bytes of every segment that they know.
#[derive(Debug, Default)]
pub struct Checks(HashMap<(Token, Offset), Vec<Check>>);

impl Checks {
    /// Of this segment, by position.
    #[must_use]
    pub fn of(&self, token: Token, base: Offset) -> &[Check] {
        self.0.get(&(token, base)).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, numbers: &mut HashMap<SegmentNumber, (Token, Offset)>, entry: &JournalEntry) {
        match *entry {
            // One of this name before it has moved to the quarantine.
            JournalEntry::Open { number, token, base } => {
                numbers.insert(number, (token, base));
                self.0.insert((token, base), Vec::new());
            }
            JournalEntry::Active { number, token, base, length, proof } => {
                numbers.insert(number, (token, base));
                if proof.length > 0 && u64::from(proof.length) <= length.0 {
                    let from = length.0 - u64::from(proof.length);
                    self.0.entry((token, base)).or_default().push(Check { from, to: length.0, crc: proof.crc });
                }
            }
            JournalEntry::Batch { number, batch } => {
                if let Some(&segment) = numbers.get(&number) {
                    let check = Check { from: batch.position.0, to: batch.end().0, crc: batch.crc };
                    self.0.entry(segment).or_default().push(check);
                }
            }
            // What follows may be lost, and may be cut.
            JournalEntry::Poison { number, synced, .. } => {
                if let Some(segment) = numbers.remove(&number) {
                    self.0.entry(segment).or_default().retain(|check| check.to <= synced.0);
                }
            }
            JournalEntry::Header(_)
            | JournalEntry::Synced { .. }
            | JournalEntry::Seal { .. }
            | JournalEntry::Retire { .. }
            | JournalEntry::Doubt { .. }
            | JournalEntry::Checkpoint
            | JournalEntry::CleanStop => {}
        }
    }
}

fn read_whole(dir: &Dir, name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut dir.file(name, Access::Read)?, &mut bytes)?;
    Ok(bytes)
}

/// What a run begins with.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// The operating system's start.
    pub boot: BootId,
    /// Unix time in microseconds.
    pub epoch_micros: u64,
}

/// Begins a journal for every shard, with its logs in the order of `logs`, and lets older files go.
///
/// # Errors
/// The system's refusals. It can be tried again.
pub fn begin(
    data: &DataDir,
    journals: &Journals,
    ownership: &Ownership,
    logs: &[RecoveredLog],
    beginning: Beginning,
) -> Result<Vec<JournalStart>, RecoverError> {
    let last = journals.names.iter().map(|journal| journal.generation).max().unwrap_or(0);
    let generation = last + 1;
    let run = u32::try_from(generation).expect("a new generation every second lasts for 136 years");
    let path = data.path().join(JOURNAL);
    let dir = data.root().dir_or_new(JOURNAL).map_err(file_error(&path, "made"))?;
    let tells_all = journals.files.last().is_some_and(|file| file.header.boot == beginning.boot);
    if !(tells_all && journals.damaged(beginning.boot) == 0) {
        // Of segments that no journal of this start tells of, the checkpoints are going to say that all is on the disk.
        data.root().sync_file_system().map_err(file_error(data.path(), "synced"))?;
    }
    let mut starts = Vec::new();
    for shard in (0..ownership.shards()).map(ShardId) {
        let mut start = JournalStart { run, generation, ..beginning.start() };
        let mut draft = JournalDraft::new(run, start.header(shard));
        let own = logs.iter().filter_map(|log| Some((log.name.token()?, log)));
        table(&mut draft, &own.filter(|(token, _)| ownership.owner(*token) == shard));
        (start.sequence, start.length) = (draft.sequence, draft.length());
        let journal = JournalId { shard, generation };
        write(data, journal, &draft.bytes).map_err(file_error(&path.join(journal.name()), "written"))?;
        starts.push(start);
    }
    let synced = dir.sync().and_then(|()| data.root().sync());
    synced.map_err(file_error(&path, "synced"))?;
    remove_old(&dir, journals).map_err(file_error(&path, "tidied"))?;
    Ok(starts)
}

impl Beginning {
    fn start(self) -> JournalStart {
        JournalStart { boot: self.boot, epoch_micros: self.epoch_micros, ..JournalStart::first() }
    }
}

/// The shard's segments: first what is on the disk of each, then what was synced since the last checkpoint, then what may
/// be in memory alone. The newest ones are numbered in the order of the logs, from 0; the others from the other end.
fn table<'a>(draft: &mut JournalDraft, logs: &(impl Iterator<Item = (Token, &'a RecoveredLog)> + Clone)) {
    let newest = (0..).zip(logs.clone()).map(|(number, (token, log))| (number, token, &log.newest));
    let doubts = logs.clone().filter_map(|(token, log)| Some((token, log.doubt?)));
    let earlier = logs.clone().flat_map(|(token, log)| log.earlier.iter().map(move |segment| (token, segment)));
    let earlier = (0..).zip(earlier).map(|(number, (token, segment))| (u32::MAX - number, token, segment));
    let all: Vec<(SegmentNumber, Token, &RecoveredSegment)> =
        newest.chain(earlier).map(|(number, token, segment)| (SegmentNumber(number), token, segment)).collect();
    for &(number, token, segment) in &all {
        let &RecoveredSegment { base, durable: length, proof, .. } = segment;
        draft.add(JournalEntry::Active { number, token, base, length, proof });
    }
    for (token, from) in doubts {
        draft.add(JournalEntry::Doubt { token, from });
    }
    draft.add(JournalEntry::Checkpoint);
    let synced = |segment: &RecoveredSegment, batch: &Batch| batch.end() <= segment.synced;
    for &(number, _, segment) in &all {
        for &batch in segment.tail.iter().filter(|batch| synced(segment, batch)) {
            draft.add(JournalEntry::Batch { number, batch });
        }
    }
    draft.add(JournalEntry::Synced { through: draft.sequence - 1 });
    for &(number, token, segment) in &all {
        for &batch in segment.tail.iter().filter(|batch| !synced(segment, batch)) {
            draft.add(JournalEntry::Batch { number, batch });
        }
        if segment.sealed {
            draft.add(JournalEntry::Seal { token, base: segment.base, length: segment.length });
        }
    }
}

fn write(data: &DataDir, journal: JournalId, bytes: &[u8]) -> io::Result<()> {
    let file = std::fs::File::from(data.create_journal(journal)?);
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

fn remove_old(dir: &Dir, journals: &Journals) -> io::Result<()> {
    for journal in &journals.names {
        dir.unlink(&journal.name())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Position;
    use crate::segment::journal::Proof;

    /// Until then the file before has to tell, and that may have lost what it told.
    #[test]
    fn a_checkpoint_tells_of_nothing_before_it_is_on_the_disk() {
        let token = Token::from_bytes([7; 16]);
        let header = Header { shard: 0, generation: 1, boot: BootId([7; 16]), epoch_micros: 0 };
        let (number, length, proof) = (SegmentNumber(0), Position(5), Proof::default());
        let active = JournalEntry::Active { number, token, base: Offset(10), length, proof };
        let synced = JournalEntry::Synced { through: 3 };
        for (entries, offset) in [
            (vec![active, JournalEntry::Checkpoint], Offset(0)),
            (vec![active, synced, JournalEntry::Checkpoint], Offset(0)),
            (vec![active, JournalEntry::Checkpoint, synced], Offset(15)),
        ] {
            let file = Journal { header, run: 1, first: 0, entries, damaged: false };
            let journals = Journals { files: vec![file], ..Journals::default() };
            assert_eq!(journals.synced_offsets().get(&token), Some(&offset), "{:?}", journals.files[0].entries);
        }
    }
}

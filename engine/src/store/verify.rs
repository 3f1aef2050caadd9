//! `engine verify`: checks every byte of the logs that has a checksum. Changes nothing, disturbs no engine.
//!
//! | what | against |
//! | --- | --- |
//! | bytes of a segment | the blocks of its index |
//! | what no block covers yet | the journal: its checkpoint, and its records of batches |
//! | a compressed segment | its index, and the checksum of each of its frames |
//! | an index, a journal | the checksum of each of its records |
//! | where a segment ends | where the next one begins; what is in both is the same |
//!
//! Bytes that none of these covers have no checksum and are counted as such. After a power cut, until an engine has started,
//! what was not synced may be anything, and is no damage.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::journals::{self, Check, Checks};
use super::list::end_of;
use super::reader::{finish, open, open_log};
use super::recover::History;
use super::segment_file::{SegmentFile, check_stream, is_repeated};
use super::{CHUNK_BYTES, LogFiles, chunk_of, file_error, log_token};
use crate::error::ReadError;
use crate::segment::checksum;
use crate::segment::index::{Index, RECORD_BYTES};
use crate::segment::{JOURNAL, LogName, Offset, Position, index_name, journal as records, packed_name, segment_name};
use crate::sys::file::{Dir, Kind};
use crate::sys::{DataDir, host, index_file};
use crate::wire::{Reject, Token};

/// Long enough for a record that was being written to be there whole.
const SECOND_LOOK: Duration = Duration::from_millis(50);

/// Checks a log, or all of them: a line for each damage and one for the sum, or one JSON document. Says whether all is
/// well. A reader that went away is no error.
///
/// # Errors
/// When there is no such log, something cannot be read, or the output not written.
pub fn verify(data: &Path, token: Option<Token>, json: bool, out: &mut dyn Write) -> Result<bool, ReadError> {
    let data = open(data)?;
    let mut verdict = Verdict::default();
    verdict.journals(&data)?;
    if let Some(token) = token {
        let (dir, path) = open_log(&data, token)?;
        verdict.log(token.into(), &dir, &path)?;
    } else {
        let mut tokens: Vec<_> = data
            .root()
            .entries()
            .map_err(file_error(data.path(), "listed"))?
            .into_iter()
            .filter(|entry| entry.kind == Kind::Dir)
            .filter_map(|entry| log_token(&entry.name))
            .collect();
        tokens.sort_unstable();
        for token in tokens {
            let (dir, path) = open_log(&data, token)?;
            verdict.log(token.into(), &dir, &path)?;
        }
        verdict.rejected(&data)?;
    }
    let text = if json { verdict.json() } else { verdict.text() };
    finish(out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ReadError::Output))?;
    Ok(verdict.damages.is_empty())
}

/// Bytes of a file that are not what they were.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    /// Positions in the text of a segment, whether it is compressed or not.
    from: u64,
    to: u64,
    problem: String,
}

#[derive(Debug, Default)]
struct Verdict {
    logs: u64,
    segments: u64,
    bytes: u64,
    without_checksum: u64,
    damages: Vec<Finding>,
    checks: Checks,
    /// What no engine has recovered yet.
    unrecovered: Option<History>,
    /// Places of that which would be damages else.
    unrecovered_places: u64,
}

impl Verdict {
    /// Rejected lines that were kept: for each reason what a log is. No journal tells of them.
    fn rejected(&mut self, data: &DataDir) -> Result<(), ReadError> {
        for name in Reject::NO_LOG.map(LogName::Rejected) {
            let path = data.path().join(name.to_string());
            match data.log_dir(name, Dir::dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                dir => self.log(name, &dir.map_err(file_error(&path, "opened"))?, &path)?,
            }
        }
        Ok(())
    }

    fn log(&mut self, name: LogName, dir: &Dir, path: &Path) -> Result<(), ReadError> {
        let bases = LogFiles::list(dir).map_err(file_error(path, "listed"))?.bases;
        self.logs += 1;
        let mut before: Option<(Offset, Offset)> = None;
        for base in bases {
            let Some(len) = self.segment(dir, path, name, base)? else {
                // Deleted meanwhile, and so may be those before it.
                before = None;
                continue;
            };
            let apart = before.filter(|&(_, end)| end != base);
            if let Some((last, end)) = apart
                // What was given up is in both until it is cut.
                && !(base < end && is_repeated(dir, last, base))
            {
                let from = end.0.saturating_sub(last.0);
                let problem = format!("the next segment is {}, expected {}", segment_name(base), segment_name(end));
                let finding = Finding { path: path.join(segment_name(last)), from, to: from, problem };
                self.found((name, last), base.0.saturating_sub(last.0), finding);
            }
            before = Some((base, end_of(base, len)));
        }
        Ok(())
    }

    /// Its length, if it is still there.
    fn segment(&mut self, dir: &Dir, path: &Path, name: LogName, base: Offset) -> Result<Option<u64>, ReadError> {
        let opened = SegmentFile::open(dir, base);
        let plain = path.join(segment_name(base));
        let mut file = match opened {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(error) if is_damage(&error) => {
                let to = packed_len(dir, base);
                self.damage(Finding { path: path.join(packed_name(base)), from: 0, to, problem: error.to_string() });
                return Ok(None);
            }
            Err(error) => return Err(file_error(&plain, "opened")(error).into()),
        };
        let shown = if file.is_packed() { path.join(packed_name(base)) } else { plain };
        let len = file.len().map_err(file_error(&shown, "inspected"))?;
        let index = self.index(dir, path, base)?;
        self.segments += 1;
        self.bytes += len;
        let damages = self.damages.len();
        let at = self.blocks(&shown, &mut file, (name, base), &index)?;
        if file.is_packed() {
            // Its frames have checksums of their own.
            self.checksum(&shown, &mut file, at, len)?;
            if self.damages.len() == damages {
                self.stream(dir, shown, base, &mut file)?;
            }
        } else {
            self.records(&shown, &mut file, at..len, (name, base))?;
        }
        Ok(Some(len))
    }

    /// What others read in a compressed segment in which the engine finds nothing wrong.
    fn stream(&mut self, dir: &Dir, path: PathBuf, base: Offset, file: &mut SegmentFile) -> Result<(), ReadError> {
        match check_stream(file) {
            Err(error) if is_damage(&error) => {
                let problem = format!("zstdcat reads something else: {error}");
                self.damage(Finding { path, from: 0, to: packed_len(dir, base), problem });
                Ok(())
            }
            checked => Ok(checked.map_err(file_error(&path, "read"))?),
        }
    }

    fn index(&mut self, dir: &Dir, path: &Path, base: Offset) -> Result<Index, ReadError> {
        let path = path.join(index_name(base));
        let read = || index_file::read(dir, base).map_err(file_error(&path, "read"));
        let mut index = read()?.unwrap_or_default();
        if index.damaged_at.is_some() {
            std::thread::sleep(SECOND_LOOK);
            index = read()?.unwrap_or_default();
        }
        if let Some(at) = index.damaged_at {
            let problem = "a record that makes no sense; the index can be removed and is made again".to_owned();
            self.unsynced(Finding { path, from: at as u64, to: (at + RECORD_BYTES) as u64, problem });
        }
        Ok(index)
    }

    /// Says how far the index goes.
    fn blocks(
        &mut self,
        path: &Path,
        file: &mut SegmentFile,
        segment: (LogName, Offset),
        index: &Index,
    ) -> Result<u64, ReadError> {
        let (mut at, len) = (0, file.len().map_err(file_error(path, "inspected"))?);
        for (start, record) in index.blocks(len) {
            let crc32c = self.checksum(path, file, start.0, record.end.0)?;
            if crc32c.is_some_and(|crc32c| crc32c != record.crc32c) {
                let problem = "the checksum of the index is another".to_owned();
                let finding = Finding { path: path.to_owned(), from: start.0, to: record.end.0, problem };
                if file.is_packed() {
                    self.damage(finding);
                } else {
                    self.found(segment, record.end.0, finding);
                }
            }
            at = record.end.0;
        }
        Ok(at)
    }

    /// What the journal says of the bytes behind the index.
    fn records(
        &mut self,
        path: &Path,
        file: &mut SegmentFile,
        Range { start, end }: Range<u64>,
        (name, base): (LogName, Offset),
    ) -> Result<(), ReadError> {
        let told = name.token().map_or(&[][..], |token| self.checks.of(token, base));
        let checks: Vec<Check> = told.iter().filter(|check| check.to > start).copied().collect();
        let mut covered = start;
        for Check { from, to, crc } in checks {
            if to > end {
                let problem = format!("the journal tells of bytes up to {to}");
                self.found((name, base), to, Finding { path: path.to_owned(), from: end, to, problem });
                continue;
            }
            if self.checksum(path, file, from, to)?.is_some_and(|crc32c| crc32c != crc) {
                let problem = "the checksum of the journal is another".to_owned();
                self.found((name, base), to, Finding { path: path.to_owned(), from, to, problem });
            }
            self.without_checksum += from.saturating_sub(covered);
            covered = covered.max(to);
        }
        self.without_checksum += end.saturating_sub(covered);
        Ok(())
    }

    /// Records that make no sense where that is no unfinished write.
    fn journals(&mut self, data: &DataDir) -> Result<(), ReadError> {
        let read = || journals::read(data).map_err(ReadError::File);
        let mut journals = read()?;
        if journals.damages().next().is_some() {
            std::thread::sleep(SECOND_LOOK);
            journals = read()?;
        }
        self.unrecovered = journals.unrecovered(host::boot_id());
        for (name, at) in journals.damages() {
            let path = data.path().join(JOURNAL).join(name);
            let problem = "a record that makes no sense".to_owned();
            self.unsynced(Finding { path, from: at, to: at + records::RECORD_BYTES as u64, problem });
        }
        self.checks = journals.checks();
        Ok(())
    }

    /// Of these bytes; `None` if they cannot be decoded, which is noted.
    fn checksum(&mut self, path: &Path, file: &mut SegmentFile, from: u64, to: u64) -> Result<Option<u32>, ReadError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let (mut crc32c, mut at) = (0, from);
        while at < to {
            let part = chunk_of(&mut chunk, to - at);
            match file.read_exact_at(part, at) {
                Ok(()) => {}
                Err(error) if is_damage(&error) => {
                    let (path, problem) = (path.to_owned(), error.to_string());
                    self.damage(Finding { path, from, to, problem });
                    return Ok(None);
                }
                Err(error) => return Err(file_error(path, "read")(error).into()),
            }
            crc32c = checksum::crc32c_append(crc32c, part);
            at += part.len() as u64;
        }
        Ok(Some(crc32c))
    }

    /// Notes it, unless a power cut may have taken what the segment has before `end`, and no engine has recovered since.
    fn found(&mut self, (name, base): (LogName, Offset), end: u64, finding: Finding) {
        // No journal tells of rejected lines.
        let may_lack =
            |history: &History| name.token().is_none_or(|token| history.may_lack(token, base, Position(end)));
        self.damage_unless(self.unrecovered.as_ref().is_some_and(may_lack), finding);
    }

    /// The same for a file that is not synced.
    fn unsynced(&mut self, finding: Finding) {
        self.damage_unless(self.unrecovered.is_some(), finding);
    }

    fn damage_unless(&mut self, awaits_recovery: bool, finding: Finding) {
        if awaits_recovery {
            self.unrecovered_places += 1;
        } else {
            self.damage(finding);
        }
    }

    /// Notes it; what goes on where the last one ended is the same damage.
    fn damage(&mut self, finding: Finding) {
        match self.damages.last_mut() {
            Some(last) if (&last.path, last.to, &last.problem) == (&finding.path, finding.from, &finding.problem) => {
                last.to = finding.to;
            }
            _ => self.damages.push(finding),
        }
    }

    fn text(&self) -> String {
        let Self { logs, segments, bytes, without_checksum, damages, .. } = self;
        let mut lines: Vec<String> = damages
            .iter()
            .map(|Finding { path, from, to, problem }| format!("{}: bytes {from} to {to}: {problem}\n", path.display()))
            .collect();
        if self.unrecovered_places > 0 {
            let places = self.unrecovered_places;
            lines.push(format!(
                "not recovered yet: {places} places were not synced when the machine went down; start the engine once\n"
            ));
        }
        let count = damages.len();
        lines.push(format!(
            "verified logs={logs} segments={segments} bytes={bytes} without_checksum={without_checksum} damages={count}\n"
        ));
        lines.concat()
    }

    fn json(&self) -> String {
        let damages = self.damages.iter().map(|Finding { path, from, to, problem }| {
            json!({ "path": path.display().to_string(), "from": from, "to": to, "problem": problem })
        });
        let document = json!({
            "logs": self.logs,
            "segments": self.segments,
            "bytes": self.bytes,
            "bytes_without_checksum": self.without_checksum,
            "unrecovered_places": self.unrecovered_places,
            "damages": damages.collect::<Vec<_>>(),
        });
        format!("{document}\n")
    }
}

/// Whether the bytes are to blame, and not the system.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn packed_len(dir: &Dir, base: Offset) -> u64 {
    dir.stat(&packed_name(base)).ok().flatten().map_or(0, |stat| stat.len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::journal::{Batch, BootId, Header, JournalDraft, JournalEntry, Proof, SegmentNumber};
    use crate::store::segment_file::Packer;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

    /// Three segments with whole indexes, the middle one compressed; 500 bytes of the last one are in no block.
    fn fixture() -> (tempfile::TempDir, DataDir) {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::open(&parent.path().join("data")).unwrap();
        let dir = data.path().join(TOKEN);
        let mut base = 0;
        for segment in 0..3_u64 {
            let text: Vec<u8> =
                (0..8_000).flat_map(|line| format!("{segment} {:09}\n", line * 7919).into_bytes()).collect();
            let len = text.len() as u64;
            let file = File::from(data.create_segment(TOKEN.parse::<Token>().unwrap(), Offset(base)).unwrap());
            file.write_all_at(&text, 0).unwrap();
            let handle = data.root().dir(TOKEN).unwrap();
            let covered = if segment == 2 { len - 500 } else { len };
            index_file::complete(&handle, Offset(base), covered, u64::MAX).unwrap();
            if segment == 1 {
                let mut packer = Packer::new(File::create(dir.join(packed_name(Offset(base)))).unwrap()).unwrap();
                packer.push(&text).unwrap();
                packer.finish().unwrap();
                fs::remove_file(dir.join(segment_name(Offset(base)))).unwrap();
            }
            base = Position(len).in_log(Offset(base)).unwrap().0;
        }
        (parent, data)
    }

    fn verified(data: &DataDir) -> (bool, String) {
        let mut out = Vec::new();
        let sound = verify(data.path(), None, false, &mut out).unwrap();
        (sound, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_whole_is_verified() {
        let (_parent, data) = fixture();
        let sum = "verified logs=1 segments=3 bytes=288000 without_checksum=500 damages=0\n";
        assert_eq!(verified(&data), (true, sum.to_owned()));
        let mut out = Vec::new();
        assert!(verify(data.path(), Some(TOKEN.parse().unwrap()), true, &mut out).unwrap());
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&document["bytes"], &document["damages"]), (&json!(288_000), &json!([])));
    }

    /// 1,000 bytes in files that an index covers, one at a time: each is found, in its file and within its range.
    #[test]
    fn every_changed_byte_is_found() {
        let (_parent, data) = fixture();
        let dir = data.path().join(TOKEN);
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state >> 33
        };
        let names = [0, 96_000, 192_000].map(Offset);
        let files = [
            segment_name(names[0]),
            packed_name(names[1]),
            segment_name(names[2]),
            index_name(names[0]),
            index_name(names[1]),
        ];
        for sample in 0..1000_u64 {
            let name = &files[usize::try_from(sample % 5).unwrap()];
            let path = dir.join(name);
            let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let len = file.metadata().unwrap().len() - if sample % 5 == 2 { 500 } else { 0 };
            let at = random() % len;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << (random() % 8))], at).unwrap();
            let (sound, text) = verified(&data);
            assert!(!sound, "{name} at {at}");
            let line =
                text.lines().find(|line| line.contains(&**name)).unwrap_or_else(|| panic!("{name} at {at}: {text}"));
            let (_, range) = line.split_once("bytes ").unwrap();
            let mut range = range.split([' ', ':']).filter_map(|word| word.parse::<u64>().ok());
            let (from, to) = (range.next().unwrap(), range.next().unwrap());
            // Of a compressed file the range is that of its text.
            assert!(sample % 5 == 1 || (from..to).contains(&at), "{name} at {at}: {line}");
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(verified(&data).0);
    }

    /// After a power cut, until an engine has started: what was not synced is no damage, what was is.
    #[test]
    fn what_no_engine_has_recovered_is_no_damage() {
        let other = BootId([7; 16]);
        let number = SegmentNumber(0);
        let batch =
            |position, text: &[u8]| JournalEntry::Batch { number, batch: Batch::of(Position(position), text, 0) };
        for (boot, text, more, damages) in [
            (other, "one\ntwo\n\0\0\0\0\0\0", None, 0),
            (other, "one\ntwo\n", None, 0),
            (other, "one\ntvo\nthree\n", None, 1),
            (other, "one\ntwo\nthr", Some(JournalEntry::CleanStop), 1),
            (host::boot_id(), "one\ntwo\nthr", None, 1),
        ] {
            let parent = tempfile::tempdir().unwrap();
            let data = DataDir::open(&parent.path().join("data")).unwrap();
            let (token, base) = (TOKEN.parse::<Token>().unwrap(), Offset(0));
            let file = File::from(data.create_segment(token, base).unwrap());
            file.write_all_at(text.as_bytes(), 0).unwrap();
            let header = Header { shard: 0, generation: 1, boot, epoch_micros: 0 };
            let mut draft = JournalDraft::new(1, header);
            draft.add(JournalEntry::Active { number, token, base, length: Position(4), proof: Proof::default() });
            draft.add(JournalEntry::Checkpoint);
            draft.add(batch(4, b"two\n"));
            draft.add(JournalEntry::Synced { through: draft.sequence - 1 });
            draft.add(batch(8, b"three\n"));
            if let Some(entry) = more {
                draft.add(entry);
            }
            let journals = data.path().join(JOURNAL);
            fs::create_dir(&journals).unwrap();
            fs::write(journals.join(records::journal_name(0, 1)), &draft.bytes).unwrap();
            let (sound, said) = verified(&data);
            assert!(sound == (damages == 0) && said.ends_with(&format!("damages={damages}\n")), "{text:?}: {said}");
            let note =
                "not recovered yet: 1 places were not synced when the machine went down; start the engine once\n";
            assert_eq!(said.contains(note), damages == 0, "{text:?}: {said}");
        }
    }

    /// They are checked like logs: what their indexes tell, and whether they join.
    #[test]
    fn rejected_lines_are_verified() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::open(&parent.path().join("data")).unwrap();
        let name = LogName::Rejected(Reject::NoToken);
        for base in [0, 8] {
            let file = File::from(data.create_segment(name, Offset(base)).unwrap());
            file.write_all_at(b"one\ntwo\n", 0).unwrap();
        }
        let dir = data.log_dir(name, Dir::dir).unwrap();
        index_file::complete(&dir, Offset(0), 8, u64::MAX).unwrap();
        let sum = "verified logs=1 segments=2 bytes=16 without_checksum=8 damages=0\n";
        assert_eq!(verified(&data), (true, sum.to_owned()));
        fs::write(data.path().join("_rejected/no_token").join(segment_name(Offset(0))), b"one\ntvo\n").unwrap();
        let (sound, text) = verified(&data);
        let expected =
            "_rejected/no_token/00000000000000000000.log: bytes 0 to 8: the checksum of the index is another\n";
        assert!(!sound && text.contains(expected), "{text}");
    }

    #[test]
    fn a_missing_segment_is_found() {
        let (_parent, data) = fixture();
        fs::remove_file(data.path().join(TOKEN).join(packed_name(Offset(96_000)))).unwrap();
        let (sound, text) = verified(&data);
        let expected = "00000000000000000000.log: bytes 96000 to 96000: the next segment is \
                        00000000000000192000.log, expected 00000000000000096000.log\n";
        assert!(!sound && text.contains(expected), "{text}");
    }
}

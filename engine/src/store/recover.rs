//! Makes the data directory ready for an engine: after the lock, before listening.
//!
//! ```text
//! for each log:   00000000000000000000.log ─ base + size ─► 00000000000000000100.log     joins, or it is damage
//!                                                                 │ no LF at the end?
//!                                                                 ▼
//!                          rest ─► _quarantine/<token>-<base>-<position>
//!
//! when all logs were seen:  sync all copies ─► cut the segments ─► sync them
//! ```
//! Invariants: nothing is ever deleted, and no byte is cut before its copy is on the disk; damage anywhere means that
//! no segment is cut; every step can be repeated, so a crash or a full disk in the middle only means to start again.
//! Sealed segments are not opened and syncs are shared, so that a log costs a few system calls.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::segment_file::SegmentFile;
use super::{CHUNK_BYTES, LogFiles, chunk_of, file_error, log_token, whole_lines_end};
use crate::error::{Damage, RecoverError};
use crate::segment::{
    CURRENT, CURRENT_NEW, LogName, Offset, Position, QUARANTINE, REJECTED, is_reserved, packed_name, quarantine_name,
    segment_name,
};
use crate::sys::DataDir;
use crate::sys::data_dir::point_current;
use crate::sys::file::{Access, Dir, DirEntry, Kind};
use crate::wire::Reject;

/// Up to this many copies or segments are synced one by one, more by one sync of the whole file system: that one also
/// waits for what others wrote, but 10,000 single ones took two minutes.
const SYNCED_ONE_BY_ONE_MAX: usize = 32;

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every log that has a segment, by token.
    pub logs: Vec<RecoveredLog>,
    /// The same of rejected lines that were kept.
    pub rejected: Vec<RecoveredLog>,
    /// Bytes of all their segments, after the cuts.
    pub rejected_bytes: u64,
    /// Segments of all logs.
    pub segments: u64,
    /// Those of them that are compressed.
    pub packed: u64,
    /// Bytes of all segments, after the cuts.
    pub bytes: u64,
    /// When the newest of them was written.
    pub newest_write: Option<SystemTime>,
    /// Unfinished last lines that were moved to quarantine.
    pub quarantined_files: u64,
    /// Bytes of them.
    pub quarantined_bytes: u64,
    /// Logs whose `current` was missing or led to an older segment.
    pub relinked: u64,
    /// Names in the data directory and in logs that are none of ours; left alone.
    pub unknown: u64,
}

/// Where a log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The log.
    pub name: LogName,
    /// Base of its newest segment.
    pub base: Offset,
    /// Length of that segment in bytes: whole lines only.
    pub len: u64,
    /// How long ago that segment was made, by the host's clock; zero if nobody says.
    pub age: Duration,
    /// Segments before that one.
    pub sealed: u64,
}

/// Checks every log's chain of segments, moves an unfinished last line to quarantine, and points `current` to the
/// newest segment. Needs the lock.
///
/// # Errors
/// Damage when segments do not join or something else stands where a log should be; the system's refusals otherwise.
pub fn recover(data: &DataDir) -> Result<Recovered, RecoverError> {
    let mut recovery =
        Recovery { data, found: Recovered::default(), chunk: vec![0; CHUNK_BYTES], quarantine: None, cuts: Vec::new() };
    let mut entries = data.root().entries().map_err(file_error(data.path(), "listed"))?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for entry in &entries {
        recovery.name(entry)?;
    }
    recovery.cut_all()?;
    Ok(recovery.found)
}

struct Recovery<'a> {
    data: &'a DataDir,
    found: Recovered,
    chunk: Vec<u8>,
    /// Opened with the first copy.
    quarantine: Option<Dir>,
    cuts: Vec<Cut>,
}

/// An unfinished last line that was copied, and is still in its segment.
struct Cut {
    log: LogName,
    base: Offset,
    whole: u64,
}

/// The log at hand.
struct Log {
    name: LogName,
    dir: Dir,
    path: PathBuf,
}

impl Recovery<'_> {
    fn name(&mut self, entry: &DirEntry) -> Result<(), RecoverError> {
        if entry.name == REJECTED {
            return self.rejected();
        }
        if is_reserved(&entry.name) {
            return Ok(());
        }
        let Some(token) = log_token(&entry.name) else {
            self.found.unknown += 1;
            return Ok(());
        };
        let path = self.data.path().join(&entry.name);
        if entry.kind != Kind::Dir {
            // The first line of this log would fail on it.
            return Err(damage(&path, "a directory", "a file or a symbolic link"));
        }
        let dir = self.data.root().dir(&entry.name).map_err(file_error(&path, "opened"))?;
        self.log(&Log { name: token.into(), dir, path })
    }

    /// Lines that were rejected and kept: for each reason what a log is.
    fn rejected(&mut self) -> Result<(), RecoverError> {
        let before = self.found.bytes;
        for reason in Reject::NO_LOG {
            let name = LogName::Rejected(reason);
            let path = self.data.path().join(name.to_string());
            match self.data.log_dir(name, Dir::dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                dir => self.log(&Log { name, dir: dir.map_err(file_error(&path, "opened"))?, path })?,
            }
        }
        self.found.rejected_bytes = self.found.bytes - before;
        Ok(())
    }

    fn log(&mut self, log: &Log) -> Result<(), RecoverError> {
        let files = LogFiles::list(&log.dir).map_err(file_error(&log.path, "listed"))?;
        self.found.unknown += files.unknown;
        let Some(&base) = files.bases.last() else {
            // Made, and then no room for its first segment; or its segments were taken away.
            return if files.current { Err(damage(&log.path, "a segment", "none, only current")) } else { Ok(()) };
        };
        if !files.is_plain(base) {
            // Only what is sealed is compressed: the next one is gone, and with it where the log goes on.
            return Err(damage(&log.path, "the newest segment as text", format!("only {}", packed_name(base))));
        }
        let (len, inode) = self.check_chain(log, &files)?;
        let len = self.copy_unfinished_line(log, base, len)?;
        self.mend_current(log, &files, base, inode)?;
        let name = segment_name(base);
        let born = log.dir.born(&name).map_err(file_error(&log.path.join(&name), "inspected"))?;
        let age = born.and_then(|born| born.elapsed().ok()).unwrap_or_default();
        let found = match log.name {
            LogName::Token(_) => &mut self.found.logs,
            LogName::Rejected(_) => &mut self.found.rejected,
        };
        found.push(RecoveredLog { name: log.name, base, len, age, sealed: files.bases.len() as u64 - 1 });
        Ok(())
    }

    /// Length and inode of the newest segment.
    fn check_chain(&mut self, log: &Log, files: &LogFiles) -> Result<(u64, u64), RecoverError> {
        let mut newest = (0, 0);
        for (index, &base) in files.bases.iter().enumerate() {
            let is_plain = files.is_plain(base);
            let name = if is_plain { segment_name(base) } else { packed_name(base) };
            let path = log.path.join(&name);
            let stat = log.dir.stat(&name).map_err(file_error(&path, "inspected"))?;
            let stat = stat.filter(|stat| stat.kind == Kind::File);
            let stat = stat.ok_or_else(|| damage(&path, "a file", "a directory or a symbolic link"))?;
            let len = if is_plain { stat.len } else { packed_len(log, base)? };
            let end = Position(len).in_log(base);
            let end = end.ok_or_else(|| damage(&path, "an end below 2^64", format!("{len} bytes")))?;
            let next = files.bases.get(index + 1).copied();
            // Where a compressed one waits beside the text, that one is the whole one; the text may not have been synced.
            let doubtful = is_plain && files.is_packed(base);
            if let Some(next) = next.filter(|&next| next != end)
                && !(doubtful && packed_len(log, base)? == next.in_segment(base).0)
            {
                let expected = format!("{} after {name} of {len} bytes", segment_name(end));
                return Err(damage(&log.path, expected, segment_name(next)));
            }
            self.found.segments += 1;
            self.found.packed += u64::from(!is_plain);
            self.found.bytes += next.map_or(len, |next| next.in_segment(base).0);
            self.found.newest_write = self.found.newest_write.max(Some(stat.modified));
            newest = (len, stat.inode);
        }
        Ok(newest)
    }

    /// Length of the whole lines.
    fn copy_unfinished_line(&mut self, log: &Log, base: Offset, len: u64) -> Result<u64, RecoverError> {
        let name = segment_name(base);
        let path = log.path.join(&name);
        let file = log.dir.file(&name, Access::Read).map_err(file_error(&path, "opened"))?;
        let whole = whole_lines_end(&file, len, &mut self.chunk).map_err(file_error(&path, "read"))?;
        if whole == len {
            return Ok(len);
        }
        let copy = quarantine_name(log.name, base, Position(whole));
        let copy_path = self.data.path().join(QUARANTINE).join(&copy);
        let copy = self.quarantine(&file, whole..len, &copy).map_err(file_error(&copy_path, "filled"))?;
        if self.cuts.len() < SYNCED_ONE_BY_ONE_MAX {
            copy.sync_all().map_err(file_error(&copy_path, "synced"))?;
        }
        self.cuts.push(Cut { log: log.name, base, whole });
        self.found.quarantined_files += 1;
        self.found.quarantined_bytes += len - whole;
        self.found.bytes -= len - whole;
        Ok(whole)
    }

    /// Brings the copies to the disk, then cuts the segments.
    fn cut_all(&self) -> Result<(), RecoverError> {
        let Some(quarantine) = &self.quarantine else { return Ok(()) };
        let (data, root) = (self.data.path(), self.data.root());
        let one_by_one = self.cuts.len() <= SYNCED_ONE_BY_ONE_MAX;
        let synced = if one_by_one { quarantine.sync().and_then(|()| root.sync()) } else { root.sync_file_system() };
        synced.map_err(file_error(&data.join(QUARANTINE), "synced"))?;
        for cut in &self.cuts {
            let segment = segment_name(cut.base);
            let file = self.data.log_dir(cut.log, Dir::dir).and_then(|dir| dir.file(&segment, Access::Write));
            let done = file.and_then(|file| {
                file.set_len(cut.whole)?;
                if one_by_one { file.sync_all() } else { Ok(()) }
            });
            done.map_err(file_error(&data.join(cut.log.to_string()).join(segment), "cut"))?;
        }
        if !one_by_one {
            root.sync_file_system().map_err(file_error(data, "synced"))?;
        }
        Ok(())
    }

    /// Copies the range to the quarantine, not yet synced. What a try before this one left is completed; a file with
    /// other bytes stays as it is, and the copy gets a number.
    fn quarantine(&mut self, source: &File, range: Range<u64>, name: &str) -> io::Result<File> {
        let len = range.end - range.start;
        let mut number = 1_u64;
        loop {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let file = self.quarantine_dir()?.file_or_new(&name, Access::ReadWrite)?;
            let kept = file.metadata()?.len();
            if kept <= len && self.same_bytes(source, range.start, &file, kept)? {
                self.copy(source, range.start, &file, kept..len)?;
                return Ok(file);
            }
            number += 1;
        }
    }

    fn quarantine_dir(&mut self) -> io::Result<&Dir> {
        let dir = match self.quarantine.take() {
            Some(dir) => dir,
            None => self.data.root().dir_or_new(QUARANTINE)?,
        };
        Ok(self.quarantine.insert(dir))
    }

    /// Whether the copy's first `len` bytes are the source's from `start` on.
    fn same_bytes(&mut self, source: &File, start: u64, copy: &File, len: u64) -> io::Result<bool> {
        let mut other = vec![0; self.chunk.len()];
        let mut at = 0;
        while at < len {
            let part = chunk_of(&mut self.chunk, len - at);
            let other = chunk_of(&mut other, len - at);
            source.read_exact_at(part, start + at)?;
            copy.read_exact_at(other, at)?;
            if part != other {
                return Ok(false);
            }
            at += part.len() as u64;
        }
        Ok(true)
    }

    /// Copies what the range is of the copy, whose first byte is the source's at `start`.
    fn copy(&mut self, source: &File, start: u64, copy: &File, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let part = chunk_of(&mut self.chunk, range.end - at);
            source.read_exact_at(part, start + at)?;
            copy.write_all_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// A crash between making a segment and renaming `current` leaves it behind.
    fn mend_current(&mut self, log: &Log, files: &LogFiles, base: Offset, inode: u64) -> Result<(), RecoverError> {
        let path = log.path.join(CURRENT);
        let current = log.dir.stat(CURRENT).map_err(file_error(&path, "inspected"))?;
        if current.is_none_or(|current| current.inode != inode) {
            point_current(&log.dir, &segment_name(base)).map_err(file_error(&path, "linked"))?;
            self.found.relinked += 1;
        }
        if files.current_new {
            log.dir.unlink(CURRENT_NEW).map_err(file_error(&log.path.join(CURRENT_NEW), "removed"))?;
        }
        Ok(())
    }
}

/// Bytes of entries in a compressed segment.
fn packed_len(log: &Log, base: Offset) -> Result<u64, RecoverError> {
    let path = log.path.join(packed_name(base));
    let packed = log.dir.file(&packed_name(base), Access::Read).map_err(file_error(&path, "opened"))?;
    match SegmentFile::packed(packed).and_then(|packed| packed.len()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            Err(damage(&path, "a compressed segment", error.to_string()))
        }
        other => Ok(other.map_err(file_error(&path, "read"))?),
    }
}

fn damage(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> RecoverError {
    RecoverError::Damage(Damage { path: path.to_owned(), expected: expected.into(), found: found.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use crate::segment::{META, QUARANTINE};
    use crate::wire::Token;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

    struct Fixture {
        _parent: tempfile::TempDir,
        data: DataDir,
    }

    impl Fixture {
        fn new(segments: &[(u64, &str)]) -> Self {
            let parent = tempfile::tempdir().unwrap();
            let data = DataDir::open(&parent.path().join("data")).unwrap();
            for &(base, text) in segments {
                let file = File::from(data.create_segment(token(), Offset(base)).unwrap());
                file.write_all_at(text.as_bytes(), 0).unwrap();
            }
            Self { _parent: parent, data }
        }

        fn log(&self, name: &str) -> PathBuf {
            self.data.path().join(TOKEN).join(name)
        }

        fn segment(&self, base: u64) -> PathBuf {
            self.log(&segment_name(Offset(base)))
        }

        /// What was found, but for times: only a clock knows them.
        fn recover(&self) -> Recovered {
            let mut found = recover(&self.data).unwrap();
            for log in found.logs.iter_mut().chain(&mut found.rejected) {
                assert!(log.age < Duration::from_mins(10), "{log:?}");
                log.age = Duration::ZERO;
            }
            found.newest_write = None;
            found
        }

        fn refused(&self) -> String {
            let error = recover(&self.data).unwrap_err();
            assert_eq!(error.exit(), Exit::Damage);
            error.to_string()
        }

        /// Names and contents of the quarantine.
        fn quarantine(&self) -> Vec<(String, String)> {
            let Ok(entries) = fs::read_dir(self.data.path().join(QUARANTINE)) else { return Vec::new() };
            let mut files: Vec<_> = entries
                .map(|entry| entry.unwrap())
                .map(|entry| {
                    let name = entry.file_name().into_string().unwrap();
                    (name.replace(TOKEN, "T"), fs::read_to_string(entry.path()).unwrap())
                })
                .collect();
            files.sort();
            files
        }

        fn put_in_quarantine(&self, name: &str, text: &str) {
            fs::create_dir_all(self.data.path().join(QUARANTINE)).unwrap();
            fs::write(self.data.path().join(QUARANTINE).join(name.replace('T', TOKEN)), text).unwrap();
        }
    }

    fn token() -> Token {
        TOKEN.parse().unwrap()
    }

    #[test]
    fn an_empty_directory_has_nothing() {
        assert_eq!(Fixture::new(&[]).recover(), Recovered::default());
    }

    #[test]
    fn rejected_lines_are_a_log_of_their_own() {
        let fixture = Fixture::new(&[(0, "a\n")]);
        let name = LogName::Rejected(Reject::UnknownToken);
        for (base, text) in [(0, "one\n"), (4, "two\nthr")] {
            let file = File::from(fixture.data.create_segment(name, Offset(base)).unwrap());
            file.write_all_at(text.as_bytes(), 0).unwrap();
        }
        let found = fixture.recover();
        assert_eq!(
            found.logs,
            [RecoveredLog { name: token().into(), base: Offset(0), len: 2, age: Duration::ZERO, sealed: 0 }]
        );
        assert_eq!(found.rejected, [RecoveredLog { name, base: Offset(4), len: 4, age: Duration::ZERO, sealed: 1 }]);
        assert_eq!((found.rejected_bytes, found.bytes, found.segments, found.unknown), (8, 10, 3, 0));
        let cut = "_rejected-unknown_token-00000000000000000004-4".to_owned();
        assert_eq!(fixture.quarantine(), [(cut, "thr".to_owned())]);
        let folder = fixture.data.path().join("_rejected/unknown_token");
        assert_eq!(fs::read(folder.join(CURRENT)).unwrap(), b"two\n");
    }

    #[test]
    fn whole_logs_are_left_alone() {
        let fixture = Fixture::new(&[(0, "a\n"), (2, "bb\nc\n")]);
        let found = fixture.recover();
        let log = RecoveredLog { name: token().into(), base: Offset(2), len: 5, age: Duration::ZERO, sealed: 1 };
        assert_eq!(found, Recovered { logs: vec![log], segments: 2, bytes: 7, ..Recovered::default() });
        assert_eq!(fixture.quarantine(), []);
    }

    #[test]
    fn a_cut_at_any_byte_keeps_whole_lines_and_quarantines_the_rest() {
        let text = "one\n\ntwo three\nfour\n";
        for cut in 0..=text.len() {
            let fixture = Fixture::new(&[(0, "x\n"), (2, &text[..cut])]);
            let found = fixture.recover();
            let whole = text[..cut].rfind('\n').map_or(0, |lf| lf + 1);
            let rest = &text[whole..cut];
            assert_eq!(fs::read_to_string(fixture.segment(2)).unwrap(), text[..whole], "cut at {cut}");
            let kept = (format!("T-00000000000000000002-{whole}"), rest.to_owned());
            assert_eq!(fixture.quarantine(), if rest.is_empty() { vec![] } else { vec![kept] }, "cut at {cut}");
            assert_eq!(
                found.logs,
                [RecoveredLog {
                    name: token().into(),
                    base: Offset(2),
                    len: whole as u64,
                    age: Duration::ZERO,
                    sealed: 1
                }]
            );
            assert_eq!((found.bytes, found.quarantined_bytes), (2 + whole as u64, rest.len() as u64));

            let again = fixture.recover();
            assert_eq!(again, Recovered { quarantined_files: 0, quarantined_bytes: 0, ..found });
        }
    }

    #[test]
    fn an_unfinished_line_longer_than_any_chunk_is_cut_whole() {
        let rest = "r".repeat(3 * CHUNK_BYTES + 17);
        let fixture = Fixture::new(&[(0, &format!("a\n{rest}"))]);
        assert_eq!(fixture.recover().quarantined_bytes, rest.len() as u64);
        assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), "a\n");
        assert_eq!(fixture.quarantine()[0].1, rest);
    }

    #[test]
    fn many_logs_are_cut_with_shared_syncs() {
        let fixture = Fixture::new(&[]);
        let count = SYNCED_ONE_BY_ONE_MAX as u64 + 2;
        for number in 0..count {
            let token = Token::from_bytes(u128::from(number).to_be_bytes());
            let file = File::from(fixture.data.create_segment(token, Offset(0)).unwrap());
            file.write_all_at(format!("a\n{number}").as_bytes(), 0).unwrap();
        }
        let found = fixture.recover();
        assert_eq!((found.quarantined_files, found.bytes), (count, 2 * count));
        assert!(found.logs.is_sorted_by_key(|log| log.name));
        let copies: Vec<_> = fixture.quarantine().into_iter().map(|(_, text)| text).collect();
        assert_eq!(copies, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(fixture.recover(), Recovered { quarantined_files: 0, quarantined_bytes: 0, ..found });
    }

    #[test]
    fn damage_of_one_log_leaves_every_segment_as_it_is() {
        let fixture = Fixture::new(&[(0, "a\nrest")]);
        let damaged: Token = "ffffffff-0000-0000-0000-000000000000".parse().unwrap();
        for base in [0, 5] {
            fixture.data.create_segment(damaged, Offset(base)).unwrap();
        }
        assert!(fixture.refused().contains("ffffffff…"));
        assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), "a\nrest");
    }

    #[test]
    fn a_copy_of_an_earlier_try_is_used_again_or_completed() {
        for earlier in ["", "re", "rest"] {
            let fixture = Fixture::new(&[(0, "a\nrest")]);
            fixture.put_in_quarantine("T-00000000000000000000-2", earlier);
            fixture.recover();
            assert_eq!(fixture.quarantine(), [("T-00000000000000000000-2".to_owned(), "rest".to_owned())]);
        }
    }

    #[test]
    fn a_copy_of_other_bytes_stays() {
        let fixture = Fixture::new(&[(0, "a\nrest")]);
        fixture.put_in_quarantine("T-00000000000000000000-2", "rust");
        fixture.put_in_quarantine("T-00000000000000000000-2-2", "rest and more");
        fixture.recover();
        let texts: Vec<_> = fixture.quarantine().into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["rust", "rest and more", "rest"]);
        assert_eq!(fixture.quarantine()[2].0, "T-00000000000000000000-2-3");
    }

    #[test]
    fn gaps_and_overlaps_are_damage_and_nothing_is_touched() {
        for text in ["a", "a\n", "a\nb\n"] {
            let fixture = Fixture::new(&[(0, text), (3, "c\nd")]);
            let expected = format!(
                "data/2bfbea1e…: expected {} after {} of {} bytes, found {}; restore it, or move this log out of the \
                 data directory",
                segment_name(Offset(text.len() as u64)),
                segment_name(Offset(0)),
                text.len(),
                segment_name(Offset(3)),
            );
            let error = fixture.refused();
            assert!(error.ends_with(&expected), "{error}");
            assert_eq!(fs::read_to_string(fixture.segment(3)).unwrap(), "c\nd");
        }
    }

    #[test]
    fn a_log_may_begin_above_zero_and_end_with_an_empty_segment() {
        let fixture = Fixture::new(&[(40, "a\n"), (42, "")]);
        assert_eq!(
            fixture.recover().logs,
            [RecoveredLog { name: token().into(), base: Offset(42), len: 0, age: Duration::ZERO, sealed: 1 }]
        );
    }

    /// Compresses a segment; the text goes, or stays as if the engine had been killed before that.
    fn pack(fixture: &Fixture, base: u64, stays: bool) {
        let file = File::create(fixture.log(&packed_name(Offset(base)))).unwrap();
        let mut packer = crate::store::segment_file::Packer::new(file).unwrap();
        packer.push(&fs::read(fixture.segment(base)).unwrap()).unwrap();
        packer.finish().unwrap();
        if !stays {
            fs::remove_file(fixture.segment(base)).unwrap();
        }
    }

    #[test]
    fn compressed_segments_join() {
        let fixture = Fixture::new(&[(0, "a\n"), (2, "bb\nc\n"), (7, "d\n")]);
        let plain = fixture.recover();
        pack(&fixture, 0, false);
        pack(&fixture, 2, true);
        fs::write(fixture.log("00000000000000000002.log.zst.tmp"), "half").unwrap();
        fs::write(fixture.log("00000000000000000000.idx"), "any").unwrap();
        assert_eq!(fixture.recover(), Recovered { packed: 1, ..plain.clone() });
        // The text of the second was not synced before the power went; the compressed one was.
        fs::write(fixture.segment(2), "bb").unwrap();
        assert_eq!(fixture.recover(), Recovered { packed: 1, ..plain });
        let packed = fixture.log(&packed_name(Offset(0)));
        fs::write(&packed, "no frames at all, none").unwrap();
        assert!(fixture.refused().contains("00000000000000000000.log.zst: expected a compressed segment, found "));
        fs::remove_file(&packed).unwrap();
        pack(&fixture, 7, false);
        assert!(
            fixture.refused().contains("expected the newest segment as text, found only 00000000000000000007.log.zst")
        );
    }

    #[test]
    fn current_is_mended() {
        let fixture = Fixture::new(&[(0, "a\n"), (2, "b\n")]);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let newest = inode(&fixture.segment(2));

        fs::remove_file(fixture.log(CURRENT)).unwrap();
        fs::hard_link(fixture.segment(0), fixture.log(CURRENT_NEW)).unwrap();
        assert_eq!(fixture.recover().relinked, 1);
        assert_eq!(inode(&fixture.log(CURRENT)), newest);
        assert!(!fixture.log(CURRENT_NEW).exists());

        fs::remove_file(fixture.log(CURRENT)).unwrap();
        fs::hard_link(fixture.segment(0), fixture.log(CURRENT)).unwrap();
        assert_eq!(fixture.recover().relinked, 1);
        assert_eq!(inode(&fixture.log(CURRENT)), newest);

        fs::hard_link(fixture.segment(2), fixture.log(CURRENT_NEW)).unwrap();
        assert_eq!(fixture.recover().relinked, 0);
        assert!(!fixture.log(CURRENT_NEW).exists());
    }

    #[test]
    fn a_log_directory_without_segments_is_no_log_yet() {
        let fixture = Fixture::new(&[]);
        fs::create_dir(fixture.data.path().join(TOKEN)).unwrap();
        assert_eq!(fixture.recover(), Recovered::default());
        fs::write(fixture.log(CURRENT), "a\n").unwrap();
        assert!(fixture.refused().contains("expected a segment, found none, only current"));
    }

    #[test]
    fn other_names_are_counted_and_links_refused() {
        let fixture = Fixture::new(&[(0, "a\n")]);
        fixture.data.meta().unwrap();
        for name in ["lost+found", "notes.txt", &TOKEN.to_uppercase(), "_journal"] {
            fs::create_dir(fixture.data.path().join(name)).unwrap();
        }
        fs::write(fixture.log("notes"), "").unwrap();
        assert!(fixture.data.path().join(META).exists());
        assert_eq!(fixture.recover().unknown, 4);

        let link = fixture.data.path().join("00000000-0000-0000-0000-000000000000");
        symlink(fixture.data.path().join(TOKEN), &link).unwrap();
        assert!(fixture.refused().contains("00000000…: expected a directory, found a file or a symbolic link"));
        fs::remove_file(link).unwrap();

        symlink(fixture.segment(0), fixture.segment(2)).unwrap();
        assert!(fixture.refused().contains("expected a file, found a directory or a symbolic link"));
    }
}

//! Recovery without journals, by what they tell, and of what compression and rejection leave.

use super::*;
use crate::error::Exit;
use crate::limits::SYNCED_ONE_BY_ONE_MAX;
use crate::segment::index::{RECORD_BYTES, Record, header};
use crate::segment::journal::{Header, Journal, JournalEntry, SegmentNumber};
use crate::segment::{META, QUARANTINE, checksum};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};

const HERE: Circumstances = Circumstances { boot: BootId([7; 16]), accept_loss: false };

const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

/// Whenever it is stopped, nothing is cut, and the next one does all of it.
#[test]
fn a_recovery_that_is_stopped_is_done_by_the_next() {
    let fixture = Fixture::new(&[(0, "whole\ntorn")]);
    fs::write(fixture.data.path().join("stranger"), "").unwrap();
    let stopped_at = |count: usize| {
        let mut left = count;
        let mut stopped = || left.checked_sub(1).map(|rest| left = rest).is_none();
        recover_unless(&fixture.data, &Journals::default(), HERE, &mut stopped)
    };
    // After the log was read ahead, before it, before the stranger, and once more: by then there is a quarantine.
    for count in 0..4 {
        assert_eq!(stopped_at(count).unwrap_err().exit(), Exit::Done);
        assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), "whole\ntorn");
    }
    assert_eq!(stopped_at(4).unwrap().quarantined_files, 1);
    assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), "whole\n");
    assert_eq!(fixture.quarantine().len(), 1);
    assert_eq!(fixture.recover().quarantined_files, 0);
}

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
        let mut found = recover(&self.data, &Journals::default(), HERE).unwrap();
        for log in found.logs.iter_mut().chain(&mut found.rejected) {
            assert!(log.age < Duration::from_mins(10), "{log:?}");
            log.age = Duration::ZERO;
        }
        found.newest_write = None;
        found
    }

    fn refused(&self) -> String {
        let error = recover(&self.data, &Journals::default(), HERE).unwrap_err();
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

fn log_at(name: impl Into<LogName>, base: Offset, len: u64, sealed: u64) -> RecoveredLog {
    let newest = RecoveredSegment::durable(base, Position(len), false);
    let (name, age) = (name.into(), Duration::ZERO);
    RecoveredLog { name, newest, earlier: Vec::new(), doubt: None, age, sealed }
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
    assert_eq!(found.logs, [log_at(token(), Offset(0), 2, 0)]);
    assert_eq!(found.rejected, [log_at(name, Offset(4), 4, 1)]);
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
    let log = log_at(token(), Offset(2), 5, 1);
    assert_eq!(found, Recovered { logs: vec![log], segments: 2, bytes: 7, unverified: 1, ..Recovered::default() });
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
        assert_eq!(found.logs, [log_at(token(), Offset(2), whole as u64, 1)]);
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
             data directory and start with --accept-loss",
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
    assert_eq!(fixture.recover().logs, [log_at(token(), Offset(42), 0, 1)]);
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
    let moved = Recovered { packed: 2, quarantined_files: 1, quarantined_bytes: 2, ..plain.clone() };
    assert_eq!(fixture.recover(), moved);
    assert_eq!(fixture.quarantine(), [("T-00000000000000000002-0".to_owned(), "bb".to_owned())]);
    assert!(!fixture.segment(2).exists());
    assert_eq!(fixture.recover(), Recovered { packed: 2, ..plain });
    let packed = fixture.log(&packed_name(Offset(0)));
    fs::write(&packed, "no frames at all, none").unwrap();
    assert!(fixture.refused().contains("00000000000000000000.log.zst: expected a compressed segment, found "));
    fs::remove_file(&packed).unwrap();
    pack(&fixture, 7, false);
    assert!(fixture.refused().contains("expected the newest segment as text, found only 00000000000000000007.log.zst"));
}

/// After a power cut: the compressed one was synced and read back before it got its name.
#[test]
fn of_two_forms_the_one_that_is_whole_counts() {
    let text = (0..2000).fold(String::new(), |text, line| text + &format!("{line:09}\n"));
    let next = text.len() as u64;
    let entries = [active(next, "d\n", 0), JournalEntry::Checkpoint];
    let hole = text.replace("000001", "\0\0\0\0\0\0");
    for left in [&text, &hole, ""] {
        for is_bad in [false, true] {
            let fixture = Fixture::new(&[(0, &text), (next, "d\n")]);
            pack(&fixture, 0, true);
            let packed = fixture.log(&packed_name(Offset(0)));
            let mut bytes = fs::read(&packed).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= u8::from(is_bad);
            fs::write(&packed, &bytes).unwrap();
            fs::write(fixture.segment(0), left).unwrap();
            // While the machine runs on the text is whole, and nothing is looked at.
            let circumstances = Circumstances { boot: BEFORE, ..HERE };
            assert_eq!(recover(&fixture.data, &told(&entries), circumstances).unwrap().quarantined_files, 0);
            let found = recover(&fixture.data, &told(&entries), HERE);
            let forms = (fixture.segment(0).exists(), packed.exists());
            let kept = fixture.data.path().join(QUARANTINE).join(format!("{TOKEN}-{:020}-0", 0));
            match (is_bad, left == text) {
                (false, true) => assert_eq!((forms, found.unwrap().quarantined_files), ((true, true), 0)),
                (false, false) => {
                    let found = found.unwrap();
                    assert_eq!((forms, found.bytes, found.alarms), ((false, true), next + 2, vec![]));
                    assert_eq!(fs::read_to_string(kept).unwrap(), left);
                }
                (true, _) if left.is_empty() => assert!(found.is_err() && forms == (true, true)),
                (true, _) => {
                    let found = found.unwrap();
                    assert_eq!((forms, found.bytes, found.alarms.len()), ((true, false), next + 2, 1));
                    assert_eq!(fs::read(format!("{}.zst", kept.display())).unwrap(), bytes);
                }
            }
        }
    }
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

// What journals tell.

const BEFORE: BootId = BootId([1; 16]);
const NUMBER: SegmentNumber = SegmentNumber(0);

fn told(entries: &[JournalEntry]) -> Journals {
    let header = Header { shard: 0, generation: 1, boot: BEFORE, epoch_micros: 0 };
    let mut journals = Journals::default();
    journals.files.push(Journal { header, run: 1, first: 0, entries: entries.to_vec(), damaged: false });
    journals
}

fn active(base: u64, text: &str, proven: usize) -> JournalEntry {
    let proof = Proof {
        length: u32::try_from(proven).unwrap(),
        crc: checksum::crc32c(&text.as_bytes()[text.len() - proven..]),
    };
    let (token, base, length) = (token(), Offset(base), Position(text.len() as u64));
    JournalEntry::Active { number: NUMBER, token, base, length, proof }
}

fn batch(position: u64, text: &str) -> JournalEntry {
    JournalEntry::Batch { number: NUMBER, batch: Batch::of(Position(position), text.as_bytes(), 0) }
}

#[test]
fn what_makes_no_sense_in_an_index_goes_after_a_power_cut() {
    let record = |end| Record { time: 1, approximate: false, end: Position(end), lines: 1, crc32c: 7 }.encode();
    let whole = [header(Offset(0)), record(2), record(4)].concat();
    let hole = [header(Offset(0)), record(2), [0; RECORD_BYTES], record(6)].concat();
    let entries = [active(0, "a\nb\n", 0), JournalEntry::Checkpoint];
    for (index, left) in [(&whole, &whole[..]), (&hole, &whole[..2 * RECORD_BYTES]), (&vec![0; 99], &[])] {
        let fixture = Fixture::new(&[(0, "a\nb\n")]);
        let path = fixture.log(&index_name(Offset(0)));
        fs::write(&path, index).unwrap();
        recover(&fixture.data, &told(&entries), Circumstances { boot: BEFORE, ..HERE }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), *index, "the page cache was whole");
        recover(&fixture.data, &told(&entries), HERE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), left);
    }
}

#[test]
fn bytes_that_changed_below_the_checkpoint_seal_their_segment() {
    let entries = [active(0, "one\ntwo\n", 4), JournalEntry::Checkpoint, batch(8, "three\n")];
    for (text, alarms) in [("one\ntwo\nthree\n", 0), ("one\ntvo\nthree\n", 1), ("one\ntwo\n", 0)] {
        let fixture = Fixture::new(&[(0, text)]);
        let found = recover(&fixture.data, &told(&entries), HERE).unwrap();
        assert_eq!((found.alarms.len(), found.logs[0].newest.sealed), (alarms, alarms > 0), "{text}");
        assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), text);
    }
    let fixture = Fixture::new(&[(0, "one\ntvo\nthree\n")]);
    let alarm = &recover(&fixture.data, &told(&entries), HERE).unwrap().alarms[0];
    assert_eq!(alarm.expected, "bytes 4 to 8 as they were synced");
    assert!(alarm.path.ends_with(segment_name(Offset(0))));
    // Nobody has written since the checkpoint: that is no business of a start.
    let found = recover(&fixture.data, &told(&entries[..2]), HERE).unwrap();
    assert_eq!((found.alarms.len(), found.logs[0].newest.sealed), (0, false));
}

/// The machine was started anew, and the journal of a shard is missing: it may have told of any log.
fn damaged(entries: &[JournalEntry]) -> Journals {
    let mut journals = told(entries);
    journals.headless = 1;
    journals
}

/// A run of NULs that a disk may have left, in a segment that has successors.
#[test]
fn a_hole_in_a_segment_without_records_ends_its_log() {
    let whole = "a\n".repeat(1024);
    let mut hole = whole.clone();
    hole.replace_range(512..1536, &"\0".repeat(1024));
    let name = |base, position| format!("T-{base:020}-{position}");
    for journals in [Journals::default(), damaged(&[])] {
        for indexed in [None, Some(&whole), Some(&hole)] {
            let fixture = Fixture::new(&[(0, indexed.unwrap_or(&hole)), (2048, "b\n"), (2050, "c\n")]);
            if indexed.is_some() {
                let dir = fixture.data.root().dir(TOKEN).unwrap();
                index_file::complete(&dir, Offset(0), 2048, u64::MAX).unwrap();
                fs::write(fixture.segment(0), &hole).unwrap();
            }
            let found = recover(&fixture.data, &journals, HERE).unwrap();
            let newest = &found.logs[0].newest;
            if indexed == Some(&hole) {
                // A client's own: their checksum is that of the time when they came.
                assert_eq!((found.alarms.len(), found.bytes, newest.base), (0, 2052, Offset(2050)));
                assert_eq!(fixture.quarantine(), []);
                continue;
            }
            assert_eq!((found.alarms.len(), found.bytes), (1, 512));
            assert_eq!((newest.base, newest.length, newest.sealed), (Offset(0), Position(512), true));
            assert_eq!(found.alarms[0].found, "NULs at 512 that no index vouches for");
            assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), whole[..512]);
            let moved = [(0, 512, &hole[512..]), (2048, 0, "b\n"), (2050, 0, "c\n")];
            let moved = moved.map(|(base, position, text)| (name(base, position), text.to_owned()));
            assert_eq!(fixture.quarantine(), moved);
            let again = recover(&fixture.data, &journals, HERE).unwrap();
            assert_eq!((again.alarms.len(), again.quarantined_files, again.bytes), (0, 0, 512));
        }
    }
    // A checkpoint tells of a later one: all of it was on the disk, and is for `verify`.
    let fixture = Fixture::new(&[(0, &hole), (2048, "b\n")]);
    let journals = damaged(&[active(2048, "b\n", 0), JournalEntry::Checkpoint]);
    let found = recover(&fixture.data, &journals, HERE).unwrap();
    assert_eq!((found.damaged_journals, found.alarms.len(), found.bytes), (1, 0, 2050));
    // The machine runs on: memory holds all that clients sent, whatever became of the journal.
    let fixture = Fixture::new(&[(0, &hole), (2048, "b\n")]);
    let mut journals = told(&[]);
    (journals.files[0].damaged, journals.files[0].header.boot) = (true, HERE.boot);
    let found = recover(&fixture.data, &journals, HERE).unwrap();
    assert_eq!((found.damaged_journals, found.alarms.len(), found.bytes), (1, 0, 2050));
}

/// The same at the end of a log.
#[test]
fn an_index_vouches_for_the_nuls_of_a_newest_segment() {
    let text = format!("a\n{}\nb\n", "\0".repeat(2000));
    for indexed in [false, true] {
        let fixture = Fixture::new(&[(0, &text)]);
        if indexed {
            let dir = fixture.data.root().dir(TOKEN).unwrap();
            index_file::complete(&dir, Offset(0), text.len() as u64, u64::MAX).unwrap();
        }
        let found = fixture.recover();
        assert_eq!(found.bytes, if indexed { text.len() as u64 } else { 2 });
    }
}

/// What has to be done is said at once: `--accept-loss` alone would end in a refusal again.
#[test]
fn a_log_that_lacks_a_segment_in_the_middle_has_to_be_moved_away() {
    let fixture = Fixture::new(&[(0, "a\n"), (4, "c\n")]);
    let entries = [active(2, "b\n", 0), JournalEntry::Checkpoint];
    let accepting = Circumstances { accept_loss: true, ..HERE };
    for circumstances in [HERE, accepting] {
        let error = recover(&fixture.data, &told(&entries), circumstances).unwrap_err();
        assert_eq!(error.exit(), Exit::Damage);
        let said = "move this log out of the data directory and start with --accept-loss";
        assert!(error.to_string().ends_with(said), "{error}");
    }
    fs::remove_dir_all(fixture.data.path().join(TOKEN)).unwrap();
    assert_eq!(recover(&fixture.data, &told(&entries), accepting).unwrap().logs.len(), 0);
}

#[test]
fn a_synced_segment_that_is_missing_is_a_loss_unless_it_was_retired() {
    let mut entries = vec![active(0, "a\n", 0), JournalEntry::Checkpoint];
    let fixture = Fixture::new(&[(2, "b\n")]);
    let accepting = Circumstances { accept_loss: true, ..HERE };
    let error = recover(&fixture.data, &told(&entries), HERE).unwrap_err();
    assert_eq!(error.exit(), Exit::Damage);
    let said = "00000000000000000000.log: expected a segment of at least 2 bytes, which were synced, found nothing; \
                restore it, or start with --accept-loss";
    assert!(error.to_string().ends_with(said), "{error}");
    let found = recover(&fixture.data, &told(&entries), accepting).unwrap();
    assert_eq!((found.alarms.len(), found.logs[0].newest.base), (1, Offset(2)));
    entries.push(JournalEntry::Retire { token: token(), base: Offset(0) });
    let found = recover(&fixture.data, &told(&entries), HERE).unwrap();
    assert_eq!((found.alarms.len(), found.logs[0].newest.base), (0, Offset(2)));

    // The whole log.
    let fixture = Fixture::new(&[]);
    let error = recover(&fixture.data, &told(&entries[..2]), HERE).unwrap_err();
    assert!(error.to_string().contains("2bfbea1e…"), "{error}");
    assert_eq!(recover(&fixture.data, &told(&entries[..2]), accepting).unwrap().alarms.len(), 1);
}

#[test]
fn deleted_segments_that_come_back_are_no_part_of_the_log() {
    let fixture = Fixture::new(&[(0, "a\n"), (4, "c\n"), (6, "d\n")]);
    let retire = [0, 2].map(|base| JournalEntry::Retire { token: token(), base: Offset(base) });
    let entries = [&[active(6, "d\n", 0), JournalEntry::Checkpoint], &retire[..]].concat();
    let found = recover(&fixture.data, &told(&entries), HERE).unwrap();
    assert_eq!((found.segments, found.bytes, found.logs[0].newest.base), (2, 4, Offset(6)));
    assert_eq!(fixture.quarantine(), [("T-00000000000000000000-0".to_owned(), "a\n".to_owned())]);
    assert!(recover(&fixture.data, &told(&entries[..2]), HERE).is_ok());
    let fixture = Fixture::new(&[(0, "a\n"), (4, "c\n"), (6, "d\n")]);
    assert!(recover(&fixture.data, &told(&entries[..2]), HERE).is_err(), "a gap that nobody made");
}

mod given_up;

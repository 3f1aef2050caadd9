//! What recovery takes back of segments that were given up.

use super::*;
use crate::segment::journal::RunId;

/// A segment was given up, and the process died before all that was kept of it was in the next one.
#[test]
fn what_was_given_up_is_written_again() {
    let entries = [
        active(0, "a\n", 0),
        JournalEntry::Checkpoint,
        batch(2, "b\n"),
        batch(4, "c\n"),
        JournalEntry::Poison { number: NUMBER, synced: Position(2), length: Position(6) },
    ];
    let mut journals = told(&entries);
    journals.files[0].header.boot = HERE.boot;
    for copied in ["", "b", "b\n", "b\nc\n", "b\nc\nd\n"] {
        let fixture = Fixture::new(&[(0, "a\nb\nc\n"), (2, copied)]);
        let found = recover(&fixture.data, &journals, HERE).unwrap();
        let whole = if copied.len() < 4 { "b\nc\n" } else { copied };
        let texts = [0, 2].map(|base| fs::read_to_string(fixture.segment(base)).unwrap());
        assert_eq!((texts, found.alarms.len()), (["a\n", whole].map(str::to_owned), 0));
        let log = &found.logs[0];
        assert_eq!((log.newest.base, log.newest.length.0, log.doubt), (Offset(2), whole.len() as u64, None));
    }
    // Before there was a next one: no later sync says anything of it.
    let fixture = Fixture::new(&[(0, "a\nb\nc\n")]);
    let found = recover(&fixture.data, &journals, HERE).unwrap();
    let log = &found.logs[0];
    assert_eq!((log.newest.length, log.newest.synced, log.newest.sealed), (Position(6), Position(2), true));
    assert_eq!(log.doubt, Some(Offset(2)));
}

const GIVEN_UP: &str = "T-00000000000000000002-0-run1-0-1";

/// A segment was given up with nothing of it synced; `more` follows, in the same run and start of the operating system.
fn given_up(more: &[JournalEntry]) -> Journals {
    let number = SegmentNumber(1);
    let batch = |position, text: &str| Batch::of(Position(position), text.as_bytes(), 0);
    let entries = [
        active(0, "a\n", 0),
        JournalEntry::Checkpoint,
        JournalEntry::Open { number, token: token(), base: Offset(2) },
        JournalEntry::Batch { number, batch: batch(0, "b\n") },
        JournalEntry::Batch { number, batch: batch(2, "c\n") },
        JournalEntry::Poison { number, synced: Position(0), length: Position(4) },
    ];
    let mut journals = told(&[&entries, more].concat());
    journals.files[0].header.boot = HERE.boot;
    journals
}

/// The segment that has its name.
fn made_again() -> JournalEntry {
    JournalEntry::Open { number: SegmentNumber(2), token: token(), base: Offset(2) }
}

/// The process died before all of it was in the segment that has its name now, or before there was one.
#[test]
fn what_gave_its_name_away_is_taken_back() {
    let rewritten = JournalEntry::Batch { number: SegmentNumber(2), batch: Batch::of(Position(0), b"b\n", 0) };
    let open = [made_again(), rewritten];
    for (more, copied) in [
        (&open[..0], None),
        (&open[..0], Some("")),
        (&open[..0], Some("b\nc")),
        (&open[..1], Some("")),
        (&open[..2], Some("b\n")),
        (&open[..2], Some("b\nc\nd\n")),
    ] {
        let fixture = Fixture::new(&[(0, "a\n")]);
        if let Some(text) = copied {
            fs::write(fixture.segment(2), text).unwrap();
        }
        // No record tells of its last lines, and the last one is not whole.
        fixture.put_in_quarantine(GIVEN_UP, "b\nc\nd\ne");
        // What was tried in vain leaves an empty one.
        fixture.put_in_quarantine(&format!("{GIVEN_UP}-2"), "");
        let journals = given_up(more);
        let mut found = Vec::new();
        for _ in 0..3 {
            let recovered = recover(&fixture.data, &journals, HERE).unwrap();
            assert_eq!(fs::read_to_string(fixture.segment(2)).unwrap(), "b\nc\nd\n");
            assert_eq!(fs::read_to_string(fixture.log(CURRENT)).unwrap(), "b\nc\nd\n");
            assert_eq!(fixture.quarantine()[0], (GIVEN_UP.to_owned(), "b\nc\nd\ne".to_owned()));
            assert_eq!((recovered.alarms, recovered.logs[0].doubt, recovered.bytes), (vec![], None, 8));
            found.push(recovered.logs[0].newest.clone());
        }
        let newest = &found[0];
        assert_eq!((newest.base, newest.length, newest.synced), (Offset(2), Position(6), Position(0)));
        assert!(!newest.sealed && found.iter().all(|again| again == newest), "{found:?}");
    }
}

/// As far as its records go, also where they are of two that had the name.
#[test]
fn what_is_not_whole_in_quarantine_is_taken_back_as_far_as_it_is() {
    let poisoned_again = JournalEntry::Poison { number: SegmentNumber(2), synced: Position(0), length: Position(0) };
    for (more, copy, left) in [
        (vec![made_again()], "b\nC\nd\n", "b\n"),
        (vec![made_again()], "b\n", "b\n"),
        (vec![made_again()], "", ""),
        (vec![made_again(), poisoned_again], "b\n", "b\n"),
    ] {
        let fixture = Fixture::new(&[(0, "a\n"), (2, "")]);
        fixture.put_in_quarantine(GIVEN_UP, copy);
        let found = recover(&fixture.data, &given_up(&more), HERE).unwrap();
        assert_eq!(fs::read_to_string(fixture.segment(2)).unwrap(), left);
        let [alarm] = &found.alarms[..] else { panic!("{:?}", found.alarms) };
        assert_eq!(alarm.expected, "4 bytes, as the journal tells");
        assert_eq!(alarm.found, format!("{}, and no whole copy of the rest", left.len()));
    }
    // Nothing is left of it at all.
    let fixture = Fixture::new(&[(0, "a\n")]);
    let found = recover(&fixture.data, &given_up(&[]), HERE).unwrap();
    assert_eq!((found.alarms.len(), found.logs[0].newest.base), (1, Offset(0)));
    assert!(!fixture.segment(2).exists());
}

#[test]
fn what_another_run_gave_up_is_not_taken_back() {
    // Nor is it what holds other bytes, or what the operating system may have lost.
    let elsewhere = BootId([9; 16]);
    for (name, text, boot) in [
        ("T-00000000000000000002-0-run2-0-1", "", HERE.boot),
        ("T-00000000000000000002-0", "", HERE.boot),
        (GIVEN_UP, "x\n", HERE.boot),
        (GIVEN_UP, "", elsewhere),
    ] {
        let fixture = Fixture::new(&[(0, "a\n"), (2, text)]);
        fixture.put_in_quarantine(name, "b\nc\n");
        let found = recover(&fixture.data, &given_up(&[made_again()]), Circumstances { boot, ..HERE }).unwrap();
        assert_eq!(fs::read_to_string(fixture.segment(2)).unwrap(), text);
        assert_eq!((found.alarms.len(), found.bytes), (usize::from(boot == HERE.boot), 2 + text.len() as u64));
    }
}

/// A segment was given up, and the next one as well, of which so much was synced.
fn given_up_twice(synced: Position) -> Journals {
    let number = SegmentNumber(1);
    let mut journals = told(&[
        active(0, "a\n", 0),
        JournalEntry::Checkpoint,
        batch(2, "b\nc\nd\n"),
        JournalEntry::Poison { number: NUMBER, synced: Position(2), length: Position(8) },
        JournalEntry::Open { number, token: token(), base: Offset(2) },
        JournalEntry::Batch { number, batch: Batch::of(Position(0), b"b\nc\n", 0) },
        JournalEntry::Poison { number, synced, length: Position(4) },
    ]);
    journals.files[0].header.boot = HERE.boot;
    journals
}

/// Each was written again to the next, and that failed too: the last one is completed from all.
#[test]
fn what_was_given_up_twice_is_written_again() {
    let journals = given_up_twice(Position(2));
    for copied in ["", "c\n", "c\nd\ne\n"] {
        let fixture = Fixture::new(&[(0, "a\nb\nc\nd\n"), (2, "b\nc\n"), (4, copied)]);
        for _ in 0..2 {
            let found = recover(&fixture.data, &journals, HERE).unwrap();
            let whole = if copied.len() < 4 { "c\nd\n" } else { copied };
            let texts = [0, 2, 4].map(|base| fs::read_to_string(fixture.segment(base)).unwrap());
            assert_eq!((texts, found.alarms.len()), (["a\n", "b\n", whole].map(str::to_owned), 0));
        }
    }
}

/// Its copies are asked for what is missing, and nothing else.
#[test]
fn a_quarantine_that_cannot_be_read_refuses_no_start() {
    let spoil: [&dyn Fn(&Fixture); 4] = [
        &|fixture| fs::write(fixture.data.path().join(QUARANTINE), "").unwrap(),
        &|fixture| symlink("/nowhere", fixture.data.path().join(QUARANTINE)).unwrap(),
        &|fixture| {
            fixture.put_in_quarantine("x", "");
            symlink("x", fixture.data.path().join(QUARANTINE).join(GIVEN_UP.replace('T', TOKEN))).unwrap();
        },
        &|fixture| fs::create_dir_all(fixture.data.path().join(QUARANTINE).join(GIVEN_UP.replace('T', TOKEN))).unwrap(),
    ];
    for spoil in spoil {
        for (text, alarms) in [("b\nc\n", 0), ("b\n", 1), ("", 1)] {
            let fixture = Fixture::new(&[(0, "a\n"), (2, text)]);
            spoil(&fixture);
            for _ in 0..2 {
                let found = recover(&fixture.data, &given_up(&[made_again()]), HERE).unwrap();
                assert_eq!((found.alarms.len(), found.bytes), (alarms, 2 + text.len() as u64), "{:?}", found.alarms);
            }
        }
    }
}

/// It has moved with no whole line in it, or what the power cut took was the name of the next: there is `current`, and its
/// bytes lie in quarantine.
#[test]
fn a_log_of_which_only_current_is_left_begins_again() {
    for name in [token().into(), LogName::Rejected(Reject::NoToken)] {
        for (journals, text) in [(Journals::default(), "b\n"), (told(&[made_again()]), ""), (Journals::default(), "")] {
            let fixture = Fixture::new(&[]);
            let file = File::from(fixture.data.create_segment(name, Offset(2)).unwrap());
            file.write_all_at(text.as_bytes(), 0).unwrap();
            let run = RunId { run: 9, epoch_micros: 9 };
            fixture.data.give_up_segment(name, Offset(2), (run, SegmentNumber(1))).unwrap();
            let current = fixture.data.path().join(name.to_string()).join(CURRENT);
            assert!(current.exists());
            for journals in [&journals, &Journals::default()] {
                recover(&fixture.data, journals, HERE).unwrap();
                assert!(!current.exists());
            }
            assert_eq!(fixture.quarantine()[0].1, text);
        }
    }
}

/// The one before it is compressed already: no line is appended to that.
#[test]
fn a_segment_that_has_moved_is_made_again_behind_a_compressed_one() {
    for boot in [HERE.boot, BootId([9; 16])] {
        let fixture = Fixture::new(&[(0, "a\n")]);
        pack(&fixture, 0, false);
        for _ in 0..2 {
            let found = recover(&fixture.data, &given_up(&[]), Circumstances { boot, ..HERE }).unwrap();
            assert_eq!((found.logs[0].newest.base, found.logs[0].newest.length), (Offset(2), Position(0)));
            assert!(fixture.segment(2).exists() && fixture.log(CURRENT).exists());
        }
        fs::remove_file(fixture.segment(2)).unwrap();
        assert!(fixture.refused().contains("expected the newest segment as text"), "no record tells of it");
    }
}

/// Records vouch for it, wherever it is; what the disk has lost may be gone from memory as well.
#[test]
fn what_the_disk_has_lost_is_not_written_again() {
    let (nuls, number) = ("\0".repeat(1200), SegmentNumber(1));
    let own = format!("{nuls}c\n");
    for (text, recorded, left, alarms) in [
        // A sender's own.
        (format!("b\n{own}"), true, format!("b\n{own}"), 0),
        (format!("b\n{}d\n", &own[1..]), true, "b\n".to_owned(), 1),
        // Behind the last record.
        (format!("b\n{own}"), false, "b\n".to_owned(), 0),
        ("b\n\0\0c\n".to_owned(), false, "b\n\0\0c\n".to_owned(), 0),
    ] {
        let entries = |number| {
            let batches = [(0, "b\n"), (2, &own)].into_iter().take(1 + usize::from(recorded));
            let batches = batches.map(move |(position, text)| Batch::of(Position(position), text.as_bytes(), 0));
            batches.map(move |batch| JournalEntry::Batch { number, batch }).collect::<Vec<_>>()
        };
        // In quarantine.
        let open = JournalEntry::Open { number, token: token(), base: Offset(2) };
        let poison = JournalEntry::Poison { number, synced: Position(0), length: Position(4) };
        let head = [active(0, "a\n", 0), JournalEntry::Checkpoint, open];
        let mut moved = told(&[&head[..], &entries(number), &[poison, made_again()]].concat());
        moved.files[0].header.boot = HERE.boot;
        let fixture = Fixture::new(&[(0, "a\n"), (2, "")]);
        fixture.put_in_quarantine(GIVEN_UP, &text);
        let found = recover(&fixture.data, &moved, HERE).unwrap();
        assert_eq!((fs::read_to_string(fixture.segment(2)).unwrap(), found.alarms.len()), (left.clone(), alarms));
        // In its place: here the first two bytes of the log are synced.
        let shifted = entries(NUMBER).into_iter().map(|entry| match entry {
            JournalEntry::Batch { number, batch } => {
                JournalEntry::Batch { number, batch: Batch { position: Position(2 + batch.position.0), ..batch } }
            }
            other => other,
        });
        let mut entries = vec![active(0, "a\n", 0), JournalEntry::Checkpoint];
        entries.extend(shifted);
        entries.push(JournalEntry::Poison { number: NUMBER, synced: Position(2), length: Position(4) });
        let mut in_place = told(&entries);
        in_place.files[0].header.boot = HERE.boot;
        let fixture = Fixture::new(&[(0, &format!("a\n{text}")), (2, "")]);
        let found = recover(&fixture.data, &in_place, HERE).unwrap();
        assert_eq!((fs::read_to_string(fixture.segment(2)).unwrap(), found.alarms.len()), (left, alarms));
    }
}

/// A copy makes no segment behind a gap, and none of a run before the journals were taken away counts.
#[test]
fn a_copy_that_joins_nothing_stays_where_it_is() {
    for (name, journals) in [
        (GIVEN_UP.replace("02-0", "04-0"), given_up(&[])),
        (GIVEN_UP.replace("run1-0", "run1-5"), told(&[active(0, "a\n", 0), JournalEntry::Checkpoint])),
    ] {
        let mut journals = journals;
        journals.files[0].header.boot = HERE.boot;
        let fixture = Fixture::new(&[(0, "a\n")]);
        fixture.put_in_quarantine(&name, "x\ny\n");
        let found = recover(&fixture.data, &journals, HERE).unwrap();
        assert_eq!((found.logs[0].newest.base, found.bytes), (Offset(0), 2));
    }
}

/// The next run has begun some of its journals, and came to no shard: what the last one has moved still counts.
#[test]
fn what_gave_its_name_away_is_taken_back_where_a_start_was_broken_off() {
    let mut journals = given_up(&[made_again()]);
    let Journal { header, .. } = journals.files[0];
    let header = Header { shard: 1, generation: 2, epoch_micros: 7, ..header };
    let entries = vec![JournalEntry::Checkpoint];
    journals.files.push(Journal { header, run: 2, first: 0, entries, damaged: false });
    let fixture = Fixture::new(&[(0, "a\n"), (2, "")]);
    fixture.put_in_quarantine(GIVEN_UP, "b\nc\n");
    let found = recover(&fixture.data, &journals, HERE).unwrap();
    assert_eq!(fs::read_to_string(fixture.segment(2)).unwrap(), "b\nc\n");
    assert_eq!((found.alarms.len(), found.logs[0].doubt), (0, None));
}

/// Somebody has made the segment shorter: its records say so, and an older copy is not asked.
#[test]
fn records_that_reach_further_than_their_file_are_of_more_than_a_copy() {
    let batch = Batch::of(Position(0), b"b\nc\nd\n", 0);
    let journals = given_up(&[made_again(), JournalEntry::Batch { number: SegmentNumber(2), batch }]);
    let fixture = Fixture::new(&[(0, "a\n"), (2, "")]);
    fixture.put_in_quarantine(GIVEN_UP, "b\nc\n");
    let found = recover(&fixture.data, &journals, HERE).unwrap();
    assert_eq!(found.alarms[0].found, "0 bytes: changed by another process");
    assert_eq!((found.alarms.len(), found.bytes), (1, 2));
}

/// Nobody else has made the segment shorter: a recovery has, and came to no journal.
#[test]
fn an_unfinished_line_that_records_tell_of_is_cut_without_an_alarm() {
    let mut journals = told(&[active(0, "a\n", 0), JournalEntry::Checkpoint, batch(2, "b\nc")]);
    journals.files[0].header.boot = HERE.boot;
    let fixture = Fixture::new(&[(0, "a\nb\nc")]);
    for _ in 0..2 {
        let found = recover(&fixture.data, &journals, HERE).unwrap();
        assert_eq!((found.alarms, found.bytes), (vec![], 4));
    }
    fs::remove_file(fixture.data.path().join(QUARANTINE).join(format!("{TOKEN}-00000000000000000000-4"))).unwrap();
    assert_eq!(recover(&fixture.data, &journals, HERE).unwrap().alarms.len(), 1);
}

/// What is lacking in one may be in another; where it is in none, wherever that was, an alarm says so.
#[test]
fn what_is_in_no_file_is_alarmed_and_only_that() {
    let journals = given_up_twice(Position(0));
    for (first, copy, left, alarms) in [
        ("a\nb\nc\nd\n", "b\nC\n", "b\nc\nd\n", 0),
        ("a\nb\nc\nD\n", "b\nc\n", "b\nc\n", 1),
        ("a\nx\nc\nd\n", "b\nC\n", "", 1),
    ] {
        let fixture = Fixture::new(&[(0, first), (2, "")]);
        fixture.put_in_quarantine(GIVEN_UP, copy);
        let found = recover(&fixture.data, &journals, HERE).unwrap();
        assert_eq!(fs::read_to_string(fixture.segment(2)).unwrap(), left);
        assert_eq!(found.alarms.len(), alarms, "{:?}", found.alarms);
        if let [alarm] = &found.alarms[..] {
            assert_eq!(alarm.expected, "6 bytes, as the journal tells");
        }
    }
}

/// Its table has no checkpoint and its batches are lost: the record of giving it up says by itself what was on the disk, NULs
/// of a client too, which reach over the end of a sector.
#[test]
fn what_was_synced_of_a_segment_that_was_given_up_stays_after_a_power_cut() {
    let line = format!("a{}b\n", "\0".repeat(600));
    let len = line.len() as u64;
    let poison = JournalEntry::Poison { number: NUMBER, synced: Position(len), length: Position(2 * len) };
    let fixture = Fixture::new(&[(0, &line.repeat(2))]);
    let found = recover(&fixture.data, &told(&[active(0, "", 0), poison]), HERE).unwrap();
    assert_eq!(fs::read_to_string(fixture.segment(0)).unwrap(), line);
    assert_eq!((found.alarms, found.quarantined_bytes), (vec![], len));
}

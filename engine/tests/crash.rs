//! The process dies or the power fails at any moment of a simulated run, and the real recovery works on what is left.
//!
//! Whatever is left: nothing that was told to be synced is lost; of every log whole lines stay, and, unless a sync has
//! failed, they are how the log began; nothing is deleted; and recovery gives the same again, also where an earlier one did not come to its end.
//!
//! `ENGINE_SIM_SEED=n` replays one seed, `ENGINE_SIM_SEEDS=n` sets how many the sweep runs.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use engine::driver::sim::{Fault, Faults, PeerId, Sim, When};
use engine::route::Ownership;
use engine::segment::journal::{BootId, Journal, JournalEntry};
use engine::segment::{CURRENT, JOURNAL, Offset, Position, parse_segment_name, segment_name};
use engine::shard::{Command, Notice, Removal, SyncLevel};
use engine::store::journals::{self, Beginning};
use engine::store::recover::{Circumstances, Recovered, recover};
use engine::sys::DataDir;
use engine::wire::Token;

use support::hostile::Random;
use support::world::{config, drain, token};

const SEEDS: u64 = 4500;
/// The operations of each kind that fail, one in each run.
const OPERATIONS: u32 = 60;
const BEFORE: BootId = BootId([1; 16]);
const AFTER: BootId = BootId([2; 16]);

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// What is left of a run.
struct Crash {
    seed: u64,
    /// Every log as it was written.
    logs: BTreeMap<Token, Vec<u8>>,
    /// Offsets below which the journals said that all is on the disk.
    synced: BTreeMap<Token, u64>,
    files: Vec<(String, Vec<u8>)>,
    /// Segments that were deleted, as they were.
    deleted: Deleted,
    boot: BootId,
    /// A sync or a write has failed: what was poisoned may be lost, and logs go on behind it.
    poisoned: bool,
}

/// Segments that the control side has deleted.
type Deleted = BTreeMap<(Token, Offset), Vec<u8>>;

/// What retention does: the oldest segments of a log go, each once the shard has said that the journal knows.
fn retain(sim: &mut Sim, random: &mut Random, deleted: &mut Deleted) {
    let recorded = |sim: &Sim, removal| {
        sim.notices().iter().any(|notice| matches!(notice, Notice::Recorded(other) if *other == removal))
    };
    for number in 0..4 {
        let token = token(number);
        let segments: Vec<(Offset, Vec<u8>)> =
            sim.segments(token).map(|(base, bytes)| (base, bytes.to_vec())).collect();
        let most = random.below(segments.len().max(1));
        for (base, bytes) in segments.into_iter().take(most) {
            let removal = Removal { token, base, sealed: None };
            if !recorded(sim, removal) {
                sim.command_owner(token, Command::Record(removal));
                (0..random.below(60)).for_each(|_| _ = sim.turn());
            }
            // What was given up meanwhile ends elsewhere.
            if !recorded(sim, removal) || has_failed(sim) {
                break;
            }
            sim.unlink(token, base);
            deleted.insert((token, base), bytes);
        }
    }
}

fn lines(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(20) {
        let log = token(u32::try_from(random.below(4)).unwrap());
        let filler = if random.one_in(6) { "\0".repeat(random.below(40)) } else { "x".repeat(random.below(300)) };
        bytes.extend(format!("{log} {filler} {}\n", random.next()).into_bytes());
    }
    bytes
}

/// What goes wrong before the end.
#[derive(Clone, Copy)]
enum Trouble {
    /// Whatever the seed says.
    Any,
    /// This operation, and then the power.
    One(Fault, u32),
    /// Syncs, and the process is killed while it writes again what they have lost.
    Poisoned,
}

fn faults(trouble: Trouble, random: &mut Random) -> Faults {
    let mut faults = Faults::none();
    if let Trouble::One(fault, n) = trouble {
        return faults.with(fault, When::Nth(n));
    }
    if let Trouble::Poisoned = trouble {
        let one = When::Nth(u32::try_from(random.below(6)).unwrap());
        faults = faults.with(Fault::SyncFailed, *random.pick(&[one, When::OneIn(2), When::OneIn(4)]));
        for fault in [Fault::ShortWrite, Fault::OpenRefused, Fault::JournalShort, Fault::JournalRefused] {
            faults = faults.with(fault, if random.one_in(3) { When::OneIn(4) } else { When::Never });
        }
        return faults;
    }
    for fault in [Fault::ShortWrite, Fault::WriteRefused, Fault::JournalShort, Fault::JournalRefused] {
        faults = faults.with(fault, if random.one_in(3) { When::OneIn(10) } else { When::Never });
    }
    if random.one_in(4) {
        faults = faults.with(Fault::SyncFailed, When::Nth(u32::try_from(random.below(8)).unwrap()));
    }
    if random.one_in(8) {
        faults = faults.with(Fault::JournalFailed, When::Nth(u32::try_from(random.below(20)).unwrap()));
    }
    faults
}

fn crash(seed: u64, trouble: Trouble) -> Crash {
    let mut random = Random::new(seed);
    let mut config = config(4096);
    config.ownership = Ownership::with_seed(1 + u16::try_from(random.below(2)).unwrap(), seed);
    config.journal.boot = BEFORE;
    config.logs.segment.bytes = *random.pick(&[600, 5000, 1 << 30]);
    config.logs.open_files_max = *random.pick(&[1, 100]);
    let interval = SyncLevel::Interval(Duration::from_millis(50));
    config.sync = *random.pick(&[SyncLevel::None, interval, interval, SyncLevel::Batch, SyncLevel::Batch]);
    if let Trouble::Poisoned = trouble {
        config.sync = SyncLevel::Batch;
    }
    let faults = faults(trouble, &mut random);
    let mut sim = Sim::new(seed, faults, config);
    let peers: Vec<PeerId> = (0..3).map(|_| sim.connect()).collect();
    let mut deleted = Deleted::new();
    for _ in 0..random.below(60) {
        sim.send(*random.pick(&peers), &lines(&mut random));
        match random.below(20) {
            0 => sim.run_for(Duration::from_secs(31)),
            1..=3 => sim.run_for(Duration::from_millis(120)),
            4 if !has_failed(&sim) => retain(&mut sim, &mut random, &mut deleted),
            _ => (0..random.below(30)).for_each(|_| _ = sim.turn()),
        }
        // Shortly after a sync has failed most is on its way.
        if has_failed(&sim) && random.one_in(2) {
            (0..random.below(10)).for_each(|_| _ = sim.turn());
            break;
        }
    }
    if random.one_in(4) {
        sim.command(&Command::Drain);
        (0..random.below(400)).for_each(|_| _ = sim.turn());
    }
    let killed = match trouble {
        Trouble::Any => random.one_in(4),
        Trouble::One(..) => false,
        Trouble::Poisoned => true,
    };
    Crash {
        seed,
        logs: sim.tokens().map(|token| (token, log_bytes(&sim, &deleted, token))).collect(),
        synced: told(&sim),
        files: if killed { sim.killed() } else { sim.power_cut(seed) },
        boot: if killed { BEFORE } else { AFTER },
        poisoned: has_failed(&sim),
        deleted,
    }
}

fn has_failed(sim: &Sim) -> bool {
    sim.notices().iter().any(|notice| matches!(notice, Notice::SyncFailed(_) | Notice::Poisoned { .. }))
}

/// The log as it was written: where a poisoned segment was not cut yet, its end counts once, and what one holds that gave
/// its name away is written again to the one that has it.
fn log_bytes(sim: &Sim, deleted: &Deleted, token: Token) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let before = deleted.range((token, Offset::START)..).take_while(|((other, _), _)| *other == token);
    let before = before.map(|((_, base), segment)| (*base, segment.as_slice()));
    let mut segments: Vec<_> = before.chain(sim.quarantined(token)).chain(sim.segments(token)).collect();
    segments.sort_by_key(|(base, _)| *base);
    for (base, segment) in segments {
        let before = bytes.split_off(usize::try_from(base.0).unwrap());
        bytes.extend_from_slice(segment);
        bytes.extend_from_slice(before.get(segment.len()..).unwrap_or_default());
    }
    bytes
}

/// What `ls` would have said when the power failed, or the records by themselves, whichever is more.
fn told(sim: &Sim) -> BTreeMap<Token, u64> {
    let folder = folder();
    let data = DataDir::open(&folder.path().join("data")).unwrap();
    fs::create_dir(data.path().join(JOURNAL)).unwrap();
    for (id, bytes) in sim.journals() {
        fs::write(data.path().join(JOURNAL).join(id.name()), bytes).unwrap();
    }
    let mut told = synced(sim);
    for (token, offset) in journals::read(&data).unwrap().synced_offsets() {
        let told = told.entry(token).or_default();
        *told = offset.0.max(*told);
    }
    told
}

/// By the records as they were then.
fn synced(sim: &Sim) -> BTreeMap<Token, u64> {
    let mut synced: BTreeMap<Token, u64> = BTreeMap::new();
    let mut segments = BTreeMap::new();
    let mut batches: BTreeMap<u16, Vec<(u64, Token, Offset, u64)>> = BTreeMap::new();
    let mut poisoned = Vec::new();
    let mut doubts = BTreeMap::new();
    for (id, bytes) in sim.journals() {
        // One that was just made has no header yet.
        let Some(journal) = Journal::parse(bytes) else { continue };
        let batches = batches.entry(id.shard.0).or_default();
        for (index, entry) in journal.entries.iter().enumerate() {
            match *entry {
                JournalEntry::Open { number, token, base } | JournalEntry::Active { number, token, base, .. } => {
                    segments.insert((id.shard, number), (token, base));
                }
                JournalEntry::Batch { number, batch } => {
                    if let Some(&(token, base)) = segments.get(&(id.shard, number)) {
                        batches.push((journal.sequence(index), token, base, base.0 + batch.end().0));
                    }
                }
                JournalEntry::Doubt { token, from } => drop(doubts.insert(token, from.0)),
                JournalEntry::Poison { number, .. } => poisoned.extend(segments.get(&(id.shard, number))),
                JournalEntry::Synced { through } => {
                    let covered = batches.iter().filter(|batch| batch.0 <= through);
                    for &(_, token, base, end) in covered.filter(|batch| !poisoned.contains(&(batch.1, batch.2))) {
                        let told = synced.entry(token).or_default();
                        // Behind a poisoned segment nothing is told of the log as a whole.
                        if !poisoned.iter().any(|(other, at)| *other == token && *at <= base) {
                            *told = end.max(*told);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    for (token, told) in &mut synced {
        *told = doubts.get(token).map_or(*told, |&doubt: &u64| doubt.min(*told));
    }
    synced
}

impl Crash {
    /// The data directory as the next start finds it.
    fn lay_out(&self, folder: &Path) -> DataDir {
        fs::create_dir_all(folder).unwrap();
        let data = DataDir::open(&folder.join("data")).unwrap();
        for token in self.logs.keys().filter(|_| self.boot == BEFORE) {
            fs::create_dir(data.path().join(token.to_string())).unwrap();
        }
        for (path, bytes) in &self.files {
            let path = data.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        self.link_current(&data);
        data
    }

    /// To the newest segment; if each has moved, it is there for itself.
    fn link_current(&self, data: &DataDir) {
        for token in self.logs.keys() {
            let log = data.path().join(token.to_string());
            let newest = segments_of(data, *token).last().map(|(base, _)| log.join(segment_name(*base)));
            let moved = self.files.iter().rfind(|(path, _)| path.starts_with(&format!("_quarantine/{token}")));
            let moved = moved.map(|(path, _)| data.path().join(path));
            if let Some(file) = newest.or(moved) {
                fs::create_dir_all(&log).unwrap();
                fs::hard_link(file, log.join(CURRENT)).unwrap();
            }
        }
    }

    fn recover(&self, data: &DataDir) -> Recovered {
        let journals = journals::read(data).unwrap();
        let circumstances = Circumstances { boot: self.boot, accept_loss: self.poisoned && self.boot == AFTER };
        match recover(data, &journals, circumstances) {
            Ok(recovered) => recovered,
            Err(error) => panic!("ENGINE_SIM_SEED={}: {error}", self.seed),
        }
    }

    fn begin(&self, data: &DataDir, recovered: &Recovered) {
        let journals = journals::read(data).unwrap();
        let beginning = Beginning { boot: self.boot, epoch_micros: 0 };
        let ownership = Ownership::with_seed(2, self.seed + 1);
        journals::begin(data, &journals, &ownership, &recovered.logs, beginning).unwrap();
    }

    fn check(&self, data: &DataDir, recovered: &Recovered) {
        let name = format!("ENGINE_SIM_SEED={}", self.seed);
        for (token, written) in &self.logs {
            // What was deleted may have come back.
            let is_left = |base: &Offset| !self.deleted.contains_key(&(*token, *base));
            let segments: Vec<_> = segments_of(data, *token).into_iter().filter(|(base, _)| is_left(base)).collect();
            let gone = self.deleted.range((*token, Offset::START)..=(*token, Offset(u64::MAX))).next_back();
            let gone = gone.map_or(0, |((_, base), bytes)| usize::try_from(base.0).unwrap() + bytes.len());
            let mut stored = written[..gone].to_vec();
            for (base, bytes) in &segments {
                assert_eq!(base.0, stored.len() as u64, "{name}: {token} has a gap, a sync failed: {}", self.poisoned);
                assert!(bytes.ends_with(b"\n") || bytes.is_empty() || self.poisoned, "{name}: {token} ends in a line");
                stored.extend(bytes);
            }
            let synced = self.synced.get(token).copied().unwrap_or_default();
            let synced = usize::try_from(synced).unwrap();
            let left: Vec<_> = segments.iter().map(|(base, bytes)| (base.0, bytes.len())).collect();
            assert!(
                stored.len() >= synced,
                "{name}: {token} {left:?} of {synced} bytes, {gone} deleted, given up: {}",
                self.poisoned
            );
            assert!(written.starts_with(&stored[..synced]), "{name}: {token} has not what was synced");
            if !self.poisoned {
                assert!(written.starts_with(&stored), "{name}: {token} is not how it began");
            }
            if self.boot == BEFORE {
                let whole = written.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
                assert!(
                    stored == written[..whole],
                    "{name}: {token} {left:?} is not the {whole} bytes that its process wrote"
                );
            }
        }
        if !self.poisoned || self.boot == BEFORE {
            assert_eq!(recovered.alarms, [], "{name}");
        }
        self.assert_nothing_is_deleted(data, &name);
    }

    fn assert_nothing_is_deleted(&self, data: &DataDir, name: &str) {
        let quarantine = files_below(&data.path().join("_quarantine"));
        for (path, bytes) in &self.files {
            let Some(copy) = path.strip_prefix("_quarantine/") else { continue };
            assert!(
                quarantine.get(copy).is_some_and(|copy| copy.starts_with(bytes)),
                "{name}: {path} is not what it was"
            );
        }
        for (path, bytes) in self.files.iter().filter(|(path, _)| !path.starts_with('_')) {
            let kept = fs::read(data.path().join(path)).unwrap_or_default();
            let (log, segment) = path.split_once('/').unwrap();
            let copy = format!("{log}-{}-{}", segment.trim_end_matches(".log"), kept.len());
            // A copy of other bytes may have had the name before.
            let is_rest = |(name, rest): (&String, &Vec<u8>)| {
                let number = name.strip_prefix(&copy);
                number.is_some_and(|number| number.is_empty() || number.starts_with('-'))
                    && bytes.strip_prefix(&kept[..]) == Some(&rest[..])
            };
            // What was given up may have been written again to the next segment.
            let is_longer = self.poisoned && kept.starts_with(bytes);
            let is_there = is_longer || kept == *bytes || quarantine.iter().any(is_rest);
            assert!(is_there, "{name}: bytes of {path} are gone");
        }
    }
}

fn segments_of(data: &DataDir, token: Token) -> Vec<(Offset, Vec<u8>)> {
    let files = files_below(&data.path().join(token.to_string()));
    let segments = files.into_iter().filter_map(|(name, bytes)| Some((parse_segment_name(&name)?, bytes)));
    segments.collect()
}

fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    entries.map(|entry| read(entry.unwrap())).collect()
}

/// Everything in the data directory but the journals: length and checksum of each file.
fn contents(data: &DataDir) -> BTreeMap<String, (usize, u64)> {
    let mut all = BTreeMap::new();
    let sum = |bytes: &[u8]| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        (bytes.len(), hasher.finish())
    };
    for entry in fs::read_dir(data.path()).unwrap() {
        let entry = entry.unwrap();
        let folder = entry.file_name().into_string().unwrap();
        if folder != "_journal" {
            let files = files_below(&entry.path()).into_iter();
            all.extend(files.map(|(name, bytes)| (format!("{folder}/{name}"), sum(&bytes))));
        }
    }
    all
}

fn run_seed(seed: u64, trouble: Trouble, folder: &Path) -> Crash {
    let crash = crash(seed, trouble);
    let data = crash.lay_out(&folder.join("first"));
    let recovered = crash.recover(&data);
    crash.check(&data, &recovered);
    let (found, bytes) = (logs(&recovered), contents(&data));

    // Again, as if the process had died before it began its journals, and once more when it has.
    let again = crash.recover(&data);
    assert_eq!(again.alarms, recovered.alarms, "ENGINE_SIM_SEED={seed}: again");
    assert_eq!((logs(&again), contents(&data)), (found.clone(), bytes.clone()), "ENGINE_SIM_SEED={seed}: again");
    crash.begin(&data, &again);
    let last = crash.recover(&data);
    assert!(last.alarms.is_empty() || crash.boot == AFTER, "ENGINE_SIM_SEED={seed}: {:?}", last.alarms);
    assert_eq!(
        (logs(&last), contents(&data)),
        (found.clone(), bytes.clone()),
        "ENGINE_SIM_SEED={seed}: the next start"
    );

    // An earlier try has made its copies, or some of them, and died.
    let torn = crash.lay_out(&folder.join("second"));
    let mut random = Random::new(seed);
    for (name, copy) in files_below(&data.path().join("_quarantine")) {
        // What was moved was not copied, and what the engine itself has moved is whole.
        let is_older = crash.files.iter().any(|(path, _)| path.strip_prefix("_quarantine/") == Some(&name));
        if !is_older && !bytes.contains_key(&name) && !is_moved(&name, &crash) {
            fs::create_dir_all(torn.path().join("_quarantine")).unwrap();
            let length = random.below(copy.len() + 1);
            fs::write(torn.path().join("_quarantine").join(name), &copy[..length]).unwrap();
        }
    }
    // And it has completed segments, or some of them.
    for token in crash.logs.keys().filter(|_| crash.boot == BEFORE) {
        for (base, whole) in segments_of(&data, *token) {
            let path = torn.path().join(token.to_string()).join(segment_name(base));
            let before = fs::read(&path).unwrap_or_default();
            if before.len() < whole.len() && whole.starts_with(&before) {
                let length = before.len() + random.below(1 + whole.len() - before.len());
                fs::write(path, &whole[..length]).unwrap();
            }
        }
    }
    let recovered = crash.recover(&torn);
    assert!(recovered.alarms.is_empty() || crash.boot == AFTER, "ENGINE_SIM_SEED={seed}: {:?}", recovered.alarms);
    assert_eq!((logs(&recovered), contents(&torn)), (found, bytes), "ENGINE_SIM_SEED={seed}: torn");
    crash
}

/// Whether the file in quarantine is a segment that was moved there whole.
fn is_moved(name: &str, crash: &Crash) -> bool {
    let is_it = |path: &str| {
        let (log, segment) = path.split_once('/').unwrap();
        name == format!("{log}-{}-0", segment.trim_end_matches(".log"))
    };
    crash.files.iter().any(|(path, _)| !path.starts_with('_') && is_it(path))
}

fn logs(recovered: &Recovered) -> Vec<(Token, String, u64)> {
    let log = |log: &engine::store::recover::RecoveredLog| {
        (log.name.token().unwrap(), segment_name(log.newest.base), log.newest.length.0)
    };
    recovered.logs.iter().map(log).collect()
}

/// In memory where that is possible: thousands of small files.
fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Each operation of each kind fails once, and later the power: what was told to be on the disk is there.
#[test]
fn no_failing_operation_makes_a_synced_offset_wrong() {
    let parent = folder();
    let mut failed = 0;
    for (index, fault) in (0..).zip([
        Fault::WriteFailed,
        Fault::WriteRefused,
        Fault::WriteInterrupted,
        Fault::ShortWrite,
        Fault::OpenFailed,
        Fault::OpenRefused,
        Fault::JournalFailed,
        Fault::JournalRefused,
        Fault::JournalInterrupted,
        Fault::JournalShort,
        Fault::SyncFailed,
    ]) {
        for n in 0..OPERATIONS {
            let folder = parent.path().join(format!("{index}-{n}"));
            let seed = index * 1000 + u64::from(n);
            let ran = std::panic::catch_unwind(|| run_seed(seed, Trouble::One(fault, n), &folder));
            let Ok(crash) = ran else { panic!("{fault:?} {n} with seed {seed}") };
            failed += u32::from(crash.poisoned);
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    // Of writes, journals and syncs.
    assert!(failed > OPERATIONS, "{failed} runs in which something was given up");
}

#[test]
fn what_was_synced_survives_every_crash() {
    let parent = folder();
    if let Some(seed) = variable("ENGINE_SIM_SEED") {
        run_seed(seed, Trouble::Any, &parent.path().join("replay"));
        return;
    }
    let seeds = variable("ENGINE_SIM_SEEDS").unwrap_or(SEEDS);
    let (mut cut, mut synced, mut failed, mut killed) = (0, 0, 0, 0);
    for seed in 0..seeds {
        let folder = parent.path().join(seed.to_string());
        let ran = std::panic::catch_unwind(|| run_seed(seed, Trouble::Any, &folder));
        let Ok(crash) = ran else { panic!("replay with ENGINE_SIM_SEED={seed}") };
        cut += u64::from(folder.join("first/data/_quarantine").exists());
        synced += u64::from(crash.synced.values().any(|&bytes| bytes > 0));
        failed += u64::from(crash.poisoned);
        killed += u64::from(crash.boot == BEFORE);
        fs::remove_dir_all(&folder).unwrap();
    }
    // A sweep that never meets what it is for proves nothing.
    let reached = [cut, synced, failed, killed];
    assert!(seeds < SEEDS || reached.iter().all(|&times| times >= SEEDS / 20), "{reached:?}");
}

/// All that was written is in memory, and is told by the next start, wherever the segments are that held it.
#[test]
fn what_was_given_up_survives_its_process() {
    let parent = folder();
    if let Some(seed) = variable("ENGINE_SIM_SEED") {
        run_seed(seed, Trouble::Poisoned, &parent.path().join("replay"));
        return;
    }
    let seeds = variable("ENGINE_SIM_SEEDS").unwrap_or(SEEDS / 3);
    let mut moved = 0;
    for seed in 0..seeds {
        let folder = parent.path().join(seed.to_string());
        let ran = std::panic::catch_unwind(|| run_seed(seed, Trouble::Poisoned, &folder));
        let Ok(crash) = ran else { panic!("replay with ENGINE_SIM_SEED={seed}") };
        moved += u64::from(crash.files.iter().any(|(path, _)| path.starts_with("_quarantine")));
        fs::remove_dir_all(&folder).unwrap();
    }
    assert!(moved >= seeds / 20, "{moved} runs with a segment that gave its name away");
}

/// What an earlier run wrote is in no memory of this one: where a sync fails it stays where it is, and is told of.
#[test]
fn what_an_earlier_run_wrote_and_no_sync_brought_to_the_disk_stays() {
    let before = b"before\n".repeat(100);
    let mut rewritten = 0;
    for (seed, nth) in (0..50).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut config = config(4096);
        config.sync = SyncLevel::Batch;
        let faults = Faults::none().with(Fault::SyncFailed, When::Nth(nth));
        let mut sim = Sim::with_unsynced_log(seed, faults, config, token(1), (Offset(0), &before), Position(350));
        let peer = sim.connect();
        let mut sent = before.clone();
        for number in 0..20 {
            sim.send(peer, format!("{} {number}\n", token(1)).as_bytes());
            sent.extend(format!("{number}\n").into_bytes());
            (0..5).for_each(|_| _ = sim.turn());
        }
        sim.run_for(Duration::from_secs(2));
        drain(&mut sim, &[peer]);
        let mut stored = Vec::new();
        for (base, bytes) in sim.segments(token(1)) {
            assert_eq!(base.0, stored.len() as u64, "seed {seed}");
            stored.extend_from_slice(bytes);
        }
        assert_eq!(stored, sent, "seed {seed}");
        let lost = |notice: &Notice| matches!(notice, Notice::Poisoned { from: Position(350), to: Position(700), .. });
        // If the first sync went well, all that is given up later is in memory.
        let is_right = |notice: &Notice| match notice {
            Notice::Poisoned { from, to, .. } => from == to || lost(notice),
            _ => true,
        };
        assert!(sim.notices().iter().all(is_right), "{:?}", sim.notices());
        rewritten += sim.notices().iter().filter(|notice| lost(notice)).count();
    }
    assert!(rewritten > 20, "{rewritten}");
}

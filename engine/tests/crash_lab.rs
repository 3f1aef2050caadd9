//! Power cuts under load on real file systems, on a disk that remembers every write and flush; and disks that fail, stall and
//! fill up while the engine works.
//!
//! ```text
//!  run r:  an engine under load, killed        image n = 10 r + i:  the disk, cut at a moment of the run
//!          file system, sync level: by r       what is left of unflushed writes: by n
//! ```
//!
//! `scripts/crash-lab` runs many images, and one of them again. It sets `ENGINE_LAB_FIRST`, the number of the first image,
//! `ENGINE_LAB_IMAGES`, how many, `ENGINE_LAB_OF_RUN`, how many of each run, `ENGINE_LAB_SECONDS`, how long a run takes,
//! `ENGINE_LAB_FILE_SYSTEM`, `ENGINE_LAB_SYNC` and `ENGINE_LAB_REST`, which alone count, and `ENGINE_LAB_REPLAY`, the
//! number of an image that was kept because something was wrong with it.
//!
//! It needs root, FUSE, loop devices and Linux 6.2. Where something is missing the tests say so and pass; the simulated disk
//! of `crash.rs` needs nothing.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "support/lab/mod.rs"]
mod lab;
mod support;

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use lab::device::Fault;
use lab::image::Rest;
use lab::load::{LOGS_LEN, Lines};
use lab::mount::{FileSystem, Lab, Mounted, say};
use lab::run::{Run, synced_offsets};
use lab::stored::{self, Texts};
use lab::trial::{Found, Trial};
use support::hostile::Random;
use support::process::{Engine, now, read_to_end, wait_until};

const SYNC_LEVELS: [&str; 3] = ["none", "interval", "batch"];
const RESTS: [(&str, Rest); 3] = [("none", Rest::None), ("half", Rest::Half), ("random", Rest::Random)];
const IMAGES_OF_RUN: u64 = 10;

/// A number that the environment sets.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Whether the environment asks for this one; if it does not say, whether it is usual.
fn is_wanted(variable: &str, name: &str, usual: bool) -> bool {
    std::env::var(variable).map_or(usual, |wanted| wanted == name)
}

fn nth<T: Copy>(from: &[T], number: u64) -> T {
    from[usize::try_from(number).unwrap() % from.len()]
}

/// What a run and an image are like: all of it follows from the image's number.
struct Choice {
    file_system: FileSystem,
    sync: &'static str,
    rest: (&'static str, Rest),
}

impl Choice {
    fn of(number: u64) -> Self {
        let run = number / IMAGES_OF_RUN;
        let levels = SYNC_LEVELS.len() as u64;
        Self {
            file_system: nth(&FileSystem::ALL, run / levels),
            sync: nth(&SYNC_LEVELS, run),
            rest: nth(&RESTS, number),
        }
    }

    fn is_wanted(&self) -> bool {
        // Without a journal of the file system, names may lead to the content of other files after a power cut.
        let usual = self.file_system != FileSystem::Ext4NoJournal;
        is_wanted("ENGINE_LAB_FILE_SYSTEM", self.file_system.name(), usual)
            && is_wanted("ENGINE_LAB_SYNC", self.sync, true)
            && is_wanted("ENGINE_LAB_REST", self.rest.0, true)
    }
}

/// Where an image is kept with which something was wrong.
fn kept(number: u64) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-lab-{number}"))
}

#[test]
fn a_power_cut_loses_nothing_that_was_synced() {
    let Some(lab) = Lab::open() else { return };
    if let Some(number) = variable("ENGINE_LAB_REPLAY") {
        say(&format!("image {number}: {:?}", Trial::load(&kept(number)).check(&lab)));
        return;
    }
    let first = variable("ENGINE_LAB_FIRST").unwrap_or(0);
    let images = variable("ENGINE_LAB_IMAGES").unwrap_or(18);
    let of_run = variable("ENGINE_LAB_OF_RUN").unwrap_or(3);
    let numbers = (first..).filter(|&number| number % IMAGES_OF_RUN < of_run && Choice::of(number).is_wanted());
    let numbers: Vec<u64> = numbers.take(usize::try_from(images).unwrap()).collect();
    let mut failed: Vec<u64> = Vec::new();
    for numbers in numbers.chunk_by(|a, b| a / IMAGES_OF_RUN == b / IMAGES_OF_RUN) {
        let seed = numbers[0] / IMAGES_OF_RUN;
        let Choice { file_system, sync, .. } = Choice::of(numbers[0]);
        let run = Run::new(file_system, sync, seed, Duration::from_secs(variable("ENGINE_LAB_SECONDS").unwrap_or(2)));
        failed.extend(numbers.iter().filter(|&&number| check(&lab, &run, number).is_none()));
    }
    let replay: Vec<_> = failed.iter().map(|number| format!("scripts/crash-lab --replay {number}")).collect();
    assert!(failed.is_empty(), "{} of {} images are wrong:\n{}", failed.len(), numbers.len(), replay.join("\n"));
}

/// Cuts the run at one moment and checks what is left; keeps it if something is wrong.
fn check(lab: &Lab, run: &Run, number: u64) -> Option<Found> {
    let Choice { file_system, sync, rest: (name, rest) } = Choice::of(number);
    let mut random = Random::new(number);
    let length = run.recording.events.len() - run.start;
    // Half of them just when something was said: nothing can have been said too early without it being seen.
    let at = if random.one_in(2) { random.pick(&run.published).0 } else { run.start + random.below(length + 1) };
    let image = run.recording.cut(at, rest, file_system.sector_bytes(), &mut random);
    let (synced, texts) = (run.synced_at(at).clone(), run.texts.clone());
    let trial = Trial { number, file_system, image, synced, texts };
    let found = catch_unwind(AssertUnwindSafe(|| trial.check(lab))).ok();
    if found.is_none() {
        trial.save(&kept(number));
    }
    let verdict = found.map_or_else(|| format!("wrong, kept in {}", kept(number).display()), |found| found.to_string());
    say(&format!("image {number}: {} --sync {sync}, cut at {at}, {name} of the rest: {verdict}", file_system.name()));
    found
}

/// Whatever the disk does, the process lives and says so, and what was known to be synced is there after a power cut.
#[test]
fn a_disk_that_fails_takes_nothing_that_was_synced() {
    let Some(lab) = Lab::open() else { return };
    for (seed, file_system) in (0..).zip([FileSystem::Ext4, FileSystem::Xfs]) {
        for fault in [Fault::Fails, Fault::FlushFails, Fault::Full] {
            say(&format!("{}: {fault:?}", file_system.name()));
            let trial = fail(file_system, fault, seed);
            let found = trial.check(&lab);
            assert!(found.synced > 0);
        }
    }
}

/// An engine at work while the disk begins to fail; what is left if the power fails too.
fn fail(file_system: FileSystem, fault: Fault, seed: u64) -> Trial {
    /// More than are sent.
    const LINES_MAX: usize = 30_000;
    let mounted = Mounted::mount(file_system, file_system.make());
    let data = mounted.path().join("data");
    let flags = ["--shards", "1", "--sync", "batch", "--segment-bytes", "1MiB", "--disk-free-min", "0"];
    let mut engine = Engine::start_in(&data, &flags);
    let addr = engine.addr();
    let sender = std::thread::spawn(move || Lines::new(seed, 0).send_until_the_end(addr));
    let all_are_synced = || synced_offsets(&data).values().filter(|&&offset| offset > 0).count() == LOGS_LEN;
    assert!(wait_until(all_are_synced), "not all logs are synced");
    let before = synced_offsets(&data);
    mounted.disk().set_fault(fault);
    engine.wait_for_line(|line| line.contains("storage refuses"));
    // A file system that has given up may refuse to be read.
    let synced = catch_unwind(|| synced_offsets(&data)).unwrap_or(before);
    let recording = mounted.disk().recording();
    engine.signal(Signal::KILL);
    drop(engine);
    sender.join().unwrap();
    let mut texts = Texts::new();
    Lines::new(seed, 0).store(LINES_MAX, &mut texts);
    let image = recording.cut(recording.events.len(), Rest::Random, file_system.sector_bytes(), &mut Random::new(seed));
    Trial { number: seed, file_system, image, synced, texts }
}

/// A disk that does nothing for a while: senders wait, memory stays within its budget, nobody is closed, nothing lost.
#[test]
fn a_disk_that_stalls_makes_senders_wait() {
    const LINES: usize = 100_000;
    let Some(_lab) = Lab::open() else { return };
    let mounted = Mounted::mount(FileSystem::Ext4, FileSystem::Ext4.make());
    let data = mounted.path().join("data");
    let flags = ["--shards", "1", "--buffer-bytes", "8MiB", "--disk-free-min", "0", "--sync", "interval"];
    let mut engine = Engine::start_in(&data, &flags);
    let (mut stream, sent) = (engine.connect(), AtomicUsize::new(0));
    // It waits as long as the disk stalls, and longer.
    stream.set_write_timeout(None).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut lines = Lines::new(0, 0);
            for _ in 0..LINES / 100 {
                lines.send(&stream, 100).unwrap();
                sent.fetch_add(100, Ordering::Relaxed);
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        assert!(wait_until(|| sent.load(Ordering::Relaxed) > LINES / 10));
        mounted.disk().set_fault(Fault::Stalls);
        let until = now() + Duration::from_secs(variable("ENGINE_LAB_STALL_SECONDS").unwrap_or(4));
        let (mut before, mut since) = (0, now());
        while now() < until {
            std::thread::sleep(Duration::from_millis(10));
            let count = sent.load(Ordering::Relaxed);
            if count != before {
                (before, since) = (count, now());
            }
        }
        assert!(before < LINES && now() - since > Duration::from_secs(1), "{before} of {LINES} lines were taken");
        // The budget, the receive ring, and what the program itself needs.
        assert!(engine.resident_kib() < 64 * 1024, "{} KiB", engine.resident_kib());
        assert!(!sender.is_finished());
        mounted.disk().set_fault(Fault::None);
    });
    read_to_end(&mut stream).unwrap();
    engine.stop();
    let mut expected = Texts::new();
    Lines::new(0, 0).store(LINES, &mut expected);
    assert!(stored::texts(&data) == expected, "something is lost, doubled or garbled");
}

/// The laboratory itself: an engine that says what is not so does not pass.
#[test]
fn syncs_that_do_nothing_are_found_out() {
    const TRIES: u64 = 5;
    let Some(lab) = Lab::open() else { return };
    let mut liar = Command::new("strace");
    // The tracer is no parent: what the run kills is the engine.
    liar.args(["--daemonize", "--follow-forks", "--seccomp-bpf", "--output=/dev/null"]);
    liar.args(["--inject=fsync,fdatasync,syncfs:retval=0", env!("CARGO_BIN_EXE_engine")]);
    liar.stdin(Stdio::null()).stderr(Stdio::piped());
    let file_system = FileSystem::Xfs;
    let run = Run::by(liar, file_system, "batch", 0, Duration::from_secs(2));
    let is_found_out = |number: u64| {
        let mut random = Random::new(number);
        let (at, synced) = random.pick(&run.published[run.published.len() / 2..]).clone();
        let image = run.recording.cut(at, Rest::None, file_system.sector_bytes(), &mut random);
        let trial = Trial { number, file_system, image, synced, texts: run.texts.clone() };
        catch_unwind(AssertUnwindSafe(|| trial.check(&lab))).is_err()
    };
    assert!((0..TRIES).all(is_found_out));
}

/// The laboratory itself: what was flushed is there after a cut, and what was not is gone if the disk keeps none of it.
#[test]
fn a_disk_keeps_what_was_flushed() {
    let Some(_lab) = Lab::open() else { return };
    for file_system in FileSystem::ALL {
        let mounted = Mounted::mount(file_system, file_system.make());
        let [synced, other] = ["synced", "other"].map(|name| mounted.path().join(name));
        let bytes = vec![b'x'; 3 << 20];
        std::fs::write(&other, &bytes).unwrap();
        std::fs::write(&synced, &bytes).unwrap();
        std::fs::File::open(&synced).unwrap().sync_all().unwrap();
        std::fs::File::open(mounted.path()).unwrap().sync_all().unwrap();
        std::fs::write(&other, [&bytes[..], &bytes].concat()).unwrap();
        let recording = mounted.disk().recording();
        drop(mounted);
        for (name, rest) in RESTS {
            let cut = recording.cut(recording.events.len(), rest, file_system.sector_bytes(), &mut Random::new(0));
            let mounted = Mounted::mount(file_system, cut);
            assert!(std::fs::read(mounted.path().join("synced")).unwrap() == bytes, "{}, {name}", file_system.name());
            let length = std::fs::metadata(mounted.path().join("other")).map_or(0, |other| other.len());
            let whole = 2 * bytes.len() as u64;
            assert!(rest != Rest::None || length < whole, "{}: nothing was lost", file_system.name());
        }
    }
}

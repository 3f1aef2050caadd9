//! What the real engine leaves on the disk: every changed byte is found, missing ones are not passed over, a start is quick.

#![allow(clippy::print_stdout, reason = "a time that a reader may want")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use engine::limits::ROLL_GAP;
use engine::segment::segment_name;
use engine::store::verify::verify;
use rustix::process::Signal;

use support::hostile::Random;
use support::http::Metrics;
use support::process::{Engine, engine, finish, now, segments, send, wait_until};

const FLIPS: usize = 1000;

fn token(log: usize) -> String {
    format!("{log:08x}-10c3-4419-bdad-7e6435882e1f")
}

fn verified(data: &Path) -> (bool, String) {
    let mut out = Vec::new();
    let sound = verify(data, None, false, &mut out).unwrap();
    (sound, String::from_utf8(out).unwrap())
}

/// Everything in the data directory whose bytes have a checksum, and how many of its bytes.
fn checked_files(data: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for folder in fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            // An engine may have given it another name meanwhile.
            let Ok(len) = fs::metadata(&path).map(|meta| meta.len()) else { continue };
            if folder.ends_with("_journal") {
                // One that lacks its last record is one that was killed.
                files.extend((name != "reserve").then(|| (path, len - 64)));
            } else if name != "current" {
                files.push((path, len));
            }
        }
    }
    files.sort();
    files
}

/// The range that `verify` gives for a file.
fn range_of(text: &str, path: &Path) -> Option<(u64, u64)> {
    let line = text.lines().find(|line| line.starts_with(path.to_str().unwrap()))?;
    let (_, range) = line.split_once(": bytes ")?;
    let mut range = range.split([' ', ':']).filter_map(|word| word.parse().ok());
    Some((range.next()?, range.next()?))
}

/// After a stop all is below the checkpoint. Of a thousand changed bits anywhere, in segments, compressed ones, indexes and
/// journals, one at a time, each is found in its file and within the range that is named, if it is ever read.
#[test]
fn every_changed_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let flags = ["--line-bytes-max", "4KiB", "--segment-bytes", "100KiB", "--compress-after", "0", "--shards", "2"];
    let mut engine = Engine::start_in(&data, &flags);
    let text: Vec<u8> =
        (0..6000).flat_map(|line| format!("{} line {line}\n", token(line % 7 * line % 5)).into_bytes()).collect();
    send(engine.connect(), &[&text]).unwrap();
    // A segment lasts 100 ms at least.
    for _ in 0..5 {
        let large: Vec<u8> =
            (0..3000).flat_map(|line| format!("{} large {line:030}\n", token(9)).into_bytes()).collect();
        send(engine.connect(), &[&large]).unwrap();
        std::thread::sleep(ROLL_GAP);
    }
    let packed = || segments_with(&data, "log.zst");
    // Beside its text a compressed one is not read.
    let are_alone = || packed().iter().all(|path| !path.with_extension("").exists());
    assert!(wait_until(|| packed().len() > 2 && are_alone()), "{} segments are compressed", packed().len());
    engine.stop();
    // Lines that came after the last block of the index.
    let mut engine = Engine::start_in(&data, &["--compress", "none"]);
    send(engine.connect(), &[format!("{0} more\n{1} more\n", token(0), token(9)).as_bytes()]).unwrap();
    engine.stop();
    let (sound, said) = verified(&data);
    assert!(sound && said.contains(" without_checksum=0 "), "{said}");

    let files = checked_files(&data);
    assert!(files.len() > 12, "{files:?}");
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    let (mut random, mut unread) = (Random::new(8), 0);
    for flip in 0..FLIPS {
        // Half of them by file, so that small ones have their share; half by byte.
        let (path, at) = if flip % 2 == 0 {
            let (path, len) = &files[random.below(files.len())];
            (path, random.below(usize::try_from(*len).unwrap()) as u64)
        } else {
            let mut at = random.below(usize::try_from(total).unwrap()) as u64;
            let found = files.iter().find(|(_, len)| {
                at < *len || {
                    at -= len;
                    false
                }
            });
            (&found.unwrap().0, at)
        };
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << random.below(8))], at).unwrap();
        let (sound, said) = verified(&data);
        let range = range_of(&said, path);
        let is_packed = path.extension().is_some_and(|end| end == "zst");
        let named = range.is_some_and(|(from, to)| is_packed || (from..to).contains(&at));
        let decoded = || is_packed.then(|| zstd::decode_all(File::open(path).unwrap()).ok()).flatten();
        let read = decoded();
        file.write_all_at(&byte, at).unwrap();
        // A bit that fills up a byte behind zstd's codes says nothing: no decoder looks at it.
        let says_nothing = sound && read.is_some() && read == decoded();
        unread += usize::from(says_nothing);
        assert!(says_nothing || (!sound && named), "{} at {at}: {said}", path.display());
    }
    assert!(unread <= FLIPS / 100, "{unread} bits that say nothing");
    assert!(verified(&data).0);
}

fn segments_with(data: &Path, extension: &str) -> Vec<PathBuf> {
    let all = checked_files(data).into_iter().map(|(path, _)| path);
    all.filter(|path| path.to_str().unwrap().ends_with(extension)).collect()
}

/// A synced segment that somebody has taken away: exit 4, unless the operator accepts it.
#[test]
fn a_missing_segment_refuses_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut first = Engine::start_in(&data, &["--compress", "none"]);
    send(first.connect(), &[format!("{0} one\n{1} two\n", token(1), token(2)).as_bytes()]).unwrap();
    first.stop();
    fs::remove_dir_all(data.join(token(1))).unwrap();
    let args = ["run", "--tcp", "127.0.0.1:0", "--admin", "off", "--data", data.to_str().unwrap()];
    let refused = finish(engine(&args));
    assert_eq!(refused.status.code(), Some(4));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("which were synced, found nothing; restore it, or start with --accept-loss"), "{said}");
    let mut second = Engine::start_in(&data, &["--accept-loss"]);
    assert!(second.wait_for_line(|line| line.contains("recovered ")).ends_with(" alarms=1"));
    assert_eq!(second.entries(&token(2)), [b"two"]);
    second.stop();
    Engine::start_in(&data, &[]).stop();
}

/// Segments go by their age only after the journal knows; then a start misses nothing.
#[test]
fn what_retention_deletes_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let small = ["--line-bytes-max", "4KiB", "--segment-bytes", "64KiB", "--retain-bytes", "200KiB"];
    let flags = [&small[..], &["--compress", "none", "--admin", "127.0.0.1:0"]].concat();
    let line = "x".repeat(200);
    for sync in ["none", "interval", "batch"] {
        let engine = Engine::start_in(&data, &[&flags[..], &["--sync", sync]].concat());
        // A segment lasts 100 ms at least, for whoever follows it.
        let mut stream = engine.connect();
        let retained = || Metrics::of(engine.admin()).get("engine_retained_bytes_total");
        while retained() < 200_000 {
            for _ in 0..400 {
                writeln!(stream, "{} {line}", token(1)).unwrap();
            }
            std::thread::sleep(Duration::from_millis(110));
        }
        // Killed.
        drop(engine);
        assert!(segments(&data, &token(1))[0].file_name().unwrap() != &*segment_name(engine::segment::Offset(0)));
        let engine = Engine::start_in(&data, &flags);
        assert!(engine.wait_for_line(|line| line.contains("recovered ")).ends_with(" alarms=0"));
    }
}

/// So many logs with a segment each, without an engine.
fn make_logs(data: &Path, count: usize) {
    for log in 0..count {
        let folder = data.join(token(log));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(segment_name(engine::segment::Offset(0)));
        File::create(&path).unwrap().write_all(b"hello\n").unwrap();
        fs::hard_link(path, folder.join("current")).unwrap();
    }
}

/// The quickest of several starts: others use this machine too.
fn start_time(start: impl Fn() -> Engine, end: impl Fn(&mut Engine)) -> Duration {
    let time = |_| {
        let before = now();
        let mut engine = start();
        let time = before.elapsed();
        end(&mut engine);
        time
    };
    (0..4).map(time).min().unwrap()
}

/// An engine that finds that the machine has started anew: it sees another boot id.
fn start_after_power_cut(data: &Path) -> Engine {
    let boot_id = data.with_file_name("boot_id");
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    fs::write(&boot_id, format!("00000000-0000-4000-8000-{:012x}\n", nanos & 0xffff_ffff_ffff)).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#]);
    command.arg(boot_id).arg(env!("CARGO_BIN_EXE_engine")).stdin(Stdio::null()).stderr(Stdio::piped());
    Engine::start_by(command, data, &["--sync", "none"])
}

#[test]
fn ten_thousand_segments_are_recovered_soon() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let data = folder.path().join("data");
    make_logs(&data, 10_000);
    let mut engine = Engine::start_in(&data, &[]);
    let lines: Vec<u8> = (0..10_000).flat_map(|log| format!("{} more\n", token(log)).into_bytes()).collect();
    send(engine.connect(), &[&lines]).unwrap();
    engine.stop();
    let start = || Engine::start_in(&data, &[]);
    let kill = |engine: &mut Engine| {
        send(engine.connect(), &[&lines]).unwrap();
        engine.signal(Signal::KILL);
    };
    let stopped = start_time(start, |engine| drop(engine.stop()));
    let killed = start_time(start, kill);
    println!("start with 10,000 segments: {stopped:?} after a stop, {killed:?} after a kill");
    // A clock is asked only where nothing else runs.
    let is_measured = std::env::var_os("ENGINE_LIMITS_FULL").is_some();
    assert!(!is_measured || stopped.max(killed) < Duration::from_secs(1), "{stopped:?} and {killed:?}");

    let mut probe = Command::new("unshare");
    if !probe.args(["--mount", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("skipped: only who may mount something can give an engine another boot id");
        return;
    }
    let cut = start_time(|| start_after_power_cut(&data), kill);
    println!("after a power cut: {cut:?}");
    assert!(!is_measured || cut < Duration::from_secs(3), "{cut:?}");
    if is_measured {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let data = folder.path().join("data");
        make_logs(&data, 10_000);
        let forget = |engine: &mut Engine| {
            kill(engine);
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        };
        forget(&mut Engine::start_in(&data, &[]));
        let cold = start_time(|| start_after_power_cut(&data), forget);
        println!("with nothing of the disk in memory: {cold:?}");
        assert!(cold < Duration::from_secs(3), "{cold:?}");
    }
    let mut last = start_after_power_cut(&data);
    // Not synced, and in memory all the same: what an engine cannot know, it keeps where it finds whole lines.
    let recovered = last.wait_for_line(|line| line.contains("recovered "));
    assert!(recovered.contains(" logs=10000 ") && recovered.ends_with(" alarms=0"), "{recovered}");
    last.stop();
}

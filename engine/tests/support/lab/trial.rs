//! One image of a disk after a power cut, and all that must be true of an engine that starts on it.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::image::{Image, Rest};
use super::load::Lines;
use super::mount::{FileSystem, Lab, Mounted};
use super::run::Offsets;
use super::stored::{Files, Texts, difference, files, texts};
use crate::support::hostile::Random;
use crate::support::process::{Engine, engine, field, finish, send, wait_until};

/// For the starts after the cut.
const FLAGS: [&str; 10] =
    ["--shards", "1", "--line-bytes-max", "32KiB", "--disk-free-min", "0", "--compress", "none", "--sync", "batch"];
/// Lines that go on behind what was recovered.
const LINES_AFTER: usize = 300;
/// Times that a recovery is killed before one may come to its end.
const KILLS: usize = 3;
/// System calls of a start, some more: one of them is the last.
const CALLS_MAX: usize = 700;

/// An image and what is known of it.
#[derive(Debug)]
pub struct Trial {
    /// Says which one it is; all that is random in the trial follows from it.
    pub number: u64,
    /// What the disk was formatted with.
    pub file_system: FileSystem,
    /// What the power cut left.
    pub image: Image,
    /// What was known to be synced before the cut.
    pub synced: Offsets,
    /// The logs as they would be without the cut.
    pub texts: Texts,
}

/// What was found on an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Bytes of all logs after recovery.
    pub bytes: u64,
    /// Bytes below the offsets that were known to be synced.
    pub synced: u64,
    /// Files that recovery put aside.
    pub quarantined: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, synced, quarantined } = self;
        write!(f, "{bytes} bytes, {synced} of them known to be synced, {quarantined} files put aside")
    }
}

impl Trial {
    /// Panics with the first thing that is not true.
    pub fn check(&self, lab: &Lab) -> Found {
        let mut random = Random::new(self.number);
        lab.reboot();
        let mounted = Mounted::mount(self.file_system, self.image.clone());
        let data = mounted.path().join("data");
        let running = Engine::start_in(&data, &FLAGS);
        let said = running.wait_for_line(|line| line.contains(" recovered "));
        assert_eq!(field(&said, "alarms").unwrap(), "0", "{}", running.stderr());
        let recovered = files(&data);
        let texts = texts(&data);
        self.assert_begins_like_the_original(&texts);
        drop(running);

        start_again(&data, &recovered, "the same boot");
        lab.reboot();
        start_again(&data, &recovered, "another boot");
        let verified = finish(engine(&["verify", "--data", data.to_str().unwrap()]));
        go_on(lab, &data, &texts);
        drop(mounted);

        self.kill_recovery(lab, &recovered, &mut random);
        assert!(verified.status.success(), "verify: {}", String::from_utf8_lossy(&verified.stdout));
        Found {
            bytes: texts.values().map(|text| text.len() as u64).sum(),
            synced: self.synced.values().sum(),
            quarantined: field(&said, "quarantined_files").unwrap().parse().unwrap(),
        }
    }

    /// Whole lines, the first ones that came, and all that was known to be synced.
    fn assert_begins_like_the_original(&self, texts: &Texts) {
        for (token, text) in texts {
            let original = &self.texts[token];
            let synced = self.synced.get(token).copied().unwrap_or_default();
            let same = text.iter().zip(original).take_while(|(ours, theirs)| ours == theirs).count();
            let (length, whole) = (text.len(), original.len());
            assert!(same as u64 >= synced, "{token}: {synced} bytes were synced, {same} of {length} are as they were");
            assert_eq!(same, length, "{token}: other bytes than those that came ({whole} did)");
            assert!(text.is_empty() || text.ends_with(b"\n"), "{token}: the last of {length} bytes ends no line");
        }
    }

    /// A recovery that is killed, at any system call, and then by a power cut, is repeated and gives the same.
    fn kill_recovery(&self, lab: &Lab, recovered: &Files, random: &mut Random) {
        lab.reboot();
        let mounted = Mounted::mount(self.file_system, self.image.clone());
        let data = mounted.path().join("data");
        for _ in 0..KILLS {
            start_and_kill(&data, 1 + random.below(CALLS_MAX));
        }
        start_again(&data, recovered, "a recovery that was killed");
        let recording = mounted.disk().recording();
        drop(mounted);

        let at = random.below(recording.events.len() + 1);
        let rest = *random.pick(&[Rest::None, Rest::Half, Rest::Random]);
        lab.reboot();
        let mounted =
            Mounted::mount(self.file_system, recording.cut(at, rest, self.file_system.sector_bytes(), random));
        let data = mounted.path().join("data");
        drop(Engine::start_in(&data, &FLAGS));
        let mut found = files(&data);
        // Of a cut that half came to the disk there may be something left to put aside: names without a log's.
        found.retain(|name, _| recovered.contains_key(name) || name.contains('/'));
        assert_same(recovered, &found, "a power cut in the recovery");
    }

    /// Writes all that it takes to check it again.
    pub fn save(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        self.image.save(&folder.join("disk"));
        for (token, text) in &self.texts {
            std::fs::write(folder.join(token), text).unwrap();
        }
        let known = json!({ "number": self.number, "file_system": self.file_system.name(), "synced": self.synced });
        std::fs::write(folder.join("trial.json"), known.to_string()).unwrap();
    }

    /// What was saved there.
    pub fn load(folder: &Path) -> Self {
        let known: Value = serde_json::from_slice(&std::fs::read(folder.join("trial.json")).unwrap()).unwrap();
        let name = known["file_system"].as_str().unwrap();
        let text = |log| {
            let token = super::load::token(log);
            let text = std::fs::read(folder.join(&token)).unwrap();
            (token, text)
        };
        Self {
            number: known["number"].as_u64().unwrap(),
            file_system: FileSystem::ALL.into_iter().find(|known| known.name() == name).unwrap(),
            image: Image::load(&folder.join("disk")),
            synced: serde_json::from_value(known["synced"].clone()).unwrap(),
            texts: (0..super::load::LOGS).map(text).collect(),
        }
    }
}

/// Starts once more and ends it at once: nothing has changed.
fn start_again(data: &Path, recovered: &Files, after: &str) {
    drop(Engine::start_in(data, &FLAGS));
    assert_same(recovered, &files(data), after);
}

fn assert_same(recovered: &Files, found: &Files, after: &str) {
    assert!(found == recovered, "after {after} a start gives something else:\n{}", difference(recovered, found));
}

/// New lines come behind those that were recovered, and all is there after the next power cut too.
fn go_on(lab: &Lab, data: &Path, before: &Texts) {
    let mut expected = before.clone();
    Lines::new(1, 0).store(LINES_AFTER, &mut expected);
    let mut engine = Engine::start_in(data, &FLAGS);
    send(engine.connect(), &[&Lines::new(1, 0).take(LINES_AFTER)]).unwrap();
    engine.stop();
    assert!(texts(data) == expected, "lines after the recovery are not where they belong");
    lab.reboot();
    let engine = Engine::start_in(data, &FLAGS);
    assert!(texts(data) == expected, "lines after the recovery are gone after an end in order");
    drop(engine);
}

/// A start that is killed at that system call of a thread, or when it is ready.
fn start_and_kill(data: &Path, call: usize) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    // The tracer is no parent: what we kill is the engine.
    command.args(["--daemonize", "--follow-forks", "--output=/dev/null"]);
    command.arg(format!("--inject=all:signal=KILL:when={call}")).arg(env!("CARGO_BIN_EXE_engine"));
    command.args(["run", "--admin", "off", "--tcp", "127.0.0.1:0", "--data"]).arg(data).args(FLAGS);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let said = || std::fs::read_to_string(log.path()).unwrap();
    let is_over = || child.try_wait().unwrap().is_some() || said().contains(" ready");
    assert!(wait_until(is_over), "neither killed at call {call} nor ready; it said:\n{}", said());
    drop(child.kill());
    child.wait().unwrap();
}

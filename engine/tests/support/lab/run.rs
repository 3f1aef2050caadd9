//! An engine at work on a disk that remembers: what the disk was told, and what the engine told others meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use engine::store::list;
use rustix::process::Signal;
use serde_json::Value;

use super::image::Recording;
use super::load::{CONNECTIONS, Lines};
use super::mount::{FileSystem, Mounted};
use super::stored::{Texts, assert_lines, texts};
use crate::support::process::{Engine, engine, now};

/// Between two looks at what is said to be synced.
const LOOK: Duration = Duration::from_millis(5);
/// Small segments, so that many are begun and sealed; lines that fit them.
const FLAGS: [&str; 12] = [
    "--shards",
    "2",
    "--segment-bytes",
    "256KiB",
    "--line-bytes-max",
    "32KiB",
    "--buffer-bytes",
    "16MiB",
    "--disk-free-min",
    "0",
    "--sync-interval",
    "100ms",
];

/// Offsets by token.
pub type Offsets = BTreeMap<String, u64>;

/// What a run left behind.
#[derive(Debug)]
pub struct Run {
    /// All that the disk was told.
    pub recording: Recording,
    /// The event with which the load began; the run ends with the last one.
    pub start: usize,
    /// Moments, and what was known to be synced at each.
    pub published: Vec<(usize, Offsets)>,
    /// Every log at the end, as readers saw it.
    pub texts: Texts,
}

impl Run {
    /// Loads an engine that syncs like this, then ends it from one moment to the next.
    pub fn new(file_system: FileSystem, sync: &str, seed: u64, length: Duration) -> Self {
        Self::by(engine(&[]), file_system, sync, seed, length)
    }

    /// The same with a command that runs the engine.
    pub fn by(command: Command, file_system: FileSystem, sync: &str, seed: u64, length: Duration) -> Self {
        let mounted = Mounted::mount(file_system, file_system.make());
        let data = mounted.path().join("data");
        let flags = [&FLAGS[..], &["--sync", sync], &["--compress-after", "200ms"]].concat();
        let mut engine = Engine::start_by(command, &data, &flags);
        let start = mounted.disk().moment();
        let addr = engine.addr();
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|connection| std::thread::spawn(move || Lines::new(seed, connection).send_until_the_end(addr)))
            .collect();
        let mut published = vec![(start, Offsets::new())];
        let end = now() + length;
        while now() < end {
            let offsets = synced_offsets(&data);
            // What was read before this moment was true before it.
            published.push((mounted.disk().moment(), offsets));
            std::thread::sleep(LOOK);
        }
        engine.signal(Signal::KILL);
        drop(engine);
        let recording = mounted.disk().recording();
        for sender in senders {
            sender.join().unwrap();
        }
        let texts = whole_lines(texts(&data));
        assert_lines(seed, &texts);
        Self { recording, start, published, texts }
    }

    /// What was known to be synced at that moment.
    pub fn synced_at(&self, moment: usize) -> &Offsets {
        let before = |(at, _): &&(usize, Offsets)| *at <= moment;
        &self.published.iter().rfind(before).expect("nothing was known at the start").1
    }
}

/// `offset_synced` of `engine ls --json`.
pub fn synced_offsets(data: &Path) -> Offsets {
    let mut json = Vec::new();
    list::ls(data, None, true, &mut json).unwrap();
    let logs: Value = serde_json::from_slice(&json).unwrap();
    let of = |log: &Value| Some((log["token"].as_str()?.to_owned(), log["offset_synced"].as_u64()?));
    logs.as_array().unwrap().iter().filter_map(of).collect()
}

/// Without the last line where the process died in the middle of it.
fn whole_lines(mut texts: Texts) -> Texts {
    for text in texts.values_mut() {
        let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        text.truncate(end);
    }
    texts
}

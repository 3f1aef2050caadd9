//! What is in a data directory, read without the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use super::load::{CONNECTIONS_LEN, LOGS, entry, token};

/// The end of a segment's name, and that of one that was compressed.
const ENDS: [&str; 2] = [".log", ".log.zst"];

/// The text of every log, by token; empty if there is no such log.
pub type Texts = BTreeMap<String, Vec<u8>>;
/// What is in files, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The text of each log. Its segments join: base plus size is the next base.
pub fn texts(data: &Path) -> Texts {
    (0..LOGS).map(|log| (token(log), text(&data.join(token(log))))).collect()
}

fn text(folder: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for base in bases(folder) {
        assert_eq!(base.parse(), Ok(text.len()), "{}: a gap or an overlap", folder.join(&base).display());
        text.extend(segment(folder, &base));
    }
    text
}

fn bases(folder: &Path) -> Vec<String> {
    let base = |name: &String| ENDS.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    let mut bases: Vec<String> = names(folder).iter().filter_map(base).collect();
    bases.dedup();
    bases
}

/// The text of a segment. Where both forms of it are there, the one takes the place of the other at any moment.
fn segment(folder: &Path, base: &str) -> Vec<u8> {
    let [plain, packed] = ENDS.map(|end| folder.join(format!("{base}{end}")));
    std::fs::read(plain).unwrap_or_else(|_| zstd::decode_all(File::open(packed).unwrap()).unwrap())
}

/// The text of each segment, and what is in quarantine.
pub fn files(data: &Path) -> Files {
    let mut files = Files::new();
    for log in (0..LOGS).map(token) {
        let folder = data.join(&log);
        files.extend(bases(&folder).iter().map(|base| (format!("{log}/{base}"), segment(&folder, base))));
    }
    let quarantine = data.join("_quarantine");
    files.extend(
        names(&quarantine).into_iter().map(|name| (name.clone(), std::fs::read(quarantine.join(name)).unwrap())),
    );
    files
}

/// Names in a directory, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How two sets of files differ: a line for each other one.
pub fn difference(before: &Files, after: &Files) -> String {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let length = |files: &Files, name| files.get(name).map(Vec::len);
    let other = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    let lines = other.map(|name| format!("{name}: {:?} bytes, then {:?}", length(before, name), length(after, name)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every line is one that was sent, to the byte, and of each connection all lines up to the last are there, once.
pub fn assert_lines(seed: u64, texts: &Texts) {
    for (log, text) in (0..).zip(texts.values()) {
        let mut next = [0; CONNECTIONS_LEN];
        let lines = text.strip_suffix(b"\n").map(|text| text.split(|&byte| byte == b'\n'));
        assert!(lines.is_some() || text.is_empty(), "log {log} ends within a line");
        for line in lines.into_iter().flatten() {
            let number =
                |nth: usize| std::str::from_utf8(line.split(|&byte| byte == b' ').nth(nth)?).ok()?.parse().ok();
            let (Some(connection), Some(count)) = (number(0), number(2)) else { panic!("log {log}: a foreign line") };
            let expected = &mut next[usize::try_from(connection).unwrap()];
            assert_eq!(count, *expected, "log {log}, connection {connection}: another line than the next");
            assert!(line == entry(seed, connection, log, count), "log {log}: line {connection}:{count} is garbled");
            *expected += 1;
        }
    }
}

//! Looks at every log again and again, while segments come, are compressed and are deleted: each look must join the one
//! before it.
//!
//! ```text
//!  a look      ├───────────────── entries ─────────────────┤
//!  the next           ├───────────────── entries ────────────────────┤       of each connection: by one more each
//!                     └ begins within what was seen ┘ so nothing was left out in between
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clients::{DATAGRAMS, SEED, Sent};
use crate::load::{LOGS, entry, token};
use crate::support::process::{engine, finish};

const PLAIN: &str = ".log";
const PACKED: &str = ".log.zst";
/// How often a look may be disturbed by segments that are deleted under it.
const TRIES: usize = 5;

/// Lines as a reader sees them: of each connection the first number and the next one.
#[derive(Debug, Default)]
pub struct Runs(BTreeMap<u64, (u64, u64)>);

impl Runs {
    /// The next line that a reader of this log sees. Gives its connection and number.
    pub fn take(&mut self, reader: &str, log: u64, line: &[u8]) -> (u64, u64) {
        let mut words = line.split(|&byte| byte == b' ').map(|word| std::str::from_utf8(word).ok()?.parse().ok());
        let numbers = [words.next(), words.next(), words.next()].map(Option::flatten);
        let [Some(connection), Some(of), Some(number)] = numbers else {
            panic!("{reader}, log {log}: a line that nobody sent: {:?}", String::from_utf8_lossy(line));
        };
        assert_eq!(of, log, "{reader}: a line in another log than its own");
        let (_, next) = self.0.entry(connection).or_insert((number, number));
        let follows = if connection >= DATAGRAMS { number >= *next } else { number == *next };
        assert!(follows, "{reader}, log {log}, connection {connection}: {number} comes where {next} should");
        *next = number + 1;
        (connection, number)
    }

    /// The number that would come next of each connection that was seen.
    pub fn next(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(&connection, &(_, next))| (connection, next))
    }
}

/// What was seen of one log so far.
#[derive(Debug, Default)]
struct Log {
    /// Of each connection the number that comes next.
    next: BTreeMap<u64, u64>,
    /// Offset up to which everything was seen, at least.
    through: u64,
}

/// What was seen so far.
#[derive(Debug)]
pub struct Audit {
    data: PathBuf,
    logs: Vec<Log>,
    /// Connections below this number have ended: one of which nothing is left is forgotten.
    pub first: u64,
    /// Entries that were seen, each once.
    pub entries: u64,
    /// Looks.
    pub looks: u64,
    /// Looks that came too late: what was deleted meanwhile nobody has seen.
    pub overtaken: u64,
}

impl Audit {
    pub fn new(data: &Path) -> Self {
        let logs = (0..LOGS).map(|_| Log::default()).collect();
        Self { data: data.to_owned(), logs, first: 0, entries: 0, looks: 0, overtaken: 0 }
    }

    /// Looks at every log.
    pub fn look(&mut self) {
        for log in 0..LOGS {
            let text = self.read(log);
            self.take(log, &text);
        }
        self.looks += 1;
    }

    /// The whole lines of a log, by `engine cat`, and whether they join what was seen before.
    fn read(&mut self, log: u64) -> (Vec<u8>, bool) {
        let newest = bases(&self.data, log).last().copied().unwrap_or(0);
        for _ in 0..TRIES {
            let output = finish(engine(&["cat", &token(log), "--data", self.data.to_str().unwrap()]));
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{said}");
            if said.contains("were deleted before they were read") {
                continue;
            }
            let oldest = bases(&self.data, log).first().copied().unwrap_or(0);
            let seen = &mut self.logs[usize::try_from(log).unwrap()];
            let joins = oldest <= seen.through;
            self.overtaken += u64::from(!joins);
            seen.through = newest;
            let mut text = output.stdout;
            text.truncate(text.iter().rposition(|&byte| byte == b'\n').map_or(0, |lf| lf + 1));
            return (text, joins);
        }
        panic!("log {log}: segments are deleted faster than they are read");
    }

    fn take(&mut self, log: u64, (text, joins): &(Vec<u8>, bool)) {
        let seen = &mut self.logs[usize::try_from(log).unwrap()];
        let mut runs = Runs::default();
        for line in text.split_terminator() {
            let (connection, number) = runs.take("cat", log, line);
            if number >= seen.next.get(&connection).copied().unwrap_or(0) {
                let same = line == entry(SEED, connection, log, number);
                assert!(same, "log {log}: line {connection}:{number} is garbled");
                self.entries += 1;
            }
        }
        for (&connection, &(first, next)) in &runs.0 {
            let known = seen.next.get(&connection).copied().unwrap_or(0);
            let exact = *joins && connection < DATAGRAMS;
            assert!(!exact || first <= known, "log {log}, connection {connection}: {known} to {first} are missing");
            assert!(next >= known, "log {log}, connection {connection}: {next} to {known} were there before");
            seen.next.insert(connection, next);
        }
        let ended = |connection: u64| connection % DATAGRAMS < self.first;
        seen.next.retain(|connection, _| !ended(*connection) || runs.0.contains_key(connection));
    }

    /// Lines of a connection that has ended, and their bytes, that were sent and are not there. What is there is all up to
    /// some line: that was seen.
    pub fn missing(&self, sent: &Sent) -> (u64, u64) {
        let (mut lines, mut bytes) = (0, 0);
        for (log, (&sent_lines, seen)) in (0..).zip(sent.lines.iter().zip(&self.logs)) {
            let next = seen.next.get(&sent.connection).copied().unwrap_or(0);
            assert!(next <= sent_lines, "log {log}: more of connection {} than was sent", sent.connection);
            lines += sent_lines - next;
            bytes += (next..sent_lines).map(|line| line_bytes(sent.connection, log, line)).sum::<u64>();
        }
        (lines, bytes)
    }

    /// While no engine runs: `cat` and `zstdcat` see the same as `engine cat`.
    pub fn compare_with_other_readers(&mut self) {
        for log in 0..LOGS {
            let mut theirs = Vec::new();
            for base in bases(&self.data, log) {
                let name = |end: &str| self.data.join(token(log)).join(format!("{base:020}{end}"));
                if let Ok(text) = std::fs::read(name(PLAIN)) {
                    theirs.extend(text);
                    continue;
                }
                let output = Command::new("zstdcat").arg(name(PACKED)).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                theirs.extend(output.stdout);
            }
            theirs.truncate(theirs.iter().rposition(|&byte| byte == b'\n').map_or(0, |lf| lf + 1));
            assert!(self.read(log).0 == theirs, "log {log}: others read something else");
        }
    }

    /// Whether a reader has come as far with each connection, from this number on, of which it saw anything.
    pub fn is_level(&self, log: u64, from: u64, runs: &Runs) -> bool {
        let seen = &self.logs[usize::try_from(log).unwrap()];
        let mut own = runs.next().filter(|(connection, _)| connection % DATAGRAMS >= from);
        own.all(|(connection, next)| seen.next.get(&connection) == Some(&next))
    }
}

/// Bytes of a line as it is sent.
fn line_bytes(connection: u64, log: u64, number: u64) -> u64 {
    (token(log).len() + 1 + entry(SEED, connection, log, number).len() + 1) as u64
}

/// Bases of the segments of a log, ascending, each once.
fn bases(data: &Path, log: u64) -> Vec<u64> {
    let Ok(names) = std::fs::read_dir(data.join(token(log))) else { return Vec::new() };
    let base = |name: String| name.strip_suffix(PACKED).or_else(|| name.strip_suffix(PLAIN))?.parse().ok();
    let mut bases: Vec<u64> = names.filter_map(|name| base(name.unwrap().file_name().into_string().unwrap())).collect();
    bases.sort_unstable();
    bases.dedup();
    bases
}

/// Lines of a text that ends with one.
trait Terminated {
    fn split_terminator(&self) -> impl Iterator<Item = &[u8]>;
}

impl Terminated for Vec<u8> {
    fn split_terminator(&self) -> impl Iterator<Item = &[u8]> {
        self.split_inclusive(|&byte| byte == b'\n').map(|line| &line[..line.len() - 1])
    }
}

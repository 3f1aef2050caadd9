//! Reads the logs of a data directory that a receiver may still be writing.
//!
//! `DATA/<token>/<base>.log`, base being 20 decimal digits, in the order of the bases: a segment is read to its end, and
//! as soon as there is a later one, it is complete. No lock, no receiver needed. All logs are read, not only those of the
//! plan: an entry may have gone astray.
//!
//! Left out: compressed segments. What a run wrote is read right after it, when none is compressed yet.
#![expect(clippy::disallowed_methods, reason = "waits for a receiver that is still writing")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::plan::{Plan, Token, parse_token};

/// Missing entries are given up when nothing has been written for this long.
const STALLED: Duration = Duration::from_secs(2);
/// When nothing is missing any more, how long to look for what should not come.
const SETTLED: Duration = Duration::from_millis(100);
/// How often to look for something new.
const POLL: Duration = Duration::from_millis(10);
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Digits of a segment's base.
const BASE_DIGITS: usize = 20;

/// Reads all logs into the account until nothing acknowledged is missing and no more comes, or nothing has come for two
/// seconds.
///
/// # Errors
///
/// When a directory or segment cannot be read.
pub fn follow(data: &Path, plan: &Plan, account: &mut Account) -> io::Result<()> {
    let mut logs = Logs::new(data, plan);
    let mut last_news = Instant::now();
    loop {
        if logs.read(account)? {
            last_news = Instant::now();
            continue;
        }
        let enough = if account.is_complete() { SETTLED } else { STALLED };
        if last_news.elapsed() >= enough {
            break;
        }
        std::thread::sleep(POLL);
    }
    logs.finish(account);
    Ok(())
}

/// Reads all logs into the account as they are now, for a receiver that is known to have ended.
///
/// # Errors
///
/// When a directory or segment cannot be read.
pub fn read_once(data: &Path, plan: &Plan, account: &mut Account) -> io::Result<()> {
    let mut logs = Logs::new(data, plan);
    logs.read(account)?;
    logs.finish(account);
    Ok(())
}

struct Logs {
    data: PathBuf,
    index_of: HashMap<Token, usize>,
    found: HashMap<Token, Log>,
    buffer: Vec<u8>,
}

impl Logs {
    fn new(data: &Path, plan: &Plan) -> Self {
        let index_of = plan.tokens.iter().copied().zip(0..).collect();
        Self { data: data.to_owned(), index_of, found: HashMap::new(), buffer: vec![0; READ_BYTES] }
    }

    /// Reads what is new; `false` if nothing is.
    fn read(&mut self, account: &mut Account) -> io::Result<bool> {
        self.discover()?;
        let mut news = false;
        for (token, log) in &mut self.found {
            let index = self.index_of.get(token).copied();
            news |= log.read(&mut self.buffer, index, account)?;
        }
        Ok(news)
    }

    fn discover(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.data)? {
            let entry = entry?;
            if let Some(token) = entry.file_name().to_str().and_then(parse_token) {
                self.found.entry(token).or_insert_with(|| Log::new(entry.path()));
            }
        }
        Ok(())
    }

    fn finish(self, account: &mut Account) {
        for log in self.found.values().filter(|log| !log.rest.is_empty()) {
            account.torn(&log.rest);
        }
    }
}

/// One log, read up to a position in one of its segments.
struct Log {
    directory: PathBuf,
    /// Base of the segment that is being read; the first one is found with the first look.
    base: u64,
    position: u64,
    /// Bytes read behind the last LF.
    rest: Vec<u8>,
}

impl Log {
    fn new(directory: PathBuf) -> Self {
        Self { directory, base: 0, position: 0, rest: Vec::new() }
    }

    fn read(&mut self, buffer: &mut [u8], index: Option<usize>, account: &mut Account) -> io::Result<bool> {
        let mut news = false;
        // Listed before reading: a segment with a later one in the list is complete.
        for (base, path) in segments(&self.directory, self.base)? {
            if base != self.base {
                (self.base, self.position) = (base, 0);
                if !self.rest.is_empty() {
                    account.torn(&std::mem::take(&mut self.rest));
                }
            }
            news |= self.read_segment(&path, buffer, index, account)?;
        }
        Ok(news)
    }

    fn read_segment(
        &mut self,
        path: &Path,
        buffer: &mut [u8],
        index: Option<usize>,
        account: &mut Account,
    ) -> io::Result<bool> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.position))?;
        let before = self.position;
        loop {
            let count = file.read(buffer)?;
            if count == 0 {
                return Ok(self.position != before);
            }
            self.position += count as u64;
            self.take(&buffer[..count], index, account);
        }
    }

    fn take(&mut self, mut bytes: &[u8], index: Option<usize>, account: &mut Account) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (entry, after) = (&bytes[..end], &bytes[end + 1..]);
            if self.rest.is_empty() {
                account.entry(index, entry);
            } else {
                self.rest.extend_from_slice(entry);
                account.entry(index, &self.rest);
                self.rest.clear();
            }
            bytes = after;
        }
        self.rest.extend_from_slice(bytes);
    }
}

/// The segments of a log from a base on, in order.
fn segments(directory: &Path, from: u64) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let base = entry.file_name().to_str().and_then(segment_base).filter(|base| *base >= from);
        segments.extend(base.map(|base| (base, entry.path())));
    }
    segments.sort_unstable();
    Ok(segments)
}

fn segment_base(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == BASE_DIGITS)?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::sender::Outcome;

    #[test]
    fn entries_are_read_across_reads_and_segments() {
        let data = tempfile::tempdir().unwrap();
        let plan = plan(1, 1, 256);
        let directory = data.path().join(std::str::from_utf8(&plan.tokens[0]).unwrap());
        fs::create_dir(&directory).unwrap();
        fs::create_dir(data.path().join("_journal")).unwrap();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        let outcome = Outcome { elapsed: Duration::ZERO, connections: Vec::new() };
        let mut account = Account::new(&plan, &outcome);
        let mut logs = Logs::new(data.path(), &plan);
        write("00000000000000000000.log", "one\ntw");
        write("00000000000000000000.idx", "one\ntwo\n");
        write("current", "one\ntwo\n");
        assert!(logs.read(&mut account).unwrap());
        assert_eq!(account.unknown, 1);
        assert!(!logs.read(&mut account).unwrap());
        write("00000000000000000000.log", "one\ntwo\n");
        write("00000000000000000008.log", "three\nfour\nfi");
        assert!(logs.read(&mut account).unwrap());
        assert_eq!(account.unknown, 4);
        write("00000000000000000020.log", "six\n");
        assert!(logs.read(&mut account).unwrap());
        // The torn one is a line too, though not one that anybody sent.
        assert_eq!(account.unknown, 6);
    }
}

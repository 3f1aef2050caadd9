//! Reads the logs of a receiver, while it writes them or afterwards, into the account.
//!
//! ```text
//!  inotify ──logs that changed──► read each to its end ──► the time ──► account, `visible` latency of each entry
//!     ▲                                                                       │
//!     └───────────────────────── one pass, timed ─────────────────────────────┘
//! ```
//!
//! The time is taken after each read, so an entry counts as visible when a reader has it. What the follower adds is at
//! most the pass under way when an entry was written, and the one that reads it; the length of passes is reported.
//!
//! No lock, and the receiver need not run. In a data directory all logs are read in the end, not only those of the
//! plan: an entry may have gone astray.
//!
//! | module | for |
//! | --- | --- |
//! | `files` | the files of one log |
//! | `watch` | which logs have changed |
#![expect(clippy::disallowed_methods, reason = "waits for a receiver that is still writing")]

mod files;
mod watch;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::clock::RunClock;
use crate::latency::Recorder;
use crate::plan::{Files, Plan};
use crate::send_times::SendTimes;
use crate::sender::Outcome;
use crate::tokens::{Token, parse_token};
use files::{Lines, Log, READ_BYTES, segment_base};
use watch::{Change, Watches};

/// How long to go on following when the sending is over and something always comes; [`Follower::finish`] reads the rest.
const LINGER: Duration = Duration::from_secs(2);
/// When nothing is missing any more, how long to look for what should not come.
const SETTLED: Duration = Duration::from_millis(100);
/// How often to look then.
const POLL: Duration = Duration::from_millis(5);
/// A wait for changes that brings none in this time: the end of a run, if it is over.
const QUIET: Duration = Duration::from_millis(50);
/// How often to look for files that did not exist at the start.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The number of the watch on the data directory itself.
const ROOT: usize = usize::MAX;

/// What turns reading into latencies.
#[derive(Debug)]
pub struct Stopwatch {
    /// The clock of the run.
    pub clock: RunClock,
    /// Takes the latencies.
    pub recorder: Recorder,
    /// When entries were actually sent.
    pub send_times: Arc<SendTimes>,
}

/// The logs of one run.
#[derive(Debug)]
pub struct Follower {
    files: Files,
    logs: Vec<Log>,
    index_of: HashMap<Token, usize>,
    known: HashMap<Token, usize>,
    buffer: Vec<u8>,
    reader: Reader,
}

impl Follower {
    /// A follower that has read nothing yet.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read.
    pub fn new(plan: &Arc<Plan>, files: &Files) -> io::Result<Self> {
        let mut follower = Self {
            files: files.clone(),
            logs: Vec::new(),
            index_of: plan.tokens.list.iter().copied().zip(0..).collect(),
            known: HashMap::new(),
            buffer: vec![0; READ_BYTES],
            reader: Reader { account: Account::new(plan), stopwatch: None, plan: Arc::clone(plan) },
        };
        if let Files::Pattern(pattern) = files {
            let single = |(index, token): (usize, &Token)| {
                let token = std::str::from_utf8(token).expect("token text is ASCII");
                Log::single(PathBuf::from(pattern.replace("{token}", token)), index)
            };
            follower.logs = plan.tokens.list.iter().enumerate().map(single).collect();
        }
        follower.discover()?;
        Ok(follower)
    }

    /// Leaves out what its logs hold by now.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read.
    pub fn skip_history(&mut self) -> io::Result<()> {
        self.logs.iter_mut().try_for_each(|log| log.skip(&mut self.buffer))
    }

    /// Reads what appears, and times it, until told to stop and nothing has come for a while.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read or watched.
    pub fn follow(&mut self, stopwatch: Stopwatch, stop: &AtomicBool) -> io::Result<()> {
        self.reader.stopwatch = Some(stopwatch);
        let mut watches = Watches::new()?;
        if let Files::Data(data) = &self.files {
            watches.add(data, ROOT)?;
        }
        // Those that appeared before the watch.
        self.discover()?;
        let mut unwatched: Vec<_> = (0..self.logs.len()).collect();
        let mut last_look: Option<Instant> = None;
        let mut stopped = None;
        loop {
            let mut changed = Changed::default();
            if last_look.is_none_or(|last| last.elapsed() >= LOOK_EVERY) {
                self.watch_new(&mut watches, &mut unwatched, &mut changed)?;
                last_look = Some(Instant::now());
            }
            let is_quiet = !watches.wait(QUIET, |change| changed.note(change))?;
            if stop.load(Ordering::Relaxed) {
                // Others may write to the same directory for ever.
                if is_quiet || stopped.get_or_insert_with(Instant::now).elapsed() >= LINGER {
                    return Ok(());
                }
            }
            let begin = self.reader.now();
            self.read_changed(changed, &mut unwatched)?;
            self.reader.end_pass(begin);
        }
    }

    /// Reads all logs until nothing acknowledged is missing and no more comes, or until no entry of the run has come for
    /// [`Plan::finish_wait`]: a receiver may collect what it stores.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read.
    pub fn finish(mut self, outcome: &Outcome) -> io::Result<Account> {
        let give_up = self.reader.plan.finish_wait;
        let mut last_news = Instant::now();
        let mut is_complete = None;
        loop {
            let found = self.reader.account.found;
            self.read_all()?;
            // Others may write to the same directory for ever.
            if self.reader.account.found > found {
                (last_news, is_complete) = (Instant::now(), None);
                continue;
            }
            let is_complete = *is_complete.get_or_insert_with(|| self.reader.account.is_complete(outcome));
            if last_news.elapsed() >= if is_complete { SETTLED.min(give_up) } else { give_up } {
                return self.close();
            }
            std::thread::sleep(POLL);
        }
    }

    /// Takes all logs as they are now, for a receiver that is known to have ended.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read.
    pub fn close(mut self) -> io::Result<Account> {
        self.read_all()?;
        for log in &mut self.logs {
            log.finish(&mut self.buffer, &mut self.reader)?;
        }
        Ok(self.reader.account)
    }

    /// Reads what is new in all logs.
    fn read_all(&mut self) -> io::Result<()> {
        self.discover()?;
        for log in &mut self.logs {
            log.read_all(&mut self.buffer, &mut self.reader)?;
        }
        Ok(())
    }

    /// Looks for new logs in the data directory.
    fn discover(&mut self) -> io::Result<()> {
        let Files::Data(data) = &self.files else { return Ok(()) };
        for entry in fs::read_dir(data)? {
            if let Some(token) = entry?.file_name().to_str().and_then(parse_token) {
                self.know(token);
            }
        }
        Ok(())
    }

    /// The log of a token in the data directory, by its number; `None` if it was known before.
    fn know(&mut self, token: Token) -> Option<usize> {
        let Files::Data(data) = &self.files else { return None };
        let number = self.logs.len();
        if *self.known.entry(token).or_insert(number) != number {
            return None;
        }
        let text = std::str::from_utf8(&token).expect("token text is ASCII");
        self.logs.push(Log::segments(data.join(text), self.index_of.get(&token).copied()));
        Some(number)
    }

    fn is_followed(&self, number: usize) -> bool {
        self.reader.is_timed(self.logs[number].token)
    }

    /// Watches the logs that have come into being since the last look; what they hold by now counts as changed.
    fn watch_new(
        &mut self,
        watches: &mut Watches,
        unwatched: &mut Vec<usize>,
        changed: &mut Changed,
    ) -> io::Result<()> {
        let mut still_missing = Vec::new();
        for number in unwatched.drain(..).filter(|number| self.is_followed(*number)) {
            if watches.add(self.logs[number].watched(), number)? {
                changed.rolled.push(number);
            } else {
                still_missing.push(number);
            }
        }
        *unwatched = still_missing;
        Ok(())
    }

    fn read_changed(&mut self, mut changed: Changed, unwatched: &mut Vec<usize>) -> io::Result<()> {
        if changed.anything {
            self.discover()?;
            changed.rolled = (0..self.logs.len()).filter(|number| self.is_followed(*number)).collect();
        }
        unwatched.extend(changed.appeared.iter().filter_map(|token| self.know(*token)));
        changed.grown.sort_unstable();
        changed.grown.dedup();
        for number in changed.grown {
            self.logs[number].read(&mut self.buffer, &mut self.reader)?;
        }
        for number in changed.rolled {
            self.logs[number].read_all(&mut self.buffer, &mut self.reader)?;
        }
        Ok(())
    }
}

/// What a wait has brought.
#[derive(Debug, Default)]
struct Changed {
    /// Logs whose file has grown.
    grown: Vec<usize>,
    /// Logs that have a new segment.
    rolled: Vec<usize>,
    /// Tokens that have a log now.
    appeared: Vec<Token>,
    /// Changes were lost.
    anything: bool,
}

impl Changed {
    fn note(&mut self, change: Change<'_>) {
        match change {
            Change::Anything => self.anything = true,
            Change::Grown(ROOT) => {}
            Change::Grown(number) => self.grown.push(number),
            Change::Appeared(ROOT, name) => self.appeared.extend(name.to_str().ok().and_then(parse_token)),
            Change::Appeared(number, name) => {
                if name.to_str().is_ok_and(|name| segment_base(name).is_some()) {
                    self.rolled.push(number);
                }
            }
        }
    }
}

/// Takes lines from the logs to the account, and times them.
#[derive(Debug)]
struct Reader {
    plan: Arc<Plan>,
    account: Account,
    stopwatch: Option<Stopwatch>,
}

impl Reader {
    fn is_timed(&self, token: Option<usize>) -> bool {
        self.stopwatch.is_some() && token.is_some_and(|token| token % self.plan.follow_sample == 0)
    }

    fn now(&self) -> u64 {
        self.stopwatch.as_ref().map_or(0, |stopwatch| stopwatch.clock.now())
    }

    fn end_pass(&mut self, begin: u64) {
        if let Some(stopwatch) = &mut self.stopwatch {
            let now = stopwatch.clock.now();
            stopwatch.recorder.record_own(now, now - begin);
        }
    }
}

impl Lines for Reader {
    fn lines(&mut self, token: Option<usize>, lines: &[u8]) {
        let now = self.now();
        let mut stopwatch = if self.is_timed(token) { self.stopwatch.as_mut() } else { None };
        let with_token = match self.plan.files {
            Some(Files::Pattern(_)) => token.map(|token| &self.plan.tokens.list[token]),
            _ => None,
        };
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', lines) {
            let line = &lines[start..end];
            start = end + 1;
            let found = match with_token.and_then(|token| without_token(line, token)) {
                Some(entry) => self.account.entry(token, &entry),
                None => self.account.entry(token, line),
            };
            if let (Some(found), Some(stopwatch)) = (found, stopwatch.as_mut()) {
                let actual = stopwatch.send_times.of(found.connection, found.sequence);
                stopwatch.recorder.record(now, found.intended_micros * 1000, actual, 1);
            }
        }
    }

    fn torn(&mut self, token: Option<usize>, rest: &[u8]) {
        self.account.torn(token, rest);
    }
}

/// A line of a receiver that stores it as it came: the entry without its token and one blank, as the protocol says.
fn without_token(line: &[u8], token: &Token) -> Option<Vec<u8>> {
    let at = memchr::memmem::find(line, token)?;
    let (before, after) = (&line[..at], &line[at + token.len()..]);
    let entry = match (before, after) {
        ([], [b' ', after @ ..]) => after.to_vec(),
        ([before @ .., b' '], []) => before.to_vec(),
        ([.., b' '], [b' ', after @ ..]) => [before, after].concat(),
        _ => [before, after].concat(),
    };
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn a_stored_line_gives_its_entry() {
        let token = plan(1, 1, 256).tokens.list[0];
        let line = |before: &[u8], after: &[u8]| without_token(&[before, &token, after].concat(), &token);
        assert_eq!(line(b"", b" entry").unwrap(), b"entry");
        assert_eq!(line(b"an ", b" entry").unwrap(), b"an entry");
        assert_eq!(line(b"entry ", b"").unwrap(), b"entry");
        assert_eq!(line(b"a", b"b").unwrap(), b"ab");
        assert_eq!(without_token(b"entry", &token), None);
    }

    #[test]
    fn logs_are_found_wherever_they_are() {
        let data = tempfile::tempdir().unwrap();
        let plan = Arc::new(plan(1, 2, 256));
        let files = Files::Data(data.path().to_owned());
        let mut follower = Follower::new(&plan, &files).unwrap();
        let write = |token: &str, text: &str| {
            let directory = data.path().join(token);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("00000000000000000000.log"), text).unwrap();
        };
        write(std::str::from_utf8(&plan.tokens.list[1]).unwrap(), "one\n");
        write("ffffffff-ffff-4fff-bfff-ffffffffffff", "two\nthree");
        write("_journal", "four\n");
        follower.read_all().unwrap();
        assert_eq!(follower.reader.account.unknown, 2);
        assert_eq!(follower.close().unwrap().unknown, 3);
    }
}

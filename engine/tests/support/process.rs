//! The real binary as a child process: started on a free port, watched through its own log, ended by signals.
//!
//! Nothing here sleeps to wait for something: the helper waits for the thing itself, and fails with the engine's
//! stderr when it has not come before the deadline.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::oracle::Oracle;

/// How long anything may take: generous, because test machines are shared and nobody waits for it when all is well.
pub const DEADLINE: Duration = Duration::from_mins(1);
/// Between two looks at something that cannot be waited for, such as a file of another process.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The binary with these arguments, all of its streams captured.
pub fn engine(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command of the engine to its end. Its errors show no whole token.
pub fn finish(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert_shows_no_token("stderr", &String::from_utf8_lossy(&output.stderr));
    output
}

/// Whatever the engine says by itself, in its log, its metrics and its errors: no whole token is in it.
#[track_caller]
pub fn assert_shows_no_token(place: &str, text: &str) {
    let is_token = |bytes: &[u8]| {
        let fits = |(at, byte): (usize, &u8)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        bytes.iter().enumerate().all(fits)
    };
    assert!(!text.as_bytes().windows(36).any(is_token), "{place} shows a whole token:\n{text}");
}

/// A running `engine run`; killed when dropped.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    data: PathBuf,
    addr: SocketAddr,
    log: Arc<Log>,
    /// Ours to remove, if the caller has none. Dropped last: the directory outlives the process that writes to it.
    folder: Option<TempDir>,
}

impl Engine {
    /// Starts on a free port with a data directory of its own, and waits until it is ready. No admin endpoint, unless
    /// the arguments ask for one.
    pub fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = Self::start_in(&folder.path().join("data"), args);
        engine.folder = Some(folder);
        engine
    }

    /// The same with memory in small pages only: what is resident then is what was used, and not a huge page around it.
    pub fn start_with_small_pages(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = engine(&[]);
        command.env("MIMALLOC_ALLOW_THP", "0");
        let mut engine = Self::start_by(command, &folder.path().join("data"), args);
        engine.folder = Some(folder);
        engine
    }

    /// The same with a data directory that the caller owns.
    pub fn start_in(data: &Path, args: &[&str]) -> Self {
        Self::start_by(engine(&[]), data, args)
    }

    /// The same with a limit on descriptors, set by the program `prlimit`.
    pub fn start_with_descriptors(count: u32, data: &Path, args: &[&str]) -> Self {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={count}:{count}")).arg(env!("CARGO_BIN_EXE_engine"));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        Self::start_by(command, data, args)
    }

    /// The same with a command that runs the binary, and whose stderr is captured.
    pub fn start_by(mut command: Command, data: &Path, args: &[&str]) -> Self {
        command.args(["run", "--data"]).arg(data).args(args).stdout(Stdio::null());
        // A configuration file has its own listeners.
        if !args.contains(&"--config") {
            command.args(["--tcp", "127.0.0.1:0"]);
        }
        if !args.contains(&"--admin") {
            command.args(["--admin", "off"]);
        }
        let mut child = command.spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut engine = Self { child, data: data.to_owned(), addr: unknown, log, folder: None };
        let listening = engine.wait_for_line(|line| line.contains("listening") && has_field(line, "proto", "tcp"));
        engine.addr = field(&listening, "addr").unwrap().parse().unwrap();
        engine.wait_for_line(|line| subject(line) == "ready");
        engine
    }

    /// Where the TCP listener really is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the admin endpoint really is; the engine must have been started with one.
    pub fn admin(&self) -> SocketAddr {
        let listening = self.wait_for_line(|line| line.contains("listening") && has_field(line, "proto", "admin"));
        field(&listening, "addr").unwrap().parse().unwrap()
    }

    /// The number of the thread that has this name.
    pub fn thread(&self, name: &str) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().map(|task| task.unwrap());
        let is_it =
            |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap().trim() == name;
        let task = tasks.into_iter().find(is_it).unwrap_or_else(|| panic!("no thread {name}"));
        task.file_name().into_string().unwrap()
    }

    /// Where the UDP listener really is; it takes `--udp` to have one.
    pub fn udp_addr(&self) -> SocketAddr {
        let listening = self.wait_for_line(|line| line.contains("listening") && has_field(line, "proto", "udp"));
        field(&listening, "addr").unwrap().parse().unwrap()
    }

    /// Where the TLS listener really is; it takes `--tls` to have one.
    pub fn tls_addr(&self) -> SocketAddr {
        let listening = self.wait_for_line(|line| line.contains("listening") && has_field(line, "proto", "tls"));
        field(&listening, "addr").unwrap().parse().unwrap()
    }

    /// Memory that the process holds, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Descriptors that the process has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Processor time of all threads of the process.
    pub fn processor_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = tasks.map(|task| {
            let schedstat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A new connection; see [`connect`].
    pub fn connect(&self) -> TcpStream {
        connect(self.addr)
    }

    /// Asks for a drain.
    pub fn sigterm(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal to the process, which must not have ended.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.child.try_wait().unwrap().is_none(), "the engine has ended; it said:\n{}", self.log.text());
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, when the process has ended on its own.
    pub fn wait_exit(&mut self) -> i32 {
        // Its stderr ends with it, and that can be waited for with a deadline.
        assert!(self.log.wait_for_end(DEADLINE), "the engine does not end; it said:\n{}", self.log.text());
        self.child.wait().unwrap().code().unwrap_or_else(|| panic!("killed by a signal:\n{}", self.log.text()))
    }

    /// SIGTERM, exit 0, and the summary, whose counters must add up.
    pub fn stop(&mut self) -> Summary {
        self.sigterm();
        self.drained()
    }

    /// Waits for exit 0 of a drain already asked for; the summary's counters must add up.
    pub fn drained(&mut self) -> Summary {
        assert_eq!(self.wait_exit(), 0, "it said:\n{}", self.log.text());
        let summary = self.summary();
        assert_eq!(
            summary.get("lines") + summary.get("split_pieces"),
            summary.get("entries") + summary.rejected(),
            "lines are not conserved: {summary:?}"
        );
        summary
    }

    /// The counters of the last line on stderr.
    pub fn summary(&self) -> Summary {
        let line = self.log.lines().pop().unwrap_or_default();
        assert!(line.contains("drained"), "no summary at the end of:\n{}", self.log.text());
        Summary::parse(&line)
    }

    /// The first line of the engine's own log, past or to come, that has it.
    pub fn wait_for_line(&self, has_it: impl Fn(&str) -> bool) -> String {
        self.log.wait_for_line(DEADLINE, has_it).unwrap_or_else(|| {
            panic!("the line that a test waits for does not come; the engine said:\n{}", self.log.text())
        })
    }

    /// All that it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.log.text()
    }

    /// All bytes of a log, across its segments.
    pub fn log_bytes(&self, token: &str) -> Vec<u8> {
        log_bytes(&self.data, token)
    }

    /// The entries of a log.
    pub fn entries(&self, token: &str) -> Vec<Vec<u8>> {
        entries(&self.data, token)
    }

    /// Waits until the log holds exactly these bytes.
    pub fn wait_for_log(&self, token: &str, bytes: &[u8]) {
        let arrived = wait_until(|| self.log_bytes(token) == bytes);
        assert!(
            arrived,
            "the log holds {:?}; the engine said:\n{}",
            String::from_utf8_lossy(&self.log_bytes(token)),
            self.log.text()
        );
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Either may fail if the process has ended and been waited for: nothing is left to do then.
        drop(self.child.kill());
        drop(self.child.wait());
        // Every test is a test of this, too; one that has failed has said enough.
        if !std::thread::panicking() {
            assert!(self.log.wait_for_end(DEADLINE), "somebody else holds the stderr of an engine that has ended");
            assert_shows_no_token("the engine's log", &self.log.text());
        }
    }
}

/// A connection that sends each write as a segment of its own, and whose reads and writes fail at the deadline.
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, DEADLINE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Writes the pieces, ends the connection in order, and waits until the engine has closed its side too. The engine
/// must not have sent a byte. An error means that it closed first, as it does to other protocols.
pub fn send(mut stream: TcpStream, pieces: &[&[u8]]) -> io::Result<()> {
    for piece in pieces {
        stream.write_all(piece)?;
    }
    stream.shutdown(Shutdown::Write)?;
    read_to_end(&mut stream)
}

/// Waits until the engine has closed its side. It must not have sent a byte.
pub fn read_to_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    let read = stream.read(&mut byte)?;
    assert_eq!(read, 0, "the engine sent {byte:?} on a Token TCP connection");
    Ok(())
}

/// Looks until the condition holds; false at the deadline.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = now() + DEADLINE;
    while !holds() {
        if now() > deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    true
}

/// The time, for deadlines.
#[expect(clippy::disallowed_methods, reason = "tests measure real processes with the real clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// All bytes of `DATA/<token>/*.log` in the order of their bases, whose names must be what they hold.
pub fn log_bytes(data: &Path, token: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in segments(data, token) {
        let base: usize = segment.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(base, bytes.len(), "{}: a gap or an overlap before it", segment.display());
        bytes.extend(std::fs::read(&segment).unwrap());
    }
    bytes
}

/// The entries of a log: what is between the LFs, the last of which ends the log.
pub fn entries(data: &Path, token: &str) -> Vec<Vec<u8>> {
    let bytes = log_bytes(data, token);
    let Some(lines) = bytes.strip_suffix(b"\n") else {
        assert!(bytes.is_empty(), "{token}: the log does not end with an LF");
        return Vec::new();
    };
    lines.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// The segment files of a log, oldest first; none if there is no such log.
pub fn segments(data: &Path, token: &str) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(data.join(token)) else { return Vec::new() };
    let files = folder.map(|file| file.unwrap().path());
    let mut segments: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|end| end == "log")).collect();
    segments.sort();
    segments
}

/// The tokens that have a directory.
pub fn logs(data: &Path) -> Vec<String> {
    let names = std::fs::read_dir(data).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<String> = names.filter(|name| name.len() == 36 && !name.starts_with('_')).collect();
    logs.sort();
    logs
}

/// What is stored equals what the oracle says: the same logs, byte for byte.
#[track_caller]
pub fn assert_stored(data: &Path, oracle: &Oracle, name: &str) {
    let expected: Vec<&String> = oracle.entries.keys().collect();
    assert_eq!(logs(data).iter().collect::<Vec<_>>(), expected, "{name}: other logs than expected");
    for token in expected {
        let (stored, wanted) = (log_bytes(data, token), oracle.log_bytes(token));
        if stored != wanted {
            let at = stored.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
            let (stored_bytes, wanted_bytes) = (stored.len(), wanted.len());
            panic!("{name}: {token} differs at byte {at} ({stored_bytes} bytes stored, {wanted_bytes} wanted)");
        }
    }
}

/// The summary line: counters by name.
#[derive(Debug)]
pub struct Summary(BTreeMap<String, u64>);

impl Summary {
    fn parse(line: &str) -> Self {
        Self(fields(line).into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect())
    }

    /// A counter, which must be there, with or without `_total`. A reason that never occurred may be left out.
    #[track_caller]
    pub fn get(&self, name: &str) -> u64 {
        let total = format!("{name}_total");
        match self.0.get(name).or_else(|| self.0.get(&total)) {
            Some(count) => *count,
            None if name.starts_with("rejected.") => 0,
            None => panic!("no {name} in {self:?}"),
        }
    }

    /// Rejections of all reasons.
    pub fn rejected(&self) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with("rejected.")).map(|(_, count)| count).sum()
    }

    /// Every counter equals the oracle's.
    #[track_caller]
    pub fn assert_equals(&self, oracle: &Oracle, name: &str) {
        let counters = &oracle.counters;
        let ours = |reason: &str| (reason.to_owned(), self.get(reason));
        let expected = [
            ("lines", counters.lines()),
            ("entries", counters.entries),
            ("entry_bytes", oracle.entry_bytes()),
            ("split_lines", counters.split),
            ("split_pieces", counters.pieces),
            ("rejected.empty", counters.empty),
            ("rejected.keepalive", counters.keepalive),
            ("rejected.no_token", counters.no_token),
            ("rejected.unknown_token", counters.unknown_token),
            ("rejected.bad_frame", counters.bad_frame),
            ("rejected.http", counters.http),
            ("rejected.tls_on_plain", counters.tls_on_plain),
            ("rejected.cut", counters.cut),
        ];
        let counted: Vec<_> = expected.iter().map(|(counter, _)| ours(counter)).collect();
        let expected: Vec<_> = expected.iter().map(|(counter, count)| ((*counter).to_owned(), *count)).collect();
        assert_eq!(counted, expected, "{name}");
        assert_eq!(self.rejected(), counters.rejected(), "{name}: a reason that nobody expects: {self:?}");
    }
}

/// `key=value` of a log line, whose format may be JSON.
pub fn field(line: &str, key: &str) -> Option<String> {
    fields(line).into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
}

fn has_field(line: &str, key: &str, value: &str) -> bool {
    field(line, key).is_some_and(|found| found == value)
}

/// What a log line is about: its text between time and level, and the first pair.
fn subject(line: &str) -> String {
    if line.starts_with('{') {
        return field(line, "message").unwrap();
    }
    let words = line.split_whitespace().skip(2).take_while(|word| !word.contains('='));
    words.collect::<Vec<_>>().join(" ")
}

fn fields(line: &str) -> Vec<(String, String)> {
    if let Ok(Value::Object(object)) = serde_json::from_str(line) {
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return object.into_iter().map(|(key, value)| (key, text(value))).collect();
    }
    let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The engine's stderr, read by a thread that ends with it.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    fn follow(stderr: ChildStderr) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                writer.change(|state| state.lines.push(line));
            }
            writer.change(|state| state.ended = true);
        });
        log
    }

    fn change(&self, change: impl FnOnce(&mut LogState)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn lines(&self) -> Vec<String> {
        self.state.lock().unwrap().lines.clone()
    }

    fn text(&self) -> String {
        self.lines().join("\n")
    }

    fn wait_for_line(&self, deadline: Duration, has_it: impl Fn(&str) -> bool) -> Option<String> {
        let find = |state: &LogState| state.lines.iter().find(|line| has_it(line)).cloned();
        let state = self.state.lock().unwrap();
        let waits = |state: &mut LogState| !state.ended && find(state).is_none();
        let (state, _) = self.changed.wait_timeout_while(state, deadline, waits).unwrap();
        find(&state)
    }

    fn wait_for_end(&self, deadline: Duration) -> bool {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, deadline, |state| !state.ended).unwrap();
        state.ended
    }
}

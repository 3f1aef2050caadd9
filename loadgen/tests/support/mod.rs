//! A small receiver of Token TCP that stores entries as the engine does, and can be told to do one thing wrong; over TLS
//! and UDP as well.
//!
//! One thread a connection, one file a token (`DATA/<token>/00000000000000000000.log`), tokens at the start or the end of
//! the line or, between blanks, in its middle. It stores lines as whole as they came; what is behind the last LF is dropped.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::print_stderr, clippy::disallowed_methods, reason = "a helper says what it skips, and keeps time")]

pub(crate) mod engine;
pub(crate) mod tls;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What the receiver does wrong, once, in one of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Does not store an entry.
    Drop,
    /// Does not store any entry whose ordinal can be divided by this.
    DropEvery(usize),
    /// Stores an entry twice.
    Double,
    /// Stores an entry behind the next one of its log.
    Swap,
    /// Changes a byte of an entry.
    Garble,
    /// Stores an entry in another log of the run.
    Misfile,
    /// Stores an entry in a log of its own.
    Stray,
    /// Stops storing in the middle of an entry.
    Tear,
}

/// How the receiver ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// When the sender does.
    WithSender,
    /// After so many bytes, exactly: what its TCP has acknowledged is read and stored first.
    CutAfter(usize),
    /// After so many bytes, carelessly: what its TCP has acknowledged and nobody has read is gone.
    CloseAfter(usize),
    /// Half-closes at once and goes on reading.
    HalfClosed,
    /// When the sender does, having read nothing for [`STALL`] in the middle of every [`STALL_PERIOD`].
    Stalling,
    /// [`LATE`] after the sender, having read and stored all at once.
    Late,
    /// When the sender does; it stores all of it [`LATE`] after that.
    Collecting,
    /// When the sender does; what is stored are whole lines, token and all.
    WholeLines,
}

/// With this variable set to 1 a missing tool fails its test instead of skipping it.
const REQUIRE_TOOLS: &str = "ENGINE_TESTS_REQUIRE_TOOLS";
/// How long a stalling receiver stalls,
const STALL: Duration = Duration::from_millis(500);
/// how often,
const STALL_PERIOD: Duration = Duration::from_secs(5);
/// and how much of that is over by then.
const STALL_AFTER: Duration = Duration::from_secs(2);
/// How late a late receiver is.
pub(crate) const LATE: Duration = Duration::from_secs(3);
/// What the socket of a receiver of datagrams should hold.
const DATAGRAMS_BYTES: usize = 16 << 20;
/// What the socket of a stalling receiver may hold: little, so that the sender meets the stall.
const STALLING_BYTES: usize = 64 * 1024;
/// The sender's socket holds so many packets, so these must not be those of the loopback device.
const STALLING_MSS: u32 = 1448;

/// Names the calling test as skipped, or fails it where nothing may be skipped.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var_os(REQUIRE_TOOLS).is_none_or(|value| value != "1"), "{test}: {reason}");
    eprintln!("skipped: {test}: {reason}");
}

/// The line at which a connection does its wrong.
const FAULTY_LINE: usize = 1000;
const STRAY_TOKEN: &str = "ffffffff-ffff-4fff-bfff-ffffffffffff";
const TOKEN_BYTES: usize = 36;

/// A receiver that listens, until the test ends.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) data: tempfile::TempDir,
    /// Datagrams that it received.
    datagrams: Arc<AtomicU64>,
}

impl Receiver {
    /// Starts one. The first connection commits the fault; all end as told.
    pub(crate) fn start(fault: Fault, end: End) -> Self {
        Self::start_with(fault, end, None)
    }

    /// The same within TLS.
    pub(crate) fn start_tls(fault: Fault, end: End, tls: &Arc<rustls::ServerConfig>) -> Self {
        Self::start_with(fault, end, Some(Arc::clone(tls)))
    }

    fn start_with(fault: Fault, end: End, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if end == End::Stalling {
            let listener = socket2::SockRef::from(&listener);
            listener.set_recv_buffer_size(STALLING_BYTES).unwrap();
            listener.set_tcp_mss(STALLING_MSS).unwrap();
        }
        let started = Instant::now();
        let address = listener.local_addr().unwrap();
        let logs = Arc::new(Logs::new(data.path()));
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let fault = if index == 0 { fault } else { Fault::None };
                let mut connection = Connection::new(Arc::clone(&logs), fault, (started, end));
                let (stream, tls) = (stream.unwrap(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => connection.serve(&stream, &stream),
                    Some(tls) => {
                        let session = rustls::ServerConnection::new(tls).unwrap();
                        connection.serve(rustls::StreamOwned::new(session, &stream), &stream);
                    }
                });
            }
        });
        Self { address, data, datagrams: Arc::default() }
    }

    /// One that takes datagrams, for as long as the test lasts. The first peer's lines commit the fault.
    pub(crate) fn start_udp(fault: Fault) -> Self {
        let data = tempfile::tempdir().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // As much as the kernel allows: what is lost on the way is known, and says little about the account.
        socket2::SockRef::from(&socket).set_recv_buffer_size(DATAGRAMS_BYTES).unwrap();
        let datagrams = Arc::new(AtomicU64::new(0));
        let received = Arc::clone(&datagrams);
        let address = socket.local_addr().unwrap();
        let logs = Arc::new(Logs::new(data.path()));
        std::thread::spawn(move || {
            let mut peers: HashMap<SocketAddr, Connection> = HashMap::new();
            let mut datagram = vec![0; 65_536];
            loop {
                let (count, peer) = socket.recv_from(&mut datagram).unwrap();
                received.fetch_add(1, Ordering::Relaxed);
                let line_end = datagram[..count].iter().position(|byte| *byte == b'\n');
                assert_eq!(line_end, Some(count - 1), "a datagram is a line");
                let fault = if peers.is_empty() { fault } else { Fault::None };
                let new = || Connection::new(Arc::clone(&logs), fault, (Instant::now(), End::WithSender));
                peers.entry(peer).or_insert_with(new).take(&datagram[..count]);
            }
        });
        Self { address, data, datagrams }
    }

    /// How many datagrams it received so far.
    pub(crate) fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }
}

/// The run came to an exit code; or the report shows that the generator was late on its own account, as on a busy machine
/// it may be, and for nothing else it does not count.
pub(crate) fn assert_exit(code: i32, report: &Value, expected: i32) {
    let findings = report["findings"].as_array().unwrap().iter();
    let fatal: Vec<_> = findings.filter(|finding| finding["fatal"] == true).map(|finding| &finding["name"]).collect();
    for name in &fatal {
        let is_so = match name.as_str().unwrap() {
            "schedule_missed" => report["latency_ms"]["generator_delay"]["p99"].as_f64().unwrap() > 1.0,
            "rate_missed" => {
                let [achieved, asked] = [&report["achieved_rate"], &report["arguments"]["rate"]];
                achieved.as_f64().unwrap() < asked.as_f64().unwrap() * 0.999
            }
            _ => false,
        };
        assert!(is_so, "{name}: {report}");
    }
    assert_eq!(code, if fatal.is_empty() { expected } else { 6 }, "{report}");
    assert_eq!(report["valid"], fatal.is_empty(), "{report}");
}

struct Logs {
    data: PathBuf,
    files: Mutex<HashMap<String, File>>,
}

impl Logs {
    fn new(data: &Path) -> Self {
        Self { data: data.to_owned(), files: Mutex::new(HashMap::new()) }
    }

    fn append(&self, token: &str, bytes: &[u8]) {
        let mut files = self.files.lock().unwrap();
        let file = files.entry(token.to_owned()).or_insert_with(|| {
            let directory = self.data.join(token);
            fs::create_dir(&directory).unwrap();
            File::create(directory.join("00000000000000000000.log")).unwrap()
        });
        file.write_all(bytes).unwrap();
    }
}

struct Connection {
    logs: Arc<Logs>,
    fault: Fault,
    started: Instant,
    end: End,
    lines: usize,
    rest: Vec<u8>,
    held: Option<(String, Vec<u8>)>,
    first_token: Option<String>,
    is_torn: bool,
}

impl Connection {
    fn new(logs: Arc<Logs>, fault: Fault, (started, end): (Instant, End)) -> Self {
        Self { logs, fault, started, end, lines: 0, rest: Vec::new(), held: None, first_token: None, is_torn: false }
    }

    /// Reads lines from the stream, which comes over a socket.
    fn serve(&mut self, mut stream: impl Read, socket: &TcpStream) {
        let end = self.end;
        let mut buffer = vec![0; 16 * 1024];
        let mut received = 0;
        if end == End::HalfClosed {
            socket.shutdown(Shutdown::Write).unwrap();
        }
        // A reset ends it like an orderly end: this receiver drops the rest in any case.
        let mut collected = Vec::new();
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            received += count;
            if end == End::Collecting {
                collected.extend_from_slice(&buffer[..count]);
                continue;
            }
            self.take(&buffer[..count]);
            match end {
                End::CutAfter(bytes) if received >= bytes => cut(socket),
                End::CloseAfter(bytes) if received >= bytes => return,
                End::Stalling => self.stall(),
                _ => {}
            }
        }
        if end == End::Collecting {
            socket.shutdown(Shutdown::Write).unwrap();
        }
        if matches!(end, End::Late | End::Collecting) {
            std::thread::sleep(LATE);
        }
        self.take(&collected);
    }

    fn stall(&self) {
        let periods = self.started.elapsed().as_nanos() / STALL_PERIOD.as_nanos();
        let begin = STALL_PERIOD * u32::try_from(periods).unwrap() + STALL_AFTER;
        let now = self.started.elapsed();
        if now >= begin {
            std::thread::sleep((begin + STALL).saturating_sub(now));
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.rest);
        let mut lines = received.as_slice();
        while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
            let (token, mut entry) = split(&lines[..end]);
            if self.end == End::WholeLines {
                entry = lines[..end].to_vec();
            }
            self.store(token, entry);
            lines = &lines[end + 1..];
        }
        self.rest = lines.to_vec();
    }

    fn store(&mut self, token: String, mut entry: Vec<u8>) {
        self.lines += 1;
        let is_other = *self.first_token.get_or_insert_with(|| token.clone()) != token;
        entry.push(b'\n');
        if self.is_torn {
            return;
        }
        if let Some((_, late)) = self.held.take_if(|(held, _)| *held == token) {
            self.logs.append(&token, &entry);
            return self.logs.append(&token, &late);
        }
        match self.fault {
            Fault::DropEvery(nth) => {
                if !self.lines.is_multiple_of(nth) {
                    self.logs.append(&token, &entry);
                }
            }
            _ if self.lines != FAULTY_LINE => self.logs.append(&token, &entry),
            Fault::None => self.logs.append(&token, &entry),
            Fault::Drop => {}
            Fault::Double => self.logs.append(&token, &[entry.clone(), entry].concat()),
            Fault::Swap => self.held = Some((token, entry)),
            Fault::Garble => {
                entry[60] ^= 1;
                self.logs.append(&token, &entry);
            }
            Fault::Misfile => {
                assert!(is_other, "the faulty line must not be of the first log");
                self.logs.append(self.first_token.as_ref().unwrap(), &entry);
            }
            Fault::Stray => self.logs.append(STRAY_TOKEN, &entry),
            Fault::Tear => {
                self.is_torn = true;
                self.logs.append(&token, &entry[..entry.len() / 2]);
            }
        }
    }
}

/// From now on the kernel acknowledges nothing new, all that it had acknowledged can still be read, and the close resets:
/// a sender that waits on a closed window would not hear of it otherwise.
fn cut(stream: &TcpStream) {
    drop(stream.shutdown(Shutdown::Both));
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Token and entry of a line: by the dashes of the one, and the blanks around it.
fn split(line: &[u8]) -> (String, Vec<u8>) {
    let dashes = [8, 13, 18, 23];
    let is_token = |at: &usize| dashes.iter().all(|dash| line[at + dash] == b'-');
    let at = (0..=line.len() - TOKEN_BYTES).find(is_token).expect("every line of the sender has a token");
    let token = String::from_utf8(line[at..at + TOKEN_BYTES].to_vec()).unwrap();
    let (before, after) = (&line[..at], &line[at + TOKEN_BYTES..]);
    let entry = match after.strip_prefix(b" ") {
        Some(after) => [before, after].concat(),
        None => before.strip_suffix(b" ").expect("a blank before a token at the end").to_vec(),
    };
    (token, entry)
}

/// The exit code of a run with `--json`, which stderr explains in one line unless it is 0, and the report.
pub(crate) fn judged(output: &Output) -> (i32, Value) {
    let error = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {error}"));
    let code = output.status.code().unwrap();
    let says = match code {
        0 => "",
        1 => "loadgen: --fail-if: ",
        5 => "loadgen: account: ",
        _ => "loadgen: run: the figures don't count, ",
    };
    assert!(error.starts_with(says) && error.lines().count() == usize::from(code != 0), "{code}: {error}");
    (code, report)
}

//! Those who send during one life of an engine, each line known by its connection and number: plain, TLS and datagrams,
//! connections that last and such that come and go.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use rustls::ClientConfig;

use crate::load::{LOGS_LEN, Lines};
use crate::support::hostile::Random;
use crate::support::process::DEADLINE;
use crate::support::tls::Client;

/// All lines follow from this and from the numbers of their connections.
pub const SEED: u64 = 8;
/// Numbers from here on are those of sockets that send datagrams.
pub const DATAGRAMS: u64 = 1 << 40;
/// Connections over TCP that are open at a time, TLS included.
pub const CONNECTIONS: u64 = 5;

/// Lines that a lasting connection sends at a time, some 16 KB, and how long it rests then.
const BURST: (usize, Duration) = (20, Duration::from_millis(50));
/// Lines of a connection that comes and goes, at most.
const VISIT_LINES_MAX: usize = 200;
/// Between two of them, and between two datagrams.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to become of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// They send; whatever refuses is a defect.
    Running,
    /// The engine is killed at any moment: they send until it is gone.
    Killed,
    /// They end their connections in order.
    Ending,
    /// They leave at once.
    Over,
}

/// What was sent on a connection, or may have been.
#[derive(Debug)]
pub struct Sent {
    pub connection: u64,
    /// Lines to each log.
    pub lines: [u64; LOGS_LEN],
}

/// Where the clients of one life send to.
#[derive(Debug)]
pub struct Clients {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    pub udp: SocketAddr,
    pub trust: Arc<ClientConfig>,
    stage: AtomicU8,
    /// Number of the next connection.
    next: AtomicU64,
}

impl Clients {
    /// Clients whose connections are numbered from `first` on.
    pub fn new(plain: SocketAddr, tls: SocketAddr, udp: SocketAddr, trust: Arc<ClientConfig>, first: u64) -> Self {
        Self { plain, tls, udp, trust, stage: AtomicU8::new(Stage::Running as u8), next: AtomicU64::new(first) }
    }

    /// Starts all of them.
    pub fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Vec<ScopedJoinHandle<'scope, Vec<Sent>>> {
        vec![
            scope.spawn(|| vec![self.stay(false)]),
            scope.spawn(|| vec![self.stay(false)]),
            scope.spawn(|| vec![self.stay(true)]),
            scope.spawn(|| self.come_and_go(false)),
            scope.spawn(|| self.come_and_go(true)),
            scope.spawn(|| vec![self.datagrams()]),
        ]
    }

    /// Says what is to become of them.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::SeqCst);
    }

    /// The number that the next connection would have.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    fn is(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::SeqCst) == stage as u8
    }

    fn sends(&self) -> bool {
        self.is(Stage::Running) || self.is(Stage::Killed)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// A refusal is fine once the engine is being killed.
    fn is_gone(&self, tried: io::Result<()>) -> bool {
        let Err(error) = tried else { return false };
        assert!(!self.is(Stage::Running), "the engine refuses: {error}");
        true
    }

    /// One connection for as long as the engine lives.
    fn stay(&self, tls: bool) -> Sent {
        let connection = self.number();
        let mut lines = Lines::new(SEED, connection);
        let gone = self.is_gone(self.stay_with(&mut lines, tls));
        assert!(gone || !self.is(Stage::Killed), "a connection has ended before its engine was killed");
        Sent { connection, lines: lines.given() }
    }

    fn stay_with(&self, lines: &mut Lines, tls: bool) -> io::Result<()> {
        let mut stream = self.connect(tls)?;
        let (count, pause) = BURST;
        while self.sends() {
            stream.write_all(&lines.take(count))?;
            std::thread::sleep(pause);
        }
        stream.end()
    }

    /// Connection after connection, each with some lines, ended in order.
    fn come_and_go(&self, tls: bool) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut gone = false;
        while self.sends() && !gone {
            let connection = self.number();
            let mut lines = Lines::new(SEED, connection);
            let count = 1 + Random::new(connection).below(VISIT_LINES_MAX);
            let mut visit = || {
                let mut stream = self.connect(tls)?;
                stream.write_all(&lines.take(count))?;
                stream.end()
            };
            gone = self.is_gone(visit());
            sent.push(Sent { connection, lines: lines.given() });
            std::thread::sleep(count.try_into().map_or(PAUSE, |count: u32| PAUSE + count * Duration::from_millis(3)));
        }
        sent
    }

    fn datagrams(&self) -> Sent {
        let connection = DATAGRAMS + self.number();
        let mut lines = Lines::new(SEED, connection);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        while self.is(Stage::Running) {
            // One that cannot be sent is lost, as they may be.
            let _sent = socket.send_to(&lines.take(1), self.udp);
            std::thread::sleep(PAUSE);
        }
        Sent { connection, lines: lines.given() }
    }

    fn connect(&self, tls: bool) -> io::Result<Stream> {
        let stream = TcpStream::connect_timeout(if tls { &self.tls } else { &self.plain }, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Stream::open(stream, tls.then(|| Client::new(&self.trust, "localhost")))
    }
}

/// A connection, perhaps with TLS on it.
struct Stream {
    socket: TcpStream,
    tls: Option<Client>,
}

impl Stream {
    fn open(socket: TcpStream, tls: Option<Client>) -> io::Result<Self> {
        let mut stream = Self { socket, tls };
        let mut read = [0; 16_384];
        while let Some(client) = stream.tls.as_mut().filter(|client| client.connection.is_handshaking()) {
            stream.socket.write_all(&client.take())?;
            let count = stream.socket.read(&mut read)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            client.give(&read[..count]).map_err(io::Error::other)?;
        }
        if let Some(client) = &mut stream.tls {
            stream.socket.write_all(&client.take())?;
        }
        Ok(stream)
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(client) => self.socket.write_all(&client.seal(&[text])),
            None => self.socket.write_all(text),
        }
    }

    /// Says goodbye and waits until the engine has read everything.
    fn end(mut self) -> io::Result<()> {
        if let Some(client) = &mut self.tls {
            self.socket.write_all(&client.seal_end())?;
        }
        self.socket.shutdown(Shutdown::Write)?;
        let mut read = Vec::new();
        self.socket.read_to_end(&mut read)?;
        assert!(self.tls.is_some() || read.is_empty(), "the engine sent {read:?} on a Token TCP connection");
        Ok(())
    }
}

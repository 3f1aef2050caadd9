//! Lines that are known by their numbers: each can be made again from them, so each can be checked to the byte.
//!
//! `<token> <connection> <log> <number> <filler>.`: the filler follows from a seed and the numbers, and has NULs in it, runs of
//! them too, as a disk would leave them where it has written nothing.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::stored::Texts;
use crate::support::hostile::Random;
use crate::support::process::connect;

/// Logs that lines go to.
pub const LOGS: u64 = LOGS_LEN as u64;
/// The same, to count with.
pub const LOGS_LEN: usize = 6;
/// Connections that send them.
pub const CONNECTIONS: u64 = CONNECTIONS_LEN as u64;
/// The same, to count with.
pub const CONNECTIONS_LEN: usize = 4;
/// Lines that a connection sends at a time, some 16 KB.
const BURST_LINES: usize = 20;
/// Between two bursts: 4 MB/s in all.
const PAUSE: Duration = Duration::from_millis(15);

/// The token of a log.
pub fn token(log: u64) -> String {
    format!("2bfbea1e-0000-4000-8000-{log:012x}")
}

/// What is stored of the line with these numbers.
pub fn entry(seed: u64, connection: u64, log: u64, number: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ (connection << 56) ^ (log << 48) ^ (number << 16));
    let mut entry = format!("{connection} {log} {number} ").into_bytes();
    match random.below(40) {
        0 => letters(&mut random, 20_000, &mut entry),
        1 => entry.resize(entry.len() + random.below(10_000), 0),
        2..=9 => entry.resize(entry.len() + random.below(8), 0),
        _ => {}
    }
    letters(&mut random, 1200, &mut entry);
    entry.push(b'.');
    entry
}

fn letters(random: &mut Random, max: usize, into: &mut Vec<u8>) {
    let length = random.below(max);
    let bytes = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    into.extend(bytes.map(|byte| b'a' + byte % 26).take(length));
}

/// The lines of one connection, without end.
#[derive(Debug)]
pub struct Lines {
    seed: u64,
    connection: u64,
    random: Random,
    next: [u64; LOGS_LEN],
}

impl Lines {
    /// From the first one on.
    pub fn new(seed: u64, connection: u64) -> Self {
        Self { seed, connection, random: Random::new(seed ^ !connection), next: [0; LOGS_LEN] }
    }

    /// Which log the next line goes to, and what is stored of it. Every third goes to the first log.
    fn next(&mut self) -> (u64, Vec<u8>) {
        let log = if self.random.one_in(3) { 0 } else { self.random.next() % LOGS };
        let number = &mut self.next[usize::try_from(log).unwrap()];
        let entry = entry(self.seed, self.connection, log, *number);
        *number += 1;
        (log, entry)
    }

    /// How many lines each log was given so far.
    pub fn given(&self) -> [u64; LOGS_LEN] {
        self.next
    }

    /// The next lines as they are sent.
    pub fn take(&mut self, lines: usize) -> Vec<u8> {
        let line = |(log, entry): (u64, Vec<u8>)| [token(log).as_bytes(), b" ", &entry, b"\n"].concat();
        (0..lines).flat_map(|_| line(self.next())).collect()
    }

    /// Puts the next lines where they will be stored, if nobody else sends any.
    pub fn store(&mut self, lines: usize, texts: &mut Texts) {
        for _ in 0..lines {
            let (log, entry) = self.next();
            let text = texts.entry(token(log)).or_default();
            text.extend(entry);
            text.push(b'\n');
        }
    }

    /// Sends lines at a steady rate until the peer is gone.
    pub fn send_until_the_end(mut self, addr: SocketAddr) {
        let mut stream = connect(addr);
        while stream.write_all(&self.take(BURST_LINES)).is_ok() {
            std::thread::sleep(PAUSE);
        }
    }

    /// Sends so many lines as fast as the peer takes them.
    pub fn send(&mut self, mut stream: &TcpStream, lines: usize) -> io::Result<()> {
        (0..lines.div_ceil(BURST_LINES)).try_for_each(|_| stream.write_all(&self.take(BURST_LINES)))
    }
}

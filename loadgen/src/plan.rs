//! A run as validated: where to, how much, on which schedule, and which entry goes to which log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::payload::Lines;
use crate::tls::Tls;
use crate::tokens::{Random, Tokens};

/// Most connections of one run: ephemeral ports and the sender's memory (a batch for each) end not far beyond.
pub const CONNECTIONS_MAX: u32 = 10_000;
/// Most sending threads.
pub const THREADS_MAX: u32 = 256;
/// Most entries of one connection: the sequence on the wire has 32 bits.
pub const ENTRIES_PER_CONNECTION_MAX: u64 = 1 << 32;
/// Most pairs of connection and token of which an account keeps the order: 4 bytes each, a GiB.
pub const PAIRS_MAX: u64 = 1 << 28;

/// How long a receiver may make no progress, reading what it was sent and then storing it: others collect what they
/// store for some seconds.
pub const FINISH_WAIT: Duration = Duration::from_secs(10);

/// How to speak to the receiver.
#[derive(Clone, Debug)]
pub enum Proto {
    /// Lines over TCP.
    Tcp,
    /// The same within TLS.
    Tls(Tls),
    /// A line a datagram.
    Udp,
}

impl Proto {
    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls(_) => "tls",
            Self::Udp => "udp",
        }
    }
}

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the receiver reads: closed by back-pressure.
    Max,
    /// Entries per second over all connections, on a schedule that waits for nobody.
    PerSecond(u64),
}

/// How entries of a fixed rate are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// At even intervals, connections in turn.
    Uniform,
    /// Independently of each other, as the entries of many small senders are.
    Poisson,
}

/// When to stop sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// So long after the warm-up.
    After(Duration),
    /// After this many entries over all connections, those of the warm-up included.
    Entries(u64),
}

/// Where the receiver stores entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// `DIR/<token>/<base>.log`
    Data(PathBuf),
    /// One file a token: a path with `{token}` in it.
    Pattern(String),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The receiver.
    pub target: SocketAddr,
    /// How to speak to it.
    pub proto: Proto,
    /// How fast to send.
    pub rate: Rate,
    /// How a fixed rate is spread over time.
    pub arrival: Arrival,
    /// When to stop sending.
    pub stop: Stop,
    /// Entries that are due before this time count in the account and not in the latencies.
    pub warmup: Duration,
    /// Connections, 1 to [`CONNECTIONS_MAX`].
    pub connections: u32,
    /// Threads that send.
    pub threads: u32,
    /// A connection that the receiver ends is made again; over UDP, refused datagrams end nothing.
    pub reconnect: bool,
    /// Tokens of the logs, and which entry goes to which.
    pub tokens: Tokens,
    /// What lines look like.
    pub lines: Lines,
    /// Of tokens, text and arrivals.
    pub seed: u64,
    /// Tells this run's entries from those of earlier runs into the same logs.
    pub run: u16,
    /// When the receiver has read, acknowledged or stored nothing for so long, it is not waited for any more.
    pub finish_wait: Duration,
    /// Where the receiver stores, if the run is to be followed and accounted for.
    pub files: Option<Files>,
    /// The follower reads every so many-th log while the run lasts, the others after it.
    pub follow_sample: usize,
}

impl Plan {
    /// A run with the defaults of the command line.
    #[must_use]
    pub fn new(target: SocketAddr, tokens: Tokens) -> Self {
        Self {
            target,
            proto: Proto::Tcp,
            rate: Rate::Max,
            arrival: Arrival::Uniform,
            stop: Stop::After(Duration::from_secs(10)),
            warmup: Duration::ZERO,
            connections: 8,
            threads: 1,
            reconnect: false,
            tokens,
            lines: Lines::default(),
            seed: 0,
            run: fresh_run_id(),
            finish_wait: FINISH_WAIT,
            files: None,
            follow_sample: 1,
        }
    }

    /// Index of the token that a connection's entry carries.
    #[must_use]
    pub fn token_of(&self, connection: u32, sequence: u32) -> usize {
        self.tokens.of(connection, self.connections, sequence)
    }

    /// Whether a connection would have to number more entries than the wire has numbers for. A run at [`Rate::Max`]
    /// cannot know; its connections end after as many as there are numbers.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        let share = match (self.stop, self.rate) {
            (Stop::Entries(_), _) => self.share(0),
            (Stop::After(_), Rate::Max) => 0,
            (Stop::After(duration), Rate::PerSecond(rate)) => {
                let seconds = (self.warmup + duration).as_secs() + 1;
                rate.saturating_mul(seconds) / u64::from(self.connections)
            }
        };
        share > ENTRIES_PER_CONNECTION_MAX
    }

    /// How long the sending takes on the schedule; `None` without one. Of a given number at `poisson` arrivals, on average.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time, to the microsecond")]
    pub fn scheduled(&self) -> Option<Duration> {
        let Rate::PerSecond(rate) = self.rate else { return None };
        Some(match self.stop {
            Stop::After(duration) => self.warmup + duration,
            Stop::Entries(total) => Duration::from_secs_f64(total as f64 / rate as f64),
        })
    }

    /// The most entries that a connection may send: its share, or as many as there are numbers.
    #[must_use]
    pub fn entries_most(&self, connection: u32) -> u64 {
        self.share(connection).min(ENTRIES_PER_CONNECTION_MAX)
    }

    fn share(&self, connection: u32) -> u64 {
        let Stop::Entries(total) = self.stop else { return u64::MAX };
        let (each, more) = (total / u64::from(self.connections), total % u64::from(self.connections));
        each + u64::from(u64::from(connection) < more)
    }

    /// Whether nothing is promised of what was sent: then losses are reported, and no fault.
    #[must_use]
    pub fn is_lossy(&self) -> bool {
        matches!(self.proto, Proto::Udp)
    }

    /// Whether the account would have to remember more pairs of connection and token than it may.
    #[must_use]
    pub fn is_too_wide(&self) -> bool {
        let pairs = u64::from(self.connections) * self.tokens.list.len() as u64;
        self.files.is_some() && pairs > PAIRS_MAX
    }

    /// Whether entries are followed while they are sent. Not at [`Rate::Max`]: the follower would take the time that
    /// sender and receiver compete for.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.files.is_some() && self.rate != Rate::Max
    }
}

/// A number that tells one run from another. 16 bits: among a hundred runs into the same logs, two are alike in one of
/// a dozen cases, so an account is best kept in a fresh data directory.
#[must_use]
pub fn fresh_run_id() -> u16 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = u64::from(since_epoch.subsec_nanos()) ^ (since_epoch.as_secs() << 32) ^ u64::from(std::process::id());
    let [high, low, ..] = Random::new(seed).next_u64().to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::payload::{Position, Text};
    use crate::tokens::tokens_of_seed;

    pub(crate) fn plan(connections: u32, tokens: usize, size: usize) -> Plan {
        Plan {
            stop: Stop::Entries(10),
            connections,
            lines: Lines { size: size..=size, position: Position::Start, text: Text::Random },
            seed: 1,
            run: 0xab12,
            ..Plan::new(([127, 0, 0, 1], 1).into(), Tokens::in_turn(tokens_of_seed(1, tokens)))
        }
    }

    #[test]
    fn entries_are_shared_out_completely() {
        for total in [1, 7, 8, 9, 1000] {
            let plan = Plan { stop: Stop::Entries(total), ..plan(8, 1, 256) };
            assert_eq!((0..8).map(|connection| plan.entries_most(connection)).sum::<u64>(), total);
        }
    }

    #[test]
    fn a_schedule_has_a_length() {
        let timed =
            Plan { stop: Stop::After(Duration::from_secs(3)), warmup: Duration::from_secs(2), ..plan(8, 1, 256) };
        assert_eq!(timed.scheduled(), None);
        let timed = Plan { rate: Rate::PerSecond(5), ..timed };
        assert_eq!(timed.scheduled(), Some(Duration::from_secs(5)));
        assert_eq!(Plan { stop: Stop::Entries(10), ..timed }.scheduled(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn an_account_has_room_for_so_many_pairs() {
        let wide = Plan { connections: 10_000, files: Some(Files::Data(PathBuf::new())), ..plan(1, 26_844, 256) };
        assert_eq!((wide.is_too_wide(), Plan { files: None, ..wide.clone() }.is_too_wide()), (true, false));
        assert!(!Plan { connections: 9999, ..wide }.is_too_wide());
    }

    #[test]
    fn a_connection_has_no_more_entries_than_numbers() {
        let long = Plan { stop: Stop::Entries(5_000_000_000), ..plan(1, 1, 256) };
        assert!(long.is_too_long());
        assert!(!Plan { connections: 2, ..long }.is_too_long());
        let month = Stop::After(Duration::from_hours(720));
        assert!(Plan { rate: Rate::PerSecond(10_000), stop: month, ..plan(1, 1, 256) }.is_too_long());
        assert!(!Plan { stop: month, ..plan(1, 1, 256) }.is_too_long());
    }
}

//! A run as validated: where to, how much, on which schedule, and which entry goes to which log.
//!
//! Everything that sender and account must agree on is a function of the plan alone. A connection numbers its entries
//! from 0 and deals them out to the tokens in turn; connections begin at different tokens:
//!
//! ```text
//!  connection c:   sequence   0        1          2         …
//!                  token      first(c) first(c)+1 first(c)+2 …   modulo the number of tokens
//! ```
//!
//! So the entries of one connection in one log are a known arithmetic series, and any gap or step back shows.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::payload::Layout;

/// Most connections of one run: ephemeral ports and the sender's memory (a batch for each) end not far beyond.
pub const CONNECTIONS_MAX: i64 = 10_000;
/// Most tokens of one run: as many logs as the receiver takes by default.
pub const TOKENS_MAX: usize = 100_000;
/// Most entries of one connection: the sequence on the wire has 32 bits.
pub const ENTRIES_PER_CONNECTION_MAX: u64 = 1 << 32;

/// How long a receiver may take to read the rest: socket buffers of some MiB, a slow disk, and patience.
pub const FINISH_WAIT: Duration = Duration::from_secs(30);

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A token's text, lower case.
pub type Token = [u8; 36];

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As fast as the receiver reads: closed by back-pressure.
    Max,
    /// Entries per second over all connections, on a schedule that waits for nobody.
    PerSecond(u64),
}

/// When to stop sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After this time.
    After(Duration),
    /// After this many entries over all connections.
    Entries(u64),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The receiver.
    pub target: SocketAddr,
    /// How fast to send.
    pub rate: Rate,
    /// When to stop sending.
    pub stop: Stop,
    /// Connections, 1 to [`CONNECTIONS_MAX`].
    pub connections: u32,
    /// Tokens of the logs, each once; at least one.
    pub tokens: Vec<Token>,
    /// Where in a line everything stands.
    pub layout: Layout,
    /// Of tokens and text.
    pub seed: u64,
    /// Tells this run's entries from those of earlier runs into the same logs.
    pub run: u16,
    /// How long the receiver may take to read what it was sent, once the sending is over.
    pub finish_wait: Duration,
    /// The receiver's data directory, if the run is to be accounted for.
    pub data: Option<PathBuf>,
}

impl Plan {
    /// Index of the token that a connection's entry carries.
    #[must_use]
    pub fn token_of(&self, connection: u32, sequence: u32) -> usize {
        (self.first_token(connection) + sequence as usize) % self.tokens.len()
    }

    /// Index of the token that a connection begins with: connections are spread evenly over the tokens.
    #[must_use]
    pub fn first_token(&self, connection: u32) -> usize {
        connection as usize * self.tokens.len() / self.connections as usize
    }

    /// Whether a connection would have to number more entries than the wire has numbers for. A run at [`Rate::Max`]
    /// cannot know; its connections end after as many as there are numbers.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        let share = self.share_of(0);
        share > ENTRIES_PER_CONNECTION_MAX && share < u64::MAX
    }

    /// How many entries a connection is to send: its share, or what its schedule holds, or as many as it can.
    #[must_use]
    pub fn entries_of(&self, connection: u32) -> u64 {
        self.share_of(connection).min(ENTRIES_PER_CONNECTION_MAX)
    }

    fn share_of(&self, connection: u32) -> u64 {
        match (self.stop, self.rate) {
            (Stop::Entries(total), _) => {
                let (each, more) = (total / u64::from(self.connections), total % u64::from(self.connections));
                each + u64::from(u64::from(connection) < more)
            }
            (Stop::After(_), Rate::Max) => u64::MAX,
            (Stop::After(duration), Rate::PerSecond(_)) => self.entries_due(connection, duration),
        }
    }

    /// How many entries of a connection are due before `elapsed` has passed. At [`Rate::Max`] any number is.
    #[must_use]
    pub fn entries_due(&self, connection: u32, elapsed: Duration) -> u64 {
        let Rate::PerSecond(rate) = self.rate else { return u64::MAX };
        let due_of_all = (elapsed.as_nanos() * u128::from(rate)).div_ceil(NANOS_PER_SECOND);
        let due = due_of_all.saturating_sub(u128::from(connection)).div_ceil(u128::from(self.connections));
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// When an entry of a connection is due, counted from the start. Connections take turns on one common schedule.
    #[must_use]
    pub fn due_at(&self, connection: u32, sequence: u64) -> Duration {
        let Rate::PerSecond(rate) = self.rate else { return Duration::ZERO };
        let ordinal = u128::from(sequence) * u128::from(self.connections) + u128::from(connection);
        let nanos = ordinal * NANOS_PER_SECOND / u128::from(rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A seeded sequence of well mixed numbers (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
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

/// The first `count` tokens of a seed.
#[must_use]
pub fn tokens_of_seed(seed: u64, count: usize) -> Vec<Token> {
    let mut random = Random::new(seed);
    let random_token = |_| {
        let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        token_text(uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid())
    };
    (0..count).map(random_token).collect()
}

/// The tokens of a list: `TOKEN [NAME] [# comment]` a line, as the receiver reads it.
///
/// # Errors
///
/// The sentence that says which line is wrong.
pub fn tokens_of_list(content: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut known = HashSet::new();
    for (number, line) in (1..).zip(content.lines()) {
        let Some(word) = line.split('#').next().and_then(|entry| entry.split_whitespace().next()) else { continue };
        let token = parse_token(word).ok_or_else(|| format!("line {number}: not a UUID in the form 8-4-4-4-12"))?;
        if !known.insert(token) {
            return Err(format!("line {number}: a token for the second time; each may stand once"));
        }
        tokens.push(token);
    }
    match tokens.len() {
        1..=TOKENS_MAX => Ok(tokens),
        count => Err(format!("{count} tokens; 1 to {TOKENS_MAX} are possible")),
    }
}

/// A token in its usual form, either case; `None` for everything else.
#[must_use]
pub fn parse_token(word: &str) -> Option<Token> {
    (word.len() == 36).then(|| Uuid::try_parse(word).ok()).flatten().map(token_text)
}

fn token_text(uuid: Uuid) -> Token {
    let mut text = [0; 36];
    uuid.hyphenated().encode_lower(&mut text);
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::payload::Position;

    pub(crate) fn plan(connections: u32, tokens: usize, size: usize) -> Plan {
        Plan {
            target: ([127, 0, 0, 1], 1).into(),
            rate: Rate::Max,
            stop: Stop::Entries(10),
            connections,
            tokens: tokens_of_seed(1, tokens),
            layout: Layout::new(size, Position::Start),
            seed: 1,
            run: 0xab12,
            finish_wait: FINISH_WAIT,
            data: None,
        }
    }

    #[test]
    fn entries_are_shared_out_completely() {
        for total in [1, 7, 8, 9, 1000] {
            let plan = Plan { stop: Stop::Entries(total), ..plan(8, 1, 256) };
            assert_eq!((0..8).map(|connection| plan.entries_of(connection)).sum::<u64>(), total);
        }
    }

    #[test]
    fn an_entry_is_due_right_after_its_time() {
        let plan = Plan { rate: Rate::PerSecond(777), ..plan(3, 1, 256) };
        for connection in 0..3 {
            for sequence in 0..2000 {
                let at = plan.due_at(connection, sequence);
                assert!(plan.entries_due(connection, at) <= sequence + 1);
                assert_eq!(plan.entries_due(connection, at + Duration::from_nanos(1)), sequence + 1);
            }
        }
    }

    #[test]
    fn a_scheduled_run_holds_rate_times_duration() {
        let stop = Stop::After(Duration::from_secs(10));
        let plan = Plan { rate: Rate::PerSecond(1001), stop, ..plan(8, 1, 256) };
        assert_eq!((0..8).map(|connection| plan.entries_of(connection)).sum::<u64>(), 10_010);
    }

    #[test]
    fn tokens_of_a_seed_are_stable_and_different() {
        let tokens = tokens_of_seed(7, 1000);
        assert_eq!(tokens, tokens_of_seed(7, 1000));
        assert_eq!(tokens[..10], tokens_of_seed(7, 10));
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 1000);
        assert_ne!(tokens[0], tokens_of_seed(8, 1)[0]);
    }

    #[test]
    fn token_lists_are_read_as_the_receiver_does() {
        let list = "# all\n2BFBEA1E-10c3-4419-bdad-7e6435882e1f web # front\n\n00112233-4455-6677-8899-aabbccddeeff\n";
        let tokens = tokens_of_list(list).unwrap();
        assert_eq!(tokens[0], *b"2bfbea1e-10c3-4419-bdad-7e6435882e1f");
        assert_eq!(tokens.len(), 2);
        assert!(tokens_of_list("").unwrap_err().starts_with("0 tokens"));
        assert!(tokens_of_list("{2bfbea1e-10c3-4419-bdad-7e6435882e}").unwrap_err().starts_with("line 1"));
        let twice = "00112233-4455-6677-8899-aabbccddeeff\n00112233-4455-6677-8899-AABBCCDDEEFF\n";
        assert!(tokens_of_list(twice).unwrap_err().starts_with("line 2"));
    }
}

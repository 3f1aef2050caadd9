//! What was stored, against what was acknowledged: entry by entry, without I/O.
//!
//! A receiver owes every whole line among the bytes that its TCP acknowledged. For each socket of a connection:
//!
//! ```text
//!   sequence  first ─────────────────── acknowledged ─────────── sent ───►  first of the next socket
//!             │ each stored exactly once │ in flight: may be stored │
//! ```
//!
//! | count | of |
//! | --- | --- |
//! | stored | entries that stand somewhere, intact; the second copy of one does not count |
//! | lost | acknowledged and not stored |
//! | lost at a cut | of the lost: those behind which nothing of the same socket stands in their log. A receiver that was killed may lose such, a drained one may not |
//! | in flight | sent over a socket that did not acknowledge them before it ended; no fault |
//! | beyond | of those in flight: stored all the same |
//! | duplicated | copies beyond the first |
//! | reordered | stored behind a later entry of the same connection in the same log |
//! | damaged | naming this run, and not what it sent; the entry that it was is as a rule lost too |
//! | wrong log | copies that stand in the log of another token |
//!
//! So `sent = stored + lost + (in flight - beyond)`. Entries of other runs, and lines that nobody made here, are counted
//! apart and judged by nobody.
//!
//! Memory: a bit for each entry, and four bytes for each pair of connection and token, of which there may be
//! [`PAIRS_MAX`](crate::plan::PAIRS_MAX).
//!
//! | module | for |
//! | --- | --- |
//! | this one | takes entries, in the order in which each log holds them, while the run goes on or after it |
//! | [`settle`] | compares what was taken with what the sender says it sent |

pub mod settle;

use std::sync::Arc;

pub use settle::{Cut, Settled, Tally};

use crate::payload::{Parsed, parse};
use crate::plan::Plan;

/// The account of one run, open until every log is read.
#[derive(Debug)]
pub struct Account {
    plan: Arc<Plan>,
    connections: Vec<Seen>,
    /// What is wrong with each connection's entries; all other fields of a tally come with the settlement.
    by_connection: Vec<Tally>,
    /// The same by the log in which it was found.
    by_token: Vec<Tally>,
    /// Damaged entries that name this run and a connection that it does not have.
    damaged_elsewhere: u64,
    /// Different entries of this run.
    pub found: u64,
    /// Intact entries of other runs.
    pub other_runs: u64,
    /// Lines that no run made, or that are damaged beyond recognition.
    pub unknown: u64,
}

/// An entry of this run, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who sent it.
    pub connection: u32,
    /// Its ordinal there.
    pub sequence: u32,
    /// When it was meant to be sent, in microseconds since the start of the run.
    pub intended_micros: u64,
}

/// What was seen of one connection.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// A bit for each sequence that stands somewhere.
    bits: Vec<u64>,
    /// For each token, one more than the highest sequence that its log has shown; as long as the last token seen needs.
    /// The very last sequence counts as the one before it, which at most hides that these two changed places.
    next: Vec<u32>,
}

impl Account {
    /// An account in which everything is still missing.
    #[must_use]
    pub fn new(plan: &Arc<Plan>) -> Self {
        let connections = plan.connections as usize;
        Self {
            plan: Arc::clone(plan),
            connections: vec![Seen::default(); connections],
            by_connection: vec![Tally::default(); connections],
            by_token: vec![Tally::default(); plan.tokens.list.len()],
            damaged_elsewhere: 0,
            found: 0,
            other_runs: 0,
            unknown: 0,
        }
    }

    /// Takes the next entry of a log: the index of its token, or `None` if the run does not write to that log. Returns
    /// what it is if it is one of this run, seen for the first time.
    pub fn entry(&mut self, log: Option<usize>, entry: &[u8]) -> Option<Found> {
        match parse(entry) {
            Parsed::Unknown => self.unknown += 1,
            Parsed::Intact { run, .. } if run != self.plan.run => self.other_runs += 1,
            Parsed::Damaged { run, .. } if run != self.plan.run => self.unknown += 1,
            Parsed::Damaged { connection, .. } => self.damaged(log, connection),
            Parsed::Intact { connection, sequence, intended_micros, .. } => {
                if connection >= self.plan.connections {
                    self.damaged_elsewhere += 1;
                    return None;
                }
                let found = Found { connection, sequence, intended_micros };
                return self.stored(log, found).then_some(found);
            }
        }
        None
    }

    /// Takes what stands behind the last LF of a segment.
    pub fn torn(&mut self, log: Option<usize>, rest: &[u8]) {
        match parse(rest) {
            Parsed::Intact { run, connection, .. } | Parsed::Damaged { run, connection } if run == self.plan.run => {
                self.damaged(log, connection);
            }
            _ => self.unknown += 1,
        }
    }

    /// Notes an entry; `true` if it is seen for the first time.
    fn stored(&mut self, log: Option<usize>, found: Found) -> bool {
        let Found { connection, sequence, .. } = found;
        let token = self.plan.token_of(connection, sequence);
        let seen = &mut self.connections[connection as usize];
        let is_first = seen.mark(sequence);
        self.found += u64::from(is_first);
        let is_in_its_log = log == Some(token);
        let is_late = is_in_its_log && !seen.advance(token, sequence) && is_first;
        for tally in [Some(&mut self.by_connection[connection as usize]), log.map(|log| &mut self.by_token[log])] {
            let Some(tally) = tally else { continue };
            tally.duplicated += u64::from(!is_first);
            tally.wrong_log += u64::from(!is_in_its_log);
            tally.reordered += u64::from(is_late);
        }
        is_first
    }

    fn damaged(&mut self, log: Option<usize>, connection: u32) {
        match self.by_connection.get_mut(connection as usize) {
            Some(tally) => tally.damaged += 1,
            None => self.damaged_elsewhere += 1,
        }
        if let Some(log) = log {
            self.by_token[log].damaged += 1;
        }
    }
}

impl Seen {
    /// Marks a sequence as seen; `false` if it was before.
    fn mark(&mut self, sequence: u32) -> bool {
        let (word, bit) = (sequence as usize / 64, 1 << (sequence % 64));
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let is_first = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_first
    }

    fn has(&self, sequence: u64) -> bool {
        self.bits.get((sequence / 64) as usize).is_some_and(|word| word & (1 << (sequence % 64)) != 0)
    }

    /// How many sequences from `first` on and before `end` were seen.
    fn count(&self, first: u64, end: u64) -> u64 {
        let mut count = 0;
        let mut sequence = first;
        while sequence < end {
            let (word, within) = ((sequence / 64) as usize, sequence % 64);
            let Some(bits) = self.bits.get(word) else { break };
            let width = (end - sequence).min(64 - within);
            let mask = (u64::MAX >> (64 - width)) << within;
            count += u64::from((bits & mask).count_ones());
            sequence += width;
        }
        count
    }

    /// Moves on to a sequence in the log of a token; `false` if a later one stood there already.
    fn advance(&mut self, token: usize, sequence: u32) -> bool {
        if token >= self.next.len() {
            self.next.resize(token + 1, 0);
        }
        let next = &mut self.next[token];
        let is_later = sequence >= *next;
        if is_later {
            *next = sequence.saturating_add(1);
        }
        is_later
    }
}

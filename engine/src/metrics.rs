//! Counters: plain integers owned by a shard, added up in place, shown once at the end of a drain.
//!
//! Conservation: every rejected line adds one to `lines` and one to its reason; every other line one to `lines` and one
//! to `entries`; each further stored piece of a split line one to `entries` and `split_pieces`. So
//! `lines + split_pieces = entries + all rejected`.

use std::fmt;

use crate::wire::Reject;

/// What a shard did since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed at once, because their address had as many as it may.
    pub connections_refused: u64,
    /// Bytes received from all connections.
    pub received_bytes: u64,
    /// Lines that ended, or were cut by the end of their connection.
    pub lines: u64,
    /// Entries taken for storing.
    pub entries: u64,
    /// Bytes of those entries, LF included: what segments grow by.
    pub entry_bytes: u64,
    /// Lines longer than the limit.
    pub split_lines: u64,
    /// Stored pieces of such lines after the first.
    pub split_pieces: u64,
    /// Writes that completed, short ones too.
    pub batches: u64,
    rejected: [u64; Reject::ALL.len()],
}

impl Counters {
    /// Counts a line that stores nothing.
    pub fn reject(&mut self, reason: Reject) {
        self.lines += 1;
        self.rejected[reason as usize] += 1;
    }

    /// Counts rejections of lines that another shard counted as such.
    pub fn reject_counted(&mut self, reason: Reject, lines: u64) {
        self.rejected[reason as usize] += lines;
    }

    /// Adds what another shard did.
    pub fn add(&mut self, other: &Self) {
        let Self {
            connections,
            connections_refused,
            received_bytes,
            lines,
            entries,
            entry_bytes,
            split_lines,
            split_pieces,
            batches,
            rejected,
        } = other;
        self.connections += connections;
        self.connections_refused += connections_refused;
        self.received_bytes += received_bytes;
        self.lines += lines;
        self.entries += entries;
        self.entry_bytes += entry_bytes;
        self.split_lines += split_lines;
        self.split_pieces += split_pieces;
        self.batches += batches;
        for (count, more) in self.rejected.iter_mut().zip(rejected) {
            *count += more;
        }
    }

    /// Lines rejected for this reason.
    #[must_use]
    pub fn rejected(&self, reason: Reject) -> u64 {
        self.rejected[reason as usize]
    }
}

impl fmt::Display for Counters {
    /// `name=value` pairs in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections={} connections_refused={} received_bytes={} lines={} entries={} entry_bytes={} split_lines={} \
             split_pieces={} batches={}",
            self.connections,
            self.connections_refused,
            self.received_bytes,
            self.lines,
            self.entries,
            self.entry_bytes,
            self.split_lines,
            self.split_pieces,
            self.batches
        )?;
        for reason in Reject::ALL {
            write!(f, " rejected.{}={}", reason.name(), self.rejected(reason))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut counters = Counters::default();
        for reason in Reject::ALL {
            counters.reject(reason);
        }
        assert_eq!(counters.lines, Reject::ALL.len() as u64);
        let shown = counters.to_string();
        for reason in Reject::ALL {
            assert!(shown.contains(&format!("rejected.{}=1", reason.name())), "{shown}");
        }
    }
}

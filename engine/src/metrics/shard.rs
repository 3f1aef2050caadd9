//! What a shard counts: plain integers that it owns and adds up in place, copied out when somebody asks and shown once
//! at the end of a drain.
//!
//! Conservation: every rejected line adds one to `lines` and one to its reason; every other line one to `lines` and one
//! to `entries`; each further stored piece of a split line one to `entries` and `split_pieces`. So
//! `lines + split_pieces = entries + all rejected`.

use std::fmt;
use std::time::Duration;

use super::Histogram;
use crate::wire::Reject;

/// What a shard did since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Connections closed at once, because their address had as many as it may.
    pub connections_refused: u64,
    /// Times that accepting stopped because as many connections as may be were open.
    pub accept_pauses: u64,
    /// Bytes received, in connections and datagrams.
    pub received_bytes: u64,
    /// Those of them that came by UDP.
    pub udp_received_bytes: u64,
    /// Those of them that came by TLS, as they came: handshakes and records.
    pub tls_received_bytes: u64,
    /// Datagrams received.
    pub udp_datagrams: u64,
    /// Datagrams that the kernel dropped for want of room in a socket's buffer, as far as it has said.
    pub udp_kernel_drops: u64,
    /// Lines that ended, or were cut by the end of their connection.
    pub lines: u64,
    /// Those of them that came by UDP.
    pub udp_lines: u64,
    /// Those of them that came by TLS.
    pub tls_lines: u64,
    /// Entries taken for storing.
    pub entries: u64,
    /// Bytes of those entries, LF included: what segments grow by.
    pub entry_bytes: u64,
    /// Lines longer than the limit.
    pub split_lines: u64,
    /// Stored pieces of such lines after the first.
    pub split_pieces: u64,
    /// Rejected lines that are kept.
    pub kept_lines: u64,
    /// Writes that completed, short ones too.
    pub batches: u64,
    /// TLS connections that waited because as many handshakes as may be were in progress.
    pub tls_handshakes_waited: u64,
    /// TLS connections that ended with a damaged record or an alert, after their handshake.
    pub tls_broken: u64,
    /// TLS handshakes in which the client was known by its certificate.
    pub tls_clients_known: u64,
    tls_handshakes: [u64; HandshakeResult::ALL.len()],
    rejected: [u64; Reject::ALL.len()],
}

/// What became of a TLS handshake. Every connection that was taken by a TLS listener and has ended has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// Made, with certificates.
    Full,
    /// Made, with a ticket of an earlier one.
    Resumed,
    /// The two sides found nothing in common, or one of them refused the other, or it was no TLS.
    Failed,
    /// The peer ended the connection before.
    Left,
    /// It took longer than a handshake may, or its hello did.
    Timeout,
}

impl HandshakeResult {
    /// Every result, in the order of the summary line.
    pub const ALL: [Self; 5] = [Self::Full, Self::Resumed, Self::Failed, Self::Left, Self::Timeout];

    /// Its name in counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::Left => "left",
            Self::Timeout => "timeout",
        }
    }
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

    /// Counts a handshake.
    pub fn handshake(&mut self, result: HandshakeResult) {
        self.tls_handshakes[result as usize] += 1;
    }

    /// Handshakes that ended so.
    #[must_use]
    pub fn handshakes(&self, result: HandshakeResult) -> u64 {
        self.tls_handshakes[result as usize]
    }

    /// Adds what another shard did.
    pub fn add(&mut self, other: &Self) {
        let Self {
            connections,
            connections_refused,
            accept_pauses,
            received_bytes,
            udp_received_bytes,
            tls_received_bytes,
            udp_datagrams,
            udp_kernel_drops,
            lines,
            udp_lines,
            tls_lines,
            entries,
            entry_bytes,
            split_lines,
            split_pieces,
            kept_lines,
            batches,
            tls_handshakes_waited,
            tls_broken,
            tls_clients_known,
            tls_handshakes,
            rejected,
        } = other;
        self.connections += connections;
        self.connections_refused += connections_refused;
        self.accept_pauses += accept_pauses;
        self.received_bytes += received_bytes;
        self.udp_received_bytes += udp_received_bytes;
        self.tls_received_bytes += tls_received_bytes;
        self.udp_datagrams += udp_datagrams;
        self.udp_kernel_drops += udp_kernel_drops;
        self.lines += lines;
        self.udp_lines += udp_lines;
        self.tls_lines += tls_lines;
        self.entries += entries;
        self.entry_bytes += entry_bytes;
        self.split_lines += split_lines;
        self.split_pieces += split_pieces;
        self.kept_lines += kept_lines;
        self.batches += batches;
        self.tls_handshakes_waited += tls_handshakes_waited;
        self.tls_broken += tls_broken;
        self.tls_clients_known += tls_clients_known;
        for (count, more) in self.tls_handshakes.iter_mut().zip(tls_handshakes) {
            *count += more;
        }
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
            "connections={} connections_refused={} accept_pauses={} received_bytes={} lines={} entries={} entry_bytes={} split_lines={} \
             split_pieces={} batches={}",
            self.connections,
            self.connections_refused,
            self.accept_pauses,
            self.received_bytes,
            self.lines,
            self.entries,
            self.entry_bytes,
            self.split_lines,
            self.split_pieces,
            self.batches
        )?;
        write!(
            f,
            " udp_datagrams={} udp_received_bytes={} udp_lines={} udp_kernel_drops={}",
            self.udp_datagrams, self.udp_received_bytes, self.udp_lines, self.udp_kernel_drops
        )?;
        write!(f, " tls_received_bytes={} tls_lines={}", self.tls_received_bytes, self.tls_lines)?;
        for result in HandshakeResult::ALL {
            write!(f, " tls_handshakes.{}={}", result.name(), self.handshakes(result))?;
        }
        write!(
            f,
            " tls_handshakes_waited={} tls_clients_known={} tls_broken={}",
            self.tls_handshakes_waited, self.tls_clients_known, self.tls_broken
        )?;
        write!(f, " kept_lines={}", self.kept_lines)?;
        for reason in Reject::ALL {
            write!(f, " rejected.{}={}", reason.name(), self.rejected(reason))?;
        }
        Ok(())
    }
}

/// What a shard's connections did, by listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerCounters {
    /// Connections open now.
    pub open: u64,
    /// Connections taken since the start.
    pub accepted: u64,
    /// Connections closed at once, because their address had as many as it may.
    pub refused: u64,
    /// Accepts that failed; they are tried again.
    pub failed: u64,
}

/// Whether the shard takes input, as far as storage goes. In order of badness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageState {
    /// Storage works.
    #[default]
    Ok,
    /// Some logs cannot be opened for a reason of their own: their entries wait, all others are stored.
    Partial,
    /// Free space is below `--disk-free-min`: reading has stopped until there is room.
    Low,
    /// An operation failed: reading has stopped until storage works again.
    Refuses,
}

impl StorageState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Partial, Self::Low, Self::Refuses];

    /// The state's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Low => "low",
            Self::Refuses => "refuses",
        }
    }
}

/// What the driver knows of its own work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Processor time of the shard's thread since its start.
    pub busy: Duration,
    /// Time since the driver's start.
    pub wall: Duration,
    /// Turns that found completions which had not fitted the completion queue.
    pub ring_overflow: u64,
}

/// A shard as it is between two turns: the answer to `Command::Report`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number that the question had; later questions have higher ones.
    pub ticket: u64,
    /// What it did since its start.
    pub counters: Counters,
    /// What its connections did, in the order of its listeners.
    pub listeners: Vec<ListenerCounters>,
    /// From the turn that asked for a write to the turn that learned of its end.
    pub write_seconds: Histogram,
    /// From asked for to synced.
    pub sync_seconds: Histogram,
    /// Segments that were given up.
    pub segments_poisoned: u64,
    /// From the first entry of a batch to the end of its write: one sample per batch, the worst of its entries.
    pub entry_delay_seconds: Histogram,
    /// Time in which it took nothing in: budget used up, another shard behind, storage refusing, disk low.
    pub backpressure: Duration,
    /// Bytes received and not yet in a file.
    pub unwritten_bytes: u64,
    /// Logs that it owns.
    pub logs: u64,
    /// Logs that cannot be opened, whose entries wait.
    pub logs_refused: u64,
    /// Logs that have a segment.
    pub segments_active: u64,
    /// Segments that ended since the start.
    pub segments_sealed: u64,
    /// Segments open now.
    pub open_files: u64,
    /// Segments that had to be opened again before a write.
    pub file_cache_misses: u64,
    /// Whether storage works.
    pub storage: StorageState,
    /// Whether it is ending, or has ended.
    pub draining: bool,
    /// The driver's part; the driver fills it in.
    pub load: Load,
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

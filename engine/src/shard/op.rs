//! What a shard asks of its driver, and what it is told. No file descriptor, no clock, no system call appears here.

use core::net::{IpAddr, Ipv6Addr};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::buf::{RecvBuf, WriteBuf};
use crate::handover::{Message, ShardId};
use crate::metrics::Report;
use crate::route::{KnownTokens, LogId};
use crate::segment::journal::{SegmentNumber, journal_name};
use crate::segment::{FileId, IndexBlock, LogName, Offset, Position};
use crate::wire::Token;

/// A listener: an index into the driver's table, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// A connection: an index into the driver's table, its own until [`Completion::Closed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u32);

/// A UDP socket: an index into the driver's table, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpId(pub u32);

/// The IP address of a peer as IPv6; IPv4 in its mapped form, `::ffff:192.0.2.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress(pub [u8; 16]);

const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl PeerAddress {
    /// An IPv4 address.
    #[must_use]
    pub fn v4(address: [u8; 4]) -> Self {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&V4_MAPPED);
        bytes[12..].copy_from_slice(&address);
        Self(bytes)
    }

    /// What counts as one address: of IPv6 the first 64 bits, because whoever has one address there has all of them.
    pub(super) fn counted_as(self) -> Self {
        let Self(mut bytes) = self;
        if bytes[..12] != V4_MAPPED {
            bytes[8..].fill(0);
        }
        Self(bytes)
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ipv6Addr::from(self.0).to_canonical().fmt(f)
    }
}

impl From<IpAddr> for PeerAddress {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

/// A file of a shard's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalId {
    /// Whose journal it is.
    pub shard: ShardId,
    /// Which of its files.
    pub generation: u64,
}

impl JournalId {
    /// Its file name.
    #[must_use]
    pub fn name(self) -> String {
        journal_name(self.shard.0, self.generation)
    }
}

/// A connection that was just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Its number.
    pub id: ConnectionId,
    /// Who it is of; unknown if the peer has left again.
    pub from: Option<PeerAddress>,
}

/// How a connection is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownSide {
    /// We send nothing more: peers that watch for it close their side.
    Write,
    /// Nothing more is received, but what was can still be read, up to the end of stream.
    Both,
}

/// A request to the driver. Those marked *order* have no answer of their own: their effect shows in the answer of the
/// request that they concern. Every other one is answered exactly once, multishot ones until an answer says `more: false`.
#[derive(Debug)]
pub enum Op {
    /// Multishot: [`Completion::Accepted`].
    Accept(ListenerId),
    /// [`Completion::Accepted`] for one connection, with `more: false`.
    AcceptOne(ListenerId),
    /// Order: ends an [`Op::Accept`] or [`Op::AcceptOne`].
    CancelAccept(ListenerId),
    /// Order: the listener answers no new handshake from now on.
    RefuseNew(ListenerId),
    /// Multishot: [`Completion::Accepted`] for what is already in the accept queue, without waiting for more.
    AcceptRest(ListenerId),
    /// Order: closes a listener that no accept is waiting on.
    CloseListener(ListenerId),
    /// Multishot: [`Completion::Received`].
    Receive(ConnectionId),
    /// [`Completion::Received`], once: it takes one buffer and no more.
    ReceiveOnce(ConnectionId),
    /// Order: ends an [`Op::Receive`] or [`Op::ReceiveOnce`], if one is still in flight.
    CancelReceive(ConnectionId),
    /// Order: what the peer sends from now on never reaches TCP, so nothing more is received; what was received is still
    /// acknowledged.
    Deafen(ConnectionId),
    /// Order: the core is done with this receive buffer.
    Recycle(RecvBuf),
    /// [`Completion::Transmitted`]: sends the rest of `buf` on a connection. One at a time on each; never on a connection
    /// that speaks no TLS.
    Transmit {
        /// The connection.
        connection: ConnectionId,
        /// Moves to the driver, and back in the answer.
        buf: WriteBuf,
    },
    /// Multishot: [`Completion::Datagrams`].
    ReceiveDatagrams {
        /// The socket.
        socket: UdpId,
        /// Takes what is in the socket's buffer and ends with [`ReceivedDatagrams::Empty`], instead of waiting for more.
        rest: bool,
    },
    /// Order: the socket hears nothing new from now on; ends an [`Op::ReceiveDatagrams`], if one is in flight.
    DeafenUdp(UdpId),
    /// Order: the core is done with this buffer of datagrams.
    RecycleDatagrams(RecvBuf),
    /// Order: closes a UDP socket that no receive is waiting on.
    CloseUdp(UdpId),
    /// Order.
    Shutdown(ConnectionId, ShutdownSide),
    /// [`Completion::Closed`]; with `reset`, a peer that still sends or waits learns it at once.
    Close {
        /// A connection without a receive or a transmit in flight.
        connection: ConnectionId,
        /// Whether to end it by a reset.
        reset: bool,
    },
    /// [`Completion::Opened`]: creates a segment, its directory and its second name `current`.
    CreateSegment {
        /// For the answer.
        log: LogId,
        /// The log's name.
        name: LogName,
        /// Offset of its first byte.
        base: Offset,
        /// A poisoned segment has this name, and moves to the quarantine: its number in the journal.
        replaces: Option<SegmentNumber>,
    },
    /// [`Completion::Opened`]: opens an existing segment for writing.
    OpenSegment {
        /// For the answer.
        log: LogId,
        /// The log's name.
        name: LogName,
        /// Offset of its first byte.
        base: Offset,
        /// The length it must have.
        length: Position,
        /// Whether its index should know of all its bytes: what it lacks is made up for from the text, if that is little.
        indexed: bool,
    },
    /// Order: a block for the index of a segment, the next one of that segment. It may be lost: the index is a hint.
    Index {
        /// The log's name.
        name: LogName,
        /// What to note.
        block: IndexBlock,
    },
    /// [`Completion::Written`]: writes the rest of `buf` at `position`.
    Write {
        /// For the answer.
        log: LogId,
        /// The segment.
        file: FileId,
        /// Where the rest goes.
        position: Position,
        /// Moves to the driver, and back in the answer.
        buf: WriteBuf,
    },
    /// Order: a message for another shard.
    Send {
        /// The other shard.
        to: ShardId,
        /// Never refused: the shard keeps within the length of [the queue](crate::limits::handover_queue).
        message: Message,
    },
    /// [`Completion::JournalOpened`]: opens the file that recovery has begun for this shard.
    OpenJournal {
        /// The file.
        journal: JournalId,
        /// The length it must have.
        length: Position,
    },
    /// [`Completion::JournalOpened`]: makes a file, or empties what a try before left behind.
    CreateJournal(JournalId),
    /// [`Completion::JournalWritten`]: writes the rest of `buf` at `position`. One at a time.
    WriteJournal {
        /// The journal's file.
        file: FileId,
        /// Where the rest goes.
        position: Position,
        /// Moves to the driver, and back in the answer.
        buf: WriteBuf,
    },
    /// Order: of the shard's journal only this file and later ones stay.
    RemoveJournals(JournalId),
    /// [`Completion::Synced`]: brings what was written before to the disk. One at a time.
    Sync(Sync),
    /// Order: cuts a poisoned segment whose end is also in the next one. If that fails, recovery does it.
    CutSegment {
        /// The log.
        name: LogName,
        /// Offset of the segment's first byte.
        base: Offset,
        /// So much of it stays.
        length: Position,
    },
    /// Order: closes a segment or a journal that no write is in flight on.
    CloseSegment(FileId),
}

/// What is to be brought to the disk; moves to the driver, and back in the answer.
#[derive(Debug)]
pub struct Sync {
    /// Segments that were written.
    pub segments: Vec<(LogId, FileId)>,
    /// The journal that tells of it.
    pub journal: FileId,
    /// By one sync of the file system, names included; else each of these files for itself.
    pub whole: bool,
    /// The answer: segments whose own sync failed.
    pub failed: Vec<LogId>,
    /// The answer: whether the journal's did.
    pub journal_failed: bool,
}

impl Default for Sync {
    fn default() -> Self {
        let (segments, failed) = (Vec::new(), Vec::new());
        Self { segments, journal: FileId(0), whole: false, failed, journal_failed: false }
    }
}

/// What one receive ended with.
#[derive(Debug)]
pub enum Received {
    /// Bytes, in a buffer that goes back with [`Op::Recycle`].
    Data(RecvBuf),
    /// The peer ended the stream in order.
    End,
    /// Every buffer is taken: nothing was received, nothing is lost.
    NoBuffer,
    /// The receive was cancelled: the stream goes on.
    Cancelled,
    /// The stream ended out of order.
    Failed(io::Error),
}

impl Received {
    /// Bytes that it brings.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Data(buf) => buf.len(),
            Self::End | Self::NoBuffer | Self::Cancelled | Self::Failed(_) => 0,
        }
    }
}

/// Datagrams that came together, as the kernel may hand over several of one size.
#[derive(Debug)]
pub struct Datagrams {
    /// Their bytes, one after the other; goes back with [`Op::RecycleDatagrams`].
    pub buf: RecvBuf,
    /// Bytes of each of them; the last one may be shorter.
    pub each: usize,
    /// How many the kernel has dropped before them since the socket was made, for want of room; `None`: it did not say.
    pub drops: Option<u32>,
}

/// What one receive of datagrams ended with.
#[derive(Debug)]
pub enum ReceivedDatagrams {
    /// There were some.
    Data(Datagrams),
    /// What [`Op::ReceiveDatagrams`] with `rest` ends with: there are none. One that brought some may end so early.
    Empty,
    /// Every buffer is taken: nothing was received.
    NoBuffer,
    /// The receive was cancelled.
    Cancelled,
    /// Receiving failed.
    Failed(io::Error),
}

/// An answer of the driver.
#[derive(Debug)]
pub enum Completion {
    /// A connection, or why there is none.
    Accepted {
        /// The listener.
        listener: ListenerId,
        /// `WouldBlock` is the orderly end of [`Op::AcceptRest`].
        result: io::Result<Newcomer>,
        /// Whether the request goes on.
        more: bool,
    },
    /// An answer to [`Op::Receive`].
    Received {
        /// The connection.
        connection: ConnectionId,
        /// What came.
        received: Received,
        /// Whether the request goes on.
        more: bool,
    },
    /// An answer to [`Op::ReceiveDatagrams`].
    Datagrams {
        /// The socket.
        socket: UdpId,
        /// What came.
        received: ReceivedDatagrams,
        /// Whether the request goes on.
        more: bool,
    },
    /// How many bytes went out; fewer than given is not an error.
    Transmitted {
        /// The connection.
        connection: ConnectionId,
        /// The buffer of the request.
        buf: WriteBuf,
        /// Bytes sent.
        result: io::Result<usize>,
    },
    /// The connection's number may be used again.
    Closed(ConnectionId),
    /// A segment is open, or why not.
    Opened {
        /// The log.
        log: LogId,
        /// The open segment.
        result: io::Result<FileId>,
    },
    /// How many bytes reached the file; fewer than given is not an error.
    Written {
        /// The log.
        log: LogId,
        /// The buffer of the request.
        buf: WriteBuf,
        /// Bytes written.
        result: io::Result<usize>,
    },
    /// The journal's file is open, or why not.
    JournalOpened(io::Result<FileId>),
    /// How many bytes reached the journal; fewer than given is not an error.
    JournalWritten {
        /// The buffer of the request.
        buf: WriteBuf,
        /// Bytes written.
        result: io::Result<usize>,
    },
    /// What was written is on the disk, or the first error.
    Synced {
        /// The request, and what failed of it.
        sync: Sync,
        /// An error, unless all is well.
        result: io::Result<()>,
    },
    /// Another shard has sent something.
    Sent {
        /// The other shard.
        from: ShardId,
        /// What it sent.
        message: Message,
    },
    /// A message of the control side.
    Command(Command),
}

/// What the control side tells a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Finish what is under way and end; a second one cuts the drain short.
    Drain,
    /// Free space fell below `--disk-free-min` (true) or is back above it (false).
    DiskLow(bool),
    /// From now on only these tokens name logs. Every shard is told; lines that cross from one to another on the way are
    /// judged by the one that received them.
    Know(Arc<KnownTokens>),
    /// Every segment that has entries ends before the next entry of its log.
    Roll,
    /// [`Notice::Report`]: say how it stands.
    Report {
        /// For the answer.
        ticket: u64,
    },
    /// A setting is another one from now on.
    Change(Change),
    /// [`Notice::Recorded`], once the journal tells of it and is on the disk. For the shard that owns the log.
    Record(Removal),
}

/// A file of a sealed segment that is about to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// The log.
    pub token: Token,
    /// Offset of the segment's first byte.
    pub base: Offset,
    /// The segment stays, compressed, and this is its length; `None`: it is deleted.
    pub sealed: Option<Position>,
}

/// What the one is told who looks after sealed segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeeperMail {
    /// The log has a new segment behind another one.
    Rolled(Token),
    /// The record of this is on the disk.
    Recorded(Removal),
    /// The engine has ended.
    End,
}

/// A setting that a running shard can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// `--linger`, also for entries that linger already.
    Linger(Duration),
    /// `--drain-timeout`, for a drain that is still to come.
    DrainTimeout(Duration),
    /// `--handshakes-max`; those in progress go on.
    HandshakesMax(usize),
    /// `--udp-creates`
    UdpCreates(bool),
}

/// Something that the operator should hear of; the driver hands it to the log.
#[derive(Debug)]
pub enum Notice {
    /// The engine ended a connection: for what it sent, or because its address had as many as it may.
    Closed {
        /// Why.
        reason: &'static str,
        /// Connections like it since the last notice of its kind, this one included.
        seen: u64,
        /// Whose it was, if that is known: not of a proxy that has not said for whom.
        peer: Option<PeerAddress>,
    },
    /// TLS handshakes failed; `seen` counts them since the last such notice.
    HandshakeFailed {
        /// What the last one failed for.
        reason: String,
        /// Failures since the last notice, this one included.
        seen: u64,
    },
    /// TLS connections were ended for what came after their handshake; `seen` counts them since the last such notice.
    TlsBroken {
        /// What the last one was ended for.
        reason: String,
        /// Connections like it since the last notice, this one included.
        seen: u64,
    },
    /// More TLS clients have said hello than handshakes may be made at a time: they wait for their turn.
    HandshakesCrowded {
        /// Those that wait, and those that are not read meanwhile.
        waiting: usize,
    },
    /// Receiving datagrams failed and is tried again.
    UdpFailed(io::Error),
    /// As many connections as may be are open: newcomers wait until one ends.
    AcceptPaused {
        /// Times since the last such notice, this one included.
        seen: u64,
    },
    /// Accepting failed and is tried again.
    AcceptFailed(io::Error),
    /// A write or a creation failed: reading stops, everything is kept, one operation is retried.
    StorageRefused(io::Error),
    /// A log cannot be opened for a reason of its own: its entries wait, and it is retried.
    LogRefused {
        /// The log.
        name: LogName,
        /// Why.
        error: io::Error,
    },
    /// Storage works again.
    StorageResumed,
    /// A sync failed: the disk may have lost something.
    SyncFailed(io::Error),
    /// Nothing more is written to a segment, because a sync or a write of it failed.
    Poisoned {
        /// The log.
        name: LogName,
        /// Offset of the segment's first byte.
        base: Offset,
        /// From here …
        from: Position,
        /// … to here it may have lost what it held; nothing if both are the same.
        to: Position,
    },
    /// Reading stops until there is room, or goes on.
    DiskLow(bool),
    /// The answer to [`Command::Report`]: for the control side, not for the log.
    Report(Box<Report>),
    /// The answer to [`Command::Record`]: for the control side, not for the log.
    Recorded(Removal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_as_its_host_or_its_network() {
        let v6 = |last: [u8; 4]| {
            let mut bytes = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes[12..].copy_from_slice(&last);
            PeerAddress(bytes)
        };
        assert_eq!(v6([0, 0, 0, 1]).counted_as(), v6([9, 9, 9, 9]).counted_as());
        let mut neighbour = v6([0, 0, 0, 1]);
        neighbour.0[7] = 8;
        assert_ne!(v6([0, 0, 0, 1]).counted_as(), neighbour.counted_as());
        assert_ne!(PeerAddress::v4([192, 0, 2, 1]).counted_as(), PeerAddress::v4([192, 0, 2, 2]).counted_as());
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        assert_eq!(PeerAddress(mapped).counted_as(), PeerAddress::v4([192, 0, 2, 1]));
    }
}

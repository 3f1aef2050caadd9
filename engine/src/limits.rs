//! Every limit of the engine: unit, reason, and the relations between them, checked at compile time.
//!
//! What a flag sets has its default here; what no flag sets is a constant that the README's Limits table names.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// `--line-bytes-max`: bytes of one wire line, token included, CR LF not. The longest line seen of a maintained client
/// is 36 + prefix + 196,608 bytes (65,536 characters, converted to UTF-8 after the cut).
pub const LINE_BYTES_MAX_DEFAULT: u64 = 256 * KIB;
/// Smallest `--line-bytes-max`: a token and something to say.
pub const LINE_BYTES_MAX_MIN: u64 = 64;

/// `--buffer-bytes`: capacity of carries, staging and writes under way, a shard.
pub const BUFFER_BYTES_DEFAULT: u64 = 64 * MIB;
/// Smallest `--buffer-bytes`: below it batches are too small to be worth a write.
pub const BUFFER_BYTES_MIN: u64 = 4 * MIB;
/// `--line-bytes-max` is at most this part of `--buffer-bytes`, so that one line never fills the budget.
pub const LINE_PARTS_OF_BUFFER: u64 = 16;

/// `--segment-bytes`: a segment rolls before it grows past this.
pub const SEGMENT_BYTES_DEFAULT: u64 = 256 * MIB;
/// `--shards`: far more than any host of today has cores.
pub const SHARDS_MAX: u64 = 256;
/// `--tokens-max`: logs that open mode may have in all.
pub const TOKENS_MAX_DEFAULT: u64 = 100_000;
/// `--disk-free-min` is the smaller of this and `DISK_FREE_PERCENT_DEFAULT` of the disk.
pub const DISK_FREE_MIN_DEFAULT: u64 = GIB;
/// See [`DISK_FREE_MIN_DEFAULT`].
pub const DISK_FREE_PERCENT_DEFAULT: u64 = 5;

/// Least capacity of a staging buffer, in bytes: one small write costs 2-4 µs whatever it holds.
pub const STAGING_BYTES_MIN: usize = 4 * 1024;
/// The write target: a batch of this many bytes is due at once. 100 logs at 256 B: 1.8-2.1 M entries per core-second
/// when flushed each turn, 2.0-2.8 with 64 KiB batches, 3.3-3.7 with 256 KiB.
pub const STAGING_BYTES_MAX: usize = 256 * 1024;
/// Shortest time between two rolls of a log: `tail -F` lost segments at 2 ms, none at 20.
pub const ROLL_GAP: Duration = Duration::from_millis(100);
/// Longest `--linger`.
pub const LINGER_MAX: Duration = Duration::from_secs(10);
/// `--linger`: a busy log is written at most this often unless a batch fills.
pub const LINGER_DEFAULT: Duration = Duration::from_millis(5);
/// Writes in flight, a shard: enough to keep the kernel's workers busy; what waits goes on gathering.
pub const WRITES_IN_FLIGHT_MAX: usize = 64;
/// Batches up to this size are written by a plain call: through the ring each goes to a kernel worker. At 100,000 entries
/// a second to 1,000 logs (`loadgen run --rate 100k --tokens 1000`) 0.31 M entries per core-second against 0.20.
pub const INLINE_WRITE_BYTES_MAX: usize = 16 * 1024;
/// Files being opened or created at once, a shard.
pub const OPENS_IN_FLIGHT_MAX: usize = 64;
/// While storage refuses, one operation is tried this often.
pub const STORAGE_RETRY: Duration = Duration::from_millis(250);
/// How often free space is looked at.
pub const DISK_WATCH: Duration = Duration::from_millis(100);

/// Entries of a shard's submission queue; a full one is submitted early.
pub const SUBMISSION_ENTRIES: u32 = 4096;
/// Entries of its completion queue; the kernel keeps what overflows, at a cost.
pub const COMPLETION_ENTRIES: u32 = 16_384;

/// Usual capacity of a batch that one shard hands to another.
pub const HANDOVER_BATCH_BYTES: usize = 64 * 1024;
/// Batches from one shard to one other that have not come back; past it the sender stops reading.
pub const HANDOVER_BATCHES_MAX: usize = 256;
/// Messages that a queue between two shards holds: batches there, batches on their way back, and what one receive
/// buffer may add to them after the limit was reached.
pub const HANDOVER_QUEUE: usize = 4 * HANDOVER_BATCHES_MAX;

/// Receive buffers of a shard, all of one size: few enough that they stay in the second-level cache between the kernel's
/// copy and ours. M entries per core-second, medians of 3 interleaved runs at 256 B to 100 logs over 8 connections: 4.1
/// with 16 buffers, 4.4 with 32, 4.0 with 64, 3.8 with 256; slow talkers on 400 connections showed no difference.
pub const RECV_BUFFERS: u16 = 32;
/// Bytes of one receive buffer: 5.8-6.2 GB/s per core at 1,000 connections.
pub const RECV_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of a buffer for datagrams: the largest one (65,535 bytes of UDP, several in one if the kernel joins them), what
/// the kernel says about it, and the rest of a page.
pub const UDP_BUFFER_BYTES: usize = 68 * 1024;
/// Such buffers of a shard that has UDP sockets. A datagram takes a whole one, however small it is.
pub const UDP_BUFFERS: u16 = 64;
/// What the kernel is asked for as the receive buffer of a UDP socket, in bytes: 16 MiB hold some 20,000 datagrams of
/// 256 B, 40 ms of half a million a second. Without privileges it grants `net.core.rmem_max` at most.
pub const UDP_RECEIVE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// What datagrams are charged with at least of their share of a turn, in bytes of a connection: a receive costs about a
/// microsecond, whatever it brings (a guess from the sum of parts).
pub const DATAGRAM_COST_BYTES: usize = 2 * 1024;
/// The share of a turn that datagrams have at least, however little connections bring.
pub const UDP_TURN_BYTES_MIN: usize = 64 * 1024;
/// Reading stops when this many parts of `--buffer-bytes` are in use …
pub const BUDGET_PARTS: usize = 4;
/// … and goes on below this many; carries alone never hold more than one part.
pub const BUDGET_RESUME_PARTS: usize = 3;

/// `--connections-max` where the descriptor limit leaves more.
pub const CONNECTIONS_MAX_DEFAULT: u64 = 65_536;
/// Descriptors that are neither connections nor segments: ring, directory, lock, listeners, pipes.
pub const DESCRIPTORS_RESERVED: u64 = 64;
/// Descriptors of a shard: ring, eventfd, and a listener for each of two addresses; more of those come out of the reserve.
pub const DESCRIPTORS_PER_SHARD: u64 = 4;
/// Descriptors that the segments of a shard have at least.
pub const OPEN_FILES_MIN: u64 = 64;
/// Pending connections of a listener; the kernel caps it at net.core.somaxconn.
pub const BACKLOG: i32 = 4096;
/// After a refused accept (no descriptors, no memory) the next try waits this long.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// TCP keepalive: idle time, interval and count after which a dead peer's connection ends.
pub const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 6);
/// A busy port is tried for this long: a killed predecessor frees its ports late.
pub const BIND_RETRY: Duration = Duration::from_secs(5);

/// `--handshakes-max`: TLS handshakes that a shard makes at a time. Each costs some 10 KiB.
pub const HANDSHAKES_MAX_DEFAULT: u64 = 256;
/// A TLS handshake that takes longer ends its connection; so does a peer that takes longer to go after our last word.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a TLS connection that wait for the rest of a record, or of a handshake message: two of the largest records
/// (16 KiB and 2 KiB of overhead, RFC 5246), and a chain of client certificates longer than that is nobody's.
pub const TLS_CARRY_BYTES_MAX: usize = 64 * 1024;
/// Largest file with certificates or a key that is read.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = MIB;
/// How often certificate files are looked at for a change.
pub const CERTIFICATE_WATCH: Duration = Duration::from_secs(1);

/// `--drain-timeout`: how long peers may take to close before they are cut.
pub const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// From the moment that listeners refuse handshakes until those under way are in the accept queue.
pub const DRAIN_SETTLE: Duration = Duration::from_millis(10);
/// From the moment that connections are deaf until all that they received is acknowledged: the kernel delays an
/// acknowledgement by 200 ms at most (`TCP_DELACK_MAX`, include/net/tcp.h).
pub const ACKNOWLEDGE_SETTLE: Duration = Duration::from_millis(210);
/// A receive that has not ended this long after its connection was shut down is cancelled and asked again: the kernel can
/// lose the wake-up of a multishot receive when the stream's end comes on the heels of data.
pub const CUT_NUDGE: Duration = Duration::from_millis(100);
/// After the cut, accepting may fail this long with no connection left before a queue is given up, and said to be.
pub const QUEUE_ABANDON: Duration = Duration::from_secs(2);
/// Messages of the shards that wait to be written to the engine's own log; more are not said.
pub const NOTICES_MAX: usize = 64;
/// At most one log line per client's mistake or failed accept and this time.
pub const NOTICE_GAP: Duration = Duration::from_secs(1);

// While that many segments are being opened, none of them may be the one to close.
const _: () = assert!(OPENS_IN_FLIGHT_MAX as u64 <= OPEN_FILES_MIN);
const _: () = assert!(RECV_BUFFERS.is_power_of_two() && UDP_BUFFERS.is_power_of_two());
const _: () = assert!(BUDGET_RESUME_PARTS < BUDGET_PARTS);
const _: () = assert!(LINE_BYTES_MAX_DEFAULT * LINE_PARTS_OF_BUFFER <= BUFFER_BYTES_DEFAULT);
const _: () = assert!(LINE_BYTES_MAX_MIN * LINE_PARTS_OF_BUFFER <= BUFFER_BYTES_MIN);

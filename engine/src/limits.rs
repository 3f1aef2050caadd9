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
/// Largest: a line, and what becomes of it on its way, fits one buffer of the pool.
pub const LINE_BYTES_MAX_MAX: u64 = 16 * MIB;

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
/// `--tokens-per-second`: a second of it takes some 50 ms of a file thread (100 µs for a log, on ext4), so that made-up
/// tokens leave time for logs that exist.
pub const TOKENS_PER_SECOND_DEFAULT: u64 = 500;
/// Only past so many logs `--tokens-per-second` counts: the first start with many clients is not held up.
pub const TOKENS_UNPACED: usize = 10_000;
/// `--rejected-bytes-max`: rejected lines that are kept, of all reasons: enough to see what goes wrong.
pub const REJECTED_BYTES_MAX_DEFAULT: u64 = 256 * MIB;
/// `--disk-free-min` is the smaller of this and `DISK_FREE_PERCENT_DEFAULT` of the disk.
pub const DISK_FREE_MIN_DEFAULT: u64 = GIB;
/// See [`DISK_FREE_MIN_DEFAULT`].
pub const DISK_FREE_PERCENT_DEFAULT: u64 = 5;

/// Least capacity of a staging buffer, in bytes. Small, because many logs with little staged share the budget: 10,000 logs
/// at 256 B filled it at 4 KiB a log, so that batches of 3 entries went out; from 512 bytes on they grow to 21 (0.9 and
/// 1.8 M entries per core-second, medians of 3).
pub const STAGING_BYTES_MIN: usize = 512;
/// The write target: a batch of this many bytes is due at once. 100 logs at 256 B: 1.8-2.1 M entries per core-second
/// when flushed each turn, 2.0-2.8 with 64 KiB batches, 3.3-3.7 with 256 KiB.
pub const STAGING_BYTES_MAX: usize = 256 * 1024;
/// Shortest time between two rolls of a log: `tail -F` lost segments at 2 ms, none at 20.
pub const ROLL_GAP: Duration = Duration::from_millis(100);
/// `--segment-age`: a segment rolls with the first entry that comes this long after its own first.
pub const SEGMENT_AGE_DEFAULT: Duration = Duration::from_hours(24);
/// A block of a segment's index closes with the write that takes it to this many bytes …
pub const INDEX_BLOCK_BYTES: u64 = 64 * KIB;
/// … or before the first write whose entries came this long after its own first: as exact as `--since` is.
pub const INDEX_BLOCK_TIME: Duration = Duration::from_mins(1);
/// Closed blocks wait this long at most before they are written to the index of their segment.
pub const INDEX_FLUSH: Duration = Duration::from_secs(1);
/// Closed blocks of a shard that wait. What finds no place is made up for from the text, with the next one.
pub const INDEX_QUEUE: usize = 4096;
/// Bytes of a segment that are read again where its index lacks them, before it grows further; more are indexed when the
/// segment is sealed.
pub const INDEX_GAP_BYTES_MAX: u64 = MIB;
/// An index grows no longer and a longer one is not read: that of a segment of 128 GiB, so that it fits the memory.
pub const INDEX_BYTES_MAX: u64 = 64 * MIB;
/// `--compress-after`: sealed segments are compressed this long after their last write.
pub const COMPRESS_AFTER_DEFAULT: Duration = Duration::from_mins(10);
/// Sealed segments that could not be looked after, for want of room perhaps, are looked at again after this long.
pub const KEEP_RETRY: Duration = Duration::from_mins(1);
/// The time by which files are old is noted at least this often.
pub const NOTE_GAP: Duration = Duration::from_hours(1);
/// Bytes of entries in one frame of a compressed segment: what has to be decoded to read one of them.
pub const PACKED_FRAME_BYTES: u32 = 1024 * 1024;
/// `engine tail -n`: as coreutils' tail.
pub const TAIL_ENTRIES_DEFAULT: u64 = 10;
/// `engine tail -f` looks for more this often.
pub const TAIL_POLL: Duration = Duration::from_millis(100);
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
/// What is kept of a disk for the time when it is full: the journal and what is staged can then be written …
pub const RESERVE_BYTES: u64 = 64 * MIB;
/// … but no more than so many hundredths of it.
pub const RESERVE_PERCENT: u64 = 1;
/// With fewer free inodes, or less than a hundredth of them, the operator is told.
pub const INODES_LOW: u64 = 1000;

/// Records of the journal that wait, in bytes: with more nothing is started that adds another. Those of the writes under
/// way come on top.
pub const JOURNAL_GATHER_BYTES: usize = 64 * 1024;
/// A checkpoint is made after so many bytes of entries: what a recovery after a power cut may have to read, a shard …
pub const CHECKPOINT_BYTES: u64 = 256 * MIB;
/// … or after so long, if anything was written …
pub const CHECKPOINT_TIME: Duration = Duration::from_secs(30);
/// … or when the journal's file has this size: a million records of small batches.
pub const JOURNAL_BYTES_MAX: u64 = 64 * MIB;

/// `--sync-interval`: from the end of a sync to the beginning of the next, if anything was written.
pub const SYNC_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// Longest `--sync-interval`: it is what a power cut may cost.
pub const SYNC_INTERVAL_MAX: Duration = Duration::from_hours(1);
/// The same for `--sync batch`: what gathers meanwhile shares a sync. A slow disk makes the groups larger by itself.
pub const BATCH_SYNC_GAP: Duration = Duration::from_millis(2);
/// Up to so many files are synced one by one, more by one sync of the file system: 1,000 dirty files took 15-79 ms so, and
/// 0.5-4.3 s one by one.
pub const SYNCED_ONE_BY_ONE_MAX: usize = 32;

/// A recovery that finds no room on the disk is tried again this often.
pub const RECOVERY_RETRY: Duration = Duration::from_secs(1);
/// Threads that ask the disk for what recovery will look at, if the machine was started anew.
pub const RECOVERY_READERS: usize = 16;
/// So many logs ahead at most.
pub const READ_AHEAD_LOGS: usize = 256;

/// Entries of a shard's submission queue; a full one is submitted early. Both queues count against the user's memlock
/// limit. Four times as many of both took 536 KiB a shard instead of 140 and gained nothing: M entries per core-second at
/// 256 B to 100 logs, medians of 5 interleaved runs, on a machine that others used too: 8 connections 3.5 (here) and 3.0,
/// 1,000 connections 3.0 and 2.7; neither queue ever overflowed, not with 4,000 connections either.
pub const SUBMISSION_ENTRIES: u32 = 1024;
/// Entries of its completion queue; the kernel keeps what overflows, at a cost: `ring_overflow_total` counts it.
pub const COMPLETION_ENTRIES: u32 = 4096;

/// A ring that finds no memory is tried for this long: the kernel gives back that of a closed one late.
pub const RING_RETRY: Duration = Duration::from_secs(2);
/// How often meanwhile.
pub const RING_TRY: Duration = Duration::from_millis(10);

/// Usual capacity of a batch that one shard hands to another.
pub const HANDOVER_BATCH_BYTES: usize = 64 * 1024;
/// Batches from one shard to all others that have not come back, if those have equal shares: see
/// [`handover_batches_max`].
pub const HANDOVER_BATCHES_MAX: usize = 256;
/// However many shards there are, so many may be on their way to each.
pub const HANDOVER_BATCHES_MIN: usize = 64;
/// Messages that a queue between two shards holds for each of these batches: those there, those on their way back, and as
/// many again for what may be added to either after the limit was looked at: by one receive buffer a few, by a batch whose
/// lines go on whole, because they are rejected and kept, some 35.
pub const HANDOVER_QUEUE_PARTS: usize = 4;

/// Batches from one of so many shards to one other that have not come back; past it the sender stops reading. Queues are
/// as long, and there are as many of them as pairs of shards: with one length for all, 128 shards would need 1 GB for them.
#[must_use]
pub fn handover_batches_max(shards: u16) -> usize {
    let others = usize::from(shards).saturating_sub(1).max(1);
    (HANDOVER_BATCHES_MAX / others).max(HANDOVER_BATCHES_MIN)
}

/// Messages that a queue between two of so many shards holds.
#[must_use]
pub fn handover_queue(shards: u16) -> usize {
    HANDOVER_QUEUE_PARTS * handover_batches_max(shards)
}

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
/// In a turn in which others, who bring little, find no receive buffer, one connection may fill one of this many parts of
/// them …
pub const RECV_BUFFER_PARTS: usize = 4;
/// … and past it gets one buffer a turn for this long. 100 connections of 100 lines a second beside one that sends empty
/// lines at full speed, sent to visible, p99 on a busy machine: 0.4-2.4 s without it, 12-96 ms with it; without the flood
/// 7-34 ms. Where all bring much it only costs: 1 KiB over 8 connections ran 1.19 instead of 1.65 M entries per
/// core-second (medians of 10).
pub const RATION: Duration = Duration::from_secs(1);
/// Reading stops when this many parts of `--buffer-bytes` are in use …
pub const BUDGET_PARTS: usize = 4;
/// … and goes on below this many; carries alone never hold more than one part.
pub const BUDGET_RESUME_PARTS: usize = 3;

/// `--connections-max` where the descriptor limit leaves more.
pub const CONNECTIONS_MAX_DEFAULT: u64 = 65_536;
/// `--connections-per-ip-max`: none, because many clients may come through one address.
pub const CONNECTIONS_PER_IP_MAX_DEFAULT: u64 = 0;
/// Connections that the tables of a shard have room for from the start: a table that grew by doubling would hold copies of
/// itself. What is not used is address space and no memory.
pub const CONNECTION_SLOTS: usize = 65_536;
/// Descriptors that are neither connections nor segments nor a shard's: directory, lock, pipes, the admin endpoint.
pub const DESCRIPTORS_RESERVED: u64 = 64;
/// Descriptors of a shard: ring, eventfd, journal and the next one, the directory that is synced, and two that its file
/// thread opens for a moment, a directory and an index.
pub const DESCRIPTORS_PER_SHARD: u64 = 7;
/// Descriptors of a shard for each address that is listened on: the listener, and a connection that it may take past the
/// limit, because every listener of every shard may be taking one while a single place is left.
pub const DESCRIPTORS_PER_LISTENER: u64 = 2;
/// Descriptors that the segments of a shard have at least.
pub const OPEN_FILES_MIN: u64 = 64;
/// One of so many parts of the descriptors that are left is for segments too, unless `--connections-max` asks for them. A
/// connection too many is not served at all; too few segments cost time: with 512 descriptors, 200 logs in turn take half
/// as much again with 64 segments as with 160, and 10,000 logs the same with 64, 160 and 430.
pub const SEGMENT_PARTS: u64 = 4;
/// Pending connections of a listener; the kernel caps it at net.core.somaxconn.
/// A multishot accept takes all of them before the shard hears of the first: with fewer places left they are accepted one
/// by one, one a listener and turn.
pub const BACKLOG: u16 = 4096;
/// After a refused accept (no descriptors, no memory) the next try waits this long.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// TCP keepalive: idle time, interval and count after which a dead peer's connection ends.
pub const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(10), 6);
/// A busy port is tried for this long: a killed predecessor frees its ports late.
pub const BIND_RETRY: Duration = Duration::from_secs(5);
/// How often meanwhile.
pub const BIND_TRY: Duration = Duration::from_millis(100);

/// `--handshakes-max`: TLS handshakes that a shard makes at a time. Each costs some 10 KiB.
pub const HANDSHAKES_MAX_DEFAULT: u64 = 256;
/// A TLS handshake that takes longer ends its connection, and so does a hello; so does a PROXY header that takes longer from
/// its first byte, and a peer that takes longer to go after our last word.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// While others wait for their turn to make a TLS handshake, one that takes longer gives it up: far more than its two round
/// trips take. Each that does not go on has cost some 250 us then: 256 of them in this time are 1.6 % of a core.
pub const HANDSHAKE_TURN: Duration = Duration::from_secs(4);
/// So many hellos are asked for, and handshakes begun, in a turn of the shard: each handshake takes some 200 us, and others
/// wait meanwhile.
pub const HANDSHAKE_BATCH: usize = 16;
/// One of so many parts of what unfinished lines and records may hold is the most that hellos hold.
pub const HELLO_PARTS: usize = 2;
/// So many connections end at a time because their time is over: each takes some 30 us, and others wait meanwhile.
pub const EXPIRED_MAX: usize = 64;
/// So long after that the next ones do.
pub const EXPIRED_GAP: Duration = Duration::from_millis(16);
/// Bytes of a TLS connection that wait for the rest of a record, or of a handshake message: two of the largest records
/// (16 KiB and 2 KiB of overhead, RFC 5246), and a chain of client certificates longer than that is nobody's.
pub const TLS_CARRY_BYTES_MAX: usize = 64 * 1024;
/// Largest file with certificates or a key that is read.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = MIB;
/// Largest configuration file that is read.
pub const CONFIG_FILE_BYTES_MAX: u64 = MIB;
/// How often certificates and the token list are looked at for a change. One is read once two looks found the same.
pub const FILE_WATCH: Duration = Duration::from_secs(1);
/// Largest token list that is read: half a million lines with long names and comments.
pub const TOKENS_FILE_BYTES_MAX: u64 = 64 * MIB;

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
/// During a drain the engine says this often what it still waits for.
pub const DRAIN_PROGRESS: Duration = Duration::from_secs(2);
/// Messages of the shards that wait to be written to the engine's own log; more are only counted.
pub const NOTICES_MAX: usize = 64;
/// Lines of the engine's own log of one kind that are written in one `LOG_WINDOW`; more are counted and held back.
pub const LOG_LINES_PER_KIND: u64 = 10;
/// See [`LOG_LINES_PER_KIND`].
pub const LOG_WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart at a time: far more than the engine has; what comes beyond shares one limit.
pub const LOG_KINDS_MAX: usize = 64;

/// `--admin`: for this host only.
pub const ADMIN_ADDRESS_DEFAULT: &str = "127.0.0.1:9600";
/// Connections to the admin endpoint at a time; more wait in its accept queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 16;
/// A connection to the admin endpoint ends after this long, whatever it does: longer than any answer takes.
pub const ADMIN_CONNECTION_TIME: Duration = Duration::from_secs(15);
/// A shard that has not answered the admin endpoint for this long stands still. A turn may be throttled by the kernel for
/// some seconds when dirty pages are many; no turn is that long otherwise.
pub const SHARD_ANSWER: Duration = Duration::from_secs(5);
/// Shortest time over which `shard_busy_ratio` is measured.
pub const BUSY_WINDOW: Duration = Duration::from_secs(1);

/// At most one log line per client's mistake or failed accept and this time.
pub const NOTICE_GAP: Duration = Duration::from_secs(1);

// While that many segments are being opened, none of them may be the one to close.
const _: () = assert!(OPENS_IN_FLIGHT_MAX as u64 <= OPEN_FILES_MIN);
// The first to lose its turn may have others before it that lose theirs, for as long as a turn.
const _: () = assert!(2 * HANDSHAKE_TURN.as_secs() < HANDSHAKE_TIMEOUT.as_secs());
const _: () = assert!(SHARD_ANSWER.as_secs() < ADMIN_CONNECTION_TIME.as_secs());
// Ring, directory, lock, listeners and pipes need about half of what is reserved.
const _: () = assert!(2 * ADMIN_CONNECTIONS_MAX as u64 <= DESCRIPTORS_RESERVED);
const _: () = assert!(CONNECTION_SLOTS as u64 >= CONNECTIONS_MAX_DEFAULT);
// The pace counts below the default of what there may be in all.
const _: () = assert!((TOKENS_UNPACED as u64) < TOKENS_MAX_DEFAULT);
const _: () = assert!(RECV_BUFFERS.is_power_of_two() && UDP_BUFFERS.is_power_of_two());
const _: () = assert!(RECV_BUFFERS as usize / RECV_BUFFER_PARTS > 1);
const _: () = assert!(BUDGET_RESUME_PARTS < BUDGET_PARTS);
const _: () = assert!(RING_TRY.as_millis() < RING_RETRY.as_millis() && BIND_TRY.as_millis() < BIND_RETRY.as_millis());
const _: () = assert!(LINE_BYTES_MAX_DEFAULT * LINE_PARTS_OF_BUFFER <= BUFFER_BYTES_DEFAULT);
const _: () = assert!(LINE_BYTES_MAX_MIN * LINE_PARTS_OF_BUFFER <= BUFFER_BYTES_MIN);

//! Every limit of the engine: unit, reason, and the relations between them, checked at compile time.
//!
//! What a flag sets has its default here; what no flag sets is a constant that the README's Limits table names.

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
/// `--tokens-max`: logs that open mode may have in all.
pub const TOKENS_MAX_DEFAULT: u64 = 100_000;
/// `--disk-free-min` is the smaller of this and `DISK_FREE_PERCENT_DEFAULT` of the disk.
pub const DISK_FREE_MIN_DEFAULT: u64 = GIB;
/// See [`DISK_FREE_MIN_DEFAULT`].
pub const DISK_FREE_PERCENT_DEFAULT: u64 = 5;

const _: () = assert!(LINE_BYTES_MAX_DEFAULT * LINE_PARTS_OF_BUFFER <= BUFFER_BYTES_DEFAULT);
const _: () = assert!(LINE_BYTES_MAX_MIN * LINE_PARTS_OF_BUFFER <= BUFFER_BYTES_MIN);

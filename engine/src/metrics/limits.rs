//! The limits as they are in force, for those who watch from outside: what flags set, and the constants of `limits`.

use std::time::Duration;

use crate::limits;

/// A limit, named after its flag or its constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In lower case; a time's ends in `_seconds`.
    pub name: String,
    /// How much.
    pub amount: Amount,
}

/// How much of something there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes or things.
    Count(u64),
    /// A time.
    Time(Duration),
}

impl Limit {
    /// The limit of a flag or a constant.
    pub fn new(name: &str, amount: impl Into<Amount>) -> Self {
        let (name, amount) = (name.to_ascii_lowercase(), amount.into());
        let unit = if matches!(amount, Amount::Time(_)) { "_seconds" } else { "" };
        Self { name: name + unit, amount }
    }
}

impl From<Duration> for Amount {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

macro_rules! counts {
    ($($number:ty),*) => {$(
        impl From<$number> for Amount {
            fn from(count: $number) -> Self {
                Self::Count(u64::try_from(count).expect("no limit is negative"))
            }
        }
    )*};
}
counts!(u16, u32, u64, usize);

macro_rules! named {
    ($($name:ident)*) => { vec![$(Limit::new(stringify!($name), limits::$name)),*] };
}

/// Every constant that is not just a flag's default.
#[must_use]
pub fn constants() -> Vec<Limit> {
    let mut constants = named![
        LINE_BYTES_MAX_MIN LINE_BYTES_MAX_MAX BUFFER_BYTES_MIN LINE_PARTS_OF_BUFFER SHARDS_MAX LINGER_MAX
        STAGING_BYTES_MIN STAGING_BYTES_MAX ROLL_GAP WRITES_IN_FLIGHT_MAX INLINE_WRITE_BYTES_MAX OPENS_IN_FLIGHT_MAX
        INDEX_BLOCK_BYTES INDEX_BLOCK_TIME INDEX_FLUSH INDEX_QUEUE INDEX_GAP_BYTES_MAX INDEX_BYTES_MAX
        KEEP_RETRY NOTE_GAP PACKED_FRAME_BYTES TAIL_POLL
        STORAGE_RETRY DISK_WATCH RECOVERY_RETRY RECOVERY_READERS READ_AHEAD_LOGS RESERVE_BYTES RESERVE_PERCENT INODES_LOW
        JOURNAL_GATHER_BYTES JOURNAL_BYTES_MAX CHECKPOINT_BYTES CHECKPOINT_TIME
        SYNC_INTERVAL_MAX BATCH_SYNC_GAP SYNCED_ONE_BY_ONE_MAX
        SUBMISSION_ENTRIES COMPLETION_ENTRIES RING_RETRY RING_TRY
        HANDOVER_BATCH_BYTES HANDOVER_BATCHES_MAX HANDOVER_BATCHES_MIN HANDOVER_QUEUE_PARTS
        RECV_BUFFERS RECV_BUFFER_BYTES
        UDP_BUFFERS UDP_BUFFER_BYTES UDP_RECEIVE_BUFFER_BYTES UDP_TURN_BYTES_MIN DATAGRAM_COST_BYTES
        RECV_BUFFER_PARTS RATION TOKENS_UNPACED CONNECTION_SLOTS SEGMENT_PARTS
        BUDGET_PARTS BUDGET_RESUME_PARTS
        DESCRIPTORS_RESERVED DESCRIPTORS_PER_SHARD DESCRIPTORS_PER_LISTENER OPEN_FILES_MIN BACKLOG ACCEPT_RETRY
        BIND_RETRY BIND_TRY
        DRAIN_SETTLE ACKNOWLEDGE_SETTLE CUT_NUDGE QUEUE_ABANDON DRAIN_PROGRESS
        NOTICES_MAX LOG_LINES_PER_KIND LOG_WINDOW LOG_KINDS_MAX NOTICE_GAP
        HANDSHAKE_TIMEOUT HANDSHAKE_TURN HANDSHAKE_BATCH HELLO_PARTS EXPIRED_MAX EXPIRED_GAP
        TLS_CARRY_BYTES_MAX CERTIFICATE_FILE_BYTES_MAX TOKENS_FILE_BYTES_MAX FILE_WATCH
        CONFIG_FILE_BYTES_MAX
        ADMIN_CONNECTIONS_MAX ADMIN_CONNECTION_TIME SHARD_ANSWER BUSY_WINDOW
    ];
    let (idle, interval, probes) = limits::KEEPALIVE;
    constants.push(Limit::new("KEEPALIVE", idle));
    constants.push(Limit::new("KEEPALIVE_INTERVAL", interval));
    constants.push(Limit::new("KEEPALIVE_PROBES", probes));
    constants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constant_is_shown() {
        let source = include_str!("../limits.rs");
        let names = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
        let shown = constants();
        let is_shown = |name: &str| {
            let name = name.to_ascii_lowercase();
            shown.iter().any(|limit| limit.name == name || limit.name == format!("{name}_seconds"))
        };
        let hidden: Vec<_> = names.filter(|name| !name.ends_with("_DEFAULT") && !is_shown(name)).collect();
        assert!(hidden.is_empty(), "not shown: {hidden:?}");
    }

    #[test]
    fn a_time_is_in_seconds() {
        assert_eq!(Limit::new("ROLL_GAP", limits::ROLL_GAP).name, "roll_gap_seconds");
        assert_eq!(Limit::new("shards", 3_u16), Limit { name: "shards".to_owned(), amount: Amount::Count(3) });
    }
}

//! Every metric: name, type, unit and help text. The renderer takes them from here, the README lists them.
//!
//! A counter's samples add `_total` to its name, as OpenMetrics wants it; a unit is the end of the name.

/// What a metric's samples mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of times by upper bound.
    Histogram,
    /// Text in labels; its sample adds `_info`.
    Info,
    /// A counter that OpenMetrics does not let be one, because its name less `_total` is another metric's.
    Unknown,
}

impl Kind {
    /// The type's name in the text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
            Self::Unknown => "unknown",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Without `_total` and the like.
    pub name: &'static str,
    /// What its samples mean.
    pub kind: Kind,
    /// The unit, which is the end of the name; empty where a thing is counted.
    pub unit: &'static str,
    /// One sentence for people.
    pub help: &'static str,
}

const fn family(kind: Kind, name: &'static str, unit: &'static str, help: &'static str) -> Family {
    Family { name, kind, unit, help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    family(Kind::Counter, name, "", help)
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    family(Kind::Gauge, name, "", help)
}

/// `version`
pub const BUILD: Family = family(Kind::Info, "engine_build", "", "The engine's version.");
/// `listener`
pub const CONNECTIONS: Family = gauge("engine_connections", "Connections that are open now.");
/// `listener`, `result`. As a counter its name would be that of the gauge.
pub const CONNECTIONS_TOTAL: Family = family(
    Kind::Unknown,
    "engine_connections_total",
    "",
    "Connections taken (accepted), closed at once because their address had as many as it may (refused), and accepts that \
     failed and were tried again.",
);
/// No labels.
pub const ACCEPT_PAUSES: Family = counter(
    "engine_accept_pauses",
    "Times that a shard stopped accepting, because --connections-max were open, until one of them ended.",
);
/// `proto`
pub const RECEIVED_BYTES: Family = family(
    Kind::Counter,
    "engine_received_bytes",
    "bytes",
    "Bytes received, in connections (tcp; tls with what TLS adds) and datagrams (udp).",
);
/// `proto`
pub const LINES: Family = counter("engine_lines", "Lines that ended, or were cut by the end of their connection.");
/// `result`
pub const TLS_HANDSHAKES: Family = counter(
    "engine_tls_handshakes",
    "TLS handshakes: made with certificates (full) or with a ticket (resumed), refused by one side (failed), not finished by \
     the peer (left), or too slow, as is a hello that does not come (timeout).",
);
/// No labels.
pub const TLS_HANDSHAKES_WAITED: Family = counter(
    "engine_tls_handshakes_waited",
    "Connections that waited for their handshake, because --handshakes-max of them were in progress.",
);
/// No labels.
pub const TLS_CLIENTS_KNOWN: Family = counter(
    "engine_tls_clients_known",
    "TLS handshakes in which the client showed a certificate of --client-ca, or came with the ticket of such a one.",
);
/// No labels.
pub const TLS_BROKEN: Family = counter(
    "engine_tls_broken",
    "TLS connections that ended with a damaged record or an alert, after their handshake.",
);
/// No labels; only where TLS is spoken.
pub const TLS_CERTIFICATE_EXPIRY: Family = family(
    Kind::Gauge,
    "engine_tls_certificate_expiry_timestamp_seconds",
    "seconds",
    "When the first of the certificates in use expires, in Unix time; only with --tls.",
);
/// No labels.
pub const UDP_DATAGRAMS: Family = counter("engine_udp_datagrams", "Datagrams received.");
/// No labels.
pub const UDP_KERNEL_DROPS: Family =
    counter("engine_udp_kernel_drops", "Datagrams that the kernel dropped because a socket's buffer was full.");
/// No labels.
pub const ENTRIES: Family =
    counter("engine_entries", "Entries taken for storing, each further piece of a split line included.");
/// No labels.
pub const ENTRY_BYTES: Family = family(
    Kind::Counter,
    "engine_entry_bytes",
    "bytes",
    "Bytes of those entries with the LF of each: what segments grow by.",
);
/// `reason`
pub const REJECTED_LINES: Family = counter("engine_rejected_lines", "Lines that became no entry, by reason.");
/// No labels.
pub const REJECTED_KEPT_LINES: Family =
    counter("engine_rejected_kept_lines", "Those of them that --rejected keep has stored below _rejected.");
/// No labels.
pub const SPLIT_LINES: Family = counter("engine_split_lines", "Stored lines that were cut into pieces, or cut short.");
/// No labels.
pub const SPLIT_PIECES: Family = counter("engine_split_pieces", "Stored pieces of such lines after the first.");
/// `shard`
pub const BACKPRESSURE_SECONDS: Family = family(
    Kind::Counter,
    "engine_backpressure_seconds",
    "seconds",
    "Time in which the shard took nothing in: its memory used up, another shard behind, storage refusing, or the disk low.",
);
/// No labels.
pub const BATCHES: Family = counter("engine_batches", "Writes to segments that completed, short ones too.");
/// No labels.
pub const WRITE_SECONDS: Family = family(
    Kind::Histogram,
    "engine_write_seconds",
    "seconds",
    "From the turn of the shard that asked for a write to the turn that learned of its end.",
);
/// No labels.
pub const SYNC_SECONDS: Family = family(
    Kind::Histogram,
    "engine_sync_seconds",
    "seconds",
    "From the turn of the shard that asked for a sync to the turn that learned of its end.",
);
/// No labels.
pub const POISONED_SEGMENTS: Family = counter(
    "engine_poisoned_segments",
    "Segments that were given up because a sync or a write of them failed; their logs go on in new ones.",
);
/// No labels.
pub const ENTRY_DELAY_SECONDS: Family = family(
    Kind::Histogram,
    "engine_entry_delay_seconds",
    "seconds",
    "From received to written. One sample per batch: its first entry, which waited longest.",
);
/// `state`
pub const SEGMENTS: Family =
    gauge("engine_segments", "Segments: active (being appended to), sealed, and compressed ones.");
/// No labels.
pub const RETAINED_BYTES: Family = counter(
    "engine_retained_bytes",
    "Bytes on disk of the segments that --retain-bytes and --retain-age have deleted.",
);
/// No labels.
pub const OPEN_FILES: Family = gauge("engine_open_files", "Segments that are open now.");
/// No labels.
pub const FILE_CACHE_MISSES: Family =
    counter("engine_file_cache_misses", "Existing segments that had to be opened before they could be written.");
/// No labels.
pub const LOGS: Family = gauge("engine_logs", "Logs that the engine knows, also those whose first write is to come.");
/// No labels.
pub const LOGS_REFUSED: Family =
    gauge("engine_logs_refused", "Logs that cannot be opened for a reason of their own, so that their entries wait.");
/// No labels.
pub const DISK_FREE_BYTES: Family =
    family(Kind::Gauge, "engine_disk_free_bytes", "bytes", "Bytes that the engine can still write to its disk.");
/// No labels.
pub const DISK_FREE_INODES: Family = gauge("engine_disk_free_inodes", "Files that the engine can still make.");
/// `state`
pub const STORAGE_STATE: Family = gauge(
    "engine_storage_state",
    "1 for the state that storage is in: ok, partial (some logs are refused), low (below --disk-free-min, or its reserve spent) or refuses; 0 for the others.",
);
/// `shard`
pub const SHARD_BUSY_RATIO: Family = family(
    Kind::Gauge,
    "engine_shard_busy_ratio",
    "ratio",
    "Processor time of the shard's thread per time, since the scrape before (at least one second).",
);
/// `shard`
pub const RING_OVERFLOW: Family =
    counter("engine_ring_overflow", "Turns of the shard that found its completion queue overflown; nothing is lost.");

/// `result`
pub const CONFIG_RELOADS: Family = counter(
    "engine_config_reloads",
    "Reads again: of the configuration (SIGHUP), of each set of certificates and of the token list (SIGHUP, or a change of \
     the file): used (ok), or something was wrong and all stayed as it was (failed).",
);
/// `name`
pub const LIMIT: Family = gauge(
    "engine_limit",
    "A limit in force, named after its flag or its constant in lower case: bytes, things, or seconds where the name says so.",
);

/// Every metric, in the order of the text.
pub const ALL: &[Family] = &[
    BUILD,
    CONNECTIONS,
    CONNECTIONS_TOTAL,
    ACCEPT_PAUSES,
    RECEIVED_BYTES,
    LINES,
    TLS_HANDSHAKES,
    TLS_HANDSHAKES_WAITED,
    TLS_CLIENTS_KNOWN,
    TLS_BROKEN,
    TLS_CERTIFICATE_EXPIRY,
    UDP_DATAGRAMS,
    UDP_KERNEL_DROPS,
    ENTRIES,
    ENTRY_BYTES,
    REJECTED_LINES,
    REJECTED_KEPT_LINES,
    SPLIT_LINES,
    SPLIT_PIECES,
    BACKPRESSURE_SECONDS,
    BATCHES,
    WRITE_SECONDS,
    SYNC_SECONDS,
    POISONED_SEGMENTS,
    ENTRY_DELAY_SECONDS,
    SEGMENTS,
    RETAINED_BYTES,
    OPEN_FILES,
    FILE_CACHE_MISSES,
    LOGS,
    LOGS_REFUSED,
    DISK_FREE_BYTES,
    DISK_FREE_INODES,
    STORAGE_STATE,
    SHARD_BUSY_RATIO,
    RING_OVERFLOW,
    CONFIG_RELOADS,
    LIMIT,
];

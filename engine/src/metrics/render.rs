//! The text of `/metrics`: OpenMetrics 1.0.
//!
//! Counters are plain integers of the shards, copied into reports, and their names a table: so this writes text from
//! both, and no registry of shared counters is needed.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::names::{self, Family, Kind};
use super::{Amount, Counters, HandshakeResult, Histogram, Limit, ListenerCounters, Report, StorageState};
use crate::wire::Reject;

/// The content type that goes with the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A shard's report, and what was made of two of them.
#[derive(Clone, Copy, Debug)]
pub struct ShardView<'a> {
    /// The latest report.
    pub report: &'a Report,
    /// Share of the time in which it was busy.
    pub busy_ratio: f64,
}

/// What the control side knows of sealed segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Those that were there at the start and not compressed.
    pub added: u64,
    /// Those that were compressed or deleted since.
    pub removed: u64,
    /// Those that are compressed.
    pub packed: u64,
    /// Bytes on disk of those that were deleted.
    pub retired_bytes: u64,
}

/// All that the text says.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    /// Names of the listeners, in the order of the reports; none while the engine starts.
    pub listeners: &'a [String],
    /// Every shard; none while the engine starts.
    pub shards: Vec<ShardView<'a>>,
    /// What the control side knows of sealed segments.
    pub sealed: Sealed,
    /// When the first certificate expires, in Unix time; where TLS is spoken, and if it is known.
    pub certificate_expiry: Option<i64>,
    /// Free space, if it could be asked.
    pub disk_free_bytes: Option<u64>,
    /// Files that can still be made, if there is such a limit.
    pub disk_free_inodes: Option<u64>,
    /// How often the configuration was read again, and how often that failed.
    pub config_reloads: (u64, u64),
    /// The limits in force.
    pub limits: &'a [Limit],
}

impl Snapshot<'_> {
    fn sum(&self, part: impl Fn(&Report) -> u64) -> u64 {
        self.shards.iter().map(|shard| part(shard.report)).sum()
    }

    fn histogram(&self, part: impl Fn(&Report) -> &Histogram) -> Histogram {
        let mut sum = Histogram::default();
        self.shards.iter().for_each(|shard| sum.add(part(shard.report)));
        sum
    }

    fn storage(&self) -> StorageState {
        self.shards.iter().map(|shard| shard.report.storage).max().unwrap_or_default()
    }

    fn listener(&self, index: usize, part: impl Fn(&ListenerCounters) -> u64) -> u64 {
        self.sum(|report| report.listeners.get(index).map_or(0, &part))
    }
}

/// The text, `# EOF` included.
#[must_use]
pub fn render(snapshot: &Snapshot<'_>) -> String {
    let mut text = Text(String::new());
    text.family(&names::BUILD).sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    connections(&mut text, snapshot);
    lines(&mut text, snapshot);
    tls(&mut text, snapshot);
    shards(&mut text, snapshot);
    storage(&mut text, snapshot);
    let (ok, failed) = snapshot.config_reloads;
    let mut reloads = text.family(&names::CONFIG_RELOADS);
    reloads.sample(&[("result", "ok")], ok);
    reloads.sample(&[("result", "failed")], failed);
    limits(&mut text, snapshot);
    text.0.push_str("# EOF\n");
    text.0
}

fn connections(text: &mut Text, snapshot: &Snapshot<'_>) {
    let listeners = || snapshot.listeners.iter().enumerate();
    let mut samples = text.family(&names::CONNECTIONS);
    for (index, listener) in listeners() {
        samples.sample(&[("listener", listener)], snapshot.listener(index, |counters| counters.open));
    }
    let mut samples = text.family(&names::CONNECTIONS_TOTAL);
    for (index, listener) in listeners() {
        let accepted = snapshot.listener(index, |counters| counters.accepted);
        let refused = snapshot.listener(index, |counters| counters.refused);
        let failed = snapshot.listener(index, |counters| counters.failed);
        samples.sample(&[("listener", listener), ("result", "accepted")], accepted);
        samples.sample(&[("listener", listener), ("result", "refused")], refused);
        samples.sample(&[("listener", listener), ("result", "failed")], failed);
    }
    text.family(&names::ACCEPT_PAUSES).sample(&[], snapshot.sum(|report| report.counters.accept_pauses));
}

fn lines(text: &mut Text, snapshot: &Snapshot<'_>) {
    // Of all, by UDP, by TLS.
    let mut by_proto = |family, counts: fn(&Counters) -> [u64; 3]| {
        let [all, udp, tls] = [0, 1, 2].map(|index| snapshot.sum(|report| counts(&report.counters)[index]));
        let mut samples = text.family(family);
        samples.sample(&[("proto", "tcp")], all - udp - tls);
        samples.sample(&[("proto", "udp")], udp);
        samples.sample(&[("proto", "tls")], tls);
    };
    by_proto(&names::RECEIVED_BYTES, |counters| {
        [counters.received_bytes, counters.udp_received_bytes, counters.tls_received_bytes]
    });
    by_proto(&names::LINES, |counters| [counters.lines, counters.udp_lines, counters.tls_lines]);
    text.family(&names::UDP_DATAGRAMS).sample(&[], snapshot.sum(|report| report.counters.udp_datagrams));
    text.family(&names::UDP_KERNEL_DROPS).sample(&[], snapshot.sum(|report| report.counters.udp_kernel_drops));
    text.family(&names::ENTRIES).sample(&[], snapshot.sum(|report| report.counters.entries));
    text.family(&names::ENTRY_BYTES).sample(&[], snapshot.sum(|report| report.counters.entry_bytes));
    let mut samples = text.family(&names::REJECTED_LINES);
    for reason in Reject::ALL {
        samples.sample(&[("reason", reason.name())], snapshot.sum(|report| report.counters.rejected(reason)));
    }
    text.family(&names::REJECTED_KEPT_LINES).sample(&[], snapshot.sum(|report| report.counters.kept_lines));
    text.family(&names::SPLIT_LINES).sample(&[], snapshot.sum(|report| report.counters.split_lines));
    text.family(&names::SPLIT_PIECES).sample(&[], snapshot.sum(|report| report.counters.split_pieces));
}

fn tls(text: &mut Text, snapshot: &Snapshot<'_>) {
    let mut samples = text.family(&names::TLS_HANDSHAKES);
    for result in HandshakeResult::ALL {
        samples.sample(&[("result", result.name())], snapshot.sum(|report| report.counters.handshakes(result)));
    }
    text.family(&names::TLS_HANDSHAKES_WAITED)
        .sample(&[], snapshot.sum(|report| report.counters.tls_handshakes_waited));
    text.family(&names::TLS_CLIENTS_KNOWN).sample(&[], snapshot.sum(|report| report.counters.tls_clients_known));
    text.family(&names::TLS_BROKEN).sample(&[], snapshot.sum(|report| report.counters.tls_broken));
    // A time before 1970 is as good as that one.
    if let Some(expiry) = snapshot.certificate_expiry {
        text.family(&names::TLS_CERTIFICATE_EXPIRY).sample(&[], u64::try_from(expiry).unwrap_or(0));
    }
}

fn shards(text: &mut Text, snapshot: &Snapshot<'_>) {
    let by_shard = |samples: &mut Samples<'_>, value: &dyn Fn(&ShardView<'_>) -> Value| {
        for (index, shard) in snapshot.shards.iter().enumerate() {
            samples.sample(&[("shard", &index.to_string())], value(shard));
        }
    };
    by_shard(&mut text.family(&names::BACKPRESSURE_SECONDS), &|shard| shard.report.backpressure.into());
    by_shard(&mut text.family(&names::SHARD_BUSY_RATIO), &|shard| Value::Real(shard.busy_ratio));
    by_shard(&mut text.family(&names::RING_OVERFLOW), &|shard| shard.report.load.ring_overflow.into());
}

fn storage(text: &mut Text, snapshot: &Snapshot<'_>) {
    text.family(&names::BATCHES).sample(&[], snapshot.sum(|report| report.counters.batches));
    text.family(&names::WRITE_SECONDS).histogram(&snapshot.histogram(|report| &report.write_seconds));
    text.family(&names::SYNC_SECONDS).histogram(&snapshot.histogram(|report| &report.sync_seconds));
    text.family(&names::POISONED_SEGMENTS).sample(&[], snapshot.sum(|report| report.segments_poisoned));
    text.family(&names::ENTRY_DELAY_SECONDS).histogram(&snapshot.histogram(|report| &report.entry_delay_seconds));
    // The shards may have answered before the control side did something with what they sealed since.
    let sealed = snapshot.sealed.added + snapshot.sum(|report| report.segments_sealed);
    let sealed = sealed.saturating_sub(snapshot.sealed.removed);
    let mut samples = text.family(&names::SEGMENTS);
    samples.sample(&[("state", "active")], snapshot.sum(|report| report.segments_active));
    samples.sample(&[("state", "sealed")], sealed);
    samples.sample(&[("state", "compressed")], snapshot.sealed.packed);
    text.family(&names::RETAINED_BYTES).sample(&[], snapshot.sealed.retired_bytes);
    text.family(&names::OPEN_FILES).sample(&[], snapshot.sum(|report| report.open_files));
    text.family(&names::FILE_CACHE_MISSES).sample(&[], snapshot.sum(|report| report.file_cache_misses));
    text.family(&names::LOGS).sample(&[], snapshot.sum(|report| report.logs));
    text.family(&names::LOGS_REFUSED).sample(&[], snapshot.sum(|report| report.logs_refused));
    if let Some(bytes) = snapshot.disk_free_bytes {
        text.family(&names::DISK_FREE_BYTES).sample(&[], bytes);
    }
    if let Some(inodes) = snapshot.disk_free_inodes {
        text.family(&names::DISK_FREE_INODES).sample(&[], inodes);
    }
    let mut samples = text.family(&names::STORAGE_STATE);
    for state in StorageState::ALL {
        samples.sample(&[("state", state.name())], u64::from(state == snapshot.storage()));
    }
}

fn limits(text: &mut Text, snapshot: &Snapshot<'_>) {
    let mut samples = text.family(&names::LIMIT);
    for Limit { name, amount } in snapshot.limits {
        let value = match *amount {
            Amount::Count(count) => count.into(),
            Amount::Time(time) => Value::from(time),
        };
        samples.sample(&[("name", name)], value);
    }
}

/// A sample's number.
#[derive(Clone, Copy, Debug)]
enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Real(value.as_secs_f64())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) => write!(f, "{value:?}"),
        }
    }
}

struct Text(String);

/// The samples of one metric.
struct Samples<'a> {
    text: &'a mut String,
    family: &'a Family,
}

impl Text {
    /// Opens a metric: its metadata stand before its samples, and nothing of another metric between them.
    fn family<'a>(&'a mut self, family: &'a Family) -> Samples<'a> {
        let Family { name, kind, unit, help } = family;
        self.line(format_args!("# TYPE {name} {}", kind.name()));
        if !unit.is_empty() {
            self.line(format_args!("# UNIT {name} {unit}"));
        }
        self.line(format_args!("# HELP {name} {help}"));
        Samples { text: &mut self.0, family }
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        write(&mut self.0, format_args!("{line}\n"));
    }
}

impl Samples<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let end = match self.family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram | Kind::Unknown => "",
        };
        self.line(end, labels, value.into());
    }

    fn histogram(&mut self, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| format!("{:?}", bound.as_secs_f64()));
            self.line("_bucket", &[("le", &bound)], count.into());
        }
        self.line("_count", &[], histogram.count().into());
        self.line("_sum", &[], histogram.sum().into());
    }

    fn line(&mut self, end: &str, labels: &[(&str, &str)], value: Value) {
        write(self.text, format_args!("{}{end}", self.family.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write(self.text, format_args!("{before}{label}=\"{}\"", escaped(text)));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        write(self.text, format_args!("{after} {value}\n"));
    }
}

fn write(text: &mut String, part: fmt::Arguments<'_>) {
    text.write_fmt(part).expect("a string takes all that its memory takes");
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn report() -> Report {
        let mut report = Report { logs: 2, storage: StorageState::Low, ..Report::default() };
        report.counters.lines = 5;
        report.counters.tls_lines = 2;
        report.counters.handshake(HandshakeResult::Resumed);
        report.counters.handshake(HandshakeResult::Failed);
        report.counters.udp_lines = 1;
        report.counters.udp_kernel_drops = 4;
        report.counters.entries = 2;
        report.counters.reject(Reject::Http);
        report.listeners = vec![ListenerCounters { open: 1, accepted: 2, refused: 5, failed: 3 }];
        report.write_seconds.observe(Duration::from_micros(200));
        report.backpressure = Duration::from_millis(1500);
        report
    }

    fn text() -> String {
        let report = report();
        let shards = vec![ShardView { report: &report, busy_ratio: 0.25 }; 2];
        render(&Snapshot {
            listeners: &["127.0.0.1:10000".to_owned()],
            shards,
            sealed: Sealed { added: 7, removed: 2, packed: 1, retired_bytes: 99 },
            certificate_expiry: Some(4_102_444_800),
            disk_free_bytes: Some(7),
            disk_free_inodes: Some(9),
            config_reloads: (2, 1),
            limits: &[Limit::new("shards", 2_u16), Limit::new("linger", Duration::from_millis(5))],
        })
    }

    #[test]
    fn shards_are_added_up_or_named() {
        let text = text();
        for line in [
            "engine_lines_total{proto=\"tcp\"} 6",
            "engine_lines_total{proto=\"udp\"} 2",
            "engine_lines_total{proto=\"tls\"} 4",
            "engine_tls_handshakes_total{result=\"full\"} 0",
            "engine_tls_handshakes_total{result=\"resumed\"} 2",
            "engine_tls_certificate_expiry_timestamp_seconds 4102444800",
            "engine_udp_kernel_drops_total 8",
            "engine_entries_total 4",
            "engine_rejected_lines_total{reason=\"http\"} 2",
            "engine_rejected_lines_total{reason=\"cut\"} 0",
            "engine_connections{listener=\"127.0.0.1:10000\"} 2",
            "engine_connections_total{listener=\"127.0.0.1:10000\",result=\"failed\"} 6",
            "engine_backpressure_seconds_total{shard=\"1\"} 1.5",
            "engine_shard_busy_ratio{shard=\"0\"} 0.25",
            "engine_write_seconds_bucket{le=\"0.0001\"} 0",
            "engine_write_seconds_bucket{le=\"0.00025\"} 2",
            "engine_write_seconds_bucket{le=\"10.0\"} 2",
            "engine_write_seconds_bucket{le=\"+Inf\"} 2",
            "engine_write_seconds_count 2",
            "engine_write_seconds_sum 0.0004",
            "engine_segments{state=\"sealed\"} 5",
            "engine_storage_state{state=\"low\"} 1",
            "engine_storage_state{state=\"ok\"} 0",
            "engine_disk_free_bytes 7",
            "engine_config_reloads_total{result=\"failed\"} 1",
            "engine_limit{name=\"shards\"} 2",
            "engine_limit{name=\"linger_seconds\"} 0.005",
            "# UNIT engine_disk_free_bytes bytes",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn every_metric_is_shown_once_under_its_name() {
        let text = text();
        let shown: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let known: BTreeSet<String> =
            names::ALL.iter().map(|family| format!("{} {}", family.name, family.kind.name())).collect();
        assert_eq!(shown.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>(), known);
        assert_eq!(shown.len(), known.len());
        for family in names::ALL {
            assert!(family.name.starts_with("engine_") && family.name.ends_with(family.unit), "{family:?}");
            assert!(family.help.ends_with('.'), "{family:?}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}

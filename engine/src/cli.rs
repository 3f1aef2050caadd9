//! The command line as typed. Nothing else sees clap.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{AdminAddress, RunFlags};
use crate::diag::{Format, Level};
use crate::framing::Framing;
use crate::limits::{
    ADMIN_ADDRESS_DEFAULT, BUFFER_BYTES_DEFAULT, CONNECTIONS_PER_IP_MAX_DEFAULT, DRAIN_TIMEOUT_DEFAULT,
    HANDSHAKES_MAX_DEFAULT, LINE_BYTES_MAX_DEFAULT, LINGER_DEFAULT, SEGMENT_BYTES_DEFAULT, SYNC_INTERVAL_DEFAULT,
    TOKENS_MAX_DEFAULT, TOKENS_PER_SECOND_DEFAULT,
};
use crate::shard::{Oversize, SyncLevel};
use crate::wire::Token;

/// A log receiver that speaks Token TCP: every line names its log by a token, every log is a directory of text files.
#[derive(Debug, Parser)]
#[command(name = "engine", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive and store until SIGTERM or SIGINT
    Run(Box<RunArgs>),
    /// List the logs
    Ls(LsArgs),
    /// Print the entries of a log, oldest first
    Cat(CatArgs),
    /// Say what this host allows, and what to do about the rest; exit 3 if `run` would fail
    Doctor(DoctorArgs),
}

/// Flags of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The engine's data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Flags of `cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// The log: its token
    #[arg(value_name = "LOG")]
    pub log: Token,
    /// The engine's data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// Show U+2028, a line break inside an entry, as a line break
    #[arg(long)]
    pub newlines: bool,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The data directory that `run` would use
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// The cores that `run` would use [default: as many as this process may use]
    #[arg(long, value_name = "N")]
    pub shards: Option<u64>,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where logs are kept; created if missing
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data: PathBuf,
    /// Start although recovery found synced data missing; says what
    #[arg(long)]
    accept_loss: bool,
    /// Listen for Token TCP here; repeatable; port 0 takes a free port [default: 127.0.0.1:10000, unless --udp or --tls is given]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    tcp: Vec<SocketAddr>,
    /// Listen for datagrams here; repeatable; port 0 takes a free port [default: 127.0.0.1:10000, unless --tcp or --tls is given]
    #[arg(long, value_name = "ADDR", value_parser = address)]
    udp: Vec<SocketAddr>,
    /// Let datagrams make logs
    #[arg(long)]
    udp_creates: bool,
    /// Listen for Token TCP over TLS here; repeatable; needs --cert and --key; port 0 takes a free port
    #[arg(long, value_name = "ADDR", value_parser = address)]
    tls: Vec<SocketAddr>,
    /// Certificate chain of this host for --tls (PEM), own certificate first; repeatable, each with its --key: the name
    /// that a client asks for chooses, and the first one is for those who ask for none
    #[arg(long, value_name = "FILE")]
    cert: Vec<PathBuf>,
    /// Key of the --cert in the same place (PEM)
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Demand a certificate of one of these authorities (PEM) from TLS clients
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// TLS handshakes in progress at a time, a shard; further connections wait for their turn
    #[arg(long, value_name = "N", default_value_t = HANDSHAKES_MAX_DEFAULT, value_parser = count)]
    handshakes_max: u64,
    /// How connections are cut into lines: at LF, by octet counting (RFC 6587), or as their first bytes say
    #[arg(long, value_enum, default_value_t = FramingArg::Lf)]
    framing: FramingArg,
    /// Allow listening beyond loopback although any line with a UUID makes a log
    #[arg(long)]
    open: bool,
    /// Logs that may exist; lines for more are rejected
    #[arg(long, value_name = "N", default_value_t = TOKENS_MAX_DEFAULT, value_parser = count)]
    tokens_max: u64,
    /// Logs that may be made in a second once there are 10000; lines for more are rejected; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = TOKENS_PER_SECOND_DEFAULT, value_parser = count)]
    tokens_per_second: u64,
    /// Connections at a time; past it accepting stops until one ends; 0 = no limit [default: as many as the
    /// descriptor limit leaves, at most 65536]
    #[arg(long, value_name = "N", value_parser = count)]
    connections_max: Option<u64>,
    /// Connections of one IPv4 address or IPv6 /64 network at a time; the newest past it is closed; 0 = no limit
    #[arg(long, value_name = "N", default_value_t = CONNECTIONS_PER_IP_MAX_DEFAULT, value_parser = count)]
    connections_per_ip_max: u64,
    /// Longest line in bytes, token included; at most a sixteenth of --buffer-bytes
    #[arg(long, value_name = "SIZE", default_value_t = Size(LINE_BYTES_MAX_DEFAULT))]
    line_bytes_max: Size,
    /// What happens to the rest of a longer line
    #[arg(long, value_enum, default_value_t = OversizeArg::Split)]
    oversize: OversizeArg,
    /// Shards, each a thread on a core of its own, 1 to 256 [default: the cores that this process may use]
    #[arg(long, value_name = "N", value_parser = count)]
    shards: Option<u64>,
    /// Memory for what is received and not yet written, a shard; full = stop reading
    #[arg(long, value_name = "SIZE", default_value_t = Size(BUFFER_BYTES_DEFAULT))]
    buffer_bytes: Size,
    /// A busy log is written at most this often unless a batch fills; a quiet one at once
    #[arg(long, value_name = "TIME", default_value_t = Span(LINGER_DEFAULT))]
    linger: Span,
    /// A segment file rolls before it grows past this
    #[arg(long, value_name = "SIZE", default_value_t = Size(SEGMENT_BYTES_DEFAULT))]
    segment_bytes: Size,
    /// When what was written is brought to the disk
    #[arg(long, value_enum, default_value_t = SyncArg::Interval)]
    sync: SyncArg,
    /// With --sync interval: from the end of a sync to the next
    #[arg(long, value_name = "TIME", default_value_t = Span(SYNC_INTERVAL_DEFAULT))]
    sync_interval: Span,
    /// Below this much free space reading stops until there is room; 0 = never [default: the smaller of 1GiB and 5 %
    /// of the disk]
    #[arg(long, value_name = "SIZE")]
    disk_free_min: Option<Size>,
    /// How long peers may take to close after SIGTERM before they are cut
    #[arg(long, value_name = "TIME", default_value_t = Span(DRAIN_TIMEOUT_DEFAULT))]
    drain_timeout: Span,
    /// Answer /metrics, /healthz and /readyz here: an address, unix:PATH, or off
    #[arg(long, value_name = "ADDR", default_value = ADMIN_ADDRESS_DEFAULT)]
    admin: AdminAddress,
    /// What the engine's own log on stderr looks like; json is one object a line
    #[arg(long, value_enum, default_value_t = FormatArg::Text)]
    log_format: FormatArg,
    /// How much the engine says on stderr: error, warn, info or debug
    #[arg(long, value_name = "LEVEL", default_value_t = Level::Info)]
    log_level: Level,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FramingArg {
    /// LF ends a line
    Lf,
    /// `LEN SP FRAME`
    Octet,
    /// `octet` if a connection begins with a length and a syslog header or a token, else `lf`
    Auto,
}

/// `--sync`
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SyncArg {
    /// When the kernel likes
    None,
    /// Every --sync-interval
    Interval,
    /// At once
    Batch,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OversizeArg {
    /// Each further piece is an entry of its own
    Split,
    /// Further pieces are dropped
    Truncate,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// For people
    Text,
    /// For programs
    Json,
}

impl From<RunArgs> for RunFlags {
    fn from(args: RunArgs) -> Self {
        Self {
            data: args.data,
            tcp: args.tcp,
            udp: args.udp,
            udp_creates: args.udp_creates,
            tls: args.tls,
            cert: args.cert,
            key: args.key,
            client_ca: args.client_ca,
            handshakes_max: args.handshakes_max,
            framing: match args.framing {
                FramingArg::Lf => Framing::Lf,
                FramingArg::Octet => Framing::Octet,
                FramingArg::Auto => Framing::Auto,
            },
            open: args.open,
            tokens_max: args.tokens_max,
            tokens_per_second: args.tokens_per_second,
            connections_max: args.connections_max,
            connections_per_ip_max: args.connections_per_ip_max,
            line_bytes_max: args.line_bytes_max.0,
            oversize: match args.oversize {
                OversizeArg::Split => Oversize::Split,
                OversizeArg::Truncate => Oversize::Truncate,
            },
            shards: args.shards,
            buffer_bytes: args.buffer_bytes.0,
            linger: args.linger.0,
            segment_bytes: args.segment_bytes.0,
            sync: match args.sync {
                SyncArg::None => SyncLevel::None,
                SyncArg::Interval => SyncLevel::Interval(args.sync_interval.0),
                SyncArg::Batch => SyncLevel::Batch,
            },
            accept_loss: args.accept_loss,
            disk_free_min: args.disk_free_min.map(|size| size.0),
            drain_timeout: args.drain_timeout.0,
            admin: args.admin,
            log_format: match args.log_format {
                FormatArg::Text => Format::Text,
                FormatArg::Json => Format::Json,
            },
            log_level: args.log_level,
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let example = "give an IP address and a port, such as 127.0.0.1:10000 or [::]:10000";
    text.parse().map_err(|_| format!("{text:?} is no address; {example}"))
}

fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no count; give a whole number"))
}

/// Bytes: a number, alone or with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size(u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("", 1),
];

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = number_and_unit(text, &SIZE_UNITS);
        size.map(Self).ok_or_else(|| format!("{text} is no size; give bytes, or a number with KB KiB MB MiB GB GiB"))
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fits = |&&(_, unit): &&(&str, u64)| self.0 >= unit && self.0.is_multiple_of(unit);
        let (name, unit) = SIZE_UNITS.iter().find(fits).copied().unwrap_or(("", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// A time: a number with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = if text == "0" { &[("", 0)][..] } else { &SPAN_UNITS };
        let span = number_and_unit(text, units).map(|millis| Self(Duration::from_millis(millis)));
        span.ok_or_else(|| format!("{text} is no time; give a number with ms s m h d"))
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0.as_millis();
        if millis > 0 && millis.is_multiple_of(1_000) {
            write!(f, "{}s", millis / 1_000)
        } else {
            write!(f, "{millis}ms")
        }
    }
}

fn number_and_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = text.split_at(digits);
    let (_, unit) = units.iter().find(|(unit, _)| *unit == name)?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

/// What the command line says: a command, text that it asked for, or one line about what is wrong with it.
#[derive(Debug)]
pub enum Typed {
    /// A command to carry out.
    Command(Command),
    /// `--help` or `--version`: for stdout.
    Text(String),
    /// For stderr.
    Wrong(String),
}

/// Parses the process's arguments.
#[must_use]
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Typed {
    match Cli::try_parse_from(args) {
        Ok(cli) => Typed::Command(cli.command),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Typed::Text(error.render().to_string())
        }
        Err(error) => Typed::Wrong(one_line(&error)),
    }
}

/// clap's error as `subject: problem`, without its usage lines.
fn one_line(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let subject = context(ContextKind::InvalidArg);
    let flag = subject.as_deref().and_then(|text| text.split_whitespace().next()).unwrap_or("command line");
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
            let problem = if source.contains(&value) { source } else { format!("{value}: {source}") };
            format!("{flag}: {problem}")
        }
        ErrorKind::InvalidValue => {
            let allowed = context(ContextKind::ValidValue).filter(|allowed| !allowed.is_empty());
            let allowed = allowed.unwrap_or_else(|| "a value".into());
            let given = if value.is_empty() { "nothing".into() } else { value };
            format!("{flag}: {given} is not possible; give {allowed}")
        }
        ErrorKind::UnknownArgument if flag.starts_with('-') => format!("{flag}: no such flag; see engine run --help"),
        ErrorKind::UnknownArgument => format!("{flag}: unexpected; see engine run --help"),
        ErrorKind::InvalidSubcommand => {
            let command = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("{command}: no such command; give run, ls, cat or doctor")
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "command line: no command; give run, ls, cat or doctor".into()
        }
        ErrorKind::MissingRequiredArgument => format!("{flag}: missing; see engine --help"),
        ErrorKind::ArgumentConflict => format!("{flag}: given twice, or against another flag; see engine --help"),
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("command line: {}", first.trim_start_matches("error: "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(args: &[&str]) -> String {
        let args = ["engine"].iter().chain(args).map(Into::into);
        match parse(args) {
            Typed::Wrong(line) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("12"), Ok(12));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("3MB"), Ok(3_000_000));
        assert!(size("4kib").is_err() && size("").is_err() && size("-1").is_err() && size("99999999999GiB").is_err());
        let span = |text: &str| text.parse::<Span>().map(|span| span.0);
        assert_eq!(span("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(span("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(span("0"), Ok(Duration::ZERO));
        assert!(span("5").is_err() && span("5 s").is_err());
        assert_eq!(
            (Size(262_144).to_string(), Span(Duration::from_secs(10)).to_string()),
            ("256KiB".into(), "10s".into())
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        assert!(wrong(&["run", "--segment-bytes", "many"]).starts_with("--segment-bytes: many is no size; give"));
        assert!(wrong(&["run", "--tcp", "localhost"]).contains("such as 127.0.0.1:10000"));
        assert!(wrong(&["run", "--tokens-max", "many"]).contains("give a whole number"));
        assert_eq!(wrong(&["run", "--data", ""]), "--data: nothing is not possible; give a value");
        assert_eq!(wrong(&["run", "extra"]), "extra: unexpected; see engine run --help");
        assert!(wrong(&["run", "--oversize", "keep"]).contains("split, truncate"));
        assert_eq!(wrong(&["run", "--nothing"]), "--nothing: no such flag; see engine run --help");
        assert_eq!(wrong(&["start"]), "start: no such command; give run, ls, cat or doctor");
        assert_eq!(wrong(&[]), "command line: no command; give run, ls, cat or doctor");
        assert!(wrong(&["cat", "nonsense"]).contains("not a token"));
        for args in [&["run", "--data"][..], &["cat"], &["run", "--shards", "x"], &["run", "--open", "--open"]] {
            assert!(!wrong(args).contains('\n'), "{args:?}");
        }
    }
}

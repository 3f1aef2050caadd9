//! The command line as typed. Nothing else sees clap.

mod resolve;
mod value;
mod wrong;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use value::{Size, Span, address, count, moment, rate};
use wrong::one_line;

use crate::config::{AdminAddress, Proto, RunFlags};
use crate::diag::{Format, Level};
use crate::framing::Framing;
use crate::limits::{
    ADMIN_ADDRESS_DEFAULT, BUFFER_BYTES_DEFAULT, COMPRESS_AFTER_DEFAULT, CONNECTIONS_PER_IP_MAX_DEFAULT,
    DRAIN_TIMEOUT_DEFAULT, HANDSHAKES_MAX_DEFAULT, LINE_BYTES_MAX_DEFAULT, LINGER_DEFAULT, REJECTED_BYTES_MAX_DEFAULT,
    SEGMENT_AGE_DEFAULT, SEGMENT_BYTES_DEFAULT, SYNC_INTERVAL_DEFAULT, TAIL_ENTRIES_DEFAULT, TOKENS_MAX_DEFAULT,
    TOKENS_PER_SECOND_DEFAULT,
};
use crate::shard::{Cidr, Oversize, SyncLevel};
use crate::tls::ClientCertificates;
use crate::wire::token::shorten_tokens;

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
    /// Print the last entries of a log, and those that come
    Tail(TailArgs),
    /// Check every byte that has a checksum; exit 4 if one is damaged
    Verify(VerifyArgs),
    /// Say what `run` with these flags would run with, and where each value comes from; exit 2 if something is wrong
    CheckConfig(Box<RunArgs>),
    /// Say what this host allows, and what to do about the rest; exit 3 if `run` would fail
    Doctor(DoctorArgs),
}

/// Flags of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The engine's data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// The token list: names of the logs
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which log a command is about.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The log: its token, or its name in the token list
    #[arg(value_name = "LOG")]
    pub log: String,
    /// The engine's data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// The token list, where LOG is a name
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
}

/// Flags of `cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Which log
    #[command(flatten)]
    pub log: LogArgs,
    /// Show U+2028, a line break inside an entry, as a line break
    #[arg(long)]
    pub newlines: bool,
    /// Begin with what came then, or up to a minute before: RFC 3339, 2026-11-23 14:00 (UTC), or 10m ago
    #[arg(long, value_name = "T", value_parser = moment)]
    pub since: Option<SystemTime>,
    /// End before what came then, or up to a minute after
    #[arg(long, value_name = "T", value_parser = moment)]
    pub until: Option<SystemTime>,
}

/// Flags of `tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// Which log
    #[command(flatten)]
    pub log: LogArgs,
    /// Show U+2028, a line break inside an entry, as a line break
    #[arg(long)]
    pub newlines: bool,
    /// How many entries
    #[arg(short = 'n', long, value_name = "N", default_value_t = TAIL_ENTRIES_DEFAULT, value_parser = count)]
    pub lines: u64,
    /// Go on with entries that come, for ever
    #[arg(short, long)]
    pub follow: bool,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The log: its token, or its name in the token list [default: all logs]
    #[arg(value_name = "LOG")]
    pub log: Option<String>,
    /// The engine's data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// The token list, where LOG is a name
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
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

/// Where flags belong that are a subject of their own: a heading of `--help`, and in lower case a table of the
/// configuration file. All other keys stand above the tables.
const LIMITS: &str = "Limits";
const STORAGE: &str = "Storage";
const LOG: &str = "Log";

/// Flags of `run`. Each is a key of the configuration file too, and a variable of the environment.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct RunArgs {
    /// What was typed after the command.
    #[arg(skip)]
    typed: Vec<OsString>,
    /// Configuration file (TOML); flags win over ENGINE_* of the environment, which win over the file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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
    /// Ask TLS clients for a certificate of one of these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Whether clients that have none are turned away, where --client-ca asks for one [default: required]
    #[arg(long, value_enum)]
    client_certs: Option<ClientCertsArg>,
    /// TLS handshakes in progress at a time, a shard; who has said hello besides waits for its turn
    #[arg(long, help_heading = LIMITS, value_name = "N", default_value_t = HANDSHAKES_MAX_DEFAULT, value_parser = count)]
    handshakes_max: u64,
    /// How connections are cut into lines: at LF, by octet counting (RFC 6587), or as their first bytes say
    #[arg(long, value_enum, default_value_t = FramingArg::Lf)]
    framing: FramingArg,
    /// Peers from this network are proxies, which send a PROXY header (version 1 or 2) first, before TLS; repeatable
    #[arg(long, value_name = "CIDR")]
    proxy_from: Vec<Cidr>,
    /// Take only lines with one of these tokens: a file with `TOKEN [NAME] [# comment]` a line [default: every token is
    /// taken]
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Allow listening beyond loopback without --tokens, although any line with a UUID makes a log
    #[arg(long)]
    open: bool,
    /// Logs that may exist; lines for more are rejected
    #[arg(long, help_heading = LIMITS, value_name = "N", default_value_t = TOKENS_MAX_DEFAULT, value_parser = count)]
    tokens_max: u64,
    /// Logs that may be made in a second once there are 10000; lines for more are rejected; 0 = no limit
    #[arg(long, help_heading = LIMITS, value_name = "N", default_value_t = TOKENS_PER_SECOND_DEFAULT, value_parser = rate)]
    tokens_per_second: u64,
    /// What happens to lines that name no log
    #[arg(long, help_heading = LIMITS, value_enum, default_value_t = RejectedArg::Drop)]
    rejected: RejectedArg,
    /// Most bytes of such lines to keep, of those from before the start too; further ones are dropped
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", default_value_t = Size(REJECTED_BYTES_MAX_DEFAULT))]
    rejected_bytes_max: Size,
    /// Connections at a time; past it accepting stops until one ends; 0 = as many as the descriptor limit
    /// leaves [default: as many as the descriptor limit leaves, at most 65536]
    #[arg(long, help_heading = LIMITS, value_name = "N", value_parser = count)]
    connections_max: Option<u64>,
    /// Connections of one IPv4 address or IPv6 /64 network at a time; the newest past it is closed; 0 = no limit
    #[arg(long, help_heading = LIMITS, value_name = "N", default_value_t = CONNECTIONS_PER_IP_MAX_DEFAULT, value_parser = count)]
    connections_per_ip_max: u64,
    /// Longest line in bytes, token included; at most a sixteenth of --buffer-bytes
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", default_value_t = Size(LINE_BYTES_MAX_DEFAULT))]
    line_bytes_max: Size,
    /// What happens to the rest of a longer line
    #[arg(long, help_heading = LIMITS, value_enum, default_value_t = OversizeArg::Split)]
    oversize: OversizeArg,
    /// Shards, each a thread on a core of its own, 1 to 256 [default: the cores that this process may use]
    #[arg(long, value_name = "N", value_parser = count)]
    shards: Option<u64>,
    /// Memory for what is received and not yet written, a shard; full = stop reading
    #[arg(long, help_heading = LIMITS, value_name = "SIZE", default_value_t = Size(BUFFER_BYTES_DEFAULT))]
    buffer_bytes: Size,
    /// A busy log is written at most this often unless a batch fills; a quiet one at once
    #[arg(long, help_heading = STORAGE, value_name = "TIME", default_value_t = Span(LINGER_DEFAULT))]
    linger: Span,
    /// A segment file rolls before it grows past this
    #[arg(long, help_heading = STORAGE, value_name = "SIZE", default_value_t = Size(SEGMENT_BYTES_DEFAULT))]
    segment_bytes: Size,
    /// When what was written is brought to the disk
    #[arg(long, help_heading = STORAGE, value_enum, default_value_t = SyncArg::Interval)]
    sync: SyncArg,
    /// With --sync interval: from the end of a sync to the next
    #[arg(long, help_heading = STORAGE, value_name = "TIME", default_value_t = Span(SYNC_INTERVAL_DEFAULT))]
    sync_interval: Span,
    /// A segment file rolls with the first entry that comes this long after its own first
    #[arg(long, help_heading = STORAGE, value_name = "TIME", default_value_t = Span(SEGMENT_AGE_DEFAULT))]
    segment_age: Span,
    /// A log's oldest sealed segments are deleted while it takes more than this on disk [default: none]
    #[arg(long, help_heading = STORAGE, value_name = "SIZE")]
    retain_bytes: Option<Size>,
    /// Sealed segments are deleted this long after their last entry [default: none]
    #[arg(long, help_heading = STORAGE, value_name = "TIME")]
    retain_age: Option<Span>,
    /// What sealed segments are compressed with
    #[arg(long, help_heading = STORAGE, value_enum, default_value_t = CompressArg::Zstd)]
    compress: CompressArg,
    /// How long after their last entry sealed segments are compressed
    #[arg(long, help_heading = STORAGE, value_name = "TIME", default_value_t = Span(COMPRESS_AFTER_DEFAULT))]
    compress_after: Span,
    /// Below this much free space reading stops until there is room; 0 = never [default: the smaller of 1GiB and 5 %
    /// of the disk]
    #[arg(long, help_heading = STORAGE, value_name = "SIZE")]
    disk_free_min: Option<Size>,
    /// How long peers may take to close after SIGTERM before they are cut
    #[arg(long, help_heading = LIMITS, value_name = "TIME", default_value_t = Span(DRAIN_TIMEOUT_DEFAULT))]
    drain_timeout: Span,
    /// Answer /metrics, /healthz and /readyz here: an address, unix:PATH, or off
    #[arg(long, value_name = "ADDR", default_value = ADMIN_ADDRESS_DEFAULT)]
    admin: AdminAddress,
    /// What the engine's own log on stderr looks like; json is one object a line
    #[arg(long, help_heading = LOG, value_enum, default_value_t = FormatArg::Text)]
    log_format: FormatArg,
    /// How much the engine says on stderr: error, warn, info or debug
    #[arg(long, help_heading = LOG, value_name = "LEVEL", default_value_t = Level::Info)]
    log_level: Level,
}

/// Keys of a `[[listen]]` in the configuration file.
#[derive(Debug, Args)]
struct ListenArgs {
    /// What is spoken there
    #[arg(long, value_enum)]
    proto: ProtoArg,
    /// Where to listen
    #[arg(long, value_name = "ADDR", value_parser = address)]
    addr: SocketAddr,
    /// As --framing, for this listener [default: what --framing says]
    #[arg(long, value_enum)]
    framing: Option<FramingArg>,
    /// As --cert, for this listener [default: what --cert says]
    #[arg(long, value_name = "FILE")]
    cert: Vec<PathBuf>,
    /// As --key, for this listener
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// As --client-ca, for this listener [default: what --client-ca says]
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// As --client-certs, for this listener [default: what --client-certs says]
    #[arg(long, value_enum)]
    client_certs: Option<ClientCertsArg>,
    /// As --proxy-from, for this listener [default: what --proxy-from says]
    #[arg(long, value_name = "CIDR")]
    proxy_from: Vec<Cidr>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtoArg {
    Tcp,
    Udp,
    Tls,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClientCertsArg {
    /// They are
    Required,
    /// They are let in; a certificate that is shown has to be valid
    Optional,
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
enum RejectedArg {
    /// They are counted
    Drop,
    /// They are counted, and kept in `_rejected/<reason>/` of the data directory
    Keep,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OversizeArg {
    /// Each further piece is an entry of its own
    Split,
    /// Further pieces are dropped
    Truncate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompressArg {
    /// Seekable zstd; any zstd reads it
    Zstd,
    /// They stay text
    None,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// For people
    Text,
    /// For programs
    Json,
}

impl From<ProtoArg> for Proto {
    fn from(proto: ProtoArg) -> Self {
        match proto {
            ProtoArg::Tcp => Self::Tcp,
            ProtoArg::Udp => Self::Udp,
            ProtoArg::Tls => Self::Tls,
        }
    }
}

impl From<ClientCertsArg> for ClientCertificates {
    fn from(certificates: ClientCertsArg) -> Self {
        match certificates {
            ClientCertsArg::Required => Self::Required,
            ClientCertsArg::Optional => Self::Optional,
        }
    }
}

impl From<FramingArg> for Framing {
    fn from(framing: FramingArg) -> Self {
        match framing {
            FramingArg::Lf => Self::Lf,
            FramingArg::Octet => Self::Octet,
            FramingArg::Auto => Self::Auto,
        }
    }
}

impl From<RunArgs> for RunFlags {
    fn from(args: RunArgs) -> Self {
        Self {
            data: args.data,
            tcp: args.tcp,
            udp: args.udp,
            udp_creates: args.udp_creates,
            tls: args.tls,
            listen: Vec::new(),
            cert: args.cert,
            key: args.key,
            client_ca: args.client_ca,
            client_certs: args.client_certs.map(Into::into),
            handshakes_max: args.handshakes_max,
            framing: args.framing.into(),
            proxy_from: args.proxy_from,
            tokens: args.tokens,
            open: args.open,
            tokens_max: args.tokens_max,
            tokens_per_second: args.tokens_per_second,
            rejected_keep: matches!(args.rejected, RejectedArg::Keep),
            rejected_bytes_max: args.rejected_bytes_max.0,
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
            segment_age: args.segment_age.0,
            retain_bytes: args.retain_bytes.map(|size| size.0),
            retain_age: args.retain_age.map(|span| span.0),
            compress: args.compress == CompressArg::Zstd,
            compress_after: args.compress_after.0,
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
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Typed {
    let args: Vec<OsString> = args.into_iter().collect();
    match Cli::try_parse_from(&args) {
        Ok(mut cli) => {
            if let Command::Run(run) | Command::CheckConfig(run) = &mut cli.command {
                // No flag stands before the command.
                run.typed = args.into_iter().skip(2).collect();
            }
            Typed::Command(cli.command)
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Typed::Text(error.render().to_string())
        }
        Err(error) => {
            // Errors end up in the logs of others.
            Typed::Wrong(shorten_tokens(&one_line(&error, args.get(1))).into_owned())
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
    fn what_is_wrong_is_said_in_one_line() {
        assert!(wrong(&["run", "--segment-bytes", "many"]).starts_with("--segment-bytes: many is no size; give"));
        assert!(wrong(&["run", "--tcp", "localhost"]).contains("such as 127.0.0.1:10000"));
        assert!(wrong(&["run", "--tokens-max", "many"]).contains("give a whole number"));
        assert_eq!(wrong(&["run", "--data", ""]), "--data: nothing is not possible; give a value");
        assert_eq!(wrong(&["run", "extra"]), "extra: unexpected; see engine run --help");
        assert!(wrong(&["run", "--oversize", "keep"]).contains("split, truncate"));
        assert_eq!(wrong(&["run", "--nothing"]), "--nothing: no such flag; see engine run --help");
        assert!(wrong(&["start"]).starts_with("start: no such command; give run, ls, cat,"));
        assert!(wrong(&[]).starts_with("command line: no command; give run, ls, cat,"));
        assert_eq!(wrong(&["ls", "--nothing"]), "--nothing: no such flag; see engine ls --help");
        assert!(wrong(&["cat"]).ends_with("missing; see engine cat --help"));
        assert_eq!(wrong(&["run", "--open", "--open"]), "--open: given twice; give it once");
        assert_eq!(wrong(&["run", "--data", "a", "--data", "b"]), "--data: given twice; give it once");
        assert_eq!(wrong(&["run", "--tokens-max", "-1"]), "--tokens-max: \"-1\" is no count; give a whole number");
        for args in [&["run", "--data"][..], &["cat"], &["run", "--shards", "x"], &["run", "--open", "--open"]] {
            assert!(!wrong(args).contains('\n'), "{args:?}");
        }
    }
}

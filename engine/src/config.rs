//! From flags as typed to a configuration that needs no more checks.

mod certificates;
pub mod file;
mod files;
mod listeners;
mod settings;
mod tokens;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use certificates::CertificateFiles;
pub use files::Stamp;
use listeners::Listeners;
pub use listeners::{Listen, Proto, TcpListen};
pub use settings::{Origin, Resolved, Setting};
pub use tokens::{TokenFile, resolve_log};

use crate::diag::{Format, Level};
use crate::error::{ConfigError, StartError, shown};
use crate::framing::Framing;
use crate::limits::{
    BATCH_SYNC_GAP, BUFFER_BYTES_MIN, CONNECTIONS_MAX_DEFAULT, DESCRIPTORS_PER_LISTENER, DESCRIPTORS_PER_SHARD,
    DESCRIPTORS_RESERVED, DISK_FREE_MIN_DEFAULT, DISK_FREE_PERCENT_DEFAULT, LINE_BYTES_MAX_MAX, LINE_BYTES_MAX_MIN,
    LINE_PARTS_OF_BUFFER, LINGER_MAX, OPEN_FILES_MIN, ROLL_GAP, SEGMENT_PARTS, SHARDS_MAX, SYNC_INTERVAL_MAX,
};
use crate::segment::SegmentLimits;
use crate::shard::{Cidr, Oversize, SyncLevel};
use crate::store::keep::Rules;
use crate::sys::affinity::usable_cores;
use crate::sys::host;
use crate::tls::ClientCertificates;

/// The flags of `run`, parsed but not judged.
#[expect(clippy::struct_excessive_bools, reason = "one for each flag that is a switch")]
#[derive(Clone, Debug)]
pub struct RunFlags {
    /// `--data`
    pub data: PathBuf,
    /// `--tcp`
    pub tcp: Vec<SocketAddr>,
    /// `--udp`
    pub udp: Vec<SocketAddr>,
    /// `--udp-creates`
    pub udp_creates: bool,
    /// `--tls`
    pub tls: Vec<SocketAddr>,
    /// `[[listen]]` of the configuration file.
    pub listen: Vec<Listen>,
    /// `--cert`
    pub cert: Vec<PathBuf>,
    /// `--key`
    pub key: Vec<PathBuf>,
    /// `--client-ca`
    pub client_ca: Option<PathBuf>,
    /// `--client-certs`
    pub client_certs: Option<ClientCertificates>,
    /// `--handshakes-max`
    pub handshakes_max: u64,
    /// `--framing`
    pub framing: Framing,
    /// `--proxy-from`
    pub proxy_from: Vec<Cidr>,
    /// `--tokens`
    pub tokens: Option<PathBuf>,
    /// `--open`
    pub open: bool,
    /// `--tokens-max`
    pub tokens_max: u64,
    /// `--tokens-per-second`
    pub tokens_per_second: u64,
    /// `--rejected keep`
    pub rejected_keep: bool,
    /// `--rejected-bytes-max`
    pub rejected_bytes_max: u64,
    /// `--connections-max`
    pub connections_max: Option<u64>,
    /// `--connections-per-ip-max`
    pub connections_per_ip_max: u64,
    /// `--line-bytes-max`
    pub line_bytes_max: u64,
    /// `--oversize`
    pub oversize: Oversize,
    /// `--shards`
    pub shards: Option<u64>,
    /// `--buffer-bytes`
    pub buffer_bytes: u64,
    /// `--linger`
    pub linger: Duration,
    /// `--segment-bytes`
    pub segment_bytes: u64,
    /// `--sync` and `--sync-interval`
    pub sync: SyncLevel,
    /// `--accept-loss`
    pub accept_loss: bool,
    /// `--segment-age`
    pub segment_age: Duration,
    /// `--retain-bytes`
    pub retain_bytes: Option<u64>,
    /// `--retain-age`
    pub retain_age: Option<Duration>,
    /// `--compress`
    pub compress: bool,
    /// `--compress-after`
    pub compress_after: Duration,
    /// `--disk-free-min`
    pub disk_free_min: Option<u64>,
    /// `--drain-timeout`
    pub drain_timeout: Duration,
    /// `--admin`
    pub admin: AdminAddress,
    /// `--log-format`
    pub log_format: Format,
    /// `--log-level`
    pub log_level: Level,
}

/// What an engine runs with. Every relation between values holds.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Where to take connections: those of the flags first, without TLS before those with it.
    pub tcp: Vec<TcpListen>,
    /// Where certificates and keys are: sets that listeners refer to.
    pub certificates: Vec<CertificateFiles>,
    /// TLS handshakes in progress at a time, a shard.
    pub handshakes_max: usize,
    /// Where to take datagrams.
    pub udp: Vec<SocketAddr>,
    /// Whether datagrams make logs.
    pub udp_creates: bool,
    /// Cores to use.
    pub shards: u16,
    /// Where the tokens are listed that name logs; `None`: every token names one.
    pub tokens: Option<TokenFile>,
    /// Logs that may exist where every token names one.
    pub tokens_max: usize,
    /// Logs that may be made in a second, once there are many; `None`: no limit.
    pub tokens_per_second: Option<u32>,
    /// Bytes of rejected lines that are kept; `None`: they are dropped.
    pub rejected_bytes_max: Option<u64>,
    /// Connections at a time; `None`: as many as descriptors allow, at most the default; 0: as many as they allow.
    pub connections_max: Option<u64>,
    /// Connections of one address at a time; 0: no limit.
    pub connections_per_ip_max: usize,
    /// Longest line in bytes.
    pub line_bytes_max: usize,
    /// What happens to longer ones.
    pub oversize: Oversize,
    /// The shard's memory for what is received and not written.
    pub buffer_bytes: usize,
    /// A busy log is written at most this often.
    pub linger: Duration,
    /// When a segment rolls.
    pub segment: SegmentLimits,
    /// When what was written is brought to the disk.
    pub sync: SyncLevel,
    /// Whether to start although synced data are missing.
    pub accept_loss: bool,
    /// What becomes of sealed segments.
    pub keep: Rules,
    /// Reading stops below this much free space; `None`: the default, which depends on the disk.
    pub disk_free_min: Option<u64>,
    /// How long peers may take to close.
    pub drain_timeout: Duration,
    /// Where the admin endpoint listens.
    pub admin: AdminAddress,
    /// What the engine's own log looks like.
    pub log_format: Format,
    /// How much the engine says.
    pub log_level: Level,
}

/// Where the admin endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// Nowhere.
    Off,
    /// On a TCP port.
    Tcp(SocketAddr),
    /// On a socket with a name in the file system.
    Unix(PathBuf),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs a path".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None if text == "off" => Ok(Self::Off),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| format!("{text} is no address; give one such as 127.0.0.1:9600, unix:PATH, or off")),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", shown(path)),
        }
    }
}

impl TryFrom<RunFlags> for Config {
    type Error = ConfigError;

    fn try_from(flags: RunFlags) -> Result<Self, ConfigError> {
        check_sizes(&flags)?;
        let Listeners { tcp, udp, certificates } = Listeners::of(&flags)?;
        Ok(Self {
            data: flags.data,
            tcp,
            certificates,
            handshakes_max: narrow("--handshakes-max", flags.handshakes_max, u64::from(u32::MAX))?,
            udp,
            udp_creates: flags.udp_creates,
            shards: shards(flags.shards)?,
            tokens: flags.tokens.map(TokenFile),
            tokens_max: narrow("--tokens-max", flags.tokens_max, u64::from(u32::MAX))?,
            tokens_per_second: tokens_per_second(flags.tokens_per_second)?,
            rejected_bytes_max: flags.rejected_keep.then_some(flags.rejected_bytes_max),
            connections_max: flags.connections_max,
            connections_per_ip_max: narrow(
                "--connections-per-ip-max",
                flags.connections_per_ip_max,
                u64::from(u32::MAX),
            )?,
            line_bytes_max: narrow("--line-bytes-max", flags.line_bytes_max, u64::from(u32::MAX))?,
            oversize: flags.oversize,
            buffer_bytes: narrow("--buffer-bytes", flags.buffer_bytes, 1 << 40)?,
            linger: flags.linger,
            segment: SegmentLimits { bytes: flags.segment_bytes, age: flags.segment_age },
            sync: flags.sync,
            accept_loss: flags.accept_loss,
            keep: Rules {
                compress_after: flags.compress.then_some(flags.compress_after),
                retain_bytes: flags.retain_bytes,
                retain_age: flags.retain_age,
            },
            disk_free_min: flags.disk_free_min,
            drain_timeout: flags.drain_timeout,
            admin: flags.admin,
            log_format: flags.log_format,
            log_level: flags.log_level,
        })
    }
}

impl Config {
    /// What a setting is that nobody gave, where it depends on others or on the host.
    #[must_use]
    pub fn implied(&self, key: &str) -> Option<String> {
        let listed = |addresses: Vec<String>| {
            let any = Some(addresses).filter(|addresses| !addresses.is_empty());
            Some(any.map_or_else(|| "none".to_owned(), |addresses| addresses.join(",")))
        };
        let tcp = |tls| self.tcp.iter().filter(move |tcp| tcp.spoken.tls == tls).map(|tcp| tcp.address.to_string());
        match key {
            "tcp" => listed(tcp(false).collect()),
            "tls" => listed(tcp(true).collect()),
            "udp" => listed(self.udp.iter().map(ToString::to_string).collect()),
            "shards" => Some(self.shards.to_string()),
            _ => None,
        }
    }

    /// How many descriptors of so many are for what.
    ///
    /// # Errors
    /// They are too few.
    pub fn descriptors(&self, limit: u64) -> Result<Descriptors, StartError> {
        Descriptors::share(limit, self.connections_max, self.shards, self.tcp.len() + self.udp.len())
    }

    /// `--disk-free-min`, or what it is on the disk that holds the data directory, or will.
    ///
    /// # Errors
    /// Nobody has given it, and the size of the disk cannot be told.
    pub fn disk_free_min(&self) -> Result<u64, StartError> {
        let of_disk = || {
            let mut parts =
                self.data.ancestors().map(|part| if part.as_os_str().is_empty() { Path::new(".") } else { part });
            let existing = parts.find_map(|part| host::file_system(part).ok())?;
            Some(disk_free_min_default(&existing))
        };
        let unknown = || StartError::new("--disk-free-min", "the size of the disk is not known; give a SIZE");
        self.disk_free_min.or_else(of_disk).ok_or_else(unknown)
    }

    /// Reads the files that it names, and forgets what is in them.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        self.certificates.iter().try_for_each(|files| files.load().map(drop))?;
        self.tokens.iter().try_for_each(|file| file.load().map(drop))
    }
}

/// As many as asked for, or as this process may use cores.
///
/// # Errors
/// Nobody can have that many.
pub fn shards(asked: Option<u64>) -> Result<u16, ConfigError> {
    let cores = || (usable_cores() as u64).min(SHARDS_MAX);
    let shards = asked.unwrap_or_else(cores);
    let allowed = u16::try_from(shards).ok().filter(|_| (1..=SHARDS_MAX).contains(&shards));
    allowed.ok_or_else(|| wrong("--shards", format!("{shards} is not possible; give 1 to {SHARDS_MAX}")))
}

/// 0 is no limit.
fn tokens_per_second(asked: u64) -> Result<Option<u32>, ConfigError> {
    let fits =
        |_| wrong("--tokens-per-second", format!("{asked} is too large; give {} or less, or 0 for no limit", u32::MAX));
    u32::try_from(asked).map(|asked| (asked > 0).then_some(asked)).map_err(fits)
}

/// `--disk-free-min` where nobody has given it, in bytes.
#[must_use]
pub fn disk_free_min_default(system: &host::FileSystem) -> u64 {
    DISK_FREE_MIN_DEFAULT.min(system.total_bytes / 100 * DISK_FREE_PERCENT_DEFAULT)
}

fn check_sizes(flags: &RunFlags) -> Result<(), ConfigError> {
    if flags.tokens_max == 0 {
        return Err(wrong("--tokens-max", "0 would store nothing; give 1 or more".into()));
    }
    if flags.handshakes_max == 0 {
        return Err(wrong("--handshakes-max", "0 would let nobody in; give 1 or more".into()));
    }
    if flags.buffer_bytes < BUFFER_BYTES_MIN {
        return Err(too_small("--buffer-bytes", flags.buffer_bytes, BUFFER_BYTES_MIN));
    }
    if flags.line_bytes_max < LINE_BYTES_MAX_MIN {
        return Err(too_small("--line-bytes-max", flags.line_bytes_max, LINE_BYTES_MAX_MIN));
    }
    if flags.line_bytes_max > LINE_BYTES_MAX_MAX {
        let problem = format!("{} is too much; give {LINE_BYTES_MAX_MAX} or less", flags.line_bytes_max);
        return Err(wrong("--line-bytes-max", problem));
    }
    let line_most = flags.buffer_bytes / LINE_PARTS_OF_BUFFER;
    if flags.line_bytes_max > line_most {
        let given = flags.line_bytes_max;
        let problem = format!(
            "{given} is more than a sixteenth of --buffer-bytes ({line_most}); give less, or a larger --buffer-bytes"
        );
        return Err(wrong("--line-bytes-max", problem));
    }
    if flags.linger > LINGER_MAX {
        return Err(wrong("--linger", format!("{:?} is too long; give {LINGER_MAX:?} or less", flags.linger)));
    }
    if let SyncLevel::Interval(interval) = flags.sync
        && !(BATCH_SYNC_GAP..=SYNC_INTERVAL_MAX).contains(&interval)
    {
        let problem = format!("{interval:?} is not possible; give {BATCH_SYNC_GAP:?} to {SYNC_INTERVAL_MAX:?}");
        return Err(wrong("--sync-interval", problem));
    }
    if flags.segment_age < ROLL_GAP {
        return Err(wrong("--segment-age", format!("{:?} is too short; give {ROLL_GAP:?} or more", flags.segment_age)));
    }
    // An entry may be as long as a line, and an LF follows it.
    if flags.segment_bytes <= flags.line_bytes_max {
        let problem = format!("{} is less than one line ({}); give more", flags.segment_bytes, flags.line_bytes_max);
        return Err(wrong("--segment-bytes", problem));
    }
    Ok(())
}

fn wrong(flag: impl Into<Cow<'static, str>>, problem: String) -> ConfigError {
    ConfigError { flag: flag.into(), problem }
}

fn too_small(flag: &'static str, given: u64, least: u64) -> ConfigError {
    wrong(flag, format!("{given} is too small; give {least} or more"))
}

fn narrow(flag: &'static str, given: u64, most: u64) -> Result<usize, ConfigError> {
    let fits = usize::try_from(given).ok().filter(|_| given <= most);
    fits.ok_or_else(|| wrong(flag, format!("{given} is too large; give {most} or less")))
}

/// How the descriptor limit is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Connections at a time.
    pub connections: usize,
    /// Segments open at a time.
    pub files: usize,
}

impl Descriptors {
    /// Shares out `limit` descriptors: what shards need that listen on so many addresses, connections as asked, the rest for segments, but never all.
    ///
    /// # Errors
    /// The limit cannot hold the number that was asked for.
    pub fn share(limit: u64, connections_max: Option<u64>, shards: u16, addresses: usize) -> Result<Self, StartError> {
        let of_shard = DESCRIPTORS_PER_SHARD + DESCRIPTORS_PER_LISTENER * addresses as u64;
        let reserved = DESCRIPTORS_RESERVED + of_shard * u64::from(shards);
        let least = reserved + OPEN_FILES_MIN * u64::from(shards);
        let refused = |problem| StartError::new("--connections-max", problem);
        let Some(free) = limit.checked_sub(least).filter(|&free| free > 0) else {
            return Err(refused(format!(
                "the descriptor limit is {limit}, and the engine needs {least} besides connections; raise it (ulimit -n)"
            )));
        };
        let comfortable = free - free / SEGMENT_PARTS;
        let connections = match connections_max {
            None => comfortable.min(CONNECTIONS_MAX_DEFAULT),
            Some(0) => comfortable,
            Some(asked) if asked <= free => asked,
            Some(asked) => {
                return Err(refused(format!(
                    "{asked} connections do not fit the descriptor limit ({limit}); give {free} or less, or raise it (ulimit -n)"
                )));
            }
        };
        let files = limit - reserved - connections;
        let narrow = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self { connections: narrow(connections), files: narrow(files) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        BUFFER_BYTES_DEFAULT, LINE_BYTES_MAX_DEFAULT, REJECTED_BYTES_MAX_DEFAULT, SEGMENT_AGE_DEFAULT,
        SEGMENT_BYTES_DEFAULT,
    };

    fn flags() -> RunFlags {
        RunFlags {
            data: "data".into(),
            tcp: Vec::new(),
            udp: Vec::new(),
            udp_creates: false,
            tls: Vec::new(),
            listen: Vec::new(),
            cert: Vec::new(),
            key: Vec::new(),
            client_ca: None,
            client_certs: None,
            handshakes_max: 1,
            framing: Framing::Lf,
            proxy_from: Vec::new(),
            tokens: None,
            open: false,
            tokens_max: 1,
            tokens_per_second: 500,
            rejected_keep: false,
            rejected_bytes_max: REJECTED_BYTES_MAX_DEFAULT,
            connections_max: None,
            connections_per_ip_max: 0,
            line_bytes_max: LINE_BYTES_MAX_DEFAULT,
            oversize: Oversize::Split,
            shards: Some(1),
            buffer_bytes: BUFFER_BYTES_DEFAULT,
            linger: Duration::ZERO,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            sync: SyncLevel::None,
            accept_loss: false,
            segment_age: SEGMENT_AGE_DEFAULT,
            retain_bytes: None,
            retain_age: None,
            compress: false,
            compress_after: Duration::ZERO,
            disk_free_min: None,
            drain_timeout: Duration::ZERO,
            admin: AdminAddress::Off,
            log_format: Format::Text,
            log_level: Level::Info,
        }
    }

    fn refused(flags: RunFlags) -> Cow<'static, str> {
        Config::try_from(flags).expect_err("wrong on purpose").flag
    }

    #[test]
    fn relations_between_flags_are_checked() {
        assert!(Config::try_from(flags()).is_ok());
        assert_eq!(refused(RunFlags { line_bytes_max: 4 << 20 | 1, ..flags() }), "--line-bytes-max");
        assert_eq!(refused(RunFlags { line_bytes_max: 63, ..flags() }), "--line-bytes-max");
        assert_eq!(refused(RunFlags { segment_bytes: 12, ..flags() }), "--segment-bytes");
        assert_eq!(refused(RunFlags { segment_age: Duration::from_millis(99), ..flags() }), "--segment-age");
        assert_eq!(refused(RunFlags { linger: Duration::from_mins(1), ..flags() }), "--linger");
        assert_eq!(refused(RunFlags { buffer_bytes: 1, ..flags() }), "--buffer-bytes");
        for shards in [0, 257, 65_537] {
            assert_eq!(refused(RunFlags { shards: Some(shards), ..flags() }), "--shards");
        }
        assert_eq!(Config::try_from(RunFlags { shards: Some(256), ..flags() }).expect("allowed").shards, 256);
        assert_eq!(refused(RunFlags { tokens_max: 0, ..flags() }), "--tokens-max");
        assert_eq!(refused(RunFlags { tokens_per_second: 1 << 32, ..flags() }), "--tokens-per-second");
        assert_eq!(refused(RunFlags { connections_per_ip_max: 1 << 32, ..flags() }), "--connections-per-ip-max");
        let proxies = RunFlags { proxy_from: vec!["10.0.0.0/8".parse().expect("a network")], ..flags() };
        assert_eq!(refused(RunFlags { udp: vec![listeners::LISTEN_DEFAULT], ..proxies.clone() }), "--proxy-from");
        let behind = Config::try_from(proxies).expect("the default is TCP");
        assert_eq!(behind.tcp[0].spoken.proxy_from[0].to_string(), "10.0.0.0/8");
        let unpaced = Config::try_from(RunFlags { tokens_per_second: 0, ..flags() }).expect("0 is no limit");
        assert_eq!(unpaced.tokens_per_second, None);
    }

    #[test]
    fn the_network_needs_to_be_opened() {
        let everywhere = vec![SocketAddr::from(([0, 0, 0, 0], 10000))];
        assert_eq!(refused(RunFlags { tcp: everywhere.clone(), ..flags() }), "--tcp");
        assert_eq!(refused(RunFlags { udp: everywhere.clone(), ..flags() }), "--udp");
        assert!(Config::try_from(RunFlags { tcp: everywhere, open: true, ..flags() }).is_ok());
    }

    #[test]
    fn an_address_is_given_once() {
        let at =
            |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        let open = || RunFlags { open: true, ..flags() };
        for twice in [["[::]:1", "127.0.0.1:1"], ["127.0.0.1:1", "127.0.0.1:1"], ["0.0.0.0:1", "[::]:1"]] {
            assert_eq!(refused(RunFlags { tcp: at(&twice), ..open() }), "--tcp", "{twice:?}");
            assert_eq!(refused(RunFlags { udp: at(&twice), ..open() }), "--udp", "{twice:?}");
            let admin = AdminAddress::Tcp(at(&twice)[1]);
            assert_eq!(refused(RunFlags { tcp: at(&twice[..1]), admin, ..open() }), "--admin", "{twice:?}");
            assert!(Config::try_from(RunFlags { tcp: at(&twice[..1]), udp: at(&twice[1..]), ..open() }).is_ok());
        }
        for apart in [["127.0.0.1:0", "127.0.0.1:0"], ["0.0.0.0:1", "[::1]:1"], ["0.0.0.0:1", "0.0.0.0:2"]] {
            assert!(Config::try_from(RunFlags { tcp: at(&apart), ..open() }).is_ok(), "{apart:?}");
        }
    }

    #[test]
    fn the_admin_address_has_three_forms() {
        for text in ["off", "127.0.0.1:9600", "[::1]:0", "unix:run/engine.sock"] {
            assert_eq!(text.parse::<AdminAddress>().expect("a form of it").to_string(), text);
        }
        for text in ["", "on", "unix:", "127.0.0.1", "localhost:1"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn any_listener_replaces_both_defaults() {
        let listens = |flags| {
            let config = Config::try_from(flags).expect("allowed");
            (config.tcp.len(), config.udp.len())
        };
        let own = vec![SocketAddr::from(([127, 0, 0, 1], 514))];
        assert_eq!(listens(flags()), (1, 1));
        assert_eq!(listens(RunFlags { tcp: own.clone(), ..flags() }), (1, 0));
        assert_eq!(listens(RunFlags { udp: own.clone(), ..flags() }), (0, 1));
        assert_eq!(listens(RunFlags { tls: own, cert: vec!["c".into()], key: vec!["k".into()], ..flags() }), (1, 0));
    }

    #[test]
    fn certificates_come_in_pairs_and_with_tls() {
        let tls = || RunFlags { tls: vec![SocketAddr::from(([127, 0, 0, 1], 443))], ..flags() };
        let files = |count: usize| vec![PathBuf::from("file.pem"); count];
        assert_eq!(refused(tls()), "--tls");
        assert_eq!(refused(RunFlags { key: files(1), ..tls() }), "--tls");
        assert_eq!(refused(RunFlags { cert: files(2), key: files(1), ..tls() }), "--key");
        assert_eq!(refused(RunFlags { cert: files(1), key: files(1), ..flags() }), "--cert");
        assert_eq!(refused(RunFlags { client_ca: Some("ca.pem".into()), ..flags() }), "--client-ca");
        let optional = Some(ClientCertificates::Optional);
        assert_eq!(refused(RunFlags { client_certs: optional, ..flags() }), "--client-certs");
        let asks_nobody = RunFlags { cert: files(1), key: files(1), client_certs: optional, ..tls() };
        assert_eq!(refused(asks_nobody), "--client-certs");
        assert_eq!(refused(RunFlags { handshakes_max: 0, ..flags() }), "--handshakes-max");
        let long = RunFlags { buffer_bytes: 1 << 30, line_bytes_max: 1 << 25, ..flags() };
        assert_eq!(refused(long), "--line-bytes-max");
        let config = Config::try_from(RunFlags { cert: files(2), key: files(2), ..tls() }).expect("allowed");
        assert_eq!(config.certificates[0].pairs.len(), 2);
        assert!(config.tcp.iter().all(|listen| listen.spoken.tls && listen.certificates == Some(0)));
    }

    fn listen(proto: Proto) -> Listen {
        Listen {
            proto,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            framing: None,
            cert: Vec::new(),
            key: Vec::new(),
            client_ca: None,
            client_certs: None,
            proxy_from: Vec::new(),
            place: Some("engine.toml:3".to_owned()),
        }
    }

    #[test]
    fn each_listener_of_the_file_speaks_for_itself() {
        let pair =
            |name: &str| (vec![PathBuf::from(format!("{name}.pem"))], vec![PathBuf::from(format!("{name}.key"))]);
        let tls = |(cert, key)| Listen { cert, key, ..listen(Proto::Tls) };
        let (cert, key) = pair("common");
        let octet = Listen { framing: Some(Framing::Octet), ..listen(Proto::Tcp) };
        let own = vec![octet, listen(Proto::Tcp), tls(pair("own")), tls((Vec::new(), Vec::new())), tls(pair("own"))];
        let config = Config::try_from(RunFlags { listen: own, cert, key, framing: Framing::Auto, ..flags() });
        let config = config.expect("allowed");
        let sets: Vec<_> = config.tcp.iter().map(|listen| listen.certificates).collect();
        assert_eq!(sets, [None, None, Some(0), Some(1), Some(0)]);
        assert_eq!(config.certificates[1].pairs, [("common.pem".into(), "common.key".into())]);
        let framings: Vec<_> = config.tcp.iter().map(|listen| listen.spoken.framing).collect();
        assert_eq!(framings[..3], [Framing::Octet, Framing::Auto, Framing::Auto]);
        assert_eq!(config.udp, []);
    }

    #[test]
    fn what_is_wrong_with_a_listener_of_the_file_names_its_line_and_key() {
        let refused = |listen| refused(RunFlags { listen: vec![listen], ..flags() });
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 1));
        assert_eq!(refused(Listen { address: everywhere, ..listen(Proto::Udp) }), "engine.toml:3: addr");
        assert_eq!(refused(listen(Proto::Tls)), "engine.toml:3: addr");
        assert_eq!(refused(Listen { cert: vec!["c".into()], ..listen(Proto::Tls) }), "engine.toml:3: key");
        assert_eq!(refused(Listen { cert: vec!["c".into()], ..listen(Proto::Tcp) }), "engine.toml:3: cert");
        assert_eq!(refused(Listen { framing: Some(Framing::Lf), ..listen(Proto::Udp) }), "engine.toml:3: framing");
    }

    #[test]
    fn descriptors_are_shared() {
        let share = |limit, asked| Descriptors::share(limit, asked, 1, 2);
        assert_eq!(share(1024, None).expect("enough").connections, 664);
        assert_eq!(share(1 << 20, None).expect("enough").connections, 65_536);
        assert!(share(1 << 20, Some(0)).expect("enough").connections > 700_000);
        assert_eq!(share(1024, Some(885)).expect("enough"), Descriptors { connections: 885, files: 64 });
        assert!(share(1024, Some(886)).is_err());
        assert!(share(128, None).is_err());
        assert!(Descriptors::share(300, Some(120), 1, 60).is_err(), "every address takes two of each shard");
    }
}

//! The life of the process: start (probe, lock, recover, bind, serve), drain, end.
//!
//! ```text
//!  main thread     probe ─► lock ─► admin ─► recover ─► bind ─► ready ─► waits for the shard
//!  shard thread                                  └─► ring, shard ─► serves … drains ─► outcome
//!  signal thread                                               SIGTERM ─► mailbox
//!  admin thread                     └─► /metrics /healthz /readyz, until the shard has ended
//!  disk thread                                      free space low, or not ─► mailbox
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::Admin;
use crate::admin::watch::{Desk, Reporter, Watch};
use crate::config::{Config, Descriptors};
use crate::diag::{self, Level, log, quoted, say};
use crate::driver::uring::{Mailbox, Uring, probe, refused};
use crate::error::{EngineError, StartError};
use crate::limits::{DISK_FREE_MIN_DEFAULT, DISK_FREE_PERCENT_DEFAULT, DISK_WATCH, RECV_BUFFERS};
use crate::metrics::Report;
use crate::segment::Position;
use crate::shard::{Command, LogLimits, Notice, Outcome, Shard, ShardConfig};
use crate::store::recover::{Recovered, recover};
use crate::sys::listener::{Listener, listen};
use crate::sys::{DataDir, DataLock};

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    addresses: Vec<SocketAddr>,
    mailbox: Mailbox,
    shard: JoinHandle<io::Result<Outcome>>,
    disk_watch: DiskWatch,
    admin: Option<Admin>,
    // Released last: until then nobody else may use the directory.
    lock: DataLock,
}

/// Tells a running engine to end, from any thread.
#[derive(Clone, Debug)]
pub struct Drainer(Mailbox);

impl Drainer {
    /// Finishes what is under way; a second call cuts that short.
    pub fn drain(&self) {
        self.0.send(Command::Drain);
    }
}

impl Engine {
    /// Starts an engine: when this returns, every listener is bound and entries are stored.
    ///
    /// # Errors
    /// The host or the data directory refuses.
    pub fn start(config: &Config) -> Result<Self, EngineError> {
        probe()?;
        let descriptors = Descriptors::share(raise_descriptor_limit(), config.connections_max)?;
        let data = Arc::new(DataDir::open(&config.data)?);
        let lock = data.lock()?;
        data.meta()?;
        let watch = Arc::new(Watch::new(Arc::clone(&data)));
        let admin = Admin::start(&config.admin, Arc::clone(&watch))?;
        if let Some(admin) = &admin {
            say(Level::Info, format_args!("listening proto=admin addr={}", admin.address()));
        }
        let recovered = recover(&data)?;
        let segments_sealed = recovered.segments - recovered.logs.len() as u64;
        say(
            Level::Info,
            format_args!(
                "recovered logs={} segments={} bytes={} quarantined_files={} quarantined_bytes={} unknown={}",
                recovered.logs.len(),
                recovered.segments,
                recovered.bytes,
                recovered.quarantined_files,
                recovered.quarantined_bytes,
                recovered.unknown
            ),
        );
        let listeners = config.tcp.iter().map(|address| listen(*address)).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
        let mailbox = Mailbox::new().map_err(no_resources)?;
        let disk_watch = DiskWatch::start(Arc::clone(&data), config.disk_free_min, mailbox.clone())?;
        let shard_config = shard_config(config, descriptors, listeners.len());
        let (reporter, desk) = Desk::new(mailbox.clone());
        let shard = start_shard(shard_config, recovered, listeners, data, mailbox.clone(), reporter)?;
        watch.serve(addresses.iter().map(SocketAddr::to_string).collect(), segments_sealed, vec![desk]);
        Ok(Self { addresses, mailbox, shard, disk_watch, admin, lock })
    }

    /// Where it listens, in the order of the flags, with real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle that ends it.
    #[must_use]
    pub fn drainer(&self) -> Drainer {
        Drainer(self.mailbox.clone())
    }

    /// Waits until the engine has ended.
    ///
    /// # Errors
    /// The ring failed.
    pub fn join(self) -> io::Result<Outcome> {
        let Self { shard, disk_watch, admin, lock, .. } = self;
        let outcome = shard.join().expect("a panic of a shard ends the process");
        drop(disk_watch);
        drop(admin);
        drop(lock);
        outcome
    }
}

/// `engine run`: serves until a signal ends it. Returns the bytes that could not be stored.
///
/// # Errors
/// The host or the data directory refuses, or the ring fails.
pub fn run(config: &Config) -> Result<u64, EngineError> {
    diag::configure(config.log_level, config.log_format);
    // From here on a signal drains, also during the start.
    let signals = Signals::new([SIGTERM, SIGINT]).map_err(no_resources)?;
    let engine = Engine::start(config)?;
    for address in engine.addresses() {
        say(Level::Info, format_args!("listening proto=tcp addr={address}"));
    }
    drain_on_signals(signals, engine.drainer())?;
    say(Level::Info, format_args!("ready"));
    let outcome = engine.join().map_err(EngineError::Ring)?;
    let unstored = outcome.unstored_bytes;
    diag::finish();
    if unstored > 0 {
        say(Level::Error, format_args!("storage still refuses unstored_bytes={unstored}"));
    }
    say(Level::Info, format_args!("drained {}", outcome.counters));
    Ok(unstored)
}

fn drain_on_signals(mut signals: Signals, drainer: Drainer) -> Result<(), StartError> {
    let work = move || {
        for signal in signals.forever() {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            say(Level::Info, format_args!("draining signal={name}"));
            drainer.drain();
        }
    };
    // Lives as long as the process: it only waits.
    std::thread::Builder::new().name("signals".into()).spawn(work).map(drop).map_err(no_resources)
}

fn shard_config(config: &Config, descriptors: Descriptors, listeners: usize) -> ShardConfig {
    ShardConfig {
        line_bytes_max: config.line_bytes_max,
        oversize: config.oversize,
        buffer_bytes: config.buffer_bytes,
        connections_max: descriptors.connections,
        drain_timeout: config.drain_timeout,
        listeners: u32::try_from(listeners).expect("a command line has fewer than 2^32 flags"),
        recv_buffers: usize::from(RECV_BUFFERS),
        logs: LogLimits {
            linger: config.linger,
            segment_bytes: config.segment_bytes,
            tokens_max: config.tokens_max,
            open_files_max: descriptors.files,
        },
    }
}

/// Starts the shard's thread and waits until its ring works.
fn start_shard(
    config: ShardConfig,
    recovered: Recovered,
    listeners: Vec<Listener>,
    data: Arc<DataDir>,
    mailbox: Mailbox,
    reporter: Reporter,
) -> Result<JoinHandle<io::Result<Outcome>>, StartError> {
    let (started, start) = channel();
    let fds: Vec<OwnedFd> = listeners.into_iter().map(|listener| listener.fd).collect();
    let work = move || {
        let mut driver = match Uring::new(fds, data, mailbox) {
            Ok(driver) => driver,
            Err(error) => {
                let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
                let _told = started.send(Err(copy));
                return Err(error);
            }
        };
        let mut shard = Shard::new(config);
        for log in recovered.logs {
            shard.resume_log(log.token, log.base, Position(log.len));
        }
        let _told = started.send(Ok(()));
        let outcome = driver.run(&mut shard, |notice| match notice {
            Notice::Report(report) => reporter.post(*report),
            notice => tell(notice),
        });
        reporter.end(Report { load: driver.load(), ..shard.report(0) });
        outcome
    };
    let shard = std::thread::Builder::new().name("shard-0".into()).spawn(work).map_err(no_resources)?;
    match start.recv() {
        Ok(Ok(())) => Ok(shard),
        Ok(Err(error)) => Err(refused(error)),
        Err(_) => unreachable!("the shard's thread answers before it ends, or ends the process"),
    }
}

fn no_resources(error: io::Error) -> StartError {
    let problem = "the system refuses a thread, a ring or memory; raise the limits (ulimit -a)";
    StartError::new("start", problem).because(error)
}

fn tell(notice: Notice) {
    match notice {
        Notice::Foreign { reason, seen } => {
            log(Level::Warn, format_args!("connection closed reason={reason} seen={seen}"));
        }
        Notice::AcceptFailed(error) => {
            log(Level::Warn, format_args!("accept failed, trying again error={}", quoted(&error)));
        }
        Notice::StorageRefused(error) => {
            let error = quoted(&error);
            log(Level::Error, format_args!("storage refuses, reading stops until it works again error={error}"));
        }
        Notice::StorageResumed => log(Level::Info, format_args!("storage works again")),
        Notice::DiskLow(true) => {
            log(Level::Warn, format_args!("free space is below --disk-free-min, reading stops until there is room"));
        }
        // The control side's: taken before.
        Notice::Report(_) => {}
        Notice::DiskLow(false) => log(Level::Info, format_args!("free space is above --disk-free-min again")),
    }
}

/// Raises the soft descriptor limit to the hard one and returns it.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A refusal leaves the soft limit as it was.
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// Looks at the free space from time to time and tells the shard when it falls below the minimum, or is above again.
/// Off the shard's thread, which makes no such call.
#[derive(Debug)]
struct DiskWatch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DiskWatch {
    fn start(data: Arc<DataDir>, free_min: Option<u64>, mailbox: Mailbox) -> Result<Self, StartError> {
        let free_min = if let Some(bytes) = free_min {
            bytes
        } else {
            let total = data.total_bytes().map_err(no_resources)?;
            DISK_FREE_MIN_DEFAULT.min(total / 100 * DISK_FREE_PERCENT_DEFAULT)
        };
        if free_min == 0 {
            return Ok(Self { end: None, thread: None });
        }
        let (end, ended) = channel();
        let work = move || {
            let mut was_low = false;
            loop {
                // A failed look says nothing new.
                let low = data.free_bytes().map_or(was_low, |free| free < free_min);
                if low != was_low {
                    mailbox.send(Command::DiskLow(low));
                    was_low = low;
                }
                if ended.recv_timeout(DISK_WATCH) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("disk".into()).spawn(work).map_err(no_resources)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

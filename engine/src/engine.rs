//! The life of the process: start (probe, lock, recover, bind, serve), drain, end.
//!
//! ```text
//!  main thread     probe ─► lock ─► admin ─► recover ─► bind ─► all rings up ─► ready ─► waits for the shards
//!  shard threads                                           └─► ring, shard ──┴─► serves … drains ─► outcome
//!  signal thread                                                         SIGTERM ─► mailboxes; SIGHUP ─► reload
//!  files thread             files changed, SIGHUP ─► what new handshakes show, lists of tokens in mailboxes
//!  admin thread                     └─► /metrics /healthz /readyz, until the shards have ended
//!  keeper thread                         sealed segments: indexed, compressed, deleted
//!  disk thread                                                free space low, or not ─► mailboxes
//! ```

mod certificates;
mod disk;
mod files;
mod keeping;
mod recovery;
mod reload;
mod tokens;

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use certificates::Certificates;
use disk::{DiskWatch, Refused};
use files::FileWatch;
use keeping::Keeping;
use recovery::make_ready;
use reload::Live;
pub use reload::{Reloader, Reread};
use tokens::Tokens;

use crate::admin::Admin;
use crate::admin::watch::{Desk, Progress, Reporter, Segments, SegmentsAtStart, Watch};
use crate::config::{Config, Descriptors, Resolved, Setting};
use crate::diag::{self, Level, log, quoted, say};
use crate::driver::uring::{Files, Mailbox, Neighbours, SyncThread, Uring, probe, refused};
use crate::error::{EngineError, Exit, RecoverError, StartError, wants_room};
use crate::handover::ShardId;
use crate::limits::{DRAIN_PROGRESS, LOG_WINDOW, NOTICES_MAX, RECV_BUFFERS, UDP_BUFFERS};
use crate::metrics::{Limit, Report, constants};
use crate::route::{KnownTokens, Ownership};
use crate::segment::{LogName, Offset, Position, segment_name};
use crate::shard::{
    Allowance, Command, JournalStart, KeeperMail, LogLimits, Notice, Outcome, RejectedRoom, Removal, Resumed, Shard,
    ShardConfig, SyncLevel,
};
use crate::store::keep::{Kept, Rules};
use crate::store::recover::{RecoveredLog, RecoveredSegment};
use crate::sys::affinity::{allowed_cores, may_pin, pin, usable_cores};
use crate::sys::listener::{Listener, listen};
use crate::sys::udp::{UdpListener, listen_udp};
use crate::sys::{DataDir, DataLock, host};
use crate::tls;

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    addresses: Vec<SocketAddr>,
    udp_addresses: Vec<SocketAddr>,
    mailboxes: Vec<Mailbox>,
    shards: Vec<JoinHandle<io::Result<Outcome>>>,
    /// Writes what the shards say; ends with them.
    teller: JoinHandle<()>,
    /// Where [`Event`]s come from, and where they come in.
    events: (Sender<Event>, Receiver<Event>),
    watch: Arc<Watch>,
    disk_watch: DiskWatch,
    keeping: Keeping,
    files: FileWatch,
    live: Live,
    admin: Option<Admin>,
    // Released last: until then nobody else may use the directory.
    lock: DataLock,
}

/// What the main thread waits for while the shards run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Draining,
    ShardEnded,
}

/// Tells a running engine to end, from any thread.
#[derive(Clone, Debug)]
pub struct Drainer {
    mailboxes: Vec<Mailbox>,
    events: Sender<Event>,
}

impl Drainer {
    /// Finishes what is under way; a second call cuts that short.
    pub fn drain(&self) {
        tell_all(&self.mailboxes, &Command::Drain);
        // Nobody waits any more if the engine has ended.
        let _told = self.events.send(Event::Draining);
    }
}

/// Tells a running engine to begin new segments, from any thread.
#[derive(Clone, Debug)]
pub struct Roller(Vec<Mailbox>);

impl Roller {
    /// Every segment that has entries ends before the next entry of its log.
    pub fn roll(&self) {
        tell_all(&self.0, &Command::Roll);
    }
}

impl Engine {
    /// Starts an engine: when this returns, every listener is bound and entries are stored.
    ///
    /// # Errors
    /// The host or the data directory refuses.
    pub fn start(config: &Config) -> Result<Self, EngineError> {
        Self::start_unless(config, &mut || false)
    }

    /// The same; during recovery, or while that waits for room on the disk, `stopped` may end it.
    ///
    /// # Errors
    /// As [`Engine::start`]; [`RecoverError::Stopped`].
    pub fn start_unless(config: &Config, stopped: &mut dyn FnMut() -> bool) -> Result<Self, EngineError> {
        // What is wrong with a flag is said before anything is touched.
        let certificates = Certificates::load(&config.certificates)?;
        let tokens = config.tokens.clone().map(Tokens::load).transpose()?;
        let limit = host::raise_descriptor_limit();
        probe()?;
        let shards = usize::from(config.shards);
        let descriptors = config.descriptors(limit)?;
        let data = Arc::new(DataDir::open(&config.data)?);
        let lock = data.lock()?;
        let meta = data.meta()?;
        let disk_free_min = config.disk_free_min()?;
        let limits = limits_in_force(config, descriptors, disk_free_min);
        let servers: Vec<_> = certificates.iter().map(|shown| shown.server().clone()).collect();
        let watch = Arc::new(Watch::new(Arc::clone(&data), limits, servers.clone()));
        let admin = Admin::start(&config.admin, Arc::clone(&watch))?;
        if let Some(admin) = &admin {
            say(Level::Info, format_args!("listening proto=admin addr={}", admin.address()));
        }
        let ownership = Ownership::over(config.shards);
        let (recovered, starts) = make_ready(&data, meta, &ownership, config.accept_loss, stopped)?;
        let (listeners, udp) = bind(config, shards)?;
        tell_listening(config, &listeners, &udp);
        let addresses: Vec<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
        let udp_addresses = udp.iter().map(|listener| listener.address).collect();
        let mailboxes = (0..shards).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>().map_err(no_resources)?;
        let refused = Refused::default();
        let disk_watch = DiskWatch::start(Arc::clone(&data), disk_free_min, mailboxes.clone(), Arc::clone(&refused))?;
        let live = Live::new(config, mailboxes.clone(), Arc::clone(&watch));
        let known = tokens.as_ref().map(Tokens::known);
        let logs = log_limits(config, descriptors, known, &live, recovered.rejected_bytes);
        let common = Common { descriptors, servers: &servers, live: &live, logs: &logs, ownership: &ownership };
        let configs = shard_configs(config, &common, &starts);
        let kept = Arc::new(Kept::default());
        let asks = asks_owners(ownership.clone(), mailboxes.clone());
        let keeping = Keeping::start(Arc::clone(&data), config.keep, &recovered, Arc::clone(&kept), asks)?;
        let at_start = SegmentsAtStart::of(&recovered);
        let mut logs_found = recovered.logs;
        logs_found.extend(recovered.rejected);
        let sync_threads = SyncThread::start(&data, shards).map_err(no_resources)?;
        let parts = share_out(configs, logs_found, listeners, udp, &mailboxes, sync_threads);
        let (reporters, desks) = mailboxes.iter().cloned().map(Desk::new).unzip();
        let events = channel();
        let (notices, notices_in) = sync_channel(NOTICES_MAX);
        let untold = Arc::default();
        let untold_in = Arc::clone(&untold);
        let tells = move || tell_until_the_end(&notices_in, &untold_in);
        let teller = std::thread::Builder::new().name("notices".into()).spawn(tells).map_err(no_resources)?;
        let shards = start_shards(
            parts,
            reporters,
            &Ends { data, notices, untold, events: events.0.clone(), keeper: keeping.mail(), refused },
        )?;
        let tokens = tokens.map(|tokens| tokens.watched(mailboxes.clone()));
        let watched = certificates.into_iter().map(Certificates::watched).chain(tokens);
        let files = FileWatch::start(watched.collect(), Arc::clone(&watch))?;
        watch.serve(addresses.iter().map(SocketAddr::to_string).collect(), Segments { at_start, kept }, desks);
        Ok(Self {
            addresses,
            udp_addresses,
            mailboxes,
            shards,
            teller,
            events,
            watch,
            disk_watch,
            keeping,
            files,
            live,
            admin,
            lock,
        })
    }

    /// Where it takes connections, in the order of the flags, with real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it takes datagrams, in the order of the flags, with real ports.
    #[must_use]
    pub fn udp_addresses(&self) -> &[SocketAddr] {
        &self.udp_addresses
    }

    /// A handle that ends it.
    #[must_use]
    pub fn drainer(&self) -> Drainer {
        Drainer { mailboxes: self.mailboxes.clone(), events: self.events.0.clone() }
    }

    /// A handle that makes it begin new segments.
    #[must_use]
    pub fn roller(&self) -> Roller {
        Roller(self.mailboxes.clone())
    }

    /// A handle that makes it read its files again; it was started with these settings.
    #[must_use]
    pub fn reloader(&self, settings: Vec<Setting>, reread: Reread) -> Reloader {
        Reloader { live: self.live.clone(), files: self.files.clone(), settings, reread }
    }

    /// Waits until the engine has ended.
    ///
    /// # Errors
    /// The ring failed.
    pub fn join(self) -> io::Result<Outcome> {
        self.wait_for_shards();
        let Self { shards, teller, disk_watch, keeping, admin, lock, .. } = self;
        let mut all = Outcome::default();
        for shard in shards {
            all.add(&shard.join().expect("a panic of a shard ends the process")?);
        }
        // What the shards said comes before what is said of their end.
        teller.join().expect("a panic ends the process");
        drop(disk_watch);
        drop(keeping);
        drop(admin);
        drop(lock);
        Ok(all)
    }

    /// Until all shards have ended. A drain may take its time: what it waits for is said again and again.
    fn wait_for_shards(&self) {
        let (mut running, mut draining) = (self.shards.len(), false);
        while running > 0 {
            let wait = if draining { DRAIN_PROGRESS } else { Duration::MAX };
            match self.events.1.recv_timeout(wait) {
                Ok(Event::Draining) => draining = true,
                Ok(Event::ShardEnded) => running -= 1,
                Err(_) => self.say_progress(),
            }
        }
    }

    fn say_progress(&self) {
        let Some(Progress { connections, unwritten_bytes }) = self.watch.progress() else { return };
        say(Level::Info, format_args!("still draining connections={connections} unwritten_bytes={unwritten_bytes}"));
    }
}

/// `engine run`: serves until a signal ends it. Says whether everything that was received is stored. `reread` resolves the
/// configuration again.
///
/// # Errors
/// The host or the data directory refuses, or the ring fails.
pub fn run(Resolved { config, settings }: Resolved, reread: Reread) -> Result<bool, EngineError> {
    diag::configure(config.log_level, config.log_format);
    // From here on a signal ends the start, or drains once that is beyond recovery.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(no_resources)?;
    // What else came during recovery is done after it.
    let mut deferred = BTreeSet::new();
    let mut stopped = || {
        deferred.extend(signals.pending());
        deferred.contains(&SIGTERM) || deferred.contains(&SIGINT)
    };
    let engine = match Engine::start_unless(&config, &mut stopped) {
        Ok(engine) => engine,
        Err(EngineError::Recover(RecoverError::Stopped)) => {
            say(Level::Info, format_args!("stopped during recovery: nothing was received, the next start recovers"));
            return Ok(true);
        }
        Err(EngineError::Config(error)) => return Err(Resolved::named(&settings, error).into()),
        Err(error) => return Err(error),
    };
    obey_signals(deferred, signals, engine.drainer(), engine.reloader(settings, reread), engine.roller())?;
    say(Level::Info, format_args!("ready"));
    let outcome = engine.join().map_err(EngineError::Ring)?;
    diag::finish();
    let unstored = outcome.unstored_bytes;
    if unstored > 0 {
        say(
            Level::Error,
            format_args!("storage still refuses; lost with what sockets still held: unstored_bytes={unstored}"),
        );
    }
    if outcome.abandoned_queue {
        say(
            Level::Error,
            format_args!(
                "connections or datagrams left in a queue: taking them failed to the end; raise the descriptor limit"
            ),
        );
    }
    if outcome.unsynced {
        say(
            Level::Error,
            format_args!(
                "a sync failed at the end: what was written since the last good one may be lost; look at the disk"
            ),
        );
    }
    say(Level::Info, format_args!("drained {}", outcome.counters));
    Ok(unstored == 0 && !outcome.abandoned_queue && !outcome.unsynced)
}

type Bound = (Vec<Listener>, Vec<UdpListener>);

fn bind(config: &Config, shards: usize) -> Result<Bound, StartError> {
    let bound = config.tcp.iter().map(|tcp| {
        let flag = if tcp.spoken.tls { "--tls" } else { "--tcp" };
        listen(tcp.address, flag, shards)
    });
    let listeners = bound.collect::<Result<Vec<_>, _>>()?;
    let bound = config.udp.iter().map(|address| listen_udp(*address, shards));
    let udp = bound.collect::<Result<Vec<_>, _>>()?;
    Ok((listeners, udp))
}

fn tell_listening(config: &Config, tcp: &[Listener], udp: &[UdpListener]) {
    for (listener, flag) in tcp.iter().zip(&config.tcp) {
        let proto = if flag.spoken.tls { "tls" } else { "tcp" };
        say(Level::Info, format_args!("listening proto={proto} addr={}", listener.address));
    }
    for UdpListener { address, receive_buffer_bytes, .. } in udp {
        say(
            Level::Info,
            format_args!("listening proto=udp addr={address} receive_buffer_bytes={receive_buffer_bytes}"),
        );
    }
}

fn obey_signals(
    deferred: BTreeSet<c_int>,
    mut signals: Signals,
    drainer: Drainer,
    mut reloader: Reloader,
    roller: Roller,
) -> Result<(), StartError> {
    let work = move || {
        for signal in deferred.into_iter().chain(signals.forever()) {
            if signal == SIGHUP {
                reloader.reload();
                continue;
            }
            if signal == SIGUSR1 {
                roller.roll();
                say(Level::Info, format_args!("rolling every log, each with its next entry"));
                continue;
            }
            // First: a log that nobody reads may hold up who writes to it.
            drainer.drain();
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            say(Level::Info, format_args!("draining signal={name}"));
        }
    };
    // Lives as long as the process: it only waits.
    std::thread::Builder::new().name("signals".into()).spawn(work).map(drop).map_err(no_resources)
}

fn tell_all(mailboxes: &[Mailbox], command: &Command) {
    for mailbox in mailboxes {
        mailbox.send(command.clone());
    }
}

/// Passes a question of the keeper on to the shard that owns the log.
fn asks_owners(ownership: Ownership, mailboxes: Vec<Mailbox>) -> impl Fn(Removal) + Send + 'static {
    move |removal| mailboxes[usize::from(ownership.owner(removal.token).0)].send(Command::Record(removal))
}

/// What flags and the host allow, and the constants.
fn limits_in_force(config: &Config, descriptors: Descriptors, disk_free_min: u64) -> Vec<Limit> {
    let mut limits = vec![
        Limit::new("connections_max", descriptors.connections),
        Limit::new("connections_per_ip_max", config.connections_per_ip_max),
        Limit::new("handshakes_max", config.handshakes_max),
        Limit::new("open_files_max", descriptors.files),
        Limit::new("line_bytes_max", config.line_bytes_max),
        Limit::new("shards", config.shards),
        Limit::new("buffer_bytes", config.buffer_bytes),
        Limit::new("linger", config.linger),
        Limit::new("segment_bytes", config.segment.bytes),
        Limit::new("segment_age", config.segment.age),
        Limit::new("disk_free_min", disk_free_min),
        Limit::new("drain_timeout", config.drain_timeout),
    ];
    if config.tokens.is_none() {
        limits.push(Limit::new("tokens_max", config.tokens_max));
        limits.push(Limit::new("tokens_per_second", config.tokens_per_second.unwrap_or(0)));
    }
    let Rules { compress_after, retain_bytes, retain_age } = config.keep;
    if let SyncLevel::Interval(interval) = config.sync {
        limits.push(Limit::new("sync_interval", interval));
    }
    limits.extend(config.rejected_bytes_max.map(|bytes| Limit::new("rejected_bytes_max", bytes)));
    limits.extend(retain_bytes.map(|bytes| Limit::new("retain_bytes", bytes)));
    limits.extend(retain_age.map(|age| Limit::new("retain_age", age)));
    limits.extend(compress_after.map(|age| Limit::new("compress_after", age)));
    limits.extend(constants());
    limits
}

/// What the logs of a shard are allowed, and of the rejected lines all together; so many bytes of these are there already.
fn log_limits(
    config: &Config,
    descriptors: Descriptors,
    known: Option<Arc<KnownTokens>>,
    live: &Live,
    rejected_bytes: u64,
) -> LogLimits {
    let room = |bytes_max: u64| RejectedRoom::new(bytes_max.saturating_sub(rejected_bytes));
    LogLimits {
        linger: config.linger,
        segment: config.segment,
        tokens: live.tokens.clone(),
        known,
        rejected: config.rejected_bytes_max.map(room),
        open_files_max: descriptors.files / usize::from(config.shards),
    }
}

/// What all shards have in common.
struct Common<'a> {
    descriptors: Descriptors,
    servers: &'a [tls::Server],
    live: &'a Live,
    logs: &'a LogLimits,
    ownership: &'a Ownership,
}

fn shard_configs(config: &Config, common: &Common<'_>, starts: &[JournalStart]) -> Vec<ShardConfig> {
    let Common { descriptors, servers, live, logs, ownership } = *common;
    let connections = Allowance::new(descriptors.connections);
    let tls = config.tcp.iter().map(|tcp| tcp.certificates.map(|set| servers[set].clone()));
    let tls: Vec<_> = tls.collect();
    let shard = |(id, start): (u16, &JournalStart)| ShardConfig {
        id: ShardId(id),
        ownership: ownership.clone(),
        line_bytes_max: config.line_bytes_max,
        oversize: config.oversize,
        buffer_bytes: config.buffer_bytes,
        connections: connections.clone(),
        per_address: live.per_address.clone(),
        drain_timeout: config.drain_timeout,
        listeners: config.tcp.iter().map(|tcp| tcp.spoken.clone()).collect(),
        tls: tls.clone(),
        handshakes_max: config.handshakes_max,
        recv_buffers: usize::from(RECV_BUFFERS),
        udp_sockets: u32::try_from(config.udp.len()).expect("a command line has fewer than 2^32 flags"),
        udp_buffers: usize::from(UDP_BUFFERS),
        udp_creates: config.udp_creates,
        logs: logs.clone(),
        journal: *start,
        sync: config.sync,
    };
    (0..).zip(starts).map(shard).collect()
}

/// What one shard's thread starts with.
#[derive(Debug)]
struct Part {
    config: ShardConfig,
    /// `None`: where the scheduler puts it.
    core: Option<usize>,
    logs: Vec<RecoveredLog>,
    listeners: Vec<OwnedFd>,
    udp: Vec<OwnedFd>,
    mailbox: Mailbox,
    sync_thread: SyncThread,
    neighbours: Neighbours,
}

/// Gives every shard its core, its listeners, and the logs that it owns.
fn share_out(
    configs: Vec<ShardConfig>,
    logs: Vec<RecoveredLog>,
    mut listeners: Vec<Listener>,
    mut udp: Vec<UdpListener>,
    mailboxes: &[Mailbox],
    sync_threads: Vec<SyncThread>,
) -> Vec<Part> {
    let cores = allowed_cores();
    let usable = usable_cores();
    if configs.len() > usable {
        say(Level::Warn, format_args!("more shards than cores shards={} cores={usable}", configs.len()));
    }
    let pins = may_pin(cores.len(), usable);
    let shards = u16::try_from(configs.len()).expect("--shards is at most 256");
    let part = |((config, core), ((mailbox, neighbours), sync_thread)): ((_, &usize), ((&Mailbox, _), _))| Part {
        config,
        core: pins.then_some(*core),
        logs: Vec::new(),
        listeners: listeners.iter_mut().filter_map(|listener| listener.fds.pop()).collect(),
        udp: udp.iter_mut().filter_map(|listener| listener.fds.pop()).collect(),
        mailbox: mailbox.clone(),
        sync_thread,
        neighbours,
    };
    let houses = mailboxes.iter().zip(Neighbours::street(shards)).zip(sync_threads);
    let mut parts: Vec<Part> = configs.into_iter().zip(cores.iter().cycle()).zip(houses).map(part).collect();
    for log in logs {
        let owner = parts[0].config.ownership.owner_of_log(log.name);
        parts[usize::from(owner.0)].logs.push(log);
    }
    parts
}

/// What every shard's thread shares with the rest of the process.
struct Ends {
    data: Arc<DataDir>,
    notices: SyncSender<Notice>,
    /// How many of them found no room since somebody looked.
    untold: Arc<AtomicU64>,
    events: Sender<Event>,
    keeper: Sender<KeeperMail>,
    refused: Refused,
}

/// Starts the shards' threads and lets them run when every ring is there: from then on each may wake each other.
fn start_shards(
    parts: Vec<Part>,
    reporters: Vec<Reporter>,
    ends: &Ends,
) -> Result<Vec<JoinHandle<io::Result<Outcome>>>, StartError> {
    let mut shards = Vec::new();
    let mut starts = Vec::new();
    for (part, reporter) in parts.into_iter().zip(reporters) {
        let (notices, untold, events) = (ends.notices.clone(), Arc::clone(&ends.untold), ends.events.clone());
        let (started, start) = channel();
        let (go, may_go) = channel::<()>();
        let (data, keeper) = (Arc::clone(&ends.data), ends.keeper.clone());
        let refused_storage = Arc::clone(&ends.refused);
        let name = format!("shard-{}", part.config.id.0);
        let work = move || {
            let (mut driver, mut shard) = match set_up(part, data, keeper.clone()) {
                Ok(ready) => ready,
                Err(error) => {
                    // The one who waits for this tells the operator.
                    let _told = started.send(Err(error));
                    return Err(io::ErrorKind::Other.into());
                }
            };
            let _told = started.send(Ok(()));
            // An error means that another shard could not start: there is nothing to run.
            if may_go.recv().is_err() {
                return Err(io::ErrorKind::Other.into());
            }
            let outcome = driver.run(&mut shard, |notice| match notice {
                Notice::Report(report) => reporter.post(*report),
                // Nobody waits for it any more if the engine ends.
                Notice::Recorded(removal) => drop(keeper.send(KeeperMail::Recorded(removal))),
                // A slow reader of stderr must not stop the shard: what it has no room for is only counted.
                notice => {
                    if matches!(&notice, Notice::StorageRefused(error) if wants_room(error)) {
                        refused_storage.store(true, Ordering::Relaxed);
                    }
                    untold.fetch_add(notices.try_send(notice).is_err().into(), Ordering::Relaxed);
                }
            });
            if let Err(error) = &outcome {
                // The others would wait for this shard, and clients for all of them: no half-dead service.
                say(Level::Error, format_args!("a shard's ring failed, the engine ends error={}", quoted(error)));
                #[expect(clippy::exit, reason = "as after a panic: nothing can be finished without this shard")]
                std::process::exit(Exit::Unexpected as i32);
            }
            reporter.end(Report { load: driver.load(), ..shard.report(0) });
            let _told = events.send(Event::ShardEnded);
            outcome
        };
        shards.push(std::thread::Builder::new().name(name).spawn(work).map_err(no_resources)?);
        starts.push((start, go));
    }
    for (start, _) in &starts {
        start.recv().expect("a shard's thread answers before it ends, or ends the process").map_err(refused)?;
    }
    for (_, go) in &starts {
        go.send(()).expect("a shard's thread waits for this");
    }
    Ok(shards)
}

/// On the shard's own thread: its ring, and the shard with its logs.
fn set_up(part: Part, data: Arc<DataDir>, keeper: Sender<KeeperMail>) -> io::Result<(Uring, Shard)> {
    let files = Files { data, run: part.config.journal.run_id(), keeper };
    let driver = Uring::new(part.listeners, part.udp, files, part.sync_thread, part.mailbox, part.neighbours)?;
    // After the file thread was started, which may run anywhere.
    if let Some(core) = part.core {
        pin(core);
    }
    let mut shard = Shard::new(part.config);
    shard.reserve_logs(part.logs.len());
    for log in part.logs {
        let RecoveredSegment { base, length, synced, sealed, .. } = log.newest;
        shard.resume_log(log.name, Resumed { base, length, synced, sealed, doubt: log.doubt, age: log.age });
    }
    Ok((driver, shard))
}

fn no_resources(error: io::Error) -> StartError {
    let problem = "the system refuses a thread, a ring or memory; raise the limits (ulimit -a)";
    StartError::new("start", problem).because(error)
}

/// Says what the shards have to say until all have ended, and what was held back once they are quiet.
fn tell_until_the_end(notices: &Receiver<Notice>, untold: &AtomicU64) {
    loop {
        let notice = notices.recv_timeout(LOG_WINDOW);
        diag::hold_back(Level::Warn, "notice of a shard", untold.swap(0, Ordering::Relaxed));
        match notice {
            Ok(notice) => tell(notice),
            Err(RecvTimeoutError::Timeout) => diag::catch_up(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn tell(notice: Notice) {
    match notice {
        Notice::Closed { reason, seen, peer } => {
            let peer = peer.map_or_else(String::new, |peer| format!(" peer={peer}"));
            log(Level::Warn, format_args!("connection closed reason={reason} seen={seen}{peer}"));
        }
        Notice::HandshakeFailed { reason, seen } => {
            log(Level::Warn, format_args!("tls handshake failed seen={seen} error={}", quoted(&reason)));
        }
        Notice::TlsBroken { reason, seen } => {
            log(Level::Warn, format_args!("tls connection broken off seen={seen} error={}", quoted(&reason)));
        }
        Notice::AcceptPaused { seen } => {
            log(
                Level::Warn,
                format_args!("as many connections as --connections-max allows, newcomers wait seen={seen}"),
            );
        }
        Notice::HandshakesCrowded { waiting } => {
            log(
                Level::Warn,
                format_args!(
                    "tls handshakes wait for the end of others: --handshakes-max are in progress waiting={waiting}"
                ),
            );
        }
        Notice::UdpFailed(error) => {
            log(Level::Warn, format_args!("receiving datagrams failed, trying again error={}", quoted(&error)));
        }
        Notice::AcceptFailed(error) => {
            log(Level::Warn, format_args!("accept failed, trying again error={}", quoted(&error)));
        }
        Notice::StorageRefused(error) => {
            let error = quoted(&error);
            log(Level::Error, format_args!("storage refuses, reading stops until it works again error={error}"));
        }
        Notice::LogRefused { name, error } => {
            let log_name = name.shortened();
            log(
                Level::Error,
                format_args!(
                    "a log cannot be opened, its entries wait; mend its directory log={log_name} error={}",
                    quoted(&error)
                ),
            );
        }
        Notice::SyncFailed(error) => {
            let error = quoted(&error);
            log(Level::Error, format_args!("a sync failed, the disk may have lost something error={error}"));
        }
        Notice::Poisoned { name, base, from, to } => tell_poisoned(name, base, from, to),
        Notice::StorageResumed => log(Level::Info, format_args!("storage works again")),
        Notice::DiskLow(true) => {
            log(
                Level::Warn,
                format_args!(
                    "free space is below --disk-free-min, or the reserve is spent: reading stops until there is room"
                ),
            );
        }
        // The control side's: taken before.
        Notice::Report(_) | Notice::Recorded(_) => {}
        Notice::DiskLow(false) => log(Level::Info, format_args!("free space is above --disk-free-min again")),
    }
}

fn tell_poisoned(log_name: LogName, base: Offset, from: Position, to: Position) {
    let (log_name, name) = (log_name.shortened(), segment_name(base));
    if from == to {
        log(
            Level::Error,
            format_args!("a segment is given up, nothing of it is lost log={log_name} segment={name} length={}", to.0),
        );
    } else {
        log(
            Level::Error,
            format_args!(
                "a segment is given up and may have lost a range log={log_name} segment={name} from={} to={}",
                from.0, to.0
            ),
        );
    }
}

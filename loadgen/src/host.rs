//! What this host is, and which cores generator and receiver may use: all of it from `/proc` and `/sys`.
//!
//! Anything that cannot be read is left out: a report without it is still a report.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::plan::Proto;
use crate::sys::{process_time, run_first};

/// A thread that took at least this part of its process's time counts as one that works.
const BUSY_PART: u64 = 10;
/// The lowest priority.
const NICE_MAX: i32 = 19;
/// `TCP_LISTEN` in `/proc/net/tcp`, and what `/proc/net/udp` calls a socket that takes datagrams from everybody.
const LISTEN: [&str; 2] = ["0A", "07"];

/// The host, as far as it matters for a measurement.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: Option<String>,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// Model of the processor.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub cores: BTreeSet<usize>,
    /// What the kernel's clocks are read from.
    pub clock_source: Option<String>,
}

impl Host {
    /// Looks at this host.
    #[must_use]
    pub fn look() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let model = text.lines().find(|line| line.starts_with("model name"))?;
            Some(model.split_once(':')?.1.trim().to_owned())
        });
        Self {
            name: line("/proc/sys/kernel/hostname"),
            kernel: line("/proc/sys/kernel/osrelease"),
            processor,
            cores: allowed_cores(Path::new("/proc/self/status")).unwrap_or_default(),
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        }
    }
}

/// Lets this process have as many files and connections as its hard limit allows.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If it stays as it is, what needs more descriptors says so.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap_or(());
}

/// Whether the sending threads can have a core each, and all others one more.
#[must_use]
pub fn has_cores_apart(threads: u32) -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() > threads as usize)
}

/// What a thread of the generator does that must not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Work {
    /// Reads what has become visible.
    Follows = 1,
    /// Sends what is due.
    Sends = 2,
}

/// On cores that the generator's threads share, lets this one run before all ordinary ones, if this user may have it so:
/// whatever holds it up counts as the receiver's.
pub fn run_before_others(threads: u32, work: Work) {
    if !has_cores_apart(threads) {
        // Without the right to it, it takes its turn, and the report says what that came to.
        run_first(work as i32).unwrap_or(());
    }
}

/// Whether the sending threads of a run got what [`run_before_others`] asks for; `None` if they had no need to ask. A
/// thread of its own asks again, and what one gets, all get.
#[must_use]
pub fn realtime(threads: u32) -> Option<bool> {
    let asks = || std::thread::spawn(|| run_first(Work::Sends as i32).is_ok()).join().unwrap_or(false);
    (!has_cores_apart(threads)).then(asks)
}

/// Lets this thread run only when others leave time: its work is for later.
pub fn run_last() {
    // Linux has a priority for each thread, and anybody may lower his own.
    setpriority_process(None, NICE_MAX).unwrap_or(());
}

/// The time in which a thread had something to do: that it had a core, and that it waited for one.
#[derive(Clone, Copy, Debug)]
pub struct BusyTime(Duration);

impl BusyTime {
    /// That of the calling thread so far; `None` where the kernel does not tell.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        let worked = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()?;
        // Its first field is that, as of the last tick.
        let text = line("/proc/thread-self/schedstat")?;
        let waited = text.split_whitespace().nth(1)?.parse().ok()?;
        Some(Self(worked + Duration::from_nanos(waited)))
    }

    /// What came to it since.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        Self::of_this_thread().map(|now| now.0.saturating_sub(self.0))
    }
}

/// The process that listens at an address of this host.
#[derive(Debug)]
pub struct Listener {
    process: u32,
    /// Processor time of each thread when first looked at.
    before: HashMap<u32, u64>,
    /// That of the whole process, of ended threads too.
    total_before: Option<Duration>,
}

impl Listener {
    /// Finds it, if the address is one of this host's own and the process may be looked at.
    #[must_use]
    pub fn find(target: SocketAddr, proto: &Proto) -> Option<Self> {
        if !target.ip().is_loopback() {
            return None;
        }
        let (tables, state) = match proto {
            Proto::Tcp | Proto::Tls(_) => (["/proc/net/tcp", "/proc/net/tcp6"], LISTEN[0]),
            Proto::Udp => (["/proc/net/udp", "/proc/net/udp6"], LISTEN[1]),
        };
        let sockets: Vec<_> = tables
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .flat_map(|table| listening_inodes(&table, target.port(), state))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let process = numbers(Path::new("/proc")).find(|process| holds_any(*process, &sockets))?;
        Some(Self { process, before: thread_times(process), total_before: process_time(process).ok() })
    }

    /// Processor time that it took since it was found, by its threads and by the kernel's that work for it; `None` if it
    /// has ended.
    #[must_use]
    pub fn time(&self) -> Option<Duration> {
        Some(process_time(self.process).ok()?.saturating_sub(self.total_before?))
    }

    /// Its process id.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process
    }

    /// The cores that its threads may use: those threads that have worked since it was found.
    #[must_use]
    pub fn busy_cores(&self) -> BTreeSet<usize> {
        let mut times = thread_times(self.process);
        for (thread, time) in &mut times {
            *time = time.saturating_sub(self.before.get(thread).copied().unwrap_or(0));
        }
        let total: u64 = times.values().sum();
        let busy = times.iter().filter(|(_, time)| **time > 0 && **time * BUSY_PART >= total);
        let status = |thread| format!("/proc/{}/task/{thread}/status", self.process);
        busy.filter_map(|(thread, _)| allowed_cores(Path::new(&status(thread)))).flatten().collect()
    }
}

/// Sockets that listen at a port, in the kernel's table.
fn listening_inodes(table: &str, port: u16, state: &str) -> Vec<String> {
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&port) && *fields.get(3)? == state;
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    table.lines().filter_map(inode).collect()
}

fn holds_any(process: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == &**socket))
    })
}

/// User and system time, in ticks.
fn ticks(stat: &str) -> Option<u64> {
    let text = fs::read_to_string(stat).ok()?;
    // The name may hold anything; behind it come the state and, eleven fields on, both times.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

/// Processor time of each thread, in ticks.
fn thread_times(process: u32) -> HashMap<u32, u64> {
    let time = |thread: u32| Some((thread, ticks(&format!("/proc/{process}/task/{thread}/stat"))?));
    numbers(Path::new(&format!("/proc/{process}/task"))).filter_map(time).collect()
}

fn numbers(directory: &Path) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn allowed_cores(status: &Path) -> Option<BTreeSet<usize>> {
    let text = fs::read_to_string(status).ok()?;
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_cores(list.trim())
}

/// A list such as `0-3,8`.
fn parse_cores(list: &str) -> Option<BTreeSet<usize>> {
    let mut cores = BTreeSet::new();
    for range in list.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        cores.extend(from.parse::<usize>().ok()?..=to.parse().ok()?);
    }
    Some(cores)
}

fn line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "keeps time")]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse_cores("0-2,5").unwrap().into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(parse_cores("7").unwrap().len(), 1);
        assert_eq!(parse_cores("x"), None);
    }

    #[test]
    fn the_process_behind_a_port_is_found() {
        let found = |target, proto| Listener::find(target, &proto).map(|listener| listener.process());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        assert_eq!(found(target, Proto::Tcp), Some(std::process::id()));
        drop(listener);
        assert_eq!(found(target, Proto::Tcp), None);
        assert_eq!(found(([192, 0, 2, 1], 1).into(), Proto::Tcp), None);
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(found(receiver.local_addr().unwrap(), Proto::Udp), Some(std::process::id()));
    }

    #[test]
    fn only_those_who_share_cores_go_before_others() {
        assert_eq!(realtime(0), None);
        let asked = std::thread::spawn(|| run_first(Work::Sends as i32).is_ok()).join().unwrap();
        assert_eq!(realtime(u32::MAX), Some(asked));
    }

    #[test]
    fn a_thread_knows_how_busy_it_was() {
        let begun = std::time::Instant::now();
        let before = BusyTime::of_this_thread().unwrap();
        while begun.elapsed() < Duration::from_millis(50) {}
        let busy = before.since().unwrap();
        assert!(busy >= Duration::from_millis(45), "{busy:?}");
        std::thread::sleep(Duration::from_millis(300));
        let rested = before.since().unwrap().saturating_sub(busy);
        assert!(rested < Duration::from_millis(250), "{rested:?}");
    }

    #[test]
    fn this_host_has_cores() {
        assert!(!Host::look().cores.is_empty());
    }
}

//! `engine doctor`: what this host allows, one line per subject, each with its remedy. Changes nothing.
//!
//! ```text
//! ok|warn|fail subject: value; remedy
//! ```
//! A `fail` is what would end `engine run` with exit 3; it is found by the same code. Ports and the lock are not looked
//! at, so that it can run beside an engine.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use crate::config::Descriptors;
use crate::config::disk_free_min_default;
use crate::driver::uring::{RING_LOCKED_BYTES, features, rings_of};
use crate::error::{Exit, StartError, shown};
use crate::limits::{BACKLOG, UDP_RECEIVE_BUFFER_BYTES};
use crate::sys::affinity::{allowed_cores, may_pin, usable_cores};
use crate::sys::{DataDir, host};
use crate::wire::token::shorten_tokens;

/// Oldest kernel with all that the driver needs.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// linux/capability.h
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_ADMIN: u32 = 12;
/// linux/capability.h
const CAP_IPC_LOCK: u32 = 14;
/// Fewer free inodes than this are worth a warning: a new log needs two, a roll one.
const INODES_FEW: u64 = 10_000;
/// Ports below this are for privileged users, unless a sysctl says otherwise.
const UNPRIVILEGED_PORT_DEFAULT: &str = "1024";

/// File systems by their number in linux/magic.h, and what to think of those that are unusual.
const FILE_SYSTEMS: [(u64, &str, Option<&str>); 12] = [
    (0xef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683e, "btrfs", None),
    (0xf2f5_2010, "f2fs", None),
    (0x2fc1_2fc1, "zfs", None),
    (0x0102_1994, "tmpfs", Some("it is gone after a reboot; choose a --data on a disk")),
    (0x794c_7630, "overlayfs", Some("it is gone with the container; mount a volume for --data")),
    (0x6969, "nfs", Some("locks and syncs depend on the server; choose a local disk")),
    (0xff53_4d42, "cifs", Some("locks and syncs depend on the server; choose a local disk")),
    (0xfe53_4d42, "smb", Some("locks and syncs depend on the server; choose a local disk")),
    (0x6573_5546, "fuse", Some("speed and syncs depend on its program; choose a local disk")),
    (0x0102_1997, "9p", Some("speed and syncs depend on its server; choose a local disk")),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    subject: String,
    value: String,
    remedy: Option<String>,
}

impl Finding {
    fn new(verdict: Verdict, subject: &str, value: impl fmt::Display) -> Self {
        Self { verdict, subject: subject.to_owned(), value: value.to_string(), remedy: None }
    }

    fn ok(subject: &str, value: impl fmt::Display) -> Self {
        Self::new(Verdict::Ok, subject, value)
    }

    fn warn(subject: &str, value: impl fmt::Display) -> Self {
        Self::new(Verdict::Warn, subject, value)
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// What `run` would say and end with; its sentence holds the remedy.
    fn fail(error: &StartError) -> Self {
        let problem = match &error.source {
            Some(source) => format!("{} ({source})", error.problem),
            None => error.problem.clone(),
        };
        Self::new(Verdict::Fail, &error.subject, problem)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        let remedy = self.remedy.as_ref().map(|remedy| format!("; {remedy}")).unwrap_or_default();
        f.write_str(&shorten_tokens(&format!("{verdict} {}: {}{remedy}", self.subject, self.value)))
    }
}

/// Looks at everything and writes a line for each. [`Exit::Environment`] if `run` with this directory and this many shards
/// would be refused.
///
/// # Errors
/// The output cannot be written.
pub fn doctor(data: &Path, shards: u16, output: &mut impl Write) -> io::Result<Exit> {
    let findings = examine(data, shards);
    for finding in &findings {
        writeln!(output, "{finding}")?;
    }
    output.flush()?;
    let fails = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if fails { Exit::Environment } else { Exit::Done })
}

fn examine(data: &Path, shards: u16) -> Vec<Finding> {
    // As `run` does, before its rings need some.
    let limit = host::raise_descriptor_limit();
    let mut findings = vec![kernel(&host::kernel_release())];
    findings.push(io_uring_sysctl(host::sysctl("kernel/io_uring_disabled").as_deref()));
    findings.push(seccomp(host::status("Seccomp").as_deref()));
    findings.extend(io_uring(shards));
    findings.push(cores(allowed_cores().len(), usable_cores()));
    findings.push(descriptors(limit, shards));
    findings.push(somaxconn(host::sysctl("net/core/somaxconn").as_deref()));
    findings.push(rmem_max(host::sysctl("net/core/rmem_max").as_deref(), host::has_capability(CAP_NET_ADMIN)));
    let low_ports = host::sysctl("net/ipv4/ip_unprivileged_port_start");
    findings.push(ports(low_ports.as_deref(), host::has_capability(CAP_NET_BIND_SERVICE)));
    findings.extend(data_directory(data));
    findings
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL_MIN {
        return Finding::ok("kernel", release);
    }
    Finding::warn("kernel", release).remedy("use Linux 6.1 or newer, unless every io_uring line below is ok")
}

fn io_uring_sysctl(value: Option<&str>) -> Finding {
    const SUBJECT: &str = "kernel.io_uring_disabled";
    match value {
        Some("0") => Finding::ok(SUBJECT, "0"),
        Some(value @ "1") => Finding::warn(SUBJECT, value).remedy(
            "only CAP_SYS_ADMIN and the group of kernel.io_uring_group may use io_uring; sysctl it to 0, or join",
        ),
        Some(value) => Finding::warn(SUBJECT, value).remedy("nobody may use io_uring; sysctl it to 0"),
        None => Finding::ok(SUBJECT, "not in this kernel"),
    }
}

fn seccomp(mode: Option<&str>) -> Finding {
    const SUBJECT: &str = "seccomp";
    match mode {
        Some("0") => Finding::ok(SUBJECT, "no filter"),
        Some(_) => Finding::ok(SUBJECT, "a filter is active")
            .remedy("if io_uring is refused below, allow its three calls: see README, Containers"),
        None => Finding::ok(SUBJECT, "not in this kernel"),
    }
}

fn io_uring(shards: u16) -> Vec<Finding> {
    let features = match features() {
        Ok(features) => features,
        Err(error) => return vec![Finding::fail(&error), memlock(shards)],
    };
    let feature = |feature: &crate::driver::uring::Feature| {
        let subject = format!("io_uring {}", feature.name);
        if feature.present {
            return Finding::ok(&subject, "present");
        }
        Finding::new(Verdict::Fail, &subject, "missing").remedy("use Linux 6.1 or newer")
    };
    let ring = Finding::ok("io_uring ring", "single issuer, deferred work");
    let mut findings: Vec<Finding> = [ring].into_iter().chain(features.iter().map(feature)).collect();
    findings.push(memlock(shards));
    findings
}

/// Not by arithmetic: older kernels charge nothing, and other processes of the user are charged too.
fn memlock(shards: u16) -> Finding {
    const SUBJECT: &str = "memory lock";
    let needed = RING_LOCKED_BYTES * u64::from(shards);
    let limit = match host::memlock_limit() {
        _ if host::has_capability(CAP_IPC_LOCK) => "no limit for this user".to_owned(),
        Some(bytes) => format!("limit {} KiB", bytes / 1024),
        None => "no limit".to_owned(),
    };
    let value = format!("{limit}, {shards} shards want {} KiB", needed / 1024);
    match rings_of(usize::from(shards)) {
        Ok(()) => Finding::ok(SUBJECT, value),
        Err((made, error)) => {
            let error = error.source.map_or_else(String::new, |error| format!(" ({error})"));
            Finding::new(Verdict::Fail, SUBJECT, format!("{value}, {made} of their rings can be made{error}")).remedy(
                format!("raise it (ulimit -l, LimitMEMLOCK=) to {} KiB or more, or give fewer --shards", needed / 1024),
            )
        }
    }
}

fn cores(allowed: usize, usable: usize) -> Finding {
    if may_pin(allowed, usable) {
        return Finding::ok("cores", allowed);
    }
    Finding::ok("cores", format!("{usable} of {allowed}, by a quota of its cgroup"))
        .remedy("the scheduler places the shards; for cores of their own give a set of them (cpuset) instead")
}

fn descriptors(limit: u64, shards: u16) -> Finding {
    /// Where `run` listens unless it is told otherwise.
    const ADDRESSES: usize = 2;
    match Descriptors::share(limit, None, shards, ADDRESSES) {
        Err(error) => Finding { subject: "descriptors".to_owned(), ..Finding::fail(&error) },
        Ok(Descriptors { connections, files }) => {
            let shown = if limit == u64::MAX { "no limit".to_owned() } else { limit.to_string() };
            Finding::ok("descriptors", format!("{shown}: {connections} connections, {files} open segments"))
                .remedy("LimitNOFILE= or ulimit -Hn raises it")
        }
    }
}

fn somaxconn(value: Option<&str>) -> Finding {
    const SUBJECT: &str = "net.core.somaxconn";
    let Some(value) = value else { return Finding::warn(SUBJECT, "unknown").remedy("mount /proc") };
    if value.parse::<i32>().is_ok_and(|length| length >= i32::from(BACKLOG)) {
        return Finding::ok(SUBJECT, value);
    }
    let remedy = format!("bursts of connections are refused; sysctl it to {BACKLOG}");
    Finding::warn(SUBJECT, value).remedy(remedy)
}

fn rmem_max(value: Option<&str>, may_pass: bool) -> Finding {
    const SUBJECT: &str = "net.core.rmem_max";
    if may_pass {
        return Finding::ok(SUBJECT, format!("{}, which does not bind this user", value.unwrap_or("unknown")));
    }
    match value.map(|value| (value, value.parse::<usize>())) {
        Some((value, Ok(bytes))) if bytes >= UDP_RECEIVE_BUFFER_BYTES => Finding::ok(SUBJECT, value),
        value => Finding::warn(SUBJECT, value.map_or("unknown", |(value, _)| value))
            .remedy(format!("TCP does not depend on it; for UDP: sysctl -w {SUBJECT}={UDP_RECEIVE_BUFFER_BYTES}")),
    }
}

fn ports(first_free: Option<&str>, may_bind: bool) -> Finding {
    const SUBJECT: &str = "low ports";
    let first_free = first_free.unwrap_or(UNPRIVILEGED_PORT_DEFAULT);
    if may_bind {
        return Finding::ok(SUBJECT, "allowed");
    }
    Finding::ok(SUBJECT, format!("not below {first_free}"))
        .remedy("for lower ones give CAP_NET_BIND_SERVICE, or lower sysctl net.ipv4.ip_unprivileged_port_start")
}

fn data_directory(data: &Path) -> Vec<Finding> {
    let subject = format!("data directory {}", shown(data));
    let parent = data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let (finding, place) = if data.exists() {
        (existing_directory(&subject, data), data)
    } else {
        let finding = match host::may_write_in(parent) {
            Ok(()) => Finding::ok(&subject, "does not exist, run makes it"),
            Err(error) => Finding::new(Verdict::Fail, &subject, format!("cannot be made ({error})"))
                .remedy("make it, or choose a --data that this user may make"),
        };
        (finding, parent)
    };
    let mut findings = vec![finding];
    match host::file_system(place) {
        Ok(system) => findings.extend(file_system(&system)),
        Err(error) => findings.push(Finding::warn("file system", format!("unknown ({error})"))),
    }
    findings
}

fn existing_directory(subject: &str, data: &Path) -> Finding {
    let checked = DataDir::open_own(data).and_then(|data| data.check_files());
    match checked {
        Err(error) => Finding::fail(&error),
        Ok(()) => match host::may_write_in(data) {
            Ok(()) => Finding::ok(subject, "usable"),
            Err(error) => Finding::new(Verdict::Fail, subject, format!("not writable ({error})"))
                .remedy("give this user write permission, or choose another --data"),
        },
    }
}

fn file_system(system: &host::FileSystem) -> Vec<Finding> {
    let known = FILE_SYSTEMS.iter().find(|(magic, ..)| *magic == system.magic);
    let kind = match known {
        Some((_, name, None)) => Finding::ok("file system", name),
        Some((_, name, Some(remark))) => Finding::warn("file system", name).remedy(*remark),
        None => Finding::ok("file system", format!("0x{:x}", system.magic)).remedy("not one that was tried"),
    };
    let free = format!("{} MiB", system.free_bytes >> 20);
    let space = if system.free_bytes >= disk_free_min_default(system) {
        Finding::ok("free space", free)
    } else {
        Finding::warn("free space", free).remedy("make room, or give a smaller --disk-free-min: reading stops below it")
    };
    let inodes = match system.free_inodes {
        None => Finding::ok("free inodes", "no limit"),
        Some(count) if count >= INODES_FEW => Finding::ok("free inodes", count),
        Some(count) => Finding::warn("free inodes", count).remedy("every new log takes two; make room"),
    };
    vec![kind, space, inodes]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_verdict_subject_value_and_remedy() {
        let finding = Finding::warn("free inodes", 3).remedy("make room");
        assert_eq!(finding.to_string(), "warn free inodes: 3; make room");
        assert_eq!(Finding::ok("kernel", "6.1").to_string(), "ok kernel: 6.1");
        let error = StartError::new("io_uring", "refused; see README").because(io::Error::from_raw_os_error(1));
        let line = Finding::fail(&error).to_string();
        assert_eq!(line, "fail io_uring: refused; see README (Operation not permitted (os error 1))");
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, verdict) in [
            ("6.1.0-13-amd64", Verdict::Ok),
            ("10.0", Verdict::Ok),
            ("6.18.44-x", Verdict::Ok),
            ("6.0.19", Verdict::Warn),
            ("5.15.0-91-generic", Verdict::Warn),
            ("unheard of", Verdict::Warn),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn what_is_short_is_warned_of() {
        assert_eq!(somaxconn(Some("128")).verdict, Verdict::Warn);
        assert_eq!(somaxconn(Some("4096")).verdict, Verdict::Ok);
        assert_eq!(descriptors(64, 1).verdict, Verdict::Fail);
        assert_eq!(cores(4, 4).to_string(), "ok cores: 4");
        assert!(cores(64, 2).to_string().starts_with("ok cores: 2 of 64, by a quota of its cgroup; "));
        assert_eq!(io_uring_sysctl(Some("0")).to_string(), "ok kernel.io_uring_disabled: 0");
        for (value, remedy) in [("1", "only CAP_SYS_ADMIN and the group of kernel.io_uring_group"), ("2", "nobody")] {
            let line = io_uring_sysctl(Some(value)).to_string();
            let begins = format!("warn kernel.io_uring_disabled: {value}; {remedy} may use io_uring; sysctl it to 0");
            assert!(line.starts_with(&begins), "{line}");
        }
        let system = |magic, total_bytes, free_bytes, free_inodes| host::FileSystem {
            magic,
            total_bytes,
            free_bytes,
            free_inodes,
        };
        let full = system(0x0102_1994, 1 << 41, 1 << 20, Some(5));
        assert!(file_system(&full).iter().all(|finding| finding.verdict == Verdict::Warn));
        // Reading stops below 5 % of a small one.
        let small = system(0xef53, 10 << 30, 800 << 20, None);
        assert!(file_system(&small).iter().all(|finding| finding.verdict == Verdict::Ok));
        let large = system(0xef53, 1 << 41, 1 << 40, None);
        assert!(file_system(&large).iter().all(|finding| finding.verdict == Verdict::Ok));
    }
}

//! `engine doctor`, and what `run` says where a host refuses: under real limits and a real seccomp filter.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use serde_json::{Value, json};
use tempfile::TempDir;

use support::http::get;
use support::process::{Engine, engine, finish, send};
use support::{require_tool, skip};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const ENVIRONMENT: Option<i32> = Some(3);
/// What Linux and systemd give every user, in bytes.
const USUAL_MEMLOCK: u64 = 8 << 20;
/// Users that nobody is: what they lock counts for them alone.
static NEXT_UID: AtomicU32 = AtomicU32::new(0);

/// The line of a subject, its verdict first.
#[track_caller]
fn line(output: &Output, subject: &str) -> String {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    let about = |line: &&str| line.split_once(' ').is_some_and(|(_, rest)| rest.starts_with(subject));
    stdout.lines().find(about).unwrap_or_else(|| panic!("nothing about {subject} in:\n{stdout}")).to_owned()
}

/// Exit 3, and one line on stderr that begins and goes on as given.
#[track_caller]
fn assert_refused(output: &Output, begins: &str, holds: &str) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), ENVIRONMENT, "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with(begins) && stderr.contains(holds), "{stderr}");
}

#[test]
fn a_host_that_can_run_the_engine_is_said_to() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let output = engine(&["doctor", "--data", data.to_str().unwrap()]).output().unwrap();
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    for subject in [
        "kernel:",
        "kernel.io_uring_disabled:",
        "seccomp:",
        "io_uring ring:",
        "io_uring accept:",
        "io_uring receive:",
        "memory lock:",
        "cores:",
        "descriptors:",
        "net.core.somaxconn:",
        "net.core.rmem_max:",
        "low ports:",
        "data directory",
        "file system:",
        "free space:",
        "free inodes:",
    ] {
        let line = line(&output, subject);
        assert!(line.starts_with("ok ") || line.starts_with("warn "), "{line}");
    }
    assert!(!data.exists(), "doctor changes nothing");
}

#[test]
fn a_directory_that_run_would_refuse_fails() {
    let folder = tempfile::tempdir().unwrap();
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    for (data, problem) in [(open, "others may write to it"), (folder.path().join("no/parent"), "cannot be made")] {
        let output = engine(&["doctor", "--data", data.to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), ENVIRONMENT);
        let line = line(&output, "data directory");
        assert!(line.starts_with("fail ") && line.contains(problem), "{line}");
    }
}

#[test]
fn a_broken_flag_is_named() {
    let output = engine(&["doctor", "--shards", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("engine: --shards: "));
}

/// Runs a command on a thread whose children may not set up an `io_uring`.
fn without_io_uring(errno: i32, mut command: Command) -> Output {
    let refuse = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let errno = SeccompAction::Errno(errno.try_into().unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram = SeccompFilter::new(refuse, SeccompAction::Allow, errno, arch).unwrap().try_into().unwrap();
    // A filter is inherited, and nobody can take it off again: it ends with the thread.
    let confined = move || {
        apply_filter(&filter).unwrap();
        command.output().unwrap()
    };
    std::thread::spawn(confined).join().unwrap()
}

#[test]
fn a_seccomp_filter_is_said_to_refuse() {
    for (errno, sentence) in [
        (libc::EPERM, "refused; likely sysctl kernel.io_uring_disabled or a seccomp profile of the container"),
        (libc::ENOSYS, "not in this kernel, or a seccomp profile hides it"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let data = data.to_str().unwrap();
        let doctor = without_io_uring(errno, engine(&["doctor", "--data", data]));
        assert_eq!(doctor.status.code(), ENVIRONMENT);
        let verdict = line(&doctor, "io_uring:");
        assert!(verdict.starts_with("fail ") && verdict.contains(sentence), "{verdict}");
        let filter = line(&doctor, "seccomp:");
        assert!(filter.contains("a filter is active") && filter.contains("README, Containers"), "{filter}");
        let run = without_io_uring(errno, engine(&["run", "--admin", "off", "--tcp", "127.0.0.1:0", "--data", data]));
        assert_refused(&run, "engine: io_uring: ", sentence);
        assert!(!Path::new(data).exists(), "a refused start leaves a directory behind");
    }
}

#[test]
fn few_descriptors_are_said_to_be_too_few() {
    if !require_tool("prlimit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let limited = |command: &[&str]| {
        let mut limited = Command::new("prlimit");
        limited.args(["--nofile=64:64", "--", env!("CARGO_BIN_EXE_engine")]).args(command);
        limited.arg("--data").arg(&data).stdin(Stdio::null()).output().unwrap()
    };
    let doctor = limited(&["doctor", "--shards", "1"]);
    let verdict = line(&doctor, "descriptors:");
    assert!(verdict.starts_with("fail ") && verdict.contains("the descriptor limit is 64"), "{verdict}");
    assert_eq!(doctor.status.code(), ENVIRONMENT);
    let run = limited(&["run", "--admin", "off", "--tcp", "127.0.0.1:0"]);
    assert_refused(&run, "engine: --connections-max: the descriptor limit is 64", "ulimit -n");
}

/// A user without privileges, the binary where that user may run it, and a data directory of that user's.
struct Ordinary {
    _folder: TempDir,
    uid: u32,
    binary: PathBuf,
    data: PathBuf,
}

impl Ordinary {
    /// `None`, and the test named as skipped, where this user cannot become another one.
    fn new() -> Option<Self> {
        if !require_tool("setpriv") || !require_tool("prlimit") {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            skip("only root can become an ordinary user");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (binary, data) = (folder.path().join("engine"), folder.path().join("data"));
        std::fs::copy(env!("CARGO_BIN_EXE_engine"), &binary).unwrap();
        std::fs::create_dir(&data).unwrap();
        let uid = (1 << 24) + 16 * std::process::id() + NEXT_UID.fetch_add(1, Ordering::Relaxed);
        chown(&data, Some(uid), Some(uid)).unwrap();
        Some(Self { _folder: folder, uid, binary, data })
    }

    /// The binary as that user, who may lock so much.
    fn command(&self, memlock: u64) -> Command {
        let mut limited = Command::new("prlimit");
        limited.args([&format!("--memlock={memlock}:{memlock}"), "--", "setpriv"]);
        limited.args([format!("--reuid={}", self.uid), format!("--regid={}", self.uid)]);
        limited.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"]);
        limited.arg(&self.binary).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        limited
    }

    fn with_memlock(&self, bytes: u64, command: &[&str]) -> Output {
        let mut limited = self.command(bytes);
        limited.args(command).arg("--data").arg(&self.data);
        finish(limited)
    }
}

/// Older kernels charge rings to no limit: there, everything fits.
#[test]
fn little_memory_to_lock_is_said_to_be_too_little() {
    let Some(ordinary) = Ordinary::new() else { return };
    let doctor = ordinary.with_memlock(64 << 10, &["doctor", "--shards", "1"]);
    let verdict = line(&doctor, "memory lock:");
    if verdict.starts_with("ok ") {
        return skip("this kernel charges rings to no memlock limit");
    }
    assert!(verdict.starts_with("fail ") && verdict.contains("limit 64 KiB, 1 shards want 144 KiB"), "{verdict}");
    assert!(verdict.contains("raise it (ulimit -l, LimitMEMLOCK=) to 144 KiB or more"), "{verdict}");
    assert_eq!(doctor.status.code(), ENVIRONMENT);
    let run = ordinary.with_memlock(64 << 10, &["run", "--admin", "off", "--tcp", "127.0.0.1:0"]);
    assert_refused(
        &run,
        "engine: io_uring: no memory for its rings; raise the memlock limit (ulimit -l)",
        "os error 12",
    );
}

/// What systems give every user holds the rings of many shards.
#[test]
fn the_usual_memory_lock_is_enough() {
    let Some(ordinary) = Ordinary::new() else { return };
    let doctor = ordinary.with_memlock(USUAL_MEMLOCK, &["doctor", "--shards", "56"]);
    let verdict = line(&doctor, "memory lock:");
    assert!(verdict.starts_with("ok ") && verdict.contains("56 shards want 8064 KiB"), "{verdict}");
    assert_eq!(doctor.status.code(), Some(0), "{}", String::from_utf8_lossy(&doctor.stdout));
    let mut engine = Engine::start_by(ordinary.command(USUAL_MEMLOCK), &ordinary.data, &["--shards", "16"]);
    send(engine.connect(), &[format!("{T} hello\n").as_bytes()]).unwrap();
    assert_eq!(engine.stop().get("entries"), 1);
}

/// A directory, or a file in it, that is another user's: the command that would change that.
#[test]
fn what_another_user_owns_is_answered_with_chown() {
    let Some(ordinary) = Ordinary::new() else { return };
    let remedy = format!("chown -R {} {}", ordinary.uid, ordinary.data.display());
    let assert_told = |problem: &str| {
        let run = ordinary.with_memlock(USUAL_MEMLOCK, &["run", "--admin", "off", "--tcp", "127.0.0.1:0"]);
        assert_refused(&run, "engine: ", problem);
        assert_refused(&run, "engine: ", &remedy);
        let doctor = ordinary.with_memlock(USUAL_MEMLOCK, &["doctor", "--shards", "1"]);
        let stdout = String::from_utf8(doctor.stdout).unwrap();
        let told = stdout.lines().find(|line| line.starts_with("fail ")).unwrap_or_else(|| panic!("{stdout}"));
        assert!(told.contains(problem) && told.contains(&remedy), "{told}");
        assert_eq!(doctor.status.code(), ENVIRONMENT);
    };
    std::fs::write(ordinary.data.join("LOCK"), "").unwrap();
    assert_told("LOCK: cannot be opened; ");
    chown(&ordinary.data, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&ordinary.data, PermissionsExt::from_mode(0o700)).unwrap();
    assert_told(&format!(": owned by uid 0, not by this user ({}); ", ordinary.uid));
}

/// A directory of a format that this engine does not know is refused before and after the start alike.
#[test]
fn a_directory_of_another_format_fails() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    Engine::start_in(&data, &[]).stop();
    std::fs::write(data.join("META"), "format=999\n").unwrap();
    let data = data.to_str().unwrap();
    let run = finish(engine(&["run", "--admin", "off", "--tcp", "127.0.0.1:0", "--data", data]));
    assert_refused(&run, "engine: ", "format \"999\" is not known");
    let doctor = finish(engine(&["doctor", "--data", data]));
    assert_eq!(doctor.status.code(), ENVIRONMENT);
    assert!(line(&doctor, data).starts_with("fail ") && line(&doctor, data).contains("format \"999\" is not known"));
}

/// The shipped profile as filters: one for the calls that get an answer of their own, and one that allows.
fn shipped_profile() -> [BpfProgram; 2] {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/packaging/seccomp.json");
    let profile: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let (mut allowed, mut answered) = (Vec::new(), Vec::new());
    for rule in profile["syscalls"].as_array().unwrap() {
        let condition = |arg: &Value| {
            let (op, value) = match arg["op"].as_str().unwrap() {
                "SCMP_CMP_EQ" => (json!("eq"), &arg["value"]),
                "SCMP_CMP_MASKED_EQ" => (json!({ "masked_eq": arg["value"] }), &arg["valueTwo"]),
                other => panic!("{other} is not known here"),
            };
            json!({ "index": arg["index"], "type": "qword", "op": op, "val": value })
        };
        let args: Vec<Value> = rule["args"].as_array().into_iter().flatten().map(condition).collect();
        for name in rule["names"].as_array().unwrap() {
            let call =
                if args.is_empty() { json!({ "syscall": name }) } else { json!({ "syscall": name, "args": args }) };
            match rule["action"].as_str().unwrap() {
                "SCMP_ACT_ALLOW" => allowed.push(call),
                _ => answered.push((call, rule["errnoRet"].clone())),
            }
        }
    }
    let default = json!({ "errno": profile["defaultErrnoRet"] });
    let errno = answered[0].1.clone();
    assert!(answered.iter().all(|(_, other)| *other == errno));
    let answered: Vec<Value> = answered.into_iter().map(|(call, _)| call).collect();
    // Of two filters the one that refuses wins: what the second answers has to pass the first.
    allowed.extend(answered.clone());
    let filter = |matches: Value, others: Value, calls: Vec<Value>| {
        let text = json!({ "it": { "match_action": matches, "mismatch_action": others, "filter": calls } }).to_string();
        let arch = std::env::consts::ARCH.try_into().unwrap();
        seccompiler::compile_from_json(text.as_bytes(), arch).unwrap().remove("it").unwrap()
    };
    // In this order, since the filter that allows does not allow another one.
    [filter(json!({ "errno": errno }), json!("allow"), answered), filter(json!("allow"), default, allowed)]
}

/// Under the profile that is shipped for containers the engine does all that it does, and nobody makes a namespace.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "names of old calls that only x86-64 has would not compile")]
fn the_shipped_seccomp_profile_is_enough() {
    if !require_tool("unshare") {
        return;
    }
    let confined = || {
        for filter in shipped_profile() {
            apply_filter(&filter).unwrap();
        }
        let namespace = Command::new("unshare").args(["--user", "true"]).output().unwrap();
        assert!(!namespace.status.success());
        let args = ["--shards", "2", "--segment-bytes", "300KiB", "--admin", "127.0.0.1:0"];
        let mut running = Engine::start(&args);
        // More than is written by plain calls, and more than a segment.
        let lines = format!("{T} {}\n", "x".repeat(1000)).repeat(1000);
        send(running.connect(), &[lines.as_bytes()]).unwrap();
        assert_eq!(get(running.admin(), "/readyz").status, 200);
        assert_eq!(get(running.admin(), "/metrics").status, 200);
        assert_eq!(running.stop().get("entries"), 1000);
        let mut restarted = Engine::start_in(running.data(), &args);
        assert_eq!(restarted.stop().get("entries"), 0);
        for command in [&["doctor"][..], &["ls", "--json"], &["cat", T]] {
            let mut command = engine(command);
            command.arg("--data").arg(running.data());
            let output = finish(command);
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        }
    };
    std::thread::spawn(confined).join().unwrap();
}

/// Whatever a profile says of io_uring, afterwards exactly one rule does, and the others are as they were.
#[test]
fn a_seccomp_profile_gets_one_rule_more() {
    const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read", "io_uring_enter"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO"},
        {"name": "write", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]}]}"#;
    const WANTED: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0}]},
        {"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"], "action": "SCMP_ACT_ALLOW"}]}"#;
    if !require_tool("jq") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = |profile: &str| {
        let file = folder.path().join("profile.json");
        std::fs::write(&file, profile).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/packaging/seccomp-io_uring");
        Command::new(script).arg(&file).output().unwrap()
    };
    let parse = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
    let output = script(PROFILE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(parse(&output.stdout), parse(WANTED.as_bytes()));
    for broken in ["{}", "no json"] {
        let output = script(broken);
        assert_eq!((output.status.code(), output.stdout), (Some(2), Vec::new()), "{broken}");
    }
}

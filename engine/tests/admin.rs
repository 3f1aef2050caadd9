//! The admin endpoint over real HTTP: what it says, when it answers, and that its counters add up.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::admin::Admin;
use engine::admin::watch::Watch;
use engine::sys::DataDir;

use rustix::process::Signal;

use support::disk::SmallDisk;
use support::hostile::{hostile_stream, pieces, random_cuts};
use support::http::{Metrics, get, request, wait_for_status};
use support::oracle::{Oracle, Oversize};
use support::process::{Engine, connect, engine, finish, read_to_end, send, wait_until};
use support::tls::{Authority, ECDSA};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];
const ENVIRONMENT: Option<i32> = Some(3);
/// A drain that nobody should have to sit out.
const NEVER: &str = "10m";

#[test]
fn every_path_answers() {
    let mut engine = Engine::start(&ADMIN);
    let admin = engine.admin();
    let said = engine.stderr();
    assert!(said.find("proto=admin") < said.find("recovered"), "bound before recovery:\n{said}");
    for (path, status, body) in [
        ("/healthz", 200, "ok\n"),
        ("/readyz", 200, "ready\n"),
        ("/", 404, "no such path; give /metrics, /healthz or /readyz\n"),
    ] {
        let answer = get(admin, path);
        assert_eq!((answer.status, &answer.body[..]), (status, body), "{path}");
    }
    assert_eq!(request(connect(admin), "POST", "/metrics").status, 405);
    assert_eq!(request(connect(admin), "HEAD", "/readyz").body, "");
    let metrics = get(admin, "/metrics");
    let content_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(metrics.head.to_lowercase().contains(content_type), "{}", metrics.head);
    engine.stop();
}

/// Everything that dashboards rely on, and its labels. A change here is a change for every user.
#[test]
fn metrics_have_their_names_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = Authority::new().pair("localhost", ECDSA).write(folder.path());
    let [cert, key] = [&cert, &key].map(|path| path.to_str().unwrap());
    let tls = ["--tls", "127.0.0.1:0", "--cert", cert, "--key", key];
    let mut engine = Engine::start(&[&["--shards", "2", ADMIN[0], ADMIN[1]], &tls[..]].concat());
    let text = get(engine.admin(), "/metrics").body;
    assert!(text.contains("\nengine_tls_certificate_expiry_timestamp_seconds 4102444800\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let mut found = BTreeMap::<String, BTreeSet<Vec<String>>>::new();
    for sample in samples {
        let name = sample.split(['{', ' ']).next().unwrap();
        let labels = sample.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        let labels = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(label, _)| label.to_owned());
        found.entry(name.to_owned()).or_default().insert(labels.collect());
    }
    for (name, labels) in [
        ("build_info", &["version"][..]),
        ("connections", &["listener"]),
        ("connections_total", &["listener", "result"]),
        ("received_bytes_total", &["proto"]),
        ("lines_total", &["proto"]),
        ("entries_total", &[]),
        ("entry_bytes_total", &[]),
        ("rejected_lines_total", &["reason"]),
        ("split_lines_total", &[]),
        ("split_pieces_total", &[]),
        ("backpressure_seconds_total", &["shard"]),
        ("batches_total", &[]),
        ("write_seconds_bucket", &["le"]),
        ("write_seconds_count", &[]),
        ("write_seconds_sum", &[]),
        ("sync_seconds_bucket", &["le"]),
        ("sync_seconds_count", &[]),
        ("sync_seconds_sum", &[]),
        ("poisoned_segments_total", &[]),
        ("entry_delay_seconds_bucket", &["le"]),
        ("entry_delay_seconds_count", &[]),
        ("entry_delay_seconds_sum", &[]),
        ("segments", &["state"]),
        ("retained_bytes_total", &[]),
        ("open_files", &[]),
        ("tls_handshakes_total", &["result"]),
        ("accept_pauses_total", &[]),
        ("tls_handshakes_waited_total", &[]),
        ("tls_clients_known_total", &[]),
        ("tls_broken_total", &[]),
        ("tls_certificate_expiry_timestamp_seconds", &[]),
        ("udp_datagrams_total", &[]),
        ("udp_kernel_drops_total", &[]),
        ("file_cache_misses_total", &[]),
        ("logs", &[]),
        ("logs_refused", &[]),
        ("disk_free_bytes", &[]),
        ("disk_free_inodes", &[]),
        ("storage_state", &["state"]),
        ("shard_busy_ratio", &["shard"]),
        ("ring_overflow_total", &["shard"]),
        ("config_reloads_total", &["result"]),
        ("rejected_kept_lines_total", &[]),
        ("limit", &["name"]),
    ] {
        let labels = BTreeSet::from([labels.iter().map(|label| (*label).to_owned()).collect()]);
        assert_eq!(found.remove(&format!("engine_{name}")), Some(labels), "{name}");
    }
    assert!(found.is_empty(), "metrics that nobody knows: {found:?}");
    engine.stop();
}

#[test]
fn limits_are_shown_as_they_are_in_force() {
    let mut engine = Engine::start(&["--linger", "20ms", "--connections-max", "7", ADMIN[0], ADMIN[1]]);
    let metrics = Metrics::of(engine.admin());
    assert_eq!(metrics.get("engine_limit{name=\"connections_max\"}"), 7);
    assert_eq!(metrics.get("engine_limit{name=\"line_bytes_max\"}"), 256 << 10);
    assert_eq!(metrics.get("engine_limit{name=\"recv_buffer_bytes\"}"), 64 << 10);
    assert_eq!(metrics.real("engine_limit{name=\"linger_seconds\"}").to_string(), "0.02");
    engine.stop();
}

/// A list says itself how many logs there may be.
#[test]
fn a_token_list_has_no_limit_of_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("tokens");
    std::fs::write(&list, T).unwrap();
    let mut engine = Engine::start(&["--tokens", list.to_str().unwrap(), "--tokens-max", "1", ADMIN[0], ADMIN[1]]);
    let text = get(engine.admin(), "/metrics").body;
    let shown = |name: &str| text.contains(&format!("engine_limit{{name=\"{name}\"}}"));
    assert_eq!(["line_bytes_max", "tokens_max", "tokens_per_second"].map(shown), [true, false, false]);
    engine.stop();
}

/// Every flag of the README's table for `run` that takes a number, a size or a time.
#[test]
fn every_limit_that_a_flag_sets_is_shown() {
    let readme = include_str!("../../README.md").split("### `engine run`").nth(1).unwrap();
    let rows = readme.split("### ").next().unwrap().lines().filter_map(|row| row.strip_prefix("| `--"));
    let limits: Vec<String> = rows
        .filter_map(|row| row.split_once('`')?.0.split_once(' '))
        .filter(|(_, value)| matches!(*value, "N" | "SIZE" | "TIME"))
        .map(|(flag, value)| flag.replace('-', "_") + if value == "TIME" { "_seconds" } else { "" })
        .collect();
    assert!(limits.len() > 15, "{limits:?}");
    // These have no limit, or nothing to limit, by default.
    let given = ["--rejected", "keep", "--retain-bytes", "1GiB", "--retain-age", "1d"];
    let mut engine = Engine::start(&[&given, &ADMIN[..]].concat());
    let text = get(engine.admin(), "/metrics").body;
    for limit in limits {
        assert!(text.contains(&format!("\nengine_limit{{name=\"{limit}\"}} ")), "{limit} is not shown");
    }
    engine.stop();
}

/// The parser of the people who made the format.
#[test]
fn the_official_parser_takes_the_metrics() {
    const PARSE: &str = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as \
        parse; print(len(list(parse(sys.stdin.read()))))";
    if !support::require_tool("python3") {
        return;
    }
    let python = |interpreter: &str, program: &str| {
        let mut command = Command::new(interpreter);
        command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().ok()
    };
    let has_parser = |interpreter: &&str| {
        let import = python(interpreter, "import prometheus_client");
        import.is_some_and(|mut import| import.wait().unwrap().success())
    };
    // The first of PATH, and the system's own.
    let Some(interpreter) = ["python3", "/usr/bin/python3"].into_iter().find(has_parser) else {
        return support::skip("python3 has no prometheus_client");
    };
    let mut engine = Engine::start(&ADMIN);
    send(engine.connect(), &[format!("{T} hello\nno token\n").as_bytes()]).unwrap();
    let text = get(engine.admin(), "/metrics").body;
    let mut parser = python(interpreter, PARSE).unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), families.to_string());
    engine.stop();
}

/// Counters of one shard are conserved in every scrape under load, those of several once nothing is on its way between
/// them; at the end they are the oracle's.
#[test]
fn counters_of_hostile_streams_equal_the_oracles() {
    ["1", "2", "4"].into_iter().for_each(counts_as_the_oracle);
}

fn counts_as_the_oracle(shards: &str) {
    const LINE_BYTES_MAX: usize = 100;
    const STREAMS: u64 = 120;
    let limit = LINE_BYTES_MAX.to_string();
    let mut engine = Engine::start(&["--shards", shards, "--line-bytes-max", &limit, ADMIN[0], ADMIN[1]]);
    let (addr, admin) = (engine.addr(), engine.admin());
    let sent = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut before = Metrics::of(admin);
            while !sent.load(Ordering::Relaxed) {
                let now = Metrics::of(admin);
                if shards == "1" {
                    now.assert_conserved();
                }
                now.assert_grown_from(&before);
                before = now;
            }
        });
        for seed in 0..STREAMS {
            let stream = hostile_stream(seed, LINE_BYTES_MAX);
            let cuts = random_cuts(seed, stream.len(), 20);
            // A stream of another protocol is closed while it is sent.
            let _closed = send(connect(addr), &pieces(&stream, &cuts));
        }
        sent.store(true, Ordering::Relaxed);
    });
    let closed = wait_until(|| Metrics::of(admin).sum("engine_connections{") == 0);
    assert!(closed, "connections that have ended are still counted as open");
    assert!(wait_until(|| Metrics::of(admin).is_conserved()), "lines are on their way between shards for ever");

    let mut oracle = Oracle::new(LINE_BYTES_MAX, Oversize::Split);
    (0..STREAMS).for_each(|seed| oracle.stream_lf(&hostile_stream(seed, LINE_BYTES_MAX)));
    let metrics = Metrics::of(admin);
    assert_counted(&metrics, &oracle);
    let taken = format!("engine_connections_total{{listener=\"{addr}\",result=\"accepted\"}}");
    assert_eq!(metrics.get(&taken), STREAMS);
    assert_eq!(metrics.get("engine_logs"), oracle.entries.len() as u64);
    let summary = engine.stop();
    summary.assert_equals(&oracle, "hostile streams");
    assert_eq!(summary.get("received_bytes"), metrics.get("engine_received_bytes_total{proto=\"tcp\"}"));
}

#[track_caller]
fn assert_counted(metrics: &Metrics, oracle: &Oracle) {
    let counters = &oracle.counters;
    let rejected = |reason: &str| metrics.get(&format!("engine_rejected_lines_total{{reason=\"{reason}\"}}"));
    for (name, counted, expected) in [
        ("lines", metrics.get("engine_lines_total{proto=\"tcp\"}"), counters.lines()),
        ("entries", metrics.get("engine_entries_total"), counters.entries),
        ("entry_bytes", metrics.get("engine_entry_bytes_total"), oracle.entry_bytes()),
        ("split_lines", metrics.get("engine_split_lines_total"), counters.split),
        ("split_pieces", metrics.get("engine_split_pieces_total"), counters.pieces),
        ("empty", rejected("empty"), counters.empty),
        ("keepalive", rejected("keepalive"), counters.keepalive),
        ("no_token", rejected("no_token"), counters.no_token),
        ("http", rejected("http"), counters.http),
        ("tls_on_plain", rejected("tls_on_plain"), counters.tls_on_plain),
        ("cut", rejected("cut"), 0),
    ] {
        assert_eq!(counted, expected, "{name}");
    }
    metrics.assert_conserved();
}

/// What is known of files: one log, one segment, and a time for every write.
#[test]
fn files_and_writes_are_counted() {
    let mut engine = Engine::start(&ADMIN);
    let admin = engine.admin();
    let mut stream = engine.connect();
    let mut stored = String::new();
    for entry in 0..10 {
        let line = format!("{entry}\n");
        stream.write_all(format!("{T} {line}").as_bytes()).unwrap();
        stored += &line;
        engine.wait_for_log(T, stored.as_bytes());
    }
    // The file is written before the shard learns of it.
    assert!(wait_until(|| Metrics::of(admin).get("engine_entry_delay_seconds_count") >= 10));
    let metrics = Metrics::of(admin);
    let listener = format!("engine_connections{{listener=\"{}\"}}", engine.addr());
    assert_eq!(metrics.get(&listener), 1);
    for (name, value) in [
        ("engine_build_info{version=\"0.1.0\"}", 1),
        ("engine_logs", 1),
        ("engine_open_files", 1),
        ("engine_file_cache_misses_total", 0),
        ("engine_segments{state=\"active\"}", 1),
        ("engine_segments{state=\"sealed\"}", 0),
        ("engine_storage_state{state=\"ok\"}", 1),
        ("engine_ring_overflow_total{shard=\"0\"}", 0),
        ("engine_batches_total", 10),
        ("engine_write_seconds_count", 10),
        ("engine_write_seconds_bucket{le=\"+Inf\"}", 10),
        ("engine_entry_delay_seconds_count", 10),
    ] {
        assert_eq!(metrics.get(name), value, "{name}");
    }
    assert!(metrics.real("engine_entry_delay_seconds_sum") > 0.0);
    assert!(metrics.get("engine_disk_free_bytes") > 0);
    assert!((0.0..=1.0).contains(&metrics.real("engine_shard_busy_ratio{shard=\"0\"}")));
    drop(stream);
    engine.stop();
    let mut restarted = Engine::start_in(engine.data(), &ADMIN);
    send(restarted.connect(), &[format!("{T} more\n").as_bytes()]).unwrap();
    let admin = restarted.admin();
    assert!(wait_until(|| Metrics::of(admin).get("engine_batches_total") == 1));
    let metrics = Metrics::of(admin);
    assert_eq!(metrics.get("engine_file_cache_misses_total"), 1);
    assert_eq!(metrics.get("engine_segments{state=\"active\"}"), 1);
    restarted.stop();
}

/// Before the engine serves there are no shards to ask.
#[test]
fn a_recovering_engine_answers_and_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let data = Arc::new(DataDir::open(&folder.path().join("data")).unwrap());
    let watch = Arc::new(Watch::new(data, Vec::new(), Vec::new()));
    let admin = Admin::start(&"127.0.0.1:0".parse().unwrap(), watch).unwrap().unwrap();
    let addr = admin.address().parse().unwrap();
    for (path, status, body) in [("/healthz", 200, "ok, recovering\n"), ("/readyz", 503, "recovering\n")] {
        let answer = get(addr, path);
        assert_eq!((answer.status, &answer.body[..]), (status, body), "{path}");
    }
    assert_eq!(Metrics::of(addr).get("engine_entries_total"), 0);
}

/// The shard's thread is held in its next system call for as long as it takes.
#[test]
fn a_shard_that_stands_still_is_unhealthy() {
    if !support::require_tool("strace") {
        return;
    }
    let mut engine = Engine::start(&["--shards", "2", ADMIN[0], ADMIN[1]]);
    let admin = engine.admin();
    let mut strace = Command::new("strace");
    strace.args(["--trace=io_uring_enter", "--inject=io_uring_enter:delay_enter=600000000", "--output=/dev/null"]);
    let mut strace = strace.args(["--attach", &engine.thread("shard-1")]).stderr(Stdio::piped()).spawn().unwrap();
    let mut answer = get(admin, "/healthz");
    let came = wait_until(|| {
        answer = get(admin, "/healthz");
        answer.status == 503 || strace.try_wait().unwrap().is_some()
    });
    if strace.try_wait().unwrap().is_some() {
        return support::skip("this user may not trace a process");
    }
    assert!(came, "{answer:?}");
    assert_eq!(answer.body, "shard 1 has not answered for 5s; it stands still\n");
    assert_eq!(get(admin, "/readyz").status, 503);
    assert_eq!(Metrics::of(admin).get("engine_limit{name=\"shards\"}"), 2);
    // Without its tracer the thread goes on.
    strace.kill().unwrap();
    strace.wait().unwrap();
    assert_eq!(wait_for_status(admin, "/healthz", 200).body, "ok\n");
    engine.stop();
}

/// What is wrong with one log's files is no reason to send the others' senders elsewhere.
#[test]
fn a_refused_log_is_shown_and_the_others_go_on() {
    const OTHER: &str = "00000000-0000-4000-8000-000000000001";
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o750)).unwrap();
    let mut engine = Engine::start_in(&data, &ADMIN);
    let admin = engine.admin();
    let in_the_way = data.join(T);
    std::fs::write(&in_the_way, "a file where the log's directory belongs").unwrap();
    send(engine.connect(), &[format!("{T} waits\n{OTHER} goes on\n").as_bytes()]).unwrap();
    engine.wait_for_log(OTHER, b"goes on\n");
    let is_partial = || Metrics::of(admin).get("engine_storage_state{state=\"partial\"}") == 1;
    assert!(wait_until(is_partial), "{}", engine.stderr());
    assert_eq!(Metrics::of(admin).get("engine_logs_refused"), 1);
    let ready = get(admin, "/readyz");
    assert_eq!((ready.status, &ready.body[..]), (200, "ready, but logs that cannot be opened: 1\n"));
    engine.wait_for_line(|line| line.contains(" error a log cannot be opened") && line.contains("log=2bfbea1e…"));
    std::fs::remove_file(&in_the_way).unwrap();
    engine.wait_for_log(T, b"waits\n");
    assert!(wait_until(|| Metrics::of(admin).get("engine_storage_state{state=\"ok\"}") == 1));
    assert_eq!(Metrics::of(admin).get("engine_logs_refused"), 0);
    engine.stop();
}

/// What waits for a log that cannot be opened may take all memory: then nothing is stored, and that is said.
#[test]
fn a_refused_log_that_fills_the_memory_is_no_readiness() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o750)).unwrap();
    let mut engine = Engine::start_in(&data, &["--buffer-bytes", "4MiB", "--shards", "1", ADMIN[0], ADMIN[1]]);
    let admin = engine.admin();
    let in_the_way = data.join(T);
    std::fs::write(&in_the_way, "a file where the log's directory belongs").unwrap();
    let stream = engine.connect();
    let line = format!("{T} {}\n", "x".repeat(1000));
    let sender = std::thread::spawn(move || send(stream, &vec![line.as_bytes(); 20_000]).unwrap());
    wait_for_status(admin, "/readyz", 503);
    std::fs::remove_file(&in_the_way).unwrap();
    sender.join().unwrap();
    wait_for_status(admin, "/readyz", 200);
    assert_eq!(engine.stop().get("entries"), 20_000);
}

#[test]
fn a_draining_engine_answers_and_is_not_ready() {
    let mut engine = Engine::start(&["--drain-timeout", NEVER, ADMIN[0], ADMIN[1]]);
    let admin = engine.admin();
    let mut stream = engine.connect();
    stream.write_all(format!("{T} hello\n").as_bytes()).unwrap();
    engine.wait_for_log(T, b"hello\n");
    engine.sigterm();
    assert_eq!(wait_for_status(admin, "/readyz", 503).body, "draining\n");
    read_to_end(&mut stream).unwrap();
    assert_eq!(get(admin, "/healthz").status, 200);
    let metrics = Metrics::of(admin);
    assert_eq!((metrics.get("engine_entries_total"), metrics.sum("engine_connections{")), (1, 1));
    drop(stream);
    engine.drained();
}

#[test]
fn a_full_disk_is_not_ready_until_there_is_room() {
    let Some(disk) = SmallDisk::mount("size=4m") else { return };
    let args = ["--shards", "1", "--disk-free-min", "0", "--drain-timeout", "300ms", ADMIN[0], ADMIN[1]];
    let mut engine = Engine::start_in(&disk.path().join("data"), &args);
    let admin = engine.admin();
    let mut stream = engine.connect();
    stream.write_all(format!("{T} {}\n", "x".repeat(1000)).repeat(8_000).as_bytes()).unwrap();
    let answer = wait_for_status(admin, "/readyz", 503);
    assert!(answer.body.starts_with("storage refuses"), "{answer:?}");
    let metrics = Metrics::of(admin);
    assert_eq!(metrics.get("engine_storage_state{state=\"refuses\"}"), 1);
    assert_eq!(metrics.get("engine_storage_state{state=\"ok\"}"), 0);
    assert_eq!(get(admin, "/healthz").status, 200);
    let pressed = || Metrics::of(admin).real("engine_backpressure_seconds_total{shard=\"0\"}");
    let before = pressed();
    assert!(wait_until(|| pressed() > before), "time goes by and is not counted");
    disk.remount("size=64m");
    assert_eq!(wait_for_status(admin, "/readyz", 200).body, "ready\n");
    drop(stream);
    assert_eq!(engine.stop().get("entries"), 8_000);
}

#[test]
fn low_space_is_not_ready() {
    let mut engine = Engine::start(&["--disk-free-min", "9999999GiB", ADMIN[0], ADMIN[1]]);
    let admin = engine.admin();
    let answer = wait_for_status(admin, "/readyz", 503);
    assert!(answer.body.contains("--disk-free-min"), "{answer:?}");
    assert_eq!(Metrics::of(admin).get("engine_storage_state{state=\"low\"}"), 1);
    engine.stop();
}

#[test]
fn a_busy_admin_port_is_refused() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let args = ["run", "--tcp", "127.0.0.1:0", "--admin", &addr, "--data", data.to_str().unwrap()];
    let output = finish(engine(&args));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), ENVIRONMENT, "{stderr}");
    assert!(stderr.starts_with(&format!("engine: {addr}: in use by another process; ")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_socket_in_the_file_system_serves_too() {
    let folder = tempfile::tempdir().unwrap();
    let (data, socket) = (folder.path().join("data"), folder.path().join("admin.sock"));
    let address = format!("unix:{}", socket.display());
    let mut killed = Engine::start_in(&data, &["--admin", &address]);
    let ready = || request(UnixStream::connect(&socket).unwrap(), "GET", "/readyz").status;
    assert_eq!(ready(), 200);
    let other = folder.path().join("other");
    let args = ["run", "--tcp", "127.0.0.1:0", "--admin", &address, "--data", other.to_str().unwrap()];
    let second = finish(engine(&args));
    assert_eq!(second.status.code(), ENVIRONMENT, "{}", String::from_utf8_lossy(&second.stderr));
    assert_eq!(ready(), 200);
    killed.signal(Signal::KILL);
    drop(killed);
    assert!(socket.exists(), "a killed engine cleans nothing up");
    let mut next = Engine::start_in(&data, &["--admin", &address]);
    assert_eq!(ready(), 200);
    next.stop();
    assert!(!socket.exists(), "an engine that ends takes its socket away");
    std::fs::write(&socket, "a file of somebody").unwrap();
    assert_eq!(finish(engine(&args)).status.code(), ENVIRONMENT);
    assert_eq!(std::fs::read(&socket).unwrap(), b"a file of somebody");
}

/// Clients that say nothing take places, but not all that there are.
#[test]
fn silent_clients_do_not_stop_the_others() {
    let mut engine = Engine::start(&ADMIN);
    let admin = engine.admin();
    let silent: Vec<_> = (0..10).map(|_| connect(admin)).collect();
    let mut garbage = connect(admin);
    garbage.write_all(&[0xff; 100]).unwrap();
    let mut answer = Vec::new();
    // A reset or an answer of 400: its affair.
    let _broken = garbage.read_to_end(&mut answer);
    for _ in 0..50 {
        assert_eq!(get(admin, "/healthz").status, 200);
    }
    drop(silent);
    engine.stop();
}

/// A client in the middle of a request does not keep the process alive.
#[test]
fn the_end_waits_for_no_client() {
    let mut engine = Engine::start(&ADMIN);
    let mut stream = connect(engine.admin());
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    assert_eq!(engine.stop().get("lines"), 0);
}

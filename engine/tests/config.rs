//! Flags, environment and configuration file through the binary: what is in force, what is refused, and what SIGHUP changes.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use engine::driver::sim::{Faults, Sim};
use engine::shard::{Change, Command};
use rustix::process::Signal;
use rustls::version::TLS13;
use tempfile::TempDir;

use support::http::Metrics;
use support::process::{DEADLINE, Engine, connect, engine, field, send, wait_until};
use support::tls::{Authority, Client, ECDSA};
use support::world::{config, drain, token};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// A folder with `engine.toml`.
struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(text);
        folder
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("engine.toml")
    }

    fn start(&self, args: &[&str]) -> Engine {
        let file = self.file();
        Engine::start_in(&self.0.path().join("data"), &[&["--config", file.to_str().unwrap()], args].concat())
    }

    fn check(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = engine(&["check-config", "--config"]);
        command.arg(self.file()).args(args).envs(variables.iter().copied()).current_dir(self.0.path());
        command.output().unwrap()
    }

    /// `check-config` where the descriptor limit is too low for an engine.
    fn few_descriptors(&self) -> Output {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "ulimit -n 64; exec \"$0\" check-config --config \"$1\"", env!("CARGO_BIN_EXE_engine")]);
        command.arg(self.file()).output().unwrap()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.0.path()).unwrap().count()
    }
}

/// The real address of the nth listener of this kind.
fn address(engine: &Engine, proto: &str, nth: usize) -> SocketAddr {
    engine.wait_for_line(|line| line.ends_with(" ready"));
    let said = engine.stderr();
    let mut lines =
        said.lines().filter(|line| line.contains("listening") && field(line, "proto").as_deref() == Some(proto));
    field(lines.nth(nth).unwrap(), "addr").unwrap().parse().unwrap()
}

/// The line of a setting.
fn row<'a>(shown: &'a str, name: &str) -> Vec<&'a str> {
    let rows =
        shown.lines().map(|line| line.split("  ").map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>());
    rows.into_iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("no {name} in\n{shown}"))
}

#[test]
fn check_config_shows_values_and_where_they_come_from() {
    let folder = Folder::with("[limits]\ntokens_max = 5\nbuffer_bytes = '8MiB'\n");
    let output = folder.check(&["--linger", "7ms"], &[("ENGINE_BUFFER_BYTES", "16MiB"), ("ENGINE_TESTS", "x")]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    let place = format!("{}:2", folder.file().display());
    assert_eq!(row(&shown, "tokens_max"), ["tokens_max", "5", &place]);
    assert_eq!(row(&shown, "linger"), ["linger", "7ms", "flag"]);
    assert_eq!(row(&shown, "buffer_bytes"), ["buffer_bytes", "16MiB", "environment ENGINE_BUFFER_BYTES"]);
    assert_eq!(row(&shown, "segment_bytes"), ["segment_bytes", "256MiB", "default"]);
    assert_eq!(row(&shown, "udp"), ["udp", "127.0.0.1:10000", "default"]);
    assert_eq!(folder.files(), 1, "it made something");
}

/// Defaults that depend on the host are shown as `run` would have them.
#[test]
fn check_config_shows_what_the_host_makes_of_defaults() {
    let folder = Folder::with("");
    let shown = String::from_utf8(folder.check(&["--data", "not/there/yet"], &[]).stdout).unwrap();
    let mut engine = folder.start(&["--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let in_force = Metrics::of(engine.admin());
    engine.stop();
    for (name, unit) in [("shards", 1), ("connections_max", 1), ("disk_free_min", 1 << 20)] {
        let row = row(&shown, name);
        let value: u64 = row[1].trim_end_matches(|letter: char| letter.is_alphabetic()).parse().unwrap();
        let value = match row[1] {
            text if text.ends_with("GiB") => value << 30,
            text if text.ends_with("MiB") => value << 20,
            text if text.ends_with("KiB") => value << 10,
            _ => value,
        };
        let limit = in_force.get(&format!("engine_limit{{name=\"{name}\"}}"));
        assert!(value == limit && row[2] == "default" && value / unit > 0, "{row:?}, and {limit} is in force");
    }
    // A host that has too few is no reason to refuse the file.
    let few = folder.few_descriptors();
    assert_eq!(few.status.code(), Some(0));
    let shown = String::from_utf8(few.stdout).unwrap();
    assert_eq!(row(&shown, "connections_max")[1], "as many as the descriptor limit leaves, at most 65536");
}

#[test]
fn check_config_and_run_refuse_alike() {
    let file = |folder: &Folder| folder.file().display().to_string();
    for (text, begins) in [
        ("[limits]\n\ntokens_mux = 5\n", ":3: tokens_mux: no such key; the nearest is tokens_max in [limits]"),
        ("linger = '5'\n", ":1: linger: 5 is no time; give"),
        ("linger = \n", ":1: "),
        ("tls = ['127.0.0.1:0']\n\ncert = 'absent.pem'\nkey = 'absent.key'\n", ":3: cert: absent.pem: cannot be read;"),
        (
            "[[listen]]\nproto = 'tls'\naddr = '127.0.0.1:0'\ncert = 'absent.pem'\nkey = 'absent.key'\n",
            ":1: cert: absent.pem: cannot be read;",
        ),
    ] {
        let folder = Folder::with(text);
        for command in ["check-config", "run"] {
            let mut command = engine(&[command, "--config"]);
            let output = command.arg(folder.file()).current_dir(folder.0.path()).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]), "{said}");
            assert!(said.starts_with(&format!("engine: {}{begins}", file(&folder))), "{said}");
            assert_eq!((said.lines().count(), folder.files()), (1, 1), "{said}");
        }
    }
    let folder = Folder::with("");
    std::fs::remove_file(folder.file()).unwrap();
    let said = String::from_utf8(folder.check(&[], &[]).stderr).unwrap();
    assert!(said.starts_with(&format!("engine: {}: cannot be read; give a TOML file", file(&folder))), "{said}");
}

#[test]
fn the_example_file_is_in_order_with_every_line_in_force() {
    let folder = Folder::with("");
    let pair = Authority::new().pair("localhost", ECDSA);
    pair.write(folder.0.path());
    std::fs::write(folder.0.path().join("ca.pem"), Authority::new().pem()).unwrap();
    std::fs::write(folder.0.path().join("tokens"), "2bfbea1e-10c3-4419-bdad-7e6435882e1f web\n").unwrap();
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("engine.toml")).unwrap();
    folder.write(&example);
    let plain = String::from_utf8(folder.check(&[], &[]).stdout).unwrap();
    assert!(plain.lines().all(|line| line.ends_with("  default") || line.starts_with("config ")), "{plain}");
    let line =
        |line: &str| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line).to_owned() + "\n";
    let all: String = example.lines().map(line).collect();
    folder.write(&all.replace("/etc/engine", folder.0.path().to_str().unwrap()));
    let output = folder.check(&[], &[]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let place = format!("{}:", folder.file().display());
    assert!(shown.lines().all(|line| line.contains(&place) || line.starts_with("config ")), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("[[listen]]")).count(), 2);
}

#[test]
fn each_listener_has_its_own_framing() {
    let folder = Folder::with(
        "framing = 'octet'\n[[listen]]\nproto = 'tcp'\naddr = '127.0.0.1:0'\nframing = 'lf'\n\
         [[listen]]\nproto = 'tcp'\naddr = '127.0.0.1:0'\n[[listen]]\nproto = 'udp'\naddr = '127.0.0.1:0'\n",
    );
    let mut engine = folder.start(&[]);
    let frame = format!("{T} a\nb");
    send(connect(address(&engine, "tcp", 0)), &[format!("{T} first\n{U} 5 x\n").as_bytes()]).unwrap();
    send(connect(address(&engine, "tcp", 1)), &[format!("{} {frame}", frame.len()).as_bytes()]).unwrap();
    address(&engine, "udp", 0);
    engine.stop();
    let mut entries = engine.entries(T);
    entries.sort();
    assert_eq!(entries, [&b"a\xe2\x80\xa8b"[..], b"first"]);
    assert_eq!(engine.entries(U), [&b"5 x"[..]]);
}

#[test]
fn each_tls_listener_shows_its_own_certificate() {
    let folder = Folder::with("");
    let authorities = [Authority::new(), Authority::new()];
    let mut listeners = vec!["[[listen]]\nproto = 'tcp'\naddr = '127.0.0.1:0'\n".to_owned()];
    for (name, authority) in ["one", "two"].into_iter().zip(&authorities) {
        let own = folder.0.path().join(name);
        std::fs::create_dir(&own).unwrap();
        let (cert, key) = authority.pair("localhost", ECDSA).write(&own);
        listeners.push(format!("[[listen]]\nproto = 'tls'\naddr = '127.0.0.1:0'\ncert = {cert:?}\nkey = {key:?}\n"));
    }
    folder.write(&listeners.concat());
    let mut engine = folder.start(&[]);
    let trusts = |authority: &Authority, listener: usize| {
        let mut client = Client::new(&Arc::new(authority.client(&[&TLS13])), "localhost");
        let mut stream = TcpStream::connect(address(&engine, "tls", listener)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut read = [0; 16_384];
        while client.connection.is_handshaking() {
            stream.write_all(&client.take()).unwrap();
            let count = stream.read(&mut read).unwrap();
            if client.give(&read[..count]).is_err() {
                return false;
            }
        }
        stream.write_all(&client.take()).unwrap();
        stream.write_all(&client.seal(&[format!("{T} {listener}\n").as_bytes()])).unwrap();
        true
    };
    let [first, second] = &authorities;
    assert!(trusts(first, 0) && trusts(second, 1));
    assert!(!trusts(second, 0) && !trusts(first, 1));
    assert!(wait_until(|| engine.entries(T).len() == 2), "{}", engine.stderr());
    engine.stop();
}

#[test]
fn sighup_changes_what_it_can_and_names_the_rest() {
    let listen = "[[listen]]\nproto = 'tcp'\naddr = '127.0.0.1:0'\n";
    let folder = Folder::with(&format!("shards = 1\n[limits]\ntokens_max = 1\n{listen}"));
    let mut engine = folder.start(&["--admin", "127.0.0.1:0"]);
    let admin = engine.admin();
    let metric = |name: &str| Metrics::of(admin).get(name);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} one\n{U} too many\n").as_bytes()).unwrap();
    assert!(wait_until(|| metric("engine_rejected_lines_total{reason=\"too_many_tokens\"}") == 1));

    // What is wrong anywhere in it changes nothing.
    folder.write(&format!("shards = 1\n[limits]\ntokens_max = 2\nlingr = '6ms'\n{listen}"));
    engine.signal(Signal::HUP);
    let said = engine.wait_for_line(|line| line.contains(" warn configuration kept as it was error="));
    assert!(said.contains("engine.toml:4: lingr: no such key; the nearest is linger"), "{said}");
    assert_eq!(metric("engine_limit{name=\"tokens_max\"}"), 1);

    folder.write(&format!("shards = 2\n[limits]\ntokens_max = 2\n[storage]\nlinger = '6ms'\n{listen}"));
    engine.signal(Signal::HUP);
    engine.wait_for_line(|line| line.contains("configuration read again changed=2 needs_restart=1"));
    engine.wait_for_line(|line| line.ends_with(" info setting changed name=tokens_max from=\"1\" to=\"2\""));
    engine.wait_for_line(|line| line.ends_with(" info setting changed name=linger from=\"5ms\" to=\"6ms\""));
    engine.wait_for_line(|line| line.ends_with(" warn setting needs a restart name=shards from=\"1\" to=\"2\""));
    stream.write_all(format!("{U} one more\n").as_bytes()).unwrap();
    engine.wait_for_log(U, b"one more\n");
    assert_eq!(metric("engine_limit{name=\"tokens_max\"}"), 2);

    // A line further down: that is no change of the listener. What needs a restart is named again.
    folder.write(&format!("shards = 2\n\n[limits]\ntokens_max = 2\n[storage]\nlinger = '6ms'\n{listen}"));
    engine.signal(Signal::HUP);
    engine.wait_for_line(|line| line.contains("configuration read again changed=0 needs_restart=1"));
    assert_eq!(metric("engine_config_reloads_total{result=\"ok\"}"), 2);
    assert_eq!(metric("engine_config_reloads_total{result=\"failed\"}"), 1);
    drop(stream);
    engine.stop();
}

// What a running shard takes.

#[test]
fn another_linger_holds_for_what_lingers_already() {
    let mut config = config(4096);
    config.logs.linger = Duration::from_mins(10);
    let mut sim = Sim::new(1, Faults::none(), config);
    let peer = sim.connect();
    for log in 1..4 {
        sim.send(peer, format!("{} at once\n", token(log)).as_bytes());
        sim.run_until(|sim| sim.log_bytes(token(log)) == b"at once\n");
        sim.send(peer, format!("{} lingers\n", token(log)).as_bytes());
        sim.run_for(Duration::from_secs(10));
    }
    let stored = |sim: &Sim| (1..4).filter(|log| sim.log_bytes(token(*log)) == b"at once\nlingers\n").count();
    assert_eq!(stored(&sim), 0);
    // Written 30, 20 and 10 seconds ago.
    sim.command(&Command::Change(Change::Linger(Duration::from_secs(25))));
    sim.run_for(Duration::from_secs(1));
    assert_eq!(stored(&sim), 1);
    sim.command(&Command::Change(Change::Linger(Duration::from_secs(40))));
    sim.run_for(Duration::from_secs(10));
    assert_eq!(stored(&sim), 1);
    sim.command(&Command::Change(Change::Linger(Duration::ZERO)));
    sim.send(peer, format!("{} new\n", token(4)).as_bytes());
    sim.run_for(Duration::from_secs(1));
    assert_eq!((stored(&sim), sim.log_bytes(token(4))), (3, b"new\n".to_vec()));
    drain(&mut sim, &[peer]);
}

#[test]
fn another_drain_timeout_holds_for_the_drain_to_come() {
    let mut config = config(4096);
    config.drain_timeout = Duration::from_mins(10);
    let mut sim = Sim::new(2, Faults::none(), config);
    let peer = sim.connect();
    sim.send(peer, format!("{} x\n", token(1)).as_bytes());
    sim.run_until(|sim| sim.log_bytes(token(1)) == b"x\n");
    sim.command(&Command::Change(Change::DrainTimeout(Duration::from_millis(200))));
    let from = sim.now();
    drain(&mut sim, &[]);
    assert!(sim.now().since(from) < Duration::from_secs(1));
}

#[test]
fn datagrams_may_be_allowed_to_make_logs() {
    let mut config = config(4096);
    (config.udp_sockets, config.udp_buffers) = (1, 8);
    let mut sim = Sim::new(3, Faults::none(), config);
    let line = format!("{} x\n", token(1));
    for (creates, stored) in [(false, 0), (true, 1), (false, 2)] {
        sim.command(&Command::Change(Change::UdpCreates(creates)));
        sim.run_for(Duration::from_secs(1));
        assert!(sim.send_datagram(line.as_bytes()));
        sim.run_for(Duration::from_secs(1));
        assert_eq!(sim.log_bytes(token(1)), b"x\n".repeat(stored));
    }
    drain(&mut sim, &[]);
}

//! Token lists and rejected lines: what names a log, what happens when that changes, and what is kept of the rest.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;

use engine::driver::sim::{Ending, Fault, Faults, PeerId, Sim, When};
use engine::handover::ShardId;
use engine::route::{KnownTokens, Ownership};
use engine::segment::LogName;
use engine::shard::{Allowance, Command, ListenerConfig, RejectedRoom, ShardConfig};
use engine::wire::{Reject, Token};
use rustix::process::Signal;

use support::hostile::{hostile_bytes, pieces, random_cuts};
use support::http::Metrics;
use support::oracle::{Framing, Oracle, Oversize, counts_octets};
use support::process::{Engine, assert_shows_no_token, engine, finish, logs, send, wait_until};
use support::world::{assert_chained, assert_conserved, config, drain, token, unfinished_frame};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";
const LINE_BYTES_MAX: usize = 300;

fn known(tokens: &[Token]) -> Arc<KnownTokens> {
    Arc::new(tokens.iter().copied().collect())
}

fn config_of(shards: u16) -> ShardConfig {
    ShardConfig { ownership: Ownership::with_seed(shards, 1), ..config(LINE_BYTES_MAX) }
}

/// The lines that were kept for a reason.
fn kept(sim: &Sim, reason: Reject) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (base, segment) in sim.segments(LogName::Rejected(reason)) {
        assert_eq!(base.0, bytes.len() as u64, "a gap or an overlap");
        bytes.extend(segment);
    }
    bytes
}

/// Every other token of a stream, the way it would be if all were known.
fn some_tokens(framing: Framing, stream: &[u8]) -> BTreeSet<String> {
    let mut all = Oracle::new(LINE_BYTES_MAX, Oversize::Split);
    all.feed(framing, stream);
    all.entries.into_keys().step_by(2).collect()
}

fn engine_framing(framing: Framing) -> engine::framing::Framing {
    match framing {
        Framing::Lf | Framing::Udp => engine::framing::Framing::Lf,
        Framing::Octet => engine::framing::Framing::Octet,
        Framing::Auto => engine::framing::Framing::Auto,
    }
}

#[track_caller]
fn assert_as_the_oracle_says(sim: &Sim, oracle: &Oracle, case: &str) {
    let stored: BTreeSet<String> = sim.tokens().map(|token| token.to_string()).collect();
    assert_eq!(stored, oracle.entries.keys().cloned().collect(), "{case}: other logs");
    for token in &stored {
        assert!(sim.log_bytes(token.parse().unwrap()) == oracle.log_bytes(token), "{case}: {token} differs");
    }
    let counters = sim.outcome().unwrap().counters;
    for (reason, count) in
        [(Reject::NoToken, oracle.counters.no_token), (Reject::UnknownToken, oracle.counters.unknown_token)]
    {
        assert_eq!(counters.rejected(reason), count, "{case}: {}", reason.name());
        let lines = oracle.kept.get(reason.name()).cloned().unwrap_or_default();
        assert!(kept(sim, reason) == lines, "{case}: kept for {}", reason.name());
    }
    assert_eq!(counters.kept_lines, oracle.counters.no_token + oracle.counters.unknown_token, "{case}: kept lines");
    assert_eq!((counters.rejected(Reject::Empty), counters.entries), (oracle.counters.empty, oracle.counters.entries));
    assert_conserved(&counters, case);
    assert_chained(sim, case);
}

/// A hostile stream without a frame at its end that is not all there: of that one the oracle sees no pieces.
fn stream(framing: Framing, seed: u64) -> Vec<u8> {
    let mut stream = hostile_bytes(framing, seed, LINE_BYTES_MAX);
    let counts = framing == Framing::Octet || (framing == Framing::Auto && counts_octets(&stream));
    if counts && let Some((whole, _)) = unfinished_frame(&stream) {
        stream.truncate(whole);
    }
    stream
}

/// Hostile streams of which half of the tokens are known, in any cuts, on any number of shards: stored, counted and kept
/// is what the oracle says.
#[test]
fn known_tokens_decide_as_the_oracle_says() {
    let mut unknown = 0;
    for framing in [Framing::Lf, Framing::Octet, Framing::Auto, Framing::Udp] {
        for (seed, shards) in (0..60).zip([1, 2, 3].into_iter().cycle()) {
            let case = format!("{framing:?}, seed {seed}, {shards} shards");
            let stream = stream(framing, seed);
            let listed = some_tokens(framing, &stream);
            let oversize = if seed % 2 == 0 { Oversize::Split } else { Oversize::Truncate };
            let mut oracle = Oracle::new(LINE_BYTES_MAX, oversize).knowing(listed.clone());
            oracle.feed(framing, &stream);
            unknown += oracle.counters.unknown_token;
            let mut config = config_of(shards);
            config.listeners = vec![ListenerConfig::plain(engine_framing(framing))];
            config.udp_sockets = 1;
            if oversize == Oversize::Truncate {
                config.oversize = engine::shard::Oversize::Truncate;
            }
            config.logs.known = Some(Arc::new(listed.iter().map(|token| token.parse().unwrap()).collect()));
            config.logs.rejected = Some(RejectedRoom::new(u64::MAX));
            let mut sim = Sim::new(seed, Faults::none(), config);
            if framing == Framing::Udp {
                assert!(sim.send_datagram(&stream));
            } else {
                let peer = sim.connect();
                for piece in pieces(&stream, &random_cuts(seed, stream.len(), 20)) {
                    sim.send(peer, piece);
                    sim.turn();
                }
                sim.close(peer);
                sim.run_until(|sim| sim.ending(peer) != Ending::Open);
            }
            drain(&mut sim, &[]);
            assert_as_the_oracle_says(&sim, &oracle, &case);
        }
    }
    assert!(unknown > 500, "{unknown} lines of unknown tokens are too few");
}

fn say(sim: &mut Sim, peer: PeerId, token: Token, text: &str) {
    sim.send(peer, format!("{token} {text}\n").as_bytes());
}

/// Connections and datagrams remember where the last token's entries go: a new list makes them forget it.
#[test]
fn a_new_list_holds_for_what_comes_after_it() {
    for shards in [1, 2, 4] {
        let mut config = config_of(shards);
        config.udp_sockets = 1;
        config.logs.known = Some(known(&[token(1), token(2)]));
        let mut sim = Sim::new(7, Faults::none(), config);
        let peers: Vec<PeerId> = (0..shards).map(|shard| sim.connect_to(ShardId(shard))).collect();
        for (list, text) in [(&[token(1), token(2)][..], "a"), (&[token(2)], "b"), (&[token(1)], "c")] {
            sim.command(&Command::Know(known(list)));
            sim.run_for(std::time::Duration::from_millis(50));
            for &peer in &peers {
                say(&mut sim, peer, token(1), text);
                say(&mut sim, peer, token(1), text);
                say(&mut sim, peer, token(2), text);
                say(&mut sim, peer, token(2), text);
            }
            assert!(sim.send_datagram(format!("{0} {text}\n{0} {text}", token(1)).as_bytes()));
            sim.run_for(std::time::Duration::from_millis(50));
        }
        drain(&mut sim, &peers);
        let times = usize::from(shards) * 2;
        let lines = |text: &str, times: usize| format!("{text}\n").repeat(times);
        let one = [lines("a", times + 2), lines("c", times + 2)].concat();
        let two = [lines("a", times), lines("b", times)].concat();
        assert_eq!(String::from_utf8(sim.log_bytes(token(1))).unwrap(), one, "{shards} shards");
        assert_eq!(String::from_utf8(sim.log_bytes(token(2))).unwrap(), two, "{shards} shards");
        let counters = sim.outcome().unwrap().counters;
        assert_eq!(counters.rejected(Reject::UnknownToken), (2 * times + 2) as u64, "{shards} shards");
        assert_conserved(&counters, "lists");
    }
}

/// A long line was judged with its first piece.
#[test]
fn a_line_that_was_begun_goes_on_under_a_new_list() {
    let mut config = config_of(2);
    config.logs.known = Some(known(&[token(1)]));
    config.logs.rejected = Some(RejectedRoom::new(u64::MAX));
    let mut sim = Sim::new(3, Faults::none(), config);
    let peers = [token(1), token(2)].map(|token| {
        let peer = sim.connect();
        sim.send(peer, format!("{token}{}", "x".repeat(400)).as_bytes());
        peer
    });
    sim.run_for(std::time::Duration::from_millis(50));
    sim.command(&Command::Know(known(&[token(2)])));
    sim.run_for(std::time::Duration::from_millis(50));
    for peer in peers {
        sim.send(peer, b"yy\n");
    }
    drain(&mut sim, &peers);
    let stored = [&[b'x'; 264][..], b"\n", &[b'x'; 136], b"yy\n"].concat();
    assert_eq!(sim.log_bytes(token(1)), stored);
    assert_eq!(sim.tokens().collect::<Vec<_>>(), [token(1)]);
    let lines = [token(2).to_string().as_bytes(), &stored].concat();
    assert_eq!(kept(&sim, Reject::UnknownToken), lines);
}

/// Lines that the owner of their log rejects come from another shard, and go on to a third.
#[test]
fn what_is_rejected_elsewhere_is_kept_with_its_token_in_front() {
    for seed in 0..20 {
        let mut config = config_of(4);
        config.logs.tokens = Allowance::new(1);
        config.logs.rejected = Some(RejectedRoom::new(u64::MAX));
        let mut sim = Sim::new(seed, Faults::none(), config);
        let first = sim.connect();
        say(&mut sim, first, token(0), "hello");
        sim.run_until(|sim| sim.log_bytes(token(0)) == b"hello\n");
        let peers: Vec<PeerId> = (0..4).map(|shard| sim.connect_to(ShardId(shard))).collect();
        let mut expected = Vec::new();
        for (number, &peer) in (1..).zip(&peers) {
            for line in 0..2_000 {
                let token = token(number * 10 + line % 7);
                sim.send(peer, format!("{token} {number} {line}\n").as_bytes());
                expected.push(format!("{token} {number} {line}"));
            }
        }
        sim.run_until(|sim| sim.shard().report(0).counters.rejected(Reject::TooManyTokens) > 0);
        for &peer in &peers {
            sim.close(peer);
        }
        sim.run_until(|sim| peers.iter().all(|&peer| sim.ending(peer) == Ending::InOrder));
        sim.run_for(std::time::Duration::from_millis(500));
        drain(&mut sim, &[first]);
        let stored = String::from_utf8(kept(&sim, Reject::TooManyTokens)).unwrap();
        let mut lines: Vec<&str> = stored.lines().collect();
        lines.sort_unstable();
        expected.sort_unstable();
        assert!(lines == expected, "seed {seed}: {} lines kept of {}", lines.len(), expected.len());
        let counters = sim.outcome().unwrap().counters;
        assert_eq!((counters.rejected(Reject::TooManyTokens), counters.kept_lines), (8_000, 8_000), "seed {seed}");
        assert_conserved(&counters, &format!("seed {seed}"));
    }
}

/// However many shards take room, together they keep no more than there is; what does not fit is counted as ever.
#[test]
fn rejected_lines_are_kept_up_to_the_limit() {
    for (seed, shards) in (0..9).zip([1, 2, 4].into_iter().cycle()) {
        let mut config = config_of(shards);
        config.logs.known = Some(known(&[token(1)]));
        config.logs.rejected = Some(RejectedRoom::new(1_000));
        let mut sim = Sim::new(seed, Faults::none(), config);
        let peers: Vec<PeerId> = (0..shards).map(|shard| sim.connect_to(ShardId(shard))).collect();
        for &peer in &peers {
            for number in 0..100 {
                sim.send(peer, format!("no token {number}\n{} x\n", token(2)).as_bytes());
            }
        }
        drain(&mut sim, &peers);
        let kept_bytes = kept(&sim, Reject::NoToken).len() + kept(&sim, Reject::UnknownToken).len();
        assert!((950..=1_000).contains(&kept_bytes), "{kept_bytes} bytes are kept");
        let counters = sim.outcome().unwrap().counters;
        let lines = [Reject::NoToken, Reject::UnknownToken].map(|reason| {
            let rejected = counters.rejected(reason);
            assert_eq!(rejected, 100 * u64::from(shards));
            String::from_utf8(kept(&sim, reason)).unwrap().lines().count() as u64
        });
        assert_eq!(counters.kept_lines, lines.iter().sum::<u64>());
        assert_conserved(&counters, "the limit");
        assert_eq!(sim.tokens().count(), 0);
    }
}

fn disk_faults() -> Faults {
    [Fault::ShortWrite, Fault::WriteInterrupted, Fault::WriteRefused, Fault::OpenRefused, Fault::ShortReceive]
        .into_iter()
        .fold(Faults::none(), |faults, fault| faults.with(fault, When::OneIn(5)))
}

/// A disk that refuses now and then, rolls and little memory: what is kept is whole lines in whole chains.
#[test]
fn kept_lines_are_whole_whatever_fails() {
    for seed in 0..60 {
        let mut config = config_of(1 + u16::try_from(seed % 3).unwrap());
        config.buffer_bytes = 1 << 20;
        // So that the drain has time for all refusals: it gives up with the first one behind its end.
        config.drain_timeout = std::time::Duration::from_mins(10);
        config.logs.segment.bytes = 20_000;
        config.logs.known = Some(known(&[token(1)]));
        config.logs.rejected = Some(RejectedRoom::new(u64::MAX));
        let mut sim = Sim::new(seed, disk_faults(), config);
        let peer = sim.connect();
        let lines: Vec<String> = (0..3_000).map(|number| format!("{} line {number}\n", token(2))).collect();
        for line in lines.chunks(500) {
            sim.send(peer, line.concat().as_bytes());
            say(&mut sim, peer, token(1), "hello");
            sim.run_for(std::time::Duration::from_millis(150));
        }
        drain(&mut sim, &[peer]);
        let stored = kept(&sim, Reject::UnknownToken);
        let outcome = sim.outcome().unwrap();
        let (kept, unstored) = (stored.len(), outcome.unstored_bytes);
        assert!(stored == lines.concat().as_bytes(), "seed {seed}: {kept} bytes are kept, {unstored} not stored");
        let times = outcome.counters.rejected(Reject::UnknownToken);
        assert_eq!((outcome.counters.kept_lines, outcome.unstored_bytes), (times, 0), "seed {seed}");
        assert_eq!((times, sim.log_bytes(token(1))), (3_000, b"hello\n".repeat(6)), "seed {seed}");
    }
}

// The real engine.

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with a list, and a place for data.
struct Listed {
    folder: tempfile::TempDir,
}

impl Listed {
    fn new(list: &str) -> Self {
        let listed = Self { folder: tempfile::tempdir().unwrap() };
        listed.write(list);
        listed
    }

    fn list(&self) -> std::path::PathBuf {
        self.folder.path().join("tokens")
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn write(&self, list: &str) {
        fs::write(self.list(), list).unwrap();
    }

    fn start(&self, more: &[&str]) -> Engine {
        Engine::start_in(&self.data(), &[&["--tokens", utf8(&self.list())], more].concat())
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let (list, data) = (self.list(), self.data());
        let output = finish(engine(&[args, &["--data", utf8(&data), "--tokens", utf8(&list)]].concat()));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

fn say_to(engine: &Engine, lines: &str) {
    send(engine.connect(), &[lines.as_bytes()]).unwrap();
}

#[test]
fn only_listed_tokens_make_logs_and_names_find_them() {
    let listed = Listed::new(&format!("# ours\n{} web # the shop\n", T.to_uppercase()));
    let mut engine = listed.start(&["--udp", "127.0.0.1:0", "--shards", "2"]);
    say_to(&engine, &format!("{U} not ours {T}\nx {U} {T} by tcp\n{U}\n"));
    engine.wait_for_log(T, format!("x {U} by tcp\n").as_bytes());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(format!("{U} by udp\n{T} by udp").as_bytes(), engine.udp_addr()).unwrap();
    let all = format!("x {U} by tcp\nby udp\n");
    engine.wait_for_log(T, all.as_bytes());
    assert_eq!(logs(engine.data()), [T]);
    let (code, stdout, _) = listed.run(&["cat", "web"]);
    assert_eq!((code, stdout), (0, all.clone()));
    assert_eq!(listed.run(&["cat", &T.to_uppercase()]).1, all);
    let (_, table, _) = listed.run(&["ls"]);
    assert!(table.lines().nth(1).unwrap().starts_with(&format!("{T}  web ")), "{table}");
    assert!(listed.run(&["ls", "--json"]).1.contains("\"name\":\"web\""));
    let (code, _, stderr) = listed.run(&["cat", "shop"]);
    assert!(code == 2 && stderr.starts_with("engine: LOG: \"shop\" is neither a token nor a name in "), "{stderr}");
    let summary = engine.stop();
    assert_eq!((summary.get("rejected.unknown_token"), summary.get("entries")), (3, 2));
    assert!(!engine.data().join("_rejected").exists());
    assert_shows_no_token("the log", &engine.stderr());
}

#[test]
fn a_datagram_creates_the_log_of_a_listed_token() {
    let listed = Listed::new(T);
    let engine = listed.start(&["--udp", "127.0.0.1:0"]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(format!("{T} first").as_bytes(), engine.udp_addr()).unwrap();
    engine.wait_for_log(T, b"first\n");
}

#[test]
fn a_list_is_read_again_on_sighup_and_when_it_changes() {
    let listed = Listed::new(T);
    let mut engine = listed.start(&["--admin", "127.0.0.1:0", "--shards", "2"]);
    let (mut ours, mut theirs) = (engine.connect(), engine.connect());
    let mut say = |token: &str, text: &str| {
        for stream in [&mut ours, &mut theirs] {
            std::io::Write::write_all(stream, format!("{token} {text}\n").as_bytes()).unwrap();
        }
    };
    say(T, "one");
    engine.wait_for_log(T, b"one\none\n");

    listed.write(&format!("{T}\n{U} new\n"));
    engine.signal(Signal::HUP);
    let told = "token list read again tokens=2 added=1 removed=0";
    engine.wait_for_line(|line| line.contains(told));
    say(U, "two");
    engine.wait_for_log(U, b"two\ntwo\n");

    // A line that is wrong: all stays as it was.
    listed.write(&format!("{U}\n{T} web web\n"));
    let said = engine.wait_for_line(|line| line.contains("token list kept as it was"));
    assert!(said.contains("line 2: "), "{said}");
    listed.write("");
    engine.wait_for_line(|line| line.contains("holds no token"));
    say(T, "three");
    engine.wait_for_log(T, b"one\none\nthree\nthree\n");

    // A token that is gone: what is there stays and can be read.
    listed.write(U);
    engine.wait_for_line(|line| line.contains("tokens=1 added=0 removed=1"));
    say(T, "four");
    say(U, "five");
    engine.wait_for_log(U, b"two\ntwo\nfive\nfive\n");
    assert_eq!(listed.run(&["cat", T]).1, "one\none\nthree\nthree\n");

    let metrics = Metrics::of(engine.admin());
    let reloads =
        ["ok", "failed"].map(|result| metrics.get(&format!("engine_config_reloads_total{{result=\"{result}\"}}")));
    assert!(reloads[0] >= 2 && reloads[1] >= 2, "{reloads:?}");
    let summary = engine.stop();
    assert_eq!((summary.get("entries"), summary.get("rejected.unknown_token")), (8, 2));
    assert_shows_no_token("the log", &engine.stderr());
}

#[test]
fn a_list_that_cannot_be_used_is_refused_at_start() {
    for (list, said) in [
        (format!("{T}\n{T}\n"), "line 2: 2bfbea1e… is listed on line 1 already"),
        (format!("{T} {U}\n"), "line 1: \"00112233…\" looks like a token"),
        ("# none\n".to_owned(), "holds no token"),
    ] {
        let listed = Listed::new(&list);
        let (code, _, stderr) = listed.run(&["run", "--tcp", "127.0.0.1:0", "--admin", "off"]);
        assert!(code == 2 && stderr.starts_with("engine: --tokens: ") && stderr.contains(said), "{code}: {stderr}");
        assert_shows_no_token("the error", &stderr);
        assert!(!listed.data().exists(), "nothing is touched");
    }
}

#[test]
fn with_a_list_it_may_listen_beyond_loopback() {
    let listed = Listed::new(T);
    let mut engine = listed.start(&["--tcp", "0.0.0.0:0"]);
    engine.stop();
}

/// Lines are kept whole, up to the limit, across a kill in the middle of a line and restarts.
#[test]
fn rejected_lines_are_kept_across_restarts() {
    let listed = Listed::new(T);
    let keep = ["--rejected", "keep", "--rejected-bytes-max", "200", "--shards", "2", "--admin", "127.0.0.1:0"];
    let kept =
        |reason: &str| fs::read(listed.data().join(format!("_rejected/{reason}/00000000000000000000.log"))).unwrap();
    let line = format!("{U} not ours\n");
    let mut engine = listed.start(&keep);
    say_to(&engine, &format!("{line}no token at all\n{T} ours\n\n###LE-IAA###\n"));
    assert!(wait_until(|| Metrics::of(engine.admin()).get("engine_rejected_kept_lines_total") == 2));
    engine.stop();
    assert_eq!((kept("unknown_token"), kept("no_token")), (line.clone().into_bytes(), b"no token at all\n".to_vec()));
    assert_eq!(logs(&listed.data()), [T]);

    // What a power cut might leave.
    let path = listed.data().join("_rejected/no_token/current");
    std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(path).unwrap(), b"unfini").unwrap();
    let mut engine = listed.start(&keep);
    assert_eq!(
        fs::read(listed.data().join("_quarantine/_rejected-no_token-00000000000000000000-16")).unwrap(),
        b"unfini"
    );
    say_to(&engine, &line.repeat(20));
    let summary = engine.stop();
    // 200 bytes hold the first 46 + 16 and two more of 46.
    assert_eq!((summary.get("rejected.unknown_token"), summary.get("kept_lines")), (20, 3));
    assert_eq!((kept("unknown_token"), kept("no_token")), (line.repeat(4).into_bytes(), b"no token at all\n".to_vec()));

    // Without the flag they stay, and nothing is added.
    let mut engine = listed.start(&[]);
    say_to(&engine, &line);
    assert_eq!(engine.stop().get("kept_lines"), 0);
    assert_eq!(kept("unknown_token"), line.repeat(4).into_bytes());
    assert_shows_no_token("the log", &engine.stderr());
}

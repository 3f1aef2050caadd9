//! Fuzz bodies: any bytes at all go in, and what must hold is checked here. `tests/fuzz.rs` runs them on captures and
//! seeded cases, `engine/fuzz` under a fuzzer that watches which branches are taken.
//!
//! The last bytes of the input choose limits and cuts, so that captures are inputs as they are.
//!
//! A new body is a function here, a case in `tests/fuzz.rs`, and a target of three lines in `engine/fuzz/fuzz_targets`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use engine::buf::BufferPool;
use engine::config;
use engine::driver::sim::{Ending, Faults, Sim};
use engine::framing::{BadHeader, Framing, LineDecoder, LineSink, ProxyDecoder, ProxyHeader};
use engine::limits::TLS_CARRY_BYTES_MAX;
use engine::shard::ListenerConfig;
use engine::tls::{Server, Session};
use engine::wire::token::shorten_tokens;
use engine::wire::{Token, TokenList};
use rustls::ClientConfig;

use super::hostile::{Random, pieces, random_cuts};
use super::oracle::{self, Oversize};
use super::tls::{Client, VERSIONS, both};
use super::world::{self, Expected, drain};

/// Shortest, odd, a page; the last one is the default.
const LIMITS: [usize; 4] = [64, 65, 4096, 262_144];

/// What the last bytes of an input choose.
struct Choices {
    limit: usize,
    oversize: Oversize,
    seed: u64,
}

/// Takes the choices from the end of an input.
fn choices(data: &[u8]) -> (&[u8], Choices) {
    let Some((data, &[one, two, three])) = data.split_last_chunk() else {
        return (&[], Choices { limit: 64, oversize: Oversize::Split, seed: 0 });
    };
    let oversize = if one & 0x80 == 0 { Oversize::Split } else { Oversize::Truncate };
    let limit = LIMITS[usize::from(one) % LIMITS.len()];
    (data, Choices { limit, oversize, seed: u64::from(u16::from_be_bytes([two, three])) })
}

/// A connection of one shard in a calm world: what is stored and counted is the oracle's word.
fn stream(framing: Framing, theirs: oracle::Framing, data: &[u8]) {
    let (data, Choices { limit, oversize, seed }) = choices(data);
    let mut config = world::config(limit);
    config.buffer_bytes = config.buffer_bytes.max(16 * limit);
    config.listeners = vec![ListenerConfig::plain(framing)];
    // Memory that is not needed costs a fuzzer more than the case itself: it is cleared each time.
    config.udp_buffers = 1;
    if oversize == Oversize::Truncate {
        config.oversize = engine::shard::Oversize::Truncate;
    }
    let mut sim = Sim::new(seed, Faults::none(), config);
    let peer = sim.connect();
    for piece in pieces(data, &random_cuts(seed, data.len(), usize::try_from(seed % 16).unwrap())) {
        sim.send(peer, piece);
        sim.turn();
    }
    sim.close(peer);
    sim.run_until(|sim| sim.ending(peer) != Ending::Open);
    drain(&mut sim, &[]);
    let mut expected = Expected::of(theirs);
    expected.add_whole(data, limit, oversize);
    expected.assert_stored(&sim, "fuzz");
    expected.assert_counted(&sim.outcome().unwrap().counters, "fuzz");
    assert_eq!(sim.shard().buffered_bytes(), 0, "memory is left of a connection that has ended");
}

/// Lines that end with LF.
pub fn lf(data: &[u8]) {
    stream(Framing::Lf, oracle::Framing::Lf, data);
}

/// Counted frames.
pub fn octet(data: &[u8]) {
    stream(Framing::Octet, oracle::Framing::Octet, data);
}

/// Whichever of them the first bytes say.
pub fn auto(data: &[u8]) {
    stream(Framing::Auto, oracle::Framing::Auto, data);
}

/// One datagram.
pub fn datagram(data: &[u8]) {
    let (data, Choices { limit, oversize, seed }) = choices(data);
    let data = &data[..data.len().min(super::hostile::DATAGRAM_BYTES_MAX)];
    let mut config = world::config(limit);
    config.buffer_bytes = config.buffer_bytes.max(16 * limit);
    (config.udp_sockets, config.udp_buffers, config.udp_creates) = (1, 1, true);
    if oversize == Oversize::Truncate {
        config.oversize = engine::shard::Oversize::Truncate;
    }
    let mut sim = Sim::new(seed, Faults::none(), config);
    assert!(sim.send_datagram(data), "the socket has room for one");
    drain(&mut sim, &[]);
    let mut expected = Expected::of(oracle::Framing::Udp);
    expected.add_whole(data, limit, oversize);
    expected.assert_stored(&sim, "fuzz");
    expected.assert_counted(&sim.outcome().unwrap().counters, "fuzz");
}

/// Keeps lines and the pieces of lines.
struct Lines {
    bytes: Vec<u8>,
    memory: BufferPool,
}

impl LineSink for Lines {
    fn line(&mut self, line: &[u8], _token: Option<&Token>) {
        self.bytes.extend(line);
        self.bytes.push(b'\n');
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        self.bytes.extend(piece);
        true
    }

    fn further_piece(&mut self, piece: &[u8]) {
        self.bytes.extend(piece);
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.memory
    }
}

/// A server and a client for each version, made once.
fn tls_sides() -> &'static [(Server, Arc<ClientConfig>); 2] {
    static SIDES: OnceLock<[(Server, Arc<ClientConfig>); 2]> = OnceLock::new();
    SIDES.get_or_init(|| VERSIONS.map(|version| both(&[version])))
}

/// A TLS session: the input is what the client says, in records of its own or raw, as a script of steps of two bytes each.
/// What comes out is a beginning of what went in, memory is bounded, and nothing but the session ends.
pub fn tls_records(data: &[u8]) {
    let (script, Choices { seed, .. }) = choices(data);
    let (server, client) = &tls_sides()[usize::from(script.first().is_some_and(|first| first & 1 == 1))];
    let (mut session, mut client) = (Session::new(server), Client::new(client, "localhost"));
    let mut decoder = LineDecoder::new(Framing::Lf);
    let mut sink = Lines { bytes: Vec::new(), memory: BufferPool::new(1 << 20) };
    let mut random = Random::new(seed);
    let mut said = Vec::new();
    let mut ended = false;
    for step in script.chunks_exact(2).take(200) {
        let &[what, how] = step else { continue };
        let how = usize::from(how);
        let mut wire = client.take();
        if !client.connection.is_handshaking() && what & 1 == 0 {
            // No LF at the end: what follows belongs to the same line.
            let text: Vec<u8> = (0..how * 8).map(|_| *random.pick(b"abc \r\n")).collect();
            wire.extend(client.seal(&text.chunks(1 + how % 40).collect::<Vec<_>>()));
            said.extend(text);
        }
        let at = if wire.is_empty() { 0 } else { how % wire.len() };
        match what >> 1 & 7 {
            0 if !wire.is_empty() => wire[at] ^= what | 1,
            1 => wire.truncate(at),
            2 => wire.splice(at..at, [what, 3, 3, 0, how.to_le_bytes()[0]]).for_each(drop),
            3 => wire.extend([0x17, 3, 3, 0, 0]),
            4 => wire.extend(std::iter::repeat_n(what, how)),
            _ => {}
        }
        let size = 1 + random.below(400);
        let last = wire.len().div_ceil(size);
        for (piece, number) in wire.chunks_mut(size).zip(1..) {
            ended |= session.receive(piece, &mut decoder, 4096, &mut sink).is_err();
            // Its turn may come later.
            if !ended && session.has_hello() && (number == last || random.below(2) == 0) {
                ended |= session.begin(&mut decoder, 4096, &mut sink).is_err();
            }
            assert!(sink.memory.used() <= 3 * TLS_CARRY_BYTES_MAX, "{} bytes of memory", sink.memory.used());
            if ended {
                break;
            }
        }
        if let Some(answer) = session.outgoing() {
            let heard = client.give(answer.rest());
            sink.memory.give(answer);
            ended |= heard.is_err();
        }
        if ended {
            break;
        }
    }
    session.abandon_record(&mut sink.memory);
    decoder.abandon(&mut sink.memory);
    if let Some(unsent) = session.outgoing() {
        sink.memory.give(unsent);
    }
    assert_eq!(sink.memory.used(), 0, "memory is left of a session that has ended");
    // One CR before each LF went.
    let kept = |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != b'\r').collect::<Vec<u8>>();
    assert!(kept(&said).starts_with(&kept(&sink.bytes)), "what came out is not what went in");
}

/// A PROXY header in any pieces is what a reader says that has it all before it.
pub fn proxy_header(data: &[u8]) {
    let (data, Choices { seed, .. }) = choices(data);
    let whole = ProxyDecoder::default().feed(data);
    assert_eq!(whole, read_header(data), "{}", data.escape_ascii());
    let (mut decoder, mut before, mut cut_up) = (ProxyDecoder::default(), 0, Ok(None));
    for piece in pieces(data, &random_cuts(seed, data.len(), 8)) {
        cut_up = decoder.feed(piece).map(|header| header.map(|header| before + header.taken).zip(header));
        if !matches!(cut_up, Ok(None)) {
            break;
        }
        before += piece.len();
    }
    let cut_up = cut_up.map(|header| header.map(|(taken, header)| ProxyHeader { taken, ..header }));
    assert_eq!(cut_up, whole, "seed {seed}: {}", data.escape_ascii());
}

/// The header at the start of these bytes, as the specification has it, without any state.
fn read_header(data: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let begins_like = |start: &[u8]| data.len() < start.len() && start.starts_with(data);
    if data.is_empty() || begins_like(SIGNATURE) || begins_like(b"PROXY ") {
        return Ok(None);
    }
    if let Some(rest) = data.strip_prefix(SIGNATURE) {
        let command = rest.first().copied().unwrap_or(0x20);
        if command != 0x20 && command != 0x21 {
            return Err(BadHeader);
        }
        let Some(&[_, family, high, low]) = rest.first_chunk() else { return Ok(None) };
        let length = usize::from(high) * 256 + usize::from(low);
        let (needed, known) = match family {
            0x11 => (12, true),
            0x21 => (36, true),
            0x00 | 0x12 | 0x22 | 0x31 | 0x32 => (0, true),
            _ => (0, false),
        };
        if command == 0x21 && (!known || length < needed) {
            return Err(BadHeader);
        }
        let Some(block) = rest[4..].get(..length) else { return Ok(None) };
        let client = match (command, family) {
            (0x21, 0x11) => block.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
            (0x21, 0x21) => block.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
            _ => None,
        };
        return Ok(Some(ProxyHeader { taken: 16 + length, client }));
    }
    let Some(rest) = data.strip_prefix(b"PROXY ") else { return Err(BadHeader) };
    let within = &data[..data.len().min(107)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if data.len() < 107 { Ok(None) } else { Err(BadHeader) };
    };
    let line = std::str::from_utf8(&rest[..end - 6]).map_err(|_| BadHeader)?;
    let words: Vec<&str> = line.split(' ').collect();
    let port = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && text.parse::<u32>().is_ok_and(|n| n < 65_536)
    };
    let client = match words[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", from, to, a, b] if to.parse::<Ipv4Addr>().is_ok() && port(a) && port(b) => {
            Some(IpAddr::V4(from.parse().map_err(|_| BadHeader)?))
        }
        ["TCP6", from, to, a, b] if to.parse::<Ipv6Addr>().is_ok() && port(a) && port(b) => {
            Some(IpAddr::V6(from.parse().map_err(|_| BadHeader)?))
        }
        _ => return Err(BadHeader),
    };
    Ok(Some(ProxyHeader { taken: end + 2, client }))
}

/// A token list: it is taken, and then its names and tokens lead to each other, or one line says what is wrong, without a
/// whole token.
pub fn token_list(data: &[u8]) {
    match TokenList::parse(data) {
        Ok(list) => {
            assert!(list.tokens().next().is_some(), "a list without a token is refused");
            for token in list.tokens() {
                if let Some(name) = list.name_of(token) {
                    assert_eq!(list.named(name), Some(token));
                    assert!(Token::parse(name.as_bytes()).is_none(), "a name that is a token");
                }
            }
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
}

/// A configuration file: it is taken, and then each key and value has a line of it, or one line says what is wrong.
pub fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let lines = 1 + text.matches('\n').count();
    match config::file::parse("engine.toml", text) {
        Ok(file) => {
            let listeners = file.listen.iter().flat_map(|table| &table.entries);
            for entry in file.entries.iter().chain(listeners) {
                assert!((1..=lines).contains(&entry.line), "{entry:?}");
                assert!(entry.values.iter().all(|value| (1..=lines).contains(&value.line)), "{entry:?}");
            }
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("engine.toml:"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}

fn assert_one_line(error: &str) {
    assert!(!error.contains('\n'), "{error}");
    assert_eq!(shorten_tokens(error), error, "a whole token");
}

//! A seeded world around one shard, and what must be true of it at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::driver::sim::{Ending, Faults, PeerId, Sim};
use engine::framing::Framing;
use engine::handover::ShardId;
use engine::metrics::Counters;
use engine::route::Ownership;
use engine::segment::journal::{Batch, Journal, JournalEntry, Proof, RECORD_BYTES};
use engine::segment::{Offset, Position, SegmentLimits};
use engine::shard::{
    Allowance, Command, JournalStart, ListenerConfig, LogLimits, Notice, PerAddress, ShardConfig, SyncLevel,
};
use engine::wire::{Reject, Token};

use super::oracle::{self, Oracle, counts_octets, frame_length};

/// A shard with small memory, whose peers get one second to end at a drain.
pub fn config(line_bytes_max: usize) -> ShardConfig {
    ShardConfig {
        id: ShardId(0),
        ownership: Ownership::with_seed(1, 0),
        line_bytes_max,
        oversize: engine::shard::Oversize::Split,
        buffer_bytes: 4 << 20,
        connections: Allowance::new(1000),
        per_address: PerAddress::new(0),
        drain_timeout: Duration::from_secs(1),
        listeners: vec![ListenerConfig::plain(Framing::Lf)],
        tls: Vec::new(),
        handshakes_max: 100,
        recv_buffers: 8,
        udp_sockets: 0,
        udp_buffers: 4,
        udp_creates: false,
        logs: LogLimits {
            linger: Duration::from_millis(5),
            segment: SegmentLimits { bytes: 256 << 20, age: Duration::from_hours(24) },
            tokens: Allowance::new(2000),
            known: None,
            rejected: None,
            open_files_max: 100,
        },
        journal: JournalStart::first(),
        sync: SyncLevel::Interval(Duration::from_secs(1)),
    }
}

/// What the oracle says of all connections of one run.
#[derive(Debug)]
pub struct Expected {
    framing: oracle::Framing,
    pub logs: BTreeMap<String, Vec<u8>>,
    pub counters: oracle::Counters,
    pub cut: u64,
}

impl Expected {
    pub fn new() -> Self {
        Self::of(oracle::Framing::Lf)
    }

    /// Of connections to listeners with this framing.
    pub fn of(framing: oracle::Framing) -> Self {
        Self { framing, logs: BTreeMap::new(), counters: oracle::Counters::default(), cut: 0 }
    }

    fn counts_octets(&self, stream: &[u8]) -> bool {
        match self.framing {
            oracle::Framing::Octet => true,
            oracle::Framing::Auto => counts_octets(stream),
            oracle::Framing::Lf | oracle::Framing::Udp => false,
        }
    }

    /// A connection that ended in order, or a datagram.
    pub fn add_whole(&mut self, stream: &[u8], limit: usize, oversize: oracle::Oversize) {
        if self.counts_octets(stream) {
            return self.add_frames(stream, limit, oversize);
        }
        let mut oracle = Oracle::new(limit, oversize);
        oracle.feed(self.framing, stream);
        self.add(&oracle);
    }

    /// A connection that was cut behind these bytes: its last line is dropped, except for the pieces that were whole.
    pub fn add_cut(&mut self, stream: &[u8], limit: usize, oversize: oracle::Oversize) {
        if self.counts_octets(stream) {
            let line_has_ended = stream.contains(&b'\n') || stream.len() > limit + 1;
            let may_be_request = stream.first().is_some_and(u8::is_ascii_uppercase) && !line_has_ended;
            if may_be_request || stream == b"\x16" {
                self.cut += 1;
                return;
            }
            return self.add_frames(stream, limit, oversize);
        }
        let whole = stream.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = &stream[whole..];
        let mut oracle = Oracle::new(limit, oversize);
        oracle.stream_lf(if stream.starts_with(b"\x16\x03") { stream } else { &stream[..whole] });
        if rest.is_empty() || oracle.counters.http + oracle.counters.tls_on_plain > 0 {
            return self.add(&oracle);
        }
        let pieces = whole_pieces(rest, limit);
        if pieces == 0 {
            self.cut += 1;
            return self.add(&oracle);
        }
        // The oracle knows no cuts: it sees one byte after the whole pieces, which then goes again.
        let mut longer = Oracle::new(limit, oversize);
        longer.stream_lf(&[&stream[..whole + pieces * limit], b"x"].concat());
        self.add_pieces(&oracle, longer, oversize);
    }

    /// Counted frames. Of the last one, if it is not all there, the pieces that were whole are stored: the oracle, which
    /// sees the stream at once, drops them too.
    fn add_frames(&mut self, stream: &[u8], limit: usize, oversize: oracle::Oversize) {
        let mut oracle = Oracle::new(limit, oversize);
        let (whole, part) = unfinished_frame(stream).unwrap_or((stream.len(), &[]));
        let pieces = whole_pieces(part, limit);
        if pieces == 0 {
            oracle.stream_octet(stream);
            return self.add(&oracle);
        }
        oracle.stream_octet(&stream[..whole]);
        let mut longer = Oracle::new(limit, oversize);
        let length = (pieces * limit + 1).to_string();
        longer.stream_octet(&[&stream[..whole], length.as_bytes(), b" ", &part[..pieces * limit], b"x"].concat());
        self.add_pieces(&oracle, longer, oversize);
    }

    /// `longer` has seen an unfinished line as far as its pieces were whole, and an `x`; `oracle` all that is before it.
    fn add_pieces(&mut self, oracle: &Oracle, mut longer: Oracle, oversize: oracle::Oversize) {
        let stored = longer.counters.split > oracle.counters.split;
        if stored && oversize == oracle::Oversize::Split {
            let grown =
                |token: &String, entries: &Vec<Vec<u8>>| entries.len() > oracle.entries.get(token).map_or(0, Vec::len);
            let (_, entries) = longer.entries.iter_mut().find(|(token, entries)| grown(token, entries)).unwrap();
            assert_eq!(entries.pop().unwrap(), b"x");
            longer.counters.entries -= 1;
            longer.counters.pieces -= 1;
            self.cut += 1;
        }
        self.add(&longer);
    }

    /// What came some other way, to other logs.
    pub fn add_all(&mut self, other: Self) {
        self.logs.extend(other.logs);
        self.add_counters(other.counters);
        self.cut += other.cut;
    }

    fn add(&mut self, oracle: &Oracle) {
        for token in oracle.entries.keys() {
            self.logs.entry(token.clone()).or_default().extend(oracle.log_bytes(token));
        }
        self.add_counters(oracle.counters);
    }

    fn add_counters(&mut self, more: oracle::Counters) {
        let sum = &mut self.counters;
        sum.entries += more.entries;
        sum.empty += more.empty;
        sum.keepalive += more.keepalive;
        sum.no_token += more.no_token;
        sum.unknown_token += more.unknown_token;
        sum.bad_frame += more.bad_frame;
        sum.cut += more.cut;
        sum.split += more.split;
        sum.pieces += more.pieces;
        sum.http += more.http;
        sum.tls_on_plain += more.tls_on_plain;
    }

    /// The shard counted exactly this.
    #[track_caller]
    pub fn assert_counted(&self, counters: &Counters, case: &str) {
        let want = self.counters;
        let rejected = |reason| counters.rejected(reason);
        assert_eq!(counters.entries, want.entries, "{case}: entries");
        assert_eq!(counters.split_lines, want.split, "{case}: split lines");
        assert_eq!(counters.split_pieces, want.pieces, "{case}: split pieces");
        assert_eq!(rejected(Reject::Empty), want.empty, "{case}: empty");
        assert_eq!(rejected(Reject::Keepalive), want.keepalive, "{case}: keepalive");
        assert_eq!(rejected(Reject::NoToken), want.no_token, "{case}: no token");
        assert_eq!(rejected(Reject::BadFrame), want.bad_frame, "{case}: bad frames");
        assert_eq!(rejected(Reject::Http), want.http, "{case}: http");
        assert_eq!(rejected(Reject::TlsOnPlain), want.tls_on_plain, "{case}: tls on plain");
        assert_eq!(rejected(Reject::PlainOnTls), 0, "{case}: plain on tls");
        assert_eq!(rejected(Reject::Cut), want.cut + self.cut, "{case}: cut");
        assert_eq!(rejected(Reject::TooManyTokens), 0, "{case}: too many tokens");
        assert_conserved(counters, case);
    }

    /// The same after this many repetitions.
    #[track_caller]
    pub fn assert_counted_times(mut self, counters: &Counters, times: u64, case: &str) {
        let sum = &mut self.counters;
        let all = [
            &mut sum.entries,
            &mut sum.empty,
            &mut sum.keepalive,
            &mut sum.no_token,
            &mut sum.unknown_token,
            &mut sum.bad_frame,
            &mut sum.cut,
            &mut sum.split,
            &mut sum.pieces,
            &mut sum.http,
            &mut sum.tls_on_plain,
            &mut self.cut,
        ];
        for count in all {
            *count *= times;
        }
        self.assert_counted(counters, case);
    }

    /// The logs hold exactly this.
    #[track_caller]
    pub fn assert_stored(&self, sim: &Sim, case: &str) {
        for (token, bytes) in &self.logs {
            let stored = sim.log_bytes(token.parse().unwrap());
            assert!(stored == *bytes, "{case}: {}", difference(&stored, bytes));
        }
        for token in sim.tokens() {
            assert!(self.logs.contains_key(&token.to_string()), "{case}: a log that nobody wrote to");
        }
    }
}

/// Where a stream's last frame begins, its length included, and what is there of it, if that is not all.
pub fn unfinished_frame(stream: &[u8]) -> Option<(usize, &[u8])> {
    let mut at = 0;
    loop {
        let (length, digits) = frame_length(&stream[at..])?;
        let frame = &stream[at + digits + 1..];
        if frame.len() < length {
            return Some((at, frame));
        }
        at += digits + 1 + length;
    }
}

/// Pieces that an unfinished line has given already: it is too long once one byte past the limit is no CR.
fn whole_pieces(rest: &[u8], limit: usize) -> usize {
    let mut left = rest;
    while left.len() > limit + 1 || (left.len() == limit + 1 && !left.ends_with(b"\r")) {
        left = &left[limit..];
    }
    (rest.len() - left.len()) / limit
}

fn difference(stored: &[u8], want: &[u8]) -> String {
    let at = stored.iter().zip(want).take_while(|(a, b)| a == b).count();
    let near = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[at.saturating_sub(80)..bytes.len().min(at + 80)]).escape_debug().to_string()
    };
    format!(
        "{} bytes stored, {} expected, they differ at {at}:\n stored {}\n expected {}",
        stored.len(),
        want.len(),
        near(stored),
        near(want)
    )
}

/// Every line has one fate.
#[track_caller]
pub fn assert_conserved(counters: &Counters, case: &str) {
    let rejected: u64 = Reject::ALL.iter().map(|&reason| counters.rejected(reason)).sum();
    assert_eq!(counters.lines + counters.split_pieces, counters.entries + rejected, "{case}: lines have two fates");
}

/// Segments form an unbroken chain, end with a line end each, and `current` names the last; all others are indexed whole.
#[track_caller]
pub fn assert_chained(sim: &Sim, case: &str) {
    // The bytes of an entry may go on in the next segment where a disk fails in the middle of it.
    let is_poisoned = sim.notices().iter().any(|notice| matches!(notice, Notice::Poisoned { .. }));
    for token in sim.tokens() {
        let mut end = None;
        let last = sim.segments(token).last().map(|(base, _)| base);
        for (base, bytes) in sim.segments(token) {
            let indexed = sim.indexed(token, base).0;
            assert!(
                Some(base) == last || is_poisoned || indexed == bytes.len() as u64,
                "{case}: indexed up to {indexed}"
            );
            assert_eq!(*end.get_or_insert(base.0), base.0, "{case}: a gap between segments");
            assert!(bytes.ends_with(b"\n") || is_poisoned, "{case}: a segment ends inside an entry");
            end = Some(base.0 + bytes.len() as u64);
        }
        assert_eq!(sim.current(token), last, "{case}: current");
    }
}

/// The journals tell of every byte of every segment, in its order, with its checksum.
#[track_caller]
pub fn assert_journaled(sim: &Sim, case: &str) {
    let mut told: BTreeMap<(Token, Offset), u64> = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut poisoned: BTreeSet<(Token, Offset)> = BTreeSet::new();
    let is_first = sim.journals().all(|(id, _)| id.generation == 1);
    for (id, bytes) in sim.journals() {
        let journal = Journal::parse(bytes).unwrap();
        assert!(!journal.damaged && bytes.len() == RECORD_BYTES * (journal.entries.len() + 1), "{case}: {id:?}");
        for entry in journal.entries {
            match entry {
                JournalEntry::Open { number, token, base } => {
                    assert!(numbers.insert((id.shard, number), (token, base)).is_none(), "{case}: {number:?} twice");
                    let before = told.insert((token, base), 0);
                    assert!(before.is_none() || poisoned.remove(&(token, base)), "{case}: {token} {base:?} made twice");
                }
                JournalEntry::Active { number, token, base, length, proof } => {
                    numbers.insert((id.shard, number), (token, base));
                    assert_proven(sim, (token, base), length, proof, case);
                    told.insert((token, base), length.0);
                }
                JournalEntry::Batch { number, batch } => {
                    // Before the table of its generation has come to its segment it is only known from the one before.
                    let Some(&segment) = numbers.get(&(id.shard, number)) else { continue };
                    let end = told.get_mut(&segment).unwrap();
                    assert_eq!(batch.position.0, *end, "{case}: {segment:?}");
                    if poisoned.contains(&segment) {
                        continue;
                    }
                    let (_, bytes) = sim.segments(segment.0).find(|(base, _)| *base == segment.1).unwrap();
                    let piece = *end..*end + u64::from(batch.length);
                    let piece = &bytes[usize::try_from(piece.start).unwrap()..usize::try_from(piece.end).unwrap()];
                    assert_eq!(batch, Batch::of(batch.position, piece, batch.time_micros), "{case}: {segment:?}");
                    *end += u64::from(batch.length);
                }
                JournalEntry::Poison { number, .. } => poisoned.extend(numbers.get(&(id.shard, number))),
                _ => {}
            }
        }
    }
    for token in sim.tokens() {
        for (base, bytes) in sim.segments(token) {
            // What was complete before the oldest generation is not told of; a poisoned one may hold more than that.
            let end = told.get(&(token, base)).copied().or_else(|| is_first.then_some(0));
            let is_told = end.is_none_or(|end| end == bytes.len() as u64);
            assert!(is_told || poisoned.contains(&(token, base)), "{case}: {token} {base:?}");
        }
    }
}

/// The checksum of a checkpoint is that of the segment, if it still has its name.
#[track_caller]
fn assert_proven(sim: &Sim, (token, base): (Token, Offset), length: Position, proof: Proof, case: &str) {
    let end = usize::try_from(length.0).unwrap();
    let start = end - usize::try_from(proof.length).unwrap();
    if let Some((_, bytes)) = sim.segments(token).find(|(other, bytes)| *other == base && bytes.len() >= end) {
        let found = Batch::of(Position(0), &bytes[start..end], 0);
        assert_eq!(found.crc, proof.crc, "{case}: {token} {base:?}");
    }
}

/// Drains: peers in `polite` close when they see the engine's half close, the others wait to be cut.
pub fn drain(sim: &mut Sim, polite: &[PeerId]) {
    sim.command(&Command::Drain);
    finish_drain(sim, polite);
}

/// The rest of a drain that was begun.
pub fn finish_drain(sim: &mut Sim, polite: &[PeerId]) {
    let mut open = polite.to_vec();
    sim.run_until(|sim| {
        while let Some(at) = open.iter().position(|&peer| sim.half_closed(peer)) {
            let peer = open.swap_remove(at);
            sim.close(peer);
        }
        sim.outcome().is_some()
    });
}

/// Sends one stream on one connection of a world without faults, and drains it.
pub fn run_stream(config: ShardConfig, pieces: &[&[u8]]) -> Sim {
    let mut sim = Sim::new(1, Faults::none(), config);
    let peer = sim.connect();
    for piece in pieces {
        sim.send(peer, piece);
        sim.turn();
    }
    sim.close(peer);
    sim.run_until(|sim| sim.ending(peer) != Ending::Open);
    drain(&mut sim, &[]);
    sim
}

/// A token that is easy to recognise.
pub fn token(number: u32) -> Token {
    format!("00000000-0000-4000-8000-{number:012x}").parse().unwrap()
}

/// After a drain: of each peer's stream exactly what was acknowledged is stored and counted, cut where it was cut.
#[track_caller]
pub fn assert_stored_as_acknowledged(sim: &Sim, peers: &[PeerId], streams: &[Vec<u8>], limit: usize, case: &str) {
    let mut expected = Expected::new();
    for (peer, stream) in peers.iter().zip(streams) {
        let acknowledged = usize::try_from(sim.acknowledged(*peer)).unwrap();
        expected.add_cut(&stream[..acknowledged], limit, oracle::Oversize::Split);
    }
    assert_eq!(sim.unread(), 0, "{case}: acknowledged bytes were left unread");
    expected.assert_stored(sim, case);
    expected.assert_counted(&sim.outcome().unwrap().counters, case);
}

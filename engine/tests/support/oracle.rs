//! The protocol's rules as a slow, obvious program: a port of `tests/oracle/oracle.py`.
//!
//! It says which entries each token must end up with, in order, for the bytes that one client sent on one connection.
//! The engine must agree byte for byte, however the stream is cut into reads. It shares no code with the engine on
//! purpose, and works on the whole stream at once: no state between reads that could be wrong in the same way.
//! `tests/oracle.rs` holds it to the Python original.

use std::collections::{BTreeMap, BTreeSet};

const TOKEN_BYTES: usize = 36;
const KEEPALIVE: &[u8] = b"###LE-IAA###";
const TLS_HELLO: &[u8] = &[0x16, 0x03];

/// What becomes of the further pieces of a line past the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Each is an entry of the same token.
    Split,
    /// They are dropped.
    Truncate,
}

impl Oversize {
    /// The word that `--oversize` takes, here and in Python.
    pub fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Truncate => "truncate",
        }
    }
}

/// What cuts the bytes into lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Lf,
    Octet,
    Auto,
    /// The bytes are one datagram.
    Udp,
}

impl Framing {
    /// The word that `--framing` takes, here and in Python.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lf => "lf",
            Self::Octet => "octet",
            Self::Auto => "auto",
            Self::Udp => "udp",
        }
    }
}

/// What was counted, under the names of `oracle.py`. `pieces` is ours: further pieces stored, all in `entries` too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub entries: u64,
    pub empty: u64,
    pub keepalive: u64,
    pub no_token: u64,
    pub unknown_token: u64,
    pub split: u64,
    pub pieces: u64,
    pub bad_frame: u64,
    pub cut: u64,
    pub http: u64,
    pub tls_on_plain: u64,
}

impl Counters {
    /// The counters that `oracle.py` has as well, by name.
    pub fn named(&self) -> [(&'static str, u64); 10] {
        [
            ("entries", self.entries),
            ("empty", self.empty),
            ("keepalive", self.keepalive),
            ("no_token", self.no_token),
            ("unknown_token", self.unknown_token),
            ("split", self.split),
            ("bad_frame", self.bad_frame),
            ("cut", self.cut),
            ("http", self.http),
            ("tls_on_plain", self.tls_on_plain),
        ]
    }

    /// Lines and connections that stored nothing.
    pub fn rejected(&self) -> u64 {
        let lines = self.empty + self.keepalive + self.no_token + self.unknown_token;
        lines + self.bad_frame + self.cut + self.http + self.tls_on_plain
    }

    /// Lines received, rejected ones included.
    pub fn lines(&self) -> u64 {
        self.entries - self.pieces + self.rejected()
    }
}

/// Entries and counters of all streams fed so far.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Lower-case tokens that are known; without them every token is.
    known: Option<BTreeSet<String>>,
    line_bytes_max: usize,
    oversize: Oversize,
    /// Entries of each token (lower case), in order.
    pub entries: BTreeMap<String, Vec<Vec<u8>>>,
    /// Lines that name no log, by reason: what `--rejected keep` keeps.
    pub kept: BTreeMap<&'static str, Vec<u8>>,
    /// What was stored, split and rejected.
    pub counters: Counters,
}

impl Oracle {
    pub fn new(line_bytes_max: usize, oversize: Oversize) -> Self {
        let (entries, kept) = (BTreeMap::new(), BTreeMap::new());
        Self { known: None, line_bytes_max, oversize, entries, kept, counters: Counters::default() }
    }

    /// The same where only these tokens are known.
    pub fn knowing(self, known: impl IntoIterator<Item = String>) -> Self {
        Self { known: Some(known.into_iter().map(|token| token.to_lowercase()).collect()), ..self }
    }

    /// All that one connection sent until it ended in order, or one datagram.
    pub fn feed(&mut self, framing: Framing, data: &[u8]) {
        match framing {
            Framing::Octet => self.stream_octet(data),
            Framing::Auto if counts_octets(data) => self.stream_octet(data),
            Framing::Lf | Framing::Auto => self.stream_lf(data),
            Framing::Udp => self.datagram(data),
        }
    }

    /// All that one connection sent until it ended in order. Whatever follows the last LF is a line too.
    pub fn stream_lf(&mut self, data: &[u8]) {
        if self.not_token_tcp(data) {
            return;
        }
        let ends_complete = data.is_empty() || data.ends_with(b"\n");
        let mut lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
        if ends_complete {
            lines.pop(); // Nothing came after the last LF.
        }
        for raw in lines {
            self.line(raw.strip_suffix(b"\r").unwrap_or(raw));
        }
    }

    /// RFC 6587 octet counting: `LEN SP FRAME`. One trailing LF or CRLF of a frame goes. A bad length ends the connection;
    /// a frame that the end of the connection cuts short is dropped.
    pub fn stream_octet(&mut self, mut data: &[u8]) {
        if self.not_token_tcp(data) {
            return;
        }
        while !data.is_empty() {
            let Some((length, digits)) = frame_length(data) else {
                let short = data.len() <= 7 && data[0] != b'0' && data.iter().all(u8::is_ascii_digit);
                *(if short { &mut self.counters.cut } else { &mut self.counters.bad_frame }) += 1;
                return;
            };
            let rest = &data[digits + 1..];
            if rest.len() < length {
                self.counters.cut += 1;
                return;
            }
            let (mut frame, after) = rest.split_at(length);
            if let Some(line) = frame.strip_suffix(b"\n") {
                frame = line.strip_suffix(b"\r").unwrap_or(line);
            }
            self.line(frame);
            data = after;
        }
    }

    /// Lines as in LF framing. A line that is not blank, no keepalive and without a token shape continues the line before
    /// it in the same datagram (whatever becomes of that one); stored, the LF between is U+2028.
    pub fn datagram(&mut self, data: &[u8]) {
        for line in Self::lines_of_datagram(data) {
            self.line(&line);
        }
    }

    /// The lines of a datagram, each joined with those that continue it.
    pub fn lines_of_datagram(data: &[u8]) -> Vec<Vec<u8>> {
        let mut lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        let says_something = |line: &[u8]| !is_blank(line) && line != KEEPALIVE;
        let mut merged: Vec<Vec<u8>> = Vec::new();
        for line in lines {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match merged.last_mut() {
                Some(last) if says_something(last) && says_something(line) && !line.windows(36).any(is_token) => {
                    last.push(b'\n');
                    last.extend(line);
                }
                _ => merged.push(line.to_vec()),
            }
        }
        merged
    }

    /// The bytes of `DATA/<token>/*.log`, one after the other.
    pub fn log_bytes(&self, token: &str) -> Vec<u8> {
        let entries = self.entries.get(token).map_or(&[][..], Vec::as_slice);
        let lines: Vec<&[u8]> = entries.iter().flat_map(|entry| [&entry[..], b"\n"]).collect();
        lines.concat()
    }

    /// Bytes of all logs, LFs included.
    pub fn entry_bytes(&self) -> u64 {
        let entries = self.entries.values().flatten();
        entries.map(|entry| u64::try_from(entry.len() + 1).unwrap()).sum()
    }

    /// One wire line, terminator removed.
    fn line(&mut self, line: &[u8]) {
        if line.len() <= self.line_bytes_max && is_blank(line) {
            self.counters.empty += 1;
            return;
        }
        if line == KEEPALIVE {
            self.counters.keepalive += 1;
            return;
        }
        // A long line is cut at fixed places. The first piece decides: token, rejection and removal see that piece as
        // if it were the line.
        let (first, rest) = line.split_at(line.len().min(self.line_bytes_max));
        let Some(at) = find_token(first, self.known.as_ref()) else {
            let any = first.windows(TOKEN_BYTES).any(is_token);
            *(if any { &mut self.counters.unknown_token } else { &mut self.counters.no_token }) += 1;
            let kept = self.kept.entry(if any { "unknown_token" } else { "no_token" }).or_default();
            let pieces = if self.oversize == Oversize::Split { usize::MAX } else { 1 };
            for piece in line.chunks(self.line_bytes_max).take(pieces) {
                kept.extend(one_line(piece));
                kept.push(b'\n');
            }
            return;
        };
        let token = String::from_utf8(first[at..at + TOKEN_BYTES].to_ascii_lowercase()).unwrap();
        let entry = remove_token(first, at);
        if rest.is_empty() && is_blank(&entry) {
            self.counters.empty += 1;
            return;
        }
        self.store(&token, &entry);
        if rest.is_empty() {
            return;
        }
        self.counters.split += 1;
        if self.oversize == Oversize::Split {
            for piece in rest.chunks(self.line_bytes_max) {
                self.counters.pieces += 1;
                self.store(&token, piece);
            }
        }
    }

    /// A stored entry is one line: an inner LF becomes U+2028, as clients do it.
    fn store(&mut self, token: &str, entry: &[u8]) {
        self.entries.entry(token.to_owned()).or_default().push(one_line(entry));
        self.counters.entries += 1;
    }

    /// Another protocol on a token port: counted once, nothing stored, connection closed.
    fn not_token_tcp(&mut self, data: &[u8]) -> bool {
        if data.starts_with(TLS_HELLO) {
            self.counters.tls_on_plain += 1;
            return true;
        }
        let first = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let first = first.strip_suffix(b"\r").unwrap_or(first);
        if first.len() <= self.line_bytes_max && is_http_request(first) {
            self.counters.http += 1;
            return true;
        }
        false
    }
}

/// With U+2028 in place of every LF.
fn one_line(bytes: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    parts.join("\u{2028}".as_bytes())
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| b" \t".contains(byte))
}

/// `[A-Z]{3,7} .* HTTP/1\.[01]`, all of the line.
fn is_http_request(line: &[u8]) -> bool {
    let letters = line.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let target = line.strip_suffix(b" HTTP/1.0").or_else(|| line.strip_suffix(b" HTTP/1.1"));
    (3..=7).contains(&letters) && target.is_some_and(|target| target.get(letters) == Some(&b' '))
}

/// The length of a frame and its number of digits: `[1-9][0-9]{0,6} `.
pub fn frame_length(data: &[u8]) -> Option<(usize, usize)> {
    let digits = data.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = std::str::from_utf8(&data[..digits]).unwrap();
    let good = (1..=7).contains(&digits) && data[0] != b'0' && data.get(digits) == Some(&b' ');
    good.then(|| (text.parse().unwrap(), digits))
}

/// Whether the first bytes are a count followed by `<digit` or a token.
pub fn counts_octets(data: &[u8]) -> bool {
    let Some((_, digits)) = frame_length(data) else { return false };
    match &data[digits + 1..] {
        [b'<', next, ..] => next.is_ascii_digit(),
        frame => frame.get(..TOKEN_BYTES).is_some_and(is_token),
    }
}

/// Where the routing token is: at offset 0 it is decisive, known or not; otherwise, of the known ones, the leftmost that
/// has a blank on its left; if none has, the leftmost.
fn find_token(line: &[u8], known: Option<&BTreeSet<String>>) -> Option<usize> {
    let mut leftmost = None;
    for (at, window) in line.windows(TOKEN_BYTES).enumerate() {
        if !is_token(window) {
            continue;
        }
        let text = std::str::from_utf8(window).unwrap().to_lowercase();
        let is_known = known.is_none_or(|known| known.contains(&text));
        if at == 0 {
            return is_known.then_some(at);
        }
        if !is_known {
            continue;
        }
        if b" \t".contains(&line[at - 1]) {
            return Some(at);
        }
        leftmost = leftmost.or(Some(at));
    }
    leftmost
}

/// Hex digits 8-4-4-4-12, either case.
fn is_token(window: &[u8]) -> bool {
    window.iter().enumerate().all(|(i, byte)| match i {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// The entry: the line without the 36 token bytes and at most one blank.
///
/// At the start of the line the blank after the token goes, at its end the blank before; in between one goes only if
/// there is one on both sides. At the start, repeats of the same token go the same way.
fn remove_token(line: &[u8], at: usize) -> Vec<u8> {
    let (left, token) = (&line[..at], &line[at..at + TOKEN_BYTES]);
    let mut right = &line[at + TOKEN_BYTES..];
    if left.is_empty() {
        right = without_first_blank(right);
        while right.len() >= TOKEN_BYTES && right[..TOKEN_BYTES].eq_ignore_ascii_case(token) {
            right = without_first_blank(&right[TOKEN_BYTES..]);
        }
        return right.to_vec();
    }
    if right.is_empty() {
        return left.strip_suffix(b" ").or_else(|| left.strip_suffix(b"\t")).unwrap_or(left).to_vec();
    }
    if left.ends_with(b" ") || left.ends_with(b"\t") {
        right = without_first_blank(right);
    }
    [left, right].concat()
}

fn without_first_blank(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b" ").or_else(|| bytes.strip_prefix(b"\t")).unwrap_or(bytes)
}

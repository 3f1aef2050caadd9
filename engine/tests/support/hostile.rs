//! Seeded streams that a parser likes least: near-miss tokens, dashes without end, cuts at the limit, other protocols.
//!
//! The same seed gives the same stream for ever, so a failure is named by its seed. Tokens are drawn from the seed as
//! well: streams of different seeds share none, and many of them can go to one engine.

use super::oracle::Framing;

/// The largest datagram of IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Tokens that a stream's good lines use.
const TOKENS_PER_STREAM: usize = 6;
/// Lines that exceed the limit on purpose, a stream: with a limit of 256 KiB each of them is up to half a megabyte.
const LONG_LINES_MAX: usize = 3;
/// Runs of dashes, hex digits and repeated tokens end here, or a few bytes behind the limit if that is less.
const RUN_BYTES_MAX: usize = 6000;

/// splitmix64: small, fast enough, and the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap();
        usize::try_from(self.next() % end).unwrap()
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// One of the byte strings.
    pub fn text(&mut self, from: &[&'static [u8]]) -> &'static [u8] {
        from[self.below(from.len())]
    }

    fn byte_of(&mut self, from: &[u8]) -> u8 {
        *self.pick(from)
    }

    /// Lower-case token text, any version and variant.
    pub fn token(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let hex = format!("{high:016x}{low:016x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// What one client sends on one connection to an engine with this limit: bytes up to a few times the limit.
pub fn hostile_stream(seed: u64, line_bytes_max: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let tokens = (0..TOKENS_PER_STREAM).map(|_| random.token()).collect();
    let mut writer = Writer { random, tokens, line_bytes_max, out: Vec::new() };
    writer.stream();
    writer.out
}

/// The same in counted frames, most of them well counted; the connection may end inside one.
pub fn hostile_frames(seed: u64, line_bytes_max: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let tokens = (0..TOKENS_PER_STREAM).map(|_| random.token()).collect();
    let mut writer = Writer { random, tokens, line_bytes_max, out: Vec::new() };
    let mut stream = writer.frames();
    if writer.random.one_in(3) {
        stream.truncate(writer.random.below(stream.len() + 1));
    }
    stream
}

/// What a client sends to a listener with this framing.
pub fn hostile_bytes(framing: Framing, seed: u64, line_bytes_max: usize) -> Vec<u8> {
    match framing {
        Framing::Lf => hostile_stream(seed, line_bytes_max),
        Framing::Octet => hostile_frames(seed, line_bytes_max),
        Framing::Auto => match seed % 4 {
            0 => hostile_stream(seed, line_bytes_max),
            1 => {
                // Almost counted.
                let mut random = Random::new(seed);
                let opening =
                    random.text(&[b"1 ", b"12345678 <1>", b"7 <x", b"99 2bfbea1e-", b"01 <1>", b"1", b"12 <"]);
                [opening, &hostile_stream(seed, line_bytes_max)].concat()
            }
            2 => [b"6 <13>ab", &hostile_frames(seed, line_bytes_max)[..]].concat(),
            _ => hostile_frames(seed, line_bytes_max),
        },
        Framing::Udp => {
            let mut datagram = hostile_stream(seed, line_bytes_max);
            datagram.truncate(DATAGRAM_BYTES_MAX);
            datagram
        }
    }
}

/// At most `n` cuts between the bytes of a stream of `len` bytes: ascending, distinct, neither 0 nor `len`.
pub fn random_cuts(seed: u64, len: usize, n: usize) -> Vec<usize> {
    let mut random = Random::new(seed);
    if len < 2 {
        return Vec::new();
    }
    let mut cuts: Vec<usize> = (0..n).map(|_| 1 + random.below(len - 1)).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The stream's pieces between the cuts.
pub fn pieces<'a>(stream: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([stream.len()]);
    starts.zip(ends).map(|(start, end)| &stream[start..end]).collect()
}

struct Writer {
    random: Random,
    tokens: Vec<String>,
    line_bytes_max: usize,
    out: Vec<u8>,
}

impl Writer {
    fn stream(&mut self) {
        match self.random.below(24) {
            0 => return, // A connection that says nothing.
            1 => self.out.extend(b"\x16\x03\x01\x02\x00"),
            2 => self.out.extend(b"\x16"),
            3 => self.out.extend(b"POST /v1/noformat/x HTTP/1.1\r\nHost: x\r\n\r\n"),
            4 | 5 => {
                self.http_like();
                self.end_of_line();
            }
            6 => self.out.extend(b"\r\n\n \t\n"),
            _ => (),
        }
        let lines = 1 + self.random.below(60);
        let mut long_lines = 0;
        for _ in 0..lines {
            if long_lines < LONG_LINES_MAX && self.random.one_in(20) {
                long_lines += 1;
                self.long_line();
            } else {
                self.line();
            }
            self.end_of_line();
        }
        if self.random.one_in(3) {
            self.unfinished_rest();
        }
    }

    fn frames(&mut self) -> Vec<u8> {
        match self.random.below(24) {
            0 => return Vec::new(),
            1 => return b"\x16\x03\x01\x02\x00".to_vec(),
            2 => return b"\x16".to_vec(),
            3 => {
                self.http_like();
                self.end_of_line();
                return std::mem::take(&mut self.out);
            }
            _ => {}
        }
        let mut stream = Vec::new();
        let mut long_frames = 0;
        for _ in 0..=self.random.below(40) {
            if long_frames < LONG_LINES_MAX && self.random.one_in(20) {
                long_frames += 1;
                self.long_line();
            } else {
                self.line();
            }
            while self.random.one_in(4) {
                self.out.push(b'\n');
                self.line();
            }
            let end = self.random.text(&[b"", b"", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\r\r\n"]);
            self.out.extend(end);
            let frame = std::mem::take(&mut self.out);
            let length = frame.len().to_string();
            match self.random.below(400) {
                0 => stream.extend(format!("0{length} ").into_bytes()),
                1 => stream.extend(format!("{length}  ").into_bytes()),
                2 => stream.extend(format!("{length}\n").into_bytes()),
                3 => stream.extend(b"12345678 "),
                4 => {}
                _ if frame.is_empty() => continue,
                _ => stream.extend(format!("{length} ").into_bytes()),
            }
            stream.extend(frame);
        }
        stream
    }

    /// A last line without its LF, or with only the CR of its CRLF.
    fn unfinished_rest(&mut self) {
        self.line();
        if self.random.one_in(3) {
            self.out.push(b'\r');
        }
    }

    fn end_of_line(&mut self) {
        let end = self.random.text(&[b"\n", b"\n", b"\n", b"\r\n", b"\r\n", b"\r\r\n", b"\n\n", b" \n"]);
        self.out.extend(end);
    }

    fn line(&mut self) {
        match self.random.below(16) {
            0..=3 => self.token_first(),
            4..=6 => self.token_inside(),
            7 => self.token_last(),
            8 => self.several_tokens(),
            9 => self.repeated_token(),
            10 => self.near_miss_line(),
            11 => self.dashes_and_hex(),
            12 => self.blank_or_keepalive(),
            13 => self.http_like(),
            14 => self.words(),
            _ => self.bare_token(),
        }
    }

    fn token_first(&mut self) {
        self.token();
        self.separator();
        self.words();
    }

    fn token_inside(&mut self) {
        self.words();
        self.separator();
        self.token();
        self.separator();
        self.words();
    }

    fn token_last(&mut self) {
        self.words();
        self.separator();
        self.token();
    }

    fn bare_token(&mut self) {
        self.token();
        self.separator();
    }

    /// One glued, one after a blank, one at the start: who wins is the rule under test.
    fn several_tokens(&mut self) {
        for _ in 0..2 + self.random.below(4) {
            match self.random.below(4) {
                0 => self.words(),
                1 => self.near_miss(),
                _ => (),
            }
            self.separator();
            self.token();
        }
        self.separator();
        self.words();
    }

    fn repeated_token(&mut self) {
        let token = self.random.pick(&self.tokens).clone();
        let blanks = self.random.text(&[b" ", b"\t", b"", b"  "]);
        for _ in 0..=self.random.below(8) {
            let token = self.any_case(&token);
            self.out.extend(token);
            self.out.extend(blanks);
        }
        if !self.random.one_in(3) {
            self.words();
        }
    }

    fn near_miss_line(&mut self) {
        if self.random.one_in(2) {
            self.words();
            self.separator();
        }
        self.near_miss();
        self.separator();
        if self.random.one_in(2) {
            self.token();
        }
        self.words();
    }

    /// 36 bytes that almost are a token; a search that skips too far misses the good one behind.
    fn near_miss(&mut self) {
        let token = self.random.pick(&self.tokens).clone();
        let mut bytes = self.any_case(&token);
        let dash = *self.random.pick(&[8, 13, 18, 23]);
        match self.random.below(8) {
            0 => drop(bytes.remove(0)),
            1 => drop(bytes.pop()),
            2 => bytes[dash] = b'_',
            3 => bytes.swap(dash, dash + 1),
            4 => bytes[dash + 1] = b'g',
            5 => bytes[35] = b'-',
            6 => bytes[0] = 0xe2,
            _ => bytes = bytes.iter().copied().filter(|byte| *byte != b'-').collect(),
        }
        self.out.extend(bytes);
    }

    fn dashes_and_hex(&mut self) {
        let end = RUN_BYTES_MAX.min(self.line_bytes_max + 40);
        let bytes = 1 + self.random.below(end);
        match self.random.below(4) {
            0 => self.out.extend(std::iter::repeat_n(b'-', bytes)),
            1 => self.out.extend((0..bytes).map(|i| if i % 5 == 3 { b'-' } else { b'a' })),
            _ => {
                for _ in 0..bytes {
                    let byte = self.random.byte_of(b"0123456789abcdefABCDEF--");
                    self.out.push(byte);
                }
            }
        }
        if self.random.one_in(2) {
            self.token();
            self.words();
        }
    }

    fn blank_or_keepalive(&mut self) {
        let line = self.random.text(&[
            b"",
            b" ",
            b"\t \t",
            b"                                                                                ",
            b"###LE-IAA###",
            b" ###LE-IAA###",
            b"###LE-IAA### ",
        ]);
        self.out.extend(line);
    }

    fn http_like(&mut self) {
        let start = self.random.text(&[b"GET it ", b"GET /", b"OPTIONS /", b"GE / ", b"CONNECTED / ", b"get /"]);
        self.out.extend(start);
        self.token();
        let end =
            self.random.text(&[b"", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/1.2", b" HTTP/1.1 ", b"HTTP/1.1", b" HTTP/2"]);
        self.out.extend(end);
    }

    /// A line whose content ends a few bytes around the limit, or around twice the limit.
    fn long_line(&mut self) {
        let from = self.out.len();
        match self.random.below(6) {
            0 => self.words(),
            1 => self.out.extend(std::iter::repeat_n(b' ', self.line_bytes_max + 1)),
            2 => self.token_across_the_cut(from),
            3 => self.token_inside(),
            _ => self.token_first(),
        }
        let limits = 1 + self.random.below(2);
        let target = from + (limits * self.line_bytes_max + self.random.below(6)).saturating_sub(2);
        let filler = self.random.byte_of(b"x -a\r");
        while self.out.len() < target {
            self.out.push(filler);
        }
        // A CR that is content at the cut, or half of a CRLF that belongs to no piece.
        if self.random.one_in(2) {
            self.out.push(b'\r');
        }
        if self.random.one_in(4) {
            self.words();
        }
    }

    /// Its first bytes are the last of the first piece: nobody may see it; or it just fits.
    fn token_across_the_cut(&mut self, from: usize) {
        let before = (self.line_bytes_max + self.random.below(4)).saturating_sub(37);
        while self.out.len() < from + before {
            let byte = self.random.byte_of(b"yz \t-");
            self.out.push(byte);
        }
        self.token();
    }

    fn token(&mut self) {
        let token = self.random.pick(&self.tokens).clone();
        let token = self.any_case(&token);
        self.out.extend(token);
    }

    fn any_case(&mut self, token: &str) -> Vec<u8> {
        let mut bytes = token.as_bytes().to_vec();
        match self.random.below(4) {
            0 => bytes.make_ascii_uppercase(),
            1 => bytes.iter_mut().step_by(2).for_each(u8::make_ascii_uppercase),
            _ => (),
        }
        bytes
    }

    fn separator(&mut self) {
        let separator = self.random.text(&[b" ", b" ", b"\t", b"", b"", b"  ", b" \t ", b"=", b"\"", b"\r"]);
        self.out.extend(separator);
    }

    fn words(&mut self) {
        for _ in 0..self.random.below(6) {
            let word = self.random.text(&[
                b"hello",
                b"deadbeef",
                b"2026-11-23 02:29:45",
                b"{\"a\":1}",
                b"\0",
                b"\r",
                b"\xe2\x80\xa8",
                b"\xff\xfe",
                b"\xe2\x80",
                b"\xc3\xa9\xf0\x9f\xa6\x80",
                b"-",
                b"--------",
                b"\x1b[31m",
                b"<14>1 - host app - - -",
                b" ",
            ]);
            self.out.extend(word);
            if self.random.one_in(2) {
                self.out.push(b' ');
            }
        }
    }
}

//! Corpora that the benchmarks share, and [`process`], an engine beside them.
//!
//! Every function returns about [`CORPUS_BYTES`] bytes of whole lines (but for `no_lf`), the same ones on every run and
//! machine. The ordinary ones look like what senders send; the hostile ones are what a client could send to slow the
//! engine down.

pub mod process;

/// Size of a corpus: sixteen receive buffers. More than a branch predictor learns by heart, and no more than an L2 cache
/// holds, where a buffer that the kernel has just filled is.
pub const CORPUS_BYTES: usize = 1 << 20;

const WORDS: [&str; 16] = [
    "request",
    "served",
    "in",
    "12",
    "ms",
    "for",
    "user-17",
    "from",
    "10.0.3.7:55310",
    "GET",
    "/api/v1/items",
    "status=200",
    "bytes=5120",
    "retry",
    "cache-hit",
    "ok",
];

/// Lines of 256 bytes that begin with their token.
#[must_use]
pub fn token_first_256() -> Vec<u8> {
    corpus(1, |random, line| token_first(random, line, 256))
}

/// Lines of 64 bytes that begin with their token.
#[must_use]
pub fn token_first_64() -> Vec<u8> {
    corpus(2, |random, line| token_first(random, line, 64))
}

/// Lines of 1 KiB that begin with their token.
#[must_use]
pub fn token_first_1024() -> Vec<u8> {
    corpus(3, |random, line| token_first(random, line, 1024))
}

/// Lines that begin with their token, of any length from 48 to 464 bytes: 256 in the mean.
#[must_use]
pub fn token_first_mixed() -> Vec<u8> {
    corpus(4, |random, line| {
        let length = 48 + random.below(417);
        token_first(random, line, length);
    })
}

/// Lines of 256 bytes with their token behind a syslog header, whose time stamp has dashes of its own.
#[must_use]
pub fn token_middle_256() -> Vec<u8> {
    corpus(5, |random, line| {
        line.extend(b"<14>1 2026-11-23T02:29:45.003Z host-7 app 4711 - - ");
        random.token(line);
        random.text(line, 255);
    })
}

/// Lines of 64 bytes with their token behind a short header.
#[must_use]
pub fn token_middle_64() -> Vec<u8> {
    corpus(14, |random, line| {
        line.extend(b"[info] ");
        random.token(line);
        random.text(line, 63);
    })
}

/// Lines of 256 bytes that end with their token.
#[must_use]
pub fn token_last_256() -> Vec<u8> {
    corpus(6, |random, line| {
        random.text(line, 255 - TOKEN_BYTES - 1);
        line.push(b' ');
        random.token(line);
    })
}

/// Lines of 256 bytes without a token.
#[must_use]
pub fn no_token_256() -> Vec<u8> {
    corpus(7, |random, line| random.text(line, 255))
}

/// Hostile: lines of 1,000 dashes. Each could be a token's.
#[must_use]
pub fn all_dashes() -> Vec<u8> {
    corpus(8, |_, line| line.resize(1000, b'-'))
}

/// Hostile: lines of 1,000 hex digits.
#[must_use]
pub fn all_hex() -> Vec<u8> {
    corpus(9, |random, line| (0..1000).for_each(|_| line.push(random.digit())))
}

/// Hostile: lines of seven tokens with the last digit missing.
#[must_use]
pub fn near_tokens() -> Vec<u8> {
    corpus(10, |random, line| {
        for _ in 0..7 {
            random.token(line);
            line.pop();
            line.push(b'.');
        }
    })
}

/// Hostile: lines of dashes with a digit now and then, so that some starts have all their dashes and others not.
#[must_use]
pub fn dash_patterns() -> Vec<u8> {
    corpus(11, |random, line| {
        for _ in 0..25 {
            line.resize(line.len() + 32, b'-');
            let at = line.len() - 1 - random.below(16);
            line[at] = random.digit();
        }
    })
}

/// Hostile: lines of one byte.
#[must_use]
pub fn one_byte_lines() -> Vec<u8> {
    corpus(12, |random, line| line.push(random.digit()))
}

/// Hostile: text without any LF. What is left of a buffer counts as a line.
#[must_use]
pub fn no_lf() -> Vec<u8> {
    let mut bytes = Vec::new();
    Random(13).text(&mut bytes, CORPUS_BYTES);
    bytes
}

/// Hostile: lines of 100,000 bytes, longer than a receive buffer.
#[must_use]
pub fn long_lines() -> Vec<u8> {
    corpus(15, |random, line| token_first(random, line, 100_000))
}

/// Where in its line a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The line begins with it.
    First,
    /// Behind a syslog header.
    Middle,
}

/// As many token values, always the same ones and each once.
#[must_use]
pub fn tokens(count: usize) -> Vec<[u8; 16]> {
    let mut random = Random(16);
    let value = |number: usize| {
        let mut token = [0; 16].map(|_: u8| random.byte());
        // Multiplied by an odd number: no two are equal, and all look random.
        token[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        token
    };
    (0..count).map(value).collect()
}

/// What one of several connections sends: lines of `line_bytes`, LF included, whose tokens are those of [`tokens`] in
/// turn, from the one numbered `first` on.
#[must_use]
pub fn lines_of_logs(tokens: &[[u8; 16]], first: usize, line_bytes: usize, place: Place) -> Vec<u8> {
    let mut turns = tokens.iter().cycle().skip(first % tokens.len());
    corpus(17 + first as u64, |random, line| {
        if place == Place::Middle {
            line.extend(b"<14>1 2026-11-23T02:29:45.003Z host-7 app 4711 - - ");
        }
        write_token(turns.next().expect("a cycle has no end"), line);
        random.text(line, line_bytes - 1);
    })
}

const TOKEN_BYTES: usize = 36;
const DASHES_BEHIND: [usize; 4] = [4, 6, 8, 10];

/// A token as its text.
#[must_use]
pub fn token_text(token: &[u8; 16]) -> String {
    let mut text = Vec::new();
    write_token(token, &mut text);
    String::from_utf8(text).expect("digits and dashes are ASCII")
}

fn write_token(token: &[u8; 16], line: &mut Vec<u8>) {
    for (at, byte) in token.iter().enumerate() {
        if DASHES_BEHIND.contains(&at) {
            line.push(b'-');
        }
        line.extend([byte >> 4, byte & 0xf].map(|value| b"0123456789abcdef"[usize::from(value)]));
    }
}

fn corpus(seed: u64, mut add_line: impl FnMut(&mut Random, &mut Vec<u8>)) -> Vec<u8> {
    let mut random = Random(seed);
    let (mut bytes, mut line) = (Vec::with_capacity(CORPUS_BYTES), Vec::new());
    loop {
        line.clear();
        add_line(&mut random, &mut line);
        line.push(b'\n');
        if bytes.len() + line.len() > CORPUS_BYTES {
            return bytes;
        }
        bytes.append(&mut line);
    }
}

fn token_first(random: &mut Random, line: &mut Vec<u8>, length: usize) {
    random.token(line);
    random.text(line, length - 1);
}

/// splitmix64: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limited = (mixed ^ mixed >> 31) % limit as u64;
        usize::try_from(limited).expect("it is below a usize")
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("it is below 256")
    }

    fn digit(&mut self) -> u8 {
        b"0123456789abcdef"[self.below(16)]
    }

    /// Appends a token.
    fn token(&mut self, line: &mut Vec<u8>) {
        for at in 0..TOKEN_BYTES {
            line.push(if [8, 13, 18, 23].contains(&at) { b'-' } else { self.digit() });
        }
    }

    /// Appends words, a blank before each, until the line has this length.
    fn text(&mut self, line: &mut Vec<u8>, length: usize) {
        while line.len() < length {
            line.push(b' ');
            line.extend(WORDS[self.below(WORDS.len())].as_bytes());
        }
        line.truncate(length);
    }
}

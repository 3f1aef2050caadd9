//! Finds line ends and tokens in received bytes: the one loop that sees every byte.
//!
//! ```text
//! bytes   2bfbea1e-…882e1f hello⏎<13>host app: 2bfbea1e-…882e1f x⏎2bfbea1e-…88
//! marks   |token at start       end|no token at start             end|rest: no mark yet
//! ```
//! Most lines begin with their token; `mark_lines` finds those and the ends in one pass. Only for the others does the
//! caller search the line with `find_token`.
//!
//! Invariants: no byte outside the slice is read; nothing is allocated; the time is linear in the bytes passed over,
//! whatever they hold, because clients choose them (the bench `scan` has a hostile corpus). `scalar` says what is
//! right, a vector version is chosen at run time and gives the same answers.
//!
//! Left out on purpose: which of several tokens routes a line, blanks, CR, frames and limits. Those are the caller's.

use crate::wire::Token;
use crate::wire::token::TOKEN_BYTES;

pub mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// One whole line found in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineMark {
    /// Position of the LF that ends the line.
    pub end: u32,
    /// The token, if the line begins with one.
    pub token: Option<Token>,
}

impl LineMark {
    /// Fills arrays before there are marks.
    pub const EMPTY: Self = Self { end: 0, token: None };

    /// `end` lies in bytes that went through `markable`.
    #[inline]
    fn new(end: usize, token: Option<Token>) -> Self {
        debug_assert!(u32::try_from(end).is_ok());
        #[expect(clippy::cast_possible_truncation, reason = "no position in markable bytes is above u32::MAX")]
        let end = end as u32;
        Self { end, token }
    }
}

/// Marks the whole lines at the front of `bytes`, as many as `marks` holds; returns how many. The next call goes on
/// behind the last mark's LF.
///
/// A line begins with a token if its first 36 bytes are one, whatever follows. Positions are 32 bits wide: lines that
/// end past 4 GiB wait for that next call.
#[must_use]
pub fn mark_lines(bytes: &[u8], marks: &mut [LineMark]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = x86_64::Avx2::detect() {
        return avx2.mark_lines(bytes, marks);
    }
    scalar::mark_lines(bytes, marks)
}

/// Position of the first LF.
#[must_use]
pub fn find_lf(bytes: &[u8]) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = x86_64::Avx2::detect() {
        return avx2.find_lf(bytes);
    }
    scalar::find_lf(bytes)
}

/// The token at offset 0.
#[must_use]
pub fn token_at_start(bytes: &[u8]) -> Option<Token> {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = x86_64::Avx2::detect() {
        return avx2.token_at_start(bytes);
    }
    scalar::token_at_start(bytes)
}

/// Position of the first token that starts at or after `from`; `token_at_start` of the bytes from there is its value.
///
/// Tokens can overlap (the last eight digits of one may begin the next), so who wants them all goes on from the position
/// plus one. The value is not part of the answer because a pair of both goes through memory, where it is read in other
/// pieces than it was written in, and the load waits for every store before it: a quarter of a shard's time.
#[must_use]
#[inline]
pub fn find_token(bytes: &[u8], from: usize) -> Option<usize> {
    // Short lines, which a client can send by the thousand in one buffer, end here.
    if bytes.len().saturating_sub(from) < TOKEN_BYTES {
        return None;
    }
    find_token_in_long(bytes, from)
}

fn find_token_in_long(bytes: &[u8], from: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = x86_64::Avx2::detect() {
        return avx2.find_token(bytes, from);
    }
    scalar::find_token(bytes, from)
}

/// The front of the bytes whose positions a mark can hold.
#[inline]
fn markable(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(u32::MAX as usize)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::token::DASHES;

    const TEXT: &[u8; TOKEN_BYTES] = b"2bfbea1e-10c3-4419-bdad-7e6435882e1f";
    /// Two shapes that share eight digits, the second at `OVERLAP`.
    const OVERLAPPING: &[u8] = b"2bfbea1e-10c3-4419-bdad-7e6435882E1F-aaaa-BBBB-cccc-0123456789ab";
    const OVERLAP: usize = 28;

    /// One implementation under test; all of them run every test.
    struct Scan {
        name: &'static str,
        mark_lines: fn(&[u8], &mut [LineMark]) -> usize,
        find_lf: fn(&[u8]) -> Option<usize>,
        token_at_start: fn(&[u8]) -> Option<Token>,
        find_token: FindToken,
    }

    type FindToken = fn(&[u8], usize) -> Option<usize>;

    impl Scan {
        const ALL: &[Self] = &[
            Self {
                name: "scalar",
                mark_lines: scalar::mark_lines,
                find_lf: scalar::find_lf,
                token_at_start: scalar::token_at_start,
                find_token: scalar::find_token,
            },
            #[cfg(target_arch = "x86_64")]
            Self {
                name: "avx2",
                mark_lines: |bytes, marks| avx2().mark_lines(bytes, marks),
                find_lf: |bytes| avx2().find_lf(bytes),
                token_at_start: |bytes| avx2().token_at_start(bytes),
                find_token: |bytes, from| avx2().find_token(bytes, from),
            },
            Self { name: "chosen", mark_lines, find_lf, token_at_start, find_token },
        ];

        fn check_all(bytes: &[u8]) {
            for scan in Self::ALL {
                scan.check(bytes);
            }
        }

        fn all_marks(&self, bytes: &[u8]) -> Vec<LineMark> {
            let mut marks = vec![LineMark::EMPTY; bytes.len() + 1];
            let count = (self.mark_lines)(bytes, &mut marks);
            marks.truncate(count);
            marks
        }

        fn all_tokens(&self, bytes: &[u8]) -> Vec<(usize, Token)> {
            let mut from = 0;
            std::iter::from_fn(|| {
                let at = (self.find_token)(bytes, from)?;
                from = at + 1;
                Some((at, (self.token_at_start)(&bytes[at..])?))
            })
            .collect()
        }

        /// Compares every function with its naive form.
        fn check(&self, bytes: &[u8]) {
            let name = self.name;
            assert_eq!((self.find_lf)(bytes), naive::find_lf(bytes), "{name} {bytes:?}");
            assert_eq!((self.token_at_start)(bytes), naive::token(bytes), "{name} {bytes:?}");
            assert_eq!(self.all_marks(bytes), naive::marks(bytes), "{name} {bytes:?}");
            assert_eq!(self.all_tokens(bytes), naive::tokens(bytes), "{name} {bytes:?}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> x86_64::Avx2 {
        x86_64::Avx2::detect().expect("the AVX2 scan is tested on a CPU that has AVX2 and BMI")
    }

    /// What is right, in the slowest and plainest way.
    mod naive {
        use super::{DASHES, LineMark, TOKEN_BYTES, Token};

        pub(super) fn find_lf(bytes: &[u8]) -> Option<usize> {
            bytes.iter().position(|&byte| byte == b'\n')
        }

        pub(super) fn token(bytes: &[u8]) -> Option<Token> {
            let text = bytes.get(..TOKEN_BYTES)?;
            let mut value = 0_u128;
            for (at, &byte) in text.iter().enumerate() {
                if DASHES.contains(&at) {
                    if byte != b'-' {
                        return None;
                    }
                } else {
                    value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
                }
            }
            Some(Token::from_bytes(value.to_be_bytes()))
        }

        pub(super) fn tokens(bytes: &[u8]) -> Vec<(usize, Token)> {
            (0..bytes.len()).filter_map(|at| Some((at, token(&bytes[at..])?))).collect()
        }

        pub(super) fn marks(bytes: &[u8]) -> Vec<LineMark> {
            let mut start = 0;
            let ends = (0..bytes.len()).filter(|&at| bytes[at] == b'\n');
            ends.map(|end| {
                let token = token(&bytes[start..end]);
                start = end + 1;
                LineMark { end: end.try_into().unwrap(), token }
            })
            .collect()
        }
    }

    /// splitmix64: the same bytes for the same seed, everywhere.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ mixed >> 31) % limit as u64).unwrap()
        }

        fn bytes(&mut self, length: usize, alphabet: &[u8]) -> Vec<u8> {
            (0..length).map(|_| alphabet[self.below(alphabet.len())]).collect()
        }

        /// A token in random case, with one byte changed in half of them.
        fn near_token(&mut self) -> Vec<u8> {
            let mut text = self.bytes(TOKEN_BYTES, b"0123456789abcdefABCDEF");
            for at in DASHES {
                text[at] = b'-';
            }
            if self.below(2) == 0 {
                let at = self.below(TOKEN_BYTES);
                text[at] = b"-0gG@`:/\n\x00\xad\xb0"[self.below(12)];
            }
            text
        }
    }

    /// Bytes that begin at any distance from a multiple of 64, between bytes that would show if they were read.
    #[repr(align(64))]
    struct Aligned([u8; 512]);

    impl Aligned {
        fn check_at_every_alignment(bytes: &[u8]) {
            for outside in [b'\n', b'-', b'a'] {
                let mut memory = Self([outside; 512]);
                for alignment in 0..64 {
                    let place = alignment + 64..alignment + 64 + bytes.len();
                    memory.0[place.clone()].copy_from_slice(bytes);
                    Scan::check_all(&memory.0[place.clone()]);
                    memory.0[place].fill(outside);
                }
            }
        }
    }

    #[test]
    fn agree_at_every_length_and_alignment() {
        let mut random = Random(1);
        for length in 0..=200 {
            let mut bytes = Vec::new();
            while bytes.len() < length {
                bytes.extend(random.near_token());
                let gap = random.below(30);
                bytes.extend(random.bytes(gap, b"\n -a"));
            }
            Aligned::check_at_every_alignment(&bytes[..length]);
            // All that matters lies at the very end.
            Aligned::check_at_every_alignment(&bytes[bytes.len() - length..]);
        }
    }

    #[test]
    fn agree_on_hostile_alphabets() {
        let alphabets: [&[u8]; 8] =
            [b"-", b"\n", b"0123456789abcdefABCDEF", b"-a", b"a-----", b"aaaa\n", b"09afAF-gG@`:/ \n", b"\n\x0b\x8a\0"];
        for (seed, alphabet) in (0..).zip(alphabets) {
            let mut random = Random(seed);
            for length in (0..400).chain([1000, 4000]) {
                let bytes = random.bytes(length, alphabet);
                Scan::check_all(&bytes);
            }
        }
    }

    #[test]
    fn agree_on_near_tokens_in_dashes_digits_and_text() {
        for (seed, filler) in (0..).zip(["-", "0aF", "- a", "text, with 12-3 ", "\n"]) {
            let mut random = Random(seed);
            for _ in 0..300 {
                let mut bytes = Vec::new();
                for _ in 0..random.below(12) {
                    bytes.extend(random.near_token());
                    let gap = random.below(20);
                    bytes.extend(random.bytes(gap, filler.as_bytes()));
                }
                Scan::check_all(&bytes);
            }
        }
    }

    #[test]
    fn tokens_are_found_at_every_position() {
        let token = Token::parse(TEXT).unwrap();
        for filler in [b' ', b'-', b'f', b'\n', 0] {
            for at in 0..300 {
                let mut bytes = vec![filler; 400];
                bytes[at..at + TOKEN_BYTES].copy_from_slice(TEXT);
                for scan in Scan::ALL {
                    assert_eq!((scan.token_at_start)(&bytes[at..]), Some(token), "{} {at}", scan.name);
                    for from in [0, 1, at.saturating_sub(70), at.saturating_sub(1), at] {
                        let found = (scan.find_token)(&bytes, from);
                        assert_eq!(found.is_some(), from <= at, "{} {at} {from}", scan.name);
                        assert!(found.is_none_or(|found| found == at), "{} {at} {from}", scan.name);
                    }
                    assert_eq!((scan.find_token)(&bytes, at + 1), None, "{} {at}", scan.name);
                    // One byte short of the token's end.
                    assert_eq!((scan.find_token)(&bytes[..at + TOKEN_BYTES - 1], 0), None, "{} {at}", scan.name);
                }
            }
        }
    }

    #[test]
    fn overlapping_shapes_all_count() {
        for before in 0..130 {
            let bytes = [&vec![b'x'; before], OVERLAPPING].concat();
            for scan in Scan::ALL {
                let places: Vec<usize> = scan.all_tokens(&bytes).into_iter().map(|(at, _)| at).collect();
                assert_eq!(places, [before, before + OVERLAP], "{}", scan.name);
            }
        }
    }

    #[test]
    fn every_byte_value_at_every_place_of_a_token() {
        for place in 0..TOKEN_BYTES {
            for byte in 0..=u8::MAX {
                let mut line = TEXT.to_vec();
                line[place] = byte;
                line.push(b'\n');
                Scan::check_all(&line);
            }
        }
    }

    #[test]
    fn a_start_past_the_end_finds_nothing() {
        for scan in Scan::ALL {
            for length in [0, 35, 36, 83, 84, 85, 133] {
                let bytes = vec![b'a'; length];
                for from in [length, length + 1, length + 64, usize::MAX] {
                    assert_eq!((scan.find_token)(&bytes, from), None, "{}", scan.name);
                }
            }
        }
    }

    #[test]
    fn full_mark_arrays_go_on_behind_the_last_lf() {
        let mut random = Random(7);
        for room in [0, 1, 2, 3, 8, 64] {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                if random.below(2) == 0 {
                    bytes.extend(TEXT);
                }
                let length = random.below(90);
                bytes.extend(vec![b'x'; length]);
                bytes.push(b'\n');
            }
            let expected = naive::marks(&bytes);
            for scan in Scan::ALL {
                let mut marks = vec![LineMark::EMPTY; room];
                let (mut start, mut seen) = (0, Vec::new());
                loop {
                    let count = (scan.mark_lines)(&bytes[start..], &mut marks);
                    assert!(count == room || seen.len() + count == expected.len(), "{}", scan.name);
                    let Some(last) = marks[..count].last().copied() else { break };
                    let base = u32::try_from(start).unwrap();
                    seen.extend(marks[..count].iter().map(|mark| LineMark { end: base + mark.end, ..*mark }));
                    start += last.end as usize + 1;
                }
                assert_eq!(seen, expected[..if room == 0 { 0 } else { expected.len() }], "{}", scan.name);
            }
        }
    }
}

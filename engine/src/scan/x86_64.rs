//! The scan with AVX2: 64 bytes a step.
//!
//! ```text
//! mark_lines   for each block of 64 bytes:                                           (1)
//!                  bits = block == LF
//!                  for each bit, lowest first:
//!                      line = what lies between the last LF and this one
//!                      mark its end, and parse(line[..36])                           (2)
//!
//! parse        text[8, 13, 18, 23] all '-', else none
//!              digits  = the 32 other bytes, in order, in one register               (3)
//!              nibbles = min(value as decimal digit, value as letter), both saturated; any above 15: none
//!              token   = pairs of nibbles joined (multiply by 16 and 1, add)
//!
//! find_token   for each window of 84 bytes, which holds 49 starts:                   (4)
//!                  dashes = window[8..72] == '-', as bits
//!                  starts = dashes & dashes >> 5 & dashes >> 10 & dashes >> 15
//!                  several: starts &= runs of 8-4-4-4-12 hex digits, as bits         (5)
//!                  the first start that parses; none is left, or it is no token: next window
//! ```
//!
//! 1. Going by blocks and not from line to line leaves no chain of dependent loads from one LF to the next: the CPU
//!    works on several lines at once. In exchange the bytes of a token are searched for LF as well.
//! 2. A line shorter than a token is not parsed; the token of a longer one lies in the slice.
//! 3. Three loads of 16 bytes, at 0, 8 and 20, hold all digits such that two shuffles order them: no lane crossing.
//! 4. 64 dashes are what one word of bits holds; the last start with all its dashes among them is the 49th. Four shifted
//!    compares of bytes were tried: the same starts for four times the loads, and no faster. The last window ends with
//!    the bytes and overlaps the one before. Bytes shorter than a window give their bits in parts that overlap; to copy
//!    them into a window took three times as long (corpus `token_middle_64` of the bench `scan`), because the loads
//!    wait for the copy.
//! 5. Text almost never has four dashes at these distances, unless there is a token. Input made of dashes has a start
//!    at every byte, and a parse each would cost (a guess) fifty times a window. As bits all are tested in some thirty
//!    steps, so hostile bytes cost a small constant more than others (corpora `all_dashes`, `dash_patterns` and
//!    `near_tokens`).
//!
//! Nothing is read outside the slices: loads take references to arrays of their size. Machines with AVX2 have BMI,
//! which makes the walk over bits one instruction a step; `detect` asks for both.

#![allow(unsafe_code, reason = "vector loads and the call of functions that need AVX2 have no safe form")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_packus_epi16, _mm_set1_epi8,
    _mm_storeu_si128, _mm256_add_epi8, _mm256_adds_epu8, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_castsi256_si128, _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_extracti128_si256, _mm256_loadu_si256,
    _mm256_maddubs_epi16, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256, _mm256_set_m128i, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_setr_epi8, _mm256_shuffle_epi8, _mm256_sub_epi8, _mm256_subs_epu8,
};

use super::LineMark;
use crate::wire::Token;
use crate::wire::token::{DASHES, TOKEN_BYTES};

/// Bytes that are tested at once: one bit each in a word.
const BLOCK: usize = 64;

/// Distance of a token's dashes.
const DASH_GAP: usize = DASHES[1] - DASHES[0];
const _: () = assert!(DASHES[2] - DASHES[1] == DASH_GAP && DASHES[3] - DASHES[2] == DASH_GAP);

/// Starts in a window of the token search: those whose dashes are all in one block.
const STARTS: usize = BLOCK - 3 * DASH_GAP;

/// Bytes that the tokens at these starts reach.
const WINDOW: usize = STARTS + TOKEN_BYTES - 1;

/// A block holds whole tokens at 29 starts: with a second one, here, all of a window's.
const SECOND: usize = WINDOW - BLOCK;
const _: () = assert!(SECOND <= BLOCK - TOKEN_BYTES + 1);

/// Proof that this CPU has AVX2, BMI1 and BMI2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

#[expect(clippy::unused_self, reason = "that there is a `self` is what the calls rest on")]
impl Avx2 {
    /// Asks the CPU once; afterwards this is a load and a test.
    pub(super) fn detect() -> Option<Self> {
        let all =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        all.then_some(Self(()))
    }

    /// See [`super::mark_lines`].
    pub(super) fn mark_lines(self, bytes: &[u8], marks: &mut [LineMark]) -> usize {
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe { mark_lines(bytes, marks) }
    }

    /// See [`super::find_lf`].
    pub(super) fn find_lf(self, bytes: &[u8]) -> Option<usize> {
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe { find_lf(bytes) }
    }

    /// See [`super::token_at_start`].
    pub(super) fn token_at_start(self, bytes: &[u8]) -> Option<Token> {
        let text = bytes.first_chunk()?;
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe { parse(text) }
    }

    /// See [`super::find_token`].
    pub(super) fn find_token(self, bytes: &[u8], from: usize) -> Option<usize> {
        // SAFETY: `self` exists, so `detect` found the features that the function enables.
        unsafe { find_token(bytes, from) }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn mark_lines(bytes: &[u8], marks: &mut [LineMark]) -> usize {
    let bytes = super::markable(bytes);
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    let mut walk = Walk { bytes, marks, start: 0, count: 0 };
    let mut base = 0;
    for block in blocks {
        if !walk.mark(base, bits_equal(block, b'\n')) {
            return walk.count;
        }
        base += BLOCK;
    }
    if !tail.is_empty() {
        walk.mark(base, bits_equal(&padded(tail), b'\n'));
    }
    walk.count
}

/// State of `mark_lines`: `start` is behind the LF of the last of `count` marks.
struct Walk<'a> {
    bytes: &'a [u8],
    marks: &'a mut [LineMark],
    start: usize,
    count: usize,
}

impl Walk<'_> {
    /// Marks the lines that end at the bits of the block at `base`; false if there were more bits than marks.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn mark(&mut self, base: usize, mut bits: u64) -> bool {
        while bits != 0 {
            let Some(mark) = self.marks.get_mut(self.count) else { return false };
            let end = base + bits.trailing_zeros() as usize;
            let line = &self.bytes[self.start..end];
            let token = match line.first_chunk() {
                Some(text) => parse(text),
                None => None,
            };
            *mark = LineMark::new(end, token);
            self.start = end + 1;
            self.count += 1;
            bits &= bits - 1;
        }
        true
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn find_lf(bytes: &[u8]) -> Option<usize> {
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    let mut base = 0;
    for block in blocks {
        let bits = bits_equal(block, b'\n');
        if bits != 0 {
            return Some(base + bits.trailing_zeros() as usize);
        }
        base += BLOCK;
    }
    let bits = bits_equal(&padded(tail), b'\n');
    (bits != 0).then(|| base + bits.trailing_zeros() as usize)
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn find_token(bytes: &[u8], mut from: usize) -> Option<usize> {
    let last_start = bytes.len().checked_sub(TOKEN_BYTES)?;
    while from <= last_start {
        let Some(last_window) = bytes.len().checked_sub(WINDOW) else {
            return find_token_in_short(bytes, from);
        };
        let base = from.min(last_window);
        let window: &[u8; WINDOW] = part(bytes, base);
        let starts = dashed_starts(bits_equal(part(window, DASHES[0]), b'-')) & u64::MAX << (from - base);
        let hex = || [hex_bits(part(window, 0)), hex_bits(part(window, SECOND))];
        if let Some(at) = first_token(window, starts, hex) {
            return Some(base + at);
        }
        from += STARTS;
    }
    None
}

/// `find_token` in bytes that are fewer than a window; a token fits behind `from`.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn find_token_in_short(bytes: &[u8], from: usize) -> Option<usize> {
    let last_at = bytes.len() - 32;
    let second_at = last_at.min(32);
    let [first, second, last] = [0, second_at, last_at].map(|at| part(bytes, at));
    // The bits of all bytes from those of three parts that overlap.
    let joined = |first: u64, second: u64, last: u64| {
        u128::from(first | second << second_at) | u128::from(last >> (BLOCK - last_at)) << BLOCK
    };
    let equal = |part| bits_of(_mm256_cmpeq_epi8(load_32(part), all(b'-')));
    let dashes = joined(equal(first), equal(second), equal(last));
    let starts = dashed_starts(word_at::<{ DASHES[0] }>(dashes)) & u64::MAX << from;
    let hex = || {
        let digit = |part| bits_of(is_hex(load_32(part)));
        let digits = joined(digit(first), digit(second), digit(last));
        [word_at::<0>(digits), word_at::<SECOND>(digits)]
    };
    first_token(bytes, starts, hex)
}

/// The token at the first of these starts that has one. `hex` tells of two blocks, at 0 and at `SECOND`, which bytes
/// are hex digits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn first_token(bytes: &[u8], mut starts: u64, hex: impl FnOnce() -> [u64; 2]) -> Option<usize> {
    let several = starts & starts.wrapping_sub(1) != 0;
    if several {
        let [first, second] = hex();
        starts &= hex_runs(first) | hex_runs(second) << SECOND;
    }
    if starts == 0 {
        return None;
    }
    let at = starts.trailing_zeros() as usize;
    let text = bytes.get(at..)?.first_chunk()?;
    parse(text).map(|_| at)
}

/// Starts with a dash wherever a token has one, of the bits that say which of the bytes from `DASHES[0]` on is one.
#[inline]
fn dashed_starts(dashes: u64) -> u64 {
    let two = dashes & dashes >> DASH_GAP;
    two & two >> (2 * DASH_GAP)
}

/// Starts of runs of 8-4-4-4-12 hex digits, of the bits that say which bytes are hex digits.
#[inline]
fn hex_runs(hex: u64) -> u64 {
    // Bit n of each word: that many digits from n on.
    let two = hex & hex >> 1;
    let four = two & two >> 2;
    let eight = four & four >> 4;
    let twelve = eight & four >> 8;
    eight & four >> (DASHES[0] + 1) & four >> (DASHES[1] + 1) & four >> (DASHES[2] + 1) & twelve >> (DASHES[3] + 1)
}

#[inline]
fn word_at<const AT: usize>(bits: u128) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "a word of the bits is wanted")]
    let word = (bits >> AT) as u64;
    word
}

/// Which bytes of a block are hex digits, as bits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn hex_bits(block: &[u8; BLOCK]) -> u64 {
    bits_of(is_hex(load_32(part(block, 0)))) | bits_of(is_hex(load_32(part(block, 32)))) << 32
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn is_hex(bytes: __m256i) -> __m256i {
    let lower = _mm256_or_si256(bytes, all(0x20));
    _mm256_or_si256(in_range(bytes, b'0', 10), in_range(lower, b'a', 6))
}

/// Whether bytes are one of the `count` from `first` on. AVX2 compares signed bytes only: `first` goes to the lowest.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn in_range(bytes: __m256i, first: u8, count: i8) -> __m256i {
    let moved = _mm256_add_epi8(bytes, all(0x80_u8.wrapping_sub(first)));
    _mm256_cmpgt_epi8(_mm256_set1_epi8(i8::MIN + count), moved)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn parse(text: &[u8; TOKEN_BYTES]) -> Option<Token> {
    const MIDDLE: usize = 8;
    const DASH_BITS: i32 =
        1 << (DASHES[0] - MIDDLE) | 1 << (DASHES[1] - MIDDLE) | 1 << (DASHES[2] - MIDDLE) | 1 << (DASHES[3] - MIDDLE);

    let middle = load_16(part(text, MIDDLE));
    let dashes = _mm_movemask_epi8(_mm_cmpeq_epi8(middle, _mm_set1_epi8(b'-'.cast_signed())));
    if dashes & DASH_BITS != DASH_BITS {
        return None;
    }
    let outer = _mm256_set_m128i(load_16(part(text, 20)), load_16(part(text, 0)));
    let nibbles = nibbles(digits_in_order(outer, middle))?;
    Some(joined(nibbles))
}

/// The 32 digits of a token. `outer` holds its bytes 0 to 15 and 20 to 35, `middle` its bytes 8 to 23.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn digits_in_order(outer: __m256i, middle: __m128i) -> __m256i {
    const NONE: i8 = -1;
    #[rustfmt::skip]
    let from_outer = _mm256_setr_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, NONE, NONE,
        NONE, NONE, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    );
    #[rustfmt::skip]
    let from_middle = _mm256_setr_epi8(
        NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, 8, 9,
        11, 12, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE,
    );
    _mm256_or_si256(
        _mm256_shuffle_epi8(outer, from_outer),
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(middle), from_middle),
    )
}

/// The values of 32 hex digits; `None` if one of the bytes is something else.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn nibbles(digits: __m256i) -> Option<__m256i> {
    // '0' to '9' become 0xf6 to 0xff, then 0xf0 to 0xf9 where all others saturate below 0xf0, then 0 to 9 and 16 up.
    let topped = _mm256_add_epi8(digits, all(0xff - b'9'));
    let decimal = _mm256_sub_epi8(_mm256_subs_epu8(topped, all(6)), all(0xf0));
    // 'A' to 'F' become 0 to 5, then 10 to 15 where all others are 16 up.
    let upper = _mm256_and_si256(digits, all(!0x20));
    let letter = _mm256_adds_epu8(_mm256_sub_epi8(upper, all(b'A')), all(10));
    let nibbles = _mm256_min_epu8(decimal, letter);
    let above_15 = _mm256_movemask_epi8(_mm256_adds_epu8(nibbles, all(0x7f - 15)));
    (above_15 == 0).then_some(nibbles)
}

/// The 16 bytes whose nibbles these are.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn joined(nibbles: __m256i) -> Token {
    // The weights of a pair: 16 for the first, which is the lower byte, and 1 for the second.
    let words = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x0110));
    let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
    let mut value = [0; 16];
    // SAFETY: `value` has the 16 bytes that the store writes; it needs no alignment.
    unsafe { _mm_storeu_si128((&raw mut value).cast(), bytes) };
    Token::from_bytes(value)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn all(byte: u8) -> __m256i {
    _mm256_set1_epi8(byte.cast_signed())
}

/// Which bytes of a block are this one, as bits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn bits_equal(block: &[u8; BLOCK], byte: u8) -> u64 {
    let low = _mm256_cmpeq_epi8(load_32(part(block, 0)), all(byte));
    let high = _mm256_cmpeq_epi8(load_32(part(block, 32)), all(byte));
    bits_of(low) | bits_of(high) << 32
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn bits_of(bytes: __m256i) -> u64 {
    u64::from(_mm256_movemask_epi8(bytes).cast_unsigned())
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn load_32(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that the load reads; it needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes that the load reads; it needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The part of this size at this offset. The check is gone where both sizes and the offset are constants.
#[inline]
fn part<const SIZE: usize>(bytes: &[u8], at: usize) -> &[u8; SIZE] {
    bytes[at..].first_chunk().expect("the caller stays inside the bytes")
}

/// A copy of bytes that are fewer than a block, with zeros behind.
#[inline]
fn padded(bytes: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

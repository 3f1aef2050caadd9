//! The scan with AVX2: 64 bytes a step.
//!
//! ```text
//! mark_lines   for each block of 64 bytes:                        (1)
//!                  bits = block == LF
//!                  for each bit, lowest first:
//!                      line = what lies between the last LF and this one
//!                      mark its end, and parse(line[..36])        (2)
//!
//! parse        text[8, 13, 18, 23] all '-', else none
//!              digits  = the 32 other bytes, in order, in one register            (3)
//!              nibbles = min(saturated digit value, saturated letter value); any above 15: none
//!              token   = pairs of nibbles joined (multiply by 16 and 1, add)
//!
//! find_token   for each window of 64 starts, 99 bytes:            (4)
//!                  starts = window[+8] == '-' & window[+13] == '-' & window[+18] == '-' & window[+23] == '-'
//!                  none: next window
//!                  parse at the first; done if it is a token      (5)
//!                  starts &= runs of hex digits 8-4-4-4-12, as bits                (6)
//!                  parse at the first that is left, else next window
//! ```
//!
//! 1. Going by blocks and not from line to line leaves no chain of dependent loads from one LF to the next: the CPU
//!    works on several lines at once. Skipping the token's 36 bytes in the search for LF saved less than that chain costs.
//! 2. A line shorter than a token is not parsed; a longer one lies in the slice, so nothing is read outside.
//! 3. Three loads of 16 bytes, at 0, 8 and 20, hold all digits such that two shuffles order them: no lane crossing.
//! 4. 64 starts are what one word of bits holds, and the last of them ends at byte 99. What is left at the end of
//!    the bytes is a window that overlaps the one before; bytes shorter than a window are copied into one.
//! 5. Text almost never has four dashes at these distances, unless there is a token.
//! 6. Input made of dashes or of near misses makes many starts. Testing them one after the other would cost up to 64
//!    parses a window; as bits all are tested in a dozen steps, so hostile bytes cost a small constant more than others.
//!
//! Loads take references to arrays of their size, so that no length is ever checked by hand. AVX2 machines all have
//! BMI, which makes the walks over bits one instruction a step.

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

/// Bytes of a step of the LF walk, and starts of a window of the token search: one bit each in a word.
const BLOCK: usize = 64;

/// Bytes that the starts of a block can reach.
const WINDOW: usize = BLOCK + TOKEN_BYTES - 1;

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
    pub(super) fn find_token(self, bytes: &[u8], from: usize) -> Option<(usize, Token)> {
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
        if !walk.mark(base, lf_bits(block)) {
            return walk.count;
        }
        base += BLOCK;
    }
    if !tail.is_empty() {
        walk.mark(base, lf_bits(&padded(tail)));
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
        let bits = lf_bits(block);
        if bits != 0 {
            return Some(base + bits.trailing_zeros() as usize);
        }
        base += BLOCK;
    }
    let bits = lf_bits(&padded(tail));
    (bits != 0).then(|| base + bits.trailing_zeros() as usize)
}

#[target_feature(enable = "avx2,bmi1,bmi2")]
fn find_token(bytes: &[u8], from: usize) -> Option<(usize, Token)> {
    let last_start = bytes.len().checked_sub(TOKEN_BYTES)?;
    let Some(last_window) = bytes.last_chunk::<WINDOW>() else {
        // Starts past the last one that fits would need digits where the padding has none.
        return token_in_window(&padded(bytes), starts_from(from));
    };
    let mut base = from;
    while let Some(window) = bytes.get(base..).and_then(<[u8]>::first_chunk) {
        if let Some((at, token)) = token_in_window(window, u64::MAX) {
            return Some((base + at, token));
        }
        base += BLOCK;
    }
    let last_base = last_start + 1 - BLOCK;
    let (at, token) = token_in_window(last_window, starts_from(base.saturating_sub(last_base)))?;
    Some((last_base + at, token))
}

/// The starts of a window from this one on, as bits.
fn starts_from(first: usize) -> u64 {
    if first < BLOCK { u64::MAX << first } else { 0 }
}

/// The first token of a window at one of the `allowed` starts.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn token_in_window(window: &[u8; WINDOW], allowed: u64) -> Option<(usize, Token)> {
    let starts = dashed_starts(window) & allowed;
    if starts == 0 {
        return None;
    }
    if let Some(found) = token_at_first(window, starts) {
        return Some(found);
    }
    let others = starts & (starts - 1);
    if others == 0 {
        return None;
    }
    token_at_first(window, others & hex_starts(window))
}

/// The token at the lowest of the starts, if there is a start and it is a token.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn token_at_first(window: &[u8; WINDOW], starts: u64) -> Option<(usize, Token)> {
    let at = starts.trailing_zeros() as usize;
    let text = window.get(at..)?.first_chunk()?;
    Some((at, parse(text)?))
}

/// Starts of a window with a dash wherever a token has one, as bits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn dashed_starts(window: &[u8; WINDOW]) -> u64 {
    let low = _mm256_and_si256(
        _mm256_and_si256(dashes::<{ DASHES[0] }>(window), dashes::<{ DASHES[1] }>(window)),
        _mm256_and_si256(dashes::<{ DASHES[2] }>(window), dashes::<{ DASHES[3] }>(window)),
    );
    let high = _mm256_and_si256(
        _mm256_and_si256(dashes::<{ DASHES[0] + 32 }>(window), dashes::<{ DASHES[1] + 32 }>(window)),
        _mm256_and_si256(dashes::<{ DASHES[2] + 32 }>(window), dashes::<{ DASHES[3] + 32 }>(window)),
    );
    bits_of(low) | bits_of(high) << 32
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn dashes<const AT: usize>(window: &[u8; WINDOW]) -> __m256i {
    _mm256_cmpeq_epi8(load_32::<AT, WINDOW>(window), _mm256_set1_epi8(b'-'.cast_signed()))
}

/// Starts of a window with hex digits wherever a token has them, as bits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn hex_starts(window: &[u8; WINDOW]) -> u64 {
    const LAST: usize = WINDOW - 32;
    let low = hex_bits::<0>(window) | hex_bits::<32>(window) << 32;
    let high = hex_bits::<64>(window) | hex_bits::<LAST>(window) << (LAST - 64);
    let hex = u128::from(low) | u128::from(high) << 64;
    // Bit n of each: that many digits from n on.
    let two = hex & hex >> 1;
    let four = two & two >> 2;
    let eight = four & four >> 4;
    let twelve = eight & four >> 8;
    let starts =
        eight & four >> (DASHES[0] + 1) & four >> (DASHES[1] + 1) & four >> (DASHES[2] + 1) & twelve >> (DASHES[3] + 1);
    // The bits above the starts are those of bytes that a start in the window reaches.
    #[expect(clippy::cast_possible_truncation, reason = "only the lower half holds starts")]
    let starts = starts as u64;
    starts
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn hex_bits<const AT: usize>(window: &[u8; WINDOW]) -> u64 {
    let bytes = load_32::<AT, WINDOW>(window);
    let digits = in_range(bytes, b'0', 10);
    let letters = in_range(_mm256_or_si256(bytes, _mm256_set1_epi8(0x20)), b'a', 6);
    bits_of(_mm256_or_si256(digits, letters))
}

/// Whether bytes are one of the `count` from `first` on. AVX2 compares signed bytes only: `first` goes to the lowest.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn in_range(bytes: __m256i, first: u8, count: i8) -> __m256i {
    let moved = _mm256_add_epi8(bytes, _mm256_set1_epi8(i8::MIN.wrapping_sub_unsigned(first)));
    _mm256_cmpgt_epi8(_mm256_set1_epi8(i8::MIN + count), moved)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn parse(text: &[u8; TOKEN_BYTES]) -> Option<Token> {
    const MIDDLE: usize = 8;
    const DASH_BITS: i32 =
        1 << (DASHES[0] - MIDDLE) | 1 << (DASHES[1] - MIDDLE) | 1 << (DASHES[2] - MIDDLE) | 1 << (DASHES[3] - MIDDLE);

    let middle = load_16::<MIDDLE>(text);
    let dashes = _mm_movemask_epi8(_mm_cmpeq_epi8(middle, _mm_set1_epi8(b'-'.cast_signed())));
    if dashes & DASH_BITS != DASH_BITS {
        return None;
    }
    let outer = _mm256_set_m128i(load_16::<20>(text), load_16::<0>(text));
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
    // SAFETY: `value` has the 16 bytes that the store writes.
    unsafe { _mm_storeu_si128((&raw mut value).cast(), bytes) };
    Token::from_bytes(value)
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn all(byte: u8) -> __m256i {
    _mm256_set1_epi8(byte.cast_signed())
}

/// The LFs of a block, as bits.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn lf_bits(block: &[u8; BLOCK]) -> u64 {
    let lf = all(b'\n');
    let low = _mm256_cmpeq_epi8(load_32::<0, BLOCK>(block), lf);
    let high = _mm256_cmpeq_epi8(load_32::<32, BLOCK>(block), lf);
    bits_of(low) | bits_of(high) << 32
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn bits_of(bytes: __m256i) -> u64 {
    u64::from(_mm256_movemask_epi8(bytes).cast_unsigned())
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn load_32<const AT: usize, const SIZE: usize>(bytes: &[u8; SIZE]) -> __m256i {
    const { assert!(AT + 32 <= SIZE) };
    // SAFETY: the assertion above, at compile time: the array has 32 bytes from `AT` on.
    unsafe { _mm256_loadu_si256(bytes[AT..].as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn load_16<const AT: usize>(text: &[u8; TOKEN_BYTES]) -> __m128i {
    const { assert!(AT + 16 <= TOKEN_BYTES) };
    // SAFETY: the assertion above, at compile time: the text has 16 bytes from `AT` on.
    unsafe { _mm_loadu_si128(text[AT..].as_ptr().cast()) }
}

/// A copy of bytes that are fewer than a block or window, with zeros behind: neither LF, nor dash, nor digit.
#[inline]
fn padded<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    let mut block = [0; SIZE];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

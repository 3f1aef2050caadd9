//! The scan one word or one byte at a time: the reference of every vector version, and what machines without one use.
//!
//! Its speed may not hang on the input either: the LF walk takes eight bytes a step, the token search jumps over every
//! byte that cannot be a token's last and from dash to dash, and no digit is looked at before all dashes are there.

use super::LineMark;
use crate::wire::Token;
use crate::wire::token::{DASHES, TOKEN_BYTES};

/// See [`super::mark_lines`].
pub fn mark_lines(bytes: &[u8], marks: &mut [LineMark]) -> usize {
    let bytes = super::markable(bytes);
    let mut start = 0;
    for (count, mark) in marks.iter_mut().enumerate() {
        let line = &bytes[start..];
        let token = token_at_start(line);
        let skip = if token.is_some() { TOKEN_BYTES } else { 0 };
        let Some(length) = find_lf(&line[skip..]) else { return count };
        let end = start + skip + length;
        *mark = LineMark::new(end, token);
        start = end + 1;
    }
    marks.len()
}

/// See [`super::find_lf`].
#[must_use]
pub fn find_lf(bytes: &[u8]) -> Option<usize> {
    find_byte(bytes, b'\n')
}

/// See [`super::token_at_start`].
#[must_use]
pub fn token_at_start(bytes: &[u8]) -> Option<Token> {
    parse(bytes.first_chunk()?)
}

/// See [`super::find_token`].
#[must_use]
pub fn find_token(bytes: &[u8], from: usize) -> Option<usize> {
    const LAST: usize = TOKEN_BYTES - 1;
    // A dash at a token's last byte can be its own last dash at best.
    const AFTER_DASH: usize = LAST - DASHES[3];

    let mut at = from;
    while let Some(text) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        if text[LAST] == b'-' {
            at += AFTER_DASH;
        } else if NIBBLES[usize::from(text[LAST])] == NOT_HEX {
            at += TOKEN_BYTES;
        } else if text[DASHES[0]] != b'-' {
            at += find_byte(&bytes[at + DASHES[0]..], b'-')?;
        } else if parse(text).is_some() {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

fn find_byte(bytes: &[u8], byte: u8) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES * 0x80;

    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let differs = u64::from_le_bytes(*word) ^ (ONES * u64::from(byte));
        // The lowest top bit left is that of the first zero byte; borrows disturb only the bytes behind it.
        let zeros = differs.wrapping_sub(ONES) & !differs & TOPS;
        if zeros != 0 {
            return Some(index * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|&other| other == byte)?;
    Some(words.len() * 8 + at)
}

fn parse(text: &[u8; TOKEN_BYTES]) -> Option<Token> {
    // Positions of the first digits of the pairs; no pair has a dash inside.
    const PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

    if DASHES.iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let mut value = [0; 16];
    for (byte, at) in value.iter_mut().zip(PAIRS) {
        let (high, low) = (NIBBLES[usize::from(text[at])], NIBBLES[usize::from(text[at + 1])]);
        if high | low == NOT_HEX {
            return None;
        }
        *byte = high << 4 | low;
    }
    Some(Token::from_bytes(value))
}

/// Marks what is no hex digit. All bits set, so that it stays what it is with a digit joined to it.
const NOT_HEX: u8 = 0xff;

/// Value of every hex digit, either case.
const NIBBLES: [u8; 256] = {
    let mut table = [NOT_HEX; 256];
    let mut value = 0;
    while value < 16 {
        let digit = b"0123456789abcdef"[value as usize];
        table[digit as usize] = value;
        table[digit.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    table
};

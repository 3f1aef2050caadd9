//! The numbers at the beginning of an entry: writing them, and reading an entry back.
//!
//! The checksum covers sequence and time as numbers, last: what stands before them is known for each place in a batch,
//! and 16 bytes remain to be summed for each entry. That is as good as summing their digits, since every number has one
//! spelling.

use std::ops::Range;

/// Bytes of all fields with the blank between time and checksum.
pub const FIELDS_BYTES: usize = CHECKSUM.end;

const IDENTITY: Range<usize> = 0..6;
const SEQUENCE: Range<usize> = 6..12;
const TIME: Range<usize> = 12..19;
/// The blank before the checksum: where a token may stand if there is no text.
pub(super) const BLANK_AT: usize = 19;
const CHECKSUM: Range<usize> = 20..26;

/// Where sequence and time stand together.
pub(super) const COUNTERS: Range<usize> = SEQUENCE.start..TIME.end;
/// Where the checksum begins.
pub(super) const CHECKSUM_AT: usize = CHECKSUM.start;
/// The largest time on the wire: 50 days in microseconds.
const MICROS_MAX: u64 = (1 << 42) - 1;

const DIGITS: [u8; 64] = *b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The two digits of each number below 4096.
const PAIRS: [[u8; 2]; 4096] = pairs();
/// The number that a byte stands for, or [`NO_DIGIT`].
const VALUES: [u8; 256] = values();
const NO_DIGIT: u8 = 0xff;

/// An entry as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Byte for byte an entry that a run made.
    Intact {
        /// The run.
        run: u16,
        /// The connection that sent it.
        connection: u32,
        /// Its ordinal in that connection.
        sequence: u32,
        /// When it was meant to be sent, in microseconds since the start of the run.
        intended_micros: u64,
    },
    /// Names its sender, but is not what that one sent.
    Damaged {
        /// The run.
        run: u16,
        /// The connection that sent it, if that part is right.
        connection: u32,
    },
    /// Not made by a run, or damaged beyond recognition.
    Unknown,
}

/// Reads an entry back.
#[must_use]
pub fn parse(entry: &[u8]) -> Parsed {
    let Some(identity) = number_u32(entry, IDENTITY) else { return Parsed::Unknown };
    let (run, connection) = ((identity >> 16) as u16, identity & u32::from(u16::MAX));
    let intact = || {
        let (sequence, intended_micros) = (number_u32(entry, SEQUENCE)?, number(entry, TIME)?);
        let checksum = number_u32(entry, CHECKSUM)?;
        let expected = checksum_of(partial_checksum(entry), sequence, intended_micros);
        let is_intact = entry[BLANK_AT] == b' ' && checksum == expected;
        is_intact.then_some(Parsed::Intact { run, connection, sequence, intended_micros })
    };
    intact().unwrap_or(Parsed::Damaged { run, connection })
}

/// Writes the identity, and the blank that is always there.
pub(super) fn write_identity(entry: &mut [u8], run: u16, connection: u32) {
    debug_assert!(u16::try_from(connection).is_ok(), "the plan has fewer connections");
    entry[IDENTITY].copy_from_slice(&digits_u32((u32::from(run) << 16) | connection));
    entry[BLANK_AT] = b' ';
}

/// Checksum of all but sequence and time.
pub(super) fn partial_checksum(entry: &[u8]) -> u32 {
    let identity = crc32c::crc32c(&entry[IDENTITY]);
    crc32c::crc32c_append(identity, entry.get(FIELDS_BYTES..).unwrap_or_default())
}

/// The checksum of an entry.
pub(super) fn checksum_of(partial: u32, sequence: u32, intended_micros: u64) -> u32 {
    let counters = (u128::from(sequence) << 64) | u128::from(intended_micros);
    crc32c::crc32c_append(partial, &counters.to_le_bytes())
}

/// Sequence and time as they stand in the entry.
pub(super) fn counters(sequence: u32, time: [u8; 7]) -> [u8; COUNTERS.end - COUNTERS.start] {
    let mut text = [0; COUNTERS.end - COUNTERS.start];
    text[..6].copy_from_slice(&digits_u32(sequence));
    text[6..].copy_from_slice(&time);
    text
}

/// A time in microseconds as it stands in the entry.
pub(super) fn digits_time(micros: u64) -> [u8; 7] {
    debug_assert!(micros <= MICROS_MAX, "a run is shorter");
    let mut text = [0; 7];
    text[..2].copy_from_slice(&pair(micros >> 30));
    text[2..4].copy_from_slice(&pair(micros >> 18));
    text[4..6].copy_from_slice(&pair(micros >> 6));
    text[6] = DIGITS[(micros & 63) as usize];
    text
}

/// A number of 32 bits as it stands in the entry.
pub(super) fn digits_u32(value: u32) -> [u8; 6] {
    let value = u64::from(value);
    let mut text = [0; 6];
    text[..2].copy_from_slice(&pair(value >> 24));
    text[2..4].copy_from_slice(&pair(value >> 12));
    text[4..].copy_from_slice(&pair(value));
    text
}

/// The digits of the lowest twelve bits.
fn pair(value: u64) -> [u8; 2] {
    PAIRS[(value & 4095) as usize]
}

fn number_u32(entry: &[u8], at: Range<usize>) -> Option<u32> {
    u32::try_from(number(entry, at)?).ok()
}

fn number(entry: &[u8], at: Range<usize>) -> Option<u64> {
    entry.get(at)?.iter().try_fold(0, |number, digit| match VALUES[usize::from(*digit)] {
        NO_DIGIT => None,
        value => Some((number << 6) | u64::from(value)),
    })
}

const fn pairs() -> [[u8; 2]; 4096] {
    let mut pairs = [[0; 2]; 4096];
    let mut number = 0;
    while number < pairs.len() {
        pairs[number] = [DIGITS[number / 64], DIGITS[number % 64]];
        number += 1;
    }
    pairs
}

const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back() {
        for value in (0..u32::MAX).step_by(104_729).chain([u32::MAX]) {
            assert_eq!(number_u32(&digits_u32(value), 0..6), Some(value));
        }
        for micros in [0, 1, 63, 64, 4095, 1 << 30, MICROS_MAX] {
            assert_eq!(number(&digits_time(micros), 0..7), Some(micros));
        }
    }

    #[test]
    fn digits_sort_as_numbers_do() {
        assert!(DIGITS.is_sorted());
        assert!(digits_u32(4_000_000_000) > digits_u32(3_999_999_999));
    }

    #[test]
    fn a_number_has_one_spelling() {
        assert_eq!(number_u32(b"zzzzzz", 0..6), None);
        assert_eq!(number(b"a-b", 0..3), None);
        assert_eq!(number(b"ab", 0..3), None);
    }
}

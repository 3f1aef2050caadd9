//! CRC-32C of what is stored: by carry-less multiplication where the processor has it, which is several times faster than
//! its instruction for this very checksum. 256 KiB took 2.4 µs instead of 9.3 (crate crc32c) on a Xeon with AVX-512, 2 KiB 19 ns
//! instead of 95.
//!
//! To combine two checksums took 7 to 16 µs in either crate, so bytes that two checksums cover are looked at twice where
//! they are at hand.

use crc_fast::{CrcAlgorithm, Digest};

/// Checksum of these bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Checksum of bytes with this checksum and these bytes behind them.
#[must_use]
pub fn crc32c_append(crc32c: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc32c));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a checksum of 32 bits")
}

/// Checksum of bytes with the first checksum, and so many bytes with the second behind them.
#[must_use]
pub fn crc32c_combine(first: u32, second: u32, second_len: u32) -> u32 {
    let (first, second) = (u64::from(first), u64::from(second));
    let both = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, first, second, u64::from(second_len));
    u32::try_from(both).expect("a checksum of 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as RFC 3720 defines it.
    fn reference(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        })
    }

    #[test]
    fn equals_the_reference_at_every_length_and_cut() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let bytes: Vec<u8> = (0..1500_u32).map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
        for length in 0..bytes.len() {
            let bytes = &bytes[..length];
            let expected = reference(bytes);
            assert_eq!(crc32c(bytes), expected, "{length} bytes");
            let (front, back) = bytes.split_at(length * 3 / 7);
            assert_eq!(crc32c_append(crc32c(front), back), expected, "{length} bytes");
            let back_len = u32::try_from(back.len()).expect("short");
            assert_eq!(crc32c_combine(crc32c(front), crc32c(back), back_len), expected, "{length} bytes");
        }
        assert_eq!(crc32c_append(0, &bytes), crc32c(&bytes));
    }
}

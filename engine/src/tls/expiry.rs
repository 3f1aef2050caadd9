//! Until when a certificate is valid: the one field of it that nobody else reads for us.
//!
//! ```text
//! Certificate: SEQUENCE { tbs: SEQUENCE { [0] version?, serial, algorithm, issuer, validity: SEQUENCE { from, until }, …
//! ```
//! DER (X.690), as far as RFC 5280 uses it up to there.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The last second in which a certificate is valid, counted from 1970; `None` if that cannot be found.
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (tbs, _) = expect(SEQUENCE, certificate)?;
    let (tag, _, behind) = element(tbs)?;
    let serial = if tag == VERSION { behind } else { tbs };
    let (_, _, algorithm) = element(serial)?;
    let (_, _, issuer) = element(algorithm)?;
    let (_, _, validity) = element(issuer)?;
    let (validity, _) = expect(SEQUENCE, validity)?;
    let (_, _, until) = element(validity)?;
    let (tag, text, _) = element(until)?;
    seconds(tag, text)
}

/// The first element: its tag, its content, and what follows.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, short], rest) = input.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn expect(wanted: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(input)?;
    (tag == wanted).then_some((content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    let number = |digits: &[u8]| -> Option<i16> { std::str::from_utf8(digits).ok()?.parse().ok() };
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let mut parts = [0_i8; 5];
    if rest.len() != 2 * parts.len() {
        return None;
    }
    for (part, digits) in parts.iter_mut().zip(rest.chunks(2)) {
        *part = i8::try_from(number(digits)?).ok()?;
    }
    let [month, day, hour, minute, second] = parts;
    let time = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn until(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(["logs.example".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        assert_eq!(not_after(&until(2027, 3, 1)), Some(1_803_859_200));
        assert_eq!(not_after(&until(2051, 1, 1)), Some(2_556_144_000));
        assert_eq!(not_after(&until(1999, 12, 31)), Some(946_598_400));
    }

    #[test]
    fn whatever_else_is_there_is_no_time() {
        let certificate = until(2027, 3, 1);
        for end in 0..certificate.len() {
            let _no_panic = not_after(&certificate[..end]);
        }
        for at in 0..certificate.len() {
            let mut damaged = certificate.clone();
            damaged[at] ^= 0x55;
            let _no_panic = not_after(&damaged);
        }
        assert_eq!((not_after(b""), not_after(b"0\x80"), not_after(&[0x30, 0x84, 0, 0, 0, 1, 0])), (None, None, None));
        for text in ["", "Z", "270301000000", "2703010000Z", "271301000000Z", "27030100000aZ", "+70301000000Z"] {
            let years = seconds(UTC_TIME, text.as_bytes());
            assert!(years.is_none() || text.starts_with('+'), "{text}");
        }
    }
}

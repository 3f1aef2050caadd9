//! Names and numbers of a log's files. No I/O.
//!
//! ```text
//! DATA/LOCK  META  _journal/  _quarantine/  _rejected/<reason>/
//! DATA/<token>/00000000000000000000.log     offset 0 ..= 99     position 0 ..= 99
//!              00000000000000000000.idx     its index; see index.rs
//!              00000000000000000100.log     offset 100 ..       position 0 ..
//!              current                      hard link to the newest of them
//! ```
//! A segment is named by its base, the offset of its first byte, in 20 decimal digits: as many as any offset can have,
//! so that names sort like numbers. `base + size` is the base of the next segment.

mod appender;
pub mod checksum;
pub mod index;
pub mod journal;
pub mod meta;

pub use appender::{AppendOp, Appended, Appender, FileId, Restaged, SegmentLimits, Wrote};
pub use index::IndexBlock;
pub use meta::Meta;

use std::fmt;

use crate::wire::{Reject, Token};
use journal::{RunId, SegmentNumber};

/// Hard link to the active segment, for `tail -F`.
pub const CURRENT: &str = "current";
/// The same link while it is made; renamed over [`CURRENT`].
pub const CURRENT_NEW: &str = "current.new";
/// Locked by the engine that uses the data directory.
pub const LOCK: &str = "LOCK";
/// Format version and node id of the data directory.
pub const META: &str = "META";
/// The same while it is written; renamed to [`META`].
pub const META_NEW: &str = "META.new";
/// Directory of the commit journals.
pub const JOURNAL: &str = "_journal";
/// In there: room on the disk for when it is full.
pub const RESERVE: &str = "reserve";
/// Directory of the bytes that recovery could not vouch for.
pub const QUARANTINE: &str = "_quarantine";
/// Directory of the lines that named no log, where they are kept: a log for each reason.
pub const REJECTED: &str = "_rejected";

/// Names in the data directory that begin with this are the engine's own and never a log.
const RESERVED_PREFIX: char = '_';
const BASE_DIGITS: usize = 20;
const SUFFIX: &str = ".log";
const INDEX_SUFFIX: &str = ".idx";
const PACKED_SUFFIX: &str = ".log.zst";
const PACKING_SUFFIX: &str = ".log.zst.tmp";

/// Which log: where in the data directory its segments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogName {
    /// The entries of a token.
    Token(Token),
    /// Whole lines that were rejected for one of [`Reject::NO_LOG`].
    Rejected(Reject),
}

impl LogName {
    /// The token, if it is one's log.
    #[must_use]
    pub fn token(self) -> Option<Token> {
        match self {
            Self::Token(token) => Some(token),
            Self::Rejected(_) => None,
        }
    }

    /// For log lines and errors: without a whole token.
    #[must_use]
    pub fn shortened(self) -> String {
        match self {
            Self::Token(token) => token.shortened(),
            Self::Rejected(_) => self.to_string(),
        }
    }
}

impl From<Token> for LogName {
    fn from(token: Token) -> Self {
        Self::Token(token)
    }
}

impl fmt::Display for LogName {
    /// The path in the data directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => token.fmt(f),
            Self::Rejected(reason) => write!(f, "{REJECTED}/{}", reason.name()),
        }
    }
}

/// Ordinal of a byte in its log, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

/// Ordinal of a byte in its file, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u64);

impl Offset {
    /// The first byte of every log.
    pub const START: Self = Self(0);

    /// Where this byte is in the segment that begins at `base`, which must not be above it.
    #[must_use]
    pub fn in_segment(self, base: Self) -> Position {
        debug_assert!(base <= self, "{self:?} is before the segment at {base:?}");
        Position(self.0 - base.0)
    }
}

impl Position {
    /// The first byte of every file.
    pub const START: Self = Self(0);

    /// Which byte of the log this is in the segment that begins at `base`; `None` past the largest offset.
    #[must_use]
    pub fn in_log(self, base: Offset) -> Option<Offset> {
        base.0.checked_add(self.0).map(Offset)
    }
}

/// File name of the segment that begins at `base`.
#[must_use]
pub fn segment_name(base: Offset) -> String {
    format!("{:0BASE_DIGITS$}{SUFFIX}", base.0)
}

/// File name of that segment's index.
#[must_use]
pub fn index_name(base: Offset) -> String {
    format!("{:0BASE_DIGITS$}{INDEX_SUFFIX}", base.0)
}

/// File name of that segment when it is compressed.
#[must_use]
pub fn packed_name(base: Offset) -> String {
    format!("{:0BASE_DIGITS$}{PACKED_SUFFIX}", base.0)
}

/// The same while it is made; renamed to [`packed_name`].
#[must_use]
pub fn packing_name(base: Offset) -> String {
    format!("{:0BASE_DIGITS$}{PACKING_SUFFIX}", base.0)
}

/// The base of the segment with this file name; `None` for every other name.
#[must_use]
pub fn parse_segment_name(name: &str) -> Option<Offset> {
    parse_base(name, SUFFIX)
}

/// The base of the segment whose index has this file name.
#[must_use]
pub fn parse_index_name(name: &str) -> Option<Offset> {
    parse_base(name, INDEX_SUFFIX)
}

/// The base of the segment that is compressed in the file of this name.
#[must_use]
pub fn parse_packed_name(name: &str) -> Option<Offset> {
    parse_base(name, PACKED_SUFFIX)
}

/// The base of the segment whose compression this file was to become.
#[must_use]
pub fn parse_packing_name(name: &str) -> Option<Offset> {
    parse_base(name, PACKING_SUFFIX)
}

fn parse_base(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    let is_base = digits.len() == BASE_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_base { digits.parse().ok().map(Offset) } else { None }
}

/// File name in [`QUARANTINE`] of what was cut off a segment at this position.
#[must_use]
pub fn quarantine_name(log: LogName, base: Offset, position: Position) -> String {
    let log = log.to_string().replace('/', "-");
    format!("{log}-{:0BASE_DIGITS$}-{}", base.0, position.0)
}

/// The name of the `count`th file in [`QUARANTINE`] that should have this one, counted from 1.
#[must_use]
pub fn counted_name(name: &str, count: u64) -> String {
    if count == 1 { name.to_owned() } else { format!("{name}-{count}") }
}

/// File name in [`QUARANTINE`] of a segment that was given up, and whose name was needed again: in which run, and its number
/// in the journal.
#[must_use]
pub fn given_up_name(log: LogName, base: Offset, (run, number): (RunId, SegmentNumber)) -> String {
    let RunId { run, epoch_micros } = run;
    format!("{}-run{run}-{epoch_micros}-{}", quarantine_name(log, base, Position::START), number.0)
}

/// Which segment of a log, and of which base, has this file name in [`QUARANTINE`]. What the run left there before under the
/// same name has a count behind that.
#[must_use]
pub fn parse_given_up_name(name: &str, log: LogName) -> Option<(Offset, (RunId, SegmentNumber))> {
    let rest = name.strip_prefix(&log.to_string().replace('/', "-"))?.strip_prefix('-')?;
    let (base, rest) = rest.split_at_checked(BASE_DIGITS)?;
    let mut numbers = rest.strip_prefix("-0-run")?.split('-').map(|digits| {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| is_number)
    });
    let mut number = || numbers.next().flatten();
    let run = RunId { run: u32::try_from(number()?).ok()?, epoch_micros: number()? };
    let which = (run, SegmentNumber(u32::try_from(number()?).ok()?));
    let is_counted = numbers.next().is_none_or(|count| count.is_some()) && numbers.next().is_none();
    Some((parse_base(base, "")?, which)).filter(|_| is_counted)
}

/// How a segment lies on the disk; for a moment in both forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it was written.
    Text,
    /// Compressed.
    Packed,
}

impl Form {
    /// The name of the file.
    #[must_use]
    pub fn name(self, base: Offset) -> String {
        match self {
            Self::Text => segment_name(base),
            Self::Packed => packed_name(base),
        }
    }
}

/// Whether a name in the data directory is the engine's own and not a log's.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX) || [LOCK, META, META_NEW].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_like_numbers_and_come_back() {
        let bases = [0, 1, 9, 10, 268_435_456, u64::MAX].map(Offset);
        let names = bases.map(segment_name);
        assert_eq!(names[0], "00000000000000000000.log");
        assert!(names.is_sorted());
        assert_eq!(names.each_ref().map(|name| parse_segment_name(name)), bases.map(Some));
        assert_eq!(bases.map(index_name).each_ref().map(|name| parse_index_name(name)), bases.map(Some));
        assert_eq!(bases.map(packed_name).each_ref().map(|name| parse_packed_name(name)), bases.map(Some));
        assert_eq!(bases.map(packing_name).each_ref().map(|name| parse_packing_name(name)), bases.map(Some));
    }

    #[test]
    fn other_names_are_no_segments() {
        for name in [
            "",
            ".log",
            "0.log",
            "00000000000000000000",
            "00000000000000000000.log.zst",
            "00000000000000000000.idx",
            "000000000000000000000.log",
            "+0000000000000000001.log",
            "0000000000000000000x.log",
            "18446744073709551616.log",
            "current",
        ] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
    }

    #[test]
    fn rejected_lines_have_a_place_of_their_own() {
        let name = LogName::Rejected(Reject::NoToken);
        assert_eq!((name.to_string(), is_reserved(REJECTED)), ("_rejected/no_token".into(), true));
        let cut = quarantine_name(name, Offset(7), Position(3));
        assert_eq!(cut, "_rejected-no_token-00000000000000000007-3");
        let run = RunId { run: 12, epoch_micros: 1_700_000_000_000_000 };
        let given_up = given_up_name(name, Offset(7), (run, SegmentNumber(4)));
        assert_eq!(given_up, "_rejected-no_token-00000000000000000007-0-run12-1700000000000000-4");
        for (more, number) in
            [("", Some(4)), ("-2", Some(4)), ("2", Some(42)), ("-", None), ("-2-2", None), ("-recovered", None)]
        {
            let which = number.map(|number| (Offset(7), (run, SegmentNumber(number))));
            assert_eq!(parse_given_up_name(&(given_up.clone() + more), name), which, "{more}");
        }
        assert_eq!(parse_given_up_name(&given_up, LogName::Rejected(Reject::UnknownToken)), None);
        assert_eq!(parse_given_up_name(&cut, name), None);
        let token = Token::from_bytes([0xab; 16]);
        assert_eq!((LogName::from(token).shortened(), name.shortened()), ("abababab…".into(), name.to_string()));
    }

    #[test]
    fn offsets_and_positions_convert_by_base() {
        assert_eq!(Offset(130).in_segment(Offset(100)), Position(30));
        assert_eq!(Position(30).in_log(Offset(100)), Some(Offset(130)));
        assert_eq!(Position(1).in_log(Offset(u64::MAX)), None);
    }
}

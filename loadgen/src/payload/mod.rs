//! The bytes of lines and entries: rendering a batch in place, and parsing an entry back.
//!
//! ```text
//!  entry   IIIIIISSSSSSTTTTTTT KKKKKK text …
//!          │     │     │       └ checksum: crc32c of identity, text, sequence and time
//!          │     │     └ intended send time, microseconds since the start of the run
//!          │     └ sequence of the entry in its connection, from 0
//!          └ identity: run and connection         all of them numbers to the base of 64, of fixed width
//!
//!  line    start:   TOKEN SP entry LF
//!          middle:  first half of the entry SP TOKEN SP second half LF   (the entry keeps one of the two blanks)
//!          end:     entry SP TOKEN LF
//! ```
//!
//! An entry describes itself, so a reader needs nothing but the entry. The digits are those of crypt(3), in the order of
//! their bytes; a 64-byte line leaves an entry 26 bytes, which hexadecimal fields would not fit in.
//!
//! | module | for |
//! | --- | --- |
//! | [`fields`] | the numbers in an entry, and reading it back |
//! | [`render`] | a batch of lines, patched in place |
//! | [`text`] | what fills an entry up to its size |

pub mod fields;
pub mod render;
pub mod text;

use std::ops::RangeInclusive;
use std::sync::Arc;

pub use fields::{Parsed, parse};
pub use render::Renderer;

use fields::FIELDS_BYTES;

use crate::tokens::Token;

/// Smallest line: an entry without text, a token, the blank between them, LF.
pub const SIZE_BYTES_MIN: usize = FIELDS_BYTES + WRAP_BYTES;
/// Largest line: four times what a receiver takes as one line by default.
pub const SIZE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one batch, the unit of a send: enough that the system call no longer counts, and still in a core's cache
/// together with those of some other connections.
pub const BATCH_BYTES: usize = 64 * 1024;

const TOKEN_BYTES: usize = size_of::<Token>();
/// What a line has more than its entry: token, blank, LF.
const WRAP_BYTES: usize = TOKEN_BYTES + 2;

const _: () = assert!(SIZE_BYTES_MIN == 64 && SIZE_BYTES_MIN <= BATCH_BYTES);

/// Where in a line the token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The line begins with it.
    Start,
    /// Behind half of the entry.
    Middle,
    /// The line ends with it.
    End,
    /// Start, middle and end, line by line.
    Mixed,
}

impl Position {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
            Self::Mixed => "mixed",
        }
    }
}

/// What fills an entry behind its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Words of letters and digits.
    Random,
    /// An object as applications log them.
    Json,
    /// A line as web servers log them.
    Apache,
    /// Lines of a file, which have a size of their own.
    Lines(Arc<[String]>),
}

impl Text {
    /// Its name in a report.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Json => "json",
            Self::Apache => "apache",
            Self::Lines(_) => "lines",
        }
    }
}

/// What the lines of a run look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// Bytes of a line, token and LF included; each line draws its own. Not used for [`Text::Lines`].
    pub size: RangeInclusive<usize>,
    /// Where the token stands.
    pub position: Position,
    /// What fills them.
    pub text: Text,
}

impl Lines {
    /// Bytes of the longest line that is possible.
    #[must_use]
    pub fn longest(&self) -> usize {
        match &self.text {
            Text::Lines(lines) => match lines.iter().map(String::len).max().unwrap_or(0) {
                0 => SIZE_BYTES_MIN,
                // With the blank before it.
                most => SIZE_BYTES_MIN + 1 + most,
            },
            _ => *self.size.end(),
        }
    }

    /// The size of all lines, if they have but one.
    #[must_use]
    pub fn only_size(&self) -> Option<usize> {
        let is_one = self.size.start() == self.size.end() && !matches!(self.text, Text::Lines(_));
        is_one.then_some(*self.size.end())
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self { size: 256..=256, position: Position::Start, text: Text::Random }
    }
}

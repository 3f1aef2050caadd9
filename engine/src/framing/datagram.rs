//! The lines of one datagram.
//!
//! ```text
//!  2bfbea1e-… first⏎   at Main.java:7⏎   at …⏎2bfbea1e-… second
//!  └── one line, U+2028 for its inner LFs ──┘ └── another ────┘
//! ```
//! A line without a token shape that is neither blank nor a keepalive continues the line before it, whatever becomes of
//! that one; a blank line and a keepalive are not continued. A missing last LF is normal.

use super::{LineDecoder, LineSink, Mode, State};
use crate::buf::class_for;
use crate::scan;
use crate::wire::entry::{KEEPALIVE, is_blank, strip_cr};

/// Hands on the lines of a datagram.
pub fn feed_datagram(mut data: &[u8], limit: usize, sink: &mut impl LineSink) {
    // As with a frame, the end of each line is known, and it can hold LFs.
    let mut decoder = LineDecoder { mode: Mode::Length(0), state: State::Line, cr: false, carry: None };
    while !data.is_empty() {
        let (line, after) = split_line(data);
        let continued = has_content(line) && continuation(after).is_some();
        data = if continued {
            feed_continued(&mut decoder, line, after, limit, sink)
        } else {
            decoder.end_line(line, limit, sink);
            after
        };
    }
}

/// Joins a line with those that continue it; returns what follows them.
#[cold]
fn feed_continued<'a>(
    decoder: &mut LineDecoder,
    line: &[u8],
    mut after: &'a [u8],
    limit: usize,
    sink: &mut impl LineSink,
) -> &'a [u8] {
    let mut joined = sink.memory().take(class_for(line.len() + 1 + after.len()));
    joined.push(line);
    while let Some((next, behind)) = continuation(after) {
        joined.push(b"\n");
        joined.push(next);
        after = behind;
    }
    decoder.end_line(joined.content(), limit, sink);
    sink.memory().give(joined);
    after
}

/// The line at the front if it continues the one before it, and what follows it.
fn continuation(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, after) = split_line(data);
    (has_content(line) && scan::find_token(line, 0).is_none()).then_some((line, after))
}

fn has_content(line: &[u8]) -> bool {
    !is_blank(line) && line != KEEPALIVE
}

/// The line at the front, its end removed, and what follows it.
fn split_line(data: &[u8]) -> (&[u8], &[u8]) {
    match scan::find_lf(data) {
        Some(end) => (strip_cr(&data[..end]), &data[end + 1..]),
        None => (strip_cr(data), &[]),
    }
}

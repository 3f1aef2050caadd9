//! Octet counting (RFC 6587), and how a connection's first bytes choose between it and lines.
//!
//! ```text
//!  67 <13>Nov 23 02:29:45 host app: 2bfbea1e-…882e1f x⏎36 2bfbea1e-…
//!  LEN SP FRAME                                        LEN SP FRAME
//! ```
//! A frame is a line, whatever it holds; one LF or CRLF at its end goes. It takes the same way through the carry as a line
//! that ends with LF, only its end is known beforehand: by `Mode::Frame`, the bytes of it that are still to come.
//!
//! Invariant: a frame of which nothing has come yet has no carry, no waiting CR, and is in no piece.

use super::{Foreign, LineDecoder, LineSink, Mode, State};
use crate::buf::{BufferPool, WriteBuf};
use crate::limits::LINE_BYTES_MAX_MIN;
use crate::scan;
use crate::wire::entry::{TLS_HELLO, is_http_request, strip_cr};
use crate::wire::token::{DASHES, TOKEN_BYTES};

/// Largest length of a frame: seven digits.
const FRAME_BYTES_MAX: u32 = 9_999_999;
const LENGTH_DIGITS_MAX: usize = 7;
/// So many first bytes always decide: a length, the space, and a token.
const OPENING_BYTES: usize = LENGTH_DIGITS_MAX + 1 + TOKEN_BYTES;

// A line could not become too long while it is undecided what it is.
const _: () = assert!(OPENING_BYTES as u64 <= LINE_BYTES_MAX_MIN);

/// The first bytes of a connection, while they do not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    bytes: [u8; OPENING_BYTES],
    length: u8,
}

impl Default for Opening {
    fn default() -> Self {
        Self { bytes: [0; OPENING_BYTES], length: 0 }
    }
}

impl Opening {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Takes as many bytes as it has room for; returns the others.
    fn take<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let from = usize::from(self.length);
        let (now, later) = input.split_at(input.len().min(OPENING_BYTES - from));
        self.bytes[from..from + now.len()].copy_from_slice(now);
        self.length = u8::try_from(from + now.len()).expect("an opening has 44 bytes at most");
        later
    }
}

/// Whether a connection that begins like this counts octets; `None` while it may turn out either way.
///
/// Ten of sixteen tokens begin with a digit, so a length alone says nothing: `<digit` or a token has to follow.
fn counts_octets(first: &[u8]) -> Option<bool> {
    let digits = first.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > LENGTH_DIGITS_MAX || first.first() == Some(&b'0') {
        return Some(false);
    }
    let (&space, frame) = first[digits..].split_first()?;
    if digits == 0 || space != b' ' {
        return Some(false);
    }
    match frame {
        [] | [b'<'] => None,
        [b'<', next, ..] => Some(next.is_ascii_digit()),
        _ => {
            let begins_token = frame.iter().take(TOKEN_BYTES).enumerate().all(|(at, byte)| match byte {
                b'-' => DASHES.contains(&at),
                _ => byte.is_ascii_hexdigit() && !DASHES.contains(&at),
            });
            if begins_token && frame.len() < TOKEN_BYTES { None } else { Some(begins_token) }
        }
    }
}

impl LineDecoder {
    /// The first bytes of a connection that may count octets or not.
    #[cold]
    pub(super) fn feed_opening(
        &mut self,
        mut opening: Opening,
        input: &[u8],
        limit: usize,
        sink: &mut impl LineSink,
    ) -> Result<(), Foreign> {
        let later = opening.take(input);
        let Some(octets) = counts_octets(opening.bytes()) else {
            debug_assert!(later.is_empty(), "as many bytes as an opening holds always decide");
            self.mode = Mode::Undecided(opening);
            return Ok(());
        };
        if octets {
            self.mode = Mode::Length(0);
            self.feed_frames(opening.bytes(), limit, sink)?;
            self.feed_frames(later, limit, sink)
        } else {
            self.settle_for_lines(opening, limit, sink)?;
            self.feed_lines(later, limit, sink)
        }
    }

    /// No octet counting: the first bytes are the start of a line.
    pub(super) fn settle_for_lines(
        &mut self,
        opening: Opening,
        limit: usize,
        sink: &mut impl LineSink,
    ) -> Result<(), Foreign> {
        self.mode = Mode::Lf;
        if opening.bytes().is_empty() { Ok(()) } else { self.feed_lines(opening.bytes(), limit, sink) }
    }

    pub(super) fn feed_frames(
        &mut self,
        mut input: &[u8],
        limit: usize,
        sink: &mut impl LineSink,
    ) -> Result<(), Foreign> {
        if self.mode == Mode::Bad {
            return Err(Foreign::BadFrame);
        }
        if self.state == State::Start && !input.is_empty() {
            if self.carry.is_some() || !matches!(input[0], b'1'..=b'9') {
                return self.feed_request(input, limit, sink.memory());
            }
            self.state = State::Line;
        }
        while !input.is_empty() {
            input = match self.mode {
                Mode::Length(value) => self.feed_length(value, input)?,
                Mode::Frame(left) => self.feed_frame(left as usize, input, limit, sink),
                Mode::Lf | Mode::Bad | Mode::Undecided(_) => return Err(Foreign::BadFrame),
            };
        }
        Ok(())
    }

    /// No length at the start of the connection: it ends, but what it was may take a whole line to tell.
    #[cold]
    fn feed_request(&mut self, input: &[u8], limit: usize, memory: &mut BufferPool) -> Result<(), Foreign> {
        let carried = self.carry.as_ref().map_or(&[][..], WriteBuf::content);
        let mut first_bytes = carried.iter().chain(input).copied();
        let two = (first_bytes.next(), first_bytes.next());
        let undecided = match two {
            (Some(first), None) if first == TLS_HELLO[0] => true,
            (Some(first), Some(second)) if [first, second] == TLS_HELLO => return Err(Foreign::Tls),
            (first, _) => first.is_some_and(|first| first.is_ascii_uppercase()),
        };
        let end = scan::find_lf(input);
        let line = &input[..end.unwrap_or(input.len())];
        // One byte more than the limit can be a CR that is not counted.
        if !undecided || carried.len() + line.len() > limit + 1 {
            return Err(Foreign::BadFrame);
        }
        self.keep(line, memory);
        if end.is_some() { Err(self.request_or_bad_frame(limit)) } else { Ok(()) }
    }

    fn request_or_bad_frame(&self, limit: usize) -> Foreign {
        let line = strip_cr(self.carry.as_ref().map_or(&[][..], WriteBuf::content));
        if line.len() <= limit && is_http_request(line) { Foreign::Http } else { Foreign::BadFrame }
    }

    /// Whether the carry holds what is no frame but may be an HTTP request.
    pub(super) fn may_be_request(&self) -> bool {
        self.state == State::Start && self.mode != Mode::Lf
    }

    /// Reads the length of a frame as far as it is here.
    fn feed_length<'a>(&mut self, mut value: u32, input: &'a [u8]) -> Result<&'a [u8], Foreign> {
        for (at, &byte) in input.iter().enumerate() {
            match byte {
                b'0'..=b'9' if value <= FRAME_BYTES_MAX / 10 && (value > 0 || byte != b'0') => {
                    value = value * 10 + u32::from(byte - b'0');
                }
                b' ' if value > 0 => {
                    self.mode = Mode::Frame(value);
                    return Ok(&input[at + 1..]);
                }
                _ => {
                    self.mode = Mode::Bad;
                    return Err(Foreign::BadFrame);
                }
            }
        }
        self.mode = Mode::Length(value);
        Ok(&[])
    }

    /// Takes what is here of a frame of which `left` bytes are still to come; returns what follows it.
    fn feed_frame<'a>(&mut self, left: usize, input: &'a [u8], limit: usize, sink: &mut impl LineSink) -> &'a [u8] {
        let (part, rest) = input.split_at(input.len().min(left));
        if part.len() < left {
            self.mode = Mode::Frame(u32::try_from(left - part.len()).expect("less than the frame had"));
            self.keep_or_cut(part, limit, sink);
            return rest;
        }
        self.mode = Mode::Length(0);
        let untouched = self.carry.is_none() && !self.cr && self.state == State::Line;
        if untouched {
            let line = part.strip_suffix(b"\n").map_or(part, strip_cr);
            self.end_line(line, limit, sink);
            return rest;
        }
        if let Some(content) = part.strip_suffix(b"\n") {
            self.keep_or_cut(content, limit, sink);
            // A CR that waits was part of the frame's end.
            self.cr = false;
        } else {
            self.keep_or_cut(part, limit, sink);
            if std::mem::take(&mut self.cr) {
                self.keep_content(b"\r", limit, sink);
            }
        }
        match self.carry.take() {
            Some(carry) => {
                self.end_line(carry.content(), limit, sink);
                sink.memory().give(carry);
            }
            None => self.end_line(&[], limit, sink),
        }
        rest
    }

    /// Whether a length or a frame has begun that somebody would want.
    pub(super) fn has_begun_frame(&self) -> bool {
        match self.mode {
            Mode::Length(value) => value > 0,
            Mode::Frame(_) => self.state != State::Skip,
            Mode::Undecided(opening) => !opening.bytes().is_empty(),
            Mode::Lf | Mode::Bad => false,
        }
    }

    /// The connection ends in order; says whether that cuts a frame short.
    #[cold]
    pub(super) fn finish_frames(&mut self, limit: usize, memory: &mut BufferPool) -> Result<bool, Foreign> {
        if self.mode == Mode::Bad || (self.state == State::Start && self.carry.is_some()) {
            return Err(self.request_or_bad_frame(limit));
        }
        Ok(self.abandon(memory))
    }
}

//! From bytes in any pieces to lines.
//!
//! ```text
//!  received buffers     …a\nbbb | bb\ncc\ndddd | dd…
//!  in place                       cc                 whole lines inside one buffer: no copy
//!  through the carry         bbb+bb     dddd+dd      lines across buffers: joined first
//! ```
//! A line longer than the limit is handed on in pieces of exactly the limit: the first decides whether the sink wants
//! the others. Bytes after which a line may still turn out to fit are kept: `limit` bytes and a CR.
//!
//! Invariant: between calls the carry holds an unfinished line, at most `limit + 1` bytes, and those only if the last
//! one is a CR; no carry exists while nothing is unfinished.
//!
//! Split invariance: the sink sees the same calls however the stream is cut into buffers.

use crate::buf::{BufferPool, WriteBuf, class_for};
use crate::scan::{self, LineMark};
use crate::wire::Token;
use crate::wire::entry::{TLS_HELLO, is_http_request, strip_cr};

/// Whole lines marked at once: enough to leave the scan's loop rarely, few enough to stay in the first-level cache.
const MARKS: usize = 128;

/// Another protocol on a token port: nothing of it is stored and the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// The first line is an HTTP/1 request.
    Http,
    /// The first two bytes open a TLS handshake.
    Tls,
}

/// Takes the lines of one connection.
pub trait LineSink {
    /// A whole line, its LF and one CR before it removed, with its token if it begins with one.
    fn line(&mut self, line: &[u8], token: Option<Token>);
    /// The first piece of a line that is too long; says whether the further pieces are wanted.
    fn first_piece(&mut self, piece: &[u8]) -> bool;
    /// A further piece of the line that [`LineSink::first_piece`] wanted.
    fn further_piece(&mut self, piece: &[u8]);
    /// The memory for unfinished lines.
    fn memory(&mut self) -> &mut BufferPool;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The connection's first line: it may be another protocol.
    Start,
    /// At or in a line of which nothing has been handed on.
    Line,
    /// In a line whose first piece was handed on and wanted.
    Pieces,
    /// In a line whose rest nobody wants.
    Skip,
}

/// Cuts one connection's bytes into lines.
#[derive(Debug)]
pub struct LineDecoder {
    state: State,
    carry: Option<WriteBuf>,
}

impl Default for LineDecoder {
    fn default() -> Self {
        Self { state: State::Start, carry: None }
    }
}

impl LineDecoder {
    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    ///
    /// The connection speaks another protocol; all that is left to do is [`LineDecoder::abandon`].
    pub fn feed(&mut self, mut input: &[u8], limit: usize, sink: &mut impl LineSink) -> Result<(), Foreign> {
        if self.state == State::Start {
            input = self.feed_first_line(input, limit, sink)?;
        }
        if self.state == State::Skip {
            input = self.skip(input);
        }
        if self.carry.is_some() || self.state == State::Pieces {
            input = self.feed_carry(input, limit, sink);
        }
        self.feed_in_place(input, limit, sink);
        Ok(())
    }

    /// Ends the connection in order: an unterminated rest is a line too.
    ///
    /// # Errors
    ///
    /// The rest is another protocol's first line.
    pub fn finish(&mut self, limit: usize, sink: &mut impl LineSink) -> Result<(), Foreign> {
        let Some(carry) = self.carry.take() else { return Ok(()) };
        let line = strip_cr(carry.content());
        let foreign = self.state == State::Start && line.len() <= limit && is_http_request(line);
        if !foreign {
            self.end_line(line, limit, sink);
        }
        sink.memory().give(carry);
        if foreign { Err(Foreign::Http) } else { Ok(()) }
    }

    /// Ends the connection at an arbitrary byte: an unterminated rest is dropped. Says whether there was one.
    pub fn abandon(&mut self, memory: &mut BufferPool) -> bool {
        match self.carry.take() {
            Some(carry) => {
                memory.give(carry);
                true
            }
            None => false,
        }
    }

    /// Treats the unfinished line as if it had reached the limit, to free its memory.
    pub fn cut_early(&mut self, sink: &mut impl LineSink) {
        let Some(mut carry) = self.carry.take() else { return };
        let piece = strip_cr(carry.content());
        let length = piece.len();
        if length > 0 {
            self.hand_on(piece, sink);
        }
        // A CR at the end may belong to the line's end.
        if self.state != State::Skip && carry.content().len() > length {
            carry.drop_front(length);
            self.carry = Some(carry);
            self.shrink_carry(sink.memory());
        } else {
            sink.memory().give(carry);
        }
    }

    /// The carry's size class, if there is one: what an unfinished line costs.
    #[must_use]
    pub fn carry_class(&self) -> Option<usize> {
        self.carry.as_ref().map(WriteBuf::class)
    }

    /// Judges the first line once it has ended; returns the bytes that are left to take, its LF at least.
    #[cold]
    #[inline(never)]
    fn feed_first_line<'a>(
        &mut self,
        mut input: &'a [u8],
        limit: usize,
        sink: &mut impl LineSink,
    ) -> Result<&'a [u8], Foreign> {
        let carried = self.carry.as_ref().map_or(&[][..], WriteBuf::content);
        let mut first_bytes = carried.iter().chain(input);
        if carried.len() < TLS_HELLO.len() && TLS_HELLO.iter().all(|byte| first_bytes.next() == Some(byte)) {
            return Err(Foreign::Tls);
        }
        let Some(end) = scan::find_lf(input) else {
            self.keep_or_cut(input, limit, sink);
            return Ok(&[]);
        };
        if carried.len() + end <= limit + 1 {
            self.keep(&input[..end], sink.memory());
            let carry = self.carry.as_ref().map_or(&[][..], WriteBuf::content);
            let line = strip_cr(carry);
            if line.len() <= limit && is_http_request(line) {
                return Err(Foreign::Http);
            }
            input = &input[end..];
        }
        self.state = State::Line;
        Ok(input)
    }

    /// Drops bytes up to the end of a line that nobody wants.
    fn skip<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        match scan::find_lf(input) {
            Some(end) => {
                self.state = State::Line;
                &input[end + 1..]
            }
            None => &[],
        }
    }

    /// Completes the unfinished line, if its LF is here, and returns what follows it.
    fn feed_carry<'a>(&mut self, input: &'a [u8], limit: usize, sink: &mut impl LineSink) -> &'a [u8] {
        let Some(end) = scan::find_lf(input) else {
            self.keep_or_cut(input, limit, sink);
            return &[];
        };
        self.keep_or_cut(&input[..end], limit, sink);
        if let Some(carry) = self.carry.take() {
            self.end_line(strip_cr(carry.content()), limit, sink);
            sink.memory().give(carry);
        }
        self.state = State::Line;
        &input[end + 1..]
    }

    /// Hands on the whole lines of a buffer where they are, and keeps the rest.
    fn feed_in_place(&mut self, mut input: &[u8], limit: usize, sink: &mut impl LineSink) {
        let mut marks = [LineMark::EMPTY; MARKS];
        loop {
            let count = scan::mark_lines(input, &mut marks);
            let mut start = 0;
            for mark in &marks[..count] {
                let line = strip_cr(&input[start..mark.end as usize]);
                start = mark.end as usize + 1;
                if line.len() <= limit {
                    sink.line(line, mark.token);
                } else {
                    self.end_line(line, limit, sink);
                }
            }
            input = &input[start..];
            if count < MARKS {
                break;
            }
        }
        if !input.is_empty() {
            self.keep_or_cut(input, limit, sink);
        }
    }

    /// The end of a line (terminator removed): whole, or the last of its pieces.
    fn end_line(&mut self, mut line: &[u8], limit: usize, sink: &mut impl LineSink) {
        while line.len() > limit {
            let (piece, rest) = line.split_at(limit);
            self.hand_on(piece, sink);
            line = rest;
        }
        match self.state {
            State::Start | State::Line => sink.line(line, scan::token_at_start(line)),
            State::Pieces if !line.is_empty() => sink.further_piece(line),
            State::Pieces | State::Skip => {}
        }
        self.state = State::Line;
    }

    /// More bytes of an unfinished line: hands on what is certainly too long, keeps the rest.
    fn keep_or_cut(&mut self, mut bytes: &[u8], limit: usize, sink: &mut impl LineSink) {
        while self.state != State::Skip && !bytes.is_empty() {
            let carried = self.carry.as_ref().map_or(0, |carry| carry.content().len());
            let take = bytes.len().min((limit + 1).saturating_sub(carried));
            let (now, later) = bytes.split_at(take);
            self.keep(now, sink.memory());
            bytes = later;
            let Some(carry) = self.carry.take_if(|carry| {
                let content = carry.content();
                content.len() > limit && (!later.is_empty() || content.last() != Some(&b'\r'))
            }) else {
                continue;
            };
            self.cut_carry(carry, limit, sink);
        }
    }

    /// Hands on the first `limit` bytes of the carry as a piece.
    fn cut_carry(&mut self, mut carry: WriteBuf, limit: usize, sink: &mut impl LineSink) {
        self.hand_on(&carry.content()[..limit], sink);
        if self.state == State::Skip {
            sink.memory().give(carry);
        } else {
            carry.drop_front(limit);
            self.carry = Some(carry);
        }
    }

    fn hand_on(&mut self, piece: &[u8], sink: &mut impl LineSink) {
        match self.state {
            State::Start | State::Line => {
                self.state = if sink.first_piece(piece) { State::Pieces } else { State::Skip };
            }
            State::Pieces => sink.further_piece(piece),
            State::Skip => {}
        }
    }

    fn keep(&mut self, bytes: &[u8], memory: &mut BufferPool) {
        if bytes.is_empty() {
            return;
        }
        let carry = match self.carry.take() {
            None => memory.take(class_for(bytes.len())),
            Some(carry) if carry.room() >= bytes.len() => carry,
            Some(carry) => {
                let class = class_for(carry.content().len() + bytes.len());
                memory.grow(carry, class)
            }
        };
        self.carry.insert(carry).push(bytes);
    }

    fn shrink_carry(&mut self, memory: &mut BufferPool) {
        if let Some(large) = self.carry.take() {
            let mut small = memory.take(class_for(large.content().len()));
            small.push(large.content());
            memory.give(large);
            self.carry = Some(small);
        }
    }
}

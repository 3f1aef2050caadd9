//! From bytes in any pieces to lines.
//!
//! ```text
//!  received buffers     …a\nbbb | bb\ncc\ndddd | dd…
//!  in place                       cc                 whole lines inside one buffer: no copy
//!  through the carry         bbb+bb     dddd+dd      lines across buffers: joined first
//! ```
//! A line longer than the limit is handed on in pieces of exactly the limit: the first decides whether the sink wants
//! the others. A CR at the end of a buffer may belong to the line's end or to its content: `cr` remembers it until the
//! next byte tells, so that it costs no memory.
//!
//! Invariant: between calls the carry holds bytes of an unfinished line that are certainly content, 1 to `limit` of them;
//! no carry exists while there are none.
//!
//! Split invariance: the sink sees the same calls however the stream is cut into buffers.

use crate::buf::{BufferPool, WriteBuf, class_for};
use crate::scan::{self, LineMark};
use crate::wire::Token;
use crate::wire::entry::{TLS_HELLO, is_http_request, strip_cr};

/// Whole lines marked at once: enough to leave the scan's loop rarely, few enough to stay in the first-level cache.
const MARKS: usize = 64;

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
    ///
    /// The token comes by reference: copied with its `Option` it is loaded across the pieces in which it was stored, and
    /// that load waits for all stores before it (a fifth of the shard's time on 256 B lines, perf on `scripts/bench`).
    fn line(&mut self, line: &[u8], token: Option<&Token>);
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
    /// Behind the carry comes a CR.
    cr: bool,
    carry: Option<WriteBuf>,
}

impl Default for LineDecoder {
    fn default() -> Self {
        Self { state: State::Start, cr: false, carry: None }
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
        if self.carry.is_some() || self.cr || self.state == State::Pieces {
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
        let is_request = |carry: &WriteBuf| is_http_request(carry.content());
        if self.state == State::Start && self.carry.as_ref().is_some_and(is_request) {
            return Err(Foreign::Http);
        }
        self.end_carried_line(limit, sink);
        Ok(())
    }

    /// Ends the connection at an arbitrary byte: an unterminated rest is dropped. Says whether there was one.
    pub fn abandon(&mut self, memory: &mut BufferPool) -> bool {
        let cr = std::mem::take(&mut self.cr);
        match self.carry.take() {
            Some(carry) => {
                memory.give(carry);
                true
            }
            None => cr,
        }
    }

    /// Treats the unfinished line as if it had reached the limit, to free its memory.
    pub fn cut_early(&mut self, sink: &mut impl LineSink) {
        if let Some(carry) = self.carry.take() {
            self.hand_on(carry.content(), sink);
            sink.memory().give(carry);
            self.cr &= self.state != State::Skip;
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
        let few = carried.len() < TLS_HELLO.len() && !self.cr;
        if few && TLS_HELLO.iter().all(|byte| first_bytes.next() == Some(byte)) {
            return Err(Foreign::Tls);
        }
        let Some(end) = scan::find_lf(input) else {
            self.keep_or_cut(input, limit, sink);
            return Ok(&[]);
        };
        let waiting_cr = usize::from(self.cr && end > 0);
        if carried.len() + waiting_cr + strip_cr(&input[..end]).len() <= limit {
            self.keep_or_cut(&input[..end], limit, sink);
            if self.carry.as_ref().is_some_and(|carry| is_http_request(carry.content())) {
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
        self.end_carried_line(limit, sink);
        self.state = State::Line;
        &input[end + 1..]
    }

    /// The unfinished line ends here; a CR behind it was part of its end.
    fn end_carried_line(&mut self, limit: usize, sink: &mut impl LineSink) {
        let cr = std::mem::take(&mut self.cr);
        match self.carry.take() {
            Some(carry) => {
                self.end_line(carry.content(), limit, sink);
                sink.memory().give(carry);
            }
            None if cr => self.end_line(&[], limit, sink),
            None => {}
        }
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
                    sink.line(line, mark.token.as_ref());
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
            State::Start | State::Line => sink.line(line, scan::token_at_start(line).as_ref()),
            State::Pieces if !line.is_empty() => sink.further_piece(line),
            State::Pieces | State::Skip => {}
        }
        self.state = State::Line;
    }

    /// More bytes of an unfinished line: hands on what is certainly too long, keeps the rest.
    fn keep_or_cut(&mut self, bytes: &[u8], limit: usize, sink: &mut impl LineSink) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.cr) {
            self.keep_content(b"\r", limit, sink);
        }
        let content = strip_cr(bytes);
        self.keep_content(content, limit, sink);
        self.cr = content.len() < bytes.len() && self.state != State::Skip;
    }

    fn keep_content(&mut self, mut bytes: &[u8], limit: usize, sink: &mut impl LineSink) {
        while self.state != State::Skip && !bytes.is_empty() {
            let carried = self.carry.as_ref().map_or(0, |carry| carry.content().len());
            if carried < limit {
                let (now, later) = bytes.split_at(bytes.len().min(limit - carried));
                self.keep(now, sink.memory());
                bytes = later;
            } else {
                self.cut_full_carry(sink);
            }
        }
    }

    /// Hands on a carry that is full and goes on: its memory serves the next piece.
    fn cut_full_carry(&mut self, sink: &mut impl LineSink) {
        let Some(mut carry) = self.carry.take() else { return };
        self.hand_on(carry.content(), sink);
        if self.state == State::Skip {
            sink.memory().give(carry);
        } else {
            carry.clear();
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
        let carry = self.carry.get_or_insert_with(|| memory.take(class_for(bytes.len())));
        if carry.room() < bytes.len() {
            memory.grow(carry, class_for(carry.content().len() + bytes.len()));
        }
        carry.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what it is given; wants further pieces.
    #[derive(Debug)]
    struct Script {
        calls: Vec<String>,
        memory: BufferPool,
    }

    impl LineSink for Script {
        fn line(&mut self, line: &[u8], _token: Option<&Token>) {
            self.calls.push(format!("line {}", line.escape_ascii()));
        }

        fn first_piece(&mut self, piece: &[u8]) -> bool {
            self.calls.push(format!("first {}", piece.escape_ascii()));
            piece[0] != b'!'
        }

        fn further_piece(&mut self, piece: &[u8]) {
            self.calls.push(format!("further {}", piece.escape_ascii()));
        }

        fn memory(&mut self) -> &mut BufferPool {
            &mut self.memory
        }
    }

    fn decode(pieces: &[&[u8]], limit: usize) -> Vec<String> {
        let mut sink = Script { calls: Vec::new(), memory: BufferPool::new(0) };
        let mut decoder = LineDecoder::default();
        let fed = pieces.iter().try_for_each(|piece| decoder.feed(piece, limit, &mut sink));
        if let Err(foreign) = fed.and_then(|()| decoder.finish(limit, &mut sink)) {
            decoder.abandon(&mut sink.memory);
            sink.calls.push(format!("{foreign:?}"));
        }
        assert_eq!(sink.memory.used(), 0, "every carry was given back");
        sink.calls
    }

    /// In two pieces cut anywhere, and byte by byte, the calls are the same.
    fn decoded(stream: &str, limit: usize) -> Vec<String> {
        let stream = stream.as_bytes();
        let whole = decode(&[stream], limit);
        for cut in 0..=stream.len() {
            assert_eq!(decode(&[&stream[..cut], &stream[cut..]], limit), whole, "cut at {cut}");
        }
        assert_eq!(decode(&stream.chunks(1).collect::<Vec<_>>(), limit), whole, "byte by byte");
        whole
    }

    #[test]
    fn a_line_ends_with_lf_and_one_cr_before_it_goes() {
        assert_eq!(decoded("a\nb\r\n\r\nc\r\r\nd\re", 9), ["line a", "line b", "line ", "line c\\r", "line d\\re"]);
        assert_eq!(decoded("rest\r", 9), ["line rest"]);
        assert_eq!(decoded("", 9), [""; 0]);
    }

    #[test]
    fn a_long_line_comes_in_pieces_of_the_limit() {
        assert_eq!(decoded("abc\nabcd\n", 3), ["line abc", "first abc", "further d"]);
        assert_eq!(decoded("abc\r\nx\n", 3), ["line abc", "line x"]);
        assert_eq!(decoded("abc\rx\r\n", 3), ["first abc", "further \\rx"]);
        assert_eq!(decoded("abc\r\r\n", 3), ["first abc", "further \\r"]);
        assert_eq!(decoded("abcdef\r\ng", 3), ["first abc", "further def", "line g"]);
        assert_eq!(decoded("abcdef\r", 3), ["first abc", "further def"]);
    }

    #[test]
    fn pieces_that_nobody_wants_are_dropped() {
        assert_eq!(decoded("!bcdefghi\nx\n", 3), ["first !bc", "line x"]);
        assert_eq!(decoded("!bcdefghi", 3), ["first !bc"]);
    }

    #[test]
    fn other_protocols_are_recognised_in_the_first_line_only() {
        let request = "GET / HTTP/1.1";
        assert_eq!(decoded("\x16\x03\x01", 99), ["Tls"]);
        assert_eq!(decoded("\x16\n\x16\x03\n", 99), ["line \\x16", "line \\x16\\x03"]);
        assert_eq!(decoded("GET / HTTP/1.1\r\nHost: x\r\n", 99), ["Http"]);
        assert_eq!(decoded("GET / HTTP/1.1\r\n", request.len()), ["Http"], "the limit does not count the CR");
        assert_eq!(decoded("GET / HTTP/1.1", request.len()), ["Http"]);
        assert_eq!(decoded("GET / HTTP/1.1\r\r\n", 99), ["line GET / HTTP/1.1\\r"]);
        assert_eq!(decoded("GET / HTTP/1.1\n", request.len() - 1), ["first GET / HTTP/1.", "further 1"]);
        assert_eq!(decoded("x\nGET / HTTP/1.1\n", 99), ["line x", "line GET / HTTP/1.1"]);
    }

    #[test]
    fn an_early_cut_loses_nothing() {
        for (start, rest, wanted) in [
            ("abc", "def\n", &["first abc", "further def"][..]),
            ("abc\r", "\nx\n", &["first abc", "line x"]),
            ("abc\r", "d\r\n", &["first abc", "further \\rd"]),
            ("!bc\r", "def\nx\n", &["first !bc", "line x"]),
            ("\r", "\nx\n", &["line ", "line x"]),
            ("abc\r", "\rd\n", &["first abc", "further \\r\\rd"]),
        ] {
            let mut sink = Script { calls: Vec::new(), memory: BufferPool::new(0) };
            let mut decoder = LineDecoder::default();
            decoder.feed(start.as_bytes(), 99, &mut sink).expect("Token TCP");
            decoder.cut_early(&mut sink);
            assert_eq!(sink.memory.used(), 0, "a cut frees all memory of the line");
            decoder.feed(rest.as_bytes(), 99, &mut sink).expect("Token TCP");
            assert_eq!(sink.calls, wanted, "{start:?} {rest:?}");
        }
    }
}

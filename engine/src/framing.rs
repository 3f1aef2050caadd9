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
//!
//! Here are lines that end with LF, and what all framings share; `octet` has counted frames and the choice between the
//! two, `datagram` the lines of one datagram, `proxy` what a proxy says first. Those can hold LFs: what the sink is given has U+2028 in their place, and
//! limits are about the bytes before that. It changes no judgement, since neither is a blank or a part of a token.

mod datagram;
mod octet;
mod proxy;

pub use datagram::feed_datagram;
pub use proxy::{BadHeader, ProxyDecoder, ProxyHeader};

use octet::Opening;

use crate::buf::{BufferPool, WriteBuf, class_for};
use crate::scan::{self, LineMark};
use crate::wire::entry::{LINE_SEPARATOR, TLS_HELLO, is_http_request, strip_cr};
use crate::wire::{Reject, Token};

/// Whole lines marked at once: enough to leave the scan's loop rarely, few enough to stay in the first-level cache.
const MARKS: usize = 64;

/// How a listener's connections are cut into lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// LF ends a line.
    #[default]
    Lf,
    /// Octet counting, RFC 6587: `LEN SP FRAME`.
    Octet,
    /// Octet counting if a connection's first bytes say so, else LF.
    Auto,
}

/// Not what the listener speaks: nothing more of it is stored and the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// The first line is an HTTP/1 request.
    Http,
    /// The first two bytes open a TLS handshake.
    Tls,
    /// Where the length of a frame should be there is something else.
    BadFrame,
    /// The first two bytes of a connection to a TLS listener open no handshake.
    NotTls,
    /// No valid PROXY header where there has to be one.
    BadProxy,
}

impl Foreign {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// Its name in log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadProxy => "bad_proxy",
            _ => self.reject().name(),
        }
    }

    /// What the connection's first or last line is counted as.
    #[must_use]
    pub const fn reject(self) -> Reject {
        match self {
            Self::Http => Reject::Http,
            Self::Tls => Reject::TlsOnPlain,
            Self::BadFrame | Self::BadProxy => Reject::BadFrame,
            Self::NotTls => Reject::PlainOnTls,
        }
    }
}

/// Takes the lines of one connection.
pub trait LineSink {
    /// Whole lines of one buffer, none of them too long. Who has something to gain from seeing several at once does it here.
    #[inline]
    fn lines(&mut self, input: &[u8], marks: &[LineMark]) {
        for (line, token) in marked_lines(input, marks) {
            self.line(line, token);
        }
    }

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

/// What comes next, apart from the line in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Lf,
    /// The length of a frame: the value of its digits so far.
    Length(u32),
    /// So many bytes of a frame.
    Frame(u32),
    /// Nothing that could be taken.
    Bad,
    /// It is not known yet whether frames are counted.
    Undecided(Opening),
}

/// The lines that marks tell of, each with its token if it begins with one.
#[inline]
pub fn marked_lines<'a>(
    input: &'a [u8],
    marks: &'a [LineMark],
) -> impl Iterator<Item = (&'a [u8], Option<&'a Token>)> + use<'a> {
    let mut start = 0;
    marks.iter().map(move |mark| {
        let line = strip_cr(&input[start..mark.end as usize]);
        start = mark.end as usize + 1;
        (line, mark.token.as_ref())
    })
}

/// Cuts one connection's bytes into lines.
#[derive(Debug)]
pub struct LineDecoder {
    mode: Mode,
    state: State,
    /// Behind the carry comes a CR.
    cr: bool,
    carry: Option<WriteBuf>,
}

impl Default for LineDecoder {
    fn default() -> Self {
        Self::new(Framing::default())
    }
}

impl LineDecoder {
    /// At the start of a connection.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let mode = match framing {
            Framing::Lf => Mode::Lf,
            Framing::Octet => Mode::Length(0),
            Framing::Auto => Mode::Undecided(Opening::default()),
        };
        Self { mode, state: State::Start, cr: false, carry: None }
    }

    /// Takes the next bytes of the connection.
    ///
    /// # Errors
    ///
    /// The connection speaks another protocol; all that is left to do is [`LineDecoder::abandon`].
    pub fn feed(&mut self, input: &[u8], limit: usize, sink: &mut impl LineSink) -> Result<(), Foreign> {
        match self.mode {
            Mode::Lf => self.feed_lines(input, limit, sink),
            Mode::Undecided(opening) => self.feed_opening(opening, input, limit, sink),
            Mode::Length(_) | Mode::Frame(_) | Mode::Bad => self.feed_frames(input, limit, sink),
        }
    }

    fn feed_lines(&mut self, mut input: &[u8], limit: usize, sink: &mut impl LineSink) -> Result<(), Foreign> {
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

    /// Ends the connection in order: an unterminated rest is a line too, but an unfinished frame is dropped. Says whether
    /// there was one of those.
    ///
    /// # Errors
    ///
    /// The rest is another protocol's first line.
    pub fn finish(&mut self, limit: usize, sink: &mut impl LineSink) -> Result<bool, Foreign> {
        match self.mode {
            Mode::Lf => {}
            Mode::Undecided(opening) => self.settle_for_lines(opening, limit, sink)?,
            Mode::Length(_) | Mode::Frame(_) | Mode::Bad => return self.finish_frames(limit, sink.memory()),
        }
        let is_request = |carry: &WriteBuf| is_http_request(carry.content());
        if self.state == State::Start && self.carry.as_ref().is_some_and(is_request) {
            return Err(Foreign::Http);
        }
        self.end_carried_line(limit, sink);
        Ok(false)
    }

    /// Ends the connection at an arbitrary byte: an unterminated rest is dropped. Says whether there was one.
    pub fn abandon(&mut self, memory: &mut BufferPool) -> bool {
        let cr = std::mem::take(&mut self.cr);
        let begun = self.has_begun_frame();
        match self.carry.take() {
            Some(carry) => {
                memory.give(carry);
                true
            }
            None => cr || begun,
        }
    }

    /// Treats the unfinished line as if it had reached the limit, to free its memory.
    pub fn cut_early(&mut self, sink: &mut impl LineSink) {
        if let Some(carry) = self.carry.take() {
            if self.may_be_request() {
                self.mode = Mode::Bad;
            } else {
                self.hand_on(carry.content(), sink);
            }
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
            let found = &marks[..count];
            if marked_lines(input, found).all(|(line, _)| line.len() <= limit) {
                sink.lines(input, found);
            } else {
                marked_lines(input, found).for_each(|(line, _)| self.end_line(line, limit, sink));
            }
            input = found.last().map_or(input, |mark| &input[mark.end as usize + 1..]);
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
            State::Start | State::Line => {
                self.with_separators(line, sink, |line, sink| sink.line(line, scan::token_at_start(line).as_ref()));
            }
            State::Pieces if !line.is_empty() => self.hand_on(line, sink),
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
                let wanted = self.with_separators(piece, sink, |piece, sink| sink.first_piece(piece));
                self.state = if wanted { State::Pieces } else { State::Skip };
            }
            State::Pieces => self.with_separators(piece, sink, |piece, sink| sink.further_piece(piece)),
            State::Skip => {}
        }
    }

    /// Gives `take` the line with U+2028 in place of every LF.
    fn with_separators<S: LineSink, T>(&self, line: &[u8], sink: &mut S, take: impl FnOnce(&[u8], &mut S) -> T) -> T {
        if self.mode == Mode::Lf || scan::find_lf(line).is_none() {
            return take(line, sink);
        }
        let separators = memchr::memchr_iter(b'\n', line).count();
        let bytes = line.len() + separators * (LINE_SEPARATOR.len() - 1);
        let mut replaced = sink.memory().take(class_for(bytes));
        for (index, part) in line.split(|&byte| byte == b'\n').enumerate() {
            if index > 0 {
                replaced.push(LINE_SEPARATOR);
            }
            replaced.push(part);
        }
        let taken = take(replaced.content(), sink);
        sink.memory().give(replaced);
        taken
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

    fn decode(framing: Framing, pieces: &[&[u8]], limit: usize) -> Vec<String> {
        let mut sink = Script { calls: Vec::new(), memory: BufferPool::new(0) };
        let mut decoder = LineDecoder::new(framing);
        let fed = pieces.iter().try_for_each(|piece| decoder.feed(piece, limit, &mut sink));
        match fed.and_then(|()| decoder.finish(limit, &mut sink)) {
            Ok(false) => {}
            Ok(true) => sink.calls.push("cut".to_owned()),
            Err(foreign) => {
                decoder.abandon(&mut sink.memory);
                sink.calls.push(format!("{foreign:?}"));
            }
        }
        assert_eq!(sink.memory.used(), 0, "every carry was given back");
        sink.calls
    }

    fn decoded(stream: &str, limit: usize) -> Vec<String> {
        decoded_as(Framing::Lf, stream, limit)
    }

    /// In two pieces cut anywhere, and byte by byte, the calls are the same.
    fn decoded_as(framing: Framing, stream: &str, limit: usize) -> Vec<String> {
        let stream = stream.as_bytes();
        let whole = decode(framing, &[stream], limit);
        for cut in 0..=stream.len() {
            assert_eq!(decode(framing, &[&stream[..cut], &stream[cut..]], limit), whole, "cut at {cut}");
        }
        assert_eq!(decode(framing, &stream.chunks(1).collect::<Vec<_>>(), limit), whole, "byte by byte");
        whole
    }

    fn octet(stream: &str, limit: usize) -> Vec<String> {
        decoded_as(Framing::Octet, stream, limit)
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

    #[test]
    fn a_frame_is_a_line_whatever_it_holds() {
        assert_eq!(octet("1 a3 b\nc", 9), ["line a", "line b\\xe2\\x80\\xa8c"]);
        assert_eq!(octet("2 a\n3 b\r\n2 c\r2 \n\n", 9), ["line a", "line b", "line c\\r", "line \\xe2\\x80\\xa8"]);
        assert_eq!(octet("1 \n2 \r\n1 \r4 d\r\r\n", 9), ["line ", "line ", "line \\r", "line d\\r"]);
        assert_eq!(octet("", 9), [""; 0]);
    }

    #[test]
    fn a_long_frame_comes_in_pieces_of_its_own_bytes() {
        assert_eq!(octet("3 abc4 abcd", 3), ["line abc", "first abc", "further d"]);
        assert_eq!(octet("4 abc\n5 abc\r\n5 abc\rd", 3), ["line abc", "line abc", "first abc", "further \\rd"]);
        let separated = ["first \\xe2\\x80\\xa8\\xe2\\x80\\xa8a", "further b\\xe2\\x80\\xa8c", "further d"];
        assert_eq!(octet("8 \n\nab\ncd\n", 3), separated);
        assert_eq!(octet("9 !bcdefghi1 x", 3), ["first !bc", "line x"]);
    }

    #[test]
    fn a_bad_length_ends_the_connection() {
        for bad in ["01 a", "0 ", "a", " 1 a", "1x", "12345678 ", "\n", "<13>", "\x16\x04", "1  a1"] {
            let calls = octet(bad, 99);
            assert_eq!(calls.last().map(String::as_str), Some("BadFrame"), "{bad:?}: {calls:?}");
        }
        assert_eq!(octet("2 ab\n", 9), ["line ab", "BadFrame"]);
        assert_eq!(octet("1 a1 b-1 c", 9), ["line a", "line b", "BadFrame"]);
    }

    #[test]
    fn what_the_end_cuts_short_is_dropped() {
        for cut in ["1", "1234567", "1 ", "9999999 a", "3 ab", "3 a\r", "9 \n"] {
            assert_eq!(octet(cut, 99), ["cut"], "{cut:?}");
            assert_eq!(octet(&format!("2 ab{cut}"), 99), ["line ab", "cut"], "{cut:?}");
        }
        // The pieces that were whole are with the sink, and of what nobody wants nothing is left to drop.
        assert_eq!(octet("9 abcdefg", 3), ["first abc", "further def", "cut"]);
        assert_eq!(octet("9 !bcdefg", 3), ["first !bc"]);
    }

    #[test]
    fn other_protocols_are_recognised_before_the_first_frame_only() {
        assert_eq!(octet("\x16\x03\x01", 99), ["Tls"]);
        for request in ["GET / HTTP/1.1", "GET / HTTP/1.1\r", "PUT / HTTP/1.0\r\nHost: x\r\n"] {
            assert_eq!(octet(request, 14), ["Http"], "{request:?}");
            assert_eq!(octet(request, 13), ["BadFrame"], "{request:?}");
            assert_eq!(octet(&format!("1 a{request}"), 99), ["line a", "BadFrame"], "{request:?}");
        }
        for other in ["GET it\n", "GET / HTTP/1.2", "\x16", "\x16\n", "GE / HTTP/1.1\n"] {
            assert_eq!(octet(other, 99), ["BadFrame"], "{other:?}");
        }
    }

    #[test]
    fn auto_counts_octets_if_the_first_bytes_say_so() {
        const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
        let auto = |stream: &str| decoded_as(Framing::Auto, stream, 99);
        assert_eq!(auto("4 <1>a4 \nb\n\n"), ["line <1>a", "line \\xe2\\x80\\xa8b\\xe2\\x80\\xa8"]);
        assert_eq!(auto(&format!("37 {T}x1")), [format!("line {T}x"), "cut".to_owned()]);
        assert_eq!(auto("1234567 <1>"), ["cut"]);
        for lines in
            ["1234567 <x", "12345678 <1>", "01 <1>", "1 ", "1", "7 <", " 1 <1", &T[..35], "GET /", "<13>4 <1>a"]
        {
            assert_eq!(auto(lines), [format!("line {lines}")], "{lines:?}");
            assert_eq!(auto(&format!("{lines}\nnext")), [format!("line {lines}"), "line next".to_owned()]);
        }
        let nearly = format!("1 {}", T.replace("bdad", "bdag"));
        assert_eq!(auto(&nearly), [format!("line {nearly}")]);
        assert_eq!(auto(&format!("10000{T} x")), [format!("line 10000{T} x")]);
        assert_eq!((auto("\x16\x03"), auto("GET / HTTP/1.1")), (vec!["Tls".to_owned()], vec!["Http".to_owned()]));
        assert_eq!(auto(""), [""; 0]);
    }

    #[test]
    fn a_frame_cut_early_goes_on_in_pieces() {
        for (start, rest, wanted) in [
            ("9 abc", "def\nx\n", &["first abc", "further def\\xe2\\x80\\xa8x"][..]),
            ("5 abc\r", "\n1 x", &["first abc", "line x"]),
            ("7 !bc\r", "def1 x", &["first !bc", "line x"]),
        ] {
            let mut sink = Script { calls: Vec::new(), memory: BufferPool::new(0) };
            let mut decoder = LineDecoder::new(Framing::Octet);
            decoder.feed(start.as_bytes(), 99, &mut sink).expect("frames");
            decoder.cut_early(&mut sink);
            assert_eq!(sink.memory.used(), 0, "a cut frees all memory of the frame");
            decoder.feed(rest.as_bytes(), 99, &mut sink).expect("frames");
            assert_eq!(sink.calls, wanted, "{start:?} {rest:?}");
        }
    }

    #[test]
    fn what_may_be_a_request_is_no_line_when_cut_early() {
        let mut sink = Script { calls: Vec::new(), memory: BufferPool::new(0) };
        let mut decoder = LineDecoder::new(Framing::Octet);
        decoder.feed(b"GET /", 99, &mut sink).expect("not known yet");
        decoder.cut_early(&mut sink);
        assert_eq!((decoder.feed(b"1 a", 99, &mut sink), sink.memory.used()), (Err(Foreign::BadFrame), 0));
        assert_eq!(sink.calls, [""; 0]);
    }
}

//! The entry grammar: what is left of a line without its token, what counts as blank, which lines are other protocols.
//!
//! The rules are those of the Token TCP description in the README; `tests/support/oracle.rs` states them once more, slowly, and
//! `tests/oracle/oracle.py` decides.

use super::token::TOKEN_BYTES;

/// An agent's sign of life: a line of its own, without a token.
pub const KEEPALIVE: &[u8] = b"###LE-IAA###";

/// U+2028: stands in a stored entry for an LF that was part of it, since an entry is one line of its segment.
pub const LINE_SEPARATOR: &[u8] = "\u{2028}".as_bytes();

/// The first two bytes of a TLS record that opens a handshake: never the start of a line that we take.
pub const TLS_HELLO: [u8; 2] = [0x16, 0x03];

/// What a line leaves to store: the bytes before the token and the bytes after it, less the blank that went with it.
/// Borrowed from the receive buffer, so that nothing is copied before staging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What stood before the token; empty for most senders.
    pub head: &'a [u8],
    /// What stood after it.
    pub tail: &'a [u8],
}

impl Entry<'_> {
    /// Bytes of the entry, without the LF that the segment adds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether there is nothing at all to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the entry holds nothing but blanks.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        is_blank(self.tail) && is_blank(self.head)
    }
}

impl<'a> From<&'a [u8]> for Entry<'a> {
    /// A piece of a split line: stored unchanged.
    fn from(piece: &'a [u8]) -> Self {
        Self { head: piece, tail: &[] }
    }
}

/// Why a line stores nothing. Every rejected line has exactly one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reject {
    /// Blank, or nothing but the token.
    Empty,
    /// An agent's sign of life.
    Keepalive,
    /// No token shape on the line.
    NoToken,
    /// Only tokens that name no log here.
    UnknownToken,
    /// A new log past `--tokens-max`.
    TooManyTokens,
    /// Where the length of a frame should be, or a PROXY header, there is something else.
    BadFrame,
    /// The first line is an HTTP/1 request.
    Http,
    /// The first bytes are a TLS record.
    TlsOnPlain,
    /// The first bytes to a TLS listener are no TLS record.
    PlainOnTls,
    /// The end of the connection cut the line short.
    Cut,
}

impl Reject {
    /// Every reason, in the order of the summary line.
    pub const ALL: [Self; 10] = [
        Self::Empty,
        Self::Keepalive,
        Self::NoToken,
        Self::UnknownToken,
        Self::TooManyTokens,
        Self::BadFrame,
        Self::Http,
        Self::TlsOnPlain,
        Self::PlainOnTls,
        Self::Cut,
    ];

    /// The reasons of lines that name no log, which `--rejected keep` keeps. Other protocols are never stored, and of what
    /// was cut not all is there.
    pub const NO_LOG: [Self; 3] = [Self::NoToken, Self::UnknownToken, Self::TooManyTokens];

    /// The reason's name in counters and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Keepalive => "keepalive",
            Self::NoToken => "no_token",
            Self::UnknownToken => "unknown_token",
            Self::TooManyTokens => "too_many_tokens",
            Self::BadFrame => "bad_frame",
            Self::Http => "http",
            Self::TlsOnPlain => "tls_on_plain",
            Self::PlainOnTls => "plain_on_tls",
            Self::Cut => "cut",
        }
    }
}

/// A blank is SP or TAB; nothing else is white space in this protocol.
#[must_use]
pub const fn is_blank_byte(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Whether the bytes are all blanks (or none).
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| is_blank_byte(byte))
}

/// The line without one CR at its end.
#[must_use]
pub fn strip_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Removes the token at `at` and at most one blank with it: at the start of the line the one after, at its end the
/// one before, in between one if both neighbours are blanks. Repeats of the token right at the start go the same way.
///
/// `line[at..at + 36]` must be a token.
#[must_use]
#[inline]
pub fn remove_token(line: &[u8], at: usize) -> Entry<'_> {
    let (head, rest) = line.split_at(at);
    let (token, tail) = rest.split_at(TOKEN_BYTES);
    if head.is_empty() {
        return Entry { head, tail: after_repeats(token, strip_first_blank(tail)) };
    }
    if tail.is_empty() {
        let head = match head.split_last() {
            Some((&last, before)) if is_blank_byte(last) => before,
            _ => head,
        };
        return Entry { head, tail };
    }
    let blank_before = head.last().is_some_and(|&byte| is_blank_byte(byte));
    Entry { head, tail: if blank_before { strip_first_blank(tail) } else { tail } }
}

#[inline]
fn after_repeats<'a>(token: &[u8], mut tail: &'a [u8]) -> &'a [u8] {
    while let Some((next, rest)) = tail.split_at_checked(TOKEN_BYTES) {
        // The fourth dash first: it is the cheapest sign that there is no repeat.
        if next[23] != b'-' || !next.eq_ignore_ascii_case(token) {
            break;
        }
        tail = strip_first_blank(rest);
    }
    tail
}

fn strip_first_blank(bytes: &[u8]) -> &[u8] {
    match bytes.split_first() {
        Some((&first, rest)) if is_blank_byte(first) => rest,
        _ => bytes,
    }
}

/// Whether a connection's first line (terminator removed) is an HTTP/1 request: three to seven capitals, a space,
/// anything, and ` HTTP/1.0` or ` HTTP/1.1` at its end. A log line that only begins with `GET ` is not one.
#[must_use]
pub fn is_http_request(line: &[u8]) -> bool {
    let method = line.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    if !(3..=7).contains(&method) || line.get(method) != Some(&b' ') {
        return false;
    }
    let target = &line[method + 1..];
    target.ends_with(b" HTTP/1.1") || target.ends_with(b" HTTP/1.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

    fn removed(line: &str, at: usize) -> Vec<u8> {
        let entry = remove_token(line.as_bytes(), at);
        [entry.head, entry.tail].concat()
    }

    #[test]
    fn one_blank_goes_with_the_token() {
        assert_eq!(removed(&format!("{T} a"), 0), b"a");
        assert_eq!(removed(&format!("{T}\t a "), 0), b" a ");
        assert_eq!(removed(&format!("{T}a"), 0), b"a");
        assert_eq!(removed(&format!("a  {T}"), 3), b"a ");
        assert_eq!(removed(&format!("a {T} b"), 2), b"a b");
        assert_eq!(removed(&format!("a {T}b"), 2), b"a b");
        assert_eq!(removed(&format!("a{T} b"), 1), b"a b");
    }

    #[test]
    fn repeats_at_the_start_go_too() {
        let upper = T.to_uppercase();
        assert_eq!(removed(&format!("{T} {upper}\t{T}{{}}"), 0), b"{}");
        assert_eq!(removed(&format!("{T} {T}"), 0), b"");
        assert_eq!(removed(&format!("{T}  {T}"), 0), format!(" {T}").as_bytes());
    }

    #[test]
    fn http_requests_are_whole_request_lines() {
        for yes in ["GET / HTTP/1.1", "OPTIONS * HTTP/1.0", "GET  HTTP/1.1", "POST /a b HTTP/1.1"] {
            assert!(is_http_request(yes.as_bytes()), "{yes}");
        }
        for no in [
            "GET / HTTP/2",
            "GET HTTP/1.1",
            "GE / HTTP/1.1",
            "PROPFIND / HTTP/1.1",
            "get / HTTP/1.1",
            "GET / HTTP/1.1 x",
        ] {
            assert!(!is_http_request(no.as_bytes()), "{no}");
        }
    }
}

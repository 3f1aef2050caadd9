//! The token: a UUID in its 36-byte text form that names a log.
//!
//! ```text
//! 2bfbea1e-10c3-4419-bdad-7e6435882e1f      hex digits 8-4-4-4-12, either case, any version
//!         8    13   18   23                 positions of the dashes
//! ```
//! A token is a secret (whoever knows it can write to the log): `Debug` shortens it, so that no log line or panic
//! message can leak one; `Display` is the whole text and is for file names and for what `ls` and `cat` print.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use uuid::Uuid;

/// Length of a token's text in bytes.
pub const TOKEN_BYTES: usize = 36;

/// Positions of the dashes in a token's text.
pub const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Names a log. Compares and hashes by value, whatever the case of the text was.
///
/// Two words and not 16 bytes: those are moved in pieces and compared whole, and a load across several stores waits for
/// every store before it. That was a sixth of a shard's time on lines with their token in the middle (perf on
/// `scripts/bench --jobs middle`).
#[derive(Clone, Copy, Eq, PartialOrd, Ord)]
pub struct Token {
    /// The first 16 digits of the text, then the others: so tokens are in the order of their texts.
    upper: u64,
    lower: u64,
}

impl Token {
    /// The token with this 128-bit value, first digit of the text in the first byte.
    #[must_use]
    #[inline]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let (upper, lower) = Uuid::from_bytes(bytes).as_u64_pair();
        Self { upper, lower }
    }

    /// The 128-bit value, first digit of the text in the first byte.
    #[must_use]
    #[inline]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.uuid().into_bytes()
    }

    const fn uuid(self) -> Uuid {
        Uuid::from_u64_pair(self.upper, self.lower)
    }

    /// Parses exactly the 36-byte form; `None` for every other text that `Uuid` would take.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != TOKEN_BYTES {
            return None;
        }
        // Uuid's parser knows one form of this length.
        Uuid::try_parse_ascii(text).ok().map(|uuid| Self::from_bytes(uuid.into_bytes()))
    }

    /// The first digits, for log lines and errors: enough to recognise a token, too few to use it.
    #[must_use]
    pub fn shortened(&self) -> String {
        let mut text = self.to_string();
        text.truncate(DASHES[0]);
        text.push('…');
        text
    }
}

impl PartialEq for Token {
    /// One test of both words, which stay words.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        (self.upper ^ other.upper) | (self.lower ^ other.lower) == 0
    }
}

impl Hash for Token {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.uuid().as_u128());
    }
}

/// A text for people: every whole token in it is shortened.
#[must_use]
pub fn shorten_tokens(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let (mut from, mut at) = (0, 0);
    while let Some(candidate) = text.as_bytes().get(at..at + TOKEN_BYTES) {
        if candidate[DASHES[0]] == b'-'
            && let Some(token) = Token::parse(candidate)
        {
            shown += &text[from..at];
            shown += &token.shortened();
            at += TOKEN_BYTES;
            from = at;
        } else {
            at += 1;
        }
    }
    if from == 0 { Cow::Borrowed(text) } else { Cow::Owned(shown + &text[from..]) }
}

/// The text is not a token: 36 bytes, hex digits 8-4-4-4-12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAToken;

impl fmt::Display for NotAToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a token; a token is 36 bytes, hex digits 8-4-4-4-12")
    }
}

impl std::error::Error for NotAToken {}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        Self::parse(text.as_bytes()).ok_or(NotAToken)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shortened())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

    #[test]
    fn parses_either_case_to_the_same_value() {
        let token: Token = TEXT.parse().unwrap();
        assert_eq!(TEXT.to_uppercase().parse(), Ok(token));
        assert_eq!(token.to_string(), TEXT);
        assert_eq!(token.to_bytes()[..2], [0x2b, 0xfb]);
    }

    #[test]
    fn refuses_other_forms_of_a_uuid() {
        for text in [
            "2bfbea1e10c34419bdad7e6435882e1f",
            "{2bfbea1e-10c3-4419-bdad-7e6435882e1f}",
            "urn:uuid:2bfbea1e-10c3-4419-bdad-7e6435882e1f",
            "2bfbea1e-10c3-4419-bdad-7e6435882e1",
            "2bfbea1e-10c3-4419-bdad-7e6435882e1g",
            "2bfbea1e-10c3-4419-bdad_7e6435882e1f",
            "2bfbea1e010c3-4419-bdad-7e6435882e1f",
            "",
        ] {
            assert_eq!(text.parse::<Token>(), Err(NotAToken), "{text}");
        }
    }

    #[test]
    fn whole_tokens_in_a_text_are_shortened() {
        let upper = TEXT.to_uppercase();
        let text = format!("{TEXT}, {upper}{TEXT}é{TEXT}x 0{TEXT}");
        assert_eq!(shorten_tokens(&text), "2bfbea1e…, 2bfbea1e…2bfbea1e…é2bfbea1e…x 02bfbea1e…");
        for text in ["", "no token", &TEXT[1..], "über-alles-über-alles-über-alles-über-alles"] {
            assert_eq!(shorten_tokens(text), text);
        }
    }

    #[test]
    fn debug_does_not_leak() {
        let token: Token = TEXT.parse().unwrap();
        assert_eq!(format!("{token:?}"), "2bfbea1e…");
    }
}

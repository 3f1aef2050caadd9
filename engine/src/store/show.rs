//! How entries look: exact bytes for a program, nothing but harmless text for a terminal.
//!
//! | byte or character | exact | escaped | with newlines |
//! | --- | --- | --- | --- |
//! | text, LF, TAB | as it is | as it is | as it is |
//! | other controls below U+0080, invalid UTF-8 | as it is | `\x1b` | as above |
//! | controls U+0080 to U+009F | as they are | `\u{9b}` | as above |
//! | U+2028, the LF inside an entry | as it is | as it is | LF |
//!
//! Left out on purpose: a backslash is not escaped, since this is for eyes and not for parsers.

use std::io::{self, Write};

use crate::wire::entry::LINE_SEPARATOR;

/// The newline inside an entry.
const SEPARATOR: char = '\u{2028}';

/// How entries are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Show U+2028 as a line break.
    pub newlines: bool,
    /// Show control characters and invalid UTF-8 escaped: for a terminal.
    pub escape: bool,
}

impl Style {
    /// Writes the bytes in this style. Pieces of a text give the same as the whole if they are cut by [`whole_chars`].
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self { newlines: false, escape: false } => out.write_all(bytes),
            Self { newlines: true, escape: false } => write_newlines(bytes, out),
            Self { newlines, escape: true } => out.write_all(escaped(bytes, newlines).as_bytes()),
        }
    }
}

/// How many of the bytes can be shown without knowing what follows: all but a character that may go on.
#[must_use]
pub fn whole_chars(bytes: &[u8]) -> usize {
    for (back, &byte) in (1..=3).zip(bytes.iter().rev()) {
        let char_len = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return if char_len > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

fn write_newlines(bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let mut written = 0;
    for at in memchr::memmem::find_iter(bytes, LINE_SEPARATOR) {
        out.write_all(&bytes[written..at])?;
        out.write_all(b"\n")?;
        written = at + LINE_SEPARATOR.len();
    }
    out.write_all(&bytes[written..])
}

fn escaped(bytes: &[u8], newlines: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.utf8_chunks() {
        for character in piece.valid().chars() {
            match character {
                '\n' | '\t' => text.push(character),
                SEPARATOR if newlines => text.push('\n'),
                control if control.is_ascii_control() => push_hex(&mut text, control as u32),
                control if control.is_control() => text.extend(control.escape_unicode()),
                other => text.push(other),
            }
        }
        for &byte in piece.invalid() {
            push_hex(&mut text, u32::from(byte));
        }
    }
    text
}

fn push_hex(text: &mut String, byte: u32) {
    text.push_str("\\x");
    for digit in [byte >> 4, byte & 0xf] {
        text.push(char::from_digit(digit, 16).expect("a nibble is a hex digit"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8], newlines: bool, escape: bool) -> Vec<u8> {
        let mut out = Vec::new();
        Style { newlines, escape }.write(bytes, &mut out).unwrap();
        out
    }

    const EVERYTHING: &[u8] = b"a\tb\r\x1b[31m\0\x7f \xc2\x9b \xff\xe2\x80 \xe2\x80\xa8 \xf0\x9f\x8e\x89 \\\n";

    #[test]
    fn exact_is_exact() {
        assert_eq!(shown(EVERYTHING, false, false), EVERYTHING);
    }

    #[test]
    fn controls_and_broken_text_are_escaped() {
        let text = "a\tb\\x0d\\x1b[31m\\x00\\x7f \\u{9b} \\xff\\xe2\\x80 \u{2028} \u{1f389} \\\n";
        assert_eq!(String::from_utf8(shown(EVERYTHING, false, true)).unwrap(), text);
        assert_eq!(String::from_utf8(shown(EVERYTHING, true, true)).unwrap(), text.replace('\u{2028}', "\n"));
    }

    #[test]
    fn newlines_replaces_nothing_but_separators() {
        let bytes = "\u{2028}a\u{2028}\u{2028}b\u{2029}".as_bytes();
        assert_eq!(shown(bytes, true, false), "\na\n\nb\u{2029}".as_bytes());
    }

    #[test]
    fn any_cut_at_whole_characters_shows_the_same() {
        for style in [Style { newlines: true, escape: false }, Style { newlines: true, escape: true }] {
            let mut whole = Vec::new();
            style.write(EVERYTHING, &mut whole).unwrap();
            for chunk in 4..EVERYTHING.len() {
                let (mut pieces, mut from) = (Vec::new(), 0);
                while from < EVERYTHING.len() {
                    let piece = &EVERYTHING[from..EVERYTHING.len().min(from + chunk)];
                    let last = from + piece.len() == EVERYTHING.len();
                    let take = if last { piece.len() } else { whole_chars(piece) };
                    style.write(&piece[..take], &mut pieces).unwrap();
                    from += take;
                }
                assert_eq!(pieces, whole, "chunks of {chunk}");
            }
        }
    }
}

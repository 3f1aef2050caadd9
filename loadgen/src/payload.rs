//! The bytes of lines and entries: rendering a batch in place, and parsing an entry back.
//!
//! ```text
//!  entry   RRRRCCCC SSSSSSSS KKKKKKKK text of words …
//!          │   │    │        └ checksum, crc32c of run and connection, text, sequence
//!          │   │    └ sequence of the entry in its connection, from 0
//!          │   └ connection             all of them lower-case hexadecimal, of fixed width
//!          └ run
//!
//!  line    start:   TOKEN SP entry LF
//!          middle:  first half of the entry SP TOKEN SP second half LF   (the entry keeps one of the two blanks)
//! ```
//!
//! Every line of a run has the same size and its fields at the same places, so a line is ready once token, sequence
//! and checksum are patched into the text that stands there from the batch before. The checksum covers the sequence
//! last: the part before it is known for each place in a batch, and eight bytes remain to be summed for each entry.
//! Hexadecimal and no labels, because a 64-byte line leaves an entry 26 bytes.
//!
//! The text holds no `-`, so nothing in it can pass for a token.

use crate::plan::{Plan, Random, Token};

/// Smallest line: token, blank, the fields of an entry, LF.
pub const SIZE_BYTES_MIN: usize = TOKEN_BYTES + 1 + FIELDS_BYTES + 1;
/// Largest line: four times what a receiver takes as one line by default.
pub const SIZE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one batch, the unit of a send: enough that the system call no longer counts, and still in a core's cache
/// together with those of some other connections.
pub const BATCH_BYTES: usize = 64 * 1024;

const TOKEN_BYTES: usize = size_of::<Token>();
const FIELD_BYTES: usize = 8;
/// The three fields with a blank between them.
const FIELDS_BYTES: usize = 3 * FIELD_BYTES + 2;
const SEQUENCE_AT: usize = FIELD_BYTES + 1;
const CHECKSUM_AT: usize = SEQUENCE_AT + FIELD_BYTES + 1;

const _: () = assert!(SIZE_BYTES_MIN == 64 && SIZE_BYTES_MIN <= BATCH_BYTES);

/// Where in a line the token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The line begins with it.
    Start,
    /// Behind half of the entry.
    Middle,
}

/// Where in a line of a run everything stands. An entry is a line without its token, one blank and the LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: usize,
    position: Position,
    /// The line's token goes in before this byte of the entry.
    split: usize,
}

impl Layout {
    /// The layout of lines of `size` bytes.
    ///
    /// # Panics
    ///
    /// When the size is not between [`SIZE_BYTES_MIN`] and [`SIZE_BYTES_MAX`].
    #[must_use]
    pub fn new(size: usize, position: Position) -> Self {
        assert!((SIZE_BYTES_MIN..=SIZE_BYTES_MAX).contains(&size), "the command line admits no other size");
        let half = (size - TOKEN_BYTES - 2) / 2;
        let split = match position {
            Position::Start => 0,
            Position::Middle if half >= FIELDS_BYTES => half,
            Position::Middle => CHECKSUM_AT - 1,
        };
        Self { size, position, split }
    }

    /// Bytes of a line, token and LF included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where the token stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes of an entry.
    #[must_use]
    pub fn entry_size(&self) -> usize {
        self.size - TOKEN_BYTES - 2
    }

    /// Lines of a full batch.
    #[must_use]
    pub fn batch_lines(&self) -> usize {
        (BATCH_BYTES / self.size).max(1)
    }

    fn token_at(&self) -> usize {
        match self.position {
            Position::Start => 0,
            Position::Middle => self.split + 1,
        }
    }

    /// Where in the line a byte of the entry stands.
    fn in_line(&self, entry_at: usize) -> usize {
        if entry_at < self.split { entry_at } else { entry_at + TOKEN_BYTES + 1 }
    }

    fn line_of(&self, token: &Token, entry: &[u8]) -> Vec<u8> {
        let (before, after) = entry.split_at(self.split);
        match self.position {
            Position::Start => [token.as_slice(), b" ", after, b"\n"].concat(),
            Position::Middle => [before, b" ", token, after, b"\n"].concat(),
        }
    }
}

/// Renders the lines of one connection, batch by batch, into the same memory.
#[derive(Debug)]
pub struct Renderer {
    layout: Layout,
    token_at: usize,
    sequence_at: usize,
    checksum_at: usize,
    /// For each place in a batch, the checksum of all but the sequence.
    partial_checksums: Vec<u32>,
    next_sequence: u32,
    next_token: usize,
}

impl Renderer {
    /// A renderer and its first batch, which holds the text but no lines yet.
    #[must_use]
    pub fn new(plan: &Plan, connection: u32) -> (Self, Vec<u8>) {
        let layout = plan.layout;
        let mut random = Random::new(plan.seed ^ (u64::from(connection) << 32));
        let identity = hex(identity(plan.run, connection));
        let mut batch = Vec::with_capacity(layout.batch_lines() * layout.size);
        let mut partial_checksums = Vec::with_capacity(layout.batch_lines());
        for _ in 0..layout.batch_lines() {
            let entry = blank_entry(layout, identity, &mut random);
            partial_checksums.push(partial_checksum(&entry));
            batch.extend_from_slice(&layout.line_of(&plan.tokens[0], &entry));
        }
        let renderer = Self {
            layout,
            token_at: layout.token_at(),
            sequence_at: layout.in_line(SEQUENCE_AT),
            checksum_at: layout.in_line(CHECKSUM_AT),
            partial_checksums,
            next_sequence: 0,
            next_token: plan.first_token(connection),
        };
        (renderer, batch)
    }

    /// Makes the first `lines` lines of a batch the next ones of this connection. Returns their bytes.
    pub fn render(&mut self, tokens: &[Token], batch: &mut [u8], lines: usize) -> usize {
        let places = batch.chunks_exact_mut(self.layout.size).zip(&self.partial_checksums);
        for (line, partial_checksum) in places.take(lines) {
            let sequence = hex(self.next_sequence);
            let checksum = hex(crc32c::crc32c_append(*partial_checksum, &sequence));
            line[self.token_at..][..TOKEN_BYTES].copy_from_slice(&tokens[self.next_token]);
            line[self.sequence_at..][..FIELD_BYTES].copy_from_slice(&sequence);
            line[self.checksum_at..][..FIELD_BYTES].copy_from_slice(&checksum);
            self.next_sequence = self.next_sequence.wrapping_add(1);
            self.next_token += 1;
            if self.next_token == tokens.len() {
                self.next_token = 0;
            }
        }
        lines * self.layout.size
    }
}

/// An entry as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Byte for byte an entry that a run made.
    Intact {
        /// The run.
        run: u16,
        /// The connection that sent it.
        connection: u32,
        /// Its ordinal in that connection.
        sequence: u32,
    },
    /// Names its sender, but is not what that one sent.
    Damaged {
        /// The run.
        run: u16,
        /// The connection that sent it, if that part is right.
        connection: u32,
    },
    /// Not made by a run, or damaged beyond recognition.
    Unknown,
}

/// Reads an entry back.
#[must_use]
pub fn parse(entry: &[u8]) -> Parsed {
    let Some(identity) = field(entry, 0) else { return Parsed::Unknown };
    let [run @ .., _, _] = identity.to_be_bytes();
    let (run, connection) = (u16::from_be_bytes(run), identity & u32::from(u16::MAX));
    let intact = || {
        let (sequence, checksum) = (field(entry, SEQUENCE_AT)?, field(entry, CHECKSUM_AT)?);
        let separated =
            [SEQUENCE_AT, CHECKSUM_AT, FIELDS_BYTES + 1].iter().all(|next| is_blank_or_end(entry, next - 1));
        let summed = crc32c::crc32c_append(partial_checksum(entry), &hex(sequence));
        (separated && summed == checksum).then_some(Parsed::Intact { run, connection, sequence })
    };
    intact().unwrap_or(Parsed::Damaged { run, connection })
}

fn is_blank_or_end(entry: &[u8], at: usize) -> bool {
    entry.get(at).is_none_or(|byte| *byte == b' ')
}

fn identity(run: u16, connection: u32) -> u32 {
    debug_assert!(u16::try_from(connection).is_ok(), "the plan has fewer connections");
    (u32::from(run) << 16) | connection
}

/// An entry whose sequence and checksum are still to come.
fn blank_entry(layout: Layout, identity: [u8; FIELD_BYTES], random: &mut Random) -> Vec<u8> {
    let mut entry = b" ".repeat(layout.entry_size());
    entry[..FIELD_BYTES].copy_from_slice(&identity);
    if let Some(text) = entry.get_mut(FIELDS_BYTES + 1..) {
        fill_with_words(text, random);
    }
    if layout.split > 0 {
        entry[layout.split] = b' ';
    }
    entry
}

/// Words of up to 12 letters and digits.
fn fill_with_words(text: &mut [u8], random: &mut Random) {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
    for word in text.chunks_mut(13) {
        let letters = word.len().min(12);
        let mut bits = random.next_u64();
        for letter in &mut word[..letters] {
            *letter = LETTERS[(bits % 32) as usize];
            bits /= 32;
        }
    }
    if let Some(last) = text.last_mut().filter(|last| **last == b' ') {
        *last = b'.';
    }
}

/// Checksum of run, connection and text; the sequence is appended to it.
fn partial_checksum(entry: &[u8]) -> u32 {
    let identity = crc32c::crc32c(&entry[..FIELD_BYTES]);
    crc32c::crc32c_append(identity, entry.get(FIELDS_BYTES..).unwrap_or_default())
}

/// Eight hexadecimal digits, without a loop: each step moves half of what is left to its place.
fn hex(value: u32) -> [u8; FIELD_BYTES] {
    let mut digits = u64::from(value);
    digits = ((digits & 0xffff_0000) << 16) | (digits & 0xffff);
    digits = ((digits & 0x0000_ff00_0000_ff00) << 8) | (digits & 0x0000_00ff_0000_00ff);
    digits = ((digits & 0x00f0_00f0_00f0_00f0) << 4) | (digits & 0x000f_000f_000f_000f);
    let is_letter = ((digits + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    let letters = is_letter * u64::from(b'a' - b'0' - 10);
    (digits + 0x3030_3030_3030_3030 + letters).to_be_bytes()
}

fn field(entry: &[u8], at: usize) -> Option<u32> {
    let digits = entry.get(at..at + FIELD_BYTES)?;
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((value << 4) | u32::from(digit))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::tests::plan;

    /// What a receiver stores of a line: the token goes and one blank, as the protocol says.
    pub(crate) fn stored(line: &[u8], token: &Token) -> Vec<u8> {
        let at = line.windows(TOKEN_BYTES).position(|window| window == token).unwrap();
        let (before, after) = (&line[..at], &line[at + TOKEN_BYTES..line.len() - 1]);
        assert_eq!(after[0], b' ');
        [before, &after[1..]].concat()
    }

    fn plans() -> impl Iterator<Item = Plan> {
        let sizes = [64, 65, 66, 77, 78, 79, 90, 91, 92, 93, 105, 256, 1000, 65_536, 70_000];
        let positions = [Position::Start, Position::Middle];
        let layouts = sizes.into_iter().flat_map(move |size| positions.map(|position| Layout::new(size, position)));
        layouts.map(|layout| Plan { layout, ..plan(3, 7, 256) })
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        for plan in plans() {
            let (mut renderer, mut batch) = Renderer::new(&plan, 2);
            for first in [0, plan.layout.batch_lines()] {
                let bytes = renderer.render(&plan.tokens, &mut batch, plan.layout.batch_lines());
                for (index, line) in (first..).zip(batch[..bytes].chunks(plan.layout.size())) {
                    assert_eq!(memchr::memchr(b'\n', line), Some(line.len() - 1));
                    let sequence = u32::try_from(index).unwrap();
                    let entry = stored(line, &plan.tokens[plan.token_of(2, sequence)]);
                    assert_eq!(entry.len(), plan.layout.entry_size());
                    assert_eq!(parse(&entry), Parsed::Intact { run: plan.run, connection: 2, sequence });
                }
            }
        }
    }

    #[test]
    fn the_token_stands_where_it_should() {
        let plan = Plan { layout: Layout::new(256, Position::Middle), ..plan(1, 1, 256) };
        let (mut renderer, mut batch) = Renderer::new(&plan, 0);
        renderer.render(&plan.tokens, &mut batch, 1);
        assert_eq!(batch[109], b' ');
        assert_eq!(batch[110..146], plan.tokens[0]);
        assert_eq!(batch[146], b' ');
    }

    #[test]
    fn every_changed_byte_is_damage() {
        let plan = plan(1, 1, 128);
        let (mut renderer, mut batch) = Renderer::new(&plan, 0);
        renderer.render(&plan.tokens, &mut batch, 1);
        let entry = stored(&batch[..128], &plan.tokens[0]);
        for at in 0..entry.len() {
            let mut damaged = entry.clone();
            damaged[at] ^= 1;
            assert!(!matches!(parse(&damaged), Parsed::Intact { .. }), "byte {at}");
            assert!(!matches!(parse(&entry[..at]), Parsed::Intact { .. }), "cut at {at}");
        }
        assert!(matches!(parse(&[&entry[..], b"x"].concat()), Parsed::Damaged { run: 0xab12, connection: 0 }));
        assert_eq!(parse(b"some other line of text"), Parsed::Unknown);
    }

    #[test]
    fn hexadecimal_is_that_of_the_standard_library() {
        for value in [0, 9, 10, 15, 16, 0x9a_bcde, 0x1234_5678, 0xfedc_ba98, u32::MAX] {
            assert_eq!(hex(value).as_slice(), format!("{value:08x}").as_bytes());
        }
        for value in (0..u32::MAX).step_by(104_729) {
            assert_eq!(field(&hex(value), 0), Some(value));
        }
    }
}

//! A batch of lines, rendered once and patched in place.
//!
//! ```text
//!  places   0        1             2      …        n-1        sequence s is always rendered at place s modulo n
//!           │ line   │ longer line │ …    │        │
//! ```
//!
//! A line is ready once token, sequence, time and checksum are patched into the text that stands at its place since the
//! start. So a connection repeats its text every [`BATCH_BYTES`] or so, and where any line of a
//! connection begins and ends is known without having kept it.

use std::ops::Range;

use super::fields::{self, BLANK_AT, CHECKSUM_AT, COUNTERS, FIELDS_BYTES};
use super::{BATCH_BYTES, Position, SIZE_BYTES_MIN, TOKEN_BYTES, Text, WRAP_BYTES, text};
use crate::plan::Plan;
use crate::tokens::{Random, Token};

/// Renders the lines of one connection, batch by batch, into the same memory.
#[derive(Debug)]
pub struct Renderer {
    connection: u32,
    connections: u32,
    places: Vec<Place>,
    next_sequence: u64,
}

/// Where the parts of a line stand in the batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    end: usize,
    token_at: usize,
    counters_at: usize,
    checksum_at: usize,
    /// Checksum of all but sequence and time.
    partial_checksum: u32,
}

impl Renderer {
    /// A renderer and its batch, which holds the text but no lines yet.
    #[must_use]
    pub fn new(plan: &Plan, connection: u32) -> (Self, Vec<u8>) {
        let mut random = Random::new(plan.seed ^ (u64::from(connection) << 32) ^ 0x7465_7874);
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        let mut places = Vec::new();
        // Connections begin at different lines of a file.
        let first = random.next_u64() as usize >> 1;
        loop {
            let entry = blank_entry(plan, connection, first.wrapping_add(places.len()), &mut random);
            let line_bytes = entry.len() + WRAP_BYTES;
            if !places.is_empty() && batch.len() + line_bytes > BATCH_BYTES {
                break;
            }
            let position = position_of(plan.lines.position, places.len());
            places.push(Place::append(&mut batch, entry, position));
        }
        (Self { connection, connections: plan.connections, places, next_sequence: 0 }, batch)
    }

    /// How many lines can be rendered at once, from the next on.
    #[must_use]
    pub fn room(&self) -> usize {
        self.places.len() - self.place_of(self.next_sequence)
    }

    /// Renders a line for each intended time, [`Self::room`] at most. Returns where in the batch they stand.
    pub fn render(&mut self, plan: &Plan, batch: &mut [u8], intended: &[u64]) -> Range<usize> {
        debug_assert!(!intended.is_empty() && intended.len() <= self.room());
        let first = self.place_of(self.next_sequence);
        let places = &self.places[first..][..intended.len()];
        let mut time = (u64::MAX, [0; 7]);
        let tokens = plan.tokens.from(self.connection, self.connections, self.next_sequence as u32);
        for ((place, nanos), token) in places.iter().zip(intended).zip(tokens) {
            let (sequence, micros) = (self.next_sequence as u32, nanos / 1000);
            if time.0 != micros {
                time = (micros, fields::digits_time(micros));
            }
            place.patch(batch, token, sequence, time);
            self.next_sequence += 1;
        }
        places[0].start..places[places.len() - 1].end
    }

    /// Where in the batch the line of a sequence begins.
    #[must_use]
    pub fn start_of(&self, sequence: u64) -> usize {
        self.places[self.place_of(sequence)].start
    }

    /// Where in the batch the line of a sequence ends.
    #[must_use]
    pub fn end_of(&self, sequence: u64) -> usize {
        self.places[self.place_of(sequence)].end
    }

    /// Where in the batch so many lines end, from a sequence on.
    pub fn ends(&self, first: u64, lines: usize) -> impl Iterator<Item = usize> {
        self.places[self.place_of(first)..][..lines].iter().map(|place| place.end)
    }

    /// How many of the lines of a batch, which begins with a sequence, end at or before a byte of it.
    #[must_use]
    pub fn lines_until(&self, first: u64, lines: usize, until: usize) -> usize {
        self.places[self.place_of(first)..][..lines].partition_point(|place| place.end <= until)
    }

    /// How many of the lines from a sequence on have ended within so many bytes of them, and how many bytes those have.
    #[must_use]
    pub fn whole_lines(&self, first: u64, bytes: u64) -> (u64, u64) {
        let round = self.places[self.places.len() - 1].end as u64;
        let place = &self.places[self.place_of(first)];
        // Counted from place 0 of the round that the first line is in.
        let until = place.start as u64 + bytes;
        let (rounds, within) = (until / round, (until % round) as usize);
        let ended = self.places.partition_point(|place| place.end <= within);
        let lines = rounds * self.places.len() as u64 + ended as u64 - self.place_of(first) as u64;
        let line_bytes = rounds * round + self.places[..ended].last().map_or(0, |place| place.end as u64);
        (lines, line_bytes - place.start as u64)
    }

    fn place_of(&self, sequence: u64) -> usize {
        (sequence % self.places.len() as u64) as usize
    }
}

impl Place {
    /// Adds a line to the batch, whose token is still to come.
    fn append(batch: &mut Vec<u8>, mut entry: Vec<u8>, position: Position) -> Self {
        let start = batch.len();
        // The token stands before this byte of the entry.
        let split = match position {
            Position::Start => 0,
            Position::Middle => middle(entry.len()),
            Position::End | Position::Mixed => entry.len(),
        };
        if position == Position::Middle {
            entry[split] = b' ';
        }
        let partial_checksum = fields::partial_checksum(&entry);
        let (before, after) = entry.split_at(split);
        batch.extend_from_slice(before);
        if split > 0 {
            batch.push(b' ');
        }
        let token_at = batch.len();
        batch.extend_from_slice(&[b'0'; TOKEN_BYTES]);
        if split == 0 {
            batch.push(b' ');
        }
        batch.extend_from_slice(after);
        batch.push(b'\n');
        let in_line = |at: usize| start + at + if at < split { 0 } else { TOKEN_BYTES + 1 };
        Self {
            start,
            end: batch.len(),
            token_at,
            counters_at: in_line(COUNTERS.start),
            checksum_at: in_line(CHECKSUM_AT),
            partial_checksum,
        }
    }

    fn patch(&self, batch: &mut [u8], token: &Token, sequence: u32, (micros, time): (u64, [u8; 7])) {
        let line = &mut batch[..self.end];
        let checksum = fields::checksum_of(self.partial_checksum, sequence, micros);
        line[self.token_at..][..TOKEN_BYTES].copy_from_slice(token);
        line[self.counters_at..][..COUNTERS.len()].copy_from_slice(&fields::counters(sequence, time));
        line[self.checksum_at..][..6].copy_from_slice(&fields::digits_u32(checksum));
    }
}

/// Behind half of the entry, or between its fields where that would be within them.
fn middle(entry_bytes: usize) -> usize {
    if entry_bytes / 2 > FIELDS_BYTES { entry_bytes / 2 } else { BLANK_AT }
}

fn position_of(position: Position, place: usize) -> Position {
    match position {
        Position::Mixed => [Position::Start, Position::Middle, Position::End][place % 3],
        position => position,
    }
}

/// An entry whose sequence, time and checksum are still to come.
fn blank_entry(plan: &Plan, connection: u32, ordinal: usize, random: &mut Random) -> Vec<u8> {
    let size = &plan.lines.size;
    debug_assert!(*size.start() >= SIZE_BYTES_MIN, "the command line admits no smaller one");
    let line_bytes = size.start() + random.below((size.end() - size.start()) as u64 + 1) as usize;
    let length = (line_bytes - SIZE_BYTES_MIN).saturating_sub(1);
    let mut entry = vec![b' '; FIELDS_BYTES];
    fields::write_identity(&mut entry, plan.run, connection);
    match &plan.lines.text {
        Text::Lines(_) => {
            let text = text::fill(&plan.lines.text, 0, ordinal, random);
            if !text.is_empty() {
                entry.push(b' ');
                entry.extend_from_slice(&text);
            }
        }
        filler if line_bytes > SIZE_BYTES_MIN => {
            entry.push(b' ');
            entry.extend_from_slice(&text::fill(filler, length, ordinal, random));
        }
        _ => {}
    }
    entry
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::payload::{Lines, Parsed, parse};
    use crate::plan::tests::plan;

    /// What a receiver stores of a line: the token goes and one blank, as the protocol says.
    pub(crate) fn stored(line: &[u8], token: &Token) -> Vec<u8> {
        let at = line.windows(TOKEN_BYTES).position(|window| window == token).unwrap();
        let (before, after) = (&line[..at], &line[at + TOKEN_BYTES..line.len() - 1]);
        if after.is_empty() {
            return before.strip_suffix(b" ").unwrap().to_vec();
        }
        assert!(before.is_empty() || before.ends_with(b" "));
        [before, after.strip_prefix(b" ").unwrap()].concat()
    }

    fn plans() -> impl Iterator<Item = Plan> {
        let sizes = [64, 65, 66, 90, 91, 92, 93, 94, 105, 256, 1000, 65_536, 70_000].map(|size| size..=size);
        let sizes = sizes.into_iter().chain([64..=400]);
        let positions = [Position::Start, Position::Middle, Position::End, Position::Mixed];
        let lines = sizes
            .flat_map(move |size| positions.map(|position| Lines { size: size.clone(), position, text: Text::Random }));
        let file = Text::Lines(["", "a", "a line of text\t", "x".repeat(300).as_str()].map(str::to_owned).into());
        let from_file = positions.map(|position| Lines { size: 64..=64, position, text: file.clone() });
        lines.chain(from_file).map(|lines| Plan { lines, ..plan(3, 7, 256) })
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        for plan in plans() {
            let (mut renderer, mut batch) = Renderer::new(&plan, 2);
            let mut sequence = 0;
            while sequence < 2 * renderer.places.len() as u64 + 3 {
                let times: Vec<_> = (0..7).map(|index| (sequence + index) * 1000).take(renderer.room()).collect();
                let mut range = renderer.render(&plan, &mut batch, &times);
                for intended in times {
                    let line = &batch[range.start..renderer.end_of(sequence)];
                    range.start += line.len();
                    assert_eq!(memchr::memchr(b'\n', line), Some(line.len() - 1));
                    let entry = stored(line, &plan.tokens.list[plan.token_of(2, sequence as u32)]);
                    assert_eq!(entry.len() + WRAP_BYTES, line.len());
                    assert!(plan.lines.size.contains(&line.len()) || plan.lines.text != Text::Random);
                    let (run, sequence_read) = (plan.run, sequence as u32);
                    let intended_micros = intended / 1000;
                    let intact = Parsed::Intact { run, connection: 2, sequence: sequence_read, intended_micros };
                    assert_eq!(parse(&entry), intact, "{:?}", String::from_utf8_lossy(line));
                    sequence += 1;
                }
                assert!(range.is_empty());
            }
        }
    }

    #[test]
    fn the_token_stands_where_it_should() {
        let lines = Lines { position: Position::Middle, ..Lines::default() };
        let plan = Plan { lines, ..plan(1, 1, 256) };
        let (mut renderer, mut batch) = Renderer::new(&plan, 0);
        renderer.render(&plan, &mut batch, &[0]);
        assert_eq!(batch[109], b' ');
        assert_eq!(batch[110..146], plan.tokens.list[0]);
        assert_eq!(batch[146], b' ');
    }

    #[test]
    fn bytes_are_mapped_to_lines() {
        let lines = Lines { size: 64..=900, ..Lines::default() };
        let plan = Plan { lines, ..plan(1, 1, 256) };
        let (renderer, _) = Renderer::new(&plan, 0);
        let size_of = |sequence: u64| {
            let place = &renderer.places[renderer.place_of(sequence)];
            (place.end - place.start) as u64
        };
        for first in [0, 1, 5, renderer.places.len() as u64 - 1, 3 * renderer.places.len() as u64 + 2] {
            let (mut lines, mut ended) = (0, 0);
            for bytes in 0..150_000 {
                if bytes == ended + size_of(first + lines) {
                    ended = bytes;
                    lines += 1;
                }
                assert_eq!(renderer.whole_lines(first, bytes), (lines, ended), "{bytes} bytes from {first}");
            }
        }
    }

    #[test]
    fn every_changed_byte_is_damage() {
        let plan = plan(1, 1, 128);
        let (mut renderer, mut batch) = Renderer::new(&plan, 0);
        renderer.render(&plan, &mut batch, &[5_000_000]);
        let entry = stored(&batch[..128], &plan.tokens.list[0]);
        for at in 0..entry.len() {
            let mut damaged = entry.clone();
            damaged[at] ^= 1;
            assert!(!matches!(parse(&damaged), Parsed::Intact { .. }), "byte {at}");
            assert!(!matches!(parse(&entry[..at]), Parsed::Intact { .. }), "cut at {at}");
        }
        assert!(matches!(parse(&[&entry[..], b"x"].concat()), Parsed::Damaged { run: 0xab12, connection: 0 }));
        assert_eq!(parse(b"some other line of text"), Parsed::Unknown);
    }
}

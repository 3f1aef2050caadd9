//! Batches of entries for another shard's logs.
//!
//! ```text
//! batch   run | run | run …
//! run     token 16 | kind 1 | entries 4 | length 4 | entry LF entry LF …        numbers little-endian
//! ```
//! Consecutive entries of one token and kind share a run: its bytes are what the segment will hold, so the owner copies
//! them at once. An entry is never split over batches; a long one gets a batch of its size.

use crate::buf::{BufferPool, WriteBuf, class_for};
use crate::limits::{HANDOVER_BATCH_BYTES, STAGING_BYTES_MIN};
use crate::wire::{Entry, Reject, Token};

const HEADER_BYTES: usize = 25;
const COUNTS_AT: usize = 17;

/// What the entries of a run are, for the owner's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunKind {
    /// Whole lines.
    Whole,
    /// First pieces of long lines.
    First,
    /// Further pieces of them.
    Further,
    /// Whole lines of senders that make no logs.
    WholeOfExisting,
    /// First pieces of their long lines.
    FirstOfExisting,
    /// Whole lines that were rejected and are kept, the token says nothing: [`Reject::NoToken`].
    NoToken,
    /// The same: [`Reject::UnknownToken`].
    UnknownToken,
    /// The same: [`Reject::TooManyTokens`].
    TooManyTokens,
}

impl RunKind {
    const ALL: [Self; 8] = [
        Self::Whole,
        Self::First,
        Self::Further,
        Self::WholeOfExisting,
        Self::FirstOfExisting,
        Self::NoToken,
        Self::UnknownToken,
        Self::TooManyTokens,
    ];

    /// Lines that were rejected for this reason, one of [`Reject::NO_LOG`].
    #[must_use]
    pub fn rejected(reason: Reject) -> Self {
        match reason {
            Reject::UnknownToken => Self::UnknownToken,
            Reject::TooManyTokens => Self::TooManyTokens,
            _ => Self::NoToken,
        }
    }

    /// Why they were rejected, if they are no entries.
    #[must_use]
    pub fn reason(self) -> Option<Reject> {
        match self {
            Self::NoToken => Some(Reject::NoToken),
            Self::UnknownToken => Some(Reject::UnknownToken),
            Self::TooManyTokens => Some(Reject::TooManyTokens),
            _ => None,
        }
    }

    /// The same of a sender that makes no logs.
    #[must_use]
    pub fn of_existing(self) -> Self {
        match self {
            Self::Whole | Self::WholeOfExisting => Self::WholeOfExisting,
            Self::First | Self::FirstOfExisting => Self::FirstOfExisting,
            other => other,
        }
    }

    /// Whether its entries may be the first of their log. Further pieces follow one that was.
    #[must_use]
    pub fn makes_logs(self) -> bool {
        matches!(self, Self::Whole | Self::First)
    }
}

/// Entries of logs of one shard, in the order in which they arrived at another.
#[derive(Debug)]
pub struct Batch {
    buf: WriteBuf,
}

/// Consecutive entries of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<'a> {
    /// The log.
    pub token: Token,
    /// What its entries are.
    pub kind: RunKind,
    /// How many there are.
    pub entries: u32,
    /// The entries, an LF after each.
    pub bytes: &'a [u8],
}

impl Batch {
    /// The runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        let mut rest = self.buf.content();
        std::iter::from_fn(move || {
            let (header, after) = rest.split_at_checked(HEADER_BYTES)?;
            let (run, length) = parse_header(header);
            let (bytes, next) = after.split_at(length);
            rest = next;
            Some(Run { bytes, ..run })
        })
    }

    /// Capacity of its memory in bytes: what it is charged with.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Bytes of the entries in it.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        self.runs().map(|run| run.bytes.len() as u64).sum()
    }

    /// Its memory, for the pool that it came from.
    #[must_use]
    pub fn into_memory(self) -> WriteBuf {
        self.buf
    }
}

/// The run without its bytes, and how many they are.
fn parse_header(header: &[u8]) -> (Run<'static>, usize) {
    let array = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).expect("four bytes are four bytes");
    let token = Token::from_bytes(header[..16].try_into().expect("sixteen bytes are sixteen bytes"));
    let kind = RunKind::ALL[usize::from(header[16])];
    let entries = u32::from_le_bytes(array(COUNTS_AT));
    let length = u32::from_le_bytes(array(COUNTS_AT + 4)) as usize;
    (Run { token, kind, entries, bytes: &[] }, length)
}

/// The run that a lane is extending.
#[derive(Debug)]
struct OpenRun {
    at: usize,
    token: Token,
    kind: RunKind,
    entries: u32,
}

/// One direction from a shard to another: the batch being filled.
#[derive(Debug)]
pub struct Lane {
    filling: Option<WriteBuf>,
    run: Option<OpenRun>,
    full: Vec<Batch>,
    /// The size class that a batch begins with, and the largest that it may begin with.
    class: usize,
    class_max: usize,
    /// Batches that are filled or under way, and have not come back.
    outstanding: usize,
}

impl Lane {
    /// An empty lane. A batch begins with at most `fresh_bytes_max` of memory, unless its first entry is longer.
    #[must_use]
    pub fn new(fresh_bytes_max: usize) -> Self {
        // The largest class that is not above it.
        let class_max = class_for((fresh_bytes_max / 2 + 1).min(HANDOVER_BATCH_BYTES));
        let class = class_for(STAGING_BYTES_MIN).min(class_max);
        Self { filling: None, run: None, full: Vec::new(), class, class_max, outstanding: 0 }
    }

    /// Adds an entry. Says how many bytes of memory were taken for it.
    #[inline]
    pub fn add(&mut self, token: Token, kind: RunKind, entry: Entry<'_>, pool: &mut BufferPool) -> usize {
        let needed = entry.len() + 1;
        if let (Some(run), Some(buf)) = (&mut self.run, &mut self.filling)
            && run.token == token
            && run.kind == kind
            && buf.room() >= needed
        {
            run.entries += 1;
            push(buf, entry);
            return 0;
        }
        self.begin_run(token, kind, entry, pool)
    }

    #[inline(never)]
    fn begin_run(&mut self, token: Token, kind: RunKind, entry: Entry<'_>, pool: &mut BufferPool) -> usize {
        self.end_run();
        let before = pool.used();
        let needed = HEADER_BYTES + entry.len() + 1;
        self.make_room(needed, pool);
        let class = self.class.max(class_for(needed));
        let buf = self.filling.get_or_insert_with(|| {
            self.outstanding += 1;
            pool.take(class)
        });
        self.run = Some(OpenRun { at: buf.content().len(), token, kind, entries: 1 });
        buf.push(&token.to_bytes());
        buf.push(&[kind as u8]);
        buf.push(&[0; HEADER_BYTES - COUNTS_AT]);
        push(buf, entry);
        pool.used() - before
    }

    /// A batch in progress without room for a run gets a larger buffer while batches may grow; else it is full.
    fn make_room(&mut self, needed: usize, pool: &mut BufferPool) {
        let Some(buf) = &mut self.filling else { return };
        if buf.room() >= needed {
            return;
        }
        let wanted = buf.content().len() + needed;
        if wanted <= HANDOVER_BATCH_BYTES {
            pool.grow(buf, class_for(wanted.max(2 * buf.capacity()).min(HANDOVER_BATCH_BYTES)));
        } else {
            self.full.extend(self.filling.take().map(|buf| Batch { buf }));
        }
    }

    fn end_run(&mut self) {
        if let (Some(run), Some(buf)) = (self.run.take(), &mut self.filling) {
            let length = buf.content().len() - run.at - HEADER_BYTES;
            let length = u32::try_from(length).expect("a batch is below 4 GiB");
            buf.overwrite(run.at + COUNTS_AT, &run.entries.to_le_bytes());
            buf.overwrite(run.at + COUNTS_AT + 4, &length.to_le_bytes());
        }
    }

    /// Everything that waits to be sent, in order.
    pub fn publish(&mut self) -> impl Iterator<Item = Batch> {
        self.end_run();
        if let Some(buf) = self.filling.take() {
            // The next batch begins with the memory that this one needed.
            let needed = buf.content().len().clamp(STAGING_BYTES_MIN, HANDOVER_BATCH_BYTES);
            self.class = class_for(needed).min(self.class_max);
            self.full.push(Batch { buf });
        }
        self.full.drain(..)
    }

    /// A batch came back.
    pub fn returned(&mut self) {
        self.outstanding -= 1;
    }

    /// Batches that are filled or under way, and have not come back.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }
}

#[inline]
fn push(buf: &mut WriteBuf, entry: Entry<'_>) {
    buf.push(entry.head);
    buf.push(entry.tail);
    buf.push(b"\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u8) -> Token {
        Token::from_bytes([number; 16])
    }

    #[test]
    fn runs_come_out_as_they_went_in() {
        let mut pool = BufferPool::new(1 << 20);
        let mut lane = Lane::new(HANDOVER_BATCH_BYTES);
        let long = vec![b'x'; 300_000];
        let entries: Vec<(u8, RunKind, &[u8])> = vec![
            (1, RunKind::Whole, b"a"),
            (1, RunKind::Whole, b"b"),
            (2, RunKind::Whole, b""),
            (1, RunKind::First, &long),
            (1, RunKind::Further, b"rest"),
            (1, RunKind::Whole, b"c"),
        ];
        let mut charged = 0;
        for &(number, kind, entry) in &entries {
            charged += lane.add(token(number), kind, entry.into(), &mut pool);
        }
        let batches: Vec<Batch> = lane.publish().collect();
        assert_eq!(charged, batches.iter().map(Batch::capacity).sum::<usize>());
        assert_eq!(lane.outstanding(), batches.len());
        let runs: Vec<Run<'_>> = batches.iter().flat_map(Batch::runs).collect();
        assert_eq!(runs.iter().map(|run| run.entries).collect::<Vec<_>>(), [2, 1, 1, 1, 1]);
        assert_eq!((runs[0].bytes, runs[1].bytes, runs[2].bytes.len()), (&b"a\nb\n"[..], &b"\n"[..], 300_001));
        assert_eq!((runs[3].kind, runs[3].bytes, runs[4].token), (RunKind::Further, &b"rest\n"[..], token(1)));
        for batch in batches {
            pool.give(batch.into_memory());
            lane.returned();
        }
        assert_eq!((pool.used(), lane.outstanding()), (0, 0));
    }

    #[test]
    fn rejected_lines_come_out_with_their_reason() {
        let mut pool = BufferPool::new(1 << 20);
        let mut lane = Lane::new(HANDOVER_BATCH_BYTES);
        for reason in Reject::NO_LOG {
            lane.add(token(0), RunKind::rejected(reason), b"a line"[..].into(), &mut pool);
        }
        let batches: Vec<Batch> = lane.publish().collect();
        let reasons: Vec<_> = batches.iter().flat_map(Batch::runs).map(|run| run.kind.reason()).collect();
        assert_eq!(reasons, Reject::NO_LOG.map(Some));
        assert!(RunKind::ALL.iter().filter(|kind| kind.reason().is_none()).count() == 5);
    }

    #[test]
    fn many_small_runs_fill_batches_of_the_usual_size() {
        let mut pool = BufferPool::new(1 << 20);
        let mut lane = Lane::new(HANDOVER_BATCH_BYTES);
        for number in 0..10_000_u32 {
            let [first, second, ..] = number.to_le_bytes();
            lane.add(token(first ^ second), RunKind::Whole, b"some words of text"[..].into(), &mut pool);
        }
        let batches: Vec<Batch> = lane.publish().collect();
        assert!(batches.iter().all(|batch| batch.capacity() <= HANDOVER_BATCH_BYTES));
        assert_eq!(batches.iter().flat_map(Batch::runs).map(|run| run.entries).sum::<u32>(), 10_000);
    }
}

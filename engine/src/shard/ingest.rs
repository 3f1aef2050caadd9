//! What a line becomes: an entry of a log, or a counted rejection.

use super::logs::{Destination, Logs, Target};
use super::outgoing::Outgoing;
use crate::buf::BufferPool;
use crate::framing::{LineSink, marked_lines};
use crate::handover::{Run, RunKind, ShardId};
use crate::metrics::Counters;
use crate::route::{LogId, deciding_token};
use crate::scan::{self, LineMark};
use crate::time::Time;
use crate::wire::entry::{KEEPALIVE, is_blank, remove_token};
use crate::wire::{Entry, Reject, Token};

/// What happens to the pieces of a long line after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Each is an entry of its own.
    Split,
    /// They are dropped.
    Truncate,
}

/// Where the further pieces of a long line go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// To the log of the first.
    Log(Token, Destination),
    /// To the lines that were rejected for this reason and are kept.
    Rejected(Reject),
}

/// Whole lines whose places are found before the first of them is stored.
///
/// The ends of so many batches are further away than the first caches reach. Asked for together they come together, while
/// stores wait for each other (a guess: it was not measured apart from the rest).
const AHEAD: usize = 16;

/// Where a line's entry goes, if it is one, and where in the line its token is. Two words; see [`Destination`].
#[derive(Clone, Copy, Debug)]
struct Place {
    destination: Destination,
    at: usize,
}

impl Place {
    const NOWHERE: Self = Self { destination: Destination::NOWHERE, at: 0 };
}

/// The sink of one connection, or of datagrams, for the length of one call. Some senders make logs, others do not.
pub(super) struct Ingest<'a, const MAKES_LOGS: bool> {
    pub(super) logs: &'a mut Logs,
    pub(super) counters: &'a mut Counters,
    pub(super) outgoing: &'a mut Outgoing,
    pub(super) last: &'a mut Option<(Token, Destination)>,
    pub(super) pieces_to: &'a mut Option<Pieces>,
    pub(super) oversize: Oversize,
    pub(super) now: Time,
}

impl<const MAKES_LOGS: bool> LineSink for Ingest<'_, MAKES_LOGS> {
    fn lines(&mut self, input: &[u8], marks: &[LineMark]) {
        let mut finding = marked_lines(input, marks);
        let mut storing = marked_lines(input, marks);
        let mut places = [Place::NOWHERE; AHEAD];
        for _ in 0..marks.len().div_ceil(AHEAD) {
            for (place, (line, token)) in places.iter_mut().zip(&mut finding) {
                *place = self.place(line, token);
                if let Target::Log(log) = place.destination.target() {
                    self.logs.expect(log, line.len());
                }
            }
            for (place, (line, token)) in places.iter().zip(&mut storing) {
                self.store_whole(*place, line, token);
            }
        }
    }

    #[inline]
    fn line(&mut self, line: &[u8], token: Option<&Token>) {
        let place = self.place(line, token);
        self.store_whole(place, line, token);
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        let decided = deciding_token(piece, |token| self.knows(token));
        let routed = decided.and_then(|(at, token)| Ok((at, token, self.route(token)?)));
        let (at, token, destination) = match routed {
            Ok(routed) => routed,
            Err(reason) => {
                *self.pieces_to = Some(Pieces::Rejected(reason));
                return self.turn_away(reason, piece) && self.oversize == Oversize::Split;
            }
        };
        self.counters.lines += 1;
        self.store(token, destination, RunKind::First, remove_token(piece, at));
        *self.pieces_to = Some(Pieces::Log(token, destination));
        self.oversize == Oversize::Split
    }

    fn further_piece(&mut self, piece: &[u8]) {
        match self.pieces_to.expect("further pieces follow a first one that was stored") {
            Pieces::Log(token, destination) => self.store(token, destination, RunKind::Further, piece.into()),
            // The line was counted with its first piece.
            Pieces::Rejected(reason) => _ = self.logs.keep(reason, piece.into(), self.outgoing, self.now),
        }
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.logs.pool
    }
}

impl<const MAKES_LOGS: bool> Ingest<'_, MAKES_LOGS> {
    /// Counts a line and finds where its entry goes, if it is one.
    #[inline]
    fn place(&mut self, line: &[u8], token: Option<&Token>) -> Place {
        match token {
            Some(token) if self.knows(*token) => self.place_entry(line, 0, *token),
            Some(_) => {
                self.turn_away(Reject::UnknownToken, line);
                Place::NOWHERE
            }
            None => self.search(line),
        }
    }

    /// The same for a line whose token is known and at `at`.
    #[inline]
    fn place_entry(&mut self, line: &[u8], at: usize, token: Token) -> Place {
        if remove_token(line, at).is_blank() {
            self.counters.reject(Reject::Empty);
            return Place::NOWHERE;
        }
        match self.route(token) {
            Ok(destination) => {
                self.counters.lines += 1;
                Place { destination, at }
            }
            Err(reason) => {
                self.turn_away(reason, line);
                Place::NOWHERE
            }
        }
    }

    /// The same for a line that does not begin with a token.
    #[inline(never)]
    fn search(&mut self, line: &[u8]) -> Place {
        match deciding_token(line, |token| self.knows(token)) {
            Ok((at, token)) => return self.place_entry(line, at, token),
            Err(_) if is_blank(line) => self.counters.reject(Reject::Empty),
            Err(_) if line == KEEPALIVE => self.counters.reject(Reject::Keepalive),
            Err(reason) => _ = self.turn_away(reason, line),
        }
        Place::NOWHERE
    }

    /// Stores the entry of a line, if it has a place.
    #[inline]
    fn store_whole(&mut self, place: Place, line: &[u8], token: Option<&Token>) {
        match place.destination.target() {
            Target::Log(log) => self.store_here(log, RunKind::Whole, remove_token(line, place.at)),
            Target::Shard(shard) => {
                let token = token.copied().or_else(|| scan::token_at_start(&line[place.at..]));
                let token = token.expect("its place was found by its token");
                self.store_there(shard, token, RunKind::Whole, remove_token(line, place.at));
            }
            Target::Nowhere => {}
        }
    }

    /// Counts a line that names no log; keeps it, where that is asked for: then `true`.
    #[cold]
    #[inline(never)]
    fn turn_away(&mut self, reason: Reject, line: &[u8]) -> bool {
        self.counters.reject(reason);
        let kept = self.logs.keep(reason, line.into(), self.outgoing, self.now);
        self.counters.kept_lines += u64::from(kept);
        kept
    }

    /// Whether the token may name a log.
    #[inline]
    fn knows(&self, token: Token) -> bool {
        let Some(known) = self.logs.known() else { return true };
        self.last.is_some_and(|(last, _)| last == token) || known.contains(token)
    }

    #[inline]
    fn route(&mut self, token: Token) -> Result<Destination, Reject> {
        if let Some((last, destination)) = *self.last
            && last == token
        {
            return Ok(destination);
        }
        let destination = self.logs.route(token, MAKES_LOGS, self.now)?;
        *self.last = Some((token, destination));
        Ok(destination)
    }

    #[inline]
    fn store(&mut self, token: Token, destination: Destination, kind: RunKind, entry: Entry<'_>) {
        match destination.target() {
            Target::Log(log) => self.store_here(log, kind, entry),
            Target::Shard(shard) => self.store_there(shard, token, kind, entry),
            Target::Nowhere => {}
        }
    }

    #[inline]
    fn store_here(&mut self, log: LogId, kind: RunKind, entry: Entry<'_>) {
        count(self.counters, kind, 1, entry.len() as u64 + 1);
        self.logs.append(log, entry, self.now);
    }

    #[inline]
    fn store_there(&mut self, shard: ShardId, token: Token, kind: RunKind, entry: Entry<'_>) {
        let kind = if MAKES_LOGS { kind } else { kind.of_existing() };
        self.outgoing.add(shard, token, kind, entry, &mut self.logs.pool);
    }
}

/// Takes entries that another shard received and counted as lines: the owner of their log counts what becomes of them.
/// Rejected ones are kept, where that is asked for, as long as something may be handed on to yet another shard.
pub(super) fn absorb(
    run: Run<'_>,
    logs: &mut Logs,
    counters: &mut Counters,
    outgoing: Option<&mut Outgoing>,
    now: Time,
) {
    if let Some(reason) = run.kind.reason() {
        let log = logs.rejected_log(reason);
        return logs.append_run(log, run.bytes, run.entries, now);
    }
    let log = match run.kind {
        // These make no log: if the first piece was rejected, they go with it.
        RunKind::Further => logs.find(run.token).ok_or(None),
        kind => match logs.route(run.token, kind.makes_logs(), now).map(Destination::target) {
            Ok(Target::Log(log)) => Ok(log),
            Ok(Target::Shard(_) | Target::Nowhere) => unreachable!("entries are handed to the owner of their log"),
            Err(reason) => Err(Some(reason)),
        },
    };
    match log {
        Ok(log) => {
            count(counters, run.kind, run.entries.into(), run.bytes.len() as u64);
            logs.append_run(log, run.bytes, run.entries, now);
        }
        Err(Some(reason)) => {
            counters.reject_counted(reason, run.entries.into());
            if let Some(outgoing) = outgoing {
                keep_run(run, reason, logs, counters, outgoing, now);
            }
        }
        Err(None) => {}
    }
}

/// The lines are gone, but each entry with its token in front of it is a line that says the same.
#[cold]
fn keep_run(
    run: Run<'_>,
    reason: Reject,
    logs: &mut Logs,
    counters: &mut Counters,
    outgoing: &mut Outgoing,
    now: Time,
) {
    let head = format!("{} ", run.token);
    for entry in run.bytes.split_inclusive(|&byte| byte == b'\n') {
        let tail = entry.strip_suffix(b"\n").unwrap_or(entry);
        let kept = logs.keep(reason, Entry { head: head.as_bytes(), tail }, outgoing, now);
        counters.kept_lines += u64::from(kept);
    }
}

/// Counts entries that were taken.
#[inline]
pub(super) fn count(counters: &mut Counters, kind: RunKind, entries: u64, bytes: u64) {
    match kind {
        RunKind::Whole | RunKind::WholeOfExisting => {}
        RunKind::First | RunKind::FirstOfExisting => counters.split_lines += entries,
        RunKind::Further => counters.split_pieces += entries,
        // No entries: they were counted where they were rejected.
        RunKind::NoToken | RunKind::UnknownToken | RunKind::TooManyTokens => return,
    }
    counters.entries += entries;
    counters.entry_bytes += bytes;
}

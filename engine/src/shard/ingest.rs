//! What a line becomes: an entry of a log, or a counted rejection.

use super::logs::{Destination, Logs};
use super::outgoing::Outgoing;
use crate::buf::BufferPool;
use crate::framing::LineSink;
use crate::handover::{Run, RunKind};
use crate::metrics::Counters;
use crate::route::deciding_token;
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

/// The sink of one connection for the length of one call.
pub(super) struct Ingest<'a> {
    pub(super) logs: &'a mut Logs,
    pub(super) counters: &'a mut Counters,
    pub(super) outgoing: &'a mut Outgoing,
    pub(super) last: &'a mut Option<(Token, Destination)>,
    pub(super) pieces_to: &'a mut Option<(Token, Destination)>,
    pub(super) oversize: Oversize,
    pub(super) now: Time,
}

impl LineSink for Ingest<'_> {
    #[inline]
    fn line(&mut self, line: &[u8], token: Option<&Token>) {
        let (at, token) = match token {
            Some(token) => (0, *token),
            None => match without_token_in_front(line) {
                Ok(found) => found,
                Err(reason) => return self.counters.reject(reason),
            },
        };
        let entry = remove_token(line, at);
        if entry.is_blank() {
            return self.counters.reject(Reject::Empty);
        }
        match self.route(token) {
            Some(destination) => {
                self.counters.lines += 1;
                self.store(token, destination, RunKind::Whole, entry);
            }
            None => self.counters.reject(Reject::TooManyTokens),
        }
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        let Some((at, token)) = deciding_token(piece) else {
            self.counters.reject(Reject::NoToken);
            return false;
        };
        let Some(destination) = self.route(token) else {
            self.counters.reject(Reject::TooManyTokens);
            return false;
        };
        self.counters.lines += 1;
        self.store(token, destination, RunKind::First, remove_token(piece, at));
        *self.pieces_to = Some((token, destination));
        self.oversize == Oversize::Split
    }

    fn further_piece(&mut self, piece: &[u8]) {
        let (token, destination) = self.pieces_to.expect("further pieces follow a first one that was stored");
        self.store(token, destination, RunKind::Further, piece.into());
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.logs.pool
    }
}

impl Ingest<'_> {
    #[inline]
    fn route(&mut self, token: Token) -> Option<Destination> {
        if let Some((last, destination)) = *self.last
            && last == token
        {
            return Some(destination);
        }
        let destination = self.logs.route(token, self.now)?;
        *self.last = Some((token, destination));
        Some(destination)
    }

    #[inline]
    fn store(&mut self, token: Token, destination: Destination, kind: RunKind, entry: Entry<'_>) {
        match destination {
            Destination::Log(log) => {
                count(self.counters, kind, 1, entry.len() as u64 + 1);
                self.logs.append(log, entry, self.now);
            }
            Destination::Shard(shard) => self.outgoing.add(shard, token, kind, entry, &mut self.logs.pool),
        }
    }
}

/// Takes entries that another shard received and counted as lines: the owner of their log counts what becomes of them.
pub(super) fn absorb(run: Run<'_>, logs: &mut Logs, counters: &mut Counters, now: Time) {
    let log = match run.kind {
        // These make no log: if the first piece was rejected, they go with it.
        RunKind::Further => logs.find(run.token),
        RunKind::Whole | RunKind::First => match logs.route(run.token, now) {
            Some(Destination::Log(log)) => Some(log),
            // Nobody else owns it: there may be no more logs, or not yet.
            Some(Destination::Shard(_)) | None => None,
        },
    };
    match log {
        Some(log) => {
            count(counters, run.kind, run.entries, run.bytes.len() as u64);
            logs.append_run(log, run.bytes, now);
        }
        None if run.kind == RunKind::Further => {}
        None => counters.reject_counted(Reject::TooManyTokens, run.entries),
    }
}

/// Counts entries that were taken.
#[inline]
pub(super) fn count(counters: &mut Counters, kind: RunKind, entries: u64, bytes: u64) {
    counters.entries += entries;
    counters.entry_bytes += bytes;
    match kind {
        RunKind::Whole => {}
        RunKind::First => counters.split_lines += entries,
        RunKind::Further => counters.split_pieces += entries,
    }
}

fn without_token_in_front(line: &[u8]) -> Result<(usize, Token), Reject> {
    if let Some(found) = deciding_token(line) {
        return Ok(found);
    }
    Err(if is_blank(line) {
        Reject::Empty
    } else if line == KEEPALIVE {
        Reject::Keepalive
    } else {
        Reject::NoToken
    })
}

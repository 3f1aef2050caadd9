//! What a line becomes: an entry of a log, or a counted rejection.

use super::logs::Logs;
use crate::buf::BufferPool;
use crate::framing::LineSink;
use crate::metrics::Counters;
use crate::route::{LogId, deciding_token};
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
    pub(super) last: &'a mut Option<(Token, LogId)>,
    pub(super) pieces_to: &'a mut Option<LogId>,
    pub(super) oversize: Oversize,
    pub(super) now: Time,
}

impl LineSink for Ingest<'_> {
    #[inline]
    fn line(&mut self, line: &[u8], token: Option<Token>) {
        let (at, token) = match token {
            Some(token) => (0, token),
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
            Some(log) => {
                self.counters.lines += 1;
                self.store(log, entry);
            }
            None => self.counters.reject(Reject::TooManyTokens),
        }
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        let Some((at, token)) = deciding_token(piece) else {
            self.counters.reject(Reject::NoToken);
            return false;
        };
        let Some(log) = self.route(token) else {
            self.counters.reject(Reject::TooManyTokens);
            return false;
        };
        self.counters.lines += 1;
        self.counters.split_lines += 1;
        self.store(log, remove_token(piece, at));
        *self.pieces_to = Some(log);
        self.oversize == Oversize::Split
    }

    fn further_piece(&mut self, piece: &[u8]) {
        let log = self.pieces_to.expect("further pieces follow a first one that was stored");
        self.counters.split_pieces += 1;
        self.store(log, piece.into());
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.logs.pool
    }
}

impl Ingest<'_> {
    #[inline]
    fn route(&mut self, token: Token) -> Option<LogId> {
        if let Some((last, log)) = *self.last
            && last == token
        {
            return Some(log);
        }
        let log = self.logs.route(token)?;
        *self.last = Some((token, log));
        Some(log)
    }

    #[inline]
    fn store(&mut self, log: LogId, entry: Entry<'_>) {
        self.counters.entries += 1;
        self.counters.entry_bytes += entry.len() as u64 + 1;
        self.logs.append(log, entry, self.now);
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

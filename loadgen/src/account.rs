//! What was stored, against what was acknowledged: entry by entry, without I/O.
//!
//! A receiver owes every whole line among the bytes that its TCP acknowledged. For each connection:
//!
//! ```text
//!   sequence  0 ─────────────────────── acknowledged ─────────── sent ───►
//!             │ each stored exactly once │ may be stored: `beyond` │ cannot be stored
//! ```
//!
//! | count | of |
//! | --- | --- |
//! | stored | entries that stand somewhere, intact; the second copy of one does not count |
//! | lost | acknowledged and not stored |
//! | duplicated | copies beyond the first |
//! | reordered | stored behind a later entry of the same connection in the same log |
//! | damaged | naming this run, and not what it sent; the entry that it was is as a rule lost too |
//! | wrong log | copies that stand in the log of another token |
//! | beyond | stored and not acknowledged: in flight when the connection ended, and no fault |
//!
//! Entries of other runs, and lines that nobody made here, are counted apart and judged by nobody.

use crate::payload::{Parsed, parse};
use crate::plan::Plan;
use crate::sender::Outcome;

/// What was found of one connection, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different entries that stand somewhere, intact.
    pub stored: u64,
    /// Acknowledged entries that stand nowhere.
    pub lost: u64,
    /// Copies beyond the first.
    pub duplicated: u64,
    /// Entries behind a later one of the same connection in the same log.
    pub reordered: u64,
    /// Entries that name this run and are not what it sent.
    pub damaged: u64,
    /// Copies in the log of another token.
    pub wrong_log: u64,
    /// Of the stored: those that were not acknowledged.
    pub beyond: u64,
}

impl Tally {
    /// Nothing is lost, duplicated, reordered, damaged or in the wrong log.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicated, self.reordered, self.damaged, self.wrong_log] == [0; 5]
    }

    fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.wrong_log += other.wrong_log;
        self.beyond += other.beyond;
    }
}

/// The account of one run, open until every log is read.
#[derive(Debug)]
pub struct Account {
    plan: Plan,
    connections: Vec<ConnectionAccount>,
    /// Damaged entries that name this run and a connection that it does not have.
    damaged_elsewhere: u64,
    /// Intact entries of other runs.
    pub other_runs: u64,
    /// Lines that no run made, or that are damaged beyond recognition.
    pub unknown: u64,
}

impl Account {
    /// An account in which everything acknowledged is still missing.
    #[must_use]
    pub fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let connections = outcome
            .connections
            .iter()
            .map(|sent| ConnectionAccount::new(plan.tokens.len(), sent.entries_acknowledged, sent.entries_sent))
            .collect();
        Self { plan: plan.clone(), connections, damaged_elsewhere: 0, other_runs: 0, unknown: 0 }
    }

    /// Takes the next entry of a log: the index of its token, or `None` if the run does not write to that log.
    pub fn entry(&mut self, log: Option<usize>, entry: &[u8]) {
        match parse(entry) {
            Parsed::Unknown => self.unknown += 1,
            Parsed::Intact { run, .. } if run != self.plan.run => self.other_runs += 1,
            Parsed::Damaged { run, .. } if run != self.plan.run => self.unknown += 1,
            Parsed::Damaged { connection, .. } => self.damaged(connection),
            Parsed::Intact { connection, sequence, .. } => self.intact(log, connection, sequence, entry.len()),
        }
    }

    /// Takes what stands behind the last LF of a segment.
    pub fn torn(&mut self, rest: &[u8]) {
        match parse(rest) {
            Parsed::Intact { run, connection, .. } | Parsed::Damaged { run, connection } if run == self.plan.run => {
                self.damaged(connection);
            }
            _ => self.unknown += 1,
        }
    }

    fn intact(&mut self, log: Option<usize>, connection: u32, sequence: u32, bytes: usize) {
        let (token, of_log) = (self.plan.token_of(connection, sequence), bytes == self.plan.layout.entry_size());
        match self.connections.get_mut(connection as usize) {
            Some(account) if of_log && u64::from(sequence) < account.sent => {
                account.stored(sequence, token, log == Some(token));
            }
            _ => self.damaged(connection),
        }
    }

    fn damaged(&mut self, connection: u32) {
        match self.connections.get_mut(connection as usize) {
            Some(account) => account.tally.damaged += 1,
            None => self.damaged_elsewhere += 1,
        }
    }

    /// Nothing that was acknowledged is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.connections.iter().all(|account| account.tally().lost == 0)
    }

    /// What was found of each connection.
    pub fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.connections.iter().map(ConnectionAccount::tally)
    }

    /// What was found of all connections.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally { damaged: self.damaged_elsewhere, ..Tally::default() };
        for tally in self.tallies() {
            total.add(&tally);
        }
        total
    }
}

#[derive(Debug)]
struct ConnectionAccount {
    acknowledged: u64,
    sent: u64,
    /// A bit for each sequence that stands somewhere.
    seen: Vec<u64>,
    /// For each token, the sequence after the highest that its log has shown.
    next: Vec<u64>,
    tally: Tally,
}

impl ConnectionAccount {
    fn new(tokens: usize, acknowledged: u64, sent: u64) -> Self {
        debug_assert!(acknowledged <= sent);
        Self { acknowledged, sent, seen: Vec::new(), next: vec![0; tokens], tally: Tally::default() }
    }

    fn stored(&mut self, sequence: u32, token: usize, in_its_log: bool) {
        let is_first = self.mark(sequence);
        let sequence = u64::from(sequence);
        if !is_first {
            self.tally.duplicated += 1;
        } else if sequence < self.acknowledged {
            self.tally.stored += 1;
        } else {
            self.tally.stored += 1;
            self.tally.beyond += 1;
        }
        if !in_its_log {
            self.tally.wrong_log += 1;
        } else if sequence >= self.next[token] {
            self.next[token] = sequence + 1;
        } else if is_first {
            self.tally.reordered += 1;
        }
    }

    /// Marks a sequence as seen; `false` if it was before.
    fn mark(&mut self, sequence: u32) -> bool {
        let (word, bit) = (sequence as usize / 64, 1 << (sequence % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let is_first = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_first
    }

    fn tally(&self) -> Tally {
        Tally { lost: self.acknowledged - (self.tally.stored - self.tally.beyond), ..self.tally }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Renderer;
    use crate::payload::tests::stored;
    use crate::plan::tests::plan;
    use crate::sender::{ConnectionOutcome, Ending};
    use std::time::Duration;

    const SENT: u32 = 20;
    const ACKNOWLEDGED: u32 = 18;

    /// Two connections, three tokens; of twenty entries each, the last two were not acknowledged.
    struct Fixture {
        plan: Plan,
        account: Account,
        /// Log and entry, as connection 1 sent them.
        entries: Vec<(Option<usize>, Vec<u8>)>,
    }

    fn fixture() -> Fixture {
        let plan = plan(2, 3, 100);
        let connection = ConnectionOutcome {
            bytes_sent: u64::from(SENT) * 100,
            bytes_acknowledged: u64::from(ACKNOWLEDGED) * 100 + 99,
            entries_sent: u64::from(SENT),
            entries_acknowledged: u64::from(ACKNOWLEDGED),
            entries_behind: 0,
            ending: Ending::ByReceiver,
        };
        let outcome = Outcome { elapsed: Duration::from_secs(1), connections: vec![connection; 2] };
        let mut account = Account::new(&plan, &outcome);
        for (log, entry) in entries_of(&plan, 0).take(ACKNOWLEDGED as usize) {
            account.entry(log, &entry);
        }
        let entries = entries_of(&plan, 1).collect();
        Fixture { plan, account, entries }
    }

    fn entries_of(plan: &Plan, connection: u32) -> impl Iterator<Item = (Option<usize>, Vec<u8>)> {
        let (mut renderer, mut batch) = Renderer::new(plan, connection);
        let bytes = renderer.render(&plan.tokens, &mut batch, SENT as usize);
        batch.truncate(bytes);
        (0..SENT).map(move |sequence| {
            let log = plan.token_of(connection, sequence);
            let line = &batch[sequence as usize * plan.layout.size()..][..plan.layout.size()];
            (Some(log), stored(line, &plan.tokens[log]))
        })
    }

    fn settle(change: impl FnOnce(&mut Vec<(Option<usize>, Vec<u8>)>)) -> Tally {
        let Fixture { plan: _, mut account, mut entries } = fixture();
        entries.truncate(ACKNOWLEDGED as usize);
        change(&mut entries);
        for (log, entry) in &entries {
            account.entry(*log, entry);
        }
        assert_eq!(account.tallies().next().unwrap(), CLEAN);
        assert_eq!(account.is_complete(), account.total().lost == 0);
        account.tallies().nth(1).unwrap()
    }

    const CLEAN: Tally = Tally {
        stored: ACKNOWLEDGED as u64,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        damaged: 0,
        wrong_log: 0,
        beyond: 0,
    };

    #[test]
    fn all_stored_is_clean() {
        assert_eq!(settle(|_| ()), CLEAN);
        assert!(CLEAN.is_clean());
    }

    #[test]
    fn each_fault_has_its_counter() {
        let missing = CLEAN.stored - 1;
        assert_eq!(settle(|entries| drop(entries.remove(4))), Tally { stored: missing, lost: 1, ..CLEAN });
        assert_eq!(settle(|entries| drop(entries.pop())), Tally { stored: missing, lost: 1, ..CLEAN });
        let doubled = settle(|entries| entries.insert(9, entries[4].clone()));
        assert_eq!(doubled, Tally { duplicated: 1, ..CLEAN });
        // Neighbours in one log are three apart, because there are three tokens.
        assert_eq!(settle(|entries| entries.swap(4, 7)), Tally { reordered: 1, ..CLEAN });
        assert_eq!(settle(|entries| entries[4].1[40] ^= 1), Tally { stored: missing, lost: 1, damaged: 1, ..CLEAN });
        assert_eq!(settle(|entries| entries[4].0 = Some(0)), Tally { wrong_log: 1, ..CLEAN });
        assert_eq!(settle(|entries| entries[4].0 = None), Tally { wrong_log: 1, ..CLEAN });
    }

    #[test]
    fn order_counts_within_one_log_only() {
        assert_eq!(settle(|entries| entries.swap(4, 5)), CLEAN);
    }

    #[test]
    fn what_was_in_flight_is_counted_apart() {
        let Fixture { mut account, entries, .. } = fixture();
        for (log, entry) in &entries {
            account.entry(*log, entry);
        }
        let tally = account.tallies().nth(1).unwrap();
        assert_eq!(tally, Tally { stored: u64::from(SENT), beyond: 2, ..CLEAN });
        assert!(tally.is_clean());
    }

    #[test]
    fn strangers_are_not_judged() {
        let Fixture { plan, mut account, .. } = fixture();
        let before = account.total();
        account.entry(Some(0), b"written by hand");
        let other = Plan { run: plan.run + 1, ..plan };
        for (log, entry) in entries_of(&other, 0) {
            account.entry(log, &entry);
        }
        assert_eq!((account.unknown, account.other_runs), (1, u64::from(SENT)));
        assert_eq!(account.total(), before);
    }

    #[test]
    fn an_entry_that_was_never_sent_is_damage() {
        let Fixture { plan, mut account, entries } = fixture();
        let more = Plan { connections: 3, ..plan };
        for (log, entry) in entries_of(&more, 2).take(1) {
            account.entry(log, &entry);
        }
        account.torn(&entries[0].1);
        assert_eq!(account.total().damaged, 2);
    }
}

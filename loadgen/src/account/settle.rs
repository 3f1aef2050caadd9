//! The settlement: what the logs hold, against what the sender says it sent.
//!
//! Everything is named, not only counted: lost entries as ranges of sequences, and each cut with the entries that it
//! left in flight.

use std::ops::Range;

use super::{Account, Seen};
use crate::plan::Plan;
use crate::sender::{Attempt, Outcome};

/// Ranges of lost entries that are named, over all connections. What a killed receiver had not written is scattered over
/// its logs, so one range may be one entry.
const RANGES_MAX: usize = 200_000;

/// What was found of one connection, of one token, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Entries of which at least a byte was sent.
    pub sent: u64,
    /// Entries that TCP acknowledged whole; over UDP all that were sent.
    pub acknowledged: u64,
    /// Different entries that stand somewhere, intact.
    pub stored: u64,
    /// Acknowledged entries that stand nowhere.
    pub lost: u64,
    /// Of the lost: those at the end of what a log has of a socket that was cut.
    pub lost_at_cut: u64,
    /// Copies beyond the first.
    pub duplicated: u64,
    /// Entries behind a later one of the same connection in the same log.
    pub reordered: u64,
    /// Entries that name this run and are not what it sent.
    pub damaged: u64,
    /// Copies in the log of another token.
    pub wrong_log: u64,
    /// Sent, and not acknowledged before the socket ended.
    pub in_flight: u64,
    /// Of those in flight: stored.
    pub beyond: u64,
}

impl Tally {
    /// Nothing is lost, duplicated, reordered, damaged or in the wrong log.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicated, self.reordered, self.damaged, self.wrong_log] == [0; 5]
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.stored += other.stored;
        self.lost += other.lost;
        self.lost_at_cut += other.lost_at_cut;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.damaged += other.damaged;
        self.wrong_log += other.wrong_log;
        self.in_flight += other.in_flight;
        self.beyond += other.beyond;
    }

    /// Counts an entry by whether it was acknowledged and stored.
    fn count(&mut self, is_acknowledged: bool, is_stored: bool) {
        self.sent += 1;
        self.stored += u64::from(is_stored);
        if is_acknowledged {
            self.acknowledged += 1;
            self.lost += u64::from(!is_stored);
        } else {
            self.in_flight += 1;
            self.beyond += u64::from(is_stored);
        }
    }
}

/// A socket that the receiver ended, or that had to be cut, and what was in flight on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The connection.
    pub connection: u32,
    /// Which of its sockets, from 0.
    pub attempt: usize,
    /// When, in nanoseconds since the start of the run.
    pub at: u64,
    /// Sequences that were sent and not acknowledged.
    pub in_flight: Range<u64>,
    /// How many of these are stored.
    pub stored: u64,
    /// Entries that were acknowledged and that the receiver had not brought to their log.
    pub lost_at_cut: u64,
}

/// The account of a run, settled.
#[derive(Debug)]
pub struct Settled {
    /// Of all.
    pub total: Tally,
    /// By connection.
    pub connections: Vec<Tally>,
    /// By token. What is damaged, twice or in the wrong log counts where it was found, all else where it belongs.
    pub tokens: Vec<Tally>,
    /// Sockets that ended early.
    pub cuts: Vec<Cut>,
    /// Lost entries: the connection, and a range of its sequences.
    pub lost: Vec<(u32, Range<u64>)>,
    /// Lost entries beyond those that are named.
    pub lost_unnamed: u64,
    /// Intact entries of other runs.
    pub other_runs: u64,
    /// Lines that no run made, or that are damaged beyond recognition.
    pub unknown: u64,
}

impl Account {
    /// Nothing that was acknowledged is missing.
    #[must_use]
    pub fn is_complete(&self, outcome: &Outcome) -> bool {
        let missing = |(seen, attempt): (&Seen, &Attempt)| {
            seen.count(attempt.first, attempt.acknowledged) < attempt.acknowledged - attempt.first
        };
        let sockets = self.connections.iter().zip(&outcome.connections);
        !sockets.flat_map(|(seen, sent)| sent.attempts.iter().map(move |attempt| (seen, attempt))).any(missing)
    }

    /// Settles the account: no more entries will come.
    #[must_use]
    pub fn settle(self, outcome: &Outcome) -> Settled {
        let mut settled = Settled {
            total: Tally { damaged: self.damaged_elsewhere, ..Tally::default() },
            connections: self.by_connection,
            tokens: self.by_token,
            cuts: Vec::new(),
            lost: Vec::new(),
            lost_unnamed: 0,
            other_runs: self.other_runs,
            unknown: self.unknown,
        };
        for ((connection, seen), sent) in (0..).zip(&self.connections).zip(&outcome.connections) {
            for (ordinal, attempt) in sent.attempts.iter().enumerate() {
                settled.take_attempt(&self.plan, connection, seen, attempt);
                if attempt.is_cut {
                    settled.take_cut(&self.plan, connection, seen, (ordinal, attempt));
                }
            }
            // Intact, and still not sent: a checksum that is right by chance, or an entry of a run with the same number.
            let tally = &mut settled.connections[connection as usize];
            tally.damaged += seen.count(0, seen.bits.len() as u64 * 64) - tally.stored;
            settled.total.add(tally);
        }
        settled
    }
}

impl Settled {
    fn take_attempt(&mut self, plan: &Plan, connection: u32, seen: &Seen, attempt: &Attempt) {
        for sequence in attempt.first..attempt.sent {
            let (is_acknowledged, is_stored) = (sequence < attempt.acknowledged, seen.has(sequence));
            self.connections[connection as usize].count(is_acknowledged, is_stored);
            self.tokens[plan.token_of(connection, sequence as u32)].count(is_acknowledged, is_stored);
            if is_acknowledged && !is_stored {
                self.name_lost(connection, sequence);
            }
        }
    }

    fn name_lost(&mut self, connection: u32, sequence: u64) {
        if let Some((of, range)) = self.lost.last_mut()
            && *of == connection
            && range.end == sequence
        {
            range.end += 1;
        } else if self.lost.len() < RANGES_MAX {
            self.lost.push((connection, sequence..sequence + 1));
        } else {
            self.lost_unnamed += 1;
        }
    }

    /// Goes back from the end of the socket: in each log, what is missing until the first that is stored.
    fn take_cut(&mut self, plan: &Plan, connection: u32, seen: &Seen, (ordinal, attempt): (usize, &Attempt)) {
        let mut has_later = vec![false; plan.tokens.list.len()];
        let mut lost_at_cut = 0;
        for sequence in (attempt.first..attempt.sent).rev() {
            let token = plan.token_of(connection, sequence as u32);
            if seen.has(sequence) {
                has_later[token] = true;
            } else if !has_later[token] && sequence < attempt.acknowledged {
                self.tokens[token].lost_at_cut += 1;
                lost_at_cut += 1;
            }
        }
        self.connections[connection as usize].lost_at_cut += lost_at_cut;
        self.cuts.push(Cut {
            connection,
            attempt: ordinal,
            at: attempt.ended_at,
            in_flight: attempt.acknowledged..attempt.sent,
            stored: seen.count(attempt.acknowledged, attempt.sent),
            lost_at_cut,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Renderer;
    use crate::payload::render::tests::stored;
    use crate::plan::Plan;
    use crate::plan::tests::plan;
    use crate::sender::{Amount, ConnectionOutcome, Ending};
    use std::sync::Arc;
    use std::time::Duration;

    const SENT: u64 = 20;
    const ACKNOWLEDGED: u64 = 18;

    type Entries = Vec<(Option<usize>, Vec<u8>)>;

    fn entries_of(plan: &Plan, connection: u32) -> Entries {
        let (mut renderer, mut batch) = Renderer::new(plan, connection);
        renderer.render(plan, &mut batch, &[0; SENT as usize]);
        let entry = |sequence| {
            let log = plan.token_of(connection, sequence as u32);
            let line = &batch[renderer.start_of(sequence)..renderer.end_of(sequence)];
            (Some(log), stored(line, &plan.tokens.list[log]))
        };
        (0..SENT).map(entry).collect()
    }

    /// Two connections; of twenty entries each, the last two were not acknowledged.
    fn outcome() -> Outcome {
        let attempt = Attempt { first: 0, sent: SENT, acknowledged: ACKNOWLEDGED, ended_at: 5, is_cut: true };
        let connection = ConnectionOutcome {
            bytes_sent: SENT * 100,
            bytes_acknowledged: ACKNOWLEDGED * 100 + 99,
            entries_behind: 0,
            warmup: Amount::default(),
            ending: Ending::ByReceiver,
            attempts: vec![attempt],
        };
        Outcome {
            elapsed: Duration::ZERO,
            sending: Duration::ZERO,
            acknowledging: Duration::ZERO,
            stopped: None,
            waited: None,
            suite: None,
            connections: vec![connection; 2],
        }
    }

    /// Three tokens; of connection 0 all that was acknowledged is stored, of connection 1 what `change` leaves of it.
    fn settle(change: impl FnOnce(&mut Entries)) -> Settled {
        let plan = Arc::new(plan(2, 3, 100));
        let mut account = Account::new(&plan);
        let mut entries = entries_of(&plan, 1);
        entries.truncate(ACKNOWLEDGED as usize);
        change(&mut entries);
        for (log, entry) in entries_of(&plan, 0).iter().take(ACKNOWLEDGED as usize).chain(&entries) {
            account.entry(*log, entry);
        }
        let is_complete = account.is_complete(&outcome());
        let settled = account.settle(&outcome());
        assert_eq!(settled.connections[0], CLEAN);
        assert_eq!(is_complete, settled.total.lost == 0);
        let mut sum = Tally::default();
        settled.tokens.iter().for_each(|tally| sum.add(tally));
        // A stray stands in no log of the run.
        assert_eq!(Tally { wrong_log: settled.total.wrong_log, ..sum }, settled.total);
        for tally in settled.connections.iter().chain([&settled.total]) {
            assert_eq!(tally.sent, tally.stored + tally.lost + tally.in_flight - tally.beyond);
        }
        settled
    }

    fn tally(change: impl FnOnce(&mut Entries)) -> Tally {
        settle(change).connections[1]
    }

    const CLEAN: Tally = Tally {
        sent: SENT,
        acknowledged: ACKNOWLEDGED,
        stored: ACKNOWLEDGED,
        lost: 0,
        lost_at_cut: 0,
        duplicated: 0,
        reordered: 0,
        damaged: 0,
        wrong_log: 0,
        in_flight: SENT - ACKNOWLEDGED,
        beyond: 0,
    };

    #[test]
    fn all_stored_is_clean() {
        assert_eq!(tally(|_| ()), CLEAN);
        assert!(CLEAN.is_clean());
    }

    #[test]
    fn each_fault_has_its_counter() {
        let missing = Tally { stored: CLEAN.stored - 1, lost: 1, ..CLEAN };
        assert_eq!(tally(|entries| drop(entries.remove(4))), missing);
        assert_eq!(tally(|entries| drop(entries.pop())), Tally { lost_at_cut: 1, ..missing });
        let doubled = tally(|entries| entries.insert(9, entries[4].clone()));
        assert_eq!(doubled, Tally { duplicated: 1, ..CLEAN });
        // Neighbours in one log are three apart, because there are three tokens.
        assert_eq!(tally(|entries| entries.swap(4, 7)), Tally { reordered: 1, ..CLEAN });
        assert_eq!(tally(|entries| entries[4].1[40] ^= 1), Tally { damaged: 1, ..missing });
        assert_eq!(tally(|entries| entries[4].0 = Some(0)), Tally { wrong_log: 1, ..CLEAN });
        assert_eq!(tally(|entries| entries[4].0 = None), Tally { wrong_log: 1, ..CLEAN });
    }

    #[test]
    fn order_counts_within_one_log_only() {
        assert_eq!(tally(|entries| entries.swap(4, 5)), CLEAN);
    }

    #[test]
    fn what_is_lost_is_named() {
        let settled = settle(|entries| {
            entries.drain(15..);
            entries.drain(3..6);
        });
        assert_eq!(settled.lost, [(1, 3..6), (1, 15..18)]);
        // Three logs lack their last entry, and one an earlier one each.
        assert_eq!((settled.total.lost, settled.total.lost_at_cut), (6, 3));
        let cut = Cut { connection: 1, attempt: 0, at: 5, in_flight: 18..20, stored: 0, lost_at_cut: 3 };
        assert_eq!(settled.cuts[1], cut);
    }

    #[test]
    fn what_was_in_flight_is_counted_apart() {
        let settled = settle(|entries| entries.push(entries_of(&plan(2, 3, 100), 1)[18].clone()));
        assert_eq!(settled.connections[1], Tally { stored: CLEAN.stored + 1, beyond: 1, ..CLEAN });
        assert!(settled.total.is_clean());
        assert_eq!((settled.cuts[1].in_flight.clone(), settled.cuts[1].stored), (18..20, 1));
    }

    #[test]
    fn strangers_are_not_judged() {
        let plan = Arc::new(plan(2, 3, 100));
        let mut account = Account::new(&plan);
        assert_eq!(account.entry(Some(0), b"written by hand"), None);
        let other = Plan { run: plan.run + 1, ..Plan::clone(&plan) };
        for (log, entry) in entries_of(&other, 0) {
            assert_eq!(account.entry(log, &entry), None);
        }
        let settled = account.settle(&outcome());
        assert_eq!((settled.unknown, settled.other_runs), (1, SENT));
        assert_eq!((settled.total.stored, settled.total.damaged), (0, 0));
    }

    #[test]
    fn an_entry_that_was_never_sent_is_damage() {
        let plan = Arc::new(plan(2, 3, 100));
        let mut account = Account::new(&plan);
        let more = Plan { connections: 3, ..Plan::clone(&plan) };
        account.entry(Some(0), &entries_of(&more, 2)[0].1);
        account.torn(Some(0), &entries_of(&plan, 1)[0].1);
        account.entry(Some(0), &entries_of(&plan, 1)[19].1);
        let mut outcome = outcome();
        outcome.connections[1].attempts[0].sent = 19;
        assert_eq!(account.settle(&outcome).total.damaged, 3);
    }
}

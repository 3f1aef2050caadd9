//! When each entry was actually sent, for the follower: the entry itself carries only when it should have been.
//!
//! A write carries consecutive entries of one connection, so a row a write is enough. The follower looks rows up while
//! the sender adds them; only the newest are kept.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Rows kept for all connections, 16 bytes each: ten seconds of 100,000 writes a second. Some room more than a follower
/// may be late, and little enough to be laid out before the run: to make more of it while sending would take
/// milliseconds.
const ROWS_MAX: usize = 1 << 20;
/// Rows kept for one connection at least.
const ROWS_MIN: usize = 256;

/// Actual send times of all connections.
#[derive(Debug)]
pub struct SendTimes {
    rows_max: usize,
    connections: Vec<Mutex<VecDeque<Row>>>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    first_sequence: u32,
    nanos: u64,
}

impl SendTimes {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(connections: u32) -> Self {
        let rows_max = (ROWS_MAX / connections as usize).max(ROWS_MIN);
        let rows = |_| {
            let mut rows = VecDeque::from(vec![Row { first_sequence: u32::MAX, nanos: u64::MAX }; rows_max]);
            rows.clear();
            Mutex::new(rows)
        };
        Self { rows_max, connections: (0..connections).map(rows).collect() }
    }

    /// The entries of a connection from a sequence on are sent at this time.
    pub fn add(&self, connection: u32, first_sequence: u32, nanos: u64) {
        let mut rows = self.rows(connection);
        if rows.len() == self.rows_max {
            rows.pop_front();
        }
        rows.push_back(Row { first_sequence, nanos });
    }

    /// When an entry was sent, if that is still known.
    #[must_use]
    pub fn of(&self, connection: u32, sequence: u32) -> Option<u64> {
        let rows = self.rows(connection);
        let after = rows.partition_point(|row| row.first_sequence <= sequence);
        after.checked_sub(1).map(|row| rows[row].nanos)
    }

    fn rows(&self, connection: u32) -> std::sync::MutexGuard<'_, VecDeque<Row>> {
        self.connections[connection as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_time_of_its_write() {
        let times = SendTimes::new(2);
        for (first, nanos) in [(0, 10), (3, 20), (4, 30)] {
            times.add(1, first, nanos);
        }
        let found: Vec<_> = (0..6).map(|sequence| times.of(1, sequence)).collect();
        assert_eq!(found, [10, 10, 10, 20, 30, 30].map(Some));
        assert_eq!(times.of(0, 0), None);
    }

    #[test]
    fn old_rows_go() {
        let times = SendTimes::new(1);
        (0..=ROWS_MAX as u32).for_each(|first| times.add(0, first, 7));
        assert_eq!((times.of(0, 0), times.of(0, 1)), (None, Some(7)));
    }
}

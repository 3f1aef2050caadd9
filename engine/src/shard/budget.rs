//! What of `--buffer-bytes` is in use, and what goes first when it is too much.
//!
//! ```text
//!  hellos ≤ ⅛ ─► the one that has not been whole for longest goes, with its connection
//!  lines + records + hellos ≤ ¼ ─► the longest line is cut; if there is none, the largest record goes
//!  everything ≤ all of it ─► nothing more is read, until a quarter is free or little is staged
//! ```

use super::Shard;
use super::op::ConnectionId;
use crate::limits::{BUDGET_PARTS, BUDGET_RESUME_PARTS, HELLO_PARTS};

impl Shard {
    pub(super) fn budget(&self, parts: usize) -> usize {
        self.config.buffer_bytes / BUDGET_PARTS * parts
    }

    /// Capacity of unfinished lines, records and hellos.
    pub(super) fn carry_bytes(&self) -> usize {
        self.carries.bytes() + self.records.bytes() + self.handshakes.hello_bytes()
    }

    /// Keeps carries within their part, and pauses when the budget is used up.
    pub(super) fn relieve(&mut self) {
        while self.handshakes.hello_bytes() > self.budget(1) / HELLO_PARTS && self.break_hello() {}
        while self.carry_bytes() > self.budget(1) {
            if let Some(longest) = self.carries.largest() {
                self.with_sink(ConnectionId(longest), |connection, sink| connection.decoder.cut_early(sink));
            } else if let Some(largest) = self.records.largest() {
                self.break_record(ConnectionId(largest));
            } else {
                break;
            }
        }
        self.full |= self.logs.pool.used() >= self.config.buffer_bytes;
        self.paused |= self.full || self.outgoing.is_over();
    }

    /// Whether there is room for more input. What is staged is written without anybody's help: once it is little, there
    /// is room for other shards' batches whatever else is in use, so that no two shards ever wait for each other.
    pub(super) fn look_for_room(&mut self) {
        let used = self.logs.pool.used();
        let staged = used.saturating_sub(self.carry_bytes() + self.outgoing.bytes());
        self.full &= used >= self.budget(BUDGET_RESUME_PARTS) && staged >= self.budget(1);
        let blocked = self.logs.is_refused() || (self.disk_low && !self.phase.cuts_connections());
        if blocked || self.full {
            self.paused = true;
        } else if self.paused {
            self.paused = self.outgoing.is_half_over();
        }
    }
}

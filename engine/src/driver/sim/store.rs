//! A file of the simulated disk, and what is left of it when the power fails.
//!
//! ```text
//!  bytes    ├──────── durable ────────┤─────────── in the page cache ───────────┤
//!                                     a failed sync: lost here, whatever is synced later
//!  crash    all of it stays           any of: nothing, all, a part, NULs at the end, a hole of NULs
//! ```

use super::chance::Chance;

/// Bytes that a disk writes or does not write together: small, so that holes are many.
const SECTOR: usize = 512;

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) bytes: Vec<u8>,
    /// So much of it is on the disk.
    durable: usize,
    /// Whether its name is.
    named: bool,
    /// From the first number to the second it can no longer come to the disk: the kernel has given up these pages.
    lost: Option<(usize, usize)>,
    /// The next sync of this file says so.
    error: bool,
}

impl Stored {
    /// One that was there before.
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        let durable = bytes.len();
        Self { bytes, durable, named: true, lost: None, error: false }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.durable < self.bytes.len()
    }

    /// A sync that began when the file had this length has ended well; of the whole file system, or of the file.
    pub(super) fn synced(&mut self, length: usize, whole: bool) {
        self.durable = self.durable.max(length.min(self.bytes.len()));
        self.named |= whole;
    }

    /// The disk refuses what is not on it yet.
    pub(super) fn loses(&mut self) {
        if self.lost.is_none() {
            self.lost = Some((self.durable, self.bytes.len()));
        }
        self.error = true;
    }

    /// Whether a sync of it fails for what happened before. It is told once.
    pub(super) fn takes_error(&mut self) -> bool {
        std::mem::take(&mut self.error)
    }

    pub(super) fn cut(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.durable = self.durable.min(length);
        self.lost = self.lost.filter(|lost| lost.0 < length);
    }

    /// What the next start finds; `None` if not even the name.
    pub(super) fn after_power_cut(&self, chance: &mut Chance) -> Option<Vec<u8>> {
        if !self.named && chance.one_in(2) {
            return None;
        }
        let mut bytes = self.bytes.clone();
        let open = bytes.len() - self.durable;
        match chance.below(5) {
            0 => bytes.truncate(self.durable),
            1 if open > 0 => bytes.truncate(self.durable + chance.below(open)),
            2 if open > 0 => {
                let from = self.durable + chance.below(open);
                bytes[from..].fill(0);
            }
            3 if open > 0 => {
                let from = self.durable + chance.below(open);
                let to = (from / SECTOR + 1) * SECTOR;
                let to = to.min(bytes.len());
                bytes[from..to].fill(0);
            }
            _ => {}
        }
        if let Some((from, to)) = self.lost {
            let to = to.min(bytes.len());
            bytes[from.min(to)..to].fill(0);
        }
        Some(bytes)
    }
}

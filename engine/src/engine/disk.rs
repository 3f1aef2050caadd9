//! Looks at the room on the disk, off the shards' threads, and keeps some of it for the worst.
//!
//! ```text
//!  every 100 ms:  free space < --disk-free-min ──────────────────────────┐
//!                 a shard was refused ─► the reserve goes, what is staged ├─► disk low: reading stops
//!                                        and the journal have room ──────┘
//!                 room for twice the reserve ─► it is made again ─► reading goes on
//! ```
//! The reserve is a file without content. Where it has gone, reading does not go on before there is room to make it again:
//! else it would only be used up by what comes next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use super::{no_resources, tell_all};
use crate::diag::{Level, log, quoted};
use crate::driver::uring::Mailbox;
use crate::error::StartError;
use crate::limits::{DISK_WATCH, INODES_LOW, RESERVE_BYTES, RESERVE_PERCENT};
use crate::shard::Command;
use crate::sys::DataDir;

/// The thread; ends when dropped.
#[derive(Debug)]
pub(super) struct DiskWatch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Set by a shard that the disk had no room for.
pub(super) type Refused = Arc<AtomicBool>;

impl DiskWatch {
    /// Makes the reserve, if there is room for it.
    pub(super) fn start(
        data: Arc<DataDir>,
        free_min: u64,
        mailboxes: Vec<Mailbox>,
        refused: Refused,
    ) -> Result<Self, StartError> {
        let (end, ended) = channel();
        let mut disk = Disk::new(data, free_min, refused);
        let work = move || {
            let mut was_low = false;
            loop {
                let low = disk.look();
                if low != was_low {
                    tell_all(&mailboxes, &Command::DiskLow(low));
                    was_low = low;
                }
                if ended.recv_timeout(DISK_WATCH) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("disk".into()).spawn(work).map_err(no_resources)?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// What the reserve is good for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    /// The file system takes no room for a file without content.
    Impossible,
    /// There was no room for it yet.
    Wanted,
    Kept,
    /// It has gone to what was staged.
    Spent,
}

#[derive(Debug)]
struct Disk {
    data: Arc<DataDir>,
    free_min: u64,
    refused: Refused,
    reserve_bytes: u64,
    reserve: Reserve,
    /// As at the last look that succeeded.
    low_space: bool,
    low_inodes: bool,
}

impl Disk {
    fn new(data: Arc<DataDir>, free_min: u64, refused: Refused) -> Self {
        let reserve_bytes = reserve_bytes(data.total_bytes().unwrap_or(0));
        let mut disk = Self {
            data,
            free_min,
            refused,
            reserve_bytes,
            reserve: Reserve::Wanted,
            low_space: false,
            low_inodes: false,
        };
        // One of an engine before this one may be there: it is as good.
        disk.make_reserve();
        disk
    }

    /// Whether reading has to stop.
    fn look(&mut self) -> bool {
        if self.refused.swap(false, Ordering::Relaxed) {
            self.spend_reserve();
        }
        // A failed look says nothing new.
        if let Ok(free) = self.data.free_bytes() {
            self.low_space = free < self.free_min;
            let is_missing = matches!(self.reserve, Reserve::Wanted | Reserve::Spent);
            if is_missing && free >= self.free_min.saturating_add(2 * self.reserve_bytes) {
                self.make_reserve();
            }
        }
        self.look_at_inodes();
        self.low_space || self.reserve == Reserve::Spent
    }

    fn make_reserve(&mut self) {
        match self.data.make_reserve(self.reserve_bytes) {
            Ok(true) if self.reserve == Reserve::Spent => {
                log(Level::Info, format_args!("the reserve is there again bytes={}", self.reserve_bytes));
                self.reserve = Reserve::Kept;
            }
            Ok(true) => self.reserve = Reserve::Kept,
            Ok(false) => self.reserve = Reserve::Impossible,
            // No room, or no inode: the next look tries again.
            Err(_) => {}
        }
    }

    fn spend_reserve(&mut self) {
        let no_inodes = self.data.inodes().is_ok_and(|inodes| inodes.is_some_and(|(free, _)| free == 0));
        let has_room = self.data.free_bytes().is_ok_and(|free| free >= self.reserve_bytes);
        // Then it would be of no use.
        if self.reserve != Reserve::Kept || (no_inodes && has_room) {
            return;
        }
        match self.data.remove_reserve() {
            Ok(()) => {
                let bytes = self.reserve_bytes;
                log(Level::Warn, format_args!("the disk is full: the reserve goes to what is staged bytes={bytes}"));
                self.reserve = Reserve::Spent;
            }
            Err(error) => {
                log(Level::Warn, format_args!("the reserve cannot be removed error={}", quoted(&error)));
            }
        }
    }

    fn look_at_inodes(&mut self) {
        let Ok(Some((free, total))) = self.data.inodes() else { return };
        let low = free < INODES_LOW.min(total / 100);
        if std::mem::replace(&mut self.low_inodes, low) != low {
            if low {
                log(Level::Warn, format_args!("few files can still be made: new logs will have to wait inodes={free}"));
            } else {
                log(Level::Info, format_args!("enough files can be made again inodes={free}"));
            }
        }
    }
}

/// What is kept of a disk of this size.
fn reserve_bytes(total: u64) -> u64 {
    RESERVE_BYTES.min(total / 100 * RESERVE_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_goes_when_a_shard_is_refused_and_comes_back_with_room() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let data = Arc::new(DataDir::open(&parent.path().join("data")).expect("it can be made"));
        let refused = Refused::default();
        let mut disk = Disk::new(Arc::clone(&data), 0, Arc::clone(&refused));
        let kept = || data.path().join("_journal/reserve").exists();
        if disk.reserve == Reserve::Impossible {
            assert!(!kept() && !disk.look());
            return;
        }
        assert!(kept() && !disk.look());
        // As if the disk were too small for it afterwards.
        disk.reserve_bytes = u64::MAX / 4;
        refused.store(true, Ordering::Relaxed);
        assert!(disk.look() && disk.look() && !kept());
        disk.reserve_bytes = 1 << 20;
        assert!(!disk.look() && kept());
        assert_eq!(std::fs::metadata(data.path().join("_journal/reserve")).map(|file| file.len()).ok(), Some(1 << 20));
    }

    #[test]
    fn the_reserve_is_a_hundredth_of_a_small_disk() {
        assert_eq!((reserve_bytes(1000), reserve_bytes(1 << 40)), (10, 64 << 20));
    }
}

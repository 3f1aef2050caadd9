//! A disk that fills up: a tmpfs of a few MiB.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{require_tool, skip};

/// A tmpfs of its own, gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, and the test named as skipped, where this user may not mount.
    pub fn mount(options: &str) -> Option<Self> {
        if !require_tool("mount") {
            return None;
        }
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        if mount(&disk.path(), options) {
            return Some(disk);
        }
        skip("this user may not mount a tmpfs");
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Changes its size or number of inodes.
    pub fn remount(&self, options: &str) {
        assert!(mount(&self.path(), &format!("remount,{options}")));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Fails only where nothing was mounted.
        drop(Command::new("umount").arg(self.folder.path()).output());
    }
}

fn mount(at: &Path, options: &str) -> bool {
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
    mount.unwrap().status.success()
}

//! File systems on disks of ours: made, mounted through a loop device, unmounted.
//!
//! All of it happens in a mount namespace of the calling thread and of those that it starts. So nobody else sees it, and when
//! the process is killed the kernel takes it apart: the namespace ends with its last thread, a mount with its namespace,
//! and a loop device, made by `mount` to clear itself, with its mount.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::device::Disk;
use super::image::Image;
use crate::support::process::wait_until;
use crate::support::require_tool;

/// Xfs is made no smaller.
const DISK_BYTES: u64 = 320 << 20;
/// What the kernel may keep of a disk's writes before it begins to write them back. Without a strict limit it keeps
/// all of a short test, and the files that a power cut leaves are either whole or empty.
const WRITE_BACK_BYTES: u64 = 1 << 20;
/// By this the engine sees that the machine was started again.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileSystem {
    /// As it usually is: `data=ordered`.
    Ext4,
    /// Without a journal of its own; after a power cut it has to be repaired first.
    Ext4NoJournal,
    /// As it usually is.
    Xfs,
}

impl FileSystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Ext4NoJournal];

    /// By this name it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext4NoJournal => "ext4-nojournal",
            Self::Xfs => "xfs",
        }
    }

    /// A disk with a new one. Nothing of it is left to be made later, at a time of the kernel's choice.
    pub fn make(self) -> Image {
        const EXT4: [&str; 7] =
            ["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(DISK_BYTES).unwrap();
        match self {
            Self::Ext4 => run(&EXT4, file.path()),
            Self::Ext4NoJournal => run(&[&EXT4[..], &["-O", "^has_journal"]].concat(), file.path()),
            Self::Xfs => run(&["mkfs.xfs", "-q", "-f", "-K", "-s", "size=4096"], file.path()),
        }
        Image::load(file.path())
    }

    /// What it takes for granted that a disk writes whole or not at all: ext4 its superblock, which is not mounted when
    /// it is torn; xfs a block, since its log is not replayed over one that looks newer.
    pub fn sector_bytes(self) -> usize {
        match self {
            Self::Ext4 | Self::Ext4NoJournal => 1024,
            Self::Xfs => 4096,
        }
    }

    /// What is on a disk, repaired where that is usual after a power cut.
    fn repaired(self, content: Image) -> Image {
        if self != Self::Ext4NoJournal {
            return content;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        content.save(file.path());
        let output = Command::new("e2fsck").args(["-f", "-y"]).arg(file.path()).output().unwrap();
        // 0: nothing to repair; 1: all of it was repaired.
        assert!(matches!(output.status.code(), Some(0 | 1)), "e2fsck: {}", String::from_utf8_lossy(&output.stdout));
        Image::load(file.path())
    }

    fn options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Ext4NoJournal => "loop",
            // Images of one file system have one UUID.
            Self::Xfs => "loop,nouuid",
        }
    }
}

/// Leave to mount, and a boot id of our own.
#[derive(Debug)]
pub struct Lab {
    boot_id: tempfile::NamedTempFile,
}

impl Lab {
    /// `None` where this machine cannot have one, and the test named as skipped: an ordinary user, or a container, without
    /// FUSE or loop devices, is no reason to fail, whatever is demanded; a missing tool may be.
    pub fn open() -> Option<Self> {
        const TOOLS: [&str; 6] = ["mkfs.ext4", "mkfs.xfs", "e2fsck", "mount", "umount", "strace"];
        let thread = std::thread::current();
        let skipped = |reason: &str| say(&format!("skipped: {}: {reason}", thread.name().unwrap_or("a test")));
        if let Err(reason) = find_devices() {
            skipped(&reason);
            return None;
        }
        if let Some(tool) = TOOLS.into_iter().find(|tool| !require_tool(tool)) {
            skipped(&format!("{tool} is missing"));
            return None;
        }
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            skipped(&format!("no mount namespace for this user: {error}"));
            return None;
        }
        // Else mounts would show in the namespace that we come from.
        run(&["mount", "--make-rprivate"], Path::new("/"));
        let lab = Self { boot_id: tempfile::NamedTempFile::new().unwrap() };
        lab.reboot();
        run(&["mount", "--bind", lab.boot_id.path().to_str().unwrap()], Path::new(BOOT_ID));
        Some(lab)
    }

    /// What is started from now on believes that the machine was started again.
    pub fn reboot(&self) {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        std::fs::write(self.boot_id.path(), id).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        unmount(Path::new(BOOT_ID));
    }
}

/// Says it where everybody sees it: cargo hides what tests print that pass.
pub fn say(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn find_devices() -> Result<(), String> {
    for device in ["/dev/fuse", "/dev/loop-control"] {
        let opened = OpenOptions::new().read(true).write(true).open(device);
        opened.map_err(|error| format!("{device}, which the crash laboratory needs: {error}"))?;
    }
    Ok(())
}

/// A disk of ours with its file system in use.
#[derive(Debug)]
pub struct Mounted {
    /// Unmounted when dropped, before the disk goes.
    folder: Option<TempDir>,
    device: PathBuf,
    disk: Disk,
}

impl Mounted {
    /// Mounts what is on a disk, repaired if need be.
    pub fn mount(file_system: FileSystem, content: Image) -> Self {
        // Two mounts at once would find the same loop device free.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let disk = Disk::new(file_system.repaired(content)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        run(&["mount", "-o", file_system.options(), disk.file().to_str().unwrap()], folder.path());
        drop(guard);
        let device = block_device(folder.path());
        let mounted = Self { folder: Some(folder), device, disk };
        mounted.limit_write_back();
        mounted
    }

    /// Where the file system is.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("it is there until the drop").path()
    }

    /// What it is on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn limit_write_back(&self) {
        for (name, value) in [("strict_limit", 1), ("max_bytes", WRITE_BACK_BYTES)] {
            let file = self.device.join("bdi").join(name);
            let written = std::fs::write(&file, format!("{value}\n"));
            written.unwrap_or_else(|error| panic!("{}: {error}; the lab needs Linux 6.2", file.display()));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What waits for the disk would keep the file system busy.
        self.disk.set_fault(super::device::Fault::None);
        let Some(folder) = self.folder.take() else { return };
        unmount(folder.path());
        // The device lets go of the disk's file a moment after the last use of it.
        let is_free = wait_until(|| !self.device.join("loop").exists());
        assert!(is_free || std::thread::panicking(), "{} is still in use", self.device.display());
    }
}

/// `/sys/block/loopN` of what is mounted there.
fn block_device(at: &Path) -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let is_it = |line: &&str| line.split(' ').nth(4) == at.to_str();
    let number = mounts.lines().find(is_it).and_then(|line| line.split(' ').nth(2)).expect("it is mounted");
    std::fs::canonicalize(format!("/sys/dev/block/{number}")).unwrap()
}

fn unmount(path: &Path) {
    let unmounted = || Command::new("umount").arg(path).output().is_ok_and(|output| output.status.success());
    // A process that was killed may take a moment to let go.
    if !wait_until(unmounted) {
        say(&format!("{} cannot be unmounted; it goes when its last user goes", path.display()));
        drop(Command::new("umount").arg("--lazy").arg(path).output());
    }
}

fn run(command: &[&str], last: &Path) {
    let output = Command::new(command[0]).args(&command[1..]).arg(last).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} {}: {stderr}", last.display());
}

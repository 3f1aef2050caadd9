//! A disk whose every write and flush is recorded, and which fails, stalls or fills when it is told to.
//!
//! ```text
//!  engine ─► ext4, xfs ─► loop device ─► one file (FUSE) ─► Disk: content and recording, in memory
//! ```
//!
//! The FUSE file system is that one file: its root is not a directory. One thread serves it, so there is one order of all
//! that happens. The file is opened past the page cache: what the loop device writes arrives as it was written.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use tempfile::TempDir;

use super::image::{Event, Image, Recording};

/// How long the kernel may believe the file's size, which never changes.
const ATTRIBUTES_LAST: Duration = Duration::from_hours(1);

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Writes and flushes fail: EIO.
    Fails,
    /// Flushes fail, writes do not: EIO.
    FlushFails,
    /// Writes and flushes wait until the fault is over.
    Stalls,
    /// Pages that were never written are refused: ENOSPC.
    Full,
}

/// A disk in memory, and its file. Dropped, the file is gone; nobody may use it any more then.
#[derive(Debug)]
pub struct Disk {
    state: Arc<State>,
    /// Dropped before the folder that the file is in.
    session: Option<BackgroundSession>,
    folder: TempDir,
}

impl Disk {
    /// A disk with this content. An error says that this machine has no FUSE for us.
    pub fn new(content: Image) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("disk");
        File::create(&file)?;
        let recording = Recording { base: content.clone(), events: Vec::new() };
        let content = Content { image: content, recording, fault: Fault::None };
        let state = Arc::new(State { content: Mutex::new(content), changed: Condvar::new() });
        let session = fuser::spawn_mount(DiskFile(Arc::clone(&state)), &file, &Config::default())?;
        Ok(Self { state, session: Some(session), folder })
    }

    /// The file that has the content.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// From now on this is wrong with it.
    pub fn set_fault(&self, fault: Fault) {
        self.state.lock().fault = fault;
        self.state.changed.notify_all();
    }

    /// How many events there were so far: a moment in the recording.
    pub fn moment(&self) -> usize {
        self.state.lock().recording.events.len()
    }

    /// All that happened so far.
    pub fn recording(&self) -> Recording {
        self.state.lock().recording.clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A write that waits would keep the loop device, and so the file, for ever.
        self.set_fault(Fault::None);
        if let Some(session) = self.session.take() {
            let ended = session.umount_and_join();
            assert!(ended.is_ok() || std::thread::panicking(), "{}: {ended:?}", self.file().display());
        }
    }
}

#[derive(Debug)]
struct State {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug)]
struct Content {
    image: Image,
    recording: Recording,
    fault: Fault,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("nobody panics while holding it")
    }

    /// When the disk does not stall.
    fn lock_when_it_works(&self) -> MutexGuard<'_, Content> {
        let stalls = |content: &mut Content| content.fault == Fault::Stalls;
        self.changed.wait_while(self.lock(), stalls).expect("nobody panics while holding it")
    }

    fn write(&self, position: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut content = self.lock_when_it_works();
        match content.fault {
            Fault::Fails => return Err(Errno::EIO),
            Fault::Full if !content.image.has(position, bytes.len()) => return Err(Errno::ENOSPC),
            _ => {}
        }
        content.image.write(position, bytes);
        content.recording.events.push(Event::Write { position, bytes: bytes.into() });
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut content = self.lock_when_it_works();
        if matches!(content.fault, Fault::Fails | Fault::FlushFails) {
            return Err(Errno::EIO);
        }
        content.recording.events.push(Event::Flush);
        Ok(())
    }
}

/// What the kernel sees of it.
#[derive(Debug)]
struct DiskFile(Arc<State>);

impl Filesystem for DiskFile {
    fn getattr(&self, request: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let bytes = self.0.lock().image.bytes();
        let attributes = FileAttr {
            ino: INodeNo::ROOT,
            size: bytes,
            blocks: bytes / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: request.uid(),
            gid: request.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&ATTRIBUTES_LAST, &attributes);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        position: u64,
        length: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.0.lock().image.read(position, length as usize);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        position: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(position, bytes) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).expect("the kernel counts them in 32 bits")),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.flush() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

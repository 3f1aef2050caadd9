//! The data directory as the engine uses it: who may use it, its lock, its META, and the operations on segments.
//!
//! ```text
//! create_segment:  mkdir <token>  ─►  create <base>.log  ─►  link it to current     (a new log)
//!                                                        └►  link it to current.new, rename over current  (a roll)
//! ```
//! Invariants: each operation is whole, and can be repeated after it failed at any step, with ENOSPC for example;
//! `current` is never absent once it was there; an existing byte is never overwritten by creating something.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, FlockOperation, Mode};
use rustix::io::Errno;

use super::file::{Access, DIR_MODE, Dir};
use crate::error::{StartError, shown};
use crate::segment::journal::{RunId, SegmentNumber, parse_journal_name};
use crate::segment::meta::{FORMAT, FORMAT_OLDEST, MetaError, NodeId};
use crate::segment::{
    CURRENT, CURRENT_NEW, Form, JOURNAL, LOCK, LogName, META, META_NEW, Meta, Offset, Position, QUARANTINE, REJECTED,
    RESERVE, counted_name, given_up_name, index_name, is_reserved, quarantine_name, segment_name,
};
use crate::shard::JournalId;
use crate::wire::Token;

/// Write permission of others than owner and group.
const OTHERS_WRITE: u32 = 0o002;
/// What a file system of its own may hold besides.
const LOST_FOUND: &str = "lost+found";
/// Far more than any META; what is longer is none of ours.
const META_BYTES_MAX: u64 = 4096;

/// The data directory, held open. Shared by threads: every operation stands for itself.
#[derive(Debug)]
pub struct DataDir {
    root: Dir,
    path: PathBuf,
}

/// Keeps every other engine out of the data directory until it is dropped, or the process ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataDir {
    /// Opens the data directory for an engine, and makes it first if it is missing.
    ///
    /// # Errors
    /// When it cannot be made or opened, is no directory, belongs to another user, others may write to it, or it holds
    /// somebody else's files.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let refused = |problem: &str| StartError::new(subject(path), problem);
        make(path).map_err(|error| {
            refused("cannot be made; make it, or choose a --data that this user may make").because(error)
        })?;
        Self::open_own(path)
    }

    /// The same for a directory that is there. Makes and changes nothing.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn open_own(path: &Path) -> Result<Self, StartError> {
        // Another user's may not even be opened, and whose it is says more than that.
        if let Ok(meta) = std::fs::metadata(path) {
            check_owner(path, meta.uid())?;
        }
        let data = Self::open_existing(path)?;
        check_owner(path, data.root.owner())?;
        data.check_access()?;
        Ok(data)
    }

    /// Nobody else may write to it, and nothing of others is in it.
    fn check_access(&self) -> Result<(), StartError> {
        let refused = |problem: &str| StartError::new(subject(&self.path), problem);
        let mode = self.root.mode().map_err(|error| refused("cannot be inspected").because(error))?;
        if mode & OTHERS_WRITE != 0 {
            let problem = format!("others may write to it (mode {mode:04o}); chmod o-w it or choose another --data");
            return Err(refused(&problem));
        }
        match self.foreign_name().map_err(|error| refused("cannot be listed").because(error))? {
            Some(name) => {
                let problem = format!("holds {name:?} and no META: it is not an engine's; choose an empty directory");
                Err(refused(&problem))
            }
            None => Ok(()),
        }
    }

    /// A name that no engine leaves, in a directory that no engine has used yet.
    fn foreign_name(&self) -> io::Result<Option<String>> {
        if self.root.stat(META)?.is_some() {
            return Ok(None);
        }
        let mut names = self.root.entries()?.into_iter().map(|entry| entry.name);
        Ok(names.find(|name| !is_reserved(name) && Token::parse(name.as_bytes()).is_none() && name != LOST_FOUND))
    }

    /// Opens the data directory for a reader, who may be another user. Makes and changes nothing.
    ///
    /// # Errors
    /// When it is missing, unreadable, or no directory.
    pub fn open_existing(path: &Path) -> Result<Self, StartError> {
        let root = Dir::root(path).map_err(|error| {
            let problem = match error.kind() {
                io::ErrorKind::NotFound => "does not exist; give the engine's data directory with --data",
                io::ErrorKind::NotADirectory => "is not a directory; give the engine's data directory with --data",
                _ => "cannot be opened; give a directory that this user may read with --data",
            };
            StartError::new(subject(path), problem).because(error)
        })?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The directory itself, for what reads and mends files beneath it.
    #[must_use]
    pub const fn root(&self) -> &Dir {
        &self.root
    }

    /// The path as given, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks the data directory. Comes before everything else that an engine does in it.
    ///
    /// # Errors
    /// When another engine holds the lock, or the lock file cannot be made.
    pub fn lock(&self) -> Result<DataLock, StartError> {
        let refused = |problem: &str| StartError::new(shown(&self.path.join(LOCK)), problem);
        let file = self.root.file_or_new(LOCK, Access::Write).map_err(|error| self.no_lock_file(error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DataLock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(refused("held by another engine; stop that one or choose another --data")),
            Err(error) => Err(refused("cannot be locked; use a file system with flock").because(error)),
        }
    }

    /// Notes how late it is for what is deleted by its age, in whole seconds: a text in LOCK, for the next engine. It never
    /// goes back.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn note_time(&self, time: SystemTime) -> io::Result<()> {
        if self.noted_time().is_some_and(|noted| noted + Duration::from_secs(1) > time) {
            return Ok(());
        }
        let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
        let text = format!("{time:.0}\n");
        let file = self.root.file(LOCK, Access::Write)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }

    /// What was noted last; `None` if nothing was, or it makes no sense.
    #[must_use]
    pub fn noted_time(&self) -> Option<SystemTime> {
        let mut text = String::new();
        self.root.file(LOCK, Access::Read).ok()?.take(META_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text.strip_suffix('\n')?.parse::<jiff::Timestamp>().ok()?.into())
    }

    /// Whether an engine can use the files that an earlier one left: the lock, which may be held, and META.
    ///
    /// # Errors
    /// As [`DataDir::lock`] and [`DataDir::read_meta`].
    pub fn check_files(&self) -> Result<(), StartError> {
        match self.root.file(LOCK, Access::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.no_lock_file(error)),
            _ => {}
        }
        self.read_meta().map(drop)
    }

    fn no_lock_file(&self, error: io::Error) -> StartError {
        let problem = format!("cannot be opened; {}", self.give_it());
        StartError::new(shown(&self.path.join(LOCK)), problem).because(error)
    }

    /// What to do where a file of the directory refuses this user.
    fn give_it(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        format!("make the data directory writable and all in it this user's: chown -R {uid} {}", shown(&self.path))
    }

    /// What META says; writes it first if there is none. Needs the lock.
    ///
    /// # Errors
    /// As [`DataDir::read_meta`], or when it cannot be written.
    pub fn meta(&self) -> Result<Meta, StartError> {
        if let Some(meta) = self.read_meta()? {
            return Ok(meta);
        }
        self.write_meta().map_err(|error| {
            StartError::new(shown(&self.path.join(META)), "cannot be written; make room for it").because(error)
        })
    }

    /// What META says, if there is one.
    ///
    /// # Errors
    /// When it is of an unknown format, is not readable, or makes no sense.
    pub fn read_meta(&self) -> Result<Option<Meta>, StartError> {
        let refused = |problem: &str| StartError::new(shown(&self.path.join(META)), problem);
        let mut bytes = Vec::new();
        let read =
            self.root.file(META, Access::Read).and_then(|file| file.take(META_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(&format!("cannot be read; {}", self.give_it())).because(error)),
        }
        match Meta::parse(&String::from_utf8_lossy(&bytes)) {
            Ok(meta) => Ok(Some(meta)),
            Err(MetaError::UnknownFormat(format)) => Err(refused(&format!(
                "format {format:?} is not known; this engine reads formats {FORMAT_OLDEST} to {FORMAT}: use the engine that wrote it"
            ))),
            Err(MetaError::Malformed) => {
                Err(refused("not understood; restore it, or remove it to have it made anew with another node id"))
            }
        }
    }

    /// Makes an empty segment, and the log's directory if it is missing, and points `current` to it. Opened for
    /// writing at explicit positions. From the first try on nothing more may be appended to the segment before it.
    ///
    /// # Errors
    /// Those of the system calls; `AlreadyExists` when there is a segment of that base that is not empty. An empty one
    /// is what an earlier try left behind.
    pub fn create_segment(&self, log: impl Into<LogName>, base: Offset) -> io::Result<OwnedFd> {
        let dir = self.log_dir(log.into(), Dir::dir_or_new)?;
        let name = segment_name(base);
        let file = dir.file_or_new(&name, Access::Write)?;
        let len = file.metadata()?.len();
        if len != 0 {
            let problem = format!("segment {name} is there already and holds {len} bytes");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        point_current(&dir, &name)?;
        Ok(file.into())
    }

    /// Opens a segment for writing at explicit positions.
    ///
    /// # Errors
    /// Those of the system calls; `InvalidData` when its length is not the expected one: somebody else touched it.
    pub fn open_segment(&self, log: impl Into<LogName>, base: Offset, expected_len: u64) -> io::Result<OwnedFd> {
        open_at_length(&self.log_dir(log.into(), Dir::dir)?, &segment_name(base), expected_len)
    }

    /// Moves a segment out of the way that was given up, and whose name is needed again: in which run, and its number in the
    /// journal. Its index goes.
    ///
    /// # Errors
    /// Those of the system calls; none if there is no such segment.
    pub fn give_up_segment(&self, log: LogName, base: Offset, which: (RunId, SegmentNumber)) -> io::Result<()> {
        self.log_dir(log, Dir::dir)?.unlink(&index_name(base))?;
        self.move_to_quarantine(log, &segment_name(base), &given_up_name(log, base, which))
    }

    /// Moves a segment out of the way that is no part of its log any more; its compressed form too. Its index goes.
    ///
    /// # Errors
    /// Those of the system calls; none if there is no such segment.
    pub fn quarantine_segment(&self, log: LogName, base: Offset) -> io::Result<()> {
        self.log_dir(log, Dir::dir)?.unlink(&index_name(base))?;
        self.quarantine_form(log, base, Form::Text)?;
        self.quarantine_form(log, base, Form::Packed)
    }

    /// The same for one form of a segment that is there in both: the index stays, for the other.
    ///
    /// # Errors
    /// Those of the system calls; none if it is not there.
    pub fn quarantine_form(&self, log: LogName, base: Offset, form: Form) -> io::Result<()> {
        let mut whole = quarantine_name(log, base, Position::START);
        if form == Form::Packed {
            whole += ".zst";
        }
        self.move_to_quarantine(log, &form.name(base), &whole)
    }

    fn move_to_quarantine(&self, log: LogName, name: &str, whole: &str) -> io::Result<()> {
        let dir = self.log_dir(log, Dir::dir)?;
        if dir.stat(name)?.is_none() {
            return Ok(());
        }
        let quarantine = self.root.dir_or_new(QUARANTINE)?;
        let mut number = 1_u64;
        let free = loop {
            let name = counted_name(whole, number);
            if quarantine.stat(&name)?.is_none() {
                break name;
            }
            number += 1;
        };
        dir.rename_into(name, &quarantine, &free)?;
        quarantine.sync()?;
        dir.sync()
    }

    /// Cuts a segment whose end is elsewhere too.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn cut_segment(&self, log: LogName, base: Offset, length: u64) -> io::Result<()> {
        let file = self.log_dir(log, Dir::dir)?.file(&segment_name(base), Access::Write)?;
        file.set_len(length)?;
        file.sync_all()
    }

    /// Removes the journals of this one's shard that are older than it.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn remove_journals(&self, oldest: JournalId) -> io::Result<()> {
        let dir = self.root.dir(JOURNAL)?;
        for entry in dir.entries()? {
            let own = parse_journal_name(&entry.name).filter(|(shard, _)| *shard == oldest.shard.0);
            if own.is_some_and(|(_, generation)| generation < oldest.generation) {
                dir.unlink(&entry.name)?;
            }
        }
        Ok(())
    }

    /// Makes an empty journal file; what an earlier try left behind is emptied.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn create_journal(&self, journal: JournalId) -> io::Result<OwnedFd> {
        let file = self.root.dir_or_new(JOURNAL)?.file_or_new(&journal.name(), Access::Write)?;
        file.set_len(0)?;
        Ok(file.into())
    }

    /// Opens a journal file for writing at explicit positions.
    ///
    /// # Errors
    /// As [`DataDir::open_segment`].
    pub fn open_journal(&self, journal: JournalId, expected_len: u64) -> io::Result<OwnedFd> {
        open_at_length(&self.root.dir(JOURNAL)?, &journal.name(), expected_len)
    }

    /// The directory of a log; `open` opens a directory in another one, and may make it.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn log_dir(&self, log: LogName, open: impl Fn(&Dir, &str) -> io::Result<Dir>) -> io::Result<Dir> {
        match log {
            LogName::Token(token) => open(&self.root, &token.to_string()),
            LogName::Rejected(reason) => open(&open(&self.root, REJECTED)?, reason.name()),
        }
    }

    /// Bytes that this user can still write to the file system.
    ///
    /// # Errors
    /// Those of fstatvfs.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.root.space().map(|space| space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Size of the file system in bytes.
    ///
    /// # Errors
    /// Those of fstatvfs.
    pub fn total_bytes(&self) -> io::Result<u64> {
        self.root.space().map(|space| space.f_blocks.saturating_mul(space.f_frsize))
    }

    /// Files that this user can still make, and files that there may be in all; `None` on file systems that have no such
    /// limit.
    ///
    /// # Errors
    /// Those of fstatvfs.
    pub fn inodes(&self) -> io::Result<Option<(u64, u64)>> {
        self.root.space().map(|space| (space.f_files != 0).then_some((space.f_favail, space.f_files)))
    }

    /// Takes so many bytes of the disk, in a file that is removed when it is full. False where the file system cannot do
    /// that.
    ///
    /// # Errors
    /// Those of the system calls; then nothing is taken.
    pub fn make_reserve(&self, bytes: u64) -> io::Result<bool> {
        if bytes == 0 {
            return Ok(false);
        }
        let dir = self.root.dir_or_new(JOURNAL)?;
        let file = dir.file_or_new(RESERVE, Access::Write)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(true),
            Err(error) => {
                dir.unlink(RESERVE)?;
                if error == Errno::OPNOTSUPP { Ok(false) } else { Err(error.into()) }
            }
        }
    }

    /// Gives back what [`DataDir::make_reserve`] took.
    ///
    /// # Errors
    /// Those of the system calls; none if there is no such file.
    pub fn remove_reserve(&self) -> io::Result<()> {
        match self.root.dir(JOURNAL) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            dir => dir?.unlink(RESERVE).map(drop),
        }
    }

    fn write_meta(&self) -> io::Result<Meta> {
        let mut bytes = [0; 16];
        // The kernel fills up to 256 bytes whole.
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let meta = Meta { format: FORMAT, node: NodeId::from_random(bytes) };
        self.put_meta(meta)?;
        Ok(meta)
    }

    /// The directory is of this engine's format from now on.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn upgrade(&self, meta: Meta) -> io::Result<()> {
        if meta.format == FORMAT { Ok(()) } else { self.put_meta(Meta { format: FORMAT, ..meta }) }
    }

    fn put_meta(&self, meta: Meta) -> io::Result<()> {
        self.root.unlink(META_NEW)?;
        let mut file = self.root.new_file(META_NEW, Access::Write)?;
        file.write_all(meta.text().as_bytes())?;
        file.sync_all()?;
        self.root.rename(META_NEW, META)?;
        self.root.sync()
    }
}

/// Makes `current` a hard link to the segment. Can be repeated, and `current` is never absent in between.
///
/// # Errors
/// Those of the system calls.
pub fn point_current(dir: &Dir, segment: &str) -> io::Result<()> {
    match dir.link(segment, CURRENT) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    dir.unlink(CURRENT_NEW)?;
    dir.link(segment, CURRENT_NEW)?;
    dir.rename(CURRENT_NEW, CURRENT)?;
    // Rename leaves both names if `current` was this segment already.
    dir.unlink(CURRENT_NEW)?;
    Ok(())
}

fn open_at_length(dir: &Dir, name: &str, expected_len: u64) -> io::Result<OwnedFd> {
    let file = dir.file(name, Access::Write)?;
    let len = file.metadata()?.len();
    if len != expected_len {
        let problem = format!("{name} has {len} bytes, expected {expected_len}: changed by another process");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    Ok(file.into())
}

fn subject(path: &Path) -> String {
    format!("data directory {}", shown(path))
}

fn check_owner(path: &Path, owner: u32) -> Result<(), StartError> {
    let uid = rustix::process::geteuid().as_raw();
    if owner == uid {
        return Ok(());
    }
    let remedy = format!("run as that user, chown -R {uid} {}, or choose another --data", shown(path));
    Err(StartError::new(subject(path), format!("owned by uid {owner}, not by this user ({uid}); {remedy}")))
}

fn make(path: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(DIR_MODE)) {
        Ok(()) => {
            // Its own name must last as well as what is written into it; a parent that we may not read cannot be synced.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            match Dir::root(parent.unwrap_or_else(|| Path::new("."))) {
                Ok(parent) => parent.sync(),
                Err(_) => Ok(()),
            }
        }
        Err(Errno::EXIST) => Ok(()),
        // Whether it is there, opening it decides: a read-only parent says EROFS for an existing name.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    const TOKEN: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";

    fn token() -> Token {
        TOKEN.parse().unwrap()
    }

    fn data() -> (tempfile::TempDir, DataDir) {
        let parent = tempfile::tempdir().unwrap();
        let data = DataDir::open(&parent.path().join("data")).unwrap();
        (parent, data)
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("passwd"), "").unwrap();
        let error = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("\"passwd\"") && error.contains("choose an empty directory"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::remove_file(folder.path().join("passwd")).unwrap();
        std::fs::create_dir(folder.path().join("lost+found")).unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let _lock = data.lock().unwrap();
        data.meta().unwrap();
        std::fs::write(folder.path().join("notes"), "").unwrap();
        DataDir::open(folder.path()).expect("it is an engine's, whatever else was put there");
    }

    #[test]
    fn made_if_missing_and_opened_again() {
        let (_parent, data) = data();
        let mode = fs::metadata(data.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777 & !DIR_MODE, 0);
        DataDir::open(data.path()).unwrap();
        assert_ne!(data.free_bytes().unwrap(), 0);
        data.inodes().unwrap();
    }

    #[test]
    fn refuses_what_others_may_write_to() {
        let (_parent, data) = data();
        fs::set_permissions(data.path(), fs::Permissions::from_mode(0o757)).unwrap();
        let error = DataDir::open(data.path()).unwrap_err().to_string();
        assert!(error.contains("others may write to it (mode 0757); chmod o-w"), "{error}");
    }

    #[test]
    fn refuses_another_users_directory_and_what_is_none() {
        let (parent, data) = data();
        // Root gives a directory away; others have the root directory as one that is not theirs.
        let foreign = if rustix::process::geteuid().is_root() {
            chown(data.path(), Some(65534), None).unwrap();
            data.path()
        } else {
            Path::new("/")
        };
        let error = DataDir::open(foreign).unwrap_err().to_string();
        assert!(error.contains("owned by uid") && error.contains("chown -R "), "{error}");
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(DataDir::open(&file).unwrap_err().to_string().contains("is not a directory"));
        let missing = parent.path().join("no/parent");
        assert!(DataDir::open(&missing).unwrap_err().to_string().contains("cannot be made"));
        assert!(DataDir::open_existing(&missing).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn one_engine_at_a_time() {
        let (_parent, data) = data();
        let lock = data.lock().unwrap();
        let error = DataDir::open(data.path()).unwrap().lock().unwrap_err().to_string();
        assert!(
            error.ends_with("data/LOCK: held by another engine; stop that one or choose another --data"),
            "{error}"
        );
        drop(lock);
        data.lock().unwrap();
    }

    #[test]
    fn meta_is_made_once_and_unknown_formats_are_named() {
        let (_parent, data) = data();
        assert_eq!(data.read_meta().unwrap(), None);
        fs::write(data.path().join(META_NEW), "half").unwrap();
        let meta = data.meta().unwrap();
        assert_eq!(data.meta().unwrap(), meta);
        assert_eq!(data.root().stat(META_NEW).unwrap(), None);
        fs::write(data.path().join(META), "format=9\nnode=x\n").unwrap();
        let error = data.meta().unwrap_err().to_string();
        assert!(error.contains("format \"9\" is not known; this engine reads formats 1 to 2"), "{error}");
        fs::write(data.path().join(META), "").unwrap();
        assert!(data.meta().unwrap_err().to_string().contains("not understood"));
    }

    #[test]
    fn a_roll_moves_current() {
        let (_parent, data) = data();
        let log = data.path().join(TOKEN);
        File::from(data.create_segment(token(), Offset(0)).unwrap()).write_all_at(b"a\n", 0).unwrap();
        assert_eq!(fs::read(log.join(CURRENT)).unwrap(), b"a\n");
        data.create_segment(token(), Offset(2)).unwrap();
        let inode = |name: &str| fs::metadata(log.join(name)).unwrap().ino();
        assert_eq!(inode(CURRENT), inode(&segment_name(Offset(2))));
        assert!(!log.join(CURRENT_NEW).exists());
        let mode = fs::metadata(log.join(CURRENT)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777 & !0o640, 0);
    }

    #[test]
    fn creation_is_repeatable_from_every_step() {
        let (_parent, data) = data();
        let (old, new) = (segment_name(Offset(0)), segment_name(Offset(2)));
        File::from(data.create_segment(token(), Offset(0)).unwrap()).write_all_at(b"a\n", 0).unwrap();
        let log = data.root().dir(TOKEN).unwrap();
        let same = |name: &str| log.stat(name).unwrap().unwrap() == log.stat(CURRENT).unwrap().unwrap();
        let steps: [&dyn Fn() -> io::Result<()>; 4] =
            [&|| Ok(()), &|| log.link(&old, CURRENT_NEW), &|| log.link(&new, CURRENT_NEW), &|| {
                log.link(&new, CURRENT_NEW).and_then(|()| log.rename(CURRENT_NEW, CURRENT))
            }];
        for step in steps {
            log.unlink(CURRENT).unwrap();
            log.link(&old, CURRENT).unwrap();
            log.file_or_new(&new, Access::Write).unwrap();
            step().unwrap();
            data.create_segment(token(), Offset(2)).unwrap();
            assert!(same(&new));
            assert_eq!(log.stat(CURRENT_NEW).unwrap(), None);
        }
    }

    #[test]
    fn a_segment_with_bytes_is_never_made_again() {
        let (_parent, data) = data();
        File::from(data.create_segment(token(), Offset(0)).unwrap()).write_all_at(b"a\n", 0).unwrap();
        assert_eq!(data.create_segment(token(), Offset(0)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(data.path().join(TOKEN).join(segment_name(Offset(0)))).unwrap(), b"a\n");
    }

    #[test]
    fn what_is_given_up_moves_whole_and_leaves_its_name() {
        let (_parent, data) = data();
        let run = RunId { run: 7, epoch_micros: 99 };
        for text in [&b"a\n"[..], b"", b"b\n"] {
            File::from(data.create_segment(token(), Offset(2)).unwrap()).write_all_at(text, 0).unwrap();
            data.give_up_segment(token().into(), Offset(2), (run, SegmentNumber(3))).unwrap();
        }
        data.give_up_segment(token().into(), Offset(2), (run, SegmentNumber(3))).expect("an earlier try has moved it");
        let moved = |count: &str| {
            let name = format!("{TOKEN}-00000000000000000002-0-run7-99-3{count}");
            fs::read(data.path().join(QUARANTINE).join(name)).unwrap()
        };
        assert_eq!(["", "-2", "-3"].map(moved), [&b"a\n"[..], b"", b"b\n"]);
    }

    #[test]
    fn opens_only_at_the_expected_length_and_keeps_the_bytes() {
        let (_parent, data) = data();
        File::from(data.create_segment(token(), Offset(0)).unwrap()).write_all_at(b"a\n", 0).unwrap();
        for len in [0, 1, 3] {
            assert_eq!(data.open_segment(token(), Offset(0), len).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        File::from(data.open_segment(token(), Offset(0), 2).unwrap()).write_all_at(b"b\n", 2).unwrap();
        assert_eq!(fs::read(data.path().join(TOKEN).join(CURRENT)).unwrap(), b"a\nb\n");
        assert_eq!(data.open_segment(token(), Offset(4), 0).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn symbolic_links_are_refused() {
        let (parent, data) = data();
        fs::create_dir(parent.path().join("elsewhere")).unwrap();
        symlink(parent.path().join("elsewhere"), data.path().join(TOKEN)).unwrap();
        data.create_segment(token(), Offset(0)).unwrap_err();
        fs::remove_file(data.path().join(TOKEN)).unwrap();
        fs::create_dir(data.path().join(TOKEN)).unwrap();
        let target = parent.path().join("target");
        fs::write(&target, "").unwrap();
        symlink(&target, data.path().join(TOKEN).join(segment_name(Offset(0)))).unwrap();
        data.create_segment(token(), Offset(0)).unwrap_err();
        data.open_segment(token(), Offset(0), 0).unwrap_err();
    }
}

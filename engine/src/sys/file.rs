//! Directories and files beneath the data directory, opened so that nobody can lead the engine elsewhere.
//!
//! ```text
//! Dir (DATA) ── dir("2bfbea1e-…") ──► Dir ── file("00000000000000000000.log") ──► File
//!        openat2(BENEATH | NO_SYMLINKS), then fstat: the right kind, the right owner
//! ```
//! Invariants: a `Dir` is only ever reached from the root that was opened first, one name at a time; no symbolic link
//! is followed below it; everything in it that is opened belongs to the root's owner.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

/// Directories: the owner, and a group of readers.
pub const DIR_MODE: u32 = 0o750;
/// Files: the owner, and a group of readers.
pub const FILE_MODE: u32 = 0o640;

/// A directory, held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    owner: u32,
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Writing at explicit positions.
    Write,
    /// Both.
    ReadWrite,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, a socket and the like: never ours.
    Other,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; bytes that are no UTF-8 are replaced, so that it equals none of our names.
    pub name: String,
    /// What it stands for, without following it.
    pub kind: Kind,
}

/// What a name stands for, in detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is, without following it.
    pub kind: Kind,
    /// Identifies the file among those of its directory, whatever its names.
    pub inode: u64,
    /// Whether it is there under another name too.
    pub has_other_names: bool,
    /// Length in bytes.
    pub len: u64,
    /// Last change of its bytes.
    pub modified: SystemTime,
}

impl Dir {
    /// Opens the directory that everything else is reached from; a symbolic link to it is fine.
    ///
    /// # Errors
    /// Those of open and fstat; `NotADirectory` if it is something else.
    pub fn root(path: &Path) -> io::Result<Self> {
        let fd = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let owner = fs::fstat(&fd)?.st_uid;
        Ok(Self { fd, owner })
    }

    /// Numeric user id of the directory's owner.
    #[must_use]
    pub const fn owner(&self) -> u32 {
        self.owner
    }

    /// Permission bits of the directory.
    ///
    /// # Errors
    /// Those of fstat.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(Mode::from_raw_mode(fs::fstat(&self.fd)?.st_mode).bits())
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// Those of openat2, such as ELOOP or ENOTDIR for a symbolic link; a foreign owner.
    pub fn dir(&self, name: &str) -> io::Result<Self> {
        let fd = self.open_beneath(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        self.check_owner(&fs::fstat(&fd)?)?;
        Ok(Self { fd, owner: self.owner })
    }

    /// Opens a directory in this one, and makes it first if it is missing.
    ///
    /// # Errors
    /// As [`Dir::dir`], and those of mkdirat.
    pub fn dir_or_new(&self, name: &str) -> io::Result<Self> {
        match self.dir(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::mkdirat(&self.fd, name, Mode::from_raw_mode(DIR_MODE))?;
                self.dir(name)
            }
            other => other,
        }
    }

    /// Opens a regular file of the root's owner.
    ///
    /// # Errors
    /// Those of openat2; `InvalidData` if it is something else, `PermissionDenied` if somebody else's.
    pub fn file(&self, name: &str, access: Access) -> io::Result<File> {
        // NONBLOCK: a pipe that was put there must not hang the open. Reads of a regular file do not mind it; a ring
        // looks at it before it writes.
        let fd = self.open_beneath(name, access.flags() | OFlags::NONBLOCK, Mode::empty())?;
        self.check_file(&fd)?;
        if access != Access::Read {
            fs::fcntl_setfl(&fd, OFlags::empty())?;
        }
        Ok(fd.into())
    }

    /// Makes a regular file that must not exist.
    ///
    /// # Errors
    /// Those of openat2: `AlreadyExists` if there is anything of that name.
    pub fn new_file(&self, name: &str, access: Access) -> io::Result<File> {
        let flags = access.flags() | OFlags::CREATE | OFlags::EXCL;
        Ok(self.open_beneath(name, flags, Mode::from_raw_mode(FILE_MODE))?.into())
    }

    /// Opens a regular file, and makes it first if it is missing.
    ///
    /// # Errors
    /// As [`Dir::file`] and [`Dir::new_file`].
    pub fn file_or_new(&self, name: &str, access: Access) -> io::Result<File> {
        match self.new_file(name, access) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.file(name, access),
            other => other,
        }
    }

    /// Every name in the directory, in no order.
    ///
    /// # Errors
    /// Those of getdents.
    pub fn entries(&self) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.stat(&name)?.map_or(Kind::Other, |stat| stat.kind),
                known => known.into(),
            };
            entries.push(DirEntry { name: name.into_owned(), kind });
        }
        Ok(entries)
    }

    /// What the name stands for, without following it; `None` if there is nothing.
    ///
    /// # Errors
    /// Those of fstatat.
    pub fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::from(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// When the file of this name was made; `None` if the file system does not say.
    ///
    /// # Errors
    /// Those of statx.
    pub fn born(&self, name: &str) -> io::Result<Option<SystemTime>> {
        let stat = fs::statx(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME)?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Ok(known.then(|| time(stat.stx_btime.tv_sec, i64::from(stat.stx_btime.tv_nsec))))
    }

    /// Gives a file of this directory a second name.
    ///
    /// # Errors
    /// Those of linkat: `AlreadyExists` if there is anything of that name.
    pub fn link(&self, name: &str, new: &str) -> io::Result<()> {
        Ok(fs::linkat(&self.fd, name, &self.fd, new, AtFlags::empty())?)
    }

    /// Renames, over whatever has the new name. Does nothing if both are names of one file.
    ///
    /// # Errors
    /// Those of renameat.
    pub fn rename(&self, name: &str, new: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.fd, name, &self.fd, new)?)
    }

    /// Renames into another directory, over whatever has the new name there.
    ///
    /// # Errors
    /// Those of renameat.
    pub fn rename_into(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.fd, name, &to.fd, new)?)
    }

    /// Removes a name if it is there; says whether it was.
    ///
    /// # Errors
    /// Those of unlinkat.
    pub fn unlink(&self, name: &str) -> io::Result<bool> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the names in this directory to the disk.
    ///
    /// # Errors
    /// Those of fsync.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.fd)?)
    }

    /// Brings everything in the directory's file system to the disk, whoever wrote it.
    ///
    /// # Errors
    /// Those of syncfs, also for data that could not be written since this directory was opened.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.fd)?)
    }

    /// Size and free space of the file system, for users without privileges.
    ///
    /// # Errors
    /// Those of fstatvfs.
    pub fn space(&self) -> io::Result<fs::StatVfs> {
        Ok(fs::fstatvfs(&self.fd)?)
    }

    fn open_beneath(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(fs::openat2(&self.fd, name, flags | OFlags::CLOEXEC, mode, resolve)?)
    }

    fn check_file(&self, fd: &OwnedFd) -> io::Result<()> {
        let stat = fs::fstat(fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        self.check_owner(&stat)
    }

    fn check_owner(&self, stat: &fs::Stat) -> io::Result<()> {
        if stat.st_uid == self.owner {
            return Ok(());
        }
        let problem = format!("owned by uid {}, the data directory by uid {}", stat.st_uid, self.owner);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    }
}

impl Access {
    const fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::Write => OFlags::WRONLY,
            Self::ReadWrite => OFlags::RDWR,
        }
    }
}

impl From<FileType> for Kind {
    fn from(kind: FileType) -> Self {
        match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            _ => Self::Other,
        }
    }
}

impl From<&fs::Stat> for Stat {
    fn from(stat: &fs::Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode).into(),
            inode: stat.st_ino,
            has_other_names: stat.st_nlink > 1,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

/// A time before 1970 is nobody's; the epoch says so too.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, symlink};

    fn root() -> (tempfile::TempDir, Dir) {
        let path = tempfile::tempdir().unwrap();
        let dir = Dir::root(path.path()).unwrap();
        (path, dir)
    }

    #[test]
    fn links_are_not_followed_and_nothing_outside_is_reached() {
        let (path, dir) = root();
        dir.dir_or_new("real").unwrap();
        std::fs::write(path.path().join("file"), "x").unwrap();
        symlink("real", path.path().join("dirlink")).unwrap();
        symlink("file", path.path().join("filelink")).unwrap();
        assert!(dir.dir("dirlink").is_err());
        assert!(dir.dir_or_new("dirlink").is_err());
        assert!(dir.file("filelink", Access::Read).is_err());
        assert!(dir.new_file("filelink", Access::Write).is_err());
        assert!(dir.dir("..").is_err());
        assert!(dir.dir("/").is_err());
        assert_eq!(dir.stat("filelink").unwrap().unwrap().kind, Kind::Other);
    }

    #[test]
    fn only_regular_files_open_and_a_pipe_does_not_hang() {
        let (_path, dir) = root();
        fs::mknodat(&dir.fd, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            assert!(dir.file("pipe", access).is_err());
        }
        dir.dir_or_new("directory").unwrap();
        assert_eq!(dir.file("directory", Access::Read).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn files_write_at_positions_and_report_themselves() {
        let (path, dir) = root();
        let file = dir.new_file("a", Access::Write).unwrap();
        file.write_all_at(b"xyz", 2).unwrap();
        assert_eq!(std::fs::read(path.path().join("a")).unwrap(), b"\0\0xyz");
        assert!(dir.new_file("a", Access::Write).is_err());
        dir.link("a", "b").unwrap();
        let (a, b) = (dir.stat("a").unwrap().unwrap(), dir.stat("b").unwrap().unwrap());
        assert_eq!((a, a.len, a.kind), (b, 5, Kind::File));
        assert!(dir.unlink("b").unwrap());
        assert!(!dir.unlink("b").unwrap());
        assert_eq!(dir.entries().unwrap(), [DirEntry { name: "a".to_owned(), kind: Kind::File }]);
    }
}

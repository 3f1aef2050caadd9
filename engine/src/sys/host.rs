//! What the host allows this process: limits, sysctls, capabilities, kind of file system.

use std::io;
use std::path::Path;

use rustix::fs::Access;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::segment::journal::BootId;
use crate::wire::Token;

/// The kernel's release, such as `6.12.9-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// A sysctl by its path below `/proc/sys`; `None` where this kernel has none of that name.
#[must_use]
pub fn sysctl(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new("/proc/sys").join(path)).ok().map(|text| text.trim().to_owned())
}

/// Names this start of the operating system; 0 where the kernel does not say, which is nobody's.
#[must_use]
pub fn boot_id() -> BootId {
    let id = sysctl("kernel/random/boot_id").and_then(|text| Token::parse(text.as_bytes()));
    BootId(id.map_or([0; 16], Token::to_bytes))
}

/// A field of `/proc/self/status`.
#[must_use]
pub fn status(field: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = |line: &str| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned());
    status.lines().find_map(value)
}

/// Whether the process has the capability of this number (linux/capability.h).
#[must_use]
pub fn has_capability(number: u32) -> bool {
    let effective = status("CapEff").and_then(|digits| u64::from_str_radix(&digits, 16).ok());
    effective.is_some_and(|effective| effective >> number & 1 == 1)
}

/// The memlock limit in bytes; `None` if there is none.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// The hard descriptor limit of the process; `u64::MAX` if there is none.
#[must_use]
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the soft descriptor limit of the process to the hard one and returns it; `u64::MAX` if there is none.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A refusal leaves the soft limit as it was.
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// Whether this user may make files in the directory.
///
/// # Errors
/// Those of access.
pub fn may_write_in(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// What is known of the file system that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its number in linux/magic.h.
    pub magic: u64,
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Bytes that this user can still write.
    pub free_bytes: u64,
    /// Files that can still be made; `None` where there is no such limit.
    pub free_inodes: Option<u64>,
}

/// The file system that holds the path.
///
/// # Errors
/// Those of statfs.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let kind = rustix::fs::statfs(path)?;
    let space = rustix::fs::statvfs(path)?;
    Ok(FileSystem {
        // Some have the upper bit of 32 set, and the field is signed.
        magic: kind.f_type.cast_unsigned() & 0xffff_ffff,
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        free_inodes: (space.f_files != 0).then_some(space.f_favail),
    })
}

//! Files that the configuration names: reading them within bounds, and noticing that they have changed.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use crate::error::ConfigError;

/// Which file it is, when it was changed, and how long it is; `None` if it cannot be looked at.
pub type Stamp = Option<(u64, SystemTime, u64)>;

/// Something that differs once the file has changed.
pub(super) fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.modified().ok()?, meta.len()))
}

/// All bytes of a file that has at most `bytes_max`, or what is wrong with it; `expected` is what the operator should give.
pub(super) fn bytes(path: &Path, bytes_max: u64, expected: &str) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read; give {expected} that this user may read ({error})");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes; give {expected}"));
    }
    Ok(bytes)
}

/// The same for a file that a flag names.
pub(super) fn read(
    flag: impl Into<Cow<'static, str>>,
    path: &Path,
    bytes_max: u64,
    expected: &str,
) -> Result<Vec<u8>, ConfigError> {
    bytes(path, bytes_max, expected).map_err(|problem| wrong(flag, path, &problem))
}

pub(super) fn wrong(flag: impl Into<Cow<'static, str>>, path: &Path, problem: &str) -> ConfigError {
    ConfigError { flag: flag.into(), problem: format!("{}: {problem}", path.display()) }
}

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

/// All bytes of a file that has at most `bytes_max`; `expected` is what the operator should give.
pub(super) fn read(
    flag: impl Into<Cow<'static, str>> + Clone,
    path: &Path,
    bytes_max: u64,
    expected: &'static str,
) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |error: io::Error| {
        wrong(flag.clone(), path, &format!("cannot be read; give {expected} that this user may read ({error})"))
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(wrong(flag, path, &format!("is larger than {bytes_max} bytes; give {expected}")));
    }
    Ok(bytes)
}

pub(super) fn wrong(flag: impl Into<Cow<'static, str>>, path: &Path, problem: &str) -> ConfigError {
    ConfigError { flag: flag.into(), problem: format!("{}: {problem}", path.display()) }
}

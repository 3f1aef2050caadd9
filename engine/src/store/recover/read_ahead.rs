//! After a new start of the machine: what recovery is about to ask for is brought into memory, many logs at a time.
//!
//! Recovery looks at one log after the other, and a disk that has nothing in memory yet answers each of its questions in
//! its own time. Many questions at once it answers together.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{CHUNK_BYTES, LogFiles, chunk_of};
use crate::limits::RECOVERY_READERS;
use crate::segment::{index_name, packed_name, segment_name};
use crate::sys::file::{Access, Dir, DirEntry};

/// Asks for all that recovery will look at in these directories. Answers count for nothing: recovery meets each error itself.
pub(super) fn read_ahead(root: &Dir, logs: &[DirEntry]) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let _ignored = root.dir(&log.name).and_then(|dir| look_at(&dir, &mut chunk));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..RECOVERY_READERS {
            // Without it the others do its work, or recovery.
            let _started = std::thread::Builder::new().name("read-ahead".into()).spawn_scoped(scope, work);
        }
    });
}

fn look_at(dir: &Dir, chunk: &mut [u8]) -> io::Result<()> {
    let files = LogFiles::list(dir)?;
    for &base in &files.plain {
        dir.stat(&segment_name(base))?;
    }
    for &base in &files.indexes {
        read_end(&dir.file(&index_name(base), Access::Read)?, chunk)?;
    }
    for &base in &files.packed {
        read_end(&dir.file(&packed_name(base), Access::Read)?, &mut chunk[..1])?;
    }
    if let Some(&newest) = files.plain.last() {
        read_end(&dir.file(&segment_name(newest), Access::Read)?, &mut chunk[..1])?;
    }
    Ok(())
}

/// Reads as much of the end as the chunk holds.
fn read_end(file: &File, chunk: &mut [u8]) -> io::Result<()> {
    let len = file.metadata()?.len();
    let end = chunk_of(chunk, len);
    file.read_exact_at(end, len - end.len() as u64)
}

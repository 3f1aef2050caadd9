//! After a new start of the machine: what recovery is about to ask for is brought into memory, many logs at a time.
//!
//! Recovery looks at one log after the other, and a disk that has nothing in memory yet answers each of its questions in
//! its own time. Many questions at once it answers together. Rejected lines are left out: they are few logs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use super::super::{CHUNK_BYTES, LogFiles, chunk_of, log_token};
use crate::limits::RECOVERY_READERS;
use crate::segment::{index_name, packed_name, segment_name};
use crate::sys::file::{Access, Dir, DirEntry, Kind};

/// Asks for all that recovery will look at in these directories; after each `stopped` may end it. Says how many files have
/// answered. Else answers count for nothing: recovery meets each error itself.
pub(super) fn read_ahead(root: &Dir, entries: &[DirEntry], stopped: &mut dyn FnMut() -> bool) -> usize {
    let is_log = |entry: &&DirEntry| entry.kind == Kind::Dir && log_token(&entry.name).is_some();
    let logs: Vec<&str> = entries.iter().filter(is_log).map(|entry| entry.name.as_str()).collect();
    let (next, (done, results)) = (AtomicUsize::new(0), sync_channel(RECOVERY_READERS));
    let work = |done: SyncSender<usize>| {
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answered = root.dir(log).and_then(|dir| look_at(&dir, &mut chunk)).unwrap_or(0);
            // They are listened to until all have ended; nobody is far ahead of a stop.
            let _told = done.send(answered);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..RECOVERY_READERS.min(logs.len()) {
            let (work, done) = (&work, done.clone());
            // Without it the others do its work, or recovery.
            let _started =
                std::thread::Builder::new().name("read-ahead".into()).spawn_scoped(scope, move || work(done));
        }
        drop(done);
        let count = |answered| {
            if stopped() {
                next.store(logs.len(), Ordering::Relaxed);
            }
            answered
        };
        results.into_iter().map(count).sum()
    })
}

/// How many files have answered. One that fails leaves the others to be asked.
fn look_at(dir: &Dir, chunk: &mut [u8]) -> io::Result<usize> {
    let files = LogFiles::list(dir)?;
    let stats =
        files.plain.iter().filter(|base| dir.stat(&segment_name(**base)).is_ok_and(|stat| stat.is_some())).count();
    let mut read = |name: &str, most| {
        let file = dir.file(name, Access::Read);
        usize::from(file.and_then(|file| read_end(&file, &mut chunk[..most])).is_ok())
    };
    let indexes: usize = files.indexes.iter().map(|base| read(&index_name(*base), CHUNK_BYTES)).sum();
    let packed: usize = files.packed.iter().map(|base| read(&packed_name(*base), 1)).sum();
    let newest: usize = files.plain.last().map_or(0, |newest| read(&segment_name(*newest), 1));
    Ok(stats + indexes + packed + newest)
}

/// Reads as much of the end as the chunk holds.
fn read_end(file: &File, chunk: &mut [u8]) -> io::Result<()> {
    let len = file.metadata()?.len();
    let end = chunk_of(chunk, len);
    file.read_exact_at(end, len - end.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const LOGS: [&str; 2] = ["2bfbea1e-10c3-4419-bdad-7e6435882e1f", "3bfbea1e-10c3-4419-bdad-7e6435882e1f"];

    fn names(folder: &std::path::Path) -> Vec<(String, u64)> {
        let entries = walk(folder).into_iter().map(|path| {
            let len = fs::symlink_metadata(&path).expect("it is there").len();
            (path.display().to_string(), len)
        });
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { walk(&path) } else { vec![path] }).collect()
    }

    /// Each file of a log answers, whatever is beside it and is none.
    #[test]
    fn all_that_can_be_read_is_asked_for_and_nothing_is_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        for log in LOGS {
            let log = folder.path().join(log);
            // Which is none of the index's business, and fails.
            fs::create_dir_all(log.join("00000000000000000000.idx")).expect("a folder");
            fs::write(log.join("00000000000000000000.log"), "a\n").expect("a file");
            fs::write(log.join("00000000000000000002.idx"), "header").expect("a file");
            fs::write(log.join("00000000000000000002.log.zst"), "packed").expect("a file");
            fs::write(log.join("00000000000000000004.log"), "").expect("a file");
            std::os::unix::fs::symlink("nowhere", log.join("00000000000000000006.idx")).expect("a link");
        }
        for other in ["_quarantine", "_journal", "lost+found"] {
            fs::create_dir(folder.path().join(other)).expect("a folder");
            fs::write(folder.path().join(other).join("00000000000000000000.log"), "a\n").expect("a file");
        }
        fs::write(folder.path().join("4bfbea1e-10c3-4419-bdad-7e6435882e1f"), "").expect("a file");
        let before = names(folder.path());
        let root = Dir::root(folder.path()).expect("a folder");
        let entries = root.entries().expect("a folder");
        let mut asked = 0;
        let answered = read_ahead(&root, &entries, &mut || {
            asked += 1;
            false
        });
        // Two lengths, an index, a compressed one, and the end of the newest.
        assert_eq!((answered, asked), (2 * 5, 2));
        assert_eq!(names(folder.path()), before);
    }

    /// What was begun is finished, and no more.
    #[test]
    fn a_stop_leaves_the_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..200_u128 {
            let log = crate::wire::Token::from_bytes(number.to_be_bytes()).to_string();
            fs::create_dir(folder.path().join(&log)).expect("a folder");
            fs::write(folder.path().join(&log).join("00000000000000000000.log"), "a\n").expect("a file");
        }
        let root = Dir::root(folder.path()).expect("a folder");
        let entries = root.entries().expect("a folder");
        let answered = read_ahead(&root, &entries, &mut || true);
        assert!(answered < entries.len(), "{answered}");
        assert_eq!(read_ahead(&root, &entries, &mut || false), 2 * entries.len());
    }
}

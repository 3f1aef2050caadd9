//! Files that a running engine reads again: when one of them has changed, or an operator asks for it.
//!
//! ```text
//!  every second: look ──changed──► look again ──the same──► read ──right──► in force
//!                 ▲                     │ changed again        │ wrong: said, the old one stays
//!                 └─────────────────────┴──────────────────────┘           SIGHUP: read at once
//! ```
//! A file that is being written is not read before it rests: the beginning of a token list is a token list too.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use super::no_resources;
use crate::admin::watch::Watch;
use crate::config::Stamp;
use crate::error::StartError;
use crate::limits::FILE_WATCH;

/// Files that belong together, and what is made of them.
pub(super) trait Source: Send + std::fmt::Debug {
    /// Something that differs once one of the files has changed.
    fn stamps(&self) -> Vec<Stamp>;

    /// Reads them again and says what came of it. What cannot be used changes nothing: `false`.
    fn renew(&mut self) -> bool;
}

/// A source, and what its files were like when it was read.
#[derive(Debug)]
pub(super) struct Watched {
    source: Box<dyn Source>,
    read: Vec<Stamp>,
    seen: Vec<Stamp>,
}

impl Watched {
    /// `read`: the stamps from before the source was read for the first time.
    pub(super) fn new(source: Box<dyn Source>, read: Vec<Stamp>) -> Self {
        Self { source, seen: read.clone(), read }
    }

    /// Whether the files have changed since they were read, and rest.
    fn is_due(&mut self) -> bool {
        let now = self.source.stamps();
        let rests = now == self.seen;
        self.seen = now;
        rests && self.seen != self.read
    }

    fn renew(&mut self) -> bool {
        // Looked at before they are read: a change meanwhile is seen the next time.
        self.seen = self.source.stamps();
        self.read.clone_from(&self.seen);
        self.source.renew()
    }
}

/// The thread that reads files again; it lives as long as somebody can ask it.
#[derive(Clone, Debug)]
pub(super) struct FileWatch(Option<Sender<()>>);

impl FileWatch {
    /// Keeps watch as long as somebody can ask.
    pub(super) fn start(mut watched: Vec<Watched>, watch: Arc<Watch>) -> Result<Self, StartError> {
        if watched.is_empty() {
            return Ok(Self(None));
        }
        let (asks, asked) = channel();
        let work = move || {
            while let Some(asked) = next(&asked) {
                for source in &mut watched {
                    if asked || source.is_due() {
                        watch.count_reload(source.renew());
                    }
                }
            }
        };
        std::thread::Builder::new().name("reload".into()).spawn(work).map_err(no_resources)?;
        Ok(Self(Some(asks)))
    }

    /// Reads all of them again; what is wrong with one is said, and the old one stays.
    pub(super) fn reload(&self) {
        if let Some(asks) = &self.0 {
            // Nobody reads any more if the engine has ended.
            let _told = asks.send(());
        }
    }
}

/// Waits for the next look; says whether somebody asked for it. `None`: nobody can any more.
fn next(asked: &Receiver<()>) -> Option<bool> {
    match asked.recv_timeout(FILE_WATCH) {
        Ok(()) => Some(true),
        Err(RecvTimeoutError::Timeout) => Some(false),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[derive(Debug)]
    struct File(Arc<std::sync::atomic::AtomicU64>);

    impl Source for File {
        fn stamps(&self) -> Vec<Stamp> {
            let seconds = self.0.load(std::sync::atomic::Ordering::Relaxed);
            vec![Some((1, UNIX_EPOCH + Duration::from_secs(seconds), 1))]
        }

        fn renew(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn a_file_is_read_once_it_rests_and_once() {
        let time = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let file = File(Arc::clone(&time));
        let stamps = file.stamps();
        let mut watched = Watched::new(Box::new(file), stamps);
        let mut looks = Vec::new();
        for at in [0, 1, 2, 2, 2, 3, 2, 3, 3] {
            time.store(at, std::sync::atomic::Ordering::Relaxed);
            let due = watched.is_due();
            looks.push(due && watched.renew());
        }
        assert_eq!(looks, [false, false, false, true, false, false, false, false, true]);
    }
}

//! The thread that looks after sealed segments of a running engine.
//!
//! ```text
//!  file threads: a log has a new segment ─► looked at now ─► due again when something of it is old enough
//!  recovery:     logs with sealed segments ─┤
//!  shards:       a removal is recorded ─────┘
//! ```
//! It has the lowest priority of all threads, and the disk serves it last where the scheduler knows of priorities. At the
//! end of the engine it breaks off: the next start goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use super::no_resources;
use crate::diag::{Level, log, quoted};
use crate::error::StartError;
use crate::limits::{KEEP_RETRY, NOTE_GAP};
use crate::shard::{KeeperMail, Removal};
use crate::store::keep::{Clock, Keeper, Kept, Ledger, Now, Rules};
use crate::store::recover::Recovered;
use crate::sys::{DataDir, affinity};
use crate::wire::Token;

/// The thread; ends when dropped.
#[derive(Debug)]
pub(super) struct Keeping {
    mail: Sender<KeeperMail>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeping {
    #[expect(clippy::disallowed_methods, reason = "how old files are is no business of the core")]
    pub(super) fn start(
        data: Arc<DataDir>,
        rules: Rules,
        recovered: &Recovered,
        kept: Arc<Kept>,
        ask: impl Fn(Removal) + Send + 'static,
    ) -> Result<Self, StartError> {
        let (mail, inbox) = channel();
        let end = Arc::new(AtomicBool::new(false));
        let now = Instant::now();
        let clock = Clock::new(recovered.newest_write, data.noted_time(), SystemTime::now(), now);
        let sealed = recovered.logs.iter().filter(|log| log.sealed > 0);
        let due = sealed.filter_map(|log| Some((log.name.token()?, now))).collect();
        let ended = Arc::clone(&end);
        let work = move || {
            affinity::yield_to_others();
            let keeper = Keeper { data: &data, rules, kept: &kept, end: &ended };
            keep(&keeper, Ledger::new(ask), &inbox, due, clock);
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(work).map_err(no_resources)?;
        Ok(Self { mail, end, thread: Some(thread) })
    }

    /// Where to say that a log has a new segment, or that a removal is recorded.
    pub(super) fn mail(&self) -> Sender<KeeperMail> {
        self.mail.clone()
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // It may have ended by a panic, which ends the process.
        let _told = self.mail.send(KeeperMail::End);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how old files are is no business of the core")]
fn keep(
    keeper: &Keeper<'_>,
    mut ledger: Ledger<'_>,
    inbox: &Receiver<KeeperMail>,
    mut due: BTreeMap<Token, Instant>,
    mut clock: Clock,
) {
    loop {
        let now = Instant::now();
        let soonest = due.values().min().map_or(NOTE_GAP, |at| at.saturating_duration_since(now));
        let first = match inbox.recv_timeout(soonest.min(NOTE_GAP)) {
            Ok(mail) => Some(mail),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // All that is there first: a log is looked at once for many of its segments.
        for mail in first.into_iter().chain(inbox.try_iter()) {
            let token = match mail {
                KeeperMail::Rolled(token) => token,
                KeeperMail::Recorded(removal) => {
                    ledger.recorded(removal);
                    removal.token
                }
                KeeperMail::End => return note(keeper, &mut clock),
            };
            due.insert(token, now);
        }
        let now = Instant::now();
        let ready: Vec<Token> = due.iter().filter(|&(_, at)| *at <= now).map(|(&token, _)| token).collect();
        for token in ready {
            if keeper.end.load(Ordering::Relaxed) {
                return;
            }
            due.remove(&token);
            let wall = SystemTime::now();
            let now = Now { wall, trusted: clock.tick(wall, Instant::now()) };
            let next = keeper.look_after(&mut ledger, token, now).unwrap_or_else(|error| {
                let error = quoted(&error);
                log(Level::Warn, format_args!("sealed segments are left as they are, for now error={error}"));
                Some(KEEP_RETRY)
            });
            due.extend(next.and_then(|next| Some((token, Instant::now().checked_add(next)?))));
        }
        note(keeper, &mut clock);
    }
}

#[expect(clippy::disallowed_methods, reason = "how old files are is no business of the core")]
fn note(keeper: &Keeper<'_>, clock: &mut Clock) {
    // Without it the next engine begins with the time of the newest entry.
    let _noted = keeper.data.note_time(clock.tick(SystemTime::now(), Instant::now()));
}

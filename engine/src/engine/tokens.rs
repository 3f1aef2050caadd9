//! The token list of a running engine: read at start and given to the shards, and again when its file changes.

use std::sync::Arc;

use super::files::{Source, Watched};
use super::tell_all;
use crate::config::{Stamp, TokenFile};
use crate::diag::{Level, log, quoted};
use crate::driver::uring::Mailbox;
use crate::error::ConfigError;
use crate::route::KnownTokens;
use crate::shard::Command;

/// The list that was read at start.
#[derive(Debug)]
pub(super) struct Tokens {
    file: TokenFile,
    stamps: Vec<Stamp>,
    known: Arc<KnownTokens>,
}

impl Tokens {
    pub(super) fn load(file: TokenFile) -> Result<Self, ConfigError> {
        let stamps = file.stamps();
        let known: KnownTokens = file.load()?.tokens().collect();
        Ok(Self { file, stamps, known: Arc::new(known) })
    }

    pub(super) fn known(&self) -> Arc<KnownTokens> {
        Arc::clone(&self.known)
    }

    /// Keeps the shards' lists like the file.
    pub(super) fn watched(self, mailboxes: Vec<Mailbox>) -> Watched {
        let Self { file, stamps, known } = self;
        Watched::new(Box::new(Kept { file, mailboxes, known, replaced: None }), stamps)
    }
}

#[derive(Debug)]
struct Kept {
    file: TokenFile,
    mailboxes: Vec<Mailbox>,
    known: Arc<KnownTokens>,
    /// The list before this one: held until the next, so that no shard is the last who has it and must free it.
    replaced: Option<Arc<KnownTokens>>,
}

impl Source for Kept {
    fn stamps(&self) -> Vec<Stamp> {
        self.file.stamps()
    }

    fn renew(&mut self) -> bool {
        let known: KnownTokens = match self.file.load() {
            Ok(list) => list.tokens().collect(),
            Err(error) => {
                log(Level::Warn, format_args!("token list kept as it was error={}", quoted(&error)));
                return false;
            }
        };
        let (added, removed) = (known.not_in(&self.known), self.known.not_in(&known));
        let tokens = known.len();
        if added + removed > 0 {
            self.replaced = Some(std::mem::replace(&mut self.known, Arc::new(known)));
            tell_all(&self.mailboxes, &Command::Know(Arc::clone(&self.known)));
        }
        log(Level::Info, format_args!("token list read again tokens={tokens} added={added} removed={removed}"));
        true
    }
}

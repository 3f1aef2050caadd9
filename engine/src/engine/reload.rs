//! SIGHUP: the configuration is read again, and what a running engine can take of it is put in force.
//!
//! What is wrong anywhere in it changes nothing at all. What takes a restart is named, and named again the next time,
//! until it is as it was or the engine has been restarted.

use std::sync::Arc;

use super::files::FileWatch;
use super::tell_all;
use crate::admin::watch::Watch;
use crate::config::{Config, Resolved, Setting};
use crate::diag::{self, Level, quoted, say};
use crate::driver::uring::Mailbox;
use crate::error::ConfigError;
use crate::limits::TOKENS_UNPACED;
use crate::metrics::Limit;
use crate::shard::{Allowance, Change, Command, PerAddress};

/// What of a running engine can be set.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) tokens: Allowance,
    pub(super) per_address: PerAddress,
    /// A list says itself how many logs there may be.
    has_list: bool,
    mailboxes: Vec<Mailbox>,
    watch: Arc<Watch>,
}

impl Live {
    pub(super) fn new(config: &Config, mailboxes: Vec<Mailbox>, watch: Arc<Watch>) -> Self {
        let (tokens_max, per_second) = match config.tokens {
            Some(_) => (usize::MAX, 0),
            None => (config.tokens_max, config.tokens_per_second.unwrap_or(0)),
        };
        Self {
            tokens: Allowance::paced(tokens_max, TOKENS_UNPACED, per_second),
            per_address: PerAddress::new(config.connections_per_ip_max),
            has_list: config.tokens.is_some(),
            mailboxes,
            watch,
        }
    }

    /// Puts a setting in force as the configuration has it; false: that takes a restart.
    fn apply(&self, name: &str, config: &Config) -> bool {
        let tell = |change| tell_all(&self.mailboxes, &Command::Change(change));
        let limit = match name {
            "log_level" | "log_format" => {
                diag::configure(config.log_level, config.log_format);
                return true;
            }
            "udp_creates" => {
                tell(Change::UdpCreates(config.udp_creates));
                return true;
            }
            "tokens_max" => {
                if !self.has_list {
                    self.tokens.set_max(config.tokens_max);
                }
                Limit::new(name, config.tokens_max)
            }
            "tokens_per_second" => {
                let per_second = config.tokens_per_second.unwrap_or(0);
                if !self.has_list {
                    self.tokens.set_pace(per_second);
                }
                Limit::new(name, per_second)
            }
            "connections_per_ip_max" => {
                self.per_address.set_max(config.connections_per_ip_max);
                Limit::new(name, config.connections_per_ip_max)
            }
            "handshakes_max" => {
                tell(Change::HandshakesMax(config.handshakes_max));
                Limit::new(name, config.handshakes_max)
            }
            "linger" => {
                tell(Change::Linger(config.linger));
                Limit::new(name, config.linger)
            }
            "drain_timeout" => {
                tell(Change::DrainTimeout(config.drain_timeout));
                Limit::new(name, config.drain_timeout)
            }
            _ => return false,
        };
        self.watch.set_limit(limit);
        true
    }
}

/// Reads the configuration of the process again.
pub type Reread = Box<dyn Fn() -> Result<Resolved, ConfigError> + Send>;

/// Makes a running engine read its files again.
pub struct Reloader {
    pub(super) live: Live,
    pub(super) files: FileWatch,
    /// The settings that are in force.
    pub(super) settings: Vec<Setting>,
    pub(super) reread: Reread,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Reads the configuration again, and the files that it names; what is wrong is said, and changes nothing.
    pub fn reload(&mut self) {
        let resolved = (self.reread)();
        self.live.watch.count_reload(resolved.is_ok());
        match resolved {
            Ok(resolved) => self.take(&resolved),
            Err(error) => {
                return say(Level::Warn, format_args!("configuration kept as it was error={}", quoted(&error)));
            }
        }
        self.files.reload();
    }

    fn take(&mut self, resolved: &Resolved) {
        let (mut changed, mut needs_restart) = (0, 0);
        for (name, old, new) in resolved.changed_since(&self.settings) {
            let applied = self.live.apply(&name, &resolved.config);
            let subject = if applied { "setting changed" } else { "setting needs a restart" };
            let level = if applied { Level::Info } else { Level::Warn };
            let (from, to) = (quoted(&old), quoted(&new));
            say(level, format_args!("{subject} name={name} from={from} to={to}"));
            if applied {
                changed += 1;
                self.remember(resolved, &name);
            } else {
                needs_restart += 1;
            }
        }
        say(Level::Info, format_args!("configuration read again changed={changed} needs_restart={needs_restart}"));
    }

    /// This one is in force now.
    fn remember(&mut self, resolved: &Resolved, name: &str) {
        let is_it = |setting: &&Setting| setting.name == name;
        let new = resolved.settings.iter().find(is_it).cloned();
        if let (Some(old), Some(new)) = (self.settings.iter_mut().find(|setting| setting.name == name), new) {
            *old = new;
        }
    }
}

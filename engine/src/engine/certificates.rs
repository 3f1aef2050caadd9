//! Certificates of a running engine: read at start, and again when a file changes or an operator asks for it.
//!
//! What cannot be used changes nothing: new handshakes go on with what was read before, and the reason is said. A pair is
//! replaced in two steps by nearly everybody; between them it does not fit, and the second step puts it right.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::files::{Source, Watched};
use crate::config::{CertificateFiles, Stamp};
use crate::diag::{Level, log, quoted};
use crate::error::ConfigError;
use crate::tls::{Credentials, Server};

/// A set of files, and what TLS clients are shown of it.
#[derive(Debug)]
pub(super) struct Certificates {
    files: CertificateFiles,
    stamps: Vec<Stamp>,
    server: Server,
}

impl Certificates {
    /// One for each set, in their order.
    pub(super) fn load(sets: &[CertificateFiles]) -> Result<Vec<Self>, ConfigError> {
        let load = |files: &CertificateFiles| {
            let stamps = files.stamps();
            let server = Server::new(load(files)?);
            Ok(Self { files: files.clone(), stamps, server })
        };
        sets.iter().map(load).collect()
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Keeps what clients are shown like the files.
    pub(super) fn watched(self) -> Watched {
        let stamps = self.stamps.clone();
        Watched::new(Box::new(self), stamps)
    }
}

impl Source for Certificates {
    fn stamps(&self) -> Vec<Stamp> {
        self.files.stamps()
    }

    fn renew(&mut self) -> bool {
        match load(&self.files) {
            Ok(credentials) => {
                self.server.replace(credentials);
                log(Level::Info, format_args!("certificates read again pairs={}", self.files.pairs.len()));
                true
            }
            Err(error) => {
                log(Level::Warn, format_args!("certificates kept as they were error={}", quoted(&error)));
                false
            }
        }
    }
}

/// Reads them, and says until when each is valid.
fn load(files: &CertificateFiles) -> Result<Credentials, ConfigError> {
    let credentials = files.load()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    for ((path, _), until) in files.pairs.iter().zip(credentials.valid_until()) {
        let path = quoted(&path.display());
        match until.and_then(|until| Some((until, Timestamp::from_second(until).ok()?))) {
            None => log(Level::Warn, format_args!("certificate cert={path} valid_until=unknown")),
            Some((until, shown)) if until < now => {
                log(
                    Level::Warn,
                    format_args!("certificate has expired, clients may refuse it cert={path} valid_until={shown}"),
                );
            }
            Some((_, shown)) => log(Level::Info, format_args!("certificate cert={path} valid_until={shown}")),
        }
    }
    Ok(credentials)
}

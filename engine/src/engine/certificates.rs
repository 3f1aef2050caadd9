//! Certificates of a running engine: read at start, and again when a file changes or an operator asks for it.
//!
//! What cannot be used changes nothing: new handshakes go on with what was read before, and the reason is said. A pair is
//! replaced in two steps by nearly everybody; between them it does not fit, and the second step puts it right.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::no_resources;
use crate::config::{CertificateFiles, Stamp};
use crate::diag::{Level, log, quoted};
use crate::error::{ConfigError, EngineError};
use crate::limits::CERTIFICATE_WATCH;
use crate::tls::{Credentials, Server};

/// What TLS clients are shown, a server for each set of files, and the thread that keeps them up to date.
#[derive(Debug)]
pub(super) struct Certificates {
    servers: Vec<Server>,
    /// The thread lives as long as somebody can ask it.
    reloads: Sender<()>,
}

/// A set of files, what they were when they were read, and who shows them.
struct Watched {
    files: CertificateFiles,
    stamps: Vec<Stamp>,
    server: Server,
}

impl Certificates {
    /// `None` if there are no files.
    pub(super) fn load(sets: &[CertificateFiles]) -> Result<Option<Self>, EngineError> {
        if sets.is_empty() {
            return Ok(None);
        }
        let watched = |files: &CertificateFiles| {
            let stamps = files.stamps();
            Ok(Watched { files: files.clone(), stamps, server: Server::new(load(files)?) })
        };
        let mut watched = sets.iter().map(watched).collect::<Result<Vec<_>, ConfigError>>()?;
        let servers = watched.iter().map(|watched| watched.server.clone()).collect();
        let (reloads, asked) = channel();
        let work = move || {
            loop {
                let asked = match asked.recv_timeout(CERTIFICATE_WATCH) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                for Watched { files, stamps, server } in &mut watched {
                    let now = files.stamps();
                    if asked || now != *stamps {
                        // Looked at before they are read: a change meanwhile is seen the next time.
                        *stamps = now;
                        renew(files, server);
                    }
                }
            }
        };
        std::thread::Builder::new().name("certificates".into()).spawn(work).map_err(no_resources)?;
        Ok(Some(Self { servers, reloads }))
    }

    /// One for each set of files, in their order.
    pub(super) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Where to ask for them to be read again.
    pub(super) fn reloads(&self) -> Sender<()> {
        self.reloads.clone()
    }
}

fn renew(files: &CertificateFiles, server: &Server) {
    match load(files) {
        Ok(credentials) => {
            server.replace(credentials);
            log(Level::Info, format_args!("certificates read again pairs={}", files.pairs.len()));
        }
        Err(error) => log(Level::Warn, format_args!("certificates kept as they were error={}", quoted(&error))),
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

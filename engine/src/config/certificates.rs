//! Certificates and keys in their files.

use std::path::{Path, PathBuf};

use super::files::{Stamp, read, stamp, wrong};
use crate::error::ConfigError;
use crate::limits::CERTIFICATE_FILE_BYTES_MAX;
use crate::tls::{BadPair, Credentials};

/// Where certificates and keys are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// A chain of certificates and the key of its first one, in the order of the flags.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// Authorities that clients must have a certificate of.
    pub client_ca: Option<PathBuf>,
}

impl CertificateFiles {
    /// Reads all of them.
    ///
    /// # Errors
    /// One cannot be read or used: its flag, its path, and what to do. Never what is in it.
    pub fn load(&self) -> Result<Credentials, ConfigError> {
        let mut credentials = Credentials::default();
        for (certificate, key) in &self.pairs {
            let (chain, private) = (read_pem("--cert", certificate)?, read_pem("--key", key)?);
            let added = credentials.add(&chain, &private);
            added.map_err(|bad| match bad {
                BadPair::Certificate(problem) => wrong("--cert", certificate, problem),
                BadPair::Key(problem) => wrong("--key", key, problem),
            })?;
        }
        if let Some(path) = &self.client_ca {
            let flag = "--client-ca";
            let added = credentials.require_clients(&read_pem(flag, path)?);
            added.map_err(|problem| wrong(flag, path, problem))?;
        }
        Ok(credentials)
    }

    /// Something that differs once one of the files has changed.
    #[must_use]
    pub fn stamps(&self) -> Vec<Stamp> {
        let pairs = self.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
        pairs.chain(&self.client_ca).map(|path| stamp(path)).collect()
    }
}

fn read_pem(flag: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    read(flag, path, CERTIFICATE_FILE_BYTES_MAX, "a PEM file")
}

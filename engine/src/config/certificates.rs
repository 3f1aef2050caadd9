//! Certificates and keys in their files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::files::{Stamp, read, stamp, wrong};
use crate::error::ConfigError;
use crate::limits::CERTIFICATE_FILE_BYTES_MAX;
use crate::tls::{BadPair, ClientCertificates, Credentials};

/// Where certificates and keys are.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// A chain of certificates and the key of its first one, in the order of the flags.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// Authorities of which clients are asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether they have to have one.
    pub client_certs: ClientCertificates,
    /// Where they are a listener's own, as `FILE:LINE`; `None` for those of the flags.
    pub place: Option<String>,
}

impl CertificateFiles {
    /// Reads all of them.
    ///
    /// # Errors
    /// One cannot be read or used: its flag, its path, and what to do. Never what is in it.
    pub fn load(&self) -> Result<Credentials, ConfigError> {
        let mut credentials = Credentials::default();
        for (certificate, key) in &self.pairs {
            let (chain, private) = (self.read("--cert", certificate)?, self.read("--key", key)?);
            let added = credentials.add(&chain, &private);
            added.map_err(|bad| match bad {
                BadPair::Certificate(problem) => self.wrong("--cert", certificate, problem),
                BadPair::Key(problem) => self.wrong("--key", key, problem),
            })?;
        }
        if let Some(path) = &self.client_ca {
            let flag = "--client-ca";
            let added = credentials.ask_clients(&self.read(flag, path)?, self.client_certs);
            added.map_err(|problem| self.wrong(flag, path, problem))?;
        }
        Ok(credentials)
    }

    /// Something that differs once one of the files has changed.
    #[must_use]
    pub fn stamps(&self) -> Vec<Stamp> {
        let pairs = self.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
        pairs.chain(&self.client_ca).map(|path| stamp(path)).collect()
    }

    /// What an error about one of them is about.
    fn subject(&self, flag: &'static str) -> Cow<'static, str> {
        match &self.place {
            Some(place) => format!("{place}: {}", flag.trim_start_matches('-').replace('-', "_")).into(),
            None => flag.into(),
        }
    }

    fn wrong(&self, flag: &'static str, path: &Path, problem: &str) -> ConfigError {
        wrong(self.subject(flag), path, problem)
    }

    fn read(&self, flag: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
        read(self.subject(flag), path, CERTIFICATE_FILE_BYTES_MAX, "a PEM file")
    }
}

//! Certificates and keys in their files: reading them, and noticing that they have changed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    /// Where they are a listener's own, as `FILE:LINE`; `None` for those of the flags.
    pub place: Option<String>,
}

/// Which file it is, when it was changed, and how long it is; `None` if it cannot be looked at.
pub type Stamp = Option<(u64, SystemTime, u64)>;

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
            let added = credentials.require_clients(&self.read(flag, path)?);
            added.map_err(|problem| self.wrong(flag, path, problem))?;
        }
        Ok(credentials)
    }

    /// Something that differs once one of the files has changed.
    #[must_use]
    pub fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.ino(), meta.modified().ok()?, meta.len()))
        };
        let pairs = self.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
        pairs.chain(&self.client_ca).map(stamp).collect()
    }

    fn wrong(&self, flag: &'static str, path: &Path, problem: &str) -> ConfigError {
        let flag = match &self.place {
            Some(place) => format!("{place}: {}", flag.trim_start_matches('-').replace('-', "_")).into(),
            None => flag.into(),
        };
        ConfigError { flag, problem: format!("{}: {problem}", path.display()) }
    }

    fn read(&self, flag: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
        let unreadable = |error: io::Error| {
            self.wrong(flag, path, &format!("cannot be read; give a PEM file that this user may read ({error})"))
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(CERTIFICATE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > CERTIFICATE_FILE_BYTES_MAX {
            let problem = format!("is larger than {CERTIFICATE_FILE_BYTES_MAX} bytes; give a PEM file");
            return Err(self.wrong(flag, path, &problem));
        }
        Ok(bytes)
    }
}

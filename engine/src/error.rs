//! What can stop a command, typed by who has to act, and the exit code of each.
//!
//! `Display` is for people: subject, what is wrong, what is allowed or what to do next; lower case, no full stop, one
//! line. A path shows at most the first digits of a token.

use std::fmt;
use std::io;
use std::path::{Component, Path};

use crate::wire::Token;

/// Exit codes of the binary; the README has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or drained.
    Done = 0,
    /// Something unexpected, or entries could not be stored before the end.
    Unexpected = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The environment refuses: `io_uring`, a port, a limit, the data directory.
    Environment = 3,
    /// Damage found on disk.
    Damage = 4,
}

/// A wrong flag: for the operator who typed it. Exit 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The flag, as typed.
    pub flag: &'static str,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flag, self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// The host refuses to start the engine: for its operator. Exit 3.
#[derive(Debug)]
pub struct StartError {
    /// What was being set up, such as a port or a directory.
    pub subject: String,
    /// What is wrong with it, and what to do.
    pub problem: String,
    /// The system's own word, if it said one.
    pub source: Option<io::Error>,
}

impl StartError {
    /// An error that the system gave no reason for.
    pub fn new(subject: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { subject: subject.into(), problem: problem.into(), source: None }
    }

    /// The same, with the system's reason.
    #[must_use]
    pub fn because(self, source: impl Into<io::Error>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.problem)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// A path for people: every component that is, or begins with, a token is shortened to its first digits.
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut shown = std::path::PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => shown.push(shown_name(&name.to_string_lossy())),
            other => shown.push(other),
        }
    }
    shown.display().to_string()
}

fn shown_name(name: &str) -> String {
    match name.get(..crate::wire::token::TOKEN_BYTES).and_then(|text| text.parse::<Token>().ok()) {
        Some(token) => token.shortened() + &name[crate::wire::token::TOKEN_BYTES..],
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_hide_tokens() {
        let path = Path::new("/data/2bfbea1e-10c3-4419-bdad-7e6435882e1f/00000000000000000000.log");
        assert_eq!(shown(path), "/data/2bfbea1e…/00000000000000000000.log");
        let path = Path::new("_quarantine/2bfbea1e-10c3-4419-bdad-7e6435882e1f-00000000000000000000-17");
        assert_eq!(shown(path), "_quarantine/2bfbea1e…-00000000000000000000-17");
    }

    #[test]
    fn start_errors_are_one_sentence() {
        let error = StartError::new("127.0.0.1:80", "cannot be bound; choose another port")
            .because(io::Error::from_raw_os_error(13));
        assert_eq!(
            error.to_string(),
            "127.0.0.1:80: cannot be bound; choose another port (Permission denied (os error 13))"
        );
    }
}

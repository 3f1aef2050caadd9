//! What can stop a command, typed by who has to act, and the exit code of each.
//!
//! `Display` is for people: subject, what is wrong, what is allowed or what to do next; lower case, no full stop, one
//! line. A path shows at most the first digits of a token.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};

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

/// A wrong setting: for the operator who gave it. Exit 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The flag as typed, or the variable, or file, line and key.
    pub flag: Cow<'static, str>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values of a file may hold line ends.
        let text = format!("{}: {}", self.flag, self.problem);
        f.write_str(&text.replace(char::is_control, " "))
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

/// What is on disk is not what an engine leaves there: for the operator. Exit 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub path: PathBuf,
    /// What an engine would have left.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, expected, found } = self;
        let path = shown(path);
        write!(f, "{path}: expected {expected}, found {found}; restore it, or move this log out of the data directory")
    }
}

/// A file or directory could not be used. Exit 3 if the operator can give what is missing, else 1.
#[derive(Debug)]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// What was tried, as in "cannot be read".
    pub tried: &'static str,
    /// The system's own word.
    pub source: io::Error,
}

impl FileError {
    /// The exit code that belongs to the system's word.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.remedy().is_some() { Exit::Environment } else { Exit::Unexpected }
    }

    /// Whether there was no room.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        wants_room(&self.source)
    }

    fn remedy(&self) -> Option<&'static str> {
        match self.source.kind() {
            _ if self.wants_room() => Some("make room, then start again"),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Some("chown it to this user, or give permission (chmod)")
            }
            _ => None,
        }
    }
}

/// Whether there was no room: on the disk, or in what the user may have of it.
#[must_use]
pub fn wants_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = self.remedy().unwrap_or("see the kernel's log");
        write!(f, "{}: cannot be {}; {remedy} ({})", shown(&self.path), self.tried, self.source)
    }
}

/// Recovery could not make the data directory ready: for the operator.
#[derive(Debug)]
pub enum RecoverError {
    /// What is there was not left by an engine, or something of it is missing.
    Damage(Damage),
    /// What was synced is missing.
    Lost(Damage),
    /// The system refused a step; all steps can be repeated.
    File(FileError),
    /// Somebody wants the start to end; the next one begins recovery anew.
    Stopped,
}

impl RecoverError {
    /// The exit code of a start that ends with this.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Damage(_) | Self::Lost(_) => Exit::Damage,
            Self::File(error) => error.exit(),
            Self::Stopped => Exit::Done,
        }
    }
}

impl From<FileError> for RecoverError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // To the journals a log that is moved away is one that is missing.
            Self::Damage(damage) => write!(f, "{damage} and start with --accept-loss"),
            Self::Lost(Damage { path, expected, found }) => {
                let path = shown(path);
                write!(f, "{path}: expected {expected}, found {found}; restore it, or start with --accept-loss")
            }
            Self::File(error) => error.fmt(f),
            Self::Stopped => f.write_str("recovery: stopped; start again"),
        }
    }
}

impl std::error::Error for RecoverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Damage(_) | Self::Lost(_) | Self::Stopped => None,
            Self::File(error) => Some(&error.source),
        }
    }
}

/// A command that reads logs could not do it: for the one who typed it.
#[derive(Debug)]
pub enum ReadError {
    /// There is no such log.
    NoLog {
        /// The log asked for.
        token: Token,
        /// The data directory that was searched.
        data: PathBuf,
    },
    /// The data directory cannot be read.
    Data(StartError),
    /// Segments are missing or do not join; what is there was shown.
    Damage(Damage),
    /// A file of a log cannot be read.
    File(FileError),
    /// What was read could not be handed on.
    Output(io::Error),
}

impl ReadError {
    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoLog { .. } => Exit::Usage,
            Self::Data(_) => Exit::Environment,
            Self::Damage(_) => Exit::Damage,
            Self::File(error) => error.exit(),
            Self::Output(_) => Exit::Unexpected,
        }
    }
}

impl From<FileError> for ReadError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLog { token, data } => {
                write!(f, "{}: no such log in {}; see engine ls", token.shortened(), shown(data))
            }
            Self::Data(error) => error.fmt(f),
            Self::Damage(damage) => damage.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Output(source) => write!(f, "output: cannot be written; give it room or another place ({source})"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoLog { .. } | Self::Damage(_) => None,
            Self::Data(error) => std::error::Error::source(error),
            Self::File(error) => Some(&error.source),
            Self::Output(source) => Some(source),
        }
    }
}

/// Whatever ends a command early.
#[derive(Debug)]
pub enum EngineError {
    /// A wrong flag.
    Config(ConfigError),
    /// The host refuses.
    Start(StartError),
    /// The data directory could not be made ready.
    Recover(RecoverError),
    /// A command that reads could not.
    Read(ReadError),
    /// The ring of a running shard failed.
    Ring(io::Error),
}

impl EngineError {
    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Usage,
            Self::Start(_) => Exit::Environment,
            Self::Recover(error) => error.exit(),
            Self::Read(error) => error.exit(),
            Self::Ring(_) => Exit::Unexpected,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Recover(error) => error.fmt(f),
            Self::Read(error) => error.fmt(f),
            Self::Ring(error) => write!(f, "io_uring: failed while running; start the engine again ({error})"),
        }
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Start(error) => Some(error),
            Self::Recover(error) => Some(error),
            Self::Read(error) => Some(error),
            Self::Ring(error) => Some(error),
        }
    }
}

impl From<ConfigError> for EngineError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<StartError> for EngineError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl From<RecoverError> for EngineError {
    fn from(error: RecoverError) -> Self {
        Self::Recover(error)
    }
}

impl From<ReadError> for EngineError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// A path for people: every component that is, or begins with, a token is shortened to its first digits.
#[must_use]
pub fn shown(path: &Path) -> String {
    let mut shown = PathBuf::new();
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

    #[test]
    fn disk_errors_say_where_what_and_what_next() {
        let path = PathBuf::from("data/2bfbea1e-10c3-4419-bdad-7e6435882e1f");
        let damage = Damage { path: path.clone(), expected: "a".to_owned(), found: "b".to_owned() };
        let text = "data/2bfbea1e…: expected a, found b; restore it, or move this log out of the data directory";
        assert_eq!(ReadError::Damage(damage.clone()).to_string(), text);
        assert_eq!(RecoverError::Damage(damage.clone()).to_string(), format!("{text} and start with --accept-loss"));
        assert_eq!(RecoverError::Damage(damage).exit(), Exit::Damage);
        let full = FileError { path, tried: "cut", source: io::Error::from_raw_os_error(28) };
        assert_eq!(full.exit(), Exit::Environment);
        assert_eq!(
            full.to_string(),
            "data/2bfbea1e…: cannot be cut; make room, then start again (No space left on device (os error 28))"
        );
        let broken = FileError { source: io::Error::from_raw_os_error(5), ..full };
        assert_eq!(ReadError::File(broken).exit(), Exit::Unexpected);
    }

    #[test]
    fn an_unknown_log_is_named_without_its_token() {
        let token = "2bfbea1e-10c3-4419-bdad-7e6435882e1f".parse().unwrap();
        let error = ReadError::NoLog { token, data: PathBuf::from("./data") };
        assert_eq!(error.to_string(), "2bfbea1e…: no such log in ./data; see engine ls");
        assert_eq!(error.exit(), Exit::Usage);
    }
}

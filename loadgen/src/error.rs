//! What can stop a run, by who has to act, and the exit code of each.

use std::fmt;
use std::io;

/// Exit codes of the binary; the README has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The run was made, and the account, if any, found nothing wrong.
    Done = 0,
    /// A `--fail-if` holds, or something unexpected happened, such as an unreadable data directory.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// The environment refuses: no connection, no `io_uring`.
    Environment = 3,
    /// The account shows something lost, duplicated, reordered, damaged or in the wrong log.
    Account = 5,
    /// The schedule was not kept, the receiver did not take all of it, or the run was cut short: the figures don't count.
    Invalid = 6,
}

/// Why a run could not be made, or not be judged.
#[derive(Debug)]
pub enum RunError {
    /// A wrong flag, and what is allowed.
    Usage(String),
    /// What the host or the network refuses, and why.
    Environment(String, io::Error),
    /// What failed although nothing was wrong before, and why.
    Unexpected(String, io::Error),
}

impl From<&RunError> for Exit {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Usage(_) => Self::Usage,
            RunError::Environment(..) => Self::Environment,
            RunError::Unexpected(..) => Self::Failed,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(problem) => f.write_str(problem),
            Self::Environment(problem, source) | Self::Unexpected(problem, source) => {
                write!(f, "{problem} ({source})")
            }
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Usage(_) => None,
            Self::Environment(_, source) | Self::Unexpected(_, source) => Some(source),
        }
    }
}

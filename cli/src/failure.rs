//! Why a command failed, and what the exit code and the message are then.

use std::io;

use larder::{Error, Outcome};

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store, or how it is named.
    Store(Error),
    /// Standard output or standard input.
    Stream(io::Error),
    /// What the command itself refuses.
    Other(String),
}

impl Failure {
    /// Nobody reads the output any more.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stream(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// 1 for a lock that somebody else surely has, else 2.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error)
                if error.is_lock_timeout() && error.outcome() == Outcome::Rejected =>
            {
                crate::MISSING
            }
            _ => crate::ERROR,
        }
    }

    /// One line for a person; `command` is what they typed.
    pub(crate) fn explain(&self, command: &str) -> String {
        match self {
            Self::Store(error) => {
                let text = error.to_string();
                // The library names its method; who typed `hget` knows only `hget`.
                let mut line = match text.strip_prefix(error.op()) {
                    Some(rest) if !error.op().is_empty() => format!("{command}{rest}"),
                    _ => text,
                };
                if error.outcome() == Outcome::Unknown {
                    line.push_str(" (it may have been applied)");
                }
                line
            }
            Self::Stream(error) => format!("{command}: {error}"),
            Self::Other(text) => text.clone(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

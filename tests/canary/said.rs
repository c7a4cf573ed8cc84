//! What was said, and the search through it.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use larder::{Error, ErrorKind};
use tracing_subscriber::fmt::MakeWriter;

/// What is searched for, in lower case: the canaries as text, as Debug prints their bytes, and in hex.
const NEEDLES: [&str; 6] =
    ["canary", "c0ffee", "99, 97, 110, 97, 114, 121", "63616e617279", "y2fuyxj5", "canar\\"];

/// Everything that was said, with where it came from.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) outputs: Vec<(String, String)>,
    pub(crate) errors: usize,
    pub(crate) kinds: Vec<ErrorKind>,
    // Locks that were taken: their tokens are searched for, too.
    pub(crate) tokens: Vec<String>,
}

impl Said {
    pub(crate) fn text(&mut self, place: impl Display, text: impl Into<String>) {
        self.outputs.push((place.to_string(), text.into()));
    }

    pub(crate) fn debug(&mut self, place: impl Display, thing: &dyn Debug) {
        self.text(&place, format!("{thing:?}"));
        self.text(&place, format!("{thing:#?}"));
    }

    pub(crate) fn error(&mut self, place: impl Display, error: &Error) {
        self.errors += 1;
        if !self.kinds.contains(&error.kind()) {
            self.kinds.push(error.kind());
        }
        self.debug(&place, error);
        self.text(&place, error.to_string());
        self.text(&place, error.code().unwrap_or_default());
        if let Some(key) = error.key() {
            self.debug(&place, key);
            self.text(&place, key.to_string());
        }
        let mut source = error.source();
        while let Some(cause) = source {
            self.text(&place, format!("{cause} {cause:?}"));
            source = cause.source();
        }
    }

    /// Takes note of an error, if it is one.
    pub(crate) fn note<T>(&mut self, place: impl Display, done: Result<T, Error>) {
        if let Err(error) = done {
            self.error(place, &error);
        }
    }

    /// Takes note of what must be an error.
    pub(crate) fn refused<T>(&mut self, place: impl Display, done: Result<T, Error>) {
        match done {
            Ok(_) => panic!("{place}: this was to fail"),
            Err(error) => self.error(place, &error),
        }
    }

    pub(crate) fn leaks(&self) -> Vec<String> {
        let leaking = |text: &str| {
            // Pretty lists have one element a line.
            let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
            NEEDLES.iter().any(|needle| text.contains(needle))
                || self.tokens.iter().any(|token| text.contains(token.as_str()))
        };
        self.outputs
            .iter()
            .filter(|(_, text)| leaking(text))
            .map(|(place, text)| format!("{place}: {text}"))
            .collect()
    }
}

/// The log of the process, from `tracing` and from the `log` facade that the driver uses.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("log {} {}: {}\n", record.level(), record.target(), record.args());
        let _ = self.clone().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

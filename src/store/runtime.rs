//! Whether there is a tokio runtime: its timers and connections panic without one.

use tokio::runtime::Handle;
use tokio::task;

use crate::error::{Error, ErrorKind, Outcome, Result};

/// Whether this thread is within a runtime. The identifier of a task is asked for first, since a handle
/// is counted where all threads write.
pub(crate) fn is_here() -> bool {
    task::try_id().is_some() || Handle::try_current().is_ok()
}

/// An error outside of a runtime; `what` needs one.
pub(crate) fn check(what: &str) -> Result<()> {
    if is_here() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, format!("{what} needs a tokio runtime; call it within one"))
        .with_outcome(Outcome::NotSent))
}

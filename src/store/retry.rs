//! Repeating, by idempotence: what was surely not applied, and what may be applied twice.

use std::time::Duration;

use tokio::time::Instant;

use super::{Capabilities, Layer, Store};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Replies};

/// The pauses between attempts: from the first, doubling, to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Repeats a batch that met an unavailable server, within its deadline: if it was never sent, or if
/// applying it again changes nothing. Another one is sent at most once, even if the server refused it.
#[derive(Debug)]
pub(crate) struct Retry<S> {
    inner: S,
}

impl<S: Store> Retry<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Store> Layer for Retry<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        let mut pause = FIRST_PAUSE;
        let mut unsure = false;
        loop {
            let done = self.inner.run(batch.clone()).await;
            let Some(again) = verdict(batch, &done) else {
                return if unsure { done.map_err(as_unknown) } else { done };
            };
            unsure |= again == Outcome::Unknown;
            if again == Outcome::Rejected && !unsure {
                batch.clear_sent();
            }
            // Up to half of the pause is left to chance, so that callers do not come in step.
            let jittered = pause.mul_f64(1.0 - fastrand::f64() / 2.0);
            if batch.deadline().is_some_and(|end| Instant::now() + jittered >= end) {
                return if unsure { done.map_err(as_unknown) } else { done };
            }
            tokio::time::sleep(jittered).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// The outcome of an attempt that may be made again, or nothing if it may not.
fn verdict(batch: &Batch, done: &Result<Replies>) -> Option<Outcome> {
    let repeatable = |error: &Error| {
        error.kind() == ErrorKind::Unavailable
            && (error.outcome() == Outcome::NotSent || batch.is_repeatable())
    };
    match done {
        Err(error) => repeatable(error).then(|| error.outcome()),
        // Some of a batch may have been applied: only if all of it was refused is it one failure.
        Ok(replies) => {
            let mut outcome = None;
            for result in replies.results() {
                match result {
                    Err(error) if repeatable(error) => outcome = Some(error.outcome()),
                    _ => return None,
                }
            }
            outcome
        }
    }
}

/// An earlier attempt may have been applied, whatever became of the last.
fn as_unknown(error: Error) -> Error {
    match error.outcome() {
        Outcome::NotSent | Outcome::Rejected => error.with_outcome(Outcome::Unknown),
        _ => error,
    }
}

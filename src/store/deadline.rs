//! Deadlines: no call takes longer than it was given.

use std::future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task;

use super::{Capabilities, Layer, runtime};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Replies};

/// Ends every call at its deadline, which counts from when the batch was made and covers waiting,
/// connecting, repeating and the reply.
#[derive(Debug)]
pub(crate) struct Deadline<S> {
    inner: S,
    default: Duration,
}

impl<S: Layer> Deadline<S> {
    pub(crate) fn new(inner: S, default: Duration) -> Self {
        Self { inner, default }
    }

    fn timeout(&self, batch: &Batch) -> Duration {
        batch.own_timeout().unwrap_or(self.default)
    }
}

impl<S: Layer> Layer for Deadline<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        // A deadline beyond what the clock can say is none. The time itself is asked for again when it is over: calls in
        // flight do not hold it.
        let deadline = batch.started().checked_add(self.timeout(batch));
        let bounded = deadline.map(|deadline| batch.clone().with_deadline(deadline));
        let batch = bounded.as_ref().unwrap_or(batch);
        // Called at one place: at two, every call would hold room for both.
        let mut running = pin!(self.inner.call(batch));
        // The embedded store answers at the first poll: it shall not pay for a timer.
        if let Poll::Ready(done) =
            future::poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await
        {
            return done;
        }
        let Some(deadline) = deadline else { return running.await };
        // Only a store of the caller's own gets here without a runtime.
        if let Err(error) = runtime::check("the deadline of a call that waits") {
            let outcome = if batch.was_sent() { Outcome::Unknown } else { Outcome::NotSent };
            return Err(error.with_outcome(outcome));
        }
        // Not `timeout_at`, which would begin by polling the call a second time. The timer has no part in the task's
        // budget: a call that used it up shall end in time as well.
        let mut timer = pin!(task::unconstrained(tokio::time::sleep_until(deadline)));
        let mut is_polled = true;
        future::poll_fn(|cx| {
            if !std::mem::take(&mut is_polled)
                && let Poll::Ready(done) = running.as_mut().poll(cx)
            {
                return Poll::Ready(done);
            }
            timer.as_mut().poll(cx).map(|()| Err(overdue(batch, self.timeout(batch))))
        })
        .await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

fn overdue(batch: &Batch, timeout: Duration) -> Error {
    let (outcome, where_it_was) = if !batch.was_sent() {
        (Outcome::NotSent, "before it could be sent")
    } else if batch.is_read() {
        (Outcome::Unknown, "while waiting for the reply")
    } else {
        (Outcome::Unknown, "while waiting for the reply, so it may have been applied")
    };
    Error::new(ErrorKind::Timeout, format!("the deadline of {timeout:?} passed {where_it_was}"))
        .with_outcome(outcome)
}

//! Deadlines: no call takes longer than it was given.

use std::future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::{Unconstrained, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

use super::alarm::Alarm;
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
        let mut running = pin!(self.inner.call(batch));
        let mut timer = Timer::Unset;
        future::poll_fn(|cx| {
            if let Poll::Ready(done) = running.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            // The embedded store answers at the first poll: it does not pay for a timer.
            let Some(deadline) = deadline else { return Poll::Pending };
            let timeout = self.timeout(batch);
            timer.poll(deadline, timeout, cx).map(|over| {
                Err(match over {
                    Ok(()) => overdue(batch, timeout),
                    Err(error) if batch.was_sent() => error.with_outcome(Outcome::Unknown),
                    Err(error) => error.with_outcome(Outcome::NotSent),
                })
            })
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

/// So long before a deadline the call gets a timer of its own: longer than a busy runtime takes to run the task that rings.
const OWN: Duration = Duration::from_millis(400);

/// What ends a call in time. Nearly all are answered before they need a timer of their own.
enum Timer {
    Unset,
    Shared(Alarm),
    // It has no part in the task's budget: a call that used it up shall end in time as well.
    Own(Pin<Box<Unconstrained<Sleep>>>),
}

impl Timer {
    /// Comes at the deadline, or with an error if there is no runtime for a timer: only a store of the caller's own waits
    /// without one, and who took a call out of the runtime that it began in.
    fn poll(
        &mut self,
        deadline: Instant,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        loop {
            match self {
                Self::Own(timer) => return timer.as_mut().poll(cx).map(Ok),
                Self::Shared(alarm) if alarm.keep(cx) => return Poll::Pending,
                _ => runtime::check("the deadline of a call that waits")?,
            }
            match deadline.checked_sub(OWN) {
                Some(moment) if timeout > OWN && matches!(self, Self::Unset) => {
                    *self = Self::Shared(Alarm::set(moment, cx));
                    return Poll::Pending;
                }
                _ => *self = Self::Own(Box::pin(unconstrained(sleep_until(deadline)))),
            }
        }
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

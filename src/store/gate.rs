//! The gate: counts what is in flight, and lets nothing in once the client is closed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Capabilities, Layer, runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Batch, Op, Replies};

/// Refuses calls after [`Store::close`](super::Store::close), which waits for those in flight.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    state: State,
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    in_flight: AtomicUsize,
    closed: AtomicBool,
    emptied: Notify,
}

impl State {
    fn is_empty(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) == 0
    }

    async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// One call in flight; counted down however its future ends.
struct Pass<'a>(&'a State);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1
            && self.0.closed.load(Ordering::SeqCst)
        {
            self.0.emptied.notify_waiters();
        }
    }
}

impl<S: Layer> Gate<S> {
    /// A gate over calls that end within `patience` if they are polled.
    pub(crate) fn new(inner: S, patience: Duration) -> Self {
        Self { inner, state: State::default(), patience }
    }
}

impl<S: Layer> Layer for Gate<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        self.state.in_flight.fetch_add(1, Ordering::SeqCst);
        let _pass = Pass(&self.state);
        if self.state.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the client is closed"));
        }
        batch.ops().iter().try_for_each(Op::check)?;
        self.inner.call(batch).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
        if !self.state.is_empty() && runtime::is_here() {
            // A call whose future is kept without being polled never ends.
            _ = tokio::time::timeout(self.patience, self.state.emptied()).await;
        }
        self.inner.close().await;
    }
}

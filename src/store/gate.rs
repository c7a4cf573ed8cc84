//! The gate: counts what is in flight, and lets nothing in once the client is closed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Capabilities, Layer, runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Batch, Op, Replies};
use crate::stats::{place, stripes};

/// Refuses calls after [`Store::close`](super::Store::close), which waits for those in flight.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    state: State,
    patience: Duration,
}

#[derive(Debug)]
struct State {
    // Each thread counts calls in where threads of its own count. A call is counted out where it was counted in, so
    // that one that is zero after `closed` was set stays so.
    in_flight: Box<[Count]>,
    closed: AtomicBool,
    emptied: Notify,
}

/// Alone on its cache lines: one that every call of every thread changes costs those around it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicUsize);

impl State {
    fn new() -> Self {
        Self {
            in_flight: (0..stripes()).map(|_| Count::default()).collect(),
            closed: AtomicBool::new(false),
            emptied: Notify::new(),
        }
    }

    fn enter(&self) -> Pass<'_> {
        let count = place().of(&self.in_flight);
        count.0.fetch_add(1, Ordering::SeqCst);
        Pass { state: self, count }
    }

    fn is_empty(&self) -> bool {
        self.in_flight.iter().all(|count| count.0.load(Ordering::SeqCst) == 0)
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
struct Pass<'a> {
    state: &'a State,
    count: &'a Count,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.count.0.fetch_sub(1, Ordering::SeqCst) == 1
            && self.state.closed.load(Ordering::SeqCst)
        {
            self.state.emptied.notify_waiters();
        }
    }
}

impl<S: Layer> Gate<S> {
    /// A gate over calls that end within `patience` if they are polled.
    pub(crate) fn new(inner: S, patience: Duration) -> Self {
        Self { inner, state: State::new(), patience }
    }
}

impl<S: Layer> Layer for Gate<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        let _pass = self.state.enter();
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

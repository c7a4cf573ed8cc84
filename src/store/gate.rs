//! The gate: counts what is in flight, and lets nothing in once the client is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{Capabilities, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Batch, Replies};

/// Refuses calls after [`Store::close`], which waits for those in flight.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    inner: Arc<S>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: AtomicUsize,
    closed: AtomicBool,
    emptied: Notify,
}

/// One call in flight; counted down however its future ends.
struct Pass(Arc<State>);

impl Drop for Pass {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1
            && self.0.closed.load(Ordering::SeqCst)
        {
            self.0.emptied.notify_waiters();
        }
    }
}

impl<S: Store> Gate<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), state: Arc::default() }
    }
}

impl<S: Store> Store for Gate<S> {
    fn run(&self, batch: Batch) -> BoxFuture<'static, Result<Replies>> {
        self.state.in_flight.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(Arc::clone(&self.state));
        if self.state.closed.load(Ordering::SeqCst) {
            let closed = Error::new(ErrorKind::Closed, "the client is closed");
            return Box::pin(std::future::ready(Err(closed)));
        }
        if let Some(error) = batch.ops().iter().find_map(|op| op.check().err()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let running = self.inner.run(batch);
        Box::pin(async move {
            let _pass = pass;
            running.await
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.state.closed.store(true, Ordering::SeqCst);
        let state = Arc::clone(&self.state);
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            loop {
                let emptied = state.emptied.notified();
                if state.in_flight.load(Ordering::SeqCst) == 0 {
                    break;
                }
                emptied.await;
            }
            inner.close().await;
        })
    }
}

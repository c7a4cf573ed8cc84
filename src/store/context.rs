//! Error context: every error says which operation failed on which key.

use futures_util::future::BoxFuture;

use super::{Capabilities, Store};
use crate::error::Result;
use crate::op::{Batch, Replies};

/// Names the operation and the key in every error of the store below.
#[derive(Debug)]
pub(crate) struct Context<S> {
    inner: S,
}

impl<S: Store> Context<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Store> Store for Context<S> {
    fn run(&self, batch: Batch) -> BoxFuture<'static, Result<Replies>> {
        let described = batch.clone();
        let running = self.inner.run(batch);
        Box::pin(async move {
            let name = described.name();
            match running.await {
                Ok(replies) if replies.results().iter().all(Result::is_ok) => Ok(replies),
                Ok(replies) => Ok(replies.map_errors(|at, error| {
                    let error = error.with_op(name);
                    match described.ops().get(at).map(|op| op.keys()) {
                        Some([key]) => error.with_key(key),
                        _ => error,
                    }
                })),
                Err(error) => {
                    let error = error.with_op(name);
                    Err(match described.sole_key() {
                        Some(key) => error.with_key(key),
                        None => error,
                    })
                }
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

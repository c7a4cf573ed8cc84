//! Error context: every error says which operation failed on which key.

use super::{Capabilities, Layer};
use crate::error::Result;
use crate::op::{Batch, Replies};

/// Names the operation and the key in every error of the store below.
#[derive(Debug)]
pub(crate) struct Context<S> {
    inner: S,
}

impl<S: Layer> Context<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Layer> Layer for Context<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        let name = batch.name();
        match self.inner.call(batch).await {
            Ok(replies) if replies.results().iter().all(Result::is_ok) => Ok(replies),
            Ok(replies) => Ok(replies.map_errors(|at, error| {
                let error = error.with_op(name);
                match batch.ops().get(at).map(|op| op.keys()) {
                    Some([key]) => error.with_key(key),
                    _ => error,
                }
            })),
            Err(error) => {
                let error = error.with_op(name);
                Err(match batch.sole_key() {
                    Some(key) => error.with_key(key),
                    None => error,
                })
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

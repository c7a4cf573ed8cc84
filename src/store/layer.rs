//! Layers: the wrappers that a client puts around its store.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Capabilities, InvalidationSink, Store};
use crate::error::Result;
use crate::op::{Batch, Replies};

/// What wraps a store within a client. Unlike a [`Store`] it lends the batch downwards, and its future
/// has a type: six layers are one allocation and touch no counter that other threads touch.
pub(crate) trait Layer: Send + Sync + 'static {
    /// Executes a batch, as [`Store::run`].
    fn call(&self, batch: &Batch) -> impl Future<Output = Result<Replies>> + Send;

    /// As [`Store::capabilities`].
    fn capabilities(&self) -> Capabilities;

    /// As [`Store::close`].
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// Layers as a store.
#[derive(Debug)]
pub(crate) struct Stack<L>(pub(crate) L);

impl<L: Layer> Store for Stack<L> {
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
        Box::pin(async move { self.0.call(&batch).await })
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn on_invalidation(&self, _sink: Arc<dyn InvalidationSink>) {
        // The client registers its sinks with the store below its layers.
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.close())
    }
}

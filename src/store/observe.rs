//! Seeing: errors that say which operation failed on which key, and a span, a latency, hits, misses and
//! bytes for every batch.

use std::sync::Arc;

use tracing::{Instrument, Span};

use super::{Capabilities, Layer};
use crate::error::{Error, Result};
use crate::op::{Batch, Replies};
use crate::stats::Recorder;

/// Names the operation and the key in every error of the store below, and counts what passes. The store is
/// asked nothing more for it.
///
/// One layer for both: a layer of its own costs each call more than the counting.
#[derive(Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    // Nothing if errors alone are seen to.
    recorder: Option<Arc<Recorder>>,
}

impl<S: Layer> Observe<S> {
    pub(crate) fn new(inner: S, recorder: Option<Arc<Recorder>>) -> Self {
        Self { inner, recorder }
    }

    async fn spanned(&self, batch: &Batch, span: &Span) -> Result<Replies> {
        let done = self.over(batch, self.inner.call(batch).await);
        let failure = match &done {
            Ok(replies) => replies.results().iter().find_map(|result| result.as_ref().err()),
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            span.record("error", tracing::field::debug(error.kind()));
        }
        done
    }

    /// What is done once a batch is over.
    #[inline(always)]
    fn over(&self, batch: &Batch, done: Result<Replies>) -> Result<Replies> {
        if let Some(recorder) = &self.recorder
            && !batch.is_by_itself()
        {
            recorder.record(batch, &done);
        }
        match &done {
            // What went well stays where it is: moving it costs as much as looking at it.
            Ok(replies) if replies.results().iter().all(Result::is_ok) => done,
            _ => named(batch, done),
        }
    }
}

impl<S: Layer> Layer for Observe<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        // Asked first: making a span that is not wanted costs more than all the counting.
        if self.recorder.is_some()
            && tracing::span_enabled!(target: "larder", tracing::Level::DEBUG)
        {
            let span = tracing::debug_span!(
                target: "larder",
                "larder",
                call = batch.name(),
                ops = batch.ops().len(),
                key = batch.sole_key().map(tracing::field::display),
                error = tracing::field::Empty,
            );
            // Boxed, so that calls without a span do not carry its room.
            return Box::pin(self.spanned(batch, &span).instrument(span.clone())).await;
        }
        let done = self.inner.call(batch).await;
        self.over(batch, done)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// The same with the operation and the key in each error.
#[cold]
fn named(batch: &Batch, done: Result<Replies>) -> Result<Replies> {
    let name = |error: Error| error.with_op(batch.name());
    match done {
        Ok(replies) => {
            Ok(replies.map_errors(|at, error| match batch.ops().get(at).map(|op| op.keys()) {
                Some([key]) => name(error).with_key(key),
                _ => name(error),
            }))
        }
        Err(error) => Err(match batch.sole_key() {
            Some(key) => name(error).with_key(key),
            None => name(error),
        }),
    }
}

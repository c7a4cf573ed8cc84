//! Seeing: a span, a latency, and hits, misses and bytes for every batch.

use std::sync::Arc;

use tracing::{Instrument, Span};

use super::{Capabilities, Layer};
use crate::error::Result;
use crate::op::{Batch, Replies};
use crate::stats::Recorder;

/// Counts what passes. The store below is asked nothing more for it.
#[derive(Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    recorder: Arc<Recorder>,
}

impl<S: Layer> Observe<S> {
    pub(crate) fn new(inner: S, recorder: Arc<Recorder>) -> Self {
        Self { inner, recorder }
    }

    async fn seen(&self, batch: &Batch, span: &Span) -> Result<Replies> {
        let done = self.inner.call(batch).await;
        self.recorder.record(batch, &done);
        let failure = match &done {
            Ok(replies) => replies.results().iter().find_map(|result| result.as_ref().err()),
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            span.record("error", tracing::field::debug(error.kind()));
        }
        done
    }
}

impl<S: Layer> Layer for Observe<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        // Asked first: making a span that is not wanted costs more than all the counting.
        if !tracing::span_enabled!(target: "larder", tracing::Level::DEBUG) {
            let done = self.inner.call(batch).await;
            self.recorder.record(batch, &done);
            return done;
        }
        let span = tracing::debug_span!(
            target: "larder",
            "larder",
            call = batch.name(),
            ops = batch.ops().len(),
            key = batch.sole_key().map(tracing::field::display),
            error = tracing::field::Empty,
        );
        // Boxed, so that calls without a span do not carry its room.
        Box::pin(self.seen(batch, &span).instrument(span.clone())).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

//! Seeing: a span, a latency, and hits, misses and bytes for every batch.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tracing::Instrument;

use super::{Capabilities, Store};
use crate::error::Result;
use crate::op::{Batch, Replies};
use crate::stats::Recorder;

/// Counts what passes. The store below is asked nothing more for it.
#[derive(Debug)]
pub(crate) struct Observe<S> {
    inner: S,
    recorder: Arc<Recorder>,
}

impl<S: Store> Observe<S> {
    pub(crate) fn new(inner: S, recorder: Arc<Recorder>) -> Self {
        Self { inner, recorder }
    }
}

impl<S: Store> Store for Observe<S> {
    fn run(&self, batch: Batch) -> BoxFuture<'static, Result<Replies>> {
        let span = tracing::debug_span!(
            target: "larder",
            "larder",
            call = batch.name(),
            ops = batch.ops().len(),
            key = batch.sole_key().map(tracing::field::display),
            error = tracing::field::Empty,
        );
        let recorder = Arc::clone(&self.recorder);
        let counted = batch.clone();
        let running = self.inner.run(batch);
        if span.is_disabled() {
            return Box::pin(async move {
                let done = running.await;
                recorder.record(&counted, &done);
                done
            });
        }
        let inside = span.clone();
        Box::pin(
            async move {
                let done = running.await;
                recorder.record(&counted, &done);
                let failure = match &done {
                    Ok(replies) => {
                        replies.results().iter().find_map(|result| result.as_ref().err())
                    }
                    Err(error) => Some(error),
                };
                if let Some(error) = failure {
                    inside.record("error", tracing::field::debug(error.kind()));
                }
                done
            }
            .instrument(span),
        )
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

//! Loads within loads: what the task at hand is loading, so that no load waits for itself.

use std::sync::Arc;

use crate::flight::FlightId;
use crate::key::Key;

tokio::task_local! {
    static INNERMOST: Arc<Frame>;
}

/// A loader that runs: for which keys, as the work of which flights, and within which other one.
pub(crate) struct Frame {
    keys: Vec<Key>,
    flights: Vec<FlightId>,
    outer: Option<Arc<Frame>>,
}

/// The loaders within which the task at hand runs.
#[derive(Clone, Default)]
pub(crate) struct Frames(Option<Arc<Frame>>);

impl Frames {
    /// Those of the task at hand.
    pub(crate) fn here() -> Self {
        Self(INNERMOST.try_with(Arc::clone).ok())
    }

    /// Whether there are none: the caller is no loader.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them loads this key.
    pub(crate) fn load(&self, key: &Key) -> bool {
        self.all().any(|frame| frame.keys.contains(key))
    }

    /// The flights whose work they do.
    pub(crate) fn flights(&self) -> Vec<FlightId> {
        self.all().flat_map(|frame| frame.flights.iter().copied()).collect()
    }

    /// The flights whose work the innermost does.
    pub(crate) fn inner(&self) -> &[FlightId] {
        self.0.as_ref().map_or(&[], |frame| &frame.flights)
    }

    /// Runs a loader within these.
    pub(crate) async fn run<F: Future>(
        &self,
        keys: Vec<Key>,
        flights: Vec<FlightId>,
        loader: F,
    ) -> F::Output {
        let frame = Frame { keys, flights, outer: self.0.clone() };
        INNERMOST.scope(Arc::new(frame), loader).await
    }

    fn all(&self) -> impl Iterator<Item = &Frame> {
        std::iter::successors(self.0.as_deref(), |frame| frame.outer.as_deref())
    }
}

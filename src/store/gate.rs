//! The gate: counts what is in flight and keeps it within the budget, and lets nothing in once the client is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::budget::{Backlog, Limits, Load};
use super::{Capabilities, Layer, runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Batch, Op, Replies};
use crate::stats::{Recorder, place, stripes};

/// Refuses what is more than the budget allows, and calls after [`Store::close`](super::Store::close), which waits
/// for those in flight.
#[derive(Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    state: State,
    patience: Duration,
    recorder: Arc<Recorder>,
}

#[derive(Debug)]
struct State {
    // Each thread counts calls in where threads of its own count. A call is counted out where it was counted in, so
    // that one that is zero after `closed` was set stays so.
    in_flight: Box<[Count]>,
    limits: Limits,
    // Half of the limits, shared out among the counts: while each is below, nobody looks at the others.
    share: Limits,
    // More than half is in flight: everybody looks at all counts.
    tight: AtomicBool,
    behind: Arc<Backlog>,
    closed: AtomicBool,
    emptied: Notify,
}

/// Alone on its cache lines: one that every call of every thread changes costs those around it. Holds a [`Load`].
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU64);

impl Count {
    fn load(&self) -> Load {
        Load(self.0.load(Ordering::SeqCst))
    }
}

impl State {
    fn new(limits: Limits, behind: Arc<Backlog>) -> Self {
        let of_each = 2 * stripes() as u64;
        Self {
            in_flight: (0..stripes()).map(|_| Count::default()).collect(),
            limits,
            share: Limits { calls: limits.calls / of_each, bytes: limits.bytes / of_each },
            tight: AtomicBool::new(false),
            behind,
            closed: AtomicBool::new(false),
            emptied: Notify::new(),
        }
    }

    fn load_of(&self, batch: &Batch) -> Load {
        if self.limits == Limits::NONE { Load::CALL } else { Load::of(batch) }
    }

    /// Counts a call in, and says whether its count has to be looked at beside the others.
    fn enter(&self, load: Load) -> (Pass<'_>, bool) {
        let count = place().of(&self.in_flight);
        let before = Load(count.0.fetch_add(load.0, Ordering::SeqCst));
        let pass = Pass { state: self, count, load };
        let much = before.calls() + 1 > self.share.calls
            || before.bytes() + load.bytes() > self.share.bytes
            || self.behind.bytes() > 0
            || self.tight.load(Ordering::SeqCst);
        (pass, much)
    }

    /// Whether all that is in flight is within the limits.
    #[cold]
    fn check(&self, load: Load) -> Result<()> {
        let Limits { calls: most_calls, bytes: most_bytes } = self.limits;
        if load.bytes() > most_bytes {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "the call alone holds more than the {most_bytes} bytes of max_in_flight_bytes, which counts \
                     what is sent three times; send it in parts"
                ),
            ));
        }
        let (calls, bytes) = self.sum();
        if calls <= most_calls / 2 && bytes <= most_bytes / 2 {
            if self.tight.load(Ordering::SeqCst) {
                self.tight.store(false, Ordering::SeqCst);
            }
            return Ok(());
        }
        // Said before the counts are read again: whoever was counted in without looking at them is seen.
        self.tight.store(true, Ordering::SeqCst);
        let (calls, bytes) = self.sum();
        if calls > most_calls {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!("more calls are in flight than the {most_calls} of max_in_flight"),
            ));
        }
        if bytes > most_bytes {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!(
                    "calls in flight hold more than the {most_bytes} bytes of max_in_flight_bytes"
                ),
            ));
        }
        Ok(())
    }

    /// The calls in flight, and the bytes that they and those that were given up hold.
    fn sum(&self) -> (u64, u64) {
        self.in_flight.iter().map(Count::load).fold((0, self.behind.bytes()), |sum, load| {
            (sum.0 + load.calls(), sum.1 + load.bytes())
        })
    }

    fn is_empty(&self) -> bool {
        self.in_flight.iter().all(|count| count.load().calls() == 0)
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

/// One call in flight; counted out however its future ends.
struct Pass<'a> {
    state: &'a State,
    count: &'a Count,
    load: Load,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let before = Load(self.count.0.fetch_sub(self.load.0, Ordering::SeqCst));
        if before.calls() == 1 && self.state.closed.load(Ordering::SeqCst) {
            self.state.emptied.notify_waiters();
        }
    }
}

impl<S: Layer> Gate<S> {
    /// A gate over calls that end within `patience` if they are polled. `behind` is what those that were given up have
    /// left behind in the store.
    pub(crate) fn new(
        inner: S,
        patience: Duration,
        limits: Limits,
        behind: Arc<Backlog>,
        recorder: Arc<Recorder>,
    ) -> Self {
        Self { inner, state: State::new(limits, behind), patience, recorder }
    }
}

/// Who holds a lock or a lease is let in always: it is small, there is one for each that is held, and a lock that is
/// lost since others send too much is worse than one call more.
fn is_let_in(batch: &Batch) -> bool {
    batch.ops().iter().all(Op::is_of_holder)
}

impl<S: Layer> Layer for Gate<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        let load = self.state.load_of(batch);
        let (_pass, much) = self.state.enter(load);
        if self.state.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the client is closed"));
        }
        batch.ops().iter().try_for_each(Op::check)?;
        if much
            && !is_let_in(batch)
            && let Err(error) = self.state.check(load)
        {
            self.recorder.refused();
            return Err(error);
        }
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

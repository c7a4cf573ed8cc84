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
        let at = place().index();
        let before = Load(self.in_flight[at].0.fetch_add(load.0, Ordering::SeqCst));
        let pass = Pass { state: self, held: Load::with(at as u64, load.bytes()) };
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
        // Who says so while another has just found the opposite lets those in who are within their shares: half as much again
        // as the limit at the very most.
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
    // Its bytes, and in place of the calls where it was counted: each call in flight holds this.
    held: Load,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let count = &self.state.in_flight[self.held.calls() as usize];
        let load = Load::with(1, self.held.bytes());
        let before = Load(count.0.fetch_sub(load.0, Ordering::SeqCst));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;

    use super::*;
    use crate::op::Reply;

    const MOST: u64 = 100;

    /// A store that answers when it is polled again, and counts the calls within.
    #[derive(Default)]
    struct Slow {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Layer for Arc<Slow> {
        async fn call(&self, _batch: &Batch) -> Result<Replies> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(Replies::one(Ok(Reply::Done)))
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::default()
        }

        async fn close(&self) {}
    }

    fn gate(limits: Limits) -> (Arc<Slow>, Gate<Arc<Slow>>) {
        let slow = Arc::<Slow>::default();
        let recorder = Arc::new(Recorder::new(1));
        let gate = Gate::new(slow.clone(), Duration::ZERO, limits, Arc::default(), recorder);
        (slow, gate)
    }

    #[test]
    fn many_threads_keep_the_bound_together_and_all_is_counted_out() {
        let (slow, gate) = gate(Limits { calls: MOST, bytes: u64::MAX >> 1 });
        let refused = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    for _ in 0..200 {
                        let batches: Vec<_> =
                            (0..64).map(|_| Batch::one("ping", Op::Ping)).collect();
                        let calls = batches.iter().map(|batch| gate.call(batch));
                        for done in runtime.block_on(join_all(calls)) {
                            if let Err(error) = done {
                                assert_eq!(error.kind(), ErrorKind::Overloaded);
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
        });
        let most = slow.most.load(Ordering::SeqCst) as u64;
        assert!(most <= MOST + MOST / 2, "{most} at once");
        assert!(most > MOST / 2 && refused.load(Ordering::SeqCst) > 0, "{most}: nothing was tried");
        assert_eq!(gate.state.sum(), (0, 0));
    }

    #[tokio::test]
    async fn one_thread_gets_all_of_the_bound_and_no_more() {
        let (slow, gate) = gate(Limits { calls: MOST, bytes: u64::MAX >> 1 });
        let batches: Vec<_> = (0..MOST + 7).map(|_| Batch::one("ping", Op::Ping)).collect();
        let done = join_all(batches.iter().map(|batch| gate.call(batch))).await;
        assert_eq!(done.iter().filter(|done| done.is_err()).count(), 7);
        assert_eq!(slow.most.load(Ordering::SeqCst) as u64, MOST);
    }
}

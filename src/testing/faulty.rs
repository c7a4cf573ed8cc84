//! A store that fails as a test wants it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Replies};
use crate::store::{Capabilities, InvalidationSink, Store};

/// What becomes of a batch that is chosen to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It never reaches the store; the error's outcome is `NotSent`.
    Before(ErrorKind),
    /// The store refuses it, so it is not applied; the error's outcome is `Rejected`.
    Refused(ErrorKind),
    /// It is applied, and its replies are lost; the error's outcome is `Unknown`.
    After(ErrorKind),
    /// It never reaches the store, and no reply ever comes: the caller's deadline ends it.
    Dropped,
}

/// Wraps a store and fails batches on purpose, to see what a service does about it. Cloning gives
/// another handle on the same faults.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use larder::testing::{Fault, Faulty};
/// use larder::store::MemoryStore;
/// use larder::{CacheClient, ErrorKind, Outcome};
///
/// let faulty = Faulty::new(MemoryStore::new());
/// let cache = CacheClient::builder().store(faulty.clone()).build()?;
///
/// faulty.fail_next(Fault::After(ErrorKind::Unavailable));
/// let error = cache.incr_by("visits", 1).await.unwrap_err();
/// assert!(error.is_unavailable());
/// assert_eq!(error.outcome(), Outcome::Unknown);
/// assert_eq!(cache.incr_by("visits", 1).await?, 2); // it had been applied
/// assert_eq!(faulty.failed(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Faulty<S> {
    inner: Arc<S>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct Plan {
    next: Vec<Fault>,
    every: Option<(u64, Fault)>,
    share: Option<(f64, Fault)>,
    delay: Option<(Duration, Duration)>,
    random: fastrand::Rng,
    seen: u64,
    failed: u64,
}

impl<S: Store> Faulty<S> {
    /// A store that behaves like `inner` until it is told otherwise. Chance is seeded with 0.
    pub fn new(inner: S) -> Self {
        let plan = Plan {
            next: Vec::new(),
            every: None,
            share: None,
            delay: None,
            random: fastrand::Rng::with_seed(0),
            seen: 0,
            failed: 0,
        };
        Self { inner: Arc::new(inner), plan: Arc::new(Mutex::new(plan)) }
    }

    /// Seeds chance, so that a run can be repeated. Defaults to 0.
    pub fn seed(self, seed: u64) -> Self {
        self.plan().random = fastrand::Rng::with_seed(seed);
        self
    }

    /// The next batch fails; several calls queue up, first come first failed. Goes before the
    /// other plans.
    pub fn fail_next(&self, fault: Fault) {
        self.plan().next.push(fault);
    }

    /// Every `nth` batch fails, counted from the first that the store saw; 0 for none.
    pub fn fail_every(&self, nth: u64, fault: Fault) {
        self.plan().every = (nth > 0).then_some((nth, fault));
    }

    /// This share of the batches (0.0 to 1.0) fails, by seeded chance; 0.0 for none.
    pub fn fail_share(&self, share: f64, fault: Fault) {
        self.plan().share = (share > 0.0).then_some((share, fault));
    }

    /// Every batch takes this much longer, between `least` and `most` by seeded chance.
    pub fn delay(&self, least: Duration, most: Duration) {
        self.plan().delay = (!most.is_zero()).then_some((least, most));
    }

    /// Forgets every fault and delay.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.next.clear();
        (plan.every, plan.share, plan.delay) = (None, None, None);
    }

    /// How many batches came here.
    pub fn seen(&self) -> u64 {
        self.plan().seen
    }

    /// How many of them were made to fail.
    pub fn failed(&self) -> u64 {
        self.plan().failed
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn decide(&mut self) -> (Option<Fault>, Option<Duration>) {
        self.seen += 1;
        let fault = if self.next.is_empty() {
            let by_count = self.every.filter(|(nth, _)| self.seen.is_multiple_of(*nth));
            let by_chance = self.share.filter(|(share, _)| self.random.f64() < *share);
            by_count.map(|(_, fault)| fault).or(by_chance.map(|(_, fault)| fault))
        } else {
            Some(self.next.remove(0))
        };
        self.failed += u64::from(fault.is_some());
        let delay = self
            .delay
            .map(|(least, most)| least + most.saturating_sub(least).mul_f64(self.random.f64()));
        (fault, delay)
    }
}

impl<S> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), plan: Arc::clone(&self.plan) }
    }
}

impl<S: Store> Store for Faulty<S> {
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
        let (fault, delay) = self.plan().decide();
        if fault.is_none() && delay.is_none() {
            return self.inner.run(batch);
        }
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await; // the fault itself
            }
            let Some(fault) = fault else { return inner.run(batch).await };
            let (kind, outcome) = match fault {
                Fault::Before(kind) => (kind, Outcome::NotSent),
                Fault::Refused(kind) => {
                    batch.mark_sent();
                    (kind, Outcome::Rejected)
                }
                Fault::After(kind) => {
                    batch.mark_sent();
                    inner.run(batch).await?;
                    (kind, Outcome::Unknown)
                }
                Fault::Dropped => {
                    batch.mark_sent();
                    std::future::pending().await
                }
            };
            Err(Error::new(kind, "the test made it fail").with_outcome(outcome))
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>) {
        self.inner.on_invalidation(sink);
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

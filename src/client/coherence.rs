//! What keeps this process' own copies true: every write passes here, and every change that the store tells.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::flight::Flights;
use crate::key::Key;
use crate::near::Near;
use crate::op::{Batch, Op, Replies};
use crate::store::{Capabilities, InvalidationSink, Layer, Store, Sweeping, runtime};

/// How many invalidations wait for a store that cannot be reached, at most: of more, the oldest are
/// given up.
const MOST_DEFERRED: usize = 10_000;

/// How many are sent in one batch.
const SENT_AT_ONCE: usize = 500;

/// The pauses between attempts to send what was deferred: doubling from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// The copies of a client: values kept near, and reads in flight.
pub(crate) struct Coherence {
    pub(crate) near: Arc<Near>,
    pub(crate) flights: Arc<Flights>,
    deferred: Deferred,
}

/// Invalidations that could not be sent yet, the newest in front.
#[derive(Default)]
struct Deferred {
    // Numbered: one of the same key that came while an older one was sent has to be sent as well.
    keys: Mutex<VecDeque<(u64, Key)>>,
    next: AtomicU64,
    waiting: AtomicUsize,
}

impl Deferred {
    fn keys(&self) -> MutexGuard<'_, VecDeque<(u64, Key)>> {
        // Nothing that can panic runs under this lock.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coherence {
    pub(crate) fn new(near_bytes: u64) -> Self {
        Self {
            near: Arc::new(Near::new(near_bytes)),
            flights: Arc::new(Flights::default()),
            deferred: Deferred::default(),
        }
    }

    /// Keeps invalidations that could not be sent, and sees to it that they are sent as soon as the store is
    /// back. Answers the error with the outcome that this gives it.
    pub(crate) fn defer(
        self: &Arc<Self>,
        keys: impl IntoIterator<Item = Key>,
        error: Error,
        store: &Arc<dyn Store>,
    ) -> Error {
        let can_wait = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Overloaded
        ) && matches!(error.outcome(), Outcome::NotSent | Outcome::Unknown)
            && runtime::is_here();
        if !can_wait {
            return error;
        }
        let keys: Vec<Key> = keys.into_iter().collect();
        // One that was refused at the gate has not come by here.
        keys.iter().for_each(|key| self.changed(key.as_bytes()));
        let mut waiting = self.deferred.keys();
        let first = waiting.is_empty();
        for key in keys {
            waiting.push_front((self.deferred.next.fetch_add(1, Ordering::Relaxed), key));
        }
        waiting.truncate(MOST_DEFERRED);
        self.deferred.waiting.store(waiting.len(), Ordering::SeqCst);
        drop(waiting);
        if first {
            // Any call sends what was deferred, before its own.
            let (coherence, store) = (Arc::downgrade(self), Arc::downgrade(store));
            tokio::spawn(async move {
                let mut pause = FIRST_PAUSE;
                loop {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                    let (Some(coherence), Some(store)) = (coherence.upgrade(), store.upgrade())
                    else {
                        return;
                    };
                    if coherence.deferred.waiting.load(Ordering::SeqCst) == 0 {
                        return;
                    }
                    // A closed client sends nothing any more.
                    match store.run(Batch::one("ping", Op::Ping)).await {
                        Err(error) if error.kind() == ErrorKind::Closed => return,
                        _ => {}
                    }
                }
            });
        }
        error.with_outcome(Outcome::Deferred)
    }

    /// Sends what was deferred, the newest first.
    async fn send_deferred<S: Layer>(&self, store: &S) -> Result<()> {
        while self.deferred.waiting.load(Ordering::SeqCst) > 0 {
            let (numbers, keys): (HashSet<u64>, Vec<Key>) = {
                let waiting = self.deferred.keys();
                waiting.iter().take(SENT_AT_ONCE).cloned().unzip()
            };
            if keys.is_empty() {
                return Ok(());
            }
            match delete(store, keys.clone()).await {
                Err(error) if is_forbidden(&error) => {
                    // One of them is, and the others are not to be lost with it. It never will be sent: every call
                    // would fail for ever.
                    for key in &keys {
                        match delete(store, vec![key.clone()]).await {
                            Err(error) if is_forbidden(&error) => tracing::warn!(
                                target: "larder",
                                error = %error.with_key(key),
                                "an invalidation that was kept is forbidden, it is given up"
                            ),
                            done => done?,
                        }
                    }
                }
                done => done?,
            }
            let mut waiting = self.deferred.keys();
            waiting.retain(|(number, _)| !numbers.contains(number));
            self.deferred.waiting.store(waiting.len(), Ordering::SeqCst);
        }
        Ok(())
    }
}

async fn delete<S: Layer>(store: &S, keys: Vec<Key>) -> Result<()> {
    store.call(&Batch::one("invalidate", Op::Delete { keys })).await?.into_one().map(drop)
}

fn is_forbidden(error: &Error) -> bool {
    error.kind() == ErrorKind::Permission && error.outcome() == Outcome::Rejected
}

impl InvalidationSink for Coherence {
    fn changed(&self, key: &[u8]) {
        self.near.changed(key);
        self.flights.close(key);
    }

    fn all_changed(&self, why: Sweeping) {
        self.near.all_changed(why);
        self.flights.close_all();
    }
}

/// Sees every write of the client on its way.
pub(crate) struct Coherent<S> {
    inner: S,
    coherence: Arc<Coherence>,
}

impl<S: Layer> Coherent<S> {
    pub(crate) fn new(inner: S, coherence: Arc<Coherence>) -> Self {
        Self { inner, coherence }
    }
}

/// Whether an operation is a write of the user's, and not a step of a load.
fn is_write(op: &Op) -> bool {
    !op.is_read() && !op.is_step() && !matches!(op, Op::Fill { .. })
}

impl<S: Layer> Layer for Coherent<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        let Coherence { near, flights, deferred } = &*self.coherence;
        if deferred.waiting.load(Ordering::Relaxed) > 0 {
            // The call itself is not sent if they cannot be: it could read what they are to delete.
            Box::pin(self.coherence.send_deferred(&self.inner))
                .await
                .map_err(|error| error.with_outcome(Outcome::NotSent))?;
        }
        let near = near.is_used() && batch.ops().iter().any(|op| !op.is_read());
        let open = flights.any() && batch.ops().iter().any(is_write);
        if near || open {
            return Box::pin(self.write(batch)).await;
        }
        // A flight that begins during the write may read what was there before it.
        let _closing = Closing(flights, batch);
        self.inner.call(batch).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl<S: Layer> Coherent<S> {
    async fn write(&self, batch: &Batch) -> Result<Replies> {
        let changed =
            batch.ops().iter().filter(|op| !op.is_read() && !op.is_step()).flat_map(Op::keys);
        let _writing = self.coherence.near.writing(changed);
        let closing = Closing(&self.coherence.flights, batch);
        closing.close();
        self.inner.call(batch).await
    }
}

/// Closes the flights of what a batch writes when the call ends, however it ends.
struct Closing<'a>(&'a Flights, &'a Batch);

impl Closing<'_> {
    fn close(&self) {
        for op in self.1.ops().iter().filter(|op| is_write(op)) {
            op.keys().iter().for_each(|key| self.0.close(key.as_bytes()));
        }
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if self.0.any() {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Reply;
    use crate::store::MemoryStore;

    /// A store that is away for whoever invalidates while it answers somebody else.
    struct Answers(Arc<Coherence>, AtomicUsize);

    fn defer(coherence: &Arc<Coherence>) {
        let away = Error::new(ErrorKind::Unavailable, "away").with_outcome(Outcome::NotSent);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let error = coherence.defer([Key::new("k").unwrap()], away, &store);
        assert_eq!(error.outcome(), Outcome::Deferred);
    }

    impl Layer for Answers {
        async fn call(&self, _batch: &Batch) -> Result<Replies> {
            if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
                defer(&self.0);
            }
            Ok(Replies::one(Ok(Reply::Int(1))))
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::default()
        }

        async fn close(&self) {}
    }

    #[tokio::test]
    async fn an_invalidation_deferred_while_an_older_one_of_its_key_is_sent_is_sent_as_well() {
        let coherence = Arc::new(Coherence::new(0));
        let store = Answers(Arc::clone(&coherence), AtomicUsize::new(0));
        defer(&coherence);
        coherence.send_deferred(&store).await.unwrap();
        assert_eq!(store.1.load(Ordering::SeqCst), 2, "the second says that the key changed again");
        assert_eq!(coherence.deferred.waiting.load(Ordering::SeqCst), 0);
    }
}

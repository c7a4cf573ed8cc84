//! What keeps this process' own copies true: every write passes here, and every change that the store tells.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::flight::Flights;
use crate::key::Key;
use crate::near::Near;
use crate::op::{Batch, Op, Replies};
use crate::store::{
    Capabilities, InvalidationSink, Layer, ServerId, Servers, Store, Sweeping, runtime,
};

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
    // Nothing if there is one. Weak: the store tells this one of changes.
    servers: Option<Weak<dyn Servers>>,
}

/// Invalidations that could not be sent yet.
#[derive(Default)]
struct Deferred {
    kept: Mutex<Kept>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Kept {
    // The newest in front. Numbered: one of the same key that came while an older one was sent has to be sent as well.
    keys: VecDeque<(u64, Key)>,
    next: u64,
    // How many there are of each slot of a cluster.
    slots: HashMap<u16, usize>,
    // Whose they are, as it was known at a version of that.
    owners: Option<(u64, HashSet<ServerId>)>,
    // Whether a task sees to it that they are sent.
    is_sending: bool,
}

impl Kept {
    fn add(&mut self, key: Key) {
        *self.slots.entry(key.slot()).or_default() += 1;
        self.owners = None;
        self.keys.push_front((self.next, key));
        self.next += 1;
        while self.keys.len() > MOST_DEFERRED {
            if let Some((_, key)) = self.keys.pop_back() {
                self.forget(&key);
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        let slot = key.slot();
        if let Some(count) = self.slots.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                self.slots.remove(&slot);
                self.owners = None;
            }
        }
    }

    /// Whether nothing is kept: whoever keeps something from here on sees to it.
    fn is_done(&mut self) -> bool {
        self.is_sending = !self.keys.is_empty();
        !self.is_sending
    }

    fn were_sent(&mut self, numbers: &HashSet<u64>) {
        let keys = std::mem::take(&mut self.keys);
        for (number, key) in keys {
            if numbers.contains(&number) {
                self.forget(&key);
            } else {
                self.keys.push_back((number, key));
            }
        }
    }
}

/// Which of the invalidations that are kept.
enum Which {
    All,
    Of(HashSet<u16>),
}

impl Which {
    fn has(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::Of(slots) => slots.contains(&key.slot()),
        }
    }
}

impl Deferred {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing that can panic runs under this lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is kept.
    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.kept();
        let changed = change(&mut kept);
        self.waiting.store(kept.keys.len(), Ordering::SeqCst);
        changed
    }
}

impl Coherence {
    pub(crate) fn new(near_bytes: u64, servers: Option<&Arc<dyn Servers>>) -> Self {
        Self {
            near: Arc::new(Near::new(near_bytes)),
            flights: Arc::new(Flights::default()),
            deferred: Deferred::default(),
            servers: servers.map(Arc::downgrade),
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
        let is_sending = self.deferred.change(|kept| {
            keys.into_iter().for_each(|key| kept.add(key));
            std::mem::replace(&mut kept.is_sending, true)
        });
        if !is_sending {
            tokio::spawn(Sending(Arc::downgrade(self)).run(Arc::downgrade(store)));
        }
        error.with_outcome(Outcome::Deferred)
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        self.servers.as_ref()?.upgrade()
    }

    /// Calls that have what is kept sent before them: one to each server that some of it is for.
    fn probes(&self) -> Vec<Batch> {
        let Some(servers) = self.servers() else {
            return vec![Batch::one("ping", Op::Ping).by_itself()];
        };
        let keys: Vec<Key> = self.deferred.kept().keys.iter().map(|(_, key)| key.clone()).collect();
        let of = servers.of_slots(&mut keys.iter().map(Key::slot));
        let one_of_each: BTreeMap<_, _> = of.into_iter().zip(keys).collect();
        let probe = |key| Batch::one("invalidate", Op::Exists { key }).by_itself();
        one_of_each.into_values().map(probe).collect()
    }

    /// What has to be sent before a call: it could read what that is to delete. Of several servers, one that is away does not
    /// keep calls from the others.
    fn due_before(&self, batch: &Batch) -> Which {
        let Some(servers) = self.servers() else { return Which::All };
        let version = servers.version();
        let asked: Vec<u16> = batch.ops().iter().flat_map(Op::keys).map(Key::slot).collect();
        let of_asked = servers.of_slots(&mut asked.iter().copied());
        let kept: Vec<u16> = {
            let mut kept = self.deferred.kept();
            let Kept { slots, owners, .. } = &mut *kept;
            if owners.as_ref().is_none_or(|(known, _)| *known != version) {
                let of_kept = servers.of_slots(&mut slots.keys().copied());
                *owners = Some((version, of_kept.into_iter().collect()));
            }
            let concerns = |owners: &HashSet<_>| of_asked.iter().any(|one| owners.contains(one));
            let concerned = owners.as_ref().is_some_and(|(_, owners)| concerns(owners));
            // Nearly all calls, and what is kept may be much. If slots moved in between, that says nothing.
            if !concerned && servers.version() == version {
                return Which::Of(HashSet::new());
            }
            slots.keys().copied().collect()
        };
        // In one look at who serves what: a slot that moves meanwhile has one server here.
        let all = servers.of_slots(&mut asked.iter().chain(&kept).copied());
        let (of_asked, of_kept) = all.split_at(asked.len());
        let of_asked: BTreeSet<_> = of_asked.iter().collect();
        let due = kept.into_iter().zip(of_kept).filter(|(_, server)| of_asked.contains(server));
        // And what is kept of the slots that are asked until the last of it is sent.
        Which::Of(due.map(|(slot, _)| slot).chain(asked.iter().copied()).collect())
    }

    /// Sends what was deferred, the newest first.
    async fn send_deferred<S: Layer>(&self, store: &S, which: &Which) -> Result<()> {
        if matches!(which, Which::Of(slots) if slots.is_empty()) {
            return Ok(());
        }
        while self.deferred.waiting.load(Ordering::SeqCst) > 0 {
            let (numbers, keys): (HashSet<u64>, Vec<Key>) = {
                let kept = self.deferred.kept();
                let due = kept.keys.iter().filter(|(_, key)| which.has(key));
                due.take(SENT_AT_ONCE).cloned().unzip()
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
            self.deferred.change(|kept| kept.were_sent(&numbers));
        }
        Ok(())
    }
}

/// The task that sends what is kept as soon as it can be, whether anybody calls or not. If its runtime is shut down under it,
/// the next invalidation that is kept starts another.
struct Sending(Weak<Coherence>);

impl Sending {
    async fn run(self, store: Weak<dyn Store>) {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            let (Some(coherence), Some(store)) = (self.0.upgrade(), store.upgrade()) else {
                return;
            };
            if coherence.deferred.change(Kept::is_done) {
                return;
            }
            let probes = coherence.probes().into_iter().map(|probe| store.run(probe));
            let is_closed = |done: &Result<Replies>| {
                done.as_ref().is_err_and(|error| error.kind() == ErrorKind::Closed)
            };
            // A closed client sends nothing any more.
            if join_all(probes).await.iter().any(is_closed) {
                return;
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(coherence) = self.0.upgrade() {
            coherence.deferred.kept().is_sending = false;
        }
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
        let Coherence { near, flights, deferred, .. } = &*self.coherence;
        if deferred.waiting.load(Ordering::Relaxed) > 0 {
            // The call itself is not sent if they cannot be.
            Box::pin(self.send_due_before(batch))
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
    async fn send_due_before(&self, batch: &Batch) -> Result<()> {
        let due = self.coherence.due_before(batch);
        self.coherence.send_deferred(&self.inner, &due).await
    }

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
        let coherence = Arc::new(Coherence::new(0, None));
        let store = Answers(Arc::clone(&coherence), AtomicUsize::new(0));
        defer(&coherence);
        coherence.send_deferred(&store, &Which::All).await.unwrap();
        assert_eq!(store.1.load(Ordering::SeqCst), 2, "the second says that the key changed again");
        assert_eq!(coherence.deferred.waiting.load(Ordering::SeqCst), 0);
    }
}

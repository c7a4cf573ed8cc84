//! The embedded store: the operations of Redis on a bounded table in this process.

use std::fmt;
use std::future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{Capabilities, InvalidationSink, Store, Sweeping};
use crate::error::Result;
use crate::op::{Batch, Lane, Replies, Vouch};

mod entry;
mod locks;
mod ops;
mod space;
#[cfg(test)]
mod tests;

use space::Space;

/// The embedded store: same operations, same results as Redis, in the memory of this process.
///
/// Data is bounded by bytes: an entry counts its key, its content and an overhead that stands for
/// what is needed beside them (256 bytes an entry, 128 an expiry, 224 a field of a hash, 80 an
/// element of a list), so that the budget is about what the process really grows by. When the budget is full, entries that are used the least make room (CLOCK-PRO: a scan
/// does not drive out what is used often). Three things never happen: a write that was
/// acknowledged is missing right afterwards because of its own size, a lock or a lease is evicted before it
/// expires, and an entry that is larger than the budget disappears silently. What does not fit
/// (31/32 of the budget, less locks and leases) is refused with
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory), and the old value stays.
///
/// Expired entries are never answered, and later writes give back their bytes; there is no
/// thread and no timer. Expiries follow tokio's clock, so that a test which pauses it moves them.
/// Neither needs a runtime.
///
/// Values are shared, not copied: a [`Bytes`](bytes::Bytes) that is a slice of a larger buffer
/// keeps all of that buffer, and only the slice is counted.
///
/// Batches run one after the other under one lock, so every batch is atomic. A scan answers
/// everything at once.
///
/// Sinks are told of every change under that lock, so they must not call the store; from the first batch
/// over a tracked lane on, not before. An expiry is told when a later operation meets it.
///
/// ```
/// use std::sync::Arc;
/// use larder::store::{MemoryStore, Store};
///
/// let store: Arc<dyn Store> = Arc::new(MemoryStore::with_max_bytes(16 << 20));
/// assert!(!store.capabilities().shared);
/// ```
pub struct MemoryStore {
    space: Mutex<Space>,
    vouch: Vouch,
}

impl MemoryStore {
    /// The budget unless another one is given: 64 MiB.
    pub const DEFAULT_MAX_BYTES: u64 = 64 << 20;

    /// An empty store with a budget of [`MemoryStore::DEFAULT_MAX_BYTES`].
    pub fn new() -> Self {
        Self::with_max_bytes(Self::DEFAULT_MAX_BYTES)
    }

    /// An empty store with a budget of its own, in bytes. Nothing is reserved beforehand.
    pub fn with_max_bytes(max_bytes: u64) -> Self {
        Self { space: Mutex::new(Space::new(max_bytes)), vouch: Vouch::new() }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.swept().len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of the budget are taken.
    pub fn bytes(&self) -> u64 {
        self.swept().bytes()
    }

    /// The budget, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.lock().max_bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        // A panic cannot leave the table half changed in a way that matters to a cache.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swept(&self) -> MutexGuard<'_, Space> {
        let mut space = self.lock();
        let clock = space.clock();
        space.sweep_all(&clock);
        space
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.vouch.end();
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = self.lock();
        f.debug_struct("MemoryStore")
            .field("entries", &space.len())
            .field("bytes", &space.bytes())
            .field("max_bytes", &space.max_bytes())
            .finish()
    }
}

impl Store for MemoryStore {
    fn run(&self, batch: Batch) -> BoxFuture<'static, Result<Replies>> {
        let vouched;
        let replies = {
            let space = &mut *self.lock();
            let clock = space.clock();
            vouched = batch.lane() != &Lane::Data && space.start_telling();
            match batch.ops() {
                [op] => Replies::one(ops::execute(space, &clock, op)),
                many => {
                    Replies::many(many.iter().map(|op| ops::execute(space, &clock, op)).collect())
                }
            }
        };
        let replies = if vouched { replies.vouched(self.vouch) } else { replies };
        Box::pin(future::ready(Ok(replies)))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { tracking: true, ..Capabilities::default() }
    }

    fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>) {
        self.lock().add_sink(sink);
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.vouch.end();
        self.lock().tell_all(Sweeping::Lost);
        Box::pin(future::ready(()))
    }
}

//! The read path of a client: what all its reads share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::recent::Recent;
use crate::client::coherence::Coherence;
use crate::codec::JsonLimit;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::near::Room;
use crate::op::{Batch, Lane};
use crate::stats::{ReadRecorder, Recorder};
use crate::store::{Breaker, Store, Wakeups};

/// How many loads of a client run at once unless it is told otherwise: an origin that was sized for some
/// hundred connections shall survive an empty cache.
pub(crate) const MAX_LOADS: usize = 256;

/// What all reads of a client share.
pub(crate) struct ReadPath {
    pub(super) store: Arc<dyn Store>,
    // The store at the bottom, which tells of changes.
    told: Arc<dyn Store>,
    pub(super) coherence: Arc<Coherence>,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) loads: Semaphore,
    pub(super) breaker: Arc<Breaker>,
    pub(super) recent: Recent,
    recorder: Arc<Recorder>,
    // One for each namespace, whoever makes it: two views of the same keys share what is near.
    rooms: Mutex<HashMap<Arc<str>, Arc<Room>>>,
    json_limit: JsonLimit,
}

/// What bounds the reads of a client.
pub(crate) struct Bounds {
    /// How many loads run at once.
    pub(crate) max_loads: usize,
    /// How large a document may be.
    pub(crate) json: JsonLimit,
}

impl ReadPath {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        told: Arc<dyn Store>,
        coherence: Arc<Coherence>,
        breaker: Arc<Breaker>,
        wakeups: Arc<Wakeups>,
        recorder: Arc<Recorder>,
        bounds: Bounds,
    ) -> Self {
        let recent = Recent::new(coherence.near.hashes());
        Self {
            store,
            told,
            coherence,
            wakeups,
            loads: Semaphore::new(bounds.max_loads.min(Semaphore::MAX_PERMITS)),
            breaker,
            recent,
            recorder,
            rooms: Mutex::default(),
            json_limit: bounds.json,
        }
    }

    /// The counters of a namespace's reads.
    pub(crate) fn reads(&self, namespace: &[u8]) -> Arc<ReadRecorder> {
        self.recorder.reads(namespace)
    }

    /// The largest document that the client writes and decodes.
    pub(crate) fn json_limit(&self) -> JsonLimit {
        self.json_limit
    }

    /// How many values are near, and how many bytes they count.
    pub(crate) fn near_usage(&self) -> (u64, u64) {
        self.coherence.near.usage()
    }

    /// Keeps an invalidation that could not be sent.
    pub(crate) fn defer(&self, keys: Vec<Key>, error: Error) -> Error {
        self.coherence.defer(keys, error, &self.store)
    }

    /// Counts a value that could not be decoded.
    pub(super) fn undecodable(&self, batch: &Batch) {
        self.recorder.undecodable(batch, None);
    }

    /// The part of the near cache that is a namespace's. Nothing if the store cannot tell of changes.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if `max_bytes` is more than is left of the client's budget.
    pub(crate) fn room(
        &self,
        namespace: &Arc<str>,
        max_bytes: Option<u64>,
        lane: &Lane,
    ) -> Result<Option<Arc<Room>>> {
        if !self.told.capabilities().tracking {
            tracing::warn!(
                target: "larder",
                "the store cannot tell of changes: the near cache is off; give the builder a tracking URL"
            );
            return Ok(None);
        }
        if let Lane::Broadcast(prefix) = lane {
            self.told.broadcast(prefix)?;
        }
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(namespace) {
            return Ok(Some(Arc::clone(room)));
        }
        let reads = self.reads(namespace.as_bytes());
        // The time of the embedded store is what a test makes it.
        let by_ticks = self.told.capabilities().shared;
        let room = Arc::new(self.coherence.near.room(max_bytes, reads, by_ticks)?);
        rooms.insert(Arc::clone(namespace), Arc::clone(&room));
        Ok(Some(room))
    }
}

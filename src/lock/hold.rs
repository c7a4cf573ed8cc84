//! What a guard holds: a lock at one store, alone or shared.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::LockId;
use crate::error::Result;
use crate::key::Key;
use crate::op::{Batch, Op};
use crate::store::{Store, runtime};
use crate::ttl::Expiry;

/// Something that is held under a lease.
pub(super) trait Hold: Send + Sync + 'static {
    /// The lock's key, for messages.
    fn key(&self) -> &Key;

    /// Gives it a new lease. Whether it was still held.
    fn extend(&self, within: Duration) -> BoxFuture<'_, Result<bool>>;

    /// Gives it back. Whether it was still held.
    fn release(&self) -> BoxFuture<'_, Result<bool>>;
}

/// A lock at one store.
#[derive(Clone)]
pub(super) struct Single {
    pub(super) store: Arc<dyn Store>,
    pub(super) key: Key,
    pub(super) id: LockId,
    pub(super) expiry: Expiry,
    pub(super) shared: bool,
}

impl Hold for Single {
    fn key(&self) -> &Key {
        &self.key
    }

    fn extend(&self, within: Duration) -> BoxFuture<'_, Result<bool>> {
        let op = Op::Extend {
            key: self.key.clone(),
            id: self.id.to_bytes(),
            expiry: self.expiry,
            shared: self.shared,
        };
        let batch = Batch::one("renew_lock", op).timeout(within);
        Box::pin(async move { self.store.run(batch).await?.into_one()?.into_bool() })
    }

    fn release(&self) -> BoxFuture<'_, Result<bool>> {
        let op = Op::Unlock { key: self.key.clone(), id: self.id.to_bytes(), shared: self.shared };
        let batch = Batch::one("release_lock", op);
        Box::pin(async move { self.store.run(batch).await?.into_one()?.into_bool() })
    }
}

/// A hold that may have been taken, or a place in its queue. Dropped, it is given back by a task.
pub(super) struct Attempt<H: Hold> {
    hold: Arc<H>,
    open: bool,
}

impl<H: Hold> Attempt<H> {
    pub(super) fn new(hold: Arc<H>) -> Self {
        Self { hold, open: true }
    }

    /// It was taken, and somebody else looks after it; or it surely left nothing behind.
    pub(super) fn close(mut self) {
        self.open = false;
    }

    /// Gives back whatever there is of it.
    pub(super) async fn undo(self) {
        // What cannot be given back now runs out by itself.
        _ = self.hold.release().await;
        self.close();
    }
}

impl<H: Hold> Drop for Attempt<H> {
    fn drop(&mut self) {
        if self.open {
            give_back(Arc::clone(&self.hold) as _, ());
        }
    }
}

/// Gives a lock back in a task of its own, and drops `place` then. Outside of a runtime it runs out by itself.
pub(super) fn give_back(hold: Arc<dyn Hold>, place: impl Send + 'static) {
    if runtime::is_here() {
        tokio::spawn(async move {
            _ = hold.release().await;
            drop(place);
        });
        return;
    }
    tracing::warn!(
        target: "larder",
        key = %hold.key(),
        "a lock was dropped outside of a tokio runtime: it is free when its lease is over"
    );
}

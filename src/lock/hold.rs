//! What a guard holds: a lock at one store, alone or shared.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::LockId;
use super::contend::passes;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::op::{Batch, Lane, Op, Reply};
use crate::store::{Store, runtime};
use crate::ttl::Expiry;

/// Over which lane a lock is tried for and a try is taken back: what changes is told there, and it is one
/// connection, in whose order the server sees both.
pub(super) const TRIES: Lane = Lane::Tracked;

/// Something that is held under a lease.
pub(super) trait Hold: Send + Sync + 'static {
    /// The lock's key, for messages.
    fn key(&self) -> &Key;

    /// Gives it a new lease. Whether it was still held.
    fn extend(&self, within: Duration) -> BoxFuture<'_, Result<bool>>;

    /// Gives it back. Whether it was still held.
    fn release(&self) -> BoxFuture<'_, Result<bool>>;

    /// Gives back what a try may have taken whose answer is not known. Not to overtake that try.
    fn undo(&self) -> BoxFuture<'_, Result<bool>> {
        self.release()
    }
}

/// A lock at one store.
#[derive(Clone)]
pub(super) struct Single {
    pub(super) store: Arc<dyn Store>,
    pub(super) key: Key,
    pub(super) id: LockId,
    pub(super) expiry: Expiry,
    pub(super) shared: bool,
    /// How many replicas have to have it, and how long that may take.
    pub(super) replicas: Option<(u32, Expiry)>,
}

impl Single {
    fn unlock(&self) -> Batch {
        let op = Op::Unlock { key: self.key.clone(), id: self.id.to_bytes(), shared: self.shared };
        Batch::one("release_lock", op)
    }

    /// A batch whose effect counts when the replicas have it.
    pub(super) fn replicated(&self, name: &'static str, op: Op) -> Batch {
        match self.replicas {
            None => Batch::one(name, op),
            Some((copies, within)) => {
                Batch::many(name, vec![op, Op::Replicated { copies, within }])
            }
        }
    }

    /// Whether the replicas have it, by the answer of a [`replicated`](Self::replicated) batch behind the first.
    pub(super) fn reached(&self, answer: Option<Result<Reply>>) -> Result<()> {
        let Some((copies, within)) = self.replicas else { return Ok(()) };
        let answer = answer.unwrap_or_else(|| Err(no_reply()));
        // Whatever became of the wait, what stands before it was applied.
        let reached = answer
            .and_then(Reply::into_int)
            .map_err(|error| error.with_outcome(Outcome::Unknown))?;
        if reached >= i64::from(copies) {
            return Ok(());
        }
        let within = within.as_duration();
        let text = format!("the lock reached {reached} of {copies} replicas within {within:?}");
        Err(Error::new(ErrorKind::Unavailable, text).with_outcome(Outcome::Unknown))
    }
}

pub(super) fn no_reply() -> Error {
    Error::new(ErrorKind::Protocol, "the store gave no reply")
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
        let copying = self.replicas.map_or(Duration::ZERO, |(_, within)| within.as_duration());
        let batch = self.replicated("renew_lock", op).timeout(within + copying);
        Box::pin(async move {
            let mut results = self.store.run(batch).await?.into_results().into_iter();
            let held = results.next().unwrap_or_else(|| Err(no_reply()))?.into_bool()?;
            if held {
                // A failover to a replica that has not seen it would end the lock sooner than its holder knows.
                self.reached(results.next())?;
            }
            Ok(held)
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<bool>> {
        let batch = self.unlock();
        Box::pin(async move { self.store.run(batch).await?.into_one()?.into_bool() })
    }

    fn undo(&self) -> BoxFuture<'_, Result<bool>> {
        // Behind the try, over the connection that tries go over.
        let batch = self.unlock().on(TRIES);
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
}

impl<H: Hold> Drop for Attempt<H> {
    fn drop(&mut self) {
        if self.open {
            let hold = Arc::clone(&self.hold);
            in_background(&self.hold.key().clone(), async move {
                persist(|| hold.undo()).await;
            });
        }
    }
}

/// The pauses between tries to give a lock back that nobody waits for: a connection that was lost is not always known to
/// be when the next try is sent. What takes longer is left to the lease.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];

/// Gives back until that is heard, or waiting does not help. A release compares first: one too many does nothing.
async fn persist<'a>(give_back: impl Fn() -> BoxFuture<'a, Result<bool>>) {
    for pause in PAUSES {
        match give_back().await {
            Err(error) if passes(&error) => tokio::time::sleep(pause).await,
            _ => return,
        }
    }
    _ = give_back().await;
}

/// Gives a lock back in a task of its own, and drops `place` then. Outside of a runtime it runs out by itself.
pub(super) fn give_back(hold: Arc<dyn Hold>, place: impl Send + 'static) {
    let key = hold.key().clone();
    in_background(&key, async move {
        persist(|| hold.release()).await;
        drop(place);
    });
}

fn in_background(key: &Key, work: impl Future<Output = ()> + Send + 'static) {
    if runtime::is_here() {
        tokio::spawn(work);
        return;
    }
    tracing::warn!(
        target: "larder",
        %key,
        "a lock was dropped outside of a tokio runtime: it is free when its lease is over"
    );
}

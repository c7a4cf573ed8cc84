//! What executes operations: the [`Store`] trait with its contract, and the stores that wrap one.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::error::Result;
use crate::op::{Batch, Replies};

mod alarm;
mod breaker;
mod budget;
mod credentials;
mod deadline;
mod gate;
mod layer;
pub mod memory;
mod observe;
pub(crate) mod redis;
mod retry;
pub(crate) mod runtime;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod url;
mod wake;

pub(crate) use breaker::{Breaker, Broken, ServerId, Servers};
pub(crate) use budget::{
    BYTES_RANGE, Backlog, CALLS_RANGE, Limits, MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, request_bytes,
};
pub(crate) use credentials::AnyCredentials;
pub use credentials::{Credentials, CredentialsProvider};
pub(crate) use deadline::Deadline;
pub(crate) use gate::Gate;
pub(crate) use layer::{Layer, Stack};
pub use memory::MemoryStore;
pub(crate) use observe::Observe;
pub use redis::RedisStore;
pub(crate) use retry::Retry;
pub use url::ReadPreference;
pub(crate) use wake::Wakeups;

/// Something that executes batches of operations.
///
/// # Contract
/// The conformance suite in `larder::testing` holds a store to this; it runs on yours, too.
///
/// 1. **One result for each operation**, in the order of the batch. `Ok(Replies)` means that every
///    operation was answered, even if the answer of one is an error; one operation's error does not
///    stop the next. `Err` speaks of the whole batch.
/// 2. **Same results to the letter** as Redis 7: what the variants of [`Op`](crate::op::Op) say of
///    replies, wrong types, missing keys, empty collections (they do not exist) and expiry.
///    A plain write of a string takes away the key's expiry; a change within a hash, a list or
///    a number keeps it.
/// 3. **Order**: operations of a batch run in order. Others' operations may come between them,
///    unless the batch is atomic.
/// 4. **Atomic** means that nobody sees half of the batch and that no operation of others runs in
///    the middle. As in Redis, an operation that fails while it runs (a wrong type) does not undo
///    the others.
/// 5. **Outcome**: a store calls [`Batch::mark_sent`] before the first byte can leave the process.
///    An error with the outcome `NotSent` or `Rejected` means that nothing was applied.
///    A store never sends a batch twice: repeating is decided above it.
/// 6. **Cancellation**: the future may be dropped at any moment. The operations may then be applied
///    or not, but no later call gets their replies.
/// 7. **Deadlines** are kept above; a store that waits before sending gives up at
///    [`Batch::deadline`] with the outcome `NotSent`.
/// 8. **Changes**: replies over the lanes [`Tracked`](crate::op::Lane::Tracked) and
///    [`Broadcast`](crate::op::Lane::Broadcast) may carry a [`Vouch`](crate::op::Vouch), taken before the
///    batch was sent. While it holds, every later change to a key that the batch read (a missing one too, and the
///    lease that a [`Lease`](crate::op::Op::Lease) found held) is told to every sink: a write, a delete, a
///    new expiry, an eviction and, some time after it, an expiry. It is told after the reply that shows the state
///    before the change was handed over, and no later than a reply over the same connection that shows
///    the state after it. A change is told at least once, by whomever it was made; after that, the key has to be
///    read again. When it cannot be told any more, the vouch ends first.
/// 9. **Silence**: errors, logs and `Debug` contain no value, credential or lock token.
pub trait Store: Send + Sync + 'static {
    /// Executes a batch.
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>>;

    /// What this store can do beyond the operations.
    fn capabilities(&self) -> Capabilities;

    /// Registers who is told of changes. A store that cannot tell keeps no sink and gives no vouch; one that wraps
    /// another hands the sink on, because it hands the vouches on as well.
    fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>);

    /// Has the lane [`Broadcast`](crate::op::Lane::Broadcast) of a prefix tell of changes under it. Called before the
    /// lane is used.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if that cannot be, since prefixes overlap or connections
    /// are bounded.
    fn broadcast(&self, prefix: &Arc<str>) -> Result<()> {
        _ = prefix;
        Ok(())
    }

    /// Lets go of connections. May be called more than once. A client refuses calls from then on by itself,
    /// so a store need not.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Who is told of changes: synchronously, in the order of the wire, so it must not block, and must not
/// call the store.
pub trait InvalidationSink: Send + Sync + 'static {
    /// This key changed.
    fn changed(&self, key: &[u8]);

    /// Any key may have changed: the data was flushed, or the connection that told of changes was
    /// lost. The vouches that this concerns have ended before.
    fn all_changed(&self, why: Sweeping);
}

/// Why any key may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sweeping {
    /// The data was flushed.
    Flushed,
    /// A connection that told of changes was lost.
    Lost,
}

/// What a store can do beyond the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// The data is shared with other processes.
    pub shared: bool,
    /// The data survives the end of this process.
    pub outlives_process: bool,
    /// It can tell of changes, so that values may be kept near and waits need no polling.
    pub tracking: bool,
    /// It was asked to, and the server would not: it speaks no RESP3, or the user may not use `CLIENT TRACKING`. Nothing is
    /// kept near then, and who waits polls; it is asked again after a minute. In a cluster, what the node said that was asked last.
    pub tracking_refused: bool,
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
        (**self).run(batch)
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>) {
        (**self).on_invalidation(sink);
    }

    fn broadcast(&self, prefix: &Arc<str>) -> Result<()> {
        (**self).broadcast(prefix)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        (**self).close()
    }
}

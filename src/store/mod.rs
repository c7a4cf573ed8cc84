//! What executes operations: the [`Store`] trait with its contract, and the stores that wrap one.

use futures_util::future::BoxFuture;

use crate::error::Result;
use crate::op::{Batch, Replies};

mod context;
mod deadline;
mod gate;
mod layer;
pub mod memory;
mod observe;
pub(crate) mod redis;
mod retry;
pub(crate) mod runtime;
pub(crate) mod url;

pub(crate) use context::Context;
pub(crate) use deadline::Deadline;
pub(crate) use gate::Gate;
pub(crate) use layer::{Layer, Stack};
pub use memory::MemoryStore;
pub(crate) use observe::Observe;
pub use redis::RedisStore;
pub(crate) use retry::Retry;

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
/// 8. **Silence**: errors, logs and `Debug` contain no value, credential or lock token.
pub trait Store: Send + Sync + 'static {
    /// Executes a batch.
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>>;

    /// What this store can do beyond the operations.
    fn capabilities(&self) -> Capabilities;

    /// Lets go of connections. May be called more than once. A client refuses calls from then on by itself,
    /// so a store need not.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What a store can do beyond the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// The data is shared with other processes.
    pub shared: bool,
    /// The data survives the end of this process.
    pub outlives_process: bool,
}

impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
        (**self).run(batch)
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        (**self).close()
    }
}

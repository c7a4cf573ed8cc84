//! Batches: operations that go together, and what the stores above need to know about them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Op;
use super::one_or_many::OneOrMany;
use crate::key::Key;

/// Over which connections a batch goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Lane {
    /// Those for data.
    #[default]
    Data,
    /// Those that tell of changes to what was read over them, key by key: for reads that are kept, and for
    /// who waits for a change. A store that cannot tell answers all the same, without a [`Vouch`](super::Vouch).
    Tracked,
    /// Those that tell of changes to every key with this prefix, whether it was read or not.
    Broadcast(Arc<str>),
}

/// Operations that run in order, in one write to the server. Cloning shares them.
#[derive(Clone)]
pub struct Batch {
    ops: Arc<Shared>,
    name: &'static str,
    label: Option<Arc<str>>,
    atomic: bool,
    lane: Lane,
    timeout: Option<Duration>,
    started: Instant,
    deadline: Option<Instant>,
}

struct Shared {
    ops: OneOrMany<Op>,
    // Stands beside the operations because a deadline fires outside of the store that sends.
    sent: AtomicBool,
}

impl Batch {
    /// A batch of one operation. `name` is what errors call it.
    pub fn one(name: &'static str, op: Op) -> Self {
        Self::build(name, OneOrMany::One(op))
    }

    /// A batch of several operations, which other clients' operations may come between.
    pub fn many(name: &'static str, ops: Vec<Op>) -> Self {
        Self::build(name, OneOrMany::Many(ops))
    }

    fn build(name: &'static str, ops: OneOrMany<Op>) -> Self {
        Self {
            ops: Arc::new(Shared { ops, sent: AtomicBool::new(false) }),
            name,
            label: None,
            atomic: false,
            lane: Lane::Data,
            timeout: None,
            started: Instant::now(),
            deadline: None,
        }
    }

    /// All of it or nothing, and nobody's operations in between.
    pub fn atomic(mut self) -> Self {
        self.atomic = true;
        self
    }

    /// Over which connections it goes. Defaults to those for data.
    pub fn on(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// The namespace that statistics count it under; without one, each key's first part.
    pub fn labelled(mut self, label: Arc<str>) -> Self {
        self.label = Some(label);
        self
    }

    /// How long it may take altogether. Defaults to the client's deadline.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The operations.
    pub fn ops(&self) -> &[Op] {
        self.ops.ops.as_slice()
    }

    /// What errors call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The namespace it counts under.
    pub fn label(&self) -> Option<&Arc<str>> {
        self.label.as_ref()
    }

    /// Over which connections it goes.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Whether it is all or nothing.
    pub fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Its own time limit, if it has one.
    pub fn own_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// When it was made; deadlines and latencies count from here.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When it has to be over. Set by the store that keeps deadlines.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sets the moment when it has to be over.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Whether every operation only reads.
    pub fn is_read(&self) -> bool {
        self.ops().iter().all(Op::is_read)
    }

    /// Whether it may be sent again when no answer came.
    pub fn is_repeatable(&self) -> bool {
        self.ops().iter().all(Op::is_repeatable)
    }

    /// The only key it names, for an error about the whole batch.
    pub fn sole_key(&self) -> Option<&Key> {
        match self.ops() {
            [op] => match op.keys() {
                [key] => Some(key),
                _ => None,
            },
            _ => None,
        }
    }

    /// To be called by a store right before the first byte can leave the process.
    pub fn mark_sent(&self) {
        self.ops.sent.store(true, Ordering::Relaxed);
    }

    /// Whether a byte of it can have left the process.
    pub fn was_sent(&self) -> bool {
        self.ops.sent.load(Ordering::Relaxed)
    }

    /// Forgets an attempt that the server is known to have refused.
    pub(crate) fn clear_sent(&self) {
        self.ops.sent.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("name", &self.name)
            .field("atomic", &self.atomic)
            .field("ops", &self.ops())
            .finish_non_exhaustive()
    }
}

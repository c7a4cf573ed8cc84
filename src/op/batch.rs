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
    /// Those that tell of changes to what was read over them, key by key: for reads that are kept, for
    /// leases and locks, and for who waits for a change. A store that cannot tell answers all the same, without a [`Vouch`](super::Vouch).
    Tracked,
    /// Those that tell of changes to every key with this prefix, whether it was read or not.
    Broadcast(Arc<str>),
}

/// Operations that run in order, in one write to the server. Cloning shares them.
///
/// Small, because every layer on the way to the server holds one for each call in flight.
#[derive(Clone)]
pub struct Batch {
    shared: Arc<Shared>,
    // What was said of it after it was first cloned.
    amended: Option<Box<About>>,
    deadline: Option<Instant>,
}

struct Shared {
    ops: OneOrMany<Op>,
    about: About,
    started: Instant,
    // Stands beside the operations because a deadline fires outside of the store that sends.
    sent: AtomicBool,
}

/// What goes with the operations.
#[derive(Clone)]
struct About {
    name: &'static str,
    label: Option<Arc<str>>,
    atomic: bool,
    lane: Lane,
    timeout: Option<Duration>,
    by_itself: bool,
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
        let (label, lane) = (None, Lane::Data);
        let about = About { name, label, atomic: false, lane, timeout: None, by_itself: false };
        let (started, sent) = (Instant::now(), AtomicBool::new(false));
        let shared = Arc::new(Shared { ops, about, started, sent });
        Self { shared, amended: None, deadline: None }
    }

    fn about(&self) -> &About {
        self.amended.as_deref().unwrap_or(&self.shared.about)
    }

    /// Changes what goes with the operations, of this clone alone. Whether they were sent stays shared.
    fn amend(mut self, change: impl FnOnce(&mut About)) -> Self {
        match (&mut self.amended, Arc::get_mut(&mut self.shared)) {
            (Some(amended), _) => change(amended),
            (None, Some(shared)) => change(&mut shared.about),
            (None, None) => {
                let mut amended = Box::new(self.shared.about.clone());
                change(&mut amended);
                self.amended = Some(amended);
            }
        }
        self
    }

    /// All of it or nothing, and nobody's operations in between.
    pub fn atomic(self) -> Self {
        self.amend(|about| about.atomic = true)
    }

    /// The client sends it by itself, and nobody waits for it: it is not counted, and takes no caller's turn.
    pub(crate) fn by_itself(self) -> Self {
        self.amend(|about| about.by_itself = true)
    }

    /// Over which connections it goes. Defaults to those for data.
    pub fn on(self, lane: Lane) -> Self {
        self.amend(|about| about.lane = lane)
    }

    /// The namespace that statistics count it under; without one, each key's first part.
    pub fn labelled(self, label: Arc<str>) -> Self {
        self.amend(|about| about.label = Some(label))
    }

    /// How long it may take altogether. Defaults to the client's deadline.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.amend(|about| about.timeout = Some(timeout))
    }

    /// The operations.
    pub fn ops(&self) -> &[Op] {
        self.shared.ops.as_slice()
    }

    /// What errors call it.
    pub fn name(&self) -> &'static str {
        self.about().name
    }

    /// The namespace it counts under.
    pub fn label(&self) -> Option<&Arc<str>> {
        self.about().label.as_ref()
    }

    /// Over which connections it goes.
    pub fn lane(&self) -> &Lane {
        &self.about().lane
    }

    /// Whether it is all or nothing.
    pub fn is_atomic(&self) -> bool {
        self.about().atomic
    }

    /// Whether nobody waits for it.
    pub(crate) fn is_by_itself(&self) -> bool {
        self.about().by_itself
    }

    /// Its own time limit, if it has one.
    pub fn own_timeout(&self) -> Option<Duration> {
        self.about().timeout
    }

    /// When it was made; deadlines and latencies count from here.
    pub fn started(&self) -> Instant {
        self.shared.started
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
        self.shared.sent.store(true, Ordering::Relaxed);
    }

    /// Whether a byte of it can have left the process.
    pub fn was_sent(&self) -> bool {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Forgets an attempt that the server is known to have refused.
    pub(crate) fn clear_sent(&self) {
        self.shared.sent.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("name", &self.name())
            .field("atomic", &self.is_atomic())
            .field("ops", &self.ops())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_clone_leaves_the_others_alone_and_all_know_whether_it_was_sent() {
        let first = Batch::one("test", Op::Ping).on(Lane::Tracked);
        let second = first.clone().atomic().labelled("a".into()).timeout(Duration::from_secs(1));
        let third = second.clone().on(Lane::Data).labelled("b".into());
        let said = |batch: &Batch| {
            let label = batch.label().map(ToString::to_string);
            (batch.lane().clone(), batch.is_atomic(), label, batch.own_timeout().is_some())
        };
        assert_eq!(said(&first), (Lane::Tracked, false, None, false));
        assert_eq!(said(&second), (Lane::Tracked, true, Some("a".to_owned()), true));
        assert_eq!(said(&third), (Lane::Data, true, Some("b".to_owned()), true));
        assert_eq!((third.name(), third.started()), ("test", first.started()));
        third.mark_sent();
        assert!(first.was_sent() && second.was_sent());
        first.clear_sent();
        assert!(!third.was_sent());
    }
}

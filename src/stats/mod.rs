//! Counters and latencies: what is recorded, and the snapshot of it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::key::Key;
use crate::op::{Batch, OP_KINDS, OP_NAMES, Op, Replies, Reply};

mod breaker;
mod cells;
mod histogram;
mod locks;
mod reads;
mod table;

pub(crate) use breaker::BreakerRecorder;
pub use breaker::BreakerStats;
use cells::Striped;
pub(crate) use cells::{Place, place, stripes};
use histogram::Histogram;
pub use histogram::Latency;
pub use locks::LockStats;
pub(crate) use locks::{LockEvent, LockRecorder};
pub(crate) use reads::{Cause, Read, ReadRecorder};
pub use reads::{Invalidations, ReadStats};
use table::Table;

/// How many namespaces are counted apart; what comes later counts as [`OTHER`].
pub(crate) const MAX_NAMESPACES: usize = 128;

/// The name under which namespaces beyond the limit are counted together.
pub const OTHER: &str = "(other)";

/// The name under which keys without a `:` are counted.
pub const NO_PREFIX: &str = "(no prefix)";

/// The index of grouped calls, behind the operations.
const GROUPED: usize = OP_KINDS - 1;

/// Where the numbers are kept while a client lives.
pub(crate) struct Recorder {
    operations: [OnceLock<Operation>; OP_KINDS],
    namespaces: Table,
    locks: Arc<LockRecorder>,
    refused: Striped<1>,
    breaker: Arc<BreakerRecorder>,
}

/// One operation's numbers.
struct Operation {
    latency: Histogram,
    errors: Striped<1>,
    seen: metrics::Histogram,
    failed: metrics::Counter,
}

impl Operation {
    fn new(name: &'static str) -> Self {
        Self {
            latency: Histogram::new(),
            errors: Striped::new(),
            seen: metrics::histogram!("larder_operation_duration_seconds", "operation" => name),
            failed: metrics::counter!("larder_operation_errors_total", "operation" => name),
        }
    }

    fn fail(&self, place: Place) {
        self.errors.add(place, 0, 1);
        self.failed.increment(1);
    }
}

impl Recorder {
    pub(crate) fn new(max_namespaces: usize) -> Self {
        Self {
            operations: [const { OnceLock::new() }; OP_KINDS],
            namespaces: Table::new(max_namespaces),
            locks: Arc::new(LockRecorder::new()),
            refused: Striped::new(),
            breaker: Arc::default(),
        }
    }

    /// Counts a batch that is over.
    pub(crate) fn record(&self, batch: &Batch, done: &Result<Replies>) {
        let elapsed = batch.started().elapsed();
        let place = place();
        let operation = match batch.ops() {
            [op] if !batch.is_atomic() => self.operation(op.index()),
            _ => self.operation(GROUPED),
        };
        operation.latency.record(place, elapsed);
        operation.seen.record(elapsed);
        let failed = match done {
            Err(_) => {
                for op in batch.ops() {
                    self.count_error(place, batch, op);
                }
                true
            }
            Ok(replies) => match (batch.ops(), replies.results()) {
                // Most calls.
                ([op], [Ok(reply)]) => {
                    self.count(place, batch, op, reply);
                    false
                }
                (ops, results) => self.count_many(place, batch, ops, results),
            },
        };
        if failed {
            operation.fail(place);
        }
    }

    /// Counts operations and their results; answers whether one failed.
    fn count_many(
        &self,
        place: Place,
        batch: &Batch,
        ops: &[Op],
        results: &[Result<Reply>],
    ) -> bool {
        let mut failed = false;
        for (op, result) in ops.iter().zip(results) {
            match result {
                Ok(reply) => self.count(place, batch, op, reply),
                Err(_) => {
                    failed = true;
                    self.count_error(place, batch, op);
                }
            }
        }
        failed
    }

    /// Counts a call that was refused because too much is in flight.
    pub(crate) fn refused(&self) {
        self.refused.add(place(), 0, 1);
        metrics::counter!("larder_overloaded_total").increment(1);
    }

    /// Counts a value that was read, from `key` if that is known, and could not be decoded.
    pub(crate) fn undecodable(&self, batch: &Batch, key: Option<&Key>) {
        let [op] = batch.ops() else { return };
        let place = place();
        self.operation(op.index()).fail(place);
        if let Some(key) = key.or(op.keys().first()) {
            self.slot(batch, key).failed(place);
        }
    }

    /// Where the reads of a namespace are counted. To be kept by who reads: finding it takes a search.
    pub(crate) fn reads(&self, namespace: &[u8]) -> Arc<ReadRecorder> {
        self.namespaces.slot(namespace).reads()
    }

    /// Where locks are counted.
    pub(crate) fn locks(&self) -> Arc<LockRecorder> {
        Arc::clone(&self.locks)
    }

    /// Where the breaker is counted.
    pub(crate) fn breaker(&self) -> Arc<BreakerRecorder> {
        Arc::clone(&self.breaker)
    }

    fn operation(&self, index: usize) -> &Operation {
        self.operations[index].get_or_init(|| Operation::new(OP_NAMES[index]))
    }

    /// Counts a failed operation, once in each namespace that it touches.
    #[cold]
    fn count_error(&self, place: Place, batch: &Batch, op: &Op) {
        let mut counted: Vec<&table::Slot> = Vec::new();
        for slot in op.keys().iter().map(|key| self.slot(batch, key)) {
            if !counted.iter().any(|one| std::ptr::eq(*one, slot)) {
                slot.failed(place);
                counted.push(slot);
            }
        }
    }

    fn count(&self, place: Place, batch: &Batch, op: &Op, reply: &Reply) {
        // The most frequent first: what is below asks each operation several questions.
        if let (Op::Get { key }, Reply::Value(value)) = (op, reply) {
            self.slot(batch, key).read(place, value.as_ref().map(|value| value.len()));
            return;
        }
        let [first, ..] = op.keys() else { return };
        if let (Op::GetMany { keys }, Reply::Values(values)) = (op, reply) {
            for (key, value) in keys.iter().zip(values) {
                self.slot(batch, key).read(place, value.as_ref().map(|value| value.len()));
            }
            return;
        }
        let slot = self.slot(batch, first);
        // What is removed was not written, nor was what its condition kept out.
        let kept_out =
            matches!((op, reply), (Op::Set { .. } | Op::FencedSet { .. }, Reply::Bool(false)));
        if let Some(value) = op.payload()
            && !kept_out
            && !matches!(op, Op::ListRemove { .. })
        {
            slot.wrote(place, value.len());
        }
        match (op, reply) {
            // Taking an element off a queue is not reading a cache.
            (Op::ListPop { .. }, Reply::Value(Some(value))) => slot.took(place, value.len()),
            (Op::ListPop { .. }, _) => {}
            (_, Reply::Value(value)) => slot.read(place, value.as_ref().map(|value| value.len())),
            (_, Reply::List(list)) => {
                slot.read(
                    place,
                    (!list.is_empty()).then(|| list.iter().map(|one| one.len()).sum()),
                );
            }
            (_, Reply::Pairs(pairs)) => {
                let bytes = pairs.iter().map(|(field, value)| field.len() + value.len());
                slot.read(place, (!pairs.is_empty()).then(|| bytes.sum()));
            }
            _ => {}
        }
    }

    fn slot(&self, batch: &Batch, key: &Key) -> &table::Slot {
        match batch.label() {
            Some(label) => self.namespaces.slot(label.as_bytes()),
            None => self.namespaces.slot(key.prefix().unwrap_or(NO_PREFIX.as_bytes())),
        }
    }

    /// The numbers as they stand.
    pub(crate) fn snapshot(&self) -> Stats {
        let operations = self.operations.iter().enumerate().filter_map(|(index, operation)| {
            let operation = operation.get()?;
            // Before the calls, which are counted first: never more errors than calls.
            let errors = operation.errors.sum(0);
            let latency = operation.latency.snapshot();
            let calls = latency.count();
            let stats = OperationStats { calls, errors: errors.min(calls), latency };
            Some((OP_NAMES[index], stats))
        });
        let (namespaces, reads) = self.namespaces.snapshot();
        Stats {
            operations: operations.collect(),
            namespaces,
            reads,
            locks: self.locks.snapshot(),
            overloaded: self.refused.sum(0),
            breaker: self.breaker.snapshot(),
            near_entries: 0,
            near_bytes: 0,
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// What a client did since it was made. [`CacheClient::stats`](crate::CacheClient::stats) takes it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// let cache = larder::CacheClient::memory();
/// cache.set_value("user:1", "Ada", None).await?;
/// cache.get_value("user:1").await?;
/// cache.get_value("user:2").await?;
///
/// let stats = cache.stats();
/// let users = &stats.namespaces["user"];
/// assert_eq!((users.hits, users.misses, users.hit_rate()), (1, 1, Some(0.5)));
/// assert_eq!(stats.operations["get"].calls, 2);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// By operation (`get`, `set`, `list_push`; `batch` is a pipeline or a transaction as a whole).
    /// Operations that were never used are not listed.
    pub operations: BTreeMap<&'static str, OperationStats>,
    /// By namespace, or by the key's part before the first `:`. At most 128 by default, with the
    /// rest under [`OTHER`].
    pub namespaces: BTreeMap<String, NamespaceStats>,
    /// Where reads were answered from and which loads they caused, by namespace: of typed namespaces
    /// and of [`get_or_load`](crate::CacheClient::get_or_load). Bounded as `namespaces` is.
    pub reads: BTreeMap<String, ReadStats>,
    /// What became of the locks that were taken with guards.
    pub locks: LockStats,
    /// How many calls were refused at once, since as much was in flight as
    /// [`Builder::max_in_flight`](crate::Builder::max_in_flight) and
    /// [`Builder::max_in_flight_bytes`](crate::Builder::max_in_flight_bytes) allow.
    pub overloaded: u64,
    /// How often the store was left alone because it did not answer.
    pub breaker: BreakerStats,
    /// How many values are near at the moment, of all namespaces together. What is void since a
    /// connection was lost or the data was flushed counts until it is come upon.
    pub near_entries: u64,
    /// How many bytes they count of what [`Builder::near_max_bytes`](crate::Builder::near_max_bytes)
    /// allows: keys, encoded values, and 144 bytes each.
    pub near_bytes: u64,
}

/// The numbers of one operation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OperationStats {
    /// How many calls ended, well or not. A call that was cancelled is not counted.
    pub calls: u64,
    /// How many of them failed, a value that could not be decoded included.
    pub errors: u64,
    /// From the call to its end, with waiting and repeating.
    pub latency: Latency,
}

/// The numbers of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NamespaceStats {
    /// Reads of values, hashes and lists that found something.
    pub hits: u64,
    /// Reads that found nothing.
    pub misses: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Bytes of values read.
    pub bytes_read: u64,
    /// Bytes of values written.
    pub bytes_written: u64,
}

impl NamespaceStats {
    /// Hits among all reads, from 0 to 1; nothing before the first read.
    pub fn hit_rate(&self) -> Option<f64> {
        let reads = self.hits + self.misses;
        (reads > 0).then(|| self.hits as f64 / reads as f64)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::op::{LockMode, Locked};
    use crate::ttl::Expiry;

    #[test]
    fn locks_are_no_reads_and_a_fenced_write_that_is_refused_is_no_write() {
        let recorder = Recorder::new(MAX_NAMESPACES);
        let key = Key::new("lock:a").unwrap();
        let (id, expiry) = (Bytes::from_static(b"id"), Expiry::of_millis(1));
        let fenced = || Op::FencedSet {
            key: Key::new("user:7").unwrap(),
            value: Bytes::from_static(b"12345"),
            expiry: None,
            token: 1,
        };
        let mode = LockMode::Shared { most: 1 };
        let lock = Op::Lock { key: key.clone(), id: id.clone(), expiry, mode };
        let held = Reply::Locked(Locked::Held { remaining: std::time::Duration::ZERO });
        for (op, reply) in [
            (lock.clone(), Reply::Locked(Locked::Taken { token: None })),
            (lock, held),
            (
                Op::Extend { key: key.clone(), id: id.clone(), expiry, shared: true },
                Reply::Bool(true),
            ),
            (Op::Unlock { key, id, shared: true }, Reply::Bool(false)),
            (fenced(), Reply::Bool(true)),
            (fenced(), Reply::Bool(false)),
        ] {
            recorder.record(&Batch::one("test", op), &Ok(Replies::one(Ok(reply))));
        }
        let stats = recorder.snapshot();
        let calls = |name| stats.operations[name].calls;
        assert_eq!(["lock", "extend", "unlock", "fenced_set"].map(calls), [2, 1, 1, 2]);
        assert!(!stats.namespaces.contains_key("lock"), "{:?}", stats.namespaces);
        let users = &stats.namespaces["user"];
        assert_eq!((users.hits, users.misses, users.bytes_written), (0, 0, 5));
    }
}

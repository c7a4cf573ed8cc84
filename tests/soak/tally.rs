//! What was done, and which promises broke.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::place::Topology;

/// What a soak does, each at least [`LEAST`] times: all methods of the client and of namespaces, and the rest of what the
/// suites use.
pub(crate) const OPERATIONS: [&str; 69] = [
    "acquire_lock",
    "batch_delete_keys",
    "delete_hash_field",
    "delete_key",
    "fenced_set",
    "get_bytes",
    "get_dict",
    "get_hash",
    "get_hash_all",
    "get_list",
    "get_list_range",
    "get_list_value",
    "get_many",
    "get_or_load",
    "get_or_load_many",
    "get_ttl",
    "get_value",
    "incr_by",
    "key_exists",
    "left_pop_list",
    "persist",
    "pipeline",
    "push_to_list",
    "release_lock",
    "remove_from_list",
    "right_pop_list",
    "scan",
    "set_dict",
    "set_expiry",
    "set_hash",
    "set_list",
    "set_many",
    "set_value",
    "set_value_if",
    "transaction",
    "namespace.delete",
    "namespace.fenced_set",
    "namespace.get",
    "namespace.get_many",
    "namespace.get_or_load",
    "namespace.get_or_load_many",
    "namespace.invalidate",
    "namespace.invalidate_many",
    "namespace.set",
    "namespace.set_many",
    "namespace.ttl",
    // Of reading through.
    "near hits",
    "near hits by broadcast",
    "loads by a caller's loader",
    "loads by the namespace's loader",
    "values served in grace",
    "early refreshes",
    // Of locks.
    "guards of a plain lock",
    "guards of a fair lock",
    "guards of a semaphore",
    "guards of a shared lock",
    "guards of a lock that is shared, alone",
    "guards of a lock over several servers",
    "terms of a leader",
    "terms of a leader over several servers",
    "releases",
    "locks",
    // Of namespaces as a whole, and of clients.
    "namespaces cleared",
    "elements pushed",
    "calls dropped by their callers",
    "clients that came and went",
    REPLICATED,
    FAILED,
    LOST,
];

/// Where there are replicas.
pub(crate) const REPLICATED: &str = "guards of a lock that a replica acknowledges";

/// What comes of faults alone: a mix that is not through may leave it out.
pub(crate) const FAILED: &str = "calls that failed";
pub(crate) const LOST: &str = "guards lost";

/// So often each operation is done at least. In the full count it is thousands.
const LEAST: u64 = 2;

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// An answer to another call.
    Foreign,
    /// A value that nobody wrote, or that was overwritten before.
    Impossible,
    /// A transaction or a document that was seen in half.
    Torn,
    /// An answer that no order of the calls gives.
    Wrong,
    OwnStale,
    Stale,
    Overlap,
    Token,
    Outlived,
    Late,
    Failed,
}

const PROMISES: [(Promise, &str); 11] = [
    (Promise::Foreign, "answers to another call"),
    (Promise::Impossible, "values that nobody wrote or that were overwritten"),
    (Promise::Torn, "transactions or documents seen in half"),
    (Promise::Wrong, "answers that no order of calls gives"),
    (Promise::OwnStale, "reads older than an own write"),
    (Promise::Stale, "reads older than another's write"),
    (Promise::Overlap, "locks held by too many"),
    (Promise::Token, "fencing tokens that fell back"),
    (Promise::Outlived, "values past their time to live"),
    (Promise::Late, "calls that ended late"),
    (Promise::Failed, "calls that failed without a fault"),
];

/// What was counted.
#[derive(Debug)]
pub(crate) struct Tally {
    operations: [AtomicU64; OPERATIONS.len()],
    pub(crate) calls: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) deferred: AtomicU64,
    longest_micros: AtomicU64,
    // Calls that ended late when the machine was as late, and the latest of them.
    forgiven: AtomicU64,
    latest_micros: AtomicU64,
    // Times without faults, the calls in them, and such times in which the machine was too busy to judge any.
    calms: AtomicU64,
    calls_in_calm: AtomicU64,
    busy_calms: AtomicU64,
    broken: [AtomicU64; PROMISES.len()],
    // What a failover may have lost, and its like.
    excused: [AtomicU64; PROMISES.len()],
}

/// One in so many calls at most may end late because the machine is: with more, nothing would be said of lateness.
const FORGIVEN: u64 = 100;

/// So many of what broke are printed.
const PRINTED: u64 = 20;

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            operations: [const { AtomicU64::new(0) }; OPERATIONS.len()],
            calls: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            longest_micros: AtomicU64::new(0),
            forgiven: AtomicU64::new(0),
            latest_micros: AtomicU64::new(0),
            calms: AtomicU64::new(0),
            calls_in_calm: AtomicU64::new(0),
            busy_calms: AtomicU64::new(0),
            broken: [const { AtomicU64::new(0) }; PROMISES.len()],
            excused: [const { AtomicU64::new(0) }; PROMISES.len()],
        }
    }

    /// An operation was done.
    ///
    /// # Panics
    /// If it is not among [`OPERATIONS`].
    pub(crate) fn did(&self, operation: &str) {
        self.did_many(operation, 1);
    }

    /// As [`did`](Self::did), so many times.
    pub(crate) fn did_many(&self, operation: &str, times: u64) {
        let at = OPERATIONS.iter().position(|one| *one == operation);
        let at = at.unwrap_or_else(|| panic!("{operation} is not listed"));
        self.operations[at].fetch_add(times, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, time: Duration) {
        self.longest_micros.fetch_max(micros(time), Ordering::Relaxed);
    }

    /// A call ended so much later than its limit, and the machine was as late.
    pub(crate) fn forgave(&self, late: Duration) {
        count(&self.forgiven);
        self.latest_micros.fetch_max(micros(late), Ordering::Relaxed);
    }

    /// A time without faults ended, in which so many calls were made.
    pub(crate) fn was_calm(&self, calls: u64, busy: bool) {
        if busy {
            return count(&self.busy_calms);
        }
        count(&self.calms);
        self.calls_in_calm.fetch_add(calls, Ordering::Relaxed);
    }

    /// A promise broke, unless it is `excused`.
    pub(crate) fn broke(&self, promise: Promise, excused: bool, seen: fmt::Arguments<'_>) {
        let at = PROMISES.iter().position(|(one, _)| *one == promise).unwrap();
        if excused {
            return count(&self.excused[at]);
        }
        if self.broken[at].fetch_add(1, Ordering::Relaxed) < PRINTED {
            println!("soak: broken, {}: {seen}", PROMISES[at].1);
        }
    }

    fn counted(counts: &[AtomicU64]) -> String {
        let named = PROMISES.iter().zip(counts).map(|((_, what), count)| (what, of(count)));
        let all: Vec<_> = named.map(|(what, count)| format!("{what} {count}")).collect();
        all.join(", ")
    }

    /// `through`: whether each fault had its turn.
    ///
    /// # Panics
    /// If a promise broke, or something was not done.
    pub(crate) fn check(&self, topology: Topology, through: bool) {
        for ((_, what), broken) in PROMISES.iter().zip(&self.broken) {
            assert_eq!(of(broken), 0, "{what}");
        }
        let (forgiven, calls) = (of(&self.forgiven), of(&self.calls));
        assert!(
            forgiven * FORGIVEN <= calls,
            "{forgiven} of {calls} calls ended late with the machine"
        );
        let judged = of(&self.calms) == 0 || of(&self.calls_in_calm) > 0;
        assert!(judged, "no call was made in times without faults");
        let is_done = |operation: &str| match operation {
            REPLICATED => topology.has_replicas(),
            FAILED | LOST => through,
            _ => true,
        };
        let done = OPERATIONS.iter().zip(&self.operations);
        let seldom = done.filter(|(one, times)| is_done(one) && of(times) < LEAST);
        let seldom: Vec<_> = seldom.map(|(operation, _)| operation).collect();
        assert!(seldom.is_empty(), "not done {LEAST} times: {seldom:?}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = Duration::from_micros(of(&self.longest_micros));
        write!(
            f,
            "{} calls ({} of unknown outcome, {} invalidations deferred; the longest took {longest:?})\n\
             soak: done:",
            of(&self.calls),
            of(&self.unknown),
            of(&self.deferred),
        )?;
        for (at, (operation, times)) in OPERATIONS.iter().zip(&self.operations).enumerate() {
            write!(f, "{} {operation} {}", if at == 0 { "" } else { "," }, of(times))?;
        }
        let latest = Duration::from_micros(of(&self.latest_micros));
        write!(
            f,
            "\nsoak: not judged: {} calls that ended late with the machine, by {latest:?} at most",
            of(&self.forgiven)
        )?;
        write!(
            f,
            "\nsoak: {} calls in {} times without faults, which may not fail (in {} more the machine was busy)",
            of(&self.calls_in_calm),
            of(&self.calms),
            of(&self.busy_calms)
        )?;
        write!(f, "\nsoak: broken: {}", Self::counted(&self.broken))?;
        write!(f, "\nsoak: lost by failovers, or not judged: {}", Self::counted(&self.excused))
    }
}

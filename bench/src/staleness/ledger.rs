//! What was written when, by a clock that only goes forward, so that a read can be told to be stale.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A change may take so long to be told: the bound that larder promises.
pub(super) const BOUND: Duration = Duration::from_millis(100);

/// For each key, when each of its versions was acknowledged; version 1 is the first.
pub(super) struct Ledger(Vec<Mutex<Vec<Instant>>>);

impl Ledger {
    pub(super) fn new(keys: u64) -> Self {
        Self((0..keys).map(|_| Mutex::default()).collect())
    }

    pub(super) fn keys(&self) -> u64 {
        self.0.len() as u64
    }

    /// The next version was written and acknowledged. A key has one writer.
    pub(super) fn acked(&self, key: u64) {
        self.line(key).push(Instant::now());
    }

    /// The newest version that was acknowledged.
    pub(super) fn newest(&self, key: u64) -> u64 {
        self.line(key).len() as u64
    }

    /// For how long a newer version had been acknowledged when a read began that gave version `seen`, or
    /// nothing.
    pub(super) fn behind(&self, key: u64, began: Instant, seen: Option<u64>) -> Duration {
        let line = self.line(key);
        // Version `seen` has the place before its number, so the one after it has its number.
        let newer = line.get(seen.unwrap_or(0) as usize);
        newer.map_or(Duration::ZERO, |acked| began.saturating_duration_since(*acked))
    }

    fn line(&self, key: u64) -> MutexGuard<'_, Vec<Instant>> {
        self.0[key as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reads looked like beside the ledger.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Findings {
    pub(super) reads: u64,
    pub(super) failed: u64,
    pub(super) longest: Duration,
    /// Reads that gave a version which had been old for longer than the bound when they began.
    pub(super) old: u64,
    /// Keys that gave an old version when nothing had been written for a while.
    pub(super) left: u64,
    /// Keys that were looked at then.
    pub(super) looked: u64,
}

impl Findings {
    pub(super) fn judge(&mut self, ledger: &Ledger, key: u64, began: Instant, seen: Option<u64>) {
        let behind = ledger.behind(key, began, seen);
        self.reads += 1;
        self.longest = self.longest.max(behind);
        self.old += u64::from(behind > BOUND);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.reads += other.reads;
        self.failed += other.failed;
        self.longest = self.longest.max(other.longest);
        self.old += other.old;
        self.left += other.left;
        self.looked += other.looked;
    }
}

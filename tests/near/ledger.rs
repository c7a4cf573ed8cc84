//! What was written when, so that a read can be told to be stale.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::QUIET;

/// The acknowledged versions of one key, the latest last, and the latest that was a deletion.
#[derive(Default)]
struct Line {
    acked: VecDeque<(u64, Instant)>,
    floor: u64,
    deleted: u64,
}

/// The acknowledged versions of keys.
pub(crate) struct Ledger(Vec<Mutex<Line>>);

/// How a read looks beside the ledger.
pub(crate) struct Verdict {
    /// For how long a newer version had been acknowledged when the read began.
    pub(crate) behind: Duration,
    /// That was longer than a change may take to be told.
    pub(crate) stale: bool,
}

impl Ledger {
    pub(crate) fn new(keys: u64) -> Self {
        Self((0..keys).map(|_| Mutex::default()).collect())
    }

    /// A deletion with this version is about to be sent.
    pub(crate) fn deleting(&self, key: u64, version: u64) {
        self.0[key as usize].lock().unwrap().deleted = version;
    }

    /// A version was acknowledged.
    pub(crate) fn acked(&self, key: u64, version: u64) {
        let mut line = self.0[key as usize].lock().unwrap();
        line.acked.push_back((version, Instant::now()));
        while line.acked.len() > 4096 {
            line.floor = line.acked.pop_front().unwrap().0;
        }
    }

    /// What a read that began at `began` and gave `value` is: nothing is the version of the last deletion.
    pub(crate) fn judge(&self, key: u64, began: Instant, value: Option<u64>) -> Verdict {
        let line = self.0[key as usize].lock().unwrap();
        let seen = value.unwrap_or(line.deleted);
        assert!(seen >= line.floor, "so stale that the ledger forgot");
        // The first version after the one that was seen says since when that was old.
        let newer = line.acked.iter().find(|(version, _)| *version > seen);
        let behind = newer.map_or(Duration::ZERO, |(_, at)| began.saturating_duration_since(*at));
        Verdict { behind, stale: behind > QUIET }
    }
}

//! Locks: how often they were got, how long that took, and how they were lost.

use std::sync::OnceLock;
use std::time::Duration;

use super::Latency;
use super::cells::{Striped, place};
use super::histogram::Histogram;

/// An event of a lock; [`LockStats`] says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockEvent {
    Acquired,
    Contended,
    TimedOut,
    Renewed,
    FailedRenewal,
    Lost,
    RefusedRelease,
}

/// The metrics of the events, in the order of [`LockEvent`].
const METRICS: [&str; 7] = [
    "larder_locks_acquired_total",
    "larder_locks_contended_total",
    "larder_locks_timed_out_total",
    "larder_lock_renewals_total",
    "larder_lock_failed_renewals_total",
    "larder_locks_lost_total",
    "larder_lock_refused_releases_total",
];

/// Counts the locks of one client.
pub(crate) struct LockRecorder {
    counters: Striped<{ METRICS.len() }>,
    waited: Histogram,
    // Registered at the first event: a client may be built before the application installs its recorder.
    seen: OnceLock<(Vec<metrics::Counter>, metrics::Histogram)>,
}

impl LockRecorder {
    pub(super) fn new() -> Self {
        Self { counters: Striped::new(), waited: Histogram::new(), seen: OnceLock::new() }
    }

    pub(crate) fn count(&self, event: LockEvent) {
        self.counters.add(place(), event as usize, 1);
        self.seen().0[event as usize].increment(1);
    }

    /// How long it took to get a lock, by one who was ready to wait.
    pub(crate) fn waited(&self, time: Duration) {
        self.waited.record(place(), time);
        self.seen().1.record(time);
    }

    fn seen(&self) -> &(Vec<metrics::Counter>, metrics::Histogram) {
        self.seen.get_or_init(|| {
            let counters = METRICS.iter().map(|metric| metrics::counter!(*metric)).collect();
            (counters, metrics::histogram!("larder_lock_wait_seconds"))
        })
    }

    pub(super) fn snapshot(&self) -> LockStats {
        let sum = |event: LockEvent| self.counters.sum(event as usize);
        LockStats {
            acquired: sum(LockEvent::Acquired),
            contended: sum(LockEvent::Contended),
            timed_out: sum(LockEvent::TimedOut),
            renewed: sum(LockEvent::Renewed),
            failed_renewals: sum(LockEvent::FailedRenewal),
            lost: sum(LockEvent::Lost),
            refused_releases: sum(LockEvent::RefusedRelease),
            waited: self.waited.snapshot(),
        }
    }
}

impl std::fmt::Debug for LockRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockRecorder").finish_non_exhaustive()
    }
}

/// What became of the locks that a client took with guards. Plain ones (`acquire_lock`) are among the operations.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LockStats {
    /// Locks that were got.
    pub acquired: u64,
    /// Calls ready to wait that did not get the lock at once from the store. A wait in line within the process alone is not
    /// counted.
    pub contended: u64,
    /// Calls that waited in vain.
    pub timed_out: u64,
    /// Renewals that the store confirmed.
    pub renewed: u64,
    /// Renewals that were not answered in time, or refused for the moment.
    pub failed_renewals: u64,
    /// Locks that were lost while somebody held their guard.
    pub lost: u64,
    /// Releases of locks that were not held any more.
    pub refused_releases: u64,
    /// How long it took to get a lock, of calls that were ready to wait and got it.
    pub waited: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_counted_in_the_field_of_its_name() {
        let recorder = LockRecorder::new();
        let events = [
            LockEvent::Acquired,
            LockEvent::Contended,
            LockEvent::TimedOut,
            LockEvent::Renewed,
            LockEvent::FailedRenewal,
            LockEvent::Lost,
            LockEvent::RefusedRelease,
        ];
        for (at, event) in events.into_iter().enumerate() {
            (0..=at).for_each(|_| recorder.count(event));
        }
        recorder.waited(Duration::from_millis(7));
        let stats = recorder.snapshot();
        assert_eq!((stats.acquired, stats.contended, stats.timed_out), (1, 2, 3));
        assert_eq!((stats.renewed, stats.failed_renewals), (4, 5));
        assert_eq!((stats.lost, stats.refused_releases), (6, 7));
        assert_eq!((stats.waited.count(), stats.waited.max()), (1, Duration::from_millis(7)));
    }
}

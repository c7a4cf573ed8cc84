//! The read path by namespace: where reads were answered from, what loads became, and why entries went.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Latency;
use super::cells::{Place, Striped, place};
use super::histogram::Histogram;

/// An event of the read path; [`ReadStats`] says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    NearHit,
    SharedHit,
    StaleHit,
    Miss,
    Load,
    Joined,
    LeaseWait,
    Takeover,
    RefusedFill,
    EarlyRefresh,
    LoadFailure,
    StoreFailure,
}

/// Why an entry left the near cache; [`Invalidations`] says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Pushed,
    OwnWrite,
    Flushed,
    Lost,
    Expired,
}

/// The metrics of the events, in the order of [`Read`].
const METRICS: [&str; 12] = [
    "larder_near_hits_total",
    "larder_shared_hits_total",
    "larder_stale_hits_total",
    "larder_read_misses_total",
    "larder_loads_total",
    "larder_joined_loads_total",
    "larder_lease_waits_total",
    "larder_lease_takeovers_total",
    "larder_refused_fills_total",
    "larder_early_refreshes_total",
    "larder_load_failures_total",
    "larder_store_failures_total",
];

/// The label of an invalidation, in the order of [`Cause`].
const CAUSES: [&str; 5] = ["pushed", "own_write", "flushed", "lost", "expired"];

/// The causes are counted behind the events.
const COUNTERS: usize = METRICS.len() + CAUSES.len();

/// What a new load time counts in the mean, as a power of two: an eighth. The mean follows a slower origin
/// within some ten loads, and one slow load does not move it far.
const WEIGHT: u32 = 3;

/// Counts the read path of one namespace. Counting costs a few nanoseconds.
pub(crate) struct ReadRecorder {
    label: String,
    counters: Striped<COUNTERS>,
    // Made when they are needed: most of a recorder's room.
    age: OnceLock<Histogram>,
    load_time: OnceLock<Histogram>,
    // Nanoseconds; zero before the first load.
    mean_load: AtomicU64,
    // Registered at the first event: a namespace may be built before the application installs its recorder.
    seen: OnceLock<Seen>,
}

/// The same in the `metrics` facade.
struct Seen {
    counters: [metrics::Counter; COUNTERS],
    age: metrics::Histogram,
    load_time: metrics::Histogram,
}

impl Seen {
    fn new(namespace: &str) -> Self {
        let label = || namespace.to_owned();
        Self {
            counters: std::array::from_fn(|at| match METRICS.get(at) {
                Some(metric) => metrics::counter!(*metric, "namespace" => label()),
                None => metrics::counter!(
                    "larder_invalidations_total",
                    "namespace" => label(),
                    "cause" => CAUSES[at - METRICS.len()]
                ),
            }),
            age: metrics::histogram!("larder_served_age_seconds", "namespace" => label()),
            load_time: metrics::histogram!("larder_load_duration_seconds", "namespace" => label()),
        }
    }
}

impl ReadRecorder {
    pub(super) fn new(label: String) -> Self {
        Self {
            label,
            counters: Striped::new(),
            age: OnceLock::new(),
            load_time: OnceLock::new(),
            mean_load: AtomicU64::new(0),
            seen: OnceLock::new(),
        }
    }

    #[inline]
    pub(crate) fn count(&self, event: Read) {
        self.count_at(place(), event);
    }

    /// As [`count`](Self::count), for who has asked where this thread counts.
    #[inline]
    pub(crate) fn count_at(&self, place: Place, event: Read) {
        self.add(place, event as usize);
    }

    /// Counts an entry that left the near cache.
    pub(crate) fn invalidated(&self, cause: Cause) {
        self.add(place(), METRICS.len() + cause as usize);
    }

    /// How old the value is that was served, in nanoseconds.
    #[inline]
    pub(crate) fn age(&self, place: Place, nanos: u64) {
        self.age.get_or_init(Histogram::new).record_nanos(place, nanos);
        self.seen().age.record(nanos as f64 / 1e9);
    }

    /// How long a loader ran that came to its end.
    pub(crate) fn load_time(&self, took: Duration) {
        self.load_time.get_or_init(Histogram::new).record(place(), took);
        self.seen().load_time.record(took);
        // Never zero, which says that there was none.
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mix = |mean| match mean {
            0 => nanos,
            // Rounded up where it grows, so that it reaches what it follows.
            mean if nanos > mean => mean + (nanos - mean).div_ceil(1 << WEIGHT),
            mean => mean - (mean - nanos).div_ceil(1 << WEIGHT),
        };
        _ = self
            .mean_load
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |mean| Some(mix(mean)));
    }

    /// The mean load time in nanoseconds, in which the latest count most; zero before the first.
    pub(crate) fn mean_load_nanos(&self) -> u64 {
        self.mean_load.load(Ordering::Relaxed)
    }

    #[inline]
    fn add(&self, place: Place, counter: usize) {
        self.counters.add(place, counter, 1);
        self.seen().counters[counter].increment(1);
    }

    #[inline]
    fn seen(&self) -> &Seen {
        self.seen.get_or_init(|| Seen::new(&self.label))
    }

    /// Adds this recorder's numbers to those of its line, if there are any.
    pub(super) fn add_to(&self, line: &mut ReadStats) {
        let mut sums = (0..COUNTERS).map(|counter| self.counters.sum(counter));
        let invalidations = &mut line.invalidations;
        for sum in [
            &mut line.near_hits,
            &mut line.shared_hits,
            &mut line.stale_hits,
            &mut line.misses,
            &mut line.loads,
            &mut line.joined,
            &mut line.lease_waits,
            &mut line.takeovers,
            &mut line.refused_fills,
            &mut line.early_refreshes,
            &mut line.load_failures,
            &mut line.store_failures,
            &mut invalidations.pushed,
            &mut invalidations.own_write,
            &mut invalidations.flushed,
            &mut invalidations.lost,
            &mut invalidations.expired,
        ] {
            *sum += sums.next().unwrap_or(0);
        }
        for (sum, histogram) in [(&mut line.age, &self.age), (&mut line.load_time, &self.load_time)]
        {
            if let Some(histogram) = histogram.get() {
                sum.merge(&histogram.snapshot());
            }
        }
    }
}

impl std::fmt::Debug for ReadRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadRecorder").finish_non_exhaustive()
    }
}

/// What became of the reads of one namespace: where they were answered from, and which loads they caused.
///
/// Each read is one of `near_hits`, `shared_hits`, `stale_hits` and `misses`, unless it failed otherwise than by its
/// load: by the store, or by a value that cannot be decoded. What follows a miss is counted beside it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ReadStats {
    /// Reads answered with a fresh value from the near cache, without asking the store.
    pub near_hits: u64,
    /// Reads answered with a fresh value from the store.
    pub shared_hits: u64,
    /// Reads answered with a value past its TTL and within its grace: one caller refreshed it, or the load
    /// failed or passed its soft timeout.
    pub stale_hits: u64,
    /// Reads that found nothing to serve, neither near nor in the store: they loaded, waited for somebody
    /// else's load, or came back with nothing. One whose load failed is among them.
    pub misses: u64,
    /// Runs of a loader in this process, refreshes included.
    pub loads: u64,
    /// How often a read joined another's read or load under way in this process.
    pub joined: u64,
    /// Reads that waited for the holder of the key's lease: in another process, or in this one if its load was too old
    /// to be joined.
    pub lease_waits: u64,
    /// Leases taken after waiting for a holder that ended without a value: it failed, or died.
    pub takeovers: u64,
    /// Loads whose result, a value or nothing, was not kept since the key was written or invalidated meanwhile.
    pub refused_fills: u64,
    /// Refreshes that began before the value was stale, by chance that grows towards its expiry.
    pub early_refreshes: u64,
    /// Loads that ended in an error, a panic or the hard timeout.
    pub load_failures: u64,
    /// Reads and fills that the store failed, so that the loader answered alone.
    pub store_failures: u64,
    /// Entries that left the near cache, by cause.
    pub invalidations: Invalidations,
    /// How old the values were when they were served: how much of the namespace's TTL had passed, and of its grace. A
    /// value with a shorter TTL of its own, as of [`Loaded`](crate::Loaded) or of nothing, is older by that. One without a TTL counts
    /// when it is served from the near cache, by the time since it was read.
    pub age: Latency,
    /// How long the loaders ran that came to their end.
    pub load_time: Latency,
}

/// Entries that left the near cache, by cause. What left for want of room is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Invalidations {
    /// The server told of a change of the key: somebody's write, a delete, an eviction, or its expiry.
    pub pushed: u64,
    /// This client wrote or invalidated the key.
    pub own_write: u64,
    /// The server's data was flushed.
    pub flushed: u64,
    /// The connection that told of changes was lost.
    pub lost: u64,
    /// The entry's time was up.
    pub expired: u64,
}

impl Invalidations {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.pushed + self.own_write + self.flushed + self.lost + self.expired
    }
}

impl ReadStats {
    pub(super) fn nothing() -> Self {
        Self {
            near_hits: 0,
            shared_hits: 0,
            stale_hits: 0,
            misses: 0,
            loads: 0,
            joined: 0,
            lease_waits: 0,
            takeovers: 0,
            refused_fills: 0,
            early_refreshes: 0,
            load_failures: 0,
            store_failures: 0,
            invalidations: Invalidations::default(),
            age: Latency::nothing(),
            load_time: Latency::nothing(),
        }
    }

    /// Reads that were answered without waiting for a load among all reads, from 0 to 1; nothing before the
    /// first read.
    pub fn hit_rate(&self) -> Option<f64> {
        let hits = self.near_hits + self.shared_hits + self.stale_hits;
        let reads = hits + self.misses;
        (reads > 0).then(|| hits as f64 / reads as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{OTHER, Recorder};

    const EVENTS: [Read; METRICS.len()] = [
        Read::NearHit,
        Read::SharedHit,
        Read::StaleHit,
        Read::Miss,
        Read::Load,
        Read::Joined,
        Read::LeaseWait,
        Read::Takeover,
        Read::RefusedFill,
        Read::EarlyRefresh,
        Read::LoadFailure,
        Read::StoreFailure,
    ];

    const ALL_CAUSES: [Cause; CAUSES.len()] =
        [Cause::Pushed, Cause::OwnWrite, Cause::Flushed, Cause::Lost, Cause::Expired];

    /// Counts the first event once, the second twice, and so on, then the causes the same way.
    fn count_each_differently(reads: &ReadRecorder) {
        for (at, event) in EVENTS.into_iter().enumerate() {
            (0..=at).for_each(|_| reads.count(event));
        }
        for (at, cause) in ALL_CAUSES.into_iter().enumerate() {
            (0..=at).for_each(|_| reads.invalidated(cause));
        }
        reads.age(place(), 3_000_000_000);
        reads.load_time(Duration::from_millis(20));
    }

    #[test]
    fn every_event_is_counted_in_the_field_of_its_name() {
        let recorder = Recorder::new(8);
        count_each_differently(&recorder.reads(b"user"));
        let stats = recorder.snapshot();
        assert_eq!(stats.reads.len(), 1);
        let user = &stats.reads["user"];
        assert_eq!((user.near_hits, user.shared_hits, user.stale_hits, user.misses), (1, 2, 3, 4));
        assert_eq!((user.loads, user.joined, user.lease_waits, user.takeovers), (5, 6, 7, 8));
        assert_eq!((user.refused_fills, user.early_refreshes), (9, 10));
        assert_eq!((user.load_failures, user.store_failures), (11, 12));
        let gone = user.invalidations;
        assert_eq!((gone.pushed, gone.own_write, gone.flushed), (1, 2, 3));
        assert_eq!((gone.lost, gone.expired, gone.total()), (4, 5, 15));
        assert_eq!((user.age.count(), user.age.mean()), (1, Duration::from_secs(3)));
        assert_eq!((user.load_time.count(), user.load_time.max()), (1, Duration::from_millis(20)));
        assert_eq!(user.hit_rate(), Some(0.6));
    }

    #[test]
    fn the_metrics_facade_shows_the_same_even_if_its_recorder_came_after_the_namespace() {
        use metrics_util::debugging::{DebugValue, DebuggingRecorder};

        let recorder = Recorder::new(8);
        let reads = recorder.reads(b"user");
        let installed = DebuggingRecorder::new();
        metrics::with_local_recorder(&installed, || count_each_differently(&reads));
        let mut seen = std::collections::HashMap::new();
        for (key, _, _, value) in installed.snapshotter().snapshot().into_vec() {
            let labels: Vec<&str> = key.key().labels().map(|label| label.value()).collect();
            let number = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Histogram(samples) => samples.iter().map(|one| one.0).sum(),
                DebugValue::Gauge(_) => unreachable!("there are no gauges"),
            };
            seen.insert(format!("{} {}", key.key().name(), labels.join(" ")), number);
        }
        for (at, metric) in METRICS.iter().enumerate() {
            assert_eq!(seen[&format!("{metric} user")], (at + 1) as f64, "{metric}");
        }
        for (at, cause) in CAUSES.iter().enumerate() {
            assert_eq!(seen[&format!("larder_invalidations_total user {cause}")], (at + 1) as f64);
        }
        assert_eq!(seen["larder_served_age_seconds user"], 3.0);
        assert_eq!(seen["larder_load_duration_seconds user"], 0.02);
    }

    #[test]
    fn a_namespace_without_an_event_is_not_listed_and_those_beyond_the_limit_are_counted_together()
    {
        let recorder = Recorder::new(2);
        let all: Vec<_> = [b"a", b"b", b"c", b"d"].map(|name| recorder.reads(name)).into();
        assert!(recorder.snapshot().reads.is_empty() && recorder.snapshot().namespaces.is_empty());
        for reads in &all[1..] {
            reads.count(Read::Miss);
        }
        recorder.reads(b"b").count(Read::Miss);
        let reads = recorder.snapshot().reads;
        assert_eq!(reads.keys().collect::<Vec<_>>(), [OTHER, "b"]);
        assert_eq!((reads["b"].misses, reads[OTHER].misses), (2, 2));
    }

    #[test]
    fn the_mean_load_time_follows_the_latest_loads_and_is_not_moved_far_by_one() {
        let reads = ReadRecorder::new("user".to_owned());
        assert_eq!(reads.mean_load_nanos(), 0);
        reads.load_time(Duration::from_millis(80));
        assert_eq!(reads.mean_load_nanos(), 80_000_000);
        reads.load_time(Duration::from_millis(160));
        assert_eq!(reads.mean_load_nanos(), 90_000_000);
        (0..200).for_each(|_| reads.load_time(Duration::from_micros(7)));
        assert_eq!(reads.mean_load_nanos(), 7_000);
        (0..200).for_each(|_| reads.load_time(Duration::from_micros(9)));
        assert_eq!(reads.mean_load_nanos(), 9_000);
    }

    #[test]
    fn nothing_is_lost_when_many_threads_count_at_once() {
        let recorder = Recorder::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let reads = recorder.reads(b"user");
                    for _ in 0..10_000 {
                        reads.count(Read::NearHit);
                        reads.age(place(), 1_000_000);
                    }
                });
            }
        });
        let user = &recorder.snapshot().reads["user"];
        assert_eq!((user.near_hits, user.age.count()), (80_000, 80_000));
    }
}

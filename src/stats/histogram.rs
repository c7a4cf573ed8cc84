//! Latencies in buckets that grow with what they hold: eight for each doubling, so that a quantile
//! is at most 12.5 % above the truth. Count, mean and maximum are exact.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cells::{Place, stripes};

/// Buckets for each doubling, as a power of two.
const PRECISION: u32 = 3;
const PER_DOUBLING: usize = 1 << PRECISION;
/// The last bucket begins at about 69 s; no deadline is that long.
const BUCKETS: usize = (36 - PRECISION as usize + 1) * PER_DOUBLING;

/// One thread's part.
#[repr(align(128))]
struct Stripe {
    nanos: AtomicU64,
    longest: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// Records latencies.
pub(super) struct Histogram(Box<[Stripe]>);

impl Histogram {
    pub(super) fn new() -> Self {
        let empty = || Stripe {
            nanos: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        };
        Self((0..stripes()).map(|_| empty()).collect())
    }

    pub(super) fn record(&self, place: Place, latency: Duration) {
        self.record_nanos(place, u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    #[inline]
    pub(super) fn record_nanos(&self, place: Place, nanos: u64) {
        let stripe = place.of(&self.0);
        place.add(&stripe.buckets[bucket(nanos)], 1);
        place.add(&stripe.nanos, nanos);
        // Most latencies are not the longest: look before writing.
        if nanos > stripe.longest.load(Ordering::Relaxed) {
            stripe.longest.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    pub(super) fn snapshot(&self) -> Latency {
        let mut buckets = vec![0; BUCKETS];
        for stripe in &self.0 {
            for (sum, one) in buckets.iter_mut().zip(&stripe.buckets) {
                *sum += one.load(Ordering::Relaxed);
            }
        }
        let of = |part: fn(&Stripe) -> &AtomicU64| {
            self.0.iter().map(move |stripe| part(stripe).load(Ordering::Relaxed))
        };
        Latency {
            count: buckets.iter().sum(),
            nanos: of(|stripe| &stripe.nanos).sum(),
            longest: of(|stripe| &stripe.longest).max().unwrap_or(0),
            buckets,
        }
    }
}

/// The bucket of a latency.
#[inline]
fn bucket(nanos: u64) -> usize {
    if nanos < PER_DOUBLING as u64 {
        return nanos as usize;
    }
    let doubling = nanos.ilog2() - PRECISION;
    let within = (nanos >> doubling) as usize - PER_DOUBLING;
    ((doubling as usize + 1) * PER_DOUBLING + within).min(BUCKETS - 1)
}

/// The longest latency that falls into a bucket.
fn upper_end(bucket: usize) -> u64 {
    if bucket < PER_DOUBLING {
        return bucket as u64;
    }
    let doubling = bucket / PER_DOUBLING - 1;
    let within = bucket % PER_DOUBLING;
    ((PER_DOUBLING + within + 1) as u64) << doubling
}

/// A distribution of latencies.
#[derive(Clone, PartialEq)]
pub struct Latency {
    count: u64,
    nanos: u64,
    longest: u64,
    buckets: Vec<u64>,
}

impl Latency {
    pub(super) fn nothing() -> Self {
        Self { count: 0, nanos: 0, longest: 0, buckets: vec![0; BUCKETS] }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.nanos += other.nanos;
        self.longest = self.longest.max(other.longest);
        for (sum, one) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += one;
        }
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The exact mean; zero before the first.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.nanos.checked_div(self.count).unwrap_or(0))
    }

    /// The exact maximum; zero before the first.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }

    /// The latency that the share `quantile` (0 to 1) of all calls did not exceed: at most 12.5 %
    /// above the truth, never above the maximum; zero before the first.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                let end = if bucket == BUCKETS - 1 { u64::MAX } else { upper_end(bucket) };
                return Duration::from_nanos(end.min(self.longest));
            }
        }
        self.max()
    }
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count)
            .field("mean", &self.mean())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::cells::place;

    #[test]
    fn a_bucket_holds_what_lies_between_its_ends() {
        let mut probes: Vec<u64> =
            (0..36).flat_map(|bit| [1 << bit, (1 << bit) + 1, (1 << bit) * 7 / 4]).collect();
        probes.extend(0..1000);
        for nanos in probes {
            let bucket = bucket(nanos);
            assert!(nanos <= upper_end(bucket), "{nanos} in {bucket}");
            assert!(
                bucket == 0 || nanos > 0 && upper_end(bucket - 1) <= nanos,
                "{nanos} in {bucket}"
            );
            assert!(upper_end(bucket) as f64 <= nanos as f64 * 1.125 + 1.0, "{nanos} in {bucket}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_close_and_mean_and_maximum_exact() {
        let histogram = Histogram::new();
        assert_eq!(histogram.snapshot().quantile(0.5), Duration::ZERO);
        for millis in 1..=1000 {
            histogram.record(place(), Duration::from_millis(millis));
        }
        let latency = histogram.snapshot();
        assert_eq!(latency.count(), 1000);
        assert_eq!(latency.mean(), Duration::from_micros(500_500));
        assert_eq!(latency.max(), Duration::from_millis(1000));
        for (quantile, truth) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0)] {
            let millis = latency.quantile(quantile).as_secs_f64() * 1000.0;
            assert!((truth..=truth * 1.125).contains(&millis), "p{quantile}: {millis}");
        }
        assert_eq!(latency.quantile(1.0), latency.max());
    }
}

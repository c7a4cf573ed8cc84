//! Counters that threads do not fight over: each adds to a stripe of its own.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// More stripes than this cost memory and save nothing that was measured.
const MOST_STRIPES: usize = 16;

/// Where a thread counts. Asked for once for all that a call counts.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Its stripe, from 0 to [`stripes`] - 1.
    stripe: usize,
    /// Whether nobody else counts there.
    alone: bool,
}

/// Where this thread counts.
///
/// The first threads to count have a stripe each for good, which they need not lock; all others share the
/// last one.
#[inline]
pub(crate) fn place() -> Place {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<Option<Place>> = const { Cell::new(None) };
    }
    MINE.get().unwrap_or_else(|| {
        let shared = stripes() - 1;
        let stripe = NEXT.fetch_add(1, Ordering::Relaxed).min(shared);
        let place = Place { stripe, alone: stripe != shared };
        MINE.set(Some(place));
        place
    })
}

impl Place {
    /// That of the thread with this number.
    #[cfg(test)]
    pub(crate) fn numbered(stripe: usize) -> Self {
        Self { stripe, alone: false }
    }

    /// Its number, below [`stripes`].
    #[inline]
    pub(crate) fn index(self) -> usize {
        self.stripe
    }

    /// This thread's part of what is striped.
    #[inline]
    pub(crate) fn of<T>(self, stripes: &[T]) -> &T {
        &stripes[self.stripe]
    }

    /// Adds to a counter of this thread's part.
    #[inline]
    pub(super) fn add(self, counter: &AtomicU64, amount: u64) {
        if self.alone {
            // Nobody else writes here: a third of the time of an atomic addition.
            let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
            counter.store(sum, Ordering::Relaxed);
        } else {
            counter.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

/// How many stripes there are: about one for each core.
pub(crate) fn stripes() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One more for the main thread, which often uses a client as well, and one for all others.
        (cores + 2).min(MOST_STRIPES)
    })
}

/// A stripe's counters, alone on their cache lines.
#[repr(align(128))]
struct Padded<const N: usize>([AtomicU64; N]);

/// `N` counters, striped.
pub(super) struct Striped<const N: usize>(Box<[Padded<N>]>);

impl<const N: usize> Striped<N> {
    pub(super) fn new() -> Self {
        Self((0..stripes()).map(|_| Padded([const { AtomicU64::new(0) }; N])).collect())
    }

    #[inline]
    pub(super) fn add(&self, place: Place, counter: usize, amount: u64) {
        place.add(&place.of(&self.0).0[counter], amount);
    }

    pub(super) fn sum(&self, counter: usize) -> u64 {
        self.0.iter().map(|stripe| stripe.0[counter].load(Ordering::Relaxed)).sum()
    }
}

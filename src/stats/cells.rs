//! Counters that threads do not fight over: each adds to a stripe of its own.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// More stripes than this cost memory and save nothing that was measured.
const MOST_STRIPES: usize = 16;

/// The stripe of this thread, from 0 to [`stripes`] - 1.
pub(super) fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % stripes());
        }
        mine.get()
    })
}

/// How many stripes there are: about one for each core.
pub(super) fn stripes() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // One more than cores: a client is often used from the main thread as well.
        (cores + 1).next_power_of_two().min(MOST_STRIPES)
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

    pub(super) fn add(&self, counter: usize, amount: u64) {
        self.0[stripe()].0[counter].fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn sum(&self, counter: usize) -> u64 {
        self.0.iter().map(|stripe| stripe.0[counter].load(Ordering::Relaxed)).sum()
    }
}

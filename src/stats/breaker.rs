//! The breaker: how often the store did not answer, and what that spared the callers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts for the breaker of one client. Nothing of it is on the way of a call that is answered.
#[derive(Default)]
pub(crate) struct BreakerRecorder {
    opened: AtomicU64,
    refused: AtomicU64,
    is_open: AtomicBool,
    // Registered at the first event, as those of locks.
    seen: OnceLock<[metrics::Counter; 2]>,
}

impl BreakerRecorder {
    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.seen()[0].increment(1);
    }

    pub(crate) fn is_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.seen()[1].increment(1);
    }

    fn seen(&self) -> &[metrics::Counter; 2] {
        self.seen.get_or_init(|| {
            ["larder_breaker_opened_total", "larder_breaker_refused_total"]
                .map(|metric| metrics::counter!(metric))
        })
    }

    pub(crate) fn snapshot(&self) -> BreakerStats {
        BreakerStats {
            opened: self.opened.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            is_open: self.is_open.load(Ordering::Relaxed),
        }
    }
}

/// What the breaker of a client did: see [`Builder::breaker`](crate::Builder::breaker).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BreakerStats {
    /// How often it opened; in a cluster, for each node by itself.
    pub opened: u64,
    /// How many calls it failed at once. They are counted among the errors of their operations as well.
    pub refused: u64,
    /// Whether it is open at the moment; in a cluster, for any node.
    pub is_open: bool,
}

//! Vouching: a store's promise to tell of changes, for as long as it can keep it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A store's promise to tell the sinks of every change to what it answered under it. Once it has ended, what
/// was kept on its strength is void, at once and without anybody being told.
///
/// One vouch stands for one connection and one stretch of time (an epoch); its clones end together.
#[derive(Debug, Clone)]
pub struct Vouch(Arc<AtomicBool>);

impl Vouch {
    /// A promise that holds.
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Whether it still holds.
    pub fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Ends it.
    pub fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether both are the same promise.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Default for Vouch {
    fn default() -> Self {
        Self::new()
    }
}

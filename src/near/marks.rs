//! Marks: which keys are being read and written at the moment, so that nothing is kept that changed on its way.
//!
//! Everything that is done to a key's entry is done under the lock of its mark: keeping what was read, and
//! removing it when the key changes. So a change either comes before the read is kept, and poisons its mark, or
//! after, and removes what was kept.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use quick_cache::DefaultHashBuilder;

/// Enough that a flood of changes and a hundred readers seldom meet.
const STRIPES: usize = 64;

/// A lock, so that schedules of another one can be explored.
pub(crate) trait Lock<T> {
    fn new(value: T) -> Self;
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // Nothing that can panic runs under it.
        work(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The keys of a stripe that are being read or written.
#[derive(Default)]
pub(crate) struct Stripe(HashMap<Bytes, State>);

#[derive(Default)]
struct State {
    // The reads whose answers may be kept.
    readers: Vec<u64>,
    writers: usize,
}

impl Stripe {
    fn tidy(&mut self, key: &[u8]) {
        if self.0.get(key).is_some_and(|state| state.readers.is_empty() && state.writers == 0) {
            self.0.remove(key);
        }
    }
}

/// A read in flight.
pub(super) struct Mark {
    key: Bytes,
    number: u64,
}

impl Mark {
    pub(super) fn key(&self) -> &Bytes {
        &self.key
    }
}

/// The marks of a near cache.
pub(super) struct Marks<L> {
    stripes: Box<[L]>,
    hasher: DefaultHashBuilder,
    next: AtomicU64,
}

impl<L: Lock<Stripe>> Marks<L> {
    pub(super) fn new() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| L::new(Stripe::default())).collect(),
            hasher: DefaultHashBuilder::default(),
            next: AtomicU64::new(0),
        }
    }

    fn stripe(&self, key: &[u8]) -> &L {
        &self.stripes[self.hasher.hash_one(key) as usize % STRIPES]
    }

    /// A read is about to be sent.
    pub(super) fn begin_read(&self, key: &Bytes) -> Mark {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.stripe(key).with(|stripe| {
            stripe.0.entry(key.clone()).or_default().readers.push(number);
        });
        Mark { key: key.clone(), number }
    }

    /// A read was answered: `keep` runs if the key neither changed meanwhile nor is being written.
    pub(super) fn finish_read(&self, mark: &Mark, keep: impl FnOnce() -> bool) -> bool {
        self.stripe(&mark.key).with(|stripe| {
            let unchanged = stripe
                .0
                .get(&mark.key)
                .is_some_and(|state| state.writers == 0 && state.readers.contains(&mark.number));
            unchanged && keep()
        })
    }

    /// A read is over, whatever came of it.
    pub(super) fn give_up(&self, mark: &Mark) {
        self.stripe(&mark.key).with(|stripe| {
            if let Some(state) = stripe.0.get_mut(&mark.key) {
                state.readers.retain(|number| *number != mark.number);
            }
            stripe.tidy(&mark.key);
        });
    }

    /// A key changed: what was read of it before is not kept, and `remove` takes away what was.
    pub(super) fn change(&self, key: &[u8], remove: impl FnOnce()) {
        self.stripe(key).with(|stripe| {
            if let Some(state) = stripe.0.get_mut(key) {
                state.readers.clear();
            }
            stripe.tidy(key);
            remove();
        });
    }

    /// Every key may have changed.
    pub(super) fn change_all(&self) {
        for stripe in &self.stripes {
            stripe.with(|stripe| {
                stripe.0.retain(|_, state| {
                    state.readers.clear();
                    state.writers > 0
                });
            });
        }
    }

    /// An own write is about to be sent.
    pub(super) fn begin_write(&self, key: &Bytes, remove: impl FnOnce()) {
        self.stripe(key).with(|stripe| {
            let state = stripe.0.entry(key.clone()).or_default();
            state.readers.clear();
            state.writers += 1;
            remove();
        });
    }

    /// An own write is over: what was read during it may be what was there before.
    pub(super) fn end_write(&self, key: &Bytes, remove: impl FnOnce()) {
        self.stripe(key).with(|stripe| {
            if let Some(state) = stripe.0.get_mut(key) {
                state.readers.clear();
                state.writers -= 1;
            }
            stripe.tidy(key);
            remove();
        });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.with(|stripe| stripe.0.len())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_reads_or_writes_has_no_mark() {
        let marks = Marks::<Mutex<Stripe>>::new();
        let key = Bytes::from_static(b"k");
        let (one, other) = (marks.begin_read(&key), marks.begin_read(&key));
        assert_eq!(marks.len(), 1);
        assert!(marks.finish_read(&one, || true));
        marks.give_up(&one);
        marks.change(&key, || {});
        assert!(!marks.finish_read(&other, || true), "the key changed meanwhile");
        marks.give_up(&other);
        assert_eq!(marks.len(), 0);
        marks.begin_write(&key, || {});
        let during = marks.begin_read(&key);
        assert!(!marks.finish_read(&during, || true), "the key is being written");
        marks.change_all();
        assert_eq!(marks.len(), 1, "a write is not forgotten");
        marks.end_write(&key, || {});
        marks.give_up(&during);
        assert_eq!(marks.len(), 0);
    }
}

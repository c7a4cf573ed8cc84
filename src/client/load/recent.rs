//! How keys were read last, in a small table that forgets.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::DefaultHashBuilder;

/// How many keys are remembered, at most.
const REMEMBERED: usize = 4096;

/// Where a read got its value from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadFrom {
    /// From the near cache.
    Near,
    /// From the store.
    Shared,
    /// A value past its time to live, within its grace.
    Stale,
    /// From a load of somebody else's, in this process or another, which it waited for.
    Waited,
    /// From the loader.
    Loaded,
    /// There was nothing, and nothing was loaded.
    Missing,
}

const ALL: [ReadFrom; 6] = [
    ReadFrom::Near,
    ReadFrom::Shared,
    ReadFrom::Stale,
    ReadFrom::Waited,
    ReadFrom::Loaded,
    ReadFrom::Missing,
];

/// The last reads. A word holds the hash of a key with the outcome in its lowest bits, in the place that
/// the hash says; whoever comes later has it.
pub(crate) struct Recent {
    words: Box<[AtomicU64]>,
    // A quick one with a seed of its own: two keys that meet in it forget each other, no more.
    hasher: DefaultHashBuilder,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            words: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Recent {
    #[inline]
    pub(crate) fn note(&self, key: &[u8], from: ReadFrom) {
        let hash = self.hash(key);
        let at = ALL.iter().position(|one| *one == from).unwrap_or_default();
        let word = hash | (at as u64 + 1);
        let place = self.place(hash);
        // A hot key is read from one place over and over: that writes nothing.
        if place.load(Ordering::Relaxed) != word {
            place.store(word, Ordering::Relaxed);
        }
    }

    pub(crate) fn look(&self, key: &[u8]) -> Option<ReadFrom> {
        let hash = self.hash(key);
        let word = self.place(hash).load(Ordering::Relaxed);
        let from = (word & 7).checked_sub(1)?;
        (word & !7 == hash).then(|| ALL.get(from as usize).copied())?
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key) & !7
    }

    fn place(&self, hash: u64) -> &AtomicU64 {
        &self.words[(hash >> 3) as usize % REMEMBERED]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_read_of_a_key_is_known_and_a_key_that_was_not_read_is_not() {
        let recent = Recent::default();
        for from in ALL {
            recent.note(b"a", from);
            assert_eq!(recent.look(b"a"), Some(from));
        }
        assert_eq!(recent.look(b"b"), None);
    }
}

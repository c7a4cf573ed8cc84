//! How keys were read last, in small tables that forget.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::near::Hashes;
use crate::stats::{Place, stripes};

/// How many keys a thread remembers at most: its table fits into the smallest cache of a core beside what it serves.
const REMEMBERED: usize = 1024;

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

/// The last reads, of each thread in a part of its own: cores that wrote to one table would wait for each other. A word
/// stands in the place that the hash of its key says, and whoever comes later has it. It holds the rest of the hash, and
/// how the key was read.
///
/// The latest word of a key is found without a time: a hit of the near cache, which must cost next to nothing, writes down
/// itself alone; any other read takes the key out of the parts of the others. So where there is a hit beside another
/// read, the hit came after it. Of reads that were written down at the same moment either may be told.
pub(crate) struct Recent {
    parts: Box<[Part]>,
    hashes: Hashes,
}

/// A thread's part, alone on its cache lines.
#[repr(align(128))]
struct Part([AtomicU64; REMEMBERED]);

/// The lowest bits of a word are the outcome, zero for none. The rest is of the hash, whose lowest bits are in the place: two
/// keys are taken for each other if all of their hashes agree.
const OUTCOMES: u64 = 7;

impl Recent {
    pub(crate) fn new(hashes: Hashes) -> Self {
        let part = || Part([const { AtomicU64::new(0) }; REMEMBERED]);
        Self { parts: (0..stripes()).map(|_| part()).collect(), hashes }
    }

    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hashes.of(key)
    }

    #[inline]
    pub(crate) fn note(&self, place: Place, hash: u64, from: ReadFrom) {
        if from != ReadFrom::Near {
            self.forget(hash);
        }
        let at = ALL.iter().position(|one| *one == from).unwrap_or_default();
        let word = (hash & !OUTCOMES) | (at as u64 + 1);
        self.word(place.of(&self.parts), hash).store(word, Ordering::Relaxed);
    }

    fn forget(&self, hash: u64) {
        for part in &self.parts {
            let word = self.word(part, hash);
            if word.load(Ordering::Relaxed) & !OUTCOMES == hash & !OUTCOMES {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn look(&self, key: &[u8]) -> Option<ReadFrom> {
        let hash = self.hash(key);
        let words = self.parts.iter().map(|part| self.word(part, hash).load(Ordering::Relaxed));
        let mine = words.filter(|word| word & !OUTCOMES == hash & !OUTCOMES);
        // A hit is the first of them.
        let latest = mine.map(|word| word & OUTCOMES).filter(|outcome| *outcome > 0).min()?;
        ALL.get(latest as usize - 1).copied()
    }

    #[inline]
    fn word<'a>(&self, part: &'a Part, hash: u64) -> &'a AtomicU64 {
        &part.0[hash as usize % REMEMBERED]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::place;

    fn recent() -> Recent {
        Recent::new(Hashes::default())
    }

    #[test]
    fn the_last_read_of_a_key_is_known_and_a_key_that_was_not_read_is_not() {
        let recent = recent();
        for from in ALL {
            recent.note(place(), recent.hash(b"a"), from);
            assert_eq!(recent.look(b"a"), Some(from));
        }
        assert_eq!(recent.look(b"b"), None);
    }

    #[test]
    fn of_the_reads_of_several_threads_the_latest_is_known() {
        let recent = recent();
        let last = stripes() - 1;
        let note = |part, from| {
            recent.note(Place::numbered(part), recent.hash(b"a"), from);
            assert_eq!(recent.look(b"a"), Some(from));
        };
        for (one, other) in ALL.iter().flat_map(|one| ALL.map(|other| (*one, other))) {
            note(0, one);
            note(last, other);
            note(0, one);
        }
    }
}

//! How keys were read last, in small tables that forget.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::near::{Clock, Hashes, Sight};
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
/// stands in the place that the hash of its key says, and whoever comes later has it. It holds the rest of the hash, when
/// the key was read, so that the latest word of all parts is found, and how.
pub(crate) struct Recent {
    parts: Box<[Part]>,
    hashes: Hashes,
    clock: Clock,
}

/// A thread's part, alone on its cache lines.
#[repr(align(128))]
struct Part([AtomicU64; REMEMBERED]);

/// The lowest bits of a word are the outcome, zero for none. Above stands the time in 1,024 nanoseconds, which begins
/// anew after two hours and a half; the rest is of the hash: two keys that meet in it forget each other, no more.
const OUTCOME: u32 = 3;
const TIME: u32 = 33;

impl Recent {
    pub(crate) fn new((hashes, clock): (Hashes, Clock)) -> Self {
        let part = || Part([const { AtomicU64::new(0) }; REMEMBERED]);
        Self { parts: (0..stripes()).map(|_| part()).collect(), hashes, clock }
    }

    /// A key as it is seen now.
    pub(crate) fn sight(&self, key: &[u8]) -> Sight {
        Sight { hash: self.hashes.of(key), at: self.clock.at(Instant::now()) }
    }

    #[inline]
    pub(crate) fn note(&self, place: Place, sight: Sight, from: ReadFrom) {
        let at = ALL.iter().position(|one| *one == from).unwrap_or_default();
        let word = tag(sight.hash) | time(sight.at) << OUTCOME | (at as u64 + 1);
        self.word(place.of(&self.parts), sight.hash).store(word, Ordering::Relaxed);
    }

    pub(crate) fn look(&self, key: &[u8]) -> Option<ReadFrom> {
        let Sight { hash, at } = self.sight(key);
        let words = self.parts.iter().map(|part| self.word(part, hash).load(Ordering::Relaxed));
        let mine = words.filter(|word| {
            *word & OUTCOMES != 0 && *word >> (TIME + OUTCOME) == tag(hash) >> (TIME + OUTCOME)
        });
        let latest = mine.min_by_key(|word| time(at).wrapping_sub(*word >> OUTCOME) & TIMES)?;
        ALL.get((latest & OUTCOMES) as usize - 1).copied()
    }

    #[inline]
    fn word<'a>(&self, part: &'a Part, hash: u64) -> &'a AtomicU64 {
        &part.0[hash as usize % REMEMBERED]
    }
}

const OUTCOMES: u64 = (1 << OUTCOME) - 1;
const TIMES: u64 = (1 << TIME) - 1;

#[inline]
fn tag(hash: u64) -> u64 {
    hash & !(TIMES << OUTCOME | OUTCOMES)
}

#[inline]
fn time(nanos: u64) -> u64 {
    (nanos >> 10) & TIMES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::place;

    fn recent() -> Recent {
        Recent::new((Hashes::default(), Clock::new()))
    }

    #[test]
    fn the_last_read_of_a_key_is_known_and_a_key_that_was_not_read_is_not() {
        let recent = recent();
        for from in ALL {
            recent.note(place(), recent.sight(b"a"), from);
            assert_eq!(recent.look(b"a"), Some(from));
        }
        assert_eq!(recent.look(b"b"), None);
    }

    #[test]
    fn of_the_reads_of_several_threads_the_latest_is_known() {
        let recent = recent();
        for round in 0..100 {
            let from = ALL[round % ALL.len()];
            let note = || recent.note(place(), recent.sight(b"a"), from);
            if round % 2 == 0 {
                note()
            } else {
                std::thread::scope(|all| all.spawn(note).join()).unwrap()
            }
            assert_eq!(recent.look(b"a"), Some(from), "round {round}");
            // Words do not tell times that are closer.
            let noted = Instant::now();
            while noted.elapsed() < std::time::Duration::from_micros(2) {}
        }
    }

    #[test]
    fn a_time_that_begins_anew_is_later_than_the_one_before() {
        let recent = recent();
        let before = 1_u64 << (TIME + 10);
        let Sight { hash, at } = recent.sight(b"a");
        let turns = |at: u64| Sight { hash, at };
        let parts = [turns(at.wrapping_sub(5_000_000).wrapping_add(before)), turns(at)];
        for (part, (sight, from)) in
            recent.parts.iter().zip(parts.into_iter().zip([ReadFrom::Shared, ReadFrom::Near]))
        {
            let word =
                tag(hash) | time(sight.at) << OUTCOME | if from == ReadFrom::Near { 1 } else { 2 };
            recent.word(part, hash).store(word, Ordering::Relaxed);
        }
        assert_eq!(recent.look(b"a"), Some(ReadFrom::Near));
    }
}

//! When locks were held: what the processes wrote down, and what it shows.

use crate::Result;

/// One time that a lock was taken and given back, in nanoseconds of the clock that all share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cycle {
    pub(super) begun: u64,
    /// Just after it was taken.
    pub(super) taken: u64,
    /// Just before it was given back.
    pub(super) given: u64,
}

impl Cycle {
    /// One contender's cycles, as a worker says them.
    pub(super) fn line(cycles: &[Self]) -> String {
        let words: Vec<String> = cycles
            .iter()
            .map(|cycle| format!("{} {} {}", cycle.begun, cycle.taken, cycle.given))
            .collect();
        words.join(" ")
    }

    fn parse(line: &str) -> Result<Vec<Self>> {
        let numbers: Vec<u64> =
            line.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
        let (cycles, rest) = numbers.as_chunks::<3>();
        if !rest.is_empty() {
            return Err("a worker answered nonsense".into());
        }
        Ok(cycles.iter().map(|&[begun, taken, given]| Self { begun, taken, given }).collect())
    }
}

/// What all contenders of a round did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contention {
    pub(super) cycles: u64,
    /// Of the contender that got the lock least often.
    pub(super) fewest: u64,
    pub(super) wall: u64,
    pub(super) worst_wait: u64,
    pub(super) overlaps: u64,
    /// How often the number was written although somebody else had written it meanwhile.
    pub(super) lost_updates: u64,
}

impl Contention {
    /// Of the answers of all processes, and what the number came to. Cycles that ended after `until` count as waits, and
    /// as holds that may overlap, but not as throughput.
    pub(super) fn of(answers: &[String], number: u64, until: u64) -> Result<Self> {
        let contenders: Vec<Vec<Cycle>> = answers
            .iter()
            .flat_map(|answer| answer.split(';'))
            .map(Cycle::parse)
            .collect::<Result<_>>()?;
        let in_time =
            |cycles: &Vec<Cycle>| cycles.iter().filter(|cycle| cycle.given <= until).count() as u64;
        let fewest = contenders.iter().map(in_time).min().unwrap_or(0);
        let cycles = contenders.iter().map(in_time).sum();
        let mut all: Vec<Cycle> = contenders.into_iter().flatten().collect();
        all.sort_by_key(|cycle| cycle.taken);
        let first = all.iter().map(|cycle| cycle.begun).min().ok_or("nobody got the lock")?;
        let (mut last, mut overlaps) = (first, 0);
        for cycle in &all {
            overlaps += u64::from(cycle.taken < last);
            last = last.max(cycle.given);
        }
        let waits = all.iter().map(|cycle| cycle.taken - cycle.begun);
        Ok(Self {
            cycles,
            fewest,
            wall: last.min(until) - first,
            worst_wait: waits.max().unwrap_or(0),
            overlaps,
            lost_updates: (all.len() as u64).saturating_sub(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_seen_and_what_only_touches_is_none() {
        let answers = ["10 11 20 20 20 30;5 31 33".to_owned(), "6 32 40".to_owned()];
        let seen = Contention::of(&answers, 3, u64::MAX).unwrap();
        assert_eq!((seen.cycles, seen.fewest, seen.overlaps, seen.lost_updates), (4, 1, 1, 1));
        assert_eq!((seen.wall, seen.worst_wait), (35, 26));
        let seen = Contention::of(&answers, 4, 33).unwrap();
        assert_eq!((seen.cycles, seen.fewest, seen.wall), (3, 0, 28));
        assert_eq!((seen.overlaps, seen.lost_updates), (1, 0));
    }
}

//! Namespaces by name: a table of fixed size, read without a lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::cells::{Place, Striped};
use super::{NamespaceStats, OTHER, ReadRecorder, ReadStats};

/// Names are shown up to this length.
const SHOWN: usize = 64;

/// How much of a name is kept: what is shown, in characters of any width.
const KEPT: usize = 4 * SHOWN;

/// How many bytes of a name are compared at once.
const HEAD: usize = 8;

const HITS: usize = 0;
const MISSES: usize = 1;
const ERRORS: usize = 2;
const BYTES_READ: usize = 3;
const BYTES_WRITTEN: usize = 4;

/// One namespace's counters, here and in the `metrics` facade.
pub(super) struct Slot {
    // The name's first bytes, which tell most names apart and are most names as a whole.
    head: u64,
    name: Box<[u8]>,
    counters: Striped<5>,
    seen: [metrics::Counter; 5],
    // Most namespaces are only counted by what the store is asked.
    reads: OnceLock<Arc<ReadRecorder>>,
}

impl Slot {
    fn new(name: &[u8]) -> Self {
        let label = shown(name);
        let counter =
            |metric: &'static str| metrics::counter!(metric, "namespace" => label.clone());
        Self {
            head: head(name),
            name: name.into(),
            counters: Striped::new(),
            seen: [
                counter("larder_hits_total"),
                counter("larder_misses_total"),
                counter("larder_errors_total"),
                counter("larder_read_bytes_total"),
                counter("larder_written_bytes_total"),
            ],
            reads: OnceLock::new(),
        }
    }

    fn is(&self, head: u64, name: &[u8]) -> bool {
        self.head == head
            && self.name.len() == name.len()
            && (name.len() <= HEAD || self.name[HEAD..] == name[HEAD..])
    }

    fn add(&self, place: Place, counter: usize, amount: u64) {
        self.counters.add(place, counter, amount);
        self.seen[counter].increment(amount);
    }

    /// A read that found so many bytes, or nothing.
    pub(super) fn read(&self, place: Place, found: Option<usize>) {
        match found {
            Some(bytes) => {
                self.add(place, HITS, 1);
                self.took(place, bytes);
            }
            None => self.add(place, MISSES, 1),
        }
    }

    /// Bytes that came without being a hit.
    pub(super) fn took(&self, place: Place, bytes: usize) {
        self.add(place, BYTES_READ, bytes as u64);
    }

    pub(super) fn wrote(&self, place: Place, bytes: usize) {
        self.add(place, BYTES_WRITTEN, bytes as u64);
    }

    pub(super) fn failed(&self, place: Place) {
        self.add(place, ERRORS, 1);
    }

    /// Where its reads are counted.
    pub(super) fn reads(&self) -> Arc<ReadRecorder> {
        Arc::clone(self.reads.get_or_init(|| Arc::new(ReadRecorder::new(shown(&self.name)))))
    }
}

/// At most so many namespaces by name, and the rest in one.
pub(super) struct Table {
    slots: Box<[OnceLock<Slot>]>,
    // How many are taken. Held while one is added: two threads with one new name take one slot.
    used: Mutex<usize>,
    // Set behind the last slot, so that nobody waits once there is nothing to add any more.
    full: AtomicBool,
    limit: usize,
    other: OnceLock<Slot>,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        // Half empty, so that a search ends after a step or two.
        let size = (limit.max(1) * 2).next_power_of_two();
        Self {
            slots: (0..size).map(|_| OnceLock::new()).collect(),
            used: Mutex::new(0),
            full: AtomicBool::new(limit == 0),
            limit,
            other: OnceLock::new(),
        }
    }

    pub(super) fn slot(&self, name: &[u8]) -> &Slot {
        let name = &name[..name.len().min(KEPT)];
        match self.find(name) {
            Ok(slot) => slot,
            Err(_) => self
                .add(name)
                .unwrap_or_else(|| self.other.get_or_init(|| Slot::new(OTHER.as_bytes()))),
        }
    }

    /// The slot of a name, or the free one where it belongs. Some are always free.
    fn find(&self, name: &[u8]) -> Result<&Slot, &OnceLock<Slot>> {
        let head = head(name);
        let mut at = hash(head, name);
        loop {
            let place = &self.slots[at & (self.slots.len() - 1)];
            match place.get() {
                Some(slot) if slot.is(head, name) => return Ok(slot),
                Some(_) => at = at.wrapping_add(1),
                None => return Err(place),
            }
        }
    }

    fn add(&self, name: &[u8]) -> Option<&Slot> {
        if self.full.load(Ordering::Acquire) {
            // The last one may have been this name, since it was looked for.
            return self.find(name).ok();
        }
        // A recorder that panics leaves the number as it was.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match self.find(name) {
            Ok(slot) => Some(slot),
            Err(_) if *used == self.limit => None,
            Err(free) => {
                let slot = free.get_or_init(|| Slot::new(name));
                *used += 1;
                self.full.store(*used == self.limit, Ordering::Release);
                Some(slot)
            }
        }
    }

    /// The lines of the namespaces that counted something, and of those that counted reads.
    pub(super) fn snapshot(
        &self,
    ) -> (BTreeMap<String, NamespaceStats>, BTreeMap<String, ReadStats>) {
        let mut all = BTreeMap::<String, NamespaceStats>::new();
        let mut reads = BTreeMap::<String, ReadStats>::new();
        for slot in self.slots.iter().chain([&self.other]).filter_map(OnceLock::get) {
            // Names that differ behind what is shown share a line.
            let line = all.entry(shown(&slot.name)).or_default();
            line.hits += slot.counters.sum(HITS);
            line.misses += slot.counters.sum(MISSES);
            line.errors += slot.counters.sum(ERRORS);
            line.bytes_read += slot.counters.sum(BYTES_READ);
            line.bytes_written += slot.counters.sum(BYTES_WRITTEN);
            if let Some(recorder) = slot.reads.get() {
                let line = reads.entry(shown(&slot.name)).or_insert_with(ReadStats::nothing);
                recorder.add_to(line);
            }
        }
        // A namespace takes its place before anything happens in it.
        all.retain(|_, line| *line != NamespaceStats::default());
        let nothing = ReadStats::nothing();
        reads.retain(|_, line| *line != nothing);
        (all, reads)
    }
}

/// A name as text without control characters.
fn shown(name: &[u8]) -> String {
    // What is kept of a longer name may end within a character.
    let whole = match std::str::from_utf8(name) {
        Err(error) if name.len() == KEPT && error.error_len().is_none() => error.valid_up_to(),
        _ => name.len(),
    };
    match std::str::from_utf8(&name[..whole]) {
        Ok(text) => text
            .chars()
            .take(SHOWN)
            .map(|one| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one })
            .collect(),
        Err(_) => name[..name.len().min(SHOWN)].escape_ascii().to_string(),
    }
}

/// The first bytes of a name as a number; zeros stand for those that a shorter name lacks.
fn head(name: &[u8]) -> u64 {
    if let Some(head) = name.first_chunk() {
        return u64::from_le_bytes(*head);
    }
    // Two halves that overlap, or single bytes: without a loop.
    match (name.first_chunk(), name.last_chunk(), name) {
        (Some(first), Some(last), _) => {
            let [first, last] = [first, last].map(|half| u64::from(u32::from_le_bytes(*half)));
            first | last << (8 * (name.len() - 4))
        }
        (_, _, [first, rest @ ..]) => {
            let byte = |at| u64::from(rest.get(at).copied().unwrap_or(0));
            u64::from(*first) | byte(0) << 8 | byte(1) << 16
        }
        _ => 0,
    }
}

/// Eight bytes at a time: names are short, and who chooses them gains nothing by making them collide but a
/// slow search of a small table.
fn hash(first: u64, name: &[u8]) -> usize {
    let mix =
        |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let mut hash = mix(name.len() as u64, first);
    for chunk in name.chunks(HEAD).skip(1) {
        hash = mix(hash, head(chunk));
    }
    (hash ^ (hash >> 32)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::cells::place;

    #[test]
    fn names_beyond_the_limit_are_counted_together() {
        let table = Table::new(3);
        for name in ["a", "b", "c", "d", "e", "a"] {
            table.slot(name.as_bytes()).read(place(), Some(10));
        }
        let (all, _) = table.snapshot();
        assert_eq!(all.len(), 4);
        assert_eq!(all["a"].hits, 2);
        assert_eq!(all[OTHER].hits, 2);
        assert_eq!(all[OTHER].bytes_read, 20);
    }

    #[test]
    fn threads_that_meet_at_the_last_free_place_do_not_drive_each_other_into_the_rest() {
        for _ in 0..2000 {
            let (table, start) = (Table::new(1), std::sync::Barrier::new(4));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        table.slot(b"a").read(place(), None);
                    });
                }
            });
            let (all, _) = table.snapshot();
            assert_eq!((all.len(), all["a"].misses), (1, 4));
        }
    }

    #[test]
    fn names_that_differ_in_one_byte_or_in_length_are_told_apart() {
        let table = Table::new(1000);
        let mut names: Vec<Vec<u8>> = (0..=40).map(|length| vec![0; length]).collect();
        for length in 1..=40 {
            for at in 0..length {
                let mut name = vec![0; length];
                name[at] = 1;
                names.push(name);
            }
        }
        for name in &names {
            assert!(!std::ptr::eq(table.slot(name), table.slot(OTHER.as_bytes())));
            assert_eq!(&*table.slot(name).name, &**name);
            table.slot(name).read(place(), None);
        }
        for name in &names {
            assert_eq!(table.slot(name).counters.sum(MISSES), 1, "{name:?}");
        }
    }

    #[test]
    fn of_a_long_name_only_what_is_shown_is_kept() {
        let table = Table::new(3);
        for name in ["ä".repeat(1_000_000), "🧀".repeat(1_000_000), "a🧀".repeat(1_000_000)] {
            assert!(table.slot(name.as_bytes()).name.len() <= KEPT);
            let shown = shown(&table.slot(name.as_bytes()).name);
            assert_eq!(shown, name.chars().take(SHOWN).collect::<String>());
        }
        table.slot(&[0xff; 1_000_000]).read(place(), None);
        assert!(table.snapshot().0.keys().all(|name| name.len() <= 4 * SHOWN));
    }

    #[test]
    fn a_name_cannot_reach_a_terminal_with_its_control_characters() {
        let table = Table::new(3);
        table.slot(b"\x1b[31m").read(place(), None);
        assert!(table.snapshot().0.keys().all(|name| !name.contains('\x1b')));
    }
}

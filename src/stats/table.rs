//! Namespaces by name: a table of fixed size, read without a lock.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cells::Striped;
use super::{NamespaceStats, OTHER};

/// Names are shown up to this length.
const SHOWN: usize = 64;

/// How much of a name is kept: what is shown, in characters of any width.
const KEPT: usize = 4 * SHOWN;

const HITS: usize = 0;
const MISSES: usize = 1;
const ERRORS: usize = 2;
const BYTES_READ: usize = 3;
const BYTES_WRITTEN: usize = 4;

/// One namespace's counters, here and in the `metrics` facade.
pub(super) struct Slot {
    name: Box<[u8]>,
    counters: Striped<5>,
    seen: [metrics::Counter; 5],
}

impl Slot {
    fn new(name: &[u8]) -> Self {
        let label = shown(name);
        let counter =
            |metric: &'static str| metrics::counter!(metric, "namespace" => label.clone());
        Self {
            name: name.into(),
            counters: Striped::new(),
            seen: [
                counter("larder_hits_total"),
                counter("larder_misses_total"),
                counter("larder_errors_total"),
                counter("larder_read_bytes_total"),
                counter("larder_written_bytes_total"),
            ],
        }
    }

    fn add(&self, counter: usize, amount: u64) {
        self.counters.add(counter, amount);
        self.seen[counter].increment(amount);
    }

    /// A read that found so many bytes, or nothing.
    pub(super) fn read(&self, found: Option<usize>) {
        match found {
            Some(bytes) => {
                self.add(HITS, 1);
                self.took(bytes);
            }
            None => self.add(MISSES, 1),
        }
    }

    /// Bytes that came without being a hit.
    pub(super) fn took(&self, bytes: usize) {
        self.add(BYTES_READ, bytes as u64);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.add(BYTES_WRITTEN, bytes as u64);
    }

    pub(super) fn errors(&self, count: u64) {
        self.add(ERRORS, count);
    }
}

/// At most so many namespaces by name, and the rest in one.
pub(super) struct Table {
    slots: Box<[OnceLock<Slot>]>,
    used: AtomicUsize,
    limit: usize,
    other: OnceLock<Slot>,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        // Half empty, so that a search ends after a step or two.
        let size = (limit.max(1) * 2).next_power_of_two();
        Self {
            slots: (0..size).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(0),
            limit,
            other: OnceLock::new(),
        }
    }

    pub(super) fn slot(&self, name: &[u8]) -> &Slot {
        let name = &name[..name.len().min(KEPT)];
        let start = hash(name);
        for step in 0..self.slots.len() {
            let place = &self.slots[(start + step) & (self.slots.len() - 1)];
            if let Some(slot) = place.get() {
                if &*slot.name == name {
                    return slot;
                }
                continue;
            }
            if self.used.fetch_add(1, Ordering::Relaxed) >= self.limit {
                self.used.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            let mut mine = false;
            let slot = place.get_or_init(|| {
                mine = true;
                Slot::new(name)
            });
            if !mine {
                // Another thread was faster.
                self.used.fetch_sub(1, Ordering::Relaxed);
            }
            if &*slot.name == name {
                return slot;
            }
        }
        self.other.get_or_init(|| Slot::new(OTHER.as_bytes()))
    }

    pub(super) fn snapshot(&self) -> BTreeMap<String, NamespaceStats> {
        let mut all = BTreeMap::<String, NamespaceStats>::new();
        for slot in self.slots.iter().chain([&self.other]).filter_map(OnceLock::get) {
            // Names that differ behind what is shown share a line.
            let line = all.entry(shown(&slot.name)).or_default();
            line.hits += slot.counters.sum(HITS);
            line.misses += slot.counters.sum(MISSES);
            line.errors += slot.counters.sum(ERRORS);
            line.bytes_read += slot.counters.sum(BYTES_READ);
            line.bytes_written += slot.counters.sum(BYTES_WRITTEN);
        }
        all
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

/// FNV-1a: names are short, and who chooses them gains nothing by making them collide but a slow
/// search of a small table.
fn hash(name: &[u8]) -> usize {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ (hash >> 32)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_are_counted_together() {
        let table = Table::new(3);
        for name in ["a", "b", "c", "d", "e", "a"] {
            table.slot(name.as_bytes()).read(Some(10));
        }
        let all = table.snapshot();
        assert_eq!(all.len(), 4);
        assert_eq!(all["a"].hits, 2);
        assert_eq!(all[OTHER].hits, 2);
        assert_eq!(all[OTHER].bytes_read, 20);
    }

    #[test]
    fn of_a_long_name_only_what_is_shown_is_kept() {
        let table = Table::new(3);
        for name in ["ä".repeat(1_000_000), "🧀".repeat(1_000_000), "a🧀".repeat(1_000_000)] {
            assert!(table.slot(name.as_bytes()).name.len() <= KEPT);
            let shown = shown(&table.slot(name.as_bytes()).name);
            assert_eq!(shown, name.chars().take(SHOWN).collect::<String>());
        }
        table.slot(&[0xff; 1_000_000]).read(None);
        assert!(table.snapshot().keys().all(|name| name.len() <= 4 * SHOWN));
    }

    #[test]
    fn a_name_cannot_reach_a_terminal_with_its_control_characters() {
        let table = Table::new(3);
        table.slot(b"\x1b[31m").read(None);
        assert!(table.snapshot().keys().all(|name| !name.contains('\x1b')));
    }
}

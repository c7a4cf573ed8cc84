//! The near cache: decoded values in this process, kept true by what the store tells. It does no I/O.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use quick_cache::OptionsBuilder;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::time::Instant;

use self::entry::{Clock, Entry, Name, Sought, Weight};
pub(crate) use self::entry::{Hashes, Life};
use self::marks::{Lock, Mark, Marks, Stripe};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::op::Vouch;
use crate::stats::{Cause, ReadRecorder};
use crate::store::{InvalidationSink, Sweeping};

mod entry;
mod marks;

/// The table makes room for entries of this size from the start, and grows if they are smaller.
const BYTES_PER_EXPECTED_ENTRY: u64 = 2048;

type Table = Cache<Name, Entry, Weight, Hashes>;

/// The near cache of a client.
///
/// The lock of its marks is a parameter so that the schedules of another one can be explored.
pub(crate) struct Near<L: Lock<Stripe> = Mutex<Stripe>> {
    shared: Arc<Common<L>>,
    // Set with the first room: before, writers need not mark anything.
    used: AtomicBool,
}

/// What rooms, readers and writers share.
struct Common<L> {
    marks: Marks<L>,
    clock: Clock,
    hashes: Hashes,
    max_bytes: u64,
    // What is left for the rooms without a budget of their own, and their table.
    left: Mutex<Left>,
    tables: RwLock<Vec<Arc<Table>>>,
    // Who counts for a room. Namespaces of the same name share one.
    recorders: RwLock<Vec<Arc<ReadRecorder>>>,
    // Whether the last vouch that ended did so with the data, not with its connection.
    flushed: AtomicBool,
}

struct Left {
    bytes: u64,
    table: Option<Arc<Table>>,
}

/// The part of the near cache that is a namespace's.
pub(crate) struct Room<L: Lock<Stripe> = Mutex<Stripe>> {
    shared: Arc<Common<L>>,
    table: Arc<Table>,
    // Its place among the recorders.
    number: u16,
    // What it was given of the budget, for itself alone.
    own_bytes: Option<u64>,
    // Whether the time may be asked for by ticks, where no more is needed.
    by_ticks: bool,
}

/// A value that was near.
pub(crate) struct Hit<T> {
    /// Nothing: it is remembered that there is nothing.
    pub(crate) value: Option<Arc<T>>,
    /// How old it is, in nanoseconds.
    pub(crate) age: u64,
    /// For how many nanoseconds it is fresh; nothing for as long as it is near.
    pub(crate) fresh: Option<u64>,
    /// Of its key: for who writes down how it was read.
    pub(crate) hash: u64,
}

/// A read in flight, whose answer may be kept unless its key changes before.
pub(crate) struct Reading<L: Lock<Stripe> = Mutex<Stripe>> {
    shared: Arc<Common<L>>,
    table: Arc<Table>,
    number: u16,
    mark: Mark,
}

/// Own writes in flight: what they write is not near from their beginning to their end.
pub(crate) struct Writing<'a, L: Lock<Stripe> = Mutex<Stripe>> {
    near: &'a Near<L>,
    keys: Vec<Bytes>,
}

impl<L: Lock<Stripe>> Near<L> {
    /// A near cache that holds at most so many bytes.
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self {
            shared: Arc::new(Common {
                marks: Marks::new(),
                clock: Clock::new(),
                hashes: Hashes::default(),
                max_bytes,
                left: Mutex::new(Left { bytes: max_bytes, table: None }),
                tables: RwLock::default(),
                recorders: RwLock::default(),
                flushed: AtomicBool::new(false),
            }),
            used: AtomicBool::new(false),
        }
    }

    /// Whether anything can be near.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// How keys are hashed.
    pub(crate) fn hashes(&self) -> Hashes {
        self.shared.hashes.clone()
    }

    /// How many entries there are, and how many bytes they count. Some may be void, and go when they are come upon.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let tables = self.shared.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.iter().fold((0, 0), |(entries, bytes), table| {
            (entries + table.len() as u64, bytes + table.weight())
        })
    }

    /// A room, with a budget of its own or sharing what is left. `by_ticks` says that no test moves the time of its entries.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if so much is not left.
    pub(crate) fn room(
        &self,
        max_bytes: Option<u64>,
        reads: Arc<ReadRecorder>,
        by_ticks: bool,
    ) -> Result<Room<L>> {
        let shared = &self.shared;
        let mut left = shared.left();
        let table = match (max_bytes, &left.table) {
            (None, Some(table)) => Arc::clone(table),
            (None, None) => {
                let table = shared.table(left.bytes);
                left.table = Some(Arc::clone(&table));
                table
            }
            (Some(bytes), _) => {
                if bytes > left.bytes {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!(
                            "near_max_bytes is {bytes}, and {} of the client's {} are left; raise the client's",
                            left.bytes, shared.max_bytes
                        ),
                    ));
                }
                let rest = left.bytes - bytes;
                left.set(rest);
                shared.table(bytes)
            }
        };
        self.used.store(true, Ordering::SeqCst);
        Ok(Room {
            shared: Arc::clone(shared),
            table,
            number: shared.number(reads),
            own_bytes: max_bytes,
            by_ticks,
        })
    }

    /// Marks keys that are about to be written. Until it is dropped nothing of them is kept.
    pub(crate) fn writing<'k>(&self, keys: impl IntoIterator<Item = &'k Key>) -> Writing<'_, L> {
        let keys: Vec<Bytes> = keys.into_iter().map(|key| key.bytes().clone()).collect();
        for key in &keys {
            self.shared.marks.begin_write(key, || self.shared.remove(key, Cause::OwnWrite));
        }
        Writing { near: self, keys }
    }
}

impl<L: Lock<Stripe> + Send + Sync + 'static> InvalidationSink for Near<L> {
    fn changed(&self, key: &[u8]) {
        if self.is_used() {
            self.shared.marks.change(key, || self.shared.remove(key, Cause::Pushed));
        }
    }

    /// Entries need no visit: their vouch has ended, and they go when they are come upon.
    fn all_changed(&self, why: Sweeping) {
        self.shared.flushed.store(why == Sweeping::Flushed, Ordering::Relaxed);
        self.shared.marks.change_all();
    }
}

impl Left {
    fn set(&mut self, bytes: u64) {
        self.bytes = bytes;
        if let Some(table) = &self.table {
            table.set_capacity(bytes);
        }
    }
}

impl<L: Lock<Stripe>> Common<L> {
    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self, max_bytes: u64) -> Arc<Table> {
        let expected = usize::try_from(max_bytes / BYTES_PER_EXPECTED_ENTRY).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(expected.max(16))
            .weight_capacity(max_bytes)
            .build()
            .expect("both numbers that the options need are given");
        let hashes = self.hashes.clone();
        let table = Cache::with_options(options, Weight, hashes, DefaultLifecycle::default());
        let table = Arc::new(table);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.push(Arc::clone(&table));
        table
    }

    /// The number of the rooms for which this recorder counts.
    fn number(&self, reads: Arc<ReadRecorder>) -> u16 {
        let mut recorders = self.recorders.write().unwrap_or_else(PoisonError::into_inner);
        let known = recorders.iter().position(|known| Arc::ptr_eq(known, &reads));
        let at = known.unwrap_or_else(|| {
            recorders.push(reads);
            recorders.len() - 1
        });
        // Statistics know a few hundred namespaces at most.
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// Counts an entry that left.
    fn left_for(&self, entry: &Entry, cause: Cause) {
        let recorders = self.recorders.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(reads) = recorders.get(usize::from(entry.room)) {
            reads.invalidated(cause);
        }
    }

    #[inline]
    fn sought<'k>(&self, key: &'k [u8]) -> Sought<'k> {
        Sought { hash: self.hashes.of(key), key }
    }

    fn remove(&self, key: &[u8], cause: Cause) {
        let sought = self.sought(key);
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        for table in tables.iter() {
            if let Some((_, entry)) = table.remove(&sought) {
                self.left_for(&entry, cause);
            }
        }
    }
}

impl<L: Lock<Stripe>> Drop for Writing<'_, L> {
    fn drop(&mut self) {
        let shared = &self.near.shared;
        for key in &self.keys {
            shared.marks.end_write(key, || shared.remove(key, Cause::OwnWrite));
        }
    }
}

impl<L: Lock<Stripe>> Room<L> {
    /// A value that is near, if it still holds. One lookup, one look at the vouch, and one at the time.
    ///
    /// Part of its callers: handing a hit over in memory was some 15 % of one that is in the processor's caches.
    #[inline(always)]
    pub(crate) fn get<T: Send + Sync + 'static>(&self, key: &[u8]) -> Option<Hit<T>> {
        let sought = self.shared.sought(key);
        let entry = self.table.get(&sought)?;
        let now = self.time_for(&entry);
        if !entry.vouch().holds() || now >= entry.expires {
            self.forget(&sought, &entry);
            return None;
        }
        let (age, fresh) = entry.times(now);
        let value = match entry.value {
            // Another type under the same key: not this caller's.
            Some(value) => Some(value.downcast().ok()?),
            None => None,
        };
        Some(Hit { value, age, fresh, hash: sought.hash })
    }

    /// The time, as exact as it matters to this entry.
    #[inline]
    fn time_for(&self, entry: &Entry) -> u64 {
        let clock = self.shared.clock;
        match self.by_ticks.then(|| clock.ticks()).flatten() {
            Some(now) if entry.is_steady(now) => now,
            _ => clock.at(Instant::now()),
        }
    }

    /// Marks a read that is about to be sent.
    pub(crate) fn begin(&self, key: &Key) -> Reading<L> {
        Reading {
            shared: Arc::clone(&self.shared),
            table: Arc::clone(&self.table),
            number: self.number,
            mark: self.shared.marks.begin_read(key.bytes()),
        }
    }

    #[cold]
    fn forget(&self, key: &Sought<'_>, entry: &Entry) {
        let cause = if entry.vouch().holds() {
            Cause::Expired
        } else if self.shared.flushed.load(Ordering::Relaxed) {
            Cause::Flushed
        } else {
            Cause::Lost
        };
        if self.table.remove_if(key, |there| there.is(entry)).is_some() {
            self.shared.left_for(entry, cause);
        }
    }
}

impl<L: Lock<Stripe>> Drop for Room<L> {
    /// Gives back what it had for itself alone.
    fn drop(&mut self) {
        let Some(bytes) = self.own_bytes else { return };
        let mut tables = self.shared.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|table| !Arc::ptr_eq(table, &self.table));
        drop(tables);
        let mut left = self.shared.left();
        let all = left.bytes + bytes;
        left.set(all);
    }
}

impl<L: Lock<Stripe>> Reading<L> {
    /// Keeps what was read, of `bytes` in its encoding. Answers whether it was kept: not if the key
    /// changed meanwhile, is being written, or nobody vouches for it any more.
    pub(crate) fn insert<T: Send + Sync + 'static>(
        self,
        value: Option<Arc<T>>,
        bytes: usize,
        life: Life,
        vouch: &Vouch,
    ) -> bool {
        let value = value.map(|value| value as Arc<dyn Any + Send + Sync>);
        let entry = Entry::new(value, bytes, life, *vouch, self.number, self.shared.clock);
        let name = Name::new(self.mark.key());
        self.shared.marks.finish_read(&self.mark, || {
            // Looked at under the same lock as changes are told: one that was not told yet ends the vouch
            // before it is.
            if vouch.holds() {
                self.table.insert(name, entry);
                return true;
            }
            false
        })
    }
}

impl<L: Lock<Stripe>> Drop for Reading<L> {
    fn drop(&mut self) {
        self.shared.marks.give_up(&self.mark);
    }
}

impl<L: Lock<Stripe>> fmt::Debug for Near<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Near").field("max_bytes", &self.shared.max_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

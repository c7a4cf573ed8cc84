//! The near cache: decoded values in this process, kept true by what the store tells. It does no I/O.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::time::Instant;

use self::marks::{Mark, Marks};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::op::Vouch;
use crate::stats::{Cause, ReadRecorder};
use crate::store::{InvalidationSink, Sweeping};

mod marks;

/// What an entry takes beside its key and its encoded value: a slot in the table (about 120 bytes with the free
/// ones), the entry itself (112), and what its three allocations cost. Decoded values are counted by the length of
/// their encoding, which is about what structs of numbers and texts take.
const ENTRY_OVERHEAD: u64 = 320;

/// The table makes room for entries of this size from the start, and grows if they are smaller.
const BYTES_PER_EXPECTED_ENTRY: u64 = 2048;

type Table = Cache<Bytes, Arc<Entry>, Weight, DefaultHashBuilder>;

/// The near cache of a client.
pub(crate) struct Near {
    shared: Arc<Common>,
    max_bytes: u64,
    // Set with the first room: before, writers need not mark anything.
    used: AtomicBool,
    // What is left for the rooms without a budget of their own, and their table.
    left: Mutex<Left>,
}

struct Left {
    bytes: u64,
    table: Option<Arc<Table>>,
}

/// What rooms, readers and writers share.
struct Common {
    marks: Marks<Mutex<marks::Stripe>>,
    tables: RwLock<Vec<Arc<Table>>>,
    // Whether the last vouch that ended did so with the data, not with its connection.
    flushed: AtomicBool,
}

struct Entry {
    // Nothing: it is remembered that there is nothing.
    value: Option<Arc<dyn Any + Send + Sync>>,
    life: Life,
    vouch: Vouch,
    bytes: u64,
    reads: Arc<ReadRecorder>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, Arc<Entry>> for Weight {
    fn weight(&self, key: &Bytes, entry: &Arc<Entry>) -> u64 {
        ENTRY_OVERHEAD + key.len() as u64 + entry.bytes
    }
}

/// The part of the near cache that is a namespace's.
pub(crate) struct Room {
    shared: Arc<Common>,
    table: Arc<Table>,
    reads: Arc<ReadRecorder>,
}

/// The times of a value.
#[derive(Clone, Copy)]
pub(crate) struct Life {
    /// Since when it is stored, as far as that is known, else since when it was read.
    pub(crate) since: Instant,
    /// Until when it is fresh; nothing for as long as it is here.
    pub(crate) fresh_until: Option<Instant>,
    /// Until when it may be kept.
    pub(crate) expires: Instant,
}

/// A value that was near.
pub(crate) struct Hit<T> {
    /// Nothing: it is remembered that there is nothing.
    pub(crate) value: Option<Arc<T>>,
    pub(crate) life: Life,
}

/// A read in flight, whose answer may be kept unless its key changes before.
pub(crate) struct Reading {
    shared: Arc<Common>,
    table: Arc<Table>,
    reads: Arc<ReadRecorder>,
    mark: Mark,
}

/// Own writes in flight: what they write is not near from their beginning to their end.
pub(crate) struct Writing<'a> {
    near: &'a Near,
    keys: Vec<Bytes>,
}

impl Near {
    /// A near cache that holds at most so many bytes.
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self {
            shared: Arc::new(Common {
                marks: Marks::new(),
                tables: RwLock::default(),
                flushed: AtomicBool::new(false),
            }),
            max_bytes,
            used: AtomicBool::new(false),
            left: Mutex::new(Left { bytes: max_bytes, table: None }),
        }
    }

    /// Whether anything can be near.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// A room, with a budget of its own or sharing what is left.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if so much is not left.
    pub(crate) fn room(&self, max_bytes: Option<u64>, reads: Arc<ReadRecorder>) -> Result<Room> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match (max_bytes, &left.table) {
            (None, Some(table)) => Arc::clone(table),
            (None, None) => {
                let table = self.table(left.bytes);
                left.table = Some(Arc::clone(&table));
                table
            }
            (Some(bytes), _) => {
                if bytes > left.bytes {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!(
                            "near_max_bytes is {bytes}, and {} of the client's {} are left; raise the client's",
                            left.bytes, self.max_bytes
                        ),
                    ));
                }
                left.bytes -= bytes;
                if let Some(table) = &left.table {
                    table.set_capacity(left.bytes);
                }
                self.table(bytes)
            }
        };
        self.used.store(true, Ordering::SeqCst);
        Ok(Room { shared: Arc::clone(&self.shared), table, reads })
    }

    /// Marks keys that are about to be written. Until it is dropped nothing of them is kept.
    pub(crate) fn writing<'k>(&self, keys: impl IntoIterator<Item = &'k Key>) -> Writing<'_> {
        let keys: Vec<Bytes> = keys.into_iter().map(|key| key.bytes().clone()).collect();
        for key in &keys {
            self.shared.marks.begin_write(key, || self.shared.remove(key, Cause::OwnWrite));
        }
        Writing { near: self, keys }
    }

    fn table(&self, max_bytes: u64) -> Arc<Table> {
        let expected = usize::try_from(max_bytes / BYTES_PER_EXPECTED_ENTRY).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(expected.max(16))
            .weight_capacity(max_bytes)
            .build()
            .expect("both numbers that the options need are given");
        let table = Arc::new(Cache::with_options(
            options,
            Weight,
            DefaultHashBuilder::default(),
            quick_cache::sync::DefaultLifecycle::default(),
        ));
        let mut tables = self.shared.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.push(Arc::clone(&table));
        table
    }
}

impl InvalidationSink for Near {
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

impl Common {
    fn remove(&self, key: &[u8], cause: Cause) {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        for table in tables.iter() {
            if let Some((_, entry)) = table.remove(key) {
                entry.reads.invalidated(cause);
            }
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let shared = &self.near.shared;
        for key in &self.keys {
            shared.marks.end_write(key, || shared.remove(key, Cause::OwnWrite));
        }
    }
}

impl Room {
    /// A value that is near, if it still holds. One lookup, one look at the vouch, and the caller's `now`.
    pub(crate) fn get<T: Send + Sync + 'static>(&self, key: &[u8], now: Instant) -> Option<Hit<T>> {
        let entry = self.table.get(key)?;
        if !entry.vouch.holds() {
            let flushed = self.shared.flushed.load(Ordering::Relaxed);
            self.forget(key, &entry, if flushed { Cause::Flushed } else { Cause::Lost });
            return None;
        }
        if now >= entry.life.expires {
            self.forget(key, &entry, Cause::Expired);
            return None;
        }
        let value = match &entry.value {
            // Another type under the same key: not this caller's.
            Some(value) => Some(Arc::clone(value).downcast().ok()?),
            None => None,
        };
        Some(Hit { value, life: entry.life })
    }

    /// Marks a read that is about to be sent.
    pub(crate) fn begin(&self, key: &Key) -> Reading {
        Reading {
            shared: Arc::clone(&self.shared),
            table: Arc::clone(&self.table),
            reads: Arc::clone(&self.reads),
            mark: self.shared.marks.begin_read(key.bytes()),
        }
    }

    fn forget(&self, key: &[u8], entry: &Arc<Entry>, cause: Cause) {
        if self.table.remove_if(key, |there| Arc::ptr_eq(there, entry)).is_some() {
            entry.reads.invalidated(cause);
        }
    }
}

impl Reading {
    /// Keeps what was read, of `bytes` in its encoding. Answers whether it was kept: not if the key
    /// changed meanwhile, is being written, or nobody vouches for it any more.
    pub(crate) fn insert<T: Send + Sync + 'static>(
        self,
        value: Option<Arc<T>>,
        bytes: usize,
        life: Life,
        vouch: &Vouch,
    ) -> bool {
        let entry = Entry {
            value: value.map(|value| value as Arc<dyn Any + Send + Sync>),
            life,
            vouch: vouch.clone(),
            bytes: bytes as u64,
            reads: Arc::clone(&self.reads),
        };
        self.shared.marks.finish_read(&self.mark, || {
            // Looked at under the same lock as changes are told: one that was not told yet ends the vouch
            // before it is.
            if vouch.holds() {
                self.table.insert(self.mark.key().clone(), Arc::new(entry));
                return true;
            }
            false
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.shared.marks.give_up(&self.mark);
    }
}

impl fmt::Debug for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Near").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

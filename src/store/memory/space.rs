//! The key space: entries under a budget of bytes, with their expiries.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, OptionsBuilder};
use tokio::time::Instant;

use super::entry::{ENTRY_OVERHEAD, EXPIRY_OVERHEAD, Entry, Eviction, Weight, Writing};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::store::{InvalidationSink, Sweeping};
use crate::ttl::{Expiry, Ttl};

/// How many expired entries a write clears away. More than the one that it can add, so that a
/// backlog shrinks; few enough that no single write pays for it.
const SWEPT_PER_WRITE: usize = 16;
/// Below this many records the heap of expiries is never worth rebuilding.
const FEW_RECORDS: usize = 64;
/// The cache remembers the hashes of evicted keys, one for every two entries it is told to expect,
/// in slots of 120 bytes. One expected entry for this many bytes keeps that under 3 % of the budget.
const BYTES_PER_EXPECTED_ENTRY: u64 = 2048;

pub(super) struct Space {
    cache: Cache<Key, Entry, Weight, DefaultHashBuilder, Eviction>,
    /// When keys expire, soonest first. A record is stale if its key is gone or expires at another
    /// moment; stale ones are dropped when they come up, or all at once when they are a third.
    expiries: BinaryHeap<Reverse<(NonZeroU64, Key)>>,
    /// What all pinned entries and one more may weigh: a little less than the budget, because the
    /// cache keeps 3 % of it for newcomers.
    largest: u64,
    pinned: u64,
    epoch: Instant,
    /// The microseconds of the Unix time at the epoch.
    began: u64,
    /// The largest fencing token that was minted, of any lock: records are evicted, this is not.
    last_token: u64,
    sinks: Vec<Arc<dyn InvalidationSink>>,
    /// Whether anything was read that the sinks are to be told about: without a near cache and without waiters,
    /// a write pays for nothing but this question.
    telling: bool,
}

impl Space {
    pub(super) fn new(max_bytes: u64) -> Self {
        let expected = usize::try_from(max_bytes / BYTES_PER_EXPECTED_ENTRY).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(expected.max(16))
            .weight_capacity(max_bytes)
            .build()
            .expect("both numbers that the options need are given");
        Self {
            cache: Cache::with_options(options, Weight, DefaultHashBuilder::default(), Eviction),
            expiries: BinaryHeap::new(),
            largest: max_bytes - max_bytes.div_ceil(32),
            pinned: 0,
            epoch: Instant::now(),
            began: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
            last_token: 0,
            sinks: Vec::new(),
            telling: false,
        }
    }

    pub(super) fn add_sink(&mut self, sink: Arc<dyn InvalidationSink>) {
        self.sinks.push(sink);
    }

    /// From now on, tells the sinks of every change. Whether there are any.
    pub(super) fn start_telling(&mut self) -> bool {
        self.telling = !self.sinks.is_empty();
        self.telling
    }

    pub(super) fn tell_all(&self, why: Sweeping) {
        self.sinks.iter().for_each(|sink| sink.all_changed(why));
    }

    /// To be called once the change is made, so that whoever is told and reads again sees it.
    fn tell(&self, key: &Key) {
        if self.telling {
            self.sinks.iter().for_each(|sink| sink.changed(key.as_bytes()));
        }
    }

    /// The clock for one batch.
    pub(super) fn clock(&self) -> Clock {
        Clock { epoch: self.epoch, began: self.began, elapsed: Cell::new(None) }
    }

    /// A fencing token that is larger than all before, and than the `last` of which its lock's record knows.
    pub(super) fn mint(&mut self, clock: &Clock, last: u64) -> u64 {
        let last = self.last_token.max(last);
        self.last_token = clock.unix_micros().max(last.saturating_add(1));
        self.last_token
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.cache.capacity()
    }

    /// Reads an entry, which counts as a use of it.
    pub(super) fn read<R>(
        &mut self,
        key: &Key,
        clock: &Clock,
        read: impl FnOnce(&Entry) -> R,
    ) -> Option<R> {
        match self.cache.get(key) {
            None => return None,
            Some(entry) if !clock.has_passed(entry.expires) => return Some(read(entry)),
            Some(_) => {}
        }
        self.take(key);
        None
    }

    /// Changes an entry, if there is one, and removes it if nothing is left in it. `change` is
    /// told how large the content may become, and must leave it alone if that is not enough. Unless it
    /// fails, the sinks are told of a change, needed or not.
    pub(super) fn change<R>(
        &mut self,
        key: &Key,
        clock: &Clock,
        change: impl FnOnce(&mut Entry, Room) -> Result<R>,
    ) -> Option<Result<R>> {
        let mut entry = self.cache.get_mut(key)?;
        if clock.has_passed(entry.expires) {
            drop(entry);
            self.take(key);
            return None;
        }
        let pinned_by_others = self.pinned - entry.pinned_weight(key);
        let expired_at = entry.expires;
        let changed = change(&mut entry, Room::beside(pinned_by_others, self.largest, key));
        self.pinned = pinned_by_others + entry.pinned_weight(key);
        let expires = entry.expires;
        let gone = entry.is_gone();
        drop(entry);
        if gone {
            self.take(key);
            return Some(changed);
        }
        if expires != expired_at {
            self.schedule(key, expires);
        }
        if self.cache.weight() > self.cache.capacity() {
            // The cache makes room when it inserts, not when an entry grows.
            if let Some((key, entry)) = self.cache.remove(key) {
                self.admit(key, entry);
            }
        }
        if changed.is_ok() {
            self.tell(key);
        }
        Some(changed)
    }

    /// Adds an entry under a key that holds nothing.
    pub(super) fn insert(&mut self, key: &Key, entry: Entry) -> Result<()> {
        Room::beside(self.pinned, self.largest, key).check(entry.size)?;
        self.pinned += entry.pinned_weight(key);
        self.schedule(key, entry.expires);
        self.admit(key.clone(), entry);
        self.tell(key);
        Ok(())
    }

    /// Removes an entry. Whether there was one that had not expired.
    pub(super) fn remove(&mut self, key: &Key, clock: &Clock) -> bool {
        self.take(key).is_some_and(|entry| !clock.has_passed(entry.expires))
    }

    /// The keys that have not expired, in no particular order.
    pub(super) fn keys<'a>(&'a self, clock: &'a Clock) -> impl Iterator<Item = &'a Key> {
        self.cache.iter().filter(|(_, entry)| !clock.has_passed(entry.expires)).map(|(key, _)| key)
    }

    /// Gives back the bytes of some expired entries, the oldest first.
    pub(super) fn sweep_some(&mut self, clock: &Clock) {
        self.sweep(clock, SWEPT_PER_WRITE);
    }

    /// Gives back the bytes of all expired entries.
    pub(super) fn sweep_all(&mut self, clock: &Clock) {
        self.sweep(clock, usize::MAX);
    }

    fn sweep(&mut self, clock: &Clock, at_most: usize) {
        for _ in 0..at_most {
            match self.expiries.peek() {
                Some(Reverse((at, _))) if clock.has_passed(Some(*at)) => {}
                _ => return,
            }
            let Some(Reverse((at, key))) = self.expiries.pop() else { return };
            if self.cache.peek(&key).is_some_and(|entry| entry.expires == Some(at)) {
                self.take(&key);
            }
        }
    }

    fn schedule(&mut self, key: &Key, expires: Option<NonZeroU64>) {
        let Some(at) = expires else { return };
        self.expiries.push(Reverse((at, key.clone())));
        if self.expiries.len() > self.cache.len() + self.cache.len() / 2 + FEW_RECORDS {
            // The entry that is just being added is not in the cache yet.
            let added = Reverse((at, key.clone()));
            self.expiries = self
                .cache
                .iter()
                .filter_map(|(key, entry)| Some(Reverse((entry.expires?, key.clone()))))
                .chain(std::iter::once(added))
                .collect();
        }
    }

    fn take(&mut self, key: &Key) -> Option<Entry> {
        let (_, entry) = self.cache.remove(key)?;
        self.pinned -= entry.pinned_weight(key);
        self.tell(key);
        Some(entry)
    }

    /// Inserts what is known to fit. A write that was acknowledged is there: whatever has to go to
    /// make room, it is not the entry itself.
    fn admit(&mut self, key: Key, entry: Entry) {
        let evicted = self.telling.then(Vec::new);
        let mut writing = Writing { key: Some(key.clone()), lost: None, evicted };
        self.cache.insert_with_lifecycle(key, entry, &mut writing);
        if let (Some(key), Some(entry)) = (writing.key.take(), writing.lost.take()) {
            // The cache had remembered the key from earlier, and made room after inserting it.
            // That memory is used up, so now it makes room first.
            self.cache.insert_with_lifecycle(key, entry, &mut writing);
        }
        writing.evicted.iter().flatten().for_each(|key| self.tell(key));
    }
}

/// The content of an entry has to be smaller than this.
#[derive(Clone, Copy)]
pub(super) struct Room(u64);

impl Room {
    fn beside(pinned: u64, largest: u64, key: &Key) -> Self {
        // Room for an expiry as well: it may come later, when nothing can be refused any more.
        let taken = pinned + ENTRY_OVERHEAD + EXPIRY_OVERHEAD + key.as_bytes().len() as u64;
        Self(largest.saturating_sub(taken))
    }

    pub(super) fn check(self, size: u64) -> Result<()> {
        // Less, not equal: without room for the key there is none for an empty content either.
        if size < self.0 {
            return Ok(());
        }
        let detail = format!(
            "the entry needs {size} bytes and the embedded store has room for {} under this key",
            self.0
        );
        Err(Error::new(ErrorKind::OutOfMemory, detail).with_code("OOM"))
    }
}

/// The time, looked up when it is first asked for: one batch sees one moment, and reads of keys
/// without an expiry see none.
pub(super) struct Clock {
    epoch: Instant,
    began: u64,
    elapsed: Cell<Option<Duration>>,
}

impl Clock {
    fn elapsed(&self) -> Duration {
        self.elapsed.get().unwrap_or_else(|| {
            // `Instant::now` of tokio: it follows a paused clock, and works without a runtime.
            let elapsed = Instant::now().saturating_duration_since(self.epoch);
            self.elapsed.set(Some(elapsed));
            elapsed
        })
    }

    /// The microseconds of the Unix time, as far as this store's clock knows it.
    pub(super) fn unix_micros(&self) -> u64 {
        let elapsed = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.began.saturating_add(elapsed)
    }

    /// The millisecond that has begun or is about to: counting from here, nothing lives shorter
    /// than it was given.
    fn coming_millis(&self) -> u64 {
        self.elapsed().as_nanos().div_ceil(1_000_000) as u64
    }

    fn has_passed(&self, expires: Option<NonZeroU64>) -> bool {
        expires.is_some_and(|at| u128::from(at.get()) <= self.elapsed().as_millis())
    }

    /// The moment at which something that starts now expires.
    pub(super) fn after(&self, expiry: Expiry) -> Option<NonZeroU64> {
        NonZeroU64::new(self.coming_millis().saturating_add(expiry.as_millis()))
    }

    /// What remains, of something that has not expired: at least a millisecond.
    pub(super) fn remaining(&self, expires: Option<NonZeroU64>) -> Ttl {
        match expires {
            None => Ttl::Persistent,
            Some(at) => {
                let left = at.get().saturating_sub(self.coming_millis()).max(1);
                Ttl::Remaining(Duration::from_millis(left))
            }
        }
    }
}

#[cfg(test)]
impl Space {
    /// How many records the heap of expiries has.
    pub(super) fn records(&self) -> usize {
        self.expiries.len()
    }

    /// How many elements a list has allocated memory for.
    pub(super) fn slots_of_list(&self, key: &Key) -> usize {
        match self.cache.peek(key).map(|entry| &entry.data) {
            Some(super::entry::Data::List(elements)) => elements.capacity(),
            _ => 0,
        }
    }
}

//! stub for the moment
use crate::error::Result;
use crate::key::Key;
use crate::op::Vouch;
use crate::stats::ReadRecorder;
use crate::store::{InvalidationSink, Sweeping};
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;
type V = Arc<dyn Any + Send + Sync>;
struct E {
    value: Option<V>,
    expires: Instant,
    fresh: Option<Instant>,
    since: Instant,
    vouch: Vouch,
}
#[derive(Default)]
struct T {
    entries: HashMap<Vec<u8>, E>,
    marks: HashMap<Vec<u8>, u64>,
    writing: HashMap<Vec<u8>, usize>,
    next: u64,
}
pub(crate) struct Near(Arc<Mutex<T>>, std::sync::atomic::AtomicBool);
pub(crate) struct Room(Arc<Mutex<T>>);
pub(crate) struct Hit<T> {
    pub(crate) value: Option<Arc<T>>,
    pub(crate) fresh_until: Option<Instant>,
    pub(crate) since: Instant,
}
pub(crate) struct Reading(Arc<Mutex<T>>, Vec<u8>, u64);
pub(crate) struct Writing<'a>(&'a Near, Vec<Vec<u8>>);
impl Near {
    pub(crate) fn new(_max: u64) -> Self {
        Self(Arc::default(), false.into())
    }
    pub(crate) fn is_used(&self) -> bool {
        self.1.load(std::sync::atomic::Ordering::Relaxed)
    }
    pub(crate) fn room(self: &Arc<Self>, _max: Option<u64>, _r: Arc<ReadRecorder>) -> Result<Room> {
        self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(Room(self.0.clone()))
    }
    pub(crate) fn writing<'a, 'k>(
        &'a self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Writing<'a> {
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|k| k.as_bytes().to_vec()).collect();
        let mut t = self.0.lock().unwrap();
        for k in &keys {
            t.entries.remove(k);
            t.marks.remove(k);
            *t.writing.entry(k.clone()).or_default() += 1;
        }
        drop(t);
        Writing(self, keys)
    }
}
impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut t = self.0.0.lock().unwrap();
        for k in &self.1 {
            t.entries.remove(k);
            t.marks.remove(k);
            let n = t.writing.get_mut(k).unwrap();
            *n -= 1;
            if *n == 0 {
                t.writing.remove(k);
            }
        }
    }
}
impl Room {
    pub(crate) fn get<U: Send + Sync + 'static>(&self, key: &[u8], now: Instant) -> Option<Hit<U>> {
        let t = self.0.lock().unwrap();
        let e = t.entries.get(key)?;
        if now >= e.expires || !e.vouch.holds() {
            return None;
        }
        let value = match &e.value {
            Some(v) => Some(v.clone().downcast().ok()?),
            None => None,
        };
        Some(Hit { value, fresh_until: e.fresh, since: e.since })
    }
    pub(crate) fn begin(&self, key: &Key) -> Reading {
        let mut t = self.0.lock().unwrap();
        t.next += 1;
        let id = t.next;
        t.marks.insert(key.as_bytes().to_vec(), id);
        Reading(self.0.clone(), key.as_bytes().to_vec(), id)
    }
}
impl Reading {
    pub(crate) fn insert<U: Send + Sync + 'static>(
        self,
        value: Option<Arc<U>>,
        _bytes: usize,
        expires: Instant,
        fresh: Option<Instant>,
        vouch: &Vouch,
    ) -> bool {
        let mut t = self.0.lock().unwrap();
        if t.marks.get(&self.1) != Some(&self.2)
            || t.writing.contains_key(&self.1)
            || !vouch.holds()
        {
            return false;
        }
        t.entries.insert(
            self.1.clone(),
            E {
                value: value.map(|v| v as V),
                expires,
                fresh,
                since: Instant::now(),
                vouch: vouch.clone(),
            },
        );
        true
    }
}
impl Drop for Reading {
    fn drop(&mut self) {
        let mut t = self.0.lock().unwrap();
        if t.marks.get(&self.1) == Some(&self.2) {
            t.marks.remove(&self.1);
        }
    }
}
impl InvalidationSink for Near {
    fn changed(&self, key: &[u8]) {
        let mut t = self.0.lock().unwrap();
        t.entries.remove(key);
        t.marks.remove(key);
    }
    fn all_changed(&self, _w: Sweeping) {
        let mut t = self.0.lock().unwrap();
        t.entries.clear();
        t.marks.clear();
    }
}

//! Waiting for a change of a key: woken by what the store tells, with a timer of the caller's beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{InvalidationSink, Sweeping};
use crate::key::Key;

/// Who waits for which key.
#[derive(Default)]
pub(crate) struct Wakeups(Mutex<HashMap<Bytes, Vec<Arc<Notify>>>>);

/// A wait for a change of any of some keys, from when it was made.
pub(crate) struct Watch<'a> {
    wakeups: &'a Wakeups,
    keys: Vec<Bytes>,
    told: Arc<Notify>,
}

impl Wakeups {
    /// Watches keys. To be made before they are read over a tracked lane: a change in between is kept.
    pub(crate) fn watch<'k>(&self, keys: impl IntoIterator<Item = &'k Key>) -> Watch<'_> {
        let keys: Vec<Bytes> = keys.into_iter().map(|key| key.bytes().clone()).collect();
        let told = Arc::new(Notify::new());
        let mut waiting = self.waiting();
        for key in &keys {
            waiting.entry(key.clone()).or_default().push(Arc::clone(&told));
        }
        drop(waiting);
        Watch { wakeups: self, keys, told }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Bytes, Vec<Arc<Notify>>>> {
        // Nothing that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InvalidationSink for Wakeups {
    fn changed(&self, key: &[u8]) {
        if let Some(watches) = self.waiting().get(key) {
            watches.iter().for_each(|told| told.notify_one());
        }
    }

    fn all_changed(&self, _why: Sweeping) {
        self.waiting().values().flatten().for_each(|told| told.notify_one());
    }
}

impl Watch<'_> {
    /// Ends when one of the keys changed, or may have.
    pub(crate) async fn changed(&self) {
        self.told.notified().await;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut waiting = self.wakeups.waiting();
        for key in &self.keys {
            if let Some(watches) = waiting.get_mut(key) {
                watches.retain(|told| !Arc::ptr_eq(told, &self.told));
                if watches.is_empty() {
                    waiting.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_before_the_wait_begins_is_kept_and_one_of_another_key_is_not() {
        let wakeups = Wakeups::default();
        let keys = [Key::new("a").unwrap(), Key::new("b").unwrap()];
        let watch = wakeups.watch(&keys);
        wakeups.changed(b"c");
        assert!(timeout(Duration::from_secs(1), watch.changed()).await.is_err());
        wakeups.changed(b"b");
        watch.changed().await;
        wakeups.all_changed(Sweeping::Lost);
        watch.changed().await;
        drop(watch);
        assert!(wakeups.waiting().is_empty());
    }
}

//! Queues within the process: who waits for a lock here waits in line, and only the first contends at the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::key::Key;

/// A lock, and whether it is shared: those who share contend apart from those who do not.
type Which = (Bytes, bool);

/// The queues of a client.
#[derive(Default)]
pub(super) struct Lines(Mutex<HashMap<Which, Arc<Semaphore>>>);

impl Lines {
    fn all(&self) -> MutexGuard<'_, HashMap<Which, Arc<Semaphore>>> {
        // Nothing that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a lock.
    pub(super) fn line(self: &Arc<Self>, key: &Key, shared: bool) -> Line {
        let which = (key.bytes().clone(), shared);
        let turn = Arc::clone(
            self.all().entry(which.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))),
        );
        Line { lines: Arc::clone(self), which, turn }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.all().len()
    }
}

/// One who wants to be first in a queue.
pub(super) struct Line {
    lines: Arc<Lines>,
    which: Which,
    turn: Arc<Semaphore>,
}

impl Line {
    /// Waits to be the first, in the order of those who came.
    pub(super) async fn first(self) -> Place {
        let permit = Arc::clone(&self.turn).acquire_owned().await;
        Place { _permit: permit.expect("nobody closes the queue"), _line: self }
    }

    /// The first, if nobody else is.
    pub(super) fn try_first(self) -> Option<Place> {
        let permit = Arc::clone(&self.turn).try_acquire_owned().ok()?;
        Some(Place { _permit: permit, _line: self })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut all = self.lines.all();
        // Nobody but the table and this one.
        if Arc::strong_count(&self.turn) == 2 {
            all.remove(&self.which);
        }
    }
}

/// The first place in a queue, until it is dropped. The permit goes before the line, which looks whether it was
/// the last.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    _line: Line,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_first_who_came_is_the_next_and_nothing_is_left_of_a_queue_without_anybody() {
        let lines = Arc::new(Lines::default());
        let key = Key::new("lock:a").unwrap();
        let place = lines.line(&key, false).first().await;
        assert!(lines.line(&key, false).try_first().is_none());
        let apart = lines.line(&key, true).try_first();
        assert!(apart.is_some(), "who shares waits in another queue");
        let mut second = Box::pin(lines.line(&key, false).first());
        let mut third = Box::pin(lines.line(&key, false).first());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(place);
        assert!(third.as_mut().now_or_never().is_none());
        let place = second.await;
        drop(third);
        drop((place, apart));
        assert_eq!(lines.len(), 0);
    }
}

//! Guards: no two of one lock are valid at the same time, and their tokens rise.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{CacheClient, LockBuilder, LockGuard, LockWatcher};
use tokio::task::JoinSet;

use crate::world::{World, count};

/// Shorter than the faults, so that guards get lost.
const LEASE: Duration = Duration::from_millis(400);
const WAIT: Duration = Duration::from_millis(1_500);

/// Who holds a lock, as far as this process knows.
struct Held {
    most: usize,
    holders: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    next: u64,
    watchers: HashMap<u64, LockWatcher>,
    last_token: u64,
}

impl Held {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, holders: Mutex::default() })
    }

    /// A guard was acquired. What is asked of the others is asked while it is valid itself.
    fn enter(&self, world: &World, guard: &LockGuard) -> u64 {
        let mut holders = self.holders.lock().unwrap();
        let others = holders.watchers.values().filter(|other| other.is_valid()).count();
        if others >= self.most && guard.is_valid() {
            count(&world.tally.overlaps);
        }
        if let Some(token) = guard.fencing_token() {
            // Guards are handed to their callers in any order: who is valid no more may come late.
            if guard.is_valid() && token <= holders.last_token {
                count(&world.tally.token_regressions);
            }
            holders.last_token = holders.last_token.max(token);
        }
        holders.next += 1;
        let number = holders.next;
        holders.watchers.insert(number, guard.watcher());
        number
    }

    fn leave(&self, number: u64) {
        self.holders.lock().unwrap().watchers.remove(&number);
    }
}

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    type Lock = fn(&CacheClient) -> LockBuilder;
    let locks: [(Lock, usize); 3] = [
        (|cache| cache.lock("plain"), 1),
        (|cache| cache.lock("fair").fair(true), 1),
        (|cache| cache.semaphore("few", 2), 2),
    ];
    for (number, (lock, most)) in locks.into_iter().enumerate() {
        let held = Held::new(most);
        for worker in 0..4 {
            let lock = lock(&world.clients[worker % 2]).lease(LEASE);
            let random = world.random(11 + number as u64, worker as u64);
            workers.spawn(contend(Arc::clone(world), lock, Arc::clone(&held), random));
        }
    }
}

async fn contend(world: Arc<World>, lock: LockBuilder, held: Arc<Held>, mut random: fastrand::Rng) {
    while !world.is_over() {
        // A wait for a lock has a limit of its own.
        let guard = match lock.acquire_within(WAIT).await {
            Ok(guard) => guard,
            Err(error) => {
                _ = world.call(std::future::ready(larder::Result::<()>::Err(error))).await;
                continue;
            }
        };
        count(&world.tally.guards);
        let number = held.enter(&world, &guard);
        // Some work longer than the lease: a fault within it costs the lock.
        let most = if random.u32(..25) == 0 { 1_000 } else { 10 };
        let work = tokio::time::sleep(Duration::from_millis(random.u64(..most)));
        if guard.run(work).await.is_err() {
            count(&world.tally.lost_guards);
        }
        held.leave(number);
        match random.u32(..4) {
            0 => drop(guard),
            _ => _ = world.call(guard.release()).await,
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..10))).await;
    }
}

//! Reading through, near caches, invalidations: nobody reads less than what was valid.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use larder::{Loaded, Namespace, Outcome};
use tokio::task::JoinSet;

use crate::world::{World, count};

const KEYS: u64 = 60;

/// For how long what another client invalidated may still be read: a connection that is dead without a word is known to
/// be after two seconds, and what was asked before has half a second more. The server stands still for a second.
const OTHERS: Duration = Duration::from_secs(4);

/// The newest version of each key, which loaders read, and which of them were acknowledged as the oldest that is valid.
pub(crate) struct Origin {
    versions: Vec<AtomicU64>,
    valid: Vec<Mutex<VecDeque<(Instant, u64)>>>,
}

impl Origin {
    fn new() -> Self {
        Self {
            versions: (0..KEYS).map(|_| AtomicU64::new(1)).collect(),
            valid: (0..KEYS).map(|_| Mutex::default()).collect(),
        }
    }

    fn acked(&self, key: u64, version: u64) {
        let mut valid = self.valid[key as usize].lock().unwrap();
        valid.push_back((Instant::now(), version));
        // One that is older than the bound has to stand.
        while valid.len() > 1 && valid[1].0.elapsed() > OTHERS * 2 {
            valid.pop_front();
        }
    }

    /// The oldest version that a read may give which begins now.
    fn oldest(&self, key: u64, own: bool) -> u64 {
        let valid = self.valid[key as usize].lock().unwrap();
        let mut acked = valid.iter().rev();
        let known = acked.find(|(at, _)| own || at.elapsed() > OTHERS);
        known.map_or(0, |(_, version)| *version)
    }

    /// What a loader does: some are slow, some fail.
    async fn load(&self, key: u64, chance: u32) -> Result<u64, std::io::Error> {
        let version = self.versions[key as usize].load(Ordering::SeqCst);
        match chance {
            0..3 => Err(std::io::Error::other("the origin is away")),
            // Without the message and the trace that a panic prints.
            3..6 => std::panic::resume_unwind(Box::new("as the test wants")),
            6..20 => {
                tokio::time::sleep(Duration::from_millis(40)).await;
                Ok(version)
            }
            _ => Ok(version),
        }
    }
}

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    let origin = Arc::new(Origin::new());
    for (client, cache) in world.clients.iter().enumerate() {
        let values = cache
            .namespace::<u64, u64>("v")
            .ttl(Duration::from_secs(3))
            .lease(Duration::from_secs(1))
            .hard_timeout(Duration::from_secs(2))
            .near(true)
            .build()
            .unwrap();
        for worker in 0..6 {
            let (world, origin) = (Arc::clone(world), Arc::clone(&origin));
            workers.spawn(read(world, origin, values.clone(), client as u64, worker));
        }
        let (world, origin) = (Arc::clone(world), Arc::clone(&origin));
        workers.spawn(write(Arc::clone(&world), origin, values, client as u64));
        workers.spawn(list(world, client));
    }
}

async fn read(
    world: Arc<World>,
    origin: Arc<Origin>,
    values: Namespace<u64, u64>,
    client: u64,
    worker: u64,
) {
    let mut random = world.random(7 + client, worker);
    let tally = &world.tally;
    // Both clients write to half of the keys.
    let is_own = |key: u64| key % 2 == client;
    while !world.is_over() {
        let key = random.u64(..KEYS);
        let keys: Vec<u64> = match random.u32(..10) {
            0 => (0..5).map(|at| (key + at * 7) % KEYS).collect(),
            _ => vec![key],
        };
        let oldest: Vec<u64> = keys.iter().map(|key| origin.oldest(*key, is_own(*key))).collect();
        let chance = random.u32(..1_000);
        let got: Vec<Option<u64>> = if let [key] = keys[..] {
            let load = || {
                count(&tally.loads);
                origin.load(key, chance)
            };
            // A panicking or failing loader is an error of the call; a store that is away is none.
            vec![world.call(values.get_or_load(&key, load)).await.ok().map(|value| *value)]
        } else {
            let load = async |wanted: Vec<&u64>| {
                let mut loaded = Vec::new();
                for key in wanted {
                    count(&tally.loads);
                    let version = origin.load(*key, 100.max(chance)).await?;
                    loaded.push((*key, Loaded::value(version)));
                }
                Ok::<_, std::io::Error>(loaded)
            };
            match world.call(values.get_or_load_many(&keys, load)).await {
                Ok(all) => {
                    all.into_iter().map(|one| one.ok().flatten().map(|value| *value)).collect()
                }
                Err(_) => vec![None; keys.len()],
            }
        };
        for ((key, oldest), got) in keys.iter().zip(oldest).zip(got) {
            count(&tally.reads);
            if got.is_some_and(|got| got < oldest) {
                count(if is_own(*key) { &tally.own_stale } else { &tally.stale });
            }
        }
        // Hits never wait: the others want to run as well.
        if random.u32(..8) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    if worker == 0 {
        let near = world.clients[client as usize].stats().reads["v"].near_hits;
        tally.near.fetch_add(near, Ordering::Relaxed);
    }
}

async fn write(world: Arc<World>, origin: Arc<Origin>, values: Namespace<u64, u64>, client: u64) {
    let mut random = world.random(9, client);
    while !world.is_over() {
        let key = random.u64(..KEYS / 2) * 2 + client;
        let version = origin.versions[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let done = if random.u32(..3) == 0 {
            world.call(values.set(&key, &version)).await
        } else {
            world.call(values.invalidate(&key)).await
        };
        match done {
            Ok(()) => {
                origin.acked(key, version);
                count(&world.tally.invalidations);
            }
            Err(error) if error.outcome() == Outcome::Deferred => count(&world.tally.deferred),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(random.u64(1..8))).await;
    }
}

/// Looks through the keys, and who holds which lock.
async fn list(world: Arc<World>, client: usize) {
    let (cache, mut random) = (&world.clients[client], world.random(10, client as u64));
    while !world.is_over() {
        let mut keys = std::pin::pin!(cache.scan("v:"));
        // A page that could not be had ends the scan.
        while let Some(Ok(key)) = world.call_next(&mut keys).await {
            assert!(key.as_bytes().starts_with(b"v:"), "a scan leaves its prefix");
        }
        let mut locks = std::pin::pin!(cache.locks(""));
        while let Some(Ok(_)) = world.call_next(&mut locks).await {}
        tokio::time::sleep(Duration::from_millis(random.u64(100..500))).await;
    }
}

impl World {
    async fn call_next<T>(
        &self,
        stream: &mut (impl StreamExt<Item = larder::Result<T>> + Unpin),
    ) -> Option<larder::Result<T>> {
        match stream.next().await? {
            Ok(item) => Some(Ok(item)),
            Err(error) => Some(self.call(std::future::ready(Err(error))).await),
        }
    }
}

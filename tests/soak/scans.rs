//! Looking through keys, and clearing a namespace: nothing is left out, and nothing of others is met.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use larder::{CacheClient, Result};
use tokio::task::JoinSet;

use crate::tally::Promise;
use crate::world::World;

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for worker in 0..2 {
        workers.spawn(list(Arc::clone(world), worker));
        workers.spawn(clear(Arc::clone(world), worker));
    }
}

/// The keys of a prefix, or an error.
async fn scan(world: &World, cache: &CacheClient, prefix: &str) -> Result<HashSet<String>> {
    let (mut keys, mut found) = (cache.scan(prefix), HashSet::new());
    while let Some(key) = keys.next().await {
        // A page that could not be had ends the scan.
        let key = world.ended("scan", key)?;
        let key = String::from_utf8(key.as_bytes().to_vec()).unwrap();
        if !key.starts_with(prefix) {
            world.broke(Promise::Foreign, format_args!("{key} in a scan of {prefix}"));
        }
        found.insert(key);
    }
    Ok(found)
}

/// Looks through the keys, and who holds which lock.
async fn list(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(32, worker));
    while !world.is_over() {
        _ = scan(&world, cache, "v:").await;
        let mut locks = cache.locks("pla");
        while let Some(lock) = locks.next().await {
            let Ok(lock) = world.ended("locks", lock) else { break };
            if lock.key.as_bytes() != b"lock:plain" || lock.holders != 1 || lock.shared {
                world.broke(Promise::Foreign, format_args!("another lock than was asked for"));
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(100..500))).await;
    }
}

/// A namespace that is filled, looked through and cleared, again and again. One of which it is not certain what is in it is
/// left to its time to live.
async fn clear(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(33, worker));
    for round in 0_u64.. {
        if world.is_over() {
            return;
        }
        let name = format!("clear{worker}.{round}");
        let own = cache.namespace::<u64, u64>(&name).ttl(Duration::from_secs(60)).build().unwrap();
        let (lost, changed) = (world.lost.now(), world.changed.now());
        let keys = random.u64(1..40);
        let wrong = |what: &str| {
            world.broke_or_lost(Promise::Wrong, lost, format_args!("{name}: {what}"));
        };
        // Where slots and servers change, a scan may leave something out.
        let left_out = |what: &str| {
            let excused = world.lost.since(lost) || world.changed.since(changed);
            world.tally.broke(Promise::Wrong, excused, format_args!("{name}: {what}"));
        };
        let steps = async {
            let pairs = (0..keys).map(|key| (key, key));
            world.call("namespace.set_many", own.set_many(pairs)).await?;
            let found = scan(&world, cache, &format!("{name}:")).await?;
            if found.len() as u64 != keys {
                left_out("keys were left out");
            }
            let deleted = world.call("batch_delete_keys", cache.batch_delete_keys(&found)).await?;
            if deleted != found.len() as u64 {
                wrong("keys were gone");
            }
            if !scan(&world, cache, &format!("{name}:")).await?.is_empty() {
                left_out("keys are left");
            }
            world.tally.did("namespaces cleared");
            Ok::<_, larder::Error>(())
        };
        _ = steps.await;
        tokio::time::sleep(Duration::from_millis(random.u64(..100))).await;
    }
}

//! Locks on a cluster while the slots of held locks move: P21, P22 and P25.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::CacheClient;
use larder::testing::RedisCluster;
use tokio::task::JoinSet;

use super::{alone, client, times, until};

/// Locks that are held again and again, all of them by both clients.
const LOCKS: usize = 8;
const LEASE: Duration = Duration::from_secs(2);

/// Names of locks whose slots are distinct and the first node's.
fn names() -> Vec<String> {
    let mut names = BTreeMap::new();
    for number in 0.. {
        let name = format!("move:{number}");
        let slot = RedisCluster::slot(format!("lock:{name}"));
        if slot < 5_000 {
            names.entry(slot).or_insert(name);
        }
        if names.len() == LOCKS {
            break;
        }
    }
    names.into_values().collect()
}

#[derive(Default)]
struct Held {
    acquired: AtomicU64,
    overlaps: AtomicU64,
    lost: AtomicU64,
    not_ours: AtomicU64,
    renewed: AtomicU64,
    over: AtomicBool,
    errors: Mutex<Vec<String>>,
}

/// Takes a lock again and again; every fourth time for longer than two renewals take.
async fn hold(
    cache: CacheClient,
    name: String,
    holders: Arc<AtomicU64>,
    held: Arc<Held>,
) -> Vec<u64> {
    let mut tokens = Vec::new();
    for turn in 0_u64.. {
        if held.over.load(Ordering::Relaxed) {
            return tokens;
        }
        let lock = cache.lock(&name).lease(LEASE).wait(Duration::from_secs(60));
        let guard = match lock.acquire().await {
            Ok(guard) => guard,
            Err(error) => {
                held.errors.lock().unwrap().push(format!("acquire: {error:?}"));
                continue;
            }
        };
        tokens.push(guard.fencing_token().unwrap());
        let others = holders.fetch_add(1, Ordering::SeqCst);
        held.overlaps.fetch_add(u64::from(others != 0), Ordering::Relaxed);
        // A holder's work: what is tried is that it is long enough to need renewals.
        let long = turn % 4 == 3;
        tokio::time::sleep(if long { LEASE * 3 / 4 } else { Duration::from_millis(3) }).await;
        held.renewed.fetch_add(u64::from(long && guard.is_valid()), Ordering::Relaxed);
        held.lost.fetch_add(u64::from(!guard.is_valid()), Ordering::Relaxed);
        holders.fetch_sub(1, Ordering::SeqCst);
        match guard.release().await {
            Ok(ours) => held.not_ours.fetch_add(u64::from(!ours), Ordering::Relaxed),
            Err(error) => {
                held.errors.lock().unwrap().push(format!("release: {error:?}"));
                0
            }
        };
        held.acquired.fetch_add(1, Ordering::Relaxed);
    }
    unreachable!("the loop ends by itself")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_held_renewed_and_waited_for_while_their_slots_move() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let clients = [client(&cluster).await, client(&cluster).await];
    let held = Arc::<Held>::default();
    let names = names();
    let mut tasks = JoinSet::new();
    for name in &names {
        let holders = Arc::<AtomicU64>::default();
        for cache in &clients {
            let (cache, holders) = (cache.clone(), Arc::clone(&holders));
            let (name, held) = (name.clone(), Arc::clone(&held));
            tasks.spawn(async move { (name.clone(), hold(cache, name, holders, held).await) });
        }
    }
    let mut mover = cluster.mover().await;
    let (mut moves, mut keys) = (0, 0);
    for _ in 0..times(30) {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            for name in &names {
                let slot = RedisCluster::slot(format!("lock:{name}"));
                // One key after the other, so that the lock and its record are apart for a moment.
                mover.open(slot, from, to).await;
                while mover.move_keys(slot, from, to, 1).await > 0 {
                    keys += 1;
                }
                mover.close(slot, from, to).await;
                moves += 1;
            }
        }
        let seen = held.acquired.load(Ordering::Relaxed);
        until("locks are taken", async || held.acquired.load(Ordering::Relaxed) > seen).await;
    }
    // Every lock was held for long at least once.
    until("guards were renewed", async || held.renewed.load(Ordering::Relaxed) >= LOCKS as u64)
        .await;
    held.over.store(true, Ordering::Relaxed);
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (name, tokens) = done.unwrap();
        all.entry(name).or_default().extend(tokens);
    }
    let mut twice = 0;
    for tokens in all.values_mut() {
        tokens.sort_unstable();
        twice += tokens.windows(2).filter(|pair| pair[0] == pair[1]).count();
    }
    let errors = std::mem::take(&mut *held.errors.lock().unwrap());
    let [acquired, overlaps, lost, not_ours, renewed] =
        [&held.acquired, &held.overlaps, &held.lost, &held.not_ours, &held.renewed]
            .map(|count| count.load(Ordering::Relaxed));
    let mut refused = Vec::new();
    for code in ["MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "NOSCRIPT"] {
        refused.push(cluster.refusals(code).await);
    }
    println!(
        "P21, P25 cluster: {acquired} acquisitions of {LOCKS} locks by two clients while their slots moved {moves} times \
         ({keys} keys one by one): overlaps {overlaps}, tokens twice {twice}, lost {lost}, released and not ours {not_ours}, \
         {renewed} held past two renewals, errors {}; redirects followed: {} MOVED, {} ASK, {} TRYAGAIN",
        errors.len(),
        refused[0],
        refused[1],
        refused[2],
    );
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((overlaps, twice, lost, not_ours), (0, 0, 0, 0));
    assert_eq!(refused[3..], [0, 0], "CROSSSLOT, NOSCRIPT");
    assert!(refused[0] > 0 && refused[1] + refused[2] > 0, "{refused:?}");
}

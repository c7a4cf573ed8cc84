//! The near cache on a cluster: what one node vouched for ends with it alone, and a slot that moves takes with it what
//! its old owner vouched for. P13 and P15.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::op::{Batch, Fetched, Lane, Op, Vouch};
use larder::store::{RedisStore, Store};
use larder::testing::{RedisCluster, Resp};
use larder::{CacheClient, Key, Namespace, ReadFrom};

use super::{alone, client, ms, one_for_each_slot, times, until};
use crate::common::tracking;

const KEYS: u64 = 60;

fn versions(cache: &CacheClient) -> Namespace<u64, u64> {
    cache.namespace("v").near(true).build().unwrap()
}

fn stored(key: u64) -> String {
    format!("v:{key}")
}

/// Writes as another program does: to whoever serves the key.
async fn write(cluster: &RedisCluster, owners: &[usize], key: u64, value: u64) {
    let args = ["SET".to_owned(), stored(key), value.to_string()];
    let reply = cluster.nodes()[owners[key as usize]].command(&args).await;
    assert_eq!(reply, Resp::Simple("OK".into()));
}

async fn owners(cluster: &RedisCluster) -> Vec<usize> {
    let mut owners = Vec::new();
    for key in 0..KEYS {
        owners.push(cluster.owner(RedisCluster::slot(stored(key))).await);
    }
    owners
}

/// Reads every key until it is near.
async fn settle(values: &Namespace<u64, u64>) {
    for key in 0..KEYS {
        until("a value is near", async || {
            values.get(&key).await.unwrap();
            values.explain(&key) == Some(ReadFrom::Near)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_another_client_on_any_node_is_seen() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let owners = owners(&cluster).await;
    for broadcast in [false, true] {
        let cache = client(&cluster).await;
        let values = cache.namespace("v").near(true).broadcast(broadcast).build().unwrap();
        let (rounds, mut longest) = (times(100), Duration::ZERO);
        for round in 1..=rounds {
            for key in 0..KEYS {
                write(&cluster, &owners, key, round).await;
            }
            settle(&values).await;
            for key in 0..KEYS {
                write(&cluster, &owners, key, round + 1_000_000).await;
                let written = Instant::now();
                until("the new value is seen", async || {
                    values.get(&key).await.unwrap().as_deref() == Some(&(round + 1_000_000))
                })
                .await;
                longest = longest.max(written.elapsed());
            }
        }
        println!(
            "P13 cluster: {} changes by others on 3 nodes (broadcast: {broadcast}), seen after {:.1} ms at most",
            rounds * KEYS,
            ms(longest)
        );
        assert!(longest < Duration::from_millis(100), "{longest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_empties_the_share_of_its_node_alone() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let owners = owners(&cluster).await;
    let cache = client(&cluster).await;
    let values = versions(&cache);
    let (rounds, mut kept, mut lost, mut stale) = (times(100), 0, 0, 0);
    for round in 0..rounds {
        for key in 0..KEYS {
            write(&cluster, &owners, key, round).await;
        }
        settle(&values).await;
        let victim = round as usize % 3;
        let before = cache.stats().reads["v"].invalidations.lost;
        for id in tracking(&cluster.nodes()[victim]).await {
            let killed = cluster.nodes()[victim].command(&["CLIENT", "KILL", "ID", &id]).await;
            assert_eq!(killed, Resp::Int(1));
        }
        let gone = (0..KEYS).find(|key| owners[*key as usize] == victim).unwrap();
        // Nobody is left to tell of this one.
        write(&cluster, &owners, gone, round + 1_000_000).await;
        until("the entry is given up", async || {
            values.get(&gone).await.unwrap().as_deref() == Some(&(round + 1_000_000))
        })
        .await;
        for key in (0..KEYS).filter(|key| *key != gone) {
            let value = values.get(&key).await.unwrap();
            stale += u64::from(value.as_deref() != Some(&round));
            match (values.explain(&key), owners[key as usize] == victim) {
                (Some(ReadFrom::Near), false) => kept += 1,
                (Some(ReadFrom::Shared), true) => lost += 1,
                // Read again over the new connection already.
                (Some(ReadFrom::Near), true) => {}
                other => panic!("key {key}: {other:?}"),
            }
        }
        assert!(cache.stats().reads["v"].invalidations.lost > before);
    }
    println!(
        "P15 cluster: {rounds} tracked connections of one node killed: {lost} of its entries given up, {kept} of the \
         other nodes' kept, {stale} stale"
    );
    let others = (0..KEYS).filter(|key| owners[*key as usize] != 0).count() as u64;
    assert!(kept > rounds * others * 9 / 10 - KEYS && lost > 0, "{kept} kept, {lost} lost");
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_takes_with_it_what_was_near() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let cache = client(&cluster).await;
    let mut mover = cluster.mover().await;
    let keys = one_for_each_slot("moved", times(200).max(20) as u16);
    let values = cache.namespace::<u64, u64>("moved").near(true).build().unwrap();
    let (mut longest, mut near) = (Duration::ZERO, 0);
    for key in &keys {
        let slot = RedisCluster::slot(key);
        let number: u64 = key.strip_prefix("moved:").unwrap().parse().unwrap();
        cluster.nodes()[0].command(&["SET", key, "1"]).await;
        until("the value is near", async || {
            values.get(&number).await.unwrap();
            values.explain(&number) == Some(ReadFrom::Near)
        })
        .await;
        near += 1;
        assert_eq!(mover.move_slot(slot, 0, 1).await, 1);
        cluster.nodes()[1].command(&["SET", key, "2"]).await;
        let written = Instant::now();
        until("the new value is seen", async || {
            values.get(&number).await.unwrap().as_deref() == Some(&2)
        })
        .await;
        longest = longest.max(written.elapsed());
    }
    println!(
        "P13 cluster: {near} slots moved under near entries, the new owner's value seen after {:.1} ms at most",
        ms(longest)
    );
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}

/// Reads a key over the tracked lane until it is vouched for.
async fn vouched(store: &RedisStore, key: &str) -> (Fetched, Vouch) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let op = Op::Fetch { keys: vec![Key::new(key).unwrap()] };
        let replies = store.run(Batch::one("test", op).on(Lane::Tracked)).await.unwrap();
        let vouch = replies.vouch().copied();
        let found = replies.into_one().unwrap().into_fetched().unwrap().remove(0);
        match vouch {
            Some(vouch) if vouch.holds() => return (found, vouch),
            _ => assert!(Instant::now() < deadline, "nothing vouches for {key}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missing_is_not_vouched_for_once_its_slot_is_anothers_though_nobody_asks() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let store = Arc::new(RedisStore::open(&cluster.url()).unwrap());
    let mut mover = cluster.mover().await;
    let keys = one_for_each_slot("missing", times(50).max(5) as u16);
    // Of the same node, in a slot that does not move.
    let stays = one_for_each_slot("stays", keys.len() as u16 + 1).pop().unwrap();
    let mut longest = Duration::ZERO;
    for key in &keys {
        let (found, vouch) = vouched(&store, key).await;
        assert_eq!(found, Fetched::MISSING);
        let (_, same_node) = vouched(&store, &stays).await;
        assert!(vouch.is(&same_node), "both are of the first node");
        assert_eq!(mover.move_slot(RedisCluster::slot(key), 0, 1).await, 0);
        let moved = Instant::now();
        // Nothing is asked meanwhile: the store looks by itself.
        until("the vouch ends", async || !vouch.holds()).await;
        longest = longest.max(moved.elapsed());
        let (_, vouch) = vouched(&store, key).await;
        assert!(vouch.holds());
    }
    println!(
        "P15 cluster: {} slots moved under keys read as missing, the old owner's vouch ended after {:.0} ms at most (a \
         look a second)",
        keys.len(),
        ms(longest)
    );
    assert!(longest < Duration::from_millis(1_600), "{longest:?}");
}

//! Reads from replicas, for who asks for them: plain reads go there and nothing else does, and one that is gone is no error.

use std::time::{Duration, Instant};

use larder::testing::{RedisCluster, RedisServer};
use larder::{CacheClient, ReadPreference};
use tokio::task::JoinSet;

use super::{alone, ms, times, until};
use crate::common::calls;

const KEYS: u64 = 60;
const DEADLINE: Duration = Duration::from_millis(800);

fn client(cluster: &RedisCluster) -> CacheClient {
    CacheClient::builder()
        .url(cluster.url())
        .read_from(ReadPreference::PreferReplica)
        .deadline(DEADLINE)
        .build()
        .unwrap()
}

/// The same of the primaries, and of the replicas.
async fn by_role(cluster: &RedisCluster, command: &str) -> (u64, u64) {
    let (primaries, replicas) = cluster.nodes().split_at(3);
    let (mut first, mut second) = (0, 0);
    for server in primaries {
        first += calls(server, command).await;
    }
    for server in replicas {
        second += calls(server, command).await;
    }
    (first, second)
}

/// Writes the keys, and reads until every replica answers what it was told.
async fn warm(cluster: &RedisCluster, cache: &CacheClient) {
    for n in 0..KEYS {
        cache.set_value(format!("k:{n}"), n, None).await.unwrap();
        cache.set_hash(format!("h:{n}"), "field", n).await.unwrap();
    }
    for replica in &cluster.nodes()[3..] {
        until("the replica is read from", async || {
            for n in 0..KEYS {
                cache.get_value(format!("k:{n}")).await.unwrap();
            }
            calls(replica, "get").await > 0
        })
        .await;
        let followed = async || {
            let sizes = async |server: &RedisServer| server.command(&["DBSIZE"]).await.int();
            let at = cluster.nodes().iter().position(|one| one.port() == replica.port()).unwrap();
            sizes(replica).await == sizes(&cluster.nodes()[at - 3]).await
        };
        until("the replica has everything", followed).await;
    }
    for server in cluster.nodes() {
        server.command(&["CONFIG", "RESETSTAT"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_reads_go_to_replicas_and_nothing_else_does() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let cache = client(&cluster);
    warm(&cluster, &cache).await;

    let rounds = times(100);
    for _ in 0..rounds {
        for n in 0..KEYS {
            let key = format!("k:{n}");
            assert_eq!(cache.get_value(&key).await.unwrap(), Some(n.to_string()));
            assert_eq!(
                cache.get_hash(format!("h:{n}"), "field").await.unwrap(),
                Some(n.to_string())
            );
        }
    }
    let keys: Vec<String> = (0..KEYS).map(|n| format!("k:{n}")).collect();
    let many = cache.get_many(&keys).await.unwrap();
    assert!(many.iter().all(Option::is_some));
    let (gets, hashes) = (by_role(&cluster, "get").await, by_role(&cluster, "hget").await);
    let mgets = by_role(&cluster, "mget").await;
    println!(
        "replica reads: {} reads, GET at (primaries, replicas) {gets:?}, HGET {hashes:?}, MGET {mgets:?}",
        rounds * KEYS * 2
    );
    assert_eq!((gets.0, hashes.0, mgets.0), (0, 0, 0), "a primary was read from");
    assert!(gets.1 >= rounds * KEYS && hashes.1 == rounds * KEYS);

    // What is kept near or leads to a load, what stands in a group with a write, transactions and locks.
    let near = cache.namespace::<u64, u64>("near").near(true).build().unwrap();
    let loaded =
        cache.namespace::<u64, u64>("loaded").loader(async |n| Ok::<_, std::io::Error>(Some(n)));
    let loaded = loaded.build().unwrap();
    let before = (by_role(&cluster, "get").await, by_role(&cluster, "mget").await);
    for n in 0..KEYS {
        near.set(&n, &n).await.unwrap();
        assert_eq!(near.get(&n).await.unwrap().as_deref(), Some(&n));
        // A miss, and then a hit; and by the client, and many keys.
        for _ in 0..2 {
            assert_eq!(loaded.get(&n).await.unwrap().as_deref(), Some(&n));
        }
        let lost = || async { Err::<u64, _>(std::io::Error::other("lost")) };
        let life = Duration::from_secs(60);
        let found = cache.get_or_load(format!("loaded:{n}"), life, lost).await.unwrap();
        assert_eq!(*found, n);
        let none = |_: Vec<&u64>| async { Ok::<_, std::io::Error>(Vec::<(u64, u64)>::new()) };
        let found = loaded.get_or_load_many(&[n, n + KEYS], none).await.unwrap();
        assert_eq!(found[0].as_ref().unwrap().as_deref(), Some(&n));
        let key = format!("k:{n}");
        let group = cache.pipeline().set_value(&key, n + 1, None).get_value(&key);
        let read = group.run().await.unwrap().remove(1).unwrap().into_text().unwrap();
        assert_eq!(read, Some((n + 1).to_string()));
        let guard = cache.lock(&key).acquire().await.unwrap();
        assert!(guard.release().await.unwrap());
    }
    cache.set_many([("{t}:a", 1), ("{t}:b", 2)], None).await.unwrap();
    let none = |_: Vec<&str>| async { Ok::<_, std::io::Error>(Vec::<(&str, u64)>::new()) };
    let life = Duration::from_secs(60);
    let both = cache.get_or_load_many(["{t}:a", "{t}:b"], life, none).await.unwrap();
    assert_eq!(both.into_iter().map(|one| *one.unwrap().unwrap()).sum::<u64>(), 3);
    let after = (by_role(&cluster, "get").await, by_role(&cluster, "mget").await);
    let (moved, readonly) = (cluster.refusals("MOVED").await, cluster.refusals("READONLY").await);
    println!(
        "replica reads: near, loaded, groups with writes and locks: GET and MGET at (primaries, replicas) {before:?} -> {after:?}; \
         refused writes {moved} MOVED, {readonly} READONLY"
    );
    let at_replicas = |counts: ((u64, u64), (u64, u64))| (counts.0.1, counts.1.1);
    assert_eq!(at_replicas(after), at_replicas(before), "one was asked for more than a plain read");
    assert!(after.0.0 >= before.0.0 + 4 * KEYS && after.1.0 > before.1.0);
    assert_eq!((moved, readonly), (0, 0), "a replica was sent a write");
}

/// Reads until it is told to stop; what failed, and the longest.
async fn reads(cache: CacheClient, until: Instant) -> (u64, Vec<larder::Error>, Duration) {
    let (mut done, mut failed, mut longest) = (0, Vec::new(), Duration::ZERO);
    while Instant::now() < until {
        let asked = Instant::now();
        match cache.get_value(format!("k:{}", done % KEYS)).await {
            Ok(value) => assert!(value.is_some()),
            Err(error) => failed.push(error),
        }
        longest = longest.max(asked.elapsed());
        done += 1;
        tokio::time::sleep(Duration::from_millis(1)).await; // a pace
    }
    (done, failed, longest)
}

async fn while_reading(
    cache: &CacheClient,
    fault: &str,
    length: Duration,
    act: impl AsyncFnOnce(),
) {
    let end = Instant::now() + length;
    let mut readers = JoinSet::new();
    for _ in 0..8 {
        readers.spawn(reads(cache.clone(), end));
    }
    tokio::time::sleep(length / 5).await; // reads before the fault
    act().await;
    let all = readers.join_all().await;
    let count: u64 = all.iter().map(|(count, _, _)| count).sum();
    let longest = all.iter().map(|(_, _, longest)| *longest).max().unwrap();
    let failed: Vec<_> = all.into_iter().flat_map(|(_, failed, _)| failed).collect();
    println!(
        "replica reads, {fault}: {count} reads, {} errors, the longest {:.0} ms",
        failed.len(),
        ms(longest)
    );
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_stopped_or_promoted_costs_no_read() {
    let _turn = alone().await;
    let mut cluster = RedisCluster::start().await;
    let cache = client(&cluster);
    warm(&cluster, &cache).await;
    let length = Duration::from_secs(if times(10) > 1 { 10 } else { 4 });

    let before = calls(&cluster.nodes()[3], "get").await;
    while_reading(&cache, "killed", length, async || {
        assert!(calls(&cluster.nodes()[3], "get").await > before, "it was not read from");
        cluster.kill(3).await;
    })
    .await;
    cluster.restart(3).await;
    until("it is read from again", async || {
        for n in 0..KEYS {
            cache.get_value(format!("k:{n}")).await.unwrap();
        }
        calls(&cluster.nodes()[3], "get").await > 0
    })
    .await;

    while_reading(&cache, "stopped", length, async || {
        assert!(calls(&cluster.nodes()[4], "get").await > 0, "it was not read from");
        cluster.nodes()[4].pause().await;
    })
    .await;
    cluster.nodes()[4].resume().await;

    while_reading(&cache, "promoted", length, async || {
        cluster.fail_over_to(5).await;
    })
    .await;
    assert_eq!(cluster.nodes()[2].info("role").await, "slave");
}

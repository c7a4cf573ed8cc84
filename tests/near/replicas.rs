//! Bad input 35: what is near was read from a replica. It deletes nothing by itself: it is told of changes and of
//! expiries by its primary, late or not at all.

use std::time::{Duration, Instant};

use larder::testing::RedisServer;
use larder::{CacheClient, Namespace};

use super::{alone, client, settle, times, until, versions};

/// A primary, its replica, and a client that knows the replica alone.
async fn replicated() -> (RedisServer, RedisServer, CacheClient) {
    // A full copy starts at once, not after the five seconds in which other replicas might come.
    let primary = RedisServer::builder().arg("--repl-diskless-sync-delay").arg("0").start().await;
    let port = primary.port().to_string();
    let replica = RedisServer::builder().arg("--replicaof").arg("127.0.0.1").arg(port);
    let replica = replica.start().await;
    linked(&replica).await;
    let cache = client(&replica).await;
    (primary, replica, cache)
}

async fn linked(replica: &RedisServer) {
    until("the replica follows", async || replica.info("master_link_status").await == "up").await;
}

/// Sets a value on the primary and reads it from the replica until it is near.
async fn near(primary: &RedisServer, values: &Namespace<u64, u64>, value: u64, more: &[&str]) {
    let value_text = value.to_string();
    let set = [&["SET", "v:1", &value_text], more].concat();
    assert!(!primary.command(&set).await.is_error());
    until("it is near", async || settle(values, 1).await == Some(value)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_on_the_primary_goes_from_who_read_it_from_a_replica() {
    let _turn = alone().await;
    let (primary, replica, cache) = replicated().await;
    let values = versions(&cache);
    let rounds = times(300);
    let ways: [(&str, &[&str], Option<u64>); 9] = [
        ("SET", &["SET", "v:1", "7"], Some(7)),
        ("DEL", &["DEL", "v:1"], None),
        ("PEXPIRE 1 ms", &["PEXPIRE", "v:1", "1"], None),
        ("RENAME away", &["RENAME", "v:1", "elsewhere"], None),
        (
            "RENAME",
            &["EVAL", "redis.call('SET','o',7) redis.call('RENAME','o','v:1')", "0"],
            Some(7),
        ),
        (
            "COPY",
            &["EVAL", "redis.call('SET','o',7) redis.call('COPY','o','v:1','REPLACE')", "0"],
            Some(7),
        ),
        ("GETDEL", &["GETDEL", "v:1"], None),
        ("FLUSHDB", &["FLUSHDB"], None),
        ("FLUSHALL", &["FLUSHALL"], None),
    ];
    for (name, way, wanted) in ways {
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            near(&primary, &values, 1_000 + round, &[]).await;
            assert!(!primary.command(way).await.is_error(), "{name}");
            let from = Instant::now();
            until(name, async || values.get(&1).await.unwrap().as_deref() == wanted.as_ref()).await;
            longest = longest.max(from.elapsed());
        }
        println!("P16: replica, {name:16} {rounds:5}      0  {longest:?}");
        assert!(longest < Duration::from_millis(500), "{name}: {longest:?}");
    }
    assert_eq!(replica.info("role").await, "slave");
    assert!(cache.stats().reads["v"].invalidations.pushed >= 7 * rounds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_goes_from_who_read_it_from_a_replica_though_its_primary_says_nothing() {
    let _turn = alone().await;
    let (primary, replica, cache) = replicated().await;
    let values = versions(&cache);
    let (rounds, mut longest) = (times(300), [Duration::ZERO; 2]);
    // From here on there is a connection that tracks.
    near(&primary, &values, 1_000, &[]).await;
    for round in 0..rounds {
        // One of five on a primary that stands still: nobody deletes the key, and nobody tells of its end.
        let silent = round % 5 == 4;
        let life = if silent { 800 } else { 600 + round % 10 * 20 };
        near(&primary, &values, round, &["PX", &life.to_string()]).await;
        let mut ends = Instant::now() + Duration::from_millis(life);
        if round % 2 == 1 && !silent {
            primary.command(&["PEXPIRE", "v:1", "40"]).await;
            ends = Instant::now() + Duration::from_millis(40);
            until("the replica has heard of it", async || {
                replica.command(&["PTTL", "v:1"]).await.int().is_some_and(|left| left <= 40)
            })
            .await;
        }
        if silent {
            primary.pause().await;
        }
        // How late the last read began that still gave it: not how long the machine took to answer.
        loop {
            let began = Instant::now();
            if values.get(&1).await.unwrap().is_none() {
                break;
            }
            let late = began.saturating_duration_since(ends);
            longest[usize::from(silent)] = longest[usize::from(silent)].max(late);
            tokio::task::yield_now().await;
        }
        if silent {
            // The witness: the key stands there still.
            assert_eq!(replica.command(&["DBSIZE"]).await.int(), Some(1));
            primary.resume().await;
        }
        until("the replica deletes it", async || {
            replica.command(&["DBSIZE"]).await.int() == Some(0)
        })
        .await;
    }
    println!(
        "P17: {rounds} values of 600 to 800 ms read from a replica, some of them shortened: gone {:?} late at most, and {:?} where the primary stood still",
        longest[0], longest[1]
    );
    assert!(longest[0].max(longest[1]) < Duration::from_millis(100), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_copies_its_primary_anew_leaves_nothing_of_before() {
    let _turn = alone().await;
    let (mut primary, replica, cache) = replicated().await;
    let values = versions(&cache);
    let (rounds, mut copies) = (times(50).max(3), 0);
    for round in 0..rounds {
        near(&primary, &values, round, &[]).await;
        // It comes back empty, and gets other data before the replica has found it.
        primary.kill().await;
        primary.restart().await;
        primary.command(&["SET", "v:1", "999999"]).await;
        linked(&replica).await;
        until("the new data", async || values.get(&1).await.unwrap().as_deref() == Some(&999_999))
            .await;
        // The witness; the primary counts from its start.
        copies += primary.info("sync_full").await.parse::<u64>().unwrap();
    }
    let gone = cache.stats().reads["v"].invalidations;
    println!(
        "P16: {rounds} primaries that came back with other data, {copies} full copies: 0 stale, {gone:?}"
    );
    assert!(gone.flushed + gone.lost >= rounds && copies >= rounds, "{gone:?}");
}

//! P16: whatever removes a value from the server removes it from here.

use std::time::Duration;

use larder::testing::{RedisServer, Resp};
use larder::{CacheClient, ReadFrom};

use super::{alone, client, settle, times, until, versions};

/// Waits until the key reads as `wanted`, and counts how long that took.
async fn follows(values: &larder::Namespace<u64, u64>, key: u64, wanted: Option<u64>) -> Duration {
    let from = std::time::Instant::now();
    until("the change arrives", async || {
        values.get(&key).await.unwrap().as_deref().copied() == wanted
    })
    .await;
    from.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_which_a_value_goes_is_noticed() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    let values = versions(&cache);
    let rounds = times(1_000);
    let ways: [(&str, &[&str]); 7] = [
        ("DEL", &["DEL", "v:1"]),
        ("UNLINK", &["UNLINK", "v:1"]),
        ("FLUSHDB", &["FLUSHDB"]),
        ("FLUSHALL", &["FLUSHALL"]),
        ("RENAME away", &["RENAME", "v:1", "elsewhere"]),
        ("PEXPIRE 1 ms", &["PEXPIRE", "v:1", "1"]),
        ("GETDEL", &["GETDEL", "v:1"]),
    ];
    println!("P16: event            times  stale  longest");
    for (name, way) in ways {
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            server.command(&["SET", "v:1", &round.to_string()]).await;
            until("it is near", async || settle(&values, 1).await == Some(round)).await;
            server.command(way).await;
            longest = longest.max(follows(&values, 1, None).await);
        }
        println!("P16: {name:16} {rounds:5}      0  {longest:?}");
        assert!(longest < Duration::from_millis(500), "{name}: {longest:?}");
    }
    let reads = &cache.stats().reads["v"];
    assert!(reads.invalidations.flushed > 0 && reads.invalidations.pushed > 0, "{reads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracking_table_that_overflows_costs_entries_and_no_truth() {
    let _turn = alone().await;
    let server = RedisServer::builder().arg("--tracking-table-max-keys").arg("100").start().await;
    let cache = client(&server).await;
    let values = versions(&cache);
    const KEYS: u64 = 1_000;
    for key in 0..KEYS {
        server.command(&["SET", &format!("v:{key}"), "1"]).await;
    }
    let mut stale = 0;
    for round in 2..=times(30).max(3) {
        for key in 0..KEYS {
            values.get(&key).await.unwrap();
        }
        for key in 0..KEYS {
            server.command(&["SET", &format!("v:{key}"), &round.to_string()]).await;
        }
        tokio::time::sleep(super::QUIET).await; // the bound of the promise
        for key in 0..KEYS {
            stale += u64::from(values.get(&key).await.unwrap().as_deref() != Some(&round));
        }
    }
    let pushed = cache.stats().reads["v"].invalidations.pushed;
    println!(
        "P16: tracking table of 100 keys under {KEYS}: {pushed} entries pushed out, {stale} stale"
    );
    assert!(pushed > KEYS - 100);
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_the_server_evicts_go_here_as_well() {
    let _turn = alone().await;
    let server = RedisServer::builder()
        .arg("--maxmemory")
        .arg("3mb")
        .arg("--maxmemory-policy")
        .arg("allkeys-lru")
        .start()
        .await;
    let cache = client(&server).await;
    let values = versions(&cache);
    const KEYS: u64 = 200;
    let padding = "x".repeat(20_000);
    let (mut evicted, mut stale) = (0_u64, 0_u64);
    for round in 0..times(50).max(5) {
        for key in 0..KEYS {
            server.command(&["SET", &format!("v:{key}"), &round.to_string()]).await;
            values.get(&key).await.unwrap();
        }
        for filler in 0..150 {
            server.command(&["SET", &format!("filler:{filler}"), &padding]).await;
        }
        tokio::time::sleep(super::QUIET).await; // the bound of the promise
        for key in 0..KEYS {
            let there = server.command(&["EXISTS", &format!("v:{key}")]).await == Resp::Int(1);
            let near = values.get(&key).await.unwrap();
            evicted += u64::from(!there);
            stale += u64::from(!there && near.is_some());
        }
    }
    println!("P16: {evicted} values evicted by the server, {stale} of them still near");
    assert!(evicted > 100, "only {evicted} were evicted");
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_neither_hangs_nor_leaves_anything_stale() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    let values = versions(&cache);
    const KEYS: u64 = 2_000;
    let rounds = times(100).max(10);
    let mut other = server.connect().await;
    for round in 0..rounds {
        let mut set = vec!["MSET".to_owned()];
        for key in 0..KEYS {
            set.push(format!("v:{key}"));
            set.push(round.to_string());
        }
        let keys: Vec<u64> = (0..KEYS).collect();
        values.get_many(&keys).await.unwrap();
        other.command(&set).await.unwrap();
    }
    tokio::time::sleep(super::QUIET).await; // the bound of the promise
    let mut stale = 0;
    for key in 0..KEYS {
        stale += u64::from(values.get(&key).await.unwrap().as_deref() != Some(&(rounds - 1)));
    }
    let pushed = cache.stats().reads["v"].invalidations.pushed;
    println!(
        "P16: {} changes in floods of {KEYS}, {pushed} entries pushed out, {stale} stale",
        rounds * KEYS
    );
    assert!(pushed > KEYS);
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_to_track_is_read_all_the_same_and_nothing_is_near() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    // All of CLIENT: servers before 7.0 cannot take one subcommand away.
    let rules = ["ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-client"];
    assert!(!server.command(&rules).await.is_error());
    let url = format!("redis://plain:pw@{}", server.addr());
    let cache = CacheClient::connect(url).await.unwrap();
    let values = versions(&cache);
    let (mut near, mut wrong) = (0, 0);
    for round in 0..times(1_000) {
        server.command(&["SET", "v:1", &round.to_string()]).await;
        wrong += u64::from(values.get(&1).await.unwrap().as_deref() != Some(&round));
        near += u64::from(values.explain(&1) == Some(ReadFrom::Near));
    }
    // And one loader runs still, by looking again from time to time.
    let loaded = values.get_or_load(&2, || async { Ok::<u64, std::io::Error>(7) }).await.unwrap();
    println!("P16: tracking refused: {near} near, {wrong} wrong");
    assert_eq!((*loaded, near, wrong), (7, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_told_by_prefix_hears_of_keys_that_nobody_read() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    let values = cache.namespace::<u64, u64>("v").near(true).broadcast(true).build().unwrap();
    let overlapping = cache.namespace::<u64, u64>("v:w").near(true).broadcast(true).build();
    assert!(overlapping.is_err(), "a prefix within another one");
    let (rounds, mut longest) = (times(1_000), Duration::ZERO);
    for round in 1..=rounds {
        server.command(&["SET", "v:1", &round.to_string()]).await;
        until("it is near", async || settle(&values, 1).await == Some(round)).await;
        server.command(&["SET", "v:1", "0"]).await;
        longest = longest.max(follows(&values, 1, Some(0)).await);
    }
    println!("P16: told by prefix: {rounds} changes, 0 stale, longest {longest:?}");
    assert!(longest < Duration::from_millis(500));
}

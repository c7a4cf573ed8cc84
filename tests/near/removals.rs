//! P16: whatever removes a value from the server removes it from here.

use std::time::Duration;

use larder::testing::{RedisServer, Resp};
use larder::{CacheClient, ReadFrom};

use super::{alone, client, settle, times, until, versions};
use crate::common::place::{Place, plain};

/// Waits until the key reads as `wanted`, and counts how long that took.
async fn follows(values: &larder::Namespace<u64, u64>, key: u64, wanted: Option<u64>) -> Duration {
    let from = std::time::Instant::now();
    until("the change arrives", async || {
        values.get(&key).await.unwrap().as_deref().copied() == wanted
    })
    .await;
    from.elapsed()
}

const WAYS: [&str; 7] =
    ["DEL", "UNLINK", "FLUSHDB", "FLUSHALL", "RENAME away", "PEXPIRE 1 ms", "GETDEL"];

/// The command that removes a key in a way.
fn removes(way: &str, key: &str) -> Vec<String> {
    let aside = format!("{{{key}}}:aside");
    let words = match way {
        "FLUSHDB" | "FLUSHALL" => vec![way],
        "RENAME away" => vec!["RENAME", key, &aside],
        "PEXPIRE 1 ms" => vec!["PEXPIRE", key, "1"],
        _ => vec![way, key],
    };
    words.into_iter().map(str::to_owned).collect()
}

async fn every_way_is_noticed(place: Place) {
    let cache = place.client().await;
    let values = versions(&cache);
    // A key of each server: what happens at one is no other one's matter.
    let keys = place.numbers("v:", 1).concat();
    let rounds = times(1_000) / keys.len() as u64;
    let mut direct = place.direct().await;
    println!("P16{}: event            times  stale  longest", place.name());
    let (mut kept, mut others) = (0, 0);
    for way in WAYS {
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            for (at, key) in keys.iter().enumerate() {
                let version = (round * keys.len() as u64 + at as u64).to_string();
                for (key, direct) in keys.iter().zip(&mut direct) {
                    direct.command(&["SET", &format!("v:{key}"), &version]).await.unwrap();
                }
                for key in &keys {
                    let wanted = version.parse().ok();
                    until("it is near", async || settle(&values, *key).await == wanted).await;
                }
                let done = direct[at].command(&removes(way, &format!("v:{key}"))).await.unwrap();
                assert!(!done.is_error(), "{way}: {done}");
                longest = longest.max(follows(&values, *key, None).await);
                for other in keys.iter().filter(|other| *other != key) {
                    let near = values.get(other).await.unwrap();
                    assert_eq!(near.as_deref().copied(), version.parse().ok(), "{way}");
                    others += 1;
                    kept += u64::from(values.explain(other) == Some(ReadFrom::Near));
                }
            }
        }
        let count = rounds * keys.len() as u64;
        println!("P16{}: {way:16} {count:5}      0  {longest:?}", place.name());
        assert!(longest < Duration::from_millis(500), "{way}: {longest:?}");
    }
    if others > 0 {
        println!("P16{}: entries of other nodes kept meanwhile: {kept} of {others}", place.name());
    }
    assert_eq!(kept, others, "what happens at one node is no other one's matter");
    let reads = &cache.stats().reads["v"];
    assert!(reads.invalidations.flushed > 0 && reads.invalidations.pushed > 0, "{reads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_which_a_value_goes_is_noticed() {
    let _turn = alone().await;
    every_way_is_noticed(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_which_a_value_goes_is_noticed_on_each_node_of_a_cluster() {
    let _turn = alone().await;
    every_way_is_noticed(Place::cluster(plain).await).await;
}

async fn a_table_overflows(place: Place) {
    let cache = place.client().await;
    let values = versions(&cache);
    const KEYS: u64 = 1_000;
    let mut direct = place.direct().await;
    let mut stale = 0;
    for round in 1..=times(30).max(3) {
        if round > 1 {
            for key in 0..KEYS {
                values.get(&key).await.unwrap();
            }
        }
        for key in 0..KEYS {
            let key = format!("v:{key}");
            let direct = &mut direct[place.at(&key)];
            direct.command(&["SET", &key, &round.to_string()]).await.unwrap();
        }
        tokio::time::sleep(super::QUIET).await; // the bound of the promise
        for key in 0..KEYS {
            stale += u64::from(values.get(&key).await.unwrap().as_deref() != Some(&round));
        }
    }
    let pushed = cache.stats().reads["v"].invalidations.pushed;
    println!(
        "P16{}: tracking tables of 100 keys under {KEYS}: {pushed} entries pushed out, {stale} stale",
        place.name()
    );
    assert!(pushed > KEYS - 100 * place.nodes().len() as u64);
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracking_table_that_overflows_costs_entries_and_no_truth() {
    let _turn = alone().await;
    let place = Place::one(|server| server.arg("--tracking-table-max-keys").arg("100")).await;
    a_table_overflows(place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tracking_tables_of_a_cluster_that_overflow_cost_entries_and_no_truth() {
    let _turn = alone().await;
    let place = Place::cluster(|server| server.arg("--tracking-table-max-keys").arg("100")).await;
    a_table_overflows(place).await;
}

async fn values_are_evicted(place: Place) {
    let cache = place.client().await;
    let values = versions(&cache);
    // Room for two megabytes beside what each server itself needs.
    for node in place.nodes() {
        let used: u64 = node.info("used_memory").await.parse().unwrap();
        let most = (used + (2 << 20)).to_string();
        assert!(!node.command(&["CONFIG", "SET", "maxmemory", &most]).await.is_error());
    }
    let keys = place.numbers("v:", 200 / place.nodes().len());
    let fillers = place.numbers("filler:", 150);
    let mut direct = place.direct().await;
    let padding = "x".repeat(20_000);
    let (mut evicted, mut stale) = (0_u64, 0_u64);
    for round in 0..times(50).max(5) {
        for (keys, direct) in keys.iter().zip(&mut direct) {
            for key in keys {
                direct.command(&["SET", &format!("v:{key}"), &round.to_string()]).await.unwrap();
                values.get(key).await.unwrap();
            }
        }
        for (fillers, direct) in fillers.iter().zip(&mut direct) {
            for filler in fillers {
                direct.command(&["SET", &format!("filler:{filler}"), &padding]).await.unwrap();
            }
        }
        tokio::time::sleep(super::QUIET).await; // the bound of the promise
        for (keys, direct) in keys.iter().zip(&mut direct) {
            for key in keys {
                let there = direct.command(&["EXISTS", &format!("v:{key}")]).await.unwrap();
                let near = values.get(key).await.unwrap();
                evicted += u64::from(there == Resp::Int(0));
                stale += u64::from(there == Resp::Int(0) && near.is_some());
            }
        }
    }
    println!(
        "P16{}: {evicted} values evicted by the server, {stale} of them still near",
        place.name()
    );
    assert!(evicted > 100, "only {evicted} were evicted");
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_the_server_evicts_go_here_as_well() {
    let _turn = alone().await;
    let place = Place::one(|server| server.arg("--maxmemory-policy").arg("allkeys-lru")).await;
    values_are_evicted(place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_the_nodes_of_a_cluster_evict_go_here_as_well() {
    let _turn = alone().await;
    let place = Place::cluster(|server| server.arg("--maxmemory-policy").arg("allkeys-lru")).await;
    values_are_evicted(place).await;
}

async fn a_flood_of_changes(place: Place) {
    let cache = place.client().await;
    let values = versions(&cache);
    const KEYS: u64 = 2_000;
    let rounds = times(100).max(10) / place.nodes().len() as u64;
    let other = place.client().await;
    let keys: Vec<u64> = (0..KEYS).collect();
    for round in 0..rounds {
        // What one call read from several nodes is not kept.
        match place.nodes() {
            [_] => _ = values.get_many(&keys).await.unwrap(),
            _ => {
                for key in &keys {
                    values.get(key).await.unwrap();
                }
            }
        }
        let all = keys.iter().map(|key| (format!("v:{key}"), round));
        other.set_many(all, None).await.unwrap();
    }
    tokio::time::sleep(super::QUIET).await; // the bound of the promise
    let mut stale = 0;
    for key in 0..KEYS {
        stale += u64::from(values.get(&key).await.unwrap().as_deref() != Some(&(rounds - 1)));
    }
    let pushed = cache.stats().reads["v"].invalidations.pushed;
    println!(
        "P16{}: {} changes in floods of {KEYS}, {pushed} entries pushed out, {stale} stale",
        place.name(),
        rounds * KEYS
    );
    assert!(pushed > KEYS);
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_neither_hangs_nor_leaves_anything_stale() {
    let _turn = alone().await;
    a_flood_of_changes(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_changes_on_a_cluster_neither_hangs_nor_leaves_anything_stale() {
    let _turn = alone().await;
    a_flood_of_changes(Place::cluster(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_to_track_is_read_all_the_same_and_nothing_is_near() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    // All of CLIENT: servers before 7.0 cannot take one subcommand away.
    let rules = ["ACL", "SETUSER", "plain", "on", ">pw", "~*", "+@all", "-client"];
    assert!(!server.command(&rules).await.is_error());
    let url = format!("redis://plain:pw@{}", server.addr());
    let cache = CacheClient::connect(&url).await.unwrap();
    nothing_is_near("tracking refused", &server, &cache).await;
    // Whoever asks once it is granted is told: the client above does so after a minute.
    let cache = CacheClient::connect(&url).await.unwrap();
    assert!(!server.command(&["ACL", "SETUSER", "plain", "+client"]).await.is_error());
    let values = versions(&cache);
    server.command(&["SET", "v:3", "3"]).await;
    until("it is near", async || {
        _ = values.get(&3).await.unwrap();
        values.explain(&3) == Some(ReadFrom::Near)
    })
    .await;
    assert!(!cache.capabilities().tracking_refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_resp3_is_read_all_the_same_and_nothing_is_near() {
    let _turn = alone().await;
    let server = RedisServer::builder().arg("--rename-command").arg("HELLO").arg("").start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    nothing_is_near("no RESP3", &server, &cache).await;
}

/// Of a client whose server does not tell of changes.
async fn nothing_is_near(how: &str, server: &RedisServer, cache: &CacheClient) {
    let values = versions(cache);
    let (mut near, mut wrong) = (0, 0);
    for round in 0..times(1_000) {
        server.command(&["SET", "v:1", &round.to_string()]).await;
        wrong += u64::from(values.get(&1).await.unwrap().as_deref() != Some(&round));
        near += u64::from(values.explain(&1) == Some(ReadFrom::Near));
    }
    // And one loader runs still, by looking again from time to time.
    let loaded = values.get_or_load(&2, || async { Ok::<u64, std::io::Error>(7) }).await.unwrap();
    // So does who waits for a lock.
    let other = client(server).await;
    let guard = other.lock("l").lease(Duration::from_secs(10)).acquire().await.unwrap();
    let waits = cache.lock("l").wait(Duration::from_secs(10));
    let waiting = tokio::spawn(async move { waits.acquire().await });
    until("somebody waits", async || cache.stats().locks.contended > 0).await;
    assert!(guard.release().await.unwrap());
    assert!(waiting.await.unwrap().unwrap().release().await.unwrap());
    println!("P16: {how}: {near} near, {wrong} wrong");
    assert_eq!((*loaded, near, wrong), (7, 0, 0));
    let can = cache.capabilities();
    assert!(can.tracking && can.tracking_refused, "{can:?}");
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

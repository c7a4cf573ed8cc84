//! P15: what a lost connection vouched for is not served; and P14, answers that cross with changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisServer, Resp};
use larder::{CacheClient, ReadFrom};

use super::{QUIET, alone, client, settle, times, until, versions};
use crate::common::place::{Place, plain};
use crate::common::tracking;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_connection_vouched_for_is_not_served() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    let values = versions(&cache);
    let (rounds, mut stale, mut killed) = (times(1_000).max(100), 0_u64, 0_u64);
    for round in 1..=rounds {
        server.command(&["SET", "v:1", &round.to_string()]).await;
        until("the new value is near", async || settle(&values, 1).await == Some(round)).await;
        let lost = cache.stats().reads["v"].invalidations.lost;
        for id in tracking(&server).await {
            if server.command(&["CLIENT", "KILL", "ID", &id]).await == Resp::Int(1) {
                killed += 1;
            }
        }
        // Nobody is left to tell of this one.
        server.command(&["SET", "v:1", &format!("{}", round + 1_000_000)]).await;
        // The entry went with the connection, not with a push: nothing older is served from then on.
        until("the entry is given up", async || {
            let seen = values.get(&1).await.unwrap().as_deref().copied();
            if seen == Some(round) && cache.stats().reads["v"].invalidations.lost > lost {
                stale += 1;
            }
            seen == Some(round + 1_000_000)
        })
        .await;
    }
    let lost = cache.stats().reads["v"].invalidations.lost;
    println!(
        "P15: {killed} tracked connections killed while another client wrote, {lost} entries given up with them, {stale} stale after the notice"
    );
    assert!(killed >= rounds && lost >= rounds / 2, "{killed} killed, {lost} given up");
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_with_other_data_leaves_nothing_stale() {
    let _turn = alone().await;
    let mut server = RedisServer::start().await;
    let cache = client(&server).await;
    let values = versions(&cache);
    let (rounds, mut stale) = (times(50).max(5), 0);
    for round in 0..rounds {
        server.command(&["SET", "v:1", &round.to_string()]).await;
        until("the value is near", async || settle(&values, 1).await == Some(round)).await;
        server.kill().await;
        server.restart().await;
        server.command(&["SET", "v:1", "999999"]).await;
        until("a connection is back", async || cache.ping().await.is_ok()).await;
        // Whoever is told of nothing may not serve the old value.
        if values.get(&1).await.unwrap().as_deref() != Some(&999_999) {
            stale += 1;
        }
    }
    println!("P15: {rounds} servers killed and started again with other data, {stale} stale");
    assert_eq!(stale, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_before_tracking_is_acknowledged() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache =
        CacheClient::builder().url(proxy.url()).deadline(Duration::from_secs(20)).build().unwrap();
    cache.ping().await.unwrap();
    server.command(&["SET", "v:1", "1"]).await;
    // Every answer is late: also the one to CLIENT TRACKING ON.
    proxy.to_client().delay(Duration::from_millis(300)..Duration::from_millis(301));
    let values = versions(&cache);
    let mut kept = 0;
    for _ in 0..3 {
        values.get(&1).await.unwrap();
        if tracking(&server).await.is_empty() && values.explain(&1) == Some(ReadFrom::Near) {
            kept += 1;
        }
    }
    proxy.to_client().delay(None);
    until("it is near once it is tracked", async || {
        values.get(&1).await.unwrap();
        values.explain(&1) == Some(ReadFrom::Near)
    })
    .await;
    assert_eq!(tracking(&server).await.len(), 1);
    println!("P15: entries kept untracked: {kept}");
    assert_eq!(kept, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_black_hole_a_value_is_served_for_two_seconds_at_most() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::builder().url(proxy.url()).build().unwrap();
    let values = versions(&cache);
    let mut longest = Duration::ZERO;
    for round in 0..times(20).max(2) {
        server.command(&["SET", "v:1", &round.to_string()]).await;
        until("the value is near", async || settle(&values, 1).await == Some(round)).await;
        proxy.to_client().swallow(true);
        let from = Instant::now();
        server.command(&["SET", "v:1", "999999"]).await;
        until("the silence is noticed", async || match values.get(&1).await {
            Ok(value) => value.as_deref() != Some(&round),
            Err(_) => true,
        })
        .await;
        longest = longest.max(from.elapsed());
        assert!(proxy.to_client().swallowed() > 0, "nothing was swallowed");
        proxy.to_client().swallow(false);
        proxy.cut(larder::testing::Cut::Reset);
        until("a connection is back", async || cache.ping().await.is_ok()).await;
    }
    println!(
        "P15: served behind a black hole for {longest:?} at most (1 s to the next ping, 1 s for its answer)"
    );
    // The last read goes to the silent server itself, and ends with the deadline of one second.
    assert!(longest < Duration::from_millis(3_500), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_that_cross_with_changes_leave_no_stale_entry() {
    let _turn = alone().await;
    answers_cross_with_changes(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_of_a_cluster_that_cross_with_changes_leave_no_stale_entry() {
    let _turn = alone().await;
    answers_cross_with_changes(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn answers_cross_with_changes(place: Place) {
    for proxy in place.proxies() {
        proxy.to_client().slice(7);
    }
    let cache = CacheClient::builder().url(place.url()).build().unwrap();
    let values = versions(&cache);
    const KEYS: u64 = 50;
    let (rounds, mut stale) = (times(100_000) / KEYS / 4, 0_u64);
    let near = Arc::new(AtomicU64::new(0));
    let mut direct = place.direct().await;
    for round in 1..=rounds {
        let version = round.to_string();
        // Four readers a key race one write each; one of them reads many keys at once.
        let mut readers = Vec::new();
        for reader in 0..4 {
            let (values, near) = (values.clone(), Arc::clone(&near));
            readers.push(tokio::spawn(async move {
                if reader == 0 {
                    let keys: Vec<u64> = (0..KEYS).collect();
                    values.get_many(&keys).await.unwrap();
                    return;
                }
                for key in 0..KEYS {
                    values.get(&key).await.unwrap();
                    if values.explain(&key) == Some(ReadFrom::Near) {
                        near.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        for key in 0..KEYS {
            let key = format!("v:{key}");
            direct[place.at(&key)].command(&["SET", &key, &version]).await.unwrap();
        }
        for reader in readers {
            reader.await.unwrap();
        }
        if round % 20 == 0 || round == rounds {
            // The promise is about what is left when all is quiet.
            tokio::time::sleep(QUIET).await;
            for key in 0..KEYS {
                let value = values.get(&key).await.unwrap();
                stale += u64::from(value.as_deref() != Some(&round));
            }
        }
    }
    let near = near.load(Ordering::Relaxed);
    println!(
        "P14{}: {} races over a sliced wire, {near} reads near; stale entries after quiescence: {stale}",
        place.name(),
        rounds * KEYS * 4
    );
    assert!(near > rounds, "nothing was ever near");
    assert_eq!(stale, 0);
}

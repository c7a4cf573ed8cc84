//! P17: a value is near for no longer than the server keeps it, and all of them for no more bytes than allowed.

use std::time::{Duration, Instant};

use larder::testing::RedisServer;

use super::{Lateness, alone, client, settle, times, versions};
use crate::common::place::{Place, plain};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_not_near_after_it_expired() {
    let _turn = alone().await;
    values_expire(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_any_node_of_a_cluster_is_not_near_after_it_expired() {
    let _turn = alone().await;
    values_expire(Place::cluster(plain).await).await;
}

async fn values_expire(place: Place) {
    // Where many keys expire, a server tells of one late: the local timer has to do it.
    let mut direct = place.direct().await;
    let each = 40_000 / place.nodes().len();
    for (numbers, direct) in place.numbers("filler:", each).iter().zip(&mut direct) {
        for some in numbers.chunks(1_000) {
            for filler in some {
                let set = ["SET", &format!("filler:{filler}"), "x", "PX", "600000"];
                direct.send(&set).await.unwrap();
            }
            for _ in some {
                assert!(!direct.reply().await.unwrap().is_error());
            }
        }
    }
    let cache = place.client().await;
    let values = versions(&cache);
    let keys = place.numbers("v:", 1).concat();
    let (rounds, mut longest) = (times(300), Duration::ZERO);
    for round in 0..rounds {
        let at = round as usize % keys.len();
        let (key, direct) = (keys[at], &mut direct[at]);
        // One of ten for so long that the clock of the kernel's ticks is asked at first.
        let long = if round % 10 == 4 { 1_150 } else { 0 };
        let (name, life) = (format!("v:{key}"), 50 + round % 10 * 20 + long);
        let sent = Instant::now();
        direct.command(&["SET", &name, "1", "PX", &life.to_string()]).await.unwrap();
        let acked = Instant::now();
        settle(&values, key).await;
        let mut ends = acked + Duration::from_millis(life);
        if round % 2 == 1 {
            direct.command(&["PEXPIRE", &name, "20"]).await.unwrap();
            ends = Instant::now() + Duration::from_millis(20);
        }
        assert!(ends > sent);
        // How late the last read began that still gave it: not how long the machine took to answer.
        loop {
            let began = Instant::now();
            if values.get(&key).await.unwrap().is_none() {
                break;
            }
            longest = longest.max(began.saturating_duration_since(ends));
            tokio::task::yield_now().await;
        }
    }
    println!(
        "P17{}: {rounds} values of 50 to 1,280 ms, half of them shortened: served {longest:?} late at most",
        place.name()
    );
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_of_ones_own_is_kept_although_the_server_keeps_the_value() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    let cap = Duration::from_millis(80);
    let values = cache.namespace::<u64, u64>("v").near(true).near_ttl(cap).build().unwrap();
    server.command(&["SET", "v:1", "1"]).await;
    settle(&values, 1).await;
    let (from, machine) = (Instant::now(), Lateness::watch());
    // When the last read began that was answered near.
    let mut last = Duration::ZERO;
    super::until("it is read from the server again", async || {
        let began = from.elapsed();
        values.get(&1).await.unwrap();
        let near = values.explain(&1) == Some(larder::ReadFrom::Near);
        if near {
            last = began;
        }
        !near
    })
    .await;
    let machine = machine.most().await;
    println!("P17: a cap of {cap:?} ended after {last:?}");
    assert!(last < cap + Duration::from_millis(50) + machine, "{last:?}");
}

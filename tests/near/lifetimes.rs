//! P17: a value is near for no longer than the server keeps it, and all of them for no more bytes than allowed.

use std::time::{Duration, Instant};

use larder::testing::RedisServer;

use super::{alone, client, settle, times, versions};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_not_near_after_it_expired() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    // Where many keys expire, the server tells of one late: the local timer has to do it.
    let mut raw = server.connect().await;
    for filler in 0..2_000 {
        let mut set = vec!["MSET".to_owned()];
        for at in 0..20 {
            set.extend([format!("filler:{filler}:{at}"), "x".to_owned()]);
        }
        raw.command(&set).await.unwrap();
    }
    raw.command(&[
        "EVAL",
        "for i = 0, 1999 do for j = 0, 19 do redis.call('PEXPIRE', 'filler:' .. i .. ':' .. j, 600000) end end",
        "0",
    ])
    .await
    .unwrap();
    let cache = client(&server).await;
    let values = versions(&cache);
    let (rounds, mut longest) = (times(300), Duration::ZERO);
    for round in 0..rounds {
        let life = 50 + round % 10 * 20;
        let sent = Instant::now();
        server.command(&["SET", "v:1", "1", "PX", &life.to_string()]).await;
        let acked = Instant::now();
        settle(&values, 1).await;
        let mut ends = acked + Duration::from_millis(life);
        if round % 2 == 1 {
            server.command(&["PEXPIRE", "v:1", "20"]).await;
            ends = Instant::now() + Duration::from_millis(20);
        }
        assert!(ends > sent);
        while values.get(&1).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        longest = longest.max(Instant::now().saturating_duration_since(ends));
    }
    println!(
        "P17: {rounds} values of 50 to 230 ms, half of them shortened: gone {longest:?} late at most"
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
    let from = Instant::now();
    super::until("it is read from the server again", async || {
        values.get(&1).await.unwrap();
        values.explain(&1) != Some(larder::ReadFrom::Near)
    })
    .await;
    let took = from.elapsed();
    println!("P17: a cap of {cap:?} ended after {took:?}");
    assert!(took < cap + Duration::from_millis(50), "{took:?}");
}

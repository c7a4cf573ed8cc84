//! P7: after the server is back, calls succeed within a second; until then it is not hammered, and
//! nothing is sent late.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisServer};
use larder::{CacheClient, Direction, Outcome};
use tokio::task::JoinSet;

use crate::{alone, cpu_time, full, ms, quantile};

const CALLERS: usize = 16;

/// Pushes that failed, and when.
type Failed = Arc<Mutex<Vec<(String, Instant)>>>;

async fn keep_calling(cache: CacheClient, caller: usize, failed: Failed, done: Arc<AtomicBool>) {
    for number in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("{caller}-{number}");
        if cache.push_to_list("ids", &id, Direction::Right).await.is_err() {
            failed.lock().unwrap().push((id, Instant::now()));
        }
        let _ = cache.get_value("key").await;
        tokio::time::sleep(Duration::from_millis(5)).await; // a pace, so that what is measured is not the load
    }
}

/// How long it takes until a call succeeds.
async fn recovers(cache: &CacheClient) -> Duration {
    let started = Instant::now();
    while cache.get_value("key").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(5), "the client does not come back");
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_succeed_within_a_second_after_the_server_is_back() {
    let _turn = alone().await;
    let (rounds, outage) =
        if full() { (50, Duration::from_secs(10)) } else { (5, Duration::from_secs(2)) };
    let mut server = RedisServer::start().await;
    let (proxy, quiet_proxy) =
        (FaultProxy::start(server.addr()).await, FaultProxy::start(server.addr()).await);
    let deadline = Duration::from_millis(200);
    let busy = CacheClient::builder().url(proxy.url()).deadline(deadline).build().unwrap();
    let quiet = CacheClient::connect(quiet_proxy.url()).await.unwrap();

    let (failed, done) = (Failed::default(), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (failed, done) = (Arc::clone(&failed), Arc::clone(&done));
        callers.spawn(keep_calling(busy.clone(), caller, failed, done));
    }
    recovers(&busy).await;

    let (mut recovered, mut quiet_recovered) = (Vec::new(), Vec::new());
    let (mut most_attempts, mut most_cpu, mut replayed, mut refused) = (0.0_f64, 0.0_f64, 0, 0);
    for _ in 0..rounds {
        server.kill().await;
        let (down, accepts, cpu) = (Instant::now(), proxy.accepts(), cpu_time());
        let mut seconds = Vec::new();
        let mut before = accepts;
        while down.elapsed() < outage {
            tokio::time::sleep(Duration::from_secs(1)).await; // the outage, a second at a time
            seconds.push(proxy.accepts() - before);
            before = proxy.accepts();
        }
        most_attempts = most_attempts.max(*seconds.iter().max().unwrap() as f64);
        let share = (cpu_time() - cpu).as_secs_f64() / down.elapsed().as_secs_f64() * 100.0;
        most_cpu = most_cpu.max(share);
        let back = Instant::now();
        server.restart().await;
        let (one, other) = tokio::join!(recovers(&busy), recovers(&quiet));
        recovered.push(one);
        quiet_recovered.push(other);

        let present: HashSet<String> = {
            let list = server.command(&["LRANGE", "ids", "0", "-1"]).await;
            list.items().iter().filter_map(larder::testing::Resp::text).collect()
        };
        let failed = std::mem::take(&mut *failed.lock().unwrap());
        refused += failed.len();
        replayed += failed.iter().filter(|(id, at)| *at < back && present.contains(id)).count();
    }
    done.store(true, Ordering::Relaxed);
    callers.join_all().await;

    recovered.sort();
    quiet_recovered.sort();
    println!(
        "P7: {rounds} outages of {outage:?}: recovery p50 {:.0} ms, max {:.0} ms (without calls meanwhile: max \
         {:.0} ms); at most {most_attempts:.0} connects/s, {most_cpu:.1} % CPU, {refused} pushes failed, \
         {replayed} replayed",
        ms(quantile(&recovered, 0.5)),
        ms(quantile(&recovered, 1.0)),
        ms(quantile(&quiet_recovered, 1.0)),
    );
    assert!(quantile(&recovered, 1.0) <= Duration::from_secs(1));
    assert!(quantile(&quiet_recovered, 1.0) <= Duration::from_secs(1));
    assert!((1.0..=20.0).contains(&most_attempts), "{most_attempts} attempts in a second");
    assert!(most_cpu < 25.0, "{most_cpu} % of a core while the server is away");
    assert!(refused > 0);
    assert_eq!(replayed, 0);
}

#[tokio::test]
async fn what_failed_while_the_server_was_away_was_not_sent() {
    let _turn = alone().await;
    let mut server = RedisServer::start().await;
    let cache = CacheClient::builder()
        .url(server.url())
        .deadline(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    server.kill().await;
    // The first may have been written into the dying connection.
    let _ = cache.incr_by("n", 1).await;
    for _ in 0..10 {
        let error = cache.incr_by("n", 1).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotSent, "{error:?}");
    }
    server.restart().await;
    recovers(&cache).await;
    assert_eq!(cache.incr_by("n", 1).await.unwrap(), 1);
}

#[tokio::test]
async fn while_one_connection_is_down_calls_go_over_the_other() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::builder().url(proxy.url()).connections(2).connect().await.unwrap();
    // Which one carries a call is left to chance.
    while proxy.connections() < 2 {
        cache.set_value("key", "value", None).await.unwrap();
    }
    // One of the two is closed, and nobody can dial.
    proxy.refuse(true);
    let clients = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await.text().unwrap();
    let id = clients
        .lines()
        .filter(|line| !line.contains("cmd=client"))
        .find_map(|line| line.strip_prefix("id=")?.split(' ').next())
        .unwrap();
    let killed = server.command(&["CLIENT", "KILL", "ID", id]).await;
    assert_eq!(killed.int(), Some(1));
    for _ in 0..100 {
        assert_eq!(cache.get_value("key").await.unwrap().as_deref(), Some("value"));
    }
}

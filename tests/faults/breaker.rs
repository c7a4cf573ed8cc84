//! While a server does not answer, calls fail at once and are not sent; one at a time asks, so that it is noticed as soon as
//! without. A restart that callers can wait for stays invisible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisCluster, RedisServer};
use larder::{Builder, CacheClient, Error, ErrorKind, LockOptions, Outcome};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::deferred::number;
use crate::{alone, full, ms, quantile};

const DEADLINE: Duration = Duration::from_millis(500);
const CALLERS: usize = 32;

/// When a call ended, how long it took, and whether it succeeded.
type Call = (Instant, Duration, bool);

/// Callers with a pace of 5 ms until they are told to stop.
struct Callers {
    tasks: JoinSet<Vec<Call>>,
    stop: Arc<AtomicBool>,
    /// When a call last succeeded.
    succeeded: watch::Receiver<Instant>,
}

impl Callers {
    fn start(cache: &CacheClient, key: &'static str) -> Self {
        let (success, succeeded) = watch::channel(Instant::now());
        let (stop, mut tasks) = (Arc::<AtomicBool>::default(), JoinSet::new());
        for _ in 0..CALLERS {
            tasks.spawn(keep_calling(cache.clone(), key, Arc::clone(&stop), success.clone()));
        }
        Self { tasks, stop, succeeded }
    }

    async fn succeed_after(&mut self, moment: Instant) -> Instant {
        let succeeded = self.succeeded.wait_for(|at| *at > moment);
        let succeeded = tokio::time::timeout(Duration::from_secs(5), succeeded).await;
        *succeeded.expect("the callers do not come back").unwrap()
    }

    async fn stop(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

async fn keep_calling(
    cache: CacheClient,
    key: &str,
    stop: Arc<AtomicBool>,
    success: watch::Sender<Instant>,
) -> Vec<Call> {
    let mut calls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let done = cache.get_value(key).await;
        let now = Instant::now();
        calls.push((now, now - asked, done.is_ok()));
        if done.is_ok() {
            success.send_replace(now);
        }
        tokio::time::sleep(Duration::from_millis(5)).await; // a pace
    }
    calls
}

fn is_refusal(error: &Error) -> bool {
    error.to_string().contains("it rests")
}

/// A client that is connected: with a short deadline the first call may not be in time for it.
async fn connected(builder: Builder) -> CacheClient {
    let cache = builder.build().unwrap();
    while cache.ping().await.is_err() {}
    cache
}

struct Outage {
    /// Of the calls within it, sorted.
    waited: Vec<Duration>,
    /// From the server's return to the first call that succeeded.
    recovery: Duration,
    stats: larder::BreakerStats,
}

/// What callers see of a server that is stopped for `length`.
async fn outage(breaker: bool, length: Duration) -> Outage {
    let mut server = RedisServer::start().await;
    let builder = CacheClient::builder().url(server.url()).deadline(DEADLINE).breaker(breaker);
    let cache = connected(builder).await;
    let mut callers = Callers::start(&cache, "key");
    server.kill().await;
    let down = Instant::now();
    tokio::time::sleep(length).await; // the outage
    let stats = cache.stats().breaker;
    server.restart().await;
    let back = Instant::now();
    // Without a call of this task's own: it is the callers that have to notice.
    let recovery = callers.succeed_after(back).await - back;
    let calls = callers.stop().await;
    let mut waited: Vec<Duration> = calls
        .iter()
        .filter(|(at, _, well)| !well && *at > down && *at < back)
        .map(|(_, took, _)| *took)
        .collect();
    waited.sort();
    assert!(!cache.stats().breaker.is_open);
    Outage { waited, recovery, stats }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_stopped_server_do_not_wait_and_come_back_as_soon() {
    let _turn = alone().await;
    let length = Duration::from_secs(if full() { 20 } else { 4 });
    let with = outage(true, length).await;
    let without = outage(false, length).await;
    for (name, seen) in [("with", &with), ("without", &without)] {
        println!(
            "breaker, {name}: server stopped for {length:?}, {CALLERS} callers, deadline {DEADLINE:?}: {} calls failed after \
             p50 {:.1} ms, max {:.0} ms; back after {:.0} ms; {:?}",
            seen.waited.len(),
            ms(quantile(&seen.waited, 0.5)),
            ms(quantile(&seen.waited, 1.0)),
            ms(seen.recovery),
            seen.stats,
        );
    }
    assert!(quantile(&without.waited, 0.5) >= DEADLINE, "the server was not away");
    assert_eq!((without.stats.opened, without.stats.refused), (0, 0));
    assert!(with.stats.is_open && with.stats.opened == 1 && with.stats.refused > 100);
    assert!(quantile(&with.waited, 0.5) < DEADLINE / 4);
    assert!(with.recovery <= Duration::from_secs(1), "{:?}", with.recovery);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_not_sent_and_one_call_at_a_time_asks() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    proxy.log_commands(true);
    let builder = CacheClient::builder()
        .url(proxy.url())
        .connections(1)
        .deadline(DEADLINE)
        // Not left within this test: what is sent while the breaker is open can be counted at the proxy.
        .ping_interval(Duration::from_secs(60));
    let cache = connected(builder).await;
    server.pause().await;
    let stalled = Instant::now();
    while !cache.stats().breaker.is_open {
        assert!(stalled.elapsed() < Duration::from_secs(10), "it does not open");
        let calls = (0..4).map(|_| cache.incr_by("n", 1));
        assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_err));
    }
    let opened = stalled.elapsed();
    proxy.take_log();
    let (mut refused, mut asked, mut maybe_sent) = (0, 0, 0);
    let open = Instant::now();
    while open.elapsed() < DEADLINE * 4 {
        let calls = (0..16).map(|_| cache.incr_by("n", 1));
        for error in futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap_err)
        {
            if is_refusal(&error) {
                assert_eq!(
                    (error.kind(), error.outcome()),
                    (ErrorKind::Unavailable, Outcome::NotSent)
                );
                refused += 1;
            } else {
                asked += 1;
                maybe_sent += usize::from(error.outcome() == Outcome::Unknown);
            }
        }
    }
    let names = |log: Vec<larder::testing::SentCommand>| {
        log.into_iter().filter(|sent| &*sent.args[0] == b"INCRBY").count()
    };
    let sent = names(proxy.take_log());
    let error = {
        // Somebody asks, so the other is refused.
        let (one, other) = tokio::join!(cache.incr_by("n", 1), cache.incr_by("n", 1));
        let both = [one.unwrap_err(), other.unwrap_err()];
        both.into_iter().find(is_refusal).unwrap()
    };
    // A lock's steps and a ping wait for the server, whoever asks meanwhile.
    let lock = LockOptions::default();
    let (ping, lock) = tokio::join!(cache.ping(), cache.acquire_lock("l", lock));
    let waited = [ping.unwrap_err(), lock.unwrap_err()];
    assert!(!waited.iter().any(is_refusal), "{waited:?}");

    // The call that asks waits, and closes it by its answer.
    let waiting = tokio::spawn({
        let cache = cache.clone();
        async move {
            loop {
                if cache.get_value("key").await.is_ok() {
                    return Instant::now();
                }
            }
        }
    });
    server.resume().await;
    let back = Instant::now();
    let closed = waiting.await.unwrap().duration_since(back);
    println!(
        "breaker: opened after {:.0} ms; while open {refused} refused, {asked} asked, {sent} sent; closed {:.0} ms after the \
         server went on; says: {error}",
        ms(opened),
        ms(closed)
    );
    assert!(opened >= Duration::from_secs(1) && opened <= DEADLINE * 4);
    assert!(refused > 0 && asked > 0);
    assert_eq!(sent, maybe_sent, "something that was refused was sent");
    // One waits at a time, each for its deadline.
    assert!((2..=5).contains(&asked), "{asked} asked within four deadlines");
    assert!(sent > 0 && closed < Duration::from_secs(1), "{closed:?}");
    assert!(!cache.stats().breaker.is_open);
    futures_util::future::join_all((0..16).map(|_| cache.get_value("key")))
        .await
        .into_iter()
        .for_each(|call| assert!(call.is_ok()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_callers_can_wait_for_stays_invisible() {
    let _turn = alone().await;
    let mut server = RedisServer::start().await;
    let builder = CacheClient::builder().url(server.url()).deadline(Duration::from_secs(4));
    let cache = connected(builder).await;
    let rounds = if full() { 20 } else { 3 };
    let callers = Callers::start(&cache, "key");
    for _ in 0..rounds {
        server.kill().await;
        tokio::time::sleep(Duration::from_millis(300)).await; // the length of the restart
        server.restart().await;
        cache.get_value("key").await.unwrap();
    }
    let calls = callers.stop().await;
    let longest = calls.iter().map(|(_, took, _)| *took).max().unwrap();
    let failed = calls.iter().filter(|(_, _, well)| !well).count();
    println!(
        "breaker, restarts of 300 ms: {rounds}, {} calls, {failed} failed, the longest took {:.0} ms",
        calls.len(),
        ms(longest)
    );
    assert_eq!((failed, cache.stats().breaker.opened), (0, 0));
    assert!(longest >= Duration::from_millis(250), "the server was not away");
}

#[tokio::test]
async fn slow_commands_among_others_do_not_open_it() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let builder = CacheClient::builder().url(server.url()).deadline(Duration::from_millis(100));
    let cache = connected(builder).await;
    let mut timed_out = 0;
    for _ in 0..6 {
        let paused = server.command(&["CLIENT", "PAUSE", "300", "WRITE"]).await;
        assert_eq!(paused.text().as_deref(), Some("OK"));
        // The write waits, and all that comes behind it over its connection.
        let error = cache.set_value("key", "value", None).await.unwrap_err();
        timed_out += usize::from(error.is_timeout());
        tokio::time::sleep(Duration::from_millis(300)).await; // the pause, so that a second passes in all
        while cache.get_value("key").await.is_err() {}
    }
    println!("breaker: {timed_out} writes timed out between reads that were answered");
    assert_eq!((timed_out, cache.stats().breaker.opened), (6, 0));
}

/// A key of the first node of a cluster of three, and one of the second.
fn keys_of_two_nodes() -> [&'static str; 2] {
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let of = |slots: std::ops::Range<u16>| {
        *keys.iter().find(|key| slots.contains(&RedisCluster::slot(key))).unwrap()
    };
    [of(0..5_000), of(6_000..10_000)]
}

/// A cluster whose nodes go on without one that is away, and wait longer for it than a test takes.
async fn three_nodes() -> RedisCluster {
    RedisCluster::with(3, 0, |server| {
        let server = server.arg("--cluster-require-full-coverage").arg("no");
        server.arg("--cluster-node-timeout").arg("60000")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_rests_alone() {
    let _turn = alone().await;
    let cluster = three_nodes().await;
    let builder = CacheClient::builder().url(cluster.url()).deadline(DEADLINE);
    let cache = connected(builder).await;
    let keys @ [of_first, of_second] = keys_of_two_nodes();
    for key in keys {
        cache.set_value(key, "value", None).await.unwrap();
    }
    let mut callers = Callers::start(&cache, of_first);
    let others = Callers::start(&cache, of_second);
    cluster.nodes()[0].pause().await;
    let down = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await; // the outage
    let stats = cache.stats().breaker;
    // Keys of several nodes belong to none of them: such a call waits.
    let both = cache.get_many(keys).await.unwrap_err();
    cluster.nodes()[0].resume().await;
    let back = Instant::now();
    let recovery = callers.succeed_after(back).await - back;
    let (calls, others) = (callers.stop().await, others.stop().await);
    let outage = |calls: &[Call]| {
        let within = calls.iter().filter(|(at, ..)| *at > down && *at < back);
        within.map(|(_, took, well)| (*took, *well)).collect::<Vec<_>>()
    };
    let mut waited: Vec<Duration> =
        outage(&calls).into_iter().filter(|(_, well)| !well).map(|(took, _)| took).collect();
    waited.sort();
    let (calls, failed) = {
        let others = outage(&others);
        (others.len(), others.iter().filter(|(_, well)| !well).count())
    };
    println!(
        "breaker, cluster: a node stopped for 4 s, {CALLERS} callers: {} calls failed after p50 {:.1} ms; back after {:.0} ms; of \
         {calls} calls to another node {failed} failed; {stats:?}",
        waited.len(),
        ms(quantile(&waited, 0.5)),
        ms(recovery),
    );
    assert!(stats.is_open && stats.opened == 1 && stats.refused > 100, "{stats:?}");
    assert!(quantile(&waited, 0.5) < DEADLINE / 4);
    assert!(calls > 1_000 && failed == 0);
    assert!(!is_refusal(&both), "{both}");
    assert!(recovery <= Duration::from_secs(1), "{recovery:?}");
    assert!(!cache.stats().breaker.is_open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_of_many_keys_leaves_the_silent_node_alone_and_no_other() {
    let _turn = alone().await;
    let cluster = three_nodes().await;
    let builder = CacheClient::builder().url(cluster.url()).deadline(DEADLINE);
    let cache = connected(builder).await;
    let values = cache.namespace::<u64, u64>("v").build().unwrap();
    let keys = [0..5_000, 6_000..10_000].map(|slots| number("v", slots));
    values.set_many(keys.map(|key| (key, 1))).await.unwrap();
    cluster.nodes()[0].pause().await;
    let load = async || {
        let asked = Instant::now();
        let origin = |missing: Vec<&u64>| {
            let missing: Vec<u64> = missing.into_iter().copied().collect();
            async move {
                Ok::<_, std::io::Error>(missing.into_iter().map(|key| (key, 2)).collect::<Vec<_>>())
            }
        };
        let found = values.get_or_load_many(&keys, origin).await.unwrap();
        (
            found.into_iter().map(|value| *value.unwrap().unwrap()).collect::<Vec<u64>>(),
            asked.elapsed(),
        )
    };
    // Nobody knows yet; then one does not answer, and the other's value is served from the store.
    let (first, waited) = load().await;
    assert_eq!(first[0], 2);
    let (second, took) = load().await;
    println!(
        "loads rest, cluster: of two nodes one is silent: {first:?} after {waited:.0?}, then {second:?} after {took:.0?}"
    );
    assert_eq!(second, [2, 1], "the value that is stored on the other node was not read");
    assert!(took < DEADLINE / 2, "{took:?}");
    cluster.nodes()[0].resume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_a_node_that_rests_go_on_at_the_replica_that_takes_its_place() {
    let _turn = alone().await;
    let mut cluster = RedisCluster::start().await;
    let builder = CacheClient::builder().url(cluster.url()).deadline(DEADLINE);
    let cache = connected(builder).await;
    let [key, _] = keys_of_two_nodes();
    let mut callers = Callers::start(&cache, key);
    cluster.kill(0).await;
    while !cache.stats().breaker.is_open {
        tokio::time::sleep(Duration::from_millis(5)).await; // polled
    }
    cluster.is_primary(3).await;
    let promoted = Instant::now();
    let recovery = callers.succeed_after(promoted).await - promoted;
    callers.stop().await;
    cache.get_value(key).await.unwrap();
    let stats = cache.stats().breaker;
    println!("breaker, cluster: back {:.0} ms after the promotion; {stats:?}", ms(recovery));
    assert!(recovery <= Duration::from_secs(2), "{recovery:?}");
    assert!(stats.opened == 1 && !stats.is_open, "{stats:?}");
}

//! P8: a connection whose other side is gone without a word is left within the ping interval and the ping timeout; a
//! server that is merely busy loses nothing by it; a client that does nothing costs next to nothing.

use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RawConnection, RedisServer};
use larder::{Builder, CacheClient, ErrorKind, Outcome};

use crate::{Lateness, alone, full, ms, quantile};

const INTERVAL: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_millis(200);

/// What two cores, on which everything runs at once, may add.
const SLACK: Duration = Duration::from_millis(100);

fn rounds() -> usize {
    if full() { 50 } else { 5 }
}

fn builder(url: &str) -> Builder {
    CacheClient::builder()
        .url(url)
        .ping_interval(INTERVAL)
        .ping_timeout(TIMEOUT)
        .deadline(Duration::from_secs(5))
}

/// Waits until another connection is made, which is how one sees that a silent one was left.
async fn left(proxy: &FaultProxy, before: u64) -> Duration {
    let forgotten = Instant::now();
    while proxy.accepts() == before {
        assert!(forgotten.elapsed() < Duration::from_secs(10), "nobody noticed");
        tokio::time::sleep(Duration::from_millis(1)).await; // connections are polled
    }
    forgotten.elapsed()
}

/// Prints the figure, and holds it against the promise.
fn noticed(case: &str, mut all: Vec<Duration>, machine: Duration, witness: u64) {
    all.sort();
    let (worst, bound) = (quantile(&all, 1.0), INTERVAL + TIMEOUT + machine);
    println!(
        "P8 {case}: {} silences, detect time p50 {:.0} ms, max {:.0} ms (interval {:.0} + timeout {:.0} ms; a \
         timer was {:.0} ms late); {witness} bytes swallowed",
        all.len(),
        ms(quantile(&all, 0.5)),
        ms(worst),
        ms(INTERVAL),
        ms(TIMEOUT),
        ms(machine),
    );
    assert!(witness > 0, "{case}: nothing was swallowed");
    assert!(worst <= bound + SLACK, "{case}: {worst:?}");
}

/// A pause of up to the interval, so that silences begin at every moment of a connection's round.
async fn at_some_moment() {
    tokio::time::sleep(INTERVAL.mul_f64(fastrand::f64())).await; // a moment by chance
}

async fn pings(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    calls.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_that_went_silent_is_left() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = builder(&proxy.url()).connections(1).connect().await.unwrap();
    let (mut detected, mut slowest) = (Vec::new(), Duration::ZERO);
    let machine = Lateness::watch();
    for _ in 0..rounds() {
        at_some_moment().await;
        let before = proxy.accepts();
        proxy.forget();
        detected.push(left(&proxy, before).await);
        let asked = Instant::now();
        cache.get_value("key").await.unwrap();
        slowest = slowest.max(asked.elapsed());
    }
    let machine = machine.most().await;
    noticed("idle", detected, machine, proxy.to_server().swallowed());
    println!("    the call after it took at most {:.0} ms", ms(slowest));
    assert!(slowest < SLACK + machine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_on_a_silent_connection_end_before_a_long_deadline() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = builder(&proxy.url()).connections(1).connect().await.unwrap();
    let (mut detected, machine) = (Vec::new(), Lateness::watch());
    let (mut read, mut written) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds() {
        at_some_moment().await;
        let before = proxy.accepts();
        proxy.forget();
        let calls = async {
            let asked = Instant::now();
            let get = async { (cache.get_value("key").await, asked.elapsed()) };
            let add = async { (cache.incr_by("n", 1).await, asked.elapsed()) };
            tokio::join!(get, add)
        };
        let (one, ((got, get_took), (added, add_took))) = tokio::join!(left(&proxy, before), calls);
        detected.push(one);
        (read, written) = (read.max(get_took), written.max(add_took));
        // What changes nothing is sent again over the new connection; the rest may have been applied.
        assert_eq!(got.unwrap(), None, "round {round}");
        let error = added.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    }
    let machine = machine.most().await;
    noticed("in flight", detected, machine, proxy.to_server().swallowed());
    println!(
        "    a GET in flight succeeded after at most {:.0} ms, an INCR failed (Unknown) after {:.0} ms",
        ms(read),
        ms(written)
    );
    assert!(
        read.max(written) <= INTERVAL + TIMEOUT * 2 + SLACK * 2 + machine,
        "{read:?}, {written:?}"
    );
    assert_eq!(server.command(&["EXISTS", "n"]).await.int(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tracked_connection_that_went_silent_is_left() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = builder(&proxy.url()).build().unwrap();
    let near = cache.namespace::<u64, u64>("near").near(true).build().unwrap();
    near.set(&1, &0).await.unwrap();
    let (mut stale, mut detected) = (Duration::ZERO, Vec::new());
    let machine = Lateness::watch();
    for round in 1..=rounds() as u64 {
        // Read near, so that it is the tracked connection that has to be noticed.
        let hits = || cache.stats().reads.get("near").map_or(0, |reads| reads.near_hits);
        while hits() < round {
            near.get(&1).await.unwrap();
        }
        at_some_moment().await;
        let before = proxy.accepts();
        proxy.forget();
        let forgotten = Instant::now();
        server.command(&["SET", "near:1", &round.to_string()]).await;
        let reads = async {
            while near.get(&1).await.unwrap().as_deref() != Some(&round) {
                tokio::time::sleep(Duration::from_millis(1)).await; // a pace
            }
            forgotten.elapsed()
        };
        let (one, old) = tokio::join!(left(&proxy, before), reads);
        detected.push(one);
        stale = stale.max(old);
    }
    let machine = machine.most().await;
    noticed("tracking", detected, machine, proxy.to_client().swallowed());
    println!("    the last stale read was {:.0} ms after the change", ms(stale));
    assert!(stale <= INTERVAL + TIMEOUT + SLACK * 2 + machine, "{stale:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_to_a_sentinel_that_went_silent_is_left() {
    let _turn = alone().await;
    let primary = RedisServer::start().await;
    let sentinel = RedisServer::builder().sentinel("cache", primary.port(), 1).start().await;
    let proxy = FaultProxy::start(sentinel.addr()).await;
    let url = format!("redis+sentinel://{}/cache", proxy.addr());
    let _cache = builder(&url).connections(1).connect().await.unwrap();
    let listeners = async || {
        let clients = sentinel.command(&["CLIENT", "LIST"]).await.text().unwrap();
        clients.lines().filter(|line| line.contains(" sub=1 ")).count()
    };
    let (mut detected, machine) = (Vec::new(), Lateness::watch());
    for round in 1..=rounds() {
        // The sentinel does not hear of the end of those that were forgotten.
        while listeners().await < round {
            tokio::time::sleep(Duration::from_millis(5)).await; // polled
        }
        // One that stood for less than a second is made again after a pause.
        tokio::time::sleep(Duration::from_secs(1)).await;
        at_some_moment().await;
        let before = proxy.accepts();
        proxy.forget();
        detected.push(left(&proxy, before).await);
    }
    let machine = machine.most().await;
    noticed("subscription to a sentinel", detected, machine, proxy.to_server().swallowed());
    while listeners().await <= rounds() {
        tokio::time::sleep(Duration::from_millis(5)).await; // polled
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_a_node_of_a_cluster_that_went_silent_is_left() {
    let _turn = alone().await;
    let node = RedisServer::builder().cluster().start().await;
    let proxy = FaultProxy::start(node.addr()).await;
    let port = proxy.addr().port().to_string();
    for command in [
        &["CONFIG", "SET", "cluster-announce-ip", "127.0.0.1"][..],
        &["CONFIG", "SET", "cluster-announce-port", &port],
    ] {
        assert_eq!(node.command(command).await.text().as_deref(), Some("OK"), "{command:?}");
    }
    let cache = builder(&format!("redis+cluster://{}", proxy.addr())).build().unwrap();
    let waited = Instant::now();
    while cache.get_value("key").await.is_err() {
        assert!(waited.elapsed() < Duration::from_secs(10), "the cluster does not come up");
    }
    let (mut detected, machine) = (Vec::new(), Lateness::watch());
    for _ in 0..rounds() {
        at_some_moment().await;
        let before = proxy.accepts();
        proxy.forget();
        detected.push(left(&proxy, before).await);
        cache.get_value("key").await.unwrap();
    }
    let machine = machine.most().await;
    noticed("node of a cluster", detected, machine, proxy.to_server().swallowed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_busy_for_longer_still_answers_what_it_was_asked() {
    let _turn = alone().await;
    let server = RedisServer::builder().arg("--enable-debug-command").arg("local").start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = builder(&proxy.url()).connections(1).connect().await.unwrap();
    let before = proxy.accepts();
    let mut sleeper = server.connect().await;
    let asked = Instant::now();
    sleeper.send(&["DEBUG", "SLEEP", "1.5"]).await.unwrap();
    // In flight from the beginning; not repeatable, so an error would stay one.
    let calls = futures_util::future::join_all((0..20).map(|_| cache.incr_by("n", 1)));
    let (calls, left) = tokio::join!(calls, left(&proxy, before));
    let took = asked.elapsed();
    assert_eq!(sleeper.reply().await.unwrap().text().as_deref(), Some("OK"));
    assert!(took >= Duration::from_millis(1400), "DEBUG SLEEP had no effect");
    let failed = calls.iter().filter(|call| call.is_err()).count();
    println!(
        "P8 busy: a server asleep for 1.5 s was left after {:.0} ms; of {} calls in flight {failed} failed",
        ms(left),
        calls.len()
    );
    assert_eq!(failed, 0, "{calls:?}");
    assert_eq!(cache.incr_by("n", 0).await.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_asks_once_an_interval_and_a_busy_one_never() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let (clients, time) = (50_u32, Duration::from_secs(3));
    let url = server.url();
    let mut idle = Vec::new();
    for _ in 0..clients {
        idle.push(CacheClient::builder().url(&url).connections(1).connect().await.unwrap());
    }
    let (before, cpu, begun) = (pings(&server).await, crate::cpu_time(), Instant::now());
    tokio::time::sleep(time).await; // what it costs to do nothing
    let (asked, cost) = (pings(&server).await - before, crate::cpu_time() - cpu);
    // A busy machine makes it longer, and some of the intervals begin within it.
    let most = u64::from(clients) * (begun.elapsed().as_secs() + 1);
    drop(idle);
    println!(
        "P8 idle cost: {clients} clients idle for {time:?} sent {asked} PINGs and used {:.0} us of CPU time each a second",
        cost.as_secs_f64() * 1e6 / f64::from(clients) / time.as_secs_f64()
    );
    assert!((most / 3..=most).contains(&asked), "{asked} PINGs");

    let busy = builder(&url).connections(1).connect().await.unwrap();
    let before = pings(&server).await;
    let (started, mut idle) = (Instant::now(), Duration::ZERO);
    while started.elapsed() < INTERVAL * 5 {
        let answered = Instant::now();
        tokio::time::sleep(Duration::from_millis(5)).await; // a pace
        idle = idle.max(answered.elapsed());
        busy.get_value("key").await.unwrap();
    }
    let asked = pings(&server).await - before;
    println!("P8 busy client: {asked} PINGs in {:?}", started.elapsed());
    // Unless the machine stood still for an interval, or nearly so.
    assert!(asked == 0 || idle > INTERVAL / 2, "{asked} PINGs, idle for {idle:?} at most");
    drop(busy);
    // A client that is gone asks nobody, and its connections end.
    let mut witness = RawConnection::connect(server.addr()).await.unwrap();
    let waited = Instant::now();
    loop {
        let list = witness.command(&["CLIENT", "LIST", "TYPE", "normal"]).await.unwrap();
        if list.text().unwrap().lines().count() == 1 {
            break;
        }
        assert!(waited.elapsed() < Duration::from_secs(5), "connections outlive their client");
        tokio::time::sleep(Duration::from_millis(5)).await; // polled
    }
}

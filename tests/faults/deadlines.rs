//! P5: no call returns later than its deadline and 50 ms, whatever it waits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::testing::{
    FaultProxy, RawConnection, RedisCluster, RedisServer, Scripted, ScriptedServer,
};
use larder::{CacheClient, Direction, ErrorKind};
use tokio::task::JoinSet;

use crate::bad_servers::handshake;
use crate::{alone, full, ms, quantile};

const GRACE: Duration = Duration::from_millis(50);

/// Clients with deadlines from 20 to 500 ms.
const CLIENTS: u64 = 25;

/// So many calls of each at once: 5,000.
const CALLS: u64 = 200;

/// Where every call is repeated all the time: thousands would measure this machine's load alone.
const FEW_CALLS: u64 = 20;

/// How long each fault lasts.
fn length() -> Duration {
    Duration::from_secs(if full() { 9 } else { 2 })
}

/// A client for each deadline, as `make` makes them.
fn clients(make: impl Fn(larder::Builder) -> larder::Builder) -> Vec<(Duration, CacheClient)> {
    (1..=CLIENTS)
        .map(|step| {
            let deadline = Duration::from_millis(step * 20);
            let builder = make(CacheClient::builder()).deadline(deadline);
            (deadline, builder.build().unwrap())
        })
        .collect()
}

/// Each call is to wait: the breaker, which clusters have not, would fail most of them at once.
fn waits_for(builder: larder::Builder, url: &str) -> larder::Builder {
    let builder = builder.url(url);
    if url.starts_with("redis+cluster:") { builder } else { builder.breaker(false) }
}

/// The same, connected while the server is well.
async fn connected(url: &str) -> Vec<(Duration, CacheClient)> {
    let clients = clients(|builder| waits_for(builder, url));
    for (_, client) in &clients {
        // A short deadline may be over before the first connection stands.
        while client.ping().await.is_err() {}
    }
    clients
}

async fn call(cache: CacheClient, number: u64) -> Result<(), ErrorKind> {
    match number % 3 {
        0 => cache.get_value("key").await.map(drop),
        1 => cache.set_value("key", "value", None).await,
        _ => cache.push_to_list("list", "value", Direction::Left).await.map(drop),
    }
    .map_err(|error| error.kind())
}

/// Makes so many calls with each client at once, and again for as long as the fault lasts.
async fn calls_end_in_time(fault: &str, calls: u64, clients: Vec<(Duration, CacheClient)>) {
    let clients = Arc::new(clients);
    let (mut late, mut bare) = (Vec::new(), Vec::new());
    let mut results: HashMap<Result<(), ErrorKind>, u64> = HashMap::new();
    let started = Instant::now();
    while started.elapsed() < length() {
        let (mut wave, mut timers) = (JoinSet::new(), JoinSet::new());
        for number in 0..calls {
            for at in 0..clients.len() {
                let clients = Arc::clone(&clients);
                wave.spawn(async move {
                    let (deadline, client) = &clients[at];
                    let asked = Instant::now();
                    let result = call(client.clone(), number).await;
                    (asked.elapsed().saturating_sub(*deadline), result)
                });
            }
            // What the machine itself adds at the moment: timers among the calls, without a call behind them.
            let wanted = clients[number as usize % clients.len()].0;
            timers.spawn(async move {
                let asked = Instant::now();
                tokio::time::sleep(wanted).await; // it is the timer that is measured
                asked.elapsed().saturating_sub(wanted)
            });
        }
        for (over, result) in wave.join_all().await {
            late.push(over);
            *results.entry(result).or_default() += 1;
        }
        bare.extend(timers.join_all().await);
    }
    late.sort();
    bare.sort();
    let (worst, machine) = (quantile(&late, 1.0), quantile(&bare, 1.0));
    println!(
        "P5 {fault}: {} calls, overshoot max {:.1} ms, p99.9 {:.1} ms (a bare timer's: {:.1} ms); {results:?}",
        late.len(),
        ms(worst),
        ms(quantile(&late, 0.999)),
        ms(machine),
    );
    assert!(late.len() as u64 >= CLIENTS * calls);
    let succeeded = results.remove(&Ok(())).unwrap_or_default();
    assert_eq!(succeeded, 0, "{fault}: the fault did not hold");
    assert!(worst <= GRACE + machine, "{fault}: a call returned {worst:?} after its deadline");
}

async fn is_silent(connection: &mut RawConnection) -> bool {
    connection.send(&["PING"]).await.unwrap();
    tokio::time::timeout(Duration::from_millis(100), connection.reply()).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let clients = connected(&server.url()).await;
    server.pause().await;
    calls_end_in_time("SIGSTOP", CALLS, clients).await;
    server.resume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_cluster_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let clients = connected(&cluster.url()).await;
    for node in cluster.nodes() {
        node.pause().await;
    }
    calls_end_in_time("SIGSTOP of a cluster", CALLS, clients).await;
    for node in cluster.nodes() {
        node.resume().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let clients = connected(&server.url()).await;
    let mut witness = server.connect().await;
    let paused = witness.command(&["CLIENT", "PAUSE", "10000", "ALL"]).await.unwrap();
    assert_eq!(paused.text().as_deref(), Some("OK"));
    assert!(is_silent(&mut witness).await, "CLIENT PAUSE had no effect");
    calls_end_in_time("CLIENT PAUSE", CALLS, clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_server_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = RedisServer::builder().arg("--enable-debug-command").arg("local").start().await;
    let clients = connected(&server.url()).await;
    let (mut sleeper, mut witness) = (server.connect().await, server.connect().await);
    // Longer than the waves, the last of which begins within the length and takes half a second.
    let seconds = (length() + Duration::from_secs(2)).as_secs().to_string();
    sleeper.send(&["DEBUG", "SLEEP", &seconds]).await.unwrap();
    assert!(is_silent(&mut witness).await, "DEBUG SLEEP had no effect");
    calls_end_in_time("DEBUG SLEEP", CALLS, clients).await;
    assert_eq!(sleeper.reply().await.unwrap().text().as_deref(), Some("OK"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let clients_before = connected(&proxy.url()).await;
    proxy.to_server().swallow(true);
    proxy.to_client().swallow(true);
    calls_end_in_time("swallow", CALLS, clients_before).await;
    assert!(proxy.to_server().swallowed() > 0);

    // Who has to connect first waits for the handshake.
    let accepted = proxy.accepts();
    calls_end_in_time(
        "swallow, connecting",
        CALLS,
        clients(|builder| waits_for(builder, &proxy.url())),
    )
    .await;
    assert!(proxy.accepts() > accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let mut server = RedisServer::start().await;
    let clients_before = connected(&server.url()).await;
    server.kill().await;
    assert!(RawConnection::connect(server.addr()).await.is_err());
    calls_end_in_time("refused connects", CALLS, clients_before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = ScriptedServer::start(|_, args| match &*args[0] {
        b"GET" | b"SET" | b"LPUSH" => Scripted::answer("-LOADING the dataset is being loaded\r\n"),
        _ => handshake(args),
    })
    .await;
    calls_end_in_time("LOADING, repeated", FEW_CALLS, connected(&server.url()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_never_ends_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    // Silent for half a second, then it answers that it is busy.
    let server = RedisServer::builder().arg("--lua-time-limit").arg("500").start().await;
    let clients = connected(&server.url()).await;
    let (mut caller, mut witness) = (server.connect().await, server.connect().await);
    caller.send(&["EVAL", "while true do end", "0"]).await.unwrap();
    assert!(is_silent(&mut witness).await, "the script does not run");
    calls_end_in_time("a script without end", FEW_CALLS, clients).await;
    let killed = server.command(&["SCRIPT", "KILL"]).await;
    assert_eq!(killed.text().as_deref(), Some("OK"), "the script did not run all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_a_free_session_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let pool = deadpool_redis::Config::from_url(server.url())
        .builder()
        .unwrap()
        .max_size(4)
        .runtime(deadpool_redis::Runtime::Tokio1)
        .build()
        .unwrap();
    CacheClient::new(pool.clone()).ping().await.unwrap();
    server.pause().await;
    let clients = clients(|builder| builder.provider(pool.clone()).breaker(false));
    calls_end_in_time("queue of a pool", CALLS, clients).await;
    server.resume().await;
}

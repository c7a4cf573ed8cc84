//! P5: no call returns later than its deadline and 50 ms, whatever it waits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::testing::{RawConnection, RedisServer, RedisServerBuilder, Scripted, ScriptedServer};
use larder::{CacheClient, Direction, ErrorKind};
use tokio::task::JoinSet;

use crate::bad_servers::handshake;
use crate::common::ends;
use crate::common::place::plain;
use crate::{Place, alone, full, ms, quantile, until};

const GRACE: Duration = Duration::from_millis(50);

/// Clients with deadlines from 20 to 500 ms.
const CLIENTS: u64 = 25;

/// How many keys are read and written. Every node of a cluster has some.
const KEYS: u64 = 20;

/// So many calls of each at once: 5,000.
const CALLS: u64 = 200;

/// Where every call is repeated all the time: thousands would measure this machine's load alone.
const FEW_CALLS: u64 = 20;

/// How long each fault lasts.
fn length(cluster: bool) -> Duration {
    let seconds = match (full(), cluster) {
        (true, false) => 9,
        (false, false) => 2,
        // All of its faults are in one test.
        (true, true) => 6,
        (false, true) => 1,
    };
    Duration::from_secs(seconds)
}

/// The same, and the last wave of calls, which begins within that and takes half a second, or some on a busy machine.
fn longer(place: &Place) -> Duration {
    length(place.is_cluster()) + Duration::from_secs(5)
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

/// Each call is to wait: the breaker would fail most of them at once.
fn waits_for(builder: larder::Builder, url: &str) -> larder::Builder {
    builder.url(url).breaker(false)
}

fn is_cluster(url: &str) -> bool {
    url.starts_with("redis+cluster:")
}

/// The same, connected while the server is well.
async fn connected(url: &str) -> Vec<(Duration, CacheClient)> {
    let clients = clients(|builder| waits_for(builder, url));
    for (_, client) in &clients {
        // A short deadline may be over before the first connection stands.
        ends("connecting", async { while client.ping().await.is_err() {} }).await;
        // To each node of a cluster.
        let keys = (0..KEYS).map(|key| format!("key:{key}"));
        let all = async { while client.get_many(keys.clone()).await.is_err() {} };
        if is_cluster(url) {
            ends("connecting to all nodes", all).await;
        }
    }
    clients
}

/// On keys that are of all nodes, if there are some.
async fn call(cache: CacheClient, number: u64) -> Result<(), ErrorKind> {
    let key = number / 3 % KEYS;
    match number % 3 {
        0 => cache.get_value(format!("key:{key}")).await.map(drop),
        1 => cache.set_value(format!("key:{key}"), "value", None).await,
        _ => cache.push_to_list(format!("list:{key}"), "value", Direction::Left).await.map(drop),
    }
    .map_err(|error| error.kind())
}

/// How long after its deadline a call came back, and with what.
type Late = (Duration, Result<(), ErrorKind>);

/// Begins so many calls with each client, as fast as the runtime takes them up: thousands that wait for their first turn
/// would measure the length of its queue. A timer for each call, without a call behind it, shows what the machine itself adds
/// there and then.
async fn begun(
    calls: u64,
    clients: Arc<Vec<(Duration, CacheClient)>>,
) -> (JoinSet<Late>, JoinSet<Duration>) {
    // In a task: it takes turns with the calls.
    tokio::spawn(async move {
        let (mut wave, mut timers) = (JoinSet::new(), JoinSet::new());
        for number in 0..calls {
            for (deadline, client) in &*clients {
                let (deadline, client) = (*deadline, client.clone());
                wave.spawn(async move {
                    let asked = Instant::now();
                    let result = call(client, number).await;
                    (asked.elapsed().saturating_sub(deadline), result)
                });
                timers.spawn(async move {
                    let asked = Instant::now();
                    tokio::time::sleep(deadline).await; // it is the timer that is measured
                    asked.elapsed().saturating_sub(deadline)
                });
            }
            tokio::task::yield_now().await;
        }
        (wave, timers)
    })
    .await
    .unwrap()
}

/// Makes so many calls with each client at once, and again for as long as the fault lasts.
async fn calls_end_in_time(
    cluster: bool,
    fault: &str,
    calls: u64,
    clients: Vec<(Duration, CacheClient)>,
) {
    let (name, length) = (if cluster { " cluster" } else { "" }, length(cluster));
    let clients = Arc::new(clients);
    let (mut late, mut bare) = (Vec::new(), Vec::new());
    let mut results: HashMap<Result<(), ErrorKind>, u64> = HashMap::new();
    let started = Instant::now();
    while started.elapsed() < length {
        let (wave, timers) = begun(calls, Arc::clone(&clients)).await;
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
        "P5{name} {fault}: {} calls, overshoot max {:.1} ms, p99.9 {:.1} ms (a bare timer's: {:.1} ms); {results:?}",
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

/// Waits until all is well again.
async fn is_back(place: &Place) {
    for at in 0..place.nodes().len() {
        place.serves(at).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    servers_are_stopped(&Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    servers_are_paused(&Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_server_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    servers_sleep(&Place::one(sleepy).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    the_network_is_silent(&Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_never_ends_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    scripts_never_end(&Place::one(sleepy).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    servers_are_gone(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_befalls_a_cluster_delays_a_call_past_its_deadline() {
    let _turn = alone().await;
    let place = Place::primaries(sleepy).await.behind_proxies().await;
    servers_are_stopped(&place).await;
    servers_are_paused(&place).await;
    servers_sleep(&place).await;
    scripts_never_end(&place).await;
    the_network_is_silent(&place).await;
    the_cluster_is_down(&place).await;
    servers_are_gone(place).await;
}

async fn servers_are_stopped(place: &Place) {
    let clients = connected(&place.url()).await;
    for node in place.nodes() {
        node.pause().await;
    }
    calls_end_in_time(place.is_cluster(), "SIGSTOP", CALLS, clients).await;
    for node in place.nodes() {
        node.resume().await;
    }
    is_back(place).await;
}

async fn servers_are_paused(place: &Place) {
    let clients = connected(&place.url()).await;
    let millis = longer(place).as_millis().to_string();
    let mut witnesses = place.direct().await;
    for witness in &mut witnesses {
        let paused = witness.command(&["CLIENT", "PAUSE", &millis, "ALL"]).await.unwrap();
        assert_eq!(paused.text().as_deref(), Some("OK"));
        assert!(is_silent(witness).await, "CLIENT PAUSE had no effect");
    }
    calls_end_in_time(place.is_cluster(), "CLIENT PAUSE", CALLS, clients).await;
    for witness in &mut witnesses {
        // The answer to what was asked while it paused.
        assert_eq!(witness.reply().await.unwrap().text().as_deref(), Some("PONG"));
    }
}

/// Which can be told to sleep, and is silent for a while before it says that a script runs.
fn sleepy(server: RedisServerBuilder) -> RedisServerBuilder {
    let server = server.arg("--enable-debug-command").arg("local");
    server.arg("--lua-time-limit").arg("1000")
}

async fn servers_sleep(place: &Place) {
    let clients = connected(&place.url()).await;
    let (mut sleepers, mut witnesses) = (place.direct().await, place.direct().await);
    let seconds = longer(place).as_secs().to_string();
    for (sleeper, witness) in sleepers.iter_mut().zip(&mut witnesses) {
        sleeper.send(&["DEBUG", "SLEEP", &seconds]).await.unwrap();
        assert!(is_silent(witness).await, "DEBUG SLEEP had no effect");
    }
    calls_end_in_time(place.is_cluster(), "DEBUG SLEEP", CALLS, clients).await;
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.reply().await.unwrap().text().as_deref(), Some("OK"));
    }
    is_back(place).await;
}

async fn scripts_never_end(place: &Place) {
    let clients = connected(&place.url()).await;
    let (mut callers, mut witnesses) = (place.direct().await, place.direct().await);
    for (caller, witness) in callers.iter_mut().zip(&mut witnesses) {
        caller.send(&["EVAL", "while true do end", "0"]).await.unwrap();
        assert!(is_silent(witness).await, "the script does not run");
    }
    calls_end_in_time(place.is_cluster(), "a script without end", FEW_CALLS, clients).await;
    for node in place.nodes() {
        let killed = node.command(&["SCRIPT", "KILL"]).await;
        assert_eq!(killed.text().as_deref(), Some("OK"), "the script did not run all the time");
    }
    is_back(place).await;
}

async fn the_network_is_silent(place: &Place) {
    let clients_before = connected(&place.url()).await;
    let swallow = |swallow: bool| {
        for proxy in place.proxies() {
            proxy.to_server().swallow(swallow);
            proxy.to_client().swallow(swallow);
        }
    };
    swallow(true);
    calls_end_in_time(place.is_cluster(), "swallow", CALLS, clients_before).await;
    assert!(place.proxies().iter().all(|proxy| proxy.to_server().swallowed() > 0));

    // Who has to connect first waits for the handshake.
    let accepted = place.accepts();
    let new = clients(|builder| waits_for(builder, &place.url()));
    calls_end_in_time(place.is_cluster(), "swallow, connecting", CALLS, new).await;
    assert!(place.accepts() > accepted);
    swallow(false);
}

/// Nobody has a certain slot: no node serves any then.
async fn the_cluster_is_down(place: &Place) {
    let clients = connected(&place.url()).await;
    let is_down = async || {
        let mut down = 0;
        for node in place.nodes() {
            let info = node.command(&["CLUSTER", "INFO"]).await.text().unwrap();
            down += usize::from(info.contains("cluster_state:fail"));
        }
        down == place.nodes().len()
    };
    for node in place.nodes() {
        let forgot = node.command(&["CLUSTER", "DELSLOTS", "0"]).await;
        assert_eq!(forgot.text().as_deref(), Some("OK"));
    }
    until("the cluster is down", is_down).await;
    calls_end_in_time(place.is_cluster(), "CLUSTERDOWN, repeated", FEW_CALLS, clients).await;
    assert!(is_down().await, "it did not last");
    let owner = &place.nodes()[0];
    assert_eq!(owner.command(&["CLUSTER", "ADDSLOTS", "0"]).await.text().as_deref(), Some("OK"));
    is_back(place).await;
}

async fn servers_are_gone(mut place: Place) {
    let clients_before = connected(&place.url()).await;
    for at in 0..place.nodes().len() {
        let addr = place.nodes()[at].addr();
        place.kill(at).await;
        assert!(RawConnection::connect(addr).await.is_err());
    }
    calls_end_in_time(place.is_cluster(), "refused connects", CALLS, clients_before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_loading_delays_no_call_past_its_deadline() {
    let _turn = alone().await;
    let server = ScriptedServer::start(|_, args| match &*args[0] {
        b"GET" | b"SET" | b"LPUSH" => Scripted::answer("-LOADING the dataset is being loaded\r\n"),
        _ => handshake(args),
    })
    .await;
    calls_end_in_time(false, "LOADING, repeated", FEW_CALLS, connected(&server.url()).await).await;
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
    calls_end_in_time(false, "queue of a pool", CALLS, clients).await;
    server.resume().await;
}

//! Locks, tried against real servers and several processes: P21 to P26. Every test prints the figure of its promise.
//! `LARDER_FULL=1` runs the full counts.

mod bad_inputs;
mod exclusion;
mod failover;
mod fencing;
mod guards;
mod leader;
mod loss;
mod quorum;
mod releases;
mod renewals;
mod sharing;
mod tokens;
mod wakeups;
mod workers;

use std::sync::LazyLock;
use std::time::Duration;

use larder::CacheClient;
use larder::testing::{RawConnection, RedisServer};
use tokio::sync::{Mutex, MutexGuard};

/// How often something is tried: in full, or a tenth.
fn times(full: u64) -> u64 {
    let all = std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1");
    if all { full } else { full / 10 }
}

/// The figures of these tests are times and counts under load: one test at a time has the machine.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    TURN.lock().await
}

/// What has to end ends within this time: longer than any wait of these tests, shorter than a person waits.
const HANGS: Duration = Duration::from_secs(20);

async fn ends<F: Future>(what: &str, work: F) -> F::Output {
    tokio::time::timeout(HANGS, work).await.unwrap_or_else(|_| panic!("{what} hung"))
}

/// Both stores, by name. The server lives as long as what is given.
async fn both() -> (RedisServer, [(&'static str, CacheClient); 2]) {
    let server = RedisServer::start().await;
    let redis = CacheClient::connect(server.url()).await.unwrap();
    (server, [("Redis", redis), ("embedded", CacheClient::memory())])
}

/// A server that loses nothing that it confirmed.
async fn durable() -> RedisServer {
    let args = ["--appendonly", "yes", "--appendfsync", "always"];
    args.into_iter().fold(RedisServer::builder(), |builder, arg| builder.arg(arg)).start().await
}

/// The record of a named lock: its token, its last holder's label.
fn record(name: &str) -> String {
    format!("larder:lock:{{lock:{name}}}")
}

/// Waits until `holds`; what it waits for gives no event to await.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let hangs = tokio::time::Instant::now() + HANGS;
    while !holds().await {
        assert!(tokio::time::Instant::now() < hangs, "{what}: not within {HANGS:?}");
        tokio::time::sleep(Duration::from_millis(1)).await; // polled
    }
}

/// As [`until`], of what this process knows.
async fn until_seen(what: &str, mut holds: impl FnMut() -> bool) {
    let hangs = tokio::time::Instant::now() + HANGS;
    while !holds() {
        assert!(tokio::time::Instant::now() < hangs, "{what}: not within {HANGS:?}");
        tokio::time::sleep(Duration::from_millis(1)).await; // polled
    }
}

/// Waits until a key is gone, however that comes.
async fn gone(direct: &mut RawConnection, key: &str) {
    ends("a key", async {
        while direct.command(&["EXISTS", key]).await.unwrap().int() != Some(0) {
            tokio::time::sleep(Duration::from_millis(1)).await; // polled
        }
    })
    .await;
}

/// The value below which `share` of the sorted ones lie.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this figure needs Linux");
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

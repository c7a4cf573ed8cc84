//! The near cache is never stale, tried against real servers: P13 to P17. Every test prints the figure of its
//! promise, and asserts that what it tried really happened. `LARDER_FULL=1` runs the full counts.

mod budget;
mod ledger;
mod lifetimes;
mod losses;
mod paused;
mod pushes;
mod removals;
mod replicas;
mod restarts;
mod staleness;

use std::sync::LazyLock;
use std::time::Duration;

use larder::testing::RedisServer;
use larder::{CacheClient, Namespace, ReadFrom};
use tokio::sync::{Mutex, MutexGuard};

/// After so long without a write, every change has been told: the promise's own bound.
const QUIET: Duration = Duration::from_millis(100);

/// How often something is tried: in full, or a tenth.
fn times(full: u64) -> u64 {
    let all = std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1");
    if all { full } else { full / 10 }
}

/// The figures of these tests are times: one test at a time has the machine.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    TURN.lock().await
}

async fn client(server: &RedisServer) -> CacheClient {
    CacheClient::connect(server.url()).await.unwrap()
}

/// Versions of values, kept near.
fn versions(cache: &CacheClient) -> Namespace<u64, u64> {
    cache.namespace("v").near(true).build().unwrap()
}

/// Reads until the value is near: it is vouched for from then on.
async fn settle(values: &Namespace<u64, u64>, key: u64) -> Option<u64> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let value = values.get(&key).await.unwrap();
        if values.explain(&key) == Some(ReadFrom::Near) {
            return value.as_deref().copied();
        }
        assert!(tokio::time::Instant::now() < deadline, "the value never came near");
        tokio::task::yield_now().await;
    }
}

/// Waits until `holds`; what it waits for is told by the server, which gives no event to await.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

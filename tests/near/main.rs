//! The near cache is never stale, tried against real servers: P13 to P17. Every test prints the figure of its
//! promise, and asserts that what it tried really happened. `LARDER_FULL=1` runs the full counts.

mod budget;
#[path = "../common/mod.rs"]
mod common;
mod ledger;
mod lifetimes;
mod losses;
mod paused;
mod pushes;
mod removals;
mod replicas;
mod restarts;
mod staleness;

use std::time::Duration;

use common::{Lateness, alone, times, until};
use larder::testing::RedisServer;
use larder::{CacheClient, Namespace, ReadFrom};

/// After so long without a write, every change has been told: the promise's own bound.
const QUIET: Duration = Duration::from_millis(100);

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

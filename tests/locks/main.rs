//! Locks, tried against real servers and several processes: P21 to P26. Every test prints the figure of its promise.
//! `LARDER_FULL=1` runs the full counts.

mod fencing;
mod guards;
mod leader;
mod quorum;
mod sharing;

use std::sync::LazyLock;
use std::time::Duration;

use larder::CacheClient;
use larder::testing::RedisServer;
use tokio::sync::{Mutex, MutexGuard};

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

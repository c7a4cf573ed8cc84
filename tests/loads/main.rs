//! One loader per key, tried against real servers and several processes: P18 to P20, P31 and P32. Every test
//! prints the figure of its promise. `LARDER_FULL=1` runs the full counts.

mod accidents;
mod cycles;
mod freshness;
mod many;
mod own_writes;
mod stampede;
mod voided;
mod workers;

use std::io::Error as IoError;
use std::sync::LazyLock;
use std::time::Duration;

use larder::testing::RedisServer;
use larder::{CacheClient, Namespace};
use tokio::sync::{Mutex, MutexGuard};

/// What a loader of these tests gives.
type Loaded<T> = Result<T, IoError>;

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

fn numbers(cache: &CacheClient) -> Namespace<u64, u64> {
    cache.namespace("n").ttl(Duration::from_secs(60)).build().unwrap()
}

//! A cluster of three primaries and three replicas: everything works there, and stays invisible while slots move and
//! nodes go. Every test prints the figure of its promise (P11, P12), and asserts that what it tried really happened.
//! `LARDER_FULL=1` runs the full counts.

mod bad_clusters;
mod failover;
mod locks;
mod methods;
mod moving;
mod near;
mod replicas;

use std::sync::LazyLock;
use std::time::Duration;

use larder::CacheClient;
use larder::testing::RedisCluster;
use tokio::sync::{Mutex, MutexGuard};

/// How often something is tried: in full, or a tenth.
fn times(full: u64) -> u64 {
    let all = std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1");
    if all { full } else { full / 10 }
}

/// A cluster is six processes, and the figures of these tests are times: one test at a time has the machine.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    TURN.lock().await
}

async fn client(cluster: &RedisCluster) -> CacheClient {
    CacheClient::connect(cluster.url()).await.unwrap()
}

/// Waits until `holds`; what it waits for is told by the servers, which give no event to await.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Keys `{name}:{n}` that are in a slot of their own each, of those below `slots`.
fn one_for_each_slot(name: &str, slots: u16) -> Vec<String> {
    let mut keys: Vec<Option<String>> = vec![None; usize::from(slots)];
    let mut missing = keys.len();
    for number in 0.. {
        if missing == 0 {
            break;
        }
        let key = format!("{name}:{number}");
        if let Some(place @ None) = keys.get_mut(usize::from(RedisCluster::slot(&key))) {
            *place = Some(key);
            missing -= 1;
        }
    }
    keys.into_iter().flatten().collect()
}

//! A cluster of three primaries and three replicas: everything works there, and stays invisible while slots move and
//! nodes go. Every test prints the figure of its promise, and asserts that what it tried really happened. `LARDER_FULL=1` runs
//! the full counts. What a cluster does as a single server does is tried in the suites of the near cache, of loads and of
//! locks, and in `tests/faults`.

mod bad_clusters;
#[path = "../common/mod.rs"]
mod common;
mod failover;
mod loads;
mod locks;
mod lost_locks;
mod methods;
mod moving;
mod near;
mod replicas;

use common::{Lateness, alone, ends, ms, times, until};
use larder::CacheClient;
use larder::testing::RedisCluster;

async fn client(cluster: &RedisCluster) -> CacheClient {
    CacheClient::connect(cluster.url()).await.unwrap()
}

/// Waits until a node that was a primary follows the one that took its place, and has all of its data.
async fn follows(cluster: &RedisCluster, at: usize) {
    let node = &cluster.nodes()[at];
    until("the old primary follows", async || {
        node.info("role").await == "slave" && node.info("master_link_status").await == "up"
    })
    .await;
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

//! P19 and P20 where only a cluster can break them: the slot of a key moves while it is loaded, or its primary goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{RedisCluster, Resp};
use larder::{CacheClient, Key, Namespace};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::failover::partner;
use super::{alone, client, follows, ms, one_for_each_slot, times, until};
use crate::common::ends;

const OLD: u64 = 1;
const NEW: u64 = 2;
/// What those bring who load again.
const AGAIN: u64 = 3;

const FOLLOWERS: usize = 20;
const LEASE: Duration = Duration::from_secs(1);

fn values(cache: &CacheClient) -> Namespace<u64, u64> {
    let values = cache.namespace("n").ttl(Duration::from_secs(600)).lease(LEASE);
    values.early_refresh(0.0).build().unwrap()
}

/// A load that goes on until it is let, and many in two clients who wait for it.
struct Load {
    key: u64,
    go: Arc<Notify>,
    loads: Arc<AtomicU64>,
    readers: JoinSet<larder::Result<u64>>,
}

impl Load {
    /// Returns when the loader runs.
    async fn start(clients: &[CacheClient; 2], key: u64) -> Self {
        let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let loads = Arc::new(AtomicU64::new(0));
        let mut readers = JoinSet::new();
        let (values_here, first) = (values(&clients[0]), Arc::clone(&loads));
        let (runs, goes) = (Arc::clone(&running), Arc::clone(&go));
        readers.spawn(async move {
            let loader = || async {
                let value = if first.fetch_add(1, Ordering::SeqCst) == 0 { OLD } else { AGAIN };
                if value == OLD {
                    runs.notify_one();
                    goes.notified().await;
                }
                Ok::<_, std::io::Error>(value)
            };
            values_here.get_or_load(&key, loader).await.map(|value| *value)
        });
        ends("the loader", running.notified()).await;
        Self { key, go, loads, readers }
    }

    fn is_followed(&mut self, clients: &[CacheClient; 2]) {
        let key = self.key;
        for follower in 0..FOLLOWERS {
            let (values, loads) = (values(&clients[follower % 2]), Arc::clone(&self.loads));
            self.readers.spawn(async move {
                let loader = || async {
                    loads.fetch_add(1, Ordering::SeqCst);
                    // Long enough that the others of its client join it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok::<_, std::io::Error>(AGAIN)
                };
                values.get_or_load(&key, loader).await.map(|value| *value)
            });
        }
    }
}

#[derive(Default)]
struct Figures {
    rounds: u64,
    loads: u64,
    most_loads: u64,
    failed: u64,
    returned_old: u64,
    stale: u64,
    longest: Duration,
    lease_left: Duration,
}

impl Figures {
    /// Lets the loader end, and looks at what everybody got, and at what is stored.
    async fn end(&mut self, cluster: &RedisCluster, load: Load, key: &str, written: bool) {
        let Load { go, loads, readers, .. } = load;
        go.notify_one();
        let from = Instant::now();
        let mut own_old = 0;
        for got in ends("the readers", readers.join_all()).await {
            match got {
                Ok(value) => own_old += u64::from(value == OLD),
                Err(_) => self.failed += 1,
            }
        }
        self.longest = self.longest.max(from.elapsed());
        let stored = cluster.command(key, &["GET", key]).await.text();
        self.rounds += 1;
        self.loads += loads.load(Ordering::SeqCst);
        self.most_loads = self.most_loads.max(loads.load(Ordering::SeqCst));
        if written {
            self.returned_old += own_old;
            self.stale += u64::from(stored.as_deref() != Some("2"));
        }
        let lease = Key::new(key).unwrap().lease();
        let from = Instant::now();
        until("no lease is left", async || {
            cluster.command(key, &[&b"EXISTS"[..], lease.as_bytes()]).await == Resp::Int(0)
        })
        .await;
        self.lease_left = self.lease_left.max(from.elapsed());
    }

    fn print(&self, what: &str) {
        println!(
            "P19, P20 cluster: {what} under {} loads with {FOLLOWERS} followers in two clients: hung 0, {} loads ({} at most for one \
             key), {} errors, {:.0} ms at most after the loader's end; stale fills {}, old values returned {}; a lease was left for \
             {:.0} ms at most (lease {LEASE:?})",
            self.rounds,
            self.loads,
            self.most_loads,
            self.failed,
            ms(self.longest),
            self.stale,
            self.returned_old,
            ms(self.lease_left)
        );
        assert_eq!((self.stale, self.returned_old), (0, 0));
        assert!(self.lease_left < LEASE + Duration::from_millis(500), "{:?}", self.lease_left);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_whose_slot_moves_ends_for_everybody_and_overwrites_nothing_newer() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let clients = [client(&cluster).await, client(&cluster).await];
    let mut mover = cluster.mover().await;
    let (mut figures, mut apart) = (Figures::default(), 0);
    for (round, key) in one_for_each_slot("n", times(200) as u16).iter().enumerate() {
        let (slot, number) = (RedisCluster::slot(key), key[2..].parse().unwrap());
        let mut load = Load::start(&clients, number).await;
        // They come before, or while the lease is at the new node and the slot is not: none is granted then, and the client
        // that has no load of its own loads by itself.
        let between = round % 3 == 2;
        if !between {
            load.is_followed(&clients);
        }
        mover.open(slot, 0, 1).await;
        assert_eq!(mover.move_keys(slot, 0, 1, 10).await, 1, "the lease goes with the slot");
        if between {
            load.is_followed(&clients);
            until("somebody loads besides", async || load.loads.load(Ordering::SeqCst) > 1).await;
            apart += 1;
        }
        mover.close(slot, 0, 1).await;
        let written = round % 2 == 1;
        if written {
            // By one who knows where it went.
            values(&clients[1]).set(&number, &NEW).await.unwrap();
        }
        figures.end(&cluster, load, key, written).await;
    }
    figures.print("slots moved");
    assert_eq!(figures.failed, 0);
    assert!(apart > 0 && figures.most_loads <= 3, "{apart}: {}", figures.most_loads);
    let followed = cluster.refusals("MOVED").await + cluster.refusals("ASK").await;
    assert!(followed > 0, "nobody noticed that slots moved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_whose_primary_is_killed_ends_for_everybody_and_overwrites_nothing_newer() {
    let _turn = alone().await;
    let mut cluster = RedisCluster::start().await;
    let clients = [client(&cluster).await, client(&cluster).await];
    let mut figures = Figures::default();
    for number in 0..times(20).max(2) {
        let key = format!("n:{number}");
        let primary = cluster.owner(RedisCluster::slot(&key)).await;
        let mut load = Load::start(&clients, number).await;
        load.is_followed(&clients);
        cluster.kill(primary).await;
        cluster.is_primary(partner(primary)).await;
        let written = number % 2 == 1;
        if written {
            until("a newer value is written", async || {
                values(&clients[1]).set(&number, &NEW).await.is_ok()
            })
            .await;
        }
        figures.end(&cluster, load, &key, written).await;
        cluster.restart(primary).await;
        follows(&cluster, primary).await;
    }
    figures.print("primaries killed");
    // The loader's own answer is there without a store.
    assert_eq!(figures.failed, 0);
}

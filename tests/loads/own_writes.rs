//! P31: after an own write returned, no read in this process gives the older value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::CacheClient;
use tokio::sync::Mutex;

use super::{Loaded, alone, times};
use crate::common::place::{Place, plain};

const KEYS: u64 = 200;
const TASKS: u64 = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_reads_its_own_writes_by_every_way() {
    let _turn = alone().await;
    own_writes_are_read(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_reads_its_own_writes_to_a_cluster_by_every_way() {
    let _turn = alone().await;
    own_writes_are_read(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn own_writes_are_read(place: Place) {
    for proxy in place.proxies() {
        proxy.to_client().delay(Duration::ZERO..Duration::from_millis(3));
    }
    let cache = CacheClient::builder().url(place.url()).build().unwrap();
    let values = cache.namespace::<u64, u64>("v").near(true).build().unwrap();
    // The same values, looked for over the connections for data.
    let through = cache.namespace::<u64, u64>("v").build().unwrap();
    let acked: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let turns: Arc<Vec<Mutex<u64>>> = Arc::new((0..KEYS).map(|_| Mutex::new(0)).collect());
    let older = Arc::new(AtomicU64::new(0));
    let (writes, reads) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let steps = times(5_000);
    let tasks = (0..TASKS).map(|task| {
        let (cache, values, through) = (cache.clone(), values.clone(), through.clone());
        let (acked, turns) = (Arc::clone(&acked), Arc::clone(&turns));
        let (older, writes, reads) = (Arc::clone(&older), Arc::clone(&writes), Arc::clone(&reads));
        tokio::spawn(async move {
            for step in 0..steps {
                let mixed = (task * 7919 + step).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                // Each of them by other digits: every key is written, and read by every way.
                let (key, write, way) = (mixed % KEYS, mixed / KEYS % 16, mixed / KEYS / 16 % 8);
                let name = format!("v:{key}");
                if write == 0 {
                    let mut version = turns[key as usize].lock().await;
                    *version += 1;
                    match *version % 5 {
                        0 => values.set(&key, &version).await.unwrap(),
                        1 => cache.set_value(&name, *version, None).await.unwrap(),
                        // Over several nodes, if there are some.
                        2 => {
                            let group = cache.pipeline().set_value(&name, *version, None);
                            let aside = format!("aside:{key}");
                            group.set_value(aside, *version, None).run().await.unwrap();
                        }
                        3 => {
                            let group = cache.transaction().set_value(&name, *version, None);
                            group.run().await.unwrap();
                        }
                        _ => {
                            let aside = format!("aside:{key}");
                            let both = [(&aside, *version), (&name, *version)];
                            cache.set_many(both, None).await.unwrap();
                        }
                    }
                    acked[key as usize].store(*version, Ordering::SeqCst);
                    writes.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let floor = acked[key as usize].load(Ordering::SeqCst);
                let nothing = || async { Loaded::Ok(None::<u64>) };
                let seen = match way {
                    0 => cache.get_value(&name).await.unwrap().map(|text| text.parse().unwrap()),
                    1 => values.get_many(&[key, (key + 1) % KEYS]).await.unwrap()[0]
                        .as_deref()
                        .copied(),
                    2 => values
                        .with(|options| options.bypass_near())
                        .get(&key)
                        .await
                        .unwrap()
                        .as_deref()
                        .copied(),
                    3 => through.get_or_load(&key, nothing).await.unwrap().as_deref().copied(),
                    4 => {
                        let life = Duration::from_secs(60);
                        let found =
                            cache.get_or_load::<u64, _>(&name, life, nothing).await.unwrap();
                        found.as_deref().copied()
                    }
                    5 => {
                        let none = |_: Vec<&u64>| async { Loaded::Ok(Vec::<(u64, u64)>::new()) };
                        let keys = [key, (key + 1) % KEYS];
                        let found = through.get_or_load_many(&keys, none).await.unwrap().remove(0);
                        found.unwrap().as_deref().copied()
                    }
                    _ => values.get(&key).await.unwrap().as_deref().copied(),
                };
                older.fetch_add(u64::from(seen.unwrap_or(0) < floor), Ordering::Relaxed);
                reads.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let near = cache.stats().reads["v"].near_hits;
    let (writes, reads, older) = (
        writes.load(Ordering::Relaxed),
        reads.load(Ordering::Relaxed),
        older.load(Ordering::Relaxed),
    );
    println!(
        "P31{}: {writes} writes by 5 ways, {reads} reads by 7 ways, {near} near, answers up to 3 ms late; older reads: {older}",
        place.name()
    );
    assert!(near > reads / 100 && writes > 100, "{near} near, {writes} writes: nothing was tried");
    assert_eq!(older, 0);
}

//! P17: all values together are near for no more bytes than allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::CacheClient;

use crate::common::place::{Place, plain};
use crate::common::{alone, resident, times};

const BUDGET: u64 = 16 << 20;
const READERS: u64 = 8;

/// How large the value of a key is: most are small, one in a thousand has a megabyte. Much of it is more than the
/// budget, and all of it is little enough for a server on any machine.
fn size_of_value(key: u64) -> usize {
    match key % 1_000 {
        0 => 1_000_000,
        1..10 => 100_000,
        10..100 => 1_000 + (key % 9_000) as usize,
        _ => 100,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_100_bytes_to_1_mb_stay_within_the_budget() {
    let _turn = alone().await;
    values_stay_within_the_budget(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_a_cluster_stay_within_the_budget() {
    let _turn = alone().await;
    values_stay_within_the_budget(Place::primaries(plain).await).await;
}

async fn values_stay_within_the_budget(place: Place) {
    let keys = times(200_000);
    let (mut direct, mut all) = (place.direct().await, 0);
    for key in 0..keys {
        let value = format!("\"{}\"", "x".repeat(size_of_value(key)));
        all += value.len() as u64;
        let key = format!("v:{key}");
        direct[place.at(&key)].command(&["SET", &key, &value]).await.unwrap();
    }
    let cache = CacheClient::builder().url(place.url()).near_max_bytes(BUDGET).build().unwrap();
    let values = cache.namespace::<u64, String>("v").near(true).build().unwrap();
    values.get(&0).await.unwrap();
    assert_eq!(cache.stats().near_entries, 1);
    let before = resident();
    let peaks: Arc<[AtomicU64; 3]> = Arc::default();
    let readers = (0..READERS).map(|reader| {
        let (cache, values, peaks) = (cache.clone(), values.clone(), Arc::clone(&peaks));
        tokio::spawn(async move {
            let mut wrong = 0_u64;
            for (at, key) in (reader..keys).step_by(READERS as usize).enumerate() {
                let value = values.get(&key).await.unwrap().unwrap();
                wrong += u64::from(value.len() != size_of_value(key));
                if at % 16 == 0 {
                    let stats = cache.stats();
                    peaks[0].fetch_max(stats.near_bytes, Ordering::Relaxed);
                    peaks[1].fetch_max(stats.near_entries, Ordering::Relaxed);
                    peaks[2].fetch_max(resident(), Ordering::Relaxed);
                }
            }
            wrong
        })
    });
    let mut wrong = 0;
    for reader in readers.collect::<Vec<_>>() {
        wrong += reader.await.unwrap();
    }
    let [bytes, entries, resident] = [0, 1, 2].map(|at| peaks[at].load(Ordering::Relaxed));
    println!(
        "P17{}: {keys} keys of 100 B to 1 MB, {all} bytes in all: peak {bytes} bytes near in {entries} entries at most, budget {BUDGET} ({:.1} %); the process grew by {} KiB",
        place.name(),
        bytes as f64 * 100.0 / BUDGET as f64,
        resident.saturating_sub(before) >> 10
    );
    assert_eq!(wrong, 0);
    assert!(all > 2 * BUDGET && bytes > BUDGET / 2, "the budget was not tried");
    assert!(bytes <= BUDGET * 105 / 100, "{bytes} bytes");
    // What is counted is there.
    let near = (0..keys).rev().take(2_000).collect::<Vec<_>>();
    let hits = cache.stats().reads["v"].near_hits;
    for key in &near {
        values.get(key).await.unwrap();
    }
    assert!(cache.stats().reads["v"].near_hits > hits, "nothing is near");
}

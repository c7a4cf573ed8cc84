//! P17: all values together are near for no more bytes than allowed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::testing::RawConnection;
use larder::{CacheClient, Namespace};

use crate::common::place::{Place, plain};
use crate::common::{alone, full, resident, times};

const BUDGET: u64 = 16 << 20;
const READERS: usize = 8;

type Values = Namespace<u64, String>;

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

/// The most that was seen while values were read.
#[derive(Default)]
struct Peaks {
    near_bytes: AtomicU64,
    near_entries: AtomicU64,
    resident: AtomicU64,
}

impl Peaks {
    fn look(&self, cache: &CacheClient) {
        let stats = cache.stats();
        self.near_bytes.fetch_max(stats.near_bytes, Ordering::Relaxed);
        self.near_entries.fetch_max(stats.near_entries, Ordering::Relaxed);
        self.resident.fetch_max(resident(), Ordering::Relaxed);
    }
}

/// Writes the values of these keys past the near cache; answers how many bytes they have.
async fn write(place: &Place, direct: &mut [RawConnection], keys: Range<u64>) -> u64 {
    let mut all = 0;
    for key in keys {
        let value = format!("\"{}\"", "x".repeat(size_of_value(key)));
        all += value.len() as u64;
        let key = format!("v:{key}");
        direct[place.at(&key)].command(&["SET", &key, &value]).await.unwrap();
    }
    all
}

/// Reads them by several tasks; answers how many had another length.
async fn read(cache: &CacheClient, values: &Values, keys: Range<u64>, peaks: &Arc<Peaks>) -> u64 {
    let readers = (0..READERS).map(|reader| {
        let (cache, values, peaks) = (cache.clone(), values.clone(), Arc::clone(peaks));
        let keys = keys.clone().skip(reader).step_by(READERS);
        tokio::spawn(async move {
            let mut wrong = 0_u64;
            for (at, key) in keys.enumerate() {
                let value = values.get(&key).await.unwrap().unwrap();
                wrong += u64::from(value.len() != size_of_value(key));
                if at % 16 == 0 {
                    peaks.look(&cache);
                }
            }
            wrong
        })
    });
    let mut wrong = 0;
    for reader in readers.collect::<Vec<_>>() {
        wrong += reader.await.unwrap();
    }
    wrong
}

async fn values_stay_within_the_budget(place: Place) {
    // So many at a time as any machine has memory for.
    let (parts, part) = (if full() { 5 } else { 1 }, times(200_000));
    let cache = CacheClient::builder().url(place.url()).near_max_bytes(BUDGET).build().unwrap();
    let values: Values = cache.namespace("v").near(true).build().unwrap();
    let (mut direct, peaks) = (place.direct().await, Arc::<Peaks>::default());
    let (mut all, mut wrong, mut before) = (0, 0, 0);
    for first in (0..parts).map(|number| number * part) {
        let keys = first..first + part;
        all += write(&place, &mut direct, keys.clone()).await;
        if first == 0 {
            values.get(&0).await.unwrap();
            assert_eq!(cache.stats().near_entries, 1);
            before = resident();
        }
        wrong += read(&cache, &values, keys.clone(), &peaks).await;
        // What is counted is there.
        let hits = cache.stats().reads["v"].near_hits;
        for key in keys.clone().rev().take(2_000) {
            values.get(&key).await.unwrap();
        }
        assert!(cache.stats().reads["v"].near_hits > hits, "nothing is near");
        for key in keys {
            let key = format!("v:{key}");
            direct[place.at(&key)].command(&["UNLINK", &key]).await.unwrap();
        }
    }
    let [bytes, entries, resident] = [&peaks.near_bytes, &peaks.near_entries, &peaks.resident]
        .map(|peak| peak.load(Ordering::Relaxed));
    println!(
        "P17{}: {} keys of 100 B to 1 MB, {all} bytes in all: peak {bytes} bytes near in {entries} entries at most, budget {BUDGET} ({:.1} %); the process grew by {} KiB",
        place.name(),
        parts * part,
        bytes as f64 * 100.0 / BUDGET as f64,
        resident.saturating_sub(before) >> 10
    );
    assert_eq!(wrong, 0);
    assert!(all > 2 * BUDGET && bytes > BUDGET / 2, "the budget was not tried");
    assert!(bytes <= BUDGET * 105 / 100, "{bytes} bytes");
}

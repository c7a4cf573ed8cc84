//! Calls for many keys, of which some are due again: soft timeout, grace and early refresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{CacheClient, LoadOptions, Namespace, ReadFrom};
use tokio::sync::Semaphore;
use tokio::time::{Instant, advance, sleep};

use super::{Loaded, alone, ends, stores};

const SECOND: Duration = Duration::from_secs(1);
const OLD: u64 = 1;
const OWN: u64 = 2;
const BORROWED: u64 = 3;

fn options(soft: Duration) -> LoadOptions {
    LoadOptions::new()
        .ttl(10 * SECOND)
        .grace(60 * SECOND)
        .soft_timeout(soft)
        .jitter(0.0)
        .early_refresh(0.0)
}

/// A namespace without a loader of its own, in which the keys 1 and 2 are stale.
async fn stale(cache: &CacheClient, near: bool, options: LoadOptions) -> Namespace<u64, u64> {
    let values = cache.namespace::<u64, u64>("n").options(options).near(near).build().unwrap();
    values.set_many([(1, OLD), (2, OLD)]).await.unwrap();
    values.get_many(&[1, 2]).await.unwrap();
    advance(11 * SECOND).await;
    values
}

/// Reads keys with a borrowed loader that takes so long, and answers what they were and how long that took.
async fn read(
    values: &Namespace<u64, u64>,
    keys: &[u64],
    load: Duration,
) -> (Vec<Option<u64>>, Vec<u64>, Duration) {
    let (asked, mut told) = (Instant::now(), Vec::new());
    let loader = |keys: Vec<&u64>| {
        let keys: Vec<u64> = keys.into_iter().copied().collect();
        told.extend(&keys);
        async move {
            sleep(load).await;
            Loaded::Ok(keys.into_iter().map(|key| (key, BORROWED)).collect::<Vec<_>>())
        }
    };
    let found = values.get_or_load_many(keys, loader).await.unwrap();
    let found = found.into_iter().map(|one| one.ok().flatten().as_deref().copied()).collect();
    told.sort_unstable();
    (found, told, asked.elapsed())
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn what_is_stale_is_served_if_the_call_that_loads_it_again_is_late() {
    for near in [false, true] {
        let (old, new) = (vec![Some(OLD); 2], vec![Some(BORROWED); 2]);
        // In time, late, and without a soft timeout: then a borrowed loader is waited for.
        for (soft, load, wanted, took) in [
            (50, 20, &new, 20),
            (50, 100, &old, 50),
            (50, 100_000, &old, 50),
            (0, 100, &new, 100),
            (0, 100_000, &old, 30_000),
        ] {
            let cache = CacheClient::memory();
            let values = stale(&cache, near, options(millis(soft))).await;
            let (found, told, after) = read(&values, &[1, 2], millis(load)).await;
            assert_eq!((&found, told, after), (wanted, vec![1, 2], millis(took)));
            if *wanted == old {
                assert_eq!(values.explain(&1), Some(ReadFrom::Stale));
            }
            // A load that was given up keeps nobody waiting: neither its flight nor its lease is left.
            tokio::task::yield_now().await;
            assert!(!cache.key_exists("larder:lease:{n:1}").await.unwrap());
            values.invalidate_many(&[1, 2]).await.unwrap();
            assert_eq!(read(&values, &[1, 2], millis(20)).await.2, millis(20));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_waited_for_up_to_the_hard_timeout_and_what_is_stale_with_it() {
    for near in [false, true] {
        for (load, wanted, took) in [
            (100, [Some(BORROWED), Some(BORROWED), Some(BORROWED)], 100),
            (100_000, [Some(OLD), Some(OLD), None], 1_000),
        ] {
            let cache = CacheClient::memory();
            let options = options(millis(50)).hard_timeout(SECOND);
            let values = stale(&cache, near, options).await;
            let (found, told, after) = read(&values, &[1, 2, 3], millis(load)).await;
            assert_eq!((found.as_slice(), told), (&wanted[..], vec![1, 2, 3]));
            assert_eq!(after, millis(took), "one key of three is missing");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_caller_waits_as_long_as_its_soft_timeout_for_what_the_first_one_loads_again() {
    let cache = CacheClient::memory();
    let values = stale(&cache, false, options(millis(500))).await;
    let hasty = values.with(|options| options.soft_timeout(millis(50)));
    let none = values.with(|options| options.soft_timeout(Duration::ZERO));
    let (first, second, third, fourth) = tokio::join!(
        read(&values, &[1, 2], millis(100)),
        read(&values, &[2, 1], millis(100)),
        read(&hasty, &[1, 2], millis(100)),
        read(&none, &[1, 2], millis(100)),
    );
    let (old, new) = (vec![Some(OLD); 2], vec![Some(BORROWED); 2]);
    assert_eq!(first, (new.clone(), vec![1, 2], millis(100)));
    assert_eq!(second, (new, vec![], millis(100)));
    assert_eq!(third, (old.clone(), vec![], millis(50)));
    assert_eq!(fourth, (old, vec![], Duration::ZERO));
    assert_eq!(cache.stats().reads["n"].loads, 1);
}

/// A namespace with a loader that waits for a permit each time, and the permits and the runs of the loader.
fn gated(
    cache: &CacheClient,
    options: LoadOptions,
) -> (Namespace<u64, u64>, Arc<Semaphore>, Arc<AtomicU64>) {
    let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
    let (open, count) = (Arc::clone(&gate), Arc::clone(&runs));
    let values = cache.namespace::<u64, u64>("n").options(options).near(true);
    let values = values.loader(move |_| {
        let (open, count) = (Arc::clone(&open), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            open.acquire().await.unwrap().forget();
            Loaded::Ok(OWN)
        }
    });
    (values.build().unwrap(), gate, runs)
}

/// Waits until keys are in their grace: on a cluster each by the clock of its own node.
async fn are_stale(values: &Namespace<u64, u64>, keys: [u64; 2]) {
    for key in keys {
        while values.ttl(&key).await.unwrap().remaining() != Some(Duration::ZERO) {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loader_of_a_namespace_loads_behind_a_call_for_many_keys() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        // Fresh for a millisecond.
        let settings = options(Duration::ZERO).ttl(millis(1));
        let mut fresh = 1..;
        for soft in [Duration::ZERO, millis(80)] {
            for many in [false, true] {
                // Keys of its own: a value can be seen in the store while the load that brought it is still landing.
                let [first, second, third] = std::array::from_fn(|_| fresh.next().unwrap());
                let names = [first, second].map(|key| format!("n:{key}"));
                let (values, gate, runs) = gated(&cache, settings.soft_timeout(soft));
                values.set_many([(first, OLD), (second, OLD)]).await.unwrap();
                are_stale(&values, [first, second]).await;
                let served = || cache.stats().reads.get("n").map_or(0, |reads| reads.stale_hits);
                let before = served();
                let asked = Instant::now();
                let found = if many {
                    let (found, told, _) =
                        ends("many", read(&values, &[first, second, third], Duration::ZERO)).await;
                    assert_eq!((found[2], told), (Some(BORROWED), vec![third]), "{store}");
                    found
                } else {
                    let found = ends("get_many", values.get_many(&[first, second])).await.unwrap();
                    found.into_iter().map(|one| one.as_deref().copied()).collect()
                };
                let took = asked.elapsed();
                assert_eq!(found[..2], [Some(OLD); 2], "{store}");
                // Behind the caller, who saw the old values, the load goes on.
                assert!(took >= soft && took < soft + SECOND, "{store}: {took:?}");
                assert_eq!(served(), before + 2, "{store}");
                gate.add_permits(2);
                ends("the refresh", async {
                    for name in &names {
                        while cache.get_value(name).await.unwrap().as_deref() != Some("2") {
                            tokio::task::yield_now().await;
                        }
                    }
                })
                .await;
                assert_eq!((runs.load(Ordering::SeqCst), gate.available_permits()), (2, 0));
                println!(
                    "{store}: 2 stale keys of {} by {}, soft timeout {soft:?}: served after {took:?}, then loaded",
                    found.len(),
                    if many { "get_or_load_many" } else { "get_many" }
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrowed_loader_is_waited_for_as_long_as_the_soft_timeout_on_a_server_too() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let values = cache
            .namespace::<u64, u64>("n")
            .options(options(millis(80)).ttl(millis(1)))
            .build()
            .unwrap();
        values.set_many([(1, OLD), (2, OLD)]).await.unwrap();
        are_stale(&values, [1, 2]).await;
        let (found, told, late) = ends("late", read(&values, &[1, 2], 100 * SECOND)).await;
        assert_eq!((found, told), (vec![Some(OLD); 2], vec![1, 2]), "{store}");
        assert!(late >= millis(80) && late < SECOND, "{store}: {late:?}");
        // The lease that was given up is given back: the next caller loads.
        ends("the lease goes", async {
            while cache.key_exists("larder:lease:{n:1}").await.unwrap()
                || cache.key_exists("larder:lease:{n:2}").await.unwrap()
            {}
        })
        .await;
        let (found, _, took) = ends("in time", read(&values, &[1, 2], millis(5))).await;
        assert_eq!(found, vec![Some(BORROWED); 2], "{store}");
        println!(
            "{store}: a borrowed loader of 2 stale keys: stale after {late:?} of 80 ms, and fresh after {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_read_together_are_loaded_once_before_they_expire_and_no_call_waits() {
    for near in [false, true] {
        for many in [false, true] {
            let cache = CacheClient::memory();
            let values = cache
                .namespace::<u64, u64>("n")
                .ttl(10 * SECOND)
                .jitter(0.0)
                .early_refresh(2.0)
                .near(near)
                .loader(move |_| async move {
                    sleep(millis(200)).await;
                    Loaded::Ok(OWN)
                })
                .build()
                .unwrap();
            values.get_many(&[1, 2]).await.unwrap();
            let mut waited = Duration::ZERO;
            // 100 seconds of a read every 5 ms: about ten lives of two keys.
            for _ in 0..20_000 {
                sleep(millis(5)).await;
                let asked = Instant::now();
                if many {
                    read(&values, &[1, 2], millis(200)).await;
                } else {
                    values.get_many(&[1, 2]).await.unwrap();
                }
                waited += asked.elapsed();
            }
            let reads = &cache.stats().reads["n"];
            println!(
                "XFetch of 2 keys by {}{}: {} loads in 100 s of 10 s lives, {} early, waited {waited:?} in all",
                if many { "get_or_load_many" } else { "get_many" },
                if near { ", near" } else { "" },
                reads.loads,
                reads.early_refreshes
            );
            assert!((20..=28).contains(&reads.loads), "{}", reads.loads);
            assert!(reads.early_refreshes >= reads.loads - 4 && waited < SECOND, "{waited:?}");
        }
    }
}

//! P32: loads that need each other never hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{CacheClient, ErrorKind, Namespace, Result};

use super::{Loaded, alone, ends, stores, times};

/// Loads `key`, whose loader needs `next`, and so on.
fn chain(
    values: Namespace<u64, u64>,
    keys: Vec<u64>,
) -> futures_util::future::BoxFuture<'static, Result<u64>> {
    Box::pin(async move {
        let Some((key, rest)) = keys.split_first() else { return Ok(0) };
        let loader = || {
            let (values, rest) = (values.clone(), rest.to_vec());
            async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                chain(values, rest).await.map(|sum| sum + 1)
            }
        };
        values.get_or_load(key, loader).await.map(|value| *value)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_that_need_each_other_end() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let values = super::numbers(&cache);
        let rounds = times(500);
        let (mut errors, mut done) = (0, 0);
        for round in 0..rounds {
            let (a, b, c) = (round * 10, round * 10 + 1, round * 10 + 2);
            let runs = [
                chain(values.clone(), vec![a, b]),
                chain(values.clone(), vec![b, a]),
                chain(values.clone(), vec![c, c]),
                chain(values.clone(), vec![a, b, c]),
            ];
            for run in runs.map(tokio::spawn) {
                match ends("a load", run).await.unwrap() {
                    Ok(_) => done += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Load);
                        errors += 1;
                    }
                }
            }
        }
        println!(
            "P32 {store}: {} runs of loads that need each other, hung 0, re-entrance errors {errors}, values {done}",
            rounds * 4
        );
        assert!(errors >= rounds, "a loader that asks for its own key is an error each time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_overlap_end_and_load_each_key_once() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let values = super::numbers(&cache);
        let loads = Arc::new(AtomicU64::new(0));
        let rounds = times(500);
        for round in 0..rounds {
            let base = 10_000_000 + round * 100;
            let tasks = (0..8_u64).map(|task| {
                let (values, loads) = (values.clone(), Arc::clone(&loads));
                tokio::spawn(async move {
                    let mut keys: Vec<u64> = (base..base + 20).collect();
                    keys.rotate_left(task as usize * 2);
                    if task % 2 == 1 {
                        keys.reverse();
                    }
                    let loader = |missing: Vec<&u64>| {
                        loads.fetch_add(missing.len() as u64, Ordering::SeqCst);
                        let found: Vec<(u64, u64)> =
                            missing.into_iter().map(|key| (*key, *key)).collect();
                        async {
                            tokio::task::yield_now().await;
                            Loaded::Ok(found)
                        }
                    };
                    let all = values.get_or_load_many(&keys, loader).await.unwrap();
                    for (key, value) in keys.iter().zip(all) {
                        assert_eq!(value.unwrap().as_deref(), Some(key));
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                ends("a batch", task).await.unwrap();
            }
        }
        let loads = loads.load(Ordering::SeqCst);
        println!(
            "P32 {store}: {} overlapping batches of 20, hung 0; {loads} loads of {} keys",
            rounds * 8,
            rounds * 20
        );
        assert_eq!(loads, rounds * 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_of_one_load_does_not_stop_loads_within_loads() {
    let _turn = alone().await;
    let cache = CacheClient::builder().max_loads(1).build().unwrap();
    let values = super::numbers(&cache);
    let rounds = times(500);
    for round in 0..rounds {
        let tasks = (0..4).map(|at| {
            tokio::spawn(chain(
                values.clone(),
                vec![round * 100 + at * 10, round * 100 + at * 10 + 1],
            ))
        });
        for task in tasks.collect::<Vec<_>>() {
            assert_eq!(ends("a load", task).await.unwrap().unwrap(), 2);
        }
    }
    println!("P32: {} nested loads under a cap of one, hung 0", rounds * 4);
}

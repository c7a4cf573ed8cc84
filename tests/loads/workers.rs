//! Other processes: this test binary again, as a worker that does what it is told on its standard input.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{CacheClient, ReadFrom};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::Loaded;
use crate::common::process::{self, Process, now};

/// Starts a worker.
pub(crate) async fn start(url: &str) -> Process {
    Process::start("workers::a_worker_does_what_it_is_told", url).await
}

/// The other side; in a test run of its own it has nobody to serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_what_it_is_told() {
    let Some(url) = process::told_url() else { return };
    let cache = CacheClient::connect(url).await.unwrap();
    let hot = cache
        .namespace::<str, u64>("hot")
        .ttl(Duration::from_secs(600))
        .early_refresh(0.0)
        .lease(Duration::from_millis(400))
        .build()
        .unwrap();
    println!("> ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // Many tasks want one key at once; each load is counted at the origin, and takes a while.
            ["stampede", key, tasks, millis] => {
                // A machine that stands still for a moment is no loader that is gone.
                let hot = hot.with(|options| options.lease(Duration::from_secs(3)));
                let (key, pause) =
                    (Arc::<str>::from(key), Duration::from_millis(millis.parse().unwrap()));
                let begun = Instant::now();
                let all = (0..tasks.parse().unwrap()).map(|_| {
                    let (hot, cache, key) = (hot.clone(), cache.clone(), Arc::clone(&key));
                    tokio::spawn(async move {
                        let loader = || async {
                            let loads = cache.incr_by(format!("loads:{key}"), 1).await;
                            tokio::time::sleep(pause).await;
                            loads.map(|_| now())
                        };
                        hot.get_or_load(&key, loader).await.map(|value| *value)
                    })
                });
                let mut values = Vec::new();
                for one in all.collect::<Vec<_>>() {
                    values.push(one.await.unwrap());
                }
                let failed = values.iter().filter(|value| value.is_err()).count();
                values.retain(Result::is_ok);
                values.dedup_by_key(|value| *value.as_ref().unwrap());
                println!("> done {failed} {} {:?}", values.len(), begun.elapsed().as_millis());
            }
            // One load, from which others are woken.
            ["load", key, millis] => {
                println!("> loading");
                let pause = Duration::from_millis(millis.parse().unwrap());
                let loader = || async {
                    cache.incr_by(format!("loads:{key}"), 1).await.unwrap();
                    println!("> loader runs");
                    tokio::time::sleep(pause).await;
                    Loaded::Ok(now())
                };
                let value = hot.get_or_load(key, loader).await.unwrap();
                let took = now() - *value;
                println!("> got {took} {}", hot.explain(key) == Some(ReadFrom::Waited));
            }
            // The round trip of a plain read after a pause like that of a load, in nanoseconds: threads that
            // have slept wake up later than those that are at it.
            ["measure", millis] => {
                tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
                let from = Instant::now();
                cache.get_value("nothing").await.unwrap();
                println!("> trip {}", from.elapsed().as_nanos());
            }
            _ => panic!("a worker was told something that it does not know"),
        }
    }
}

//! P19: what becomes of those who wait when the loader does not come back.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use larder::testing::Resp;
use larder::{CacheClient, ErrorKind};
use tokio::sync::Notify;

use super::workers;
use super::{Loaded, alone, ends, numbers, stores, times};
use crate::common::place::{Place, plain};

const FOLLOWERS: usize = 100;

/// How a leader ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Cancelled,
    Panic,
    Failure,
    Overtime,
}

/// One leader, and many who wait for it. Answers how many loads there were, and how many waiters got a value.
async fn accident(cache: &CacheClient, key: u64, end: End) -> (u64, usize) {
    let values = numbers(cache).with(|options| options.hard_timeout(Duration::from_secs(10)));
    let loads = Arc::new(AtomicU64::new(0));
    let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let leader = {
        let (values, running, go) = (values.clone(), Arc::clone(&running), Arc::clone(&go));
        let hard = if end == End::Overtime { 200 } else { 10_000 };
        tokio::spawn(async move {
            let values = values.with(|options| options.hard_timeout(Duration::from_millis(hard)));
            let loader = || async {
                running.notify_one();
                match end {
                    End::Cancelled | End::Overtime => std::future::pending().await,
                    End::Panic | End::Failure => go.notified().await,
                }
                assert!(end != End::Panic, "the loader's own panic");
                Err::<u64, _>(std::io::Error::other("the origin is gone"))
            };
            values.get_or_load(&key, loader).await
        })
    };
    running.notified().await;
    let waiting = Arc::new(AtomicU64::new(0));
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|_| {
            let (values, loads) = (values.clone(), Arc::clone(&loads));
            let waiting = Arc::clone(&waiting);
            tokio::spawn(async move {
                let loader = || async { Loaded::Ok(loads.fetch_add(1, Ordering::SeqCst)) };
                let mut read = pin!(values.get_or_load(&key, loader));
                // Counted once it waits.
                let first = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
                waiting.fetch_add(1, Ordering::SeqCst);
                match first {
                    Poll::Ready(done) => done.map(|value| *value),
                    Poll::Pending => read.await.map(|value| *value),
                }
            })
        })
        .collect();
    while waiting.load(Ordering::SeqCst) < FOLLOWERS as u64 {
        tokio::task::yield_now().await;
    }
    if end == End::Cancelled {
        leader.abort();
    }
    go.notify_one();
    let mut got = 0;
    for follower in followers {
        match ends("a follower", follower).await.unwrap() {
            Ok(value) => {
                assert_eq!(value, 0, "a second takeover");
                got += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Load, "{error}"),
        }
    }
    _ = leader.await;
    (loads.load(Ordering::SeqCst), got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_ends_a_leader_its_followers_get_a_value_or_an_error() {
    let _turn = alone().await;
    std::panic::set_hook(Box::new(|info| {
        // The panics that are tried here are not shown.
        let text = info.payload_as_str().unwrap_or_default().to_owned();
        if !text.contains("the loader's own panic") {
            eprintln!("{info}");
        }
    }));
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        for (number, end) in
            [End::Cancelled, End::Panic, End::Failure, End::Overtime].into_iter().enumerate()
        {
            let rounds = times(200);
            let (mut takeovers, mut values) = (0, 0);
            for round in 0..rounds {
                let key = number as u64 * 1_000_000 + round;
                let (loads, got) = accident(&cache, key, end).await;
                let wanted = match end {
                    // The leader is gone: one of those who waited takes over.
                    End::Cancelled => (1, FOLLOWERS),
                    // The leader came back, with an error: that is everybody's.
                    End::Panic | End::Failure | End::Overtime => (0, 0),
                };
                assert_eq!((loads, got), wanted, "{end:?} on {store}");
                takeovers += loads;
                values += got;
                // And the next one is not kept waiting by a lease that is left.
                let next = numbers(&cache);
                let begun = Instant::now();
                let value =
                    ends("the next", next.get_or_load(&key, || async { Loaded::Ok(0) })).await;
                assert_eq!(*value.unwrap(), 0);
                assert!(begun.elapsed() < Duration::from_secs(2), "a lease was left behind");
            }
            println!(
                "P19 {store}: {end:?} {rounds} times with {FOLLOWERS} followers: hung 0, takeovers {takeovers}, values {values}"
            );
        }
    }
}

#[tokio::test]
async fn a_read_that_is_dropped_at_any_await_leaves_no_lease_behind() {
    let _turn = alone().await;
    reads_are_dropped(Place::one(plain).await).await;
}

#[tokio::test]
async fn a_read_of_a_cluster_that_is_dropped_at_any_await_leaves_no_lease_behind() {
    let _turn = alone().await;
    reads_are_dropped(Place::cluster(plain).await).await;
}

async fn reads_are_dropped(place: Place) {
    let cache = place.client().await;
    let values = numbers(&cache);
    let (mut dropped, mut finished) = (0_u64, 0_u64);
    'polls: for polls in 0.. {
        for again in 0..times(100) {
            let key = polls * 10_000 + again;
            let loader = || async {
                tokio::task::yield_now().await;
                Loaded::Ok(1)
            };
            {
                let mut read = pin!(values.get_or_load(&key, loader));
                for _ in 0..polls {
                    // The reactor moves in between, as it would without this loop.
                    let waker = Waker::noop();
                    if read.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                        finished += 1;
                        if finished > times(1_000) {
                            break 'polls;
                        }
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(200)).await;
                }
            }
            dropped += 1;
            let begun = Instant::now();
            let value =
                ends("the next", values.get_or_load(&key, || async { Loaded::Ok(1) })).await;
            assert_eq!(*value.unwrap(), 1);
            assert!(
                begun.elapsed() < Duration::from_millis(2_500),
                "it waited for a lease to run out"
            );
            let lease = format!("larder:lease:{{n:{key}}}");
            ends("the lease", async {
                while place.command(&lease, &["EXISTS", &lease]).await != Resp::Int(0) {}
            })
            .await;
        }
    }
    println!(
        "P19{}: {dropped} reads dropped after any number of polls, leases left 0, hung 0",
        place.name()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_that_is_killed_is_taken_over_once() {
    let _turn = alone().await;
    loaders_are_killed(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_of_a_cluster_that_is_killed_is_taken_over_once() {
    let _turn = alone().await;
    loaders_are_killed(Place::cluster(plain).await).await;
}

async fn loaders_are_killed(place: Place) {
    let rounds = times(200);
    let mut others = [workers::start(&place.url()).await, workers::start(&place.url()).await];
    let (mut longest, mut failed) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let mut doomed = workers::start(&place.url()).await;
        doomed.tell(&format!("load d{round} 60000")).await;
        doomed.answer("loader runs").await;
        for other in &mut others {
            other.tell(&format!("stampede d{round} 50 5")).await;
        }
        doomed.kill().await;
        for other in &mut others {
            let answer = other.answer("done").await;
            let counts: Vec<u64> = answer.split(' ').map(|one| one.parse().unwrap()).collect();
            failed += counts[0];
            longest = longest.max(Duration::from_millis(counts[2]));
        }
        let counter = format!("loads:d{round}");
        let loads = place.command(&counter, &["GET", &counter]).await.text().unwrap();
        assert_eq!(loads, "2", "the one that was killed, and one that took over");
    }
    println!(
        "P19{}: {rounds} loaders killed with SIGKILL, 100 waiters in two processes: takeovers 1 each, failed {failed}, longest wait {longest:?} (lease 400 ms)",
        place.name()
    );
    assert_eq!(failed, 0);
    assert!(longest < Duration::from_secs(2));
}

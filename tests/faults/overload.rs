//! P6: with a server that stands still, what a client holds stays within its budget, and what is too much fails at once.

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, LockId, Outcome};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::Peak;
use crate::{alone, full, ms, quantile, until};

const URL: &str = "LARDER_OVERLOAD_URL";
const SECONDS: &str = "LARDER_OVERLOAD_SECONDS";

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 64 * MIB;

/// What may come on top of the budget.
const SLACK: u64 = 16 * MIB;

const TASKS: usize = 10_000;

/// For how long the server stands still. A silent connection is given up within it, and another one is dialled.
fn stop() -> Duration {
    Duration::from_secs(if full() { 60 } else { 6 })
}

/// What came of the calls of the flood.
#[derive(Default)]
struct Seen {
    stored: AtomicU64,
    timed_out: AtomicU64,
    others: Mutex<Vec<String>>,
    // How long it took until a call was refused.
    refused: Mutex<Vec<Duration>>,
    // Tasks of which no write may have been applied.
    never_sent: Mutex<Vec<usize>>,
}

/// The flood. In a process of its own, because it is the memory of a process that is measured: this test binary again. In a test
/// run of its own it has nobody to serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_in_a_process_of_its_own() {
    let Ok(url) = std::env::var(URL) else { return };
    let length = Duration::from_secs(std::env::var(SECONDS).unwrap().parse().unwrap());
    // The breaker would keep the flood away.
    let cache = CacheClient::builder().url(url).max_in_flight_bytes(BUDGET).breaker(false);
    let cache = cache.connect().await.unwrap();
    let data: Arc<[u8]> = vec![b'x'; MIB as usize].into();
    let seen = Arc::<Seen>::default();
    let (open, opened) = watch::channel(None::<Instant>);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (cache, data, seen) = (cache.clone(), Arc::clone(&data), Arc::clone(&seen));
        let mut opened = opened.clone();
        tasks.spawn(async move {
            // From 1 KiB to 1 MiB, as many of each size as of its double.
            let size = (1024.0 * 1024_f64.powf(task as f64 / TASKS as f64)) as usize;
            let key = format!("flood:{task}");
            let mut sent = false;
            let end = opened.wait_for(Option::is_some).await.unwrap().unwrap() + length;
            while Instant::now() < end {
                let asked = Instant::now();
                match cache.set_value(&key, &data[..size], None).await {
                    Ok(()) => _ = seen.stored.fetch_add(1, Ordering::SeqCst),
                    Err(error) if error.kind() == ErrorKind::Overloaded => {
                        seen.refused.lock().unwrap().push(asked.elapsed());
                        assert_eq!(error.outcome(), Outcome::NotSent);
                    }
                    Err(error) => {
                        sent |= error.outcome() != Outcome::NotSent;
                        match error.kind() {
                            ErrorKind::Timeout => _ = seen.timed_out.fetch_add(1, Ordering::SeqCst),
                            // While it dials.
                            ErrorKind::Unavailable => {}
                            _ => seen.others.lock().unwrap().push(error.to_string()),
                        }
                    }
                }
                // Ten thousand tasks that ask all the time would measure this machine's load alone.
                tokio::time::sleep(Duration::from_millis(fastrand::u64(200..800))).await;
            }
            if !sent {
                seen.never_sent.lock().unwrap().push(task);
            }
        });
    }
    println!("> ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    assert_eq!(input.next_line().await.unwrap().as_deref(), Some("flood"));
    let memory = Peak::watch();
    open.send_replace(Some(Instant::now()));
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let (start, peak) = memory.ends();
    let mut refused = std::mem::take(&mut *seen.refused.lock().unwrap());
    refused.sort();
    println!(
        "P6 SIGSTOP {length:?}: RSS start {:.1} MiB, peak {:.1} MiB (budget {} MiB); {} calls refused, in {:.3} ms \
         (median), {:.1} ms (p99), {:.1} ms (max); {} timed out",
        start as f64 / MIB as f64,
        peak as f64 / MIB as f64,
        BUDGET / MIB,
        refused.len(),
        ms(quantile(&refused, 0.5)),
        ms(quantile(&refused, 0.99)),
        ms(quantile(&refused, 1.0)),
        seen.timed_out.load(Ordering::SeqCst),
    );
    assert_eq!(seen.stored.load(Ordering::SeqCst), 0, "the server did not stand still");
    assert!(seen.others.lock().unwrap().is_empty(), "{:?}", seen.others.lock().unwrap());
    assert!(seen.timed_out.load(Ordering::SeqCst) > 100 && refused.len() > 1_000);
    assert_eq!(cache.stats().overloaded, refused.len() as u64);
    assert!(peak <= start + BUDGET + SLACK, "{} MiB on top", (peak - start) / MIB);
    println!("> flooded");

    assert_eq!(input.next_line().await.unwrap().as_deref(), Some("recover"));
    let back = Instant::now();
    until("the server is back", async || cache.set_value("after", &data[..], None).await.is_ok())
        .await;
    println!("P6 first call after it: {:.1} ms", ms(back.elapsed()));
    let never_sent = std::mem::take(&mut *seen.never_sent.lock().unwrap());
    assert!(never_sent.len() > 100, "{}", never_sent.len());
    let keys: Vec<String> = never_sent.iter().map(|task| format!("flood:{task}")).collect();
    let mut applied = 0;
    for some in keys.chunks(500) {
        let found = cache.get_many(some).await.unwrap();
        applied += found.iter().filter(|value| value.is_some()).count();
    }
    println!("P6 tasks whose writes were refused: {}, applied: {applied}", keys.len());
    assert_eq!(applied, 0);
    println!("> recovered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_server_stands_still_keeps_its_budget_and_refuses_the_rest() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "overload::a_flood_in_a_process_of_its_own", "--nocapture"])
        .env(URL, server.url())
        .env(SECONDS, stop().as_secs().to_string())
        // What is freed goes back to the system at once: what is measured is what is held.
        .env("MALLOC_MMAP_THRESHOLD_", "32768")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    // Passes its figures on until it says the word.
    let mut says = async |word: &str| {
        let heard = async {
            loop {
                let line = output.next_line().await.unwrap().expect("the other process failed");
                if line.starts_with("P6") {
                    println!("{line}");
                } else if line.contains(word) {
                    return;
                }
            }
        };
        let patience = stop() + Duration::from_secs(60);
        tokio::time::timeout(patience, heard).await.expect("the other process hung");
    };
    says("> ready").await;
    server.pause().await;
    input.write_all(b"flood\n").await.unwrap();
    says("> flooded").await;
    server.resume().await;
    input.write_all(b"recover\n").await.unwrap();
    says("> recovered").await;
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_too_many_is_refused_at_once_and_one_that_gives_a_lock_back_is_not() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = CacheClient::builder()
        .url(server.url())
        .max_in_flight(10)
        .deadline(Duration::from_secs(60))
        .connect()
        .await
        .unwrap();
    let lock = cache.acquire_lock("held", larder::LockOptions::default()).await.unwrap();
    let foreign: LockId = format!("{:032x}", fastrand::u128(..)).parse().unwrap();
    server.pause().await;
    let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(cache.get_value("key"))).collect();
    for call in &mut waiting {
        assert!(call.now_or_never().is_none());
    }
    // It ends where it is asked for the first time: nothing is waited for.
    let refused = cache.set_value("refused", "1", None).now_or_never().unwrap().unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Overloaded, Outcome::NotSent));
    assert!(refused.to_string().contains("the 10 of max_in_flight"), "{refused}");
    let mut released = Box::pin(cache.release_lock("held", &lock));
    assert!(released.as_mut().now_or_never().is_none(), "it was refused");
    let mut not_ours = Box::pin(cache.release_lock("held", &foreign));
    assert!(not_ours.as_mut().now_or_never().is_none(), "it was refused");
    // Who was let in beside the others counts as well.
    waiting.truncate(8);
    assert!(cache.ping().now_or_never().is_some_and(|done| done.is_err()));
    waiting.truncate(7);
    let mut next = Box::pin(cache.ping());
    assert!(next.as_mut().now_or_never().is_none(), "there was room");
    server.resume().await;
    assert!(released.await.unwrap());
    assert!(!not_ours.await.unwrap());
    next.await.unwrap();
    for call in waiting {
        assert_eq!(call.await.unwrap(), None);
    }
    assert!(!cache.key_exists("refused").await.unwrap());
    assert_eq!(cache.stats().overloaded, 2);
}

/// A client of a megabyte's budget over one connection, whose calls wait until they are given up by their callers.
async fn with_one_connection(server: &RedisServer) -> CacheClient {
    CacheClient::builder()
        .url(server.url())
        .connections(1)
        .max_in_flight_bytes(MIB)
        .deadline(Duration::from_secs(60))
        .connect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_call_that_was_given_up_count_until_its_connection_is_rid_of_them() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = with_one_connection(&server).await;
    let data = vec![b'x'; 100_000];
    let set = || Box::pin(cache.set_value("key", &data[..], None));
    let is_refused = |call: Option<larder::Result<()>>| {
        call.is_some_and(|done| done.is_err_and(|error| error.kind() == ErrorKind::Overloaded))
    };
    server.pause().await;
    let large = cache.set_value("key", vec![b'x'; 400_000], None).now_or_never().unwrap();
    let large = large.unwrap_err();
    assert_eq!((large.kind(), large.outcome()), (ErrorKind::Overloaded, Outcome::NotSent));
    assert!(large.to_string().contains("the call alone holds more than the 1048576"), "{large}");
    // Three times 300 KB and little more.
    let mut waiting: Vec<_> = (0..3).map(|_| set()).collect();
    for call in &mut waiting {
        assert!(call.now_or_never().is_none());
    }
    assert!(is_refused(set().now_or_never()));
    // Given up, they hold a third of that in the queue of the connection.
    drop(waiting);
    let mut waiting: Vec<_> = (0..2).map(|_| set()).collect();
    for call in &mut waiting {
        assert!(call.now_or_never().is_none());
    }
    assert!(is_refused(set().now_or_never()), "what was given up did not count");
    server.resume().await;
    for call in waiting {
        call.await.unwrap();
    }
    until("three fit again", async || {
        let mut waiting = Vec::new();
        let mut fit = true;
        for _ in 0..3 {
            let mut call = set();
            match call.as_mut().now_or_never() {
                None => waiting.push(call),
                Some(done) => fit &= done.is_ok(),
            }
        }
        for call in waiting {
            call.await.unwrap();
        }
        fit
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silent_connection_holds_is_free_again_although_the_server_stands_still() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = with_one_connection(&server).await;
    let data = vec![b'x'; 100_000];
    server.pause().await;
    // Each is sent and given up, until what they left behind is all of the budget.
    let mut given_up = 0;
    while cache.set_value("key", &data[..], None).now_or_never().is_none() {
        given_up += 1;
        assert!(given_up < 100, "nothing is refused");
    }
    assert!(cache.set_value("key", vec![b'x'; 300_000], None).now_or_never().is_some());
    until("there is room", async || {
        cache.set_value("key", vec![b'x'; 300_000], None).now_or_never().is_none()
    })
    .await;
    println!(
        "P6 calls given up until the budget was full: {given_up}; freed with the server still stopped"
    );
    server.resume().await;
    cache.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_that_is_refused_is_kept_and_nothing_old_is_served_meanwhile() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = CacheClient::builder()
        .url(server.url())
        .max_in_flight(1)
        .deadline(Duration::from_secs(60))
        .connect()
        .await
        .unwrap();
    let users = cache.namespace::<u64, String>("user").near(true).build().unwrap();
    users.set(&7, &"old".to_owned()).await.unwrap();
    until("it is near", async || {
        users.get(&7).await.unwrap();
        cache.stats().near_entries == 1
    })
    .await;
    server.pause().await;
    let mut waiting = Box::pin(cache.ping());
    assert!(waiting.as_mut().now_or_never().is_none());
    let refused = users.invalidate(&7).now_or_never().unwrap().unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Overloaded, Outcome::Deferred));
    // Not near any more: the store is asked, and is too busy.
    let read = users.get(&7).now_or_never().unwrap().unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Overloaded);
    server.resume().await;
    waiting.await.unwrap();
    assert_eq!(users.get(&7).await.unwrap(), None);
}

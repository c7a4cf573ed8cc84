//! Grace, early refresh, jitter, negative entries, timeouts, and a store that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, Loaded as Given, Outcome, ReadFrom, Ttl};
use tokio::time::{Instant, advance, sleep};

use super::{Loaded, alone, ends};

const SECOND: Duration = Duration::from_secs(1);

/// A namespace of the embedded store whose loader counts its runs, takes 100 ms, and fails while `down`.
fn counted(
    near: bool,
    set: impl FnOnce(larder::LoadOptions) -> larder::LoadOptions,
) -> (CacheClient, larder::Namespace<u64, u64>, Arc<AtomicU64>, Arc<AtomicU64>) {
    let cache = CacheClient::memory();
    let (runs, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (count, fail) = (Arc::clone(&runs), Arc::clone(&down));
    let options = larder::LoadOptions::new().ttl(10 * SECOND).jitter(0.0).early_refresh(0.0);
    let values = cache
        .namespace::<u64, u64>("n")
        .options(set(options))
        .near(near)
        .loader(move |_key| {
            let (count, fail) = (Arc::clone(&count), Arc::clone(&fail));
            async move {
                sleep(Duration::from_millis(100)).await;
                let run = count.fetch_add(1, Ordering::SeqCst) + 1;
                if fail.load(Ordering::SeqCst) > 0 {
                    return Err(std::io::Error::other("down"));
                }
                Loaded::Ok(run)
            }
        })
        .build()
        .unwrap();
    (cache, values, runs, down)
}

#[tokio::test(start_paused = true)]
async fn within_its_grace_a_value_is_served_at_once_while_one_caller_loads_it_again() {
    for near in [false, true] {
        let (cache, values, runs, _) = counted(near, |options| options.grace(60 * SECOND));
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&1));
        assert_eq!(values.ttl(&1).await.unwrap(), Ttl::Remaining(10 * SECOND));
        values.get(&1).await.unwrap();
        advance(15 * SECOND).await;
        for _ in 0..10 {
            let asked = Instant::now();
            assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&1));
            assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waits");
            assert_eq!(values.explain(&1), Some(ReadFrom::Stale));
        }
        sleep(SECOND).await;
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&2));
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        let reads = &cache.stats().reads["n"];
        assert_eq!((reads.stale_hits, reads.loads), (10, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn many_keys_that_are_stale_are_loaded_again_behind_their_caller_and_each_is_counted_once() {
    for near in [false, true] {
        let (cache, values, runs, _) = counted(near, |options| options.grace(60 * SECOND));
        let reads = || {
            let reads = &cache.stats().reads["n"];
            (reads.misses, reads.shared_hits + reads.near_hits, reads.stale_hits)
        };
        values.get_many(&[1, 2]).await.unwrap();
        assert_eq!((runs.load(Ordering::SeqCst), reads()), (2, (2, 0, 0)));
        values.get_many(&[1, 2]).await.unwrap();
        assert_eq!(reads(), (2, 2, 0));
        advance(15 * SECOND).await;
        let asked = Instant::now();
        values.get_many(&[1, 2]).await.unwrap();
        assert_eq!((asked.elapsed(), reads()), (Duration::ZERO, (2, 2, 2)), "nobody waits");
        sleep(SECOND).await;
        values.get_many(&[1, 2]).await.unwrap();
        assert_eq!((runs.load(Ordering::SeqCst), reads()), (4, (2, 4, 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_leaves_the_stale_value_for_as_long_as_its_grace_lasts() {
    let (cache, values, _, down) = counted(false, |options| options.grace(60 * SECOND));
    values.get(&1).await.unwrap();
    down.store(1, Ordering::SeqCst);
    for _ in 0..5 {
        advance(11 * SECOND).await;
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&1));
        sleep(SECOND).await;
    }
    assert_eq!(cache.stats().reads["n"].load_failures, 5);
    advance(60 * SECOND).await;
    let error = values.get(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Load);
    assert_eq!(error.loader_error::<std::io::Error>().unwrap().to_string(), "down");
}

#[tokio::test(start_paused = true)]
async fn a_soft_timeout_is_how_long_the_fresh_value_is_waited_for() {
    for (soft, wanted) in [(50, 1), (500, 2)] {
        let soft = Duration::from_millis(soft);
        let (_cache, values, ..) =
            counted(false, |options| options.grace(60 * SECOND).soft_timeout(soft));
        values.get(&1).await.unwrap();
        advance(11 * SECOND).await;
        let asked = Instant::now();
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&wanted));
        assert!(asked.elapsed() <= soft, "{:?}", asked.elapsed());
        sleep(SECOND).await;
        // The load went on without its caller.
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_goes_on_when_the_caller_of_a_namespace_loader_is_gone() {
    let (_cache, values, runs, _) = counted(false, |options| options);
    let read = tokio::spawn({
        let values = values.clone();
        async move { values.get(&1).await }
    });
    sleep(Duration::from_millis(50)).await;
    read.abort();
    sleep(SECOND).await;
    assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&1));
    assert_eq!((runs.load(Ordering::SeqCst), values.explain(&1)), (1, Some(ReadFrom::Shared)));
}

#[tokio::test(start_paused = true)]
async fn a_load_past_the_hard_timeout_is_an_error_and_leaves_no_lease() {
    let (cache, values, ..) =
        counted(false, |options| options.hard_timeout(Duration::from_millis(50)));
    let asked = Instant::now();
    let error = values.get(&1).await.unwrap_err();
    assert_eq!((error.kind(), asked.elapsed()), (ErrorKind::Load, Duration::from_millis(50)));
    assert!(error.to_string().contains("hard timeout"), "{error}");
    assert!(!cache.key_exists("larder:lease:{n:1}").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_remembered_only_where_that_is_asked_for() {
    for (negative, wanted) in [(None, 3), (Some(5 * SECOND), 1)] {
        let cache = CacheClient::memory();
        let mut options = larder::LoadOptions::new().ttl(10 * SECOND).jitter(0.0);
        if let Some(ttl) = negative {
            options = options.negative_ttl(ttl);
        }
        let values = cache.namespace::<u64, u64>("n").options(options).build().unwrap();
        let runs = AtomicU64::new(0);
        let nothing = || async {
            runs.fetch_add(1, Ordering::SeqCst);
            Loaded::Ok(None::<u64>)
        };
        for _ in 0..3 {
            assert_eq!(values.get_or_load(&1, nothing).await.unwrap(), None);
        }
        assert_eq!(runs.load(Ordering::SeqCst), wanted);
        if negative.is_some() {
            assert_eq!(cache.get_value("n:1").await.unwrap().as_deref(), Some("null"));
            // A loader that always has a value is not content with that.
            assert_eq!(*values.get_or_load(&1, || async { Loaded::Ok(7) }).await.unwrap(), 7);
            values.invalidate(&1).await.unwrap();
            values.get_or_load(&1, nothing).await.unwrap();
            advance(6 * SECOND).await;
        }
        assert_eq!(cache.get_value("n:1").await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_finds_nothing_takes_the_stale_value_away() {
    let cache = CacheClient::memory();
    let values = cache
        .namespace::<u64, u64>("n")
        .ttl(SECOND)
        .grace(60 * SECOND)
        .early_refresh(0.0)
        .build()
        .unwrap();
    values.set(&1, &1).await.unwrap();
    advance(2 * SECOND).await;
    let read = values.get_or_load(&1, || async { Loaded::Ok(None::<u64>) }).await.unwrap();
    assert_eq!(read, None);
    advance(Duration::from_millis(5)).await;
    assert!(!cache.key_exists("n:1").await.unwrap());
}

#[tokio::test]
async fn jitter_shortens_what_is_loaded_and_leaves_what_is_written_alone() {
    let cache = CacheClient::memory();
    let values = cache.namespace::<u64, u64>("n").ttl(1000 * SECOND).jitter(0.5).build().unwrap();
    let mut shortest = 1000 * SECOND;
    let mut longest = Duration::ZERO;
    for key in 0..200 {
        values.get_or_load(&key, || async { Loaded::Ok(1) }).await.unwrap();
        let ttl = values.ttl(&key).await.unwrap().remaining().unwrap();
        shortest = shortest.min(ttl);
        longest = longest.max(ttl);
        values.set(&(key + 1000), &1).await.unwrap();
        assert!(values.ttl(&(key + 1000)).await.unwrap().remaining().unwrap() > 999 * SECOND);
    }
    println!("jitter 0.5 of 1000 s: {shortest:?} to {longest:?}");
    assert!(shortest >= 499 * SECOND && shortest < 600 * SECOND && longest > 900 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_a_hot_key_load_it_once_before_it_expires_and_none_waits() {
    let cache = CacheClient::memory();
    let runs = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&runs);
    let values = cache
        .namespace::<u64, u64>("n")
        .ttl(10 * SECOND)
        .jitter(0.0)
        .early_refresh(2.0)
        .loader(move |_| {
            let count = Arc::clone(&count);
            async move {
                sleep(Duration::from_millis(200)).await;
                Loaded::Ok(count.fetch_add(1, Ordering::SeqCst))
            }
        })
        .build()
        .unwrap();
    values.get(&1).await.unwrap();
    let mut waited = Duration::ZERO;
    // 100 seconds of a read every 5 ms: about ten lives.
    for _ in 0..20_000 {
        sleep(Duration::from_millis(5)).await;
        let asked = Instant::now();
        values.get(&1).await.unwrap();
        waited += asked.elapsed();
    }
    let reads = &cache.stats().reads["n"];
    let loads = runs.load(Ordering::SeqCst);
    println!(
        "XFetch: {loads} loads in 100 s of 10 s lives, {} early, waited {waited:?} in all",
        reads.early_refreshes
    );
    assert!((10..=14).contains(&loads) && reads.early_refreshes >= loads - 2);
    assert!(waited < SECOND, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_store_a_loader_answers_and_an_invalidation_is_kept_until_the_store_is_back() {
    let mut server = RedisServer::builder()
        .arg("--appendonly")
        .arg("yes")
        .arg("--appendfsync")
        .arg("always")
        .start()
        .await;
    let cache = CacheClient::builder()
        .url(server.url())
        .deadline(Duration::from_millis(200))
        .build()
        .unwrap();
    let values = super::numbers(&cache);
    values.set(&1, &1).await.unwrap();
    server.kill().await;
    let asked = std::time::Instant::now();
    for _ in 0..20 {
        let value =
            ends("a read", values.get_or_load(&1, || async { Loaded::Ok(2) })).await.unwrap();
        assert_eq!(*value, 2);
    }
    let took = asked.elapsed();
    let error = values.invalidate(&1).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Deferred, "{error}");
    server.restart().await;
    // The invalidation goes before the first read of the value that came back with the server.
    let mut reads = 0;
    let value = ends("the store", async {
        loop {
            reads += 1;
            match values.get(&1).await {
                Ok(value) => return value,
                Err(error) => assert!(error.is_unavailable() || error.is_timeout(), "{error}"),
            }
        }
    })
    .await;
    assert_eq!(value, None, "the old value was read again");
    let failures = cache.stats().reads["n"].store_failures;
    println!(
        "store down: 20 loads in {took:?}, {failures} failures of the store, then a deferred invalidation before read {reads}"
    );
    assert!(took < Duration::from_secs(4), "the breaker did not open");
    assert!(failures > 0 && failures < 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_many_keys_is_answered_by_the_namespaces_loader_while_the_store_is_down() {
    let _turn = alone().await;
    let mut server = RedisServer::start().await;
    let builder = CacheClient::builder().url(server.url()).deadline(Duration::from_millis(500));
    let cache = builder.connect().await.unwrap();
    let values = cache.namespace::<u64, u64>("n");
    let values = values.loader(|key: u64| async move { Loaded::Ok(key * 10) }).build().unwrap();
    values.set_many([(1, 1), (2, 2)]).await.unwrap();
    server.kill().await;
    let keys = [1, 2, 3];
    let mut took = Vec::new();
    for _ in 0..2 {
        let asked = std::time::Instant::now();
        let found = ends("the call", values.get_many(&keys)).await.unwrap();
        took.push(asked.elapsed());
        let found: Vec<u64> = found.into_iter().map(|value| *value.unwrap()).collect();
        assert_eq!(found, [10, 20, 30]);
    }
    println!("store down: get_many with a loader took {took:?}");
    assert!(took[1] < took[0] / 2, "the second call waited for the store as well: {took:?}");
    assert!(cache.stats().reads["n"].store_failures > 0);
    // Who looks only has no loader.
    let peek = values.with(larder::LoadOptions::peek);
    let error = ends("the look", peek.get_many(&keys)).await.unwrap_err();
    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_loader_may_say_how_long_its_value_lives_and_a_peek_loads_nothing() {
    let cache = CacheClient::memory();
    let values = super::numbers(&cache).with(|options| options.jitter(0.0));
    let peek = values.with(|options| options.peek());
    assert_eq!(peek.get_or_load(&1, || async { Loaded::Ok(Some(1)) }).await.unwrap(), None);
    let own = || async { Loaded::Ok(Given::value(1).ttl(3 * SECOND)) };
    assert_eq!(values.get_or_load(&1, own).await.unwrap().as_deref(), Some(&1));
    assert_eq!(values.ttl(&1).await.unwrap(), Ttl::Remaining(3 * SECOND));
    assert_eq!(
        peek.get_or_load(&1, || async { Loaded::Ok(Some(2)) }).await.unwrap().as_deref(),
        Some(&1)
    );
}

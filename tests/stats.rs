//! Statistics say exactly what a script did: counts, latencies, errors, and the same in `metrics`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use larder::op::{Batch, Replies};
use larder::store::{Capabilities, InvalidationSink, MemoryStore, Store};
use larder::testing::{Fault, Faulty};
use larder::{
    CacheClient, Direction, ErrorKind, LockOptions, Loss, NO_PREFIX, OTHER, Presence, ReadFrom,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

/// The embedded store, which takes its time: under paused time, exactly that.
struct Slow(MemoryStore, Duration);

impl Store for Slow {
    fn run(&self, batch: Batch) -> BoxFuture<'_, larder::Result<Replies>> {
        let running = self.0.run(batch);
        let pause = self.1;
        Box::pin(async move {
            // The latency that the test measures.
            tokio::time::sleep(pause).await;
            running.await
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>) {
        self.0.on_invalidation(sink);
    }
}

/// What both tests do: 5 reads, of which 2 hit; 2 errors; 3 writes; a pipeline.
async fn script(cache: &CacheClient) -> larder::Result<()> {
    cache.set_value("user:1", "12345", None).await?;
    cache.set_value("user:2", "123", None).await?;
    cache.push_to_list("jobs:mail", "1234567", Direction::Right).await?;
    for key in ["user:1", "user:2", "user:3", "plain"] {
        cache.get_value(key).await?;
    }
    assert!(cache.get_value("jobs:mail").await.unwrap_err().is_wrong_type());
    assert!(cache.get_dict::<HashMap<String, u8>>("user:1").await.unwrap_err().is_decode());
    cache.left_pop_list("jobs:mail").await?;
    cache.pipeline().get_value("user:1").get_value("user:9").run().await?;
    assert!(cache.get_value("").await.unwrap_err().is_invalid_input());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn counts_and_latencies_match_the_script_exactly() {
    let pause = Duration::from_millis(5);
    let cache = CacheClient::builder().store(Slow(MemoryStore::new(), pause)).build().unwrap();
    script(&cache).await.unwrap();

    let stats = cache.stats();
    let user = &stats.namespaces["user"];
    // get 1, get 2, get_dict 1 (found, then not decodable), and one in the pipeline.
    assert_eq!((user.hits, user.misses, user.errors), (4, 2, 1));
    assert_eq!((user.bytes_written, user.bytes_read), (8, 5 + 3 + 5 + 5));
    assert_eq!(user.hit_rate(), Some(4.0 / 6.0));
    let jobs = &stats.namespaces["jobs"];
    assert_eq!((jobs.hits, jobs.misses, jobs.errors), (0, 0, 1));
    assert_eq!((jobs.bytes_written, jobs.bytes_read), (7, 7));
    assert_eq!(stats.namespaces[NO_PREFIX].misses, 1);
    assert_eq!(stats.namespaces.len(), 3);

    let calls: Vec<_> =
        stats.operations.iter().map(|(name, one)| (*name, one.calls, one.errors)).collect();
    let expected =
        [("batch", 1, 0), ("get", 6, 2), ("list_pop", 1, 0), ("list_push", 1, 0), ("set", 2, 0)];
    assert_eq!(calls, expected);
    for operation in stats.operations.values() {
        let latency = &operation.latency;
        for exact in [latency.mean(), latency.max(), latency.quantile(0.5), latency.quantile(0.99)]
        {
            assert_eq!(exact, pause);
        }
    }
}

#[test]
fn the_metrics_facade_shows_the_same() {
    let seen = metrics_of(async { script(&CacheClient::memory()).await.unwrap() });
    for (name, number) in [
        ("larder_hits_total user", 4),
        ("larder_misses_total user", 2),
        ("larder_errors_total jobs", 1),
        ("larder_read_bytes_total user", 18),
        ("larder_written_bytes_total user", 8),
        ("larder_operation_duration_seconds get", 6),
        ("larder_operation_errors_total get", 2),
        ("larder_operation_duration_seconds batch", 1),
    ] {
        assert_eq!(seen.get(name), Some(&number), "{name} in {seen:#?}");
    }
}

/// What `work` told the facade, by name and label: counts, and numbers of samples. Under paused time.
fn metrics_of(work: impl Future<Output = ()>) -> HashMap<String, u64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(work);
    });
    let mut seen = HashMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let label = key.labels().next().map_or("", |label| label.value());
        let number = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Histogram(samples) => samples.len() as u64,
            DebugValue::Gauge(_) => unreachable!("there are no gauges"),
        };
        seen.insert(format!("{} {label}", key.name()), number);
    }
    seen
}

/// What both tests of the read path do, under paused time: a load of 3 s, which fails once before, and four reads, 10, 17,
/// 67 and 68 s after it.
async fn read_script(cache: &CacheClient) {
    let secs = Duration::from_secs;
    let numbers = cache
        .namespace::<u8, u64>("n")
        .ttl(secs(60))
        .grace(secs(30))
        // Neither the expiry nor a refresh is left to chance.
        .jitter(0.0)
        .early_refresh(0.0)
        .near(true)
        .build()
        .unwrap();
    let refused = numbers
        .get_or_load(&1, || async {
            tokio::time::sleep(secs(1)).await;
            Err::<u64, _>("the origin is away")
        })
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Load);
    let load = || async {
        tokio::time::sleep(secs(3)).await;
        Ok::<_, std::io::Error>(7_u64)
    };
    let loaded = numbers.get_or_load(&1, load).await;
    assert_eq!(*loaded.unwrap(), 7);
    // From the store, near, and stale: near, and from the store.
    let stale = numbers.clone().with(|options| options.bypass_near());
    for (pause, from, values) in [
        (10, ReadFrom::Shared, &numbers),
        (7, ReadFrom::Near, &numbers),
        (50, ReadFrom::Stale, &numbers),
        (1, ReadFrom::Stale, &stale),
    ] {
        tokio::time::sleep(secs(pause)).await;
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&7));
        assert_eq!(values.explain(&1), Some(from));
    }
}

#[tokio::test(start_paused = true)]
async fn ages_and_load_times_match_the_script_exactly() {
    let cache = CacheClient::memory();
    read_script(&cache).await;
    let stats = cache.stats();
    let reads = &stats.reads["n"];
    let counts = [reads.near_hits, reads.shared_hits, reads.stale_hits, reads.misses];
    assert_eq!(counts, [1, 1, 2, 2], "{reads:?}");
    assert_eq!((reads.loads, reads.load_failures), (2, 1));
    // A load that fails counts as well: 1 s, and 3.
    let secs = Duration::from_secs;
    let times = &reads.load_time;
    assert_eq!((times.count(), times.mean(), times.max()), (2, secs(2), secs(3)));
    // Ages are rounded up to a millisecond.
    let ages = &reads.age;
    assert_eq!((ages.count(), ages.max()), (4, secs(68)));
    let mean = (10.0 + 17.0 + 67.0 + 68.0) / 4.0;
    assert!((ages.mean().as_secs_f64() - mean).abs() < 0.002, "{:?}", ages.mean());
}

#[tokio::test]
async fn a_load_that_fails_is_a_miss_by_every_way_of_reading() {
    let cache = CacheClient::memory();
    let fails = || async { Err::<u64, _>("the origin is away") };
    let numbers = cache.namespace::<u8, u64>("n").loader(move |_| fails()).build().unwrap();
    let misses = || cache.stats().reads["n"].misses;
    numbers.get(&1).await.unwrap_err();
    assert_eq!(misses(), 1);
    numbers.get_many(&[1]).await.unwrap_err();
    assert_eq!(misses(), 2);
    numbers.get_or_load(&1, fails).await.unwrap_err();
    assert_eq!(misses(), 3);
    let all_fail = |_: Vec<&u8>| async { Err::<Vec<(u8, u64)>, _>("the origin is away") };
    let found = numbers.get_or_load_many(&[1, 2], all_fail).await.unwrap();
    assert!(found.iter().all(Result::is_err));
    assert_eq!(misses(), 5);
    assert_eq!(cache.stats().reads["n"].load_failures, 5);
}

#[test]
fn the_metrics_facade_shows_the_same_of_reads() {
    let seen = metrics_of(async { read_script(&CacheClient::memory()).await });
    for (name, number) in [
        ("larder_near_hits_total n", 1),
        ("larder_shared_hits_total n", 1),
        ("larder_stale_hits_total n", 2),
        ("larder_read_misses_total n", 2),
        ("larder_loads_total n", 2),
        ("larder_load_failures_total n", 1),
        ("larder_served_age_seconds n", 4),
        ("larder_load_duration_seconds n", 2),
    ] {
        assert_eq!(seen.get(name), Some(&number), "{name} in {seen:#?}");
    }
}

/// What both tests of locks do, under paused time. What each step is to count stands beside it; the sums:
/// 5 acquired, of which 4 were ready to wait, 2 contended, 2 timed out, 10 renewals, 10 failed ones, 2 lost, 2 refused.
async fn lock_script(cache: &CacheClient, faulty: &Faulty<MemoryStore>) {
    let secs = Duration::from_secs;
    // Acquired. Renewed every 10 s: 9 times.
    let long = cache.lock("a").lease(secs(30)).acquire().await.unwrap();
    tokio::time::sleep(secs(95)).await;
    // In line within the process: timed out, and not contended. A try alone is neither.
    let late = cache.lock("a").wait(secs(1)).acquire().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LockTimeout);
    assert!(cache.lock("a").try_acquire().await.unwrap().is_none());

    // Held by a plain lock: contended and timed out; then contended, and acquired after 300 ms.
    let plain = LockOptions { expire: secs(60), ..LockOptions::default() };
    let id = cache.acquire_lock("lock:b", plain).await.unwrap();
    let late = cache.lock("b").wait(secs(2)).acquire().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LockTimeout);
    let lock = cache.lock("b").wait(secs(30));
    let waiting = tokio::spawn(async move { lock.acquire().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(cache.release_lock("lock:b", &id).await.unwrap());
    assert!(waiting.await.unwrap().release().await.unwrap());

    // Deleted: lost at the next renewal, and its release is refused.
    cache.delete_key("lock:a").await.unwrap();
    assert_eq!(long.lost().await, Loss::Taken);
    assert!(!long.release().await.unwrap());
    // Acquired and deleted: refused, and lost nothing while it was held.
    let short = cache.lock("c").acquire().await.unwrap();
    cache.delete_key("lock:c").await.unwrap();
    assert!(!short.release().await.unwrap());

    // Acquired. Due after 1 s, refused twice for the moment, then renewed.
    let shaky = cache.lock("d").lease(secs(3)).acquire().await.unwrap();
    let moment = Fault::Refused(ErrorKind::ReadOnly);
    faulty.fail_next(moment);
    faulty.fail_next(moment);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    // Refused from then on: due a second after the renewal, and again after each 250 ms that are left of 2.85 s.
    faulty.fail_every(1, moment);
    assert_eq!(shaky.lost().await, Loss::Expired);
    faulty.heal();
    drop(shaky);

    // Acquired by one who was not ready to wait.
    let room = cache.semaphore("e", 2).try_acquire().await.unwrap().expect("there is room");
    assert!(room.release().await.unwrap());
}

fn shaky_store() -> (CacheClient, Faulty<MemoryStore>) {
    let faulty = Faulty::new(MemoryStore::new());
    (CacheClient::builder().store(faulty.clone()).build().unwrap(), faulty)
}

#[tokio::test(start_paused = true)]
async fn what_became_of_locks_matches_the_script_exactly() {
    let (cache, faulty) = shaky_store();
    lock_script(&cache, &faulty).await;
    let seen = cache.stats().locks;
    assert_eq!((seen.acquired, seen.contended, seen.timed_out), (5, 2, 2), "{seen:?}");
    assert_eq!((seen.renewed, seen.failed_renewals), (10, 10), "{seen:?}");
    assert_eq!((seen.lost, seen.refused_releases), (2, 2), "{seen:?}");
    assert_eq!(seen.waited.count(), 4);
    // Woken by the release, and not by a timer: a millisecond is what timers count in.
    let longest = seen.waited.max();
    assert!((300..=301).contains(&longest.as_millis()), "{longest:?}");
    assert!(seen.waited.quantile(0.5) < Duration::from_millis(1), "{:?}", seen.waited);
    // Plain locks count among the operations alone.
    let operations = cache.stats().operations;
    assert_eq!((operations["acquire"].calls, operations["release"].calls), (1, 1));
}

#[test]
fn the_metrics_facade_shows_the_same_of_locks() {
    let seen = metrics_of(async {
        let (cache, faulty) = shaky_store();
        lock_script(&cache, &faulty).await;
    });
    for (name, number) in [
        ("larder_locks_acquired_total ", 5),
        ("larder_locks_contended_total ", 2),
        ("larder_locks_timed_out_total ", 2),
        ("larder_lock_renewals_total ", 10),
        ("larder_lock_failed_renewals_total ", 10),
        ("larder_locks_lost_total ", 2),
        ("larder_lock_refused_releases_total ", 2),
        ("larder_lock_wait_seconds ", 4),
    ] {
        assert_eq!(seen.get(name), Some(&number), "{name} in {seen:#?}");
    }
}

#[tokio::test]
async fn the_number_of_namespaces_is_bounded() {
    let cache = CacheClient::builder().max_namespaces(10).build().unwrap();
    for number in 0..1000 {
        cache.get_value(format!("ns{number}:x")).await.unwrap();
    }
    let stats = cache.stats();
    assert_eq!(stats.namespaces.len(), 11);
    assert_eq!(stats.namespaces[OTHER].misses, 990);
}

#[test]
fn more_namespaces_than_there_is_memory_for_are_a_mistake_and_not_a_panic() {
    let error = CacheClient::builder().max_namespaces(usize::MAX).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let none = CacheClient::builder().max_namespaces(0).build().unwrap();
    assert!(none.stats().namespaces.is_empty());
}

#[tokio::test]
async fn only_what_was_written_counts_as_written() {
    let cache = CacheClient::memory();
    cache.push_to_list("jobs:mail", "1234567", Direction::Right).await.unwrap();
    cache.remove_from_list("jobs:mail", "1234567").await.unwrap();
    assert_eq!(cache.stats().namespaces["jobs"].bytes_written, 7);

    assert!(!cache.set_value_if("user:1", "123", None, Presence::Present).await.unwrap());
    cache.set_value("user:1", "12345", None).await.unwrap();
    assert!(!cache.set_value_if("user:1", "123", None, Presence::Absent).await.unwrap());
    assert_eq!(cache.stats().namespaces["user"].bytes_written, 5);
}

#[tokio::test]
async fn an_undecodable_value_among_many_is_named_and_counts_in_its_own_namespace() {
    let cache = CacheClient::memory();
    cache.set_value("good:1", "text", None).await.unwrap();
    cache.set_value("bad:1", vec![0xff], None).await.unwrap();
    let error = cache.get_many(["good:1", "bad:1"]).await.unwrap_err();
    assert!(error.is_decode());
    assert_eq!(error.key().unwrap().as_bytes(), b"bad:1");
    let stats = cache.stats();
    assert_eq!(stats.namespaces["good"].errors, 0);
    assert_eq!(stats.namespaces["bad"].errors, 1);
    assert_eq!(stats.operations["get_many"].errors, 1);
}

#[tokio::test]
async fn a_namespace_counts_under_its_own_name() {
    let cache = CacheClient::memory();
    let users = cache.namespace::<str, u8>("shop:user").build().unwrap();
    users.set("a", &1).await.unwrap();
    users.get("a").await.unwrap();
    assert_eq!(cache.stats().namespaces["shop:user"].hits, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_many_tasks_count_at_once() {
    let cache = CacheClient::memory();
    cache.set_value("user:1", "x", None).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for round in 0..5000 {
                    cache.get_value(format!("user:{}", (task + round) % 2)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = Arc::new(cache.stats());
    let user = &stats.namespaces["user"];
    assert_eq!((user.hits, user.misses), (20_000, 20_000));
    assert_eq!(stats.operations["get"].calls, 40_000);
    assert_eq!(stats.operations["get"].latency.count(), 40_000);
}

#[tokio::test]
async fn a_failure_of_many_keys_counts_once_in_each_of_their_namespaces() {
    let cache = CacheClient::memory();
    cache.close().await;
    cache.get_many(["user:1", "user:2", "shop:1"]).await.unwrap_err();
    let stats = cache.stats();
    assert_eq!((stats.namespaces["user"].errors, stats.namespaces["shop"].errors), (1, 1));
}

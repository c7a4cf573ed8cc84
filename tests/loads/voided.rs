//! P20: what a slow loader brings never takes the place of something newer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use larder::op::{Batch, Replies};
use larder::store::{Capabilities, InvalidationSink, MemoryStore, RedisStore, Store};
use larder::testing::{Fault, Faulty, RedisServer};
use larder::{CacheClient, ErrorKind, Key, Namespace};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::{Loaded, alone, ends, stores, times, until};

const OLD: u64 = 1;
const NEW: u64 = 2;
const RELOADED: u64 = 3;

/// Who changes the key while it is loaded. `other` is another client of the same store.
async fn change(way: u64, cache: &CacheClient, other: &CacheClient, key: u64) {
    let name = format!("n:{key}");
    let mine = super::numbers(cache);
    let theirs = super::numbers(other);
    match way % 10 {
        0 => mine.set(&key, &NEW).await.unwrap(),
        1 => mine.invalidate(&key).await.unwrap(),
        2 => _ = cache.delete_key(&name).await.unwrap(),
        3 => _ = cache.batch_delete_keys([&name, "unrelated"]).await.unwrap(),
        4 => theirs.set(&key, &NEW).await.unwrap(),
        5 => theirs.invalidate_many(&[key, key + 1_000_000]).await.unwrap(),
        6 => other.set_value(&name, NEW, None).await.unwrap(),
        7 => mine.set_many([(key, NEW)]).await.unwrap(),
        // What another language does by the rule: first the lease, then the key.
        8 => {
            let lease = Key::new(&name).unwrap().lease();
            other.set_value(&name, NEW, None).await.unwrap();
            other.pipeline().delete_key(lease).delete_key(&name).run().await.unwrap();
        }
        // Written, and gone again before the loader comes back.
        _ => {
            theirs.set(&key, &NEW).await.unwrap();
            other.delete_key(&name).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_load_never_overwrites_a_write_or_an_invalidation() {
    let _turn = alone().await;
    let (behind, stores) = stores().await;
    for (store, cache) in stores {
        let other = behind.another(store, &cache).await;
        let (races, stale, returned) =
            (times(10_000), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        const AT_ONCE: u64 = 50;
        for batch in 0..races / AT_ONCE {
            let all = (0..AT_ONCE).map(|at| {
                let key = batch * AT_ONCE + at;
                let (cache, other) = (cache.clone(), other.clone());
                let (stale, returned) = (Arc::clone(&stale), Arc::clone(&returned));
                tokio::spawn(async move {
                    let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
                    let read = {
                        let (values, running, go) =
                            (super::numbers(&cache), Arc::clone(&running), Arc::clone(&go));
                        tokio::spawn(async move {
                            let mut first = true;
                            let loader = || {
                                let (running, go) = (Arc::clone(&running), Arc::clone(&go));
                                let old = std::mem::replace(&mut first, false);
                                async move {
                                    if old {
                                        running.notify_one();
                                        go.notified().await;
                                        return Loaded::Ok(OLD);
                                    }
                                    Ok(RELOADED)
                                }
                            };
                            *values.get_or_load(&key, loader).await.unwrap()
                        })
                    };
                    running.notified().await;
                    change(key, &cache, &other, key).await;
                    go.notify_one();
                    let got = ends("the read", read).await.unwrap();
                    let stored = cache.get_value(format!("n:{key}")).await.unwrap();
                    stale.fetch_add(u64::from(stored.as_deref() == Some("1")), Ordering::Relaxed);
                    returned.fetch_add(u64::from(got == OLD), Ordering::Relaxed);
                })
            });
            for one in all.collect::<Vec<_>>() {
                one.await.unwrap();
            }
        }
        let refused = cache.stats().reads["n"].refused_fills;
        let (stale, returned) = (stale.load(Ordering::Relaxed), returned.load(Ordering::Relaxed));
        println!(
            "P20 {store}: {races} slow loads against 10 kinds of writers, {refused} fills refused, stale fills: {stale}, old values returned: {returned}"
        );
        assert_eq!((refused, stale, returned), (races, 0, 0));
    }
}

/// A loader that reads a row, and comes back with it when it is let.
#[derive(Clone)]
struct Row {
    // Zero if there is none.
    row: Arc<AtomicU64>,
    begun: Arc<Notify>,
    gate: Arc<Semaphore>,
}

impl Row {
    fn of(value: u64) -> Self {
        let (begun, gate) = (Arc::default(), Arc::new(Semaphore::new(0)));
        Self { row: Arc::new(AtomicU64::new(value)), begun, gate }
    }

    async fn load(self) -> Option<u64> {
        let value = self.row.load(Ordering::SeqCst);
        self.begun.notify_one();
        self.gate.acquire().await.unwrap().forget();
        (value != 0).then_some(value)
    }

    /// A reader of a key whose loader it is.
    fn read(&self, values: &Namespace<u64, u64>, key: u64, many: bool) -> JoinHandle<Option<u64>> {
        let (row, values) = (self.clone(), values.clone());
        tokio::spawn(async move {
            if many {
                let loader = |_: Vec<&u64>| {
                    let loading = row.clone().load();
                    async move { Loaded::Ok(loading.await.map(|value| (key, value))) }
                };
                let found = values.get_or_load_many(&[key], loader).await.unwrap().remove(0);
                return found.unwrap().as_deref().copied();
            }
            let loader = || {
                let loading = row.clone().load();
                async move { Loaded::Ok(loading.await) }
            };
            values.get_or_load(&key, loader).await.unwrap().as_deref().copied()
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_found_nothing_before_an_invalidation_is_loaded_again() {
    let _turn = alone().await;
    let (behind, stores) = stores().await;
    for (store, cache) in stores {
        let other = behind.another(store, &cache).await;
        let (values, theirs) = (super::numbers(&cache), super::numbers(&other));
        let rounds = times(100);
        for round in 0..rounds {
            let (row, many) = (Row::of(0), round % 2 == 0);
            let read = row.read(&values, round, many);
            ends("the load begins", row.begun.notified()).await;
            // Somebody wrote the row, and says so: of a key that is not there a server tells nobody.
            row.row.store(NEW, Ordering::SeqCst);
            theirs.invalidate(&round).await.unwrap();
            row.gate.add_permits(2);
            assert_eq!(ends("the read", read).await.unwrap(), Some(NEW), "{store}, many {many}");
        }
        let reads = &cache.stats().reads["n"];
        println!(
            "P20 {store}: {rounds} loads of nothing against invalidations, {} loads",
            reads.loads
        );
        assert_eq!((reads.loads, reads.refused_fills), (2 * rounds, rounds));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_after_an_invalidation_is_not_given_what_was_loaded_before_it() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let on_server = Faulty::new(RedisStore::open(&server.url()).unwrap());
    let embedded = Faulty::new(MemoryStore::new());
    let client = |store: &Faulty<_>| CacheClient::builder().store(store.clone()).build().unwrap();
    let clients = [client(&on_server), CacheClient::connect(server.url()).await.unwrap()];
    await_new(&on_server, clients, true).await;
    let client = |store: &Faulty<_>| CacheClient::builder().store(store.clone()).build().unwrap();
    await_new(&embedded, [client(&embedded), client(&embedded)], false).await;
}

/// Invalidates what is loaded: so often that what is loaded the second time is refused as well, or so that nobody learns whether
/// it would be. `joins` says whether a reader joins the load then, of which the store told nothing.
async fn await_new<S: Store>(store: &Faulty<S>, [cache, other]: [CacheClient; 2], joins: bool) {
    let (values, theirs) = (super::numbers(&cache), super::numbers(&other));
    let stats = || cache.stats().reads["n"].clone();
    // From here on it is told of changes.
    values.get_or_load(&100, async || Loaded::Ok(0)).await.unwrap();
    for case in 0..8 {
        let [many, nothing, fails] = [1, 2, 4].map(|bit| case & bit != 0);
        let old = if nothing { 0 } else { OLD };
        let row = Row::of(old);
        let before = stats();
        let first = row.read(&values, case, many);
        ends("a load begins", row.begun.notified()).await;
        if !fails {
            theirs.invalidate(&case).await.unwrap();
            row.gate.add_permits(1);
            ends("it is loaded again", row.begun.notified()).await;
        }
        row.row.store(NEW, Ordering::SeqCst);
        theirs.invalidate(&case).await.unwrap();
        let second = row.read(&values, case, many);
        until("it joined, or began a load of its own", async || {
            let (now, loads) = (stats(), if fails { 1 } else { 2 });
            now.joined > before.joined || (!joins && now.loads > before.loads + loads)
        })
        .await;
        if fails {
            store.fail_next(Fault::Refused(ErrorKind::OutOfMemory));
        }
        row.gate.add_permits(3);
        let case = format!("on a server {joins}, many {many}, nothing {nothing}, fails {fails}");
        let first = ends("who came before", first).await.unwrap();
        assert_eq!(first.unwrap_or_default(), old, "{case}");
        assert_eq!(ends("who came after", second).await.unwrap(), Some(NEW), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_does_not_overwrite_a_rewrite_with_equal_bytes() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let values = cache
            .namespace::<u64, u64>("g")
            .ttl(Duration::from_millis(50))
            .grace(Duration::from_secs(60))
            .jitter(0.0)
            .early_refresh(0.0)
            .build()
            .unwrap();
        let (rounds, mut stale) = (times(500), 0);
        for key in 0..rounds {
            values.set(&key, &OLD).await.unwrap();
            // Into the grace: a store's clock moves by itself.
            while values.ttl(&key).await.unwrap().remaining() != Some(Duration::ZERO) {
                tokio::task::yield_now().await;
            }
            let written = values.clone();
            let loader = || {
                let values = written.clone();
                async move {
                    // The same bytes, for a longer time: somebody says that they are true now.
                    values
                        .with(|options| options.ttl(Duration::from_secs(30)))
                        .set(&key, &OLD)
                        .await?;
                    Ok::<u64, larder::Error>(NEW)
                }
            };
            let got = ends("the read", values.get_or_load(&key, loader)).await.unwrap();
            let stored = cache.get_value(format!("g:{key}")).await.unwrap();
            stale += u64::from(stored.as_deref() != Some("1") || *got != OLD);
        }
        let refused = cache.stats().reads["g"].refused_fills;
        println!(
            "P20 {store}: {rounds} refreshes against rewrites with equal bytes, {refused} refused, stale fills: {stale}"
        );
        assert_eq!((refused, stale), (rounds, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_after_a_write_is_not_given_what_a_refresh_from_before_it_could_not_store() {
    for case in 0..8 {
        let [many, near, foreign] = [1, 2, 4].map(|bit| case & bit != 0);
        let store = Faulty::new(MemoryStore::new());
        let client = || CacheClient::builder().store(store.clone()).build().unwrap();
        let (cache, other) = (client(), client());
        let (gate, running) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let (opened, begun) = (Arc::clone(&gate), Arc::clone(&running));
        let values = cache
            .namespace::<u64, u64>("n")
            .ttl(Duration::from_secs(1))
            .grace(Duration::from_secs(60))
            .soft_timeout(Duration::from_secs(5))
            .jitter(0.0)
            .early_refresh(0.0)
            .near(near)
            .loader(move |_| {
                let (opened, begun) = (Arc::clone(&opened), Arc::clone(&begun));
                async move {
                    begun.notify_one();
                    opened.acquire().await.unwrap().forget();
                    Loaded::Ok(OLD)
                }
            })
            .build()
            .unwrap();
        let read = || {
            let values = values.clone();
            tokio::spawn(async move {
                if many {
                    values.get_many(&[1]).await.unwrap().remove(0).map(|value| *value)
                } else {
                    values.get(&1).await.unwrap().map(|value| *value)
                }
            })
        };
        let theirs = other.namespace::<u64, u64>("n").ttl(Duration::from_secs(1));
        let theirs = theirs.grace(Duration::from_secs(60)).jitter(0.0).build().unwrap();
        let stale = async |value| {
            let writer = if foreign { &theirs } else { &values };
            writer.set(&1, &value).await.unwrap();
            tokio::time::advance(Duration::from_secs(2)).await;
        };
        stale(OLD).await;
        let before = read();
        running.notified().await;
        stale(NEW).await;
        // It goes on, and cannot store what it brings.
        let after = read();
        tokio::time::sleep(Duration::from_millis(1)).await;
        store.fail_every(1, Fault::Before(ErrorKind::Unavailable));
        gate.add_permits(1);
        assert_eq!(ends("before the write", before).await.unwrap(), Some(OLD));
        assert_eq!(ends("after the write", after).await.unwrap(), Some(NEW));
        assert!(store.failed() > 0 && cache.stats().reads["n"].refused_fills == 0);
        assert_eq!(cache.stats().reads["n"].loads, 1);
    }
}

/// Reads one key with a loader that takes so long: alone, or in a call for many.
async fn slowly(
    values: &Namespace<u64, u64>,
    many: bool,
    took: Duration,
    gives: Option<u64>,
) -> Option<u64> {
    if many {
        let loader = |_: Vec<&u64>| async move {
            tokio::time::sleep(took).await;
            Loaded::Ok(gives.map(|value| (1, value)))
        };
        let found = values.get_or_load_many(&[1], loader).await.unwrap().remove(0);
        return found.unwrap().as_deref().copied();
    }
    let loader = || async move {
        tokio::time::sleep(took).await;
        Loaded::Ok(gives)
    };
    values.get_or_load(&1, loader).await.unwrap().as_deref().copied()
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_told_of_changes_is_joined_for_as_long_as_it_takes() {
    for many in [false, true] {
        let cache = CacheClient::memory();
        let values = super::numbers(&cache);
        let second = Duration::from_secs(1);
        let late = async {
            tokio::time::sleep(second / 2).await;
            slowly(&values, many, second, None).await
        };
        let found = tokio::join!(slowly(&values, many, second, None), late);
        let reads = &cache.stats().reads["n"];
        assert_eq!((found, reads.loads, reads.joined), ((None, None), 1, 1), "many {many}");
    }
}

/// A store that tells nobody of changes, as sessions of the caller's own are.
struct Untold(Faulty<MemoryStore>);

impl Store for Untold {
    fn run(&self, batch: Batch) -> BoxFuture<'_, larder::Result<Replies>> {
        let running = self.0.run(batch);
        Box::pin(async move { Ok(Replies::many(running.await?.into_results())) })
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn on_invalidation(&self, _sink: Arc<dyn InvalidationSink>) {}
}

#[tokio::test(start_paused = true)]
async fn a_load_of_whose_changes_nobody_tells_is_not_joined_by_who_reads_after_one() {
    for many in [false, true] {
        let store = Faulty::new(MemoryStore::new());
        let other = CacheClient::builder().store(store.clone()).build().unwrap();
        let cache = CacheClient::builder().store(Untold(store)).build().unwrap();
        let (values, theirs) = (super::numbers(&cache), super::numbers(&other));
        let secs = Duration::from_secs;
        let begun = tokio::time::Instant::now();
        // Waits for the lease first: what it brings rests on what begins after that.
        let first = async {
            tokio::time::sleep(secs(1)).await;
            slowly(&values, many, secs(10), Some(OLD)).await
        };
        let second = async {
            tokio::time::sleep(secs(6)).await;
            theirs.set(&1, &NEW).await.unwrap();
            tokio::time::sleep(secs(1)).await;
            (slowly(&values, many, secs(10), Some(OLD)).await, begun.elapsed())
        };
        let (nothing, first, (second, after)) =
            tokio::join!(slowly(&theirs, many, secs(2), None), first, second);
        assert_eq!((nothing, first, second), (None, Some(NEW), Some(NEW)), "many {many}");
        assert!(after < secs(8), "it waited: {after:?}");
        let reads = &cache.stats().reads["n"];
        assert_eq!((reads.lease_waits, reads.loads, reads.refused_fills), (1, 1, 1));
    }
}

//! Mixed load while the server is killed and started again: whoever begins to read after an invalidation was
//! acknowledged gets what it made valid, or something newer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{Cut, FaultProxy, RedisServer};
use larder::{CacheClient, Namespace, Outcome};

use super::ledger::Ledger;
use super::{Lateness, QUIET, alone, times, until};

const KEYS: u64 = 120;
const CLIENTS: u64 = 2;
const READERS: u64 = 16;
const WRITERS: u64 = 2;

/// Where values come from: the newest version of every key. It is never away.
struct Origin(Vec<AtomicU64>);

impl Origin {
    /// What a loader does. Some are so slow that the world changes meanwhile, for longer than a change takes to be told.
    async fn load(&self, key: u64) -> Result<u64, std::io::Error> {
        let version = self.0[key as usize].load(Ordering::SeqCst);
        let millis = if fastrand::u32(..50) == 0 { 150 } else { fastrand::u64(..3) };
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(version)
    }
}

/// What is counted.
#[derive(Default)]
struct Tally {
    over: AtomicBool,
    reads: AtomicU64,
    acked: AtomicU64,
    deferred: AtomicU64,
    repeated: AtomicU64,
    // Reads of older versions: of what this client invalidated itself, and of what another one did.
    own_stale: AtomicU64,
    stale: AtomicU64,
    behind_micros: AtomicU64,
}

impl Tally {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Everything that the tasks share.
struct World {
    origin: Origin,
    ledger: Ledger,
    tally: Tally,
}

/// Reads through the cache of one client, and judges what it gets.
async fn read(world: Arc<World>, values: Namespace<u64, u64>, client: u64) {
    let tally = &world.tally;
    for step in 0_u64.. {
        if tally.over() {
            return;
        }
        let key = fastrand::u64(..KEYS);
        let began = Instant::now();
        let value = values.get_or_load(&key, || world.origin.load(key)).await;
        // A store that is away is no error of a read: the loader answers.
        let value = *value.unwrap_or_else(|error| panic!("a read failed: {error}"));
        let verdict = world.ledger.judge(key, began, Some(value));
        count(&tally.reads);
        if key % CLIENTS == client {
            // Nobody has to be told of an own invalidation: it holds at once.
            tally.own_stale.fetch_add(u64::from(!verdict.behind.is_zero()), Ordering::Relaxed);
        } else {
            tally.stale.fetch_add(u64::from(verdict.stale), Ordering::Relaxed);
            let micros = verdict.behind.as_micros() as u64;
            tally.behind_micros.fetch_max(micros, Ordering::Relaxed);
        }
        // Hits never wait: the others want to run as well.
        if step % 32 == 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}

/// Changes the origin and then invalidates, for the keys that are its own.
async fn write(world: Arc<World>, values: Namespace<u64, u64>, client: u64, writer: u64) {
    let tally = &world.tally;
    let stride = CLIENTS * WRITERS;
    while !tally.over() {
        let key = client + CLIENTS * writer + stride * fastrand::u64(..KEYS / stride);
        let version = world.origin.0[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
        loop {
            match values.invalidate(&key).await {
                Ok(()) => {
                    world.ledger.acked(key, version);
                    count(&tally.acked);
                    break;
                }
                // It is sent as soon as the store is back; until then it is not acknowledged.
                Err(error) if error.outcome() == Outcome::Deferred => {
                    count(&tally.deferred);
                    break;
                }
                Err(error) => {
                    assert!(error.is_unavailable() || error.is_timeout(), "{error}");
                    count(&tally.repeated);
                }
            }
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..8_000))).await;
    }
}

/// What the network does meanwhile, one after the other.
fn disturb(proxy: &FaultProxy, round: u64) {
    let late = Duration::ZERO..Duration::from_millis(8);
    proxy.to_client().delay((round % 4 == 1 || round % 4 == 3).then_some(late));
    if round % 4 >= 2 {
        proxy.cut(Cut::Reset);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_read_gives_less_than_the_last_acknowledged_invalidation_while_servers_are_killed() {
    let _turn = alone().await;
    let log = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut builder = RedisServer::builder();
    for arg in log {
        builder = builder.arg(arg);
    }
    let mut server = builder.start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let world = Arc::new(World {
        origin: Origin((0..KEYS).map(|_| AtomicU64::new(1)).collect()),
        ledger: Ledger::new(KEYS),
        tally: Tally::default(),
    });
    let (mut tasks, mut caches) = (Vec::new(), Vec::new());
    for client in 0..CLIENTS {
        let cache = CacheClient::builder().url(proxy.url()).build().unwrap();
        let values = cache
            .namespace::<u64, u64>("v")
            .ttl(Duration::from_secs(60))
            .lease(Duration::from_secs(2))
            .near(true)
            .build()
            .unwrap();
        for _ in 0..READERS {
            tasks.push(tokio::spawn(read(Arc::clone(&world), values.clone(), client)));
        }
        for writer in 0..WRITERS {
            tasks.push(tokio::spawn(write(Arc::clone(&world), values.clone(), client, writer)));
        }
        caches.push((cache, values));
    }
    let (kills, tally, machine) = (times(200), &world.tally, Lateness::watch());
    for round in 0..kills {
        // Moments of chance are what this test is about.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..250))).await;
        disturb(&proxy, round);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..50))).await;
        server.kill().await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..100))).await;
        server.restart().await;
        let acked = tally.acked.load(Ordering::Relaxed);
        until("invalidations are acknowledged again", async || {
            tally.acked.load(Ordering::Relaxed) > acked + CLIENTS * WRITERS
        })
        .await;
    }
    proxy.to_client().delay(None);
    tally.over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    // Also what was deferred has come about by now: any call sends it before its own.
    for (cache, _) in &caches {
        until("a connection is back", async || cache.ping().await.is_ok()).await;
    }
    tokio::time::sleep(QUIET).await; // the bound of the promise
    let (mut left, mut near) = (0_u64, 0);
    for (cache, values) in &caches {
        for key in 0..KEYS {
            let value = *values.get_or_load(&key, || world.origin.load(key)).await.unwrap();
            left += u64::from(value != world.origin.0[key as usize].load(Ordering::SeqCst));
        }
        near += cache.stats().reads["v"].near_hits;
    }
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (reads, acked, deferred) = (of(&tally.reads), of(&tally.acked), of(&tally.deferred));
    let (own, stale) = (of(&tally.own_stale), of(&tally.stale));
    let behind = Duration::from_micros(of(&tally.behind_micros));
    let machine = machine.most().await;
    println!(
        "mixed load: {reads} reads ({near} near), {acked} acknowledged invalidations ({deferred} deferred, {} repeated), {kills} servers killed, {} connections cut; of own invalidations stale: {own}; of others' after 100 ms: {stale} (largest {behind:?}, a timer was {machine:?} late); old at the end: {left}",
        of(&tally.repeated),
        proxy.cuts(),
    );
    assert!(reads > 100 * kills && near > kills && acked > 10 * kills, "nothing was tried");
    assert!(deferred > 0, "no invalidation met a server that was away");
    assert_eq!((own, left), (0, 0));
    assert!(stale == 0 || behind < QUIET + machine, "{stale} stale, {behind:?} after a change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_beside_a_store_that_is_away_is_not_joined_by_who_comes_after_an_invalidation() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cut_off = CacheClient::builder().url(proxy.url()).build().unwrap();
    let values = cut_off.namespace::<u64, u64>("v").build().unwrap();
    let theirs = super::client(&server).await.namespace::<u64, u64>("v").build().unwrap();
    let (rounds, mut old) = (times(100), 0);
    let origin = AtomicU64::new(0);
    let (loads, slow) = (AtomicU64::new(0), Duration::from_millis(300));
    proxy.refuse(true);
    proxy.cut(Cut::Reset);
    until("the store is away", async || cut_off.ping().await.is_err()).await;
    for round in 1..=rounds {
        let running = tokio::sync::Notify::new();
        let first = values.get_or_load(&round, || async {
            let version = origin.load(Ordering::SeqCst);
            running.notify_one();
            loads.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(slow).await;
            Ok::<u64, std::io::Error>(version)
        });
        let second = async {
            running.notified().await;
            origin.store(round, Ordering::SeqCst);
            theirs.invalidate(&round).await.unwrap();
            tokio::time::sleep(QUIET).await; // the bound of the promise
            let loader = || async { Ok::<u64, std::io::Error>(origin.load(Ordering::SeqCst)) };
            *values.get_or_load(&round, loader).await.unwrap()
        };
        let (first, second) = tokio::join!(first, second);
        first.unwrap();
        old += u64::from(second < round);
    }
    let loads = loads.load(Ordering::SeqCst);
    println!(
        "store away from one client: {loads} slow loads crossed by acknowledged invalidations of another, old values to who came 100 ms later: {old}"
    );
    assert_eq!((loads, old), (rounds, 0));
}

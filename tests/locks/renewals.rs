//! P24: what is released, dropped, cancelled, unwound or shut down is not renewed any more, and a cancelled acquire leaves
//! nothing that outlives its lease.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use larder::testing::{FaultProxy, RawConnection, RedisServer};
use larder::{CacheClient, LockBuilder};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::common::place::{Place, plain};
use crate::{alone, gone, ms, times};

const LEASE: Duration = Duration::from_millis(150);

/// Polls `work` so many times and drops it then, if it has not ended: at once, or when it would have gone on.
async fn polled<F: Future>(work: F, times: u32, at_once: bool) -> Option<F::Output> {
    let mut work = Box::pin(work);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 && at_once => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// What was seen of a key after it was given up.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    samples: u64,
    rises: u64,
    /// For how long it was there.
    life: Duration,
}

/// How often a guard is renewed that is given up.
const EVERY: Duration = Duration::from_millis(30);

/// What was sent before it was given up may still arrive for so long, on a busy machine: less than until another renewal would
/// come.
const UNDER_WAY: Duration = Duration::from_millis(25);

/// Looks at a key over a connection of its own until it is gone, and for `quiet` after that. A time to live that rises is
/// somebody who renews, or takes it once more.
async fn watch(direct: &mut RawConnection, key: &str, quiet: Duration) -> Seen {
    let started = Instant::now();
    let (mut seen, mut before, mut gone) = (Seen::default(), None, None);
    loop {
        let asked = started.elapsed();
        let left = direct.command(&["PTTL", key]).await.unwrap().int().unwrap();
        seen.samples += 1;
        match left {
            -2 => {
                let since = *gone.get_or_insert_with(Instant::now);
                if since.elapsed() > quiet {
                    return seen;
                }
            }
            left => {
                let rises = before.is_some_and(|before| left > before);
                seen.rises += u64::from(rises && started.elapsed() > UNDER_WAY);
                (before, gone) = (Some(left), None);
                seen.life = asked;
            }
        }
        assert!(started.elapsed() < LEASE * 20, "{key} does not go away");
        tokio::time::sleep(Duration::from_millis(1)).await; // sampled
    }
}

#[derive(Debug, Default)]
struct Figures {
    drops: u64,
    ended: u64,
    rises: u64,
    samples: u64,
    lives: Vec<Duration>,
}

impl Figures {
    fn add(&mut self, ended: bool, seen: Seen) {
        self.drops += u64::from(!ended);
        self.ended += u64::from(ended);
        self.rises += seen.rises;
        self.samples += seen.samples;
        self.lives.push(seen.life);
    }

    fn print(&mut self, place: &Place, what: &str) {
        self.lives.sort();
        let longest = *self.lives.last().unwrap();
        println!(
            "P24{}: {what}: {} dropped, {} had ended; PTTL rises 0 of {} samples; it was there for {:.1} ms in the median, {:.1} ms at \
             most (lease {LEASE:?})",
            place.name(),
            self.drops,
            self.ended,
            self.samples,
            ms(self.lives[self.lives.len() / 2]),
            ms(longest)
        );
        assert_eq!(self.rises, 0, "{what}");
        assert!(longest < LEASE + Duration::from_millis(50), "{what}: {:?}", self.lives);
        assert!(self.drops > 0, "{what}");
    }
}

/// So many names at once, each by a task with a connection to look at it.
const AT_ONCE: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquire_that_is_dropped_at_any_await_leaves_nothing_longer_than_its_lease() {
    let _turn = alone().await;
    acquires_are_dropped(slow(Place::one(plain).await).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquire_on_a_cluster_that_is_dropped_at_any_await_leaves_nothing_longer_than_its_lease()
{
    let _turn = alone().await;
    acquires_are_dropped(slow(Place::primaries(plain).await).await).await;
}

/// Behind a wire that takes some time: more to be dropped in between.
async fn slow(place: Place) -> Arc<Place> {
    let place = place.behind_proxies().await;
    for proxy in place.proxies() {
        proxy.to_client().delay(Duration::ZERO..Duration::from_millis(2));
    }
    Arc::new(place)
}

async fn acquires_are_dropped(place: Arc<Place>) {
    let cache = place.client().await;
    for (what, contended) in [("acquire of a free lock", false), ("acquire of a held lock", true)] {
        let mut tasks = JoinSet::new();
        for task in 0..AT_ONCE {
            let mut direct = place.direct().await;
            let (cache, place) = (cache.clone(), Arc::clone(&place));
            tasks.spawn(async move {
                let mut seen = Vec::new();
                for number in 0..times(1000) / AT_ONCE + 1 {
                    let name = format!("a{task}-{number}-{contended}");
                    let key = format!("lock:{name}");
                    let direct = &mut direct[place.at(&key)];
                    let lock: LockBuilder = cache.lock(&name).lease(LEASE);
                    if contended {
                        // It comes free while somebody waits for it, or not.
                        let set = ["SET", &key, "theirs", "PX", "20"];
                        direct.command(&set).await.unwrap();
                    }
                    let polls = fastrand::u32(1..if contended { 12 } else { 8 });
                    let at_once = fastrand::bool();
                    let got = match number % 4 {
                        3 => polled(lock.try_acquire(), polls, at_once)
                            .await
                            .map(|got| got.map(drop)),
                        _ => polled(lock.acquire(), polls, at_once).await.map(|got| got.map(drop)),
                    };
                    if contended {
                        let theirs = ["GET", &key];
                        if direct.command(&theirs).await.unwrap().text().as_deref()
                            == Some("theirs")
                        {
                            direct.command(&["DEL", &key]).await.unwrap();
                        }
                    }
                    let quiet = Duration::from_millis(20);
                    seen.push((got.is_some(), watch(direct, &key, quiet).await));
                }
                seen
            });
        }
        let mut figures = Figures::default();
        for (ended, seen) in tasks.join_all().await.into_iter().flatten() {
            figures.add(ended, seen);
        }
        let left = figures.lives.iter().filter(|life| **life > LEASE / 2).count();
        figures.print(&place, what);
        println!("P24{}: {what}: {left} were left to their lease", place.name());
    }
}

/// Ways to part with a guard.
#[derive(Debug, Clone, Copy)]
enum End {
    Release,
    ReleaseDropped,
    Drop,
    Panic,
    Abort,
    Run,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_released_dropped_unwound_or_aborted_renews_no_more() {
    let _turn = alone().await;
    guards_are_parted_with(slow(Place::one(plain).await).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_on_a_cluster_that_is_released_dropped_unwound_or_aborted_renews_no_more() {
    let _turn = alone().await;
    guards_are_parted_with(slow(Place::primaries(plain).await).await).await;
}

async fn guards_are_parted_with(place: Arc<Place>) {
    std::panic::set_hook(Box::new(|info| {
        // Those of this test are wanted.
        if info.payload().downcast_ref::<&str>() != Some(&"wanted") {
            eprintln!("{info}");
        }
    }));
    let cache = place.client().await;
    let all = [End::Release, End::ReleaseDropped, End::Drop, End::Panic, End::Abort, End::Run];
    for end in all {
        let mut tasks = JoinSet::new();
        for task in 0..AT_ONCE {
            let mut direct = place.direct().await;
            let (cache, place) = (cache.clone(), Arc::clone(&place));
            tasks.spawn(async move {
                let mut seen = Vec::new();
                for number in 0..times(400) / AT_ONCE + 1 {
                    let name = format!("g{task}-{number}-{end:?}");
                    // Who gives it back has to hold it still, however long the machine takes.
                    let longer = if matches!(end, End::Release) { 10 } else { 1 };
                    let lock = cache.lock(&name).lease(LEASE * longer).renew_every(EVERY);
                    let guard = lock.acquire().await.unwrap();
                    // A renewal is due, under way or done.
                    tokio::time::sleep(EVERY.mul_f64(fastrand::f64() * 3.0)).await;
                    let ended = part_with(guard, end).await;
                    let key = format!("lock:{name}");
                    // Longer than several renewals would take to come.
                    let quiet = EVERY * 3;
                    let direct = &mut direct[place.at(&key)];
                    seen.push((ended, watch(direct, &key, quiet).await));
                }
                seen
            });
        }
        let mut figures = Figures::default();
        for (ended, seen) in tasks.join_all().await.into_iter().flatten() {
            figures.add(ended, seen);
        }
        figures.print(&place, &format!("guard, {end:?}"));
    }
    assert!(cache.stats().locks.renewed > times(400), "{:?}", cache.stats().locks);
    _ = std::panic::take_hook();
}

async fn part_with(guard: larder::LockGuard, end: End) -> bool {
    match end {
        End::Release => {
            assert!(guard.release().await.unwrap());
            false
        }
        End::ReleaseDropped => {
            let polls = fastrand::u32(1..4);
            polled(guard.release(), polls, fastrand::bool()).await.is_some()
        }
        End::Drop => {
            drop(guard);
            false
        }
        End::Panic => {
            let work = async move {
                let _guard = guard;
                tokio::task::yield_now().await;
                std::panic::panic_any("wanted");
            };
            assert!(AssertUnwindSafe(work).catch_unwind().await.is_err());
            false
        }
        End::Abort => {
            let task = tokio::spawn(async move {
                guard.lost().await;
            });
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            false
        }
        End::Run => {
            let work = guard.run(std::future::pending::<()>());
            assert!(polled(work, 1, true).await.is_none());
            drop(guard);
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_whose_runtime_is_shut_down_renews_no_more() {
    let _turn = alone().await;
    runtimes_are_shut_down(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_on_a_cluster_whose_runtime_is_shut_down_renews_no_more() {
    let _turn = alone().await;
    runtimes_are_shut_down(Place::primaries(plain).await).await;
}

async fn runtimes_are_shut_down(place: Place) {
    let mut direct = place.direct().await;
    let mut figures = Figures::default();
    for number in 0..times(100) {
        let url = place.url();
        let name = format!("r{number}");
        let key = format!("lock:{name}");
        let shut_down = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let guard = runtime.block_on(async {
                let cache = CacheClient::connect(url).await.unwrap();
                let lock = cache.lock(name).lease(LEASE).renew_every(Duration::from_millis(10));
                let guard = lock.acquire().await.unwrap();
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..40_000))).await;
                guard
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
            assert!(!guard.is_valid(), "nobody renews it");
            drop(guard);
        });
        tokio::task::spawn_blocking(|| shut_down.join().unwrap()).await.unwrap();
        let direct = &mut direct[place.at(&key)];
        figures.add(false, watch(direct, &key, Duration::from_millis(30)).await);
    }
    figures.print(&place, "runtime shut down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_names_a_lock_after_its_release_was_answered() {
    let _turn = alone().await;
    nothing_after_a_release(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_to_a_cluster_names_a_lock_after_its_release_was_answered() {
    let _turn = alone().await;
    nothing_after_a_release(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn nothing_after_a_release(place: Place) {
    // One connection to each node: over two a renewal that is under way may come behind a release.
    let builder = CacheClient::builder().url(place.url()).connections(place.nodes().len());
    let cache = builder.connect().await.unwrap();
    place.proxies().iter().for_each(|proxy| proxy.log_commands(true));
    let (mut before, mut after) = (0, 0);
    for number in 0..times(100) {
        let name = format!("w{number}");
        let lock = cache.lock(&name).lease(LEASE).renew_every(Duration::from_millis(5));
        let guard = lock.acquire().await.unwrap();
        let names = || {
            let key = format!("lock:{name}");
            let log: Vec<_> = place.proxies().iter().flat_map(FaultProxy::take_log).collect();
            log.iter().filter(|sent| sent.args.iter().any(|arg| *arg == key.as_bytes())).count()
        };
        tokio::time::sleep(Duration::from_micros(fastrand::u64(5_000..20_000))).await;
        assert!(guard.release().await.unwrap());
        before += names();
        // Several renewals would have come by then.
        tokio::time::sleep(Duration::from_millis(30)).await;
        after += names();
    }
    println!(
        "P24{}: {before} commands to hold {} locks, after their releases {after}",
        place.name(),
        times(100)
    );
    assert!(before as u64 >= times(100) * 3, "they were not renewed");
    assert_eq!(after, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_not_heard_is_sent_once_more() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::builder().url(proxy.url()).connections(1).build().unwrap();
    let mut unheard = 0;
    for number in 0..times(50) {
        let lock = cache.lock(format!("cut-{number}")).lease(Duration::from_secs(60));
        let guard = lock.acquire().await.unwrap();
        // The connection of the release is there.
        cache.ping().await.unwrap();
        // A connection ends with the next byte that is sent over it: the server does not see it.
        let cuts = proxy.cuts();
        proxy.to_server().cut_after(0, larder::testing::Cut::Reset);
        let released = guard.release().await;
        assert_eq!(proxy.cuts(), cuts + 1);
        // Else the connection that is asked now and then whether it lives was the one.
        if let Err(error) = released {
            assert!(error.is_unavailable(), "{error}");
            unheard += 1;
        }
        let mut direct = server.connect().await;
        let key = format!("lock:cut-{number}");
        gone(&mut direct, &key).await;
    }
    println!(
        "P24: {unheard} releases lost with their connection: sent once more, none waited for its lease of a minute"
    );
    assert!(unheard > 0);
}

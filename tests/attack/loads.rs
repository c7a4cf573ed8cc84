//! Reading through with loaders, options and servers that misbehave.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, LoadOptions, Loaded, Namespace};

pub(super) type Given<T> = Result<T, std::io::Error>;

pub(super) async fn ends<F: Future>(what: &str, work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(15), work)
        .await
        .unwrap_or_else(|_| panic!("{what} hung"))
}

pub(super) async fn both() -> (RedisServer, [CacheClient; 2]) {
    let server = RedisServer::start().await;
    let redis = CacheClient::connect(server.url()).await.unwrap();
    (server, [redis, CacheClient::memory()])
}

pub(super) fn numbers(cache: &CacheClient) -> Namespace<u64, u64> {
    cache.namespace("n").ttl(Duration::from_secs(60)).build().unwrap()
}

type Change = fn(LoadOptions) -> LoadOptions;

/// Options that mean nothing, and a word that their error has to have.
fn mistakes() -> Vec<(&'static str, Change)> {
    vec![
        ("TTL", |options| options.ttl(Duration::ZERO)),
        ("TTL", |options| options.ttl(Duration::MAX)),
        ("TTL", |options| options.negative_ttl(Duration::ZERO)),
        ("TTL", |options| options.grace(Duration::MAX)),
        ("jitter", |options| options.jitter(2.0)),
        ("jitter", |options| options.jitter(f64::NAN)),
        ("jitter", |options| options.jitter(-0.1)),
        ("early_refresh", |options| options.early_refresh(f64::NAN)),
        ("early_refresh", |options| options.early_refresh(-1.0)),
        ("early_refresh", |options| options.early_refresh(f64::INFINITY)),
        ("hard timeout", |options| options.hard_timeout(Duration::ZERO)),
        ("soft timeout", |options| options.soft_timeout(Duration::from_secs(31))),
        ("lease", |options| options.lease(Duration::from_millis(2))),
        ("lease", |options| options.lease(Duration::ZERO)),
        ("lease", |options| options.lease(Duration::MAX)),
        ("near_ttl", |options| options.near_ttl(Duration::ZERO)),
        ("near_ttl", |options| options.near_ttl(Duration::MAX)),
        ("hard timeout", |options| options.hard_timeout(Duration::MAX)),
    ]
}

/// The options of `with` were not looked at: a lease of zero or a jitter that is no number was a panic.
#[tokio::test]
async fn options_that_mean_nothing_are_named_wherever_they_are_given() {
    let (_server, stores) = both().await;
    for cache in &stores {
        for (at, (word, change)) in mistakes().into_iter().enumerate() {
            let options = LoadOptions::from(Duration::from_secs(60));
            let built = cache.namespace::<u64, u64>("n").options(change(options));
            let near =
                cache.namespace::<u64, u64>("near").near(true).options(options).build().unwrap();
            let views = [numbers(cache).with(change), near.with(change)];
            let key = at as u64;
            let load = || async { Given::Ok(1_u64) };
            let pair = |_: Vec<&u64>| async { Given::Ok([(key, 1_u64)]) };
            let mut errors = vec![
                built.build().unwrap_err(),
                cache.get_or_load("key", change(options), load).await.unwrap_err(),
            ];
            for view in views {
                let calls = async {
                    [
                        view.get_or_load(&key, load).await.map(drop),
                        view.get_or_load_many(&[key], pair).await.map(drop),
                        view.set(&key, &1).await,
                    ]
                };
                let calls = AssertUnwindSafe(ends("a call", calls)).catch_unwind().await;
                let calls = calls.unwrap_or_else(|_| panic!("{word}, number {at}: a panic"));
                errors.extend(calls.map(|done| done.unwrap_err()));
            }
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Config, "{word}: {error}");
                assert!(error.to_string().contains(word), "{word}: {error}");
            }
        }
        let all = cache
            .namespace::<u64, u64>("")
            .jitter(2.0)
            .early_refresh(f64::NAN)
            .lease(Duration::ZERO)
            .near_max_bytes(0)
            .build();
        let text = all.unwrap_err().to_string();
        for word in
            ["name", "jitter", "early_refresh", "lease", "near(true)", "near_max_bytes is 0"]
        {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
        let most = cache.namespace::<u64, u64>("m").near(true).near_max_bytes(u64::MAX).build();
        assert_eq!(most.unwrap_err().kind(), ErrorKind::Config);
    }
    println!(
        "options: {} mistakes at 8 places of 2 stores, each named, 0 panics",
        mistakes().len()
    );
}

/// A time without end was added to the clock, and a budget without end was reserved: both panic.
#[tokio::test]
async fn limits_as_long_as_can_be_are_no_panics() {
    let (_server, stores) = both().await;
    let longest = Duration::from_secs(10 * 365 * 24 * 3600);
    let endless = LoadOptions::from(Duration::from_secs(60))
        .jitter(1.0)
        .early_refresh(1000.0)
        .hard_timeout(longest)
        .soft_timeout(longest)
        .near_ttl(longest);
    for cache in &stores {
        let values = cache.namespace::<u64, u64>("n").near(true).options(endless).build().unwrap();
        let loading = cache
            .namespace::<u64, u64>("l")
            .near(true)
            .options(endless)
            .loader(|key| async move { Given::Ok(key) })
            .build()
            .unwrap();
        for key in 0..100 {
            for _ in 0..3 {
                let value = values.get_or_load(&key, || async { Given::Ok(key) });
                assert_eq!(*ends("a load", value).await.unwrap(), key);
                assert_eq!(ends("a get", loading.get(&key)).await.unwrap().as_deref(), Some(&key));
            }
        }
        let many = values.get_or_load_many(&[500, 501], |keys| async move {
            Given::Ok(keys.into_iter().map(|key| (*key, *key)).collect::<Vec<_>>())
        });
        assert_eq!(ends("many", many).await.unwrap().len(), 2);
    }
    let whole = CacheClient::builder().near_max_bytes(u64::MAX).build();
    {
        let whole = whole.unwrap();
        let values = whole.namespace::<u64, u64>("n").near(true).build().unwrap();
        values.set(&1, &1).await.unwrap();
        assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&1));
    }
    println!("limits without end: 800 reads on 2 stores, 0 panics");
}

/// A loader's future that panics when it is dropped.
struct Bomb {
    ready: bool,
}

impl Future for Bomb {
    type Output = Given<u64>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Given<u64>> {
        if self.ready { Poll::Ready(Ok(1)) } else { Poll::Pending }
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the loader's own panic in its drop");
    }
}

fn at_once() -> Bomb {
    panic!("the loader's own panic before its future")
}

/// A panic of a future that was given up went through to the caller.
#[tokio::test]
async fn a_loader_that_panics_anywhere_is_an_error_and_leaves_nothing_behind() {
    let (_server, stores) = both().await;
    for cache in &stores {
        let values =
            numbers(cache).with(|options| options.hard_timeout(Duration::from_millis(100)));
        let kinds: [fn() -> Bomb; 3] = [at_once, || Bomb { ready: true }, || Bomb { ready: false }];
        for (key, bomb) in (0..).zip(kinds) {
            let own = cache
                .namespace::<u64, u64>("own")
                .hard_timeout(Duration::from_millis(100))
                .loader(move |_| bomb())
                .build()
                .unwrap();
            let calls = async {
                let many = |_: Vec<&u64>| async move { bomb().await.map(|value| [(key, value)]) };
                let many = values.get_or_load_many(&[key], many).await.unwrap().remove(0);
                [values.get_or_load(&key, bomb).await.err(), many.err(), own.get(&key).await.err()]
            };
            let calls = AssertUnwindSafe(ends("a bomb", calls)).catch_unwind().await;
            let calls = calls.unwrap_or_else(|_| panic!("bomb {key} went off at the caller"));
            for error in calls {
                let error = error.expect("a panic is an error");
                assert_eq!(error.kind(), ErrorKind::Load);
                assert!(error.to_string().contains("panicked"), "bomb {key}: {error}");
            }
            let begun = Instant::now();
            let next = values.get_or_load(&key, || async { Given::Ok(7) });
            assert_eq!(*ends("the next", next).await.unwrap(), 7);
            assert!(begun.elapsed() < Duration::from_millis(1500), "a lease was left behind");
        }
    }
    println!("panics: 3 kinds, 3 ways to load, 2 stores: each an error, no lease left");
}

/// What the loader gives cannot be stored.
#[tokio::test]
async fn what_cannot_be_stored_is_an_error_or_an_answer_and_in_the_grace_the_stale_value() {
    let server = RedisServer::start().await;
    let redis = CacheClient::builder().url(server.url()).near_max_bytes(1 << 20);
    let small = CacheClient::builder().max_bytes(1 << 20).near_max_bytes(1 << 20);
    for cache in [redis.connect().await.unwrap(), small.build().unwrap()] {
        let texts = cache.namespace::<u64, String>("t").near(true).build().unwrap();
        for _ in 0..2 {
            let large = texts.get_or_load(&1, || async { Given::Ok("x".repeat(8 << 20)) });
            assert_eq!(ends("8 MB", large).await.unwrap().len(), 8 << 20);
        }
        assert!(cache.stats().near_bytes <= 1 << 20);
        type Odd = BTreeMap<(u8, u8), u8>;
        let odd = cache.namespace::<u64, Odd>("o").build().unwrap();
        let error = odd.get_or_load(&1, || async { Given::Ok(Odd::from([((1, 2), 3)])) }).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Encode);
        for ttl in [Duration::ZERO, Duration::MAX] {
            let values = numbers(&cache);
            let given = || async move { Given::Ok(Loaded::value(2_u64).ttl(ttl)) };
            let error = values.get_or_load(&9, given).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Load);
            assert!(error.to_string().contains("time to live"), "{error}");
            // A mistake of a refresh does not take the stale value away.
            let stale = cache
                .namespace::<u64, u64>("g")
                .ttl(Duration::from_millis(1))
                .grace(Duration::from_secs(60))
                .jitter(0.0)
                .build()
                .unwrap();
            stale.set(&1, &1).await.unwrap();
            while stale.ttl(&1).await.unwrap().remaining() != Some(Duration::ZERO) {}
            let value = stale.get_or_load(&1, given).await;
            assert_eq!(value.expect("the stale value is there").as_deref(), Some(&1));
            let many = |_: Vec<&u64>| async move { Given::Ok([(1, Loaded::value(2).ttl(ttl))]) };
            let value = stale.get_or_load_many(&[1], many).await.unwrap().remove(0);
            assert_eq!(value.expect("the stale value is there").as_deref(), Some(&1));
        }
    }
    println!("not to be stored: 8 MB, a key that is no text, 2 times to live, 2 stores");
}

/// How much memory this process has, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Bad input 36: a gigabyte out of a loader, on both stores, and once more over a stale value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_that_gives_a_gigabyte_is_an_error_and_its_memory_comes_back() {
    // So large that the allocator gives each back to the system when it is freed.
    const PIECES: usize = 32;
    const PIECE: usize = 33 << 20;
    let (server, stores) = both().await;
    for (store, cache) in ["Redis", "embedded"].into_iter().zip(stores) {
        let texts = cache.namespace::<u64, Vec<String>>("t").near(true).max_json_bytes(8 << 20);
        let texts = texts.ttl(Duration::from_secs(1)).grace(Duration::from_secs(600));
        let texts = texts.early_refresh(0.0).build().unwrap();
        let (before, begun, most) = (memory(), Instant::now(), AtomicU64::new(0));
        let large = || async {
            let large = vec!["x".repeat(PIECE); PIECES];
            most.fetch_max(memory(), Ordering::SeqCst);
            Given::Ok(large)
        };
        // Who waits with the one that loads gets the same error.
        let (one, other) = ends("a gigabyte", async {
            tokio::join!(texts.get_or_load(&1, large), texts.get_or_load(&1, large))
        })
        .await;
        for error in [one, other].map(|done| done.map(|text| text.len()).unwrap_err()) {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{store}: {error}");
            assert!(error.to_string().contains("longer than 8388608 bytes"), "{store}: {error}");
        }
        // In the grace there is something better than an error.
        let stale = vec!["stale".to_owned()];
        texts.set(&2, &stale).await.unwrap();
        while texts.ttl(&2).await.unwrap().remaining() != Some(Duration::ZERO) {}
        let got = ends("a refresh", texts.get_or_load(&2, large)).await.unwrap();
        assert_eq!(*got, stale, "{store}");
        let took = begun.elapsed();
        let (most, kept) = (most.into_inner() - before, memory().saturating_sub(before));
        println!(
            "bad input 36, {store}: a gigabyte loaded twice or more in {took:?}: refused; {} MiB more while it was there, {} \
             MiB after",
            most >> 20,
            kept >> 20
        );
        let all = (PIECES * PIECE) as u64;
        assert!(most > all / 2 && kept < all / 2, "{store}: {kept} are still there");
        assert!(cache.stats().near_bytes < 1 << 20);
        assert!(!cache.key_exists("t:1").await.unwrap());
        assert!(!cache.key_exists("larder:lease:{t:1}").await.unwrap());
        let next = texts.get_or_load(&1, || async { Given::Ok(vec!["x".to_owned()]) });
        assert_eq!(*ends("the next", next).await.unwrap(), ["x"], "{store}");
    }
    let used: u64 = server.info("used_memory_peak").await.parse().unwrap();
    assert!(used < 64 << 20, "the server had {used} bytes");
}

/// What is at the bottom of an error.
fn deepest(error: &larder::Error) -> String {
    let all = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    all.last().map(ToString::to_string).unwrap_or_default()
}

/// Re-entrance: directly, through another key, and through a task that nobody knows of.
#[tokio::test]
async fn a_loader_that_needs_itself_ends() {
    let (_server, stores) = both().await;
    for cache in &stores {
        let values =
            numbers(cache).with(|options| options.hard_timeout(Duration::from_millis(300)));
        let inner = |key: u64| {
            let values = values.clone();
            async move { values.get_or_load(&key, || async { Given::Ok(1) }).await.map(|one| *one) }
        };
        let direct = ends("direct", values.get_or_load(&1, || inner(1))).await.unwrap_err();
        assert!(deepest(&direct).contains("asks for the key itself"), "{direct:?}");
        let around = || async { values.get_or_load(&2, || inner(1)).await.map(|one| *one) };
        let around = ends("around", values.get_or_load(&1, around)).await.unwrap_err();
        assert!(deepest(&around).contains("asks for the key itself"), "{around:?}");
        let spawned = || {
            let task = tokio::spawn(inner(3));
            async { task.await.unwrap() }
        };
        let begun = Instant::now();
        let spawned = ends("spawned", values.get_or_load(&3, spawned)).await.unwrap_err();
        assert_eq!(spawned.kind(), ErrorKind::Load);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    println!("re-entrance: 3 ways, 2 stores, hung 0");
}

/// A loader was given room for on every step of its way: a load within a load overflowed the stack.
#[tokio::test]
async fn a_call_takes_little_room_whatever_its_loader_takes() {
    let cache = CacheClient::memory();
    let values = &numbers(&cache);
    let large = || async {
        let room = [0_u8; 4096];
        tokio::task::yield_now().await;
        Given::Ok(room.len() as u64)
    };
    let (bare, one) = (size_of_val(&large()), size_of_val(&values.get_or_load(&1, large)));
    let within = values
        .get_or_load(&2, || async move { values.get_or_load(&1, large).await.map(|one| *one) });
    let many = values.get_or_load_many(&[3], |_| async { large().await.map(|one| [(3, one)]) });
    let (within, many) = (size_of_val(&within), size_of_val(&many));
    println!(
        "sizes: a loader of {bare} B, its call {one} B, that within another {within} B, of many {many} B"
    );
    assert!(one.max(within).max(many) < 16 * 1024);
}

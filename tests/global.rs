//! The global client: one for the process, so these tests take turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use larder::op::{Batch, Op, Replies, Reply};
use larder::store::{Capabilities, InvalidationSink, Store};
use larder::testing::RedisServer;
use larder::{CacheClient, CacheConfig, ErrorKind, Outcome};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Mutex, MutexGuard, Notify};

static TURN: Mutex<()> = Mutex::const_new(());

/// A test's turn; the global client is gone before and after it.
struct Turn(#[allow(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Turn {
    async fn wait() -> Self {
        let turn = TURN.lock().await;
        larder::reset();
        Self(turn)
    }

    fn block() -> Self {
        let turn = TURN.blocking_lock();
        larder::reset();
        Self(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        larder::reset();
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn memory() -> CacheConfig {
    CacheConfig::new().url("memory://")
}

#[tokio::test]
async fn a_call_before_init_is_an_error_that_says_what_to_do() {
    let _turn = Turn::wait().await;
    let cache = larder::cache();
    let error = cache.get_value("user:7").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotInitialized);
    assert_eq!(error.outcome(), Outcome::NotSent);
    let shown = error.to_string();
    assert!(shown.starts_with("get_value user:#"), "{shown}");
    assert!(
        shown.ends_with("the global client is not set up; call larder::init(config).await first")
    );
    assert!(
        cache.set_dict("k", &serde_json::json!({}), None).await.unwrap_err().is_not_initialized()
    );
    assert!(
        cache.push_to_list("k", 1, larder::Direction::Left).await.unwrap_err().is_not_initialized()
    );
    assert!(cache.ping().await.unwrap_err().is_not_initialized());
    assert!(cache.session().await.unwrap_err().is_not_initialized());
    let grouped = cache.pipeline().get_value("k").delete_key("k").run().await;
    assert!(grouped.unwrap_err().is_not_initialized());
    assert!(cache.stats().operations.is_empty());
    cache.close().await;
    larder::close().await.unwrap();
}

#[tokio::test]
async fn a_handle_from_before_init_works_after_it_and_shares_everything() {
    let _turn = Turn::wait().await;
    let server = RedisServer::start().await;
    let early = larder::cache();
    let users = early.namespace::<u64, String>("user").build().unwrap();
    assert!(users.get(&7).await.unwrap_err().is_not_initialized());
    larder::init(server.url()).await.unwrap();
    users.set(&7, &"anna".to_owned()).await.unwrap();
    assert_eq!(users.get(&7).await.unwrap().as_deref().map(String::as_str), Some("anna"));
    early.set_value("k", "v", None).await.unwrap();
    assert_eq!(larder::cache().get_value("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(early.stats(), larder::cache().stats());
    let mut session = early.session().await.unwrap();
    let size: u64 = larder::redis1::cmd("DBSIZE").query_async(&mut session).await.unwrap();
    assert_eq!(size, 2);
}

#[tokio::test]
async fn a_second_init_is_an_error_until_reset() {
    let _turn = Turn::wait().await;
    larder::init(memory()).await.unwrap();
    larder::cache().set_value("k", "first", None).await.unwrap();
    let error = larder::init(memory()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "init: the global client is set up already; call larder::reset() before another init"
    );
    assert_eq!(larder::cache().get_value("k").await.unwrap().as_deref(), Some("first"));
    larder::reset();
    assert!(larder::cache().ping().await.unwrap_err().is_not_initialized());
    larder::init_with(CacheClient::memory()).await.unwrap();
    assert_eq!(larder::cache().get_value("k").await.unwrap(), None);
}

#[test]
fn of_many_inits_at_once_exactly_one_wins() {
    let _turn = Turn::block();
    let main = runtime();
    let server = main.block_on(RedisServer::start());
    for _ in 0..20 {
        larder::reset();
        let won = AtomicUsize::new(0);
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    start.wait();
                    match main.block_on(larder::init(server.url())) {
                        Ok(()) => _ = won.fetch_add(1, Ordering::SeqCst),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{error}"),
                    }
                });
            }
        });
        assert_eq!(won.load(Ordering::SeqCst), 1);
        main.block_on(larder::cache().ping()).unwrap();
    }
}

#[tokio::test]
async fn an_init_that_fails_or_is_dropped_leaves_nothing_behind() {
    let _turn = Turn::wait().await;
    let server = RedisServer::builder().password("right").start().await;
    let wrong = CacheConfig::new().host("127.0.0.1").port(server.port()).password("wrong");
    let error = larder::init(wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert_eq!(larder::init("redis://127.0.0.1:0").await.unwrap_err().kind(), ErrorKind::Config,);
    server.pause().await;
    let mut started = Box::pin(larder::init(server.url()));
    assert!((&mut started).now_or_never().is_none());
    let busy = larder::init(memory()).await.unwrap_err();
    assert!(busy.to_string().contains("is being set up already"), "{busy}");
    drop(started);
    server.resume().await;
    larder::init(server.url()).await.unwrap();
    larder::cache().ping().await.unwrap();
}

#[tokio::test]
async fn a_reset_or_close_during_init_ends_it() {
    let _turn = Turn::wait().await;
    for close in [false, true] {
        let slow = Slow::default();
        let client = CacheClient::builder().store(slow.clone()).build().unwrap();
        let mut started = Box::pin(larder::init_with(client));
        assert!((&mut started).now_or_never().is_none());
        if close {
            larder::close().await.unwrap();
        } else {
            larder::reset();
        }
        slow.go_on();
        assert_eq!(started.await.unwrap_err().kind(), ErrorKind::Closed);
        assert!(larder::cache().ping().await.unwrap_err().is_not_initialized());
    }
}

#[test]
fn it_is_used_from_many_threads_and_runtimes_at_once() {
    let _turn = Turn::block();
    let main = runtime();
    let server = main.block_on(RedisServer::start());
    main.block_on(larder::init(server.url())).unwrap();
    std::thread::scope(|threads| {
        for thread in 0..8 {
            threads.spawn(move || {
                let own = Builder::new_current_thread().enable_all().build().unwrap();
                own.block_on(async {
                    for step in 0..100 {
                        let key = format!("t{thread}:{step}");
                        larder::cache().set_value(&key, step, None).await.unwrap();
                        let value = larder::cache().get_value(&key).await.unwrap();
                        assert_eq!(value, Some(step.to_string()));
                    }
                });
            });
        }
    });
}

#[test]
fn it_survives_the_end_of_the_runtime_that_set_it_up() {
    let _turn = Turn::block();
    let main = runtime();
    let server = main.block_on(RedisServer::start());
    let mut previous = runtime();
    previous.block_on(larder::init(server.url())).unwrap();
    let kept = larder::cache();
    for round in 0..5 {
        let next = if round % 2 == 0 {
            Builder::new_current_thread().enable_all().build().unwrap()
        } else {
            runtime()
        };
        drop(std::mem::replace(&mut previous, next));
        previous.block_on(async {
            larder::cache().incr_by("rounds", 1).await.unwrap();
            assert_eq!(kept.get_value("rounds").await.unwrap(), Some((round + 1).to_string()));
        });
    }
}

#[test]
fn a_runtime_that_is_kept_without_running_holds_the_connection_until_it_ends() {
    let _turn = Turn::block();
    let main = runtime();
    let server = main.block_on(RedisServer::start());
    let parked = Builder::new_current_thread().enable_all().build().unwrap();
    let config = CacheConfig::new().url(server.url()).deadline(Duration::from_millis(200));
    parked.block_on(larder::init(config)).unwrap();
    assert!(main.block_on(larder::cache().get_value("k")).unwrap_err().is_timeout());
    drop(parked);
    main.block_on(larder::cache().get_value("k")).unwrap();
}

#[test]
fn reads_of_another_runtime_do_not_notice_that_the_runtime_with_the_connection_ends() {
    let _turn = Turn::block();
    let main = runtime();
    let server = main.block_on(RedisServer::start());
    let holder = runtime();
    holder.block_on(larder::init(server.url())).unwrap();
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let own = Builder::new_current_thread().enable_all().build().unwrap();
            own.block_on(async {
                while !stop.load(Ordering::SeqCst) {
                    larder::cache().get_value("k").await.unwrap();
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let hundred_more = || {
            let before = reads.load(Ordering::SeqCst);
            while reads.load(Ordering::SeqCst) < before + 100 && !reader.is_finished() {
                std::thread::yield_now();
            }
        };
        hundred_more();
        drop(holder);
        hundred_more();
        stop.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
}

#[tokio::test]
async fn close_waits_for_what_is_in_flight_and_refuses_what_comes_later() {
    let _turn = Turn::wait().await;
    let slow = Slow::default();
    slow.go_on();
    let client = CacheClient::builder().store(slow.clone()).build().unwrap();
    larder::init_with(client).await.unwrap();
    slow.hold();
    let cache = larder::cache();
    let mut in_flight = Box::pin(cache.ping());
    assert!((&mut in_flight).now_or_never().is_none());
    let mut closing = Box::pin(larder::close());
    assert!((&mut closing).now_or_never().is_none());
    assert_eq!(larder::cache().ping().await.unwrap_err().kind(), ErrorKind::Closed);
    slow.go_on();
    in_flight.await.unwrap();
    closing.await.unwrap();
    larder::close().await.unwrap();
    assert_eq!(larder::cache().ping().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(larder::init(memory()).await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn close_gives_up_at_its_deadline_and_says_so() {
    let _turn = Turn::wait().await;
    let slow = Slow::default();
    slow.go_on();
    let patient = CacheClient::builder().store(slow.clone()).deadline(Duration::from_secs(60));
    larder::init_with(patient.build().unwrap()).await.unwrap();
    slow.hold();
    let cache = larder::cache();
    let mut in_flight = Box::pin(cache.ping());
    assert!((&mut in_flight).now_or_never().is_none());
    let before = tokio::time::Instant::now();
    let error = larder::close().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(before.elapsed() >= larder::CLOSE_DEADLINE);
    assert!(before.elapsed() < larder::CLOSE_DEADLINE + Duration::from_millis(10));
}

/// A store that answers pings when it is told to.
#[derive(Clone, Default)]
struct Slow(Arc<Door>);

#[derive(Default)]
struct Door {
    open: AtomicBool,
    opened: Notify,
}

impl Slow {
    fn go_on(&self) {
        self.0.open.store(true, Ordering::SeqCst);
        self.0.opened.notify_waiters();
    }

    fn hold(&self) {
        self.0.open.store(false, Ordering::SeqCst);
    }
}

impl Store for Slow {
    fn run(&self, batch: Batch) -> BoxFuture<'static, larder::Result<Replies>> {
        assert_eq!(batch.ops(), [Op::Ping]);
        let door = Arc::clone(&self.0);
        Box::pin(async move {
            loop {
                let opened = door.opened.notified();
                if door.open.load(Ordering::SeqCst) {
                    return Ok(Replies::one(Ok(Reply::Done)));
                }
                opened.await;
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn on_invalidation(&self, _sink: Arc<dyn InvalidationSink>) {}
}

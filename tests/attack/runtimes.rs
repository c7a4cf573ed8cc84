//! Clients on threads without a runtime, on runtimes that lack something, and calls that are never
//! finished.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use larder::store::MemoryStore;
use larder::testing::{Fault, Faulty, RedisServer};
use larder::{CacheClient, ErrorKind, LockOptions, Outcome};

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future as an executor without tokio does.
fn plain<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        thread::park();
    }
}

fn once() -> LockOptions {
    LockOptions { timeout: Duration::from_millis(20), ..Default::default() }
}

#[test]
fn without_a_runtime_the_embedded_store_works_and_what_has_to_wait_is_an_error() {
    let cache = CacheClient::memory();
    plain(cache.set_value("key", "value", None)).unwrap();
    plain(cache.acquire_lock("lock", once())).unwrap();
    let error = plain(cache.acquire_lock("lock", once())).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::Rejected), "{error}");
    plain(cache.close());

    let faulty = Faulty::new(MemoryStore::new());
    let cache = CacheClient::builder().store(faulty.clone()).build().unwrap();
    faulty.fail_next(Fault::Before(ErrorKind::Unavailable));
    assert!(plain(cache.get_value("key")).unwrap_err().is_unavailable());
    faulty.fail_next(Fault::Dropped);
    assert_eq!(plain(cache.get_value("key")).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_connected_client_on_a_thread_without_a_runtime_sends_nothing_and_says_so() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let cache = runtime.block_on(CacheClient::connect(server.url())).unwrap();
    for error in [
        plain(cache.set_value("key", 1, None)).unwrap_err(),
        plain(cache.session()).map(drop).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent));
        assert!(error.to_string().contains("needs a tokio runtime"), "{error}");
    }
    assert!(!runtime.block_on(cache.key_exists("key")).unwrap());
}

/// Connecting panics there; it was tried again at once, a thousand times within 100 ms.
#[test]
fn a_runtime_without_io_is_an_error_at_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let cache = CacheClient::builder().url("redis://127.0.0.1:1").build().unwrap();
    let started = Instant::now();
    let error = runtime.block_on(cache.get_value("key")).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent));
    assert!(error.to_string().contains("enable_all"), "{error}");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
}

#[test]
fn a_client_outlives_the_runtime_that_it_connected_on() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (first, second) = (runtime(), runtime());
    let server = first.block_on(RedisServer::start());
    let cache = first.block_on(CacheClient::connect(server.url())).unwrap();
    drop(first);
    assert_eq!(second.block_on(cache.get_value("key")).unwrap(), None);
}

async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) {
    std::future::poll_fn(|cx| {
        _ = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// Its future is kept and not polled, so it never comes to its deadline.
#[tokio::test]
async fn closing_does_not_wait_for_a_call_that_nobody_polls() {
    let server = RedisServer::start().await;
    let deadline = Duration::from_millis(200);
    let cache =
        CacheClient::builder().url(server.url()).deadline(deadline).connect().await.unwrap();
    let mut held = Box::pin(cache.get_value("key"));
    poll_once(held.as_mut()).await;
    let started = Instant::now();
    cache.close().await;
    let took = started.elapsed();
    assert!(took < deadline + Duration::from_millis(150), "{took:?}");
    assert_eq!(cache.get_value("key").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_session_outlives_its_client() {
    let server = RedisServer::start().await;
    for closed in [false, true] {
        let cache = CacheClient::connect(server.url()).await.unwrap();
        let mut session = cache.session().await.unwrap();
        if closed {
            cache.close().await;
        }
        drop(cache);
        // That nothing happens is no event: four times as long as it takes to see that nobody uses a connection.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let pong: String = redis::cmd("PING").query_async(&mut session).await.unwrap();
        assert_eq!(pong, "PONG", "closed: {closed}");
    }
}

//! Bad inputs and ends of clients, as far as they concern locks: a clear error or a guard that tells, and nothing hangs.

use std::time::Duration;

use futures_util::FutureExt;
use larder::testing::{FaultProxy, RedisServer};
use larder::{CacheClient, ErrorKind, LockOptions, Loss};
use tokio::time::Instant;

use crate::{alone, ends, gone, stores, until, until_seen};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_has_no_room_for_round_trips_is_an_error_and_no_guard() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::connect(proxy.url()).await.unwrap();
    proxy.to_client().delay(Duration::from_millis(40)..Duration::from_millis(45));
    let lock = cache.lock("brief").lease(Duration::from_millis(90));
    let error = lock.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("lease of 90ms"), "{error}");
    let error = lock.acquire_within(Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    proxy.to_client().delay(None);
    let mut direct = server.connect().await;
    gone(&mut direct, "lock:brief").await;
    assert!(lock.try_acquire().await.unwrap().is_some(), "over a quick wire it is long enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_refused_or_kept_apart_from_data() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        for name in [String::new(), "x".repeat(1 << 20)] {
            let lock = cache.lock(&name);
            let error = lock.acquire().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{store}");
            assert!(error.to_string().contains("name of the lock"), "{store}: {error}");
            assert!(error.to_string().len() < 500, "{store}: it repeats the name");
            assert!(format!("{lock:?}").len() < 500 || name.is_empty(), "{store}");
        }
        // A name that is a key of data has nothing to do with it.
        cache.set_value("user:7", "data", None).await.unwrap();
        let guard = cache.lock("user:7").acquire().await.unwrap();
        assert!(guard.release().await.unwrap(), "{store}");
        assert_eq!(cache.get_value("user:7").await.unwrap().as_deref(), Some("data"), "{store}");
        // Data where the lock stands keeps everybody out, and stays.
        cache.set_value("lock:text", "data", None).await.unwrap();
        assert!(cache.lock("text").try_acquire().await.unwrap().is_none(), "{store}");
        let error = cache.lock("text").acquire_within(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockTimeout, "{store}");
        cache.push_to_list("lock:list", "data", larder::Direction::Right).await.unwrap();
        let lock = cache.lock("list");
        assert_eq!(lock.try_acquire().await.unwrap_err().kind(), ErrorKind::WrongType, "{store}");
        assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::WrongType, "{store}");
        assert_eq!(cache.get_list("lock:list").await.unwrap(), ["data"], "{store}");
        // The same where its record stands.
        cache.set_value("larder:lock:{lock:record}", "data", None).await.unwrap();
        let error = cache.lock("record").acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongType, "{store}");
        assert!(!cache.key_exists("lock:record").await.unwrap(), "{store}: nothing is left of it");
    }
}

#[test]
fn a_guard_outside_of_a_runtime_is_an_error_and_no_panic() {
    let cache = CacheClient::memory();
    let lock = cache.lock("x");
    let tried = lock.try_acquire().now_or_never().expect("the embedded store answers at once");
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::Config);
    let tried = lock.acquire().now_or_never().expect("it does not wait");
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::Config);
    let once = LockOptions { timeout: Duration::ZERO, ..LockOptions::default() };
    let id = cache.acquire_lock("lock:x", once).now_or_never().expect("it does not wait");
    assert!(id.is_ok(), "nothing was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_whose_client_is_closed_is_lost_in_time_and_nobody_waits_on() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let lease = Duration::from_millis(300);
        let guard = cache.lock("x").lease(lease).acquire().await.unwrap();
        let apart = cache.lock("y").shared().acquire().await.unwrap();
        let waiting: Vec<_> = [cache.lock("x"), cache.lock("x"), cache.lock("y")]
            .into_iter()
            .map(|lock| {
                let lock = lock.wait(Duration::from_secs(60));
                tokio::spawn(async move { lock.acquire().await })
            })
            .collect();
        until_seen("one waits at the store", || cache.stats().locks.contended >= 1).await;
        let closed = Instant::now();
        cache.close().await;
        let loss = ends("the loss", guard.lost()).await;
        assert!(loss == Loss::Expired && closed.elapsed() < lease * 2, "{store}: {loss:?}");
        assert!(ends("run", guard.run(std::future::pending::<()>())).await.is_err(), "{store}");
        let error = ends("the release", guard.release()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{store}");
        drop(apart);
        for waiter in waiting {
            let error = ends("who waits", waiter).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed, "{store}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_outlives_the_handle_of_its_client() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let lease = Duration::from_millis(600);
        let lock = cache.lock("x").lease(lease).renew_every(Duration::from_millis(50));
        let guard = lock.acquire().await.unwrap();
        drop(cache);
        tokio::time::sleep(lease * 2).await; // it renews itself
        assert!(guard.is_valid(), "{store}");
        assert!(guard.release().await.unwrap(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_leaves_its_runtime_is_lost_when_that_is_shut_down_and_its_place_is_free() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let lock = cache.lock("x").lease(Duration::from_millis(300));
        // Connected where it lives on.
        lock.acquire().await.unwrap().release().await.unwrap();
        let inside = lock.clone();
        let guard = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let guard = runtime.block_on(inside.acquire()).unwrap();
            runtime.shutdown_timeout(Duration::from_secs(5));
            guard
        });
        let guard = tokio::task::spawn_blocking(|| guard.join().unwrap()).await.unwrap();
        assert_eq!(ends("the loss", guard.lost()).await, Loss::Expired, "{store}");
        let next = ends("the next", lock.acquire()).await.unwrap();
        assert!(next.is_valid(), "{store}: who waits here takes it when its lease is over");
        drop(guard);
        assert!(next.is_valid() && next.release().await.unwrap(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_was_taken_unheard_counts_from_when_it_was_taken() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let deadline = Duration::from_millis(200);
    let cache = CacheClient::builder().url(proxy.url()).deadline(deadline).build().unwrap();
    let lock =
        cache.lock("unheard").lease(Duration::from_secs(3)).renew_every(Duration::from_secs(1));
    lock.acquire().await.unwrap().release().await.unwrap();
    for _ in 0..3 {
        let mut direct = server.connect().await;
        // The answer to the first try comes after its deadline; the second finds the lock that the first took.
        proxy.to_client().delay(deadline * 3 / 2..deadline * 2);
        let waiting = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await.unwrap() }
        });
        until("the lock is taken", async || {
            direct.command(&["EXISTS", "lock:unheard"]).await.unwrap().int() == Some(1)
        })
        .await;
        proxy.to_client().delay(None);
        let guard = ends("the waiter", waiting).await.unwrap();
        let valid = guard.valid_for();
        let left = direct.command(&["PTTL", "lock:unheard"]).await.unwrap().int().unwrap();
        assert_eq!(cache.stats().locks.renewed, 0);
        assert!(
            valid < Duration::from_millis(left.try_into().unwrap()),
            "the guard counts on {valid:?}, the server gives it {left} ms"
        );
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_replicas_may_not_be_asked_for_is_not_left_behind() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let rules = ["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-wait"];
    assert_eq!(server.command(&rules).await.text().as_deref(), Some("OK"));
    let url = format!("redis://app:secret@{}", server.addr());
    let cache = CacheClient::connect(url).await.unwrap();
    let lock = cache.lock("x").replicas(1, Duration::from_millis(50));
    let mut direct = server.connect().await;
    for _ in 0..3 {
        let error = lock.acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        let error = lock.try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
        let begun = Instant::now();
        gone(&mut direct, "lock:x").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "only its lease gave it back");
    }
}

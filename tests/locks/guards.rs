//! What a guard does: it excludes, renews, tells of its loss, and gives back.

use std::time::Duration;

use larder::store::MemoryStore;
use larder::testing::{Fault, Faulty, RedisServer};
use larder::{CacheClient, ErrorKind, LockOptions, Loss};

use crate::{alone, ends, stores, times};

const MILLI: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_and_a_plain_lock_of_the_same_key_exclude_each_other() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let lock = cache.lock("report").wait(Duration::from_millis(50));
        let guard = lock.acquire().await.unwrap();
        assert!(guard.is_valid() && guard.fencing_token().is_some(), "{store}");
        let once = LockOptions { timeout: Duration::ZERO, ..LockOptions::default() };
        let refused = cache.acquire_lock("lock:report", once).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::LockTimeout, "{store}");
        assert!(lock.try_acquire().await.unwrap().is_none(), "{store}");
        assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::LockTimeout, "{store}");
        assert!(guard.release().await.unwrap(), "{store}");

        let id = cache.acquire_lock("lock:report", once).await.unwrap();
        assert!(lock.try_acquire().await.unwrap().is_none(), "{store}");
        let error = lock.acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockTimeout, "{store}: {error}");
        assert!(cache.release_lock("lock:report", &id).await.unwrap(), "{store}");
        let guard = lock.try_acquire().await.unwrap().expect("it is free");
        drop(guard);
        // Given back by a task.
        let guard = lock.wait(Duration::from_secs(5)).acquire().await.unwrap();
        assert!(guard.release().await.unwrap(), "{store}");
        assert!(!cache.key_exists("lock:report").await.unwrap(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_outlives_its_lease_by_renewing_it_and_stops_when_it_is_released() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        // It would take a machine that stands still for most of a lease to lose it.
        let lease = Duration::from_millis(600);
        let lock = cache.lock("long").lease(lease).renew_every(Duration::from_millis(50));
        let guard = lock.acquire().await.unwrap();
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < lease * 2 {
            assert!(guard.is_valid(), "{store}");
            assert!(cache.key_exists("lock:long").await.unwrap(), "{store}");
            tokio::time::sleep(Duration::from_millis(5)).await; // sampled
        }
        assert!(cache.stats().locks.renewed >= 5, "{store}: {:?}", cache.stats().locks);
        let lost = guard.lost();
        assert!(guard.release().await.unwrap(), "{store}");
        assert_eq!(ends("lost", lost).await, Loss::Released, "{store}");
        assert!(!cache.key_exists("lock:long").await.unwrap(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_told_that_its_lock_was_deleted_and_what_it_runs_is_dropped() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let guard = cache.lock("x").lease(Duration::from_millis(300)).acquire().await.unwrap();
        cache.delete_key("lock:x").await.unwrap();
        let error = ends("run", guard.run(std::future::pending::<()>())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost, "{store}");
        assert!(!guard.is_valid(), "{store}");
        assert_eq!(guard.lost().await, Loss::Taken, "{store}");
        let other = cache.lock("x").try_acquire().await.unwrap();
        assert!(other.is_some(), "{store}: the lost guard keeps nobody away");
        assert!(!guard.release().await.unwrap(), "{store}");
        let stats = cache.stats().locks;
        assert_eq!((stats.lost, stats.refused_releases), (1, 1), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_not_polled_again_once_its_lock_is_known_to_be_lost() {
    let _turn = alone().await;
    let cache = CacheClient::memory();
    let lock = cache.lock("x").lease(Duration::from_millis(100)).renew_every(MILLI * 2);
    let (rounds, mut most) = (times(5_000), 0);
    for _ in 0..rounds {
        let guard = lock.acquire().await.unwrap();
        let (watcher, mut late) = (guard.watcher(), 0);
        // The next renewal finds that out, in a thread of its own.
        cache.delete_key("lock:x").await.unwrap();
        let work = std::future::poll_fn(|cx| {
            late += u64::from(!watcher.is_valid());
            // Busy work: it is ready to go on whenever it is asked.
            cx.waker().wake_by_ref();
            std::task::Poll::<()>::Pending
        });
        let error = ends("run", guard.run(work)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost);
        most = most.max(late);
    }
    println!(
        "P22: {rounds} works under a lock that was deleted, polled after it was known: {most} times at most"
    );
    assert!(most <= 1, "the end may fall into a poll; no other begins after it: {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_woken_by_the_release_in_another_client() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let one = larder::CacheClient::connect(server.url()).await.unwrap();
    let two = larder::CacheClient::connect(server.url()).await.unwrap();
    let mut waits = Vec::new();
    for _ in 0..50 {
        let guard = one.lock("hand").acquire().await.unwrap();
        let waiting = tokio::spawn({
            let lock = two.lock("hand");
            async move { (lock.acquire().await.unwrap(), std::time::Instant::now()) }
        });
        while two.stats().locks.contended == waits.len() as u64 {
            tokio::task::yield_now().await;
        }
        let released = std::time::Instant::now();
        assert!(guard.release().await.unwrap());
        let (guard, woken) = ends("the waiter", waiting).await.unwrap();
        waits.push(woken - released);
        assert!(guard.release().await.unwrap());
    }
    waits.sort();
    println!("hand-over between two clients: p50 {:?}, max {:?}", waits[25], waits[49]);
    assert!(waits[25] < Duration::from_millis(50), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn on_the_embedded_store_a_guard_follows_the_clock_that_a_test_moves() {
    let cache = larder::CacheClient::memory();
    let guard = cache.lock("x").lease(Duration::from_secs(30)).acquire().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(guard.is_valid());
    assert!(cache.stats().locks.renewed >= 300);
    assert!(guard.release().await.unwrap());
}

#[tokio::test]
async fn wrong_settings_are_named_together() {
    let cache = larder::CacheClient::memory();
    let error = cache
        .lock("")
        .lease(Duration::from_millis(1))
        .renew_every(Duration::from_secs(1))
        .owner("a\nb")
        .replicas(0, Duration::ZERO)
        .acquire()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    for part in
        ["name of the lock is empty", "the lease is 1ms", "renew_every", "owner", "replicas"]
    {
        assert!(text.contains(part), "{text}");
    }
    let long = cache.lock("x".repeat(1 << 20)).try_acquire().await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::Config);
    assert_eq!(cache.semaphore("x", 0).try_acquire().await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_answered_too_late_is_given_back_once_and_again_if_that_was_refused() {
    let _turn = alone().await;
    for refused in [false, true] {
        let faulty = Faulty::new(MemoryStore::new());
        let builder = CacheClient::builder().store(faulty.clone());
        let cache = builder.deadline(Duration::from_secs(5)).build().unwrap();
        let lock = cache.lock("slow").lease(Duration::from_secs(3));
        faulty.delay(Duration::from_millis(1100), Duration::from_millis(1101));
        let tried = tokio::spawn(async move { lock.try_acquire().await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        if refused {
            faulty.fail_next(Fault::Refused(ErrorKind::ReadOnly));
        }
        let error = tried.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        // A task of its own would have done so by then.
        tokio::time::sleep(Duration::from_secs(10)).await;
        faulty.heal();
        assert_eq!(cache.stats().operations["unlock"].calls, if refused { 2 } else { 1 });
        assert!(!cache.key_exists("lock:slow").await.unwrap());
    }
}

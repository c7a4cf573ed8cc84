//! Shared locks and semaphores: how many get in, who keeps whom out, and what is left of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use larder::LockOptions;
use tokio::task::JoinSet;

use crate::{alone, ends, stores};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_share_and_one_who_takes_it_alone_waits_for_them_and_keeps_them_out() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let (read, write) = (cache.lock("doc").shared(), cache.lock("doc"));
        let one = read.acquire().await.unwrap();
        let two = read.acquire().await.unwrap();
        assert_eq!(one.fencing_token(), None, "{store}");
        assert!(write.try_acquire().await.unwrap().is_none(), "{store}");
        let once = LockOptions { timeout: Duration::ZERO, ..LockOptions::default() };
        assert!(
            cache.acquire_lock("lock:doc", once).await.is_err(),
            "{store}: plain locks as well"
        );

        let writing = tokio::spawn({
            let write = write.clone();
            async move { write.acquire().await.unwrap() }
        });
        while cache.stats().locks.contended == 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            read.try_acquire().await.unwrap().is_none(),
            "{store}: nobody is let in before one who waits"
        );
        assert!(one.release().await.unwrap(), "{store}");
        assert!(!writing.is_finished(), "{store}");
        assert!(two.release().await.unwrap(), "{store}");
        let writer = ends("the writer", writing).await.unwrap();
        assert!(writer.is_valid() && writer.fencing_token().is_some(), "{store}");
        assert!(read.try_acquire().await.unwrap().is_none(), "{store}");
        assert!(writer.release().await.unwrap(), "{store}");
        let again = read.acquire().await.unwrap();
        assert!(again.release().await.unwrap(), "{store}");
        assert!(!cache.key_exists("lock:doc").await.unwrap(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_semaphore_lets_so_many_in_and_no_more() {
    let _turn = alone().await;
    let (_behind, stores) = stores().await;
    for (store, cache) in stores {
        let inside = Arc::new(AtomicU32::new(0));
        let most = Arc::new(AtomicU32::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..40 {
            let exports = cache.semaphore("exports", 3).wait(Duration::from_secs(15));
            let (inside, most) = (Arc::clone(&inside), Arc::clone(&most));
            tasks.spawn(async move {
                for _ in 0..5 {
                    let guard = exports.acquire().await.unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await; // the work
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(guard.release().await.unwrap());
                }
            });
        }
        ends("the tasks", tasks.join_all()).await;
        let most = most.load(Ordering::SeqCst);
        println!("semaphore of 3 on {store}: 200 acquisitions, at most {most} inside");
        assert!((2..=3).contains(&most), "{store}: {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shares_and_is_gone_with_its_runtime_makes_room_when_its_lease_is_over() {
    let _turn = alone().await;
    let server = larder::testing::RedisServer::start().await;
    let url = server.url();
    let lost = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.block_on(async {
            let cache = larder::CacheClient::connect(url).await.unwrap();
            let exports = cache.semaphore("exports", 1).lease(Duration::from_millis(200));
            exports.acquire().await.unwrap()
        });
        runtime.shutdown_background();
        let lost = guard.lost();
        drop(guard);
        lost
    });
    let lost = lost.join().unwrap();
    assert_ne!(ends("lost", lost).await, larder::Loss::Taken);
    let cache = larder::CacheClient::connect(server.url()).await.unwrap();
    let exports = cache.semaphore("exports", 1);
    assert!(exports.try_acquire().await.unwrap().is_none(), "nobody gave it back");
    let guard = exports.acquire().await.unwrap();
    assert!(guard.release().await.unwrap());
}

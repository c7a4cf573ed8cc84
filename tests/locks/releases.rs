//! P25, for guards: a release and a renewal act on the caller's own lock alone, and survive `SCRIPT FLUSH`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::RedisServer;
use larder::{CacheClient, Loss};
use tokio::task::JoinSet;

use crate::{alone, ends, gone, times};

#[derive(Default)]
struct Counts {
    released: AtomicU64,
    foreign: AtomicU64,
    foreign_deleted: AtomicU64,
    foreign_prolonged: AtomicU64,
    expired: AtomicU64,
    dropped: AtomicU64,
}

fn more(count: &AtomicU64, is: bool) {
    count.fetch_add(u64::from(is), Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_gives_back_and_renews_its_own_lock_alone() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let (done, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (done, counts, cache) = (Arc::clone(&done), Arc::clone(&counts), cache.clone());
        let mut direct = server.connect().await;
        tasks.spawn(async move {
            let lock = cache
                .lock(format!("{}", task % 4))
                .lease(Duration::from_millis(120))
                .wait(Duration::from_secs(20));
            while !done.load(Ordering::Relaxed) {
                let guard = lock.acquire().await.unwrap();
                let key = format!("lock:{}", task % 4);
                match fastrand::u8(..16) {
                    // Another program writes over the lock; the holder renews and releases what is not its own.
                    0 | 1 => {
                        let foreign = format!("{:032x}", fastrand::u128(..));
                        let set = ["SET", &key, &foreign, "PX", "150"];
                        direct.command(&set).await.unwrap();
                        assert_eq!(ends("the loss", guard.lost()).await, Loss::Taken);
                        let left = direct.command(&["PTTL", &key]).await.unwrap().int().unwrap();
                        more(&counts.foreign_prolonged, left > 150 - 30);
                        assert!(!guard.release().await.unwrap(), "it was not ours");
                        let there = direct.command(&["GET", &key]).await.unwrap();
                        let gone = there.text().as_deref() != Some(&foreign);
                        let over = direct.command(&["PTTL", &key]).await.unwrap().int() == Some(-2);
                        // What is gone before its time was deleted.
                        more(&counts.foreign_deleted, gone && over && left > 100);
                        more(&counts.foreign, true);
                    }
                    // It ends at the server although the guard counts on it.
                    2 => {
                        direct.command(&["PEXPIRE", &key, "1"]).await.unwrap();
                        gone(&mut direct, &key).await;
                        assert!(!guard.release().await.unwrap(), "it was over");
                        more(&counts.expired, true);
                    }
                    3 => {
                        drop(guard);
                        more(&counts.dropped, true);
                    }
                    _ => {
                        assert!(guard.release().await.unwrap(), "somebody took our lock");
                        more(&counts.released, true);
                    }
                }
            }
        });
    }
    let flushes = times(400);
    for _ in 0..flushes {
        tokio::time::sleep(Duration::from_millis(50)).await; // paced: a flush every 50 ms
        let flushed = server.command(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(flushed.text().as_deref(), Some("OK"));
    }
    done.store(true, Ordering::Relaxed);
    // An unexpected error, NOSCRIPT among them, ends its task in a panic, which comes out here.
    ends("the tasks", tasks.join_all()).await;
    let errors = server.command(&["INFO", "errorstats"]).await.text().unwrap();
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "P25: guards: foreign deletes {}, foreign renewals {}, NOSCRIPT 0 ({} releases, {} of a foreign lock, {} after expiry, {} \
         drops, {flushes} flushes)",
        of(&counts.foreign_deleted),
        of(&counts.foreign_prolonged),
        of(&counts.released),
        of(&counts.foreign),
        of(&counts.expired),
        of(&counts.dropped),
    );
    assert_eq!((of(&counts.foreign_deleted), of(&counts.foreign_prolonged)), (0, 0));
    assert!(of(&counts.released) > 50 && of(&counts.foreign) > 10 && of(&counts.expired) > 5);
    assert!(!errors.contains("NOSCRIPT"), "{errors}");
}

//! P25, for guards: a release and a renewal act on the caller's own lock alone, and survive `SCRIPT FLUSH` and slots that move.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::Loss;
use larder::testing::RedisCluster;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::common::place::{Place, plain};
use crate::{alone, ends, times};

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
    own_locks_alone(Place::one(plain).await, Duration::from_millis(40), times(400)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_gives_back_and_renews_its_own_lock_alone_while_its_slot_moves() {
    let _turn = alone().await;
    // Half as often: a slot on its way has calls wait.
    own_locks_alone(Place::primaries(plain).await, Duration::from_millis(80), times(400)).await;
}

/// No lock ends by itself: a busy machine takes its time.
const LEASE: Duration = Duration::from_secs(2);

async fn own_locks_alone(place: Place, every: Duration, flushes: u64) {
    let cache = place.client().await;
    let (done, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let (done, counts, cache) = (Arc::clone(&done), Arc::clone(&counts), cache.clone());
        let mut direct = place.router().await;
        tasks.spawn(async move {
            let lock = cache.lock(format!("{}", task % 4)).lease(LEASE).renew_every(every);
            let lock = lock.wait(Duration::from_secs(20));
            while !done.load(Ordering::Relaxed) {
                let guard = lock.acquire().await.unwrap();
                let key = format!("lock:{}", task % 4);
                match fastrand::u8(..16) {
                    // Another program writes over the lock; the holder renews and releases what is not its own.
                    0 | 1 => {
                        let foreign = format!("{:032x}", fastrand::u128(..));
                        let life = LEASE.as_millis() as i64;
                        let set = ["SET", &key, &foreign, "PX", &life.to_string()];
                        direct.command(&set).await;
                        let written = Instant::now();
                        assert_eq!(ends("the loss", guard.lost()).await, Loss::Taken);
                        // So long at least; and a millisecond for the server's clock, which counts whole ones.
                        let passed = written.elapsed().as_millis() as i64;
                        let left = direct.command(&["PTTL", &key]).await.int().unwrap();
                        more(&counts.foreign_prolonged, left + passed > life + 1);
                        assert!(!guard.release().await.unwrap(), "it was not ours");
                        let there = direct.command(&["GET", &key]).await;
                        let gone = there.text().as_deref() != Some(&foreign);
                        // What is gone before its time was deleted.
                        more(&counts.foreign_deleted, gone && written.elapsed() < LEASE);
                        if !gone {
                            // The other program is done with it.
                            direct.command(&["DEL", &key]).await;
                        }
                        more(&counts.foreign, true);
                    }
                    // It ends at the server although the guard counts on it.
                    2 => {
                        direct.command(&["PEXPIRE", &key, "1"]).await;
                        ends("the lock", async {
                            while direct.command(&["EXISTS", &key]).await.int() != Some(0) {}
                        })
                        .await;
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
    let (mut mover, mut moves) = (place.mover().await, 0);
    let mut owners: Vec<usize> = (0..4).map(|name| place.at(&format!("lock:{name}"))).collect();
    for flush in 0..flushes {
        tokio::time::sleep(Duration::from_millis(50)).await; // paced: a flush every 50 ms
        for node in place.nodes() {
            let flushed = node.command(&["SCRIPT", "FLUSH"]).await;
            assert_eq!(flushed.text().as_deref(), Some("OK"));
        }
        let Some(mover) = &mut mover else { continue };
        let name = flush as usize % 4;
        let slot = RedisCluster::slot(format!("lock:{name}"));
        let (from, to) = (owners[name], (owners[name] + 1) % place.nodes().len());
        // The lock and its record are apart for a moment.
        mover.open(slot, from, to).await;
        while mover.move_keys(slot, from, to, 1).await > 0 {}
        mover.close(slot, from, to).await;
        owners[name] = to;
        moves += 1;
    }
    done.store(true, Ordering::Relaxed);
    // An unexpected error, NOSCRIPT among them, ends its task in a panic, which comes out here.
    ends("the tasks", tasks.join_all()).await;
    let mut refused = Vec::new();
    for code in ["NOSCRIPT", "CROSSSLOT", "MOVED", "ASK", "TRYAGAIN"] {
        refused.push(place.refusals(code).await);
    }
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "P25{}: guards: foreign deletes {}, foreign renewals {}, NOSCRIPT {}, CROSSSLOT {} ({} releases, {} of a foreign lock, {} after \
         expiry, {} drops, {flushes} flushes, {moves} slots moved: {} MOVED, {} ASK, {} TRYAGAIN, none to a caller)",
        place.name(),
        of(&counts.foreign_deleted),
        of(&counts.foreign_prolonged),
        refused[0],
        refused[1],
        of(&counts.released),
        of(&counts.foreign),
        of(&counts.expired),
        of(&counts.dropped),
        refused[2],
        refused[3],
        refused[4],
    );
    assert_eq!((of(&counts.foreign_deleted), of(&counts.foreign_prolonged)), (0, 0));
    assert!(of(&counts.released) > 50 && of(&counts.foreign) > 10 && of(&counts.expired) > 5);
    assert_eq!(refused[..2], [0, 0], "NOSCRIPT, CROSSSLOT");
    assert!(!place.is_cluster() || refused[2] > 0 && refused[3] + refused[4] > 0, "{refused:?}");
}

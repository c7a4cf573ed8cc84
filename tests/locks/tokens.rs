//! P23: fencing tokens of a name rise with every acquisition, whatever ended the last one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use larder::op::{Batch, LockMode, Locked, Op};
use larder::store::{RedisStore, Store};
use larder::testing::RedisServer;
use larder::{CacheClient, Expiry, Key, LockBuilder};
use tokio::task::JoinSet;

use crate::common::place::Place;
use crate::{HANGS, alone, durable, record, times, until};

const NAMES: u64 = 32;

async fn token_of(lock: &LockBuilder) -> u64 {
    let guard = lock.acquire().await.unwrap();
    let token = guard.fencing_token().expect("it is held alone");
    // The server may have been killed under it: what this answers is another test's.
    _ = guard.release().await;
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_over_releases_expiries_crashes_and_flushed_scripts() {
    let _turn = alone().await;
    tokens_rise(Place::one(durable).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_over_crashes_of_the_nodes_of_a_cluster() {
    let _turn = alone().await;
    tokens_rise(Place::primaries(durable).await).await;
}

/// Servers that lose nothing that they confirmed, and are killed and started again one after the other.
async fn tokens_rise(mut place: Place) {
    let (minted, expired, regressed) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let count = times(100_000);
    let clients = [place.client().await, place.client().await];
    let mut tasks = JoinSet::new();
    for name in 0..NAMES {
        // Two clients take turns, so that nothing that one of them knows helps.
        let locks = clients.each_ref().map(|cache| {
            cache
                .lock(format!("t{name}"))
                .lease(Duration::from_secs(2))
                .wait(Duration::from_secs(60))
        });
        let cache = clients[0].clone();
        let (minted, expired) = (Arc::clone(&minted), Arc::clone(&expired));
        let regressed = Arc::clone(&regressed);
        tasks.spawn(async move {
            let mut last = 0;
            for turn in 0.. {
                if minted.fetch_add(1, Ordering::Relaxed) >= count {
                    return;
                }
                let guard = locks[turn % 2].acquire().await.unwrap();
                let token = guard.fencing_token().unwrap();
                regressed.fetch_add(u64::from(token <= last), Ordering::Relaxed);
                last = token;
                match fastrand::u8(..16) {
                    0 => drop(guard),
                    1 => {
                        // Its lease ends at the server.
                        let brief = Duration::from_millis(1);
                        let set = cache.set_expiry(guard.key().as_bytes(), brief).await;
                        expired.fetch_add(u64::from(set.is_ok_and(|set| set)), Ordering::Relaxed);
                        _ = guard.lost().await;
                    }
                    _ => _ = guard.release().await,
                }
            }
        });
    }
    let (mut kills, mut flushes) = (0, 0);
    let rounds = times(20);
    for round in 0..rounds {
        let next = count * round / rounds;
        while minted.load(Ordering::Relaxed) < next {
            for node in place.nodes() {
                node.command(&["SCRIPT", "FLUSH"]).await;
            }
            flushes += 1;
            tokio::time::sleep(Duration::from_millis(50)).await; // paced: a flush every 50 ms
        }
        place.restart(round as usize % place.nodes().len()).await;
        kills += 1;
    }
    tokio::time::timeout(HANGS * 30, tasks.join_all()).await.expect("the tasks hung");
    let regressed = regressed.load(Ordering::Relaxed);
    println!(
        "P23{}: {count} tokens of {NAMES} names, regressions {regressed} (AOF always, {kills} SIGKILLs, {} expiries, {flushes} script \
         flushes)",
        place.name(),
        expired.load(Ordering::Relaxed)
    );
    assert_eq!(regressed, 0);
    assert!(kills > 0 && flushes > 0 && expired.load(Ordering::Relaxed) > 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_even_if_the_server_lost_its_data() {
    let _turn = alone().await;
    let mut server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let lock = cache.lock("t").wait(Duration::from_secs(10));
    let mut regressed = [0; 3];
    let rounds = times(300);
    for _ in 0..rounds {
        for (how, regressed) in regressed.iter_mut().enumerate() {
            let before = token_of(&lock).await;
            let record = record("t");
            match how {
                0 => _ = server.command(&["FLUSHALL"]).await,
                1 => assert_eq!(server.command(&["DEL", &record]).await.int(), Some(1)),
                _ => server.restart().await,
            }
            assert_eq!(server.command(&["EXISTS", &record]).await.int(), Some(0));
            *regressed += u64::from(token_of(&lock).await <= before);
        }
    }
    println!(
        "P23: tokens after a loss of data, which the server's clock carries: regressions {} of {rounds} after FLUSHALL, {} after a lost \
         record, {} after a restart without persistence",
        regressed[0], regressed[1], regressed[2]
    );
    assert_eq!(regressed, [0; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_again_for_a_lock_that_is_held_mints_no_token() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let store = RedisStore::open(&server.url()).unwrap();
    let ask = |id: u128| {
        let op = Op::Lock {
            key: Key::new("lock:again").unwrap(),
            id: Bytes::from(format!("{id:032x}")),
            expiry: Expiry::new(Duration::from_secs(10)).unwrap(),
            mode: LockMode::Exclusive { label: None, fair: false, waits: None },
        };
        let answer = store.run(Batch::one("lock", op));
        async { answer.await.unwrap().into_one().unwrap().into_locked().unwrap() }
    };
    let Locked::Taken { token: first } = ask(1).await else { panic!("it is free") };
    for _ in 0..times(1000) {
        assert_eq!(ask(1).await, Locked::Taken { token: first });
        assert!(matches!(ask(2).await, Locked::Held { .. }));
    }
    let last = server.command(&["HGET", &record("again"), "token"]).await.text();
    assert_eq!(last, first.map(|token| token.to_string()));

    // The same through the client: the answer to the first try is lost with its connection.
    let proxy = larder::testing::FaultProxy::start(server.addr()).await;
    let cache = CacheClient::connect(proxy.url()).await.unwrap();
    let lock = cache.lock("cut");
    let mut cuts = 0;
    for _ in 0..times(200) {
        proxy.cut_before_reply_of("EVAL", larder::testing::Cut::Reset);
        let guard = lock.acquire().await.unwrap();
        let last = server.command(&["HGET", &record("cut"), "token"]).await.text();
        assert_eq!(last, guard.fencing_token().map(|token| token.to_string()));
        cuts = proxy.cuts();
        _ = guard.release().await;
        until("the lock is free", async || lock.try_acquire().await.is_ok_and(|got| got.is_some()))
            .await;
    }
    println!(
        "P23: {} locks asked for again by their holder, and {cuts} answers lost with their connection: tokens minted twice 0",
        times(1000)
    );
    assert!(cuts >= times(200));
}

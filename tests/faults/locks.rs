//! P25, for plain locks: a release acts on the caller's own lock alone, and survives `SCRIPT FLUSH`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use larder::op::{Batch, LockMode, Op, Reply};
use larder::store::{RedisStore, Store};
use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, Expiry, Key, LockId, LockOptions, Outcome};
use tokio::task::JoinSet;

use crate::{alone, full};

const TASKS: u64 = 16;
const NAMES: u64 = 4;

fn foreign() -> LockId {
    format!("{:032x}", fastrand::u128(..)).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_deletes_only_the_caller_s_own_lock() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (released, foreign_tries, foreign_deletes, expired) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (cache, done) = (cache.clone(), Arc::clone(&done));
        let (released, foreign_tries, foreign_deletes, expired) = (
            Arc::clone(&released),
            Arc::clone(&foreign_tries),
            Arc::clone(&foreign_deletes),
            Arc::clone(&expired),
        );
        tasks.spawn(async move {
            let name = format!("lock:{}", task % NAMES);
            let mut last: Option<LockId> = None;
            while !done.load(Ordering::Relaxed) {
                // One in eight lets its lease end, and then tries to give back what is not its own.
                let forgets = fastrand::u8(..8) == 0;
                let options = LockOptions {
                    expire: Duration::from_millis(if forgets { 20 } else { 5000 }),
                    timeout: Duration::from_secs(10),
                    retry_interval: Duration::from_millis(2),
                };
                let id = cache.acquire_lock(&name, options).await.unwrap();
                for wrong in [Some(foreign()), last.take()].into_iter().flatten() {
                    let deleted = cache.release_lock(&name, &wrong).await.unwrap();
                    foreign_tries.fetch_add(1, Ordering::Relaxed);
                    foreign_deletes.fetch_add(u64::from(deleted), Ordering::Relaxed);
                }
                if forgets {
                    // Until the lease is over, by the server's clock or because another has the lock.
                    while cache.get_value(&name).await.unwrap().as_deref() == Some(id.as_str()) {
                        tokio::time::sleep(Duration::from_millis(2)).await; // an expiry is polled
                    }
                    expired.fetch_add(1, Ordering::Relaxed);
                    let deleted = cache.release_lock(&name, &id).await.unwrap();
                    foreign_deletes.fetch_add(u64::from(deleted), Ordering::Relaxed);
                } else {
                    assert!(
                        cache.release_lock(&name, &id).await.unwrap(),
                        "somebody took our lock"
                    );
                    released.fetch_add(1, Ordering::Relaxed);
                }
                last = Some(id);
            }
        });
    }
    let mut flushes = 0;
    for _ in 0..if full() { 400 } else { 40 } {
        tokio::time::sleep(Duration::from_millis(50)).await; // paced: a flush every 50 ms
        let flushed = server.command(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(flushed.text().as_deref(), Some("OK"));
        flushes += 1;
    }
    done.store(true, Ordering::Relaxed);
    // An unexpected error, NOSCRIPT among them, ends its task in a panic, which comes out here.
    tasks.join_all().await;

    let foreign_deletes = foreign_deletes.load(Ordering::Relaxed);
    println!(
        "P25: foreign deletes {foreign_deletes}; NOSCRIPT surfaced 0 ({} releases, {} with a foreign token, {} after \
         expiry, {flushes} flushes)",
        released.load(Ordering::Relaxed),
        foreign_tries.load(Ordering::Relaxed),
        expired.load(Ordering::Relaxed),
    );
    assert_eq!(foreign_deletes, 0);
    assert!(released.load(Ordering::Relaxed) > 100 && expired.load(Ordering::Relaxed) > 10);
    let errors = server.command(&["INFO", "errorstats"]).await.text().unwrap();
    assert!(!errors.contains("NOSCRIPT"), "{errors}");
}

#[tokio::test]
async fn a_release_survives_a_restart_and_reports_what_was_lost_with_it() {
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let builder = durable.into_iter().fold(RedisServer::builder(), |builder, arg| builder.arg(arg));
    let mut server = builder.start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let id = cache.acquire_lock("lock:kept", LockOptions::default()).await.unwrap();
    server.restart().await;
    while cache.ping().await.is_err() {}
    assert!(cache.release_lock("lock:kept", &id).await.unwrap());
    assert!(!cache.release_lock("lock:kept", &id).await.unwrap());

    let id = cache.acquire_lock("lock:gone", LockOptions::default()).await.unwrap();
    server.command(&["FLUSHALL"]).await;
    assert!(!cache.release_lock("lock:gone", &id).await.unwrap());
}

/// A lock is not lost because there is no memory for others: its renewal needs none, nor does giving it back.
#[tokio::test]
async fn a_server_without_memory_renews_locks_and_gives_none() {
    let server = RedisServer::start().await;
    let store = RedisStore::open(&server.url()).unwrap();
    let key = |name: &str| Key::new(name).unwrap();
    let expiry = Expiry::new(Duration::from_secs(60)).unwrap();
    let longer = Expiry::new(Duration::from_secs(3600)).unwrap();
    let run = async |op: Op| store.run(Batch::one("test", op)).await.unwrap().into_one();
    let lock = |name: &str, id: &'static str, expiry: Expiry, mode: LockMode| Op::Lock {
        key: key(name),
        id: Bytes::from_static(id.as_bytes()),
        expiry,
        mode,
    };
    let alone = |waits| LockMode::Exclusive { label: None, fair: false, waits };
    let share = || LockMode::Shared { most: 3 };
    let is_shared = |name: &str| name == "shared";
    let first = run(lock("alone", "a", expiry, alone(None))).await.unwrap();
    // The longest lease is another's, so that a renewal changes no expiry.
    run(lock("shared", "long", longer, share())).await.unwrap();
    run(lock("shared", "a", expiry, share())).await.unwrap();

    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let id = Bytes::from_static(b"a");
    for name in ["alone", "shared"] {
        let (key, id, shared) = (key(name), id.clone(), is_shared(name));
        let extend = Op::Extend { key, id, expiry, shared };
        assert_eq!(run(extend).await.unwrap(), Reply::Bool(true), "{name}");
    }
    // Asking again for what is held needs none, either.
    assert_eq!(run(lock("alone", "a", expiry, alone(None))).await.unwrap(), first);
    run(lock("shared", "a", expiry, share())).await.unwrap();
    let refused = [
        lock("new", "a", expiry, alone(None)),
        lock("new", "a", expiry, share()),
        lock("shared", "b", expiry, share()),
        lock("shared", "b", expiry, alone(Some(expiry))),
        Op::FencedSet { key: key("new"), value: Bytes::new(), expiry: None, token: 1 },
    ];
    for op in refused {
        let error = run(op).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::OutOfMemory, Outcome::Rejected));
        assert_eq!(error.code(), Some("OOM"));
    }
    for name in ["alone", "shared"] {
        let (key, id, shared) = (key(name), id.clone(), is_shared(name));
        let unlock = Op::Unlock { key, id, shared };
        assert_eq!(run(unlock).await.unwrap(), Reply::Bool(true), "{name}");
    }
    // Of all that was refused nothing is there: the record of the one lock, and the other with its record.
    assert_eq!(server.command(&["DBSIZE"]).await.int(), Some(3));
    let fields = server.command(&["HLEN", "larder:lock:{shared}"]).await.int();
    assert_eq!(fields, Some(1), "only who has it stands in the record");
}

//! One loader for each key, whichever language it is written in: larder beside the `get_or_load` of
//! `docs/interop.md`.

use std::io::Error as IoError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::json::Value;
use larder::testing::RedisServer;
use larder::{CacheClient, Namespace, ReadFrom};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::peer::Peer;
use crate::{times, until};

/// Longer than any load here, unless its process dies.
const LONG: Duration = Duration::from_secs(20);

struct Sides {
    server: RedisServer,
    cache: CacheClient,
    values: Namespace<u64, Value>,
    peer: Peer,
    loads: Arc<AtomicU64>,
}

impl Sides {
    async fn start() -> Self {
        let server = RedisServer::start().await;
        let cache = CacheClient::connect(server.url()).await.unwrap();
        let values =
            cache.namespace("w").ttl(Duration::from_secs(60)).early_refresh(0.0).build().unwrap();
        let peer = Peer::start(server.port()).await;
        Self { server, cache, values, peer, loads: Arc::default() }
    }

    /// Python loads the key, and holds.
    async fn python_loads(&mut self, key: u64, lease: Duration) {
        self.peer.begin(&format!("w:{key}"), lease).await;
        assert_eq!(self.peer.hear().await.unwrap(), "loading".into());
    }

    /// A read here that waits for somebody else's load.
    async fn waits(&self, key: u64) -> JoinHandle<Value> {
        let waits = || self.cache.stats().reads.get("w").map_or(0, |reads| reads.lease_waits);
        let (before, values) = (waits(), self.values.clone());
        let loads = Arc::clone(&self.loads);
        let read = tokio::spawn(async move {
            let loader = || async {
                loads.fetch_add(1, Ordering::Relaxed);
                Ok::<_, IoError>(Value::from("by larder"))
            };
            let value = values.get_or_load(&key, loader).await.unwrap();
            (*value).clone()
        });
        until("it waits for the lease", async || waits() > before).await;
        read
    }

    /// A load here that is held, and its read.
    async fn larder_loads(
        &self,
        key: u64,
        gives: Option<Value>,
    ) -> (Arc<Notify>, JoinHandle<bool>) {
        let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (is_running, may_go) = (Arc::clone(&running), Arc::clone(&go));
        let values = self.values.clone();
        let read = tokio::spawn(async move {
            let loader = || async {
                is_running.notify_one();
                may_go.notified().await;
                gives.clone().ok_or(IoError::other("the origin is down"))
            };
            values.get_or_load(&key, loader).await.is_ok()
        });
        running.notified().await;
        (go, read)
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    async fn no_lease_is_left(&mut self) {
        let leases = self.peer.call("keys", vec!["larder:lease:*".into()]).await;
        assert_eq!(leases, Vec::<Value>::new().into());
    }
}

async fn ended<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), task).await.expect("it hung").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn larder_waits_for_a_python_loader_and_gets_its_value() {
    let mut sides = Sides::start().await;
    let (rounds, mut longest) = (times(500), Duration::ZERO);
    for key in 0..rounds {
        sides.python_loads(key, LONG).await;
        let read = sides.waits(key).await;
        let value = Value::from(format!("by Python: {key}"));
        sides.peer.loads(Some(value.clone())).await;
        assert_eq!(sides.peer.answers().await, Ok(value.clone()));
        let stored = Instant::now();
        assert_eq!(ended(read).await, value);
        longest = longest.max(stored.elapsed());
        assert_eq!(sides.values.explain(&key), Some(ReadFrom::Waited));
    }
    println!(
        "one loader: larder waited for Python {rounds} times, loads of its own: {}, value here at most {longest:?} after Python had it",
        sides.loads()
    );
    assert_eq!(sides.loads(), 0);
    sides.no_lease_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_waits_for_a_larder_loader_and_gets_its_value() {
    let mut sides = Sides::start().await;
    let rounds = times(500);
    for key in 0..rounds {
        let value = Value::from(format!("by larder: {key}"));
        let (go, read) = sides.larder_loads(key, Some(value.clone())).await;
        sides.peer.begin(&format!("w:{key}"), LONG).await;
        assert_eq!(sides.peer.hear().await.unwrap(), "waiting".into());
        go.notify_one();
        assert!(ended(read).await);
        // It would say "loading" if it did.
        assert_eq!(sides.peer.answers().await, Ok(value));
    }
    let loads = sides.cache.stats().reads["w"].loads;
    println!("one loader: Python waited for larder {rounds} times, loads of its own: 0");
    assert_eq!(loads, rounds);
    sides.no_lease_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_that_fails_or_dies_in_one_language_is_followed_by_one_in_the_other() {
    let mut sides = Sides::start().await;
    let rounds = times(100);
    for key in 0..rounds {
        // Python's fails.
        sides.python_loads(key, LONG).await;
        let read = sides.waits(key).await;
        sides.peer.loads(None).await;
        assert_eq!(sides.peer.answers().await, Err("LookupError".to_owned()));
        assert_eq!(ended(read).await, "by larder".into());
        // larder's fails.
        let key = rounds + key;
        let (go, read) = sides.larder_loads(key, None).await;
        sides.peer.begin(&format!("w:{key}"), LONG).await;
        assert_eq!(sides.peer.hear().await.unwrap(), "waiting".into());
        go.notify_one();
        assert!(!ended(read).await);
        while sides.peer.hear().await.unwrap() != "loading".into() {}
        sides.peer.loads(Some("by Python".into())).await;
        assert_eq!(sides.peer.answers().await, Ok("by Python".into()));
    }
    assert_eq!(sides.loads(), rounds);

    // Python is killed while it loads: its lease is over by itself.
    let lease = Duration::from_millis(300);
    sides.python_loads(1_000_000, lease).await;
    let read = sides.waits(1_000_000).await;
    let next = Peer::start(sides.server.port()).await;
    std::mem::replace(&mut sides.peer, next).kill().await;
    let killed = Instant::now();
    assert_eq!(ended(read).await, "by larder".into());
    let takeovers = sides.cache.stats().reads["w"].takeovers;
    println!(
        "one loader: {rounds} failures on either side and a loader killed by SIGKILL, takeovers here: {takeovers}, the last {:?} after the kill of a lease of {lease:?}",
        killed.elapsed()
    );
    assert_eq!((takeovers, sides.loads()), (rounds + 1, rounds + 1));
    sides.no_lease_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_load_never_overwrites_what_larder_did_meanwhile() {
    let mut sides = Sides::start().await;
    let (rounds, mut stale) = (times(500), 0);
    for key in 0..rounds {
        let name = format!("w:{key}");
        sides.python_loads(key, LONG).await;
        let is_gone = match key % 4 {
            0 => sides.values.invalidate(&key).await.is_ok(),
            1 => sides.cache.batch_delete_keys([&name, "unrelated"]).await.is_ok(),
            2 => {
                sides.values.set(&key, &"new".into()).await.unwrap();
                sides.values.delete(&key).await.unwrap()
            }
            _ => {
                sides.values.set(&key, &"new".into()).await.unwrap();
                false
            }
        };
        sides.peer.loads(Some("old".into())).await;
        if is_gone {
            // Its fill was refused: it loads once more.
            assert_eq!(sides.peer.hear().await.unwrap(), "loading".into());
            sides.peer.loads(Some("new".into())).await;
        }
        let answer = sides.peer.answers().await;
        stale +=
            u64::from(answer != Ok("new".into()) || sides.peer.read(&name).await != "new".into());
    }
    println!(
        "P20 with a Python loader: {rounds} slow loads against 4 kinds of writers, stale fills: {stale}"
    );
    assert_eq!(stale, 0);
    sides.no_lease_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_of_both_languages_loads_each_key_once() {
    const TASKS: u64 = 20;
    let mut sides = Sides::start().await;
    let mut other = Peer::start(sides.server.port()).await;
    let (keys, mut differ, mut more) = (times(2_000), 0, 0);
    for key in 0..keys {
        let name = format!("w:{key}");
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (values, cache, loads) =
                    (sides.values.clone(), sides.cache.clone(), format!("loads:{name}"));
                tokio::spawn(async move {
                    let loader = || async {
                        let count = cache.incr_by(&loads, 1).await;
                        count.map(|_| Value::from("by larder"))
                    };
                    (*values.get_or_load(&key, loader).await.unwrap()).clone()
                })
            })
            .collect();
        let (one, two) = tokio::join!(
            sides.peer.get_or_load(&name, "by Python".into()),
            other.get_or_load(&name, "by the other Python".into())
        );
        differ += u64::from(one != two);
        for task in tasks {
            differ += u64::from(ended(task).await != one);
        }
        let loads = sides.cache.get_value(format!("loads:{name}")).await.unwrap();
        more += u64::from(loads.as_deref() != Some("1"));
    }
    let here = sides.cache.stats().reads["w"].loads;
    println!(
        "one loader: {keys} keys, each wanted by {TASKS} tasks here and two Python processes at once: loaded by larder {here}, by Python {}, keys loaded more than once: {more}, answers that differ: {differ}",
        keys - here
    );
    assert_eq!((more, differ), (0, 0));
    sides.no_lease_is_left().await;
}

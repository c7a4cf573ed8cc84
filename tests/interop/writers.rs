//! P20 with writers of another language: redis-py clients that follow the rule of `docs/interop.md` lose nothing to
//! a slow load. Those that do not follow it show that the test would see a loss, and that the document is right.

use std::io::Error as IoError;
use std::sync::Arc;
use std::time::Duration;

use larder::json::Value;
use larder::{CacheClient, LoadOptions};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::common::place::{Place, plain};
use crate::peer::{Peer, bytes, object};
use crate::{times, until};

/// What the held load brings, what the writers write, and what the loader finds if it is asked again.
const OLD: &str = "1";
const NEW: &str = "2";
const RELOADED: &str = "3";

/// How many loads are held at a time.
const AT_ONCE: u64 = 50;

/// A load that is held, and the read that waits for it.
struct Held {
    go: Arc<Notify>,
    read: JoinHandle<String>,
}

impl Held {
    /// Returns when the loader runs.
    async fn start(cache: &CacheClient, key: &str, options: LoadOptions) -> Self {
        let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (cache, key) = (cache.clone(), key.to_owned());
        let (is_running, may_go) = (Arc::clone(&running), Arc::clone(&go));
        let read = tokio::spawn(async move {
            let mut gates = Some((is_running, may_go));
            let loader = || {
                let gates = gates.take();
                async move {
                    let Some((running, go)) = gates else { return Ok::<_, IoError>(3) };
                    running.notify_one();
                    go.notified().await;
                    Ok(1)
                }
            };
            let value = cache.get_or_load::<u64, _>(&key, options, loader).await.unwrap();
            value.to_string()
        });
        running.notified().await;
        Self { go, read }
    }

    async fn end(self) -> String {
        self.go.notify_one();
        let read = tokio::time::timeout(Duration::from_secs(20), self.read).await;
        read.expect("the read hung").unwrap()
    }
}

/// A key, some with a hash tag and some with a brace, whose leases have other names.
fn key(number: u64) -> String {
    match number % 3 {
        0 => format!("n:{number}"),
        1 => format!("n:{{{number}}}:x"),
        _ => format!("n:}}{number}{{"),
    }
}

const WAYS: u64 = 6;

/// Python changes a key by the rule. Answers what has to stand there then, if that is certain.
async fn change(way: u64, peer: &mut Peer, key: &str) -> Option<&'static str> {
    let set_value = || vec![key.into(), NEW.into(), 60.into()];
    match way % WAYS {
        0 => _ = peer.recipe("delete", vec![key.into()]).await,
        1 => {
            peer.recipe("set_value", set_value()).await;
            return Some(NEW);
        }
        // Written, and gone again before the load ends.
        2 => {
            peer.recipe("set_value", set_value()).await;
            peer.recipe("delete", vec![key.into()]).await;
        }
        // Without a transaction, the lease first.
        3 => {
            delete_lease(peer, key).await;
            peer.call("delete", vec![key.into()]).await;
        }
        4 => {
            delete_lease(peer, key).await;
            peer.call("set", vec![key.into(), NEW.into()]).await;
            return Some(NEW);
        }
        // Written, and expired before the load ends.
        _ => {
            delete_lease(peer, key).await;
            let px = object([("px", 1.into())]);
            peer.call_with("set", vec![key.into(), NEW.into()], px).await;
            while peer.get(key).await.is_some_and(|value| value == NEW) {}
        }
    }
    None
}

async fn delete_lease(peer: &mut Peer, key: &str) {
    let lease = peer.beside("lease", &[key.as_bytes().to_vec()]).await.remove(0);
    peer.call("delete", vec![bytes(lease)]).await;
}

async fn start(place: &Place) -> (CacheClient, Peer) {
    let port = place.server(0).port();
    let peer =
        if place.is_cluster() { Peer::on_cluster(port).await } else { Peer::start(port).await };
    (place.client().await, peer)
}

fn refused(cache: &CacheClient, prefix: &str) -> u64 {
    cache.stats().reads.get(prefix).map_or(0, |reads| reads.refused_fills)
}

fn minute() -> LoadOptions {
    LoadOptions::new().ttl(Duration::from_secs(60))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_load_never_overwrites_what_python_did_by_the_rule() {
    slow_loads(Place::one(plain).await, times(2_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_load_of_a_cluster_never_overwrites_what_python_did_by_the_rule() {
    slow_loads(Place::primaries(plain).await, times(1_000)).await;
}

async fn slow_loads(place: Place, races: u64) {
    let (cache, mut peer) = start(&place).await;
    let (mut stale, mut returned) = (0, 0);
    for batch in 0..races / AT_ONCE {
        let mut all = Vec::new();
        for number in batch * AT_ONCE..(batch + 1) * AT_ONCE {
            let key = key(number);
            all.push((number, Held::start(&cache, &key, minute()).await, key));
        }
        for (number, held, key) in all {
            let wanted = change(number / 3, &mut peer, &key).await;
            let got = held.end().await;
            let stored = cache.get_value(&key).await.unwrap();
            stale += u64::from(stored.as_deref() != Some(wanted.unwrap_or(RELOADED)));
            returned += u64::from(got == OLD);
        }
    }
    let refused = refused(&cache, "n");
    println!(
        "P20{} redis-py by the rule, change first: {races} slow loads against {WAYS} kinds of writers, {refused} fills refused, stale fills: {stale}, old values returned: {returned}",
        place.name()
    );
    assert_eq!((refused, stale, returned), (races, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_that_crosses_what_python_does_by_the_rule_leaves_nothing_old() {
    crossing_fills(Place::one(plain).await, times(2_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_of_a_cluster_that_crosses_what_python_does_by_the_rule_leaves_nothing_old() {
    crossing_fills(Place::primaries(plain).await, times(1_000)).await;
}

async fn crossing_fills(place: Place, races: u64) {
    let (cache, mut peer) = start(&place).await;
    let mut stale = 0;
    for number in 0..races {
        let key = key(number);
        let held = Held::start(&cache, &key, minute()).await;
        // Let go at about the time of the change, a little earlier or later.
        let fill = async {
            for _ in 0..number * 7 % 400 {
                tokio::task::yield_now().await;
            }
            held.end().await
        };
        let (wanted, _) = tokio::join!(change(number / 3, &mut peer, &key), fill);
        let stored = cache.get_value(&key).await.unwrap();
        stale += u64::from(match wanted {
            Some(wanted) => stored.as_deref() != Some(wanted),
            None => stored.as_deref().is_some_and(|stored| stored != RELOADED),
        });
    }
    let refused = refused(&cache, "n");
    println!(
        "P20{} redis-py by the rule, fill and change at once: {races} slow loads, {refused} fills refused, the others came before the change; stale fills: {stale}",
        place.name()
    );
    assert_eq!(stale, 0);
    assert!(refused > 0 && refused < races, "fills and changes did not cross: {refused} refused");
}

/// A value that looks stale, and its load, held.
async fn refreshing(cache: &CacheClient, peer: &mut Peer, key: &str) -> Held {
    let ex = object([("ex", 100.into())]);
    peer.call_with("set", vec![key.into(), NEW.into()], ex).await;
    let options = minute().grace(Duration::from_secs(600)).early_refresh(0.0);
    Held::start(cache, key, options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_never_overwrites_equal_bytes_that_python_wrote_by_the_rule() {
    refreshes(Place::one(plain).await, times(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_of_a_cluster_never_overwrites_equal_bytes_that_python_wrote_by_the_rule() {
    refreshes(Place::primaries(plain).await, times(200)).await;
}

async fn refreshes(place: Place, rounds: u64) {
    let (cache, mut peer) = start(&place).await;
    let mut stale = 0;
    for number in 0..rounds {
        let key = format!("g:{number}");
        let held = refreshing(&cache, &mut peer, &key).await;
        let args = vec![key.as_str().into(), NEW.into(), 50.into()];
        peer.recipe("set_value", args).await;
        let got = held.end().await;
        let stored = cache.get_value(&key).await.unwrap();
        stale += u64::from(stored.as_deref() != Some(NEW) || got != NEW);
    }
    let refused = refused(&cache, "g");
    println!(
        "P20{} redis-py by the rule: {rounds} refreshes against equal bytes, {refused} refused, stale fills: {stale}",
        place.name()
    );
    assert_eq!((refused, stale), (rounds, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_without_the_rule_loses_exactly_what_the_document_says() {
    let place = Place::one(plain).await;
    let (cache, mut peer) = start(&place).await;
    let rounds = times(100);
    // What the program does, whether there is a stale value before, and what stands there at the end.
    let set: (&str, &[Value]) = ("set", &[NEW.into()]);
    let delete: (&str, &[Value]) = ("delete", &[]);
    let shorter: (&str, &[Value]) = ("set", &[NEW.into(), 50.into()]);
    for (what, is_refresh, calls, wanted) in [
        ("SET", false, vec![set], NEW),
        ("SET and DEL", false, vec![set, delete], OLD),
        ("DEL of nothing", false, vec![delete], OLD),
        ("DEL of a stale value", true, vec![delete], RELOADED),
        ("SET of equal bytes, shorter", true, vec![shorter], OLD),
    ] {
        let (mut same, before) = (0, refused(&cache, "w"));
        for number in 0..rounds {
            let key = format!("w:{what}:{number}");
            let held = match is_refresh {
                true => refreshing(&cache, &mut peer, &key).await,
                false => Held::start(&cache, &key, minute()).await,
            };
            for (method, args) in &calls {
                let args = [Value::from(key.as_str())].into_iter().chain(args.iter().cloned());
                peer.call(method, args.collect()).await;
            }
            held.end().await;
            let stored = cache.get_value(&key).await.unwrap();
            same += u64::from(stored.as_deref() == Some(wanted));
        }
        let refused = refused(&cache, "w") - before;
        println!(
            "without the rule: {what}: {rounds} times, {refused} fills refused, {wanted} stored {same} times"
        );
        let as_documented = if wanted == OLD { 0 } else { rounds };
        assert_eq!((same, refused), (rounds, as_documented), "{what}");
    }
    until("every lease is gone", async || {
        peer.call("keys", vec!["larder:lease:*".into()]).await == Vec::<Value>::new().into()
    })
    .await;
}

//! Guards, shared locks and semaphores beside redis-py's `Lock` of the same key, their record, and fenced writes.

use std::time::Duration;

use bytes::Bytes;
use larder::json::Value;
use larder::op::{Batch, Op};
use larder::store::{RedisStore, Store};
use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, Key, LockBuilder, LockGuard};

use crate::peer::{Peer, Tally, bytes_of, object};
use crate::until;

const LONG: Duration = Duration::from_secs(20);
const BRIEF: Duration = Duration::from_millis(80);

fn lost() -> Result<Value, String> {
    Err("LockNotOwnedError".to_owned())
}

/// Nobody here gets the lock of that name, whichever way.
async fn kept_out(cache: &CacheClient, name: &str, tally: &mut Tally) {
    let ways: [(&str, LockBuilder); 4] = [
        ("guard", cache.lock(name)),
        ("fair guard", cache.lock(name).fair(true)),
        ("shared lock", cache.lock(name).shared()),
        ("semaphore", cache.semaphore(name, 9)),
    ];
    for (way, lock) in ways {
        tally.same("lock", lock.try_acquire().await.unwrap().is_none().then_some(way), Some(way));
    }
    let error = cache.lock(name).acquire_within(BRIEF).await.unwrap_err();
    tally.same("lock", error.kind(), ErrorKind::LockTimeout);
}

/// redis-py does not get the lock of that key: not at once, not after a wait, not by `SET NX PX`.
async fn keeps_out(peer: &mut Peer, key: &str, tally: &mut Tally) {
    for wait in [0.0, 0.08] {
        tally.same("lock", peer.lock(key, 20.0, wait).await, false);
    }
    let options = object([("nx", true.into()), ("px", 1000.into())]);
    let set = peer.call_with("set", vec![key.into(), "mine".into()], options).await;
    tally.holds("lock", set.is_null());
}

async fn give_back(guard: LockGuard, tally: &mut Tally) {
    tally.same("lock", guard.release().await.unwrap(), true);
}

pub(crate) async fn alone(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    // Python has it, prolongs it, takes it anew, and has it still.
    tally.holds("lock", peer.lock("lock:ga", 20.0, 0.0).await);
    kept_out(cache, "ga", tally).await;
    for (by, at_least) in [(Some(100.0), 90_000), (None, 10_000)] {
        tally.same("lock", peer.prolong("lock:ga", by).await, Ok(true.into()));
        let left = peer.call("pttl", vec!["lock:ga".into()]).await.as_i64().unwrap();
        tally.holds("lock", left > at_least);
        kept_out(cache, "ga", tally).await;
    }
    tally.holds("lock", peer.owned("lock:ga").await);

    // One who waits here gets it when Python is done; then Python is kept out, and waits until the guard is.
    let wanted = cache.lock("ga");
    let (guard, unlocked) = tokio::join!(wanted.acquire_within(LONG), peer.unlock("lock:ga"));
    tally.holds("lock", unlocked.is_ok());
    let guard = guard.unwrap();
    keeps_out(peer, "lock:ga", tally).await;
    let (taken, released) = tokio::join!(peer.lock("lock:ga", 20.0, 20.0), guard.release());
    tally.same("lock", (taken, released.unwrap()), (true, true));
    tally.holds("lock", peer.unlock("lock:ga").await.is_ok());

    // Python is late: whatever it does with what was its lock, the guard has it.
    tally.holds("lock", peer.lock("lock:gb", 0.06, 0.0).await);
    let guard = cache.lock("gb").lease(LONG).acquire_within(LONG).await.unwrap();
    let id = peer.get("lock:gb").await.unwrap();
    let left = peer.call("pttl", vec!["lock:gb".into()]).await.as_i64().unwrap();
    tally.same("lock", peer.unlock("lock:gb").await, lost());
    // A lock that was released, in vain or not, is over for redis-py; one that is late is not yet.
    for by in [Some(100.0), None] {
        tally.holds("lock", peer.prolong("lock:gb", by).await.is_err());
    }
    tally.holds("lock", !peer.owned("lock:gb").await);
    tally.same("lock", peer.get("lock:gb").await, Some(id));
    let now = peer.call("pttl", vec!["lock:gb".into()]).await.as_i64().unwrap();
    tally.holds("lock", now <= left && guard.is_valid());
    give_back(guard, tally).await;
    for by in [Some(100.0), None] {
        tally.holds("lock", peer.lock("lock:gc", 0.06, 0.0).await);
        let guard = cache.lock("gc").lease(LONG).acquire_within(LONG).await.unwrap();
        tally.same("lock", peer.prolong("lock:gc", by).await, lost());
        let left = peer.call("pttl", vec!["lock:gc".into()]).await.as_i64().unwrap();
        tally.holds("lock", left <= 20_000 && guard.is_valid());
        give_back(guard, tally).await;
    }

    // A guard that Python deletes is told at its next renewal.
    let guard = cache.lock("gd").lease(Duration::from_millis(300)).acquire().await.unwrap();
    tally.same("lock", peer.call("delete", vec!["lock:gd".into()]).await, 1.into());
    tally.holds("lock", peer.lock("lock:gd", 20.0, 0.0).await);
    tally.holds("lock", tokio::time::timeout(LONG, guard.lost()).await.is_ok());
    tally.same("lock", guard.release().await.unwrap(), false);
    tally.holds("lock", peer.owned("lock:gd").await);
}

pub(crate) async fn shared(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for (name, wanted) in [("gs", cache.lock("gs").shared()), ("gt", cache.semaphore("gt", 2))] {
        let key = format!("lock:{name}");
        let one = wanted.acquire().await.unwrap();
        let two = wanted.acquire().await.unwrap();
        tally.same("lock", peer.get(&key).await, Some(Bytes::from_static(b"shared")));
        keeps_out(peer, &key, tally).await;
        give_back(one, tally).await;
        keeps_out(peer, &key, tally).await;
        let (taken, released) = tokio::join!(peer.lock(&key, 20.0, 20.0), two.release());
        tally.same("lock", (taken, released.unwrap()), (true, true));
        kept_out(cache, name, tally).await;
        let (guard, unlocked) = tokio::join!(wanted.acquire_within(LONG), peer.unlock(&key));
        tally.holds("lock", unlocked.is_ok());
        give_back(guard.unwrap(), tally).await;
        tally.same("lock", peer.get(&key).await, None);
    }
}

/// The record is what the documentation says.
pub(crate) async fn records(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for name in ["gr", "{gr}:1", "g}r"] {
        let key = format!("lock:{name}");
        let beside = peer.beside("lock", &[key.clone().into_bytes()]).await.remove(0);
        let record = std::str::from_utf8(&beside).unwrap().to_owned();
        let fields = async |peer: &mut Peer| {
            let all = peer.call("hgetall", vec![record.clone().into()]).await;
            let mut fields: Vec<(Bytes, Bytes)> = all
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| {
                    let pair = pair.as_array().unwrap();
                    (bytes_of(&pair[0]).unwrap(), bytes_of(&pair[1]).unwrap())
                })
                .collect();
            fields.sort();
            fields
        };
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let guard = cache.lock(name).owner("host-1").acquire().await.unwrap();
        let id = peer.get(&key).await.unwrap();
        let token = guard.fencing_token().unwrap().to_string();
        let expected = vec![
            (text("id"), id.clone()),
            (text("owner"), text("host-1")),
            (text("token"), text(&token)),
        ];
        tally.same("lock", fields(peer).await, expected);
        give_back(guard, tally).await;
        tally.same("lock", fields(peer).await.len(), 3);

        let lease = Duration::from_secs(60);
        let one = cache.lock(name).shared().lease(lease).acquire().await.unwrap();
        let now = peer.call("time", vec![]).await;
        let now: Vec<u64> = now.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let now = now[0] * 1000 + now[1] / 1000;
        let shares: Vec<_> =
            fields(peer).await.into_iter().filter(|(field, _)| field.starts_with(b"r:")).collect();
        tally.same("lock", shares.len(), 1);
        let ends: u64 = std::str::from_utf8(&shares[0].1).unwrap().parse().unwrap();
        tally.holds("lock", ends > now + 30_000 && ends <= now + 60_000);

        let writer = cache.lock(name);
        let waiting = tokio::spawn(async move { writer.acquire_within(LONG).await });
        let mut place = None;
        until("one who waits has a place", async || {
            let found = fields(peer).await;
            place = found.into_iter().find(|(field, _)| field.starts_with(b"q:"));
            place.is_some()
        })
        .await;
        let place = place.unwrap().1;
        let place: Vec<u64> = std::str::from_utf8(&place)
            .unwrap()
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        tally.holds("lock", place[0] >= now * 1000 && place[1] > now && place.len() == 2);
        give_back(one, tally).await;
        give_back(waiting.await.unwrap().unwrap(), tally).await;
    }
}

/// Both languages fence with the same mark, and void the same lease.
pub(crate) async fn fenced(server: &RedisServer, peer: &mut Peer, tally: &mut Tally) {
    let store = RedisStore::open(&server.url()).unwrap();
    for name in ["fenced:a", "{fenced}:b", "fenced}c"] {
        let key = Key::new(name).unwrap();
        let ours = async |value: &str, token: u64| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            let op = Op::FencedSet { key: key.clone(), value, expiry: None, token };
            let replies = store.run(Batch::one("fenced_set", op)).await.unwrap();
            replies.into_one().unwrap().into_bool().unwrap()
        };
        let theirs = async |peer: &mut Peer, value: &str, token: u64, ex: Option<u64>| {
            let args = vec![name.into(), value.into(), token.into(), ex.into()];
            peer.recipe("fenced_set", args).await == true.into()
        };
        let lease = peer.beside("lease", &[name.into()]).await.remove(0);
        let lease = std::str::from_utf8(&lease).unwrap().to_owned();
        let mark = peer.beside("fenced", &[name.into()]).await.remove(0);
        let mark = std::str::from_utf8(&mark).unwrap().to_owned();
        let big = (1 << 53) + 1;
        for (by_python, token, written) in [
            (true, 9, true),
            (false, 8, false),
            (false, 9, true),
            (false, 10, true),
            (true, 9, false),
            (true, 10, true),
            (false, big, true),
            (true, big - 1, false),
            (true, big, true),
            (false, big - 1, false),
            (true, u64::MAX, true),
            (false, u64::MAX - 1, false),
            (false, u64::MAX, true),
        ] {
            peer.call("set", vec![lease.clone().into(), "loader".into()]).await;
            let text = format!("{by_python} {token}");
            let done = match by_python {
                true => theirs(peer, &text, token, None).await,
                false => ours(&text, token).await,
            };
            tally.same("fenced_set", (token, done), (token, written));
            let stands = peer.get(name).await == Some(text.into());
            tally.same("fenced_set", (token, stands), (token, written));
            tally.same("fenced_set", peer.get(&lease).await.is_none(), written);
        }
        tally.same("fenced_set", peer.get(&mark).await, Some(u64::MAX.to_string().into()));
        for (ex, kept) in [(60, 86_400), (200_000, 200_000)] {
            tally.holds("fenced_set", theirs(peer, "v", u64::MAX, Some(ex)).await);
            for (key, given) in [(name, ex as i64), (&mark[..], kept)] {
                let left = peer.call("ttl", vec![key.into()]).await.as_i64().unwrap();
                tally.holds("fenced_set", left <= given && left > given - 30);
            }
        }
    }
}

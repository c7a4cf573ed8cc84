//! One lock for both languages.

use std::time::Duration;

use larder::json::Value;
use larder::{CacheClient, ErrorKind, LockId, LockOptions};

use crate::peer::{Peer, Tally, bytes_of, object};

fn waiting(timeout: Duration) -> LockOptions {
    LockOptions { timeout, retry_interval: Duration::from_millis(10), ..LockOptions::default() }
}

const NO_WAIT: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(20);

pub(crate) async fn both_ways(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    // Python holds it: larder is refused, at once and after a wait.
    tally.holds("acquire_lock", peer.lock("lock:a", 20.0, 0.0).await);
    for timeout in [NO_WAIT, Duration::from_millis(80)] {
        let error = cache.acquire_lock("lock:a", waiting(timeout)).await.unwrap_err();
        tally.same("acquire_lock", error.kind(), ErrorKind::LockTimeout);
    }
    // Nobody but the holder releases it.
    let stranger: LockId = "0123456789abcdef0123456789abcdef".parse().unwrap();
    tally.same("release_lock", cache.release_lock("lock:a", &stranger).await.unwrap(), false);
    tally.holds("release_lock", peer.owned("lock:a").await);
    // Python's token, as text, releases it from here: redis-py writes 32 hex digits as well.
    let token = peer.get("lock:a").await.unwrap();
    let token: LockId = std::str::from_utf8(&token).unwrap().parse().unwrap();
    tally.same("release_lock", cache.release_lock("lock:a", &token).await.unwrap(), true);
    tally.holds("release_lock", !peer.owned("lock:a").await);
    tally.same("release_lock", peer.unlock("lock:a").await, Err("LockNotOwnedError".to_owned()));

    // Larder holds it: Python is refused, by its lock and by SET NX PX.
    let id = cache.acquire_lock("lock:a", waiting(NO_WAIT)).await.unwrap();
    tally.same("acquire_lock", peer.lock("lock:a", 20.0, 0.0).await, false);
    tally.same("acquire_lock", peer.lock("lock:a", 20.0, 0.08).await, false);
    let args = vec!["lock:a".into(), "mine".into()];
    let options = object([("nx", true.into()), ("px", 1000.into())]);
    tally.holds("acquire_lock", peer.call_with("set", args, options).await.is_null());
    // It is a plain string, a UUID of version 7, with the lease as its expiry.
    tally.same("acquire_lock", peer.get("lock:a").await.unwrap(), id.as_str().to_owned().into());
    tally.same("acquire_lock", &id.as_str()[12..13], "7");
    let left = peer.call("pttl", vec!["lock:a".into()]).await.as_i64().unwrap();
    tally.holds("acquire_lock", (1..=10_000).contains(&left));
    // Python releases it by its token, as docs/interop.md has it, and takes it so.
    let unlock = |id: &str| vec!["a".into(), id.into()];
    let recipe = peer.recipe("unlock", unlock(stranger.as_str())).await;
    tally.same("release_lock", recipe, false.into());
    tally.same(
        "acquire_lock",
        peer.recipe("try_lock", vec!["a".into(), 1.into()]).await,
        Value::Null,
    );
    tally.same("release_lock", peer.recipe("unlock", unlock(id.as_str())).await, true.into());
    tally.same("release_lock", cache.release_lock("lock:a", &id).await.unwrap(), false);
    let id = peer.recipe("try_lock", vec!["a".into(), 20_000.into()]).await;
    let error = cache.acquire_lock("lock:a", waiting(NO_WAIT)).await.unwrap_err();
    tally.same("acquire_lock", error.kind(), ErrorKind::LockTimeout);
    let id: LockId = id.as_str().unwrap().parse().unwrap();
    tally.same("release_lock", cache.release_lock("lock:a", &id).await.unwrap(), true);

    // A waiter here gets it when Python is done, and the other way round.
    tally.holds("acquire_lock", peer.lock("lock:b", 20.0, 0.0).await);
    let (id, unlocked) =
        tokio::join!(cache.acquire_lock("lock:b", waiting(LONG)), peer.unlock("lock:b"));
    tally.holds("acquire_lock", unlocked.is_ok());
    let id = id.unwrap();
    let (taken, released) =
        tokio::join!(peer.lock("lock:b", 20.0, 20.0), cache.release_lock("lock:b", &id));
    tally.same("release_lock", (taken, released.unwrap()), (true, true));
    tally.holds("release_lock", peer.owned("lock:b").await);

    // A lease that is over is free for the other side, whose lock the late release leaves alone.
    let brief = LockOptions { expire: Duration::from_millis(60), ..waiting(NO_WAIT) };
    let id = cache.acquire_lock("lock:c", brief).await.unwrap();
    tally.holds("acquire_lock", peer.lock("lock:c", 20.0, 20.0).await);
    tally.same("release_lock", cache.release_lock("lock:c", &id).await.unwrap(), false);
    tally.holds("release_lock", peer.owned("lock:c").await);
    tally.holds("acquire_lock", peer.lock("lock:d", 0.06, 0.0).await);
    let id = cache.acquire_lock("lock:d", waiting(LONG)).await.unwrap();
    tally.same("release_lock", peer.unlock("lock:d").await, Err("LockNotOwnedError".to_owned()));
    let found = peer.call("get", vec!["lock:d".into()]).await;
    tally.same("release_lock", bytes_of(&found).unwrap(), id.as_str().to_owned().into());
}

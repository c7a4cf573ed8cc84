//! The cache client: typed methods that build operations and decode replies.

use std::fmt;
use std::sync::Arc;

use crate::codec::JsonLimit;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::lock::Locks;
use crate::op::{Batch, Op, Reply};
use crate::stats::{Recorder, Stats};
use crate::store::redis::{RedisStore, Session, SessionProvider, no_session};
use crate::store::{Breaker, Capabilities, Store, Wakeups};

use self::coherence::Coherence;

mod builder;
mod coherence;
mod fencing;
mod group;
mod hashes;
mod json;
mod lists;
mod load;
mod lock_list;
mod locks;
mod quorum;
mod scan;
mod values;

pub use builder::{Builder, DEADLINE};
pub use group::Group;
use load::Bounds;
pub(crate) use load::{Detached, Family, ManyLoader, Nowhere, ReadPath, Seen, into_loaded};
pub use load::{Given, IntoLoaded, LoadOptions, Loaded, Loader, ReadFrom};
pub use lock_list::HeldLock;

/// A cache client. Cloning it is cheap, and the clones share connections and statistics.
///
/// Every call is one round trip unless its docs say otherwise, and ends within the client's deadline
/// (one second by default), whatever happens; [`acquire_lock`](Self::acquire_lock) waits as long as it is
/// told, and has a deadline for each try. Errors name the operation and the key, and say whether
/// the call may have been applied: [`Error::outcome`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use std::time::Duration;
/// use larder::CacheClient;
///
/// let cache = CacheClient::memory(); // or: CacheClient::connect("redis://127.0.0.1").await?
/// cache.set_value("greeting", "hello", Duration::from_secs(60)).await?;
/// assert_eq!(cache.get_value("greeting").await?.as_deref(), Some("hello"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CacheClient(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    redis: Option<RedisStore>,
    recorder: Arc<Recorder>,
    path: Arc<ReadPath>,
    locks: Arc<Locks>,
    // Finds the client that this one stands for, if it was handed out before there was one.
    stands_for: Option<fn() -> Result<CacheClient>>,
}

impl CacheClient {
    /// A client over an embedded store in this process: no server, the same behaviour. It holds at
    /// most 64 MiB; [`Builder::max_bytes`] changes that.
    pub fn memory() -> Self {
        Self::builder().store(crate::store::MemoryStore::new()).assemble()
    }

    /// A client over the store that `url` names, connected: an unreachable server or wrong
    /// credentials are an error here. See `docs/configuration.md` for URLs.
    ///
    /// # Errors
    /// A URL with mistakes, all of them named; what the first `PING` gives.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::builder().url(url.as_ref()).connect().await
    }

    /// A client over sessions that `provider` hands out.
    pub fn new(provider: impl SessionProvider) -> Self {
        Self::builder().provider(provider).assemble()
    }

    /// A client that stands for another, which `find` knows at the time of a call. `store` looks for
    /// it too.
    pub(crate) fn late(store: impl Store, find: fn() -> Result<CacheClient>) -> Self {
        let recorder = Arc::new(Recorder::new(crate::stats::MAX_NAMESPACES));
        let store: Arc<dyn Store> = Arc::new(store);
        // Never read through: that is done by the client that it stands for.
        let wakeups = Arc::new(Wakeups::default());
        let path = ReadPath::new(
            Arc::clone(&store),
            Arc::clone(&store),
            Arc::new(Coherence::new(0, None)),
            Arc::new(Breaker::new(false, None, recorder.breaker())),
            Arc::clone(&wakeups),
            Arc::clone(&recorder),
            Bounds { max_loads: 0, json: JsonLimit::default() },
        );
        let path = Arc::new(path);
        let locks = Arc::new(Locks::new(Arc::clone(&store), wakeups, recorder.locks()));
        let stands_for = Some(find);
        Self(Arc::new(Inner { store, redis: None, recorder, path, locks, stands_for }))
    }

    /// The client that this one stands for: itself, unless it is a [`late`](Self::late) one that
    /// has found it.
    pub(crate) fn settled(&self) -> Result<CacheClient> {
        self.0.stands_for.map_or_else(|| Ok(self.clone()), |find| find())
    }

    /// A client with settings of your own.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Asks the server whether it answers.
    ///
    /// # Errors
    /// As every call: see [`ErrorKind`](crate::ErrorKind).
    pub async fn ping(&self) -> Result<()> {
        self.one("ping", Op::Ping).await?.into_done()
    }

    /// What this client and its clones did so far. Costs no round trip.
    pub fn stats(&self) -> Stats {
        let client = self.settled().unwrap_or_else(|_| self.clone());
        let mut stats = client.0.recorder.snapshot();
        (stats.near_entries, stats.near_bytes) = client.0.path.near_usage();
        stats
    }

    /// What the store can do.
    pub fn capabilities(&self) -> Capabilities {
        self.0.store.capabilities()
    }

    /// A session of the driver, for what larder does not offer: see [`redis1`](crate::redis1).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) on the embedded store; what connecting
    /// or the session provider gives.
    pub async fn session(&self) -> Result<Session> {
        let client = self.settled().map_err(|error| error.with_op("session"))?;
        match &client.0.redis {
            Some(redis) => redis.session().await.map_err(|error| error.with_op("session")),
            None => Err(no_session().with_op("session")),
        }
    }

    /// Waits for the calls in flight, for at most the deadline of the client, and lets go of the
    /// connections. Later calls on this client and its clones fail with
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed).
    pub async fn close(&self) {
        self.0.store.close().await;
    }

    /// Runs one operation. `name` is the method, for errors.
    pub(crate) async fn one(&self, name: &'static str, op: Op) -> Result<Reply> {
        self.run_one(Batch::one(name, op)).await
    }

    /// Runs a batch of one operation.
    pub(crate) async fn run_one(&self, batch: Batch) -> Result<Reply> {
        self.0.store.run(batch).await?.into_one()
    }

    /// Runs one operation and decodes its reply; a reply that cannot be decoded is an error that names
    /// the operation and the key, and counts as one.
    pub(crate) async fn decoded<T>(
        &self,
        batch: Batch,
        decode: impl FnOnce(Reply) -> Result<T>,
    ) -> Result<T> {
        let kept = batch.clone();
        let reply = self.run_one(batch).await?;
        decode(reply).map_err(|error| self.undecodable(&kept, error))
    }

    /// Counts an undecodable reply, and names its operation and key.
    pub(crate) fn undecodable(&self, batch: &Batch, error: Error) -> Error {
        let error = match batch.sole_key() {
            Some(key) => error.with_key(key),
            None => error,
        };
        if let Ok(client) = self.settled() {
            client.0.recorder.undecodable(batch, error.key());
        }
        error.with_op(batch.name())
    }

    /// The largest document that it writes and decodes.
    pub(crate) fn json_limit(&self) -> JsonLimit {
        // Without a client to stand for, a call fails whatever its limit is.
        self.settled().map(|client| client.path().json_limit()).unwrap_or_default()
    }

    /// What its reads share. Of a [`settled`](Self::settled) client.
    pub(crate) fn path(&self) -> &Arc<ReadPath> {
        &self.0.path
    }

    /// Whether it is itself the client that it stands for.
    pub(crate) fn is_settled(&self) -> bool {
        self.0.stands_for.is_none()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }
}

impl fmt::Debug for CacheClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple("CacheClient");
        match &self.0.redis {
            Some(redis) => out.field(redis),
            None => out.field(&self.capabilities()),
        };
        out.finish()
    }
}

/// A checked key, or an error that names the operation.
fn key(name: &'static str, key: impl AsRef<[u8]>) -> Result<Key> {
    Key::new(key).map_err(|error| error.with_op(name))
}

/// Checked keys.
fn keys(name: &'static str, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Vec<Key>> {
    keys.into_iter().map(|one| key(name, one)).collect()
}

/// A count that a store gave.
fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hundreds of calls are in flight at once, and what they hold has to fit the caches of a core: a third more of it
    /// cost a fifth of the rate at 512 tasks. The driver's own future is about 1,130 bytes of the second.
    #[test]
    fn a_call_in_flight_holds_little_memory() {
        let client = CacheClient::builder().url("redis://127.0.0.1:1").build().unwrap();
        let (layers, bottom) = (client.store(), client.0.redis.as_ref().unwrap());
        let ping = || Batch::one("ping", Op::Ping);
        let held = [size_of_val(&*layers.run(ping())), size_of_val(&*bottom.run(ping()))];
        assert!(held[0] <= 496 && held[1] <= 1600, "{held:?}");
        assert!(size_of_val(&client.get_value("key")) <= 280);
    }
}

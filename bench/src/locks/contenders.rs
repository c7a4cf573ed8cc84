//! Who locks: each as its documentation recommends, with a lease of ten seconds and patience without an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{CacheClient, LockBuilder, LockGuard};
use redis::Script;
use redis::aio::MultiplexedConnection;
use rslock::LockManager;

use crate::Result;

/// The contenders that are compiled in, by name.
pub(super) const ALL: [(&str, Kind); 4] = [
    (super::LARDER, Kind::Larder { fair: false }),
    ("larder, fair", Kind::Larder { fair: true }),
    (super::POLL, Kind::Poll),
    ("rslock", Kind::Rslock),
];

const LEASE: Duration = Duration::from_secs(10);

/// Longer than any run.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The pause of the classic design.
const POLL: Duration = Duration::from_millis(100);

/// The names of the locks; each contender has one of its own.
const NAME: &str = "bench";
const FAIR: &str = "bench-fair";
const POLLED: &str = "poll";

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Larder { fair: bool },
    Poll,
    Rslock,
}

/// One contender's client, shared by the tasks of a process.
#[derive(Clone)]
pub(super) enum Contender {
    Larder(LockBuilder),
    Poll(Poll),
    Rslock(LockManager),
}

/// A lock that is held.
pub(super) enum Held {
    Larder(LockGuard),
    Poll(String),
    Rslock(rslock::LockGuard),
}

impl Kind {
    pub(super) async fn connect(self, url: &str) -> Result<Contender> {
        Ok(match self {
            Self::Larder { fair } => {
                let cache = CacheClient::connect(url).await?;
                let name = if fair { FAIR } else { NAME };
                Contender::Larder(cache.lock(name).lease(LEASE).wait(PATIENCE).fair(fair))
            }
            Self::Poll => Contender::Poll(Poll::connect(url).await?),
            Self::Rslock => Contender::Rslock(LockManager::new(vec![url])),
        })
    }
}

impl Contender {
    pub(super) async fn take(&self) -> Result<Held> {
        Ok(match self {
            Self::Larder(lock) => Held::Larder(lock.acquire().await?),
            Self::Poll(poll) => Held::Poll(poll.take().await?),
            Self::Rslock(manager) => Held::Rslock(manager.acquire(NAME, LEASE).await?),
        })
    }

    /// Fails if the lock was not held any more, of who can tell.
    pub(super) async fn give(&self, held: Held) -> Result<()> {
        let was_held = match (self, held) {
            (_, Held::Larder(guard)) => guard.release().await?,
            (Self::Poll(poll), Held::Poll(token)) => poll.give(&token).await?,
            (_, Held::Rslock(guard)) => {
                guard.release().await;
                true
            }
            (_, Held::Poll(_)) => return Err("a lock of another contender".into()),
        };
        if was_held { Ok(()) } else { Err("a lock was lost within its lease".into()) }
    }
}

/// `SET NX PX` until it says yes, and a release that compares first.
#[derive(Clone)]
pub(super) struct Poll {
    connection: MultiplexedConnection,
    release: Arc<Script>,
    count: Arc<AtomicU64>,
}

impl Poll {
    async fn connect(url: &str) -> Result<Self> {
        let client = redis::Client::open(url)?;
        let release = Script::new(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
        );
        Ok(Self {
            connection: client.get_multiplexed_async_connection().await?,
            release: Arc::new(release),
            count: Arc::default(),
        })
    }

    async fn take(&self) -> Result<String> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let token = format!("{}-{number}", std::process::id());
        let mut set = redis::cmd("SET");
        set.arg(POLLED).arg(&token).arg("NX").arg("PX").arg(LEASE.as_millis() as u64);
        let mut connection = self.connection.clone();
        loop {
            if set.query_async::<Option<String>>(&mut connection).await?.is_some() {
                return Ok(token);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn give(&self, token: &str) -> Result<bool> {
        let mut connection = self.connection.clone();
        let gone: u64 = self.release.key(POLLED).arg(token).invoke_async(&mut connection).await?;
        Ok(gone == 1)
    }
}

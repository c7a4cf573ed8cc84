//! Who loads: each as its documentation recommends for a key that many want.

use std::io::Error as IoError;
use std::sync::{Arc, OnceLock};

use cached::AsyncRedisCache;
use cached::macros::{cached, concurrent_cached};
use cached::prelude::*;
use larder::{CacheClient, Namespace};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::{KEY, LIFE, LOAD, LOADS};
use crate::Result;

/// The contenders, by name.
pub(super) const ALL: [(&str, Kind); 4] = [
    ("larder, get_or_load", Kind::Larder),
    ("moka, try_get_with", Kind::Moka),
    ("cached, sync_writes = \"by_key\"", Kind::Cached),
    ("cached, redis = true", Kind::CachedRedis),
];

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Larder,
    Moka,
    Cached,
    CachedRedis,
}

#[derive(Clone)]
pub(super) enum Peer {
    Larder(Arc<Namespace<str, u64>>),
    Moka(moka::future::Cache<String, u64>),
    Cached,
    CachedRedis,
}

impl Kind {
    pub(super) async fn connect(self, url: &str) -> Result<Peer> {
        Ok(match self {
            Self::Larder => {
                let cache = CacheClient::connect(url).await?;
                Peer::Larder(Arc::new(cache.namespace("bench").ttl(LIFE).build()?))
            }
            Self::Moka => Peer::Moka(
                moka::future::Cache::builder().max_capacity(100).time_to_live(LIFE).build(),
            ),
            Self::Cached => Peer::Cached,
            Self::CachedRedis => Peer::CachedRedis,
        })
    }
}

impl Peer {
    pub(super) async fn read(&self) -> Result<u64> {
        Ok(match self {
            Self::Larder(values) => *values.get_or_load(KEY, load).await?,
            Self::Moka(cache) => cache
                .try_get_with(KEY.to_owned(), load())
                .await
                .map_err(|error| error.to_string())?,
            Self::Cached => remembered(KEY.to_owned()).await?,
            Self::CachedRedis => shared(KEY.to_owned()).await?,
        })
    }

    /// Forgets what this process keeps by itself.
    pub(super) async fn forget(&self) {
        match self {
            Self::Moka(cache) => cache.invalidate(KEY).await,
            Self::Cached => _ = REMEMBERED.write().await.cache_remove(KEY),
            // What these keep is on the server.
            Self::Larder(_) | Self::CachedRedis => {}
        }
    }
}

struct Origin {
    url: String,
    connection: MultiplexedConnection,
}

/// The functions of `cached` take nothing but their key, so that what they need is the process' own.
static ORIGIN: OnceLock<Origin> = OnceLock::new();

pub(super) async fn connect_origin(url: &str) -> Result<()> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(url)?;
    let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let origin = Origin { url: url.to_owned(), connection };
    ORIGIN.set(origin).map_err(|_| "the origin was connected before")?;
    Ok(())
}

/// The slow origin: counts how often it is asked.
async fn load() -> std::result::Result<u64, IoError> {
    let origin = ORIGIN.get().ok_or_else(|| IoError::other("no origin"))?;
    let loads: u64 = origin.connection.clone().incr(LOADS, 1).await.map_err(IoError::other)?;
    tokio::time::sleep(LOAD).await;
    Ok(loads)
}

#[cached(max_size = 100, ttl_secs = 600, sync_writes = "by_key")]
async fn remembered(key: String) -> std::result::Result<u64, String> {
    let _ = key;
    load().await.map_err(|error| error.to_string())
}

#[concurrent_cached(
    map_error = r##"|error| format!("{error:?}")"##,
    ty = "AsyncRedisCache<String, u64>",
    create = r##"{ store().await }"##
)]
async fn shared(key: String) -> std::result::Result<u64, String> {
    let _ = key;
    load().await.map_err(|error| error.to_string())
}

async fn store() -> AsyncRedisCache<String, u64> {
    let url = ORIGIN.get().map_or("", |origin| &origin.url);
    let builder = AsyncRedisCache::builder("bench").ttl(LIFE).connection_string(url);
    builder.build().await.expect("the server of the run is there")
}

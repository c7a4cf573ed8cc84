//! The near caches that are looked at: one client of a process, as several tasks share it.

use std::sync::Arc;

use larder::testing::RedisServer;
use larder::{CacheClient, Namespace};
use redis::AsyncCommands;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::caching::CacheConfig;
use rustis::cache::Cache;
use rustis::client::Client;
use rustis::commands::ClientTrackingOptions;

use crate::Result;

/// The namespace of the versions. The key of version 7 is `v:7`.
const NAME: &str = "v";

pub(super) fn name(key: u64) -> String {
    format!("{NAME}:{key}")
}

/// A near cache over the connections to a URL.
pub(super) trait Subject: Clone + Send + Sync + 'static {
    /// As the tables call it.
    const NAME: &'static str;

    fn connect(url: &str) -> impl Future<Output = Result<Self>> + Send;

    /// The version that a key has.
    fn read(&self, key: u64) -> impl Future<Output = Result<Option<u64>>> + Send;

    /// How many of so many reads were answered in the process.
    fn hits(&self, reads: u64, server: &RedisServer) -> impl Future<Output = Result<u64>> + Send;
}

/// larder's namespace with its near cache on.
#[derive(Clone)]
pub(super) struct Larder(CacheClient, Namespace<u64, u64>);

impl Subject for Larder {
    const NAME: &'static str = "larder";

    async fn connect(url: &str) -> Result<Self> {
        let cache = CacheClient::connect(url).await?;
        let values = cache.namespace(NAME).near(true).build()?;
        Ok(Self(cache, values))
    }

    async fn read(&self, key: u64) -> Result<Option<u64>> {
        Ok(self.1.get(&key).await?.as_deref().copied())
    }

    async fn hits(&self, _reads: u64, _server: &RedisServer) -> Result<u64> {
        Ok(self.0.stats().reads[NAME].near_hits)
    }
}

/// `redis` with its feature `cache-aio`, over the connection that connects again.
#[derive(Clone)]
pub(super) struct Driver(ConnectionManager);

impl Subject for Driver {
    const NAME: &'static str = "redis, cache-aio";

    async fn connect(url: &str) -> Result<Self> {
        let config = ConnectionManagerConfig::new().set_cache_config(CacheConfig::new());
        let client = redis::Client::open(format!("{url}?protocol=resp3"))?;
        Ok(Self(client.get_connection_manager_with_config(config).await?))
    }

    async fn read(&self, key: u64) -> Result<Option<u64>> {
        Ok(self.0.clone().get(name(key)).await?)
    }

    async fn hits(&self, reads: u64, server: &RedisServer) -> Result<u64> {
        without_get(reads, server).await
    }
}

/// `rustis` with its feature `client-cache`.
#[derive(Clone)]
pub(super) struct Rustis(Arc<Cache>);

impl Subject for Rustis {
    const NAME: &'static str = "rustis, Cache";

    async fn connect(url: &str) -> Result<Self> {
        let client = Client::connect(url).await?;
        Ok(Self(Cache::new(client, 1800, ClientTrackingOptions::default()).await?))
    }

    async fn read(&self, key: u64) -> Result<Option<u64>> {
        Ok(self.0.get(name(key)).await?)
    }

    async fn hits(&self, reads: u64, server: &RedisServer) -> Result<u64> {
        without_get(reads, server).await
    }
}

/// The reads for which the server executed no `GET`: only the subject sends any.
async fn without_get(reads: u64, server: &RedisServer) -> Result<u64> {
    let stats = server.info("cmdstat_get").await;
    let calls = stats.split(',').find_map(|part| part.strip_prefix("calls="));
    let calls: u64 = calls.ok_or("the server does not count commands")?.parse()?;
    Ok(reads.saturating_sub(calls))
}

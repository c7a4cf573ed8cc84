//! Client-side caching of the drivers: they keep answers of the server, which are decoded at each hit.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use larder::testing::RedisServer;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::caching::CacheConfig;
use rustis::cache::{Cache, MokaStore};
use rustis::client::Client;
use rustis::commands::ClientTrackingOptions;

use super::in_process::build;
use super::{CAPACITY, Near};
use crate::Result;
use crate::data::Profile;

/// As long as a run may take: nothing expires in it.
const LIFE: Duration = Duration::from_secs(3600);

/// `redis` with its feature `cache-aio`: a multiplexed connection of each task's own, over one cache.
#[derive(Clone)]
pub(super) struct Driver(MultiplexedConnection);

impl Driver {
    pub(super) async fn connect(server: &RedisServer) -> Result<Self> {
        let size = NonZeroUsize::new(CAPACITY as usize).ok_or("no room")?;
        let cache = CacheConfig::new().set_size(size).set_default_client_ttl(LIFE);
        let config = redis::AsyncConnectionConfig::new().set_cache_config(cache);
        let client = redis::Client::open(format!("{}?protocol=resp3", server.url()))?;
        Ok(Self(client.get_multiplexed_async_connection_with_config(&config).await?))
    }
}

impl Near for Driver {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        let text: String = self.0.get(key.as_str()).await?;
        Ok(serde_json::from_str::<Profile>(&text)?.id())
    }
}

/// `rustis` with its feature `client-cache`.
#[derive(Clone)]
pub(super) struct Rustis(Arc<Cache>);

impl Rustis {
    pub(super) async fn connect(server: &RedisServer) -> Result<Self> {
        let client = Client::connect(server.url()).await?;
        let store = MokaStore::new(LIFE, CAPACITY);
        Ok(Self(Cache::with_store(client, store, ClientTrackingOptions::default()).await?))
    }
}

impl Near for Rustis {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        let text: String = self.0.get(key.as_str()).await?;
        Ok(serde_json::from_str::<Profile>(&text)?.id())
    }
}

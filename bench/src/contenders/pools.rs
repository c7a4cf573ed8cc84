//! Pools of `redis` connections: one connection for each call, given back after it.

use bb8_redis::{RedisConnectionManager, bb8};
use deadpool_redis::{Config, Pool, PoolConfig, Runtime, Timeouts};
use redis::AsyncCommands;

use super::driver::gets;
use super::{Contender, POOL, TIMEOUT};
use crate::Result;

pub(super) fn deadpool(url: &str) -> Result<Pool> {
    let mut pool = PoolConfig::new(POOL);
    pool.timeouts = Timeouts { wait: Some(TIMEOUT), ..Timeouts::default() };
    let mut config = Config::from_url(url);
    config.pool = Some(pool);
    Ok(config.create_pool(Some(Runtime::Tokio1))?)
}

pub(super) async fn bb8(url: &str) -> Result<bb8::Pool<RedisConnectionManager>> {
    let manager = RedisConnectionManager::new(url)?;
    let builder = bb8::Pool::builder().max_size(POOL as u32).connection_timeout(TIMEOUT);
    Ok(builder.build(manager).await?)
}

/// Both pools hand out what derefs to a connection: the same calls.
macro_rules! contender {
    ($pool:ty) => {
        impl Contender for $pool {
            async fn get(&self, key: &str) -> Result<Option<String>> {
                Ok(self.get().await?.get(key).await?)
            }

            async fn set(&self, key: &str, value: &str) -> Result<()> {
                Ok(self.get().await?.set(key, value).await?)
            }

            async fn pipeline_get(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
                Ok(gets(keys).query_async(&mut *self.get().await?).await?)
            }

            async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
                Ok(self.get().await?.mget(keys).await?)
            }

            async fn set_many(&self, pairs: &[(String, String)]) -> Result<()> {
                Ok(self.get().await?.mset(pairs).await?)
            }
        }
    };
}

contender!(Pool);
contender!(bb8::Pool<RedisConnectionManager>);

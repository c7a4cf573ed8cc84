//! `redis`, bare: its multiplexed connection and its connection manager, with their default timeouts.

use redis::aio::{ConnectionLike, ConnectionManager, MultiplexedConnection};
use redis::{AsyncCommands, IntoConnectionInfo, pipe};

use super::Contender;
use crate::Result;

/// A connection that is cloned for each call, as its docs say.
#[derive(Clone)]
pub(super) struct Driver<C>(C);

pub(super) async fn multiplexed(url: &str, nodelay: bool) -> Result<Driver<MultiplexedConnection>> {
    let info = url.into_connection_info()?;
    let tcp = info.tcp_settings().clone().set_nodelay(nodelay);
    let client = redis::Client::open(info.set_tcp_settings(tcp))?;
    Ok(Driver(client.get_multiplexed_async_connection().await?))
}

pub(super) async fn manager(url: &str) -> Result<Driver<ConnectionManager>> {
    Ok(Driver(redis::Client::open(url)?.get_connection_manager().await?))
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Contender for Driver<C> {
    async fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(self.0.clone().get(key).await?)
    }

    async fn set(&self, key: &str, value: &str) -> Result<()> {
        Ok(self.0.clone().set(key, value).await?)
    }

    async fn pipeline_get(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        Ok(gets(keys).query_async(&mut self.0.clone()).await?)
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        Ok(self.0.clone().mget(keys).await?)
    }

    async fn set_many(&self, pairs: &[(String, String)]) -> Result<()> {
        Ok(self.0.clone().mset(pairs).await?)
    }
}

pub(super) fn gets(keys: &[String]) -> redis::Pipeline {
    let mut pipeline = pipe();
    for key in keys {
        pipeline.get(key);
    }
    pipeline
}

//! `fred`: one client, `TCP_NODELAY`, a command timeout.

use fred::prelude::{Builder, Client, ClientLike, Config, KeysInterface, TcpConfig};

use super::{Contender, TIMEOUT};
use crate::Result;

pub(super) async fn connect(url: &str) -> Result<Client> {
    let client = Builder::from_config(Config::from_url(url)?)
        .with_connection_config(|config| {
            config.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
        })
        .with_performance_config(|config| config.default_command_timeout = TIMEOUT)
        .build()?;
    client.init().await?;
    Ok(client)
}

impl Contender for Client {
    async fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(KeysInterface::get(self, key).await?)
    }

    async fn set(&self, key: &str, value: &str) -> Result<()> {
        Ok(KeysInterface::set(self, key, value, None, None, false).await?)
    }

    async fn pipeline_get(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let pipeline = self.pipeline();
        for key in keys {
            let () = pipeline.get(key).await?;
        }
        Ok(pipeline.all().await?)
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        Ok(self.mget(keys.to_vec()).await?)
    }

    async fn set_many(&self, pairs: &[(String, String)]) -> Result<()> {
        Ok(self.mset(pairs.to_vec()).await?)
    }
}

//! `rustis`: one multiplexed client, `TCP_NODELAY` (its default), a command timeout.

use rustis::client::{BatchPreparedCommand, Client, Config};
use rustis::commands::StringCommands;

use super::{Contender, TIMEOUT};
use crate::Result;

pub(super) async fn connect(url: &str) -> Result<Client> {
    let mut config: Config = url.parse()?;
    config.command_timeout = TIMEOUT;
    config.no_delay = true;
    Ok(Client::connect(config).await?)
}

impl Contender for Client {
    async fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(StringCommands::get(self, key).await?)
    }

    async fn set(&self, key: &str, value: &str) -> Result<()> {
        Ok(StringCommands::set(self, key, value).await?)
    }

    async fn pipeline_get(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let mut pipeline = self.create_pipeline();
        for key in keys {
            pipeline.get::<()>(key).queue();
        }
        Ok(pipeline.execute().await?)
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        Ok(self.mget(keys).await?)
    }

    async fn set_many(&self, pairs: &[(String, String)]) -> Result<()> {
        Ok(self.mset(pairs).await?)
    }
}

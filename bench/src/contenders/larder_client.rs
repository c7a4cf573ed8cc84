//! `larder` as `connect` makes it: two connections, a deadline of one second, statistics.

use larder::CacheClient;
use larder::op::Reply;

use super::Contender;
use crate::Result;
use crate::data::Profile;

pub(super) async fn connect(url: &str) -> Result<CacheClient> {
    Ok(CacheClient::connect(url).await?)
}

impl Contender for CacheClient {
    async fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(self.get_value(key).await?)
    }

    async fn set(&self, key: &str, value: &str) -> Result<()> {
        Ok(self.set_value(key, value, None).await?)
    }

    async fn pipeline_get(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let group = keys.iter().fold(self.pipeline(), |group, key| group.get_value(key));
        let replies = group.run().await?.into_iter();
        replies.map(|reply| text(reply?)).collect()
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        Ok(CacheClient::get_many(self, keys).await?)
    }

    async fn set_many(&self, pairs: &[(String, String)]) -> Result<()> {
        let pairs = pairs.iter().map(|(key, value)| (key, value.as_str()));
        Ok(CacheClient::set_many(self, pairs, None).await?)
    }

    async fn get_json(&self, key: &str) -> Result<Option<Profile>> {
        Ok(self.get_dict(key).await?)
    }

    async fn set_json(&self, key: &str, profile: &Profile) -> Result<()> {
        Ok(self.set_dict(key, profile, None).await?)
    }
}

fn text(reply: Reply) -> Result<Option<String>> {
    Ok(reply.into_value()?.map(|bytes| String::from_utf8(bytes.into())).transpose()?)
}

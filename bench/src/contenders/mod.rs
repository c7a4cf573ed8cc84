//! Who takes part: one trait, one file for each crate.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use larder::testing::RedisServer;

use crate::Result;
use crate::data::Profile;
use crate::measure::{Pace, Sample};
use crate::workloads::{self, Trial};

mod driver;
mod fred;
mod larder_client;
mod pools;
mod rustis;

/// Whom the others are compared with: the bare driver over which larder runs.
pub(crate) const BASELINE: &str = "redis";

/// How long a call may take, where the peer has no default of its own.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// How many connections a pool holds.
const POOL: usize = 16;

/// A client as a task of a service would use it: cloned for each task, text in and text out.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<String>>> + Send;

    fn set(&self, key: &str, value: &str) -> impl Future<Output = Result<()>> + Send;

    /// GETs in one pipeline.
    fn pipeline_get(
        &self,
        keys: &[String],
    ) -> impl Future<Output = Result<Vec<Option<String>>>> + Send;

    fn get_many(&self, keys: &[String])
    -> impl Future<Output = Result<Vec<Option<String>>>> + Send;

    fn set_many(&self, pairs: &[(String, String)]) -> impl Future<Output = Result<()>> + Send;

    /// A peer that has no JSON of its own does what its users do.
    fn get_json(&self, key: &str) -> impl Future<Output = Result<Option<Profile>>> + Send {
        async move {
            match self.get(key).await? {
                Some(text) => Ok(Some(serde_json::from_str(&text)?)),
                None => Ok(None),
            }
        }
    }

    fn set_json(&self, key: &str, profile: &Profile) -> impl Future<Output = Result<()>> + Send {
        async move { self.set(key, &serde_json::to_string(profile)?).await }
    }
}

/// A contender whose type is forgotten: once a round, not once a call.
pub(crate) trait Entrant: Send + Sync {
    fn name(&self) -> &'static str;

    fn run<'a>(&'a self, trial: &'a Trial, pace: &'a Pace) -> BoxFuture<'a, Result<Sample>>;
}

struct Named<C>(&'static str, C);

impl<C: Contender> Entrant for Named<C> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn run<'a>(&'a self, trial: &'a Trial, pace: &'a Pace) -> BoxFuture<'a, Result<Sample>> {
        workloads::run(&self.1, trial, pace).boxed()
    }
}

/// Everybody, connected.
pub(crate) async fn entrants(server: &RedisServer) -> Result<Vec<Box<dyn Entrant>>> {
    let url = server.url();
    Ok(vec![
        Box::new(Named(BASELINE, driver::multiplexed(&url, false).await?)),
        Box::new(Named("redis, nodelay", driver::multiplexed(&url, true).await?)),
        Box::new(Named("redis, manager", driver::manager(&url).await?)),
        Box::new(Named("larder", larder_client::connect(&url).await?)),
        Box::new(Named("fred", fred::connect(&url).await?)),
        Box::new(Named("rustis", rustis::connect(&url).await?)),
        Box::new(Named("deadpool-redis", pools::deadpool(&url)?)),
        Box::new(Named("bb8-redis", pools::bb8(&url).await?)),
    ])
}

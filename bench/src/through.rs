//! What reading through costs where the value is stored: `get_or_load` beside a plain typed read.

use std::io::Error as IoError;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use larder::testing::RedisServer;
use larder::{CacheClient, Namespace};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::Result;
use crate::data::{self, LIFE, NEAR, NEAR_NAME, Profile};
use crate::measure::{Counter, Pace, Sample, in_turns, round};
use crate::report::Report;

pub(crate) const TRIAL: &str = "get_or_load of a stored 1 KB document, 1 task";

const BASELINE: &str = "larder, get_dict";
const THROUGH: &str = "larder, get_or_load";

/// Into how many slices a round is cut.
const SLICES: usize = 10;

/// A slice is this part of a usual span.
const PART: u32 = 4;

#[derive(Clone)]
enum Reader {
    Dict(CacheClient),
    Typed(Namespace<u64, Profile>),
    Through(Namespace<u64, Profile>),
    Driver(MultiplexedConnection),
}

impl Reader {
    async fn read(&mut self, id: u64) -> Result<u64> {
        const LOST: &str = "the server lost a document";
        match self {
            Self::Dict(cache) => {
                let found: Option<Profile> = cache.get_dict(format!("doc:{id}")).await?;
                Ok(found.ok_or(LOST)?.id())
            }
            Self::Typed(documents) => Ok(documents.get(&id).await?.ok_or(LOST)?.id()),
            Self::Through(documents) => {
                let lost = || async { Err::<Profile, _>(IoError::other(LOST)) };
                Ok(documents.get_or_load(&id, lost).await?.id())
            }
            Self::Driver(connection) => {
                let text: String = connection.get(format!("doc:{id}")).await?;
                Ok(serde_json::from_str::<Profile>(&text)?.id())
            }
        }
    }

    async fn run(&self, pace: &Pace) -> Result<Sample> {
        round(1, pace, |_, counter| self.clone().work(counter)).await
    }

    fn work(mut self, counter: Counter) -> BoxFuture<'static, Result<()>> {
        async move {
            for read in 0.. {
                let id = read * 6_151 % NEAR;
                if self.read(id).await? != id {
                    return Err("a contender got a wrong document".into());
                }
                if !counter.done(1) {
                    break;
                }
            }
            Ok(())
        }
        .boxed()
    }
}

pub(crate) async fn run(
    server: &RedisServer,
    report: &mut Report,
    pace: &Pace,
    rounds: usize,
) -> Result<()> {
    data::fill_near(server).await?;
    let cache = CacheClient::connect(server.url()).await?;
    let documents = cache.namespace::<u64, Profile>(NEAR_NAME).ttl(LIFE).build()?;
    let driver = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let readers = [
        (BASELINE, Reader::Dict(cache)),
        ("larder, Namespace::get", Reader::Typed(documents.clone())),
        (THROUGH, Reader::Through(documents)),
        ("redis", Reader::Driver(driver)),
    ];
    let slice = Pace { warm_up: Duration::from_millis(10), span: pace.span / PART };
    for turn in 0..rounds {
        let run = |at: usize| readers[at].1.run(&slice).boxed();
        let samples = in_turns(readers.len(), turn, SLICES, run).await?;
        for ((name, _), sample) in readers.iter().zip(&samples) {
            report.row(TRIAL, name, turn, sample)?;
        }
    }
    report.table(TRIAL, BASELINE);
    report.cost(TRIAL, THROUGH, BASELINE);
    Ok(())
}

//! What reading through costs where the value is stored: `get_or_load` beside a plain typed read.

use std::io::Error as IoError;
use std::time::Instant;

use larder::testing::RedisServer;
use larder::{CacheClient, Namespace};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::Result;
use crate::data::{self, LIFE, NEAR, NEAR_NAME, Profile};
use crate::measure::{Pace, Sample, cpu_time};
use crate::report::Report;

pub(crate) const TRIAL: &str = "get_or_load of a stored 1 KB document, 1 task";

const BASELINE: &str = "larder, get_dict";
const THROUGH: &str = "larder, get_or_load";

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
}

/// One round of all, call by call, in an order that is drawn anew for each document: they differ by a few microseconds in a
/// hundred, and the machine by more from one tenth of a second to the next.
async fn round(mut readers: Vec<Reader>, pace: Pace, seed: u64) -> Result<Vec<Sample>> {
    let mut samples = vec![Sample::NOTHING; readers.len()];
    let mut order: Vec<usize> = (0..readers.len()).collect();
    let mut draw = fastrand::Rng::with_seed(seed);
    let counted = Instant::now() + pace.warm_up;
    let end = counted + pace.span * readers.len() as u32;
    for read in 0.. {
        let id = read * 6_151 % NEAR;
        draw.shuffle(&mut order);
        for at in order.iter().copied() {
            let (begun, cpu) = (Instant::now(), cpu_time());
            if readers[at].read(id).await? != id {
                return Err("a contender got a wrong document".into());
            }
            let (wall, cpu) = (begun.elapsed(), cpu_time() - cpu);
            if begun >= counted {
                samples[at] += Sample { operations: 1, wall, cpu, commands_per_read: 0.0 };
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    Ok(samples)
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
    for turn in 0..rounds {
        let contenders = readers.iter().map(|(_, reader)| reader.clone()).collect();
        // On a worker of the runtime, as the calls of a service are.
        let samples = tokio::spawn(round(contenders, *pace, turn as u64)).await??;
        for ((name, _), sample) in readers.iter().zip(&samples) {
            report.row(TRIAL, name, turn, sample)?;
        }
    }
    report.table(TRIAL, BASELINE);
    report.cost(TRIAL, THROUGH, BASELINE);
    Ok(())
}

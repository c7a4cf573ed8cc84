//! The embedded store, and what each call pays for statistics: nothing of it leaves the process.

use larder::op::{Batch, Op};
use larder::store::{MemoryStore, Store};
use larder::{CacheClient, Key};

use crate::Result;
use crate::data::{self, KEYS};
use crate::measure::{Counter, Pace, Sample, pause, round};
use crate::report::Report;

const TRIAL: &str = "embedded get 100 B, 1 task";

pub(crate) async fn run(report: &mut Report, pace: &Pace, rounds: usize) -> Result<()> {
    let observed = CacheClient::memory();
    let unobserved = CacheClient::builder().unobserved().build()?;
    let store = std::sync::Arc::new(MemoryStore::new());
    for number in 0..KEYS {
        observed.set_value(data::key(number), data::value(), None).await?;
        unobserved.set_value(data::key(number), data::value(), None).await?;
        let set = Op::Set {
            key: Key::new(data::key(number))?,
            value: data::value().into(),
            expiry: None,
            only_if: None,
        };
        store.run(Batch::one("set", set)).await?.into_one()?;
    }
    for turn in 0..rounds {
        for place in 0..3 {
            let (name, sample) = match (place + turn) % 3 {
                0 => ("larder", through(&observed, pace).await?),
                1 => ("larder, no statistics", through(&unobserved, pace).await?),
                _ => {
                    let store = &store;
                    let sample = round(1, pace, |_, counter| bare(store.clone(), counter)).await?;
                    ("larder's MemoryStore alone", sample)
                }
            };
            report.row(TRIAL, name, turn, &sample)?;
        }
    }
    report.table(TRIAL, "larder, no statistics");
    report.difference(TRIAL, "larder", "larder, no statistics", "statistics and spans");
    Ok(())
}

async fn through(cache: &CacheClient, pace: &Pace) -> Result<Sample> {
    round(1, pace, |_, counter| {
        let cache = cache.clone();
        async move {
            let keys: Vec<String> = (0..KEYS).map(data::key).collect();
            for number in 0.. {
                let found = cache.get_bytes(&keys[number % KEYS]).await?;
                if found.is_none() {
                    return Err("the embedded store lost a key".into());
                }
                if pause(number as u64, &counter).await {
                    break;
                }
            }
            Ok(())
        }
    })
    .await
}

async fn bare(store: std::sync::Arc<MemoryStore>, counter: Counter) -> Result<()> {
    let keys =
        (0..KEYS).map(|number| Key::new(data::key(number))).collect::<larder::Result<Vec<_>>>()?;
    for number in 0.. {
        let get = Op::Get { key: keys[number % KEYS].clone() };
        let found = store.run(Batch::one("get", get)).await?.into_one()?.into_value()?;
        if found.is_none() {
            return Err("the embedded store lost a key".into());
        }
        if pause(number as u64, &counter).await {
            break;
        }
    }
    Ok(())
}

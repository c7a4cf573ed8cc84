//! A hit in the process: the key is built, the entry found, the document handed out. No call leaves the process.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use larder::testing::RedisServer;

use crate::Result;
use crate::cli::Options;
use crate::compare::Traffic;
use crate::data::{self, NEAR};
use crate::measure::{Pace, Sample, pause, round};
use crate::report::Report;

mod client_caches;
mod in_process;

pub(crate) const TRIALS: [&str; 3] = [ONE, TWO, FEW];
const ONE: &str = "near hit of a 1 KB document, 1 task";
const TWO: &str = "near hit of a 1 KB document, 2 tasks";
/// What is read again and again stays in the caches of a core: this is the work of a hit without its memory.
const FEW: &str = "near hit of one of 100 documents, 1 task";

/// A trial: its name, how many tasks, and how many of the documents they read.
const SIZES: [(&str, usize, u64); 3] = [(ONE, 1, NEAR), (TWO, 2, NEAR), (FEW, 1, 100)];

/// Whom the others are compared with.
const BASELINE: &str = "larder";

/// What caches hold that are told a number of entries: twice what is in them, so that nobody evicts.
const CAPACITY: u64 = 2 * NEAR;

/// Of how many reads one may ask the server: caches that miss are not what is measured here.
const READS_PER_MISS: f64 = 1000.0;

/// From one document to the next: far enough apart that no neighbour was just used, and each comes up.
const STEP: u64 = 6_151;

/// A cache as one task uses it.
trait Near: Clone + Send + Sync + 'static {
    /// Reads a document and gives back the number in it. `key` is the task's own, to build the key in.
    fn hit(&mut self, key: &mut String, id: u64) -> impl Future<Output = Result<u64>> + Send;
}

/// A cache whose type is forgotten: once a round, not once a call.
trait Entrant: Send + Sync {
    fn run<'a>(
        &'a self,
        tasks: usize,
        documents: u64,
        pace: &'a Pace,
    ) -> BoxFuture<'a, Result<Sample>>;

    /// Reads everything, so that it is near.
    fn warm(&self) -> BoxFuture<'_, Result<()>>;
}

impl<N: Near> Entrant for N {
    fn run<'a>(
        &'a self,
        tasks: usize,
        documents: u64,
        pace: &'a Pace,
    ) -> BoxFuture<'a, Result<Sample>> {
        round(tasks, pace, move |number, counter| {
            let mut cache = self.clone();
            async move {
                let mut key = String::new();
                let mut id = number as u64 * documents / 2;
                for read in 0.. {
                    id = (id + STEP) % documents;
                    if cache.hit(&mut key, id).await? != id {
                        return Err("a near cache gave another document".into());
                    }
                    if pause(read, &counter).await {
                        break;
                    }
                }
                Ok(())
            }
        })
        .boxed()
    }

    fn warm(&self) -> BoxFuture<'_, Result<()>> {
        let mut cache = self.clone();
        async move {
            let mut key = String::new();
            // The second time tells an admission policy that they are wanted.
            for id in (0..NEAR).chain(0..NEAR) {
                cache.hit(&mut key, id).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Everybody, each with its own documents.
async fn entrants(server: &RedisServer) -> Result<Vec<(&'static str, Box<dyn Entrant>)>> {
    Ok(vec![
        (BASELINE, Box::new(in_process::Larder::connect(&server.url()).await?)),
        ("moka, sync", Box::new(in_process::MokaSync::filled())),
        ("moka, future", Box::new(in_process::MokaFuture::filled().await)),
        ("quick_cache", Box::new(in_process::Quick::filled())),
        ("quick_cache, u64 as key", Box::new(in_process::QuickNumbers::filled())),
        ("no cache, an array", Box::new(in_process::Array::filled())),
        ("no cache, key built", Box::new(in_process::KeyAlone)),
        ("redis, cache-aio", Box::new(client_caches::Driver::connect(server).await?)),
        ("rustis, Cache", Box::new(client_caches::Rustis::connect(server).await?)),
    ])
}

pub(crate) async fn run(
    options: &Options,
    server: &RedisServer,
    report: &mut Report,
    pace: &Pace,
    rounds: usize,
) -> Result<()> {
    data::fill_near(server).await?;
    let mut entrants = entrants(server).await?;
    entrants.retain(|(name, _)| options.wants_contender(name));
    for turn in 0..rounds {
        for place in 0..entrants.len() {
            let (name, entrant) = &entrants[(place + turn) % entrants.len()];
            entrant.warm().await?;
            let mut sizes = SIZES;
            if turn % 2 == 1 {
                sizes.reverse();
            }
            for (trial, tasks, documents) in sizes {
                if !options.wants(trial) {
                    continue;
                }
                let before = Traffic::of(server).await?.commands;
                let sample = entrant.run(tasks, documents, pace).await?;
                let asked = Traffic::of(server).await?.commands - before;
                if asked > 100.0 + sample.operations as f64 / READS_PER_MISS {
                    return Err(format!("{name} asked the server {asked} times").into());
                }
                report.row(trial, name, turn, &sample)?;
            }
        }
    }
    for (trial, tasks, _) in SIZES {
        if options.wants(trial) {
            report.hits(trial, tasks, BASELINE);
        }
    }
    report.scaling(TWO, ONE);
    Ok(())
}

//! larder beside its peers: same tasks, same keys, same server, rounds interleaved. See `README.md`.

mod cli;
mod contenders;
mod data;
mod embedded;
mod measure;
mod report;
mod workloads;

use std::error::Error;

use larder::testing::RedisServer;

use crate::cli::Options;
use crate::measure::Pace;
use crate::report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Threads of the runtime that all contenders share.
const WORKERS: usize = 2;

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?;
    // Spawned, so that the comparison runs on the workers and this thread only waits.
    runtime.block_on(async move { tokio::spawn(compare(options)).await? })
}

async fn compare(options: Options) -> Result<()> {
    let server = RedisServer::start().await;
    let pace = if options.quick { Pace::quick() } else { Pace::careful() };
    let mut report = Report::new(options.out.as_deref())?;
    report.facts(&server.info("redis_version").await, &pace, options.rounds)?;

    let entrants = contenders::entrants(&server).await?;
    data::fill(&server).await?;
    for trial in workloads::trials().into_iter().filter(|trial| options.wants(&trial.to_string())) {
        for round in 0..options.rounds {
            // The order rotates, so that nobody always runs behind the same neighbour.
            for place in 0..entrants.len() {
                let entrant = &entrants[(place + round) % entrants.len()];
                if !options.wants_contender(entrant.name()) {
                    continue;
                }
                let before = Traffic::of(&server).await?;
                let mut sample = entrant.run(&trial, &pace).await?;
                sample.commands_per_read = Traffic::of(&server).await?.since(&before);
                report.row(&trial.to_string(), entrant.name(), round, &sample)?;
            }
        }
        report.table(&trial.to_string(), contenders::BASELINE);
    }
    if options.wants("embedded") {
        embedded::run(&mut report, &pace, options.rounds).await?;
    }
    Ok(())
}

/// What the server counted.
struct Traffic {
    commands: f64,
    reads: f64,
}

impl Traffic {
    async fn of(server: &RedisServer) -> Result<Self> {
        Ok(Self {
            commands: server.info("total_commands_processed").await.parse()?,
            reads: server.info("total_reads_processed").await.parse()?,
        })
    }

    /// Commands per read: how many requests shared one write.
    fn since(&self, before: &Self) -> f64 {
        (self.commands - before.commands) / (self.reads - before.reads)
    }
}

//! larder beside its peers: same tasks, same keys, same server, rounds interleaved.

use larder::testing::RedisServer;

use crate::cli::Options;
use crate::measure::Pace;
use crate::report::{self, Report};
use crate::{Result, contenders, data, embedded, near, safety, through, workloads};

/// Rounds of a trial.
const ROUNDS: usize = 5;

pub(crate) async fn run(options: Options) -> Result<()> {
    let server = RedisServer::start().await;
    let pace = if options.quick { Pace::quick() } else { Pace::careful() };
    let rounds = options.rounds(ROUNDS);
    let mut report = Report::new(options.out.as_deref())?;
    report::facts(&server.info("redis_version").await, crate::WORKERS)?;
    println!("- {rounds} rounds of {:?} after {:?} of warm-up; medians", pace.span, pace.warm_up);

    clients(&options, &server, &mut report, &pace, rounds).await?;
    if options.wants("embedded") {
        embedded::run(&mut report, &pace, rounds).await?;
    }
    safety::run(&options, &server, &mut report, &pace, rounds).await?;
    if options.wants(through::TRIAL) {
        through::run(&server, &mut report, &pace, rounds).await?;
    }
    if near::TRIALS.iter().any(|trial| options.wants(trial)) {
        near::run(&options, &server, &mut report, &pace, rounds).await?;
    }
    Ok(())
}

/// Calls that each go to the server.
async fn clients(
    options: &Options,
    server: &RedisServer,
    report: &mut Report,
    pace: &Pace,
    rounds: usize,
) -> Result<()> {
    let trials = workloads::trials().into_iter().filter(|trial| options.wants(&trial.to_string()));
    let trials: Vec<_> = trials.collect();
    if trials.is_empty() {
        return Ok(());
    }
    let entrants = contenders::entrants(server).await?;
    data::fill(server).await?;
    for trial in trials {
        for round in 0..rounds {
            // The order rotates, so that nobody always runs behind the same neighbour.
            for place in 0..entrants.len() {
                let entrant = &entrants[(place + round) % entrants.len()];
                if !options.wants_contender(entrant.name()) {
                    continue;
                }
                let before = Traffic::of(server).await?;
                let mut sample = entrant.run(&trial, pace).await?;
                sample.commands_per_read = Traffic::of(server).await?.since(&before);
                report.row(&trial.to_string(), entrant.name(), round, &sample)?;
            }
        }
        report.table(&trial.to_string(), contenders::BASELINE);
    }
    Ok(())
}

/// What the server counted.
pub(crate) struct Traffic {
    pub(crate) commands: f64,
    reads: f64,
}

impl Traffic {
    pub(crate) async fn of(server: &RedisServer) -> Result<Self> {
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

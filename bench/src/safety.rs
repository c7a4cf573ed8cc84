//! What the safety of a call costs: `larder` as it is beside itself without deadline, budget and breaker.

use futures_util::FutureExt;
use larder::CacheClient;
use larder::testing::RedisServer;

use crate::Result;
use crate::cli::Options;
use crate::data;
use crate::measure::{Pace, in_turns};
use crate::report::Report;
use crate::workloads::{self, Trial};

const TRIAL: &str = "safety";

const WITH: &str = "larder";
const WITHOUT: &str = "larder, unguarded";

/// Into how many slices a round is cut.
const SLICES: usize = 6;

/// A slice is this part of a usual span.
const PART: u32 = 3;

pub(crate) async fn run(
    options: &Options,
    server: &RedisServer,
    report: &mut Report,
    pace: &Pace,
    rounds: usize,
) -> Result<()> {
    let with = CacheClient::connect(server.url()).await?;
    let without = CacheClient::builder().url(server.url()).unguarded().connect().await?;
    let mut contenders = vec![(WITH, with), (WITHOUT, without)];
    contenders.retain(|(name, _)| options.wants_contender(name));
    data::fill(server).await?;
    let pace = Pace { warm_up: pace.warm_up / PART, span: pace.span / PART };
    for trial in Trial::small() {
        let name = format!("{TRIAL}: {trial}");
        if !options.wants(&name) {
            continue;
        }
        for round in 0..rounds {
            let run = |at: usize| workloads::run(&contenders[at].1, &trial, &pace).boxed();
            let samples = in_turns(contenders.len(), round, SLICES, run).await?;
            for ((contender, _), sample) in contenders.iter().zip(&samples) {
                report.row(&name, contender, round, sample)?;
            }
        }
        report.table(&name, WITHOUT);
    }
    Ok(())
}

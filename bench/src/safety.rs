//! What the safety of a call costs: `larder` as it is beside itself without deadline, budget and breaker.

use larder::CacheClient;
use larder::testing::RedisServer;

use crate::Result;
use crate::data;
use crate::measure::Pace;
use crate::report::Report;
use crate::workloads::{self, Trial};

pub(crate) const TRIAL: &str = "safety";

const WITH: &str = "larder";
const WITHOUT: &str = "larder, unguarded";

/// Into how many slices a round is cut: what is compared differs by less than the machine does from one second to the
/// next, so the two take turns quickly.
const SLICES: usize = 6;

/// A slice is this part of a usual span.
const PART: u32 = 3;

pub(crate) async fn run(
    server: &RedisServer,
    report: &mut Report,
    pace: &Pace,
    rounds: usize,
) -> Result<()> {
    let with = CacheClient::connect(server.url()).await?;
    let without = CacheClient::builder().url(server.url()).unguarded().connect().await?;
    data::fill(server).await?;
    let pace = Pace { warm_up: pace.warm_up / PART, span: pace.span / PART };
    for trial in Trial::small() {
        let name = format!("{TRIAL}: {trial}");
        for round in 0..rounds {
            let (mut guarded, mut bare) = (None, None);
            for slice in 0..SLICES {
                // Nobody always runs first.
                for place in 0..2 {
                    let (cache, sum) = match (place + slice + round) % 2 {
                        0 => (&with, &mut guarded),
                        _ => (&without, &mut bare),
                    };
                    let sample = workloads::run(cache, &trial, &pace).await?;
                    match sum {
                        Some(sum) => *sum += sample,
                        None => *sum = Some(sample),
                    }
                }
            }
            for (contender, sample) in [(WITH, guarded), (WITHOUT, bare)] {
                if let Some(sample) = sample {
                    report.row(&name, contender, round, &sample)?;
                }
            }
        }
        report.table(&name, WITHOUT);
    }
    Ok(())
}

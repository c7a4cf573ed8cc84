//! A search for stale values: versions are written past a near cache and read through it, and each read is compared
//! with what had been acknowledged when it began.

use larder::testing::RedisServer;

use self::ledger::{BOUND, Findings};
use self::subjects::{Driver, Larder, Rustis, Subject};
use self::trials::{Plan, kills, races, steady};
use crate::Result;
use crate::cli::Options;
use crate::report::{self, Raw};

mod ledger;
mod subjects;
mod trials;

/// What is tried, and what it means.
const TRIALS: [(&str, &str); 3] = [
    ("steady", "8 readers and 2 writers of 200 keys, nothing is broken"),
    (
        "races",
        "4 readers and 2 writers meet at each of 50 keys, while answers arrive 1 to 4 ms late and in bunches",
    ),
    ("kills", "as steady, and every 100 ms the server kills the connection that tracks"),
];

/// What came of a trial.
struct Outcome {
    findings: Findings,
    hits: u64,
    writes: u64,
    kills: u64,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let plan = if options.quick { Plan::quick() } else { Plan::careful() };
    let columns = [
        "trial",
        "contender",
        "round",
        "reads",
        "hits",
        "writes",
        "kills",
        "failed",
        "largest_us",
        "old",
        "stale_left",
        "looked",
    ];
    let mut raw = Raw::create(options.out.as_deref(), &columns)?;
    let server = RedisServer::start().await;
    report::facts(&server.info("redis_version").await, crate::STALENESS_WORKERS)?;
    drop(server);
    println!("- {plan}");
    let rounds = options.rounds(1);
    for (trial, what) in TRIALS.into_iter().filter(|(trial, _)| options.wants(trial)) {
        println!("\n**{trial}**: {what}\n");
        println!(
            "| near cache | reads | hits | writes | kills | failed reads | largest staleness | reads over {} ms stale | stale once all is quiet |",
            BOUND.as_millis()
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        for round in 0..rounds {
            let mut trial =
                Trial { name: trial, round, plan: &plan, options: &options, raw: &mut raw };
            trial.of::<Larder>().await?;
            trial.of::<Driver>().await?;
            trial.of::<Rustis>().await?;
        }
    }
    Ok(())
}

struct Trial<'a> {
    name: &'static str,
    round: usize,
    plan: &'a Plan,
    options: &'a Options,
    raw: &'a mut Raw,
}

impl Trial<'_> {
    async fn of<S: Subject>(&mut self) -> Result<()> {
        if !self.options.wants_contender(S::NAME) {
            return Ok(());
        }
        let outcome = match self.name {
            "steady" => steady::<S>(self.plan).await?,
            "races" => races::<S>(self.plan).await?,
            _ => kills::<S>(self.plan).await?,
        };
        let Outcome { findings, hits, writes, kills } = outcome;
        println!(
            "| {} | {} | {hits} | {writes} | {kills} | {} | {:.1?} | {} | {} of {} |",
            S::NAME,
            findings.reads,
            findings.failed,
            findings.longest,
            findings.old,
            findings.left,
            findings.looked
        );
        let numbers = [
            findings.reads,
            hits,
            writes,
            kills,
            findings.failed,
            findings.longest.as_micros() as u64,
            findings.old,
            findings.left,
            findings.looked,
        ];
        let mut row = vec![self.name.to_owned(), S::NAME.to_owned(), self.round.to_string()];
        row.extend(numbers.map(|number| number.to_string()));
        self.raw.row(&row)
    }
}

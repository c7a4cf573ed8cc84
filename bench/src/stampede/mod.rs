//! How often a hot key is loaded when it is gone and many tasks want it at once, in one process and in several.

use std::time::{Duration, Instant};

use larder::testing::{RawConnection, RedisServer, Resp};

use crate::Result;
use crate::cli::Options;
use crate::report::{self, Raw};
use crate::workers::{Orders, Worker};

mod peers;

/// Tasks of each process.
const TASKS: usize = 1_000;

/// How long the origin takes: long enough that all tasks of all processes come meanwhile.
const LOAD: Duration = Duration::from_millis(30);

/// Expiries of the key, for figures.
const EXPIRIES: usize = 20;

/// The key that everybody wants.
const KEY: &str = "hot";

/// Where the origin counts how often it was asked.
const LOADS: &str = "loads";

/// For how long values are kept: longer than a run, so that the key is gone when it is taken away, and only then.
const LIFE: Duration = Duration::from_secs(600);

pub(crate) async fn run(options: Options) -> Result<()> {
    let expiries = options.rounds(if options.quick { EXPIRIES / 10 } else { EXPIRIES });
    let columns =
        ["contender", "processes", "expiry", "tasks", "loads", "failed", "values", "wall_ms"];
    let mut raw = Raw::create(options.out.as_deref(), &columns)?;
    let server = RedisServer::start().await;
    report::facts(&server.info("redis_version").await, crate::WORKERS)?;
    println!(
        "- {TASKS} tasks of each process want one key that is gone; a load takes {LOAD:?}; {expiries} expiries\n"
    );
    println!(
        "| contender | processes | loads | loads per expiry | most at once | failed reads | median ms until all have it |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (name, _) in peers::ALL {
        if !options.wants_contender(name) {
            continue;
        }
        for processes in [1, 4] {
            let mut trial = Trial::start(&server, name, processes).await?;
            for expiry in 1..=expiries {
                let row = trial.expiry(expiry).await?;
                raw.row(&row)?;
            }
            trial.print(expiries);
        }
    }
    Ok(())
}

/// One contender in so many processes.
struct Trial<'a> {
    name: &'a str,
    workers: Vec<Worker>,
    raw: RawConnection,
    loads: Vec<i64>,
    failed: u64,
    millis: Vec<f64>,
}

impl<'a> Trial<'a> {
    async fn start(server: &RedisServer, name: &'a str, processes: usize) -> Result<Self> {
        let mut raw = server.connect().await;
        raw.command(&["FLUSHALL"]).await?;
        let mut workers = Vec::new();
        for _ in 0..processes {
            workers.push(Worker::start("stampede", name, &server.url()).await?);
        }
        Ok(Self { name, workers, raw, loads: Vec::new(), failed: 0, millis: Vec::new() })
    }

    /// All want the key, and then it goes. Answers the row for the file.
    async fn expiry(&mut self, expiry: usize) -> Result<[String; 8]> {
        let begun = Instant::now();
        for worker in &mut self.workers {
            worker.tell("read").await?;
        }
        let (mut failed, mut values) = (0, 0);
        for worker in &mut self.workers {
            let answer = worker.answer().await?;
            let (lost, seen) = answer.split_once(' ').ok_or("a worker answered nonsense")?;
            failed += lost.parse::<u64>()?;
            values += seen.parse::<u64>()?;
        }
        let wall = begun.elapsed().as_secs_f64() * 1e3;
        let count = self.raw.command(&["GETDEL", LOADS]).await?.text().unwrap_or_default();
        let loads: i64 = count.parse()?;
        self.take_away().await?;
        self.loads.push(loads);
        self.failed += failed;
        self.millis.push(wall);
        Ok([
            self.name.to_owned(),
            self.workers.len().to_string(),
            expiry.to_string(),
            (TASKS * self.workers.len()).to_string(),
            loads.to_string(),
            failed.to_string(),
            values.to_string(),
            format!("{wall:.1}"),
        ])
    }

    /// The value expires on the server, and processes that keep it themselves are told to forget it.
    async fn take_away(&mut self) -> Result<()> {
        if let Resp::Array(keys) = self.raw.command(&["KEYS", "*"]).await? {
            for key in keys.iter().filter_map(Resp::text) {
                self.raw.command(&["PEXPIRE", &key, "1"]).await?;
            }
        }
        while self.raw.command(&["DBSIZE"]).await? != Resp::Int(0) {
            // A key that expires unread is counted until the server comes upon it.
            self.raw.command(&["EXISTS", KEY]).await?;
            tokio::task::yield_now().await;
        }
        for worker in &mut self.workers {
            worker.tell("forget").await?;
        }
        for worker in &mut self.workers {
            worker.answer().await?;
        }
        Ok(())
    }

    fn print(&self, expiries: usize) {
        let loads: i64 = self.loads.iter().sum();
        let most = self.loads.iter().max().copied().unwrap_or_default();
        println!(
            "| {} | {} | {loads} | {:.2} | {most} | {} | {:.0} |",
            self.name,
            self.workers.len(),
            loads as f64 / expiries as f64,
            self.failed,
            crate::measure::median(self.millis.clone())
        );
    }
}

/// A worker: reads with many tasks when it is told to, and forgets.
pub(crate) async fn serve(contender: &str, url: &str) -> Result<()> {
    peers::connect_origin(url).await?;
    let (_, peer) =
        peers::ALL.into_iter().find(|(name, _)| *name == contender).ok_or("no such contender")?;
    let peer = peer.connect(url).await?;
    let mut orders = Orders::ready();
    while let Some(order) = orders.next().await? {
        match order.as_str() {
            "read" => {
                let tasks: Vec<_> = (0..TASKS)
                    .map(|_| {
                        let peer = peer.clone();
                        tokio::spawn(async move { peer.read().await })
                    })
                    .collect();
                let (mut failed, mut values) = (0, std::collections::HashSet::new());
                for task in tasks {
                    match task.await? {
                        Ok(value) => _ = values.insert(value),
                        Err(_) => failed += 1,
                    }
                }
                println!("{failed} {}", values.len());
            }
            "forget" => {
                peer.forget().await;
                println!("forgotten");
            }
            _ => return Err("a worker was told something that it does not know".into()),
        }
    }
    Ok(())
}

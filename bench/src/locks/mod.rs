//! How fast locks are: alone, from one process to another, and with many who want the same one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::testing::RedisServer;
use tokio::process::Command;

use self::log::Contention;
use crate::Result;
use crate::cli::Options;
use crate::measure::median;
use crate::report::{self, Raw};
use crate::workers::Worker;

mod contenders;
mod log;
mod serve;
mod tables;

pub(crate) use serve::serve;

const LARDER: &str = "larder, lock";
const POLL: &str = "poll, 100 ms";
const REDIS_PY: &str = "redis-py, Lock";

const PROCESSES: usize = 4;

/// Contenders of each process.
const TASKS: usize = 16;

/// Where the number stands that is counted up under the lock.
const NUMBER: &str = "bench:number";

/// Between a waiter's first try and the release that it waits for: spread evenly over one pause of those who poll,
/// after what the first try needs.
const SETTLE: Duration = Duration::from_millis(20);
const SPREAD: Duration = Duration::from_millis(100);

/// How long before contenders begin they are told so.
const NOTICE: Duration = Duration::from_millis(20);

const ALONE: &str = "alone";
const HAND_OVER: &str = "hand-over";
const BURST: &str = "burst";
const STEADY: &str = "steady";

/// How much of each trial is done in a round.
struct Pace {
    rounds: usize,
    alone: Duration,
    hand_overs: u32,
    steady: Duration,
}

impl Pace {
    fn of(options: &Options) -> Self {
        let (alone, hand_overs, steady, rounds) = if options.quick {
            (Duration::from_millis(100), 4, Duration::from_millis(300), 1)
        } else {
            (Duration::from_millis(500), 20, Duration::from_secs(2), 5)
        };
        Self { rounds: options.rounds(rounds), alone, hand_overs, steady }
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let pace = Pace::of(&options);
    let columns = [
        "trial",
        "contender",
        "round",
        "cycles",
        "wall_ns",
        "requests",
        "worst_wait_ns",
        "fewest_cycles",
        "overlaps",
        "lost_updates",
    ];
    let mut raw = Raw::create(options.out.as_deref(), &columns)?;
    let server = RedisServer::start().await;
    report::facts(&server.info("redis_version").await, crate::WORKERS)?;
    let mut names: Vec<&str> = contenders::ALL.iter().map(|(name, _)| *name).collect();
    let python = python();
    match redis_py(&python).await {
        Some(version) => {
            println!("- redis-py {version}");
            names.push(REDIS_PY);
        }
        None => println!(
            "- redis-py is LEFT OUT: {} has none; run ./check, which makes .venv, or set LARDER_PYTHON",
            python.display()
        ),
    }
    println!("- {} rounds; all contenders take turns in each; medians", pace.rounds);
    let mut teams = Vec::new();
    for name in names.into_iter().filter(|name| options.wants_contender(name)) {
        teams.push(Team::start(&server, name, &python).await?);
    }
    let mut rows = Vec::new();
    for trial in [ALONE, HAND_OVER, BURST, STEADY] {
        if !options.wants(trial) {
            continue;
        }
        for round in 0..pace.rounds {
            // The order rotates, so that nobody always runs behind the same neighbour.
            for place in 0..teams.len() {
                let turn = (place + round) % teams.len();
                for seen in teams[turn].trial(&server, trial, &pace, round).await? {
                    raw.row(&seen.row(round))?;
                    rows.push(seen);
                }
            }
        }
        tables::print(trial, &rows, &pace);
    }
    let wrong = rows.iter().filter(|seen| seen.overlaps + seen.lost_updates > 0).count();
    match wrong {
        0 => Ok(()),
        _ => Err(format!("a lock had two holders at once in {wrong} rows").into()),
    }
}

/// One row: a round of a trial, or one hand-over.
struct Seen {
    trial: &'static str,
    contender: &'static str,
    cycles: u64,
    wall: u64,
    /// What the server read meanwhile; a lone caller's requests are read one by one.
    requests: u64,
    worst_wait: u64,
    fewest: u64,
    overlaps: u64,
    lost_updates: u64,
}

impl Seen {
    fn row(&self, round: usize) -> [String; 10] {
        [
            self.trial.to_owned(),
            self.contender.to_owned(),
            round.to_string(),
            self.cycles.to_string(),
            self.wall.to_string(),
            self.requests.to_string(),
            self.worst_wait.to_string(),
            self.fewest.to_string(),
            self.overlaps.to_string(),
            self.lost_updates.to_string(),
        ]
    }
}

/// The processes of one contender.
struct Team {
    name: &'static str,
    workers: Vec<Worker>,
}

impl Team {
    async fn start(server: &RedisServer, name: &'static str, python: &Path) -> Result<Self> {
        let mut workers = Vec::new();
        for _ in 0..PROCESSES {
            let worker =
                if name == REDIS_PY {
                    let mut program = Command::new(python);
                    program
                        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/locks/redis_py.py"))
                        .args([server.port().to_string(), TASKS.to_string(), NUMBER.to_owned()]);
                    Worker::start_program(program).await?
                } else {
                    Worker::start("locks", name, &server.url()).await?
                };
            workers.push(worker);
        }
        // Everybody is connected, and has its scripts where it wants them, before anything is measured.
        for worker in &mut workers {
            worker.tell(&format!("alone {}", Duration::from_millis(20).as_nanos())).await?;
            worker.answer().await?;
        }
        Ok(Self { name, workers })
    }

    async fn trial(
        &mut self,
        server: &RedisServer,
        trial: &'static str,
        pace: &Pace,
        round: usize,
    ) -> Result<Vec<Seen>> {
        match trial {
            ALONE => Ok(vec![self.alone(server, pace.alone).await?]),
            HAND_OVER => {
                let mut seen = Vec::new();
                for number in 0..pace.hand_overs {
                    seen.push(self.hand_over(round as u32 * pace.hand_overs + number).await?);
                }
                Ok(seen)
            }
            BURST => Ok(vec![self.contend(server, trial, None).await?]),
            _ => Ok(vec![self.contend(server, trial, Some(pace.steady)).await?]),
        }
    }

    /// One process takes the lock and gives it back, and nobody else wants it.
    async fn alone(&mut self, server: &RedisServer, span: Duration) -> Result<Seen> {
        let before = reads(server).await?;
        let worker = &mut self.workers[0];
        worker.tell(&format!("alone {}", span.as_nanos())).await?;
        let [cycles, wall] = numbers(&worker.answer().await?)?;
        let requests = reads(server).await? - before;
        Ok(Seen { cycles, wall, requests, ..self.nothing(ALONE) })
    }

    /// One process holds the lock and another one waits for it: from just before it is given back to when it is got.
    async fn hand_over(&mut self, number: u32) -> Result<Seen> {
        // Each takes its turn at both ends.
        let (left, right) = self.workers.split_at_mut(1);
        let (mut holder, mut waiter) = (&mut left[0], &mut right[0]);
        if number % 2 == 1 {
            std::mem::swap(&mut holder, &mut waiter);
        }
        holder.tell("take").await?;
        holder.answer().await?;
        waiter.tell("take").await?;
        // Steps of the golden ratio: however many there are, they are spread evenly.
        let phase = (f64::from(number) * 0.618_034).fract();
        tokio::time::sleep(SETTLE + SPREAD.mul_f64(phase)).await;
        holder.tell("give").await?;
        let [given] = numbers(&holder.answer().await?)?;
        let [begun, taken] = numbers(&waiter.answer().await?)?;
        waiter.tell("give").await?;
        waiter.answer().await?;
        if begun >= given {
            return Err("a waiter came after the release that it was to wait for".into());
        }
        Ok(Seen {
            cycles: 1,
            wall: taken.saturating_sub(given),
            worst_wait: taken - begun,
            overlaps: u64::from(taken < given),
            ..self.nothing(HAND_OVER)
        })
    }

    /// All tasks of all processes want the lock from one moment on: each once, or over and over for a span.
    async fn contend(
        &mut self,
        server: &RedisServer,
        trial: &'static str,
        span: Option<Duration>,
    ) -> Result<Seen> {
        server.command(&["SET", NUMBER, "0"]).await;
        let before = reads(server).await?;
        let from = serve::now() + NOTICE.as_nanos() as u64;
        let until = span.map(|span| from + span.as_nanos() as u64);
        for worker in &mut self.workers {
            worker.tell(&format!("contend {from} {}", until.unwrap_or(from))).await?;
        }
        let mut answers = Vec::new();
        for worker in &mut self.workers {
            answers.push(worker.answer().await?);
        }
        let requests = reads(server).await? - before;
        let number = server.command(&["GET", NUMBER]).await.text().unwrap_or_default().parse()?;
        let seen = Contention::of(&answers, number, until.unwrap_or(u64::MAX))?;
        Ok(Seen {
            cycles: seen.cycles,
            wall: seen.wall,
            requests,
            worst_wait: seen.worst_wait,
            fewest: seen.fewest,
            overlaps: seen.overlaps,
            lost_updates: seen.lost_updates,
            ..self.nothing(trial)
        })
    }

    fn nothing(&self, trial: &'static str) -> Seen {
        Seen {
            trial,
            contender: self.name,
            cycles: 0,
            wall: 0,
            requests: 0,
            worst_wait: 0,
            fewest: 0,
            overlaps: 0,
            lost_updates: 0,
        }
    }
}

/// How often the server read from a client so far.
async fn reads(server: &RedisServer) -> Result<u64> {
    Ok(server.info("total_reads_processed").await.parse()?)
}

fn numbers<const N: usize>(answer: &str) -> Result<[u64; N]> {
    let numbers: Vec<u64> =
        answer.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
    numbers.try_into().map_err(|_| "a worker answered nonsense".into())
}

/// The Python that the interop tests use.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match std::env::var_os("LARDER_PYTHON") {
        Some(path) => root.join(path),
        None => root.join(".venv/bin/python"),
    }
}

/// The version of redis-py, if there is one.
async fn redis_py(python: &Path) -> Option<String> {
    let code = "import redis; print(redis.__version__)";
    let output = Command::new(python).args(["-c", code]).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

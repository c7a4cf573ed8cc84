//! The three trials. Each has a server of its own and begins with an empty cache.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisServer, Resp};
use tokio::task::JoinSet;

use super::Outcome;
use super::ledger::{Findings, Ledger};
use super::subjects::{Subject, name};
use crate::Result;

const READERS: u64 = 8;
const WRITERS: u64 = 2;
const STEADY_KEYS: u64 = 200;
const RACE_READERS: u64 = 4;
const RACE_KEYS: u64 = 50;

/// Between two writes of one writer: writers that never rest leave nothing to be near.
const REST: Duration = Duration::from_millis(1);

/// Between two kills.
const KILL_EVERY: Duration = Duration::from_millis(100);

/// How late answers arrive while reads race writes.
const LATE: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(4);

/// After how many rounds of races it is looked at what is left.
const LOOK_EVERY: u64 = 20;

/// How long nothing is written before it is looked at what is left: the bound, and a little for the clock.
const QUIET: Duration = Duration::from_millis(101);

/// The same after the last kill: everybody is connected again by then.
const AFTER_KILLS: Duration = Duration::from_secs(5);

/// How long one may take to be connected again before its failures are given up on.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it is tried.
pub(super) struct Plan {
    span: Duration,
    races: u64,
}

impl Plan {
    pub(super) fn careful() -> Self {
        Self { span: Duration::from_secs(20), races: 1_000 }
    }

    pub(super) fn quick() -> Self {
        Self { span: Duration::from_secs(1), races: 40 }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "steady and kills: {:?} each; races: {} rounds", self.span, self.races)
    }
}

/// A ledger of keys that are all there: whether "there is nothing" is kept is not what is tried.
async fn first_versions(server: &RedisServer, keys: u64) -> Result<Ledger> {
    let ledger = Ledger::new(keys);
    let mut raw = server.connect().await;
    for key in 0..keys {
        raw.command(&["SET", &name(key), "1"]).await?;
        ledger.acked(key);
    }
    Ok(ledger)
}

pub(super) async fn steady<S: Subject>(plan: &Plan) -> Result<Outcome> {
    let server = RedisServer::start().await;
    under_load::<S>(&server, plan, None).await
}

pub(super) async fn kills<S: Subject>(plan: &Plan) -> Result<Outcome> {
    let server = RedisServer::start().await;
    under_load::<S>(&server, plan, Some(KILL_EVERY)).await
}

async fn under_load<S: Subject>(
    server: &RedisServer,
    plan: &Plan,
    kill_every: Option<Duration>,
) -> Result<Outcome> {
    let ledger = Arc::new(first_versions(server, STEADY_KEYS).await?);
    let subject = S::connect(&server.url()).await?;
    let over = Arc::new(AtomicBool::new(false));
    let writes = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut raw = server.connect().await;
        let (ledger, over, writes) = (Arc::clone(&ledger), Arc::clone(&over), Arc::clone(&writes));
        writers.spawn(async move {
            for step in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let key = writer + WRITERS * below(STEADY_KEYS / WRITERS, step);
                let version = (ledger.newest(key) + 1).to_string();
                raw.command(&["SET", &name(key), &version]).await?;
                ledger.acked(key);
                writes.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(REST).await;
            }
            Result::Ok(())
        });
    }
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let (subject, ledger, over) = (subject.clone(), Arc::clone(&ledger), Arc::clone(&over));
        readers.spawn(async move {
            let mut findings = Findings::default();
            for step in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let key = below(ledger.keys(), step * READERS + reader);
                let began = Instant::now();
                match subject.read(key).await {
                    Ok(seen) => findings.judge(&ledger, key, began, seen),
                    // A connection that is gone fails at once: the others have to run.
                    Err(_) => {
                        findings.failed += 1;
                        tokio::time::sleep(REST).await;
                    }
                }
                if step % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            findings
        });
    }
    let end = Instant::now() + plan.span;
    let mut killed = 0;
    while Instant::now() < end {
        tokio::time::sleep(kill_every.unwrap_or(plan.span)).await;
        if kill_every.is_some() {
            killed += kill_tracking(server).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut findings = Findings::default();
    while let Some(one) = readers.join_next().await {
        findings.add(&one?);
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    let hits = subject.hits(findings.reads, server).await?;
    // What is stale because a lost connection was not noticed yet is seen while it happens; here it is what stays.
    let quiet = if kill_every.is_some() { AFTER_KILLS } else { QUIET };
    look(&subject, &ledger, quiet, &mut findings).await?;
    let writes = writes.load(Ordering::Relaxed);
    Ok(Outcome { findings, hits, writes, kills: killed })
}

/// Reads and writes of the same keys at once, over a wire on which an answer, and the word that it is old already,
/// arrive together.
pub(super) async fn races<S: Subject>(plan: &Plan) -> Result<Outcome> {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let ledger = Arc::new(first_versions(&server, RACE_KEYS).await?);
    let subject = S::connect(&proxy.url()).await?;
    proxy.to_client().delay(LATE);
    let mut findings = Findings::default();
    for round in 1..=plan.races {
        let mut readers = JoinSet::new();
        for reader in 0..RACE_READERS {
            // Each key by a task of its own: its answer is taken when that task has its turn.
            for key in 0..RACE_KEYS {
                let (subject, ledger) = (subject.clone(), Arc::clone(&ledger));
                readers.spawn(async move {
                    for _ in 0..reader {
                        tokio::task::yield_now().await;
                    }
                    let mut findings = Findings::default();
                    let began = Instant::now();
                    match subject.read(key).await {
                        Ok(seen) => findings.judge(&ledger, key, began, seen),
                        Err(_) => findings.failed += 1,
                    }
                    findings
                });
            }
        }
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (ledger, mut raw) = (Arc::clone(&ledger), server.connect().await);
            writers.spawn(async move {
                for key in (writer..RACE_KEYS).step_by(WRITERS as usize) {
                    raw.command(&["SET", &name(key), &(round + 1).to_string()]).await?;
                    ledger.acked(key);
                }
                Result::Ok(())
            });
        }
        while let Some(one) = readers.join_next().await {
            findings.add(&one?);
        }
        while let Some(writer) = writers.join_next().await {
            writer??;
        }
        if round % LOOK_EVERY == 0 || round == plan.races {
            look(&subject, &ledger, QUIET, &mut findings).await?;
        }
    }
    let hits = subject.hits(findings.reads, &server).await?;
    Ok(Outcome { findings, hits, writes: plan.races * RACE_KEYS, kills: 0 })
}

/// Waits until every change must have been told, and looks at what each key gives then.
async fn look<S: Subject>(
    subject: &S,
    ledger: &Ledger,
    quiet: Duration,
    findings: &mut Findings,
) -> Result<()> {
    tokio::time::sleep(quiet).await;
    for key in 0..ledger.keys() {
        let end = Instant::now() + PATIENCE;
        let seen = loop {
            let began = Instant::now();
            match subject.read(key).await {
                Ok(seen) => {
                    findings.judge(ledger, key, began, seen);
                    break seen;
                }
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => {
                    findings.failed += 1;
                    tokio::time::sleep(REST).await;
                }
            }
        };
        findings.looked += 1;
        findings.left += u64::from(seen.unwrap_or(0) != ledger.newest(key));
    }
    Ok(())
}

/// Ends the connections that track. Answers how many there were.
async fn kill_tracking(server: &RedisServer) -> u64 {
    let list = server.command(&["CLIENT", "LIST"]).await.text().unwrap_or_default();
    let mut killed = 0;
    for line in list.lines() {
        let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name));
        // `t` among the flags: the connection tracks keys.
        if let (Some(id), true) =
            (field("id="), field("flags=").is_some_and(|flags| flags.contains('t')))
        {
            let reply = server.command(&["CLIENT", "KILL", "ID", id]).await;
            killed += u64::from(reply == Resp::Int(1));
        }
    }
    killed
}

/// Numbers in an order that looks like chance, the same in every run.
fn below(below: u64, step: u64) -> u64 {
    let mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)) % below
}

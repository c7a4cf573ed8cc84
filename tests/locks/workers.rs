//! Other processes: this test binary again, as a worker that does what it is told on its standard input.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{CacheClient, LockBuilder, LockGuard, Loss};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::common::process::{self, Process};

/// Starts a worker.
pub(crate) async fn start(url: &str) -> Process {
    Process::start("workers::a_worker_does_what_it_is_told", url).await
}

/// Nanoseconds by a clock that all processes of this machine share and nobody sets: the one by which a guard counts.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// When a guard held its lock, by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) token: u64,
}

impl Held {
    /// Holds `guard` for `work`, or, without it, until it is lost. Answers for how long it claimed to be valid, and whether it
    /// was lost.
    pub(crate) async fn through(guard: LockGuard, work: Option<Duration>) -> (Self, Option<Loss>) {
        let token = guard.fencing_token().expect("it is held alone");
        let from = now();
        let (mut until, end) = (from, work.map(|work| from + work.as_nanos() as u64));
        loop {
            let seen = now();
            let left = guard.valid_for();
            if left.is_zero() {
                return (Self { from, until, token }, Some(guard.lost().await));
            }
            if end.is_some_and(|end| seen >= end) {
                // It gives up what it was still good for.
                until = seen;
                _ = guard.release().await;
                return (Self { from, until, token }, None);
            }
            // What the guard claims, even if nobody can ask it again.
            until = seen + left.as_nanos() as u64;
            match work {
                Some(work) if work < Duration::from_millis(1) => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1)).await, // it works
            }
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.from, self.until, self.token)
    }
}

impl std::str::FromStr for Held {
    type Err = std::num::ParseIntError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut numbers = line.split(' ').map(str::parse);
        let mut next = || numbers.next().unwrap_or(Ok(0));
        Ok(Self { from: next()?, until: next()?, token: next()? })
    }
}

/// A lock that waits for as long as the faults of a test last.
fn patient(cache: &CacheClient, name: &str, lease_ms: &str) -> LockBuilder {
    cache
        .lock(name)
        .lease(Duration::from_millis(lease_ms.parse().unwrap()))
        .wait(Duration::from_secs(60))
        .owner(format!("process {}", std::process::id()))
}

/// The other side; in a test run of its own it has nobody to serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_does_what_it_is_told() {
    let Some(url) = process::told_url() else { return };
    let cache = CacheClient::connect(url).await.unwrap();
    println!("> ready");
    let log: Arc<Mutex<Vec<Held>>> = Arc::default();
    let losses = Arc::new(AtomicU64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let mut contending = JoinSet::new();
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // Many tasks take one lock again and again, until it is enough.
            ["contend", name, tasks, lease] => {
                let lock = patient(&cache, name, lease);
                for _ in 0..tasks.parse().unwrap() {
                    let lock = lock.clone();
                    let (log, losses) = (Arc::clone(&log), Arc::clone(&losses));
                    let enough = Arc::clone(&enough);
                    contending.spawn(async move {
                        while !enough.load(Ordering::Relaxed) {
                            let guard = lock.acquire().await.expect("it comes free");
                            let work = match fastrand::u8(..) {
                                0 => Duration::from_millis(3),
                                _ => Duration::ZERO,
                            };
                            let (held, lost) = Held::through(guard, Some(work)).await;
                            losses.fetch_add(u64::from(lost.is_some()), Ordering::Relaxed);
                            log.lock().unwrap().push(held);
                        }
                    });
                }
            }
            ["count"] => println!("> count {}", log.lock().unwrap().len()),
            ["enough"] => {
                enough.store(true, Ordering::Relaxed);
                while contending.join_next().await.transpose().unwrap().is_some() {}
                println!("> stopped");
            }
            // Holds the lock until it is lost, and says what came of work under it.
            ["hold", name, lease] => {
                let guard = patient(&cache, name, lease).acquire().await.expect("it comes free");
                let watcher = guard.watcher();
                let (log, losses) = (Arc::clone(&log), Arc::clone(&losses));
                tokio::spawn(async move {
                    println!("> holding {}", watcher.fencing_token().unwrap());
                    let (held, lost) = Held::through(guard, None).await;
                    losses.fetch_add(u64::from(lost.is_some()), Ordering::Relaxed);
                    log.lock().unwrap().push(held);
                    println!("> lost {lost:?}");
                });
            }
            // Works under the lock, and says for how long the work was polled after it was not held any more.
            ["work", name, lease] => {
                let guard = patient(&cache, name, lease).acquire().await.expect("it comes free");
                println!("> holding");
                let watcher = guard.watcher();
                let mut polled_late = 0;
                let work = std::future::poll_fn(|cx| {
                    polled_late += u64::from(!watcher.is_valid());
                    // Busy work: it is ready to go on whenever it is asked.
                    cx.waker().wake_by_ref();
                    std::task::Poll::<()>::Pending
                });
                let error = guard.run(work).await.unwrap_err();
                println!("> dropped {polled_late} {} {:?}", guard.is_valid(), error.kind());
            }
            // Writes down what was held so far.
            ["log", path] => {
                let log = std::mem::take(&mut *log.lock().unwrap());
                let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
                log.iter().for_each(|held| writeln!(file, "{held}").unwrap());
                file.flush().unwrap();
                let waited = cache.stats().locks.waited;
                println!(
                    "> logged {} {}",
                    losses.load(Ordering::Relaxed),
                    waited.max().as_millis()
                );
            }
            _ => panic!("a worker was told something that it does not know"),
        }
    }
}

//! P21: on one server that loses nothing, two guards of one name are never both valid by their own clocks.
//!
//! Not tried: a server whose clock is set. That takes a changed clock under the process (libfaketime), which a test
//! cannot bring along; `docs/locks.md` says what it would do.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::testing::{FaultProxy, RawConnection, RedisServer};
use tokio::time::Instant;

use crate::common::place::{Place, plain};
use crate::common::process::Process;
use crate::workers::{self, Held};
use crate::{alone, durable, ends, record, times, until};

/// How many contend in each process. The last process is behind a network that breaks.
const CONTENDERS: [u64; 4] = [13, 13, 12, 12];
const LEASE: Duration = Duration::from_millis(300);

/// What happened to the processes and the server meanwhile, each seen to have happened.
#[derive(Debug, Default)]
struct Faults {
    stopped_clients: u64,
    stopped_servers: u64,
    killed_connections: i64,
    script_flushes: u64,
    killed_servers: u64,
    delayed_grants: u64,
}

/// What came of it.
struct Contested {
    acquired: usize,
    shares: Vec<u64>,
    lost: u64,
    longest: u64,
}

impl Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acquired, shares, lost, longest } = self;
        write!(
            f,
            "{acquired} acquisitions by 50 contenders in 4 processes ({shares:?}), overlaps 0, {lost} guards lost, longest wait \
             {longest} ms"
        )
    }
}

/// Processes that contend for one lock, the last through a network that delays, if there is one server.
struct Contest {
    place: Place,
    proxy: Option<FaultProxy>,
    workers: Vec<Process>,
}

impl Contest {
    async fn over(place: Place) -> Self {
        let proxy = match place.nodes() {
            [server] => Some(FaultProxy::start(server.addr()).await),
            // A node names one address: all of its clients would be behind the proxy.
            _ => None,
        };
        let mut processes = Vec::new();
        for number in 0..CONTENDERS.len() {
            let behind = proxy.as_ref().filter(|_| number == 3);
            let url = behind.map_or_else(|| place.url(), FaultProxy::url);
            processes.push(workers::start(&url).await);
        }
        Self { place, proxy, workers: processes }
    }

    /// The server of the lock.
    fn server(&self) -> &RedisServer {
        &self.place.nodes()[self.place.at("lock:hot")]
    }

    async fn begin(&mut self) {
        for (worker, tasks) in self.workers.iter_mut().zip(CONTENDERS) {
            worker.tell(&format!("contend hot {tasks} {}", LEASE.as_millis())).await;
        }
    }

    /// How often each process has had the lock.
    async fn counts(&mut self) -> Vec<u64> {
        let mut counts = Vec::new();
        for worker in &mut self.workers {
            worker.tell("count").await;
            counts.push(worker.answer("count").await.parse().unwrap());
        }
        counts
    }

    /// Waits until they have had it so many times in all, and checks what they wrote down.
    async fn check(&mut self, count: u64) -> Contested {
        let hangs = Instant::now() + Duration::from_secs(600);
        let mut shares = self.counts().await;
        while shares.iter().sum::<u64>() < count {
            assert!(Instant::now() < hangs, "{shares:?} of {count} acquisitions in ten minutes");
            tokio::time::sleep(Duration::from_millis(50)).await; // polled
            shares = self.counts().await;
        }
        for worker in &mut self.workers {
            worker.tell("enough").await;
        }
        let mut all: Vec<Held> = Vec::new();
        let (mut lost, mut longest) = (0, 0);
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let path = self.place.nodes()[0].dir().join(format!("held-{number}"));
            worker.answer("stopped").await;
            worker.tell(&format!("log {}", path.display())).await;
            let said = worker.answer("logged").await;
            let (losses, waited) = said.split_once(' ').unwrap();
            lost += losses.parse::<u64>().unwrap();
            longest = longest.max(waited.parse().unwrap());
            let lines = std::fs::read_to_string(path).unwrap();
            all.extend(lines.lines().map(|line| line.parse::<Held>().unwrap()));
        }
        all.sort();
        let overlaps: Vec<_> = all
            .windows(2)
            .filter(|pair| pair[1].from < pair[0].until || pair[1].token <= pair[0].token)
            .collect();
        assert!(overlaps.is_empty(), "{} overlaps, {:?}", overlaps.len(), overlaps.first());
        Contested { acquired: all.len(), shares, lost, longest }
    }

    /// A client that holds the lock stands still past its lease, while others take it, and goes on.
    async fn stop_a_client(&mut self, number: usize, faults: &mut Faults) {
        let mut connection = self.server().connect().await;
        let worker = &mut self.workers[number];
        worker.tell(&format!("hold hot {}", LEASE.as_millis())).await;
        let token = worker.answer("holding").await;
        worker.stop().await;
        until("others take the lock of a process that stands still", async || {
            let last = connection.command(&["HGET", &record("hot"), "token"]).await.unwrap();
            last.text().is_some_and(|last| last > token)
        })
        .await;
        worker.go_on().await;
        assert_eq!(worker.answer("lost").await, "Some(Expired)", "its own clock tells it");
        faults.stopped_clients += 1;
    }

    /// Every answer to one process takes longer than the lease: what it gets it cannot use.
    async fn delay_grants(&mut self, faults: &mut Faults) {
        let Some(proxy) = &self.proxy else { return };
        let label = format!("process {}", self.workers[3].pid());
        let mut connection = self.server().connect().await;
        proxy.to_client().delay(LEASE..LEASE * 2);
        let mut seen = None;
        until("the lock is granted to a process that hears of it too late", async || {
            let ask = ["HMGET", &record("hot"), "owner", "token"];
            let record = connection.command(&ask).await.unwrap();
            let token = record.items()[1].text();
            // The second: the answer to the first may have been on its way before.
            let granted = record.items()[0].text().as_deref() == Some(&label);
            granted && seen.replace(token.clone()).is_some_and(|before| Some(before) != Some(token))
        })
        .await;
        proxy.to_client().delay(None);
        faults.delayed_grants += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_guards_of_one_name_are_never_both_valid() {
    let _turn = alone().await;
    contend(Place::one(plain).await, times(100_000), times(50)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_guards_of_one_name_are_never_both_valid_on_a_cluster() {
    let _turn = alone().await;
    contend(Place::primaries(plain).await, times(20_000), times(30)).await;
}

async fn contend(place: Place, count: u64, rounds: u64) {
    let mut contest = Contest::over(place).await;
    let started = Instant::now();
    contest.begin().await;
    let mut faults = Faults::default();
    let addr = contest.server().addr();
    let done = Arc::new(AtomicBool::new(false));
    let flushing = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let mut every = tokio::time::interval(Duration::from_millis(50));
            let mut flushes = 0;
            while !done.load(Ordering::Relaxed) {
                every.tick().await;
                // A connection each: others are killed.
                let mut connection = RawConnection::connect(addr).await.unwrap();
                let answer = connection.command(&["SCRIPT", "FLUSH"]).await;
                flushes +=
                    u64::from(answer.is_ok_and(|answer| answer.text().as_deref() == Some("OK")));
            }
            flushes
        }
    });
    for round in 0..rounds as usize {
        contest.stop_a_client(round % 4, &mut faults).await;
        contest.delay_grants(&mut faults).await;
        let killed = contest.server().command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        faults.killed_connections += killed.int().unwrap();
        contest.server().pause().await;
        // Longer than the lease: every guard is lost by its own clock before the server goes on.
        tokio::time::sleep(LEASE * 3 / 2).await;
        contest.server().resume().await;
        faults.stopped_servers += 1;
    }
    let contested = contest.check(count).await;
    let took = started.elapsed();
    let errors = contest.server().command(&["INFO", "errorstats"]).await.text().unwrap();
    done.store(true, Ordering::Relaxed);
    faults.script_flushes = ends("the flushes", flushing).await.unwrap();
    println!(
        "P21{}: {contested}, in {took:.1?}; {faults:?}; the server's clock was not set",
        contest.place.name()
    );
    assert!(faults.killed_connections > 0 && faults.script_flushes > 20, "{faults:?}");
    assert!(!errors.contains("NOSCRIPT"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_guards_are_never_both_valid_over_a_server_that_is_killed_and_keeps_what_it_confirmed()
{
    let _turn = alone().await;
    contend_over_kills(Place::one(durable).await, times(20_000), times(50)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_guards_are_never_both_valid_over_a_node_of_a_cluster_that_is_killed_and_keeps_what_it_confirmed()
 {
    let _turn = alone().await;
    contend_over_kills(Place::primaries(durable).await, times(5_000), times(30)).await;
}

async fn contend_over_kills(place: Place, count: u64, rounds: u64) {
    let mut contest = Contest::over(place).await;
    let started = Instant::now();
    contest.begin().await;
    let mut faults = Faults::default();
    for round in 0..rounds as usize {
        contest.stop_a_client(round % 4, &mut faults).await;
        contest.place.restart(contest.place.at("lock:hot")).await;
        faults.killed_servers += 1;
        let token = contest.server().command(&["HGET", &record("hot"), "token"]).await.text();
        let mut connection = contest.server().connect().await;
        until("the lock is taken again", async || {
            connection.command(&["HGET", &record("hot"), "token"]).await.unwrap().text() != token
        })
        .await;
    }
    let contested = contest.check(count).await;
    println!(
        "P21{}: a server that is killed (AOF always): {contested}, in {:.1?}; {faults:?}",
        contest.place.name(),
        started.elapsed()
    );
}

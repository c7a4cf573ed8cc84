//! P12: a replica takes over, on request and after its primary was killed or stopped. Calls are back soon after; what was
//! acknowledged and is gone all the same is counted, since replication does not wait.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::testing::RedisCluster;
use larder::{CacheClient, Direction, Error, ErrorKind, Outcome, ReadFrom};
use tokio::task::JoinSet;

use super::{alone, follows, ms, times, until};
use crate::common::{HANGS, quantile};

const WRITERS: usize = 8;
const DEADLINE: Duration = Duration::from_millis(500);

/// Longer than a failover on request takes.
const PATIENT: Duration = Duration::from_secs(5);

/// Lists on the node that fails, and one on another.
const LISTS: [&str; 2] = ["a:2", "a:3"];

#[derive(Default)]
struct Tally {
    acked: Vec<(Instant, String)>,
    failed: Vec<(String, Error)>,
    longest: Duration,
}

impl Tally {
    fn add(&mut self, id: String, pushed: larder::Result<u64>, took: Duration) {
        self.longest = self.longest.max(took);
        match pushed {
            Ok(_) => self.acked.push((Instant::now(), id)),
            Err(error) => self.failed.push((id, error)),
        }
    }
}

struct Load {
    over: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    writers: JoinSet<()>,
}

impl Load {
    fn start(cache: &CacheClient, list: &str) -> Self {
        let (over, tally) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Tally>>::default());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (cache, over, tally) = (cache.clone(), Arc::clone(&over), Arc::clone(&tally));
            let list = list.to_owned();
            writers.spawn(async move {
                for number in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = format!("{writer}-{number}");
                    let asked = Instant::now();
                    let pushed = cache.push_to_list(&list, &id, Direction::Right).await;
                    tally.lock().unwrap().add(id, pushed, asked.elapsed());
                    // As a caller paces itself; the gap is measured in milliseconds.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        Self { over, tally, writers }
    }

    fn acked(&self) -> usize {
        self.tally.lock().unwrap().acked.len()
    }

    /// Waits for more acknowledgements.
    async fn works(&self) {
        let before = self.acked();
        until("calls are acknowledged", async || self.acked() >= before + 50).await;
    }

    /// When the first call was acknowledged after a moment.
    async fn resumed(&self, after: Instant) -> Duration {
        let mut first = None;
        until("calls are acknowledged again", async || {
            let tally = self.tally.lock().unwrap();
            first = tally.acked.iter().map(|(at, _)| *at).filter(|at| *at > after).min();
            first.is_some()
        })
        .await;
        first.unwrap().duration_since(after)
    }

    async fn end(self) -> Tally {
        self.over.store(true, Ordering::Relaxed);
        self.writers.join_all().await;
        std::mem::take(&mut *self.tally.lock().unwrap())
    }
}

/// For how long Redis 6 goes on holding back what it is told, after a replica took over from it on request.
const SERVERS_PAUSE: Duration = Duration::from_secs(5);

/// Whether these servers do: clients' writes, and what their new primary tells them.
pub(super) async fn holds_back(cluster: &RedisCluster) -> bool {
    cluster.nodes()[0].info("redis_version").await.starts_with("6.")
}

#[derive(Default)]
struct Figures {
    // Whether the servers hold writes back after a failover on request.
    is_paused: bool,
    resumed: Vec<Duration>,
    acked: usize,
    lost: usize,
    doubled: usize,
    read_only: usize,
    kinds: HashMap<(ErrorKind, Outcome), usize>,
    applied_although_refused: usize,
    longest: Duration,
    // The longest list that was read in the end, and how long that took.
    looked: (usize, Duration),
}

impl Figures {
    /// Counts what became of the pushes of a round.
    async fn count(&mut self, cluster: &RedisCluster, list: &str, tally: Tally) {
        // All that was pushed in one answer: reading some hundred thousand elements takes a build without optimisation longer
        // than the deadline of the calls that were tried.
        let patient = CacheClient::builder().url(cluster.url()).deadline(HANGS).build().unwrap();
        let asked = Instant::now();
        let found = patient.get_list(list).await.unwrap();
        self.looked = self.looked.max((found.len(), asked.elapsed()));
        let there: HashSet<&String> = found.iter().collect();
        self.acked += tally.acked.len();
        self.longest = self.longest.max(tally.longest);
        self.lost += tally.acked.iter().filter(|(_, id)| !there.contains(id)).count();
        self.doubled += found.len() - there.len();
        for (id, error) in &tally.failed {
            *self.kinds.entry((error.kind(), error.outcome())).or_default() += 1;
            self.read_only += usize::from(error.kind() == ErrorKind::ReadOnly);
            let refused = matches!(error.outcome(), Outcome::NotSent | Outcome::Rejected);
            self.applied_although_refused += usize::from(refused && there.contains(id));
        }
    }

    fn print(&mut self, what: &str) {
        self.resumed.sort_unstable();
        println!(
            "P12 cluster: {what}, {} times: resumed {:.0} / {:.0} ms (p50/max) after the promotion; READONLY seen {}; {} \
             pushes acked, {} acked but lost, {} doubled; errors {:?}, the longest call {:.0} ms; {} elements read in {:.0?}",
            self.resumed.len(),
            ms(self.resumed[self.resumed.len() / 2]),
            ms(*self.resumed.last().unwrap()),
            self.read_only,
            self.acked,
            self.lost,
            self.doubled,
            self.kinds,
            ms(self.longest),
            self.looked.0,
            self.looked.1
        );
        let most = if self.is_paused { SERVERS_PAUSE } else { Duration::from_secs(2) };
        assert!(*self.resumed.last().unwrap() < most, "{:?}", self.resumed);
        assert_eq!((self.read_only, self.doubled, self.applied_although_refused), (0, 0, 0));
    }
}

/// What became of the calls beside, before a node died and from then until it was replaced.
#[derive(Default)]
struct Others {
    before: Vec<Duration>,
    meanwhile: Vec<Duration>,
    failed: Vec<Error>,
}

impl Others {
    fn add(&mut self, before: Vec<Duration>, (meanwhile, failed): (Vec<Duration>, Vec<Error>)) {
        self.before.extend(before);
        self.meanwhile.extend(meanwhile);
        self.failed.extend(failed);
    }

    fn print(&mut self, full_coverage: &str) {
        let times = [&mut self.before, &mut self.meanwhile].map(|times| {
            times.sort_unstable();
            [0.5, 0.99, 1.0].map(|share| ms(quantile(times, share)))
        });
        println!(
            "P12 cluster: calls to the other nodes, cluster-require-full-coverage {full_coverage}: before {} took {:.1?} ms \
             (p50/p99/max), while a node was dead {} took {:.1?} ms, {} failed",
            self.before.len(),
            times[0],
            self.meanwhile.len(),
            times[1],
            self.failed.len()
        );
        assert!(self.before.len() >= 200 && self.meanwhile.len() >= 200, "nothing was called");
    }
}

fn client(cluster: &RedisCluster, deadline: Duration) -> CacheClient {
    CacheClient::builder().url(cluster.url()).deadline(deadline).build().unwrap()
}

/// Calls on keys of the nodes that stay: how long each took, and what failed.
struct Beside {
    over: Arc<AtomicBool>,
    done: Arc<Mutex<(Vec<Duration>, Vec<Error>)>>,
    callers: JoinSet<()>,
}

impl Beside {
    fn start(cache: &CacheClient, primary: usize) -> Self {
        let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut callers = JoinSet::new();
        // Slots do not move: a node and its replica serve the same third for good.
        let share = |key: &str| usize::from(RedisCluster::slot(key)) * 3 / 16_384;
        let others = (0..).map(|number| format!("beside:{number}"));
        for key in others.filter(|key| share(key) != primary % 3).take(WRITERS) {
            let (cache, over) = (cache.clone(), Arc::clone(&over));
            let done: Arc<Mutex<(Vec<Duration>, Vec<Error>)>> = Arc::clone(&done);
            callers.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let result = cache.incr_by(&key, 1).await;
                    let took = asked.elapsed();
                    _ = done.lock().map(|mut done| {
                        done.0.push(took);
                        done.1.extend(result.err());
                    });
                    tokio::time::sleep(Duration::from_millis(1)).await; // a pace
                }
            });
        }
        Self { over, done, callers }
    }

    /// What was called since the last look.
    fn look(&self) -> (Vec<Duration>, Vec<Error>) {
        std::mem::take(&mut *self.done.lock().unwrap())
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.callers.join_all().await;
    }
}

/// The replica of a primary, or the other way round: nodes are started in that order.
pub(super) fn partner(at: usize) -> usize {
    (at + 3) % 6
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_asked_to_takes_over_without_a_gap() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let cache = client(&cluster, PATIENT);
    let list = LISTS[0];
    let mut figures = Figures::default();
    let load = Load::start(&cache, list);
    for _ in 0..times(30).max(3) {
        load.works().await;
        let replica = partner(cluster.owner(RedisCluster::slot(list)).await);
        until("the replica is up to date", async || {
            cluster.nodes()[replica].info("master_link_status").await == "up"
        })
        .await;
        cluster.fail_over_to(replica).await;
        figures.resumed.push(load.resumed(Instant::now()).await);
    }
    let tally = load.end().await;
    figures.count(&cluster, list, tally).await;
    figures.is_paused = holds_back(&cluster).await;
    figures.print("CLUSTER FAILOVER");
    assert_eq!(figures.lost, 0, "a failover on request loses nothing");
    let fails = !figures.is_paused && !figures.kinds.is_empty();
    assert!(!fails, "a failover on request fails no call: {:?}", figures.kinds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_back_after_a_primary_was_killed() {
    let _turn = alone().await;
    let mut cluster = RedisCluster::start().await;
    let cache = client(&cluster, DEADLINE);
    let mut figures = Figures::default();
    let mut others = [Others::default(), Others::default()];
    for round in 0..times(20).max(2) {
        // A list of its own each, of the same node or another.
        let list = format!("{}:{round}", LISTS[round as usize % 2]);
        let load = Load::start(&cache, &list);
        load.works().await;
        let primary = cluster.owner(RedisCluster::slot(&list)).await;
        let replica = partner(primary);
        // By default all nodes refuse while nobody serves some slots: from when they agree that one is gone.
        let full_coverage = round % 2 == 1;
        for node in cluster.nodes() {
            let word = if full_coverage { "yes" } else { "no" };
            let set = ["CONFIG", "SET", "cluster-require-full-coverage", word];
            assert!(!node.command(&set).await.is_error());
        }
        let beside = Beside::start(&cache, primary);
        until("calls are made beside", async || beside.done.lock().unwrap().0.len() >= 200).await;
        let (before, failed) = beside.look();
        assert!(failed.is_empty(), "{failed:?}");
        cluster.kill(primary).await;
        cluster.is_primary(replica).await;
        figures.resumed.push(load.resumed(Instant::now()).await);
        others[usize::from(full_coverage)].add(before, beside.look());
        beside.end().await;
        load.works().await;
        // The client need not be told of the node that comes back.
        cluster.restart(primary).await;
        follows(&cluster, primary).await;
        cluster.owner(RedisCluster::slot(&list)).await;
        load.works().await;
        let tally = load.end().await;
        figures.count(&cluster, &list, tally).await;
    }
    figures.print("a primary killed");
    let [alone, together] = &mut others;
    alone.print("no");
    together.print("yes");
    assert!(alone.failed.is_empty(), "the others were not concerned: {:?}", alone.failed);
    assert!(!figures.kinds.is_empty(), "nobody noticed that a primary was gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_stopped_and_comes_back_as_one_is_not_written_to() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let cache = client(&cluster, DEADLINE);
    let mut figures = Figures::default();
    for round in 0..times(20).max(2) {
        let list = format!("{}:{round}", LISTS[round as usize % 2]);
        let load = Load::start(&cache, &list);
        load.works().await;
        let primary = cluster.owner(RedisCluster::slot(&list)).await;
        let replica = partner(primary);
        // Connections stay open, and nothing is answered.
        cluster.nodes()[primary].pause().await;
        cluster.is_primary(replica).await;
        figures.resumed.push(load.resumed(Instant::now()).await);
        load.works().await;
        cluster.nodes()[primary].resume().await;
        load.works().await;
        follows(&cluster, primary).await;
        let tally = load.end().await;
        figures.count(&cluster, &list, tally).await;
    }
    figures.print("a primary stopped and continued");
}

/// The connections are split among the nodes: one that takes over has none until the old one gives its own back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_within_a_bound_on_all_connections() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let number = (0_u64..).find(|n| RedisCluster::slot(format!("v:{n}")) < 5_000).unwrap();
    let mut takes_over = [partner(0), 0].into_iter().cycle();
    // Some are left over, one is, none are.
    for most in [14, 10, 6] {
        let url = format!("{}?max_connections={most}", cluster.url());
        let builder = CacheClient::builder().url(url).deadline(PATIENT);
        let cache = builder.connect().await.unwrap();
        let values = cache.namespace::<u64, u64>("v").near(true).build().unwrap();
        for near in [false, true] {
            cluster.fail_over_to(takes_over.next().unwrap()).await;
            // What tells of changes also looks who serves what: without it the call does.
            let called = Instant::now();
            cache.set_value(format!("v:{number}"), 1, None).await.unwrap();
            let took = called.elapsed();
            if near {
                until("it is kept near again", async || {
                    values.get(&number).await.unwrap();
                    values.explain(&number) == Some(ReadFrom::Near)
                })
                .await;
            }
            println!(
                "failover with {most} connections: a call after {:.0} ms, kept near again: {near}",
                ms(took)
            );
        }
    }
}

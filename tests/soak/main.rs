//! A soak: everything that larder offers at once, by two clients, under a seeded mix of faults, in each place where it may
//! run: on one server, over TLS, on a cluster, and behind sentinels. It runs for some seconds in each, and with
//! `LARDER_FULL=1` for ten minutes on one server and on the cluster and for three in the others; `LARDER_SEED` repeats a mix.
//!
//! What is judged, and where:
//!
//! | promise | one server, TLS | cluster, sentinels |
//! |---|---|---|
//! | no answer to another call, no value that nobody wrote, nothing torn | always | always |
//! | a write that was refused was not applied, and none is applied twice | always | always |
//! | a call ends 50 ms after its deadline, and as late as the machine is then, one in 100 at most (`lateness.rs`) | always | always |
//! | no call fails between two faults, once each server answered again, but where the machine is busy then | always | always |
//! | what was acknowledged is there; answers follow from those before | always | but for what a failover may have lost |
//! | no read is older than an own write, or for four seconds older than another's | always | but for what a failover may have lost |
//! | no lock has too many holders, no fencing token falls back | always | but for what a failover may have lost |
//! | the same of a lock that its replica acknowledges (`replicas(1)`) | | always |
//! | no value outlives its time to live | always | but where its slot moved meanwhile |
//! | a scan leaves nothing out | but where the server was started again | but where who serves what changed |
//! | every operation was done, and, once each fault had its turn, each happened and cost guards | always | always |
//! | memory stays flat; tasks and files are as after the warm-up while the clients live, and as before it at the end | always | always |
//!
//! Replication does not wait, so a replica that takes over from a primary that was killed or stopped, or by `SENTINEL FAILOVER`,
//! may not have what was acknowledged last. It is counted, and excused for what was acknowledged before or during such a failover
//! and not confirmed since. A failover that a cluster's replica is asked for (`CLUSTER FAILOVER`) loses nothing and excuses
//! nothing, nor does a slot that moves. A node that is away for a moment may be taken for dead on a busy machine: what is
//! acknowledged is judged again once it is seen that nobody took its place. Keys of a slot that moves are given their remaining
//! time anew when they arrive, and what comes after a delete in a pipeline may run before it (`docs/configuration.md`). A server
//! that starts again, or another one, goes through its keys in another order: the rest of a scan is another one's.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod held;
mod lateness;
mod lists;
mod locks;
mod origin;
mod place;
mod register;
mod registers;
mod scans;
mod steps;
mod tally;
mod through;
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::methods::methods;
use common::{full, resident, until};
use tokio::task::JoinSet;

use self::faults::Faults;
use self::lists::Ledgers;
use self::place::{Place, Topology};
use self::world::World;

/// What a call may take, by the setting of both clients.
const DEADLINE: Duration = Duration::from_millis(500);

/// How much more memory the process may have at the end than when it had warmed up.
const GROWTH: u64 = 16 << 20;

/// For so long everything is done without faults first, so that all connections stand.
const WARM_UP: Duration = Duration::from_secs(2);

/// Tasks and files count as settled when they are the same for so long.
const QUIET: Duration = Duration::from_millis(500);

/// What this process has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    tasks: usize,
    // And sockets.
    files: usize,
}

impl Open {
    fn now() -> Self {
        Self {
            tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
            files: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        }
    }

    /// What is open when nothing comes or goes any more.
    async fn settled() -> Self {
        let (mut open, mut since) = (Self::now(), Instant::now());
        until("tasks and files settle", async || {
            let now = Self::now();
            if now != open {
                (open, since) = (now, Instant::now());
            }
            since.elapsed() > QUIET
        })
        .await;
        open
    }

    fn is_within(self, other: Self) -> bool {
        self.tasks <= other.tasks && self.files <= other.files
    }
}

/// The most memory that was seen in a part of the run.
#[derive(Default)]
struct Memory {
    warm: u64,
    end: u64,
}

impl Memory {
    /// Looks until the run is over. Between a quarter and a half of it is warm; the last quarter is the end.
    async fn watch(length: Duration) -> Self {
        let (begun, mut seen) = (Instant::now(), Self::default());
        while begun.elapsed() < length {
            match begun.elapsed().as_secs_f64() / length.as_secs_f64() {
                part if (0.25..0.5).contains(&part) => seen.warm = seen.warm.max(resident()),
                part if part >= 0.75 => seen.end = seen.end.max(resident()),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(100)).await; // paced
        }
        seen
    }
}

/// Everything that is done at once.
struct Work {
    world: Arc<World>,
    ledgers: Arc<Ledgers>,
    workers: JoinSet<()>,
}

impl Work {
    fn start(world: World) -> Self {
        let (world, ledgers) = (Arc::new(world), Arc::<Ledgers>::default());
        let mut workers = JoinSet::new();
        registers::spawn(&world, &mut workers);
        steps::spawn(&world, &mut workers);
        lists::spawn(&world, &ledgers, &mut workers);
        through::spawn(&world, &mut workers);
        locks::spawn(&world, &mut workers);
        scans::spawn(&world, &mut workers);
        Self { world, ledgers, workers }
    }

    /// A worker that panicked has the reason.
    fn goes_on(&mut self) {
        while let Some(ended) = self.workers.try_join_next() {
            ended.unwrap();
        }
    }

    async fn end(&mut self) {
        self.world.stop();
        let ending = async {
            while let Some(ended) = self.workers.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ending).await.expect("a worker hangs");
        self.world.settle().await;
    }

    /// Gives the world back, when nobody uses it any more.
    async fn over(self) {
        drop(self.workers);
        let world = Arc::into_inner(self.world).expect("all workers ended");
        world.lateness.stop().await;
    }
}

fn seed() -> u64 {
    let Some(seed) = std::env::var_os("LARDER_SEED") else { return fastrand::u64(..) };
    let number = seed.to_str().and_then(|seed| seed.parse().ok());
    number.unwrap_or_else(|| panic!("LARDER_SEED is no number: {seed:?}"))
}

/// One test at a time, and its runtime with it: what the whole process has open is counted.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed says so itself.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn soak(topology: Topology, length: Duration) {
    let _turn = turn();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(soaked(topology, length));
}

async fn soaked(topology: Topology, length: Duration) {
    let seed = seed();
    println!("soak {topology:?}: LARDER_SEED={seed}");
    let before = Open::now();
    let place = Place::start(topology).await;
    let builder = place.builder();
    let clients = [builder().build().unwrap(), builder().build().unwrap()];
    let others = [place.clients_of_others(), place.clients_of_others()];
    let world = || {
        let (clients, others) = (clients.clone(), others.clone());
        World::new(clients, others, place.builder(), topology, seed)
    };

    let mut work = Work::start(world());
    tokio::time::sleep(WARM_UP).await;
    work.end().await;
    work.over().await;
    let warm = Open::settled().await;
    place.empty().await;

    let mut work = Work::start(world());
    let world = Arc::clone(&work.world);
    world.settle().await;
    let (begun, memory) = (Instant::now(), tokio::spawn(Memory::watch(length)));
    let mut faults = Faults::new(place, seed);
    while begun.elapsed() < length {
        faults.next(&world).await;
        work.goes_on();
    }
    work.end().await;
    let seen = memory.await.unwrap();
    through::count_reads(&world);

    println!("soak {topology:?} of {length:?}, faults: {faults}");
    println!("soak {topology:?}: {}", world.tally);
    lists::check(&world, &work.ledgers, &faults.place).await;
    let (warm_memory, end_memory) = (seen.warm >> 10, seen.end >> 10);
    println!("soak {topology:?}: {warm_memory} KiB when warm, {end_memory} KiB at the end");
    let through = faults.check();
    world.tally.check(topology, through);
    let grown = format_args!("{warm_memory} KiB, {end_memory} KiB at the end");
    assert!(seen.end <= seen.warm + GROWTH, "memory grows: {grown}");

    drop(world);
    work.over().await;
    let mut quiet = Open::settled().await;
    until("no more is open than after the warm-up", async || {
        println!("soak {topology:?}: after the warm-up {warm:?}, now that all is quiet {quiet:?}");
        // Of a node that served slots on their way a cluster's client lets go after ten seconds.
        quiet.is_within(warm) || {
            quiet = Open::settled().await;
            false
        }
    })
    .await;

    for client in clients.iter().chain(others.iter().flatten()) {
        client.close().await;
    }
    drop((clients, others, faults, builder));
    until("all that was opened is closed", async || Open::now().is_within(before)).await;
    println!("soak {topology:?}: {:?} left, before it {before:?}", Open::now());
}

/// In seconds: some, or the whole of it.
fn length(some: u64, whole: u64) -> Duration {
    Duration::from_secs(if full() { whole } else { some })
}

#[test]
fn on_one_server_nothing_breaks_and_nothing_grows() {
    soak(Topology::One, length(15, 600));
}

#[test]
fn over_tls_nothing_breaks_and_nothing_grows() {
    soak(Topology::Tls, length(10, 180));
}

#[test]
fn on_a_cluster_nothing_breaks_and_nothing_grows() {
    soak(Topology::Cluster, length(15, 600));
}

#[test]
fn behind_sentinels_nothing_breaks_and_nothing_grows() {
    soak(Topology::Sentinels, length(12, 180));
}

#[test]
fn every_method_is_soaked() {
    let _turn = turn();
    let done: BTreeSet<String> = tally::OPERATIONS.iter().map(|one| (*one).to_owned()).collect();
    let missing: Vec<_> = methods().difference(&done).cloned().collect();
    assert!(missing.is_empty(), "do these as well: {missing:?}");
}

//! A soak: everything that larder offers at once, by two clients that share a server, under a seeded mix of faults.
//! Nothing promised may break, and memory, tasks and files are flat at the end. It runs for some seconds, and for ten
//! minutes with `LARDER_FULL=1`; `LARDER_SEED` repeats a mix.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod locks;
mod registers;
mod sums;
mod through;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{full, resident, until};
use larder::testing::{FaultProxy, RedisServer};
use tokio::task::JoinSet;

use self::faults::Faults;
use self::world::World;

/// What a call may take, by the setting of both clients.
const DEADLINE: Duration = Duration::from_millis(500);

/// How much more memory the process may have at the end than when it had warmed up.
const GROWTH: u64 = 16 << 20;

fn length() -> Duration {
    Duration::from_secs(if full() { 600 } else { 20 })
}

/// How many files and sockets this process has open.
fn files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// The most memory that was seen in a part of the run.
#[derive(Default)]
struct Memory {
    warm: u64,
    end: u64,
}

impl Memory {
    /// Between a quarter and a half of the run is warm; the last quarter is the end.
    fn look(&mut self, elapsed: Duration, length: Duration) {
        match elapsed.as_secs_f64() / length.as_secs_f64() {
            part if (0.25..0.5).contains(&part) => self.warm = self.warm.max(resident()),
            part if part >= 0.75 => self.end = self.end.max(resident()),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_breaks_and_nothing_grows() {
    let seed = std::env::var("LARDER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("soak: LARDER_SEED={seed}");
    let (tasks_before, files_before) = (tasks(), files());

    let server =
        ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"];
    let server = server.into_iter().fold(RedisServer::builder(), |server, arg| server.arg(arg));
    let server = server.start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let world = Arc::new(World::new(&proxy.url(), seed));
    let mut workers = JoinSet::new();
    registers::spawn(&world, &mut workers);
    sums::spawn(&world, &mut workers);
    through::spawn(&world, &mut workers);
    locks::spawn(&world, &mut workers);

    // Without connections there is nothing to cut.
    world.settle().await;
    let (length, begun, mut seen) = (length(), Instant::now(), Memory::default());
    let mut faults = Faults::new(server, proxy, seed);
    while begun.elapsed() < length {
        faults.next(&world).await;
        seen.look(begun.elapsed(), length);
        // A worker that panicked has the reason.
        while let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
    }
    faults.over().await;
    world.stop();
    let ending = async {
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ending).await.expect("a worker hangs");
    world.settle().await;
    sums::check(&world, faults.server()).await;

    println!("soak of {length:?}, faults: {faults}");
    println!("soak: {}", world.tally);
    let (warm, end) = (seen.warm >> 10, seen.end >> 10);
    println!("soak: {warm} KiB when warm, {end} KiB at the end");
    faults.check();
    world.tally.check(DEADLINE);
    assert!(seen.end <= seen.warm + GROWTH, "memory grows: {warm} KiB, {end} KiB at the end");

    for client in &world.clients {
        client.close().await;
    }
    drop((world, faults));
    until("all tasks end with their clients", async || tasks() <= tasks_before).await;
    until("all sockets are closed", async || files() <= files_before).await;
    println!("soak: {} tasks and {} files left, as before it", tasks(), files());
}

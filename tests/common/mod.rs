//! What the suites on real servers have in common: counts, turns, waiting, figures, and where a test runs.

#![allow(dead_code, reason = "each suite takes what it needs")]

pub(crate) mod methods;
pub(crate) mod place;
pub(crate) mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::{RawConnection, RedisServer, RedisServerBuilder};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Whether the full counts were asked for.
pub(crate) fn full() -> bool {
    std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1")
}

/// How often something is tried: in full, or a tenth.
pub(crate) fn times(all: u64) -> u64 {
    if full() { all } else { all / 10 }
}

/// The figures of these tests are times and counts under load: one test at a time has the machine.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// What has to end ends within this time: longer than any wait of these tests, shorter than a person waits.
pub(crate) const HANGS: Duration = Duration::from_secs(30);

pub(crate) async fn ends<F: Future>(what: &str, work: F) -> F::Output {
    tokio::time::timeout(HANGS, work).await.unwrap_or_else(|_| panic!("{what} hung"))
}

/// Waits until `holds`; what it waits for gives no event to await.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let hangs = Instant::now() + HANGS;
    while !holds().await {
        assert!(Instant::now() < hangs, "{what}: not within {HANGS:?}");
        tokio::time::sleep(Duration::from_millis(1)).await; // polled
    }
}

/// As [`until`], of what this process knows; a task of its own can wait so.
pub(crate) async fn until_seen(what: &str, mut holds: impl FnMut() -> bool) {
    let hangs = Instant::now() + HANGS;
    while !holds() {
        assert!(Instant::now() < hangs, "{what}: not within {HANGS:?}");
        tokio::time::sleep(Duration::from_millis(1)).await; // polled
    }
}

/// Waits until a key is gone, however that comes.
pub(crate) async fn gone(direct: &mut RawConnection, key: &str) {
    ends("a key", async {
        while direct.command(&["EXISTS", key]).await.unwrap().int() != Some(0) {
            tokio::time::sleep(Duration::from_millis(1)).await; // polled
        }
    })
    .await;
}

/// How late this machine is at most with what is due, while something is measured by the clock: that may be late by as much,
/// through nobody's fault. On a thread of its own: what holds up the runtime is no excuse.
pub(crate) struct Lateness {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Lateness {
    const TICK: Duration = Duration::from_millis(2);

    pub(crate) fn watch() -> Self {
        let (most, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (seen, ends) = (Arc::clone(&most), Arc::clone(&over));
        std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let before = std::time::Instant::now();
                std::thread::sleep(Self::TICK); // it is the timer that is measured
                let late = before.elapsed().saturating_sub(Self::TICK);
                seen.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        Self { most, over }
    }

    pub(crate) async fn most(self) -> Duration {
        // The tick that is due has its turn.
        tokio::time::sleep(Self::TICK * 2).await;
        Duration::from_micros(self.most.load(Ordering::Relaxed))
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The value below which `share` of the sorted ones lie.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// User and system time of this process.
pub(crate) fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this figure needs Linux");
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10) // a hundred ticks a second
}

/// The memory of this process, in bytes.
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this figure needs Linux");
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Looks how much memory this process has, every few milliseconds, on a thread of its own.
pub(crate) struct Peak {
    start: u64,
    peak: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    looking: std::thread::JoinHandle<()>,
}

impl Peak {
    pub(crate) fn watch() -> Self {
        let start = resident();
        let (peak, over) = (Arc::new(AtomicU64::new(start)), Arc::new(AtomicBool::new(false)));
        let (seen, ends) = (Arc::clone(&peak), Arc::clone(&over));
        let looking = std::thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                seen.fetch_max(resident(), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5)); // a sampler
            }
        });
        Self { start, peak, over, looking }
    }

    /// What it was at the start, and at most.
    pub(crate) fn ends(self) -> (u64, u64) {
        self.over.store(true, Ordering::SeqCst);
        self.looking.join().unwrap();
        (self.start, self.peak.load(Ordering::SeqCst).max(resident()))
    }
}

/// A server that loses nothing that it confirmed.
pub(crate) fn durable(server: RedisServerBuilder) -> RedisServerBuilder {
    server.arg("--appendonly").arg("yes").arg("--appendfsync").arg("always")
}

/// What a server says of the connections that it tells of changes, a line each.
pub(crate) async fn tracked(server: &RedisServer) -> Vec<String> {
    let list = server.command(&["CLIENT", "LIST"]).await.text().unwrap();
    let tells = |line: &&str| word_of(line, "flags=").is_some_and(|flags| flags.contains('t'));
    list.lines().filter(tells).map(str::to_owned).collect()
}

/// The identifiers of these connections.
pub(crate) async fn tracking(server: &RedisServer) -> Vec<String> {
    let lines = tracked(server).await;
    lines.iter().filter_map(|line| word_of(line, "id=").map(str::to_owned)).collect()
}

/// The word of a line of `CLIENT LIST` that begins so, without its beginning.
pub(crate) fn word_of<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(start))
}

/// How often a server was asked for a command.
pub(crate) async fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
    let start = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&start));
    calls.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

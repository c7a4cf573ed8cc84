//! Counting operations over a span of time, and the CPU time that they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::Result;

/// How long a round is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) warm_up: Duration,
    pub(crate) span: Duration,
}

impl Pace {
    pub(crate) fn careful() -> Self {
        Self { warm_up: Duration::from_millis(150), span: Duration::from_millis(600) }
    }

    pub(crate) fn quick() -> Self {
        Self { warm_up: Duration::from_millis(50), span: Duration::from_millis(200) }
    }
}

/// One round of one contender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) operations: u64,
    pub(crate) wall: Duration,
    /// User and system time of this process: the server is another one.
    pub(crate) cpu: Duration,
    /// How many commands the server took in one read, on average; 0 where there is no server or it was not
    /// counted.
    pub(crate) commands_per_read: f64,
}

impl Sample {
    pub(crate) const NOTHING: Self =
        Self { operations: 0, wall: Duration::ZERO, cpu: Duration::ZERO, commands_per_read: 0.0 };

    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }

    /// Wall time of one operation; of several tasks, divided by their number.
    pub(crate) fn nanos(&self) -> f64 {
        1e9 / self.per_second()
    }

    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations as f64
    }
}

impl std::ops::AddAssign for Sample {
    /// Two parts of one round.
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// What the tasks of a round share with the one that measures.
#[derive(Debug)]
pub(crate) struct Meter {
    stop: AtomicBool,
}

/// One task's count, alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Tally(AtomicU64);

/// What a task counts with.
#[derive(Debug)]
pub(crate) struct Counter {
    tally: Arc<Tally>,
    meter: Arc<Meter>,
}

impl Counter {
    /// Counts operations that are done; answers whether to go on.
    pub(crate) fn done(&self, operations: u64) -> bool {
        let before = self.tally.0.load(Ordering::Relaxed);
        self.tally.0.store(before + operations, Ordering::Relaxed);
        !self.meter.stop.load(Ordering::Relaxed)
    }
}

/// Calls that need no wait, between two looks at the clock and the counter.
pub(crate) const STRIDE: u64 = 4096;

/// Counts what needs no wait, and now and then lets the other tasks of the runtime run: who is always ready would
/// keep the timer of the round waiting. Answers whether it is over.
pub(crate) async fn pause(number: u64, counter: &Counter) -> bool {
    if number % STRIDE != STRIDE - 1 {
        return false;
    }
    tokio::task::yield_now().await;
    !counter.done(STRIDE)
}

/// Runs `tasks` tasks, each of which works until its counter says stop; what they do while warming
/// up is not counted.
pub(crate) async fn round<F, Fut>(tasks: usize, pace: &Pace, task: F) -> Result<Sample>
where
    F: Fn(usize, Counter) -> Fut,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let meter = Arc::new(Meter { stop: AtomicBool::new(false) });
    let tallies: Vec<Arc<Tally>> = (0..tasks).map(|_| Arc::default()).collect();
    let mut running = JoinSet::new();
    for (number, tally) in tallies.iter().enumerate() {
        let counter = Counter { tally: Arc::clone(tally), meter: Arc::clone(&meter) };
        running.spawn(task(number, counter));
    }
    let total = || tallies.iter().map(|tally| tally.0.load(Ordering::Relaxed)).sum::<u64>();
    tokio::time::sleep(pace.warm_up).await;
    let (begun, cpu_before, before) = (Instant::now(), cpu_time(), total());
    tokio::time::sleep(pace.span).await;
    let (wall, cpu, after) = (begun.elapsed(), cpu_time() - cpu_before, total());
    meter.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(Sample { operations: after - before, wall, cpu, commands_per_read: 0.0 })
}

/// What this process has taken of the processors.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// One round of contenders that are compared closely, each of them the sum of so many slices: they differ by less than the
/// machine does from one second to the next, so they take turns quickly, and nobody always runs first.
pub(crate) async fn in_turns<'a>(
    contenders: usize,
    turn: usize,
    slices: usize,
    run: impl Fn(usize) -> BoxFuture<'a, Result<Sample>>,
) -> Result<Vec<Sample>> {
    let mut sums = vec![Sample::NOTHING; contenders];
    for slice in 0..slices {
        for place in 0..contenders {
            let at = (place + slice + turn) % contenders;
            sums[at] += run(at).await?;
        }
    }
    Ok(sums)
}

/// The value in the middle; of an even number, the upper one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

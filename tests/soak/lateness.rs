//! How late this machine is: timers that have nothing to do, beside the calls that are measured, and for how long the kernel
//! let the threads of this process wait for a processor. A thread that has to wait in the middle of a call holds up no timer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// How often each of them looks at the clock.
const PACE: Duration = Duration::from_millis(5);

/// More than there are threads: each thread has some of them.
const TIMERS: usize = 6;

/// For longer than any call takes.
const KEPT: Duration = Duration::from_secs(20);

/// A timer that ended.
struct Tick {
    due: Instant,
    at: Instant,
    // All of it until then, of all threads: one of the timers looks.
    waited: Option<Duration>,
}

pub(crate) struct Lateness {
    ticks: Arc<Mutex<VecDeque<Tick>>>,
    timers: JoinSet<()>,
}

impl Lateness {
    pub(crate) fn start() -> Self {
        let mut timers = JoinSet::new();
        let ticks = Arc::<Mutex<VecDeque<Tick>>>::default();
        for timer in 0..TIMERS {
            let ticks = Arc::clone(&ticks);
            timers.spawn(async move {
                loop {
                    let due = Instant::now() + PACE;
                    tokio::time::sleep_until(due.into()).await;
                    let (at, waited) = (Instant::now(), (timer == 0).then(waited));
                    let mut ticks = ticks.lock().unwrap();
                    ticks.push_back(Tick { due, at, waited });
                    while ticks.front().is_some_and(|first| first.at.elapsed() > KEPT) {
                        ticks.pop_front();
                    }
                }
            });
        }
        Self { ticks, timers }
    }

    /// The latest that a timer was which ended since a moment, and how long threads waited since then.
    pub(crate) fn since(&self, begun: Instant) -> Duration {
        let ticks = self.ticks.lock().unwrap();
        let seen = ticks.iter().filter(|tick| tick.at >= begun).map(|tick| tick.at - tick.due);
        let before = ticks.iter().rev().filter(|tick| tick.at < begun).find_map(|tick| tick.waited);
        let held_up = before.map(|before| waited().saturating_sub(before));
        seen.max().unwrap_or_default() + held_up.unwrap_or_default()
    }

    pub(crate) async fn stop(mut self) {
        self.timers.shutdown().await;
    }
}

/// For how long the threads of this process were ready to run and did not.
fn waited() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_one = |thread: std::fs::DirEntry| {
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        // On a processor, then waiting for one, in nanoseconds.
        times.split(' ').nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.filter_map(of_one).sum())
}

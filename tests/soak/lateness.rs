//! How late this machine is: timers that have nothing to do, beside the calls that are measured, and for how long the kernel
//! let a thread of this process wait for a processor. A thread that has to wait in the middle of a call holds up no timer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// How often each of them looks at the clock.
const PACE: Duration = Duration::from_millis(5);

/// More than there are threads: each thread has some of them.
const TIMERS: usize = 6;

/// For longer than any call takes.
const KEPT: Duration = Duration::from_secs(20);

/// For how long each thread of this process was ready to run and did not, by its number.
type Waited = HashMap<u64, Duration>;

/// A timer that ended.
struct Tick {
    due: Instant,
    at: Instant,
    // One of the timers looks.
    waited: Option<Waited>,
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

    /// The latest that a timer was which ended since a moment.
    pub(crate) fn of_timers(&self, begun: Instant) -> Duration {
        let ticks = self.ticks.lock().unwrap();
        let seen = ticks.iter().filter(|tick| tick.at >= begun).map(|tick| tick.at - tick.due);
        seen.max().unwrap_or_default()
    }

    /// That, or the longest that a thread waited since then.
    pub(crate) fn since(&self, begun: Instant) -> Duration {
        let late = self.of_timers(begun);
        let ticks = self.ticks.lock().unwrap();
        let before = ticks.iter().rev().filter(|tick| tick.at < begun);
        let before = before.filter_map(|tick| tick.waited.as_ref()).next();
        let waited = before.map(|before| (before, waited()));
        let held_up = waited.and_then(|(before, now)| {
            let of_one = |(thread, waited): (&u64, &Duration)| {
                waited.saturating_sub(before.get(thread).copied().unwrap_or_default())
            };
            now.iter().map(of_one).max()
        });
        late.max(held_up.unwrap_or_default())
    }

    pub(crate) async fn stop(mut self) {
        self.timers.shutdown().await;
    }
}

fn waited() -> Waited {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_one = |thread: std::fs::DirEntry| {
        let number = thread.file_name().to_str()?.parse().ok()?;
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        // On a processor, then waiting for one, in nanoseconds.
        let waited = times.split(' ').nth(1)?.parse().ok()?;
        Some((number, Duration::from_nanos(waited)))
    };
    threads.filter_map(of_one).collect()
}

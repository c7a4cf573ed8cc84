//! How late this machine is: timers that have nothing to do, beside the calls that are measured.

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

/// A timer that ended after its time.
struct Late {
    due: Instant,
    at: Instant,
}

#[derive(Default)]
pub(crate) struct Lateness {
    late: Arc<Mutex<VecDeque<Late>>>,
    timers: JoinSet<()>,
}

impl Lateness {
    pub(crate) fn start() -> Self {
        let mut timers = JoinSet::new();
        let late = Arc::<Mutex<VecDeque<Late>>>::default();
        for _ in 0..TIMERS {
            let late = Arc::clone(&late);
            timers.spawn(async move {
                loop {
                    let due = Instant::now() + PACE;
                    tokio::time::sleep_until(due.into()).await;
                    let at = Instant::now();
                    // Timers have a grain of a millisecond.
                    if at - due < PACE {
                        continue;
                    }
                    let mut late = late.lock().unwrap();
                    late.push_back(Late { due, at });
                    while late.front().is_some_and(|first| first.at.elapsed() > KEPT) {
                        late.pop_front();
                    }
                }
            });
        }
        Self { late, timers }
    }

    /// The latest that a timer was which ended since a moment.
    pub(crate) fn since(&self, begun: Instant) -> Duration {
        let late = self.late.lock().unwrap();
        let seen = late.iter().filter(|one| one.at >= begun).map(|one| one.at - one.due);
        seen.max().unwrap_or_default()
    }

    pub(crate) async fn stop(mut self) {
        self.timers.shutdown().await;
    }
}

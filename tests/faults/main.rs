//! The promises about replies, writes, deadlines and recovery, tried against real servers behind a
//! network that breaks. Every test prints the figure of its promise, and asserts that the faults
//! happened. `LARDER_FULL=1` runs the full counts.

mod bad_inputs;
mod bad_servers;
mod breaker;
mod deadlines;
mod large;
mod locks;
mod overload;
mod place;
mod pushes;
mod recovery;
mod refusals;
mod replies;
mod silence;

use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// Whether the full counts were asked for.
fn full() -> bool {
    std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1")
}

/// The figures of these tests are times and rates: one test at a time has the machine.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    TURN.lock().await
}

/// The value below which `share` of the sorted ones lie.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

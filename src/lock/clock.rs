//! The time by which a holder knows how long its lock is good for.

use std::time::Duration;

use tokio::time::Instant;

/// A moment by two clocks: tokio's, which a test can pause and move, and the machine's that goes on while it is
/// suspended. What has passed since is the longer of both: a lease runs out at the server whatever this machine
/// does meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    running: Instant,
    booted: Option<Duration>,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { running: Instant::now(), booted: since_boot() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        let running = self.running.elapsed();
        match (self.booted, since_boot()) {
            (Some(then), Some(now)) => running.max(now.saturating_sub(then)),
            _ => running,
        }
    }
}

/// The time since the machine was started, with the time that it was suspended, where there is a clock for it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn since_boot() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Elsewhere the standard library's clock is all there is: on macOS and Windows it goes on during suspend or not,
/// by version.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn since_boot() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_that_a_test_moves_passes() {
        let moment = Moment::now();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(moment.elapsed() >= Duration::from_secs(60));
    }

    #[test]
    fn time_passes_outside_of_a_runtime() {
        let moment = Moment::now();
        while moment.elapsed().is_zero() {}
    }
}

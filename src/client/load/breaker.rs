//! A breaker: a store that has just failed is not asked for a moment.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long a store that failed is left alone: without it every load would wait for the deadline
/// first. Then one call tries.
const REST: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Breaker(Mutex<Option<Instant>>);

impl Breaker {
    /// Whether the store may be asked. Of those who come after the rest, one at a time.
    pub(crate) fn allows(&self) -> bool {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *open {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                *open = Some(Instant::now() + REST);
                true
            }
        }
    }

    pub(crate) fn failed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    pub(crate) fn worked(&self) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.is_some() {
            *open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_store_rests_and_then_one_call_tries() {
        let breaker = Breaker::default();
        assert!(breaker.allows());
        breaker.failed();
        assert!(!breaker.allows());
        tokio::time::advance(REST).await;
        assert!(breaker.allows() && !breaker.allows());
        breaker.worked();
        assert!(breaker.allows() && breaker.allows());
    }
}

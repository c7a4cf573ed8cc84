//! Locks as every language shares them: `SET key id NX PX ms`, and a release that compares first; and guards that renew
//! them and tell when they are lost.

mod builder;
mod clock;
mod contend;
mod guard;
mod hold;
mod id;
mod leader;
mod line;
mod quorum;

use std::time::Duration;

pub use builder::LockBuilder;
pub(crate) use builder::PREFIX;
pub(crate) use contend::Locks;
pub use guard::{LockGuard, LockWatcher, Loss};
pub use id::LockId;
pub use quorum::QuorumLock;

/// How to take a lock.
///
/// ```
/// use std::time::Duration;
/// let options = larder::LockOptions { timeout: Duration::from_secs(1), ..Default::default() };
/// assert_eq!(options.expire, Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOptions {
    /// The lease: the lock is free again after this time, whatever became of its holder. Defaults to
    /// 10 seconds.
    pub expire: Duration,
    /// How long to wait for a lock that somebody else holds; zero to try once. Defaults to 5 seconds.
    pub timeout: Duration,
    /// How long to wait between two tries. Defaults to 100 milliseconds.
    pub retry_interval: Duration,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            expire: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            retry_interval: Duration::from_millis(100),
        }
    }
}

//! Settings of a lock, and ways to get it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::contend::{Locks, Wanted};
use super::guard::{Lease, LockGuard};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::op::LockMode;
use crate::ttl::Expiry;

/// What the keys of named locks begin with.
pub(crate) const PREFIX: &str = "lock:";

/// The defaults are those of [`LockOptions`](super::LockOptions).
const LEASE: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(5);

/// A shorter lease has no room for a timer that is late and two round trips.
const SHORTEST_LEASE: Duration = Duration::from_millis(20);
/// A guard renews itself, so a long lease only keeps others waiting for a holder that died.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3600);

/// A name is for people and logs; what is longer is data.
const LONGEST_NAME: usize = 1024;
const LONGEST_LABEL: usize = 256;

/// Who shares a lock stands in one hash that every try reads.
const MOST_HOLDERS: u32 = 4096;

/// A lock by its name: how it is to be taken. Setters never fail; acquiring names every mistake at once. It can be kept
/// and used again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use std::time::Duration;
/// let cache = larder::CacheClient::memory();
/// let report = cache.lock("report").lease(Duration::from_secs(30));
/// let guard = report.acquire().await?;
/// assert!(report.try_acquire().await?.is_none(), "somebody has it");
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is locked before one of the acquiring methods is awaited"]
pub struct LockBuilder {
    locks: Result<Arc<Locks>>,
    name: String,
    lease: Duration,
    renew_every: Option<Duration>,
    wait: Duration,
    label: Option<String>,
    fair: bool,
    most: Option<u32>,
    replicas: Option<(u32, Duration)>,
}

impl LockBuilder {
    pub(crate) fn new(locks: Result<Arc<Locks>>, name: &str) -> Self {
        Self {
            locks,
            name: name.to_owned(),
            lease: LEASE,
            renew_every: None,
            wait: WAIT,
            label: None,
            fair: false,
            most: None,
            replicas: None,
        }
    }

    /// How long the lock is held for without being renewed: how long others wait for a holder that died. From 20 ms to a
    /// day. Defaults to 10 seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How often the guard renews it, at most half of the lease. Defaults to a third of the lease.
    pub fn renew_every(mut self, pause: Duration) -> Self {
        self.renew_every = Some(pause);
        self
    }

    /// How long [`acquire`](Self::acquire) waits. Defaults to 5 seconds.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// A name for the holder that everybody may read, beside the lock: a host, a job. At most 256 bytes. Defaults to
    /// none.
    pub fn owner(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Whether processes get the lock in the order in which they came, as the tasks of one process do anyway. Costs a look
    /// at the queue with each try; who waits and dies holds the others up for up to three seconds. Plain
    /// locks, and guards without this, do not wait for their turn. Defaults to no.
    pub fn fair(mut self, fair: bool) -> Self {
        self.fair = fair;
        self
    }

    /// Shares the lock with everybody else who shares it: many readers, or one who takes it alone. While one waits to take it
    /// alone, no more are let in. Tries cost time in proportion to how many share it.
    pub fn shared(mut self) -> Self {
        self.most = Some(u32::MAX);
        self
    }

    /// Shares the lock among at most so many.
    pub(crate) fn permits(mut self, most: u32) -> Self {
        self.most = Some(most);
        self
    }

    /// Counts the lock as taken only when `replicas` replicas have acknowledged it within `within`, so that a failover to
    /// one of them keeps it. The server holds up everything else that is sent over the same connection for so long: keep it
    /// short. Defaults to none.
    pub fn replicas(mut self, replicas: u32, within: Duration) -> Self {
        self.replicas = Some((replicas, within));
        self
    }

    /// Gets the lock, waiting for at most [`wait`](Self::wait) while it is held. One round trip if it is free; who waits is
    /// woken by its release.
    ///
    /// # Errors
    /// [`ErrorKind::LockTimeout`] if it was held all the time; [`ErrorKind::Config`] that names every mistake of the
    /// settings, or if a round trip takes longer than the lease has room for; else what asking the store gave last. Whatever
    /// a call that failed or was dropped may have taken is given back, or free when its lease is over.
    pub async fn acquire(&self) -> Result<LockGuard> {
        self.acquire_within(self.wait).await
    }

    /// As [`acquire`](Self::acquire), waiting for at most `wait`.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, wait: Duration) -> Result<LockGuard> {
        self.wanted()?.within(wait).await
    }

    /// Gets the lock if it is free, in one round trip; nothing if somebody has it, or is about to get it.
    ///
    /// # Errors
    /// As every call, and of the settings as [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<LockGuard>> {
        self.wanted()?.try_once().await
    }

    /// Everything checked.
    pub(super) fn wanted(&self) -> Result<Wanted> {
        let locks = self.locks.clone().map_err(|error| error.with_op("lock"))?;
        let checked = self.checked()?;
        let mode = match self.most {
            Some(most) => LockMode::Shared { most },
            None => LockMode::Exclusive { label: self.label(), fair: self.fair, waits: None },
        };
        Ok(Wanted {
            locks,
            key: checked.key,
            mode,
            expiry: checked.expiry,
            lease: checked.lease,
            replicas: checked.replicas,
        })
    }

    /// The settings that a lock over several servers reads.
    pub(super) fn times(&self) -> (Duration, Duration) {
        (self.lease, self.wait)
    }

    pub(super) fn label(&self) -> Option<Bytes> {
        self.label.clone().map(Bytes::from)
    }

    /// The settings that every kind of lock has.
    pub(super) fn checked(&self) -> Result<Checked> {
        let mut mistakes = Vec::new();
        if self.name.is_empty() {
            mistakes.push("the name of the lock is empty".to_owned());
        }
        if self.name.len() > LONGEST_NAME {
            mistakes.push(format!(
                "the name of the lock has {} bytes; it has at most {LONGEST_NAME}",
                self.name.len()
            ));
        }
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&self.lease) {
            mistakes.push(format!(
                "the lease is {:?}; it is from {SHORTEST_LEASE:?} to {LONGEST_LEASE:?}",
                self.lease
            ));
        }
        let renew_every = self.renew_every.unwrap_or(self.lease / 3);
        if renew_every.is_zero() || renew_every > self.lease / 2 {
            mistakes.push(format!(
                "renew_every is {renew_every:?}; it is more than zero and at most half of the lease of {:?}",
                self.lease
            ));
        }
        if let Some(label) = &self.label
            && (label.is_empty()
                || label.len() > LONGEST_LABEL
                || label.chars().any(char::is_control))
        {
            mistakes.push(format!(
                "the owner has to be a text of at most {LONGEST_LABEL} bytes without control characters"
            ));
        }
        match self.most {
            None | Some(1..=MOST_HOLDERS | u32::MAX) => {}
            Some(most) => {
                mistakes.push(format!("{most} permits; there are from 1 to {MOST_HOLDERS}"));
            }
        }
        if self.most.is_some() && (self.fair || self.label.is_some()) {
            mistakes
                .push("fair and owner have no effect on a shared lock; leave them out".to_owned());
        }
        let replicas = self.replicas.map(|(copies, within)| (copies, Expiry::new(within)));
        match &replicas {
            Some((0, _)) => mistakes.push("replicas is 0; leave it out instead".to_owned()),
            Some((_, Err(_))) => {
                mistakes.push("the time for replicas is zero or too long".to_owned())
            }
            Some((_, Ok(within))) if within.as_duration() >= self.lease / 3 => {
                mistakes.push(format!(
                    "replicas may take {:?}, more than a third of the lease of {:?}",
                    within.as_duration(),
                    self.lease
                ))
            }
            _ => {}
        }
        if !mistakes.is_empty() {
            return Err(Error::new(ErrorKind::Config, mistakes.join("; ")).with_op("lock"));
        }
        Ok(Checked {
            key: Key::new(format!("{PREFIX}{}", self.name))?,
            expiry: Expiry::new(self.lease)?,
            lease: Lease { term: self.lease, renew_every },
            replicas: replicas.and_then(|(copies, within)| Some((copies, within.ok()?))),
        })
    }
}

/// Settings without mistakes.
pub(super) struct Checked {
    pub(super) key: Key,
    pub(super) expiry: Expiry,
    pub(super) lease: Lease,
    pub(super) replicas: Option<(u32, Expiry)>,
}

impl fmt::Debug for LockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("LockBuilder");
        match Key::new(format!("{PREFIX}{}", self.name)) {
            Ok(key) if !self.name.is_empty() => out.field("key", &key),
            _ => &mut out,
        };
        out.field("lease", &self.lease)
            .field("wait", &self.wait)
            .field("fair", &self.fair)
            .field("shared", &self.most.is_some())
            .finish_non_exhaustive()
    }
}

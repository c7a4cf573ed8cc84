//! Leader election: one process at a time does the work, and another goes on when it is gone.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::builder::LockBuilder;
use super::contend::{LAST_POLL, passes};
use super::guard::{LockGuard, LockWatcher};
use super::quorum::QuorumLock;
use crate::error::{ErrorKind, Result};

/// How long one campaign waits before the next begins; only so that no wait is without an end.
const TERM: Duration = Duration::from_secs(3600);

/// What leadership is taken by.
trait Office: Sync {
    fn campaign(&self) -> BoxFuture<'_, Result<LockGuard>>;
}

impl Office for LockBuilder {
    fn campaign(&self) -> BoxFuture<'_, Result<LockGuard>> {
        Box::pin(self.acquire_within(TERM))
    }
}

impl Office for QuorumLock {
    fn campaign(&self) -> BoxFuture<'_, Result<LockGuard>> {
        Box::pin(self.acquire_within(TERM))
    }
}

impl LockBuilder {
    /// Leads: waits until the lock can be had, for as long as it takes, runs `work`, and gives the lock back when it ends. If
    /// leadership is lost meanwhile, `work` is dropped at its next await, and the process waits to lead again; `work` is
    /// called anew then. A store that cannot be reached is waited for.
    ///
    /// `work` is given what knows of the lock: [`LockWatcher::fencing_token`] for what it writes to. What it starts in
    /// tasks of its own is not dropped with it: let them end with [`LockWatcher::lost`].
    /// Dropping the future, or a panic of `work`, gives the leadership up. When the leader dies, another one leads when its
    /// [`lease`](Self::lease) is over.
    ///
    /// ```no_run
    /// # async fn example(cache: larder::CacheClient) -> larder::Result<()> {
    /// cache
    ///     .lock("scheduler")
    ///     .run_while_leader(|leadership| async move {
    ///         while leadership.is_valid() {
    ///             // Do what one process alone shall do.
    ///             tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    ///         }
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// What waiting cannot mend: wrong settings, a closed client, a server that refuses. Not the loss of leadership.
    pub async fn run_while_leader<F, Work>(&self, work: F) -> Result<Work::Output>
    where
        F: FnMut(LockWatcher) -> Work,
        Work: Future,
    {
        lead(self, work).await
    }
}

impl QuorumLock {
    /// Leads, as [`LockBuilder::run_while_leader`] does, while a majority of the servers says so. There is no fencing
    /// token.
    ///
    /// # Errors
    /// What waiting cannot mend: wrong settings, closed clients, a majority of servers that refuses. Not the loss of
    /// leadership.
    pub async fn run_while_leader<F, Work>(&self, work: F) -> Result<Work::Output>
    where
        F: FnMut(LockWatcher) -> Work,
        Work: Future,
    {
        lead(self, work).await
    }
}

async fn lead<F, Work>(office: &dyn Office, mut work: F) -> Result<Work::Output>
where
    F: FnMut(LockWatcher) -> Work,
    Work: Future,
{
    loop {
        let guard = match office.campaign().await {
            Ok(guard) => guard,
            Err(error) if error.kind() == ErrorKind::LockTimeout || passes(&error) => {
                tokio::time::sleep(LAST_POLL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        match guard.run(work(guard.watcher())).await {
            Ok(done) => {
                // What it did is done, whatever becomes of the lock.
                _ = guard.release().await;
                return Ok(done);
            }
            // Dropping the guard gives back what may be left of it.
            Err(error) => {
                tracing::info!(target: "larder", %error, "leadership is lost, waiting to lead again");
            }
        }
    }
}

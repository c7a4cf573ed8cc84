//! Locks: plain ones, and the builders of those with guards.

use std::time::Duration;

use tokio::time::Instant;

use super::{CacheClient, key};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::lock::{LockBuilder, LockId, LockOptions};
use crate::op::{Batch, Op};
use crate::store::runtime;
use crate::ttl::Expiry;

impl CacheClient {
    /// A lock by its name, under the key `lock:` and the name. It has settings; acquiring it gives a guard that renews it and
    /// tells when it is lost. Guards, [`acquire_lock`](Self::acquire_lock) and other languages' locks under the same key
    /// exclude each other.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// let cache = larder::CacheClient::memory();
    /// let guard = cache.lock("report").acquire().await?;
    /// // ... nobody else is here, and `guard.lost()` ends if that changes ...
    /// assert!(guard.is_valid());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: impl AsRef<str>) -> LockBuilder {
        let locks = self.settled().map(|client| client.0.locks.clone());
        LockBuilder::new(locks, name.as_ref())
    }

    /// A semaphore by its name: a lock that at most `permits` hold at once, each with a guard of its own. It stands under
    /// the key `lock:` and the name, so a lock that is taken alone under the same name excludes it. Everybody has to name
    /// the same number; tries cost time in proportion to it. From 1 to 4,096.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// let cache = larder::CacheClient::memory();
    /// let exports = cache.semaphore("exports", 2);
    /// let (_one, _two) = (exports.acquire().await?, exports.acquire().await?);
    /// assert!(exports.try_acquire().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<str>, permits: u32) -> LockBuilder {
        self.lock(name).permits(permits)
    }

    /// Takes a lock: writes a new identifier under `lock_key`, waiting while somebody else holds it, in
    /// this process, in another, or in another language. The key is taken as it is; name it `lock:...`
    /// to meet redis-py's users half-way.
    ///
    /// The lock is free again after [`LockOptions::expire`], whether or not its holder is done: do short
    /// work under it, or check before you write. One round trip a try.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// use larder::LockOptions;
    /// let cache = larder::CacheClient::memory();
    /// let id = cache.acquire_lock("lock:report", LockOptions::default()).await?;
    /// // ... nobody else is here ...
    /// assert!(cache.release_lock("lock:report", &id).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::LockTimeout`] if the lock was held for the whole timeout. If the server did not answer,
    /// the error says so, at the latest one deadline after the timeout; the lock may then be taken until its
    /// lease is over. So it may if the call is dropped before it ends.
    pub async fn acquire_lock(
        &self,
        lock_key: impl AsRef<[u8]>,
        options: LockOptions,
    ) -> Result<LockId> {
        const NAME: &str = "acquire_lock";
        let key = key(NAME, lock_key)?;
        let expiry =
            Expiry::new(options.expire).map_err(|error| error.with_op(NAME).with_key(&key))?;
        if options.retry_interval.is_zero() && !options.timeout.is_zero() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a retry interval of zero would spin; wait at least a millisecond",
            )
            .with_op(NAME)
            .with_key(&key));
        }
        let id = LockId::new();
        let started = Instant::now();
        let end = started.checked_add(options.timeout);
        // Whether a try without an answer may have taken the lock.
        let mut unsure = false;
        loop {
            let op = Op::Acquire { key: key.clone(), id: id.to_bytes(), expiry };
            match self.run_one(Batch::one(NAME, op)).await.and_then(|reply| reply.into_bool()) {
                Ok(true) => return Ok(id),
                // What an earlier try sent can still arrive over the connection that it lost.
                Ok(false) => {}
                // The identifier makes a try repeatable: what an earlier one took is found again.
                Err(error) if passes(&error) && before(end) => {
                    unsure |= error.outcome() == Outcome::Unknown;
                }
                Err(error) if unsure => return Err(error.with_outcome(Outcome::Unknown)),
                Err(error) => return Err(error),
            }
            let pause = options.retry_interval.mul_f64(1.0 - fastrand::f64() / 4.0);
            let left = end.map_or(Duration::MAX, |end| end.duration_since(Instant::now()));
            if left.is_zero() {
                let outcome = if unsure { Outcome::Unknown } else { Outcome::Rejected };
                return Err(Error::new(
                    ErrorKind::LockTimeout,
                    format!("the lock was not free within {:?}", options.timeout),
                )
                .with_op(NAME)
                .with_key(&key)
                .with_outcome(outcome));
            }
            if let Err(error) = runtime::check("waiting for a lock") {
                let outcome = if unsure { Outcome::Unknown } else { Outcome::Rejected };
                return Err(error.with_op(NAME).with_key(&key).with_outcome(outcome));
            }
            tokio::time::sleep(pause.min(left)).await;
        }
    }

    /// Gives a lock back, if it is still held by `id`: compared and deleted in one step. Answers whether
    /// it was; false means that the lease was over, and somebody else may hold the lock.
    ///
    /// # Errors
    /// As every call. Never sent twice; if the outcome is [`Unknown`](Outcome::Unknown), calling it again
    /// is safe.
    pub async fn release_lock(&self, lock_key: impl AsRef<[u8]>, id: &LockId) -> Result<bool> {
        let key = key("release_lock", lock_key)?;
        self.one("release_lock", Op::Release { key, id: id.to_bytes() }).await?.into_bool()
    }
}

/// Whether waiting may mend it.
fn passes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Overloaded)
}

fn before(end: Option<Instant>) -> bool {
    end.is_none_or(|end| Instant::now() < end)
}

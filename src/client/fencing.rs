//! Writes that are refused when somebody with a newer fencing token wrote before.

use std::time::Duration;

use super::CacheClient;
use crate::codec::IntoValue;
use crate::error::Result;
use crate::op::Op;
use crate::ttl::Expiry;

impl CacheClient {
    /// Writes text, bytes, an integer or a float as [`set_value`](Self::set_value) does, unless the key was written with a
    /// larger token before. Answers whether it was written: false means that a newer holder of the lock has written, and that
    /// this one is a holder no more. The same token writes as often as it likes. A load of the key that is under way is
    /// void.
    ///
    /// `token` is a guard's [`fencing_token`](crate::LockGuard::fencing_token). What a guard cannot do, stop a write that
    /// is under way when the lock is lost, this does: the store compares in the same step in which it writes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// let cache = larder::CacheClient::memory();
    /// let guard = cache.lock("report").acquire().await?;
    /// let token = guard.fencing_token().expect("a lock that is held alone has one");
    /// assert!(cache.fenced_set("report:today", "12 pages", token, None).await?);
    /// // Who had the lock before, and stood still meanwhile:
    /// assert!(!cache.fenced_set("report:today", "11 pages", token - 1, None).await?);
    /// # guard.release().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The highest token stands beside the key, under [`Key::fence`](crate::Key::fence): about 100 bytes that live as long as
    /// the value was given by the last such write, and at least a day, also when the value is deleted. A holder who comes back later than that, or
    /// after the store has lost or evicted this mark, is not refused any more. Other writes neither look at the mark nor
    /// change it: they write whatever the token is.
    ///
    /// # Errors
    /// As [`set_value`](Self::set_value).
    pub async fn fenced_set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue,
        token: u64,
        ex: impl Into<Option<Duration>>,
    ) -> Result<bool> {
        let op = fenced_op("fenced_set", key, value, token, ex.into())?;
        self.one("fenced_set", op).await?.into_bool()
    }
}

pub(super) fn fenced_op(
    name: &'static str,
    key: impl AsRef<[u8]>,
    value: impl IntoValue,
    token: u64,
    ex: Option<Duration>,
) -> Result<Op> {
    let key = super::key(name, key)?;
    let value = value.into_value().map_err(|error| error.with_op(name).with_key(&key))?;
    let expiry = Expiry::optional(ex).map_err(|error| error.with_op(name).with_key(&key))?;
    Ok(Op::FencedSet { key, value, expiry, token })
}

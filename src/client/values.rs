//! Strings, expiry, deletes, counters.

use std::time::Duration;

use bytes::Bytes;

use super::{CacheClient, count};
use crate::codec::{IntoValue, decode_text};
use crate::error::Result;
use crate::key::Key;
use crate::op::{Batch, Op, Presence};
use crate::ttl::{Expiry, Ttl};

impl CacheClient {
    /// Writes text, bytes, an integer or a float. `ex` is the time to live; `None` for a value that
    /// stays. An earlier expiry of the key is replaced.
    ///
    /// # Errors
    /// An empty key, a TTL of zero or beyond Redis' range, or a float that is not finite is
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput).
    pub async fn set_value(
        &self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue,
        ex: impl Into<Option<Duration>>,
    ) -> Result<()> {
        let op = set_op("set_value", key, value, ex.into(), None)?;
        self.one("set_value", op).await?.into_bool().map(drop)
    }

    /// Writes as [`set_value`](Self::set_value), but only if the key is absent or only if it is present.
    /// Answers whether it was written.
    ///
    /// # Errors
    /// As [`set_value`](Self::set_value). Never sent twice: if the answer is lost, the outcome is
    /// [`Unknown`](crate::Outcome::Unknown).
    pub async fn set_value_if(
        &self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue,
        ex: impl Into<Option<Duration>>,
        presence: Presence,
    ) -> Result<bool> {
        let op = set_op("set_value_if", key, value, ex.into(), Some(presence))?;
        self.one("set_value_if", op).await?.into_bool()
    }

    /// Reads text. `None` if the key does not exist.
    ///
    /// # Errors
    /// Bytes that are not UTF-8 are [`ErrorKind::Decode`](crate::ErrorKind::Decode);
    /// [`get_bytes`](Self::get_bytes) reads them. A hash or a list is
    /// [`ErrorKind::WrongType`](crate::ErrorKind::WrongType).
    pub async fn get_value(&self, key: impl AsRef<[u8]>) -> Result<Option<String>> {
        let batch = get("get_value", key)?;
        self.decoded(batch, |reply| reply.into_value()?.map(decode_text).transpose()).await
    }

    /// Reads bytes. `None` if the key does not exist.
    ///
    /// # Errors
    /// A hash or a list is [`ErrorKind::WrongType`](crate::ErrorKind::WrongType).
    pub async fn get_bytes(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.run_one(get("get_bytes", key)?).await?.into_value()
    }

    /// Deletes a key, whatever it holds. Answers 1 if it existed, else 0.
    ///
    /// # Errors
    /// As every call. Never sent twice, since a second answer would be 0; if the outcome is
    /// [`Unknown`](crate::Outcome::Unknown), calling it again is safe.
    pub async fn delete_key(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        let keys = vec![super::key("delete_key", key)?];
        self.one("delete_key", Op::Delete { keys }).await?.into_int().map(count)
    }

    /// Deletes many keys in one step, and answers how many existed. No keys are no round trip.
    ///
    /// # Errors
    /// As [`delete_key`](Self::delete_key).
    pub async fn batch_delete_keys(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<u64> {
        let keys = super::keys("batch_delete_keys", keys)?;
        if keys.is_empty() {
            return Ok(0);
        }
        self.one("batch_delete_keys", Op::Delete { keys }).await?.into_int().map(count)
    }

    /// Whether a key exists, whatever it holds.
    ///
    /// # Errors
    /// As every call.
    pub async fn key_exists(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = super::key("key_exists", key)?;
        self.one("key_exists", Op::Exists { key }).await?.into_bool()
    }

    /// Gives a key a new time to live, from now. Answers whether the key exists.
    ///
    /// # Errors
    /// A TTL of zero or beyond Redis' range is
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput).
    pub async fn set_expiry(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool> {
        let key = super::key("set_expiry", key)?;
        self.one("set_expiry", expire_op(key, ttl)?).await?.into_bool()
    }

    /// Takes a key's expiry away. Answers whether it had one.
    ///
    /// # Errors
    /// As every call.
    pub async fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = super::key("persist", key)?;
        self.one("persist", Op::Persist { key }).await?.into_bool()
    }

    /// Reads the remaining time of a key, in milliseconds' precision.
    ///
    /// # Errors
    /// As every call.
    pub async fn get_ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl> {
        let key = super::key("get_ttl", key)?;
        self.one("get_ttl", Op::Ttl { key }).await?.into_ttl()
    }

    /// Reads many texts in one step, in the order of the keys. A key that is missing, or holds a hash or
    /// a list, is `None`. No keys are no round trip.
    ///
    /// # Errors
    /// Bytes that are not UTF-8 are [`ErrorKind::Decode`](crate::ErrorKind::Decode), with the key of the
    /// first of them.
    pub async fn get_many(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<Vec<Option<String>>> {
        let keys = super::keys("get_many", keys)?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let batch = Batch::one("get_many", Op::GetMany { keys });
        let asked = batch.clone();
        self.decoded(batch, |reply| {
            let keys = asked.ops().iter().flat_map(Op::keys);
            keys.zip(reply.into_values()?)
                .map(|(key, value)| {
                    value.map(decode_text).transpose().map_err(|error| error.with_key(key))
                })
                .collect()
        })
        .await
    }

    /// Writes many values with one time to live, in one round trip. They are written one after the
    /// other; [`transaction`](Self::transaction) writes all or none. No pairs are no round trip.
    ///
    /// # Errors
    /// As [`set_value`](Self::set_value); the first value that could not be written decides.
    pub async fn set_many(
        &self,
        pairs: impl IntoIterator<Item = (impl AsRef<[u8]>, impl IntoValue)>,
        ex: impl Into<Option<Duration>>,
    ) -> Result<()> {
        let ex = ex.into();
        let ops = pairs
            .into_iter()
            .map(|(key, value)| set_op("set_many", key, value, ex, None))
            .collect::<Result<Vec<_>>>()?;
        self.all("set_many", ops).await
    }

    /// Adds `delta` to a number that starts at 0, and answers the new number. The expiry stays.
    ///
    /// # Errors
    /// A stored value that is no 64-bit integer, or a result beyond 64 bits, is
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind::OutOfRange), and nothing changes. Never sent twice.
    pub async fn incr_by(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        let key = super::key("incr_by", key)?;
        self.one("incr_by", Op::IncrBy { key, delta }).await?.into_int()
    }

    /// Runs operations in one round trip, of which each has to succeed.
    pub(crate) async fn all(&self, name: &'static str, ops: Vec<Op>) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let replies = self.store().run(Batch::many(name, ops)).await?;
        replies.into_results().into_iter().try_for_each(|result| result.map(drop))
    }
}

pub(super) fn get(name: &'static str, key: impl AsRef<[u8]>) -> Result<Batch> {
    Ok(Batch::one(name, Op::Get { key: super::key(name, key)? }))
}

pub(super) fn expire_op(key: Key, ttl: Duration) -> Result<Op> {
    match Expiry::new(ttl) {
        Ok(expiry) => Ok(Op::Expire { key, expiry }),
        Err(error) => Err(error.with_op("set_expiry").with_key(&key)),
    }
}

pub(super) fn set_op(
    name: &'static str,
    key: impl AsRef<[u8]>,
    value: impl IntoValue,
    ex: Option<Duration>,
    only_if: Option<Presence>,
) -> Result<Op> {
    let key = super::key(name, key)?;
    let value = value.into_value().map_err(|error| error.with_op(name).with_key(&key))?;
    let expiry = Expiry::optional(ex).map_err(|error| error.with_op(name).with_key(&key))?;
    Ok(Op::Set { key, value, expiry, only_if })
}

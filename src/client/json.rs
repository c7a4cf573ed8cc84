//! JSON objects and arrays.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CacheClient;
use super::values::get;
use crate::codec::{JsonLimit, Shape, decode_json, encode_json};
use crate::error::Result;
use crate::op::Op;
use crate::ttl::Expiry;

impl CacheClient {
    /// Writes what serialises to a JSON object: a struct or a map. `ex` is the time to live.
    ///
    /// # Errors
    /// What serialises to something else, or not within the wire format, is
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode), before anything is sent; what is larger than
    /// [`max_json_bytes`](crate::Builder::max_json_bytes) is [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput).
    pub async fn set_dict<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        ex: impl Into<Option<Duration>>,
    ) -> Result<()> {
        self.set_json("set_dict", key, value, ex.into(), Shape::Object).await
    }

    /// Reads a JSON object. `None` if the key does not exist.
    ///
    /// # Errors
    /// Another shape, an object that does not fit `T`, or one larger than [`max_json_bytes`](crate::Builder::max_json_bytes) is
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode).
    pub async fn get_dict<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>> {
        self.get_json("get_dict", key, Shape::Object).await
    }

    /// Writes what serialises to a JSON array: a vector, a slice, a set, a tuple. `ex` is the time to
    /// live. (A Redis list, which can be pushed to, is [`push_to_list`](Self::push_to_list).)
    ///
    /// # Errors
    /// As [`set_dict`](Self::set_dict).
    pub async fn set_list<T: Serialize + ?Sized>(
        &self,
        key: impl AsRef<[u8]>,
        value: &T,
        ex: impl Into<Option<Duration>>,
    ) -> Result<()> {
        self.set_json("set_list", key, value, ex.into(), Shape::Array).await
    }

    /// Reads a JSON array. `None` if the key does not exist.
    ///
    /// # Errors
    /// As [`get_dict`](Self::get_dict).
    pub async fn get_list_value<T: DeserializeOwned>(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<T>> {
        self.get_json("get_list_value", key, Shape::Array).await
    }

    async fn set_json<T: Serialize + ?Sized>(
        &self,
        name: &'static str,
        key: impl AsRef<[u8]>,
        value: &T,
        ex: Option<Duration>,
        shape: Shape,
    ) -> Result<()> {
        let op = json_op(name, key, value, ex, shape, self.json_limit())?;
        self.one(name, op).await?.into_bool().map(drop)
    }

    async fn get_json<T: DeserializeOwned>(
        &self,
        name: &'static str,
        key: impl AsRef<[u8]>,
        shape: Shape,
    ) -> Result<Option<T>> {
        let limit = self.json_limit();
        self.decoded(get(name, key)?, |reply| {
            reply.into_value()?.map(|bytes| decode_json(&bytes, shape, limit)).transpose()
        })
        .await
    }
}

pub(super) fn json_op<T: Serialize + ?Sized>(
    name: &'static str,
    key: impl AsRef<[u8]>,
    value: &T,
    ex: Option<Duration>,
    shape: Shape,
    limit: JsonLimit,
) -> Result<Op> {
    let key = super::key(name, key)?;
    let value =
        encode_json(value, shape, limit).map_err(|error| error.with_op(name).with_key(&key))?;
    let expiry = Expiry::optional(ex).map_err(|error| error.with_op(name).with_key(&key))?;
    Ok(Op::Set { key, value, expiry, only_if: None })
}

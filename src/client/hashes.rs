//! Hashes.

use std::collections::HashMap;

use bytes::Bytes;

use super::{CacheClient, key};
use crate::codec::{IntoValue, decode_text};
use crate::error::Result;
use crate::op::{Batch, Op};

impl CacheClient {
    /// Writes a field of a hash. Answers 1 if the field is new, 0 if it was updated. An expiry of the
    /// hash stays.
    ///
    /// # Errors
    /// A key that holds a string or a list is [`ErrorKind::WrongType`](crate::ErrorKind::WrongType).
    /// Never sent twice.
    pub async fn set_hash(
        &self,
        name: impl AsRef<[u8]>,
        field: impl AsRef<[u8]>,
        value: impl IntoValue,
    ) -> Result<u64> {
        let op = set_op("set_hash", name, field, value)?;
        self.one("set_hash", op).await?.into_bool().map(u64::from)
    }

    /// Reads a field of a hash. `None` if the hash or the field does not exist.
    ///
    /// # Errors
    /// As [`set_hash`](Self::set_hash); bytes that are not UTF-8 are
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode).
    pub async fn get_hash(
        &self,
        name: impl AsRef<[u8]>,
        field: impl AsRef<[u8]>,
    ) -> Result<Option<String>> {
        let op = Op::HashGet { key: key("get_hash", name)?, field: copied(field) };
        self.decoded(Batch::one("get_hash", op), |reply| {
            reply.into_value()?.map(decode_text).transpose()
        })
        .await
    }

    /// Reads a whole hash; one that does not exist is empty.
    ///
    /// # Errors
    /// As [`get_hash`](Self::get_hash).
    pub async fn get_hash_all(&self, name: impl AsRef<[u8]>) -> Result<HashMap<String, String>> {
        let op = Op::HashGetAll { key: key("get_hash_all", name)? };
        self.decoded(Batch::one("get_hash_all", op), |reply| {
            reply
                .into_pairs()?
                .into_iter()
                .map(|(field, value)| Ok((decode_text(field)?, decode_text(value)?)))
                .collect()
        })
        .await
    }

    /// Deletes a field of a hash. Answers 1 if it existed, else 0. A hash without fields does not exist.
    ///
    /// # Errors
    /// As [`set_hash`](Self::set_hash).
    pub async fn delete_hash_field(
        &self,
        name: impl AsRef<[u8]>,
        field: impl AsRef<[u8]>,
    ) -> Result<u64> {
        let op = Op::HashDelete { key: key("delete_hash_field", name)?, field: copied(field) };
        self.one("delete_hash_field", op).await?.into_bool().map(u64::from)
    }
}

pub(super) fn set_op(
    name: &'static str,
    hash: impl AsRef<[u8]>,
    field: impl AsRef<[u8]>,
    value: impl IntoValue,
) -> Result<Op> {
    let key = key(name, hash)?;
    let value = value.into_value().map_err(|error| error.with_op(name).with_key(&key))?;
    Ok(Op::HashSet { key, field: copied(field), value })
}

pub(super) fn copied(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

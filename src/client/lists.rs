//! Lists that can be pushed to and popped from.

use super::{CacheClient, count, key};
use crate::codec::{IntoValue, decode_text};
use crate::error::Result;
use crate::op::{Batch, Direction, Op};

impl CacheClient {
    /// Adds an element at an end of a list, and answers the new length. An expiry of the list stays.
    ///
    /// # Errors
    /// A key that holds a string or a hash is [`ErrorKind::WrongType`](crate::ErrorKind::WrongType).
    /// Never sent twice: if the answer is lost, the outcome is [`Unknown`](crate::Outcome::Unknown).
    pub async fn push_to_list(
        &self,
        name: impl AsRef<[u8]>,
        value: impl IntoValue,
        side: Direction,
    ) -> Result<u64> {
        let op = push_op("push_to_list", name, value, side)?;
        self.one("push_to_list", op).await?.into_int().map(count)
    }

    /// Reads a whole list, from the left; one that does not exist is empty.
    ///
    /// # Errors
    /// As [`push_to_list`](Self::push_to_list); an element that is not UTF-8 is
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode).
    pub async fn get_list(&self, name: impl AsRef<[u8]>) -> Result<Vec<String>> {
        self.range("get_list", name, 0, -1).await
    }

    /// Reads the elements from `start` to `stop`, both included; negative ones count from the right
    /// (-1 is the last). What lies outside of the list is left out.
    ///
    /// # Errors
    /// As [`get_list`](Self::get_list).
    pub async fn get_list_range(
        &self,
        name: impl AsRef<[u8]>,
        start: i64,
        stop: i64,
    ) -> Result<Vec<String>> {
        self.range("get_list_range", name, start, stop).await
    }

    /// Takes the leftmost element off a list. `None` if the list does not exist.
    ///
    /// # Errors
    /// As [`push_to_list`](Self::push_to_list). An element that is not UTF-8 is
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode), and [`Error::undecoded`](crate::Error::undecoded)
    /// has it.
    pub async fn left_pop_list(&self, name: impl AsRef<[u8]>) -> Result<Option<String>> {
        self.pop("left_pop_list", name, Direction::Left).await
    }

    /// Takes the rightmost element off a list. `None` if the list does not exist.
    ///
    /// # Errors
    /// As [`left_pop_list`](Self::left_pop_list).
    pub async fn right_pop_list(&self, name: impl AsRef<[u8]>) -> Result<Option<String>> {
        self.pop("right_pop_list", name, Direction::Right).await
    }

    /// Removes every element that equals `value`, and answers how many there were.
    ///
    /// # Errors
    /// As [`push_to_list`](Self::push_to_list).
    pub async fn remove_from_list(
        &self,
        name: impl AsRef<[u8]>,
        value: impl IntoValue,
    ) -> Result<u64> {
        let op = remove_op("remove_from_list", name, value)?;
        self.one("remove_from_list", op).await?.into_int().map(count)
    }

    async fn range(
        &self,
        name: &'static str,
        list: impl AsRef<[u8]>,
        start: i64,
        stop: i64,
    ) -> Result<Vec<String>> {
        let op = Op::ListRange { key: key(name, list)?, start, stop };
        self.decoded(Batch::one(name, op), |reply| {
            reply.into_list()?.into_iter().map(decode_text).collect()
        })
        .await
    }

    async fn pop(
        &self,
        name: &'static str,
        list: impl AsRef<[u8]>,
        side: Direction,
    ) -> Result<Option<String>> {
        let op = Op::ListPop { key: key(name, list)?, side };
        self.decoded(Batch::one(name, op), |reply| {
            // The element is off the list already: an error of `decode_text` hands it back.
            reply.into_value()?.map(decode_text).transpose()
        })
        .await
    }
}

pub(super) fn push_op(
    name: &'static str,
    list: impl AsRef<[u8]>,
    value: impl IntoValue,
    side: Direction,
) -> Result<Op> {
    let key = key(name, list)?;
    let value = value.into_value().map_err(|error| error.with_op(name).with_key(&key))?;
    Ok(Op::ListPush { key, value, side })
}

pub(super) fn remove_op(
    name: &'static str,
    list: impl AsRef<[u8]>,
    value: impl IntoValue,
) -> Result<Op> {
    let key = key(name, list)?;
    let value = value.into_value().map_err(|error| error.with_op(name).with_key(&key))?;
    Ok(Op::ListRemove { key, value })
}

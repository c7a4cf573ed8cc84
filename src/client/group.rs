//! Pipelines and transactions: several operations in one round trip.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::CacheClient;
use super::fencing::fenced_op;
use super::hashes::{self, copied};
use super::json::json_op;
use super::lists::{push_op, remove_op};
use super::values::{expire_op, set_op};
use crate::codec::{IntoValue, Shape};
use crate::error::{Error, Result};
use crate::op::{Batch, Direction, Op, Presence, Reply};

impl CacheClient {
    /// Collects operations and runs them in order, in one round trip. Others' operations may come
    /// between them, and one that fails does not stop the next.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// let cache = larder::CacheClient::memory();
    /// let mut replies = cache
    ///     .pipeline()
    ///     .set_value("name", "Ada", None)
    ///     .incr_by("visits", 1)
    ///     .get_value("name")
    ///     .run()
    ///     .await?;
    /// let name = replies.remove(2)?.into_text()?;
    /// let visits = replies.remove(1)?.into_int()?;
    /// assert_eq!((name.as_deref(), visits), (Some("Ada"), 1));
    /// # Ok(()) }
    /// ```
    pub fn pipeline(&self) -> Group {
        Group::new(self.clone(), false)
    }

    /// Collects operations and runs them all or none, with nobody's operations in between
    /// (`MULTI`/`EXEC`), in one round trip. An operation that fails while it runs (a wrong type) does not
    /// undo the others, as in Redis.
    pub fn transaction(&self) -> Group {
        Group::new(self.clone(), true)
    }
}

/// Operations that are collected to run together. Made by [`CacheClient::pipeline`] and
/// [`CacheClient::transaction`]; [`run`](Self::run) sends them.
#[must_use = "nothing is sent before `run`"]
pub struct Group {
    client: CacheClient,
    atomic: bool,
    ops: Vec<Op>,
    mistake: Option<Error>,
}

impl Group {
    fn new(client: CacheClient, atomic: bool) -> Self {
        Self { client, atomic, ops: Vec::new(), mistake: None }
    }

    /// Runs the operations and answers each: one result an operation, in order. Nothing to run is no
    /// round trip.
    ///
    /// # Errors
    /// Bad input of any of them, before anything is sent; what concerns all of them. In a transaction,
    /// a command that the server refuses to queue means that none was applied.
    pub async fn run(self) -> Result<Vec<Result<Reply>>> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        if self.ops.is_empty() {
            return Ok(Vec::new());
        }
        let batch = if self.atomic {
            Batch::many("transaction", self.ops).atomic()
        } else {
            Batch::many("pipeline", self.ops)
        };
        Ok(self.client.store().run(batch).await?.into_results())
    }

    /// How many operations were collected.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Collects an operation as data.
    pub fn op(self, op: Op) -> Self {
        self.and(Ok(op))
    }

    fn and(mut self, op: Result<Op>) -> Self {
        match op {
            Ok(op) => self.ops.push(op),
            // The first mistake is the one to mend.
            Err(error) => _ = self.mistake.get_or_insert(error),
        }
        self
    }

    /// As [`CacheClient::set_value`]; [`Reply::Bool`].
    pub fn set_value(
        self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue,
        ex: impl Into<Option<Duration>>,
    ) -> Self {
        self.and(set_op("set_value", key, value, ex.into(), None))
    }

    /// As [`CacheClient::set_value_if`]; [`Reply::Bool`].
    pub fn set_value_if(
        self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue,
        ex: impl Into<Option<Duration>>,
        presence: Presence,
    ) -> Self {
        self.and(set_op("set_value_if", key, value, ex.into(), Some(presence)))
    }

    /// As [`CacheClient::fenced_set`]; [`Reply::Bool`]. What stands beside it in a transaction is written whether this is
    /// refused or not.
    pub fn fenced_set(
        self,
        key: impl AsRef<[u8]>,
        value: impl IntoValue,
        token: u64,
        ex: impl Into<Option<Duration>>,
    ) -> Self {
        self.and(fenced_op("fenced_set", key, value, token, ex.into()))
    }

    /// As [`CacheClient::get_value`]; [`Reply::Value`].
    pub fn get_value(self, key: impl AsRef<[u8]>) -> Self {
        self.on_key("get_value", key, |key| Ok(Op::Get { key }))
    }

    /// As [`CacheClient::get_many`]; [`Reply::Values`].
    pub fn get_many(self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.and(super::keys("get_many", keys).map(|keys| Op::GetMany { keys }))
    }

    /// As [`CacheClient::set_dict`]; [`Reply::Bool`].
    pub fn set_dict<T: Serialize + ?Sized>(
        self,
        key: impl AsRef<[u8]>,
        value: &T,
        ex: impl Into<Option<Duration>>,
    ) -> Self {
        let limit = self.client.json_limit();
        self.and(json_op("set_dict", key, value, ex.into(), Shape::Object, limit))
    }

    /// As [`CacheClient::set_list`]; [`Reply::Bool`].
    pub fn set_list<T: Serialize + ?Sized>(
        self,
        key: impl AsRef<[u8]>,
        value: &T,
        ex: impl Into<Option<Duration>>,
    ) -> Self {
        let limit = self.client.json_limit();
        self.and(json_op("set_list", key, value, ex.into(), Shape::Array, limit))
    }

    /// As [`CacheClient::delete_key`]; [`Reply::Int`].
    pub fn delete_key(self, key: impl AsRef<[u8]>) -> Self {
        self.on_key("delete_key", key, |key| Ok(Op::Delete { keys: vec![key] }))
    }

    /// As [`CacheClient::batch_delete_keys`]; [`Reply::Int`].
    pub fn batch_delete_keys(self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        self.and(super::keys("batch_delete_keys", keys).map(|keys| Op::Delete { keys }))
    }

    /// As [`CacheClient::key_exists`]; [`Reply::Bool`].
    pub fn key_exists(self, key: impl AsRef<[u8]>) -> Self {
        self.on_key("key_exists", key, |key| Ok(Op::Exists { key }))
    }

    /// As [`CacheClient::set_expiry`]; [`Reply::Bool`].
    pub fn set_expiry(self, key: impl AsRef<[u8]>, ttl: Duration) -> Self {
        self.on_key("set_expiry", key, |key| expire_op(key, ttl))
    }

    /// As [`CacheClient::persist`]; [`Reply::Bool`].
    pub fn persist(self, key: impl AsRef<[u8]>) -> Self {
        self.on_key("persist", key, |key| Ok(Op::Persist { key }))
    }

    /// As [`CacheClient::get_ttl`]; [`Reply::Ttl`].
    pub fn get_ttl(self, key: impl AsRef<[u8]>) -> Self {
        self.on_key("get_ttl", key, |key| Ok(Op::Ttl { key }))
    }

    /// As [`CacheClient::incr_by`]; [`Reply::Int`].
    pub fn incr_by(self, key: impl AsRef<[u8]>, delta: i64) -> Self {
        self.on_key("incr_by", key, |key| Ok(Op::IncrBy { key, delta }))
    }

    /// As [`CacheClient::set_hash`]; [`Reply::Bool`]: whether the field is new.
    pub fn set_hash(
        self,
        name: impl AsRef<[u8]>,
        field: impl AsRef<[u8]>,
        value: impl IntoValue,
    ) -> Self {
        self.and(hashes::set_op("set_hash", name, field, value))
    }

    /// As [`CacheClient::get_hash`]; [`Reply::Value`].
    pub fn get_hash(self, name: impl AsRef<[u8]>, field: impl AsRef<[u8]>) -> Self {
        self.on_key("get_hash", name, |key| Ok(Op::HashGet { key, field: copied(field) }))
    }

    /// As [`CacheClient::get_hash_all`]; [`Reply::Pairs`].
    pub fn get_hash_all(self, name: impl AsRef<[u8]>) -> Self {
        self.on_key("get_hash_all", name, |key| Ok(Op::HashGetAll { key }))
    }

    /// As [`CacheClient::delete_hash_field`]; [`Reply::Bool`].
    pub fn delete_hash_field(self, name: impl AsRef<[u8]>, field: impl AsRef<[u8]>) -> Self {
        self.on_key("delete_hash_field", name, |key| {
            Ok(Op::HashDelete { key, field: copied(field) })
        })
    }

    /// As [`CacheClient::push_to_list`]; [`Reply::Int`].
    pub fn push_to_list(
        self,
        name: impl AsRef<[u8]>,
        value: impl IntoValue,
        side: Direction,
    ) -> Self {
        self.and(push_op("push_to_list", name, value, side))
    }

    /// As [`CacheClient::get_list`]; [`Reply::List`].
    pub fn get_list(self, name: impl AsRef<[u8]>) -> Self {
        self.on_key("get_list", name, |key| Ok(Op::ListRange { key, start: 0, stop: -1 }))
    }

    /// As [`CacheClient::left_pop_list`]; [`Reply::Value`].
    pub fn left_pop_list(self, name: impl AsRef<[u8]>) -> Self {
        self.on_key("left_pop_list", name, |key| Ok(Op::ListPop { key, side: Direction::Left }))
    }

    /// As [`CacheClient::right_pop_list`]; [`Reply::Value`].
    pub fn right_pop_list(self, name: impl AsRef<[u8]>) -> Self {
        self.on_key("right_pop_list", name, |key| Ok(Op::ListPop { key, side: Direction::Right }))
    }

    /// As [`CacheClient::remove_from_list`]; [`Reply::Int`].
    pub fn remove_from_list(self, name: impl AsRef<[u8]>, value: impl IntoValue) -> Self {
        self.and(remove_op("remove_from_list", name, value))
    }

    fn on_key(
        self,
        name: &'static str,
        key: impl AsRef<[u8]>,
        op: impl FnOnce(crate::key::Key) -> Result<Op>,
    ) -> Self {
        self.and(super::key(name, key).and_then(op))
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("atomic", &self.atomic)
            .field("ops", &self.ops)
            .finish_non_exhaustive()
    }
}

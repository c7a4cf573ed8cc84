//! Typed data-access objects: a family of keys with one type, one prefix, one time to live.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::CacheClient;
use crate::codec::{Shape, decode_json, encode_json};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::key_part::{KeyParts, KeyWriter};
use crate::op::{Batch, Op};
use crate::ttl::{Expiry, Ttl};

/// A typed family of keys: `user:7` holds a `User` as JSON.
///
/// `K` is a key part, or a tuple of them; the parts are joined with `:`. Parts can contain anything:
/// `%`, `:`, `{` and `}` are written as `%25`, `%3A`, `%7B` and `%7D`, so that two different
/// keys never meet, no part can leave its namespace, and none can choose a cluster slot. Cloning is cheap.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use std::time::Duration;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, PartialEq, Debug)]
/// struct User { name: String }
///
/// let cache = larder::CacheClient::memory();
/// let users = cache.namespace::<u64, User>("user").ttl(Duration::from_secs(300)).build()?;
/// users.set(&7, &User { name: "Ada".into() }).await?;
/// assert_eq!(users.get(&7).await?.unwrap().name, "Ada");
/// assert_eq!(cache.get_value("user:7").await?.as_deref(), Some(r#"{"name":"Ada"}"#));
/// # Ok(()) }
/// ```
pub struct Namespace<K: ?Sized, T> {
    client: CacheClient,
    name: Arc<str>,
    expiry: Option<Expiry>,
    undecodable_as_miss: bool,
    types: PhantomData<fn(&K) -> T>,
}

/// Settings of a [`Namespace`]. Setters never fail; [`build`](Self::build) does.
#[must_use]
pub struct NamespaceBuilder<K: ?Sized, T> {
    client: CacheClient,
    name: String,
    ttl: Option<Duration>,
    undecodable_as_miss: bool,
    types: PhantomData<fn(&K) -> T>,
}

impl CacheClient {
    /// A typed view of the keys that start with `name:`. A name may have a `:` in it, for a layout that other
    /// programs share; no name should then be the beginning of another one, as `app` is of `app:user`.
    pub fn namespace<K: ?Sized, T>(&self, name: impl Into<String>) -> NamespaceBuilder<K, T> {
        NamespaceBuilder {
            client: self.clone(),
            name: name.into(),
            ttl: None,
            undecodable_as_miss: false,
            types: PhantomData,
        }
    }
}

impl<K: KeyParts + ?Sized, T> NamespaceBuilder<K, T> {
    /// How long a written value lives. Defaults to for ever.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Reads a value that cannot be decoded (an older schema, another codec) as missing, and counts it as an
    /// error. Defaults to false: it is an error.
    pub fn undecodable_as_miss(mut self, yes: bool) -> Self {
        self.undecodable_as_miss = yes;
        self
    }

    /// The namespace.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an empty name, one with control characters, one that ends in `:`, or a TTL
    /// that Redis does not take; all of it at once.
    pub fn build(self) -> Result<Namespace<K, T>> {
        let mut mistakes = Vec::new();
        if self.name.is_empty() {
            mistakes.push("the namespace has no name".to_owned());
        }
        if self.name.chars().any(char::is_control) {
            mistakes.push("the namespace's name has control characters".to_owned());
        }
        if self.name.ends_with(':') {
            mistakes.push("the namespace's name ends in `:`, which is added by itself".to_owned());
        }
        let expiry = Expiry::optional(self.ttl).unwrap_or_else(|error| {
            mistakes.push(error.detail().to_owned());
            None
        });
        if !mistakes.is_empty() {
            return Err(Error::new(ErrorKind::Config, mistakes.join("; ")).with_op("namespace"));
        }
        Ok(Namespace {
            client: self.client,
            name: self.name.into(),
            expiry,
            undecodable_as_miss: self.undecodable_as_miss,
            types: PhantomData,
        })
    }
}

impl<K: KeyParts + ?Sized, T: Serialize + DeserializeOwned> Namespace<K, T> {
    /// The whole key of a value, as other programs see it.
    ///
    /// # Errors
    /// An empty part is [`ErrorKind::InvalidInput`].
    pub fn key(&self, key: &K) -> Result<Key> {
        self.key_for("key", key)
    }

    /// Reads a value. `None` if there is none, or if it is the JSON `null` that stands for a cached
    /// "there is nothing".
    ///
    /// # Errors
    /// A value that does not fit `T` is [`ErrorKind::Decode`], unless the namespace reads it as missing.
    pub async fn get(&self, key: &K) -> Result<Option<Arc<T>>> {
        let batch = self.batch("get", Op::Get { key: self.key_for("get", key)? });
        let kept = batch.clone();
        let reply = self.client.run_one(batch).await?;
        self.decode(&kept, reply.into_value()?)
    }

    /// Writes a value, with the namespace's time to live.
    ///
    /// # Errors
    /// A value outside of the wire format is [`ErrorKind::Encode`], before anything is sent.
    pub async fn set(&self, key: &K, value: &T) -> Result<()> {
        let op = self.set_op("set", key, value)?;
        self.client.run_one(self.batch("set", op)).await?.into_bool().map(drop)
    }

    /// Deletes a value. Answers whether there was one.
    ///
    /// # Errors
    /// As [`CacheClient::delete_key`].
    pub async fn delete(&self, key: &K) -> Result<bool> {
        let op = Op::Delete { keys: vec![self.key_for("delete", key)?] };
        self.client.run_one(self.batch("delete", op)).await?.into_int().map(|count| count > 0)
    }

    /// Reads many values in one round trip, in the order of the keys. No keys are no round trip.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first value that does not fit.
    pub async fn get_many<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k K>,
    ) -> Result<Vec<Option<Arc<T>>>>
    where
        K: 'k,
    {
        let keys = keys
            .into_iter()
            .map(|key| self.key_for("get_many", key))
            .collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let batch = self.batch("get_many", Op::GetMany { keys: keys.clone() });
        let values = self.client.run_one(batch.clone()).await?.into_values()?;
        keys.iter()
            .zip(values)
            .map(|(key, value)| self.decode(&batch, value).map_err(|error| error.with_key(key)))
            .collect()
    }

    /// Writes many values in one round trip, one after the other, with the namespace's time to live. No
    /// pairs are no round trip.
    ///
    /// # Errors
    /// As [`set`](Self::set); the first value that could not be written decides.
    pub async fn set_many<Q: Borrow<K>, V: Borrow<T>>(
        &self,
        pairs: impl IntoIterator<Item = (Q, V)>,
    ) -> Result<()> {
        let ops = pairs
            .into_iter()
            .map(|(key, value)| self.set_op("set_many", key.borrow(), value.borrow()))
            .collect::<Result<Vec<_>>>()?;
        if ops.is_empty() {
            return Ok(());
        }
        let batch = Batch::many("set_many", ops).labelled(Arc::clone(&self.name));
        let replies = self.client.store().run(batch).await?;
        replies.into_results().into_iter().try_for_each(|result| result.map(drop))
    }

    /// Reads the remaining time of a value.
    ///
    /// # Errors
    /// As every call.
    pub async fn ttl(&self, key: &K) -> Result<Ttl> {
        let op = Op::Ttl { key: self.key_for("ttl", key)? };
        self.client.run_one(self.batch("ttl", op)).await?.into_ttl()
    }

    fn batch(&self, name: &'static str, op: Op) -> Batch {
        Batch::one(name, op).labelled(Arc::clone(&self.name))
    }

    fn key_for(&self, name: &'static str, key: &K) -> Result<Key> {
        let mut writer = KeyWriter::new(&self.name);
        key.write(&mut writer);
        writer.finish().map_err(|error| error.with_op(name))
    }

    fn set_op(&self, name: &'static str, key: &K, value: &T) -> Result<Op> {
        let key = self.key_for(name, key)?;
        let value =
            encode_json(value, Shape::Any).map_err(|error| error.with_op(name).with_key(&key))?;
        Ok(Op::Set { key, value, expiry: self.expiry, only_if: None })
    }

    fn decode(&self, batch: &Batch, value: Option<Bytes>) -> Result<Option<Arc<T>>> {
        let Some(value) = value else { return Ok(None) };
        match decode_json::<Option<T>>(&value, Shape::Any) {
            Ok(value) => Ok(value.map(Arc::new)),
            Err(error) => {
                let error = self.client.undecodable(batch, error);
                if self.undecodable_as_miss { Ok(None) } else { Err(error) }
            }
        }
    }
}

impl<K: ?Sized, T> Clone for Namespace<K, T> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            name: Arc::clone(&self.name),
            expiry: self.expiry,
            undecodable_as_miss: self.undecodable_as_miss,
            types: PhantomData,
        }
    }
}

impl<K: ?Sized, T> fmt::Debug for Namespace<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("name", &self.name)
            .field("ttl", &self.expiry.map(Expiry::as_duration))
            .finish_non_exhaustive()
    }
}

impl<K: ?Sized, T> fmt::Debug for NamespaceBuilder<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamespaceBuilder")
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

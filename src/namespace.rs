//! Typed data-access objects: a family of keys with one type, one prefix, one time to live.

use std::borrow::Borrow;
use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{
    CacheClient, Detached, Family, Given, IntoLoaded, LoadOptions, Loader, ManyLoader, Nowhere,
    ReadFrom, Seen,
};
use crate::codec::{JsonLimit, Shape, decode_json, encode_json};
use crate::error::Result;
use crate::key::Key;
use crate::key_part::{KeyParts, KeyWriter, with_key};
use crate::op::{Batch, Lane, Op};
use crate::ttl::{Expiry, Ttl};

mod builder;
#[cfg(feature = "macros")]
mod cached_fn;

pub use builder::NamespaceBuilder;
#[cfg(feature = "macros")]
pub use cached_fn::CachedFn;

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
    options: LoadOptions,
    near: bool,
    near_max_bytes: Option<u64>,
    lane: Lane,
    undecodable_as_miss: bool,
    // Nothing for the client's.
    json_limit: Option<JsonLimit>,
    loader: Option<NamespaceLoader<K, T>>,
    // Empty while the global client is not set up, and for handles that were taken before it was: they look for it at
    // each call.
    family: OnceLock<Family>,
    types: PhantomData<fn(&K) -> T>,
}

/// A loader of a namespace, which needs no caller.
type NamespaceLoader<K, T> = Arc<dyn Fn(&K) -> Detached<T> + Send + Sync>;

impl<K: ?Sized, T> Namespace<K, T> {
    /// Finds what its reads share, once.
    fn bind(&self) -> Result<()> {
        if self.client.is_settled() {
            let family = self.look_up(&self.client)?;
            _ = self.family.set(family);
        }
        Ok(())
    }

    fn look_up(&self, client: &CacheClient) -> Result<Family> {
        let path = client.path();
        let room =
            if self.near { path.room(&self.name, self.near_max_bytes, &self.lane)? } else { None };
        Ok(Family {
            path: Arc::clone(path),
            name: "get",
            label: Some(Arc::clone(&self.name)),
            reads: path.reads(self.name.as_bytes()),
            room,
            lane: self.lane.clone(),
            options: self.options,
            undecodable_as_miss: self.undecodable_as_miss,
            json_limit: self.json_limit.unwrap_or_else(|| path.json_limit()),
        })
    }

    /// How this namespace's keys are read, by the method `name`.
    fn family(&self, name: &'static str) -> Result<Family> {
        // Those of `with` are looked at by nobody before.
        self.options.check().map_err(|error| error.with_op(name))?;
        let family = match self.family.get() {
            Some(family) => family.clone(),
            None => self
                .client
                .settled()
                .and_then(|client| self.look_up(&client))
                .map_err(|error| error.with_op(name))?,
        };
        Ok(Family { name, ..family })
    }
}

impl<K, T> Namespace<K, T>
where
    K: KeyParts + ?Sized,
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The whole key of a value, as other programs see it.
    ///
    /// # Errors
    /// An empty part is [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput).
    pub fn key(&self, key: &K) -> Result<Key> {
        self.key_for("key", key)
    }

    /// Reads a value: from the near cache, from the store and, if the namespace has a loader, from that. `None` if
    /// there is none, or if it is the JSON `null` that stands for a cached "there is nothing".
    ///
    /// Costs nothing for a value that is near, one round trip for one that is stored, and two more beside the
    /// load for a miss. A value past its time to live is served within the grace.
    ///
    /// # Errors
    /// A value that does not fit `T` is [`ErrorKind::Decode`](crate::ErrorKind::Decode), unless the namespace
    /// reads it as missing; of a loader, as [`get_or_load`](Self::get_or_load).
    pub async fn get(&self, key: &K) -> Result<Option<Arc<T>>> {
        if let Some(value) = self.near_now("get", key, self.loader.is_some(), true)? {
            return Ok(value);
        }
        let whole = self.key_for("get", key)?;
        if let Some(mut loader) = self.detached(key) {
            return Ok(self.family("get")?.read(&whole, &mut loader).await?.value);
        }
        if self.near || self.is_graceful() {
            return Ok(self.family("get")?.read(&whole, &mut Nowhere).await?.value);
        }
        let batch = self.batch("get", Op::Get { key: whole.clone() });
        let kept = batch.clone();
        let found = self.client.run_one(batch).await?.into_value()?;
        self.plain("get", &kept, &whole, found)
    }

    /// Reads a value as [`get`](Self::get) does, and loads it if there is none: once, whoever asks for it
    /// meanwhile, in this process or in another. The loader may borrow: it runs in this call and ends with it, and
    /// then another caller who waited runs its own.
    ///
    /// A loader of `T` gives an `Arc<T>`; one of `Option<T>` or [`Loaded<T>`](crate::Loaded) gives an `Option<Arc<T>>`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// use std::time::Duration;
    /// # let cache = larder::CacheClient::memory();
    /// async fn length(word: &str) -> Result<usize, std::io::Error> { Ok(word.len()) }
    ///
    /// let lengths = cache.namespace::<str, usize>("length").ttl(Duration::from_secs(60)).build()?;
    /// assert_eq!(*lengths.get_or_load("larder", || length("larder")).await?, 6);
    /// assert_eq!(*lengths.get("larder").await?.unwrap(), 6);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Load`](crate::ErrorKind::Load) if the loader fails, panics, takes too long or asks for its own
    /// key; its own error is [`Error::loader_error`](crate::Error::loader_error), the same for all who waited. A
    /// store that fails is none: the loader answers then.
    pub async fn get_or_load<L: Loader<T>>(&self, key: &K, loader: L) -> Result<Given<T, L>> {
        let nothing_is_fit = <L::Gives as IntoLoaded<T>>::from_cached(None).is_some();
        if let Some(value) = self.near_now("get_or_load", key, true, nothing_is_fit)?
            && let Some(value) = <L::Gives as IntoLoaded<T>>::from_cached(value)
        {
            return Ok(value);
        }
        let whole = self.key_for("get_or_load", key)?;
        self.family("get_or_load")?.given(&whole, loader).await
    }

    /// Reads many values, and loads those that are missing with one call of the loader, which is told exactly the keys
    /// that this call has to load, and gives pairs of a key and what it found (and with one more for keys of a
    /// server that does not answer, while others do). What it leaves out is not there;
    /// [`Loaded::failed`](crate::Loaded::failed) is the failure of one key.
    ///
    /// One answer for each key, in order. Costs one round trip for what is not near, and two more if something
    /// is missing. What is stale within its grace, or due for an early refresh, is served at once and loaded again by
    /// the namespace's own loader, behind the caller. Without one it is loaded in the same call of this loader, which
    /// is waited for: for no longer than the [soft timeout](LoadOptions::soft_timeout), if there is one and nothing is
    /// missing.
    ///
    /// # Errors
    /// As [`get_or_load`](Self::get_or_load); those of a single key stand in its place.
    pub async fn get_or_load_many<'k, F, Fut, I, Q, L, E>(
        &self,
        keys: impl IntoIterator<Item = &'k K>,
        mut loader: F,
    ) -> Result<Vec<Result<Option<Arc<T>>>>>
    where
        K: Sync + 'k,
        F: FnMut(Vec<&'k K>) -> Fut + Send,
        Fut: Future<Output = Result<I, E>> + Send,
        I: IntoIterator<Item = (Q, L)>,
        Q: Borrow<K>,
        L: IntoLoaded<T>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        const NAME: &str = "get_or_load_many";
        let asked: Vec<&K> = keys.into_iter().collect();
        let keys = self.keys_for(NAME, asked.iter().copied())?;
        let name = &self.name;
        let mut source = ManyLoader {
            loader: |places: Vec<usize>| loader(places.into_iter().map(|at| asked[at]).collect()),
            named: move |key: &Q| write_key(name, key.borrow()),
            own: |at: usize| self.detached(asked[at]),
        };
        self.family(NAME)?.many(&keys, &mut source).await
    }

    /// Writes a value, with the namespace's time to live (and its grace). A load of it that is under way is void:
    /// what it brings is not stored.
    ///
    /// # Errors
    /// A value outside of the wire format is [`ErrorKind::Encode`](crate::ErrorKind::Encode), before anything is sent.
    pub async fn set(&self, key: &K, value: &T) -> Result<()> {
        let op = self.set_op("set", key, value)?;
        self.client.run_one(self.batch("set", op)).await?.into_done()
    }

    /// Writes a value as [`set`](Self::set) does, unless it was written with a larger fencing token before. Answers whether
    /// it was written: see [`CacheClient::fenced_set`], which says what the mark of the token costs and how long it lives.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn fenced_set(&self, key: &K, value: &T, token: u64) -> Result<bool> {
        let (key, value, expiry) = self.encoded("fenced_set", key, value)?;
        let op = Op::FencedSet { key, value, expiry, token };
        self.client.run_one(self.batch("fenced_set", op)).await?.into_bool()
    }

    /// Deletes a value. Answers whether there was one. A load of it that is under way is void.
    ///
    /// # Errors
    /// As [`CacheClient::delete_key`].
    pub async fn delete(&self, key: &K) -> Result<bool> {
        let op = Op::Delete { keys: vec![self.key_for("delete", key)?] };
        self.client.run_one(self.batch("delete", op)).await?.into_int().map(|count| count > 0)
    }

    /// Says that a value is not true any more: to be called after the origin was changed. As
    /// [`delete`](Self::delete), but if the store cannot be reached, the invalidation is kept in this process and
    /// sent before a key is read from the store again, or from the node of a cluster that it is for.
    ///
    /// # Errors
    /// As every call. The outcome is [`Deferred`](crate::Outcome::Deferred) if it was kept: up to 10,000 are, the
    /// newest, and a process that ends before they are sent loses them. `docs/near-cache.md` says what to do where
    /// that is not enough.
    pub async fn invalidate(&self, key: &K) -> Result<()> {
        let key = self.key_for("invalidate", key)?;
        self.void("invalidate", vec![key]).await
    }

    /// Says that many values are not true any more, in one round trip. No keys are no round trip.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    pub async fn invalidate_many<'k>(&self, keys: impl IntoIterator<Item = &'k K>) -> Result<()>
    where
        K: 'k,
    {
        let keys = self.keys_for("invalidate_many", keys)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.void("invalidate_many", keys).await
    }

    async fn void(&self, name: &'static str, keys: Vec<Key>) -> Result<()> {
        let batch = self.batch(name, Op::Delete { keys: keys.clone() });
        match self.client.run_one(batch).await.and_then(crate::op::Reply::into_int) {
            Ok(_) => Ok(()),
            Err(error) => Err(match self.client.settled() {
                Ok(client) => client.path().defer(keys, error),
                Err(_) => error,
            }),
        }
    }

    /// Reads many values, in the order of the keys: what is near, and the rest in one round trip. If the namespace has
    /// a loader, what is missing is read key by key, all at once, as by [`get`](Self::get); and what is stale within its
    /// grace, or due for an early refresh, is served and loaded again behind the caller, who waits for that no longer
    /// than the [soft timeout](LoadOptions::soft_timeout). No keys are no round trip.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first value that fails.
    pub async fn get_many<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k K>,
    ) -> Result<Vec<Option<Arc<T>>>>
    where
        K: 'k,
    {
        let asked: Vec<&K> = keys.into_iter().collect();
        let keys = self.keys_for("get_many", asked.iter().copied())?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        if self.near || self.loader.is_some() || self.is_graceful() {
            let family = self.family("get_many")?;
            let found = match self.loader {
                Some(_) => family.read_many_to_load(&keys).await?,
                None => family.read_many(&keys, &mut Nowhere).await?,
            };
            // All that failed are counted, and the first is the answer.
            let failed = found.iter().filter_map(|one| one.as_ref().err());
            failed.for_each(|error| family.note_failed(error));
            let found: Vec<_> = found.into_iter().collect::<Result<_>>()?;
            let all = asked.iter().zip(&keys).zip(found).map(|((asked, key), found)| {
                let (family, loader) = (&family, self.detached(asked));
                async move {
                    let answer = match loader {
                        Some(mut loader) => family.serve(key, found, &mut loader).await?,
                        None => family.served(key, found),
                    };
                    Ok(answer.value)
                }
            });
            return futures_util::future::try_join_all(all).await;
        }
        let batch = self.batch("get_many", Op::GetMany { keys: keys.clone() });
        let values = self.client.run_one(batch.clone()).await?.into_values()?;
        keys.iter()
            .zip(values)
            .map(|(key, found)| self.plain("get_many", &batch, key, found))
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

    /// Reads for how long a value is fresh: its remaining time, less the grace. Zero for a value that is served in
    /// its grace.
    ///
    /// # Errors
    /// As every call.
    pub async fn ttl(&self, key: &K) -> Result<Ttl> {
        let op = Op::Ttl { key: self.key_for("ttl", key)? };
        let ttl = self.client.run_one(self.batch("ttl", op)).await?.into_ttl()?;
        Ok(match ttl {
            Ttl::Remaining(left) => Ttl::Remaining(left.saturating_sub(self.options.grace)),
            ttl => ttl,
        })
    }

    /// How the last read of a value came to it, if it is remembered: about the last thousand keys of each thread are. Costs
    /// no round trip.
    pub fn explain(&self, key: &K) -> Option<ReadFrom> {
        self.client.explain(self.key_for("explain", key).ok()?)
    }

    /// The same namespace with other options, for one call or a few.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// # let cache = larder::CacheClient::memory();
    /// let users = cache.namespace::<u64, String>("user").near(true).build()?;
    /// let stored = users.with(|options| options.bypass_near()).get(&7).await?;
    /// # assert!(stored.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// Never; options that are wrong are [`ErrorKind::Config`](crate::ErrorKind::Config) at the call.
    pub fn with(&self, change: impl FnOnce(LoadOptions) -> LoadOptions) -> Self {
        let options = change(self.options);
        let family = OnceLock::new();
        if let Some(bound) = self.family.get() {
            _ = family.set(Family { options, ..bound.clone() });
        }
        Self { options, family, ..self.clone() }
    }

    /// What is near and fit to be served at once.
    fn near_now(
        &self,
        name: &'static str,
        key: &K,
        loads: bool,
        nothing_is_fit: bool,
    ) -> Result<Option<Option<Arc<T>>>> {
        let Some(family) = self.family.get() else { return Ok(None) };
        let Some(room) = family.near() else { return Ok(None) };
        with_key(&self.name, key, |key| {
            let hit = room.get::<T>(key)?;
            let hash = hit.hash;
            match family.near_hit(hit, nothing_is_fit)? {
                Seen::Fresh(answer) => {
                    family.note_hashed(hash, answer.from);
                    Some(answer.value)
                }
                Seen::Due(answer) if !loads => {
                    family.note_hashed(hash, answer.from);
                    Some(answer.value)
                }
                _ => None,
            }
        })
        .map_err(|error| error.with_op(name))
    }

    /// The namespace's loader, of one key.
    fn detached(&self, key: &K) -> Option<Detached<T>> {
        self.loader.as_ref().map(|loader| loader(key))
    }

    fn batch(&self, name: &'static str, op: Op) -> Batch {
        Batch::one(name, op).labelled(Arc::clone(&self.name))
    }

    fn key_for(&self, name: &'static str, key: &K) -> Result<Key> {
        write_key(&self.name, key).map_err(|error| error.with_op(name))
    }

    fn keys_for<'k>(
        &self,
        name: &'static str,
        keys: impl IntoIterator<Item = &'k K>,
    ) -> Result<Vec<Key>>
    where
        K: 'k,
    {
        keys.into_iter().map(|key| self.key_for(name, key)).collect()
    }

    fn set_op(&self, name: &'static str, key: &K, value: &T) -> Result<Op> {
        let (key, value, expiry) = self.encoded(name, key, value)?;
        Ok(Op::Overwrite { key, value, expiry })
    }

    /// What is written of a value, and for how long.
    fn encoded(
        &self,
        name: &'static str,
        key: &K,
        value: &T,
    ) -> Result<(Key, Bytes, Option<Expiry>)> {
        let key = self.key_for(name, key)?;
        let limit = self.json_limit.unwrap_or_else(|| self.client.json_limit());
        let value = encode_json(value, Shape::Any, limit)
            .map_err(|error| error.with_op(name).with_key(&key))?;
        self.options.check().map_err(|error| error.with_op(name))?;
        let expiry = self.options.stored_for(self.options.ttl)?;
        Ok((key, value, expiry))
    }

    /// Whether it matters how much of a value's time is left.
    fn is_graceful(&self) -> bool {
        !self.options.grace.is_zero()
    }

    /// What a plain read found.
    fn plain(
        &self,
        name: &'static str,
        batch: &Batch,
        key: &Key,
        found: Option<Bytes>,
    ) -> Result<Option<Arc<T>>> {
        let family = self.family(name)?;
        let decode = |found: Bytes| decode_json::<Option<T>>(&found, Shape::Any, family.json_limit);
        let (value, from) = match found.map(decode) {
            None => (None, ReadFrom::Missing),
            Some(Ok(value)) => (value.map(Arc::new), ReadFrom::Shared),
            Some(Err(error)) => {
                let error = self.client.undecodable(batch, error).with_key(key);
                if !self.undecodable_as_miss {
                    return Err(error);
                }
                (None, ReadFrom::Missing)
            }
        };
        family.note(key.as_bytes(), from);
        Ok(value)
    }
}

fn write_key<K: KeyParts + ?Sized>(namespace: &str, key: &K) -> Result<Key> {
    let mut writer = KeyWriter::new(namespace);
    key.write(&mut writer);
    writer.finish()
}

impl<K: ?Sized, T> Clone for Namespace<K, T> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            name: Arc::clone(&self.name),
            options: self.options,
            near: self.near,
            near_max_bytes: self.near_max_bytes,
            lane: self.lane.clone(),
            undecodable_as_miss: self.undecodable_as_miss,
            json_limit: self.json_limit,
            loader: self.loader.clone(),
            family: self.family.clone(),
            types: PhantomData,
        }
    }
}

impl<K: ?Sized, T> fmt::Debug for Namespace<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace")
            .field("name", &self.name)
            .field("options", &self.options)
            .field("near", &self.near)
            .finish_non_exhaustive()
    }
}

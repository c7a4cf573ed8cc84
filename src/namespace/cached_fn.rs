//! Namespaces of `#[cached]` functions: bound once for each client, and found again at every call.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use super::{Namespace, NamespaceBuilder};
use crate::client::{CacheClient, Family, LoadOptions, ReadPath};
use crate::codec::JsonLimit;
use crate::error::Result;
use crate::near::Room;
use crate::op::Lane;
use crate::stats::ReadRecorder;

/// The settings of a `#[cached]` function. The builder's types are those of no value: a function may be generic, and
/// what stands in a `static` must not be.
type Settings = fn(NamespaceBuilder<str, ()>) -> NamespaceBuilder<str, ()>;

/// What a `#[cached]` function is: a namespace, and what it shares in each client that it was called with.
pub struct CachedFn {
    name: &'static str,
    settings: Settings,
    bound: RwLock<Vec<Bound>>,
}

/// A namespace without its client: a `static` must not keep connections open that everybody else has let go.
struct Bound {
    path: Weak<ReadPath>,
    name: Arc<str>,
    options: LoadOptions,
    near: bool,
    near_max_bytes: Option<u64>,
    lane: Lane,
    undecodable_as_miss: bool,
    json_limit: JsonLimit,
    reads: Arc<ReadRecorder>,
    room: Option<Weak<Room>>,
}

impl CachedFn {
    /// Of a namespace with settings.
    pub const fn new(name: &'static str, settings: Settings) -> Self {
        Self { name, settings, bound: RwLock::new(Vec::new()) }
    }

    /// Its namespace in a client.
    pub(crate) fn namespace<K: ?Sized, T>(&self, client: &CacheClient) -> Result<Namespace<K, T>> {
        let client = client.settled().map_err(|error| error.with_op("namespace"))?;
        let path = Arc::as_ptr(client.path());
        let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner);
        // An address is not used again while something points to it, were it weakly.
        if let Some(bound) = bound.iter().find(|bound| bound.path.as_ptr() == path) {
            return Ok(bound.namespace(client));
        }
        drop(bound);
        let built = (self.settings)(client.namespace::<str, ()>(self.name)).build()?;
        let family = built.family("namespace")?;
        let fresh = Bound {
            path: Arc::downgrade(client.path()),
            name: built.name,
            options: built.options,
            near: built.near,
            near_max_bytes: built.near_max_bytes,
            lane: built.lane,
            undecodable_as_miss: built.undecodable_as_miss,
            json_limit: family.json_limit,
            reads: family.reads,
            room: family.room.as_ref().map(Arc::downgrade),
        };
        let namespace = fresh.namespace(client);
        let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|old| old.path.strong_count() > 0 && old.path.as_ptr() != path);
        bound.push(fresh);
        Ok(namespace)
    }
}

impl Bound {
    fn namespace<K: ?Sized, T>(&self, client: CacheClient) -> Namespace<K, T> {
        let family = Family {
            path: Arc::clone(client.path()),
            name: "get",
            label: Some(Arc::clone(&self.name)),
            reads: Arc::clone(&self.reads),
            // The client keeps its rooms.
            room: self.room.as_ref().and_then(Weak::upgrade),
            lane: self.lane.clone(),
            options: self.options,
            undecodable_as_miss: self.undecodable_as_miss,
            json_limit: self.json_limit,
        };
        Namespace {
            client,
            name: Arc::clone(&self.name),
            options: self.options,
            near: self.near,
            near_max_bytes: self.near_max_bytes,
            lane: self.lane.clone(),
            undecodable_as_miss: self.undecodable_as_miss,
            json_limit: Some(self.json_limit),
            loader: None,
            family: OnceLock::from(family),
            types: PhantomData,
        }
    }
}

impl fmt::Debug for CachedFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFn").field("name", &self.name).finish_non_exhaustive()
    }
}

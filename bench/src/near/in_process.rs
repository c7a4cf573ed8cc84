//! larder, and caches that live in the process alone: the values in them are `Arc`s of documents.

use std::fmt::Write;
use std::sync::Arc;

use larder::{CacheClient, Namespace};

use super::{CAPACITY, Near};
use crate::Result;
use crate::data::{NEAR, NEAR_NAME, Profile};

/// `Namespace::get` with its near cache on, and the client's default budget.
#[derive(Clone)]
pub(super) struct Larder(Namespace<u64, Profile>);

impl Larder {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let cache = CacheClient::connect(url).await?;
        Ok(Self(cache.namespace(NEAR_NAME).near(true).build()?))
    }
}

impl Near for Larder {
    async fn hit(&mut self, _key: &mut String, id: u64) -> Result<u64> {
        Ok(self.0.get(&id).await?.ok_or(LOST)?.id())
    }
}

const LOST: &str = "a cache lost a document";

/// The key that larder builds, for those who need it as text. The task's own string has room for it: none of
/// them pays for memory.
pub(super) fn build(key: &mut String, id: u64) -> Result<()> {
    key.clear();
    write!(key, "doc:{id}")?;
    Ok(())
}

fn documents() -> impl Iterator<Item = (String, Arc<Profile>)> {
    (0..NEAR).map(|id| (format!("doc:{id}"), Arc::new(Profile::numbered(id))))
}

/// `moka::sync::Cache`, without expiry.
#[derive(Clone)]
pub(super) struct MokaSync(moka::sync::Cache<String, Arc<Profile>>);

impl MokaSync {
    pub(super) fn filled() -> Self {
        let cache = moka::sync::Cache::new(CAPACITY);
        documents().for_each(|(key, document)| cache.insert(key, document));
        cache.run_pending_tasks();
        Self(cache)
    }
}

impl Near for MokaSync {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        Ok(self.0.get(key.as_str()).ok_or(LOST)?.id())
    }
}

/// `moka::future::Cache`, without expiry.
#[derive(Clone)]
pub(super) struct MokaFuture(moka::future::Cache<String, Arc<Profile>>);

impl MokaFuture {
    pub(super) async fn filled() -> Self {
        let cache = moka::future::Cache::new(CAPACITY);
        for (key, document) in documents() {
            cache.insert(key, document).await;
        }
        cache.run_pending_tasks().await;
        Self(cache)
    }
}

impl Near for MokaFuture {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        Ok(self.0.get(key.as_str()).await.ok_or(LOST)?.id())
    }
}

/// `quick_cache::sync::Cache`. Its `get` clones the `Arc`.
#[derive(Clone)]
pub(super) struct Quick(Arc<quick_cache::sync::Cache<String, Arc<Profile>>>);

impl Quick {
    pub(super) fn filled() -> Self {
        let cache = quick_cache::sync::Cache::new(CAPACITY as usize);
        documents().for_each(|(key, document)| cache.insert(key, document));
        Self(Arc::new(cache))
    }
}

impl Near for Quick {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        Ok(self.0.get(key.as_str()).ok_or(LOST)?.id())
    }
}

/// The same with the number itself as the key: what building a key costs is seen beside it.
#[derive(Clone)]
pub(super) struct QuickNumbers(Arc<quick_cache::sync::Cache<u64, Arc<Profile>>>);

impl QuickNumbers {
    pub(super) fn filled() -> Self {
        let cache = quick_cache::sync::Cache::new(CAPACITY as usize);
        (0..NEAR).for_each(|id| cache.insert(id, Arc::new(Profile::numbered(id))));
        Self(Arc::new(cache))
    }
}

impl Near for QuickNumbers {
    async fn hit(&mut self, _key: &mut String, id: u64) -> Result<u64> {
        Ok(self.0.get(&id).ok_or(LOST)?.id())
    }
}

/// The key, and the document out of a plain array: what touching the documents costs on this machine, which is in
/// every row that has any.
#[derive(Clone)]
pub(super) struct Array(Arc<[Arc<Profile>]>);

impl Array {
    pub(super) fn filled() -> Self {
        Self((0..NEAR).map(|id| Arc::new(Profile::numbered(id))).collect())
    }
}

impl Near for Array {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        std::hint::black_box(key.as_str());
        let document = Arc::clone(&self.0[id as usize]);
        Ok(std::hint::black_box(document).id())
    }
}

/// The loop and the key, and nothing else: what every other row contains, and how two tasks of this machine
/// do without a cache.
#[derive(Clone)]
pub(super) struct KeyAlone;

impl Near for KeyAlone {
    async fn hit(&mut self, key: &mut String, id: u64) -> Result<u64> {
        build(key, id)?;
        std::hint::black_box(key.as_str());
        Ok(id)
    }
}

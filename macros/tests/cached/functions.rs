//! The shapes of functions: methods, generic ones, lifetimes, what they return.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::{CacheClient, KeyParts, cached};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Db, DbError, User};

struct Repo {
    cache: CacheClient,
    tenant: String,
    db: Db,
}

trait Find {
    fn find(&self, id: u64) -> impl Future<Output = Result<User, DbError>> + Send;
}

impl Repo {
    /// A method, with its docs and attributes.
    #[must_use = "it is asked for"]
    #[cached(namespace = "repo", key = "{self.tenant}:{id}", ttl = "1m", cache = self.cache, invalidate)]
    pub async fn user(&self, id: u64) -> Result<User, DbError> {
        let found = self.db.find(id).await?;
        if found.id == 1 {
            return Ok(User { name: "the first".to_owned(), ..found });
        }
        Ok(found)
    }
}

impl Find for Repo {
    #[cached(namespace = "found", key = "{id}", ttl = "1m", cache = self.cache)]
    async fn find(&self, id: u64) -> Result<User, DbError> {
        self.db.find(id).await
    }
}

fn repo(cache: &CacheClient, tenant: &str) -> Repo {
    Repo { cache: cache.clone(), tenant: tenant.to_owned(), db: Db::default() }
}

#[tokio::test]
async fn methods_read_through_the_cache_of_self_and_keep_tenants_apart() {
    let cache = CacheClient::memory();
    let (one, other) = (repo(&cache, "one"), repo(&cache, "other"));
    for _ in 0..3 {
        assert_eq!(one.user(1).await.unwrap().name, "the first");
        assert_eq!(other.user(7).await.unwrap().id, 7);
        assert_eq!(one.find(7).await.unwrap().id, 7);
    }
    assert_eq!((one.db.asked(), other.db.asked()), (2, 1));
    one.user_invalidate(7).await.unwrap();
    other.user(7).await.unwrap();
    assert_eq!(other.db.asked(), 1, "another tenant's value was invalidated");
    other.user_invalidate(7).await.unwrap();
    other.user(7).await.unwrap();
    assert_eq!(other.db.asked(), 2);
}

#[tokio::test]
async fn two_clients_of_one_function_are_kept_apart() {
    let (a, b) = (repo(&CacheClient::memory(), "t"), repo(&CacheClient::memory(), "t"));
    for _ in 0..3 {
        a.user(7).await.unwrap();
        b.user(7).await.unwrap();
    }
    assert_eq!((a.db.asked(), b.db.asked()), (1, 1));
}

/// Of any key and any value.
#[cached(namespace = "any", key = "{key}:{count.len()}", ttl = "1m", cache = cache, skip(make), invalidate)]
async fn any<'a, K, T, F, const N: usize>(
    cache: &'a CacheClient,
    key: &'a K,
    count: &'a [u8; N],
    make: F,
) -> Result<T, DbError>
where
    K: KeyParts + Display + Sync + ?Sized,
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    F: Fn(String) -> T + Clone + Send + Sync,
{
    Ok(make(format!("{key} of {}", count.len())))
}

#[tokio::test]
async fn generic_functions_are_cached_for_each_of_their_types() {
    let cache = CacheClient::memory();
    let (runs, counted) = (AtomicU64::new(0), &[0; 3]);
    let make = |text| {
        runs.fetch_add(1, Ordering::SeqCst);
        text
    };
    for _ in 0..3 {
        assert_eq!(any(&cache, "k", counted, make).await.unwrap(), "k of 3");
        assert_eq!(any(&cache, &7_u8, counted, |text| text.len()).await.unwrap(), 6);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    any_invalidate(&cache, "k", counted).await.unwrap();
    any(&cache, "k", counted, make).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert_eq!(cache.get_value("any:7:3").await.unwrap().as_deref(), Some("6"));
}

#[cached(namespace = "maybe", key = "{id}", ttl = "1m", cache = db.1)]
async fn maybe(db: &(Db, CacheClient), id: u64) -> Option<User> {
    db.0.find(id).await.ok()
}

#[cached(namespace = "maybe", key = "{id}", ttl = "1m", negative_ttl = "1m", cache = db.1)]
async fn maybe_remembered(
    db: &(Db, CacheClient),
    id: u64,
) -> std::result::Result<Option<Arc<User>>, DbError> {
    match db.0.find(id).await {
        Ok(user) => Ok(Some(Arc::new(user))),
        Err(DbError::NoSuchUser) => Ok(None),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn nothing_is_remembered_only_if_asked_for() {
    let db = (Db::default(), CacheClient::memory());
    for _ in 0..2 {
        assert_eq!(maybe(&db, 0).await, None);
    }
    assert_eq!(db.0.asked(), 2);
    for _ in 0..2 {
        assert_eq!(maybe_remembered(&db, 0).await.unwrap(), None);
    }
    assert_eq!(db.0.asked(), 3);
    // What the one remembers holds for the other: it is one key.
    assert_eq!(maybe(&db, 0).await, None);
    assert_eq!(db.0.asked(), 3);
    for _ in 0..2 {
        assert_eq!(maybe(&db, 7).await.unwrap().id, 7);
        assert_eq!(maybe_remembered(&db, 7).await.unwrap().unwrap().id, 7);
    }
    assert_eq!(db.0.asked(), 4);
}

#[cached(namespace = "all", key = "all", ttl = "1m", cache = cache, skip(db))]
async fn all(cache: &Arc<CacheClient>, db: &Db) -> larder::Result<Vec<u64>> {
    Ok(vec![db.find(1).await.map_or(0, |user| user.id)])
}

#[tokio::test]
async fn a_function_without_telling_arguments_has_one_value() {
    let (cache, db) = (Arc::new(CacheClient::memory()), Db::default());
    for _ in 0..3 {
        assert_eq!(all(&cache, &db).await.unwrap(), [1]);
    }
    assert_eq!(db.asked(), 1);
    assert_eq!(cache.get_value("all:all").await.unwrap().as_deref(), Some("[1]"));
}

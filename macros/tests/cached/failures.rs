//! What callers see when the body fails, and when the cache does.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::store::MemoryStore;
use larder::testing::{Fault, Faulty, RedisServer};
use larder::{CacheClient, ErrorKind, cached};
use tokio::sync::Notify;

use super::{Db, DbError, User, both};

#[cached(namespace = "user", key = "{id}", ttl = "5m", cache = cache)]
async fn find_user(cache: &CacheClient, db: &Db, id: u64) -> Result<User, DbError> {
    db.find(id).await
}

/// A call that leads the load, and others that wait for it.
async fn failing(cache: &CacheClient, gate: &Notify) -> Result<User, DbError> {
    #[cached(namespace = "failing", key = "{id}", ttl = "5m", cache = cache)]
    async fn inner(cache: &CacheClient, id: u64, gate: &Notify) -> Result<User, DbError> {
        gate.notified().await;
        Err(DbError::NoSuchUser)
    }
    inner(cache, 7, gate).await
}

#[tokio::test]
async fn an_error_of_the_body_comes_back_as_itself_to_all_who_waited() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let gate = Notify::new();
        let all = futures_util::future::join_all((0..20).map(|_| failing(&cache, &gate)));
        let joined = async {
            while cache.stats().reads.get("failing").is_none_or(|seen| seen.joined < 19) {
                tokio::task::yield_now().await;
            }
            gate.notify_one();
        };
        let (all, ()) = tokio::join!(all, joined);
        assert_eq!(all.len(), 20);
        for answer in all {
            assert!(matches!(answer, Err(DbError::NoSuchUser)), "{store}: {answer:?}");
        }
        let db = Db::default();
        for asked in 1..=3 {
            assert!(find_user(&cache, &db, 0).await.is_err());
            assert_eq!(db.asked(), asked, "{store}: an error was cached");
        }
    }
}

/// An error that cannot be cloned.
#[derive(Debug)]
enum Unique {
    Own,
    Cache(larder::Error),
}

impl fmt::Display for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unique")
    }
}

impl std::error::Error for Unique {}

impl From<larder::Error> for Unique {
    fn from(error: larder::Error) -> Self {
        Self::Cache(error)
    }
}

#[cached(namespace = "unique", key = "{id}", ttl = "1m", cache = cache)]
async fn unique(cache: &CacheClient, id: u64) -> Result<u64, Unique> {
    Err(Unique::Own)
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

#[cached(namespace = "boxed", key = "{id}", ttl = "1m", cache = cache)]
async fn boxed(cache: &CacheClient, id: u64) -> Result<u64, Boxed> {
    Err("the origin is gone".into())
}

#[cached(namespace = "own", key = "{id}", ttl = "1m", cache = cache)]
async fn of_larder(cache: &CacheClient, id: u64) -> larder::Result<u64> {
    cache.get_value("").await?;
    Ok(id)
}

#[tokio::test]
async fn an_error_that_cannot_be_cloned_comes_back_within_an_error_of_larder() {
    let cache = CacheClient::memory();
    let Err(Unique::Cache(error)) = unique(&cache, 7).await else { panic!("another error") };
    assert_eq!(error.kind(), ErrorKind::Load);
    assert!(matches!(error.loader_error::<Unique>(), Some(Unique::Own)));

    let error = boxed(&cache, 7).await.unwrap_err();
    let error = error.downcast::<larder::Error>().unwrap();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the origin is gone");

    // Errors of larder can be cloned.
    let error = of_larder(&cache, 7).await.unwrap_err();
    assert_eq!((error.kind(), error.op()), (ErrorKind::InvalidInput, "get_value"));
}

#[tokio::test]
async fn a_value_of_another_type_is_the_caches_error() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        cache.set_value("user:7", "[]", None).await.unwrap();
        let db = Db::default();
        let Err(DbError::Cache(error)) = find_user(&cache, &db, 7).await else { panic!("{store}") };
        assert!(error.is_decode(), "{store}: {error}");
        assert_eq!(db.asked(), 0, "{store}");
    }
}

#[cached(namespace = "doc", key = "{id}", ttl = "5m", cache = cache)]
async fn document(cache: &CacheClient, id: u64, bytes: usize) -> larder::Result<String> {
    Ok("x".repeat(bytes))
}

#[cached(namespace = "note", key = "{id}", ttl = "5m", cache = cache, max_json_bytes = 50)]
async fn note(cache: &CacheClient, id: u64, bytes: usize) -> larder::Result<String> {
    Ok("x".repeat(bytes))
}

/// A text with its quotes may have as many bytes as the limit, and no more.
async fn is_bounded(
    cache: &CacheClient,
    namespace: &str,
    limit: usize,
    call: impl AsyncFn(u64, usize) -> larder::Result<String>,
) {
    let key = |id: u64| format!("{namespace}:{id}");
    let fits = limit - 2;
    assert_eq!(call(1, fits).await.unwrap().len(), fits, "{cache:?}");
    assert!(cache.key_exists(key(1)).await.unwrap(), "{cache:?}");
    let error = call(2, fits + 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{cache:?}: {error}");
    assert!(!cache.key_exists(key(2)).await.unwrap(), "{cache:?}");
    let large = format!("\"{}\"", "y".repeat(fits + 1));
    cache.set_value(key(3), &large, None).await.unwrap();
    let error = call(3, 1).await.unwrap_err();
    assert!(error.is_decode() && error.to_string().contains("max_json_bytes"), "{error}");
}

#[tokio::test]
async fn a_document_beyond_the_limit_of_the_client_or_the_function_is_neither_decoded_nor_stored() {
    let server = RedisServer::start().await;
    for url in [server.url().as_str(), "memory://"] {
        let usual = CacheClient::connect(url).await.unwrap();
        let narrow = CacheClient::builder().url(url).max_json_bytes(100).connect().await.unwrap();
        is_bounded(&narrow, "doc", 100, async |id, bytes| document(&narrow, id, bytes).await).await;
        is_bounded(&usual, "note", 50, async |id, bytes| note(&usual, id, bytes).await).await;
        // What bounds one client does not bound another.
        assert_eq!(document(&usual, 4, 99).await.unwrap().len(), 99, "{url}");
    }
}

#[cached(namespace = "plain", key = "{id}", ttl = "5m", cache = cache)]
async fn plain(cache: &CacheClient, runs: &AtomicU64, id: u64) -> String {
    format!("run {} of {id}", runs.fetch_add(1, Ordering::SeqCst) + 1)
}

#[tokio::test]
async fn a_function_that_cannot_fail_answers_itself_when_the_cache_does_not() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let runs = AtomicU64::new(0);
        cache.set_value("plain:7", "[]", None).await.unwrap();
        for run in 1..=2 {
            assert_eq!(plain(&cache, &runs, 7).await, format!("run {run} of 7"), "{store}");
        }
        let kept = cache.get_value("plain:7").await.unwrap();
        assert_eq!(kept.as_deref(), Some("[]"), "{store}: somebody else's value is gone");
        cache.close().await;
        assert_eq!(plain(&cache, &runs, 8).await, "run 3 of 8", "{store}");
    }
}

#[tokio::test]
async fn a_store_that_fails_costs_a_load_and_no_answer() {
    let faulty = Faulty::new(MemoryStore::new());
    let cache = CacheClient::builder()
        .store(faulty.clone())
        .deadline(Duration::from_millis(200))
        .build()
        .unwrap();
    let (db, runs) = (Db::default(), AtomicU64::new(0));
    faulty.fail_every(1, Fault::Refused(ErrorKind::OutOfMemory));
    for asked in 1..=3 {
        assert_eq!(find_user(&cache, &db, 7).await.unwrap().name, format!("user {asked}"));
        assert_eq!(plain(&cache, &runs, 7).await, format!("run {asked} of 7"));
    }
    assert!(faulty.failed() >= 6, "{}", faulty.failed());
}

#[cached(namespace = "panics", key = "{id}", ttl = "1m", cache = cache)]
async fn panics(cache: &CacheClient, id: u64) -> Result<u64, DbError> {
    if id == 0 {
        panic!("the body's own panic");
    }
    tokio::time::sleep(Duration::from_secs(id)).await;
    Ok(id)
}

#[tokio::test]
async fn a_body_that_panics_is_an_error_for_its_callers() {
    std::panic::set_hook(Box::new(|_| {}));
    let cache = CacheClient::memory();
    let Err(DbError::Cache(error)) = panics(&cache, 0).await else { panic!("no error") };
    assert_eq!(error.kind(), ErrorKind::Load);
    assert!(error.to_string().contains("panicked"), "{error}");
}

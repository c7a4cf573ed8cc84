//! Reading through: one load, then hits, under the keys of a namespace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{CacheClient, ErrorKind, ReadFrom, cached};
use tokio::sync::{Barrier, Notify};

use super::{Db, DbError, User, both};

#[cached(namespace = "user", key = "{id}", ttl = "5m", cache = cache, invalidate)]
async fn find_user(cache: &CacheClient, db: &Db, id: u64) -> Result<User, DbError> {
    db.find(id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_cause_one_load_and_later_ones_hit() {
    const CALLS: usize = 200;
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let db = Db::default();
        let start = Arc::new(Barrier::new(CALLS));
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let (cache, db, start) = (cache.clone(), db.clone(), Arc::clone(&start));
                tokio::spawn(async move {
                    start.wait().await;
                    find_user(&cache, &db, 7).await.unwrap()
                })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().name, "user 1", "{store}");
        }
        assert_eq!(db.asked(), 1, "{store}");
        assert_eq!(find_user(&cache, &db, 7).await.unwrap().id, 7);
        assert_eq!(cache.explain("user:7"), Some(ReadFrom::Shared), "{store}");
        assert_eq!(db.asked(), 1, "{store}");
        println!("{store}: {CALLS} calls at once, {} load", db.asked());
    }
}

#[tokio::test]
async fn a_namespace_reads_and_invalidates_what_a_function_keeps_and_the_other_way_round() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let db = Db::default();
        let users =
            cache.namespace::<u64, User>("user").ttl(Duration::from_secs(300)).build().unwrap();
        let found = find_user(&cache, &db, 7).await.unwrap();
        assert_eq!(users.get(&7).await.unwrap().as_deref(), Some(&found), "{store}");
        let left = users.ttl(&7).await.unwrap().remaining().unwrap();
        assert!((280..=300).contains(&left.as_secs()), "{store}: {left:?}");
        users.invalidate(&7).await.unwrap();
        assert_eq!(find_user(&cache, &db, 7).await.unwrap().name, "user 2", "{store}");
        users.set(&7, &User { id: 7, name: "set".to_owned() }).await.unwrap();
        assert_eq!(find_user(&cache, &db, 7).await.unwrap().name, "set", "{store}");
        find_user_invalidate(&cache, 7).await.unwrap();
        assert_eq!(users.get(&7).await.unwrap(), None, "{store}");
        assert_eq!(find_user(&cache, &db, 7).await.unwrap().name, "user 3", "{store}");
    }
}

#[cached(namespace = "pair", key = "{a}:{b}", ttl = "1m", cache = cache)]
async fn pair(cache: &CacheClient, a: &str, b: &str) -> Result<String, larder::Error> {
    Ok(format!("{a}/{b}"))
}

#[derive(Debug, Clone)]
struct Page {
    id: (u32, String),
}

impl Page {
    fn lang(&self) -> &'static str {
        "en"
    }
}

#[cached(
    ttl = "1m",
    key = "page:{page.id.0}:{ page.lang() }:{*ids[1]}:{page.id.1}:{{x}}",
    cache = &cache.clone(),
    namespace = "app:v1",
)]
async fn page(cache: &CacheClient, page: Page, ids: &[&u8]) -> Result<usize, larder::Error> {
    Ok(page.id.1.len() + ids.len())
}

#[tokio::test]
async fn keys_are_those_of_a_namespace_whatever_is_in_the_parts() {
    let cache = CacheClient::memory();
    let pairs = cache.namespace::<(&str, &str), String>("pair").build().unwrap();
    for (a, b) in [("a", "b:c"), ("a:b", "c"), ("%", "{x}")] {
        assert_eq!(pair(&cache, a, b).await.unwrap(), format!("{a}/{b}"));
        assert_eq!(pairs.get(&(a, b)).await.unwrap().as_deref(), Some(&format!("{a}/{b}")));
    }
    let error = pair(&cache, "a", "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    assert_eq!(page(&cache, Page { id: (7, "a:b".to_owned()) }, &[&1, &2]).await.unwrap(), 5);
    let stored = cache.get_value("app:v1:page:7:en:2:a%3Ab:%7Bx%7D").await.unwrap();
    assert_eq!(stored.as_deref(), Some("5"));
}

#[cached(namespace = "near", key = "{id}", ttl = "5m", near, near_ttl = "1m", cache = cache, invalidate = forget_near)]
async fn near(cache: &CacheClient, db: &Db, id: u64) -> Result<Arc<User>, DbError> {
    db.find(id).await.map(Arc::new)
}

/// Calls until the value came from the near cache, and gives it.
async fn near_hit(cache: &CacheClient, db: &Db) -> Arc<User> {
    let settled = async {
        loop {
            let found = near(cache, db, 7).await.unwrap();
            if cache.explain("near:7") == Some(ReadFrom::Near) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("it never came near")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn near_hits_share_one_decoded_value_and_an_invalidation_ends_them() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let db = Db::default();
        let one = near_hit(&cache, &db).await;
        let other = near_hit(&cache, &db).await;
        assert!(Arc::ptr_eq(&one, &other), "{store}: a hit was copied");
        assert_eq!(db.asked(), 1, "{store}");
        forget_near(&cache, 7).await.unwrap();
        assert_eq!(near(&cache, &db, 7).await.unwrap().name, "user 2", "{store}");
    }
}

#[cached(namespace = "grace", key = "{id}", ttl = "20ms", grace = "1h", jitter = 0, early_refresh = 0.0, cache = cache)]
async fn graceful(cache: &CacheClient, db: &Db, id: u64, works: bool) -> Result<User, DbError> {
    if works { db.find(id).await } else { db.find(0).await }
}

#[tokio::test]
async fn within_the_grace_a_stale_value_is_served_if_the_body_fails() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let db = Db::default();
        assert_eq!(graceful(&cache, &db, 7, true).await.unwrap().name, "user 1");
        let graces = cache
            .namespace::<u64, User>("grace")
            .ttl(Duration::from_millis(20))
            .grace(Duration::from_secs(3600))
            .build()
            .unwrap();
        while graces.ttl(&7).await.unwrap().remaining() != Some(Duration::ZERO) {
            tokio::task::yield_now().await;
        }
        assert_eq!(graceful(&cache, &db, 7, false).await.unwrap().name, "user 1", "{store}");
        assert_eq!(db.asked(), 2, "{store}: the body was not tried");
        assert_eq!(cache.explain("grace:7"), Some(ReadFrom::Stale), "{store}");
        assert_eq!(graceful(&cache, &db, 7, true).await.unwrap().name, "user 3", "{store}");
    }
}

/// Tells that the body runs, and waits.
#[derive(Default)]
struct Gate {
    running: Notify,
    go: Notify,
}

#[cached(namespace = "clone", key = "{text}", ttl = "1m", cache = cache, invalidate = forget)]
async fn consuming(
    cache: &CacheClient,
    mut text: String,
    runs: Arc<AtomicU64>,
    gate: &Gate,
) -> Result<String, larder::Error> {
    let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
    drop(runs);
    gate.running.notify_one();
    gate.go.notified().await;
    text.push_str(&run.to_string());
    Ok(text)
}

#[tokio::test]
async fn a_body_that_consumes_its_arguments_runs_again_when_the_key_was_invalidated_meanwhile() {
    let (_server, stores) = both().await;
    for (store, cache) in stores {
        let (runs, gate) = (Arc::new(AtomicU64::new(0)), Gate::default());
        let write = async {
            gate.running.notified().await;
            forget(&cache, "a".to_owned()).await.unwrap();
            gate.go.notify_one();
            gate.running.notified().await;
            gate.go.notify_one();
        };
        let read = consuming(&cache, "a".to_owned(), Arc::clone(&runs), &gate);
        let (read, ()) = tokio::join!(read, write);
        assert_eq!(read.unwrap(), "a2", "{store}");
        assert_eq!(runs.load(Ordering::SeqCst), 2, "{store}");
        let kept = cache.get_value("clone:a").await.unwrap();
        assert_eq!(kept.as_deref(), Some("\"a2\""), "{store}");
    }
}

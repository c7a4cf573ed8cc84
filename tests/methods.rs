//! The thin path from end to end: every group of methods, on a real server and on the embedded store.

use std::time::Duration;

use futures_util::TryStreamExt;
use larder::redis1::Shared;
use larder::testing::{RedisCluster, RedisServer};
use larder::{CacheClient, Direction, ErrorKind, LockOptions, Outcome, Presence, Ttl};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u8,
}

/// `prefix` keeps the keys together: on a cluster, a transaction needs them in one slot.
async fn every_group_of_methods_works(cache: &CacheClient, prefix: &str) -> larder::Result<()> {
    let at = |key: &str| format!("{prefix}{key}");
    cache.ping().await?;
    cache.set_value(at("s"), "text", Duration::from_secs(60)).await?;
    assert_eq!(cache.get_value(at("s")).await?.as_deref(), Some("text"));
    assert!(matches!(cache.get_ttl(at("s")).await?, Ttl::Remaining(left) if left.as_secs() >= 59));
    assert!(!cache.set_value_if(at("s"), 1, None, Presence::Absent).await?);
    assert!(cache.persist(at("s")).await?);
    assert_eq!(cache.get_ttl(at("s")).await?.as_secs(), -1);
    assert_eq!(cache.incr_by(at("n"), 5).await?, 5);

    let ada = User { name: "Ada".into(), age: 36 };
    cache.set_dict(at("u"), &ada, None).await?;
    assert_eq!(cache.get_dict::<User>(at("u")).await?, Some(ada));
    cache.set_list(at("l"), &[1, 2, 3], None).await?;
    assert_eq!(cache.get_list_value::<Vec<u8>>(at("l")).await?, Some(vec![1, 2, 3]));
    assert!(cache.get_dict::<User>(at("l")).await.unwrap_err().is_decode());

    assert_eq!(cache.set_hash(at("h"), "a", 1).await?, 1);
    assert_eq!(cache.set_hash(at("h"), "a", 2).await?, 0);
    assert_eq!(cache.get_hash(at("h"), "a").await?.as_deref(), Some("2"));
    assert_eq!(cache.get_hash_all(at("h")).await?["a"], "2");
    assert_eq!(cache.delete_hash_field(at("h"), "a").await?, 1);
    assert!(!cache.key_exists(at("h")).await?);

    assert_eq!(cache.push_to_list(at("q"), "b", Direction::Right).await?, 1);
    assert_eq!(cache.push_to_list(at("q"), "a", Direction::Left).await?, 2);
    assert_eq!(cache.get_list(at("q")).await?, ["a", "b"]);
    assert_eq!(cache.get_list_range(at("q"), -1, i64::MAX).await?, ["b"]);
    assert_eq!(cache.remove_from_list(at("q"), "b").await?, 1);
    assert_eq!(cache.right_pop_list(at("q")).await?.as_deref(), Some("a"));
    assert_eq!(cache.left_pop_list(at("q")).await?, None);
    assert!(cache.left_pop_list(at("s")).await.unwrap_err().is_wrong_type());

    cache.set_many([(at("m:1"), "a"), (at("m:2"), "b")], Duration::from_secs(9)).await?;
    let many = cache.get_many(["m:1", "m:3", "m:2"].map(at)).await?;
    assert_eq!(many, [Some("a".to_owned()), None, Some("b".to_owned())]);
    let mut found: Vec<_> = cache.scan(at("m:")).try_collect().await?;
    found.sort();
    let found: Vec<_> = found.iter().map(|key| String::from_utf8_lossy(key.as_bytes())).collect();
    assert_eq!(found, ["m:1", "m:2"].map(at));
    assert_eq!(cache.batch_delete_keys(["m:1", "m:2", "m:3"].map(at)).await?, 2);

    let replies = cache
        .transaction()
        .incr_by(at("n"), 1)
        .left_pop_list(at("s"))
        .get_value(at("n"))
        .run()
        .await?;
    assert_eq!(replies[0].clone()?.into_int()?, 6);
    assert_eq!(replies[1].as_ref().unwrap_err().kind(), ErrorKind::WrongType);
    assert_eq!(replies[2].clone()?.into_value()?.as_deref(), Some(&b"6"[..]));

    let id = cache.acquire_lock(at("lock:x"), LockOptions::default()).await?;
    let once = LockOptions { timeout: Duration::ZERO, ..Default::default() };
    assert!(cache.acquire_lock(at("lock:x"), once).await.unwrap_err().is_lock_timeout());
    assert!(cache.release_lock(at("lock:x"), &id).await?);
    assert!(!cache.release_lock(at("lock:x"), &id).await?);

    let users = cache.namespace::<u64, User>(at("user")).ttl(Duration::from_secs(300)).build()?;
    users.set_many([(1, User { name: "Eve".into(), age: 1 })]).await?;
    assert_eq!(users.get_many(&[1, 2]).await?[0].as_ref().unwrap().name, "Eve");
    assert_eq!(users.ttl(&1).await?.as_secs(), 300);
    assert!(users.delete(&1).await?);
    assert!(users.get(&1).await?.is_none());
    Ok(())
}

/// Runs on the server that `cache` reaches, and shows with `direct` that it really does.
async fn works_on(cache: &CacheClient, server: &RedisServer) {
    let prefix = "{t}:";
    every_group_of_methods_works(cache, prefix).await.unwrap();
    cache.set_value("witness", "here", None).await.unwrap();
    let seen = server.command(&["GET", "witness"]).await;
    assert_eq!(seen, larder::testing::Resp::Bulk("here".into()), "the calls went elsewhere");
    let mut session = cache.session().await.unwrap();
    let pong: String = redis::cmd("PING").query_async(&mut session).await.unwrap();
    assert_eq!(pong, "PONG");
}

#[tokio::test]
async fn the_embedded_store_does_everything() {
    let cache = CacheClient::memory();
    every_group_of_methods_works(&cache, "").await.unwrap();
    assert_eq!(cache.session().await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn own_connections_do_everything() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    works_on(&cache, &server).await;
    cache.close().await;
    assert_eq!(cache.ping().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn several_own_connections_do_everything() {
    let server = RedisServer::start().await;
    let url = format!("{}?connections=3", server.url());
    let cache = CacheClient::connect(url).await.unwrap();
    works_on(&cache, &server).await;
}

#[tokio::test]
async fn a_unix_socket_does_everything() {
    let server = RedisServer::builder().unix_socket().start().await;
    assert!(server.url().starts_with("redis+unix://"), "{}", server.url());
    let cache = CacheClient::connect(server.url()).await.unwrap();
    every_group_of_methods_works(&cache, "").await.unwrap();
}

#[tokio::test]
async fn a_function_that_hands_out_connections_does_everything() {
    let server = RedisServer::start().await;
    let driver = redis::Client::open(server.url()).unwrap();
    let cache = CacheClient::new(move || {
        let driver = driver.clone();
        async move { driver.get_multiplexed_async_connection().await }
    });
    works_on(&cache, &server).await;
}

#[tokio::test]
async fn a_connection_manager_does_everything() {
    let server = RedisServer::start().await;
    let driver = redis::Client::open(server.url()).unwrap();
    let manager = driver.get_connection_manager().await.unwrap();
    works_on(&CacheClient::new(Shared(manager)), &server).await;
}

#[tokio::test]
async fn a_cluster_connection_does_everything() {
    let server = RedisServer::builder().cluster().start().await;
    let driver =
        redis::cluster::ClusterClient::new([format!("redis://{}", server.addr())]).unwrap();
    let connection = driver.get_async_connection().await.unwrap();
    works_on(&CacheClient::new(Shared(connection)), &server).await;
}

#[tokio::test]
async fn own_connections_to_a_cluster_do_everything() {
    let cluster = RedisCluster::start().await;
    let cache = CacheClient::connect(cluster.url()).await.unwrap();
    for prefix in ["{a}:", "{b}:", "{c}:", "{d}:"] {
        every_group_of_methods_works(&cache, prefix).await.unwrap();
    }
    let keys = cluster.nodes().iter().take(3).map(async |node| node.info("keyspace_misses").await);
    for misses in futures_util::future::join_all(keys).await {
        assert_ne!(misses, "0", "a node was never asked");
    }
    assert_eq!(cache.session().await.unwrap_err().kind(), ErrorKind::Unsupported);
    cache.close().await;
    assert_eq!(cache.ping().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_deadpool_pool_does_everything() {
    let server = RedisServer::start().await;
    let pool = deadpool_redis::Config::from_url(server.url())
        .create_pool(Some(deadpool_redis::Runtime::Tokio1))
        .unwrap();
    works_on(&CacheClient::new(pool), &server).await;
}

#[tokio::test]
async fn a_bb8_pool_does_everything() {
    let server = RedisServer::start().await;
    let manager = bb8_redis::RedisConnectionManager::new(server.url()).unwrap();
    let pool = bb8_redis::bb8::Pool::builder().build(manager).await.unwrap();
    works_on(&CacheClient::new(pool), &server).await;
}

/// A call may borrow its keys from the task that makes it.
#[tokio::test]
async fn many_values_are_loaded_in_a_task_of_its_own_by_names_that_it_owns() {
    let cache = CacheClient::memory();
    let lengths = tokio::spawn(async move {
        let names = ["a".to_owned(), "bc".to_owned()];
        let lengths = cache.get_or_load_many(&names, Duration::from_secs(60), |wanted| async {
            let lengths = wanted.into_iter().map(|name| (name, name.len()));
            Ok::<Vec<_>, larder::Error>(lengths.collect())
        });
        lengths.await?.into_iter().collect::<larder::Result<Vec<_>>>()
    });
    let lengths: Vec<_> = lengths.await.unwrap().unwrap().into_iter().flatten().collect();
    assert_eq!(lengths.iter().map(|length| **length).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_provider_that_has_nothing_to_hand_out_is_an_error_that_was_not_sent() {
    let driver = redis::Client::open("redis://127.0.0.1:1").unwrap();
    let cache = CacheClient::builder()
        .provider(move || {
            let driver = driver.clone();
            async move { driver.get_multiplexed_async_connection().await }
        })
        .deadline(Duration::from_millis(100))
        .build()
        .unwrap();
    let error = cache.incr_by("n", 1).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.outcome(), Outcome::NotSent);
}

#[tokio::test]
async fn an_error_names_the_method_that_was_called_and_the_key_it_was_about() {
    let nobody = "redis://127.0.0.1:1?deadline_ms=50";
    assert_eq!(CacheClient::connect(nobody).await.unwrap_err().op(), "connect");

    let cache = CacheClient::memory();
    let no_time = LockOptions { expire: Duration::ZERO, ..Default::default() };
    let no_pause = LockOptions { retry_interval: Duration::ZERO, ..Default::default() };
    let errors = [
        ("set_value", cache.set_value("user:1", "x", Duration::ZERO).await.unwrap_err()),
        ("set_dict", cache.set_dict("user:1", &[1], None).await.unwrap_err()),
        ("set_expiry", cache.set_expiry("user:1", Duration::ZERO).await.unwrap_err()),
        (
            "set_expiry",
            cache.pipeline().set_expiry("user:1", Duration::ZERO).run().await.unwrap_err(),
        ),
        ("acquire_lock", cache.acquire_lock("user:1", no_time).await.unwrap_err()),
        ("acquire_lock", cache.acquire_lock("user:1", no_pause).await.unwrap_err()),
    ];
    for (method, error) in errors {
        assert_eq!(error.op(), method, "{error}");
        assert_eq!(error.key().map(|key| key.as_bytes()), Some(b"user:1".as_slice()), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
    }
}

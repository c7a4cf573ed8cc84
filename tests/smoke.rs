//! The thin path from end to end: every group of methods, on a real server and on the embedded store.

use std::time::Duration;

use futures_util::TryStreamExt;
use larder::testing::RedisServer;
use larder::{CacheClient, Direction, ErrorKind, LockOptions, Presence, Ttl};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u8,
}

async fn every_group_of_methods_works(cache: &CacheClient) -> larder::Result<()> {
    cache.ping().await?;
    cache.set_value("s", "text", Duration::from_secs(60)).await?;
    assert_eq!(cache.get_value("s").await?.as_deref(), Some("text"));
    assert!(matches!(cache.get_ttl("s").await?, Ttl::Remaining(left) if left.as_secs() >= 59));
    assert!(!cache.set_value_if("s", 1, None, Presence::Absent).await?);
    assert!(cache.persist("s").await?);
    assert_eq!(cache.get_ttl("s").await?.as_secs(), -1);
    assert_eq!(cache.incr_by("n", 5).await?, 5);

    let ada = User { name: "Ada".into(), age: 36 };
    cache.set_dict("u", &ada, None).await?;
    assert_eq!(cache.get_dict::<User>("u").await?, Some(ada));
    cache.set_list("l", &[1, 2, 3], None).await?;
    assert_eq!(cache.get_list_value::<Vec<u8>>("l").await?, Some(vec![1, 2, 3]));
    assert!(cache.get_dict::<User>("l").await.unwrap_err().is_decode());

    assert_eq!(cache.set_hash("h", "a", 1).await?, 1);
    assert_eq!(cache.set_hash("h", "a", 2).await?, 0);
    assert_eq!(cache.get_hash("h", "a").await?.as_deref(), Some("2"));
    assert_eq!(cache.get_hash_all("h").await?["a"], "2");
    assert_eq!(cache.delete_hash_field("h", "a").await?, 1);
    assert!(!cache.key_exists("h").await?);

    assert_eq!(cache.push_to_list("q", "b", Direction::Right).await?, 1);
    assert_eq!(cache.push_to_list("q", "a", Direction::Left).await?, 2);
    assert_eq!(cache.get_list("q").await?, ["a", "b"]);
    assert_eq!(cache.get_list_range("q", -1, i64::MAX).await?, ["b"]);
    assert_eq!(cache.remove_from_list("q", "b").await?, 1);
    assert_eq!(cache.right_pop_list("q").await?.as_deref(), Some("a"));
    assert_eq!(cache.left_pop_list("q").await?, None);
    assert!(cache.left_pop_list("s").await.unwrap_err().is_wrong_type());

    cache.set_many([("m:1", "a"), ("m:2", "b")], Duration::from_secs(9)).await?;
    let many = cache.get_many(["m:1", "m:3", "m:2"]).await?;
    assert_eq!(many, [Some("a".to_owned()), None, Some("b".to_owned())]);
    let mut found: Vec<_> = cache.scan("m:").try_collect().await?;
    found.sort();
    assert_eq!(found.iter().map(|key| key.as_bytes()).collect::<Vec<_>>(), [b"m:1", b"m:2"]);
    assert_eq!(cache.batch_delete_keys(["m:1", "m:2", "m:3"]).await?, 2);

    let replies =
        cache.transaction().incr_by("n", 1).left_pop_list("s").get_value("n").run().await?;
    assert_eq!(replies[0].clone()?.into_int()?, 6);
    assert_eq!(replies[1].as_ref().unwrap_err().kind(), ErrorKind::WrongType);
    assert_eq!(replies[2].clone()?.into_value()?.as_deref(), Some(&b"6"[..]));

    let id = cache.acquire_lock("lock:x", LockOptions::default()).await?;
    let once = LockOptions { timeout: Duration::ZERO, ..Default::default() };
    assert!(cache.acquire_lock("lock:x", once).await.unwrap_err().is_lock_timeout());
    assert!(cache.release_lock("lock:x", &id).await?);
    assert!(!cache.release_lock("lock:x", &id).await?);

    let users = cache.namespace::<u64, User>("user").ttl(Duration::from_secs(300)).build()?;
    users.set_many([(1, User { name: "Eve".into(), age: 1 })]).await?;
    assert_eq!(users.get_many(&[1, 2]).await?[0].as_ref().unwrap().name, "Eve");
    assert_eq!(users.ttl(&1).await?.as_secs(), 300);
    assert!(users.delete(&1).await?);
    assert!(users.get(&1).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn the_embedded_store_does_everything() {
    every_group_of_methods_works(&CacheClient::memory()).await.unwrap();
}

#[tokio::test]
async fn a_real_server_does_everything() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    every_group_of_methods_works(&cache).await.unwrap();
    cache.close().await;
    assert_eq!(cache.ping().await.unwrap_err().kind(), ErrorKind::Closed);
}

//! Settings at the ends of their ranges.

use std::time::{Duration, Instant};

use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, LockOptions};

/// Each of these was a panic.
#[tokio::test]
async fn settings_without_measure_are_mistakes_and_not_panics() {
    let builder = || CacheClient::builder().url("redis://127.0.0.1:1");
    for (builder, name) in [
        (builder().connections(usize::MAX), "connections"),
        (builder().max_namespaces(usize::MAX), "max_namespaces"),
        (builder().max_namespaces(usize::MAX / 4), "max_namespaces"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(name), "{error}");
    }
    let server = RedisServer::start().await;
    let endless = CacheClient::builder().url(server.url()).connect_timeout(Duration::MAX);
    assert!(endless.build().unwrap().session().await.is_ok());
    let whole = CacheClient::builder().max_bytes(u64::MAX).build().unwrap();
    whole.set_value("key", "value", Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn deadlines_without_end_end_with_the_reply() {
    let server = RedisServer::start().await;
    for deadline in [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(1 << 40)]
    {
        let cache =
            CacheClient::builder().url(server.url()).deadline(deadline).connect().await.unwrap();
        let lease = Duration::from_millis(30);
        let options = LockOptions { expire: lease, timeout: deadline, retry_interval: lease };
        cache.acquire_lock("lock", options).await.unwrap();
        let id = cache.acquire_lock("lock", options).await.unwrap();
        _ = cache.release_lock("lock", &id).await.unwrap();
    }
}

#[tokio::test]
async fn deadlines_of_nearly_nothing_are_kept() {
    let server = RedisServer::start().await;
    for deadline in [Duration::from_nanos(1), Duration::from_millis(1)] {
        let cache = CacheClient::builder().url(server.url()).deadline(deadline).build().unwrap();
        for number in 0..100 {
            let started = Instant::now();
            // Whether it is done in time is left open.
            _ = cache.set_value("key", number, None).await;
            let took = started.elapsed();
            assert!(took < Duration::from_millis(150), "{deadline:?}: {took:?}");
        }
    }
}

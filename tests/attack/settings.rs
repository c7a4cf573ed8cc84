//! Settings at the ends of their ranges.

use std::time::{Duration, Instant};

use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, LoadOptions, LockOptions};

/// Numbers at the ends of their ranges.
#[tokio::test]
async fn settings_without_measure_are_mistakes_and_not_panics() {
    let builder = || CacheClient::builder().url("redis://127.0.0.1:1");
    for (builder, name) in [
        (builder().connections(usize::MAX), "connections"),
        (builder().max_namespaces(usize::MAX), "max_namespaces"),
        (builder().max_namespaces(usize::MAX / 4), "max_namespaces"),
        (builder().max_json_bytes(0), "max_json_bytes"),
        (builder().max_json_bytes(u64::MAX), "max_json_bytes"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(name), "{error}");
    }
    for bytes in [0, (512 << 20) + 1] {
        let namespace = CacheClient::memory().namespace::<u64, u64>("n").max_json_bytes(bytes);
        let error = namespace.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("max_json_bytes"), "{error}");
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

#[tokio::test]
async fn options_of_a_read_without_measure_are_mistakes_and_not_panics() {
    type Change = fn(LoadOptions) -> LoadOptions;
    let cache = CacheClient::memory();
    let loader = || async { Ok::<u64, std::io::Error>(1) };
    let values = cache.namespace::<u64, u64>("n").near(true).build().unwrap();
    let wrong: [(&str, Change); 5] = [
        ("lease", |options| options.lease(Duration::ZERO)),
        ("hard timeout", |options| options.hard_timeout(Duration::MAX)),
        ("near_ttl", |options| options.near_ttl(Duration::MAX)),
        ("jitter", |options| options.jitter(f64::NAN)),
        ("early_refresh", |options| options.early_refresh(f64::INFINITY)),
    ];
    for (name, change) in wrong {
        let built = cache.namespace::<u64, u64>("m").options(change(LoadOptions::new())).build();
        let of_call = values.with(change).get_or_load(&1, loader).await;
        let of_many = values.with(change).get_many(&[1]).await;
        let of_client = cache.get_or_load("k:1", change(LoadOptions::new()), loader).await;
        let errors =
            [built.err(), of_call.err(), of_many.err(), of_client.err()].map(Option::unwrap);
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    let years = Duration::from_secs(10 * 365 * 24 * 3600);
    let longest = values.with(|options| options.hard_timeout(years).near_ttl(years));
    assert_eq!(*longest.get_or_load(&1, loader).await.unwrap(), 1);
    assert_eq!(longest.get(&1).await.unwrap().as_deref(), Some(&1));
}

#[tokio::test]
async fn a_near_budget_without_measure_is_no_panic() {
    let cache = CacheClient::builder().near_max_bytes(u64::MAX).build().unwrap();
    let values = cache.namespace::<u64, u64>("n").near(true).build().unwrap();
    values.set(&1, &1).await.unwrap();
    assert_eq!(values.get(&1).await.unwrap().as_deref(), Some(&1));
}

//! Settings that mean nothing to the store at hand are mistakes, and all mistakes are named at once.

use std::time::Duration;

use larder::store::MemoryStore;
use larder::{CacheClient, ErrorKind, ReadPreference};

#[test]
fn a_setting_without_effect_is_a_mistake() {
    let refused = [
        CacheClient::builder().url("redis://127.0.0.1").max_bytes(1 << 20),
        CacheClient::builder().url("memory://").connections(2),
        CacheClient::builder().connect_timeout(Duration::from_secs(1)),
        CacheClient::builder().store(MemoryStore::new()).max_bytes(1 << 20),
        CacheClient::builder().ping_interval(Duration::from_secs(1)),
        CacheClient::builder().store(MemoryStore::new()).ping_timeout(Duration::from_secs(1)),
        CacheClient::builder().breaker(false),
        CacheClient::builder().store(MemoryStore::new()).breaker(true),
    ];
    for builder in refused {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("has no effect on"), "{error}");
    }
    let fits = CacheClient::builder().max_bytes(1 << 20).max_connections(3).max_in_flight(1);
    assert!(fits.build().is_ok());
    for url in ["redis://127.0.0.1", "redis+cluster://127.0.0.1", "redis+sentinel://127.0.0.1/name"]
    {
        assert!(CacheClient::builder().url(url).breaker(false).build().is_ok());
    }
}

#[test]
fn replicas_are_asked_for_where_they_are() {
    let refused = [
        CacheClient::builder(),
        CacheClient::builder().url("redis://127.0.0.1"),
        CacheClient::builder().url("redis+unix:///run/redis.sock"),
        CacheClient::builder().url("redis+sentinel://127.0.0.1/name"),
        CacheClient::builder().store(MemoryStore::new()),
    ];
    for builder in refused {
        let error = builder.read_from(ReadPreference::PreferReplica).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("read_from is for redis+cluster://"), "{error}");
    }
    let cluster = CacheClient::builder().url("redis+cluster://127.0.0.1");
    assert!(cluster.read_from(ReadPreference::PreferReplica).build().is_ok());
    let single = CacheClient::builder().url("redis://127.0.0.1?breaker=off");
    assert!(single.read_from(ReadPreference::Primary).breaker(true).build().is_ok());
}

#[test]
fn all_mistakes_are_named_at_once() {
    let error = CacheClient::builder()
        .url("redis://127.0.0.1:0/x?colour=red")
        .deadline(Duration::ZERO)
        .connections(0)
        .max_in_flight(0)
        .max_in_flight_bytes(1)
        .ping_interval(Duration::ZERO)
        .ping_timeout(Duration::ZERO)
        .max_json_bytes(0)
        .build()
        .unwrap_err();
    let text = error.to_string();
    let in_flight = ["max_in_flight is 0", "max_in_flight_bytes is 1; it is from 65536 to"];
    for mistake in
        ["deadline", "connections", "port", "database", "option", "ping interval", "ping timeout"]
            .into_iter()
            .chain(["max_json_bytes"])
            .chain(in_flight)
    {
        assert!(text.contains(mistake), "{mistake} is missing in: {text}");
    }
    assert!(!text.contains("no effect"), "{text}");
}

#[tokio::test]
async fn the_embedded_store_is_never_overloaded() {
    use futures_util::future::join_all;

    let cache =
        CacheClient::builder().max_in_flight(1).max_in_flight_bytes(1 << 16).build().unwrap();
    let data = vec![b'x'; 1 << 16];
    let calls = (0..10).map(|number| cache.set_value(format!("k{number}"), &data[..], None));
    assert!(join_all(calls).await.into_iter().all(|done| done.is_ok()));
    assert_eq!(cache.stats().overloaded, 0);
}

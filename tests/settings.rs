//! Settings that mean nothing to the store at hand are mistakes, and all mistakes are named at once.

use std::time::Duration;

use larder::store::MemoryStore;
use larder::{CacheClient, ErrorKind};

#[test]
fn a_setting_without_effect_is_a_mistake() {
    let refused = [
        CacheClient::builder().url("redis://127.0.0.1").max_bytes(1 << 20),
        CacheClient::builder().url("memory://").connections(2),
        CacheClient::builder().connect_timeout(Duration::from_secs(1)),
        CacheClient::builder().store(MemoryStore::new()).max_bytes(1 << 20),
    ];
    for builder in refused {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("has no effect on"), "{error}");
    }
    let fits = CacheClient::builder().max_bytes(1 << 20).max_connections(3);
    assert!(fits.build().is_ok());
}

#[test]
fn all_mistakes_are_named_at_once() {
    let error = CacheClient::builder()
        .url("redis://127.0.0.1:0/x?colour=red")
        .deadline(Duration::ZERO)
        .connections(0)
        .max_json_bytes(0)
        .build()
        .unwrap_err();
    let text = error.to_string();
    for mistake in ["deadline", "connections", "max_json_bytes", "port", "database", "option"] {
        assert!(text.contains(mistake), "{mistake} is missing in: {text}");
    }
    assert!(!text.contains("no effect"), "{text}");
}

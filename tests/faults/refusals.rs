//! P4, the refusals: class and outcome of everything that a server says no with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::{RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, Direction, Error, ErrorKind, Outcome};

use crate::bad_servers::handshake;

async fn push(cache: &CacheClient, key: &str) -> larder::Result<u64> {
    cache.push_to_list(key, "canary-value", Direction::Right).await
}

#[track_caller]
fn is(error: &Error, kind: ErrorKind, outcome: Outcome, code: Option<&str>) {
    println!("P4: {:<10} {kind:?}, {outcome:?}", code.unwrap_or("-"));
    assert_eq!((error.kind(), error.outcome(), error.code()), (kind, outcome, code), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn a_real_server_s_refusals_are_rejected_and_nothing_is_applied() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let rejected = Outcome::Rejected;

    server.command(&["SET", "text", "1"]).await;
    is(&push(&cache, "text").await.unwrap_err(), ErrorKind::WrongType, rejected, Some("WRONGTYPE"));

    server
        .command(&["ACL", "SETUSER", "reader", "on", ">canary-pw", "~*", "+@read", "+ping"])
        .await;
    let url = format!("redis://reader:canary-pw@{}", server.addr());
    let reader = CacheClient::connect(url).await.unwrap();
    is(&push(&reader, "list").await.unwrap_err(), ErrorKind::Permission, rejected, Some("NOPERM"));

    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let large = vec![b'x'; 100_000];
    let full = loop {
        // Ends: each success takes a tenth of the limit.
        if let Err(error) = cache.push_to_list("ballast", large.clone(), Direction::Right).await {
            break error;
        }
    };
    is(&full, ErrorKind::OutOfMemory, rejected, Some("OOM"));
    is(&push(&cache, "list").await.unwrap_err(), ErrorKind::OutOfMemory, rejected, Some("OOM"));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;

    // A primary that does not exist makes it a replica that refuses writes.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    is(&push(&cache, "list").await.unwrap_err(), ErrorKind::ReadOnly, rejected, Some("READONLY"));
    server.command(&["REPLICAOF", "NO", "ONE"]).await;

    assert_eq!(server.command(&["EXISTS", "list"]).await.int(), Some(0), "a refusal was applied");
    assert_eq!(push(&cache, "list").await.unwrap(), 1);

    cache.close().await;
    is(&push(&cache, "list").await.unwrap_err(), ErrorKind::Closed, Outcome::NotSent, None);
    assert_eq!(server.command(&["LLEN", "list"]).await.int(), Some(1));
}

#[tokio::test]
async fn every_refusal_has_its_class_and_a_push_is_sent_once() {
    use ErrorKind::{Aborted, OutOfMemory, Permission, ReadOnly, Server, Unavailable};
    for (code, kind) in [
        ("LOADING", Unavailable),
        ("BUSY", Unavailable),
        ("MASTERDOWN", Unavailable),
        ("TRYAGAIN", Unavailable),
        ("NOREPLICAS", Unavailable),
        ("CLUSTERDOWN", Unavailable),
        ("MISCONF", Server),
        ("EXECABORT", Aborted),
        ("OOM", OutOfMemory),
        ("READONLY", ReadOnly),
        ("NOPERM", Permission),
    ] {
        let pushes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&pushes);
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"RPUSH" => {
                counted.fetch_add(1, Ordering::SeqCst);
                Scripted::answer(format!("-{code} canary-text of the server\r\n"))
            }
            _ => handshake(args),
        })
        .await;
        let cache = CacheClient::builder()
            .url(server.url())
            .deadline(Duration::from_millis(200))
            .connect()
            .await
            .unwrap();
        let error = push(&cache, "list").await.unwrap_err();
        is(&error, kind, Outcome::Rejected, Some(code));
        assert_eq!(pushes.load(Ordering::SeqCst), 1, "{code}: a push was sent again");
    }
}

#[tokio::test]
async fn what_passes_is_asked_again_if_that_is_safe() {
    let gets = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&gets);
    let server = ScriptedServer::start(move |_, args| match &*args[0] {
        b"GET" if counted.fetch_add(1, Ordering::SeqCst) < 3 => {
            Scripted::answer("-LOADING Redis is loading the dataset in memory\r\n")
        }
        b"GET" => Scripted::answer("$5\r\nvalue\r\n"),
        _ => handshake(args),
    })
    .await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    assert_eq!(cache.get_value("key").await.unwrap().as_deref(), Some("value"));
    assert_eq!(gets.load(Ordering::SeqCst), 4);
}

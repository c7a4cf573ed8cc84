//! Servers that refuse what nobody expects to be refused, and that hold what nobody expects to be held.

use futures_util::TryStreamExt;
use larder::testing::{RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, ErrorKind, Outcome};

/// A client of a user who may do everything but what `rules` take away.
async fn restricted(server: &RedisServer, rules: &str) -> CacheClient {
    let reply =
        server.command(&["ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", rules]).await;
    assert!(!reply.is_error(), "{reply}");
    CacheClient::connect(format!("redis://app:pw@{}", server.addr())).await.unwrap()
}

/// Without MULTI the server runs what stands behind it, command by command.
#[tokio::test]
async fn a_transaction_whose_multi_is_refused_is_never_said_to_be_unapplied() {
    let server = RedisServer::start().await;
    let cache = restricted(&server, "-multi").await;
    let transaction = cache.transaction().set_value("a", 1, None).incr_by("n", 1);
    let error = transaction.run().await.unwrap_err();
    assert_eq!(server.command(&["GET", "n"]).await.text().as_deref(), Some("1"), "the premise");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Permission, Outcome::Unknown));
    assert!(error.to_string().contains("refused MULTI"), "{error}");

    let cache = restricted(&server, "-exec").await;
    let error = cache.transaction().incr_by("n", 1).run().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Rejected);
    assert_eq!(server.command(&["GET", "n"]).await.text().as_deref(), Some("1"));
    assert_eq!(cache.incr_by("n", 1).await.unwrap(), 2, "the connection is left as it was");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_named() {
    let server = RedisServer::start().await;
    let error = CacheClient::connect(format!("{}/99", server.url())).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent));
    assert!(error.to_string().contains("refused database 99"), "{error}");
}

/// Redis allows the empty key; one of another program's ended every scan of all keys.
#[tokio::test]
async fn an_empty_key_of_somebody_else_does_not_end_a_scan() {
    let server = RedisServer::start().await;
    server.command(&["MSET", "", "x", "a", "1", "b", "2"]).await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let mut keys: Vec<larder::Key> = cache.scan("").try_collect().await.unwrap();
    keys.sort();
    assert_eq!(keys.iter().map(larder::Key::as_bytes).collect::<Vec<_>>(), [b"a", b"b"]);
}

/// A session in the middle of somebody's MULTI answers every command with this status.
#[tokio::test]
async fn a_queued_command_is_neither_done_nor_a_value() {
    let server = ScriptedServer::start(|_, args| match &*args[0] {
        b"HELLO" => Scripted::answer("-ERR unknown command\r\n"),
        b"PING" => Scripted::answer("+PONG\r\n"),
        b"CLIENT" => Scripted::answer("+OK\r\n"),
        _ => Scripted::answer("+QUEUED\r\n"),
    })
    .await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let errors = [
        cache.get_value("key").await.map(drop).unwrap_err(),
        cache.set_value("key", 1, None).await.unwrap_err(),
        cache.get_hash("key", "field").await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::Unknown));
    }
}

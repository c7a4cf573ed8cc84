//! Servers that refuse what nobody expects to be refused, and that hold what nobody expects to be held.

use larder::testing::RedisServer;
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

//! Servers that refuse what nobody expects to be refused, and that hold what nobody expects to be held.

use futures_util::TryStreamExt;
use larder::testing::{RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, ErrorKind, Outcome};

/// A client of a user who may do everything but what `rules` take away.
async fn restricted(server: &RedisServer, rules: &str) -> CacheClient {
    let reply = server
        .command(&["ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "+@all", rules])
        .await;
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

/// What a reply of the wrong kind comes to: never somebody else's, never made up, and the next call is served.
#[tokio::test]
async fn garbled_replies_are_errors_and_the_next_call_is_served() {
    let (long, deep) = ("x".repeat(600_000), "*1\r\n".repeat(1_000_000) + ":1\r\n");
    let push = ">2\r\n$10\r\ninvalidate\r\n";
    let replies: [(&str, String, Option<&str>); 24] = [
        ("a status of 600 kB", format!("+{long}\r\n"), Some(&long)),
        ("verbatim text", "=5\r\ntxt:v\r\n".to_owned(), Some("v")),
        ("a push before the reply", format!("{push}*1\r\n$1\r\nk\r\n$1\r\nv\r\n"), Some("v")),
        ("an empty push", ">0\r\n$1\r\nv\r\n".to_owned(), Some("v")),
        ("an invalidation of everything", format!("{push}_\r\n$1\r\nv\r\n"), Some("v")),
        ("an invalidation of a number", format!("{push}:1\r\n$1\r\nv\r\n"), Some("v")),
        ("a million levels", deep, None),
        ("verbatim text without a format", "=3\r\ntxt\r\n".to_owned(), None),
        ("a push within an array", format!("*2\r\n$1\r\na\r\n{push}_\r\n"), None),
        ("a push without a kind", ">1\r\n:1\r\n$1\r\nv\r\n".to_owned(), None),
        ("a number of a megabyte", format!("({}\r\n", "9".repeat(1_000_000)), None),
        ("no number", ",nan\r\n".to_owned(), None),
        ("no boolean", "#x\r\n".to_owned(), None),
        ("an error in bulk", "!10\r\nERR canary\r\n".to_owned(), None),
        ("an error without text", "-\r\n".to_owned(), None),
        ("text in pieces", "$?\r\n;4\r\nabcd\r\n;0\r\n".to_owned(), None),
        ("an integer", ":5\r\n".to_owned(), None),
        ("an integer beyond 64 bits", format!(":{}\r\n", "9".repeat(40)), None),
        ("an integer that is none", ":canary\r\n".to_owned(), None),
        ("an array", "*0\r\n".to_owned(), None),
        ("more bytes than announced", "$3\r\ncanary\r\n".to_owned(), None),
        ("a web server", "HTTP/1.1 400 canary\r\n\r\n".to_owned(), None),
        ("an unknown type", "@canary\r\n".to_owned(), None),
        ("an empty line", "\r\n".to_owned(), None),
    ];
    for (name, reply, wanted) in replies {
        let answer = Scripted::answer(reply.clone());
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"HELLO" => Scripted::answer("%1\r\n$5\r\nproto\r\n:3\r\n"),
            b"PING" => Scripted::answer("+PONG\r\n"),
            b"GET" if *args[1] == *b"bad" => answer.clone(),
            b"GET" => Scripted::answer("$4\r\ngood\r\n"),
            _ => Scripted::answer("+OK\r\n"),
        })
        .await;
        let cache = CacheClient::connect(server.url()).await.unwrap();
        match (cache.get_value("bad").await, wanted) {
            (Ok(got), Some(wanted)) => assert!(got.as_deref() == Some(wanted), "{name}"),
            (Ok(_), None) => panic!("{name}: taken for a value"),
            (Err(error), None) => {
                assert!(!error.is_timeout(), "{name}: {error}");
                assert!(!format!("{error} {error:?}").contains("canary"), "{name}: {error:?}");
            }
            (Err(error), Some(_)) => panic!("{name}: {error}"),
        }
        let next = cache.get_value("good").await;
        assert_eq!(next.unwrap().as_deref(), Some("good"), "after {name}");
    }
}

/// Redis' globs know more characters than larder's prefixes mean.
#[tokio::test]
async fn prefixes_are_literal_on_a_server_as_in_the_embedded_store() {
    let server = RedisServer::start().await;
    let stores = [CacheClient::connect(server.url()).await.unwrap(), CacheClient::memory()];
    let every: Vec<u8> = (0..=255).collect();
    let mut keys: Vec<&[u8]> = vec![&every, b"app", b"app2:x", b"app:x", b"a-b", b"\xff*", b"\0"];
    keys.extend([&b"*"[..], b"a[bc]", b"a?", b"a\\", b"[^a]", b"[a-z]", b"\\*", b"[]", b"abc"]);
    for store in &stores {
        store.set_many(keys.iter().map(|key| (key, 1)), None).await.unwrap();
    }
    let mut prefixes: Vec<&[u8]> = keys.clone();
    prefixes.extend([&b""[..], b"[", b"[^", b"[a-", b"\\", b"a\\", b"]", &every[..128], b"^"]);
    for prefix in prefixes {
        let mut wanted: Vec<&[u8]> =
            keys.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        wanted.sort();
        for store in &stores {
            let mut found: Vec<larder::Key> = store.scan(prefix).try_collect().await.unwrap();
            found.sort();
            found.dedup();
            let found: Vec<_> = found.iter().map(larder::Key::as_bytes).collect();
            assert_eq!(found, wanted, "{}", prefix.escape_ascii());
        }
    }
}

//! Servers that answer what they should not: handshakes refused, credentials changed, hostile texts,
//! replies of the wrong kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::testing::{Cut, FaultProxy, RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, Direction, ErrorKind, LockId, Outcome, Presence};

/// What a server says to the commands of a handshake.
pub(crate) fn handshake(args: &[Bytes]) -> Scripted {
    match &*args[0] {
        b"HELLO" => Scripted::answer(
            "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n",
        ),
        b"PING" => Scripted::answer("+PONG\r\n"),
        _ => Scripted::answer("+OK\r\n"),
    }
}

fn quick(url: &str) -> CacheClient {
    let settings = CacheClient::builder().url(url).connections(1);
    settings.deadline(Duration::from_millis(300)).build().unwrap()
}

/// A client of a single connection, for a server that tells connections apart.
async fn single(url: &str) -> CacheClient {
    CacheClient::builder().url(url).connections(1).connect().await.unwrap()
}

#[tokio::test]
async fn a_server_without_resp3_is_spoken_to_in_resp2() {
    for refusal in [
        "-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n",
        "-NOPROTO unsupported protocol version\r\n",
    ] {
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"HELLO" => Scripted::answer(refusal),
            b"GET" => Scripted::answer("$-1\r\n"),
            _ => handshake(args),
        })
        .await;
        let cache = single(&server.url()).await;
        assert_eq!(cache.get_value("key").await.unwrap(), None);
        assert_eq!(server.accepts(), 2, "{refusal}");
    }
}

#[tokio::test]
async fn wrong_credentials_fail_closed_and_are_not_repeated() {
    let server = RedisServer::builder().password("right").start().await;
    for (login, what) in
        [(":canary-pw@", "wrong"), ("", "missing"), ("nobody:canary-pw@", "unknown")]
    {
        let proxy = FaultProxy::start(server.addr()).await;
        let url = format!("redis://{login}{}", proxy.addr());
        let error = CacheClient::connect(&url).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::NotSent), "{what}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        assert_eq!(proxy.accepts(), 1, "{what}: asked again");
    }
    // Also with the old handshake.
    let server = ScriptedServer::start(|_, args| match &*args[0] {
        b"HELLO" => Scripted::answer("-ERR unknown command\r\n"),
        b"AUTH" => Scripted::answer("-WRONGPASS invalid username-password pair\r\n"),
        _ => handshake(args),
    })
    .await;
    let url = format!("redis://:canary-pw@{}", server.addr());
    let error = CacheClient::connect(&url).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::NotSent));
    assert!(server.accepts() <= 4, "{} connections", server.accepts());
}

#[tokio::test]
async fn a_password_that_is_asked_for_later_is_an_error_and_then_given() {
    let server = RedisServer::start().await;
    let cache = quick(&server.url());
    cache.set_value("key", "value", None).await.unwrap();
    let mut admin = server.connect().await;
    admin.command(&["CONFIG", "SET", "requirepass", "new"]).await.unwrap();
    let killed = admin.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
    assert_eq!(killed.int(), Some(1));
    // The first call may still have been written into the dying connection.
    assert_eq!(cache.get_value("key").await.unwrap_err().kind(), ErrorKind::Auth);
    let error = cache.get_value("key").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::NotSent), "{error:?}");
    assert!(!error.to_string().contains("transaction"), "{error}");

    // Who had the password all the time is let in again.
    let cache = quick(&format!("redis://:new@{}", server.addr()));
    assert_eq!(cache.get_value("key").await.unwrap().as_deref(), Some("value"));
}

#[tokio::test]
async fn a_server_that_forgets_who_we_are_is_told_again() {
    let server = ScriptedServer::start(|connection, args| match &*args[0] {
        b"GET" if connection == 1 => Scripted::answer("-NOAUTH Authentication required.\r\n"),
        b"GET" => Scripted::answer("$5\r\nvalue\r\n"),
        _ => handshake(args),
    })
    .await;
    let cache = single(&server.url()).await;
    let error = cache.get_value("key").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::Rejected));
    assert_eq!(cache.get_value("key").await.unwrap().as_deref(), Some("value"));
    assert_eq!(server.accepts(), 2);
}

#[tokio::test]
async fn a_revoked_user_is_refused_and_comes_back_when_allowed() {
    let server = RedisServer::start().await;
    let allow = ["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all"];
    server.command(&allow).await;
    server.command(&["SET", "key", "value"]).await;
    let cache = quick(&format!("redis://app:pw@{}", server.addr()));
    assert_eq!(cache.get_value("key").await.unwrap().as_deref(), Some("value"));

    server.command(&["ACL", "SETUSER", "app", "-get"]).await;
    let error = cache.get_value("key").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Permission, Outcome::Rejected));

    // Deleting the user ends its connections; the handshake is then refused.
    assert_eq!(server.command(&["ACL", "DELUSER", "app"]).await.int(), Some(1));
    let error = cache.push_to_list("list", "x", Direction::Left).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Auth | ErrorKind::Unavailable), "{error:?}");
    let error = cache.get_value("key").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::NotSent), "{error:?}");

    server.command(&allow).await;
    let started = Instant::now();
    while cache.get_value("key").await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(2), "the client did not come back");
        tokio::time::sleep(Duration::from_millis(10)).await; // a pause between tries, as a caller has it
    }
}

#[tokio::test]
async fn hostile_error_texts_reach_nobody() {
    let long = format!("-ERR canary {}\r\n", "x".repeat(1 << 20));
    let lines = "SYNTAX canary\r\n\x1b[31mred\x1b[0m\u{7}\r\n  more";
    let blob = format!("!{}\r\n{lines}\r\n", lines.len());
    for (name, text) in [
        (
            "arguments",
            "-ERR unknown command 'SET', with args beginning with: 'canary'\r\n".to_owned(),
        ),
        ("ANSI escapes", "-\x1b[31mERR\x1b[0m canary\x07\x1b]0;canary\x07\r\n".to_owned()),
        ("a megabyte", long),
        ("a blob with lines", blob),
        ("a canary for a code", "-CANARYCANARYCANARYCANARYCANARY\r\n".to_owned()),
        ("no text", "-\r\n".to_owned()),
        ("spaces", "-   \r\n".to_owned()),
    ] {
        let answer = text.clone();
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"SET" => Scripted::answer(answer.clone()),
            _ => handshake(args),
        })
        .await;
        let cache = quick(&server.url());
        let error = cache.set_value("user:canary", "canary", None).await.unwrap_err();
        let shown = format!("{error} {error:?}").to_lowercase();
        println!("row 25, {name}: {error}");
        assert!(shown.len() < 600, "{name}: {} bytes", shown.len());
        assert!(!shown.contains("canary"), "{name}: {shown}");
        assert!(!shown.chars().any(char::is_control), "{name}: {shown:?}");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(!source.unwrap_or_default().contains("canary"), "{name}");
    }
}

#[tokio::test]
async fn nothing_where_a_number_belongs_is_an_error_and_not_zero() {
    for nothing in ["_\r\n", "$-1\r\n", "*-1\r\n", "+\r\n", "$0\r\n\r\n", "*0\r\n"] {
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"HELLO" | b"CLIENT" | b"SELECT" => handshake(args),
            _ => Scripted::answer(nothing),
        })
        .await;
        let cache = quick(&server.url());
        let id = "0123456789abcdef0123456789abcdef".parse::<LockId>().unwrap();
        let errors = [
            ("incr_by", cache.incr_by("k", 1).await.err()),
            ("delete_key", cache.delete_key("k").await.err()),
            ("key_exists", cache.key_exists("k").await.err()),
            ("set_expiry", cache.set_expiry("k", Duration::from_secs(1)).await.err()),
            ("persist", cache.persist("k").await.err()),
            ("get_ttl", cache.get_ttl("k").await.err()),
            ("set_hash", cache.set_hash("k", "f", 1).await.err()),
            ("delete_hash_field", cache.delete_hash_field("k", "f").await.err()),
            ("push_to_list", push(&cache).await.err()),
            ("remove_from_list", cache.remove_from_list("k", 1).await.err()),
            ("release_lock", cache.release_lock("k", &id).await.err()),
        ];
        for (name, error) in errors {
            let error = error.unwrap_or_else(|| panic!("{name} took {nothing:?} for an answer"));
            assert_eq!(error.kind(), ErrorKind::Protocol, "{name}, {nothing:?}: {error:?}");
            assert_eq!(error.outcome(), Outcome::Unknown, "{name}, {nothing:?}: {error:?}");
        }
        // Nothing is an answer to a condition that did not hold, but not to a plain write.
        if matches!(nothing, "_\r\n" | "$-1\r\n" | "*-1\r\n") {
            let plain = cache.set_value("k", 1, None).await;
            assert_eq!(plain.unwrap_err().kind(), ErrorKind::Protocol, "{nothing:?}");
            assert!(!cache.set_value_if("k", 1, None, Presence::Absent).await.unwrap());
        }
    }
}

async fn push(cache: &CacheClient) -> larder::Result<u64> {
    cache.push_to_list("k", 1, Direction::Left).await
}

#[tokio::test]
async fn a_connection_that_ends_within_a_reply_is_lost_and_a_read_is_asked_again() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::builder()
        .url(proxy.url())
        .connections(1)
        .deadline(Duration::from_secs(10))
        .connect()
        .await
        .unwrap();
    cache.set_hash("hash", "field", "value").await.unwrap();
    let reply = b"%1\r\n$5\r\nfield\r\n$5\r\nvalue\r\n";
    // Each round costs two reconnects of a client that backs off: every third byte has to do.
    for (round, at) in (0..reply.len()).step_by(3).enumerate() {
        let cut = if round % 2 == 0 { Cut::Fin } else { Cut::Reset };
        let before = proxy.cuts();
        proxy.to_client().cut_after(at, cut);
        let hash = cache.get_hash_all("hash").await.unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!(hash["field"], "value");
        assert_eq!(proxy.cuts(), before + 1);
        // What is not repeatable says that it may have been applied; it was.
        proxy.to_client().cut_after(at.min(3), cut);
        let error = cache.incr_by("number", 1).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
        let number = server.command(&["GET", "number"]).await.text();
        assert_eq!(number, Some((round + 1).to_string()));
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_on_every_call_is_not_hammered() {
    let gets = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&gets);
    let server = ScriptedServer::start(move |_, args| match &*args[0] {
        b"GET" => {
            counted.fetch_add(1, Ordering::SeqCst);
            Scripted::Close
        }
        _ => handshake(args),
    })
    .await;
    let cache =
        CacheClient::builder().url(server.url()).deadline(Duration::from_secs(1)).build().unwrap();
    let error = cache.get_value("key").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    println!("row 28: {} connections in a second to a server that hangs up", server.accepts());
    assert!(gets.load(Ordering::SeqCst) >= 2 && server.accepts() <= 20, "{}", server.accepts());
}

#[tokio::test]
async fn an_answer_that_never_ends_costs_a_connection_and_not_the_client() {
    let _alone = crate::alone().await;
    for endless in ["*2147483647\r\n", "$9223372036854775807\r\n", ""] {
        let server = ScriptedServer::start(move |connection, args| match &*args[0] {
            b"GET" if connection == 1 => Scripted::answer(endless),
            b"GET" => Scripted::answer("$5\r\nvalue\r\n"),
            _ => handshake(args),
        })
        .await;
        let cache = CacheClient::builder()
            .url(format!("redis://{}", server.addr()))
            .connections(1)
            .deadline(Duration::from_millis(300))
            .build()
            .unwrap();
        let started = Instant::now();
        let mut given_up = 0;
        let value = loop {
            match cache.get_value("key").await {
                Ok(value) => break value,
                Err(error) => {
                    assert!(error.is_timeout(), "{error}");
                    given_up += 1;
                    assert!(started.elapsed() < Duration::from_secs(10), "{endless:?} is for ever");
                }
            }
        };
        assert_eq!(value.as_deref(), Some("value"));
        assert_eq!(server.accepts(), 2);
        println!(
            "    {endless:?}: {given_up} calls given up, answered after {:?}",
            started.elapsed()
        );
    }
}

//! Inputs that are refused before anything is sent, or that a real server has to take as they are.

use std::time::Duration;

use larder::testing::{FaultProxy, RedisServer, Resp};
use larder::{CacheClient, Direction, ErrorKind, Key, MAX_BYTES, Outcome, Ttl};

/// Keys and key parts that break careless clients.
const HOSTILE: [&[u8]; 22] = [
    b":",
    b"a:b",
    b"a",
    b"a:",
    b":a",
    b"\0",
    b"a\0b",
    b"\r\n",
    b"*1\r\n$8\r\nFLUSHALL\r\n",
    b"\xff\xfe",
    b"{",
    b"}",
    b"{}",
    b"{a}{b}",
    b"../",
    b"%3A",
    b"%",
    "\u{1f980}".as_bytes(),
    "\u{202e}rtl\u{200f}".as_bytes(),
    b"*",
    b"a[bc]?",
    b"a\\",
];

async fn exists(server: &RedisServer, key: &[u8]) -> bool {
    server.command(&[b"EXISTS", key]).await.int() == Some(1)
}

#[tokio::test]
async fn empty_and_oversized_keys_are_refused_before_anything_is_sent() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::connect(proxy.url()).await.unwrap();
    let bytes = proxy.to_server().bytes();
    // One allocation for all: it is half a gibibyte.
    let huge = vec![b'a'; MAX_BYTES + 1];
    for key in [&b""[..], &huge] {
        let errors = [
            cache.set_value(key, 1, None).await.unwrap_err(),
            cache.get_value(key).await.unwrap_err(),
            cache.batch_delete_keys([b"ok", key]).await.unwrap_err(),
            cache.set_many([(&b"ok"[..], 1), (key, 2)], None).await.unwrap_err(),
            cache.set_hash(key, "field", 1).await.unwrap_err(),
            cache.push_to_list(key, 1, Direction::Left).await.unwrap_err(),
            cache.acquire_lock(key, larder::LockOptions::default()).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(
                (error.kind(), error.outcome()),
                (ErrorKind::InvalidInput, Outcome::NotSent),
                "{error}"
            );
        }
    }
    assert_eq!(proxy.to_server().bytes(), bytes, "something was sent");
    assert_eq!(server.command(&["DBSIZE"]).await, Resp::Int(0));
}

#[tokio::test]
async fn hostile_keys_are_stored_byte_for_byte() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    for (number, key) in HOSTILE.into_iter().enumerate() {
        cache.set_value(key, number, None).await.unwrap();
        cache.set_hash("hash", key, number).await.unwrap();
    }
    assert_eq!(server.command(&["DBSIZE"]).await, Resp::Int(HOSTILE.len() as i64 + 1));
    for (number, key) in HOSTILE.into_iter().enumerate() {
        let stored = server.command(&[b"GET", key]).await.text();
        assert_eq!(stored, Some(number.to_string()), "{}", key.escape_ascii());
        assert_eq!(cache.get_value(key).await.unwrap(), Some(number.to_string()));
        assert_eq!(cache.get_hash("hash", key).await.unwrap(), Some(number.to_string()));
        assert_eq!(cache.delete_key(key).await.unwrap(), 1);
        assert!(!exists(&server, key).await);
    }
}

#[tokio::test]
async fn parts_of_a_namespace_never_meet_and_never_leave_it() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let texts: Vec<&str> =
        HOSTILE.into_iter().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    let pairs = cache.namespace::<(String, String), (usize, usize)>("app").build().unwrap();
    for (one, left) in texts.iter().enumerate() {
        for (other, right) in texts.iter().enumerate() {
            let key = ((*left).to_owned(), (*right).to_owned());
            pairs.set(&key, &(one, other)).await.unwrap();
        }
    }
    let keys = server.command(&["KEYS", "*"]).await;
    assert_eq!(keys.items().len(), texts.len() * texts.len(), "two parts met");
    for key in keys.items() {
        let Resp::Bulk(key) = key else { panic!("KEYS answers strings") };
        assert!(key.starts_with(b"app:"), "{}", key.escape_ascii());
        // A caller's part chooses no cluster slot.
        assert!(!key.contains(&b'{'), "{}", key.escape_ascii());
    }
    for (one, left) in texts.iter().enumerate() {
        for (other, right) in texts.iter().enumerate() {
            let key = ((*left).to_owned(), (*right).to_owned());
            assert_eq!(pairs.get(&key).await.unwrap().as_deref(), Some(&(one, other)));
        }
    }
}

#[tokio::test]
async fn no_ttl_means_for_ever_by_accident_and_none_deletes() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::connect(proxy.url()).await.unwrap();
    cache.set_value("kept", "old", Duration::from_secs(100)).await.unwrap();
    let bytes = proxy.to_server().bytes();
    let beyond = Duration::from_millis(i64::MAX as u64);
    for ttl in [Duration::ZERO, beyond, Duration::MAX] {
        for error in [
            cache.set_value("kept", "new", ttl).await.unwrap_err(),
            cache.set_expiry("kept", ttl).await.unwrap_err(),
            cache.set_many([("kept", "new")], ttl).await.unwrap_err(),
            cache.set_dict("kept", &serde_json::json!({}), ttl).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{ttl:?}: {error}");
        }
    }
    assert_eq!(proxy.to_server().bytes(), bytes, "something was sent");
    assert_eq!(cache.get_value("kept").await.unwrap().as_deref(), Some("old"));
    assert!(matches!(cache.get_ttl("kept").await.unwrap(), Ttl::Remaining(_)));

    // A part of a millisecond counts as a whole one: it expires, soon.
    cache.set_value("brief", "value", Duration::from_nanos(1)).await.unwrap();
    while exists(&server, b"brief").await {
        tokio::task::yield_now().await;
    }
    // The longest that is taken is taken by the server, too.
    let longest = Duration::from_millis((i64::MAX - (1 << 43)) as u64);
    cache.set_value("long", "value", longest).await.unwrap();
    assert!(cache.set_expiry("kept", longest).await.unwrap());
    for key in ["long", "kept"] {
        assert!(
            matches!(cache.get_ttl(key).await.unwrap(), Ttl::Remaining(left) if left > longest / 2)
        );
    }
}

#[tokio::test]
async fn extreme_indexes_and_numbers_that_are_none_have_defined_ends() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    for element in ["a", "b", "c"] {
        cache.push_to_list("list", element, Direction::Right).await.unwrap();
    }
    for (start, stop, want) in [
        (i64::MIN, i64::MAX, &["a", "b", "c"][..]),
        (i64::MAX, i64::MIN, &[]),
        (i64::MIN, i64::MIN, &[]),
        (i64::MAX, i64::MAX, &[]),
        (-1, -1, &["c"]),
        (1, 0, &[]),
    ] {
        assert_eq!(
            cache.get_list_range("list", start, stop).await.unwrap(),
            want,
            "{start} {stop}"
        );
    }
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = cache.set_value("number", number, None).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidInput, Outcome::NotSent));
        assert!(cache.push_to_list("list", number, Direction::Left).await.is_err());
    }
    assert_eq!(cache.get_list("list").await.unwrap().len(), 3);
    assert!(!cache.key_exists("number").await.unwrap());
}

#[tokio::test]
async fn a_number_that_would_overflow_is_left_as_it_was() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    for (start, delta) in [
        (i64::MAX.to_string(), 1),
        (i64::MIN.to_string(), -1),
        ("1".into(), i64::MAX),
        ("-2".into(), i64::MIN),
        ("canary".into(), 1),
        ("1.5".into(), 1),
        ("9223372036854775808".into(), 1),
        (" 1".into(), 1),
    ] {
        cache.set_value("number", start.as_str(), None).await.unwrap();
        let error = cache.incr_by("number", delta).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::OutOfRange, Outcome::Rejected),
            "{start} + {delta}: {error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("canary"));
        assert_eq!(cache.get_value("number").await.unwrap(), Some(start));
    }
    // The lowest delta itself is one that Redis takes.
    cache.set_value("number", 0, None).await.unwrap();
    assert_eq!(cache.incr_by("number", i64::MIN).await.unwrap(), i64::MIN);
}

#[tokio::test]
async fn a_wrong_type_names_the_operation_and_no_argument() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    cache.push_to_list("user:canary", "canary", Direction::Left).await.unwrap();
    cache.set_value("text:canary", "canary", None).await.unwrap();
    let (list, text) = ("user:canary", "text:canary");
    for (name, error) in [
        ("get_value", cache.get_value(list).await.err()),
        ("get_hash", cache.get_hash(list, "canary").await.err()),
        ("get_hash_all", cache.get_hash_all(list).await.err()),
        ("set_hash", cache.set_hash(list, "canary", "canary").await.err()),
        ("delete_hash_field", cache.delete_hash_field(list, "canary").await.err()),
        ("incr_by", cache.incr_by(list, 1).await.err()),
        ("push_to_list", cache.push_to_list(text, "canary", Direction::Left).await.err()),
        ("left_pop_list", cache.left_pop_list(text).await.err()),
        ("get_list", cache.get_list(text).await.err()),
        ("remove_from_list", cache.remove_from_list(text, "canary").await.err()),
        ("get_dict", cache.get_dict::<serde_json::Value>(list).await.err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{name} took a wrong type"));
        assert!(error.is_wrong_type(), "{name}: {error:?}");
        assert_eq!((error.outcome(), error.code()), (Outcome::Rejected, Some("WRONGTYPE")));
        assert_eq!(error.op(), name);
        let whole = error.key().map(Key::as_bytes);
        assert!(whole == Some(list.as_bytes()) || whole == Some(text.as_bytes()));
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

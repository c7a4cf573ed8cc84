//! P16 again: values that are put in another's place, and pushes that no server should send.

use std::time::Duration;

use larder::testing::{FaultProxy, RawConnection, RedisServer};
use larder::{CacheClient, ErrorKind};

use super::{alone, client, settle, times, until, versions};

/// Commands that put the text of the second argument under `v:1`, whatever stands there.
const WAYS: [(&str, &str); 9] = [
    ("RENAME", "redis.call('SET', 'other', ARGV[1]) redis.call('RENAME', 'other', 'v:1')"),
    ("COPY", "redis.call('SET', 'other', ARGV[1]) redis.call('COPY', 'other', 'v:1', 'REPLACE')"),
    (
        "MOVE",
        "redis.call('DEL', 'v:1') redis.call('SELECT', 3) redis.call('SET', 'v:1', ARGV[1]) redis.call('MOVE', 'v:1', 0)",
    ),
    (
        "RESTORE",
        "redis.call('SET', 'other', ARGV[1]) redis.call('RESTORE', 'v:1', 0, redis.call('DUMP', 'other'), 'REPLACE')",
    ),
    ("SET", "redis.call('SET', 'v:1', ARGV[1])"),
    ("GETSET", "redis.call('GETSET', 'v:1', ARGV[1])"),
    ("INCRBY", "redis.call('SET', 'v:1', 0) redis.call('INCRBY', 'v:1', ARGV[1])"),
    ("SETRANGE", "redis.call('DEL', 'v:1') redis.call('SETRANGE', 'v:1', 0, ARGV[1])"),
    ("BITOP", "redis.call('SET', 'other', ARGV[1]) redis.call('BITOP', 'OR', 'v:1', 'other')"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_does_not_remember_who_found_what_is_not_kept_near() {
    const KEYS: u64 = 1_000;
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    for near in [false, true] {
        let values = cache.namespace::<u64, u64>("v").near(near).build().unwrap();
        values.set_many((0..KEYS).map(|key| (key, key))).await.unwrap();
        let lost = || async { Err::<u64, _>(std::io::Error::other("lost")) };
        for key in 0..KEYS {
            assert_eq!(*values.get_or_load(&key, lost).await.unwrap(), key);
            assert_eq!(values.explain(&key), Some(larder::ReadFrom::Shared));
            let name = format!("v:{key}");
            let found = cache.get_or_load(name, Duration::from_secs(60), lost).await.unwrap();
            assert_eq!(*found, key);
        }
        let all: Vec<u64> = (0..KEYS).collect();
        let none = |_: Vec<&u64>| async { Ok::<_, std::io::Error>(Vec::<(u64, u64)>::new()) };
        assert!(values.get_or_load_many(&all, none).await.unwrap().iter().all(Result::is_ok));
        let remembered: u64 = server.info("tracking_total_keys").await.parse().unwrap();
        println!("P16: {KEYS} keys read through, near {near}: the server remembers {remembered}");
        assert_eq!(remembered, if near { KEYS } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_put_in_anothers_place_is_seen() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = client(&server).await;
    let values = versions(&cache);
    let mut writer = RawConnection::connect(server.addr()).await.unwrap();
    let rounds = times(1_000);
    for (at, (name, way)) in WAYS.into_iter().enumerate() {
        let mut longest = Duration::ZERO;
        for round in 0..rounds {
            let (old, new) = (2 * round + 1, 1_000_000 * (at as u64 + 1) + round);
            server.command(&["SET", "v:1", &old.to_string()]).await;
            until("it is near", async || settle(&values, 1).await == Some(old)).await;
            let done = writer.command(&["EVAL", way, "0", &new.to_string()]).await.unwrap();
            assert!(!done.is_error(), "{name}: {done:?}");
            let from = std::time::Instant::now();
            until(name, async || values.get(&1).await.unwrap().as_deref() == Some(&new)).await;
            longest = longest.max(from.elapsed());
        }
        println!("P16: {name:16} {rounds:5}      0  {longest:?}");
        assert!(longest < Duration::from_millis(500), "{name}: {longest:?}");
    }
    // What is no text any more is an error, not the text that it was.
    settle(&values, 1).await;
    server.command(&["RPUSH", "list", "2", "1"]).await;
    server.command(&["SORT", "list", "STORE", "v:1"]).await;
    until("SORT STORE", async || {
        values.get(&1).await.is_err_and(|error| error.kind() == ErrorKind::WrongType)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_in_another_database_is_another_value() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let [two, three] = [2, 3].map(|db| format!("{}/{db}", server.url()));
    let two = versions(&CacheClient::connect(two).await.unwrap());
    let three = versions(&CacheClient::connect(three).await.unwrap());
    for round in 0..times(1_000) {
        two.set(&1, &round).await.unwrap();
        three.set(&1, &(round + 1_000_000)).await.unwrap();
        assert_eq!(settle(&two, 1).await, Some(round));
        assert_eq!(settle(&three, 1).await, Some(round + 1_000_000));
    }
}

async fn behind_a_proxy() -> (RedisServer, FaultProxy, CacheClient) {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::connect(proxy.url()).await.unwrap();
    (server, proxy, cache)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_cannot_be_read_empties_the_near_cache() {
    let _turn = alone().await;
    let (server, proxy, cache) = behind_a_proxy().await;
    let values = versions(&cache);
    server.command(&["SET", "v:1", "1"]).await;
    let gone = || {
        let reads = &cache.stats().reads["v"];
        reads.invalidations.flushed + reads.invalidations.lost
    };
    const BROKEN: [&str; 9] = [
        // Of some that can be read, one cannot.
        ">2\r\n$10\r\ninvalidate\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n_\r\n",
        ">2\r\n$10\r\ninvalidate\r\n_\r\n",
        ">2\r\n$10\r\ninvalidate\r\n*1\r\n:5\r\n",
        ">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n*1\r\n$3\r\nv:1\r\n",
        ">2\r\n$10\r\ninvalidate\r\n:5\r\n",
        ">2\r\n$10\r\ninvalidate\r\n$3\r\nv:1\r\n",
        ">3\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n*1\r\n$3\r\nv:1\r\n",
        ">1\r\n$10\r\ninvalidate\r\n",
        // Not a push at all: the reply to nothing.
        "?garbage\r\n",
    ];
    for broken in BROKEN {
        settle(&values, 1).await;
        let before = gone();
        proxy.to_client().inject(broken);
        until(broken, async || {
            // A call that was on its way when its connection was given up may fail.
            _ = values.get(&1).await;
            gone() > before
        })
        .await;
        assert_eq!(settle(&values, 1).await, Some(1), "{broken}: it comes back");
    }
    println!("bad input 21: {} kinds of broken pushes, near cache emptied by each", BROKEN.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_a_million_keys_is_taken_in_and_the_last_one_counts() {
    let _turn = alone().await;
    let (server, proxy, cache) = behind_a_proxy().await;
    let values = versions(&cache);
    server.command(&["SET", "v:1", "1"]).await;
    settle(&values, 1).await;
    const KEYS: usize = 1_000_000;
    let mut push = format!(">2\r\n$10\r\ninvalidate\r\n*{KEYS}\r\n");
    push.push_str(&"$1\r\nx\r\n".repeat(KEYS - 1));
    push.push_str("$3\r\nv:1\r\n");
    let from = std::time::Instant::now();
    proxy.to_client().inject(push);
    // Pushed out while the connection stays, or lost with it: either way it is read again.
    until("the million is taken in", async || {
        _ = values.get(&1).await;
        cache.stats().reads["v"].invalidations.total() > 0
    })
    .await;
    println!("bad input 21: a push of {KEYS} keys, taken in after {:?}", from.elapsed());
    assert_eq!(settle(&values, 1).await, Some(1));
}

//! P30: whatever a caller passes, an operation of one namespace touches no key of another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::TryStreamExt;
use larder::testing::{LEAST_PRIVILEGE, RedisServer, Resp};
use larder::{CacheClient, Direction, Error};

use crate::times;

/// Pieces that break careless clients; parts are made of a few of them.
const PIECES: [&str; 40] = [
    ":",
    "::",
    "a",
    "b",
    "b:",
    "b:1",
    "a:",
    "a2",
    "*",
    "?",
    "[",
    "]",
    "[a-z]",
    "^",
    "-",
    "\\",
    "/",
    "../",
    "..",
    "%",
    "%3A",
    "%25",
    "{",
    "}",
    "{}",
    "{b}",
    "{victim}",
    "{larder:lease:{b:1}}",
    "\0",
    "\r\n",
    "\r\nFLUSHALL\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    " ",
    "\t",
    "\u{1f980}",
    "\u{202e}",
    "\u{feff}",
    "1",
    "larder:lock:{lock:b}",
    "lock:b",
];

/// Keys of others, near in name to what the operations of `a` could be led to.
const OTHERS: [&str; 24] = [
    "a",
    "a2",
    "a2:1",
    "ab:1",
    "aa:1",
    "A:1",
    "b",
    "b:",
    "b:1",
    "b:2",
    "b:a:1",
    "b:*",
    "b:[a-z]",
    "*",
    "?:1",
    "[a]:1",
    "a*",
    "victim",
    "{victim}",
    "lock:b",
    "lock:b:1",
    "larder:lease:{b:1}",
    "larder:lock:{lock:b}",
    "larder:fenced:{b:1}",
];

fn part(random: &mut fastrand::Rng) -> String {
    (0..random.usize(1..5)).map(|_| PIECES[random.usize(..PIECES.len())]).collect()
}

/// What stands under the keys of others, byte for byte, with their expiry.
async fn digest(server: &RedisServer) -> BTreeMap<&'static str, (Resp, Option<i64>)> {
    let mut digest = BTreeMap::new();
    for key in OTHERS {
        let content = server.command(&["DUMP", key]).await;
        assert!(matches!(content, Resp::Bulk(_)), "{key} is gone: {content}");
        digest.insert(key, (content, server.command(&["PEXPIRETIME", key]).await.int()));
    }
    digest
}

/// The first word of each line of MONITOR, up to the command that says that it is over.
async fn seen(monitor: &mut larder::testing::RawConnection) -> BTreeMap<String, u64> {
    let mut commands = BTreeMap::new();
    loop {
        let line = monitor.reply().await.unwrap().text().unwrap();
        let name = line.split('"').nth(1).unwrap_or_default().to_lowercase();
        if name == "echo" {
            return commands;
        }
        *commands.entry(name).or_insert(0) += 1;
    }
}

/// Every operation of namespace `a` with one pair of parts. Answers how many there were.
async fn everything(cache: &CacheClient, one: &str, other: &str, near: bool) -> u64 {
    type Parts = (String, String);
    let values = cache
        .namespace::<Parts, String>("a")
        .near(near)
        .ttl(Duration::from_secs(60))
        .build()
        .unwrap();
    let key: Parts = (one.to_owned(), other.to_owned());
    let swapped: Parts = (other.to_owned(), one.to_owned());
    let text = format!("{one}|{other}");
    let load = async || Ok::<_, Error>(text.clone());
    let whole = values.key(&key).unwrap();

    values.set(&key, &text).await.unwrap();
    assert_eq!(values.get(&key).await.unwrap().unwrap().as_str(), text);
    values.set_many([(&key, &text)]).await.unwrap();
    let both = values.get_many([&key, &swapped]).await.unwrap();
    assert_eq!(both[0].as_ref().unwrap().as_str(), text);
    assert!(both[1].is_none() || one == other, "{one:?} and {other:?} meet");
    assert_eq!(values.get_or_load(&swapped, load).await.unwrap().as_str(), text);
    assert!(values.fenced_set(&key, &text, 7).await.unwrap());
    assert!(values.ttl(&key).await.unwrap().remaining().is_some());
    assert!(values.delete(&swapped).await.unwrap());
    values.invalidate(&key).await.unwrap();
    values.invalidate_many([&key, &swapped]).await.unwrap();
    assert_eq!(values.get(&key).await.unwrap(), None);

    // A field is no key, and the name of a lock has its prefix.
    cache.set_hash(&whole, one, other).await.unwrap();
    assert_eq!(cache.get_hash(&whole, one).await.unwrap().as_deref(), Some(other));
    cache.delete_hash_field(&whole, one).await.unwrap();
    cache.push_to_list(&whole, one, Direction::Left).await.unwrap();
    assert_eq!(cache.remove_from_list(&whole, one).await.unwrap(), 1);
    let guard = cache.lock(format!("a:{one}{other}")).acquire().await.unwrap();
    assert!(guard.release().await.unwrap());

    // A prefix means itself.
    values.set(&key, &text).await.unwrap();
    let found: Vec<larder::Key> = cache.scan(&whole).try_collect().await.unwrap();
    assert!(
        found.contains(&whole)
            && found.iter().all(|key| key.as_bytes().starts_with(whole.as_bytes()))
    );
    values.delete(&key).await.unwrap();
    20
}

#[tokio::test]
async fn whatever_is_passed_to_one_namespace_it_touches_no_key_of_another() {
    // The server refuses every other key as well, and the test then fails.
    let keys = [
        "~a:*",
        "~lock:a:*",
        "~larder:lease:{a:*",
        "~larder:fenced:{a:*",
        "~larder:lock:*lock:a:*",
    ];
    let server = RedisServer::builder().least_privilege(keys).start().await;
    for (number, key) in OTHERS.into_iter().enumerate() {
        let set = server.command(&["SET", key, &format!("sentinel {number}"), "EX", "86400"]).await;
        assert!(!set.is_error(), "{set}");
    }
    let before = digest(&server).await;
    let mut monitor = server.connect().await;
    assert!(!monitor.command(&["MONITOR"]).await.unwrap().is_error());
    let seed = fastrand::u64(..);
    println!("P30: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let (rounds, mut operations) = (times(3000), 0);
    for round in 0..rounds {
        let (one, other) = (part(&mut random), part(&mut random));
        operations += everything(&cache, &one, &other, round % 2 == 0).await;
    }
    assert_eq!(server.command(&["ECHO", "over"]).await.text().as_deref(), Some("over"));
    let commands = seen(&mut monitor).await;

    let after = digest(&server).await;
    let changed: Vec<_> = OTHERS.into_iter().filter(|key| before[key] != after[key]).collect();
    println!(
        "P30: {operations} operations of a namespace with hostile parts, {} changes of {} other keys; MONITOR saw {} commands of \
         {} kinds",
        changed.len(),
        OTHERS.len(),
        commands.values().sum::<u64>(),
        commands.len()
    );
    assert!(changed.is_empty(), "{changed:?}");
    let allowed: BTreeSet<&str> =
        LEAST_PRIVILEGE.split_whitespace().filter_map(|word| word[1..].split('|').next()).collect();
    for command in commands.keys() {
        // Every command of theirs is in the rule, in which there is no KEYS, FLUSHALL, FLUSHDB or CONFIG; those of this test
        // are not.
        let of_the_test = ["dump", "pexpiretime"].contains(&command.as_str());
        assert!(of_the_test || allowed.contains(command.as_str()), "{command} was sent");
    }
    for command in ["eval", "get", "scan", "client"] {
        assert!(commands.contains_key(command), "MONITOR did not see {command}: it sees nothing");
    }
    let all = server.command(&["KEYS", "*"]).await;
    let ours = ["a:", "lock:a:", "larder:lease:{a:", "larder:fenced:{a:", "larder:lock:"];
    for key in all.items().iter().filter_map(Resp::text) {
        let known =
            OTHERS.contains(&key.as_str()) || ours.iter().any(|start| key.starts_with(start));
        assert!(known, "{key:?} was written");
    }
}

//! Nothing that larder says contains a password, a username, a value, the rest of a key, or a lock
//! token: canaries are put wherever secrets go, every error path is walked at the level TRACE, and
//! everything that comes out is searched.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use larder::op::{Batch, LockMode, Op, Replies, Reply};
use larder::store::{MemoryStore, RedisStore, Store};
use larder::testing::{RedisServer, Scripted, ScriptedServer};
use larder::{
    CacheClient, CacheConfig, Direction, Error, ErrorKind, Expiry, Key, LockId, LockOptions,
    Presence, redis1,
};
use metrics_util::debugging::DebuggingRecorder;
use serde::{Deserialize, Serialize};
use tracing_subscriber::fmt::format::FmtSpan;

mod said;

use said::{Log, Said};

const PASSWORD: &str = "canary/pass@1:x";
const PASSWORD_ENCODED: &str = "canary%2Fpass%401%3Ax";
const USER: &str = "canaryuser";
const VALUE: &str = "canary-value";
const FIELD: &str = "canary-field";
const KEY: &str = "user:canary-key";
/// A key without a first part that could be shown.
const BARE_KEY: &str = "canary-key";
const TOKEN: &str = "c0ffeec0ffeec0ffeec0ffeec0ffee42";

/// Values whose decoding fails with texts that serde makes of the data.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    id: u64,
    colour: Colour,
}

#[derive(Debug, Serialize, Deserialize)]
enum Colour {
    Red,
}

/// A value that refuses to be written, and says its content.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(format!("cannot write {VALUE}")))
    }
}

fn quick_lock() -> LockOptions {
    LockOptions {
        timeout: Duration::from_millis(1),
        retry_interval: Duration::from_millis(1),
        ..Default::default()
    }
}

/// Every method once, with canaries everywhere; most of it fails, and all that fails is noted.
async fn every_method(said: &mut Said, place: &str, cache: &CacheClient) {
    let ttl = Duration::from_secs(60);
    let token: LockId = TOKEN.parse().unwrap();
    for key in [KEY, BARE_KEY] {
        said.note(place, cache.set_value(key, VALUE, ttl).await);
        said.note(place, cache.set_value_if(key, VALUE, None, Presence::Absent).await);
        said.note(place, cache.get_value(key).await);
        said.note(place, cache.get_bytes(key).await);
        said.note(place, cache.incr_by(key, 1).await);
        said.note(place, cache.set_dict(key, &serde_json::json!({ FIELD: VALUE }), None).await);
        said.note(place, cache.get_dict::<Strict>(key).await);
        said.note(place, cache.get_list_value::<Vec<u64>>(key).await);
        said.note(place, cache.set_list(key, &[VALUE], ttl).await);
        said.note(place, cache.get_list_value::<Vec<u64>>(key).await);
        said.note(place, cache.get_dict::<Strict>(key).await);
        said.note(place, cache.set_hash(key, FIELD, VALUE).await);
        said.note(place, cache.get_hash(key, FIELD).await);
        said.note(place, cache.get_hash_all(key).await);
        said.note(place, cache.delete_hash_field(key, FIELD).await);
        said.note(place, cache.push_to_list(key, VALUE, Direction::Left).await);
        said.note(place, cache.get_list(key).await);
        said.note(place, cache.left_pop_list(key).await);
        said.note(place, cache.remove_from_list(key, VALUE).await);
        said.note(place, cache.set_expiry(key, ttl).await);
        said.note(place, cache.get_ttl(key).await);
        said.note(place, cache.persist(key).await);
        said.note(place, cache.get_many([key, key]).await);
        said.note(place, cache.set_many([(key, VALUE), (key, VALUE)], None).await);
        said.note(place, cache.release_lock(key, &token).await);
        said.note(place, cache.acquire_lock(key, quick_lock()).await);
        guards(said, place, cache, key).await;
        let users = cache.namespace::<str, Strict>("user").build().unwrap();
        said.note(place, users.get(key).await);
        said.note(place, users.set(key, &Strict { id: 1, colour: Colour::Red }).await);
        said.debug(place, &users);
        for group in [cache.pipeline(), cache.transaction()] {
            let group = group
                .set_value(key, VALUE, None)
                .push_to_list(key, VALUE, Direction::Right)
                .get_hash(key, FIELD)
                .incr_by(key, 1);
            said.debug(place, &group);
            match group.run().await {
                Ok(replies) => {
                    said.debug(place, &replies);
                    replies.into_iter().for_each(|reply| said.note(place, reply));
                }
                Err(error) => said.error(place, &error),
            }
        }
        let mut scan = Box::pin(cache.scan(key));
        while let Some(found) = scan.next().await {
            said.debug(place, &found);
            said.note(place, found);
        }
        said.note(place, cache.batch_delete_keys([key]).await);
        said.note(place, cache.delete_key(key).await);
        said.note(place, cache.key_exists(key).await);
    }
    said.note(place, cache.ping().await);
    said.debug(place, cache);
    said.debug(place, &cache.stats());
    said.debug(place, &cache.capabilities());
}

/// Every way to get a guard. Its identifier, as it stands in the store, is searched for like any token; the name that a
/// holder gives itself is for everybody to read.
async fn guards(said: &mut Said, place: &str, cache: &CacheClient, name: &str) {
    let brief = Duration::from_millis(1);
    for lock in [
        cache.lock(name).owner("night job"),
        cache.lock(name).fair(true),
        cache.lock(name).shared(),
        cache.semaphore(name, 2),
        cache.lock(name).lease(Duration::ZERO),
        cache.lock("").owner("\n"),
    ] {
        said.debug(place, &lock);
        let guard = match lock.try_acquire().await {
            Ok(Some(guard)) => guard,
            Ok(None) => continue,
            Err(error) => {
                said.error(place, &error);
                said.note(place, lock.acquire_within(brief).await);
                continue;
            }
        };
        said.tokens.extend(ids(cache, guard.key()).await);
        said.debug(place, &guard);
        said.debug(place, &guard.watcher());
        said.note(place, cache.lock(name).acquire_within(brief).await);
        said.note(place, cache.lock(name).fair(true).acquire_within(brief).await);
        said.note(place, guard.release().await);
    }
}

/// The identifiers of those who hold a lock.
async fn ids(cache: &CacheClient, lock: &Key) -> Vec<String> {
    let alone = cache.get_value(lock).await.unwrap();
    let shared = cache.get_hash_all(lock.lock_record()).await.unwrap();
    let shared = shared.into_keys().filter_map(|field| Some(field.strip_prefix("r:")?.to_owned()));
    let ids: Vec<_> = alone.into_iter().filter(|id| id != "shared").chain(shared).collect();
    assert!(!ids.is_empty(), "somebody holds it");
    ids
}

/// Values that are there but are something else than the call expects.
async fn decode_errors(said: &mut Said, place: &str, cache: &CacheClient) {
    cache.set_value(KEY, VALUE, None).await.unwrap();
    said.refused(place, cache.get_dict::<Strict>(KEY).await);
    said.refused(place, cache.get_list_value::<Vec<u64>>(KEY).await);
    said.refused(place, cache.incr_by(KEY, 1).await);
    for json in [
        format!(r#"{{"id":"{VALUE}","colour":"Red"}}"#),
        format!(r#"{{"id":1,"colour":"{VALUE}"}}"#),
        format!(r#"{{"id":1,"{FIELD}":1}}"#),
        format!(r#"{{"id":1, {VALUE}"#),
        format!(r#"{{"id":1,"colour":{{"{VALUE}":{{}}}}}}"#),
        format!(r#"{{"{VALUE}":{{}}}} {VALUE}"#),
        format!(r#"["{VALUE}", expected {VALUE}]"#),
        format!(r#""missing field `{VALUE}`""#),
    ] {
        cache.set_value(KEY, json, None).await.unwrap();
        said.refused(place, cache.get_dict::<Strict>(KEY).await);
        let users = cache.namespace::<str, Strict>("user").build().unwrap();
        said.refused(place, users.get("canary-key").await);
    }
    cache.set_value(KEY, format!("{VALUE}\u{0}").into_bytes(), None).await.unwrap();
    let broken = [VALUE.as_bytes(), &[0xff]].concat();
    cache.set_value(KEY, broken.clone(), None).await.unwrap();
    said.refused(place, cache.get_value(KEY).await);
    cache.set_hash("user:canary-hash", FIELD, broken.clone()).await.unwrap();
    said.refused(place, cache.get_hash("user:canary-hash", FIELD).await);
    said.refused(place, cache.get_hash_all("user:canary-hash").await);
    cache.push_to_list("user:canary-list", broken, Direction::Left).await.unwrap();
    said.refused(place, cache.get_list("user:canary-list").await);
    said.refused(place, cache.left_pop_list("user:canary-list").await);
    said.refused(place, cache.set_dict(KEY, &Unwritable, None).await);
    said.refused(place, cache.set_dict(KEY, VALUE, None).await);
    let token = cache.acquire_lock(KEY, quick_lock()).await;
    said.refused(place, token);
    cache.delete_key(KEY).await.unwrap();
    let id = cache.acquire_lock(KEY, LockOptions::default()).await.unwrap();
    said.debug(place, &id);
    said.refused(place, cache.acquire_lock(KEY, quick_lock()).await);
    said.refused(place, cache.get_dict::<Strict>(KEY).await);
    said.tokens.push(id.as_str().to_owned());
    let guard = cache.lock("canary").lease(Duration::from_millis(60)).acquire().await.unwrap();
    said.tokens.extend(ids(cache, guard.key()).await);
    cache.delete_key(guard.key()).await.unwrap();
    said.refused(place, guard.run(std::future::pending::<()>()).await);
    said.debug(place, &guard.lost().await);
    said.note(place, guard.release().await);
    for wrong in ["", "canary", VALUE] {
        said.refused(place, wrong.parse::<LockId>());
    }
}

fn config_errors(said: &mut Said) {
    for url in [
        format!("redis://{USER}:{PASSWORD}@localhost"),
        format!("redis://{USER}:{PASSWORD_ENCODED}@localhost:0/canary"),
        format!("redis://{USER}:{PASSWORD_ENCODED}%@local host"),
        format!("redis://{USER}:{PASSWORD_ENCODED}@localhost/1?canary"),
        format!("redis://{USER}:{PASSWORD_ENCODED}@localhost/1?deadline_ms=canary#canary"),
        format!("redis://{USER}:{VALUE}"),
        format!("redis://{USER}@localhost"),
        format!("rediss://{USER}:{PASSWORD_ENCODED}@localhost?ca=/nowhere/ca.pem&insecure=canary"),
        format!("redis+cluster://{USER}:{PASSWORD_ENCODED}@localhost,h2/canary"),
        format!("redis+unix://{USER}:{PASSWORD}@/sock"),
        format!("memory://{USER}:{VALUE}@canary"),
        format!("{PASSWORD}://localhost"),
        PASSWORD.to_owned(),
        String::new(),
    ] {
        let builder = CacheClient::builder().url(&url).deadline(Duration::ZERO);
        said.debug("builder", &builder);
        said.refused("builder", builder.build());
        said.refused("builder", CacheClient::builder().url(&url).build());
        let config = CacheConfig::from(url.as_str());
        said.debug("config", &config);
        said.refused("config", config.to_url());
        said.refused("config", config.clone().username(USER).host("canary host").client());
        said.refused("config", config.display_url());
    }
    let folder = std::env::temp_dir().join(format!("larder-leaks-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder).unwrap();
    for toml in [
        format!("[redis]\npassword = \"{PASSWORD}"),
        format!("[redis]\npassword = {PASSWORD}\n"),
        format!("[redis]\nport = '{VALUE}'\ndb = '{VALUE}'\nusername = '{USER}'\n"),
        format!("[redis]\npassword = '{PASSWORD}'\npassword = '{PASSWORD}'\n"),
        format!("[redis]\npassword = ['{PASSWORD}']\nhost = '{VALUE}/'\n"),
        format!("redis = '{PASSWORD}'"),
        format!("[redis]\nurl = 'redis://{USER}:{PASSWORD}@h'\npassword = '{PASSWORD}'"),
    ] {
        let path = folder.join("cache.toml");
        std::fs::write(&path, toml).unwrap();
        let config = CacheConfig::load(&path);
        said.debug("file", &config);
        said.refused("file", config.client());
    }
    std::fs::remove_dir_all(folder).unwrap();
    let good = CacheConfig::new().username(USER).password(PASSWORD);
    said.debug("config", &good);
    said.text("config", good.display_url().unwrap());
    said.debug("config", &good.to_url().unwrap());
    said.debug("client", &good.client().unwrap());
}

async fn wrong_credentials(said: &mut Said) {
    let server = RedisServer::builder().password("the right one").start().await;
    let at = server.addr();
    for url in [
        format!("redis://:{PASSWORD_ENCODED}@{at}"),
        format!("redis://{USER}:{PASSWORD_ENCODED}@{at}"),
        format!("redis://{at}"),
    ] {
        said.refused("auth", CacheClient::connect(&url).await);
        said.refused("global", larder::init(url.as_str()).await);
        let lazy = CacheClient::builder().url(&url).build().unwrap();
        every_method(said, "auth", &lazy).await;
        let driver = redis1::Client::open(url.as_str()).unwrap();
        let injected = CacheClient::new(move || {
            let driver = driver.clone();
            async move { driver.get_multiplexed_async_connection().await }
        });
        every_method(said, "auth of an injected session", &injected).await;
        let pool = deadpool_redis::Config::from_url(url.as_str()).create_pool(None).unwrap();
        every_method(said, "auth of deadpool", &CacheClient::new(pool)).await;
        let manager = bb8_redis::RedisConnectionManager::new(url.as_str()).unwrap();
        let pool = bb8_redis::bb8::Pool::builder()
            .connection_timeout(Duration::from_millis(5))
            .build_unchecked(manager);
        let cache = CacheClient::new(pool);
        said.refused("auth of bb8", cache.set_value(KEY, VALUE, None).await);
    }
}

/// A user that may log in, and little else.
async fn forbidden(said: &mut Said) {
    let server = RedisServer::start().await;
    let rule = format!(">{PASSWORD}");
    server.command(&["ACL", "SETUSER", USER, "on", &rule, "~other:*", "+@all", "-incrby"]).await;
    let url = format!("redis://{USER}:{PASSWORD_ENCODED}@{}", server.addr());
    let cache = CacheClient::connect(&url).await.unwrap();
    every_method(said, "acl", &cache).await;
    said.refused("acl", cache.set_value(KEY, VALUE, None).await);
    said.refused("acl", cache.incr_by("other:canary", 1).await);
}

/// What real servers refuse: other types, unknown commands, no memory.
async fn refusals(said: &mut Said) {
    let server = RedisServer::builder()
        .arg("--rename-command")
        .arg("SET")
        .arg("")
        .arg("--rename-command")
        .arg("EVAL")
        .arg("")
        .start()
        .await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    every_method(said, "unknown command", &cache).await;
    said.refused("unknown command", cache.set_value(KEY, VALUE, None).await);
    let token: LockId = TOKEN.parse().unwrap();
    said.refused("unknown command", cache.release_lock(KEY, &token).await);

    let server = RedisServer::start().await;
    for cache in [CacheClient::connect(server.url()).await.unwrap(), CacheClient::memory()] {
        every_method(said, "wrong type", &cache).await;
        for key in [KEY, BARE_KEY] {
            cache.delete_key(key).await.unwrap();
            cache.push_to_list(key, VALUE, Direction::Left).await.unwrap();
        }
        said.refused("wrong type", cache.get_value(KEY).await);
        every_method(said, "wrong type", &cache).await;
        cache.delete_key(KEY).await.unwrap();
        cache.push_to_list(KEY, VALUE, Direction::Left).await.unwrap();
        said.refused("wrong type", cache.release_lock(KEY, &token).await);
        cache.delete_key(KEY).await.unwrap();
        decode_errors(said, "decode", &cache).await;
        cache.close().await;
        said.refused("closed", cache.set_value(KEY, VALUE, None).await);
    }
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    said.refused("oom", cache.set_value(KEY, VALUE, None).await);
    every_method(said, "oom", &cache).await;
}

/// Servers that are not there, are silent, or go away.
async fn no_answer(said: &mut Said) {
    let mut server = RedisServer::start().await;
    let brief = |url: &str| {
        CacheClient::builder().url(url).deadline(Duration::from_millis(5)).build().unwrap()
    };
    let cache = brief(&server.url());
    // The first call connects, for which five milliseconds may be too short.
    while cache.ping().await.is_err() {}
    server.pause().await;
    every_method(said, "timeout", &cache).await;
    said.refused("timeout", cache.set_value(KEY, VALUE, None).await);
    server.resume().await;
    server.kill().await;
    every_method(said, "refused connection", &cache).await;
    let with_secrets = format!("redis://{USER}:{PASSWORD_ENCODED}@{}", server.addr());
    said.refused("refused connection", CacheClient::connect(&with_secrets).await);
    every_method(said, "refused connection", &brief(&with_secrets)).await;
    let socket = format!("redis+unix://{USER}:{PASSWORD_ENCODED}@/no/such/socket");
    said.refused("no socket", CacheClient::connect(socket).await);
    let unknown = format!("redis://{USER}:{PASSWORD_ENCODED}@no-such-host.invalid");
    said.refused("unknown host", brief(&unknown).ping().await);
}

/// Servers that repeat whatever they are told, in every form that the protocol has and some that it
/// has not.
async fn echoes(said: &mut Said) {
    let forms: [fn(&str) -> String; 17] = [
        |echo| format!("-ERR unknown command, with args beginning with: {echo}\r\n"),
        |echo| format!("-{echo}\r\n"),
        |echo| format!("-{} {echo}\r\n", echo.to_uppercase().replace(' ', "")),
        |echo| format!("-WRONGTYPE {echo}\r\n"),
        |echo| format!("-WRONGPASS {echo}\r\n"),
        |echo| format!("-NOAUTH {echo}\r\n"),
        |echo| format!("-ERR value is not an integer or out of range: {echo}\r\n"),
        |echo| format!("-MOVED 1 {echo}:1\r\n"),
        |echo| format!("!{}\r\n{echo}\r\n", echo.len()),
        |echo| format!("+{echo}\r\n"),
        |echo| format!("${}\r\n{echo}\r\n", echo.len()),
        |echo| format!("*1\r\n${}\r\n{echo}\r\n", echo.len()),
        |echo| format!("%1\r\n+{echo}\r\n+{echo}\r\n"),
        |echo| format!(":{echo}\r\n"),
        |echo| format!("${echo}\r\n"),
        |echo| format!("{echo}\r\n"),
        |echo| format!("=9\r\ntxt:{echo}"),
    ];
    for (at, form) in forms.into_iter().enumerate() {
        for polite in [true, false] {
            let place = format!("echo {at}, {}", if polite { "after" } else { "from" });
            let asked = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&asked);
            let heard = Arc::new(Mutex::new(Vec::new()));
            let hears = Arc::clone(&heard);
            let server = ScriptedServer::start(move |_, args| {
                counted.fetch_add(1, Ordering::SeqCst);
                // The identifiers of locks, which only a server hears.
                let texts = args.iter().filter_map(|arg| std::str::from_utf8(arg).ok());
                let ids = texts.filter_map(|text| text.parse::<LockId>().ok());
                hears.lock().unwrap().extend(ids.map(|id| id.as_str().to_owned()));
                let handshake = [&b"HELLO"[..], b"AUTH", b"CLIENT", b"SELECT", b"PING"];
                let told = handshake.iter().any(|name| args[0].eq_ignore_ascii_case(name));
                if polite && told {
                    return Scripted::answer(match &*args[0] {
                        b"HELLO" => "-ERR unknown command 'HELLO'\r\n",
                        _ => "+OK\r\n",
                    });
                }
                let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
                Scripted::answer(form(&words.join(" ")))
            })
            .await;
            let url = format!("redis://{USER}:{PASSWORD_ENCODED}@{}/1", server.addr());
            let cache = CacheClient::builder()
                .url(url)
                .deadline(Duration::from_millis(20))
                .build()
                .unwrap();
            let few = async {
                let token: LockId = TOKEN.parse().unwrap();
                said.note(&place, cache.set_value(KEY, VALUE, None).await);
                said.note(&place, cache.get_value(KEY).await);
                said.note(&place, cache.set_hash(KEY, FIELD, VALUE).await);
                said.note(&place, cache.push_to_list(KEY, VALUE, Direction::Left).await);
                said.note(&place, cache.get_hash_all(KEY).await);
                said.note(&place, cache.get_dict::<Strict>(KEY).await);
                said.note(&place, cache.release_lock(KEY, &token).await);
                said.note(&place, cache.acquire_lock(KEY, quick_lock()).await);
                said.note(&place, cache.lock(KEY).try_acquire().await);
                said.note(&place, cache.semaphore(KEY, 2).try_acquire().await);
                let group = || cache.transaction().set_value(KEY, VALUE, None).get_value(KEY);
                match group().run().await {
                    Ok(replies) => replies.into_iter().for_each(|reply| said.note(&place, reply)),
                    Err(error) => said.error(&place, &error),
                }
                said.debug(&place, &cache);
            };
            few.await;
            assert!(asked.load(Ordering::SeqCst) > 0, "{place}: nothing was asked");
            said.tokens.append(&mut heard.lock().unwrap());
        }
    }
}

/// An injected session whose errors are as talkative as can be.
async fn talkative_session(said: &mut Said) {
    let cache = CacheClient::new(|| async {
        Err::<redis::aio::MultiplexedConnection, _>(redis1::RedisError::from((
            redis::ErrorKind::Client,
            "canary",
            format!("{PASSWORD} {VALUE}"),
        )))
    });
    said.refused("session", cache.session().await);
    every_method(said, "session", &cache).await;
}

/// Whatever public type can be made of secrets.
async fn public_types(said: &mut Said) {
    let place = "type";
    let key = Key::new(KEY).unwrap();
    let bytes = || bytes::Bytes::from_static(VALUE.as_bytes());
    let id = || bytes::Bytes::from_static(TOKEN.as_bytes());
    let expiry = Expiry::new(Duration::from_secs(1)).unwrap();
    let ops = vec![
        Op::Get { key: key.clone() },
        Op::GetMany { keys: vec![key.clone(), Key::new(BARE_KEY).unwrap()] },
        Op::Set { key: key.clone(), value: bytes(), expiry: None, only_if: None },
        Op::HashSet { key: key.clone(), field: bytes(), value: bytes() },
        Op::HashGet { key: key.clone(), field: bytes() },
        Op::HashDelete { key: key.clone(), field: bytes() },
        Op::ListPush { key: key.clone(), value: bytes(), side: Direction::Left },
        Op::ListRemove { key: key.clone(), value: bytes() },
        Op::Acquire { key: key.clone(), id: id(), expiry },
        Op::Release { key: key.clone(), id: id() },
        Op::Lock { key: key.clone(), id: id(), expiry, mode: LockMode::Shared { most: 2 } },
        Op::Lock {
            key: key.clone(),
            id: id(),
            expiry,
            mode: LockMode::Exclusive { label: Some(bytes()), fair: true, waits: Some(expiry) },
        },
        Op::Extend { key: key.clone(), id: id(), expiry, shared: false },
        Op::Unlock { key: key.clone(), id: id(), shared: true },
        Op::FencedSet { key: key.clone(), value: bytes(), expiry: None, token: 7 },
        Op::Scan { cursor: 0, prefix: bytes(), count: 1 },
    ];
    for op in &ops {
        if let Op::Lock { mode, .. } = op {
            said.debug(place, mode);
        }
    }
    said.debug(place, &ops);
    said.debug(place, &Batch::many("pipeline", ops).atomic());
    let replies = vec![
        Ok(Reply::Value(Some(bytes()))),
        Ok(Reply::Values(vec![Some(bytes())])),
        Ok(Reply::List(vec![bytes()])),
        Ok(Reply::Pairs(vec![(bytes(), bytes())])),
        Ok(Reply::Keys { cursor: 0, keys: vec![bytes()] }),
    ];
    said.debug(place, &Replies::many(replies.clone()));
    for reply in replies {
        said.refused(place, reply.unwrap().into_int());
    }
    said.debug(place, &key);
    said.text(place, key.to_string());
    let value: larder::json::Value = [VALUE].into_iter().collect();
    said.debug(place, &value);
    let memory = MemoryStore::new();
    let set = Op::Set { key: key.clone(), value: bytes(), expiry: None, only_if: None };
    memory.run(Batch::one("set", set)).await.unwrap();
    said.debug(place, &memory);
    let server = RedisServer::start().await;
    let driver = redis1::Client::open(format!("redis://{}", server.addr())).unwrap();
    said.debug(
        place,
        &RedisStore::over(move || {
            let driver = driver.clone();
            async move { driver.get_multiplexed_async_connection().await }
        }),
    );
    let cache = CacheClient::connect(server.url()).await.unwrap();
    said.debug(place, &cache.session().await.unwrap());
    said.debug(place, &cache.namespace::<str, String>("user"));
    said.refused(place, cache.namespace::<str, String>("canary\n:").build());
    said.refused(place, cache.set_value("", VALUE, None).await);
    said.refused(place, cache.set_value(KEY, VALUE, Duration::ZERO).await);
    said.refused(place, larder::cache().set_value(KEY, VALUE, None).await);
    said.debug(place, &larder::cache());
    let error = Error::new(ErrorKind::Server, "it failed").with_op("set").with_key(&key);
    said.error(place, &error);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_said_contains_a_secret() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    log::set_boxed_logger(Box::new(log.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let metrics = DebuggingRecorder::new();
    let snapshotter = metrics.snapshotter();
    metrics.install().unwrap();

    // A panic's message is an output as well. Those of the driver are expected: a build with overflow
    // checks trips over a MULTI that the server refuses (redis 1.8.1, `send_result`).
    let panics = Log::default();
    let (caught, usual) = (panics.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if place.contains("multiplexed_connection.rs") {
            let _ = writeln!(caught.clone(), "{panic}");
        } else {
            usual(panic);
        }
    }));

    let mut said = Said::default();
    config_errors(&mut said);
    wrong_credentials(&mut said).await;
    forbidden(&mut said).await;
    refusals(&mut said).await;
    no_answer(&mut said).await;
    echoes(&mut said).await;
    talkative_session(&mut said).await;
    public_types(&mut said).await;

    for (name, _, _, _) in snapshotter.snapshot().into_vec() {
        said.debug("metric", &name);
    }
    let lines = log.lines();
    let ours = lines.iter().filter(|line| line.contains("larder")).count();
    lines.iter().for_each(|line| said.text("log", line.as_str()));
    panics.lines().into_iter().for_each(|line| said.text("panic", line));

    // The search finds what it looks for, and there was something to search.
    let mut control = Said::default();
    control.text("control", format!("a {VALUE}"));
    control.debug("control", &VALUE.as_bytes());
    control.text("control", TOKEN.to_uppercase());
    assert_eq!(control.leaks().len(), 4, "the byte list is printed twice");
    assert!(ours > 1000, "{ours} lines of larder in the log");
    for kind in [
        ErrorKind::InvalidInput,
        ErrorKind::Config,
        ErrorKind::Unsupported,
        ErrorKind::NotInitialized,
        ErrorKind::Closed,
        ErrorKind::Auth,
        ErrorKind::Permission,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::WrongType,
        ErrorKind::OutOfRange,
        ErrorKind::OutOfMemory,
        ErrorKind::Server,
        ErrorKind::Aborted,
        ErrorKind::Encode,
        ErrorKind::Decode,
        ErrorKind::Protocol,
        ErrorKind::LockTimeout,
        ErrorKind::LockLost,
    ] {
        assert!(said.kinds.contains(&kind), "no path led to {kind:?}");
    }
    let leaks = said.leaks();
    println!(
        "canary: {} outputs scanned ({} errors of {} kinds, {} log lines), {} canaries found",
        said.outputs.len(),
        said.errors,
        said.kinds.len(),
        lines.len(),
        leaks.len(),
    );
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

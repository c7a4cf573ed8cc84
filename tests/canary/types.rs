//! Whatever public type can be made of secrets.

use std::time::Duration;

use larder::op::{Batch, LockMode, Op, Replies, Reply};
use larder::store::{MemoryStore, RedisStore, Store};
use larder::testing::RedisServer;
use larder::{CacheClient, Direction, Error, ErrorKind, Expiry, Key, redis1};

use crate::said::Said;
use crate::{BARE_KEY, KEY, TOKEN, VALUE};

/// Whatever public type can be made of secrets.
pub(crate) async fn public_types(said: &mut Said) {
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

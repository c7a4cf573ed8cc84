//! Every method of a client, with canaries everywhere.

use std::time::Duration;

use futures_util::StreamExt;
use larder::{CacheClient, Direction, Key, LockId, LockOptions, Presence};
use serde::{Deserialize, Serialize};

use crate::said::Said;
use crate::{BARE_KEY, FIELD, KEY, TOKEN, VALUE};

/// Values whose decoding fails with texts that serde makes of the data.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Strict {
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

pub(crate) fn quick_lock() -> LockOptions {
    LockOptions {
        timeout: Duration::from_millis(1),
        retry_interval: Duration::from_millis(1),
        ..Default::default()
    }
}

/// Every method once, with canaries everywhere; most of it fails, and all that fails is noted.
pub(crate) async fn every_method(said: &mut Said, place: &str, cache: &CacheClient) {
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
pub(crate) async fn decode_errors(said: &mut Said, place: &str, cache: &CacheClient) {
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

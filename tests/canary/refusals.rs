//! What is refused: settings, credentials, users, commands.

use std::time::Duration;

use larder::testing::RedisServer;
use larder::{CacheClient, CacheConfig, Direction, LockId, redis1};

use crate::methods::{decode_errors, every_method};
use crate::said::Said;
use crate::{BARE_KEY, KEY, PASSWORD, PASSWORD_ENCODED, TOKEN, USER, VALUE};

pub(crate) fn config_errors(said: &mut Said) {
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

pub(crate) async fn wrong_credentials(said: &mut Said) {
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
pub(crate) async fn forbidden(said: &mut Said) {
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
pub(crate) async fn of_servers(said: &mut Said) {
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

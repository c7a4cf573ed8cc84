//! Servers and sessions that fail, are silent or repeat whatever they are told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::testing::{RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, Direction, LockId, redis1};

use crate::methods::{Strict, every_method, quick_lock};
use crate::said::Said;
use crate::{FIELD, KEY, PASSWORD, PASSWORD_ENCODED, TOKEN, USER, VALUE};

/// Servers that are not there, are silent, or go away.
pub(crate) async fn no_answer(said: &mut Said) {
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
pub(crate) async fn echoes(said: &mut Said) {
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
pub(crate) async fn talkative_session(said: &mut Said) {
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

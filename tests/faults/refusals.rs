//! P4, the refusals: class and outcome of everything that a server says no with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use larder::testing::{RedisServerBuilder, Scripted, ScriptedServer};
use larder::{CacheClient, Direction, Error, ErrorKind, Outcome};

use crate::bad_servers::handshake;
use crate::common::ends;
use crate::{Place, alone, durable, until};

async fn push(cache: &CacheClient, key: &str) -> larder::Result<u64> {
    cache.push_to_list(key, "canary-value", Direction::Right).await
}

#[track_caller]
fn is(error: &Error, kind: ErrorKind, outcome: Outcome, code: Option<&str>) {
    println!("P4: {:<10} {kind:?}, {outcome:?}", code.unwrap_or("-"));
    assert_eq!((error.kind(), error.outcome(), error.code()), (kind, outcome, code), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

/// How many elements are loaded when the server is started again, and for how many microseconds it sleeps after each, which are
/// some hundred and fifty in truth: about two seconds in all. Clients are answered after every 1,024 of them.
const LOADED: u32 = 15_000;
const EACH_LOADED: &str = "100";

fn slowly_loaded(server: RedisServerBuilder) -> RedisServerBuilder {
    durable(server).arg("--key-load-delay").arg(EACH_LOADED)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_s_refusals_are_rejected_and_nothing_is_applied() {
    let _turn = alone().await;
    refusals_are_rejected(Place::one(slowly_loaded).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_nodes_of_a_cluster_are_rejected_and_nothing_is_applied() {
    let _turn = alone().await;
    refusals_are_rejected(Place::primaries(slowly_loaded).await).await;
}

async fn refusals_are_rejected(mut place: Place) {
    let cache = place.client().await;
    let rejected = Outcome::Rejected;
    // All keys are of this server.
    let at = place.at("{a}list");
    let server = &place.nodes()[at];

    server.command(&["SET", "{a}text", "1"]).await;
    let error = push(&cache, "{a}text").await.unwrap_err();
    is(&error, ErrorKind::WrongType, rejected, Some("WRONGTYPE"));

    for node in place.nodes() {
        let user = ["reader", "on", ">canary-pw", "~*", "+@read", "+ping", "+cluster"];
        node.command(&[&["ACL", "SETUSER"][..], &user].concat()).await;
    }
    let url = place.url().replacen("://", "://reader:canary-pw@", 1);
    let reader = CacheClient::connect(url).await.unwrap();
    let error = push(&reader, "{a}list").await.unwrap_err();
    is(&error, ErrorKind::Permission, rejected, Some("NOPERM"));

    let many = (0..LOADED).fold(cache.pipeline(), |all, number| {
        all.push_to_list("{a}loaded", number, Direction::Right)
    });
    many.run().await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let large = vec![b'x'; 100_000];
    let full = loop {
        // Ends: each success takes a tenth of the limit.
        let more = cache.push_to_list("{a}ballast", large.clone(), Direction::Right).await;
        if let Err(error) = more {
            break error;
        }
    };
    is(&full, ErrorKind::OutOfMemory, rejected, Some("OOM"));
    let error = push(&cache, "{a}list").await.unwrap_err();
    is(&error, ErrorKind::OutOfMemory, rejected, Some("OOM"));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;

    if !place.is_cluster() {
        // A primary that does not exist makes it a replica that refuses writes. A node of a cluster sends on instead.
        server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        let error = push(&cache, "{a}list").await.unwrap_err();
        is(&error, ErrorKind::ReadOnly, rejected, Some("READONLY"));
        server.command(&["REPLICAOF", "NO", "ONE"]).await;
    }

    // The second call of a budget of one is refused here.
    let narrow = CacheClient::builder().url(place.url()).max_in_flight(1).connect().await.unwrap();
    server.pause().await;
    let (_, error) = tokio::join!(push(&narrow, "{a}slow"), push(&narrow, "{a}list"));
    server.resume().await;
    is(&error.unwrap_err(), ErrorKind::Overloaded, Outcome::NotSent, None);

    // It loads when it is started again. A node of a cluster refuses before it looks whether it does, and goes on to for two
    // seconds: it waits whether another one has its slots.
    let quick = CacheClient::builder().url(place.url()).deadline(Duration::from_millis(250));
    // Each push asks the server: no breaker answers for it.
    let quick = quick.breaker(false).connect().await.unwrap();
    let code = if place.is_cluster() { "CLUSTERDOWN" } else { "LOADING" };
    let refused = ends(code, async {
        loop {
            // Other errors say that it is not there yet, or does not answer.
            let error = push(&quick, "{a}list").await.expect_err("it refuses");
            if error.code() == Some(code) {
                is(&error, ErrorKind::Unavailable, rejected, Some(code));
                break;
            }
        }
    });
    tokio::join!(place.restart(at), refused);
    place.serves(at).await;

    let server = &place.nodes()[at];
    assert_eq!(server.command(&["LLEN", "{a}loaded"]).await.int(), Some(LOADED.into()));
    assert_eq!(
        server.command(&["EXISTS", "{a}list"]).await.int(),
        Some(0),
        "a refusal was applied"
    );
    until("it is back", async || push(&cache, "{a}list").await.is_ok()).await;

    cache.close().await;
    let error = push(&cache, "{a}list").await.unwrap_err();
    is(&error, ErrorKind::Closed, Outcome::NotSent, None);
    assert_eq!(server.command(&["LLEN", "{a}list"]).await.int(), Some(1));
}

/// A server that refuses pushes with a code, and counts them; by its own word it may be the only node of a cluster.
async fn refuses(code: &'static str, pushes: &Arc<AtomicU64>) -> ScriptedServer {
    let counted = Arc::clone(pushes);
    let port = Arc::new(OnceLock::new());
    let known = Arc::clone(&port);
    let server = ScriptedServer::start(move |_, args| match &*args[0] {
        b"RPUSH" => {
            counted.fetch_add(1, Ordering::SeqCst);
            Scripted::answer(format!("-{code} canary-text of the server\r\n"))
        }
        b"CLUSTER" => {
            let port: u16 = *known.get().unwrap();
            let node = format!("*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n");
            Scripted::answer(format!("*1\r\n*3\r\n:0\r\n:16383\r\n{node}"))
        }
        _ => handshake(args),
    })
    .await;
    port.set(server.addr().port()).unwrap();
    server
}

#[tokio::test]
async fn every_refusal_has_its_class_and_a_push_is_sent_once() {
    use ErrorKind::{Aborted, OutOfMemory, Permission, ReadOnly, Server, Unavailable};
    for (code, kind) in [
        ("LOADING", Unavailable),
        ("BUSY", Unavailable),
        ("MASTERDOWN", Unavailable),
        ("TRYAGAIN", Unavailable),
        ("NOREPLICAS", Unavailable),
        ("CLUSTERDOWN", Unavailable),
        ("MISCONF", Server),
        ("EXECABORT", Aborted),
        ("OOM", OutOfMemory),
        ("READONLY", ReadOnly),
        ("NOPERM", Permission),
    ] {
        for scheme in ["redis", "redis+cluster"] {
            let pushes = Arc::new(AtomicU64::new(0));
            let server = refuses(code, &pushes).await;
            let cache = CacheClient::builder()
                .url(format!("{scheme}://{}", server.addr()))
                .deadline(Duration::from_millis(200))
                .connect()
                .await
                .unwrap();
            let error = push(&cache, "list").await.unwrap_err();
            is(&error, kind, Outcome::Rejected, Some(code));
            // Of a cluster these pass, or another node is asked: what was refused is sent again, whatever it is.
            let passes = ["LOADING", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "READONLY"];
            let again = scheme == "redis+cluster" && passes.contains(&code);
            let sent = pushes.load(Ordering::SeqCst);
            assert!(
                sent == 1 || again && sent > 1,
                "{scheme} {code}: a push was sent {sent} times"
            );
        }
    }
}

#[tokio::test]
async fn what_passes_is_asked_again_if_that_is_safe() {
    let gets = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&gets);
    let server = ScriptedServer::start(move |_, args| match &*args[0] {
        b"GET" if counted.fetch_add(1, Ordering::SeqCst) < 3 => {
            Scripted::answer("-LOADING Redis is loading the dataset in memory\r\n")
        }
        b"GET" => Scripted::answer("$5\r\nvalue\r\n"),
        _ => handshake(args),
    })
    .await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    assert_eq!(cache.get_value("key").await.unwrap().as_deref(), Some("value"));
    assert_eq!(gets.load(Ordering::SeqCst), 4);
}

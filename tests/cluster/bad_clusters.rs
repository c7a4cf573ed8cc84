//! Clusters that answer what they should not: rows 26 and 27 of the bad inputs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::testing::{RedisCluster, RedisServer, Scripted, ScriptedServer};
use larder::{CacheClient, ErrorKind, Outcome};

use super::Lateness;

const DEADLINE: Duration = Duration::from_millis(400);

/// What a node says to the commands of a handshake.
fn handshake(args: &[Bytes]) -> Scripted {
    match &*args[0] {
        b"HELLO" => Scripted::answer(
            "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n",
        ),
        b"PING" => Scripted::answer("+PONG\r\n"),
        _ => Scripted::answer("+OK\r\n"),
    }
}

/// A range of slots as CLUSTER SLOTS has it, at a host.
fn range(from: u16, to: u16, host: &str, port: u16) -> String {
    let host = if host == "null" {
        "$-1\r\n".to_owned()
    } else {
        format!("${}\r\n{host}\r\n", host.len())
    };
    format!("*3\r\n:{from}\r\n:{to}\r\n*3\r\n{host}:{port}\r\n$2\r\nid\r\n")
}

fn ranges(all: &[String]) -> String {
    format!("*{}\r\n{}", all.len(), all.concat())
}

fn client(server: &ScriptedServer) -> CacheClient {
    patient(server, DEADLINE)
}

fn patient(server: &ScriptedServer, deadline: Duration) -> CacheClient {
    let url = format!("redis+cluster://{}", server.addr());
    CacheClient::builder().url(url).deadline(deadline).build().unwrap()
}

/// A node that has all slots, by its own word, and answers other commands as the test says.
async fn node(
    answer: impl Fn(&[Bytes], u16) -> Scripted + Send + Sync + 'static,
) -> ScriptedServer {
    let port = Arc::new(OnceLock::new());
    let known = Arc::clone(&port);
    let server = ScriptedServer::start(move |_, args| {
        let port = *known.get().unwrap();
        match (&*args[0], args.get(1).map(|arg| &**arg)) {
            (b"CLUSTER", Some(b"SLOTS")) => {
                Scripted::answer(ranges(&[range(0, 16_383, "null", port)]))
            }
            (b"CLUSTER", Some(b"NODES")) => {
                let text =
                    format!("id 127.0.0.1:{port}@1 myself,master - 0 0 1 connected 0-16383\n");
                Scripted::answer(format!("${}\r\n{text}\r\n", text.len()))
            }
            _ => answer(args, port),
        }
    })
    .await;
    port.set(server.addr().port()).unwrap();
    server
}

fn incr(cache: &CacheClient) -> impl Future<Output = larder::Result<i64>> + '_ {
    cache.incr_by("n", 1)
}

#[tokio::test]
async fn a_redirection_to_nowhere_is_an_error_and_not_followed() {
    let slot = RedisCluster::slot("n");
    let cases = [
        "-MOVED 99999 127.0.0.1:1\r\n".to_owned(),
        format!("-MOVED {slot} :0\r\n"),
        format!("-MOVED {slot} 127.0.0.1:99999\r\n"),
        format!("-MOVED {} 127.0.0.1:1\r\n", slot + 1),
        "-MOVED\r\n".to_owned(),
        format!("-ASK {slot} \r\n"),
    ];
    for line in cases {
        let answer = line.clone();
        let server = node(move |args, _| match &*args[0] {
            b"INCRBY" => Scripted::answer(answer.clone()),
            _ => handshake(args),
        })
        .await;
        let error = incr(&client(&server)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::Protocol, Outcome::Rejected),
            "{line}"
        );
    }
}

#[tokio::test]
async fn nobody_is_told_who_we_are_but_the_nodes_that_the_cluster_names() {
    let evil = ScriptedServer::start(|_, args| handshake(args)).await;
    let (slot, port) = (RedisCluster::slot("n"), evil.addr().port());
    for code in ["MOVED", "ASK"] {
        let server = node(move |args, _| match &*args[0] {
            b"INCRBY" => Scripted::answer(format!("-{code} {slot} 127.0.0.1:{port}\r\n")),
            _ => handshake(args),
        })
        .await;
        let error = incr(&client(&server)).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::Rejected));
        assert_eq!(error.code(), Some(code), "{error}");
    }
    println!("row 26: connections to a host that is no node: {}", evil.accepts());
    assert_eq!(evil.accepts(), 0);
}

#[tokio::test]
async fn nodes_that_send_on_to_each_other_are_asked_a_few_times_and_no_more() {
    let slot = RedisCluster::slot("n");
    let sent = Arc::new(AtomicU64::new(0));
    let ports: Arc<[OnceLock<u16>; 2]> = Arc::default();
    let mut servers = Vec::new();
    for at in 0..2 {
        let (sent, known) = (Arc::clone(&sent), Arc::clone(&ports));
        let server = ScriptedServer::start(move |_, args| {
            let port = |at: usize| *known[at].get().unwrap();
            match &*args[0] {
                b"CLUSTER" => Scripted::answer(ranges(&[
                    range(0, 9_999, "127.0.0.1", port(0)),
                    range(10_000, 16_383, "", port(1)),
                ])),
                b"INCRBY" => {
                    sent.fetch_add(1, Ordering::SeqCst);
                    Scripted::answer(format!("-MOVED {slot} 127.0.0.1:{}\r\n", port(1 - at)))
                }
                _ => handshake(args),
            }
        })
        .await;
        ports[at].set(server.addr().port()).unwrap();
        servers.push(server);
    }
    // Short of time, and with more than enough: then it is the number that ends it.
    for deadline in [DEADLINE, Duration::from_secs(10)] {
        let (started, machine) = (Instant::now(), Lateness::watch());
        let error = incr(&patient(&servers[0], deadline)).await.unwrap_err();
        let took = started.elapsed();
        let hops = sent.swap(0, Ordering::SeqCst);
        println!(
            "row 26: a circle of two nodes: {hops} sends, then an error after {took:?} of {deadline:?}",
        );
        assert_eq!(
            (error.kind(), error.outcome(), error.code()),
            (ErrorKind::Unavailable, Outcome::Rejected, Some("MOVED")),
            "{error}"
        );
        let machine = machine.most().await;
        assert!(took < deadline + Duration::from_millis(50) + machine, "{took:?}");
        if deadline == DEADLINE {
            // More than the two without a pause.
            assert!((4..17).contains(&hops), "{hops}");
        } else {
            assert_eq!(hops, 17);
            assert!(error.to_string().contains("sent the call on 16 times"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_node_that_is_named_and_dead_is_an_error_within_the_deadline() {
    let slot = RedisCluster::slot("n");
    let port = Arc::new(OnceLock::new());
    let known = Arc::clone(&port);
    let seed = ScriptedServer::start(move |_, args| match (&*args[0], args.get(1)) {
        (b"CLUSTER", Some(what)) if &**what == b"NODES" => {
            let text = "id 127.0.0.1:1@2 master - 0 0 1 connected\n";
            Scripted::answer(format!("${}\r\n{text}\r\n", text.len()))
        }
        (b"CLUSTER", _) => Scripted::answer(ranges(&[range(0, 16_383, "", *known.get().unwrap())])),
        (b"INCRBY", _) => Scripted::answer(format!("-ASK {slot} 127.0.0.1:1\r\n")),
        _ => handshake(args),
    })
    .await;
    port.set(seed.addr().port()).unwrap();
    let (started, machine) = (Instant::now(), Lateness::watch());
    let error = incr(&client(&seed)).await.unwrap_err();
    let took = started.elapsed();
    assert!(took < DEADLINE + Duration::from_millis(50) + machine.most().await, "{took:?}");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error}");
    assert_ne!(error.outcome(), Outcome::Unknown, "a refused command was not applied");
}

#[tokio::test]
async fn what_is_refused_for_a_moment_is_sent_again_whatever_it_is() {
    for line in [
        "-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
        "-CLUSTERDOWN The cluster is down\r\n",
        "-MASTERDOWN Link with MASTER is down\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
    ] {
        let turn = AtomicU64::new(0);
        let server = node(move |args, _| match &*args[0] {
            b"INCRBY" if turn.fetch_add(1, Ordering::SeqCst) < 2 => Scripted::answer(line),
            b"INCRBY" => Scripted::answer(":1\r\n"),
            _ => handshake(args),
        })
        .await;
        assert_eq!(incr(&client(&server)).await.unwrap(), 1, "{line}");

        // For good: an error that says that nothing was applied, before the deadline says less.
        let server = node(move |args, _| match &*args[0] {
            b"INCRBY" => Scripted::answer(line),
            _ => handshake(args),
        })
        .await;
        let (started, machine) = (Instant::now(), Lateness::watch());
        let error = incr(&client(&server)).await.unwrap_err();
        let took = started.elapsed();
        assert_eq!(error.outcome(), Outcome::Rejected, "{line}: {error}");
        assert_eq!(error.code(), line[1..].split(' ').next(), "{error}");
        assert!(took < DEADLINE + Duration::from_millis(50) + machine.most().await, "{took:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_topology_is_an_error_that_says_so() {
    let many: Vec<String> = (0..5_000)
        .map(|slot| range(slot, slot, &format!("10.0.{}.{}", slot / 250, slot % 250), 1))
        .collect();
    let cases = [
        ("empty", "*0\r\n".to_owned(), ErrorKind::Unavailable),
        (
            "overlapping",
            ranges(&[range(0, 100, "a", 1), range(100, 200, "b", 1)]),
            ErrorKind::Protocol,
        ),
        ("backwards", ranges(&[range(100, 0, "a", 1)]), ErrorKind::Protocol),
        ("port 0", ranges(&[range(0, 100, "a", 0)]), ErrorKind::Protocol),
        ("no address", ranges(&[range(0, 100, "?", 1)]), ErrorKind::Protocol),
        ("5,000 nodes", ranges(&many), ErrorKind::Protocol),
        ("more ranges than slots", ranges(&vec![range(0, 0, "", 1); 16_385]), ErrorKind::Protocol),
        ("text", "+OK\r\n".to_owned(), ErrorKind::Protocol),
        (
            "no cluster",
            "-ERR This instance has cluster support disabled\r\n".to_owned(),
            ErrorKind::Config,
        ),
        ("forbidden", "-NOPERM this user has no permissions\r\n".to_owned(), ErrorKind::Permission),
    ];
    for (name, answer, kind) in cases {
        let answer = Bytes::from(answer);
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"CLUSTER" => Scripted::answer(answer.clone()),
            _ => handshake(args),
        })
        .await;
        let url = format!("redis+cluster://{}", server.addr());
        let deadline = Duration::from_secs(5);
        let settings = CacheClient::builder().url(url).deadline(deadline);
        // A megabyte is read slowly without optimisation.
        let cache = settings.connect_timeout(deadline).build().unwrap();
        let error = if kind == ErrorKind::Unavailable {
            incr(&client(&server)).await.unwrap_err()
        } else {
            incr(&cache).await.unwrap_err()
        };
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotSent), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_slot_that_nobody_serves_is_an_error_and_the_others_work() {
    let port = Arc::new(OnceLock::new());
    let known = Arc::clone(&port);
    let (hole, other) = (RedisCluster::slot("n"), RedisCluster::slot("other"));
    let server = ScriptedServer::start(move |_, args| match &*args[0] {
        b"CLUSTER" => {
            let port = *known.get().unwrap();
            Scripted::answer(ranges(&[
                range(0, hole - 1, "", port),
                range(hole + 1, 16_383, "null", port),
            ]))
        }
        b"GET" => Scripted::answer("$5\r\nvalue\r\n"),
        _ => handshake(args),
    })
    .await;
    port.set(server.addr().port()).unwrap();
    assert_ne!(hole, other);
    let cache = client(&server);
    assert_eq!(cache.get_value("other").await.unwrap().as_deref(), Some("value"));
    let error = incr(&cache).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotSent));
    assert!(error.to_string().contains(&format!("slot {hole}")), "{error}");
}

#[tokio::test]
async fn a_server_that_is_no_cluster_says_which_url_it_wants() {
    let server = RedisServer::start().await;
    let error =
        CacheClient::connect(format!("redis+cluster://{}", server.addr())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("redis://"), "{error}");
}

#[tokio::test]
async fn a_cluster_of_one_node_is_one() {
    let server = RedisServer::builder().cluster().start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    cache.set_value("k", "v", None).await.unwrap();
    assert_eq!(cache.get_value("k").await.unwrap().as_deref(), Some("v"));
}

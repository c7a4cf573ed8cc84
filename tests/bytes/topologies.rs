//! Row 27 of the bad inputs: clusters of a million nodes.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::testing::{RedisCluster, Scripted, ScriptedServer};
use larder::{CacheClient, Error, ErrorKind, Outcome};

use crate::common::full;
use crate::{alone, begin, peak};

const MIB: usize = 1 << 20;

fn nodes() -> usize {
    if full() { 1_000_000 } else { 100_000 }
}

/// What an answer takes for each of its bytes, at most: the bytes themselves, once on their way and once parsed, and the
/// driver's values. `docs/security.md` has what a list of numbers takes.
const EACH_BYTE: usize = 16;

/// Longer than a million nodes take without optimisation.
const DEADLINE: Duration = Duration::from_secs(120);

fn handshake(args: &[Bytes]) -> Scripted {
    match &*args[0] {
        b"HELLO" => Scripted::answer("%1\r\n$5\r\nproto\r\n:3\r\n"),
        b"INCRBY" => Scripted::answer(":1\r\n"),
        _ => Scripted::answer("+OK\r\n"),
    }
}

fn node(host: &str, port: u16) -> String {
    format!("*3\r\n${}\r\n{host}\r\n:{port}\r\n$2\r\nid\r\n", host.len())
}

/// The number of an address that no other number has.
fn host(number: usize) -> String {
    format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)
}

/// What a call comes to where CLUSTER SLOTS and CLUSTER NODES are answered so, and calls as they say; with what the whole
/// took at most, beside the answer itself.
async fn call(
    slots: impl Fn(u16) -> String,
    nodes: String,
    counter: &'static str,
) -> (Result<i64, Error>, usize, usize, Duration) {
    let answers: Arc<OnceLock<(Bytes, Bytes)>> = Arc::default();
    let known = Arc::clone(&answers);
    let server = ScriptedServer::start(move |_, args| {
        let (slots, nodes) = known.get().unwrap();
        match (&*args[0], args.get(1).map(|arg| &**arg)) {
            (b"CLUSTER", Some(b"SLOTS")) => Scripted::answer(slots.clone()),
            (b"CLUSTER", _) => Scripted::answer(nodes.clone()),
            (b"INCRBY", _) => Scripted::answer(counter),
            _ => handshake(args),
        }
    })
    .await;
    let slots = Bytes::from(slots(server.addr().port()));
    let received = slots.len() + nodes.len();
    answers.set((slots, Bytes::from(nodes))).unwrap();
    let url = format!("redis+cluster://{}", server.addr());
    let settings = CacheClient::builder().url(url).deadline(DEADLINE).connect_timeout(DEADLINE);
    let cache = settings.ping_timeout(DEADLINE).build().unwrap();
    let before = begin();
    let started = Instant::now();
    let result = cache.incr_by("n", 1).await;
    (result, received, peak() - before, started.elapsed())
}

#[tokio::test]
async fn a_cluster_of_a_million_nodes_is_an_error_and_costs_what_its_answer_does() {
    let _turn = alone().await;
    let count = nodes();
    let myself = |port: u16| format!("*3\r\n:0\r\n:16383\r\n{}", node("127.0.0.1", port));
    // As many ranges, of a node each.
    let ranges = |_: u16| {
        let each = (0..count)
            .map(|at| format!("*3\r\n:{0}\r\n:{0}\r\n{1}", at % 16_384, node(&host(at), 1)));
        format!("*{count}\r\n{}", each.collect::<String>())
    };
    // One range, with as many replicas.
    let replicas = |port: u16, different: usize| {
        let each: String = (0..count).map(|at| node(&host(at % different), 1)).collect();
        format!("*1\r\n*{}\r\n{}{each}", count + 3, &myself(port)[4..])
    };
    // As many members, to whom a call is sent on that is not among them.
    let members: String = (0..count)
        .map(|at| format!("{at:040} {}:1@2 master - 0 0 1 connected\n", host(at)))
        .collect();
    let members = format!("${}\r\n{members}\r\n", members.len());
    let slot = RedisCluster::slot("n");
    let moved: &'static str = format!("-MOVED {slot} 127.0.0.1:1\r\n").leak();

    let none = || "$0\r\n\r\n".to_owned();
    let whole = |port: u16| format!("*1\r\n{}", myself(port));
    let tried = [
        ("ranges", call(ranges, none(), ":1\r\n").await, false),
        ("replicas", call(|port| replicas(port, count), none(), ":1\r\n").await, false),
        ("the same replicas", call(|port| replicas(port, 999), none(), ":1\r\n").await, true),
        ("members", call(whole, members, moved).await, false),
    ];
    for (what, (result, received, cost, took), is_good) in tried {
        println!(
            "row 27: {count} {what}: {received} bytes cost {cost}, {:.1} for each, {took:.1?}",
            cost as f64 / received as f64
        );
        match result {
            Ok(number) => assert!(is_good && number == 1, "{what}"),
            Err(error) => {
                assert!(!is_good, "{what}: {error}");
                assert_eq!(error.kind(), ErrorKind::Protocol, "{what}: {error}");
                assert_ne!(error.outcome(), Outcome::Unknown, "{what}: {error}");
            }
        }
        assert!(cost <= EACH_BYTE * received + MIB, "{what}: {cost}");
        assert!(took < DEADLINE, "{what}: {took:?}");
    }
}

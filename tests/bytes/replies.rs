//! What the driver's parser makes of bytes that no server should send, and what that costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisServer, Scripted, ScriptedServer, readers};
use larder::{CacheClient, ErrorKind, Outcome};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::until;
use crate::{alone, begin, peak};

const MIB: usize = 1 << 20;

/// Lengths that are announced, and whether the driver takes them for nothing (`$-1`), which no server sends.
pub(crate) const ANNOUNCED: [(&str, bool); 14] = [
    ("*2147483647\r\n", false),
    ("*4294967295\r\n", false),
    ("*9223372036854775807\r\n", false),
    ("%1000000000\r\n", false),
    ("%9223372036854775807\r\n", false),
    ("|4611686018427387904\r\n", false),
    ("~2147483647\r\n", false),
    (">2147483647\r\n", false),
    ("$9223372036854775807\r\n", false),
    ("=-1\r\n", false),
    ("!-1\r\n", false),
    ("$+5\r\n", false),
    ("$-2\r\n", true),
    ("*-5\r\n", true),
];

fn handshake(args: &[bytes::Bytes]) -> Scripted {
    match &*args[0] {
        b"HELLO" => Scripted::answer("%1\r\n$5\r\nproto\r\n:3\r\n"),
        b"PING" => Scripted::answer("+PONG\r\n"),
        _ => Scripted::answer("+OK\r\n"),
    }
}

#[tokio::test]
async fn announced_lengths_cost_nothing_until_they_come() {
    let _turn = alone().await;
    let mut most = 0;
    for (header, is_nothing) in ANNOUNCED {
        let before = begin();
        let is_reply = readers::is_reply(header.as_bytes());
        let cost = peak() - before;
        most = most.max(cost);
        assert!(cost <= 4 * header.len() + MIB, "{header:?} cost {cost} bytes");
        assert_eq!(is_reply, is_nothing, "{header:?}");

        // Over a connection: the call ends, when the server goes or says nonsense, and the next one is served.
        let server = ScriptedServer::start(move |connection, args| match &*args[0] {
            b"GET" if connection == 1 => Scripted::answer(header),
            b"GET" => Scripted::answer("$4\r\ngood\r\n"),
            b"EXISTS" if connection == 1 => Scripted::Close,
            b"EXISTS" => Scripted::answer(":1\r\n"),
            _ => handshake(args),
        })
        .await;
        let client = CacheClient::builder().url(server.url()).connections(1);
        let cache = client.deadline(Duration::from_secs(5)).connect().await.unwrap();
        let started = Instant::now();
        let (got, exists) = tokio::join!(cache.get_value("k"), cache.key_exists("k"));
        // Asked again over the next connection, or an answer that fits no call.
        match got {
            Ok(got) => assert_eq!(got.as_deref(), (!is_nothing).then_some("good"), "{header:?}"),
            Err(error) => assert!(!error.is_timeout(), "{header:?}: {error}"),
        }
        assert!(exists.is_ok_and(|exists| exists) && started.elapsed() < Duration::from_secs(5));
        assert_eq!(cache.get_value("k").await.unwrap().as_deref(), Some("good"), "{header:?}");
    }
    println!("row 19: {} announced lengths, at most {most} bytes each", ANNOUNCED.len());
}

#[tokio::test]
async fn what_is_nested_is_bounded() {
    let _turn = alone().await;
    for word in [
        "*1\r\n",
        "*4096\r\n",
        "*2147483647\r\n",
        "|1\r\n",
        "%1\r\n",
        "~1\r\n",
        ">1\r\n",
        "|1\r\n+k\r\n+v\r\n",
    ] {
        let nested = word.repeat(1_000_000 / word.len());
        let before = begin();
        let is_reply = readers::is_reply(nested.as_bytes());
        let cost = peak() - before;
        println!("row 20: a megabyte of {word:?}: {} kB", cost / 1024);
        assert!(!is_reply, "{word:?}");
        assert!(cost <= 4 * nested.len() + MIB, "{word:?} cost {cost} bytes");
    }
}

/// What a document takes for each of its bytes, at the worst: the figures of `docs/security.md`.
#[tokio::test]
async fn what_was_received_costs_as_much_as_the_docs_say() {
    let _turn = alone().await;
    // Decoded: what is shortest as text and largest as a value.
    let shapes = [
        ("empty arrays", format!("[{}[]]", "[],".repeat(300_000))),
        ("zeros", format!("[{}0]", "0,".repeat(500_000))),
        ("empty objects", format!("[{}{{}}]", "{},".repeat(300_000))),
        ("short keys", {
            let keys: Vec<String> = (0..100_000).map(|number| format!("\"{number}\":0")).collect();
            format!("{{{}}}", keys.join(","))
        }),
    ];
    for (name, json) in shapes {
        let before = begin();
        let value = readers::json::<larder::json::Value>(json.as_bytes()).unwrap();
        let cost = peak() - before;
        let ratio = cost as f64 / json.len() as f64;
        println!("P29 a document of {name}: {} bytes cost {cost}, {ratio:.1} for each", json.len());
        assert!(ratio <= 60.0, "{name}: {ratio}");
        drop(value);
    }
}

#[tokio::test]
async fn a_document_beyond_the_limit_costs_nothing() {
    let _turn = alone().await;
    let json = format!("[{}0]", "[],".repeat((64 << 20) / 3));
    assert!(json.len() > 64 << 20);
    let before = begin();
    let error = readers::json::<larder::json::Value>(json.as_bytes()).unwrap_err();
    let cost = peak() - before;
    println!("row 18: a document of {} bytes is refused for {cost} bytes", json.len());
    assert!(error.is_decode() && error.to_string().contains("max_json_bytes"), "{error}");
    assert!(cost < 4096, "{cost}");
}

/// On a connection on which nothing is waited for. Beside a call in flight nobody could tell it from the answer.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_dropped() {
    for extra in
        ["+OK\r\n", "$3\r\nbad\r\n", "-ERR canary\r\n", ">0\r\n", ">2\r\n+other\r\n+thing\r\n"]
    {
        let server = ScriptedServer::start(move |_, args| match &*args[0] {
            b"EXISTS" => Scripted::answer(format!(":1\r\n{extra}")),
            b"GET" => Scripted::answer("$4\r\ngood\r\n"),
            _ => handshake(args),
        })
        .await;
        let cache =
            CacheClient::builder().url(server.url()).connections(1).connect().await.unwrap();
        for _ in 0..20 {
            assert!(cache.key_exists("k").await.unwrap());
            let got = cache.get_value("k").await.unwrap();
            assert_eq!(got.as_deref(), Some("good"), "{extra:?}");
        }
    }
}

/// On a connection that is asked whether its server is there, answers that are another's are noticed by what is no answer to
/// that, and nothing that came over it is relied on.
#[tokio::test]
async fn a_connection_whose_answers_are_others_is_left() {
    // Pings are answered so on the first connection that tells of changes, or on all where none does.
    for (tracked, wrong) in
        [(false, "+OK\r\n"), (true, "+OK\r\n"), (true, "_\r\n"), (true, ":1\r\n")]
    {
        let (told, pings) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (of, count) = (Arc::clone(&told), Arc::clone(&pings));
        let server = ScriptedServer::start(move |connection, args| match &*args[0] {
            b"CLIENT" if &*args[1] == b"TRACKING" => {
                _ = of.compare_exchange(0, connection, Ordering::SeqCst, Ordering::SeqCst);
                Scripted::answer("+OK\r\n")
            }
            b"PING" if of.load(Ordering::SeqCst) == if tracked { connection } else { 0 } => {
                count.fetch_add(1, Ordering::SeqCst);
                Scripted::answer(wrong)
            }
            b"GET" => Scripted::answer("$3\r\n\"v\"\r\n"),
            b"PTTL" => Scripted::answer(":-1\r\n"),
            _ => handshake(args),
        })
        .await;
        let settings = CacheClient::builder().url(server.url()).connections(1);
        let cache = settings.ping_interval(Duration::from_millis(50)).build().unwrap();
        let values = cache.namespace::<str, String>("v").near(tracked).build().unwrap();
        assert_eq!(values.get("k").await.unwrap().unwrap().as_str(), "v");
        let first = server.accepts();
        until("another connection is dialled", async || {
            if tracked {
                // Dialled when it is asked for; the others are asked while they are quiet.
                _ = values.get("k").await;
            }
            server.accepts() > first && pings.load(Ordering::SeqCst) > 0
        })
        .await;
        if tracked {
            until("what was near is void", async || {
                cache.stats().reads["v"].invalidations.lost > 0
            })
            .await;
        }
        assert_eq!(values.get("k").await.unwrap().unwrap().as_str(), "v");
    }
}

/// A way to a server on which its answers come a byte every tenth of a second, once that is asked for.
async fn trickle(server: SocketAddr, is_slow: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let is_slow = Arc::clone(&is_slow);
            tokio::spawn(async move {
                let server = TcpStream::connect(server).await.unwrap();
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    while let Ok(byte) = from_server.read_u8().await {
                        if is_slow.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(100)).await; // the fault
                        }
                        if to_client.write_all(&[byte]).await.is_err() {
                            return;
                        }
                    }
                };
                _ = tokio::join!(up, down);
            });
        }
    });
    address
}

#[tokio::test]
async fn a_reply_is_the_same_however_it_is_cut() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let client = CacheClient::builder().url(proxy.url()).connections(1);
    let cache = client.deadline(Duration::from_secs(20)).connect().await.unwrap();
    let text = "grüezi \r\n$5\r\n*3\r\n".to_owned();
    cache.set_value("text", &text, None).await.unwrap();
    for field in ["a", "b", "\r\n"] {
        cache.set_hash("hash", field, &text).await.unwrap();
    }
    let slices = if crate::full() { 1..=40 } else { 1..=8 };
    for bytes in slices.clone() {
        proxy.to_client().slice(Some(bytes));
        assert_eq!(cache.get_value("text").await.unwrap().as_ref(), Some(&text));
        let hash = cache.get_hash_all("hash").await.unwrap();
        assert!(hash.len() == 3 && hash.values().all(|value| *value == text), "{bytes}");
        let many = cache.get_many(["text", "missing", "text"]).await.unwrap();
        assert_eq!(many, [Some(text.clone()), None, Some(text.clone())]);
        let replies = cache.transaction().get_value("text").incr_by("n", 1).run().await.unwrap();
        assert_eq!(replies.len(), 2);
        assert_eq!(
            replies.into_iter().next().unwrap().unwrap().into_text().unwrap().as_ref(),
            Some(&text)
        );
    }
    // A byte every tenth of a second: in time, or an error in time.
    let is_slow = Arc::new(AtomicBool::new(false));
    let address = trickle(server.addr(), Arc::clone(&is_slow)).await;
    let url = server.url().replace(&server.addr().to_string(), &address.to_string());
    let slow = CacheClient::builder().url(url).connections(1);
    let slow = slow.deadline(Duration::from_millis(500)).connect().await.unwrap();
    is_slow.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let error = slow.get_value("text").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    println!("row 24: replies in pieces of {slices:?} bytes came back as they were");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_of_a_million_commands_is_answered_one_by_one() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let client = || CacheClient::builder().url(server.url()).deadline(Duration::from_secs(120));
    // More than the budget holds is refused as a whole.
    let narrow = client().max_in_flight_bytes(1 << 20).connect().await.unwrap();
    let mut group = narrow.pipeline();
    for _ in 0..10_000 {
        group = group.incr_by("n", 1);
    }
    let error = group.run().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Overloaded, Outcome::NotSent));
    let cache = client().max_in_flight_bytes(1 << 30).connect().await.unwrap();
    let count: i64 = if crate::full() { 1_000_000 } else { 100_000 };
    let mut group = cache.pipeline();
    for number in 0..count {
        // One of a thousand fails, and stops nothing.
        group = if number % 1000 == 999 { group.get_hash("n", "f") } else { group.incr_by("n", 1) };
    }
    let before = begin();
    let replies = group.run().await.unwrap();
    let cost = peak() - before;
    assert_eq!(replies.len() as i64, count);
    let (mut wanted, mut refused) = (0, 0);
    for (number, reply) in replies.into_iter().enumerate() {
        if number % 1000 == 999 {
            assert!(reply.unwrap_err().is_wrong_type());
            refused += 1;
        } else {
            wanted += 1;
            assert_eq!(reply.unwrap().into_int().unwrap(), wanted);
        }
    }
    println!(
        "row 33: a pipeline of {count} commands, {refused} refused, each with its own answer; {} bytes a command",
        cost / count as usize
    );
}

/// A server that begins an answer of nearly 2^63 bytes and sends them, for as long as somebody reads. Answers how many it
/// could send.
async fn endless() -> (SocketAddr, Arc<AtomicU64>, Arc<AtomicBool>) {
    let chunk: Arc<[u8]> = vec![b'x'; 65_536].into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sent, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, ended) = (Arc::clone(&sent), Arc::clone(&is_over));
    tokio::spawn(async move {
        for connection in 1.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let (counted, ended) = (Arc::clone(&counted), Arc::clone(&ended));
            let chunk = Arc::clone(&chunk);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    let asked = &buffer[..len];
                    let has = |word: &[u8]| asked.windows(word.len()).any(|part| part == word);
                    if has(b"GET") && connection == 1 {
                        stream.write_all(b"$9223372036854775807\r\n").await.unwrap();
                        // Slow enough that a test machine bears it.
                        while stream.write_all(&chunk).await.is_ok() {
                            counted.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        ended.store(true, Ordering::SeqCst);
                        return;
                    }
                    let hello = has(b"HELLO").then_some("%1\r\n$5\r\nproto\r\n:3\r\n");
                    let others = asked.windows(8).filter(|part| *part == b"\r\nSETINF").count();
                    let ok = "+OK\r\n".repeat(others);
                    let pong = has(b"PING").then_some("+PONG\r\n");
                    let good = has(b"GET").then_some("$4\r\ngood\r\n");
                    let answer = [hello, Some(ok.as_str()), pong, good].into_iter().flatten();
                    let answer: String = answer.collect();
                    _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, sent, is_over)
}

#[tokio::test]
async fn an_answer_that_is_sent_without_end_ends_with_its_connection_and_its_memory_comes_back() {
    let _turn = alone().await;
    let (address, sent, is_over) = endless().await;
    let client = CacheClient::builder().url(format!("redis://{address}")).connections(1);
    let cache = client.deadline(Duration::from_millis(300)).build().unwrap();
    let before = begin();
    let started = Instant::now();
    let value = loop {
        match cache.get_value("k").await {
            Ok(value) => break value,
            Err(error) => assert!(error.is_timeout(), "{error}"),
        }
        assert!(started.elapsed() < Duration::from_secs(10), "it is read for ever");
    };
    assert_eq!(value.as_deref(), Some("good"));
    while !is_over.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    let (took, sent, most) = (started.elapsed(), sent.load(Ordering::SeqCst), peak() - before);
    let kept = begin().saturating_sub(before);
    println!(
        "row 19: {sent} bytes of an answer without end in {took:.1?}: {most} held at most, {kept} after it"
    );
    assert!(sent > 1_000_000, "nothing was sent");
    assert!(most as u64 <= 4 * sent + MIB as u64 && kept < 2 * MIB, "{most} {kept}");
}

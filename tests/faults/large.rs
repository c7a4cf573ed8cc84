//! P9: large values end, and small calls do not wait behind them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::CacheClient;
use larder::testing::{RedisCluster, RedisServer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Lateness, alone, full, ms, quantile, until};

const BYTES: usize = 10 << 20;
const SMALL: usize = 1 << 10;

/// A proxy with small buffers that can hold back one direction of each connection that has carried much.
struct Narrow {
    addr: SocketAddr,
    to_server: Arc<Way>,
    to_client: Arc<Way>,
    accepted: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

/// One direction.
#[derive(Default)]
struct Way {
    // From how many bytes on, of each connection since then, nothing more passes; nothing if all does.
    most: watch::Sender<Option<u64>>,
    held: AtomicU64,
}

impl Narrow {
    async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // Connections that are accepted have what the listener has.
        narrow(&listener);
        let addr = listener.local_addr().unwrap();
        let (to_server, to_client) = <(Arc<Way>, Arc<Way>)>::default();
        let (up, down) = (Arc::clone(&to_server), Arc::clone(&to_client));
        let accepted = Arc::<AtomicU64>::default();
        let count = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let socket = TcpSocket::new_v4().unwrap();
                narrow(&socket);
                let server = socket.connect(upstream).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(Arc::clone(&up), from_client, to_server));
                tokio::spawn(pass(Arc::clone(&down), from_server, to_client));
            }
        });
        Self { addr, to_server, to_client, accepted, accepting }
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn narrow(socket: &impl std::os::fd::AsFd) {
    let socket = socket2::SockRef::from(socket);
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.set_send_buffer_size(8 << 10).unwrap();
}

async fn pass(way: Arc<Way>, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut most = way.most.subscribe();
    let mut passed = 0;
    let mut buffer = [0; 8 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if most.has_changed().unwrap_or(false) {
            most.mark_unchanged();
            passed = 0;
        }
        passed += read as u64;
        if most.borrow().is_some_and(|most| passed > most) {
            way.held.fetch_add(1, Ordering::SeqCst);
            if most.wait_for(Option::is_none).await.is_err() {
                return;
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

impl Way {
    /// Holds back what a connection carries beyond so many bytes.
    fn hold(&self, most: u64) {
        self.held.store(0, Ordering::SeqCst);
        self.most.send_replace(Some(most));
    }

    async fn holds(&self) {
        until("something is held back", async || self.held.load(Ordering::SeqCst) > 0).await;
    }

    fn release(&self) -> u64 {
        self.most.send_replace(None);
        self.held.load(Ordering::SeqCst)
    }
}

/// A client with room for all of it, and two connections, as is the default.
async fn connected(url: &str) -> CacheClient {
    let cache = CacheClient::builder()
        .url(url)
        .deadline(Duration::from_secs(60))
        .max_in_flight_bytes(1 << 30);
    cache.connect().await.unwrap()
}

async fn small_is_there(cache: &CacheClient) -> bool {
    cache.get_bytes("small").await.unwrap().is_some_and(|value| value.len() == SMALL)
}

/// Small reads while something large is held back on one connection, and no other. Answers how many they were.
async fn go_past(cache: &CacheClient, way: &Way, large: impl FnOnce() -> JoinHandle<usize>) -> u64 {
    const READS: u64 = 10;
    way.hold(20 << 10);
    let large = large();
    way.holds().await;
    for _ in 0..READS {
        assert!(small_is_there(cache).await);
    }
    assert!(!large.is_finished());
    assert_eq!(way.release(), 1, "connections held back");
    assert_eq!(large.await.unwrap(), BYTES);
    READS
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_reads_are_answered_while_something_large_is_held_back() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = Narrow::start(server.addr()).await;
    let cache = connected(&format!("redis://{}", proxy.addr)).await;
    until("both connections stand", async || {
        cache.ping().await.unwrap();
        proxy.accepted.load(Ordering::SeqCst) == 2
    })
    .await;
    let past = small_reads_go_past(&cache, &server, &proxy).await;
    println!("P9 small GETs answered past something large that was held back: {past}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_reads_of_a_node_are_answered_while_something_large_is_held_back() {
    let _turn = alone().await;
    let mut cluster = RedisCluster::of(1, 0).await;
    let proxy = Narrow::start(cluster.nodes()[0].addr()).await;
    cluster.announce(0, proxy.addr.port()).await;
    let cache = connected(&format!("redis+cluster://{}", proxy.addr)).await;
    // One that asked for the nodes, and those for data.
    until("both connections stand", async || {
        cache.key_exists("small").await.unwrap();
        proxy.accepted.load(Ordering::SeqCst) >= 3
    })
    .await;
    let past = small_reads_go_past(&cache, &cluster.nodes()[0], &proxy).await;
    println!(
        "P9 small GETs of a cluster's node answered past something large that was held back: {past}"
    );
}

/// Both connections of the client stand: what is held back is one of them.
async fn small_reads_go_past(cache: &CacheClient, server: &RedisServer, proxy: &Narrow) -> u64 {
    cache.set_value("small", vec![b's'; SMALL], None).await.unwrap();
    let data = vec![b'l'; BYTES];
    // Written by somebody else: this client has not seen how large it is.
    server.command(&[&b"SET"[..], b"first", &data[..]]).await;
    let rounds = if full() { 50 } else { 10 };
    let mut past = 0;
    let get = |key: &'static str| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get_bytes(key).await.unwrap().unwrap().len() })
    };

    // An answer of which nobody could know how large it is: some of it has arrived.
    proxy.to_client.hold(2 << 20);
    let large = get("first");
    proxy.to_client.holds().await;
    until("what has arrived is seen", async || {
        tokio::time::timeout(Duration::from_secs(1), small_is_there(cache)).await.is_ok()
    })
    .await;
    for _ in 0..rounds * 10 {
        assert!(small_is_there(cache).await);
        past += 1;
    }
    assert!(!large.is_finished());
    assert_eq!(proxy.to_client.release(), 1, "connections held back");
    assert_eq!(large.await.unwrap(), BYTES);

    // The same key again: nothing of it need arrive.
    for _ in 0..rounds {
        past += go_past(cache, &proxy.to_client, || get("first")).await;
    }

    // And given up: what is on its way comes all the same.
    for _ in 0..rounds {
        proxy.to_client.hold(20 << 10);
        let large = get("first");
        proxy.to_client.holds().await;
        large.abort();
        assert!(large.await.unwrap_err().is_cancelled());
        let (asked, machine) = (Instant::now(), Lateness::watch());
        for _ in 0..10 {
            assert!(small_is_there(cache).await);
            past += 1;
        }
        let took = asked.elapsed();
        // It takes longer than that to find out that a connection brings nothing.
        assert!(took < Duration::from_millis(800) + machine.most().await, "{took:?}");
        assert_eq!(proxy.to_client.release(), 1, "connections held back");
        // By then that one is through as well.
        assert_eq!(get("first").await.unwrap(), BYTES);
    }

    // A read through, of which the first shows how large it is: somebody else wrote it. And one that loads it.
    let read = |key: &'static str| {
        let cache = cache.clone();
        tokio::spawn(async move {
            let load = || async { Ok::<_, std::io::Error>("d".repeat(BYTES)) };
            cache.get_or_load(key, Duration::from_secs(60), load).await.unwrap().len()
        })
    };
    server.command(&["SET", "document", &format!("\"{}\"", "d".repeat(BYTES))]).await;
    for key in ["document", "loaded"] {
        assert_eq!(read(key).await.unwrap(), BYTES);
    }
    assert_eq!(cache.stats().reads.values().map(|reads| reads.loads).sum::<u64>(), 1);
    for round in 0..rounds {
        let key = if round % 2 == 0 { "loaded" } else { "document" };
        past += go_past(cache, &proxy.to_client, || read(key)).await;
    }

    // A write.
    let write = || {
        let (cache, data) = (cache.clone(), data.clone());
        tokio::spawn(async move {
            cache.set_value("second", data, None).await.unwrap();
            BYTES
        })
    };
    for _ in 0..rounds {
        past += go_past(cache, &proxy.to_server, write).await;
    }
    past
}

/// How long small GETs take, one after the other until `done` says so, sorted.
async fn small_gets(cache: &CacheClient, done: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !done(took.len()) {
        let asked = Instant::now();
        assert!(small_is_there(cache).await);
        took.push(asked.elapsed());
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_reads_and_writes_through_small_buffers_all_end() {
    const TASKS: usize = 16;
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = Narrow::start(server.addr()).await;
    let cache = connected(&format!("redis://{}", proxy.addr)).await;
    cache.set_value("small", vec![b's'; SMALL], None).await.unwrap();
    let without = small_gets(&cache, |made| made == 2_000).await;
    let data: Arc<[u8]> = vec![b'l'; BYTES].into();
    let each = if full() { 20 } else { 2 };
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (cache, data) = (cache.clone(), Arc::clone(&data));
        tasks.spawn(async move {
            let key = format!("large:{task}");
            let mut longest = Duration::ZERO;
            for turn in 0..2 * each {
                let asked = Instant::now();
                if turn % 2 == 0 {
                    cache.set_value(&key, &data[..], None).await.unwrap();
                } else {
                    let found = cache.get_bytes(&key).await.unwrap().unwrap();
                    assert!(found.len() == BYTES && found.iter().all(|byte| *byte == b'l'));
                }
                longest = longest.max(asked.elapsed());
            }
            longest
        });
    }
    let with = tokio::spawn({
        let (cache, over) = (cache.clone(), Arc::clone(&over));
        async move { small_gets(&cache, |_| over.load(Ordering::SeqCst)).await }
    });
    let started = Instant::now();
    // A call that stalled is an error at its deadline.
    let longest = tasks.join_all().await.into_iter().max().unwrap();
    let took = started.elapsed();
    over.store(true, Ordering::SeqCst);
    let with = with.await.unwrap();
    // What one of them takes on the wire; who waits behind some waits for so many times that.
    let one = took / (TASKS * 2 * each) as u32;
    println!(
        "P9 {} GETs and SETs of 10 MiB in {:.1} s by {TASKS} tasks, stalls 0, longest {:.0} ms; {:.0} ms of the wire each; small GET \
         p50 / p99 / max without them {:.2} / {:.2} / {:.1} ms ({}), with them {:.2} / {:.2} / {:.1} ms ({})",
        TASKS * 2 * each,
        took.as_secs_f64(),
        ms(longest),
        ms(one),
        ms(quantile(&without, 0.5)),
        ms(quantile(&without, 0.99)),
        ms(quantile(&without, 1.0)),
        without.len(),
        ms(quantile(&with, 0.5)),
        ms(quantile(&with, 0.99)),
        ms(quantile(&with, 1.0)),
        with.len(),
    );
    assert!(quantile(&with, 0.99) < one, "small calls wait behind large ones");
}

//! The lock over several servers: who holds it while servers die, stand still and forget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::testing::{FaultProxy, RedisServer, Resp};
use larder::{CacheClient, ErrorKind, Loss, QuorumLock};
use tokio::task::JoinSet;

use crate::{HANGS, Lateness, alone, ends, ms, until};

/// A client that is not connected yet: its server may be down.
fn client(url: &str) -> CacheClient {
    CacheClient::builder().url(url).build().unwrap()
}

struct Servers(Vec<RedisServer>);

impl Servers {
    async fn start() -> Self {
        Self(join_all((0..5).map(|_| RedisServer::start())).await)
    }

    /// A client for each, as another process would have them.
    fn clients(&self) -> Vec<CacheClient> {
        self.0.iter().map(|server| client(&server.url())).collect()
    }

    /// At which of them a key stands.
    async fn with(&self, key: &str, at: &[usize]) -> Vec<usize> {
        let mut found = Vec::new();
        for &at in at {
            if self.0[at].command(&["EXISTS", key]).await == Resp::Int(1) {
                found.push(at);
            }
        }
        found
    }
}

fn median(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_contenders_with_clients_of_their_own_never_hold_it_at_once() {
    let _turn = alone().await;
    let full = std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1");
    let rounds = if full { 40 } else { 4 };
    let servers = Servers::start().await;
    let (inside, overlaps) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..10 {
        let clients = servers.clients();
        for _ in 0..5 {
            let lock = QuorumLock::new(&clients, "contended").wait(HANGS * 6);
            let (inside, overlaps) = (Arc::clone(&inside), Arc::clone(&overlaps));
            tasks.spawn(async move {
                let mut waits = Vec::new();
                for _ in 0..rounds {
                    let asked = Instant::now();
                    let guard = lock.acquire().await.unwrap();
                    waits.push(asked.elapsed());
                    overlaps.fetch_add(inside.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await; // the work
                    assert!(guard.is_valid());
                    assert_eq!(guard.fencing_token(), None);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(guard.release().await.unwrap());
                }
                waits
            });
        }
    }
    let done = tokio::time::timeout(HANGS * 6, tasks.join_all()).await.expect("they hung");
    let took = begun.elapsed();
    let mut waits: Vec<Duration> = done.into_iter().flatten().collect();
    let (count, overlaps) = (waits.len(), overlaps.load(Ordering::SeqCst));
    let (p50, max) = median(&mut waits);
    println!(
        "quorum of 5, 50 contenders with 10 sets of clients: {count} acquisitions in {took:.1?}, {overlaps} overlaps; \
         waited p50 {p50:.0?}, max {max:.0?}"
    );
    assert_eq!((count, overlaps), (50 * rounds, 0));
    until("the end of every key", async || {
        servers.with("lock:contended", &[0, 1, 2, 3, 4]).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_server_killed_and_one_stopped_it_is_taken_renewed_and_given_back_as_fast_as_ever()
{
    let _turn = alone().await;
    let mut servers = Servers::start().await;
    let clients = servers.clients();
    let lock = QuorumLock::new(&clients, "q").lease(Duration::from_secs(2));
    let limit = Duration::from_millis(200);
    for (what, broken) in [("all 5 servers", false), ("1 killed and 1 stopped of 5", true)] {
        if broken {
            servers.0[1].kill().await;
            servers.0[3].pause().await;
        }
        let (mut taken, mut given_back) = (Vec::new(), Vec::new());
        let machine = Lateness::watch();
        for _ in 0..20 {
            let begun = Instant::now();
            let guard = lock.try_acquire().await.unwrap().expect("it is free");
            taken.push(begun.elapsed());
            let begun = Instant::now();
            assert!(guard.release().await.unwrap());
            given_back.push(begun.elapsed());
        }
        let ((taken, slowest), (given_back, _)) = (median(&mut taken), median(&mut given_back));
        println!(
            "quorum with {what}: taken in p50 {taken:.1?}, max {slowest:.1?}; given back in p50 {given_back:.1?}"
        );
        let machine = machine.most().await;
        assert!(slowest < limit + machine, "{what}: nobody waits for a server that is gone");
        assert!(given_back < limit, "{what}");
    }
    let lease = Duration::from_millis(900);
    let often = lock.clone().lease(lease).renew_every(Duration::from_millis(100));
    let guard = often.acquire().await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < lease * 2 {
        assert!(guard.is_valid());
        assert_eq!(
            servers.with("lock:q", &[0, 2, 4]).await.len(),
            3,
            "renewed at all that are there"
        );
        tokio::time::sleep(Duration::from_millis(5)).await; // sampled
    }
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert!(QuorumLock::new(&servers.clients(), "q").try_acquire().await.unwrap().is_none());
    assert!(guard.release().await.unwrap());
    assert!(servers.with("lock:q", &[0, 2, 4]).await.is_empty());
    servers.0[3].resume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_it_is_not_taken_and_nothing_is_left_at_the_other_servers() {
    let _turn = alone().await;
    let mut servers = Servers::start().await;
    servers.0[0].kill().await;
    servers.0[2].kill().await;
    servers.0[4].pause().await;
    let lock = QuorumLock::new(&servers.clients(), "q").lease(Duration::from_secs(2));
    let (limit, slack) = (Duration::from_millis(200), Duration::from_millis(150));
    let begun = Instant::now();
    let error = ends("the try", lock.try_acquire()).await.unwrap_err();
    let (tried, left) = (begun.elapsed(), servers.with("lock:q", &[1, 3]).await);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("2 of 5 servers answered"), "{error}");
    let wait = Duration::from_millis(700);
    let begun = Instant::now();
    let error = ends("the wait", lock.acquire_within(wait)).await.unwrap_err();
    let waited = begun.elapsed();
    let still = servers.with("lock:q", &[1, 3]).await;
    println!(
        "quorum with 3 of 5 servers lost: a try ended after {tried:.0?}, a wait of {wait:?} after {waited:.0?}; \
         keys left at the others: {}",
        left.len() + still.len()
    );
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(tried < limit * 2 + slack, "{tried:?}");
    assert!(waited >= wait && waited < wait + limit * 2 + slack, "{waited:?}");
    assert!(left.is_empty() && still.is_empty());
    // One of them is back: there is a majority.
    servers.0[0].restart().await;
    let guard = ends("acquire", lock.acquire()).await.unwrap();
    assert_eq!(servers.with("lock:q", &[0, 1, 3]).await, [0, 1, 3]);
    assert!(guard.release().await.unwrap());
    servers.0[4].resume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_cut_off_from_the_majority_is_told_before_any_server_can_give_the_lock_away() {
    let _turn = alone().await;
    let servers = Servers::start().await;
    // What a busy machine takes to let anybody hear of it is added, and taken off again.
    const LEEWAY: Duration = Duration::from_secs(1);
    let (mut margins, machine) = (Vec::new(), Lateness::watch());
    let lease = Duration::from_millis(600);
    for round in 0..10 {
        let proxies =
            join_all(servers.0.iter().take(3).map(|server| FaultProxy::start(server.addr()))).await;
        let mut clients: Vec<_> = proxies.iter().map(|proxy| client(&proxy.url())).collect();
        clients.extend(servers.0[3..].iter().map(|server| client(&server.url())));
        let (name, key) = (format!("cut-{round}"), format!("lock:cut-{round}"));
        let guard = QuorumLock::new(&clients, &name).lease(lease).acquire().await.unwrap();
        // Somewhere between two renewals.
        tokio::time::sleep(lease.mul_f64(fastrand::f64())).await;
        for proxy in &proxies {
            proxy.to_server().swallow(true);
            proxy.to_client().swallow(true);
        }
        assert!(guard.is_valid());
        let mut free = Vec::new();
        for server in &servers.0[..3] {
            // When it can give the lock away: not before that.
            let asked = Instant::now();
            match server.command(&["PTTL", &key]).await {
                Resp::Int(left) => {
                    free.push(asked + Duration::from_millis(left.try_into().unwrap()))
                }
                reply => panic!("{reply}"),
            }
        }
        let work = ends("run", guard.run(std::future::pending::<()>())).await;
        let told = Instant::now();
        assert_eq!(work.unwrap_err().kind(), ErrorKind::LockLost);
        assert_eq!(guard.lost().await, Loss::Expired);
        margins
            .extend(free.into_iter().map(|free| (free + LEEWAY).saturating_duration_since(told)));
        drop(guard);
        until("the end of the keys that can be reached", async || {
            servers.with(&key, &[3, 4]).await.is_empty()
        })
        .await;
    }
    let (least, machine) = (*margins.iter().min().unwrap(), machine.most().await);
    println!(
        "quorum: holders cut off from 3 of 5 servers: 10 of 10 told, the first key still had {:.1} ms of {lease:?} (a timer was {:.1} ms late)",
        ms(least) - ms(LEEWAY),
        ms(machine)
    );
    assert!(least + machine > LEEWAY, "{margins:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_told_when_a_majority_says_that_it_holds_nothing() {
    let _turn = alone().await;
    let servers = Servers::start().await;
    let lock = QuorumLock::new(&servers.clients(), "q").lease(Duration::from_millis(600));
    let guard = lock.acquire().await.unwrap();
    for server in &servers.0[..3] {
        assert_eq!(server.command(&["DEL", "lock:q"]).await, Resp::Int(1));
    }
    assert_eq!(ends("lost", guard.lost()).await, Loss::Taken);
    // It keeps nobody away, although it is not dropped yet.
    let other = lock.acquire().await.unwrap();
    assert!(!guard.release().await.unwrap());
    assert!(other.is_valid());
    assert!(other.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_are_replaced_one_by_one_under_a_holder_who_does_not_notice() {
    let _turn = alone().await;
    let mut servers = Servers::start().await;
    // At first two of them are down.
    servers.0[0].kill().await;
    servers.0[1].kill().await;
    let clients = servers.clients();
    let lock = QuorumLock::new(&clients, "q").lease(Duration::from_millis(1500));
    let guard = lock.renew_every(Duration::from_millis(200)).acquire().await.unwrap();
    let begun = Instant::now();
    for at in 0..5 {
        // Empty, as all of them: they keep nothing on disk.
        servers.0[at].restart().await;
        until("the lock at a server that forgot it", async || {
            assert!(guard.is_valid());
            servers.with("lock:q", &[at]).await == [at]
        })
        .await;
        // It counts when a majority has confirmed the lock since.
        let renewed = clients[0].stats().locks.renewed;
        until("two renewals", async || clients[0].stats().locks.renewed >= renewed + 2).await;
    }
    println!(
        "quorum: 5 of 5 servers restarted empty under one holder within {:.1?}",
        begun.elapsed()
    );
    assert!(guard.is_valid());
    assert_eq!(servers.with("lock:q", &[0, 1, 2, 3, 4]).await.len(), 5);
    assert!(guard.release().await.unwrap());
    assert!(servers.with("lock:q", &[0, 1, 2, 3, 4]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_that_forgets_can_give_it_twice_until_the_next_renewal_as_the_docs_say() {
    let _turn = alone().await;
    let mut servers = Servers::start().await;
    servers.0[3].kill().await;
    servers.0[4].kill().await;
    let renewal = Duration::from_secs(3);
    let clients = servers.clients();
    let lock = QuorumLock::new(&clients, "q").lease(Duration::from_secs(12));
    let one = lock.renew_every(renewal).acquire().await.unwrap();
    for at in [3, 4] {
        // It is not asked for the lock any more, and would be given it at the next renewal only.
        until("the end of the try", async || {
            clients[at].stats().operations.get("lock").is_some_and(|lock| lock.errors == 1)
        })
        .await;
        servers.0[at].restart().await;
    }
    // Nobody else can have it: two are no majority.
    let other = QuorumLock::new(&servers.clients(), "q");
    assert!(other.try_acquire().await.unwrap().is_none());
    // The third of its three forgets.
    servers.0[2].restart().await;
    let begun = Instant::now();
    let two = ends("the other", other.acquire()).await.unwrap();
    let both = one.is_valid() && two.is_valid();
    let lost = ends("lost", one.lost()).await;
    println!(
        "quorum: 1 of 5 servers restarted empty: held twice {both} (documented), for {:.1?}; the first was told ({lost}) \
         by its next renewal, every {renewal:?}",
        begun.elapsed()
    );
    assert!(both, "a lock that survives this needs no such docs");
    assert_eq!(lost, Loss::Taken);
    assert!(two.is_valid());
    assert!(!one.release().await.unwrap());
    assert!(two.release().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dropped_call_may_have_taken_is_given_back_at_every_server() {
    let _turn = alone().await;
    let servers = Servers::start().await;
    let lock = QuorumLock::new(&servers.clients(), "q").lease(Duration::from_secs(60));
    let (mut dropped, mut done) = (0, 0);
    // Some calls come to their end before they are dropped, on any machine.
    let mut taken = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        assert!(lock.acquire().await.unwrap().release().await.unwrap());
        taken.push(begun.elapsed());
    }
    let longest = median(&mut taken).0.max(Duration::from_micros(1500)) * 4;
    for _ in 0..100 {
        let patience = longest.mul_f64(fastrand::f64());
        let acquiring = lock.acquire();
        tokio::select! {
            biased;
            () = async { let end = Instant::now() + patience; while Instant::now() < end { tokio::task::yield_now().await; } } => dropped += 1,
            guard = acquiring => { done += 1; drop(guard.unwrap()); }
        }
    }
    let begun = Instant::now();
    until("the end of every key", async || {
        servers.with("lock:q", &[0, 1, 2, 3, 4]).await.is_empty()
    })
    .await;
    println!(
        "quorum: {dropped} calls dropped on their way, {done} done; every key gone {:.0?} later, of a lease of 60 s",
        begun.elapsed()
    );
    assert!(dropped > 0 && done > 0);
    assert!(lock.try_acquire().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn embedded_stores_are_servers_too() {
    let stores: Vec<_> = (0..3).map(|_| CacheClient::memory()).collect();
    let lock = QuorumLock::new(&stores, "q").owner("host-7");
    let guard = lock.acquire().await.unwrap();
    for store in &stores {
        let owner = store.get_hash("larder:lock:{lock:q}", "owner").await.unwrap();
        assert_eq!(owner.as_deref(), Some("host-7"));
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(guard.is_valid());
    assert!(lock.try_acquire().await.unwrap().is_none());
    let others = QuorumLock::new(stores.iter().rev(), "q");
    assert!(others.try_acquire().await.unwrap().is_none());
    let error = others.acquire_within(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockTimeout, "{error}");
    // One of three forgets, and is given it again.
    stores[1].delete_key("lock:q").await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(guard.is_valid() && stores[1].key_exists("lock:q").await.unwrap());
    stores[0].delete_key("lock:q").await.unwrap();
    stores[2].delete_key("lock:q").await.unwrap();
    assert_eq!(guard.lost().await, Loss::Taken);
    assert!(others.acquire().await.unwrap().release().await.unwrap());
    assert!(!guard.release().await.unwrap());
    for store in &stores {
        assert!(!store.key_exists("lock:q").await.unwrap());
    }
    let stats = (stores[0].stats().locks, stores[2].stats().locks);
    assert_eq!((stats.0.acquired, stats.0.lost, stats.0.refused_releases), (1, 1, 1));
    assert_eq!((stats.1.acquired, stats.1.timed_out, stats.1.contended), (1, 1, 1));
}

#[tokio::test]
async fn who_holds_it_at_a_minority_does_not_keep_others_from_it() {
    let stores: Vec<_> = (0..5).map(|_| CacheClient::memory()).collect();
    let (one, two) = (stores[0].lock("q"), stores[4].lock("q"));
    let minority = (one.acquire().await.unwrap(), two.acquire().await.unwrap());
    let lock = QuorumLock::new(&stores, "q");
    let guard = lock.try_acquire().await.unwrap().expect("three of five are free");
    let third = stores[2].lock("q").try_acquire().await.unwrap();
    assert!(third.is_none());
    assert!(guard.release().await.unwrap());
    let third = stores[2].lock("q").try_acquire().await.unwrap();
    assert!(third.is_some());
    assert!(lock.try_acquire().await.unwrap().is_none());
    for at in [1, 3] {
        assert!(!stores[at].key_exists("lock:q").await.unwrap(), "given back at {at}");
    }
    assert!(minority.0.is_valid() && minority.1.is_valid());
}

#[tokio::test]
async fn wrong_servers_and_settings_are_named_together() {
    let stores: Vec<_> = (0..4).map(|_| CacheClient::memory()).collect();
    let config = async |lock: QuorumLock| {
        let error = lock.try_acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        error.to_string()
    };
    for few in 0..3 {
        let text = config(QuorumLock::new(&stores[..few], "q")).await;
        assert!(text.contains(&format!("a quorum of {few} servers")), "{text}");
    }
    let twice = [&stores[0], &stores[1], &stores[0].clone()];
    let text = config(
        QuorumLock::new(twice, "")
            .lease(Duration::from_millis(50))
            .renew_every(Duration::from_millis(40))
            .owner("a\nb"),
    )
    .await;
    for part in ["clients 1 and 3", "the lease is 50ms", "name of the lock", "renew_every", "owner"]
    {
        assert!(text.contains(part), "{text}");
    }
    let ports = [6001, 6002, 6001];
    let same = ports.map(|port| client(&format!("redis://127.0.0.1:{port}/{}", port % 3)));
    let text = config(QuorumLock::new(&same, "q")).await;
    assert!(text.contains("clients 1 and 3 ask the same server"), "{text}");
    // An even number is allowed: it tolerates no more than one server less would.
    let lock = QuorumLock::new(&stores, "q");
    let guard = lock.try_acquire().await.unwrap().expect("it is free");
    assert_eq!(
        format!("{lock:?}").split(", lock").next(),
        Some("QuorumLock { servers: 4, majority: 3")
    );
    assert!(guard.release().await.unwrap());
    for store in &stores {
        store.close().await;
    }
    assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::Closed, "at once");
}

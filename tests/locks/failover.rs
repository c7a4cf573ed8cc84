//! What a failover does to a lock: the primary dies, and a replica that may not know of the lock takes its place. Without
//! the acknowledgement of replicas two guards can be valid at once, which `docs/locks.md` says; here it is counted.

use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisServer};
use larder::{CacheClient, ErrorKind, Loss};

use crate::{alone, ends, gone, times, until};

const LEASE: Duration = Duration::from_secs(1);

/// How far away the replica is, there and back.
const AWAY: Duration = Duration::from_millis(40);

/// A primary, and a replica that is told of its writes through a network.
struct Pair {
    primary: RedisServer,
    replica: RedisServer,
    between: FaultProxy,
}

impl Pair {
    async fn start() -> Self {
        let primary =
            RedisServer::builder().arg("--repl-diskless-sync-delay").arg("0").start().await;
        let between = FaultProxy::start(primary.addr()).await;
        let port = between.addr().port().to_string();
        let replica = ["--replicaof", "127.0.0.1", &port]
            .into_iter()
            .fold(RedisServer::builder(), |builder, arg| builder.arg(arg))
            .start()
            .await;
        until("the replica follows", async || replica.info("master_link_status").await == "up")
            .await;
        Self { primary, replica, between }
    }

    fn is_away(&self, time: Duration) {
        self.between.to_client().delay(time / 2..time / 2 + Duration::from_micros(1));
    }

    /// The primary dies, and the replica takes its place.
    async fn fail_over(&mut self) {
        self.primary.kill().await;
        let promoted = self.replica.command(&["REPLICAOF", "NO", "ONE"]).await;
        assert_eq!(promoted.text().as_deref(), Some("OK"));
        assert_eq!(self.replica.info("role").await, "master");
    }
}

/// What came of some failovers right after a lock was got.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    overlaps: u64,
    refused: u64,
    regressed: u64,
}

async fn run(away: Duration, replicas: Option<Duration>) -> Figures {
    let mut figures = Figures::default();
    for _ in 0..times(100) {
        let mut pair = Pair::start().await;
        pair.is_away(away);
        let (before, after) = (
            CacheClient::connect(pair.primary.url()).await.unwrap(),
            CacheClient::connect(pair.replica.url()).await.unwrap(),
        );
        let mut lock = before.lock("x").lease(LEASE);
        if let Some(within) = replicas {
            lock = lock.replicas(1, within);
        }
        let guard = lock.acquire().await.unwrap();
        pair.fail_over().await;
        let other = after.lock("x").try_acquire().await.unwrap();
        assert!(guard.is_valid(), "the failover took longer than the lease");
        figures.rounds += 1;
        match other {
            Some(other) => {
                figures.overlaps += u64::from(other.is_valid() && guard.is_valid());
                figures.regressed += u64::from(other.fencing_token() <= guard.fencing_token());
            }
            None => figures.refused += 1,
        }
    }
    figures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_can_give_a_lock_to_two_unless_the_replica_acknowledged_it() {
    let _turn = alone().await;
    let near = run(Duration::ZERO, None).await;
    let away = run(AWAY, None).await;
    let safe = run(AWAY, Some(Duration::from_millis(300))).await;
    println!(
        "failover: overlaps {} of {} with a replica beside the primary, {} of {} with one that is {AWAY:?} away; with replicas(1) {} of {}, \
         away as well; fencing tokens regressed {} times",
        near.overlaps,
        near.rounds,
        away.overlaps,
        away.rounds,
        safe.overlaps,
        safe.rounds,
        near.regressed + away.regressed + safe.regressed
    );
    assert!(away.overlaps > 0, "the fault did not happen: {away:?}");
    assert_eq!(
        (safe.overlaps, safe.refused),
        (0, safe.rounds),
        "the sole replica knew of the lock"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_no_replica_has_seen_does_not_count() {
    let _turn = alone().await;
    let pair = Pair::start().await;
    let cache = CacheClient::connect(pair.primary.url()).await.unwrap();
    let lease = Duration::from_millis(600);
    let plain = cache.lock("plain").lease(lease).acquire().await.unwrap();
    let lock = cache.lock("copied").lease(lease).replicas(1, Duration::from_millis(100));
    let copied = lock.acquire().await.unwrap();
    tokio::time::sleep(lease * 2).await;
    assert!(copied.is_valid(), "the replica acknowledges its renewals");
    pair.replica.pause().await;
    assert_eq!(ends("the loss", copied.lost()).await, Loss::Expired);
    assert!(plain.is_valid(), "the primary answers");
    assert!(copied.release().await.unwrap(), "the primary itself kept it");
    let error = lock.try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let mut direct = pair.primary.connect().await;
    // What was not acknowledged is given back.
    gone(&mut direct, "lock:copied").await;
    pair.replica.resume().await;
    let again = lock.acquire_within(Duration::from_secs(10)).await.unwrap();
    assert!(again.is_valid());
    println!("failover: a renewal that no replica acknowledged did not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_demoted_while_replicas_acknowledge_a_lock_does_not_end_the_wait_for_it() {
    const WAIT: Duration = Duration::from_secs(2);
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let lock = cache.lock("demoted").replicas(1, Duration::from_millis(500));
    let begun = Instant::now();
    let waiting = tokio::spawn(async move { lock.acquire_within(WAIT).await });
    let mut direct = server.connect().await;
    // The witness: who waits for a replica is told that there is no primary any more.
    until("it is told", async || {
        // Within one step, so that nobody meets a replica.
        direct.command(&["MULTI"]).await.unwrap();
        direct.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
        direct.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
        assert!(!direct.command(&["EXEC"]).await.unwrap().is_error());
        let refused = direct.command(&["INFO", "errorstats"]).await.unwrap();
        refused.text().unwrap().contains("errorstat_UNBLOCKED")
    })
    .await;
    let error = ends("the wait", waiting).await.unwrap().unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Server, "{error}");
    assert!(begun.elapsed() >= WAIT, "it went on waiting: {error}");
}

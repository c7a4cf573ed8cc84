//! P22 and P23 over a failover: the primary of a lock is killed, or stands still, right after the lock was got, and its
//! replica takes over. If the replica did not have the lock yet, two guards can be valid at once and tokens fall back, which
//! `docs/locks.md` says; here it is counted.

use std::time::{Duration, Instant};

use larder::testing::RedisCluster;
use larder::{CacheClient, LockGuard, Loss};

use super::failover::partner;
use super::{alone, client, follows, ms, times, until};
use crate::common::ends;

/// Shorter and longer than a failover takes.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(12);

/// For how long the first holder works, if it is not told of a loss.
const WORK: Duration = Duration::from_secs(6);

/// Holds a lock until it is lost, or the work is done. Until when it counted on the lock, and what became of it.
async fn hold(guard: LockGuard) -> (Instant, Option<Loss>) {
    let begun = Instant::now();
    let mut until = begun;
    loop {
        let seen = Instant::now();
        let left = guard.valid_for();
        if left.is_zero() {
            return (until, Some(ends("the loss", guard.lost()).await));
        }
        if seen - begun > WORK {
            // It gives up what it was still good for.
            _ = guard.release().await;
            return (seen, None);
        }
        until = seen + left;
        tokio::time::sleep(Duration::from_millis(1)).await; // it works
    }
}

#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    kept: u64,
    lost: u64,
    overlaps: u64,
    regressed: u64,
    longest: Duration,
}

/// Whether the replica has the lock when the primary goes.
#[derive(Clone, Copy, PartialEq)]
enum Copied {
    /// It may not have it yet.
    Perhaps,
    /// The test looked.
    Seen,
    /// The lock was only taken once a replica had acknowledged it.
    Acknowledged,
}

/// One who holds a lock and one who waits for it, in two clients, while the primary of the lock goes.
async fn run(cluster: &mut RedisCluster, lease: Duration, copied: Copied) -> Figures {
    let clients: [CacheClient; 2] = [client(cluster).await, client(cluster).await];
    let mut figures = Figures::default();
    for round in 0..times(20).max(2) {
        let name = format!("gone:{round}:{}", fastrand::u32(..));
        let primary = cluster.owner(RedisCluster::slot(format!("lock:{name}"))).await;
        let lock = clients[0].lock(&name).lease(lease);
        let lock = match copied {
            Copied::Acknowledged => lock.replicas(1, lease / 4),
            _ => lock,
        };
        let guard = lock.acquire().await.unwrap();
        if copied == Copied::Seen {
            let mut replica = cluster.nodes()[partner(primary)].connect().await;
            replica.command(&["READONLY"]).await.unwrap();
            let key = format!("lock:{name}");
            until("the replica has the lock", async || {
                replica.command(&["EXISTS", &key]).await.unwrap().int() == Some(1)
            })
            .await;
        }
        let token = guard.fencing_token().unwrap();
        let killed = round % 2 == 0;
        if killed {
            cluster.kill(primary).await;
        } else {
            cluster.nodes()[primary].pause().await;
        }
        let holding = tokio::spawn(hold(guard));
        let waits = clients[1].lock(&name).lease(lease).wait(Duration::from_secs(60));
        let waiting = tokio::spawn(async move { (waits.acquire().await, Instant::now()) });
        cluster.is_primary(partner(primary)).await;
        let promoted = Instant::now();
        let (counted, loss) = holding.await.unwrap();
        let (next, at) = waiting.await.unwrap();
        let next = next.unwrap();
        figures.rounds += 1;
        match loss {
            Some(_) => figures.lost += 1,
            None => figures.kept += 1,
        }
        figures.overlaps += u64::from(at < counted);
        figures.regressed += u64::from(next.fencing_token().unwrap() <= token);
        figures.longest = figures.longest.max(at.saturating_duration_since(promoted.max(counted)));
        assert!(next.release().await.unwrap());
        if killed {
            cluster.restart(primary).await;
        } else {
            cluster.nodes()[primary].resume().await;
        }
        follows(cluster, primary).await;
        cluster.owner(RedisCluster::slot(format!("lock:{name}"))).await;
    }
    figures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_primary_goes_is_told_or_holds_on_over_the_failover() {
    let _turn = alone().await;
    let mut cluster = RedisCluster::start().await;
    for (lease, copied) in
        [(SHORT, Copied::Acknowledged), (LONG, Copied::Seen), (SHORT, Copied::Perhaps)]
    {
        let figures = run(&mut cluster, lease, copied).await;
        println!(
            "P22, P23 cluster: primaries killed or stopped under a lock of {lease:?}{}, {} times: {} guards lost, {} kept over the \
             failover, overlaps {}, tokens that fell back {}; the next had it {:.0} ms at most after that",
            match copied {
                Copied::Perhaps => "",
                Copied::Seen => " that the replica had",
                Copied::Acknowledged => " that the replica acknowledged",
            },
            figures.rounds,
            figures.lost,
            figures.kept,
            figures.overlaps,
            figures.regressed,
            ms(figures.longest),
        );
        if copied != Copied::Perhaps {
            assert_eq!((figures.overlaps, figures.regressed), (0, 0), "{figures:?}");
            let kept = if lease == LONG { figures.rounds } else { 0 };
            assert_eq!(
                figures.kept, kept,
                "a failover takes longer than {SHORT:?} and less than {LONG:?}"
            );
        }
    }
}

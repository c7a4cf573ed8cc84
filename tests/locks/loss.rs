//! P22: a holder is told of the loss before the server could give the lock away.

use std::time::Duration;

use larder::testing::{Cut, FaultProxy, RedisServer};
use larder::{CacheClient, Loss};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::common::place::{Place, plain};
use crate::workers;
use crate::{Lateness, alone, ends, ms, times, until_seen};

/// So many are tried at once: each mostly waits.
const AT_ONCE: u64 = 10;

const LEASE: Duration = Duration::from_millis(900);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_told_before_its_lock_is_free_when_its_connection_goes_silent() {
    let _turn = alone().await;
    connections_go_silent(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_on_a_cluster_is_told_before_its_lock_is_free_when_the_nodes_go_silent() {
    let _turn = alone().await;
    connections_go_silent(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn connections_go_silent(place: Place) {
    let mut margins = Vec::new();
    for first in (0..times(500)).step_by(AT_ONCE as usize) {
        let cache = place.client().await;
        let mut acquiring = JoinSet::new();
        for number in first..first + AT_ONCE {
            let lock = cache.lock(format!("silent-{number}")).lease(LEASE);
            acquiring.spawn(async move {
                // The silence begins at any moment between two renewals of each, and of one.
                tokio::time::sleep(LEASE.mul_f64(fastrand::f64() * 0.7)).await;
                lock.acquire().await.unwrap()
            });
        }
        let mut trials = JoinSet::new();
        let guards = acquiring.join_all().await;
        // The commands are lost, or the answers, or both.
        let turn = first / AT_ONCE;
        for proxy in place.proxies() {
            proxy.to_server().swallow(turn % 3 != 1);
            proxy.to_client().swallow(!turn.is_multiple_of(3));
        }
        for guard in guards {
            let key = guard.key().as_bytes().to_vec();
            let mut direct = place.direct_to(&String::from_utf8_lossy(&key)).await;
            let mut free = async move || {
                // When the server can give it away: not before that.
                let asked = Instant::now();
                let left = direct.command(&[&b"PTTL"[..], &key]).await.unwrap().int().unwrap();
                // Nothing is known of one that is gone.
                u64::try_from(left).ok().map(|left| asked + Duration::from_millis(left))
            };
            let before = free().await.expect("it is held");
            trials.spawn(async move {
                // What the guard claims, and not when a busy machine lets anybody hear of it.
                let mut claimed = Instant::now();
                loop {
                    let seen = Instant::now();
                    match guard.valid_for() {
                        Duration::ZERO => break,
                        left => claimed = seen + left,
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await; // sampled
                }
                assert_eq!(ends("the loss", guard.lost()).await, Loss::Expired);
                // Of the first look a renewal that was under way knows nothing, and the second may come late.
                let free = free().await.map_or(before, |after| after.max(before));
                free.saturating_duration_since(claimed)
            });
        }
        margins.extend(trials.join_all().await);
        for proxy in place.proxies() {
            proxy.to_server().swallow(false);
            proxy.to_client().swallow(false);
            proxy.cut(Cut::Reset);
        }
    }
    let mut swallowed = 0;
    for proxy in place.proxies() {
        let bytes = proxy.to_server().swallowed() + proxy.to_client().swallowed();
        assert!(bytes > 0, "nothing was swallowed");
        swallowed += bytes;
    }
    margins.sort();
    println!(
        "P22{}: {} holders whose connections went silent ({swallowed} bytes swallowed), given up before the end with a lease of {LEASE:?}: margin \
         min {:.1} ms, median {:.1} ms",
        place.name(),
        margins.len(),
        ms(margins[0]),
        ms(margins[margins.len() / 2])
    );
    assert!(margins[0] > Duration::ZERO, "{margins:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_told_within_a_renewal_that_its_lock_was_deleted() {
    let _turn = alone().await;
    locks_are_deleted(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_told_within_a_renewal_that_its_lock_on_a_cluster_was_deleted() {
    let _turn = alone().await;
    locks_are_deleted(Place::cluster(plain).await).await;
}

async fn locks_are_deleted(place: Place) {
    let cache = place.client().await;
    let every = Duration::from_millis(100);
    let (mut took, machine) = (Vec::new(), Lateness::watch());
    for first in (0..times(500)).step_by(AT_ONCE as usize) {
        let mut trials = JoinSet::new();
        for number in first..first + AT_ONCE {
            let mut direct = place.direct_to(&format!("lock:deleted-{number}")).await;
            let lock = cache.lock(format!("deleted-{number}")).lease(every * 30).renew_every(every);
            trials.spawn(async move {
                let guard = lock.acquire().await.unwrap();
                tokio::time::sleep(every.mul_f64(fastrand::f64() * 3.0)).await;
                let key = format!("lock:deleted-{number}");
                let before = Instant::now();
                let deleted = direct.command(&["DEL", key.as_str()]).await.unwrap();
                assert_eq!(deleted.int(), Some(1));
                assert_eq!(ends("the loss", guard.lost()).await, Loss::Taken);
                before.elapsed()
            });
        }
        took.extend(trials.join_all().await);
    }
    took.sort();
    let (most, machine) = (took[took.len() - 1], machine.most().await);
    println!(
        "P22{}: {} locks deleted by another, renewed every {every:?}: told after at most {:.1} ms, median {:.1} ms \
         (a timer was {:.1} ms late)",
        place.name(),
        took.len(),
        ms(most),
        ms(took[took.len() / 2]),
        ms(machine)
    );
    assert!(most < every + Duration::from_millis(50) + machine, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_past_its_lease_goes_on_without_its_lock() {
    let _turn = alone().await;
    a_process_stands_still(Place::one(plain).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stood_still_past_its_lease_goes_on_without_its_lock_on_a_cluster() {
    let _turn = alone().await;
    a_process_stands_still(Place::cluster(plain).await).await;
}

async fn a_process_stands_still(place: Place) {
    let cache = place.client().await;
    let mut worker = workers::start(&place.url()).await;
    let (mut rounds, mut late) = (0, 0);
    for _ in 0..times(30) {
        worker.tell("work slow 300").await;
        worker.answer("holding").await;
        worker.stop().await;
        let guard = cache.lock("slow").wait(Duration::from_secs(10)).acquire().await.unwrap();
        worker.go_on().await;
        let said = worker.answer("dropped").await;
        let (polls, rest) = said.split_once(' ').unwrap();
        assert_eq!(rest, "false LockLost", "the guard is not valid, and the work has failed");
        // The stop may fall into a poll, which then ends after it; no other begins.
        late += polls.parse::<u64>().unwrap();
        rounds += 1;
        assert!(guard.release().await.unwrap());
        assert!(late <= rounds, "{late} polls of {rounds} works that were over");
    }
    println!(
        "P22{}: {rounds} processes stopped past their lease: work dropped {rounds} times, polls begun after the end 0 (in {late} \
         the process had been stopped)",
        place.name()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_said_once_that_it_is_over_does_not_come_back() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let cache = CacheClient::connect(proxy.url()).await.unwrap();
    let lease = Duration::from_millis(200);
    let guard = cache.lock("late").lease(lease).renew_every(lease / 2).acquire().await.unwrap();
    // Renewals arrive, their answers do not before the end.
    proxy.to_client().delay(lease..lease * 2);
    let seen = proxy.to_server().frames();
    until_seen("a renewal is on its way", || proxy.to_server().frames() > seen).await;
    until_seen("the guard is over", || !guard.is_valid()).await;
    let waiting = tokio::spawn(guard.lost());
    for _ in 0..500 {
        assert!(!guard.is_valid(), "a guard came back");
        tokio::time::sleep(Duration::from_millis(1)).await; // sampled
    }
    assert_eq!(ends("the loss", waiting).await.unwrap(), Loss::Expired);
}

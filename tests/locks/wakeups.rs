//! P26: who waits takes a lock as soon as it is free; if nobody tells, at its next look; and nobody hangs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::redis1::Shared;
use larder::testing::RedisServer;
use larder::{CacheClient, LockBuilder};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::common::place::{Place, plain};
use crate::common::{calls, tracking};
use crate::workers::{self, Held};
use crate::{alone, cpu_time, ends, ms, quantile, times, until, until_seen};

/// What the promise allows.
const WOKEN: Duration = Duration::from_millis(50);

/// How often a lock is looked at whose changes are told, and whose are not.
const SAFETY: Duration = Duration::from_secs(1);
const LAST_POLL: Duration = Duration::from_millis(100);

/// What a timer adds, and what a machine adds that lets a process wait for once.
const LATE: Duration = Duration::from_millis(50);
const HELD_UP: Duration = Duration::from_millis(500);

async fn clients(place: &Place, count: usize) -> Vec<CacheClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(place.client().await);
    }
    clients
}

/// Every one of `waiters` takes the lock once, after the one before released it. How long each hand-over took.
async fn hand_over(locks: &[LockBuilder], waiters: usize) -> Vec<Duration> {
    let first = locks[0].acquire().await.unwrap();
    let released = Arc::new(Mutex::new(Instant::now()));
    let mut tasks = JoinSet::new();
    for number in 0..waiters {
        let lock = locks[number % locks.len()].clone().wait(Duration::from_secs(60));
        let released = Arc::clone(&released);
        tasks.spawn(async move {
            let guard = lock.acquire().await.unwrap();
            let took = released.lock().unwrap().elapsed();
            tokio::task::yield_now().await; // the work
            *released.lock().unwrap() = Instant::now();
            assert!(guard.release().await.unwrap());
            took
        });
    }
    // They stand in line.
    tokio::time::sleep(Duration::from_millis(20)).await;
    *released.lock().unwrap() = Instant::now();
    assert!(first.release().await.unwrap());
    ends("the waiters", tasks.join_all()).await
}

fn figure(place: &str, what: &str, mut waits: Vec<Duration>) -> (Duration, Duration) {
    waits.sort();
    let (p99, max) = (quantile(&waits, 0.99), waits[waits.len() - 1]);
    println!(
        "P26{place}: {what}: {} waits, p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, hung 0",
        waits.len(),
        ms(quantile(&waits, 0.5)),
        ms(p99),
        ms(max)
    );
    (p99, max)
}

/// Prints how long waits took, none of which may take longer than it is from one look to the next.
fn waits_end_with(place: &str, what: &str, took: Vec<Duration>, look: Duration) {
    let mut sorted = took.clone();
    sorted.sort();
    // All but a tenth, or the last of them.
    let most = sorted[sorted.len() - 1 - (sorted.len() / 10).max(1)];
    let (_, max) = figure(place, what, took);
    assert!(most < look + LATE && max < look + HELD_UP, "{most:?}, {max:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_who_wait_take_the_lock_one_after_the_other_as_it_comes_free() {
    let _turn = alone().await;
    a_hundred_wait(Place::one(plain).await, times(50)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_who_wait_on_a_cluster_take_the_lock_one_after_the_other_as_it_comes_free() {
    let _turn = alone().await;
    a_hundred_wait(Place::primaries(plain).await, times(30)).await;
}

async fn a_hundred_wait(place: Place, rounds: u64) {
    let clients = clients(&place, 4).await;
    for (what, fair) in
        [("100 waiters of 4 clients", false), ("100 waiters of 4 clients, fair", true)]
    {
        let mut waits = Vec::new();
        for round in 0..rounds {
            let locks: Vec<_> = clients
                .iter()
                .map(|cache| cache.lock(format!("{fair}-{round}")).fair(fair))
                .collect();
            waits.extend(hand_over(&locks, 100).await);
        }
        let (p99, _) = figure(place.name(), what, waits);
        assert!(p99 < WOKEN);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_in_four_processes_take_the_lock_one_after_the_other() {
    let _turn = alone().await;
    processes_wait(Place::one(plain).await, times(10_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_in_four_processes_take_the_lock_of_a_cluster_one_after_the_other() {
    let _turn = alone().await;
    processes_wait(Place::primaries(plain).await, times(10_000)).await;
}

async fn processes_wait(place: Place, count: u64) {
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(workers::start(&place.url()).await);
    }
    for worker in &mut workers {
        worker.tell("contend crowd 25 10000").await;
    }
    let (mut shares, begun) = ([0; 4], Instant::now());
    while shares.iter().sum::<u64>() < count {
        assert!(begun.elapsed() < Duration::from_secs(300), "{shares:?} of {count}");
        tokio::time::sleep(Duration::from_millis(50)).await; // polled
        for (share, worker) in shares.iter_mut().zip(&mut workers) {
            worker.tell("count").await;
            *share = worker.answer("count").await.parse::<u64>().unwrap();
        }
    }
    let mut all: Vec<Held> = Vec::new();
    for worker in &mut workers {
        worker.tell("enough").await;
    }
    for (number, worker) in workers.iter_mut().enumerate() {
        // Each of them has had it and gone, or this hangs.
        worker.answer("stopped").await;
        let path = place.nodes()[0].dir().join(format!("held-{number}"));
        worker.tell(&format!("log {}", path.display())).await;
        worker.answer("logged").await;
        let lines = std::fs::read_to_string(path).unwrap();
        all.extend(lines.lines().map(|line| line.parse::<Held>().unwrap()));
    }
    all.sort();
    // From when one gave it back until the next had it.
    let between = |pair: &[Held]| Duration::from_nanos(pair[1].from - pair[0].until);
    let waits: Vec<_> = all.windows(2).map(between).collect();
    let what = format!("100 waiters of 4 processes ({shares:?})");
    let (p99, _) = figure(place.name(), &what, waits);
    assert!(p99 < WOKEN);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_who_tells_the_lock_is_looked_at_often_enough() {
    let _turn = alone().await;
    let server = RedisServer::start().await;
    let mut locks = Vec::new();
    for _ in 0..2 {
        let client = larder::redis1::Client::open(server.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        locks.push(CacheClient::new(Shared(connection)).lock("polled"));
    }
    let mut waits = Vec::new();
    for _ in 0..times(20) {
        waits.extend(hand_over(&locks, 20).await);
    }
    waits_end_with("", "polling, 20 waiters of 2 clients without tracking", waits, LAST_POLL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_and_is_not_told_any_more_takes_the_lock_at_its_next_look() {
    let _turn = alone().await;
    tracked_connections_are_killed(Place::one(plain).await, times(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_on_a_cluster_and_is_not_told_any_more_takes_the_lock_at_its_next_look() {
    let _turn = alone().await;
    tracked_connections_are_killed(Place::primaries(plain).await, times(100)).await;
}

async fn tracked_connections_are_killed(place: Place, rounds: u64) {
    let clients = clients(&place, 2).await;
    let mut killed = 0;
    let mut took = Vec::new();
    for round in 0..rounds {
        let name = format!("killed-{}", round % 8);
        let server = &place.nodes()[place.at(&format!("lock:{name}"))];
        let (holds, waits) = (clients[0].lock(&name), clients[1].lock(&name));
        let guard = holds.acquire().await.unwrap();
        let waiting = tokio::spawn({
            let waits = waits.clone();
            async move { (waits.acquire().await.unwrap(), Instant::now()) }
        });
        until_seen("it waits", || clients[1].stats().locks.contended > round).await;
        // Those that were killed before come back after a pause.
        until("both are told", async || tracking(server).await.len() == 2).await;
        let mut kill = server.connect().await;
        for id in tracking(server).await {
            let answer = kill.command(&["CLIENT", "KILL", "ID", &id]).await.unwrap();
            killed += answer.int().unwrap();
        }
        let before = Instant::now();
        assert!(guard.release().await.unwrap());
        let (guard, at) = ends("the waiter", waiting).await.unwrap();
        took.push(at - before);
        assert!(guard.release().await.unwrap());
    }
    println!("P26{}: {killed} tracked connections killed", place.name());
    assert_eq!(killed as u64, rounds * 2);
    waits_end_with(place.name(), "tracked connections killed at the release", took, SAFETY);
}

/// How many trials run at once: more of them measure how late a timer is on a machine that is busy.
const AT_ONCE: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_and_whose_wake_up_is_lost_takes_the_lock_at_its_next_look() {
    let _turn = alone().await;
    wake_ups_are_lost(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_on_a_cluster_and_whose_wake_up_is_lost_takes_the_lock_at_its_next_look() {
    let _turn = alone().await;
    wake_ups_are_lost(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn wake_ups_are_lost(place: Place) {
    let holder = place.client().await;
    let mut took = Vec::new();
    for round in 0..times(100) / AT_ONCE {
        let (mut guards, mut waiting) = (Vec::new(), JoinSet::new());
        for number in 0..AT_ONCE {
            let name = format!("lost-{round}-{number}");
            let proxy = &place.proxies()[place.at(&format!("lock:{name}"))];
            guards.push((holder.lock(&name).acquire().await.unwrap(), proxy));
            let cache = place.client().await;
            let waits = cache.lock(name);
            waiting.spawn(async move { (number, waits.acquire().await.unwrap(), Instant::now()) });
            until_seen("it waits", || cache.stats().locks.contended == 1).await;
        }
        // Replies go on: a stream that lacks one gives the next to who waited for that.
        place.proxies().iter().for_each(|proxy| proxy.to_client().swallow_pushes(true));
        let mut released = Vec::new();
        for (guard, proxy) in guards {
            let swallowed = proxy.to_client().swallowed();
            released.push(Instant::now());
            assert!(guard.release().await.unwrap());
            until_seen("the push is swallowed", || proxy.to_client().swallowed() > swallowed).await;
        }
        let taken = ends("the waiters", waiting.join_all()).await;
        place.proxies().iter().for_each(|proxy| proxy.to_client().swallow_pushes(false));
        for (number, guard, at) in taken {
            took.push(at.saturating_duration_since(released[number as usize]));
            assert!(guard.release().await.unwrap());
        }
    }
    waits_end_with(place.name(), "wake-ups lost", took, SAFETY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_between_a_try_and_its_wait_is_not_missed() {
    let _turn = alone().await;
    released_around_the_try(Place::one(plain).await, times(10_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_on_a_cluster_between_a_try_and_its_wait_is_not_missed() {
    let _turn = alone().await;
    released_around_the_try(Place::primaries(plain).await, times(5_000)).await;
}

async fn released_around_the_try(place: Place, rounds: u64) {
    let clients = clients(&place, 2).await;
    let mut took = Vec::new();
    let mut contended = 0;
    for round in 0..rounds {
        let name = format!("race-{}", round % 8);
        let guard = clients[0].lock(&name).acquire().await.unwrap();
        let waiting = tokio::spawn({
            let waits = clients[1].lock(&name);
            async move { (waits.acquire().await.unwrap(), Instant::now()) }
        });
        // Around the moment of the try.
        let begun = Instant::now();
        let pause = Duration::from_micros(fastrand::u64(..400));
        while begun.elapsed() < pause {
            tokio::task::yield_now().await;
        }
        let before = Instant::now();
        assert!(guard.release().await.unwrap());
        let (guard, at) = ends("the waiter", waiting).await.unwrap();
        took.push(at.saturating_duration_since(before));
        assert!(guard.release().await.unwrap());
        contended = clients[1].stats().locks.contended;
    }
    println!(
        "P26{}: released around the try: {contended} of {rounds} tries had found it held",
        place.name()
    );
    let (p99, _) = figure(place.name(), "released around the try", took);
    assert!(contended > 0 && contended < rounds && p99 < WOKEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_cost_next_to_nothing() {
    let _turn = alone().await;
    let place = Place::one(plain).await;
    let (server, clients) = (place.server(0), clients(&place, 4).await);
    let shared = clients[0].lock("shared").shared().acquire().await.unwrap();
    let cases = [
        ("plain", "plain", false),
        ("fair", "fair", true),
        ("behind a shared one", "shared", false),
    ];
    let mut guards = vec![shared];
    for (what, name, fair) in cases {
        if name != "shared" {
            guards.push(clients[0].lock(name).fair(fair).acquire().await.unwrap());
        }
        let mut tasks = JoinSet::new();
        for number in 0..100 {
            let lock = clients[number % 4].lock(name).fair(fair).wait(Duration::from_secs(60));
            tasks.spawn(async move { lock.acquire().await.map(drop) });
        }
        // They stand in line.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (asked, cpu) = (calls(server, "eval").await, cpu_time());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let asked = calls(server, "eval").await - asked;
        let share = (cpu_time() - cpu).as_secs_f64() / 2.0 * 100.0;
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        println!(
            "P26: 100 waiters of 4 clients for 2 s, {what}: {asked} tries and renewals, {share:.1} % of a processor"
        );
        assert!(asked < 200, "{what}: they wake each other up, {asked} tries");
        assert!(share < 25.0, "{what}: {share} %");
    }
}

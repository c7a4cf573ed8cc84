//! P15: what a lost connection vouched for is not served; and P14, answers that cross with changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::testing::{Resp, SentCommand};
use larder::{CacheClient, Namespace, ReadFrom};

use super::{QUIET, alone, settle, times, until, versions};
use crate::common::place::{Place, plain};
use crate::common::{full, tracking};

/// How many keys each server has.
const EACH: usize = 5;

/// Keys of every server, written by another client, and near.
struct Watched<'a> {
    place: &'a Place,
    values: Namespace<u64, u64>,
    // By server.
    keys: Vec<Vec<u64>>,
    // Of servers that nothing was done to: served near after the fault as before.
    kept: u64,
}

impl<'a> Watched<'a> {
    fn new(place: &'a Place, cache: &CacheClient) -> Self {
        Self { place, values: versions(cache), keys: place.numbers("v:", EACH), kept: 0 }
    }

    async fn write(&self, at: usize, value: u64) {
        write(self.place, at, &self.keys[at], value).await;
    }

    /// Writes everything, and reads until it is near.
    async fn settle(&self, value: u64) {
        for at in 0..self.keys.len() {
            self.write(at, value).await;
        }
        for key in self.keys.iter().flatten() {
            until("the value is near", async || settle(&self.values, *key).await == Some(value))
                .await;
        }
    }

    /// What the other servers vouched for is served near as before.
    async fn others_are_kept(&mut self, but: usize, value: u64) {
        for (at, keys) in self.keys.iter().enumerate() {
            for key in keys.iter().filter(|_| at != but) {
                assert_eq!(self.values.get(key).await.unwrap().as_deref(), Some(&value));
                assert_eq!(self.values.explain(key), Some(ReadFrom::Near), "of another server");
                self.kept += 1;
            }
        }
    }

    /// How many entries were to be kept in so many rounds.
    fn others(&self, rounds: u64) -> u64 {
        rounds * ((self.keys.len() - 1) * EACH) as u64
    }
}

/// Writes as another program does. A server that was just started may refuse for a while.
async fn write(place: &Place, at: usize, keys: &[u64], value: u64) {
    let mut direct = place.nodes()[at].connect().await;
    for key in keys {
        let args = ["SET".to_owned(), format!("v:{key}"), value.to_string()];
        until("it is written", async || !direct.command(&args).await.unwrap().is_error()).await;
    }
}

fn given_up(cache: &CacheClient) -> u64 {
    cache.stats().reads["v"].invalidations.lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_connection_vouched_for_is_not_served() {
    let _turn = alone().await;
    connections_are_killed(Place::one(plain).await, times(1_000).max(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_connection_to_a_node_vouched_for_is_not_served_and_the_rest_is() {
    let _turn = alone().await;
    connections_are_killed(Place::primaries(plain).await, times(500)).await;
}

async fn connections_are_killed(place: Place, rounds: u64) {
    let cache = place.client().await;
    let mut watched = Watched::new(&place, &cache);
    let (mut stale, mut killed) = (0_u64, 0_u64);
    for round in 1..=rounds {
        watched.settle(round).await;
        let before = given_up(&cache);
        let victim = round as usize % place.nodes().len();
        for id in tracking(&place.nodes()[victim]).await {
            let kill = ["CLIENT", "KILL", "ID", &id];
            if place.nodes()[victim].command(&kill).await == Resp::Int(1) {
                killed += 1;
            }
        }
        // Nobody is left to tell of this one.
        watched.write(victim, round + 1_000_000).await;
        for key in &watched.keys[victim] {
            // The entry went with the connection, not with a push: nothing older is served from then on.
            until("the entry is given up", async || {
                let told = given_up(&cache) > before;
                let seen = watched.values.get(key).await.unwrap().as_deref().copied();
                stale += u64::from(told && seen == Some(round));
                seen == Some(round + 1_000_000)
            })
            .await;
        }
        watched.others_are_kept(victim, round).await;
    }
    let lost = given_up(&cache);
    println!(
        "P15{}: {killed} tracked connections killed while another client wrote, {lost} entries given up with them, {stale} \
         stale after the notice, {} of other nodes kept",
        place.name(),
        watched.kept
    );
    let all = rounds * EACH as u64;
    assert!(killed >= rounds && lost >= all * 9 / 10, "{killed} killed, {lost} given up");
    assert_eq!((stale, watched.kept), (0, watched.others(rounds)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_with_other_data_leaves_nothing_stale() {
    let _turn = alone().await;
    servers_come_back_with_other_data(Place::one(plain).await, times(50).max(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_with_other_data_leaves_nothing_stale() {
    let _turn = alone().await;
    let rounds = if full() { 30 } else { 2 };
    servers_come_back_with_other_data(Place::primaries(plain).await, rounds).await;
}

async fn servers_come_back_with_other_data(mut place: Place, rounds: u64) {
    let cache = place.client().await;
    let (mut stale, mut kept) = (0, 0);
    for round in 0..rounds {
        let victim = round as usize % place.nodes().len();
        Watched::new(&place, &cache).settle(round).await;
        place.restart(victim).await;
        let mut watched = Watched::new(&place, &cache);
        watched.write(victim, 999_999).await;
        for key in &watched.keys[victim] {
            // Whoever is told of nothing may not serve the old value.
            let mut seen = None;
            until("a connection is back", async || {
                seen = watched.values.get(key).await.ok();
                seen.is_some()
            })
            .await;
            stale += u64::from(seen.flatten().as_deref() != Some(&999_999));
        }
        watched.others_are_kept(victim, round).await;
        assert_eq!(watched.kept, watched.others(1));
        kept += watched.kept;
    }
    println!(
        "P15{}: {rounds} servers killed and started again with other data, {stale} stale, {kept} entries of other nodes kept",
        place.name()
    );
    assert_eq!(stale, 0);
}

/// How late every answer is, also the one to `CLIENT TRACKING ON`.
const WITHHELD: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_before_tracking_is_acknowledged() {
    let _turn = alone().await;
    acknowledgements_are_withheld(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_node_is_kept_before_that_acknowledged_tracking() {
    let _turn = alone().await;
    acknowledgements_are_withheld(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn acknowledgements_are_withheld(place: Place) {
    let patient = CacheClient::builder().url(place.url()).deadline(Duration::from_secs(20));
    // One to each server: the first read of it does not have to dial.
    let cache = patient.connections(1).build().unwrap();
    let plain = cache.namespace::<u64, u64>("v").build().unwrap();
    for (at, keys) in place.numbers("v:", EACH).iter().enumerate() {
        write(&place, at, keys, 1).await;
        // The connections for data are there before the answers are late.
        plain.get(&keys[0]).await.unwrap();
    }
    for proxy in place.proxies() {
        proxy.log_commands(true);
        proxy.to_client().delay(WITHHELD..WITHHELD + Duration::from_millis(1));
    }
    // With it the connections that track are made: their greeting is late as well.
    let watched = Watched::new(&place, &cache);
    // Of every read: of which server, when it was over, and whether it was near.
    let reads = Mutex::new(Vec::new());
    for _ in 0..2 {
        let all = watched.keys.iter().enumerate();
        let all = all.flat_map(|(at, keys)| keys.iter().map(move |key| (at, key)));
        let all = all.map(async |(at, key)| {
            watched.values.get(key).await.unwrap();
            let near = watched.values.explain(key) == Some(ReadFrom::Near);
            reads.lock().unwrap().push((at, tokio::time::Instant::now(), near));
        });
        join_all(all).await;
    }
    let (mut kept, mut before) = (0, 0);
    for (at, proxy) in place.proxies().iter().enumerate() {
        proxy.to_client().delay(None);
        let tracks = |sent: &SentCommand| sent.args.get(1).is_some_and(|arg| arg == "TRACKING");
        let log = proxy.take_log();
        let asked = log.iter().find(|sent| tracks(sent)).expect("it is asked to track").at;
        let reads = reads.lock().unwrap();
        let early = reads.iter().filter(|(of, over, _)| *of == at && *over < asked + WITHHELD);
        before += early.clone().count();
        kept += early.filter(|(_, _, near)| *near).count();
    }
    for (at, keys) in watched.keys.iter().enumerate() {
        for key in keys {
            until("it is near once it is tracked", async || {
                watched.values.get(key).await.unwrap();
                watched.values.explain(key) == Some(ReadFrom::Near)
            })
            .await;
        }
        assert_eq!(tracking(&place.nodes()[at]).await.len(), 1);
    }
    println!(
        "P15{}: {before} reads before tracking was acknowledged; entries kept untracked: {kept}",
        place.name()
    );
    assert_eq!(kept, 0);
    // Each piece that comes is held back for as long: where a machine is busy, answers come in many.
    assert!(before > 0, "nothing was read before an acknowledgement");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_black_hole_a_value_is_served_for_two_seconds_at_most() {
    let _turn = alone().await;
    a_black_hole(Place::one(plain).await.behind_proxies().await, times(20).max(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_a_node_behind_a_black_hole_is_served_for_two_seconds_at_most() {
    let _turn = alone().await;
    let rounds = if full() { 20 } else { 1 };
    a_black_hole(Place::primaries(plain).await.behind_proxies().await, rounds).await;
}

async fn a_black_hole(place: Place, rounds: u64) {
    let cache = place.client().await;
    let mut watched = Watched::new(&place, &cache);
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        watched.settle(round).await;
        let victim = round as usize % place.nodes().len();
        let (proxy, key) = (&place.proxies()[victim], watched.keys[victim][0]);
        let before = proxy.to_client().swallowed();
        proxy.to_client().swallow(true);
        watched.write(victim, 999_999).await;
        let from = Instant::now();
        until("the silence is noticed", async || {
            let served =
                watched.values.get(&key).await.is_ok_and(|value| value.as_deref() == Some(&round));
            if served {
                longest = longest.max(from.elapsed());
            }
            !served
        })
        .await;
        assert!(proxy.to_client().swallowed() > before, "nothing was swallowed");
        watched.others_are_kept(victim, round).await;
        proxy.to_client().swallow(false);
        proxy.cut(larder::testing::Cut::Reset);
        until("a connection is back", async || watched.values.get(&key).await.is_ok()).await;
    }
    println!(
        "P15{}: served behind a black hole for {longest:?} at most (1 s to the next ping, 1 s for its answer), {} entries of \
         other nodes kept",
        place.name(),
        watched.kept
    );
    // And half a second for a busy machine.
    assert!(longest < Duration::from_millis(2_500), "{longest:?}");
    assert_eq!(watched.kept, watched.others(rounds));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_that_cross_with_changes_leave_no_stale_entry() {
    let _turn = alone().await;
    answers_cross_with_changes(Place::one(plain).await.behind_proxies().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_of_a_cluster_that_cross_with_changes_leave_no_stale_entry() {
    let _turn = alone().await;
    answers_cross_with_changes(Place::primaries(plain).await.behind_proxies().await).await;
}

async fn answers_cross_with_changes(place: Place) {
    for proxy in place.proxies() {
        proxy.to_client().slice(7);
    }
    let cache = CacheClient::builder().url(place.url()).build().unwrap();
    let values = versions(&cache);
    const KEYS: u64 = 50;
    let (rounds, mut stale) = (times(100_000) / KEYS / 4, 0_u64);
    let near = Arc::new(AtomicU64::new(0));
    let mut direct = place.direct().await;
    for round in 1..=rounds {
        let version = round.to_string();
        // Four readers a key race one write each; one of them reads many keys at once.
        let mut readers = Vec::new();
        for reader in 0..4 {
            let (values, near) = (values.clone(), Arc::clone(&near));
            readers.push(tokio::spawn(async move {
                if reader == 0 {
                    let keys: Vec<u64> = (0..KEYS).collect();
                    values.get_many(&keys).await.unwrap();
                    return;
                }
                for key in 0..KEYS {
                    values.get(&key).await.unwrap();
                    if values.explain(&key) == Some(ReadFrom::Near) {
                        near.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        for key in 0..KEYS {
            let key = format!("v:{key}");
            direct[place.at(&key)].command(&["SET", &key, &version]).await.unwrap();
        }
        for reader in readers {
            reader.await.unwrap();
        }
        if round % 20 == 0 || round == rounds {
            // The promise is about what is left when all is quiet.
            tokio::time::sleep(QUIET).await;
            for key in 0..KEYS {
                let value = values.get(&key).await.unwrap();
                stale += u64::from(value.as_deref() != Some(&round));
            }
        }
    }
    let near = near.load(Ordering::Relaxed);
    println!(
        "P14{}: {} races over a sliced wire, {near} reads near; stale entries after quiescence: {stale}",
        place.name(),
        rounds * KEYS * 4
    );
    assert!(near > rounds, "nothing was ever near");
    assert_eq!(stale, 0);
}

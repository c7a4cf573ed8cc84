//! The near cache on a cluster: what one node vouched for ends with it alone, and a slot that moves takes with it what
//! its old owner vouched for. P13 and P15.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::op::{Batch, Fetched, Lane, Op, Vouch};
use larder::store::{RedisStore, Store};
use larder::testing::{RedisCluster, Resp};
use larder::{CacheClient, Key, Namespace, ReadFrom};

use super::failover::{holds_back, partner};
use super::{Lateness, alone, client, ends, follows, ms, one_for_each_slot, times, until};

const KEYS: u64 = 60;

/// A node holds no new election before its last is that old (four times the timeout), and may count the votes of that once more: it
/// calls itself a primary with an epoch that is over, and is demoted again. What was written to it meanwhile is lost.
const ELECTION: Duration = Duration::from_secs(6);

/// How often a node is looked at which told of nothing.
const LOOK: Duration = Duration::from_secs(1);

/// How long a reader pauses.
const PACE: Duration = Duration::from_millis(1);

/// After so long without a write, every change has been told.
const QUIET: Duration = Duration::from_millis(100);

fn versions(cache: &CacheClient) -> Namespace<u64, u64> {
    cache.namespace("v").near(true).build().unwrap()
}

fn stored(key: u64) -> String {
    format!("v:{key}")
}

/// Writes as another program does: to whoever serves the key.
async fn write(cluster: &RedisCluster, owners: &[usize], key: u64, value: u64) {
    let args = ["SET".to_owned(), stored(key), value.to_string()];
    let reply = cluster.nodes()[owners[key as usize]].command(&args).await;
    assert_eq!(reply, Resp::Simple("OK".into()));
}

async fn owners(cluster: &RedisCluster) -> Vec<usize> {
    let mut owners = Vec::new();
    for key in 0..KEYS {
        owners.push(cluster.owner(RedisCluster::slot(stored(key))).await);
    }
    owners
}

/// Reads every key until it is near.
async fn settle(values: &Namespace<u64, u64>) {
    for key in 0..KEYS {
        until("a value is near", async || {
            values.get(&key).await.unwrap();
            values.explain(&key) == Some(ReadFrom::Near)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_by_another_client_on_any_node_is_seen() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let owners = owners(&cluster).await;
    for broadcast in [false, true] {
        let cache = client(&cluster).await;
        let values = cache.namespace("v").near(true).broadcast(broadcast).build().unwrap();
        let (rounds, mut longest, machine) = (times(100), Duration::ZERO, Lateness::watch());
        for round in 1..=rounds {
            for key in 0..KEYS {
                write(&cluster, &owners, key, round).await;
            }
            settle(&values).await;
            for key in 0..KEYS {
                write(&cluster, &owners, key, round + 1_000_000).await;
                longest = longest.max(last_old_read(&values, key, round + 1_000_000).await);
            }
        }
        let machine = machine.most().await;
        println!(
            "P13 cluster: {} changes by others on 3 nodes (broadcast: {broadcast}), the last old read {:.1} ms after one (a timer was \
             {:.1} ms late)",
            rounds * KEYS,
            ms(longest),
            ms(machine)
        );
        assert!(longest < Duration::from_millis(100) + machine, "{longest:?}");
    }
}

/// Reads until the new value is there. Answers how long after now, when it was written, the last read began that gave another.
async fn last_old_read(values: &Namespace<u64, u64>, key: u64, new: u64) -> Duration {
    let (written, mut last) = (Instant::now(), Duration::ZERO);
    ends("the new value", async {
        loop {
            let began = written.elapsed();
            if values.get(&key).await.unwrap().as_deref() == Some(&new) {
                return;
            }
            last = began;
            tokio::time::sleep(Duration::from_millis(1)).await; // a pace
        }
    })
    .await;
    last
}

/// What reads of keys gave while their primary went.
#[derive(Default)]
struct Served {
    over: AtomicBool,
    reads: AtomicU64,
    failed: AtomicU64,
    // Of these, older than a write that was acknowledged more than 100 ms before; and by how much at most.
    stale: AtomicU64,
    behind_micros: AtomicU64,
    // How late the machine was with a timer meanwhile.
    late_micros: AtomicU64,
}

/// Reads keys whose values only grow, until it is enough. `acked` is the newest value that was acknowledged, and since when.
async fn watch(
    values: Namespace<u64, u64>,
    keys: Vec<u64>,
    acked: Arc<Mutex<(u64, Instant)>>,
    served: Arc<Served>,
) {
    while !served.over.load(Ordering::Relaxed) {
        for key in &keys {
            let (newest, since) = *acked.lock().unwrap();
            let began = Instant::now();
            let Ok(value) = values.get(key).await else {
                served.failed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            served.reads.fetch_add(1, Ordering::Relaxed);
            if *value.expect("it is never deleted") < newest {
                let behind = began.saturating_duration_since(since);
                served.behind_micros.fetch_max(behind.as_micros() as u64, Ordering::Relaxed);
                served.stale.fetch_add(u64::from(behind > QUIET), Ordering::Relaxed);
            }
        }
        let paused = Instant::now();
        tokio::time::sleep(PACE).await; // a pace
        let late = paused.elapsed().saturating_sub(PACE);
        served.late_micros.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
    }
}

/// Fails primaries over under near entries, on request or by killing them.
async fn near_entries_over_failovers(how: &str, killed: bool, rounds: u64) {
    let mut cluster = RedisCluster::start().await;
    let cache = client(&cluster).await;
    let values = versions(&cache);
    // By primary, as they were at the start; each is followed by its replica, three further on.
    let mut shares: [Vec<u64>; 3] = Default::default();
    for key in 0..KEYS {
        shares[usize::from(RedisCluster::slot(stored(key))) * 3 / 16_384].push(key);
    }
    let (mut primaries, mut took_over) = ([0, 1, 2], [None; 6]);
    let served = Arc::<Served>::default();
    let (mut kept, mut given_up, mut longest) = (0, 0, Duration::ZERO);
    for round in 1..=rounds {
        let (victim, old) = (round as usize % 3, round * 10);
        for (share, primary) in shares.iter().zip(primaries) {
            for key in share {
                let set = ["SET".to_owned(), stored(*key), old.to_string()];
                assert!(!cluster.nodes()[primary].command(&set).await.is_error());
            }
        }
        settle(&values).await;
        let replica = partner(primaries[victim]);
        until("the replica has the newest value", async || {
            let mut direct = cluster.nodes()[replica].connect().await;
            direct.command(&["READONLY"]).await.unwrap();
            let last = stored(*shares[victim].last().unwrap());
            direct.command(&["GET", &last]).await.unwrap().text() == Some(old.to_string())
        })
        .await;
        let before = cache.stats().reads["v"].invalidations.total();
        let acked = Arc::new(Mutex::new((old, Instant::now())));
        served.over.store(false, Ordering::Relaxed);
        let watching = tokio::spawn(watch(
            values.clone(),
            shares[victim].clone(),
            Arc::clone(&acked),
            Arc::clone(&served),
        ));
        if killed {
            cluster.kill(primaries[victim]).await;
            cluster.is_primary(replica).await;
        } else {
            if let Some(last) = took_over[replica] {
                tokio::time::sleep_until(last + ELECTION).await;
            }
            cluster.fail_over_to(replica).await;
            took_over[replica] = Some(tokio::time::Instant::now());
        }
        // Written by another client to the new primary, as soon as there is one.
        let mut direct = cluster.nodes()[replica].connect().await;
        for key in &shares[victim] {
            let set = ["SET".to_owned(), stored(*key), (old + 1).to_string()];
            until("the new primary is written to", async || {
                !direct.command(&set).await.unwrap().is_error()
            })
            .await;
        }
        let written = Instant::now();
        *acked.lock().unwrap() = (old + 1, written);
        for key in &shares[victim] {
            until("the new value is seen", async || {
                values.get(key).await.is_ok_and(|value| value.as_deref() == Some(&(old + 1)))
            })
            .await;
        }
        longest = longest.max(written.elapsed());
        // What the others vouched for is served as before.
        for key in
            shares.iter().enumerate().filter(|(at, _)| *at != victim).flat_map(|(_, keys)| keys)
        {
            assert_eq!(values.get(key).await.unwrap().as_deref(), Some(&old));
            assert_eq!(values.explain(key), Some(ReadFrom::Near), "of a node that stayed");
            kept += 1;
        }
        served.over.store(true, Ordering::Relaxed);
        watching.await.unwrap();
        given_up += cache.stats().reads["v"].invalidations.total() - before;
        if killed {
            cluster.restart(primaries[victim]).await;
        }
        follows(&cluster, primaries[victim]).await;
        primaries[victim] = replica;
    }
    let [reads, failed, stale, behind, late] =
        [&served.reads, &served.failed, &served.stale, &served.behind_micros, &served.late_micros]
            .map(|count| count.load(Ordering::Relaxed));
    println!(
        "P15 cluster: {how}, {rounds} times under near entries: {given_up} given up, {kept} of the other nodes kept; {reads} \
         reads of theirs, {failed} failed, {stale} stale 100 ms after a write, the oldest {:.1} ms (a timer was {:.1} ms late); the new value seen after \
         {:.0} ms at most",
        behind as f64 / 1000.0,
        late as f64 / 1000.0,
        ms(longest)
    );
    // Whoever is not told that a node has handed over finds it out at the next look.
    let unseen = if !killed && holds_back(&cluster).await { LOOK } else { Duration::ZERO };
    assert!(behind <= (QUIET + unseen).as_micros() as u64 + late, "{behind} µs");
    // All of the primary that went, each time: a third of the keys, or so.
    let went = rounds * KEYS / 4;
    assert!(given_up >= went && reads > went, "{given_up} given up, {reads} reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stale_is_served_when_a_replica_takes_over_on_request() {
    let _turn = alone().await;
    near_entries_over_failovers("CLUSTER FAILOVER", false, times(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stale_is_served_when_a_primary_is_killed() {
    let _turn = alone().await;
    near_entries_over_failovers("a primary killed", true, times(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_takes_with_it_what_was_near() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let cache = client(&cluster).await;
    let mut mover = cluster.mover().await;
    let keys = one_for_each_slot("moved", times(200).max(20) as u16);
    let values = cache.namespace::<u64, u64>("moved").near(true).build().unwrap();
    let (mut longest, mut near, machine) = (Duration::ZERO, 0, Lateness::watch());
    for key in &keys {
        let slot = RedisCluster::slot(key);
        let number: u64 = key.strip_prefix("moved:").unwrap().parse().unwrap();
        cluster.nodes()[0].command(&["SET", key, "1"]).await;
        until("the value is near", async || {
            values.get(&number).await.unwrap();
            values.explain(&number) == Some(ReadFrom::Near)
        })
        .await;
        near += 1;
        assert_eq!(mover.move_slot(slot, 0, 1).await, 1);
        cluster.nodes()[1].command(&["SET", key, "2"]).await;
        longest = longest.max(last_old_read(&values, number, 2).await);
    }
    let machine = machine.most().await;
    println!(
        "P13 cluster: {near} slots moved under near entries, the last old read {:.1} ms after the new owner's value (a timer was {:.1} ms \
         late)",
        ms(longest),
        ms(machine)
    );
    assert!(longest < Duration::from_millis(100) + machine, "{longest:?}");
}

/// Reads a key over the tracked lane until it is vouched for.
async fn vouched(store: &RedisStore, key: &str) -> (Fetched, Vouch) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let op = Op::Fetch { keys: vec![Key::new(key).unwrap()] };
        let replies = store.run(Batch::one("test", op).on(Lane::Tracked)).await.unwrap();
        let vouch = replies.vouch().copied();
        let found = replies.into_one().unwrap().into_fetched().unwrap().remove(0);
        match vouch {
            Some(vouch) if vouch.holds() => return (found, vouch),
            _ => assert!(Instant::now() < deadline, "nothing vouches for {key}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missing_is_not_vouched_for_once_its_slot_is_anothers_though_nobody_asks() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let store = Arc::new(RedisStore::open(&cluster.url()).unwrap());
    let mut mover = cluster.mover().await;
    let keys = one_for_each_slot("missing", times(50).max(5) as u16);
    // Of the same node, in a slot that does not move.
    let stays = one_for_each_slot("stays", keys.len() as u16 + 1).pop().unwrap();
    let mut longest = Duration::ZERO;
    for key in &keys {
        let (found, vouch) = vouched(&store, key).await;
        assert_eq!(found, Fetched::MISSING);
        let (_, same_node) = vouched(&store, &stays).await;
        assert!(vouch.is(&same_node), "both are of the first node");
        assert_eq!(mover.move_slot(RedisCluster::slot(key), 0, 1).await, 0);
        let moved = Instant::now();
        // Nothing is asked meanwhile: the store looks by itself.
        until("the vouch ends", async || !vouch.holds()).await;
        longest = longest.max(moved.elapsed());
        let (_, vouch) = vouched(&store, key).await;
        assert!(vouch.holds());
    }
    println!(
        "P15 cluster: {} slots moved under keys read as missing, the old owner's vouch ended after {:.0} ms at most (a \
         look a second)",
        keys.len(),
        ms(longest)
    );
    assert!(longest < Duration::from_millis(1_600), "{longest:?}");
}

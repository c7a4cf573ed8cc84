//! P11: slots move back and forth under load, and nobody notices.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::{RedisCluster, RedisServer};
use larder::{CacheClient, Direction, Error, ErrorKind, Outcome};
use tokio::task::JoinSet;

use super::{alone, client, one_for_each_slot, times};

const WRITERS: usize = 16;

#[derive(Default)]
struct Written {
    acked: Vec<(String, String)>,
    failed: Vec<(String, Error)>,
    calls: u64,
    // What was read and is not what the same task wrote before.
    wrong: u64,
}

/// Pushes, writes, reads and deletes: every kind of call on one key, whose slot moves.
async fn work(
    cache: CacheClient,
    writer: usize,
    lists: Arc<Vec<String>>,
    shared: Arc<Shared>,
) -> Written {
    let mut written = Written::default();
    for number in 0_u64.. {
        if shared.over.load(Ordering::Relaxed) {
            return written;
        }
        // Every other one is in the slot that moves at the moment.
        let now = shared.slot.load(Ordering::Relaxed) as usize;
        let at = if number % 2 == 0 { now } else { fastrand::usize(..lists.len()) };
        let list = &lists[at];
        let id = format!("{writer}-{number}");
        match cache.push_to_list(list, &id, Direction::Right).await {
            Ok(_) => written.acked.push((list.clone(), id)),
            Err(error) => written.failed.push((id, error)),
        }
        written.calls += 1;
        // Namespaces void leases: scripts, and two keys in one call. Their keys have the list's slot by a hash tag.
        let values = cache.namespace::<u64, u64>(format!("{{{list}}}own{writer}"));
        let values = values.ttl(Duration::from_secs(600)).build().unwrap();
        let own = number % 3;
        let steps = async {
            values.set(&own, &number).await?;
            let first = values.get(&own).await?;
            let deleted = values.delete(&own).await?;
            let second = values.get(&own).await?;
            let text = format!("{{{list}}}text:{writer}");
            cache.set_value(&text, number, None).await?;
            let third = cache.get_value(&text).await?;
            let gone = cache.delete_key(&text).await?;
            let kept = first.as_deref() == Some(&number)
                && deleted
                && second.is_none()
                && third == Some(number.to_string())
                && gone == 1;
            Ok::<_, Error>(kept)
        };
        written.calls += 7;
        match steps.await {
            Ok(true) => {}
            Ok(false) => written.wrong += 1,
            Err(error) => written.failed.push((String::new(), error)),
        }
        shared.progress.fetch_add(1, Ordering::Relaxed);
    }
    unreachable!("the loop ends by itself")
}

/// What the writers and the test share.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    progress: AtomicU64,
    // The slot that moves.
    slot: AtomicU64,
}

struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<Written>,
}

impl Load {
    fn start(cache: &CacheClient, lists: &Arc<Vec<String>>) -> Self {
        let shared = Arc::<Shared>::default();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let lists = Arc::clone(lists);
            writers.spawn(work(cache.clone(), writer, lists, Arc::clone(&shared)));
        }
        Self { shared, writers }
    }

    /// Waits for more rounds of the writers.
    async fn goes_on(&self, rounds: u64) {
        let seen = self.shared.progress.load(Ordering::Relaxed);
        while self.shared.progress.load(Ordering::Relaxed) < seen + rounds {
            tokio::time::sleep(Duration::from_millis(1)).await; // progress is polled
        }
    }

    async fn end(self) -> Vec<Written> {
        self.shared.over.store(true, Ordering::Relaxed);
        self.writers.join_all().await
    }
}

/// How many acknowledged pushes are missing, and how many elements are there twice.
async fn compare(cache: &CacheClient, lists: &[String], written: &[Written]) -> (usize, usize) {
    let mut found: HashMap<(String, String), u32> = HashMap::new();
    for list in lists {
        for id in cache.get_list(list).await.unwrap() {
            *found.entry((list.clone(), id)).or_default() += 1;
        }
    }
    let acked = written.iter().flat_map(|one| &one.acked);
    let lost = acked.filter(|push| !found.contains_key(*push)).count();
    (lost, found.values().filter(|times| **times > 1).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_back_and_forth_under_load_and_nobody_notices() {
    let _turn = alone().await;
    let cluster = RedisCluster::start().await;
    let slots = times(1_000).max(100) as u16;
    let lists = Arc::new(one_for_each_slot("list", slots));
    let cache = client(&cluster).await;
    let load = Load::start(&cache, &lists);
    let mut mover = cluster.mover().await;
    let (mut moves, mut keys) = (0, 0);
    for (from, to) in [(0, 1), (1, 0)] {
        for slot in 0..slots {
            // Open for a while with a part of the keys on each side, while calls come in.
            load.shared.slot.store(slot.into(), Ordering::Relaxed);
            mover.open(slot, from, to).await;
            load.goes_on(4).await;
            keys += mover.move_keys(slot, from, to, 3).await;
            load.goes_on(4).await;
            loop {
                match mover.move_keys(slot, from, to, 10).await {
                    0 => break,
                    some => keys += some,
                }
            }
            mover.close(slot, from, to).await;
            moves += 1;
        }
    }
    let written = load.end().await;
    let (lost, doubled) = compare(&cache, &lists, &written).await;
    let acked: usize = written.iter().map(|one| one.acked.len()).sum();
    let calls: u64 = written.iter().map(|one| one.calls).sum();
    let wrong: u64 = written.iter().map(|one| one.wrong).sum();
    let errors: Vec<_> = written.iter().flat_map(|one| &one.failed).collect();
    let mut refusals = HashMap::new();
    for code in ["MOVED", "ASK", "TRYAGAIN", "CROSSSLOT"] {
        refusals.insert(code, cluster.refusals(code).await);
    }
    println!(
        "P11: {moves} slots moved with {keys} keys under {calls} calls; redirects followed: {} MOVED, {} ASK, {} TRYAGAIN; \
         errors {}; wrong reads {wrong}; {acked} pushes acked, {lost} lost, {doubled} doubled",
        refusals["MOVED"],
        refusals["ASK"],
        refusals["TRYAGAIN"],
        errors.len()
    );
    for (_, error) in errors.iter().take(5) {
        println!("    {error:?}");
    }
    assert_eq!((errors.len(), wrong, lost, doubled), (0, 0, 0, 0));
    // Many a move is learned of before a call meets it.
    assert!(refusals["MOVED"] >= u64::from(slots) / 20, "{refusals:?}");
    assert!(refusals["ASK"] > 0 && refusals["TRYAGAIN"] > 0, "{refusals:?}");
    assert_eq!(refusals["CROSSSLOT"], 0);
}

/// Ends all connections of clients to a node.
async fn kill_clients(node: &RedisServer) -> i64 {
    node.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.int().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_while_connections_are_killed_and_no_push_is_lost_or_doubled() {
    let _turn = alone().await;
    let cluster = RedisCluster::of(3, 0).await;
    let slots = times(400).max(40) as u16;
    let lists = Arc::new(one_for_each_slot("list", slots));
    let cache = client(&cluster).await;
    let load = Load::start(&cache, &lists);
    let mut killed = 0;
    for (from, to) in [(0, 1), (1, 0)] {
        for slot in 0..slots {
            if slot % 10 == 0 {
                killed += kill_clients(&cluster.nodes()[usize::from(slot / 10) % 3]).await;
            }
            load.shared.slot.store(slot.into(), Ordering::Relaxed);
            // Its own connections are killed as well.
            cluster.mover().await.move_slot(slot, from, to).await;
        }
    }
    let written = load.end().await;
    let (lost, doubled) = compare(&cache, &lists, &written).await;
    let acked: usize = written.iter().map(|one| one.acked.len()).sum();
    let failed: Vec<_> = written.iter().flat_map(|one| &one.failed).collect();
    println!(
        "P11: {} slots moved while {killed} connections were killed: {acked} pushes acked, {lost} lost, {doubled} doubled, \
         {} calls without an answer",
        2 * slots,
        failed.len()
    );
    for (_, error) in &failed {
        // What was cut in flight, and nothing that speaks of slots.
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::Unavailable, Outcome::Unknown),
            "{error:?}"
        );
    }
    assert_eq!((lost, doubled), (0, 0));
    assert!(killed > i64::from(slots / 10), "{killed}");
    assert!(acked > usize::from(slots), "{acked}");
}

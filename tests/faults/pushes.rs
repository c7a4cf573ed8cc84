//! P2, P3 and P4 in one run: writes that are not repeatable, while everything breaks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use larder::testing::Cut;
use larder::{CacheClient, Direction, Error, Outcome};
use tokio::task::JoinSet;

use crate::Place;
use crate::common::HANGS;
use crate::{alone, durable, full};

const WRITERS: usize = 32;
/// Of a cluster, each node has some.
const LISTS: usize = 6;
const DEADLINE: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Progress {
    acked: AtomicI64,
    done: AtomicBool,
}

#[derive(Default)]
struct Written {
    acked: Vec<String>,
    failed: Vec<(String, Error)>,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    acked: i64,
    unknown: i64,
    calls: i64,
}

fn list(writer: usize) -> String {
    format!("ids:{}", writer % LISTS)
}

fn count(writer: usize) -> String {
    format!("count:{}", writer % LISTS)
}

async fn write(cache: CacheClient, writer: usize, progress: Arc<Progress>) -> Written {
    let mut written = Written::default();
    for number in 0.. {
        if progress.done.load(Ordering::Relaxed) {
            return written;
        }
        let id = format!("{writer}-{number}");
        match cache.push_to_list(list(writer), &id, Direction::Right).await {
            Ok(_) => {
                progress.acked.fetch_add(1, Ordering::Relaxed);
                written.acked.push(id);
            }
            Err(error) => written.failed.push((id, error)),
        }
        if number % 4 == 0 {
            written.counted.calls += 1;
            match cache.incr_by(count(writer), 1).await {
                Ok(_) => written.counted.acked += 1,
                Err(error) if error.outcome() == Outcome::Unknown => written.counted.unknown += 1,
                Err(_) => {}
            }
        }
    }
    unreachable!("the loop ends by itself")
}

/// How often each fault was seen to happen.
#[derive(Debug, Default)]
struct Faults {
    killed_clients: i64,
    cut_before_reply: u64,
    pauses: u32,
    restarts: u32,
}

/// Breaks things in `rounds` of each fault, and on until `goal` pushes were acknowledged.
async fn disturb(place: &mut Place, progress: &Progress, (rounds, goal): (u32, i64)) -> Faults {
    let mut faults = Faults::default();
    for turn in 0_u32.. {
        // Each fault meets a client that works: one that was broken is first back.
        let (acked, waited) = (progress.acked.load(Ordering::Relaxed), Instant::now());
        while progress.acked.load(Ordering::Relaxed) < acked + 10 {
            assert!(waited.elapsed() < HANGS, "the client did not come back");
            tokio::time::sleep(Duration::from_millis(5)).await; // progress is polled
        }
        // Paced: a fault every 200 ms.
        tokio::time::sleep(Duration::from_millis(200)).await;
        if turn / 4 >= rounds && progress.acked.load(Ordering::Relaxed) >= goal {
            break;
        }
        match turn % 4 {
            0 => {
                let server = place.server(turn as usize / 4);
                let killed = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                faults.killed_clients += killed.int().expect("CLIENT KILL answers a number");
            }
            1 => {
                for proxy in place.proxies() {
                    proxy.cut_before_reply_of("RPUSH", Cut::Reset);
                }
            }
            2 => {
                let server = place.server(turn as usize / 4);
                server.pause().await;
                tokio::time::sleep(Duration::from_millis(300)).await; // the fault's length
                server.resume().await;
                faults.pauses += 1;
            }
            _ => {
                let at = turn as usize / 4 % place.nodes().len();
                let before = place.nodes()[at].pid();
                place.kill(at).await;
                // Away for longer than the deadline: the calls of this time cannot be sent.
                tokio::time::sleep(DEADLINE * 3 / 2).await;
                place.restart(at).await;
                assert_ne!(place.nodes()[at].pid(), before);
                place.serves(at).await;
                faults.restarts += 1;
            }
        }
    }
    progress.done.store(true, Ordering::Relaxed);
    faults.cut_before_reply = place.cuts();
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_pushes_are_there_once_and_refused_ones_never() {
    let _turn = alone().await;
    let wanted = if full() { (100, 100_000) } else { (8, 20_000) };
    pushes_are_there_once("", Place::one(durable).await.behind_proxies().await, wanted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_pushes_to_a_cluster_are_there_once_and_refused_ones_never() {
    let _turn = alone().await;
    let wanted = if full() { (60, 100_000) } else { (3, 10_000) };
    pushes_are_there_once(
        " cluster of three",
        Place::primaries(durable).await.behind_proxies().await,
        wanted,
    )
    .await;
}

async fn pushes_are_there_once(name: &str, mut place: Place, (rounds, goal): (u32, i64)) {
    place.proxies().iter().for_each(|proxy| proxy.log_commands(true));
    let cache = CacheClient::builder().url(place.url()).deadline(DEADLINE).build().unwrap();

    let progress = Arc::new(Progress::default());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(cache.clone(), writer, Arc::clone(&progress)));
    }
    let faults = disturb(&mut place, &progress, (rounds, goal)).await;
    let written = writers.join_all().await;

    // A call that was given up may still be on its way.
    cache.close().await;
    while place.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await; // the end of connections is polled
    }
    let mut found: HashMap<String, u32> = HashMap::new();
    // A list is read in one answer, which a build without optimisation needs longer for than a second.
    let after = CacheClient::builder().url(place.url()).deadline(HANGS).build().unwrap();
    let mut last = 0;
    for some in 0..LISTS {
        for id in after.get_list(list(some)).await.unwrap() {
            *found.entry(id).or_default() += 1;
        }
        let counted = after.get_value(count(some)).await.unwrap().expect("the counter exists");
        last += counted.parse::<i64>().expect("the counter is a number");
    }
    // A call is sent again to a node of a cluster that refused it, being not ready: that was not applied.
    let mut sends: HashMap<Vec<u8>, (i64, i64)> = HashMap::new();
    let (mut increments_sent, mut increments_refused) = (0, 0);
    for sent in place.proxies().iter().flat_map(|proxy| proxy.take_log()) {
        match &*sent.args[0] {
            b"RPUSH" => {
                let (all, refused) = sends.entry(sent.args[2].to_vec()).or_default();
                *all += 1;
                *refused += i64::from(sent.refused);
            }
            b"INCRBY" => {
                increments_sent += 1;
                increments_refused += i64::from(sent.refused);
            }
            _ => {}
        }
    }

    let acked: Vec<&String> = written.iter().flat_map(|one| &one.acked).collect();
    let lost = acked.iter().filter(|id| !found.contains_key(**id)).count();
    let doubled = found.values().filter(|times| **times > 1).count();
    // By outcome: how many, and how many of them are in the list.
    let mut failed: HashMap<Outcome, (usize, usize)> = HashMap::new();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (id, error) in written.iter().flat_map(|one| &one.failed) {
        let (count, applied) = failed.entry(error.outcome()).or_default();
        *count += 1;
        *applied += usize::from(found.contains_key(id));
        let code = error.code().unwrap_or_default();
        *kinds.entry(format!("{:?} {:?} {code}", error.outcome(), error.kind())).or_default() += 1;
    }
    let of = |outcome| failed.get(&outcome).copied().unwrap_or_default();
    let (unknown, unknown_applied) = of(Outcome::Unknown);
    let (not_sent, not_sent_applied) = of(Outcome::NotSent);
    let (rejected, rejected_applied) = of(Outcome::Rejected);
    let again = |refused: i64| if place.is_cluster() { refused } else { 0 };
    let most_sends = sends.values().map(|(all, refused)| all - again(*refused)).max();
    let most_sends = most_sends.unwrap_or_default();
    let refused: i64 = sends.values().map(|(_, refused)| refused).sum();

    let sum = |part: fn(&Counted) -> i64| written.iter().map(|one| part(&one.counted)).sum::<i64>();
    let (incr_acked, incr_unknown, incr_calls) =
        (sum(|one| one.acked), sum(|one| one.unknown), sum(|one| one.calls));

    println!(
        "P2{name}: {} acked, {lost} lost, {doubled} doubled, {unknown} unknown (of which {unknown_applied} applied)",
        acked.len()
    );
    println!(
        "P3{name}: max sends per id = {most_sends} ({refused} more were refused); INCR {incr_acked} acked / {last} final / \
         {incr_unknown} unknown"
    );
    println!(
        "P4{name}: NotSent {not_sent}, applied {not_sent_applied}; Rejected {rejected}, applied {rejected_applied}; \
         Unknown {unknown}, applied {unknown_applied}; {kinds:?}"
    );
    println!("    {faults:?}, {} connections", place.accepts());
    assert!(acked.len() as i64 >= goal);
    assert_eq!((lost, doubled), (0, 0));
    assert_eq!(most_sends, 1, "a push was written twice");
    let increments_sent = increments_sent - again(increments_refused);
    assert!(increments_sent <= incr_calls, "{increments_sent} sends for {incr_calls} calls");
    assert!(refused > 0 || !place.is_cluster(), "a node that was started refuses for a while");
    assert!((incr_acked..=incr_acked + incr_unknown).contains(&last));
    assert_eq!((not_sent_applied, rejected_applied), (0, 0));
    assert!(not_sent > 0 && unknown > 0 && unknown_applied > 0, "the faults were too mild");
    assert!(faults.pauses >= rounds && faults.restarts >= rounds, "{faults:?}");
    assert!(faults.killed_clients >= i64::from(rounds), "{faults:?}");
    assert!(faults.cut_before_reply >= u64::from(rounds), "{faults:?}");
}

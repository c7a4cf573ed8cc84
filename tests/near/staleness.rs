//! P13: with healthy connections, a read that began 100 ms after a write was acknowledged never gives the older value.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::common::place::{Place, plain};
use super::ledger::Ledger;
use super::{Lateness, alone, times, versions};

const KEYS: u64 = 200;
const READERS: u64 = 8;
const WRITERS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_follow_writes_of_every_kind_within_100_ms() {
    let _turn = alone().await;
    reads_follow_writes(Place::one(plain).await, times(1_000_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_of_a_cluster_follow_writes_of_every_kind_within_100_ms() {
    let _turn = alone().await;
    reads_follow_writes(Place::cluster(plain).await, times(1_000_000)).await;
}

async fn reads_follow_writes(place: Place, all: u64) {
    // Which server has a key.
    let at: Arc<[usize]> = (0..KEYS).map(|key| place.at(&format!("v:{key}"))).collect();
    let ledger = Arc::new(Ledger::new(KEYS));
    let over = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));

    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (ledger, over, written) =
            (Arc::clone(&ledger), Arc::clone(&over), Arc::clone(&written));
        let mut raw = place.direct().await;
        let (at, other) = (Arc::clone(&at), place.client().await);
        writers.push(tokio::spawn(async move {
            let values = other.namespace::<u64, u64>("v").build().unwrap();
            let mut version = 1;
            while !over.load(Ordering::Relaxed) {
                let key = writer + WRITERS * fastrand_below(KEYS / WRITERS, version);
                let (name, text) = (format!("v:{key}"), version.to_string());
                let raw = &mut raw[at[key as usize]];
                // Beside the key, so in its slot.
                let aside = format!("aside:{writer}:{{{name}}}");
                match version % 9 {
                    0 => _ = raw.command(&["SET", &name, &text]).await.unwrap(),
                    1 => {
                        let script = "return redis.call('SET', KEYS[1], ARGV[1])";
                        _ = raw.command(&["EVAL", script, "1", &name, &text]).await.unwrap();
                    }
                    2 => _ = raw.command(&["MSET", &name, &text, &aside, "x"]).await.unwrap(),
                    3 => {
                        _ = raw.command(&["SET", &aside, &text]).await.unwrap();
                        _ = raw.command(&["RENAME", &aside, &name]).await.unwrap();
                    }
                    4 => {
                        ledger.deleting(key, version);
                        _ = raw.command(&["DEL", &name]).await.unwrap();
                    }
                    5 => values.set(&key, &version).await.unwrap(),
                    6 => other.set_value(&name, version, None).await.unwrap(),
                    7 => {
                        _ = raw.command(&["SET", &name, &text, "PX", "60000"]).await.unwrap();
                        _ = raw.command(&["PEXPIRE", &name, "50000"]).await.unwrap();
                    }
                    _ => {
                        let group = other.transaction().set_value(&name, version, None);
                        group.run().await.unwrap();
                    }
                }
                ledger.acked(key, version);
                version += 1;
                written.fetch_add(1, Ordering::Relaxed);
                // Writers that never rest leave nothing to be near.
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        }));
    }

    let (reads, machine) = (all / READERS, Lateness::watch());
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let (cache, ledger) = (place.client().await, Arc::clone(&ledger));
        readers.push(tokio::spawn(async move {
            let values = versions(&cache);
            let (mut longest, mut stale) = (Duration::ZERO, 0_u64);
            for read in 0..reads {
                let key = fastrand_below(KEYS, read * READERS + reader);
                let began = Instant::now();
                let value = values.get(&key).await.unwrap();
                let verdict = ledger.judge(key, began, value.as_deref().copied());
                longest = longest.max(verdict.behind);
                stale += u64::from(verdict.stale);
                if read % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            (cache.stats().reads["v"].near_hits, longest, stale)
        }));
    }
    let (mut hits, mut longest, mut stale) = (0, Duration::ZERO, 0);
    for reader in readers {
        let (hit, long, old) = reader.await.unwrap();
        hits += hit;
        longest = longest.max(long);
        stale += old;
    }
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let written = written.load(Ordering::Relaxed);
    let machine = machine.most().await;
    println!(
        "P13{}: {all} reads, {hits} near, {written} writes of 9 kinds; largest staleness {longest:?}, stale after 100 ms: {stale} \
         (a timer was {machine:?} late)",
        place.name()
    );
    assert!(hits > all / 4 && written > 500, "{hits} hits and {written} writes try nothing");
    assert!(stale == 0 || longest < Duration::from_millis(100) + machine, "{stale} stale");
}

/// Keys in an order that looks like chance, the same in every run.
fn fastrand_below(below: u64, step: u64) -> u64 {
    let mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)) % below
}

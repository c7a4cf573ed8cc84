use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::MemoryStore;
use super::entry::ENTRY_OVERHEAD;
use crate::error::{ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::op::{Batch, Direction, Op, Reply};
use crate::store::Store;
use crate::ttl::{Expiry, Ttl};

mod changes;
mod locks;

fn run(store: &MemoryStore, op: Op) -> Result<Reply> {
    let done = store.run(Batch::one("test", op)).now_or_never().expect("the store never waits");
    done.and_then(|replies| replies.into_one())
}

fn key(name: impl AsRef<[u8]>) -> Key {
    Key::new(name).unwrap()
}

fn expiry(millis: u64) -> Expiry {
    Expiry::new(Duration::from_millis(millis)).unwrap()
}

fn set(store: &MemoryStore, name: &str, len: usize) -> Result<Reply> {
    run(store, write(name, len, None))
}

fn write(name: &str, len: usize, expiry: Option<Expiry>) -> Op {
    Op::Set { key: key(name), value: vec![b'v'; len].into(), expiry, only_if: None }
}

fn exists(store: &MemoryStore, name: &str) -> bool {
    run(store, Op::Exists { key: key(name) }).unwrap() == Reply::Bool(true)
}

fn get(store: &MemoryStore, name: &str) -> Option<Bytes> {
    run(store, Op::Get { key: key(name) }).unwrap().into_value().unwrap()
}

fn acquire(store: &MemoryStore, name: &str, millis: u64) -> Result<bool> {
    let op = Op::Acquire { key: key(name), id: Bytes::from_static(b"me"), expiry: expiry(millis) };
    run(store, op).and_then(Reply::into_bool)
}

/// Numbers from 0 to 1 whose small values are by far the most frequent (a power law).
fn skewed(random: &mut fastrand::Rng, keys: usize) -> usize {
    ((keys as f64).powf(random.f64()) - 1.0) as usize
}

#[test]
fn a_flood_of_mixed_sizes_and_types_stays_within_the_budget() {
    let store = MemoryStore::with_max_bytes(1 << 20);
    let mut random = fastrand::Rng::with_seed(1);
    let mut most = 0;
    for turn in 0..30_000 {
        let name = format!("k{}", random.u32(..5_000));
        let len = if turn % 100 == 0 { random.usize(..300_000) } else { random.usize(..2_000) };
        let value = Bytes::from(vec![b'v'; len]);
        let (field, key) = (Bytes::from(random.u8(..).to_string()), key(&name));
        let op = match random.u8(..4) {
            0 => Op::HashSet { key, field, value },
            1 => Op::ListPush { key, value, side: Direction::Left },
            2 => write(&name, len, Some(expiry(3_600_000))),
            _ => write(&name, len, None),
        };
        match run(&store, op) {
            Ok(_) => assert!(exists(&store, &name), "acknowledged and missing, turn {turn}"),
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::WrongType | ErrorKind::OutOfMemory),
                    "{error}"
                );
            }
        }
        most = most.max(store.bytes());
    }
    assert!(most <= 1 << 20, "{most} bytes of {} at the worst", 1 << 20);
    assert!(most > 900_000, "the budget was hardly used: {most} bytes");
}

#[test]
fn a_value_that_grows_under_pressure_is_still_there_afterwards() {
    let store = MemoryStore::with_max_bytes(256 << 10);
    for n in 0..1_000 {
        set(&store, &format!("other{n}"), 100).unwrap();
        // Everything else is used more than the list that grows.
        (0..n).rev().take(300).for_each(|n| drop(get(&store, &format!("other{n}"))));
        let element = Bytes::from(vec![b'e'; 100]);
        let op = Op::ListPush { key: key("list"), value: element, side: Direction::Right };
        let len = run(&store, op).unwrap().into_int().unwrap();
        let all = Op::ListRange { key: key("list"), start: 0, stop: -1 };
        let elements = run(&store, all).unwrap().into_list().unwrap();
        assert_eq!(elements.len() as i64, len, "turn {n}");
        assert!(store.bytes() <= store.max_bytes());
    }
}

#[test]
fn what_is_used_often_stays_better_than_first_in_first_out() {
    const KEYS: usize = 20_000;
    const ENTRY: u64 = 100;
    let store = MemoryStore::with_max_bytes(KEYS as u64 / 20 * (ENTRY_OVERHEAD + ENTRY + 6));
    let mut random = fastrand::Rng::with_seed(7);
    let (mut fifo, mut in_fifo) = (VecDeque::new(), vec![false; KEYS]);
    let (mut hits, mut fifo_hits, mut asked) = (0, 0, 0);
    for turn in 0..200_000 {
        // Every fourth read belongs to a scan that never comes back to a key soon.
        let at = if turn % 4 == 0 { turn / 4 % KEYS } else { skewed(&mut random, KEYS) };
        let name = format!("k{at:05}");
        let hit = get(&store, &name).is_some();
        if !hit {
            set(&store, &name, ENTRY as usize).unwrap();
        }
        let fifo_hit = in_fifo[at];
        if !fifo_hit {
            in_fifo[at] = true;
            fifo.push_back(at);
            if fifo.len() > KEYS / 20 {
                in_fifo[fifo.pop_front().unwrap()] = false;
            }
        }
        // The first half fills both.
        if turn >= 100_000 {
            asked += 1;
            hits += i32::from(hit);
            fifo_hits += i32::from(fifo_hit);
        }
    }
    let (ratio, fifo_ratio) =
        (f64::from(hits) / f64::from(asked), f64::from(fifo_hits) / f64::from(asked));
    assert!(ratio > fifo_ratio + 0.05 && ratio > 0.45, "{ratio:.3}, fifo {fifo_ratio:.3}");
}

#[test]
fn locks_survive_a_flood_and_do_not_take_the_budget_with_them() {
    let store = MemoryStore::with_max_bytes(64 << 10);
    for n in 0..50 {
        assert!(acquire(&store, &format!("lock:{n}"), 60_000).unwrap());
    }
    for n in 0..20_000 {
        set(&store, &format!("k{n}"), 50 + n % 400).unwrap();
        assert!(store.bytes() <= store.max_bytes());
    }
    assert!((0..50).all(|n| exists(&store, &format!("lock:{n}"))));
    // Locks are refused rather than evicted, and what is too large beside them as well.
    let mut held = 50;
    let refused = loop {
        match acquire(&store, &format!("lock:{held}"), 60_000) {
            Ok(taken) => assert!(taken),
            Err(error) => break error,
        }
        held += 1;
    };
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::OutOfMemory, Outcome::Rejected));
    assert!((0..held).all(|n| exists(&store, &format!("lock:{n}"))), "{held} locks");
    assert!(store.bytes() <= store.max_bytes());
    for n in 0..held {
        let op = Op::Release { key: key(format!("lock:{n}")), id: Bytes::from_static(b"me") };
        assert_eq!(run(&store, op).unwrap(), Reply::Bool(true));
    }
    set(&store, "large again", 50_000).unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_expired_lock_is_free_and_no_longer_pinned() {
    let store = MemoryStore::with_max_bytes(16 << 10);
    assert!(acquire(&store, "lock", 1_000).unwrap());
    assert!(acquire(&store, "lock", 9_000_000).unwrap(), "the same holder may ask again");
    tokio::time::advance(Duration::from_millis(999)).await;
    assert!(exists(&store, "lock"));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!exists(&store, "lock"));
    assert!(acquire(&store, "lock", 1_000).unwrap());
    tokio::time::advance(Duration::from_millis(1_000)).await;
    set(&store, "large", 15_000).unwrap();
}

#[tokio::test(start_paused = true)]
async fn later_writes_give_back_the_bytes_of_what_expired() {
    let store = MemoryStore::with_max_bytes(16 << 20);
    for n in 0..1_000 {
        run(&store, write(&format!("brief{n}"), 1_000, Some(expiry(1_000 + n)))).unwrap();
    }
    let full = store.lock().bytes();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(store.lock().bytes(), full, "nothing runs in the background");
    for _ in 0..100 {
        set(&store, "small", 1).unwrap();
    }
    let left = store.lock().bytes();
    assert!(left < 1_000, "{left} of {full} bytes are left after 100 writes");
    assert_eq!(store.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn counting_leaves_out_what_expired() {
    let store = MemoryStore::new();
    run(&store, write("brief", 10, Some(expiry(5)))).unwrap();
    set(&store, "lasting", 10).unwrap();
    assert_eq!(store.len(), 2);
    tokio::time::advance(Duration::from_millis(5)).await;
    assert_eq!((store.len(), store.bytes()), (1, ENTRY_OVERHEAD + 7 + 10));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_renewed_time_and_again_does_not_pile_up_expiries() {
    let store = MemoryStore::new();
    for _ in 0..50_000 {
        run(&store, Op::Expire { key: key("k"), expiry: expiry(1_000) }).unwrap();
        run(&store, write("k", 1, Some(expiry(1_000)))).unwrap();
    }
    assert!(store.lock().records() < 200, "{} records", store.lock().records());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_remaining_time_follows_the_clock_to_the_millisecond() {
    let store = MemoryStore::new();
    let ttl = || run(&store, Op::Ttl { key: key("k") }).unwrap().into_ttl().unwrap();
    assert_eq!(ttl(), Ttl::Missing);
    run(&store, write("k", 1, Some(expiry(1_500)))).unwrap();
    assert_eq!(ttl(), Ttl::Remaining(Duration::from_millis(1_500)));
    tokio::time::advance(Duration::from_micros(999_500)).await;
    assert_eq!(ttl(), Ttl::Remaining(Duration::from_millis(500)));
    run(&store, Op::IncrBy { key: key("k"), delta: 1 }).unwrap_err();
    run(&store, Op::Persist { key: key("k") }).unwrap();
    tokio::time::advance(Duration::from_secs(1_000_000)).await;
    assert_eq!(ttl(), Ttl::Persistent);
}

#[test]
fn what_is_larger_than_the_budget_is_refused_and_the_old_value_stays() {
    let store = MemoryStore::with_max_bytes(10_000);
    set(&store, "k", 5).unwrap();
    let error = set(&store, "k", 10_000).unwrap_err();
    assert_eq!(
        (error.kind(), error.outcome(), error.code()),
        (ErrorKind::OutOfMemory, Outcome::Rejected, Some("OOM"))
    );
    assert_eq!(get(&store, "k").map(|value| value.len()), Some(5));
    set(&store, "k", 9_000).unwrap();
    assert!(set(&store, "other", 10_000).is_err() && !exists(&store, "other"));
    // A collection meets the same limit in small steps.
    let push = || {
        let value = Bytes::from_static(&[0; 500]);
        run(&store, Op::ListPush { key: key("list"), value, side: Direction::Left })
    };
    let pushed = (0..100).take_while(|_| push().is_ok()).count();
    assert_eq!(pushed, 16);
    assert!(exists(&store, "list") && store.bytes() <= 10_000);
}

#[test]
fn a_store_without_memory_refuses_everything_and_loses_nothing_silently() {
    let store = MemoryStore::with_max_bytes(0);
    assert_eq!(set(&store, "k", 0).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(acquire(&store, "k", 10).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(get(&store, "k"), None);
}

#[test]
fn the_longest_expiry_is_kept_and_shown() {
    let store = MemoryStore::new();
    let longest = Expiry::new(Duration::from_millis((i64::MAX - (1 << 43)) as u64)).unwrap();
    run(&store, write("k", 1, Some(longest))).unwrap();
    let left = run(&store, Op::Ttl { key: key("k") }).unwrap().into_ttl().unwrap();
    let lost = longest.as_duration() - left.remaining().unwrap();
    assert!(lost < Duration::from_secs(60), "{lost:?}");
}

#[test]
fn a_collection_that_shrank_gives_back_its_slots() {
    let store = MemoryStore::new();
    for n in 0..10_000 {
        let value = Bytes::from(n.to_string());
        run(&store, Op::ListPush { key: key("l"), value, side: Direction::Right }).unwrap();
    }
    for n in 0..9_999 {
        let popped = run(&store, Op::ListPop { key: key("l"), side: Direction::Left }).unwrap();
        assert_eq!(popped, Reply::Value(Some(n.to_string().into())));
    }
    let slots = store.lock().slots_of_list(&key("l"));
    assert!(slots <= 64, "{slots} slots for one element");
}

#[test]
fn printing_the_store_shows_counts_and_no_contents() {
    let store = MemoryStore::with_max_bytes(1_000);
    let op = Op::Set { key: key("canary"), value: "canary".into(), expiry: None, only_if: None };
    run(&store, op).unwrap();
    let shown = format!("{store:?}");
    assert_eq!(shown, "MemoryStore { entries: 1, bytes: 268, max_bytes: 1000 }");
}

//! What the sinks are told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::{acquire, exists, expiry, get, key, run, set, write};
use crate::key::Key;
use crate::op::{Ask, Batch, Direction, Lane, LeaseState, Op, Replies};
use crate::store::{InvalidationSink, MemoryStore, Store, Sweeping};

#[derive(Default)]
struct Heard {
    keys: Mutex<Vec<Bytes>>,
    all: Mutex<Vec<Sweeping>>,
}

impl Heard {
    /// What was told since the last time.
    fn take(&self) -> Vec<Bytes> {
        std::mem::take(&mut self.keys.lock().unwrap())
    }
}

impl InvalidationSink for Heard {
    fn changed(&self, key: &[u8]) {
        self.keys.lock().unwrap().push(Bytes::copy_from_slice(key));
    }

    fn all_changed(&self, why: Sweeping) {
        self.all.lock().unwrap().push(why);
    }
}

fn watched(max_bytes: u64) -> (MemoryStore, Arc<Heard>) {
    let (store, heard) = (MemoryStore::with_max_bytes(max_bytes), Arc::new(Heard::default()));
    store.on_invalidation(heard.clone());
    tracked(&store, Op::Ping);
    (store, heard)
}

fn tracked(store: &MemoryStore, op: Op) -> Replies {
    let batch = Batch::one("test", op).on(Lane::Tracked);
    store.run(batch).now_or_never().expect("the store never waits").unwrap()
}

fn fetch(name: &str) -> Op {
    Op::Fetch { keys: vec![key(name)] }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_change_is_told() {
    let (store, heard) = watched(1 << 20);
    let k = || key("k");
    let value = || Bytes::from_static(b"v");
    let brief = expiry(50);
    let lease = k().lease();
    let take = |token: &'static str| Op::Lease {
        key: k(),
        token: Bytes::from_static(token.as_bytes()),
        expiry: expiry(1_000),
        ask: Ask::Missing,
    };
    let fill = |token: &'static str| Op::Fill {
        key: k(),
        token: Bytes::from_static(token.as_bytes()),
        value: value(),
        expiry: None,
        replaces: None,
    };
    let renew = |id: &'static str| Op::Renew {
        key: lease.clone(),
        id: Bytes::from_static(id.as_bytes()),
        expiry: expiry(2_000),
    };
    let (on_key, on_lease) = (vec![k()], vec![lease.clone()]);
    let steps: Vec<(Op, Vec<Key>)> = vec![
        (fetch("k"), vec![]),
        (take("one"), on_lease.clone()),
        (take("two"), vec![]),
        (renew("two"), vec![]),
        (renew("one"), on_lease.clone()),
        (fill("two"), vec![]),
        (fill("one"), vec![lease.clone(), k()]),
        (fetch("k"), vec![]),
        (take("three"), vec![]),
        (Op::Expire { key: k(), expiry: brief }, on_key.clone()),
        (Op::Persist { key: k() }, on_key.clone()),
        (Op::Overwrite { key: k(), value: value(), expiry: None }, on_key.clone()),
        (write("k", 3, Some(brief)), on_key.clone()),
        (Op::Delete { keys: vec![k()] }, on_key.clone()),
        (Op::Delete { keys: vec![k()] }, vec![]),
        (Op::IncrBy { key: k(), delta: 1 }, on_key.clone()),
        (Op::IncrBy { key: k(), delta: 1 }, on_key.clone()),
        (Op::Delete { keys: vec![k()] }, on_key.clone()),
        (Op::HashSet { key: k(), field: value(), value: value() }, on_key.clone()),
        (Op::HashDelete { key: k(), field: value() }, on_key.clone()),
        (Op::ListPush { key: k(), value: value(), side: Direction::Left }, on_key.clone()),
        (Op::ListPop { key: k(), side: Direction::Left }, on_key.clone()),
        (Op::Acquire { key: k(), id: value(), expiry: brief }, on_key.clone()),
        (Op::Release { key: k(), id: Bytes::new() }, vec![]),
        (Op::Release { key: k(), id: value() }, on_key.clone()),
        (take("one"), on_lease.clone()),
        (Op::Delete { keys: vec![k()] }, on_lease.clone()),
        (take("one"), on_lease),
        (Op::Overwrite { key: k(), value: value(), expiry: None }, vec![k(), lease.clone()]),
    ];
    let told = steps.len();
    for (op, expected) in steps {
        let asked = format!("{op:?}");
        run(&store, op).unwrap();
        let expected: Vec<_> = expected.iter().map(|key| key.bytes().clone()).collect();
        assert_eq!(heard.take(), expected, "{asked}");
    }
    println!("changes: {told} operations, each told as it should be");
}

#[tokio::test(start_paused = true)]
async fn an_expiry_is_told_by_the_operation_that_meets_it() {
    let (store, heard) = watched(1 << 20);
    for meet in ["read", "write of it", "delete", "another write", "count"] {
        run(&store, write("k", 1, Some(expiry(10)))).unwrap();
        tokio::time::advance(Duration::from_millis(9)).await;
        heard.take();
        assert_eq!(get(&store, "k").map(|value| value.len()), Some(1));
        assert!(heard.take().is_empty(), "{meet}: told too soon");
        tokio::time::advance(Duration::from_millis(1)).await;
        match meet {
            "read" => assert!(get(&store, "k").is_none()),
            "write of it" => drop(set(&store, "k", 2).unwrap()),
            "delete" => drop(run(&store, Op::Delete { keys: vec![key("k")] }).unwrap()),
            "another write" => drop(set(&store, "other", 1).unwrap()),
            _ => assert_eq!(store.len(), 1),
        }
        assert!(heard.take().contains(key("k").bytes()), "{meet}: not told");
    }
}

#[test]
fn whatever_the_budget_evicts_is_told_and_nothing_that_stays() {
    let (store, heard) = watched(256 << 10);
    let mut random = fastrand::Rng::with_seed(3);
    let (mut there, mut evicted) = (BTreeSet::new(), 0);
    for turn in 0..20_000 {
        let name = format!("k{}", random.u32(..2_000));
        let len = if turn % 200 == 0 { random.usize(..60_000) } else { random.usize(..1_000) };
        let value = Bytes::from(vec![b'v'; len]);
        let written = match random.u8(..3) {
            // Grows under pressure, and is put back.
            0 => Op::ListPush { key: key(&name), value, side: Direction::Left },
            1 => write(&name, len, Some(expiry(3_600_000))),
            _ => write(&name, len, None),
        };
        let written = run(&store, written);
        let told: BTreeSet<_> = heard.take().into_iter().collect();
        if written.is_ok() {
            assert!(told.contains(name.as_bytes()), "turn {turn}: the write was not told");
            there.insert(name.clone());
        }
        for gone in &told {
            let gone = std::str::from_utf8(gone).unwrap();
            if *gone != name {
                assert!(there.remove(gone) && !exists(&store, gone), "turn {turn}: it is there");
                evicted += 1;
            }
        }
        assert_eq!(store.len(), there.len(), "turn {turn}: something went without a word");
    }
    assert!(evicted > 1_000);
    println!("changes: {evicted} evictions, each told");
}

#[test]
fn a_lease_survives_a_flood() {
    let (store, heard) = watched(64 << 10);
    let take = |token: &'static [u8]| {
        let (token, expiry) = (Bytes::from_static(token), expiry(60_000));
        let lease = Op::Lease { key: key("hot"), token, expiry, ask: Ask::Missing };
        tracked(&store, lease).into_one().unwrap().into_leased().unwrap().lease
    };
    assert!(matches!(take(b"one"), LeaseState::Granted { digest: None }));
    heard.take();
    for n in 0..5_000 {
        set(&store, &format!("k{n}"), 200).unwrap();
    }
    assert!(!heard.take().contains(key("hot").lease().bytes()));
    assert!(matches!(take(b"two"), LeaseState::Held { remaining } if !remaining.is_zero()));
}

#[test]
fn nobody_is_told_before_somebody_reads_over_a_tracked_lane() {
    let (store, heard) = (MemoryStore::new(), Arc::new(Heard::default()));
    store.on_invalidation(heard.clone());
    set(&store, "k", 1).unwrap();
    assert!(acquire(&store, "lock", 1_000).unwrap());
    assert!(heard.take().is_empty());
    let plain = store.run(Batch::one("test", fetch("k"))).now_or_never().unwrap().unwrap();
    assert!(plain.vouch().is_none());
    assert!(tracked(&MemoryStore::new(), fetch("k")).vouch().is_none(), "without a sink");
    for lane in [Lane::Tracked, Lane::Broadcast("k".into())] {
        let batch = Batch::one("test", fetch("k")).on(lane);
        let replies = store.run(batch).now_or_never().unwrap().unwrap();
        assert!(replies.vouch().is_some_and(|vouch| vouch.holds()));
        set(&store, "k", 1).unwrap();
        assert_eq!(heard.take(), [key("k").bytes().clone()]);
    }
}

#[test]
fn closing_ends_the_vouch_before_it_is_told() {
    struct EndsFirst(Mutex<Option<crate::op::Vouch>>, Mutex<Vec<Sweeping>>);
    impl InvalidationSink for EndsFirst {
        fn changed(&self, _key: &[u8]) {}

        fn all_changed(&self, why: Sweeping) {
            assert!(!self.0.lock().unwrap().as_ref().unwrap().holds());
            self.1.lock().unwrap().push(why);
        }
    }
    let (store, heard) = watched(1 << 20);
    let sink = Arc::new(EndsFirst(Mutex::default(), Mutex::default()));
    store.on_invalidation(sink.clone());
    let vouch = tracked(&store, fetch("k")).vouch().cloned().unwrap();
    *sink.0.lock().unwrap() = Some(vouch);
    assert!(vouch.holds());
    store.close().now_or_never().expect("the store never waits");
    assert_eq!(*sink.1.lock().unwrap(), [Sweeping::Lost]);
    assert_eq!(*heard.all.lock().unwrap(), [Sweeping::Lost]);
    assert!(!tracked(&store, fetch("k")).vouch().unwrap().holds());
}

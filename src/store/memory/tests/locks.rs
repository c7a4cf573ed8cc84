//! Locks under a budget.

use super::*;
use crate::op::{LockMode, Locked};

fn lock(store: &MemoryStore, name: &str, id: &'static str, mode: LockMode) -> Result<Locked> {
    let id = Bytes::from_static(id.as_bytes());
    let op = Op::Lock { key: key(name), id, expiry: expiry(60_000), mode };
    run(store, op).and_then(Reply::into_locked)
}

fn unlock(store: &MemoryStore, name: &str, id: &'static str) -> bool {
    let op = Op::Unlock { key: key(name), id: Bytes::from_static(id.as_bytes()), shared: false };
    run(store, op).and_then(Reply::into_bool).unwrap()
}

fn fair() -> LockMode {
    LockMode::Exclusive { label: None, fair: true, waits: Some(expiry(3_600_000)) }
}

fn modes() -> [LockMode; 2] {
    let label = Some(Bytes::from_static(&[b'o'; 200]));
    let alone = LockMode::Exclusive { label, fair: false, waits: None };
    [alone, LockMode::Shared { most: 3 }]
}

#[test]
fn a_lock_that_is_refused_for_want_of_room_is_not_held() {
    for mode in modes() {
        let (mut refused, mut fitted) = (0, 0);
        for budget in (300..3_000).step_by(8) {
            let store = MemoryStore::with_max_bytes(budget);
            if let Err(error) = lock(&store, "k", "me", mode.clone()) {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                assert_eq!((store.len(), store.bytes()), (0, 0), "{mode:?} in {budget} bytes");
                refused += u32::from(acquire(&store, "k", 1_000).is_ok());
            } else {
                fitted += 1;
            }
        }
        assert!(refused > 10 && fitted > 10, "{mode:?}: {refused} refused, {fitted} fitted");
    }
}

#[test]
fn a_fenced_write_that_is_refused_for_want_of_room_leaves_value_and_mark() {
    let store = MemoryStore::with_max_bytes(64 << 10);
    let write = |len: usize, token| {
        let value = vec![b'v'; len].into();
        let op = Op::FencedSet { key: key("k"), value, expiry: Some(expiry(60_000)), token };
        run(&store, op).and_then(Reply::into_bool)
    };
    for before in [None, Some(7)] {
        let refused = write(1 << 20, 8).unwrap_err();
        assert_eq!(
            (refused.kind(), refused.outcome()),
            (ErrorKind::OutOfMemory, Outcome::Rejected)
        );
        let mark = run(&store, Op::Get { key: key("k").fence() }).unwrap().into_value().unwrap();
        assert_eq!(mark, before.map(|token: u64| Bytes::from(token.to_string())));
        assert_eq!(exists(&store, "k"), before.is_some());
        assert!(write(1, 7).unwrap(), "the token before it is good yet");
    }
}

#[test]
fn queues_that_were_left_are_evicted_and_locks_that_are_held_are_not() {
    let store = MemoryStore::with_max_bytes(1 << 20);
    assert!(matches!(lock(&store, "held", "me", fair()), Ok(Locked::Taken { .. })));
    assert!(matches!(lock(&store, "held", "waits", fair()), Ok(Locked::Held { .. })));
    assert!(matches!(lock(&store, "shared", "me", modes()[1].clone()), Ok(Locked::Taken { .. })));
    for n in 0..5_000 {
        let name = format!("lock:{n}");
        assert!(matches!(lock(&store, &name, "me", fair()), Ok(Locked::Taken { .. })), "{name}");
        assert!(matches!(lock(&store, &name, "waits", fair()), Ok(Locked::Held { .. })), "{name}");
        assert!(unlock(&store, &name, "me"));
        assert!(!unlock(&store, &name, "waits"), "it only waits");
    }
    set(&store, "large", 512 << 10).unwrap();
    assert!(unlock(&store, "held", "me"));
    let overtakes = lock(&store, "held", "late", fair()).unwrap();
    assert!(matches!(overtakes, Locked::Held { .. }), "who waits is not forgotten");
    let share = Op::Unlock { key: key("shared"), id: Bytes::from_static(b"me"), shared: true };
    assert_eq!(run(&store, share).unwrap(), Reply::Bool(true));
}

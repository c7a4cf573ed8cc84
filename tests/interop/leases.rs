//! The rule of leases in `docs/interop.md`: its Python, larder and a server agree on every key.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use larder::Key;
use larder::testing::{RawConnection, RedisServer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::peer::Peer;
use crate::times;

/// Leases by Python: `make_vectors.py` computes them with the code of `docs/interop.md`.
fn golden() -> Vec<(Vec<u8>, Bytes)> {
    let all: HashMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("vectors.json")).unwrap();
    let unhex = |digits: &serde_json::Value| -> Vec<u8> {
        let digits = digits.as_str().unwrap();
        let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let rows = all["leases"].as_array().unwrap();
    rows.iter().map(|row| (unhex(&row["key"]), unhex(&row["lease"]).into())).collect()
}

/// The slot of a key by the cluster specification, spelled out once more: neither larder's code nor Python's.
fn slot(key: &[u8]) -> i64 {
    let at = |bytes: &[u8], wanted| bytes.iter().position(|byte| *byte == wanted);
    let tag = at(key, b'{').and_then(|open| {
        let rest = &key[open + 1..];
        at(rest, b'}').filter(|close| *close > 0).map(|close| &rest[..close])
    });
    let mut crc = 0_u32;
    for byte in tag.unwrap_or(key) {
        crc ^= u32::from(*byte) << 8;
        for _ in 0..8 {
            crc <<= 1;
            crc ^= if crc > 0xffff { 0x1_1021 } else { 0 };
        }
    }
    i64::from(crc % 16_384)
}

/// Compares the leases of some keys: larder's and Python's, and their slots by a server in cluster mode.
async fn same(keys: &[Vec<u8>], python: &[Bytes], server: &mut RawConnection) {
    assert_eq!(keys.len(), python.len());
    for (key, python) in keys.iter().zip(python) {
        let shown = key.escape_ascii();
        let lease = Key::new(key).unwrap().lease();
        assert_eq!(lease.bytes(), python, "the lease of {shown}");
        for key in [key, lease.as_bytes()] {
            let found = server.command(&[&b"CLUSTER"[..], b"KEYSLOT", key]).await.unwrap();
            assert_eq!(found.int(), Some(slot(key)), "the slot of {}", key.escape_ascii());
        }
        assert_eq!(slot(key), slot(lease.as_bytes()), "the slots of {shown} and its lease");
    }
    let (keys, leases): (BTreeSet<_>, BTreeSet<_>) = keys.iter().zip(python).unzip();
    assert_eq!(keys.len(), leases.len(), "different keys have different leases");
}

#[tokio::test]
async fn golden_keys_have_the_leases_of_the_documented_python_in_their_own_slots() {
    let server = RedisServer::builder().cluster().start().await;
    let mut connection = server.connect().await;
    let (keys, leases): (Vec<_>, Vec<_>) = golden().into_iter().unzip();
    same(&keys, &leases, &mut connection).await;
    println!("leases: {} golden keys, 0 differences, slots by CLUSTER KEYSLOT", keys.len());
}

#[test]
fn any_key_has_the_lease_of_the_documented_python_in_its_own_slot() {
    let bytes = |bytes| prop::collection::vec(bytes, 1..40);
    let brace = prop_oneof![Just(b'{'), Just(b'}'), Just(b':'), b'a'..b'd'];
    let key = prop_oneof![
        2 => bytes(any::<u8>().boxed()),
        2 => bytes(brace.boxed()),
        1 => "[^{}]{1,20}".prop_map(String::into_bytes),
        1 => "[^{}]{0,9}\\{[^{}]{1,9}\\}.{0,9}".prop_map(String::into_bytes),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(RedisServer::builder().cluster().start());
    let sides = runtime.block_on(async {
        RefCell::new((Peer::start(server.port()).await, server.connect().await))
    });
    let tried = RefCell::new(BTreeSet::new());
    let cases = times(500) as u32;
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let all = prop::collection::vec(key, 20);
    TestRunner::new(config)
        .run(&all, |keys| {
            let (peer, connection) = &mut *sides.borrow_mut();
            runtime.block_on(async {
                let python = peer.beside("lease", &keys).await;
                same(&keys, &python, connection).await;
                let records: [fn(&Key) -> Key; 2] = [Key::lock_record, Key::fence];
                for (kind, beside) in ["lock", "fenced"].into_iter().zip(records) {
                    for (key, python) in keys.iter().zip(peer.beside(kind, &keys).await) {
                        let ours = beside(&Key::new(key).unwrap());
                        assert_eq!(*ours.bytes(), python, "{kind} of {}", key.escape_ascii());
                        assert_eq!(slot(key), slot(&python), "{kind} of {}", key.escape_ascii());
                    }
                }
            });
            tried.borrow_mut().extend(keys);
            Ok(())
        })
        .unwrap();
    let tried = tried.into_inner();
    let searched = tried
        .iter()
        .filter(|key| key.iter().any(|byte| matches!(byte, b'{' | b'}')))
        .filter(|key| {
            let lease = Key::new(key).unwrap().lease();
            lease.as_bytes()["larder:lease:{".len()..].first().is_some_and(u8::is_ascii_digit)
        })
        .count();
    println!(
        "leases: {} random keys, {searched} of them with a tag that was searched for, 0 differences",
        tried.len()
    );
    assert!(searched > tried.len() / 20, "only {searched} of {} keys", tried.len());
}

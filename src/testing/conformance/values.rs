//! Cases for strings, numbers, keys, expiries, locks and scans.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::op::Direction;
use crate::ttl::Ttl;

/// A store answers.
pub async fn ping(subject: &Subject) -> Checked {
    subject.expect(Op::Ping, Reply::Done).await
}

/// A string is read as it was written; a missing key reads as nothing.
pub async fn get(subject: &Subject) -> Checked {
    let key = subject.key("k");
    subject.expect(get_op(&key), Reply::Value(None)).await?;
    subject.expect(set_op(&key, "one"), Reply::Bool(true)).await?;
    subject.expect(get_op(&key), value("one")).await?;
    subject.expect(set_op(&key, ""), Reply::Bool(true)).await?;
    subject.expect(get_op(&key), value("")).await
}

/// Many strings in the order asked, repeated keys repeated; other types read as missing.
pub async fn get_many(subject: &Subject) -> Checked {
    let [a, b, missing, list] = ["{t}a", "{t}b", "{t}c", "{t}l"].map(|name| subject.key(name));
    subject.expect(set_op(&a, "A"), Reply::Bool(true)).await?;
    subject.expect(set_op(&b, "B"), Reply::Bool(true)).await?;
    subject.expect(push_op(&list, "x"), Reply::Int(1)).await?;
    let keys = vec![b.clone(), missing, a, list, b];
    let some = |text: &str| Some(bytes(text));
    let expected = vec![some("B"), None, some("A"), None, some("B")];
    subject.expect(Op::GetMany { keys }, Reply::Values(expected)).await
}

/// A write replaces what was there, of any type.
pub async fn set(subject: &Subject) -> Checked {
    let key = subject.key("k");
    subject.expect(push_op(&key, "x"), Reply::Int(1)).await?;
    subject.expect(set_op(&key, "text"), Reply::Bool(true)).await?;
    subject.expect(get_op(&key), value("text")).await?;
    subject.expect(set_for(&key, "brief", an_hour()), Reply::Bool(true)).await?;
    subject.expect(get_op(&key), value("brief")).await
}

/// A conditional write looks at whether the key exists, whatever it holds; refused, it changes
/// nothing.
pub async fn set_if(subject: &Subject) -> Checked {
    let key = subject.key("k");
    let (absent, present) = (Presence::Absent, Presence::Present);
    subject.expect(set_if_op(&key, "a", present), Reply::Bool(false)).await?;
    subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    subject.expect(set_if_op(&key, "b", absent), Reply::Bool(true)).await?;
    subject.expect(set_if_op(&key, "c", absent), Reply::Bool(false)).await?;
    subject.expect(get_op(&key), value("b")).await?;
    subject.expect(set_if_op(&key, "d", present), Reply::Bool(true)).await?;
    subject.expect(get_op(&key), value("d")).await?;
    let other_type = subject.key("list");
    subject.expect(push_op(&other_type, "x"), Reply::Int(1)).await?;
    subject.expect(set_if_op(&other_type, "e", absent), Reply::Bool(false)).await?;
    subject.expect(range_op(&other_type, 0, -1), list(&["x"])).await?;
    subject.expect(set_if_op(&other_type, "f", present), Reply::Bool(true)).await?;
    subject.expect(get_op(&other_type), value("f")).await?;
    // A refused write does not touch the expiry either.
    subject.expect(Op::Expire { key: key.clone(), expiry: an_hour() }, Reply::Bool(true)).await?;
    subject.expect(set_if_op(&key, "g", absent), Reply::Bool(false)).await?;
    subject.expect(Op::Persist { key }, Reply::Bool(true)).await
}

/// A number starts at 0, is stored as text, and goes to both ends of 64 bits.
pub async fn incr_by(subject: &Subject) -> Checked {
    let key = subject.key("n");
    let by = |delta| Op::IncrBy { key: key.clone(), delta };
    subject.expect(by(5), Reply::Int(5)).await?;
    subject.expect(by(-7), Reply::Int(-2)).await?;
    subject.expect(get_op(&key), value("-2")).await?;
    subject.expect(by(0), Reply::Int(-2)).await?;
    for end in [i64::MAX, i64::MIN] {
        subject.expect(set_op(&key, end.to_string()), Reply::Bool(true)).await?;
        subject.expect(by(0), Reply::Int(end)).await?;
    }
    subject.expect(set_op(&key, "-1"), Reply::Bool(true)).await?;
    subject.expect(by(i64::MIN + 1), Reply::Int(i64::MIN)).await?;
    subject.expect(by(i64::MAX), Reply::Int(-1)).await
}

/// A delete counts the keys that existed, each once, of any type.
pub async fn delete(subject: &Subject) -> Checked {
    let [a, b, missing] = ["{t}a", "{t}b", "{t}c"].map(|name| subject.key(name));
    subject.expect(set_op(&a, "1"), Reply::Bool(true)).await?;
    subject.expect(hash_op(&b, "f", "1"), Reply::Bool(true)).await?;
    let keys = vec![a.clone(), missing, b.clone(), a.clone()];
    subject.expect(Op::Delete { keys: keys.clone() }, Reply::Int(2)).await?;
    subject.expect(Op::Delete { keys }, Reply::Int(0)).await?;
    subject.expect(exists_op(&a), Reply::Bool(false)).await?;
    subject.expect(exists_op(&b), Reply::Bool(false)).await
}

/// A key of any type exists, also with an empty value.
pub async fn exists(subject: &Subject) -> Checked {
    let [text, list] = ["text", "list"].map(|name| subject.key(name));
    subject.expect(exists_op(&text), Reply::Bool(false)).await?;
    subject.expect(set_op(&text, ""), Reply::Bool(true)).await?;
    subject.expect(exists_op(&text), Reply::Bool(true)).await?;
    subject.expect(push_op(&list, ""), Reply::Int(1)).await?;
    subject.expect(exists_op(&list), Reply::Bool(true)).await
}

/// An expiry can be given, replaced by a shorter or a longer one, and only to a key that exists.
pub async fn expire(subject: &Subject) -> Checked {
    let key = subject.key("k");
    let expire = |expiry| Op::Expire { key: key.clone(), expiry };
    subject.expect(expire(an_hour()), Reply::Bool(false)).await?;
    subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    subject.expect(push_op(&key, "x"), Reply::Int(1)).await?;
    for hours in [1, 3, 2] {
        subject.expect(expire(millis(hours * 3_600_000)), Reply::Bool(true)).await?;
        expect_ttl_near(subject, &key, Duration::from_secs(hours * 3600)).await?;
    }
    subject.expect(expire(millis(1)), Reply::Bool(true)).await?;
    subject.expect_gone(&key).await?;
    // The longest that `Expiry` takes.
    subject.expect(set_op(&key, "v"), Reply::Bool(true)).await?;
    let longest = Duration::from_millis((i64::MAX - (1 << 43)) as u64);
    let expiry = Expiry::new(longest).map_err(|error| error.to_string())?;
    subject.expect(expire(expiry), Reply::Bool(true)).await?;
    expect_ttl_near(subject, &key, longest).await
}

/// Taking an expiry away says whether there was one.
pub async fn persist(subject: &Subject) -> Checked {
    let key = subject.key("k");
    let persist = || Op::Persist { key: key.clone() };
    subject.expect(persist(), Reply::Bool(false)).await?;
    subject.expect(set_for(&key, "v", an_hour()), Reply::Bool(true)).await?;
    subject.expect(persist(), Reply::Bool(true)).await?;
    subject.expect(persist(), Reply::Bool(false)).await?;
    subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Persistent)).await
}

/// A remaining time is one of three: no key, no expiry, or what is left.
pub async fn ttl(subject: &Subject) -> Checked {
    let key = subject.key("k");
    subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Missing)).await?;
    subject.expect(set_op(&key, "v"), Reply::Bool(true)).await?;
    subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Persistent)).await?;
    subject.expect(set_for(&key, "v", an_hour()), Reply::Bool(true)).await?;
    expect_ttl_near(subject, &key, Duration::from_secs(3600)).await
}

/// What is left is at most what was given, and not less by more than a test can take.
pub(super) async fn expect_ttl_near(subject: &Subject, key: &Key, given: Duration) -> Checked {
    let came = subject.run(Op::Ttl { key: key.clone() }).await;
    let near = match &came {
        Ok(Reply::Ttl(Ttl::Remaining(left))) => {
            *left <= given && *left + Duration::from_secs(60) > given
        }
        _ => false,
    };
    ensure(near, || format!("ttl {key}: expected about {given:?}, got {}", show_result(&came)))
}

/// A lock is taken once; its holder may ask again, which does not prolong it.
pub async fn acquire(subject: &Subject) -> Checked {
    let key = subject.key("lock");
    let acquire = |id: &str, expiry| Op::Acquire { key: key.clone(), id: bytes(id), expiry };
    subject.expect(acquire("one", an_hour()), Reply::Bool(true)).await?;
    subject.expect(get_op(&key), value("one")).await?;
    subject.expect(acquire("two", an_hour()), Reply::Bool(false)).await?;
    subject.expect(acquire("one", millis(36_000_000)), Reply::Bool(true)).await?;
    expect_ttl_near(subject, &key, Duration::from_secs(3600)).await?;
    // What another program wrote counts as well.
    subject.expect(set_op(&key, "theirs"), Reply::Bool(true)).await?;
    subject.expect(acquire("one", an_hour()), Reply::Bool(false)).await?;
    subject.expect(acquire("theirs", an_hour()), Reply::Bool(true)).await?;
    subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Persistent)).await?;
    subject.expect(Op::Delete { keys: vec![key.clone()] }, Reply::Int(1)).await?;
    subject.expect(acquire("brief", millis(5)), Reply::Bool(true)).await?;
    subject.expect_gone(&key).await?;
    subject.expect(acquire("two", an_hour()), Reply::Bool(true)).await
}

/// Only the holder gives a lock back.
pub async fn release(subject: &Subject) -> Checked {
    let key = subject.key("lock");
    let release = |id: &str| Op::Release { key: key.clone(), id: bytes(id) };
    subject.expect(release("one"), Reply::Bool(false)).await?;
    let acquire = Op::Acquire { key: key.clone(), id: bytes("one"), expiry: an_hour() };
    subject.expect(acquire, Reply::Bool(true)).await?;
    subject.expect(release("two"), Reply::Bool(false)).await?;
    subject.expect(release(""), Reply::Bool(false)).await?;
    subject.expect(get_op(&key), value("one")).await?;
    subject.expect(release("one"), Reply::Bool(true)).await?;
    subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    subject.expect(release("one"), Reply::Bool(false)).await
}

/// All that a scan lists, from its beginning to its end.
pub(super) async fn scan_all(
    subject: &Subject,
    prefix: &Bytes,
    count: u32,
) -> Result<BTreeSet<Bytes>, String> {
    let (mut cursor, mut found) = (0, BTreeSet::new());
    loop {
        let op = Op::Scan { cursor, prefix: prefix.clone(), count };
        let (next, keys) = subject
            .run(op)
            .await
            .and_then(Reply::into_keys)
            .map_err(|error| format!("scan: {}", show_error(&error)))?;
        found.extend(keys);
        cursor = next;
        if cursor == 0 {
            return Ok(found);
        }
    }
}

/// A scan lists every key under the prefix, of any type, also where the prefix contains what a
/// pattern would take as a wildcard, and nothing else.
pub async fn scan(subject: &Subject) -> Checked {
    let inside: Vec<_> = (0..250).map(|n| subject.key(format!("in*[a]?\\:{n}"))).collect();
    for (n, key) in inside.iter().enumerate() {
        let (field, element) = (bytes("f"), bytes("e"));
        let op = match n % 3 {
            0 => set_op(key, "v"),
            1 => Op::HashSet { key: key.clone(), field, value: element },
            _ => Op::ListPush { key: key.clone(), value: element, side: Direction::Left },
        };
        subject.run(op).await.map_err(|error| error.to_string())?;
    }
    for outside in ["inx[a]?\\:1", "in*a?\\:1", "in*[a]x\\:1", "in*[a]?:1", "other"] {
        subject.expect(set_op(&subject.key(outside), "v"), Reply::Bool(true)).await?;
    }
    let brief = subject.key("in*[a]?\\:brief");
    subject.expect(set_for(&brief, "v", millis(1)), Reply::Bool(true)).await?;
    subject.expect_gone(&brief).await?;
    let prefix = Bytes::from([&subject.prefix, &b"in*[a]?\\:"[..]].concat());
    let found = scan_all(subject, &prefix, 20).await?;
    let expected: BTreeSet<_> = inside.iter().map(|key| key.bytes().clone()).collect();
    ensure(found == expected, || {
        let missing = expected.difference(&found).count();
        let surplus: Vec<_> =
            found.difference(&expected).map(|key| key.escape_ascii().to_string()).collect();
        format!("scan: {missing} keys are missing, and these do not belong: {surplus:?}")
    })
}

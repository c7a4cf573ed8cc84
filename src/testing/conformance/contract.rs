//! Cases for what the contract of [`Store`](crate::store::Store) says beyond single operations.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, join_all};

use super::loads::{fill_op, lease_op};
use super::values::{expect_ttl_near, scan_all};
use super::*;
use crate::op::{Ask, Direction};
use crate::ttl::Ttl;

/// What expired is gone for every operation, and its key is free for another type.
pub async fn keys_expire(subject: &Subject) -> Checked {
    let [text, hash, list_key] = ["text", "hash", "list"].map(|name| subject.key(name));
    let expire = |key: &Key| Op::Expire { key: key.clone(), expiry: millis(20) };
    subject.expect(set_for(&text, "v", millis(20)), Reply::Bool(true)).await?;
    subject.expect(hash_op(&hash, "f", "v"), Reply::Bool(true)).await?;
    subject.expect(expire(&hash), Reply::Bool(true)).await?;
    subject.expect(push_op(&list_key, "v"), Reply::Int(1)).await?;
    subject.expect(expire(&list_key), Reply::Bool(true)).await?;
    for key in [&text, &hash, &list_key] {
        subject.expect_gone(key).await?;
        subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Missing)).await?;
        subject.expect(Op::Persist { key: key.clone() }, Reply::Bool(false)).await?;
        subject.expect(expire(key), Reply::Bool(false)).await?;
    }
    subject.expect(get_op(&text), Reply::Value(None)).await?;
    subject.expect(Op::HashGetAll { key: hash.clone() }, Reply::Pairs(Vec::new())).await?;
    subject.expect(range_op(&list_key, 0, -1), list(&[])).await?;
    subject.expect(push_op(&text, "x"), Reply::Int(1)).await?;
    subject.expect(set_if_op(&hash, "x", Presence::Absent), Reply::Bool(true)).await?;
    subject.expect(Op::IncrBy { key: list_key.clone(), delta: 1 }, Reply::Int(1)).await?;
    for key in [text, hash, list_key] {
        subject.expect(Op::Ttl { key }, Reply::Ttl(Ttl::Persistent)).await?;
    }
    Ok(())
}

/// A plain write takes the expiry away; a change within a number, a hash or a list keeps it, and
/// so does a write that is refused.
pub async fn writes_and_expiries(subject: &Subject) -> Checked {
    let [text, number, hash, list_key] = ["t", "n", "h", "l"].map(|name| subject.key(name));
    let hour = Duration::from_secs(3600);
    subject.expect(set_for(&text, "v", an_hour()), Reply::Bool(true)).await?;
    subject.expect(set_op(&text, "w"), Reply::Bool(true)).await?;
    subject.expect(Op::Ttl { key: text.clone() }, Reply::Ttl(Ttl::Persistent)).await?;
    subject.expect(set_for(&text, "x", an_hour()), Reply::Bool(true)).await?;
    subject.expect(set_if_op(&text, "y", Presence::Present), Reply::Bool(true)).await?;
    subject.expect(Op::Ttl { key: text }, Reply::Ttl(Ttl::Persistent)).await?;

    subject.expect(set_for(&number, "1", an_hour()), Reply::Bool(true)).await?;
    subject.expect(Op::IncrBy { key: number.clone(), delta: 1 }, Reply::Int(2)).await?;
    expect_ttl_near(subject, &number, hour).await?;
    let push = push_op(&number, "x");
    subject.refuse(push, ErrorKind::WrongType, "WRONGTYPE").await?;
    expect_ttl_near(subject, &number, hour).await?;

    let expire = |key: &Key| Op::Expire { key: key.clone(), expiry: an_hour() };
    subject.expect(hash_op(&hash, "f", "1"), Reply::Bool(true)).await?;
    subject.expect(expire(&hash), Reply::Bool(true)).await?;
    subject.expect(hash_op(&hash, "f", "2"), Reply::Bool(false)).await?;
    subject.expect(hash_op(&hash, "g", "2"), Reply::Bool(true)).await?;
    let delete = Op::HashDelete { key: hash.clone(), field: bytes("g") };
    subject.expect(delete, Reply::Bool(true)).await?;
    expect_ttl_near(subject, &hash, hour).await?;

    subject.expect(push_op(&list_key, "a"), Reply::Int(1)).await?;
    subject.expect(expire(&list_key), Reply::Bool(true)).await?;
    subject.expect(push_op(&list_key, "b"), Reply::Int(2)).await?;
    let pop = Op::ListPop { key: list_key.clone(), side: Direction::Left };
    subject.expect(pop.clone(), value("a")).await?;
    expect_ttl_near(subject, &list_key, hour).await?;
    // A collection that vanished takes its expiry with it.
    subject.expect(pop, value("b")).await?;
    subject.expect(push_op(&list_key, "c"), Reply::Int(1)).await?;
    subject.expect(Op::Ttl { key: list_key }, Reply::Ttl(Ttl::Persistent)).await
}

/// A hash without fields and a list without elements do not exist.
pub async fn empty_collections_vanish(subject: &Subject) -> Checked {
    let [hash, popped, removed] = ["h", "p", "r"].map(|name| subject.key(name));
    subject.expect(hash_op(&hash, "f", "v"), Reply::Bool(true)).await?;
    let delete = Op::HashDelete { key: hash.clone(), field: bytes("f") };
    subject.expect(delete, Reply::Bool(true)).await?;
    subject.expect(push_op(&popped, "v"), Reply::Int(1)).await?;
    let pop = Op::ListPop { key: popped.clone(), side: Direction::Right };
    subject.expect(pop, value("v")).await?;
    subject.expect(push_op(&removed, "v"), Reply::Int(1)).await?;
    subject.expect(push_op(&removed, "v"), Reply::Int(2)).await?;
    let remove = Op::ListRemove { key: removed.clone(), value: bytes("v") };
    subject.expect(remove, Reply::Int(2)).await?;
    for key in [&hash, &popped, &removed] {
        subject.expect(exists_op(key), Reply::Bool(false)).await?;
        subject.expect(Op::Delete { keys: vec![key.clone()] }, Reply::Int(0)).await?;
    }
    // Their keys are free for another type.
    subject.expect(push_op(&hash, "x"), Reply::Int(1)).await?;
    subject.expect(hash_op(&popped, "f", "x"), Reply::Bool(true)).await?;
    subject.expect(Op::IncrBy { key: removed, delta: 3 }, Reply::Int(3)).await
}

/// Every operation of one type refuses a key of every other, and changes nothing.
pub async fn wrong_types(subject: &Subject) -> Checked {
    let [text, hash, list_key] = ["t", "h", "l"].map(|name| subject.key(name));
    subject.expect(set_op(&text, "1"), Reply::Bool(true)).await?;
    subject.expect(hash_op(&hash, "f", "1"), Reply::Bool(true)).await?;
    subject.expect(push_op(&list_key, "1"), Reply::Int(1)).await?;
    let on_text = |key: &Key| {
        let (key, id) = (key.clone(), bytes("1"));
        vec![
            get_op(&key),
            Op::IncrBy { key: key.clone(), delta: 1 },
            Op::Acquire { key: key.clone(), id: id.clone(), expiry: an_hour() },
            Op::Renew { key: key.clone(), id: id.clone(), expiry: an_hour() },
            Op::Release { key: key.clone(), id },
            Op::Fetch { keys: vec![key.clone()] },
            lease_op(&key, "token", Ask::Always),
            fill_op(&key, "token", "2", None),
        ]
    };
    let on_hash = |key: &Key| {
        let (key, field) = (key.clone(), bytes("f"));
        vec![
            hash_op(&key, "f", "2"),
            Op::HashGet { key: key.clone(), field: field.clone() },
            Op::HashGetAll { key: key.clone() },
            Op::HashDelete { key, field },
        ]
    };
    let on_list = |key: &Key| {
        vec![
            push_op(key, "2"),
            range_op(key, 0, -1),
            Op::ListPop { key: key.clone(), side: Direction::Left },
            Op::ListRemove { key: key.clone(), value: bytes("1") },
        ]
    };
    let all = [
        on_hash(&text),
        on_list(&text),
        on_text(&hash),
        on_list(&hash),
        on_text(&list_key),
        on_hash(&list_key),
    ];
    for op in all.into_iter().flatten() {
        subject.refuse(op, ErrorKind::WrongType, "WRONGTYPE").await?;
    }
    subject.expect(get_op(&text), value("1")).await?;
    let pairs = Reply::Pairs(vec![(bytes("f"), bytes("1"))]);
    subject.expect(Op::HashGetAll { key: hash }, pairs).await?;
    subject.expect(range_op(&list_key, 0, -1), list(&["1"])).await
}

/// What is no number, and sums beyond 64 bits, are refused; the value stays.
pub async fn numbers_out_of_range(subject: &Subject) -> Checked {
    let key = subject.key("n");
    let by = |delta| Op::IncrBy { key: key.clone(), delta };
    let no_numbers: [&[u8]; 15] = [
        b"",
        b"a",
        b"1.5",
        b"1e3",
        b" 1",
        b"1 ",
        b"+1",
        b"01",
        b"-0",
        b"-",
        b"0x10",
        b"1\n",
        b"\xff",
        b"9223372036854775808",
        b"-9223372036854775809",
    ];
    for text in no_numbers {
        subject.expect(set_op(&key, text), Reply::Bool(true)).await?;
        let refused = subject.refuse(by(1), ErrorKind::OutOfRange, "ERR").await;
        refused.map_err(|what| format!("on \"{}\": {what}", text.escape_ascii()))?;
        subject.expect(get_op(&key), value(text)).await?;
    }
    for (number, delta) in [(i64::MAX, 1), (i64::MIN, -1), (1, i64::MAX), (-1, i64::MIN)] {
        subject.expect(set_op(&key, number.to_string()), Reply::Bool(true)).await?;
        subject.refuse(by(delta), ErrorKind::OutOfRange, "ERR").await?;
        subject.expect(get_op(&key), value(number.to_string())).await?;
    }
    Ok(())
}

/// In a batch, one operation's error is its own answer, and the next ones run.
pub async fn an_error_stops_nothing(subject: &Subject) -> Checked {
    let [text, list_key] = ["{t}t", "{t}l"].map(|name| subject.key(name));
    let ops = vec![
        push_op(&list_key, "x"),
        get_op(&list_key),
        set_op(&text, "v"),
        push_op(&text, "x"),
        get_op(&text),
    ];
    let came = subject.run_many(ops).await?;
    same("push", &came[0], &Reply::Int(1))?;
    refused("get of a list", &came[1], ErrorKind::WrongType, "WRONGTYPE")?;
    same("set", &came[2], &Reply::Bool(true))?;
    refused("push to a string", &came[3], ErrorKind::WrongType, "WRONGTYPE")?;
    same("get", &came[4], &value("v"))
}

/// Operations of a batch run in the order given, and are answered in it.
pub async fn batches_run_in_order(subject: &Subject) -> Checked {
    let key = subject.key("l");
    for atomic in [false, true] {
        let mut ops: Vec<_> = (0..100).map(|n| push_op(&key, n.to_string())).collect();
        ops.push(range_op(&key, 0, -1));
        ops.push(Op::Delete { keys: vec![key.clone()] });
        ops.push(exists_op(&key));
        let came = match atomic {
            false => subject.run_many(ops).await?,
            true => subject.run_atomic(ops).await?,
        };
        for (n, pushed) in came[..100].iter().enumerate() {
            same(&format!("push {n}"), pushed, &Reply::Int(n as i64 + 1))?;
        }
        let all = Reply::List((0..100).map(|n: i32| bytes(n.to_string())).collect());
        same("the whole list", &came[100], &all)?;
        same("delete", &came[101], &Reply::Int(1))?;
        same("exists", &came[102], &Reply::Bool(false))?;
    }
    Ok(())
}

/// Nobody sees one half of an atomic batch, also if it comes over the network in many pieces.
pub async fn atomic_batches_are_not_seen_in_half(subject: &Subject) -> Checked {
    let [a, b, between] = ["{t}a", "{t}b", "{t}between"].map(|name| subject.key(name));
    let up = |key: &Key| Op::IncrBy { key: key.clone(), delta: 1 };
    // A server that reads 16 KiB at a time turns to its other clients many times in between.
    let large = set_op(&between, vec![b'x'; 2_000_000]);
    let written = AtomicBool::new(false);
    let writes = async {
        for _ in 0..20 {
            subject.run_atomic(vec![up(&a), large.clone(), up(&b)]).await?;
        }
        Ok(())
    };
    let writes = writes.inspect(|_| written.store(true, Ordering::Relaxed));
    let read = async || {
        while !written.load(Ordering::Relaxed) {
            let batch = Batch::many("conformance", vec![get_op(&a), get_op(&b)]).atomic();
            let came = subject.finish(&subject.other, batch).await?;
            let shown: Vec<_> = came.iter().map(show_result).collect();
            ensure(shown[0] == shown[1], || format!("one half of a batch was seen: {shown:?}"))?;
            // A store that answers at once would never let the writer go on.
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    // Several, so that one is always on its way.
    let reads = join_all((0..4).map(|_| read()));
    let (written, read): (Checked, Vec<Checked>) = future::join(writes, reads).await;
    written.and(read.into_iter().collect::<Checked>())?;
    subject.expect(get_op(&a), value("20")).await?;
    subject.expect(get_op(&b), value("20")).await
}

/// As in Redis, an operation that fails while an atomic batch runs does not undo the others.
pub async fn a_wrong_type_in_an_atomic_batch(subject: &Subject) -> Checked {
    let [number, list_key] = ["{t}n", "{t}l"].map(|name| subject.key(name));
    subject.expect(push_op(&list_key, "x"), Reply::Int(1)).await?;
    let ops = vec![
        Op::IncrBy { key: number.clone(), delta: 1 },
        Op::IncrBy { key: list_key.clone(), delta: 1 },
        Op::Acquire { key: list_key.clone(), id: bytes("id"), expiry: an_hour() },
        Op::IncrBy { key: number.clone(), delta: 1 },
    ];
    let came = subject.run_atomic(ops).await?;
    same("the first", &came[0], &Reply::Int(1))?;
    refused("the second", &came[1], ErrorKind::WrongType, "WRONGTYPE")?;
    refused("the third", &came[2], ErrorKind::WrongType, "WRONGTYPE")?;
    same("the fourth", &came[3], &Reply::Int(2))?;
    subject.expect(get_op(&number), value("2")).await
}

/// Keys, fields and values are bytes, whatever they are.
pub async fn binary_keys_and_values(subject: &Subject) -> Checked {
    let every_byte: Vec<u8> = (0..=255).collect();
    let odd: [&[u8]; 10] = [
        b"\0",
        b"\r\n",
        b"a\r\n$1\r\nb",
        b"\xff\xfe\xc3\x28",
        b"{}",
        b"{",
        b"{a}{b}",
        "\u{1f980} \u{e9}".as_bytes(),
        b" ",
        &every_byte,
    ];
    for text in odd {
        let named = |what: String| format!("with \"{}\": {what}", text.escape_ascii());
        let [key, hash, list_key] =
            [&b"s"[..], b"h", b"l"].map(|kind| subject.key([kind, text].concat()));
        subject.expect(set_op(&key, text), Reply::Bool(true)).await.map_err(named)?;
        subject.expect(hash_op(&hash, text, text), Reply::Bool(true)).await.map_err(named)?;
        subject.expect(push_op(&list_key, text), Reply::Int(1)).await.map_err(named)?;
    }
    for text in odd {
        let named = |what: String| format!("with \"{}\": {what}", text.escape_ascii());
        let [key, hash, list_key] =
            [&b"s"[..], b"h", b"l"].map(|kind| subject.key([kind, text].concat()));
        subject.expect(get_op(&key), value(text)).await.map_err(named)?;
        let pairs = Reply::Pairs(vec![(bytes(text), bytes(text))]);
        subject.expect(Op::HashGetAll { key: hash }, pairs).await.map_err(named)?;
        let elements = Reply::List(vec![bytes(text)]);
        subject.expect(range_op(&list_key, 0, -1), elements).await.map_err(named)?;
        let keys = scan_all(subject, key.bytes(), 1_000_000).await.map_err(named)?;
        ensure(keys.contains(key.bytes()), || named("a scan does not list the key".to_owned()))?;
    }
    Ok(())
}

/// The ends of 64 bits are indices like others.
pub async fn index_extremes(subject: &Subject) -> Checked {
    let key = subject.key("l");
    for element in ["a", "b", "c"] {
        subject.run(push_op(&key, element)).await.map_err(|error| error.to_string())?;
    }
    let (min, max) = (i64::MIN, i64::MAX);
    let ranges: [(i64, i64, &[&str]); 8] = [
        (min, max, &["a", "b", "c"]),
        (max, min, &[]),
        (min, min, &[]),
        (max, max, &[]),
        (min, 0, &["a"]),
        (-1, max, &["c"]),
        (0, min, &[]),
        (max - 1, max, &[]),
    ];
    for (start, stop, expected) in ranges {
        let came = subject.run(range_op(&key, start, stop)).await;
        same(&format!("list_range {start}..={stop}"), &came, &list(expected))?;
    }
    Ok(())
}

/// A future that is dropped, before it is polled or after, costs nobody else his reply.
pub async fn cancelled_calls_confuse_nobody(subject: &Subject) -> Checked {
    let keys: Vec<_> = (0..20).map(|n| subject.key(n.to_string())).collect();
    for (n, key) in keys.iter().enumerate() {
        subject.expect(set_op(key, n.to_string()), Reply::Bool(true)).await?;
    }
    let counter = subject.key("counter");
    let mut dropped: i64 = 0;
    for turn in 0..200 {
        let at = turn % keys.len();
        let mut read = subject.store.run(Batch::one("conformance", get_op(&keys[at])));
        let up = Op::IncrBy { key: counter.clone(), delta: 1 };
        let mut write = subject.store.run(Batch::one("conformance", up));
        if turn % 3 != 0 {
            // What comes of it is of no interest: it may be done at once, or be dropped half way.
            let _ = (&mut read).now_or_never();
            let _ = (&mut write).now_or_never();
        }
        drop((read, write));
        dropped += 1;
        let next = (at + 7) % keys.len();
        subject.expect(get_op(&keys[next]), value(next.to_string())).await?;
    }
    let sum = subject.run(Op::IncrBy { key: counter, delta: 0 }).await.and_then(Reply::into_int);
    ensure(matches!(sum, Ok(sum) if (0..=dropped).contains(&sum)), || {
        format!("{dropped} dropped increments came to {sum:?}")
    })
}

/// Many calls at once each get their own reply.
pub async fn many_calls_at_once(subject: &Subject) -> Checked {
    let calls = (0..300).map(|n: u32| async move {
        let (key, text) = (subject.key(n.to_string()), n.to_string());
        subject.expect(set_op(&key, &text), Reply::Bool(true)).await?;
        subject.expect(get_op(&key), value(&text)).await
    });
    join_all(calls).await.into_iter().collect()
}

/// A megabyte goes in and comes out, as a value and as one of many replies.
pub async fn large_values(subject: &Subject) -> Checked {
    let key = subject.key("k");
    let large: Vec<u8> =
        (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    subject.expect(set_op(&key, &large), Reply::Bool(true)).await?;
    let came = subject.run_many(vec![Op::Ping, get_op(&key), exists_op(&key)]).await?;
    same("ping", &came[0], &Reply::Done)?;
    same("get", &came[1], &value(&large))?;
    same("exists", &came[2], &Reply::Bool(true))
}

/// Errors print neither values nor whole keys.
pub async fn nothing_is_printed(subject: &Subject) -> Checked {
    let key = subject.key("canary-key");
    subject.expect(set_op(&key, "canary-value"), Reply::Bool(true)).await?;
    let id = bytes("canary-id");
    let list_key = subject.key("canary-list");
    subject.expect(push_op(&list_key, "canary-element"), Reply::Int(1)).await?;
    let ops = [
        Op::IncrBy { key: key.clone(), delta: 424_242_424_242 },
        push_op(&key, "canary-pushed"),
        hash_op(&key, "canary-field", "canary-hashed"),
        Op::Acquire { key: list_key.clone(), id: id.clone(), expiry: an_hour() },
        Op::Renew { key: list_key.clone(), id: id.clone(), expiry: an_hour() },
        Op::Release { key: list_key.clone(), id },
        lease_op(&list_key, "canary-token", Ask::Always),
        fill_op(&list_key, "canary-token", "canary-filled", None),
    ];
    for op in ops {
        let asked = format!("{op:?}");
        let Err(error) = subject.run(op).await else {
            return Err(format!("{asked}: expected an error"));
        };
        let shown = format!("{error} {error:?}");
        ensure(!shown.contains("canary") && !shown.contains("424242"), || {
            format!("{asked}: the error prints what it must not: {shown}")
        })?;
    }
    Ok(())
}

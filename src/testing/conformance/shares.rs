//! Cases for locks that several holders share, for fenced writes, and for what those are told who wait.

use std::time::Duration;

use super::changes::{Heard, by_another, expect_no_vouch, vouched};
use super::loads::lease_op;
use super::locks::{
    Patience, alone, extend_op, fair, lock_op, locked, near, patient, refused_lock, shared, taken,
    unlock_op,
};
use super::values::expect_ttl_near;
use super::*;
use crate::op::{Ask, Lane, Locked};
use crate::ttl::Ttl;

const HOUR: Duration = Duration::from_secs(3600);

/// So many hold it at once and no more; a holder may ask again; those whose lease is over make room for others, and hold
/// nothing any more.
pub async fn shared_locks(subject: &Subject) -> Checked {
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        let key = subject.lock_key(name);
        for id in ["a", "b", "c"] {
            taken(subject, lock_op(&key, id, shared(3))).await?;
            subject.expect(get_op(&key), value("shared")).await?;
        }
        near(refused_lock(subject, lock_op(&key, "d", shared(3))).await?, HOUR)?;
        // Who holds it is not counted against itself, and gets nothing more by asking.
        let longer = Op::Lock {
            key: key.clone(),
            id: bytes("a"),
            expiry: millis(36_000_000),
            mode: shared(1),
        };
        taken(subject, longer).await?;
        expect_ttl_near(subject, &key, HOUR).await?;
        // How many may share it is the affair of who asks.
        taken(subject, lock_op(&key, "d", shared(4))).await?;
        subject.expect(unlock_op(&key, "b", true), Reply::Bool(true)).await?;
        refused_lock(subject, lock_op(&key, "e", shared(3))).await?;
        subject.expect(unlock_op(&key, "c", true), Reply::Bool(true)).await?;
        taken(subject, lock_op(&key, "e", shared(3))).await?;
        for (id, held) in [("b", false), ("a", true), ("d", true), ("e", true)] {
            subject.expect(unlock_op(&key, id, true), Reply::Bool(held)).await?;
        }
        subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    }
    let key = subject.lock_key("brief");
    taken(subject, lock_op(&key, "long", shared(2))).await?;
    let brief = Duration::from_millis(40);
    let expiry = Expiry::new(brief).map_err(|error| error.to_string())?;
    let op = Op::Lock { key: key.clone(), id: bytes("brief"), expiry, mode: shared(2) };
    taken(subject, op).await?;
    lets_in_within(subject, &lock_op(&key, "next", shared(2)), brief).await?;
    subject.expect(extend_op(&key, "brief", an_hour(), true), Reply::Bool(false)).await?;
    subject.expect(unlock_op(&key, "brief", true), Reply::Bool(false)).await?;
    refused_lock(subject, lock_op(&key, "brief", shared(2))).await?;
    for id in ["long", "next"] {
        subject.expect(extend_op(&key, id, an_hour(), true), Reply::Bool(true)).await?;
    }
    Ok(())
}

/// Those who share it keep out who wants it alone, and are kept out by that one while it waits: until it gives up, or
/// does not ask any more.
pub async fn shared_locks_exclude_others(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let (waiting, share) = (|| patient(an_hour()), |id| lock_op(&key, id, shared(9)));
    taken(subject, share("a")).await?;
    for mode in [alone(), fair(None)] {
        near(refused_lock(subject, lock_op(&key, "x", mode)).await?, HOUR)?;
    }
    taken(subject, share("b")).await?;
    for mode in [waiting(), fair(Some(an_hour()))] {
        near(refused_lock(subject, lock_op(&key, "x", mode)).await?, HOUR)?;
        near(refused_lock(subject, share("c")).await?, HOUR)?;
        // Who is in stays in.
        taken(subject, share("a")).await?;
        subject.expect(extend_op(&key, "a", an_hour(), true), Reply::Bool(true)).await?;
        // Given up, and others are let in.
        subject.expect(unlock_op(&key, "x", false), Reply::Bool(false)).await?;
        taken(subject, share("c")).await?;
        subject.expect(unlock_op(&key, "c", true), Reply::Bool(true)).await?;
    }
    // It does not ask any more: nobody waits longer than it counts.
    let brief = Duration::from_millis(40);
    let expiry = Expiry::new(brief).map_err(|error| error.to_string())?;
    refused_lock(subject, lock_op(&key, "x", patient(expiry))).await?;
    lets_in_within(subject, &share("c"), brief).await?;
    // It gets the lock when the last one leaves, whichever that is, and then keeps them out.
    refused_lock(subject, lock_op(&key, "x", waiting())).await?;
    for id in ["b", "c", "a"] {
        refused_lock(subject, lock_op(&key, "x", waiting())).await?;
        subject.expect(unlock_op(&key, id, true), Reply::Bool(true)).await?;
    }
    refused_lock(subject, share("d")).await?;
    taken(subject, lock_op(&key, "x", waiting())).await?;
    near(refused_lock(subject, share("d")).await?, HOUR)?;
    subject.expect(unlock_op(&key, "x", false), Reply::Bool(true)).await?;
    taken(subject, share("d")).await.map(drop)
}

/// The key lives as long as the longest of those who share it, and no longer: one that dies keeps nobody out for
/// more than its own lease.
pub async fn shared_locks_end_with_the_last(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let share = |id: &str, hours: u64| Op::Lock {
        key: key.clone(),
        id: bytes(id),
        expiry: millis(hours * 3_600_000),
        mode: shared(9),
    };
    for (id, hours, longest) in [("b", 2, 2), ("a", 1, 2), ("d", 4, 4), ("c", 3, 4)] {
        taken(subject, share(id, hours)).await?;
        expect_ttl_near(subject, &key, longest * HOUR).await?;
    }
    for (id, longest) in [("a", 4), ("d", 3), ("c", 2)] {
        subject.expect(unlock_op(&key, id, true), Reply::Bool(true)).await?;
        expect_ttl_near(subject, &key, longest * HOUR).await?;
    }
    subject.expect(extend_op(&key, "b", millis(5 * 3_600_000), true), Reply::Bool(true)).await?;
    expect_ttl_near(subject, &key, 5 * HOUR).await?;
    subject.expect(unlock_op(&key, "b", true), Reply::Bool(true)).await?;
    subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    // The record lives as long as what stands in it.
    taken(subject, share("a", 100)).await?;
    expect_ttl_near(subject, &key.lock_record(), 100 * HOUR).await
}

/// Those of before hold it no more.
async fn lost(subject: &Subject, key: &Key) -> Checked {
    subject.expect(extend_op(key, "a", an_hour(), true), Reply::Bool(false)).await?;
    subject.expect(unlock_op(key, "b", true), Reply::Bool(false)).await
}

/// Asks until the lock is taken. Each time it is to be had within so long.
async fn lets_in_within(subject: &Subject, op: &Op, time: Duration) -> Checked {
    let patience = Patience::new();
    loop {
        match locked(subject, op.clone()).await? {
            Locked::Taken { .. } => return Ok(()),
            Locked::Held { remaining } if remaining <= time => patience.pause().await?,
            other => return Err(format!("it is to be had within {time:?}, not {other:?}")),
        }
    }
}

/// Without its key nobody holds a shared lock: a deleted one is free for everybody, and who held it is told so even when
/// others have shared it since.
pub async fn shared_locks_that_were_deleted(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let delete = || Op::Delete { keys: vec![key.clone()] };
    for by in [alone(), shared(1)] {
        for id in ["a", "b"] {
            taken(subject, lock_op(&key, id, shared(2))).await?;
        }
        subject.expect(delete(), Reply::Int(1)).await?;
        subject.expect(extend_op(&key, "a", an_hour(), true), Reply::Bool(false)).await?;
        subject.expect(exists_op(&key), Reply::Bool(false)).await?;
        let is_shared = by.is_shared();
        taken(subject, lock_op(&key, "x", by)).await?;
        lost(subject, &key).await?;
        subject.expect(extend_op(&key, "x", an_hour(), is_shared), Reply::Bool(true)).await?;
        subject.expect(unlock_op(&key, "x", is_shared), Reply::Bool(true)).await?;
        // Others share it now: those from before do not hold it again.
        taken(subject, lock_op(&key, "y", shared(2))).await?;
        lost(subject, &key).await?;
        taken(subject, lock_op(&key, "z", shared(2))).await?;
        refused_lock(subject, lock_op(&key, "a", shared(2))).await?;
        for id in ["y", "z"] {
            subject.expect(unlock_op(&key, id, true), Reply::Bool(true)).await?;
        }
    }
    // Without its record nobody can be told from a stranger: the key ends by itself.
    taken(subject, lock_op(&key, "a", shared(2))).await?;
    let record = Op::Delete { keys: vec![key.lock_record()] };
    subject.expect(record, Reply::Int(1)).await?;
    for id in ["a", "stranger"] {
        subject.expect(extend_op(&key, id, an_hour(), true), Reply::Bool(false)).await?;
        subject.expect(unlock_op(&key, id, true), Reply::Bool(false)).await?;
    }
    expect_ttl_near(subject, &key, HOUR).await
}

/// Who was told that a lock is not to be had is told when that may have changed.
pub async fn locks_are_told(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    let waiting = || fair(Some(an_hour()));
    // What is there, who asks in vain, what changes it, and whether the lock or its record tells.
    type Told = fn(&Key) -> Key;
    let (of_lock, of_record): (Told, Told) = (Key::clone, Key::lock_record);
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        let key = subject.lock_key(name);
        let lock = |id, mode| lock_op(&key, id, mode);
        let (ours, free) = (|| vec![lock("a", alone())], |id, shared| unlock_op(&key, id, shared));
        let ways: Vec<(Vec<Op>, Op, Op, Told)> = vec![
            (ours(), lock("x", alone()), free("a", false), of_lock),
            (ours(), lock("x", shared(1)), free("a", false), of_lock),
            (ours(), lock("x", waiting()), free("a", false), of_lock),
            (ours(), lock("x", alone()), extend_op(&key, "a", an_hour(), false), of_lock),
            (ours(), lock("x", alone()), Op::Delete { keys: vec![key.clone()] }, of_lock),
            (
                vec![Op::Acquire { key: key.clone(), id: bytes("a"), expiry: an_hour() }],
                lock("x", alone()),
                Op::Release { key: key.clone(), id: bytes("a") },
                of_lock,
            ),
            // The last of those who share it.
            (vec![lock("a", shared(1))], lock("x", alone()), free("a", true), of_lock),
            (vec![lock("a", shared(1))], lock("x", patient(an_hour())), free("a", true), of_lock),
            (vec![lock("a", shared(1))], lock("x", shared(1)), free("a", true), of_lock),
            // One of several.
            (
                vec![lock("a", shared(2)), lock("b", shared(2))],
                lock("x", shared(2)),
                free("a", true),
                of_record,
            ),
            // One who waits lets the others in, or the next one.
            (
                vec![lock("a", shared(9)), lock("b", patient(an_hour()))],
                lock("x", shared(9)),
                free("b", false),
                of_record,
            ),
            (
                vec![lock("a", alone()), lock("b", waiting()), free("a", false)],
                lock("x", waiting()),
                free("b", false),
                of_record,
            ),
        ];
        for (at, (before, asks, change, told)) in ways.into_iter().enumerate() {
            for key in [&key, &key.lock_record()] {
                by_another(subject, Op::Delete { keys: vec![key.clone()] }).await?;
            }
            for op in before {
                by_another(subject, op).await?;
            }
            let (came, _) = vouched(subject, asks, Lane::Tracked).await?;
            let held = came.into_locked().is_ok_and(|came| matches!(came, Locked::Held { .. }));
            ensure(held, || format!("{name} {at}: the lock should be another's"))?;
            heard.forget();
            let what = format!("{name} {at}: {change:?}");
            by_another(subject, change).await?;
            heard.expect(&told(&key), &what).await?;
        }
    }
    // An end that comes by itself, at the latest when somebody looks.
    let key = subject.lock_key("brief");
    let brief = Duration::from_millis(200);
    let expiry = Expiry::new(brief).map_err(|error| error.to_string())?;
    let op = Op::Lock { key: key.clone(), id: bytes("a"), expiry, mode: alone() };
    taken(subject, op).await?;
    let (came, _) = vouched(subject, lock_op(&key, "x", alone()), Lane::Tracked).await?;
    let soon = came
        .into_locked()
        .is_ok_and(|came| matches!(came, Locked::Held { remaining } if remaining <= brief));
    ensure(soon, || format!("it is to be asked again within {brief:?}"))?;
    subject.expect_gone(&key).await?;
    heard.expect(&key, "the end of a lock").await?;
    taken(subject, lock_op(&key, "x", alone())).await.map(drop)
}

/// Waits until everything is told that was to be told: what was before this was told before it.
async fn told_all(subject: &Subject, heard: &Heard, mark: &Key) -> Checked {
    vouched(subject, get_op(mark), Lane::Tracked).await?;
    by_another(subject, set_op(mark, "")).await?;
    heard.expect(mark, "the mark").await
}

/// Who waits and asks again changes nothing: else it would be told of that itself, and ask again at once, for ever.
pub async fn asking_again_tells_nobody(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    let mark = subject.key("mark");
    for (at, held, waits) in [
        (0, alone(), fair(Some(an_hour()))),
        (1, shared(1), fair(Some(an_hour()))),
        (2, shared(1), patient(an_hour())),
        (3, shared(1), shared(1)),
    ] {
        let key = subject.lock_key(format!("k{at}"));
        taken(subject, lock_op(&key, "a", held)).await?;
        let ask = || vouched(subject, lock_op(&key, "x", waits.clone()), Lane::Tracked);
        ask().await?;
        heard.forget();
        told_all(subject, &heard, &mark).await?;
        heard.forget();
        for _ in 0..3 {
            ask().await?;
        }
        told_all(subject, &heard, &mark).await?;
        for key in [&key, &key.lock_record()] {
            ensure(!heard.was_told(key), || format!("{at}: asking again was told"))?;
        }
    }
    Ok(())
}

/// An older token is refused, the same and a newer one are written, as numbers; a write voids the lease of a load, a
/// refused one does not. Its mark lives as long as the value, and at least a day.
pub async fn fenced_set(subject: &Subject) -> Checked {
    let [key, odd] = ["k", "{odd"].map(|name| subject.lock_key(name));
    let set = |key: &Key, text: &str, expiry, token| Op::FencedSet {
        key: key.clone(),
        value: bytes(text),
        expiry,
        token,
    };
    let day = Duration::from_secs(86_400);
    for key in [&key, &odd] {
        let (newest, mut last) = (u64::MAX, 0);
        for token in [0, 1, 1, 9, 10, 99, 100, 1 << 53, (1 << 53) + 1, newest - 1, newest, newest] {
            let text = token.to_string();
            subject.expect(set(key, &text, None, token), Reply::Bool(true)).await?;
            subject.expect(get_op(key), value(&text)).await?;
            for older in [last, token.saturating_sub(1), 0].into_iter().filter(|one| *one < token) {
                subject.expect(set(key, "old", None, older), Reply::Bool(false)).await?;
            }
            subject.expect(get_op(key), value(&text)).await?;
            subject.expect(get_op(&key.fence()), value(&text)).await?;
            last = token;
        }
        subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Persistent)).await?;
        subject.expect(Op::Ttl { key: key.fence() }, Reply::Ttl(Ttl::Persistent)).await?;
    }
    for (expiry, lives) in [(an_hour(), day), (millis(2 * 86_400_000), 2 * day)] {
        subject.expect(set(&key, "v", Some(expiry), u64::MAX), Reply::Bool(true)).await?;
        expect_ttl_near(subject, &key, expiry.as_duration()).await?;
        expect_ttl_near(subject, &key.fence(), lives).await?;
    }
    // A value that is gone is not forgotten.
    subject.expect(Op::Delete { keys: vec![key.clone()] }, Reply::Int(1)).await?;
    subject.expect(set(&key, "old", None, 5), Reply::Bool(false)).await?;
    subject.expect(get_op(&key), Reply::Value(None)).await?;

    let lease = || lease_op(&key, "loader", Ask::Always);
    for (token, written) in [(5, false), (u64::MAX, true)] {
        subject.run(lease()).await.map_err(|error| show_error(&error))?;
        subject.expect(set(&key, "v", None, token), Reply::Bool(written)).await?;
        subject.expect(exists_op(&key.lease()), Reply::Bool(!written)).await?;
    }
    // A value of any type is overwritten; a mark of another type is none, and refuses.
    let other = subject.lock_key("other");
    subject.expect(push_op(&other, "x"), Reply::Int(1)).await?;
    subject.expect(set(&other, "v", None, 7), Reply::Bool(true)).await?;
    // What is no number never had a token; one with zeros before it is a number.
    for (mark, token, written) in [
        ("x", 1, true),
        ("-9", 1, true),
        ("+9", 1, true),
        ("", 1, true),
        ("1234567890123456789012345", 1, true),
        ("007", 6, false),
        ("007", 7, true),
        ("000", 0, true),
    ] {
        subject.expect(set_op(&other.fence(), mark), Reply::Bool(true)).await?;
        subject.expect(set(&other, mark, None, token), Reply::Bool(written)).await?;
    }
    subject.expect(Op::Delete { keys: vec![other.fence()] }, Reply::Int(1)).await?;
    subject.expect(push_op(&other.fence(), "x"), Reply::Int(1)).await?;
    subject.refuse(set(&other, "new", None, 9), ErrorKind::WrongType, "WRONGTYPE").await?;
    subject.expect(get_op(&other), value("000")).await
}

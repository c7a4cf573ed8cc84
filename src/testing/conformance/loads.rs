//! Cases for the operations of a load: reads with times, leases, fills, and the writes that void them.

use std::time::Duration;

use super::values::expect_ttl_near;
use super::*;
use crate::op::{Ask, Fetched, LeaseState, Leased, Replaced};
use crate::ttl::Ttl;

/// Strings with their remaining times, in the order asked; one key of another type is an error, among several it
/// reads as missing.
pub async fn fetch(subject: &Subject) -> Checked {
    let [brief, lasting, missing, list] =
        ["{t}a", "{t}b", "{t}c", "{t}l"].map(|name| subject.key(name));
    let fetch = |keys: &[&Key]| Op::Fetch { keys: keys.iter().copied().cloned().collect() };
    subject.expect(fetch(&[&missing]), Reply::Fetched(vec![Fetched::MISSING])).await?;
    subject.expect(set_for(&brief, "A", an_hour()), Reply::Bool(true)).await?;
    subject.expect(set_op(&lasting, ""), Reply::Bool(true)).await?;
    subject.expect(push_op(&list, "x"), Reply::Int(1)).await?;
    let stays = Fetched { value: Some(bytes("")), ttl: Ttl::Persistent };
    subject.expect(fetch(&[&lasting]), Reply::Fetched(vec![stays.clone()])).await?;
    subject.refuse(fetch(&[&list]), ErrorKind::WrongType, "WRONGTYPE").await?;

    let came = subject.run(fetch(&[&lasting, &missing, &brief, &list, &lasting])).await;
    let came = came.and_then(Reply::into_fetched).map_err(|error| show_error(&error))?;
    ensure(came.len() == 5, || format!("fetch of five keys: {came:?}"))?;
    let rest = [&came[0], &came[1], &came[3], &came[4]];
    ensure(rest == [&stays, &Fetched::MISSING, &Fetched::MISSING, &stays], || {
        format!("fetch among several: {came:?}")
    })?;
    expect_found("fetch of what expires", &came[2], Some("A"), Some(Duration::from_secs(3600)))?;
    // In one batch with others, so that its several answers are told from theirs.
    let ops = vec![exists_op(&list), fetch(&[&lasting, &missing]), exists_op(&missing)];
    for atomic in [false, true] {
        let came = match atomic {
            false => subject.run_many(ops.clone()).await?,
            true => subject.run_atomic(ops.clone()).await?,
        };
        same("exists before", &came[0], &Reply::Bool(true))?;
        let both = Reply::Fetched(vec![stays.clone(), Fetched::MISSING]);
        same("fetch in a batch", &came[1], &both)?;
        same("exists after", &came[2], &Reply::Bool(false))?;
    }
    Ok(())
}

/// A missing key's lease is taken once; its holder may ask again, which does not prolong it. A key that is there
/// is leased only if its remaining time says so.
pub async fn lease(subject: &Subject) -> Checked {
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        lease_of(subject, &subject.key(name)).await.map_err(|what| format!("{name}: {what}"))?;
    }
    let [list, odd] = ["list", "odd"].map(|name| subject.key(name));
    subject.expect(push_op(&list, "x"), Reply::Int(1)).await?;
    let refused = lease_op(&list, "one", Ask::Always);
    subject.refuse(refused, ErrorKind::WrongType, "WRONGTYPE").await?;
    subject.expect(exists_op(&list.lease()), Reply::Bool(false)).await?;
    subject.expect(push_op(&odd.lease(), "x"), Reply::Int(1)).await?;
    let refused = lease_op(&odd, "one", Ask::Missing);
    subject.refuse(refused, ErrorKind::WrongType, "WRONGTYPE").await
}

async fn lease_of(subject: &Subject, key: &Key) -> Checked {
    let place = key.lease();
    let hour = Duration::from_secs(3600);
    for again in ["first", "again"] {
        let came = leased(subject, key, "one", Ask::Missing).await?;
        ensure(came.lease == LeaseState::Granted { digest: None }, || {
            format!("{again}: {came:?}")
        })?;
        ensure(came.found == Fetched::MISSING, || format!("{again}: {came:?}"))?;
    }
    subject.expect(get_op(&place), value("one")).await?;
    expect_ttl_near(subject, &place, hour).await?;
    let longer = Op::Lease {
        key: key.clone(),
        token: bytes("one"),
        expiry: millis(36_000_000),
        ask: Ask::Missing,
    };
    subject.run(longer).await.map_err(|error| show_error(&error))?;
    expect_ttl_near(subject, &place, hour).await?;
    let came = leased(subject, key, "two", Ask::Missing).await?;
    let held = matches!(came.lease, LeaseState::Held { remaining }
        if remaining <= hour && remaining + Duration::from_secs(60) > hour);
    ensure(held, || format!("to another: {came:?}"))?;

    // Taken without an end, which no store of ours does: nobody has to look every moment.
    subject.expect(Op::Persist { key: place.clone() }, Reply::Bool(true)).await?;
    let came = leased(subject, key, "two", Ask::Missing).await?;
    let held =
        matches!(came.lease, LeaseState::Held { remaining } if remaining > Duration::from_secs(60));
    ensure(held, || format!("without an end: {came:?}"))?;
    subject.expect(Op::Expire { key: place.clone(), expiry: an_hour() }, Reply::Bool(true)).await?;

    // There is a value now: what is asked of it decides.
    subject.expect(set_for(key, "v", an_hour()), Reply::Bool(true)).await?;
    let brief = Ask::Within(Duration::from_secs(60));
    for ask in [Ask::Missing, brief] {
        let came = leased(subject, key, "two", ask).await?;
        ensure(came.lease == LeaseState::NotAsked, || format!("{ask:?}: {came:?}"))?;
        expect_found("of a value", &came.found, Some("v"), Some(hour))?;
    }
    for ask in [Ask::Within(2 * hour), Ask::Always] {
        let came = leased(subject, key, "two", ask).await?;
        ensure(matches!(came.lease, LeaseState::Held { .. }), || format!("{ask:?}: {came:?}"))?;
        let came = leased(subject, key, "one", ask).await?;
        let granted = matches!(&came.lease, LeaseState::Granted { digest: Some(_) });
        ensure(granted, || format!("{ask:?} by the holder: {came:?}"))?;
        expect_found("of a value", &came.found, Some("v"), Some(hour))?;
    }
    // A value that stays expires within no time.
    subject.expect(set_op(key, "v"), Reply::Bool(true)).await?;
    subject.expect(Op::Delete { keys: vec![place.clone()] }, Reply::Int(1)).await?;
    let came = leased(subject, key, "two", Ask::Within(Duration::MAX)).await?;
    ensure(came.lease == LeaseState::NotAsked, || format!("of a value that stays: {came:?}"))?;
    let came = leased(subject, key, "two", Ask::Always).await?;
    ensure(matches!(came.lease, LeaseState::Granted { .. }), || format!("always: {came:?}"))?;
    subject.expect(get_op(&place), value("two")).await?;
    // An end that comes by itself lets the next one in.
    subject.expect(Op::Expire { key: place.clone(), expiry: millis(5) }, Reply::Bool(true)).await?;
    subject.expect_gone(&place).await?;
    let came = leased(subject, key, "three", Ask::Always).await?;
    ensure(matches!(came.lease, LeaseState::Granted { .. }), || format!("after it: {came:?}"))
}

/// A fill is written only while its lease stands and the key is still absent, and gives the lease back in any
/// case, but never another's.
pub async fn fill(subject: &Subject) -> Checked {
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        let key = subject.key(name);
        let place = key.lease();
        expect_filled(subject, &key, "none", "x", false, None).await?;
        granted(subject, &key, "one", Ask::Missing).await?;
        expect_filled(subject, &key, "two", "x", false, None).await?;
        subject.expect(get_op(&place), value("one")).await?;
        expect_filled(subject, &key, "one", "loaded", true, None).await?;
        subject.expect(exists_op(&place), Reply::Bool(false)).await?;
        let expected =
            Reply::Fetched(vec![Fetched { value: Some(bytes("loaded")), ttl: Ttl::Persistent }]);
        subject.expect(Op::Fetch { keys: vec![key.clone()] }, expected).await?;
        // Once used, it is void.
        expect_filled(subject, &key, "one", "again", false, Some("loaded")).await?;
    }
    let brief = subject.key("brief");
    granted(subject, &brief, "one", Ask::Missing).await?;
    let filled = Op::Fill {
        key: brief.clone(),
        token: bytes("one"),
        value: bytes("loaded"),
        expiry: Some(an_hour()),
        replaces: None,
    };
    let accepted = Reply::Filled { accepted: true, found: Fetched::MISSING };
    subject.expect(filled, accepted).await?;
    expect_ttl_near(subject, &brief, Duration::from_secs(3600)).await?;

    // What came in between may be of another type: then the lease goes, and the list stays.
    let list_key = subject.key("list");
    granted(subject, &list_key, "one", Ask::Missing).await?;
    subject.expect(push_op(&list_key, "x"), Reply::Int(1)).await?;
    let filled = fill_op(&list_key, "one", "x", None);
    subject.refuse(filled, ErrorKind::WrongType, "WRONGTYPE").await?;
    subject.expect(exists_op(&list_key.lease()), Reply::Bool(false)).await?;
    subject.expect(range_op(&list_key, 0, -1), list(&["x"])).await?;
    // A lease that is no string is nobody's.
    let odd = subject.key("odd");
    subject.expect(push_op(&odd.lease(), "one"), Reply::Int(1)).await?;
    expect_filled(subject, &odd, "one", "x", false, None).await?;
    subject.expect(exists_op(&odd.lease()), Reply::Bool(true)).await
}

/// A refresh is written only over the value that it replaces: the same bytes, with no more time than they had.
pub async fn fill_of_a_refresh(subject: &Subject) -> Checked {
    let hours = |count: u64| millis(count * 3_600_000);
    // What another writes in between, and whether the refresh may then be written.
    let [stays, rewritten, equal, longer, shorter, persistent, gone, expired] =
        ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| subject.key(name));
    let cases: [(&str, &Key, Option<Op>, bool, bool); 8] = [
        ("nothing", &stays, None, false, true),
        ("other bytes", &rewritten, Some(set_for(&rewritten, "new", hours(1))), false, false),
        ("equal bytes for longer", &equal, Some(set_for(&equal, "old", hours(3))), false, false),
        (
            "more time",
            &longer,
            Some(Op::Expire { key: longer.clone(), expiry: hours(3) }),
            false,
            false,
        ),
        (
            "less time",
            &shorter,
            Some(Op::Expire { key: shorter.clone(), expiry: hours(1) }),
            false,
            true,
        ),
        ("no expiry", &persistent, Some(Op::Persist { key: persistent.clone() }), false, false),
        (
            "an end that was not its time",
            &gone,
            Some(Op::Expire { key: gone.clone(), expiry: millis(1) }),
            false,
            false,
        ),
        (
            "an end that was its time",
            &expired,
            Some(Op::Expire { key: expired.clone(), expiry: millis(1) }),
            true,
            true,
        ),
    ];
    for (what, key, change, has_expired, accepted) in cases {
        subject.expect(set_for(key, "old", hours(2)), Reply::Bool(true)).await?;
        let Leased { found, lease: LeaseState::Granted { digest: Some(digest) } } =
            granted(subject, key, "one", Ask::Always).await?
        else {
            return Err(format!("{what}: a lease without the digest of what was found"));
        };
        if let Some(change) = change {
            let brief = matches!(&change, Op::Expire { expiry, .. } if *expiry == millis(1));
            subject.expect(change, Reply::Bool(true)).await?;
            if brief {
                subject.expect_gone(key).await?;
            }
        }
        let replaces = Replaced { digest, ttl: found.ttl, expired: has_expired };
        let came = subject.run(fill_op(key, "one", "fresh", Some(replaces))).await;
        let came = came.and_then(Reply::into_filled).map_err(|error| show_error(&error))?;
        ensure(came.0 == accepted, || format!("{what} in between: {came:?}"))?;
        subject.expect(exists_op(&key.lease()), Reply::Bool(false)).await?;
        let now = subject.run(get_op(key)).await.and_then(Reply::into_value);
        let now = now.map_err(|error| show_error(&error))?;
        ensure((now == Some(bytes("fresh"))) == accepted, || format!("{what}: {now:?} is there"))?;
        ensure(accepted || now == came.1.value, || format!("{what}: shown as {came:?}"))?;
    }
    // A value that stays is replaced while it stays.
    let key = subject.key("lasting");
    subject.expect(set_op(&key, "old"), Reply::Bool(true)).await?;
    for change in [Some(Op::Expire { key: key.clone(), expiry: hours(1) }), None] {
        let LeaseState::Granted { digest: Some(digest) } =
            granted(subject, &key, "one", Ask::Always).await?.lease
        else {
            return Err("a lease without the digest of what was found".to_owned());
        };
        let expected = change.is_none();
        if let Some(change) = change {
            subject.expect(change, Reply::Bool(true)).await?;
        }
        let replaces = Replaced { digest, ttl: Ttl::Persistent, expired: false };
        let came = subject.run(fill_op(&key, "one", "fresh", Some(replaces))).await;
        let came = came.and_then(Reply::into_filled).map_err(|error| show_error(&error))?;
        ensure(came.0 == expected, || format!("of a value that stayed: {came:?}"))?;
        subject.run(Op::Persist { key: key.clone() }).await.map_err(|error| show_error(&error))?;
    }
    Ok(())
}

/// What other programs do between a lease and its fill, if they keep to the rule (the lease key goes first), or only
/// write: the fill is refused, and what they left stays.
pub async fn foreign_writes_refuse_the_fill(subject: &Subject) -> Checked {
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        let key = subject.key(name);
        let place = key.lease();
        let del = |key: &Key| Op::Delete { keys: vec![key.clone()] };
        let by_others: [(&str, Vec<Op>, Option<&str>); 6] = [
            ("DEL lease; DEL key", vec![del(&place), del(&key)], None),
            ("DEL lease; SET key", vec![del(&place), set_op(&key, "new")], Some("new")),
            ("SET key", vec![set_op(&key, "new")], Some("new")),
            ("SET key; DEL key and lease", vec![set_op(&key, "new"), del(&key)], None),
            (
                "a lease of their own",
                vec![del(&place), lease_op(&key, "theirs", Ask::Missing)],
                None,
            ),
            ("overwrite", vec![overwrite_op(&key, "new", None)], Some("new")),
        ];
        for (what, ops, left) in by_others {
            let what = format!("{name}, {what}");
            granted(subject, &key, "mine", Ask::Missing).await?;
            for op in ops {
                let batch = Batch::one("conformance", op);
                let done = subject.other.run(batch).await.and_then(|replies| replies.into_one());
                done.map_err(|error| format!("{what}: {}", show_error(&error)))?;
            }
            let filled = expect_filled(subject, &key, "mine", "stale", false, left).await;
            filled.map_err(|came| format!("{what}: {came}"))?;
            subject.expect(get_op(&key), Reply::Value(left.map(bytes))).await?;
            subject.run(del(&key)).await.map_err(|error| show_error(&error))?;
        }
    }
    Ok(())
}

/// Only the holder gives a lock or a lease more time, or less.
pub async fn renew(subject: &Subject) -> Checked {
    let key = subject.key("k");
    let renew = |key: &Key, id: &str, hours: u64| Op::Renew {
        key: key.clone(),
        id: bytes(id),
        expiry: millis(hours * 3_600_000),
    };
    for place in [key.lease(), key.clone()] {
        subject.expect(renew(&place, "one", 1), Reply::Bool(false)).await?;
        subject.expect(exists_op(&place), Reply::Bool(false)).await?;
        let acquire = Op::Acquire { key: place.clone(), id: bytes("one"), expiry: an_hour() };
        subject.expect(acquire, Reply::Bool(true)).await?;
        subject.expect(renew(&place, "two", 3), Reply::Bool(false)).await?;
        subject.expect(renew(&place, "", 3), Reply::Bool(false)).await?;
        expect_ttl_near(subject, &place, Duration::from_secs(3600)).await?;
        for hours in [3, 2] {
            subject.expect(renew(&place, "one", hours), Reply::Bool(true)).await?;
            expect_ttl_near(subject, &place, Duration::from_secs(hours * 3600)).await?;
        }
        subject.expect(get_op(&place), value("one")).await?;
    }
    Ok(())
}

/// A write that voids the lease replaces what was there, of any type, with the expiry that it is given or none.
pub async fn overwrite(subject: &Subject) -> Checked {
    let key = subject.key("k");
    subject.expect(push_op(&key, "x"), Reply::Int(1)).await?;
    subject.expect(overwrite_op(&key, "text", Some(an_hour())), Reply::Done).await?;
    subject.expect(get_op(&key), value("text")).await?;
    expect_ttl_near(subject, &key, Duration::from_secs(3600)).await?;
    subject.expect(overwrite_op(&key, "", None), Reply::Done).await?;
    subject.expect(get_op(&key), value("")).await?;
    subject.expect(Op::Ttl { key: key.clone() }, Reply::Ttl(Ttl::Persistent)).await?;
    subject.expect(Op::Delete { keys: vec![key.clone()] }, Reply::Int(1)).await?;
    granted(subject, &key, "one", Ask::Missing).await?;
    subject.expect(overwrite_op(&key, "new", None), Reply::Done).await?;
    subject.expect(exists_op(&key.lease()), Reply::Bool(false)).await?;
    // A plain write leaves the lease alone: a fill meets the new value.
    subject.expect(Op::Delete { keys: vec![key.clone()] }, Reply::Int(1)).await?;
    granted(subject, &key, "one", Ask::Missing).await?;
    subject.expect(set_op(&key, "new"), Reply::Bool(true)).await?;
    subject.expect(get_op(&key.lease()), value("one")).await
}

/// A delete voids the leases of its keys, of missing ones too, and counts the keys alone.
pub async fn deletes_void_leases(subject: &Subject) -> Checked {
    let keys = ["{t}a", "{t}b", "{t}c"].map(|name| subject.key(name));
    for key in &keys {
        granted(subject, key, "one", Ask::Missing).await?;
    }
    subject.expect(set_op(&keys[1], "v"), Reply::Bool(true)).await?;
    subject.expect(Op::Delete { keys: keys[..2].to_vec() }, Reply::Int(1)).await?;
    for (key, stands) in keys.iter().zip([false, false, true]) {
        subject.expect(exists_op(&key.lease()), Reply::Bool(stands)).await?;
    }
    // The leases go first: named as a key beside its own, one is not counted.
    let together = vec![keys[2].lease(), keys[2].clone()];
    subject.expect(Op::Delete { keys: together }, Reply::Int(0)).await?;
    subject.expect(exists_op(&keys[2].lease()), Reply::Bool(false)).await
}

pub(super) fn lease_op(key: &Key, token: &str, ask: Ask) -> Op {
    Op::Lease { key: key.clone(), token: bytes(token), expiry: an_hour(), ask }
}

pub(super) fn fill_op(key: &Key, token: &str, text: &str, replaces: Option<Replaced>) -> Op {
    let (key, token, value) = (key.clone(), bytes(token), bytes(text));
    Op::Fill { key, token, value, expiry: None, replaces: replaces.map(Box::new) }
}

pub(super) fn overwrite_op(key: &Key, text: &str, expiry: Option<Expiry>) -> Op {
    Op::Overwrite { key: key.clone(), value: bytes(text), expiry }
}

async fn leased(subject: &Subject, key: &Key, token: &str, ask: Ask) -> Result<Leased, String> {
    let came = subject.run(lease_op(key, token, ask)).await;
    came.and_then(Reply::into_leased).map_err(|error| format!("lease: {}", show_error(&error)))
}

async fn granted(subject: &Subject, key: &Key, token: &str, ask: Ask) -> Result<Leased, String> {
    let came = leased(subject, key, token, ask).await?;
    match came.lease {
        LeaseState::Granted { .. } => Ok(came),
        _ => Err(format!("lease {key}: expected it granted, got {came:?}")),
    }
}

/// Fills, and compares what became of it; `left` is what is shown of a key that was there before.
async fn expect_filled(
    subject: &Subject,
    key: &Key,
    token: &str,
    text: &str,
    accepted: bool,
    left: Option<&str>,
) -> Checked {
    let found = match left {
        None => Fetched::MISSING,
        Some(left) => Fetched { value: Some(bytes(left)), ttl: Ttl::Persistent },
    };
    subject.expect(fill_op(key, token, text, None), Reply::Filled { accepted, found }).await
}

fn expect_found(
    asked: &str,
    came: &Fetched,
    text: Option<&str>,
    given: Option<Duration>,
) -> Checked {
    let near = match (came.ttl, given) {
        (Ttl::Remaining(left), Some(given)) => {
            left <= given && left + Duration::from_secs(60) > given
        }
        (_, given) => given.is_none(),
    };
    ensure(near && came.value == text.map(bytes), || {
        format!("{asked}: expected {text:?} for {given:?}, got {came:?}")
    })
}

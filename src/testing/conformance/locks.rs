//! Cases for locks that one holder has alone: tokens, leases, the queue, and what stands in the record.

use std::time::Duration;

use super::values::expect_ttl_near;
use super::*;
use crate::op::{LockMode, Locked};
use crate::ttl::Ttl;

const HOUR: Duration = Duration::from_secs(3600);

/// An absent lock is taken once; its holder may ask again, which answers the same and does not prolong it. Its key holds
/// the identifier, as every language expects.
pub async fn lock(subject: &Subject) -> Checked {
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        let key = subject.lock_key(name);
        let token = token(subject, &key, "one", alone()).await?;
        subject.expect(get_op(&key), value("one")).await?;
        expect_ttl_near(subject, &key, HOUR).await?;
        let longer = Op::Lock {
            key: key.clone(),
            id: bytes("one"),
            expiry: millis(36_000_000),
            mode: alone(),
        };
        for mode in [alone(), fair(None), fair(Some(an_hour()))] {
            let again = lock_as(&longer, mode);
            let same = Reply::Locked(Locked::Taken { token: Some(token) });
            subject.expect(again, same).await?;
            expect_ttl_near(subject, &key, HOUR).await?;
        }
        for mode in [alone(), fair(None), fair(Some(an_hour())), shared(5)] {
            let left = refused_lock(subject, lock_op(&key, "two", mode)).await?;
            near(left, HOUR)?;
        }
        // Without an end, which no lock of ours is: nobody has to look every moment.
        subject.expect(Op::Persist { key: key.clone() }, Reply::Bool(true)).await?;
        for mode in [alone(), shared(5)] {
            let left = refused_lock(subject, lock_op(&key, "two", mode)).await?;
            ensure(left > Duration::from_secs(60), || format!("without an end: {left:?}"))?;
        }
        subject.expect(unlock_op(&key, "one", false), Reply::Bool(true)).await?;
        subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    }
    // In one batch: each sees what the one before it did.
    let key = subject.lock_key("batch");
    let ops = vec![
        lock_op(&key, "one", alone()),
        lock_op(&key, "two", alone()),
        unlock_op(&key, "one", false),
        lock_op(&key, "two", shared(1)),
    ];
    let came = subject.run_atomic(ops).await?;
    let came: Vec<_> = came.into_iter().map(|one| one.map_err(|e| show_error(&e))).collect();
    let in_order = matches!(
        came[..],
        [
            Ok(Reply::Locked(Locked::Taken { token: Some(_) })),
            Ok(Reply::Locked(Locked::Held { .. })),
            Ok(Reply::Bool(true)),
            Ok(Reply::Locked(Locked::Taken { token: None })),
        ]
    );
    ensure(in_order, || format!("in one batch: {came:?}"))
}

/// Each holder's token is larger than every one before, however the lock became free, and whether or not the record is
/// there: it is the store's time, or more.
pub async fn fencing_tokens_rise(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let record = key.lock_record();
    let del = |key: &Key| Op::Delete { keys: vec![key.clone()] };
    let mut last = token(subject, &key, "first", alone()).await?;
    // In microseconds since 1970: larger than in 2024, smaller than what 53 bits hold.
    ensure((1_704_000_000_000_000..1 << 53).contains(&last), || format!("the token is {last}"))?;
    for turn in 0..20 {
        let (id, before) = (format!("id{turn}"), last);
        let freed: &[Op] = match turn % 5 {
            0 => &[
                unlock_op(&key, &format!("id{}", turn - 1), false),
                unlock_op(&key, "first", false),
            ],
            1 => &[del(&key)],
            2 => &[del(&key), del(&record)],
            3 => &[del(&key), hash_op(&record, "token", "not a number")],
            _ => &[Op::Expire { key: key.clone(), expiry: millis(2) }],
        };
        for op in freed {
            subject.run(op.clone()).await.map_err(|error| show_error(&error))?;
        }
        subject.expect_gone(&key).await?;
        last = token(subject, &key, &id, alone()).await?;
        ensure(last > before, || format!("turn {turn}: {last} after {before}"))?;
        // Of a record that is gone the holder gets another one, never an older one.
        subject.expect(del(&record), Reply::Int(1)).await?;
        let again = token(subject, &key, &id, alone()).await?;
        ensure(again > last, || format!("turn {turn}: {again} after {last}, by the holder"))?;
        last = again;
    }
    // It follows the time, not only its own count.
    subject.expect(unlock_op(&key, "id19", false), Reply::Bool(true)).await?;
    let brief =
        Op::Lock { key: key.clone(), id: bytes("brief"), expiry: millis(60), mode: alone() };
    let before = taken(subject, brief).await?.unwrap_or(0);
    subject.expect_gone(&key).await?;
    let after = token(subject, &key, "after", alone()).await?;
    ensure(after - before >= 59_000, || format!("{after} is 60 ms after {before}"))?;
    // The last one plus one, if that is more: of a server whose clock was put back.
    subject.expect(unlock_op(&key, "after", false), Reply::Bool(true)).await?;
    let ahead = (after + 10_000_000).to_string();
    subject.expect(hash_op(&record, "token", &ahead), Reply::Bool(false)).await?;
    let next = token(subject, &key, "next", alone()).await?;
    ensure(next == after + 10_000_001, || format!("{next} after {ahead}"))
}

/// Who takes a lock by `Acquire`, or by writing a string, excludes those who take it by `Lock`, and is excluded.
pub async fn plain_locks_exclude_locks(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let acquire = |id: &str| Op::Acquire { key: key.clone(), id: bytes(id), expiry: an_hour() };
    let plain: [(Op, Op); 2] = [
        (acquire("theirs"), Op::Release { key: key.clone(), id: bytes("theirs") }),
        (set_for(&key, "theirs", an_hour()), Op::Delete { keys: vec![key.clone()] }),
    ];
    for (take, give_back) in plain {
        subject.expect(take, Reply::Bool(true)).await?;
        for mode in [alone(), fair(None), shared(1)] {
            near(refused_lock(subject, lock_op(&key, "ours", mode)).await?, HOUR)?;
        }
        for shared in [false, true] {
            subject.expect(extend_op(&key, "ours", an_hour(), shared), Reply::Bool(false)).await?;
            subject.expect(unlock_op(&key, "ours", shared), Reply::Bool(false)).await?;
        }
        subject.expect(get_op(&key), value("theirs")).await?;
        subject.run(give_back).await.map_err(|error| show_error(&error))?;
        for mode in [alone(), shared(3)] {
            let is_shared = mode.is_shared();
            taken(subject, lock_op(&key, "ours", mode)).await?;
            subject.expect(acquire("theirs"), Reply::Bool(false)).await?;
            let set = set_if_op(&key, "theirs", Presence::Absent);
            subject.expect(set, Reply::Bool(false)).await?;
            let release = Op::Release { key: key.clone(), id: bytes("theirs") };
            subject.expect(release, Reply::Bool(false)).await?;
            subject.expect(unlock_op(&key, "ours", is_shared), Reply::Bool(true)).await?;
        }
    }
    // The same identifier is the same holder: a plain lock can be taken on as one with a token.
    subject.expect(acquire("mine"), Reply::Bool(true)).await?;
    let first = token(subject, &key, "mine", alone()).await?;
    ensure(token(subject, &key, "mine", alone()).await? == first, || "it changed".to_owned())?;
    subject.expect(acquire("mine"), Reply::Bool(true)).await?;
    let release = Op::Release { key: key.clone(), id: bytes("mine") };
    subject.expect(release, Reply::Bool(true)).await
}

/// Only the holder prolongs its lock, or gives it back, and only while it has it.
pub async fn locks_obey_their_holder(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let two_hours = millis(7_200_000);
    for shared in [false, true] {
        subject.expect(extend_op(&key, "one", two_hours, shared), Reply::Bool(false)).await?;
        subject.expect(unlock_op(&key, "one", shared), Reply::Bool(false)).await?;
        subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    }
    for mode in [alone(), shared(2)] {
        let is_shared = mode.is_shared();
        taken(subject, lock_op(&key, "one", mode.clone())).await?;
        // The same identifier does not hold it in the other way.
        for (id, shared) in [("two", false), ("two", true), ("one", !is_shared)] {
            subject.expect(extend_op(&key, id, two_hours, shared), Reply::Bool(false)).await?;
            subject.expect(unlock_op(&key, id, shared), Reply::Bool(false)).await?;
        }
        expect_ttl_near(subject, &key, HOUR).await?;
        subject.expect(extend_op(&key, "one", two_hours, is_shared), Reply::Bool(true)).await?;
        expect_ttl_near(subject, &key, 2 * HOUR).await?;
        subject.expect(unlock_op(&key, "one", is_shared), Reply::Bool(true)).await?;
        subject.expect(unlock_op(&key, "one", is_shared), Reply::Bool(false)).await?;
        subject.expect(extend_op(&key, "one", two_hours, is_shared), Reply::Bool(false)).await?;

        // A lease that is over is over.
        let brief = Op::Lock { key: key.clone(), id: bytes("one"), expiry: millis(5), mode };
        taken(subject, brief).await?;
        subject.expect_gone(&key).await?;
        subject.expect(extend_op(&key, "one", two_hours, is_shared), Reply::Bool(false)).await?;
        subject.expect(unlock_op(&key, "one", is_shared), Reply::Bool(false)).await?;
    }
    // A shorter lease is a lease, too: alone, the last word counts.
    token(subject, &key, "one", alone()).await?;
    subject.expect(extend_op(&key, "one", millis(600_000), false), Reply::Bool(true)).await?;
    expect_ttl_near(subject, &key, Duration::from_secs(600)).await
}

/// A key of another type is no lock, and no record: both are refused, and nothing is left behind.
pub async fn locks_of_other_types(subject: &Subject) -> Checked {
    let [list, odd] = ["list", "odd"].map(|name| subject.lock_key(name));
    let record = odd.lock_record();
    let modes = || [alone(), fair(None), fair(Some(an_hour())), shared(2)];
    subject.expect(push_op(&list, "x"), Reply::Int(1)).await?;
    for mode in modes() {
        subject.refuse(lock_op(&list, "one", mode), ErrorKind::WrongType, "WRONGTYPE").await?;
    }
    for shared in [false, true] {
        for op in [extend_op(&list, "one", an_hour(), shared), unlock_op(&list, "one", shared)] {
            subject.refuse(op, ErrorKind::WrongType, "WRONGTYPE").await?;
        }
    }
    subject.expect(exists_op(&list.lock_record()), Reply::Bool(false)).await?;
    subject.expect(range_op(&list, 0, -1), super::list(&["x"])).await?;

    subject.expect(push_op(&record, "x"), Reply::Int(1)).await?;
    for mode in modes() {
        subject.refuse(lock_op(&odd, "one", mode), ErrorKind::WrongType, "WRONGTYPE").await?;
        subject.expect(exists_op(&odd), Reply::Bool(false)).await?;
    }
    // Whoever holds the plain lock beside it is not in the way of others, and gives it back.
    let acquire = Op::Acquire { key: odd.clone(), id: bytes("one"), expiry: an_hour() };
    subject.expect(acquire, Reply::Bool(true)).await?;
    near(refused_lock(subject, lock_op(&odd, "two", alone())).await?, HOUR)?;
    subject.expect(extend_op(&odd, "one", an_hour(), false), Reply::Bool(true)).await?;
    subject.expect(unlock_op(&odd, "one", false), Reply::Bool(true)).await?;
    subject.expect(range_op(&record, 0, -1), super::list(&["x"])).await
}

/// Who waits fairly gets it in the order of arrival, also in one moment; a place that is given back, or whose time is over,
/// holds nobody up; who does not wait for a turn keeps none.
pub async fn locks_are_given_in_order(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let waiting = || fair(Some(an_hour()));
    token(subject, &key, "holder", alone()).await?;
    // The other way round than their names are in order.
    let arrived = ["d", "c", "b", "a"];
    for id in arrived {
        near(refused_lock(subject, lock_op(&key, id, waiting())).await?, HOUR)?;
    }
    // A try that leaves no trace.
    refused_lock(subject, lock_op(&key, "0", fair(None))).await?;
    subject.expect(unlock_op(&key, "holder", false), Reply::Bool(true)).await?;
    for (at, id) in arrived.into_iter().enumerate() {
        for later in &arrived[at + 1..] {
            near(refused_lock(subject, lock_op(&key, later, waiting())).await?, HOUR)?;
        }
        refused_lock(subject, lock_op(&key, "0", fair(None))).await?;
        if id == "c" {
            // Its place is given back, and the next one has its turn.
            subject.expect(unlock_op(&key, "c", false), Reply::Bool(false)).await?;
            continue;
        }
        token(subject, &key, id, waiting()).await?;
        subject.expect(unlock_op(&key, id, false), Reply::Bool(true)).await?;
    }
    token(subject, &key, "0", fair(None)).await?;

    // A place that counts long enough is not written again; one that is keeps its turn.
    let mut places = Vec::new();
    for expiry in [an_hour(), an_hour(), millis(3 * 3_600_000)] {
        refused_lock(subject, lock_op(&key, "x", fair(Some(expiry)))).await?;
        let place = place_of(subject, &key, "x").await?;
        places.push(place.ok_or("who waits has no place")?);
    }
    ensure(places[0] == places[1], || "the place was written again".to_owned())?;
    let turn = |place: &Bytes| place.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec);
    ensure(places[1] != places[2] && turn(&places[1]) == turn(&places[2]), || {
        format!("the place is {:?}, it was {:?}", places[2], places[1])
    })?;
    subject.expect(unlock_op(&key, "x", false), Reply::Bool(false)).await?;

    // The first stops waiting without a word: after its time it is the second's turn, and the first's place is gone.
    let dead = lock_op(&key, "first", fair(Some(millis(20))));
    refused_lock(subject, dead).await?;
    refused_lock(subject, lock_op(&key, "second", waiting())).await?;
    let patience = Patience::new();
    while place_of(subject, &key, "first").await?.is_some() {
        patience.pause().await?;
        refused_lock(subject, lock_op(&key, "second", waiting())).await?;
    }
    refused_lock(subject, lock_op(&key, "first", waiting())).await?;
    subject.expect(unlock_op(&key, "0", false), Reply::Bool(true)).await?;
    refused_lock(subject, lock_op(&key, "first", waiting())).await?;
    token(subject, &key, "second", waiting()).await?;
    subject.expect(unlock_op(&key, "second", false), Reply::Bool(true)).await?;
    // Of a lock that is free, one who is not its next waits for that one's place to end.
    refused_lock(subject, lock_op(&key, "third", fair(None))).await?;
    subject.expect(unlock_op(&key, "first", false), Reply::Bool(false)).await?;
    token(subject, &key, "third", fair(None)).await.map(drop)
}

/// The holder's name stands in the record, and goes with the next holder who has none.
pub async fn owners_stand_in_the_record(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let owner = || Op::HashGet { key: key.lock_record(), field: bytes("owner") };
    let named =
        |name: &str| LockMode::Exclusive { label: Some(bytes(name)), fair: false, waits: None };
    token(subject, &key, "one", named("host-1, nightly")).await?;
    subject.expect(owner(), value("host-1, nightly")).await?;
    // Asking again is no new holder.
    token(subject, &key, "one", named("another")).await?;
    subject.expect(owner(), value("host-1, nightly")).await?;
    refused_lock(subject, lock_op(&key, "two", named("two's"))).await?;
    subject.expect(owner(), value("host-1, nightly")).await?;
    subject.expect(unlock_op(&key, "one", false), Reply::Bool(true)).await?;
    token(subject, &key, "two", alone()).await?;
    subject.expect(owner(), Reply::Value(None)).await?;
    let id = Op::HashGet { key: key.lock_record(), field: bytes("id") };
    subject.expect(id, value("two")).await?;
    let ttl = Op::Ttl { key: key.lock_record() };
    let lives = subject.run(ttl).await.and_then(Reply::into_ttl).map_err(|e| show_error(&e))?;
    ensure(matches!(lives, Ttl::Remaining(left) if left > 23 * HOUR), || {
        format!("the record lives for a day, not {lives:?}")
    })
}

/// What is no number in a record counts as nothing: it keeps nobody out, and fails nothing.
pub async fn garbage_in_a_record(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let record = key.lock_record();
    let garbage: [&[u8]; 14] = [
        b"",
        b"x",
        b"12",
        b"1 2 3",
        b"-1 5",
        b" 5",
        b"5 ",
        b"1e99",
        b"0x10",
        b"1 1e99",
        b"1\n2",
        b"99999999999999999999999999 99999999999999999999999999",
        b"9223372036854775807",
        b"\xff \xff",
    ];
    for (at, text) in garbage.into_iter().enumerate() {
        let named = |what: String| format!("garbage {at}: {what}");
        let fields = ["q:other", "q:one", "r:other", "r:one", "token"];
        for field in fields {
            subject.run(hash_op(&record, field, text)).await.map_err(|e| show_error(&e))?;
        }
        let lock = |id, mode| lock_op(&key, id, mode);
        taken(subject, lock("one", fair(Some(an_hour())))).await.map_err(named)?;
        refused_lock(subject, lock("two", fair(Some(an_hour())))).await.map_err(named)?;
        subject.expect(unlock_op(&key, "two", false), Reply::Bool(false)).await.map_err(named)?;
        subject.expect(unlock_op(&key, "one", false), Reply::Bool(true)).await.map_err(named)?;
        taken(subject, lock("one", shared(1))).await.map_err(named)?;
        for field in fields {
            let other = field != "r:one";
            let op = if other { hash_op(&record, field, text) } else { exists_op(&record) };
            subject.run(op).await.map_err(|e| show_error(&e))?;
        }
        refused_lock(subject, lock("two", fair(Some(an_hour())))).await.map_err(named)?;
        let extend = |id| extend_op(&key, id, an_hour(), true);
        subject.expect(extend("other"), Reply::Bool(false)).await.map_err(named)?;
        subject.expect(extend("one"), Reply::Bool(true)).await.map_err(named)?;
        subject.expect(unlock_op(&key, "two", false), Reply::Bool(false)).await.map_err(named)?;
        taken(subject, lock("two", shared(2))).await.map_err(named)?;
        for (id, held) in [("other", false), ("one", true), ("two", true)] {
            subject.expect(unlock_op(&key, id, true), Reply::Bool(held)).await.map_err(named)?;
        }
        subject.expect(exists_op(&key), Reply::Bool(false)).await.map_err(named)?;
    }
    Ok(())
}

/// The longest lease that an expiry takes works like any other.
pub async fn leases_of_an_age(subject: &Subject) -> Checked {
    let key = subject.lock_key("k");
    let longest = Duration::from_millis((i64::MAX - (1 << 43)) as u64);
    let expiry = Expiry::new(longest).map_err(|error| error.to_string())?;
    let century = Duration::from_secs(100 * 365 * 86_400);
    for mode in [alone(), fair(Some(expiry)), shared(2)] {
        let is_shared = mode.is_shared();
        let op =
            |id: &str| Op::Lock { key: key.clone(), id: bytes(id), expiry, mode: mode.clone() };
        let first = taken(subject, op("one")).await?;
        ensure(taken(subject, op("one")).await? == first, || "it is the same".to_owned())?;
        if is_shared {
            taken(subject, op("two")).await?;
        }
        for other in [lock_op(&key, "three", alone()), lock_as(&op("three"), fair(Some(expiry)))] {
            let left = refused_lock(subject, other).await?;
            ensure(left > century, || format!("{left:?} of the longest lease"))?;
        }
        subject.expect(extend_op(&key, "one", expiry, is_shared), Reply::Bool(true)).await?;
        if is_shared {
            subject.expect(unlock_op(&key, "two", true), Reply::Bool(true)).await?;
        }
        subject.expect(unlock_op(&key, "three", false), Reply::Bool(false)).await?;
        subject.expect(unlock_op(&key, "one", is_shared), Reply::Bool(true)).await?;
        subject.expect(exists_op(&key), Reply::Bool(false)).await?;
    }
    Ok(())
}

// Short names for what the cases of locks ask.

pub(super) fn alone() -> LockMode {
    LockMode::Exclusive { label: None, fair: false, waits: None }
}

/// Alone, waiting for those who share it.
pub(super) fn patient(waits: Expiry) -> LockMode {
    LockMode::Exclusive { label: None, fair: false, waits: Some(waits) }
}

pub(super) fn fair(waits: Option<Expiry>) -> LockMode {
    LockMode::Exclusive { label: None, fair: true, waits }
}

pub(super) fn shared(most: u32) -> LockMode {
    LockMode::Shared { most }
}

/// For an hour.
pub(super) fn lock_op(key: &Key, id: &str, mode: LockMode) -> Op {
    Op::Lock { key: key.clone(), id: bytes(id), expiry: an_hour(), mode }
}

fn lock_as(op: &Op, mode: LockMode) -> Op {
    match op.clone() {
        Op::Lock { key, id, expiry, .. } => Op::Lock { key, id, expiry, mode },
        other => other,
    }
}

pub(super) fn extend_op(key: &Key, id: &str, expiry: Expiry, shared: bool) -> Op {
    Op::Extend { key: key.clone(), id: bytes(id), expiry, shared }
}

pub(super) fn unlock_op(key: &Key, id: &str, shared: bool) -> Op {
    Op::Unlock { key: key.clone(), id: bytes(id), shared }
}

pub(super) async fn locked(subject: &Subject, op: Op) -> Result<Locked, String> {
    let asked = format!("{op:?}");
    let came = subject.run(op).await.and_then(Reply::into_locked);
    came.map_err(|error| format!("{asked}: {}", show_error(&error)))
}

/// Takes a lock that is to be free. Its token, unless it is shared.
pub(super) async fn taken(subject: &Subject, op: Op) -> Result<Option<u64>, String> {
    let (asked, with_token) =
        (format!("{op:?}"), !matches!(&op, Op::Lock { mode, .. } if mode.is_shared()));
    match locked(subject, op).await? {
        Locked::Taken { token } if token.is_some() == with_token => Ok(token),
        other => Err(format!("{asked}: expected it to be taken, got {other:?}")),
    }
}

async fn token(subject: &Subject, key: &Key, id: &str, mode: LockMode) -> Result<u64, String> {
    taken(subject, lock_op(key, id, mode)).await.map(Option::unwrap_or_default)
}

/// Asks for a lock that is not to be had. After how long to ask again.
pub(super) async fn refused_lock(subject: &Subject, op: Op) -> Result<Duration, String> {
    let asked = format!("{op:?}");
    match locked(subject, op).await? {
        Locked::Held { remaining } => Ok(remaining),
        other => Err(format!("{asked}: expected it to be held, got {other:?}")),
    }
}

pub(super) fn near(left: Duration, given: Duration) -> Checked {
    let near = left <= given && left + Duration::from_secs(60) > given;
    ensure(near, || format!("it is to be asked again after {left:?}, of {given:?}"))
}

/// The place of one who waits, as it stands in the record.
async fn place_of(subject: &Subject, key: &Key, id: &str) -> Result<Option<Bytes>, String> {
    let place = Op::HashGet { key: key.lock_record(), field: bytes(format!("q:{id}")) };
    subject.run(place).await.and_then(Reply::into_value).map_err(|error| show_error(&error))
}

/// Bounds a loop that waits for the store's clock, which gives no event to await.
pub(super) struct Patience(Instant);

impl Patience {
    pub(super) fn new() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    pub(super) async fn pause(&self) -> Checked {
        ensure(Instant::now() < self.0, || format!("it did not happen within {PATIENCE:?}"))?;
        // Only so as not to flood the store while asking; the loop waits for the event.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

//! Random lists of operations, over so few keys and values that they meet all the time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use larder::op::{Ask, Batch, LockMode, Op, Replaced};
use larder::{Direction, Expiry, Key, Presence, Ttl};
use proptest::prelude::*;

const KEYS: [&[u8]; 5] = [b"a", b"b", b"{c}", b"d\0\r\n", b"\xff*"];

/// How many of the keys a list works on whose lease it also works on as on any other key, and so of those whose lock's
/// record and whose mark of fenced writes.
const LEASES: usize = 3;

/// What stands beside a key.
const BESIDE: [fn(&Key) -> Key; 3] = [Key::lease, Key::lock_record, Key::fence];

const KEYS_AND_LEASES: usize = KEYS.len() + LEASES;
const PLACES: usize = KEYS.len() + BESIDE.len() * LEASES;

pub(crate) const TEXTS: [&[u8]; 15] = [
    b"a",
    b"b",
    b"1",
    b"-5",
    b"10",
    b"",
    b"+1",
    b"01",
    b" 1",
    b"-0",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"\r\n\0\xff",
    b"shared",
];

/// The fields of a lock's record, of those who lock.
const FIELDS: [&[u8]; 9] =
    [b"token", b"id", b"owner", b"q:a", b"q:b", b"q:1", b"r:a", b"r:b", b"r:1"];

/// Who locks. One of them is named by numbers that stand in values, too.
const HOLDERS: [&[u8]; 3] = [b"a", b"b", b"1"];

const TOKENS: [u64; 8] = [0, 1, 2, 9, 10, 11, u64::MAX - 1, u64::MAX];

const NUMBERS: [i64; 12] =
    [0, 1, -1, 2, -2, 3, -3, 10, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1];

/// How many kinds of operation [`Act::op`] makes.
const KINDS: u8 = 42;

// The kinds that make a load.
const SET: u8 = 1;
const LEASE: u8 = 26;
const FILL: u8 = 30;

// The kinds of locks: the first of them, and how many there are.
const LOCKS: u8 = 31;
const LOCK_KINDS: u8 = KINDS - LOCKS;

/// How many of the texts a fill may replace.
const REPLACED: usize = 4;

/// What a store's digest of each text is: only the store itself can say.
pub(crate) type Digests = BTreeMap<Bytes, Bytes>;

/// One operation, as the few small numbers that it is made from.
#[derive(Clone, Copy)]
pub(crate) struct Act {
    kind: u8,
    key: usize,
    text: usize,
    other: usize,
    number: usize,
    ttl: Option<u64>,
}

impl Act {
    fn any(ttls: &'static [u64]) -> impl Strategy<Value = Self> {
        let ttl = prop_oneof![Just(None), prop::sample::select(ttls).prop_map(Some)];
        (0..KINDS, 0..PLACES, 0..TEXTS.len(), 0..60_usize, 0..NUMBERS.len(), ttl).prop_map(
            |(kind, key, text, other, number, ttl)| Self { kind, key, text, other, number, ttl },
        )
    }

    /// The operation, with its keys under `prefix`, for a store with these digests.
    fn op(&self, prefix: &str, digests: &Digests) -> Op {
        let key = place(prefix, self.key);
        let other = place(prefix, self.other % PLACES);
        // Of two, so that the one who fills is often the one who took the lease.
        let token = Bytes::from_static(TEXTS[self.number % 2]);
        let value = Bytes::from_static(TEXTS[self.text]);
        // Where records stand, what stands in them.
        let field = match self.key {
            0..KEYS_AND_LEASES => TEXTS[self.other % TEXTS.len()],
            _ => FIELDS[self.other % FIELDS.len()],
        };
        let field = Bytes::from_static(field);
        // Of few, and of plain keys alone: a lock's record has a record, too, and so on.
        let lock = place(prefix, self.key % KEYS.len());
        let id = Bytes::from_static(HOLDERS[self.text % HOLDERS.len()]);
        let number = NUMBERS[self.number];
        let expiry = self.ttl.map(millis);
        let sure_expiry = expiry.unwrap_or(millis(3_600_000));
        // Between the TTLs that there are, so that a clock that runs does not matter.
        let between = sure_expiry.as_duration().mul_f64(1.5);
        let side = if self.other.is_multiple_of(2) { Direction::Left } else { Direction::Right };
        match self.kind {
            0 => Op::Get { key },
            SET => Op::Set { key, value, expiry, only_if: None },
            2 => Op::Set { key, value, expiry, only_if: Some(Presence::Absent) },
            3 => Op::Set { key, value, expiry, only_if: Some(Presence::Present) },
            4 | 5 => Op::IncrBy { key, delta: number },
            6 => Op::Delete { keys: vec![key, other] },
            7 => Op::Exists { key },
            8 => Op::Expire { key, expiry: sure_expiry },
            9 => Op::Persist { key },
            10 => Op::Ttl { key },
            11 => Op::HashSet { key, field, value },
            12 => Op::HashGet { key, field },
            13 => Op::HashGetAll { key },
            14 => Op::HashDelete { key, field },
            15 | 16 => Op::ListPush { key, value, side },
            17 => {
                let stop = NUMBERS[self.other % NUMBERS.len()];
                Op::ListRange { key, start: number, stop }
            }
            18 => Op::ListPop { key, side },
            19 => Op::ListRemove { key, value },
            20 => Op::Acquire { key, id: value, expiry: sure_expiry },
            21 => Op::Release { key, id: value },
            22 => match self.other % 3 {
                0 => Op::GetMany { keys: vec![key, other.clone(), other] },
                1 => scan(prefix),
                _ => Op::Ping,
            },
            23 => Op::Overwrite { key, value, expiry },
            24 => Op::Renew { key, id: value, expiry: sure_expiry },
            25 => match self.other % 3 {
                0 => Op::Fetch { keys: vec![key, other.clone(), other] },
                _ => Op::Fetch { keys: vec![key] },
            },
            31..=34 => {
                let waits = (!self.other.is_multiple_of(3)).then(|| waits(sure_expiry));
                let label = self.other.is_multiple_of(5).then(|| value.clone());
                let fair = self.other.is_multiple_of(2) || self.kind == 34;
                let mode = LockMode::Exclusive { label, fair, waits };
                Op::Lock { key: lock, id, expiry: sure_expiry, mode }
            }
            35 | 36 => {
                let mode = LockMode::Shared { most: 1 + self.other as u32 % 3 };
                Op::Lock { key: lock, id, expiry: sure_expiry, mode }
            }
            37 => {
                let shared = self.other.is_multiple_of(2);
                Op::Extend { key: lock, id, expiry: sure_expiry, shared }
            }
            38 | 39 => Op::Unlock { key: lock, id, shared: self.other.is_multiple_of(2) },
            40 => {
                Op::FencedSet { key: lock, value, expiry, token: TOKENS[self.other % TOKENS.len()] }
            }
            41 => match self.other % 20 {
                // It waits for as long as it may, where there is no replica.
                0 => Op::Replicated { copies: 1, within: millis(1) },
                _ => Op::HashGetAll { key: lock.lock_record() },
            },
            LEASE..=28 => {
                let ask = match self.other % 4 {
                    0 => Ask::Missing,
                    1 => Ask::Within(between),
                    _ => Ask::Always,
                };
                Op::Lease { key, token, expiry: sure_expiry, ask }
            }
            _ => {
                let replaces = (!self.other.is_multiple_of(3)).then(|| Replaced {
                    digest: digests[TEXTS[self.other % REPLACED]].clone(),
                    ttl: if self.other < 30 { Ttl::Remaining(between) } else { Ttl::Persistent },
                    expired: self.other.is_multiple_of(2),
                });
                Op::Fill { key, token, value, expiry, replaces: replaces.map(Box::new) }
            }
        }
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = place("", self.key);
        let (key, text) = (key.as_bytes().escape_ascii(), TEXTS[self.text].escape_ascii());
        let other = TEXTS[self.other % TEXTS.len()].escape_ascii();
        let texts = TEXTS.iter().map(|text| (Bytes::from_static(text), Bytes::new()));
        let name = match self.op("", &texts.collect()).name() {
            "set" => format!("set (kind {})", self.kind),
            name => name.to_owned(),
        };
        write!(
            f,
            "{name} {key} text \"{text}\" field \"{other}\" number {}",
            NUMBERS[self.number]
        )?;
        write!(f, " other {} ttl {:?}", self.other, self.ttl)
    }
}

/// Operations that are sent together, or a pause.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    One(Act),
    Pipeline(Vec<Act>),
    Atomic(Vec<Act>),
    Advance(u64),
}

impl Step {
    /// The batch that it is, unless it is a pause.
    pub(crate) fn batch(&self, prefix: &str, digests: &Digests) -> Option<Batch> {
        let ops = |acts: &[Act]| acts.iter().map(|act| act.op(prefix, digests)).collect();
        match self {
            Self::One(act) => Some(Batch::one("model", act.op(prefix, digests))),
            Self::Pipeline(acts) => Some(Batch::many("model", ops(acts))),
            Self::Atomic(acts) => Some(Batch::many("model", ops(acts)).atomic()),
            Self::Advance(_) => None,
        }
    }
}

pub(crate) type List = Vec<Step>;

/// A list without pauses, for stores whose clock runs by itself: what it does is over long before
/// the shortest of its TTLs.
pub(crate) fn timeless() -> impl Strategy<Value = List> {
    prop::collection::vec(batches(&[3_600_000, 7_200_000]), 1..10)
}

/// A list in which time passes: TTLs and pauses meet to the millisecond.
pub(crate) fn timed() -> impl Strategy<Value = List> {
    let pause = prop::sample::select(&[1_u64, 9, 10, 500, 999, 1_000, 3_600_000][..]);
    let step = prop_oneof![
        2 => batches(&[1, 10, 500, 1_000, 3_600_000]),
        1 => pause.prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 1..16)
}

fn batches(ttls: &'static [u64]) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Act::any(ttls).prop_map(Step::One),
        2 => prop::collection::vec(Act::any(ttls), 1..8).prop_map(Step::Pipeline),
        2 => prop::collection::vec(Act::any(ttls), 1..8).prop_map(Step::Atomic),
        1 => load(ttls).prop_map(Step::Pipeline),
        2 => contest(ttls).prop_map(Step::Pipeline),
        1 => contest(ttls).prop_map(Step::Atomic),
    ]
}

/// Some who want the lock of one key, and perhaps what else happens to it or its record.
fn contest(ttls: &'static [u64]) -> impl Strategy<Value = Vec<Act>> {
    let acts = prop::collection::vec((Act::any(ttls), 0..8_u8), 2..9);
    (acts, 0..LEASES).prop_map(|(acts, key)| {
        let on_key = |(act, chance): (Act, u8)| match chance {
            0 => Act { key, ..act },
            1 => Act { key: KEYS_AND_LEASES + key, ..act },
            _ => Act { key, kind: LOCKS + act.kind % LOCK_KINDS, ..act },
        };
        acts.into_iter().map(on_key).collect()
    })
}

/// A load from its lease to its fill, perhaps of a value that it replaces, and what comes in between: chance alone
/// would hardly ever bring them together.
fn load(ttls: &'static [u64]) -> impl Strategy<Value = Vec<Act>> {
    let between = prop::collection::vec(Act::any(ttls), 0..3);
    (Act::any(ttls), Act::any(ttls), between, any::<bool>()).prop_map(
        |(lease, fill, between, refresh)| {
            let fill = Act { kind: FILL, key: lease.key, number: lease.number, ..fill };
            let before = Act { kind: SET, text: fill.other % REPLACED, ..fill };
            let mut acts: Vec<_> = refresh.then_some(before).into_iter().collect();
            acts.push(Act { kind: LEASE, ..lease });
            acts.extend(between);
            acts.push(fill);
            acts
        },
    )
}

/// Looks at everything that a list can have left behind, and deletes it.
pub(crate) fn last_look(prefix: &str) -> Batch {
    // All that stands beside them as well: the delete takes the leases of each, and so those of leases, too.
    let keys: Vec<_> = (0..KEYS.len()).map(|at| place(prefix, at)).collect();
    let beside = BESIDE.iter().flat_map(|beside| keys.iter().map(beside));
    let keys: Vec<_> = keys.iter().cloned().chain(beside).collect();
    let mut ops: Vec<_> = keys
        .iter()
        .flat_map(|key| {
            let key = || key.clone();
            [
                Op::Get { key: key() },
                Op::HashGetAll { key: key() },
                Op::ListRange { key: key(), start: 0, stop: -1 },
                Op::Ttl { key: key() },
            ]
        })
        .collect();
    ops.push(scan(prefix));
    ops.push(Op::Delete { keys });
    Batch::many("model", ops)
}

/// A key, or from their number on what stands beside the first ones.
fn place(prefix: &str, at: usize) -> Key {
    let key = |at: usize| Key::new([prefix.as_bytes(), KEYS[at]].concat()).unwrap();
    match at.checked_sub(KEYS.len()) {
        None => key(at),
        Some(beside) => BESIDE[beside / LEASES](&key(beside % LEASES)),
    }
}

/// For how long a wait counts. Never twice another one: a place is written again when half of its time is over, and a
/// clock that runs must not decide whether that is now.
fn waits(expiry: Expiry) -> Expiry {
    if expiry.as_millis() == 7_200_000 { millis(10_800_000) } else { expiry }
}

fn scan(prefix: &str) -> Op {
    // So many at a time that Redis answers them all at once.
    Op::Scan { cursor: 0, prefix: Bytes::copy_from_slice(prefix.as_bytes()), count: 100_000 }
}

fn millis(millis: u64) -> Expiry {
    Expiry::new(Duration::from_millis(millis)).unwrap()
}

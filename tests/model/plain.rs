//! The model: what Redis 7 does, written as plainly as it can be said, with no regard for speed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use larder::op::{Ask, Fetched, LeaseState, Leased, Locked, Op, Reply};
use larder::{Direction, ErrorKind, Expiry, Key, Outcome, Presence, Ttl};

use crate::locks::without_clock;

pub(crate) type Fields = BTreeMap<Vec<u8>, Vec<u8>>;
/// Why an operation is refused: the kind, and the server's code.
pub(crate) type Refusal = (ErrorKind, &'static str);

pub(crate) enum Data {
    Text(Vec<u8>),
    Hash(Fields),
    List(Vec<Vec<u8>>),
}

/// What an operation answered, in a form in which equal means equal: what has no order is sorted.
#[derive(Clone, PartialEq)]
pub(crate) enum Answer {
    Reply(Reply),
    Refused(ErrorKind, Outcome, Option<String>),
}

impl Answer {
    pub(crate) fn of(result: &larder::Result<Reply>) -> Self {
        match result {
            Ok(reply) => Self::Reply(in_order(reply.clone())),
            Err(error) => {
                Self::Refused(error.kind(), error.outcome(), error.code().map(str::to_owned))
            }
        }
    }

    pub(crate) fn is_taken_lock(&self) -> bool {
        matches!(self, Self::Reply(Reply::Locked(Locked::Taken { .. })))
    }

    pub(crate) fn is_held_lock(&self) -> bool {
        matches!(self, Self::Reply(Reply::Locked(Locked::Held { .. })))
    }

    pub(crate) fn is_accepted_fill(&self) -> bool {
        matches!(self, Self::Reply(Reply::Filled { accepted: true, .. }))
    }

    /// The same with remaining times in tens of minutes: for stores whose clock really runs.
    pub(crate) fn with_coarse_time(mut self) -> Self {
        let coarse = |left: &mut Duration| {
            *left = Duration::from_secs((left.as_secs() + 300) / 600 * 600);
        };
        let coarse_ttl = |ttl: &mut Ttl| {
            if let Ttl::Remaining(left) = ttl {
                coarse(left);
            }
        };
        match &mut self {
            Self::Reply(Reply::Ttl(ttl)) => coarse_ttl(ttl),
            Self::Reply(Reply::Fetched(all)) => {
                all.iter_mut().for_each(|found| coarse_ttl(&mut found.ttl));
            }
            Self::Reply(Reply::Filled { found, .. }) => coarse_ttl(&mut found.ttl),
            Self::Reply(Reply::Locked(Locked::Held { remaining })) => coarse(remaining),
            Self::Reply(Reply::Leased(leased)) => {
                coarse_ttl(&mut leased.found.ttl);
                if let LeaseState::Held { remaining } = &mut leased.lease {
                    coarse(remaining);
                }
            }
            _ => {}
        }
        self
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Their own `Debug` hides contents.
            Self::Reply(Reply::Fetched(all)) => {
                f.debug_list().entries(all.iter().map(|found| (&found.value, found.ttl))).finish()
            }
            Self::Reply(Reply::Leased(leased)) => {
                let Leased { found, lease } = &**leased;
                write!(f, "found {:?} {:?}, lease {lease:?}", found.value, found.ttl)
            }
            Self::Reply(Reply::Filled { accepted, found }) => {
                write!(f, "filled {accepted}, found {:?} {:?}", found.value, found.ttl)
            }
            Self::Reply(Reply::Value(value)) => write!(f, "{value:?}"),
            Self::Reply(Reply::Values(values)) => write!(f, "{values:?}"),
            Self::Reply(Reply::List(elements)) => write!(f, "list {elements:?}"),
            Self::Reply(Reply::Pairs(pairs)) => write!(f, "pairs {pairs:?}"),
            Self::Reply(Reply::Keys { cursor, keys }) => write!(f, "keys {keys:?}, next {cursor}"),
            Self::Reply(other) => write!(f, "{other:?}"),
            Self::Refused(kind, outcome, code) => {
                write!(f, "refused ({kind:?}, {outcome:?}, {code:?})")
            }
        }
    }
}

fn in_order(reply: Reply) -> Reply {
    match reply {
        Reply::Value(value) => Reply::Value(value.map(without_clock)),
        Reply::Pairs(pairs) => {
            let mut pairs: Vec<_> =
                pairs.into_iter().map(|(field, value)| (field, without_clock(value))).collect();
            pairs.sort();
            Reply::Pairs(pairs)
        }
        Reply::Keys { cursor, mut keys } => {
            keys.sort();
            // A scan may list a key twice.
            keys.dedup();
            Reply::Keys { cursor, keys }
        }
        // What a digest is, is the store's affair; a fill shows whether it is right.
        Reply::Leased(mut leased) => {
            if let LeaseState::Granted { digest: Some(digest) } = &mut leased.lease {
                *digest = Bytes::new();
            }
            Reply::Leased(leased)
        }
        other => other,
    }
}

/// The data of the model, and its clock.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) keys: BTreeMap<Vec<u8>, (Data, Option<u64>)>,
    pub(crate) now: u64,
    /// The last fencing token of any lock.
    pub(crate) minted: u64,
}

pub(crate) const WRONG_TYPE: Refusal = (ErrorKind::WrongType, "WRONGTYPE");
const OUT_OF_RANGE: Refusal = (ErrorKind::OutOfRange, "ERR");

impl Model {
    pub(crate) fn answer(&mut self, op: &Op) -> Answer {
        let now = self.now;
        self.keys.retain(|_, (_, expires)| expires.is_none_or(|at| at > now));
        let answer = self.execute(op);
        self.keys.retain(|_, (data, _)| match data {
            Data::Text(_) => true,
            Data::Hash(fields) => !fields.is_empty(),
            Data::List(elements) => !elements.is_empty(),
        });
        match answer {
            Ok(reply) => Answer::Reply(in_order(reply)),
            Err((kind, code)) => Answer::Refused(kind, Outcome::Rejected, Some(code.to_owned())),
        }
    }

    pub(crate) fn text(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        match self.keys.get(key) {
            None => Ok(None),
            Some((Data::Text(text), _)) => Ok(Some(text.clone())),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn fetch(&self, key: &[u8]) -> Result<Fetched, Refusal> {
        let value = self.text(key)?.map(Into::into);
        let ttl = if value.is_some() { self.ttl(key) } else { Ttl::Missing };
        Ok(Fetched { value, ttl })
    }

    pub(crate) fn ttl(&self, key: &[u8]) -> Ttl {
        match self.keys.get(key) {
            None => Ttl::Missing,
            Some((_, None)) => Ttl::Persistent,
            Some((_, Some(at))) => Ttl::Remaining(Duration::from_millis(at - self.now)),
        }
    }

    pub(crate) fn write(&mut self, key: &Key, value: &[u8], expiry: Option<Expiry>) {
        let expires = expiry.map(|expiry| self.now + expiry.as_millis());
        self.keys.insert(key.as_bytes().to_vec(), (Data::Text(value.to_vec()), expires));
    }

    pub(crate) fn hash(&mut self, key: &[u8]) -> Result<&mut Fields, Refusal> {
        let empty = (Data::Hash(BTreeMap::new()), None);
        match &mut self.keys.entry(key.to_vec()).or_insert(empty).0 {
            Data::Hash(fields) => Ok(fields),
            _ => Err(WRONG_TYPE),
        }
    }

    fn list(&mut self, key: &[u8]) -> Result<&mut Vec<Vec<u8>>, Refusal> {
        let empty = (Data::List(Vec::new()), None);
        match &mut self.keys.entry(key.to_vec()).or_insert(empty).0 {
            Data::List(elements) => Ok(elements),
            _ => Err(WRONG_TYPE),
        }
    }

    fn execute(&mut self, op: &Op) -> Result<Reply, Refusal> {
        let now = self.now;
        Ok(match op {
            Op::Ping => Reply::Done,
            Op::Get { key } => Reply::Value(self.text(key.as_bytes())?.map(Into::into)),
            Op::GetMany { keys } => {
                let read = |key: &Key| self.text(key.as_bytes()).unwrap_or(None);
                Reply::Values(keys.iter().map(|key| read(key).map(Into::into)).collect())
            }
            Op::Set { key, value, expiry, only_if } => {
                let exists = self.keys.contains_key(key.as_bytes());
                let write = match only_if {
                    None => true,
                    Some(Presence::Absent) => !exists,
                    Some(Presence::Present) => exists,
                };
                if write {
                    self.write(key, value, *expiry);
                }
                Reply::Bool(write)
            }
            Op::IncrBy { key, delta } => {
                let text = self.text(key.as_bytes())?.unwrap_or(b"0".to_vec());
                // A number is what a number prints as, and nothing else.
                let text = String::from_utf8(text).map_err(|_| OUT_OF_RANGE)?;
                let number: i64 = text.parse().map_err(|_| OUT_OF_RANGE)?;
                if number.to_string() != text {
                    return Err(OUT_OF_RANGE);
                }
                let sum = number.checked_add(*delta).ok_or(OUT_OF_RANGE)?;
                let nothing = (Data::Text(Vec::new()), None);
                let entry = self.keys.entry(key.as_bytes().to_vec()).or_insert(nothing);
                entry.0 = Data::Text(sum.to_string().into_bytes());
                Reply::Int(sum)
            }
            Op::Delete { keys } => {
                for key in keys {
                    self.keys.remove(key.lease().as_bytes());
                }
                let there = keys.iter().filter(|key| self.keys.remove(key.as_bytes()).is_some());
                Reply::Int(there.count() as i64)
            }
            Op::Exists { key } => Reply::Bool(self.keys.contains_key(key.as_bytes())),
            Op::Expire { key, expiry } => match self.keys.get_mut(key.as_bytes()) {
                None => Reply::Bool(false),
                Some((_, expires)) => {
                    *expires = Some(now + expiry.as_millis());
                    Reply::Bool(true)
                }
            },
            Op::Persist { key } => match self.keys.get_mut(key.as_bytes()) {
                Some((_, expires)) => Reply::Bool(expires.take().is_some()),
                None => Reply::Bool(false),
            },
            Op::Ttl { key } => Reply::Ttl(self.ttl(key.as_bytes())),
            Op::Overwrite { key, value, expiry } => {
                self.write(key, value, *expiry);
                self.keys.remove(key.lease().as_bytes());
                Reply::Done
            }
            Op::Fetch { keys } => Reply::Fetched(match &keys[..] {
                [key] => vec![self.fetch(key.as_bytes())?],
                many => many
                    .iter()
                    .map(|key| self.fetch(key.as_bytes()).unwrap_or(Fetched::MISSING))
                    .collect(),
            }),
            Op::Lease { key, token, expiry, ask } => {
                let (found, lease) = (self.fetch(key.as_bytes())?, key.lease());
                let wanted = match (found.ttl, ask) {
                    (Ttl::Missing, _) | (_, Ask::Always) => true,
                    (Ttl::Remaining(left), Ask::Within(time)) => left <= *time,
                    _ => false,
                };
                if !wanted {
                    let leased = Leased { found, lease: LeaseState::NotAsked };
                    return Ok(Reply::Leased(Box::new(leased)));
                }
                let holder = self.text(lease.as_bytes())?;
                if holder.is_none() {
                    self.write(&lease, token, Some(*expiry));
                }
                let lease = if holder.is_none_or(|holder| holder == token[..]) {
                    LeaseState::Granted { digest: found.value.clone() }
                } else {
                    let remaining = match self.ttl(lease.as_bytes()) {
                        Ttl::Remaining(left) => left,
                        Ttl::Persistent => Duration::from_secs(3600),
                        Ttl::Missing => Duration::ZERO,
                    };
                    LeaseState::Held { remaining }
                };
                Reply::Leased(Box::new(Leased { found, lease }))
            }
            Op::Fill { key, token, value, expiry, replaces } => {
                let lease = key.lease();
                let mine = self.text(lease.as_bytes()) == Ok(Some(token.to_vec()));
                if mine {
                    self.keys.remove(lease.as_bytes());
                }
                let found = self.fetch(key.as_bytes())?;
                let unchanged = match replaces {
                    None => found.value.is_none(),
                    Some(then) if found.value.is_none() => then.expired,
                    // The model's digest of a text is the text.
                    Some(then) => {
                        found.value.as_ref() == Some(&then.digest)
                            && (found.ttl == then.ttl
                                || matches!(
                                    (found.ttl.remaining(), then.ttl.remaining()),
                                    (Some(now), Some(then)) if now <= then
                                ))
                    }
                };
                if !mine || !unchanged {
                    return Ok(Reply::Filled { accepted: false, found });
                }
                self.write(key, value, *expiry);
                Reply::Filled { accepted: true, found: Fetched::MISSING }
            }
            Op::Renew { key, id, expiry } => {
                let holds = self.text(key.as_bytes())?.as_deref() == Some(&id[..]);
                if holds {
                    self.write(key, id, Some(*expiry));
                }
                Reply::Bool(holds)
            }
            Op::HashSet { key, field, value } => {
                let old = self.hash(key.as_bytes())?.insert(field.to_vec(), value.to_vec());
                Reply::Bool(old.is_none())
            }
            Op::HashGet { key, field } => {
                Reply::Value(self.hash(key.as_bytes())?.get(&field[..]).cloned().map(Into::into))
            }
            Op::HashGetAll { key } => {
                let fields = self.hash(key.as_bytes())?.clone();
                Reply::Pairs(fields.into_iter().map(|(f, v)| (f.into(), v.into())).collect())
            }
            Op::HashDelete { key, field } => {
                Reply::Bool(self.hash(key.as_bytes())?.remove(&field[..]).is_some())
            }
            Op::ListPush { key, value, side } => {
                let elements = self.list(key.as_bytes())?;
                match side {
                    Direction::Left => elements.insert(0, value.to_vec()),
                    Direction::Right => elements.push(value.to_vec()),
                }
                Reply::Int(elements.len() as i64)
            }
            Op::ListRange { key, start, stop } => {
                let elements = self.list(key.as_bytes())?;
                let len = elements.len() as i128;
                let from_head = |index: i64| match index {
                    0.. => i128::from(index),
                    _ => i128::from(index) + len,
                };
                let (start, stop) = (from_head(*start), from_head(*stop));
                let inside = (0..len).filter(|at| start <= *at && *at <= stop);
                Reply::List(inside.map(|at| elements[at as usize].clone().into()).collect())
            }
            Op::ListPop { key, side } => {
                let elements = self.list(key.as_bytes())?;
                Reply::Value(match (elements.is_empty(), side) {
                    (true, _) => None,
                    (false, Direction::Left) => Some(elements.remove(0).into()),
                    (false, Direction::Right) => elements.pop().map(Into::into),
                })
            }
            Op::ListRemove { key, value } => {
                let elements = self.list(key.as_bytes())?;
                let before = elements.len();
                elements.retain(|element| element[..] != value[..]);
                Reply::Int((before - elements.len()) as i64)
            }
            Op::Acquire { key, id, expiry } => {
                let entry = (Data::Text(id.to_vec()), Some(now + expiry.as_millis()));
                self.keys.entry(key.as_bytes().to_vec()).or_insert(entry);
                Reply::Bool(self.text(key.as_bytes())?.as_deref() == Some(&id[..]))
            }
            Op::Release { key, id } => {
                let holds = self.text(key.as_bytes())?.as_deref() == Some(&id[..]);
                if holds {
                    self.keys.remove(key.as_bytes());
                }
                Reply::Bool(holds)
            }
            Op::Lock { key, id, expiry, mode } => {
                Reply::Locked(self.lock(key, id, expiry.as_millis(), mode)?)
            }
            Op::Extend { key, id, expiry, shared } => {
                Reply::Bool(self.extend(key, id, expiry.as_millis(), *shared)?)
            }
            Op::Unlock { key, id, shared } => Reply::Bool(self.unlock(key, id, *shared)?),
            Op::FencedSet { key, value, expiry, token } => {
                Reply::Bool(self.fenced_set(key, value, *expiry, *token)?)
            }
            // No replica has it, neither at the server of this test nor in a process.
            Op::Replicated { .. } => Reply::Int(0),
            Op::Scan { prefix, .. } => {
                let keys = self.keys.keys().filter(|key| key.starts_with(prefix));
                Reply::Keys { cursor: 0, keys: keys.map(|key| key.clone().into()).collect() }
            }
            other => panic!("the model does not know {}: teach it", other.name()),
        })
    }
}

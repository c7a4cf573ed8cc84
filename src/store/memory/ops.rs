//! Each operation on the key space, with the results that Redis 7 gives.

use bytes::Bytes;

use super::entry::{Data, Entry, element_size, field_size, parse_int};
use super::locks;
use super::space::{Clock, Space};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::op::{Ask, Direction, Fetched, LeaseState, Leased, Op, Presence, Replaced, Reply};
use crate::ttl::{Expiry, Ttl};

pub(super) fn execute(space: &mut Space, clock: &Clock, op: &Op) -> Result<Reply> {
    if !op.is_read() {
        space.sweep_some(clock);
    }
    Ok(match op {
        Op::Ping => Reply::Done,
        Op::Get { key } => Reply::Value(get(space, clock, key)?),
        Op::GetMany { keys } => Reply::Values(
            keys.iter().map(|key| get(space, clock, key).unwrap_or_default()).collect(),
        ),
        Op::Set { key, value, expiry, only_if } => {
            Reply::Bool(set(space, clock, key, value, *expiry, *only_if)?)
        }
        Op::IncrBy { key, delta } => Reply::Int(incr_by(space, clock, key, *delta)?),
        Op::Delete { keys } => {
            for key in keys {
                space.remove(&key.lease(), clock);
            }
            Reply::Int(keys.iter().filter(|key| space.remove(key, clock)).count() as i64)
        }
        Op::Overwrite { key, value, expiry } => {
            set(space, clock, key, value, *expiry, None)?;
            space.remove(&key.lease(), clock);
            Reply::Done
        }
        Op::Fetch { keys } => Reply::Fetched(match &keys[..] {
            [key] => vec![fetch(space, clock, key)?],
            many => many
                .iter()
                .map(|key| fetch(space, clock, key).unwrap_or(Fetched::MISSING))
                .collect(),
        }),
        Op::Lease { key, token, expiry, ask } => {
            Reply::Leased(Box::new(lease(space, clock, key, token, *expiry, *ask)?))
        }
        Op::Fill { key, token, value, expiry, replaces } => {
            let (accepted, found) =
                fill(space, clock, key, token, value, *expiry, replaces.as_deref())?;
            Reply::Filled { accepted, found }
        }
        Op::Renew { key, id, expiry } => {
            let holds = get(space, clock, key)?.is_some_and(|holder| holder == id);
            let expires = clock.after(*expiry);
            let renewed = holds
                && space
                    .change(key, clock, |entry, _| {
                        entry.expires = expires;
                        Ok(())
                    })
                    .is_some();
            Reply::Bool(renewed)
        }
        Op::Exists { key } => Reply::Bool(space.read(key, clock, |_| ()).is_some()),
        Op::Expire { key, expiry } => {
            let expires = clock.after(*expiry);
            let found = space.change(key, clock, |entry, _| {
                entry.expires = expires;
                Ok(())
            });
            Reply::Bool(found.is_some())
        }
        Op::Persist { key } => {
            let taken = space.change(key, clock, |entry, _| Ok(entry.expires.take().is_some()));
            Reply::Bool(taken.transpose()?.unwrap_or(false))
        }
        Op::Ttl { key } => {
            let ttl = space.read(key, clock, |entry| clock.remaining(entry.expires));
            Reply::Ttl(ttl.unwrap_or(Ttl::Missing))
        }
        Op::HashSet { key, field, value } => {
            Reply::Bool(hash_set(space, clock, key, field, value)?)
        }
        Op::HashGet { key, field } => {
            let value = space.read(key, clock, |entry| match &entry.data {
                Data::Hash(fields) => Ok(fields.get(field).cloned()),
                _ => Err(wrong_type()),
            });
            Reply::Value(value.transpose()?.flatten())
        }
        Op::HashGetAll { key } => {
            let pairs = space.read(key, clock, |entry| match &entry.data {
                Data::Hash(fields) => {
                    Ok(fields.iter().map(|(field, value)| (field.clone(), value.clone())).collect())
                }
                _ => Err(wrong_type()),
            });
            Reply::Pairs(pairs.transpose()?.unwrap_or_default())
        }
        Op::HashDelete { key, field } => Reply::Bool(hash_delete(space, clock, key, field)?),
        Op::ListPush { key, value, side } => {
            Reply::Int(list_push(space, clock, key, value, *side)?)
        }
        Op::ListRange { key, start, stop } => {
            let elements = space.read(key, clock, |entry| match &entry.data {
                Data::List(elements) => {
                    let (from, to) = bounds(*start, *stop, elements.len());
                    Ok(elements.range(from..to).cloned().collect())
                }
                _ => Err(wrong_type()),
            });
            Reply::List(elements.transpose()?.unwrap_or_default())
        }
        Op::ListPop { key, side } => Reply::Value(list_pop(space, clock, key, *side)?),
        Op::ListRemove { key, value } => Reply::Int(list_remove(space, clock, key, value)?),
        Op::Acquire { key, id, expiry } => Reply::Bool(acquire(space, clock, key, id, *expiry)?),
        Op::Release { key, id } => {
            let holds = get(space, clock, key)?.is_some_and(|holder| holder == id);
            Reply::Bool(holds && space.remove(key, clock))
        }
        Op::Lock { key, id, expiry, mode } => {
            Reply::Locked(locks::lock(space, clock, key, id, *expiry, mode)?)
        }
        Op::Extend { key, id, expiry, shared } => {
            Reply::Bool(locks::extend(space, clock, key, id, *expiry, *shared)?)
        }
        Op::Unlock { key, id, shared } => {
            Reply::Bool(locks::unlock(space, clock, key, id, *shared)?)
        }
        Op::FencedSet { key, value, expiry, token } => {
            Reply::Bool(locks::fenced_set(space, clock, key, value, *expiry, *token)?)
        }
        // There are no replicas.
        Op::Replicated { .. } => Reply::Int(0),
        // All of it at once: a cursor into a table that moves while it is read could miss keys.
        Op::Scan { prefix, .. } => {
            let keys = space.keys(clock).map(Key::bytes).filter(|key| key.starts_with(prefix));
            Reply::Keys { cursor: 0, keys: keys.cloned().collect() }
        }
    })
}

pub(super) fn get(space: &mut Space, clock: &Clock, key: &Key) -> Result<Option<Bytes>> {
    space
        .read(key, clock, |entry| match &entry.data {
            Data::Text(value) => Ok(value.clone()),
            _ => Err(wrong_type()),
        })
        .transpose()
}

fn fetch(space: &mut Space, clock: &Clock, key: &Key) -> Result<Fetched> {
    let found = space.read(key, clock, |entry| match &entry.data {
        Data::Text(value) => {
            Ok(Fetched { value: Some(value.clone()), ttl: clock.remaining(entry.expires) })
        }
        _ => Err(wrong_type()),
    });
    Ok(found.transpose()?.unwrap_or(Fetched::MISSING))
}

fn lease(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    token: &Bytes,
    expiry: Expiry,
    ask: Ask,
) -> Result<Leased> {
    let found = fetch(space, clock, key)?;
    if !ask.wants(found.ttl) {
        return Ok(Leased { found, lease: LeaseState::NotAsked });
    }
    let place = key.lease();
    let lease = if acquire(space, clock, &place, token, expiry)? {
        // The value itself: an embedded store need not shorten it.
        LeaseState::Granted { digest: found.value.clone() }
    } else {
        let held = space.read(&place, clock, |entry| clock.remaining(entry.expires));
        LeaseState::held(held.unwrap_or(Ttl::Missing))
    };
    Ok(Leased { found, lease })
}

fn fill(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    token: &Bytes,
    value: &Bytes,
    expiry: Option<Expiry>,
    replaces: Option<&Replaced>,
) -> Result<(bool, Fetched)> {
    let place = key.lease();
    // A lease key that holds another type is nobody's lease, and no reason to refuse to say what the key holds.
    let holds = matches!(get(space, clock, &place), Ok(Some(holder)) if holder == token);
    if holds {
        space.remove(&place, clock);
    }
    let found = fetch(space, clock, key)?;
    let unchanged = match (&found.value, replaces) {
        (None, None) => true,
        (None, Some(replaced)) => replaced.expired,
        (Some(_), None) => false,
        (Some(now), Some(then)) => {
            *now == then.digest
                && match (found.ttl, then.ttl) {
                    (Ttl::Remaining(now), Ttl::Remaining(then)) => now <= then,
                    (now, then) => now == then,
                }
        }
    };
    if !holds || !unchanged {
        return Ok((false, found));
    }
    set(space, clock, key, value, expiry, None)?;
    Ok((true, Fetched::MISSING))
}

pub(super) fn set(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    value: &Bytes,
    expiry: Option<Expiry>,
    only_if: Option<Presence>,
) -> Result<bool> {
    let new = Entry::text(value.clone(), expiry.and_then(|expiry| clock.after(expiry)));
    let mut new = Some(new);
    let replaced = space.change(key, clock, |entry, room| {
        if only_if == Some(Presence::Absent) {
            return Ok(false);
        }
        if let Some(new) = new.take() {
            room.check(new.size)?;
            *entry = new;
        }
        Ok(true)
    });
    match (replaced, new) {
        (Some(replaced), _) => replaced,
        (None, Some(new)) if only_if != Some(Presence::Present) => {
            space.insert(key, new).map(|()| true)
        }
        (None, _) => Ok(false),
    }
}

fn incr_by(space: &mut Space, clock: &Clock, key: &Key, delta: i64) -> Result<i64> {
    let added = space.change(key, clock, |entry, room| {
        let Data::Text(value) = &mut entry.data else { return Err(wrong_type()) };
        let number = parse_int(value)
            .ok_or_else(|| out_of_range("the value is not a number of 64 bits"))?
            .checked_add(delta)
            .ok_or_else(|| out_of_range("the sum does not fit into 64 bits"))?;
        let text = Bytes::from(number.to_string());
        room.check(text.len() as u64)?;
        entry.size = text.len() as u64;
        *value = text;
        Ok(number)
    });
    match added {
        Some(added) => added,
        None => {
            space.insert(key, Entry::text(Bytes::from(delta.to_string()), None)).map(|()| delta)
        }
    }
}

pub(super) fn hash_set(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    field: &Bytes,
    value: &Bytes,
) -> Result<bool> {
    let written = space.change(key, clock, |entry, room| {
        let Data::Hash(fields) = &mut entry.data else { return Err(wrong_type()) };
        let before = fields.get(field).map(|old| field_size(field, old));
        let size = entry.size - before.unwrap_or(0) + field_size(field, value);
        room.check(size)?;
        fields.insert(field.clone(), value.clone());
        entry.size = size;
        Ok(before.is_none())
    });
    match written {
        Some(written) => written,
        None => space.insert(key, Entry::hash(field.clone(), value.clone())).map(|()| true),
    }
}

pub(super) fn hash_delete(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    field: &Bytes,
) -> Result<bool> {
    let deleted = space.change(key, clock, |entry, _| {
        let Data::Hash(fields) = &mut entry.data else { return Err(wrong_type()) };
        let Some(value) = fields.remove(field) else { return Ok(false) };
        if is_mostly_empty(fields.len(), fields.capacity()) {
            fields.shrink_to(2 * fields.len());
        }
        entry.size -= field_size(field, &value);
        Ok(true)
    });
    Ok(deleted.transpose()?.unwrap_or(false))
}

fn list_push(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    value: &Bytes,
    side: Direction,
) -> Result<i64> {
    let pushed = space.change(key, clock, |entry, room| {
        let Data::List(elements) = &mut entry.data else { return Err(wrong_type()) };
        let size = entry.size + element_size(value);
        room.check(size)?;
        match side {
            Direction::Left => elements.push_front(value.clone()),
            Direction::Right => elements.push_back(value.clone()),
        }
        entry.size = size;
        Ok(elements.len() as i64)
    });
    match pushed {
        Some(pushed) => pushed,
        None => space.insert(key, Entry::list(value.clone())).map(|()| 1),
    }
}

fn list_pop(space: &mut Space, clock: &Clock, key: &Key, side: Direction) -> Result<Option<Bytes>> {
    let popped = space.change(key, clock, |entry, _| {
        let Data::List(elements) = &mut entry.data else { return Err(wrong_type()) };
        let element = match side {
            Direction::Left => elements.pop_front(),
            Direction::Right => elements.pop_back(),
        };
        if is_mostly_empty(elements.len(), elements.capacity()) {
            elements.shrink_to(2 * elements.len());
        }
        entry.size -= element.as_ref().map_or(0, element_size);
        Ok(element)
    });
    Ok(popped.transpose()?.flatten())
}

fn list_remove(space: &mut Space, clock: &Clock, key: &Key, value: &Bytes) -> Result<i64> {
    let removed = space.change(key, clock, |entry, _| {
        let Data::List(elements) = &mut entry.data else { return Err(wrong_type()) };
        let before = elements.len();
        elements.retain(|element| element != value);
        let removed = before - elements.len();
        if is_mostly_empty(elements.len(), elements.capacity()) {
            elements.shrink_to(2 * elements.len());
        }
        entry.size -= removed as u64 * element_size(value);
        Ok(removed as i64)
    });
    Ok(removed.transpose()?.unwrap_or(0))
}

pub(super) fn acquire(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    id: &Bytes,
    expiry: Expiry,
) -> Result<bool> {
    if let Some(holder) = get(space, clock, key)? {
        return Ok(holder == id);
    }
    let lock = Entry { pinned: true, ..Entry::text(id.clone(), clock.after(expiry)) };
    space.insert(key, lock).map(|()| true)
}

/// The elements from `start` to `stop` of a list of `len`, as a range of indices.
fn bounds(start: i64, stop: i64, len: usize) -> (usize, usize) {
    // Counted in 128 bits, so that no index is too far out to be counted from either end.
    let len = len as i128;
    let index = |at: i64| if at < 0 { len + i128::from(at) } else { i128::from(at) };
    let from = index(start).clamp(0, len);
    let to = (index(stop) + 1).clamp(from, len);
    (from as usize, to as usize)
}

/// Whether a collection has so many free slots that they would be memory nobody counts. Halving
/// what is then left keeps the cost of shrinking in step with the removals before it.
fn is_mostly_empty(len: usize, capacity: usize) -> bool {
    capacity > 64 && capacity / 4 > len
}

pub(super) fn wrong_type() -> Error {
    Error::new(ErrorKind::WrongType, "the key holds a value of another type").with_code("WRONGTYPE")
}

fn out_of_range(detail: &'static str) -> Error {
    Error::new(ErrorKind::OutOfRange, detail).with_code("ERR")
}

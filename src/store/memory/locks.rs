//! Locks and their records, with the results of the scripts of the Redis store.
//!
//! A record is a hash with the fields that those scripts write: `token`, `id`, `owner`, `r:` and an identifier for who shares
//! the lock, `q:` and an identifier for who waits.

use bytes::Bytes;

use super::entry::{Data, Entry};
use super::ops::{get, hash_delete, hash_set, set, wrong_type};
use super::space::{Clock, Space};
use crate::error::Result;
use crate::key::Key;
use crate::op::{LockMode, Locked};
use crate::ttl::{Expiry, Ttl};

/// What a shared lock holds.
const SHARED: &[u8] = b"shared";

/// What a record lives for at least after a token was minted, and the mark of a fenced write: a day.
const KEPT_MILLIS: u64 = 86_400_000;

pub(super) fn lock(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    id: &Bytes,
    expiry: Expiry,
    mode: &LockMode,
) -> Result<Locked> {
    match mode {
        LockMode::Shared { most } => share(space, clock, key, id, expiry, *most),
        LockMode::Exclusive { label, fair, waits } => {
            take(space, clock, key, id, expiry, label.as_ref(), *fair, *waits)
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "they are the operation's")]
fn take(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    id: &Bytes,
    expiry: Expiry,
    label: Option<&Bytes>,
    fair: bool,
    waits: Option<Expiry>,
) -> Result<Locked> {
    let record = Record::of(key);
    let ahead = if fair { record.ahead_of(space, clock, id)? } else { None };
    let held = get(space, clock, key)?;
    let again = held.as_ref() == Some(id);
    if !again && (held.is_some() || ahead.is_some()) {
        if let Some(waits) = waits
            && (fair || held.as_deref() == Some(SHARED))
        {
            let since = record.field(space, clock, b"q:", id)?;
            let since = since.as_deref().and_then(since_of).unwrap_or(clock.unix_micros());
            let until = millis(clock) + waits.as_millis();
            record.set(space, clock, &name(b"q:", id), format!("{since} {until}"))?;
            record.keep(space, clock, waits.as_millis(), true);
        }
        let ttl = match (&held, ahead) {
            (None, Some(over)) => Ttl::from_millis(over.saturating_sub(millis(clock)) as i64),
            _ => ttl(space, clock, key),
        };
        return Ok(Locked::held(ttl));
    }
    if again
        && record.field(space, clock, b"id", b"")?.as_ref() == Some(id)
        && let Some(token) = record.field(space, clock, b"token", b"")?
        && let Some(token) = std::str::from_utf8(&token).ok().and_then(|text| text.parse().ok())
    {
        return Ok(Locked::Taken { token: Some(token) });
    }
    // Looked at before the lock is taken: what is no record is refused as a whole.
    record.fields(space, clock)?;
    if !again {
        let lock = Entry { pinned: true, ..Entry::text(id.clone(), clock.after(expiry)) };
        space.insert(key, lock)?;
    }
    let token = space.mint(clock);
    record.set(space, clock, b"token", token.to_string())?;
    record.set(space, clock, b"id", id.clone())?;
    match label {
        Some(label) => record.set(space, clock, b"owner", label.clone())?,
        None => record.delete(space, clock, b"owner")?,
    }
    record.delete(space, clock, &name(b"q:", id))?;
    // Only what somebody relies on is kept from eviction: a token that is forgotten is not minted again.
    let relied_on = record
        .fields(space, clock)?
        .iter()
        .any(|(field, _)| field.starts_with(b"r:") || field.starts_with(b"q:"));
    record.keep(space, clock, expiry.as_millis().max(KEPT_MILLIS), relied_on);
    Ok(Locked::Taken { token: Some(token) })
}

fn share(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    id: &Bytes,
    expiry: Expiry,
    most: u32,
) -> Result<Locked> {
    let held = get(space, clock, key)?;
    if held.as_ref().is_some_and(|holder| holder != SHARED) {
        return Ok(Locked::held(ttl(space, clock, key)));
    }
    let (record, now) = (Record::of(key), millis(clock));
    let ends = now + expiry.as_millis();
    let (mut count, mut last, mut mine) = (0_u32, ends, false);
    let (mut soonest, mut waits) = (None, None);
    for (field, value) in record.fields(space, clock)? {
        let over = until_of(&value).unwrap_or(0);
        match field.get(..2) {
            Some(b"r:" | b"q:") if over <= now => record.delete(space, clock, &field)?,
            Some(b"q:") => waits = earlier(waits, over),
            Some(b"r:") if field[2..] == id[..] => mine = true,
            Some(b"r:") => {
                count += 1;
                soonest = earlier(soonest, over);
                last = last.max(over);
            }
            _ => {}
        }
    }
    if mine && held.is_some() {
        return Ok(Locked::Taken { token: None });
    }
    let full = count >= most;
    if full || waits.is_some() {
        let next = if full { waits.or(soonest).min(soonest.or(waits)) } else { waits };
        let left = next.unwrap_or(now).saturating_sub(now);
        return Ok(Locked::held(Ttl::from_millis(left as i64)));
    }
    let expires = clock.after(Expiry::of_millis(last - now));
    if held.is_none() {
        let lock = Entry { pinned: true, ..Entry::text(Bytes::from_static(SHARED), expires) };
        space.insert(key, lock)?;
    } else {
        prolong(space, clock, key, last - now);
    }
    record.set(space, clock, &name(b"r:", id), ends.to_string())?;
    record.keep(space, clock, last - now, true);
    Ok(Locked::Taken { token: None })
}

pub(super) fn extend(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    id: &Bytes,
    expiry: Expiry,
    shared: bool,
) -> Result<bool> {
    let (record, held) = (Record::of(key), get(space, clock, key)?);
    if !shared {
        if held.as_ref() != Some(id) {
            return Ok(false);
        }
        let expires = clock.after(expiry);
        space.change(key, clock, |entry, _| {
            entry.expires = expires;
            Ok(())
        });
        prolong(space, clock, &record.0, expiry.as_millis().max(KEPT_MILLIS));
        return Ok(true);
    }
    let over = record.field(space, clock, b"r:", id)?.as_deref().and_then(until_of);
    let now = millis(clock);
    if held.as_deref() != Some(SHARED) || over.is_none_or(|over| over <= now) {
        return Ok(false);
    }
    record.set(space, clock, &name(b"r:", id), (now + expiry.as_millis()).to_string())?;
    prolong(space, clock, key, expiry.as_millis());
    record.keep(space, clock, expiry.as_millis(), true);
    Ok(true)
}

pub(super) fn unlock(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    id: &Bytes,
    shared: bool,
) -> Result<bool> {
    let record = Record::of(key);
    if !shared {
        // A place in the queue of what is no record is no place.
        _ = record.delete(space, clock, &name(b"q:", id));
        let holds = get(space, clock, key)?.is_some_and(|holder| holder == id);
        return Ok(holds && space.remove(key, clock));
    }
    let held = get(space, clock, key)?;
    let now = millis(clock);
    let (mut mine, mut others) = (false, false);
    for (field, value) in record.fields(space, clock)? {
        if field.starts_with(b"r:") {
            let stands = until_of(&value).is_some_and(|over| over > now);
            if field[2..] == id[..] {
                mine = stands;
                record.delete(space, clock, &field)?;
            } else {
                others |= stands;
            }
        }
    }
    if held.as_deref() != Some(SHARED) {
        return Ok(false);
    }
    if !others {
        record.pin(space, clock, false);
        space.remove(key, clock);
    }
    Ok(mine)
}

pub(super) fn fenced_set(
    space: &mut Space,
    clock: &Clock,
    key: &Key,
    value: &Bytes,
    expiry: Option<Expiry>,
    token: u64,
) -> Result<bool> {
    let mark = key.fence();
    let last = get(space, clock, &mark)?;
    let last = last.and_then(|last| std::str::from_utf8(&last).ok()?.parse::<u64>().ok());
    if last.is_some_and(|last| last > token) {
        return Ok(false);
    }
    set(space, clock, key, value, expiry, None)?;
    let kept = expiry.map(|expiry| Expiry::of_millis(expiry.as_millis().max(KEPT_MILLIS)));
    set(space, clock, &mark, &Bytes::from(token.to_string()), kept, None)?;
    space.remove(&key.lease(), clock);
    Ok(true)
}

/// The hash beside a lock.
struct Record(Key);

impl Record {
    fn of(lock: &Key) -> Self {
        Self(lock.lock_record())
    }

    fn fields(&self, space: &mut Space, clock: &Clock) -> Result<Vec<(Bytes, Bytes)>> {
        let fields = space.read(&self.0, clock, |entry| match &entry.data {
            Data::Hash(fields) => {
                Ok(fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
            }
            _ => Err(wrong_type()),
        });
        Ok(fields.transpose()?.unwrap_or_default())
    }

    fn field(
        &self,
        space: &mut Space,
        clock: &Clock,
        kind: &[u8],
        id: &[u8],
    ) -> Result<Option<Bytes>> {
        let name = name(kind, id);
        let value = space.read(&self.0, clock, |entry| match &entry.data {
            Data::Hash(fields) => Ok(fields.get(&name).cloned()),
            _ => Err(wrong_type()),
        });
        Ok(value.transpose()?.flatten())
    }

    fn set(
        &self,
        space: &mut Space,
        clock: &Clock,
        field: &[u8],
        value: impl Into<Bytes>,
    ) -> Result<()> {
        let field = Bytes::copy_from_slice(field);
        hash_set(space, clock, &self.0, &field, &value.into()).map(drop)
    }

    fn delete(&self, space: &mut Space, clock: &Clock, field: &[u8]) -> Result<()> {
        hash_delete(space, clock, &self.0, &Bytes::copy_from_slice(field)).map(drop)
    }

    /// Sees to it that it lives for so long, and is not evicted if it is `pinned`.
    fn keep(&self, space: &mut Space, clock: &Clock, millis: u64, pinned: bool) {
        self.pin(space, clock, pinned);
        prolong(space, clock, &self.0, millis);
    }

    fn pin(&self, space: &mut Space, clock: &Clock, pinned: bool) {
        space.change(&self.0, clock, |entry, _| {
            entry.pinned = pinned;
            Ok(())
        });
    }

    /// When the first of those may be gone who waited before `id`, if somebody did.
    fn ahead_of(&self, space: &mut Space, clock: &Clock, id: &Bytes) -> Result<Option<u64>> {
        let now = millis(clock);
        let own = self.field(space, clock, b"q:", id)?;
        let since = own.as_deref().and_then(since_of).unwrap_or(clock.unix_micros());
        let mut ahead = None;
        for (field, value) in self.fields(space, clock)? {
            let Some(who) = field.strip_prefix(b"q:").filter(|who| *who != &id[..]) else {
                continue;
            };
            match (since_of(&value), until_of(&value)) {
                (Some(from), Some(over)) if over > now => {
                    if (from, who) < (since, &id[..]) {
                        ahead = earlier(ahead, over);
                    }
                }
                _ => self.delete(space, clock, &field)?,
            }
        }
        Ok(ahead)
    }
}

/// Gives a key at least so much time.
fn prolong(space: &mut Space, clock: &Clock, key: &Key, millis: u64) {
    let shorter = match ttl(space, clock, key) {
        Ttl::Missing => false,
        Ttl::Persistent => true,
        Ttl::Remaining(left) => left.as_millis() < u128::from(millis),
    };
    if shorter {
        let expires = clock.after(Expiry::of_millis(millis));
        space.change(key, clock, |entry, _| {
            entry.expires = expires;
            Ok(())
        });
    }
}

fn ttl(space: &mut Space, clock: &Clock, key: &Key) -> Ttl {
    space.read(key, clock, |entry| clock.remaining(entry.expires)).unwrap_or(Ttl::Missing)
}

fn millis(clock: &Clock) -> u64 {
    clock.unix_micros() / 1000
}

fn earlier(one: Option<u64>, other: u64) -> Option<u64> {
    Some(one.map_or(other, |one| one.min(other)))
}

fn name(kind: &[u8], id: &[u8]) -> Bytes {
    [kind, id].concat().into()
}

/// Since when a wait lasts, in microseconds.
fn since_of(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.split(' ').next()?.parse().ok()
}

/// Until when something counts, in milliseconds.
fn until_of(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.split(' ').next_back()?.parse().ok()
}

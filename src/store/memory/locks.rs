//! Locks and their records, with the results of the scripts of the Redis store.
//!
//! A record is a hash with the fields that those scripts write: `token`, `id`, `owner`, `r:` and an identifier for who shares
//! the lock, `q:` and an identifier for who waits.

use std::time::Duration;

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

/// The numbers of a record are below this, which is where those of the scripts end.
const NUMBERS: u64 = 1 << 53;

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
    let queue = if fair { Some(record.queue(space, clock, id)?) } else { None };
    let ahead = queue.as_ref().and_then(|queue| queue.ahead);
    let held = get(space, clock, key)?;
    let again = held.as_ref() == Some(id);
    if !again && (held.is_some() || ahead.is_some()) {
        if let Some(waits) = waits
            && (fair || held.as_deref() == Some(SHARED))
        {
            let queue = match queue {
                Some(queue) => queue,
                None => record.queue(space, clock, id)?,
            };
            record.wait(space, clock, id, &queue, waits)?;
        }
        let ttl = match (&held, ahead) {
            (None, Some(over)) => Ttl::from_millis(over.saturating_sub(millis(clock)) as i64),
            _ => ttl(space, clock, key),
        };
        return Ok(Locked::held(ttl));
    }
    // Looked at before the lock is taken: what is no record is refused as a whole.
    let last = record.field(space, clock, b"token", b"")?.as_deref().and_then(number).unwrap_or(0);
    if again && last > 0 && record.field(space, clock, b"id", b"")?.as_ref() == Some(id) {
        return Ok(Locked::Taken { token: Some(last) });
    }
    if !again {
        let lock = Entry { pinned: true, ..Entry::text(id.clone(), clock.after(expiry)) };
        space.insert(key, lock)?;
    }
    let token = space.mint(clock, last);
    if let Err(error) = record.taken_by(space, clock, id, token, label) {
        if !again {
            space.remove(key, clock);
        }
        return Err(error);
    }
    prolong(space, clock, &record.0, expiry.as_millis().max(KEPT_MILLIS));
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
    let ends = after(now, expiry);
    let (mut count, mut last, mut mine) = (0_u32, ends, false);
    let (mut soonest, mut waits) = (None, None);
    for (field, value) in record.fields(space, clock)? {
        let over = match field.get(..2) {
            // Without its key a shared lock has no holders.
            Some(b"r:") => number(&value).filter(|_| held.is_some()),
            Some(b"q:") => place(&value).map(|(_, over)| over),
            _ => continue,
        };
        match over.filter(|over| *over > now) {
            None => record.delete(space, clock, &field)?,
            Some(over) if field.starts_with(b"q:") => waits = earlier(waits, over),
            Some(_) if field[2..] == id[..] => mine = true,
            Some(over) => {
                count += 1;
                soonest = earlier(soonest, over);
                last = last.max(over);
            }
        }
    }
    if mine {
        return Ok(Locked::Taken { token: None });
    }
    let full = count >= most;
    if full || waits.is_some() {
        let next = if full { waits.or(soonest).min(soonest.or(waits)) } else { waits };
        let left = next.unwrap_or(now).saturating_sub(now);
        return Ok(Locked::held(Ttl::from_millis(left as i64)));
    }
    let share = name(b"r:", id);
    record.set(space, clock, &share, ends.to_string())?;
    record.pin(space, clock, true);
    if held.is_none() {
        let expires = clock.after(Expiry::of_millis(last - now));
        let lock = Entry { pinned: true, ..Entry::text(Bytes::from_static(SHARED), expires) };
        if let Err(error) = space.insert(key, lock) {
            record.delete(space, clock, &share)?;
            record.settle(space, clock)?;
            return Err(error);
        }
    }
    for key in [key, &record.0] {
        prolong(space, clock, key, last - now);
    }
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
        expire(space, clock, key, expiry);
        prolong(space, clock, &record.0, expiry.as_millis().max(KEPT_MILLIS));
        return Ok(true);
    }
    let over = record.field(space, clock, b"r:", id)?.as_deref().and_then(number);
    let now = millis(clock);
    if held.as_deref() != Some(SHARED) || over.is_none_or(|over| over <= now) {
        return Ok(false);
    }
    record.set(space, clock, &name(b"r:", id), after(now, expiry).to_string())?;
    for key in [key, &record.0] {
        prolong(space, clock, key, expiry.as_millis());
    }
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
        if record.delete(space, clock, &name(b"q:", id)).is_ok() {
            record.settle(space, clock)?;
        }
        let holds = get(space, clock, key)?.is_some_and(|holder| holder == id);
        return Ok(holds && space.remove(key, clock));
    }
    let held = get(space, clock, key)?;
    let now = millis(clock);
    let (mut known, mut mine, mut last) = (false, false, now);
    for (field, value) in record.fields(space, clock)? {
        if field.starts_with(b"r:") {
            let over = number(&value).unwrap_or(0);
            if field[2..] == id[..] {
                (known, mine) = (true, over > now);
                record.delete(space, clock, &field)?;
            } else {
                last = last.max(over);
            }
        }
    }
    record.settle(space, clock)?;
    if held.as_deref() != Some(SHARED) || !known {
        return Ok(false);
    }
    let left = Duration::from_millis(last - now);
    if last == now {
        space.remove(key, clock);
    } else if ttl(space, clock, key).remaining().is_some_and(|longer| longer > left) {
        expire(space, clock, key, Expiry::of_millis(last - now));
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
    let (last, kept) = (get(space, clock, &mark)?, ttl(space, clock, &mark));
    let token = token.to_string();
    if last
        .as_deref()
        .and_then(written_token)
        .is_some_and(|last| (last.len(), last) > (token.len(), token.as_bytes()))
    {
        return Ok(false);
    }
    let lives = expiry.map(|expiry| Expiry::of_millis(expiry.as_millis().max(KEPT_MILLIS)));
    set(space, clock, &mark, &token.into(), lives, None)?;
    if let Err(error) = set(space, clock, key, value, expiry, None) {
        // As it was: there was room for it.
        match last {
            Some(last) => {
                let kept = kept.remaining().map(|left| Expiry::of_millis(left.as_millis() as u64));
                set(space, clock, &mark, &last, kept, None)?;
            }
            None => _ = space.remove(&mark, clock),
        }
        return Err(error);
    }
    space.remove(&key.lease(), clock);
    Ok(true)
}

/// The hash beside a lock.
struct Record(Key);

/// Those who wait, as one of them sees them.
struct Queue {
    /// Its own turn, and until when its place counts.
    turn: u64,
    counts: u64,
    /// When the first of those may be gone who are before it.
    ahead: Option<u64>,
}

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

    /// Deletes a field. Only if there is one: of everything else those who watch it would be told.
    fn delete(&self, space: &mut Space, clock: &Clock, field: &[u8]) -> Result<()> {
        if self.field(space, clock, field, b"")?.is_some() {
            hash_delete(space, clock, &self.0, &Bytes::copy_from_slice(field))?;
        }
        Ok(())
    }

    /// Writes who holds the lock alone: all of it, or nothing is left of a record that was not there.
    fn taken_by(
        &self,
        space: &mut Space,
        clock: &Clock,
        id: &Bytes,
        token: u64,
        label: Option<&Bytes>,
    ) -> Result<()> {
        let fresh = space.read(&self.0, clock, |_| ()).is_none();
        let mut write = || {
            self.set(space, clock, b"token", token.to_string())?;
            self.set(space, clock, b"id", id.clone())?;
            match label.filter(|label| !label.is_empty()) {
                Some(label) => self.set(space, clock, b"owner", label.clone())?,
                None => self.delete(space, clock, b"owner")?,
            }
            self.delete(space, clock, &name(b"q:", id))?;
            self.settle(space, clock)
        };
        let written = write();
        if written.is_err() && fresh {
            space.remove(&self.0, clock);
        }
        written
    }

    /// Writes a place in the queue, unless it counts for half of its time yet: all who wait are told of it.
    fn wait(
        &self,
        space: &mut Space,
        clock: &Clock,
        id: &Bytes,
        queue: &Queue,
        waits: Expiry,
    ) -> Result<()> {
        let now = millis(clock);
        if 2 * queue.counts.saturating_sub(now) < waits.as_millis() {
            let place = format!("{} {}", queue.turn, after(now, waits));
            self.set(space, clock, &name(b"q:", id), place)?;
            self.pin(space, clock, true);
            prolong(space, clock, &self.0, waits.as_millis());
        }
        Ok(())
    }

    /// Only what somebody relies on is kept from eviction: a token that is forgotten is not minted again.
    fn settle(&self, space: &mut Space, clock: &Clock) -> Result<()> {
        let fields = self.fields(space, clock)?;
        let relied_on =
            fields.iter().any(|(field, _)| field.starts_with(b"r:") || field.starts_with(b"q:"));
        self.pin(space, clock, relied_on);
        Ok(())
    }

    fn pin(&self, space: &mut Space, clock: &Clock, pinned: bool) {
        if space.read(&self.0, clock, |entry| entry.pinned) == Some(!pinned) {
            space.change(&self.0, clock, |entry, _| {
                entry.pinned = pinned;
                Ok(())
            });
        }
    }

    /// The queue as `id` sees it, who may wait in it or not yet. Places that do not count any more are deleted.
    fn queue(&self, space: &mut Space, clock: &Clock, id: &Bytes) -> Result<Queue> {
        let now = millis(clock);
        let (mut turn, mut mine, mut others) = (clock.unix_micros(), None, Vec::new());
        for (field, value) in self.fields(space, clock)? {
            let Some(who) = field.strip_prefix(b"q:") else { continue };
            match place(&value) {
                Some((from, over)) if over > now => {
                    if who == &id[..] {
                        mine = Some((from, over));
                    } else {
                        turn = turn.max(from + 1);
                        others.push((from, over, Bytes::copy_from_slice(who)));
                    }
                }
                _ => self.delete(space, clock, &field)?,
            }
        }
        let (turn, counts) = mine.unwrap_or((turn, now));
        let before = others.iter().filter(|(from, _, who)| (*from, &who[..]) < (turn, &id[..]));
        let ahead = before.map(|(_, over, _)| *over).min();
        Ok(Queue { turn, counts, ahead })
    }
}

/// Gives a key a new expiry.
fn expire(space: &mut Space, clock: &Clock, key: &Key, expiry: Expiry) {
    let expires = clock.after(expiry);
    space.change(key, clock, |entry, _| {
        entry.expires = expires;
        Ok(())
    });
}

/// Gives a key at least so much time.
fn prolong(space: &mut Space, clock: &Clock, key: &Key, millis: u64) {
    let shorter = match ttl(space, clock, key) {
        Ttl::Missing => false,
        Ttl::Persistent => true,
        Ttl::Remaining(left) => left.as_millis() < u128::from(millis),
    };
    if shorter {
        expire(space, clock, key, Expiry::of_millis(millis));
    }
}

fn ttl(space: &mut Space, clock: &Clock, key: &Key) -> Ttl {
    space.read(key, clock, |entry| clock.remaining(entry.expires)).unwrap_or(Ttl::Missing)
}

fn millis(clock: &Clock) -> u64 {
    clock.unix_micros() / 1000
}

/// When something is over that begins now.
fn after(now: u64, expiry: Expiry) -> u64 {
    now.saturating_add(expiry.as_millis()).min(NUMBERS - 1)
}

fn earlier(one: Option<u64>, other: u64) -> Option<u64> {
    Some(one.map_or(other, |one| one.min(other)))
}

fn name(kind: &[u8], id: &[u8]) -> Bytes {
    [kind, id].concat().into()
}

/// A number of a record: digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|number| *number < NUMBERS)
}

/// A place in the queue: its turn, and until when it counts, in milliseconds.
fn place(text: &[u8]) -> Option<(u64, u64)> {
    let mut parts = text.splitn(2, |byte| *byte == b' ');
    Some((number(parts.next()?)?, number(parts.next()?)?))
}

/// A fencing token as it stands in a mark, without zeros before it: of two, the longer is the larger.
fn written_token(text: &[u8]) -> Option<&[u8]> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = text.iter().take_while(|byte| **byte == b'0').count();
    Some(&text[zeros.min(text.len() - 1)..]).filter(|digits| digits.len() <= 20)
}

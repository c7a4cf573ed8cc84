//! The locks of the model, and answers without the clock that is in them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use larder::op::{LockMode, Locked, Op, Reply};
use larder::{Expiry, Key, Ttl};

use crate::plain::{Answer, Data, Fields, Model, Refusal, WRONG_TYPE};

/// The model's time at the beginning, in microseconds since 1970.
const BEGAN: u64 = 1_750_000_000_000_000;
const DAY: u64 = 86_400_000;
/// Where the numbers of a record end.
const END: u64 = 1 << 53;

/// Fencing tokens as what they are to those who compare them: older than the last one of their lock, the same, or newer.
#[derive(Default)]
pub(crate) struct Tokens(BTreeMap<Vec<u8>, u64>);

impl Tokens {
    pub(crate) fn in_order(&mut self, op: &Op, answer: Answer) -> Answer {
        let (
            Op::Lock { key, .. },
            Answer::Reply(Reply::Locked(Locked::Taken { token: Some(token) })),
        ) = (op, &answer)
        else {
            return answer;
        };
        let last = self.0.entry(key.as_bytes().to_vec()).or_default();
        let order = match (*token).cmp(last) {
            Ordering::Less => 0,
            Ordering::Equal => 1,
            Ordering::Greater => 2,
        };
        *last = (*token).max(*last);
        Answer::Reply(Reply::Locked(Locked::Taken { token: Some(order) }))
    }
}

/// Times and tokens in a record differ from store to store. Nothing else that a list writes has so many digits.
pub(crate) fn without_clock(value: Bytes) -> Bytes {
    let shown: Vec<_> = value
        .split(|byte| *byte == b' ')
        .map(|part| {
            let is_clock = (13..=16).contains(&part.len()) && part.iter().all(u8::is_ascii_digit);
            if is_clock { &b"clock"[..] } else { part }
        })
        .collect();
    shown.join(&b' ').into()
}

/// A number of a record, or nothing.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().map(|byte| char::from(*byte)).collect::<String>();
    if digits.is_empty() || digits.contains(|digit: char| !digit.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| *number < END)
}

impl Model {
    fn micros(&self) -> u64 {
        BEGAN + self.now * 1000
    }

    fn millis(&self) -> u64 {
        self.micros() / 1000
    }

    fn record(&self, lock: &Key) -> Result<Fields, Refusal> {
        match self.keys.get(lock.lock_record().as_bytes()) {
            None => Ok(Fields::new()),
            Some((Data::Hash(fields), _)) => Ok(fields.clone()),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    fn put(
        &mut self,
        lock: &Key,
        field: &str,
        id: &[u8],
        value: impl ToString,
    ) -> Result<(), Refusal> {
        let name = [field.as_bytes(), id].concat();
        let value = value.to_string().into_bytes();
        self.hash(lock.lock_record().as_bytes())?.insert(name, value);
        Ok(())
    }

    /// Deletes a field, and with the last one the record.
    fn drop_field(&mut self, lock: &Key, field: &[u8]) -> Result<(), Refusal> {
        let record = lock.lock_record();
        let fields = self.hash(record.as_bytes())?;
        fields.remove(field);
        if fields.is_empty() {
            self.keys.remove(record.as_bytes());
        }
        Ok(())
    }

    /// A key lives for at least so long.
    fn at_least(&mut self, key: &Key, millis: u64) {
        let until = self.now + millis;
        if let Some((_, expires)) = self.keys.get_mut(key.as_bytes()) {
            *expires = Some(expires.map_or(until, |at| at.max(until)));
        }
    }

    fn held(&self, key: &Key) -> Locked {
        Locked::Held {
            remaining: match self.ttl(key.as_bytes()) {
                Ttl::Remaining(left) => left,
                Ttl::Persistent => Duration::from_secs(3600),
                Ttl::Missing => Duration::ZERO,
            },
        }
    }

    fn held_until(&self, over: u64) -> Locked {
        Locked::Held { remaining: Duration::from_millis(over - self.millis()) }
    }

    /// Those who share the lock, until when. Those whose time is over are cleared away, and all who wait no longer.
    fn sharers(&mut self, lock: &Key) -> Result<BTreeMap<Vec<u8>, u64>, Refusal> {
        let mut found = BTreeMap::new();
        let is_held = self.keys.contains_key(lock.as_bytes());
        for (field, value) in self.record(lock)? {
            let Some(id) = field.strip_prefix(b"r:") else { continue };
            match number(&value) {
                Some(over) if over > self.millis() && is_held => {
                    _ = found.insert(id.to_vec(), over)
                }
                _ => self.drop_field(lock, &field)?,
            }
        }
        Ok(found)
    }

    /// Those who wait: their turns, and until when they count.
    fn waiting(&mut self, lock: &Key) -> Result<BTreeMap<Vec<u8>, (u64, u64)>, Refusal> {
        let mut found = BTreeMap::new();
        for (field, value) in self.record(lock)? {
            let Some(id) = field.strip_prefix(b"q:") else { continue };
            let place = match &value.split(|byte| *byte == b' ').collect::<Vec<_>>()[..] {
                [turn, over] => number(turn).zip(number(over)),
                _ => None,
            };
            match place {
                Some((turn, over)) if over > self.millis() => {
                    found.insert(id.to_vec(), (turn, over));
                }
                _ => self.drop_field(lock, &field)?,
            }
        }
        Ok(found)
    }

    pub(crate) fn lock(
        &mut self,
        key: &Key,
        id: &[u8],
        lease: u64,
        mode: &LockMode,
    ) -> Result<Locked, Refusal> {
        match mode {
            LockMode::Shared { most } => self.share(key, id, lease, *most as usize),
            LockMode::Exclusive { label, fair, waits } => {
                let waits = waits.map(Expiry::as_millis);
                self.take(key, id, lease, label.as_deref(), *fair, waits)
            }
        }
    }

    fn take(
        &mut self,
        key: &Key,
        id: &[u8],
        lease: u64,
        label: Option<&[u8]>,
        fair: bool,
        waits: Option<u64>,
    ) -> Result<Locked, Refusal> {
        let first = |queue: &BTreeMap<Vec<u8>, (u64, u64)>| {
            let mine = queue.get(id).map(|(turn, _)| (*turn, id));
            let others = queue.iter().filter(|(who, _)| who[..] != *id);
            let before =
                others.filter(|(who, (turn, _))| mine.is_none_or(|mine| (*turn, &who[..]) < mine));
            before.map(|(_, (_, over))| *over).min()
        };
        let ahead = if fair { first(&self.waiting(key)?) } else { None };
        let holder = self.text(key.as_bytes())?;
        let mine = holder.as_deref() == Some(id);
        if !mine && (holder.is_some() || ahead.is_some()) {
            if let Some(waits) = waits
                && (fair || holder.as_deref() == Some(b"shared"))
            {
                let queue = self.waiting(key)?;
                let newest = queue.values().map(|(turn, _)| turn + 1).max().unwrap_or(0);
                let newcomer = (self.micros().max(newest), self.millis());
                let (turn, over) = queue.get(id).copied().unwrap_or(newcomer);
                if (over - self.millis()) * 2 < waits {
                    self.put(key, "q:", id, format!("{turn} {}", self.millis() + waits))?;
                    self.at_least(&key.lock_record(), waits);
                }
            }
            return Ok(match ahead {
                Some(over) if holder.is_none() => self.held_until(over),
                _ => self.held(key),
            });
        }
        let record = self.record(key)?;
        let last = record.get(&b"token"[..]).and_then(|token| number(token)).unwrap_or(0);
        if mine && last > 0 && record.get(&b"id"[..]).is_some_and(|holder| holder == id) {
            return Ok(Locked::Taken { token: Some(last) });
        }
        if !mine {
            self.write(key, id, Expiry::new(Duration::from_millis(lease)).ok());
        }
        self.minted = self.micros().max(last + 1).max(self.minted + 1);
        self.put(key, "token", b"", self.minted)?;
        let fields = self.hash(key.lock_record().as_bytes())?;
        fields.insert(b"id".to_vec(), id.to_vec());
        fields.remove(&b"owner"[..]);
        fields.remove(&[b"q:", id].concat());
        if let Some(label) = label.filter(|label| !label.is_empty()) {
            fields.insert(b"owner".to_vec(), label.to_vec());
        }
        self.at_least(&key.lock_record(), lease.max(DAY));
        Ok(Locked::Taken { token: Some(self.minted) })
    }

    fn share(&mut self, key: &Key, id: &[u8], lease: u64, most: usize) -> Result<Locked, Refusal> {
        let holder = self.text(key.as_bytes())?;
        if holder.as_deref().is_some_and(|holder| holder != b"shared") {
            return Ok(self.held(key));
        }
        let (sharers, waiting) = (self.sharers(key)?, self.waiting(key)?);
        if sharers.contains_key(id) {
            return Ok(Locked::Taken { token: None });
        }
        let next_waiting = waiting.values().map(|(_, over)| *over).min();
        let next_leaving = sharers.values().copied().min();
        if sharers.len() >= most {
            let next = next_waiting.into_iter().chain(next_leaving).min();
            return Ok(self.held_until(next.expect("one of them at least")));
        }
        if let Some(next) = next_waiting {
            return Ok(self.held_until(next));
        }
        let ends = self.millis() + lease;
        let last = sharers.values().copied().max().map_or(ends, |last| last.max(ends));
        let longest = last - self.millis();
        if holder.is_none() {
            self.write(key, b"shared", Expiry::new(Duration::from_millis(longest)).ok());
        }
        self.put(key, "r:", id, ends)?;
        self.at_least(key, longest);
        self.at_least(&key.lock_record(), longest);
        Ok(Locked::Taken { token: None })
    }

    pub(crate) fn extend(
        &mut self,
        key: &Key,
        id: &[u8],
        lease: u64,
        shared: bool,
    ) -> Result<bool, Refusal> {
        let holder = self.text(key.as_bytes())?;
        if !shared {
            let mine = holder.as_deref() == Some(id);
            if mine {
                self.write(key, id, Expiry::new(Duration::from_millis(lease)).ok());
                self.at_least(&key.lock_record(), lease.max(DAY));
            }
            return Ok(mine);
        }
        let over = self.record(key)?.get(&[b"r:", id].concat()).and_then(|over| number(over));
        let mine =
            holder.as_deref() == Some(b"shared") && over.is_some_and(|over| over > self.millis());
        if mine {
            self.put(key, "r:", id, self.millis() + lease)?;
            self.at_least(key, lease);
            self.at_least(&key.lock_record(), lease);
        }
        Ok(mine)
    }

    pub(crate) fn unlock(&mut self, key: &Key, id: &[u8], shared: bool) -> Result<bool, Refusal> {
        if !shared {
            // There is no queue in what is no record.
            _ = self.drop_field(key, &[b"q:", id].concat());
            let mine = self.text(key.as_bytes())?.as_deref() == Some(id);
            if mine {
                self.keys.remove(key.as_bytes());
            }
            return Ok(mine);
        }
        let holder = self.text(key.as_bytes())?;
        let record = self.record(key)?;
        let name = [b"r:", id].concat();
        let Some(over) = record.get(&name).map(|over| number(over)) else { return Ok(false) };
        self.drop_field(key, &name)?;
        if holder.as_deref() != Some(b"shared") {
            return Ok(false);
        }
        let others = record.iter().filter(|(field, _)| field.starts_with(b"r:") && **field != name);
        let last =
            others.filter_map(|(_, over)| number(over)).max().filter(|last| *last > self.millis());
        match (last, self.ttl(key.as_bytes())) {
            (None, _) => _ = self.keys.remove(key.as_bytes()),
            (Some(last), Ttl::Remaining(left)) => {
                let longest = Duration::from_millis(last - self.millis());
                if left > longest {
                    self.write(key, b"shared", Expiry::new(longest).ok());
                }
            }
            (Some(_), _) => {}
        }
        Ok(over.is_some_and(|over| over > self.millis()))
    }

    pub(crate) fn fenced_set(
        &mut self,
        key: &Key,
        value: &[u8],
        expiry: Option<Expiry>,
        token: u64,
    ) -> Result<bool, Refusal> {
        let mark = self.text(key.fence().as_bytes())?;
        let digits = mark.filter(|mark| !mark.is_empty() && mark.iter().all(u8::is_ascii_digit));
        let last = digits.and_then(|digits| String::from_utf8(digits).ok()?.parse::<u128>().ok());
        if last.is_some_and(|last| last > u128::from(token)) {
            return Ok(false);
        }
        self.write(key, value, expiry);
        let day = Expiry::new(Duration::from_millis(DAY)).unwrap();
        self.write(
            &key.fence(),
            token.to_string().as_bytes(),
            expiry.map(|expiry| expiry.max(day)),
        );
        self.keys.remove(key.lease().as_bytes());
        Ok(true)
    }
}

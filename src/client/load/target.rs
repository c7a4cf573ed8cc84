//! What is read: a key, as which type, by which options.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::options::LoadOptions;
use super::path::ReadPath;
use super::recent::ReadFrom;
use crate::codec::{JsonLimit, Shape, decode_json, encode_json};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::Terms;
use crate::near::{Life, Reading, Room};
use crate::op::{Batch, Fetched, Lane, Op, Vouch};
use crate::stats::{Read, ReadRecorder, place};
use crate::ttl::{Expiry, Ttl};

/// How the keys of a family are read. Cheap to clone, so that a load can outlive its caller.
#[derive(Clone)]
pub(crate) struct Family {
    pub(crate) path: Arc<ReadPath>,
    /// The method, for errors.
    pub(crate) name: &'static str,
    /// The namespace that statistics count under; without one, each key's first part.
    pub(crate) label: Option<Arc<str>>,
    pub(crate) reads: Arc<ReadRecorder>,
    pub(crate) room: Option<Arc<Room>>,
    pub(crate) lane: Lane,
    pub(crate) options: LoadOptions,
    pub(crate) undecodable_as_miss: bool,
    pub(crate) json_limit: JsonLimit,
}

/// How long what was loaded is stored.
pub(crate) enum Kept {
    ForEver,
    /// For so long, a little less, and the grace.
    For(Duration),
    /// As short as can be: in place of something that is not true any more.
    ForAMoment,
}

/// The shortest time that a store knows.
const MOMENT: Duration = Duration::from_millis(1);

/// What a read answers.
pub(crate) struct Answer<T> {
    /// Nothing: there is none, or it is remembered that there is none.
    pub(crate) value: Option<Arc<T>>,
    pub(crate) from: ReadFrom,
}

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), from: self.from }
    }
}

impl<T> Answer<T> {
    pub(crate) const MISSING: Self = Self { value: None, from: ReadFrom::Missing };
}

/// What was found under a key.
pub(crate) enum Seen<T> {
    /// A value that is served.
    Fresh(Answer<T>),
    /// A value that is served while it is loaded again.
    Due(Answer<T>),
    /// Nothing.
    Missing,
    /// Something that this caller cannot be served with, so that it is loaded over it.
    Unfit,
}

impl Family {
    /// The room of the near cache, if this read uses it.
    #[inline]
    pub(crate) fn near(&self) -> Option<&Arc<Room>> {
        self.room.as_ref().filter(|_| !self.options.bypass_near)
    }

    /// A marker for a read that is about to be sent.
    pub(crate) fn begin(&self, key: &Key) -> Option<Reading> {
        // A bypassing read may keep what it finds for those that do not.
        self.room.as_ref().map(|room| room.begin(key))
    }

    /// A batch of the family's reads.
    pub(crate) fn batch(&self, op: Op) -> Batch {
        let batch = Batch::one(self.name, op).on(self.lane.clone());
        match &self.label {
            Some(label) => batch.labelled(Arc::clone(label)),
            None => batch,
        }
    }

    pub(crate) fn terms(&self) -> Terms {
        Terms {
            store: Arc::clone(&self.path.store),
            name: self.name,
            label: self.label.clone(),
            // Not by broadcast: the lease stands under another prefix, and has to be told as well.
            lane: Lane::Tracked,
            // Checked with the other options.
            term: Expiry::new(self.options.lease).unwrap_or_else(|_| unreachable!()),
        }
    }

    /// What a value that was found comes to, and keeps it near if the store vouches for it. `sent` is when it was asked
    /// for, so that nothing is kept longer than the store keeps it.
    pub(crate) fn judge<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        key: &Key,
        found: Fetched,
        sent: Instant,
        reading: Option<Reading>,
        vouch: Option<&Vouch>,
        takes_nothing: bool,
    ) -> Result<Seen<T>> {
        let Some(bytes) = found.value else { return Ok(Seen::Missing) };
        let value = match decode_json::<Option<T>>(&bytes, Shape::Any, self.json_limit) {
            Ok(value) => value.map(Arc::new),
            Err(_) if self.undecodable_as_miss => return Ok(Seen::Unfit),
            Err(error) => {
                self.path.undecodable(&self.batch(Op::Fetch { keys: vec![key.clone()] }));
                return Err(error.with_key(key).with_op(self.name));
            }
        };
        let fresh = self.fresh_for(found.ttl);
        let age = self.age_of(found.ttl);
        if let (Some(reading), Some(vouch)) = (reading, vouch) {
            let cap = sent + self.options.near_ttl;
            let expires = match found.ttl {
                Ttl::Remaining(left) => (sent + left).min(cap),
                _ => cap,
            };
            let life = Life {
                read: sent,
                age: age.unwrap_or_default(),
                fresh_until: fresh.map(|left| sent + left),
                expires,
            };
            reading.insert(value.clone(), bytes.len(), life, vouch);
        }
        if value.is_none() && !takes_nothing {
            return Ok(Seen::Unfit);
        }
        let due = self.is_due(fresh.map(nanos));
        if let Some(age) = age {
            self.reads.age(place(), nanos(age));
        }
        let graceful = !self.options.grace.is_zero();
        let stale = graceful && fresh.is_some_and(|left| left.is_zero());
        let from = if stale { ReadFrom::Stale } else { ReadFrom::Shared };
        let answer = Answer { value, from };
        Ok(if due { Seen::Due(answer) } else { Seen::Fresh(answer) })
    }

    /// For how long a value is fresh, by its remaining time. Nothing for ever.
    pub(crate) fn fresh_for(&self, ttl: Ttl) -> Option<Duration> {
        match ttl {
            Ttl::Remaining(left) => Some(left.saturating_sub(self.options.grace)),
            Ttl::Persistent | Ttl::Missing => None,
        }
    }

    /// How old a value is, by its remaining time: what has passed of the namespace's TTL, and of the grace after it.
    fn age_of(&self, ttl: Ttl) -> Option<Duration> {
        match (self.options.ttl, ttl) {
            (Some(whole), Ttl::Remaining(left)) => {
                Some(whole.saturating_add(self.options.grace).saturating_sub(left))
            }
            _ => None,
        }
    }

    /// Whether a value that is fresh for so many nanoseconds is to be loaded again now: because it is stale, or by
    /// XFetch's draw.
    #[inline]
    pub(crate) fn is_due(&self, fresh: Option<u64>) -> bool {
        let Some(left) = fresh else { return false };
        if left == 0 {
            return !self.options.grace.is_zero();
        }
        // Nothing before the first load, and where early refreshes are off.
        let reach = self.reads.mean_load_nanos() as f64 * self.options.early_refresh;
        let left = left as f64;
        // The draw is seldom above ten times the mean.
        left <= 10.0 * reach && left <= reach * -(1.0 - fastrand::f64()).ln()
    }

    /// A value that is due expires within this time: a shorter one than what a load just wrote, unless that lives no
    /// longer than some loads take.
    pub(crate) fn due_within(&self) -> Duration {
        let load = Duration::from_nanos(self.reads.mean_load_nanos());
        let early = load.mul_f64(10.0 * self.options.early_refresh);
        self.options.grace + early + Duration::from_millis(5)
    }

    /// A value as the store keeps it, with how long it lives: a little shorter than it could.
    pub(crate) fn encode<T: Serialize>(
        &self,
        key: &Key,
        value: Option<&T>,
        kept: Kept,
    ) -> Result<(Bytes, Option<Expiry>)> {
        let value = encode_json(&value, Shape::Any, self.json_limit)
            .map_err(|error| error.with_op(self.name).with_key(key))?;
        let expiry = match kept {
            Kept::ForEver => Ok(None),
            Kept::ForAMoment => Expiry::new(MOMENT).map(Some),
            Kept::For(ttl) => {
                let part = 1.0 - fastrand::f64() * self.options.jitter;
                // Checked first: what is shortened is within the range of what a store takes.
                Expiry::new(ttl)
                    .and_then(|_| self.options.stored_for(Some(ttl.mul_f64(part).max(MOMENT))))
            }
        };
        let expiry = expiry.map_err(|error| {
            Error::new(ErrorKind::Load, format!("the loader's time to live: {}", error.detail()))
                .with_op(self.name)
                .with_key(key)
        })?;
        Ok((value, expiry))
    }

    /// Counts how a key was read, for the statistics and for `explain`.
    pub(crate) fn note(&self, key: &[u8], from: ReadFrom) {
        self.note_hashed(self.path.recent.hash(key), from);
    }

    /// Counts a read that failed. It found nothing to serve if its load failed; of any other nobody knows.
    pub(crate) fn note_failed(&self, error: &Error) {
        if error.kind() == ErrorKind::Load {
            self.reads.count(Read::Miss);
        }
    }

    /// As [`note`](Self::note), of a key that was hashed already.
    #[inline(always)]
    pub(crate) fn note_hashed(&self, hash: u64, from: ReadFrom) {
        let read = match from {
            ReadFrom::Near => Read::NearHit,
            ReadFrom::Shared => Read::SharedHit,
            ReadFrom::Stale => Read::StaleHit,
            ReadFrom::Missing | ReadFrom::Loaded | ReadFrom::Waited => Read::Miss,
        };
        let place = place();
        self.reads.count_at(place, read);
        self.path.recent.note(place, hash, from);
    }
}

/// Enough for 500 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

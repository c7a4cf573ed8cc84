//! Reading one key: near, with a flight, from the store, from the loader.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::frames::Frames;
use super::recent::ReadFrom;
use super::source::Source;
use super::target::{Answer, Family, Seen};
use super::work::{Work, is_failure_of_store};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Kind, Leader, Seat, arrived};
use crate::key::Key;
use crate::near::Hit;
use crate::op::{Ask, Op};
use crate::stats::{Read, place};
use crate::store::runtime;

impl Family {
    /// What a hit of the near cache comes to. Nothing if it is not fit for this caller.
    #[inline(always)]
    pub(crate) fn near_hit<T>(&self, hit: Hit<T>, takes_nothing: bool) -> Option<Seen<T>> {
        if hit.value.is_none() && !takes_nothing {
            return None;
        }
        self.reads.age(place(), hit.age);
        let stale = hit.fresh == Some(0) && !self.options.grace.is_zero();
        let from = if stale { ReadFrom::Stale } else { ReadFrom::Near };
        let answer = Answer { value: hit.value, from };
        Some(if self.is_due(hit.fresh) { Seen::Due(answer) } else { Seen::Fresh(answer) })
    }

    /// Reads a key, and counts how.
    pub(crate) async fn read<T, S>(&self, key: &Key, source: &mut S) -> Result<Answer<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: Source<T>,
    {
        let answer = self.find(key, source).await.inspect_err(|error| self.note_failed(error))?;
        self.note(key.as_bytes(), answer.from);
        Ok(answer)
    }

    async fn find<T, S>(&self, key: &Key, source: &mut S) -> Result<Answer<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: Source<T>,
    {
        let loads = S::LOADS && !self.options.peek;
        if loads {
            runtime::check("reading through")?;
        }
        if let Some(room) = self.near()
            && let Some(hit) = room.get::<T>(key.as_bytes())
            && let Some(seen) = self.near_hit(hit, source.takes_nothing())
        {
            match seen {
                Seen::Due(answer) if loads => {
                    return self.refresh(key, source, answer, &Frames::here()).await;
                }
                Seen::Fresh(answer) | Seen::Due(answer) => return Ok(answer),
                Seen::Missing | Seen::Unfit => {}
            }
        }
        let frames = Frames::here();
        if loads && frames.load(key) {
            return Err(self.error(key, "the loader of this key asks for the key itself"));
        }
        let kind = if loads { Kind::Load } else { Kind::Lookup };
        let (within, inner) = (frames.flights(), frames.inner());
        let limit = Instant::now() + self.options.hard_timeout;
        let flights = &self.path.coherence.flights;
        loop {
            let follower = match flights.board::<Answer<T>>(key, kind, &within, inner) {
                Seat::Lead(leader) => return self.lead(key, source, leader, &frames, loads).await,
                Seat::Follow(follower) => follower,
                Seat::Cycle => {
                    return Err(self.error(key, "loaders of several keys wait for each other"));
                }
            };
            self.reads.count(Read::Joined);
            let landed = if runtime::is_here() {
                timeout_at(limit, follower.landed()).await.map_err(|_| self.too_long(key))?
            } else {
                follower.landed().await
            };
            match landed {
                Some(Ok(answer)) if answer.value.is_some() || source.takes_nothing() => {
                    let from = match answer.from {
                        ReadFrom::Loaded => ReadFrom::Waited,
                        from => from,
                    };
                    return Ok(Answer { from, ..answer });
                }
                Some(Err(error)) => return Err(error),
                // The leader went away, this caller came too late, or the leader can do with less than it.
                Some(Ok(_)) | None => {}
            }
        }
    }

    /// Does the work of a flight.
    async fn lead<T, S>(
        &self,
        key: &Key,
        source: &mut S,
        leader: Leader<Answer<T>>,
        frames: &Frames,
        loads: bool,
    ) -> Result<Answer<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: Source<T>,
    {
        let seen = self.look(key, source.takes_nothing(), loads).await;
        let ask = match seen {
            Ok(Seen::Due(answer)) if loads => {
                // Whoever came with this caller shall not wait for the load.
                leader.land(&Ok(answer.clone()));
                return self.refresh(key, source, answer, frames).await;
            }
            Ok(Seen::Fresh(answer) | Seen::Due(answer)) => {
                leader.land(&Ok(answer.clone()));
                return Ok(answer);
            }
            Ok(Seen::Missing | Seen::Unfit) if !loads => {
                leader.land(&Ok(Answer::MISSING));
                return Ok(Answer::MISSING);
            }
            Ok(Seen::Missing) => Ask::Missing,
            Ok(Seen::Unfit) => Ask::Always,
            // The work finds out by itself, and lets the loader answer.
            Err(error) if loads && is_failure_of_store(&error) => {
                self.store_failed(&error, [key]);
                Ask::Missing
            }
            Err(error) => {
                let failed = Err(error);
                leader.land(&failed);
                return failed;
            }
        };
        let work = Work {
            family: self.clone(),
            key: key.clone(),
            frames: frames.clone(),
            leader,
            ask,
            stale: None,
        };
        let Some(mut own) = source.detached() else { return work.run(source).await };
        let mut result = work.leader.follow();
        tokio::spawn(async move { work.run(&mut own).await });
        match timeout(self.options.hard_timeout * 2, arrived(&mut result)).await {
            Ok(Some(done)) => done,
            Ok(None) => Err(self.error(key, "the load was ended with its runtime")),
            Err(_) => Err(self.too_long(key)),
        }
    }

    /// A value that is due is served while one caller loads it again.
    pub(super) async fn refresh<T, S>(
        &self,
        key: &Key,
        source: &mut S,
        due: Answer<T>,
        frames: &Frames,
    ) -> Result<Answer<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: Source<T>,
    {
        if frames.load(key) {
            return Ok(due);
        }
        let soft = self.options.soft_timeout;
        let flights = &self.path.coherence.flights;
        let (within, inner) = (frames.flights(), frames.inner());
        let leader = match flights.board::<Answer<T>>(key, Kind::Refresh, &within, inner) {
            Seat::Lead(leader) => leader,
            Seat::Follow(follower) if !soft.is_zero() => {
                return match timeout(soft, follower.landed()).await {
                    Ok(Some(Ok(answer))) if answer.value.is_some() || source.takes_nothing() => {
                        Ok(answer)
                    }
                    _ => Ok(due),
                };
            }
            Seat::Follow(_) | Seat::Cycle => return Ok(due),
        };
        if due.from != ReadFrom::Stale {
            self.reads.count(Read::EarlyRefresh);
        }
        let work = Work {
            family: self.clone(),
            key: key.clone(),
            frames: frames.clone(),
            leader,
            ask: Ask::Within(self.due_within()),
            stale: Some(due.clone()),
        };
        if let Some(mut own) = source.detached() {
            let mut result = work.leader.follow();
            tokio::spawn(async move { work.run(&mut own).await });
            if soft.is_zero() {
                return Ok(due);
            }
            return match timeout(soft, arrived(&mut result)).await {
                Ok(Some(Ok(answer))) => Ok(answer),
                _ => Ok(due),
            };
        }
        // A loader that borrows from its caller ends with it: this caller waits.
        let patience = if soft.is_zero() { self.options.hard_timeout * 2 } else { soft };
        timeout(patience, work.run(source)).await.unwrap_or(Ok(due))
    }

    /// Looks into the store.
    async fn look<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        key: &Key,
        takes_nothing: bool,
        loads: bool,
    ) -> Result<Seen<T>> {
        if loads && !self.path.breaker.allows_load(key) {
            return Ok(Seen::Missing);
        }
        let reading = self.begin(key);
        let batch = self.batch(Op::Fetch { keys: vec![key.clone()] });
        let sent = Instant::now();
        let replies = self.path.store.run(batch).await?;
        self.path.breaker.answered_load([key]);
        let vouch = replies.vouch().copied();
        let found = replies.into_one()?.into_fetched()?.pop().ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "the store gave another number of values")
        })?;
        self.judge(key, found, sent, reading, vouch.as_ref(), takes_nothing)
    }

    pub(super) fn error(
        &self,
        key: &Key,
        detail: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Error {
        Error::new(ErrorKind::Load, detail).with_op(self.name).with_key(key)
    }

    pub(super) fn too_long(&self, key: &Key) -> Error {
        let hard = self.options.hard_timeout;
        self.error(key, format!("the load took longer than the hard timeout of {hard:?}"))
    }
}

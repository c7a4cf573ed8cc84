//! Reading many keys: one look into the store, one call of the loader, and no wait before one's own loads are
//! done, so that batches that overlap cannot wait for each other in a circle.

use std::borrow::Cow;
use std::collections::HashMap;

use futures_util::future::{join, join_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::frames::Frames;
use super::recent::ReadFrom;
use super::source::{Nowhere, Source};
use super::target::{Answer, Family, Seen};
use super::work::is_failure_of_store;
use crate::error::Result;
use crate::flight::{Follower, Kind, Leader, Seat};
use crate::key::Key;
use crate::op::{Ask, Op};
use crate::stats::Read;
use crate::store::runtime;

mod source;
mod work;

pub(crate) use source::{ManyLoader, ManySource};

/// The flights that a call leads, and those that it follows, each with its key's place.
type Leaders<T> = Vec<(usize, Leader<Answer<T>>)>;
type Followers<T> = Vec<(usize, Follower<Answer<T>>)>;

/// A key that is to be loaded.
struct Want<T> {
    at: usize,
    ask: Ask,
    stale: Option<Answer<T>>,
    leader: Leader<Answer<T>>,
    waited: bool,
    /// What a load brought whose key was changed meanwhile, and when that load began.
    refused: Option<(Answer<T>, Instant)>,
    took_over: bool,
    /// Whether its flight is told of changes.
    told: bool,
}

impl<T> Want<T> {
    fn new(at: usize, ask: Ask, stale: Option<Answer<T>>, leader: Leader<Answer<T>>) -> Self {
        let (waited, took_over, told) = (false, false, false);
        Self { at, ask, stale, leader, waited, refused: None, took_over, told }
    }

    /// Whether its caller has an answer if it is not loaded in time.
    fn can_be_served(&self) -> bool {
        self.stale.is_some()
    }
}

/// How a caller loads a value again.
enum Again<T> {
    /// By its own loader.
    Load(Want<T>),
    /// Somebody else is at it.
    Join(Follower<Answer<T>>),
}

/// A call for many keys.
struct Many<'a, T> {
    family: &'a Family,
    keys: &'a [Key],
    /// Where each key stands for the first time: one that is asked for twice is read once.
    firsts: Vec<usize>,
    frames: Frames,
    limit: Instant,
    answers: Vec<Option<Result<Answer<T>>>>,
    /// What has its answer, and is to be loaded again.
    due: Vec<(usize, Answer<T>)>,
}

/// What was found under a key.
pub(crate) struct Found<T> {
    pub(crate) answer: Answer<T>,
    /// Whether it is to be loaded again, and nobody saw to that: who read had no loader.
    due: bool,
}

impl Family {
    /// Reads keys. One answer each, in order, which are counted by who serves them.
    pub(crate) async fn read_many<T, S>(
        &self,
        keys: &[Key],
        source: &mut S,
    ) -> Result<Vec<Result<Found<T>>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: ManySource<T>,
    {
        let loads = S::LOADS && !self.options.peek;
        if loads {
            runtime::check("reading through")?;
        }
        let mut places = HashMap::new();
        let firsts =
            keys.iter().enumerate().map(|(at, key)| *places.entry(key).or_insert(at)).collect();
        let mut many = Many {
            family: self,
            keys,
            firsts,
            frames: Frames::here(),
            limit: Instant::now() + self.options.hard_timeout,
            answers: keys.iter().map(|_| None).collect(),
            due: Vec::new(),
        };
        many.near();
        loop {
            let pending: Vec<usize> =
                many.places().filter(|at| many.answers[*at].is_none()).collect();
            if pending.is_empty() && (many.due.is_empty() || !loads) {
                break;
            }
            let (leaders, followers) = many.board(&pending, loads);
            let wanted = many.look(leaders, loads).await;
            if loads {
                many.bring(wanted, source).await;
            }
            many.wait(followers).await;
        }
        Ok(many.found())
    }

    /// Reads keys for who loads what is missing then. So is what the store cannot be asked for, or what rests.
    pub(crate) async fn read_many_to_load<T>(&self, keys: &[Key]) -> Result<Vec<Result<Found<T>>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        if self.options.peek {
            return self.read_many(keys, &mut Nowhere).await;
        }
        let allowed = self.path.breaker.allow_loads(keys);
        let asked: Cow<'_, [Key]> = match &allowed {
            None => keys.into(),
            Some(allowed) => {
                let asked = keys.iter().zip(allowed).filter(|(_, allowed)| **allowed);
                asked.map(|(key, _)| key.clone()).collect()
            }
        };
        let mut found = if asked.is_empty() {
            Vec::new()
        } else {
            self.read_many(&asked, &mut Nowhere).await?
        };
        let is_away = |one: &Result<Found<T>>| one.as_ref().is_err_and(is_failure_of_store);
        let away: Vec<bool> = found.iter().map(is_away).collect();
        if let Some(Err(error)) = found.iter().find(|one| is_away(one)) {
            let keys = asked.iter().zip(&away).filter(|(_, away)| **away);
            self.store_failed(error, keys.map(|(key, _)| key));
        }
        let missing = || Ok(Found { answer: Answer::MISSING, due: false });
        for one in found.iter_mut().filter(|one| is_away(one)) {
            *one = missing();
        }
        let Some(allowed) = allowed else { return Ok(found) };
        let mut found = found.into_iter();
        let rested = |allowed: bool| if allowed { found.next() } else { None };
        Ok(allowed.into_iter().map(rested).map(|one| one.unwrap_or_else(missing)).collect())
    }

    /// Serves what was found by who had no loader: what is missing is loaded, and what is due is loaded again.
    pub(crate) async fn serve<T, S>(
        &self,
        key: &Key,
        found: Found<T>,
        source: &mut S,
    ) -> Result<Answer<T>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: Source<T>,
    {
        if found.answer.from == ReadFrom::Missing {
            return self.read(key, source).await;
        }
        if !found.due || self.options.peek {
            return Ok(self.served(key, found));
        }
        let answer = self.refresh(key, source, found.answer, &Frames::here()).await?;
        self.note(key.as_bytes(), answer.from);
        Ok(answer)
    }

    /// Serves what was found as it is.
    pub(crate) fn served<T>(&self, key: &Key, found: Found<T>) -> Answer<T> {
        self.note(key.as_bytes(), found.answer.from);
        found.answer
    }
}

/// What may, and what may not.
fn split<T>(all: Vec<T>, may: Vec<bool>) -> (Vec<T>, Vec<T>) {
    let (yes, no): (Vec<_>, Vec<_>) = all.into_iter().zip(may).partition(|(_, may)| *may);
    let bare = |all: Vec<(T, bool)>| all.into_iter().map(|(one, _)| one).collect();
    (bare(yes), bare(no))
}

/// The keys of flights.
fn keys_of<'a, T>(keys: &'a [Key], leaders: &'a Leaders<T>) -> impl Iterator<Item = &'a Key> {
    leaders.iter().map(|(at, _)| &keys[*at])
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Many<'_, T> {
    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.keys.len()).filter(|at| self.firsts[*at] == *at)
    }

    /// Takes what is near.
    fn near(&mut self) {
        let Some(room) = self.family.near() else { return };
        for at in self.places().collect::<Vec<_>>() {
            let Some(hit) = room.get::<T>(self.keys[at].as_bytes()) else { continue };
            match self.family.near_hit(hit, true) {
                Some(Seen::Fresh(answer)) => self.answers[at] = Some(Ok(answer)),
                Some(Seen::Due(answer)) => {
                    self.answers[at] = Some(Ok(answer.clone()));
                    self.due.push((at, answer));
                }
                _ => {}
            }
        }
    }

    /// Boards a flight for each key.
    fn board(&mut self, pending: &[usize], loads: bool) -> (Leaders<T>, Followers<T>) {
        let (mut leaders, mut followers) = (Vec::new(), Vec::new());
        let (within, kind) = (self.frames.flights(), if loads { Kind::Load } else { Kind::Lookup });
        for at in pending.iter().copied() {
            let key = &self.keys[at];
            if loads && self.frames.load(key) {
                let error = "the loader of this key asks for the key itself";
                self.answers[at] = Some(Err(self.family.error(key, error)));
                continue;
            }
            let flights = &self.family.path.coherence.flights;
            match flights.board(key, kind, &within, self.frames.inner()) {
                Seat::Lead(leader) => leaders.push((at, leader)),
                Seat::Follow(follower) => {
                    self.family.reads.count(Read::Joined);
                    followers.push((at, follower));
                }
                Seat::Cycle => {
                    let error = "loaders of several keys wait for each other";
                    self.answers[at] = Some(Err(self.family.error(key, error)));
                }
            }
        }
        (leaders, followers)
    }

    /// Looks into the store for all keys whose flights this call leads. Answers what is to be loaded.
    async fn look(&mut self, mut leaders: Leaders<T>, loads: bool) -> Vec<Want<T>> {
        let family = self.family;
        let mut wanted = Vec::new();
        if leaders.is_empty() {
            return wanted;
        }
        let want = |at, ask, leader| Want::new(at, ask, None, leader);
        let (all, breaker) = (self.keys, &family.path.breaker);
        if loads && let Some(allowed) = breaker.allow_loads(keys_of(all, &leaders)) {
            let (may, rest) = split(leaders, allowed);
            wanted.extend(rest.into_iter().map(|(at, leader)| want(at, Ask::Missing, leader)));
            leaders = may;
            if leaders.is_empty() {
                return wanted;
            }
        }
        let keys: Vec<Key> = keys_of(all, &leaders).cloned().collect();
        let readings: Vec<_> = keys.iter().map(|key| family.begin(key)).collect();
        let sent = Instant::now();
        let looked = family.path.store.run(family.batch(Op::Fetch { keys })).await;
        let (found, vouch) = match looked.and_then(|replies| {
            let vouch = replies.vouch().copied();
            Ok((replies.into_one()?.into_fetched()?, vouch))
        }) {
            Ok(found) => found,
            Err(error) if loads && is_failure_of_store(&error) => {
                family.store_failed(&error, keys_of(all, &leaders));
                wanted
                    .extend(leaders.into_iter().map(|(at, leader)| want(at, Ask::Missing, leader)));
                return wanted;
            }
            Err(error) => {
                for (at, leader) in leaders {
                    let error = error.clone().with_key(&self.keys[at]);
                    self.land(at, leader, Err(error));
                }
                return wanted;
            }
        };
        breaker.answered_load(keys_of(all, &leaders));
        for (((at, leader), found), reading) in leaders.into_iter().zip(found).zip(readings) {
            match family.judge(&self.keys[at], found, sent, reading, vouch.as_ref(), true) {
                Ok(Seen::Fresh(answer)) => self.land(at, leader, Ok(answer)),
                Ok(Seen::Due(answer)) => {
                    // Whoever came with this caller shall not wait for the load.
                    self.land(at, leader, Ok(answer.clone()));
                    self.due.push((at, answer));
                }
                Ok(Seen::Missing | Seen::Unfit) if !loads => {
                    self.land(at, leader, Ok(Answer::MISSING));
                }
                Ok(Seen::Missing) => wanted.push(want(at, Ask::Missing, leader)),
                Ok(Seen::Unfit) => wanted.push(want(at, Ask::Always, leader)),
                Err(error) => self.land(at, leader, Err(error)),
            }
        }
        wanted
    }

    /// Loads what is wanted, and what is due again: by the namespace's own loader behind the caller, which waits for
    /// that as long as the soft timeout says; and else with the others, in one call.
    async fn bring<S: ManySource<T>>(&mut self, mut wanted: Vec<Want<T>>, source: &mut S) {
        let (family, keys, frames) = (self.family, self.keys, self.frames.clone());
        let soft = family.options.soft_timeout;
        let (mut behind, mut joined) = (Vec::new(), Vec::new());
        for (at, due) in std::mem::take(&mut self.due) {
            match source.detached(at) {
                Some(own) => behind.push((at, due, own)),
                None => match self.again(at, due) {
                    Some(Again::Load(want)) => wanted.push(want),
                    Some(Again::Join(follower)) => joined.push((at, follower)),
                    None => {}
                },
            }
        }
        let late = (!soft.is_zero()).then(|| Instant::now() + soft);
        let behind = join_all(behind.into_iter().map(|(at, due, mut own)| {
            let frames = &frames;
            async move { (at, family.refresh(&keys[at], &mut own, due, frames).await) }
        }));
        let load = async {
            if wanted.is_empty() {
                return;
            }
            let can_be_served = wanted.iter().all(Want::can_be_served);
            // Boxed, as what loads one key: a call takes little room whatever its loader takes.
            let load = Box::pin(self.load(wanted, source, late));
            match late {
                // A loader that borrows from its caller ends with it.
                Some(late) if can_be_served => _ = timeout_at(late, load).await,
                _ => load.await,
            }
        };
        let (fresh, ()) = join(behind, load).await;
        for (at, answer) in fresh {
            if answer.is_ok() {
                self.answers[at] = Some(answer);
            }
        }
        for (at, follower) in joined {
            let Some(late) = late else { continue };
            if let Ok(Some(Ok(answer))) = timeout_at(late, follower.landed()).await {
                self.answers[at] = Some(Ok(answer));
            }
        }
    }

    /// How a value that is due is loaded again by this caller. Nothing if somebody is at it.
    fn again(&self, at: usize, due: Answer<T>) -> Option<Again<T>> {
        let key = &self.keys[at];
        if self.frames.load(key) {
            return None;
        }
        let flights = &self.family.path.coherence.flights;
        let leader =
            match flights.board(key, Kind::Refresh, &self.frames.flights(), self.frames.inner()) {
                Seat::Lead(leader) => leader,
                Seat::Follow(follower) => return Some(Again::Join(follower)),
                Seat::Cycle => return None,
            };
        if due.from != ReadFrom::Stale {
            self.family.reads.count(Read::EarlyRefresh);
        }
        let ask = Ask::Within(self.family.due_within());
        Some(Again::Load(Want::new(at, ask, Some(due), leader)))
    }

    /// Waits for the flights that others lead.
    async fn wait(&mut self, followers: Followers<T>) {
        for (at, follower) in followers {
            let landed = if runtime::is_here() {
                timeout_at(self.limit, follower.landed()).await
            } else {
                Ok(follower.landed().await)
            };
            self.answers[at] = match landed {
                Ok(Some(Ok(answer))) => Some(Ok(match answer.from {
                    ReadFrom::Loaded => Answer { from: ReadFrom::Waited, ..answer },
                    _ => answer,
                })),
                Ok(Some(Err(error))) => Some(Err(error)),
                // Its leader went away, or this call came too late: it boards again.
                Ok(None) => None,
                Err(_) => Some(Err(self.family.too_long(&self.keys[at]))),
            };
        }
    }

    fn land_want(&mut self, want: Want<T>, done: Result<Answer<T>>) {
        self.land(want.at, want.leader, done);
    }

    /// As [`land_want`](Self::land_want), of what may be older than a change of the key: for who came before.
    fn land_before(&mut self, want: Want<T>, answer: Answer<T>, before: Instant) {
        let done = Ok(answer);
        want.leader.land_before(&done, Some(before));
        self.answers[want.at] = Some(done);
    }

    fn land(&mut self, at: usize, leader: Leader<Answer<T>>, done: Result<Answer<T>>) {
        leader.land(&done);
        self.answers[at] = Some(done);
    }

    /// One answer for each key.
    fn found(self) -> Vec<Result<Found<T>>> {
        let mut due = vec![false; self.keys.len()];
        self.due.iter().for_each(|(at, _)| due[*at] = true);
        let found = self.firsts.iter().map(|at| {
            let answer = self.answers[*at].clone().unwrap_or(Ok(Answer::MISSING))?;
            let due = due[*at] || answer.from == ReadFrom::Stale;
            Ok(Found { answer, due })
        });
        found.collect()
    }
}

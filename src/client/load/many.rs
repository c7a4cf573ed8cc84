//! Reading many keys: one look into the store, one call of the loader, and no wait before one's own loads are
//! done, so that batches that overlap cannot wait for each other in a circle.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::frames::Frames;
use super::loaded::{Failure, IntoLoaded, Loaded};
use super::recent::ReadFrom;
use super::target::{Answer, Family, Seen};
use super::work::is_failure_of_store;
use crate::error::{Error, ErrorKind, Result};
use crate::flight::{Follower, Kind, Leader, Seat};
use crate::key::Key;
use crate::lease::{Lease, renewing};
use crate::op::{Ask, LeaseState, Op};
use crate::stats::Read;
use crate::store::runtime;

/// A loader of many keys, seen from the read path. Keys go by their places in the call.
pub(crate) trait ManySource<T>: Send {
    /// Whether there is a loader at all.
    const LOADS: bool;

    /// Loads some keys. May be called again, for keys whose load came too late or that others gave up.
    fn load(
        &mut self,
        missing: Vec<usize>,
    ) -> impl Future<Output = Result<Vec<(Key, Loaded<T>)>, Failure>> + Send;
}

impl<T: Send> ManySource<T> for super::source::Nowhere {
    const LOADS: bool = false;

    async fn load(&mut self, _missing: Vec<usize>) -> Result<Vec<(Key, Loaded<T>)>, Failure> {
        Ok(Vec::new())
    }
}

/// A loader of the caller's, with what it takes and how what it gives is named.
pub(crate) struct ManyLoader<F, N> {
    pub(crate) loader: F,
    pub(crate) named: N,
}

impl<T, F, N, Fut, I, Q, L, E> ManySource<T> for ManyLoader<F, N>
where
    T: Send + Sync,
    F: FnMut(Vec<usize>) -> Fut + Send,
    N: Fn(&Q) -> Result<Key> + Send,
    Fut: Future<Output = Result<I, E>> + Send,
    I: IntoIterator<Item = (Q, L)>,
    L: IntoLoaded<T>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    const LOADS: bool = true;

    async fn load(&mut self, missing: Vec<usize>) -> Result<Vec<(Key, Loaded<T>)>, Failure> {
        let loading = (self.loader)(missing);
        let loaded = loading.await.map_err(|error| Failure::from(error.into()))?;
        let named =
            loaded.into_iter().map(|(key, value)| Ok(((self.named)(&key)?, value.into_loaded())));
        named.collect::<Result<_>>().map_err(|error| Failure::from(Box::from(error)))
    }
}

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
    reloaded: bool,
}

/// A call for many keys.
struct Many<'a, T> {
    family: &'a Family,
    keys: &'a [Key],
    frames: Frames,
    limit: Instant,
    answers: Vec<Option<Result<Answer<T>>>>,
}

impl Family {
    /// Reads keys. One answer each, in order, which are counted by who serves them.
    pub(crate) async fn read_many<T, S>(
        &self,
        keys: &[Key],
        source: &mut S,
    ) -> Result<Vec<Result<Answer<T>>>>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        S: ManySource<T>,
    {
        let loads = S::LOADS && !self.options.peek;
        if loads {
            runtime::check("reading through")?;
        }
        // A key that is asked for twice is read once.
        let mut places = HashMap::new();
        let firsts: Vec<usize> =
            keys.iter().enumerate().map(|(at, key)| *places.entry(key).or_insert(at)).collect();
        let mut many = Many {
            family: self,
            keys,
            frames: Frames::here(),
            limit: Instant::now() + self.options.hard_timeout,
            answers: keys.iter().map(|_| None).collect(),
        };
        let mut due = many.near();
        loop {
            let pending: Vec<usize> = (0..keys.len())
                .filter(|at| firsts[*at] == *at && many.answers[*at].is_none())
                .collect();
            if pending.is_empty() && due.is_empty() {
                break;
            }
            let (leaders, followers) = many.board(&pending, loads);
            let wanted = many.look(leaders, std::mem::take(&mut due), loads).await;
            many.load(wanted, source).await;
            many.wait(followers).await;
        }
        let answers =
            firsts.iter().map(|at| many.answers[*at].clone().unwrap_or(Ok(Answer::MISSING)));
        Ok(answers.collect())
    }
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Many<'_, T> {
    /// Takes what is near. Answers which of it is due.
    fn near(&mut self) -> Vec<(usize, Answer<T>)> {
        let Some(room) = self.family.near() else { return Vec::new() };
        let now = Instant::now();
        let mut due = Vec::new();
        for (at, key) in self.keys.iter().enumerate() {
            let Some(hit) = room.get::<T>(key.as_bytes(), now) else { continue };
            match self.family.near_hit(hit, true) {
                Some(Seen::Fresh(answer)) => self.answers[at] = Some(Ok(answer)),
                Some(Seen::Due(answer)) => {
                    self.answers[at] = Some(Ok(answer.clone()));
                    due.push((at, answer));
                }
                _ => {}
            }
        }
        due
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
    async fn look(
        &mut self,
        leaders: Leaders<T>,
        due: Vec<(usize, Answer<T>)>,
        loads: bool,
    ) -> Vec<Want<T>> {
        let family = self.family;
        let mut wanted = Vec::new();
        for (at, answer) in due.into_iter().filter(|_| loads) {
            wanted.extend(self.refresh(at, answer));
        }
        if leaders.is_empty() {
            return wanted;
        }
        let want =
            |at, ask, leader| Want { at, ask, stale: None, leader, waited: false, reloaded: false };
        if loads && !family.path.breaker.allows() {
            wanted.extend(leaders.into_iter().map(|(at, leader)| want(at, Ask::Missing, leader)));
            return wanted;
        }
        let keys: Vec<Key> = leaders.iter().map(|(at, _)| self.keys[*at].clone()).collect();
        let readings: Vec<_> = keys.iter().map(|key| family.begin(key)).collect();
        let sent = Instant::now();
        let looked = family.path.store.run(family.batch(Op::Fetch { keys })).await;
        let (found, vouch) = match looked.and_then(|replies| {
            let vouch = replies.vouch().copied();
            Ok((replies.into_one()?.into_fetched()?, vouch))
        }) {
            Ok(found) => found,
            Err(error) if loads && is_failure_of_store(&error) => {
                family.store_failed(&error);
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
        family.path.breaker.worked();
        for (((at, leader), found), reading) in leaders.into_iter().zip(found).zip(readings) {
            match family.judge(&self.keys[at], found, sent, reading, vouch.as_ref(), true) {
                Ok(Seen::Due(answer)) if loads => {
                    self.land(at, leader, Ok(answer.clone()));
                    wanted.extend(self.refresh(at, answer));
                }
                Ok(Seen::Fresh(answer) | Seen::Due(answer)) => self.land(at, leader, Ok(answer)),
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

    /// A value that is due is loaded with the others, unless somebody is at it.
    fn refresh(&self, at: usize, due: Answer<T>) -> Option<Want<T>> {
        let key = &self.keys[at];
        if self.frames.load(key) {
            return None;
        }
        let flights = &self.family.path.coherence.flights;
        let seat = flights.board(key, Kind::Refresh, &self.frames.flights(), self.frames.inner());
        let Seat::Lead(leader) = seat else { return None };
        if due.from != ReadFrom::Stale {
            self.family.reads.count(Read::EarlyRefresh);
        }
        let ask = Ask::Within(self.family.due_within());
        Some(Want { at, ask, stale: Some(due), leader, waited: false, reloaded: false })
    }

    /// Loads what is wanted: what this call gets leases for at once, then what others give up.
    async fn load<S: ManySource<T>>(&mut self, mut wanted: Vec<Want<T>>, source: &mut S) {
        let family = self.family;
        let path = &family.path;
        let terms = family.terms();
        while !wanted.is_empty() {
            if !path.breaker.allows() {
                return self.without_store(wanted, source).await;
            }
            let keys: Vec<Key> = wanted
                .iter()
                .map(|want| &self.keys[want.at])
                .flat_map(|key| [key.clone(), key.lease()])
                .collect();
            let watch = path.wakeups.watch(&keys);
            let readings: Vec<_> =
                wanted.iter().map(|want| family.begin(&self.keys[want.at])).collect();
            let asks = wanted.iter().map(|want| (self.keys[want.at].clone(), want.ask)).collect();
            let asked = match terms.ask(asks).await {
                Ok(asked) => asked,
                Err(error) => {
                    family.store_failed(&error);
                    return self.without_store(wanted, source).await;
                }
            };
            path.breaker.worked();
            let (mut granted, mut held, mut next) = (Vec::new(), Vec::new(), self.limit);
            let mut told = true;
            for ((mut want, asked), reading) in wanted.into_iter().zip(asked).zip(readings) {
                let key = &self.keys[want.at];
                let asked = match asked {
                    Ok(asked) => asked,
                    Err(error) => {
                        self.land_want(want, Err(error.with_key(key)));
                        continue;
                    }
                };
                let remaining = match (&asked.lease, &asked.leased.lease) {
                    (None, LeaseState::Held { remaining }) => Some(*remaining),
                    _ => None,
                };
                if let Some(remaining) = remaining {
                    if let Some(stale) = want.stale.clone() {
                        self.land_want(want, Ok(stale));
                        continue;
                    }
                    if !want.waited {
                        family.reads.count(Read::LeaseWait);
                        want.waited = true;
                    }
                    told &= asked.vouch.is_some_and(|vouch| vouch.holds());
                    next = next.min(Instant::now() + remaining + super::work::SLACK);
                    held.push(want);
                    continue;
                }
                if asked.lease.is_some() && !asked.vouch.is_some_and(|vouch| vouch.holds()) {
                    path.coherence.flights.untold(key, want.leader.id());
                }
                let judge = asked.lease.is_none() || want.ask == Ask::Always;
                let seen = if judge {
                    let vouch = asked.vouch.as_ref();
                    family.judge(key, asked.leased.found, asked.sent, reading, vouch, true)
                } else {
                    Ok(Seen::Missing)
                };
                match (seen, asked.lease) {
                    (Ok(Seen::Fresh(answer) | Seen::Due(answer)), _) => {
                        let from = if want.waited { ReadFrom::Waited } else { answer.from };
                        self.land_want(want, Ok(Answer { from, ..answer }));
                    }
                    (Ok(Seen::Missing | Seen::Unfit), Some(lease)) => {
                        if want.waited {
                            family.reads.count(Read::Takeover);
                        }
                        granted.push((want, lease));
                    }
                    (Ok(Seen::Missing | Seen::Unfit), None) => {
                        want.ask = Ask::Always;
                        next = Instant::now();
                        held.push(want);
                    }
                    (Err(error), _) => self.land_want(want, Err(error)),
                }
            }
            wanted = held;
            if !granted.is_empty() {
                wanted.extend(self.fill(granted, source).await);
                continue;
            }
            if wanted.is_empty() {
                return;
            }
            if !told {
                next = next.min(Instant::now() + super::work::LAST_POLL);
            }
            // Told, or at its own time: either way it is looked at again.
            _ = timeout_at(next, watch.changed()).await;
            if Instant::now() >= self.limit {
                for want in wanted {
                    let error = family.too_long(&self.keys[want.at]);
                    self.land_want(want, Err(error));
                }
                return;
            }
        }
    }

    /// One call of the loader for what leases were granted for, and one write. Answers what is to be loaded once
    /// more.
    async fn fill<S: ManySource<T>>(
        &mut self,
        granted: Vec<(Want<T>, Lease)>,
        source: &mut S,
    ) -> Vec<Want<T>> {
        let family = self.family;
        let (wanted, leases): (Vec<Want<T>>, Vec<Lease>) = granted.into_iter().unzip();
        let loaded = renewing(&leases, self.call(&wanted, source)).await;
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Given back before anybody hears of the failure and tries again.
                futures_util::future::join_all(leases.into_iter().map(Lease::release)).await;
                self.fail(wanted, &error);
                return Vec::new();
            }
        };
        let (mut fills, mut filled, mut released) = (Vec::new(), Vec::new(), Vec::new());
        for (want, lease) in wanted.into_iter().zip(leases) {
            let key = &self.keys[want.at];
            let Loaded { value, ttl } = loaded.remove(key).unwrap_or_else(Loaded::absent);
            let answer = match value {
                Err(failure) => {
                    released.push(lease);
                    let error = family.error(key, "the loader failed").with_shared_source(failure);
                    self.fail(vec![want], &error);
                    continue;
                }
                Ok(value) => value,
            };
            let encoded = family
                .kept_for(&answer, ttl, lease.replaces())
                .map(|kept| family.encode(key, answer.as_ref(), kept));
            let answer = Answer { value: answer.map(Arc::new), from: ReadFrom::Loaded };
            match encoded {
                None => {
                    released.push(lease);
                    self.land_want(want, Ok(answer));
                }
                Some(Err(error)) => {
                    released.push(lease);
                    self.fail(vec![want], &error);
                }
                Some(Ok((bytes, expiry))) => {
                    let fill = lease.fill(bytes, expiry);
                    fills.push((lease, fill));
                    filled.push((want, answer));
                }
            }
        }
        let sent = Lease::send(family.name, fills).await;
        let mut again = Vec::new();
        for ((mut want, answer), sent) in filled.into_iter().zip(sent) {
            let found = match sent {
                Ok((true, _)) => {
                    self.land_want(want, Ok(answer));
                    continue;
                }
                Ok((false, found)) => found,
                Err(error) => {
                    family.store_failed(&error);
                    self.land_want(want, Ok(answer));
                    continue;
                }
            };
            family.reads.count(Read::RefusedFill);
            let key = &self.keys[want.at];
            match family.judge(key, found, Instant::now(), None, None, true) {
                Ok(Seen::Fresh(newer) | Seen::Due(newer)) => self.land_want(want, Ok(newer)),
                Ok(Seen::Missing | Seen::Unfit) if !want.reloaded => {
                    want.reloaded = true;
                    again.push(want);
                }
                Ok(Seen::Missing | Seen::Unfit) => self.land_want(want, Ok(answer)),
                Err(error) => self.land_want(want, Err(error)),
            }
        }
        futures_util::future::join_all(released.into_iter().map(Lease::release)).await;
        again
    }

    async fn without_store<S: ManySource<T>>(&mut self, wanted: Vec<Want<T>>, source: &mut S) {
        for want in &wanted {
            let flights = &self.family.path.coherence.flights;
            flights.untold(&self.keys[want.at], want.leader.id());
        }
        match self.call(&wanted, source).await {
            Err(error) => self.fail(wanted, &error),
            Ok(mut loaded) => {
                for want in wanted {
                    let key = &self.keys[want.at];
                    match loaded.remove(key).unwrap_or_else(Loaded::absent).value {
                        Ok(value) => {
                            let value = value.map(Arc::new);
                            self.land_want(want, Ok(Answer { value, from: ReadFrom::Loaded }));
                        }
                        Err(failure) => {
                            let error = self
                                .family
                                .error(key, "the loader failed")
                                .with_shared_source(failure);
                            self.fail(vec![want], &error);
                        }
                    }
                }
            }
        }
    }

    async fn call<S: ManySource<T>>(
        &self,
        wanted: &[Want<T>],
        source: &mut S,
    ) -> Result<HashMap<Key, Loaded<T>>> {
        let places: Vec<usize> = wanted.iter().map(|want| want.at).collect();
        let keys = places.iter().map(|at| self.keys[*at].clone()).collect();
        let flights = wanted.iter().map(|want| want.leader.id()).collect();
        // Boxed, as in a load of one key.
        let loading = self.frames.run(keys, flights, Box::pin(source.load(places)));
        let loaded = self.family.guarded(&self.frames, loading).await?;
        let loaded = loaded.map_err(|failure| {
            Error::new(ErrorKind::Load, "the loader failed")
                .with_op(self.family.name)
                .with_shared_source(failure)
        })?;
        Ok(loaded.into_iter().collect())
    }

    /// A load failed: what is stale is served, the rest is an error.
    fn fail(&mut self, wanted: Vec<Want<T>>, error: &Error) {
        for want in wanted {
            self.family.reads.count(Read::LoadFailure);
            let done = match &want.stale {
                Some(stale) => Ok(stale.clone()),
                None => Err(error.clone().with_key(&self.keys[want.at])),
            };
            self.land_want(want, done);
        }
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
                // Its leader went away: this call boards again.
                Ok(None) => None,
                Err(_) => Some(Err(self.family.too_long(&self.keys[at]))),
            };
        }
    }

    fn land_want(&mut self, want: Want<T>, done: Result<Answer<T>>) {
        self.land(want.at, want.leader, done);
    }

    fn land(&mut self, at: usize, leader: Leader<Answer<T>>, done: Result<Answer<T>>) {
        leader.land(&done);
        self.answers[at] = Some(done);
    }
}

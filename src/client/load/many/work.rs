//! The work of a call for many keys: leases, one call of the loader, one write; and waiting for who has the other leases.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::{join, join_all};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::source::ManySource;
use super::{Many, Want, split};
use crate::client::load::loaded::Loaded;
use crate::client::load::recent::ReadFrom;
use crate::client::load::target::{Answer, Seen};
use crate::client::load::work::{LAST_POLL, SLACK, is_failure_of_store};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::{Asked, Lease, renewing};
use crate::near::Reading;
use crate::op::{Ask, Fetched, LeaseState};
use crate::stats::Read;

/// What came of asking for leases.
struct Round<T> {
    /// What is to be loaded now.
    granted: Vec<(Want<T>, Lease)>,
    /// What somebody else loads, and what is to be asked for once more.
    held: Vec<Want<T>>,
    /// When to look again.
    next: Instant,
    /// Whether it is told when that changes.
    told: bool,
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Many<'_, T> {
    /// Loads what is wanted: what this call gets leases for at once, then what others give up. What can be served stale
    /// is given up as soon as it is late and nothing else has to be waited for.
    pub(super) async fn load<S: ManySource<T>>(
        &mut self,
        mut wanted: Vec<Want<T>>,
        source: &mut S,
        late: Option<Instant>,
    ) {
        let family = self.family;
        let path = &family.path;
        let flights = &path.coherence.flights;
        let terms = family.terms();
        while !wanted.is_empty() {
            let is_late = late.is_some_and(|late| Instant::now() >= late);
            if is_late && wanted.iter().all(Want::can_be_served) {
                return;
            }
            // What is loaded without a lease, since its server is not to be asked or did not answer.
            let mut unasked = Vec::new();
            let keys = wanted.iter().map(|want| &self.keys[want.at]);
            if let Some(allowed) = path.breaker.allow_loads(keys) {
                (wanted, unasked) = split(wanted, allowed);
            }
            if wanted.is_empty() {
                return self.without_store(unasked, source).await;
            }
            let keys: Vec<Key> = wanted
                .iter()
                .map(|want| &self.keys[want.at])
                .flat_map(|key| [key.clone(), key.lease()])
                .collect();
            for want in wanted.iter().filter(|want| !want.told) {
                flights.untold(&self.keys[want.at], want.leader.id());
            }
            let watch = path.wakeups.watch(&keys);
            let readings: Vec<_> =
                wanted.iter().map(|want| family.begin(&self.keys[want.at])).collect();
            let asks = wanted.iter().map(|want| (self.keys[want.at].clone(), want.ask)).collect();
            let asked = match terms.ask(asks).await {
                Ok(asked) => asked,
                Err(error) => {
                    family.store_failed(&error, wanted.iter().map(|want| &self.keys[want.at]));
                    wanted.extend(unasked);
                    return self.without_store(wanted, source).await;
                }
            };
            path.breaker.answered_load(wanted.iter().map(|want| &self.keys[want.at]));
            let mut round =
                Round { granted: Vec::new(), held: Vec::new(), next: self.limit, told: true };
            for ((want, asked), reading) in wanted.into_iter().zip(asked).zip(readings) {
                match asked {
                    Ok(asked) => self.sort(want, asked, reading, &mut round),
                    Err(error) if is_failure_of_store(&error) => {
                        family.store_failed(&error, [&self.keys[want.at]]);
                        unasked.push(want);
                    }
                    Err(error) => {
                        let error = error.with_key(&self.keys[want.at]);
                        self.land_want(want, Err(error));
                    }
                }
            }
            let Round { granted, held, mut next, told } = round;
            wanted = held;
            let looks_again = !granted.is_empty() || !unasked.is_empty();
            if !granted.is_empty() {
                wanted.extend(self.fill(granted, source).await);
            }
            if !unasked.is_empty() {
                self.without_store(unasked, source).await;
            }
            if looks_again {
                continue;
            }
            if wanted.is_empty() {
                return;
            }
            if !told {
                next = next.min(Instant::now() + LAST_POLL);
            }
            // Told, or at its own time: either way it is looked at again.
            _ = timeout_at(next, watch.changed()).await;
            if Instant::now() >= self.limit {
                for want in wanted {
                    let error = family.too_long(&self.keys[want.at]);
                    self.settle(want, Err(error));
                }
                return;
            }
        }
    }

    /// What one key's lease comes to.
    fn sort(
        &mut self,
        mut want: Want<T>,
        asked: Asked,
        reading: Option<Reading>,
        round: &mut Round<T>,
    ) {
        let family = self.family;
        let key = &self.keys[want.at];
        let flights = &family.path.coherence.flights;
        want.told = asked.vouch.is_some_and(|vouch| vouch.holds());
        if want.told {
            flights.told(key, want.leader.id());
        }
        if let (None, LeaseState::Held { remaining }) = (&asked.lease, &asked.leased.lease) {
            if let Some(stale) = want.stale.clone() {
                return self.settle(want, Ok(stale));
            }
            if !want.waited {
                family.reads.count(Read::LeaseWait);
                want.waited = true;
            }
            flights.waits(key, want.leader.id());
            round.told &= want.told;
            round.next = round.next.min(Instant::now() + *remaining + SLACK);
            round.held.push(want);
            return;
        }
        let seen = if asked.lease.is_none() || want.ask == Ask::Always {
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
                if want.waited && !std::mem::replace(&mut want.took_over, true) {
                    family.reads.count(Read::Takeover);
                }
                if !want.told {
                    flights.untold(key, want.leader.id());
                }
                round.granted.push((want, lease));
            }
            (Ok(Seen::Missing | Seen::Unfit), None) => {
                want.ask = Ask::Always;
                round.next = Instant::now();
                round.held.push(want);
            }
            (Err(error), _) => self.land_want(want, Err(error)),
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
        let began = Instant::now();
        let loaded = renewing(&leases, self.call(&wanted, source)).await;
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Given back before anybody hears of the failure and tries again.
                join_all(leases.into_iter().map(Lease::release)).await;
                self.fail(wanted, &error);
                return Vec::new();
            }
        };
        let (mut fills, mut filled, mut released) = (Vec::new(), Vec::new(), Vec::new());
        let (mut nothing, mut unfilled) = (Vec::new(), Vec::new());
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
                    nothing.push(lease);
                    unfilled.push((want, answer));
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
        let released = join_all(released.into_iter().map(Lease::release));
        let landed = async {
            // There is no fill of nothing that would be refused: giving the lease back says as much.
            let asked = Instant::now();
            let nothing = join_all(nothing.into_iter().map(Lease::release));
            let (sent, held) = join(Lease::send(family.name, fills), nothing).await;
            let mut again = Vec::new();
            for ((want, answer), held) in unfilled.into_iter().zip(held) {
                match held {
                    // Of changes since then nobody would tell.
                    Ok(true) => self.land_before(want, answer, asked),
                    Ok(false) => {
                        family.reads.count(Read::RefusedFill);
                        again.extend(self.refused(want, answer, began));
                    }
                    Err(error) => {
                        family.store_failed(&error, [&self.keys[want.at]]);
                        self.land_before(want, answer, began);
                    }
                }
            }
            for ((want, answer), sent) in filled.into_iter().zip(sent) {
                again.extend(self.filled(want, answer, began, sent));
            }
            again
        };
        // Nobody who waits for what was loaded waits for the leases of what was not.
        join(landed, released).await.0
    }

    /// What a fill comes to. Answers what is to be loaded once more.
    fn filled(
        &mut self,
        want: Want<T>,
        answer: Answer<T>,
        began: Instant,
        sent: Result<(bool, Fetched)>,
    ) -> Option<Want<T>> {
        let (family, key) = (self.family, &self.keys[want.at]);
        match sent {
            Ok((true, _)) => self.land_want(want, Ok(answer)),
            Ok((false, found)) => {
                family.reads.count(Read::RefusedFill);
                match family.judge(key, found, Instant::now(), None, None, true) {
                    Ok(Seen::Fresh(newer) | Seen::Due(newer)) => self.land_want(want, Ok(newer)),
                    Ok(Seen::Missing | Seen::Unfit) => return self.refused(want, answer, began),
                    Err(error) => self.land_want(want, Err(error)),
                }
            }
            Err(error) => {
                family.store_failed(&error, [key]);
                self.land_before(want, answer, began);
            }
        }
        None
    }

    /// A key was changed while it was loaded, and nothing stands there: it is loaded once more, for who came meanwhile.
    fn refused(&mut self, mut want: Want<T>, answer: Answer<T>, began: Instant) -> Option<Want<T>> {
        if want.refused.is_none() {
            want.refused = Some((answer, began));
            return Some(want);
        }
        self.land_before(want, answer, began);
        None
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

    /// No load comes any more: what an earlier one brought is the answer, or this.
    fn settle(&mut self, mut want: Want<T>, otherwise: Result<Answer<T>>) {
        match want.refused.take() {
            Some((answer, began)) => self.land_before(want, answer, began),
            None => self.land_want(want, otherwise),
        }
    }

    /// A load failed: what is stale is served, the rest is an error.
    fn fail(&mut self, wanted: Vec<Want<T>>, error: &Error) {
        for want in wanted {
            self.family.reads.count(Read::LoadFailure);
            let done = match &want.stale {
                Some(stale) => Ok(stale.clone()),
                None => Err(error.clone().with_key(&self.keys[want.at])),
            };
            self.settle(want, done);
        }
    }
}

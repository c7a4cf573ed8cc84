//! The work of a flight: get the lease, load, fill; or wait for who does.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::frames::Frames;
use super::loaded::{Failure, Loaded};
use super::recent::ReadFrom;
use super::source::Source;
use super::target::{Answer, Family, Kept, Seen};
use crate::error::{Error, ErrorKind, Result};
use crate::flight::Leader;
use crate::key::Key;
use crate::lease::{Asked, Lease, renewing};
use crate::op::{Ask, Fetched, LeaseState};
use crate::stats::Read;

/// How often a lease is looked at that nobody tells of: from the first pause, doubling, to the last.
const FIRST_POLL: Duration = Duration::from_millis(10);
pub(super) const LAST_POLL: Duration = Duration::from_millis(200);

/// How much later than its term a lease is looked at: the store's clock counts in whole milliseconds.
pub(super) const SLACK: Duration = Duration::from_millis(2);

/// A value to be loaded.
pub(super) struct Work<T> {
    pub(super) family: Family,
    pub(super) key: Key,
    pub(super) frames: Frames,
    /// Of the flight whose work it is.
    pub(super) leader: Leader<Answer<T>>,
    /// Of what is found, when to load over it.
    pub(super) ask: Ask,
    /// What is served if the load fails, or is somebody else's.
    pub(super) stale: Option<Answer<T>>,
}

/// What became of a load.
enum Filled<T> {
    /// The loader failed.
    Failed(Error),
    /// This is the answer.
    Answer(Answer<T>),
    /// So is this, for who came before: of changes since then nobody would tell.
    Before(Answer<T>, Instant),
    /// The key was changed while it was loaded, and nothing stands there; this is what was loaded, and when that began.
    Refused(Answer<T>, Instant),
}

/// An answer, and if it may be older than a change of the key, before when who gets it has to have come.
type Brought<T> = (Answer<T>, Option<Instant>);

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Work<T> {
    /// Does the work, and lands the flight with what comes of it.
    pub(super) async fn run<S: Source<T>>(self, source: &mut S) -> Result<Answer<T>> {
        let (done, before) = match self.bring(source).await {
            Ok((answer, before)) => (Ok(answer), before),
            Err(error) => (Err(error), None),
        };
        self.leader.land_before(&done, before);
        done
    }

    async fn bring<S: Source<T>>(&self, source: &mut S) -> Result<Brought<T>> {
        let Self { family, key, .. } = self;
        let path = &family.path;
        if !path.breaker.allows_load(key) {
            return self.without_store(source, None).await;
        }
        let limit = Instant::now() + family.options.hard_timeout;
        let (mut ask, mut waited, mut poll) = (self.ask, false, FIRST_POLL);
        // What a load brought whose key was changed meanwhile.
        let (mut refused, mut took_over) = (None, false);
        let (flights, flight) = (&path.coherence.flights, self.leader.id());
        let mut told = false;
        let terms = family.terms();
        let lease_key = key.lease();
        loop {
            if !told {
                flights.untold(key, flight);
            }
            // Before the question: a change after its answer is not missed.
            let watch = path.wakeups.watch([key, &lease_key]);
            let reading = family.begin(key);
            let asked = terms.ask(vec![(key.clone(), ask)]).await;
            let asked = match asked.and_then(|mut all| all.remove(0)) {
                Ok(asked) => asked,
                Err(error) if is_failure_of_store(&error) => {
                    family.store_failed(&error, [key]);
                    return self.without_store(source, refused).await;
                }
                Err(error) => return Err(error),
            };
            path.breaker.answered_load([key]);
            let Asked { leased, lease, vouch, sent } = asked;
            told = vouch.is_some_and(|vouch| vouch.holds());
            if told {
                flights.told(key, flight);
            }
            let takes_nothing = source.takes_nothing();
            let judge = |found: Fetched| {
                family.judge(key, found, sent, reading, vouch.as_ref(), takes_nothing)
            };
            if let Some(lease) = lease {
                if ask == Ask::Always
                    && let Seen::Fresh(answer) | Seen::Due(answer) = judge(leased.found)?
                {
                    // Somebody else was faster.
                    _ = lease.release().await;
                    return Ok((answer, None));
                }
                if waited && !std::mem::replace(&mut took_over, true) {
                    family.reads.count(Read::Takeover);
                }
                drop(watch);
                if !told {
                    flights.untold(key, flight);
                }
                match (self.load(source, lease).await?, refused.take()) {
                    (Filled::Answer(answer), _) => return Ok((answer, None)),
                    (Filled::Before(answer, then), _) => return Ok((answer, Some(then))),
                    (Filled::Failed(error), refused) => return self.failed(error, refused),
                    // It is loaded once more, for who came while it was loaded.
                    (Filled::Refused(answer, began), None) => refused = Some((answer, began)),
                    (Filled::Refused(answer, began), Some(_)) => return Ok((answer, Some(began))),
                }
                continue;
            }
            let LeaseState::Held { remaining } = leased.lease else {
                match judge(leased.found)? {
                    Seen::Fresh(answer) | Seen::Due(answer) if waited => {
                        return Ok((Answer { from: ReadFrom::Waited, ..answer }, None));
                    }
                    Seen::Fresh(answer) | Seen::Due(answer) => return Ok((answer, None)),
                    Seen::Missing | Seen::Unfit => ask = Ask::Always,
                }
                continue;
            };
            if let Some(stale) = &self.stale {
                return Ok(
                    refused.map_or((stale.clone(), None), |(answer, began)| (answer, Some(began)))
                );
            }
            if !waited {
                family.reads.count(Read::LeaseWait);
                waited = true;
            }
            flights.waits(key, flight);
            let pause = if told { remaining + SLACK } else { poll.min(remaining + SLACK) };
            poll = (poll * 2).min(LAST_POLL);
            let until = (Instant::now() + pause).min(limit);
            // Told, or at its own time: either way it is looked at again.
            _ = tokio::time::timeout_at(until, watch.changed()).await;
            if Instant::now() >= limit {
                if let Some((answer, began)) = refused {
                    return Ok((answer, Some(began)));
                }
                return Err(self.error(format!(
                    "somebody else has been loading it for longer than the hard timeout of {:?}",
                    family.options.hard_timeout
                )));
            }
        }
    }

    /// Loads, under a lease, and stores what comes of it.
    async fn load<S: Source<T>>(&self, source: &mut S, lease: Lease) -> Result<Filled<T>> {
        let began = Instant::now();
        let loading = self.call(source);
        let loaded = renewing(std::slice::from_ref(&lease), loading).await;
        let (value, ttl) = match loaded {
            Ok(Loaded { value: Ok(value), ttl }) => (value, ttl),
            Ok(Loaded { value: Err(failure), .. }) => {
                _ = lease.release().await;
                return Ok(Filled::Failed(self.failure(failure)));
            }
            Err(error) => {
                _ = lease.release().await;
                return Ok(Filled::Failed(error));
            }
        };
        let Some(kept) = self.family.kept_for(&value, ttl, lease.replaces()) else {
            let answer = Answer { value: None, from: ReadFrom::Loaded };
            // There is no fill that would be refused.
            let asked = Instant::now();
            return Ok(match lease.release().await {
                Ok(true) => Filled::Before(answer, asked),
                Ok(false) => {
                    self.family.reads.count(Read::RefusedFill);
                    Filled::Refused(answer, began)
                }
                Err(error) => {
                    self.family.store_failed(&error, [&self.key]);
                    Filled::Before(answer, began)
                }
            });
        };
        let (bytes, expiry) = match self.family.encode(&self.key, value.as_ref(), kept) {
            Ok(encoded) => encoded,
            Err(error) => {
                _ = lease.release().await;
                return Ok(Filled::Failed(error));
            }
        };
        let answer = Answer { value: value.map(std::sync::Arc::new), from: ReadFrom::Loaded };
        let fill = lease.fill(bytes, expiry);
        let sent = Lease::send(self.family.name, vec![(lease, fill)]).await.remove(0);
        self.filled(sent, answer, began, source.takes_nothing())
    }

    /// What a fill comes to.
    fn filled(
        &self,
        sent: Result<(bool, Fetched)>,
        answer: Answer<T>,
        began: Instant,
        takes_nothing: bool,
    ) -> Result<Filled<T>> {
        let family = &self.family;
        match sent {
            Ok((true, _)) => Ok(Filled::Answer(answer)),
            Ok((false, found)) => {
                family.reads.count(Read::RefusedFill);
                let seen =
                    family.judge(&self.key, found, Instant::now(), None, None, takes_nothing)?;
                Ok(match seen {
                    Seen::Fresh(newer) | Seen::Due(newer) => Filled::Answer(newer),
                    Seen::Missing | Seen::Unfit => Filled::Refused(answer, began),
                })
            }
            // What was loaded is right for who waited for it, if not stored.
            Err(error) => {
                family.store_failed(&error, [&self.key]);
                Ok(Filled::Before(answer, began))
            }
        }
    }

    /// The store cannot be asked: the origin answers, and nothing is stored.
    async fn without_store<S: Source<T>>(
        &self,
        source: &mut S,
        refused: Option<(Answer<T>, Instant)>,
    ) -> Result<Brought<T>> {
        self.family.path.coherence.flights.untold(&self.key, self.leader.id());
        match self.call(source).await {
            Ok(Loaded { value: Ok(value), .. }) => {
                let value = value.map(std::sync::Arc::new);
                Ok((Answer { value, from: ReadFrom::Loaded }, None))
            }
            Ok(Loaded { value: Err(failure), .. }) => self.failed(self.failure(failure), refused),
            Err(error) => self.failed(error, refused),
        }
    }

    /// Calls the loader: under the cap, within the hard timeout, with a panic as an error.
    async fn call<S: Source<T>>(&self, source: &mut S) -> Result<Loaded<T>> {
        // Boxed: what it is moved through on its way to be polled each keeps room for it, and a load within a load
        // would take a hundred times the room of its loader on the stack.
        let loading = Box::pin(source.load());
        let work = self.frames.run(vec![self.key.clone()], vec![self.leader.id()], loading);
        self.family.guarded(&self.frames, work).await.map_err(|error| error.with_key(&self.key))
    }

    /// A load failed: what an earlier one brought, or the stale value, if there is one.
    fn failed(&self, error: Error, refused: Option<(Answer<T>, Instant)>) -> Result<Brought<T>> {
        self.family.reads.count(Read::LoadFailure);
        if let Some((answer, began)) = refused {
            return Ok((answer, Some(began)));
        }
        match &self.stale {
            Some(stale) => {
                tracing::debug!(target: "larder", %error, "the stale value is served");
                Ok((stale.clone(), None))
            }
            None => Err(error),
        }
    }

    fn failure(&self, failure: Failure) -> Error {
        self.error("the loader failed").with_shared_source(failure)
    }

    fn error(&self, detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Load, detail).with_op(self.family.name).with_key(&self.key)
    }
}

impl Family {
    /// Runs a loader under the cap and within the hard timeout; a panic is an error.
    pub(super) async fn guarded<F: Future>(&self, frames: &Frames, loader: F) -> Result<F::Output> {
        let hard = self.options.hard_timeout;
        let error = |detail: String| Error::new(ErrorKind::Load, detail).with_op(self.name);
        let limit = Instant::now() + hard;
        // A load within a load has its place already: waiting for another one could wait for itself.
        let _place = if frames.is_empty() {
            let place = tokio::time::timeout_at(limit, self.path.loads.acquire()).await;
            Some(place.map_err(|_| {
                error(format!(
                    "no load could begin within the hard timeout of {hard:?}; raise max_loads"
                ))
            })?)
        } else {
            None
        };
        self.reads.count(Read::Load);
        let started = Instant::now();
        // A block of its own: a loader that is given up is dropped in it, and may panic then.
        let loaded = async move { tokio::time::timeout_at(limit, loader).await };
        match AssertUnwindSafe(loaded).catch_unwind().await {
            Ok(Ok(loaded)) => {
                self.reads.load_time(started.elapsed());
                Ok(loaded)
            }
            Err(_) => Err(error("the loader panicked".to_owned())),
            Ok(Err(_)) => {
                Err(error(format!("the loader took longer than the hard timeout of {hard:?}")))
            }
        }
    }

    /// How long what was loaded is stored. Nothing if it is not.
    pub(super) fn kept_for<T>(
        &self,
        value: &Option<T>,
        own: Option<Duration>,
        replaces: bool,
    ) -> Option<Kept> {
        match (value, own) {
            (_, Some(own)) => Some(Kept::For(own)),
            (Some(_), None) => Some(self.options.ttl.map_or(Kept::ForEver, Kept::For)),
            (None, None) => match self.options.negative_ttl {
                Some(ttl) => Some(Kept::For(ttl)),
                // What stands there is not true any more: for a moment nothing takes its place.
                None => replaces.then_some(Kept::ForAMoment),
            },
        }
    }

    /// Counts a failure of the store, and lets it rest if it is gone.
    pub(super) fn store_failed<'a>(&self, error: &Error, keys: impl IntoIterator<Item = &'a Key>) {
        self.reads.count(Read::StoreFailure);
        let is_away = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        // A slot that moves is no reason to leave its node alone.
        if is_away && !matches!(error.code(), Some("TRYAGAIN" | "ASK" | "MOVED")) {
            self.path.breaker.failed_load(keys);
        }
        tracing::debug!(target: "larder", %error, "the store failed, the loader answers");
    }
}

/// Whether the loader shall answer in the store's place: not if the call itself is wrong.
pub(super) fn is_failure_of_store(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::InvalidInput
            | ErrorKind::Config
            | ErrorKind::NotInitialized
            | ErrorKind::Closed
            | ErrorKind::WrongType
            | ErrorKind::Decode
            | ErrorKind::Encode
            | ErrorKind::Load
    )
}

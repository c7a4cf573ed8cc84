//! Getting a lock: in line within the process, then at the store, woken by what the store tells.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::LockId;
use super::clock::Moment;
use super::guard::{Lease, LockGuard};
use super::hold::{Attempt, Hold, Single, TRIES, no_reply};
use super::line::{Lines, Place};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::op::{LockMode, Locked, Op};
use crate::stats::{LockEvent, LockRecorder};
use crate::store::{Store, Wakeups, runtime};
use crate::ttl::Expiry;

/// How often a lock is looked at although its changes are told: a push can be lost.
pub(super) const SAFETY: Duration = Duration::from_secs(1);

/// How often a lock is looked at that nobody tells of: from the first pause, doubling, to the last.
pub(super) const FIRST_POLL: Duration = Duration::from_millis(5);
pub(super) const LAST_POLL: Duration = Duration::from_millis(100);

/// For how long one who waits counts from its last try: some tries, so that a slow one does not lose its turn.
const WAITS: Duration = Duration::from_secs(3);

/// How much later than its term a lock is looked at: the store's clock counts in whole milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// What the locks of a client share.
pub(crate) struct Locks {
    pub(super) store: Arc<dyn Store>,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) recorder: Arc<LockRecorder>,
    pub(super) lines: Arc<Lines>,
}

impl Locks {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        wakeups: Arc<Wakeups>,
        recorder: Arc<LockRecorder>,
    ) -> Self {
        Self { store, wakeups, recorder, lines: Arc::default() }
    }
}

/// A lock that is wanted, with everything checked.
pub(super) struct Wanted {
    pub(super) locks: Arc<Locks>,
    pub(super) key: Key,
    pub(super) mode: LockMode,
    pub(super) expiry: Expiry,
    pub(super) lease: Lease,
    /// How many replicas have to have it, and how long that may take.
    pub(super) replicas: Option<(u32, Expiry)>,
}

/// What one try came to.
enum Tried {
    Taken {
        token: Option<u64>,
        sent: Moment,
    },
    /// Held, or it cannot be had at the moment: how long until it is worth another try, if nothing is told.
    Wait {
        remaining: Duration,
        told: bool,
        why: Option<Error>,
        /// Whether nothing is left of it at the store.
        clean: bool,
    },
}

impl Wanted {
    /// Gets it if it is free.
    pub(super) async fn try_once(self) -> Result<Option<LockGuard>> {
        // The embedded store answers without one, and its guard could not renew itself.
        runtime::check("a lock with a guard").map_err(|error| self.name(error))?;
        let shared = self.mode.is_shared();
        let Some(place) = self.locks.lines.line(&self.key, shared).try_first() else {
            return Ok(None);
        };
        let hold = self.hold();
        let attempt = Attempt::new(Arc::clone(&hold));
        match self.ask(&hold, None).await {
            Ok(Tried::Taken { token, sent }) => {
                attempt.close();
                Ok(Some(self.guard(hold, token, sent, place)))
            }
            Ok(Tried::Wait { why, clean, .. }) => {
                if clean {
                    attempt.close();
                }
                why.map_or(Ok(None), Err)
            }
            Err(error) => {
                if error.outcome() == Outcome::NotSent || error.outcome() == Outcome::Rejected {
                    attempt.close();
                }
                Err(error)
            }
        }
    }

    /// Gets it, waiting for at most `wait`.
    pub(super) async fn within(self, wait: Duration) -> Result<LockGuard> {
        runtime::check("waiting for a lock").map_err(|error| self.name(error))?;
        let started = Instant::now();
        let end = started.checked_add(wait);
        let shared = self.mode.is_shared();
        let line = self.locks.lines.line(&self.key, shared);
        let place = match end {
            None => line.first().await,
            Some(end) => match tokio::time::timeout_at(end, line.first()).await {
                Ok(place) => place,
                Err(_) => return Err(self.too_late(wait, None, false)),
            },
        };
        let hold = self.hold();
        // Made before anything is sent: a caller that goes away gives back what it may have got.
        let attempt = Attempt::new(Arc::clone(&hold));
        let record = self.key.lock_record();
        // The record tells who shares and whose turn it is. Who does neither would be woken twice by each new holder:
        // servers before 7.2 track all keys of a script that reads one.
        let keys = [&self.key, &record];
        let alone = matches!(self.mode, LockMode::Exclusive { fair: false, .. });
        let watch = self.locks.wakeups.watch(keys.into_iter().take(if alone { 1 } else { 2 }));
        let (mut contended, mut unsure, mut poll) = (false, false, FIRST_POLL);
        // Before the first try that may have taken it unheard.
        let mut unheard: Option<Moment> = None;
        loop {
            let tried = Moment::now();
            let (remaining, told, why) = match self.ask_again(&hold, unheard).await {
                Ok(Tried::Taken { token, sent }) => {
                    attempt.close();
                    drop(watch);
                    self.locks.recorder.waited(started.elapsed());
                    return Ok(self.guard(hold, token, sent, place));
                }
                Ok(Tried::Wait { remaining, told, why, .. }) => {
                    match why {
                        // Given back, if that was heard.
                        Some(_) => _ = unheard.get_or_insert(tried),
                        // Somebody else has it: what was taken unheard was not before now.
                        None => unheard = unheard.map(|_| tried),
                    }
                    (remaining, told, why)
                }
                Err(error) if passes(&error) => {
                    if error.outcome() == Outcome::Unknown {
                        unsure = true;
                        unheard.get_or_insert(tried);
                    }
                    (LAST_POLL, false, Some(error))
                }
                Err(error) => {
                    // One who waited may have left a place in the queue.
                    if !unsure && !contended && error.outcome() != Outcome::Unknown {
                        attempt.close();
                    }
                    return Err(error);
                }
            };
            if !contended {
                self.locks.recorder.count(LockEvent::Contended);
                contended = true;
            }
            let pause = if told { SAFETY } else { poll.mul_f64(1.0 - fastrand::f64() / 4.0) };
            poll = (poll * 2).min(LAST_POLL);
            let mut until = Instant::now() + pause.min(remaining.saturating_add(SLACK));
            if let Some(end) = end {
                until = until.min(end);
            }
            // Told, or at its own time: either way it is asked again.
            _ = tokio::time::timeout_at(until, watch.changed()).await;
            if end.is_some_and(|end| Instant::now() >= end) {
                // The attempt is dropped: it leaves the queue, and gives back what an answer that never came took.
                return Err(self.too_late(wait, why, unsure));
            }
        }
    }

    /// Asks the store once more. `unheard` is from before the first try that may have taken the lock: its lease counts
    /// from there, since asking again does not prolong it.
    async fn ask_again(&self, hold: &Single, unheard: Option<Moment>) -> Result<Tried> {
        let tried = self.ask(hold, Some(WAITS)).await?;
        let (token, sent) = match (tried, unheard) {
            (Tried::Taken { token, .. }, Some(sent)) => (token, sent),
            (tried, _) => return Ok(tried),
        };
        if sent.elapsed() < self.lease.renew_every {
            return Ok(Tried::Taken { token, sent });
        }
        let sent = Moment::now();
        if hold.extend(self.lease.renew_every).await? {
            return Ok(Tried::Taken { token, sent });
        }
        Ok(Tried::Wait { remaining: Duration::ZERO, told: false, why: None, clean: true })
    }

    fn hold(&self) -> Arc<Single> {
        Arc::new(Single {
            store: Arc::clone(&self.locks.store),
            key: self.key.clone(),
            id: LockId::new(),
            expiry: self.expiry,
            shared: self.mode.is_shared(),
            replicas: self.replicas,
        })
    }

    /// Asks the store once, where changes are told.
    async fn ask(&self, hold: &Single, waits: Option<Duration>) -> Result<Tried> {
        let mut mode = self.mode.clone();
        if let LockMode::Exclusive { waits: counts, .. } = &mut mode {
            *counts = waits.map(Expiry::new).transpose()?;
        }
        let (key, id) = (self.key.clone(), hold.id.to_bytes());
        let lock = Op::Lock { key, id, expiry: self.expiry, mode };
        let batch = hold.replicated("lock", lock).on(TRIES);
        let sent = Moment::now();
        let replies = self.locks.store.run(batch).await?;
        let told = replies.vouch().is_some_and(|vouch| vouch.holds());
        let mut results = replies.into_results().into_iter();
        let locked = results.next().unwrap_or_else(|| Err(no_reply()))?.into_locked()?;
        let token = match locked {
            Locked::Taken { token } => token,
            Locked::Held { remaining } => {
                return Ok(Tried::Wait { remaining, told, why: None, clean: true });
            }
        };
        let took = sent.elapsed();
        let why = match hold.reached(results.next()) {
            Err(error) => error,
            // Renewals would come too late as well.
            Ok(()) if took >= self.lease.renew_every => self.too_slow(took),
            Ok(()) => return Ok(Tried::Taken { token, sent }),
        };
        // Given back, and asked for again if waiting may help.
        let clean = hold.undo().await.is_ok();
        let why = self.name(why);
        if why.kind() != ErrorKind::Config && !passes(&why) {
            return Err(why);
        }
        Ok(Tried::Wait { remaining: LAST_POLL, told: false, why: Some(why), clean })
    }

    fn too_slow(&self, took: Duration) -> Error {
        let Lease { term, renew_every } = self.lease;
        Error::new(
            ErrorKind::Config,
            format!(
                "a try took {took:?}, longer than the {renew_every:?} after which the lease of {term:?} is renewed; \
                 lengthen them"
            ),
        )
        .with_outcome(Outcome::Unknown)
    }

    fn guard(self, hold: Arc<Single>, token: Option<u64>, sent: Moment, place: Place) -> LockGuard {
        self.locks.recorder.count(LockEvent::Acquired);
        // Who shares makes room for the next contender; who does not keeps the others of this process away.
        let place = (!self.mode.is_shared()).then_some(place);
        LockGuard::new(hold, self.lease, token, sent, place, Arc::clone(&self.locks.recorder))
    }

    fn too_late(&self, wait: Duration, why: Option<Error>, unsure: bool) -> Error {
        self.locks.recorder.count(LockEvent::TimedOut);
        let error = match why {
            // What kept it from being had says more than that it was not.
            Some(error) => error,
            None => {
                Error::new(ErrorKind::LockTimeout, format!("the lock was not free within {wait:?}"))
            }
        };
        let outcome = if unsure { Outcome::Unknown } else { error.outcome() };
        self.name(error).with_outcome(outcome)
    }

    fn name(&self, error: Error) -> Error {
        error.with_op("lock").with_key(&self.key)
    }
}

/// Whether waiting may mend it.
pub(super) fn passes(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Overloaded)
}

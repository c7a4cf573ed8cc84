//! A lock over several independent servers, held while a majority of them has it.
//!
//! The algorithm is Redlock, as "Distributed Locks with Redis" (redis.io) describes it: one random identifier at all servers,
//! which are asked at the same time, each with a limit that is short beside the lease; it is held if a majority gave it, for
//! the lease less the time that passed since before the first was asked, less the drift of the clocks; else it is given back
//! everywhere, and tried again after a random pause. Renewals need a majority as well. Beyond the description, a renewal
//! that a majority confirmed gives the lock to the servers that have lost it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::members::{Members, majority};
use super::builder::LockBuilder;
use super::clock::Moment;
use super::contend::{FIRST_POLL, LAST_POLL, Locks};
use super::guard::{Lease, LockGuard};
use super::hold::Attempt;
use super::line::{Line, Place};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::stats::LockEvent;
use crate::store::runtime;
use crate::ttl::Expiry;

mod members;

/// Of two servers, a majority is both: the lock would be lost with either.
const FEWEST: usize = 3;

/// A shorter lease leaves the servers no time to answer.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// How long a server has to answer: a tenth of the lease, so that one that is gone does not use the lease up, and no
/// longer than a server takes that is there.
const MOST_LIMIT: Duration = Duration::from_millis(500);

/// How much faster a server's clock may run than this machine's: the description's bound, a hundredth of the lease, and
/// the two milliseconds by which an expiry is coarse.
fn drift(lease: Duration) -> Duration {
    lease / 100 + Duration::from_millis(2)
}

/// A lock over several servers that do not know each other, by its name: it is held while a majority of them has it, so it
/// outlives the loss of the others. Made by [`QuorumLock::new`] of a client for each server; has the settings of a
/// [`LockBuilder`] that make sense here, and gives the same guard. Setters never fail; acquiring names every mistake at
/// once. It can be kept and used again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use std::time::Duration;
/// use larder::{CacheClient, QuorumLock};
/// // Each would be a server of its own: CacheClient::connect("redis://...").
/// let servers = [CacheClient::memory(), CacheClient::memory(), CacheClient::memory()];
/// let report = QuorumLock::new(&servers, "report").lease(Duration::from_secs(30));
/// let guard = report.acquire().await?;
/// assert!(report.try_acquire().await?.is_none(), "somebody has it");
/// assert!(guard.release().await?);
/// # Ok(()) }
/// ```
///
/// # What it adds
/// A lock on one server is gone with it, and a failover to a replica can give it twice. This one needs no replicas: with
/// five servers any two may be down, slow or cut off, and nobody notices but by the log. It takes one round trip to
/// all servers at once, counted by the fastest majority. Take an odd number: four servers tolerate the loss of one, as
/// three do.
///
/// # What it does not add
/// - **Clocks.** It is held twice if the clocks of servers run faster than this machine's by more than a hundredth, or are
///   set forward.
/// - **Pauses.** A holder who stands still past its lease, or whose write is on its way for so long, writes beside the
///   next holder. Against that there are fencing tokens, and this lock has none: no server counts for all of them.
///   [`LockGuard::fencing_token`] is `None`. What must not be written twice needs a lock on one server with
///   [`fenced_set`](crate::CacheClient::fenced_set) or a token in the database, or a system made for consensus.
/// - **Servers that forget.** A server that starts again without its data gives away what it had given. Let each write to
///   disk before it answers (`appendfsync always`), or keep it away for longer than the longest lease when it starts
///   again (a delayed restart).
/// - **Order.** Who waits asks again at random times, for 100 ms at most, and nobody is told when the lock is given back;
///   within a process waiters queue.
///
/// Plain locks and [`LockBuilder`] under the same name exclude it at their one server only: do not mix them. It counts in the
/// statistics of the first client.
#[derive(Clone)]
#[must_use = "nothing is locked before one of the acquiring methods is awaited"]
pub struct QuorumLock {
    servers: Result<Vec<Arc<Locks>>>,
    // Those that are certainly one server, by their places.
    same: Option<(usize, usize)>,
    // The settings, and how they are checked.
    settings: LockBuilder,
}

/// A lock over several servers that is wanted, with everything checked.
struct Wanted {
    servers: Vec<Arc<Locks>>,
    key: Key,
    // What others in this process queue by.
    line: Key,
    expiry: Expiry,
    lease: Lease,
    label: Option<Bytes>,
    limit: Duration,
}

/// What one try came to.
enum Tried {
    Taken(LockGuard),
    /// Others hold it, or too few servers answered. The place in the queue comes back.
    Not(Place, Option<Error>),
}

impl QuorumLock {
    pub(crate) fn over(
        servers: Result<Vec<Arc<Locks>>>,
        same: Option<(usize, usize)>,
        name: &str,
    ) -> Self {
        let first = match &servers {
            Ok(servers) => servers.first().cloned().ok_or_else(|| too_few(0)),
            Err(error) => Err(error.clone()),
        };
        Self { servers, same, settings: LockBuilder::new(first, name) }
    }

    /// How long the lock is held for without being renewed: how long others wait for a holder that died. From 100 ms
    /// to a day. A server that does not answer within a tenth of it, or half a second, counts as down. Defaults to 10 seconds.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings = self.settings.lease(lease);
        self
    }

    /// How often the guard renews it, at most half of the lease. Defaults to a third of the lease.
    pub fn renew_every(mut self, pause: Duration) -> Self {
        self.settings = self.settings.renew_every(pause);
        self
    }

    /// How long [`acquire`](Self::acquire) waits. Defaults to 5 seconds.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings = self.settings.wait(wait);
        self
    }

    /// A name for the holder that everybody may read, beside the lock at each server: a host, a job. At most 256 bytes.
    /// Defaults to none.
    pub fn owner(mut self, label: impl Into<String>) -> Self {
        self.settings = self.settings.owner(label);
        self
    }

    /// Gets the lock, waiting for at most [`wait`](Self::wait) while it is held. One round trip to all servers at once
    /// if it is free. Others' tries can be in the way of each other, so that none of them gets it; they try again.
    ///
    /// # Errors
    /// [`ErrorKind::LockTimeout`] if others held it all the time; [`ErrorKind::Unavailable`] if too few servers answered, all the time or in
    /// the end; [`ErrorKind::Config`] that names every mistake of the settings; at once what waiting cannot mend, if a
    /// majority refuses. What a call that failed or was dropped has taken is given back at every server that can be
    /// reached, and free elsewhere when its lease is over. It ends at most two tenths of the lease, or one second, late.
    pub async fn acquire(&self) -> Result<LockGuard> {
        self.acquire_within(self.settings.times().1).await
    }

    /// As [`acquire`](Self::acquire), waiting for at most `wait`.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, wait: Duration) -> Result<LockGuard> {
        self.wanted()?.within(wait).await
    }

    /// Gets the lock if a majority of the servers gives it at once; nothing if others have it, or are about to get it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if too few servers answered, and of the settings as [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<LockGuard>> {
        self.wanted()?.try_once().await
    }

    /// Everything checked.
    fn wanted(&self) -> Result<Wanted> {
        let servers = self.servers.clone().map_err(|error| error.with_op("lock"))?;
        let mut mistakes = Vec::new();
        if servers.len() < FEWEST {
            mistakes.push(too_few(servers.len()).detail().to_owned());
        }
        if let Some((one, other)) = self.same {
            mistakes.push(format!(
                "the clients {} and {} ask the same server, which would have two votes",
                one + 1,
                other + 1
            ));
        }
        let (lease, _) = self.settings.times();
        if lease < SHORTEST_LEASE {
            mistakes.push(format!(
                "the lease is {lease:?}; over several servers it is {SHORTEST_LEASE:?} or longer"
            ));
        }
        let checked = match (self.settings.checked(), mistakes.is_empty()) {
            (Ok(checked), true) => checked,
            (checked, _) => {
                mistakes.extend(checked.err().map(|error| error.detail().to_owned()));
                return Err(Error::new(ErrorKind::Config, mistakes.join("; ")).with_op("lock"));
            }
        };
        runtime::check("a lock over several servers").map_err(|error| error.with_op("lock"))?;
        // In a queue of its own: no key of a lock on one server begins so.
        let line = Key::new([b"quorum:", checked.key.as_bytes()].concat())?;
        Ok(Wanted {
            servers,
            line,
            key: checked.key,
            expiry: checked.expiry,
            lease: Lease { term: lease - drift(lease), ..checked.lease },
            label: self.settings.label(),
            limit: (lease / 10).min(MOST_LIMIT),
        })
    }
}

fn too_few(servers: usize) -> Error {
    Error::new(
        ErrorKind::Config,
        format!(
            "a quorum of {servers} servers outlives none of them; name {FEWEST} or more, or lock on one of them"
        ),
    )
}

impl Wanted {
    async fn try_once(self) -> Result<Option<LockGuard>> {
        let Some(place) = self.line().try_first() else { return Ok(None) };
        match self.ask(place).await? {
            Tried::Taken(guard) => Ok(Some(guard)),
            Tried::Not(_, None) => Ok(None),
            Tried::Not(_, Some(error)) => Err(error),
        }
    }

    async fn within(self, wait: Duration) -> Result<LockGuard> {
        let recorder = &self.servers[0].recorder;
        let started = Instant::now();
        let end = started.checked_add(wait);
        let mut place = match end {
            None => self.line().first().await,
            Some(end) => match tokio::time::timeout_at(end, self.line().first()).await {
                Ok(place) => place,
                Err(_) => return Err(self.too_late(wait, None)),
            },
        };
        let (mut contended, mut poll) = (false, FIRST_POLL);
        loop {
            let why = match self.ask(place).await? {
                Tried::Taken(guard) => {
                    recorder.waited(started.elapsed());
                    return Ok(guard);
                }
                Tried::Not(back, why) => {
                    place = back;
                    why
                }
            };
            if !contended {
                recorder.count(LockEvent::Contended);
                contended = true;
            }
            // At random, all of it: who tries at the same time as others gets a part of the servers each time.
            let until = Instant::now() + poll.mul_f64(fastrand::f64()).max(FIRST_POLL / 5);
            poll = (poll * 2).min(LAST_POLL);
            tokio::time::sleep_until(end.map_or(until, |end| end.min(until))).await;
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(self.too_late(wait, why));
            }
        }
    }

    fn line(&self) -> Line {
        self.servers[0].lines.line(&self.line, false)
    }

    /// Asks all servers once, under an identifier of this try alone: what an earlier one may have left at a server is
    /// never taken for a fresh lease.
    async fn ask(&self, place: Place) -> Result<Tried> {
        let stores = self.servers.iter().map(|locks| Arc::clone(&locks.store));
        let members = Arc::new(Members::new(
            stores,
            self.key.clone(),
            self.expiry,
            self.label.clone(),
            self.limit,
        ));
        // Made before anything is sent: a caller that goes away gives back what it may have got.
        let attempt = Attempt::new(Arc::clone(&members));
        let sent = Moment::now();
        let tally = members.take().await;
        let took = sent.elapsed();
        // Renewals would come too late as well.
        let slow = took >= self.lease.renew_every;
        if tally.is_held() && !slow {
            attempt.close();
            let recorder = &self.servers[0].recorder;
            recorder.count(LockEvent::Acquired);
            // No server counts for all of them: there is no token.
            let recorder = Arc::clone(recorder);
            let guard = LockGuard::new(members, self.lease, None, sent, Some(place), recorder);
            return Ok(Tried::Taken(guard));
        }
        members.undo(&tally).await;
        attempt.close();
        if tally.is_held() {
            let error = Error::new(
                ErrorKind::Config,
                format!(
                    "a try took {took:?}, which a lease of {:?} has no room for; lengthen the lease",
                    self.expiry.as_duration()
                ),
            );
            return Ok(Tried::Not(place, Some(self.name(error).with_outcome(Outcome::Unknown))));
        }
        match tally.failure() {
            Some((error, false)) => Err(self.name(error)),
            failure => Ok(Tried::Not(place, failure.map(|(error, _)| self.name(error)))),
        }
    }

    fn too_late(&self, wait: Duration, why: Option<Error>) -> Error {
        self.servers[0].recorder.count(LockEvent::TimedOut);
        // What kept it from being had says more than that it was not.
        why.unwrap_or_else(|| {
            let text = format!("a majority of the servers did not give the lock within {wait:?}");
            self.name(Error::new(ErrorKind::LockTimeout, text))
        })
    }

    fn name(&self, error: Error) -> Error {
        error.with_op("lock").with_key(&self.key)
    }
}

impl fmt::Debug for QuorumLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers.as_ref().map_or(0, Vec::len);
        f.debug_struct("QuorumLock")
            .field("servers", &servers)
            .field("majority", &majority(servers))
            .field("lock", &self.settings)
            .finish()
    }
}

//! The guard of a lock that is held: it renews itself, and tells when it is lost.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::clock::Moment;
use super::hold::{Hold, give_back};
use super::line::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::stats::{LockEvent, LockRecorder};

/// What a holder leaves of its lease unused, so that it knows of the end before the server does: a twentieth, which is
/// more than a timer is late, within these bounds.
const LEAST_MARGIN: Duration = Duration::from_millis(2);
const MOST_MARGIN: Duration = Duration::from_millis(250);

/// How long the task that renews sleeps at once: timers stand still while the machine is suspended, and so long after it
/// goes on the end of the lease is noticed.
const LOOK: Duration = Duration::from_millis(250);

/// Why a lock is not held any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// It could not be renewed in time: the store did not answer, or this process stood still.
    Expired,
    /// The store says that somebody else has it, or nobody: it was deleted, evicted or flushed, or it ended there.
    Taken,
    /// Its guard was released or dropped.
    Released,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "it could not be renewed in time",
            Self::Taken => "the store says that it is not held any more",
            Self::Released => "it was released",
        })
    }
}

/// A lease and how it is renewed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) term: Duration,
    pub(super) renew_every: Duration,
}

impl Lease {
    /// How long it is good for, counted from before its command was sent.
    pub(super) fn good_for(&self) -> Duration {
        self.term.saturating_sub((self.term / 20).clamp(LEAST_MARGIN, MOST_MARGIN))
    }
}

/// What a guard, the task that renews, and those who wait for the loss share.
struct State {
    hold: Arc<dyn Hold>,
    lease: Lease,
    token: Option<u64>,
    // Before the last command was sent that the store answered with yes.
    confirmed: Mutex<Moment>,
    // Nothing while it is held.
    over: watch::Sender<Option<Loss>>,
    // The first place in the queue of this process, until the lock is not held any more.
    place: Mutex<Option<Place>>,
    recorder: Arc<LockRecorder>,
}

impl State {
    fn elapsed(&self) -> Duration {
        // Nothing that can panic runs under this lock.
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn valid_for(&self) -> Duration {
        if self.over.borrow().is_some() {
            return Duration::ZERO;
        }
        let left = self.lease.good_for().saturating_sub(self.elapsed());
        if left.is_zero() {
            // For good: an answer that comes now does not bring back what somebody was told is over.
            self.end(Loss::Expired);
        }
        left
    }

    /// It is not held any more. Whether it was until now.
    fn end(&self, why: Loss) -> bool {
        let ended = self.over.send_if_modified(|over| {
            let held = over.is_none();
            if held {
                *over = Some(why);
                if why != Loss::Released {
                    // Before anybody is told, who may want the place or look at the numbers. Who waits here need not wait
                    // for the guard to be dropped.
                    drop(self.take_place());
                    self.recorder.count(LockEvent::Lost);
                }
            }
            held
        });
        if ended && why != Loss::Released {
            tracing::warn!(target: "larder", key = %self.hold.key(), %why, "a lock is lost");
        }
        ended
    }

    /// Works while it is held, and not a moment longer: once `end` has returned, no step of `work` is taken on any thread.
    /// Nothing if it ended before.
    async fn while_held<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            // Whoever ends it waits for the step that is being taken.
            let over = self.over.borrow();
            match *over {
                Some(_) => Poll::Ready(None),
                None => work.as_mut().poll(cx).map(Some),
            }
        })
        .await
    }

    fn take_place(&self) -> Option<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn lost(self: &Arc<Self>) -> impl Future<Output = Loss> + Send + 'static + use<> {
        let mut over = self.over.subscribe();
        // The sender lives as long as this future.
        let state = Arc::clone(self);
        async move {
            let mut told = pin!(over.wait_for(Option::is_some));
            let seen = poll_fn(|cx| {
                // The clock first: a process that stood still goes on here before its timers do. And what is known counts, though
                // the thread that found it out may not have got to tell anybody.
                state.valid_for();
                let known = *state.over.borrow();
                match known {
                    Some(_) => Poll::Ready(known),
                    None => told.as_mut().poll(cx).map(|over| over.ok().and_then(|over| *over)),
                }
            })
            .await;
            seen.unwrap_or(Loss::Released)
        }
    }

    async fn run<F: Future>(self: &Arc<Self>, work: F) -> Result<F::Output> {
        let mut lost = pin!(self.lost());
        let mut work = pin!(work);
        poll_fn(|cx| match lost.as_mut().poll(cx) {
            Poll::Ready(loss) => Poll::Ready(Err(self.gone(loss))),
            Poll::Pending => work.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    fn gone(&self, loss: Loss) -> Error {
        Error::new(ErrorKind::LockLost, format!("the lock is lost: {loss}"))
            .with_op("run")
            .with_key(self.hold.key())
    }
}

/// Renews a lock for as long as it is held. However it ends, nobody renews it any more.
struct Keeper(Arc<State>);

impl Keeper {
    async fn run(self) {
        let state = &self.0;
        let every = state.lease.renew_every;
        let mut due = every;
        loop {
            let left = state.valid_for();
            if left.is_zero() {
                return;
            }
            let wait = due.saturating_sub(state.elapsed());
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(left).min(LOOK)).await;
                continue;
            }
            let sent = Moment::now();
            // Half of the time until the next one, so that a lost answer leaves time for another try.
            let within = (every / 2).min(left).max(Duration::from_millis(1));
            let renewed = state.while_held(state.hold.extend(within));
            let renewed = match tokio::time::timeout(left, renewed).await {
                Ok(Some(renewed)) => renewed,
                // Seen at the top.
                Ok(None) | Err(_) => continue,
            };
            match renewed {
                Ok(true) => {
                    *state.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = sent;
                    due = every;
                    state.recorder.count(LockEvent::Renewed);
                }
                Ok(false) => {
                    state.end(Loss::Taken);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::WrongType => {
                    state.end(Loss::Taken);
                    return;
                }
                Err(error) => {
                    state.recorder.count(LockEvent::FailedRenewal);
                    tracing::debug!(target: "larder", %error, "a lock was not renewed, it is tried again");
                    due = state.elapsed() + (every / 4).max(Duration::from_millis(1));
                }
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Only if its runtime was shut down under it: nobody can renew then.
        self.0.end(Loss::Expired);
    }
}

/// A lock that is held: alone, or as one of those who share it.
///
/// It renews itself at a third of its lease, in a task of its own. [`is_valid`](Self::is_valid) and
/// [`valid_for`](Self::valid_for) cost no round trip: the guard counts from before its last confirmed command was sent, by a
/// clock that goes on while the machine is suspended, and gives the lock up a twentieth of the lease (2 to 250 ms) before the
/// store can give it to somebody else. When it cannot be renewed in time, or the store says that it is gone, it is lost:
/// [`lost`](Self::lost) ends, [`run`](Self::run) drops what it runs, and whoever waits in this process contends again.
///
/// **A guard cannot stop what is already under way**: a write that was sent before the loss can arrive after it. Give
/// [`fencing_token`](Self::fencing_token) to whatever is written to, and let it refuse older ones: see `docs/locks.md`.
///
/// Dropping a guard gives the lock back in the background; [`release`](Self::release) waits for it, and says whether it was
/// still held. A drop outside of a tokio runtime leaves the lock to its lease, and logs that.
#[must_use = "the lock is given back as soon as its guard is dropped"]
pub struct LockGuard {
    state: Arc<State>,
    keeper: AbortHandle,
    // Whether the lock has to be given back when this is dropped.
    open: bool,
}

impl LockGuard {
    /// A guard for what was taken by a command that was sent after `sent`.
    pub(super) fn new(
        hold: Arc<dyn Hold>,
        lease: Lease,
        token: Option<u64>,
        sent: Moment,
        place: Option<Place>,
        recorder: Arc<LockRecorder>,
    ) -> Self {
        let state = Arc::new(State {
            hold,
            lease,
            token,
            confirmed: Mutex::new(sent),
            over: watch::Sender::new(None),
            place: Mutex::new(place),
            recorder,
        });
        let keeper = tokio::spawn(Keeper(Arc::clone(&state)).run()).abort_handle();
        Self { state, keeper, open: true }
    }

    /// The key of the lock.
    pub fn key(&self) -> &Key {
        self.state.hold.key()
    }

    /// Whether the lock is held, as far as this process can know without asking. Costs no round trip.
    pub fn is_valid(&self) -> bool {
        !self.valid_for().is_zero()
    }

    /// For how long the lock is held if it is not renewed any more; zero once it is lost. Costs no round trip.
    pub fn valid_for(&self) -> Duration {
        self.state.valid_for()
    }

    /// Ends when the lock is not held any more, and says why. It does not borrow the guard, and ends with it too.
    pub fn lost(&self) -> impl Future<Output = Loss> + Send + 'static + use<> {
        self.state.lost()
    }

    /// Runs `work` while the lock is held: answers what it gives, or drops it at its next await as soon as the lock is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// # let cache = larder::CacheClient::memory();
    /// let guard = cache.lock("report").acquire().await?;
    /// let pages = guard.run(async { /* ... */ 12 }).await?;
    /// assert!(guard.release().await?, "it was ours until the end");
    /// # assert_eq!(pages, 12);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::LockLost`] if the lock is lost before `work` ends.
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output> {
        self.state.run(work).await
    }

    /// A number that is larger than that of every earlier holder of this lock: the last one plus one, or the server's time in
    /// microseconds if that is larger, so that it grows even if the server lost its data. None if the lock is shared, or
    /// held over several servers.
    pub fn fencing_token(&self) -> Option<u64> {
        self.state.token
    }

    /// Something that knows of the lock but does not keep it: for the tasks that work under it.
    pub fn watcher(&self) -> LockWatcher {
        LockWatcher(Arc::clone(&self.state))
    }

    /// Gives the lock back. Answers whether it was still held; false means that somebody else may have had it meanwhile.
    ///
    /// # Errors
    /// As every call. The lock is not renewed any more in any case, and is free at the latest when its lease is over.
    pub async fn release(mut self) -> Result<bool> {
        let held = self.state.end(Loss::Released);
        self.keeper.abort();
        let hold = Arc::clone(&self.state.hold);
        let place = self.state.take_place();
        // If this future is dropped, or nothing was heard, the guard is dropped, and gives the lock back once more.
        let released = hold.release().await;
        self.open = released.is_err();
        drop(place);
        if matches!(released, Ok(false)) {
            self.state.recorder.count(LockEvent::RefusedRelease);
            if held {
                tracing::warn!(target: "larder", key = %hold.key(), "a lock was not held any more when it was released");
            }
        }
        released
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.state.end(Loss::Released);
        self.keeper.abort();
        if self.open {
            give_back(Arc::clone(&self.state.hold), self.state.take_place());
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", self.key())
            .field("valid_for", &self.valid_for())
            .finish_non_exhaustive()
    }
}

/// Knows of a lock that somebody else keeps: [`LockGuard::watcher`]. Cloning it is cheap.
#[derive(Clone)]
pub struct LockWatcher(Arc<State>);

impl LockWatcher {
    /// As [`LockGuard::is_valid`].
    pub fn is_valid(&self) -> bool {
        !self.valid_for().is_zero()
    }

    /// As [`LockGuard::valid_for`].
    pub fn valid_for(&self) -> Duration {
        self.0.valid_for()
    }

    /// As [`LockGuard::lost`].
    pub fn lost(&self) -> impl Future<Output = Loss> + Send + 'static + use<> {
        self.0.lost()
    }

    /// As [`LockGuard::fencing_token`].
    pub fn fencing_token(&self) -> Option<u64> {
        self.0.token
    }
}

impl fmt::Debug for LockWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockWatcher")
            .field("key", self.0.hold.key())
            .field("valid_for", &self.valid_for())
            .finish_non_exhaustive()
    }
}

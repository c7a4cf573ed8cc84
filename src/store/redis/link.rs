//! One connection that comes back: dead until asked for, then dialled by one task for all who wait.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, pending, select};
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::behind;
use super::dial::{Dialled, Driver, dial};
use super::gather::Pulse;
use super::ping::Patience;
use super::sentinel;
use super::track::{Tracker, Tracking};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::Vouch;
use crate::store::runtime;
use crate::store::url::{Address, RedisTarget};

/// Pauses between attempts: doubling from the first to the last, up to half of each left to chance.
/// That is at most 12 attempts in the first second and 4 in each that follows, and a server that
/// is back is noticed within half a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// How long a call waits for a tracked connection before it goes over another one: some round trips.
const SOON: Duration = Duration::from_millis(100);

/// A server that refuses to tell of changes is asked again after this time: somebody may have changed its ACL.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// A connection that dies sooner counts as a failed attempt: a server that accepts and hangs up
/// shall not be hammered.
const STABLE_AFTER: Duration = Duration::from_millis(100);

/// A connection on which calls have waited so long without an answer to any of them is left when one of
/// them is given up: a peer that is gone without a word, or an answer that never ends. Calls that still
/// wait on it go on. Longer than a server is busy with one thing, shorter than TCP's keepalive.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// A connection that is made when it is first used, and again when it was lost.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    target: Arc<RedisTarget>,
    tracking: Option<Tracking>,
    patience: Patience,
    state: Mutex<State>,
    // Ticks whenever `state` changed in a way that waiters want to know.
    changed: watch::Sender<()>,
    waiting: AtomicUsize,
}

struct State {
    live: Option<Live>,
    // When it was published.
    since: Instant,
    dialling: bool,
    closed: bool,
    // Failures in a row, the moment before which no attempt is made, and what the last one said.
    failures: u32,
    not_before: Instant,
    last_error: Option<Error>,
    // All failed attempts.
    attempts: u64,
}

/// A published connection.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    pub(super) pulse: Arc<Pulse>,
    pub(super) tracker: Option<Arc<Tracker>>,
}

impl Live {
    fn is_up(&self) -> bool {
        self.pulse.is_up()
    }

    /// What it vouches for from now on, if it tells of changes.
    pub(super) fn vouch(&self) -> Option<Vouch> {
        self.tracker.as_ref().map(|tracker| tracker.vouch())
    }

    /// Nobody relies on it any more.
    fn let_go(&self) {
        self.pulse.let_go();
        if let Some(tracker) = &self.tracker {
            tracker.lost();
        }
    }
}

/// What a look at the state shows.
enum Look {
    Ready(Live),
    Failed(Error),
    Wait,
}

impl Link {
    pub(super) fn new(
        target: Arc<RedisTarget>,
        patience: Patience,
        tracking: Option<Tracking>,
    ) -> Self {
        Self(Arc::new(Shared {
            target,
            tracking,
            patience,
            state: Mutex::new(State {
                live: None,
                since: Instant::now(),
                dialling: false,
                closed: false,
                failures: 0,
                not_before: Instant::now(),
                last_error: None,
                attempts: 0,
            }),
            changed: watch::Sender::new(()),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// The connection, if it is up.
    pub(super) fn current(&self) -> Option<Live> {
        self.0.state().live.as_ref().filter(|live| live.is_up()).cloned()
    }

    /// Sees to it that the connection comes back, for a caller that does not wait for it.
    pub(super) fn dial(&self) {
        let seen = self.0.state().attempts;
        self.look(seen);
    }

    /// The connection, waiting for it for as long as a healthy server takes: not at all if it was just refused
    /// or could not be reached.
    pub(super) async fn soon(&self, deadline: Option<Instant>) -> Option<Live> {
        if let Some(live) = self.current() {
            return Some(live);
        }
        if Instant::now() < self.0.state().not_before {
            return None;
        }
        let soon = Instant::now() + SOON;
        let until = deadline.map_or(soon, |deadline| deadline.min(soon));
        self.get(Some(until)).await.ok()
    }

    /// The connection, waiting for it until `deadline` if it is down.
    pub(super) async fn get(&self, deadline: Option<Instant>) -> Result<Live> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let _waiting = Waiting::new(&self.0);
        let mut changed = self.0.changed.subscribe();
        let seen = self.0.state().attempts;
        loop {
            changed.mark_unchanged();
            match self.look(seen) {
                Look::Ready(live) => return Ok(live),
                Look::Failed(error) => return Err(error),
                Look::Wait => {}
            }
            let change = changed.changed();
            match deadline {
                None => _ = change.await,
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, change).await.is_err() {
                        return Err(self.0.state().no_connection(&self.0.target));
                    }
                }
            }
        }
    }

    /// A call is sent over `used`, whose request has so many bytes; `large` if others are to go past it. To be told of its
    /// answer: one that is dropped before was given up.
    pub(super) fn asked<'a>(
        &'a self,
        used: &'a Arc<Pulse>,
        moment: Instant,
        bytes: usize,
        large: bool,
    ) -> Asked<'a> {
        used.ask(moment);
        if large {
            used.large_begins();
        }
        Asked { link: self, used, bytes, large, answered: false }
    }

    /// Drops a connection on which calls have waited in vain for long. Answers whether it did.
    pub(super) fn leave_if_silent(&self, used: &Arc<Pulse>) -> bool {
        let silent = used.silence() >= SILENT_FOR;
        if silent {
            tracing::debug!(target: "larder", "the connection is silent, dialling another");
            self.discard(used);
        }
        silent
    }

    /// Sees to it that what was left behind over `used` is counted out when it has left the queue.
    fn sweep(&self, used: &Arc<Pulse>) {
        let live = self.0.state().live.clone();
        match live.filter(|live| Arc::ptr_eq(&live.pulse, used)) {
            Some(live) if runtime::is_here() => {
                tokio::spawn(behind::sweep(self.clone(), live.connection, live.pulse));
            }
            // It was let go of, and takes its queue with it; or the next call that is given up sees to it.
            _ => used.behind.unswept(),
        }
    }

    /// Whether the server that it leads to is found anew each time it is dialled.
    pub(super) fn rediscovers(&self) -> bool {
        matches!(self.0.target.address, Address::Sentinels(_))
    }

    /// Drops the connection: the next call dials again. For a server that forgot who we are.
    pub(super) fn discard(&self, used: &Arc<Pulse>) {
        let mut state = self.0.state();
        if state.live.as_ref().is_some_and(|live| Arc::ptr_eq(&live.pulse, used)) {
            state.lost();
        }
    }

    /// What the connection vouched for is void, and it vouches anew: another server tells of a part of it now.
    pub(super) fn moved(&self) {
        let tracker = self.0.state().live.as_ref().and_then(|live| live.tracker.clone());
        if let Some(tracker) = tracker {
            tracker.moved();
        }
    }

    /// Lets go of the connection for good.
    pub(super) fn close(&self) {
        let mut state = self.0.state();
        state.closed = true;
        let live = state.live.take();
        drop(state);
        if let Some(live) = live {
            live.let_go();
        }
        self.0.changed.send_replace(());
    }

    /// Whether there is a connection or a reason to give up; starts the dialling task if neither.
    /// `seen` is how many attempts had failed when the caller came.
    fn look(&self, seen: u64) -> Look {
        let mut state = self.0.state();
        if state.closed {
            return Look::Failed(Error::new(ErrorKind::Closed, "the client is closed"));
        }
        match &state.live {
            Some(live) if live.is_up() => return Look::Ready(live.clone()),
            Some(_) => state.lost(),
            None => {}
        }
        if state.dialling {
            return Look::Wait;
        }
        // What waiting cannot mend is said at once: to whom waited for the attempt, and to who comes
        // before the next one is due.
        if let Some(error) = &state.last_error
            && error.kind() != ErrorKind::Unavailable
            && (state.attempts > seen || Instant::now() < state.not_before)
        {
            return Look::Failed(error.clone());
        }
        state.dialling = true;
        drop(state);
        tokio::spawn(Dialling(Arc::clone(&self.0)).run());
        Look::Wait
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The task of a tracked connection does not end by itself.
        if let Some(live) = self.state().live.take() {
            live.let_go();
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The published connection is gone.
    fn lost(&mut self) {
        let Some(live) = self.live.take() else { return };
        live.let_go();
        if self.since.elapsed() >= STABLE_AFTER {
            self.failures = 0;
            self.not_before = Instant::now();
        } else {
            self.backs_off();
        }
    }

    fn backs_off(&mut self) {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        let pause = doubled.min(LAST_PAUSE).mul_f64(1.0 - fastrand::f64() / 2.0);
        self.not_before = Instant::now() + pause;
    }

    fn no_connection(&self, target: &RedisTarget) -> Error {
        self.last_error.clone().unwrap_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                format!("there was no connection to {} in time", target.address),
            )
            .with_outcome(Outcome::NotSent)
        })
    }
}

/// A call that waits for its answer.
pub(super) struct Asked<'a> {
    link: &'a Link,
    used: &'a Arc<Pulse>,
    bytes: usize,
    large: bool,
    answered: bool,
}

impl Asked<'_> {
    /// The answer came, or the connection was lost.
    pub(super) fn answered(mut self) {
        self.answered = true;
        self.used.answer();
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.large {
            self.used.large_ends();
        }
        if self.answered {
            return;
        }
        self.link.leave_if_silent(self.used);
        if self.used.behind.leave(self.bytes, self.large || self.used.brings_much()) {
            self.link.sweep(self.used);
        }
    }
}

/// Counts a caller that waits for the connection, however it leaves.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The task that dials. If its runtime is shut down under it, the next caller starts another.
struct Dialling(Arc<Shared>);

impl Dialling {
    async fn run(self) {
        loop {
            let not_before = self.0.state().not_before;
            tokio::time::sleep_until(not_before).await;
            // A runtime without IO panics, and would do so at once again for as long as somebody waits.
            let dialled = dial(&self.0.target, self.0.tracking.as_ref());
            let dialled = AssertUnwindSafe(dialled).catch_unwind();
            let attempt = tokio::time::timeout(self.0.patience.connect, dialled).await;
            let done = match attempt {
                Ok(Ok(Ok(dialled))) => self.publish(dialled),
                Ok(Ok(Err(error))) => self.failed(error),
                Ok(Err(_)) => self.failed(
                    Error::new(
                        ErrorKind::Config,
                        "connecting panicked; build the tokio runtime with enable_all()",
                    )
                    .with_outcome(Outcome::NotSent),
                ),
                Err(_) => self.failed(
                    Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "{} did not answer the handshake within {:?}",
                            self.0.target.address, self.0.patience.connect
                        ),
                    )
                    .with_outcome(Outcome::NotSent),
                ),
            };
            // A server that stays away is asked only for as long as somebody waits for it.
            if done {
                return;
            }
        }
    }

    fn publish(&self, dialled: Dialled) -> bool {
        let Dialled { connection, driver, pulse, tracker, found } = dialled;
        let mut state = self.0.state();
        if !state.closed {
            let ended = Ended { pulse: Arc::clone(&pulse), tracker: tracker.clone() };
            let driving = drive(driver, connection.clone(), ended, &self.0);
            match (&self.0.target.address, found) {
                (Address::Sentinels(sentinels), Some(found)) => {
                    sentinel::listen(&self.0.target, self.0.patience);
                    // Not the whole target: the sentinels are listened to for as long as somebody holds it.
                    let sentinels = Arc::clone(sentinels);
                    tokio::spawn(async move {
                        let replaced = std::pin::pin!(sentinels.replaced(&found));
                        select(std::pin::pin!(driving), replaced).await;
                    });
                }
                _ => _ = tokio::spawn(driving),
            }
            state.live = Some(Live { connection, pulse, tracker });
            state.since = Instant::now();
            state.last_error = None;
        }
        true
    }

    fn failed(&self, error: Error) -> bool {
        let waiting_helps = error.kind() == ErrorKind::Unavailable;
        tracing::debug!(target: "larder", %error, "cannot connect");
        let mut state = self.0.state();
        state.backs_off();
        if error.kind() == ErrorKind::Unsupported {
            state.not_before = Instant::now() + REFUSED_PAUSE;
            tracing::warn!(target: "larder", %error, "no changes are told: nothing is kept near, and waits poll");
        }
        state.attempts += 1;
        state.last_error = Some(error);
        state.closed || !waiting_helps || self.0.waiting.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.state().dialling = false;
        self.0.changed.send_replace(());
    }
}

/// Says that a connection's driver ended, whether by itself or with its runtime.
struct Ended {
    pulse: Arc<Pulse>,
    tracker: Option<Arc<Tracker>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.pulse.end();
        if let Some(tracker) = &self.tracker {
            tracker.lost();
        }
    }
}

fn drive(
    driver: Driver,
    connection: MultiplexedConnection,
    ended: Ended,
    shared: &Arc<Shared>,
) -> impl Future<Output = ()> + Send + use<> {
    let (patience, changed) = (shared.patience, shared.changed.subscribe());
    // Not the whole: the link is let go of when its client is.
    let link = Arc::downgrade(shared);
    async move {
        if let Some(tracker) = &ended.tracker {
            tracker.drive(driver, connection, patience).await;
            return;
        }
        let silent = pin!(async {
            // It holds a connection, and the driver ends when nobody can send any more.
            let silent = pin!(patience.silent(connection, &ended.pulse));
            let let_go = pin!(ended.pulse.is_let_go());
            matches!(select(silent, let_go).await, Either::Left(_))
        });
        let Either::Right((is_silent, driver)) = select(driver, silent).await else { return };
        // The driver ends when nobody can send any more, and has written what is left: of that nobody wants the answer.
        let unused = pin!(behind::unused(&ended.pulse));
        if is_silent || ended.pulse.silence() >= SILENT_FOR {
            let given_up = pin!(given_up(&link, &ended.pulse, patience, changed));
            select(driver, select(given_up, unused)).await;
        } else {
            select(driver, unused).await;
        }
    }
}

/// Leaves a connection that is silent: from now on calls go over another one. Those in flight are not ended yet, since a
/// server that is merely busy, with a script or a large deletion, will answer them. Ends when they wait for nothing:
/// another connection stands, so the server does answer, and still nothing comes over this one, although nothing that
/// holds up one connection alone was sent over it.
async fn given_up(
    link: &Weak<Shared>,
    pulse: &Arc<Pulse>,
    patience: Patience,
    mut changed: watch::Receiver<()>,
) {
    tracing::debug!(target: "larder", "a connection is silent, dialling another");
    let heard = pulse.heard();
    if let Some(link) = link.upgrade().map(Link) {
        link.discard(pulse);
        link.dial();
    }
    loop {
        match link.upgrade().map(Link) {
            Some(link) if link.current().is_some() => break,
            Some(_) => {}
            None => pending().await,
        }
        if changed.changed().await.is_err() {
            pending().await
        }
    }
    tokio::time::sleep(patience.ping_timeout).await;
    if pulse.heard() != heard || pulse.may_be_held_up() {
        pending().await
    }
}

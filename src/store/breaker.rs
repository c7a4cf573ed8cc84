//! The breaker: while a store, or a node of a cluster, does not answer, one call at a time asks it, and the others fail at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::time::Instant;

use super::{Capabilities, Layer};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Op, Replies};
use crate::stats::BreakerRecorder;

/// It opens when so many calls in a row got no answer, the last of them so long after the first. A call gets none only by
/// the end of its deadline, so who waits for a restart that takes less than that never sees it; a second is what a
/// restart takes for those whose deadlines are shorter. Five, so that a single slow command does not do it.
const UNANSWERED: u32 = 5;
const FOR: Duration = Duration::from_secs(1);

/// For how long a load does not ask a store that failed it: its loader answers as well, so it need not wait for the
/// deadline even once more. Then one load tries.
const REST: Duration = Duration::from_millis(500);

/// What is known of a store that does not answer. Loads rest at the first failure, calls without a loader later.
pub(crate) struct Breaker {
    // Whether calls are ever refused.
    is_on: bool,
    // Whether anything is amiss: as long as nothing is, calls look no further.
    is_troubled: AtomicBool,
    state: Mutex<State>,
    recorder: Arc<BreakerRecorder>,
}

#[derive(Default)]
struct State {
    // Those that did not answer the last call.
    servers: HashMap<ServerId, Server>,
    loads_rest: Option<Instant>,
}

/// One server.
struct Server {
    // Calls in a row without an answer, and when the first of them ended.
    unanswered: u32,
    since: Instant,
    is_open: bool,
    is_asked: bool,
}

/// A number for each server of a store.
pub(crate) type ServerId = u16;

/// What a store that is one server calls it.
const THE_ONE: ServerId = 0;

/// Says which of a store's servers answers a call, where there are several: each of them may be away by itself.
pub(crate) trait Servers: Send + Sync {
    /// The server that a batch goes to. Nothing if it goes to several, or to anyone.
    fn of(&self, batch: &Batch) -> Option<ServerId>;

    /// Whether it is still one of them.
    fn has(&self, server: ServerId) -> bool;
}

impl Breaker {
    pub(crate) fn new(is_on: bool, recorder: Arc<BreakerRecorder>) -> Self {
        Self { is_on, is_troubled: AtomicBool::new(false), state: Mutex::default(), recorder }
    }

    /// Whether a load may ask the store. Of those that come after its rest, one at a time.
    pub(crate) fn allows_load(&self) -> bool {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return true;
        }
        let mut state = self.state();
        match state.loads_rest {
            None => true,
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                state.loads_rest = Some(Instant::now() + REST);
                true
            }
        }
    }

    /// A load got no answer.
    pub(crate) fn failed_load(&self) {
        let mut state = self.state();
        state.loads_rest = Some(Instant::now() + REST);
        self.is_troubled.store(true, Ordering::Relaxed);
    }

    /// A load got an answer.
    pub(crate) fn answered_load(&self) {
        if self.is_troubled.load(Ordering::Relaxed) {
            let mut state = self.state();
            state.loads_rest = None;
            self.is_troubled.store(!state.servers.is_empty(), Ordering::Relaxed);
        }
    }

    /// Lets a call to a server through, or fails it. One that asks in the name of all is to be kept until it ended.
    fn enter(&self, server: ServerId, batch: &Batch) -> Result<Option<Asking<'_>>> {
        let mut state = self.state();
        let Some(known) = state.servers.get_mut(&server).filter(|server| server.is_open) else {
            return Ok(None);
        };
        if batch.ops().iter().all(always_passes) {
            return Ok(None);
        }
        if !std::mem::replace(&mut known.is_asked, true) {
            return Ok(Some(Asking { breaker: self, server }));
        }
        let since = known.since.elapsed();
        drop(state);
        self.recorder.refused();
        let tenths =
            Duration::from_millis(u64::try_from(since.as_millis() / 100 * 100).unwrap_or(u64::MAX));
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the server has not answered for {tenths:?}, it rests; another call asks it just now"
            ),
        )
        .with_outcome(Outcome::NotSent))
    }

    /// What a call came to that was let through to a server.
    fn heard(
        &self,
        done: &Result<Replies>,
        is_alone: bool,
        server: impl FnOnce() -> Option<ServerId>,
    ) {
        match done {
            _ if !self.is_on => {}
            Err(error) if error.outcome() != Outcome::Rejected => {
                // Other kinds are the call's own matter: they say nothing of the server.
                if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
                    && let Some(server) = server()
                {
                    self.unanswered(server);
                }
            }
            _ if !self.is_troubled.load(Ordering::Relaxed) => {}
            _ => {
                if let Some(server) = server() {
                    self.forget(|id| id != server, is_alone);
                }
            }
        }
    }

    fn unanswered(&self, server: ServerId) {
        let mut state = self.state();
        let known = state.servers.entry(server).or_insert_with(|| Server {
            unanswered: 0,
            since: Instant::now(),
            is_open: false,
            is_asked: false,
        });
        known.unanswered = known.unanswered.saturating_add(1);
        self.is_troubled.store(true, Ordering::Relaxed);
        if !known.is_open && known.unanswered >= UNANSWERED && known.since.elapsed() >= FOR {
            known.is_open = true;
            drop(state);
            self.recorder.opened();
            tracing::warn!(target: "larder", server, "a server does not answer: calls fail at once until it does");
        }
    }

    /// Keeps some of the servers that did not answer: the others did, or are gone. What was `heard_of_all` holds for loads too.
    fn forget(&self, keep: impl Fn(ServerId) -> bool, heard_of_all: bool) {
        let mut state = self.state();
        let is_open = |state: &State| state.servers.values().any(|server| server.is_open);
        let was_open = is_open(&state);
        state.servers.retain(|id, _| keep(*id));
        if heard_of_all {
            state.loads_rest = None;
        }
        let is_troubled = !state.servers.is_empty() || state.loads_rest.is_some();
        self.is_troubled.store(is_troubled, Ordering::Relaxed);
        let closed = was_open && !is_open(&state);
        drop(state);
        if closed {
            self.recorder.closed();
            tracing::info!(target: "larder", "all servers answer again");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps of locks and leases have limits of their own, and what they give up for is lost: they wait for the store as they
/// do for a connection. Who asks whether it is there wants to know.
fn always_passes(op: &Op) -> bool {
    matches!(
        op,
        Op::Ping
            | Op::Acquire { .. }
            | Op::Release { .. }
            | Op::Renew { .. }
            | Op::Lock { .. }
            | Op::Extend { .. }
            | Op::Unlock { .. }
            | Op::Replicated { .. }
    )
}

/// The one call that asks, however it ends.
struct Asking<'a> {
    breaker: &'a Breaker,
    server: ServerId,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.breaker.state().servers.get_mut(&self.server) {
            server.is_asked = false;
        }
    }
}

/// Fails calls while their server does not answer.
pub(crate) struct Broken<S> {
    inner: S,
    breaker: Arc<Breaker>,
    // Nothing if there is one.
    servers: Option<Arc<dyn Servers>>,
}

impl<S: Layer> Broken<S> {
    pub(crate) fn new(inner: S, breaker: Arc<Breaker>, servers: Option<Arc<dyn Servers>>) -> Self {
        Self { inner, breaker, servers }
    }

    fn server(&self, batch: &Batch) -> Option<ServerId> {
        self.servers.as_ref().map_or(Some(THE_ONE), |servers| servers.of(batch))
    }

    /// A call while a server did not answer the last one.
    async fn in_trouble(&self, batch: &Batch) -> Result<Replies> {
        if let Some(servers) = &self.servers {
            self.breaker.forget(|id| servers.has(id), false);
        }
        let server = self.server(batch);
        let asking = server.map_or(Ok(None), |server| self.breaker.enter(server, batch));
        let _asking = match asking {
            Ok(asking) => asking,
            Err(error) => {
                // A caller that tries again and again shall not keep the runtime from the one that asks.
                tokio::task::yield_now().await;
                return Err(error);
            }
        };
        let done = self.inner.call(batch).await;
        // A call that was sent on was answered by another one.
        let by = || if done.is_ok() { self.server(batch) } else { server };
        self.breaker.heard(&done, self.servers.is_none(), by);
        done
    }
}

impl<S: Layer> Layer for Broken<S> {
    // Not an async function, whose future would hold what it borrows twice.
    fn call(&self, batch: &Batch) -> impl Future<Output = Result<Replies>> + Send {
        if self.breaker.is_troubled.load(Ordering::Relaxed) {
            // Boxed, so that calls to a store that answers do not carry its room.
            return Either::Right(Box::pin(self.in_trouble(batch)));
        }
        let heard =
            |done: &_| self.breaker.heard(done, self.servers.is_none(), || self.server(batch));
        Either::Left(self.inner.call(batch).inspect(heard))
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use tokio::sync::watch;

    use super::*;
    use crate::op::Reply;

    fn breaker() -> Arc<Breaker> {
        Arc::new(Breaker::new(true, Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_loads_rest_and_then_one_tries() {
        let breaker = breaker();
        assert!(breaker.allows_load());
        breaker.failed_load();
        assert!(!breaker.allows_load());
        tokio::time::advance(REST).await;
        assert!(breaker.allows_load() && !breaker.allows_load());
        breaker.answered_load();
        assert!(breaker.allows_load() && breaker.allows_load());
    }

    /// What a store says: nothing, until it says something for all.
    struct Says(watch::Receiver<Option<Result<()>>>);

    impl Layer for Says {
        async fn call(&self, _batch: &Batch) -> Result<Replies> {
            let mut said = self.0.clone();
            let said = said.wait_for(Option::is_some).await.unwrap().clone();
            said.unwrap().map(|()| Replies::one(Ok(Reply::Done)))
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::default()
        }

        async fn close(&self) {}
    }

    fn failure(kind: ErrorKind, outcome: Outcome) -> Option<Result<()>> {
        Some(Err(Error::new(kind, "no").with_outcome(outcome)))
    }

    fn exists() -> Batch {
        Batch::one("test", Op::Exists { key: crate::key::Key::new("k").unwrap() })
    }

    async fn waits(mut call: Pin<&mut impl Future>) -> bool {
        poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await
    }

    fn is_refused(done: &Result<Replies>) -> bool {
        done.as_ref().is_err_and(|error| error.detail().contains("it rests"))
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_five_failures_over_a_second_and_then_one_call_asks() {
        let (say, said) = watch::channel(failure(ErrorKind::Timeout, Outcome::Unknown));
        let store = Broken::new(Says(said), breaker(), None);
        for _ in 0..20 {
            assert!(!is_refused(&store.call(&exists()).await), "they failed at once");
        }
        tokio::time::advance(FOR).await;
        assert!(!is_refused(&store.call(&exists()).await));
        assert!(store.breaker.recorder.snapshot().is_open);

        say.send_replace(None);
        for _ in 0..3 {
            let (one, other) = (exists(), Batch::one("ping", Op::Ping));
            let mut asking = pin!(store.call(&one));
            assert!(waits(asking.as_mut()).await);
            let refused = store.call(&exists()).await;
            assert!(is_refused(&refused), "{refused:?}");
            assert_eq!(refused.unwrap_err().outcome(), Outcome::NotSent);
            let mut ping = pin!(store.call(&other));
            assert!(waits(ping.as_mut()).await);
            // Dropped: the next one asks.
        }
        say.send_replace(Some(Ok(())));
        assert!(store.call(&exists()).await.is_ok());
        let stats = store.breaker.recorder.snapshot();
        assert_eq!((stats.opened, stats.refused, stats.is_open), (1, 3, false));
        say.send_replace(None);
        let mut calls = pin!(futures_util::future::join(
            async { store.call(&exists()).await.is_ok() },
            async { store.call(&exists()).await.is_ok() },
        ));
        assert!(waits(calls.as_mut()).await);
        say.send_replace(Some(Ok(())));
        assert_eq!(calls.await, (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_refuses_and_what_is_the_calls_own_matter_does_not_open_it() {
        let (say, said) = watch::channel(None);
        let store = Broken::new(Says(said), breaker(), None);
        for (kind, outcome) in [
            (ErrorKind::Unavailable, Outcome::Rejected),
            (ErrorKind::Config, Outcome::NotSent),
            (ErrorKind::Protocol, Outcome::Unknown),
        ] {
            for _ in 0..10 {
                say.send_replace(failure(kind, outcome));
                _ = store.call(&exists()).await;
                tokio::time::advance(FOR).await;
            }
        }
        // An answer between failures begins the count anew.
        for _ in 0..10 {
            say.send_replace(failure(ErrorKind::Unavailable, Outcome::NotSent));
            for _ in 0..4 {
                _ = store.call(&exists()).await;
                tokio::time::advance(FOR).await;
            }
            say.send_replace(Some(Ok(())));
            assert!(store.call(&exists()).await.is_ok());
        }
        assert_eq!(store.breaker.recorder.snapshot().opened, 0);
    }
}

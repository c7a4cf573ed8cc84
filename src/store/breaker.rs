//! The breaker: while a store, or a node of a cluster, does not answer, one call at a time asks it, and the others fail at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::time::Instant;

use super::{Capabilities, Layer};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
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

/// For how long a server is remembered that failed a call or two, and that nobody asked since.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known of servers that do not answer. Loads rest at the first failure, calls without a loader later.
pub(crate) struct Breaker {
    // Whether calls are ever refused.
    is_on: bool,
    // Nothing if there is one.
    servers: Option<Arc<dyn Servers>>,
    // Whether anything is amiss: as long as nothing is, calls look no further.
    is_troubled: AtomicBool,
    // Those that did not answer the last call.
    failed: Mutex<HashMap<ServerId, Failed>>,
    recorder: Arc<BreakerRecorder>,
}

/// A number for each server of a store.
pub(crate) type ServerId = u16;

/// What a store that is one server calls it.
const THE_ONE: ServerId = 0;

/// Says which of a store's servers answers a call, where there are several: each of them may be away by itself.
pub(crate) trait Servers: Send + Sync {
    /// The server of each slot.
    fn of_slots(&self, slots: &mut dyn Iterator<Item = u16>) -> Vec<ServerId>;

    /// The servers that a batch goes to. None if that may be anyone.
    fn of(&self, batch: &Batch) -> BTreeSet<ServerId>;

    /// Whether it gave no answer to the last call that ended there.
    fn is_silent(&self, server: ServerId) -> bool;

    /// A number that is another one as soon as anything is known of who serves what that was not before.
    fn version(&self) -> u64;

    /// Whether it is still one of them.
    fn has(&self, server: ServerId) -> bool;
}

/// One server that did not answer.
struct Failed {
    // Calls in a row without an answer, when the first of them ended, and the last.
    unanswered: u32,
    since: Instant,
    last: Instant,
    is_open: bool,
    is_asked: bool,
    loads_rest: Option<Instant>,
}

impl Failed {
    fn now() -> Self {
        let now = Instant::now();
        let (is_open, is_asked) = (false, false);
        Self { unanswered: 0, since: now, last: now, is_open, is_asked, loads_rest: None }
    }
}

impl Breaker {
    pub(crate) fn new(
        is_on: bool,
        servers: Option<Arc<dyn Servers>>,
        recorder: Arc<BreakerRecorder>,
    ) -> Self {
        let (is_troubled, failed) = (AtomicBool::new(false), Mutex::default());
        Self { is_on, servers, is_troubled, failed, recorder }
    }

    /// The server of each key.
    fn of_keys<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> Vec<ServerId> {
        let keys = keys.into_iter();
        match &self.servers {
            Some(servers) => servers.of_slots(&mut keys.map(Key::slot)),
            None => keys.map(|_| THE_ONE).collect(),
        }
    }

    fn of(&self, batch: &Batch) -> BTreeSet<ServerId> {
        match &self.servers {
            Some(servers) => servers.of(batch),
            None => BTreeSet::from([THE_ONE]),
        }
    }

    /// The server that a batch goes to, if it is one.
    fn sole(&self, batch: &Batch) -> Option<ServerId> {
        let servers = self.of(batch);
        servers.first().copied().filter(|_| servers.len() == 1)
    }

    /// Whether a load of a key may ask the store. Of those that come after its server's rest, one at a time.
    pub(crate) fn allows_load(&self, key: &Key) -> bool {
        self.allow_loads([key]).is_none_or(|allowed| allowed[0])
    }

    /// The same of each key of one load. Nothing if all may.
    pub(crate) fn allow_loads<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Key>,
    ) -> Option<Vec<bool>> {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return None;
        }
        let servers = self.of_keys(keys);
        let mut failed = self.failed();
        let now = Instant::now();
        // One server at a time is tried: a call that one does not answer says nothing of the others.
        let mut tried = None;
        let mut allows = |id: &ServerId| match failed.get(id).and_then(|server| server.loads_rest) {
            None => true,
            Some(until) if now < until => false,
            Some(_) => *tried.get_or_insert(*id) == *id,
        };
        let allowed = servers.iter().map(&mut allows).collect();
        if let Some(rest) = tried.and_then(|id| failed.get_mut(&id)?.loads_rest.as_mut()) {
            *rest = now + REST;
        }
        Some(allowed)
    }

    /// A load of keys failed. If some of their servers give no answers, it was them; or else those that failed before.
    pub(crate) fn failed_load<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        let servers: BTreeSet<_> = self.of_keys(keys).into_iter().collect();
        let mut failed = self.failed();
        let is_silent = |id: &ServerId| {
            failed.get(id).is_some_and(|server| server.is_open)
                || self.servers.as_ref().is_some_and(|servers| servers.is_silent(*id))
        };
        let silent: Vec<_> = servers.iter().copied().filter(is_silent).collect();
        let known = servers.iter().copied().filter(|id| failed.contains_key(id)).collect();
        let mut guesses = [silent, known].into_iter().filter(|some: &Vec<_>| !some.is_empty());
        let those = guesses.next().unwrap_or_else(|| servers.into_iter().collect());
        for id in those {
            let server = failed.entry(id).or_insert_with(Failed::now);
            server.last = Instant::now();
            server.loads_rest = Some(server.last + REST);
        }
        self.is_troubled.store(!failed.is_empty(), Ordering::Relaxed);
    }

    /// A load of keys got an answer.
    pub(crate) fn answered_load<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return;
        }
        let servers = self.of_keys(keys);
        let mut failed = self.failed();
        failed.retain(|id, server| {
            if servers.contains(id) {
                server.loads_rest = None;
            }
            server.unanswered > 0 || server.loads_rest.is_some()
        });
        self.is_troubled.store(!failed.is_empty(), Ordering::Relaxed);
    }

    /// Lets a call to a server through, or fails it. One that asks in the name of all is to be kept until it ended.
    fn enter(&self, server: ServerId, batch: &Batch) -> Result<Option<Asking<'_>>> {
        let mut failed = self.failed();
        let Some(known) = failed.get_mut(&server).filter(|server| server.is_open) else {
            return Ok(None);
        };
        if batch.is_by_itself() || batch.ops().iter().all(always_passes) {
            return Ok(None);
        }
        if !std::mem::replace(&mut known.is_asked, true) {
            return Ok(Some(Asking { breaker: self, server }));
        }
        let since = known.since.elapsed();
        drop(failed);
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

    /// What a call came to that was let through; `before` is the server that it was for when it began, if that is known.
    fn heard(&self, done: &Result<Replies>, batch: &Batch, before: Option<ServerId>) {
        match done {
            _ if !self.is_on => {}
            Err(_) if batch.is_by_itself() => {}
            Err(error) if error.outcome() != Outcome::Rejected => {
                // Other kinds are the call's own matter: they say nothing of the server.
                if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
                    && let Some(server) = before.or_else(|| self.sole(batch))
                {
                    self.unanswered(server);
                }
            }
            _ if !self.is_troubled.load(Ordering::Relaxed) => {}
            Ok(replies) => {
                // A call that was sent on was answered by another one. Of several, one may not have answered.
                let servers = self.of(batch);
                if servers.len() == 1 || replies.results().iter().all(Result::is_ok) {
                    self.keep(|id, _| !servers.contains(&id));
                }
            }
            Err(_) => {
                if let Some(server) = before.or_else(|| self.sole(batch)) {
                    self.keep(|id, _| id != server);
                }
            }
        }
    }

    fn unanswered(&self, server: ServerId) {
        let mut failed = self.failed();
        let known = failed.entry(server).or_insert_with(Failed::now);
        known.last = Instant::now();
        if known.unanswered == 0 {
            known.since = known.last;
        }
        known.unanswered = known.unanswered.saturating_add(1);
        self.is_troubled.store(true, Ordering::Relaxed);
        if !known.is_open && known.unanswered >= UNANSWERED && known.since.elapsed() >= FOR {
            known.is_open = true;
            self.recorder.is_open(true);
            drop(failed);
            self.recorder.opened();
            tracing::warn!(target: "larder", "a server does not answer: calls fail at once until it does");
        }
    }

    /// Forgets servers that are gone, and those that failed seldom and long ago.
    fn tidy(&self) {
        let Some(servers) = &self.servers else { return };
        self.keep(|id, server| {
            servers.has(id) && (server.is_open || server.last.elapsed() < REMEMBERED)
        });
    }

    /// Keeps some of the servers that did not answer: the others did, or are not to be waited for.
    fn keep(&self, keep: impl Fn(ServerId, &Failed) -> bool) {
        let mut failed = self.failed();
        let is_open = |failed: &HashMap<_, Failed>| failed.values().any(|server| server.is_open);
        let was_open = is_open(&failed);
        failed.retain(|id, server| keep(*id, server));
        self.is_troubled.store(!failed.is_empty(), Ordering::Relaxed);
        if was_open && !is_open(&failed) {
            self.recorder.is_open(false);
            drop(failed);
            tracing::info!(target: "larder", "all servers answer again");
        }
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<ServerId, Failed>> {
        // Nothing that can panic runs under this lock.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The steps of locks and of leases that are held have limits of their own, and what they give up for is lost: they wait for the store as they
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
        if let Some(server) = self.breaker.failed().get_mut(&self.server) {
            server.is_asked = false;
        }
    }
}

/// Fails calls while their server does not answer.
pub(crate) struct Broken<S> {
    inner: S,
    breaker: Arc<Breaker>,
}

impl<S: Layer> Broken<S> {
    pub(crate) fn new(inner: S, breaker: Arc<Breaker>) -> Self {
        Self { inner, breaker }
    }

    /// A call while a server did not answer the last one.
    async fn in_trouble(&self, batch: &Batch) -> Result<Replies> {
        self.breaker.tidy();
        let server = self.breaker.sole(batch);
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
        self.breaker.heard(&done, batch, server);
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
        let heard = |done: &_| self.breaker.heard(done, batch, None);
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
        Arc::new(Breaker::new(true, None, Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_loads_rest_and_then_one_tries() {
        let breaker = breaker();
        let key = Key::new("k").unwrap();
        let allows = || breaker.allows_load(&key);
        assert!(allows());
        breaker.failed_load([&key]);
        assert!(!allows());
        tokio::time::advance(REST).await;
        assert!(allows() && !allows());
        breaker.answered_load([&key]);
        assert!(allows() && allows());
        assert!(!breaker.is_troubled.load(Ordering::Relaxed));
    }

    /// A server for each slot: the keys of those that there are.
    struct OfSlots(Mutex<Vec<Key>>);

    impl Servers for OfSlots {
        fn of_slots(&self, slots: &mut dyn Iterator<Item = u16>) -> Vec<ServerId> {
            slots.collect()
        }

        fn of(&self, batch: &Batch) -> BTreeSet<ServerId> {
            batch.ops().iter().flat_map(Op::keys).map(Key::slot).collect()
        }

        fn version(&self) -> u64 {
            0
        }

        fn is_silent(&self, server: ServerId) -> bool {
            server == Key::new("silent").unwrap().slot()
        }

        fn has(&self, server: ServerId) -> bool {
            self.0.lock().unwrap().iter().any(|key| key.slot() == server)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_servers_each_rests_by_itself_until_it_answers_or_is_gone() {
        let key = |name| Key::new(name).unwrap();
        let servers = Arc::new(OfSlots(Mutex::new(vec![key("a"), key("b")])));
        let breaker = Arc::new(Breaker::new(true, Some(servers.clone()), Arc::default()));
        let (say, said) = watch::channel(failure(ErrorKind::Timeout, Outcome::Unknown));
        let store = Broken::new(Says(said), Arc::clone(&breaker));
        let call =
            async |name| store.call(&Batch::one("test", Op::Exists { key: key(name) })).await;
        let open = || breaker.recorder.snapshot().is_open;
        let fail = async || {
            say.send_replace(failure(ErrorKind::Timeout, Outcome::Unknown));
            for _ in 0..UNANSWERED {
                assert!(!is_refused(&call("a").await));
                tokio::time::advance(FOR / 2).await;
            }
            assert!(open());
        };
        fail().await;
        breaker.failed_load([&key("a"), &key("b")]);
        say.send_replace(None);
        let asks = exists_at(key("a"));
        let mut asking = pin!(store.call(&asks));
        assert!(waits(asking.as_mut()).await);
        assert!(is_refused(&call("a").await));
        // The other one is asked, and its answer says nothing of the first.
        say.send_replace(Some(Ok(())));
        assert!(call("b").await.is_ok() && open());
        let both = || breaker.allow_loads([&key("a"), &key("b")]);
        assert_eq!(both(), Some(vec![false, true]));
        assert!(asking.await.is_ok() && !open());
        assert!(!breaker.is_troubled.load(Ordering::Relaxed));
        // Of two that failed together one is tried first.
        breaker.failed_load([&key("a"), &key("b")]);
        assert_eq!(both(), Some(vec![false, false]));
        tokio::time::advance(REST).await;
        assert_eq!(both(), Some(vec![true, false]));
        assert_eq!(both(), Some(vec![false, true]));
        breaker.answered_load([&key("a"), &key("b")]);
        assert!(both().is_none());
        // One that is silent is not mistaken for the other.
        let silent = [key("a"), key("silent")];
        breaker.failed_load(&silent);
        assert_eq!(breaker.allow_loads(&silent), Some(vec![true, false]));
        breaker.answered_load(&silent);
        // Nor one that gives answers but refuses, once the other was read.
        breaker.failed_load([&key("a"), &key("b")]);
        breaker.answered_load([&key("b")]);
        breaker.failed_load([&key("a"), &key("b")]);
        assert_eq!(both(), Some(vec![false, true]));
        breaker.answered_load([&key("a")]);

        // So it is by an answer to a call on keys of both.
        fail().await;
        say.send_replace(Some(Ok(())));
        let keys = vec![key("a"), key("b")];
        assert!(store.call(&Batch::one("test", Op::GetMany { keys })).await.is_ok() && !open());

        // One that is replaced is waited for no longer.
        fail().await;
        *servers.0.lock().unwrap() = vec![key("b"), key("c")];
        say.send_replace(Some(Ok(())));
        assert!(call("b").await.is_ok() && !open());
        // Nor one that failed once, and that nobody asked since.
        say.send_replace(failure(ErrorKind::Timeout, Outcome::Unknown));
        assert!(call("c").await.is_err() && breaker.is_troubled.load(Ordering::Relaxed));
        tokio::time::advance(REMEMBERED).await;
        say.send_replace(Some(Ok(())));
        assert!(call("b").await.is_ok() && !breaker.is_troubled.load(Ordering::Relaxed));
    }

    fn exists_at(key: Key) -> Batch {
        Batch::one("test", Op::Exists { key })
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
        let store = Broken::new(Says(said), breaker());
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
        let store = Broken::new(Says(said), breaker());
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

//! Repeating, by idempotence: what was surely not applied, and what may be applied twice.

use std::time::Duration;

use tokio::time::Instant;

use super::{Capabilities, Layer, Store, runtime};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Replies};

/// The pauses between attempts: from the first, doubling, to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Repeats a batch that met an unavailable server, within its deadline: if it was never sent, or if
/// applying it again changes nothing. Another one is sent at most once, even if the server refused it.
#[derive(Debug)]
pub(crate) struct Retry<S> {
    inner: S,
}

impl<S: Store> Retry<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S: Store> Layer for Retry<S> {
    async fn call(&self, batch: &Batch) -> Result<Replies> {
        let done = self.inner.run(batch.clone()).await;
        match verdict(batch, &done) {
            None => done,
            // Boxed, so that calls that go well do not carry its room.
            Some(again) => Box::pin(self.repeat(batch, done, again)).await,
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl<S: Store> Retry<S> {
    /// Goes on after the first attempt, which may be made `again`.
    async fn repeat(
        &self,
        batch: &Batch,
        mut done: Result<Replies>,
        mut again: Outcome,
    ) -> Result<Replies> {
        let mut pause = FIRST_PAUSE;
        let mut unsure = false;
        loop {
            unsure |= again == Outcome::Unknown;
            if again == Outcome::Rejected && !unsure {
                batch.clear_sent();
            }
            // Up to half of the pause is left to chance, so that callers do not come in step.
            let jittered = pause.mul_f64(1.0 - fastrand::f64() / 2.0);
            if batch.deadline().is_some_and(|end| Instant::now() + jittered >= end) {
                return settled(done, unsure);
            }
            if !runtime::is_here() {
                return settled(done, unsure);
            }
            tokio::time::sleep(jittered).await;
            pause = (pause * 2).min(LAST_PAUSE);
            done = self.inner.run(batch.clone()).await;
            match verdict(batch, &done) {
                Some(next) => again = next,
                None => return settled(done, unsure),
            }
        }
    }
}

/// The outcome of an attempt that may be made again, or nothing if it may not.
fn verdict(batch: &Batch, done: &Result<Replies>) -> Option<Outcome> {
    let repeatable = |error: &Error| {
        error.kind() == ErrorKind::Unavailable
            && (error.outcome() == Outcome::NotSent || batch.is_repeatable())
    };
    match done {
        Err(error) => repeatable(error).then(|| error.outcome()),
        // Some of a batch may have been applied: only if all of it was refused is it one failure.
        Ok(replies) => {
            let mut outcome = None;
            for result in replies.results() {
                match result {
                    Err(error) if repeatable(error) => outcome = Some(error.outcome()),
                    _ => return None,
                }
            }
            outcome
        }
    }
}

/// An earlier attempt may have been applied, whatever became of the last: a refusal of the last one
/// does not say that nothing was.
fn settled(done: Result<Replies>, unsure: bool) -> Result<Replies> {
    if !unsure {
        return done;
    }
    match done {
        Ok(replies) => Ok(replies.map_errors(|_, error| as_unknown(error))),
        Err(error) => Err(as_unknown(error)),
    }
}

fn as_unknown(error: Error) -> Error {
    match error.outcome() {
        Outcome::NotSent | Outcome::Rejected => error.with_outcome(Outcome::Unknown),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::key::Key;
    use crate::op::{Op, Reply};
    use crate::store::InvalidationSink;

    /// Gives the answers of a script, one an attempt.
    struct Scripted(Mutex<VecDeque<Result<Replies>>>);

    impl Store for Scripted {
        fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
            batch.mark_sent();
            let next = self.0.lock().unwrap().pop_front();
            Box::pin(std::future::ready(next.expect("one attempt too many")))
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities::default()
        }

        fn on_invalidation(&self, _sink: Arc<dyn InvalidationSink>) {}
    }

    fn unavailable(outcome: Outcome) -> Result<Replies> {
        Err(Error::new(ErrorKind::Unavailable, "gone").with_outcome(outcome))
    }

    fn refused(kind: ErrorKind) -> Result<Replies> {
        Ok(Replies::one(Err(Error::new(kind, "no").with_outcome(Outcome::Rejected))))
    }

    fn done() -> Result<Replies> {
        Ok(Replies::one(Ok(Reply::Done)))
    }

    /// What a script comes to, and how many of its answers were not asked for.
    async fn outcome_of(op: Op, script: Vec<Result<Replies>>) -> (Result<Reply>, usize) {
        let retry = Retry::new(Scripted(Mutex::new(script.into())));
        let result = retry.call(&Batch::one("test", op)).await.and_then(Replies::into_one);
        let left = retry.inner.0.lock().unwrap().len();
        (result, left)
    }

    fn set() -> Op {
        let key = Key::new("k").unwrap();
        Op::Set { key, value: Bytes::new(), expiry: None, only_if: None }
    }

    fn incr() -> Op {
        Op::IncrBy { key: Key::new("k").unwrap(), delta: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_is_sent_again_whatever_it_is() {
        for op in [set(), incr()] {
            let script = vec![unavailable(Outcome::NotSent), unavailable(Outcome::NotSent), done()];
            let (result, left) = outcome_of(op, script).await;
            assert!(result.is_ok() && left == 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_applied_is_sent_again_only_if_that_changes_nothing() {
        let (result, left) = outcome_of(set(), vec![unavailable(Outcome::Unknown), done()]).await;
        assert!(result.is_ok() && left == 0);
        let (result, left) = outcome_of(incr(), vec![unavailable(Outcome::Unknown), done()]).await;
        assert_eq!((result.unwrap_err().outcome(), left), (Outcome::Unknown, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_an_attempt_without_an_answer_does_not_say_that_nothing_was_applied() {
        let script = vec![unavailable(Outcome::Unknown), refused(ErrorKind::OutOfMemory)];
        let (result, _) = outcome_of(set(), script).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::OutOfMemory, Outcome::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_waiting_cannot_mend_is_not_repeated() {
        let (result, left) = outcome_of(set(), vec![refused(ErrorKind::WrongType), done()]).await;
        assert_eq!((result.unwrap_err().outcome(), left), (Outcome::Rejected, 1));
    }
}

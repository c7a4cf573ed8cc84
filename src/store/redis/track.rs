//! Tracked connections: what the server tells of changes, and for how long it can be relied on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::future::{Either, select};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, Value};
use tokio::sync::Notify;

use super::dial::Driver;
use super::failure;
use super::ping::Patience;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::Vouch;
use crate::store::{InvalidationSink, Sweeping};

/// Who is told of changes.
#[derive(Default)]
pub(super) struct Sinks {
    all: RwLock<Vec<Arc<dyn InvalidationSink>>>,
    // Whether the server that was asked last to tell of changes would not.
    refused: AtomicBool,
}

impl Sinks {
    pub(super) fn add(&self, sink: Arc<dyn InvalidationSink>) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    fn each(&self, tell: impl Fn(&dyn InvalidationSink)) {
        let sinks = self.all.read().unwrap_or_else(PoisonError::into_inner);
        sinks.iter().for_each(|sink| tell(&**sink));
    }

    /// What came of asking a server to tell of changes.
    pub(super) fn asked<T>(&self, done: &Result<T>) {
        match done {
            Ok(_) => self.refused.store(false, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.refused.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    pub(super) fn are_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Of which changes a connection is to tell.
#[derive(Clone)]
pub(super) struct Tracking {
    pub(super) sinks: Arc<Sinks>,
    /// Every key with this prefix; without one, what is read over the connection.
    pub(super) prefix: Option<Arc<str>>,
}

/// What one tracked connection vouches for.
pub(super) struct Tracker {
    sinks: Arc<Sinks>,
    vouch: Mutex<Vouch>,
    lost: AtomicBool,
    over: Notify,
}

impl Tracker {
    pub(super) fn new(sinks: Arc<Sinks>) -> Self {
        Self {
            sinks,
            vouch: Mutex::new(Vouch::new()),
            lost: AtomicBool::new(false),
            over: Notify::new(),
        }
    }

    /// The promise for what is asked from now on.
    pub(super) fn vouch(&self) -> Vouch {
        *self.current()
    }

    /// What the server pushed. Called by the driver in the order of the wire, between replies.
    pub(super) fn pushed(&self, info: &PushInfo) {
        match info.kind {
            PushKind::Invalidate => match &info.data[..] {
                [Value::Array(keys)] if keys.iter().all(is_text) => {
                    for key in keys {
                        if let Value::BulkString(key) = key {
                            self.sinks.each(|sink| sink.changed(key));
                        }
                    }
                }
                [Value::Nil] => {
                    self.flushed();
                    self.sinks.each(|sink| sink.all_changed(Sweeping::Flushed));
                }
                // Nothing is certain any more.
                _ => {
                    tracing::debug!(target: "larder", "an invalidation cannot be read, its connection is given up");
                    self.lost();
                }
            },
            PushKind::Disconnection => self.lost(),
            _ => {}
        }
    }

    /// The connection is gone, or is given up.
    pub(super) fn lost(&self) {
        if self.lost.swap(true, Ordering::SeqCst) {
            return;
        }
        self.current().end();
        self.over.notify_one();
        self.sinks.each(|sink| sink.all_changed(Sweeping::Lost));
    }

    /// A new promise takes the old one's place, unless nobody is left to keep it.
    fn flushed(&self) {
        let mut current = self.current();
        current.end();
        if !self.lost.load(Ordering::SeqCst) {
            *current = Vouch::new();
        }
    }

    /// Some of what was read over the connection is told of by another server from now on: what it vouched for is
    /// void, and a new promise begins.
    pub(super) fn moved(&self) {
        self.flushed();
        self.sinks.each(|sink| sink.all_changed(Sweeping::Lost));
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Vouch> {
        // Nothing that can panic runs under this lock.
        self.vouch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the connection's bytes for as long as it lives, and asks now and then whether it does: a peer that is gone
    /// without a word tells of no change.
    pub(super) async fn drive(
        &self,
        driver: Driver,
        connection: MultiplexedConnection,
        patience: Patience,
    ) {
        let silent = async {
            patience.unanswered(connection).await;
            tracing::debug!(target: "larder", "a tracked connection is silent, it is given up");
        };
        let silent = std::pin::pin!(silent);
        let over = std::pin::pin!(self.over.notified());
        select(driver, select(silent, over)).await;
        self.lost();
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.current().end();
    }
}

fn is_text(value: &Value) -> bool {
    matches!(value, Value::BulkString(_))
}

/// Switches tracking on. The driver has to be polled for it: nobody does so yet.
pub(super) async fn switch_on(
    tracking: &Tracking,
    connection: &mut MultiplexedConnection,
    driver: &mut Driver,
) -> Result<()> {
    let mut command = Cmd::new();
    command.arg("CLIENT").arg("TRACKING").arg("ON");
    if let Some(prefix) = &tracking.prefix {
        command.arg("BCAST").arg("PREFIX").arg(&**prefix);
    }
    let answer = std::pin::pin!(connection.send_packed_command(&command));
    let answer = match select(driver, answer).await {
        Either::Left(_) => {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the connection was lost before it was tracked",
            )
            .with_outcome(Outcome::NotSent));
        }
        Either::Right((answer, _)) => answer,
    };
    match answer {
        Ok(Value::Okay) => Ok(()),
        // It cannot just now, which says nothing of what it would.
        Ok(Value::ServerError(error)) if is_passing(&failure::refused(&error)) => {
            Err(failure::refused(&error).with_outcome(Outcome::NotSent))
        }
        Ok(_) => Err(refused("the server refused CLIENT TRACKING")),
        Err(error) => {
            let error = failure::failed(&error, true);
            if error.outcome() == Outcome::Rejected {
                return Err(refused("the server refused CLIENT TRACKING"));
            }
            Err(error.with_outcome(Outcome::NotSent))
        }
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Auth)
}

/// A server that does not track: the near cache is off, and waits look again from time to time.
pub(super) fn refused(why: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, why).with_outcome(Outcome::NotSent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(data: Vec<Value>) -> PushInfo {
        PushInfo { kind: PushKind::Invalidate, data }
    }

    #[test]
    fn a_flush_ends_the_promise_and_begins_another() {
        let tracker = Tracker::new(Arc::default());
        let before = tracker.vouch();
        tracker.pushed(&push(vec![Value::Nil]));
        assert!(!before.holds() && tracker.vouch().holds());
    }

    #[test]
    fn a_flush_told_behind_a_push_that_cannot_be_read_brings_no_promise_back() {
        let tracker = Tracker::new(Arc::default());
        tracker.pushed(&push(Vec::new()));
        assert!(!tracker.vouch().holds());
        tracker.pushed(&push(vec![Value::Nil]));
        assert!(!tracker.vouch().holds(), "nobody would end it");
    }
}

//! What calls that were given up leave behind: their requests stand in the driver's queue until the server reads on, and their
//! answers come all the same, or the connection ends.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use redis::aio::MultiplexedConnection;
use tokio::sync::Notify;

use super::gather::Pulse;
use super::link::Link;
use crate::store::Backlog;

/// How often a connection is looked at that was let go of, or may have to be: its last calls may still get their answers.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was left behind on one connection.
#[derive(Debug)]
pub(super) struct Behind {
    total: Arc<Backlog>,
    here: Mutex<Here>,
    // Whether there is anything here.
    any: AtomicBool,
    let_go: AtomicBool,
    gone: Notify,
}

#[derive(Debug, Default)]
struct Here {
    // Of requests.
    bytes: usize,
    // Large calls, whichever way what is large goes.
    large: usize,
    swept: bool,
    over: bool,
}

impl Behind {
    pub(super) fn new(total: Arc<Backlog>) -> Self {
        Self {
            total,
            here: Mutex::default(),
            any: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            gone: Notify::new(),
        }
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        // Nothing that can panic runs under this lock.
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call was given up, with a request of so many bytes. Answers whether somebody has to see to it that it is counted out
    /// again.
    pub(super) fn leave(&self, bytes: usize, large: bool) -> bool {
        let counts = Backlog::counts(bytes);
        if !counts && !large {
            return false;
        }
        let mut here = self.here();
        if here.over {
            return false;
        }
        here.large += usize::from(large);
        if counts {
            here.bytes += bytes;
            self.total.add(bytes);
        }
        self.any.store(true, Ordering::Relaxed);
        !std::mem::replace(&mut here.swept, true)
    }

    /// How many bytes of requests there are, and how many large calls.
    fn left(&self) -> (usize, usize) {
        let here = self.here();
        (here.bytes, here.large)
    }

    /// Whether anything that counts was left here.
    pub(super) fn is_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Counts out what is through. Answers whether more is there.
    fn sweep(&self, (bytes, large): (usize, usize)) -> bool {
        let mut here = self.here();
        here.large = here.large.saturating_sub(large);
        let swept = bytes.min(here.bytes);
        here.bytes -= swept;
        self.total.sub(swept);
        here.swept = here.bytes > 0 || here.large > 0;
        self.any.store(here.swept, Ordering::Relaxed);
        here.swept
    }

    /// Nobody sweeps.
    pub(super) fn unswept(&self) {
        self.here().swept = false;
    }

    /// The driver is gone, and its queue with it.
    pub(super) fn end(&self) {
        let mut here = self.here();
        here.over = true;
        self.total.sub(std::mem::take(&mut here.bytes));
    }

    /// No new call comes.
    pub(super) fn let_go(&self) {
        self.let_go.store(true, Ordering::SeqCst);
        self.gone.notify_waiters();
    }

    /// Ends when no new call comes.
    pub(super) async fn is_let_go(&self) {
        let gone = self.gone.notified();
        if !self.let_go.load(Ordering::SeqCst) {
            gone.await;
        }
    }
}

/// Counts out what was given up, once it is through: the answer to a request says that all before it are. A connection
/// that stays silent is left, as when a call is given up: what it holds may be all of the budget, and no call comes then.
pub(super) async fn sweep(link: Link, mut connection: MultiplexedConnection, pulse: Arc<Pulse>) {
    let ping = redis::cmd("PING");
    loop {
        let seen = pulse.behind.left();
        {
            let mut answer = pin!(connection.send_packed_command(&ping));
            while let Either::Right(_) =
                select(answer.as_mut(), pin!(tokio::time::sleep(LOOK_EVERY))).await
            {
                // A connection that was let go of shall end as soon as no call waits for it.
                if pulse.behind.let_go.load(Ordering::SeqCst) || link.leave_if_silent(&pulse) {
                    return;
                }
            }
        }
        pulse.answer();
        if !pulse.behind.sweep(seen) {
            return;
        }
    }
}

/// Waits until a connection was let go of and no call waits for an answer over it. Its driver alone would stay for as long as
/// a server that does not read keeps the line.
pub(super) async fn unused(pulse: &Arc<Pulse>) {
    pulse.is_let_go().await;
    while pulse.is_used() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

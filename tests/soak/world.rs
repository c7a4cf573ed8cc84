//! What the workers share: the clients, and what became of their calls.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{CacheClient, Error, ErrorKind, Outcome, Result};

use crate::{DEADLINE, until};

/// Two clients of one server, as two processes would have them.
pub(crate) struct World {
    pub(crate) clients: [CacheClient; 2],
    pub(crate) url: String,
    pub(crate) tally: Tally,
    seed: u64,
    over: AtomicBool,
}

/// What was counted. Every promise that can break has a counter which has to stay at zero.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) calls: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) longest_micros: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) near: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) deferred: AtomicU64,
    pub(crate) guards: AtomicU64,
    pub(crate) lost_guards: AtomicU64,
    pub(crate) pushed: AtomicU64,
    pub(crate) clients: AtomicU64,
    // Broken promises.
    pub(crate) foreign_values: AtomicU64,
    pub(crate) impossible_values: AtomicU64,
    pub(crate) torn: AtomicU64,
    pub(crate) own_stale: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) overlaps: AtomicU64,
    pub(crate) token_regressions: AtomicU64,
    pub(crate) outlived: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// How a call ended, for who writes down what the store may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was applied.
    Acked,
    /// It was not, and never will be.
    Refused,
    /// It may have been applied, or may still be.
    Unknown,
}

impl World {
    pub(crate) fn new(url: &str, seed: u64) -> Self {
        let client = || CacheClient::builder().url(url).deadline(DEADLINE).build().unwrap();
        Self {
            clients: [client(), client()],
            url: url.to_owned(),
            tally: Tally::default(),
            seed,
            over: AtomicBool::new(false),
        }
    }

    /// The chance of one worker.
    pub(crate) fn random(&self, kind: u64, worker: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ (kind << 32) ^ (worker << 16))
    }

    pub(crate) fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Both clients work again.
    pub(crate) async fn settle(&self) {
        for client in &self.clients {
            until("the server is back", async || client.ping().await.is_ok()).await;
        }
    }

    /// Makes a call, looks at how long it took, and that it failed for a reason that the faults give.
    pub(crate) async fn call<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let done = work.await;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.tally.longest_micros.fetch_max(micros, Ordering::Relaxed);
        count(&self.tally.calls);
        if let Err(error) = &done {
            assert!(is_expected(error), "{error} ({:?}, {:?})", error.kind(), error.code());
            count(&self.tally.failed);
        }
        done
    }

    /// As [`call`](Self::call), for a write: how it ended.
    pub(crate) async fn write<T>(&self, work: impl Future<Output = Result<T>>) -> Ended {
        match self.call(work).await {
            Ok(_) => Ended::Acked,
            Err(error) => match error.outcome() {
                Outcome::NotSent | Outcome::Rejected => Ended::Refused,
                _ => {
                    count(&self.tally.unknown);
                    Ended::Unknown
                }
            },
        }
    }

    /// Makes a call that its caller may give up. Nothing if it did.
    pub(crate) async fn write_or_drop<T>(
        &self,
        work: impl Future<Output = Result<T>>,
        patience: Option<Duration>,
    ) -> Ended {
        let Some(patience) = patience else { return self.write(work).await };
        match tokio::time::timeout(patience, self.write(work)).await {
            Ok(ended) => ended,
            Err(_) => {
                count(&self.tally.cancelled);
                Ended::Unknown
            }
        }
    }
}

/// What the faults bring about: a server that is away, slow (also for the leases of the locks), or out of memory.
fn is_expected(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Timeout
            | ErrorKind::Unavailable
            | ErrorKind::Overloaded
            | ErrorKind::LockTimeout
            | ErrorKind::Load
    ) || (error.kind() == ErrorKind::Config
        && error.op() == "lock"
        && error.to_string().contains("a try took"))
        || matches!(error.code(), Some("OOM" | "LOADING" | "MISCONF" | "BUSY" | "EXECABORT"))
}

impl Tally {
    fn broken(&self) -> [(&'static str, u64); 8] {
        [
            ("answers to another call", of(&self.foreign_values)),
            ("values that nobody wrote", of(&self.impossible_values)),
            ("transactions seen in half", of(&self.torn)),
            ("reads older than an own write", of(&self.own_stale)),
            ("reads older than another's write", of(&self.stale)),
            ("two valid guards", of(&self.overlaps)),
            ("fencing tokens that fell back", of(&self.token_regressions)),
            ("values past their time to live", of(&self.outlived)),
        ]
    }

    /// # Panics
    /// If a promise broke, or nothing was tried.
    pub(crate) fn check(&self, deadline: Duration) {
        for (what, broken) in self.broken() {
            assert_eq!(broken, 0, "{what}");
        }
        let tried = [&self.calls, &self.failed, &self.cancelled, &self.near, &self.loads];
        let more = [&self.invalidations, &self.guards, &self.lost_guards, &self.pushed];
        let tried = tried.into_iter().chain(more);
        assert!(tried.map(of).all(|tried| tried > 0), "something was not tried");
        // How punctual deadlines are is measured elsewhere, with the machine to itself: here it is that nothing hangs.
        let longest = Duration::from_micros(of(&self.longest_micros));
        assert!(longest < deadline + Duration::from_secs(2), "a call took {longest:?}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls ({} failed, {} of unknown outcome, {} dropped by their callers, the longest took {:?}); {} reads \
             through ({} near, {} loads), {} invalidations and {} deferred; {} guards ({} lost); {} elements pushed; {} \
             clients that came and went; broken:",
            of(&self.calls),
            of(&self.failed),
            of(&self.unknown),
            of(&self.cancelled),
            Duration::from_micros(of(&self.longest_micros)),
            of(&self.reads),
            of(&self.near),
            of(&self.loads),
            of(&self.invalidations),
            of(&self.deferred),
            of(&self.guards),
            of(&self.lost_guards),
            of(&self.pushed),
            of(&self.clients),
        )?;
        for (at, (what, broken)) in self.broken().into_iter().enumerate() {
            write!(f, "{} {what} {broken}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

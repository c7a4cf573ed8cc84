//! What the workers share: the clients, what became of their calls, and what a fault excuses.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Builder, CacheClient, Error, ErrorKind, Outcome, Result};

use crate::lateness::Lateness;
use crate::place::Topology;
use crate::tally::{FAILED, Promise, Tally, count};
use crate::{DEADLINE, until};

/// How much later than its deadline a call may end, beside what the machine is late.
const GRACE: Duration = Duration::from_millis(50);

/// In a calm in which a server was slower than this to answer a ping, or a timer of this process as late, calls may fail: some
/// wait for no more than a hundred milliseconds.
const SLOW: Duration = Duration::from_millis(50);

/// Two clients of one place, as two processes would have them.
pub(crate) struct World {
    pub(crate) clients: [CacheClient; 2],
    // Of the servers beside it over which a lock is held, of each client.
    pub(crate) others: [Vec<CacheClient>; 2],
    pub(crate) builder: Box<dyn Fn() -> Builder + Send + Sync>,
    pub(crate) topology: Topology,
    pub(crate) tally: Tally,
    pub(crate) lateness: Lateness,
    /// What was acknowledged may be gone: a replica took over that did not have it.
    pub(crate) lost: Upheaval,
    /// Slots moved, and the keys in them.
    pub(crate) moved: Upheaval,
    /// Who serves what changed, or a server began anew: the rest of a scan is another one's.
    pub(crate) changed: Upheaval,
    calm: Mutex<Calm>,
    seed: u64,
    over: AtomicBool,
}

/// A time without faults, when everything works again: what begins and ends in it does not fail.
#[derive(Default)]
struct Calm {
    // Nothing while there is none.
    since: Option<Instant>,
    calls: u64,
    failed: Vec<String>,
}

/// Faults over which something cannot be promised, one at a time: whether there is one, and how many ended.
#[derive(Debug, Default)]
pub(crate) struct Upheaval {
    is_on: AtomicBool,
    ended: AtomicU64,
}

impl Upheaval {
    pub(crate) fn begin(&self) {
        self.is_on.store(true, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
        self.is_on.store(false, Ordering::SeqCst);
    }

    /// It was none: what was marked before it or meanwhile stands.
    pub(crate) fn was_none(&self) {
        self.is_on.store(false, Ordering::SeqCst);
    }

    /// A mark to ask from.
    pub(crate) fn now(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether there is one, or one ended since the mark.
    pub(crate) fn since(&self, mark: u64) -> bool {
        self.is_on.load(Ordering::SeqCst) || self.now() != mark
    }
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

impl<T> From<&Result<T>> for Ended {
    fn from(done: &Result<T>) -> Self {
        match done {
            Ok(_) => Self::Acked,
            Err(error) => match error.outcome() {
                Outcome::NotSent | Outcome::Rejected => Self::Refused,
                _ => Self::Unknown,
            },
        }
    }
}

impl World {
    pub(crate) fn new(
        clients: [CacheClient; 2],
        others: [Vec<CacheClient>; 2],
        builder: Box<dyn Fn() -> Builder + Send + Sync>,
        topology: Topology,
        seed: u64,
    ) -> Self {
        Self {
            clients,
            others,
            builder,
            topology,
            tally: Tally::new(),
            lateness: Lateness::start(),
            lost: Upheaval::default(),
            moved: Upheaval::default(),
            changed: Upheaval::default(),
            calm: Mutex::default(),
            seed,
            over: AtomicBool::new(false),
        }
    }

    /// The client of a worker.
    pub(crate) fn client(&self, worker: u64) -> &CacheClient {
        &self.clients[worker as usize % 2]
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

    /// Both clients work again, with every server.
    pub(crate) async fn settle(&self) {
        until("the servers are back", async || self.all_answer().await).await;
    }

    async fn all_answer(&self) -> bool {
        for client in &self.clients {
            // Enough keys that each node of a cluster has some.
            for key in 0..12 {
                if client.set_value(format!("settle:{key}"), "", DEADLINE).await.is_err() {
                    return false;
                }
            }
        }
        for client in self.others.iter().flatten() {
            if client.ping().await.is_err() {
                return false;
            }
        }
        true
    }

    /// No call has a reason to fail from now on.
    pub(crate) fn calm_begins(&self) {
        self.calm.lock().unwrap().since = Some(Instant::now());
    }

    /// A fault comes. `slowest`: what a server took meanwhile at most to answer somebody else.
    pub(crate) fn calm_ends(&self, slowest: Duration) {
        let calm = std::mem::take(&mut *self.calm.lock().unwrap());
        let slowest = slowest.max(self.lateness.of_timers(calm.since.unwrap()));
        let busy = slowest > SLOW;
        self.tally.was_calm(calm.calls, busy);
        for failed in calm.failed {
            if busy {
                println!("soak: not judged, since the machine was {slowest:?} late: {failed}");
            }
            let seen = format_args!("{failed}; the machine was {slowest:?} late");
            self.tally.broke(Promise::Failed, busy, seen);
        }
    }

    /// Judges a call that began at that moment.
    fn was_calm<T>(&self, begun: Instant, op: &str, done: &Result<T>) {
        let mut calm = self.calm.lock().unwrap();
        if calm.since.is_none_or(|since| begun < since) {
            return;
        }
        calm.calls += 1;
        if let Err(error) = done
            // Locks are held for long by others, and loaders fail, as the test wants.
            && !matches!(error.kind(), ErrorKind::LockTimeout | ErrorKind::Load)
        {
            calm.failed.push(format!("{op}, {:?}: {error}", error.kind()));
        }
    }

    /// Counts a broken promise.
    pub(crate) fn broke(&self, promise: Promise, seen: std::fmt::Arguments<'_>) {
        self.tally.broke(promise, false, seen);
    }

    /// The same, of what a failover since `mark` may have lost.
    pub(crate) fn broke_or_lost(&self, promise: Promise, mark: u64, seen: std::fmt::Arguments<'_>) {
        self.tally.broke(promise, self.lost.since(mark), seen);
    }

    /// Makes a call, looks at how long it took, and that it failed for a reason that the faults give.
    pub(crate) async fn call<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.within(DEADLINE, op, work).await
    }

    /// The same of a call that has another limit than the client's deadline.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let done = work.await;
        let took = begun.elapsed();
        self.was_calm(begun, op, &done);
        self.tally.took(took);
        if took > limit + GRACE {
            let machine = self.lateness.since(begun);
            if took <= limit + GRACE + machine {
                self.tally.forgave(took - limit);
            } else {
                self.broke(
                    Promise::Late,
                    format_args!(
                        "{op} took {took:?} of {limit:?}, the machine was {machine:?} late"
                    ),
                );
            }
        }
        self.ended(op, done)
    }

    /// Counts how a call ended.
    pub(crate) fn ended<T>(&self, op: &'static str, done: Result<T>) -> Result<T> {
        count(&self.tally.calls);
        match &done {
            Ok(_) => self.tally.did(op),
            Err(error) => {
                let expected = is_expected(error)
                    // A primary that sentinels replace is one until it is told otherwise.
                    || (error.kind() == ErrorKind::ReadOnly && self.topology == Topology::Sentinels);
                assert!(expected, "{error} ({:?}, {:?})", error.kind(), error.code());
                self.tally.did(FAILED);
                if Ended::from(&done) == Ended::Unknown {
                    count(&self.tally.unknown);
                }
            }
        }
        done
    }

    /// As [`call`](Self::call), for a write: how it ended.
    pub(crate) async fn write<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Ended {
        Ended::from(&self.call(op, work).await)
    }

    /// Makes a call that its caller may give up.
    pub(crate) async fn write_or_drop<T>(
        &self,
        op: &'static str,
        work: impl Future<Output = Result<T>>,
        patience: Option<Duration>,
    ) -> Ended {
        let Some(patience) = patience else { return self.write(op, work).await };
        match tokio::time::timeout(patience, self.write(op, work)).await {
            Ok(ended) => ended,
            Err(_) => {
                self.tally.did("calls dropped by their callers");
                Ended::Unknown
            }
        }
    }
}

/// How long a caller has patience: most have as much as the deadline.
pub(crate) fn patience(random: &mut fastrand::Rng) -> Option<Duration> {
    (random.u32(..10) == 0).then(|| Duration::from_micros(random.u64(..3_000)))
}

/// Leaves the machine to others for a moment.
pub(crate) async fn breathe(random: &mut fastrand::Rng) {
    tokio::time::sleep(Duration::from_micros(random.u64(..6_000))).await;
}

/// What the faults bring about: a server that is away, slow (also for the leases of the locks), or out of memory. Nothing of
/// how keys are spread over servers, or of scripts that a server does not know.
fn is_expected(error: &Error) -> bool {
    if matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" | "NOSCRIPT")) {
        return false;
    }
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

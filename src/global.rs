//! The client of the whole process: set up once, used from anywhere.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::client::CacheClient;
use crate::config::CacheConfig;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Op, Replies};
use crate::store::{Capabilities, InvalidationSink, Store};

/// How long [`close`] waits for calls in flight: they end at their own deadlines, one second unless
/// told otherwise, and an orchestrator gives a process about 10 to 30 seconds to end.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

static GLOBAL: RwLock<State> = RwLock::new(State { generation: 0, phase: Phase::Empty });

struct State {
    // Grows with every change of mind, so that an `init` that was overtaken notices.
    generation: u64,
    phase: Phase,
}

enum Phase {
    Empty,
    Starting,
    Ready(CacheClient),
}

// Nothing that can panic runs under this lock, and no client is dropped under it.
fn read() -> RwLockReadGuard<'static, State> {
    GLOBAL.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, State> {
    GLOBAL.write().unwrap_or_else(PoisonError::into_inner)
}

/// Sets up the global client: connects and pings. `config` is a [`CacheConfig`] or a store URL.
///
/// Of several at once one wins, and the others are errors. An `init` that fails or is dropped leaves
/// nothing behind: another may follow.
///
/// Connections belong to the tokio runtime on which they were made. When it ends, the next call
/// connects again on its own runtime; it must not be kept without running, as a current-thread
/// runtime is between two `block_on`.
///
/// # Errors
/// [`ErrorKind::Config`] for mistakes in the settings (all of them), or if the global client is set up
/// or being set up already; what connecting and the first `PING` give.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// larder::init(larder::CacheConfig::new().url("memory://")).await?;
/// larder::cache().set_value("greeting", "hello", None).await?;
/// larder::close().await?;
/// # Ok(()) }
/// ```
pub async fn init(config: impl Into<CacheConfig>) -> Result<()> {
    let claim = Claim::new()?;
    let client = config.into().connect().await?;
    claim.install(client)
}

/// Sets up the global client with a client of your own, after a `PING`: over a session provider, for
/// one.
///
/// # Errors
/// As [`init`].
pub async fn init_with(client: CacheClient) -> Result<()> {
    let claim = Claim::new()?;
    client.one("init", Op::Ping).await?.into_done()?;
    claim.install(client)
}

/// The global client: a cheap handle, from any thread and any runtime.
///
/// Before [`init`] its calls fail with [`ErrorKind::NotInitialized`]; a handle that was taken then
/// works as soon as `init` is done.
pub fn cache() -> CacheClient {
    match current() {
        Ok(client) => client,
        Err(_) => CacheClient::late(Late, current),
    }
}

/// Closes the global client: waits up to [`CLOSE_DEADLINE`] for the calls in flight, and lets go of
/// the connections. Calls that come later fail with [`ErrorKind::Closed`]. Does nothing if there is no
/// global client; ends an [`init`] that is under way.
///
/// # Errors
/// [`ErrorKind::Timeout`] if calls were still in flight. They go on, and their connections with them.
pub async fn close() -> Result<()> {
    let Some(client) = in_use() else { return Ok(()) };
    tokio::time::timeout(CLOSE_DEADLINE, client.close()).await.map_err(|_| {
        Error::new(
            ErrorKind::Timeout,
            format!("calls were still in flight after {CLOSE_DEADLINE:?}"),
        )
        .with_op("close")
    })
}

/// The client to be closed; a claim that is not done yet ends here.
fn in_use() -> Option<CacheClient> {
    let mut state = write();
    match &state.phase {
        Phase::Ready(client) => Some(client.clone()),
        Phase::Starting | Phase::Empty => {
            state.generation += 1;
            state.phase = Phase::Empty;
            None
        }
    }
}

/// Forgets the global client at once, so that a test can set up another. Handles that were taken
/// after `init` keep the old client; it lets go of its connections with the last of them.
pub fn reset() {
    let old = {
        let mut state = write();
        state.generation += 1;
        std::mem::replace(&mut state.phase, Phase::Empty)
    };
    drop(old);
}

fn current() -> Result<CacheClient> {
    match &read().phase {
        Phase::Ready(client) => Ok(client.clone()),
        Phase::Empty | Phase::Starting => {
            Err(Error::new(ErrorKind::NotInitialized, "the global client is not set up"))
        }
    }
}

/// The right to set up the global client; given back when it is dropped.
struct Claim {
    generation: u64,
}

impl Claim {
    fn new() -> Result<Self> {
        let mut state = write();
        let taken = match &state.phase {
            Phase::Empty => None,
            Phase::Starting => Some("the global client is being set up already; call init once"),
            Phase::Ready(_) => Some(
                "the global client is set up already; call larder::reset() before another init",
            ),
        };
        if let Some(taken) = taken {
            return Err(Error::new(ErrorKind::Config, taken).with_op("init"));
        }
        state.generation += 1;
        state.phase = Phase::Starting;
        Ok(Self { generation: state.generation })
    }

    fn install(self, client: CacheClient) -> Result<()> {
        let mut state = write();
        if state.generation == self.generation {
            state.phase = Phase::Ready(client);
            return Ok(());
        }
        drop(state);
        let overtaken = "larder::close() or larder::reset() came before the client was set up";
        Err(Error::new(ErrorKind::Closed, overtaken).with_outcome(Outcome::NotSent).with_op("init"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = write();
        if state.generation == self.generation && matches!(state.phase, Phase::Starting) {
            state.phase = Phase::Empty;
        }
    }
}

/// The store of a handle that was taken before `init`: it looks for the client at each call.
#[derive(Debug)]
struct Late;

impl Store for Late {
    fn run(&self, batch: Batch) -> BoxFuture<'static, Result<Replies>> {
        match current() {
            Ok(client) => Box::pin(async move { client.store().run(batch).await }),
            Err(error) => {
                let error = error.with_op(batch.name());
                let error = match batch.sole_key() {
                    Some(key) => error.with_key(key),
                    None => error,
                };
                Box::pin(std::future::ready(Err(error)))
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        current().map_or_else(|_| Capabilities::default(), |client| client.capabilities())
    }

    fn on_invalidation(&self, _sink: Arc<dyn InvalidationSink>) {
        // Nothing is read through this handle: that is done by the client that it stands for, which has sinks.
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        match current() {
            Ok(client) => Box::pin(async move { client.store().close().await }),
            Err(_) => Box::pin(std::future::ready(())),
        }
    }
}

//! Session providers: what hands out live connections, and how to bring your own.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::failure;
use super::gather::Pulse;
use crate::error::{Error, ErrorKind, Outcome, Result};

/// A session that passes everything on to what it holds.
macro_rules! passes_through {
    ($session:ty, $inner:tt) => {
        impl ConnectionLike for $session {
            fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
                self.$inner.req_packed_command(cmd)
            }

            fn req_packed_commands<'a>(
                &'a mut self,
                pipeline: &'a Pipeline,
                offset: usize,
                count: usize,
            ) -> RedisFuture<'a, Vec<Value>> {
                self.$inner.req_packed_commands(pipeline, offset, count)
            }

            fn get_db(&self) -> i64 {
                self.$inner.get_db()
            }
        }
    };
}

/// Hands out sessions: live connections that can execute Redis commands.
///
/// Any `Fn() -> impl Future<Output = Result<C, RedisError>>` is one, for every `C` that the driver
/// can send commands through; so are `deadpool_redis::Pool` and `bb8_redis` pools behind the
/// features `deadpool` and `bb8`, and [`Shared`] for a connection that is cloned.
///
/// Each batch asks for a session and gives it back by dropping it. Deadline, repeating, statistics
/// and errors are larder's; connecting, authentication and TLS are the provider's.
///
/// Mind what the driver's connections do by themselves: `ConnectionManager` lets a call wait while it
/// reconnects, and `ClusterConnection` sends a command again after its connection was cut, **also one that
/// is not safe to repeat** (an element may be pushed twice). Built with `retries(0)` it does not, but then a
/// redirection (`MOVED`, `ASK`) is an error that the caller gets.
pub trait SessionProvider: Send + Sync + 'static {
    /// The kind of session.
    type Session: ConnectionLike + Send + 'static;

    /// Hands out a session. Nothing of the caller's has been sent when this fails.
    fn session(&self) -> impl Future<Output = Result<Self::Session>> + Send;
}

impl<F, Fut, C> SessionProvider for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<C, RedisError>> + Send,
    C: ConnectionLike + Send + 'static,
{
    type Session = C;

    async fn session(&self) -> Result<C> {
        self().await.map_err(|error| not_handed_out(&error))
    }
}

/// A connection that is cloned for each batch: `MultiplexedConnection`, `ConnectionManager`,
/// `ClusterConnection`.
#[derive(Clone)]
pub struct Shared<C>(pub C);

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared(..)")
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> SessionProvider for Shared<C> {
    type Session = C;

    async fn session(&self) -> Result<C> {
        Ok(self.0.clone())
    }
}

#[cfg(feature = "deadpool")]
impl SessionProvider for deadpool_redis::Pool {
    type Session = deadpool_redis::Connection;

    async fn session(&self) -> Result<Self::Session> {
        self.get().await.map_err(|error| match error {
            deadpool_redis::PoolError::Backend(error) => not_handed_out(&error),
            deadpool_redis::PoolError::Timeout(_) => pool_failure("no session was free in time"),
            _ => pool_failure("the pool is closed or set up wrongly"),
        })
    }
}

/// A session out of a `bb8` pool, to which it goes back when it is dropped.
#[cfg(feature = "bb8")]
pub struct Bb8Session(bb8_redis::bb8::PooledConnection<'static, bb8_redis::RedisConnectionManager>);

#[cfg(feature = "bb8")]
impl fmt::Debug for Bb8Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bb8Session(..)")
    }
}

#[cfg(feature = "bb8")]
passes_through!(Bb8Session, 0);

#[cfg(feature = "bb8")]
impl SessionProvider for bb8_redis::bb8::Pool<bb8_redis::RedisConnectionManager> {
    type Session = Bb8Session;

    async fn session(&self) -> Result<Self::Session> {
        self.get_owned().await.map(Bb8Session).map_err(|error| match error {
            bb8_redis::bb8::RunError::User(error) => not_handed_out(&error),
            bb8_redis::bb8::RunError::TimedOut => pool_failure("no session was free in time"),
        })
    }
}

fn not_handed_out(error: &RedisError) -> Error {
    failure::failed(error, false).with_outcome(Outcome::NotSent)
}

#[cfg(any(feature = "deadpool", feature = "bb8"))]
fn pool_failure(what: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, what).with_outcome(Outcome::NotSent)
}

/// A session for what larder does not offer: it goes wherever the driver takes a connection.
///
/// Calls through it are the driver's: no deadline but the session's own, no statistics, and errors that
/// can contain values.
pub struct Session(Box<dyn ConnectionLike + Send>);

impl Session {
    pub(super) fn new(connection: impl ConnectionLike + Send + 'static) -> Self {
        Self(Box::new(connection))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

passes_through!(Session, 0);

/// A connection of the store's own. It stands for as long as the session, also when its client has gone.
pub(super) struct Lasting {
    pub(super) connection: MultiplexedConnection,
    // Who holds it uses the connection.
    pub(super) _pulse: Arc<Pulse>,
}

passes_through!(Lasting, connection);

/// A provider whose type is forgotten.
pub(crate) trait AnyProvider: Send + Sync {
    fn session(&self) -> BoxFuture<'_, Result<Session>>;
}

impl<P: SessionProvider> AnyProvider for P {
    fn session(&self) -> BoxFuture<'_, Result<Session>> {
        SessionProvider::session(self).map(|session| session.map(Session::new)).boxed()
    }
}

/// The error of a client that has no driver under it.
pub(crate) fn no_session() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the embedded store has no Redis sessions; use a Redis URL or a session provider",
    )
}

//! The Redis and Valkey store. Nothing outside of this folder names the driver's commands, and only
//! this folder holds Lua.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::ConnectionLike;
use redis::{RedisError, Value};
use tokio::time::Instant;

use self::command::Request;
use self::link::{Link, Live};
use super::url::{RedisTarget, Target};
use super::{Capabilities, InvalidationSink, Store, runtime};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Replies};

mod command;
mod dial;
mod failure;
mod gather;
mod link;
mod reply;
mod scripts;
mod session;

#[cfg(feature = "bb8")]
pub use session::Bb8Session;
pub(crate) use session::no_session;
pub use session::{Session, SessionProvider, Shared};

/// How many connections a client opens. One carries hundreds of tasks, since it is multiplexed. With two,
/// 64 and 512 tasks had about a tenth more (measured with `bench`, on 2 cores), and when one is lost,
/// calls go over the other.
pub(crate) const CONNECTIONS: usize = 2;

/// How long one attempt to connect may take, with the handshake.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A store on a Redis or Valkey server: over few multiplexed connections of its own that come back by
/// themselves, or over sessions that a [`SessionProvider`] hands out.
#[derive(Clone)]
pub struct RedisStore(Arc<Source>);

enum Source {
    Own { links: Vec<Link>, next: AtomicUsize, target: Arc<RedisTarget>, patience: Duration },
    Injected(Box<dyn session::AnyProvider>),
}

impl RedisStore {
    /// A store over `connections` connections of its own, which are opened when they are first used.
    pub(crate) fn to(target: RedisTarget, connections: usize, connect_timeout: Duration) -> Self {
        let target = Arc::new(target);
        let links = (0..connections.max(1))
            .map(|_| Link::new(Arc::clone(&target), connect_timeout))
            .collect();
        Self(Arc::new(Source::Own {
            links,
            next: AtomicUsize::new(0),
            target,
            patience: connect_timeout,
        }))
    }

    /// A store on the server that a URL names, without the client's deadline, repeating and error
    /// context around it: for tests and for stores of your own that wrap one. Nothing is connected
    /// before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the URL is wrong, or does not name a server.
    pub fn open(url: &str) -> Result<Self> {
        match Target::parse(url)? {
            Target::Redis(target) => {
                let connections = target.options.connections.unwrap_or(CONNECTIONS);
                let patience = target.options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
                Ok(Self::to(target, connections, patience))
            }
            Target::Memory { .. } => {
                Err(Error::new(ErrorKind::Config, "the URL names the embedded store, not a server"))
            }
        }
    }

    /// A store over injected sessions.
    pub fn over(provider: impl SessionProvider) -> Self {
        Self(Arc::new(Source::Injected(Box::new(provider))))
    }

    /// A session, for what larder does not offer.
    ///
    /// # Errors
    /// What connecting, or the provider, gives.
    pub async fn session(&self) -> Result<Session> {
        match &*self.0 {
            Source::Own { links, patience, .. } => {
                runtime::check("a session")?;
                let live = links[0].get(Instant::now().checked_add(*patience)).await?;
                Ok(Session::new(live.connection))
            }
            Source::Injected(provider) => provider.session().await,
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Source::Own { links, target, .. } => f
                .debug_struct("RedisStore")
                .field("address", &format_args!("{}", target.address))
                .field("connections", &links.len())
                .finish(),
            Source::Injected(_) => f.write_str("RedisStore(injected sessions)"),
        }
    }
}

impl Store for RedisStore {
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
        Box::pin(async move {
            runtime::check("a Redis store")?;
            match &*self.0 {
                Source::Own { links, next, .. } => {
                    let (link, live) = connection(links, next, batch.deadline()).await?;
                    run_on_own(&batch, link, live).await
                }
                Source::Injected(provider) => {
                    let mut session = provider.session().await?;
                    send(&batch, &mut session).await
                }
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shared: true, outlives_process: true, tracking: false }
    }

    fn on_invalidation(&self, _sink: Arc<dyn InvalidationSink>) {}

    fn close(&self) -> BoxFuture<'static, ()> {
        if let Source::Own { links, .. } = &*self.0 {
            links.iter().for_each(Link::close);
        }
        Box::pin(std::future::ready(()))
    }
}

/// The connection whose turn it is. While it is down and another one is up, that one, and the first is
/// dialled meanwhile: a call waits only if all are down.
async fn connection<'a>(
    links: &'a [Link],
    next: &AtomicUsize,
    deadline: Option<Instant>,
) -> Result<(&'a Link, Live)> {
    let turn = match links.len() {
        1 => 0,
        several => next.fetch_add(1, Ordering::Relaxed) % several,
    };
    let link = &links[turn];
    if let Some(live) = link.current() {
        return Ok((link, live));
    }
    if let Some((other, live)) = links.iter().find_map(|link| Some((link, link.current()?))) {
        link.dial();
        return Ok((other, live));
    }
    Ok((link, link.get(deadline).await?))
}

async fn run_on_own(batch: &Batch, link: &Link, mut live: Live) -> Result<Replies> {
    let asked = link.asked(&live.pulse, batch.started());
    let done = match Request::of(batch) {
        // Past the boxed future of the driver's trait: this is the path that most calls take.
        Request::One(cmd) => {
            batch.mark_sent();
            one(batch, live.connection.send_packed_command(&cmd).await)
        }
        Request::Many(pipeline) => many(batch, &pipeline, &mut live.connection).await,
    };
    asked.answered();
    // A server that wants credentials again, after they were changed, gets them from a new handshake.
    if forgot_us(&done) {
        link.discard(&live.pulse);
    }
    done
}

async fn send(batch: &Batch, session: &mut impl ConnectionLike) -> Result<Replies> {
    match Request::of(batch) {
        Request::One(cmd) => {
            batch.mark_sent();
            one(batch, session.req_packed_command(&cmd).await)
        }
        Request::Many(pipeline) => many(batch, &pipeline, session).await,
    }
}

fn one(batch: &Batch, answer: Result<Value, RedisError>) -> Result<Replies> {
    let op = &batch.ops()[0];
    match answer {
        Ok(value) => Ok(Replies::one(reply::decode(op, value))),
        Err(error) => match failure::failed(&error, true) {
            // Some sessions hand a refusal over as their own error.
            error if error.outcome() == Outcome::Rejected => Ok(Replies::one(Err(error))),
            error => Err(error),
        },
    }
}

async fn many(
    batch: &Batch,
    pipeline: &redis::Pipeline,
    session: &mut impl ConnectionLike,
) -> Result<Replies> {
    let count = pipeline.len();
    if count == 0 {
        return Ok(Replies::many(Vec::new()));
    }
    batch.mark_sent();
    // Of a transaction only EXEC's answer is kept, which stands behind MULTI and the queued commands.
    let answers = if batch.is_atomic() {
        session.req_packed_commands(pipeline, count + 1, 1).await
    } else {
        session.req_packed_commands(pipeline, 0, count).await
    };
    match answers {
        Ok(values) if batch.is_atomic() => reply::transaction(batch, values),
        Ok(values) => reply::separate(batch, values),
        Err(error) => match failure::failed(&error, true) {
            // One refusal in the name of a whole pipeline: the other commands may have been applied.
            error if !batch.is_atomic() && error.outcome() == Outcome::Rejected => {
                Err(error.with_outcome(Outcome::Unknown))
            }
            error => Err(error),
        },
    }
}

fn forgot_us(done: &Result<Replies>) -> bool {
    let is_auth = |error: &Error| error.kind() == ErrorKind::Auth;
    match done {
        Ok(replies) => replies.results().iter().any(|result| result.as_ref().is_err_and(is_auth)),
        Err(error) => is_auth(error),
    }
}

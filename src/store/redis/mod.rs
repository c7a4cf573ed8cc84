//! The Redis and Valkey store. Nothing outside of this folder names the driver's commands, and only
//! this folder holds Lua.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use redis::aio::ConnectionLike;
use redis::{RedisError, Value};
use tokio::time::Instant;

use self::cluster::Cluster;
use self::command::Request;
use self::large::{LargeValues, at_hand};
use self::link::{Link, Live};
use self::told::Told;
use super::url::{Address, RedisTarget, Target};
use super::{Backlog, Capabilities, InvalidationSink, Servers, Store, request_bytes, runtime};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::op::{Batch, Lane, Op, Replies, Vouch};

mod behind;
mod cluster;
mod command;
mod dial;
mod failure;
mod gather;
mod large;
mod link;
mod ping;
#[cfg(feature = "testing")]
pub(crate) mod readers;
mod reply;
mod scripts;
mod sentinel;
mod session;
mod told;
mod track;

pub(crate) use ping::Patience;
#[cfg(feature = "bb8")]
pub use session::Bb8Session;
pub(crate) use session::{AnyProvider, no_session};
pub use session::{Session, SessionProvider, Shared};

/// How many connections a client opens. One carries hundreds of tasks, since it is multiplexed. With two,
/// 64 and 512 tasks had about a tenth more (measured with `bench`, on 2 cores), and when one is lost,
/// calls go over the other.
pub(crate) const CONNECTIONS: usize = 2;

/// A store on a Redis or Valkey server or cluster: over few multiplexed connections of its own that come back by
/// themselves, or over sessions that a [`SessionProvider`] hands out.
#[derive(Clone)]
pub struct RedisStore(Arc<Source>);

enum Source {
    Own {
        links: Vec<Link>,
        target: Arc<RedisTarget>,
        patience: Patience,
        told: Option<Told>,
        large: LargeValues,
    },
    Cluster(Arc<Cluster>),
    Injected {
        provider: Box<dyn session::AnyProvider>,
        told: Option<Told>,
    },
}

impl RedisStore {
    /// A store over `connections` connections of its own, which are opened when they are first used.
    /// Of at most `most` in all, one tells of changes, unless it would be the only one.
    pub(crate) fn to(
        target: RedisTarget,
        connections: usize,
        most: Option<usize>,
        patience: Patience,
    ) -> Self {
        let target = Arc::new(target);
        let most = most.unwrap_or(usize::MAX);
        let connections = connections.min(most.saturating_sub(1)).max(1);
        let links =
            (0..connections).map(|_| Link::new(Arc::clone(&target), patience, None)).collect();
        let told =
            (most > 1).then(|| Told::new(Arc::clone(&target), patience, most - connections - 1));
        let large = LargeValues::default();
        Self(Arc::new(Source::Own { links, target, patience, told, large }))
    }

    /// A store on the cluster that is found at `seeds`. Connections are opened when they are first used.
    pub(crate) fn cluster(
        seeds: Vec<Address>,
        target: RedisTarget,
        connections: Option<usize>,
        most: Option<usize>,
        patience: Patience,
    ) -> Self {
        let cluster = Cluster::new(seeds, target, connections, most, patience);
        Self(Arc::new(Source::Cluster(Arc::new(cluster))))
    }

    /// A store on the server or cluster that a URL names, without the client's deadline, repeating and error
    /// context around it: for tests and for stores of your own that wrap one. Nothing is connected
    /// before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the URL is wrong, or does not name a server.
    pub fn open(url: &str) -> Result<Self> {
        let (mut target, seeds) = match Target::parse(url)? {
            Target::Redis(target) => (target, None),
            Target::Cluster { seeds, target } => (target, Some(seeds)),
            Target::Memory { .. } => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "the URL names the embedded store, not a server",
                ));
            }
        };
        target.secure().map_err(|mistakes| Error::new(ErrorKind::Config, mistakes.join("; ")))?;
        let connections = target.options.connections;
        let patience = Patience::of(&target.options);
        let most = target.options.max_connections;
        Ok(match seeds {
            None => Self::to(*target, connections.unwrap_or(CONNECTIONS), most, patience),
            Some(seeds) => Self::cluster(seeds, *target, connections, most, patience),
        })
    }

    /// A store over injected sessions, which cannot tell of changes.
    pub fn over(provider: impl SessionProvider) -> Self {
        Self::over_any(Box::new(provider))
    }

    pub(crate) fn over_any(provider: Box<dyn AnyProvider>) -> Self {
        Self(Arc::new(Source::Injected { provider, told: None }))
    }

    /// A store over injected sessions, and connections of its own that tell of changes.
    pub(crate) fn over_and_told(
        provider: Box<dyn AnyProvider>,
        target: RedisTarget,
        patience: Patience,
    ) -> Self {
        let told = Told::new(Arc::new(target), patience, usize::MAX);
        Self(Arc::new(Source::Injected { provider, told: Some(told) }))
    }

    /// Its servers, if they are several.
    pub(crate) fn servers(&self) -> Option<Arc<dyn Servers>> {
        match &*self.0 {
            Source::Cluster(cluster) => Some(Arc::clone(cluster) as _),
            _ => None,
        }
    }

    /// Where its server listens, if that is known.
    pub(crate) fn address(&self) -> Option<String> {
        let target = match &*self.0 {
            Source::Own { target, .. } => target,
            Source::Injected { told, .. } => &told.as_ref()?.target,
            Source::Cluster(cluster) => return Some(cluster.address()),
        };
        Some(target.address.to_string())
    }

    /// What calls that were given up have left in the queues of its own connections.
    pub(crate) fn backlog(&self) -> Arc<Backlog> {
        match &*self.0 {
            Source::Own { target, .. } => Arc::clone(&target.backlog),
            Source::Cluster(cluster) => cluster.backlog(),
            Source::Injected { told, .. } => {
                told.as_ref().map(|told| Arc::clone(&told.target.backlog)).unwrap_or_default()
            }
        }
    }

    fn told(&self) -> Option<&Told> {
        match &*self.0 {
            Source::Own { told, .. } | Source::Injected { told, .. } => told.as_ref(),
            Source::Cluster(_) => None,
        }
    }

    /// A session, for what larder does not offer.
    ///
    /// # Errors
    /// What connecting, or the provider, gives. [`ErrorKind::Unsupported`] on a cluster: no one connection reaches all
    /// keys of it.
    pub async fn session(&self) -> Result<Session> {
        match &*self.0 {
            Source::Own { links, patience, .. } => {
                runtime::check("a session")?;
                let live = links[0].get(Instant::now().checked_add(patience.connect)).await?;
                live.pulse.hold_up();
                let Live { connection, pulse, .. } = live;
                Ok(Session::new(session::Lasting { connection, _pulse: pulse }))
            }
            Source::Injected { provider, .. } => provider.session().await,
            Source::Cluster(_) => Err(no_one_session()),
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
            Source::Cluster(cluster) => f.debug_tuple("RedisStore").field(cluster).finish(),
            Source::Injected { .. } => f.write_str("RedisStore(injected sessions)"),
        }
    }
}

impl Store for RedisStore {
    fn run(&self, batch: Batch) -> BoxFuture<'_, Result<Replies>> {
        // A future of its own, so that calls to a single server do not carry its room.
        if let Source::Cluster(cluster) = &*self.0 {
            return Box::pin(async move {
                runtime::check("a Redis store")?;
                cluster.run(&batch).await
            });
        }
        Box::pin(async move {
            runtime::check("a Redis store")?;
            let bytes = request_bytes(&batch);
            let large = self.is_large(&batch, bytes);
            let Reached { link, mut live, vouch } = match self.at_once(&batch, large) {
                Ok(reached) => reached,
                // Boxed, so that calls that find a connection do not carry its room.
                Err(down) => match Box::pin(self.reach(&batch, large, down)).await? {
                    Way::Own(reached) => reached,
                    Way::Injected(mut session) => {
                        return Box::pin(send(&batch, &mut session)).await;
                    }
                },
            };
            // In this function, and the request borrowed: as a function of its own that is called from two places,
            // each call in flight held half as much again.
            let asked = link.asked(&live.pulse, batch.started(), bytes, large);
            let request = Request::of(&batch);
            let done = match &request {
                // Past the boxed future of the driver's trait: this is the path that most calls take.
                Request::One(cmd) => {
                    batch.mark_sent();
                    one(&batch, live.connection.send_packed_command(cmd).await)
                }
                Request::Many(pipeline) => {
                    if waits(&batch) {
                        live.pulse.hold_up();
                    }
                    many(&batch, pipeline, &mut live.connection).await
                }
            };
            asked.answered();
            if let (Source::Own { large, .. }, Ok(replies)) = (&*self.0, &done) {
                large.learn(&batch, replies);
            }
            // A server that wants credentials again, after they were changed, gets them from a new handshake.
            if forgot_us(&done) {
                link.discard(&live.pulse);
            }
            let done = if link.rediscovers() && refused_with(&done, ErrorKind::ReadOnly) {
                // It was demoted: the next call asks the sentinels who took its place.
                link.discard(&live.pulse);
                demoted(done)
            } else {
                done
            };
            match (done, vouch) {
                (Ok(replies), Some(vouch)) => Ok(replies.vouched(vouch)),
                (done, _) => done,
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        let (tracking, tracking_refused) = match &*self.0 {
            Source::Cluster(cluster) => (cluster.can_tell(), cluster.is_refused_tracking()),
            _ => match self.told() {
                Some(told) => (true, told.sinks.are_refused()),
                None => (false, false),
            },
        };
        Capabilities { shared: true, outlives_process: true, tracking, tracking_refused }
    }

    fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>) {
        match (&*self.0, self.told()) {
            (Source::Cluster(cluster), _) => cluster.on_invalidation(sink),
            (_, Some(told)) => told.sinks.add(sink),
            (_, None) => {}
        }
    }

    fn broadcast(&self, prefix: &Arc<str>) -> Result<()> {
        match &*self.0 {
            Source::Cluster(cluster) => cluster.broadcast(prefix),
            _ => self.told().map_or(Ok(()), |told| told.broadcast(prefix)),
        }
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        if let Source::Cluster(cluster) = &*self.0 {
            cluster.close();
        }
        if let Some(told) = self.told() {
            told.close();
        }
        if let Source::Own { links, .. } = &*self.0 {
            links.iter().for_each(Link::close);
        }
        Box::pin(std::future::ready(()))
    }
}

/// No connection is that of a whole cluster.
fn no_one_session() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a cluster has no session that reaches all of its keys; use the cluster connection of the redis crate",
    )
}

/// A connection of its own that a batch goes over.
struct Reached<'a> {
    link: MaybeOwned<'a>,
    live: Live,
    // Taken before anything is sent: what changes from now on is told to who keeps the answer.
    vouch: Option<Vouch>,
}

impl<'a> Reached<'a> {
    fn new(link: MaybeOwned<'a>, live: Live) -> Self {
        let vouch = live.vouch();
        Self { link, live, vouch }
    }

    fn lent((link, live): (&'a Link, Live)) -> Self {
        Self::new(MaybeOwned::Lent(link), live)
    }
}

/// A link for as long as a call lasts. Those for data are lent: counting them would cost every call.
enum MaybeOwned<'a> {
    Lent(&'a Link),
    Owned(Link),
}

impl std::ops::Deref for MaybeOwned<'_> {
    type Target = Link;

    fn deref(&self) -> &Link {
        match self {
            Self::Lent(link) => link,
            Self::Owned(link) => link,
        }
    }
}

/// What a batch goes over.
enum Way<'a> {
    Own(Reached<'a>),
    Injected(Session),
}

impl RedisStore {
    /// Whether a batch, whose request has so many bytes, or its answer is likely to be large.
    fn is_large(&self, batch: &Batch, bytes: usize) -> bool {
        match &*self.0 {
            Source::Own { large, .. } => large.expected(batch, bytes),
            _ => false,
        }
    }

    /// A connection that is up; else the one for data that is to be waited for, if that is what the batch needs.
    fn at_once(&self, batch: &Batch, large: bool) -> Result<Reached<'_>, Option<&Link>> {
        match (batch.lane(), &*self.0) {
            (Lane::Data, Source::Own { links, .. }) => {
                at_hand(links, large).map(Reached::lent).map_err(Some)
            }
            (_, Source::Cluster(_)) | (Lane::Data, Source::Injected { .. }) => Err(None),
            (lane, _) => {
                let link = self.told().and_then(|told| told.link(lane)).ok_or(None)?;
                let live = link.current().ok_or(None)?;
                Ok(Reached::new(MaybeOwned::Owned(link), live))
            }
        }
    }

    /// What the batch goes over, waiting for it until its deadline.
    async fn reach<'a>(
        &'a self,
        batch: &Batch,
        large: bool,
        down: Option<&'a Link>,
    ) -> Result<Way<'a>> {
        if *batch.lane() != Lane::Data
            && let Some(link) = self.told().and_then(|told| told.link(batch.lane()))
            && let Some(live) = link.soon(batch.deadline()).await
        {
            return Ok(Way::Own(Reached::new(MaybeOwned::Owned(link), live)));
        }
        let found = match (down, &*self.0) {
            (Some(link), _) => Err(link),
            (None, Source::Own { links, .. }) => at_hand(links, large),
            (None, Source::Injected { provider, .. }) => {
                return Ok(Way::Injected(provider.session().await?));
            }
            // Its batches went their own way before.
            (None, Source::Cluster(_)) => return Err(no_one_session()),
        };
        Ok(Way::Own(Reached::lent(match found {
            Ok(found) => found,
            Err(link) => (link, link.get(batch.deadline()).await?),
        })))
    }
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

/// Whether the server may take its time for it, for the one connection.
fn waits(batch: &Batch) -> bool {
    batch.ops().iter().any(|op| matches!(op, Op::Replicated { .. }))
}

fn forgot_us(done: &Result<Replies>) -> bool {
    refused_with(done, ErrorKind::Auth)
}

fn refused_with(done: &Result<Replies>, kind: ErrorKind) -> bool {
    let is_it = |error: &Error| error.kind() == kind;
    match done {
        Ok(replies) => replies.results().iter().any(|result| result.as_ref().is_err_and(is_it)),
        Err(error) => is_it(error),
    }
}

/// A server that takes no writes any more is, to who looks for the primary, one that is away: what may be repeated is, over
/// the connection that comes next.
fn demoted(done: Result<Replies>) -> Result<Replies> {
    let away = |error: Error| match error.kind() {
        ErrorKind::ReadOnly => {
            Error::new(ErrorKind::Unavailable, "the server is not the primary any more")
                .with_outcome(Outcome::Rejected)
                .with_code("READONLY")
        }
        _ => error,
    };
    match done {
        Ok(replies) => Ok(replies.map_errors(|_, error| away(error))),
        Err(error) => Err(away(error)),
    }
}

//! Settings of a client, and what is built from them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::coherence::{Coherence, Coherent};
use super::load::{Bounds, MAX_LOADS, ReadPath};
use super::{CacheClient, Inner};
use crate::codec::JsonLimit;
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Locks;
use crate::op::Op;
use crate::stats::{MAX_NAMESPACES, Recorder};
use crate::store::redis::{AnyProvider, CONNECTIONS, Patience, RedisStore, SessionProvider};
#[cfg(feature = "tls")]
use crate::store::tls::Tls;
use crate::store::url::{Address, ReadPreference, RedisTarget, Target};
use crate::store::{
    AnyCredentials, Breaker, Broken, CredentialsProvider, Deadline, Gate, Limits, MAX_IN_FLIGHT,
    MAX_IN_FLIGHT_BYTES, MemoryStore, Observe, Retry, Stack, Store, Wakeups,
};

mod checks;

use checks::{BREAKER, CREDENTIALS, MAX_BYTES, OF_CONNECTIONS};

/// How long a call may take altogether unless it is told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// What the near caches of a client hold together unless it is told otherwise.
const NEAR_MAX_BYTES: u64 = 64 << 20;

/// Settings of a client. Setters never fail; [`build`](Self::build) names every mistake at once.
///
/// Settings in code win over the same settings in the URL.
///
/// ```
/// use std::time::Duration;
/// let cache = larder::CacheClient::builder()
///     .url("redis://127.0.0.1:6379/0?connections=2")
///     .deadline(Duration::from_millis(200))
///     .build()?; // connects at the first call
/// # Ok::<(), larder::Error>(())
/// ```
#[must_use]
pub struct Builder {
    url: Option<SecretString>,
    store: Option<Made>,
    tracking: Option<SecretString>,
    credentials: Option<Arc<dyn AnyCredentials>>,
    sentinel_credentials: Option<Arc<dyn AnyCredentials>>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    deadline: Option<Duration>,
    connect_timeout: Option<Duration>,
    ping_interval: Option<Duration>,
    ping_timeout: Option<Duration>,
    breaker: Option<bool>,
    read_from: Option<ReadPreference>,
    connections: Option<usize>,
    max_connections: Option<usize>,
    max_in_flight: Option<u64>,
    max_in_flight_bytes: Option<u64>,
    max_bytes: Option<u64>,
    max_namespaces: usize,
    near_max_bytes: Option<u64>,
    max_loads: usize,
    max_json_bytes: Option<u64>,
    observed: bool,
    guarded: bool,
}

/// A store that the caller brought.
enum Made {
    Store(Arc<dyn Store>),
    Memory(Arc<MemoryStore>),
    Redis(RedisStore),
    Provider(Box<dyn AnyProvider>),
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            url: None,
            store: None,
            tracking: None,
            credentials: None,
            sentinel_credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
            deadline: None,
            connect_timeout: None,
            ping_interval: None,
            ping_timeout: None,
            breaker: None,
            read_from: None,
            connections: None,
            max_connections: None,
            max_in_flight: None,
            max_in_flight_bytes: None,
            max_bytes: None,
            max_namespaces: MAX_NAMESPACES,
            near_max_bytes: None,
            max_loads: MAX_LOADS,
            max_json_bytes: None,
            observed: true,
            guarded: true,
        }
    }

    /// The store, by its URL: `memory://`, `redis://`, `redis+unix://`, `redis+sentinel://`,
    /// `redis+cluster://`; over TLS `rediss://` and so on. Defaults to `memory://`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(SecretString::from(url.into()));
        self
    }

    /// A store of your own, in place of a URL.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Made::Store(Arc::new(store)));
        self
    }

    /// Sessions of your own, in place of a URL.
    pub fn provider(mut self, provider: impl SessionProvider) -> Self {
        self.store = Some(Made::Provider(Box::new(provider)));
        self
    }

    /// The server that sessions of your own lead to, by its URL: connections of larder's own tell from there what
    /// changed. Without it nothing is kept near, and who waits looks again from time to time. Defaults to
    /// none.
    pub fn tracking(mut self, url: impl Into<String>) -> Self {
        self.tracking = Some(SecretString::from(url.into()));
        self
    }

    /// Who we are at the server, asked for every connection, in place of what the URL says. For the connections that larder
    /// opens; of a session provider only what [`tracking`](Self::tracking) opens. Defaults to the URL's user and password.
    pub fn credentials(mut self, provider: impl CredentialsProvider) -> Self {
        self.credentials = Some(Arc::new(provider));
        self
    }

    /// Who we are at the sentinels of a URL `redis+sentinel://` or `rediss+sentinel://`; its user and password are those of the
    /// servers that they watch. Defaults to nobody.
    pub fn sentinel_credentials(mut self, provider: impl CredentialsProvider) -> Self {
        self.sentinel_credentials = Some(Arc::new(provider));
        self
    }

    /// Settings of TLS for a URL `rediss://`, `rediss+cluster://` or `rediss+sentinel://`; what the URL itself says of
    /// certificates is not used then. Defaults to the roots of the operating system.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long a call may take, with waiting, connecting and repeating. Defaults to one second.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long one attempt to connect may take, with the handshake. Defaults to one second.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// For how long nothing may arrive over a connection before the server is asked (`PING`) whether it is still there.
    /// Connections that bring answers are not asked; those that tell of changes always are. Defaults to one second.
    ///
    /// A connection whose other side is gone without a word is left within this time and
    /// [`ping_timeout`](Self::ping_timeout), also if nothing is asked over it. Until then, what is kept near may be as old as that.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = Some(interval);
        self
    }

    /// How long the answer to such a `PING` may take before calls go over another connection. A server that is kept busy
    /// by one command for longer is taken for one that is gone; what waits for it over the old connection still gets its answers, once
    /// it is done. Defaults to one second.
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.ping_timeout = Some(timeout);
        self
    }

    /// Whether calls fail at once while the server does not answer, instead of each waiting for its deadline: they are
    /// not sent then ([`Outcome::NotSent`](crate::Outcome::NotSent)). Defaults to yes; stores of your own have none.
    ///
    /// That begins when five calls in a row got no answer by the end of their deadlines, over at least a second. From then on
    /// one call at a time asks the server and waits as ever, for a connection too; the first answer ends it. The
    /// steps of locks, those that prolong or give back a lease, and [`ping`](CacheClient::ping) always ask. In a cluster this
    /// holds for each node by itself, and calls on keys of several nodes always ask.
    pub fn breaker(mut self, breaker: bool) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Who answers plain reads, in a cluster ([`ReadPreference`]). Reads that are kept near or lead to a load, locks, pipelines
    /// with a write in them and transactions go to the primary in any case. Defaults to the primary.
    pub fn read_from(mut self, from: ReadPreference) -> Self {
        self.read_from = Some(from);
        self
    }

    /// How many multiplexed connections carry the calls; one carries hundreds of tasks. Defaults to two: while
    /// one comes back, or carries something large, calls go over the other. In a cluster a number that is given is split among
    /// the primaries, and by default each has two.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = Some(connections);
        self
    }

    /// Bounds all connections that the client opens. Defaults to no bound.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.max_connections = Some(most);
        self
    }

    /// How many calls may be in flight, at most 1,048,576; one more fails at once with
    /// [`ErrorKind::Overloaded`]. Calls that prolong or give back a lock or a lease are let in always. Has no effect on the
    /// embedded store, which answers at once. Defaults to 65,536.
    pub fn max_in_flight(mut self, calls: u64) -> Self {
        self.max_in_flight = Some(calls);
        self
    }

    /// How many bytes the calls in flight may hold, from 64 KiB to 64 GiB; a call that does not fit fails at once with
    /// [`ErrorKind::Overloaded`], also one that never would. A call counts three times what it sends (the value, the command
    /// and the queue of the connection each hold it) and 3 KiB; one that was given up counts until its connection has got
    /// rid of it. Answers do not count: how large they are is not known before. Has no effect on the embedded store.
    /// Defaults to 256 MiB.
    pub fn max_in_flight_bytes(mut self, bytes: u64) -> Self {
        self.max_in_flight_bytes = Some(bytes);
        self
    }

    /// How many bytes an embedded store holds before it evicts. Defaults to 64 MiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How many namespaces the statistics count apart, at most 65,536. Defaults to 128.
    pub fn max_namespaces(mut self, most: usize) -> Self {
        self.max_namespaces = most;
        self
    }

    /// How many bytes all near caches of the client hold together before they evict. Defaults to 64 MiB; nothing is
    /// reserved beforehand.
    pub fn near_max_bytes(mut self, bytes: u64) -> Self {
        self.near_max_bytes = Some(bytes);
        self
    }

    /// How many loads run at once; more wait. Loads within loads do not count. Defaults to 256.
    pub fn max_loads(mut self, most: usize) -> Self {
        self.max_loads = most;
        self
    }

    /// How many bytes a JSON document may have that is written, or that is decoded whoever wrote it; at most 512 MiB. A
    /// larger one that is stored is [`ErrorKind::Decode`] before anything is made of it. A namespace may have
    /// [a limit of its own](crate::NamespaceBuilder::max_json_bytes). Text and bytes are handed over as they came, and
    /// have no limit but the store's. Defaults to 64 MiB.
    pub fn max_json_bytes(mut self, bytes: u64) -> Self {
        self.max_json_bytes = Some(bytes);
        self
    }

    /// Leaves out statistics and spans, so that a benchmark can tell what they cost.
    #[cfg(feature = "testing")]
    pub fn unobserved(mut self) -> Self {
        self.observed = false;
        self
    }

    /// Leaves out deadline, budget and breaker, so that a benchmark can tell what they cost.
    #[cfg(feature = "testing")]
    pub fn unguarded(mut self) -> Self {
        self.guarded = false;
        self
    }

    /// The client; it connects at its first call.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] that names every mistake, or [`ErrorKind::Unsupported`] for a scheme that
    /// needs a feature which larder was built without.
    pub fn build(mut self) -> Result<CacheClient> {
        let mut mistakes = self.mistakes();
        self.provided(&mut mistakes);
        let target = match &self.url {
            None => Some(Target::Memory { max_bytes: None }),
            Some(url) => match Target::parse(url.expose_secret()) {
                Ok(target) => Some(target),
                Err(error) if mistakes.is_empty() => return Err(error.with_op("build")),
                Err(error) => {
                    mistakes.push(error.detail().to_owned());
                    None
                }
            },
        };
        if let (None, Some(target)) = (&self.store, target) {
            self.fill_in(target, &mut mistakes);
        }
        if mistakes.is_empty() {
            Ok(self.assemble())
        } else {
            Err(Error::new(ErrorKind::Config, mistakes.join("; ")).with_op("build"))
        }
    }

    /// The client, connected: an unreachable server or wrong credentials are an error here.
    ///
    /// # Errors
    /// As [`build`](Self::build), and what the first `PING` gives.
    pub async fn connect(self) -> Result<CacheClient> {
        let client = self.build()?;
        client.one("connect", Op::Ping).await?.into_done()?;
        Ok(client)
    }

    /// The store over a provider, with what tells of changes beside it.
    fn provided(&mut self, mistakes: &mut Vec<String>) {
        let provider = match self.store.take() {
            Some(Made::Provider(provider)) => provider,
            other => {
                self.store = other;
                return;
            }
        };
        let told = self.tracking.as_ref().map(|url| Target::parse(url.expose_secret()));
        let redis = match told {
            None => RedisStore::over_any(provider),
            Some(Ok(Target::Redis(target))) => {
                let Some(target) = self.reached(*target, mistakes) else { return };
                let patience = Patience::of(&target.options);
                RedisStore::over_and_told(provider, target, patience)
            }
            Some(Ok(Target::Cluster { .. })) => {
                mistakes.push(
                    "the tracking URL names a cluster; use that URL for the whole client, without a provider"
                        .to_owned(),
                );
                return;
            }
            Some(Ok(Target::Memory { .. })) => {
                mistakes.push("the tracking URL names no server".to_owned());
                return;
            }
            Some(Err(error)) => {
                mistakes.push(format!("the tracking URL: {}", error.detail()));
                return;
            }
        };
        self.store = Some(Made::Redis(redis));
    }

    /// A server with what the code says of it beside its URL.
    fn reached(&self, mut target: RedisTarget, mistakes: &mut Vec<String>) -> Option<RedisTarget> {
        let options = &mut target.options;
        options.connect_timeout = self.connect_timeout.or(options.connect_timeout);
        options.ping_interval = self.ping_interval.or(options.ping_interval);
        options.ping_timeout = self.ping_timeout.or(options.ping_timeout);
        options.read_from = self.read_from.or(options.read_from);
        if let Some(credentials) = &self.credentials {
            if target.username.is_some() || target.password.is_some() {
                mistakes.push("both the URL and a provider give credentials; keep one".to_owned());
            }
            target.credentials = Some(Arc::clone(credentials));
        }
        if let Some(credentials) = &self.sentinel_credentials {
            match &mut target.address {
                // Nobody else has it yet.
                Address::Sentinels(sentinels) => {
                    if let Some(sentinels) = Arc::get_mut(sentinels) {
                        sentinels.with_credentials(credentials);
                    }
                }
                _ => mistakes.push(
                    "sentinel_credentials is set and the URL is not redis+sentinel:// or rediss+sentinel://; leave it out"
                        .to_owned(),
                ),
            }
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            match &mut target.tls {
                Some(of_url) => *of_url = tls.clone(),
                None => mistakes.push(
                    "tls is set and the URL is not rediss://, rediss+cluster:// or rediss+sentinel://; change one of them"
                        .to_owned(),
                ),
            }
        }
        match target.secure() {
            Ok(()) => Some(target),
            Err(more) => {
                mistakes.extend(more);
                None
            }
        }
    }

    /// The store that the URL names, with the settings of the URL where the code has none.
    fn fill_in(&mut self, target: Target, mistakes: &mut Vec<String>) {
        let (target, seeds) = match target {
            Target::Memory { max_bytes } => {
                self.replicas("the embedded store has no replicas to read from", mistakes);
                self.idle(&OF_CONNECTIONS, "the embedded store", mistakes);
                self.idle(&[BREAKER, CREDENTIALS], "the embedded store", mistakes);
                let store = match self.max_bytes.or(max_bytes) {
                    Some(bytes) => MemoryStore::with_max_bytes(bytes),
                    None => MemoryStore::new(),
                };
                self.store = Some(Made::Memory(Arc::new(store)));
                return;
            }
            Target::Redis(target) => (target, None),
            Target::Cluster { seeds, target } => (target, Some(seeds)),
        };
        self.idle(&[MAX_BYTES], "a server", mistakes);
        match (&seeds, &target.address) {
            (Some(_), _) => {}
            (None, Address::Sentinels(_)) => {
                self.replicas("replicas behind sentinels are not read from", mistakes);
            }
            (None, _) => self.replicas("a single server has no replicas to read from", mistakes),
        }
        let Some(target) = self.reached(*target, mistakes) else { return };
        let options = &target.options;
        self.deadline = self.deadline.or(options.deadline);
        self.max_in_flight = self.max_in_flight.or(options.max_in_flight);
        self.max_in_flight_bytes = self.max_in_flight_bytes.or(options.max_in_flight_bytes);
        self.breaker = self.breaker.or(options.breaker);
        let most = self.max_connections.or(options.max_connections);
        let wanted = self.connections.or(options.connections);
        if let (Some(most), Some(wanted)) = (most, wanted)
            && wanted > most
        {
            mistakes.push(format!(
                "connections is {wanted}, more than max_connections, which is {most}"
            ));
        }
        if !mistakes.is_empty() {
            return;
        }
        let patience = Patience::of(options);
        self.store = Some(Made::Redis(match seeds {
            None => RedisStore::to(target, wanted.unwrap_or(CONNECTIONS), most, patience),
            Some(seeds) => RedisStore::cluster(seeds, target, wanted, most, patience),
        }));
    }

    /// Puts the stores that wrap a store around the one at the bottom.
    pub(super) fn assemble(self) -> CacheClient {
        let recorder = Arc::new(Recorder::new(self.max_namespaces));
        let mut limits = Limits {
            calls: self.max_in_flight.unwrap_or(MAX_IN_FLIGHT),
            bytes: self.max_in_flight_bytes.unwrap_or(MAX_IN_FLIGHT_BYTES),
        };
        let (bottom, redis): (Arc<dyn Store>, _) = match self.store {
            Some(Made::Redis(redis)) => (Arc::new(redis.clone()), Some(redis)),
            Some(Made::Provider(provider)) => {
                let redis = RedisStore::over_any(provider);
                (Arc::new(redis.clone()), Some(redis))
            }
            Some(Made::Store(store)) => (store, None),
            embedded => {
                // It answers before another call can come.
                limits = Limits::NONE;
                match embedded {
                    Some(Made::Memory(store)) => (store, None),
                    _ => (Arc::new(MemoryStore::new()), None),
                }
            }
        };
        let told = Arc::clone(&bottom);
        let servers = redis.as_ref().and_then(RedisStore::servers);
        let near_bytes = self.near_max_bytes.unwrap_or(NEAR_MAX_BYTES);
        let coherence = Arc::new(Coherence::new(near_bytes, servers.as_ref()));
        let wakeups = Arc::new(Wakeups::default());
        bottom.on_invalidation(Arc::clone(&coherence) as _);
        bottom.on_invalidation(Arc::clone(&wakeups) as _);
        let repeated = Retry::new(bottom);
        let mut deadline = self.deadline.unwrap_or(DEADLINE);
        if !self.guarded {
            // Beyond what the clock can say, which is none.
            deadline = Duration::MAX;
            limits = Limits::NONE;
        }
        let coherent = Coherent::new(repeated, Arc::clone(&coherence));
        let bounded = Deadline::new(coherent, deadline);
        let is_on = self.guarded && redis.is_some() && self.breaker.unwrap_or(true);
        let breaker = Arc::new(Breaker::new(is_on, servers, recorder.breaker()));
        let broken = Broken::new(bounded, Arc::clone(&breaker));
        let behind = redis.as_ref().map(RedisStore::backlog).unwrap_or_default();
        let gated = Gate::new(broken, deadline, limits, behind, Arc::clone(&recorder));
        let recording = self.observed.then(|| Arc::clone(&recorder));
        let store: Arc<dyn Store> = Arc::new(Stack(Observe::new(gated, recording)));
        let path = ReadPath::new(
            Arc::clone(&store),
            told,
            coherence,
            breaker,
            Arc::clone(&wakeups),
            Arc::clone(&recorder),
            Bounds {
                max_loads: self.max_loads,
                json: self.max_json_bytes.map(JsonLimit::of).unwrap_or_default(),
            },
        );
        let path = Arc::new(path);
        let locks = Arc::new(Locks::new(Arc::clone(&store), wakeups, recorder.locks()));
        CacheClient(Arc::new(Inner { store, redis, recorder, path, locks, stands_for: None }))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("deadline", &self.deadline)
            .field("connect_timeout", &self.connect_timeout)
            .field("ping_interval", &self.ping_interval)
            .field("ping_timeout", &self.ping_timeout)
            .field("connections", &self.connections)
            .field("max_connections", &self.max_connections)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_in_flight_bytes", &self.max_in_flight_bytes)
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

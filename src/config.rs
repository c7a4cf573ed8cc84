//! Settings from code, the environment, `.env` and a TOML file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::client::{Builder, CacheClient};
use crate::error::{Error, ErrorKind, Result};
use crate::store::url::{self, Address, Hidden, Target};
use crate::store::{BYTES_RANGE, CALLS_RANGE};

mod sources;

use sources::Loaded;

/// Where a server is expected if nothing says otherwise. Not `localhost`, which may mean another
/// address family than the server listens on.
const DEFAULT_HOST: &str = "127.0.0.1";

/// Every setting, as a TOML file names it.
const NAMES: [&str; 12] = [
    "url",
    "host",
    "port",
    "username",
    "password",
    "db",
    "max_connections",
    "max_in_flight",
    "max_in_flight_bytes",
    "deadline_ms",
    "ping_interval_ms",
    "ping_timeout_ms",
];

/// The settings that a URL takes the place of.
const PARTS: [&str; 5] = ["host", "port", "username", "password", "db"];

/// Settings of a client: from code, over the environment, over a `.env` file, over a TOML file,
/// over the defaults.
///
/// No setter fails: [`client`](Self::client), [`connect`](Self::connect) and
/// [`to_url`](Self::to_url) report every mistake of every source in one error, each with the place
/// where it was made. `Debug` shows where each setting comes from and never its value.
///
/// | setting | environment and `.env` | TOML, in the table `[redis]` | default |
/// |---|---|---|---|
/// | a store URL, instead of the next five | `REDIS_URL` | `url` | |
/// | host name, IPv4 or IPv6 address | `REDIS_HOST` | `host` | `127.0.0.1` |
/// | port | `REDIS_PORT` | `port` | 6379 |
/// | ACL user | `REDIS_USERNAME` | `username` | |
/// | password, any characters | `REDIS_PASSWORD` | `password` | |
/// | number of the database | `REDIS_DB` | `db` | 0 |
/// | most connections to open | `REDIS_MAX_CONNECTIONS` | `max_connections` | the client's |
/// | most calls in flight | `REDIS_MAX_IN_FLIGHT` | `max_in_flight` | the client's |
/// | most bytes that they hold | `REDIS_MAX_IN_FLIGHT_BYTES` | `max_in_flight_bytes` | the client's |
/// | time limit of a call in milliseconds | `REDIS_DEADLINE_MS` | `deadline_ms` | the client's |
/// | how long a connection may be quiet before the server is asked, in milliseconds | `REDIS_PING_INTERVAL_MS` | `ping_interval_ms` | the client's |
/// | how long it may take to answer then, in milliseconds | `REDIS_PING_TIMEOUT_MS` | `ping_timeout_ms` | the client's |
///
/// ```
/// use std::time::Duration;
///
/// let config = larder::CacheConfig::new()
///     .host("cache.example")
///     .password("p@ss/word")
///     .db(2)
///     .deadline(Duration::from_millis(250));
/// assert_eq!(config.display_url()?, "redis://:***@cache.example:6379/2");
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct CacheConfig {
    settings: BTreeMap<&'static str, Setting>,
    // A duration in code may be finer than the milliseconds of the other sources.
    deadline: Option<Duration>,
    // What is wrong with a source as a whole.
    mistakes: Vec<String>,
}

/// One setting as its source wrote it.
#[derive(Clone)]
struct Setting {
    value: Result<SecretString, &'static str>,
    // "REDIS_PORT from the environment"
    origin: String,
}

/// What all sources together say.
struct Resolved {
    url: SecretString,
    max_connections: Option<usize>,
    max_in_flight: Option<u64>,
    max_in_flight_bytes: Option<u64>,
    deadline: Option<Duration>,
    ping_interval: Option<Duration>,
    ping_timeout: Option<Duration>,
}

impl CacheConfig {
    /// The defaults, and what code adds: nothing is read.
    pub fn new() -> Self {
        Self::default()
    }

    /// The environment over a file `.env` in the current directory, if there is one. The
    /// environment of the process is read once, now, and not changed.
    ///
    /// An empty variable counts as not set. Unknown variables are left alone. A `REDIS_PORT` of
    /// the form `tcp://...` is what Kubernetes sets for a service called `redis`; it is left
    /// alone, too.
    pub fn from_env() -> Self {
        Self::collect(sources::load(std::env::vars_os(), Some(Path::new(".env")), None))
    }

    /// The environment and `.env` as in [`from_env`](Self::from_env), over the table `[redis]`
    /// of a TOML file, which must exist. An unknown key in that table is a mistake; other tables
    /// are left alone, so that it can be the file of the whole service.
    pub fn load(toml: impl AsRef<Path>) -> Self {
        let dotenv = Some(Path::new(".env"));
        Self::collect(sources::load(std::env::vars_os(), dotenv, Some(toml.as_ref())))
    }

    fn collect(loaded: Loaded) -> Self {
        Self { settings: loaded.settings, deadline: None, mistakes: loaded.mistakes }
    }

    fn set(mut self, name: &'static str, value: impl Into<SecretString>) -> Self {
        let origin = format!("`{name}` set in code");
        self.settings.insert(name, Setting { value: Ok(value.into()), origin });
        self
    }

    /// The store URL; it takes the place of host, port, username, password and database. Defaults
    /// to none.
    pub fn url(self, url: impl Into<SecretString>) -> Self {
        self.set("url", url)
    }

    /// The host name, or the IPv4 or IPv6 address. Defaults to `127.0.0.1`.
    pub fn host(self, host: impl Into<String>) -> Self {
        self.set("host", host.into())
    }

    /// The port. Defaults to 6379.
    pub fn port(self, port: u16) -> Self {
        self.set("port", port.to_string())
    }

    /// The ACL user, which needs a password beside it (an empty one if it has none). Defaults to
    /// none.
    pub fn username(self, username: impl Into<SecretString>) -> Self {
        self.set("username", username)
    }

    /// The password, of any characters. Defaults to none.
    pub fn password(self, password: impl Into<SecretString>) -> Self {
        self.set("password", password)
    }

    /// The number of the database. Defaults to 0.
    pub fn db(self, db: u32) -> Self {
        self.set("db", db.to_string())
    }

    /// The most connections that the client opens. It opens few, since they are multiplexed.
    /// Defaults to what the URL says, else to the client's default.
    pub fn max_connections(self, connections: usize) -> Self {
        self.set("max_connections", connections.to_string())
    }

    /// The most calls in flight, as [`Builder::max_in_flight`]. Defaults to what the URL says, else to the client's default.
    pub fn max_in_flight(self, calls: u64) -> Self {
        self.set("max_in_flight", calls.to_string())
    }

    /// The most bytes that calls in flight hold, as [`Builder::max_in_flight_bytes`]. Defaults to what the URL says, else
    /// to the client's default.
    pub fn max_in_flight_bytes(self, bytes: u64) -> Self {
        self.set("max_in_flight_bytes", bytes.to_string())
    }

    /// How long a call may take. Defaults to what the URL says, else to the client's default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self.settings.remove("deadline_ms");
        self
    }

    /// As [`Builder::ping_interval`], in whole milliseconds. Defaults to what the URL says, else to the client's default.
    pub fn ping_interval(self, interval: Duration) -> Self {
        self.set("ping_interval_ms", interval.as_millis().to_string())
    }

    /// As [`Builder::ping_timeout`], in whole milliseconds. Defaults to what the URL says, else to the client's default.
    pub fn ping_timeout(self, timeout: Duration) -> Self {
        self.set("ping_timeout_ms", timeout.as_millis().to_string())
    }

    /// Whether a source says where the server is (a URL, a host or a port), or everything about that is
    /// a default.
    ///
    /// ```
    /// use larder::CacheConfig;
    /// assert!(!CacheConfig::new().password("secret").says_where());
    /// assert!(CacheConfig::new().url("memory://").says_where());
    /// ```
    pub fn says_where(&self) -> bool {
        // A source that could not be read may have meant to; `client` reports it.
        !self.mistakes.is_empty()
            || ["url", "host", "port"].iter().any(|name| self.settings.contains_key(name))
    }

    /// The store URL that these settings amount to, checked, with everything percent-encoded.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with every mistake, or [`ErrorKind::Unsupported`] if the only one is
    /// a scheme that needs a feature which larder was built without.
    pub fn to_url(&self) -> Result<SecretString> {
        self.resolve().map(|resolved| resolved.url)
    }

    /// The same URL with `***` for the username and the password, to be shown.
    ///
    /// # Errors
    /// As [`to_url`](Self::to_url).
    pub fn display_url(&self) -> Result<String> {
        self.resolve().map(|resolved| url::masked(resolved.url.expose_secret()))
    }

    /// The client; it connects at its first call.
    ///
    /// # Errors
    /// As [`to_url`](Self::to_url).
    pub fn client(&self) -> Result<CacheClient> {
        self.builder()?.build()
    }

    /// The client, connected: an unreachable server or wrong credentials are an error here. One
    /// round trip, beside those of connecting.
    ///
    /// # Errors
    /// As [`to_url`](Self::to_url), and what the first `PING` gives.
    pub async fn connect(&self) -> Result<CacheClient> {
        self.builder()?.connect().await
    }

    fn builder(&self) -> Result<Builder> {
        let Resolved {
            url,
            max_connections,
            max_in_flight,
            max_in_flight_bytes,
            deadline,
            ping_interval,
            ping_timeout,
        } = self.resolve()?;
        let mut builder = CacheClient::builder().url(url.expose_secret());
        if let Some(most) = max_connections {
            builder = builder.max_connections(most);
        }
        if let Some(calls) = max_in_flight {
            builder = builder.max_in_flight(calls);
        }
        if let Some(bytes) = max_in_flight_bytes {
            builder = builder.max_in_flight_bytes(bytes);
        }
        if let Some(deadline) = deadline {
            builder = builder.deadline(deadline);
        }
        if let Some(interval) = ping_interval {
            builder = builder.ping_interval(interval);
        }
        if let Some(timeout) = ping_timeout {
            builder = builder.ping_timeout(timeout);
        }
        Ok(builder)
    }

    fn resolve(&self) -> Result<Resolved> {
        let mut reader = Reader { config: self, mistakes: self.mistakes.clone(), later: None };
        let url = reader.url();
        let max_connections = reader
            .number("max_connections", url::CONNECTIONS_RANGE)
            .map(|connections| connections as usize);
        let max_in_flight = reader.number("max_in_flight", CALLS_RANGE);
        let max_in_flight_bytes = reader.number("max_in_flight_bytes", BYTES_RANGE);
        let mut millis = |name| reader.number(name, url::MILLIS_RANGE).map(Duration::from_millis);
        let deadline = millis("deadline_ms");
        let (ping_interval, ping_timeout) = (millis("ping_interval_ms"), millis("ping_timeout_ms"));
        let Reader { mut mistakes, later, .. } = reader;
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            mistakes.push("`deadline` set in code: no call can be done in no time".to_owned());
        }
        match (url, later) {
            (Some(url), None) if mistakes.is_empty() => Ok(Resolved {
                url,
                max_connections,
                max_in_flight,
                max_in_flight_bytes,
                deadline: self.deadline.or(deadline),
                ping_interval,
                ping_timeout,
            }),
            (_, Some(later)) if mistakes.is_empty() => Err(later),
            (_, later) => {
                mistakes.extend(later.map(|error| error.to_string()));
                Err(Error::new(ErrorKind::Config, mistakes.join("; ")))
            }
        }
    }
}

/// Reads settings and collects what is wrong with them.
struct Reader<'a> {
    config: &'a CacheConfig,
    mistakes: Vec<String>,
    // The error of a URL that needs a feature: it keeps its own kind.
    later: Option<Error>,
}

impl<'a> Reader<'a> {
    fn text(&mut self, name: &str) -> Option<&'a str> {
        let setting = self.config.settings.get(name)?;
        match &setting.value {
            Ok(value) => Some(value.expose_secret()),
            Err(mistake) => {
                self.mistakes.push(format!("{}: {mistake}", setting.origin));
                None
            }
        }
    }

    fn origin(&self, name: &str) -> &'a str {
        self.config.settings.get(name).map_or("", |setting| &setting.origin)
    }

    fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let text = self.text(name)?;
        let number = url::whole_number(text).filter(|number| range.contains(number));
        if number.is_none() {
            // Something else than a number may be a secret in the wrong place.
            let digits = text.strip_prefix('-').unwrap_or(text);
            let shown = if digits.len() <= 20 && url::is_digits(digits) {
                format!("`{text}` ")
            } else {
                String::new()
            };
            self.mistakes.push(format!(
                "{}: {shown}is not a whole number from {} to {}",
                self.origin(name),
                range.start(),
                range.end()
            ));
        }
        number
    }

    fn url(&mut self) -> Option<SecretString> {
        let parts: Vec<&str> =
            PARTS.into_iter().filter(|part| self.config.settings.contains_key(part)).collect();
        if self.config.settings.contains_key("url") && !parts.is_empty() {
            let origins: Vec<&str> = parts.iter().map(|part| self.origin(part)).collect();
            self.mistakes.push(format!(
                "{} already says what {} says; keep the URL or the parts",
                self.origin("url"),
                origins.join(", ")
            ));
        }
        if self.config.settings.contains_key("url") {
            let whole = self.whole_url();
            // Only to find their mistakes.
            if !parts.is_empty() {
                self.url_of_parts();
            }
            whole
        } else {
            self.url_of_parts()
        }
    }

    fn whole_url(&mut self) -> Option<SecretString> {
        let url = self.text("url")?;
        match Target::parse(url) {
            Ok(_) => Some(SecretString::from(url)),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.later = Some(error);
                None
            }
            Err(error) => {
                self.mistakes.push(format!("{}: {error}", self.origin("url")));
                None
            }
        }
    }

    fn url_of_parts(&mut self) -> Option<SecretString> {
        let host = match self.text("host") {
            Some(host) => match url::address_or_name(host) {
                Ok(host) => Some(host),
                Err(mistake) => {
                    self.mistakes.push(format!("{}: {mistake}", self.origin("host")));
                    None
                }
            },
            None => Some(DEFAULT_HOST),
        };
        let port = self.number("port", 1..=u16::MAX.into()).map_or(url::DEFAULT_PORT, |p| p as u16);
        let db = self.number("db", url::DB_RANGE).unwrap_or(0);
        let username = self.text("username").filter(|username| !username.is_empty());
        let password = self.text("password");
        if username.is_some() && !self.config.settings.contains_key("password") {
            self.mistakes.push(format!(
                "{}: a username needs a password; set an empty one in code or in the file if the \
                 user has none",
                self.origin("username")
            ));
        }
        let address = Address::Tcp { host: host?.to_owned(), port };
        Some(url::build(&address, username, password, db))
    }
}

/// A store URL alone.
impl From<&str> for CacheConfig {
    fn from(url: &str) -> Self {
        Self::new().url(url)
    }
}

/// A store URL alone.
impl From<String> for CacheConfig {
    fn from(url: String) -> Self {
        Self::new().url(url)
    }
}

impl fmt::Debug for CacheConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("CacheConfig");
        for setting in self.settings.values() {
            out.field(&setting.origin, &Hidden);
        }
        if let Some(deadline) = self.deadline {
            out.field("`deadline` set in code", &deadline);
        }
        out.field("mistakes", &self.mistakes.len()).finish()
    }
}

#[cfg(doctest)]
#[doc = include_str!("../docs/configuration.md")]
struct Documentation;

#[cfg(test)]
mod tests;

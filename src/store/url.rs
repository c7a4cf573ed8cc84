//! Store URLs: which store, where it is, and who we are there.
//!
//! An own parser, because a password is in it: nothing of what was given is ever repeated in an
//! error except a host that was understood and the name of an option.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::SecretString;

#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::error::{Error, ErrorKind, Result};

/// The port of a server that names none.
pub(crate) const DEFAULT_PORT: u16 = 6379;

/// Redis keeps the number of databases in an `int`; how many there are is the server's to say.
pub(crate) const DB_RANGE: RangeInclusive<u64> = 0..=i32::MAX as u64;

/// Milliseconds of a time limit: up to 49 days.
pub(crate) const MILLIS_RANGE: RangeInclusive<u64> = 1..=u32::MAX as u64;

/// Connections: there are no more local ports than that to one server.
pub(crate) const CONNECTIONS_RANGE: RangeInclusive<u64> = 1..=u16::MAX as u64;

/// What a URL may carry without being percent-encoded (the unreserved characters of RFC 3986).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The store that a URL names.
#[derive(Debug)]
pub(crate) enum Target {
    /// The embedded store, with its byte budget.
    Memory { max_bytes: Option<u64> },
    /// A Redis or Valkey server.
    Redis(Box<RedisTarget>),
    /// A cluster, by some of its nodes. The target has the address of the first.
    Cluster { seeds: Vec<Address>, target: Box<RedisTarget> },
}

/// Where a server listens. `Display` is `host:port`, `[v6]:port` or `unix:path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A host name or an address (IPv6 without brackets).
    Tcp { host: String, port: u16 },
    /// The path of a socket.
    Unix(PathBuf),
    /// Where sentinels say that the primary is.
    Sentinels(Arc<Sentinels>),
}

impl Target {
    /// Reads a store URL.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with every mistake, or [`ErrorKind::Unsupported`] for a scheme that needs a feature
    /// which larder was built without. Neither repeats a credential.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(config(&[format!("it has no scheme; {KNOWN_SCHEMES}").into()]));
        };
        let mut mistakes = Mistakes::default();
        if url.chars().any(|char| char.is_control() || char.is_whitespace()) {
            mistakes.add("it contains a space or a control character; percent-encode it");
        }
        let target = match scheme.to_ascii_lowercase().as_str() {
            "memory" => memory(rest, &mut mistakes),
            "redis" => redis(rest, &REDIS_OPTIONS, &mut mistakes)
                .map(|(target, _)| Self::Redis(Box::new(target))),
            #[cfg(feature = "tls")]
            "rediss" => rediss(rest, &mut mistakes).map(|target| Self::Redis(Box::new(target))),
            "redis+unix" => unix(rest, &mut mistakes).map(|target| Self::Redis(Box::new(target))),
            "redis+cluster" => cluster(rest, &REDIS_OPTIONS, &mut mistakes)
                .map(|(seeds, target, _)| Self::Cluster { seeds, target: Box::new(target) }),
            #[cfg(feature = "tls")]
            "rediss+cluster" => {
                cluster(rest, &REDISS_OPTIONS, &mut mistakes).map(|(seeds, mut target, files)| {
                    target.tls = Some(tls_of(&files, &mut mistakes));
                    Self::Cluster { seeds, target: Box::new(target) }
                })
            }
            "redis+sentinel" => sentinels::read(rest, &REDIS_OPTIONS, &mut mistakes)
                .map(|(target, _)| Self::Redis(Box::new(target))),
            #[cfg(feature = "tls")]
            "rediss+sentinel" => {
                sentinels::read(rest, &REDISS_OPTIONS, &mut mistakes).map(|(mut target, files)| {
                    target.tls = Some(tls_of(&files, &mut mistakes));
                    Self::Redis(Box::new(target))
                })
            }
            #[cfg(not(feature = "tls"))]
            known @ ("rediss" | "rediss+cluster" | "rediss+sentinel") => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{known}:// needs TLS; build larder with its feature `tls`"),
                ));
            }
            _ => {
                mistakes.add(format!("its scheme is unknown; {KNOWN_SCHEMES}"));
                None
            }
        };
        match target {
            Some(target) if mistakes.0.is_empty() => Ok(target),
            _ => Err(config(&mistakes.0)),
        }
    }
}

const KNOWN_SCHEMES: &str = "known are memory://, redis://, rediss://, redis+unix://, redis+sentinel://, \
                             rediss+sentinel://, redis+cluster:// and rediss+cluster://";

/// More mistakes than anybody makes by hand are a URL of thousands of them, whose error nobody would read.
const MOST_NAMED: usize = 10;

fn config(mistakes: &[Cow<'static, str>]) -> Error {
    let named = &mistakes[..mistakes.len().min(MOST_NAMED)];
    let mut text = format!("the store URL is wrong: {}", named.join("; "));
    if mistakes.len() > MOST_NAMED {
        text += &format!("; and {} more mistakes", mistakes.len() - MOST_NAMED);
    }
    Error::new(ErrorKind::Config, text)
}

/// Everything that is wrong with a URL.
#[derive(Default)]
struct Mistakes(Vec<Cow<'static, str>>);

impl Mistakes {
    fn add(&mut self, mistake: impl Into<Cow<'static, str>>) {
        self.0.push(mistake.into());
    }

    /// Percent-decodes a part; `what` names it if that fails.
    fn decode(&mut self, what: &str, text: &str) -> Option<String> {
        let garbage = text.match_indices('%').any(|(at, _)| {
            let digits = text.as_bytes().get(at + 1..at + 3);
            !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        });
        if garbage {
            self.add(format!(
                "{what} has a `%` without two hex digits behind it; write %25 for a `%`"
            ));
            return None;
        }
        let Ok(decoded) = percent_decode_str(text).decode_utf8() else {
            self.add(format!("{what} is not UTF-8 once percent-decoded"));
            return None;
        };
        Some(decoded.into_owned())
    }

    /// A number in plain decimal digits within `range`.
    fn number(&mut self, what: &str, text: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = whole_number(text).filter(|number| range.contains(number));
        if number.is_none() {
            self.add(format!(
                "{what} is not a whole number from {} to {}",
                range.start(),
                range.end()
            ));
        }
        number
    }
}

/// Decimal digits and nothing else; `str::parse` would take `+1`.
pub(crate) fn whole_number(text: &str) -> Option<u64> {
    is_digits(text).then(|| text.parse().ok()).flatten()
}

pub(crate) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A URL behind its scheme.
struct Parts<'a> {
    authority: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str, mistakes: &mut Mistakes) -> Self {
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let tail = match tail.split_once('#') {
            Some((tail, _)) => {
                mistakes.add(
                    "it has a fragment (`#...`), which means nothing here; write %23 for a `#` in \
                     a password",
                );
                tail
            }
            None => tail,
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        Self { authority, path, query }
    }
}

fn memory(rest: &str, mistakes: &mut Mistakes) -> Option<Target> {
    let parts = Parts::split(rest, mistakes);
    if !parts.authority.is_empty() || !matches!(parts.path, "" | "/") {
        mistakes.add("the embedded store has no user, host or path; write memory://");
    }
    let mut options = Options::read(parts.query, &MEMORY_OPTIONS, true, mistakes);
    let max_bytes = options.number("max_bytes", 1..=u64::MAX, mistakes);
    Some(Target::Memory { max_bytes })
}

/// A password with a raw `/`, `?` or `#` ends the authority early. Everything behind may be a part
/// of it, so nothing else is said about such a URL.
const RAW_SEPARATOR: &str = "an `@` stands behind the first `/`, `?` or `#`; percent-encode these \
                             characters in the username and the password (`/` is %2F, `?` is %3F, \
                             `#` is %23, `@` is %40)";

/// A server over TLS. Verification cannot be switched off in a URL.
#[cfg(feature = "tls")]
fn rediss(rest: &str, mistakes: &mut Mistakes) -> Option<RedisTarget> {
    let (mut target, files) = redis(rest, &REDISS_OPTIONS, mistakes)?;
    target.tls = Some(tls_of(&files, mistakes));
    Some(target)
}

/// What the options say of certificates.
#[cfg(feature = "tls")]
fn tls_of(files: &[(&str, String)], mistakes: &mut Mistakes) -> Tls {
    let mut tls = Tls::new();
    let file = |name: &str| files.iter().find(|(found, _)| *found == name).map(|(_, path)| path);
    if let Some(ca) = file("ca") {
        tls = tls.ca_file(ca);
    }
    match (file("cert"), file("key")) {
        (Some(certificate), Some(key)) => tls = tls.identity_files(certificate, key),
        (None, None) => {}
        _ => mistakes.add("`cert` and `key` go together: a certificate and the file of its key"),
    }
    tls
}

fn redis<'a>(
    rest: &'a str,
    known: &[&str],
    mistakes: &mut Mistakes,
) -> Option<(RedisTarget, Texts<'a>)> {
    let (_, target, texts) = servers(rest, known, false, mistakes)?;
    has_no_replicas(&target.options, "a single server has no replicas to read from", mistakes);
    Some((target, texts))
}

/// A cluster, by some of its nodes.
fn cluster<'a>(
    rest: &'a str,
    known: &[&str],
    mistakes: &mut Mistakes,
) -> Option<(Vec<Address>, RedisTarget, Texts<'a>)> {
    let (seeds, target, texts) = servers(rest, known, true, mistakes)?;
    if target.db != 0 {
        mistakes.add("a cluster has database 0 alone; leave the path out");
    }
    Some((seeds, target, texts))
}

/// Replicas are asked for and are not there.
fn has_no_replicas(options: &UrlOptions, why: &str, mistakes: &mut Mistakes) {
    if options.read_from == Some(ReadPreference::PreferReplica) {
        mistakes.add(format!("`read_from` is for redis+cluster:// and rediss+cluster://: {why}"));
    }
}

/// The options of a URL as they stand there.
type Texts<'a> = Vec<(&'a str, String)>;

/// The parts of a URL, who we are, and where.
fn whom_and_where<'a>(
    rest: &'a str,
    mistakes: &mut Mistakes,
) -> Option<(Parts<'a>, &'a str, &'a str)> {
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[authority_end..].contains('@') {
        mistakes.add(RAW_SEPARATOR);
        return None;
    }
    let parts = Parts::split(rest, mistakes);
    let (userinfo, hosts) = parts.authority.rsplit_once('@').unwrap_or(("", parts.authority));
    Some((parts, userinfo, hosts))
}

/// One server, or several with commas between them. The target has the address of the first.
fn servers<'a>(
    rest: &'a str,
    known: &[&str],
    several: bool,
    mistakes: &mut Mistakes,
) -> Option<(Vec<Address>, RedisTarget, Texts<'a>)> {
    let (parts, userinfo, host_and_port) = whom_and_where(rest, mistakes)?;
    let credentials = credentials(userinfo, mistakes);
    if several && userinfo.split(':').next().is_some_and(|username| username.contains(',')) {
        mistakes.add(
            "a comma stands before the user; user and password stand once, in front of all hosts (a comma in \
             the username is %2C)",
        );
    }
    let hosts: Vec<&str> =
        if several { host_and_port.split(',').collect() } else { vec![host_and_port] };
    // Each is looked at, so that the mistakes of all are named.
    let addresses: Vec<Option<Address>> =
        hosts.into_iter().map(|host| host_and_port_of(host, DEFAULT_PORT, mistakes)).collect();
    let addresses: Option<Vec<Address>> = addresses.into_iter().collect();
    let db = match parts.path.strip_prefix('/').unwrap_or("") {
        "" => Some(0),
        text => mistakes.number("the database (the path)", text, DB_RANGE),
    };
    // What looks like an option can be the end of a password, if the host was forgotten.
    let options = Options::read(parts.query, known, addresses.is_some(), mistakes);
    let texts = options.0.clone();
    let options = options.finish(mistakes);
    let addresses = addresses?;
    let first = addresses.first()?.clone();
    let target = RedisTarget::new(first, credentials?, db? as i64, options);
    Some((addresses, target, texts))
}

fn unix(rest: &str, mistakes: &mut Mistakes) -> Option<RedisTarget> {
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if authority_end > 0 && rest[authority_end..].contains('@') {
        mistakes.add(RAW_SEPARATOR);
        return None;
    }
    let parts = Parts::split(rest, mistakes);
    let (userinfo, host) = match parts.authority.rsplit_once('@') {
        Some((userinfo, host)) => (userinfo, host),
        None => ("", parts.authority),
    };
    if !host.is_empty() {
        mistakes.add(
            "a socket has no host; write redis+unix:///path with three slashes, and \
             user:password@ before the third",
        );
    }
    let credentials = credentials(userinfo, mistakes);
    let path = mistakes.decode("the path of the socket", parts.path);
    if path.as_ref().is_some_and(|path| path.len() < 2 || path.contains('\0')) {
        mistakes.add("the path of the socket is missing, or has a zero byte");
    }
    let mut options = Options::read(parts.query, &UNIX_OPTIONS, host.is_empty(), mistakes);
    let db = options.number("db", DB_RANGE, mistakes).unwrap_or(0);
    let options = options.finish(mistakes);
    has_no_replicas(&options, "a single server has no replicas to read from", mistakes);
    Some(RedisTarget::new(Address::Unix(path?.into()), credentials?, db as i64, options))
}

type Credentials = (Option<String>, Option<SecretString>);

fn credentials(userinfo: &str, mistakes: &mut Mistakes) -> Option<Credentials> {
    let (username, password) = match userinfo.split_once(':') {
        Some((username, password)) => (username, Some(password)),
        None => (userinfo, None),
    };
    // A raw `@` in the password is what many tools let pass; with a `:` behind it, it may as well
    // be a second `user:password@`.
    let twice = |password: &str| password.split_once('@').is_some_and(|(_, end)| end.contains(':'));
    if username.contains('@') || password.is_some_and(twice) {
        mistakes.add(
            "it has more than one `@` before the host, so where the password ends is a guess; \
             percent-encode those of the username and the password (`@` is %40, `:` is %3A)",
        );
        return None;
    }
    if !username.is_empty() && password.is_none() {
        mistakes.add(
            "it has a username without a password; write :password@ for a password alone, and \
             user:@ for a user that needs none",
        );
        return None;
    }
    let username = mistakes.decode("the username", username);
    let password = mistakes.decode("the password", password.unwrap_or(""));
    let (username, password) = (username?, password?);
    let named = !username.is_empty();
    let password = (named || !password.is_empty()).then(|| SecretString::from(password));
    Some((named.then_some(username), password))
}

fn host_and_port_of(text: &str, default: u16, mistakes: &mut Mistakes) -> Option<Address> {
    let (host, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let Some((host, port)) = bracketed.split_once(']') else {
            mistakes.add("the IPv6 address has no closing bracket; write [::1]:6379");
            return None;
        };
        if host.parse::<Ipv6Addr>().is_err() {
            mistakes.add("between the brackets stands no IPv6 address");
            return None;
        }
        let port = match port.strip_prefix(':') {
            None if !port.is_empty() => {
                mistakes.add("behind the IPv6 address may stand a `:` and a port, nothing else");
                return None;
            }
            port => port,
        };
        (host, port)
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if port.is_some_and(|port| port.contains(':')) {
            mistakes.add(
                "the host has more than one `:`; write an IPv6 address in brackets: [::1]:6379",
            );
            return None;
        }
        if let Err(mistake) = check_host(host) {
            mistakes.add(mistake);
            // A wrong port can be reported beside a wrong host.
            if let Some(port) = port {
                mistakes.number("the port", port, 1..=u16::MAX.into());
            }
            return None;
        }
        (host, port)
    };
    let port = match port {
        None => default,
        Some(port) => mistakes.number("the port", port, 1..=u16::MAX.into())? as u16,
    };
    Some(Address::Tcp { host: host.to_owned(), port })
}

/// Checks a host that stands alone: a name, or an address with or without brackets, which are
/// taken away.
pub(crate) fn address_or_name(host: &str) -> Result<&str, &'static str> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(bare);
    }
    check_host(host)?;
    Ok(host)
}

/// Checks a host name or an IPv4 address.
fn check_host(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        Err("the host is empty")
    } else if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        Err("the host has a character that no host name has")
    } else {
        Ok(())
    }
}

/// The URL of a server, with everything percent-encoded that has to be.
pub(crate) fn build(
    address: &Address,
    username: Option<&str>,
    password: Option<&str>,
    db: u64,
) -> SecretString {
    let encode = |text| utf8_percent_encode(text, ENCODED).to_string();
    let userinfo = match (username.map(encode), password.map(encode)) {
        (None, None) => String::new(),
        (user, pass) => format!("{}:{}@", user.unwrap_or_default(), pass.unwrap_or_default()),
    };
    SecretString::from(match address {
        Address::Tcp { .. } => format!("redis://{userinfo}{address}/{db}"),
        Address::Unix(path) => {
            let path = path.to_string_lossy();
            let path = utf8_percent_encode(&path, PATH_ENCODED);
            format!("redis+unix://{userinfo}{path}?db={db}")
        }
        Address::Sentinels(sentinels) => {
            let hosts: Vec<_> =
                sentinels.targets.iter().map(|target| target.address.to_string()).collect();
            let primary = utf8_percent_encode(&sentinels.primary, ENCODED);
            format!("redis+sentinel://{userinfo}{}/{primary}/{db}", hosts.join(","))
        }
    })
}

/// A URL that was parsed, with `***` for the username and the password, to be shown.
pub(crate) fn masked(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let Some(at) = url[start..end].rfind('@') else {
        return url.to_owned();
    };
    let mask = |text: &str| if text.is_empty() { "" } else { "***" };
    let (username, password) = url[start..start + at].split_once(':').unwrap_or_default();
    format!("{}{}:{}{}", &url[..start], mask(username), mask(password), &url[start + at..])
}

const PATH_ENCODED: &AsciiSet = &ENCODED.remove(b'/');

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Sentinels(sentinels) => write!(f, "sentinels {sentinels}"),
        }
    }
}

/// Stands in `Debug` for what is not shown.
pub(crate) struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

mod options;
mod sentinels;
mod target;

#[cfg(feature = "tls")]
use options::REDISS_OPTIONS;
pub use options::ReadPreference;
pub(crate) use options::UrlOptions;
use options::{MEMORY_OPTIONS, Options, REDIS_OPTIONS, UNIX_OPTIONS};
pub(crate) use sentinels::Sentinels;
pub(crate) use target::RedisTarget;

#[cfg(test)]
mod tests;

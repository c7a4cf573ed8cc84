//! Sentinels, as a URL names them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::options::Options;
use super::{
    Address, DB_RANGE, Mistakes, RedisTarget, Texts, UrlOptions, credentials, has_no_replicas,
    host_and_port_of, whom_and_where,
};
use crate::store::AnyCredentials;
#[cfg(feature = "tls")]
use crate::store::tls::{Connector, Tls};

/// The port of a sentinel that names none.
const PORT: u16 = 26_379;

/// Sentinels by their hosts, the name of the primary, and perhaps a database. The credentials are those of the servers
/// that they watch.
pub(super) fn read<'a>(
    rest: &'a str,
    known: &[&str],
    mistakes: &mut Mistakes,
) -> Option<(RedisTarget, Texts<'a>)> {
    let (parts, userinfo, hosts) = whom_and_where(rest, mistakes)?;
    let credentials = credentials(userinfo, mistakes);
    let addresses: Vec<Option<Address>> =
        hosts.split(',').map(|host| host_and_port_of(host, PORT, mistakes)).collect();
    let understood = addresses.iter().all(Option::is_some);
    let mut path = parts.path.strip_prefix('/').unwrap_or("").split('/');
    let primary = mistakes.decode("the name of the primary", path.next().unwrap_or(""));
    if primary.as_ref().is_some_and(String::is_empty) {
        mistakes.add(
            "the name of the primary that the sentinels watch is missing; write it behind the hosts: \
             h1,h2,h3/name",
        );
    }
    let db = match path.next().unwrap_or("") {
        "" => Some(0),
        text => mistakes.number("the database (behind the name)", text, DB_RANGE),
    };
    if path.next().is_some() {
        mistakes.add("behind the name of the primary may stand a database, nothing else");
    }
    let options = Options::read(parts.query, known, understood, mistakes);
    let texts = options.0.clone();
    let options = options.finish(mistakes);
    has_no_replicas(&options, "replicas behind sentinels are not read from", mistakes);
    let nobody = || (None, None);
    let targets = addresses
        .into_iter()
        .map(|address| {
            Some(Arc::new(RedisTarget::new(address?, nobody(), 0, UrlOptions::default())))
        })
        .collect::<Option<Vec<_>>>()?;
    let address = Address::Sentinels(Arc::new(Sentinels::new(targets, primary?)));
    Some((RedisTarget::new(address, credentials?, db? as i64, options), texts))
}

/// A group of sentinels, and the name of the primary that they watch.
pub(crate) struct Sentinels {
    /// Each as a server of its own, with the credentials that it wants.
    pub(crate) targets: Vec<Arc<RedisTarget>>,
    pub(crate) primary: String,
    /// The primary that was replaced last, and when they said so.
    pub(crate) replaced: watch::Sender<Option<(Address, Instant)>>,
    /// The task that listens to them.
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Sentinels {
    pub(super) fn new(targets: Vec<Arc<RedisTarget>>, primary: String) -> Self {
        Self { targets, primary, replaced: watch::Sender::new(None), listening: Mutex::new(None) }
    }

    pub(crate) fn listening(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        // Nothing that can panic runs under this lock.
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        if let Some(task) = self.listening().take() {
            task.abort();
        }
    }
}

impl Sentinels {
    /// Who we are at the sentinels, whom the servers' credentials do not concern.
    pub(crate) fn with_credentials(&mut self, credentials: &Arc<dyn AnyCredentials>) {
        for target in &mut self.targets {
            if let Some(target) = Arc::get_mut(target) {
                target.credentials = Some(Arc::clone(credentials));
            }
        }
    }

    /// Has each of them spoken to over TLS. Answers what makes the connections to the servers.
    ///
    /// # Errors
    /// Every mistake.
    #[cfg(feature = "tls")]
    pub(super) fn secure(&mut self, tls: &Tls) -> Result<Connector, Vec<String>> {
        let hosts = self.targets.iter().filter_map(|target| match &target.address {
            Address::Tcp { host, .. } => Some(host.as_str()),
            _ => None,
        });
        let connector = tls.connector(hosts)?;
        for target in &mut self.targets {
            let mut secured = target.at(&target.address);
            (secured.tls, secured.connector) = (Some(tls.clone()), Some(connector.clone()));
            *target = Arc::new(secured);
        }
        Ok(connector)
    }
}

impl PartialEq for Sentinels {
    fn eq(&self, other: &Self) -> bool {
        let addresses = |one: &Self| -> Vec<String> {
            one.targets.iter().map(|target| target.address.to_string()).collect()
        };
        self.primary == other.primary && addresses(self) == addresses(other)
    }
}

impl Eq for Sentinels {}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, target) in self.targets.iter().enumerate() {
            write!(f, "{}{}", if at > 0 { "," } else { "" }, target.address)?;
        }
        write!(f, "/{}", self.primary)
    }
}

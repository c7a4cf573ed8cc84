//! The options behind the `?` of a store URL.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{CONNECTIONS_RANGE, MILLIS_RANGE, Mistakes};
use crate::store::{BYTES_RANGE, CALLS_RANGE};

/// Of every server. What has no effect at one is refused where that is known.
pub(super) const REDIS_OPTIONS: [&str; 10] = [
    "deadline_ms",
    "connect_timeout_ms",
    "max_connections",
    "connections",
    "max_in_flight",
    "max_in_flight_bytes",
    "ping_interval_ms",
    "ping_timeout_ms",
    "breaker",
    "read_from",
];
#[cfg(feature = "tls")]
pub(super) const REDISS_OPTIONS: [&str; 13] = with(&REDIS_OPTIONS, &["ca", "cert", "key"]);
pub(super) const UNIX_OPTIONS: [&str; 11] = with(&["db"], &REDIS_OPTIONS);
pub(super) const MEMORY_OPTIONS: [&str; 1] = ["max_bytes"];

/// Both, one after the other.
const fn with<const N: usize>(some: &[&'static str], more: &[&'static str]) -> [&'static str; N] {
    let mut all = [""; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < some.len() { some[at] } else { more[at - some.len()] };
        at += 1;
    }
    all
}

/// Who answers reads, in a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadPreference {
    /// The primary: a read sees every write that was acknowledged before it.
    #[default]
    Primary,
    /// A replica of the slot, by chance, and the primary if that cannot: a read may be older than what was written before it,
    /// also by the same caller.
    PreferReplica,
}

/// The options behind the `?` of a Redis URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UrlOptions {
    pub(crate) deadline: Option<Duration>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) connections: Option<usize>,
    pub(crate) max_in_flight: Option<u64>,
    pub(crate) max_in_flight_bytes: Option<u64>,
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) ping_timeout: Option<Duration>,
    pub(crate) breaker: Option<bool>,
    pub(crate) read_from: Option<ReadPreference>,
}

/// The options behind the `?`, known and each given once.
pub(super) struct Options<'a>(pub(super) Vec<(&'a str, String)>);

impl<'a> Options<'a> {
    pub(super) fn read(
        query: &'a str,
        known: &[&str],
        show: bool,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut found: Vec<(&'a str, String)> = Vec::new();
        // Said once, however many are wrong.
        let mut known_names = Some(format!("; known are {}", known.join(", ")));
        for pair in query.split('&').filter(|_| !query.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                let names = known_names.take().unwrap_or_default();
                mistakes.add(format!("a query option is not of the form name=value{names}"));
                continue;
            };
            if !known.contains(&name) {
                let shown = if show && looks_like_a_name(name) {
                    format!("the query option `{name}` is unknown")
                } else {
                    "a query option is unknown".to_owned()
                };
                mistakes.add(format!("{shown}{}", known_names.take().unwrap_or_default()));
            } else if found.iter().any(|(earlier, _)| *earlier == name) {
                mistakes.add(format!("the query option `{name}` is given twice"));
            } else if let Some(value) = mistakes.decode(&format!("`{name}`"), value) {
                found.push((name, value));
            }
        }
        Self(found)
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
        mistakes: &mut Mistakes,
    ) -> Option<u64> {
        let (_, value) = self.0.iter().find(|(found, _)| *found == name)?;
        mistakes.number(&format!("`{name}`"), value, range)
    }

    fn word<T: Copy>(&self, name: &str, words: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let (_, value) = self.0.iter().find(|(found, _)| *found == name)?;
        let meant = words.iter().find(|(word, _)| word == value).map(|(_, meaning)| *meaning);
        if meant.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            mistakes.add(format!("`{name}` is one of {}", words.join(", ")));
        }
        meant
    }

    pub(super) fn finish(mut self, mistakes: &mut Mistakes) -> UrlOptions {
        let mut millis = |name| self.number(name, MILLIS_RANGE, mistakes);
        let deadline = millis("deadline_ms").map(Duration::from_millis);
        let connect_timeout = millis("connect_timeout_ms").map(Duration::from_millis);
        let ping_interval = millis("ping_interval_ms").map(Duration::from_millis);
        let ping_timeout = millis("ping_timeout_ms").map(Duration::from_millis);
        let mut count =
            |name| self.number(name, CONNECTIONS_RANGE, mistakes).map(|number| number as usize);
        let max_connections = count("max_connections");
        let connections = count("connections");
        let max_in_flight = self.number("max_in_flight", CALLS_RANGE, mistakes);
        let max_in_flight_bytes = self.number("max_in_flight_bytes", BYTES_RANGE, mistakes);
        let breaker = self.word("breaker", &[("on", true), ("off", false)], mistakes);
        let from = [
            ("primary", ReadPreference::Primary),
            ("prefer-replica", ReadPreference::PreferReplica),
        ];
        let read_from = self.word("read_from", &from, mistakes);
        UrlOptions {
            deadline,
            connect_timeout,
            max_connections,
            connections,
            max_in_flight,
            max_in_flight_bytes,
            ping_interval,
            ping_timeout,
            breaker,
            read_from,
        }
    }
}

/// A misspelt option is worth naming; anything else behind a `?` may be a secret.
fn looks_like_a_name(name: &str) -> bool {
    name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

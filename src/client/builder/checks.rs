//! What can be wrong with the settings of a client, apart from its URL.

use super::{Builder, Made};
use crate::codec::JsonLimit;
use crate::store::url::{self, ReadPreference};
use crate::store::{BYTES_RANGE, CALLS_RANGE};

/// Each namespace takes about a kilobyte from the start: more than this is a mistake.
const MOST_NAMESPACES: usize = 1 << 16;

/// A setting by name, and whether it is set.
pub(super) type Setting = (&'static str, fn(&Builder) -> bool);

pub(super) const MAX_BYTES: Setting = ("max_bytes", |builder| builder.max_bytes.is_some());
const CONNECTIONS_SET: Setting = ("connections", |builder| builder.connections.is_some());
pub(super) const CREDENTIALS: Setting = ("credentials", |builder| builder.credentials.is_some());
const CONNECT: Setting = ("connect_timeout", |builder| builder.connect_timeout.is_some());
const PING_INTERVAL: Setting = ("ping_interval", |builder| builder.ping_interval.is_some());
pub(super) const BREAKER: Setting = ("breaker", |builder| builder.breaker.is_some());
const PING_TIMEOUT: Setting = ("ping_timeout", |builder| builder.ping_timeout.is_some());

/// Those of connections that larder opens.
pub(super) const OF_CONNECTIONS: [Setting; 4] =
    [CONNECTIONS_SET, CONNECT, PING_INTERVAL, PING_TIMEOUT];

impl Builder {
    /// All that is wrong with what code has set, whatever the URL says.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            mistakes.push("the deadline is zero".to_owned());
        }
        for (name, time) in [
            ("connect timeout", self.connect_timeout),
            ("ping interval", self.ping_interval),
            ("ping timeout", self.ping_timeout),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                mistakes.push(format!("the {name} is zero"));
            }
        }
        for (name, number) in
            [("connections", self.connections), ("max_connections", self.max_connections)]
        {
            if number == Some(0) {
                mistakes.push(format!("{name} is 0; it is at least 1"));
            }
        }
        for (name, number, range) in [
            ("max_in_flight", self.max_in_flight, CALLS_RANGE),
            ("max_in_flight_bytes", self.max_in_flight_bytes, BYTES_RANGE),
        ] {
            if let Some(number) = number.filter(|number| !range.contains(number)) {
                let (least, most) = (range.start(), range.end());
                mistakes.push(format!("{name} is {number}; it is from {least} to {most}"));
            }
        }
        let most = *url::CONNECTIONS_RANGE.end();
        if let Some(connections) = self.connections.filter(|number| *number as u64 > most) {
            mistakes.push(format!("connections is {connections}; it is at most {most}"));
        }
        if self.max_namespaces > MOST_NAMESPACES {
            mistakes.push(format!(
                "max_namespaces is {}; it is at most {MOST_NAMESPACES}",
                self.max_namespaces
            ));
        }
        if self.near_max_bytes == Some(0) {
            mistakes.push("near_max_bytes is 0; leave the near caches off instead".to_owned());
        }
        if self.max_loads == 0 {
            mistakes.push("max_loads is 0; it is at least 1".to_owned());
        }
        mistakes.extend(self.max_json_bytes.and_then(JsonLimit::mistake));
        if self.max_bytes == Some(0) {
            mistakes.push("max_bytes is 0; it is at least 1".to_owned());
        }
        if self.store.is_some() && self.url.is_some() {
            mistakes.push("both a URL and a store or provider are set; keep one".to_owned());
        }
        if self.store.is_some() {
            self.idle(&[MAX_BYTES, CONNECTIONS_SET], "a store or provider", &mut mistakes);
            // A provider's connections are its own; larder opens those that tell of changes.
            if self.tracking.is_none() {
                let times = [CONNECT, PING_INTERVAL, PING_TIMEOUT];
                self.idle(&times, "a store or provider", &mut mistakes);
            }
        }
        if self.tracking.is_some() && !matches!(self.store, Some(Made::Provider(_))) {
            mistakes.push(
                "tracking has an effect on a session provider alone; leave it out".to_owned(),
            );
        }
        if matches!(self.store, Some(Made::Store(_))) {
            self.idle(&[BREAKER], "a store of your own", &mut mistakes);
        }
        if self.store.is_some() {
            self.replicas(
                "a store or provider of your own decides who is read from",
                &mut mistakes,
            );
        }
        mistakes
    }

    /// Replicas are asked for and are not there.
    pub(super) fn replicas(&self, why: &str, mistakes: &mut Vec<String>) {
        if self.read_from == Some(ReadPreference::PreferReplica) {
            mistakes
                .push(format!("read_from is for redis+cluster:// and rediss+cluster://: {why}"));
        }
    }

    /// Settings that mean nothing to the store at hand are mistakes: who set them expected something.
    /// `max_connections` and what may be in flight are none: the embedded store keeps within every such bound.
    pub(super) fn idle(&self, settings: &[Setting], store: &str, mistakes: &mut Vec<String>) {
        for (name, is_set) in settings {
            if is_set(self) {
                mistakes.push(format!("{name} has no effect on {store}; leave it out"));
            }
        }
    }
}

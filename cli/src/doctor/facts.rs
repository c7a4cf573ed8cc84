//! What is asked of a server: facts alone, without a judgement.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use larder::redis1::Value;

use super::ask::{Fact, Server, Why, items, pairs, text};

/// How many round trips are measured, and for how long at most: far away fewer have to do.
const PINGS: usize = 100;
const MEASURED_FOR: Duration = Duration::from_secs(1);

/// The settings that are asked for. No other: some of them are passwords.
const SETTINGS: [&str; 7] = [
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "tracking-table-max-keys",
    "client-output-buffer-limit",
    "timeout",
];

/// Who the server says to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hello {
    pub(super) server: String,
    pub(super) version: String,
    pub(super) protocol: i64,
    pub(super) mode: String,
    pub(super) role: String,
}

/// What a server tells of itself.
#[derive(Debug)]
pub(super) struct Facts {
    /// Of `PING`, sorted.
    pub(super) round_trips: Vec<Duration>,
    pub(super) hello: Fact<Hello>,
    pub(super) info: Fact<HashMap<String, String>>,
    settings: Vec<(&'static str, Fact<String>)>,
    /// How far its clock is ahead of ours, in seconds, and by how much that may be wrong.
    pub(super) ahead: Fact<(f64, f64)>,
    /// Whether it agrees to tell of changes.
    pub(super) tracking: Fact<()>,
}

impl Facts {
    /// Asks for all of it.
    pub(super) async fn of(server: &mut Server) -> Self {
        let round_trips = round_trips(server).await;
        let hello = server.ask(&["HELLO"]).await.and_then(|answer| hello(&answer));
        let info = server.ask(&["INFO"]).await.and_then(|answer| info(&answer));
        let mut settings = Vec::new();
        for name in SETTINGS {
            settings.push((name, setting(server, name).await));
        }
        let ahead = ahead(server).await;
        let tracking = tracking(server).await;
        Self { round_trips, hello, info, settings, ahead, tracking }
    }

    /// A setting: by `CONFIG GET`, else by the field of `INFO` that has the same.
    pub(super) fn setting(&self, name: &str) -> Fact<&str> {
        let asked = self.settings.iter().find(|(found, _)| *found == name);
        match asked {
            Some((_, Ok(value))) => Ok(value),
            Some((_, Err(why))) => {
                let field = name.replace('-', "_");
                self.field(&field).map_err(|_| why.clone())
            }
            None => Err(Why::Unreadable("CONFIG GET".to_owned())),
        }
    }

    /// A field of `INFO`.
    pub(super) fn field(&self, name: &str) -> Fact<&str> {
        let info = self.info.as_ref().map_err(Clone::clone)?;
        let missing = || Why::Unreadable("INFO".to_owned());
        info.get(name).map(String::as_str).ok_or_else(missing)
    }

    /// A field of `INFO` that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.field(name).ok()?.parse().ok()
    }
}

async fn round_trips(server: &mut Server) -> Vec<Duration> {
    let began = Instant::now();
    let mut took = Vec::with_capacity(PINGS);
    while took.len() < PINGS && began.elapsed() < MEASURED_FOR {
        let sent = Instant::now();
        // A refusal comes as fast.
        if matches!(server.ask(&["PING"]).await, Err(Why::Silent)) {
            break;
        }
        took.push(sent.elapsed());
    }
    took.sort_unstable();
    took
}

fn hello(answer: &Value) -> Fact<Hello> {
    let fields = pairs(answer);
    let field = |name: &str| {
        fields.iter().find(|(field, _)| field == name).and_then(|(_, value)| text(value))
    };
    let read = || {
        Some(Hello {
            server: field("server")?,
            version: field("version")?,
            protocol: field("proto")?.parse().ok()?,
            mode: field("mode")?,
            // A sentinel has none.
            role: field("role").unwrap_or_default(),
        })
    };
    read().ok_or_else(|| Why::Unreadable("HELLO".to_owned()))
}

fn info(answer: &Value) -> Fact<HashMap<String, String>> {
    let all = text(answer).ok_or_else(|| Why::Unreadable("INFO".to_owned()))?;
    let fields = all.lines().filter_map(|line| line.trim_end().split_once(':'));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

async fn setting(server: &mut Server, name: &str) -> Fact<String> {
    let answer = server.ask(&["CONFIG", "GET", name]).await?;
    let found = pairs(&answer).into_iter().find(|(found, _)| found == name);
    found
        .and_then(|(_, value)| text(value))
        .ok_or_else(|| Why::Unreadable(format!("CONFIG GET {name}")))
}

/// Halfway between question and answer both clocks are looked at; it may have been at either end.
async fn ahead(server: &mut Server) -> Fact<(f64, f64)> {
    let unreadable = || Why::Unreadable("TIME".to_owned());
    let (asked, ours) = (Instant::now(), SystemTime::now());
    let answer = server.ask(&["TIME"]).await?;
    let half = asked.elapsed().as_secs_f64() / 2.0;
    let part = |at: usize| items(&answer).get(at).and_then(text)?.parse::<f64>().ok();
    let (Some(secs), Some(micros)) = (part(0), part(1)) else { return Err(unreadable()) };
    let ours = ours.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| unreadable())?;
    Ok((secs + micros / 1e6 - ours.as_secs_f64() - half, half))
}

/// Nothing is read while it is on, so nothing is told.
async fn tracking(server: &mut Server) -> Fact<()> {
    server.ask(&["CLIENT", "TRACKING", "ON"]).await?;
    server.ask(&["CLIENT", "TRACKING", "OFF"]).await.map(drop)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Facts of a server that tells everything, with some of them changed.
    pub(in crate::doctor) fn made(changes: &[(&str, &str)]) -> Facts {
        let mut info = HashMap::new();
        for (name, value) in [
            ("redis_version", "7.0.15"),
            ("used_memory", "1000000"),
            ("total_system_memory", "8000000000"),
            ("evicted_keys", "0"),
            ("aof_enabled", "1"),
            ("aof_last_write_status", "ok"),
            ("rdb_last_bgsave_status", "ok"),
            ("tracking_total_keys", "0"),
            ("role", "master"),
            ("maxclients", "10000"),
            ("connected_clients", "1"),
        ] {
            info.insert(name.to_owned(), value.to_owned());
        }
        let mut settings = vec![
            ("maxmemory", Ok("100000000".to_owned())),
            ("maxmemory-policy", Ok("allkeys-lru".to_owned())),
            ("appendonly", Ok("yes".to_owned())),
            ("appendfsync", Ok("always".to_owned())),
            ("tracking-table-max-keys", Ok("1000000".to_owned())),
            ("client-output-buffer-limit", Ok("normal 0 0 0 slave 1 1 1 pubsub 8 8 8".to_owned())),
            ("timeout", Ok("0".to_owned())),
        ];
        let mut hello = Hello {
            server: "redis".to_owned(),
            version: "7.0.15".to_owned(),
            protocol: 3,
            mode: "standalone".to_owned(),
            role: "master".to_owned(),
        };
        for (name, value) in changes {
            match *name {
                "server" => hello.server = (*value).to_owned(),
                "version" => hello.version = (*value).to_owned(),
                "mode" => hello.mode = (*value).to_owned(),
                "role" => hello.role = (*value).to_owned(),
                _ => match settings.iter_mut().find(|(found, _)| found == name) {
                    Some((_, found)) => *found = Ok((*value).to_owned()),
                    None => _ = info.insert((*name).to_owned(), (*value).to_owned()),
                },
            }
        }
        Facts {
            round_trips: vec![Duration::from_micros(100); PINGS],
            hello: Ok(hello),
            info: Ok(info),
            settings,
            ahead: Ok((0.0, 0.0001)),
            tracking: Ok(()),
        }
    }

    #[test]
    fn a_setting_that_may_not_be_asked_for_is_looked_up_in_info() {
        let mut facts = made(&[("maxmemory_policy", "volatile-ttl")]);
        let why = Why::NoCommand("CONFIG GET".to_owned());
        for (_, value) in &mut facts.settings {
            *value = Err(why.clone());
        }
        assert_eq!(facts.setting("maxmemory-policy"), Ok("volatile-ttl"));
        assert_eq!(facts.setting("timeout"), Err(why));
    }

    #[test]
    fn the_answer_to_hello_is_read_from_both_protocols() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let flat = [
            bulk("server"),
            bulk("valkey"),
            bulk("version"),
            bulk("9.1.2"),
            bulk("proto"),
            Value::Int(2),
            bulk("mode"),
            bulk("cluster"),
            bulk("role"),
            bulk("master"),
        ];
        let read = hello(&Value::Array(flat.to_vec())).unwrap();
        assert_eq!((read.version.as_str(), read.protocol), ("9.1.2", 2));
        let map = flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        assert_eq!(hello(&Value::Map(map)), Ok(read));
        assert_eq!(hello(&Value::Okay), Err(Why::Unreadable("HELLO".to_owned())));
    }
}

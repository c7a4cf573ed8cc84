//! What the facts about a server mean for who caches and locks there.

use std::time::Duration;

use super::ask::Why;
use super::facts::Facts;
use super::finding::Finding;
use super::place::Place;

/// The oldest version that larder's tests run on, and the oldest with RESP3, tracking and ACL users.
const TESTED: (u64, u64) = (6, 2);
const OLDEST: (u64, u64) = (6, 0);

/// Within one data centre a round trip takes well under a millisecond.
const FAR: Duration = Duration::from_millis(10);

/// More than clocks differ that are set over the network.
const CLOCKS_DIFFER: f64 = 1.0;

/// So full counts as nearly full.
const NEARLY: f64 = 0.9;

/// A reply that is longer than a limit of the server ends the connection, with every call in flight over it.
const LARGE_REPLY: u64 = 64 << 20;

/// Everything that is judged of one server.
pub(super) fn all(facts: &Facts, place: &Place<'_>) -> Vec<Finding> {
    vec![
        reach(facts),
        version(facts),
        role(facts, place),
        resp3(facts),
        tracking(facts),
        memory(facts),
        eviction(facts),
        persistence(facts),
        tracking_table(facts),
        output_buffers(facts),
        timeout(facts),
        tls(place),
        clock(facts),
    ]
}

fn reach(facts: &Facts) -> Finding {
    let times = &facts.round_trips;
    let Some(longest) = times.last() else {
        return Finding::problem(
            "reach",
            "it lets us in and does not answer",
            "look at its load and at SLOWLOG: a script or a command that takes long keeps all others waiting",
        );
    };
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
    let (p50, p99) = (at(0.5), at(0.99));
    let found = format!(
        "{} round trips (PING) took {} (p50), {} (p99), {} at most",
        times.len(),
        ms(p50),
        ms(p99),
        ms(*longest)
    );
    let finding = if p99 >= larder::DEADLINE {
        Finding::problem(
            "reach",
            found,
            "calls have a second by default and will run out of it; find out what is slow",
        )
    } else if p50 >= FAR {
        Finding::advice(
            "reach",
            found,
            "it is far away, and every call takes that long; use one in the same data centre, or keep values near",
        )
    } else {
        Finding::good("reach", found)
    };
    finding
        .with("round_trips", times.len())
        .with("p50_us", micros(p50))
        .with("p99_us", micros(p99))
        .with("max_us", micros(*longest))
}

/// The kind of server and its own version: Valkey calls itself a Redis 7.2 where programs expect one.
fn kind_and_version(facts: &Facts) -> Option<(&'static str, String)> {
    if let Ok(version) = facts.field("valkey_version") {
        return Some(("Valkey", version.to_owned()));
    }
    if let Ok(hello) = &facts.hello {
        let kind = match hello.server.as_str() {
            "redis" => "Redis",
            "valkey" => "Valkey",
            _ => "unknown",
        };
        return Some((kind, hello.version.clone()));
    }
    Some(("Redis", facts.field("redis_version").ok()?.to_owned()))
}

fn version(facts: &Facts) -> Finding {
    let Some((kind, version)) = kind_and_version(facts) else {
        let why = facts.hello.as_ref().err().map_or_else(String::new, Why::text);
        return Finding::unknown("version", &why);
    };
    let mut numbers = version.split('.').map_while(|part| part.parse::<u64>().ok());
    let number = numbers.next().map(|major| (major, numbers.next().unwrap_or(0)));
    let found =
        format!("{} {version}", if kind == "unknown" { "a server of another kind," } else { kind });
    let finding = match number {
        _ if kind == "unknown" => Finding::advice(
            "version",
            found,
            "larder is tested on Redis and Valkey; run its conformance suite on this one",
        ),
        None => Finding::unknown("version", "the server's version is no number"),
        Some(number) if kind == "Redis" && number < OLDEST => Finding::problem(
            "version",
            found,
            "it is too old: no RESP3, no tracking, no ACL users; Redis 6.2 is the oldest that larder is tested on",
        ),
        Some(number) if kind == "Redis" && number < TESTED => {
            Finding::advice("version", found, "Redis 6.2 is the oldest that larder is tested on")
        }
        Some(_) => Finding::good("version", found),
    };
    finding.with("kind", kind).with("version", version)
}

/// Whether it is what the URL takes it for.
fn role(facts: &Facts, place: &Place<'_>) -> Finding {
    let (mode, role) = match &facts.hello {
        Ok(hello) => (hello.mode.as_str(), hello.role.as_str()),
        Err(why) => match facts.field("role") {
            Ok(role) => (facts.field("redis_mode").unwrap_or("standalone"), role),
            Err(_) => return Finding::unknown("role", &why.text()),
        },
    };
    let finding = if mode == "sentinel" {
        Finding::problem(
            "role",
            "it is a sentinel, which holds no data",
            "name the sentinels in a URL redis+sentinel://h1,h2,h3/NAME",
        )
    } else if mode == "cluster" && !place.is_cluster() {
        Finding::problem(
            "role",
            "it is a node of a cluster, and the URL names a single server",
            "write redis+cluster://, else every key of another node is an error",
        )
    } else if role != "master" {
        Finding::problem(
            "role",
            "it is a replica: it takes no writes",
            "name its primary, or sentinels that find it: redis+sentinel://",
        )
    } else {
        Finding::good("role", "a primary")
    };
    finding.with("mode", mode).with("role", role)
}

fn resp3(facts: &Facts) -> Finding {
    match &facts.hello {
        Ok(hello) if hello.protocol >= 3 => Finding::good("resp3", "the connection speaks RESP3"),
        Err(Why::Silent) => Finding::unknown("resp3", &Why::Silent.text()),
        // The client tried to and fell back.
        Ok(_) => without_resp3("the server speaks RESP2 alone"),
        Err(why) => without_resp3(&why.text()),
    }
}

fn without_resp3(since: &str) -> Finding {
    Finding::advice(
        "resp3",
        format!("no RESP3: {since}"),
        "the near cache is off, and who waits for a load or a lock looks again from time to time; look for a \
         rename-command, or a proxy on the way",
    )
}

fn tracking(facts: &Facts) -> Finding {
    let off = |found: String, how: &str| {
        Finding::advice(
            "tracking",
            found,
            format!(
                "{how}; until then nothing is kept near, and who waits for a load or a lock polls"
            ),
        )
    };
    match &facts.tracking {
        Err(why @ Why::Silent) => Finding::unknown("tracking", &why.text()),
        // A server switches it on all the same, and tells nobody.
        _ if facts.hello.as_ref().map_or(true, |hello| hello.protocol < 3) => {
            off("no tracking without RESP3".to_owned(), "see resp3")
        }
        Ok(()) => Finding::good("tracking", "the server tells of changes (CLIENT TRACKING)"),
        Err(why) => {
            off(format!("no tracking: {}", why.text()), "allow the user `+client|tracking`")
        }
    }
}

fn memory(facts: &Facts) -> Finding {
    let most = match facts.setting("maxmemory") {
        Ok(text) => text.parse::<u64>().ok(),
        Err(why) => return Finding::unknown("memory", &why.text()),
    };
    let Some(most) = most else {
        return Finding::unknown("memory", "the server's maxmemory is no number");
    };
    let used = facts.number("used_memory");
    let mut finding = if most == 0 {
        Finding::advice(
            "memory",
            "there is no limit (maxmemory 0): the data grows until the machine is out of memory",
            "set maxmemory below the machine's memory, with room for replication and a fork",
        )
    } else if let Some(used) = used
        && used as f64 >= most as f64 * NEARLY
    {
        let found = format!("{} of {} are used", bytes(used), bytes(most));
        // What happens then is the matter of the policy.
        Finding::advice("memory", found, "raise maxmemory, or shorten TTLs")
    } else {
        let used = used.map_or_else(|| "an unknown part".to_owned(), bytes);
        Finding::good("memory", format!("{used} of {} are used", bytes(most)))
    };
    if let Some(used) = used {
        finding = finding.with("used", used);
    }
    finding.with("maxmemory", most)
}

fn eviction(facts: &Facts) -> Finding {
    let policy = match facts.setting("maxmemory-policy") {
        Ok(policy) => policy,
        Err(why) => return Finding::unknown("eviction", &why.text()),
    };
    let most = facts.setting("maxmemory").ok().and_then(|text| text.parse::<u64>().ok());
    let used = facts.number("used_memory").unwrap_or(0);
    let full = most.is_some_and(|most| most > 0 && used as f64 >= most as f64 * NEARLY);
    let finding = match policy {
        "noeviction" if full => Finding::problem(
            "eviction",
            "noeviction, and the memory is nearly used up: then every write fails (OOM), locks and loads too",
            "for a cache set maxmemory-policy allkeys-lfu or allkeys-lru; for locks raise maxmemory",
        ),
        "noeviction" if most == Some(0) => Finding::good(
            "eviction",
            "noeviction, without a limit: nothing is evicted, no lock is lost to it",
        ),
        "noeviction" => Finding::advice(
            "eviction",
            "noeviction: right for locks, which are never evicted; once the memory is used up, every write of a \
             cache fails (OOM)",
            "for a cache set maxmemory-policy allkeys-lfu or allkeys-lru, and keep locks on a server of their own",
        ),
        _ if policy.starts_with("allkeys-") => Finding::good(
            "eviction",
            format!(
                "{policy}: right for a cache; when memory is short, the key of a lock can go as well (its holder is told \
                 when it renews, fencing tokens still grow)"
            ),
        ),
        _ if policy.starts_with("volatile-") => Finding::good(
            "eviction",
            format!(
                "{policy}: only keys with a TTL are evicted, locks among them; keys without one stay, and once they fill \
                 the memory, writes fail (OOM)"
            ),
        ),
        _ => Finding::unknown("eviction", "the server has a policy that larder does not know"),
    };
    let evicted = facts.number("evicted_keys");
    finding.with("policy", policy).with("evicted_keys", evicted)
}

fn persistence(facts: &Facts) -> Finding {
    let aof = match facts.setting("appendonly") {
        Ok(value) => Ok(value == "yes"),
        Err(why) => facts.field("aof_enabled").map(|value| value == "1").map_err(|_| why),
    };
    let aof = match aof {
        Ok(aof) => aof,
        Err(why) => return Finding::unknown("persistence", &why.text()),
    };
    let failed = |field: &str| facts.field(field).is_ok_and(|status| status == "err");
    let fsync = facts.setting("appendfsync").ok().filter(|_| aof);
    let finding = if failed("rdb_last_bgsave_status") || failed("aof_last_write_status") {
        Finding::problem(
            "persistence",
            "the server could not write its data to disk, and may refuse writes for it (MISCONF)",
            "look at its log and its disk",
        )
    } else if !aof {
        Finding::advice(
            "persistence",
            "no append-only file: fine for a cache; after a crash, locks that were held are free, and somebody else gets \
             them while their holders still think to have them",
            "for locks set appendonly yes and appendfsync always, or let the data refuse old fencing tokens, which still \
             grow as long as the server's clock does",
        )
    } else {
        match fsync {
            Some("always") => Finding::good(
                "persistence",
                "append-only file, written before each answer: locks survive a crash",
            ),
            Some(how) => Finding::advice(
                "persistence",
                format!(
                    "append-only file, appendfsync {how}: a crash of the machine loses the last moments, and the locks of them"
                ),
                "for locks that must survive that set appendfsync always",
            ),
            None => Finding::advice(
                "persistence",
                "append-only file; how often it reaches the disk is not known",
                "for locks it should be appendfsync always",
            ),
        }
    };
    finding.with("aof", aof).with("appendfsync", fsync)
}

fn tracking_table(facts: &Facts) -> Finding {
    let most = match facts.setting("tracking-table-max-keys") {
        Ok(text) => text.parse::<u64>().ok(),
        Err(why) => return Finding::unknown("tracking-table", &why.text()),
    };
    let Some(most) = most else {
        return Finding::unknown("tracking-table", "the server's limit is no number");
    };
    let tracked = facts.number("tracking_total_keys");
    let now = tracked.map_or_else(String::new, |tracked| format!("{tracked} of "));
    let finding = match tracked {
        _ if most == 0 => Finding::advice(
            "tracking-table",
            "no limit to how many keys are remembered for near caches: they take the server's memory",
            "set tracking-table-max-keys to about as many as all near caches hold",
        ),
        Some(tracked) if tracked as f64 >= most as f64 * NEARLY => Finding::advice(
            "tracking-table",
            format!(
                "{now}{most} keys are remembered for near caches: nearly all; others are forgotten for new ones"
            ),
            "near values go although they did not change; raise tracking-table-max-keys, or use a near cache by prefix",
        ),
        _ => Finding::good(
            "tracking-table",
            format!("{now}{most} keys can be remembered for near caches"),
        ),
    };
    finding.with("max_keys", most).with("keys", tracked)
}

fn output_buffers(facts: &Facts) -> Finding {
    let limits = match facts.setting("client-output-buffer-limit") {
        Ok(limits) => limits,
        Err(why) => return Finding::unknown("output-buffers", &why.text()),
    };
    let words: Vec<&str> = limits.split_whitespace().collect();
    let limit = |class: &str| {
        let of = words.chunks_exact(4).find(|of| of[0] == class)?;
        Some((of[1].parse::<u64>().ok()?, of[2].parse::<u64>().ok()?))
    };
    let (Some(normal), Some(pubsub)) = (limit("normal"), limit("pubsub")) else {
        return Finding::unknown("output-buffers", "the server's limits cannot be read");
    };
    let smallest = [normal.0, normal.1].into_iter().filter(|limit| *limit > 0).min();
    let pubsub_text = if pubsub.0 == 0 { "none".to_owned() } else { bytes(pubsub.0) };
    let finding = match smallest {
        Some(smallest) if smallest < LARGE_REPLY => Finding::advice(
            "output-buffers",
            format!(
                "what waits for an ordinary connection may have {}: a longer reply ends it, with every call over it",
                bytes(smallest)
            ),
            "raise `normal` of client-output-buffer-limit above the largest reply, or set it to 0 0 0",
        ),
        _ => Finding::good(
            "output-buffers",
            format!(
                "limit for ordinary connections (the tracked ones too): {}; for pub/sub, which larder uses at \
                 sentinels alone: {pubsub_text}",
                smallest.map_or_else(|| "none".to_owned(), bytes)
            ),
        ),
    };
    finding
        .with("normal_hard", normal.0)
        .with("normal_soft", normal.1)
        .with("pubsub_hard", pubsub.0)
}

fn timeout(facts: &Facts) -> Finding {
    match facts.setting("timeout").map(str::parse::<u64>) {
        Err(why) => Finding::unknown("timeout", &why.text()),
        Ok(Err(_)) => Finding::unknown("timeout", "the server's timeout is no number"),
        Ok(Ok(0)) => Finding::good("timeout", "idle connections stay").with("seconds", 0),
        Ok(Ok(secs)) => Finding::advice(
            "timeout",
            format!("idle connections are closed after {secs} s"),
            "the next call after that waits for a new one; set timeout 0",
        )
        .with("seconds", secs),
    }
}

fn tls(place: &Place<'_>) -> Finding {
    let finding = if place.is_encrypted() {
        Finding::good("tls", "TLS, the server's certificate was verified")
    } else if place.is_local() {
        Finding::good("tls", "no TLS, and none needed on this machine")
    } else {
        Finding::advice(
            "tls",
            "no TLS: who sees the network sees the password and all values",
            "write rediss://, rediss+cluster:// or rediss+sentinel://, if that network is not yours alone",
        )
    };
    finding.with("tls", place.is_encrypted())
}

fn clock(facts: &Facts) -> Finding {
    let (ahead, error) = match &facts.ahead {
        Ok(ahead) => *ahead,
        Err(why) => return Finding::unknown("clock", &why.text()),
    };
    let found = format!(
        "the server's clock is {} {} ours, give or take {}",
        seconds(ahead.abs()),
        if ahead < 0.0 { "behind" } else { "ahead of" },
        seconds(error)
    );
    let finding = if ahead.abs() > CLOCKS_DIFFER + error {
        Finding::advice(
            "clock",
            found,
            "set both by NTP: new fencing tokens begin with the server's time, and a clock that is set back lets them fall \
             after the data was lost; leases are counted by each side's own clock and do not mind",
        )
    } else {
        Finding::good("clock", found)
    };
    finding.with("ahead_ms", (ahead * 1e3) as i64)
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn seconds(secs: f64) -> String {
    if secs < 1.0 { format!("{:.1} ms", secs * 1e3) } else { format!("{secs:.1} s") }
}

/// A number of bytes for people.
fn bytes(count: u64) -> String {
    let mut shown = count as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if shown < 1024.0 {
            return if unit == "bytes" {
                format!("{count} bytes")
            } else {
                format!("{shown:.1} {unit}")
            };
        }
        shown /= 1024.0;
    }
    format!("{shown:.1} TiB")
}

#[cfg(test)]
mod tests;

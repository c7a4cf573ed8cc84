use super::super::facts::tests::made;
use super::super::finding::State;
use super::*;

#[test]
fn a_server_for_locks_and_caches_has_nothing_to_change() {
    let place = Place::of("redis://127.0.0.1:6379");
    let facts = made(&[]);
    let findings = all(&facts, &place);
    let others: Vec<_> = findings.iter().filter(|one| one.state != State::Good).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert_eq!(findings.len(), 13);
}

/// Each setting by itself, and what is said to it.
#[test]
fn each_setting_is_judged() {
    use State::{Advice, Good, Problem, Unknown};
    let full = ("used_memory", "95000000");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, State, &'a str);
    let cases: &[Case<'_>] = &[
        (&[("version", "5.0.14")], "version", Problem, "too old"),
        (&[("version", "6.0.20")], "version", Advice, "6.2"),
        (&[("version", "6.2.14")], "version", Good, "Redis 6.2.14"),
        (&[("valkey_version", "9.1.2")], "version", Good, "Valkey 9.1.2"),
        (&[("server", "valkey"), ("version", "8.0.1")], "version", Good, "Valkey 8.0.1"),
        (&[("server", "\x1b[2J")], "version", Advice, "conformance"),
        (&[("version", "seven")], "version", Unknown, "no number"),
        (&[("mode", "cluster")], "role", Problem, "redis+cluster://"),
        (&[("mode", "sentinel")], "role", Problem, "redis+sentinel://"),
        (&[("role", "replica")], "role", Problem, "no writes"),
        (&[("maxmemory", "0")], "memory", Advice, "no limit"),
        (&[full], "memory", Advice, "90.6 MiB of 95.4 MiB"),
        (&[("maxmemory-policy", "noeviction")], "eviction", Advice, "right for locks"),
        (&[("maxmemory-policy", "noeviction"), full], "eviction", Problem, "OOM"),
        (&[("maxmemory-policy", "noeviction"), ("maxmemory", "0")], "eviction", Good, "no lock"),
        (&[("maxmemory-policy", "allkeys-lfu")], "eviction", Good, "lock can go"),
        (&[("maxmemory-policy", "volatile-lru")], "eviction", Good, "with a TTL"),
        (&[("maxmemory-policy", "whatever")], "eviction", Unknown, "not know"),
        (&[("appendonly", "no")], "persistence", Advice, "crash"),
        (&[("appendfsync", "everysec")], "persistence", Advice, "everysec"),
        (&[("rdb_last_bgsave_status", "err")], "persistence", Problem, "MISCONF"),
        (&[("tracking-table-max-keys", "0")], "tracking-table", Advice, "no limit"),
        (&[("tracking_total_keys", "999999")], "tracking-table", Advice, "nearly all"),
        (&[("timeout", "60")], "timeout", Advice, "60 s"),
        (
            &[("client-output-buffer-limit", "normal 1048576 0 0 slave 1 1 1 pubsub 8 8 8")],
            "output-buffers",
            Advice,
            "1.0 MiB",
        ),
        (&[("client-output-buffer-limit", "normal")], "output-buffers", Unknown, "read"),
    ];
    let place = Place::of("redis://127.0.0.1:6379");
    for (changes, check, state, part) in cases {
        let findings = all(&made(changes), &place);
        let found = findings.iter().find(|one| one.check == *check).unwrap();
        let said = format!("{} {}", found.found, found.advice.as_deref().unwrap_or_default());
        assert_eq!(found.state, *state, "{changes:?}: {found:?}");
        assert!(said.contains(part), "{changes:?}: {part} is not in {said}");
    }
}

#[test]
fn what_is_not_known_is_not_guessed() {
    let mut facts = made(&[]);
    facts.hello = Err(Why::NoCommand("HELLO".to_owned()));
    facts.info = Err(Why::Silent);
    assert_eq!(role(&facts, &Place::of("redis://h")).state, State::Unknown);
    assert_eq!(version(&facts).state, State::Unknown);
    assert_eq!(resp3(&facts).state, State::Advice);
    facts.ahead = Err(Why::Silent);
    assert_eq!(clock(&facts).found, "not known, since the server does not answer any more");
}

#[test]
fn times_and_distances_are_judged() {
    let mut facts = made(&[]);
    facts.round_trips = vec![Duration::from_millis(30); 33];
    assert_eq!(reach(&facts).state, State::Advice);
    facts.round_trips = vec![Duration::from_millis(1_500)];
    assert_eq!(reach(&facts).state, State::Problem);
    facts.round_trips.clear();
    assert_eq!(reach(&facts).state, State::Problem);
    facts.ahead = Ok((-90.0, 0.01));
    assert_eq!(clock(&facts).state, State::Advice);
    assert!(clock(&facts).found.contains("90.0 s behind ours"));
    // A difference that may come from the way there is none.
    facts.ahead = Ok((1.5, 0.9));
    assert_eq!(clock(&facts).state, State::Good);
    assert_eq!(tls(&Place::of("redis://cache")).state, State::Advice);
    assert_eq!(tls(&Place::of("rediss://cache")).state, State::Good);
}

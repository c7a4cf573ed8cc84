//! `larder doctor` on real servers that are set up well, badly, and so that little can be asked.

#[path = "../../tests/tls/authority.rs"]
mod authority;
mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use authority::Authority;
use common::{Ran, larder};
use larder::store::{RedisStore, Store};
use larder::testing::conformance::run_all;
use larder::testing::{RedisCluster, RedisServer, RedisServerBuilder, Scripted, ScriptedServer};
use serde_json::{Value, json};

const PASSWORD: &str = "canary:/@ secret";

/// The checks of every server, in the order in which they are shown.
const CHECKS: [&str; 15] = [
    "reach",
    "version",
    "role",
    "resp3",
    "tracking",
    "memory",
    "eviction",
    "persistence",
    "tracking-table",
    "output-buffers",
    "timeout",
    "tls",
    "clock",
    "permissions",
    "keys",
];

/// What `larder --json doctor` found.
struct Findings {
    code: i32,
    all: Vec<Value>,
}

impl Findings {
    fn of(command: &mut Command) -> Self {
        let ran = Ran::of(command.arg("--json"));
        assert_eq!(ran.err, "", "{ran:?}");
        assert!(!ran.out.contains("canary"), "a secret is in {ran:?}");
        let all: Vec<Value> =
            ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for finding in &all {
            let fields: Vec<&String> = finding.as_object().unwrap().keys().collect();
            assert_eq!(fields, ["advice", "check", "details", "found", "server", "state"]);
            let says_what_to_do = finding["advice"].is_string();
            let needs_it = matches!(finding["state"].as_str(), Some("advice" | "problem"));
            assert_eq!(says_what_to_do, needs_it, "{finding}");
        }
        Self { code: ran.code, all }
    }

    fn at(url: &str) -> Self {
        Self::of(&mut larder(&["doctor", "--url", url]))
    }

    #[track_caller]
    fn get(&self, check: &str) -> &Value {
        let mut found = self.all.iter().filter(|one| one["check"] == check);
        let one = found.next().unwrap_or_else(|| panic!("no {check} in {:#?}", self.all));
        assert!(found.next().is_none(), "{check} is there twice");
        one
    }

    #[track_caller]
    fn is(&self, check: &str, state: &str, details: Value) {
        let one = self.get(check);
        assert_eq!((&one["state"], &one["details"]), (&json!(state), &details), "{one:#}");
    }

    /// The names of the checks that came to this.
    fn which(&self, state: &str) -> Vec<&str> {
        let some = self.all.iter().filter(|one| one["state"] == state);
        some.map(|one| one["check"].as_str().unwrap()).collect()
    }
}

/// A server that leaves nothing to be wished for.
fn good() -> RedisServerBuilder {
    [
        ["--maxmemory", "200mb"],
        ["--maxmemory-policy", "allkeys-lru"],
        ["--appendonly", "yes"],
        ["--appendfsync", "always"],
    ]
    .concat()
    .into_iter()
    .fold(RedisServer::builder(), |server, arg| server.arg(arg))
}

/// The URL of a user of its own, with these rules.
async fn user(server: &RedisServer, rules: &[&str]) -> String {
    let command = [&["ACL", "SETUSER", "ada", "on", ">canary"][..], rules].concat();
    let set = server.command(&command).await;
    assert!(!set.is_error(), "{set}");
    format!("redis://{}", server.addr())
}

fn as_user(url: &str, args: &[&str]) -> Findings {
    let mut command = larder(&[&["doctor", "--url", url], args].concat());
    Findings::of(command.env("REDIS_USERNAME", "ada").env("REDIS_PASSWORD", "canary"))
}

#[tokio::test]
async fn a_good_server_has_nothing_to_change() {
    let server = good().start().await;
    let found = Findings::at(&server.url());
    assert_eq!(found.all.iter().map(|one| &one["check"]).collect::<Vec<_>>(), CHECKS);
    assert_eq!((found.code, found.which("ok").len()), (0, CHECKS.len()), "{:#?}", found.all);
    let shown = format!("redis://{}", server.addr());
    assert!(found.all.iter().all(|one| one["server"] == json!(shown)));

    let trips = &found.get("reach")["details"];
    assert_eq!(trips["round_trips"], 100);
    let [p50, p99, max] = ["p50_us", "p99_us", "max_us"].map(|name| trips[name].as_u64().unwrap());
    assert!(0 < p50 && p50 <= p99 && p99 <= max, "{trips}");
    let (kind, version) = match server.info("redis_version").await {
        version if version == "7.2.4" => ("Valkey", server.info("valkey_version").await),
        version => ("Redis", version),
    };
    found.is("version", "ok", json!({"kind": kind, "version": version}));
    found.is("role", "ok", json!({"mode": "standalone", "role": "master"}));
    found.is("resp3", "ok", json!({}));
    found.is("tracking", "ok", json!({}));
    let used = found.get("memory")["details"]["used"].as_u64().unwrap();
    assert!((100_000..100_000_000).contains(&used), "{used}");
    found.is("memory", "ok", json!({"maxmemory": 200 << 20, "used": used}));
    found.is("eviction", "ok", json!({"policy": "allkeys-lru", "evicted_keys": 0}));
    found.is("persistence", "ok", json!({"aof": true, "appendfsync": "always"}));
    found.is("tracking-table", "ok", json!({"max_keys": 1_000_000, "keys": 0}));
    let buffers = json!({"normal_hard": 0, "normal_soft": 0, "pubsub_hard": 32 << 20});
    found.is("output-buffers", "ok", buffers);
    found.is("timeout", "ok", json!({"seconds": 0}));
    found.is("tls", "ok", json!({"tls": false}));
    let ahead = found.get("clock")["details"]["ahead_ms"].as_i64().unwrap();
    assert!(ahead.abs() < 1_000, "{ahead}");
    let allowed = found.get("permissions")["details"]["allowed"].as_array().unwrap();
    assert_eq!(allowed.len(), 28);

    let text = Ran::of(&mut larder(&["doctor", "--url", &server.url()]));
    text.code_is_zero();
    assert!(text.out.starts_with(&format!("{shown}\n  ok       reach ")), "{text:?}");
    assert!(text.out.ends_with("\nproblems: 0, advice: 0, unknown: 0, ok: 15\n"), "{text:?}");
    // Nothing was written, and no setting was left changed.
    assert_eq!(server.command(&["DBSIZE"]).await.int(), Some(0));
    assert_eq!(server.info("tracking_clients").await, "0");
}

/// What larder sends, as the server counts it, is what the doctor asks for.
#[tokio::test]
async fn every_command_that_the_library_sends_is_asked_for() {
    let server = RedisServer::start().await;
    let store: Arc<dyn Store> = Arc::new(RedisStore::open(&server.url()).unwrap());
    let ran = run_all("doctor:", async || Arc::clone(&store)).await;
    assert!(ran.is_ok_and(|cases| cases > 30));
    let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
    let sent: BTreeSet<String> = stats
        .lines()
        .filter_map(|line| Some(line.strip_prefix("cmdstat_")?.split_once(':')?.0.to_owned()))
        // The handshake, tracking, which has a check of its own, this test, and a question that Valkey asks itself.
        .filter(|name| {
            let name = name.split('|').next().unwrap_or_default();
            !["hello", "auth", "client", "info", "config"].contains(&name)
        })
        .collect();
    let found = Findings::at(&server.url());
    let asked: BTreeSet<String> =
        serde_json::from_value(found.get("permissions")["details"]["allowed"].clone()).unwrap();
    let missing: Vec<&String> = sent.difference(&asked).collect();
    assert!(missing.is_empty() && sent.len() > 20, "{missing:?} of {sent:?}");
}

#[tokio::test]
async fn settings_that_hurt_are_named_with_what_to_change() {
    let server = RedisServer::builder()
        .arg("--maxmemory-policy")
        .arg("noeviction")
        .arg("--timeout")
        .arg("30")
        .arg("--tracking-table-max-keys")
        .arg("0")
        .start()
        .await;
    let found = Findings::at(&server.url());
    assert_eq!(found.code, 0, "advice is no problem");
    assert_eq!(found.which("advice"), ["memory", "persistence", "tracking-table", "timeout"]);
    found.is("eviction", "ok", json!({"policy": "noeviction", "evicted_keys": 0}));
    found.is("persistence", "advice", json!({"aof": false, "appendfsync": null}));
    found.is("timeout", "advice", json!({"seconds": 30}));
    found.is("tracking-table", "advice", json!({"max_keys": 0, "keys": 0}));
    let set = async |name: &str, value: &str| {
        let set = server.command(&["CONFIG", "SET", name, value]).await;
        assert!(!set.is_error(), "{set}");
    };
    set("maxmemory", "1gb").await;
    set("appendonly", "yes").await;
    set("client-output-buffer-limit", "normal 1048576 0 0").await;
    let found = Findings::at(&server.url());
    found.is("eviction", "advice", json!({"policy": "noeviction", "evicted_keys": 0}));
    found.is("persistence", "advice", json!({"aof": true, "appendfsync": "everysec"}));
    assert_eq!(found.get("output-buffers")["details"]["normal_hard"], 1 << 20);
    assert_eq!(found.get("output-buffers")["state"], "advice");
    // And full: then writes fail, as the server shows.
    let value = vec![b'x'; 16 << 20];
    server.command(&[&b"SET"[..], b"large", &value]).await;
    let used: u64 = server.info("used_memory").await.parse().unwrap();
    set("maxmemory", &(used / 2).to_string()).await;
    assert!(server.command(&["SET", "k", "v"]).await.is_error());
    let found = Findings::at(&server.url());
    assert_eq!((found.code, found.which("problem")), (1, vec!["eviction"]));
    assert_eq!(found.get("memory")["state"], "advice");
    let text = Ran::of(&mut larder(&["doctor", "--url", &server.url()]));
    assert_eq!(text.code, 1);
    assert!(text.out.contains("  problem  eviction ") && text.out.contains("-> for a cache set"));
}

#[tokio::test]
async fn without_resp3_or_tracking_it_says_what_is_off() {
    let renamed = good().arg("--rename-command").arg("HELLO").arg("").start().await;
    let found = Findings::at(&renamed.url());
    assert_eq!((found.code, found.which("advice")), (0, vec!["resp3", "tracking"]));
    assert_eq!(found.which("unknown"), [""; 0], "{:#?}", found.all);
    let server = good().start().await;
    // The first word: servers before 7.0 cannot take one subcommand away.
    let url = user(&server, &["~*", "&*", "+@all", "-client"]).await;
    let found = as_user(&url, &[]);
    assert_eq!((found.code, found.which("advice")), (0, vec!["tracking"]));
    assert!(found.get("tracking")["advice"].as_str().unwrap().contains("+client|tracking"));
}

#[tokio::test]
async fn a_user_that_may_ask_for_little_is_told_what_is_not_known() {
    let server = good().start().await;
    let url =
        user(&server, &["~app:*", "&*", "+@all", "-@admin", "-@dangerous", "+client|tracking"])
            .await;
    let found = as_user(&url, &[]);
    assert_eq!(found.code, 0);
    let unknown = [
        "memory",
        "eviction",
        "persistence",
        "tracking-table",
        "output-buffers",
        "timeout",
        "keys",
    ];
    assert_eq!(found.which("unknown"), unknown, "{:#?}", found.all);
    assert_eq!(found.which("advice"), [""; 0]);
    assert_eq!(found.get("timeout")["found"], "not known, since the user may not use CONFIG GET");
    let permissions = &found.get("permissions")["details"];
    assert_eq!(
        (&permissions["by"], &permissions["denied"]),
        (&json!("MULTI and DISCARD"), &json!([]))
    );

    let found = as_user(&url, &["--prefix", "app:"]);
    let denied = ["~larder:lease:*", "~lock:*", "~larder:lock:*", "~larder:fenced:*"];
    found.is("keys", "problem", json!({"by": "MULTI and DISCARD", "denied": denied}));
    assert_eq!(found.code, 1);
    let grants = [&["~app:*"][..], &denied].concat();
    let found = as_user(&user(&server, &grants).await, &["--prefix", "app:"]);
    found.is("keys", "ok", json!({"by": "MULTI and DISCARD", "denied": []}));

    // Few commands, with and without the right to ask what is permitted.
    let few = ["-@all", "+hello", "+ping", "+get", "+set", "+multi", "+discard", "+eval", "+hset"];
    let url = user(&server, &few).await;
    for by in ["MULTI and DISCARD", "ACL DRYRUN"] {
        let found = as_user(&url, &["--prefix", "app:"]);
        assert_eq!(found.code, 1);
        let details = &found.get("permissions")["details"];
        let mut by = by;
        if details["by"] != by {
            // Redis 6.2 has none.
            assert!(server.info("redis_version").await.starts_with("6."), "{details}");
            by = "MULTI and DISCARD";
        }
        assert_eq!(details["by"], by);
        let allowed = ["ping", "get", "set", "eval", "hset", "multi"];
        let mut found_allowed: Vec<&str> = details["allowed"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.as_str().unwrap())
            .collect();
        // That a transaction could be opened is all that is seen of its end.
        found_allowed.retain(|one| *one != "exec");
        assert_eq!(found_allowed, allowed);
        found.is("keys", "ok", json!({"by": by, "denied": []}));
        user(&server, &["+acl"]).await;
    }
    // Nothing of what was tried was done.
    assert_eq!(server.command(&["DBSIZE"]).await.int(), Some(0));
    // And who may not open a transaction, or not throw it away.
    for (rules, missing) in [(["-acl", "-multi"], "MULTI"), (["+multi", "-discard"], "DISCARD")] {
        user(&server, &rules).await;
        let found = as_user(&url, &["--prefix", "app:"]);
        for check in ["permissions", "keys"] {
            let why = &found.get(check)["found"];
            assert_eq!(*why, format!("not known, since the user may not use {missing}"));
        }
    }
    assert_eq!(server.command(&["DBSIZE"]).await.int(), Some(0));
}

#[tokio::test]
async fn a_wrong_password_is_a_problem_and_is_not_repeated() {
    let server = RedisServer::builder().password(PASSWORD).start().await;
    let url = format!("redis://{}", server.addr());
    for password in [None, Some("canary, a wrong one")] {
        let mut command = larder(&["doctor", "--url", &url]);
        if let Some(password) = password {
            command.env("REDIS_PASSWORD", password);
        }
        let found = Findings::of(&mut command);
        assert_eq!((found.code, found.all.len()), (1, 1), "{:#?}", found.all);
        found.is("reach", "problem", json!({"error": "auth"}));
        assert_eq!(found.get("reach")["advice"], "check the username and the password");
    }
    let right = Findings::of(larder(&["doctor", "--url", &url]).env("REDIS_PASSWORD", PASSWORD));
    assert_eq!((right.code, right.which("problem")), (0, vec![]));
    assert_eq!(right.get("reach")["server"], json!(url));
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_a_problem_soon() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    let mut at_most = Duration::ZERO;
    server.pause().await;
    let begun = Instant::now();
    let found = Findings::at(&url);
    assert_eq!((found.code, found.which("problem")), (1, vec!["reach"]));
    at_most = at_most.max(begun.elapsed());
    server.resume().await;
    server.kill().await;
    let begun = Instant::now();
    let found = Findings::at(&url);
    found.is("reach", "problem", json!({"error": "unavailable"}));
    assert_eq!(found.code, 1);
    at_most = at_most.max(begun.elapsed());
    // It lets us in, and falls silent.
    let silent = ScriptedServer::start(|_, args| match args[0].to_ascii_uppercase().as_slice() {
        b"HELLO" => Scripted::answer("%1\r\n$5\r\nproto\r\n:3\r\n"),
        b"CLIENT" => Scripted::answer("+OK\r\n"),
        _ => Scripted::Silence,
    })
    .await;
    let begun = Instant::now();
    let found = tokio::task::spawn_blocking(move || Findings::at(&silent.url())).await.unwrap();
    at_most = at_most.max(begun.elapsed());
    assert_eq!((found.code, found.which("problem")), (1, vec!["reach"]), "{:#?}", found.all);
    assert_eq!(
        found.get("memory")["found"],
        "not known, since the server does not answer any more"
    );
    println!("doctor: a server that is stopped, gone or silent: at most {at_most:?}");
    assert!(at_most < Duration::from_secs(4), "{at_most:?}");
}

/// What a server says of itself reaches a terminal as text alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_server_says_steers_no_terminal() {
    let said = "\x1b]0;owned\x07\x1b[2J\u{202e}";
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let hello = format!(
        "%5\r\n{}{}{}{}{}:3\r\n{}{}{}{}",
        bulk("server"),
        bulk(said),
        bulk("version"),
        bulk(said),
        bulk("proto"),
        bulk("mode"),
        bulk(said),
        bulk("role"),
        bulk("master"),
    );
    let info = bulk(&format!(
        "# Server\r\nredis_version:{said}\r\nmaxmemory_policy:{said}\r\nmaxmemory:{said}"
    ));
    let error = format!("-{said} canary {said}\r\n");
    let server = ScriptedServer::start(move |_, args| {
        Scripted::answer(match args[0].to_ascii_uppercase().as_slice() {
            b"HELLO" => hello.clone(),
            b"INFO" => info.clone(),
            b"PING" => "+PONG\r\n".to_owned(),
            _ => error.clone(),
        })
    })
    .await;
    let url = server.url();
    let text = Ran::of(&mut larder(&["doctor", "--url", &url]));
    assert!(text.out.contains(r"\u{1b}[2J"), "{text:?}");
    for steers in ['\x1b', '\x07', '\u{202e}'] {
        assert!(!text.out.contains(steers) && !text.err.contains(steers), "{text:?}");
    }
    assert!(!text.out.contains("canary"), "{text:?}");
    let found = Findings::at(&url);
    assert_eq!(found.get("version")["details"]["version"], said);
}

#[tokio::test]
async fn the_embedded_store_needs_no_doctor_and_mistakes_are_no_findings() {
    let found = Findings::at("memory://");
    assert_eq!((found.code, found.all.len()), (0, 1));
    found.is("reach", "ok", json!({}));
    Ran::of(&mut larder(&["doctor"])).fails_with(&["REDIS_URL"]);
    Ran::of(&mut larder(&["doctor", "--url", "redis://h:0"])).fails_with(&["port"]);
    Ran::of(&mut larder(&["doctor", "--url", "http://h"])).fails_with(&["known are"]);
    Ran::of(&mut larder(&["doctor", "--url", "redis://:canary@h"])).fails_with(&["password"]);
    Ran::of(&mut larder(&["doctor", "--url", "rediss://h?ca=/nowhere.pem"])).fails_with(&["ca"]);
    Ran::of(&mut larder(&["doctor", "surplus"])).fails_with(&["surplus"]);
    let help = Ran::of(&mut larder(&["doctor", "--help"]));
    assert!(help.code == 0 && help.out.contains("Exit codes: 0 no problem"), "{help:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_looked_at_as_a_whole_and_node_by_node() {
    let cluster = RedisCluster::start().await;
    let found = Findings::at(&cluster.url());
    assert_eq!((found.code, found.which("problem")), (0, vec![]), "{:#?}", found.all);
    found.is("slots", "ok", json!({"served": 16_384, "holes": [], "primaries": 3}));
    found.is("replicas", "ok", json!({"without": []}));
    let mut roles: Vec<(String, &str)> = Vec::new();
    for one in found.all.iter().filter(|one| one["check"] == "role") {
        assert_eq!((&one["state"], &one["details"]["mode"]), (&json!("ok"), &json!("cluster")));
        let role = one["details"]["role"].as_str().unwrap();
        roles.push((one["server"].as_str().unwrap().to_owned(), role));
    }
    let mut nodes: Vec<(String, &str)> = (0..6)
        .map(|at| {
            (cluster.nodes()[at].addr().to_string(), if at < 3 { "master" } else { "replica" })
        })
        .collect();
    roles.sort();
    nodes.sort();
    assert_eq!(roles, nodes);
    assert_eq!(found.all.len(), 2 + 6 * (CHECKS.len() + 1));
    for one in found.all.iter().filter(|one| one["check"] == "permissions") {
        assert_eq!(one["state"], "ok", "{one}");
        let allowed: BTreeSet<String> =
            serde_json::from_value(one["details"]["allowed"].clone()).unwrap();
        let of_clusters = ["asking", "cluster|nodes", "cluster|slots", "readonly"];
        assert!(of_clusters.iter().all(|command| allowed.contains(*command)), "{allowed:?}");
    }
    for node in cluster.nodes() {
        let user = ["ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-readonly"];
        assert!(!node.command(&user).await.is_error());
    }
    let limited = cluster.url().replacen("://", "://limited:secret@", 1);
    let found = Findings::of(larder(&["doctor"]).env("REDIS_URL", limited));
    assert_eq!(found.code, 0, "advice is no problem");
    let limited = found.all.iter().filter(|one| one["check"] == "permissions");
    let limited: Vec<_> = limited.map(|one| (&one["state"], &one["details"]["denied"])).collect();
    assert_eq!(limited, vec![(&json!("advice"), &json!(["readonly"])); 6]);

    // A URL for a single server leads to a node of it.
    let node = Findings::at(&format!("redis://{}", cluster.nodes()[0].addr()));
    assert_eq!(node.code, 1);
    node.is("role", "problem", json!({"mode": "cluster", "role": "master"}));

    // A hole: every node forgets who serves two slots.
    for node in cluster.nodes() {
        let gone = node.command(&["CLUSTER", "DELSLOTS", "5", "6"]).await;
        assert!(!gone.is_error(), "{gone}");
    }
    let found = Findings::at(&cluster.url());
    assert_eq!(found.code, 1);
    found.is("slots", "problem", json!({"served": 16_382, "holes": [[5, 6]], "primaries": 3}));
    assert!(found.get("slots")["found"].as_str().unwrap().contains("2 of 16384 slots: 5-6"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_replica_and_a_seed_that_is_away_are_seen() {
    let cluster = RedisCluster::of(2, 0).await;
    let [first, second] = [0, 1].map(|at| cluster.nodes()[at].addr().to_string());
    let found = Findings::at(&format!("redis+cluster://127.0.0.1:1,{first}"));
    found.is("replicas", "advice", json!({"without": [first, second]}));
    found.is("slots", "ok", json!({"served": 16_384, "holes": [], "primaries": 2}));
    let seed = &found.all[0];
    assert_eq!((&seed["check"], &seed["state"]), (&json!("reach"), &json!("advice")));
    assert_eq!(seed["details"], json!({"error": "unavailable"}));
    assert_eq!(found.code, 0);
    // None of the seeds is there.
    let found = Findings::at("redis+cluster://127.0.0.1:1");
    assert_eq!(found.code, 1);
    found.is("reach", "problem", json!({"error": "unavailable"}));
    // A single server is no cluster.
    let server = RedisServer::start().await;
    let found = Findings::at(&format!("redis+cluster://{}", server.addr()));
    assert_eq!((found.code, found.which("problem")), (1, vec!["slots"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_are_counted() {
    const NAME: &str = "my cache";
    let primary = good().start().await;
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let name = format!("\"{NAME}\"");
        sentinels.push(RedisServer::builder().sentinel(name, primary.port(), 2).start().await);
    }
    for sentinel in &sentinels {
        let end = Instant::now() + Duration::from_secs(30);
        while sentinel.command(&["SENTINEL", "CKQUORUM", NAME]).await.is_error() {
            assert!(Instant::now() < end, "the sentinels do not know each other");
            tokio::time::sleep(Duration::from_millis(20)).await; // nothing announces it
        }
    }
    let hosts: Vec<String> = sentinels.iter().map(|one| one.addr().to_string()).collect();
    let url = format!("redis+sentinel://{}/my%20cache", hosts.join(","));
    let found = Findings::at(&url);
    let details = |agree: u64, away: &[&String]| json!({"named": 3, "agree": agree, "away": away, "no_quorum": 0});
    found.is("sentinels", "ok", details(3, &[]));
    assert_eq!((found.code, found.which("ok").len()), (0, CHECKS.len() + 1), "{:#?}", found.all);
    assert_eq!(found.get("role")["server"], json!(primary.addr().to_string()));

    // A URL for a server leads to a sentinel.
    let found = Findings::at(&format!("redis://{}", hosts[0]));
    assert_eq!((found.code, &found.get("role")["details"]["mode"]), (1, &json!("sentinel")));

    sentinels[0].kill().await;
    let found = Findings::at(&url);
    let sentinel = found.get("sentinels");
    assert_eq!(
        (&sentinel["details"]["agree"], &sentinel["details"]["away"]),
        (&json!(2), &json!([hosts[0]]))
    );
    assert_eq!(found.get("role")["server"], json!(primary.addr().to_string()));

    sentinels[1].kill().await;
    let found = Findings::at(&url);
    assert_eq!((found.code, &found.get("sentinels")["state"]), (1, &json!("problem")));
    assert_eq!(found.get("sentinels")["details"]["away"], json!([hosts[0], hosts[1]]));
    sentinels[2].kill().await;
    let found = Findings::at(&url);
    found.is("sentinels", "problem", json!({"named": 3, "agree": 0, "away": hosts}));
    assert_eq!((found.code, found.all.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_over_tls_are_asked_over_tls() {
    let (ours, others) = (Authority::new(), Authority::new());
    let them = ours.good();
    let tls =
        |server: RedisServerBuilder| server.tls(them.certificate.clone(), them.key.clone(), None);
    let primary = tls(good()).start().await;
    let port = primary.tls_port().unwrap();
    let sentinel = tls(RedisServer::builder()).sentinel("cache", port, 1).start().await;
    let host = format!("127.0.0.1:{}", sentinel.tls_port().unwrap());
    let trusting = |whom: &Authority| {
        let ca = sentinel.dir().join("ca.pem");
        std::fs::write(&ca, &whom.pem).unwrap();
        Findings::at(&format!("rediss+sentinel://{host}/cache?ca={}", ca.display()))
    };
    let found = trusting(&ours);
    let details = json!({"named": 1, "agree": 1, "away": [], "no_quorum": 0});
    found.is("sentinels", "advice", details);
    found.is("tls", "ok", json!({"tls": true}));
    assert_eq!(found.get("role")["server"], json!(format!("127.0.0.1:{port}")));
    assert_eq!((found.code, found.which("problem").len()), (0, 0), "{:#?}", found.all);

    let found = trusting(&others);
    found.is("sentinels", "problem", json!({"named": 1, "agree": 0, "away": [host]}));
    let text = found.get("sentinels")["found"].as_str().unwrap();
    assert!(text.contains("not to be trusted: its certificate is by nobody"), "{text}");
    assert_eq!((found.code, found.all.len()), (1, 1));
}

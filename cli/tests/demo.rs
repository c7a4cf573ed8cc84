//! The demo, without a server and on one.

mod common;

use common::{Ran, larder};
use larder::testing::{RedisServer, Resp};
use serde_json::Value;

const STEPS: [&str; 11] = [
    "values",
    "JSON",
    "hash",
    "list",
    "TTL",
    "batch delete",
    "pipeline",
    "transaction",
    "lock",
    "lock guard",
    "namespace",
];

#[test]
fn the_demo_needs_no_server_and_shows_hit_rates() {
    let ran = Ran::of(&mut larder(&["demo"]));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for step in STEPS {
        assert!(ran.out.lines().any(|line| line.starts_with(step)), "{step}: {}", ran.out);
    }
    for part in [
        "read back \"hello\"",
        "read the same struct back",
        "popped \"welcome\", left are invoice and reminder",
        "then it was gone",
        "deleted 100 in another",
        "left and taken are [9, 1]",
        "total \"2\"",
        "\"larder demo\" held it under token 1",
        "what ran under it was stopped",
        "3 of 4 members found",
        "hit rate",
        "80.0%",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
}

#[test]
fn the_demo_leaves_the_environments_server_alone() {
    // Nothing listens there: a demo that went to it would fail.
    Ran::of(larder(&["demo"]).env("REDIS_URL", "redis://127.0.0.1:1")).code_is_zero();
}

#[tokio::test]
async fn the_demo_on_a_server_deletes_what_it_wrote_and_nothing_else() {
    let server = RedisServer::start().await;
    server.command(&["SET", "greeting:en", "mine"]).await;
    let ran = Ran::of(&mut larder(&["demo", "--url", &server.url()]));
    ran.code_is_zero();
    assert!(ran.out.contains("clean up"), "{}", ran.out);
    assert!(ran.out.contains("\nmember "), "{}", ran.out);
    assert_eq!(server.command(&["GET", "greeting:en"]).await.text().as_deref(), Some("mine"));
    assert_eq!(server.command(&["DBSIZE"]).await, Resp::Int(1));
}

#[tokio::test]
async fn the_demo_on_a_dead_server_says_so() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    server.kill().await;
    let ran = Ran::of(&mut larder(&["demo", "--url", &url]));
    assert_eq!(ran.code, 2);
    assert!(ran.err.starts_with("larder: demo "), "{ran:?}");
}

#[test]
fn the_demo_in_json_is_one_document_a_line() {
    let ran = Ran::of(&mut larder(&["--json", "demo"]));
    ran.code_is_zero();
    let lines: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (stats, steps) = lines.split_last().unwrap();
    let titles: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(titles, STEPS);
    assert!(steps.iter().all(|step| step["took_us"].as_f64().unwrap() > 0.0));
    assert_eq!(stats["namespaces"]["member"]["hit_rate"], 0.8);
    assert_eq!(stats["operations"]["get_many"]["calls"], 1);
}

//! P30: everything works for a user who may do what the documentation says and nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use larder::store::{RedisStore, Store};
use larder::testing::conformance::run_all;
use larder::testing::{FaultProxy, LEAST_PRIVILEGE, LEAST_PRIVILEGE_AT_SENTINELS, RedisServer};
use larder::{CacheClient, ErrorKind};

use crate::text_of;

/// What the driver sends by itself and larder's own source does not name.
const OF_THE_DRIVER: [&str; 6] = ["hello", "auth", "select", "multi", "exec", "client|tracking"];

/// Commands with subcommands, which are allowed one by one.
const CONTAINERS: [&str; 2] = ["client", "cluster"];

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The commands that the rule allows.
fn allowed() -> BTreeSet<String> {
    LEAST_PRIVILEGE
        .split_whitespace()
        .filter_map(|word| word.strip_prefix('+'))
        .map(str::to_owned)
        .collect()
}

/// The names behind `marks` in the sources of the Redis store, in lower case.
fn named() -> BTreeSet<String> {
    fn walk(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, text);
            } else {
                let source = std::fs::read_to_string(path).unwrap();
                text.push_str(source.split("#[cfg(test)]").next().unwrap());
            }
        }
    }
    let mut text = String::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis"), &mut text);
    let mut found = BTreeSet::new();
    for mark in [
        "build(\"",
        "cmd(\"",
        "with_keys(\"",
        "with_number(\"",
        "call('",
        "at_side(*side, \"",
        "\", \"",
    ] {
        for rest in text.split(mark).skip(1) {
            let name = rest.split(['"', '\'']).next().unwrap();
            if name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_uppercase()) {
                found.insert(name.to_lowercase());
            }
        }
    }
    found
}

#[test]
fn the_rule_of_the_docs_is_the_one_that_is_tested_and_every_command_of_the_source_is_in_it() {
    let docs = words(&text_of("docs/security.md"));
    assert!(docs.contains(&words(LEAST_PRIVILEGE)), "docs/security.md names another rule");
    let at_sentinels = words(LEAST_PRIVILEGE_AT_SENTINELS);
    assert!(docs.contains(&at_sentinels), "docs/security.md names another rule for sentinels");
    let (allowed, named) = (allowed(), named());
    assert!(named.len() > 30, "only {} commands were found in the source: {named:?}", named.len());
    for command in &named {
        let known = allowed.contains(command)
            || at_sentinels.contains(&format!("+{command}"))
            || CONTAINERS.contains(&command.as_str());
        assert!(known, "{command} is sent and not allowed");
    }
    for command in &allowed {
        let known = named.contains(command)
            || OF_THE_DRIVER.contains(&command.as_str())
            || command.contains('|');
        assert!(known, "{command} is allowed and never sent");
        // Each has its line in the table that says why.
        let shown = command.to_uppercase().replace('|', " ");
        assert!(
            docs.contains(&format!("`{shown}`")),
            "docs/security.md does not say what {shown} is for"
        );
    }
    println!("P30: {} commands are sent, {} are allowed", named.len(), allowed.len());
}

/// So that who passes with the rule passes with `+@all -@dangerous -@admin` and the one exception, too.
#[tokio::test]
async fn the_rule_allows_nothing_dangerous_but_one_command() {
    let server = RedisServer::start().await;
    let mut denied = BTreeSet::new();
    for category in ["dangerous", "admin"] {
        let reply = server.command(&["ACL", "CAT", category]).await;
        assert!(reply.items().len() > 5, "{reply}");
        denied.extend(reply.items().iter().filter_map(larder::testing::Resp::text));
    }
    let exceptions: Vec<String> = allowed().intersection(&denied).cloned().collect();
    println!("P30: dangerous or of administrators, and allowed all the same: {exceptions:?}");
    // For servers that sentinels watch.
    assert_eq!(exceptions, ["role"]);
}

#[tokio::test]
async fn every_operation_works_with_the_least_rights_on_its_own_keys() {
    // The patterns of the docs, for one namespace.
    let keys = ["~least:*", "~larder:lease:*", "~larder:lock:*", "~larder:fenced:*"];
    let server = RedisServer::builder().least_privilege(keys).start().await;
    for url in [server.url(), format!("{}?connections=3", server.url())] {
        let make = async || Arc::new(RedisStore::open(&url).unwrap()) as Arc<dyn Store>;
        let cases =
            run_all("least:", make).await.unwrap_or_else(|failures| panic!("{failures:#?}"));
        println!("P30: {cases} cases of the contract with the least rights");
    }
    let log = server.command(&["ACL", "LOG"]).await;
    assert_eq!(log.items().len(), 0, "{log}");
}

/// The witness of every server that fails a test by what its user was refused.
#[tokio::test]
async fn a_refusal_of_the_user_with_the_least_rights_fails_its_test() {
    let server = RedisServer::builder().least_privilege(["~mine:*"]).start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    cache.set_value("mine:1", 1, None).await.unwrap();
    let error = cache.set_value("yours:1", 1, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    let died = tokio::task::spawn(async move { drop(server) }).await.unwrap_err();
    let said = died.into_panic().downcast::<String>().unwrap();
    assert!(said.contains("yours:1") && said.contains("least rights are not enough"), "{said}");
}

/// What `LARDER_TEST_ACL` does, tried in another process.
#[tokio::test]
async fn with_the_variable_every_server_is_met_as_the_user_with_the_least_rights() {
    const NAME: &str =
        "acl::with_the_variable_every_server_is_met_as_the_user_with_the_least_rights";
    if std::env::var_os("LARDER_TEST_ACL").is_none() {
        let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", NAME]).env("LARDER_TEST_ACL", "1");
        let ran = itself.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let users = async |server: &RedisServer| {
        let list = server.command(&["CLIENT", "LIST"]).await.text().unwrap();
        list.matches("user=larder-least").count()
    };
    let server = RedisServer::builder().password("of the administrator").start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    for (round, url) in [server.url(), proxy.url()].into_iter().enumerate() {
        let cache = CacheClient::builder().url(url).connections(1).connect().await.unwrap();
        cache.set_value("any key", 1, None).await.unwrap();
        assert_eq!(users(&server).await, 1, "round {round}");
        cache.close().await;
        while users(&server).await > 0 {
            tokio::task::yield_now().await;
        }
    }
    let cluster = RedisServer::builder().cluster().start().await;
    let cache = CacheClient::connect(cluster.url()).await.unwrap();
    cache.set_value("any key", 1, None).await.unwrap();
    assert!(users(&cluster).await >= 1);
}

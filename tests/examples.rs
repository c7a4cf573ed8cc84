//! The examples print what their first lines say, on the embedded store and on a real server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use larder::testing::{RedisServer, Resp};

/// The built example, beside this test's own executable. `cargo test` builds both; `cargo test --test examples`
/// only this one.
fn binary(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let built = target.ancestors().nth(2).unwrap().join("examples").join(name);
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let fresh = changed(&built).is_some_and(|built| Some(built) >= changed(&source(name)));
    assert!(
        fresh,
        "{} is missing or older than its source: cargo build --examples",
        built.display()
    );
    built
}

fn source(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(format!("{name}.rs"))
}

/// The block marked `text` in the example's first lines.
fn promised(name: &str) -> String {
    let source = fs::read_to_string(source(name)).unwrap();
    let head = source.lines().map_while(|line| line.strip_prefix("//!"));
    let block: Vec<&str> = head
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .skip_while(|line| *line != "```text")
        .skip(1)
        .take_while(|line| *line != "```")
        .collect();
    assert!(!block.is_empty(), "{name} says nothing of what it prints");
    block.join("\n") + "\n"
}

fn prints_what_it_promises(name: &str, url: Option<&str>) {
    let output = Command::new(binary(name)).args(url).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{name}: {complaints}");
    assert_eq!((printed, complaints), (promised(name), String::new()), "{name} on {url:?}");
}

async fn prints_it_on_both_stores_and_leaves_nothing(name: &str) {
    prints_what_it_promises(name, None);
    let server = RedisServer::start().await;
    prints_what_it_promises(name, Some(&server.url()));
    // A second run finds what the first one left, if it left anything.
    prints_what_it_promises(name, Some(&server.url()));
    assert_eq!(server.command(&["DBSIZE"]).await, Resp::Int(0), "{name} left keys behind");
}

#[tokio::test]
async fn the_quickstart_prints_what_it_says() {
    prints_it_on_both_stores_and_leaves_nothing("quickstart").await;
}

#[tokio::test]
async fn the_sessions_of_logged_in_users_do_what_they_say() {
    prints_it_on_both_stores_and_leaves_nothing("auth_sessions").await;
}

//! The examples print what their first lines say, on the embedded store and on a real server.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use larder::testing::{RedisServer, Resp};
use tokio::sync::Mutex;

/// Two of the examples load the whole machine, and one of them looks at times: one after the other.
static TURN: Mutex<()> = Mutex::const_new(());

/// The built example, beside this test's own executable. `cargo test` builds both; `cargo test --test examples`
/// only this one.
fn binary(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap();
    let built = target.ancestors().nth(2).unwrap().join("examples").join(name);
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let mut sources = vec![source(name)];
    let text = fs::read_to_string(source(name)).unwrap();
    let shared = text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    sources.extend(shared.map(|module| source(&format!("{module}/mod"))));
    let fresh = changed(&built)
        .is_some_and(|built| sources.iter().all(|source| Some(built) >= changed(source)));
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

/// The same with `#` for each number of the indented lines: figures, which differ from run to run.
fn masked(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("  ") {
            let words = line.split_inclusive(|c: char| !c.is_ascii_digit() && c != '.');
            for word in words {
                let rest = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
                out.push_str(if rest.len() < word.len() { "#" } else { "" });
                out.push_str(rest);
            }
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

fn prints_what_it_promises(name: &str, args: &[&str]) {
    let output = Command::new(binary(name)).args(args).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    println!("{name} {}\n{printed}", args.join(" "));
    assert!(output.status.success(), "{name}: {complaints}");
    let (printed, promised) = (masked(&printed), masked(&promised(name)));
    assert_eq!((printed, complaints), (promised, String::new()), "{name} with {args:?}");
}

async fn prints_it_on_both_stores_and_leaves_nothing(name: &str) {
    prints_what_it_promises(name, &[]);
    let server = RedisServer::start().await;
    prints_what_it_promises(name, &[&server.url()]);
    // A second run finds what the first one left, if it left anything.
    prints_what_it_promises(name, &[&server.url()]);
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

#[tokio::test]
async fn a_holder_who_was_stopped_is_refused_by_the_table_and_the_cache() {
    prints_it_on_both_stores_and_leaves_nothing("fencing").await;
}

#[tokio::test]
async fn the_web_service_shows_every_change_on_the_next_page_with_and_without_the_cache() {
    let _turn = TURN.lock().await;
    let server = RedisServer::start().await;
    let file = server.dir().join("shop.sqlite").display().to_string();
    let own = ["--self-load", "1", "--file", &file];
    prints_what_it_promises("web_service", &own);
    let url = server.url();
    prints_what_it_promises("web_service", &[&own[..], &["--url", &url]].concat());
    assert_eq!(server.command(&["DBSIZE"]).await, Resp::Int(0), "it left keys behind");
}

#[tokio::test]
async fn the_web_service_answers_and_ends_when_it_is_told_to() {
    let _turn = TURN.lock().await;
    let server = RedisServer::start().await;
    let file = server.dir().join("shop.sqlite");
    let mut service = Command::new(binary("web_service"))
        .args(["--listen", "127.0.0.1:0", "--url", &server.url(), "--file"])
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(service.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "10000 products with 100000 reviews in SQLite");
    let addr = lines.next().unwrap().strip_prefix("listening on http://").unwrap().to_owned();
    let request = |method: &str, path: &str| {
        let mut stream = TcpStream::connect(&addr).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    };
    let answer = |status: &str, body: &str| (status.to_owned(), body.to_owned());
    assert_eq!(request("PUT", "/products/7/price/1999"), answer("200", "2"));
    let (cached, direct) = (request("GET", "/products/7"), request("GET", "/direct/7"));
    assert!(cached.1.contains(r#""price_cents":1999,"version":2,"reviews":10"#), "{cached:?}");
    assert_eq!(cached, direct);
    assert_eq!(request("GET", "/products/10001"), answer("404", ""));
    assert_eq!(request("PUT", "/products/10001/price/1"), answer("404", ""));
    let (status, stats) = request("GET", "/stats");
    assert!(status == "200" && stats.starts_with("origin queries: 3\n"), "{stats}");
    let told = Command::new("kill").args(["-INT", &service.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(service.wait().unwrap().success());
    assert_eq!(lines.next(), None);
}

#[tokio::test]
async fn two_reading_processes_load_once_and_follow_the_writer() {
    let _turn = TURN.lock().await;
    prints_what_it_promises("two_processes", &[]);
    let server = RedisServer::start().await;
    prints_what_it_promises("two_processes", &["--url", &server.url()]);
    assert_eq!(server.command(&["DBSIZE"]).await, Resp::Int(0), "it left keys behind");
}

//! What a person at a terminal sees, and what happens when the reader goes away.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use common::{Ran, larder};
use larder::testing::RedisServer;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A terminal: our end, and the end for a command.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let theirs = OpenOptions::new().read(true).write(true).open(name).unwrap();
    (ours.into(), theirs)
}

/// What a command shows on a terminal, to its end.
fn seen(server: &RedisServer, args: &[&str]) -> String {
    let (mut ours, theirs) = terminal();
    let mut child = larder(args).env("REDIS_URL", server.url()).stdout(theirs).spawn().unwrap();
    let mut seen = Vec::new();
    // Once the last writer is gone, Linux answers with an error in place of the end.
    _ = ours.read_to_end(&mut seen);
    assert!(child.wait().unwrap().success());
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn control_characters_reach_no_terminal() {
    let server = RedisServer::start().await;
    let url = server.url();
    let evil = "\x1b]0;gone\x07\x1b[2J\u{9b}31m\u{202e}x";
    let shown = "\\u{1b}]0;gone\\u{7}\\u{1b}[2J\\u{9b}31m\\u{202e}x\r\n";
    for args in [&["set", evil, evil][..], &["push", "l", evil], &["hset", "h", evil, evil]] {
        assert_eq!(Ran::of(larder(args).env("REDIS_URL", &url)).code, 0);
    }
    assert_eq!(seen(&server, &["get", evil]), shown);
    assert_eq!(seen(&server, &["scan", "\x1b"]), shown);
    assert_eq!(seen(&server, &["list", "l"]), shown);
    assert_eq!(seen(&server, &["hgetall", "h"]), format!("{}\t{shown}", shown.trim_end()));
    let json = "\"\\u001b]0;gone\\u0007\\u001b[2J\\u009b31m\\u202ex\"\r\n";
    assert_eq!(seen(&server, &["--json", "get", evil]), json);
    assert_eq!(seen(&server, &["--json", "scan", "\x1b"]), json);
    // Names and labels are whatever somebody wrote.
    server.command(&["SET", &format!("lock:{evil}"), "id", "PX", "600000"]).await;
    let record = format!("larder:lock:{{lock:{evil}}}");
    server
        .command(&["HSET", &record, "id", "id", "owner", evil, "token", "1764000000123456"])
        .await;
    let row = seen(&server, &["locks"]);
    assert!(!row.contains(|char: char| char.is_control() && char != '\r' && char != '\n'), "{row}");
    assert!(
        row.starts_with(&format!("lock:{}", shown.trim_end())) && row.ends_with(shown),
        "{row}"
    );
    assert!(row.contains("2025-11-24T16:00:00Z"), "{row}");
    // A pipe gets the bytes.
    Ran::of(larder(&["get", evil]).env("REDIS_URL", &url)).is(0, &format!("{evil}\n"));
    // An error goes to a terminal more often than not.
    server.command(&["RPUSH", "\x1b[2J:list", "x"]).await;
    Ran::of(larder(&["get", "\x1b[2J:list"]).env("REDIS_URL", &url)).fails_with(&["\\x1b[2J:#"]);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let server = RedisServer::start().await;
    // More than a pipe holds, so that the command has to notice.
    let mut set = vec!["MSET".to_owned()];
    for number in 0..20_000 {
        set.extend([format!("key:with-a-rather-long-name:{number}"), "v".to_owned()]);
    }
    server.command(&set).await;
    let mut scan = larder(&["scan", "key:"]);
    scan.env("REDIS_URL", server.url()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = scan.spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    assert!(first.starts_with("key:with-a-rather-long-name:"), "{first}");
    drop(reader);
    let mut complaints = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert_eq!((child.wait().unwrap().code(), complaints.as_str()), (Some(0), ""));
}

/// The most memory that a process has had, in KiB.
fn most_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A listing of many keys is a walk that ends with its reader, holds none of them, and is never a `KEYS`.
#[tokio::test]
async fn a_listing_of_many_keys_is_streamed() {
    let is_full = std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1");
    let keys: usize = if is_full { 10_000_000 } else { 400_000 };
    let server = RedisServer::start().await;
    // Scripts of some length: one that takes seconds would be a server that stands still.
    for first in (0..keys).step_by(100_000) {
        let last = (first + 100_000).min(keys) - 1;
        let fill = format!("for at = {first}, {last} do redis.call('SET', 'many:' .. at, 'x') end");
        assert!(!server.command(&["EVAL", &fill, "0"]).await.is_error());
    }
    let calls = async |command: &str| {
        let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
        let found = stats.split_once(&format!("cmdstat_{command}:calls="));
        found.map_or(0, |(_, rest)| rest.split(',').next().unwrap().parse::<usize>().unwrap())
    };
    let listing = || {
        let mut scan = larder(&["scan", "many:"]);
        scan.env("REDIS_URL", server.url()).stdout(Stdio::piped());
        let mut child = scan.spawn().unwrap();
        let reader = BufReader::new(child.stdout.take().unwrap());
        (child, reader)
    };
    let (mut child, mut reader) = listing();
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    assert!(child.wait().unwrap().success());
    let first = calls("scan").await;

    let (mut child, mut reader) = listing();
    let (mut lines, mut early, mut line) = (0, 0, String::new());
    let mut most = 0;
    while reader.read_line(&mut line).unwrap() > 0 {
        assert!(line.starts_with("many:"), "{line}");
        line.clear();
        lines += 1;
        if lines % 10_000 == 0 {
            most = most_memory(child.id()).unwrap_or(most);
            if early == 0 {
                early = most;
            }
        }
    }
    assert!(child.wait().unwrap().success());
    let whole = calls("scan").await - first;
    println!(
        "row 37: {lines} lines for {keys} keys by {whole} SCANs; {first} for the first line; the command had {early} KiB at \
         10,000 lines and {most} KiB at most"
    );
    assert!(lines >= keys && first >= 1 && whole > 4 * first, "{first} of {whole}");
    assert!(
        early > 0 && most < early + 4096,
        "it keeps what it has listed: {early} KiB, {most} KiB"
    );
    assert_eq!(calls("keys").await, 0);
}

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() {
    let server = RedisServer::start().await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut ping = larder(&["ping"]);
    let output = ping.env("REDIS_URL", server.url()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("larder: ping: "));
}

#[tokio::test]
async fn ctrl_c_reaches_a_command_under_a_lock_once() {
    let server = RedisServer::start().await;
    let (mut ours, theirs) = terminal();
    let script = "trap 'echo int' INT; trap 'echo term; exit 5' TERM; echo up; \
                  while :; do sleep 0.05; done";
    // A session of its own, whose terminal this is.
    let mut session = Command::new("setsid");
    session.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_larder"), "lock", "x", "--"]);
    session.args(["sh", "-c", script]).env("REDIS_URL", server.url());
    let stdout = theirs.try_clone().unwrap();
    let mut child = session.stdin(theirs).stdout(stdout).spawn().unwrap();
    drop(session);
    let mut seen = String::new();
    let mut until = |ours: &mut File, what: &str| {
        let mut byte = [0];
        while !seen.ends_with(what) {
            ours.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        seen.matches("int\r\n").count()
    };
    until(&mut ours, "up\r\n");
    ours.write_all(b"\x03").unwrap();
    until(&mut ours, "int\r\n");
    // Behind a second one, if there were one: the program hands signals on in the order in which it sees them.
    let larder = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(larder, Signal::TERM).unwrap();
    assert_eq!(until(&mut ours, "term\r\n"), 1);
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

//! What a person at a terminal sees, and what happens when the reader goes away.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use common::{Ran, larder};
use larder::testing::RedisServer;
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

#[tokio::test]
async fn output_that_cannot_be_written_is_an_error() {
    let server = RedisServer::start().await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut ping = larder(&["ping"]);
    let output = ping.env("REDIS_URL", server.url()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("larder: ping: "));
}

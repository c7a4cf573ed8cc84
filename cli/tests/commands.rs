//! Every command on a real server: what it prints, in text and in JSON, and its exit code.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{Ran, larder};
use larder::testing::RedisServer;

/// A server, and the command on it.
struct Shell {
    server: RedisServer,
}

impl Shell {
    async fn start() -> Self {
        Self { server: RedisServer::start().await }
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(larder(args).env("REDIS_URL", self.server.url()))
    }

    /// How many scripts the server ran: each try to take a lock is one.
    async fn scripts_run(&self) -> u64 {
        let counts = self.server.command(&["INFO", "commandstats"]).await.text().unwrap();
        let calls = counts.split("cmdstat_eval:calls=").nth(1);
        calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    fn json(&self, args: &[&str]) -> Ran {
        Ran::of(larder(args).arg("--json").env("REDIS_URL", self.server.url()))
    }
}

#[tokio::test]
async fn ping_answers() {
    let shell = Shell::start().await;
    shell.run(&["ping"]).is(0, "PONG\n");
    shell.json(&["ping"]).is(0, "true\n");
}

#[tokio::test]
async fn values_are_written_read_and_deleted() {
    let shell = Shell::start().await;
    shell.run(&["get", "k"]).is(1, "");
    shell.json(&["get", "k"]).is(1, "null\n");
    shell.run(&["set", "k", "grüezi \"x\""]).is(0, "OK\n");
    shell.run(&["get", "k"]).is(0, "grüezi \"x\"\n");
    shell.json(&["get", "k"]).is(0, "\"grüezi \\\"x\\\"\"\n");
    shell.json(&["set", "n", "-7"]).is(0, "true\n");
    shell.run(&["set", "empty", ""]).is(0, "OK\n");
    shell.run(&["get", "empty"]).is(0, "\n");

    shell.run(&["exists", "k"]).is(0, "1\n");
    shell.run(&["exists", "none"]).is(1, "0\n");
    shell.json(&["exists", "k"]).is(0, "true\n");
    shell.json(&["exists", "none"]).is(1, "false\n");

    shell.run(&["del", "k", "n", "none"]).is(0, "2\n");
    shell.run(&["del", "k"]).is(1, "0\n");
    shell.json(&["del", "empty"]).is(0, "1\n");
}

#[tokio::test]
async fn a_value_of_any_bytes_comes_from_standard_input_and_goes_to_a_pipe_as_it_is() {
    let shell = Shell::start().await;
    let value = b"line\r\n\x1b[31m\xff\x00 end";
    let mut set = larder(&["set", "k", "-"]);
    Ran::fed(set.env("REDIS_URL", shell.server.url()), value).is(0, "OK\n");
    let mut get = larder(&["get", "k"]);
    let output = get.env("REDIS_URL", shell.server.url()).output().unwrap();
    assert_eq!(output.stdout, [value.as_slice(), b"\n"].concat());
    shell.json(&["get", "k"]).is(0, "{\"hex\":\"6c696e650d0a1b5b33316dff0020656e64\"}\n");

    let mut push = larder(&["push", "l", "-"]);
    Ran::fed(push.env("REDIS_URL", shell.server.url()), b"\xfe").is(0, "1\n");
    shell.json(&["list", "l"]).is(0, "[{\"hex\":\"fe\"}]\n");
    let mut pop = larder(&["lpop", "l"]);
    assert_eq!(pop.env("REDIS_URL", shell.server.url()).output().unwrap().stdout, b"\xfe\n");
}

#[tokio::test]
async fn a_ttl_prints_as_redis_prints_it() {
    let shell = Shell::start().await;
    shell.run(&["ttl", "k"]).is(1, "-2\n");
    shell.run(&["set", "k", "v"]).is(0, "OK\n");
    shell.run(&["ttl", "k"]).is(0, "-1\n");
    shell.json(&["ttl", "k"]).is(0, "-1\n");
    shell.run(&["expire", "k", "1000"]).is(0, "1\n");
    shell.json(&["expire", "k", "1000"]).is(0, "true\n");
    // Up to half a second may pass before the rounded number changes, and a busy machine takes its time.
    let left: i64 = shell.run(&["ttl", "k"]).out.trim().parse().unwrap();
    assert!((900..=1000).contains(&left), "{left}");
    shell.run(&["expire", "none", "5"]).is(1, "0\n");
    shell.json(&["expire", "none", "5"]).is(1, "false\n");
    shell.run(&["set", "k", "v", "--ex", "500"]).is(0, "OK\n");
    let left: i64 = shell.run(&["ttl", "k"]).out.trim().parse().unwrap();
    assert!((400..=500).contains(&left), "{left}");
}

#[tokio::test]
async fn a_number_is_counted_up_and_down() {
    let shell = Shell::start().await;
    shell.run(&["incr", "n"]).is(0, "1\n");
    shell.run(&["incr", "n", "41"]).is(0, "42\n");
    shell.json(&["incr", "n", "-50"]).is(0, "-8\n");
    shell.run(&["set", "n", "text"]).is(0, "OK\n");
    shell.run(&["incr", "n"]).fails_with(&["incr #"]);
}

#[tokio::test]
async fn a_hash_is_written_and_read() {
    let shell = Shell::start().await;
    shell.run(&["hset", "h", "b", "2"]).is(0, "1\n");
    shell.run(&["hset", "h", "b", "3"]).is(0, "0\n");
    shell.json(&["hset", "h", "a", "-1"]).is(0, "1\n");
    shell.run(&["hget", "h", "b"]).is(0, "3\n");
    shell.json(&["hget", "h", "b"]).is(0, "\"3\"\n");
    shell.run(&["hget", "h", "none"]).is(1, "");
    shell.json(&["hget", "h", "none"]).is(1, "null\n");
    shell.run(&["hgetall", "h"]).is(0, "a\t-1\nb\t3\n");
    shell.json(&["hgetall", "h"]).is(0, "{\"a\":\"-1\",\"b\":\"3\"}\n");
    shell.run(&["hgetall", "none"]).is(1, "");
    shell.json(&["hgetall", "none"]).is(1, "{}\n");
}

#[tokio::test]
async fn a_list_is_pushed_to_and_popped_from() {
    let shell = Shell::start().await;
    shell.run(&["push", "l", "b"]).is(0, "1\n");
    shell.run(&["push", "l", "c"]).is(0, "2\n");
    shell.json(&["push", "l", "a", "--left"]).is(0, "3\n");
    shell.run(&["list", "l"]).is(0, "a\nb\nc\n");
    shell.json(&["list", "l"]).is(0, "[\"a\",\"b\",\"c\"]\n");
    shell.run(&["lpop", "l"]).is(0, "a\n");
    shell.json(&["rpop", "l"]).is(0, "\"c\"\n");
    shell.run(&["rpop", "l"]).is(0, "b\n");
    shell.run(&["lpop", "l"]).is(1, "");
    shell.json(&["rpop", "l"]).is(1, "null\n");
    shell.run(&["list", "l"]).is(1, "");
    shell.json(&["list", "l"]).is(1, "[]\n");
}

#[tokio::test]
async fn a_scan_lists_the_keys_of_a_prefix_taken_literally() {
    let shell = Shell::start().await;
    for key in ["a:1", "a:2", "a*", "b:1"] {
        shell.run(&["set", key, "v"]).is(0, "OK\n");
    }
    let sorted = |ran: Ran| {
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        let mut keys: Vec<String> = ran.out.lines().map(str::to_owned).collect();
        keys.sort();
        keys
    };
    assert_eq!(sorted(shell.run(&["scan", "a:"])), ["a:1", "a:2"]);
    assert_eq!(sorted(shell.run(&["scan", "a*"])), ["a*"]);
    assert_eq!(sorted(shell.run(&["scan", ""])), ["a*", "a:1", "a:2", "b:1"]);
    assert_eq!(sorted(shell.json(&["scan", "b"])), ["\"b:1\""]);
    shell.run(&["scan", "none"]).is(0, "");
}

#[tokio::test]
async fn a_lock_is_taken_once_and_given_back_with_its_identifier() {
    let shell = Shell::start().await;
    let taken = shell.run(&["lock", "lock:x"]);
    let id = taken.out.trim_end();
    assert_eq!((taken.code, id.len()), (0, 32), "{taken:?}");
    assert_eq!(shell.run(&["get", "lock:x"]).out, taken.out);

    let refused = shell.run(&["lock", "lock:x", "--timeout-ms", "0"]);
    assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
    assert!(refused.err.starts_with("larder: lock lock:#"), "{refused:?}");
    assert!(!refused.err.contains(id), "{refused:?}");

    shell.run(&["unlock", "lock:x", &"0".repeat(32)]).is(1, "0\n");
    shell.run(&["unlock", "lock:x", id]).is(0, "1\n");
    shell.run(&["unlock", "lock:x", id]).is(1, "0\n");
    shell.run(&["unlock", "lock:x", "short"]).fails_with(&["32 hex digits"]);

    let again = shell.json(&["lock", "lock:x", "--expire-ms", "600000"]);
    let id: String = serde_json::from_str(&again.out).unwrap();
    let left: i64 = shell.run(&["ttl", "lock:x"]).out.trim().parse().unwrap();
    assert!((500..=600).contains(&left), "{left}");
    shell.json(&["unlock", "lock:x", &id]).is(0, "true\n");
    shell.json(&["unlock", "lock:x", &id]).is(1, "false\n");
}

#[tokio::test]
async fn a_lock_that_is_held_is_waited_for() {
    let shell = Shell::start().await;
    let held = shell.run(&["lock", "lock:x", "--expire-ms", "600000"]);
    let mut waiter = larder(&["lock", "lock:x", "--timeout-ms", "60000"]);
    waiter.env("REDIS_URL", shell.server.url()).stdout(Stdio::piped());
    let waiter = waiter.spawn().unwrap();
    // One try took it, two more were refused: it waits.
    while shell.scripts_run().await < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await; // the server announces no counts
    }
    shell.run(&["unlock", "lock:x", held.out.trim_end()]).is(0, "1\n");
    let taken = waiter.wait_with_output().unwrap();
    assert_eq!((taken.status.code(), taken.stdout.len()), (Some(0), 33));
    assert_ne!(taken.stdout, held.out.as_bytes());
}

#[tokio::test]
async fn an_error_names_the_command_as_it_was_typed_and_no_value() {
    let shell = Shell::start().await;
    shell.run(&["push", "user:canary", "x"]).is(0, "1\n");
    for args in [
        &["get", "user:canary"][..],
        &["hget", "user:canary", "f"],
        &["hgetall", "user:canary"],
        &["hset", "user:canary", "f", "canary"],
        &["incr", "user:canary"],
    ] {
        let ran = shell.run(args);
        ran.fails_with(&[&format!("larder: {} user:#", args[0]), "WRONGTYPE"]);
        assert!(!ran.err.contains("canary"), "{ran:?}");
    }
    shell.run(&["set", "text", "v"]).is(0, "OK\n");
    for command in ["list", "lpop", "rpop"] {
        shell.run(&[command, "text"]).fails_with(&[&format!("larder: {command} #"), "WRONGTYPE"]);
    }
    shell.run(&["get", ""]).fails_with(&["larder: get: the key is empty"]);
    shell.run(&["set", "k", "v", "--ex", "0"]).fails_with(&["a TTL of zero"]);
    shell.run(&["expire", "text", "0"]).fails_with(&["a TTL of zero"]);
}

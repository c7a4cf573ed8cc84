//! Which server a command takes, what it refuses, and what it tells of passwords.

mod common;

use std::fs;

use common::{Ran, larder};
use larder::testing::RedisServer;

const PASSWORD: &str = "p@ss:/?#% canary";

#[tokio::test]
async fn the_server_comes_from_the_option_or_from_the_environment() {
    let server = RedisServer::start().await;
    let port = server.port().to_string();
    Ran::of(&mut larder(&["--url", &server.url(), "set", "k", "v"])).is(0, "OK\n");
    Ran::of(larder(&["get", "k"]).env("REDIS_URL", server.url())).is(0, "v\n");
    Ran::of(larder(&["get", "k"]).env("REDIS_PORT", &port)).is(0, "v\n");
    Ran::of(larder(&["get", "k"]).env("REDIS_HOST", "127.0.0.1").env("REDIS_PORT", &port))
        .is(0, "v\n");
    let mut other = larder(&["get", "k", "--url", &server.url()]);
    // The option wins over the environment.
    Ran::of(other.env("REDIS_URL", "redis://127.0.0.1:1")).is(0, "v\n");
    let other_db = format!("redis://{}/3", server.addr());
    Ran::of(larder(&["get", "k"]).env("REDIS_URL", other_db)).is(1, "");
}

#[test]
fn without_a_server_a_command_says_what_to_set() {
    for args in [&["get", "k"][..], &["ping"], &["scan", ""], &["set", "k", "v"]] {
        Ran::of(&mut larder(args)).fails_with(&["--url", "REDIS_URL", "REDIS_HOST"]);
    }
    // A password alone is no server.
    Ran::of(larder(&["ping"]).env("REDIS_PASSWORD", "canary")).fails_with(&["REDIS_URL"]);
}

#[test]
fn the_embedded_store_is_refused_because_nothing_in_it_stays() {
    Ran::of(&mut larder(&["--url", "memory://", "set", "k", "v"])).fails_with(&["memory://"]);
    Ran::of(larder(&["get", "k"]).env("REDIS_URL", "memory://")).fails_with(&["name a server"]);
}

#[tokio::test]
async fn a_password_is_taken_from_the_environment_or_a_file_and_refused_on_the_command_line() {
    let server = RedisServer::builder().password(PASSWORD).start().await;
    let open = format!("redis://{}", server.addr());
    let port = server.port().to_string();

    Ran::of(larder(&["ping"]).env("REDIS_URL", server.url())).is(0, "PONG\n");
    Ran::of(larder(&["ping"]).env("REDIS_PORT", &port).env("REDIS_PASSWORD", PASSWORD))
        .is(0, "PONG\n");
    Ran::of(larder(&["ping", "--url", &open]).env("REDIS_PASSWORD", PASSWORD)).is(0, "PONG\n");
    let mut named = larder(&["ping", "--url", &open]);
    Ran::of(named.env("REDIS_PASSWORD", PASSWORD).env("REDIS_USERNAME", "default")).is(0, "PONG\n");

    let file = server.dir().join("password");
    let file = file.to_str().unwrap();
    fs::write(file, format!("{PASSWORD}\n")).unwrap();
    let with_file = ["ping", "--password-file", file];
    Ran::of(larder(&with_file).args(["--url", &open])).is(0, "PONG\n");
    Ran::of(larder(&with_file).env("REDIS_PORT", &port)).is(0, "PONG\n");
    fs::write(file, format!("{PASSWORD}\nsecond line\n")).unwrap();
    Ran::of(larder(&with_file).args(["--url", &open])).fails_with(&["one line"]);
    fs::remove_file(file).unwrap();
    Ran::of(larder(&with_file).args(["--url", &open])).fails_with(&["--password-file"]);

    Ran::of(&mut larder(&["ping", "--url", &open])).fails_with(&["password"]);
    let wrong = Ran::of(larder(&["ping", "--url", &open]).env("REDIS_PASSWORD", "canary"));
    wrong.fails_with(&["check the username and the password"]);
    assert!(!wrong.err.contains("canary"), "{wrong:?}");
}

#[test]
fn a_password_in_the_option_is_refused_and_not_repeated() {
    for url in ["redis://:canary@127.0.0.1", "redis://u:can/canary@h", "redis://u:canary@x@h:1"] {
        for args in [&["--url", url, "ping"][..], &["demo", "--url", url]] {
            let ran = Ran::of(&mut larder(args));
            ran.fails_with(&["REDIS_PASSWORD", "--password-file"]);
            assert!(!ran.err.contains("canary"), "{ran:?}");
        }
        // In the wrong place it is not repeated either.
        let ran = Ran::of(&mut larder(&[url]));
        ran.fails_with(&["arguments"]);
        assert!(!ran.err.contains("canary"), "{ran:?}");
    }
}

#[test]
fn mistakes_in_the_settings_are_named_without_their_values() {
    Ran::of(&mut larder(&["--url", "http://127.0.0.1", "ping"])).fails_with(&["known are"]);
    Ran::of(&mut larder(&["--url", "redis://h?timeout=1", "ping"])).fails_with(&["timeout"]);
    let ran = Ran::of(larder(&["ping"]).env("REDIS_URL", "redis://u:canary@h:0"));
    ran.fails_with(&["REDIS_URL", "port"]);
    assert!(!ran.err.contains("canary"), "{ran:?}");
}

#[test]
fn a_wrong_command_line_is_one_line_of_error() {
    Ran::of(&mut larder(&["gett", "k"])).fails_with(&["gett", "larder --help"]);
    Ran::of(&mut larder(&["get"])).fails_with(&["<KEY>"]);
    Ran::of(&mut larder(&["get", "k", "extra"])).fails_with(&["extra"]);
    Ran::of(&mut larder(&["expire", "k", "soon"])).fails_with(&["soon"]);
    // What a terminal would obey is not repeated as it is.
    let evil = Ran::of(&mut larder(&["get\x1b[2J\x07x"]));
    evil.fails_with(&["unrecognized"]);
    assert!(!evil.err.contains(&['\x1b', '\x07'][..]), "{evil:?}");
    let bare = Ran::of(&mut larder(&[]));
    assert_eq!((bare.code, bare.out.as_str()), (2, ""));
    assert!(bare.err.contains("Commands:"), "{bare:?}");
    let help = Ran::of(&mut larder(&["--help"]));
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    assert!(help.out.contains("REDIS_URL") && help.out.contains("Exit codes"), "{help:?}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_error_within_the_deadline() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    server.kill().await;
    Ran::of(larder(&["get", "k"]).env("REDIS_URL", url)).fails_with(&["larder: get #"]);
}

#[test]
fn a_password_that_cannot_be_read_is_no_reason_to_go_without() {
    use std::os::unix::ffi::OsStrExt;
    let unreadable = std::ffi::OsStr::from_bytes(b"canary\xff");
    let mut command = larder(&["--url", "redis://127.0.0.1:1", "get", "k"]);
    let ran = Ran::of(command.env("REDIS_PASSWORD", unreadable));
    ran.fails_with(&["REDIS_PASSWORD", "not UTF-8"]);
    assert!(!ran.err.contains("canary"));
}

#[test]
fn what_has_no_end_is_not_read_to_the_end() {
    let url = "redis://127.0.0.1:1";
    Ran::of(&mut larder(&["--url", url, "--password-file", "/dev/zero", "get", "k"]))
        .fails_with(&["--password-file: it is longer"]);
    let endless = std::fs::File::open("/dev/zero").unwrap();
    Ran::of(larder(&["--url", url, "set", "k", "-"]).stdin(endless))
        .fails_with(&["more than the 536870912 bytes"]);
}

#[test]
fn a_wrong_url_in_the_option_is_not_blamed_on_code() {
    let ran = Ran::of(&mut larder(&["--url", "foo://127.0.0.1", "ping"]));
    ran.fails_with(&["ping: the store URL is wrong", "redis://"]);
    assert!(!ran.err.contains("in code"), "{ran:?}");
}

//! `larder lock NAME -- COMMAND` and `larder locks`, on a real server and with real commands.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, larder};
use larder::CacheClient;
use larder::testing::{RedisServer, Resp};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

struct Shell {
    server: RedisServer,
}

/// A `larder lock` under way, whose command said that it runs.
struct Held {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Shell {
    async fn start() -> Self {
        Self { server: RedisServer::start().await }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = larder(args);
        command.env("REDIS_URL", self.server.url());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// Starts a script under a lock; it has to say `up` first.
    fn hold(&self, options: &[&str], script: &str) -> Held {
        Held::of(&mut self.command(&[&["lock"], options, &["--", "sh", "-c", script]].concat()))
    }

    async fn is_free(&self, name: &str) -> bool {
        self.server.command(&["EXISTS", &format!("lock:{name}")]).await == Resp::Int(0)
    }
}

impl Held {
    fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut up = String::new();
        said.read_line(&mut up).unwrap();
        assert_eq!(up, "up\n", "{}", said_of(&mut child));
        Self { child, said }
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// What it came to. Ends when everybody who has its output has ended.
    fn ends(mut self) -> Ran {
        let mut out = String::new();
        self.said.read_to_string(&mut out).unwrap();
        let err = said_of(&mut self.child);
        let code = self.child.wait().unwrap().code().expect("it was not killed");
        Ran { code, out, err }
    }
}

fn said_of(child: &mut Child) -> String {
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    err
}

/// A file of a test's own.
fn file(shell: &Shell, name: &str) -> String {
    shell.server.dir().join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_command_runs_under_the_lock_with_its_own_streams_and_exit_code() {
    let shell = Shell::start().await;
    shell.run(&["lock", "x", "--", "true"]).is(0, "");
    shell.run(&["lock", "x", "--", "sh", "-c", "exit 7"]).is(7, "");
    shell.run(&["lock", "x", "--", "sh", "-c", "kill -KILL $$"]).is(137, "");
    shell.run(&["lock", "x", "--", "sh", "-c", "kill -TERM $$"]).is(143, "");
    // An option behind the dashes is the command's.
    shell.run(&["lock", "x", "--", "echo", "--ttl", "-- \u{1b}"]).is(0, "--ttl -- \u{1b}\n");
    Ran::fed(&mut shell.command(&["lock", "x", "--", "cat"]), b"read").is(0, "read");
    let said = shell.run(&["lock", "x", "--", "sh", "-c", "echo out; echo err >&2; exit 1"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (1, "out\n", "err\n"));
    let key = shell.run(&["lock", "x", "--", env!("CARGO_BIN_EXE_larder"), "exists", "lock:x"]);
    key.is(0, "1\n");
    assert!(shell.is_free("x").await);
}

#[tokio::test]
async fn a_command_that_does_not_start_is_an_error_and_leaves_no_lock() {
    let shell = Shell::start().await;
    let none = shell.run(&["lock", "x", "--", "larder-no-such-command"]);
    none.fails_with(&["larder-no-such-command did not start"]);
    assert!(shell.is_free("x").await);
    shell.run(&["lock", "x", "--ttl", "1ms", "--", "true"]).fails_with(&["the lease is 1ms"]);
    shell.run(&["lock", "", "--", "true"]).fails_with(&["name of the lock is empty"]);
    shell.run(&["lock", "x", "--owner", "a\nb", "--", "true"]).fails_with(&["the owner"]);
    shell.run(&["lock", "x", "--ttl", "soon", "--", "true"]).fails_with(&["soon", "500ms"]);
    // What belongs to the one use is refused in the other.
    shell.run(&["lock", "x", "--ttl", "5"]).fails_with(&["COMMAND"]);
    shell.run(&["lock", "x", "--expire-ms", "5", "--", "true"]).fails_with(&["--expire-ms"]);
    assert_eq!(shell.server.command(&["EXISTS", "x", "lock:x"]).await, Resp::Int(0));
    Ran::of(&mut larder(&["lock", "x", "--", "true"])).fails_with(&["REDIS_URL"]);
    let mut dead = RedisServer::start().await;
    let url = dead.url();
    dead.kill().await;
    let gone = Ran::of(larder(&["lock", "x", "--wait", "0", "--", "true"]).env("REDIS_URL", url));
    gone.fails_with(&["larder: lock lock:#"]);
}

#[tokio::test]
async fn the_command_gets_a_fencing_token_that_grows() {
    let shell = Shell::start().await;
    let token = |ran: Ran| {
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        ran.out.trim().parse::<u64>().unwrap()
    };
    let mut tokens = vec![0];
    for _ in 0..3 {
        tokens.push(token(shell.run(&["lock", "x", "--", "printenv", "LARDER_FENCING_TOKEN"])));
    }
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[tokio::test]
async fn two_runs_of_one_lock_exclude_each_other() {
    let shell = Shell::start().await;
    let total = file(&shell, "total");
    fs::write(&total, "0").unwrap();
    // Without the lock, what another one adds between the read and the write is lost.
    let add = format!("n=$(cat {total}); sleep 0.02; echo $((n + 1)) > {total}");
    let adding: Vec<Child> = (0..8)
        .map(|_| {
            shell
                .command(&["lock", "total", "--wait", "60s", "--", "sh", "-c", &add])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut one in adding {
        assert!(one.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(&total).unwrap().trim(), "8");
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_runs_nothing_and_is_exit_code_1() {
    let shell = Shell::start().await;
    let (ran, holder) = (file(&shell, "ran"), shell.run(&["lock", "lock:x"]));
    for wait in ["0", "50ms"] {
        let refused = shell.run(&["lock", "x", "--wait", wait, "--", "touch", &ran]);
        assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{refused:?}");
        assert!(refused.err.starts_with("larder: lock"), "{refused:?}");
        assert!(!refused.err.contains(holder.out.trim()), "{refused:?}");
    }
    assert!(!fs::exists(&ran).unwrap());
    // A guard keeps the others of this command away as well.
    shell.run(&["unlock", "lock:x", holder.out.trim()]).is(0, "1\n");
    let held = shell.hold(&["x"], "echo up; exec sleep 60");
    assert_eq!(shell.run(&["lock", "lock:x", "--timeout-ms", "0"]).code, 1);
    held.send(Signal::TERM);
    assert_eq!(held.ends().code, 143);
}

#[tokio::test]
async fn signals_reach_the_command_whose_end_is_the_end() {
    let shell = Shell::start().await;
    for (signal, name) in
        [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::QUIT, "QUIT")]
    {
        let script =
            format!("trap 'echo got {name}; exit 9' {name}; echo up; while :; do sleep 0.05; done");
        let held = shell.hold(&["x"], &script);
        held.send(signal);
        let ended = held.ends();
        // The shell may have something to say about its own child.
        assert!(ended.code == 9 && !ended.err.contains("larder"), "{name}: {ended:?}");
        assert_eq!(ended.out, format!("got {name}\n"));
        assert!(shell.is_free("x").await, "{name}");
        let held = shell.hold(&["x"], "echo up; exec sleep 60");
        held.send(signal);
        assert_eq!(held.ends().code, 128 + signal.as_raw(), "{name}");
        assert!(shell.is_free("x").await, "{name}");
    }
}

#[tokio::test]
async fn a_signal_ends_the_wait_for_a_lock_and_leaves_nothing_behind() {
    let shell = Shell::start().await;
    let (ran, holder) = (file(&shell, "ran"), shell.run(&["lock", "lock:x"]));
    let mut waiting = shell.command(&["lock", "x", "--wait", "60", "--", "touch", &ran]);
    let mut waiting = waiting.stderr(Stdio::piped()).spawn().unwrap();
    // Each try to take a lock is a script.
    while scripts_run(&shell.server).await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await; // the server announces no counts
    }
    let pid = Pid::from_raw(i32::try_from(waiting.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!((waiting.wait().unwrap().code(), said_of(&mut waiting).as_str()), (Some(130), ""));
    shell.run(&["unlock", "lock:x", holder.out.trim()]).is(0, "1\n");
    assert!(shell.is_free("x").await && !fs::exists(&ran).unwrap());
    assert_eq!(shell.server.command(&["EXISTS", "larder:lock:{lock:x}"]).await, Resp::Int(0));
}

async fn scripts_run(server: &RedisServer) -> u64 {
    let counts = server.command(&["INFO", "commandstats"]).await.text().unwrap();
    let calls = counts.split("cmdstat_eval:calls=").nth(1);
    calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn what_was_to_be_ignored_stays_ignored() {
    let shell = Shell::start().await;
    let larder = env!("CARGO_BIN_EXE_larder");
    // As nohup does it.
    let script =
        format!("trap '' HUP; exec {larder} lock x -- sh -c 'echo up; read end; echo end'");
    let mut nohup = Command::new("sh");
    let mut held = Held::of(
        nohup.args(["-c", &script]).env("REDIS_URL", shell.server.url()).stdin(Stdio::piped()),
    );
    held.send(Signal::HUP);
    held.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ended = held.ends();
    assert_eq!((ended.code, ended.out.as_str()), (0, "end\n"), "{ended:?}");
}

#[tokio::test]
async fn a_command_is_stopped_when_its_lock_is_lost() {
    let shell = Shell::start().await;
    let script = "trap 'echo told; exit 0' TERM; echo up; sleep 60 & wait";
    let held = shell.hold(&["x", "--ttl", "600ms"], script);
    let deleted = Instant::now();
    shell.server.command(&["DEL", "lock:x"]).await;
    let ended = held.ends();
    println!(
        "DEL of the lock to the end of its command: {:?} (renewal: 200 ms)",
        deleted.elapsed()
    );
    assert_eq!((ended.code, ended.out.as_str()), (3, "told\n"), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert!(ended.err.contains("lock:#") && ended.err.contains("the lock is lost"), "{ended:?}");
}

#[tokio::test]
async fn who_does_not_stop_is_killed_after_the_grace_with_all_that_it_started() {
    let shell = Shell::start().await;
    // The sleep ignores the signal as well, and keeps the output open.
    let script = "trap '' TERM; sleep 60 & echo up; wait";
    let held = shell.hold(&["x", "--ttl", "300ms", "--grace", "200ms"], script);
    // Somebody else's from now on: it stays so.
    shell.server.command(&["SET", "lock:x", "other"]).await;
    let ended = held.ends();
    assert_eq!((ended.code, ended.out.as_str()), (3, ""), "{ended:?}");
    assert_eq!(shell.run(&["get", "lock:x"]).out, "other\n");
    // One that goes at once does not leave behind what it started.
    shell.server.command(&["DEL", "lock:x"]).await;
    let script = "sh -c \"trap '' TERM; echo up; sleep 60; sleep 60\" & wait";
    let held = shell.hold(&["x", "--ttl", "300ms", "--grace", "60s"], script);
    shell.server.command(&["DEL", "lock:x"]).await;
    assert_eq!(held.ends().code, 3);
}

#[tokio::test]
async fn a_holder_that_stood_still_past_its_lease_stops_its_command_when_it_goes_on() {
    let shell = Shell::start().await;
    let held = shell.hold(&["x", "--ttl", "300ms"], "echo up; exec sleep 60");
    held.send(Signal::STOP);
    // Another one gets the lock although the command still runs: what a lease is.
    shell.run(&["lock", "x", "--wait", "30s", "--", "true"]).is(0, "");
    held.send(Signal::CONT);
    let ended = held.ends();
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("it could not be renewed in time"), "{ended:?}");
}

#[tokio::test]
async fn a_loss_that_is_seen_only_at_the_end_is_said_all_the_same() {
    let shell = Shell::start().await;
    let larder = env!("CARGO_BIN_EXE_larder");
    let ended = shell.run(&["lock", "x", "--ttl", "1h", "--", larder, "del", "lock:x"]);
    assert_eq!((ended.code, ended.out.as_str()), (3, "1\n"), "{ended:?}");
    assert!(ended.err.contains("lost before the command ended"), "{ended:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_and_frees_the_lock() {
    let shell = Shell::start().await;
    let mut yes = shell.command(&["lock", "x", "--", "yes"]);
    let mut child = yes.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    assert_eq!(first, "y\n");
    drop(reader);
    // 128 and SIGPIPE, as without the lock.
    let complaints = said_of(&mut child);
    assert_eq!((child.wait().unwrap().code(), complaints.contains("larder")), (Some(141), false));
    assert!(shell.is_free("x").await);
    // With nobody to complain to, it does what it does.
    shell.server.command(&["SET", "lock:x", "other"]).await;
    let mut refused = shell.command(&["lock", "x", "--wait", "0", "--", "true"]);
    let mut refused = refused.stderr(Stdio::piped()).spawn().unwrap();
    drop(refused.stderr.take());
    assert_eq!(refused.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn who_holds_what_is_listed_without_what_could_release_it() {
    let shell = Shell::start().await;
    shell.run(&["locks"]).is(0, "");
    let cache = CacheClient::connect(shell.server.url()).await.unwrap();
    let readers = cache.lock("doc").shared().lease(Duration::from_secs(600));
    let _readers = (readers.acquire().await.unwrap(), readers.acquire().await.unwrap());
    let plain = shell.run(&["lock", "lock:plain", "--expire-ms", "600000"]);
    shell.server.command(&["SET", "lock:endless", "somebody"]).await;
    shell.server.command(&["RPUSH", "lock:list", "no lock"]).await;
    shell.server.command(&["SET", "larder:lock:{lock:endless}", "no record"]).await;
    let held = shell.hold(&["job", "--ttl", "600", "--owner", "node 1"], "echo up; exec sleep 60");
    let id = shell.run(&["get", "lock:job"]).out;

    let all = shell.run(&["locks"]);
    assert_eq!((all.code, all.err.as_str()), (0, ""));
    let mut rows: Vec<Vec<&str>> = all.out.lines().map(|line| line.split('\t').collect()).collect();
    rows.sort();
    let [doc, endless, job, plainly] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((doc[0], doc[1], doc[3], doc[4]), ("lock:doc", "shared by 2", "-", "-"));
    assert_eq!(endless[..], ["lock:endless", "exclusive", "no end", "-", "-"]);
    assert_eq!((job[0], job[1], job[4]), ("lock:job", "exclusive", "node 1"));
    assert_eq!((plainly[0], plainly[1], plainly[3]), ("lock:plain", "exclusive", "-"));
    let left = |row: &[&str]| row[2].strip_suffix(" s").unwrap().parse::<f64>().unwrap();
    assert!((500.0..=600.0).contains(&left(job)) && left(doc) > 500.0 && left(plainly) > 500.0);
    // The same form and the same digits as the system's, of which the test's own time is the last.
    let date = |args: &[&str]| {
        let said = Command::new("date").arg("-u").args(args).output().unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    let (before, after) = (date(&["-d", "-1 min", "+%FT%TZ"]), date(&["+%FT%TZ"]));
    assert!(before.as_str() < job[3] && job[3] <= after.as_str(), "{before} {job:?} {after}");
    for secret in [id.trim(), plain.out.trim(), "somebody"] {
        assert!(!all.out.contains(secret), "{all:?}");
    }

    let one = shell.run(&["--json", "locks", "--prefix", "jo"]);
    let json: Value = serde_json::from_str(&one.out).unwrap();
    assert_eq!((one.out.lines().count(), one.code), (1, 0));
    assert_eq!(
        (&json["key"], &json["kind"], &json["holders"], &json["owner"], &json["since"]),
        (&json!("lock:job"), &json!("exclusive"), &json!(1), &json!("node 1"), &json!(job[3]))
    );
    assert!(json["remaining_ms"].as_u64().unwrap() > 500_000, "{json}");
    assert_eq!(json.as_object().unwrap().len(), 6, "{json}");
    held.send(Signal::TERM);
    held.ends();
    shell.run(&["locks", "--prefix", "jo"]).is(0, "");
}

/// The rules of `docs/locks.md`, word for word.
const LEAST: &str = "resetkeys ~lock:* ~larder:lock:* -@all \
    +ping +hello +auth +client|tracking +eval +time \
    +get +set +del +pttl +pexpire +hget +hset +hdel +hgetall +hincrby \
    +scan +mget";

#[tokio::test]
async fn a_user_with_the_rights_that_the_docs_name_can_hold_wait_for_and_list_locks() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/locks.md");
    let docs = fs::read_to_string(docs).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&docs).contains(&words(LEAST)), "the docs name other rights");

    let shell = Shell::start().await;
    let rules = [&["ACL", "SETUSER", "locker", "on", ">canary"][..], &{
        LEAST.split_whitespace().collect::<Vec<_>>()
    }]
    .concat();
    let set = shell.server.command(&rules).await;
    assert!(!set.is_error(), "{set:?}");
    let url = format!("redis://locker:canary@{}", shell.server.addr());
    let locker = |args: &[&str]| {
        let mut command = larder(args);
        command.env("REDIS_URL", &url);
        command
    };
    Ran::of(&mut locker(&["get", "data"])).fails_with(&["ACL"]);
    let script = "echo up; read end";
    let mut hold =
        locker(&["lock", "x", "--owner", "me", "--ttl", "300ms", "--", "sh", "-c", script]);
    let mut held = Held::of(hold.stdin(Stdio::piped()));
    let listed = Ran::of(&mut locker(&["locks"]));
    assert!(listed.code == 0 && listed.out.contains("lock:x\texclusive"), "{listed:?}");
    let mut wait = locker(&["lock", "x", "--wait", "30", "--", "true"]);
    let mut wait = wait.stderr(Stdio::piped()).spawn().unwrap();
    // Long enough to need renewals: two of each script, and the tries of the one who waits.
    while scripts_run(&shell.server).await < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await; // the server announces no counts
    }
    held.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!((held.ends().code, wait.wait().unwrap().code()), (0, Some(0)));
    assert_eq!(said_of(&mut wait), "");

    let cache = CacheClient::connect(&url).await.unwrap();
    let two = cache.semaphore("s", 2).lease(Duration::from_millis(300));
    let guards = (two.acquire().await.unwrap(), two.acquire().await.unwrap());
    while cache.stats().locks.renewed < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await; // nothing announces a renewal
    }
    assert!(guards.0.release().await.unwrap() && guards.1.release().await.unwrap());
    let fair = cache.lock("s").fair(true).acquire().await.unwrap();
    assert!(fair.release().await.unwrap());
    let log = shell.server.command(&["ACL", "LOG"]).await;
    // The one refusal is that of the first command. There is one more that is not needed: Redis 7.0 does not know it, and
    // servers before do not look at what stands behind CLIENT.
    let refused: Vec<String> = log
        .items()
        .iter()
        .map(|entry| entry.items()[7].text().unwrap())
        .filter(|refused| refused != "client|setinfo" && refused != "client")
        .collect();
    assert_eq!(refused, ["data"], "{log:?}");
}

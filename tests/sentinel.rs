//! Sentinels, real ones: the primary is found, and found again. P12, and bad input 27 as far as sentinels go.
//! `LARDER_FULL=1` runs more failovers.

#[path = "tls/authority.rs"]
mod authority;
mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use authority::Authority;
use common::{alone, full, until};
use larder::testing::{
    LEAST_PRIVILEGE_AT_SENTINELS, RedisSentinels, RedisServer, Resp, Scripted, ScriptedServer,
};
use larder::{Builder, CacheClient, Credentials, Direction, ErrorKind, Outcome, Tls};

const NAME: &str = "cache";

fn rounds(all: usize, usual: usize) -> usize {
    if full() { all } else { usual }
}

/// A primary, its replica and three sentinels, and how they are spoken to.
struct Group {
    of: RedisSentinels,
    tls: Option<Tls>,
}

impl Group {
    async fn start() -> Self {
        Self { of: RedisSentinels::start(NAME).await, tls: None }
    }

    /// Everybody shows a certificate, and wants one, among each other as well.
    async fn over_tls() -> Self {
        let authority = Authority::new();
        let them = authority.good();
        let of = RedisSentinels::with(NAME, |server| {
            let clients = Some(authority.pem.clone());
            server.tls(them.certificate.clone(), them.key.clone(), clients)
        });
        let us = authority.good();
        let tls = Tls::new().ca_pem(&authority.pem).identity_pem(&us.certificate, &us.key);
        Self { of: of.await, tls: Some(tls) }
    }

    fn url(&self) -> String {
        if self.tls.is_some() { self.of.tls_url("localhost") } else { self.of.url() }
    }

    fn client_at(&self, url: String) -> Builder {
        let builder = CacheClient::builder().url(url);
        match &self.tls {
            Some(tls) => builder.tls(tls.clone()),
            None => builder,
        }
    }

    fn client(&self) -> Builder {
        self.client_at(self.url())
    }

    /// For the figures.
    fn how(&self) -> &'static str {
        if self.tls.is_some() { " over TLS" } else { "" }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_found_even_if_a_sentinel_is_gone_or_stands_still() {
    let _turn = alone().await;
    is_found(&mut Group::start().await).await;
}

/// One group for all of it: to start one takes longer than most of what is tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_the_primary_is_found_left_and_found_again() {
    let _turn = alone().await;
    let mut group = Group::over_tls().await;
    is_left(&group).await;
    group.of.is_whole().await;
    go_on(&mut group).await;
    is_found(&mut group).await;
}

async fn is_found(group: &mut Group) {
    let cache = group.client().connect().await.unwrap();
    cache.set_value("k", "v", None).await.unwrap();
    assert_eq!(cache.get_value("k").await.unwrap().as_deref(), Some("v"));
    let near = cache.namespace::<str, u64>("n").ttl(Duration::from_secs(60)).near(true);
    let near = near.build().unwrap();
    near.set("a", &1).await.unwrap();
    while cache.stats().near_entries == 0 {
        assert_eq!(near.get("a").await.unwrap().as_deref(), Some(&1));
    }
    let guard = cache.lock("l").acquire().await.unwrap();
    assert!(guard.release().await.unwrap());

    group.of.sentinels[0].kill().await;
    group.of.sentinels[1].pause().await;
    let begun = Instant::now();
    group.client().connect().await.unwrap().ping().await.unwrap();
    println!("P12: found by one sentinel of three{} in {:?}", group.how(), begun.elapsed());
    group.of.sentinels[1].resume().await;

    let unknown = group.url().replace(NAME, "other");
    let error = group.client_at(unknown).connect().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent));
    assert!(error.to_string().contains("`other`"), "{error}");
    for sentinel in &mut group.of.sentinels[1..] {
        sentinel.kill().await;
    }
    let error = group.client().connect().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotSent));
    assert!(error.to_string().contains("none of the 3 sentinels"), "{error}");
    // A connection that stands needs no sentinel.
    cache.ping().await.unwrap();
}

/// How a primary is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Killed,
    Stopped,
    Asked,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_at_the_new_primary_within_two_seconds_of_its_announcement() {
    let _turn = alone().await;
    go_on(&mut Group::start().await).await;
}

async fn go_on(group: &mut Group) {
    let cache = group.client().connect().await.unwrap();
    for (loss, times) in
        [(Loss::Killed, rounds(10, 1)), (Loss::Asked, rounds(10, 1)), (Loss::Stopped, rounds(5, 1))]
    {
        let (mut resumes, mut acked, mut lost, mut read_only, mut unknown) =
            (Vec::new(), 0, 0, 0, 0);
        for round in 0..times {
            let list = format!("list:{loss:?}:{round}");
            let stop = Arc::new(AtomicBool::new(false));
            let written = Arc::new(std::sync::Mutex::new(Vec::new()));
            let writer = tokio::spawn({
                let (cache, list, stop) = (cache.clone(), list.clone(), Arc::clone(&stop));
                let acked = Arc::clone(&written);
                async move {
                    let (mut read_only, mut unknown) = (0, 0);
                    for id in 0_u64.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        match cache.push_to_list(&list, id, Direction::Right).await {
                            Ok(_) => acked.lock().unwrap().push((id, Instant::now())),
                            Err(error) if error.code() == Some("READONLY") => read_only += 1,
                            Err(error) if error.outcome() == Outcome::Unknown => unknown += 1,
                            Err(_) => {}
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await; // paced
                    }
                    (read_only, unknown)
                }
            });
            until("writes", async || cache.key_exists(&list).await.unwrap_or(false)).await;
            let old = group.of.primary().await;
            match loss {
                Loss::Killed => group.of.servers[old].kill().await,
                Loss::Stopped => group.of.servers[old].pause().await,
                Loss::Asked => group.of.fail_over().await,
            }
            group.of.announced(old).await;
            let announced = Instant::now();
            until("writes after the announcement", async || {
                let written = written.lock().unwrap();
                written.iter().filter(|(_, at)| *at > announced).count() > 50
            })
            .await;
            // The old primary comes back under the writes, and becomes a replica.
            match loss {
                Loss::Killed => group.of.servers[old].restart().await,
                Loss::Stopped => group.of.servers[old].resume().await,
                Loss::Asked => {}
            }
            group.of.is_whole().await;
            stop.store(true, Ordering::Relaxed);
            let (refused, unsure) = writer.await.unwrap();
            let all = std::mem::take(&mut *written.lock().unwrap());
            let first = all.iter().map(|(_, at)| *at).find(|at| *at > announced);
            resumes.push(first.expect("writes went on").duration_since(announced));
            let kept: HashSet<u64> =
                cache.get_list(&list).await.unwrap().iter().map(|id| id.parse().unwrap()).collect();
            acked += all.len();
            lost += all.iter().filter(|(id, _)| !kept.contains(id)).count();
            read_only += refused;
            unknown += unsure;
        }
        resumes.sort();
        println!(
            "P12: primary {loss:?} {times} times{}: writes resume {:?} p50, {:?} max after the announcement; \
             READONLY seen {read_only}; {acked} acked, {lost} lost (measured, not promised), {unknown} unknown",
            group.how(),
            resumes[resumes.len() / 2],
            resumes[resumes.len() - 1],
        );
        assert!(resumes[resumes.len() - 1] < Duration::from_secs(2), "{loss:?}: {resumes:?}");
        assert!(acked > 50, "{loss:?}: {acked} acked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_became_a_replica_is_left() {
    let _turn = alone().await;
    is_left(&Group::start().await).await;
}

async fn is_left(group: &Group) {
    let cache = group.client().deadline(Duration::from_millis(500)).connect().await.unwrap();
    cache.set_value("k", "v", None).await.unwrap();
    let servers = &group.of.servers;
    let primary = group.of.primary().await;
    // Behind the sentinels' back; the connections stay, until the sentinels set it right.
    let other = &servers[1 - primary];
    let other = other.tls_port().unwrap_or(other.port()).to_string();
    let demoted = servers[primary].command(&["REPLICAOF", "127.0.0.1", &other]).await;
    assert_eq!(demoted.text().as_deref(), Some("OK"));
    let error = loop {
        match cache.push_to_list("l", "x", Direction::Right).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_ne!(error.outcome(), Outcome::Unknown, "a refusal says that nothing was applied");
    // Once there is a primary again, whoever it is, writes go there. Sentinels of Redis 6.2 would not see to it: a replica
    // that has lost its primary for long is none that they promote.
    let back = servers[primary].command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(back.text().as_deref(), Some("OK"));
    until("writes go on", async || cache.set_value("k", "w", None).await.is_ok()).await;
}

/// Of a sentinel, where the primary is.
fn names(port: u16) -> String {
    let port = port.to_string();
    format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_readonly_is_left_for_whom_the_sentinels_name() {
    let _turn = alone().await;
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let primary = Arc::new(AtomicU16::new(old.port()));
    let named = Arc::clone(&primary);
    // It names another one from some time on, and tells nobody: a refusal has to be enough.
    let sentinel = ScriptedServer::start(move |_, args| match &*args[0] {
        b"SENTINEL" => Scripted::answer(names(named.load(Ordering::SeqCst))),
        b"HELLO" => Scripted::answer("-ERR unknown command\r\n"),
        _ => Scripted::answer("+OK\r\n"),
    })
    .await;
    let url = format!("redis+sentinel://{}/{NAME}", sentinel.addr());
    let cache = CacheClient::builder().url(url).connect().await.unwrap();
    cache.set_value("k", "before", None).await.unwrap();
    primary.store(new.port(), Ordering::SeqCst);
    let demoted = old.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(demoted.text().as_deref(), Some("OK"));
    // What may be sent twice goes on within its deadline; what may not is refused once at most on each connection.
    cache.set_value("k", "after", None).await.unwrap();
    let mut refused = 0;
    while let Err(error) = cache.push_to_list("l", "x", Direction::Right).await {
        assert_ne!(error.outcome(), Outcome::Unknown, "{error}");
        refused += 1;
    }
    let value = new.command(&["GET", "k"]).await.text();
    let pushed = new.command(&["LLEN", "l"]).await.int();
    let errors = old.info("errorstat_READONLY").await;
    println!("P12: READONLY leads to the new primary: {errors}, a push refused {refused} times");
    assert_eq!((value.as_deref(), pushed), (Some("after"), Some(1)));
    assert!(errors.starts_with("count=") && refused <= 2, "{errors}, {refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_sentinel_says_is_not_believed() {
    let answers = [
        "*2\r\n$0\r\n\r\n$4\r\n6379\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n70000\r\n",
        "*1\r\n$9\r\n127.0.0.1\r\n",
        ":7\r\n",
        "+OK\r\n",
        "*2\r\n$9\r\n127.0.0.1\r\n*0\r\n",
    ];
    for answer in answers {
        let sentinel = ScriptedServer::start(move |_, args| match &*args[0] {
            b"SENTINEL" => Scripted::answer(answer),
            b"HELLO" => Scripted::answer("-ERR unknown command\r\n"),
            _ => Scripted::answer("+OK\r\n"),
        })
        .await;
        let url = format!("redis+sentinel://{}/{NAME}", sentinel.addr());
        let error = CacheClient::builder()
            .url(url)
            .deadline(Duration::from_millis(300))
            .connect()
            .await
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotSent, "{answer:?}: {error}");
    }
}

/// Bad input 27: who answers and knows nobody, who names a server that is no primary, and who does not answer.
#[tokio::test]
async fn sentinels_that_know_nobody_name_a_replica_or_are_silent_are_told_apart() {
    let replica = RedisServer::builder().arg("--replicaof").arg("127.0.0.1").arg("1").start().await;
    let named = names(replica.port());
    let (broken, refused) = ("-ERR canary\r\n", "-NOPERM canary\r\n");
    // What the first of them says, and what the others say.
    let cases = [
        ("*-1\r\n", "*-1\r\n", ErrorKind::Config, "check the name"),
        ("_\r\n", "_\r\n", ErrorKind::Config, "check the name"),
        (&named, &named, ErrorKind::Unavailable, "no primary at the moment"),
        (broken, broken, ErrorKind::Unavailable, "none of the 3 sentinels answers"),
        (refused, refused, ErrorKind::Permission, "NOPERM"),
        // The others may be back soon.
        (refused, broken, ErrorKind::Unavailable, "none of the 3 sentinels answers, and one says"),
    ];
    for (first, others, kind, said) in cases {
        let mut sentinels = Vec::new();
        for at in 0..3 {
            let answer = if at == 0 { first } else { others }.to_owned();
            let sentinel = ScriptedServer::start(move |_, args| match &*args[0] {
                b"SENTINEL" => Scripted::answer(answer.clone()),
                b"HELLO" => Scripted::answer("-ERR unknown command\r\n"),
                _ => Scripted::answer("+OK\r\n"),
            });
            sentinels.push(sentinel.await);
        }
        let places: Vec<_> = sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        let url = format!("redis+sentinel://{}/{NAME}", places.join(","));
        let client = CacheClient::builder().url(url).deadline(Duration::from_millis(500));
        let error = client.build().unwrap().get_value("key").await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotSent), "{first:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(said) && !text.contains("canary"), "{first:?}: {text}");
    }
}

/// What servers and sentinels refused. Newer ones know a command more, which the driver sends and does not need; Redis 6.2 has no
/// word for it but `client`.
async fn refused(server: &RedisServer) -> Vec<String> {
    let log = server.command(&["ACL", "LOG"]).await;
    let entries = log
        .items()
        .iter()
        .map(|entry| entry.items().iter().filter_map(Resp::text).collect::<Vec<_>>().join(" "));
    let is_needed =
        |entry: &String| !entry.contains("client|setinfo") && !entry.contains(" object client ");
    entries.filter(is_needed).collect()
}

/// P30: what docs/security.md says that a user needs at the sentinels, and at the servers that they watch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_their_servers_are_used_with_the_least_rights() {
    let _turn = alone().await;
    let group = RedisSentinels::with(NAME, |server| server.least_privilege(["~*"])).await;
    let set = async |rules: &str| {
        for sentinel in &group.sentinels {
            let user = ["ACL", "SETUSER", "watcher", "reset", "on", ">pw"].into_iter();
            let rules: Vec<&str> = user.chain(rules.split_whitespace()).collect();
            assert_eq!(sentinel.command(&rules).await.text().as_deref(), Some("OK"));
        }
    };
    let client = || {
        let watcher = || async { Ok::<_, std::io::Error>(Credentials::user("watcher", "pw")) };
        CacheClient::builder().url(group.url()).sentinel_credentials(watcher)
    };
    // The witness: what is not allowed is an error, and in the log.
    set("+ping").await;
    let error = client().connect().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Permission, Outcome::NotSent));
    for sentinel in &group.sentinels {
        let log = refused(sentinel).await.join("; ");
        assert!(log.contains(" object sentinel"), "{log}");
        assert_eq!(sentinel.command(&["ACL", "LOG", "RESET"]).await.text().as_deref(), Some("OK"));
    }

    set(LEAST_PRIVILEGE_AT_SENTINELS).await;
    let cache = client().connect().await.unwrap();
    cache.set_value("k", "v", None).await.unwrap();
    for sentinel in &group.sentinels {
        until("it is listened to", async || {
            let clients = sentinel.command(&["CLIENT", "LIST"]).await.text().unwrap_or_default();
            let ours = |one: &str| one.contains(" user=watcher ") && one.contains(" sub=1 ");
            clients.lines().any(ours)
        })
        .await;
    }
    let old = group.primary().await;
    group.fail_over().await;
    group.announced(old).await;
    until("writes go to the new primary", async || {
        _ = cache.set_value("k", "w", None).await;
        let stored = group.servers[1 - old].command(&["GET", "k"]).await;
        stored.text().as_deref() == Some("w")
    })
    .await;
    let mut count = 0;
    for server in group.sentinels.iter().chain(&group.servers) {
        let refused = refused(server).await;
        count += refused.len();
        assert!(refused.is_empty(), "{refused:?}");
    }
    println!(
        "P30: three sentinels and two servers with the least rights, commands refused {count}"
    );
}

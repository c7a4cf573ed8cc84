//! TLS and credentials, against real servers: P28. A client talks to nobody whose certificate is not good, never falls back
//! to plain text, and gets new credentials when it needs them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::{RedisCluster, RedisServer};
use larder::{Builder, CacheClient, Credentials, Error, ErrorKind, Outcome, Tls};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

#[path = "tls/authority.rs"]
mod authority;
#[path = "tls/front.rs"]
mod front;
#[path = "tls/logins.rs"]
mod logins;
#[path = "tls/redirections.rs"]
mod redirections;
#[path = "tls/roots.rs"]
mod roots;

use authority::{Authority, Identity};

async fn server(identity: &Identity, clients: Option<String>) -> RedisServer {
    RedisServer::builder()
        .tls(identity.certificate.clone(), identity.key.clone(), clients)
        .start()
        .await
}

async fn connect(url: &str, tls: Tls) -> Result<CacheClient, Error> {
    CacheClient::builder().url(url).tls(tls).connect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_over_tls_and_comes_back_after_a_cut() {
    let authority = Authority::new();
    let server = server(&authority.good(), None).await;
    let ca = server.dir().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let url = format!("{}?ca={}", server.tls_url(), ca.display());
    let cache = CacheClient::connect(&url).await.unwrap();
    cache.set_value("k", "v".repeat(100_000), None).await.unwrap();
    assert_eq!(cache.get_value("k").await.unwrap().map(|value| value.len()), Some(100_000));

    // Changes are told over TLS as well.
    let near = cache.namespace::<str, String>("n").ttl(Duration::from_secs(60)).near(true);
    let near = near.build().unwrap();
    near.set("a", &"one".to_owned()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(near.get("a").await.unwrap().unwrap().as_str(), "one");
    }
    assert!(cache.stats().reads["n"].near_hits > 0);
    assert_eq!(server.command(&["SET", "n:a", "\"two\""]).await.text().as_deref(), Some("OK"));
    while near.get("a").await.unwrap().unwrap().as_str() != "two" {
        tokio::task::yield_now().await;
    }

    let guard = cache.lock("l").acquire().await.unwrap();
    assert!(guard.release().await.unwrap());
    let killed = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    assert!(killed.to_string().contains(|one: char| one.is_ascii_digit()), "{killed}");
    cache.set_value("k", "after", None).await.unwrap();
    assert_eq!(cache.get_value("k").await.unwrap().as_deref(), Some("after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_trusted_whose_certificate_is_not_good() {
    let cases = bad_ones(&Authority::new());
    let count = cases.len();
    for (what, identity, tls, said) in cases {
        let server = server(&identity, None).await;
        let error = connect(&server.tls_url(), tls).await.expect_err(what);
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Tls, Outcome::NotSent), "{what}");
        assert!(error.to_string().contains(said), "{what}: {error}");
        // The witness: no handshake of ours was read.
        let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
        assert!(!stats.contains("cmdstat_hello"), "{what}: {stats}");
    }
    println!("P28: {count} bad certificates, connections accepted wrongly 0");
}

/// Certificates that are not good for this machine to who trusts `ours`, and what an error says of each. The last two are
/// good, and it is the client who wants another one.
fn bad_ones(ours: &Authority) -> Vec<(&'static str, Identity, Tls, &'static str)> {
    let trusting = || Tls::new().ca_pem(&ours.pem);
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    };
    let past = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    };
    let future = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2200, 1, 1);
        params.not_after = date_time_ymd(2201, 1, 1);
    };
    let for_clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let name = &["127.0.0.1"][..];
    vec![
        ("self-signed", self_signed, trusting(), "is not to be trusted"),
        ("expired", ours.vouches(name, past), trusting(), "has expired"),
        ("not valid yet", ours.vouches(name, future), trusting(), "not valid yet"),
        ("another name", ours.vouches(&["example.org"], |_| {}), trusting(), "for another name"),
        ("another authority", Authority::new().good(), trusting(), "by nobody whom we trust"),
        ("not for servers", ours.vouches(name, for_clients), trusting(), "not good"),
        ("the system's roots", ours.good(), Tls::new(), "by nobody whom we trust"),
        (
            "a name of the caller's",
            ours.good(),
            trusting().server_name("example.org"),
            "another name",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_tls_gets_no_password() {
    let authority = Authority::new();
    let plain = RedisServer::start().await;
    let url = |port: u16| format!("rediss://user:canary@127.0.0.1:{port}");
    let tls = || Tls::new().ca_pem(&authority.pem);
    let error = connect(&url(plain.port()), tls()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");

    for answer in STRANGE_ANSWERS {
        let (port, heard) = stranger(answer).await;
        let error = connect(&url(port), tls()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent);
        heard_handshakes_alone(&heard.await.unwrap());
    }
}

/// What somebody may say who does not speak TLS, or only its end.
const STRANGE_ANSWERS: [&[u8]; 4] =
    [b"+OK\r\n", b"220 ready to start TLS\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b""];

/// Somebody who answers so, or not at all, and what each of those who came said, once nobody comes any more.
async fn stranger(answer: &'static [u8]) -> (u16, JoinHandle<Vec<Vec<u8>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = tokio::spawn(async move {
        let mut all = Vec::new();
        // A client that is refused may come again.
        let mut patience = Duration::from_secs(30);
        while let Ok(Ok((mut stream, _))) = tokio::time::timeout(patience, listener.accept()).await
        {
            patience = Duration::from_secs(2);
            let mut hello = [0; 4096];
            let read = stream.read(&mut hello).await.unwrap_or(0);
            let mut heard = hello[..read].to_vec();
            _ = stream.write_all(answer).await;
            _ = stream.shutdown().await;
            let rest = stream.read_to_end(&mut heard);
            _ = tokio::time::timeout(Duration::from_millis(200), rest).await;
            all.push(heard);
        }
        // Who was stopped while it connected said nothing.
        all.retain(|heard| !heard.is_empty());
        all
    });
    (port, heard)
}

fn heard_handshakes_alone(heard: &[Vec<u8>]) {
    assert!(!heard.is_empty(), "nobody came");
    for one in heard {
        assert!(one.starts_with(b"\x16\x03"), "a TLS handshake was begun");
        assert!(!one.windows(6).any(|part| part == b"canary"), "and nothing else was said");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_our_certificate_gets_it_or_refuses() {
    let authority = Authority::new();
    let server = server(&authority.good(), Some(authority.pem.clone())).await;
    let trusting = || Tls::new().ca_pem(&authority.pem);
    let error = connect(&server.tls_url(), trusting()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
    let stranger = Authority::new().good();
    let tls = trusting().identity_pem(&stranger.certificate, &stranger.key);
    assert!(connect(&server.tls_url(), tls).await.is_err());

    let own = authority.vouches(&["a client"], |_| {});
    let cache = connect(&server.tls_url(), trusting().identity_pem(&own.certificate, &own.key))
        .await
        .unwrap();
    cache.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_is_switched_off_in_code_alone() {
    let server = server(&Authority::new().good(), None).await;
    for end in ["#insecure", "?insecure=true", "?verify=none", "?danger_accept_any_certificate=1"] {
        let error = CacheClient::connect(format!("{}{end}", server.tls_url())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{end}");
    }
    let anybody = Tls::new().danger_accept_any_certificate();
    connect(&server.tls_url(), anybody).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn mistakes_in_certificates_and_settings_are_named_together() {
    let build = |url: &str, tls: Tls| CacheClient::builder().url(url).tls(tls).build();
    let tls = Tls::new()
        .ca_file("/nowhere/ca.pem")
        .ca_pem("no certificate")
        .identity_pem("none", "none either");
    let error = build("rediss://h", tls).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    for part in ["/nowhere/ca.pem cannot be read", "no certificate in PEM", "client's key"] {
        assert!(text.contains(part), "{text}");
    }
    for plain in ["redis://h", "redis+sentinel://h/m"] {
        assert!(build(plain, Tls::new()).unwrap_err().to_string().contains("not rediss://"));
    }
    let missing = Tls::new().ca_file("/nowhere/ca.pem");
    let text = build("rediss+sentinel://h1,h2,h3/m", missing).unwrap_err().to_string();
    assert_eq!(text.matches("/nowhere/ca.pem").count(), 1, "{text}");
    let (one, two) = (Authority::new().good(), Authority::new().good());
    let mixed = Tls::new().ca_pem(&one.certificate).identity_pem(&one.certificate, &two.key);
    assert!(build("rediss://h", mixed).unwrap_err().to_string().contains("do not belong together"));
    let half = CacheClient::builder().url("rediss://h?cert=/a.pem").build().unwrap_err();
    assert!(half.to_string().contains("go together"), "{half}");
    assert!(!format!("{:?}", Tls::new().identity_pem("canary", "canary")).contains("canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_rotated_are_asked_for_again() {
    let server = RedisServer::start().await;
    let set = async |password: &str| {
        let rules = ["ACL", "SETUSER", "app", "reset", "on", "~*", "&*", "+@all"];
        let password = format!(">{password}");
        let rules: Vec<&str> = rules.into_iter().chain([password.as_str()]).collect();
        assert_eq!(server.command(&rules).await.text().as_deref(), Some("OK"));
    };
    set("canary-0").await;
    let number = Arc::new(AtomicU64::new(0));
    let asked = Arc::new(AtomicU64::new(0));
    let provider = {
        let (number, asked) = (Arc::clone(&number), Arc::clone(&asked));
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            let password = format!("canary-{}", number.load(Ordering::SeqCst));
            async move { Ok::<_, Infallible>(Credentials::user("app", password)) }
        }
    };
    let cache =
        CacheClient::builder().url(server.url()).credentials(provider).connect().await.unwrap();
    for round in 1..=5 {
        set(&format!("canary-{round}")).await;
        number.store(round, Ordering::SeqCst);
        let before = asked.load(Ordering::SeqCst);
        let killed = server.command(&["CLIENT", "KILL", "USER", "app"]).await;
        assert!(!killed.is_error(), "{killed}");
        cache.set_value("k", round, None).await.unwrap();
        assert!(asked.load(Ordering::SeqCst) > before, "round {round}");
    }
    // Credentials that are not let in are said at once, and not shown.
    number.store(99, Ordering::SeqCst);
    server.command(&["CLIENT", "KILL", "USER", "app"]).await;
    let error = loop {
        match cache.ping().await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if error.kind() == ErrorKind::Auth => break error,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    };
    assert!(!format!("{error} {error:?} {cache:?}").contains("canary"));
}

#[tokio::test]
async fn a_provider_that_fails_is_an_attempt_that_failed() {
    let server = RedisServer::start().await;
    let failing = || async { Err::<Credentials, _>(std::io::Error::other("the vault is closed")) };
    let error = CacheClient::builder()
        .url(server.url())
        .credentials(failing)
        .deadline(Duration::from_millis(300))
        .connect()
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotSent));
    assert!(error.to_string().contains("credentials provider failed"), "{error}");
    let both = CacheClient::builder().url("redis://:pw@h").credentials(failing).build();
    assert!(both.unwrap_err().to_string().contains("keep one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_has_to_be_trusted_by_its_own_name() {
    let authority = Authority::new();
    let start = async |identity: &Identity| {
        RedisCluster::with(2, 0, |server| {
            let Identity { certificate, key } = identity;
            server.tls(certificate.clone(), key.clone(), Some(authority.pem.clone()))
        })
        .await
    };
    let us = authority.good();
    let tls = |authority: &Authority| {
        Tls::new().ca_pem(&authority.pem).identity_pem(&us.certificate, &us.key)
    };
    let cluster = start(&authority.good()).await;
    for host in ["localhost", "127.0.0.1"] {
        let cache = connect(&cluster.tls_url(host), tls(&authority)).await.unwrap();
        for n in 0..50 {
            cache.set_value(format!("k:{n}"), n, None).await.unwrap();
            assert_eq!(cache.get_value(format!("k:{n}")).await.unwrap(), Some(n.to_string()));
        }
    }
    let error = connect(&cluster.tls_url("localhost"), tls(&Authority::new())).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Tls, Outcome::NotSent));

    // Who was reached by another name than the one that the cluster gives it is not trusted by that.
    let cluster = start(&authority.vouches(&["localhost"], |_| {})).await;
    let error = connect(&cluster.tls_url("localhost"), tls(&authority)).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Tls, Outcome::NotSent), "{error}");
    // Unless code says which name it has to be.
    let named = tls(&authority).server_name("localhost");
    let cache = connect(&cluster.tls_url("localhost"), named).await.unwrap();
    cache.set_value("k", "v", None).await.unwrap();
}

const NAME: &str = "cache";

/// A sentinel with this certificate that watches the server at a port.
async fn sentinel(identity: &Identity, port: u16) -> RedisServer {
    let Identity { certificate, key } = identity;
    let sentinel = RedisServer::builder().tls(certificate.clone(), key.clone(), None);
    sentinel.sentinel(NAME, port, 1).start().await
}

/// Who asks with a password that nobody knows, the sentinels at these ports or the servers that they name.
fn behind(ports: &[u16], at_sentinels: bool, tls: &Tls) -> Builder {
    let places: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let login = if at_sentinels { "" } else { "canary:canary@" };
    let builder =
        CacheClient::builder().url(format!("rediss+sentinel://{login}{}/{NAME}", places.join(",")));
    let builder = builder.tls(tls.clone());
    if at_sentinels {
        let canary = || async { Ok::<_, Infallible>(Credentials::user("canary", "canary")) };
        return builder.sentinel_credentials(canary);
    }
    builder
}

/// How many logins a server has refused. Whoever speaks to it at all logs in first.
async fn refused_logins(server: &RedisServer) -> usize {
    server.command(&["ACL", "LOG"]).await.items().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_sentinel_nor_whom_it_names_is_trusted_unless_its_certificate_is_good() {
    let ours = Authority::new();
    let good = ours.good();
    let trusting = Tls::new().ca_pem(&ours.pem);
    // The witness: who is trusted hears of the login.
    let data = server(&good, None).await;
    let watch = sentinel(&good, data.tls_port().unwrap()).await;
    let ports = [watch.tls_port().unwrap()];
    for (at_sentinels, hears) in [(true, &watch), (false, &data)] {
        let error = behind(&ports, at_sentinels, &trusting).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(refused_logins(hears).await > 0, "at sentinels: {at_sentinels}");
    }

    let (mut count, mut accepted) = (0, 0);
    let mut refused = async |client: Builder, what: &str, said: &str, by: &RedisServer| {
        let error = client.connect().await.expect_err(what);
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Tls, Outcome::NotSent), "{what}");
        assert!(error.to_string().contains(said), "{what}: {error}");
        count += 1;
        accepted += refused_logins(by).await;
    };
    for (what, identity, tls, said) in bad_ones(&ours) {
        let watch = sentinel(&identity, data.tls_port().unwrap()).await;
        refused(behind(&[watch.tls_port().unwrap()], true, &tls), what, said, &watch).await;
    }
    for (what, identity, tls, said) in bad_ones(&ours).into_iter().take(6) {
        let data = server(&identity, None).await;
        let watch = sentinel(&good, data.tls_port().unwrap()).await;
        refused(behind(&[watch.tls_port().unwrap()], false, &tls), what, said, &data).await;
    }
    // A sentinel that we trust names a host, and the certificate there is for the name by which we know the sentinel.
    let data = server(&ours.vouches(&["localhost"], |_| {}), None).await;
    let watch = sentinel(&good, data.tls_port().unwrap()).await;
    let url = format!("rediss+sentinel://localhost:{}/{NAME}", watch.tls_port().unwrap());
    let client = CacheClient::builder().url(&url).tls(trusting.clone());
    refused(client, "the sentinel's name", "for another name", &data).await;
    // Unless code says that everybody has that name.
    connect(&url, trusting.clone().server_name("localhost")).await.unwrap().ping().await.unwrap();
    println!("P28: sentinels, {count} bad certificates, connections accepted wrongly {accepted}");
    assert_eq!(accepted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_is_not_trusted_has_no_say() {
    let ours = Authority::new();
    let good = ours.good();
    let trusting = Tls::new().ca_pem(&ours.pem);
    let (right, wrong) = (server(&good, None).await, server(&good, None).await);
    right.command(&["SET", "k", "right"]).await;
    wrong.command(&["SET", "k", "wrong"]).await;
    let second = sentinel(&good, right.tls_port().unwrap()).await;
    for (identity, found) in [(ours.good(), "wrong"), (Authority::new().good(), "right")] {
        // Of two that say different things, the first is believed.
        let first = sentinel(&identity, wrong.tls_port().unwrap()).await;
        let ports = [&first, &second].map(|one| one.tls_port().unwrap());
        let url = format!("rediss+sentinel://127.0.0.1:{},127.0.0.1:{}/{NAME}", ports[0], ports[1]);
        let cache = connect(&url, trusting.clone()).await.unwrap();
        assert_eq!(cache.get_value("k").await.unwrap().as_deref(), Some(found));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_or_whom_it_names_without_tls_gets_no_password() {
    let ours = Authority::new();
    let good = ours.good();
    let trusting = Tls::new().ca_pem(&ours.pem);
    let refused = async |ports: &[u16], at_sentinels: bool| {
        let client = behind(ports, at_sentinels, &trusting).deadline(Duration::from_secs(3));
        let error = client.connect().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent, "{error}");
        error.to_string()
    };
    // Ports on which real ones speak plain text.
    let data = server(&good, None).await;
    let watch = sentinel(&good, data.tls_port().unwrap()).await;
    refused(&[watch.port()], true).await;
    let names_plain = sentinel(&good, data.port()).await;
    refused(&[names_plain.tls_port().unwrap()], false).await;
    let accepted = refused_logins(&watch).await + refused_logins(&data).await;
    assert_eq!(accepted, 0);

    let tried = STRANGE_ANSWERS.map(async |answer| {
        let ((port, at_sentinel), (named, at_data)) =
            (stranger(answer).await, stranger(answer).await);
        refused(&[port], true).await;
        let watch = sentinel(&good, named).await;
        let text = refused(&[watch.tls_port().unwrap()], false).await;
        // The sentinel asks there, too; that we did is what the error says.
        assert!(text.contains(&format!("127.0.0.1:{named}")), "{text}");
        // It would go on asking.
        drop(watch);
        heard_handshakes_alone(&at_sentinel.await.unwrap());
        heard_handshakes_alone(&at_data.await.unwrap());
    });
    futures_util::future::join_all(tried).await;
    let count = 2 + 2 * STRANGE_ANSWERS.len();
    println!("P28: sentinels, {count} without TLS, connections accepted wrongly {accepted}");
}

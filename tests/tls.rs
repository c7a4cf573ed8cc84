//! TLS and credentials, against real servers: P28. A client talks to nobody whose certificate is not good, never falls back
//! to plain text, and gets new credentials when it needs them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::testing::{RedisCluster, RedisServer};
use larder::{CacheClient, Credentials, Error, ErrorKind, Outcome, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Who vouches for certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Names tell authorities apart before keys do.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key, for these names.
    fn vouches(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "somebody");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn good(&self) -> Identity {
        self.vouches(&["localhost", "127.0.0.1"], |_| {})
    }
}

struct Identity {
    certificate: String,
    key: String,
}

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
    let (ours, others) = (Authority::new(), Authority::new());
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
    let cases = [
        ("self-signed", self_signed, trusting(), "is not to be trusted"),
        ("expired", ours.vouches(name, past), trusting(), "has expired"),
        ("not valid yet", ours.vouches(name, future), trusting(), "not valid yet"),
        ("another name", ours.vouches(&["example.org"], |_| {}), trusting(), "for another name"),
        ("another authority", others.good(), trusting(), "by nobody whom we trust"),
        ("not for servers", ours.vouches(name, for_clients), trusting(), "not good"),
        ("the system's roots", ours.good(), Tls::new(), "by nobody whom we trust"),
        (
            "a name of the caller's",
            ours.good(),
            trusting().server_name("example.org"),
            "another name",
        ),
    ];
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_tls_gets_no_password() {
    let authority = Authority::new();
    let plain = RedisServer::start().await;
    let url = |port: u16| format!("rediss://user:canary@127.0.0.1:{port}");
    let tls = || Tls::new().ca_pem(&authority.pem);
    let error = connect(&url(plain.port()), tls()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");

    // One that answers something, or nothing, and keeps what it was sent.
    let answers: [&[u8]; 4] =
        [b"+OK\r\n", b"220 ready to start TLS\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b""];
    for answer in answers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            // A client that is refused may come again.
            while let Ok(Ok((mut stream, _))) =
                tokio::time::timeout(Duration::from_secs(2), listener.accept()).await
            {
                let mut hello = [0; 4096];
                let read = stream.read(&mut hello).await.unwrap_or(0);
                heard.extend_from_slice(&hello[..read]);
                _ = stream.write_all(answer).await;
                _ = stream.shutdown().await;
                _ = tokio::time::timeout(
                    Duration::from_millis(200),
                    stream.read_to_end(&mut heard),
                )
                .await;
            }
            heard
        });
        let error = connect(&url(port), tls()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
        assert_eq!(error.outcome(), Outcome::NotSent);
        let heard = heard.await.unwrap();
        assert!(heard.starts_with(b"\x16\x03"), "a TLS handshake was begun");
        assert!(!heard.windows(6).any(|part| part == b"canary"), "and nothing else was said");
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
    assert!(build("redis://h", Tls::new()).unwrap_err().to_string().contains("not rediss://"));
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

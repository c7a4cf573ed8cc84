//! A node of a cluster that sends on to somebody who is not to be trusted.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use larder::testing::{RedisCluster, Scripted};
use larder::{CacheClient, ErrorKind, Outcome, Tls};

use super::front::{Front, handshake};
use super::{Authority, Identity, bad_ones};

/// A node with a good certificate that has all slots, names another node at a port of this machine, and sends counters
/// on to it.
async fn sends_on(identity: &Identity, code: &'static str, other: u16) -> Front {
    let port = Arc::new(OnceLock::new());
    let known = Arc::clone(&port);
    let slot = RedisCluster::slot("n");
    let front = Front::start(identity, move |_, args| {
        let port: u16 = *known.get().unwrap();
        match (&*args[0], args.get(1).map(|arg| &**arg)) {
            (b"CLUSTER", Some(b"SLOTS")) => Scripted::answer(format!(
                "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n"
            )),
            (b"CLUSTER", Some(b"NODES")) => {
                let text = format!(
                    "a 127.0.0.1:{port}@1 myself,master - 0 0 1 connected 0-16383\n\
                     b 127.0.0.1:{other}@2 master - 0 0 2 connected\n"
                );
                Scripted::answer(format!("${}\r\n{text}\r\n", text.len()))
            }
            (b"INCRBY", _) => Scripted::answer(format!("-{code} {slot} 127.0.0.1:{other}\r\n")),
            _ => handshake(args),
        }
    })
    .await;
    port.set(front.port).unwrap();
    front
}

fn client(first: &Front, tls: Tls) -> CacheClient {
    let url = format!("rediss+cluster://user:canary@127.0.0.1:{}", first.port);
    let settings = CacheClient::builder().url(url).tls(tls).deadline(Duration::from_secs(3));
    settings.build().unwrap()
}

async fn counts(identity: &Identity) -> Front {
    Front::start(identity, |_, args| match &*args[0] {
        b"INCRBY" => Scripted::answer(":1\r\n"),
        _ => handshake(args),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_sent_on_to_is_told_nothing_unless_its_certificate_is_good() {
    let ours = Authority::new();
    let trusting = Tls::new().ca_pem(&ours.pem);
    let (mut refused, mut accepted) = (0, 0);
    for code in ["MOVED", "ASK"] {
        // The witness: whom we trust is told who we are, and answers.
        let other = counts(&ours.good()).await;
        let first = sends_on(&ours.good(), code, other.port).await;
        assert_eq!(client(&first, trusting.clone()).incr_by("n", 1).await.unwrap(), 1, "{code}");
        assert!(other.has_heard("canary") && other.has_heard("INCRBY"), "{code}");

        for (what, identity, tls, said) in bad_ones(&ours).into_iter().take(6) {
            let other = counts(&identity).await;
            let first = sends_on(&ours.good(), code, other.port).await;
            let error = client(&first, tls).incr_by("n", 1).await.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Tls, "{code} {what}: {error}");
            assert_eq!(error.outcome(), Outcome::NotSent, "{code} {what}: {error}");
            assert!(error.to_string().contains(said), "{code} {what}: {error}");
            assert!(first.has_heard("INCRBY"), "{code} {what}: nobody was sent on");
            assert!(other.came() > 0, "{code} {what}: nobody came");
            refused += 1;
            accepted += other.heard().len();
        }
    }
    println!(
        "P28: clusters, {refused} redirections to bad certificates, commands or credentials sent {accepted}"
    );
    assert_eq!(accepted, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_sent_on_to_is_told_nothing_without_tls() {
    let ours = Authority::new();
    let cases = ["MOVED", "ASK"]
        .into_iter()
        .flat_map(|code| super::STRANGE_ANSWERS.into_iter().map(move |answer| (code, answer)));
    let tried = cases.map(async |(code, answer)| {
        let (port, heard) = super::stranger(answer).await;
        let first = sends_on(&ours.good(), code, port).await;
        let cache = client(&first, Tls::new().ca_pem(&ours.pem));
        let error = cache.incr_by("n", 1).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Tls | ErrorKind::Unavailable), "{error}");
        assert_ne!(error.outcome(), Outcome::Unknown, "{error}");
        assert!(first.has_heard("INCRBY"), "{code}: nobody was sent on");
        cache.close().await;
        let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
        super::heard_handshakes_alone(&heard.expect("nobody came").unwrap());
    });
    let tried = futures_util::future::join_all(tried).await.len();
    println!("P28: clusters, {tried} redirections to who speaks no TLS, credentials sent 0");
}

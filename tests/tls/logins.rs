//! Servers that do not let us in, over TLS: nobody goes on as nobody, or as somebody else.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::testing::{RedisServer, Scripted};
use larder::{CacheClient, ErrorKind, Outcome, Tls};

use super::front::{Front, handshake};
use super::{Authority, Identity};

const UNKNOWN: &str = "-ERR unknown command 'HELLO', with args beginning with: '3'\r\n";
const NAMELESS: &str = "-ERR wrong number of arguments for 'auth' command\r\n";

/// What a server says to HELLO, to AUTH with a name, and to AUTH without one; nothing where it hangs up.
const REFUSALS: [[Option<&str>; 3]; 14] = [
    [Some("-WRONGPASS invalid username-password pair or user is disabled.\r\n"), None, None],
    [Some("-NOAUTH HELLO must be called with the client already authenticated\r\n"), None, None],
    [Some("-NOPERM this user has no permissions to run the 'hello' command\r\n"), None, None],
    [Some("-ERR\r\n"), None, None],
    [Some("-NOPROTO unsupported protocol version\r\n"), None, None],
    [None, None, None],
    [Some(UNKNOWN), Some("-WRONGPASS invalid username-password pair\r\n"), None],
    [Some(UNKNOWN), Some("-ERR invalid password\r\n"), None],
    [Some(UNKNOWN), Some("-ERR unknown command 'AUTH'\r\n"), None],
    [Some(UNKNOWN), Some("-ERR Client sent AUTH, but no password is set\r\n"), None],
    [Some(UNKNOWN), Some(":1\r\n"), None],
    [Some(UNKNOWN), Some("$-1\r\n"), None],
    // A server, or a proxy, whose AUTH knows no names.
    [Some(UNKNOWN), Some(NAMELESS), Some(NAMELESS)],
    [Some(UNKNOWN), Some(NAMELESS), Some("+OK\r\n")],
];

/// The same for who has a password and no name.
const NAMELESS_REFUSALS: [[Option<&str>; 3]; 3] = [
    [Some("-WRONGPASS invalid username-password pair or user is disabled.\r\n"), None, None],
    [Some(UNKNOWN), None, Some("-ERR invalid password\r\n")],
    // A server, or a proxy, whose AUTH wants a name.
    [Some(UNKNOWN), None, Some(NAMELESS)],
];

/// Says so, and notes what it is told besides by who was not let in under the name that was given.
async fn refuses(
    identity: &Identity,
    [hello, named, nameless]: [Option<&'static str>; 3],
) -> (Front, Arc<Mutex<Vec<String>>>) {
    let let_in = Mutex::<HashSet<u64>>::default();
    let stray: Arc<Mutex<Vec<String>>> = Arc::default();
    let strays = Arc::clone(&stray);
    let front = Front::start(identity, move |connection, args| {
        let answer = match (&*args[0], args.len()) {
            (b"HELLO", _) => hello,
            (b"AUTH", 3) => {
                if named == Some("+OK\r\n") {
                    let_in.lock().unwrap().insert(connection);
                }
                named
            }
            (b"AUTH", _) => {
                if named.is_none() && nameless == Some("+OK\r\n") {
                    let_in.lock().unwrap().insert(connection);
                }
                nameless
            }
            // The driver names itself in the same breath.
            (b"CLIENT", _) => Some("-NOAUTH Authentication required.\r\n"),
            _ => {
                if !let_in.lock().unwrap().contains(&connection) {
                    strays.lock().unwrap().push(String::from_utf8_lossy(&args[0]).into_owned());
                }
                return match &*args[0] {
                    b"GET" => Scripted::answer("$5\r\nvalue\r\n"),
                    _ => handshake(args),
                };
            }
        };
        answer.map_or(Scripted::Close, Scripted::answer)
    })
    .await;
    (front, stray)
}

fn client(port: u16, tls: &Tls) -> CacheClient {
    client_of("user", port, tls)
}

fn client_of(user: &str, port: u16, tls: &Tls) -> CacheClient {
    let url = format!("rediss://{user}:canary@127.0.0.1:{port}");
    let settings = CacheClient::builder().url(url).tls(tls.clone()).connections(1);
    settings.deadline(Duration::from_secs(2)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_sends_nothing_as_nobody_or_as_somebody_else() {
    let ours = Authority::new();
    let tls = Tls::new().ca_pem(&ours.pem);
    // The witness: who is let in is served, in the old protocol as well.
    let (front, stray) = refuses(&ours.good(), [Some(UNKNOWN), Some("+OK\r\n"), None]).await;
    let value = client(front.port, &tls).get_value("key").await.unwrap();
    assert_eq!(value.as_deref(), Some("value"));
    assert!(stray.lock().unwrap().is_empty() && front.has_heard("canary"));

    // So is who has a password alone.
    let (front, stray) = refuses(&ours.good(), [Some(UNKNOWN), None, Some("+OK\r\n")]).await;
    let value = client_of("", front.port, &tls).get_value("key").await.unwrap();
    assert_eq!(value.as_deref(), Some("value"));
    assert!(stray.lock().unwrap().is_empty() && front.has_heard("canary"));

    let named = REFUSALS.map(|refusal| ("user", refusal));
    let nameless = NAMELESS_REFUSALS.map(|refusal| ("", refusal));
    let tried = named.into_iter().chain(nameless).map(async |(user, refusal)| {
        let (front, stray) = refuses(&ours.good(), refusal).await;
        let cache = client_of(user, front.port, &tls);
        let calls = [
            cache.get_value("key").await.map(|_| ()),
            cache.incr_by("n", 1).await.map(|_| ()),
            cache.ping().await,
        ];
        for error in calls.map(|call| call.expect_err("it was let in")) {
            assert_eq!(error.outcome(), Outcome::NotSent, "{refusal:?}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
        assert!(front.has_heard("HELLO"), "{refusal:?}: it was not asked");
        let stray = stray.lock().unwrap();
        assert!(stray.is_empty(), "{refusal:?}: {stray:?}");
        stray.len()
    });
    let strays = futures_util::future::join_all(tried).await;
    println!(
        "P28: {} logins refused over TLS, commands of who was not let in {}",
        strays.len(),
        strays.iter().sum::<usize>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_without_hello_lets_nobody_in_but_by_name_and_password() {
    let ours = Authority::new();
    let Identity { certificate, key } = ours.good();
    let server = RedisServer::builder()
        .tls(certificate, key, None)
        .arg("--rename-command")
        .arg("HELLO")
        .arg("")
        .start()
        .await;
    let rules = ["ACL", "SETUSER", "user", "on", ">canary", "~*", "+@all"];
    assert_eq!(server.command(&rules).await.text().as_deref(), Some("OK"));
    let tls = Tls::new().ca_pem(&ours.pem);
    let cache = client(server.tls_port().unwrap(), &tls);
    cache.set_value("key", "value", None).await.unwrap();
    let list = server.command(&["CLIENT", "LIST"]).await.text().unwrap();
    assert!(list.lines().any(|line| line.contains("user=user")), "{list}");
    cache.close().await;

    assert!(!server.command(&["ACL", "SETUSER", "user", "resetpass", ">other"]).await.is_error());
    let error = client(server.tls_port().unwrap(), &tls).get_value("key").await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::NotSent), "{error}");
    let log = server.command(&["ACL", "LOG"]).await.to_string();
    assert!(log.contains("user"), "nobody was refused: {log}");
    // The same server would serve nobody in particular.
    let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
    assert!(!stats.contains("cmdstat_get:"), "{stats}");
}

//! The fault proxy and the scripted server do what the fault tests rely on.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use larder::testing::{
    Cut, FaultProxy, RawConnection, RedisServer, Resp, Scripted, ScriptedServer,
};
use tokio::io::AsyncWriteExt;

async fn proxied() -> (RedisServer, FaultProxy, RawConnection) {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let connection = RawConnection::connect(proxy.addr()).await.unwrap();
    (server, proxy, connection)
}

async fn is_silent(connection: &mut RawConnection) -> bool {
    tokio::time::timeout(Duration::from_millis(100), connection.reply()).await.is_err()
}

#[tokio::test]
async fn without_faults_everything_passes_and_is_counted_and_logged() {
    let (_server, proxy, mut connection) = proxied().await;
    proxy.log_commands(true);
    let long = "x".repeat(300_000);
    connection.command(&["SET", "long", &long]).await.unwrap();
    assert_eq!(connection.command(&["GET", "long"]).await.unwrap().text(), Some(long));
    let log = proxy.take_log();
    assert_eq!(log.len(), 2);
    assert_eq!(log[1].args, ["GET", "long"]);
    assert_eq!((log[0].connection, proxy.accepts(), proxy.connections()), (1, 1, 1));
    assert_eq!((proxy.to_server().frames(), proxy.to_client().frames()), (2, 2));
    assert!(proxy.to_server().bytes() > 300_000 && proxy.to_client().bytes() > 300_000);
    drop(connection);
    while proxy.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_log_says_which_commands_were_refused_however_their_answers_are_cut() {
    let (server, proxy, _) = proxied().await;
    proxy.log_commands(true);
    proxy.to_client().slice(1);
    let mut client = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    let mut answers = 0;
    let commands = ["HELLO 3", "CLIENT TRACKING ON", "GET k", "LLEN k", "LLEN k", "GET k"];
    for (at, command) in commands.iter().enumerate() {
        let words: Vec<&str> = command.split(' ').collect();
        let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let words: Vec<String> = words.collect();
        let frame = format!("*{}\r\n{}", words.len(), words.concat());
        client.write_all(frame.as_bytes()).await.unwrap();
        answers += 1;
        while proxy.to_client().frames() < answers {
            tokio::task::yield_now().await;
        }
        if at == 2 {
            // A push between the answers is no answer.
            server.command(&["SET", "k", "text"]).await;
            answers += 1;
        }
    }
    let refused: Vec<bool> = proxy.take_log().iter().map(|sent| sent.refused).collect();
    assert_eq!(refused, [false, false, false, true, true, false]);
}

#[tokio::test]
async fn a_cut_is_a_reset_or_an_end_of_file_as_asked() {
    let (_server, proxy, mut connection) = proxied().await;
    connection.command(&["PING"]).await.unwrap();
    proxy.cut(Cut::Reset);
    assert_eq!(connection.reply().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut connection = RawConnection::connect(proxy.addr()).await.unwrap();
    connection.command(&["PING"]).await.unwrap();
    proxy.cut(Cut::Fin);
    assert_eq!(connection.reply().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test]
async fn a_cut_before_the_reply_comes_after_the_command_was_applied() {
    let (server, proxy, mut connection) = proxied().await;
    for round in 1..=50 {
        proxy.cut_before_reply_of("incr", Cut::Reset);
        assert!(connection.command(&["INCR", "n"]).await.is_err());
        while server.command(&["GET", "n"]).await.text() != Some(round.to_string()) {
            tokio::task::yield_now().await;
        }
        connection = RawConnection::connect(proxy.addr()).await.unwrap();
    }
    assert_eq!(proxy.cuts(), 50);
}

#[tokio::test]
async fn a_cut_after_some_bytes_leaves_half_a_reply() {
    let (_server, proxy, mut connection) = proxied().await;
    connection.command(&["SET", "a", "0123456789"]).await.unwrap();
    proxy.to_client().cut_after(8, Cut::Fin);
    let before = proxy.to_client().bytes();
    let error = connection.command(&["GET", "a"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(proxy.to_client().bytes() > before);
}

#[tokio::test]
async fn swallowed_bytes_are_gone_and_the_connection_looks_alive() {
    let (server, proxy, mut connection) = proxied().await;
    proxy.to_server().swallow(true);
    connection.send(&["SET", "a", "1"]).await.unwrap();
    assert!(is_silent(&mut connection).await);
    assert!(proxy.to_server().swallowed() > 0);
    assert_eq!(server.command(&["GET", "a"]).await, Resp::Nil);
    proxy.to_server().swallow(false);
    assert_eq!(connection.command(&["PING"]).await.unwrap().text().as_deref(), Some("PONG"));
}

#[tokio::test]
async fn a_connection_that_was_forgotten_is_silent_and_a_new_one_works() {
    let (server, proxy, mut connection) = proxied().await;
    connection.command(&["SET", "a", "1"]).await.unwrap();
    proxy.forget();
    connection.send(&["SET", "a", "2"]).await.unwrap();
    assert!(is_silent(&mut connection).await);
    assert!(proxy.to_server().swallowed() > 0);
    assert_eq!(server.command(&["GET", "a"]).await.text().as_deref(), Some("1"));
    let mut other = RawConnection::connect(proxy.addr()).await.unwrap();
    assert_eq!(other.command(&["SET", "a", "3"]).await.unwrap().text().as_deref(), Some("OK"));
}

#[tokio::test]
async fn swallowed_pushes_are_gone_as_a_whole_and_replies_go_on() {
    let push = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n";
    let server = ScriptedServer::start(move |_, _| {
        Scripted::answer(format!("{push}*2\r\n:1\r\n$1\r\n>\r\n{push}"))
    })
    .await;
    let proxy = FaultProxy::start(server.addr()).await;
    let mut connection = RawConnection::connect(proxy.addr()).await.unwrap();
    proxy.to_client().swallow_pushes(true);
    for round in 1..=20 {
        let reply = connection.command(&["PING"]).await.unwrap();
        assert_eq!(reply.items()[1].text().as_deref(), Some(">"));
        assert!(proxy.to_client().swallowed() >= (2 * round - 1) * push.len() as u64);
    }
    // It does not understand one.
    proxy.to_client().swallow_pushes(false);
    assert!(connection.command(&["PING"]).await.is_err());
}

#[tokio::test]
async fn delays_slices_flips_and_injections_reach_the_client() {
    let (_server, proxy, mut connection) = proxied().await;
    proxy.to_client().delay(Duration::from_millis(30)..Duration::from_millis(40));
    let started = Instant::now();
    connection.command(&["PING"]).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(30));
    proxy.to_client().delay(None);

    proxy.to_client().slice(1);
    proxy.to_server().slice(1);
    assert_eq!(connection.command(&["ECHO", "sliced"]).await.unwrap().text().unwrap(), "sliced");
    proxy.to_client().slice(None);
    proxy.to_server().slice(None);

    proxy.to_client().inject("+injected\r\n");
    assert_eq!(connection.reply().await.unwrap(), Resp::Simple("injected".into()));

    proxy.to_client().flip(1);
    let flipped = connection.command(&["PING"]).await.unwrap();
    assert_ne!(flipped, Resp::Simple("PONG".into()));
}

#[tokio::test]
async fn refused_connections_are_reset_and_counted() {
    let (_server, proxy, _connection) = proxied().await;
    proxy.refuse(true);
    // The connect itself may win over the reset: then the first command meets it.
    if let Ok(mut connection) = RawConnection::connect(proxy.addr()).await {
        assert!(connection.command(&["PING"]).await.is_err());
    }
    assert_eq!(proxy.accepts(), 2);
    proxy.refuse(false);
    let mut connection = RawConnection::connect(proxy.addr()).await.unwrap();
    assert!(connection.command(&["PING"]).await.is_ok());
}

#[tokio::test]
async fn a_scripted_server_answers_holds_its_tongue_and_hangs_up() {
    let server = ScriptedServer::start(|connection, args| match &*args[0] {
        b"WHO" => Scripted::answer(format!(":{connection}\r\n")),
        b"QUIET" => Scripted::Silence,
        _ => Scripted::Close,
    })
    .await;
    let mut connection = RawConnection::connect(server.addr()).await.unwrap();
    assert_eq!(connection.command(&["WHO"]).await.unwrap().int(), Some(1));
    connection.send(&["QUIET"]).await.unwrap();
    assert!(is_silent(&mut connection).await);
    assert!(connection.command(&["BYE"]).await.is_err());
    let mut connection = RawConnection::connect(server.addr()).await.unwrap();
    assert_eq!(connection.command(&["WHO"]).await.unwrap().int(), Some(2));
    assert_eq!(server.accepts(), 2);
}

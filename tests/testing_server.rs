//! The servers that every other test stands on.

use larder::testing::{RedisServer, Resp};

#[tokio::test]
async fn a_server_answers_and_is_gone_with_its_directory_when_dropped() {
    let server = RedisServer::start().await;
    let (dir, addr) = (server.dir().to_owned(), server.addr());
    assert_eq!(server.command(&["SET", "a", "1"]).await, Resp::Simple("OK".into()));
    assert_eq!(server.command(&["INCR", "a"]).await.int(), Some(2));
    assert_eq!(server.info("process_id").await, server.pid().to_string());
    drop(server);
    assert!(!dir.exists());
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_restarted_server_keeps_its_port_and_what_was_on_disk() {
    let mut server = RedisServer::builder()
        .arg("--appendonly")
        .arg("yes")
        .arg("--appendfsync")
        .arg("always")
        .start()
        .await;
    let (port, pid) = (server.port(), server.pid());
    server.command(&["SET", "kept", "yes"]).await;
    server.kill().await;
    server.restart().await;
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert_eq!(server.command(&["GET", "kept"]).await.text().as_deref(), Some("yes"));
}

#[tokio::test]
async fn a_paused_server_answers_only_after_it_is_resumed() {
    let server = RedisServer::start().await;
    let mut connection = server.connect().await;
    server.pause().await;
    connection.send(&["PING"]).await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), connection.reply());
    assert!(early.await.is_err());
    server.resume().await;
    assert_eq!(connection.reply().await.unwrap(), Resp::Simple("PONG".into()));
}

#[tokio::test]
async fn a_password_a_socket_and_a_cluster_work() {
    let server = RedisServer::builder().password("a b/c").unix_socket().start().await;
    assert_eq!(server.command(&["PING"]).await, Resp::Simple("PONG".into()));
    assert!(server.dir().join("redis.sock").exists());
    assert!(server.url().starts_with("redis+unix://:a%20b%2Fc@/"), "{}", server.url());

    let mut server = RedisServer::builder().cluster().start().await;
    server.command(&["SET", "any", "1"]).await;
    server.restart().await;
    assert_eq!(server.command(&["SET", "any", "2"]).await, Resp::Simple("OK".into()));
}

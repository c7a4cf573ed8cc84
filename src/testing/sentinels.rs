//! Real sentinels: three of them, which watch a primary and its replica.

use super::resp::Resp;
use super::server::{RedisServer, RedisServerBuilder, until};

/// How many have to agree that the primary is gone.
const QUORUM: usize = 2;

/// A primary, its replica and three sentinels that watch them, for a test. Dropping it stops them all.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use larder::testing::RedisSentinels;
///
/// let group = RedisSentinels::start("cache").await;
/// let cache = larder::CacheClient::connect(group.url()).await?;
/// cache.set_value("greeting", "hello", None).await?;
/// assert_eq!(cache.get_value("greeting").await?.as_deref(), Some("hello"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RedisSentinels {
    name: String,
    /// The two that hold data: at the start the first is the primary.
    pub servers: [RedisServer; 2],
    /// The three that watch them.
    pub sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// Starts them, and waits until every sentinel knows the others and the replica. The primary is watched under `name`.
    ///
    /// # Panics
    /// If there is no `redis-server`, or if it takes more than half a minute.
    pub async fn start(name: impl Into<String>) -> Self {
        Self::with(name, |server| server).await
    }

    /// The same with settings of each server and each sentinel. If they speak TLS they do so among each other, too.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn with(
        name: impl Into<String>,
        set: impl Fn(RedisServerBuilder) -> RedisServerBuilder,
    ) -> Self {
        let name = name.into();
        let data = || {
            let server = set(RedisServer::builder());
            let server = server.arg("--appendonly").arg("yes").arg("--repl-diskless-sync-delay");
            let server = server.arg("0");
            if server.speaks_tls() { server.arg("--tls-replication").arg("yes") } else { server }
        };
        let primary = data().start().await;
        let port = port(&primary);
        let replica =
            data().arg("--replicaof").arg("127.0.0.1").arg(port.to_string()).start().await;
        until("the replica follows", async || replica.info("master_link_status").await == "up")
            .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(set(RedisServer::builder()).sentinel(&name, port, QUORUM).start().await);
        }
        let group = Self { name, servers: [primary, replica], sentinels };
        group.is_whole().await;
        group
    }

    /// Waits until every sentinel knows the others, a primary and a replica that has all of its data.
    ///
    /// # Panics
    /// If that takes more than half a minute.
    pub async fn is_whole(&self) {
        for sentinel in &self.sentinels {
            until("the sentinels know each other and the replica", async || {
                let state = sentinel.command(&["SENTINEL", "MASTER", &self.name]).await;
                let replicas = sentinel.command(&["SENTINEL", "REPLICAS", &self.name]).await;
                let up = |replica: &&Resp| {
                    has(replica, "flags", "slave") && has(replica, "master-link-status", "ok")
                };
                has(&state, "flags", "master")
                    && has(&state, "num-other-sentinels", "2")
                    && replicas.items().iter().filter(up).count() == 1
            })
            .await;
        }
    }

    /// The URL for a client.
    pub fn url(&self) -> String {
        let places = self.sentinels.iter().map(|sentinel| sentinel.addr().to_string());
        let login = self.servers[0].login();
        format!("redis+sentinel://{login}{}/{}", places.collect::<Vec<_>>().join(","), self.name)
    }

    /// The URL for a client that speaks TLS, with this name for the host of every sentinel.
    ///
    /// # Panics
    /// If they do not.
    pub fn tls_url(&self, host: &str) -> String {
        let ports = self.sentinels.iter().map(|one| one.tls_port().expect("they speak TLS"));
        let places: Vec<_> = ports.map(|port| format!("{host}:{port}")).collect();
        format!("rediss+sentinel://{}{}/{}", self.servers[0].login(), places.join(","), self.name)
    }

    /// Which of the servers is the primary, as the first sentinel that runs says.
    ///
    /// # Panics
    /// If none runs, or it names another server.
    pub async fn primary(&self) -> usize {
        let sentinel = self.sentinels.iter().find(|one| one.runs()).expect("a sentinel runs");
        let named = self.named_by(sentinel).await;
        self.servers.iter().position(|server| port(server) == named).expect("it is one of ours")
    }

    /// Has the replica take over from the primary, who stays (`SENTINEL FAILOVER`): waits until that has begun.
    ///
    /// # Panics
    /// If it does not within half a minute.
    pub async fn fail_over(&self) {
        until("a failover begins", async || {
            let answer = self.sentinels[0].command(&["SENTINEL", "FAILOVER", &self.name]).await;
            answer.text().as_deref() == Some("OK")
        })
        .await;
    }

    /// Waits until most of the sentinels name another primary than this server.
    ///
    /// # Panics
    /// If they do not within half a minute.
    pub async fn announced(&self, old: usize) {
        let old = port(&self.servers[old]);
        until("a new primary", async || {
            let mut new = 0;
            for sentinel in &self.sentinels {
                new += usize::from(self.named_by(sentinel).await != old);
            }
            new >= QUORUM
        })
        .await;
    }

    /// The port of the primary that a sentinel names.
    async fn named_by(&self, sentinel: &RedisServer) -> u16 {
        let answer = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name]).await;
        let port = answer.items().get(1).and_then(Resp::text);
        port.and_then(|port| port.parse().ok()).expect("a sentinel names the primary")
    }
}

/// The port at which the others reach it.
fn port(server: &RedisServer) -> u16 {
    server.tls_port().unwrap_or(server.port())
}

/// Whether a list of names and values has this one.
fn has(list: &Resp, name: &str, value: &str) -> bool {
    list.items().chunks(2).any(|pair| match pair {
        [found, of] => found.text().as_deref() == Some(name) && of.text().as_deref() == Some(value),
        _ => false,
    })
}

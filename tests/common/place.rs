//! Where a test runs: one server or a cluster, with or without a network in front that breaks; or every store in turn.

use larder::CacheClient;
use larder::testing::{
    FaultProxy, RawConnection, RedisCluster, RedisServer, RedisServerBuilder, Resp, SlotMover,
};

use super::until;

/// For servers without settings of their own.
pub(crate) fn plain(server: RedisServerBuilder) -> RedisServerBuilder {
    server
}

/// How many primaries a cluster has.
const PRIMARIES: usize = 3;

/// One server, or several that are a cluster.
pub(crate) struct Place {
    servers: Servers,
    proxies: Vec<FaultProxy>,
}

enum Servers {
    One(Box<RedisServer>),
    Cluster(RedisCluster),
}

impl Place {
    /// A server.
    pub(crate) async fn one(set: impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        let server = set(RedisServer::builder()).start().await;
        Self { servers: Servers::One(Box::new(server)), proxies: Vec::new() }
    }

    /// Three primaries with a replica each.
    pub(crate) async fn cluster(set: impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        let cluster = RedisCluster::with(PRIMARIES, 1, set).await;
        Self { servers: Servers::Cluster(cluster), proxies: Vec::new() }
    }

    /// Three primaries alone: nobody takes the place of one that stands still.
    pub(crate) async fn primaries(set: impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        let cluster = RedisCluster::with(PRIMARIES, 0, set).await;
        Self { servers: Servers::Cluster(cluster), proxies: Vec::new() }
    }

    /// With a proxy in front of each server, to which clients are sent. Not for replicas, who would be sent there as well.
    pub(crate) async fn behind_proxies(mut self) -> Self {
        let addresses: Vec<_> = self.servers().iter().map(RedisServer::addr).collect();
        for address in addresses {
            self.proxies.push(FaultProxy::start(address).await);
        }
        if let Servers::Cluster(cluster) = &mut self.servers {
            assert_eq!(cluster.nodes().len(), PRIMARIES);
            for (at, proxy) in self.proxies.iter().enumerate() {
                cluster.announce(at, proxy.addr().port()).await;
            }
        }
        self
    }

    /// With a proxy in front of each replica, to which clients are sent who read from replicas; primaries are reached as ever.
    pub(crate) async fn replicas_behind_proxies(mut self) -> Self {
        let Servers::Cluster(cluster) = &mut self.servers else { panic!("one has no replica") };
        for at in PRIMARIES..cluster.nodes().len() {
            let proxy = FaultProxy::start(cluster.nodes()[at].addr()).await;
            cluster.announce(at, proxy.addr().port()).await;
            self.proxies.push(proxy);
        }
        self
    }

    /// What a figure says of it after the number of its promise.
    pub(crate) fn name(&self) -> &'static str {
        match self.servers {
            Servers::One(_) => "",
            Servers::Cluster(_) => " cluster",
        }
    }

    /// The URL for a client, behind the proxies if there are some.
    pub(crate) fn url(&self) -> String {
        match (&self.servers, &self.proxies[..]) {
            (Servers::One(server), []) => server.url(),
            (Servers::Cluster(cluster), []) => cluster.url(),
            // Of which the primaries tell.
            (Servers::Cluster(cluster), _) if cluster.nodes().len() > PRIMARIES => cluster.url(),
            (Servers::One(_), proxies) => proxies[0].url(),
            (Servers::Cluster(_), proxies) => {
                let all: Vec<_> = proxies.iter().map(|one| one.addr().to_string()).collect();
                // With the login of a proxy's URL, if it has one.
                let login = proxies[0].url();
                let login = login.trim_start_matches("redis://");
                let login = login.trim_end_matches(all[0].as_str());
                format!("redis+cluster://{login}{}", all.join(","))
            }
        }
    }

    pub(crate) async fn client(&self) -> CacheClient {
        CacheClient::connect(self.url()).await.unwrap()
    }

    /// All servers, the primaries first.
    fn servers(&self) -> &[RedisServer] {
        match &self.servers {
            Servers::One(server) => std::slice::from_ref(server),
            Servers::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// The servers that serve keys.
    pub(crate) fn nodes(&self) -> &[RedisServer] {
        let servers = self.servers();
        &servers[..servers.len().min(PRIMARIES)]
    }

    /// The number of the server of a key, unless slots were moved.
    pub(crate) fn at(&self, key: &str) -> usize {
        let (slot, nodes) = (usize::from(RedisCluster::slot(key)), self.nodes().len());
        (0..nodes).find(|at| slot < (at + 1) * 16_384 / nodes).expect("every slot is served")
    }

    /// Sends a command to the server of a key.
    pub(crate) async fn command(&self, key: &str, args: &[impl AsRef<[u8]>]) -> Resp {
        self.nodes()[self.at(key)].command(args).await
    }

    /// A connection to each server, in the order of [`nodes`](Self::nodes).
    pub(crate) async fn direct(&self) -> Vec<RawConnection> {
        let mut all = Vec::new();
        for node in self.nodes() {
            all.push(node.connect().await);
        }
        all
    }

    /// A connection to the server of a key.
    pub(crate) async fn direct_to(&self, key: &str) -> RawConnection {
        self.nodes()[self.at(key)].connect().await
    }

    /// Commands of the test's own, which go to whoever serves their key at the moment.
    pub(crate) async fn router(&self) -> Router {
        let ports = self.nodes().iter().map(|node| node.port().to_string()).collect();
        Router { connections: self.direct().await, ports, at: 0 }
    }

    /// How often all servers refused with a code.
    pub(crate) async fn refusals(&self, code: &str) -> u64 {
        let start = format!("errorstat_{code}:count=");
        let mut all = 0;
        for node in self.nodes() {
            let stats = node.command(&["INFO", "errorstats"]).await.text().unwrap();
            let count = stats.lines().find_map(|line| line.strip_prefix(&start));
            all += count.map_or(0, |count| count.parse::<u64>().unwrap());
        }
        all
    }

    /// For each server the first numbers whose keys `{prefix}{number}` it serves.
    pub(crate) fn numbers(&self, prefix: &str, each: usize) -> Vec<Vec<u64>> {
        let mut numbers = vec![Vec::new(); self.nodes().len()];
        for number in 0.. {
            if numbers.iter().all(|of_one| of_one.len() == each) {
                break;
            }
            let of_one = &mut numbers[self.at(&format!("{prefix}{number}"))];
            if of_one.len() < each {
                of_one.push(number);
            }
        }
        numbers
    }

    pub(crate) fn proxies(&self) -> &[FaultProxy] {
        &self.proxies
    }

    /// One of them after the other.
    pub(crate) fn server(&self, turn: usize) -> &RedisServer {
        &self.nodes()[turn % self.nodes().len()]
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// What moves slots, if there are nodes to move them between.
    pub(crate) async fn mover(&self) -> Option<SlotMover> {
        match &self.servers {
            Servers::One(_) => None,
            Servers::Cluster(cluster) => Some(cluster.mover().await),
        }
    }

    /// Waits until the replicas, if there are some, have all that was written before.
    pub(crate) async fn is_copied(&self) {
        if self.servers().len() == self.nodes().len() {
            return;
        }
        for (node, numbers) in self.nodes().iter().zip(self.numbers("copied:", 1)) {
            let mut direct = node.connect().await;
            let key = format!("copied:{}", numbers[0]);
            assert!(!direct.command(&["SET", &key, "1"]).await.unwrap().is_error());
            // What came before this went to the replica before it.
            let copies = direct.command(&["WAIT", "1", "20000"]).await.unwrap();
            assert_eq!(copies.int(), Some(1), "the replica does not follow");
        }
    }

    /// Ends a server at once (SIGKILL).
    pub(crate) async fn kill(&mut self, at: usize) {
        match &mut self.servers {
            Servers::One(server) => server.kill().await,
            Servers::Cluster(cluster) => cluster.kill(at).await,
        }
    }

    /// Starts a server again, and ends it before if it runs.
    pub(crate) async fn restart(&mut self, at: usize) {
        match &mut self.servers {
            Servers::One(server) => server.restart().await,
            Servers::Cluster(cluster) => cluster.restart(at).await,
        }
    }

    /// Waits until a server serves its keys: a node of a cluster that was started again refuses to for two seconds.
    pub(crate) async fn serves(&self, at: usize) {
        if !self.is_cluster() {
            return;
        }
        until("the node serves its slots", async || {
            let info = self.nodes()[at].command(&["CLUSTER", "INFO"]).await.text();
            info.is_some_and(|info| info.contains("cluster_state:ok"))
        })
        .await;
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.proxies.iter().map(FaultProxy::cuts).sum()
    }

    pub(crate) fn accepts(&self) -> u64 {
        self.proxies.iter().map(FaultProxy::accepts).sum()
    }

    pub(crate) fn connections(&self) -> usize {
        self.proxies.iter().map(FaultProxy::connections).sum()
    }
}

/// A connection to each server, and who was right the last time.
pub(crate) struct Router {
    connections: Vec<RawConnection>,
    ports: Vec<String>,
    at: usize,
}

impl Router {
    /// The answer to a command, wherever the slot of its keys is on its way to.
    pub(crate) async fn command(&mut self, args: &[impl AsRef<[u8]>]) -> Resp {
        let mut asking = false;
        loop {
            let connection = &mut self.connections[self.at];
            if std::mem::take(&mut asking) {
                connection.command(&["ASKING"]).await.unwrap();
            }
            let reply = connection.command(args).await.unwrap();
            let Resp::Error(text) = &reply else { return reply };
            // MOVED 3999 127.0.0.1:6381
            match text.split([' ', ':']).collect::<Vec<_>>()[..] {
                [code @ ("MOVED" | "ASK"), _, _, port] => {
                    let named = self.ports.iter().position(|one| one == port);
                    self.at = named.expect("it names a node");
                    asking = code == "ASK";
                }
                ["TRYAGAIN", ..] => tokio::task::yield_now().await,
                _ => return reply,
            }
        }
    }
}

/// What stands behind [`stores`]: it lives as long as they are used.
pub(crate) struct Behind {
    server: Place,
    cluster: Place,
}

/// Every store, by name: a server, a cluster, and the embedded one.
pub(crate) async fn stores() -> (Behind, [(&'static str, CacheClient); 3]) {
    let behind = Behind { server: Place::one(plain).await, cluster: Place::cluster(plain).await };
    let (server, cluster) = (behind.server.client().await, behind.cluster.client().await);
    (behind, [("Redis", server), ("cluster", cluster), ("embedded", CacheClient::memory())])
}

impl Behind {
    /// Another client of a store; of the embedded one it is the same.
    pub(crate) async fn another(&self, store: &str, cache: &CacheClient) -> CacheClient {
        match store {
            "Redis" => self.server.client().await,
            "cluster" => self.cluster.client().await,
            _ => cache.clone(),
        }
    }
}

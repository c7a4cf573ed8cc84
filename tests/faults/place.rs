//! Where calls go to: a server, or a cluster of three, behind a network that breaks.

use std::time::{Duration, Instant};

use larder::testing::{FaultProxy, RedisCluster, RedisServer, RedisServerBuilder};

/// One server or several that are a cluster, each with a proxy in front of it.
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
        let proxies = vec![FaultProxy::start(server.addr()).await];
        Self { servers: Servers::One(Box::new(server)), proxies }
    }

    /// Three primaries, whose clients are sent to the proxies.
    pub(crate) async fn cluster(set: impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        let cluster = RedisCluster::with(3, 0, set).await;
        let mut proxies = Vec::new();
        for node in cluster.nodes() {
            let proxy = FaultProxy::start(node.addr()).await;
            let port = proxy.addr().port().to_string();
            let set = ["CONFIG", "SET", "cluster-announce-port", &port];
            assert!(!node.command(&set).await.is_error());
            proxies.push(proxy);
        }
        let end = Instant::now() + Duration::from_secs(30);
        for node in cluster.nodes() {
            while !names_all(node, &proxies).await {
                assert!(Instant::now() < end, "the nodes never named the proxies");
                tokio::time::sleep(Duration::from_millis(5)).await; // the nodes tell each other
            }
        }
        Self { servers: Servers::Cluster(cluster), proxies }
    }

    /// The URL for a client behind the proxies.
    pub(crate) fn url(&self) -> String {
        match self.servers {
            Servers::One(_) => self.proxies[0].url(),
            Servers::Cluster(_) => {
                let all: Vec<_> = self.proxies.iter().map(|one| one.addr().to_string()).collect();
                format!("redis+cluster://{}", all.join(","))
            }
        }
    }

    pub(crate) fn proxies(&self) -> &[FaultProxy] {
        &self.proxies
    }

    /// One of them after the other.
    pub(crate) fn server(&self, turn: usize) -> &RedisServer {
        match &self.servers {
            Servers::One(server) => server,
            Servers::Cluster(cluster) => &cluster.nodes()[turn % cluster.nodes().len()],
        }
    }

    /// The server, if it is the only one: a node of a cluster that was started again does not know of its proxy.
    pub(crate) fn alone(&mut self) -> Option<&mut RedisServer> {
        match &mut self.servers {
            Servers::One(server) => Some(server),
            Servers::Cluster(_) => None,
        }
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

async fn names_all(node: &RedisServer, proxies: &[FaultProxy]) -> bool {
    let slots = node.command(&["CLUSTER", "SLOTS"]).await;
    let named = |proxy: &FaultProxy| {
        slots.items().iter().any(|range| {
            let port = range.items().get(2).and_then(|node| node.items().get(1)?.int());
            port == Some(proxy.addr().port().into())
        })
    };
    proxies.iter().all(named)
}

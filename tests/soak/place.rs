//! Where a soak runs: the servers, what stands in front of them, and how clients come to them.

#[path = "../tls/authority.rs"]
mod authority;

use std::net::Ipv4Addr;

use larder::testing::{FaultProxy, RedisCluster, RedisSentinels, RedisServer, Resp};
use larder::{Builder, CacheClient, Tls};

use self::authority::Authority;
use crate::common::durable;
use crate::{DEADLINE, until};

const MASTER: &str = "soak";

/// How many nodes a cluster has, replicas included: the partner of each is so many halves away.
const NODES: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    One,
    Tls,
    Cluster,
    Sentinels,
}

pub(crate) struct Place {
    pub(crate) topology: Topology,
    pub(crate) servers: Servers,
    // Two beside it, which a lock over several servers needs.
    pub(crate) others: Vec<RedisServer>,
    tls: Option<Tls>,
}

pub(crate) enum Servers {
    One { server: Box<RedisServer>, proxy: FaultProxy },
    Cluster(RedisCluster),
    Sentinels(Box<RedisSentinels>),
}

impl Topology {
    pub(crate) fn has_replicas(self) -> bool {
        matches!(self, Self::Cluster | Self::Sentinels)
    }
}

impl Place {
    /// Servers that lose nothing which they confirmed.
    pub(crate) async fn start(topology: Topology) -> Self {
        let set = |server| durable(server).arg("--maxmemory-policy").arg("noeviction");
        let mut tls = None;
        let servers = match topology {
            Topology::One => {
                let server = set(RedisServer::builder()).start().await;
                let proxy = FaultProxy::start(server.addr()).await;
                Servers::One { server: Box::new(server), proxy }
            }
            Topology::Tls => {
                let authority = Authority::new();
                let server = authority.good();
                let server = RedisServer::builder().tls(server.certificate, server.key, None);
                let server = set(server).start().await;
                tls = Some(Tls::new().ca_pem(&authority.pem));
                let port = server.tls_port().unwrap();
                let proxy = FaultProxy::start((Ipv4Addr::LOCALHOST, port).into()).await;
                Servers::One { server: Box::new(server), proxy }
            }
            Topology::Cluster => Servers::Cluster(RedisCluster::with(NODES / 2, 1, set).await),
            Topology::Sentinels => {
                // Sentinels would get the settings as well, and do not know them.
                let group = RedisSentinels::with(MASTER, |server| server).await;
                Servers::Sentinels(Box::new(group))
            }
        };
        if let Servers::Sentinels(group) = &servers {
            for server in &group.servers {
                writes_at_once(server).await;
            }
        }
        let mut others = Vec::new();
        for _ in 0..2 {
            others.push(durable(RedisServer::builder()).start().await);
        }
        Self { topology, servers, others, tls }
    }

    /// What makes a client.
    pub(crate) fn builder(&self) -> Box<dyn Fn() -> Builder + Send + Sync> {
        let url = match &self.servers {
            Servers::One { proxy, .. } if self.tls.is_some() => {
                proxy.url().replace("redis://", "rediss://")
            }
            Servers::One { proxy, .. } => proxy.url(),
            Servers::Cluster(cluster) => cluster.url(),
            Servers::Sentinels(group) => group.url(),
        };
        let tls = self.tls.clone();
        Box::new(move || {
            let builder = CacheClient::builder().url(&url).deadline(DEADLINE);
            match &tls {
                Some(tls) => builder.tls(tls.clone()),
                None => builder,
            }
        })
    }

    /// A client of each of the servers beside it.
    pub(crate) fn clients_of_others(&self) -> Vec<CacheClient> {
        let client = |server: &RedisServer| {
            CacheClient::builder().url(server.url()).deadline(DEADLINE).build().unwrap()
        };
        self.others.iter().map(client).collect()
    }

    /// Those that have or had data, replicas included.
    pub(crate) fn all(&self) -> &[RedisServer] {
        match &self.servers {
            Servers::One { server, .. } => std::slice::from_ref(server),
            Servers::Cluster(cluster) => cluster.nodes(),
            Servers::Sentinels(group) => &group.servers,
        }
    }

    /// The numbers of those that serve keys at the moment.
    pub(crate) async fn primaries(&self) -> Vec<usize> {
        let mut primaries = Vec::new();
        for (at, server) in self.all().iter().enumerate() {
            if server.info("role").await == "master" {
                primaries.push(at);
            }
        }
        primaries
    }

    /// The replica of a primary, or the other way round.
    pub(crate) fn partner(&self, at: usize) -> usize {
        (at + self.all().len() / 2) % self.all().len()
    }

    pub(crate) fn proxy(&self) -> &FaultProxy {
        let Servers::One { proxy, .. } = &self.servers else { panic!("there is no proxy here") };
        proxy
    }

    pub(crate) fn cluster(&self) -> &RedisCluster {
        let Servers::Cluster(cluster) = &self.servers else { panic!("there is no cluster here") };
        cluster
    }

    pub(crate) fn sentinels(&mut self) -> &mut RedisSentinels {
        let Servers::Sentinels(group) = &mut self.servers else { panic!("there are none here") };
        group
    }

    /// Sends a command to whoever serves a key.
    pub(crate) async fn command(&self, key: &str, args: &[&str]) -> Resp {
        match &self.servers {
            Servers::One { server, .. } => server.command(args).await,
            Servers::Cluster(cluster) => cluster.command(key, args).await,
            Servers::Sentinels(group) => group.servers[group.primary().await].command(args).await,
        }
    }

    /// Ends a server at once (SIGKILL).
    pub(crate) async fn kill(&mut self, at: usize) {
        match &mut self.servers {
            Servers::One { server, .. } => server.kill().await,
            Servers::Cluster(cluster) => cluster.kill(at).await,
            Servers::Sentinels(group) => group.servers[at].kill().await,
        }
    }

    /// Starts it again.
    pub(crate) async fn restart(&mut self, at: usize) {
        match &mut self.servers {
            Servers::One { server, .. } => server.restart().await,
            Servers::Cluster(cluster) => cluster.restart(at).await,
            Servers::Sentinels(group) => group.servers[at].restart().await,
        }
        if matches!(self.servers, Servers::Sentinels(_)) {
            writes_at_once(&self.all()[at]).await;
        }
    }

    /// Waits until all agree who serves what, and every replica follows its primary.
    pub(crate) async fn is_whole(&self) {
        if let Servers::Sentinels(group) = &self.servers {
            // Not what sentinels say of the replica, which they ask every ten seconds.
            until("the other server follows the primary that all sentinels name", async || {
                let primary = group.primary().await;
                let replica = &group.servers[1 - primary];
                let mut agree = true;
                for sentinel in &group.sentinels {
                    let named = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
                    let port = sentinel.command(&named).await.items()[1].text();
                    agree &= port == Some(group.servers[primary].port().to_string());
                }
                agree && serves(&group.servers[primary]).await && follows(replica).await
            })
            .await;
        }
        if let Servers::Cluster(cluster) = &self.servers {
            until("every replica follows", async || {
                let mut follow = 0;
                for node in cluster.nodes() {
                    follow += usize::from(follows(node).await);
                }
                follow == NODES / 2
            })
            .await;
            for part in 0..NODES as u16 / 2 {
                cluster.owner(part * 16_384 / (NODES as u16 / 2)).await;
            }
        }
    }

    /// Empties everything: nothing is under way.
    pub(crate) async fn empty(&self) {
        for at in self.primaries().await {
            let emptied = self.all()[at].command(&["FLUSHALL"]).await;
            assert_eq!(emptied, Resp::Simple("OK".into()));
        }
    }
}

/// Has a server that writes a log of what it did confirm nothing before it is on disk.
async fn writes_at_once(server: &RedisServer) {
    let set = server.command(&["CONFIG", "SET", "appendfsync", "always"]).await;
    assert_eq!(set, Resp::Simple("OK".into()));
}

async fn serves(server: &RedisServer) -> bool {
    role(server).await.items().first().and_then(Resp::text).as_deref() == Some("master")
}

/// Whether it is a replica whose primary it hears.
async fn follows(server: &RedisServer) -> bool {
    let role = role(server).await;
    let word = |at: usize| role.items().get(at).and_then(Resp::text);
    word(0).as_deref() == Some("slave") && word(3).as_deref() == Some("connected")
}

/// Nothing of one that hangs up, as a server does on everybody when its role changes.
async fn role(server: &RedisServer) -> Resp {
    server.connect().await.command(&["ROLE"]).await.unwrap_or(Resp::Nil)
}

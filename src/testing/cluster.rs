//! Real clusters: three primaries and three replicas, or as many as a test wants.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::resp::{RawConnection, Resp};
use super::server::{RedisServer, RedisServerBuilder, field_of, until};
use crate::key::{Key, SLOTS};

/// After so long without a word a node counts as gone: as short as a busy machine allows.
const NODE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A cluster of `redis-server`s of its own for a test, by default three primaries with a replica each. Dropping it stops
/// them all.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
/// use larder::testing::RedisCluster;
///
/// let cluster = RedisCluster::start().await;
/// let cache = larder::CacheClient::connect(cluster.url()).await?;
/// cache.set_value("greeting", "hello", None).await?;
/// assert_eq!(cache.get_value("greeting").await?.as_deref(), Some("hello"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RedisCluster {
    // The primaries first; each is followed by as many replicas, in the same order.
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts three primaries and three replicas, and waits until every node says that all is well.
    ///
    /// # Panics
    /// If there is no `redis-server`, or if it takes more than half a minute.
    pub async fn start() -> Self {
        Self::of(3, 1).await
    }

    /// Starts so many primaries with so many replicas each.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn of(primaries: usize, replicas: usize) -> Self {
        Self::with(primaries, replicas, |server| server).await
    }

    /// The same with settings of each server, by its number.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn with(
        primaries: usize,
        replicas: usize,
        set: impl Fn(RedisServerBuilder) -> RedisServerBuilder,
    ) -> Self {
        let timeout = NODE_TIMEOUT.as_millis().to_string();
        let start = (0..primaries * (replicas + 1)).map(|_| {
            let server = RedisServer::builder().member();
            let server = server.arg("--cluster-node-timeout").arg(&timeout);
            // No primary has so many replicas that it gives one away.
            let server = server.arg("--cluster-migration-barrier").arg("1000");
            // A replica that has heard nothing of its primary yet is not listed: by default the first word comes after ten seconds.
            let server = server.arg("--repl-ping-replica-period").arg("1");
            let mut server = set(server.arg("--repl-diskless-sync-delay").arg("0"));
            if server.speaks_tls() {
                // Among themselves as well: only then do they tell clients of those ports.
                server = server.arg("--tls-cluster").arg("yes").arg("--tls-replication").arg("yes");
            }
            server.start()
        });
        let cluster = Self { nodes: join_all(start).await };
        cluster.assign(primaries).await;
        cluster.meet().await;
        for at in primaries..cluster.nodes.len() {
            let primary = cluster.id(at % primaries).await;
            let asked = async || {
                let node = &cluster.nodes[at];
                node.command(&["CLUSTER", "REPLICATE", &primary]).await == Resp::Simple("OK".into())
            };
            // It has to have heard of its primary first.
            until("a replica knows its primary", asked).await;
        }
        cluster.is_well(primaries).await;
        cluster
    }

    /// Slots and, so that nobody has to vote, distinct epochs.
    async fn assign(&self, primaries: usize) {
        for (at, node) in self.nodes.iter().enumerate() {
            ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await;
        }
        for (at, node) in self.nodes[..primaries].iter().enumerate() {
            node.take_slots(at * SLOTS / primaries..(at + 1) * SLOTS / primaries).await;
        }
    }

    async fn meet(&self) {
        let first = &self.nodes[0];
        for node in &self.nodes[1..] {
            let port = node.tls_port().unwrap_or(node.port()).to_string();
            let bus = node.bus_port().to_string();
            ok(first, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
    }

    /// Waits until every node that runs knows every other, and sees all slots served by the right ones.
    async fn is_well(&self, primaries: usize) {
        let known = self.nodes.len().to_string();
        until("the cluster is complete", async || {
            for node in self.nodes.iter().filter(|node| node.runs()) {
                let info = node.command(&["CLUSTER", "INFO"]).await.text().unwrap_or_default();
                let replicas = node.command(&["CLUSTER", "SLOTS"]).await;
                let each = self.nodes.len() / primaries + 2;
                let well = field_of(&info, "cluster_state") == Some("ok")
                    && field_of(&info, "cluster_known_nodes") == Some(&known)
                    && replicas.items().iter().all(|range| range.items().len() == each);
                if !well {
                    return false;
                }
            }
            true
        })
        .await;
        for node in &self.nodes[primaries..] {
            until("a replica has all data", async || node.info("master_link_status").await == "up")
                .await;
        }
    }

    /// The URL for a client: all nodes, so that some may be down.
    pub fn url(&self) -> String {
        let places: Vec<_> = self.nodes.iter().map(|node| node.addr().to_string()).collect();
        format!("redis+cluster://{}{}", self.nodes[0].login(), places.join(","))
    }

    /// The URL for a client that speaks TLS, with this name for the host of every node.
    ///
    /// # Panics
    /// If the servers do not.
    pub fn tls_url(&self, host: &str) -> String {
        let ports = self.nodes.iter().map(|node| node.tls_port().expect("the servers speak TLS"));
        let places: Vec<_> = ports.map(|port| format!("{host}:{port}")).collect();
        format!("rediss+cluster://{}", places.join(","))
    }

    /// Its nodes: the primaries first, as they were at the start.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Ends a node at once (SIGKILL).
    ///
    /// # Panics
    /// If it was killed before.
    pub async fn kill(&mut self, at: usize) {
        self.nodes[at].kill().await;
    }

    /// Starts a node again, and waits until it answers.
    ///
    /// # Panics
    /// As [`RedisServer::restart`].
    pub async fn restart(&mut self, at: usize) {
        self.nodes[at].restart().await;
    }

    /// Has a node tell clients of another port than its own, that of a proxy in front of it: now, and when it is started again.
    /// Returns when all nodes that run tell of it. A primary's replicas go through there as well.
    ///
    /// # Panics
    /// If they do not within half a minute.
    pub async fn announce(&mut self, at: usize, port: u16) {
        self.nodes[at].announce(port).await;
        let nodes: Vec<_> = self.nodes.iter().filter(|node| node.runs()).collect();
        until("the nodes tell of a port", async || {
            for node in &nodes {
                let info = node.command(&["CLUSTER", "INFO"]).await.text().unwrap_or_default();
                let slots = node.command(&["CLUSTER", "SLOTS"]).await;
                let tells = slots.items().iter().flat_map(|range| range.items().iter().skip(2));
                let mut ports = tells.filter_map(|node| node.items().get(1)?.int());
                let tells = ports.any(|told| told == i64::from(port));
                if !tells || field_of(&info, "cluster_state") != Some("ok") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Who serves a slot, as the nodes that run say, once they agree.
    ///
    /// # Panics
    /// If they do not within half a minute.
    pub async fn owner(&self, slot: u16) -> usize {
        let mut owner = 0;
        until("the nodes agree on who serves a slot", async || {
            let mut all = Vec::new();
            for node in self.nodes.iter().filter(|node| node.runs()) {
                all.push(self.owner_by(node, slot).await);
            }
            match all[..] {
                [Some(first), ..] if all.iter().all(|one| *one == Some(first)) => {
                    owner = first;
                    true
                }
                _ => false,
            }
        })
        .await;
        owner
    }

    /// Who serves a slot, as one node says.
    async fn owner_by(&self, node: &RedisServer, slot: u16) -> Option<usize> {
        let slots = node.command(&["CLUSTER", "SLOTS"]).await;
        let slot = i64::from(slot);
        let range = slots.items().iter().find(|range| match range.items() {
            [Resp::Int(from), Resp::Int(to), ..] => (*from..=*to).contains(&slot),
            _ => false,
        })?;
        let port = range.items().get(2)?.items().get(1)?.int()?;
        self.nodes.iter().position(|node| i64::from(node.told_port()) == port)
    }

    /// The slot of a key.
    ///
    /// # Panics
    /// If the key is empty.
    pub fn slot(key: impl AsRef<[u8]>) -> u16 {
        Key::new(key).expect("a key is not empty").slot()
    }

    /// Sends a command to whoever serves the key.
    ///
    /// # Panics
    /// As [`RedisServer::command`].
    pub async fn command(&self, key: impl AsRef<[u8]>, args: &[impl AsRef<[u8]>]) -> Resp {
        let owner = self.owner(Self::slot(key)).await;
        self.nodes[owner].command(args).await
    }

    /// Has a replica take over from its primary, who stays (`CLUSTER FAILOVER`), and waits until it has.
    ///
    /// # Panics
    /// If it does not within half a minute.
    pub async fn fail_over_to(&self, replica: usize) {
        let node = &self.nodes[replica];
        let mut asked = None;
        until("a replica takes over", async || {
            if node.info("role").await == "master" {
                return true;
            }
            // A primary is voted out once in twice the node timeout: then the request lapses, and has to be made again.
            if asked.is_none_or(|asked: Instant| asked.elapsed() > NODE_TIMEOUT * 2) {
                ok(node, &["CLUSTER", "FAILOVER"]).await;
                asked = Some(Instant::now());
            }
            false
        })
        .await;
    }

    /// Waits until a node is a primary.
    ///
    /// # Panics
    /// If it is not within half a minute.
    pub async fn is_primary(&self, at: usize) {
        until("a replica takes over", async || self.nodes[at].info("role").await == "master").await;
    }

    /// The sum of a number over all nodes that run, out of a section of `INFO`: `errorstat_MOVED` and its `count`.
    ///
    /// # Panics
    /// As [`RedisServer::command`].
    pub async fn refusals(&self, code: &str) -> u64 {
        let mut sum = 0;
        for node in self.nodes.iter().filter(|node| node.runs()) {
            let info = node.command(&["INFO", "errorstats"]).await.text().unwrap_or_default();
            let count = field_of(&info, &format!("errorstat_{code}"))
                .and_then(|line| line.strip_prefix("count=")?.parse::<u64>().ok());
            sum += count.unwrap_or(0);
        }
        sum
    }

    /// What moves slots from node to node.
    ///
    /// # Panics
    /// If a node cannot be reached.
    pub async fn mover(&self) -> SlotMover {
        let mut nodes = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.runs() {
                nodes.push(Reached {
                    at,
                    id: self.id(at).await,
                    port: node.port(),
                    connection: node.connect().await,
                });
            }
        }
        SlotMover { nodes }
    }

    async fn id(&self, at: usize) -> String {
        let id = self.nodes[at].command(&["CLUSTER", "MYID"]).await;
        id.text().expect("a node of a cluster has an identifier")
    }
}

/// Moves slots with their keys, as `redis-cli --cluster reshard` does, over connections that stay.
#[derive(Debug)]
pub struct SlotMover {
    nodes: Vec<Reached>,
}

#[derive(Debug)]
struct Reached {
    at: usize,
    id: String,
    port: u16,
    connection: RawConnection,
}

impl SlotMover {
    /// Moves a slot from one node to another, both by their numbers, with all of its keys. Answers how many keys went.
    ///
    /// # Panics
    /// If a node refuses or is gone.
    pub async fn move_slot(&mut self, slot: u16, from: usize, to: usize) -> u64 {
        self.open(slot, from, to).await;
        let mut moved = 0;
        loop {
            match self.move_keys(slot, from, to, 20).await {
                0 => break,
                keys => moved += keys,
            }
        }
        self.close(slot, from, to).await;
        moved
    }

    /// The first step: keys that are missing are asked for at the new node from here on.
    ///
    /// # Panics
    /// As [`move_slot`](Self::move_slot).
    pub async fn open(&mut self, slot: u16, from: usize, to: usize) {
        let (slot, source, target) = (slot.to_string(), self.id(from), self.id(to));
        self.ok(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]).await;
        self.ok(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]).await;
    }

    /// Moves at most so many keys of a slot that is [`open`](Self::open). Answers how many.
    ///
    /// # Panics
    /// As [`move_slot`](Self::move_slot).
    pub async fn move_keys(&mut self, slot: u16, from: usize, to: usize, most: u32) -> u64 {
        let (slot, most) = (slot.to_string(), most.to_string());
        let keys = self.send(from, &["CLUSTER", "GETKEYSINSLOT", &slot, &most]).await;
        let keys: Vec<Bytes> = keys
            .items()
            .iter()
            .filter_map(|key| match key {
                Resp::Bulk(key) => Some(key.clone()),
                _ => None,
            })
            .collect();
        if keys.is_empty() {
            return 0;
        }
        let port = self.nodes.iter().find(|node| node.at == to).map_or(0, |node| node.port);
        let mut command: Vec<Bytes> =
            ["MIGRATE", "127.0.0.1", &port.to_string(), "", "0", "5000", "KEYS"]
                .iter()
                .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                .collect();
        command.extend(keys.iter().cloned());
        let moved = self.send(from, &command).await;
        assert!(!moved.is_error(), "keys could not be moved: {moved}");
        keys.len() as u64
    }

    /// The last step: the slot is the new node's.
    ///
    /// # Panics
    /// As [`move_slot`](Self::move_slot).
    pub async fn close(&mut self, slot: u16, from: usize, to: usize) {
        let (slot, target) = (slot.to_string(), self.id(to));
        self.has_heard_of(to, from).await;
        // The new one first, so that no node sends to one that sends back.
        self.ok(to, &["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
        self.ok(from, &["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await;
    }

    /// Waits until a node has heard of another's last claim. A node that takes a slot without knowing how new the claim of its
    /// owner is may claim it with an older epoch: then it gives the slot back as soon as it hears, and nobody serves it.
    async fn has_heard_of(&mut self, node: usize, of: usize) {
        let claim = self.epoch(of, "cluster_my_epoch").await;
        until("a node hears of another's claim", async || {
            self.epoch(node, "cluster_current_epoch").await >= claim
        })
        .await;
    }

    async fn epoch(&mut self, at: usize, name: &str) -> u64 {
        let info = self.send(at, &["CLUSTER", "INFO"]).await.text().unwrap_or_default();
        field_of(&info, name).and_then(|epoch| epoch.parse().ok()).expect("a node has an epoch")
    }

    fn id(&self, at: usize) -> String {
        self.nodes.iter().find(|node| node.at == at).expect("the node ran at first").id.clone()
    }

    async fn send(&mut self, at: usize, args: &[impl AsRef<[u8]>]) -> Resp {
        let node = self.nodes.iter_mut().find(|node| node.at == at).expect("the node ran at first");
        node.connection.command(args).await.expect("the node answers")
    }

    async fn ok(&mut self, at: usize, args: &[&str]) {
        let reply = self.send(at, args).await;
        assert_eq!(reply, Resp::Simple("OK".into()), "{}", args.join(" "));
    }
}

async fn ok(node: &RedisServer, args: &[&str]) {
    let reply = node.command(args).await;
    assert_eq!(reply, Resp::Simple("OK".into()), "{}", args.join(" "));
}

//! The nodes that are known, each with its connections, and the bound on all of them.

use std::sync::Arc;

use tokio::time::Instant;

use super::node::{Node, OF_A_REPLICA, Share};
use super::scan::NUMBERS;
use super::{Cluster, closed, refusal, topology};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::redis::failure;
use crate::store::redis::told::check_prefix;
use crate::store::url::{Address, ReadPreference, RedisTarget};

/// The nodes of this client.
#[derive(Default)]
pub(super) struct Known {
    // By number; empty places are of nodes that are gone.
    nodes: Vec<Option<Arc<Node>>>,
    // Those that every node tells of.
    prefixes: Vec<Arc<str>>,
    // Replicas that may be read from.
    readers: Vec<Arc<Node>>,
    // Among how many primaries the connections were split, and how many were left to replicas.
    split: (usize, usize),
    closed: bool,
}

impl Known {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.iter().flatten()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.nodes().for_each(|node| node.close());
        self.readers.iter().for_each(|node| node.close());
    }

    /// How many connections the nodes have, or will when they are used.
    fn open(&self) -> usize {
        self.nodes().map(|node| node.share.open(self.prefixes.len())).sum()
    }

    /// How many connections the nodes may have.
    fn used(&self) -> usize {
        self.nodes().map(|node| node.share.all()).fold(0, usize::saturating_add)
    }

    fn find(&self, address: &Address) -> Option<&Arc<Node>> {
        self.nodes().find(|node| node.address() == address)
    }

    /// A number that no node has. New ones are larger, so that a scan comes to them.
    fn number(&self) -> Option<u16> {
        let new = (self.nodes.len() < NUMBERS).then_some(self.nodes.len());
        new.or_else(|| self.nodes.iter().position(Option::is_none)).map(|number| number as u16)
    }
}

impl Cluster {
    /// Makes room for `primaries`, and lets go of those that do not stay, which it answers. Of a bounded number of
    /// connections each has another share when there are more or fewer of them: then none stays.
    pub(super) fn make_room(
        &self,
        known: &mut Known,
        primaries: usize,
        readers: usize,
        stays: impl Fn(&Node) -> bool,
    ) -> Vec<Arc<Node>> {
        let split = (primaries, readers);
        let splits = self.most < usize::MAX && known.split != split;
        known.split = split;
        let leaves = |place: &mut Option<Arc<Node>>| place.take_if(|node| splits || !stays(node));
        let mut gone: Vec<Arc<Node>> = known.nodes.iter_mut().filter_map(leaves).collect();
        // One that took over while the old one was there has less than its share, and gets it once there is room.
        let most = self.most_of_primaries(readers);
        let share = Share::of(primaries, self.connections, most).filter(|_| most < usize::MAX);
        if let Some(share) = share {
            let mut left = most.saturating_sub(known.used());
            for place in &mut known.nodes {
                let more = |node: &Node| share.all().saturating_sub(node.share.all());
                if let Some(node) = place.take_if(|node| (1..=left).contains(&more(node))) {
                    left -= more(&node);
                    gone.push(node);
                }
            }
        }
        gone
    }

    /// The node at an address, of `count` in all; it is made if it is new.
    pub(super) fn node(
        &self,
        known: &mut Known,
        address: &Address,
        count: usize,
    ) -> Result<Arc<Node>> {
        if let Some(node) = known.find(address) {
            return Ok(Arc::clone(node));
        }
        if known.closed {
            return Err(closed());
        }
        let most = self.most_of_primaries(known.split.1);
        let left = if most == usize::MAX { usize::MAX } else { most.saturating_sub(known.used()) };
        let share = Share::of(count, self.connections, most)
            .and_then(|share| Share::of(1, Some(share.data), left.min(share.all())))
            .ok_or_else(|| self.too_few(count))?;
        let number = known.number().ok_or_else(|| {
            Error::new(ErrorKind::Protocol, "the cluster has more nodes than can be told apart")
                .with_outcome(Outcome::NotSent)
        })?;
        let target = Arc::new(self.target(address));
        let node = Arc::new(Node::new(target, number, share, self.patience, &self.sinks));
        for prefix in &known.prefixes {
            // One for which there is no room tells of no change: nothing read from there is kept.
            _ = node.broadcast(prefix);
        }
        let number = usize::from(number);
        if number == known.nodes.len() {
            known.nodes.push(None);
        }
        known.nodes[number] = Some(Arc::clone(&node));
        Ok(node)
    }

    /// How many connections there may be beside one to each of so many replicas.
    fn most_of_primaries(&self, readers: usize) -> usize {
        if self.most == usize::MAX { usize::MAX } else { self.most.saturating_sub(readers) }
    }

    /// How many replicas are read from. None if there are too few connections for one to each beside those of the
    /// primaries.
    pub(super) fn readers(&self, primaries: usize, replicas: usize) -> usize {
        let wanted = self.template.options.read_from == Some(ReadPreference::PreferReplica);
        let fits =
            || Share::of(primaries, self.connections, self.most_of_primaries(replicas)).is_some();
        if wanted && fits() { replicas } else { 0 }
    }

    /// The replicas that may be read from, in place of those that were.
    pub(super) fn read_from(&self, known: &mut Known, replicas: &[Address]) -> Vec<Arc<Node>> {
        let old = std::mem::take(&mut known.readers);
        for address in replicas {
            if let Some(reader) = old.iter().find(|reader| reader.address() == address) {
                known.readers.push(Arc::clone(reader));
            } else {
                let mut target = self.target(address);
                target.is_replica = true;
                // No scan goes over it, so its number is never looked for.
                let number = u16::MAX;
                let (target, patience) = (Arc::new(target), self.patience);
                let node = Node::new(target, number, OF_A_REPLICA, patience, &self.sinks);
                known.readers.push(Arc::new(node));
            }
        }
        known.readers.clone()
    }

    fn too_few(&self, count: usize) -> Error {
        Error::new(
            ErrorKind::Config,
            format!(
                "max_connections is {}, and the cluster's {count} primaries need one connection each, and another one to \
                 be told of changes; raise it to at least {}",
                self.most,
                2 * count
            ),
        )
    }

    /// What a connection to a node needs to know.
    pub(super) fn target(&self, address: &Address) -> RedisTarget {
        self.template.at(address)
    }

    /// A node that another one sends on to. It has to be one that the cluster names: nobody else is told who we are.
    pub(super) async fn member(
        &self,
        address: &Address,
        by: &Arc<Node>,
        code: &str,
        end: Instant,
    ) -> Result<Arc<Node>> {
        if let Some(node) = self.known().find(address) {
            return Ok(Arc::clone(node));
        }
        let map = self.known_map();
        let count = map.as_ref().map_or(1, |map| map.nodes().len() + 1);
        if !map.is_some_and(|map| map.names(address)) {
            // One that has no slots yet is in no answer to CLUSTER SLOTS.
            let mut command = redis::cmd("CLUSTER");
            command.arg("NODES");
            let (link, mut live) = by.data(end, false).await?;
            let asked = link.asked(&live.pulse, Instant::now(), 0, false);
            let answer = live.connection.send_packed_command(&command).await;
            asked.answered();
            let answer = answer.map_err(|error| {
                // The call itself was refused.
                failure::failed(&error, true).with_outcome(Outcome::Rejected)
            })?;
            if !topology::every_address(&answer, by.address()).contains(address) {
                return Err(refusal::stranger(code));
            }
        }
        self.node(&mut self.known(), address, count)
    }

    /// As [`Store::broadcast`](crate::store::Store::broadcast): one connection to each node.
    pub(in crate::store::redis) fn broadcast(&self, prefix: &Arc<str>) -> Result<()> {
        let mut known = self.known();
        if known.prefixes.contains(prefix) {
            return Ok(());
        }
        check_prefix(known.prefixes.iter(), prefix)?;
        let more = known.nodes().count();
        if self.most.saturating_sub(known.open()) < more {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "broadcast needs one more connection to each of the cluster's {more} primaries than \
                     max_connections allows; raise it"
                ),
            ));
        }
        known.nodes().try_for_each(|node| node.broadcast(prefix))?;
        known.prefixes.push(Arc::clone(prefix));
        Ok(())
    }

    /// Whether any node tells of changes at the moment.
    pub(super) fn tells(&self) -> bool {
        self.known().nodes().any(|node| node.tells())
    }
}

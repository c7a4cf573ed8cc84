//! One node: its connections, as many as it may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::super::CONNECTIONS;
use super::super::large::at_hand;
use super::super::link::{Link, Live};
use super::super::ping::Patience;
use super::super::told::Told;
use super::super::track::Sinks;
use crate::error::Result;
use crate::op::Lane;
use crate::store::url::{Address, RedisTarget};

/// How many connections a node may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Those for data, at least one.
    pub(super) data: usize,
    /// Whether there is one that tells of changes.
    pub(super) told: bool,
    /// Those that tell by prefix.
    pub(super) prefixed: usize,
}

/// What a replica has: it answers reads, and tells of nothing.
pub(super) const OF_A_REPLICA: Share = Share { data: 1, told: false, prefixed: 0 };

impl Share {
    /// What falls to each of `nodes`, of `most` in all. Nothing if it is not even one.
    pub(super) fn of(nodes: usize, connections: Option<usize>, most: usize) -> Option<Self> {
        let nodes = nodes.max(1);
        let each = most / nodes;
        // By default as many as a single server has, so that what is small goes past what is large, if what tells of changes
        // has its own.
        let data =
            connections.map_or(CONNECTIONS.min(each.saturating_sub(2)), |all| all.div_ceil(nodes));
        let data = data.min(each.saturating_sub(1)).max(1);
        let rest = each.checked_sub(data)?;
        Some(Self { data, told: rest > 0, prefixed: rest.saturating_sub(1) })
    }

    /// How many that are while there are so many prefixes.
    pub(super) fn open(self, prefixes: usize) -> usize {
        let prefixed = if self.told { self.prefixed.min(prefixes) } else { 0 };
        self.data + usize::from(self.told) + prefixed
    }

    /// How many that can become.
    pub(super) fn all(self) -> usize {
        self.data + usize::from(self.told) + if self.told { self.prefixed } else { 0 }
    }
}

/// A node of the cluster.
pub(super) struct Node {
    target: Arc<RedisTarget>,
    /// What scans and the breaker call it: no other node of this client has it while this one is known.
    pub(super) number: u16,
    pub(super) share: Share,
    links: Vec<Link>,
    told: Option<Told>,
    born: Instant,
    // When a node without slots was asked last, in milliseconds since `born`.
    asked: AtomicU64,
    silent: AtomicBool,
}

impl Node {
    pub(super) fn new(
        target: Arc<RedisTarget>,
        number: u16,
        share: Share,
        patience: Patience,
        sinks: &Arc<Sinks>,
    ) -> Self {
        let links =
            (0..share.data).map(|_| Link::new(Arc::clone(&target), patience, None)).collect();
        let told = share.told.then(|| {
            Told::telling(Arc::clone(sinks), Arc::clone(&target), patience, share.prefixed)
        });
        let (born, asked, silent) = (Instant::now(), AtomicU64::new(0), AtomicBool::new(false));
        Self { target, number, share, links, told, born, asked, silent }
    }

    pub(super) fn address(&self) -> &Address {
        &self.target.address
    }

    /// Whether it gave no answer to the last call that ended.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// A call ended, with or without an answer.
    pub(super) fn ended(&self, answered: bool) {
        if self.is_silent() == answered {
            self.silent.store(!answered, Ordering::Relaxed);
        }
    }

    /// Whether it is a replica, and answers reads alone.
    pub(super) fn is_replica(&self) -> bool {
        self.target.is_replica
    }

    /// Whether it can be asked without waiting. If not, it is dialled for those who come later.
    pub(super) fn is_up(&self) -> bool {
        at_hand(&self.links, false).map_err(Link::dial).is_ok()
    }

    /// The connection of a lane that tells of changes.
    pub(super) fn teller(&self, lane: &Lane) -> Option<Link> {
        self.told.as_ref()?.link(lane)
    }

    /// As [`Store::broadcast`](crate::store::Store::broadcast).
    pub(super) fn broadcast(&self, prefix: &Arc<str>) -> Result<()> {
        self.told.as_ref().map_or(Ok(()), |told| told.broadcast(prefix))
    }

    /// Whether it tells of changes at the moment.
    pub(super) fn tells(&self) -> bool {
        self.told.as_ref().is_some_and(Told::is_up)
    }

    /// A slot of it is another's: what it vouched for is void.
    pub(super) fn moved(&self) {
        if let Some(told) = &self.told {
            told.moved();
        }
    }

    /// A connection for data that is up.
    pub(super) fn current(&self) -> Option<(&Link, Live)> {
        at_hand(&self.links, false).ok()
    }

    /// A connection for data, waiting for it until `end` if none is up.
    pub(super) async fn data(&self, end: Instant, large: bool) -> Result<(&Link, Live)> {
        match at_hand(&self.links, large) {
            Ok(found) => Ok(found),
            Err(link) => Ok((link, link.get(Some(end)).await?)),
        }
    }

    /// It serves something although no slot is its own yet.
    pub(super) fn lend(&self) {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.asked.store(millis.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether it did so within `time`.
    pub(super) fn lent_within(&self, time: Duration) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked > 0 && self.born.elapsed() < Duration::from_millis(asked) + time
    }

    pub(super) fn close(&self) {
        self.links.iter().for_each(Link::close);
        if let Some(told) = &self.told {
            told.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_split_and_the_bound_is_kept() {
        let of = |nodes, connections, most| {
            Share::of(nodes, Some(connections), most)
                .map(|share| (share.data, share.told, share.prefixed))
        };
        let by_default =
            |most| Share::of(3, None, most).map(|share| (share.data, share.told, share.prefixed));
        assert_eq!(by_default(usize::MAX).map(|(data, told, _)| (data, told)), Some((2, true)));
        assert_eq!(by_default(12), Some((2, true, 1)));
        assert_eq!(by_default(9), Some((1, true, 1)));
        assert_eq!(by_default(6), Some((1, true, 0)));
        assert_eq!(by_default(3), Some((1, false, 0)));
        assert_eq!(of(3, 2, usize::MAX).map(|(data, told, _)| (data, told)), Some((1, true)));
        assert_eq!(of(3, 12, usize::MAX).map(|(data, _, _)| data), Some(4));
        assert_eq!(of(3, 12, 9), Some((2, true, 0)));
        assert_eq!(of(3, 2, 9), Some((1, true, 1)));
        assert_eq!(of(3, 2, 5), Some((1, false, 0)));
        assert_eq!(of(3, 2, 2), None);
        for nodes in 1..6 {
            for most in 1..40 {
                let share = Share::of(nodes, Some(7), most);
                assert_eq!(share.is_none(), most < nodes);
                assert!(share.is_none_or(|share| share.all() * nodes <= most));
            }
        }
    }
}

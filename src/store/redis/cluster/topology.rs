//! Which node serves which slot.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redis::Value;

use super::node::Node;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::SLOTS;
use crate::store::url::{Address, address_or_name};

/// More nodes than Redis recommends a cluster to have at most; an answer with more is no answer.
const MOST_NODES: usize = 1_000;

/// A slot that nobody serves.
const NOBODY: u16 = u16::MAX;

/// What one node says of the cluster.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    /// The primaries that serve slots.
    pub(super) primaries: Vec<Address>,
    /// By slot, a place among the primaries.
    owners: Vec<u16>,
    /// Those that serve none, and take over when a primary is gone.
    pub(super) replicas: Vec<Address>,
    /// By primary, the places of its own among them.
    pub(super) replicas_of: Vec<Vec<u16>>,
}

impl View {
    /// Reads the answer to `CLUSTER SLOTS`. A node that names itself without a host is where we reached it.
    pub(super) fn read(answer: &Value, asked: &Address) -> Result<Self> {
        let mut view = Self {
            primaries: Vec::new(),
            owners: vec![NOBODY; SLOTS],
            replicas: Vec::new(),
            replicas_of: Vec::new(),
        };
        let ranges = elements(answer)?;
        if ranges.is_empty() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "no slot of the cluster is assigned to a node",
            )
            .with_outcome(Outcome::NotSent));
        }
        if ranges.len() > SLOTS {
            return Err(wrong("it has more ranges than there are slots"));
        }
        let (mut primaries, mut all_replicas) = <(Places, Places)>::default();
        let mut pairs = HashSet::new();
        for range in ranges {
            let [Value::Int(from), Value::Int(to), primary, replicas @ ..] = elements(range)?
            else {
                return Err(wrong("a range has no bounds or no node"));
            };
            let slots = 0..SLOTS as i64;
            if !slots.contains(from) || !slots.contains(to) || from > to {
                return Err(wrong("a range is not within the slots"));
            }
            let place = primaries.of(&mut view.primaries, node(primary, asked)?)?;
            for owner in &mut view.owners[*from as usize..=*to as usize] {
                if *owner != NOBODY {
                    return Err(wrong("two ranges overlap"));
                }
                *owner = place;
            }
            view.replicas_of.resize(view.primaries.len(), Vec::new());
            for replica in replicas {
                // One that is not known well enough to be named is of no use.
                if let Ok(replica) = node(replica, asked) {
                    let replica = all_replicas.of(&mut view.replicas, replica)?;
                    if pairs.insert((place, replica)) {
                        view.replicas_of[usize::from(place)].push(replica);
                    }
                }
            }
        }
        Ok(view)
    }
}

/// Where each node of a list stands. An answer can name one a million times: none of them is looked for from the start.
#[derive(Default)]
struct Places(HashMap<(String, u16), u16>);

impl Places {
    /// The place of a node in its list, to which it is added if it is new.
    fn of(&mut self, nodes: &mut Vec<Address>, node: Address) -> Result<u16> {
        let Address::Tcp { host, port } = &node else {
            return Err(wrong("a node's address is none"));
        };
        let at = match self.0.entry((host.clone(), *port)) {
            Entry::Occupied(known) => return Ok(*known.get()),
            Entry::Vacant(place) => *place.insert(nodes.len() as u16),
        };
        if nodes.len() >= MOST_NODES {
            return Err(wrong("it has more nodes than a cluster can have"));
        }
        nodes.push(node);
        Ok(at)
    }
}

fn node(value: &Value, asked: &Address) -> Result<Address> {
    let [host, Value::Int(port), ..] = elements(value)? else {
        return Err(wrong("a node has no address"));
    };
    let host = match host {
        Value::Nil => "",
        Value::BulkString(host) => {
            std::str::from_utf8(host).map_err(|_| wrong("a host is not text"))?
        }
        Value::SimpleString(host) => host,
        _ => return Err(wrong("a host is not text")),
    };
    u16::try_from(*port)
        .ok()
        .and_then(|port| address(host, port, asked))
        .ok_or_else(|| wrong("a node's address is none"))
}

/// An address as the cluster writes it: without a host, that of the node that says so.
pub(super) fn address(host: &str, port: u16, asked: &Address) -> Option<Address> {
    if port == 0 {
        return None;
    }
    match (host, asked) {
        ("", Address::Tcp { host, .. }) => Some(Address::Tcp { host: host.clone(), port }),
        ("", Address::Unix(_)) => None,
        (host, _) => {
            let host = address_or_name(host).ok()?;
            Some(Address::Tcp { host: host.to_owned(), port })
        }
    }
}

/// The addresses in the answer to `CLUSTER NODES`, which names those without slots too.
pub(super) fn every_address(answer: &Value, asked: &Address) -> Vec<Address> {
    let text = match answer {
        Value::BulkString(text) => std::str::from_utf8(text).unwrap_or_default(),
        Value::VerbatimString { text, .. } => text,
        _ => "",
    };
    let mut found = Vec::new();
    for line in text.lines().take(MOST_NODES) {
        let mut words = line.split(' ');
        let (Some(_), Some(place), Some(flags)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        // Who is not a member yet, or has no address that is known.
        if flags.split(',').any(|flag| matches!(flag, "handshake" | "noaddr")) {
            continue;
        }
        let (place, more) = place.split_once('@').unwrap_or((place, ""));
        let Some((host, port)) = place.rsplit_once(':') else { continue };
        let Ok(port) = port.parse() else { continue };
        let name = more.split(',').nth(1).filter(|name| !name.is_empty());
        found.extend(
            [Some(host), name].into_iter().flatten().filter_map(|host| address(host, port, asked)),
        );
    }
    found
}

fn elements(value: &Value) -> Result<&[Value]> {
    match value {
        Value::Array(elements) => Ok(elements),
        _ => Err(wrong("it is no list of lists")),
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the answer to CLUSTER SLOTS cannot be used: {why}"))
        .with_outcome(Outcome::NotSent)
}

/// Which node serves which slot, as far as it is known.
pub(super) struct Map {
    // By slot, a place among the nodes.
    owners: Vec<u16>,
    /// Whether nobody serves some slot.
    pub(super) has_holes: bool,
    nodes: Vec<Arc<Node>>,
    pub(super) replicas: Vec<Address>,
    // By primary, those that may be read from.
    readers: Vec<Vec<Arc<Node>>>,
}

impl Map {
    /// A view with its nodes: one for each primary, in the same order, and those of the replicas that may be read from.
    pub(super) fn of(view: View, nodes: Vec<Arc<Node>>, readers: &[Arc<Node>]) -> Self {
        let reader = |at: &u16| {
            let address = view.replicas.get(usize::from(*at))?;
            readers.iter().find(|node| node.address() == address).cloned()
        };
        let readers = view.replicas_of.iter().map(|of| of.iter().filter_map(reader).collect());
        let readers = readers.collect();
        let has_holes = view.owners.contains(&NOBODY);
        Self { owners: view.owners, has_holes, nodes, replicas: view.replicas, readers }
    }

    /// A replica of a slot that can be asked without waiting, by chance.
    pub(super) fn reader(&self, slot: u16) -> Option<&Arc<Node>> {
        let place = *self.owners.get(usize::from(slot))?;
        let readers = self.readers.get(usize::from(place)).filter(|all| !all.is_empty())?;
        let first = fastrand::usize(..readers.len());
        let mut all = readers.iter().cycle().skip(first).take(readers.len());
        all.find(|node| node.is_up())
    }

    /// Who serves a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let place = *self.owners.get(usize::from(slot))?;
        self.nodes.get(usize::from(place))
    }

    /// The primaries.
    pub(super) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The same with another owner of one slot.
    pub(super) fn with_owner(&self, slot: u16, node: &Arc<Node>) -> Self {
        let (mut owners, mut nodes) = (self.owners.clone(), self.nodes.clone());
        let place = nodes.iter().position(|known| Arc::ptr_eq(known, node)).unwrap_or_else(|| {
            nodes.push(Arc::clone(node));
            nodes.len() - 1
        });
        owners[usize::from(slot)] = place as u16;
        let (replicas, readers) = (self.replicas.clone(), self.readers.clone());
        Self { has_holes: owners.contains(&NOBODY), owners, nodes, replicas, readers }
    }

    /// Those whose slots are not all theirs any more in `new`.
    pub(super) fn losers(&self, new: &Self) -> Vec<&Arc<Node>> {
        let mut losers: Vec<&Arc<Node>> = Vec::new();
        for slot in 0..SLOTS as u16 {
            let Some(node) = self.owner(slot) else { continue };
            let kept = new.owner(slot).is_some_and(|owner| Arc::ptr_eq(owner, node));
            if !kept && !losers.iter().any(|known| Arc::ptr_eq(known, node)) {
                losers.push(node);
            }
        }
        losers
    }

    /// Whether the cluster said that there is such a node.
    pub(super) fn names(&self, address: &Address) -> bool {
        self.replicas.contains(address) || self.nodes.iter().any(|node| node.address() == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Address {
        Address::Tcp { host: "seed".into(), port: 7000 }
    }

    fn at(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    fn named(host: &str, port: i64) -> Value {
        at(Value::BulkString(host.into()), port)
    }

    fn range(from: i64, to: i64, nodes: Vec<Value>) -> Value {
        Value::Array([vec![Value::Int(from), Value::Int(to)], nodes].concat())
    }

    fn read(ranges: Vec<Value>) -> Result<View> {
        View::read(&Value::Array(ranges), &asked())
    }

    #[test]
    fn a_node_without_a_host_is_where_it_was_reached() {
        for host in [Value::Nil, Value::BulkString(Vec::new())] {
            let view =
                read(vec![range(0, 16_383, vec![at(host, 7001), named("::1", 7002)])]).unwrap();
            assert_eq!(view.primaries, [Address::Tcp { host: "seed".into(), port: 7001 }]);
            assert_eq!(view.replicas, [Address::Tcp { host: "::1".into(), port: 7002 }]);
        }
    }

    #[test]
    fn holes_are_nobodys_and_ranges_of_one_node_are_its_own() {
        let one = || vec![named("a", 1)];
        let view = read(vec![range(0, 9, one()), range(20, 29, one())]).unwrap();
        assert_eq!(view.primaries.len(), 1);
        assert_eq!((view.owners[9], view.owners[10], view.owners[20]), (0, NOBODY, 0));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let one = || vec![named("a", 1)];
        let many =
            |count: i64| (0..count).map(|slot| range(slot, slot, vec![named("a", slot + 1)]));
        let wrong = [
            vec![range(0, 10, one()), range(10, 20, vec![named("b", 1)])],
            vec![range(0, 10, one()), range(10, 20, one())],
            vec![range(-1, 10, one())],
            vec![range(0, 16_384, one())],
            vec![range(10, 9, one())],
            vec![range(0, 10, vec![])],
            vec![range(0, 10, vec![named("a", 0)])],
            vec![range(0, 10, vec![named("a", 65_536)])],
            vec![range(0, 10, vec![named("?", 1)])],
            vec![range(0, 10, vec![named("a b", 1)])],
            vec![range(0, 10, vec![at(Value::Int(1), 1)])],
            vec![range(0, 10, vec![Value::Nil])],
            vec![Value::Okay],
            many(1_001).collect(),
            (0..16_385).map(|_| range(0, 0, one())).collect(),
        ];
        for ranges in wrong {
            let error = read(ranges).unwrap_err();
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Protocol, Outcome::NotSent));
        }
        assert_eq!(read(vec![]).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(View::read(&Value::Okay, &asked()).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn every_member_with_an_address_is_named() {
        let text = "id1 10.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5\n\
                    id2 :7001@17001,db.example master - 0 0 2 connected\n\
                    id3 10.0.0.3:7002@17002 handshake - 0 0 0 connected\n\
                    id4 :0@0 master,noaddr - 0 0 0 disconnected\n\
                    nonsense";
        let found = every_address(&Value::BulkString(text.into()), &asked());
        let tcp = |host: &str, port| Address::Tcp { host: host.into(), port };
        assert_eq!(found, [tcp("10.0.0.1", 7000), tcp("seed", 7001), tcp("db.example", 7001)]);
    }
}

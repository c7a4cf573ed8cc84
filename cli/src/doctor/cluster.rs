//! What is looked at of a cluster as a whole: who serves which slots, and who could take over.

use std::collections::BTreeMap;

use larder::redis1::Value;

use super::ask::{Fact, Server, Why, items, text};
use super::finding::Finding;
use super::place::address;

const SLOTS: u16 = 16_384;

/// A cluster, as one of its nodes sees it.
pub(super) struct Layout {
    /// The primaries with their replicas, in the order of their first slots.
    pub(super) primaries: Vec<(String, Vec<String>)>,
    /// Slots that nobody serves: from, to.
    holes: Vec<(u16, u16)>,
}

impl Layout {
    /// Asks a node, of whom `host` is the name that we have for it.
    pub(super) async fn ask(server: &mut Server, host: &str) -> Fact<Self> {
        let answer = server.ask(&["CLUSTER", "SLOTS"]).await?;
        Self::read(&answer, host).ok_or_else(|| Why::Unreadable("CLUSTER SLOTS".to_owned()))
    }

    fn read(answer: &Value, host: &str) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut served: Vec<(u16, u16)> = Vec::new();
        let mut primaries: BTreeMap<u16, (String, Vec<String>)> = BTreeMap::new();
        for range in ranges {
            let [from, to, primary, replicas @ ..] = items(range) else { return None };
            let slot = |value: &Value| text(value)?.parse::<u16>().ok().filter(|at| *at < SLOTS);
            let (from, to) = (slot(from)?, slot(to)?);
            served.push((from, to));
            let primary = node(primary, host)?;
            let replicas =
                replicas.iter().map(|one| node(one, host)).collect::<Option<Vec<_>>>()?;
            // A node that serves several ranges is one node.
            if !primaries.values().any(|(known, _)| *known == primary) {
                primaries.insert(from, (primary, replicas));
            }
        }
        served.sort_unstable();
        let mut holes = Vec::new();
        let mut next = 0;
        for (from, to) in served {
            if from > next {
                holes.push((next, from - 1));
            }
            next = next.max(to + 1);
        }
        if next < SLOTS {
            holes.push((next, SLOTS - 1));
        }
        Some(Self { primaries: primaries.into_values().collect(), holes })
    }

    /// All of its nodes, and whether each is a primary.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, bool)> {
        self.primaries.iter().flat_map(|(primary, replicas)| {
            let replicas = replicas.iter().map(|replica| (replica.as_str(), false));
            std::iter::once((primary.as_str(), true)).chain(replicas)
        })
    }

    /// Whether every slot is served.
    pub(super) fn slots(&self) -> Finding {
        let missing: u16 = self.holes.iter().map(|(from, to)| to - from + 1).sum();
        let finding = if missing == 0 {
            let count = self.primaries.len();
            Finding::good("slots", format!("all {SLOTS} slots are served, by {count} primaries"))
        } else {
            const SHOWN: usize = 5;
            let mut ranges: Vec<String> =
                self.holes.iter().take(SHOWN).map(|(from, to)| range(*from, *to)).collect();
            if self.holes.len() > SHOWN {
                ranges.push("...".to_owned());
            }
            Finding::problem(
                "slots",
                format!("nobody serves {missing} of {SLOTS} slots: {}", ranges.join(", ")),
                "calls on their keys fail, and on all keys unless cluster-require-full-coverage is no; give them to a \
                 node: redis-cli --cluster fix",
            )
        };
        let holes: Vec<Vec<u16>> = self.holes.iter().map(|(from, to)| vec![*from, *to]).collect();
        finding
            .with("served", SLOTS - missing)
            .with("holes", holes)
            .with("primaries", self.primaries.len())
    }

    /// Whether somebody could take over from every primary.
    pub(super) fn replicas(&self) -> Finding {
        let alone: Vec<&str> = self
            .primaries
            .iter()
            .filter(|(_, replicas)| replicas.is_empty())
            .map(|(primary, _)| primary.as_str())
            .collect();
        let finding = if alone.is_empty() {
            Finding::good("replicas", "every primary has a replica")
        } else {
            Finding::advice(
                "replicas",
                format!("no replica of {}", alone.join(", ")),
                "when such a node goes, so do its slots and their data; add a replica: redis-cli --cluster add-node \
                 --cluster-slave",
            )
        };
        finding.with("without", alone)
    }
}

/// The address of a node. One that names no host is on the host that was asked.
fn node(value: &Value, asked: &str) -> Option<String> {
    let [host, port, ..] = items(value) else { return None };
    let host = text(host).filter(|host| !host.is_empty() && host != "?");
    let port: u16 = text(port)?.parse().ok()?;
    Some(address(host.as_deref().unwrap_or(asked), port))
}

fn range(from: u16, to: u16) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

/// Whether a node itself says that the cluster works.
pub(super) async fn state(server: &mut Server) -> Finding {
    let info = match server.ask(&["CLUSTER", "INFO"]).await {
        Ok(info) => text(&info).unwrap_or_default(),
        Err(why) => return Finding::unknown("cluster-state", &why.text()),
    };
    let state = info.lines().find_map(|line| line.strip_prefix("cluster_state:")).map(str::trim);
    let finding = match state {
        Some("ok") => Finding::good("cluster-state", "this node says that the cluster works"),
        Some("fail") => Finding::problem(
            "cluster-state",
            "this node says that the cluster does not work: it refuses keys (CLUSTERDOWN)",
            "look for slots that nobody serves, and for nodes that do not see most of the others",
        ),
        _ => Finding::unknown("cluster-state", "the answer to CLUSTER INFO cannot be read"),
    };
    finding.with("state", state)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn served(from: i64, to: i64, ports: &[i64]) -> Value {
        let node = |port: &i64| Value::Array(vec![bulk(""), Value::Int(*port), bulk("id")]);
        let mut range = vec![Value::Int(from), Value::Int(to)];
        range.extend(ports.iter().map(node));
        Value::Array(range)
    }

    #[test]
    fn holes_and_primaries_without_a_replica_are_found() {
        let ranges = [
            served(0, 99, &[1, 4]),
            served(200, 200, &[1, 4]),
            served(202, 16_000, &[2]),
            served(16_001, 16_383, &[3, 5]),
        ];
        let layout = Layout::read(&Value::Array(ranges.to_vec()), "::1").unwrap();
        let slots = layout.slots();
        assert_eq!(slots.state, State::Problem);
        assert!(slots.found.contains("101 of 16384 slots: 100-199, 201"), "{}", slots.found);
        assert_eq!(layout.replicas().found, "no replica of [::1]:2");
        let nodes: Vec<_> = layout.nodes().collect();
        assert_eq!(nodes.len(), 5, "{nodes:?}");
        assert_eq!(nodes[0], ("[::1]:1", true));
        assert_eq!(nodes[1], ("[::1]:4", false));
    }

    #[test]
    fn a_cluster_without_slots_is_one_great_hole() {
        let layout = Layout::read(&Value::Array(Vec::new()), "h").unwrap();
        assert!(layout.slots().found.contains("16384 of 16384 slots: 0-16383"));
        assert!(Layout::read(&Value::Array(vec![Value::Nil]), "h").is_none());
        assert!(Layout::read(&Value::Okay, "h").is_none());
        assert!(Layout::read(&Value::Array(vec![served(0, 99_999, &[1])]), "h").is_none());
    }
}

//! What the sentinels say, and whether enough of them say the same.

use std::collections::BTreeMap;

use larder::ErrorKind;
use larder::redis1::Value;

use super::ask::{Server, Why, items, text};
use super::finding::Finding;
use super::place::{Place, address};
use super::unreachable;

/// Fewer cannot lose one and still agree.
const ENOUGH: usize = 3;

/// What one sentinel says.
enum Says {
    Primary(String),
    /// It watches no primary of this name.
    Unknown,
    Nothing,
}

/// Asks all of them. The finding, and where most of them say that the primary is.
pub(super) async fn check(place: &Place<'_>, primary: &str) -> (Finding, Option<String>) {
    let mut said = Vec::new();
    let mut away = Vec::new();
    let mut no_quorum = 0;
    let mut refused = None;
    for host in place.hosts() {
        let mut server = match Server::connect(&place.sentinel(host)).await {
            Ok(server) => server,
            Err(error) => {
                // That one is there and something is wrong is worth more than that it does not answer.
                if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Tls) {
                    refused.get_or_insert(error);
                }
                away.push(host.to_owned());
                said.push(Says::Nothing);
                continue;
            }
        };
        said.push(ask(&mut server, primary).await);
        if matches!(server.ask(&["SENTINEL", "CKQUORUM", primary]).await, Err(why) if is_quorum(&why))
        {
            no_quorum += 1;
        }
    }
    let (mut finding, primary) = judge(&said, away, no_quorum);
    if let Some(error) = refused {
        finding.found = format!("{}: {}", finding.found, unreachable(&error).found);
    }
    (finding, primary)
}

fn is_quorum(why: &Why) -> bool {
    matches!(why, Why::Refused { code, .. } if code == "NOQUORUM")
}

async fn ask(server: &mut Server, primary: &str) -> Says {
    match server.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", primary]).await {
        Ok(Value::Nil) => Says::Unknown,
        Ok(answer) => {
            let part = |at: usize| items(&answer).get(at).and_then(text);
            match (part(0), part(1).and_then(|port| port.parse().ok())) {
                (Some(host), Some(port)) => Says::Primary(address(&host, port)),
                _ => Says::Nothing,
            }
        }
        Err(_) => Says::Nothing,
    }
}

fn judge(said: &[Says], away: Vec<String>, no_quorum: usize) -> (Finding, Option<String>) {
    let all = said.len();
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for one in said {
        if let Says::Primary(address) = one {
            *votes.entry(address).or_default() += 1;
        }
    }
    let unknown = said.iter().filter(|one| matches!(one, Says::Unknown)).count();
    let Some((address, agree)) = votes.iter().max_by_key(|(_, count)| **count) else {
        let finding = if unknown > 0 {
            Finding::problem(
                "sentinels",
                format!(
                    "{unknown} of {all} sentinels answer, and none watches a primary of this name"
                ),
                "check the name at the end of the URL",
            )
        } else {
            Finding::problem(
                "sentinels",
                format!("none of {all} sentinels answers"),
                "check that they run and can be reached; the port of a sentinel is 26379",
            )
        };
        return (finding.with("named", all).with("agree", 0).with("away", away), None);
    };
    let found = format!("{agree} of {all} sentinels say that {address} is the primary");
    let finding = if agree * 2 <= all {
        Finding::problem(
            "sentinels",
            found,
            "most of them have to: start those that are away, and look why the others say something else",
        )
    } else if no_quorum > 0 {
        Finding::problem(
            "sentinels",
            format!("{found}, and {no_quorum} could not get a failover through (CKQUORUM)"),
            "start sentinels that are away: a failover needs the quorum, and most of all sentinels",
        )
    } else if !away.is_empty() {
        Finding::advice(
            "sentinels",
            format!("{found}; {} did not answer", away.join(", ")),
            "start them, or take them out of the URL",
        )
    } else if *agree < all {
        Finding::advice("sentinels", found, "look what the others watch")
    } else if all < ENOUGH {
        Finding::advice(
            "sentinels",
            found,
            "name all sentinels in the URL; fewer than three cannot lose one and still agree on a failover",
        )
    } else {
        Finding::good("sentinels", found)
    };
    let finding = finding.with("named", all).with("agree", *agree).with("away", away);
    (finding.with("no_quorum", no_quorum), Some((*address).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn at(address: &str) -> Says {
        Says::Primary(address.to_owned())
    }

    #[test]
    fn most_of_the_sentinels_have_to_agree() {
        use State::{Advice, Good, Problem};
        let away = || vec!["h".to_owned()];
        type Case = (Vec<Says>, Vec<String>, usize, State, Option<&'static str>);
        let cases: Vec<Case> = vec![
            (vec![at("a:1"), at("a:1"), at("a:1")], vec![], 0, Good, Some("a:1")),
            (vec![at("a:1"), at("b:1"), at("a:1")], vec![], 0, Advice, Some("a:1")),
            (vec![at("a:1"), at("a:1"), Says::Nothing], away(), 0, Advice, Some("a:1")),
            (vec![at("a:1"), at("a:1"), at("a:1")], vec![], 1, Problem, Some("a:1")),
            (vec![at("a:1"), Says::Nothing, Says::Nothing], away(), 0, Problem, Some("a:1")),
            (vec![at("a:1")], vec![], 0, Advice, Some("a:1")),
            (vec![Says::Unknown, Says::Nothing], away(), 0, Problem, None),
            (vec![Says::Nothing], away(), 0, Problem, None),
        ];
        for (at, (said, away, no_quorum, state, primary)) in cases.into_iter().enumerate() {
            let (finding, found) = judge(&said, away, no_quorum);
            assert_eq!(
                (finding.state, found.as_deref()),
                (state, primary),
                "case {at}: {finding:?}"
            );
        }
    }
}

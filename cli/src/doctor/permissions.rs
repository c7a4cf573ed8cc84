//! What the user may do of what larder needs.

use larder::Key;

use super::ask::{Fact, Server, Why, text};
use super::finding::{Finding, State};
use super::place::Place;

/// What a part of larder sends, the commands of its scripts too, each with arguments that the server takes. `KEY` stands
/// for a key.
struct Part {
    name: &'static str,
    /// Without it there is no use in the rest.
    needed: bool,
    commands: &'static [&'static str],
}

const PARTS: [Part; 8] = [
    Part {
        name: "values",
        needed: true,
        commands: &[
            "PING",
            "GET KEY",
            "MGET KEY",
            "SET KEY v",
            "DEL KEY",
            "EXISTS KEY",
            "PTTL KEY",
            "PEXPIRE KEY 1000",
            "PERSIST KEY",
            "INCRBY KEY 1",
        ],
    },
    Part { name: "loads and locks", needed: true, commands: &["EVAL return(1) 1 KEY"] },
    Part {
        name: "guards, shared and fair locks",
        needed: false,
        commands: &[
            "TIME",
            "HSET KEY f v",
            "HGET KEY f",
            "HMGET KEY f",
            "HGETALL KEY",
            "HDEL KEY f",
            "HINCRBY KEY f 1",
        ],
    },
    Part {
        name: "hashes",
        needed: false,
        commands: &["HSET KEY f v", "HGET KEY f", "HGETALL KEY", "HDEL KEY f"],
    },
    Part {
        name: "lists",
        needed: false,
        commands: &[
            "LPUSH KEY v",
            "RPUSH KEY v",
            "LRANGE KEY 0 -1",
            "LPOP KEY",
            "RPOP KEY",
            "LREM KEY 0 v",
        ],
    },
    Part { name: "scans and listing locks", needed: false, commands: &["SCAN 0"] },
    Part { name: "transactions", needed: false, commands: &["MULTI", "EXEC"] },
    Part { name: "writes that wait for copies", needed: false, commands: &["WAIT 0 1"] },
];

/// What a cluster needs beside them.
const CLUSTER: [Part; 3] = [
    Part { name: "the cluster", needed: true, commands: &["CLUSTER SLOTS", "ASKING"] },
    Part { name: "slots that move to a new node", needed: true, commands: &["CLUSTER NODES"] },
    Part { name: "reads from replicas", needed: false, commands: &["READONLY"] },
];

/// What a primary that sentinels name needs.
const SENTINEL: [Part; 1] =
    [Part { name: "telling a primary from a replica", needed: true, commands: &["ROLE"] }];

/// How it was found out.
enum By {
    DryRun(String),
    Queue,
}

impl By {
    fn text(&self) -> &'static str {
        match self {
            Self::DryRun(_) => "ACL DRYRUN",
            Self::Queue => "MULTI and DISCARD",
        }
    }
}

/// What came of one command.
#[derive(Clone, PartialEq)]
enum May {
    Yes,
    No,
    /// The command, but not the key.
    NotTheKey,
    Unknown(Why),
}

/// What the user may do: a finding about commands and one about keys. `prefix` is what the service's keys begin with, if
/// it is known.
pub(super) async fn check(
    server: &mut Server,
    prefix: Option<&str>,
    place: &Place<'_>,
) -> Vec<Finding> {
    let by = match server.ask(&["ACL", "WHOAMI"]).await {
        Ok(user) => {
            let user = text(&user).unwrap_or_default();
            match server.ask(&["ACL", "DRYRUN", &user, "PING"]).await {
                Ok(_) => By::DryRun(user),
                Err(_) => By::Queue,
            }
        }
        Err(_) => By::Queue,
    };
    let key = format!("{}larder-doctor", prefix.unwrap_or_default());
    let more: &[Part] = match place {
        place if place.is_cluster() => &CLUSTER,
        place if place.is_sentinel() => &SENTINEL,
        _ => &[],
    };
    let parts: Vec<&Part> = PARTS.iter().chain(more).collect();
    let mut names: Vec<&'static str> = Vec::new();
    for command in parts.iter().flat_map(|part| part.commands) {
        if !names.contains(command) {
            names.push(command);
        }
    }
    let words = names.iter().map(|command| words(command, &key)).collect::<Vec<_>>();
    let may = may(server, &by, &words).await;
    let commands: Vec<(&'static str, May)> = names.iter().copied().zip(may).collect();
    let by_text = by.text();
    vec![
        of_commands(&parts, &commands).with("by", by_text),
        keys(server, &by, prefix).await.with("by", by_text),
    ]
}

fn words(command: &str, key: &str) -> Vec<String> {
    command.split(' ').map(|word| if word == "KEY" { key } else { word }.to_owned()).collect()
}

async fn may(server: &mut Server, by: &By, commands: &[Vec<String>]) -> Vec<May> {
    match by {
        By::DryRun(user) => {
            let mut all = Vec::with_capacity(commands.len());
            for command in commands {
                let mut words = vec!["ACL", "DRYRUN", user];
                words.extend(command.iter().map(String::as_str));
                all.push(dry(server.ask(&words).await));
            }
            all
        }
        By::Queue => {
            let ends = |words: &&Vec<String>| words[0] == "MULTI" || words[0] == "EXEC";
            let inner: Vec<Vec<String>> =
                commands.iter().filter(|words| !ends(words)).cloned().collect();
            let mut queued = match server.queue(&inner).await {
                Ok(all) => all.into_iter().map(of_queued),
                Err(why) => return vec![May::Unknown(why); commands.len()],
            };
            let mut all = Vec::with_capacity(commands.len());
            for words in commands {
                all.push(match words[0].as_str() {
                    // One was opened.
                    "MULTI" => May::Yes,
                    // There is none any more: it is refused for that, or before.
                    "EXEC" => of_queued(server.ask(&["EXEC"]).await.map(drop)),
                    _ => queued.next().unwrap_or(May::Unknown(Why::Silent)),
                });
            }
            all
        }
    }
}

/// It answers OK, or with a sentence that says what the user may not.
fn dry(answer: Fact<larder::redis1::Value>) -> May {
    match answer.map(|answer| text(&answer)) {
        Ok(Some(said)) if said == "OK" => May::Yes,
        Ok(Some(said)) if said.contains(" access ") => May::NotTheKey,
        Ok(_) => May::No,
        Err(why @ Why::Silent) => May::Unknown(why),
        // It knows no such command.
        Err(_) => May::No,
    }
}

fn of_queued(fact: Fact<()>) -> May {
    match fact {
        Ok(()) => May::Yes,
        Err(Why::Refused { code, for_key, .. }) if code == "NOPERM" => {
            if for_key {
                May::NotTheKey
            } else {
                May::No
            }
        }
        Err(Why::NoCommand(_)) => May::No,
        Err(why @ (Why::Silent | Why::Unreadable(_))) => May::Unknown(why),
        // What is refused for another reason (no memory, another node's key) passed the ACL before.
        Err(Why::Refused { .. }) => May::Yes,
    }
}

fn of_commands(parts: &[&Part], commands: &[(&'static str, May)]) -> Finding {
    let name = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        match words[..] {
            ["CLUSTER", second, ..] => format!("cluster|{}", second.to_ascii_lowercase()),
            _ => words[0].to_ascii_lowercase(),
        }
    };
    let which = |wanted: fn(&May) -> bool| -> Vec<String> {
        commands.iter().filter(|(_, may)| wanted(may)).map(|(command, _)| name(command)).collect()
    };
    let denied = which(|may| *may == May::No);
    let allowed = which(|may| matches!(may, May::Yes | May::NotTheKey));
    let unknown = which(|may| matches!(may, May::Unknown(_)));
    let why = commands.iter().find_map(|(_, may)| match may {
        May::Unknown(why) => Some(why.text()),
        _ => None,
    });
    let without: Vec<&&Part> = parts
        .iter()
        .filter(|part| part.commands.iter().any(|one| denied.contains(&name(one))))
        .collect();
    let mut finding = if let Some(why) = why {
        Finding::unknown("permissions", &why)
    } else if denied.is_empty() {
        Finding::good(
            "permissions",
            format!("the user may use all {} commands of larder", allowed.len()),
        )
    } else {
        let names: Vec<&str> = without.iter().map(|part| part.name).collect();
        let grants: Vec<String> = denied.iter().map(|command| format!("+{command}")).collect();
        let mut finding = Finding::advice(
            "permissions",
            format!("the user may not use {}", denied.join(", ")),
            format!(
                "needed for {}; grant it: ACL SETUSER ... {}",
                names.join("; "),
                grants.join(" ")
            ),
        );
        if without.iter().any(|part| part.needed) {
            finding.state = State::Problem;
        }
        finding
    };
    finding = finding.with("allowed", allowed).with("denied", denied);
    finding.with("not_known", unknown)
}

/// Whether the user reaches the keys of the service, and those that larder keeps beside them. Without a prefix it is known
/// of a user that reaches all keys.
async fn keys(server: &mut Server, by: &By, prefix: Option<&str>) -> Finding {
    let begin = prefix.unwrap_or_default();
    let Ok(key) = Key::new(format!("{begin}larder-doctor")) else {
        return Finding::unknown("keys", "no key can begin with this prefix");
    };
    // Their names are made by larder, so that a service's own prefix does not reach them.
    let Ok(lock) = Key::new("lock:larder-doctor") else {
        return Finding::unknown("keys", "no lock can have this name");
    };
    let wanted = [
        (format!("~{begin}*"), "SET", key.clone(), "values"),
        ("~larder:lease:*".to_owned(), "SET", key.lease(), "loads and invalidation"),
        ("~lock:*".to_owned(), "SET", lock.clone(), "named locks"),
        ("~larder:lock:*".to_owned(), "HSET", lock.lock_record(), "named locks"),
        ("~larder:fenced:*".to_owned(), "SET", key.fence(), "fenced writes"),
    ];
    let mut commands = Vec::new();
    for (_, command, key, _) in &wanted {
        let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
        let mut words = vec![(*command).to_owned(), key, "v".to_owned()];
        if *command == "HSET" {
            words.push("v".to_owned());
        }
        commands.push(words);
    }
    let may = may(server, by, &commands).await;
    let mut denied = Vec::new();
    let mut parts: Vec<&str> = Vec::new();
    for ((pattern, _, _, part), may) in wanted.iter().zip(&may) {
        match may {
            May::Yes => {}
            // Not to be told apart: the key was not looked at.
            May::No => {
                return Finding::unknown(
                    "keys",
                    "the user may not use SET and HSET, with which it is tried",
                );
            }
            May::Unknown(why) => return Finding::unknown("keys", &why.text()),
            May::NotTheKey => {
                denied.push(pattern.clone());
                if !parts.contains(part) {
                    parts.push(part);
                }
            }
        }
    }
    if !denied.is_empty() && prefix.is_none() {
        let why = "the user reaches some keys alone, and no --prefix says what those of the service begin with";
        return Finding::unknown("keys", why);
    }
    if denied.is_empty() {
        let found = "the user reaches the service's keys, and those that larder keeps beside them";
        return Finding::good("keys", found).with("denied", denied);
    }
    // Values, loads and invalidation are what everybody uses.
    let problem = may[..2].iter().any(|may| *may != May::Yes);
    let mut finding = Finding::advice(
        "keys",
        format!("the user does not reach {}", denied.join(" ")),
        format!("needed for {}; grant it: ACL SETUSER ... {}", parts.join(", "), denied.join(" ")),
    );
    if problem {
        finding.state = State::Problem;
    }
    finding.with("denied", denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(denied: &[&str]) -> (State, String) {
        let parts: Vec<&Part> = PARTS.iter().collect();
        let commands: Vec<(&'static str, May)> = PARTS
            .iter()
            .flat_map(|part| part.commands)
            .map(|one| (*one, if denied.contains(one) { May::No } else { May::Yes }))
            .collect();
        let finding = of_commands(&parts, &commands);
        (finding.state, finding.advice.unwrap_or_default())
    }

    #[test]
    fn what_is_needed_everywhere_is_a_problem_and_the_rest_is_advice() {
        assert_eq!(state(&[]), (State::Good, String::new()));
        assert_eq!(state(&["GET KEY"]).0, State::Problem);
        assert_eq!(state(&["EVAL return(1) 1 KEY"]).0, State::Problem);
        let (state, advice) = state(&["LREM KEY 0 v", "SCAN 0"]);
        assert_eq!(state, State::Advice);
        assert!(advice.contains("lists; scans") && advice.ends_with("+lrem +scan"), "{advice}");
    }

    #[test]
    fn a_script_is_one_word() {
        assert_eq!(words("EVAL return(1) 1 KEY", "k"), ["EVAL", "return(1)", "1", "k"]);
        assert_eq!(words("SET KEY v", "k k"), ["SET", "k k", "v"]);
    }

    #[test]
    fn what_is_refused_for_another_reason_is_permitted() {
        let refused = |code: &str| Why::Refused {
            command: "SET".to_owned(),
            code: code.to_owned(),
            for_key: false,
        };
        assert!(of_queued(Err(refused("OOM"))) == May::Yes);
        assert!(of_queued(Err(refused("MOVED"))) == May::Yes);
        assert!(of_queued(Err(refused("NOPERM"))) == May::No);
    }
}

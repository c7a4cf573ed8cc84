//! What a node says instead of running a command: who else does, or that it is worth asking again. Such a command was
//! not applied, whatever it is.

use redis::{ServerError, Value};

use super::super::failure;
use super::topology::address;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::SLOTS;
use crate::store::url::Address;

/// A refusal that is followed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The slot is another node's.
    Moved { slot: u16, to: Address },
    /// This key is another node's already; its slot is not yet.
    Ask { to: Address },
    /// Of several keys some are here and some are not, for as long as the slot moves.
    Split,
    /// The node serves nothing, or not that, at the moment.
    Unfit(Error),
}

impl Refusal {
    /// What an answer refuses, if it does.
    pub(super) fn within(answer: &Value, asked: &Address) -> Option<Result<Self>> {
        match answer {
            Value::ServerError(error) => Self::of(error, asked),
            _ => None,
        }
    }

    /// What an error of the server's comes to; nothing if it is an answer like others.
    pub(super) fn of(error: &ServerError, asked: &Address) -> Option<Result<Self>> {
        let text = error.details().unwrap_or_default();
        Some(match error.code() {
            "MOVED" => moved(text, asked).ok_or_else(|| senseless("MOVED")),
            "ASK" => match moved(text, asked) {
                Some(Self::Moved { to, .. }) => Ok(Self::Ask { to }),
                _ => Err(senseless("ASK")),
            },
            "TRYAGAIN" => Ok(Self::Split),
            "CLUSTERDOWN" | "MASTERDOWN" | "LOADING" | "READONLY" => {
                Ok(Self::Unfit(failure::refused(error)))
            }
            _ => return None,
        })
    }
}

/// `3999 127.0.0.1:6381`; without a host, at the node that says so.
fn moved(text: &str, asked: &Address) -> Option<Refusal> {
    let (slot, place) = text.split_once(' ')?;
    let slot = slot.parse().ok().filter(|slot| usize::from(*slot) < SLOTS)?;
    let (host, port) = place.trim_end().rsplit_once(':')?;
    let to = address(host, port.parse().ok()?, asked)?;
    Some(Refusal::Moved { slot, to })
}

/// Sent on to nowhere.
pub(super) fn senseless(code: &str) -> Error {
    Error::new(ErrorKind::Protocol, "the node sends the call on to what is no address")
        .with_outcome(Outcome::Rejected)
        .with_code(code)
}

/// Sent on to who is no member.
pub(super) fn stranger(code: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        "the node sends the call on to a host that is no node of the cluster",
    )
    .with_outcome(Outcome::Rejected)
    .with_code(code)
}

/// Sent on too often.
pub(super) fn in_circles(hops: u32) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the cluster's nodes sent the call on {hops} times, they disagree on who serves its key"
        ),
    )
    .with_outcome(Outcome::Rejected)
    .with_code("MOVED")
}

/// Nobody serves a slot.
pub(super) fn hole(slot: u16) -> Error {
    Error::new(ErrorKind::Unavailable, format!("no node of the cluster serves slot {slot}"))
        .with_outcome(Outcome::NotSent)
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn of(line: &str) -> Option<Result<Refusal>> {
        match parse_redis_value(format!("{line}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => {
                Refusal::of(&error, &Address::Tcp { host: "asked".into(), port: 1 })
            }
            other => panic!("{line} reads as {other:?}"),
        }
    }

    #[test]
    fn a_redirection_says_where_to() {
        let cases = [
            ("-MOVED 3999 127.0.0.1:6381", "127.0.0.1", 6381),
            ("-MOVED 3999 ::1:6381", "::1", 6381),
            ("-MOVED 3999 [::1]:6381", "::1", 6381),
            ("-MOVED 3999 db.example:6381", "db.example", 6381),
            ("-MOVED 3999 :6381", "asked", 6381),
        ];
        for (line, host, port) in cases {
            let expected = Address::Tcp { host: host.into(), port };
            match of(line) {
                Some(Ok(Refusal::Moved { slot: 3999, to })) => assert_eq!(to, expected, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
            match of(&line.replace("MOVED", "ASK")) {
                Some(Ok(Refusal::Ask { to })) => assert_eq!(to, expected, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_redirection_to_nowhere_is_an_error_that_says_nothing_was_applied() {
        for rest in [
            "99999 host:1",
            "1 :0",
            "1 host:0",
            "1 host:65536",
            "1 host",
            "",
            "x host:1",
            "1 ?:1",
            "1 a b:1",
        ] {
            for code in ["MOVED", "ASK"] {
                match of(&format!("-{code} {rest}")) {
                    Some(Err(error)) => {
                        assert_eq!(error.kind(), ErrorKind::Protocol, "{rest}");
                        assert_eq!(error.outcome(), Outcome::Rejected, "{rest}");
                        assert_eq!(error.code(), Some(code));
                    }
                    other => panic!("{code} {rest}: {other:?}"),
                }
            }
        }
        assert!(of("-WRONGTYPE Operation against a key").is_none());
    }
}

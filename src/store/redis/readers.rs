//! What reads a server's bytes, each by itself and without a server: for the targets of `fuzz/`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{PushInfo, Value, parse_redis_value};

use super::track::{Sinks, Tracker};
use super::{cluster, failure, reply, sentinel};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::op::{Ask, Batch, LockMode, Op, Presence, Replies};
use crate::store::InvalidationSink;
use crate::ttl::Expiry;

/// One operation of each kind of answer.
fn operations() -> Vec<Op> {
    let key = Key::new("k").unwrap_or_else(|_| unreachable!("it is not empty"));
    let expiry =
        Expiry::new(Duration::from_secs(1)).unwrap_or_else(|_| unreachable!("it is not zero"));
    let text = Bytes::from_static(b"text");
    let one = || key.clone();
    vec![
        Op::Ping,
        Op::Get { key: one() },
        Op::GetMany { keys: vec![one(), one()] },
        Op::Set { key: one(), value: text.clone(), expiry: None, only_if: Some(Presence::Absent) },
        Op::Set { key: one(), value: text.clone(), expiry: None, only_if: None },
        Op::IncrBy { key: one(), delta: 1 },
        Op::Exists { key: one() },
        Op::Ttl { key: one() },
        Op::HashGetAll { key: one() },
        Op::ListRange { key: one(), start: 0, stop: -1 },
        Op::Scan { cursor: 0, prefix: text.clone(), count: 1 },
        Op::Fetch { keys: vec![one()] },
        Op::Fetch { keys: vec![one(), one()] },
        Op::Lease { key: one(), token: text.clone(), expiry, ask: Ask::Missing },
        Op::Fill {
            key: one(),
            token: text.clone(),
            value: text.clone(),
            expiry: None,
            replaces: None,
        },
        Op::Lock { key: one(), id: text, expiry, mode: LockMode::Shared { most: 2 } },
    ]
}

/// Whether the driver takes the bytes for one reply.
pub(crate) fn is_reply(bytes: &[u8]) -> bool {
    parse_redis_value(bytes).is_ok()
}

/// The bytes of one reply as the answer to each kind of operation, alone, among others and in a transaction.
pub(crate) fn replies(bytes: &[u8], mut answered: impl FnMut(Result<Replies>)) {
    let value = match parse_redis_value(bytes) {
        Ok(value) => value,
        Err(error) => return answered(Err(failure::failed(&error, true))),
    };
    for op in operations() {
        let batch = Batch::one("fuzz", op);
        // As many answers as the operation has commands, out of the reply itself if it is a list.
        if let Value::Array(values) = &value {
            answered(reply::separate(&batch, values.clone()));
        }
        answered(reply::transaction(&batch, vec![value.clone()]));
        answered(reply::separate(&batch, vec![value.clone()]));
    }
}

/// The bytes of one reply as what nodes and sentinels say of each other, and of where to go. Answers what was refused.
pub(crate) fn topology(bytes: &[u8]) -> Vec<Error> {
    let Ok(value) = parse_redis_value(bytes) else { return Vec::new() };
    let mut refused = cluster::read_all(&value);
    refused.extend(sentinel::read_all(value).err());
    refused
}

/// The bytes of pushes, one behind the other, told to `sink`. Answers how many there were, and whether the connection
/// still vouches for anything.
pub(crate) fn pushes(bytes: &[u8], sink: Arc<dyn InvalidationSink>) -> (usize, bool) {
    let sinks = Arc::<Sinks>::default();
    sinks.add(sink);
    let tracker = Tracker::new(sinks);
    let mut told = 0;
    for part in bytes.split_inclusive(|byte| *byte == b'\x1e') {
        let part = part.strip_suffix(b"\x1e").unwrap_or(part);
        if let Ok(Value::Push { kind, data }) = parse_redis_value(part) {
            tracker.pushed(&PushInfo { kind, data });
            told += 1;
        }
    }
    (told, tracker.vouch().holds())
}

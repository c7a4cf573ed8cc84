//! Redis' answers as replies. The driver's own conversions are not used: their errors print values.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::command::width;
use super::failure;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Batch, Fetched, LeaseState, Leased, Locked, Op, Replies, Reply};
use crate::ttl::Ttl;

/// The answers to a batch that is not atomic.
pub(super) fn separate(batch: &Batch, values: Vec<Value>) -> Result<Replies> {
    if values.len() != batch.ops().iter().map(width).sum::<usize>() {
        return Err(unexpected());
    }
    let mut values = values.into_iter();
    let answers = batch.ops().iter().map(|op| answer(op, &mut values));
    Ok(Replies::many(answers.collect()))
}

/// The answer to an operation, out of those to its commands.
pub(super) fn answer(op: &Op, values: &mut impl Iterator<Item = Value>) -> Result<Reply> {
    match op {
        Op::Fetch { keys } => {
            let times: Vec<Value> = values.by_ref().take(keys.len()).collect();
            fetched(times, values.next().unwrap_or(Value::Nil))
        }
        op => decode(op, values.next().unwrap_or(Value::Nil)),
    }
}

/// The answers to an atomic batch: what EXEC gave.
pub(super) fn transaction(batch: &Batch, mut values: Vec<Value>) -> Result<Replies> {
    match (values.pop(), values.is_empty()) {
        (Some(Value::Array(replies)), true) => separate(batch, replies),
        (Some(Value::ServerError(error)), true) => Err(failure::refused(&error)),
        _ => Err(unexpected()),
    }
}

/// The answers to a read with times.
fn fetched(times: Vec<Value>, found: Value) -> Result<Reply> {
    if let Value::ServerError(error) = &found {
        return Err(failure::refused(error));
    }
    let values = if times.len() == 1 { vec![found] } else { elements(found)? };
    if values.len() != times.len() {
        return Err(unexpected());
    }
    let pairs = times.iter().zip(values).map(|(time, value)| pair(time, value));
    Ok(Reply::Fetched(pairs.collect::<Result<_>>()?))
}

fn pair(time: &Value, value: Value) -> Result<Fetched> {
    if let Value::ServerError(error) = time {
        return Err(failure::refused(error));
    }
    let ttl = Ttl::from_millis(integer(time)?);
    Ok(match optional(value)? {
        // Gone since its time was read, or of another type.
        None => Fetched::MISSING,
        // Written since its time was read: whoever keeps it is told of that.
        Some(value) if ttl == Ttl::Missing => {
            Fetched { value: Some(value), ttl: Ttl::Remaining(Duration::ZERO) }
        }
        Some(value) => Fetched { value: Some(value), ttl },
    })
}

fn leased(value: Value) -> Result<Leased> {
    let mut parts = elements(value)?.into_iter();
    let (Some(value), Some(left), Some(state), Some(more), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(unexpected());
    };
    let found = pair(&left, value)?;
    let lease = match integer(&state)? {
        0 => LeaseState::NotAsked,
        1 => LeaseState::Granted { digest: Some(bytes(more)?).filter(|_| found.value.is_some()) },
        _ => LeaseState::held(Ttl::from_millis(integer(&more)?)),
    };
    Ok(Leased { found, lease })
}

fn locked(value: Value) -> Result<Locked> {
    let mut parts = elements(value)?.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Value::Int(1)), None, None) => Ok(Locked::Taken { token: None }),
        (Some(Value::Int(1)), Some(token), None) => {
            let token = std::str::from_utf8(&bytes(token)?).ok().and_then(|text| text.parse().ok());
            Ok(Locked::Taken { token: Some(token.ok_or_else(unexpected)?) })
        }
        (Some(Value::Int(0)), Some(left), None) => {
            Ok(Locked::held(Ttl::from_millis(integer(&left)?)))
        }
        _ => Err(unexpected()),
    }
}

fn filled(value: Value) -> Result<Reply> {
    let mut parts = elements(value)?.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Value::Int(1)), None, None) => {
            Ok(Reply::Filled { accepted: true, found: Fetched::MISSING })
        }
        (Some(Value::Int(0)), Some(value), Some(left)) => {
            Ok(Reply::Filled { accepted: false, found: pair(&left, value)? })
        }
        _ => Err(unexpected()),
    }
}

/// The answer to one operation.
pub(super) fn decode(op: &Op, value: Value) -> Result<Reply> {
    if let Value::ServerError(error) = &value {
        return Err(failure::refused(error));
    }
    match op {
        Op::Ping | Op::Overwrite { .. } => done(value),
        Op::Fetch { .. } => Err(unexpected()),
        Op::Lease { .. } => leased(value).map(Box::new).map(Reply::Leased),
        Op::Fill { .. } => filled(value),
        Op::Lock { .. } => locked(value).map(Reply::Locked),
        Op::Get { .. } | Op::HashGet { .. } | Op::ListPop { .. } => {
            optional(value).map(Reply::Value)
        }
        Op::GetMany { keys } => {
            let values = elements(value)?.into_iter().map(optional).collect::<Result<Vec<_>>>()?;
            if values.len() != keys.len() {
                return Err(unexpected());
            }
            Ok(Reply::Values(values))
        }
        // SET answers nil when its condition did not hold, and only then.
        Op::Set { only_if, .. } => match value {
            Value::Nil if only_if.is_some() => Ok(Reply::Bool(false)),
            value => done(value).map(|_| Reply::Bool(true)),
        },
        Op::IncrBy { .. }
        | Op::Delete { .. }
        | Op::ListPush { .. }
        | Op::ListRemove { .. }
        | Op::Replicated { .. } => integer(&value).map(Reply::Int),
        Op::Exists { .. }
        | Op::Expire { .. }
        | Op::Persist { .. }
        | Op::HashSet { .. }
        | Op::HashDelete { .. }
        | Op::Acquire { .. }
        | Op::Renew { .. }
        | Op::Extend { .. }
        | Op::Unlock { .. }
        | Op::FencedSet { .. }
        | Op::Release { .. } => integer(&value).map(|number| Reply::Bool(number > 0)),
        Op::Ttl { .. } => integer(&value).map(Ttl::from_millis).map(Reply::Ttl),
        Op::HashGetAll { .. } => pairs(value).map(Reply::Pairs),
        Op::ListRange { .. } => list(value).map(Reply::List),
        Op::Scan { .. } => {
            let mut parts = elements(value)?.into_iter();
            let (Some(cursor), Some(keys), None) = (parts.next(), parts.next(), parts.next())
            else {
                return Err(unexpected());
            };
            let cursor = std::str::from_utf8(&bytes(cursor)?)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(unexpected)?;
            Ok(Reply::Keys { cursor, keys: list(keys)? })
        }
    }
}

fn done(value: Value) -> Result<Reply> {
    match value {
        Value::SimpleString(text) if text == "QUEUED" => Err(unexpected()),
        Value::Okay | Value::SimpleString(_) => Ok(Reply::Done),
        _ => Err(unexpected()),
    }
}

fn integer(value: &Value) -> Result<i64> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => Err(unexpected()),
    }
}

fn bytes(value: Value) -> Result<Bytes> {
    match value {
        Value::BulkString(bytes) => Ok(Bytes::from(bytes)),
        // A session left in the middle of somebody's transaction: a status, never a value.
        Value::SimpleString(text) if text != "QUEUED" => Ok(Bytes::from(text)),
        Value::VerbatimString { text, .. } => Ok(Bytes::from(text)),
        // What the driver makes of the status `OK`, which a script may store.
        Value::Okay => Ok(Bytes::from_static(b"OK")),
        _ => Err(unexpected()),
    }
}

fn optional(value: Value) -> Result<Option<Bytes>> {
    match value {
        Value::Nil => Ok(None),
        value => bytes(value).map(Some),
    }
}

fn elements(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(elements) | Value::Set(elements) => Ok(elements),
        _ => Err(unexpected()),
    }
}

fn list(value: Value) -> Result<Vec<Bytes>> {
    elements(value)?.into_iter().map(bytes).collect()
}

/// RESP3 answers a map, RESP2 a flat list.
fn pairs(value: Value) -> Result<Vec<(Bytes, Bytes)>> {
    match value {
        Value::Map(pairs) => {
            pairs.into_iter().map(|(field, value)| Ok((bytes(field)?, bytes(value)?))).collect()
        }
        value => {
            let mut flat = list(value)?.into_iter();
            let mut pairs = Vec::with_capacity(flat.len() / 2);
            while let Some(field) = flat.next() {
                pairs.push((field, flat.next().ok_or_else(unexpected)?));
            }
            Ok(pairs)
        }
    }
}

pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::Protocol, "the server's answer does not fit the command")
}

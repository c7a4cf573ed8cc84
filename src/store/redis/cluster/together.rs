//! What the pieces of a batch come to together.

use redis::Value;

use super::super::{failure, reply};
use super::piece::{Part, Piece};
use super::refusal::Refusal;
use crate::error::{ErrorKind, Outcome, Result};
use crate::op::{Batch, Fetched, Op, Replies, Reply, Vouch};
use crate::store::url::Address;

/// What the answers to MULTI, the commands and EXEC come to: a refusal, or the result.
pub(super) fn answer_to_all(
    batch: &Batch,
    mut values: Vec<Value>,
    asked: &Address,
) -> Result<Result<Replies>, Result<Refusal>> {
    let exec = values.pop().unwrap_or(Value::Nil);
    if let Some(Value::ServerError(error)) = values.first() {
        return Ok(Err(failure::without_multi(error)));
    }
    match exec {
        Value::Array(answers) => Ok(reply::separate(batch, answers)),
        Value::ServerError(error) => {
            // EXEC itself is refused if the slot moved since; else one of the commands says why.
            let mut all = values.iter().enumerate().skip(1);
            let first = all.find_map(|(at, value)| match value {
                Value::ServerError(error) => Some((at, error)),
                _ => None,
            });
            let why = first.map_or(&error, |(_, error)| error);
            if let Some(refusal) = Refusal::of(why, asked) {
                return Err(refusal);
            }
            Ok(Err(match first {
                Some((number, error)) => failure::aborted(number, error),
                None => failure::refused(&error),
            }))
        }
        _ => Ok(Err(reply::unexpected())),
    }
}

/// The vouch of all pieces, if it is one: what came over several connections is vouched for by none of them alone.
pub(super) fn one_vouch(pieces: &[Piece<'_>]) -> Option<Vouch> {
    let mut vouches = pieces.iter().map(|piece| piece.done.as_ref().and_then(|done| done.vouch));
    let first = vouches.next()??;
    vouches.all(|vouch| vouch.is_some_and(|vouch| vouch.is(&first))).then_some(first)
}

/// The result of an operation, from those of its pieces.
pub(super) fn together(op: &Op, parts: Vec<Piece<'_>>) -> Result<Reply> {
    let mut parts: Vec<(Part<'_>, Result<Reply>)> = parts
        .into_iter()
        .map(|piece| {
            let result = piece.done.map_or_else(|| Err(reply::unexpected()), |done| done.result);
            (piece.part, result)
        })
        .collect();
    if let [(Part::Whole(_), _)] = &parts[..] {
        return parts.remove(0).1;
    }
    // Among several keys one of another type reads as missing.
    if let Op::Fetch { .. } = op {
        for (_, result) in &mut parts {
            if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WrongType) {
                *result = Ok(Reply::Fetched(vec![Fetched::MISSING]));
            }
        }
    }
    if let Some(error) = parts.iter().find_map(|(_, result)| result.as_ref().err()) {
        let applied = |result: &Result<Reply>| match result {
            Ok(_) => true,
            Err(error) => error.outcome() == Outcome::Unknown,
        };
        let some = !op.is_read() && parts.iter().any(|(_, result)| applied(result));
        let error = error.clone();
        return Err(if some { error.with_outcome(Outcome::Unknown) } else { error });
    }
    let replies = parts.into_iter().map(|(part, result)| (part, result.unwrap_or(Reply::Done)));
    let places = |part: Part<'_>| match part {
        Part::Some(_, places) => places,
        Part::Whole(op) => (0..op.keys().len()).collect(),
    };
    match op {
        Op::GetMany { keys } => {
            let mut all = vec![None; keys.len()];
            for (part, reply) in replies {
                for (place, value) in places(part).into_iter().zip(reply.into_values()?) {
                    all[place] = value;
                }
            }
            Ok(Reply::Values(all))
        }
        Op::Fetch { keys } => {
            let mut all = vec![Fetched::MISSING; keys.len()];
            for (part, reply) in replies {
                for (place, found) in places(part).into_iter().zip(reply.into_fetched()?) {
                    all[place] = found;
                }
            }
            Ok(Reply::Fetched(all))
        }
        Op::Delete { .. } => {
            let mut sum = 0;
            for (_, reply) in replies {
                sum += reply.into_int()?;
            }
            Ok(Reply::Int(sum))
        }
        // As many as every write has reached.
        Op::Replicated { .. } => {
            let mut least = i64::MAX;
            for (_, reply) in replies {
                least = least.min(reply.into_int()?);
            }
            Ok(Reply::Int(least))
        }
        _ => Err(reply::unexpected()),
    }
}

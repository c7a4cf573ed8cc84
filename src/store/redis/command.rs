//! Operations as Redis commands.

use redis::{Cmd, Pipeline};

use super::scripts;
use crate::op::{Batch, Direction, Op, Presence};

/// A batch, ready to be written.
pub(super) enum Request {
    /// One command.
    One(Cmd),
    /// Several, in one write; between MULTI and EXEC if the batch is atomic.
    Many(Pipeline),
}

impl Request {
    pub(super) fn of(batch: &Batch) -> Self {
        if let ([op], false) = (batch.ops(), batch.is_atomic()) {
            return Self::One(command(op));
        }
        let mut pipeline = Pipeline::with_capacity(batch.ops().len());
        if batch.is_atomic() {
            pipeline.atomic();
        }
        for op in batch.ops() {
            pipeline.add_command(command(op));
        }
        Self::Many(pipeline)
    }
}

/// One operation as one command.
fn command(op: &Op) -> Cmd {
    match op {
        Op::Ping => build("PING", &[]),
        Op::Get { key } => build("GET", &[key.as_bytes()]),
        Op::GetMany { keys } => with_keys("MGET", keys),
        Op::Set { key, value, expiry, only_if } => {
            let mut cmd = build("SET", &[key.as_bytes(), value]);
            if let Some(expiry) = expiry {
                cmd.arg("PX").arg(expiry.as_millis());
            }
            match only_if {
                Some(Presence::Absent) => cmd.arg("NX"),
                Some(Presence::Present) => cmd.arg("XX"),
                None => &mut cmd,
            };
            cmd
        }
        Op::IncrBy { key, delta } => with_number("INCRBY", key.as_bytes(), *delta),
        Op::Delete { keys } => with_keys("DEL", keys),
        Op::Exists { key } => build("EXISTS", &[key.as_bytes()]),
        Op::Expire { key, expiry } => {
            let mut cmd = build("PEXPIRE", &[key.as_bytes()]);
            cmd.arg(expiry.as_millis());
            cmd
        }
        Op::Persist { key } => build("PERSIST", &[key.as_bytes()]),
        Op::Ttl { key } => build("PTTL", &[key.as_bytes()]),
        Op::HashSet { key, field, value } => build("HSET", &[key.as_bytes(), field, value]),
        Op::HashGet { key, field } => build("HGET", &[key.as_bytes(), field]),
        Op::HashGetAll { key } => build("HGETALL", &[key.as_bytes()]),
        Op::HashDelete { key, field } => build("HDEL", &[key.as_bytes(), field]),
        Op::ListPush { key, value, side } => {
            build(at_side(*side, "LPUSH", "RPUSH"), &[key.as_bytes(), value])
        }
        Op::ListRange { key, start, stop } => {
            let mut cmd = with_number("LRANGE", key.as_bytes(), *start);
            cmd.arg(*stop);
            cmd
        }
        Op::ListPop { key, side } => build(at_side(*side, "LPOP", "RPOP"), &[key.as_bytes()]),
        Op::ListRemove { key, value } => {
            // A count of 0 removes all that are equal.
            let mut cmd = with_number("LREM", key.as_bytes(), 0);
            cmd.arg(value.as_ref());
            cmd
        }
        Op::Acquire { key, id, expiry } => {
            let mut cmd = build("EVAL", &[scripts::ACQUIRE.as_bytes(), b"1", key.as_bytes(), id]);
            cmd.arg(expiry.as_millis());
            cmd
        }
        Op::Release { key, id } => {
            build("EVAL", &[scripts::RELEASE.as_bytes(), b"1", key.as_bytes(), id])
        }
        Op::Scan { cursor, prefix, count } => {
            let mut cmd = build("SCAN", &[]);
            cmd.arg(*cursor).arg("MATCH").arg(starting_with(prefix)).arg("COUNT").arg(*count);
            cmd
        }
    }
}

fn build(name: &str, args: &[&[u8]]) -> Cmd {
    let bytes = name.len() + args.iter().map(|arg| arg.len()).sum::<usize>();
    // Room for two more arguments of a few digits, so that nothing is moved.
    let mut cmd = Cmd::with_capacity(args.len() + 3, bytes + 24);
    cmd.arg(name);
    for arg in args {
        cmd.arg(*arg);
    }
    cmd
}

fn with_keys(name: &str, keys: &[crate::key::Key]) -> Cmd {
    let bytes = name.len() + keys.iter().map(|key| key.as_bytes().len()).sum::<usize>();
    let mut cmd = Cmd::with_capacity(keys.len() + 1, bytes);
    cmd.arg(name);
    for key in keys {
        cmd.arg(key.as_bytes());
    }
    cmd
}

fn with_number(name: &str, key: &[u8], number: i64) -> Cmd {
    let mut cmd = build(name, &[key]);
    cmd.arg(number);
    cmd
}

fn at_side(side: Direction, left: &'static str, right: &'static str) -> &'static str {
    match side {
        Direction::Left => left,
        Direction::Right => right,
    }
}

/// A glob that matches what starts with `prefix`, whatever it contains.
fn starting_with(prefix: &[u8]) -> Vec<u8> {
    let mut glob = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-') {
            glob.push(b'\\');
        }
        glob.push(*byte);
    }
    glob.push(b'*');
    glob
}

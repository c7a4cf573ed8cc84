//! Operations as Redis commands.

use redis::{Cmd, Pipeline};

use super::scripts::{self, locks};
use crate::key::Key;
use crate::op::{Ask, Batch, Direction, LockMode, Op, Presence, Replaced};
use crate::ttl::Expiry;

/// A batch, ready to be written.
pub(super) enum Request {
    /// One command.
    One(Cmd),
    /// Several, in one write; between MULTI and EXEC if the batch is atomic.
    Many(Pipeline),
}

impl Request {
    pub(super) fn of(batch: &Batch) -> Self {
        if let ([op], false) = (batch.ops(), batch.is_atomic())
            && width(op) == 1
        {
            return Self::One(command(op));
        }
        let mut pipeline = Pipeline::with_capacity(batch.ops().len());
        if batch.is_atomic() {
            pipeline.atomic();
        }
        for op in batch.ops() {
            each(op, |command| _ = pipeline.add_command(command));
        }
        Self::Many(pipeline)
    }
}

/// How many commands an operation is, and how many answers it gets.
pub(super) fn width(op: &Op) -> usize {
    match op {
        Op::Fetch { keys } => keys.len() + 1,
        _ => 1,
    }
}

/// The commands of one operation, in order.
pub(super) fn each(op: &Op, mut add: impl FnMut(Cmd)) {
    if let Op::Fetch { keys } = op {
        // The times first: a value that is written in between is kept too short, not too long.
        for key in keys {
            add(build("PTTL", &[key.as_bytes()]));
        }
    }
    add(command(op));
}

/// One operation as one command: of several, the last.
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
        Op::Delete { keys } => {
            let leases: Vec<Key> = keys.iter().map(Key::lease).collect();
            let mut cmd = eval(scripts::DELETE, 2 * keys.len());
            for key in leases.iter().chain(keys) {
                cmd.arg(key.as_bytes());
            }
            cmd
        }
        Op::Overwrite { key, value, expiry } => {
            let mut cmd = eval(scripts::OVERWRITE, 2);
            cmd.arg(key.lease().as_bytes()).arg(key.as_bytes()).arg(value.as_ref());
            cmd.arg(expiry.map_or(0, Expiry::as_millis));
            cmd
        }
        Op::Fetch { keys } => match &keys[..] {
            [key] => build("GET", &[key.as_bytes()]),
            many => with_keys("MGET", many),
        },
        Op::Lease { key, token, expiry, ask } => {
            let mut cmd = eval(scripts::LEASE, 2);
            cmd.arg(key.lease().as_bytes()).arg(key.as_bytes()).arg(token.as_ref());
            cmd.arg(expiry.as_millis());
            match ask {
                Ask::Missing => cmd.arg(-1),
                Ask::Within(time) => cmd.arg(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
                Ask::Always => cmd.arg("always"),
            };
            cmd
        }
        Op::Fill { key, token, value, expiry, replaces } => {
            let mut cmd = eval(scripts::FILL, 2);
            cmd.arg(key.lease().as_bytes()).arg(key.as_bytes());
            cmd.arg(token.as_ref()).arg(value.as_ref()).arg(expiry.map_or(0, Expiry::as_millis));
            if let Some(Replaced { digest, ttl, expired }) = replaces.as_deref() {
                let ttl = ttl.remaining().map_or(-1, |left| left.as_millis() as i64);
                cmd.arg(digest.as_ref()).arg(ttl).arg(i64::from(*expired));
            }
            cmd
        }
        Op::Renew { key, id, expiry } => {
            let mut cmd = eval(scripts::RENEW, 1);
            cmd.arg(key.as_bytes()).arg(id.as_ref()).arg(expiry.as_millis());
            cmd
        }
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
        Op::Lock { key, id, expiry, mode } => {
            let script = if mode.is_shared() { locks::SHARE } else { locks::LOCK };
            let mut cmd = on_lock(script, key, id);
            cmd.arg(expiry.as_millis());
            match mode {
                LockMode::Exclusive { label, fair, waits } => {
                    cmd.arg(label.as_deref().unwrap_or_default()).arg(u8::from(*fair));
                    cmd.arg(waits.map_or(0, Expiry::as_millis));
                }
                LockMode::Shared { most } => _ = cmd.arg(*most),
            }
            cmd
        }
        Op::Extend { key, id, expiry, shared } => {
            let script = if *shared { locks::EXTEND_SHARE } else { locks::EXTEND };
            let mut cmd = on_lock(script, key, id);
            cmd.arg(expiry.as_millis());
            cmd
        }
        Op::Unlock { key, id, shared } => {
            on_lock(if *shared { locks::UNLOCK_SHARE } else { locks::UNLOCK }, key, id)
        }
        Op::FencedSet { key, value, expiry, token } => {
            let mut cmd = eval(locks::FENCED_SET, 3);
            cmd.arg(key.lease().as_bytes()).arg(key.as_bytes()).arg(key.fence().as_bytes());
            cmd.arg(value.as_ref()).arg(expiry.map_or(0, Expiry::as_millis)).arg(*token);
            cmd
        }
        Op::Replicated { copies, within } => {
            let mut cmd = build("WAIT", &[]);
            cmd.arg(*copies).arg(within.as_millis());
            cmd
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

fn eval(script: &str, keys: usize) -> Cmd {
    let mut cmd = build("EVAL", &[script.as_bytes()]);
    cmd.arg(keys);
    cmd
}

/// A script on a lock and its record.
fn on_lock(script: &str, key: &Key, id: &[u8]) -> Cmd {
    let mut cmd = eval(script, 2);
    cmd.arg(key.as_bytes()).arg(key.lock_record().as_bytes()).arg(id);
    cmd
}

fn with_keys(name: &str, keys: &[Key]) -> Cmd {
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

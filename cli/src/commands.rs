//! The commands: one operation each, and what is printed of it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use larder::op::Reply;
use larder::{CacheClient, Direction, Error, Group, LockId, LockOptions, MAX_BYTES, Ttl};

use crate::args::Command;
use crate::demo;
use crate::failure::Failure;
use crate::locks;
use crate::output::{Output, json_bytes};

/// How many keys of a scan are written at once if they are there: as many as the client asks the server
/// for.
const CHUNK: usize = 500;

/// Runs a command. Answers whether what it is about was there, or was done.
pub(crate) async fn run(
    cache: &CacheClient,
    command: &Command,
    out: &mut Output,
) -> Result<bool, Failure> {
    match command {
        Command::Demo => demo::run(cache, out).await?,
        Command::Ping => {
            cache.ping().await?;
            out.line(b"PONG", &true.into())?;
        }
        Command::Get { key } => return out.value(cache.get_bytes(bytes(key)).await?),
        Command::Set { key, value, ex } => {
            let value = input(value)?;
            cache.set_value(bytes(key), value, ex.map(Duration::from_secs)).await?;
            out.line(b"OK", &true.into())?;
        }
        Command::Del { keys } => {
            let deleted = cache.batch_delete_keys(keys.iter().map(|key| bytes(key))).await?;
            out.number(deleted, deleted)?;
            return Ok(deleted > 0);
        }
        Command::Exists { key } => return yes_or_no(out, cache.key_exists(bytes(key)).await?),
        Command::Ttl { key } => {
            let ttl = cache.get_ttl(bytes(key)).await?;
            out.number(ttl.as_secs(), ttl.as_secs())?;
            return Ok(ttl != Ttl::Missing);
        }
        Command::Expire { key, secs } => {
            let set = cache.set_expiry(bytes(key), Duration::from_secs(*secs)).await?;
            return yes_or_no(out, set);
        }
        Command::Incr { key, by } => {
            let number = cache.incr_by(bytes(key), *by).await?;
            out.number(number, number)?;
        }
        Command::Hget { name, field } => {
            // The typed methods read text; a group hands over bytes, which need not be text.
            let group = cache.pipeline().get_hash(bytes(name), bytes(field));
            return out.value(sole(group).await?.into_value()?);
        }
        Command::Hset { name, field, value } => {
            let new = cache.set_hash(bytes(name), bytes(field), input(value)?).await?;
            out.number(new, new)?;
        }
        Command::Hgetall { name } => {
            let mut pairs = sole(cache.pipeline().get_hash_all(bytes(name))).await?.into_pairs()?;
            // A server gives them in no particular order.
            pairs.sort();
            out.pairs(&pairs)?;
            return Ok(!pairs.is_empty());
        }
        Command::Push { name, value, left } => {
            let side = if *left { Direction::Left } else { Direction::Right };
            let length = cache.push_to_list(bytes(name), input(value)?, side).await?;
            out.number(length, length)?;
        }
        Command::List { name } => {
            let elements = sole(cache.pipeline().get_list(bytes(name))).await?.into_list()?;
            out.values(&elements)?;
            return Ok(!elements.is_empty());
        }
        Command::Lpop { name } => {
            let group = cache.pipeline().left_pop_list(bytes(name));
            return out.value(sole(group).await?.into_value()?);
        }
        Command::Rpop { name } => {
            let group = cache.pipeline().right_pop_list(bytes(name));
            return out.value(sole(group).await?.into_value()?);
        }
        Command::Scan { prefix } => scan(cache, prefix, out).await?,
        // They have exit codes of their own, and were handled before.
        Command::Doctor(_) => {}
        Command::Locks { prefix } => locks::run(cache, prefix, out).await?,
        Command::Lock(lock) => {
            let options = LockOptions {
                expire: Duration::from_millis(lock.expire_ms),
                timeout: Duration::from_millis(lock.timeout_ms),
                ..Default::default()
            };
            let id = cache.acquire_lock(bytes(&lock.key), options).await?;
            out.line(id.as_str().as_bytes(), &id.as_str().into())?;
        }
        Command::Unlock { key, id } => {
            let id: LockId = id.parse()?;
            return yes_or_no(out, cache.release_lock(bytes(key), &id).await?);
        }
    }
    Ok(true)
}

/// Writes keys as they come, and counts them for whoever waits at a terminal while a file is filled.
async fn scan(cache: &CacheClient, prefix: &OsStr, out: &mut Output) -> Result<(), Failure> {
    let progress =
        if out.is_terminal() { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} keys, {elapsed}") {
        progress.set_style(style);
    }
    let mut chunks = cache.scan(bytes(prefix)).ready_chunks(CHUNK);
    while let Some(chunk) = chunks.next().await {
        progress.inc(chunk.len() as u64);
        for key in chunk {
            let key = key?;
            out.line(key.as_bytes(), &json_bytes(key.bytes()))?;
        }
        out.flush()?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// The reply to a group of one operation.
async fn sole(group: Group) -> Result<Reply, Error> {
    match group.run().await?.pop() {
        Some(reply) => reply,
        None => Ok(Reply::Done),
    }
}

fn yes_or_no(out: &mut Output, yes: bool) -> Result<bool, Failure> {
    out.number(u8::from(yes), yes)?;
    Ok(yes)
}

/// An argument's bytes: on Unix, keys and values need not be text.
fn bytes(text: &OsStr) -> &[u8] {
    text.as_encoded_bytes()
}

/// A value: the argument itself, or standard input for `-`.
fn input(value: &OsStr) -> Result<Bytes, Failure> {
    if value != "-" {
        return Ok(Bytes::copy_from_slice(bytes(value)));
    }
    let mut read = Vec::new();
    // One byte more than a value can have is enough to see that it is too long.
    io::stdin().lock().take(MAX_BYTES as u64 + 1).read_to_end(&mut read)?;
    if read.len() > MAX_BYTES {
        let text = format!("standard input holds more than the {MAX_BYTES} bytes of a value");
        return Err(Failure::Other(text));
    }
    Ok(read.into())
}

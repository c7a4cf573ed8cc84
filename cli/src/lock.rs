//! `larder lock NAME -- COMMAND`: a command that runs while a lock is held, and is stopped when the lock is lost.

use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use larder::{CacheClient, LockGuard, Loss};

use crate::args::LockArgs;
use crate::child::{Running, Signals, exit_code};
use crate::failure::Failure;
use crate::output::complain;

/// The exit code when the lock was lost before the command had ended: whatever the command said of itself, somebody else
/// may have worked at the same time.
const LOST: u8 = 3;

/// How the command came to an end.
enum End {
    Itself(ExitStatus),
    Lost(Loss),
}

/// Runs the command. Answers the exit code.
pub(crate) async fn run(cache: &CacheClient, args: &LockArgs) -> Result<u8, Failure> {
    let code = held(cache, args).await;
    // What a wait that was given up may have got is given back by a task, which begins here and is waited for there.
    tokio::task::yield_now().await;
    cache.close().await;
    code
}

async fn held(cache: &CacheClient, args: &LockArgs) -> Result<u8, Failure> {
    // Before anything is taken, so that no signal ends this program with a lock in its hands.
    let mut signals = Signals::listen()?;
    let guard = tokio::select! {
        biased;
        signal = signals.next() => return Ok(exit_code_of(signal.as_raw())),
        guard = acquire(cache, args) => guard?,
    };
    let Some(guard) = guard else {
        complain("lock: somebody else holds it; nothing was run");
        return Ok(crate::MISSING);
    };
    let mut child = match Running::start(&args.command, guard.fencing_token()) {
        Ok(child) => child,
        Err(error) => {
            let program = args.command[0].to_string_lossy();
            let failure = Failure::Other(format!("lock: {program} did not start: {error}"));
            // It is free when its lease is over.
            _ = guard.release().await;
            return Err(failure);
        }
    };
    match watched(&mut child, &mut signals, &guard).await? {
        End::Lost(why) => {
            let grace = args.grace();
            complain(&format!(
                "lock {}: the lock is lost: {why}; the command is told to stop, and killed after {grace:?}",
                guard.key()
            ));
            child.stop(grace).await?;
            // Nobody's any more, or somebody else's: this deletes neither.
            _ = guard.release().await;
            Ok(LOST)
        }
        End::Itself(status) => release(guard, status).await,
    }
}

async fn acquire(cache: &CacheClient, args: &LockArgs) -> Result<Option<LockGuard>, Failure> {
    let Some(name) = args.key.to_str() else {
        return Err(Failure::Other("lock: the name of a lock is text (UTF-8)".to_owned()));
    };
    let mut lock = cache.lock(name).wait(args.wait());
    if let Some(lease) = args.ttl {
        lock = lock.lease(lease);
    }
    if let Some(owner) = &args.owner {
        lock = lock.owner(owner);
    }
    // A single try takes no place in a queue.
    if args.wait() == Duration::ZERO {
        return Ok(lock.try_acquire().await?);
    }
    Ok(Some(lock.acquire().await?))
}

/// Until the command ends or the lock is lost; signals go to the command.
async fn watched(
    child: &mut Running,
    signals: &mut Signals,
    guard: &LockGuard,
) -> Result<End, Failure> {
    let mut lost = pin!(guard.lost());
    loop {
        tokio::select! {
            biased;
            status = child.ended() => return Ok(End::Itself(status?)),
            why = &mut lost => return Ok(End::Lost(why)),
            signal = signals.next() => child.forward(signal),
        }
    }
}

/// Gives the lock back after the command ended, and says what the exit code is.
async fn release(guard: LockGuard, status: ExitStatus) -> Result<u8, Failure> {
    let (key, held) = (guard.key().clone(), guard.is_valid());
    match guard.release().await {
        Ok(true) => {}
        // By its own clock it held the lock until the command had ended; the rest is up to the lease.
        Err(error) if held => {
            complain(&format!(
                "lock {key}: it was not given back, and is free when its lease is over: {error}"
            ));
        }
        _ => {
            complain(&format!("lock {key}: the lock was lost before the command ended ({status})"));
            return Ok(LOST);
        }
    }
    Ok(exit_code(status))
}

/// The exit code of what a signal ended, as shells have it.
fn exit_code_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(crate::ERROR)
}

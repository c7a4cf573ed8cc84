//! Finding the primary that a group of sentinels watches, and leaving it when they say that another took its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, join_all, pending, select, select_all};
use redis::{PushKind, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::dial;
use super::ping::Patience;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::url::{Address, RedisTarget, Sentinels};

/// How long one sentinel may take to answer: one that is gone shall not keep the others' answer.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long a primary that was replaced is not gone back to: the sentinels tell each other of a failover within some
/// seconds, and the old one may go on as if nothing had happened until they reach it.
const SHUNNED_FOR: Duration = Duration::from_secs(10);

/// How long after it was lost the connection to a sentinel is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// The channel on which sentinels say that a failover is done.
const SWITCHED: &str = "+switch-master";

/// What one sentinel says.
enum Says {
    Primary(String, u16),
    /// It does not watch a primary of this name.
    Unknown,
}

/// Where most of the sentinels that answer say the primary is; among as many, those named first. All are asked at
/// once, since one that was cut off may still name the primary of yesterday. One that is not to be trusted has no say.
///
/// # Errors
/// [`ErrorKind::Config`] if those that answer do not know the name; [`ErrorKind::Auth`], [`ErrorKind::Permission`] or
/// [`ErrorKind::Tls`] if all refuse us or are not to be trusted; [`ErrorKind::Unavailable`] if none answers, since others than
/// those may be back soon.
pub(super) async fn primary(sentinels: &Sentinels) -> Result<Address> {
    let asked = sentinels.targets.iter().map(|target| async {
        let answer = tokio::time::timeout(PATIENCE, ask(target, &sentinels.primary)).await;
        answer.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "a sentinel did not answer in time"))
        })
    });
    let answers = join_all(asked).await;
    let mut votes = BTreeMap::new();
    let (mut unknown, mut failed) = (false, Vec::new());
    for (at, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(Says::Primary(host, port)) => {
                let (count, _) = votes.entry((host, port)).or_insert((0_usize, at));
                *count += 1;
            }
            Ok(Says::Unknown) => unknown = true,
            Err(error) => failed.push(error),
        }
    }
    if let Some(shunned) = sentinels.shunned() {
        let told = !votes.is_empty();
        votes.retain(|(host, port), _| shunned != Address::Tcp { host: host.clone(), port: *port });
        if told && votes.is_empty() && !unknown {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the sentinels do not agree yet on who takes the place of {shunned}"),
            )
            .with_outcome(Outcome::NotSent));
        }
    }
    let most = votes.into_iter().max_by_key(|(_, (count, at))| (*count, usize::MAX - at));
    if let Some(((host, port), _)) = most {
        return Ok(Address::Tcp { host, port });
    }
    if unknown {
        return Err(Error::new(
            ErrorKind::Config,
            format!(
                "no sentinel that answers knows a primary named `{}`; check the name at the end of the URL",
                sentinels.primary.escape_default()
            ),
        )
        .with_outcome(Outcome::NotSent));
    }
    let mut said = format!("none of the {} sentinels answers", sentinels.targets.len());
    let all = failed.len();
    let mut refusals = failed.into_iter().filter(stays);
    if let Some(refusal) = refusals.next() {
        if refusals.count() + 1 == all {
            return Err(refusal);
        }
        said = format!("{said}, and one says: {}", refusal.detail());
    }
    Err(Error::new(ErrorKind::Unavailable, said).with_outcome(Outcome::NotSent))
}

/// Whether waiting does not mend it: we are not let in, may not ask, or do not trust who is there.
fn stays(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Auth | ErrorKind::Permission | ErrorKind::Tls)
}

async fn ask(target: &RedisTarget, primary: &str) -> Result<Says> {
    let mut dialled = Box::pin(dial::dial(target, None)).await?;
    ask_over(&mut dialled, primary).await
}

async fn ask_over(dialled: &mut dial::Dialled, primary: &str) -> Result<Says> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(primary);
    says(dial::exchange(dialled, &command).await?)
}

/// What the answer to the question for a primary says.
fn says(answer: Value) -> Result<Says> {
    match answer {
        Value::Nil => Ok(Says::Unknown),
        Value::Array(parts) => match &parts[..] {
            [Value::BulkString(host), Value::BulkString(port)] => {
                let host = std::str::from_utf8(host).ok().filter(|host| !host.is_empty());
                let port = std::str::from_utf8(port).ok().and_then(|port| port.parse().ok());
                match (host, port) {
                    (Some(host), Some(port @ 1..)) => Ok(Says::Primary(host.to_owned(), port)),
                    _ => Err(unreadable()),
                }
            }
            _ => Err(unreadable()),
        },
        _ => Err(unreadable()),
    }
}

/// What an answer of a sentinel comes to, and a message of one.
#[cfg(feature = "testing")]
pub(super) fn read_all(answer: Value) -> Result<()> {
    if let Value::BulkString(message) = &answer {
        drop(switched(message, "primary"));
    }
    says(answer).map(drop)
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Protocol, "a sentinel's answer cannot be read")
        .with_outcome(Outcome::NotSent)
}

/// Whether a server says that it is a primary. One that was demoted, or was not promoted yet, is asked again later.
pub(super) async fn check_role(dialled: &mut dial::Dialled, address: &Address) -> Result<()> {
    let role = dial::exchange(dialled, &redis::cmd("ROLE")).await?;
    let is_primary = match &role {
        Value::Array(parts) => {
            matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master")
        }
        _ => false,
    };
    if is_primary {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("the sentinels name {address}, which is no primary at the moment"),
    )
    .with_outcome(Outcome::NotSent))
}

impl Sentinels {
    /// The primary that was replaced a moment ago.
    fn shunned(&self) -> Option<Address> {
        match &*self.replaced.borrow() {
            Some((address, at)) if at.elapsed() < SHUNNED_FOR => Some(address.clone()),
            _ => None,
        }
    }

    /// Ends when the sentinels say that `address` was replaced.
    pub(super) async fn replaced(&self, address: &Address) {
        let mut replaced = self.replaced.subscribe();
        let is_it = |last: &Option<(Address, Instant)>| {
            last.as_ref().is_some_and(|(old, at)| old == address && at.elapsed() < SHUNNED_FOR)
        };
        if replaced.wait_for(is_it).await.is_err() {
            pending().await
        }
    }
}

/// Listens to all sentinels, over a connection to each, for as long as somebody holds `target`. Once for all its
/// connections.
pub(super) fn listen(target: &Arc<RedisTarget>, patience: Patience) {
    let Address::Sentinels(sentinels) = &target.address else { return };
    let mut listening = sentinels.listening();
    if listening.as_ref().is_some_and(|task| !task.is_finished()) {
        return;
    }
    let held = Arc::downgrade(target);
    let each = sentinels.targets.clone();
    let primary = sentinels.primary.clone();
    *listening = Some(tokio::spawn(async move {
        let heard = |message: &[u8]| {
            let Some(target) = held.upgrade() else { return false };
            if let (Address::Sentinels(sentinels), Some(old)) =
                (&target.address, switched(message, &primary))
            {
                tracing::info!(target: "larder", %old, "the sentinels replaced the primary");
                sentinels.replaced.send_replace(Some((old, Instant::now())));
            }
            true
        };
        // Each goes on for ever, until nobody holds the target.
        let all = each.iter().map(|sentinel| listen_to(sentinel, &heard, &held, patience).boxed());
        select_all(all).await;
    }));
}

async fn listen_to(
    sentinel: &RedisTarget,
    heard: &(impl Fn(&[u8]) -> bool + Sync),
    held: &std::sync::Weak<RedisTarget>,
    patience: Patience,
) {
    loop {
        let (told, messages) =
            (Arc::new(Notify::new()), Arc::new(std::sync::Mutex::new(Vec::new())));
        let hook = {
            let (told, messages) = (Arc::clone(&told), Arc::clone(&messages));
            move |kind: &PushKind, data: &[Value]| {
                match (kind, data) {
                    (PushKind::Message, [_, Value::BulkString(message)]) => {
                        let mut messages =
                            messages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        messages.push(message.clone());
                    }
                    (PushKind::Disconnection, _) => {}
                    _ => return,
                }
                told.notify_one();
            }
        };
        let dialled = tokio::time::timeout(PAUSE, dial::subscribed(sentinel, SWITCHED, hook)).await;
        let mut stood = false;
        if let Ok(Ok(dial::Dialled { connection, driver, pulse, .. })) = dialled {
            let since = Instant::now();
            let silent = std::pin::pin!(patience.silent(connection, &pulse));
            let mut ended = select(driver, silent);
            loop {
                // Now and then, whether anybody still wants to know.
                let woken = std::pin::pin!(tokio::time::timeout(SHUNNED_FOR, told.notified()));
                let over = matches!(select(&mut ended, woken).await, Either::Left(_));
                let new = std::mem::take(
                    &mut *messages.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
                );
                if held.strong_count() == 0 || !new.iter().all(|message| heard(message)) {
                    return;
                }
                if over {
                    break;
                }
            }
            stood = since.elapsed() >= PAUSE;
        }
        if held.strong_count() == 0 {
            return;
        }
        // One that stood for a while is made again at once.
        if stood {
            continue;
        }
        tokio::time::sleep(PAUSE.mul_f64(1.0 - fastrand::f64() / 2.0)).await;
    }
}

/// Of `name old-ip old-port new-ip new-port`, the old address, if it is about this primary.
fn switched(message: &[u8], primary: &str) -> Option<Address> {
    let text = std::str::from_utf8(message).ok()?;
    // The name may contain spaces, the rest does not.
    let rest = text.strip_prefix(primary)?.strip_prefix(' ')?;
    let mut parts = rest.split(' ');
    let (host, port, _, _, None) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    Some(Address::Tcp { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_of_our_primary_names_the_old_one() {
        let old = |message: &str| switched(message.as_bytes(), "my cache");
        let address = Address::Tcp { host: "10.0.0.1".to_owned(), port: 6379 };
        assert_eq!(old("my cache 10.0.0.1 6379 10.0.0.2 6380"), Some(address));
        for other in ["my", "my cache 10.0.0.1 6379", "other 1 2 3 4", "my cache2 1 2 3 4", ""] {
            assert_eq!(old(other), None, "{other}");
        }
    }
}

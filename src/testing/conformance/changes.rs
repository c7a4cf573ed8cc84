//! Cases for what the sinks are told.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::loads::{fill_op, lease_op, overwrite_op};
use super::*;
use crate::op::{Ask, Direction, Lane, LeaseState, Replies, Vouch};
use crate::store::{InvalidationSink, Sweeping};

/// What was told, and of how many sweeping changes.
#[derive(Default)]
pub(super) struct Heard {
    told: Mutex<(Vec<Bytes>, usize)>,
    news: Notify,
}

impl Heard {
    /// Registers itself, if the store can tell.
    pub(super) fn at(subject: &Subject) -> Option<Arc<Self>> {
        let heard = Arc::new(Self::default());
        subject.store.capabilities().tracking.then(|| {
            subject.store.on_invalidation(heard.clone());
            heard
        })
    }

    pub(super) fn forget(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    pub(super) fn was_told(&self, key: &Key) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 > 0 || told.0.contains(key.bytes())
    }

    pub(super) async fn expect(&self, key: &Key, what: &str) -> Checked {
        let told = async {
            while !self.was_told(key) {
                self.news.notified().await;
            }
        };
        let told = timeout(PATIENCE, told).await;
        told.map_err(|_| format!("{what}: no sink was told of {key} within {PATIENCE:?}"))
    }
}

impl InvalidationSink for Heard {
    fn changed(&self, key: &[u8]) {
        let key = Bytes::copy_from_slice(key);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).0.push(key);
        self.news.notify_one();
    }

    fn all_changed(&self, _why: Sweeping) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.news.notify_one();
    }
}

/// Runs a read over a lane until the store vouches for its answer: it may have to connect first.
pub(super) async fn vouched(
    subject: &Subject,
    op: Op,
    lane: Lane,
) -> Result<(Reply, Vouch), String> {
    let asked = format!("{op:?} over {lane:?}");
    let end = Instant::now() + PATIENCE;
    loop {
        let batch = Batch::one("conformance", op.clone()).on(lane.clone());
        let replies: Replies =
            subject.store.run(batch).await.map_err(|error| show_error(&error))?;
        let vouch = replies.vouch().copied();
        let reply =
            replies.into_one().map_err(|error| format!("{asked}: {}", show_error(&error)))?;
        match vouch {
            Some(vouch) if vouch.holds() => return Ok((reply, vouch)),
            _ if Instant::now() > end => return Err(format!("{asked}: nothing vouches for it")),
            // Only so as not to flood the server; the loop waits for a connection.
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

pub(super) async fn by_another(subject: &Subject, op: Op) -> Result<Reply, String> {
    let asked = format!("{op:?}");
    let done = subject.other.run(Batch::one("conformance", op)).await;
    done.and_then(Replies::into_one).map_err(|error| format!("{asked}: {}", show_error(&error)))
}

/// A store that cannot tell of changes answers over every lane, and vouches for nothing.
pub(super) async fn expect_no_vouch(subject: &Subject) -> Checked {
    let key = subject.key("k");
    subject.expect(set_op(&key, "v"), Reply::Bool(true)).await?;
    for lane in [Lane::Tracked, Lane::Broadcast(Arc::from("k"))] {
        let batch = Batch::one("conformance", get_op(&key)).on(lane.clone());
        let replies = subject.store.run(batch).await.map_err(|error| show_error(&error))?;
        ensure(replies.vouch().is_none(), || format!("{lane:?}: vouched for, but not told"))?;
        same("get over a tracked lane", &replies.into_one(), &value("v"))?;
    }
    Ok(())
}

/// Every change to what was read over the tracked lane is told, by whomever it is made, of missing keys too.
pub async fn changes_are_told(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    let key = subject.key("k");
    let (k, field) = (|| key.clone(), || bytes("f"));
    let reads: [fn(Key) -> Op; 3] = [
        |key| Op::Fetch { keys: vec![key] },
        |key| Op::Get { key },
        |key| Op::GetMany { keys: vec![key] },
    ];
    let set = || set_op(&key, "v");
    // What is there, and what changes it.
    let changes: Vec<(Option<Op>, Op)> = vec![
        (None, set()),
        (None, set_if_op(&key, "v", Presence::Absent)),
        (None, overwrite_op(&key, "v", None)),
        (None, Op::IncrBy { key: k(), delta: 1 }),
        (None, hash_op(&key, "f", "v")),
        (None, push_op(&key, "v")),
        (None, Op::Acquire { key: k(), id: bytes("id"), expiry: an_hour() }),
        (Some(set()), set_op(&key, "w")),
        (Some(set()), set()),
        (Some(set()), overwrite_op(&key, "w", Some(an_hour()))),
        (Some(set()), Op::Delete { keys: vec![k()] }),
        (Some(set()), Op::Expire { key: k(), expiry: an_hour() }),
        (Some(set()), Op::Release { key: k(), id: bytes("v") }),
        (Some(set()), Op::Renew { key: k(), id: bytes("v"), expiry: an_hour() }),
        (Some(set_for(&key, "v", an_hour())), Op::Persist { key: k() }),
        (Some(set_op(&key, "1")), Op::IncrBy { key: k(), delta: 1 }),
    ];
    for (at, (before, change)) in changes.into_iter().enumerate() {
        by_another(subject, Op::Delete { keys: vec![k()] }).await?;
        if let Some(before) = before {
            by_another(subject, before).await?;
        }
        vouched(subject, reads[at % reads.len()](k()), Lane::Tracked).await?;
        heard.forget();
        let what = format!("{change:?}");
        by_another(subject, change).await?;
        heard.expect(&key, &what).await?;
    }
    // Reads of the other types are told as well.
    let on_others: Vec<(Op, Op, Op)> = vec![
        (
            hash_op(&key, "f", "v"),
            Op::HashGet { key: k(), field: field() },
            hash_op(&key, "f", "w"),
        ),
        (
            hash_op(&key, "f", "v"),
            Op::HashGetAll { key: k() },
            Op::HashDelete { key: k(), field: field() },
        ),
        (
            push_op(&key, "v"),
            range_op(&key, 0, -1),
            Op::ListPop { key: k(), side: Direction::Left },
        ),
        (push_op(&key, "v"), exists_op(&key), Op::ListRemove { key: k(), value: bytes("v") }),
    ];
    for (before, read, change) in on_others {
        by_another(subject, Op::Delete { keys: vec![k()] }).await?;
        by_another(subject, before).await?;
        vouched(subject, read, Lane::Tracked).await?;
        heard.forget();
        let what = format!("{change:?}");
        by_another(subject, change).await?;
        heard.expect(&key, &what).await?;
    }
    // Its own writes count as well.
    vouched(subject, reads[0](k()), Lane::Tracked).await?;
    heard.forget();
    subject.expect(set(), Reply::Bool(true)).await?;
    heard.expect(&key, "an own write").await
}

/// Who was told that another holds a lease is told of its end, of its renewal, and of the fill.
pub async fn leases_are_told(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    for name in ["plain", "{tagged}:7", "odd}brace{"] {
        let key = subject.key(name);
        let place = key.lease();
        let renew = Op::Renew { key: place.clone(), id: bytes("theirs"), expiry: an_hour() };
        let release = Op::Release { key: place.clone(), id: bytes("theirs") };
        let del = |key: &Key| Op::Delete { keys: vec![key.clone()] };
        let ends: [(Op, &Key); 7] = [
            (renew, &place),
            (release, &place),
            (fill_op(&key, "theirs", "v", None), &place),
            (fill_op(&key, "theirs", "v", None), &key),
            (del(&place), &place),
            (del(&key), &place),
            (set_op(&key, "v"), &key),
        ];
        for (end, told) in ends {
            by_another(subject, del(&key)).await?;
            by_another(subject, lease_op(&key, "theirs", Ask::Missing)).await?;
            let asked = lease_op(&key, "mine", Ask::Missing);
            let (came, _) = vouched(subject, asked, Lane::Tracked).await?;
            let held =
                came.into_leased().is_ok_and(|came| matches!(came.lease, LeaseState::Held { .. }));
            ensure(held, || format!("{name}: the lease should be another's"))?;
            heard.forget();
            let what = format!("{name}: {end:?}");
            by_another(subject, end).await?;
            heard.expect(told, &what).await?;
        }
    }
    Ok(())
}

/// An expiry is told, at the latest when somebody meets it.
pub async fn expiries_are_told(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    for n in 0..5 {
        let key = subject.key(format!("k{n}"));
        subject.expect(set_for(&key, "v", millis(200)), Reply::Bool(true)).await?;
        let read = Op::Fetch { keys: vec![key.clone()] };
        let (came, _) = vouched(subject, read, Lane::Tracked).await?;
        let there = came.into_fetched().is_ok_and(|came| came[0].value.is_some());
        ensure(there, || "200 ms passed before a read".to_owned())?;
        subject.expect_gone(&key).await?;
        heard.expect(&key, "an expiry").await?;
    }
    Ok(())
}

/// When a reply shows a change, the sinks have been told of it: nobody reads the new value and keeps the old one.
pub async fn a_change_is_told_before_it_is_shown(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    let key = subject.key("k");
    let fetch = || Op::Fetch { keys: vec![key.clone()] };
    let mut compared = 0;
    for turn in 0..300 {
        let (_, before) = vouched(subject, fetch(), Lane::Tracked).await?;
        heard.forget();
        let written = by_another(subject, set_op(&key, turn.to_string()));
        let shown = async {
            loop {
                let (came, vouch) = vouched(subject, fetch(), Lane::Tracked).await?;
                // Looked at right behind the reply, before anything else can come in.
                let told = heard.was_told(&key);
                let came = came.into_fetched().map_err(|error| show_error(&error))?;
                if came[0].value == Some(bytes(turn.to_string())) {
                    return Ok::<_, String>((told, vouch));
                }
                // A store that answers at once would never let the writer go on.
                tokio::task::yield_now().await;
            }
        };
        let (shown, written) = futures_util::future::join(shown, written).await;
        written?;
        let (told, after) = shown?;
        if after.is(&before) {
            compared += 1;
            ensure(told, || format!("turn {turn}: the new value was shown, but not told"))?;
        }
    }
    ensure(compared > 0, || "no two reads went over the same connection".to_owned())
}

/// Over a broadcast lane, changes to every key with the prefix are told, read or not.
pub async fn broadcasts_tell_of_unread_keys(subject: &Subject) -> Checked {
    let Some(heard) = Heard::at(subject) else { return expect_no_vouch(subject).await };
    // A lane's prefix is text; of a key space that is not, the part that is, which may be all keys.
    let text = subject.prefix.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let prefix: Arc<str> = Arc::from(text);
    subject.store.broadcast(&prefix).map_err(|error| show_error(&error))?;
    let lane = Lane::Broadcast(prefix);
    let [read, unread] = ["read", "unread"].map(|name| subject.key(name));
    let fetch = Op::Fetch { keys: vec![read.clone()] };
    for turn in 0..20 {
        vouched(subject, fetch.clone(), lane.clone()).await?;
        heard.forget();
        by_another(subject, set_op(&unread, turn.to_string())).await?;
        heard.expect(&unread, "a key that was not read").await?;
        by_another(subject, set_op(&read, turn.to_string())).await?;
        heard.expect(&read, "a key that was read").await?;
        // Without another read in between.
        heard.forget();
        by_another(subject, Op::Delete { keys: vec![read.clone()] }).await?;
        heard.expect(&read, "a second change").await?;
    }
    Ok(())
}

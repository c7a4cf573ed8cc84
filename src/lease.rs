//! Leases: the right to load a key, across processes, for a limited time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::Result;
use crate::key::Key;
use crate::op::{
    Ask, Batch, Fetched, Lane, LeaseState, Leased, Op, Replaced, Replies, Reply, Vouch,
};
use crate::store::{Store, runtime};
use crate::ttl::{Expiry, Ttl};

/// A lease that this process holds, or may hold. However it ends, it is given back: by a fill, by
/// [`release`](Self::release), or by a task that its drop starts.
pub(crate) struct Lease {
    store: Arc<dyn Store>,
    key: Key,
    token: Bytes,
    term: Expiry,
    label: Option<Arc<str>>,
    // What the load replaces, and when its answer had come: a time that the store's clock was past.
    replaces: Option<(Bytes, Ttl)>,
    answered: Instant,
    // Over what it was asked for, until the answer is there.
    unheard: Option<Lane>,
    open: bool,
}

/// What came of asking for a lease.
pub(crate) struct Asked {
    pub(crate) leased: Leased,
    /// The lease, if it was granted.
    pub(crate) lease: Option<Lease>,
    /// The store's promise to tell of changes to the key, and to the lease if it is held.
    pub(crate) vouch: Option<Vouch>,
    /// A time that the store's clock was not past when it answered.
    pub(crate) sent: Instant,
}

/// For whom and how long leases are asked for.
pub(crate) struct Terms {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) name: &'static str,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) lane: Lane,
    pub(crate) term: Expiry,
}

impl Terms {
    /// Asks for the leases of some keys, in one round trip.
    ///
    /// # Errors
    /// One that concerns all of them; that of a single key stands in its place.
    pub(crate) async fn ask(&self, asks: Vec<(Key, Ask)>) -> Result<Vec<Result<Asked>>> {
        let sent = Instant::now();
        // Made before they are asked for: a caller that goes away in between gives them back.
        let mut leases: Vec<Lease> = asks.iter().map(|(key, _)| self.lease(key, sent)).collect();
        let ops = asks.into_iter().zip(&leases).map(|((key, ask), lease)| Op::Lease {
            key,
            token: lease.token.clone(),
            expiry: self.term,
            ask,
        });
        let batch = match leases.len() {
            1 => Batch::one(self.name, ops.into_iter().next().expect("there is one")),
            _ => Batch::many(self.name, ops.collect()),
        };
        let batch = self.labelled(batch).on(self.lane.clone());
        let replies = match self.store.run(batch).await {
            Ok(replies) => replies,
            Err(error) => {
                if error.outcome() == crate::error::Outcome::NotSent {
                    leases.iter_mut().for_each(|lease| lease.open = false);
                }
                return Err(error);
            }
        };
        let vouch = replies.vouch().copied();
        let answered = Instant::now();
        let answers = replies.into_results().into_iter().zip(leases).map(|(result, mut lease)| {
            lease.unheard = None;
            let leased = result.and_then(crate::op::Reply::into_leased)?;
            lease.open = matches!(leased.lease, LeaseState::Granted { .. });
            let lease = match &leased.lease {
                LeaseState::Granted { digest } => {
                    lease.answered = answered;
                    lease.replaces = digest.clone().map(|digest| (digest, leased.found.ttl));
                    Some(lease)
                }
                _ => None,
            };
            Ok(Asked { leased, lease, vouch, sent })
        });
        Ok(answers.collect())
    }

    fn lease(&self, key: &Key, now: Instant) -> Lease {
        Lease {
            store: Arc::clone(&self.store),
            key: key.clone(),
            token: Bytes::from(Uuid::now_v7().simple().to_string()),
            term: self.term,
            label: self.label.clone(),
            replaces: None,
            answered: now,
            unheard: Some(self.lane.clone()),
            open: true,
        }
    }

    fn labelled(&self, batch: Batch) -> Batch {
        match &self.label {
            Some(label) => batch.labelled(Arc::clone(label)),
            None => batch,
        }
    }
}

impl Lease {
    /// Whether the load replaces a value.
    pub(crate) fn replaces(&self) -> bool {
        self.replaces.is_some()
    }

    /// The operation that writes what was loaded, if the lease still stands and the key is as it was.
    /// Whether it is accepted or not, the lease is over then.
    pub(crate) fn fill(&self, value: Bytes, expiry: Option<Expiry>) -> Op {
        let replaces = self.replaces.as_ref().map(|(digest, ttl)| Replaced {
            digest: digest.clone(),
            ttl: *ttl,
            expired: ttl.remaining().is_some_and(|left| self.answered.elapsed() >= left),
        });
        let replaces = replaces.map(Box::new);
        Op::Fill { key: self.key.clone(), token: self.token.clone(), value, expiry, replaces }
    }

    /// Sends fills, in one round trip. The answer says of each whether it was accepted, and what stands there if not.
    pub(crate) async fn send(
        name: &'static str,
        fills: Vec<(Self, Op)>,
    ) -> Vec<Result<(bool, Fetched)>> {
        let Some((first, _)) = fills.first() else { return Vec::new() };
        let (store, label) = (Arc::clone(&first.store), first.label.clone());
        let (mut leases, mut ops): (Vec<Self>, Vec<Op>) = fills.into_iter().unzip();
        let count = leases.len();
        let batch = match count {
            1 => Batch::one(name, ops.remove(0)),
            _ => Batch::many(name, ops),
        };
        let batch = match label {
            Some(label) => batch.labelled(label),
            None => batch,
        };
        match store.run(batch).await.map(Replies::into_results) {
            Ok(results) => {
                // One that was refused by itself is given back.
                for (lease, result) in leases.iter_mut().zip(&results) {
                    lease.open = result.is_err();
                }
                results
                    .into_iter()
                    .map(|result| result.and_then(crate::op::Reply::into_filled))
                    .collect()
            }
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    /// Gives the lease back. Answers whether it was there until now: if not, the key was written or invalidated under it, or
    /// it ran out.
    pub(crate) async fn release(mut self) -> Result<bool> {
        let released = self.store.run(self.given_back()).await.and_then(Replies::into_one);
        // What cannot be given back now runs out by itself. A caller that goes away before this has it given back.
        self.open = false;
        released.and_then(Reply::into_bool)
    }

    fn given_back(&self) -> Batch {
        let op = Op::Release { key: self.key.lease(), id: self.token.clone() };
        let batch = Batch::one("release_lease", op);
        match &self.unheard {
            // Not to overtake the question.
            Some(lane) => batch.on(lane.clone()),
            None => batch,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Outside of a runtime it runs out by itself.
        if self.open && runtime::is_here() {
            let (store, release) = (Arc::clone(&self.store), self.given_back());
            tokio::spawn(async move { _ = store.run(release).await });
        }
    }
}

/// Renews leases at a third of their term for as long as `work` goes on, and answers what it gives.
pub(crate) async fn renewing<F: Future>(leases: &[Lease], work: F) -> F::Output {
    let Some(first) = leases.first() else { return work.await };
    let store = Arc::clone(&first.store);
    let pause = (first.term.as_duration() / 3).max(Duration::from_millis(1));
    let renew = || {
        let ops = leases.iter().map(|lease| Op::Renew {
            key: lease.key.lease(),
            id: lease.token.clone(),
            expiry: lease.term,
        });
        Batch::many("renew_lease", ops.collect()).timeout(pause)
    };
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(pause, &mut work).await {
            Ok(done) => return done,
            Err(_) => {
                // A lease that was voided meanwhile is found out by the fill. A slow answer must not
                // hold up the work.
                if let Either::Left((done, _)) = select(&mut work, store.run(renew())).await {
                    return done;
                }
            }
        }
    }
}

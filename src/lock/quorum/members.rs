//! A lock at several servers under one identifier: everybody is asked at once, and a majority decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::lock::LockId;
use crate::lock::contend::passes;
use crate::lock::hold::Hold;
use crate::op::{Batch, LockMode, Locked, Op, Reply};
use crate::store::{Store, runtime};
use crate::ttl::Expiry;

/// When it is decided, those who are not much slower than the others are waited for: as long again as the decision took,
/// and at least this time. What they hold counts from the beginning then, and what they give back is given back.
const LEAST_LINGER: Duration = Duration::from_millis(1);

/// A lock at some servers. Every command goes out in a task of its own: who goes away cuts none of them off.
pub(super) struct Members {
    all: Vec<Arc<Member>>,
    held: Arc<Held>,
    limit: Duration,
}

/// What its members share.
struct Held {
    key: Key,
    id: Bytes,
    expiry: Expiry,
    label: Option<Bytes>,
    // How many times a majority has confirmed it: the acquisition, and the renewals.
    confirmed: AtomicU64,
    // It is being given back: nothing takes or renews it any more.
    over: AtomicBool,
}

/// One of the servers.
struct Member {
    store: Arc<dyn Store>,
    held: Arc<Held>,
    // One command after the other: what gives the lock back shall not overtake, over another connection, what takes it.
    turn: Semaphore,
    // How often it had been confirmed when this server gave it.
    since: AtomicU64,
}

/// What one server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vote {
    Yes,
    No,
    // It holds the lock, but was given it again since a majority last confirmed it: somebody else may have had it.
    Young,
}

/// What the servers say.
pub(super) struct Tally {
    votes: Vec<Option<Result<Vote>>>,
}

/// How many of some servers have to agree.
pub(super) fn majority(servers: usize) -> usize {
    servers / 2 + 1
}

impl Tally {
    fn count(&self, is: impl Fn(&Result<Vote>) -> bool) -> usize {
        self.votes.iter().flatten().filter(|vote| is(vote)).count()
    }

    fn is_decided(&self) -> bool {
        self.is_held() || self.is_refused()
    }

    /// A majority agrees.
    pub(super) fn is_held(&self) -> bool {
        self.count(|vote| matches!(vote, Ok(Vote::Yes))) >= majority(self.votes.len())
    }

    /// So many say no that there is no majority, whatever the others say.
    fn is_refused(&self) -> bool {
        self.count(|vote| matches!(vote, Ok(Vote::No | Vote::Young))) > self.spare()
    }

    /// A majority answered, whatever it said.
    fn is_answered(&self) -> bool {
        self.count(Result::is_ok) >= majority(self.votes.len())
    }

    /// How many are not needed.
    fn spare(&self) -> usize {
        self.votes.len() - majority(self.votes.len())
    }

    /// Why a try did not get the lock, if it is not that others have it; and whether that may pass.
    pub(super) fn failure(&self) -> Option<(Error, bool)> {
        if self.is_refused() || self.is_answered() {
            return None;
        }
        let lasting = || self.errors().filter(|error| !passes(error));
        if lasting().count() > self.spare() {
            return lasting().next().map(|error| (error.clone(), false));
        }
        Some((self.undecided(), true))
    }

    fn errors(&self) -> impl Iterator<Item = &Error> {
        self.votes.iter().flatten().filter_map(|vote| vote.as_ref().err())
    }

    /// Too few answered to say yes or no.
    fn undecided(&self) -> Error {
        let (servers, answered) = (self.votes.len(), self.count(Result::is_ok));
        let error = Error::new(
            ErrorKind::Unavailable,
            format!(
                "{answered} of {servers} servers answered in time, which is no majority that agrees"
            ),
        );
        let error = match self.errors().next() {
            Some(cause) => error.with_source(cause.clone()),
            None => error,
        };
        error.with_outcome(Outcome::Unknown)
    }

    /// Whether a majority agrees, if that can be said.
    fn verdict(&self) -> Result<bool> {
        if self.is_decided() { Ok(self.is_held()) } else { Err(self.undecided()) }
    }
}

impl Members {
    pub(super) fn new(
        stores: impl IntoIterator<Item = Arc<dyn Store>>,
        key: Key,
        expiry: Expiry,
        label: Option<Bytes>,
        limit: Duration,
    ) -> Self {
        let held = Arc::new(Held {
            key,
            id: LockId::new().to_bytes(),
            expiry,
            label,
            confirmed: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let member = |store| {
            Arc::new(Member {
                store,
                held: Arc::clone(&held),
                turn: Semaphore::new(1),
                since: AtomicU64::new(u64::MAX),
            })
        };
        Self { all: stores.into_iter().map(member).collect(), held, limit }
    }

    /// Asks everybody for the lock.
    pub(super) async fn take(&self) -> Tally {
        let limit = self.limit;
        let tally = self.ask(|member| async move { member.take(limit).await }).await;
        if tally.is_held() {
            self.held.confirmed.fetch_add(1, Ordering::SeqCst);
        }
        tally
    }

    /// Gives back what a failed try got, at every server. Waits for those that answered the try; the others are asked in the
    /// background.
    pub(super) async fn undo(&self, tried: &Tally) {
        let mut votes = self.give_back_everywhere();
        let mut waiting: Vec<bool> =
            tried.votes.iter().map(|vote| matches!(vote, Some(Ok(_)))).collect();
        while waiting.contains(&true) {
            // Every command has its limit.
            let Some((at, _)) = votes.recv().await else { return };
            waiting[at] = false;
        }
    }

    fn give_back_everywhere(&self) -> mpsc::UnboundedReceiver<(usize, Result<Vote>)> {
        self.held.over.store(true, Ordering::SeqCst);
        let limit = self.limit;
        self.send(|member| async move { member.give_back(limit).await })
    }

    /// Asks everybody, until it is decided or everybody has answered.
    async fn ask<Fut>(&self, command: impl Fn(Arc<Member>) -> Fut) -> Tally
    where
        Fut: Future<Output = Result<Vote>> + Send + 'static,
    {
        let votes = self.send(command);
        self.gather(votes).await
    }

    fn send<Fut>(
        &self,
        command: impl Fn(Arc<Member>) -> Fut,
    ) -> mpsc::UnboundedReceiver<(usize, Result<Vote>)>
    where
        Fut: Future<Output = Result<Vote>> + Send + 'static,
    {
        let (sender, votes) = mpsc::unbounded_channel();
        for (at, member) in self.all.iter().enumerate() {
            let (sender, vote) = (sender.clone(), command(Arc::clone(member)));
            tokio::spawn(async move {
                // Who asked may be gone.
                _ = sender.send((at, vote.await));
            });
        }
        votes
    }

    async fn gather(&self, mut votes: mpsc::UnboundedReceiver<(usize, Result<Vote>)>) -> Tally {
        let asked = Instant::now();
        let mut tally = Tally { votes: self.all.iter().map(|_| None).collect() };
        while !tally.is_decided() {
            // No more only if the runtime is being shut down.
            let Some((at, vote)) = votes.recv().await else { break };
            tally.votes[at] = Some(vote);
        }
        let linger = asked.elapsed().max(LEAST_LINGER);
        let rest = async {
            while let Some((at, vote)) = votes.recv().await {
                tally.votes[at] = Some(vote);
            }
        };
        if tokio::time::timeout(linger, rest).await.is_err() {
            tracing::debug!(target: "larder", key = %self.held.key, "a server is slower than a majority");
        }
        tally
    }
}

impl Hold for Members {
    fn key(&self) -> &Key {
        &self.held.key
    }

    fn extend(&self, within: Duration) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let tally = self.ask(|member| async move { member.extend(within).await }).await;
            if tally.is_held() {
                self.held.confirmed.fetch_add(1, Ordering::SeqCst);
                // Who has lost it is given it again, so that a lock that is held for long outlives the servers, one by one.
                for (member, vote) in self.all.iter().zip(&tally.votes) {
                    if matches!(vote, Some(Ok(Vote::No))) {
                        let (member, limit) = (Arc::clone(member), self.limit);
                        tokio::spawn(async move { member.take(limit).await });
                    }
                }
            }
            tally.verdict()
        })
    }

    fn release(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            runtime::check("giving back a lock of several servers")?;
            let votes = self.give_back_everywhere();
            let verdict = self.gather(votes).await.verdict();
            verdict.map_err(|error| error.with_op("release_lock").with_key(self.key()))
        })
    }
}

impl Member {
    async fn take(&self, limit: Duration) -> Result<Vote> {
        let (_turn, left) = self.turn_within(limit).await?;
        let op = Op::Lock {
            key: self.held.key.clone(),
            id: self.held.id.clone(),
            expiry: self.held.expiry,
            mode: LockMode::Exclusive { label: self.held.label.clone(), fair: false, waits: None },
        };
        match self.run("lock", op, left).await?.into_locked()? {
            Locked::Taken { .. } => {
                // Read after the answer: what is confirmed later is confirmed while this server holds it.
                let confirmed = self.held.confirmed.load(Ordering::SeqCst);
                self.since.store(confirmed, Ordering::SeqCst);
                Ok(Vote::Yes)
            }
            Locked::Held { .. } => Ok(Vote::No),
        }
    }

    async fn extend(&self, within: Duration) -> Result<Vote> {
        let (_turn, left) = self.turn_within(within).await?;
        let op = Op::Extend {
            key: self.held.key.clone(),
            id: self.held.id.clone(),
            expiry: self.held.expiry,
            shared: false,
        };
        if !self.run("renew_lock", op, left).await?.into_bool()? {
            return Ok(Vote::No);
        }
        let confirmed = self.held.confirmed.load(Ordering::SeqCst);
        Ok(if self.since.load(Ordering::SeqCst) < confirmed { Vote::Yes } else { Vote::Young })
    }

    async fn give_back(&self, limit: Duration) -> Result<Vote> {
        // Whatever is before it has a limit of its own.
        let _turn = self.turn.acquire().await;
        let op = Op::Unlock { key: self.held.key.clone(), id: self.held.id.clone(), shared: false };
        let held = self.run("release_lock", op, limit).await?.into_bool()?;
        Ok(if held { Vote::Yes } else { Vote::No })
    }

    /// Its turn, and what is left of the limit then. Not if the lock is being given back.
    async fn turn_within(&self, limit: Duration) -> Result<(SemaphorePermit<'_>, Duration)> {
        let asked = Instant::now();
        let turn = match tokio::time::timeout(limit, self.turn.acquire()).await {
            Ok(Ok(turn)) if !self.held.over.load(Ordering::SeqCst) => turn,
            _ => {
                let error = Error::new(ErrorKind::Timeout, "the server has not answered before");
                return Err(error.with_outcome(Outcome::NotSent));
            }
        };
        Ok((turn, limit.saturating_sub(asked.elapsed())))
    }

    async fn run(&self, name: &'static str, op: Op, limit: Duration) -> Result<Reply> {
        self.store.run(Batch::one(name, op).timeout(limit)).await?.into_one()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(votes: &str) -> Tally {
        let vote = |letter| match letter {
            'y' => Some(Ok(Vote::Yes)),
            'n' => Some(Ok(Vote::No)),
            'j' => Some(Ok(Vote::Young)),
            't' => Some(Err(Error::new(ErrorKind::Timeout, "late"))),
            'c' => Some(Err(Error::new(ErrorKind::Closed, "closed"))),
            _ => None,
        };
        Tally { votes: votes.chars().map(vote).collect() }
    }

    #[test]
    fn a_majority_of_all_decides_and_who_is_silent_is_no_vote() {
        for (votes, verdict) in [
            ("yyy..", Some(true)),
            ("nnn..", Some(false)),
            ("yynnn", Some(false)),
            ("yyj..", None),
            ("yyjjn", Some(false)),
            ("yyntt", None),
            ("yyttt", None),
            ("yyn", Some(true)),
            ("yy..", None),
            ("nn..", Some(false)),
            ("yyyn", Some(true)),
        ] {
            let tally = tally(votes);
            assert_eq!(tally.verdict().ok(), verdict, "{votes}");
            assert_eq!(tally.is_decided(), verdict.is_some(), "{votes}");
        }
    }

    #[test]
    fn a_try_fails_only_if_too_few_answered_and_for_good_only_if_a_majority_cannot_mend_it() {
        let failure = |votes| tally(votes).failure().map(|(error, passes)| (error.kind(), passes));
        for others in ["yynnn", "yyntt", "nnn..", "yync."] {
            assert_eq!(failure(others), None, "{others}");
        }
        assert_eq!(failure("yyttt"), Some((ErrorKind::Unavailable, true)));
        assert_eq!(failure("yytcc"), Some((ErrorKind::Unavailable, true)));
        assert_eq!(failure("yyccc"), Some((ErrorKind::Closed, false)));
    }
}

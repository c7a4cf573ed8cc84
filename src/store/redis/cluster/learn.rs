//! Finding out who serves what: from any node that answers, by one task for all who want to know.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use redis::Value;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::super::dial::{Dialled, dial};
use super::super::failure;
use super::Cluster;
use super::node::Node;
use super::topology::{Map, View};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::url::Address;

/// The nodes are asked no more often than this, however many calls want to know.
const BETWEEN: Duration = Duration::from_millis(100);

/// While nobody answers, pauses double up to this.
const LAST_PAUSE: Duration = Duration::from_millis(800);

/// A node that has not answered within this time has another one asked beside it: some round trips.
const SOON: Duration = Duration::from_millis(100);

/// How often the nodes are asked while changes are told: a slot that moved is told of by its new owner alone, and who
/// vouched for it before does not say so.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For how long a node without slots is remembered that served some on their way.
const LENT: Duration = Duration::from_secs(10);

/// What is known of looking.
pub(super) struct Learning {
    running: bool,
    not_before: Instant,
    failures: u32,
    last: Option<Error>,
}

impl Default for Learning {
    fn default() -> Self {
        Self { running: false, not_before: Instant::now(), failures: 0, last: None }
    }
}

/// Who can be asked.
enum Candidate {
    Node(Arc<Node>),
    At(Address),
}

impl Cluster {
    /// Who serves what, as far as it is known; waits until `end` if nothing is.
    pub(super) async fn map(self: &Arc<Self>, end: Instant) -> Result<Arc<Map>> {
        loop {
            if let Some(map) = self.known_map() {
                return Ok(map);
            }
            match self.learn(end).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable && Instant::now() < end => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks again, and waits for it until `end`.
    pub(super) async fn learn(self: &Arc<Self>, end: Instant) -> Result<()> {
        let mut learned = self.learned.subscribe();
        self.learn_soon();
        let last = || self.learning().last.clone();
        match timeout_at(end, learned.changed()).await {
            Ok(_) => last().map_or(Ok(()), Err),
            Err(_) => Err(last().unwrap_or_else(|| {
                Error::new(ErrorKind::Unavailable, "no node of the cluster answered in time")
                    .with_outcome(Outcome::NotSent)
            })),
        }
    }

    /// Looks again, for a caller that does not wait for it.
    pub(super) fn learn_soon(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut learning = self.learning();
        if !std::mem::replace(&mut learning.running, true) {
            drop(learning);
            runtime.spawn(Looking(Arc::clone(self)).run());
        }
    }

    fn learning(&self) -> std::sync::MutexGuard<'_, Learning> {
        // Nothing that can panic runs under this lock.
        self.learning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one node after the other, without waiting long for any.
    async fn look(&self) -> Result<View> {
        let mut candidates = self.candidates().into_iter();
        let mut asked = FuturesUnordered::new();
        let mut last = None;
        loop {
            match candidates.next() {
                Some(candidate) => asked.push(timeout(self.patience.connect, self.ask(candidate))),
                None if asked.is_empty() => {
                    return Err(last.unwrap_or_else(|| {
                        Error::new(ErrorKind::Unavailable, "no node of the cluster is known")
                            .with_outcome(Outcome::NotSent)
                    }));
                }
                None => {}
            }
            let soon = if candidates.len() == 0 { self.patience.connect } else { SOON };
            match timeout(soon, asked.next()).await {
                Ok(Some(Ok(Ok(view)))) => return Ok(view),
                // What waiting cannot mend is the better explanation.
                Ok(Some(Ok(Err(error)))) => {
                    let better = |last: &Error| last.kind() != ErrorKind::Unavailable;
                    if !last.as_ref().is_some_and(better) {
                        last = Some(error);
                    }
                }
                Ok(Some(Err(_))) => {
                    last.get_or_insert_with(|| {
                        Error::new(
                            ErrorKind::Unavailable,
                            "the nodes of the cluster did not answer in time",
                        )
                        .with_outcome(Outcome::NotSent)
                    });
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Nodes that can be asked: those with a connection first, then everybody else that was ever named.
    fn candidates(&self) -> Vec<Candidate> {
        let mut nodes: Vec<Arc<Node>> = self.known().nodes().cloned().collect();
        if !nodes.is_empty() {
            // Not always the same one.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % nodes.len();
            nodes.rotate_left(turn);
        }
        let (up, down): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| node.current().is_some());
        let replicas = self.known_map().map(|map| map.replicas.clone()).unwrap_or_default();
        let mut addresses: Vec<Address> = Vec::new();
        let others = down.iter().map(|node| node.address().clone()).chain(replicas);
        for address in others.chain(self.seeds.iter().cloned()) {
            let is_up = up.iter().any(|node| *node.address() == address);
            if !is_up && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let addresses = addresses.into_iter().map(Candidate::At);
        up.into_iter().map(Candidate::Node).chain(addresses).collect()
    }

    async fn ask(&self, candidate: Candidate) -> Result<View> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let (answer, at) = match &candidate {
            Candidate::Node(node) => {
                let end = Instant::now() + self.patience.connect;
                let (link, mut live) = node.data(end, false).await?;
                let asked = link.asked(&live.pulse, Instant::now(), 0, false);
                let answer = live.connection.send_packed_command(&command).await;
                asked.answered();
                (answer, node.address())
            }
            Candidate::At(address) => {
                let Dialled { mut connection, driver, .. } =
                    dial(&self.target(address), None).await?;
                let answer = std::pin::pin!(connection.send_packed_command(&command));
                match select(driver, answer).await {
                    Either::Left(_) => return Err(lost(address)),
                    Either::Right((answer, _)) => (answer, address),
                }
            }
        };
        match answer {
            Ok(Value::ServerError(error)) => Err(match (error.code(), error.details()) {
                ("ERR", Some(text)) if text.contains("cluster support disabled") => Error::new(
                    ErrorKind::Config,
                    format!("{at} is not part of a cluster; use a URL with redis:// for it"),
                ),
                _ => failure::refused(&error),
            }
            .with_outcome(Outcome::NotSent)),
            Ok(value) => View::read(&value, at),
            Err(error) => Err(failure::failed(&error, false)),
        }
    }

    /// Takes a view over. What changed its owner is not vouched for by the old one any more.
    fn adopt(&self, view: View) -> Result<()> {
        let mut known = self.known();
        if known.is_closed() {
            return Err(super::closed());
        }
        // First those who are gone, so that there is room for who took their place.
        let count = view.primaries.len();
        let readers = self.readers(count, view.replicas.len());
        let gone = self.make_room(&mut known, count, readers, |node| {
            view.primaries.contains(node.address()) || node.lent_within(LENT)
        });
        let nodes = view.primaries.iter().map(|address| self.node(&mut known, address, count));
        let nodes = nodes.collect::<Result<Vec<_>>>();
        let readers = self.read_from(&mut known, &view.replicas[..readers]);
        drop(known);
        if let Ok(nodes) = nodes {
            self.take_over(|_| Some(Map::of(view, nodes, &readers)));
            gone.iter().for_each(|node| node.moved());
            return Ok(());
        }
        gone.iter().for_each(|node| node.moved());
        nodes.map(drop)
    }

    /// A slot is another node's now, as the old one says.
    pub(super) fn learned(&self, slot: u16, node: &Arc<Node>) {
        self.take_over(|map| {
            let map = map?;
            let is_new = !map.owner(slot).is_some_and(|owner| Arc::ptr_eq(owner, node));
            is_new.then(|| map.with_owner(slot, node))
        });
    }

    /// Puts another map in place of the one that is there, if there is another.
    fn take_over(&self, other: impl FnOnce(Option<&Map>) -> Option<Map>) {
        let mut place = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let Some(map) = other(place.as_deref()).map(Arc::new) else { return };
        self.version.fetch_add(1, Ordering::SeqCst);
        let old = place.replace(Arc::clone(&map));
        drop(place);
        // Behind the change: whoever is vouched to from here on looks at the new map.
        if let Some(old) = old {
            for node in old.losers(&map) {
                tracing::debug!(target: "larder", node = %node.address(), "slots of the cluster moved");
                node.moved();
            }
        }
    }

    /// Sees to it that moved slots are noticed while changes are told, whether somebody calls or not.
    pub(super) fn look_after(self: &Arc<Self>) {
        if self.looking_after.load(Ordering::Relaxed)
            || self.looking_after.swap(true, Ordering::SeqCst)
        {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                let task = LookingAfter { cluster: Arc::downgrade(self), on_duty: true };
                runtime.spawn(task.run());
            }
            Err(_) => self.looking_after.store(false, Ordering::SeqCst),
        }
    }
}

fn lost(address: &Address) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the connection to {address} was lost"))
        .with_outcome(Outcome::NotSent)
}

/// The task that looks. If its runtime is shut down under it, the next caller starts another.
struct Looking(Arc<Cluster>);

impl Looking {
    async fn run(self) {
        let not_before = self.0.learning().not_before;
        sleep_until(not_before).await;
        let looked = self.0.look().await.and_then(|view| self.0.adopt(view));
        let mut learning = self.0.learning();
        learning.last = looked.err();
        match &learning.last {
            None => learning.failures = 0,
            Some(error) => {
                tracing::debug!(target: "larder", %error, "cannot find out who serves what in the cluster");
                learning.failures = learning.failures.saturating_add(1);
            }
        }
        let pause = BETWEEN.saturating_mul(1 << learning.failures.min(3)).min(LAST_PAUSE);
        // Up to half of it is left to chance, so that clients do not come in step.
        learning.not_before = Instant::now() + pause.mul_f64(1.0 - fastrand::f64() / 2.0);
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.learning().running = false;
        self.0.learned.send_replace(());
    }
}

/// The task that looks while changes are told.
struct LookingAfter {
    cluster: Weak<Cluster>,
    on_duty: bool,
}

impl LookingAfter {
    async fn run(mut self) {
        loop {
            sleep(LOOK_EVERY).await;
            let Some(cluster) = self.cluster.upgrade() else { return };
            if !cluster.tells() {
                cluster.looking_after.store(false, Ordering::SeqCst);
                // A connection that came up meanwhile saw this task at work.
                self.on_duty =
                    cluster.tells() && !cluster.looking_after.swap(true, Ordering::SeqCst);
                if !self.on_duty {
                    return;
                }
            }
            _ = cluster.learn(Instant::now() + LOOK_EVERY).await;
        }
    }
}

impl Drop for LookingAfter {
    fn drop(&mut self) {
        if self.on_duty
            && let Some(cluster) = self.cluster.upgrade()
        {
            cluster.looking_after.store(false, Ordering::SeqCst);
        }
    }
}

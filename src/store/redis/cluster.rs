//! A cluster: every call goes to the node that serves its key's slot, over connections of larder's own to each node.
//!
//! What a node refuses was not applied, so it is sent on (`MOVED`, `ASK`) or again, whatever it is. What got no answer is
//! not: that is for the layers above to decide, as on a single server.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use self::known::Known;
use self::learn::Learning;
use self::refusal::Refusal;
use self::topology::Map;
use self::trip::{Group, Next, Packed, Refused, Trip, may_go_to_replicas};
use super::failure;
use super::large::LargeValues;
use super::link::{Link, Live};
use super::ping::Patience;
use super::track::Sinks;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::op::{Batch, Lane, Op, Replies, Vouch};
use crate::store::url::{Address, ReadPreference, RedisTarget};
use crate::store::{Backlog, InvalidationSink, ServerId, Servers};

mod known;
mod learn;
mod node;
mod piece;
mod refusal;
mod scan;
mod together;
mod topology;
mod trip;

use self::node::Node;

/// The pauses before what was refused is sent again: from the first, doubling, to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// Nothing is sent again so shortly before the deadline: that it was refused says more than that no answer came.
const LAST_MOMENT: Duration = Duration::from_millis(20);

/// How long a call waits for a connection to one node before it asks whether that node is still the right one.
const NODE_PATIENCE: Duration = Duration::from_millis(150);

/// What stands for the primary of any slot as long as the cluster was not found. No primary has it.
const NOT_FOUND: ServerId = ServerId::MAX;

/// The same for slots that nobody serves in a cluster that was found.
const NOBODY: ServerId = ServerId::MAX - 1;

/// A cluster, and what is known of it.
pub(super) struct Cluster {
    seeds: Vec<Address>,
    // Who we are at every node. Its address is that of the first seed.
    template: RedisTarget,
    connections: Option<usize>,
    most: usize,
    patience: Patience,
    large: LargeValues,
    sinks: Arc<Sinks>,
    known: Mutex<Known>,
    map: RwLock<Option<Arc<Map>>>,
    // Counted up before a map is replaced, under its lock.
    version: AtomicU64,
    learning: Mutex<Learning>,
    // Ticks when a look is over.
    learned: watch::Sender<()>,
    looking_after: AtomicBool,
    turn: AtomicUsize,
}

/// What came of sending a group.
enum Sent {
    Answers(Vec<Value>, Option<Vouch>),
    /// It was not sent.
    Down(Error),
    /// It may have been applied.
    Lost(Error),
}

impl Cluster {
    /// A cluster that is looked for at `seeds` when it is first used. Of at most `most` connections in all, about
    /// `connections` carry data, at least one to each node, or two to each; and one to each tells of changes.
    pub(super) fn new(
        seeds: Vec<Address>,
        template: RedisTarget,
        connections: Option<usize>,
        most: Option<usize>,
        patience: Patience,
    ) -> Self {
        Self {
            seeds,
            template,
            connections,
            most: most.unwrap_or(usize::MAX),
            patience,
            large: LargeValues::default(),
            sinks: Arc::default(),
            known: Mutex::default(),
            map: RwLock::default(),
            version: AtomicU64::new(0),
            learning: Mutex::default(),
            learned: watch::Sender::new(()),
            looking_after: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }
    }

    /// As [`Store::run`](crate::store::Store::run).
    pub(super) async fn run(self: &Arc<Self>, batch: &Batch) -> Result<Replies> {
        if self.known().is_closed() {
            return Err(closed());
        }
        let mut trip = Trip::plan(batch)?;
        let end = batch.deadline().unwrap_or_else(|| Instant::now() + self.patience.connect);
        // An attempt before this one may have been applied.
        let unsure = batch.was_sent();
        let mut pause = FIRST_PAUSE;
        let mut to_replicas = self.prefers_replicas();
        while !trip.is_over() {
            let map = self.map(end).await?;
            if std::mem::take(&mut to_replicas) {
                trip.prefer_replicas(&map);
            }
            let groups = trip.groups(&map, || self.anybody(&map));
            let sent = match &groups[..] {
                [group] if !group.node.is_replica() => vec![self.send(batch, group, end).await],
                // Boxed, so that calls to one primary do not carry its room.
                several => {
                    let sent = several.iter().map(|group| async {
                        if group.node.is_replica() {
                            self.send_to_replica(batch, group, end).await
                        } else {
                            self.send(batch, group, end).await
                        }
                    });
                    Box::pin(join_all(sent)).await
                }
            };
            // A slot that nobody serves has no group.
            let mut next = if groups.is_empty() { Next::Learn } else { Next::Send };
            for (group, sent) in groups.iter().zip(sent) {
                next = next.max(self.take(&mut trip, &map, group, sent, end).await);
            }
            trip.settle();
            if trip.is_over() {
                break;
            }
            if !unsure && !trip.touched {
                batch.clear_sent();
            }
            if next == Next::Send {
                if Instant::now() >= end {
                    trip.give_up();
                }
                continue;
            }
            // Up to half of the pause is left to chance, so that callers do not come in step.
            let jittered = pause.mul_f64(1.0 - fastrand::f64() / 2.0);
            pause = (pause * 2).min(LAST_PAUSE);
            if Instant::now() + jittered >= end {
                trip.give_up();
                break;
            }
            tokio::time::sleep(jittered).await;
            if next == Next::Learn {
                // What it comes to is seen by the next attempt, for which some of the time is left.
                let left = end.saturating_duration_since(Instant::now());
                _ = self.learn(end - left / 2).await;
            }
            if Instant::now() + LAST_MOMENT >= end {
                trip.give_up();
                break;
            }
        }
        let done = trip.finish();
        if let Ok(replies) = &done {
            self.large.learn(batch, replies);
        }
        done
    }

    /// Takes what came of a group.
    async fn take(
        self: &Arc<Self>,
        trip: &mut Trip<'_>,
        map: &Map,
        group: &Group,
        sent: Sent,
        end: Instant,
    ) -> Next {
        if group.node.is_replica() {
            return self.take_from_replica(trip, map, group, sent);
        }
        match sent {
            Sent::Down(error) if error.kind() == ErrorKind::Unavailable => {
                trip.all_again(group, &error);
                Next::Learn
            }
            Sent::Down(error) => {
                trip.lose(group, &error);
                Next::Send
            }
            Sent::Lost(error) => {
                self.learn_soon();
                trip.lose(group, &error);
                Next::Send
            }
            Sent::Answers(values, vouch) => {
                let mut next = Next::Send;
                for refused in trip.hear(map, group, values, vouch) {
                    next = next.max(self.follow(trip, &group.node, refused, end).await);
                }
                next
            }
        }
    }

    /// Takes what came of asking a replica. What it did not answer is asked of the primary: it is a read, whatever became of
    /// it.
    fn take_from_replica(
        self: &Arc<Self>,
        trip: &mut Trip<'_>,
        map: &Map,
        group: &Group,
        sent: Sent,
    ) -> Next {
        match sent {
            Sent::Down(error) | Sent::Lost(error) => trip.all_again(group, &error),
            Sent::Answers(values, _) => {
                for Refused { piece, why } in trip.hear(map, group, values, None) {
                    let error = match why {
                        Ok(Refusal::Unfit(error)) | Err(error) => error,
                        // It is a replica of another primary now, or of none.
                        Ok(_) => {
                            self.learn_soon();
                            failure::by_code("MOVED", "")
                        }
                    };
                    trip.again(piece, error);
                }
            }
        }
        Next::Send
    }

    /// Goes where a refusal points to.
    async fn follow(
        self: &Arc<Self>,
        trip: &mut Trip<'_>,
        by: &Arc<Node>,
        Refused { piece, why }: Refused,
        end: Instant,
    ) -> Next {
        let (to, moved) = match why {
            Ok(Refusal::Split) => return trip.scattered(piece),
            Ok(Refusal::Unfit(error)) => {
                trip.again(piece, error);
                return Next::Learn;
            }
            Ok(Refusal::Moved { slot, to }) if trip.slot(piece) == Some(slot) => (to, Some(slot)),
            Ok(Refusal::Moved { .. }) => {
                trip.fail(piece, refusal::senseless("MOVED"));
                return Next::Send;
            }
            Ok(Refusal::Ask { to }) => (to, None),
            Err(error) => {
                trip.fail(piece, error);
                return Next::Send;
            }
        };
        let code = if moved.is_some() { "MOVED" } else { "ASK" };
        match self.member(&to, by, code, end).await {
            Ok(node) => {
                match moved {
                    Some(slot) => {
                        self.learned(slot, &node);
                        self.learn_soon();
                    }
                    None => node.lend(),
                }
                trip.send_on(piece, node, moved.is_none())
            }
            // Of a bounded number of connections none is left for it. They are split anew once it is known who is gone.
            Err(error) if error.kind() == ErrorKind::Config => trip.has_no_room(piece, error),
            Err(error) => {
                trip.fail(piece, error);
                Next::Send
            }
        }
    }

    /// Asks a replica, for half of the time that is left: if it is silent, the primary has the other half.
    async fn send_to_replica(self: &Arc<Self>, batch: &Batch, group: &Group, end: Instant) -> Sent {
        let half = end.saturating_duration_since(Instant::now()) / 2;
        match tokio::time::timeout(half, self.send(batch, group, end)).await {
            Ok(sent) => sent,
            Err(_) => Sent::Lost(
                Error::new(ErrorKind::Unavailable, "the replica did not answer in time")
                    .with_outcome(Outcome::Unknown),
            ),
        }
    }

    /// Sends the commands of a group and waits for all answers.
    async fn send(self: &Arc<Self>, batch: &Batch, group: &Group, end: Instant) -> Sent {
        let bytes = group.request.bytes();
        let large = self.large.expected(batch, bytes);
        let node = &group.node;
        let mut unanswered = Unanswered { cluster: self, node, waits: false, answered: false };
        let (link, mut live, vouch) = match self.reach(batch.lane(), group, large, end).await {
            Ok(reached) => reached,
            Err(error) => return Sent::Down(error.with_outcome(Outcome::NotSent)),
        };
        unanswered.waits = true;
        if super::waits(batch) {
            live.pulse.hold_up();
        }
        let asked = link.asked(&live.pulse, Instant::now(), bytes, large);
        batch.mark_sent();
        let answers = match &group.request {
            Packed::One(command) => {
                live.connection.send_packed_command(command).await.map(|answer| vec![answer])
            }
            Packed::Many(pipeline) => {
                live.connection.send_packed_commands(pipeline, 0, pipeline.len()).await
            }
        };
        asked.answered();
        unanswered.waits = false;
        unanswered.answered = answers.is_ok();
        match answers {
            Ok(answers) => {
                // A node that wants credentials again, after they were changed, gets them from a new handshake.
                if answers.iter().any(forgot_us) {
                    link.discard(&live.pulse);
                }
                Sent::Answers(answers, vouch)
            }
            Err(error) => Sent::Lost(failure::failed(&error, true)),
        }
    }

    /// A connection to the group's node, with what it vouches for.
    async fn reach(
        self: &Arc<Self>,
        lane: &Lane,
        group: &Group,
        large: bool,
        end: Instant,
    ) -> Result<(Link, Live, Option<Vouch>)> {
        if *lane != Lane::Data
            && let Some(link) = group.node.teller(lane)
            && let Some(live) = link.soon(Some(end)).await
        {
            self.look_after();
            let all = self.all_tell(lane);
            // Taken before anything is sent, and only from who serves the slots then: whoever loses one from now on
            // has its vouch ended.
            let vouch = live.vouch().filter(|_| all && self.owns(&group.node, &group.slots));
            return Ok((link, live, vouch));
        }
        let (link, live) = group.node.data(end.min(Instant::now() + NODE_PATIENCE), large).await?;
        Ok((link.clone(), live, None))
    }

    /// Whether a node serves all of these slots, as far as it is known.
    fn owns(&self, node: &Arc<Node>, slots: &[u16]) -> bool {
        let Some(map) = self.known_map() else { return false };
        slots.iter().all(|slot| map.owner(*slot).is_some_and(|owner| Arc::ptr_eq(owner, node)))
    }

    /// Whether a change to any key of the lane is told, on whichever node. Sees to it that it is, later.
    fn all_tell(&self, lane: &Lane) -> bool {
        let (Lane::Broadcast(_), Some(map)) = (lane, self.known_map()) else { return true };
        let mut all = true;
        for link in map.nodes().iter().map(|node| node.teller(lane)) {
            match link {
                Some(link) if link.current().is_some() => {}
                Some(link) => {
                    link.dial();
                    all = false;
                }
                None => all = false,
            }
        }
        all
    }

    /// A node for what every node can do.
    fn anybody(&self, map: &Map) -> Option<Arc<Node>> {
        let nodes = map.nodes();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut all = (0..nodes.len()).map(|at| &nodes[(turn + at) % nodes.len()]);
        let first = all.clone().next()?;
        Some(Arc::clone(all.find(|node| node.current().is_some()).unwrap_or(first)))
    }

    fn known_map(&self) -> Option<Arc<Map>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Store::on_invalidation`](crate::store::Store::on_invalidation).
    pub(super) fn on_invalidation(&self, sink: Arc<dyn InvalidationSink>) {
        self.sinks.add(sink);
    }

    /// Where it is looked for.
    pub(super) fn address(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(Address::to_string).collect();
        seeds.join(",")
    }

    /// What calls that were given up have left in the queues of its connections.
    pub(super) fn backlog(&self) -> Arc<Backlog> {
        Arc::clone(&self.template.backlog)
    }

    /// Whether changes may be told: not if there is a single connection.
    pub(super) fn can_tell(&self) -> bool {
        self.most > 1
    }

    /// Whether the node that was asked last to tell of changes would not.
    pub(super) fn is_refused_tracking(&self) -> bool {
        self.sinks.are_refused()
    }

    fn prefers_replicas(&self) -> bool {
        self.template.options.read_from == Some(ReadPreference::PreferReplica)
    }

    /// Lets go of all connections for good.
    pub(super) fn close(&self) {
        self.known().close();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing that can panic runs under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers for Cluster {
    fn of_slots(&self, slots: &mut dyn Iterator<Item = u16>) -> Vec<ServerId> {
        let Some(map) = self.known_map() else { return slots.map(|_| NOT_FOUND).collect() };
        slots.map(|slot| map.owner(slot).map_or(NOBODY, |node| node.number)).collect()
    }

    fn of(&self, batch: &Batch) -> BTreeSet<ServerId> {
        if self.known_map().is_none() {
            return BTreeSet::from([NOT_FOUND]);
        }
        if self.prefers_replicas() && may_go_to_replicas(batch) {
            return BTreeSet::new();
        }
        let keys = batch.ops().iter().flat_map(Op::keys);
        let servers = self.of_slots(&mut keys.map(Key::slot));
        // A slot that nobody serves is an error that says so, and no node's silence.
        if servers.contains(&NOBODY) {
            return BTreeSet::new();
        }
        servers.into_iter().collect()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn is_silent(&self, server: ServerId) -> bool {
        let Some(map) = self.known_map() else { return true };
        // A call on a slot that nobody serves got its answer: that there is none.
        map.nodes().iter().any(|node| node.number == server && node.is_silent())
    }

    fn has(&self, server: ServerId) -> bool {
        match self.known_map() {
            None => server == NOT_FOUND,
            Some(map) if server == NOBODY => map.has_holes,
            Some(map) => map.nodes().iter().any(|node| node.number == server),
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.known_map().map_or(0, |map| map.nodes().len());
        f.debug_struct("Cluster")
            .field("seeds", &self.address())
            .field("primaries", &nodes)
            .finish()
    }
}

/// A call to a node. If it is given up while it waits for its answers, that may be gone.
struct Unanswered<'a> {
    cluster: &'a Arc<Cluster>,
    node: &'a Node,
    waits: bool,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.node.ended(self.answered);
        if self.waits {
            self.cluster.learn_soon();
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client is closed")
}

fn forgot_us(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOAUTH")
}

/// What an answer comes to as a topology and as a redirection: what was refused.
#[cfg(feature = "testing")]
pub(super) fn read_all(answer: &Value) -> Vec<Error> {
    let asked = Address::Tcp { host: "asked".to_owned(), port: 1 };
    let mut refused = Vec::new();
    match topology::View::read(answer, &asked) {
        Ok(view) => drop(Map::of(view, Vec::new(), &[]).owner(0)),
        Err(error) => refused.push(error),
    }
    drop(topology::every_address(answer, &asked));
    refused.extend(Refusal::within(answer, &asked).and_then(Result::err));
    refused
}

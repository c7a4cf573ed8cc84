//! The faults: drawn from a seed, one after the other, each counted when it was seen to happen.

use std::fmt;
use std::time::{Duration, Instant};

use larder::testing::{Cut, FaultProxy, RedisCluster, RedisServer, Resp};

use self::Fault::*;
use crate::common::tracking;
use crate::place::{Place, Servers};
use crate::until;
use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    // Of every place.
    Killed,
    TrackingKilled,
    Stopped,
    ScriptsFlushed,
    Paused,
    OutOfMemory,
    OtherStopped,
    OtherRestarted,
    // A server with its data on disk, which nobody takes the place of meanwhile.
    Restarted,
    // Of the network in front of one server.
    AllCut,
    CutInReply,
    CutInCommand,
    Delayed,
    Sliced,
    Swallowed,
    NotLetIn,
    // Of a cluster: nothing is lost by these two.
    SlotsMoved,
    FailoverAsked,
    // What was acknowledged may be lost by these.
    PrimaryKilled,
    PrimaryStopped,
    FailoverBySentinels,
    // Of those who watch.
    SentinelKilled,
}

const EVERYWHERE: [Fault; 8] = [
    Killed,
    TrackingKilled,
    Stopped,
    ScriptsFlushed,
    Paused,
    OutOfMemory,
    OtherStopped,
    OtherRestarted,
];

impl Fault {
    fn of(place: &Place) -> Vec<Self> {
        let more: &[Self] = match place.servers {
            Servers::One { .. } => {
                &[Restarted, AllCut, CutInReply, CutInCommand, Delayed, Sliced, Swallowed, NotLetIn]
            }
            Servers::Cluster(_) => {
                &[Restarted, SlotsMoved, SlotsMoved, FailoverAsked, PrimaryKilled, PrimaryStopped]
            }
            Servers::Sentinels(_) => {
                &[FailoverBySentinels, PrimaryKilled, PrimaryStopped, SentinelKilled]
            }
        };
        EVERYWHERE.iter().chain(more).copied().collect()
    }

    fn name(self) -> &'static str {
        match self {
            Killed => "connections killed by a server",
            TrackingKilled => "tracking connections killed",
            Stopped => "servers stopped",
            ScriptsFlushed => "script flushes",
            Paused => "pauses",
            OutOfMemory => "times out of memory",
            OtherStopped => "other servers of a lock stopped",
            OtherRestarted => "other servers of a lock killed and started again",
            Restarted => "servers killed and started again",
            AllCut => "connections cut",
            CutInReply => "connections cut within a reply",
            CutInCommand => "connections cut within a command",
            Delayed => "times late",
            Sliced => "times sliced",
            Swallowed => "times swallowed",
            NotLetIn => "times refused",
            SlotsMoved => "times slots moved and back",
            FailoverAsked => "failovers asked for",
            PrimaryKilled => "primaries killed, replaced and back",
            PrimaryStopped => "primaries stopped, replaced and back",
            FailoverBySentinels => "failovers by sentinels",
            SentinelKilled => "sentinels killed and started again",
        }
    }
}

/// Keys that all workers use: the slots of some of them move.
const KEYS: [&str; 12] = [
    "elements",
    "counter:0",
    "own:0:0",
    "many:1:2",
    "hash:1",
    "object:0",
    "{pair:0}:a",
    "lock:plain",
    "lock:few",
    "lock:leader",
    "lock:simple",
    "fenced",
];

pub(crate) struct Faults {
    pub(crate) place: Place,
    random: fastrand::Rng,
    // Those of the place, and how often each happened.
    counts: Vec<(Fault, u64)>,
    // What is left to be drawn, so that each comes up.
    deck: Vec<Fault>,
    drawn: u64,
}

impl Faults {
    pub(crate) fn new(place: Place, seed: u64) -> Self {
        let mut counts: Vec<(Fault, u64)> = Vec::new();
        for fault in Fault::of(&place) {
            if !counts.iter().any(|(one, _)| *one == fault) {
                counts.push((fault, 0));
            }
        }
        Self { place, random: fastrand::Rng::with_seed(seed), counts, deck: Vec::new(), drawn: 0 }
    }

    async fn wait(&mut self, range: std::ops::Range<u64>) {
        // Moments of chance are what this test is about.
        let pause = Duration::from_millis(self.random.u64(range));
        tokio::time::sleep(pause).await;
    }

    /// One of those that serve keys.
    async fn victim(&mut self) -> usize {
        let primaries = self.place.primaries().await;
        primaries[self.random.usize(..primaries.len())]
    }

    async fn ask(&mut self, command: &[&str]) -> Resp {
        let victim = self.victim().await;
        self.place.all()[victim].command(command).await
    }

    /// The next fault, and a moment without any.
    pub(crate) async fn next(&mut self, world: &World) {
        if self.deck.is_empty() {
            self.deck = Fault::of(&self.place);
            self.random.shuffle(&mut self.deck);
            self.drawn += 1;
        }
        let fault = self.deck.pop().unwrap();
        let happened = match fault {
            Restarted | SlotsMoved | FailoverAsked | PrimaryKilled | PrimaryStopped
            | FailoverBySentinels => {
                world.changed.begin();
                let happened = self.change(fault, world).await;
                world.changed.end();
                happened
            }
            _ => self.disturb(fault, world).await,
        };
        if happened {
            let of_it = self.counts.iter_mut().find(|(one, _)| *one == fault);
            of_it.unwrap().1 += 1;
        }
        self.calm(world).await;
    }

    /// Until both clients work again, and some time more, in which no call may fail: what is near has to come back. How
    /// slow the servers are by themselves is asked without larder.
    async fn calm(&mut self, world: &World) {
        world.settle().await;
        // Once more: what works is not left to one lucky call.
        world.settle().await;
        let primaries = self.place.primaries().await;
        let length = Duration::from_millis(self.random.u64(50..500));
        world.calm_begins();
        let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
        while begun.elapsed() < length {
            let primaries = primaries.iter().map(|at| &self.place.all()[*at]);
            for server in primaries.chain(&self.place.others) {
                let asked = Instant::now();
                server.command(&["PING"]).await;
                slowest = slowest.max(asked.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // paced
        }
        world.calm_ends(slowest);
    }

    /// What changes who serves, or begins a server anew. Whether it happened.
    async fn change(&mut self, fault: Fault, world: &World) -> bool {
        let victim = self.victim().await;
        let heir = self.place.partner(victim);
        match fault {
            Restarted => {
                self.may_be_replaced(world);
                self.place.kill(victim).await;
                self.wait(0..300).await;
                self.place.restart(victim).await;
                self.was_not_replaced(world, victim).await;
            }
            SlotsMoved => {
                world.moved.begin();
                let moved = self.move_slots().await;
                world.moved.end();
                return moved > 0;
            }
            FailoverAsked => self.place.cluster().fail_over_to(heir).await,
            _ => {
                world.lost.begin();
                self.lose(fault, victim).await;
                self.place.is_whole().await;
                world.lost.end();
                return self.place.primaries().await.contains(&heir);
            }
        }
        self.place.is_whole().await;
        true
    }

    /// A primary is replaced by its replica, and comes back.
    async fn lose(&mut self, fault: Fault, victim: usize) {
        let heir = self.place.partner(victim);
        match fault {
            PrimaryKilled => self.place.kill(victim).await,
            PrimaryStopped => self.place.all()[victim].pause().await,
            _ => self.place.sentinels().fail_over().await,
        }
        match &self.place.servers {
            Servers::Cluster(cluster) => cluster.is_primary(heir).await,
            Servers::Sentinels(group) => group.announced(victim).await,
            Servers::One { .. } => unreachable!("it has no replica"),
        }
        self.wait(0..1_000).await;
        match fault {
            PrimaryKilled => self.place.restart(victim).await,
            PrimaryStopped => self.place.all()[victim].resume().await,
            _ => {}
        }
    }

    /// A server is away for less time than others take to replace it. On a busy machine they may all the same: what is
    /// acknowledged meanwhile is not counted on.
    fn may_be_replaced(&self, world: &World) {
        if self.place.topology.has_replicas() {
            world.lost.begin();
        }
    }

    async fn was_not_replaced(&self, world: &World, victim: usize) {
        if !self.place.topology.has_replicas() {
            return;
        }
        self.place.is_whole().await;
        if self.place.primaries().await.contains(&victim) {
            world.lost.was_none();
        } else {
            println!("soak: a server that was away for a moment was replaced");
            world.lost.end();
        }
    }

    /// Moves the slots of some keys to another node, and back. Answers how many keys went.
    async fn move_slots(&mut self) -> u64 {
        let primaries = self.place.primaries().await;
        let mut slots = Vec::new();
        for _ in 0..4 {
            slots.push(RedisCluster::slot(KEYS[self.random.usize(..KEYS.len())]));
        }
        // Of namespaces, whose keys are many.
        for name in ["v", "g", "b", "p"] {
            slots.push(RedisCluster::slot(format!("{name}:{}", self.random.u64(..60))));
        }
        slots.sort_unstable();
        slots.dedup();
        let cluster = self.place.cluster();
        let mut mover = cluster.mover().await;
        let (mut moves, mut keys) = (Vec::new(), 0);
        for slot in slots {
            let from = cluster.owner(slot).await;
            let others: Vec<_> = primaries.iter().filter(|at| **at != from).collect();
            let to = *others[self.random.usize(..others.len())];
            mover.open(slot, from, to).await;
            // Open for a while, with a part of the keys on either side.
            let pause = Duration::from_millis(self.random.u64(..10));
            keys += mover.move_keys(slot, from, to, 1).await;
            tokio::time::sleep(pause).await;
            keys += mover.move_slot(slot, from, to).await;
            moves.push((slot, from, to));
        }
        for (slot, from, to) in moves {
            keys += mover.move_slot(slot, to, from).await;
        }
        keys
    }

    /// What leaves everything where it is. Whether it happened.
    async fn disturb(&mut self, fault: Fault, world: &World) -> bool {
        let cut = if self.random.bool() { Cut::Reset } else { Cut::Fin };
        match fault {
            Killed => {
                let killed = self.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
                return killed.int().unwrap_or(0) > 0;
            }
            TrackingKilled => {
                let victim = self.victim().await;
                let server = &self.place.all()[victim];
                until("a tracking connection is killed", async || {
                    let mut killed = false;
                    for id in tracking(server).await {
                        let kill = server.command(&["CLIENT", "KILL", "ID", &id]).await;
                        killed |= kill.int() == Some(1);
                    }
                    killed
                })
                .await;
            }
            Stopped => {
                // Any of them, replicas too.
                let victim = self.random.usize(..self.place.all().len());
                let serves = self.place.primaries().await.contains(&victim);
                let most = match self.place.servers {
                    Servers::One { .. } => 1_000,
                    Servers::Cluster(_) => 600,
                    Servers::Sentinels(_) => 250,
                };
                if serves {
                    self.may_be_replaced(world);
                }
                self.place.all()[victim].pause().await;
                self.wait(50..most).await;
                self.place.all()[victim].resume().await;
                if serves {
                    self.was_not_replaced(world, victim).await;
                }
            }
            ScriptsFlushed => {
                return self.ask(&["SCRIPT", "FLUSH"]).await.text().as_deref() == Some("OK");
            }
            Paused => {
                let victim = self.victim().await;
                self.may_be_replaced(world);
                let pause = ["CLIENT", "PAUSE", "300", "ALL"];
                let paused = self.place.all()[victim].command(&pause).await;
                self.was_not_replaced(world, victim).await;
                return paused.text().as_deref() == Some("OK");
            }
            OutOfMemory => {
                let victim = self.victim().await;
                let server = &self.place.all()[victim];
                let before = refused_for_memory(server).await;
                server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
                let refuses = async || refused_for_memory(server).await > before;
                until("a command is refused", refuses).await;
                self.wait(50..300).await;
                let server = &self.place.all()[victim];
                server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            OtherStopped => {
                let other = self.random.usize(..self.place.others.len());
                self.place.others[other].pause().await;
                self.wait(50..1_000).await;
                self.place.others[other].resume().await;
            }
            OtherRestarted => {
                let other = self.random.usize(..self.place.others.len());
                self.place.others[other].kill().await;
                self.wait(0..400).await;
                self.place.others[other].restart().await;
            }
            SentinelKilled => {
                let number = self.random.usize(..3);
                self.place.sentinels().sentinels[number].kill().await;
                self.wait(0..1_000).await;
                self.place.sentinels().sentinels[number].restart().await;
                self.place.is_whole().await;
            }
            _ => return self.breaks_the_network(fault, cut).await,
        }
        true
    }

    async fn breaks_the_network(&mut self, fault: Fault, cut: Cut) -> bool {
        let before = self.place.proxy().cuts();
        let (most, after) = (self.random.u64(5..30), self.random.usize(..5_000));
        let proxy = self.place.proxy();
        match fault {
            AllCut => {
                proxy.cut(cut);
                until("connections are cut", async || proxy.cuts() > before).await;
            }
            CutInReply | CutInCommand => {
                let link = if fault == CutInReply { proxy.to_client() } else { proxy.to_server() };
                link.cut_after(after, cut);
                until("a connection is cut on its way", async || proxy.cuts() > before).await;
            }
            Delayed => {
                let carried = proxy.to_client().bytes();
                for link in [proxy.to_client(), proxy.to_server()] {
                    link.delay(Duration::ZERO..Duration::from_millis(most));
                }
                until("something comes late", async || proxy.to_client().bytes() > carried).await;
                self.wait(100..600).await;
                for link in [self.place.proxy().to_client(), self.place.proxy().to_server()] {
                    link.delay(None);
                }
            }
            Sliced => {
                let carried = proxy.to_client().bytes();
                proxy.to_client().slice(7);
                proxy.to_server().slice(11);
                until("something comes in pieces", async || proxy.to_client().bytes() > carried)
                    .await;
                self.wait(50..300).await;
                for link in [self.place.proxy().to_client(), self.place.proxy().to_server()] {
                    link.slice(None);
                }
            }
            Swallowed => return self.swallow().await,
            _ => {
                proxy.refuse(true);
                proxy.cut(cut);
                let accepts = proxy.accepts();
                until("a connection is refused", async || proxy.accepts() > accepts).await;
                self.wait(50..700).await;
                self.place.proxy().refuse(false);
            }
        }
        true
    }

    /// Everything disappears on its way, and no end of a connection is told.
    async fn swallow(&mut self) -> bool {
        let swallowed =
            |proxy: &FaultProxy| proxy.to_client().swallowed() + proxy.to_server().swallowed();
        let before = swallowed(self.place.proxy());
        for link in [self.place.proxy().to_client(), self.place.proxy().to_server()] {
            link.swallow(true);
        }
        self.wait(100..2_500).await;
        let proxy = self.place.proxy();
        // What was in the middle of a reply is of no use any more.
        proxy.refuse(true);
        proxy.cut(Cut::Reset);
        until("all connections are cut", async || proxy.connections() == 0).await;
        for link in [proxy.to_client(), proxy.to_server()] {
            link.swallow(false);
        }
        proxy.refuse(false);
        swallowed(proxy) > before
    }

    /// Whether each had its turn.
    ///
    /// # Panics
    /// If one did, and never happened.
    pub(crate) fn check(&self) -> bool {
        // The last deck may not be through.
        let through = self.drawn > u64::from(!self.deck.is_empty());
        for (fault, count) in &self.counts {
            assert!(!through || *count > 0, "{}: never happened", fault.name());
        }
        through
    }
}

/// How often a server refused a command since its memory was full.
async fn refused_for_memory(server: &RedisServer) -> u64 {
    let stats = server.command(&["INFO", "errorstats"]).await.text().unwrap_or_default();
    let count = stats.lines().find_map(|line| line.strip_prefix("errorstat_OOM:count="));
    count.map_or(0, |count| count.parse().unwrap())
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (fault, count)) in self.counts.iter().enumerate() {
            write!(f, "{}{count} {}", if at == 0 { "" } else { ", " }, fault.name())?;
        }
        Ok(())
    }
}

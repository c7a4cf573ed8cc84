//! The faults: drawn from a seed, one after the other, each counted when it was seen to happen.

use std::fmt;
use std::time::Duration;

use larder::testing::{Cut, FaultProxy, RedisServer};

use crate::until;
use crate::world::World;

pub(crate) struct Faults {
    server: RedisServer,
    proxy: FaultProxy,
    random: fastrand::Rng,
    // How often each happened, by its place in `KINDS`.
    counts: [u64; KINDS.len()],
    // What is left to be drawn, so that each comes up.
    deck: Vec<usize>,
}

const KINDS: [&str; 14] = [
    "connections killed by the server",
    "tracking connections killed",
    "connections cut",
    "connections cut within a reply",
    "connections cut within a command",
    "times late",
    "times sliced",
    "times swallowed",
    "servers stopped",
    "servers killed and started again",
    "script flushes",
    "pauses",
    "times out of memory",
    "times refused",
];

impl Faults {
    pub(crate) fn new(server: RedisServer, proxy: FaultProxy, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { server, proxy, random, counts: [0; KINDS.len()], deck: Vec::new() }
    }

    pub(crate) fn server(&self) -> &RedisServer {
        &self.server
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }

    async fn wait(&mut self, range: std::ops::Range<u64>) {
        // Moments of chance are what this test is about.
        let pause = self.millis(range);
        tokio::time::sleep(pause).await;
    }

    async fn ask(&self, command: &[&str]) -> larder::testing::Resp {
        self.server.command(command).await
    }

    /// The next fault, and a moment without any.
    pub(crate) async fn next(&mut self, world: &World) {
        if self.deck.is_empty() {
            self.deck = (0..KINDS.len()).collect();
            self.random.shuffle(&mut self.deck);
        }
        let kind = self.deck.pop().unwrap_or_default();
        let cut = if self.random.bool() { Cut::Reset } else { Cut::Fin };
        let happened = match kind {
            0 => {
                let killed = self.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
                killed.int().unwrap_or(0) > 0
            }
            1 => self.kill_tracking().await,
            2 => {
                let before = self.proxy.cuts();
                self.proxy.cut(cut);
                until("connections are cut", async || self.proxy.cuts() > before).await;
                true
            }
            3 | 4 => {
                let before = self.proxy.cuts();
                let link = if kind == 3 { self.proxy.to_client() } else { self.proxy.to_server() };
                link.cut_after(self.random.usize(..5_000), cut);
                until("a connection is cut on its way", async || self.proxy.cuts() > before).await;
                true
            }
            5 => {
                let most = self.millis(5..30);
                self.proxy.to_client().delay(Duration::ZERO..most);
                self.proxy.to_server().delay(Duration::ZERO..most);
                self.wait(100..600).await;
                self.proxy.to_client().delay(None);
                self.proxy.to_server().delay(None);
                true
            }
            6 => {
                self.proxy.to_client().slice(7);
                self.proxy.to_server().slice(11);
                self.wait(50..300).await;
                self.proxy.to_client().slice(None);
                self.proxy.to_server().slice(None);
                true
            }
            7 => self.swallow().await,
            8 => {
                self.server.pause().await;
                self.wait(50..1_000).await;
                self.server.resume().await;
                true
            }
            9 => {
                self.server.kill().await;
                self.wait(0..400).await;
                self.server.restart().await;
                true
            }
            10 => self.ask(&["SCRIPT", "FLUSH"]).await.text().as_deref() == Some("OK"),
            11 => {
                self.ask(&["CLIENT", "PAUSE", "300", "ALL"]).await.text().as_deref() == Some("OK")
            }
            12 => {
                let full = self.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
                self.wait(50..300).await;
                self.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
                !full.is_error()
            }
            _ => {
                self.proxy.refuse(true);
                self.proxy.cut(cut);
                self.wait(50..700).await;
                self.proxy.refuse(false);
                true
            }
        };
        self.counts[kind] += u64::from(happened);
        // Until both clients work again, and some time more: what is near has to come back.
        world.settle().await;
        self.wait(50..500).await;
    }

    /// Kills the connections that tell of changes: the server marks them.
    async fn kill_tracking(&self) -> bool {
        let clients = self.ask(&["CLIENT", "LIST"]).await.text().unwrap_or_default();
        let mut killed = false;
        for line in clients.lines() {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name));
            if let (Some(id), Some(flags)) = (field("id="), field("flags="))
                && flags.contains('t')
            {
                killed |= self.ask(&["CLIENT", "KILL", "ID", id]).await.int() == Some(1);
            }
        }
        killed
    }

    /// Everything disappears on its way, and no end of a connection is told.
    async fn swallow(&mut self) -> bool {
        let proxy = &self.proxy;
        let swallowed = || proxy.to_client().swallowed() + proxy.to_server().swallowed();
        let before = swallowed();
        for link in [proxy.to_client(), proxy.to_server()] {
            link.swallow(true);
        }
        let pause = Duration::from_millis(self.random.u64(100..2_500));
        tokio::time::sleep(pause).await;
        // What was in the middle of a reply is of no use any more.
        proxy.refuse(true);
        proxy.cut(Cut::Reset);
        until("all connections are cut", async || proxy.connections() == 0).await;
        for link in [proxy.to_client(), proxy.to_server()] {
            link.swallow(false);
        }
        proxy.refuse(false);
        swallowed() > before
    }

    /// Nothing is broken any more.
    pub(crate) async fn over(&mut self) {
        self.proxy.refuse(false);
        self.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    }

    /// # Panics
    /// If a fault never happened that had its turn.
    pub(crate) fn check(&self) {
        let drawn = self.counts.iter().sum::<u64>() / KINDS.len() as u64;
        for (kind, count) in KINDS.iter().zip(self.counts) {
            assert!(drawn == 0 || count > 0, "{kind}: never happened");
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, count)) in KINDS.iter().zip(self.counts).enumerate() {
            write!(f, "{}{count} {kind}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

//! Reading through, near caches, invalidations: nobody reads less than what was valid, nor what is older than its time to
//! live and its grace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{CacheClient, Loaded, Namespace, NamespaceBuilder, Outcome, Ttl};
use tokio::task::JoinSet;

use crate::DEADLINE;
use crate::origin::{Oldest, Origin};
use crate::tally::{Promise, count};
use crate::world::World;

pub(crate) const KEYS: u64 = 60;

/// For how long what another client invalidated may still be read: a connection that is dead without a word is known to
/// be after two seconds, and what was asked before has half a second more. The server stands still for a second.
pub(crate) const OTHERS: Duration = Duration::from_secs(4);

/// How long a load may take, and with it the calls of the store around it.
const HARD: Duration = Duration::from_secs(2);
const LIMIT: Duration =
    Duration::from_millis(HARD.as_millis() as u64 + 2 * DEADLINE.as_millis() as u64);

/// Values of one kind: how they are read and loaded.
#[derive(Clone)]
struct Family {
    what: Kind,
    values: Namespace<u64, u64>,
    cache: CacheClient,
    origin: Arc<Origin>,
    ttl: Duration,
    grace: Duration,
    client: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Near, loaded by the callers.
    Near,
    /// Not near: served in its grace and loaded early, by the namespace's own loader.
    Graceful,
    /// Near, told of by prefix, loaded by the callers.
    Broadcast,
    /// Without a namespace.
    Plain,
}

const KINDS: [Kind; 4] = [Kind::Near, Kind::Graceful, Kind::Broadcast, Kind::Plain];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Near => "v",
            Self::Graceful => "g",
            Self::Broadcast => "b",
            Self::Plain => "p",
        }
    }
}

impl Family {
    fn new(world: &Arc<World>, what: Kind, origin: &Arc<Origin>, client: u64) -> Self {
        let cache = world.clients[client as usize].clone();
        let (mut ttl, mut grace) = (Duration::from_secs(3), Duration::ZERO);
        let values: NamespaceBuilder<u64, u64> = cache.namespace(what.name());
        let values = values.lease(Duration::from_secs(1)).hard_timeout(HARD);
        let values = match what {
            Kind::Near => values.near(true),
            Kind::Broadcast => values.near(true).broadcast(true),
            Kind::Plain => values,
            Kind::Graceful => {
                (ttl, grace) = (Duration::from_millis(300), Duration::from_secs(1));
                let (world, origin) = (Arc::clone(world), Arc::clone(origin));
                values.grace(grace).early_refresh(100.0).loader(move |key| {
                    world.tally.did("loads by the namespace's loader");
                    let origin = Arc::clone(&origin);
                    async move { origin.load(key, fastrand::u32(..1_000)).await }
                })
            }
        };
        let values = values.ttl(ttl).build().unwrap();
        Self { what, values, cache, origin: Arc::clone(origin), ttl, grace, client }
    }

    /// Both clients write to half of the keys.
    fn is_own(&self, key: u64) -> bool {
        key % 2 == self.client
    }

    fn key(&self, key: u64) -> String {
        format!("{}:{key}", self.what.name())
    }

    /// Judges what was read, by what was valid when the read began.
    fn saw(&self, world: &World, key: u64, oldest: Oldest, begun: Instant, got: u64) {
        let (name, own) = (self.what.name(), self.is_own(key));
        if got < oldest.version {
            let promise = if own { Promise::OwnStale } else { Promise::Stale };
            let least = oldest.version;
            let seen = format_args!("{name}:{key} was {got}, at least {least} was valid");
            world.broke_or_lost(promise, oldest.mark, seen);
        }
        let old = self.origin.old_for(key, got, begun);
        if old > self.ttl + self.grace + OTHERS {
            let seen = format_args!("{name}:{key}, not valid any more for {old:?}");
            world.tally.broke(Promise::Outlived, false, seen);
        }
    }

    /// One read, of one key or of some.
    async fn read(&self, world: &World, random: &mut fastrand::Rng) {
        let key = random.u64(..KEYS);
        let chance = random.u32(..1_000);
        let some: Vec<u64> = (0..5).map(|at| (key + at * 7) % KEYS).collect();
        let oldest = |key| self.origin.oldest(world, key, self.is_own(key));
        let (oldest_one, all): (_, Vec<_>) =
            (oldest(key), some.iter().map(|key| oldest(*key)).collect());
        let begun = Instant::now();
        let saw_one = |got: u64| self.saw(world, key, oldest_one, begun, got);
        let saw_all = |got: Vec<Option<u64>>| {
            for ((key, oldest), got) in some.iter().zip(&all).zip(got) {
                if let Some(got) = got {
                    self.saw(world, *key, *oldest, begun, got);
                }
            }
        };
        let load = || {
            world.tally.did("loads by a caller's loader");
            self.origin.load(key, chance)
        };
        let values = &self.values;
        // A panicking or failing loader is an error of the call; a store that is away is none.
        match (random.u32(..12), self.what) {
            (0, Kind::Plain) => {
                let names: Vec<String> = some.iter().map(|key| self.key(*key)).collect();
                let (origin, some, names) = (&self.origin, &some, &names);
                let all = self.cache.get_or_load_many(names, self.ttl, |wanted| async move {
                    let mut loaded = Vec::new();
                    for name in wanted {
                        let at = names.iter().position(|one| one == name).unwrap();
                        let version = origin.load(some[at], chance.max(100)).await?;
                        loaded.push((name, Loaded::value(version)));
                    }
                    Ok::<_, std::io::Error>(loaded)
                });
                let all = world.within(LIMIT, "get_or_load_many", all).await;
                saw_all(each(all));
            }
            (_, Kind::Plain) => {
                let one = self.cache.get_or_load(self.key(key), self.ttl, load);
                if let Ok(got) = world.within(LIMIT, "get_or_load", one).await {
                    saw_one(*got);
                }
            }
            (0, _) => {
                let load = async |wanted: Vec<&u64>| {
                    let mut loaded = Vec::new();
                    for key in wanted {
                        world.tally.did("loads by a caller's loader");
                        let version = self.origin.load(*key, chance.max(100)).await?;
                        loaded.push((*key, Loaded::value(version)));
                    }
                    Ok::<_, std::io::Error>(loaded)
                };
                let all = values.get_or_load_many(&some, load);
                let all = world.within(LIMIT, "namespace.get_or_load_many", all).await;
                saw_all(each(all));
            }
            (1, _) => {
                let all = world.within(LIMIT, "namespace.get_many", values.get_many(&some)).await;
                let all = all.unwrap_or_default();
                saw_all(all.into_iter().map(|one| one.map(|value| *value)).collect());
            }
            (2, _) => {
                let (lost, moved) = (world.lost.now(), world.moved.now());
                if let Ok(Ttl::Remaining(left)) =
                    world.call("namespace.ttl", values.ttl(&key)).await
                    && left > self.ttl
                {
                    // Keys of a slot that moves take some time to do so, by which they live longer.
                    let excused = world.lost.since(lost) || world.moved.since(moved);
                    world.tally.broke(
                        Promise::Outlived,
                        excused,
                        format_args!("{left:?} are left"),
                    );
                }
            }
            (3..6, _) | (_, Kind::Graceful) => {
                let one = world.within(LIMIT, "namespace.get", values.get(&key)).await;
                if let Ok(Some(got)) = one {
                    saw_one(*got);
                }
            }
            _ => {
                let one = values.get_or_load(&key, load);
                if let Ok(got) = world.within(LIMIT, "namespace.get_or_load", one).await {
                    saw_one(*got);
                }
            }
        }
    }

    /// One change of the origin, of which the store is told in one of many ways.
    async fn write(&self, world: &World, random: &mut fastrand::Rng) {
        let key = random.u64(..KEYS / 2) * 2 + self.client;
        let version = self.origin.change(key);
        // Of this family alone there is a bound on what nobody is told of.
        if self.what == Kind::Graceful && random.bool() {
            return;
        }
        let other = (key + 14) % KEYS;
        let mark = world.lost.now();
        let (values, name) = (&self.values, self.key(key));
        let mut acked = vec![(key, version)];
        let done = match (random.u32(..9), self.what) {
            (0..3, Kind::Plain) => {
                world.call("delete_key", self.cache.delete_key(&name)).await.map(drop)
            }
            (_, Kind::Plain) => {
                let names = [name, self.key(other)];
                acked.push((other, self.origin.change(other)));
                let deleted = self.cache.batch_delete_keys(&names);
                world.call("batch_delete_keys", deleted).await.map(drop)
            }
            (0..2, _) => world.call("namespace.set", values.set(&key, &version)).await,
            (2, _) => world.call("namespace.delete", values.delete(&key)).await.map(drop),
            (3, _) => {
                acked.push((other, self.origin.change(other)));
                let pairs = acked.clone();
                world.call("namespace.set_many", values.set_many(pairs)).await
            }
            (4, _) => {
                acked.push((other, self.origin.change(other)));
                let keys = [key, other];
                world.call("namespace.invalidate_many", values.invalidate_many(&keys)).await
            }
            (5, _) => {
                // Versions rise, so each is a newer token.
                let set = values.fenced_set(&key, &version, version);
                match world.call("namespace.fenced_set", set).await {
                    Ok(false) => {
                        let seen = format_args!("{name} refused the newest token");
                        return world.broke(Promise::Token, seen);
                    }
                    done => done.map(drop),
                }
            }
            _ => world.call("namespace.invalidate", values.invalidate(&key)).await,
        };
        match done {
            Ok(()) => {
                for (key, version) in acked {
                    self.origin.acked(key, version, mark);
                }
            }
            Err(error) if error.outcome() == Outcome::Deferred => count(&world.tally.deferred),
            Err(_) => {}
        }
    }
}

type Many = larder::Result<Vec<larder::Result<Option<Arc<u64>>>>>;

fn each(all: Many) -> Vec<Option<u64>> {
    let all = all.unwrap_or_default().into_iter();
    all.map(|one| one.ok().flatten().map(|value| *value)).collect()
}

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for (number, kind) in KINDS.into_iter().enumerate() {
        let origin = Arc::new(Origin::new());
        for client in 0..2 {
            let family = Family::new(world, kind, &origin, client);
            let seed = number as u64 * 10 + client;
            for worker in 0..2 + 2 * u64::from(kind == Kind::Near) {
                let (family, random) = (family.clone(), world.random(13 + worker, seed));
                workers.spawn(read(Arc::clone(world), family, random));
            }
            workers.spawn(write(Arc::clone(world), family, world.random(12, seed)));
        }
    }
}

async fn read(world: Arc<World>, family: Family, mut random: fastrand::Rng) {
    while !world.is_over() {
        family.read(&world, &mut random).await;
        // Hits never wait: the others want to run as well.
        if random.u32(..8) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn write(world: Arc<World>, family: Family, mut random: fastrand::Rng) {
    while !world.is_over() {
        family.write(&world, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.u64(1..12))).await;
    }
}

/// What the clients counted themselves: who reads is told nothing of it.
pub(crate) fn count_reads(world: &World) {
    for client in &world.clients {
        let stats = client.stats();
        let of = |kind: Kind| &stats.reads[kind.name()];
        world.tally.did_many("near hits", of(Kind::Near).near_hits);
        world.tally.did_many("near hits by broadcast", of(Kind::Broadcast).near_hits);
        world.tally.did_many("values served in grace", of(Kind::Graceful).stale_hits);
        world.tally.did_many("early refreshes", of(Kind::Graceful).early_refreshes);
    }
}

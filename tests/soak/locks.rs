//! Locks of every kind: no two holders of one that excludes them, tokens that rise, and writes that a newer holder's refuse.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use larder::{CacheClient, LockBuilder, LockGuard, LockOptions, LockWatcher, QuorumLock, Result};
use tokio::task::JoinSet;

use crate::DEADLINE;
use crate::held::{Held, Until};
use crate::tally::{LOST, Promise, REPLICATED};
use crate::world::{Ended, World};

/// Shorter than the faults, so that guards get lost.
const LEASE: Duration = Duration::from_millis(400);
const WAIT: Duration = Duration::from_millis(1_500);

/// For how long a replica may be asked to acknowledge.
const REPLICA: Duration = Duration::from_millis(100);

/// Of a lock over several servers: a tenth of it is what each has to answer.
const LONG_LEASE: Duration = Duration::from_secs(1);

/// By how much a lease may be shorter that a server counts in milliseconds.
const GRAIN: Duration = Duration::from_millis(2);

/// One way to take a lock.
#[derive(Clone)]
struct Way {
    what: &'static str,
    lock: Lock,
    shares: bool,
    held: Arc<Held>,
    // What is written by who holds it alone, and has a token.
    fence: Option<Arc<Fence>>,
}

#[derive(Clone)]
enum Lock {
    One(LockBuilder),
    Several(QuorumLock),
}

impl Lock {
    async fn acquire(&self) -> Result<LockGuard> {
        match self {
            Self::One(lock) => lock.acquire_within(WAIT).await,
            Self::Several(lock) => lock.acquire_within(WAIT).await,
        }
    }
}

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    let fence = Arc::<Fence>::default();
    let held = |name, most| Held::new(name, most);
    let (plain, fair, few) = (held("plain", 1), held("fair", 1), held("few", 2));
    let (both, several) = (held("both", usize::MAX), held("several", 1));
    let replicated = Held::that_outlives_failovers("replicated");
    for worker in 0..4_u64 {
        let cache = world.client(worker);
        let one = |lock: LockBuilder| Lock::One(lock.lease(LEASE));
        let way = |what, lock, shares, held: &Arc<Held>| {
            let held = Arc::clone(held);
            Way { what, lock, shares, held, fence: None }
        };
        let fenced = way("guards of a plain lock", one(cache.lock("plain")), false, &plain);
        let mut ways = vec![
            Way { fence: Some(Arc::clone(&fence)), ..fenced },
            way("guards of a fair lock", one(cache.lock("fair").fair(true)), false, &fair),
            way("guards of a semaphore", one(cache.semaphore("few", 2)), true, &few),
            way("guards of a shared lock", one(cache.lock("both").shared()), true, &both),
        ];
        if worker < 2 {
            let alone = one(cache.lock("both"));
            ways.push(way("guards of a lock that is shared, alone", alone, false, &both));
            let lock = Lock::Several(several_servers(world, worker, "several"));
            ways.push(way("guards of a lock over several servers", lock, false, &several));
            if world.topology.has_replicas() {
                let lock = one(cache.lock("replicated").replicas(1, REPLICA));
                ways.push(way(REPLICATED, lock, false, &replicated));
            }
        }
        for (number, way) in ways.into_iter().enumerate() {
            let random = world.random(20 + number as u64, worker);
            workers.spawn(contend(Arc::clone(world), way, worker, random));
        }
    }
    let (leader, council) = (held("leader", 1), held("council", 1));
    let simple = held("simple", 1);
    for worker in 0..2 {
        let lock = Lock::One(world.client(worker).lock("leader").lease(LEASE));
        let random = world.random(31, worker);
        workers.spawn(lead(Arc::clone(world), lock, Arc::clone(&leader), random));
        let lock = Lock::Several(several_servers(world, worker, "council"));
        let random = world.random(34, worker);
        workers.spawn(lead(Arc::clone(world), lock, Arc::clone(&council), random));
        workers.spawn(without_a_guard(Arc::clone(world), Arc::clone(&simple), worker));
    }
}

fn several_servers(world: &World, worker: u64, name: &str) -> QuorumLock {
    let own: Vec<&CacheClient> =
        [world.client(worker)].into_iter().chain(&world.others[worker as usize % 2]).collect();
    QuorumLock::new(own, name).lease(LONG_LEASE)
}

async fn contend(world: Arc<World>, way: Way, worker: u64, mut random: fastrand::Rng) {
    while !world.is_over() {
        let mark = world.lost.now();
        // A wait for a lock has a limit of its own, behind which its last try ends; over several servers a second.
        let limit = WAIT + DEADLINE.max(Duration::from_secs(1));
        let guard = world.within(limit, way.what, way.lock.acquire()).await;
        let Ok(guard) = guard else { continue };
        let stay = way.held.enter(&world, Until::Lost(guard.watcher()), way.shares, mark);
        if let (Some(fence), Some(token)) = (&way.fence, guard.fencing_token()) {
            fence.write(&world, worker, token, &mut random).await;
        }
        // Some work longer than the lease: a fault within it costs the lock.
        let most = if random.u32(..25) == 0 { 1_000 } else { 10 };
        let work = tokio::time::sleep(Duration::from_millis(random.u64(..most)));
        if guard.run(work).await.is_err() {
            world.tally.did(LOST);
        }
        drop(stay);
        match random.u32(..4) {
            0 => drop(guard),
            _ => _ = world.call("releases", guard.release()).await,
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..20))).await;
    }
}

/// A value that only the newest holder can write.
#[derive(Default)]
struct Fence(Mutex<Fenced>);

#[derive(Default)]
struct Fenced {
    // The largest token that was acknowledged, with a mark from before that, and that was tried.
    acked: u64,
    acked_at: u64,
    tried: u64,
}

const FENCED: &str = "fenced";

impl Fence {
    async fn write(&self, world: &World, worker: u64, token: u64, random: &mut fastrand::Rng) {
        let cache = world.client(worker);
        let (acked, acked_at) = {
            let mut fenced = self.0.lock().unwrap();
            fenced.tried = fenced.tried.max(token);
            (fenced.acked, fenced.acked_at)
        };
        // Some are of a holder that stood still for long.
        let token = if random.u32(..4) == 0 && acked > 0 { acked - 1 } else { token };
        let mark = world.lost.now();
        let written = cache.fenced_set(FENCED, token, token, None);
        if let Ok(written) = world.call("fenced_set", written).await {
            let mut fenced = self.0.lock().unwrap();
            if written && token < acked {
                let seen = format_args!("{token} was written after {acked}");
                world.broke_or_lost(Promise::Token, acked_at, seen);
            }
            if !written && token >= fenced.tried {
                let tried = fenced.tried;
                world.broke(Promise::Wrong, format_args!("{token} was refused, {tried} tried"));
            }
            if written && token > fenced.acked {
                (fenced.acked, fenced.acked_at) = (token, mark);
            }
        }
        let (acked, acked_at) = {
            let fenced = self.0.lock().unwrap();
            (fenced.acked, fenced.acked_at)
        };
        if let Ok(Some(read)) = world.call("get_value", cache.get_value(FENCED)).await {
            let read: u64 = read.parse().unwrap();
            if read < acked {
                let seen = format_args!("{read} stands where {acked} was written");
                world.broke_or_lost(Promise::Token, acked_at, seen);
            }
        }
    }
}

/// Leads for a while, as long as it is let, again and again.
async fn lead(world: Arc<World>, lock: Lock, held: Arc<Held>, mut random: fastrand::Rng) {
    while !world.is_over() {
        let work = |leadership: LockWatcher| {
            // It may have been waited for long: it was got just now.
            let stay = held.enter(&world, Until::Lost(leadership), false, world.lost.now());
            let pause = Duration::from_millis(random.u64(..50));
            async move {
                let _stay = stay;
                tokio::time::sleep(pause).await;
            }
        };
        let (what, led) = match &lock {
            Lock::One(lock) => ("terms of a leader", lock.run_while_leader(work).await),
            Lock::Several(lock) => {
                ("terms of a leader over several servers", lock.run_while_leader(work).await)
            }
        };
        _ = world.ended(what, led);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A plain lock, as other languages take it: held for as long as its lease is, counted from before it was asked for.
async fn without_a_guard(world: Arc<World>, held: Arc<Held>, worker: u64) {
    const KEY: &str = "lock:simple";
    let (cache, mut random) = (world.client(worker), world.random(30, worker));
    let options = LockOptions {
        expire: Duration::from_millis(300),
        timeout: Duration::from_millis(600),
        retry_interval: Duration::from_millis(20),
    };
    while !world.is_over() {
        let (begun, mark) = (Instant::now(), world.lost.now());
        let limit = options.timeout + DEADLINE;
        let id = world.within(limit, "acquire_lock", cache.acquire_lock(KEY, options)).await;
        let Ok(id) = id else { continue };
        let end = begun + options.expire - GRAIN;
        let stay = held.enter(&world, Until::Over(end), false, mark);
        tokio::time::sleep(Duration::from_millis(random.u64(..10))).await;
        drop(stay);
        let released = world.call("release_lock", cache.release_lock(KEY, &id)).await;
        if let Ok(false) = released
            && Instant::now() < end
        {
            let seen = format_args!("a lock was gone before its lease was over");
            world.broke_or_lost(Promise::Wrong, mark, seen);
        }
        if Ended::from(&released) == Ended::Unknown {
            // Nobody knows whose it is; it is over soon.
            tokio::time::sleep_until(end.into()).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..20))).await;
    }
}

//! Keys and fields that one worker alone writes: what is read is what was acknowledged last, or what may still have
//! come about.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::op::Reply;
use larder::{CacheClient, Result};
use tokio::task::JoinSet;

use crate::world::{Ended, World, count};

const WORKERS: u64 = 8;

/// A value that a worker owns. Writes are numbered; zero is none.
struct Register {
    name: String,
    next: u64,
    acked: u64,
    // Writes that were not acknowledged: a server that stood still may take them at any time later.
    maybe: HashSet<u64>,
}

impl Register {
    fn new(name: String) -> Self {
        Self { name, next: 0, acked: 0, maybe: HashSet::new() }
    }

    /// The next value, with its number. Most are small; some do not fit into one packet.
    fn value(&mut self, random: &mut fastrand::Rng) -> (u64, String) {
        self.next += 1;
        let more = match random.u32(..400) {
            0 => 300_000,
            1..20 => random.usize(..20_000),
            _ => random.usize(..200),
        };
        (self.next, format!("{}|{}|{}", self.name, self.next, "x".repeat(more)))
    }

    fn wrote(&mut self, number: u64, ended: Ended) {
        match ended {
            Ended::Acked => self.acked = number,
            Ended::Unknown => _ = self.maybe.insert(number),
            Ended::Refused => {}
        }
    }

    /// Judges what was read.
    fn saw(&self, world: &World, value: Option<&str>) {
        let number = match value {
            None => 0,
            Some(value) => match value.split('|').collect::<Vec<_>>()[..] {
                [name, number, _] if name == self.name => number.parse().unwrap(),
                _ => return count(&world.tally.foreign_values),
            },
        };
        if number != self.acked && !self.maybe.contains(&number) {
            count(&world.tally.impossible_values);
        }
    }
}

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for worker in 0..WORKERS {
        workers.spawn(strings(Arc::clone(world), worker));
    }
    for worker in 0..2 {
        workers.spawn(fields(Arc::clone(world), worker));
        workers.spawn(pairs(Arc::clone(world), worker));
        workers.spawn(short_lives(Arc::clone(world), worker));
    }
    workers.spawn(newcomers(Arc::clone(world)));
}

/// How long a caller has patience: most have as much as the deadline.
fn patience(random: &mut fastrand::Rng) -> Option<Duration> {
    (random.u32(..10) == 0).then(|| Duration::from_micros(random.u64(..3_000)))
}

async fn strings(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (&world.clients[worker as usize % 2], world.random(1, worker));
    let mut own: Vec<_> = (0..16).map(|key| Register::new(format!("own:{worker}:{key}"))).collect();
    while !world.is_over() {
        let at = random.usize(..own.len());
        match random.u32(..10) {
            0..4 => {
                let patience = patience(&mut random);
                let register = &mut own[at];
                let (number, value) = register.value(&mut random);
                let set = cache.set_value(&register.name, value, None);
                let ended = world.write_or_drop(set, patience).await;
                register.wrote(number, ended);
            }
            4 => {
                let register = &mut own[at];
                let ended = world.write(cache.delete_key(&register.name)).await;
                register.wrote(0, ended);
            }
            5 => {
                let names: Vec<&str> = own.iter().map(|register| &*register.name).collect();
                if let Ok(values) = world.call(cache.get_many(&names)).await {
                    for (register, value) in own.iter().zip(&values) {
                        register.saw(&world, value.as_deref());
                    }
                }
            }
            _ => {
                if let Ok(value) = world.call(cache.get_value(&own[at].name)).await {
                    own[at].saw(&world, value.as_deref());
                }
            }
        }
        breathe(&mut random).await;
    }
}

/// Leaves the machine to others for a moment.
async fn breathe(random: &mut fastrand::Rng) {
    tokio::time::sleep(Duration::from_micros(random.u64(..4_000))).await;
}

async fn fields(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (&world.clients[worker as usize % 2], world.random(2, worker));
    let hash = format!("hash:{worker}");
    let mut own: Vec<_> = (0..16).map(|field| Register::new(format!("f{field}"))).collect();
    while !world.is_over() {
        let register = random.usize(..own.len());
        let register = &mut own[register];
        match random.u32(..4) {
            0 => {
                let (number, value) = register.value(&mut random);
                let ended = world.write(cache.set_hash(&hash, &register.name, value)).await;
                register.wrote(number, ended);
            }
            1 => {
                let ended = world.write(cache.delete_hash_field(&hash, &register.name)).await;
                register.wrote(0, ended);
            }
            2 => {
                if let Ok(all) = world.call(cache.get_hash_all(&hash)).await {
                    own.iter().for_each(|one| one.saw(&world, all.get(&one.name).map(|v| &**v)));
                }
            }
            _ => {
                if let Ok(value) = world.call(cache.get_hash(&hash, &register.name)).await {
                    register.saw(&world, value.as_deref());
                }
            }
        }
        breathe(&mut random).await;
    }
}

/// Two keys that are written together: nobody sees one without the other.
async fn pairs(world: Arc<World>, worker: u64) {
    let mut random = world.random(3, worker);
    let (writer, reader) = (&world.clients[worker as usize % 2], &world.clients[1]);
    let (one, other) = (format!("pair:{worker}:a"), format!("pair:{worker}:b"));
    let mut number = 0_u64;
    while !world.is_over() {
        number += 1;
        let (text, patience) = (number.to_string(), patience(&mut random));
        let both = writer.transaction();
        let both = both.set_value(&one, &*text, None).set_value(&other, &*text, None);
        world.write_or_drop(all_of(both.run()), patience).await;
        let read = reader.transaction().get_value(&one).get_value(&other);
        if let Ok(values) = world.call(all_of(read.run())).await
            && values[0] != values[1]
        {
            count(&world.tally.torn);
        }
        breathe(&mut random).await;
    }
}

/// The answers of a group, or the first error of any of them.
async fn all_of(run: impl Future<Output = Result<Vec<Result<Reply>>>>) -> Result<Vec<Reply>> {
    run.await?.into_iter().collect()
}

async fn short_lives(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (&world.clients[worker as usize % 2], world.random(4, worker));
    let key = format!("short:{worker}");
    while !world.is_over() {
        let life = Duration::from_millis(random.u64(20..200));
        let begun = Instant::now();
        let set = world.write(cache.set_value(&key, "x", life)).await;
        let acked = Instant::now();
        if set == Ended::Acked {
            if let Ok(ttl) = world.call(cache.get_ttl(&key)).await
                && ttl.remaining().is_some_and(|left| left > life)
            {
                count(&world.tally.outlived);
            }
            // It ends some time between these two moments.
            tokio::time::sleep_until((begun + life).into()).await;
            tokio::time::sleep_until((acked + life + Duration::from_millis(2)).into()).await;
            if let Ok(true) = world.call(cache.key_exists(&key)).await {
                count(&world.tally.outlived);
            }
        } else {
            // What may have been written may come later: it is another key's turn then.
            tokio::time::sleep(life).await;
        }
    }
}

/// Clients that come, do a little, and go, closed or not.
async fn newcomers(world: Arc<World>) {
    let mut random = world.random(5, 0);
    while !world.is_over() {
        let cache = CacheClient::builder().url(&world.url).deadline(crate::DEADLINE);
        let cache = cache.build().unwrap();
        let register = &mut Register::new(format!("new:{}", random.u64(..)));
        let (number, value) = register.value(&mut random);
        let set = cache.set_value(&register.name, value, Duration::from_secs(1));
        let ended = world.write(set).await;
        register.wrote(number, ended);
        if let Ok(value) = world.call(cache.get_value(&register.name)).await
            && value.is_some()
        {
            register.saw(&world, value.as_deref());
        }
        if let Ok(Some(guard)) = world.call(cache.lock("newcomer").try_acquire()).await
            && random.bool()
        {
            _ = world.call(guard.release()).await;
        }
        if random.bool() {
            cache.close().await;
        }
        count(&world.tally.clients);
        tokio::time::sleep(Duration::from_millis(random.u64(..200))).await;
    }
}

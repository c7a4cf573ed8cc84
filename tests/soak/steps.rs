//! Calls whose answers follow from those before: transactions, pipelines, times to live, clients that come and go. What may
//! still come of a call that was not answered is met by nobody: each round has keys of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::op::Reply;
use larder::{Direction, Result, Ttl};
use tokio::task::JoinSet;

use crate::register::Register;
use crate::tally::Promise;
use crate::world::{World, breathe, patience};

/// What is left behind by a round that failed goes by itself.
const LEFT: Duration = Duration::from_secs(60);

pub(crate) fn spawn(world: &Arc<World>, workers: &mut JoinSet<()>) {
    for worker in 0..2 {
        workers.spawn(pairs(Arc::clone(world), worker));
        workers.spawn(pipelines(Arc::clone(world), worker));
        workers.spawn(lifetimes(Arc::clone(world), worker));
        workers.spawn(short_lives(Arc::clone(world), worker));
    }
    workers.spawn(newcomers(Arc::clone(world)));
}

/// Two keys that are written together: nobody sees one without the other.
async fn pairs(world: Arc<World>, worker: u64) {
    let mut random = world.random(6, worker);
    let (writer, reader) = (world.client(worker), &world.clients[1]);
    // Of one slot.
    let (one, other) = (format!("{{pair:{worker}}}:a"), format!("{{pair:{worker}}}:b"));
    let mut number = 0_u64;
    while !world.is_over() {
        number += 1;
        let (text, patience) = (number.to_string(), patience(&mut random));
        let both = writer.transaction();
        let both = both.set_value(&one, &*text, None).set_value(&other, &*text, None);
        world.write_or_drop("transaction", all_of(both.run()), patience).await;
        let read = reader.transaction().get_value(&one).get_value(&other);
        if let Ok(values) = world.call("transaction", all_of(read.run())).await
            && values[0] != values[1]
        {
            world.broke(Promise::Torn, format_args!("{one} and {other} differ"));
        }
        breathe(&mut random).await;
    }
}

/// The answers of a group, or the first error of any of them.
async fn all_of(run: impl Future<Output = Result<Vec<Result<Reply>>>>) -> Result<Vec<Reply>> {
    run.await?.into_iter().collect()
}

/// Eight calls of five keys, on a cluster of several nodes, each of which sees what came before it.
async fn pipelines(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(7, worker));
    for round in 0_u64.. {
        if world.is_over() {
            return;
        }
        let key = |what: &str| format!("pipe:{worker}:{round}:{what}");
        let (mark, moved) = (world.lost.now(), world.moved.now());
        let group = cache
            .pipeline()
            .set_value(key("text"), round, LEFT)
            .push_to_list(key("list"), round, Direction::Left)
            .set_hash(key("hash"), "field", round)
            .incr_by(key("number"), round as i64)
            .get_value(key("text"))
            .get_value(key("number"))
            .get_hash(key("hash"), "field")
            .left_pop_list(key("list"))
            .batch_delete_keys([key("number"), key("hash"), key("list")])
            .key_exists(key("number"));
        if let Ok(replies) = world.call("pipeline", all_of(group.run())).await {
            let text = || Reply::Value(Some(round.to_string().into()));
            let expected = [
                Reply::Int(1),
                Reply::Bool(true),
                Reply::Int(round as i64),
                text(),
                text(),
                text(),
                text(),
                // A list whose only element was taken is not there.
                Reply::Int(2),
                Reply::Bool(false),
            ];
            let mut answers = replies[1..].iter().zip(&expected);
            if let Some(at) = answers.position(|(one, other)| one != other) {
                // A delete is of two keys of a slot, the lease's too: while the slot moves nobody runs it, and by the time
                // that it is run in two steps the rest of the pipeline has been (docs/configuration.md).
                let ran_before = at + 1 == expected.len() && world.moved.since(moved);
                let excused = world.lost.since(mark) || ran_before;
                let seen = format_args!("answer {at} of a pipeline is that of other calls");
                world.tally.broke(Promise::Wrong, excused, seen);
            }
        }
        breathe(&mut random).await;
    }
}

/// A time to live that is given, read, taken away and given again.
async fn lifetimes(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(8, worker));
    for round in 0_u64.. {
        if world.is_over() {
            return;
        }
        let key = format!("life:{worker}:{round}");
        let (long, short) = (LEFT, LEFT / 2);
        let (mark, moved) = (world.lost.now(), world.moved.now());
        let broke = |excused: bool, what: &str| {
            let excused = excused || world.lost.since(mark);
            world.tally.broke(Promise::Wrong, excused, format_args!("a time to live: {what}"));
        };
        let holds = |holds: bool, what: &str| {
            if !holds {
                broke(false, what);
            }
        };
        let begun = Instant::now();
        let lasts = |ttl: Ttl, given: Duration, what: &str| {
            let left = ttl.remaining();
            let least = given.saturating_sub(begun.elapsed() + Duration::from_millis(2));
            if !left.is_some_and(|left| left <= given && left >= least) {
                // A slot that moves gives its keys their remaining time anew.
                broke(left.is_some() && world.moved.since(moved), what);
            }
        };
        let ttl = || world.call("get_ttl", cache.get_ttl(&key));
        let steps = async {
            world.call("set_value", cache.set_value(&key, "x", long)).await?;
            lasts(ttl().await?, long, "after it was set");
            holds(world.call("persist", cache.persist(&key)).await?, "none to take away");
            holds(ttl().await? == Ttl::Persistent, "after it was taken away");
            holds(!world.call("persist", cache.persist(&key)).await?, "taken away twice");
            let set = cache.set_expiry(&key, short);
            holds(world.call("set_expiry", set).await?, "none to give it to");
            lasts(ttl().await?, short, "after it was given");
            let deleted = world.call("delete_key", cache.delete_key(&key)).await?;
            holds(deleted == 1, "nothing to delete");
            holds(ttl().await? == Ttl::Missing, "after it was deleted");
            let set = cache.set_expiry(&key, short);
            holds(!world.call("set_expiry", set).await?, "given to nothing");
            Ok::<_, larder::Error>(())
        };
        _ = steps.await;
        breathe(&mut random).await;
    }
}

async fn short_lives(world: Arc<World>, worker: u64) {
    let (cache, mut random) = (world.client(worker), world.random(9, worker));
    for round in 0_u64.. {
        if world.is_over() {
            return;
        }
        let key = format!("short:{worker}:{round}");
        let life = Duration::from_millis(random.u64(20..200));
        let (begun, moved) = (Instant::now(), world.moved.now());
        let outlived = |what: &str| {
            // A slot that moves takes some time to do so, by which its keys live longer.
            let excused = world.moved.since(moved);
            world.tally.broke(Promise::Outlived, excused, format_args!("{key} of {life:?} {what}"));
        };
        if world.call("set_value", cache.set_value(&key, "x", life)).await.is_err() {
            continue;
        }
        let acked = Instant::now();
        if let Ok(ttl) = world.call("get_ttl", cache.get_ttl(&key)).await
            && ttl.remaining().is_some_and(|left| left > life)
        {
            outlived("is to live longer");
        }
        // It ends some time between these two moments.
        tokio::time::sleep_until((begun + life).into()).await;
        tokio::time::sleep_until((acked + life + Duration::from_millis(2)).into()).await;
        if let Ok(true) = world.call("key_exists", cache.key_exists(&key)).await {
            outlived("is there");
        }
    }
}

/// Clients that come, do a little, and go, closed or not.
async fn newcomers(world: Arc<World>) {
    let mut random = world.random(10, 0);
    while !world.is_over() {
        let cache = (world.builder)().build().unwrap();
        let register = &mut Register::new(format!("new:{}", random.u64(..)));
        let (number, value) = register.value(&world, &mut random);
        let set = cache.set_value(&register.name, value, LEFT);
        let ended = world.write("set_value", set).await;
        register.wrote(number, ended);
        register.ask(&world);
        if let Ok(value) = world.call("get_value", cache.get_value(&register.name)).await {
            register.saw(&world, value.as_deref());
        }
        let guard = cache.lock("newcomer").try_acquire().await;
        if let Ok(Some(guard)) = world.ended("guards of a plain lock", guard)
            && random.bool()
        {
            _ = world.call("releases", guard.release()).await;
        }
        if random.bool() {
            cache.close().await;
        }
        world.tally.did("clients that came and went");
        tokio::time::sleep(Duration::from_millis(random.u64(..200))).await;
    }
}

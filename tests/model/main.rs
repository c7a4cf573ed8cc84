//! The differential test: random lists of operations on the embedded store, on a real Redis and on
//! a plain model have to be answered alike, reply by reply.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use larder::op::{Batch, Op};
use larder::store::{MemoryStore, RedisStore, Store};
use larder::testing::RedisServer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

mod lists;
mod plain;

use lists::{List, Step, last_look, timed, timeless};
use plain::{Answer, Model};

/// How many lists a run has at least; `LARDER_FULL=1` asks for ten times as many.
fn wanted() -> u32 {
    match std::env::var("LARDER_FULL") {
        Ok(full) if full == "1" => 100_000,
        _ => 10_000,
    }
}

/// What was compared so far. Shrinking a failure counts as well, but then the test fails anyway.
#[derive(Default)]
struct Count {
    lists: Cell<u32>,
    operations: Cell<u32>,
}

impl Count {
    fn add(&self, operations: usize) {
        self.lists.set(self.lists.get() + 1);
        self.operations.set(self.operations.get() + operations as u32);
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} lists, {} operations, 0 differences",
            self.lists.get(),
            self.operations.get()
        );
    }
}

fn check<T: std::fmt::Debug>(
    count: &Count,
    strategy: impl Strategy<Value = T>,
    test: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let config = Config { cases: 50, failure_persistence: None, ..Config::default() };
    while count.lists.get() < wanted() {
        if let Err(failure) = TestRunner::new(config.clone()).run(&strategy, &test) {
            panic!("{failure}");
        }
    }
}

async fn answers(store: &impl Store, batch: Batch) -> Result<Vec<Answer>, TestCaseError> {
    let replies = store
        .run(batch)
        .await
        .map_err(|error| TestCaseError::fail(format!("a batch failed as a whole: {error}")))?;
    Ok(replies.results().iter().map(Answer::of).collect())
}

fn compare(
    who: &str,
    ops: &[Op],
    came: &[Answer],
    expected: &[Answer],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(came.len(), ops.len(), "{}: number of replies", who);
    for ((op, came), expected) in ops.iter().zip(came).zip(expected) {
        prop_assert!(came == expected, "{who}, {op:?}: {came:?}, but the model says {expected:?}");
    }
    Ok(())
}

/// Runs a list on a store whose clock runs, in a key space of its own.
async fn same_as_model(
    who: &str,
    store: &impl Store,
    prefix: &str,
    list: &List,
) -> Result<usize, TestCaseError> {
    let mut model = Model::default();
    let mut operations = 0;
    let batches = list.iter().filter_map(|step| step.batch(prefix)).chain([last_look(prefix)]);
    for batch in batches {
        operations += batch.ops().len();
        let came: Vec<_> = answers(store, batch.clone())
            .await?
            .into_iter()
            .map(Answer::with_coarse_time)
            .collect();
        let expected: Vec<_> =
            batch.ops().iter().map(|op| model.answer(op).with_coarse_time()).collect();
        compare(who, batch.ops(), &came, &expected)?;
    }
    Ok(operations)
}

#[test]
fn the_embedded_store_redis_and_the_model_answer_alike() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let redis = RedisStore::open(&server.url()).unwrap();
    let count = Count::default();
    // Lists of one case run at the same time over one connection: each has to get its own replies.
    let cases = prop::collection::vec(timeless(), 1..100);
    check(&count, cases, |lists| {
        let memory = MemoryStore::new();
        let run = async {
            // What a failure left behind, when its case is shrunk.
            server.command(&["FLUSHALL"]).await;
            let each = lists.iter().enumerate().map(async |(n, list)| {
                let prefix = format!("list{n}:");
                same_as_model("memory", &memory, &prefix, list).await?;
                same_as_model("redis", &redis, &prefix, list).await
            });
            join_all(each).await
        };
        for operations in runtime.block_on(run) {
            count.add(operations?);
        }
        prop_assert!(memory.is_empty(), "a deleted key is still there");
        Ok(())
    });
    count.print("model");
}

#[test]
fn the_embedded_store_and_the_model_agree_on_time() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let count = Count::default();
    check(&count, timed(), |list| {
        let run = async {
            let (memory, mut model) = (MemoryStore::new(), Model::default());
            let mut operations = 0;
            for step in &list {
                if let Step::Advance(millis) = step {
                    tokio::time::advance(Duration::from_millis(*millis)).await;
                    model.now += millis;
                }
                let Some(batch) = step.batch("") else { continue };
                operations += batch.ops().len();
                let came = answers(&memory, batch.clone()).await?;
                let expected: Vec<_> = batch.ops().iter().map(|op| model.answer(op)).collect();
                compare("memory", batch.ops(), &came, &expected)?;
            }
            let batch = last_look("");
            let came = answers(&memory, batch.clone()).await?;
            let expected: Vec<_> = batch.ops().iter().map(|op| model.answer(op)).collect();
            compare("memory", batch.ops(), &came, &expected)?;
            prop_assert_eq!((memory.len(), memory.bytes()), (0, 0));
            Ok(operations)
        };
        count.add(runtime.block_on(run)?);
        Ok(())
    });
    count.print("model with time");
}

//! The differential test: random lists of operations on the embedded store, on a real Redis and on
//! a plain model have to be answered alike, reply by reply.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use larder::op::{Ask, Batch, LeaseState, Op};
use larder::store::{MemoryStore, RedisStore, Store};
use larder::testing::RedisServer;
use larder::{Expiry, Key};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../common/mod.rs"]
mod common;
mod lists;
mod locks;
mod plain;

use lists::{Digests, List, Step, TEXTS, last_look, timed, timeless};
use locks::Tokens;
use plain::{Answer, Model};

/// How many lists a run has at least; `LARDER_FULL=1` asks for ten times as many.
fn wanted() -> u32 {
    common::times(100_000) as u32
}

/// What was compared so far. Shrinking a failure counts as well, but then the test fails anyway.
#[derive(Default)]
struct Count {
    lists: Cell<u32>,
    operations: Cell<u32>,
    fills: Cell<u32>,
    locks: Cell<(u32, u32)>,
}

/// How many operations a list had, how many fills among them were accepted, and how many locks taken and refused.
#[derive(Default)]
struct Done {
    operations: usize,
    fills: usize,
    locks: (usize, usize),
}

impl Done {
    fn add(&mut self, answers: &[Answer]) {
        self.operations += answers.len();
        self.fills += answers.iter().filter(|answer| answer.is_accepted_fill()).count();
        self.locks.0 += answers.iter().filter(|answer| answer.is_taken_lock()).count();
        self.locks.1 += answers.iter().filter(|answer| answer.is_held_lock()).count();
    }
}

impl Count {
    fn add(&self, done: &Done) {
        self.lists.set(self.lists.get() + 1);
        self.operations.set(self.operations.get() + done.operations as u32);
        self.fills.set(self.fills.get() + done.fills as u32);
        let (taken, held) = self.locks.get();
        self.locks.set((taken + done.locks.0 as u32, held + done.locks.1 as u32));
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} lists, {} operations, {} fills accepted, {} locks taken, {} refused, 0 differences",
            self.lists.get(),
            self.operations.get(),
            self.fills.get(),
            self.locks.get().0,
            self.locks.get().1,
        );
        let (taken, held) = self.locks.get();
        assert!(taken.min(held) > self.lists.get(), "locks hardly ever meet");
        assert!(self.fills.get() > self.lists.get() / 10, "fills hardly ever meet their leases");
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

/// What a store's digests of the texts are, and the model's: the texts themselves.
async fn digests(store: &impl Store) -> (Digests, Digests) {
    let (mut theirs, mut plain) = (Digests::new(), Digests::new());
    let key = Key::new("digest").unwrap();
    for text in TEXTS.map(Bytes::from_static) {
        let (key, value) = (key.clone(), text.clone());
        let (token, expiry) = (text.clone(), Expiry::new(Duration::from_secs(60)).unwrap());
        let ops = vec![
            Op::Set { key: key.clone(), value, expiry: None, only_if: None },
            Op::Lease { key: key.clone(), token, expiry, ask: Ask::Always },
            Op::Delete { keys: vec![key] },
        ];
        let replies = store.run(Batch::many("digests", ops)).await.unwrap().into_results();
        let leased = replies.into_iter().nth(1).unwrap().unwrap().into_leased().unwrap();
        let LeaseState::Granted { digest: Some(digest) } = leased.lease else {
            panic!("no digest of {text:?}: {leased:?}");
        };
        theirs.insert(text.clone(), digest);
        plain.insert(text.clone(), text);
    }
    assert_eq!(theirs.values().collect::<BTreeSet<_>>().len(), TEXTS.len(), "digests that meet");
    (theirs, plain)
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
    (store, digests): (&impl Store, &(Digests, Digests)),
    prefix: &str,
    list: &List,
) -> Result<Done, TestCaseError> {
    let mut model = Model::default();
    let mut done = Done::default();
    let (mut their_tokens, mut plain_tokens) = (Tokens::default(), Tokens::default());
    let batches = |digests| {
        list.iter().filter_map(move |step| step.batch(prefix, digests)).chain([last_look(prefix)])
    };
    for (batch, plain) in batches(&digests.0).zip(batches(&digests.1)) {
        let came: Vec<_> = answers(store, batch.clone())
            .await?
            .into_iter()
            .zip(batch.ops())
            .map(|(answer, op)| their_tokens.in_order(op, answer).with_coarse_time())
            .collect();
        let expected: Vec<_> = plain
            .ops()
            .iter()
            .map(|op| plain_tokens.in_order(op, model.answer(op)).with_coarse_time())
            .collect();
        compare(who, batch.ops(), &came, &expected)?;
        done.add(&came);
    }
    Ok(done)
}

#[test]
fn the_embedded_store_redis_and_the_model_answer_alike() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let redis = RedisStore::open(&server.url()).unwrap();
    let of_redis = runtime.block_on(digests(&redis));
    let of_memory = runtime.block_on(digests(&MemoryStore::new()));
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
                same_as_model("memory", (&memory, &of_memory), &prefix, list).await?;
                same_as_model("redis", (&redis, &of_redis), &prefix, list).await
            });
            join_all(each).await
        };
        for done in runtime.block_on(run) {
            count.add(&done?);
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
    let (of_memory, of_model) = runtime.block_on(digests(&MemoryStore::new()));
    let count = Count::default();
    check(&count, timed(), |list| {
        let run = async {
            let (memory, mut model) = (MemoryStore::new(), Model::default());
            let mut done = Done::default();
            let (mut their_tokens, mut plain_tokens) = (Tokens::default(), Tokens::default());
            for step in &list {
                if let Step::Advance(millis) = step {
                    tokio::time::advance(Duration::from_millis(*millis)).await;
                    model.now += millis;
                }
                let Some(batch) = step.batch("", &of_memory) else { continue };
                let Some(plain) = step.batch("", &of_model) else { continue };
                let came = answers(&memory, batch.clone()).await?.into_iter().zip(batch.ops());
                let came: Vec<_> =
                    came.map(|(answer, op)| their_tokens.in_order(op, answer)).collect();
                let expected =
                    plain.ops().iter().map(|op| plain_tokens.in_order(op, model.answer(op)));
                let expected: Vec<_> = expected.collect();
                compare("memory", batch.ops(), &came, &expected)?;
                done.add(&came);
            }
            let batch = last_look("");
            let came = answers(&memory, batch.clone()).await?;
            let expected: Vec<_> = batch.ops().iter().map(|op| model.answer(op)).collect();
            compare("memory", batch.ops(), &came, &expected)?;
            prop_assert_eq!((memory.len(), memory.bytes()), (0, 0));
            Ok(done)
        };
        count.add(&runtime.block_on(run)?);
        Ok(())
    });
    count.print("model with time");
}

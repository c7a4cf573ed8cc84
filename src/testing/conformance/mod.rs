//! The conformance suite: holds a [`Store`] to its contract, the embedded one, Redis, or yours.
//!
//! One public function for each case; [`run_all`] runs them all and reports every case that
//! failed, with what was asked, what was expected and what came.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use std::sync::Arc;
//! use larder::store::{MemoryStore, Store};
//! use larder::testing::conformance;
//!
//! let mine: Arc<dyn Store> = Arc::new(MemoryStore::new());
//! let cases = conformance::run_all("test:", async || mine.clone()).await.unwrap();
//! assert!(cases > 30);
//! # }
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::key::Key;
use crate::op::{Batch, Op, Presence, Reply};
use crate::store::Store;
use crate::ttl::Expiry;

mod changes;
mod collections;
mod contract;
mod loads;
mod locks;
mod shares;
mod values;

pub use changes::*;
pub use collections::*;
pub use contract::*;
pub use loads::*;
pub use locks::*;
pub use shares::*;
pub use values::*;

/// How long a case waits for something that has to happen, such as an expiry of some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a case says: nothing, or what was wrong.
pub type Checked = Result<(), String>;

/// A case that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The case's name, which is its function's.
    pub case: &'static str,
    /// What was asked, what was expected, and what came.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.what)
    }
}

/// A case by its name.
struct Case {
    name: &'static str,
    run: for<'a> fn(&'a Subject) -> BoxFuture<'a, Checked>,
}

macro_rules! cases {
    ($($name:ident)*) => {
        const CASES: &[Case] = &[
            $(Case { name: stringify!($name), run: |subject| Box::pin($name(subject)) },)*
        ];
    };
}

cases! {
    ping get get_many set set_if incr_by delete exists expire persist ttl
    hash_set hash_get hash_get_all hash_delete
    list_push list_range list_pop list_remove
    acquire release scan
    fetch lease fill fill_of_a_refresh foreign_writes_refuse_the_fill renew overwrite deletes_void_leases
    lock fencing_tokens_rise plain_locks_exclude_locks locks_obey_their_holder locks_of_other_types
    locks_are_given_in_order owners_stand_in_the_record garbage_in_a_record leases_of_an_age
    shared_locks shared_locks_exclude_others shared_locks_end_with_the_last shared_locks_that_were_deleted
    locks_are_told asking_again_tells_nobody fenced_set
    changes_are_told leases_are_told expiries_are_told a_change_is_told_before_it_is_shown
    broadcasts_tell_of_unread_keys
    keys_expire writes_and_expiries empty_collections_vanish wrong_types numbers_out_of_range
    an_error_stops_nothing batches_run_in_order atomic_batches_are_not_seen_in_half
    a_wrong_type_in_an_atomic_batch binary_keys_and_values index_extremes
    cancelled_calls_confuse_nobody many_calls_at_once large_values nothing_is_printed
}

/// Runs every case, each on a store from `make` and with keys of its own under `prefix`, which
/// nothing else may use; the keys are deleted afterwards. Answers how many cases there were.
///
/// `make` is called twice for each case. All the stores have to work on the same data: clients of
/// one server, or one store handed out again.
///
/// # Errors
/// Every case that failed.
pub async fn run_all(
    prefix: impl AsRef<[u8]>,
    make: impl AsyncFn() -> Arc<dyn Store>,
) -> Result<usize, Vec<Failure>> {
    let mut failures = Vec::new();
    for case in CASES {
        let prefix = [prefix.as_ref(), case.name.as_bytes(), b":"].concat();
        let subject = Subject::new(make().await, make().await, prefix);
        let checked = (case.run)(&subject).await;
        if let Err(what) = checked.and(subject.clean().await) {
            failures.push(Failure { case: case.name, what });
        }
    }
    if failures.is_empty() { Ok(CASES.len()) } else { Err(failures) }
}

/// A store under test, with a key space of its own.
pub struct Subject {
    store: Arc<dyn Store>,
    other: Arc<dyn Store>,
    prefix: Vec<u8>,
    used: Mutex<BTreeSet<Key>>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("prefix", &self.prefix.escape_ascii().to_string()).finish()
    }
}

impl Subject {
    /// A store, another handle on the same data (the same store will do), and the prefix of all
    /// keys.
    pub fn new(store: Arc<dyn Store>, other: Arc<dyn Store>, prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref().to_vec();
        Self { store, other, prefix, used: Mutex::default() }
    }

    /// A key under the prefix, to be deleted by [`Subject::clean`].
    pub fn key(&self, name: impl AsRef<[u8]>) -> Key {
        let key = Key::new([&self.prefix, name.as_ref()].concat())
            .expect("names of keys in the suite are short");
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        key
    }

    /// The key of a lock, or of a fenced write, whose record or mark is deleted with it.
    fn lock_key(&self, name: impl AsRef<[u8]>) -> Key {
        let key = self.key(name);
        let beside = [key.lock_record(), key.fence()];
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(beside);
        key
    }

    /// Deletes the keys that were used.
    ///
    /// # Errors
    /// What the store said instead of doing so.
    pub async fn clean(&self) -> Checked {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        // One at a time: together they need not be in one slot of a cluster.
        for key in used {
            let deleted = self.run(Op::Delete { keys: vec![key] }).await;
            deleted.map_err(|error| format!("cleaning up: {error}"))?;
        }
        Ok(())
    }

    async fn run(&self, op: Op) -> Result<Reply> {
        self.store.run(Batch::one("conformance", op)).await?.into_one()
    }

    async fn run_many(&self, ops: Vec<Op>) -> Result<Vec<Result<Reply>>, String> {
        self.finish(&self.store, Batch::many("conformance", ops)).await
    }

    async fn run_atomic(&self, ops: Vec<Op>) -> Result<Vec<Result<Reply>>, String> {
        self.finish(&self.store, Batch::many("conformance", ops).atomic()).await
    }

    async fn finish(
        &self,
        store: &Arc<dyn Store>,
        batch: Batch,
    ) -> Result<Vec<Result<Reply>>, String> {
        let count = batch.ops().len();
        let replies = store
            .run(batch)
            .await
            .map_err(|error| format!("a batch of {count} failed as a whole: {error}"))?
            .into_results();
        if replies.len() != count {
            return Err(format!("{} replies to {count} operations", replies.len()));
        }
        Ok(replies)
    }

    /// Runs `op` and compares what it answers.
    async fn expect(&self, op: Op, expected: Reply) -> Checked {
        let asked = format!("{op:?}");
        same(&asked, &self.run(op).await, &expected)
    }

    /// Runs `op` and compares how it is refused.
    async fn refuse(&self, op: Op, kind: ErrorKind, code: &str) -> Checked {
        let asked = format!("{op:?}");
        refused(&asked, &self.run(op).await, kind, code)
    }

    /// Waits until a key is gone.
    async fn expect_gone(&self, key: &Key) -> Checked {
        let end = Instant::now() + PATIENCE;
        while matches!(self.run(exists_op(key)).await, Ok(Reply::Bool(true))) {
            if Instant::now() > end {
                return Err(format!("{key} should have expired long ago"));
            }
            // Only so as not to flood the server while asking; the loop waits for the event.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.expect(exists_op(key), Reply::Bool(false)).await
    }
}

/// Compares an answer.
fn same(asked: &str, came: &Result<Reply>, expected: &Reply) -> Checked {
    match came {
        Ok(reply) if reply == expected => Ok(()),
        other => Err(format!("{asked}: expected {}, got {}", show(expected), show_result(other))),
    }
}

/// Compares a refusal: nothing was applied, and the caller can tell why.
fn refused(asked: &str, came: &Result<Reply>, kind: ErrorKind, code: &str) -> Checked {
    match came {
        Err(error)
            if error.kind() == kind
                && error.outcome() == Outcome::Rejected
                && error.code() == Some(code) =>
        {
            Ok(())
        }
        other => Err(format!(
            "{asked}: expected a refusal ({kind:?}, Rejected, {code}), got {}",
            show_result(other)
        )),
    }
}

/// Fails a case unless `holds`.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

fn show_result(result: &Result<Reply>) -> String {
    match result {
        Ok(reply) => show(reply),
        Err(error) => show_error(error),
    }
}

fn show_error(error: &Error) -> String {
    format!("an error ({:?}, {:?}, {:?}: {error})", error.kind(), error.outcome(), error.code())
}

/// A reply with its contents. The suite made them all, so none is a secret.
fn show(reply: &Reply) -> String {
    let text = |bytes: &Bytes| match bytes.len() {
        ..200 => format!("\"{}\"", bytes.escape_ascii()),
        len => format!("{len} bytes"),
    };
    let maybe = |value: &Option<Bytes>| value.as_ref().map_or("none".to_owned(), text);
    match reply {
        Reply::Value(value) => maybe(value),
        Reply::Values(values) => format!("{:?}", values.iter().map(maybe).collect::<Vec<_>>()),
        Reply::List(elements) => format!("{:?}", elements.iter().map(text).collect::<Vec<_>>()),
        Reply::Pairs(pairs) => format!(
            "{:?}",
            pairs.iter().map(|(field, value)| (text(field), text(value))).collect::<Vec<_>>()
        ),
        Reply::Filled { accepted, found } => {
            format!("Filled({accepted}, {} {:?})", maybe(&found.value), found.ttl)
        }
        Reply::Fetched(fetched) => format!(
            "{:?}",
            fetched.iter().map(|found| (maybe(&found.value), found.ttl)).collect::<Vec<_>>()
        ),
        Reply::Keys { cursor, keys } => {
            format!("{:?}, next {cursor}", keys.iter().map(text).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    }
}

// Short names for what the cases ask most.

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

fn value(text: impl AsRef<[u8]>) -> Reply {
    Reply::Value(Some(bytes(text)))
}

fn list(elements: &[&str]) -> Reply {
    Reply::List(elements.iter().map(bytes).collect())
}

fn millis(millis: u64) -> Expiry {
    Expiry::new(Duration::from_millis(millis)).expect("the suite's TTLs are not zero")
}

/// An expiry that does not pass during a test.
fn an_hour() -> Expiry {
    millis(3_600_000)
}

fn get_op(key: &Key) -> Op {
    Op::Get { key: key.clone() }
}

fn set_op(key: &Key, value: impl AsRef<[u8]>) -> Op {
    Op::Set { key: key.clone(), value: bytes(value), expiry: None, only_if: None }
}

fn set_for(key: &Key, value: impl AsRef<[u8]>, expiry: Expiry) -> Op {
    Op::Set { key: key.clone(), value: bytes(value), expiry: Some(expiry), only_if: None }
}

fn set_if_op(key: &Key, value: impl AsRef<[u8]>, only_if: Presence) -> Op {
    Op::Set { key: key.clone(), value: bytes(value), expiry: None, only_if: Some(only_if) }
}

fn hash_op(key: &Key, field: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op {
    Op::HashSet { key: key.clone(), field: bytes(field), value: bytes(value) }
}

fn push_op(key: &Key, value: impl AsRef<[u8]>) -> Op {
    Op::ListPush { key: key.clone(), value: bytes(value), side: crate::op::Direction::Right }
}

fn range_op(key: &Key, start: i64, stop: i64) -> Op {
    Op::ListRange { key: key.clone(), start, stop }
}

fn exists_op(key: &Key) -> Op {
    Op::Exists { key: key.clone() }
}

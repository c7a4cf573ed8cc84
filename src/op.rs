//! Operations as data: everything a store can be asked, and what it answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, MAX_BYTES};
use crate::ttl::{Expiry, Ttl};

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The head.
    Left,
    /// The tail.
    Right,
}

/// A condition of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Write only if the key does not exist.
    Absent,
    /// Write only if the key exists.
    Present,
}

/// One operation. Its `Debug` shows keys as their first part and a hash, and values as a length.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the variants' docs name their fields")]
pub enum Op {
    /// Asks whether the store answers. [`Reply::Done`].
    Ping,
    /// Reads a string. [`Reply::Value`].
    Get { key: Key },
    /// Reads many strings in one step; a key that holds another type reads as missing.
    /// [`Reply::Values`], in the order of the keys.
    GetMany { keys: Vec<Key> },
    /// Writes a string; without `expiry` the key stays, with `only_if` it may not be written.
    /// [`Reply::Bool`]: whether it was written.
    Set { key: Key, value: Bytes, expiry: Option<Expiry>, only_if: Option<Presence> },
    /// Adds to a number, which starts at 0. [`Reply::Int`]: the new number.
    IncrBy { key: Key, delta: i64 },
    /// Deletes keys. [`Reply::Int`]: how many existed.
    Delete { keys: Vec<Key> },
    /// Asks whether a key exists. [`Reply::Bool`].
    Exists { key: Key },
    /// Gives a key a new expiry. [`Reply::Bool`]: whether the key exists.
    Expire { key: Key, expiry: Expiry },
    /// Takes a key's expiry away. [`Reply::Bool`]: whether there was one.
    Persist { key: Key },
    /// Reads a key's remaining time. [`Reply::Ttl`].
    Ttl { key: Key },
    /// Writes a field of a hash. [`Reply::Bool`]: whether the field is new.
    HashSet { key: Key, field: Bytes, value: Bytes },
    /// Reads a field of a hash. [`Reply::Value`].
    HashGet { key: Key, field: Bytes },
    /// Reads a whole hash. [`Reply::Pairs`], in no particular order.
    HashGetAll { key: Key },
    /// Deletes a field of a hash; a hash without fields does not exist. [`Reply::Bool`]: whether
    /// the field existed.
    HashDelete { key: Key, field: Bytes },
    /// Adds an element to a list. [`Reply::Int`]: the new length.
    ListPush { key: Key, value: Bytes, side: Direction },
    /// Reads the elements from `start` to `stop`, both included, negative ones from the tail.
    /// [`Reply::List`].
    ListRange { key: Key, start: i64, stop: i64 },
    /// Takes an element off a list; a list without elements does not exist. [`Reply::Value`].
    ListPop { key: Key, side: Direction },
    /// Removes every element equal to `value`. [`Reply::Int`]: how many.
    ListRemove { key: Key, value: Bytes },
    /// Takes a lock: writes `id` under `key` if the key is absent. Repeating it with the same `id`
    /// answers true again. [`Reply::Bool`].
    Acquire { key: Key, id: Bytes, expiry: Expiry },
    /// Gives a lock back: deletes `key` if it holds `id`. [`Reply::Bool`].
    Release { key: Key, id: Bytes },
    /// Lists keys that start with `prefix`, about `count` at a time, from `cursor` (0 at first).
    /// [`Reply::Keys`], whose cursor is 0 at the end. Keys that exist during the whole scan are
    /// listed at least once.
    Scan { cursor: u64, prefix: Bytes, count: u32 },
}

/// How many kinds of operation there are.
pub(crate) const OP_KINDS: usize = 22;

impl Op {
    /// The operation's name, as statistics and spans show it.
    pub fn name(&self) -> &'static str {
        OP_NAMES[self.index()]
    }

    /// A small number for the kind of operation; an index into [`OP_NAMES`].
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Ping => 0,
            Self::Get { .. } => 1,
            Self::GetMany { .. } => 2,
            Self::Set { .. } => 3,
            Self::IncrBy { .. } => 4,
            Self::Delete { .. } => 5,
            Self::Exists { .. } => 6,
            Self::Expire { .. } => 7,
            Self::Persist { .. } => 8,
            Self::Ttl { .. } => 9,
            Self::HashSet { .. } => 10,
            Self::HashGet { .. } => 11,
            Self::HashGetAll { .. } => 12,
            Self::HashDelete { .. } => 13,
            Self::ListPush { .. } => 14,
            Self::ListRange { .. } => 15,
            Self::ListPop { .. } => 16,
            Self::ListRemove { .. } => 17,
            Self::Acquire { .. } => 18,
            Self::Release { .. } => 19,
            Self::Scan { .. } => 20,
        }
    }

    /// The keys it works on, in the order given.
    pub fn keys(&self) -> &[Key] {
        match self {
            Self::Ping | Self::Scan { .. } => &[],
            Self::GetMany { keys } | Self::Delete { keys } => keys,
            Self::Get { key }
            | Self::Set { key, .. }
            | Self::IncrBy { key, .. }
            | Self::Exists { key }
            | Self::Expire { key, .. }
            | Self::Persist { key }
            | Self::Ttl { key }
            | Self::HashSet { key, .. }
            | Self::HashGet { key, .. }
            | Self::HashGetAll { key }
            | Self::HashDelete { key, .. }
            | Self::ListPush { key, .. }
            | Self::ListRange { key, .. }
            | Self::ListPop { key, .. }
            | Self::ListRemove { key, .. }
            | Self::Acquire { key, .. }
            | Self::Release { key, .. } => std::slice::from_ref(key),
        }
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::Get { .. }
                | Self::GetMany { .. }
                | Self::Exists { .. }
                | Self::Ttl { .. }
                | Self::HashGet { .. }
                | Self::HashGetAll { .. }
                | Self::ListRange { .. }
                | Self::Scan { .. }
        )
    }

    /// Whether running it twice leaves the same data **and** gives the same answer as running it
    /// once, so that it may be sent again when no answer came. A delete does not qualify: its
    /// second answer says that there was nothing.
    pub fn is_repeatable(&self) -> bool {
        self.is_read()
            || matches!(
                self,
                Self::Set { only_if: None, .. } | Self::Expire { .. } | Self::Acquire { .. }
            )
    }

    /// The value it carries, if it writes one.
    pub(crate) fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Set { value, .. }
            | Self::HashSet { value, .. }
            | Self::ListPush { value, .. }
            | Self::ListRemove { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Refuses what no store can hold.
    pub(crate) fn check(&self) -> Result<()> {
        let too_long = |bytes: &Bytes| bytes.len() > MAX_BYTES;
        let field = match self {
            Self::HashSet { field, .. }
            | Self::HashGet { field, .. }
            | Self::HashDelete { field, .. } => Some(field),
            _ => None,
        };
        if self.payload().is_some_and(too_long) || field.is_some_and(too_long) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the value is longer than {MAX_BYTES} bytes; split it"),
            ));
        }
        if matches!(self, Self::GetMany { keys } | Self::Delete { keys } if keys.is_empty()) {
            return Err(Error::new(ErrorKind::InvalidInput, "no keys were given"));
        }
        Ok(())
    }
}

/// The names of the operations, by [`Op::index`], and of grouped calls.
pub(crate) const OP_NAMES: [&str; OP_KINDS] = [
    "ping",
    "get",
    "get_many",
    "set",
    "incr_by",
    "delete",
    "exists",
    "expire",
    "persist",
    "ttl",
    "hash_set",
    "hash_get",
    "hash_get_all",
    "hash_delete",
    "list_push",
    "list_range",
    "list_pop",
    "list_remove",
    "acquire",
    "release",
    "scan",
    "batch",
];

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let [first, rest @ ..] = self.keys() {
            write!(f, " {first}")?;
            if !rest.is_empty() {
                write!(f, " and {} more", rest.len())?;
            }
        }
        if let Some(value) = self.payload() {
            write!(f, " ({} bytes)", value.len())?;
        }
        Ok(())
    }
}

/// One thing without an allocation, or many.
#[derive(Clone, PartialEq, Eq)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Operations that run in order, in one write to the server. Cloning shares them.
#[derive(Clone)]
pub struct Batch {
    ops: Arc<Shared>,
    name: &'static str,
    label: Option<Arc<str>>,
    atomic: bool,
    timeout: Option<Duration>,
    started: Instant,
    deadline: Option<Instant>,
}

struct Shared {
    ops: OneOrMany<Op>,
    // Stands beside the operations because a deadline fires outside of the store that sends.
    sent: AtomicBool,
}

impl Batch {
    /// A batch of one operation. `name` is what errors call it.
    pub fn one(name: &'static str, op: Op) -> Self {
        Self::build(name, OneOrMany::One(op))
    }

    /// A batch of several operations, which other clients' operations may come between.
    pub fn many(name: &'static str, ops: Vec<Op>) -> Self {
        Self::build(name, OneOrMany::Many(ops))
    }

    fn build(name: &'static str, ops: OneOrMany<Op>) -> Self {
        Self {
            ops: Arc::new(Shared { ops, sent: AtomicBool::new(false) }),
            name,
            label: None,
            atomic: false,
            timeout: None,
            started: Instant::now(),
            deadline: None,
        }
    }

    /// All of it or nothing, and nobody's operations in between.
    pub fn atomic(mut self) -> Self {
        self.atomic = true;
        self
    }

    /// The namespace that statistics count it under; without one, each key's first part.
    pub fn labelled(mut self, label: Arc<str>) -> Self {
        self.label = Some(label);
        self
    }

    /// How long it may take altogether. Defaults to the client's deadline.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The operations.
    pub fn ops(&self) -> &[Op] {
        self.ops.ops.as_slice()
    }

    /// What errors call it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The namespace it counts under.
    pub fn label(&self) -> Option<&Arc<str>> {
        self.label.as_ref()
    }

    /// Whether it is all or nothing.
    pub fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Its own time limit, if it has one.
    pub fn own_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// When it was made; deadlines and latencies count from here.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// When it has to be over. Set by the store that keeps deadlines.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sets the moment when it has to be over.
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Whether every operation only reads.
    pub fn is_read(&self) -> bool {
        self.ops().iter().all(Op::is_read)
    }

    /// Whether it may be sent again when no answer came.
    pub fn is_repeatable(&self) -> bool {
        self.ops().iter().all(Op::is_repeatable)
    }

    /// The only key it names, for an error about the whole batch.
    pub fn sole_key(&self) -> Option<&Key> {
        match self.ops() {
            [op] => match op.keys() {
                [key] => Some(key),
                _ => None,
            },
            _ => None,
        }
    }

    /// To be called by a store right before the first byte can leave the process.
    pub fn mark_sent(&self) {
        self.ops.sent.store(true, Ordering::Relaxed);
    }

    /// Whether a byte of it can have left the process.
    pub fn was_sent(&self) -> bool {
        self.ops.sent.load(Ordering::Relaxed)
    }

    /// Forgets an attempt that the server is known to have refused.
    pub(crate) fn clear_sent(&self) {
        self.ops.sent.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("name", &self.name)
            .field("atomic", &self.atomic)
            .field("ops", &self.ops())
            .finish_non_exhaustive()
    }
}

/// What an operation answered. Its `Debug` shows sizes, never contents.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the variants' docs name their fields")]
pub enum Reply {
    /// It was done.
    Done,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A value, or that there is none.
    Value(Option<Bytes>),
    /// A value or none for each key.
    Values(Vec<Option<Bytes>>),
    /// The elements of a list.
    List(Vec<Bytes>),
    /// The fields and values of a hash.
    Pairs(Vec<(Bytes, Bytes)>),
    /// A remaining time.
    Ttl(Ttl),
    /// Some keys of a scan, and where it goes on.
    Keys { cursor: u64, keys: Vec<Bytes> },
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("Done"),
            Self::Bool(yes) => write!(f, "Bool({yes})"),
            Self::Int(number) => write!(f, "Int({number})"),
            Self::Value(None) => f.write_str("Value(none)"),
            Self::Value(Some(value)) => write!(f, "Value({} bytes)", value.len()),
            Self::Values(values) => write!(f, "Values({})", values.len()),
            Self::List(elements) => write!(f, "List({})", elements.len()),
            Self::Pairs(pairs) => write!(f, "Pairs({})", pairs.len()),
            Self::Ttl(ttl) => write!(f, "{ttl:?}"),
            Self::Keys { cursor, keys } => write!(f, "Keys({}, next {cursor})", keys.len()),
        }
    }
}

/// One getter a kind of reply: the content, or a protocol error.
macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident -> $type:ty, $pattern:pat => $value:expr;)*) => {
        impl Reply {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`ErrorKind::Protocol`] if the store answered something else.
            pub fn $name(self) -> Result<$type> {
                match self {
                    $pattern => Ok($value),
                    _ => Err(Error::new(
                        ErrorKind::Protocol,
                        "the store answered with another kind of reply",
                    )),
                }
            })*
        }
    };
}

getters! {
    /// Nothing but that it was done.
    into_done -> (), Self::Done => ();
    /// The yes or no.
    into_bool -> bool, Self::Bool(yes) => yes;
    /// The number.
    into_int -> i64, Self::Int(number) => number;
    /// The value, if there is one.
    into_value -> Option<Bytes>, Self::Value(value) => value;
    /// A value or none for each key.
    into_values -> Vec<Option<Bytes>>, Self::Values(values) => values;
    /// The elements.
    into_list -> Vec<Bytes>, Self::List(elements) => elements;
    /// The fields and values.
    into_pairs -> Vec<(Bytes, Bytes)>, Self::Pairs(pairs) => pairs;
    /// The remaining time.
    into_ttl -> Ttl, Self::Ttl(ttl) => ttl;
    /// The next cursor and some keys.
    into_keys -> (u64, Vec<Bytes>), Self::Keys { cursor, keys } => (cursor, keys);
}

/// One result for each operation of a batch, in order.
#[derive(Debug, Clone)]
pub struct Replies(OneOrMany<Result<Reply>>);

impl Replies {
    /// The reply to a batch of one operation.
    pub fn one(result: Result<Reply>) -> Self {
        Self(OneOrMany::One(result))
    }

    /// The replies to a batch.
    pub fn many(results: Vec<Result<Reply>>) -> Self {
        Self(OneOrMany::Many(results))
    }

    /// The results, to look at.
    pub fn results(&self) -> &[Result<Reply>] {
        self.0.as_slice()
    }

    /// The results, to take.
    pub fn into_results(self) -> Vec<Result<Reply>> {
        self.0.into_vec()
    }

    /// The result of a batch of one operation.
    ///
    /// # Errors
    /// The operation's own, or [`ErrorKind::Protocol`] if there is not exactly one result.
    pub fn into_one(self) -> Result<Reply> {
        match self.0 {
            OneOrMany::One(result) => result,
            OneOrMany::Many(mut many) if many.len() == 1 => many.remove(0),
            OneOrMany::Many(_) => {
                Err(Error::new(ErrorKind::Protocol, "the store gave another number of replies"))
            }
        }
    }

    /// The same results with every error passed through `change`, which is told its position.
    pub fn map_errors(self, mut change: impl FnMut(usize, Error) -> Error) -> Self {
        Self(match self.0 {
            OneOrMany::One(result) => OneOrMany::One(result.map_err(|error| change(0, error))),
            OneOrMany::Many(many) => OneOrMany::Many(
                many.into_iter()
                    .enumerate()
                    .map(|(at, result)| result.map_err(|error| change(at, error)))
                    .collect(),
            ),
        })
    }
}

impl<T: fmt::Debug> fmt::Debug for OneOrMany<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_an_operation_or_a_reply_shows_no_value() {
        let key = Key::new("user:canary").unwrap();
        let value = Bytes::from_static(b"canary");
        let set = Op::Set { key: key.clone(), value: value.clone(), expiry: None, only_if: None };
        let release = Op::Release { key, id: value.clone() };
        let shown = format!(
            "{:?} {:?} {:?}",
            Batch::many("pipeline", vec![set, release]),
            Replies::one(Ok(Reply::Value(Some(value.clone())))),
            Reply::Pairs(vec![(value.clone(), value)]),
        );
        assert!(!shown.contains("canary") && shown.contains("user:#"), "{shown}");
    }

    #[test]
    fn only_what_answers_the_same_twice_is_repeatable() {
        let key = Key::new("k").unwrap();
        let set =
            |only_if| Op::Set { key: key.clone(), value: Bytes::new(), expiry: None, only_if };
        assert!(set(None).is_repeatable());
        assert!(!set(Some(Presence::Absent)).is_repeatable());
        assert!(!Op::Delete { keys: vec![key.clone()] }.is_repeatable());
        assert!(!Op::IncrBy { key, delta: 1 }.is_repeatable());
    }
}

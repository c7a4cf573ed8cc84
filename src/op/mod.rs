//! Operations as data: everything a store can be asked, and what it answers.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, MAX_BYTES};
use crate::ttl::Expiry;

mod batch;
mod lease;
mod lock;
mod one_or_many;
mod reply;
mod vouch;

pub use batch::{Batch, Lane};
pub use lease::{Ask, Fetched, LeaseState, Leased, Replaced};
pub use lock::{LockMode, Locked};
pub use reply::{Replies, Reply};
pub use vouch::Vouch;

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
    /// Deletes keys, and the leases of their loads ([`Key::lease`]) before them, so that no load that is
    /// under way fills them. [`Reply::Int`]: how many of the keys existed.
    Delete { keys: Vec<Key> },
    /// Writes a string as [`Set`](Self::Set) without a condition does, and deletes the lease of the key's load
    /// before. [`Reply::Done`].
    Overwrite { key: Key, value: Bytes, expiry: Option<Expiry> },
    /// Reads strings with their remaining times, for who keeps them: no time is read later than its
    /// value. One key that holds another type is an error; among several it reads as missing.
    /// [`Reply::Fetched`], in the order of the keys.
    Fetch { keys: Vec<Key> },
    /// Reads a string with its remaining time and, if `ask` says so of what it finds, takes the lease of its
    /// load: writes `token` under [`Key::lease`] if that is absent. Repeating it with the same token grants
    /// the lease again. [`Reply::Leased`].
    Lease { key: Key, token: Bytes, expiry: Expiry, ask: Ask },
    /// Writes what a load gave, and deletes the lease: only if the lease still holds `token`, and the key
    /// is absent or holds what the load `replaces`. The lease is deleted if it holds `token`, even if
    /// the value is refused. [`Reply::Filled`].
    Fill {
        key: Key,
        token: Bytes,
        value: Bytes,
        expiry: Option<Expiry>,
        replaces: Option<Box<Replaced>>,
    },
    /// Gives a lock or lease that holds `id` a new expiry. [`Reply::Bool`]: whether it held `id`.
    Renew { key: Key, id: Bytes, expiry: Expiry },
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
    /// Takes a lock: writes `id` under `key` if the key is absent, or, of a shared one, the word `shared`, with `id` in the
    /// lock's record ([`Key::lock_record`]). Without the key nobody holds it, whatever the record says. Repeating it with the same `id` answers the same again, and prolongs
    /// nothing. Who takes it alone gets a fencing token: the last one plus one, or the store's time in microseconds
    /// if that is larger. [`Reply::Locked`].
    Lock { key: Key, id: Bytes, expiry: Expiry, mode: LockMode },
    /// Gives a lock that `id` holds, alone or shared, a new expiry. [`Reply::Bool`]: whether it held it.
    Extend { key: Key, id: Bytes, expiry: Expiry, shared: bool },
    /// Gives a lock back, or the place in its queue. [`Reply::Bool`]: whether `id` held it.
    Unlock { key: Key, id: Bytes, shared: bool },
    /// Writes a string as [`Overwrite`](Self::Overwrite) does, unless it was written with a larger `token` before.
    /// The mark of that lives as long as the value, and at least a day. [`Reply::Bool`]: whether it was written.
    FencedSet { key: Key, value: Bytes, expiry: Option<Expiry>, token: u64 },
    /// Waits until what was written over this connection before has reached `copies` replicas, for at most `within`.
    /// [`Reply::Int`]: how many it has reached; 0 where there are none.
    Replicated { copies: u32, within: Expiry },
    /// Lists keys that start with `prefix`, about `count` at a time, from `cursor` (0 at first).
    /// [`Reply::Keys`], whose cursor is 0 at the end. Keys that exist during the whole scan are
    /// listed at least once.
    Scan { cursor: u64, prefix: Bytes, count: u32 },
}

/// How many kinds of operation there are.
pub(crate) const OP_KINDS: usize = 32;

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
            Self::Overwrite { .. } => 21,
            Self::Fetch { .. } => 22,
            Self::Lease { .. } => 23,
            Self::Fill { .. } => 24,
            Self::Renew { .. } => 25,
            Self::Lock { .. } => 26,
            Self::Extend { .. } => 27,
            Self::Unlock { .. } => 28,
            Self::FencedSet { .. } => 29,
            Self::Replicated { .. } => 30,
        }
    }

    /// The keys it works on, in the order given.
    pub fn keys(&self) -> &[Key] {
        match self {
            Self::Ping | Self::Scan { .. } | Self::Replicated { .. } => &[],
            Self::GetMany { keys } | Self::Delete { keys } | Self::Fetch { keys } => keys,
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
            | Self::Release { key, .. }
            | Self::Overwrite { key, .. }
            | Self::Lease { key, .. }
            | Self::Fill { key, .. }
            | Self::Renew { key, .. }
            | Self::Lock { key, .. }
            | Self::Extend { key, .. }
            | Self::Unlock { key, .. }
            | Self::FencedSet { key, .. } => std::slice::from_ref(key),
        }
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::Get { .. }
                | Self::GetMany { .. }
                | Self::Fetch { .. }
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
                Self::Set { only_if: None, .. }
                    | Self::Overwrite { .. }
                    | Self::Expire { .. }
                    | Self::Acquire { .. }
                    | Self::Lease { .. }
                    | Self::Renew { .. }
                    | Self::Lock { .. }
                    | Self::Extend { .. }
                    | Self::FencedSet { .. }
            )
    }

    /// Whether it is a step of a lock or of a load: it writes, but changes nothing that a caller reads as a value.
    pub(crate) fn is_step(&self) -> bool {
        matches!(
            self,
            Self::Lease { .. }
                | Self::Renew { .. }
                | Self::Lock { .. }
                | Self::Extend { .. }
                | Self::Unlock { .. }
                | Self::Replicated { .. }
        )
    }

    /// The value it carries, if it writes one.
    pub(crate) fn payload(&self) -> Option<&Bytes> {
        match self {
            Self::Set { value, .. }
            | Self::Overwrite { value, .. }
            | Self::Fill { value, .. }
            | Self::FencedSet { value, .. }
            | Self::HashSet { value, .. }
            | Self::ListPush { value, .. }
            | Self::ListRemove { value, .. } => Some(value),
            _ => None,
        }
    }

    /// About how many bytes it takes to write it down: its keys, and what it carries.
    pub(crate) fn bytes(&self) -> usize {
        // The most frequent first: what is below asks each operation several questions.
        if let Self::Get { key } = self {
            return key.as_bytes().len();
        }
        let beside = match self {
            Self::HashSet { field, .. }
            | Self::HashGet { field, .. }
            | Self::HashDelete { field, .. } => field.len(),
            _ => 0,
        };
        let keys: usize = self.keys().iter().map(|key| key.as_bytes().len()).sum();
        keys + beside + self.payload().map_or(0, Bytes::len)
    }

    /// Whether it prolongs or gives back what is held already: a lock, a lease.
    pub(crate) fn is_of_holder(&self) -> bool {
        matches!(
            self,
            Self::Renew { .. } | Self::Release { .. } | Self::Extend { .. } | Self::Unlock { .. }
        )
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
        if matches!(self, Self::GetMany { keys } | Self::Delete { keys } | Self::Fetch { keys } if keys.is_empty())
        {
            return Err(Error::new(ErrorKind::InvalidInput, "no keys were given"));
        }
        if matches!(self, Self::Lock { id, .. } | Self::Acquire { id, .. } if id == "shared") {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "`shared` identifies no holder, it stands for all who share a lock; take another identifier",
            ));
        }
        if matches!(self, Self::Lock { mode: LockMode::Shared { most: 0 }, .. }) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a lock that nobody may hold; let at least one in",
            ));
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
    "overwrite",
    "fetch",
    "lease",
    "fill",
    "renew",
    "lock",
    "extend",
    "unlock",
    "fenced_set",
    "replicated",
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
        assert!(!Op::IncrBy { key: key.clone(), delta: 1 }.is_repeatable());
        let (id, expiry) = (Bytes::from_static(b"id"), Expiry::of_millis(1));
        for mode in modes() {
            assert!(lock(&key, "id", mode).is_repeatable());
        }
        for shared in [false, true] {
            let (key, id) = (key.clone(), id.clone());
            assert!(Op::Extend { key, id, expiry, shared }.is_repeatable());
        }
        // The second one says that it was not held.
        assert!(!Op::Unlock { key: key.clone(), id, shared: false }.is_repeatable());
        let value = Bytes::new();
        assert!(Op::FencedSet { key, value, expiry: None, token: 1 }.is_repeatable());
        // Over another connection it would wait for what that one wrote.
        assert!(!Op::Replicated { copies: 1, within: expiry }.is_repeatable());
    }

    fn modes() -> [LockMode; 2] {
        let alone = LockMode::Exclusive { label: None, fair: true, waits: None };
        [alone, LockMode::Shared { most: 1 }]
    }

    fn lock(key: &Key, id: &'static str, mode: LockMode) -> Op {
        let id = Bytes::from_static(id.as_bytes());
        Op::Lock { key: key.clone(), id, expiry: Expiry::of_millis(1), mode }
    }

    #[test]
    fn nobody_takes_a_lock_by_the_name_of_all_who_share_it() {
        let key = Key::new("k").unwrap();
        for mode in modes() {
            assert!(lock(&key, "id", mode.clone()).check().is_ok());
            let refused = lock(&key, "shared", mode).check().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        }
        let (id, expiry) = (Bytes::from_static(b"shared"), Expiry::of_millis(1));
        assert!(Op::Acquire { key: key.clone(), id, expiry }.check().is_err());
        assert!(lock(&key, "id", LockMode::Shared { most: 0 }).check().is_err());
    }
}

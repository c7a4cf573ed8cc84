//! Replies: what the operations of a batch answered.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::one_or_many::OneOrMany;
use super::{Fetched, Leased, Locked, Vouch};
use crate::codec::{JsonLimit, Shape, decode_json, decode_text};
use crate::error::{Error, ErrorKind, Result};
use crate::ttl::Ttl;

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
    /// A value or none for each key, with its remaining time.
    Fetched(Vec<Fetched>),
    /// What stands under a key, and what became of its lease.
    Leased(Box<Leased>),
    /// Whether a fill was accepted; what stands under the key now, if it was not.
    Filled { accepted: bool, found: Fetched },
    /// What became of a lock.
    Locked(Locked),
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
            Self::Fetched(fetched) => write!(f, "{fetched:?}"),
            Self::Leased(leased) => write!(f, "{leased:?}"),
            Self::Locked(locked) => write!(f, "{locked:?}"),
            Self::Filled { accepted, found } => write!(f, "Filled({accepted}, {found:?})"),
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

impl Reply {
    /// The value as text, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if it is not UTF-8, [`ErrorKind::Protocol`] if this is no value.
    pub fn into_text(self) -> Result<Option<String>> {
        self.into_value()?.map(decode_text).transpose()
    }

    /// The value decoded from JSON, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if it does not fit `T` or has more than 64 MiB, whatever the client's limit is; [`ErrorKind::Protocol`] if this is no value.
    pub fn into_json<T: DeserializeOwned>(self) -> Result<Option<T>> {
        self.into_value()?
            .map(|json| decode_json(&json, Shape::Any, JsonLimit::default()))
            .transpose()
    }
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
    /// A value or none for each key, with its remaining time.
    into_fetched -> Vec<Fetched>, Self::Fetched(fetched) => fetched;
    /// What stands under a key, and what became of its lease.
    into_leased -> Leased, Self::Leased(leased) => *leased;
    /// What became of a lock.
    into_locked -> Locked, Self::Locked(locked) => locked;
    /// Whether a fill was accepted, and what stands there if it was not.
    into_filled -> (bool, Fetched), Self::Filled { accepted, found } => (accepted, found);
}

/// One result for each operation of a batch, in order.
#[derive(Debug, Clone)]
pub struct Replies {
    results: OneOrMany<Result<Reply>>,
    vouch: Option<Vouch>,
}

impl Replies {
    /// The reply to a batch of one operation.
    pub fn one(result: Result<Reply>) -> Self {
        Self { results: OneOrMany::One(result), vouch: None }
    }

    /// The replies to a batch.
    pub fn many(results: Vec<Result<Reply>>) -> Self {
        Self { results: OneOrMany::Many(results), vouch: None }
    }

    /// Says that the store tells of changes to what was read, for as long as `vouch` holds.
    pub fn vouched(mut self, vouch: Vouch) -> Self {
        self.vouch = Some(vouch);
        self
    }

    /// The promise to tell of changes, if the store gave one.
    pub fn vouch(&self) -> Option<&Vouch> {
        self.vouch.as_ref()
    }

    /// The results, to look at.
    pub fn results(&self) -> &[Result<Reply>] {
        self.results.as_slice()
    }

    /// The results, to take.
    pub fn into_results(self) -> Vec<Result<Reply>> {
        self.results.into_vec()
    }

    /// The result of a batch of one operation.
    ///
    /// # Errors
    /// The operation's own, or [`ErrorKind::Protocol`] if there is not exactly one result.
    pub fn into_one(self) -> Result<Reply> {
        match self.results {
            OneOrMany::One(result) => result,
            OneOrMany::Many(mut many) if many.len() == 1 => many.remove(0),
            OneOrMany::Many(_) => {
                Err(Error::new(ErrorKind::Protocol, "the store gave another number of replies"))
            }
        }
    }

    /// The same results with every error passed through `change`, which is told its position.
    pub fn map_errors(self, mut change: impl FnMut(usize, Error) -> Error) -> Self {
        let results = match self.results {
            OneOrMany::One(result) => OneOrMany::One(result.map_err(|error| change(0, error))),
            OneOrMany::Many(many) => OneOrMany::Many(
                many.into_iter()
                    .enumerate()
                    .map(|(at, result)| result.map_err(|error| change(at, error)))
                    .collect(),
            ),
        };
        Self { results, ..self }
    }
}

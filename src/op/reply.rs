//! Replies: what the operations of a batch answered.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::one_or_many::OneOrMany;
use crate::codec::{Shape, decode_json, decode_text};
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
    /// [`ErrorKind::Decode`] if it does not fit `T`, [`ErrorKind::Protocol`] if this is no value.
    pub fn into_json<T: DeserializeOwned>(self) -> Result<Option<T>> {
        self.into_value()?.map(|json| decode_json(&json, Shape::Any)).transpose()
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

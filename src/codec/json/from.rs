//! What a [`Value`] can be made from, by the wire rules.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::time::Duration;

use ::bytes::Bytes;

use super::value::{Array, Object, Value};

macro_rules! conversions {
    ($($type:ty, $from:pat => $value:expr;)*) => {$(
        impl From<$type> for Value {
            fn from($from: $type) -> Self {
                $value
            }
        }
    )*};
}

conversions! {
    bool, value => Self::Bool(value);
    i8, value => Self::Int(value.into());
    i16, value => Self::Int(value.into());
    i32, value => Self::Int(value.into());
    i64, value => Self::Int(value);
    u8, value => Self::Int(value.into());
    u16, value => Self::Int(value.into());
    u32, value => Self::Int(value.into());
    u64, value => i64::try_from(value).map_or(Self::UInt(value), Self::Int);
    isize, value => Self::Int(value as i64);
    usize, value => Self::from(value as u64);
    f64, value => Self::Float(value);
    &str, value => Self::String(value.to_owned());
    &String, value => Self::String(value.clone());
    String, value => Self::String(value);
    Cow<'_, str>, value => Self::String(value.into_owned());
    Array, value => Self::Array(value);
    Object, value => Self::Object(value);
    Vec<Value>, value => value.into_iter().collect();
    &[u8], value => Self::String(text_of(value));
    Vec<u8>, value => Self::String(text_of(&value));
    Bytes, value => Self::String(text_of(&value));
    Duration, value => Self::Float(super::duration::seconds(value));
    ::uuid::Uuid, value => Self::String(value.to_string());
}

#[cfg(feature = "rust_decimal")]
conversions! {
    rust_decimal::Decimal, value => super::decimal::value_of(value);
}

#[cfg(feature = "chrono")]
conversions! {
    chrono::DateTime<chrono::Utc>, value => super::chrono_utc::value_of(value);
    chrono::NaiveDateTime, value => super::chrono_utc::value_of(value.and_utc());
}

#[cfg(feature = "jiff")]
conversions! {
    jiff::Timestamp, value => super::jiff_timestamp::value_of(value);
}

/// A single precision number is written with the digits that it has in single precision: `0.1`.
impl From<f32> for Value {
    fn from(value: f32) -> Self {
        // The shortest text of the `f32`, read as an `f64`, is the `f64` with that same text.
        Self::Float(value.to_string().parse().unwrap_or(f64::from(value)))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Value>, S: BuildHasher> From<HashSet<T, S>> for Value {
    fn from(values: HashSet<T, S>) -> Self {
        values.into_iter().collect()
    }
}

impl<T: Into<Value>> From<BTreeSet<T>> for Value {
    fn from(values: BTreeSet<T>) -> Self {
        values.into_iter().collect()
    }
}

impl<K: Into<Value>, V: Into<Value>, S: BuildHasher> From<HashMap<K, V, S>> for Value {
    fn from(values: HashMap<K, V, S>) -> Self {
        values.into_iter().collect()
    }
}

impl<K: Into<Value>, V: Into<Value>> From<BTreeMap<K, V>> for Value {
    fn from(values: BTreeMap<K, V>) -> Self {
        values.into_iter().collect()
    }
}

/// An array of what the iterator gives.
impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::Array(values.into_iter().collect())
    }
}

/// An object of the pairs that the iterator gives. A key that is no text becomes its text.
impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self::Object(pairs.into_iter().map(|(key, value)| (key_text(key.into()), value)).collect())
    }
}

/// A key as it stands in an object: text as it is, anything else as its JSON.
fn key_text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        // Only a key nested deeper than JSON may be fails; it is named after what it is.
        other => serde_json::to_string(&other).unwrap_or_else(|_| format!("{other:?}")),
    }
}

/// Bytes as text: what is not UTF-8 is dropped.
pub(super) fn text_of(bytes: &[u8]) -> String {
    bytes.utf8_chunks().map(|chunk| chunk.valid()).collect()
}

//! The dynamic value.

use std::fmt;
use std::mem;
use std::sync::{Arc, LazyLock};

use indexmap::IndexMap;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize, Serializer};

use crate::codec::encode::MAX_DEPTH;

/// Any JSON document. Objects keep the order of their keys.
///
/// Made with `From` from what a document consists of, by the rules of `docs/interop.md`: a
/// `Duration` becomes seconds, bytes become text, a set an array, a decimal a number or a string.
/// Arrays and objects are collected, or built with [`Array`] and [`Object`]. Cloning shares them.
///
/// `Debug` shows the kind and the size, never the contents. However deep the value is nested,
/// nothing here overflows the stack; beyond 127 levels it cannot be written.
///
/// ```
/// use std::time::Duration;
/// use larder::json::{Object, Value};
///
/// let mut film = Object::new();
/// film.insert("title", "Playtime");
/// film.insert("length", Duration::from_secs(7440));
/// film.insert("languages", ["fr", "en", "de"].into_iter().collect::<Value>());
/// let film = Value::from(film);
/// assert_eq!(film.get("title").and_then(Value::as_str), Some("Playtime"));
/// assert_eq!(film.get("length").and_then(Value::as_f64), Some(7440.0));
/// assert_eq!(format!("{film:?}"), "Object(3 keys)");
/// ```
#[derive(Clone, Default)]
pub enum Value {
    /// `null`, also what NaN and the infinities are written as.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above [`i64::MAX`].
    UInt(u64),
    /// Any other number, and whole ones wider than 64 bits.
    Float(f64),
    /// Text.
    String(String),
    /// Values in a row.
    Array(Array),
    /// Values with names.
    Object(Object),
}

/// The values of a JSON array. Reads as a slice; cloning shares it.
#[derive(Clone, Default)]
pub struct Array(Arc<Vec<Value>>);

/// The values of a JSON object by their keys, in the order in which the keys came. A key that comes
/// twice keeps its first place and its last value. Cloning shares it.
#[derive(Clone, Default)]
pub struct Object(Arc<IndexMap<String, Value>>);

impl Array {
    /// An empty array.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value at the end; a shared array is copied first.
    pub fn push(&mut self, value: impl Into<Value>) {
        Arc::make_mut(&mut self.0).push(value.into());
    }

    fn take(&mut self) -> Option<Vec<Value>> {
        taken(&mut self.0)
    }
}

impl std::ops::Deref for Array {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.0
    }
}

impl Object {
    /// An empty object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key; a shared object is copied first.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        Arc::make_mut(&mut self.0).insert(key.into(), value.into());
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys and their values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn take(&mut self) -> Option<IndexMap<String, Value>> {
        taken(&mut self.0)
    }
}

/// The content of the last holder. Two that let go at the same moment see each other in `get_mut`, but
/// only one of them gets it from `into_inner`.
fn taken<T: Default>(shared: &mut Arc<T>) -> Option<T> {
    match Arc::get_mut(shared) {
        Some(sole) => Some(mem::take(sole)),
        None => Arc::into_inner(mem::take(shared)),
    }
}

impl Value {
    /// What it is, in a word: `"array"`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) | Self::UInt(_) | Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if it is a whole one of this range.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::UInt(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The number, if it is a whole one of this range.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::UInt(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if it is one; beyond 2^53 a whole number may be rounded.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::UInt(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The values, if it is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The value of a key, if it is an object that has the key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    fn is_container(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Object(_))
    }
}

/// Drops what is nested in `values` with a stack on the heap, whatever the depth. What somebody
/// else still shares is left to its last owner.
fn drop_flat(mut values: Vec<Value>) {
    while let Some(mut value) = values.pop() {
        match &mut value {
            Value::Array(array) => values.extend(array.take().into_iter().flatten()),
            Value::Object(object) => {
                values.extend(object.take().into_iter().flatten().map(|(_, value)| value));
            }
            _ => {}
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.0.iter().any(Value::is_container) {
            drop_flat(self.take().unwrap_or_default());
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.0.values().any(Value::is_container) {
            drop_flat(self.take().unwrap_or_default().into_values().collect());
        }
    }
}

/// Arrays and objects are compared element by element, the order of keys aside; `1` and `1.0`
/// differ, as they do in the stored text.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        // On the heap for the same reason as `drop_flat`.
        let mut pairs = vec![(self, other)];
        while let Some(pair) = pairs.pop() {
            let same = match pair {
                (Self::Null, Self::Null) => true,
                (Self::Bool(one), Self::Bool(other)) => one == other,
                (Self::Float(one), Self::Float(other)) => one == other,
                (Self::String(one), Self::String(other)) => one == other,
                (Self::Array(one), Self::Array(other)) => {
                    pairs.extend(one.iter().zip(other.iter()));
                    one.len() == other.len()
                }
                (Self::Object(one), Self::Object(other)) => {
                    let found =
                        one.iter().filter_map(|(key, value)| Some((value, other.get(key)?)));
                    let before = pairs.len();
                    pairs.extend(found);
                    one.len() == other.len() && pairs.len() - before == one.len()
                }
                (one @ (Self::Int(_) | Self::UInt(_)), other) => {
                    (one.as_i64(), one.as_u64()) == (other.as_i64(), other.as_u64())
                }
                _ => false,
            };
            if !same {
                return false;
            }
        }
        true
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Bool(_) => f.write_str("Bool"),
            Self::Int(_) | Self::UInt(_) | Self::Float(_) => f.write_str("Number"),
            Self::String(text) => write!(f, "String({} bytes)", text.len()),
            Self::Array(array) => array.fmt(f),
            Self::Object(object) => object.fmt(f),
        }
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} values)", self.len())
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} keys)", self.len())
    }
}

impl<T: Into<Value>> FromIterator<T> for Array {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(Arc::new(values.into_iter().map(Into::into).collect()))
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Object {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into()));
        Self(Arc::new(pairs.collect()))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Nested { value: self, left: MAX_DEPTH }.serialize(serializer)
    }
}

/// A value and how many levels may still follow, for serializers that do not count.
struct Nested<'a> {
    value: &'a Value,
    left: usize,
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.left == 0 && self.value.is_container() {
            return Err(ser::Error::custom("the value is nested deeper than 127 levels"));
        }
        let nested = |value| Nested { value, left: self.left - 1 };
        match self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::UInt(value) => serializer.serialize_u64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::String(value) => serializer.serialize_str(value),
            Value::Array(array) => serializer.collect_seq(array.iter().map(nested)),
            Value::Object(object) => {
                serializer.collect_map(object.iter().map(|(key, value)| (key, nested(value))))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => Value::Int(value),
            (_, Ok(value)) => Value::UInt(value),
            _ => Value::Float(value as f64),
        })
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Float(value as f64), Value::from))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_bytes<E: de::Error>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element::<Value>()? {
            values.push(value);
        }
        Ok(Value::Array(Array(Arc::new(values))))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = IndexMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.is_empty() && key == NUMBER && *NUMBERS_AS_TEXT {
                return number(&map.next_value::<String>()?);
            }
            values.insert(key, map.next_value()?);
        }
        Ok(Value::Object(Object(Arc::new(values))))
    }
}

/// Under serde_json's feature `arbitrary_precision`, which any crate of an application may switch on,
/// numbers come as a map with this key and their text.
const NUMBER: &str = "$serde_json::private::Number";

static NUMBERS_AS_TEXT: LazyLock<bool> = LazyLock::new(|| {
    let number = serde_json::from_str::<serde_json::Number>("1.00");
    number.is_ok_and(|number| number.to_string() == "1.00")
});

/// The number that serde_json would have made of the text without that feature.
fn number<E: de::Error>(text: &str) -> Result<Value, E> {
    if let (Ok(whole), true) = (text.parse::<i64>(), text != "-0") {
        return Ok(Value::Int(whole));
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Ok(Value::UInt(whole));
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Value::Float(number)),
        _ => Err(de::Error::invalid_value(de::Unexpected::Other("number"), &"a number in range")),
    }
}

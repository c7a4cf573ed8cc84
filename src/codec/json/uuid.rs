//! A [`Uuid`] as its hyphenated lower-case text.

use serde::{Deserialize, Deserializer, Serializer};
use uuid::Uuid;

use super::{Value, optional, unexpected};

/// Writes the text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads any of the usual spellings.
///
/// # Errors
/// If it is no UUID.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
    let value = Value::deserialize(deserializer)?;
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| unexpected(&value, "a UUID as a string"))
}

optional!(uuid::Uuid);

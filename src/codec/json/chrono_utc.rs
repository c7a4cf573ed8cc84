//! A [`DateTime<Utc>`] as RFC 3339 with `Z` and whole seconds: `2025-01-31T08:30:00Z`.
//!
//! Fractions of a second are cut off when written, and kept when read.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Value, optional, unexpected};

/// Writes the time.
///
/// # Errors
/// If the year has not four digits; RFC 3339 has no other.
pub fn serialize<S: Serializer>(value: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    match value_of(*value) {
        Value::Null => Err(serde::ser::Error::custom("the year is not within 0000 to 9999")),
        text => text.serialize(serializer),
    }
}

/// Reads a time with any offset; one without an offset is taken as UTC.
///
/// # Errors
/// If it is no time in RFC 3339.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let read = value.as_str().and_then(|text| {
        DateTime::parse_from_rfc3339(text)
            .map(|time| time.to_utc())
            .or_else(|_| text.parse::<NaiveDateTime>().map(|time| time.and_utc()))
            .ok()
    });
    read.ok_or_else(|| unexpected(&value, "a time in RFC 3339"))
}

/// The text, or null for a year that RFC 3339 cannot spell.
pub(super) fn value_of(value: DateTime<Utc>) -> Value {
    // Whole seconds since the epoch: this turns a leap second into the one before it, since most
    // readers refuse `:60`.
    let Some(time) = DateTime::from_timestamp(value.timestamp(), 0) else {
        return Value::Null;
    };
    let text = time.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    if text.len() == "0000-00-00T00:00:00Z".len() { Value::String(text) } else { Value::Null }
}

optional!(chrono::DateTime<chrono::Utc>);

//! A [`Timestamp`] as RFC 3339 with `Z` and whole seconds: `2025-01-31T08:30:00Z`.
//!
//! Fractions of a second are cut off when written, and kept when read.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Value, optional, unexpected};

/// Writes the time.
///
/// # Errors
/// If the year has not four digits; RFC 3339 has no other.
pub fn serialize<S: Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    match value_of(*value) {
        Value::Null => Err(serde::ser::Error::custom("the year is not within 0000 to 9999")),
        text => text.serialize(serializer),
    }
}

/// Reads a time with any offset; one without an offset is taken as UTC.
///
/// # Errors
/// If it is no time in RFC 3339.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let read = value.as_str().and_then(|text| {
        text.parse::<Timestamp>().ok().or_else(|| {
            let time = text.parse::<DateTime>().ok()?;
            Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
        })
    });
    read.ok_or_else(|| unexpected(&value, "a time in RFC 3339"))
}

/// The text, or null for a year that RFC 3339 cannot spell.
pub(super) fn value_of(value: Timestamp) -> Value {
    // The second that has begun, before the epoch as well.
    let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Floor);
    let text = value.round(whole).map(|time| time.to_string()).unwrap_or_default();
    if text.len() == "0000-00-00T00:00:00Z".len() { Value::String(text) } else { Value::Null }
}

optional!(jiff::Timestamp);

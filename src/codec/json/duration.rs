//! A [`Duration`] as seconds in a number: `1.5`, `60.0`.
//!
//! The digits are those of Python's `timedelta.total_seconds()`. A number holds 15 to 17 digits, so
//! microseconds survive for 285 years and nanoseconds for 104 days.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

use super::{Value, optional, unexpected};

const WANTED: &str = "a number of seconds that is not negative";

/// Writes the seconds.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(seconds(*value))
}

/// Reads seconds, with or without a fraction; to the nanosecond.
///
/// # Errors
/// If it is no number, negative, or beyond the range of a `Duration`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if let Some(whole) = value.as_u64() {
        return Ok(Duration::from_secs(whole));
    }
    let read = match value {
        Value::Float(seconds) => from_seconds(seconds),
        _ => None,
    };
    read.ok_or_else(|| unexpected(&value, WANTED))
}

/// The number nearest to the exact seconds. Adding up the parts would round twice.
pub(super) fn seconds(value: Duration) -> f64 {
    let exact = format!("{}.{:09}", value.as_secs(), value.subsec_nanos());
    exact.parse().unwrap_or(value.as_secs_f64())
}

/// By way of the number's digits: in binary, 0.1 seconds are not 100,000,000 nanoseconds.
fn from_seconds(seconds: f64) -> Option<Duration> {
    let text = seconds.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let exact = || {
        let nanos = format!("{fraction:0<9}");
        Some(Duration::new(whole.parse().ok()?, (nanos.len() == 9).then(|| nanos.parse().ok())??))
    };
    // Minus zero, and digits beyond the nanosecond.
    exact().or_else(|| Duration::try_from_secs_f64(seconds).ok())
}

optional!(std::time::Duration);

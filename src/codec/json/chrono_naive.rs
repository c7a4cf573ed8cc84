//! A [`NaiveDateTime`], taken as UTC, as RFC 3339 with `Z` and whole seconds:
//! `2025-01-31T08:30:00Z`.
//!
//! Fractions of a second are cut off when written, and kept when read.

use chrono::NaiveDateTime;
use serde::{Deserializer, Serializer};

use super::{chrono_utc, optional};

/// Writes the time.
///
/// # Errors
/// If the year has not four digits; RFC 3339 has no other.
pub fn serialize<S: Serializer>(value: &NaiveDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    chrono_utc::serialize(&value.and_utc(), serializer)
}

/// Reads a time with any offset, in UTC; one without an offset as it is.
///
/// # Errors
/// If it is no time in RFC 3339.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveDateTime, D::Error> {
    chrono_utc::deserialize(deserializer).map(|time| time.naive_utc())
}

optional!(chrono::NaiveDateTime);

//! A [`Decimal`] as a JSON number where its size is below 1e15 and it has at most 6 decimal places
//! (trailing zeros count), else as a string.
//!
//! The number is the `double` nearest to the decimal, spelled as every JSON writer spells it: `10`
//! is `10.0`, `1.50` is `1.5`, as Python has it for `float(decimal)`. A double holds 15 digits:
//! what has more, say `123456789012345.123456`, is rounded, on this side and in every other
//! language. For amounts like that use `rust_decimal::serde::str`.

use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Value, optional, unexpected};

/// Below this a `double` has at least one digit after the point left.
const NUMBERS_BELOW: i64 = 1_000_000_000_000_000;
const NUMBERS_PLACES: u32 = 6;

/// Writes a number or a string.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    value_of(*value).serialize(serializer)
}

/// Reads a number or a string.
///
/// # Errors
/// If it is neither, or beyond the 28 digits that a `Decimal` has.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let read = match &value {
        Value::Int(whole) => Some(Decimal::from(*whole)),
        Value::UInt(whole) => Some(Decimal::from(*whole)),
        // By way of its digits: the decimal that was written, not the double's binary expansion.
        Value::Float(number) => parse(&number.to_string()),
        Value::String(text) => parse(text),
        _ => None,
    };
    read.ok_or_else(|| unexpected(&value, "a decimal as a number or a string"))
}

/// Never rounds: what does not fit is no decimal.
fn parse(text: &str) -> Option<Decimal> {
    match text.split_once(['e', 'E']) {
        None => Decimal::from_str_exact(text).ok(),
        // `from_scientific` would round digits that are too many.
        Some((digits, _)) => {
            Decimal::from_str_exact(digits).and_then(|_| Decimal::from_scientific(text)).ok()
        }
    }
}

pub(super) fn value_of(value: Decimal) -> Value {
    let text = value.to_string();
    if value.scale() > NUMBERS_PLACES || value.abs() >= Decimal::from(NUMBERS_BELOW) {
        return Value::String(text);
    }
    // By way of the text, since only parsing promises the nearest double.
    match f64::from_str(&text) {
        Ok(number) => Value::Float(number),
        Err(_) => Value::String(text),
    }
}

optional!(rust_decimal::Decimal);

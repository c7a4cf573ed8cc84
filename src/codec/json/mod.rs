//! The wire rules for JSON: serde adaptors for types that have several spellings, and a dynamic
//! [`Value`] that follows the rules by itself. `docs/interop.md` has them in a table.
//!
//! A typed value is stored as its `Serialize` says. Where that is not what other languages write,
//! name an adaptor; each has an `option` beside it for a field that may be missing:
//!
//! ```
//! use std::time::Duration;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Video {
//!     title: String,
//!     #[serde(with = "larder::json::duration")]
//!     length: Duration,
//!     #[serde(with = "larder::json::duration::option", default)]
//!     intro: Option<Duration>,
//! }
//! # let video = Video { title: "x".into(), length: Duration::from_millis(1500), intro: None };
//! # assert_eq!(serde_json::to_string(&video).unwrap(), r#"{"title":"x","length":1.5,"intro":null}"#);
//! ```
//!
//! | adaptor | type | stored as | feature |
//! |---|---|---|---|
//! | [`mod@bytes`] | `Vec<u8>`, `Bytes` | the text, invalid UTF-8 dropped | |
//! | [`duration`] | `std::time::Duration` | seconds as a number | |
//! | [`mod@uuid`] | `uuid::Uuid` | its hyphenated text | |
//! | `decimal` | `rust_decimal::Decimal` | a number, or a string where a number is too small for it | `rust_decimal` |
//! | `chrono_utc`, `chrono_naive` | `DateTime<Utc>`, `NaiveDateTime` | RFC 3339 in UTC, whole seconds | `chrono` |
//! | `jiff_timestamp` | `jiff::Timestamp` | the same | `jiff` |

mod from;
mod value;

pub mod bytes;
#[cfg(feature = "chrono")]
pub mod chrono_naive;
#[cfg(feature = "chrono")]
pub mod chrono_utc;
#[cfg(feature = "rust_decimal")]
pub mod decimal;
pub mod duration;
#[cfg(feature = "jiff")]
pub mod jiff_timestamp;
pub mod uuid;

pub use value::{Array, Object, Value};

/// Adds `option` to an adaptor: the same for a value that may be missing.
macro_rules! optional {
    ($type:ty) => {
        /// The same for an `Option`: `None` is `null`. Add `default` to the field's attribute if
        /// it may be missing altogether.
        pub mod option {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            /// Writes it, or `null`.
            ///
            /// # Errors
            /// Those of the adaptor.
            pub fn serialize<S: Serializer>(
                value: &Option<$type>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                struct Present<'a>(&'a $type);
                impl Serialize for Present<'_> {
                    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                        super::serialize(self.0, serializer)
                    }
                }
                value.as_ref().map(Present).serialize(serializer)
            }

            /// Reads it; `null` is `None`.
            ///
            /// # Errors
            /// Those of the adaptor.
            pub fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<$type>, D::Error> {
                struct Present($type);
                impl<'de> Deserialize<'de> for Present {
                    fn deserialize<D: Deserializer<'de>>(of: D) -> Result<Self, D::Error> {
                        super::deserialize(of).map(Self)
                    }
                }
                Ok(Option::<Present>::deserialize(deserializer)?.map(|present| present.0))
            }
        }
    };
}
use optional;

/// The error of an adaptor that found something else than it reads.
fn unexpected<E: serde::de::Error>(found: &Value, wanted: &'static str) -> E {
    E::invalid_type(serde::de::Unexpected::Other(found.kind()), &wanted)
}

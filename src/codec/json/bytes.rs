//! Bytes as text: UTF-8 as it is, invalid sequences dropped.
//!
//! For bytes that are text in all but their type. Bytes that are not lose what is not UTF-8: keep
//! those as a plain value ([`IntoValue`](crate::IntoValue)), or encode them as base64.

use serde::{Deserialize, Deserializer, Serializer};

use super::from::text_of;

/// Writes the text.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T, S>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error>
where
    T: AsRef<[u8]> + ?Sized,
    S: Serializer,
{
    serializer.serialize_str(&text_of(bytes.as_ref()))
}

/// Reads the bytes of the text.
///
/// # Errors
/// If it is no string.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: From<Vec<u8>>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer).map(|text| T::from(text.into_bytes()))
}

/// The same for an `Option`: `None` is `null`. Add `default` to the field's attribute if it may be missing
/// altogether.
pub mod option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the text, or `null`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T, S>(bytes: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: AsRef<[u8]>,
        S: Serializer,
    {
        bytes.as_ref().map(|bytes| super::text_of(bytes.as_ref())).serialize(serializer)
    }

    /// Reads the bytes of the text; `null` is `None`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: From<Vec<u8>>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.map(|text| T::from(text.into_bytes())))
    }
}

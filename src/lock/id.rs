//! Lock identifiers.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// What a lock key holds while somebody has the lock: a UUIDv7 as 32 hex digits. Who knows it can release
/// the lock, so `Debug` hides it; [`as_str`](Self::as_str) shows it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LockId(String);

impl LockId {
    /// A new identifier.
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7().simple().to_string())
    }

    /// The identifier as it stands in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.as_bytes())
    }
}

impl FromStr for LockId {
    type Err = Error;

    /// Takes back an identifier that was handed on as text.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::InvalidInput, "a lock identifier has 32 hex digits"))
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_hex_and_survives_as_text() {
        let id = LockId::new();
        assert_eq!(id.as_str().parse::<LockId>().unwrap(), id);
        assert_ne!(LockId::new(), id);
        assert!(!format!("{id:?}").contains(id.as_str()));
        assert!("123".parse::<LockId>().is_err());
        assert!("zz0000000000000000000000000000000".parse::<LockId>().is_err());
    }
}

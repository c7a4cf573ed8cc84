//! Keys: validated bytes that print as their first part and a short hash.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

mod slot;

pub(crate) use slot::SLOTS;

/// The longest key and the longest value that Redis takes: 512 MiB.
pub const MAX_BYTES: usize = 512 * 1024 * 1024;

/// What the keys begin with that stand beside a key, in its slot.
const LEASE: &[u8] = b"larder:lease:{";
const LOCK: &[u8] = b"larder:lock:{";
const FENCED: &[u8] = b"larder:fenced:{";

/// How much of a key's first part is printed.
const SHOWN: usize = 32;

/// The bytes of a Redis key: never empty, at most 512 MiB. Any other byte is allowed.
///
/// Keys can be secrets (`token:9f2c...`), so `Display` and `Debug` show the part before the first
/// `:` and a short hash. [`Key::as_bytes`] has the whole.
///
/// ```
/// let key = larder::Key::new("token:9f2c77")?;
/// assert!(key.to_string().starts_with("token:#"));
/// assert!(!key.to_string().contains("9f2c77"));
/// assert_eq!(key.as_bytes(), b"token:9f2c77");
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// Checks and copies a key.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is empty or longer than 512 MiB.
    pub fn new(key: impl AsRef<[u8]>) -> Result<Self> {
        let key = key.as_ref();
        Self::check(key.len())?;
        Ok(Self(Bytes::copy_from_slice(key)))
    }

    /// Checks a key that is already in a buffer of its own; nothing is copied.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn from_bytes(key: Bytes) -> Result<Self> {
        Self::check(key.len())?;
        Ok(Self(key))
    }

    fn check(len: usize) -> Result<()> {
        if len == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "the key is empty"));
        }
        if len > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the key has {len} bytes; a key has at most {MAX_BYTES}"),
            ));
        }
        Ok(())
    }

    /// The whole key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key in its buffer; cloning it copies nothing.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The part before the first `:`, or nothing if there is no `:`.
    pub fn prefix(&self) -> Option<&[u8]> {
        let end = self.0.iter().position(|byte| *byte == b':')?;
        Some(&self.0[..end])
    }

    /// The key under which the lease of this key's load stands, in the same cluster slot: `larder:lease:{user:7}`
    /// for `user:7`, `larder:lease:{t}:a{t}` for a key with a hash tag, and `larder:lease:{n}:a}b` for any other
    /// key with a brace, where `n` is the smallest number in the key's slot.
    pub fn lease(&self) -> Self {
        self.beside(LEASE)
    }

    /// The key of the record of this lock: its last fencing token, who shares it and who waits. In the same slot, by the
    /// rule of [`lease`](Self::lease): `larder:lock:{lock:report}` for `lock:report`.
    pub fn lock_record(&self) -> Self {
        self.beside(LOCK)
    }

    /// The key under which the highest fencing token stands that this key was written with, in the same slot, by the
    /// rule of [`lease`](Self::lease): `larder:fenced:{user:7}` for `user:7`.
    pub fn fence(&self) -> Self {
        self.beside(FENCED)
    }

    /// Its slot in a cluster.
    pub(crate) fn slot(&self) -> u16 {
        slot::slot(self.as_bytes())
    }

    fn beside(&self, prefix: &[u8]) -> Self {
        let key = self.as_bytes();
        let mut beside = Vec::with_capacity(prefix.len() + key.len() + 16);
        beside.extend_from_slice(prefix);
        if !key.iter().any(|byte| matches!(byte, b'{' | b'}')) {
            beside.extend_from_slice(key);
            beside.push(b'}');
        } else {
            match slot::tag(key) {
                Some(tag) => beside.extend_from_slice(tag),
                None => {
                    let number = slot::number_in(slot::slot(key));
                    beside.extend_from_slice(number.to_string().as_bytes());
                }
            }
            beside.extend_from_slice(b"}:");
            beside.extend_from_slice(key);
        }
        Self(beside.into())
    }

    /// Six hex digits that tell keys apart in a log: FNV-1a of 64 bits, folded to 24.
    fn short_hash(&self) -> u64 {
        let hash = self.0.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        (hash ^ (hash >> 24) ^ (hash >> 48)) & 0xff_ffff
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(prefix) = self.prefix() {
            let shown = &prefix[..prefix.len().min(SHOWN)];
            write!(f, "{}", shown.escape_ascii())?;
            f.write_str(if shown.len() < prefix.len() { "..:" } else { ":" })?;
        }
        write!(f, "#{:06x}", self.short_hash())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_its_first_part_and_a_hash() {
        let key = Key::new("token:abc").unwrap();
        assert_eq!(key.to_string(), format!("token:#{:06x}", key.short_hash()));
        assert_eq!(format!("{key:?}"), format!("Key({key})"));
        assert_ne!(key.to_string(), Key::new("token:abd").unwrap().to_string());
    }

    #[test]
    fn a_key_without_parts_prints_only_a_hash() {
        let shown = Key::new("s3cr3t").unwrap().to_string();
        assert!(shown.starts_with('#') && shown.len() == 7, "{shown}");
    }

    #[test]
    fn control_characters_and_long_parts_cannot_reach_a_terminal() {
        let shown = Key::new(format!("\x1b[31m{}:x", "a".repeat(100))).unwrap().to_string();
        assert!(shown.starts_with("\\x1b[31maaa") && shown.len() < 60, "{shown}");
    }

    #[test]
    fn what_stands_beside_a_key_is_in_its_slot_and_nothing_else_s() {
        let lease = |key: &[u8]| Key::new(key).unwrap().lease();
        assert_eq!(lease(b"user:7").as_bytes(), b"larder:lease:{user:7}");
        assert_eq!(lease(b"a{t}b").as_bytes(), b"larder:lease:{t}:a{t}b");
        let report = Key::new("lock:report").unwrap();
        assert_eq!(report.lock_record().as_bytes(), b"larder:lock:{lock:report}");
        assert_eq!(report.fence().as_bytes(), b"larder:fenced:{lock:report}");
        let mut all = std::collections::BTreeSet::new();
        let keys = [&b"a}b"[..], b"a{b", b"{}x", b"}", b"{", b"a}b{c", b"{{}", b"k", b"x{y}z"];
        for key in keys {
            for beside in [Key::lease, Key::lock_record, Key::fence] {
                let beside = beside(&Key::new(key).unwrap());
                let same = slot::slot(beside.as_bytes()) == slot::slot(key);
                assert!(same, "{}", beside.as_bytes().escape_ascii());
                all.insert(beside);
            }
        }
        assert_eq!(all.len(), 3 * keys.len());
    }

    #[test]
    fn empty_and_oversized_keys_are_refused() {
        assert_eq!(Key::new("").unwrap_err().kind(), ErrorKind::InvalidInput);
        let long = vec![b'a'; MAX_BYTES + 1];
        assert_eq!(Key::new(&long).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

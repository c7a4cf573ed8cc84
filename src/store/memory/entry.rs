//! What a key holds, how much of the budget it takes, and numbers as Redis reads them.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;

use bytes::Bytes;
use quick_cache::{Lifecycle, Weighter};

use crate::key::Key;

// What things take beside their bytes, so that the budget is what the process really uses: measured
// as the growth of its resident memory when a budget of 64 MiB is filled, rounded up.

/// An entry: a slot in the table (about 150 bytes), and the allocations of key and value.
pub(super) const ENTRY_OVERHEAD: u64 = 256;
/// An expiry: its record, and records of earlier ones that are not cleared away yet.
pub(super) const EXPIRY_OVERHEAD: u64 = 128;
/// A field of a hash: a slot, of which up to half are free, and two allocations.
pub(super) const FIELD_OVERHEAD: u64 = 224;
/// An element of a list: a slot and an allocation.
pub(super) const ELEMENT_OVERHEAD: u64 = 80;

/// The content of a key, by type. The collections are never empty.
#[allow(clippy::box_collection, reason = "strings are nearly all there is; boxes keep them small")]
pub(super) enum Data {
    Text(Bytes),
    Hash(Box<HashMap<Bytes, Bytes>>),
    List(Box<VecDeque<Bytes>>),
}

impl Data {
    fn is_empty_collection(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Hash(fields) => fields.is_empty(),
            Self::List(elements) => elements.is_empty(),
        }
    }
}

/// A key's content and expiry.
pub(super) struct Entry {
    pub(super) data: Data,
    /// The bytes of the content with the overhead of its parts. Kept beside it because the cache
    /// asks for weights far more often than contents change.
    pub(super) size: u64,
    /// The millisecond of the store's clock at which it is gone.
    pub(super) expires: Option<NonZeroU64>,
    /// A lock or a lease: whoever was told that he holds it relies on it until it expires.
    pub(super) pinned: bool,
}

impl Entry {
    pub(super) fn text(value: Bytes, expires: Option<NonZeroU64>) -> Self {
        let size = value.len() as u64;
        Self { data: Data::Text(value), size, expires, pinned: false }
    }

    pub(super) fn hash(field: Bytes, value: Bytes) -> Self {
        let size = field_size(&field, &value);
        let data = Data::Hash(Box::new(HashMap::from([(field, value)])));
        Self { data, size, expires: None, pinned: false }
    }

    pub(super) fn list(element: Bytes) -> Self {
        let size = element_size(&element);
        let data = Data::List(Box::new(VecDeque::from([element])));
        Self { data, size, expires: None, pinned: false }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.data.is_empty_collection()
    }

    pub(super) fn weight(&self, key: &Key) -> u64 {
        let expiry = if self.expires.is_some() { EXPIRY_OVERHEAD } else { 0 };
        ENTRY_OVERHEAD + expiry + key.as_bytes().len() as u64 + self.size
    }

    /// The part of the budget that eviction cannot win back.
    pub(super) fn pinned_weight(&self, key: &Key) -> u64 {
        if self.pinned { self.weight(key) } else { 0 }
    }
}

pub(super) fn field_size(field: &Bytes, value: &Bytes) -> u64 {
    FIELD_OVERHEAD + field.len() as u64 + value.len() as u64
}

pub(super) fn element_size(element: &Bytes) -> u64 {
    ELEMENT_OVERHEAD + element.len() as u64
}

/// Tells the cache what an entry weighs.
pub(super) struct Weight;

impl Weighter<Key, Entry> for Weight {
    fn weight(&self, key: &Key, entry: &Entry) -> u64 {
        entry.weight(key)
    }
}

/// Tells the cache what it may evict, and catches the entry that is being written.
pub(super) struct Eviction;

/// A write in progress. The cache prefers to evict what was used least, which can be the new
/// entry itself; then it lands here and is put back.
#[derive(Default)]
pub(super) struct Writing {
    pub(super) key: Option<Key>,
    pub(super) lost: Option<Entry>,
    /// The other keys that were evicted, if somebody wants to know.
    pub(super) evicted: Option<Vec<Key>>,
}

impl Lifecycle<Key, Entry> for Eviction {
    type RequestState = Writing;

    fn is_pinned(&self, _key: &Key, entry: &Entry) -> bool {
        entry.pinned
    }

    fn on_evict(&self, writing: &mut Writing, key: Key, entry: Entry) {
        if writing.key.as_ref() == Some(&key) {
            writing.lost = Some(entry);
        } else if let Some(evicted) = &mut writing.evicted {
            evicted.push(key);
        }
    }
}

/// Reads a number as Redis does: decimal digits with an optional `-`, and nothing else; no `+`, no
/// spaces, no leading zeros.
pub(super) fn parse_int(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] if digits.len() == text.len() => return Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_numbers_that_redis_writes_are_numbers() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(parse_int(number.to_string().as_bytes()), Some(number));
        }
        let wrong: [&[u8]; 14] = [
            b"",
            b"-",
            b"+1",
            b"-0",
            b"00",
            b"01",
            b"-01",
            b" 1",
            b"1 ",
            b"1.0",
            b"0x1",
            b"1\0",
            b"9223372036854775808",
            b"\xff",
        ];
        for text in wrong {
            assert_eq!(parse_int(text), None, "{}", text.escape_ascii());
        }
    }
}

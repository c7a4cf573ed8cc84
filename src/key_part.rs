//! Parts of keys, joined so that different parts never give the same key.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

/// Keys up to this length are built without an allocation.
const SHORT: usize = 96;

/// What a [`Namespace`](crate::Namespace) takes as a key: text, bytes, an integer, a UUID, or a tuple of
/// up to four of them.
///
/// For a type of your own, write its parts one after the other:
///
/// ```
/// use larder::{KeyParts, KeyWriter};
/// struct UserId(u64);
/// impl KeyParts for UserId {
///     fn write(&self, key: &mut KeyWriter) {
///         self.0.write(key);
///     }
/// }
/// ```
pub trait KeyParts {
    /// Appends the parts.
    fn write(&self, key: &mut KeyWriter);
}

/// Builds a key from a prefix and parts.
pub struct KeyWriter {
    short: [u8; SHORT],
    // How much of it is used, for as long as that is enough.
    len: usize,
    long: Vec<u8>,
    parts: usize,
    empty: bool,
}

impl fmt::Debug for KeyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyWriter").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl KeyWriter {
    #[inline]
    pub(crate) fn new(prefix: &str) -> Self {
        let mut writer =
            Self { short: [0; SHORT], len: 0, long: Vec::new(), parts: 0, empty: false };
        writer.push(prefix.as_bytes());
        writer
    }

    #[inline]
    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        match self.short.get_mut(self.len..end) {
            Some(free) if self.long.is_empty() => {
                free.copy_from_slice(bytes);
                self.len = end;
            }
            _ => self.push_long(bytes),
        }
    }

    #[cold]
    fn push_long(&mut self, bytes: &[u8]) {
        if self.long.is_empty() {
            self.long.extend_from_slice(&self.short[..self.len]);
        }
        self.long.extend_from_slice(bytes);
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        if self.long.is_empty() { &self.short[..self.len] } else { &self.long }
    }

    /// Appends one part, which may contain anything but must not be empty.
    pub fn part(&mut self, part: &[u8]) {
        self.empty |= part.is_empty();
        self.plain(b"");
        let mut rest = part;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'%' | b':' | b'{' | b'}'))
        {
            self.push(&rest[..at]);
            self.push(match rest[at] {
                b'%' => b"%25",
                b':' => b"%3A",
                b'{' => b"%7B",
                _ => b"%7D",
            });
            rest = &rest[at + 1..];
        }
        self.push(rest);
    }

    /// Appends one part that needs no escaping.
    #[inline]
    fn plain(&mut self, part: &[u8]) {
        self.parts += 1;
        self.push(b":");
        self.push(part);
    }

    #[inline]
    fn check(&self) -> Result<()> {
        if self.empty || self.parts == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "a part of the key is empty"));
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Key> {
        self.check()?;
        if self.long.is_empty() {
            return Key::new(&self.short[..self.len]);
        }
        Key::from_bytes(self.long.into())
    }
}

/// Builds a key for as long as `look` looks at it: a hit of the near cache allocates nothing.
#[inline]
pub(crate) fn with_key<K: KeyParts + ?Sized, R>(
    prefix: &str,
    key: &K,
    look: impl FnOnce(&[u8]) -> R,
) -> Result<R> {
    let mut writer = KeyWriter::new(prefix);
    key.write(&mut writer);
    writer.check()?;
    Ok(look(writer.bytes()))
}

impl KeyParts for str {
    fn write(&self, key: &mut KeyWriter) {
        key.part(self.as_bytes());
    }
}

impl KeyParts for String {
    fn write(&self, key: &mut KeyWriter) {
        key.part(self.as_bytes());
    }
}

impl KeyParts for [u8] {
    fn write(&self, key: &mut KeyWriter) {
        key.part(self);
    }
}

impl KeyParts for Vec<u8> {
    fn write(&self, key: &mut KeyWriter) {
        key.part(self);
    }
}

impl<P: KeyParts + ?Sized> KeyParts for &P {
    fn write(&self, key: &mut KeyWriter) {
        (**self).write(key);
    }
}

impl KeyParts for uuid::Uuid {
    fn write(&self, key: &mut KeyWriter) {
        key.plain(self.hyphenated().encode_lower(&mut Self::encode_buffer()).as_bytes());
    }
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl KeyParts for $type {
            #[inline]
            fn write(&self, key: &mut KeyWriter) {
                key.plain(itoa::Buffer::new().format(*self).as_bytes());
            }
        })*
    };
}

integers!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);

macro_rules! tuples {
    ($($($name:ident $index:tt),+;)*) => {
        $(impl<$($name: KeyParts),+> KeyParts for ($($name,)+) {
            fn write(&self, key: &mut KeyWriter) {
                $(self.$index.write(key);)+
            }
        })*
    };
}

tuples! {
    A 0;
    A 0, B 1;
    A 0, B 1, C 2;
    A 0, B 1, C 2, D 3;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key<K: KeyParts>(parts: &K) -> Key {
        let mut writer = KeyWriter::new("ns");
        parts.write(&mut writer);
        writer.finish().unwrap()
    }

    #[test]
    fn plain_parts_stay_as_they_are() {
        assert_eq!(key(&7_u64).as_bytes(), b"ns:7");
        assert_eq!(key(&("a", -1_i32)).as_bytes(), b"ns:a:-1");
        assert_eq!(
            key(&(i128::MIN, u64::MAX)).as_bytes(),
            format!("ns:{}:{}", i128::MIN, u64::MAX).as_bytes()
        );
        let id = uuid::Uuid::from_u128(0xabcd);
        assert_eq!(key(&id).as_bytes(), format!("ns:{id}").as_bytes());
    }

    #[test]
    fn parts_with_separators_and_braces_never_meet() {
        assert_ne!(key(&("a", "b:c")), key(&("a:b", "c")));
        assert_eq!(key(&"{victim}").as_bytes(), b"ns:%7Bvictim%7D");
        assert_eq!(key(&"%3A").as_bytes(), b"ns:%253A");
    }

    #[test]
    fn a_long_key_is_what_its_parts_are() {
        for len in [1, SHORT - 5, SHORT - 4, SHORT - 3, SHORT - 2, SHORT, 1_000] {
            let text = "x".repeat(len);
            let whole = key(&(text.as_str(), 7, text.as_str()));
            assert_eq!(whole.as_bytes(), format!("ns:{text}:7:{text}").as_bytes());
        }
    }

    #[test]
    fn an_empty_part_is_refused() {
        let mut writer = KeyWriter::new("ns");
        ("a", "").write(&mut writer);
        assert_eq!(writer.finish().unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    fn part() -> impl Strategy<Value = Vec<u8>> {
        let hostile = prop::sample::select(b":%{}3A257BD\0\r\n\xff./a".to_vec());
        prop::collection::vec(prop_oneof![hostile, any::<u8>()], 1..8)
    }

    proptest! {
        #[test]
        fn different_parts_give_different_keys_inside_of_the_namespace(
            one in (part(), part()),
            other in (part(), part()),
            third in (part(), part(), part()),
        ) {
            prop_assert_eq!(one == other, key(&one) == key(&other));
            prop_assert_ne!(key(&one), key(&third));
            let key = key(&one);
            let bytes = key.as_bytes();
            prop_assert!(bytes.starts_with(b"ns:"));
            let braces = bytes.iter().filter(|byte| matches!(**byte, b'{' | b'}')).count();
            prop_assert_eq!(braces, 0);
            prop_assert_eq!(bytes.iter().filter(|byte| **byte == b':').count(), 2);
        }
    }
}

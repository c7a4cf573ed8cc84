//! Parts of keys, joined so that different parts never give the same key.

use std::fmt::Write;

use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;

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
#[derive(Debug)]
pub struct KeyWriter {
    key: Vec<u8>,
    parts: usize,
    empty: bool,
}

impl KeyWriter {
    pub(crate) fn new(prefix: &str) -> Self {
        let mut key = Vec::with_capacity(prefix.len() + 24);
        key.extend_from_slice(prefix.as_bytes());
        Self { key, parts: 0, empty: false }
    }

    /// Appends one part, which may contain anything but must not be empty.
    pub fn part(&mut self, part: &[u8]) {
        self.parts += 1;
        self.empty |= part.is_empty();
        self.key.push(b':');
        for byte in part {
            match byte {
                b'%' | b':' | b'{' | b'}' => {
                    self.key.extend_from_slice(match byte {
                        b'%' => b"%25",
                        b':' => b"%3A",
                        b'{' => b"%7B",
                        _ => b"%7D",
                    });
                }
                _ => self.key.push(*byte),
            }
        }
    }

    /// Appends one part that needs no escaping.
    fn plain(&mut self, part: impl std::fmt::Display) {
        struct Into<'a>(&'a mut Vec<u8>);
        impl Write for Into<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        self.parts += 1;
        self.key.push(b':');
        // Writing to a vector cannot fail.
        _ = write!(Into(&mut self.key), "{part}");
    }

    pub(crate) fn finish(self) -> Result<Key> {
        if self.empty || self.parts == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "a part of the key is empty"));
        }
        Key::from_bytes(self.key.into())
    }
}

/// stub
pub(crate) fn with_key<K: KeyParts + ?Sized, R>(
    prefix: &str,
    key: &K,
    f: impl FnOnce(&[u8]) -> Option<R>,
) -> Result<Option<R>> {
    let mut writer = KeyWriter::new(prefix);
    key.write(&mut writer);
    Ok(f(writer.finish()?.as_bytes()))
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

macro_rules! plain_parts {
    ($($type:ty)*) => {
        $(impl KeyParts for $type {
            fn write(&self, key: &mut KeyWriter) {
                key.plain(self);
            }
        })*
    };
}

plain_parts!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize uuid::Uuid);

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
    }

    #[test]
    fn parts_with_separators_and_braces_never_meet() {
        assert_ne!(key(&("a", "b:c")), key(&("a:b", "c")));
        assert_eq!(key(&"{victim}").as_bytes(), b"ns:%7Bvictim%7D");
        assert_eq!(key(&"%3A").as_bytes(), b"ns:%253A");
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

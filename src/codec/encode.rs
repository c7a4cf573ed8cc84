//! Writing JSON: compact, in the order of the source, within the limits that readers have.

use std::cell::Cell;
use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::limit::JsonLimit;
use crate::error::{Error, ErrorKind, Result};

/// How deep arrays and objects may stand in each other. `serde_json` reads as many; orjson reads
/// 1,024 and writes 254.
pub(crate) const MAX_DEPTH: usize = 127;

/// What a JSON document has to be at its outermost level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Anything.
    Any,
    /// An object: `set_dict` and `get_dict`.
    Object,
    /// An array: `set_list` and `get_list_value`.
    Array,
}

impl Shape {
    /// Whether a document that begins with this byte has the shape.
    pub(crate) fn fits(self, first: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Object => first == b'{',
            Self::Array => first == b'[',
        }
    }
}

/// What a JSON document that begins with this byte is.
pub(crate) fn kind_of(first: u8) -> &'static str {
    match first {
        b'{' => "an object",
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => "a number",
    }
}

/// The value as JSON.
///
/// # Errors
/// [`ErrorKind::Encode`] if it has another shape, is nested too deep, holds an integer wider than
/// 64 bits, or refuses to be serialised; [`ErrorKind::InvalidInput`] if it is larger than the limit, since it would
/// not be read back. Never with a part of the value.
pub(crate) fn encode_json<T: Serialize + ?Sized>(
    value: &T,
    shape: Shape,
    limit: JsonLimit,
) -> Result<Bytes> {
    let refused = Cell::new(None);
    let mut out = Capped { bytes: Vec::with_capacity(128), most: limit.bytes(), is_full: false };
    let rules = Rules { depth: 0, refused: &refused };
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, rules));
    if let Some(reason) = refused.get() {
        return Err(Error::new(ErrorKind::Encode, reason));
    }
    if out.is_full {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "the value is longer than {} bytes as JSON; split it, or raise max_json_bytes",
                limit.bytes()
            ),
        ));
    }
    if let Err(error) = written {
        return Err(Error::new(ErrorKind::Encode, why_refused(&error)));
    }
    match out.bytes.first() {
        Some(first) if shape.fits(*first) => Ok(Bytes::from(out.bytes)),
        Some(first) => Err(Error::new(ErrorKind::Encode, wrong_shape(shape, *first))),
        None => Err(Error::new(ErrorKind::Encode, "the value wrote no JSON at all")),
    }
}

/// Takes what is written up to a limit: what is refused need not be written first.
struct Capped {
    bytes: Vec<u8>,
    most: usize,
    is_full: bool,
}

impl io::Write for Capped {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.most - self.bytes.len() {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wrong_shape(shape: Shape, first: u8) -> String {
    let found = kind_of(first);
    match (shape, first) {
        (Shape::Object, b'[') => {
            format!("the value is {found}, set_dict wants an object; use set_list")
        }
        (Shape::Array, b'{') => {
            format!("the value is {found}, set_list wants an array; use set_dict")
        }
        (Shape::Object, _) => format!("the value is {found}, set_dict wants an object"),
        _ => format!("the value is {found}, set_list wants an array"),
    }
}

/// `serde_json`'s own refusals are constant texts; those of a `Serialize` can hold the value.
fn why_refused(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => {
            "the value's Serialize implementation refused to write it".to_owned()
        }
        _ => format!("the value has no JSON form: {error}"),
    }
}

/// Compact output that refuses what other readers could not take.
struct Rules<'a> {
    depth: usize,
    // Beside the error, because a `Serialize` implementation may drop the error and go on.
    refused: &'a Cell<Option<&'static str>>,
}

const TOO_DEEP: &str = "the value is nested deeper than 127 levels";
const TOO_WIDE: &str = "the value holds an integer wider than 64 bits; write it as a string";

impl Rules<'_> {
    fn refuse(&self, reason: &'static str) -> io::Result<()> {
        self.refused.set(Some(reason));
        Err(io::Error::other(reason))
    }

    fn open(&mut self) -> io::Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.refuse(TOO_DEEP) } else { Ok(()) }
    }
}

impl Formatter for Rules<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open()?;
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open()?;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"}")
    }

    fn write_i128<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i128) -> io::Result<()> {
        match (i64::try_from(value), u64::try_from(value)) {
            (Ok(value), _) => self.write_i64(writer, value),
            (_, Ok(value)) => self.write_u64(writer, value),
            _ => self.refuse(TOO_WIDE),
        }
    }

    fn write_u128<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u128) -> io::Result<()> {
        match u64::try_from(value) {
            Ok(value) => self.write_u64(writer, value),
            Err(_) => self.refuse(TOO_WIDE),
        }
    }

    /// A `RawValue` is written as it is, within the same depth.
    fn write_raw_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if self.depth + depth_of(fragment.as_bytes()) > MAX_DEPTH {
            return self.refuse(TOO_DEEP);
        }
        writer.write_all(fragment.as_bytes())
    }
}

/// How deep a JSON text is nested.
fn depth_of(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use std::collections::BTreeMap;

    use serde_json::value::RawValue;

    use super::*;

    fn encoded<T: Serialize + ?Sized>(value: &T, shape: Shape) -> Result<Bytes> {
        encode_json(value, shape, JsonLimit::default())
    }

    #[test]
    fn a_document_as_large_as_the_limit_is_written_and_one_byte_more_is_not() {
        assert_eq!(encode_json("abc", Shape::Any, JsonLimit::of(5)).unwrap(), "\"abc\"");
        let error = encode_json("canary", Shape::Any, JsonLimit::of(5)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("5 bytes") && shown.contains("max_json_bytes"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn nothing_is_written_past_the_limit() {
        let mut out = Capped { bytes: Vec::new(), most: 5, is_full: false };
        assert!(out.write_all(b"abc").is_ok() && out.write_all(b"de").is_ok() && !out.is_full);
        assert!(out.write_all(b"").is_ok() && !out.is_full);
        assert!(out.write_all(b"f").is_err() && out.is_full);
        assert_eq!(out.bytes, b"abcde");
    }

    #[test]
    fn integers_wider_than_64_bits_are_refused_in_values_and_in_map_keys() {
        assert_eq!(encoded(&u128::from(u64::MAX), Shape::Any).unwrap(), "18446744073709551615");
        assert_eq!(encoded(&i128::from(i64::MIN), Shape::Any).unwrap(), "-9223372036854775808");
        let wide = u128::from(u64::MAX) + 1;
        let below = i128::from(i64::MIN) - 1;
        let key = BTreeMap::from([(wide, 1)]);
        for error in [
            encoded(&wide, Shape::Any).unwrap_err(),
            encoded(&below, Shape::Any).unwrap_err(),
            encoded(&key, Shape::Any).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Encode);
            assert!(error.to_string().contains("wider than 64 bits"), "{error}");
        }
    }

    #[test]
    fn the_wrong_shape_is_an_error_that_names_the_right_method() {
        let error = encoded(&[1, 2], Shape::Object).unwrap_err().to_string();
        assert!(error.starts_with("the value is an array, set_dict wants an object; use set_list"));
        let map = BTreeMap::from([("a", 1)]);
        let error = encoded(&map, Shape::Array).unwrap_err().to_string();
        assert!(error.starts_with("the value is an object, set_list wants an array; use set_dict"));
        let error = encoded(&None::<u8>, Shape::Array).unwrap_err().to_string();
        assert!(error.starts_with("the value is null, set_list wants an array"), "{error}");
    }

    #[test]
    fn raw_json_is_written_as_it_is_and_cannot_be_nested_too_deep() {
        let raw = |text: String| RawValue::from_string(text).unwrap();
        let strings = r#"{"a\"[[":"]]{\\","b":[1, 2]}"#.to_owned();
        assert_eq!(depth_of(strings.as_bytes()), 2);
        assert_eq!(encoded(&raw(strings.clone()), Shape::Object).unwrap(), strings);
        for (levels, fine) in [(126, true), (127, false), (1_000_000, false)] {
            let nested = raw("[".repeat(levels) + &"]".repeat(levels));
            assert_eq!(encoded(&[nested], Shape::Array).is_ok(), fine, "{levels}");
        }
    }

    #[test]
    fn what_a_serialize_implementation_complains_about_is_not_repeated() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("canary is not allowed"))
            }
        }
        let error = encoded(&[Refuses], Shape::Any).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        let keys = BTreeMap::from([(vec![1], 1)]);
        let error = encoded(&keys, Shape::Any).unwrap_err().to_string();
        assert!(error.contains("key must be a string"), "{error}");
    }
}

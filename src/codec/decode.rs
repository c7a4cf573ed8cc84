//! Reading JSON. No error repeats what was read.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::encode::{MAX_DEPTH, Shape, kind_of};
use super::limit::JsonLimit;
use crate::error::{Error, ErrorKind, Result};

/// The value that the JSON text stands for.
///
/// # Errors
/// [`ErrorKind::Decode`] if it is larger than the limit, is not JSON, has another shape, is nested too deep, or is not
/// what `T` expects. It says where, and what was expected, never what was found.
pub(crate) fn decode_json<T: DeserializeOwned>(
    json: &[u8],
    shape: Shape,
    limit: JsonLimit,
) -> Result<T> {
    limit.check(json)?;
    let first = json.iter().copied().find(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    if let Some(first) = first.filter(|first| begins_json(*first) && !shape.fits(*first)) {
        return Err(Error::new(ErrorKind::Decode, wrong_shape(shape, first)));
    }
    serde_json::from_slice(json).map_err(|error| Error::new(ErrorKind::Decode, describe(&error)))
}

fn begins_json(first: u8) -> bool {
    matches!(first, b'{' | b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')
}

fn wrong_shape(shape: Shape, first: u8) -> String {
    let found = kind_of(first);
    match (shape, first) {
        (Shape::Object, b'[') => {
            format!("the stored JSON is {found}, get_dict wants an object; use get_list_value")
        }
        (Shape::Array, b'{') => {
            format!("the stored JSON is {found}, get_list_value wants an array; use get_dict")
        }
        (Shape::Object, _) => format!("the stored JSON is {found}, get_dict wants an object"),
        _ => format!("the stored JSON is {found}, get_list_value wants an array"),
    }
}

/// What went wrong and where.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    if message.starts_with("recursion limit exceeded") {
        return format!("the stored JSON is nested deeper than {MAX_DEPTH} levels");
    }
    match error.classify() {
        // Constant texts of serde_json, with line and column.
        Category::Syntax | Category::Eof | Category::Io => {
            format!("the stored bytes are not JSON that can be read: {message}")
        }
        Category::Data => {
            let mut text = String::from("the stored JSON is not what the type expects");
            if let Some(why) = mismatch(&message, error) {
                text = text + ": " + &why;
            }
            if error.line() > 0 {
                text += &format!(" at line {} column {}", error.line(), error.column());
            }
            text
        }
    }
}

/// The parts of serde's texts that come from the type, never those that come from the data.
fn mismatch(message: &str, error: &serde_json::Error) -> Option<String> {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(place.as_str()).unwrap_or(message);
    for start in ["missing field `", "duplicate field `"] {
        if let Some(field) = message.strip_prefix(start).and_then(|rest| rest.strip_suffix('`')) {
            return (!field.contains('`')).then(|| format!("{start}{field}`"));
        }
    }
    if message.starts_with("unknown field") {
        return Some("there is a field that the type does not have".to_owned());
    }
    if message.starts_with("unknown variant") {
        return Some("there is a variant that the type does not have".to_owned());
    }
    // "invalid type: <found>, expected <wanted>": the last ", expected " cannot stand before the
    // one that serde wrote, so what follows it is the type's own word.
    if ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .any(|s| message.starts_with(s))
    {
        let (_, wanted) = message.rsplit_once(", expected ")?;
        return Some(format!("expected {wanted}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct User {
        id: u64,
        #[serde(default)]
        colour: Option<Colour>,
    }

    #[derive(Debug, Deserialize)]
    enum Colour {
        Red,
    }

    fn decoded<T: DeserializeOwned>(json: &[u8], shape: Shape) -> Result<T> {
        decode_json(json, shape, JsonLimit::default())
    }

    fn refused<T: DeserializeOwned + std::fmt::Debug>(json: &str) -> String {
        let error = decoded::<T>(json.as_bytes(), Shape::Any).unwrap_err();
        assert!(error.is_decode());
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{shown}");
        error.to_string()
    }

    #[test]
    fn an_error_says_what_was_expected_and_where_but_never_what_was_found() {
        let error = refused::<User>(r#"{"id":"canary"}"#);
        assert!(error.contains("expected u64 at line 1 column 14"), "{error}");
        let error = refused::<User>(r#"{"id":", expected canary"}"#);
        assert!(error.contains("expected u64"), "{error}");
        let error = refused::<User>(r#"{"colour":null}"#);
        assert!(error.contains("missing field `id`"), "{error}");
        let error = refused::<User>(r#"{"id":1,"id":2}"#);
        assert!(error.contains("duplicate field `id`"), "{error}");
        let error = refused::<User>(r#"{"id":1,"canary":2}"#);
        assert!(error.contains("a field that the type does not have"), "{error}");
        let error = refused::<User>(r#"{"id":1,"colour":"canary, expected canary"}"#);
        assert!(error.contains("a variant that the type does not have"), "{error}");
        refused::<(u8, u8)>(r#"["canary",1]"#);
        refused::<std::net::IpAddr>(r#""canary""#);
        refused::<HashMap<u8, u8>>(r#"{"canary":1}"#);
    }

    #[test]
    fn what_is_not_json_is_an_error_with_a_place() {
        for json in
            ["", "canary", "{\"a\":canary}", "[1,2", "1 2", "\u{feff}1", "\"\\ud800\"", "nul"]
        {
            let error = refused::<crate::json::Value>(json);
            assert!(error.contains("line 1 column"), "{json}: {error}");
        }
    }

    #[test]
    fn the_wrong_shape_is_an_error_that_names_the_right_method() {
        let error = decoded::<HashMap<String, u8>>(b" [1]", Shape::Object).unwrap_err();
        assert!(error.to_string().starts_with(
            "the stored JSON is an array, get_dict wants an object; use get_list_value"
        ));
        let error = decoded::<Vec<u8>>(b"{}", Shape::Array).unwrap_err();
        assert!(error.to_string().starts_with(
            "the stored JSON is an object, get_list_value wants an array; use get_dict"
        ));
        let error = decoded::<Option<Vec<u8>>>(b"null", Shape::Array).unwrap_err();
        assert!(error.to_string().starts_with("the stored JSON is null"), "{error}");
        let error = decoded::<Vec<u8>>(b"canary", Shape::Array).unwrap_err();
        assert!(error.to_string().starts_with("the stored bytes are not JSON"), "{error}");
    }
}

//! The stored bytes against those of redis-py and orjson (`tests/interop/vectors.json`), both ways,
//! and the documents that no reader should trip over.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use larder::json::{Array, Object, Value};
use larder::{CacheClient, Error, ErrorKind, IntoValue};
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Row = HashMap<String, serde_json::Value>;

fn vectors(kind: &str) -> Vec<Row> {
    let all: HashMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("interop/vectors.json")).unwrap();
    let rows: Vec<Row> = serde_json::from_value(all[kind].clone()).unwrap();
    assert!(!rows.is_empty());
    rows
}

fn text<'a>(row: &'a Row, field: &str) -> &'a str {
    row[field].as_str().unwrap()
}

fn hex(row: &Row, field: &str) -> Vec<u8> {
    unhex(text(row, field))
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn float(row: &Row) -> f64 {
    f64::from_bits(u64::from_str_radix(text(row, "bits"), 16).unwrap())
}

/// What larder stores for one value, by way of an array around it: those have no other rules.
async fn written<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, Error> {
    let cache = CacheClient::memory();
    cache.set_list("v", &[value], None).await?;
    let stored = cache.get_bytes("v").await?.unwrap();
    Ok(stored.slice(1..stored.len() - 1))
}

/// What larder reads of a stored value.
async fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    let cache = CacheClient::memory();
    cache.set_value("v", [b"[", json, b"]"].concat(), None).await?;
    let list: Vec<T> = cache.get_list_value("v").await?.unwrap();
    list.into_iter().next().ok_or_else(|| Error::new(ErrorKind::Decode, "nothing was read"))
}

/// Both ways: the value has exactly these bytes, and these bytes are the value.
async fn same<T>(value: T, json: &[u8])
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let stored = written(&value).await.unwrap();
    assert_eq!(stored, json, "{} not {}", stored.escape_ascii(), json.escape_ascii());
    assert_eq!(read::<T>(json).await.unwrap(), value, "{}", json.escape_ascii());
}

#[tokio::test]
async fn floats_have_the_digits_of_redis_py_and_orjson_and_come_back_to_the_last_bit() {
    for row in vectors("floats") {
        let value = float(&row);
        assert_eq!(value.into_value().unwrap(), text(&row, "plain"));
        assert_eq!(written(&value).await.unwrap(), text(&row, "json"));
        assert_eq!(written(&Value::from(value)).await.unwrap(), text(&row, "json"));
        let back: f64 = read(text(&row, "json").as_bytes()).await.unwrap();
        assert_eq!(back.to_bits(), value.to_bits(), "{value:e}");
        assert_eq!(text(&row, "plain").parse::<f64>().unwrap().to_bits(), value.to_bits());
    }
}

#[tokio::test]
async fn integers_of_64_bits_are_written_whole() {
    for row in vectors("integers") {
        let (json, plain) = (text(&row, "json"), text(&row, "plain"));
        let wide: i128 = text(&row, "value").parse().unwrap();
        assert_eq!(wide.into_value().unwrap(), plain);
        if let Ok(value) = i64::try_from(wide) {
            assert_eq!(value.into_value().unwrap(), plain);
            same(value, json.as_bytes()).await;
            same(Value::from(value), json.as_bytes()).await;
        }
        if let Ok(value) = u64::try_from(wide) {
            assert_eq!(value.into_value().unwrap(), plain);
            same(value, json.as_bytes()).await;
            same(Value::from(value), json.as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn text_is_stored_as_it_is_and_in_json_without_needless_escapes() {
    for row in vectors("texts") {
        let value = String::from_utf8(hex(&row, "plain")).unwrap();
        assert_eq!(value.as_str().into_value().unwrap(), value);
        same(Value::from(value.as_str()), &hex(&row, "json")).await;
        same(value, &hex(&row, "json")).await;
    }
}

// One for each adaptor.

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsDecimal(#[serde(with = "larder::json::decimal")] Decimal);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsDuration(#[serde(with = "larder::json::duration")] Duration);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsChrono(#[serde(with = "larder::json::chrono_utc")] chrono::DateTime<chrono::Utc>);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsNaive(#[serde(with = "larder::json::chrono_naive")] chrono::NaiveDateTime);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsJiff(#[serde(with = "larder::json::jiff_timestamp")] jiff::Timestamp);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsUuid(#[serde(with = "larder::json::uuid")] uuid::Uuid);
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct AsBytes(#[serde(with = "larder::json::bytes")] Vec<u8>);

#[tokio::test]
async fn decimals_are_numbers_or_strings_as_other_languages_write_them() {
    for row in vectors("decimals") {
        let value: Decimal = text(&row, "value").parse().unwrap();
        let json = text(&row, "json");
        assert_eq!(written(&AsDecimal(value)).await.unwrap(), json);
        assert_eq!(written(&Value::from(value)).await.unwrap(), json);
        // A number holds 15 digits for certain; docs/interop.md says so.
        let AsDecimal(back) = read(json.as_bytes()).await.unwrap();
        if value.mantissa().unsigned_abs() < 10_u128.pow(15) || json.starts_with('"') {
            assert_eq!(back, value);
        } else {
            assert_eq!(back.to_string().parse::<f64>(), json.parse::<f64>());
        }
    }
}

#[tokio::test]
async fn decimals_are_read_from_any_number_and_from_any_spelling_as_a_string_but_never_rounded() {
    for (json, value) in [
        ("18446744073709551615", "18446744073709551615"),
        ("-7", "-7"),
        ("1e3", "1000"),
        ("\"1E+3\"", "1000"),
        ("\"1.5e-7\"", "0.00000015"),
        ("\"-0.10\"", "-0.10"),
    ] {
        let AsDecimal(back) = read(json.as_bytes()).await.unwrap();
        assert_eq!(back, value.parse::<Decimal>().unwrap(), "{json}");
    }
    for json in [
        "\"canary\"",
        "null",
        "[]",
        "\"0.12345678901234567890123456789012345\"",
        // The same with an exponent; and one whose digits only the exponent makes too many.
        "\"0.12345678901234567890123456789012345e0\"",
        "\"12345678901234567890123456789.1e1\"",
        "\"1.5e-28\"",
        "1e300",
        "\"1e-40\"",
    ] {
        let error = read::<AsDecimal>(json.as_bytes()).await.unwrap_err();
        assert!(error.is_decode(), "{json}");
        let shown = error.to_string();
        assert!(shown.contains("expected a decimal as a number or a string"), "{json}: {shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[tokio::test]
async fn durations_are_seconds_with_the_digits_of_total_seconds() {
    for row in vectors("durations") {
        let (secs, micros) = (row["secs"].as_u64().unwrap(), row["micros"].as_u64().unwrap());
        let value = Duration::from_secs(secs) + Duration::from_micros(micros);
        let json = text(&row, "json").as_bytes();
        same(AsDuration(value), json).await;
        assert_eq!(written(&Value::from(value)).await.unwrap(), json);
    }
    assert_eq!(read::<AsDuration>(b"90").await.unwrap().0, Duration::from_secs(90));
    for json in ["-1", "-0.5", "1e300", "\"90\"", "null"] {
        assert!(read::<AsDuration>(json.as_bytes()).await.unwrap_err().is_decode(), "{json}");
    }
}

#[tokio::test]
async fn times_are_rfc_3339_in_utc_with_whole_seconds() {
    for row in vectors("times") {
        let (secs, micros) = (row["secs"].as_i64().unwrap(), row["micros"].as_i64().unwrap());
        let chrono = chrono::DateTime::from_timestamp(secs, micros as u32 * 1000).unwrap();
        let naive = chrono.naive_utc();
        // jiff's last day is one that every time zone has.
        let jiff = jiff::Timestamp::from_microsecond(secs * 1_000_000 + micros).ok();
        assert!(jiff.is_some() || secs == 253_402_300_799);
        for json in [text(&row, "utc"), text(&row, "naive")] {
            assert_eq!(written(&AsChrono(chrono)).await.unwrap(), json);
            assert_eq!(written(&AsNaive(naive)).await.unwrap(), json);
            assert_eq!(written(&Value::from(chrono)).await.unwrap(), json);
            assert_eq!(written(&Value::from(naive)).await.unwrap(), json);
            assert_eq!(read::<AsChrono>(json.as_bytes()).await.unwrap().0.timestamp(), secs);
            let back = read::<AsNaive>(json.as_bytes()).await.unwrap().0;
            assert_eq!(back.and_utc().timestamp(), secs);
            let back = read::<AsJiff>(json.as_bytes()).await;
            match jiff {
                Some(jiff) => {
                    assert_eq!(written(&AsJiff(jiff)).await.unwrap(), json);
                    assert_eq!(written(&Value::from(jiff)).await.unwrap(), json);
                    assert_eq!(back.unwrap().0.as_second(), secs);
                }
                None => assert!(back.unwrap_err().is_decode()),
            }
        }
    }
}

#[tokio::test]
async fn times_are_read_with_any_offset_and_without_one_as_utc() {
    let noon = chrono::DateTime::from_timestamp(1_738_324_800, 0).unwrap();
    for json in [
        "\"2025-01-31T12:00:00Z\"",
        "\"2025-01-31T12:00:00+00:00\"",
        "\"2025-01-31T14:00:00+02:00\"",
        "\"2025-01-31T12:00:00\"",
        "\"2025-01-31T12:00:00.000000\"",
    ] {
        assert_eq!(read::<AsChrono>(json.as_bytes()).await.unwrap().0, noon, "{json}");
        assert_eq!(read::<AsNaive>(json.as_bytes()).await.unwrap().0.and_utc(), noon, "{json}");
        let jiff = read::<AsJiff>(json.as_bytes()).await.unwrap().0;
        assert_eq!(jiff.as_second(), noon.timestamp(), "{json}");
    }
    for json in ["\"canary\"", "1738324800", "null", "\"2025-02-30T00:00:00Z\""] {
        for error in [
            read::<AsChrono>(json.as_bytes()).await.unwrap_err(),
            read::<AsJiff>(json.as_bytes()).await.unwrap_err(),
        ] {
            assert!(error.is_decode() && !error.to_string().contains("canary"), "{error}");
        }
    }
    let far = chrono::DateTime::from_timestamp(253_402_300_800, 0).unwrap();
    assert_eq!(written(&AsChrono(far)).await.unwrap_err().kind(), ErrorKind::Encode);
}

#[tokio::test]
async fn bytes_uuids_sets_and_keys_follow_the_rules() {
    for row in vectors("bytes") {
        let (value, json) = (hex(&row, "plain"), hex(&row, "json"));
        assert_eq!(value.as_slice().into_value().unwrap(), value);
        assert_eq!(written(&AsBytes(value.clone())).await.unwrap(), json);
        assert_eq!(written(&Value::from(value)).await.unwrap(), json);
        let text: String = read(&json).await.unwrap();
        assert_eq!(read::<AsBytes>(&json).await.unwrap().0, text.into_bytes());
    }
    for row in vectors("uuids") {
        let value: uuid::Uuid = text(&row, "value").parse().unwrap();
        same(AsUuid(value), text(&row, "json").as_bytes()).await;
        assert_eq!(written(&Value::from(value)).await.unwrap(), text(&row, "json"));
    }
    for row in vectors("sets") {
        let value: BTreeSet<i64> = serde_json::from_value(row["value"].clone()).unwrap();
        assert_eq!(written(&Value::from(value.clone())).await.unwrap(), text(&row, "json"));
        same(value, text(&row, "json").as_bytes()).await;
    }
    for row in vectors("keys") {
        let key: Value = serde_json::from_value(row["value"].clone()).unwrap();
        let object: Value = [(key, 1)].into_iter().collect();
        same(object, text(&row, "json").as_bytes()).await;
    }
    assert_eq!(written(&HashMap::from([(7_u64, 1)])).await.unwrap(), r#"{"7":1}"#);
}

#[tokio::test]
async fn optional_fields_are_null_or_the_same() {
    #[derive(Debug, PartialEq, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Optional {
        #[serde(with = "larder::json::decimal::option")]
        price: Option<Decimal>,
        #[serde(with = "larder::json::duration::option")]
        length: Option<Duration>,
        #[serde(with = "larder::json::chrono_utc::option")]
        at: Option<chrono::DateTime<chrono::Utc>>,
        #[serde(with = "larder::json::uuid::option")]
        id: Option<uuid::Uuid>,
        #[serde(with = "larder::json::bytes::option")]
        raw: Option<Vec<u8>>,
    }
    let empty = br#"{"price":null,"length":null,"at":null,"id":null,"raw":null}"#;
    same(Optional::default(), empty).await;
    assert_eq!(read::<Optional>(b"{}").await.unwrap(), Optional::default());
    let full = Optional {
        price: Some(Decimal::new(150, 2)),
        length: Some(Duration::from_millis(1500)),
        at: chrono::DateTime::from_timestamp(0, 0),
        id: Some(uuid::Uuid::nil()),
        raw: Some(b"raw".to_vec()),
    };
    let json = br#"{"price":1.5,"length":1.5,"at":"1970-01-01T00:00:00Z","id":"00000000-0000-0000-0000-000000000000","raw":"raw"}"#;
    same(full, json).await;
}

#[tokio::test]
async fn documents_of_orjson_come_back_byte_for_byte() {
    let all: HashMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("interop/vectors.json")).unwrap();
    for row in all["documents"].as_array().unwrap() {
        let json = unhex(row.as_str().unwrap());
        same(read::<Value>(&json).await.unwrap(), &json).await;
    }
}

#[tokio::test]
async fn edge_cases_are_read_as_orjson_reads_them_or_refused_as_orjson_refuses_them() {
    let mut refused = 0;
    for row in vectors("edges") {
        let json = hex(&row, "json");
        let shown = json.escape_ascii().to_string();
        let cache = CacheClient::memory();
        cache.set_value("v:1", json, None).await.unwrap();
        // A namespace reads any shape.
        let values = cache.namespace::<u64, Value>("v").build().unwrap();
        let found = values.get(&1).await;
        if row.contains_key("refused") {
            refused += 1;
            let error = found.unwrap_err();
            assert!(error.is_decode(), "{shown}: {error}");
            assert!(error.to_string().starts_with("get v:#"), "{error}");
            continue;
        }
        let found = found.unwrap().unwrap();
        values.set(&1, &found).await.unwrap();
        assert_eq!(cache.get_bytes("v:1").await.unwrap().unwrap(), hex(&row, "again"), "{shown}");
        if row.contains_key("bits") {
            assert_eq!(found.as_f64().unwrap().to_bits(), float(&row).to_bits(), "{shown}");
        }
    }
    assert!(refused >= 20, "{refused}");
    // The one difference: an integer minus zero keeps its sign, as a float.
    assert_eq!(written(&read::<Value>(b"-0").await.unwrap()).await.unwrap(), "-0.0");
    // A type that is wide enough reads an integer whole.
    assert_eq!(read::<u128>(b"18446744073709551616").await.unwrap(), 1 << 64);
    // What no type looks at is not checked; what one does look at is.
    #[derive(Debug, Deserialize)]
    struct Empty {}
    assert!(read::<Empty>(br#"{"skipped":"\ud800"}"#).await.is_ok());
    assert!(read::<Empty>(b"{\"\xff\":1}").await.unwrap_err().is_decode());
    // What does not fit the type is an error, never another number.
    for json in ["18446744073709551616", "9007199254740993.0", "1e400", "-1"] {
        assert!(read::<u64>(json.as_bytes()).await.unwrap_err().is_decode(), "{json}");
    }
}

#[tokio::test]
async fn documents_nested_too_deep_are_refused_both_ways() {
    for levels in [126, 127, 129, 10_000, 1_000_000] {
        let fine = levels <= 126;
        let json = ["[".repeat(levels), "]".repeat(levels)].concat();
        let objects = [r#"{"a":"#.repeat(levels), "1".into(), "}".repeat(levels)].concat();
        for json in [json, objects] {
            let found = read::<Value>(json.as_bytes()).await;
            assert_eq!(found.is_ok(), fine, "{levels}");
            if let Err(error) = found {
                assert!(
                    error.is_decode() && error.to_string().contains("deeper than 127"),
                    "{error}"
                );
            }
        }
        for by_name in [false, true] {
            let deep = nested(levels, by_name);
            let stored = written(&deep).await;
            assert_eq!(stored.is_ok(), fine, "{levels}");
            if let Err(error) = stored {
                assert_eq!(error.kind(), ErrorKind::Encode);
                assert!(error.to_string().contains("deeper than 127"), "{error}");
                // By itself it is one level less deep, and no other serializer overflows either.
                assert_eq!(serde_json::to_string(&deep).is_err(), levels > 127);
            }
        }
    }
}

fn nested(levels: usize, by_name: bool) -> Value {
    let mut value = Value::Null;
    for level in 0..levels {
        value = if level == 0 && !by_name {
            Array::new().into()
        } else if by_name {
            [("a", value)].into_iter().collect()
        } else {
            [value].into_iter().collect()
        };
    }
    value
}

#[test]
fn a_value_of_any_depth_is_dropped_cloned_compared_and_printed_within_a_small_stack() {
    let small = std::thread::Builder::new().stack_size(128 * 1024).spawn(|| {
        for by_name in [false, true] {
            let deep = nested(1_000_000, by_name);
            let other = nested(1_000_000, by_name);
            let shared = deep.clone();
            assert!(deep == other && deep == shared);
            assert!(deep != nested(999_999, by_name));
            assert!(format!("{deep:?} {shared:#?}").len() < 60);
            drop(deep);
            assert_eq!(shared, other);
            drop((shared, other));
        }
    });
    small.unwrap().join().unwrap();
}

#[test]
fn printing_a_value_shows_its_shape_and_never_its_contents() {
    let mut object = Object::new();
    object.insert("canary", "canary");
    object.insert("list", vec![Value::from("canary"), Value::from(4711)]);
    let shown = format!(
        "{:?} {:?} {:?} {:?} {object:?}",
        Value::from(object.clone()),
        Value::from("canary"),
        Value::from(4711),
        object.get("list").unwrap(),
    );
    assert_eq!(shown, "Object(2 keys) String(6 bytes) Number Array(2 values) Object(2 keys)");
}

mod any {
    use proptest::prelude::*;

    use super::*;

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_filter("written as null", |v| v.is_finite()).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    }

    fn document() -> impl Strategy<Value = Value> {
        leaf().prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|pairs| pairs.into_iter().collect()),
            ]
        })
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn document_comes_back_as_it_was(value in document()) {
            run(async {
                let json = written(&value).await.unwrap();
                let back: Value = read(&json).await.unwrap();
                prop_assert!(back == value);
                // The order of the keys and the sign of zero, which `==` does not see.
                prop_assert_eq!(written(&back).await.unwrap(), json);
                Ok(())
            })?;
        }

        #[test]
        fn bytes_are_read_or_refused_without_a_panic(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                "[\\[\\]{}\",:0-9eE+\\-.a-z\\\\ ]{0,64}".prop_map(String::into_bytes),
            ],
        ) {
            run(async {
                let found = read::<Value>(&bytes).await;
                prop_assert!(found.is_ok() || found.unwrap_err().is_decode());
                for outcome in [
                    read::<AsDecimal>(&bytes).await.map(drop),
                    read::<AsDuration>(&bytes).await.map(drop),
                    read::<AsChrono>(&bytes).await.map(drop),
                    read::<AsJiff>(&bytes).await.map(drop),
                    read::<AsUuid>(&bytes).await.map(drop),
                    read::<String>(&bytes).await.map(drop),
                ] {
                    prop_assert!(outcome.is_ok() || outcome.unwrap_err().is_decode());
                }
                Ok(())
            })?;
        }

        #[test]
        fn number_or_text_is_stored_as_it_prints(value in any::<f64>(), text in any::<String>()) {
            if value.is_finite() {
                let stored = value.into_value().unwrap();
                let back: f64 = std::str::from_utf8(&stored).unwrap().parse().unwrap();
                prop_assert_eq!(back.to_bits(), value.to_bits());
            } else {
                prop_assert!(value.into_value().is_err());
            }
            prop_assert_eq!(text.as_str().into_value().unwrap(), text);
        }
    }
}

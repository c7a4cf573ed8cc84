//! Stored values that somebody else made on purpose: too large, too deep, of another type.

use std::collections::HashMap;

use larder::json::Value;
use larder::testing::RedisServer;
use larder::{CacheClient, Error, ErrorKind, Namespace, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const LEVELS: [usize; 3] = [129, 10_000, 1_000_000];

fn arrays(levels: usize) -> String {
    ["[".repeat(levels), "]".repeat(levels)].concat()
}

fn objects(levels: usize, name: &str) -> String {
    [format!(r#"{{"{name}":"#).repeat(levels), "null".into(), "}".repeat(levels)].concat()
}

/// A tree: the type itself sets no bound to its depth.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    next: Option<Box<Node>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(u64),
    Deep(Vec<Either>),
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    id: u64,
}

/// What everything is read as, whoever wrote it.
struct Readers {
    cache: CacheClient,
    any: Namespace<str, Value>,
    theirs: Namespace<str, serde_json::Value>,
    tree: Namespace<str, Node>,
    either: Namespace<str, Either>,
    numbers: Namespace<str, Vec<u64>>,
}

impl Readers {
    fn of(cache: CacheClient) -> Self {
        Self {
            any: cache.namespace("v").build().unwrap(),
            theirs: cache.namespace("v").build().unwrap(),
            tree: cache.namespace("v").build().unwrap(),
            either: cache.namespace("v").build().unwrap(),
            numbers: cache.namespace("v").build().unwrap(),
            cache,
        }
    }

    /// The errors of all the ways to read one value, of which none may succeed.
    async fn refused(&self, key: &str) -> Vec<Error> {
        let whole = format!("v:{key}");
        let mut errors = vec![
            self.any.get(key).await.map(drop).unwrap_err(),
            self.theirs.get(key).await.map(drop).unwrap_err(),
            self.tree.get(key).await.map(drop).unwrap_err(),
            self.either.get(key).await.map(drop).unwrap_err(),
            self.numbers.get(key).await.map(drop).unwrap_err(),
            self.any.get_many([key]).await.map(drop).unwrap_err(),
        ];
        let dict = self.cache.get_dict::<HashMap<String, Value>>(&whole).await;
        let list = self.cache.get_list_value::<Vec<Value>>(&whole).await;
        errors.extend([dict.map(drop).unwrap_err(), list.map(drop).unwrap_err()]);
        for error in &errors {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Decode, Outcome::Unknown));
            assert_eq!(error.key().map(|key| key.as_bytes()), Some(whole.as_bytes()));
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
        errors
    }
}

/// A worker's stack of tokio is 2 MiB: what is nested must not be walked by calls within calls.
#[tokio::test]
async fn values_of_any_depth_are_errors_and_no_overflow_whatever_they_are_read_as() {
    let server = RedisServer::start().await;
    let readers = Readers::of(CacheClient::connect(server.url()).await.unwrap());
    let mut refused = 0;
    for levels in LEVELS {
        for json in [arrays(levels), objects(levels, "next"), objects(levels, "canary")] {
            assert!(!server.command(&["SET", "v:deep", &json]).await.is_error());
            let errors = readers.refused("deep").await;
            refused += errors.len();
            let of_any = errors[0].to_string();
            assert!(of_any.contains("nested deeper than 127 levels"), "{of_any}");
        }
        // What is skipped, or kept as text, is not walked through; neither is it an error.
        let skipped = format!(r#"{{"id":7,"canary":{}}}"#, arrays(levels));
        server.command(&["SET", "v:known", &skipped]).await;
        let known = readers.cache.namespace::<str, Known>("v").build().unwrap();
        assert_eq!(known.get("known").await.unwrap().unwrap().id, 7);
        let raw = readers.cache.namespace::<str, Box<RawValue>>("v").build().unwrap();
        let text = raw.get("deep").await.unwrap().unwrap();
        assert!(!raw.set("again", &text).await.unwrap_err().to_string().contains("canary"));
    }
    println!("row 14: {refused} reads of 129 to 1,000,000 levels, all of them errors");
}

#[tokio::test]
async fn a_document_larger_than_the_limit_is_neither_decoded_nor_written() {
    let server = RedisServer::start().await;
    let builder = CacheClient::builder().url(server.url()).max_json_bytes(1000);
    let readers = Readers::of(builder.build().unwrap());
    let fits = format!("\"{}\"", "x".repeat(998));
    let large = format!("\"{}\"", "canary".repeat(167));
    server.command(&["MSET", "v:fits", &fits, "v:large", &large]).await;
    assert_eq!(readers.any.get("fits").await.unwrap().unwrap().as_str().unwrap().len(), 998);
    for error in readers.refused("large").await {
        let text = error.to_string();
        assert!(text.contains("has 1004 bytes, more than the 1000 that are decoded"), "{text}");
        assert!(text.contains("get_bytes") && text.contains("max_json_bytes"), "{text}");
    }
    // What is not decoded has no limit.
    assert_eq!(readers.cache.get_bytes("v:large").await.unwrap().unwrap(), large);
    assert_eq!(readers.cache.get_value("v:large").await.unwrap(), Some(large.clone()));
    let mut replies = readers.cache.pipeline().get_value("v:large").run().await.unwrap();
    assert!(replies.remove(0).unwrap().into_json::<String>().unwrap().is_some());

    // Nobody writes what nobody would read back.
    let text: Value = serde_json::from_str(&large).unwrap();
    let before = server.command(&["GET", "v:fits"]).await;
    let writes = [
        readers.any.set("fits", &text).await.unwrap_err(),
        readers.any.set_many([("fits", &text)]).await.unwrap_err(),
        readers.any.fenced_set("fits", &text, 1).await.unwrap_err(),
        readers.cache.set_list("v:fits", &[&text], None).await.unwrap_err(),
        readers.cache.pipeline().set_list("v:fits", &[&text], None).run().await.unwrap_err(),
    ];
    for error in writes {
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidInput, Outcome::NotSent));
        assert!(error.to_string().contains("max_json_bytes"), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    assert_eq!(server.command(&["GET", "v:fits"]).await, before);
}

#[tokio::test]
async fn a_namespace_has_a_limit_of_its_own_and_may_load_over_what_is_too_large() {
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let large = format!("\"{}\"", "canary".repeat(100));
    let loader = |_: String| async { Ok::<_, std::io::Error>("loaded".to_owned()) };
    for near in [false, true] {
        server.command(&["MSET", "n:large", &large, "m:large", &large]).await;
        let narrow = cache.namespace::<String, String>("n").near(near).max_json_bytes(100);
        let narrow = narrow.build().unwrap();
        let key = "large".to_owned();
        assert!(narrow.get(&key).await.unwrap_err().is_decode());
        let wide = cache.namespace::<String, String>("n").near(near).build().unwrap();
        assert_eq!(wide.get(&key).await.unwrap().unwrap().len(), 600);
        // As anything else that cannot be decoded.
        let lenient = cache.namespace::<String, String>("m").near(near).max_json_bytes(100);
        let lenient = lenient.undecodable_as_miss(true).loader(loader).build().unwrap();
        assert_eq!(lenient.get(&key).await.unwrap().unwrap().as_str(), "loaded");
        let stored = server.command(&["GET", "m:large"]).await.text();
        assert_eq!(stored.as_deref(), Some("\"loaded\""));
    }
    // A loader's value that is too large is given to who asked, and not stored.
    let loads = cache.namespace::<str, String>("l").max_json_bytes(10).build().unwrap();
    let given = loads.get_or_load("k", || async { Ok::<_, Error>("x".repeat(100)) }).await;
    println!("a loaded value beyond the limit: {:?}", given.as_ref().map(|value| value.len()));
    assert!(given.is_err_and(|error| error.kind() == ErrorKind::InvalidInput));
    assert_eq!(server.command(&["EXISTS", "l:k"]).await.int(), Some(0));
}

/// Row 16: an older or newer schema, half of a value, another codec. Row 18: types that let the data choose.
#[tokio::test]
async fn what_another_schema_or_another_codec_wrote_is_an_error_and_never_another_type() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct User {
        id: u64,
        name: String,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Circle { radius: f64 },
        Square { side: f64 },
    }
    let server = RedisServer::start().await;
    let cache = CacheClient::connect(server.url()).await.unwrap();
    let users = cache.namespace::<str, User>("v").build().unwrap();
    let shapes = cache.namespace::<str, Shape>("v").build().unwrap();
    let lenient = cache.namespace::<str, User>("v").undecodable_as_miss(true).build().unwrap();
    let written = serde_json::to_vec(&User { id: 7, name: "canary".into() }).unwrap();
    let mut hostile: Vec<Vec<u8>> = (0..written.len()).map(|end| written[..end].to_vec()).collect();
    hostile.extend([
        br#"{"id":7}"#.to_vec(),
        br#"{"id":"7","name":"canary"}"#.to_vec(),
        br#"{"id":7,"name":{"$type":"System.Diagnostics.Process","canary":1}}"#.to_vec(),
        br#"{"__class__":"canary","id":7.5,"name":""}"#.to_vec(),
        br#"[7]"#.to_vec(),
        b"\x82\xa2id\x07\xa4name\xa6canary".to_vec(), // msgpack
        b"\x80\x04\x95canary.".to_vec(),              // pickle
        b"\x1f\x8b\x08\x00canary".to_vec(),           // gzip
        b"\x28\xb5\x2f\xfdcanary".to_vec(),           // zstd
        b"\x00\x01canary".to_vec(),
        b"".to_vec(),
    ]);
    let count = hostile.len();
    for bytes in hostile {
        let shown = bytes.escape_ascii().to_string();
        let set = server.command(&[&b"SET"[..], b"v:k", &bytes]).await;
        assert!(!set.is_error());
        for error in [
            users.get("k").await.map(drop).unwrap_err(),
            shapes.get("k").await.map(drop).unwrap_err(),
        ] {
            assert!(error.is_decode(), "{shown}: {error}");
            let said = format!("{error} {error:?}");
            assert!(said.contains("v:#") && said.contains("JSON"), "{shown}: {said}");
            assert!(!said.contains("canary"), "{said}");
        }
        assert_eq!(lenient.get("k").await.unwrap(), None, "{shown}");
    }
    // A newer schema with a field more is read; what it says of itself chooses nothing.
    let newer = r#"{"id":7,"name":"a","$type":"Square","side":2}"#;
    server.command(&["SET", "v:k", newer]).await;
    assert_eq!(*users.get("k").await.unwrap().unwrap(), User { id: 7, name: "a".into() });
    server.command(&["SET", "v:k", r#"{"type":"Circle","side":2}"#]).await;
    assert_eq!(*shapes.get("k").await.unwrap().unwrap(), Shape::Square { side: 2.0 });
    println!("rows 16 and 18: {count} foreign values, all of them errors");
}

//! Every method that reads or writes data, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use larder::json::{Array, Value};
use larder::{CacheClient, Direction, IntoValue, Presence, Ttl};
use rust_decimal::Decimal;

use crate::peer::{Peer, Tally, bytes, bytes_of, object};

pub(crate) const TEXTS: [&str; 9] = [
    "",
    "plain",
    "Grüezi, Zoë",
    "日本語テキスト",
    "🦀 👨‍👩‍👧",
    "\u{202e}right to left",
    "quote \" backslash \\ slash /",
    "line\nfeed\r\n\t\u{0}\u{1f}\u{7f}",
    "{\"not\":\"read as JSON\"}",
];
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn array<const N: usize>(values: [i64; N]) -> Value {
    values.into_iter().collect()
}

pub(crate) fn text(bytes: Option<Bytes>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn texts(answer: &Value) -> Vec<String> {
    let all = answer.as_array().unwrap().iter();
    all.map(|one| text(bytes_of(one)).unwrap()).collect()
}

pub(crate) fn number(answer: &Value) -> u64 {
    answer.as_u64().unwrap()
}

/// One value written by either side has the same bytes, and either side reads the other's.
async fn both<T>(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally, value: T, for_peer: Value)
where
    T: IntoValue + Clone + Debug,
{
    cache.set_value("from:larder", value.clone(), None).await.unwrap();
    peer.call("set", vec!["from:python".into(), for_peer]).await;
    let here = cache.get_bytes("from:python").await.unwrap();
    tally.same("set_value", peer.get("from:larder").await, here.clone());
    tally.same("get_bytes", peer.get("from:python").await, here.clone());
    let Ok(text) = String::from_utf8(here.unwrap().to_vec()) else {
        tally.holds("get_value", cache.get_value("from:python").await.unwrap_err().is_decode());
        return;
    };
    tally.same("get_value", cache.get_value("from:python").await.unwrap(), Some(text));
}

pub(crate) async fn plain(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for value in TEXTS {
        both(cache, peer, tally, value, value.into()).await;
        both(cache, peer, tally, value.as_bytes(), bytes(value)).await;
    }
    for value in [&b"\xff\x00\xfe"[..], b"\xe2\x82", b"\r\n$5\r\n", &[0; 70_000]] {
        both(cache, peer, tally, value, bytes(value)).await;
    }
    for value in [0, 1, -1, 1 << 53, (1 << 53) + 1, i64::MAX, i64::MIN] {
        both(cache, peer, tally, value, value.into()).await;
    }
    both(cache, peer, tally, u64::MAX, u64::MAX.into()).await;
    for value in [
        0.0,
        -0.0,
        1.0,
        0.1,
        0.1 + 0.2,
        1e15,
        1e16,
        1e-4,
        1e-5,
        5e-324,
        f64::MAX,
        1.0 / 3.0,
        -2.5e-7,
    ] {
        both(cache, peer, tally, value, value.into()).await;
    }

    tally.same("get_value", cache.get_value("absent").await.unwrap(), None);
    tally.same("get_bytes", cache.get_bytes("absent").await.unwrap(), None);

    for (presence, option) in [(Presence::Absent, "nx"), (Presence::Present, "xx")] {
        for present in [false, true] {
            cache.delete_key("here").await.unwrap();
            peer.call("delete", vec!["there".into()]).await;
            if present {
                cache.set_value("there", "old", None).await.unwrap();
                peer.call("set", vec!["here".into(), "old".into()]).await;
            }
            let here = cache.set_value_if("here", "Zoë", None, presence).await.unwrap();
            let args = vec!["there".into(), "Zoë".into()];
            let there = peer.call_with("set", args, object([(option, true.into())])).await;
            tally.same("set_value_if", here, there.as_bool() == Some(true));
            tally.same("set_value_if", peer.get("here").await, peer.get("there").await);
        }
    }

    let keys: Vec<String> = (0..TEXTS.len()).map(|at| format!("many:{at}")).collect();
    cache.set_many(keys.iter().zip(TEXTS), MINUTE).await.unwrap();
    for (key, value) in keys.iter().zip(TEXTS) {
        tally.same("set_many", text(peer.get(key).await).as_deref(), Some(value));
        let left = peer.call("ttl", vec![key.as_str().into()]).await;
        tally.holds("set_many", (59..=60).contains(&number(&left)));
    }
    let pairs: Value = keys.iter().map(String::as_str).zip(TEXTS).rev().collect();
    peer.call("mset", vec![pairs]).await;
    let asked = keys.iter().map(String::as_str).chain(["absent"]);
    let found = cache.get_many(asked.clone()).await.unwrap();
    let wanted = TEXTS.iter().map(|text| Some((*text).to_owned())).chain([None]);
    tally.same("get_many", found, wanted.collect());
    let there = peer.call("mget", asked.map(Value::from).collect()).await;
    tally.same("get_many", there.as_array().unwrap().len(), TEXTS.len() + 1);

    peer.call("set", vec!["count".into(), 40.into()]).await;
    tally.same("incr_by", cache.incr_by("count", 2).await.unwrap(), 42);
    tally.same("incr_by", peer.call("incrby", vec!["count".into(), 8.into()]).await, 50.into());
    tally.same("incr_by", cache.incr_by("count", -100).await.unwrap(), -50);
    tally.same("incr_by", text(peer.get("count").await).as_deref(), Some("-50"));
    peer.call("set", vec!["count".into(), i64::MAX.into()]).await;
    tally.holds("incr_by", cache.incr_by("count", 1).await.is_err());
    tally.same("incr_by", text(peer.get("count").await), Some(i64::MAX.to_string()));
}

pub(crate) async fn expiry_and_deletes(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    let near =
        |ttl: Ttl| matches!(ttl, Ttl::Remaining(left) if left <= MINUTE && left > MINUTE / 2);
    let key = || vec![Value::from("k")];

    cache.set_value("k", "v", MINUTE).await.unwrap();
    tally.holds("set_value", (59..=60).contains(&number(&peer.call("ttl", key()).await)));
    let args = vec!["k".into(), "v".into()];
    peer.call_with("set", args.clone(), object([("ex", 60.into())])).await;
    tally.holds("get_ttl", near(cache.get_ttl("k").await.unwrap()));
    tally.same("persist", cache.persist("k").await.unwrap(), true);
    tally.same("persist", peer.call("ttl", key()).await, (-1).into());
    tally.same("get_ttl", cache.get_ttl("k").await.unwrap().as_secs(), -1);
    tally.same("set_expiry", cache.set_expiry("k", MINUTE).await.unwrap(), true);
    tally.holds("set_expiry", (59..=60).contains(&number(&peer.call("ttl", key()).await)));
    peer.call("expire", vec!["k".into(), 30.into()]).await;
    tally.holds(
        "get_ttl",
        matches!(cache.get_ttl("k").await.unwrap(), Ttl::Remaining(left)
        if left <= Duration::from_secs(30)),
    );
    tally.same("persist", peer.call("persist", key()).await, true.into());
    tally.same("persist", cache.persist("k").await.unwrap(), false);
    // A plain write ends an expiry on either side.
    cache.set_expiry("k", MINUTE).await.unwrap();
    peer.call("set", args).await;
    tally.same("get_ttl", cache.get_ttl("k").await.unwrap(), Ttl::Persistent);
    peer.call("expire", vec!["k".into(), 30.into()]).await;
    cache.set_value("k", "v", None).await.unwrap();
    tally.same("set_value", peer.call("ttl", key()).await, (-1).into());

    tally.same("key_exists", cache.key_exists("k").await.unwrap(), true);
    tally.same("key_exists", peer.call("exists", key()).await, 1.into());
    tally.same("delete_key", cache.delete_key("k").await.unwrap(), 1);
    tally.same("delete_key", peer.call("exists", key()).await, 0.into());
    tally.same("delete_key", number(&peer.call("delete", key()).await), 0);
    tally.same("delete_key", cache.delete_key("k").await.unwrap(), 0);
    tally.same("key_exists", cache.key_exists("k").await.unwrap(), false);
    tally.same("get_ttl", cache.get_ttl("k").await.unwrap().as_secs(), -2);
    tally.same("get_ttl", peer.call("ttl", key()).await, (-2).into());
    tally.same("set_expiry", cache.set_expiry("k", MINUTE).await.unwrap(), false);
    tally.same("persist", cache.persist("k").await.unwrap(), false);

    for round in 0..2 {
        peer.call("mset", vec![object([("d:1", 1.into()), ("d:2", 2.into())])]).await;
        peer.call("hset", vec!["d:3".into(), "f".into(), "v".into()]).await;
        let keys = ["d:1", "d:2", "d:3", "d:absent"];
        let deleted = match round {
            0 => cache.batch_delete_keys(keys).await.unwrap(),
            _ => number(&peer.call("delete", keys.map(Value::from).to_vec()).await),
        };
        tally.same("batch_delete_keys", deleted, 3);
        for key in keys {
            tally.same("batch_delete_keys", cache.key_exists(key).await.unwrap(), false);
        }
    }
}

/// Documents as larder has them, and as the peer is told of them.
pub(crate) fn samples() -> Vec<(Value, Value)> {
    let same = |value: Value| (value.clone(), value);
    let tagged = |kind: &str, value: Value| object([(kind, value)]);
    let time = |unix| chrono::DateTime::from_timestamp(unix, 0).unwrap();
    let uuid = "0198c0de-7777-7abc-8def-0123456789ab";
    let mut all: Vec<(Value, Value)> = TEXTS.iter().map(|text| same((*text).into())).collect();
    for number in [0, -1, (1 << 53) + 1, i64::MAX, i64::MIN] {
        all.push(same(number.into()));
    }
    all.push(same(u64::MAX.into()));
    for number in [0.0, -0.0, 0.1, 1.0, 1e15, 1e16, 1e-5, 1e-7, 5e-324, f64::MAX, 1.0 / 3.0] {
        all.push(same(number.into()));
    }
    for decimal in ["19.99", "10", "0.000001", "0.0000001", "999999999999999", "1000000000000000"] {
        let value: Decimal = decimal.parse().unwrap();
        all.push((value.into(), tagged("$decimal", decimal.into())));
    }
    for millis in [0_u32, 1, 100, 1500, 3_600_000] {
        let seconds = f64::from(millis) / 1000.0;
        all.push((Duration::from_millis(millis.into()).into(), tagged("$seconds", seconds.into())));
    }
    for unix in [0, -1, 951_782_400, 1_738_312_200, 253_402_300_799] {
        all.push((time(unix).into(), tagged("$time", unix.into())));
        all.push((time(unix).naive_utc().into(), tagged("$naive", unix.into())));
    }
    all.extend([
        same(Value::Null),
        same(true.into()),
        same(false.into()),
        same(Array::new().into()),
        same(object([])),
        same(vec![Array::new().into(), object([]), Value::Null].into()),
        (f64::NAN.into(), tagged("$nan", 0.into())),
        (uuid.parse::<uuid::Uuid>().unwrap().into(), tagged("$uuid", uuid.into())),
        (BTreeSet::from([1, 2, 3]).into(), tagged("$set", array([3, 1, 2]))),
        (Value::from(&b"Gr\xc3\xbc\xff\xe2\x82ezi"[..]), bytes(b"Gr\xc3\xbc\xff\xe2\x82ezi")),
        (
            BTreeMap::from([(1, "a"), (2, "b")]).into(),
            object([("1", "a".into()), ("2", "b".into())]),
        ),
        same(object([("z", 1.into()), ("a", object([("y", array([2]))])), ("ö", "ü".into())])),
    ]);
    let mut nested = Value::from("tief");
    for _ in 0..60 {
        nested = object([("in", vec![nested].into())]);
    }
    all.push(same(nested));
    all
}

pub(crate) async fn documents(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for (here, there) in samples() {
        let dict =
            |value: Value| object([("first", 1.into()), ("value", value), ("an", "end".into())]);
        cache.set_dict("from:larder", &dict(here.clone()), MINUTE).await.unwrap();
        peer.write("from:python", dict(there.clone()), Some(60)).await;
        let bytes = peer.get("from:python").await;
        tally.same("set_dict", peer.get("from:larder").await, bytes);
        let read = cache.get_dict::<Value>("from:python").await.unwrap().unwrap();
        tally.same("get_dict", peer.read("from:larder").await, read);
        tally
            .holds("get_dict", matches!(cache.get_ttl("from:python").await, Ok(Ttl::Remaining(_))));

        let list = |value: Value| Value::from(vec![value, "end".into()]);
        cache.set_list("from:larder", &list(here), None).await.unwrap();
        peer.write("from:python", list(there), None).await;
        let bytes = peer.get("from:python").await;
        tally.same("set_list", peer.get("from:larder").await, bytes);
        let read = cache.get_list_value::<Value>("from:python").await.unwrap().unwrap();
        tally.same("get_list_value", peer.read("from:larder").await, read);
    }
    // The other shape, and what is no JSON, is refused rather than misread.
    peer.write("shape", array([1]), None).await;
    tally.holds("get_dict", cache.get_dict::<Value>("shape").await.unwrap_err().is_decode());
    peer.write("shape", object([]), None).await;
    tally.holds("get_list_value", cache.get_list_value::<Value>("shape").await.is_err());
    peer.call("set", vec!["shape".into(), "{'python': None}".into()]).await;
    tally.holds("get_dict", cache.get_dict::<Value>("shape").await.unwrap_err().is_decode());
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Product {
    name: String,
    #[serde(with = "larder::json::decimal")]
    price: Decimal,
    #[serde(with = "larder::json::chrono_utc")]
    since: chrono::DateTime<chrono::Utc>,
    #[serde(with = "larder::json::duration")]
    delivery: Duration,
    tags: BTreeSet<String>,
    stock: Option<u64>,
}

pub(crate) async fn namespaces(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    let products = cache.namespace::<u64, Product>("product").ttl(MINUTE).build().unwrap();
    let product = |at: u64| Product {
        name: TEXTS[at as usize].to_owned(),
        price: Decimal::new(1999 + at as i64, 2),
        since: chrono::DateTime::from_timestamp(1_738_312_200, 0).unwrap(),
        delivery: Duration::from_millis(1500 * at),
        tags: BTreeSet::from(["a".to_owned(), "ö".to_owned()]),
        stock: at.is_multiple_of(2).then_some(u64::MAX - at),
    };
    let told = |product: &Product| {
        object([
            ("name", product.name.as_str().into()),
            ("price", object([("$decimal", product.price.to_string().into())])),
            ("since", object([("$time", product.since.timestamp().into())])),
            ("delivery", object([("$seconds", product.delivery.as_secs_f64().into())])),
            ("tags", object([("$set", product.tags.iter().collect())])),
            ("stock", product.stock.into()),
        ])
    };
    for at in 0..TEXTS.len() as u64 {
        let (key, one) = (format!("product:{at}"), product(at));
        peer.write(&key, told(&one), Some(60)).await;
        let there = peer.get(&key).await;
        let found = products.get(&at).await.unwrap();
        tally.same("namespace.get", found.as_deref(), Some(&one));
        products.set(&at, &one).await.unwrap();
        tally.same("namespace.set", peer.get(&key).await, there.clone());
        let fenced = async |token| products.fenced_set(&at, &one, token).await.unwrap();
        tally.same("namespace.fenced_set", (fenced(7).await, fenced(6).await), (true, false));
        tally.same("namespace.fenced_set", peer.get(&key).await, there);
        let mark = peer.get(&format!("larder:fenced:{{{key}}}")).await;
        tally.same("namespace.fenced_set", mark, Some("7".into()));
        tally.holds("namespace.ttl", matches!(products.ttl(&at).await, Ok(Ttl::Remaining(_))));
        let left = peer.call("ttl", vec![key.as_str().into()]).await;
        tally.holds("namespace.set", (59..=60).contains(&number(&left)));
    }
    let pairs: Vec<_> = (0..4).map(|at| (at, product(at))).collect();
    products.set_many(pairs.iter().map(|(at, one)| (at, one))).await.unwrap();
    for (at, one) in &pairs {
        peer.write("from:python", told(one), None).await;
        let there = peer.get("from:python").await;
        tally.same("namespace.set_many", peer.get(&format!("product:{at}")).await, there);
    }
    // A null of another language is "there is nothing".
    peer.write("product:3", Value::Null, None).await;
    let found = products.get_many([&0, &3, &99]).await.unwrap();
    tally.same("namespace.get_many", found, vec![Some(Arc::new(product(0))), None, None]);
    tally.same("namespace.get", products.get(&3).await.unwrap(), None);
    tally.same("namespace.delete", products.delete(&0).await.unwrap(), true);
    tally.same("namespace.delete", peer.call("exists", vec!["product:0".into()]).await, 0.into());
}

pub(crate) async fn hashes(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for (at, value) in TEXTS.into_iter().enumerate() {
        let field = format!("Feld ö {at}");
        tally.same("set_hash", cache.set_hash("h", &field, value).await.unwrap(), 1);
        let found = peer.call("hget", vec!["h".into(), field.as_str().into()]).await;
        tally.same("set_hash", text(bytes_of(&found)).as_deref(), Some(value));
        let new = peer.call("hset", vec!["p".into(), field.as_str().into(), value.into()]).await;
        tally.same("set_hash", number(&new), 1);
        let found = cache.get_hash("p", &field).await.unwrap();
        tally.same("get_hash", found.as_deref(), Some(value));
        tally.same("set_hash", cache.set_hash("p", &field, value).await.unwrap(), 0);
    }
    cache.set_hash("h", "number", i64::MIN).await.unwrap();
    peer.call("hset", vec!["p".into(), "number".into(), i64::MIN.into()]).await;
    cache.set_hash("h", "float", 1e16).await.unwrap();
    peer.call("hset", vec!["p".into(), "float".into(), 1e16.into()]).await;
    let (ours, theirs) =
        (cache.get_hash_all("h").await.unwrap(), cache.get_hash_all("p").await.unwrap());
    tally.same("get_hash_all", &ours, &theirs);
    let there = peer.call("hgetall", vec!["h".into()]).await;
    let there = there.as_array().unwrap().iter().map(|pair| {
        let [field, value] = texts(pair).try_into().unwrap();
        (field, value)
    });
    tally.same("get_hash_all", &ours, &there.collect());
    tally.same("get_hash", cache.get_hash("p", "absent").await.unwrap(), None);
    tally.same("delete_hash_field", cache.delete_hash_field("p", "float").await.unwrap(), 1);
    let args = vec!["p".into(), "float".into()];
    tally.same("delete_hash_field", peer.call("hexists", args.clone()).await, false.into());
    tally.same("delete_hash_field", number(&peer.call("hdel", args).await), 0);
    tally.same("delete_hash_field", cache.delete_hash_field("p", "float").await.unwrap(), 0);
    let refused = peer.try_call("get", vec!["h".into()], object([])).await;
    tally.same("set_hash", refused, Err("ResponseError".to_owned()));
    tally.holds("get_value", cache.get_value("p").await.unwrap_err().is_wrong_type());
}

pub(crate) async fn lists(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for (at, value) in TEXTS.into_iter().enumerate() {
        let (side, push) = match at % 2 {
            0 => (Direction::Left, "lpush"),
            _ => (Direction::Right, "rpush"),
        };
        let here = cache.push_to_list("q:larder", value, side).await.unwrap();
        let there = peer.call(push, vec!["q:python".into(), value.into()]).await;
        tally.same("push_to_list", here, number(&there));
    }
    for (side, push) in [(Direction::Left, "lpush"), (Direction::Right, "rpush")] {
        cache.push_to_list("q:larder", 7, side).await.unwrap();
        peer.call(push, vec!["q:python".into(), 7.into()]).await;
        cache.push_to_list("q:larder", 2.5, side).await.unwrap();
        peer.call(push, vec!["q:python".into(), 2.5.into()]).await;
    }
    for key in ["q:larder", "q:python"] {
        let here = cache.get_list(key).await.unwrap();
        let there = peer.call("lrange", vec![key.into(), 0.into(), (-1).into()]).await;
        tally.same("get_list", here, texts(&there));
        let here = cache.get_list_range(key, 1, -2).await.unwrap();
        let there = peer.call("lrange", vec![key.into(), 1.into(), (-2).into()]).await;
        tally.same("get_list_range", here, texts(&there));
    }
    let here = cache.get_list("q:python").await.unwrap();
    tally.same("push_to_list", cache.get_list("q:larder").await.unwrap(), here);
    tally.same("remove_from_list", cache.remove_from_list("q:python", 7).await.unwrap(), 2);
    let args = vec!["q:larder".into(), 0.into(), 7.into()];
    tally.same("remove_from_list", number(&peer.call("lrem", args).await), 2);
    loop {
        let here = cache.left_pop_list("q:python").await.unwrap();
        let there = peer.call("lpop", vec!["q:larder".into()]).await;
        tally.same("left_pop_list", here.clone(), text(bytes_of(&there)));
        let last = cache.right_pop_list("q:python").await.unwrap();
        let there = peer.call("rpop", vec!["q:larder".into()]).await;
        tally.same("right_pop_list", last, text(bytes_of(&there)));
        if here.is_none() {
            break;
        }
    }
    // An element that is no text is handed back with the error.
    peer.call("rpush", vec!["q:python".into(), bytes(b"\xff\xfe")]).await;
    let error = cache.left_pop_list("q:python").await.unwrap_err();
    let element = error.undecoded().cloned();
    tally.same("left_pop_list", element, Some(Bytes::from_static(b"\xff\xfe")));
}

pub(crate) async fn groups_and_scans(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    for (name, group) in [("pipeline", cache.pipeline()), ("transaction", cache.transaction())] {
        let [plain, dict, hash, list] = ["v", "d", "h", "l"].map(|key| format!("{name}:{key}"));
        peer.call("set", vec![plain.as_str().into(), "Zoë".into()]).await;
        let replies = group
            .get_value(&plain)
            .set_value(&plain, 1e16, MINUTE)
            .set_dict(&dict, &object([("ö", Value::Null)]), None)
            .set_hash(&hash, "f", "日本")
            .push_to_list(&list, -1, Direction::Right)
            .run()
            .await
            .unwrap();
        let first = replies.into_iter().next().unwrap().unwrap();
        tally.same(name, first.into_text().unwrap().as_deref(), Some("Zoë"));
        tally.same(name, text(peer.get(&plain).await).as_deref(), Some("1e+16"));
        tally.same(name, text(peer.get(&dict).await).as_deref(), Some("{\"ö\":null}"));
        let found = peer.call("hget", vec![hash.as_str().into(), "f".into()]).await;
        tally.same(name, text(bytes_of(&found)).as_deref(), Some("日本"));
        let found = peer.call("lrange", vec![list.as_str().into(), 0.into(), (-1).into()]).await;
        tally.same(name, texts(&found), vec!["-1".to_owned()]);
    }

    // How larder prints a key, by the recipe of docs/interop.md.
    for key in ["token:9f2c77", "s3cr3t", ":", "user:Zoë", "a:b:c"] {
        let shown = larder::Key::new(key).unwrap().to_string();
        tally.same("scan", peer.recipe("shown", vec![bytes(key)]).await, shown.into());
    }

    let mut wanted = BTreeSet::new();
    for at in 0..1200 {
        let key = format!("scan*[ö]:{at}");
        peer.call("set", vec![key.as_str().into(), at.into()]).await;
        wanted.insert(key.into_bytes());
    }
    peer.call("set", vec!["scan-other".into(), 0.into()]).await;
    let found: Vec<larder::Key> = cache.scan("scan*[ö]:").try_collect().await.unwrap();
    let found: BTreeSet<Vec<u8>> = found.iter().map(|key| key.as_bytes().to_vec()).collect();
    tally.same("scan", found, wanted.clone());
    let pattern = object([("match", "scan\\*\\[ö\\]:*".into()), ("count", 5000.into())]);
    let there = peer.call_with("scan", vec![0.into()], pattern).await;
    let [_, there] = there.as_array().unwrap() else { panic!("a cursor and keys") };
    let there = texts(there).into_iter().map(String::into_bytes).collect();
    tally.same("scan", there, wanted);
}

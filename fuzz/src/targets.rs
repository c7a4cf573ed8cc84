//! One function for each reader of bytes: whatever it is given, it gives an answer or an error that repeats nothing, and
//! what it gives holds together. Run by cargo-fuzz, by [`drive`](super::drive) and, for some seconds, by `tests/bytes`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use larder::json::Value;
use larder::store::{InvalidationSink, Sweeping};
use larder::testing::readers;
use larder::{CacheClient, Error, HeldLock, Key};
use serde::{Deserialize, Serialize};

/// A reader, and how to feed it.
#[derive(Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// What the mutations begin with.
    pub seeds: &'static [&'static [u8]],
    /// What they put in.
    pub words: &'static [&'static [u8]],
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "json",
        run: json,
        seeds: &[
            br#"{"id":7,"name":"Ada","tags":["a","b"],"none":null,"ok":true,"rate":0.1}"#,
            br#"[1,-2,3.5e10,18446744073709551615,9007199254740993,1e400,-0]"#,
            br#"{"a":1,"a":2,"b":"\ud83e\udd80\ud800","c":{}}"#,
            b"\xef\xbb\xbf{}",
            br#"{"$serde_json::private::Number":"1.5"}"#,
            br#"{"$serde_json::private::RawValue":"[1]"}"#,
        ],
        words: JSON_WORDS,
    },
    Target {
        name: "numbers",
        run: numbers,
        seeds: &[
            br#"{"decimal":1.5,"duration":2.25,"time":"2026-01-02T03:04:05Z","id":"0191b0a2-0000-7000-8000-000000000000","bytes":"text"}"#,
            br#"{"decimal":"79228162514264337593543950335","duration":1e300,"time":"2026-01-02T03:04:05+23:59","id":"","bytes":""}"#,
        ],
        words: JSON_WORDS,
    },
    Target {
        name: "url",
        run: url,
        seeds: &[
            b"redis://user:pa%20ss@host:6379/2?deadline_ms=250&connections=3",
            b"redis://[::1]:6379",
            b"redis+unix://:pw@/run/redis.sock?db=3",
            b"redis+cluster://a:1,b:2,[::1]:3",
            b"redis+sentinel://u:p@a:1,b:2/primary/3",
            b"memory://?max_bytes=1048576",
            b"rediss://host?ca=/x",
            b"rediss+sentinel://a,b:2/primary?cert=/c&key=/k",
            b"memory://?max_bytes=1&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&",
        ],
        words: &[b":", b"@", b"/", b"?", b"#", b"%", b"%00", b"%ff", b"&", b"=", b",", b"[", b"]", b"..", b"redis://", b"memory://", b"redis+unix://", b"70000", b"-1", b"\xf0\x9f\xa6\x80"],
    },
    Target {
        name: "keys",
        run: keys,
        seeds: &[b"a\x1eb:c", b"a:b\x1ec", b"{victim}\x1e%3A", b"\x00\r\n\x1e\xff\xfe", b"a\x1eb\x1ec"],
        words: &[b":", b"%", b"%3A", b"%25", b"{", b"}", b"\x1e", b"\0", b"\r\n", b"../", b"*"],
    },
    Target {
        name: "replies",
        run: replies,
        seeds: &[
            b"$5\r\nvalue\r\n",
            b"*2\r\n$1\r\na\r\n$-1\r\n",
            b"*4\r\n$1\r\nv\r\n:1000\r\n:1\r\n$40\r\naaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d\r\n",
            b"*2\r\n:1\r\n$16\r\n1763000000000000\r\n",
            b"*2\r\n:0\r\n:5000\r\n",
            b"%1\r\n$5\r\nfield\r\n$5\r\nvalue\r\n",
            b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n",
            b"-MOVED 3999 127.0.0.1:6381\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"|1\r\n+key\r\n+value\r\n:1\r\n",
            b"_\r\n",
            b",1.5\r\n",
            b"#t\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"!21\r\nSYNTAX invalid syntax\r\n",
            b"~2\r\n:1\r\n:2\r\n",
            b"+QUEUED\r\n",
        ],
        words: RESP_WORDS,
    },
    Target {
        name: "topology",
        run: topology,
        seeds: &[
            b"*1\r\n*4\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:7000\r\n$2\r\nid\r\n*3\r\n$0\r\n\r\n:7001\r\n$3\r\nid2\r\n",
            b"*2\r\n*3\r\n:0\r\n:10\r\n*2\r\n$1\r\na\r\n:1\r\n*3\r\n:11\r\n:20\r\n*2\r\n$-1\r\n:2\r\n",
            b"$76\r\nid1 10.0.0.1:7000@17000,db.example myself,master - 0 0 1 connected 0-16383\n\r\n",
            b"-MOVED 3999 127.0.0.1:6381\r\n",
            b"-ASK 1 [::1]:6381\r\n",
            b"-MOVED 99999 :0\r\n",
            b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
            b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n",
            b"$37\r\nprimary 10.0.0.1 6379 10.0.0.2 6380\r\n",
        ],
        words: RESP_WORDS,
    },
    Target {
        name: "pushes",
        run: pushes,
        seeds: &[
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
            b">2\r\n$10\r\ninvalidate\r\n_\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n:1\r\n",
            b">0\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n\x1e>2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nb\r\n",
        ],
        words: RESP_WORDS,
    },
    Target {
        name: "locks",
        run: locks,
        seeds: &[
            b"0191b0a2\x1eid\x1e0191b0a2\x1etoken\x1e1763000000000000\x1eowner\x1enode 1",
            b"shared\x1er:a\x1e1763000000000\x1er:b\x1e9007199254740993",
            b"shared\x1er:a\x1enot a number\x1eq:b\x1e1 2",
        ],
        words: &[b"\x1e", b"id", b"token", b"owner", b"r:", b"q:", b"shared", b"-1", b"nan", b"1e308", b"9007199254740992", b"18446744073709551615"],
    },
];

const JSON_WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b"null",
    b"true",
    b"1e400",
    b"-0",
    b"[[",
    b"{\"a\":",
    b"\\ud800",
    b"\xff",
    b"[[],",
    b"18446744073709551616",
    b"0.1",
    b"1e-400",
    b" ",
];

const RESP_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"*1\r\n",
    b"*4096\r\n",
    b"*2147483647\r\n",
    b"$-1\r\n",
    b"$9223372036854775807\r\n",
    b"%1\r\n",
    b"|1\r\n",
    b"~1\r\n",
    b">1\r\n",
    b"_\r\n",
    b":1\r\n",
    b"$0\r\n\r\n",
    b"$?\r\n",
    b"$-2\r\n",
    b"*-5\r\n",
    b"!-1\r\n",
    b"=3\r\ntxt\r\n",
    b"invalidate",
    b"-ERR ",
    b",nan\r\n",
    b"(1\r\n",
    b"%9223372036854775807\r\n",
    b"|4611686018427387904\r\n",
    b"MOVED",
    b"ASK",
    b":0",
    b"\x1b[2J",
];

/// No error shows a control character or more than some lines, whatever was read.
fn is_fit_to_be_shown(error: &Error) {
    let shown = format!("{error}\n{error:?}");
    assert!(shown.len() < 4000, "an error of {} bytes", shown.len());
    assert!(shown.chars().all(|one| one == '\n' || !one.is_control()), "{shown:?}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tree {
    #[serde(default)]
    id: u64,
    #[serde(default)]
    name: String,
    next: Option<Box<Tree>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(f64),
    Text(String),
    Many(Vec<Either>),
    Named(HashMap<String, Either>),
}

/// Stored JSON as a dynamic value and as typed ones; what could be read is written and read again as the same.
pub fn json(data: &[u8]) {
    match readers::json::<Value>(data) {
        Ok(value) => {
            // A document as deep as can be read is one level too deep where it stands in nothing.
            if let Ok(written) = readers::stored(&value) {
                let again = readers::json::<Value>(&written).expect("what was written is read");
                assert!(again == value, "another document came back");
                assert_eq!(readers::stored(&again).expect("as before"), written);
            }
            assert!(format!("{value:?}").len() < 80);
        }
        Err(error) => is_fit_to_be_shown(&error),
    }
    for error in [
        readers::json::<Tree>(data).err(),
        readers::json::<Either>(data).err(),
        readers::json::<Vec<u64>>(data).err(),
        readers::json::<Option<HashMap<String, Value>>>(data).err(),
        readers::text(data).err(),
    ]
    .into_iter()
    .flatten()
    {
        assert!(error.is_decode());
        is_fit_to_be_shown(&error);
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Numbers {
    #[serde(with = "larder::json::decimal")]
    decimal: rust_decimal::Decimal,
    #[serde(with = "larder::json::duration")]
    duration: Duration,
    #[serde(with = "larder::json::jiff_timestamp")]
    time: jiff::Timestamp,
    #[serde(with = "larder::json::bytes")]
    bytes: Vec<u8>,
}

/// The adaptors of numbers, times and bytes; what is written again is read as what it was written from.
pub fn numbers(data: &[u8]) {
    match readers::json::<Numbers>(data) {
        Ok(numbers) => {
            let written = readers::stored(&numbers).expect("what was read can be written");
            let again = readers::json::<Numbers>(&written).expect("what was written is read");
            assert_eq!(again.bytes, numbers.bytes);
            assert_eq!(again.decimal.normalize(), numbers.decimal.normalize());
            assert_eq!(readers::stored(&again).expect("as before"), written);
        }
        Err(error) => is_fit_to_be_shown(&error),
    }
}

/// Store URLs: no secret is shown, and what is shown of one that is read can be read.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match readers::url(text) {
        Ok(shown) => assert!(!shown.contains("canary")),
        Err(error) => is_fit_to_be_shown(&error),
    }
    // A password in the place of the one that there is.
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        let with = format!("{scheme}://:canary@{rest}");
        let shown = match readers::url(&with) {
            Ok(shown) => shown,
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(
            rest.contains("canary") || !shown.contains("canary"),
            "the password is shown: {shown}"
        );
    }
}

/// The parts of a key, read back by the rule of docs/interop.md.
fn parts_of(key: &Key) -> Vec<Vec<u8>> {
    let key = key.as_bytes().strip_prefix(b"ns:").expect("the key is in its namespace");
    let decoded = |part: &[u8]| {
        let mut bytes = Vec::new();
        let mut rest = part;
        while let Some((first, after)) = rest.split_first() {
            let code = after.get(..2).filter(|_| *first == b'%');
            let byte = match code {
                Some(b"25") => b'%',
                Some(b"3A") => b':',
                Some(b"7B") => b'{',
                Some(b"7D") => b'}',
                Some(_) => panic!("a percent sign stands for nothing"),
                None => *first,
            };
            bytes.push(byte);
            rest = if code.is_some() { &after[2..] } else { after };
        }
        bytes
    };
    key.split(|byte| *byte == b':').map(decoded).collect()
}

/// Parts become a key within the namespace, which no other parts become: they can be read back.
pub fn keys(data: &[u8]) {
    thread_local! {
        static CACHE: CacheClient = CacheClient::memory();
    }
    let parts: Vec<Vec<u8>> = data.split(|byte| *byte == b'\x1e').map(<[u8]>::to_vec).collect();
    CACHE.with(|cache| {
        let key = match &parts[..] {
            [one] => cache.namespace::<Vec<u8>, ()>("ns").build().unwrap().key(one),
            [one, two] => {
                let both = (one.clone(), two.clone());
                cache.namespace::<(Vec<u8>, Vec<u8>), ()>("ns").build().unwrap().key(&both)
            }
            [one, two, three, ..] => {
                let all = (one.clone(), two.clone(), three.clone());
                cache.namespace::<(Vec<u8>, Vec<u8>, Vec<u8>), ()>("ns").build().unwrap().key(&all)
            }
            [] => unreachable!("a split has a part"),
        };
        let parts = &parts[..parts.len().min(3)];
        match key {
            Ok(key) => {
                assert_eq!(parts_of(&key), parts);
                assert!(!key.as_bytes().iter().any(|byte| matches!(byte, b'{' | b'}')));
                let shown = format!("{key} {key:?}");
                assert!(shown.len() < 400 && !shown.chars().any(char::is_control), "{shown:?}");
            }
            Err(error) => {
                assert!(error.is_invalid_input() && parts.iter().any(Vec::is_empty), "{error}");
                is_fit_to_be_shown(&error);
            }
        }
    });
}

/// A reply as the answer to every kind of operation.
pub fn replies(data: &[u8]) {
    readers::replies(data, |answer| match answer {
        Ok(replies) => {
            assert!(format!("{replies:?}").len() < 4000);
            for error in replies.results().iter().filter_map(|result| result.as_ref().err()) {
                is_fit_to_be_shown(error);
            }
        }
        Err(error) => is_fit_to_be_shown(&error),
    });
}

/// A reply as what nodes and sentinels say of each other.
pub fn topology(data: &[u8]) {
    readers::topology(data).iter().for_each(is_fit_to_be_shown);
}

#[derive(Debug, Default)]
struct Told {
    keys: AtomicU64,
    all: AtomicU64,
}

impl InvalidationSink for Told {
    fn changed(&self, _: &[u8]) {
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    fn all_changed(&self, _: Sweeping) {
        self.all.fetch_add(1, Ordering::Relaxed);
    }
}

/// Pushes: one that is an invalidation tells of a key, of all, or ends what the connection vouches for.
pub fn pushes(data: &[u8]) {
    let told = Arc::new(Told::default());
    let (pushes, vouches) = readers::pushes(data, Arc::clone(&told) as _);
    if !vouches {
        assert!(
            pushes > 0 && told.all.load(Ordering::Relaxed) > 0,
            "given up, and nobody was told"
        );
    }
}

/// A lock and its record as anybody may have left them: the value, then fields and their values.
pub fn locks(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    }
    let mut pieces = data.split(|byte| *byte == b'\x1e');
    let value = pieces.next().unwrap_or_default();
    let cache = CacheClient::builder().store(larder::store::MemoryStore::new()).build().unwrap();
    let listed: Result<Vec<HeldLock>, Error> = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let key = Key::new("lock:x").unwrap();
            cache.set_value(&key, value, Duration::from_secs(60)).await.unwrap();
            while let (Some(field), Some(of)) = (pieces.next(), pieces.next()) {
                cache.set_hash(key.lock_record(), field, of).await.unwrap();
            }
            cache.locks("").try_collect().await
        })
    });
    match listed {
        Ok(held) => {
            assert_eq!(held.len(), 1);
            let held = &held[0];
            assert!(held.holders >= 1);
            if value != b"shared" && !value.is_empty() {
                assert!(!held.shared && held.holders == 1);
                // What could release it is not in what is listed, unless its holder called itself so.
                let shown = format!("{held:?}");
                let id = String::from_utf8_lossy(value);
                let named = held.owner.as_deref().unwrap_or_default();
                assert!(
                    value.len() < 20 || named.contains(&*id) || !shown.contains(&*id),
                    "{shown}"
                );
            }
        }
        Err(error) => is_fit_to_be_shown(&error),
    }
}

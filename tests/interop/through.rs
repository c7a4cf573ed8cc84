//! Reading through: what larder loads Python reads, and what Python wrote is not loaded.

use std::io::Error as IoError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::json::Value;
use larder::{CacheClient, Loaded, Namespace, ReadFrom, Ttl};

use crate::peer::{Peer, Tally, bytes, object};
use crate::until;
use crate::values::{MINUTE, TEXTS, number, samples, text};

/// Where loaders read, and how often they did.
#[derive(Default)]
struct Origin(AtomicU64);

impl Origin {
    async fn gives<T>(&self, what: T) -> Result<T, IoError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(what)
    }

    fn loads(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

async fn pttl(peer: &mut Peer, key: &str) -> u64 {
    number(&peer.call("pttl", vec![key.into()]).await)
}

async fn exists(peer: &mut Peer, key: &str) -> bool {
    peer.call("exists", vec![key.into()]).await == Value::from(1)
}

pub(crate) async fn loaded(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    let typed = cache.namespace::<usize, Value>("typed").ttl(MINUTE).build().unwrap();
    for (at, (here, there)) in samples().into_iter().enumerate() {
        let dict = |value| object([("first", 1.into()), ("value", value), ("an", "end".into())]);
        let (key, origin) = (format!("through:{at}"), Origin::default());
        let given = cache.get_or_load(&key, MINUTE, || origin.gives(dict(here.clone()))).await;
        let again = typed.get_or_load(&at, || origin.gives(dict(here.clone()))).await.unwrap();
        // As JSON: no NaN is equal to itself.
        let [given, again] =
            [given.unwrap(), again].map(|value| serde_json::to_string(&*value).unwrap());
        tally.same("namespace.get_or_load", given, again);
        peer.write("from:python", dict(there), Some(60)).await;
        let (wanted, as_read) = (peer.get("from:python").await, peer.read("from:python").await);
        tally.same("get_or_load", peer.get(&key).await, wanted.clone());
        tally.same("namespace.get_or_load", peer.get(&format!("typed:{at}")).await, wanted);
        tally.same("get_or_load", peer.read(&key).await, as_read.clone());
        // Shortened by at most a twentieth.
        tally.holds("get_or_load", (56_000..=60_000).contains(&pttl(peer, &key).await));
        tally.same("get_or_load", origin.loads(), 2);

        // What Python wrote is served, without the loader.
        let none = || origin.gives(Value::Null);
        let served = cache.get_or_load("from:python", MINUTE, none).await.unwrap();
        tally.same("get_or_load", &*served, &as_read);
        let bytes = peer.get("from:python").await.unwrap();
        peer.call("set", vec![format!("typed:{at}").into(), self::bytes(bytes)]).await;
        tally.same(
            "namespace.get_or_load",
            &*typed.get_or_load(&at, none).await.unwrap(),
            &as_read,
        );
        tally.same("namespace.get_or_load", origin.loads(), 2);
    }
    // A lease is gone when the load has ended, and a document of another language that is none is an error.
    let leases = peer.call("keys", vec!["larder:lease:*".into()]).await;
    tally.same("get_or_load", leases, Vec::<Value>::new().into());
    peer.call("set", vec!["through:none".into(), "{'python': None}".into()]).await;
    let origin = Origin::default();
    let read = cache.get_or_load("through:none", MINUTE, || origin.gives(Value::Null)).await;
    tally.same("get_or_load", (read.unwrap_err().is_decode(), origin.loads()), (true, 0));
}

pub(crate) async fn nothing(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    const NAME: &str = "namespace.get_or_load";
    let users = cache.namespace::<u64, String>("none").ttl(MINUTE);
    let users = users.negative_ttl(Duration::from_secs(5)).build().unwrap();
    let origin = Origin::default();
    let found = users.get_or_load(&1, || origin.gives(None)).await.unwrap();
    tally.same(NAME, found, None);
    tally.same(NAME, text(peer.get("none:1").await).as_deref(), Some("null"));
    tally.same(NAME, peer.read("none:1").await, Value::Null);
    tally.holds(NAME, (4_000..=5_000).contains(&pttl(peer, "none:1").await));
    // Python's null is the same: who can do with nothing loads nothing, who needs a value loads one.
    peer.write("none:2", Value::Null, Some(60)).await;
    tally.same(NAME, users.get_or_load(&2, || origin.gives(None)).await.unwrap(), None);
    tally.same(NAME, origin.loads(), 1);
    let ada = users.get_or_load(&2, || origin.gives("Ada".to_owned())).await.unwrap();
    tally.same(NAME, (ada.as_str(), origin.loads()), ("Ada", 2));
    tally.same(NAME, peer.read("none:2").await, "Ada".into());
    // Without a negative TTL nothing is stored.
    let absent = || origin.gives(None);
    let found = cache.get_or_load::<String, _>("none:3", MINUTE, absent).await;
    tally.same("get_or_load", found.unwrap(), None);
    tally.same("get_or_load", exists(peer, "none:3").await, false);
}

pub(crate) async fn graceful(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    const NAME: &str = "namespace.get_or_load";
    let grace = Duration::from_secs(30);
    let values = cache.namespace::<u64, Value>("grace").ttl(MINUTE).grace(grace);
    let values = values.jitter(0.0).early_refresh(0.0).build().unwrap();
    let origin = Origin::default();
    let now = || origin.gives(Value::from("now"));

    values.get_or_load(&1, now).await.unwrap();
    tally.holds(NAME, (89_000..=90_000).contains(&pttl(peer, "grace:1").await));
    let own = || origin.gives(Loaded::value(Value::from("own")).ttl(Duration::from_secs(5)));
    values.get_or_load(&2, own).await.unwrap();
    tally.holds(NAME, (34_000..=35_000).contains(&pttl(peer, "grace:2").await));
    tally.same(NAME, origin.loads(), 2);

    // Written with the TTL and the grace it is fresh, without a TTL too; with less than the grace it looks stale.
    for (key, ex, from) in [(3, Some(90), ReadFrom::Shared), (4, None, ReadFrom::Shared)] {
        peer.write(&format!("grace:{key}"), "written".into(), ex).await;
        tally.same(NAME, &*values.get_or_load(&key, now).await.unwrap(), &"written".into());
        tally.same(NAME, values.explain(&key), Some(from));
    }
    let fresh = matches!(values.ttl(&3).await, Ok(Ttl::Remaining(left)) if left <= MINUTE && left > MINUTE / 2);
    tally.holds("namespace.ttl", fresh);
    tally.same(NAME, origin.loads(), 2);
    peer.write("grace:5", "written".into(), Some(20)).await;
    tally.same("namespace.get", values.get(&5).await.unwrap().as_deref(), Some(&"written".into()));
    tally.same(NAME, &*values.get_or_load(&5, now).await.unwrap(), &"now".into());
    tally.same(NAME, (peer.read("grace:5").await, origin.loads()), ("now".into(), 3));
    tally.holds(NAME, (89_000..=90_000).contains(&pttl(peer, "grace:5").await));
}

pub(crate) async fn many(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    let values = cache.namespace::<usize, String>("many-typed").ttl(MINUTE).build().unwrap();
    let keys: Vec<String> = (0..TEXTS.len()).map(|at| format!("many-plain:{at}")).collect();
    for at in (0..TEXTS.len()).step_by(2) {
        peer.write(&keys[at], TEXTS[at].into(), Some(60)).await;
        peer.write(&format!("many-typed:{at}"), TEXTS[at].into(), Some(60)).await;
    }
    let missing: Vec<usize> = (1..TEXTS.len()).step_by(2).collect();
    let places: Vec<usize> = (0..TEXTS.len()).collect();

    let (mut asked, mut calls) = (Vec::new(), 0);
    let found = values.get_or_load_many(&places, |keys| {
        calls += 1;
        asked.extend(keys.iter().map(|at| **at));
        async move { Ok::<_, IoError>(keys.into_iter().map(|at| (*at, TEXTS[*at].to_owned()))) }
    });
    let found: Vec<_> = found.await.unwrap().into_iter().map(|one| one.unwrap().unwrap()).collect();
    tally.same("namespace.get_or_load_many", (calls, &asked), (1, &missing));
    for (at, found) in found.iter().enumerate() {
        tally.same("namespace.get_or_load_many", found.as_str(), TEXTS[at]);
        let there = peer.read(&format!("many-typed:{at}")).await;
        tally.same("namespace.get_or_load_many", there, TEXTS[at].into());
    }

    let (mut asked, mut calls) = (Vec::new(), 0);
    let number = |key: &str| key.rsplit(':').next().unwrap().parse::<usize>().unwrap();
    let found = cache.get_or_load_many(&keys, MINUTE, |keys: Vec<&String>| {
        calls += 1;
        asked.extend(keys.iter().map(|key| number(key)));
        async move {
            Ok::<_, IoError>(keys.into_iter().map(move |key| (key, TEXTS[number(key)].to_owned())))
        }
    });
    let found: Vec<_> = found.await.unwrap().into_iter().map(|one| one.unwrap().unwrap()).collect();
    tally.same("get_or_load_many", (calls, &asked), (1, &missing));
    for (at, found) in found.iter().enumerate() {
        tally.same("get_or_load_many", found.as_str(), TEXTS[at]);
        tally.same("get_or_load_many", peer.read(&keys[at]).await, TEXTS[at].into());
    }
    for at in missing {
        let left = pttl(peer, &keys[at]).await;
        tally.holds("get_or_load_many", (56_000..=60_000).contains(&left));
    }
}

pub(crate) async fn invalidated(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    let values = cache.namespace::<u64, u64>("gone").build().unwrap();
    let keys = [1, 2, 3];
    for round in 0..2 {
        for key in keys {
            peer.write(&format!("gone:{key}"), key.into(), Some(60)).await;
            // As a loader of another language holds it.
            let lease = vec![bytes(format!("larder:lease:{{gone:{key}}}")), "token".into()];
            let options = object([("nx", true.into()), ("px", 60_000.into())]);
            assert_eq!(peer.call_with("set", lease, options).await, true.into());
        }
        let name = if round == 0 { "namespace.invalidate" } else { "namespace.invalidate_many" };
        match round {
            0 => values.invalidate(&1).await.unwrap(),
            _ => values.invalidate_many(&keys).await.unwrap(),
        }
        for key in keys {
            let there = round == 0 && key != 1;
            let lease = format!("larder:lease:{{gone:{key}}}");
            tally.same(name, exists(peer, &format!("gone:{key}")).await, there);
            tally.same(name, exists(peer, &lease).await, there);
        }
        peer.call("flushdb", Vec::new()).await;
        tally.same(name, values.invalidate(&1).await.is_ok(), true);
    }
}

/// Reads until the value is near: it is vouched for from then on.
async fn settle(values: &Namespace<u64, Value>, key: u64) {
    until("the value comes near", async || {
        values.get(&key).await.unwrap();
        values.explain(&key) == Some(ReadFrom::Near)
    })
    .await;
}

pub(crate) async fn near(cache: &CacheClient, peer: &mut Peer, tally: &mut Tally) {
    const NAME: &str = "namespace.get";
    let values = cache.namespace::<u64, Value>("near").ttl(MINUTE).near(true).build().unwrap();
    let [old, new] = ["old", "new"].map(Value::from);
    let name = || Value::from("near:1");
    let json = |value: &Value| bytes(serde_json::to_string(value).unwrap());
    let pushed = || cache.stats().reads["near"].invalidations.pushed;
    // What Python does, and what a read then finds.
    let changes: [(&str, Vec<Value>, Option<&Value>); 8] = [
        ("set", vec![name(), json(&new)], Some(&new)),
        ("set", vec![name(), json(&old)], Some(&old)),
        ("delete", vec![name()], None),
        ("expire", vec![name(), 30.into()], Some(&old)),
        ("persist", vec![name()], Some(&old)),
        ("pexpire", vec![name(), 1.into()], None),
        ("rename", vec![name(), "elsewhere".into()], None),
        ("mset", vec![object([("near:1", json(&new))])], Some(&new)),
    ];
    for (method, args, wanted) in changes {
        peer.write("near:1", old.clone(), Some(60)).await;
        settle(&values, 1).await;
        let before = pushed();
        peer.call(method, args).await;
        until(method, async || pushed() > before).await;
        if method == "pexpire" {
            // Told of when it was set; when it comes, the entry's own time is up.
            until("it expires", async || values.get(&1).await.unwrap().is_none()).await;
        }
        tally.same(NAME, values.get(&1).await.unwrap().as_deref(), wanted);
        tally.same(NAME, values.explain(&1) == Some(ReadFrom::Near), false);
    }

    // By the rule for writers, and reading through: what was set is served, what was deleted is loaded.
    let origin = Origin::default();
    let load = || origin.gives(Value::from("loaded"));
    for (recipe, args, wanted) in [
        ("set_value", vec![name(), json(&new), 60.into()], new.clone()),
        ("delete", vec![name()], "loaded".into()),
    ] {
        peer.write("near:1", old.clone(), Some(60)).await;
        settle(&values, 1).await;
        let before = pushed();
        peer.recipe(recipe, args).await;
        until(recipe, async || pushed() > before).await;
        let found = values.get_or_load(&1, load).await.unwrap();
        tally.same("namespace.get_or_load", &*found, &wanted);
        tally.same("namespace.get_or_load", peer.read("near:1").await, wanted);
    }
    tally.same("namespace.get_or_load", origin.loads(), 1);
}

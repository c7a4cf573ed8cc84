//! The demo: what a service does with the client, step by step, with timings.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::try_join;
use larder::{CacheClient, Direction, Error, Key, LockOptions, Result, Ttl};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::output::Output;
use crate::report;

/// How long everything lives that the demo writes: if it is stopped half-way, nothing stays.
const LIFE: Duration = Duration::from_secs(60);

/// The lease of the lock in the demo: a third of it passes until its loss is seen.
const LEASE: Duration = Duration::from_millis(300);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    langs: Vec<String>,
}

/// Runs the demo. On a server, its keys stand under a prefix of their own and are deleted afterwards, whatever
/// happened.
pub(crate) async fn run(cache: &CacheClient, out: &mut Output) -> Result<(), Failure> {
    let shared = cache.capabilities().shared;
    let demo = Demo {
        cache,
        // Keys like everybody's in a store that nobody else sees.
        prefix: if shared { own_prefix() } else { String::new() },
    };
    if !out.is_json() {
        out.say(&if shared {
            format!("larder demo on the server of --url; every key starts with {}", demo.prefix)
        } else {
            "larder demo on the embedded store: no server, the same calls \
             (--url redis://127.0.0.1 runs it on yours)"
                .to_owned()
        })?;
        out.say("")?;
    }
    let started = Instant::now();
    let told = demo.tell(out).await;
    if shared {
        let cleaning = Instant::now();
        let deleted = demo.clean().await;
        told?;
        let deleted = deleted?;
        let said = format!("deleted the {deleted} keys that were left");
        report::step(out, "clean up", cleaning.elapsed(), &said)?;
    } else {
        told?;
    }
    report::stats(out, &cache.stats(), &demo.prefix, started.elapsed())
}

struct Demo<'a> {
    cache: &'a CacheClient,
    prefix: String,
}

impl Demo<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Every step, in order.
    async fn tell(&self, out: &mut Output) -> Result<(), Failure> {
        step(out, "values", self.values()).await?;
        step(out, "JSON", self.documents()).await?;
        step(out, "hash", self.hash()).await?;
        step(out, "list", self.list()).await?;
        step(out, "TTL", self.ttl()).await?;
        step(out, "batch delete", self.batch_delete()).await?;
        step(out, "pipeline", self.pipeline()).await?;
        step(out, "transaction", self.transaction()).await?;
        step(out, "lock", self.lock()).await?;
        step(out, "lock guard", self.guard()).await?;
        step(out, "namespace", self.namespace()).await
    }

    async fn values(&self) -> Result<String> {
        let key = self.key("greeting:en");
        self.cache.set_value(&key, "hello", LIFE).await?;
        let read = self.cache.get_value(&key).await?;
        Ok(format!("wrote a text for {} s, read back {}", LIFE.as_secs(), shown(read)))
    }

    async fn documents(&self) -> Result<String> {
        let key = self.key("user:7");
        let ada = User { name: "Ada".into(), langs: vec!["Analytical".into()] };
        self.cache.set_dict(&key, &ada, LIFE).await?;
        let read: Option<User> = self.cache.get_dict(&key).await?;
        let same = if read.as_ref() == Some(&ada) { "the same struct" } else { "something else" };
        let stored = self.cache.get_value(&key).await?;
        Ok(format!("read {same} back; any language sees {}", stored.unwrap_or_default()))
    }

    async fn hash(&self) -> Result<String> {
        let key = self.key("cart:7");
        self.cache.set_hash(&key, "apples", 3).await?;
        self.cache.set_hash(&key, "pears", 2).await?;
        self.cache.set_expiry(&key, LIFE).await?;
        let apples = self.cache.get_hash(&key, "apples").await?;
        let all = self.cache.get_hash_all(&key).await?.len();
        Ok(format!("apples: {}, {all} fields in all", shown(apples)))
    }

    async fn list(&self) -> Result<String> {
        let key = self.key("jobs:mail");
        for job in ["welcome", "invoice", "reminder"] {
            self.cache.push_to_list(&key, job, Direction::Right).await?;
        }
        self.cache.set_expiry(&key, LIFE).await?;
        let first = self.cache.left_pop_list(&key).await?;
        let left = self.cache.get_list(&key).await?;
        Ok(format!("pushed 3, popped {}, left are {}", shown(first), left.join(" and ")))
    }

    async fn ttl(&self) -> Result<String> {
        let key = self.key("code:7");
        let life = Duration::from_millis(50);
        self.cache.set_value(&key, 123_456, life).await?;
        let asked = self.cache.get_ttl(&key).await?;
        // Nothing announces that a key expires, so it is asked for.
        while self.cache.get_ttl(&key).await? != Ttl::Missing {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left = asked.remaining().unwrap_or_default();
        Ok(format!("of {life:?} there were {left:?} left, then it was gone"))
    }

    async fn batch_delete(&self) -> Result<String> {
        let keys: Vec<String> = (0..100).map(|page| self.key(&format!("page:{page}"))).collect();
        self.cache.set_many(keys.iter().map(|key| (key, "...")), LIFE).await?;
        let deleted = self.cache.batch_delete_keys(&keys).await?;
        Ok(format!("wrote 100 keys in one round trip, deleted {deleted} in another"))
    }

    async fn pipeline(&self) -> Result<String> {
        let (counter, greeting) = (self.key("visits:today"), self.key("greeting:en"));
        let pipeline = self.cache.pipeline();
        let group = pipeline.incr_by(&counter, 1).set_expiry(&counter, LIFE).get_value(&greeting);
        let replies = group.run().await?.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(format!("{} operations in one round trip", replies.len()))
    }

    async fn transaction(&self) -> Result<String> {
        let (from, to) = (self.key("stock:shelf"), self.key("stock:cart"));
        self.cache.set_value(&from, 10, LIFE).await?;
        let transfer = self.cache.transaction().incr_by(&from, -1).incr_by(&to, 1);
        let replies =
            transfer.set_expiry(&to, LIFE).run().await?.into_iter().collect::<Result<Vec<_>>>()?;
        let numbers: Result<Vec<i64>> =
            replies.into_iter().take(2).map(|reply| reply.into_int()).collect();
        Ok(format!("moved one, all or nothing: left and taken are {:?}", numbers?))
    }

    /// Two at once want one lock. Each reads a number, waits, and writes it back plus one: without the lock, one
    /// of the two would be lost.
    async fn lock(&self) -> Result<String> {
        let (ada, eve) = try_join(self.add_under_lock(), self.add_under_lock()).await?;
        let waited = ada.max(eve);
        let total = self.cache.get_value(self.key("total:7")).await?;
        Ok(format!(
            "two at once added one each, the second waited {waited:.1?}; total {}",
            shown(total)
        ))
    }

    async fn add_under_lock(&self) -> Result<Duration> {
        let (lock, total) = (self.key("lock:total"), self.key("total:7"));
        let options =
            LockOptions { retry_interval: Duration::from_millis(5), ..Default::default() };
        let started = Instant::now();
        let id = self.cache.acquire_lock(&lock, options).await?;
        let waited = started.elapsed();
        let before: i64 =
            self.cache.get_value(&total).await?.and_then(|n| n.parse().ok()).unwrap_or(0);
        // The work that the lock is for.
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.cache.set_value(&total, before + 1, LIFE).await?;
        self.cache.release_lock(&lock, &id).await?;
        Ok(waited)
    }

    /// A guard renews its lock, and tells when somebody takes it away.
    async fn guard(&self) -> Result<String> {
        let lock = self.cache.lock(self.key("report")).lease(LEASE).owner("larder demo");
        let guard = lock.acquire().await?;
        let token = guard.fencing_token().unwrap_or_default();
        // The work that the lock is for: a look at who holds it, after which somebody deletes it.
        let taken = guard.run(async {
            let held = self.cache.locks(self.key("report")).try_next().await?;
            self.cache.delete_key(guard.key()).await?;
            Ok::<_, Error>((held.and_then(|held| held.owner), Instant::now()))
        });
        let (owner, deleted) = taken.await??;
        let told = guard.run(std::future::pending::<()>()).await.is_err();
        let took = deleted.elapsed();
        guard.release().await?;
        let told = if told { "was stopped" } else { "went on" };
        Ok(format!(
            "{} held it under token {token}; deleted by somebody, and what ran under it {told} {took:.1?} later",
            shown(owner)
        ))
    }

    async fn namespace(&self) -> Result<String> {
        let users = self.cache.namespace::<u64, User>(self.key("member")).ttl(LIFE).build()?;
        for (id, name) in [(1, "Ada"), (2, "Grace"), (3, "Barbara")] {
            users.set(&id, &User { name: name.into(), langs: Vec::new() }).await?;
        }
        let found = users.get_many(&[1, 2, 3, 4]).await?.into_iter().flatten().count();
        let name = users.get(&2).await?.map(|user| user.name.clone());
        Ok(format!("typed keys: {found} of 4 members found, number 2 is {}", shown(name)))
    }

    /// Deletes what is left, and answers how many keys that were.
    async fn clean(&self) -> Result<u64> {
        let mut keys: Vec<Key> = self.cache.scan(&self.prefix).try_collect().await?;
        // A lock by its name stands under a key of its own, with a record beside it.
        let lock = Key::new(format!("lock:{}", self.key("report")))?;
        keys.extend([lock.lock_record(), lock]);
        self.cache.batch_delete_keys(keys).await
    }
}

/// Runs one step, and tells what it did and how long it took.
async fn step(
    out: &mut Output,
    title: &str,
    work: impl Future<Output = Result<String>>,
) -> Result<(), Failure> {
    let started = Instant::now();
    let said = work.await?;
    report::step(out, title, started.elapsed(), &said)
}

fn shown(value: Option<String>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"))
}

/// A prefix that no other key has: 64 bits from the system's random source.
fn own_prefix() -> String {
    format!("larder-demo-{:016x}-", RandomState::new().hash_one(std::process::id()))
}

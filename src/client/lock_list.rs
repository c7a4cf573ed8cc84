//! Who holds which lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::CacheClient;
use super::scan::Scan;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lock::PREFIX;
use crate::op::{Batch, Fetched, Op};
use crate::ttl::Ttl;

/// What errors call it.
const NAME: &str = "locks";

/// What a shared lock holds in place of an identifier.
const SHARED: &[u8] = b"shared";

/// A lock that somebody holds: what everybody may know of it. [`CacheClient::locks`] lists them. Identifiers, with which a
/// lock can be released, are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldLock {
    /// The key of the lock: `lock:` and its name.
    pub key: Key,
    /// Whether its holders share it: a shared lock or a semaphore.
    pub shared: bool,
    /// How many hold it. One who shared it and died counts until its lease is over, or a little longer: until another of
    /// them renews.
    pub holders: u32,
    /// The name that the holder gave itself, if it did.
    pub owner: Option<String>,
    /// When it was taken, by the clock of the store. Known of guards that hold it alone.
    pub since: Option<SystemTime>,
    /// For how long it is held if nobody renews it; none if it has no end, as another program may have taken it.
    pub remaining: Option<Duration>,
    /// The fencing token of its holder. Known of guards that hold it alone.
    pub token: Option<u64>,
}

impl CacheClient {
    /// Lists the locks that are held and whose names start with `prefix`, all of them if it is empty: guards, semaphores, plain
    /// locks and those of other languages, if their keys start with `lock:`. By `SCAN`, as [`scan`](Self::scan): two round
    /// trips for some hundreds of keys, and a lock that is held all the while is listed once or twice.
    ///
    /// It is a look at what stands in the store, and each lock may be another's by the time it is seen: never decide by it
    /// whether to go on. After an error the stream ends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// use futures_util::TryStreamExt;
    /// let cache = larder::CacheClient::memory();
    /// let guard = cache.lock("report").owner("node-1").acquire().await?;
    /// let held: Vec<larder::HeldLock> = cache.locks("").try_collect().await?;
    /// assert_eq!(held[0].key.as_bytes(), b"lock:report");
    /// assert_eq!(held[0].owner.as_deref(), Some("node-1"));
    /// assert_eq!(held[0].token, guard.fencing_token());
    /// # Ok(()) }
    /// ```
    pub fn locks(
        &self,
        prefix: impl AsRef<[u8]>,
    ) -> impl Stream<Item = Result<HeldLock>> + Send + Unpin + 'static {
        let prefix = Bytes::from([PREFIX.as_bytes(), prefix.as_ref()].concat());
        let state = Listing {
            client: self.clone(),
            scan: Some(Scan::new(self, NAME, prefix)),
            found: VecDeque::new(),
        };
        Box::pin(stream::unfold(state, |mut listing| async move {
            let item = listing.next().await?;
            Some((item, listing))
        }))
    }
}

struct Listing {
    client: CacheClient,
    // Nothing after an error.
    scan: Option<Scan>,
    found: VecDeque<HeldLock>,
}

impl Listing {
    async fn next(&mut self) -> Option<Result<HeldLock>> {
        loop {
            if let Some(held) = self.found.pop_front() {
                return Some(Ok(held));
            }
            let looked = match self.scan.as_mut()?.page().await? {
                Ok(keys) => self.look(keys).await,
                Err(error) => Err(error),
            };
            match looked {
                Ok(held) => self.found.extend(held),
                Err(error) => {
                    self.scan = None;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Those of the keys that are locks and held.
    async fn look(&self, keys: Vec<Key>) -> Result<Vec<HeldLock>> {
        // The records first: what they say of a lock is then never newer than its remaining time, see `sharing`.
        let records = keys.iter().map(|key| Op::HashGetAll { key: key.lock_record() });
        let ops = records.chain([Op::Fetch { keys: keys.clone() }]).collect();
        let batch = Batch::many(NAME, ops).labelled(Arc::from("lock"));
        let mut results = self.client.store().run(batch).await?.into_results();
        let name = |error: Error| error.with_op(NAME);
        let found = match results.pop() {
            Some(Err(error)) if error.is_wrong_type() => return Ok(Vec::new()),
            Some(found) => found?.into_fetched().map_err(name)?,
            None => return Err(name(Error::new(ErrorKind::Protocol, "the store gave no reply"))),
        };
        let mut held = Vec::new();
        for ((key, record), found) in keys.into_iter().zip(results).zip(found) {
            let record = match record {
                Ok(record) => record.into_pairs().map_err(name)?,
                // Somebody's else, by accident: the lock is none the worse for it.
                Err(error) if error.is_wrong_type() => Vec::new(),
                Err(error) => return Err(error),
            };
            held.extend(HeldLock::new(key, &record, found));
        }
        Ok(held)
    }
}

impl HeldLock {
    /// What the record and the value of a lock's key say, if it is held.
    fn new(key: Key, record: &[(Bytes, Bytes)], found: Fetched) -> Option<Self> {
        let holder = found.value?;
        let remaining = match found.ttl {
            Ttl::Remaining(time) => Some(time),
            Ttl::Missing | Ttl::Persistent => None,
        };
        let field = |name: &[u8]| record.iter().find(|(field, _)| field == name).map(|(_, of)| of);
        let shared = holder == SHARED;
        // A record is the last guard's: it says nothing of another holder.
        let own = !shared && field(b"id") == Some(&holder);
        let token = field(b"token").filter(|_| own).and_then(number);
        let owner = field(b"owner").filter(|_| own);
        Some(Self {
            key,
            shared,
            holders: if shared { sharing(record, remaining) } else { 1 },
            owner: owner.map(|owner| String::from_utf8_lossy(owner).into_owned()),
            since: token.and_then(|micros| {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
            }),
            remaining,
            token,
        })
    }
}

/// How many share a lock. A lock lives at least as long as the last of its holders, so what remains of it tells the
/// store's time without a clock of ours; never too late, so that nobody who holds it is left out.
fn sharing(record: &[(Bytes, Bytes)], remaining: Option<Duration>) -> u32 {
    let ends = || {
        let shares = record.iter().filter(|(field, _)| field.starts_with(b"r:"));
        shares.filter_map(|(_, over)| number(over))
    };
    let now = match (ends().max(), remaining) {
        (Some(last), Some(left)) => u128::from(last).saturating_sub(left.as_millis()),
        _ => 0,
    };
    // It stands, so somebody had it right before.
    u32::try_from(ends().filter(|over| u128::from(*over) > now).count().max(1)).unwrap_or(u32::MAX)
}

/// A number of a record. From 2^53 on it is as good as not there: so it is for the scripts.
fn number(text: &Bytes) -> Option<u64> {
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number < 1 << 53).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(fields: &[(&'static str, &'static str)]) -> Vec<(Bytes, Bytes)> {
        fields.iter().map(|(field, value)| (Bytes::from(*field), Bytes::from(*value))).collect()
    }

    fn held(
        holder: &'static str,
        millis: u64,
        record: &[(&'static str, &'static str)],
    ) -> HeldLock {
        let ttl = Ttl::Remaining(Duration::from_millis(millis));
        let found = Fetched { value: Some(Bytes::from(holder)), ttl };
        HeldLock::new(Key::new("lock:x").unwrap(), &pairs(record), found).expect("it is held")
    }

    #[test]
    fn a_record_speaks_only_of_the_holder_whose_it_is() {
        let record = [("token", "1764000000123456"), ("id", "aa"), ("owner", "node-1")];
        let own = held("aa", 9_000, &record);
        assert_eq!(
            (own.owner.as_deref(), own.token),
            (Some("node-1"), Some(1_764_000_000_123_456))
        );
        let since = own.since.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since, Duration::from_micros(1_764_000_000_123_456));
        assert_eq!((own.shared, own.holders), (false, 1));
        assert_eq!(own.remaining, Some(Duration::from_secs(9)));
        assert!(!format!("{own:?}").contains("\"aa\""));
        let other = held("bb", 9_000, &record);
        assert_eq!((other.owner, other.token, other.since), (None, None, None));
        let shared = held("shared", 9_000, &record);
        assert_eq!((shared.owner, shared.token, shared.since), (None, None, None));
    }

    #[test]
    fn who_shared_it_and_died_is_not_counted_and_who_holds_it_always_is() {
        // The store's time is 50,000: of the lock 10 s remain, which the last one took until 60,000.
        let record = [("r:a", "60000"), ("r:b", "50001"), ("r:c", "50000"), ("r:d", "1")];
        let both =
            held("shared", 10_000, &[&record[..], &[("q:e", "1 99999"), ("token", "5")]].concat());
        assert_eq!((both.shared, both.holders), (true, 2));
        // The lock stands longer than the last one who is left: `c` counts a little longer.
        assert_eq!(held("shared", 10_000, &record[1..]).holders, 2);
        assert_eq!(held("shared", 10_000, &[]).holders, 1);
        // What is no time hides nobody.
        let garbage = [("r:x", "99999999999999999999"), ("r:y", "9007199254740992"), ("r:z", "x")];
        let both = held("shared", 10_000, &[&record[..], &garbage].concat());
        assert_eq!(both.holders, 2);
        let endless = Fetched { value: Some(Bytes::from("shared")), ttl: Ttl::Persistent };
        let endless = HeldLock::new(Key::new("lock:x").unwrap(), &pairs(&record), endless).unwrap();
        assert_eq!((endless.holders, endless.remaining), (4, None));
    }

    #[tokio::test]
    async fn on_the_embedded_store_all_that_are_held_are_listed_and_nothing_else() {
        use futures_util::TryStreamExt;
        let cache = CacheClient::memory();
        let seats = cache.semaphore("seats", 3);
        let (one, two) = (seats.acquire().await.unwrap(), seats.acquire().await.unwrap());
        let alone = cache.lock("alone").owner("node-1").acquire().await.unwrap();
        // More than a step of the scan gives.
        for number in 0..1200 {
            let lock = cache.acquire_lock(format!("lock:many:{number}"), Default::default());
            lock.await.unwrap();
        }
        cache.set_hash("lock:hash", "no", "lock").await.unwrap();
        cache.set_value("other", "no lock", None).await.unwrap();
        let list = async |prefix: &str| -> Vec<HeldLock> {
            cache.locks(prefix).try_collect().await.unwrap()
        };
        assert_eq!(list("many:").await.len(), 1200);
        assert_eq!(list("").await.len(), 1202);
        assert_eq!((list("sea").await[0].holders, list("sea").await[0].shared), (2, true));
        assert!(one.release().await.unwrap());
        assert_eq!(list("seats").await[0].holders, 1);
        assert_eq!(list("alone").await[0].token, alone.fencing_token());
        assert!(list("alone").await[0].remaining.unwrap() <= Duration::from_secs(10));
        assert!(two.release().await.unwrap() && alone.release().await.unwrap());
        assert!(list("seats").await.is_empty() && list("alone").await.is_empty());
        cache.close().await;
        let error = cache.locks("").try_next().await.unwrap_err();
        assert_eq!((error.kind(), error.op()), (ErrorKind::Closed, "locks"));
    }
}

//! Listing keys.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::CacheClient;
use crate::error::Result;
use crate::key::Key;
use crate::op::{Batch, Op};

/// How many keys the server looks at in one step: many enough to be quick, few enough not to hold up
/// others.
const STEP: u32 = 500;

impl CacheClient {
    /// Lists the keys that start with `prefix`, as they come: by `SCAN`, some hundreds a round trip,
    /// never `KEYS`. An empty prefix lists all. Keys that exist during the whole scan are listed at
    /// least once, some perhaps twice.
    ///
    /// Any prefix is taken literally: `*` and `[` mean themselves. The empty key, which Redis knows and larder
    /// does not, is left out. After an error the stream ends.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
    /// use futures_util::TryStreamExt;
    /// let cache = larder::CacheClient::memory();
    /// cache.set_value("user:1", "Ada", None).await?;
    /// let keys: Vec<larder::Key> = cache.scan("user:").try_collect().await?;
    /// assert_eq!(keys[0].as_bytes(), b"user:1");
    /// # Ok(()) }
    /// ```
    pub fn scan(
        &self,
        prefix: impl AsRef<[u8]>,
    ) -> impl Stream<Item = Result<Key>> + Send + Unpin + 'static {
        let state = Scan::new(self, "scan", Bytes::copy_from_slice(prefix.as_ref()));
        Box::pin(stream::unfold(state, |mut scan| async move {
            let item = scan.next().await?;
            Some((item, scan))
        }))
    }
}

/// A scan under way.
pub(super) struct Scan {
    client: CacheClient,
    // What errors call it.
    name: &'static str,
    prefix: Bytes,
    // Where the scan goes on; nothing at its end.
    cursor: Option<u64>,
    found: VecDeque<Key>,
}

impl Scan {
    pub(super) fn new(client: &CacheClient, name: &'static str, prefix: Bytes) -> Self {
        Self { client: client.clone(), name, prefix, cursor: Some(0), found: VecDeque::new() }
    }

    async fn next(&mut self) -> Option<Result<Key>> {
        loop {
            if let Some(key) = self.found.pop_front() {
                return Some(Ok(key));
            }
            match self.page().await? {
                Ok(keys) => self.found.extend(keys),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The keys of the next step that found some. Nothing at the end, and after an error.
    pub(super) async fn page(&mut self) -> Option<Result<Vec<Key>>> {
        loop {
            let cursor = self.cursor?;
            let op = Op::Scan { cursor, prefix: self.prefix.clone(), count: STEP };
            let step = self.client.run_one(Batch::one(self.name, op)).await;
            match step.and_then(|reply| reply.into_keys()) {
                Ok((next, keys)) => {
                    self.cursor = (next != 0).then_some(next);
                    // The empty key is none.
                    let keys: Vec<_> = keys.into_iter().flat_map(Key::from_bytes).collect();
                    if !keys.is_empty() {
                        return Some(Ok(keys));
                    }
                }
                Err(error) => {
                    self.cursor = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

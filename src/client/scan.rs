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
        let state = Scan {
            client: self.clone(),
            prefix: Bytes::copy_from_slice(prefix.as_ref()),
            cursor: Some(0),
            found: VecDeque::new(),
        };
        Box::pin(stream::unfold(state, |mut scan| async move {
            let item = scan.next().await?;
            Some((item, scan))
        }))
    }
}

struct Scan {
    client: CacheClient,
    prefix: Bytes,
    // Where the scan goes on; nothing at its end.
    cursor: Option<u64>,
    found: VecDeque<Bytes>,
}

impl Scan {
    async fn next(&mut self) -> Option<Result<Key>> {
        loop {
            if let Some(key) = self.found.pop_front() {
                return Some(Key::from_bytes(key));
            }
            let cursor = self.cursor?;
            let op = Op::Scan { cursor, prefix: self.prefix.clone(), count: STEP };
            let step = self.client.run_one(Batch::one("scan", op)).await;
            match step.and_then(|reply| reply.into_keys()) {
                Ok((next, keys)) => {
                    self.cursor = (next != 0).then_some(next);
                    self.found.extend(keys.into_iter().filter(|key| !key.is_empty()));
                }
                Err(error) => {
                    self.cursor = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

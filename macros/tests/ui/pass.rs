#![deny(warnings)]
#![warn(missing_docs)]
//! Everything at once: options in any order, a generic method with lifetimes, and nothing to warn of.

use std::sync::Arc;

use larder::{CacheClient, cached};

/// A repository.
pub struct Repo<S> {
    /// Its cache.
    pub cache: CacheClient,
    /// Where its rows are.
    pub source: S,
}

impl<S: Clone + Into<String> + Send + Sync> Repo<S> {
    /// Reads a row.
    #[cached(
        near,
        lease = "3s",
        ttl = "1h30m",
        grace = "250ms",
        key = "{table}:{id}",
        jitter = 0.1,
        early_refresh = 2,
        negative_ttl = "5s",
        soft_timeout = "100ms",
        hard_timeout = "1m",
        near_ttl = "1m",
        near_max_bytes = 1_048_576,
        broadcast = true,
        undecodable_as_miss,
        max_json_bytes = 1_000_000,
        cache = self.cache,
        skip(hint),
        invalidate = forget_row,
        namespace = "row",
    )]
    pub async fn row<'a, H>(
        &'a self,
        table: &'a str,
        id: u64,
        mut hint: H,
    ) -> larder::Result<Option<Arc<String>>>
    where
        H: FnMut() -> u64 + Clone + Send + Sync,
    {
        let text: String = self.source.clone().into();
        if hint() == id {
            return Ok(None);
        }
        Ok(Some(Arc::new(format!("{text}{table}"))))
    }
}

/// Doubles.
#[cached(namespace = "double", key = "{number}", ttl = "1m")]
pub async fn double(number: u64) -> u64 {
    number * 2
}

/// Reads what has no arguments.
#[cached(namespace = "config", key = "all", ttl = "1m", invalidate)]
pub async fn config() -> Result<String, larder::Error> {
    Ok(String::new())
}

fn main() {}

//! A cache client for Redis and Valkey, with the same API over an embedded store.
//!
//! ```
//! use std::time::Duration;
//! use larder::CacheClient;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> larder::Result<()> {
//! let cache = CacheClient::connect("memory://").await?; // or redis://127.0.0.1:6379
//! let scores = cache.namespace::<str, Vec<u32>>("scores").ttl(Duration::from_secs(60)).build()?;
//! scores.set("ada", &vec![7, 9]).await?; // scores:ada = [7,9]
//! assert_eq!(scores.get("ada").await?.as_deref(), Some(&vec![7, 9]));
//! # Ok(()) }
//! ```
//!
//! Where to look first:
//!
//! - [`CacheClient`]: values, JSON, hashes, lists, counters, TTLs, locks, pipelines and transactions.
//! - [`Namespace`]: a typed family of keys, the base of a data-access object; with a loader and a near cache.
//! - [`LoadOptions`]: how values are read and loaded: freshness, grace, timeouts.
//! - [`CacheClient::lock`] and [`LockGuard`]: locks that renew themselves and tell when they are lost.
//! - [`Error`]: what failed, on which key, what to do, and whether it may have been applied.
//! - [`CacheConfig`] and [`init`]: settings from everywhere, and a client for the whole process.
//! - [`Stats`]: hit rates and latencies. [`json`]: the spellings that other languages share.
//! - [`store`]: what executes operations, and the contract for a store of your own.
//! - [`redis1`]: sessions of your own, and commands that larder does not offer.
//!
//! Features: `tls` for `rediss://`; `macros` for [`#[cached]`](macro@cached) on async functions; `deadpool` and `bb8` for sessions out of these pools; `rust_decimal`, `chrono` and `jiff` for
//! their types in the wire format; `testing` for real servers, a fault proxy and the conformance suite.
//! None is on by default.

#[cfg(feature = "macros")]
mod cached;
mod client;
mod codec;
mod config;
mod error;
mod flight;
mod global;
mod key;
mod key_part;
mod lease;
mod lock;
mod namespace;
mod near;
pub mod op;
mod stats;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod ttl;

pub use client::{
    Builder, CacheClient, DEADLINE, Given, Group, HeldLock, IntoLoaded, LoadOptions, Loaded,
    Loader, ReadFrom,
};
pub use codec::{IntoValue, json};
pub use config::CacheConfig;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use global::{CLOSE_DEADLINE, cache, close, init, init_with, reset};
pub use key::{Key, MAX_BYTES};
pub use key_part::{KeyParts, KeyWriter};
#[cfg(feature = "macros")]
pub use larder_macros::cached;
pub use lock::{LockBuilder, LockGuard, LockId, LockOptions, LockWatcher, Loss, QuorumLock};
pub use namespace::{Namespace, NamespaceBuilder};
pub use op::{Direction, Presence};
pub use secrecy::{ExposeSecret, SecretString};
pub use stats::{
    BreakerStats, Invalidations, Latency, LockStats, NO_PREFIX, NamespaceStats, OTHER,
    OperationStats, ReadStats, Stats,
};
#[cfg(feature = "tls")]
pub use store::tls::Tls;
pub use store::{Credentials, CredentialsProvider, ReadPreference};
pub use ttl::{Expiry, Ttl};

/// The Redis driver's side: sessions of your own for larder, and larder's sessions for what it does not
/// offer. Types of the driver stand in the public API only here, under the driver's major version.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{CacheClient, redis1};
///
/// // Any function that hands out a connection of the driver ...
/// let driver = redis1::Client::open("redis://127.0.0.1")?;
/// let cache = CacheClient::new(move || {
///     let driver = driver.clone();
///     async move { driver.get_multiplexed_async_connection().await }
/// });
/// // ... and commands that larder does not offer.
/// let mut session = cache.session().await?;
/// let size: u64 = redis1::cmd("DBSIZE").query_async(&mut session).await?;
/// # Ok(()) }
/// ```
pub mod redis1 {
    pub use redis::aio::ConnectionLike;
    pub use redis::{Client, Cmd, Pipeline, RedisError, Value, cmd, pipe};

    #[cfg(feature = "bb8")]
    pub use crate::store::redis::Bb8Session;
    pub use crate::store::redis::{Session, SessionProvider, Shared};
}

/// What the code that `#[cached]` writes is made of. It is no part of the API, and changes without notice.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __cached {
    pub use crate::cached::*;
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
mod guide {}

#[cfg(doctest)]
#[doc = include_str!("../docs/locks.md")]
mod locks {}

#[cfg(doctest)]
#[doc = include_str!("../docs/near-cache.md")]
mod near_cache {}

#[cfg(doctest)]
#[doc = include_str!("../docs/stampede.md")]
mod stampede {}

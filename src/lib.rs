//! A cache client for Redis and Valkey, with the same API over an embedded store.

mod config;
mod error;
mod key;
pub mod op;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod ttl;

pub use config::CacheConfig;
pub use error::{Error, ErrorKind, Outcome, Result};
pub use key::{Key, MAX_BYTES};
pub use op::{Direction, Presence};
pub use ttl::{Expiry, Ttl};

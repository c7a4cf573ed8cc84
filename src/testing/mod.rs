//! What tests of a cache need: real servers, broken networks, failing stores (feature `testing`).
//!
//! - [`RedisServer`] starts a real `redis-server` on a free port, in a directory of its own, and
//!   stops it when it is dropped. It can be paused, killed and restarted.
//! - [`RawConnection`] speaks to a server without larder in between, so that a test can look from
//!   the other side.
//!
//! Everything here panics where it cannot go on: a test without its server has to fail.

mod resp;
mod server;

pub use resp::{RawConnection, Resp};
pub use server::{RedisServer, RedisServerBuilder};

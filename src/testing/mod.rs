//! What tests of a cache need: real servers, broken networks, failing stores (feature `testing`).
//!
//! - [`conformance`] holds any store to the contract of [`Store`](crate::store::Store).
//! - [`RedisServer`] starts a real `redis-server` on a free port, in a directory of its own, and
//!   stops it when it is dropped. It can be paused, killed and restarted. [`RedisCluster`] is six of them: three
//!   primaries, each with a replica; [`RedisSentinels`] is a primary, a replica and three sentinels.
//! - [`FaultProxy`] stands between a client and a server and delays, cuts, swallows, slices or
//!   corrupts what passes; it counts, and writes down the commands that it saw.
//! - [`ScriptedServer`] gives the answers that no real server gives on demand.
//! - [`Faulty`] wraps a store and fails batches on purpose: for tests of a service, without a
//!   server.
//! - [`RawConnection`] speaks to a server without larder in between, so that a test can look from
//!   the other side.
//!
//! Everything here panics where it cannot go on: a test without its server has to fail.

mod acl;
mod cluster;
pub mod conformance;
mod faulty;
mod frames;
mod proxy;
#[doc(hidden)]
pub mod readers;
mod resp;
mod scripted;
mod sentinels;
mod server;

pub use acl::{LEAST_PRIVILEGE, LEAST_PRIVILEGE_AT_SENTINELS};
pub use cluster::{RedisCluster, SlotMover};
pub use faulty::{Fault, Faulty};
pub use proxy::{Cut, FaultProxy, Link, SentCommand};
pub use resp::{RawConnection, Resp};
pub use scripted::{Scripted, ScriptedServer};
pub use sentinels::RedisSentinels;
pub use server::{RedisServer, RedisServerBuilder};

//! One loader per key, tried against real servers and several processes: P18 to P20, P31 and P32. Every test
//! prints the figure of its promise. `LARDER_FULL=1` runs the full counts.

mod accidents;
#[path = "../common/mod.rs"]
mod common;
mod cycles;
mod freshness;
mod many;
mod own_writes;
mod stampede;
mod voided;
mod workers;

use std::io::Error as IoError;
use std::time::Duration;

use common::place::stores;
use common::{alone, ends, times, until};
use larder::{CacheClient, Namespace};

/// What a loader of these tests gives.
type Loaded<T> = Result<T, IoError>;

fn numbers(cache: &CacheClient) -> Namespace<u64, u64> {
    cache.namespace("n").ttl(Duration::from_secs(60)).build().unwrap()
}

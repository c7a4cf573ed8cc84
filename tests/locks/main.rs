//! Locks, tried against real servers and several processes: P21 to P26. Every test prints the figure of its promise.
//! `LARDER_FULL=1` runs the full counts.

mod bad_inputs;
#[path = "../common/mod.rs"]
mod common;
mod exclusion;
mod failover;
mod fencing;
mod guards;
mod leader;
mod loss;
mod quorum;
mod releases;
mod renewals;
mod sharing;
mod tokens;
mod wakeups;
mod workers;

use common::place::stores;
use common::{
    HANGS, Lateness, alone, cpu_time, durable, ends, gone, ms, quantile, times, until, until_seen,
};

/// The record of a named lock: its token, its last holder's label.
fn record(name: &str) -> String {
    format!("larder:lock:{{lock:{name}}}")
}

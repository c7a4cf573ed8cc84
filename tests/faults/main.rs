//! The promises about replies, writes, deadlines and recovery, tried against real servers behind a
//! network that breaks. Every test prints the figure of its promise, and asserts that the faults
//! happened. `LARDER_FULL=1` runs the full counts.

mod bad_inputs;
mod bad_servers;
mod breaker;
mod closing;
#[path = "../common/mod.rs"]
mod common;
mod deadlines;
mod deferred;
mod large;
mod locks;
mod overload;
mod paused;
mod pushes;
mod recovery;
mod refusals;
mod replies;
mod silence;

use common::place::Place;
use common::{Lateness, alone, cpu_time, durable, full, ms, quantile, until};

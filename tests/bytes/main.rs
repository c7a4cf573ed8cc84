//! P29: no bytes from outside make a reader panic, hang, or allocate more than they are worth. The targets are those of
//! `fuzz/`, for a few seconds each; `./check fuzz` feeds them for longer. `LARDER_FULL=1` does so for a minute each.

#[path = "../common/mod.rs"]
mod common;
mod compressed;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod crate_of_fuzz;
mod limits;
mod replies;
mod topologies;

use std::time::Duration;

use common::full;
use crate_of_fuzz::drive::{Heap, drive};
use crate_of_fuzz::targets::TARGETS;
use peak_alloc::PeakAlloc;
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The heap is the whole program's: one test at a time has it.
static TURN: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

fn begin() -> usize {
    ALLOCATOR.reset_peak_usage();
    ALLOCATOR.current_usage()
}

fn peak() -> usize {
    ALLOCATOR.peak_usage()
}

#[test]
fn no_bytes_make_a_reader_panic_hang_or_allocate_without_measure() {
    let _turn = TURN.blocking_lock();
    let time = if full() { Duration::from_secs(60) } else { Duration::from_secs(2) };
    let seed = fastrand::u64(..);
    for target in &TARGETS {
        let figures = drive(target, time, seed, &Heap { begin, peak });
        println!("P29 {}: {figures}", target.name);
        assert!(figures.execs > 200, "{}: {} inputs", target.name, figures.execs);
    }
}

//! Feeds every target for so many seconds: `cargo run --bin drive -- [SECONDS [TARGET [SEED]]]`.

use std::time::Duration;

use larder_fuzz::drive::{Heap, drive};
use larder_fuzz::targets::TARGETS;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const HEAP: Heap = Heap {
    begin: || {
        ALLOCATOR.reset_peak_usage();
        ALLOCATOR.current_usage()
    },
    peak: || ALLOCATOR.peak_usage(),
};

fn main() {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().map_or(Ok(30), |text| text.parse()).expect("a number of seconds");
    let wanted = words.next();
    let seed = words.next().map_or(Ok(fastrand::u64(..)), |text| text.parse()).expect("a number");
    let chosen: Vec<_> = TARGETS
        .iter()
        .filter(|target| wanted.as_deref().is_none_or(|name| name == target.name))
        .collect();
    assert!(!chosen.is_empty(), "there is no such target");
    for target in chosen {
        let figures = drive(target, Duration::from_secs(seconds), seed, &HEAP);
        println!("P29 {}: {figures}", target.name);
    }
}

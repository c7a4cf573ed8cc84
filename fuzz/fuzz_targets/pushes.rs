//! `cargo +nightly fuzz run pushes --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| larder_fuzz::targets::pushes(data));

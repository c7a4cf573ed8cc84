//! `cargo +nightly fuzz run topology --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| larder_fuzz::targets::topology(data));

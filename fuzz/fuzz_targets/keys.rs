//! `cargo +nightly fuzz run keys --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| larder_fuzz::targets::keys(data));

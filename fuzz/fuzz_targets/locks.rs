//! `cargo +nightly fuzz run locks --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| larder_fuzz::targets::locks(data));

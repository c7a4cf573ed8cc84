//! `cargo +nightly fuzz run replies --features libfuzzer`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| larder_fuzz::targets::replies(data));

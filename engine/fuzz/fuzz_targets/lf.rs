//! Lines that end with LF, against the oracle.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::fuzz::lf(data));

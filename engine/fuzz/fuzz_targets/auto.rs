//! Lines or counted frames, as the first bytes say, against the oracle.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::fuzz::auto(data));

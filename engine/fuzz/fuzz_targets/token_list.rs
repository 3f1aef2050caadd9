//! Token lists.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::fuzz::token_list(data));
